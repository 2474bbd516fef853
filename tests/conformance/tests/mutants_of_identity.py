"""Bugs of similar ids, sources, names and queues: they differ in case, a space, a normal form or late characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from relevo import Action, Envelope, Found, SendError, State
from relevo_conformance import promise
from relevo_memory import MemoryTransport
from relevo_memory._queue import EventQueue, KeptEvent

from .memory import BreakableStore
from .planting import Altered, Lenient, identified_by, living, numbers, planted_pair


def normal(text: str) -> str:
    """Return *text* in the composed normal form of Unicode."""
    return unicodedata.normalize("NFC", text)


# --- which events are the same ---------------------------------------------------------------------


@planted_pair(promise.RESENT_IS_ONE, patches=identified_by(lambda one: (one[0], one[1], one[2].rstrip())))
class TellsNoSpaceInIdsApart(MemoryTransport):
    """Ids that differ only in a trailing space are treated as equal, and the second event is ignored."""


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED, patches=identified_by(lambda one: (one[0], one[1], one[2].lower())))
class TellsNoCaseInIdsApart(MemoryTransport):
    """Ids that differ only in case are treated as equal, and the second event is ignored."""


@planted_pair(promise.RESENT_IS_ONE, patches=identified_by(lambda one: (one[0], one[1], normal(one[2]))))
class TellsNoNormalFormOfIdsApart(MemoryTransport):
    """Ids that differ only in Unicode normal form are treated as equal, and the second event is ignored."""


@planted_pair(promise.RESENT_IS_ONE, patches=identified_by(lambda one: (one[0], one[1], one[2][:64])))
class TellsIdsApartBy64Characters(MemoryTransport):
    """Ids with the same first 64 characters are treated as equal, and the second event is ignored."""


@planted_pair(promise.RESENT_IS_ONE, patches=identified_by(lambda one: (one[0], one[1].rstrip(), one[2])))
class TellsNoSpaceInSourcesApart(MemoryTransport):
    """Sources that differ only in a trailing space are treated as equal, and the second event is ignored."""


@planted_pair(promise.RESENT_IS_ONE, patches=identified_by(lambda one: (one[0], one[1].lower(), one[2])))
class TellsNoCaseInSourcesApart(MemoryTransport):
    """Sources that differ only in case are treated as equal, and the second event is ignored."""


@planted_pair(promise.RESENT_IS_ONE, patches=identified_by(lambda one: (one[0], one[1][:64], one[2])))
class TellsSourcesApartBy64Characters(MemoryTransport):
    """Sources with the same first 64 characters are treated as equal, and the second event is ignored."""


@planted_pair(promise.RESENT_IS_ONE, patches=identified_by(lambda one: (one[0], "", one[1] + one[2])))
class WritesSourceAndIdInOneText(MemoryTransport):
    """Source "a" with id "bc" is treated as equal to source "ab" with id "c"."""


@planted_pair(promise.RESENT_IS_ONE, patches=identified_by(lambda one: ("", one[1], one[2])))
class KeepsOneOfAFanOutInAnOutbox(MemoryTransport):
    """An outbox stores only the first copy of an event that is sent to several queues."""


class RemembersIdentities(BreakableStore):
    """Remembers the identities of some events that were removed."""

    def _queue(self, name: str) -> EventQueue:
        queue = super()._queue(name)
        if not isinstance(queue._identities, Lenient):
            queue._identities = Lenient(queue._identities)
        return queue


@planted_pair(promise.RESENT_IS_ONE)
class IgnoresWhatWasCancelledBefore(RemembersIdentities):
    """A cancelled event cannot be sent again."""

    def cancel(self, event_id: str, now: float) -> int:
        gone = [(queue, one.identity) for queue, one in living(self) if one.identity and one.identity[2] == event_id]
        number = super().cancel(event_id, now)
        for queue, identity in gone:
            queue._identities.add(identity)
        return number


@planted_pair(promise.RESENT_IS_ONE)
class IgnoresWhatWasPurgedBefore(RemembersIdentities):
    """A purged event cannot be sent again."""

    def purge(self, name: str, now: float) -> int:
        gone = [(queue, one.identity) for queue, one in living(self) if queue.name == name and one.identity]
        number = super().purge(name, now)
        for queue, identity in gone:
            queue._identities.add(identity)
        return number


@planted_pair(promise.SENT_IS_RECEIVED)
class IgnoresWhatMayHaveBeenSentBefore(RemembersIdentities):
    """A send whose answer was lost stored nothing, and its events cannot be sent again."""

    def _write(self, operation: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        before = numbers(self)
        try:
            return super()._write(operation, *arguments, **options)
        except SendError:
            for queue, event in living(self, without=before):
                queue.step(event, Action.CANCEL)
                if event.identity is not None:
                    queue._identities.add(event.identity)
            raise


# --- which queues are the same ---------------------------------------------------------------------


class Folded(dict[str, EventQueue]):
    """A mapping of queues that changes each name with *alter* before it compares it."""

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
    """Treats queues as one if *alter* returns the same name for them."""

    def alter(self, name: str) -> str:
        """Return the form of a queue's name that is compared."""
        return name

    def __init__(self) -> None:
        super().__init__()
        self._queues = Folded(self.alter)


