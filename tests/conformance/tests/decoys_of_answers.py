"""Odd and right: what the answers of a transport look like, how many come, and when."""

from __future__ import annotations

import itertools
import json
import random
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import attrs

from relevo import DeadLetterEntry, Delivery, Envelope, Found, Settlement, Unreadable
from relevo_memory import MemoryTransport

from .decoy import decoy
from .decoys import MakesNewObjectsEachTime
from .memory import MemoryHarness


@decoy
class HandsOutAFew(MemoryTransport):
    """Hands out some of what it is asked for, never the same number twice."""

    chance: ClassVar[random.Random] = random.SystemRandom()
    """Not the generator that Hypothesis seeds: the same calls have another result the next time."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        fewer = self.chance.randint(1, limit) if limit > 0 else limit
        return super().receive(queues, limit=fewer, lease=lease, wait=wait)


@decoy
class HandsOutHalf(MemoryTransport):
    """Hands out half of what it is asked for."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=(limit + 1) // 2, lease=lease, wait=wait)


@decoy
class ServesOneQueuePerReceive(MemoryTransport):
    """Hands out events of one queue in a receive: of the first that has any."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        for queue in queues:
            if came := super().receive([queue], limit=limit, lease=lease, wait=0.0):
                return came
        return super().receive(queues, limit=min(limit, 1), lease=lease, wait=wait)


@decoy
class HandsABatchOutBackwards(MemoryTransport):
    """What it hands out in one receive is right; within the batch the last one is the first."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=limit, lease=lease, wait=wait)[::-1]


class Shy(MemoryTransport):
    """Hands something out after two receives that found nothing."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, wakeup=False)
    looks = 0

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        self.looks = (self.looks + 1) % 3
        if self.looks:
            return super().receive(queues, limit=0, lease=lease, wait=0.0)
        return super().receive(queues, limit=limit, lease=lease, wait=wait)


@decoy
class HandsOutAfterTwoEmptyReceivesHarness(MemoryHarness):
    """Two of three receives are empty, for which its harness says that it takes patience."""

    transport: ClassVar[type[MemoryTransport]] = Shy
    patience = 10.0  # more than a busy machine needs; it is over only if an event is lost
    glance = 0.01


class Slow(MemoryTransport):
    """Shows nothing for some milliseconds after a send."""

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
    """As a broker with several nodes does; its harness says that it takes patience."""

    transport: ClassVar[type[MemoryTransport]] = Slow
    patience = 10.0  # more than a busy machine needs; it is over only if an event is lost
    glance = 0.01


@decoy
class ReturnsBeforeItsWaitIsOver(MemoryTransport):
    """It waits a moment, however long it may, and does not claim that a send wakes it."""

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
    """Every sequence that it returns is of a class of its own."""

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
class TellsTheLastFirst(MemoryTransport):
    """What is a set in all but its type, it returns from its end: lost deliveries, missing refs, found events."""

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
    """A delivery that carries more than a delivery."""

    weight: float = 0.0


class Labels(Mapping[str, str]):
    """Headers that are read from a text whenever they are asked for."""

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
    """Its deliveries are of a subclass, and their headers of a mapping of its own."""

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
    """What a foreign program wrote comes with one more header, as a broker adds them."""

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
    """Its receipts are texts of 3,000 characters."""

    written: ClassVar[dict[str, Any]] = {}
    numbers: ClassVar[Iterator[int]] = itertools.count()  # one that two threads cannot draw twice

    def _issued(self, delivery: Delivery) -> Delivery:
        text = f"{next(self.numbers)}:".ljust(3000, "é")
        self.written[text] = delivery.receipt
        return attrs.evolve(delivery, receipt=text)

    def _own(self, delivery: Delivery) -> Delivery:
        return attrs.evolve(delivery, receipt=self.written.get(str(delivery.receipt)))


class Renaming(MemoryTransport):
    """Shows each dead letter under another ref than memory has for it."""

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

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        given = list(refs)
        missing = {*super().discard([self._own(ref) for ref in given])}
        return [ref for ref in given if self._own(ref) in missing]


@decoy
class DrawsRefs(Renaming):
    """The refs of its dead letters are UUIDs."""

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
    """A page has one dead letter, and then none."""

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        return super().dead_letters(queues, after=after, limit=min(limit, 1))
