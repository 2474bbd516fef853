"""
The decisions about a delivery, from values alone: no clock, no I/O.

The worker carries out what is decided here. ``Progress`` is changed in place by the functions that
say so; it belongs to the one delivery at hand.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from enum import StrEnum

from relevo._listener.listener import Listener
from relevo._retry import DEFAULT_RETRY, Retry
from relevo._transport.delivery import MAX_ERROR, MAX_STATE, Ack, DeadLetter, Delivery, Nack, Outcome, Unreadable
from relevo._worker.progress import ListenerProgress, Progress, dumped, first_met, since
from relevo.errors import CodecError, GiveUp, described

PATIENCE = 3600.0
SUBJECT_PATIENCE = 60.0
_PATIENT_FIRST = 1.0
_PATIENT_CAP = 60.0
_MAX_REASON = 200


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

    NEWER_VERSION = "newer-version"
    LISTENER_MISSING = "listener-missing"
    """A listener that still had to run is in no worker any more."""

    STATE_TOO_LARGE = "state-too-large"
    """It has too many listeners, or their ids are too long, to keep their progress with it."""

    SUBJECT_MISSING = "subject-missing"
    FORGED = "forged"
    """Its signature, or that of its state, is missing, does not fit, or is of a key that never came."""

    REFUSED = "refused"
    """The transport that a relay moves it to does not take it."""


def refusal(delivery: Delivery, now: float) -> DeadLetter | None:
    """Return the dead letter that *delivery* becomes without a look at its listeners, if it does."""
    envelope = delivery.envelope
    if isinstance(envelope, Unreadable):
        return DeadLetter(reason=Reason.UNREADABLE, error=sanitised(envelope.why))
    if envelope.expires is not None and envelope.expires <= now:
        return DeadLetter(reason=Reason.EXPIRED, error=f"expired {now - envelope.expires:.3f} s before it was received")
    return None


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
    what = str(error) if isinstance(error, CodecError) else traced(error)
    return DeadLetter(reason=Reason.MALFORMED, error=sanitised(f"it could not be handed to a listener: {what}"))


def patient(progress: Progress, reason: str, now: float, *, detail: str, patience: float = PATIENCE) -> Outcome:
    """
    Give an event back that this worker cannot handle, or dead-letter it when that went on for too long.

    Changes *progress*: the time at which the reason was first met is kept.

    Args:
        progress: Of the event.

        reason: Why this worker cannot.

        now: Seconds since the epoch.

        detail: In words, for the dead letter.

        patience: Seconds from the first hand-over that met the reason.
    """
    wait = waiting(progress, reason, now, patience=patience)
    if wait is None:
        return DeadLetter(reason=reason, error=sanitised(detail), state=dumped(progress))
    return Nack(delay=wait, state=dumped(progress))


def patient_unread(delivery: Delivery, now: float, *, detail: str, patience: float = PATIENCE) -> Outcome:
    """
    Give an event back whose state a newer release wrote; nothing in that changes but what every release knows.

    Where not even that can be noted, it is waited for from when the event was sent.
    """
    first, state = first_met(delivery.state, Reason.NEWER_VERSION, now)
    wait = wait_left(waited(delivery, now) if first is None else now - first, patience)
    if wait is None:
        return DeadLetter(reason=Reason.NEWER_VERSION, error=sanitised(detail))
    return Nack(delay=wait, state=state if len(state) <= MAX_STATE else None)


def waited(delivery: Delivery, now: float) -> float:
    """
    Return the least number of seconds that *delivery* has waited, when its state does not record the start.

    Each hand-over waits for at least a second, so a send time in the future cannot make the wait endless.
    """
    return max(now - delivery.enqueued_at, delivery.attempt - 1.0)


def overcome(progress: Progress, *reasons: str) -> None:
    """Forget in *progress* the *reasons* that were waited for and are gone; met again, they are waited for again."""
    for reason in reasons if progress.waiting else ():
        progress.waiting.pop(reason, None)


def waiting(progress: Progress, reason: str, now: float, *, patience: float) -> float | None:
    """
    Return the seconds to wait for *reason* to go away, or ``None`` when patience has run out.

    The waits double, and the last one ends where patience does.
    """
    first = progress.waiting[reason] = since(progress.waiting.get(reason), now)
    return wait_left(now - first, min(patience, SUBJECT_PATIENCE) if reason == Reason.SUBJECT_MISSING else patience)


def wait_left(elapsed: float, patience: float) -> float | None:
    """Return the seconds of the next wait after *elapsed* seconds of waiting, or ``None`` if *patience* has run out."""
    left = patience - elapsed
    return min(max(_PATIENT_FIRST, elapsed), _PATIENT_CAP, max(left, 0.001)) if left > 0 else None


def adopt_aliases(progress: Progress, listeners: Sequence[Listener]) -> None:
    """Move in *progress* what renamed listeners did under their earlier ids to their new ones."""
    for listener in listeners:
        for alias in listener.aliases:
            earlier = progress.listeners.pop(alias, None)
            # During a rolling deploy both ids may have a past; what is done under either is done.
            if earlier and (listener.id not in progress.listeners or earlier.status == "done"):
                progress.listeners[listener.id] = earlier


def due(progress: Progress, listeners: Sequence[Listener], now: float) -> list[Listener]:
    """Return those of *listeners* that are to be called now."""
    if not progress.listeners:
        return [] if progress.stopped else list(listeners)
    found = []
    for listener in listeners:
        mine = progress.listeners.get(listener.id)
        if not progress.stopped if mine is None else mine.status == "due" and mine.due <= now:
            found.append(listener)
    return found


def record_done(progress: Progress, listener: Listener) -> None:
    """Note in *progress* that *listener* succeeded."""
    mine = progress.listeners.setdefault(listener.id, ListenerProgress())
    mine.status, mine.runs, mine.error = "done", mine.runs + 1, ""


def record_stop(progress: Progress, later: Sequence[Listener]) -> None:
    """Note in *progress* that a listener stopped the propagation: *later* ones are skipped for good."""
    progress.stopped = True
    for listener in later:
        mine = progress.listeners.get(listener.id)
        if mine and mine.status == "due":
            mine.status = "done"


def record_dead(progress: Progress, listener: Listener, reason: str, error: str) -> None:
    """Note in *progress* that *listener* cannot be called for this event, ever."""
    mine = progress.listeners.setdefault(listener.id, ListenerProgress())
    mine.status, mine.why, mine.error = "dead", reason, sanitised(error, limit=200)


def record_failure(
    progress: Progress, listener: Listener, error: BaseException, policy: Retry, *, now: float, chance: float
) -> ListenerProgress:
    """
    Note in *progress* that *listener* raised *error*, and when it is run again, if ever; return what is noted of it.

    Args:
        progress: Of the event.

        listener: Which one.

        error: What it raised.

        policy: What decides.

        now: Seconds since the epoch.

        chance: A random number from 0 to 1.
    """
    mine = progress.listeners.setdefault(listener.id, ListenerProgress())
    mine.runs += 1
    mine.error = sanitised(described(error), limit=200)
    wait = policy.decide(mine.runs, error, chance)
    if wait is not None:
        mine.due = now + wait
        return mine
    mine.status = "dead"
    final = isinstance(error, (GiveUp, *policy.give_up_on))
    mine.why = Reason.GAVE_UP if final else Reason.RETRIES_EXHAUSTED
    return mine


def is_waiting(progress: Progress, listener: Listener, reason: str, now: float, *, patience: float) -> bool:
    """
    Note in *progress* that *listener* could not run for *reason*, and return whether it is to be tried again.

    This counts as no run; it is not to be tried again once patience has run out.
    """
    mine = progress.listeners.setdefault(listener.id, ListenerProgress())
    wait = waiting(progress, reason, now, patience=patience)
    mine.due = now + (wait or 0.0)
    return wait is not None


def conclusion(
    progress: Progress,
    listeners: Sequence[Listener],
    now: float,
    *,
    tracebacks: Mapping[str, str],
    patience: float = PATIENCE,
) -> Outcome:
    """
    Return how a delivery ends after its due listeners were called.

    Done if all are done; again at the earliest time at which one is due; dead when none is due any more
    and one is dead. A listener that still had to run and that this worker does not have is waited for.

    Args:
        progress: Of the event; a reason to wait is noted in it.

        listeners: All that this worker has for the event in this queue.

        now: Seconds since the epoch.

        tracebacks: By listener id, of those that failed in this hand-over.

        patience: Seconds for which a missing listener is waited for.
    """
    mine = {listener.id for listener in listeners}
    unfinished = {key: each for key, each in progress.listeners.items() if each.status == "due"}
    vanished = [each for key, each in unfinished.items() if key not in mine]
    waits = [each.due - now for key, each in unfinished.items() if key in mine]
    if not progress.stopped and not mine <= progress.listeners.keys():
        waits.append(0.0)  # one was not even begun
    if not vanished:
        overcome(progress, Reason.LISTENER_MISSING)
    elif (wait := waiting(progress, Reason.LISTENER_MISSING, now, patience=patience)) is not None:
        waits.append(wait)
    else:
        for gone in vanished:
            gone.status, gone.why = "dead", Reason.LISTENER_MISSING
    if waits:
        return Nack(delay=max(0.0, min(waits)), state=dumped(progress))
    dead = {key: each for key, each in progress.listeners.items() if each.status == "dead"}
    if not dead:
        return Ack()
    share = MAX_ERROR // len(dead) - 1  # each its own, so that no long one hides that another died
    return DeadLetter(
        reason=sanitised(next(iter(dead.values())).why, limit=_MAX_REASON),
        error="\n".join(sanitised(_epitaph(key, each, tracebacks.get(key)), limit=share) for key, each in dead.items()),
        state=dumped(progress),
    )


def _epitaph(listener_id: str, mine: ListenerProgress, trace: str | None) -> str:
    runs = "1 run" if mine.runs == 1 else f"{mine.runs} runs"
    return "\n".join(filter(None, (f"{listener_id}: {mine.why} after {runs}: {mine.error}".rstrip(": "), trace)))


def traced(error: BaseException) -> str:
    """Return the traceback of *error*, or what can be had of it."""
    try:
        return "".join(traceback.format_exception(error)).rstrip()
    except BaseException:  # noqa: BLE001 - as above; it may also be deeper than the stack
        return described(error)


def sanitised(text: str, *, limit: int = MAX_ERROR) -> str:
    """
    Return *text* so that every store can keep it: no NUL, no lone surrogate, at most *limit* bytes.

    What is too long is cut in the middle, since the end of a traceback says most.
    """
    data = text.replace("\0", "\\0").encode("utf-8", "backslashreplace")
    if len(data) > limit:
        half = (limit - 7) // 2
        data = data[:half] + b" [...] " + data[-half:]
    return data.decode("utf-8", "ignore")
