"""Incidents: a failure as a value, made quickly where it happens, with a fingerprint."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal

import attrs
import msgspec

from relevo._event.codec import decoded
from relevo._process_identity import ProcessIdentity, lives_here
from relevo._transport.delivery import DeadLetter, Delivery, Failure
from relevo._transport.envelope import Envelope
from relevo._worker.evidence import in_words
from relevo.errors import CodecError
from relevo.wire import pack, unpack

_FRAME = re.compile(r'^ +File "(.+?)", line \d+, in (.+)$', re.MULTILINE)
_BEGIN = "Traceback (most recent call last):"
_OTHERS = (sysconfig.get_path("stdlib"), str(Path(__file__).parents[2]))
_MACHINERY = re.compile(rf'^  File "{re.escape(str(Path(__file__).parents[2]))}/.*\n(?:    .*\n)*', re.MULTILINE)
_INSTALLED = ("/site-packages/", "/dist-packages/")


@attrs.frozen(kw_only=True)
class Incident:
    """One failure."""

    kind: Literal["dead", "died", "lost", "failed"]
    """*died*: its process died, and there is evidence of it; *lost*: its lease was lost, which proves no death."""

    delivery: Delivery
    at: float
    """Seconds since the epoch."""

    listener: str = ""
    """Its id; empty if no listener is the cause, or it is not known which one."""

    exception: str = ""
    """The name of its class, if one was raised."""

    error: str
    """In one line."""

    frame: str = ""
    """Where it was raised: the innermost file and function that are neither Python's nor of an installed package."""

    detail: str = ""
    """The other lines of the error, if there are any."""

    trace: str = ""
    output: str = ""
    """The end of what its process printed."""

    reason: str = ""
    """Of a dead letter."""

    runs: int = 0
    due: float | None = None
    """When the listener is run again."""

    died: str = ""
    """The process that died, and its listener, in words, as far as they are known."""

    @property
    def event(self) -> str:
        """The name of the event, as it was sent."""
        envelope = self.delivery.envelope
        return envelope.name if isinstance(envelope, Envelope) else "unreadable"

    @property
    def event_id(self) -> str:
        """The id of the event; empty if it cannot be read."""
        envelope = self.delivery.envelope
        return envelope.id if isinstance(envelope, Envelope) else ""

    @property
    def fingerprint(self) -> str:
        """The identity of failures of one kind, across events, processes and releases."""
        # Who reports a loss may not know the listener that another process reports the same loss of.
        who = self.event if self.kind in ("died", "lost") else self.listener or self.event
        return fingerprint(self.exception or self.reason or self.kind, who, self.frame)

    @property
    def key(self) -> str:
        """The identity of what is counted together: failures of one kind with the same result for the event."""
        return f"{self.kind} {self.fingerprint}"


def fingerprint(kind: str, who: str, frame: str) -> str:
    """Return a hash of what distinguishes failures: their kind, such as an exception, the listener, and the *frame*."""
    text = f"{kind}\0{who}\0{frame}"
    return sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]


def incidents_of(delivery: Delivery, outcome: DeadLetter, *, at: float) -> list[Incident]:
    """Return why *delivery* is dead: one incident for each dead listener, or one for what keeps all from running."""
    failures = outcome.failures or (Failure(reason=outcome.reason, error=outcome.error),)
    return [_incident("dead", delivery, each, at=at) for each in failures]


def retried_incident(delivery: Delivery, failure: Failure, frame: str, *, at: float) -> Incident:
    """Return the *failure* of a listener that is run again; its exception was raised in *frame*."""
    return attrs.evolve(_incident("failed", delivery, failure, at=at), frame=frame)


def _incident(kind: Literal["dead", "failed"], delivery: Delivery, failure: Failure, *, at: float) -> Incident:
    title, _, detail = failure.error.partition("\n")
    if not failure.listener:
        title = f"{failure.reason}: {title}" if title else failure.reason
    return Incident(
        kind=kind,
        delivery=delivery,
        at=at,
        listener=failure.listener,
        exception=failure.kind,
        error=title or failure.reason,
        detail=detail.strip("\n"),
        frame=frame_in(failure.traceback),
        trace=failure.traceback,
        output=failure.output,
        reason=failure.reason,
        runs=failure.attempt,
        due=failure.due,
    )


