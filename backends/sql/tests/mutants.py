"""
SQL transports with one bug each, planted in their statements and their transactions, on SQLite.

Each names the promise that it breaks. The results of the suite are in docs/reference/mutants.md.
"""

from . import (
    mutants_of_coordinators,
    mutants_of_handling,
    mutants_of_inbox,
    mutants_of_pairs,
    mutants_of_single_features,
    mutants_of_unique_events,
)
from .planting import MUTANTS

__all__ = [
    "MUTANTS",
    "mutants_of_coordinators",
    "mutants_of_handling",
    "mutants_of_inbox",
    "mutants_of_pairs",
    "mutants_of_single_features",
    "mutants_of_unique_events",
]
