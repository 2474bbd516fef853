"""What is asked of everybody who is measured."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import attrs

EVENT = "image.created"


def arguments(sent: int = 0) -> dict[str, object]:
    """Return what each event says, *sent* being the nanosecond of the monotonic clock in which that began."""
    return {"image_id": 7, "filename": "coffee.jpg", "size": [600, 400], "tags": ["food", "table"], "sent": sent}


@attrs.frozen(kw_only=True)
class Place:
    """Where one measurement takes place; it reaches the processes of workers through the environment."""

    folder: Path
    name: str
    """With which everything on RabbitMQ begins."""

    url: str
    """Of RabbitMQ."""

    def environ(self) -> dict[str, str]:
        """Return the variables that :meth:`here` reads."""
        return {"BENCH_FOLDER": str(self.folder), "BENCH_NAME": self.name, "BENCH_AMQP": self.url}

    @classmethod
    def here(cls, environ: Mapping[str, str] = os.environ) -> Place:
        """Return where this process takes part."""
        folder, name, url = (environ[key] for key in ("BENCH_FOLDER", "BENCH_NAME", "BENCH_AMQP"))
        return cls(folder=Path(folder), name=name, url=url)


class Peer(ABC):
    """
    One way to send events, and to have one process handle them by :func:`peers.meter.note`.

    Sending is durable when it returns (committed, or confirmed by the server), and an event is taken out only after
    it was handled; a peer that cannot do that says so.

    Args:
        place: Where it takes place.
    """

    def __init__(self, place: Place):
        self.place = place

    @abstractmethod
    def fill(self, number: int) -> None:
        """Send so many events, one after the other or as many at once as its interface allows."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Return what starts one worker, as its documentation starts it, with what is best for tiny events."""

    def environ(self) -> Mapping[str, str]:
        """Return the variables that the command needs besides."""
        return {}

    @abstractmethod
    def left(self) -> int:
        """Return how many events are not done, once no worker is there any more."""

    @abstractmethod
    def clear(self) -> None:
        """Take all of it away."""


class Immediate(Peer):
    """One that hands out an event the moment it comes."""

    @abstractmethod
    def sending(self) -> AbstractContextManager[Callable[[], None]]:
        """Give what sends one event, and returns when it is safe."""

    def resident(self) -> Sequence[str]:
        """Return what starts a worker that is always there; a TERM ends it."""
        return self.command()
