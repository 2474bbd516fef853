"""
The worker: receive, call, settle.

The decisions are in :mod:`relevo._worker.progress` and :mod:`relevo._worker.decision`; this module carries them out.
The worker holds deliveries in four places, and everything that is held is renewed until it is settled: the batch that
was received ahead, the *backlog* (received, not begun), what the executor runs, and the settlements that wait to be
flushed together.

A delivery with lost leases is a suspect: it may end the process. It is handled alone: nothing else is begun, running or
unflushed while it runs, and what was received with it goes back as released (law 3). Before it is begun, a note
is stored (:mod:`relevo._worker.suspect`).

A run until empty takes its suspects last: if it ends with one of them, everything else that was due is done. A worker
for ever takes them as they come, since it is restarted at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from logging import INFO, WARNING, getLogger

import attrs

from relevo._clock import Clock
from relevo._hook import Hooks, notify, observe
from relevo._problem import dotted
from relevo._process_identity import this_process
from relevo._transport.control_store import ControlStore
from relevo._transport.coordinator import Coordinator
from relevo._transport.delivery import Ack, DeadLetter, Delivery, Lost, Nack, Release
from relevo._transport.envelope import Envelope
from relevo._transport.limit import Limit
from relevo._transport.limit_store import LimitStore
from relevo._transport.optional import ParallelSettlement
from relevo._transport.transport import Transport
from relevo._visible import visible
from relevo._worker.announcement import Announcer
from relevo._worker.batch_size import Pace
from relevo._worker.control import ControlWatch, Pause, name_there
from relevo._worker.decision import SHARED_QUEUE
from relevo._worker.deferral import ASIDE, Deferral
from relevo._worker.evidence import GRACE as GRACE_OF_SUSPECTS, described_past
from relevo._worker.executor import Executor, Handle, InlineExecutor
from relevo._worker.flusher import Flusher
from relevo._worker.keeper import LeaseKeeper
from relevo._worker.late_setup import LateSetup, Prepare
from relevo._worker.ledger import Ledger, Reminder, worked_before
from relevo._worker.limiter import Limiter
from relevo._worker.neighbour import Neighbour, running
from relevo._worker.outage import Outage
from relevo._worker.read_ahead import ReadAhead
from relevo._worker.run import Report, RunOptions, retries
from relevo._worker.running import Run, RunningListeners
from relevo._worker.stall import StallWatch
from relevo._worker.suspect import Suspects
from relevo.errors import (
    ConfigurationError,
    RelevoError,
    SettleError,
    TransportClosedError,
    TransportError,
    TransportUnavailableError,
    shown,
)

_log = getLogger("relevo.worker")

LEASE = 60.0
"""Seconds of a lease; renewed every third of it."""

_READ_AHEAD_FROM = 16
"""The smallest batch that is received ahead: it grows to that size only while a batch takes less than 0.1 s."""

_WAIT = 1.0
_WAIT_BUSY, _SOON = 0.02, 0.002
_WAIT_DOUBT, _MOST_DOUBTS = 0.05, 20
GRACE = 5.0
"""Seconds after the time limit within which a transport call ends, unless its driver waits for a silent server."""

_ALONE_WITHIN = 5.0
"""Seconds for which a suspect waits for settlements that the transport does not take."""

_WAIT_OTHERS = 0.5
"""Seconds for which others may be on their way although none is ready."""

_FEW_SUSPECTS = 20
"""Suspects that are held, one of which is begun last, while others may be on their way behind them."""

_WAIT_LIMIT = 2.0
"""Seconds for which a run until empty waits for the limits of its queues, unless it waits longer for retries."""

_WAIT_PAUSED = 0.25
"""Seconds between two looks whether a queue was resumed, if all are paused."""

_ASK_EVERY = 0.1
"""Seconds after which hooks are asked whether to go on, even if there still is something to begin."""


@attrs.define(kw_only=True, eq=False, repr=False, slots=False)
class Worker:
    """
    Handles the events of some queues of one transport until a limit is reached or it is stopped.

    It may be run again, unless it was stopped: its limits, counted from its creation, and its report continue.

    Args:
        transport: The transport of the events.

        handle: From a delivery to its outcome.

        queues: In order of preference.

        clock: The source of time; it also waits in an outage.

        chance: Returns random numbers from 0 to 1, for the jitter of waits.

        options: Its limits.

        executor: Where listeners run; in this thread by default.

        hooks: Plugins that observe the worker, and may pause it.

        coordinator: Keeps what the worker announces, and what operators ask of it; by default the transport, if it is a
            coordinator.

        stops_on_request: Whether ``relevo stop`` may end it; otherwise another worker of the process is asked.

        limits: The limits of queues, by queue; they need a coordinator that is a :class:`LimitStore`.

        slots: How many events the executor runs at once.

        lease: Seconds for which deliveries are hidden; renewed every third of it if the transport claims that.

        patient: Wait for a server that is down, instead of raising. After the first successful receive a
            configuration error of the transport is an outage too: the same configuration worked before.

        limited: Other transports that the executor calls, or that the listeners send to; the time limit applies to
            the worker's own calls of them too.

        background: Renew leases, flush settlements and, where that is quicker, receive also while a listener runs, from
            threads.

        note_retry: Called with each delivery that was given back for a reason.

        sources: Those whose events this application expects; the first event of another one is logged.

        suspects: Handles events that were lost before; by default with the identity of this process.

        running: Returns the listeners that run in this process, each with its delivery; called in a signal handler too.

        limit: Takes the id of a listener, returns its time limit in seconds, for warnings.

        given: Leases the only deliveries to handle, for the given number of seconds; called once. By default they are
            received.

        where: Where listeners run, in words, for the log; empty if that is this thread.

        prepare: Creates what the transport lacks; called once, before the first receive.

        prepare_helpers: Does the same for what helps the transport, then. It returns why that cannot be reached; it is
            called again beside the loop until it returns nothing.

        expect: Called with each batch of deliveries before the first of them is handled, if it is given.

        expect_nothing_more: Called at the end of each run.
    """

    _transport: Transport
    _handle: Handle
    _queues: Sequence[str]
    _clock: Clock
    _chance: Callable[[], float]
    _options: RunOptions = attrs.field(factory=RunOptions)
    _executor: Executor = attrs.field(factory=InlineExecutor)
    _hooks: Hooks = attrs.field(factory=Hooks)
    _coordinator: Coordinator | None = attrs.field()
    _stops_on_request: bool = True
    _limits: Mapping[str, Limit] = attrs.field(factory=dict)
    _slots: int = 1
    _lease: float = LEASE
    _patient: bool = False
    _limited: Sequence[Transport] = ()
    _background: bool = True
    _note_retry: Callable[[Delivery, Nack], object] = lambda _, __: None
    _sources: Collection[str] | None = None
    _suspects: Suspects = attrs.field()
    _running: Callable[[], Iterable[Run]] = tuple
    _limit: Callable[[str], float] | None = None
    _given: Callable[[float], Sequence[Delivery]] | None = None
    _where: str = ""
    _prepare: Callable[[], object] = lambda: None
    _prepare_helpers: Prepare = tuple
    _expect: Callable[[Sequence[Delivery]], object] | None = None
    _expect_nothing_more: Callable[[], object] = lambda: None
    _is_unrecorded: Callable[[Delivery], bool] = attrs.field(default=lambda _: False, init=False)

    @_suspects.default
    def _own_suspects(self) -> Suspects:
        return Suspects(self._transport, self._clock)

    @_coordinator.default
    def _own_coordinator(self) -> Coordinator | None:
        own: object = self._transport
        return own if isinstance(own, Coordinator) else None

    def __repr__(self) -> str:
        return f"<Worker of {self._transport.name}: {', '.join(self._queues)}>"

    def __attrs_post_init__(self) -> None:
        options = self._options
        most = options.batch or self._executor.largest_batch
        self._queues = tuple(self._queues)
        self._backlog: deque[Delivery] = deque()
        self._ledger = Ledger(
            self._transport,
            self._clock,
            self._hooks,
            self._suspects.note_settled,
            limit=most,
            note_retry=self._note_retry,
            rewrite=self._suspects.rewrite,
        )
        self.held = self._ledger.held
        """Returns how many deliveries were received and are not known to be settled; safe to call from any thread."""
        transport = self._transport
        is_parallel = isinstance(transport, ParallelSettlement) and (
            transport.settles_in_parallel or self._executor.waits
        )
        self._runs = RunningListeners(
            self._clock,
            here=self._running,
            elsewhere=self._executor.listening,
            limit=self._limit,
            held=self._ledger.held,
            at_limit=self._executor.at_limit,
        )
        self._announcer = self._own_announcer()
        self._control = self._own_control()
        self._limiter = self._own_limiter()
        self.waits_for_limits = True
        """Whether a run until empty waits a while for queues that have reached their limits."""
        self._open_queues = self._queues
        self._heeded: Mapping[str, Pause] = self._control.paused
        """The pauses according to which it receives, and holds what it holds."""
        self._keeper = LeaseKeeper(
            ledger=self._ledger,
            clock=self._clock,
            lease=self._lease,
            flush=self._flush,
            hurry=self._hurry,
            is_stopping=lambda: self._stopped,
            suspects=self._suspects,
            running=self._runs,
            announcer=self._announcer,
            limiter=self._limiter,
        )
        self._late_setup = LateSetup(self._prepare_helpers, self._clock)
        self._flusher = Flusher(self._flush) if self._background and is_parallel else None
        # What is received over a connection is lost with it, and the ledger knows that of the last batch alone.
        reads_ahead = is_parallel and transport.capabilities.lease == "timed"
        self._ahead = ReadAhead(self._receive, self._ledger.release) if self._background and reads_ahead else None
        self._most_pending = 2 * most
        self._pace = Pace(most)
        self._stopped = self._hurried = self._is_over = self._is_prepared = False
        self._has_begun = False
        """Whether a run has passed the preparation."""
        self._unsettled_since: float | None = None
        self._doubts = 0
        self._outage = Outage(transport.name, self._clock, self._chance)
        self._received = False
        self._busy = False
        """Whether a listener runs, as far as this thread knows."""
        self._worked = self._clock.monotonic()
        """When a listener last ran, in monotonic seconds."""
        self._suspect_reminder = Reminder(self._clock)
        self._started = self._clock.monotonic()
        self._ends = self._started + (float("inf") if options.max_seconds is None else options.max_seconds)
        self._has_limit = self._ends < float("inf")
        is_last = options.until_empty and options.max_events is None and self._given is None
        until_half = (self._ends - self._started) / 2 if is_last else 0.0
        self._deferral = Deferral(transport, self._clock, self._is_more_ready, limit=until_half)
        self._linger = self.lingered = 0.0
        """Seconds of the next wait for events that become due, and of all such waits so far; see *settle*."""
        self._asked = self._started
        self._stalls = StallWatch(self._clock, self._executor.stalled)
        self._objection = ""
        """Why the run ends, if a hook objected to further events."""

    def follow(self, relay: Worker) -> None:
        """
        Begin no event that *relay*, which runs in this process, has just sent, until its outbox knows that.

        Otherwise a listener that ends the process would have the event sent a second time, with its lost leases
        forgotten.
        """
        self._is_unrecorded = relay.holds_sent

    def holds_sent(self, delivery: Delivery) -> bool:
        """Return whether this relay has just sent the event of *delivery*, and the outbox may not know it."""
        event = delivery.envelope
        source = self._executor.passed_on(event) if isinstance(event, Envelope) else None
        return source is not None and self._ledger.holds(source)

    def _own_announcer(self) -> Announcer | None:
        if self._coordinator is None:
            return None
        return Announcer(
            self._coordinator,
            self._clock,
            self._suspects.identity,
            held=self._ledger.held_now,
            running=self._runs.all,
            transport=self._name_there(),
        )

    def _own_control(self) -> ControlWatch:
        """Return what looks at the controls; a run for one event, which an operator chose, heeds none."""
        coordinator: object = self._coordinator
        return ControlWatch(
            coordinator if isinstance(coordinator, ControlStore) and self._given is None else None,
            self._clock,
            transport=name_there(self._transport, coordinator),
            queues=self._queues,
            stop=self.stop if self._stops_on_request else None,
            background=self._background,
        )

    def _own_limiter(self) -> Limiter | None:
        """Return what holds the worker to limits; ``None`` if there are none, or an operator chose the event."""
        coordinator: object = self._coordinator
        if not self._limits or self._given is not None:
            return None
        if not isinstance(coordinator, LimitStore):
            name = self._transport.name
            own = "has none" if coordinator is None else "has one that cannot"
            raise ConfigurationError(
                f"queues: the limit of {', '.join(self._limits)} needs a coordinator that counts for all workers, and "
                f'the transport "{name}" {own}; set one, as in {dotted(("transports", name, "coordinator"))} = '
                f'"postgresql://…", or to the name of another transport on SQL'
            )
        return Limiter(
            coordinator,
            self._limits,
            self._clock,
            transport=name_there(self._transport, coordinator),
            lease=self._lease,
            slots=self._slots,
            holds=self._ledger.holds,
            patient=self._patient,
        )

    def may_begin(self, delivery: Delivery, *, asks: bool) -> bool:
        """
        Return whether the limit of its queue still lets *delivery* begin, which was submitted; from any thread.

        Args:
            delivery: What was submitted.

            asks: Whether it may wait for the store of limits.
        """
        return self._limiter is None or self._limiter.still_begins(delivery, asks=asks)

    def _name_there(self) -> str:
        """Return the name of the transport for its coordinator; empty if they are the same."""
        own: object = self._transport
        return "" if self._coordinator is own else self._transport.name

    @property
    def paused(self) -> Mapping[str, Pause]:
        """The queues of the worker that operators have paused; from any thread."""
        return self._control.paused

    def stop(self) -> None:
        """
        Finish what runs, release the rest and end for good. If it is called before :meth:`run`, that ends at once.

        Safe to call from a signal handler and from any thread.
        """
        self._stopped = True  # not an Event: the thread that the handler interrupts may hold its lock

    def interrupt(self) -> None:
        """Remember what runs in this process; called by the handler of a second signal, which ends it at once."""
        self._runs.interrupt()

    def log_interrupted(self) -> None:
        """Log which listeners a second signal ends; not in its handler."""
        self._runs.log_interrupted()

    def log_running(self) -> None:
        """Log what runs, since when and where it is, also in child processes; not in a signal handler."""
        _log.warning("%s: %d held, %d handled", self, self.held(), self._ledger.handled())
        self._runs.log_all(self._executor.frames)
        self._executor.log_children()

    @property
    def is_ending(self) -> bool:
        """Whether no further delivery is begun, since :meth:`stop` was called or the time limit is reached."""
        return self._stopped or self._clock.monotonic() >= self._ends

    @property
    def stopped(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopped

    def run(self) -> Report:
        """
        Handle events until a limit is reached, no event is ready, :meth:`stop` is called, or the transport is closed.

        Raises:
            ConfigurationError: The transport cannot be used, and no receive succeeded before; or a stop has ended an
                earlier run.

            TransportUnavailableError: The server could not be reached, and the worker is not patient.

            SettleError: The server keeps refusing to settle something, and the worker is not patient.

            StalledError: Nothing works on a submitted delivery.
        """
        if self._is_over:
            raise ConfigurationError("a worker that was stopped cannot be run again; make a new one, as app.worker()")
        self._objection = ""
        self._hurried = False
        self._late_setup.begin()
        self._stalls.start()
        self._deferral.start()
        self._suspects.start()
        if self._limiter is not None:
            self._limiter.start()
        self._executor.start(self._handle)
        around = self._hooks.observers("relevo_around_run")
        about = {"transport": self._transport.name, "queues": self._queues, "until_empty": self._options.until_empty}
        where = self._where and f" ({self._where})"
        _log.info("serving %s: %s%s", self._transport.name, ", ".join(self._queues), where)
        try:
            with self._keeper if self._background else nullcontext():
                try:
                    with (
                        self._control,
                        self._flusher or nullcontext(),
                        self._ahead or nullcontext(),
                        observe(around, **about),
                        running(self._transport, self._queues) as here,
                    ):
                        stopped_by = self._loop(here)
                except KeyboardInterrupt:
                    self._hurried = True
                    raise
                finally:
                    self._put_back()
                    self._suspects.excuse()
        finally:
            self._late_setup.end()
            if self._announcer is not None:
                self._announcer.withdraw()
            if self._limiter is not None:
                self._limiter.close()
            self._executor.stop()
            if isinstance(self._executor, InlineExecutor):  # a thread may still run a listener
                self._suspects.end(is_settled=not self._ledger.keeps_outcomes())
            self._lift_limit()
            self._expect_nothing_more()
        if self._stalls.fault is not None:
            raise self._stalls.fault
        self._is_over = stopped_by == "asked"
        counts = self._ledger.counts
        report = Report(
            handled=self._ledger.handled(),
            done=counts[Ack],
            retried=counts[Nack],
            dead=counts[DeadLetter],
            unsettled=self._ledger.held() + self._ledger.cut_off,
            seconds=self._clock.monotonic() - self._started,
            stopped_by=stopped_by,
            objection=self._objection,
            reasons={str(reason): number for reason, number in self._ledger.reasons.items()},
            retry_reasons={str(reason): number for reason, number in self._ledger.retry_reasons.items()},
            paused=tuple(queue for queue in self._queues if queue in self._heeded),
        )
        _log.info(
            "stopped serving %s (%s): %d done, %s, %d dead",
            self._transport.name,
            stopped_by,
            report.done,
            retries(report),
            report.dead,
        )
        return report

    def prepare(self) -> None:
        """
        Create what the transport lacks, unless that was done.

        What helps it, such as its outbox, may be down: it is prepared while :meth:`run` handles events.

        Raises:
            ConfigurationError: Something is missing, or cannot be used.

            TransportUnavailableError: The server could not be reached; or, if this worker is not patient, that of
                what helps it.
        """
        if not self._is_prepared:
            self._prepare()
            self._late_setup.note(self._prepare_helpers())
            self._is_prepared = True

    # --- the loop -----------------------------------------------------------------------------------

    def _loop(self, here: Neighbour) -> str:
        while True:
            ended = self._limit_reached()
            if ended:
                return ended
            try:
                if not self._has_begun or self._control.paused is not self._heeded:
                    self._make_ready(here)
                if self._backlog:
                    self._begin()
                elif self._executor.room() and not self._fetch() and self._options.until_empty and self._is_drained():
                    return "empty"
                self._collect()
            except TransportUnavailableError as error:
                if error.hurried and self._clock.monotonic() >= self._ends and not self._ledger.cut_off:
                    _log.info("the time limit ended a call: %s", error)
                    return "time"
                self.sit_out(error)
            except TransportClosedError as error:
                if not self._received or error.transport != self._transport.name:
                    raise
                _log.warning('the transport "%s" is closed, so the worker ends', error.transport)
                return "asked"
            except SettleError:
                if not self._patient:  # otherwise it is tried again, while everything else continues
                    raise

    def _make_ready(self, here: Neighbour) -> None:
        """Prepare the transport, begin what needs that, and heed what is paused."""
        if not self._has_begun:
            self.prepare()
            self._has_begun = True
            self._outage.end_elsewhere()
            self._deferral.start()  # the time of a slow start does not count
            self._late_setup.begin()
            self._control.begin()
            here.warn_of_others()
        if self._control.paused is not self._heeded:
            self._heed_pauses()

    def _begin(self) -> None:
        """Submit as much of the backlog as there is room for; a suspect only once it is alone, and alone."""
        backlog, executor, ledger = self._backlog, self._executor, self._ledger
        while backlog and executor.room() and not self._stopped:
            if self._is_unrecorded(backlog[0]):
                self._pause(_SOON)
                return
            suspect = backlog[0].lost_leases > 0
            if suspect and not self._finish_others():
                return
            if self._control.paused is not self._heeded:  # since what was submitted before may have taken a while
                return
            if self._suspects.notes:  # the transport may not have taken the outcome of an earlier suspect
                self._suspects.excuse_handled()
            if self._limiter is not None and not self._limiter.begins(backlog[0]) and ledger.holds(backlog[0]):
                self._ask_again(self._limiter)
                continue
            delivery = backlog.popleft()
            if suspect:
                self._begin_suspect(delivery)
                self._finish()
            elif ledger.holds(delivery):
                self._submit(delivery)

    def _heed_pauses(self) -> None:
        """Give back what is held of queues that were paused, and receive only from the others."""
        before, paused = self._heeded, self._control.paused
        self._heeded = paused
        self._open_queues = tuple(queue for queue in self._queues if queue not in paused)
        level = INFO if self._options.until_empty else WARNING  # a drain from cron would warn each minute
        for queue in before.keys() - paused.keys():
            _log.log(level, "the queue %s of %s was resumed", queue, self._transport.name)
        for queue in paused.keys() - before.keys():
            pause = visible(paused[queue].in_words)
            _log.log(
                level, "the queue %s of %s has been paused %s; its events wait", queue, self._transport.name, pause
            )
        kept = self._without_paused(self._backlog)
        self._backlog.clear()
        self._backlog.extend(kept)

    def _without_paused(self, batch: Iterable[Delivery]) -> Sequence[Delivery]:
        """Give back the deliveries of *batch* whose queue is paused; return the others."""
        batch = list(batch)
        kept = [each for each in batch if each.queue not in self._heeded]
        if len(kept) < len(batch):
            self._ledger.release(each for each in batch if each.queue in self._heeded)
        return kept

    def _ask_again(self, limiter: Limiter) -> None:
        """Ask for all of the backlog, since the permission to begin its first delivery has ended."""
        backlog = tuple(self._backlog)
        self._backlog.clear()
        self._backlog.extend(self._within_limits(backlog, limiter))

    def _within_limits(self, batch: Sequence[Delivery], limiter: Limiter) -> Sequence[Delivery]:
        """
        Give back the deliveries of *batch* that the limits of their queues do not let begin; return the others.

        It may be called from the thread that reads ahead.
        """
        try:
            kept = limiter.admitted(batch)
        except BaseException:
            self._ledger.release(batch)  # nothing of it was begun
            raise
        if len(kept) < len(batch):
            admitted = frozenset(kept)
            self._ledger.release(each for each in batch if each not in admitted)
        return kept

    def _await_limits(self) -> None:
        """Wait, if a queue has reached its limit, until it may have room; the receive waited if another one has."""
        if self._limiter is None:
            return
        self._limiter.settle_up()
        if not self.waits_for_limits:
            return
        left = self._limiter.closed_for(self._open_queues)
        self._pause(min(left, _WAIT_BUSY if self._executor.running() else _WAIT))

    def _waits_for_limit(self, queues: Collection[str]) -> bool:
        """Return whether a run until empty waits for one of *queues*, which have reached their limits."""
        if self._limiter is None or not queues:
            return False
        patience = max(self._options.settle, _WAIT_LIMIT) if self.waits_for_limits else 0.0
        if not self._limiter.opens_within(patience, queues):
            return False
        self._linger = min(self._limiter.opens_in(queues), _WAIT)
        return True

    def _begin_suspect(self, delivery: Delivery) -> None:
        """Submit *delivery*, the only one that is held, unless it ends without being handled."""
        if not self._ledger.holds(delivery):
            return
        try:
            with worked_before(self._transport.name):
                outcome = self._suspects.outcome(delivery)
        except TransportUnavailableError:
            self._ledger.add(delivery, Release())
            raise
        if outcome is None:
            # A lost connection or a killed process makes a whole batch suspect, and most of it was never begun.
            is_logged = delivery.begun is not None or bool(delivery.deaths) or self._suspect_reminder.take_turn()
            level = WARNING if is_logged else INFO
            _log.log(level, "%s is handled again, alone, %s", delivery, visible(described_past(delivery)))
            notify(self._hooks.observers("relevo_handed_over_again"), delivery=delivery)
            self._submit(delivery)
        else:
            self._ledger.add(delivery, outcome)

    def _submit(self, delivery: Delivery) -> None:
        """Submit *delivery*. Its listeners may run in this thread; the time limit does not apply to their calls."""
        self._busy = True
        self._lift_limit()
        try:
            self._executor.submit(delivery)
        finally:
            self._hurry()

    def _finish_others(self) -> bool:
        """
        Finish what runs and settle it; return whether at most one delivery is held then.

        A settlement that the transport does not take, such as a dead letter whose queue is full, delays a suspect
        only for a while: otherwise the suspect, and all that comes after it, would never be handled.
        """
        self._finish()
        held, waiting = self._ledger.held(), self._ledger.waiting()
        if not waiting:
            self._unsettled_since = None
            if held <= 1:
                return True
        else:
            now = self._clock.monotonic()
            self._unsettled_since = now if self._unsettled_since is None else self._unsettled_since
            if held - waiting <= 1 and now - self._unsettled_since >= _ALONE_WITHIN:
                return True
        self._pause(_WAIT_BUSY)
        return False

    def _collect(self) -> None:
        """Record what finished, after a short wait if nothing can be begun, and flush when it is time."""
        if running := self._executor.running():
            self._gather(running, 0.0 if self._executor.room() else _WAIT_BUSY)
        if self._has_limit:
            self._note_rest()
        if self._ledger.ripe():
            if not self._is_flushing():
                self._flush()
            if self._limiter is not None:
                self._limiter.settle_up()

    def _is_flushing(self) -> bool:
        """Return whether a thread flushes now, or soon; not if too much is pending, or the last flush failed."""
        return self._flusher is not None and self._ledger.pending() < self._most_pending and self._flusher.request()

    def _flush(self) -> None:
        self._hurry()
        self._ledger.flush()

    def _hurry(self) -> None:
        """
        Limit the next transport calls of this thread to the time limit plus the grace period.

        If a listener runs longer, the grace period begins when the last one ends.
        """
        if self._has_limit:
            now = self._clock.monotonic()
            if self._busy:
                self._worked = now
            for transport in (self._transport, *self._limited):
                transport.hurry(max(self._ends, self._worked) + GRACE - now)

    def _lift_limit(self) -> None:
        """Let transport calls of this thread take as long as they may without a time limit."""
        if self._has_limit:
            for transport in (self._transport, *self._limited):
                transport.hurry(None)

    def _gather(self, running: int, wait: float) -> None:
        """Record what finished of *running* deliveries, after at most *wait* seconds; give up what is stalled."""
        finished = self._executor.take_finished(wait)
        if self._outage.elsewhere and any(isinstance(outcome, Ack) and outcome.moved for _, outcome in finished):
            self._outage.end_elsewhere()
        for delivery, outcome in finished:
            if self._stalls.fault is not None and self._stalls.forget(delivery):
                continue
            if isinstance(outcome, Lost):
                listener = outcome.listener or self._runs.interrupted(delivery)
                outcome = attrs.evolve(outcome, listener=listener)  # noqa: PLW2901 - the same
                outcome = self._suspects.conclude(delivery, outcome)  # noqa: PLW2901 - the same, with a verdict
            self._ledger.add(delivery, outcome)
        if len(finished) < running:
            self._give_up_stalled()

    def _finish(self) -> None:
        """Wait for what runs, unless the worker was interrupted, and settle it."""
        while (running := self._executor.running()) > self._stalls.given_up():
            self._gather(running, _WAIT_BUSY)
            if self._hurried:
                break
        if self._has_limit:
            self._note_rest()
        self._flush()

    def _note_rest(self) -> None:
        """Record whether a listener still runs, and when the last one ran."""
        if self._busy:
            self._worked = self._clock.monotonic()
            self._busy = self._executor.running() > self._stalls.given_up()

    def _give_up_stalled(self) -> None:
        """Settle as lost what has been stalled for too long, which ends the run."""
        for delivery, fault in self._stalls.look():
            _log.error("%s", fault)
            lost = Lost(error=str(fault), death=str(this_process().as_witnessed()))
            self._ledger.add(delivery, self._suspects.conclude(delivery, lost))

    def _fetch(self) -> bool:
        """Receive further events into the backlog; return ``False`` if there were none."""
        batch, limit = self._take_ahead()
        if not batch and not self._open_queues:
            self._flush()
            self._pause(_WAIT_BUSY if self._executor.running() or self._options.until_empty else _WAIT_PAUSED)
            return False
        if not batch:
            limit = self._room()
            if limit < 1:
                self._finish()
                if self._ledger.held():
                    self._pause(_WAIT_BUSY)
                return True
            began = self._clock.monotonic()
            batch = self._receive(limit, self._wait())
            if self._linger:
                self.lingered, self._linger = self.lingered + self._clock.monotonic() - began, 0.0
        if self._heeded and batch and not (batch := self._without_paused(batch)):  # received before the pause
            return True
        batch, is_aside = self._set_aside(batch, limit)
        if self._expect is not None:
            self._expect(batch)
        if is_aside:
            return True
        suspect = min((delivery for delivery in batch if delivery.lost_leases), key=_suspicion, default=None)
        self._pace.adapt(len(batch), asked=limit, now=self._clock.monotonic(), suspect=suspect is not None)
        if not batch:
            self._outage.note_empty()
            self._flush()
            self._await_limits()
            return False
        self._doubts = 0
        if suspect is None:
            self._backlog.extend(batch)
            if len(batch) == limit:
                self._read_ahead()
        else:
            self._backlog.append(suspect)
            self._ledger.release(delivery for delivery in batch if delivery is not suspect)
        return True

    def _set_aside(self, batch: Sequence[Delivery], limit: int) -> tuple[Sequence[Delivery], bool]:
        """
        Keep the others of *batch* and give its suspects back for later, unless it is time for a suspect.

        Returns:
            What to begin if it is, and whether suspects were given back.
        """
        if not any(each.lost_leases for each in batch):
            self._deferral.note_others()
            return batch, False
        if self._deferral.has_ended():
            return batch, False
        batch = list(batch)
        try:
            if self._transport.capabilities.stats != "exact":
                self._add_others(batch, limit)
            is_over = self._deferral.is_over(batch)
        except BaseException:
            self._ledger.release(batch)  # nothing of it was begun
            raise
        if is_over:
            self._deferral.end()
            return batch, False
        self._pace.adapt(len(batch), asked=limit, now=self._clock.monotonic())
        self._backlog.extend(delivery for delivery in batch if not delivery.lost_leases)
        self._deferral.note()
        for delivery in batch:
            if delivery.lost_leases:
                self._ledger.add(delivery, Release(delay=ASIDE))
        self._flush()  # an event that has no past may end the process, too
        return batch, True

    def _add_others(self, batch: list[Delivery], limit: int) -> None:
        """Add to *batch*, if it has suspects alone and no event seems to be ready, what is on its way."""
        while all(each.lost_leases for each in batch) and not self._is_more_ready():
            came = self._receive(limit, _WAIT_OTHERS)
            batch += came
            if not came or self.is_ending or len(batch) > max(2 * limit, _FEW_SUSPECTS):
                return

    def _is_more_ready(self) -> bool:
        """Return whether further events are ready."""
        if self._transport.capabilities.stats == "none":
            return False
        with worked_before(self._transport.name):
            closed = () if self._limiter is None else self._limiter.closed(self._open_queues)
            return any(self._transport.stats(queue).ready != 0 for queue in self._open_queues if queue not in closed)

    def _room(self) -> int:
        """Return how many events to receive; less than one if no further event may be begun."""
        if self._options.max_events is None:
            return self._pace.limit()
        # held() is read first: a delivery that the keeper settles in between is counted twice, not left out.
        return min(self._pace.limit(), self._options.max_events - self._ledger.held() - self._ledger.handled())

    def _receive(self, limit: int, wait: float = 0.0) -> Sequence[Delivery]:
        self._hurry()
        if self._given is not None:
            batch = () if self._received else self._given(self._lease)
        else:
            with worked_before(self._transport.name) if self._received else nullcontext():
                batch = self._take(self._open_queues, limit, wait)
        self._received, self._ledger.cut_off = True, 0
        # While settlements fail, the outage goes on, although events may be received.
        if not (self._ledger.pending() or self._ledger.waiting()):
            self._outage.end()
        if batch:
            _log.debug("received %d from %s", len(batch), self._transport.name)
            self._note_foreign(batch)
        self._ledger.hold(batch)
        return batch if self._limiter is None or not batch else self._within_limits(batch, self._limiter)

    def _take(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        """Receive, within the limits of the queues."""
        receive = self._transport.receive
        if self._limiter is None:
            return receive(queues, limit=limit, lease=self._lease, wait=wait)
        return self._limiter.receive(
            lambda some, most, within: receive(some, limit=most, lease=self._lease, wait=within),
            queues,
            limit=limit,
            wait=wait,
        )

    def _note_foreign(self, batch: Sequence[Delivery]) -> None:
        """Log the first event of another application; a drain from cron would warn each minute."""
        if self._sources is None:
            return
        for each in batch:
            # That may be right: an application may dispatch for another one.
            if isinstance(each.envelope, Envelope) and each.envelope.source not in self._sources:
                self._sources = None
                level = INFO if self._options.until_empty else WARNING
                taken = f"{each}, an event of the application {shown(each.envelope.source)}"
                _log.log(level, "took %s%s (logged once)", taken, SHARED_QUEUE)
                return

    def _read_ahead(self) -> None:
        """Receive the next batch while this one is handled, if each event takes little time."""
        limit = self._room()
        if self._ahead is not None and limit >= _READ_AHEAD_FROM:
            self._ahead.request(limit)

    def _take_ahead(self) -> tuple[Sequence[Delivery], int]:
        """Return what was received ahead, and how much was asked for."""
        return ((), 0) if self._ahead is None else (self._ahead.take(), self._ahead.limit)

    def _wait(self) -> float:
        """Return for how long to wait for further events."""
        if self._executor.running():
            return _WAIT_BUSY
        if self._options.until_empty:
            return self._linger
        return 0.0 if self._ledger.pending() or not self._received else _WAIT

    def _is_drained(self) -> bool:
        """Return whether nothing is left to receive, or worth waiting for; if not, the next receive waits briefly."""
        if self._ledger.held():
            self._pause(_WAIT_BUSY)
            return False
        if self._given is not None or not self._open_queues:
            return True
        if self._limiter is not None and self._limiter.has_settled(self._open_queues):
            return False
        known = self._transport.capabilities.stats != "none"
        with worked_before(self._transport.name):
            stats = [self._transport.stats(queue) for queue in self._open_queues] if known else []
        ready = [queue for queue, each in zip(self._open_queues, stats, strict=False) if each.ready]
        closed = () if self._limiter is None else self._limiter.closed(ready)
        if len(closed) < len(ready) and self._doubts < _MOST_DOUBTS:
            # In transit, or behind an earlier event of its key, or just taken by another worker.
            self._doubts += 1
            self._linger = _WAIT_DOUBT
            return False
        if self._waits_for_limit(closed):
            return False
        self._deferral.end()
        left = max(self._options.settle - self.lingered, self._suspects.patience(), self._deferral.left())
        if left > 0 and (not known or any(each.scheduled != 0 or each.leased for each in stats)):
            self._linger = min(left, _WAIT)
            return False
        return True

    def _limit_reached(self) -> str | None:
        options = self._options
        now = self._clock.monotonic()
        if self._stalls.fault is not None:
            return "stalled"
        if self._stopped:
            return "asked"
        if options.max_events is not None and self._ledger.handled() >= options.max_events:
            return "events"
        if now >= self._ends:
            return "time"
        if not self._backlog or now - self._asked >= _ASK_EVERY:
            self._asked = now
            self._control.look_if_due()
            if (objection := self._hooks.objection()) is not None:
                _log.info("taking no further events: %s", visible(objection))
                self._objection = objection
                return "objection"
        return None

    def _put_back(self) -> None:
        """Settle what is finished and release what was not begun."""
        if self._options.until_empty and (patience := self._suspects.patience()) > 0:
            _log.warning(
                "not every event was handled: it takes %.0f s more to know whether the process that began one has "
                "ended; a run until empty needs a time limit of more than %g s for that",
                patience,
                GRACE_OF_SUSPECTS,
            )
        with suppress(RelevoError):  # nothing was received then
            self._backlog.extend(self._take_ahead()[0])
        try:
            self._ledger.release(self._backlog)
            self._backlog.clear()
            self._finish()
        except TransportError as error:
            _log.warning("the held deliveries cannot be settled: %s", error)
        if self._ledger.held():
            _log.warning("not settled, and delivered again when their lease ends: %d", self._ledger.held())

    def sit_out(self, error: TransportUnavailableError) -> None:
        """Wait for a server that is down, longer each time, at most as long as is left; or raise *error*."""
        if not self._patient:
            raise error
        seconds = self._outage.wait(error, self._ledger.handled())
        self._pause(min(seconds, self._ends - self._clock.monotonic()))

    def _pause(self, seconds: float) -> None:
        """Wait in slices, so that :meth:`stop` is heard."""
        while seconds > 0 and not self._stopped:
            self._clock.sleep(min(seconds, 0.1))
            seconds -= 0.1


def _suspicion(suspect: Delivery) -> int:
    """Return how much is held against *suspect*: the processes that may have died of it."""
    return len(suspect.deaths) + (suspect.begun is not None)
