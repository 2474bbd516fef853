"""
Record what several processes do at the same time on one store, for one judge.

Each child process is forked from this one, and opens a transport of its own with the same harness. It records its
calls by the monotonic clock, which is the same in all processes of a machine, and hands the records to its parent.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

import attrs

from relevo import Capabilities
from relevo_conformance import _jsonline, history
from relevo_conformance._free_race import Race
from relevo_conformance.recorder import Recorder
from relevo_conformance.verdict import error_text
from relevo_conformance.watch import forget_interruptions
from relevo_conformance.worker import RecordedWorker

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from multiprocessing.synchronize import Barrier

_NUMBERS = 1_000_000
"""How many calls, and how many deliveries, each process can number."""

Part = Callable[[RecordedWorker], object]
"""What the worker of one process does."""


class UnusableError(Exception):
    """Raised if a child process could not take part; says why. It proves nothing about the transport."""


def can_be_shared(capabilities: Capabilities) -> bool:
    """Return whether processes that are forked here can share the store of a transport with *capabilities*."""
    return hasattr(os, "fork") and capabilities.durability != "process"


def play_apart(known: Recorder, parts: Sequence[Part], *, seconds: float) -> Sequence[history.Record]:
    """
    Let each of *parts* be played by a worker in a process of its own, all at the same time; return the merged history.

    Call it while no transport of the harness is open, since few drivers can be used after a fork.

    Args:
        known: The recorder of what happened before; each process opens a transport with its harness.

        parts: What each worker does.

        seconds: The time that they have.

    Raises:
        UnusableError: A process could not open a transport, ended early, or was not done in time.
    """
    harness = known.harness
    began, at = monotonic(), harness.clock.now()
    with _children(known, parts, seconds) as lines:
        records = [record for line in lines for record in _told(line, began + seconds)]
    passed = 0.0 if harness.fake else 1.0
    records.sort(key=lambda record: record.at)
    return [attrs.evolve(record, at=at + passed * (record.at - began)) for record in records]


def in_a_fork(act: Callable[[], str], *, seconds: float) -> str:
    """
    Return what *act* returns in a process that is forked here; or its end, in words.

    Raises:
        UnusableError: The process could not be started.
    """
    context = multiprocessing.get_context("fork")
    line, end = context.Pipe(duplex=False)
    child = context.Process(target=_act_and_say, args=(act, end, seconds), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # as below
        _start(child)
    end.close()
    try:
        return str(line.recv()) if line.poll(seconds) else f"did not come back within {seconds:g} s"
    except EOFError:
        return "ended the process"
    finally:
        child.kill()
        child.join()
        child.close()
        line.close()


def _act_and_say(act: Callable[[], str], end: Connection, seconds: float) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(seconds) + 1)  # if the parent is gone
    forget_interruptions()
    try:
        end.send(act())
    except BaseException as error:  # noqa: BLE001 - the parent reports it
        end.send(f"raised {error_text(error)}")


@contextmanager
def _children(known: Recorder, parts: Sequence[Part], seconds: float) -> Iterator[Sequence[Connection]]:
    """Start a process for each of *parts*, and yield the lines on which they report; kill them at the end."""
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(len(parts))
    children, lines = [], []
    try:
        for number, part in enumerate(parts, start=1):
            line, end = context.Pipe(duplex=False)
            child = context.Process(target=_be_the_child, args=(known, number, part, gate, end, seconds), daemon=True)
            with warnings.catch_warnings():
                # Python warns that another thread may hold a lock. Those of this process wait, or are left behind.
                warnings.simplefilter("ignore", DeprecationWarning)
                _start(child)
            end.close()  # so that the line ends with the child
            children.append(child)
            lines.append(line)
        yield lines
    finally:
        for child, line in zip(children, lines, strict=True):
            child.kill()
            child.join()
            child.close()
            line.close()


def _start(child: BaseProcess) -> None:
    try:
        child.start()
    except (OSError, AssertionError) as error:  # the latter in a process that multiprocessing itself calls a daemon
        raise UnusableError(f"no child process could be started: {error_text(error)}") from error


def _told(line: Connection, deadline: float) -> Sequence[history.Record]:
    """Return the records that come on *line*."""
    try:
        if not line.poll(max(0.0, deadline - monotonic())):
            raise UnusableError("a child process was not done in time")
        if why := line.recv():
            raise UnusableError(why)
        return _jsonline.load(line.recv_bytes().decode().splitlines())
    except EOFError:
        raise UnusableError("a child process ended early") from None


def _be_the_child(known: Recorder, number: int, part: Part, gate: Barrier, end: Connection, seconds: float) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(seconds) + 1)  # if the parent is gone
    forget_interruptions()  # of threads that are not in this process, but still known to Python
    recorder, race = _Notebook(known, number), Race(gate)
    try:
        worker = recorder.worker(f"process {number}")
        recorder.around = race.run
        race.take_part(partial(_play, recorder, worker, part))
    except BaseException as error:  # noqa: BLE001 - the parent reports it
        gate.abort()
        end.send(f"a child process failed: {error_text(error)}")
        return
    end.send("")
    end.send_bytes("\n".join(_jsonline.dump(recorder.records)).encode())


def _play(recorder: Recorder, worker: RecordedWorker, part: Part) -> None:
    try:
        part(worker)
        worker.close()
    except Exception:
        # An error of the transport is in the history, and judged by the parent.
        if all(record.end == "done" for record in recorder.records if isinstance(record, history.Returned)):
            raise


class _Notebook(Recorder):
    """The recorder of a child process, which leaves the verdict to the parent."""

    def __init__(self, known: Recorder, number: int) -> None:
        super().__init__(known.harness, raising=False, first=number * _NUMBERS)
        self.share_numbers_of(known)

    def _now(self) -> float:
        return monotonic()

    def _write(self, record: history.Record) -> None:
        self.records.append(record)
