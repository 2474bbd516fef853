"""The deferral of suspects to the end of a run until empty."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from relevo._clock import Clock
from relevo._transport.delivery import Delivery
from relevo._transport.transport import Transport

ASIDE, _LONGEST_ASIDE = 1.0, 30.0
"""
Seconds for which a run until empty sets suspects aside while other events are ready, each time and in all.

In all it is at most half of the time limit, so that a queue that is never empty does not keep a suspect for ever.
"""

_LANDS_WITHIN, _COARSEST = 0.5, 5.0
"""Seconds after its delay in which an event is ready; and the coarsest delays with which suspects are set aside."""

_ONLY_SUSPECTS, _IN_TURNS = 2.0, 6.0
"""
Seconds without another event after which suspects are begun.

A server whose figures are approximate, such as RabbitMQ, may serve only suspects for a turn of five seconds.
"""

_MOMENT = 0.001
"""Seconds in which a clock moves."""


class Deferral:
    """
    Decides for each batch whether its suspects are begun now or set aside.

    Args:
        transport: Where they are set aside, with a delay.

        clock: The source of time.

        is_more_ready: Returns whether further events are ready.

        limit: The most seconds for which suspects are set aside in all, such as half of a time limit; zero if they
            are taken as they come.
    """

    def __init__(self, transport: Transport, clock: Clock, is_more_ready: Callable[[], bool], *, limit: float):
        self._clock, self._is_more_ready = clock, is_more_ready
        delay = transport.capabilities.delay
        self._grain = delay or 0.0
        self._patience = _ONLY_SUSPECTS if transport.capabilities.stats == "exact" else _IN_TURNS
        can_wait = delay is not None and delay <= _COARSEST
        now = clock.monotonic()
        self._until = now + (min(_LONGEST_ASIDE, limit) if can_wait else 0.0)
        """When suspects are begun although other events are ready, in monotonic seconds."""
        self._is_unused = True
        self._back_at = self._met_other = now
        """When those that were set aside are ready again, and when the last other event was received."""

    def start(self) -> None:
        """Begin a run."""
        self._met_other = self._clock.monotonic()

    def end(self) -> None:
        """From now on suspects are begun as they come: nothing else is ready."""
        self._until = min(self._until, self._clock.monotonic())

    def note_others(self) -> None:
        """Note that only other events were received, or nothing."""
        self._met_other = self._clock.monotonic()

    def has_ended(self) -> bool:
        """Return whether suspects are begun as they come."""
        return self._clock.monotonic() >= self._until

    def is_over(self, batch: Sequence[Delivery]) -> bool:
        """Return whether to begin a suspect of *batch*, which has some, rather than to set them aside."""
        now = self._clock.monotonic()
        if not all(each.lost_leases for each in batch):
            self._met_other = now
        elif now - self._met_other >= self._patience or not self._is_more_ready():
            return True
        if self._is_unused:
            self._clock.sleep(_MOMENT)
            return self._clock.monotonic() == now  # a clock that a test moves by hand: the delay would never end
        return False

    def note(self) -> None:
        """Note that suspects are set aside now, for :data:`ASIDE` seconds."""
        self._is_unused = False
        self._back_at = self._clock.monotonic() + ASIDE + self._grain + _LANDS_WITHIN

    def left(self) -> float:
        """Return for how many more seconds those that were set aside may not be ready; negative if they are."""
        return self._back_at - self._clock.monotonic()
