"""Bugs of dead letters: the fields that are kept, revivals of several, the same event sent again, and pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from relevo import DeadLetter, DeadLetterEntry, Delivery, Envelope, Outcome, Settlement, State, Unreadable
from relevo_conformance import promise
from relevo_memory import MemoryTransport
from relevo_memory._dead_letter import DeadLetters
from relevo_memory._queue import EventQueue, KeptEvent

from .memory import BreakableStore
from .planting import Altered, AlteredStore, Lenient, Patches, living, planted_pair

_keep = DeadLetters.keep


def buried_as(change: Callable[[KeptEvent, DeadLetter], tuple[KeptEvent, DeadLetter]]) -> Patches:
    """Return patches that apply *change* to each dead letter before it is stored."""

    def keep(self: DeadLetters, event: KeptEvent, outcome: DeadLetter, now: float) -> None:
        _keep(self, *change(event, outcome), now)

    return {(DeadLetters, "keep"): keep}


class ChangingTheRevived(AlteredStore):
    """Changes the envelope of a revived event."""

    def change(self, event: Envelope) -> Envelope:
        """Return the envelope that is revived instead of *event*."""
        return event

    def revived(self, event: KeptEvent, queue: EventQueue) -> None:
        if isinstance(event.envelope, Envelope):
            event.envelope = self.change(event.envelope)


@planted_pair(promise.REVIVED_IS_RECEIVED)
class RevivesWithoutHeaders(ChangingTheRevived):
    """A revived event has no headers."""

    def change(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, headers={})


@planted_pair(promise.REVIVED_IS_RECEIVED)
class RevivesWithoutAnExpiry(ChangingTheRevived):
    """A revived event never expires."""

    def change(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, expires=None)


@planted_pair(promise.REVIVED_IS_RECEIVED)
class RevivesWithoutAKey(ChangingTheRevived):
    """A revived event has no ordering key."""

    def change(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, ordering_key=None)


@planted_pair(promise.REVIVED_IS_RECEIVED)
class RevivesBodiesUpTo64Kilobytes(ChangingTheRevived):
    """The body of a revived event is truncated at 65,535 bytes."""

    def change(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, body=event.body[:65535])


@planted_pair(promise.REVIVED_IS_RECEIVED)
class SaysThatARevivedEventWasSentNow(AlteredStore):
    """The send time of a revived event is the time of its revival."""

    def revive(self, refs: Mapping[str, bytes], now: float) -> list[str]:
        known = {id(event) for _, event in living(self)}
        missing = super().revive(refs, now)
        for _, event in living(self):
            if id(event) not in known:
                event.enqueued_at = now
        return missing


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class ListsTheDeadWithoutAnExpiry(Altered):
    """A dead letter is listed without the expiry of its event."""

    def listed(self, entry: DeadLetterEntry) -> DeadLetterEntry:
        return with_envelope(entry, lambda event: attrs.evolve(event, expires=None))


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class ListsTheDeadAsNormalOnes(Altered):
    """A dead letter is listed without the urgency of its event."""

    def listed(self, entry: DeadLetterEntry) -> DeadLetterEntry:
        return with_envelope(entry, lambda event: attrs.evolve(event, urgency="normal"))


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class ListsTheDeadWithAHundredKilobytes(Altered):
    """A dead letter is listed with the first 100,000 bytes of its body."""

    def listed(self, entry: DeadLetterEntry) -> DeadLetterEntry:
        return with_envelope(entry, lambda event: attrs.evolve(event, body=event.body[:100_000]))


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class ListsTheDeadFromTheirDeathOn(Altered):
    """A dead letter is listed with its time of death as its send time."""

    def listed(self, entry: DeadLetterEntry) -> DeadLetterEntry:
        return attrs.evolve(entry, enqueued_at=entry.died_at)


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class ListsTheDeadFromTheirSendingOn(Altered):
    """A dead letter is listed with its send time as its time of death."""

    def listed(self, entry: DeadLetterEntry) -> DeadLetterEntry:
        return attrs.evolve(entry, died_at=entry.enqueued_at)


@planted_pair(
    promise.DEAD_IS_KEPT_WITH_REASON,
    patches=buried_as(lambda event, outcome: (event, attrs.evolve(outcome, error=outcome.error[:10_000]))),
)
class CutsErrorsAt10000Characters(MemoryTransport):
    """An error is truncated at 10,000 characters."""


@planted_pair(
    promise.DEAD_IS_KEPT_WITH_REASON,
    patches=buried_as(lambda event, outcome: (event, attrs.evolve(outcome, error=outcome.error.strip()))),
)
class StripsErrors(MemoryTransport):
    """Spaces and line breaks around an error are stripped."""


@planted_pair(
    promise.DEAD_IS_KEPT_WITH_REASON,
    patches=buried_as(lambda event, outcome: (event, attrs.evolve(outcome, reason=outcome.reason[:32]))),
)
class CutsReasonsAt32Characters(MemoryTransport):
    """A reason is truncated at 32 characters."""


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class GivesABatchTheReasonOfItsFirst(MemoryTransport):
    """All dead letters of a batch get the reason and the error of the first one."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        dead = [outcome for _, outcome in settlements if isinstance(outcome, DeadLetter)]
        return super().settle(
            [
                (one, attrs.evolve(dead[0], state=outcome.state) if isinstance(outcome, DeadLetter) else outcome)
                for one, outcome in settlements
            ]
        )


