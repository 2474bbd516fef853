"""What a scene is, and where all of them are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from relevo_conformance.promise import Promise

from .script import Script


class Scene(Protocol):
    def __call__(self, *, honest: bool) -> Script: ...


SCENES: list[tuple[Promise, Scene]] = []


def scene(broken: Promise) -> Callable[[Scene], Scene]:
    def add(play: Scene) -> Scene:
        SCENES.append((broken, play))
        return play

    return add
