"""Listeners in child processes, which may hang or die without harm to anything else."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from logging import INFO, WARNING, getLogger
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from relevo._execution.pipe import Hello, ProcessChange, Ready, frame_of, work_of
from relevo._execution.slot import Slot, SlotOptions
from relevo._transport.delivery import Delivery, Outcome, Release
from relevo._transport.envelope import Envelope
from relevo._visible import visible_lines
from relevo._worker.decision import unhandled
from relevo._worker.execution import Execution
from relevo._worker.executor import Executor, Handle
from relevo.errors import ConfigurationError

_log = getLogger("relevo.execution")

_MOST_FAILURES = 5
_SHOWN = 5
_WAIT, _LOOK_EVERY = 0.02, 0.1

_FATES = {
    "restored": (WARNING, "%s changed %s of its process; restored before the next event"),
    "replaced": (WARNING, "%s changed %s of its process; it cannot be restored, so the process is replaced"),
    "kept": (INFO, "%s left %s in its process; they keep running"),
}


class ProcessExecutor(Executor):
    """
    Handles each delivery in a child process that was started in advance, as many at once as there are slots.

    A listener that exceeds its time limit is killed together with its process group; it has failed, and
    the other listeners of the event run in the next process. A process that dies by itself loses only the event that
    it was handling.

    Args:
        hello: Tells a child which application to create.

        execution: The number of processes, and their limits.

        checkpoint: Stores progress in the middle of a delivery, if the transport supports that.

        runs: Notes which listener of a delivery with lost leases runs, if the transport keeps evidence.

        listeners: The events and ids of the listeners that every child must have.

        plugins: The names of the plugins that every child must have, as often as they are given.

        subjects: The names of the subject types that every child must have.

        memory_limits: From the ids of listeners to memory limits of their own.

        eager: Start the children before there is a delivery for them.

        export: Returns the receipt of a delivery as bytes, if transactional listeners need it.
    """

    at_limit: ClassVar[str] = "it is killed, and has failed"

    def __init__(
        self,
        hello: Hello,
        execution: Execution,
        *,
        checkpoint: Callable[[Delivery, bytes], None] | None,
        runs: Callable[[Delivery, str], None] | None = None,
        listeners: Iterable[str],
        plugins: Iterable[str] = (),
        subjects: Iterable[str] = (),
        memory_limits: Mapping[str, int] = MappingProxyType({}),
        eager: bool = True,
        export: Callable[[Delivery], bytes] = lambda _: b"",
    ):
        if os.name != "posix":
            raise ConfigurationError('execution: "process" needs a POSIX system; set "threads" instead')
        if (memory_limits or execution.memory_limit is not None) and not Path("/proc/self/statm").exists():
            raise ConfigurationError("memory_limit: this system does not have /proc/self/statm; remove memory_limit")
        self._is_eager = eager
        self._export = export
        self._slots_wanted = execution.concurrency
        self._needed = {
            "listeners that this one has, by event and id": Counter(listeners),
            "plugins that this one has": Counter(plugins),
            "subject types that this one has": Counter(subjects),
        }
        self._options = SlotOptions(
            hello=hello,
            checkpoint=checkpoint,
            runs=runs,
            time_limit=execution.time_limit,
            memory_limit=execution.memory_limit,
            memory_limits=memory_limits,
            recycle_after=execution.recycle_after,
            print_line=_print_line,
        )
        self._is_stopping: Callable[[], bool] = lambda: False
        self._slots: list[Slot] = []
        self._free = threading.Condition()
        self._logged: set[tuple[str, str]] = set()
        self._was_complete = False
        """Whether a child of this run or an earlier one had all listeners."""
        self._reset()

    def _reset(self) -> None:
        self._idle: deque[Slot] = deque()
        self._ended: queue.SimpleQueue[tuple[Delivery, Outcome]] = queue.SimpleQueue()
        self._submitted: dict[Delivery, None] = {}
        self._count = 0
        self._has_begun = False
        self._fault: BaseException | None = None

    def stop_when(self, is_ending: Callable[[], bool]) -> None:
        """Stop waiting for children to begin once *is_ending* returns true."""
        self._is_stopping = is_ending

    # --- in the worker's thread --------------------------------------------------------------------------

    def start(self, handle: Handle) -> None:
        """
        Start the child processes, if the executor is eager, and return when the first of them can begin.

        Raises:
            ConfigurationError: The first child cannot begin.
        """
        self._reset()
        self._handle = handle
        if self._is_eager:
            self._open()
            if self._fault is not None:
                raise self._fault

    def _open(self) -> None:
        """Start the child processes; return when one is idle, none can begin, or the worker stops."""
        self._slots = [Slot(number, self._options, self) for number in range(1, self._slots_wanted + 1)]
        for slot in self._slots:
            slot.start()
        try:
            with self._free:
                while not (self._idle or self._fault or self._is_stopping()):
                    self._free.wait(_LOOK_EVERY)
        except BaseException:
            self._close()
            raise
        if self._fault is not None or not self._idle:  # a child that lacks listeners is idle too
            self._close()

    def room(self) -> int:
        """
        Return how many further deliveries can be submitted now.

        Raises:
            ConfigurationError: No child can begin any longer, and nothing runs.
        """
        if self._fault is not None:
            if not self._submitted:
                raise self._fault
            return 0
        if not self._slots:
            return self._slots_wanted
        with self._free:
            if not self._idle and not self._submitted:  # otherwise the worker would ask again and again
                self._free.wait(_WAIT)
            return len(self._idle)

    def submit(self, delivery: Delivery) -> None:
        envelope = delivery.envelope
        self._submitted[delivery] = None
        if not isinstance(envelope, Envelope):  # it has no listeners, so it needs no child
            self._ended.put((delivery, self._handle(delivery)))
            return
        self._count += 1
        try:
            work = work_of(delivery, envelope, self._count, receipt=self._export(delivery))
            frame = frame_of(work)
        except Exception as error:  # noqa: BLE001 - any error ends this delivery and takes no slot
            self._ended.put((delivery, unhandled(delivery, error)))
            return
        try:
            if not self._slots:
                self._open()
        finally:
            with self._free:
                slot = self._idle.popleft() if self._idle else None
                if slot is None:  # there is no child, which room() reports
                    self._ended.put((delivery, Release()))
                else:
                    slot.take(delivery, work, frame)
        if slot is not None:
            slot.hand_over()

    def take_finished(self, wait: float) -> Sequence[tuple[Delivery, Outcome]]:
        found: list[tuple[Delivery, Outcome]] = []
        try:
            found.append(self._ended.get(wait > 0, wait or None))
            while True:
                found.append(self._ended.get_nowait())
        except queue.Empty:
            pass
        for delivery, _ in found:
            self._submitted.pop(delivery, None)
        return found

    def running(self) -> int:
        return len(self._submitted)

    def listening(self) -> Sequence[tuple[Delivery, str]]:
        return [running for slot in self._slots if (running := slot.listening()) is not None]

    def log_children(self) -> None:
        for slot in self._slots:
            slot.log_run_soon()

    def stalled(self) -> Sequence[Delivery]:
        at_work = {slot.at_work() for slot in self._slots}
        return [delivery for delivery in self._submitted if delivery not in at_work]

    def stop(self) -> None:
        self._close()
        self._submitted.clear()

    def _close(self) -> None:
        for slot in self._slots:
            slot.stop()
        for slot in self._slots:
            slot.join()
        self._slots = []
        self._idle.clear()

    # --- in the threads of the slots -----------------------------------------------------------------------

    def note_idle(self, slot: Slot) -> None:
        with self._free:
            self._idle.append(slot)
            self._free.notify()

    def withdraw(self, slot: Slot) -> bool:
        with self._free:
            if slot not in self._idle:
                return False
            self._idle.remove(slot)
            return True

    def note_end(self, delivery: Delivery, outcome: Outcome) -> None:
        self._ended.put((delivery, outcome))

    def log_changes(self, changes: Iterable[ProcessChange]) -> None:
        """Log what listeners changed in their process, each kind of change once per listener."""
        for each in changes:
            kind = (each.listener_id, each.name)
            with self._free:
                is_new = kind not in self._logged
                self._logged.add(kind)
            if is_new:
                level, words = _FATES[each.fate]
                _log.log(level, words, each.listener_id, each.text)

    def note_ready(self, ready: Ready) -> None:
        missing = [
            f"{what}: {_some_of(sorted((needed - Counter(had)).elements()))}"
            for (what, needed), had in zip(
                self._needed.items(), (ready.listeners, ready.plugins, ready.subjects), strict=True
            )
            if needed - Counter(had)
        ]
        if missing and not self._has_begun:
            module = self._options.hello.app
            where = f" ({module})" if module else ""
            remedy = f'register them where the application is created{where}, or set execution = "threads"'
            if self._was_complete:
                remedy = "the program has changed since this worker started; restart the worker"
            self._fault = ConfigurationError(f"execution: a child process lacks {'; '.join(missing)}; {remedy}")
        self._has_begun = True
        self._was_complete = self._was_complete or not missing

    def is_stopping(self) -> bool:
        return self._is_stopping()

    def note_failure(self, error: BaseException, *, times: int) -> None:
        if times >= _MOST_FAILURES or not self._has_begun:
            with self._free:
                self._fault = error
                self._free.notify()


def _some_of(names: Sequence[str]) -> str:
    """Return the first of *names*, and how many more there are."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else "")


def _print_line(slot: int, line: str) -> None:
    """Pass on a line that a child printed to the standard error of this process, if that can be written."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # a full disk, a pipe without a reader, a file that is closed
            sys.stderr.write(f"[{slot}] {visible_lines(line, margin='')}\n")
            sys.stderr.flush()