@planted_pair(promise.REVIVED_IS_RECEIVED)
class RevivesAllWithTheFirstState(MemoryTransport):
    """All events that are revived in one call get the state of the first one."""

    def revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        return super().revive(dict.fromkeys(refs, next(iter(refs.values()), b"")))


@planted_pair(promise.REVIVED_IS_RECEIVED)
class RevivesWithTheOldStateInsteadOfNone(AlteredStore):
    """An event that is revived with an empty state keeps its old state."""

    def revive(self, refs: Mapping[str, bytes], now: float) -> list[str]:
        old = {one.entry.ref: one.entry.state for many in self._dead._queues.values() for one in many.values()}
        return super().revive({ref: state or old.get(ref, b"") for ref, state in refs.items()}, now)


@planted_pair(promise.REVIVED_IS_RECEIVED)
class CutsTheStateOfTheRevivedAt255Bytes(MemoryTransport):
    """The state of a revived event is truncated at 255 bytes."""

    def revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        super()._check_states(refs.values())
        return super().revive({ref: state[:255] for ref, state in refs.items()})


@planted_pair(promise.REVIVED_IS_RECEIVED)
class StopsRevivingAtAMissingOne(MemoryTransport):
    """A revival of several refs stops at the first one that is missing."""

    def revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        self._check_states(refs.values())
        for ref, state in refs.items():
            if missing := super().revive({ref: state}):
                return missing
        return []


@planted_pair(promise.REVIVED_IS_RECEIVED)
class RevivesNothingBesideAMissingOne(BreakableStore):
    """If one of several refs is missing, no dead letter is revived."""

    def revive(self, refs: Mapping[str, bytes], now: float) -> list[str]:
        known = {one.entry.ref for many in self._dead._queues.values() for one in many.values()}
        missing = [ref for ref in refs if ref not in known]
        return missing or super().revive(refs, now)


@planted_pair(promise.DISCARDED_IS_GONE)
class StopsDiscardingAtAMissingOne(MemoryTransport):
    """A discard of several refs stops at the first one that is missing."""

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        for ref in refs:
            if missing := super().discard([ref]):
                return missing
        return []


@planted_pair(promise.DISCARDED_IS_GONE)
class DiscardsOneOfEachQueue(MemoryTransport):
    """Of several dead letters in one queue, only the first is discarded."""

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        firsts = {ref.partition("@")[2]: ref for ref in reversed(list(refs))}
        return super().discard(list(firsts.values()))


