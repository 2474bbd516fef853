"""
A history as values: each call, its worker, how it ended, and when.

A history is a flat sequence of two kinds of records: a call begins, a call ends. A call whose process
died has the first without the second. Written as JSON lines, a history can be judged elsewhere and later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import attrs

from relevo import (
    DeadLetterEntry,
    DeadLetterFilter,
    Envelope,
    EventFilter,
    EventGroup,
    Found,
    Note,
    Outcome,
    Stats,
    StuckKeys,
    Unreadable,
    WaitingEntry,
    errors,
)
from relevo.errors import ConfigurationError, LeaseLostError, TransportClosedError, TransportUnavailableError

End = Literal["done", "refused", "unknown", "crashed", "malformed", "hung"]
"""
How a call ended. *refused*: certainly without effect. *unknown*: it may have had its effect.
*crashed*: with an error that no transport may raise. *malformed*: with an invalid result.
*hung*: not within its time.
"""

Fate = Literal["sent", "refused", "unknown"]
Way = Literal["commit", "rollback"]
Kind = Literal["session", "connection"]


# --- calls -----------------------------------------------------------------------------------------


@attrs.frozen
class Open:
    """A worker starts, with its own instance of the transport."""


@attrs.frozen
class Kill:
    """The worker vanishes."""


@attrs.frozen
class Close:
    """The worker closes its transport."""


@attrs.frozen(kw_only=True)
class SetUp:
    """Create what is missing."""

    queues: tuple[str, ...]
    dry_run: bool = False


@attrs.frozen
class Break:
    """The store beneath the worker fails in its next call."""

    where: Literal["before", "after"]
    at: int | None = None
    """The number of the write that fails; ``None``: the one that makes the others durable, such as a commit."""


@attrs.frozen
class Mend:
    """The store works again."""


@attrs.frozen(kw_only=True)
class Send:
    """Send envelopes."""

    envelopes: tuple[Envelope, ...]
    delay: float = 0.0


@attrs.frozen(kw_only=True)
class SendUnique(Send):
    """Send envelopes unless another event has the key; then it ends as *refused*. Who has a key is not judged."""

    key: str
    within: float = 0.0


@attrs.frozen(kw_only=True)
class PutRaw:
    """A foreign program puts bytes that are not an envelope into a queue."""

    queue: str
    raw: bytes
    headers: Mapping[str, str]


@attrs.frozen(kw_only=True)
class Receive:
    """Receive what is ready."""

    queues: tuple[str, ...]
    limit: int
    lease: float
    wait: float


@attrs.frozen
class Take:
    """Lease an event by its id."""

    queue: str
    event_id: str
    lease: float

    @property
    def queues(self) -> tuple[str, ...]:
        """The queue, as of a receive."""
        return (self.queue,)


@attrs.frozen
class Item:
    """One settlement: the number of the delivery, and its outcome."""

    delivery: int
    outcome: Outcome


@attrs.frozen(kw_only=True)
class Settle:
    """Settle deliveries."""

    items: tuple[Item, ...]


@attrs.frozen(kw_only=True)
class Extend:
    """Extend the leases of deliveries."""

    deliveries: tuple[int, ...]
    lease: float


@attrs.frozen(kw_only=True)
class Checkpoint:
    """Store the state of a delivery."""

    delivery: int
    state: bytes


@attrs.frozen(kw_only=True)
class Begin:
    """Store the note of the process that begins a delivery."""

    delivery: int
    note: Note


@attrs.frozen(kw_only=True)
class Excuse:
    """Mark a note as excused, even if another worker holds the event."""

    delivery: int
    note: Note


@attrs.frozen(kw_only=True)
class ListDead:
    """List dead letters."""

    queues: tuple[str, ...]
    after: str | None = None
    limit: int = 100


@attrs.frozen(kw_only=True)
class Revive:
    """Make dead letters ready again."""

    refs: Mapping[str, bytes]
    delay: float = 0.0


@attrs.frozen(kw_only=True)
class Discard:
    """Delete dead letters."""

    refs: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Cancel:
    """Remove an event by its id."""

    event_id: str


@attrs.frozen(kw_only=True)
class Find:
    """Find an event by its id."""

    event_id: str


@attrs.frozen(kw_only=True)
class ListWaiting:
    """List the events that are neither done nor dead."""

    queues: tuple[str, ...]
    where: EventFilter | None = None
    after: str | None = None
    limit: int = 100
    whole: bool = False
    """Whether it is the whole list, read page by page, and not one page."""


@attrs.frozen(kw_only=True)
class ListMatching:
    """List the dead letters that a filter chooses."""

    queues: tuple[str, ...]
    where: DeadLetterFilter
    after: str | None = None
    limit: int = 100


@attrs.frozen(kw_only=True)
class CountGroups:
    """Count events, or dead letters, by what they have in common."""

    queues: tuple[str, ...]
    by: Literal["event", "queue", "state", "reason"]
    where: EventFilter | DeadLetterFilter | None = None
    dead: bool = False
    """Whether dead letters are counted."""


@attrs.frozen(kw_only=True)
class ListStuck:
    """List the ordering keys that are stuck."""

    queues: tuple[str, ...]
    longer: float
    limit: int = 10


@attrs.frozen(kw_only=True)
class Purge:
    """Remove what is not held from a queue."""

    queue: str


@attrs.frozen(kw_only=True)
class Count:
    """Return the figures of a queue."""

    queue: str


@attrs.frozen(kw_only=True)
class SendBound:
    """Send inside a transaction, which has a number."""

    transaction: int
    envelopes: tuple[Envelope, ...]
    delay: float = 0.0
    relay_to: str | None = None
    number: int = 0
    """Its number among the sends of the transaction."""

    kind: Kind = "session"
    """The hook of the harness that began the transaction."""

    session: int = 0
    """The number of its session, which other transactions may share; 0: it has one of its own."""


@attrs.frozen(kw_only=True)
class Make:
    """The transport asks the application for the envelopes of a send inside a transaction."""

    transaction: int
    number: int
    """That of the send in the transaction."""


@attrs.frozen(kw_only=True)
class SetSavepoint:
    """Begin a savepoint."""

    transaction: int
    savepoint: int


@attrs.frozen(kw_only=True)
class EndSavepoint:
    """End a savepoint; a rollback undoes all that was sent since it began."""

    transaction: int
    savepoint: int
    way: Way


@attrs.frozen(kw_only=True)
class EndTransaction:
    """End a transaction."""

    transaction: int
    way: Way
    how: Literal["", "close", "fail"] = ""
    """*close*: by a close of the session. *fail*: the commit is made to fail."""

    session: int = 0


@attrs.frozen(kw_only=True)
class Lock:
    """Take a lock."""

    name: str
    holder: str
    ttl: float


@attrs.frozen(kw_only=True)
class RenewLock:
    """Renew a lock."""

    name: str
    receipt: str
    ttl: float


@attrs.frozen(kw_only=True)
class Unlock:
    """Release a lock."""

    name: str
    receipt: str


@attrs.frozen(kw_only=True)
class Announce:
    """Store what a worker announces about itself."""

    about_worker: str
    about: bytes
    ttl: float


@attrs.frozen
class ListWorkers:
    """List what workers announced."""


@attrs.frozen(kw_only=True)
class SetControl:
    """Store what an operator asks of workers."""

    key: str
    what: bytes
    ttl: float


@attrs.frozen
class ListControls:
    """List what operators ask of workers."""


@attrs.frozen(kw_only=True)
class ChangeLimit:
    """Change what counts against a limit."""

    key: str
    ttl: float


@attrs.frozen
class Drain:
    """Close the other workers, let all delays and leases end, and ack the rest; *done* if the queues became empty."""


@attrs.frozen
class Remark:
    """Not a call: a note on the history itself, such as what a replay left out."""

    text: str


Call = (
    Open
    | Kill
    | Close
    | SetUp
    | Break
    | Mend
    | Send
    | SendUnique
    | PutRaw
    | Receive
    | Take
    | Settle
    | Extend
    | Checkpoint
    | Begin
    | Excuse
    | ListDead
    | Revive
    | Discard
    | Cancel
    | Find
    | ListWaiting
    | ListMatching
    | CountGroups
    | ListStuck
    | Purge
    | Count
    | SendBound
    | Make
    | SetSavepoint
    | EndSavepoint
    | EndTransaction
    | Lock
    | RenewLock
    | Unlock
    | Announce
    | ListWorkers
    | SetControl
    | ListControls
    | ChangeLimit
    | Drain
    | Remark
)


# --- results ---------------------------------------------------------------------------------------


@attrs.frozen
class Fates:
    """The result of a send: the fate of each envelope, by position."""

    fates: tuple[Fate, ...]

    told_apart: bool = True
    """Whether the error named each position once."""


@attrs.frozen(kw_only=True)
class Handed:
    """One delivery of a receive, with a number that is unique in the history."""

    number: int
    event: Envelope | Unreadable
    queue: str
    attempt: int
    lost_leases: int
    state: bytes
    enqueued_at: float
    begun: Note | None = None
    deaths: tuple[str, ...] = ()


@attrs.frozen
class HandedOut:
    """The result of a receive."""

    deliveries: tuple[Handed, ...]


@attrs.frozen(kw_only=True)
class Settled:
    """The result of a settle or an extend: the numbers of the lost deliveries, and of the unchanged ones."""

    lost: tuple[int, ...] = ()
    unsettled: tuple[int, ...] = ()


@attrs.frozen
class Entries:
    """The result of listing dead letters."""

    entries: tuple[DeadLetterEntry, ...]


@attrs.frozen
class Missing:
    """The result of a revive or a discard: the refs that were not found."""

    refs: tuple[str, ...]


@attrs.frozen
class Number:
    """The result of a cancel or a purge: the number of removed events."""

    number: int


@attrs.frozen
class Living:
    """The result of a find."""

    events: tuple[Found, ...]


@attrs.frozen
class Waiting:
    """The result of listing events that are neither done nor dead."""

    entries: tuple[WaitingEntry, ...]


@attrs.frozen
class Groups:
    """The result of counting by groups."""

    groups: tuple[EventGroup, ...]


@attrs.frozen
class Stuck:
    """The result of listing ordering keys that are stuck."""

    stuck: StuckKeys


@attrs.frozen
class Figures:
    """The result of a count."""

    stats: Stats


@attrs.frozen
class Locked:
    """The result of taking a lock: its receipt; ``None`` if another holder has it."""

    receipt: str | None


@attrs.frozen
class Renewed:
    """The result of renewing a lock: whether the receipt still held it."""

    holds: bool


@attrs.frozen
class Announced:
    """The result of listing what workers announced: the announcements by worker."""

    workers: Mapping[str, bytes]


@attrs.frozen
class Controls:
    """The result of listing what operators ask of workers: the controls by key."""

    controls: Mapping[str, bytes]


@attrs.frozen(kw_only=True)
class LimitChanged:
    """The result of a change of what counts against a limit: the last call of the function, and its result."""

    before: bytes
    now: float
    after: bytes


@attrs.frozen
class Words:
    """The result of a setup: what was, or would be, created."""

    lines: tuple[str, ...]


Value = (
    Fates
    | HandedOut
    | Settled
    | Entries
    | Missing
    | Number
    | Living
    | Waiting
    | Groups
    | Stuck
    | Figures
    | Locked
    | Renewed
    | Announced
    | Controls
    | LimitChanged
    | Words
)


# --- the records -----------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Invoked:
    """A call begins."""

    op: int
    """The number of the call, unique in the history."""

    worker: str
    at: float
    """Seconds since the epoch, by the harness's clock."""

    call: Call


