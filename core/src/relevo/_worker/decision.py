"""
The decisions about a delivery that do not depend on its listeners, from values alone: no clock, no I/O.

What its listeners did, and its outcome because of that, is decided in :mod:`relevo._worker.progress`.
"""

from __future__ import annotations

import traceback
from enum import StrEnum

from relevo._clock import has_come, readable
from relevo._retry import DEFAULT_RETRY
from relevo._secret import abridged, masked
from relevo._transport.delivery import MAX_ERROR, Ack, DeadLetter, Delivery, Failure, Nack, Outcome, Release, Unreadable
from relevo._worker.time_limit import TimeLimitExceededError
from relevo.errors import CodecError, described

PATIENCE = 3600.0
_PATIENT_FIRST = 1.0
_PATIENT_CAP = 60.0


class Reason(StrEnum):
    """Why a dead letter is one."""

    UNREADABLE = "unreadable"
    """The bytes are not an envelope."""

    MALFORMED = "malformed"
    """The body is not an event, its data does not fit its declared class, or it cannot be handed to a listener."""

    CRASH_LOOP = "crash-loop"
    """Three processes began it and ended before they settled it; see :mod:`relevo._worker.evidence`."""

    EXPIRED = "expired"
    RETRIES_EXHAUSTED = "retries-exhausted"
    GAVE_UP = "gave-up"
    UNKNOWN_EVENT = "unknown-event"
    """No worker of this queue has had a listener for it."""

    LISTENER_BYPASSED = "listener-bypassed"
    """A listener names a queue that the targets which its dispatch chose leave out."""

    NEWER_VERSION = "newer-version"
    LISTENER_MISSING = "listener-missing"
    """No worker has a certain listener that still had to run."""

    STATE_TOO_LARGE = "state-too-large"
    """It has too many listeners, or their ids are too long, to keep their progress with it."""

    SUBJECT_MISSING = "subject-missing"
    FORGED = "forged"
    """Its signature, or that of its state, is missing or invalid, its key is unknown, or its source is not accepted."""

    NOT_ACCEPTED = "not-accepted"
    """Its queue does not accept its name."""

    REFUSED = "refused"
    """The transport that a relay moves it to does not take it."""


def unreadable(found: Unreadable) -> DeadLetter:
    """Return the dead letter that the bytes of *found* become."""
    return DeadLetter(reason=Reason.UNREADABLE, error=sanitised(found.why))


def expired(expires: float, now: float) -> DeadLetter | None:
    """Return the dead letter that an event becomes which expires at *expires*, if that time has come."""
    if not has_come(expires, now):
        return None
    late = max(0.0, now - expires)
    return DeadLetter(reason=Reason.EXPIRED, error=f"expired {late:.3f} s before it was received")


def unhandled(delivery: Delivery, error: Exception) -> Outcome:
    """
    Return the outcome of *delivery* after *error* was raised outside of any listener.

    ``MemoryError`` and ``OSError`` may be temporary, so the delivery is retried a few times. Any other error would
    occur again with the same bytes.
    """
    passes = isinstance(error, (MemoryError, OSError))
    wait = DEFAULT_RETRY.decide(delivery.attempt, error, 0.0) if passes else None
    if wait is not None:
        return Nack(delay=wait)
    before = "it could not be handed to a listener: "
    if isinstance(error, CodecError):
        return DeadLetter(reason=Reason.MALFORMED, error=sanitised(before + str(error)))
    failure = Failure(
        kind=kind_of(error),
        error=sanitised(before + described(error)),
        traceback=sanitised(traced(error)),
        reason=Reason.MALFORMED,
    )
    text = sanitised(before + failure.traceback)
    return DeadLetter(reason=Reason.MALFORMED, error=text, failures=(failure,))


def waited(delivery: Delivery, now: float) -> float:
    """
    Return the least number of seconds that *delivery* has waited, when its state does not record the start.

    Each hand-over waits for at least a second, so a send time in the future cannot make the wait endless.
    """
    return max(now - delivery.enqueued_at, delivery.attempt - 1.0)


def since(noted: float | None, now: float) -> float:
    """Return *noted*, the time at which a wait began; *now* if it is missing, negative or in the future."""
    return noted if noted is not None and 0.0 <= noted <= now else now


def wait_left(elapsed: float, patience: float) -> float | None:
    """Return the seconds of the next wait after *elapsed* seconds of waiting, or ``None`` if *patience* has run out."""
    left = patience - elapsed
    return min(max(_PATIENT_FIRST, elapsed), _PATIENT_CAP, max(left, 0.001)) if left > 0 else None


def in_words(outcome: Outcome) -> str:
    """Return *outcome* for a log line."""
    match outcome:
        case Ack():
            return "done"
        case Nack(delay=delay, reason=reason):
            return f"again in {readable(delay)}{reason and f': {reason}'}"
        case DeadLetter():
            return "a dead letter"
        case Release(delay=delay):
            return f"not begun, released{f' for {readable(delay)}' if delay else ''}"
        case _:
            return "lost"


def epitaph(dead: DeadLetter) -> str:
    """Return the reason of *dead* in one line: with each listener that failed and its error, else with the error."""
    listeners = [each for each in dead.failures if each.listener]
    if not listeners:
        return f"{dead.reason}: {_first_line(dead.error)}".rstrip(": ")
    return f"{dead.reason}: {'; '.join(map(_in_brief, listeners))}"


def _in_brief(failure: Failure) -> str:
    runs = f" after {failure.attempt} run{'s' if failure.attempt > 1 else ''}" if failure.attempt else ""
    return f"{failure.listener}{runs}: {_first_line(failure.error)}".rstrip(": ")


def _first_line(text: str) -> str:
    lines = text[:_LINE].strip().splitlines()
    return lines[0] if lines else ""


_LINE = 1000
"""The most characters of an error in a log line."""


def kind_of(error: BaseException) -> str:
    """Return the name of the class of *error*."""
    name = vars(type)["__name__"].__get__(type(error))  # even a hostile metaclass cannot override this
    return sanitised(name, limit=200)


SHARED_QUEUE = (
    "; if that application handles this queue too, each misses the events that the other one takes: give each one "
    "queues of its own"
)
"""What to do about events of another application."""


def traced(error: BaseException) -> str:
    """
    Return the traceback of *error*, or at least its description.

    That of a listener which exceeded its time limit shows where the listener was, not where the error was raised.
    """
    try:
        if isinstance(error, TimeLimitExceededError) and error.trace:
            only = "".join(traceback.format_exception_only(error))
            return f"Traceback (most recent call last):\n{error.trace}{only}".rstrip()
        return "".join(traceback.format_exception(error)).rstrip()
    except BaseException:  # noqa: BLE001 - as above; it may also be deeper than the stack
        return described(error)


def sanitised(text: str, *, limit: int = MAX_ERROR) -> str:
    """
    Return *text* in a form that every store can keep: no NUL, no lone surrogate, at most *limit* bytes.

    Passwords in it are masked: an exception may quote an address, which not every reader of dead letters may know.
    Text that is too long is cut in the middle, since the end of a traceback matters most.
    """
    data = masked(abridged(text)).replace("\0", "\\0").encode("utf-8", "backslashreplace")
    if len(data) > limit:
        half = (limit - 7) // 2
        data = data[:half] + b" [...] " + data[-half:]
    return data.decode("utf-8", "ignore")
