"""A transport without dead letters of its own: another one can keep them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import attrs
import msgspec

from relevo import (
    Capabilities,
    Clock,
    DeadLetter,
    DeadLetterEntry,
    Delivery,
    Envelope,
    Settlement,
    State,
    Stats,
    Transport,
    Unreadable,
    wire,
)
from relevo.backend import DeadLetterOwner, KeptDeadLetters
from relevo.errors import ConfigurationError, DecodeError
from relevo_memory import MemoryStore, MemoryTransport
from relevo_memory._queue import KeptEvent


class LendingTransport(Transport, DeadLetterOwner):
    """The memory transport, with as little as a modest broker claims."""

    capabilities = Capabilities(
        durability="process",
        lease="timed",
        extend=True,
        settlement="sent",
        atomic_batch=True,
        delay=0.001,
        urgency=True,
        dead_letters=True,
        wakeup=True,
        dedupe=True,
        stats="exact",
    )

    def __init__(self, store: MemoryStore, clock: Clock, name: str = "main"):
        self.store, self.clock = store, clock
        self._inner = MemoryTransport(store, clock=clock, name=name)

    @property
    def name(self) -> str:
        return self._inner.name

    @name.setter
    def name(self, name: str) -> None:
        self._inner.name = name

    @classmethod
    def open(cls, options: Any, *, name: str, clock: Clock) -> Self:
        raise NotImplementedError

    def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        return self._inner.setup(queues, dry_run=dry_run)

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        if any(each.ordering_key is not None for each in envelopes):
            raise self._unsupported("order")
        self._inner.send(envelopes, delay=delay)

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return self._inner.receive(queues, limit=limit, lease=lease, wait=wait)

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        self._require_open()
        return self._settle_here(settlements) if self.kept is None else self.kept.settle(settlements, self._settle_here)

    def _settle_here(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        if any(isinstance(outcome, DeadLetter) for _, outcome in settlements):
            raise self._unsupported("dead_letters")
        return self._inner.settle(settlements)

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        return self._inner.extend(deliveries, lease=lease)

    def stats(self, queue: str) -> Stats:
        return attrs.evolve(self._inner.stats(queue), dead=self._kept.count(queue))

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        self._require_open()
        return self._kept.entries(queues, after=after, limit=limit)

    def _revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        self._require_open()
        return self._kept.revive(refs)

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        self._require_open()
        return self._kept.discard(refs)

    @property
    def kept_under(self) -> str:
        return self.source or "alone"

    def packed(self, envelope: Envelope | Unreadable, queue: str) -> bytes:
        if isinstance(envelope, Envelope):
            return b"e" + wire.pack(envelope)
        return b"u" + msgspec.msgpack.encode([envelope.raw, dict(envelope.headers), envelope.why])

    def unpacked(self, packed: bytes, queue: str) -> Envelope | Unreadable:
        try:
            if packed.startswith(b"e"):
                return wire.unpack(packed[1:])
            raw, headers, why = msgspec.msgpack.decode(packed[1:], type=tuple[bytes, dict[str, str], str])
        except (DecodeError, msgspec.MsgspecError):
            return Unreadable(raw=packed, why="it was not packed")
        return Unreadable(raw=raw, headers=headers, why=why)

    def restore(self, letters: Sequence[DeadLetterEntry]) -> Sequence[int]:
        return [position for position, each in enumerate(letters) if self._restored(each)]

    def _restored(self, letter: DeadLetterEntry) -> bool:
        """Revive *letter* as a dead letter of the store, so that it keeps its time of sending."""
        with self.store.changed:
            number, now = next(self.store._numbers), self._inner._now()
            event = KeptEvent(number, letter.queue, letter.envelope, letter.enqueued_at, State.DEAD)
            self.store._dead.keep(event, DeadLetter(reason="restored"), now)
            (entry,) = self.store._dead.entries([letter.queue], after=None)
            try:
                return not self.store.revive({entry.ref: letter.state}, now)
            finally:
                self.store._dead.take(entry.ref)

    @property
    def _kept(self) -> KeptDeadLetters:
        if self.kept is None:
            raise ConfigurationError("another transport has to keep the dead letters")
        return self.kept

    def _require_open(self) -> None:
        self._inner.receive([], limit=0, lease=1.0, wait=0.0)

    def close(self) -> None:
        self._inner.close()
