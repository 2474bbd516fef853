"""
Envelopes as rows and rows as deliveries: pure functions.

Any program may have written or changed a row. A row that is not an envelope becomes ``Unreadable`` and never raises an
error, since an error here would block every event behind it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from logging import getLogger
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import attrs

from relevo import MAX_DEATHS, MAX_LEASE, DeadLetterEntry, Delivery, DoneEntry, Envelope, Found, Note, Unreadable
from relevo.backend import made_delivery, made_envelope
from relevo.errors import shown
from relevo_sql._schema import CONTENT, HIGH, LEASED, NORMAL, READY, SCHEDULED, WAITING

_log = getLogger("relevo.sql")

LONGEST = 2**62
"""Microseconds that mean never: later times are reduced to this, so that every column can hold them."""

FARTHEST = 2 * round(MAX_LEASE * 1_000_000)
"""
Microseconds from now within which every lease of relevo ends: twice the longest one, since clocks differ.

A lease that ends later was written by another program, and counts as over.
"""

_MOST = 2**31 - 1
"""The largest counter that every column can hold; larger ones are reduced to it."""

LONGEST_EVIDENCE = 8192
"""Characters of a note, and of a list of deaths, that are read; twice as many as relevo writes."""

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Kept(NamedTuple):
    """
    The columns that an event keeps, living, dead or done, in the order of the tables.

    The database may return values of any type.
    """

    queue: Any
    target: Any
    event_id: Any
    source: Any
    name: Any
    urgency: Any
    ordering_key: Any
    expires: Any
    attempt: Any
    lost_leases: Any
    enqueued_at: Any
    headers: Any
    progress: Any
    body: Any


class Sent(NamedTuple):
    """The row that a send writes; flat, as the driver takes it."""

    state: int
    ready_at: int
    queue: str
    target: str
    event_id: str
    source: str
    name: str
    urgency: int
    ordering_key: str | None
    expires: float | None
    attempt: int
    lost_leases: int
    enqueued_at: int
    headers: str | None
    progress: bytes
    body: bytes


class Stray(NamedTuple):
    """The columns that show why no claim finds a row."""

    seq: int
    state: Any
    ready_at: Any
    lease_until: Any
    queue: Any
    ordering_key: Any
    target: Any


class OrderingGroup(NamedTuple):
    """An ordering group."""

    queue: Any
    target: Any
    ordering_key: Any


Row = Sequence[Any]
"""A row as the driver returns it."""

EVIDENCE = ("begun", "deaths")
"""The note and the list of deaths, of each at most :data:`LONGEST_EVIDENCE` characters."""

CLAIMED = ("seq", "ready_at", *Kept._fields, *EVIDENCE)
"""The columns of :func:`delivery_of`."""

FOUND = ("seq", "ready_at", *Kept._fields, "state", "lease_until", "begun")
"""The columns of :func:`found_of`."""

SHOWN = ("ref", *Kept._fields, "reason", "error", "died_at")
"""The columns of :func:`entry_of`."""

ARCHIVED = (*Kept._fields, "done_at")
"""The columns of :func:`done_of`."""


class Receipt(NamedTuple):
    """Proof of one delivery."""

    seq: int
    """The key of the row."""

    token: int
    """The token of the claim that leased the row, perhaps with others; no other claim has the same."""


class Undecodable(bytes):
    """Text from the database that is not UTF-8."""

    __slots__ = ()


def micros(seconds: float) -> int:
    """Return *seconds* as whole microseconds that every column can hold."""
    if seconds >= LONGEST / 1_000_000:
        return LONGEST
    return round(seconds * 1_000_000)


def lease_end(lease: float, now: int) -> int:
    """Return when a lease of *lease* seconds that begins *now* ends, in microseconds; :data:`MAX_LEASE` at most."""
    return now + micros(min(lease, MAX_LEASE))


def row_of(envelope: Envelope, *, now: int, due: int, outbox: str | None = None) -> Sent:
    """
    Return *envelope* as the row that a send writes.

    Args:
        envelope: The envelope to send.

        now: Microseconds since the epoch.

        due: When it becomes ready; it is ready at once unless this is later than *now*, as 0 never is.

        outbox: The queue to store it in instead of its own.

    Raises:
        UnicodeEncodeError: A header holds a lone surrogate.
    """
    # Faster than the constructor, and checks the length.
    return Sent._make(
        (
            SCHEDULED if due > now else READY,
            max(due, now),
            outbox or envelope.queue,
            envelope.queue,
            envelope.id,
            envelope.source,
            envelope.name,
            HIGH if envelope.urgency == "high" else NORMAL,
            envelope.ordering_key,
            envelope.expires,
            1,
            0,
            now,
            _headers_text(envelope.headers) if envelope.headers else None,
            b"",
            envelope.body,
        )
    )


def delivery_of(row: Row, token: int) -> Delivery:
    """Return the *row*, with the columns :data:`CLAIMED`, as a delivery."""
    (
        seq, _, queue, _, _, _, _, _, _, _, attempt, lost_leases, enqueued_at, _, progress, _, begun, deaths,
    ) = row  # fmt: skip
    return made_delivery(
        envelope=envelope_of(row[2:-2]),
        queue=queue,
        attempt=attempt if type(attempt) is int and attempt >= 1 else 1,
        lost_leases=lost_leases if type(lost_leases) is int and lost_leases >= 0 else 0,
        begun=Note.unpacked(begun) if type(begun) is str else None,
        deaths=() if deaths is None else deaths_of(deaths),
        receipt=Receipt(seq, token),
        state=progress if type(progress) is bytes else _raw(progress),
        enqueued_at=_seconds(enqueued_at),
    )


def deaths_of(text: Any) -> tuple[str, ...]:
    """Return the processes that *text* lists; empty if it is not a valid list."""
    if type(text) is not str:
        return ()
    try:
        found = json.loads(text)
        "".join(found).encode()
    except (ValueError, TypeError, RecursionError):
        return ()
    return tuple(found[-MAX_DEATHS:]) if type(found) is list else ()


def deaths_text(deaths: Sequence[str]) -> str | None:
    """
    Return the last of *deaths* as JSON for :func:`deaths_of`; ``None`` if there are none.

    With names of the length of an identity it fits into :data:`LONGEST_EVIDENCE`: only control characters, quotes and
    backslashes are escaped. A lone surrogate, which databases refuse, becomes a question mark.
    """
    if not deaths:
        return None
    valid = [death.encode(errors="replace").decode() for death in deaths[-MAX_DEATHS:]]
    return json.dumps(valid, ensure_ascii=False)


def stray_of(row: Row, token: int, *, queue: str, flaw: str) -> Delivery:
    """
    Return a stray row as an unreadable delivery.

    Args:
        row: The row, with the columns :data:`CLAIMED`.

        token: The token of the claim.

        queue: The queue that hands it out; its own unless that is not text.

        flaw: What is wrong with the row, see :func:`stray_flaw`.
    """
    seq, ready_at, *columns, _, _ = row
    kept = Kept._make(columns)._replace(queue=queue)
    delivery = delivery_of((seq, ready_at, *kept, None, None), token)
    headers = _headers(kept.headers) or NO_HEADERS
    return attrs.evolve(delivery, envelope=Unreadable(raw=_raw(kept.body), headers=headers, why=flaw))


def stray_flaw(row: Stray) -> str:
    """Return which column of *row* keeps it from being handed out."""
    if not isinstance(row.queue, str):
        return f"the column queue {_held(row.queue)}"
    if type(row.state) is not int or row.state not in (READY, LEASED, SCHEDULED, WAITING):
        return f"the column state {_held(row.state)}"
    if row.state == LEASED:
        return f"the column lease_until {_held(row.lease_until)} and the row is leased"
    if type(row.ready_at) is not int:
        return f"the column ready_at {_held(row.ready_at)}"
    column = "ordering_key" if row.ordering_key is None else "target"
    return f"the column {column} is NULL and the row waits for others of its ordering key"


def found_of(row: Iterable[Any], now: int) -> Found | None:
    """Return the *row*, with the columns :data:`FOUND`, for display; ``None`` if it is unreadable."""
    seq, ready_at, *kept, state, lease_until, begun = row
    delivery = delivery_of((seq, ready_at, *kept, begun, None), 0)
    # What is delayed is scheduled, also if it will wait for its turn when it is due.
    until = {LEASED: lease_until, SCHEDULED: ready_at, WAITING: ready_at}.get(state)
    if not isinstance(delivery.envelope, Envelope):
        return None
    lost = 0
    if not isinstance(until, int) or until <= now or (state == LEASED and until > now + FARTHEST):
        lost = int(state == LEASED)  # not swept yet; the next delivery counts it
        state, until = READY, None
    return Found(
        queue=delivery.queue,
        envelope=delivery.envelope,
        status="leased" if state == LEASED else "ready" if until is None else "scheduled",
        attempt=delivery.attempt + lost,
        lost_leases=delivery.lost_leases + lost,
        state=delivery.state,
        enqueued_at=delivery.enqueued_at,
        until=None if until is None else _seconds(until),
        begun=delivery.begun,
    )


def warn_if_unreadable(transport: str, event_id: str, kept: Row) -> None:
    """Log that the columns :class:`Kept` of the event *event_id* of *transport* are not an envelope, if so."""
    envelope = envelope_of(kept)
    if isinstance(envelope, Unreadable):
        _log.warning(
            'the transport "%s": an event with the id %s in the queue %s is unreadable, so it is not shown: %s',
            transport,
            shown(event_id),
            shown(_text(kept[0])),
            envelope.why,
        )


def place_of(row: Row) -> tuple[int, int, int]:
    """Return the place of *row*, with the columns :data:`CLAIMED`, among the ready rows of its queue."""
    urgency, ready_at, seq = _place(row)
    return (urgency if type(urgency) is int else NORMAL, ready_at if type(ready_at) is int else 0, seq)


_place = itemgetter(*map(CLAIMED.index, ("urgency", "ready_at", "seq")))


def are_copies(row: Row) -> bool:
    """
    Return whether two events with the same identity are copies of one event.

    Args:
        row: A row that begins with the :data:`CONTENT` of one, and then of the other.
    """
    one, other = row[: len(CONTENT)], row[len(CONTENT) : 2 * len(CONTENT)]
    return [*map(_comparable, one)] == [*map(_comparable, other)]


def _comparable(value: Any) -> Any:
    return "NaN" if isinstance(value, float) and math.isnan(value) else value  # NaN equals nothing, not even itself


def entry_of(row: Iterable[Any]) -> DeadLetterEntry:
    """Return a *row* of the dead letters, with the columns :data:`SHOWN`, for display."""
    ref, *columns, reason, error, died_at = row
    kept = Kept._make(columns)
    queue = _text(kept.queue)
    return DeadLetterEntry(
        ref=f"{ref}@{queue}",
        queue=queue,
        envelope=envelope_of(kept),
        reason=_text(reason),
        error=_text(error),
        state=_raw(kept.progress),
        attempt=kept.attempt if _is_count(kept.attempt, 1) else 1,
        lost_leases=kept.lost_leases if _is_count(kept.lost_leases, 0) else 0,
        enqueued_at=_seconds(kept.enqueued_at),
        died_at=_seconds(died_at),
    )


def row_of_entry(entry: DeadLetterEntry, holdable: Callable[[str], str]) -> dict[str, Any]:
    """
    Return the columns of the dead letter *entry*.

    Args:
        entry: A dead letter of another transport, with a queue of this one. An envelope has texts that every database
            can hold; the other texts may be any.

        holdable: Returns a text in a form that a row can hold.

    Raises:
        UnicodeEncodeError: A header holds a lone surrogate.
    """
    of = entry.envelope
    died_at = micros(entry.died_at)
    earliest = -LONGEST / 1_000_000
    enqueued_at = micros(max(entry.enqueued_at, earliest)) if math.isfinite(entry.enqueued_at) else died_at
    if isinstance(of, Envelope):
        _, _, *columns = row_of(of, now=enqueued_at, due=0, outbox=entry.queue)
        kept = Kept._make(columns)
    else:
        nothing = (None,) * 3
        headers = _headers_text(of.headers) if of.headers else None
        kept = Kept(entry.queue, None, *nothing, NORMAL, None, None, 1, 0, enqueued_at, headers, b"", of.raw)
    attempt, lost_leases = min(entry.attempt, _MOST), min(entry.lost_leases, _MOST)
    counted = kept._replace(attempt=attempt, lost_leases=lost_leases, progress=entry.state)
    said = {"reason": holdable(entry.reason), "error": holdable(entry.error), "died_at": died_at}
    return counted._asdict() | said


def done_of(row: Iterable[Any]) -> DoneEntry | None:
    """Return a *row* of the archive, with the columns :data:`ARCHIVED`, for display; ``None`` if it is unreadable."""
    *columns, done_at = row
    kept = Kept._make(columns)
    envelope = envelope_of(kept)
    if not isinstance(envelope, Envelope):
        return None
    return DoneEntry(
        queue=kept.queue,
        envelope=envelope,
        attempt=kept.attempt,
        lost_leases=kept.lost_leases,
        enqueued_at=_seconds(kept.enqueued_at),
        done_at=_seconds(done_at),
    )


def envelope_of(kept: Row) -> Envelope | Unreadable:
    """Return the envelope in the columns :class:`Kept`, or ``Unreadable`` if a value is invalid."""
    (
        queue, target, event_id, source, name, urgency, ordering_key, expires,
        attempt, lost_leases, enqueued_at, headers, _, body,
    ) = kept  # fmt: skip
    sound = (
        type(queue) is type(event_id) is type(source) is type(name) is str
        and type(body) is bytes
        and urgency in _URGENCIES
        and (target is None or type(target) is str)
        and (ordering_key is None or type(ordering_key) is str)
        and (expires is None or type(expires) is float or type(expires) is int)
        and type(attempt) is type(lost_leases) is type(enqueued_at) is int
        and attempt >= 1
        and lost_leases >= 0
    )
    parsed = NO_HEADERS if headers is None else _headers(headers)
    if not sound or parsed is None:
        return Unreadable(raw=_raw(body), headers=parsed or NO_HEADERS, why=_flaw(Kept._make(kept)))
    return made_envelope(
        id=event_id,
        source=source,
        name=name,
        queue=queue if target is None else target,
        body=body,
        headers=parsed,
        urgency=_URGENCIES[urgency],
        ordering_key=ordering_key,
        expires=None if expires is None else float(expires),
    )


_TEXT = {str}
_URGENCIES: Mapping[int, Literal["normal", "high"]] = {NORMAL: "normal", HIGH: "high"}


def _is_count(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _headers_text(headers: Mapping[str, str]) -> str:
    """Return *headers* as :func:`_headers` reads them."""
    _check_text(headers)
    return json.dumps(dict(headers), separators=(",", ":"))


def _check_text(headers: Mapping[str, str]) -> None:
    """Raise :class:`UnicodeEncodeError` if *headers* hold a lone surrogate, which only JSON can escape."""
    "".join((*headers, *headers.values())).encode()


def _headers(text: Any) -> Mapping[str, str] | None:
    """Return the headers in *text*, or ``None`` if they are invalid."""
    if text is None:
        return NO_HEADERS
    if type(text) is not str:
        return None
    try:
        found = json.loads(text)
        if type(found) is not dict or {type(value) for value in found.values()} - _TEXT:
            return None
        _check_text(found)
    except (ValueError, RecursionError):
        return None
    return found


def _raw(value: Any) -> bytes:
    """Return the *value* of a column of bytes, which may hold something else."""
    match value:
        case None:
            return b""
        case bytes():
            return bytes(value)
        case str():
            return value.encode("utf-8", "surrogatepass")
        case _:
            return str(value).encode()


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else str(value)


def _seconds(value: Any) -> float:
    """Return microseconds as seconds; NaN if *value* is not a number."""
    return value / 1_000_000 if type(value) in (int, float) else math.nan


def _flaw(kept: Kept) -> str:
    """Return which of the *kept* columns is invalid in an envelope, and why."""
    values = kept._asdict()
    wanted: dict[str, tuple[type | None, ...]] = {
        "queue": (str,), "event_id": (str,), "source": (str,), "name": (str,), "body": (bytes,),
        "target": (str, None), "ordering_key": (str, None), "expires": (float, int, None),
        "enqueued_at": (int,), "attempt": (int,), "lost_leases": (int,), "urgency": (int,),
    }  # fmt: skip
    for column, types in wanted.items():
        value = values[column]
        if (None if value is None else type(value)) not in types:
            return f"the column {column} {_held(value)}"
    for column, least in (("attempt", 1), ("lost_leases", 0)):
        if values[column] < least:
            return f"the column {column} holds {values[column]}"
    if values["urgency"] not in _URGENCIES:
        return f"the column urgency holds {values['urgency']}"
    return "the column headers holds no JSON object of texts, or one with a lone surrogate"


def _held(value: Any) -> str:
    match value:
        case None:
            return "is NULL"
        case Undecodable():
            return "holds text that is not UTF-8"
        case bytes():
            return "holds bytes"
        case str():
            return "holds text"
        case _:
            return f"holds a number, {value}"
