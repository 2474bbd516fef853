"""Three listeners as nobody wants them, among the good ones: each is harmless but for one kind of photograph."""

from __future__ import annotations

import ctypes
import time

import relevo
from gallery.events import ImageCreated

ENDLESS, CRASHING, HUGE = "endless", "crashing", "huge"
"""What the names of those photographs begin with."""


@relevo.listener(ImageCreated, priority=-10, queue="media", retry=1, time_limit="2s")
def search_for_faces(event: ImageCreated) -> None:
    if event.filename.startswith(ENDLESS):
        time.sleep(3600)


@relevo.listener(ImageCreated, priority=-10, queue="media", retry=1)
def read_colour_profile(event: ImageCreated) -> None:
    if event.filename.startswith(CRASHING):
        ctypes.string_at(0)  # as a library does that has a defect


@relevo.listener(ImageCreated, priority=-10, queue="media", retry=1)
def enlarge(event: ImageCreated) -> None:
    held = []
    while event.filename.startswith(HUGE):
        held.append(b"x" * (8 << 20))
        time.sleep(0.005)
