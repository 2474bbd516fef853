"""Unusual but correct: the types, the number and the time of a transport's return values."""

from __future__ import annotations

import itertools
import json
import random
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import attrs

from relevo import DeadLetterEntry, DeadLetterFilter, Delivery, Envelope, Found, Settlement, Unreadable
from relevo_memory import MemoryTransport

from .decoy import decoy
from .decoys import MakesNewObjectsEachTime
from .memory import MemoryHarness


@decoy
class HandsOutAFew(MemoryTransport):
    """A receive returns a random number of events, up to its limit."""

    chance: ClassVar[random.Random] = random.SystemRandom()
    """Not the generator that Hypothesis seeds, so the same calls have other results the next time."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        fewer = self.chance.randint(1, limit) if limit > 0 else limit
        return super().receive(queues, limit=fewer, lease=lease, wait=wait)


@decoy
class HandsOutHalf(MemoryTransport):
    """A receive returns at most half of its limit."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=(limit + 1) // 2, lease=lease, wait=wait)


@decoy
class ServesOneQueuePerReceive(MemoryTransport):
    """A receive returns events of one queue: the first that has any."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        for queue in queues:
            if came := super().receive([queue], limit=limit, lease=lease, wait=0.0):
                return came
        return super().receive(queues, limit=min(limit, 1), lease=lease, wait=wait)


@decoy
class HandsABatchOutBackwards(MemoryTransport):
    """The events of one receive are the right ones, but in reverse order."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=limit, lease=lease, wait=wait)[::-1]


class Shy(MemoryTransport):
    """Returns events only after two empty receives."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, wakeup=False)
    looks = 0

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        self.looks = (self.looks + 1) % 3
        if self.looks:
            return super().receive(queues, limit=0, lease=lease, wait=0.0)
        return super().receive(queues, limit=limit, lease=lease, wait=wait)


@decoy
class HandsOutAfterTwoEmptyReceivesHarness(MemoryHarness):
    """Two of three receives are empty; the harness sets a patience."""

    transport: ClassVar[type[MemoryTransport]] = Shy
    patience = 10.0  # more than a busy machine needs; it is over only if an event is lost
    glance = 0.01


class Slow(MemoryTransport):
    """Returns nothing for some milliseconds after a send."""

    sent: ClassVar[float] = 0.0

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send(envelopes, delay=delay)
        Slow.sent = time.monotonic()

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        if time.monotonic() - self.sent < 0.005:
            return super().receive(queues, limit=0, lease=lease, wait=0.0)
        return super().receive(queues, limit=limit, lease=lease, wait=wait)


@decoy
class ShowsLateWhatWasSentHarness(MemoryHarness):
    """A sent event appears late, as in a broker with several nodes; the harness sets a patience."""

    transport: ClassVar[type[MemoryTransport]] = Slow
    patience = 10.0  # more than a busy machine needs; it is over only if an event is lost
    glance = 0.01


@decoy
class ReturnsBeforeItsWaitIsOver(MemoryTransport):
    """A receive waits at most 10 ms, and wakeup is not claimed."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, wakeup=False)

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=limit, lease=lease, wait=min(wait, 0.01))


class Row(Sequence[Any]):
    """A sequence that is neither a list nor a tuple."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = tuple(items)

    def __getitem__(self, place: Any) -> Any:
        return self._items[place]

    def __len__(self) -> int:
        return len(self._items)


@decoy
class AnswersInRowsOfItsOwn(MemoryTransport):
    """Each returned sequence is of the transport's own class."""

    def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        return Row(super().setup(queues, dry_run=dry_run))

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return Row(super().receive(queues, limit=limit, lease=lease, wait=wait))

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return Row(super()._settle(settlements))

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        return Row(super().extend(deliveries, lease=lease))

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        return Row(super().dead_letters(queues, after=after, limit=limit))

    def _revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        return Row(super()._revive(refs))

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        return Row(super().discard(refs))

    def find(self, event_id: str) -> Sequence[Found]:
        return Row(super().find(event_id))


@decoy
class ReturnsTheLastFirst(MemoryTransport):
    """Lost deliveries, missing refs and found events are returned in reverse order."""

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super()._settle(settlements)[::-1]

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        return super().extend(deliveries, lease=lease)[::-1]

    def _revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        return super()._revive(refs)[::-1]

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        return super().discard(refs)[::-1]

    def find(self, event_id: str) -> Sequence[Found]:
        return super().find(event_id)[::-1]