@attrs.frozen(kw_only=True)
class Returned:
    """A call ends."""

    op: int
    at: float
    end: End
    error: str = ""
    """The class name of what was raised; for an invalid result, the problem."""

    value: Value | None = None


Record = Invoked | Returned
History = Sequence[Record]


def tally(history: Iterable[Record]) -> dict[str, int]:
    """
    Count the situations that a history went through, by name.

    A run that never met a situation proves nothing about it. A situation such as "receive raced settle" is a pair of
    calls that were in flight at the same time.
    """
    history = tuple(history)
    counts: dict[str, int] = {**_races(history)}
    calls: dict[int, Call] = {}
    sent: set[tuple[str, str, str]] = set()
    broken: set[str] = set()
    exposed: set[int] = set()
    for record in history:
        if isinstance(record, Invoked):
            names = _asked(record.call, sent)
            calls[record.op] = record.call
            _expose(record, broken, exposed)
        else:
            names = _situations(record, calls)
            if record.op in exposed and _is_failure(record):
                names = (*names, "fault met", failed(type(calls[record.op])))
        for name in names:
            counts[name] = counts.get(name, 0) + 1
    return counts


def unreached(history: Iterable[Record]) -> int:
    """Count the calls that did not reach their store although the suite had not broken it."""
    broken: set[str] = set()
    exposed: set[int] = set()
    number = 0
    for record in history:
        if isinstance(record, Invoked):
            _expose(record, broken, exposed)
        elif record.error == TransportUnavailableError.__name__ and record.op not in exposed:
            number += 1
    return number


