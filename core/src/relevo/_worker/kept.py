"""Outcomes that could not be settled, kept for when their event is delivered to the same worker again."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from relevo._transport.delivery import Ack, DeadLetter, Delivery, Lost, Nack, Outcome, Release
from relevo._transport.envelope import Envelope

MOST = 1000
MOST_BYTES = 4 * 1024 * 1024
FOR = 3600.0
"""Seconds for which an outcome is kept."""


class _Key(msgspec.Struct, frozen=True):
    queue: str
    source: str
    id: str
    enqueued_at: float


class _Kept(msgspec.Struct, frozen=True):
    turn: int
    """The number of earlier retries: a loss raises both attempt and lost leases, a settlement only the attempt."""

    state: bytes
    """The state on receipt; a different state means that another worker got further, or that it was revived."""

    outcome: Outcome
    until: float


class KeptOutcomes:
    """
    Keeps the outcomes of events whose settlement came too late, so that they are not handled a second time.

    Only a delivery with lost leases looks one up. An outcome of an earlier turn is dropped: the event has been
    settled since.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, delivery: Delivery, outcome: Outcome, now: float) -> None:
        """Keep *outcome*; *now* is monotonic seconds. ``Release`` and ``Lost`` are ignored: nothing was handled."""
        key = _key(delivery)
        if key is None or isinstance(outcome, (Release, Lost)):
            return
        self._drop(key)
        self._kept[key] = _Kept(delivery.attempt - delivery.lost_leases, delivery.state, outcome, now + FOR)
        self._size += _size(outcome)
        while len(self._kept) > MOST or self._size > MOST_BYTES:
            self._drop(next(iter(self._kept)))

    def take(self, delivery: Delivery, now: float, *, is_untouched: bool) -> Outcome | None:
        """
        Return the kept outcome of *delivery*, and forget it.

        Args:
            delivery: As it was received again.

            now: Monotonic seconds.

            is_untouched: No other worker can have begun it since. Otherwise another worker may have got further, and
                only an outcome that finishes the event is returned.
        """
        key = _key(delivery)
        if key is None or not delivery.lost_leases:
            return None
        found = self._drop(key)
        if found is None or found.turn != delivery.attempt - delivery.lost_leases or found.until <= now:
            return None
        is_untouched = is_untouched and found.state == delivery.state
        return found.outcome if is_untouched or isinstance(found.outcome, Ack) else None

    def _drop(self, key: _Key) -> _Kept | None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._size -= _size(found.outcome)
        return found


def _key(delivery: Delivery) -> _Key | None:
    envelope = delivery.envelope
    if not isinstance(envelope, Envelope):
        return None
    return _Key(delivery.queue, envelope.source, envelope.id, delivery.enqueued_at)


def _size(outcome: Outcome) -> int:
    match outcome:
        case Nack():
            return len(outcome.state or b"")
        case DeadLetter():
            failures = sum(len(each.error) + len(each.traceback) + len(each.output) for each in outcome.failures)
            return len(outcome.state or b"") + len(outcome.error) + failures
        case _:
            return 0
