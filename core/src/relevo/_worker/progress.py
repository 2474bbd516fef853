"""
The progress of an event: which of its listeners are done, due or dead, how often each has run, and its outcome.

It is stored as the ``state`` of a delivery. The bytes have a version of their own, so that two releases
of relevo can work side by side on one queue.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from relevo._clock import has_come
from relevo._listener.journal import FinishedSteps
from relevo._listener.listener import Listener
from relevo._retry import Retry
from relevo._transport.delivery import MAX_ERROR, MAX_STATE, Ack, DeadLetter, Delivery, Failure, Nack, Outcome
from relevo._transport.transport import DeadLetterEntry
from relevo._worker.decision import PATIENCE, Reason, kind_of, sanitised, since, traced, wait_left, waited
from relevo._worker.time_limit import TimeLimitExceededError
from relevo.errors import CodecError, DecodeError, described

STATE_VERSION = 1

SEALED = b"s1"
"""The beginning of a state that a worker signed; without a signature its first byte is a brace."""

SEAL = 42
"""Bytes of such a signature with its beginning; a state always leaves room for one, and for a note of that length."""

_MOST = MAX_STATE - 2 * SEAL

_LATEST = 1e10
"""Seconds since the epoch, in the year 2286; a later time was written by something else."""

_MOST_RUNS = 2**31 - 1
_MAX_REASON = 200
_MOST_OF_MISSING = 400
"""Bytes of the error of a missing listener, which has its id, the remedy and its last failure."""

_SHORTEST_TRACEBACK = 250
"""Bytes; a traceback that would have to be shorter is left out."""

SUBJECT_PATIENCE = 60.0

LISTENER_FAILED = "listener-failed"
"""The reason of a retry after a listener raised."""

Status = Literal["done", "due", "dead"]
Time = Annotated[float, msgspec.Meta(ge=0.0, le=_LATEST)]


class ListenerProgress(msgspec.Struct, array_like=True):
    """How far one listener is."""

    status: Status = "due"
    runs: Annotated[int, msgspec.Meta(ge=0, le=_MOST_RUNS)] = 0
    """Calls so far; a run that a crash cut short counts as a lost lease instead."""

    due: Time = 0.0
    """Seconds since the epoch before which it is not called again."""

    why: str = ""
    """The reason code of a dead listener."""

    error: str = ""
    """The last error, in one line."""


class Raised(msgspec.Struct, array_like=True):
    """The last exception of a listener that failed."""

    kind: str = ""
    """The name of its class."""

    traceback: str = ""
    """Empty while the listener is due: it would be written again after each run."""


class Progress(msgspec.Struct, omit_defaults=True):
    """How far an event is in one queue."""

    v: int
    """The version; always written, since a default would depend on the release that reads it."""

    listeners: dict[str, ListenerProgress] = {}
    """By listener id."""

    waiting: dict[str, Time] = {}
    """From a reason to wait to the time at which it was first met."""

    stopped: bool = False
    """A listener stopped the propagation; the later ones are skipped for good."""

    raised: dict[str, Raised] = {}
    """By the id of a listener that failed, as far as there is room; a release that does not know it leaves it out."""

    pardoned: Annotated[int, msgspec.Meta(ge=0, le=_MOST_RUNS)] = 0
    """How many lost leases count no longer, since the event was put off; an older release leaves it out."""

    finished: dict[str, FinishedSteps] = {}
    """By listener id, what it has finished before it is done; an older release leaves it out."""

    # --- what waits ------------------------------------------------------------------------------------

    def wait_for(self, reason: str, now: float, *, patience: float) -> float | None:
        """
        Return the seconds to wait for *reason* to go away, or ``None`` when patience has run out.

        The waits double, and the last one ends where patience does. The time at which the reason was first met is kept.
        """
        first = self.waiting[reason] = since(self.waiting.get(reason), now)
        return wait_left(now - first, min(patience, SUBJECT_PATIENCE) if reason == Reason.SUBJECT_MISSING else patience)

    def overcome(self, *reasons: str) -> None:
        """Forget the *reasons*, which are gone; if one is met again, its wait begins again."""
        for reason in reasons if self.waiting else ():
            self.waiting.pop(reason, None)

    def give_back(self, reason: str, now: float, *, detail: str, patience: float = PATIENCE) -> Outcome:
        """
        Return the outcome that gives the event back for another worker, or its dead letter when patience has run out.

        Args:
            reason: Why this worker cannot.

            now: Seconds since the epoch.

            detail: In words, for the dead letter.

            patience: Seconds from the first hand-over that met the reason.
        """
        wait = self.wait_for(reason, now, patience=patience)
        if wait is None:
            return DeadLetter(reason=reason, error=sanitised(detail), state=dumped(self))
        return Nack(delay=wait, state=dumped(self), reason=reason)

    # --- before listeners are called -------------------------------------------------------------------

    def adopt_aliases(self, listeners: Sequence[Listener]) -> None:
        """Move what renamed listeners did under their earlier ids to their new ones."""
        for listener in listeners:
            for alias in listener.aliases:
                earlier = self.listeners.pop(alias, None)
                raised = self.raised.pop(alias, None)
                finished = self.finished.pop(alias, None)
                # During a rolling deploy both ids may have run; a listener that is done under one of them is done.
                if earlier and (listener.id not in self.listeners or earlier.status == "done"):
                    self.listeners[listener.id] = earlier
                    if raised is not None:
                        self.raised[listener.id] = raised
                    if finished is not None:
                        self.finished[listener.id] = finished

    def due(self, listeners: Sequence[Listener], now: float) -> Sequence[Listener]:
        """Return those of *listeners* that are due now."""
        if not self.listeners:
            return () if self.stopped else listeners
        found = []
        for listener in listeners:
            mine = self.listeners.get(listener.id)
            if not self.stopped if mine is None else mine.status == "due" and has_come(mine.due, now):
                found.append(listener)
        return found

    # --- while one runs --------------------------------------------------------------------------------

    def finished_by(self, listener: Listener) -> FinishedSteps:
        """Return what *listener* has finished; it is stored with the progress from now on."""
        self._of(listener)  # so that a worker without this listener waits for one that has it
        found = self.finished.get(listener.id)
        if found is None:
            found = self.finished[listener.id] = FinishedSteps()
        return found

    # --- after one was called --------------------------------------------------------------------------

    def finish(self, listener: Listener) -> None:
        """Note that *listener* succeeded."""
        mine = self._of(listener)
        mine.status, mine.runs, mine.error = "done", mine.runs + 1, ""
        self.raised.pop(listener.id, None)
        self.finished.pop(listener.id, None)

    def stop(self, later: Sequence[Listener]) -> None:
        """Note that a listener stopped the propagation: *later* ones are skipped for good."""
        self.stopped = True
        for listener in later:
            mine = self.listeners.get(listener.id)
            if mine and mine.status == "due":
                mine.status = "done"

    def put_off(self, listener: Listener, reason: str, now: float, *, patience: float) -> bool:
        """
        Note that *listener* could not run for *reason*, and return whether it is tried again.

        This does not count as a run; it is not tried again once patience has run out.
        """
        mine = self._of(listener)
        wait = self.wait_for(reason, now, patience=patience)
        mine.due = now + (wait or 0.0)
        return wait is not None

    def postpone(self, listener: Listener, until: float) -> None:
        """Note that *listener* is called no sooner than *until*, in seconds since the epoch; this counts as no run."""
        self._of(listener).due = until

    def give_up(self, listener: Listener, reason: str, error: str) -> None:
        """Note that *listener* cannot be called for this event, ever."""
        mine = self._of(listener)
        mine.status, mine.why, mine.error = "dead", reason, sanitised(error, limit=200)
        self.raised.pop(listener.id, None)

    def fail(self, listener: Listener, error: BaseException, policy: Retry, *, now: float, chance: float) -> Failure:
        """
        Note that *listener* raised *error*, and when it is run again, if ever; return both as a value.

        Args:
            listener: The listener.

            error: What it raised.

            policy: Decides whether it is run again, and when.

            now: Seconds since the epoch.

            chance: A random number from 0 to 1.
        """
        mine = self._of(listener)
        mine.runs += 1
        mine.error = sanitised(described(error), limit=200)
        raised = Raised(kind_of(error), sanitised(traced(error)))
        wait = policy.decide(mine.runs, error, chance)
        if wait is not None:
            mine.due = now + wait
            self.raised[listener.id] = Raised(raised.kind)
        else:
            mine.status = "dead"
            mine.why = Reason.GAVE_UP if policy.is_final(error) else Reason.RETRIES_EXHAUSTED
            self.raised[listener.id] = raised
        output = sanitised(error.output) if isinstance(error, TimeLimitExceededError) else ""
        return _failure(listener.id, mine, raised, output=output)

    def _of(self, listener: Listener) -> ListenerProgress:
        mine = self.listeners.get(listener.id)
        if mine is None:
            mine = self.listeners[listener.id] = ListenerProgress()
        return mine

    # --- after all were called -------------------------------------------------------------------------

    def failures(self) -> tuple[Failure, ...]:
        """Return why each of the dead listeners is dead."""
        dead = {key: each for key, each in self.listeners.items() if each.status == "dead"}
        return tuple(_failure(key, each, self.raised.get(key, _NOTHING_RAISED)) for key, each in dead.items())

    def setbacks(self) -> tuple[Failure, ...]:
        """Return the last failure of each listener that is dead, or runs again because it failed."""
        failed = {
            key: each
            for key, each in self.listeners.items()
            if each.status == "dead" or (each.error and each.status == "due")
        }
        return tuple(_failure(key, each, self.raised.get(key, _NOTHING_RAISED)) for key, each in failed.items())

    def conclude(self, listeners: Sequence[Listener], now: float, *, patience: float = PATIENCE) -> Outcome:
        """
        Return how the delivery ends after its due listeners were called.

        Done if all are done; again at the earliest time at which one is due; dead when none is due any longer
        and one is dead. It waits for a listener that still has to run and that this worker does not have.

        Args:
            listeners: All listeners of this worker for the event in this queue.

            now: Seconds since the epoch.

            patience: Seconds to wait for a missing listener.
        """
        waits = self._waits(listeners, now, patience)
        if waits:
            return Nack(delay=max(0.0, min(waits)), state=dumped(self), reason=self._hindrance(listeners))
        failures = self.failures()
        if not failures:
            return Ack()
        return DeadLetter(reason=failures[0].reason, error=_text_of(failures), state=dumped(self), failures=failures)

    def _hindrance(self, listeners: Sequence[Listener]) -> str:
        """Return why it is not done: a failed listener, else what it waits for; empty if a listener was not begun."""
        here = [self.listeners.get(listener.id) for listener in listeners]
        if any(each is not None and each.status == "due" and each.error for each in here):
            return LISTENER_FAILED
        return next(iter(self.waiting), "")

    def missing(self, here: Container[str]) -> list[str]:
        """Return the ids of the listeners that still have to run, except those *here*."""
        return [key for key, each in self.listeners.items() if each.status == "due" and key not in here]

    def ended(self, here: Container[str]) -> list[str]:
        """Return the ids of the listeners that are done or dead, except those *here*."""
        return [key for key, each in self.listeners.items() if each.status != "due" and key not in here]

    def unbegun(self, ids: Iterable[str]) -> list[str]:
        """Return those of *ids* that will run, and have not yet; none after a stop of the propagation."""
        return [] if self.stopped else [each for each in ids if each not in self.listeners]

    def _waits(self, listeners: Sequence[Listener], now: float, patience: float) -> list[float]:
        """Return the seconds until each unfinished listener is due; a missing one is dead when patience has run out."""
        mine = {listener.id for listener in listeners}
        unfinished = {key: each for key, each in self.listeners.items() if each.status == "due"}
        vanished = {key: each for key, each in unfinished.items() if key not in mine}
        waits = [each.due - now for key, each in unfinished.items() if key in mine]
        if not self.stopped and not mine <= self.listeners.keys():
            waits.append(0.0)  # one was not even begun
        if not vanished:
            self.overcome(Reason.LISTENER_MISSING)
        elif (wait := self.wait_for(Reason.LISTENER_MISSING, now, patience=patience)) is not None:
            waits.append(wait)
        else:
            for key, gone in vanished.items():
                gone.status, gone.why = "dead", Reason.LISTENER_MISSING
                gone.error = _missing_text(key, before=gone.error)
                self.raised.pop(key, None)  # that of an earlier failure, of which it did not die
        return waits


_NOTHING_RAISED = Raised()

_MISSING = "no worker has this listener; "


def _missing_text(listener_id: str, *, before: str) -> str:
    """Return the error of the listener with that id, which is missing; *before* it had failed with another one."""
    history = f"; its last failure: {before}" if before and not before.startswith(_MISSING) else ""
    return sanitised(f"{_MISSING}{if_renamed(listener_id)}{history}", limit=_MOST_OF_MISSING)


def if_renamed(listener_id: str) -> str:
    """Return what to do about the listener with that id, which is not here, if it was renamed."""
    return f'if it was renamed, write @relevo.listener(…, aliases=["{listener_id}"]) above the function'


def _failure(listener_id: str, mine: ListenerProgress, raised: Raised, *, output: str = "") -> Failure:
    return Failure(
        listener=listener_id,
        attempt=mine.runs,
        kind=raised.kind,
        error=mine.error,
        traceback=raised.traceback,
        reason=sanitised(mine.why, limit=_MAX_REASON),
        due=mine.due if mine.status == "due" else None,
        output=output,
    )


def _text_of(failures: Sequence[Failure]) -> str:
    """Return *failures* as text for people; no program parses it."""
    share = MAX_ERROR // len(failures) - 1  # an equal share for each, so that a long one hides no other
    return "\n".join(sanitised(_epitaph(each), limit=share) for each in failures)


def _epitaph(failure: Failure) -> str:
    runs = "1 run" if failure.attempt == 1 else f"{failure.attempt} runs"
    first = f"{failure.listener}: {failure.reason} after {runs}: {failure.error}".rstrip(": ")
    return "\n".join(filter(None, (first, failure.traceback)))


def hastened(state: bytes) -> bytes:
    """Return *state* with every listener due that still has to run; unchanged if this release cannot read it."""
    try:
        progress = loaded(state)
    except DecodeError:
        return state
    late = [each for each in progress.listeners.values() if each.status == "due" and each.due]
    for each in late:
        each.due = 0.0
    return dumped(progress) if late else state


def blamed(state: bytes, listener_id: str, error: str) -> bytes:
    """Return *state* with the listener dead of a crash loop, as in *error*; unchanged if it cannot be read or grow."""
    try:
        progress = loaded(state)
        mine = progress.listeners.setdefault(listener_id, ListenerProgress())
        mine.status, mine.why, mine.error = "dead", Reason.CRASH_LOOP, sanitised(error, limit=200)
        progress.raised.pop(listener_id, None)  # an earlier failure, of which it did not die
        return dumped(progress)
    except (DecodeError, StateTooLargeError):
        return state


class NewerStateError(DecodeError):
    """Raised when a newer release of relevo wrote the state; a newer worker can read it."""

    def __init__(self, version: int):
        self.version = version
        super().__init__(f"a newer release of relevo wrote the state: version {version}")


class StateTooLargeError(CodecError):
    """Raised when the progress of an event is larger than a state may be."""


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_decode_parts = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
"""Leaves every value undecoded, so that values of a newer release are not validated."""
_decode = msgspec.json.Decoder(Progress).decode
_decode_steps = msgspec.json.Decoder(FinishedSteps).decode
_encode = msgspec.json.Encoder().encode


def loaded(state: bytes) -> Progress:
    """
    Return the progress that *state* holds; that of a new event if it is empty.

    Raises:
        NewerStateError: A newer release wrote it.

        DecodeError: It is invalid.
    """
    while state.startswith(SEALED):  # by another program, or before signing was turned off: here it is not verified
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
    Return *progress* as bytes; if they are too many, shorten or leave out tracebacks first, then the error texts.

    Raises:
        StateTooLargeError: It is too large even then.
    """
    state = _encode(progress)
    limit = MAX_ERROR
    while len(state) > _MOST and progress.raised:
        limit //= 2
        progress = msgspec.structs.replace(progress, raised=_shortened(progress.raised, limit))
        state = _encode(progress)
    if len(state) > _MOST:
        brief = {key: msgspec.structs.replace(each, error="") for key, each in progress.listeners.items()}
        state = _encode(msgspec.structs.replace(progress, listeners=brief))
        if len(state) > _MOST:
            what = f"the progress of {len(progress.listeners)} listeners"
            steps = sum(len(each.steps) + len(each.rows) for each in progress.finished.values())
            what += f", with {steps} finished steps," if steps else ""
            raise StateTooLargeError(f"{what} takes {len(state):,} bytes; a state has at most {_MOST:,}")
    return state


