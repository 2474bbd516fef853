"""The checker's knowledge at one point of a history, and the violations so far."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import Literal

import attrs
from msgspec.structs import replace

from relevo import Capabilities, Envelope, State, Unreadable
from relevo_conformance import history, promise
from relevo_conformance._lock import Locks
from relevo_conformance.model import PENDING, Change, Copy, Situation, absent, identity
from relevo_conformance.promise import Promise

SENT_GRACE = 1.0
"""
Seconds after which a settlement that was only sent has arrived. If its holder vanishes earlier, there may
be an extra copy of the settled event.
"""


PATIENCE = 10.0
"""Seconds within which a ready event must be handed out, where nothing else is stated."""

OVERTIME = 30.0
"""Seconds that a call may take beyond the wait that it was asked for, where nothing else is stated."""


@attrs.frozen
class Violation:
    """A promise that a history breaks, and where."""

    promise: str
    op: int | None
    """The call that showed it, if there is one."""

    what: str

    def __str__(self) -> str:
        where = "" if self.op is None else f" (call {self.op})"
        return f"{self.promise}: {self.what}{where}"


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
    """Whether its worker had been closed or killed before."""

    positions: dict[int, Copy] = attrs.field(factory=dict)
    """The copies that it may change, by position in the batch."""

    before: dict[int, tuple[Situation, ...]] = attrs.field(factory=dict)
    """The possible situations of each copy before it began."""

    takes_out: Callable[[Copy], Change | None] = lambda copy: None
    """Returns how this call may remove a copy that is sent while it is in flight; ``None`` if it does not."""

    meanwhile: set[int] = attrs.field(factory=set)
    """The numbers of the copies that other workers received while it was in flight."""


@attrs.define(eq=False)
class Holder:
    """One delivery: of which copy, to which worker, and with which counters."""

    copy: Copy
    worker: str
    handed: history.Handed


@attrs.define(eq=False)
class Trace:
    """A settlement that may not have arrived yet, and the situation that returns if its worker vanishes."""

    copy: Copy
    before: Situation
    at: float


@attrs.frozen(eq=False)
class Bound:
    """An event that was sent in a transaction."""

    copy: Copy
    due: float | None
    savepoints: tuple[int, ...]
    """Those that were open at the send."""

    number: int
    """That of the send in the transaction."""

    kind: history.Kind
    """What the transaction is one of."""


@attrs.frozen(eq=False, kw_only=True)
class Walk:
    """The pages of a list of dead letters that were read so far."""

    due: frozenset[int]
    """The numbers of the copies that were surely dead when it began."""

    calls: int | None
    """How many calls of other kinds had begun when it began; ``None`` if one overlapped a page."""

    seen: frozenset[int] = frozenset()
    """The numbers of those that were listed."""

    refs: frozenset[str] = frozenset()
    """The refs that were listed."""


@attrs.define(eq=False)
class World:
    """Everything that is known so far."""

    capabilities: Capabilities
    slack: float
    patience: float = PATIENCE
    overtime: float = OVERTIME
    knows_faults: bool = False
    """Whether each fault of the store is recorded, so that a send which is refused for no reason is a mistake."""

    copies: list[Copy] = attrs.field(factory=list)
    holders: dict[int, Holder] = attrs.field(factory=dict)
    refs: dict[str, Copy] = attrs.field(factory=dict)
    violations: list[Violation] = attrs.field(factory=list)
    flying: dict[int, Operation] = attrs.field(factory=dict)
    closed: set[str] = attrs.field(factory=set)
    """Workers whose close has begun, and killed ones."""

    queues: set[str] = attrs.field(factory=set)
    """Those that were set up."""

    last: float = 0.0
    """The time of the last record."""

    latest: float = 0.0
    """The latest time of any record."""

    set_back: bool = False
    """
    Whether the clock was set back at some point. By the store's clock an event that had become ready may then have
    to wait again. It is late, which breaks no promise, but it is neither surely ready nor surely scheduled.
    """

    broken: set[str] = attrs.field(factory=set)
    """Workers whose store is broken."""

    subscribers: defaultdict[str, set[str]] = attrs.field(factory=lambda: defaultdict(set))
    breaks: Counter[str] = attrs.field(factory=Counter)
    """By queue: how often a worker that received from it vanished or may have lost its connection, or a receive ended
    with an unknown result."""

    _broke: defaultdict[str, list[float]] = attrs.field(factory=lambda: defaultdict(list))
    """By queue: the times of these events."""

    traces: defaultdict[str, list[Trace]] = attrs.field(factory=lambda: defaultdict(list))
    transactions: defaultdict[int, list[Bound]] = attrs.field(factory=lambda: defaultdict(list))
    """By transaction: each event that was sent in it and not rolled back."""

    sends: defaultdict[int, dict[int, Literal["made", "undone"]]] = attrs.field(factory=lambda: defaultdict(dict))
    """By transaction and number of each send in it: its outcome."""

    doubles: defaultdict[str, dict[int, Copy]] = attrs.field(factory=lambda: defaultdict(dict))
    """By worker whose store is broken: the extra copies that may exist since then, by the number of the original."""

    passed_over: Counter[str] = attrs.field(factory=Counter)
    """By queue: how many receives in a row handed out only normal events although an urgent one was surely ready."""

    drained: bool = False
    """Whether a drain finished, and nothing was sent, received or changed since."""

    gives_ages: bool = False
    """Whether the age of the oldest event was ever given."""

    walks: dict[tuple[tuple[str, ...], str], Walk] = attrs.field(factory=dict)
    """By queues and the last ref of a page of dead letters: the pages up to it."""

    calls: int = 0
    """How many calls have begun that do not list dead letters."""

    unlisted: set[int] = attrs.field(factory=set)
    """The numbers of the copies that were missing in the last complete list of dead letters of their queue."""

    locks: Locks = attrs.field(factory=Locks)
    savepoints: defaultdict[int, list[int]] = attrs.field(factory=lambda: defaultdict(list))
    _originals: dict[int, int] = attrs.field(factory=dict)
    """By the number of an extra copy: the number of the copy that was sent."""

    _by_identity: defaultdict[tuple[str, ...] | bytes, list[Copy]] = attrs.field(factory=lambda: defaultdict(list))

    def pass_time(self, now: float) -> None:
        """Advance to the time of a record."""
        if now < self.last:
            self.set_back = True
            # The store may or may not have noticed what became due before the clock was set back.
            for copy in self.copies:
                ready = (one.receivable(self.last, self.slack) for one in copy.possible)
                copy.become((*copy.possible, *(one for one in ready if one is not None)))
        self.last = now
        self.latest = max(self.latest, now)

    def report(self, broken: Promise, op: int, what: str) -> None:
        """Record a violation of *broken*."""
        self.violations.append(Violation(broken.id, op, what))

    def add(
        self, operation: Operation, queue: str, event: Envelope | Unreadable, possible: Iterable[Situation]
    ) -> Copy:
        """Add a copy that *operation* may put into *queue*."""
        copy = Copy(
            number=len(self.copies),
            queue=queue,
            event=event,
            op=operation.op,
            placed=operation.op,
            sent=(operation.began, operation.began),
            possible=tuple(possible),
            beside=frozenset(self.flying) - {operation.op},
            # A server may deliver events to a holder that is gone until it has noticed that.
            breaks=self.breaks[queue] - sum(self.last - at <= SENT_GRACE for at in self._broke[queue]),
        )
        self.copies.append(copy)
        self._by_identity[copy.identity].append(copy)
        for other in self.flying.values():
            if (take := other.takes_out(copy)) is not None:
                copy.branch((other.op, copy.number), take)
                other.positions[copy.number] = copy
        return copy

    def same(self, queue: str, event: Envelope | Unreadable) -> list[Copy]:
        """Return the copies of *event* in *queue*, in the order in which they were sent."""
        return self._by_identity.get(identity(queue, event), [])

    def broke(self, queue: str) -> None:
        """Record that a worker with events of *queue* is gone, or may be."""
        self.breaks[queue] += 1
        if self.capabilities.lease == "connection":
            self._broke[queue].append(self.last)

    def release_held(self, worker: str, now: float) -> None:
        """Release what *worker* held: it was killed or closed."""
        self.closed.add(worker)
        for number, holder in self.holders.items():
            if holder.worker == worker:
                set_adrift(holder.copy, number)
        for queue, workers in self.subscribers.items():
            if worker in workers:
                self.broke(queue)
                workers.discard(worker)
        if self.capabilities.settlement == "sent":
            for trace in self.traces.pop(worker, []):
                if now - trace.at <= SENT_GRACE:
                    self._extra(trace.copy, [replace(trace.before, adrift=True)])

    def shake(self, worker: str, now: float) -> None:
        """
        Assume that *worker* lost its connection because its store failed, if its leases or settlements depend on one.

        A settlement that is only sent moves an event in two steps, and the second has no answer: between them the event
        is in both places, so there may be an extra copy. A fault makes one extra copy of each event, not more.
        """
        queues = {queue for queue, workers in self.subscribers.items() if worker in workers}
        own = {number for number, holder in self.holders.items() if holder.worker == worker}
        if self.capabilities.lease == "connection":
            for number in own:
                set_adrift(self.holders[number].copy, number)
            for queue in queues:
                self.broke(queue)
        if self.capabilities.settlement == "sent":
            for trace in self.traces[worker]:
                if now - trace.at <= SENT_GRACE:
                    self.double(worker, trace.copy, [trace.before])
            self._allow_fetched(worker, queues, own)

    def subscribe(self, worker: str, queues: Iterable[str]) -> None:
        """Record that *worker* may fetch events of *queues* from now on; during a fault it may also move them."""
        fresh = [queue for queue in queues if worker not in self.subscribers[queue]]
        for queue in fresh:
            self.subscribers[queue].add(worker)
        if worker in self.broken and self.capabilities.settlement == "sent":
            self._allow_fetched(worker, fresh)

    def _allow_fetched(self, worker: str, queues: Collection[str], own: Collection[int] = ()) -> None:
        """Allow an extra copy of each event that *worker* holds, or that is not held and may have been fetched."""
        for copy in tuple(self.copies):
            alive = (one for one in copy.possible if one.state in PENDING and copy.queue in queues)
            self.double(worker, copy, [one for one in alive if one.holder is None or one.adrift or one.holder in own])

    def end_fault(self, worker: str, now: float) -> None:
        """Record that the fault in the store of *worker* is over."""
        self.shake(worker, now)
        self.doubles.pop(worker, None)
        self.broken.discard(worker)

    def double(self, worker: str, copy: Copy, situations: Iterable[Situation]) -> None:
        """Allow one extra copy of *copy* since the fault in the store of *worker*, in one of *situations*."""
        there = [replace(one, adrift=True) for one in situations if one.state in PENDING | {State.DEAD}]
        original = self._originals.get(copy.number, copy.number)
        known = self.doubles[worker].get(original)
        if known is not None:
            known.become((*known.possible, *(replace(one, tags=frozenset()) for one in there)))
        elif there:
            self.doubles[worker][original] = self._extra(copy, there)

    def swap(self, copy: Copy, alike: Iterable[Copy]) -> None:
        """
        Give the other possible situations of *copy* to equal copies; it is assumed to be the one that is handed out.

        Each of those that are *alike* may be the one that was handed out, and then this one is where it was. Its
        situations as a dead letter are given to its double even if the double cannot be handed out.
        """
        for other in (one for one in alike if one is not copy):
            other.become((*other.possible, *(replace(one, tags=frozenset()) for one in copy.possible)))
        dead = [one for one in copy.possible if one.state is State.DEAD]
        extra = (other for other in self.twins(copy) if other.number in self._originals)
        twin = next((other for other in extra if other.ref is None), None)
        if dead and twin is not None:
            twin.become((*twin.possible, *dead))
            if copy.ref is not None:
                self.refs[copy.ref] = twin
                twin.ref, copy.ref = copy.ref, None
                twin.refs_are_known = copy.refs_are_known

    def twins(self, copy: Copy) -> list[Copy]:
        """Return the other copies of the same sent event, the original included."""
        original = self._originals.get(copy.number, copy.number)
        same = self.same(copy.queue, copy.event)
        return [one for one in same if one is not copy and self._originals.get(one.number, one.number) == original]

    def _extra(self, original: Copy, situations: Iterable[Situation]) -> Copy:
        """Return an extra copy of *original*, which is absent or in one of *situations*."""
        copy = Copy(
            number=len(self.copies),
            queue=original.queue,
            event=original.event,
            op=original.op,
            placed=original.placed,
            sent=original.sent,
            possible=(absent(promise.ACK_IS_FINAL), *(replace(one, tags=frozenset()) for one in situations)),
            enqueued_at=original.enqueued_at,
            in_line=False,
            doubtful=True,  # if it never comes, the batch is still whole
            breaks=original.breaks,
            revived=original.revived,
        )
        self.copies.append(copy)
        self._by_identity[copy.identity].append(copy)
        self._originals[copy.number] = self._originals.get(original.number, original.number)
        return copy


def set_adrift(copy: Copy, number: int) -> None:
    """Allow *copy* to be delivered again at any time from now on, where delivery *number* holds it."""
    copy.become(replace(one, adrift=True) if one.holder == number else one for one in copy.possible)
