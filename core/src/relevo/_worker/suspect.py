"""Suspects: events that were lost before. Collect the evidence; :mod:`relevo._worker.evidence` judges it."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from logging import getLogger

import attrs

from relevo._clock import Clock
from relevo._process_identity import Lives, ProcessIdentity, lives_here, process_identity
from relevo._transport.delivery import DeadLetter, Delivery, Failure, Lost, Note, Outcome, Release, Settlement
from relevo._transport.envelope import Envelope
from relevo._transport.transport import Transport
from relevo._visible import visible
from relevo._worker.decision import Reason, sanitised
from relevo._worker.evidence import (
    APPEAR_EVERY,
    CRASH_LOOP_DEATHS,
    GRACE,
    Absences,
    CrashLoop,
    Fate,
    MayBegin,
    Verdict,
    Wait,
    cannot_tell,
    described_deaths,
    described_past,
    judged,
)
from relevo._worker.kept import KeptOutcomes
from relevo._worker.progress import blamed, pardoned
from relevo._worker.put_off import Rewrite
from relevo.errors import LeaseLostError, RelevoError, TransportError

_log = getLogger("relevo.worker")

LOOK_AGAIN = 1.0
"""Seconds until the next try with a suspect that could not be judged or whose note could not be stored."""

_LONGEST_WAIT = GRACE + 2 * LOOK_AGAIN
_REMEMBERED = 3600.0
_MOST_NOTES = 1000

_ended: dict[tuple[int, str], None] = {}
"""
The workers whose run is over, if they began suspects, each after the id of its process, the oldest first.