def _expose(record: Invoked, broken: set[str], exposed: set[int]) -> None:
    """Note the workers whose store is broken, and the calls that may meet the fault."""
    match record.call:
        case Break():
            broken.add(record.worker)
        case Mend():
            broken.discard(record.worker)
        case _ if record.worker in broken:
            exposed.add(record.op)
        case _:
            pass


def failed(call: type[Any]) -> str:
    """Return the name of the situation that a call of the class *call* failed while its store was broken."""
    return f"{call.__name__.lower()} failed"


def _is_failure(record: Returned) -> bool:
    """Return whether a call ended with an error of its store, which refuses nothing by the rules of the interface."""
    raised = getattr(errors, record.error, Exception)
    by_rule = (ConfigurationError, LeaseLostError, TransportClosedError)
    return record.end in ("unknown", "refused") and not issubclass(raised, by_rule)


def _asked(call: Call, sent: set[tuple[str, str, str]]) -> Iterable[str]:
    """Return the situations of a call that do not depend on its end."""
    if not isinstance(call, Send | SendBound):
        return
    if len(call.envelopes) > 1:
        yield "batch"
    for envelope in call.envelopes:
        identity = (envelope.queue, envelope.source, envelope.id)
        if identity in sent:
            yield "event again"
        sent.add(identity)
        if call.delay:
            yield "event delayed"
        if envelope.urgency != "normal":
            yield "event urgent"
        if envelope.ordering_key is not None:
            yield "event with a key"


