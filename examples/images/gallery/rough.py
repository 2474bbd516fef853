"""Three listeners with defects: each is harmless except with one kind of photograph."""

from __future__ import annotations

import ctypes
import time

import relevo
from gallery.events import ImageCreated

ENDLESS, CRASHING, HUGE = "endless", "crashing", "huge"
"""The prefixes of the names of those photographs."""


@relevo.listener(ImageCreated, priority=-10, queue="media", retry=1, time_limit="2s")
def search_for_faces(event: ImageCreated) -> None:
    if event.filename.startswith(ENDLESS):
        time.sleep(3600)


@relevo.listener(ImageCreated, priority=-10, queue="media", retry=1)
def read_colour_profile(event: ImageCreated) -> None:
    if event.filename.startswith(CRASHING):
        ctypes.string_at(0)  # as a library with a defect does


@relevo.listener(ImageCreated, priority=-10, queue="media", retry=1)
def enlarge(event: ImageCreated) -> None:
    held = []
    while event.filename.startswith(HUGE):
        held.append(b"x" * (8 << 20))
        time.sleep(0.005)
