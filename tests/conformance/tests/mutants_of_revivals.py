"""Bugs of events that come back: revived with a delay or before the clock is set back, retried, or of another store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar
from weakref import WeakKeyDictionary

import attrs

from relevo import MAX_ERROR, Delivery, Nack, Outcome, State
from relevo_conformance import promise
from relevo_memory import MemoryTransport
from relevo_memory._queue import EventQueue, KeptEvent, Receipt

from .mutants_of_dead_letters import buried_as
from .planting import AlteredStore, leave_the_line, living, numbers, planted


@planted(promise.REVIVED_IS_RECEIVED, by_chance=False)
class RevivesLaterWithLostLeases(AlteredStore):
    """A dead letter that is revived with a delay keeps the lost leases from before its death."""

    def revive_later(self, refs: Mapping[str, bytes], now: float, *, due: float) -> list[str]:
        dead = [event for ref in refs if (event := self._dead.find(ref)) is not None]
        before = {event.number: event.counters.lost_leases for event in dead if due > now}
        missing = super().revive_later(refs, now, due=due)
        for _, event in living(self):
            if event.number in before:
                event.counters = attrs.evolve(event.counters, lost_leases=before[event.number])
        return missing


@planted(promise.PAYLOAD_IS_UNTOUCHED, by_chance=False)
class RevivesLaterAsSentNow(AlteredStore):
    """A dead letter that is revived with a delay has the time of its revival as the time of its send."""

    def revive_later(self, refs: Mapping[str, bytes], now: float, *, due: float) -> list[str]:
        known = numbers(self)
        missing = super().revive_later(refs, now, due=due)
        for _, event in living(self, without=known):
            event.enqueued_at = now if due > now else event.enqueued_at
        return missing


@planted(promise.ORDER_IS_KEPT, by_chance=False)
class LetsTheUrgentPassARetry(AlteredStore):
    """An urgent event does not wait for an earlier one of its key that is to be retried later."""

    def __init__(self) -> None:
        super().__init__()
        self.retried: set[int] = set()

    def ended(self, event: KeptEvent, outcome: Outcome, now: float) -> None:
        if event.status is State.SCHEDULED:
            self.retried.add(event.number)

    def added(self, event: KeptEvent, queue: EventQueue) -> None:
        if event.line is not None and getattr(event.envelope, "urgency", "") == "high":
            waiting = queue._lines[event.line].values()
            if any(one.status is State.SCHEDULED and one.number in self.retried for one in waiting):
                leave_the_line(queue, event)


@planted(promise.SENT_IS_RECEIVED, by_chance=False)
class WaitsForTheTimeOfItsRevival(AlteredStore):
    """A revived event is not delivered before the time of its revival, to which the clock may have to come again."""

    def __init__(self) -> None:
        super().__init__()
        self.since: dict[int, float] = {}

    def revive(self, refs: Mapping[str, bytes], now: float) -> list[str]:
        known = numbers(self)
        missing = super().revive(refs, now)
        self.since |= {event.number: now for _, event in living(self, without=known)}
        return missing

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        early = {queue.name for queue, event in living(self) if self.since.get(event.number, now) > now}
        return super().claim([one for one in queues if one not in early], limit=limit, lease=lease, now=now)


@planted(promise.ACK_IS_FINAL, by_chance=False)
class KnowsReceiptsByTheirTurn(AlteredStore):
    """A receipt is the name of its queue and a count of its deliveries, which those of another store share."""

    turns: ClassVar[WeakKeyDictionary[Receipt, tuple[str, int]]] = WeakKeyDictionary()

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def taken(self, event: KeptEvent, queue: EventQueue) -> None:
        self.counts[queue.name] += 1
        assert event.receipt is not None
        self.turns[event.receipt] = queue.name, self.counts[queue.name]

    def _held(self, delivery: Delivery, now: float) -> KeptEvent | None:
        held = super()._held(delivery, now)
        receipt = delivery.receipt
        if held is not None or not isinstance(receipt, Receipt) or receipt not in self.turns:
            return held
        turn = self.turns[receipt]
        alike = (one for _, one in living(self) if one.receipt is not None and self.turns.get(one.receipt) == turn)
        return next(alike, None)


def _cut(error: str) -> str:
    return error if error.isascii() else error[: MAX_ERROR // 4]


@planted(
    promise.DEAD_IS_KEPT_WITH_REASON,
    by_chance=False,
    patches=buried_as(lambda event, outcome: (event, attrs.evolve(outcome, error=_cut(outcome.error)))),
)
class CutsErrorsByCharacters(MemoryTransport):
    """An error that is not ASCII is truncated by characters, as if each of them took four bytes."""


def _knows_other_that_is_not_held(queue: EventQueue, event: KeptEvent) -> bool:
    return any(
        one.identity == event.identity and one.content != event.content
        for one in queue.events.values()
        if one.status is not State.LEASED
    )


@planted(
    promise.REVIVED_IS_RECEIVED,
    by_chance=False,
    patches={(EventQueue, "knows_other"): _knows_other_that_is_not_held},
)
class RevivesBesideOtherContentThatIsHeld(MemoryTransport):
    """A dead letter whose event lives with other content is deleted by a revival, if that event is held."""


@planted(promise.NACK_RETURNS_LATER, by_chance=False)
class RoundsTheDelayOfANack(AlteredStore):
    """The delay of a nack is rounded to milliseconds, and not up."""

    def ending(self, event: KeptEvent, outcome: Outcome) -> Outcome:
        return attrs.evolve(outcome, delay=round(outcome.delay, 3)) if isinstance(outcome, Nack) else outcome


@planted(promise.STATE_IS_BOUNDED, by_chance=False)
class RevivesLaterWithAnyState(MemoryTransport):
    """What is revived with a delay may have a state that is too long."""

    def revive_later(self, refs: Mapping[str, bytes], *, delay: float) -> Sequence[str]:
        return self._revive_later(refs, delay)
