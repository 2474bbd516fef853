"""
``--reload``: a worker that is started again when its program changes, for development.

The parent process loads no application, so a mistake in one does not end it. It only watches files, and passes on
signals: the worker that it starts finishes its current events as at every other stop.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import attrs
import click

from relevo._visible import visible
from relevo.cli._main import EXIT_USAGE
from relevo.cli._option import is_given, locate_config
from relevo.errors import ConfigurationError

F = TypeVar("F", bound=Callable[..., Any])

_LOOK_EVERY = 0.1
"""Seconds after which it looks again what has changed, and whether the worker has ended."""

_SHOWN = 3

_ENDS = (signal.SIGTERM, signal.SIGINT)
_OTHERS = [signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []


def reloadable(command: F) -> F:
    """Add the option ``--reload`` to *command*, which has those of ``with_app``."""

    @click.option(
        "--reload",
        "reloads",
        is_flag=True,
        help="Start again when a Python file or the configuration changes, and log each listener; for development.",
    )
    @functools.wraps(command)
    def wrapped(*args: Any, reloads: bool, **kwargs: Any) -> Any:
        if not reloads:
            return command(*args, **kwargs)
        config = locate_config(kwargs["config"])
        words = [word for word in sys.argv[1:] if word != "--reload"]
        if not is_given("log_level"):
            words += ["--log-level", "info"]
        folders = {Path.cwd(), config.directory.absolute()}
        return Reloader(words, sorted(each for each in folders if folders.isdisjoint(each.parents))).run()

    return wrapped  # type: ignore[return-value]  # it has one argument more


@attrs.define(eq=False)
class Reloader:
    """
    Starts ``relevo`` again each time that a file changes.

    Args:
        words: The arguments of the command.

        folders: Where files are watched.
    """

    _words: Sequence[str]
    _folders: Sequence[Path]
    _signals: list[int] = attrs.field(factory=list, init=False)
    """Those that came and were not passed on yet."""

    _is_stopping: bool = attrs.field(default=False, init=False)

    def run(self) -> int:
        """
        Run until a signal, or until the command ends without a mistake to correct; return its exit code.

        Raises:
            ConfigurationError: The package that watches files is not installed, or the system refuses to watch them.
        """
        with _watching(self._folders) as changes, self._noting_signals():
            _tell(f"watching {', '.join(map(str, self._folders))}")
            while True:
                code = self._run_until(changes)
                if code is not None:
                    return code

    def _run_until(self, changes: Callable[[], Collection[str]]) -> int | None:
        """Run the command once; return its exit code, or ``None`` to start it again since files have changed."""
        worker = subprocess.Popen([sys.executable, "-m", "relevo", *self._words])  # noqa: S603 - this very program
        try:
            return self._followed(worker, changes)
        finally:
            if worker.poll() is None:  # this has failed itself
                worker.terminate()

    def _followed(self, worker: subprocess.Popen[bytes], changes: Callable[[], Collection[str]]) -> int | None:
        """Wait for the end of *worker*, or let it end if files have changed; return its exit code in the same way."""
        restarts = is_reported = False
        while True:
            time.sleep(_LOOK_EVERY)
            code = worker.poll()
            if changed := changes():
                _tell(f"changed: {_named(changed)}")
                if code is None and not (restarts or self._is_stopping):
                    worker.terminate()  # it finishes its current events
                restarts = True
            self._pass_signals_on(worker)
            if code is None:
                continue
            if self._is_stopping or not (restarts or _can_be_corrected(code)):
                return code if code >= 0 else 128 - code
            if restarts:
                return None
            if not is_reported:
                _tell(f"the worker ended with {code}; it starts again when a file changes")
                is_reported = True

    def _pass_signals_on(self, worker: subprocess.Popen[bytes]) -> None:
        """Pass on what came; an interrupt of the terminal reaches *worker* without that."""
        signals, self._signals = self._signals, []
        for number in signals:
            if number != signal.SIGINT or not _is_at_terminal():
                worker.send_signal(number)  # nothing is sent to one that has ended

    @contextmanager
    def _noting_signals(self) -> Iterator[None]:
        def note(number: int, _: FrameType | None) -> None:
            self._is_stopping = self._is_stopping or number in _ENDS
            self._signals.append(number)

        before = {number: signal.signal(number, note) for number in (*_ENDS, *_OTHERS)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _watching(folders: Sequence[Path]) -> Iterator[Callable[[], Collection[str]]]:
    """
    Watch *folders*, and yield what returns which files have changed since the last call.

    A thread watches: files of a database beside the program change all the time, and a wait for others would not end.
    """
    try:
        from watchfiles import PythonFilter, watch  # noqa: PLC0415 - only development needs it
    except ImportError as error:
        raise ConfigurationError(
            '--reload needs the package watchfiles, which is not installed; install it: pip install "relevo[reload]"'
        ) from error
    ended, begun, found = threading.Event(), threading.Event(), set[str]()

    def note_changes() -> None:
        wanted = PythonFilter(extra_extensions=[".toml"])
        for each in watch(
            *folders,
            watch_filter=wanted,
            stop_event=ended,
            rust_timeout=50,
            yield_on_timeout=True,
            ignore_permission_denied=True,
        ):
            begun.set()
            found.update(path for _, path in each)

    def changes() -> Collection[str]:
        if watching.done():
            try:
                watching.result()
            except Exception as error:
                raise ConfigurationError(f"--reload cannot watch {_named(map(str, folders))}: {error}") from error
        taken = {*found}
        found.difference_update(taken)
        return taken

    with ThreadPoolExecutor(max_workers=1) as executor:
        watching = executor.submit(note_changes)
        watching.add_done_callback(lambda _: begun.set())
        try:
            begun.wait()  # so that no change after the start is missed
            yield changes
        finally:
            ended.set()


def _named(paths: Iterable[str]) -> str:
    names = sorted(map(os.path.relpath, paths))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _can_be_corrected(code: int) -> bool:
    """Return whether a change of a file may help a command that ended with *code*."""
    return code not in {0, EXIT_USAGE}


def _is_at_terminal() -> bool:
    """Return whether this process is in the foreground of a terminal, which interrupts all that are."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _tell(line: str) -> None:
    click.echo(visible(f"relevo worker: {line}"), err=True)