@planted_pair(promise.QUEUES_ARE_ISOLATED)
class TellsNoCaseInQueuesApart(FoldedStore):
    """Queues whose names differ only in case are one queue."""

    def alter(self, name: str) -> str:
        return name.lower()


@planted_pair(promise.QUEUES_ARE_ISOLATED)
class TellsNoNormalFormOfQueuesApart(FoldedStore):
    """Queues whose names differ only in Unicode normal form are one queue."""

    def alter(self, name: str) -> str:
        return normal(name)


@planted_pair(promise.QUEUES_ARE_ISOLATED)
class TellsQueuesApartBy64Characters(FoldedStore):
    """Queues whose names have the same first 64 characters are one queue."""

    def alter(self, name: str) -> str:
        return name[:64]


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class ListsTheDeadOfQueuesLikeIt(MemoryTransport):
    """Dead letters of queues whose names differ only in case or a space are listed, too."""

    def dead_letters(self, queues: Sequence[str], *, after: str | None = None, limit: int = 100) -> Sequence[Any]:
        known = self.store._dead._queues
        alike = [name for queue in queues for name in known if name.strip().lower() == queue.strip().lower()]
        return super().dead_letters([*queues, *alike], after=after, limit=limit)


# --- what is found and cancelled -------------------------------------------------------------------


class Matching(MemoryTransport):
    """Finds and cancels events whose ids are equal after *alter*."""

    def alter(self, name: str) -> str:
        """Return the form of an id that is compared."""
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
    """An event is found by an id that differs in Unicode normal form."""

    def alter(self, name: str) -> str:
        return normal(name)


@planted_pair(promise.FOUND_AS_IT_IS)
class FindsBy64Characters(LooselyFinding):
    """An event is found by any id with the same first 64 characters."""

    def alter(self, name: str) -> str:
        return name[:64]


@planted_pair(promise.CANCELLED_IS_GONE)
class CancelsInAnyCase(LooselyCancelling):
    """A cancel also removes events whose ids differ only in case."""

    def alter(self, name: str) -> str:
        return name.lower()


@planted_pair(promise.CANCELLED_IS_GONE)
class CancelsWithAnySpace(LooselyCancelling):
    """A cancel also removes events whose ids differ only in a trailing space."""

    def alter(self, name: str) -> str:
        return name.rstrip()


@planted_pair(promise.CANCELLED_IS_GONE)
class CancelsByPrefix(LooselyCancelling):
    """A cancel removes all events whose ids start with the given id."""

    def _ids(self, event_id: str) -> list[str]:
        ids = {one.envelope.id for _, one in living(self.store) if isinstance(one.envelope, Envelope)}
        return [one for one in ids if one.startswith(event_id)]


@planted_pair(promise.CANCELLED_IS_GONE)
class CancelsOneSource(BreakableStore):
    """If events of several sources share an id, a cancel removes only those of the first source."""

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
    """If events of several sources share an id, only one of them is found in each queue."""

    def find(self, event_id: str) -> Sequence[Found]:
        return list({one.queue: one for one in super().find(event_id)}.values())


@planted_pair(promise.CANCELLED_IS_GONE)
class CancelsNothingBesideAHeldOne(BreakableStore):
    """If an event is held in one queue, its copies in other queues cannot be cancelled."""

    def cancel(self, event_id: str, now: float) -> int:
        for _, event in living(self):
            if event.status is State.LEASED and event.until > now and event.identity and event.identity[2] == event_id:
                return 0
        return super().cancel(event_id, now)


# --- what arrives ----------------------------------------------------------------------------------


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class StripsSources(Altered):
    """Trailing spaces of a source are stripped."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, source=event.source.rstrip())


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class StripsIds(Altered):
    """Trailing spaces of an id are stripped."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, id=event.id.rstrip())


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class StripsKeys(Altered):
    """Trailing spaces of an ordering key are stripped."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, ordering_key=event.ordering_key and event.ordering_key.rstrip())


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class StripsHeaders(Altered):
    """Trailing spaces of a header's value are stripped."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, headers={k: v.rstrip(" ") for k, v in event.headers.items()})


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class ComposesHeaders(Altered):
    """The values of headers are converted to Unicode's composed normal form."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, headers={k: normal(v) for k, v in event.headers.items()})


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class ComposesIds(Altered):
    """Ids are converted to Unicode's composed normal form."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, id=normal(event.id))


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class CutsNamesAt64Characters(Altered):
    """The name of an event is truncated at 64 characters."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, name=event.name[:64])


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class CutsSourcesAt64Characters(Altered):
    """A source is truncated at 64 characters."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, source=event.source[:64])


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class CutsKeysAt64Characters(Altered):
    """An ordering key is truncated at 64 characters."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, ordering_key=event.ordering_key and event.ordering_key[:64])


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class KeepsThirtyTwoHeaders(Altered):
    """Only the first 32 headers of an event are kept."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, headers=dict([*event.headers.items()][:32]))


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class CutsHeadersAt8192Characters(Altered):
    """The value of a header is truncated at 8,192 characters."""

    def read(self, event: Envelope) -> Envelope:
        return attrs.evolve(event, headers={k: v[:8192] for k, v in event.headers.items()})
