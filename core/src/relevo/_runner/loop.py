"""The runner for all transports: as a daemon, or until empty for cron."""

from __future__ import annotations

import os
import shlex
import threading
import time
from _thread import start_new_thread
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from logging import getLogger
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from relevo._app.app import App, parts_of
from relevo._app.check import doubled_plugins, misnamed, shared_source, unenforced_limits, without_any
from relevo._runner.command import command, unprintable_in
from relevo._runner.dump import dumps_on_signal
from relevo._runner.process_limit import Limits
from relevo._runner.runner import Runner
from relevo._runner.schedules import firing, firing_of, note_host
from relevo._signal import take_ends
from relevo._transport.optional import FileStore, QueueCatalog
from relevo._transport.route import RESERVED, outbox_queue
from relevo._worker.executor import SecondSignal
from relevo._worker.put_off import unkept
from relevo._worker.run import Report, RunOptions
from relevo._worker.worker import GRACE, Worker
from relevo.errors import ConfigurationError, RelevoError, TransportUnavailableError

if TYPE_CHECKING:
    from relevo._runner.deploy import DeployGuard
    from relevo._runner.sd_notify import Notifier
    from relevo._runner.single_flight import SingleFlight
    from relevo._schedule.clockwork import Clockwork

_GRACE = 2.0
"""Seconds that a relay has to release its deliveries when its process has to end at once."""

_LOOK = 0.2
"""Seconds between two checks whether a deploy is over."""

_LEFT = 1.0
"""Seconds for which transports that no route leads to may hold up a run."""

_log = getLogger("relevo.runner")


class LoopRunner(Runner):
    """
    Runs the worker of an application, and the relay of its outbox if it has one.

    The first TERM or INT finishes the current work and releases the rest; a second one stops at once. During a deploy
    (``relevo deploy begin``) no event is begun: running listeners finish and the rest is released; then a run until
    empty ends, and any other run waits for the end of the deploy. A relay alone begins no event, so it goes on.

    Args:
        patient: Wait for a server that is down.

        signals: Handle TERM and INT, if this is the main thread; otherwise the program handles them.

        single_flight: Let a run until empty do nothing while another one drains the same queues: on this host, and
            on other hosts if the transport has a coordinator, or it or its outbox is a :class:`Coordinator`.

        notifier: Reports the status to the service manager.

        tell: Called with a line when it begins to wait for the end of a deploy, and when it goes on.

        others: Also warn of events on other transports that no route leads to.
    """

    def __init__(
        self,
        *,
        patient: bool = False,
        signals: bool = True,
        single_flight: bool = False,
        notifier: Notifier | None = None,
        tell: Callable[[str], object] | None = None,
        others: bool = True,
    ):
        self._patient = patient
        self._signals = signals
        self._single_flight = single_flight
        self._notifier = notifier
        self._tell = tell
        self._looked: set[str] = set()
        self._others = others

    def run(self, app: App, options: RunOptions | None = None) -> Report:
        from relevo._runner.lock_note import described_holder, sign  # noqa: PLC0415 - dispatching alone does not need it
        from relevo._runner.lock_path import deploy_guard, single_flight  # noqa: PLC0415 - as above

        options = options or RunOptions()
        name = app.transport(options.transport).name
        if options.relay_only:
            return self._relay(app, name, options)
        limits = Limits.of(options)
        guard = deploy_guard(app)
        guard.require_usable()
        with _plug_in(app, *([limits] if limits.is_set else []), guard), ExitStack() as stack:
            worker = app.worker(options, patient=self._patient)
            # A store that ends with its process cannot be drained by another one.
            flight = None
            if options.until_empty and self._single_flight and app.transport(name).capabilities.durability != "process":
                flight = single_flight(app, name, options.queues)
                if not stack.enter_context(flight.on_this_host()):
                    holder = described_holder(flight.host_lock, app, name)
                    by = f": {holder}" if holder else ""
                    _log.info("nothing is drained: another drain handles the same queues%s", by)
                    return Report(stopped_by="lock", objection=holder)
                sign(flight.host_lock, app, options)
            stack.callback(hurry, app, name, None)
            host = _Host(
                app,
                name,
                options,
                worker,
                limits,
                guard,
                self._patient,
                self._notifier,
                flight,
                self._tell,
                self._looked,
                self._others,
            )
            stack.enter_context(stop_on_signals(host) if self._signals else nullcontext())
            if self._notifier is not None:  # after the limits and the guard, so that it is called before they object
                stack.enter_context(_plug_in(app, self._notifier))
                stack.enter_context(self._notifier.reporting(worker.held, lambda: _status(worker)))
            return host.drain() if options.until_empty else host.serve()

    def _relay(self, app: App, name: str, options: RunOptions) -> Report:
        """Run the relay of the transport *name* alone."""
        relay = relay_of(app, options, patient=self._patient)
        if not options.until_empty and (why := unkept(app.outboxes[name])):
            _log.warning("%s", why)
        if options.max_seconds is not None:  # for the calls before the relay runs; it limits its own
            hurry(app, name, options.max_seconds + GRACE)
        try:
            with stop_on_signals(relay) if self._signals else nullcontext():
                if _prepared(app, name, relay, lambda: relay.is_ending) and name not in self._looked:
                    self._looked.add(name)
                    _warn_of_left_outboxes(app, name)
                return relay.run()
        finally:
            hurry(app, name, None)

    def unit(self, app: App, options: RunOptions) -> str:
        """
        Return the command that a host system has to run, quoted for a shell; it works in any folder.

        Raises:
            ConfigurationError: A path contains a character that a terminal obeys or hides.
        """
        line = shlex.join(command(app, options))
        if found := unprintable_in(line):
            raise ConfigurationError(
                f"a command cannot show {found!r}, which is in {line!r}; give the folder another name"
            )
        return line