def _situations(record: Returned, calls: Mapping[int, Call]) -> Iterable[str]:
    call = calls[record.op]
    kind = type(call).__name__.lower()
    yield f"{kind} {record.end}"
    if record.error == "UnsupportedError":
        yield "unsupported"
    match call, record.value:
        case SendUnique(), None if record.end == "refused" and not record.error:
            pass  # another event has its key
        case Send(), Fates(fates=fates):
            yield from (f"event {fate}" for fate in fates)
        case Send(envelopes=envelopes), None:
            fate = "sent" if record.end == "done" else record.end
            yield from (f"event {fate}" for _ in envelopes)
        case Receive(limit=limit), HandedOut(deliveries=deliveries):
            if len(deliveries) == limit:
                yield "limit reached"
            for handed in deliveries:
                yield from _handed_out(handed)
        case Settle(items=items), Settled(lost=lost):
            for item in items:
                stale = "stale " if item.delivery in lost else ""
                yield f"{stale}{type(item.outcome).__name__.lower()}"
        case Extend(), Settled(lost=lost):
            yield "stale extend" if lost else "extended"
        case Revive(refs=refs), Missing(refs=missing):
            yield from ("revived" for ref in refs if ref not in missing)
        case _:
            pass


def _handed_out(handed: Handed) -> Iterable[str]:
    yield "unreadable handed out" if isinstance(handed.event, Unreadable) else "event handed out"
    if handed.lost_leases:
        yield "handed out after a lost lease"
    if handed.attempt - handed.lost_leases > 1:
        yield "handed out after a nack"