A fork has a copy, which does not know of later runs; see ``Suspects.end``.
"""

_MOST_ENDED = 1000


@attrs.define(eq=False, repr=False, slots=False)
class Suspects:
    """
    The handling of events that were lost before, for one worker.

    Args:
        transport: The transport of the events.

        clock: The source of time.

        identity: The worker's process, with a random part that no other worker has.

        lives: Returns whether a process of this host is alive.

        listeners: Returns the ids of the listeners of a delivery. The note names a single one from the start, so that
            it is written once.

        rewrite: Returns the state of a delivery as a function changes it, signed if states are.
    """

    _transport: Transport
    _clock: Clock
    identity: ProcessIdentity = attrs.field(factory=lambda: process_identity(os.getpid()))
    _lives: Lives = lives_here
    _listeners: Callable[[Delivery], Sequence[str]] = lambda _: ()
    rewrite: Rewrite = lambda delivery, change: change(delivery.state)

    def __attrs_post_init__(self) -> None:
        self._has_evidence = self._transport.capabilities.presence
        self._absences = Absences()
        self._met: dict[tuple[str, ...], float] = {}
        self.kept = KeptOutcomes()
        """Outcomes of events that were no longer held when they were settled."""
        self._lock = threading.Lock()
        self.notes: dict[Delivery, Note] = {}
        """The notes of deliveries that are not known to be settled."""

        self._is_excused = False
        self._excuse_again_at = -math.inf
        self._appeared: float | None = None
        self._waiting: dict[_Event, float] = {}
        """The start of each suspect's wait for the end of a grace period, in monotonic seconds."""

    def start(self) -> None:
        """Begin another run: from now on the end of this process counts as a death again."""
        with self._lock:
            self._is_excused = False
        _ended.pop((os.getpid(), self.identity.worker), None)

    def end(self, *, is_settled: bool) -> None:
        """
        End a run of which no listener runs any more: other workers of this process need not wait for this one.

        Args:
            is_settled: What it handled is settled, as far as it was not lost.
        """
        if self._appeared is None or self.kept or not is_settled:
            return  # no note names it, or another run settles what this one handled
        _ended[os.getpid(), self.identity.worker] = None
        while len(_ended) > _MOST_ENDED:
            _ended.pop(next(iter(_ended)), None)

    # --- before it is begun ----------------------------------------------------------------------------

    def outcome(self, delivery: Delivery) -> Outcome | None:
        """
        Return the outcome of *delivery* if it must not be handled; else store the note and return ``None``.

        Raises:
            TransportUnavailableError: The server could not be asked which workers are alive.
        """
        begun = delivery.begun
        is_untouched = self._has_evidence and (begun is None or begun.by == str(self.identity))
        with self._lock:
            kept = self.kept.take(delivery, self._clock.monotonic(), is_untouched=is_untouched)
        if kept is not None:
            self._waiting.pop(_event(delivery), None)
            _log.info("%s was handled before its lease was lost; settling it with that outcome", delivery)
            return kept
        if not isinstance(delivery.envelope, Envelope):
            return None
        if not self._has_evidence:
            lost_leases = _counted(delivery)
            return None if lost_leases < CRASH_LOOP_DEATHS else self._crash_loop(delivery, cannot_tell(lost_leases))
        verdict = self._verdict(_without_pardoned(delivery))
        if isinstance(verdict, Wait):
            self._note_wait(delivery)
        else:
            self._waiting.pop(_event(delivery), None)
        match verdict:
            case MayBegin(deaths):
                only = here[0] if len(here := self._listeners(delivery)) == 1 else ""
                note = Note(by=str(self.identity), deaths=deaths, listener=only)
                return self._begin(delivery, note)
            case CrashLoop(deaths):
                last = f"the last while {begun.listener} ran" if begun is not None and begun.listener else ""
                error = sanitised(described_deaths(deaths, last=last))
                listener = begun.listener if begun is not None else ""
                return self._crash_loop(delivery, error, self._blamed(delivery, begun, error), listener=listener)
            case Wait():
                return self._later()

    def _crash_loop(
        self, delivery: Delivery, error: str, state: bytes | None = None, *, listener: str = ""
    ) -> DeadLetter:
        """Return the dead letter of *delivery*, which is not begun; *listener* ran last, if that is known."""
        if state is None and not self._transport.capabilities.dead_letters:
            state = delivery.state  # it is put off instead, with a note in its state
        return _dead_of(error, state, listener)

    def _note_wait(self, delivery: Delivery) -> None:
        if _event(delivery) not in self._waiting:
            _log.info(
                "%s waits for up to %.0f s, %s: that process may still settle it, or may not have ended",
                delivery,
                _LONGEST_WAIT,
                visible(described_past(delivery)),
            )
            self._waiting[_event(delivery)] = self._clock.monotonic()

    def patience(self) -> float:
        """Return for how many seconds a run until empty has to wait for the grace period of a suspect."""
        now = self._clock.monotonic()
        self._waiting = {event: since for event, since in self._waiting.items() if now - since < _LONGEST_WAIT}
        return max((since + _LONGEST_WAIT - now for since in self._waiting.values()), default=0.0)

    def _later(self) -> Release:
        return Release(delay=LOOK_AGAIN if self._transport.capabilities.delay is not None else 0.0)

    def _begin(self, delivery: Delivery, note: Note) -> Outcome | None:
        try:
            if self._appeared is None:
                self._appear()
            self._transport.begin(delivery, note)
        except LeaseLostError:
            return Release()
        except TransportError as error:
            _log.info("%s is not begun yet: its note could not be stored: %s", delivery, error)
            return self._later()
        with self._lock:
            self.notes[delivery] = note
            while len(self.notes) > _MOST_NOTES:
                self.notes.pop(next(iter(self.notes)))
        return None

    # --- while it runs ---------------------------------------------------------------------------------

    def runs(self, delivery: Delivery, listener_id: str) -> None:
        """Add the listener that runs to the note on *delivery*, if the transport can store it; from any thread."""
        with self._lock:
            note = self.notes.get(delivery)
            if note is None or note.listener == listener_id:
                return
            note = attrs.evolve(note, listener=listener_id)
            try:
                self._transport.begin(delivery, note)
            except RelevoError as error:  # the earlier note stays
                _log.debug("the note on %s could not be updated: %s", delivery, error)
            else:
                self.notes[delivery] = note

    def excuse(self) -> None:
        """Mark all notes as excused: this process ends normally or was asked to stop, so its end is not a death."""
        with self._lock:
            if not self._is_excused:  # the first time without a pause: it may be the last
                self._excuse_again_at = -math.inf
            self._is_excused = True
            self._excuse_all()

    def excuse_handled(self) -> None:
        """
        Mark the notes of suspects that were handled but not settled as excused, before another event is begun.

        If the process ends after that, it does not die of them.
        """
        with self._lock:
            self._excuse_all()

    def keep_up(self) -> None:
        """Send a heartbeat if one is due; only a worker that has begun a suspect sends any."""
        if self._appeared is not None and self._clock.monotonic() - self._appeared >= APPEAR_EVERY:
            self._appear()

    def _excuse_all(self) -> None:
        if self._clock.monotonic() < self._excuse_again_at:
            return
        for delivery, note in tuple(self.notes.items()):
            if not note.excused and self._excuse(delivery, note):
                self.notes[delivery] = attrs.evolve(note, excused=True)

    def _excuse(self, delivery: Delivery, note: Note) -> bool:
        """Mark *note* as excused, and return whether that was stored."""
        try:
            self._transport.excuse(delivery, note)
        except RelevoError as error:
            _log.debug("the note on %s could not be marked as excused: %s", delivery, error)
            self._excuse_again_at = self._clock.monotonic() + LOOK_AGAIN
            return False
        return True

    def _appear(self) -> None:
        self._transport.appear(self.identity.worker)
        self._appeared = self._clock.monotonic()

    # --- afterwards ------------------------------------------------------------------------------------

    def conclude(self, delivery: Delivery, outcome: Lost) -> Outcome:
        """Return the final outcome of *delivery*, which was lost: a death that the worker saw may be the last one."""
        with self._lock:
            note = self.notes.get(delivery)
        if not self._has_evidence:
            lost_leases = _counted(delivery) + 1
            if lost_leases < CRASH_LOOP_DEATHS:
                return outcome
            error = sanitised(cannot_tell(lost_leases, last=outcome.error))
            return _dead_of(error, outcome.state, outcome.listener)
        if outcome.death is None or self._is_excused:
            if note is not None and not note.excused:  # the delivery ended, and this process is alive
                with self._lock:
                    self._excuse(delivery, note)
            return attrs.evolve(outcome, death=None)
        deaths = (*(delivery.deaths if note is None else note.deaths), outcome.death)
        if len(deaths) < CRASH_LOOP_DEATHS:
            _log.warning(
                "%s: %s; this is crash %d of %d, and the last makes it a dead letter",
                delivery,
                visible(outcome.error.partition("\n")[0]),  # its output was passed on, and the dead letter quotes it
                len(deaths),
                CRASH_LOOP_DEATHS,
            )
            return outcome
        try:
            verdict = self._verdict(attrs.evolve(delivery, begun=None, deaths=deaths))
        except RelevoError:
            return outcome  # the next worker that receives it judges
        if not isinstance(verdict, CrashLoop):
            return outcome
        error = sanitised(described_deaths(verdict.deaths, last=outcome.error))
        state = outcome.state
        if state is not None:
            state = self._blamed(attrs.evolve(delivery, state=state), note, error) or state
        elif len(self._listeners(delivery)) == 1:  # of several, a checkpoint may have stored what is done since
            state = self._blamed(delivery, note, error)
        return _dead_of(error, state, outcome.listener or (note.listener if note is not None else ""))

    def _blamed(self, delivery: Delivery, note: Note | None, error: str) -> bytes | None:
        """Return the state of *delivery* with the listener in *note* dead; ``None`` if it is not here."""
        if note is None or note.listener not in self._listeners(delivery):
            return None
        return self.rewrite(delivery, partial(blamed, listener_id=note.listener, error=error))

    def note_settled(self, settlements: Sequence[Settlement], lost: Sequence[Settlement]) -> None:
        """Forget the notes of what was settled, and keep the outcomes of what was lost."""
        now = self._clock.monotonic()
        if not (lost or self.notes):
            return
        with self._lock:
            for delivery, _ in settlements:
                self.notes.pop(delivery, None)
            for delivery, outcome in lost:
                self.kept.keep(delivery, outcome, now)
                note = self.notes.pop(delivery, None)
                if note is not None and not note.excused:
                    self._excuse(delivery, note)

    # --- evidence --------------------------------------------------------------------------------------

    def _verdict(self, delivery: Delivery) -> Verdict:
        note, deaths = delivery.begun, delivery.deaths
        self._look([*deaths, *([] if note is None else [note.by])])
        return judged(note, deaths, self._fate, patient=note is not None and self._is_patient(delivery, note))

    def _is_patient(self, delivery: Delivery, note: Note) -> bool:
        """Return whether to leave *delivery* to the process that began it, if that is alive; for a limited time."""
        now = self._clock.monotonic()
        self._met = {key: at for key, at in self._met.items() if now - at < _REMEMBERED}
        key = (*_event(delivery), note.by)
        return now - self._met.setdefault(key, now) < GRACE

    def _fate(self, text: str) -> Fate:
        process = ProcessIdentity.parsed(text)
        if process is None:
            return Fate.UNKNOWN  # only a valid identity is evidence
        if process.witnessed:
            return Fate.GONE
        if process == self.identity:
            return Fate.SELF
        lives = self._lives(process)
        if lives is None:
            return self._absences.fate(process.worker)
        if lives and (os.getpid(), process.worker) in _ended:
            return Fate.SELF
        return Fate.ALIVE if lives else Fate.GONE

    def _look(self, processes: Sequence[str]) -> None:
        """Ask the transport about the processes that are not on this host."""
        found = [process for process in map(ProcessIdentity.parsed, processes) if process is not None]
        asked = [
            each.worker for each in found if not each.witnessed and each != self.identity and self._lives(each) is None
        ]
        if asked:
            now = self._clock.monotonic()
            self._absences.forget(now - _REMEMBERED)
            self._absences.look(asked, self._transport.presence(asked), now)


