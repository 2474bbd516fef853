"""Bugs that show when two features, two calls or two stores meet in a way that no scenario had tried before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import attrs

from relevo import Action, Delivery, Envelope, Note, State
from relevo_conformance import promise
from relevo_memory import MemoryTransport, _queue
from relevo_memory._queue import Content, EventQueue, KeptEvent, Line, Receipt

from .memory import BreakableStore
from .planting import planted, planted_pair

SERIALS: WeakKeyDictionary[Receipt, tuple[str, int, int]] = WeakKeyDictionary()
"""By receipt: the queue, the number of the event, and the number of the hand-over."""


@planted_pair(promise.STALE_SETTLE_IS_REFUSED)
class CountsItsReceipts(BreakableStore):
    """A receipt is the queue, the event and a number: in another store the same may be valid."""

    serial = 0

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        claimed = super().claim(queues, limit=limit, lease=lease, now=now)
        for delivery in claimed:
            self.serial += 1
            assert isinstance(delivery.receipt, Receipt)
            SERIALS[delivery.receipt] = (delivery.receipt.queue, delivery.receipt.number, self.serial)
        return claimed

    def _held(self, delivery: Delivery, now: float) -> KeptEvent | None:
        receipt = delivery.receipt
        if not isinstance(receipt, Receipt) or receipt.queue not in self._queues:
            return None
        event = self._at(receipt.queue, now).events.get(receipt.number)
        is_held = event is not None and event.receipt is not None and SERIALS[event.receipt] == SERIALS[receipt]
        return event if is_held else None


@planted_pair(promise.BEGUN_IS_KEPT)
class ExcusesWhatItReadBefore(BreakableStore):
    """An excuse reads the last note in one step and replaces it in another."""

    def excuse(self, delivery: Delivery, note: Note, now: float) -> None:
        receipt = delivery.receipt
        assert isinstance(receipt, Receipt)
        with self.changed:
            event = self._at(receipt.queue, now).events.get(receipt.number)
        if event is not None and event.begun == note:
            with self.changed:
                event.begun = attrs.evolve(note, excused=True)


def _forget(self: EventQueue, event: KeptEvent) -> None:
    FORGET(self, event)
    waiting: Mapping[int, KeptEvent] = {} if event.line is None else self._lines.get(event.line, {})
    following = next(iter(waiting.values()), None)
    if following is not None and following.status is State.READY:
        self._ready.put(following.number, (1, following.place))


FORGET = EventQueue._forget


@planted_pair(promise.URGENT_OVERTAKES, patches={(EventQueue, "_forget"): _forget})
class RanksAFreedKeyAsNormal(BreakableStore):
    """An urgent event that waited for its ordering key is a normal one once the key is free."""


KEEP = frozenset({*_queue._KEEP_THEIR_PLACE, Action.COME_DUE})


@planted(promise.NOBODY_STARVES, by_chance=False, patches={(_queue, "_KEEP_THEIR_PLACE"): KEEP})
class KeepsThePlaceOverADelay(BreakableStore):
    """An event that is nacked with a delay returns to its old place when the delay ends."""


def _content(self: KeptEvent) -> Content | None:
    event = self.envelope
    if not isinstance(event, Envelope):
        return None
    headers: Mapping[str, str] = event.headers
    return self.identity, event.name, event.body, frozenset(headers.items()), event.urgency, event.ordering_key


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON, patches={(KeptEvent, "content"): property(_content)})
class TellsNoDeadLettersApartByTheirExpiry(BreakableStore):
    """Of two dead letters that differ in the time at which they expire, the second replaces the first."""


@planted_pair(promise.DELAY_IS_RESPECTED)
class RoundsWhenAnEventIsDue(MemoryTransport):
    """The time at which an event is due is rounded to the nearest millisecond, and so may be earlier."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        now = self._clock.now()
        super().send(envelopes, delay=max(0.0, round(now + delay, 3) - now) if delay > 0 else 0.0)


@planted(promise.PAYLOAD_IS_UNTOUCHED, by_chance=False)
class KeepsTheHeadersOfTheSender(MemoryTransport):
    """Headers that cannot be changed are not copied, although the sender may change what is behind them."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.sent: dict[str, Mapping[str, str]] = {}

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send(envelopes, delay=delay)
        self.sent |= {one.id: one.headers for one in envelopes}

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        came = super().receive(queues, limit=limit, lease=lease, wait=wait)
        return [self.spoilt(one) for one in came]

    def spoilt(self, delivery: Delivery) -> Delivery:
        """Return the delivery with the headers that the sender has now."""
        event = delivery.envelope
        if not isinstance(event, Envelope) or event.id not in self.sent or {*event.headers} != {*self.sent[event.id]}:
            return delivery
        return attrs.evolve(delivery, envelope=attrs.evolve(event, headers={**self.sent[event.id]}))


@planted(promise.ANNOUNCED_IS_SEEN, by_chance=False)
class ReturnsItsOwnAnnouncements(BreakableStore):
    """What was returned of the workers changes with each further announcement."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[str, bytes] = {}

    def workers(self, now: float) -> dict[str, bytes]:
        self.shown.clear()
        self.shown.update(super().workers(now))
        return self.shown


def _stuck(self: EventQueue, now: float, longer: float) -> Iterator[tuple[Line, KeptEvent, list[KeptEvent]]]:
    for line, events in self._lines.items():
        first, *others = events.values()
        due = [event for event in others if event.status is State.READY]
        is_held = first.status is State.LEASED and (first.counters.attempt > 1 or now - first.leased_at >= longer)
        if due and (is_held or first.status is State.SCHEDULED):
            yield line, first, due


@planted_pair(promise.QUERIED_AS_IT_IS, patches={(EventQueue, "stuck"): _stuck})
class CallsARetryStuck(BreakableStore):
    """A key is stuck if its first event is leased for another attempt, not only after a lost lease."""
