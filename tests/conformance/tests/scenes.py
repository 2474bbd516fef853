"""
Doctored histories, each with its honest twin.

Each scene is played twice: as a transport that keeps the promise would have it, and with the one
difference that breaks it.
"""

from . import (
    scenes_of_dead_letters,
    scenes_of_locks,
    scenes_of_operating,
    scenes_of_queries,
    scenes_of_receiving,
    scenes_of_sending,
    scenes_of_settling,
)
from .scene import SCENES, Scene

__all__ = [
    "SCENES",
    "Scene",
    "scenes_of_dead_letters",
    "scenes_of_locks",
    "scenes_of_operating",
    "scenes_of_queries",
    "scenes_of_receiving",
    "scenes_of_sending",
    "scenes_of_settling",
]