def relay_of(app: App, options: RunOptions, *, patient: bool = False) -> Worker:
    """
    Return the relay that runs alone with *options*.

    Raises:
        ConfigurationError: The transport has no outbox.
    """
    name = app.transport(options.transport).name
    relay = app.relay(name, options, patient=patient)
    if relay is None:
        raise ConfigurationError(
            f'the transport "{name}" has no outbox; nothing to relay; give it one in the configuration: outbox = "…"'
        )
    return relay


@attrs.define(eq=False, repr=False)
class _Host:
    """One run of a worker and its relay."""

    _app: App
    _name: str
    _options: RunOptions
    _worker: Worker
    _limits: Limits
    _guard: DeployGuard
    _patient: bool
    _notifier: Notifier | None
    _flight: SingleFlight | None
    _tell: Callable[[str], object] | None
    _looked: set[str]
    """The transports on which queues without a route were looked for."""

    _others: bool

    _relay: Worker | None = None
    _waited: float = attrs.field(default=0.0, init=False)
    """Seconds that a run until empty has waited for events in the outbox to become due."""

    _began: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._began = self._app.clock.monotonic()

    def stop(self) -> None:
        """Finish the current work, release the rest and end."""
        self._report("STOPPING=1", "STATUS=finishing the current work")
        self._worker.stop()
        if self._relay is not None:
            self._relay.stop()

    def interrupt(self) -> None:
        """Remember what runs, which a second signal ends."""
        self._worker.interrupt()

    def log_interrupted(self) -> None:
        """Log what a second signal ends."""
        self._worker.log_interrupted()

    def log_running(self) -> None:
        """Log what runs."""
        self._worker.log_running()
        if self._relay is not None:
            self._relay.log_running()

    def drain(self) -> Report:
        """Drain the outbox and the queues in turn until both are empty; do nothing during a deploy."""
        with self._guard.working(self._is_over) as may_begin:
            if not may_begin:
                return self._named(self._worker.run())  # which ends at once
            if (objection := self._app.hooks.objection()) is not None:
                self._guard.warn_if_stale()
                return self._named(Report(stopped_by="objection", objection=objection))
            self._hurry()
            options = RunOptions(until_empty=True, max_seconds=self._options.max_seconds)
            if self._options.event_id is None:
                self._relay = self._app.relay(self._name, options, patient=self._patient)
            self._prepare()
            if self._worker.stopped:
                self.stop()
            if (clockwork := self._clockwork()) is not None:
                now = self._app.clock.now()
                while not self._is_over() and clockwork.turn(now, may_go_on=lambda: not self._is_over()):
                    pass
            if self._flight is None:
                return self._empty()
            with self._flight.everywhere() as is_alone:
                if not is_alone:
                    return Report(stopped_by="lock")
                with _plug_in(self._app, self._flight):
                    try:
                        return self._empty()
                    finally:
                        self._hurry()

    def _hurry(self) -> None:
        """Apply the time limit and the grace period also to transport calls outside of the workers."""
        if (left := self._left()) is not None:
            hurry(self._app, self._name, left + GRACE)

    def _left(self) -> float | None:
        """Return how many seconds the time limit leaves, if there is one."""
        if self._options.max_seconds is None:
            return None
        return max(0.0, self._began + self._options.max_seconds - self._app.clock.monotonic())

    def _empty(self) -> Report:
        handled = -1
        while True:
            moved = self._relay.run() if self._relay is not None else Report()
            report = self._named(self._worker.run())
            if self._relay is None or report.stopped_by != "empty":
                return _with_relayed(report, [moved])
            self._hurry()
            if moved.handled + report.handled == handled and not self._comes_due(self._relay):
                return _with_relayed(report, [moved])
            handled = moved.handled + report.handled

    def _comes_due(self, relay: Worker) -> bool:
        """
        Wait for events in the outbox to become due, for as much of *settle* as the worker and *relay* have left.

        Returns:
            Whether they have to run again.
        """
        outbox, queue = self._app.outboxes[self._name], outbox_queue(self._name)
        if queue in relay.paused:
            return False
        while (left := self._options.settle - self._worker.lingered - relay.lingered - self._waited) > 0:
            stats = outbox.stats(queue) if outbox.capabilities.stats != "none" else None
            if self._is_over() or self._app.hooks.objection() is not None or (stats and stats.ready):
                return True
            if stats and not (stats.scheduled or stats.leased):
                return False
            pause = min(left, _LOOK)
            self._app.clock.sleep(pause)
            self._waited += pause
            if stats is None:
                return True
        return False

    def serve(self) -> Report:
        """Handle events until a limit or a signal, but none during a deploy."""
        moved: list[Report] = []
        warn_at_start(self._app, self._options)
        note_host(self._app, self._name)
        while True:
            with self._guard.working(self._is_over) as may_begin:
                if not may_begin:
                    return _with_relayed(self._named(self._worker.run()), moved)  # which ends at once
                if not self._guard.is_up() or self._is_over():
                    self._prepare()
                    # A stopped relay cannot be restarted, and the worker continues after a deploy: make a new one.
                    # It has the same limit: a call of its own thread to a silent server would hold up the end.
                    limit = RunOptions(max_seconds=self._left())
                    relay = self._app.relay(self._name, limit, patient=self._patient)
                    with firing(self._clockwork(), self._app.clock), _run_beside(relay, self._worker) as reports:
                        report = self._named(self._worker.run())
                    moved += reports
                    if report.stopped_by != "objection" or not self._guard.take_objection():
                        return _with_relayed(report, moved)
            self._wait_for_deploy()

    def _clockwork(self) -> Clockwork | None:
        """Return what fires the schedules of the transport, if it has any and this run is not for one event."""
        return None if self._options.event_id is not None else firing_of(self._app, self._name)

    def _wait_for_deploy(self) -> None:
        """Wait for the end of a deploy, a limit or a signal."""
        _log.info("a deploy is in progress; waiting for its end (%s)", self._guard.path)
        self._report("STATUS=waiting for the end of a deploy")
        notice = self._guard.notice()
        if self._tell is not None and notice is not None:
            self._tell(f"waiting: {notice}")
        while self._guard.is_up() and not self._is_over():
            self._guard.warn_if_stale()
            self._report()
            self._app.clock.sleep(_LOOK)
        self._report(f"STATUS={_status(self._worker)}")
        if self._tell is not None and notice is not None and not self._is_over():
            self._tell("the deploy is over; events are handled again")

    def _is_over(self) -> bool:
        longest = self._options.max_seconds
        return self._worker.stopped or (longest is not None and self._app.clock.monotonic() - self._began >= longest)

    def _report(self, *lines: str) -> None:
        """Report *lines* and progress to the service manager."""
        if self._notifier is not None:
            self._notifier.turn()
            if lines:
                self._notifier.send(*lines)

    def _prepare(self) -> None:
        """Create what is missing, as soon as the server is reachable."""
        if not _prepared(self._app, self._name, self._worker, self._is_over, self._report):
            return
        if self._name not in self._looked:
            self._looked.add(self._name)
            _warn_of_unrouted(self._app, self._name, self._options.queues)
            if self._others:
                _warn_of_left(self._app, self._name)

    def _named(self, report: Report) -> Report:
        """Return *report* with the name of the limit or lock that objected, if it was one of them."""
        if report.stopped_by != "objection":
            return report
        own = self._limits.objection or (self._flight and self._flight.objection)
        return attrs.evolve(report, stopped_by=own, objection="") if own else report