def _dead_of(error: str, state: bytes | None, listener: str) -> DeadLetter:
    """Return the dead letter of a crash loop; for observers with the *listener* that ran last, if that is known."""
    failures = (Failure(listener=listener, reason=Reason.CRASH_LOOP, error=error),) if listener else ()
    return DeadLetter(reason=Reason.CRASH_LOOP, error=error, state=state, failures=failures)


_Event = tuple[str, str, str]


def _event(delivery: Delivery) -> _Event:
    """Return the identity of the event of *delivery*; only the queue if its bytes are unreadable."""
    envelope = delivery.envelope
    return (
        (delivery.queue, envelope.source, envelope.id) if isinstance(envelope, Envelope) else (delivery.queue, "", "")
    )


def _counted(delivery: Delivery) -> int:
    """Return how many leases of *delivery* were lost since it was put off, if ever."""
    return delivery.lost_leases - pardoned(delivery.state)


def _without_pardoned(delivery: Delivery) -> Delivery:
    """Return *delivery* with the deaths since it was put off: at most one for each lease that was lost since."""
    if not pardoned(delivery.state):
        return delivery
    most = max(0, _counted(delivery) - (delivery.begun is not None))
    return attrs.evolve(delivery, deaths=delivery.deaths[-most:] if most else ())
