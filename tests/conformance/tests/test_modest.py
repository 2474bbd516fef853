"""The suite asks nothing of a transport that it does not claim, but that it says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from relevo import (
    BoundSender,
    Capabilities,
    DeadLetter,
    DeadLetterEntry,
    Delivery,
    Envelope,
    EventFilter,
    EventGroup,
    Found,
    Nack,
    Note,
    Presence,
    Settlement,
    Stats,
    StuckKeys,
    WaitingEntry,
)
from relevo_conformance import suite
from relevo_conformance.profile import PROFILES
from relevo_memory import MemoryTransport

from .memory import MemoryHarness


class ModestTransport(MemoryTransport):
    """Claims nothing that can be left unclaimed."""

    capabilities = Capabilities(durability="process", lease="timed")

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        self._require_open()
        if delay:
            raise self._unsupported("delay")
        for envelope in envelopes:
            if envelope.urgency != "normal":
                raise self._unsupported("urgency")
            if envelope.ordering_key is not None:
                raise self._unsupported("order")
        super().send(envelopes)

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        self._require_open()
        for _, outcome in settlements:
            if isinstance(outcome, DeadLetter):
                raise self._unsupported("dead_letters")
            if isinstance(outcome, Nack) and outcome.delay:
                raise self._unsupported("delay")
        return super().settle(settlements)

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        raise self._unsupported("extend")

    def checkpoint(self, delivery: Delivery, state: bytes) -> None:
        raise self._unsupported("checkpoint")

    def begin(self, delivery: Delivery, note: Note) -> None:
        raise self._unsupported("presence")

    def excuse(self, delivery: Delivery, note: Note) -> None:
        raise self._unsupported("presence")

    def appear(self, worker: str) -> None:
        raise self._unsupported("presence")

    def presence(self, workers: Sequence[str]) -> Mapping[str, Presence]:
        raise self._unsupported("presence")

    def stats(self, queue: str) -> Stats:
        raise self._unsupported("stats")

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        raise self._unsupported("dead_letters")

    def revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        raise self._unsupported("dead_letters")

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        raise self._unsupported("dead_letters")

    def bound_to(self, session: Any, *, relay_to: str | None = None) -> BoundSender:
        raise self._unsupported("transactional")

    def cancel(self, event_id: str) -> int:
        raise self._unsupported("cancel")

    def find(self, event_id: str) -> Sequence[Found]:
        raise self._unsupported("find")

    def take(self, queue: str, event_id: str, *, lease: float) -> Sequence[Delivery]:
        raise self._unsupported("take")

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[WaitingEntry]:
        raise self._unsupported("waiting")

    def waiting_groups(self, queues: Sequence[str], **options: Any) -> Sequence[EventGroup]:
        raise self._unsupported("waiting")

    def matching_dead_letters(self, queues: Sequence[str], **options: Any) -> Sequence[DeadLetterEntry]:
        raise self._unsupported("waiting")

    def dead_letter_groups(self, queues: Sequence[str], **options: Any) -> Sequence[EventGroup]:
        raise self._unsupported("waiting")

    def stuck_keys(self, queues: Sequence[str], *, longer: float = 60.0, limit: int = 10) -> StuckKeys:
        raise self._unsupported("waiting")

    def purge(self, queue: str) -> int:
        raise self._unsupported("purge")

    def _require_open(self) -> None:
        with self._open():
            pass


class ModestHarness(MemoryHarness):
    transport: ClassVar[type[MemoryTransport]] = ModestTransport


# A quarter of the histories: each rule asks what is claimed, and all rules run in a few of them.
TestModest = suite(ModestHarness, profile=PROFILES["quick"].part())
