"""
What happened, as values: what was asked of which worker, how each call ended, and when.

A history is a flat sequence of two records: a call begins, a call ends. A call that never ended,
since its process died, leaves the first without the second. Written down as JSON lines it can be
judged again, elsewhere and later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import attrs

from relevo import DeadLetterEntry, Envelope, Found, Note, Outcome, Stats, Unreadable
from relevo.errors import TransportUnavailableError

End = Literal["done", "refused", "unknown", "crashed", "malformed", "hung"]
"""
How a call ended. *refused*: certainly without effect. *unknown*: it may have had its effect.
*crashed*: with something that no transport may raise. *malformed*: with an invalid answer.
*hung*: not at all, as long as anybody waited.
"""

Fate = Literal["sent", "refused", "unknown"]
Way = Literal["commit", "rollback"]


# --- what is asked ---------------------------------------------------------------------------------


@attrs.frozen
class Open:
    """Another worker begins, with an instance of its own."""


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
    """The store beneath the worker breaks for its next call."""

    where: Literal["before", "after"]
    at: int | None = None
    """Which of the writes; ``None``: the one that makes the others last."""


@attrs.frozen
class Mend:
    """It is whole again."""


@attrs.frozen(kw_only=True)
class Send:
    """Take envelopes over."""

    envelopes: tuple[Envelope, ...]
    delay: float = 0.0


@attrs.frozen(kw_only=True)
class PutRaw:
    """A stranger puts bytes that are not an envelope into a queue."""

    queue: str
    raw: bytes
    headers: Mapping[str, str]


@attrs.frozen(kw_only=True)
class Receive:
    """Hand out what is ready."""

    queues: tuple[str, ...]
    limit: int
    lease: float
    wait: float


@attrs.frozen
class Item:
    """One settlement: the number of the delivery, and its outcome."""

    delivery: int
    outcome: Outcome


@attrs.frozen(kw_only=True)
class Settle:
    """End deliveries."""

    items: tuple[Item, ...]


@attrs.frozen(kw_only=True)
class Extend:
    """Keep deliveries hidden."""

    deliveries: tuple[int, ...]
    lease: float


@attrs.frozen(kw_only=True)
class Checkpoint:
    """Keep progress."""

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
    """Look at the dead letters."""

    queues: tuple[str, ...]
    after: str | None = None
    limit: int = 100


@attrs.frozen(kw_only=True)
class Revive:
    """Make dead letters ready again."""

    refs: Mapping[str, bytes]


@attrs.frozen(kw_only=True)
class Discard:
    """Delete dead letters."""

    refs: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Cancel:
    """Take out an event by its id."""

    event_id: str


@attrs.frozen(kw_only=True)
class Find:
    """Look an event up by its id."""

    event_id: str


@attrs.frozen(kw_only=True)
class Purge:
    """Take out what nobody holds."""

    queue: str


@attrs.frozen(kw_only=True)
class Count:
    """Ask for the figures of a queue."""

    queue: str


@attrs.frozen(kw_only=True)
class SendBound:
    """Send inside a transaction, which is named by its number."""

    transaction: int
    envelopes: tuple[Envelope, ...]
    delay: float = 0.0
    relay_to: str | None = None


@attrs.frozen(kw_only=True)
class SetSavepoint:
    """Begin a part of a transaction."""

    transaction: int
    savepoint: int


@attrs.frozen(kw_only=True)
class EndSavepoint:
    """End it: with a rollback all that was sent since it began is taken back."""

    transaction: int
    savepoint: int
    way: Way


@attrs.frozen(kw_only=True)
class EndTransaction:
    """End a transaction."""

    transaction: int
    way: Way


@attrs.frozen
class Drain:
    """All other workers are closed, all time has passed, and what still comes is acked; done if it came to an end."""


@attrs.frozen
class Remark:
    """Nothing that was asked for: a word on the history itself, such as what a replay left out."""

    text: str


Call = (
    Open
    | Kill
    | Close
    | SetUp
    | Break
    | Mend
    | Send
    | PutRaw
    | Receive
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
    | Purge
    | Count
    | SendBound
    | SetSavepoint
    | EndSavepoint
    | EndTransaction
    | Drain
    | Remark
)


# --- what came of it -------------------------------------------------------------------------------


@attrs.frozen
class Fates:
    """Of a send: what is known of each envelope, by position."""

    fates: tuple[Fate, ...]

    told_apart: bool = True
    """Whether the error named each position once."""


@attrs.frozen(kw_only=True)
class Handed:
    """Of a receive: one delivery, numbered over the whole history."""

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
    """Of a receive: all deliveries."""

    deliveries: tuple[Handed, ...]


@attrs.frozen(kw_only=True)
class Settled:
    """Of a settle or an extend: the numbers of the deliveries that were lost, and of those that stayed as they were."""

    lost: tuple[int, ...] = ()
    unsettled: tuple[int, ...] = ()


@attrs.frozen
class Entries:
    """Of a look at the dead letters."""

    entries: tuple[DeadLetterEntry, ...]


@attrs.frozen
class Missing:
    """Of a revive or a discard: the refs that were not found."""

    refs: tuple[str, ...]


@attrs.frozen
class Number:
    """Of a cancel or a purge: how many were taken out."""

    number: int


@attrs.frozen
class Living:
    """Of a find: the events that are kept."""

    events: tuple[Found, ...]


@attrs.frozen
class Figures:
    """Of a count."""

    stats: Stats


@attrs.frozen
class Words:
    """Of a set-up: what was, or would be, created."""

    lines: tuple[str, ...]


Value = Fates | HandedOut | Settled | Entries | Missing | Number | Living | Figures | Words


# --- the records -----------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Invoked:
    """A call begins."""

    op: int
    """Numbers the calls of a history."""

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
    """The name of the class of what was raised; what was wrong where it was nothing that may be."""

    value: Value | None = None


Record = Invoked | Returned
History = Sequence[Record]


def tally(history: Iterable[Record]) -> dict[str, int]:
    """
    Count the situations that a history went through, by name.

    A suite that never met a situation has proved nothing about it.
    """
    counts: dict[str, int] = {}
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
            if record.op in exposed and record.end in ("unknown", "refused"):
                names = (*names, "fault met")
        for name in names:
            counts[name] = counts.get(name, 0) + 1
    return counts


def unreached(history: Iterable[Record]) -> int:
    """Count the calls that did not reach their store, although nobody had broken it."""
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
    """Take note of whose store is broken, and of the calls that may meet the fault."""
    match record.call:
        case Break():
            broken.add(record.worker)
        case Mend():
            broken.discard(record.worker)
        case _ if record.worker in broken:
            exposed.add(record.op)
        case _:
            pass


def _asked(call: Call, sent: set[tuple[str, str, str]]) -> Iterable[str]:
    """Return the situations that a call brings about by itself, however it ends."""
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