def _status(worker: Worker) -> str:
    """Return what *worker* does, for the service manager."""
    paused = ", ".join(sorted(worker.paused))
    return f"paused: {paused}" if paused else "handling events"


def warn_at_start(app: App, options: RunOptions) -> None:
    """
    Log missing listeners, sources and dead letters, limits and parameters without effect, and plugins passed twice.

    Not in each run from cron, which would mail it; ``relevo check`` reports the same.
    """
    why = without_any(app.listeners, parts_of(app).config)
    if why and not app.outboxes:  # else it may only move events, as a relay does
        _log.warning("%s", why)
    execution = app.execution.overridden(options.execution, options.concurrency).resolved(app.listeners)
    for text in (*filter(None, map(misnamed, app.listeners)), *unenforced_limits(app.listeners, execution)):
        _log.warning("%s", text)
    for text in doubled_plugins(app.hooks):
        _log.warning("%s", text)
    if why := shared_source(app.signing, app.source):
        _log.warning("signing: %s", why)
    transport = app.transport(options.transport)
    for text in filter(None, map(unkept, filter(None, (transport, app.outboxes.get(transport.name))))):
        _log.warning("%s", text)


def _prepared(
    app: App, name: str, worker: Worker, is_over: Callable[[], bool], report: Callable[[], object] = lambda: None
) -> bool:
    """Create what the transport *name* lacks, as soon as its server is reachable; return whether that is done."""
    while not is_over():
        report()
        try:
            with _telling_of_new_files(app, name):
                worker.prepare()
        except TransportUnavailableError as error:
            worker.sit_out(error)
        else:
            return True
    return False