def loss(delivery: Delivery, error: str, *, at: float, death: str = "", listener: str = "") -> Incident:
    """
    Return the incident of a lease of *delivery* that was lost; *error* says how its process died, if that was seen.

    *death* is the identity of that process, and *listener* the id of the listener that ran in it, if it is known.

    A lost lease proves no death: the worker may have stood still, or its server may have been away.
    """
    if error or _has_died(delivery):
        # What was seen without a death, such as a second TERM, is not one of an earlier process that a note names.
        died = "" if error and not death else _dead_process(delivery, death)
        error = error or "a process died while it held the event"
        listener = listener or ("" if death or not died else _noted_listener(delivery))
        return Incident(kind="died", delivery=delivery, at=at, error=error, died=died, listener=listener)
    return Incident(kind="lost", delivery=delivery, at=at, error="a lease was lost")


def _has_died(delivery: Delivery) -> bool:
    """Return whether a process that began *delivery* has ended, as far as its notes say and this host knows."""
    note = delivery.begun
    process = None if note is None or note.excused else ProcessIdentity.parsed(note.by)
    return bool(delivery.deaths) or (process is not None and lives_here(process) is False)


def _dead_process(delivery: Delivery, death: str) -> str:
    """Return in words the process that died, and its listener: that of *death*, else the last one noted."""
    note = None if death or delivery.begun is None or delivery.begun.excused else delivery.begun
    process = ProcessIdentity.parsed(death or (note.by if note is not None else (delivery.deaths or ("",))[-1]))
    if process is None:
        return ""
    return in_words(process) + (f" in {note.listener}" if note is not None and note.listener else "")


def _noted_listener(delivery: Delivery) -> str:
    """Return the id of the listener that ran in the last process that began *delivery*, if its note names it."""
    note = delivery.begun
    return "" if note is None or note.excused else note.listener


def key_of_failure(failure: Failure, frame: str) -> str:
    """Return the key of the incident that :func:`failed` returns, in a fraction of its time."""
    return f"failed {fingerprint(failure.kind, failure.listener, frame)}"


def location_of(error: BaseException) -> str:
    """Return where *error* was raised."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    return _innermost([(code.co_filename, code.co_name) for code in codes])


def frame_in(trace: str) -> str:
    """Return the same as :func:`frame_of`, from the text of a traceback."""
    return _innermost([(match[1], match[2]) for match in _FRAME.finditer(trace.rpartition(_BEGIN)[2])])


def without_machinery(trace: str) -> str:
    """Return the traceback *trace* without the frames in which relevo called the listener."""
    return _MACHINERY.sub("", trace)


# --- for another process -------------------------------------------------------------------------------

_LARGEST = 64 * 1024
"""Bytes of an incident for another process."""


class _IncidentData(msgspec.Struct, frozen=True):
    """An incident as data."""

    envelope: bytes
    queue: str
    attempt: int
    lost_leases: int
    facts: Mapping[str, str | int | float | None]
    """The other fields of :class:`Incident`."""


_decode = msgspec.msgpack.Decoder(_IncidentData).decode


def packed(incident: Incident, *, arguments: bool) -> bytes | None:
    """
    Return *incident* as bytes for :func:`unpacked`; ``None`` if its event is unreadable, or too large.

    Args:
        incident: The incident.

        arguments: Include the arguments of its event.
    """
    delivery, envelope = incident.delivery, incident.delivery.envelope
    if not isinstance(envelope, Envelope):
        return None
    facts = attrs.asdict(incident, recurse=False)
    del facts["delivery"]
    try:
        if not arguments:
            body = msgspec.structs.replace(decoded(envelope.body), data=msgspec.Raw(b"{}"), data_base64=msgspec.Raw())
            envelope = attrs.evolve(envelope, body=msgspec.json.encode(body))
        data = _IncidentData(pack(envelope), delivery.queue, delivery.attempt, delivery.lost_leases, facts)
        found = msgspec.msgpack.encode(data)
    except (CodecError, UnicodeEncodeError, OverflowError):
        return None
    return found if len(found) <= _LARGEST else None


def unpacked(data: bytes) -> Incident | None:
    """Return the incident in *data*; ``None`` if it is invalid."""
    try:
        found = _decode(data)
        delivery = Delivery(
            envelope=unpack(found.envelope),
            queue=found.queue,
            attempt=found.attempt,
            lost_leases=found.lost_leases,
            receipt=None,
            enqueued_at=0.0,
        )
        return Incident(delivery=delivery, **found.facts)  # type: ignore[arg-type]  # as packed() took them
    except (msgspec.DecodeError, CodecError, TypeError, ValueError):
        return None


def _innermost(frames: Sequence[tuple[str, str]]) -> str:
    """Return the last of *frames* that is the application's; only the file's name, since releases differ in folders."""
    own = [each for each in frames if _is_own(each[0])] or frames
    return f"{Path(own[-1][0]).name}:{own[-1][1]}" if own else ""


def _is_own(filename: str) -> bool:
    return not (filename.startswith(("<", *_OTHERS)) or any(each in filename for each in _INSTALLED))