@planted_pair(promise.REVIVED_IS_RECEIVED)
class RevivesNothingThatExpired(BreakableStore):
    """An expired event is dropped when it is revived."""

    def revive(self, refs: Mapping[str, bytes], now: float) -> list[str]:
        expired = {
            one.entry.ref
            for many in self._dead._queues.values()
            for one in many.values()
            if isinstance(one.entry.envelope, Envelope)
            and one.entry.envelope.expires is not None
            and one.entry.envelope.expires < now
        }
        self.discard([ref for ref in refs if ref in expired])
        return super().revive({ref: state for ref, state in refs.items() if ref not in expired}, now)


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class CancelsTheDead(BreakableStore):
    """A cancel also discards the event's dead letter."""

    def cancel(self, event_id: str, now: float) -> int:
        number = super().cancel(event_id, now)
        refs = [
            one.entry.ref
            for many in self._dead._queues.values()
            for one in many.values()
            if isinstance(one.entry.envelope, Envelope) and one.entry.envelope.id == event_id
        ]
        for ref in refs:
            self._dead.take(ref)
        return number


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class DiscardsTheDeadWhenTheEventIsDone(AlteredStore):
    """If an event with a dead letter is sent again and acked, its dead letter is discarded."""

    def _end(self, event: KeptEvent, outcome: Outcome, now: float) -> None:
        super()._end(event, outcome, now)
        number = self._dead._by_content.get((event.queue, event.content)) if event.content else None
        if event.status is State.DONE and number is not None:
            self._dead.take(f"{number}@{event.queue}")


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class DiscardsTheDeadWhenTheEventIsSentAgain(AlteredStore):
    """When an event is sent again, its dead letter is discarded."""

    def added(self, event: KeptEvent, queue: EventQueue) -> None:
        number = self._dead._by_content.get((queue.name, event.content)) if event.content else None
        if number is not None:
            self._dead.take(f"{number}@{queue.name}")


def _replaced_by(alter: Callable[[Any], Any]) -> Patches:
    def keep(self: DeadLetters, event: KeptEvent, outcome: DeadLetter, now: float) -> None:
        for queue, letters in self._queues.items():
            for ref, other in list(letters.items()):
                if queue == event.queue and alter(other.event) == alter(event) is not None:
                    self.take(f"{ref}@{queue}")
        _keep(self, event, outcome, now)

    return {(DeadLetters, "keep"): keep}


@planted_pair(
    promise.DEAD_IS_KEPT_WITH_REASON, patches=_replaced_by(lambda event: event.identity and event.identity[2])
)
class ReplacesTheDeadOfAnotherSource(MemoryTransport):
    """A dead letter replaces one with the same id from another source."""


@planted_pair(
    promise.DEAD_IS_KEPT_WITH_REASON, patches=_replaced_by(lambda event: "foreign" if event.identity is None else None)
)
class KeepsOneDeadLetterOfForeignBytes(MemoryTransport):
    """A dead letter of foreign bytes replaces all earlier ones."""


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON, patches=_replaced_by(lambda event: event.identity))
class ReplacesTheDeadOfOtherContent(MemoryTransport):
    """A dead letter replaces one with the same id and source, although its body is another one."""


@planted_pair(
    promise.DEAD_IS_KEPT_WITH_REASON,
    patches={(EventQueue, "knows_other"): lambda _self, _event: False},
)
class RevivesOverOtherContent(MemoryTransport):
    """A dead letter is deleted if an event with its id and source lives, although its body is another one."""


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON, patches=_replaced_by(lambda event: event.line))
class KeepsOneDeadLetterOfAKey(MemoryTransport):
    """A dead letter replaces an earlier one with the same ordering key."""


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class ReplacesTheDeadOfAnotherQueue(BreakableStore):
    """A dead letter replaces one of the same event in another queue."""

    def _end(self, event: KeptEvent, outcome: Outcome, now: float) -> None:
        if isinstance(outcome, DeadLetter) and event.identity is not None:
            for queue, letters in self._dead._queues.items():
                for ref, other in list(letters.items()):
                    if queue != event.queue and other.event.identity and other.event.identity[1:] == event.identity[1:]:
                        self._dead.take(f"{ref}@{queue}")
        super()._end(event, outcome, now)


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class KeepsAHundredDeadLetters(BreakableStore):
    """Only the last hundred dead letters of a queue are kept."""

    def _end(self, event: KeptEvent, outcome: Outcome, now: float) -> None:
        super()._end(event, outcome, now)
        letters = self._dead._queues.get(event.queue, {})
        for number in list(letters)[:-100]:
            self._dead.take(f"{number}@{event.queue}")


@planted_pair(promise.REVIVED_IS_RECEIVED)
class RevivesBesideAHeldOne(BreakableStore):
    """If the same event is held, a revival creates a duplicate."""

    def revive(self, refs: Mapping[str, bytes], now: float) -> list[str]:
        for queue, event in living(self):
            queue._identities = Lenient(queue._identities)
            if event.status is State.LEASED and event.identity is not None:
                queue._identities.discard(event.identity)
        missing = super().revive(refs, now)
        for queue, event in living(self):
            if event.identity is not None:
                queue._identities.add(event.identity)
        return missing


