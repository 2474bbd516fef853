"""
The progress of an event: which of its listeners are done, due or dead, and how often each has run.

It travels as the ``state`` of a delivery. The bytes carry a version of their own, so that two releases
of relevo can work side by side on one queue.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from relevo._transport.delivery import MAX_STATE
from relevo.errors import CodecError, DecodeError

STATE_VERSION = 1

SEALED = b"s1"
"""What a state begins with that a worker signed; its own first byte is a brace."""

SEAL = 42
"""Bytes of such a signature, its beginning included; there is always room left for one, and a note of its length."""

_MOST = MAX_STATE - 2 * SEAL

_LATEST = 1e10
"""Seconds since the epoch, in the year 2286; a later time was written by something else."""

_MOST_RUNS = 2**31 - 1

Status = Literal["done", "due", "dead"]
Time = Annotated[float, msgspec.Meta(ge=0.0, le=_LATEST)]


class ListenerProgress(msgspec.Struct, array_like=True):
    """How far one listener is."""

    status: Status = "due"
    runs: Annotated[int, msgspec.Meta(ge=0, le=_MOST_RUNS)] = 0
    """Calls so far; a run that a crash cut short is not counted here but as a loss."""

    due: Time = 0.0
    """Seconds since the epoch before which it is not called again."""

    why: str = ""
    """The reason code of a dead one."""

    error: str = ""
    """The last error, in one line."""


class Progress(msgspec.Struct, omit_defaults=True):
    """How far an event is in one queue."""

    v: int
    """Of this shape; always written, since a default would change with the release that reads it."""

    listeners: dict[str, ListenerProgress] = {}
    """By listener id."""

    waiting: dict[str, Time] = {}
    """From a reason to be patient to the time at which it was first met."""

    stopped: bool = False
    """A listener stopped the propagation; the later ones are skipped for good."""


class NewerStateError(DecodeError):
    """Raised when a newer release of relevo wrote the state; a newer worker will come by."""

    def __init__(self, version: int):
        self.version = version
        super().__init__(f"a newer release of relevo wrote the state: version {version}")


class StateTooLargeError(CodecError):
    """Raised when the ids of an event's listeners alone are longer than a state may be."""


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_decode_parts = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
"""Leaves every value undecoded, so that values of a newer release are not validated."""
_decode = msgspec.json.Decoder(Progress).decode
_encode = msgspec.json.Encoder().encode


def loaded(state: bytes) -> Progress:
    """
    Return the progress that *state* holds; that of a new event if it is empty.

    Raises:
        NewerStateError: A newer release wrote it.

        DecodeError: It is not a progress.
    """
    while state.startswith(SEALED):  # by others, or before signing was given up: here nobody asks for it
        state = state[SEAL:]
    if not state:
        return Progress(STATE_VERSION)
    try:
        progress = _decode(state)
    except _UNREADABLE as error:
        try:
            version = msgspec.json.decode(_decode_parts(state)["v"])
        except (*_UNREADABLE, KeyError):
            version = None
        if type(version) is int and version > STATE_VERSION:
            raise NewerStateError(version) from error
        raise DecodeError(f"the state is not readable: {error}") from error
    if progress.v > STATE_VERSION:
        raise NewerStateError(progress.v)
    return progress


def dumped(progress: Progress) -> bytes:
    """
    Return *progress* as bytes, leaving the error texts out if they would not fit.

    Raises:
        StateTooLargeError: It does not fit even so.
    """
    state = _encode(progress)
    if len(state) > _MOST:
        for each in progress.listeners.values():
            each.error = ""
        state = _encode(progress)
        if len(state) > _MOST:
            raise StateTooLargeError(f"the progress of {len(progress.listeners)} listeners takes {len(state)} bytes")
    return state


def first_met(state: bytes, reason: str, now: float) -> tuple[float | None, bytes]:
    """
    Return since when *reason* is waited for by *state*, which a newer release wrote, and the state that says so.

    ``None`` and the state as it is if it has a shape in which this cannot be said.
    """
    try:
        parts = _decode_parts(state)
        waiting: Any = msgspec.json.decode(parts.get("waiting", b"{}"))
    except _UNREADABLE:
        return None, state
    if not isinstance(waiting, dict) or type(waiting.get(reason, now)) not in (int, float):
        return None, state
    waiting[reason] = first = since(waiting.get(reason), now)
    parts["waiting"] = msgspec.Raw(_encode(waiting))
    return first, _encode(parts)


def since(noted: float | None, now: float) -> float:
    """Return *noted*, the time at which a wait began; *now* if it is missing, negative or in the future."""
    return noted if noted is not None and 0.0 <= noted <= now else now


def revived(state: bytes) -> bytes:
    """
    Return *state* for a dead letter that is made ready again: its dead listeners start afresh, the done stay done.

    Raises:
        NewerStateError: A newer release wrote it, and knows what is done.
    """
    try:
        progress = loaded(state)
    except DecodeError as error:
        if isinstance(error, NewerStateError):
            raise
        return b""
    # The others stay by name: after a stop of the propagation a listener without an entry would be skipped.
    again = {key: each if each.status == "done" else ListenerProgress() for key, each in progress.listeners.items()}
    return dumped(Progress(STATE_VERSION, listeners=again, stopped=progress.stopped))
