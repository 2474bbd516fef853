"""
The program of a child process: create the parent's application, and handle deliveries until the pipe closes.

    python -m relevo._app.child SOCKET CELL LIFELINE

The arguments are inherited descriptors. The child ends when the other end of the lifeline is closed.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from functools import partial
from traceback import StackSummary
from typing import Any

from relevo._app.app import App, parts_of
from relevo._app.load import app_named
from relevo._execution.cell import Cell
from relevo._execution.pipe import (
    CUT_OFF,
    Answer,
    Failed,
    Hello,
    Message,
    Pipe,
    ProcessChange,
    Progressed,
    Ready,
    Runs,
    Work,
    delivery_of,
    ended_of,
)
from relevo._execution.surroundings import Keeper
from relevo._hook import names_where_listeners_run
from relevo._listener.wrapper import with_wrappers
from relevo._log_line import log_to_stderr
from relevo._signal import dump_threads_on_signal, take_ends
from relevo._transport.delivery import Delivery
from relevo._worker.executor import Handle
from relevo._worker.time_limit import TimeLimitExceededError, WatchedTable
from relevo.errors import LeaseLostError, RelevoError, TransportError, described


class Child:
    """
    The work of a child process.

    Args:
        pipe: The pipe to the parent.

        cell: Shared memory that shows the parent which listener runs.

        lifeline: The descriptor that ends this process with its parent.
    """

    def __init__(self, pipe: Pipe, cell: Cell, lifeline: int):
        self._pipe = pipe
        self._cell = cell
        self._links = (pipe.socket.fileno(), cell.fd, lifeline)
        self._work: Work | None = None
        self._running = ""
        """The listener whose changes to the process have not been checked yet."""

        self._changes: list[ProcessChange] = []
        self._times_opened = 0

    def run(self, hello: Hello) -> None:
        """Make the application that *hello* describes, and work until the parent closes its end."""
        try:
            app = self._make_app(hello)
            self._opened = parts_of(app).opened
            self._opened.check(app.listeners)
            self._opened.limiting = partial(self._opening, limit=hello.time_limit)
            listeners = WatchedTable(with_wrappers(app.listeners, app.hooks), self, time_limit=hello.time_limit)
            handle = app.handle(
                app.transport(hello.transport).name,
                listeners,
                checkpoint=self._store_progress,
                runs=self._runs,
                committing=self._note_commit,
                stops=lambda _: self._cell.stops,
            )
        except BaseException as error:  # noqa: BLE001 - the parent reports it
            why = str(error) if isinstance(error, RelevoError) else described(error)
            self._say(Failed(why))
            return
        self._say(
            Ready(
                sorted(f"{each.event_name} {each.id}" for each in listeners),
                plugins=sorted(names_where_listeners_run(app.hooks)),
                subjects=sorted(app.subjects),
            )
        )
        with app:
            # A hook around the listeners may change something and undo it itself; that is not blamed on a listener.
            around = map(app.hooks.observers, ("relevo_around_handle", "relevo_around_call"))
            self._is_observed = any(around)
            self._keeper = Keeper(self._links)
            self._serve(handle)

    def _serve(self, handle: Handle) -> None:
        while isinstance(work := self._hear(), Work):
            self._cell.take(work.number)
            self._work = work
            outcome = handle(delivery_of(work))
            self._look()
            ended = ended_of(outcome, work.number)
            ended.changes, self._changes = self._changes, []
            self._say(ended)

    def _say(self, message: Message) -> None:
        try:
            self._pipe.send(message)
        except OSError:
            os._exit(CUT_OFF)

    def _hear(self) -> Message | None:
        try:
            return self._pipe.receive()
        except OSError:
            os._exit(CUT_OFF)

    @staticmethod
    def _make_app(hello: Hello) -> App:
        if hello.app is not None:
            return app_named(hello.app)
        return App.from_config(hello.config)

    def _store_progress(self, delivery: Delivery, state: bytes) -> None:
        self._say(Progressed(state))
        kept = self._hear()
        if not isinstance(kept, Answer):
            os._exit(CUT_OFF)
        if not kept.is_held:
            raise LeaseLostError(delivery.queue, delivery)
        if kept.problem:
            raise TransportError(kept.problem)
        self._cell.commit(0)  # the parent has a state that contains what was committed

    def _note_commit(self) -> None:
        if self._work is not None:
            self._cell.commit(self._work.number)

    def _runs(self, delivery: Delivery, listener_id: str) -> None:
        self._say(Runs(listener_id))
        if not isinstance(self._hear(), Answer):
            os._exit(CUT_OFF)

    def begin(self, listener_id: str, limit: float) -> None:
        """Note that the listener begins; raise if it exceeded its time limit before, in a child that was killed."""
        self._refuse_if_over(listener_id)
        self._look()
        if self._is_observed:
            self._keeper.renew()
        if self._times_opened != self._opened.attempts:  # that changed the process for all listeners
            self._times_opened = self._opened.attempts
            self._keeper.adopt()
        self._running = listener_id
        self._cell.begin(listener_id, limit)

    def _refuse_if_over(self, name: str) -> None:
        """Raise if the listener or lifespan *name* exceeded its time limit before, in a child that was killed."""
        over = self._work.over_limit if self._work else None
        if over is not None and over.listener_id == name:
            stack = StackSummary.from_list([(*frame, None) for frame in over.frames])
            raise TimeLimitExceededError(name, over.limit, trace="".join(stack.format()), output=over.output)

    @contextlib.contextmanager
    def _opening(self, lifespan_id: str, *, limit: float) -> Iterator[None]:
        """Note that a lifespan opens, which the parent ends at *limit*, in seconds, as it does a listener."""
        self._refuse_if_over(lifespan_id)
        self._cell.begin(lifespan_id, limit)
        try:
            yield
        finally:
            self._cell.end()

    def end(self) -> None:
        """Note that the listener has ended, and undo its changes to the process."""
        self._cell.end()
        self._look()

    def _look(self) -> None:
        """
        Undo the changes of the last listener, unless that is done already.

        A signal handler of that listener can interrupt this with an exception, so it is called again until it is done.
        """
        if self._running:
            self._changes += [
                ProcessChange(self._running, each.name, each.text, fate) for each, fate in self._keeper.look()
            ]
            self._running = ""


def tie(lifeline: int) -> None:
    """
    End this process and its group when the other end of *lifeline* is closed.

    On Linux the kernel does so, even if a listener blocks all threads; elsewhere a thread does.
    """
    group = os.getpgid(0)
    try:
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -group)
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    except (AttributeError, OSError):
        threading.Thread(target=_end_with, args=(lifeline, group), name="relevo-lifeline", daemon=True).start()


def _end_with(lifeline: int, group: int) -> None:
    with contextlib.suppress(OSError):  # a listener closed it
        if not os.read(lifeline, 1):
            os.killpg(group, signal.SIGKILL)


def _leave_it_to_the_parent(*_: Any) -> None:
    """Ignore TERM and INT; unlike SIG_IGN, a handler is not inherited by processes that a listener starts."""


def main() -> None:
    """Run with the arguments of the parent."""
    end, cell, lifeline = map(int, sys.argv[1:4])
    tie(lifeline)
    take_ends(_leave_it_to_the_parent)
    dump_threads_on_signal()  # otherwise USR1 would end it, and the event would be blamed
    faulthandler.enable()  # so that the parent can report the line of a crash
    shared = Cell(cell)
    shared.trace_at_signal()
    pipe = Pipe(socket.socket(fileno=end))
    hello = pipe.receive()
    if not isinstance(hello, Hello):
        return
    sys.path[:] = hello.path
    sys.argv[1:] = []
    if hello.log_levels:
        log_to_stderr(logging.WARNING)
        for name, level in hello.log_levels.items():
            logging.getLogger(name).setLevel(level)
    Child(pipe, shared, lifeline).run(hello)


if __name__ == "__main__":
    main()