@planted_pair(promise.REVIVED_IS_RECEIVED)
class RevivesIntoTheLivingOne(BreakableStore):
    """If the same event is unfinished, a revival replaces its state."""

    def revive(self, refs: Mapping[str, bytes], now: float) -> list[str]:
        states = {
            one.event.identity: refs[one.entry.ref]
            for many in self._dead._queues.values()
            for one in many.values()
            if one.entry.ref in refs
        }
        for _, event in living(self):
            if event.identity is not None and event.identity in states:
                event.state = states[event.identity]
        return super().revive(refs, now)


@planted_pair(promise.REVIVED_IS_RECEIVED)
class MakesADelayedOneReadyAtARevival(BreakableStore):
    """If the same event is scheduled, a revival makes it ready."""

    def revive(self, refs: Mapping[str, bytes], now: float) -> list[str]:
        doomed = {
            one.event.identity for many in self._dead._queues.values() for one in many.values() if one.entry.ref in refs
        }
        for queue, event in living(self):
            if event.identity in doomed and event.status is State.SCHEDULED:
                event.due = now
                queue._rank(event)
        return super().revive(refs, now)


@planted_pair(promise.REVIVED_IS_RECEIVED)
class RevivesFromAnOutboxIntoTheQueue(AlteredStore):
    """An event that died in an outbox is revived in its target queue instead of the outbox."""

    def revived(self, event: KeptEvent, queue: EventQueue) -> None:
        if isinstance(event.envelope, Envelope) and event.envelope.queue != queue.name:
            queue._ready.remove(event.number)
            queue._forget(event)
            other = self._queue(event.envelope.queue)
            event.queue = other.name
            other.admit(event)


@planted_pair(promise.DISCARDED_IS_GONE)
class KnowsTheDeadByTheirEvent(BreakableStore):
    """The ref of a dead letter that was replaced discards its replacement."""

    def discard(self, refs: Iterable[str]) -> list[str]:
        return super().discard([self._present(ref) for ref in refs])

    def _present(self, ref: str) -> str:
        return str(vars(self).get("followers", {}).get(ref, ref))

    def _end(self, event: KeptEvent, outcome: Outcome, now: float) -> None:
        key = (event.queue, event.content)
        before = self._dead._by_content.get(key) if event.content else None  # type: ignore[arg-type]
        super()._end(event, outcome, now)
        after = self._dead._by_content.get(key) if event.content else None  # type: ignore[arg-type]
        if before is not None and after != before:
            vars(self).setdefault("followers", {})[f"{before}@{event.queue}"] = f"{after}@{event.queue}"


# --- pages -----------------------------------------------------------------------------------------


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class CountsThePlacesOfAPage(MemoryTransport):
    """Pages are cut by offset, although dead letters of earlier pages may have been removed meanwhile."""

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        places = vars(self).setdefault("places", {})
        begin = places.get(after, 0)
        whole = super().dead_letters(queues, limit=1_000_000)
        page = whole[begin : begin + limit]
        places.update({one.ref: begin + number for number, one in enumerate(page, start=1)})
        return page


@planted_pair(promise.ORDER_IS_KEPT)
class RevivesLaterOutsideItsKey(BreakableStore):
    """An event that is revived with a delay neither waits for its ordering key nor holds it."""

    def revive_later(self, refs: Mapping[str, bytes], now: float, *, due: float) -> list[str]:
        for event in (self._dead.find(ref) for ref in refs if due > now):
            if event is not None:
                event.line = None
        return super().revive_later(refs, now, due=due)


@planted_pair(promise.REVIVED_IS_RECEIVED)
class EndsARevivalAtAnotherContent(BreakableStore):
    """A revival ends at the first dead letter whose event is alive with another content."""

    def revive_later(self, refs: Mapping[str, bytes], now: float, *, due: float) -> list[str]:
        missing: list[str] = []
        for ref, state in refs.items():
            event = self._dead.find(ref)
            ends = event is not None and self._at(event.queue, now).knows_other(event)
            missing += super().revive_later({ref: state}, now, due=due)
            if ends:
                break
        return missing


