"""Bugs of ids, sources, names and queues that differ by little: case, a space, a normal form, or late characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from relevo import Envelope, Found, State
from relevo_conformance import promise
from relevo_memory import MemoryTransport
from relevo_memory._queue import EventQueue, KeptEvent

from .memory import BreakableStore
from .planting import Altered, Lenient, identified_by, living, planted_pair


def normal(text: str) -> str:
    """Return *text* in the composed normal form of Unicode."""
    return unicodedata.normalize("NFC", text)


# --- which events are the same ---------------------------------------------------------------------


@planted_pair(promise.RESENT_IS_ONE, patches=identified_by(lambda one: (one[0], one[1], one[2].rstrip())))
class TellsNoSpaceInIdsApart(MemoryTransport):
    """Of two events whose ids differ by a space at the end, the second is ignored."""


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED, patches=identified_by(lambda one: (one[0], one[1], one[2].lower())))
class TellsNoCaseInIdsApart(MemoryTransport):
    """Of two events whose ids differ by the case of a letter, the second is ignored."""


@planted_pair(promise.RESENT_IS_ONE, patches=identified_by(lambda one: (one[0], one[1], normal(one[2]))))
class TellsNoNormalFormOfIdsApart(MemoryTransport):
    """Of two events whose ids differ by their Unicode normal form, the second is ignored."""


@planted_pair(promise.RESENT_IS_ONE, patches=identified_by(lambda one: (one[0], one[1], one[2][:64])))
class TellsIdsApartBy64Characters(MemoryTransport):
    """Of two events whose ids have the same first 64 characters, the second is ignored."""


@planted_pair(promise.RESENT_IS_ONE, patches=identified_by(lambda one: (one[0], one[1].rstrip(), one[2])))
class TellsNoSpaceInSourcesApart(MemoryTransport):
    """Of two events whose sources differ by a space at the end, the second is ignored."""


@planted_pair(promise.RESENT_IS_ONE, patches=identified_by(lambda one: (one[0], one[1].lower(), one[2])))
class TellsNoCaseInSourcesApart(MemoryTransport):
    """Of two events whose sources differ by the case of a letter, the second is ignored."""


@planted_pair(promise.RESENT_IS_ONE, patches=identified_by(lambda one: (one[0], one[1][:64], one[2])))
class TellsSourcesApartBy64Characters(MemoryTransport):
    """Of two events whose sources have the same first 64 characters, the second is ignored."""


@planted_pair(promise.RESENT_IS_ONE, patches=identified_by(lambda one: (one[0], "", one[1] + one[2])))
class WritesSourceAndIdInOneText(MemoryTransport):
    """The source "a" with the id "bc" is taken for the source "ab" with the id "c"."""


@planted_pair(promise.RESENT_IS_ONE, patches=identified_by(lambda one: ("", one[1], one[2])))
class KeepsOneOfAFanOutInAnOutbox(MemoryTransport):
    """Of the copies of an event for several queues, an outbox stores only the first."""


class RemembersIdentities(BreakableStore):
    """Remembers some of the events that are no longer there."""

    def _queue(self, name: str) -> EventQueue:
        queue = super()._queue(name)
        if not isinstance(queue._identities, Lenient):
            queue._identities = Lenient(queue._identities)
        return queue


@planted_pair(promise.RESENT_IS_ONE)
class IgnoresWhatWasCancelledBefore(RemembersIdentities):
    """What was cancelled cannot be sent again."""

    def cancel(self, event_id: str, now: float) -> int:
        gone = [(queue, one.identity) for queue, one in living(self) if one.identity and one.identity[2] == event_id]
        number = super().cancel(event_id, now)
        for queue, identity in gone:
            queue._identities.add(identity)
        return number


@planted_pair(promise.RESENT_IS_ONE)
class IgnoresWhatWasPurgedBefore(RemembersIdentities):
    """What was purged cannot be sent again."""

    def purge(self, name: str, now: float) -> int:
        gone = [(queue, one.identity) for queue, one in living(self) if queue.name == name and one.identity]
        number = super().purge(name, now)
        for queue, identity in gone:
            queue._identities.add(identity)
        return number


# --- which queues are the same ---------------------------------------------------------------------


class Folded(dict[str, EventQueue]):
    """The queues by what *alter* makes of their names."""

    def __init__(self, alter: Callable[[str], str]) -> None:
        super().__init__()
        self.alter = alter

    def __getitem__(self, name: str) -> EventQueue:
        return super().__getitem__(self.alter(name))

    def __setitem__(self, name: str, queue: EventQueue) -> None:
        super().__setitem__(self.alter(name), queue)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(self.alter(str(name)))

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(self.alter(name), default)


class FoldedStore(BreakableStore):
    """Takes some queues for the same."""

    def alter(self, name: str) -> str:
        """Return what is kept of the name of a queue."""
        return name

    def __init__(self) -> None:
        super().__init__()
        self._queues = Folded(self.alter)


@planted_pair(promise.QUEUES_ARE_ISOLATED)
class TellsNoCaseInQueuesApart(FoldedStore):
    """Queues whose names differ by the case of a letter are one."""

    def alter(self, name: str) -> str:
        return name.lower()


@planted_pair(promise.QUEUES_ARE_ISOLATED)
class TellsNoNormalFormOfQueuesApart(FoldedStore):
    """Queues whose names differ by their Unicode normal form are one."""

    def alter(self, name: str) -> str:
        return normal(name)


@planted_pair(promise.QUEUES_ARE_ISOLATED)
class TellsQueuesApartBy64Characters(FoldedStore):
    """Queues whose names have the same first 64 characters are one."""

    def alter(self, name: str) -> str:
        return name[:64]


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class ListsTheDeadOfQueuesLikeIt(MemoryTransport):
    """The dead letters of queues whose names differ by case or a space are listed with those of a queue."""

    def dead_letters(self, queues: Sequence[str], *, after: str | None = None, limit: int = 100) -> Sequence[Any]:
        known = self.store._dead._queues
        alike = [name for queue in queues for name in known if name.strip().lower() == queue.strip().lower()]
        return super().dead_letters([*queues, *alike], after=after, limit=limit)


# --- what is found and cancelled -------------------------------------------------------------------


class Matching(MemoryTransport):
    """Finds and cancels by what *alter* makes of an id."""

    def alter(self, name: str) -> str:
        """Return what is compared of an id."""
        return name

    def _ids(self, event_id: str) -> list[str]:
        ids = {one.envelope.id for _, one in living(self.store) if isinstance(one.envelope, Envelope)}
        return [one for one in ids if self.alter(one) == self.alter(event_id)]


class LooselyFinding(Matching):
    def find(self, event_id: str) -> Sequence[Found]:
        known = super().find(event_id)
        return [
            *known,
            *(one for each in self._ids(event_id) if each != event_id for one in super(Matching, self).find(each)),
        ]


class LooselyCancelling(Matching):
    def cancel(self, event_id: str) -> int:
        others = [one for one in self._ids(event_id) if one != event_id]
        return sum(super(Matching, self).cancel(one) for one in (event_id, *others))


@planted_pair(promise.FOUND_AS_IT_IS)
class FindsAnyNormalForm(LooselyFinding):
    """An event is found by an id that differs by its Unicode normal form."""

    def alter(self, name: str) -> str:
        return normal(name)


@planted_pair(promise.FOUND_AS_IT_IS)
class FindsBy64Characters(LooselyFinding):
    """An event is found by an id that has the same first 64 characters."""

    def alter(self, name: str) -> str:
        return name[:64]


@planted_pair(promise.CANCELLED_IS_GONE)
class CancelsInAnyCase(LooselyCancelling):
    """A cancel takes events whose ids differ by the case of a letter too."""

    def alter(self, name: str) -> str:
        return name.lower()


@planted_pair(promise.CANCELLED_IS_GONE)
class CancelsWithAnySpace(LooselyCancelling):
    """A cancel takes events whose ids differ by a space at the end too."""

    def alter(self, name: str) -> str:
        return name.rstrip()


@planted_pair(promise.CANCELLED_IS_GONE)
class CancelsByPrefix(LooselyCancelling):
    """A cancel takes events whose ids begin like the one that was asked for."""

    def _ids(self, event_id: str) -> list[str]:
        ids = {one.envelope.id for _, one in living(self.store) if isinstance(one.envelope, Envelope)}
        return [one for one in ids if one.startswith(event_id)]


@planted_pair(promise.CANCELLED_IS_GONE)
class CancelsOneSource(BreakableStore):
    """Of the events of several sources with one id, a cancel takes only those of the first."""

    def cancel(self, event_id: str, now: float) -> int:
        spared = self._others(event_id)
        for queue, event in spared:
            del queue.events[event.number]
        try:
            return super().cancel(event_id, now)
        finally:
            for queue, event in spared:
                queue.events[event.number] = event

    def _others(self, event_id: str) -> list[tuple[EventQueue, KeptEvent]]:
        free = [
            (queue, event)
            for queue, event in living(self)
            if isinstance(event.envelope, Envelope)
            and event.envelope.id == event_id
            and event.status is State.READY
            and event.line is None
        ]
        first = free[0][1].identity if free else None
        return [(queue, event) for queue, event in free if first and event.identity and event.identity[1] != first[1]]


@planted_pair(promise.FOUND_AS_IT_IS)
class FindsOneSource(MemoryTransport):
    """Of the events of several sources with one id, only one in each queue is found."""

    def find(self, event_id: str) -> Sequence[Found]:
        return list({one.queue: one for one in super().find(event_id)}.values())


@planted_pair(promise.CANCELLED_IS_GONE)
class CancelsNothingBesideAHeldOne(BreakableStore):
    """An event that is held in one queue keeps its twins in other queues from being cancelled."""

    def cancel(self, event_id: str, now: float) -> int:
        for _, event in living(self):
            if event.status is State.LEASED and event.until > now and event.identity and event.identity[2] == event_id:
                return 0
        return super().cancel(event_id, now)


# --- what arrives ----------------------------------------------------------------------------------


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class StripsSources(Altered):
    """Spaces at the end of a source are lost."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, source=event.source.rstrip())


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class StripsIds(Altered):
    """Spaces at the end of an id are lost."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, id=event.id.rstrip())


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class StripsKeys(Altered):
    """Spaces at the end of an ordering key are lost."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, ordering_key=event.ordering_key and event.ordering_key.rstrip())


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class StripsHeaders(Altered):
    """Spaces at the end of the value of a header are lost."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, headers={k: v.rstrip(" ") for k, v in event.headers.items()})


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class ComposesHeaders(Altered):
    """The values of headers arrive in Unicode's composed normal form."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, headers={k: normal(v) for k, v in event.headers.items()})


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class ComposesIds(Altered):
    """Ids arrive in Unicode's composed normal form."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, id=normal(event.id))


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class CutsNamesAt64Characters(Altered):
    """What of an event's name is beyond 64 characters is cut off."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, name=event.name[:64])


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class CutsSourcesAt64Characters(Altered):
    """What of a source is beyond 64 characters is cut off."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, source=event.source[:64])


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class CutsKeysAt64Characters(Altered):
    """What of an ordering key is beyond 64 characters is cut off."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, ordering_key=event.ordering_key and event.ordering_key[:64])


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class KeepsThirtyTwoHeaders(Altered):
    """Of many headers the first 32 arrive."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, headers=dict([*event.headers.items()][:32]))


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class CutsHeadersAt8192Characters(Altered):
    """What of the value of a header is beyond 8,192 characters is cut off."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, headers={k: v[:8192] for k, v in event.headers.items()})
