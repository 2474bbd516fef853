"""Deliveries and their outcomes; ``relevo._transport.life`` defines the transitions."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import msgspec

from relevo._transport.envelope import NO_HEADERS, Envelope
from relevo._visible import visible

MAX_STATE = 16 * 1024
"""The longest ``state`` in bytes that every transport stores."""

MAX_LEASE = 7 * 86_400.0
"""The longest lease in seconds; a transport may shorten a longer one to this."""

MAX_ERROR = 16 * 1024
"""The longest ``error`` of a dead letter in bytes of UTF-8; the caller of a transport cuts it."""


@attrs.frozen(kw_only=True)
class Unreadable:
    """Bytes that a transport received and that are not an envelope; they are dead-lettered, never dropped."""

    raw: bytes
    headers: Mapping[str, str] = NO_HEADERS
    why: str


MAX_DEATHS = 3
"""The largest number of deaths that is stored with an event; the worker decides before there are more."""

_MAX_NAME = 250
"""The longest listener id or identity in a note, in characters; longer ones are cut."""


def _shortened(text: str) -> str:
    return text[:_MAX_NAME]


@attrs.frozen(kw_only=True)
class Note:
    """
    The record that a worker stores before it begins an event that was lost before.

    It is the evidence for a crash loop: it names the process that began the event. A transport stores it and never
    reads it.

    Args:
        by: The process that begins it, a :class:`ProcessIdentity` as text.

        deaths: The processes that began it earlier and are presumed dead, at most three, as text.

        listener: The id of the listener that runs; empty before the first one.

        excused: The process handled the event, or was stopped: its end does not count as a death.
    """

    by: str
    deaths: tuple[str, ...] = ()
    listener: str = attrs.field(default="", converter=_shortened)
    excused: bool = False

    def packed(self) -> str:
        """Return it as text without lone surrogates, at most 8 KiB long."""
        note = _PackedNote(_text(self.by), tuple(map(_text, self.deaths)), _text(self.listener), self.excused)
        return _pack_note(note).decode()

    @classmethod
    def unpacked(cls, text: str | bytes | None) -> Note | None:
        """Return the note in *text*, as :meth:`packed` returns it; ``None`` if *text* is not a valid note."""
        if text is None:
            return None
        try:
            found = _unpack_note(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return None
        return cls(by=found.by, deaths=found.deaths[:MAX_DEATHS], listener=found.listener, excused=found.excused)


class _PackedNote(msgspec.Struct, array_like=True, frozen=True):
    by: str
    deaths: tuple[str, ...]
    listener: str
    excused: bool


_pack_note = msgspec.json.Encoder().encode
_unpack_note = msgspec.json.Decoder(_PackedNote).decode


def _text(text: str) -> str:
    """Return *text*, which any writer may have stored, shortened and without lone surrogates."""
    return _shortened(text).encode("utf-8", "replace").decode()


@attrs.frozen(kw_only=True, eq=False)
class Delivery:
    """
    One hand-over of an envelope to one worker.

    A value without a handle: the transport settles it. Deliveries are equal only to themselves.
    """

    envelope: Envelope | Unreadable
    queue: str
    """The queue that it was received from."""

    attempt: int = 1
    """1 on the first hand-over; releases do not count."""

    lost_leases: int = 0
    """Earlier hand-overs that ended without a settlement: a crash, a lost connection, an expired lease."""

    begun: Note | None = None
    """The note of the last process that began it, unless that returned it; only if ``presence`` is claimed."""

    deaths: tuple[str, ...] = ()
    """The processes that died of it, or are presumed to have died of it, at most three, each as text."""

    receipt: object
    """Opaque proof of the lease; new at each hand-over."""

    state: bytes = b""
    """The state of the last settlement or checkpoint, at most 16 KiB; only the core reads it."""

    enqueued_at: float
    """When it was sent, in seconds since the epoch; a retry, a lost lease or a revival does not change it."""

    def __repr__(self) -> str:
        return visible(f"<Delivery of {self._what()} from {self.queue}, attempt {self.attempt}>")

    def __str__(self) -> str:
        return visible(f"{self._what()} in {self.queue}")

    def _what(self) -> str:
        of = self.envelope
        return f"{of.name} {of.id}" if isinstance(of, Envelope) else f"{len(of.raw)} unreadable bytes"


@attrs.frozen(kw_only=True)
class Failure:
    """
    A failure to handle an event, as data; it is retried or final.

    Args:
        listener: The id of the listener that failed; empty if no listener caused it.

        attempt: The number of runs so far; 0 if it could not be called.

        kind: The name of the exception's class; empty if none was raised.

        error: The error as text; one line for an exception.

        traceback: The traceback of the exception, if one was raised; a long one is cut in the middle.

        reason: The :class:`Reason` why it does not run again; empty if it does.

        due: When it runs again, in seconds since the epoch; ``None`` if it does not.

        output: The last output of its process, if listeners run in child processes.
    """

    listener: str = ""
    attempt: int = 0
    kind: str = ""
    error: str = ""
    traceback: str = ""
    reason: str = ""
    due: float | None = None
    output: str = ""


# --- outcomes --------------------------------------------------------------------------------------


@attrs.frozen
class Ack:
    """Done: never delivered again."""

    moved: bool = attrs.field(default=False, kw_only=True, eq=False, repr=False)
    """Whether it is stored elsewhere now and not done: a transport that keeps what is done does not keep it."""


@attrs.frozen(kw_only=True)
class Nack:
    """Not now: delivered again with the next attempt, not before *delay* seconds from now."""

    delay: float = 0.0
    state: bytes | None = None
    """Replaces the stored state; ``None`` leaves that of the last settlement or checkpoint."""

    reason: str = attrs.field(default="", eq=False)
    """
    Why, as a short code for observers: ``listener-failed``, or a :class:`Reason` for which the event waits.

    On a transport that keeps no dead letters it may be the reason of the dead letter that the event would be.

    A transport does not store it. Empty if it is not known.
    """


@attrs.frozen(kw_only=True)
class DeadLetter:
    """Not delivered again: stored with its reason until it is revived or discarded."""

    reason: str
    """A short code, such as ``retries-exhausted`` or ``crash-loop``."""

    error: str = ""
    """The error as text; for a failed listener its id and traceback."""

    state: bytes | None = None
    """Replaces the stored state; ``None`` leaves it."""

    failures: tuple[Failure, ...] = ()
    """
    The failures as data, for observers; a transport does not store them, since the state has most of them.

    Empty if *error* is complete, as for an event that expired.
    """


@attrs.frozen
class Release:
    """Not started: delivered again as if it had never been received; counters, state and note stay."""

    delay: float = attrs.field(default=0.0, kw_only=True)
    """Seconds from now before which it is not delivered again; more than 0 only where delays are claimed."""


@attrs.frozen(kw_only=True)
class Lost:
    """
    It ended without an outcome, as the worker saw: delivered again at once, with one more lost lease.

    The effect is that of an expired lease, without waiting for it.
    """

    death: str | None = None
    """
    The process that died, as text, if the worker saw it end. Where ``presence`` is claimed, it is added to the deaths
    and the note is removed. ``None`` leaves the note as it is.
    """

    state: bytes | None = None
    """Replaces the stored state; ``None`` leaves it."""

    error: str = ""
    """The cause of the death as text, for observers; a transport does not store it."""

    listener: str = ""
    """The id of the listener that ran, for observers; empty if it is not known. A transport does not store it."""


Outcome = Ack | Nack | DeadLetter | Release | Lost
Settlement = tuple[Delivery, Outcome]
