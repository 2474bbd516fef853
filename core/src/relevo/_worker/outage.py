"""Outages of a server: the waits of a worker, and its log lines about them."""

from __future__ import annotations

from collections.abc import Callable
from logging import getLogger

from relevo._clock import Clock, readable
from relevo._worker.ledger import Reminder
from relevo.errors import TransportUnavailableError

_log = getLogger("relevo.worker")

_FIRST, _LONGEST = 0.1, 3.0
"""Seconds of the first wait, and of the longest."""


class Outage:
    """
    The outages of one worker: each wait is longer than the one before, until an event is handled.

    Args:
        transport: The name of the transport whose return is logged.

        clock: The source of time.

        chance: Returns random numbers from 0 to 1, for the jitter of waits.
    """

    def __init__(self, transport: str, clock: Clock, chance: Callable[[], float]):
        self._transport, self._clock, self._chance = transport, clock, chance
        self._reminder = Reminder(clock)
        self._waits = self._handled = 0
        """How often it waited, and how many events were handled before that."""
        self._since: float | None = None
        """When an outage began that was logged, in monotonic seconds."""
        self.elsewhere: dict[str, float] = {}
        """When the outages of other transports began that were logged, by their names."""

    def wait(self, error: TransportUnavailableError, handled: int) -> float:
        """Log *error* now and then, and return the seconds to wait; *handled* events were handled so far."""
        if self._reminder.take_turn():
            _log.warning("%s; waiting until it is back", error)
            now = self._clock.monotonic()
            if error.transport != self._transport:
                self.elsewhere.setdefault(error.transport, now)
            elif self._since is None:
                self._since = now
        if handled > self._handled:
            self._handled, self._waits = handled, 0
        longest = min(_LONGEST, _FIRST * 2.0 ** min(self._waits, 10))
        self._waits += 1
        return longest * (0.5 + self._chance() / 2)

    def note_empty(self) -> None:
        """Begin with short waits again: the server answered that nothing is ready."""
        self._waits = 0

    def end(self) -> None:
        """Log that the server is back, if an outage was logged."""
        if self._since is not None:
            since, self._since = self._since, None
            self._log_return(self._transport, since)

    def end_elsewhere(self) -> None:
        """Log that the other transports are back of which an outage was logged."""
        while self.elsewhere:
            self._log_return(*self.elsewhere.popitem())

    def _log_return(self, transport: str, since: float) -> None:
        _log.warning('the transport "%s" is back after %s', transport, readable(self._clock.monotonic() - since))
