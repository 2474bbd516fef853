"""The runner that serves every transport: for ever as a daemon, or until empty from cron."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import attrs

from relevo._runner import Report, Runner, RunOptions
from relevo._worker import Worker
from relevo.errors import TransportUnavailableError

if TYPE_CHECKING:
    from relevo._app import App

_GRACE = 2.0
"""Seconds that a relay has to give back what it holds when its process is told to end at once."""


class LoopRunner(Runner):
    """
    Runs the worker of an application, and beside it the relay of its outbox if it has one.

    The first TERM or INT finishes the current work and releases the rest; a second one stops at once.

    Args:
        patient: Wait for a server that is down.

        signals: Listen to TERM and INT, where this is the main thread; else that is left to the program.
    """

    def __init__(self, *, patient: bool = False, signals: bool = True):
        self._patient = patient
        self._signals = signals

    def run(self, app: App, options: RunOptions) -> Report:
        name = app.transport(options.transport).name
        worker = app.worker(options, patient=self._patient)
        limits = RunOptions(until_empty=options.until_empty, max_seconds=options.max_seconds)
        relay = app.relay(name, limits, patient=self._patient)
        with stopped_by_signals(worker, relay) if self._signals else nullcontext():
            while not worker.stopped:
                try:
                    app.prepare(name)
                    break
                except TransportUnavailableError as error:
                    worker.sit_out(error)
            if options.until_empty:
                return _drained(worker, relay)
            with _beside(relay, worker) as moved:
                report = worker.run()
            return _told_together(report, moved)

    def unit(self, app: App, options: RunOptions) -> str:
        """Return the command that a host system has to run."""
        words = [sys.executable, "-m", "relevo", "drain" if options.until_empty else "worker"]
        if app.config is not None and app.config.path is not None:
            words += ["--config", str(app.config.path)]
        if options.transport is not None:
            words += ["--transport", options.transport]
        return shlex.join(words)


def _drained(worker: Worker, relay: Worker | None) -> Report:
    """Empty the outbox and the queues in turn, until neither gives anything more."""
    handled = -1
    while True:
        moved = relay.run() if relay is not None else Report()
        report = worker.run()
        if relay is None or report.stopped_by != "empty" or moved.handled + report.handled == handled:
            return _told_together(report, [moved])
        handled = moved.handled + report.handled


def _told_together(report: Report, moved: Iterable[Report]) -> Report:
    """Return *report* with what the relay dead-lettered: whoever runs both wants to know of every dead letter."""
    reasons = Counter(report.reasons)
    for each in moved:
        reasons.update(each.reasons)
    return attrs.evolve(report, dead=reasons.total(), reasons=dict(reasons))


class _SecondSignal(KeyboardInterrupt):  # not SystemExit: that is a failure of the listener
    """Raised in the main thread to end it at once."""


@contextmanager
def stopped_by_signals(*workers: Worker | None) -> Iterator[None]:
    """
    Let TERM and INT stop *workers*, and a second one end at once; only the main thread can.

    Raises:
        SystemExit: With 128 and the number of the second signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []

    def stop(number: int, _: Any) -> None:
        if seen:
            raise _SecondSignal(number)
        seen.append(number)
        for worker in workers:
            if worker is not None:
                worker.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except _SecondSignal as second:
        raise SystemExit(128 + second.args[0]) from None
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextmanager
def _beside(relay: Worker | None, worker: Worker) -> Iterator[list[Report]]:
    """
    Run *relay* in a thread while the block runs; if it fails, *worker* stops and the block raises why.

    What it yields has the relay's report afterwards.
    """
    reports: list[Report] = []
    if relay is None:
        yield reports
        return
    errors: list[BaseException] = []

    def run() -> None:
        try:
            reports.append(relay.run())
        except BaseException as error:  # noqa: BLE001 - it is raised where somebody hears it
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
