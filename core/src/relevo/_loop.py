"""The runner that serves every transport: for ever as a daemon, or until empty from cron."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from relevo._runner import Report, Runner, RunOptions
from relevo._worker import Worker

if TYPE_CHECKING:
    from relevo._app import App


class LoopRunner(Runner):
    """
    Runs the worker of an application, and beside it the relay of its outbox if it has one.

    The first TERM or INT finishes the current work and releases the rest; a second one stops at once.

    Args:
        patient: Wait for a server that is down.
    """

    def __init__(self, *, patient: bool = False):
        self._patient = patient

    def run(self, app: App, options: RunOptions) -> Report:
        name = app.transport(options.transport).name
        worker = app.worker(options, patient=self._patient)
        app.prepare(name)
        if options.until_empty:
            return self._drain(app, name, worker, options)
        relay = app.relay(name, patient=True)
        with stopped_by_signals(worker, relay), _beside(relay):
            return worker.run()

    def unit(self, app: App, options: RunOptions) -> str:
        """Return the command that a host system has to run."""
        words = [sys.executable, "-m", "relevo", "drain" if options.until_empty else "worker"]
        if app.config is not None and app.config.path is not None:
            words += ["--config", str(app.config.path)]
        if options.transport is not None:
            words += ["--transport", options.transport]
        return shlex.join(words)

    def _drain(self, app: App, name: str, worker: Worker, options: RunOptions) -> Report:
        """Empty the outbox, then the queues, until neither gives anything more."""
        whole = Report(stopped_by="empty")
        while True:
            relay = app.relay(name, RunOptions(until_empty=True))
            with stopped_by_signals(worker, relay):
                moved = relay.run().handled if relay is not None else 0
                if moved or not whole.handled:
                    whole = _sum(whole, worker.run())
            if not moved or whole.stopped_by != "empty":
                return whole
            worker = app.worker(_rest(options, whole), patient=self._patient)


def _rest(options: RunOptions, done: Report) -> RunOptions:
    """Return *options* less what *done* has used of their limits."""
    return attrs.evolve(
        options,
        max_events=None if options.max_events is None else max(0, options.max_events - done.handled),
        max_seconds=None if options.max_seconds is None else max(0.0, options.max_seconds - done.seconds),
    )


def _sum(first: Report, second: Report) -> Report:
    reasons = {
        reason: first.reasons.get(reason, 0) + second.reasons.get(reason, 0)
        for reason in {*first.reasons, *second.reasons}
    }
    return Report(
        handled=first.handled + second.handled,
        done=first.done + second.done,
        retried=first.retried + second.retried,
        dead=first.dead + second.dead,
        seconds=first.seconds + second.seconds,
        stopped_by=second.stopped_by,
        reasons=reasons,
    )


@contextmanager
def stopped_by_signals(*workers: Worker | None) -> Iterator[None]:
    """Let TERM and INT stop *workers*, and a second one interrupt; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []

    def stop(number: int, _: Any) -> None:
        if seen:
            raise KeyboardInterrupt(number)
        seen.append(number)
        for worker in workers:
            if worker is not None:
                worker.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextmanager
def _beside(relay: Worker | None) -> Iterator[None]:
    """Run *relay* in a thread while the block runs."""
    if relay is None:
        yield
        return
    thread = threading.Thread(target=relay.run, name="relevo-relay", daemon=True)
    thread.start()
    try:
        yield
    finally:
        relay.stop()
        thread.join()
