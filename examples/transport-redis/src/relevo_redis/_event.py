"""Conversions between relevo's values and the script's: functions of values, no I/O."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from relevo import (
    Ack,
    DeadLetter,
    DeadLetterEntry,
    Delivery,
    Envelope,
    Found,
    Lost,
    Nack,
    Outcome,
    Release,
    Stats,
    Unreadable,
)
from relevo.errors import DecodeError
from relevo.wire import pack, unpack

Arguments = tuple[bytes | str | float, ...]

_MANY_DIGITS = 20
"""More than any tick has."""

NO_TICK = "-1"
"""Stands for the tick in a ref that is invalid."""

_OPERATIONS: dict[type[Outcome], str] = {
    Ack: "ack",
    Nack: "nack",
    Release: "release",
    Lost: "lose",
    DeadLetter: "dead_letter",
}


@attrs.frozen(kw_only=True)
class Receipt:
    """Proof of one delivery."""

    number: bytes
    """The number of the event in the store."""

    token: str
    """The token of the receive that handed it out."""

    process: int = attrs.field(factory=os.getpid)
    """The process that holds it: after a fork it stays with the parent."""


def holding(delivery: Delivery) -> Arguments:
    """Return the script's arguments for the receipt of *delivery*; empty ones for another transport's or process's."""
    receipt = delivery.receipt
    if not isinstance(receipt, Receipt) or receipt.process != os.getpid():
        return "", ""
    return receipt.number, receipt.token


def micros(seconds: float) -> int:
    """Return *seconds* as microseconds, rounded up so that no event is early."""
    return math.ceil(seconds * 1_000_000)


def posting(envelope: Envelope) -> Arguments:
    """Return the script's arguments for sending an envelope."""
    same = f"{len(envelope.source)}:{envelope.source}{envelope.id}"
    line = "" if envelope.ordering_key is None else f":{envelope.ordering_key}"  # an empty key is a key too
    urgent = "1" if envelope.urgency == "high" else ""
    return envelope.queue, same, envelope.id, line, urgent, pack(envelope)


def settlement(delivery: Delivery, outcome: Outcome) -> Arguments:
    """Return the script's arguments for *outcome*."""
    delay = micros(max(0.0, outcome.delay)) if isinstance(outcome, (Nack, Release)) else 0
    reason, error = (outcome.reason, outcome.error) if isinstance(outcome, DeadLetter) else ("", "")
    words = (reason.encode(errors="replace"), error.encode(errors="replace"))
    state = None if isinstance(outcome, (Ack, Release)) else outcome.state
    return *holding(delivery), _OPERATIONS[type(outcome)], delay, *words, "" if state is None else "1", state or b""


def delivery(token: str, row: Sequence[Any]) -> Delivery:
    """Return the delivery in the script's answer."""
    number, queue, attempt, lost_leases, sent, blob, state = row
    return Delivery(
        envelope=_envelope(blob),
        queue=queue.decode(),
        attempt=_count(attempt, 1),
        lost_leases=_count(lost_leases, 0),
        receipt=Receipt(number=number, token=token),
        state=state or b"",
        enqueued_at=_seconds(sent),
    )


def entry(queue: str, row: Sequence[Any]) -> DeadLetterEntry:
    """Return the dead letter of *queue* in the script's answer."""
    at, reason, error, attempt, lost_leases, sent, died, blob, state = row
    return DeadLetterEntry(
        ref=f"{int(at)}@{queue}",
        queue=queue,
        envelope=_envelope(blob),
        reason=_text(reason),
        error=_text(error),
        state=state or b"",
        attempt=_count(attempt, 1),
        lost_leases=_count(lost_leases, 0),
        enqueued_at=_seconds(sent),
        died_at=_seconds(died),
    )


def grave(ref: str) -> tuple[str, str]:
    """Return the queue of the dead letter *ref* and the tick of its death, NO_TICK if *ref* is invalid."""
    at, _, queue = ref.partition("@")
    # The server reads other texts as the same number.
    is_tick = at.isascii() and at.isdecimal() and len(at) < _MANY_DIGITS and str(int(at)) == at
    return queue, at if is_tick else NO_TICK


def found(rows: Sequence[Sequence[Any]]) -> Iterator[Found]:
    """Yield the living events in the script's answer."""
    for queue, status, attempt, lost_leases, sent, score, blob, state in rows:
        envelope = _envelope(blob)
        if isinstance(envelope, Envelope):
            yield Found(
                queue=queue.decode(),
                envelope=envelope,
                status=status.decode(),
                attempt=_count(attempt, 1),
                lost_leases=_count(lost_leases, 0),
                state=state or b"",
                enqueued_at=_seconds(sent),
                until=None if status == b"ready" else _seconds(score),
            )


def stats(row: Sequence[int]) -> Stats:
    """Return the figures in the script's answer."""
    ready, leased, scheduled, dead, age = row
    return Stats(
        ready=ready, leased=leased, scheduled=scheduled, dead=dead, oldest_age=None if age < 0 else age / 1_000_000
    )


def _envelope(blob: bytes | None) -> Envelope | Unreadable:
    try:
        return unpack(blob or b"")
    except DecodeError as error:
        return Unreadable(raw=blob or b"", why=str(error))


def _seconds(text: bytes | None) -> float:
    """Return the microseconds in *text* as seconds; NaN if *text* is not a number."""
    try:
        return float(text or 0) / 1_000_000
    except ValueError:
        return math.nan


def _count(text: bytes | None, least: int) -> int:
    """Return the counter in *text*; *least* if *text* is not one, since any program can write to the server."""
    return max(least, int(text)) if text is not None and text.isdigit() and len(text) < 10 else least


def _text(text: bytes | None) -> str:
    return (text or b"").decode(errors="replace")
