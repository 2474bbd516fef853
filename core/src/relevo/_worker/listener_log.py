"""Log lines about listeners: which are done, which failed, and which events no listener here can handle yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from logging import INFO, WARNING, getLogger

import attrs

from relevo._clock import readable
from relevo._event.codec import decoded
from relevo._listener.listener import ListenerTable, defined_at
from relevo._retry import is_retry_later
from relevo._transport.delivery import Delivery, Failure, Nack
from relevo._transport.envelope import Envelope
from relevo._visible import visible
from relevo._worker.decision import Reason
from relevo._worker.progress import SUBJECT_PATIENCE, if_renamed, loaded
from relevo.errors import DecodeError

_log = getLogger("relevo.listener")

_log_of_needed = getLogger("relevo.worker")
"""Logs what needs attention also where retries are not logged, as in a drain from cron."""

_RELEVO = __file__.rpartition("_worker")[0]
"""The folder of this package, whose frames do not show where a listener was."""


def log_done(delivery: Delivery, listener_id: str, *, seconds: float) -> None:
    """Log that the listener *listener_id* is done with *delivery*, after *seconds*."""
    _log.info("%s done on %s (%.1f ms)", listener_id, delivery, 1000 * seconds)


def log_failure(
    delivery: Delivery,
    failure: Failure,
    error: BaseException,
    *,
    function: Callable[..., object],
    runs: int,
    now: float,
) -> None:
    """
    Log *failure* as one line; from the level INFO on with the traceback.

    Args:
        delivery: The delivery.

        failure: The failure.

        error: What the listener raised.

        function: The listener.

        runs: Its largest number of runs.

        now: Seconds since the epoch.
    """
    if failure.due is None:
        ending = "gave up" if failure.reason == Reason.GAVE_UP else "the last"
    else:
        ending = f"again in {readable(max(0.0, failure.due - now))}"
    is_planned = is_retry_later(error) and failure.due is not None
    place = "" if is_planned else place_of(error, function)
    _log.log(
        INFO if is_planned else WARNING,
        "%s %s on %s (run %d of %d, %s): %s%s",
        failure.listener,
        "asks to run again" if is_planned else "failed",
        delivery,
        failure.attempt,
        runs,
        ending,
        visible(failure.error),
        f" ({visible(place)})" if place else "",
        exc_info=error if _log.isEnabledFor(INFO) and not is_planned else None,
    )


_MOST_NAMES = 100
"""The largest number of event names that are remembered, since foreign events may bring any number."""

_OBSTACLES = {
    Reason.UNKNOWN_EVENT: 'no listener here for "{name}" in the queue "{queue}"',
    Reason.LISTENER_BYPASSED: '"{name}" was sent to "{queue}" by to=, which leaves out the queue of a listener',
    Reason.NEWER_VERSION: 'no listener here for this version of "{name}" in the queue "{queue}", which is newer',
    Reason.LISTENER_MISSING: '{missing} of "{name}" has begun in the queue "{queue}" and is not here',
}


@attrs.define(eq=False)
class ObstacleLog:
    """
    Logs, once for each name, which events are given back because no listener here can handle them.

    If retries are not logged, it logs an event of an unknown name, or with a missing listener, nevertheless when it is
    given back for the first time: it is misspelt, or something was renamed. If they are logged, each event without its
    subject is logged too.

    Args:
        listeners: The listeners of this process.

        patience: Seconds for which such events are given back.

        places: Takes the name of an event, returns where its listeners run.
    """

    _listeners: ListenerTable
    _patience: float
    _places: Callable[[str], Sequence[str]]
    _seen: set[tuple[str, str]] = attrs.field(factory=set, init=False)

    def note(self, delivery: Delivery, outcome: Nack) -> None:
        """Log why *delivery* is given back, unless that was a listener or was logged for its name before."""
        envelope = delivery.envelope
        if not isinstance(envelope, Envelope):
            return
        if outcome.reason == Reason.SUBJECT_MISSING:
            self._note_subject(delivery, envelope, outcome)
            return
        if outcome.reason not in _OBSTACLES:
            return
        log = _log
        if not log.isEnabledFor(WARNING):
            if outcome.reason == Reason.NEWER_VERSION or _met_before(delivery, outcome.reason):
                return
            log = _log_of_needed
        if (key := (outcome.reason, envelope.name)) in self._seen or len(self._seen) >= _MOST_NAMES:
            return
        self._seen.add(key)
        missing = self._missing(envelope.name, outcome)
        text = _OBSTACLES[Reason(outcome.reason)].format(
            name=envelope.name, queue=delivery.queue, missing=", ".join(missing) or "a listener"
        )
        log.warning(
            "%s; %s is retried until %s, then it is a dead letter (logged once a run for this name)%s",
            visible(text),
            visible(envelope.id),
            self._end(delivery, outcome, self._patience),
            visible(self._hint(envelope.name, missing) if outcome.reason != Reason.NEWER_VERSION else ""),
        )

    def _note_subject(self, delivery: Delivery, envelope: Envelope, outcome: Nack) -> None:
        """Log that *delivery* waits for its subject, when it begins to."""
        if not _log.isEnabledFor(WARNING) or _met_before(delivery, outcome.reason):
            return
        try:
            subject = decoded(envelope.body).subject or ""
        except DecodeError:  # it could not have been handled
            return
        _log.warning(
            "%s waits until %s for its subject %s, which was not found: it may not be committed yet",
            delivery,
            self._end(delivery, outcome, min(self._patience, SUBJECT_PATIENCE)),
            visible(subject),
        )

    def _missing(self, name: str, outcome: Nack) -> list[str]:
        """Return the ids of the listeners for which the event waits, as its state has them."""
        if outcome.reason != Reason.LISTENER_MISSING:
            return []
        try:
            return loaded(outcome.state or b"").missing([each.id for each in self._listeners.of(name)])
        except DecodeError:  # a newer release wrote it
            return []

    def _hint(self, name: str, missing: Sequence[str]) -> str:
        if missing:
            return f"; {if_renamed(missing[0])}"
        if self._listeners.of(name):
            places = self._places(name)
            return f"; its listeners are in {', '.join(places)}" if places else "; no route leads to its listeners"
        return self._listeners.hint(name)

    def _end(self, delivery: Delivery, outcome: Nack, patience: float) -> str:
        """Return the time at which *patience* runs out."""
        try:
            first = loaded(outcome.state or b"").waiting.get(outcome.reason, delivery.enqueued_at)
        except DecodeError:  # a newer release wrote it
            first = delivery.enqueued_at
        try:
            return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(first + patience))
        except (ValueError, OverflowError, OSError):  # a store may return any number
            return "an unknown time"


def _met_before(delivery: Delivery, reason: str) -> bool:
    """Return whether *delivery* was given back for *reason* before."""
    try:
        return reason in loaded(delivery.state).waiting
    except DecodeError:  # a newer release wrote it
        return False


def place_of(error: BaseException, function: Callable[..., object]) -> str:
    """
    Return where the listener was when *error* was raised, as ``file:line``; empty if that is not known.

    It is the innermost place in the file of *function*, inside of its decorators, or else in the first file outside of
    relevo.
    """
    places: dict[str, int] = {}
    trace = error.__traceback__
    while trace is not None:
        places[trace.tb_frame.f_code.co_filename] = trace.tb_lineno
        trace = trace.tb_next
    others = [file for file in places if not file.startswith(_RELEVO)]
    own = defined_at(function).rpartition(":")[0]
    found = own if own in others else next(iter(others), "")
    return f"{found.rpartition('/')[2]}:{places[found]}" if found else ""