@contextmanager
def _telling_of_new_files(app: App, name: str) -> Iterator[None]:
    """Log which files of the transport *name*, and of what helps it, the block creates: they may be elsewhere."""
    stores = parts_of(app).stores_of(name)
    missing = [(each, what) for each in stores if isinstance(each, FileStore) and (what := each.missing())]
    yield
    for store, what in missing:
        if not store.missing():
            _log.warning(
                "created the %s; if there should have been one, check its path, and whether its disk is mounted", what
            )


def _warn_of_unrouted(app: App, name: str, served: Sequence[str]) -> None:
    """
    Log the queues of the transport *name* and its outbox that hold this application's events and have no route.

    A supervisor may start a worker for each event, so a queue is logged only if something can be moved now. Those that
    are *served* nevertheless are not logged, which is possible if nothing is routed to the transport.
    """
    from relevo._app.unrouted import unrouted_queues  # noqa: PLC0415 - dispatching alone does not need it

    try:
        stores = filter(None, (app.transport(name), app.outboxes.get(name)))
        for each in unrouted_queues(parts_of(app), stores, own=True):
            if each.is_movable and (each.store.name != name or each.queue not in (served or app.queues(name))):
                _log.warning("%s", each)
    except RelevoError as error:
        _log.debug("queues without a route could not be looked for: %s", error)


def _warn_of_left_outboxes(app: App, name: str) -> None:
    """Log which outboxes of other transports lie in that of *name*, and no relay moves their events."""
    from relevo._app.unrouted import unrouted_queues  # noqa: PLC0415 - as above

    try:
        for each in unrouted_queues(parts_of(app), [app.outboxes[name]], own=True):
            if each.queue.startswith(RESERVED) and each.is_movable:
                _log.warning("%s", each)
    except RelevoError as error:
        _log.debug("outboxes that no transport has could not be looked for: %s", error)


def _warn_of_left(app: App, name: str) -> None:
    """
    Log the queues that hold this application's events on transports that no route leads to, if some can be moved now.

    One of them may be down, or slow: the run of the transport *name* goes on after a moment.
    """
    beside = parts_of(app).beside_helpers()
    left = [each for each in beside if each != name and not app.routes.queues(each)]
    if left and app.routes.queues(name):
        thread = threading.Thread(target=_look_at_left, args=(app, left), name="relevo-left", daemon=True)
        thread.start()
        thread.join(_LEFT)


