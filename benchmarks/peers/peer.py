"""The interface of everything that is measured."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import attrs

EVENT = "image.created"


def arguments(sent: int = 0) -> dict[str, object]:
    """Return the arguments of each event; *sent* is the nanosecond of the monotonic clock when its sending began."""
    return {"image_id": 7, "filename": "coffee.jpg", "size": [600, 400], "tags": ["food", "table"], "sent": sent}


@attrs.frozen(kw_only=True)
class Place:
    """The resources of one measurement; the processes of workers get them through the environment."""

    folder: Path
    name: str
    """The prefix of all names on RabbitMQ."""

    url: str
    """The address of RabbitMQ, or of a new database on a server."""

    def environ(self) -> dict[str, str]:
        """Return the variables that :meth:`here` reads."""
        return {"BENCH_FOLDER": str(self.folder), "BENCH_NAME": self.name, "BENCH_URL": self.url}

    @classmethod
    def here(cls, environ: Mapping[str, str] = os.environ) -> Place:
        """Return the place of this process."""
        folder, name, url = (environ[key] for key in ("BENCH_FOLDER", "BENCH_NAME", "BENCH_URL"))
        return cls(folder=Path(folder), name=name, url=url)


class Peer(ABC):
    """
    One way to send events, and to have one process handle them by :func:`peers.meter.note`.

    An event is durable when the send returns (committed, or confirmed by the server), and is deleted only after it was
    handled; the docstring of a peer says if it cannot do that.

    Args:
        place: The resources of the measurement.
    """

    def __init__(self, place: Place):
        self.place = place

    @abstractmethod
    def fill(self, number: int) -> None:
        """Send that number of events, one by one or as many at once as the interface allows."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Return the command for one worker, as in the documentation, with the best settings for tiny events."""

    def environ(self) -> Mapping[str, str]:
        """Return additional environment variables for the command."""
        return {}

    @abstractmethod
    def left(self) -> int:
        """Return how many events were left undone when all workers had stopped."""

    @abstractmethod
    def clear(self) -> None:
        """Delete everything that the peer created."""


class Sender(Peer):
    """A peer whose sending is measured too."""

    @abstractmethod
    def sending(self) -> AbstractContextManager[Callable[[], None]]:
        """Yield a function that sends one event and returns when the event is durable."""


class Immediate(Sender):
    """A peer that hands out an event as soon as it arrives."""

    def resident(self) -> Sequence[str]:
        """Return the command for a permanent worker; a TERM ends it."""
        return self.command()


def void(_: object) -> None:
    """Return nothing."""