def dumped_steps(steps: FinishedSteps) -> bytes:
    """
    Return *steps* as bytes, for a record of their own.

    Raises:
        StateTooLargeError: They are too many.
    """
    state = _encode(steps)
    if len(state) > _MOST:
        count = len(steps.steps) + len(steps.rows)
        raise StateTooLargeError(f"{count} finished steps take {len(state):,} bytes; a record has at most {_MOST:,}")
    return state


def finished_in(record: bytes) -> FinishedSteps:
    """
    Return the steps that :func:`dumped_steps` made *record* of; none if it is empty.

    Raises:
        DecodeError: It is invalid.
    """
    try:
        return _decode_steps(record) if record else FinishedSteps()
    except _UNREADABLE as error:
        raise DecodeError(f"the record of finished steps in the inbox is not readable: {error}") from error


def _shortened(raised: Mapping[str, Raised], limit: int) -> dict[str, Raised]:
    if limit < _SHORTEST_TRACEBACK:
        return {}
    return {key: Raised(each.kind, sanitised(each.traceback, limit=limit)) for key, each in raised.items()}


def first_met(state: bytes, reason: str, now: float) -> tuple[float | None, bytes]:
    """
    Return when the wait for *reason* began, and *state*, which a newer release wrote, with that time in it.

    Return ``None`` and *state* unchanged if its format has no place for that time.
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


def give_back_unread(delivery: Delivery, now: float, *, detail: str, patience: float = PATIENCE) -> Outcome:
    """
    Give an event back whose state a newer release wrote; only the part of it that every release knows is changed.

    If not even that can be noted, the wait counts from when the event was sent.
    """
    first, state = first_met(delivery.state, Reason.NEWER_VERSION, now)
    wait = wait_left(waited(delivery, now) if first is None else now - first, patience)
    if wait is None:
        return DeadLetter(reason=Reason.NEWER_VERSION, error=sanitised(detail))
    return Nack(delay=wait, state=state if len(state) <= MAX_STATE else None, reason=Reason.NEWER_VERSION)


def failures_of(entry: DeadLetterEntry) -> tuple[Failure, ...]:
    """
    Return why *entry* is a dead letter, as far as it was stored: at least its reason and its error.

    The failures that gave it its reason come first.
    """
    try:
        failures = loaded(entry.state).failures() if len(entry.state) <= MAX_STATE else ()
    except DecodeError:
        failures = ()
    if any(failure.reason == entry.reason for failure in failures):
        return tuple(sorted(failures, key=lambda failure: failure.reason != entry.reason))
    return (Failure(reason=entry.reason, error=entry.error),)  # its state is of an earlier hand-over, or unusable


def setbacks_of(state: bytes) -> tuple[Failure, ...]:
    """Return the last failure of each listener that failed, of an event with *state*; empty if it is unusable."""
    try:
        return loaded(state).setbacks() if len(state) <= MAX_STATE else ()
    except DecodeError:
        return ()


def lacks_listener(state: bytes) -> bool:
    """Return whether an event with *state* waits for a listener that the worker that had it last does not have."""
    try:
        return len(state) <= MAX_STATE and Reason.LISTENER_MISSING in loaded(state).waiting
    except DecodeError:
        return False


def foremost(failures: Sequence[Failure]) -> Failure | None:
    """
    Return the one of *failures* with an error whose listener runs next; if none runs again, the first of the dead.

    When each of them failed is not stored.
    """
    explained = [failure for failure in failures if failure.error]
    return min(explained, key=lambda each: float("inf") if each.due is None else each.due, default=None)


def revived(state: bytes) -> bytes:
    """
    Return *state* for a dead letter that is made ready again: its dead listeners run again, the done stay done.

    If it is invalid, return that of a new event.

    Raises:
        NewerStateError: A newer release wrote it, so this one does not know which listeners are done.
    """
    try:
        progress = loaded(state)
    except DecodeError as error:
        if isinstance(error, NewerStateError):
            raise
        return b""
    # The others keep an entry: after a stop of the propagation a listener without one would be skipped.
    again = {key: each if each.status == "done" else ListenerProgress() for key, each in progress.listeners.items()}
    if not again and not progress.stopped:
        return b""
    finished = {key: each for key, each in progress.finished.items() if key in again and again[key].status == "due"}
    return dumped(Progress(STATE_VERSION, listeners=again, stopped=progress.stopped, finished=finished))


def resumed(state: bytes, *, lost_leases: int) -> bytes:
    """
    Return *state* for an event that is put off: as :func:`revived` does, and its *lost_leases* count no longer.

    A revival resets that counter, and a retry does not. If the number does not fit, it is left out.

    Raises:
        NewerStateError: As :func:`revived` does.
    """
    state = revived(state)
    if not lost_leases:
        return state
    try:
        return dumped(msgspec.structs.replace(loaded(state), pardoned=min(lost_leases, _MOST_RUNS)))
    except StateTooLargeError:
        return state


def pardoned(state: bytes) -> int:
    """
    Return how many lost leases of a delivery with *state* do not count; 0 if the state is unusable.

    A signature is not verified: a forged state is refused when the delivery is handled, before a listener runs.
    """
    try:
        return loaded(state).pardoned if len(state) <= MAX_STATE else 0
    except DecodeError:
        return 0