@planted_pair(promise.RESENT_IS_ONE)
class LooksForOtherContentsBeforeARevival(BreakableStore):
    """Which dead letters have a living event with another content is looked up once for the whole call."""

    def revive_later(self, refs: Mapping[str, bytes], now: float, *, due: float) -> list[str]:
        events = {ref: self._dead.find(ref) for ref in refs}
        others = [ref for ref, one in events.items() if one and self._at(one.queue, now).knows_other(one)]
        identities = [(one, one.identity) for one in events.values() if one]
        for one, _ in identities:
            one.identity = None
        missing = super().revive_later({ref: refs[ref] for ref in refs if ref not in others}, now, due=due)
        for one, identity in identities:
            one.identity = identity
        return [*others, *missing]


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class ListsOnlyWhatWasDeadAtTheFirstPage(MemoryTransport):
    """Events that die while pages are read are missing from the later pages."""

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        if after is None:
            vars(self)["seen"] = {one.ref for one in super().dead_letters(queues, limit=1_000_000)}
        page = super().dead_letters(queues, after=after, limit=limit)
        return page if after is None else [one for one in page if one.ref in vars(self).get("seen", ())]


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class EndsAPageWithItsQueue(MemoryTransport):
    """The page after the last dead letter of a queue is empty, although the next queue has some."""

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        page = super().dead_letters(queues, after=after, limit=limit)
        name = None if after is None else after.partition("@")[2]
        return page if name is None else [one for one in page if one.queue == name]


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class MixesTheQueuesOfAPage(MemoryTransport):
    """Dead letters of several queues are listed by their time of death, not queue by queue."""

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        whole = [*super().dead_letters(queues, limit=1_000_000)]
        whole.sort(key=lambda one: int(one.ref.partition("@")[0]))
        if after is not None:
            whole = [one for one in whole if int(one.ref.partition("@")[0]) > int(after.partition("@")[0])]
        return whole[:limit]


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class EndsThePagesAtAHundred(MemoryTransport):
    """Only the first hundred dead letters of a queue are listed."""

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        known = {one.ref for name in queues for one in super(type(self), self).dead_letters([name], limit=100)}
        return [one for one in super().dead_letters(queues, after=after, limit=limit) if one.ref in known]


def with_envelope(entry: DeadLetterEntry, change: Callable[[Envelope], Envelope]) -> DeadLetterEntry:
    """Return *entry* with its envelope changed, if it has one."""
    event = entry.envelope
    return entry if isinstance(event, Unreadable) else attrs.evolve(entry, envelope=change(event))


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class TrimsErrors(Altered):
    """An error is kept without the spaces and line ends around it."""

    def settled(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        return attrs.evolve(outcome, error=outcome.error.strip()) if isinstance(outcome, DeadLetter) else outcome


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class KeepsLineEndsOfOneKind(Altered):
    """An error is kept with line feeds instead of carriage returns."""

    def listed(self, entry: DeadLetterEntry) -> DeadLetterEntry:
        return attrs.evolve(entry, error=entry.error.replace("\r\n", "\n"))


@planted_pair(promise.REVIVED_IS_RECEIVED)
class RevivesTheFirstWithTheId(BreakableStore):
    """Of dead letters with one id, the first is revived, whichever is named."""

    def revive(self, refs: Mapping[str, bytes], now: float) -> list[str]:
        entries = [kept.entry for letters in self._dead._queues.values() for kept in letters.values()]
        ids = {one.ref: one.envelope.id for one in entries if isinstance(one.envelope, Envelope)}
        firsts = {event_id: ref for ref, event_id in reversed(ids.items())}
        named = {ref: firsts.get(ids.get(ref, ""), ref) for ref in refs}
        missing = super().revive({first: refs[ref] for ref, first in named.items()}, now)
        return [ref for ref, first in named.items() if first in missing]


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class GoesOnOnlyAfterItsOwnPages(MemoryTransport):
    """A page of dead letters begins only after a ref that the same instance has returned."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pages: set[str] = set()

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        page = super().dead_letters(queues, after=after if after in self.pages else None, limit=limit)
        self.pages |= {one.ref for one in page}
        return page


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class ListsTheDeadAsTheyWereSent(MemoryTransport):
    """The dead letters of a queue are listed in the order in which their events were sent."""

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        page = super().dead_letters(queues, after=after, limit=limit)
        return sorted(page, key=lambda entry: ([*queues].index(entry.queue), entry.enqueued_at))