@attrs.frozen(kw_only=True, slots=False)
class Parcel(Delivery):
    """A delivery with an additional field."""

    weight: float = 0.0


class Labels(Mapping[str, str]):
    """Headers that are parsed from a text at each access."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._text = json.dumps(dict(headers))

    def __getitem__(self, name: str) -> str:
        return str(json.loads(self._text)[name])

    def __iter__(self) -> Iterator[str]:
        return iter(json.loads(self._text))

    def __len__(self) -> int:
        return len(json.loads(self._text))


@decoy
class HandsOutDeliveriesOfItsOwn(MemoryTransport):
    """Deliveries are of a subclass, and their headers are a custom mapping."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        came = super().receive(queues, limit=limit, lease=lease, wait=wait)
        return [
            Parcel(
                **{
                    field.name: getattr(one, field.name) for field in attrs.fields(Delivery) if field.name != "envelope"
                },
                envelope=attrs.evolve(one.envelope, headers=Labels(one.envelope.headers)),
                weight=0.1,
            )
            for one in came
        ]


@decoy
class AddsHeadersToForeignBytes(MemoryTransport):
    """Foreign bytes have an additional header, as a broker may add."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        came = super().receive(queues, limit=limit, lease=lease, wait=wait)
        return [
            attrs.evolve(one, envelope=attrs.evolve(one.envelope, headers={**one.envelope.headers, "x-hop": "1"}))
            if isinstance(one.envelope, Unreadable)
            else one
            for one in came
        ]


@decoy
class WritesLongReceipts(MakesNewObjectsEachTime):
    """Receipts are strings of 3,000 characters."""

    written: ClassVar[dict[str, Any]] = {}
    numbers: ClassVar[Iterator[int]] = itertools.count()  # one that two threads cannot draw twice

    def _issued(self, delivery: Delivery) -> Delivery:
        text = f"{next(self.numbers)}:".ljust(3000, "é")
        self.written[text] = delivery.receipt
        return attrs.evolve(delivery, receipt=text)

    def _own(self, delivery: Delivery) -> Delivery:
        return attrs.evolve(delivery, receipt=self.written.get(str(delivery.receipt)))


class Renaming(MemoryTransport):
    """Lists dead letters under other refs than the memory transport."""

    def _shown(self, ref: str) -> str:
        raise NotImplementedError

    def _own(self, ref: str) -> str:
        raise NotImplementedError

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        found = super().dead_letters(queues, after=None if after is None else self._own(after), limit=limit)
        return [attrs.evolve(one, ref=self._shown(one.ref)) for one in found]

    def _revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        missing = {*super()._revive({self._own(ref): state for ref, state in refs.items()})}
        return [ref for ref in refs if self._own(ref) in missing]

    def _revive_later(self, refs: Mapping[str, bytes], delay: float) -> Sequence[str]:
        missing = {*super()._revive_later({self._own(ref): state for ref, state in refs.items()}, delay)}
        return [ref for ref in refs if self._own(ref) in missing]

    def matching_dead_letters(
        self, queues: Sequence[str], *, where: DeadLetterFilter, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        own = None if after is None else self._own(after)
        found = super().matching_dead_letters(queues, where=where, after=own, limit=limit)
        return [attrs.evolve(one, ref=self._shown(one.ref)) for one in found]

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        given = list(refs)
        missing = {*super().discard([self._own(ref) for ref in given])}
        return [ref for ref in given if self._own(ref) in missing]


@decoy
class DrawsRefs(Renaming):
    """The refs of dead letters are UUIDs."""

    drawn: ClassVar[dict[str, str]] = {}

    def _shown(self, ref: str) -> str:
        for name, known in self.drawn.items():
            if known == ref:
                return name
        name = str(uuid.uuid4())
        self.drawn[name] = ref
        return name

    def _own(self, ref: str) -> str:
        return self.drawn.get(ref, f"?{ref}")


@decoy
class ListsDeadLettersOneByOne(MemoryTransport):
    """A page has at most one dead letter."""

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        return super().dead_letters(queues, after=after, limit=min(limit, 1))
