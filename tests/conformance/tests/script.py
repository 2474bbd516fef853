"""Writes histories by hand: what a transport would have to do to be judged like this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from relevo import (
    Ack,
    Capabilities,
    DeadLetter,
    DeadLetterEntry,
    Envelope,
    Found,
    Nack,
    Note,
    Outcome,
    Release,
    Stats,
    Unreadable,
)
from relevo_conformance import Violation, check, history

EVERYTHING = Capabilities(
    durability="host",
    lease="timed",
    extend=True,
    atomic_batch=True,
    delay=0.001,
    order="per key",
    urgency=True,
    transactional=True,
    checkpoint=True,
    dead_letters=True,
    cancel=True,
    find=True,
    take=True,
    waiting=True,
    purge=True,
    dedupe=True,
    stats="exact",
    presence=True,
)

BROKER = attrs.evolve(
    EVERYTHING, lease="connection", extend=False, settlement="sent", lost_leases="at least", order="none", dedupe=False
)

LEASE = 60.0
NOTHING = Capabilities(durability="process", lease="timed")


def event(number: int = 1, *, queue: str = "q", **fields: Any) -> Envelope:
    return Envelope(
        **({"id": f"e{number}", "source": "shop", "name": "image.created", "body": b"{}"} | fields), queue=queue
    )


class Script:
    """A history in the making; its methods say what a worker did and what it was told."""

    def __init__(self, capabilities: Capabilities = EVERYTHING) -> None:
        self.capabilities = capabilities
        self.records: list[history.Record] = []
        self.now = 1000.0
        self._handed = 0
        self._ops = 0

    def begin(self, call: history.Call, *, worker: str = "a") -> int:
        self._ops += 1
        self.records.append(history.Invoked(op=self._ops, worker=worker, at=self.now, call=call))
        return self._ops

    def end(self, op: int, value: history.Value | None = None, *, end: history.End = "done", error: str = "") -> None:
        self.records.append(history.Returned(op=op, at=self.now, end=end, error=error, value=value))

    def call(
        self,
        call: history.Call,
        value: history.Value | None = None,
        *,
        worker: str = "a",
        end: history.End = "done",
        error: str = "",
    ) -> None:
        self.end(self.begin(call, worker=worker), value, end=end, error=error)

    def wait(self, seconds: float) -> None:
        self.now += seconds

    # --- what workers do ---

    def setup(self, *queues: str) -> None:
        self.call(history.SetUp(queues=queues or ("q", "r")), history.Words(()))

    def send(self, *envelopes: Envelope, delay: float = 0.0, fates: Sequence[history.Fate] = (), **ended: Any) -> None:
        value = history.Fates(tuple(fates)) if fates else None
        call = history.Send(envelopes=envelopes, delay=delay)
        if fates:
            ended = {"end": "unknown", "error": "SendError"} | ended
        self.call(call, value, **ended)

    def put_raw(self, raw: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.call(history.PutRaw(queue="q", raw=raw, headers=headers or {}))

    def handed(self, what: Envelope | Unreadable, **fields: Any) -> history.Handed:
        self._handed += 1
        queue = what.queue if isinstance(what, Envelope) else "q"
        defaults: dict[str, Any] = {"queue": queue, "attempt": 1, "lost_leases": 0, "state": b"", "enqueued_at": 1000.0}
        return history.Handed(number=self._handed, event=what, **(defaults | fields))

    def receive(
        self,
        *handed: Envelope | Unreadable | history.Handed,
        queues: Sequence[str] = ("q", "r"),
        limit: int = 10,
        lease: float = LEASE,
        worker: str = "a",
        **fields: Any,
    ) -> tuple[int, ...]:
        """Hand out; return the numbers of the deliveries."""
        out = tuple(one if isinstance(one, history.Handed) else self.handed(one, **fields) for one in handed)
        call = history.Receive(queues=tuple(queues), limit=limit, lease=lease, wait=0.0)
        self.call(call, history.HandedOut(out), worker=worker)
        return tuple(one.number for one in out)

    def take(self, *events: Envelope, event_id: str = "e1", worker: str = "a") -> None:
        """Take by *event_id* from "q", which hands out *events*."""
        handed = tuple(self.handed(each) for each in events)
        self.call(history.Take(queue="q", event_id=event_id, lease=LEASE), history.HandedOut(handed), worker=worker)

    def idle(self, wait: float, *, took: float | None = None, queues: Sequence[str] = ("q", "r")) -> None:
        """Receive nothing for as long as it waits, or for as long as it took."""
        op = self.begin(history.Receive(queues=tuple(queues), limit=10, lease=LEASE, wait=wait))
        self.wait(wait if took is None else took)
        self.end(op, history.HandedOut(()))

    def settle(self, delivery: int, outcome: Outcome, *, lost: bool = False, worker: str = "a") -> None:
        call = history.Settle(items=(history.Item(delivery, outcome),))
        self.call(call, history.Settled(lost=(delivery,) if lost else ()), worker=worker)

    def ack(self, delivery: int, **options: Any) -> None:
        self.settle(delivery, Ack(), **options)

    def nack(self, delivery: int, *, lost: bool = False, **options: Any) -> None:
        self.settle(delivery, Nack(**options), lost=lost)

    def release(self, delivery: int, **options: Any) -> None:
        self.settle(delivery, Release(**options))

    def bury(self, delivery: int, **options: Any) -> None:
        self.settle(delivery, DeadLetter(**({"reason": "failed", "error": "why"} | options)))

    def extend(self, delivery: int, *, lost: bool = False, lease: float = LEASE) -> None:
        call = history.Extend(deliveries=(delivery,), lease=lease)
        self.call(call, history.Settled(lost=(delivery,) if lost else ()))

    def checkpoint(self, delivery: int, state: bytes, **ended: Any) -> None:
        self.call(history.Checkpoint(delivery=delivery, state=state), **ended)

    def note(self, delivery: int, note: Note, **ended: Any) -> None:
        self.call(history.Begin(delivery=delivery, note=note), **ended)

    def excuse(self, delivery: int, note: Note) -> None:
        self.call(history.Excuse(delivery=delivery, note=note))

    def kill(self, worker: str = "a") -> None:
        self.call(history.Kill(), worker=worker)

    def close(self, worker: str = "a") -> None:
        self.call(history.Close(), worker=worker)

    def entry(self, what: Envelope | Unreadable, **fields: Any) -> DeadLetterEntry:
        defaults: dict[str, Any] = {
            "ref": "1",
            "reason": "failed",
            "error": "why",
            "state": b"",
            "attempt": 1,
            "lost_leases": 0,
        }
        times: dict[str, Any] = {"enqueued_at": 1000.0, "died_at": self.now}
        queue = what.queue if isinstance(what, Envelope) else "q"
        return DeadLetterEntry(queue=queue, envelope=what, **(defaults | times | fields))

    def dead(self, *entries: DeadLetterEntry, limit: int = 100) -> None:
        """List *entries* as a page, and an empty one behind it unless the page is full."""
        self.call(history.ListDead(queues=("q", "r"), limit=limit), history.Entries(entries))
        if 0 < len(entries) < limit:
            after = entries[-1].ref
            self.call(history.ListDead(queues=("q", "r"), after=after, limit=limit), history.Entries(()))

    def living(self, what: Envelope, **fields: Any) -> Found:
        defaults: dict[str, Any] = {
            "status": "ready",
            "attempt": 1,
            "lost_leases": 0,
            "state": b"",
            "enqueued_at": 1000.0,
        }
        return Found(queue=what.queue, envelope=what, **(defaults | fields))

    def find(self, *events: Found, event_id: str = "e1") -> None:
        self.call(history.Find(event_id=event_id), history.Living(events))

    def revive(self, refs: Mapping[str, bytes], *missing: str) -> None:
        self.call(history.Revive(refs=refs), history.Missing(missing))

    def discard(self, *refs: str, missing: Sequence[str] = ()) -> None:
        self.call(history.Discard(refs=refs), history.Missing(tuple(missing)))

    def count(self, **figures: Any) -> None:
        self.call(history.Count(queue="q"), history.Figures(Stats(**figures)))

    def drain(self, end: history.End = "done") -> None:
        self.call(history.Drain(), worker="drain", end=end)

    # --- the verdict ---

    def violations(self) -> list[Violation]:
        return check(self.records, self.capabilities, knows_faults=True)

    def broken(self) -> set[str]:
        """Return the ids of the promises that the checker says are broken."""
        return {violation.promise for violation in self.violations()}
