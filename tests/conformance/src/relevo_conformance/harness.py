"""What the author of a transport writes, so that the suite can drive it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol

from relevo import Capabilities, Clock, Transport
from relevo.testing import FakeClock

LONGEST_SLEEP = 30.0
"""Seconds that the suite asks a real clock to pass at most."""

Breakage = Literal["before", "after"]
"""Where a send breaks: *before* anything was written, or *after*, when only the answer is lost."""

BREAKAGES: tuple[Breakage, ...] = ("before", "after")


class HookMissing(Exception):  # noqa: N818 - it says why a test is skipped, nothing failed
    """Raised by an optional hook that a harness does not have; what needs it is skipped."""


class Savepoint(Protocol):
    """A part of a transaction that can be taken back alone."""

    def commit(self) -> object:
        """Make it part of the transaction around it."""

    def rollback(self) -> object:
        """Take it back."""


class Transaction(Protocol):
    """Somebody else's transaction, which a transport joins."""

    @property
    def session(self) -> Any:
        """What ``bound_to`` takes."""

    def commit(self) -> object:
        """Make all that was done in it real."""

    def rollback(self) -> object:
        """Undo all that was done in it."""

    def savepoint(self) -> Savepoint:
        """Begin a part that can be taken back alone."""


class Harness(ABC):
    """
    Opens, breaks and cleans up one kind of transport for the suite.

    One harness stands for one store: what one transport that it opened sends, another receives.
    The suite makes one for each test class, uses queue names that never repeat, and closes it.
    A harness whose server is missing calls ``pytest.skip`` in its ``__init__``.
    """

    transport: ClassVar[type[Transport]]
    """What is tested; its capabilities decide what is tested."""

    new_clock: ClassVar[Callable[[], Clock]] = FakeClock
    """Where the time comes from; ``SystemClock`` where the store has a clock that nobody can move."""

    slack: ClassVar[float] = 0.002
    """Seconds by which the store's clock may differ from :attr:`clock`, rounding included."""

    patience: ClassVar[float | None] = None
    """
    Seconds of real time within which what is ready must be handed out, and within which the loss of
    a holder is noticed. If unsaid 0 on a clock moved by hand (one look must do), else 10.
    """

    clock: Clock

    def __init__(self) -> None:
        self.clock = type(self).new_clock()

    # --- what every harness has ---------------------------------------------------------------------

    @abstractmethod
    def open(self) -> Transport:
        """Return another instance on the same store, with :attr:`clock`."""

    @abstractmethod
    def kill(self, transport: Transport) -> None:
        """
        Make *transport* vanish as a killed process does: nothing is settled, nothing is closed.

        Connections end without a farewell. A timed lease simply runs on; the suite moves the clock.
        """

    @abstractmethod
    def put_raw(self, queue: str, raw: bytes, headers: Mapping[str, str]) -> None:
        """Put *raw*, which is not an envelope, into *queue* as a stranger would."""

    # --- what most can leave ------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass."""
        if isinstance(self.clock, FakeClock):
            self.clock.advance(seconds)
        elif seconds <= LONGEST_SLEEP:
            self.clock.sleep(seconds)
        else:
            message = f"the suite asked a real clock for {seconds} s; {LONGEST_SLEEP} s are the most"
            raise ValueError(message)

    def drop(self, queue: str) -> None:  # noqa: B027 - a queue that costs nothing may stay
        """Remove *queue* and all that is in it; never called while a test still needs it."""

    def close(self) -> None:  # noqa: B027 - a harness may have nothing to give back
        """Give back what the harness holds."""

    # --- by capability ------------------------------------------------------------------------------

    def session(self) -> AbstractContextManager[Transaction]:
        """
        Begin a transaction on the store, which is rolled back at the end unless committed.

        Needed where ``transactional`` is claimed.
        """
        raise HookMissing("session")

    def broken_send(self, transport: Transport, breakage: Breakage) -> AbstractContextManager[None]:
        """
        Break the store beneath *transport*, so that its next send fails, and mend it at the end.

        Args:
            transport: One that this harness opened.

            breakage: *before*: nothing is written. *after*: all is written and the answer is lost.
        """
        raise HookMissing("broken_send")

    # --- what follows -------------------------------------------------------------------------------

    @cached_property
    def capabilities(self) -> Capabilities:
        """What :attr:`transport` claims; what an instance claims where the class cannot know."""
        claimed = getattr(type(self).transport, "capabilities", None)
        if isinstance(claimed, Capabilities):
            return claimed
        with self.open() as transport:
            return transport.capabilities

    @property
    def fake(self) -> bool:
        """Whether time passes only when the suite says so."""
        return isinstance(self.clock, FakeClock)