def _look_at_left(app: App, names: Sequence[str]) -> None:
    from relevo._app.unrouted import unrouted_queues  # noqa: PLC0415 - as above

    for name in names:
        store = app.transports[name]
        try:
            store.hurry(_LEFT)
            if isinstance(store, QueueCatalog) and not store.setup([], dry_run=True):
                for each in unrouted_queues(parts_of(app), [store], own=True):
                    if each.is_movable:
                        _log.warning("%s", each)
        except RelevoError as error:
            _log.debug('queues without a route could not be looked for on "%s": %s', name, error)
        finally:
            with suppress(RelevoError):
                store.hurry(None)


def hurry(app: App, name: str, seconds: float | None) -> None:
    """Limit each call of the transport *name*, and of what helps it, to *seconds*; ``None`` restores the timeouts."""
    for transport in parts_of(app).stores_of(name):
        transport.hurry(seconds)


@contextmanager
def _plug_in(app: App, *plugins: object) -> Iterator[None]:
    """Register *plugins* while the block runs."""
    with ExitStack() as stack:
        for plugin in plugins:
            app.hooks.add(plugin)
            stack.callback(app.hooks.remove, plugin)
        yield


def _with_relayed(report: Report, moved: Sequence[Report]) -> Report:
    """Return *report* plus the events that the relay dead-lettered or could not settle."""
    reasons = Counter(report.reasons)
    for each in moved:
        reasons.update(each.reasons)
    dead = reasons.total()
    return attrs.evolve(
        report,
        unsettled=report.unsettled + sum(each.unsettled for each in moved),
        handled=report.handled - report.dead + dead,
        dead=dead,
        reasons=dict(reasons),
    )


class Stoppable(Protocol):
    """A worker or run that can be stopped, also from a signal handler."""

    def stop(self) -> None:
        """Finish the current work, release the rest and end."""
        ...

    def interrupt(self) -> None:
        """Remember what runs; called by the handler of a second signal, so without a lock."""
        ...

    def log_interrupted(self) -> None:
        """Log what ran then, which a second signal ends; called from another thread."""
        ...

    def log_running(self) -> None:
        """Log what runs, since when and where it is; called from another thread."""
        ...


_AT_ONCE = 3.0
"""Seconds after a second signal for what is under way, such as a call to a server that does not answer."""


@contextmanager
def stop_on_signals(*workers: Stoppable | None) -> Iterator[None]:
    """
    Let TERM and INT stop *workers*, and a second signal end the process at once; USR1 lets them log what runs.

    It has no effect in other threads.

    Raises:
        SystemExit: With 128 plus the number of the second signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []
    over: list[bool] = []
    logged = threading.Event()
    running = [each for each in workers if each is not None]

    def end(number: int) -> None:
        try:
            for each in running:
                each.log_interrupted()
        finally:
            logged.set()
        time.sleep(_AT_ONCE)
        if not over:
            os._exit(128 + number)

    def stop(number: int, _: Any) -> None:
        if seen:
            if len(seen) == 1:
                seen.append(number)
                for worker in running:
                    worker.interrupt()
                start_new_thread(end, (number,))  # not a Thread: this may have interrupted the start of one
            raise SecondSignal(number)
        seen.append(number)
        for worker in running:
            worker.stop()

    give_back = take_ends(stop)
    try:
        with dumps_on_signal(running):
            yield
    except SecondSignal as second:
        logged.wait(_AT_ONCE)
        raise SystemExit(128 + second.args[0]) from None
    finally:
        over.append(True)
        give_back()


@contextmanager
def _run_beside(relay: Worker | None, worker: Worker) -> Iterator[list[Report]]:
    """
    Run *relay* in a thread while the block runs; if it fails, *worker* stops and its error is raised after the block.

    The yielded list holds the relay's report afterwards.
    """
    reports: list[Report] = []
    if relay is None:
        yield reports
        return
    worker.follow(relay)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            reports.append(relay.run())
        except BaseException as error:  # noqa: BLE001 - it is raised in the main thread
            errors.append(error)
            worker.stop()

    thread = threading.Thread(target=run, name="relevo-relay", daemon=True)
    thread.start()
    patience: float | None = _GRACE
    try:
        yield reports
        patience = None
    finally:
        relay.stop()
        thread.join(patience)
    for error in errors:
        raise error
