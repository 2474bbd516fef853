"""What the checker knows at one point of a history, and where it writes down what was broken."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import attrs

from relevo import Capabilities, Envelope, Unreadable
from relevo_conformance import history, promise
from relevo_conformance.model import Copy, Situation, absent, identity
from relevo_conformance.promise import Promise

SENT_GRACE = 1.0
"""
Seconds after which a settlement that was only sent has arrived. A holder that vanishes sooner may
leave an extra copy of what it settled.
"""


@attrs.frozen
class Violation:
    """A promise that a history breaks, and where."""

    promise: str
    op: int
    """The call that gave it away."""

    what: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.what} (call {self.op})"


@attrs.define(eq=False)
class Operation:
    """A call, from its beginning to its end."""

    op: int
    worker: str
    began: float
    call: history.Call

    overlapped: bool = False
    """Whether another call was in flight at the same time."""

    closed: bool = False
    """Whether its worker had closed, or been killed, before."""

    positions: dict[int, Copy] = attrs.field(factory=dict)
    """The copies that it may change, by position in the batch."""

    before: dict[int, tuple[Situation, ...]] = attrs.field(factory=dict)
    """What was possible for each before it began."""


@attrs.define(eq=False)
class Holder:
    """One delivery: of which copy, to whom, and as what."""

    copy: Copy
    worker: str
    handed: history.Handed


@attrs.define(eq=False)
class Trace:
    """A settlement that may not have arrived yet: what comes back if its worker vanishes."""

    copy: Copy
    before: Situation
    at: float


@attrs.define(eq=False)
class World:
    """Everything known so far."""

    capabilities: Capabilities
    slack: float
    copies: list[Copy] = attrs.field(factory=list)
    holders: dict[int, Holder] = attrs.field(factory=dict)
    refs: dict[str, Copy] = attrs.field(factory=dict)
    violations: list[Violation] = attrs.field(factory=list)
    flying: dict[int, Operation] = attrs.field(factory=dict)
    closed: set[str] = attrs.field(factory=set)
    """Workers whose close has begun, and killed ones."""

    queues: set[str] = attrs.field(factory=set)
    """Those that were set up."""

    broken: set[str] = attrs.field(factory=set)
    """Workers whose store is broken."""

    subscribers: defaultdict[str, set[str]] = attrs.field(factory=lambda: defaultdict(set))
    breaks: Counter[str] = attrs.field(factory=Counter)
    """By queue: how often a worker that received from it vanished, or a receive ended unknown."""

    traces: defaultdict[str, list[Trace]] = attrs.field(factory=lambda: defaultdict(list))
    transactions: defaultdict[int, list[tuple[tuple[int, ...], Copy, float | None]]] = attrs.field(
        factory=lambda: defaultdict(list)
    )
    """By transaction: what was sent in it, inside which savepoints, and when it is due."""

    savepoints: defaultdict[int, list[int]] = attrs.field(factory=lambda: defaultdict(list))
    _by_identity: defaultdict[tuple[str, ...] | bytes, list[Copy]] = attrs.field(factory=lambda: defaultdict(list))

    def report(self, broken: Promise, op: int, what: str) -> None:
        """Write down that *broken* was."""
        self.violations.append(Violation(broken.id, op, what))

    def add(
        self, operation: Operation, queue: str, event: Envelope | Unreadable, possible: Iterable[Situation]
    ) -> Copy:
        """Take note of a copy that *operation* may put into *queue*."""
        copy = Copy(
            number=len(self.copies),
            queue=queue,
            event=event,
            op=operation.op,
            sent=(operation.began, operation.began),
            possible=tuple(possible),
            beside=frozenset(self.flying) - {operation.op},
            breaks=self.breaks[queue],
        )
        self.copies.append(copy)
        self._by_identity[copy.identity].append(copy)
        return copy

    def same(self, queue: str, event: Envelope | Unreadable) -> list[Copy]:
        """Return the copies of *event* in *queue*, in the order in which they were sent."""
        return self._by_identity.get(identity(queue, event), [])

    def vanished(self, worker: str, now: float) -> None:
        """Let go of what *worker* held: it was killed or closed."""
        self.closed.add(worker)
        for number, holder in self.holders.items():
            if holder.worker == worker:
                set_adrift(holder.copy, number)
        for queue, workers in self.subscribers.items():
            if worker in workers:
                self.breaks[queue] += 1
                workers.discard(worker)
        if self.capabilities.settlement == "sent":
            for trace in self.traces.pop(worker, []):
                if now - trace.at <= SENT_GRACE:
                    self._extra(trace)

    def _extra(self, trace: Trace) -> None:
        original = trace.copy
        copy = Copy(
            number=len(self.copies),
            queue=original.queue,
            event=original.event,
            op=original.op,
            sent=original.sent,
            possible=(absent(promise.ACK_IS_FINAL), attrs.evolve(trace.before, adrift=True, tags=frozenset())),
            enqueued_at=original.enqueued_at,
            in_line=False,
            breaks=original.breaks,
        )
        self.copies.append(copy)
        self._by_identity[copy.identity].append(copy)


def set_adrift(copy: Copy, number: int) -> None:
    """Let *copy* come back at any time from now on where delivery *number* holds it."""
    copy.become(attrs.evolve(one, adrift=True) if one.holder == number else one for one in copy.possible)