# --- races -----------------------------------------------------------------------------------------

_Thing = tuple[str, object]
"""What a call is about: an event, a queue, a delivery, a dead letter or a lock."""


class _Flight:
    """A call, and what it raced with."""

    def __init__(self, operation: str, worker: str, things: frozenset[_Thing], flying: Iterable[_Flight]) -> None:
        self.operation, self.worker, self.things = operation, worker, things
        self.rivals = [one for one in flying if one.worker != worker and self._meets(one)]
        self.had_effect = False
        """Whether it succeeded; a receive also has to hand something out, and a lock to be taken."""

    def _meets(self, other: _Flight) -> bool:
        shared = self.things & other.things
        if self.operation == other.operation == "send":  # a queue is large enough for both
            return any(kind == "event" for kind, _ in shared)
        return bool(shared)


def _races(records: Iterable[Record]) -> Mapping[str, int]:
    """
    Count the pairs of calls that raced, by name, such as "receive raced settle".

    Two calls raced if each of them began before the other one ended, they were of different workers and about the same
    thing, and one of them had an effect: two receives from an empty queue do not race.
    """
    flying: dict[int, _Flight] = {}
    flights: list[_Flight] = []
    homes: dict[str, set[str]] = {}
    for record in records:
        if isinstance(record, Returned):
            if (flight := flying.pop(record.op, None)) is not None:
                flight.had_effect = record.end == "done" and record.value not in (HandedOut(()), Locked(None))
        elif isinstance(record.call, Kill):
            flying = {op: flight for op, flight in flying.items() if flight.worker != record.worker}
        elif things := frozenset(_things(record.call, homes)):
            flight = _Flight(type(record.call).__name__.lower(), record.worker, things, flying.values())
            flying[record.op] = flight
            flights.append(flight)
    return Counter(
        " raced ".join(sorted((flight.operation, rival.operation)))
        for flight in flights
        for rival in flight.rivals
        if flight.had_effect or rival.had_effect
    )


def _things(call: Call, homes: dict[str, set[str]]) -> Iterable[_Thing]:
    """Return what *call* is about; *homes* are the queues that each event was sent to, which a send adds to."""
    match call:
        case Send(envelopes=envelopes):
            for envelope in envelopes:
                homes.setdefault(envelope.id, set()).add(envelope.queue)
                yield from (("event", envelope.id), ("queue", envelope.queue))
        case Receive(queues=queues):
            yield from (("queue", queue) for queue in queues)
        case Take(queue=queue, event_id=event_id):
            yield from (("event", event_id), ("queue", queue))
        case Purge(queue=queue):
            yield "queue", queue
        case Cancel(event_id=event_id):
            yield from (("event", event_id), *(("queue", queue) for queue in homes.get(event_id, ())))
        case Settle(items=items):
            yield from (("delivery", item.delivery) for item in items)
        case Extend(deliveries=deliveries):
            yield from (("delivery", delivery) for delivery in deliveries)
        case Checkpoint(delivery=delivery) | Begin(delivery=delivery):
            yield "delivery", delivery
        case Revive(refs=refs) | Discard(refs=refs):
            yield from (("dead letter", ref) for ref in refs)
        case Lock(name=name) | RenewLock(name=name) | Unlock(name=name) | ChangeLimit(key=name):
            yield "lock or limit", name
        case _:
            pass
