"""A slot: one child process after another, and the thread that watches them."""

from __future__ import annotations

import contextlib
import selectors
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from logging import getLogger
from typing import Protocol

import attrs

from relevo._execution.pipe import (
    Answer,
    Ended,
    Failed,
    GarbledError,
    Hello,
    OverLimit,
    ProcessChange,
    Progressed,
    Ready,
    Runs,
    Work,
    frame_of,
    outcome_of,
)
from relevo._execution.spawned import Spawned
from relevo._transport.delivery import DeadLetter, Delivery, Failure, Lost, Outcome, Release
from relevo._worker.decision import sanitised
from relevo._worker.stack import log_run
from relevo._worker.transaction import after_unknown
from relevo.errors import ConfigurationError, LeaseLostError, TransportClosedError, TransportError, described

_log = getLogger("relevo.execution")

_LOOK_EVERY = 0.1
_LOG_WITHIN = 5.0
"""Seconds after which a request to log what runs is over."""

_AGAIN_FIRST, _AGAIN_CAP = 0.1, 5.0
_MOST_FAILURES = 5
_MOST_STARTS = 3
_LEAVE_PATIENCE, _LEAVE_EVERY = 5.0, 0.02
_START_WITHIN = 120.0
"""Seconds within which a child has to begin; importing an application takes a few, or more on a busy machine."""


@attrs.frozen(kw_only=True)
class SlotOptions:
    """The options of all slots of an executor."""

    hello: Hello
    checkpoint: Callable[[Delivery, bytes], None] | None
    """Stores progress, if the transport supports that."""

    runs: Callable[[Delivery, str], None] | None
    """Notes which listener of a delivery with lost leases runs, if evidence is kept."""

    time_limit: float
    memory_limit: int | None
    memory_limits: Mapping[str, int]
    """From the ids of listeners to limits of their own."""

    recycle_after: int | None
    print_line: Callable[[int, str], None]
    """Takes each line that the child of a slot prints."""


class Host(Protocol):
    """Receives the notifications of a slot, all of them from the slot's thread."""

    def note_idle(self, slot: Slot) -> None:
        """Note that it can take a delivery."""
        ...

    def withdraw(self, slot: Slot) -> bool:
        """Withdraw *slot*, so that it gets no delivery; return ``False`` if it was not idle or was just given one."""
        ...

    def note_end(self, delivery: Delivery, outcome: Outcome) -> None:
        """Note how a delivery ended."""
        ...

    def log_changes(self, changes: Sequence[ProcessChange]) -> None:
        """Log what listeners changed in their process."""
        ...

    def note_ready(self, ready: Ready) -> None:
        """Note that a child has begun, with what it says it has."""
        ...

    def is_stopping(self) -> bool:
        """Return whether the worker finishes what runs and begins nothing else."""
        ...

    def note_failure(self, error: BaseException, *, times: int) -> None:
        """Note why several children in a row could not begin, or what ended the slot."""
        ...


@attrs.define(eq=False)
class _Task:
    """The current delivery."""

    delivery: Delivery
    work: Work
    frame: bytes
    """The encoded work: made before the slot is taken, so that an error of encoding takes no slot."""

    kept: bytes | None = None
    """The last progress that the child sent."""

    starts: int = 0
    given_to: Spawned | None = None
    moved: float = attrs.field(factory=time.monotonic)
    """Monotonic seconds at which there was last a sign of progress."""


class _Over(Exception):  # noqa: N818 - the end of a child need not be an error
    """Raised when the current child has ended, or has to end."""

    def __init__(self, why: str = ""):
        self.why = why
        super().__init__(why)


class Slot:
    """
    Has a child process, and starts another when that ends.

    Args:
        number: The number of the slot, from 1.

        options: The options of all slots.

        host: Receives its notifications.
    """

    def __init__(self, number: int, options: SlotOptions, host: Host):
        self.number = number
        self._options = options
        self._host = host
        self._turn = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._child: Spawned | None = None
        self._next: Spawned | None = None
        self._leaving: list[tuple[Spawned, float]] = []
        self._task: _Task | None = None
        self._failures = 0
        self._again_at = 0.0
        self._is_ending = False
        self._is_abandoned = False
        self._is_held_back = False
        """Whether the child has finished an event and takes no other, since it has grown too much."""
        self._log_until = 0.0
        """Until when its thread is to log what runs, in monotonic seconds; only that knows whether the child ends."""
        self._stopping_since = 0.0
        self._thread = threading.Thread(target=self._run, name=f"relevo-slot-{number}", daemon=True)

    # --- for the worker's thread ------------------------------------------------------------------------

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def take(self, delivery: Delivery, work: Work, frame: bytes) -> None:
        """Take *delivery*, whose *work* and *frame* a child is sent; the slot was idle."""
        self._task = _Task(delivery, work, frame)

    def at_work(self) -> Delivery | None:
        """Return the delivery in this slot, if the slot's thread is alive: the thread enforces the limits."""
        task = self._task
        return task.delivery if task is not None and self._thread.is_alive() else None

    def listening(self) -> tuple[Delivery, str] | None:
        """Return the delivery in this slot and the id of the listener that runs; from any thread."""
        with self._turn:
            child, task = self._child, self._task
            running = None if child is None else child.cell.running()
        return None if task is None or running is None else (task.delivery, running.listener_id)

    def log_run_soon(self) -> None:
        """Log within a moment which listener runs, since when and where it is; from any thread."""
        self._log_until = time.monotonic() + _LOG_WITHIN

    def hand_over(self) -> None:
        """Send the current delivery to the child, unless the child has it already, or has ended."""
        with self._turn:
            child, task = self._child, self._task
            if child is None or task is None or task.given_to is child:
                return
            task.given_to, task.moved = child, time.monotonic()
            task.starts += 1
            child.forget_output()
            with contextlib.suppress(OSError):  # it just died; the thread sees that, and that it had not begun this
                child.pipe.send_frame(task.frame)

    def stop(self) -> None:
        """End, and abandon the current delivery; :meth:`join` waits for that."""
        self._is_abandoned = self._task is not None
        self._is_ending = True

    def join(self) -> None:
        """Wait until its children have ended."""
        self._thread.join()

    # --- the thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._is_ending:
                self._look_after_leavers()
                if self._child is None:
                    self._begin()
                    continue
                try:
                    self._attend(self._child)
                except _Over as over:
                    self._close(self._child, over.why)
        except BaseException as error:  # noqa: BLE001 - a defect: it is raised in the worker's thread
            _log.exception("a slot failed")
            self._host.withdraw(self)  # before it gives up its task, so that it gets no other
            self._host.note_failure(error, times=_MOST_FAILURES)
            self._give_up_task()
        finally:
            self._end()

    def _begin(self) -> None:
        """Start a child for this slot, or wait before the next try."""
        if self._next is None:
            self._spawn()
        self._wait()
        self._hear_first()
        if self._next is not None and self._next.is_ready:
            self._adopt()
        elif self._task is not None and self._host.is_stopping():
            self._let_go(self._task)

    def _let_go(self, task: _Task) -> None:
        """End *task*, which no child runs, without waiting for the next child, since the worker stops."""
        now = time.monotonic()
        self._stopping_since = self._stopping_since or now
        over = task.work.over_limit
        if over is None:
            self._finish(task, Release())
        elif now - self._stopping_since > _LEAVE_PATIENCE:  # enough time for a child to note the failure
            error = f"{over.listener_id} ran for more than {over.limit:g} s"
            self._finish(task, Lost(state=task.kept, error=error, listener=over.listener_id))

    def _adopt(self) -> None:
        """Let the child that is ready take the slot."""
        with self._turn:
            self._child, self._next = self._next, None
        self._is_held_back = False
        if self._task is None:
            self._host.note_idle(self)
        else:
            self.hand_over()

    def _attend(self, child: Spawned) -> None:
        """Check *child* once: read its messages and enforce its limits."""
        self._wait()
        if child.has_ended():
            child.listen(wait=False)
            child.gone = child.gone or ""
        while child is self._child and child.pipe.come():
            self._hear(child)
        if child is not self._child:
            return
        if child.gone is not None:
            raise _Over(child.gone)
        self._hear_first()
        task = self._task
        if task is not None:
            if self._host.is_stopping():
                child.cell.stop()
            if self._next is None and self._is_due(child.served + 1):
                self._spawn()  # early, so that the next event does not wait for it
            self._hold_to_limits(child, task)
        elif self._is_worn(child):
            self._replace(child)

    def _wait(self, patience: float = _LOOK_EVERY) -> None:
        """Read the messages and the output of children; wait at most *patience* seconds for them."""
        for key, _ in self._selector.select(patience):
            child, is_output = key.data
            if is_output:
                child.read_output()
            else:
                child.listen()
            if child.output_ended if is_output else child.gone is not None:
                self._selector.unregister(key.fileobj)  # the other end is closed

    # --- messages of a child -------------------------------------------------------------------------------

    def _hear_first(self) -> None:
        """Read the first message of the next child: whether it can begin."""
        child = self._next
        if child is None:
            return
        while child.pipe.come():
            message = child.pipe.come().popleft()
            if isinstance(message, Failed):
                child.gone = message.why
            elif isinstance(message, Ready):
                child.is_ready = True
                child.base_memory = child.memory()
                self._failures = 0
                self._host.note_ready(message)
        if not child.is_ready and time.monotonic() - child.since > _START_WITHIN:
            child.kill()
            child.gone = child.gone or f"it did not begin within {_START_WITHIN:g} s"
        if child.gone is not None or child.has_ended():
            self._next = None
            how = self._forget(child)
            printed = f"; its last output:\n{child.printed()}" if child.printed() else ""
            self._not_begun(child.gone or f"it {how}{printed}")

    def _hear(self, child: Spawned) -> None:
        message = child.pipe.come().popleft()
        task = self._task
        if isinstance(message, Progressed) and task is not None:
            self._keep(child, task, message.state)
        elif isinstance(message, Runs) and task is not None:
            task.moved = time.monotonic()
            if self._options.runs is not None:
                try:
                    self._options.runs(task.delivery, message.listener_id)
                except Exception:  # noqa: BLE001 - a failed note must not end the slot
                    _log.exception("%s runs on %s; its note could not be updated", message.listener_id, task.delivery)
            with contextlib.suppress(OSError):  # it is gone, which is seen in a moment
                child.pipe.send(Answer(is_held=True))
        elif isinstance(message, Ended) and task is not None and message.number == task.work.number:
            try:
                outcome = outcome_of(message)
            except GarbledError:
                raise _Over("sent an invalid message") from None
            child.served += 1
            outcome = self._with_output(child, outcome, task.work.over_limit)
            self._task = None
            if message.changes:
                self._host.log_changes(message.changes)
            has_next = self._next is not None and self._next.is_ready
            if has_next or message.is_last or self._is_due(child.served):
                self._leave(child)
                if has_next:
                    self._adopt()
            elif self._has_grown(child):
                self._is_held_back = True  # with the next event it could exceed its limit
            else:
                self._host.note_idle(self)  # before note_end(), after which the worker asks for room
            self._host.note_end(task.delivery, outcome)

    def _keep(self, child: Spawned, task: _Task, state: bytes) -> None:
        task.kept, task.moved = state, time.monotonic()
        is_held, problem = True, ""
        if self._options.checkpoint is not None:
            try:
                self._options.checkpoint(task.delivery, state)
            except (LeaseLostError, TransportClosedError):
                is_held = False
            except Exception as error:  # noqa: BLE001 - any error; the slot serves other deliveries too
                problem = str(error) if isinstance(error, TransportError) else described(error)
        with contextlib.suppress(OSError):  # it is gone, which is seen in a moment
            child.pipe.send(Answer(is_held, problem))

    def _with_output(self, child: Spawned, outcome: Outcome, over: OverLimit | None) -> Outcome:
        """
        Return *outcome* with the output of its listeners if it is a dead letter, which a person will read.

        Args:
            child: The child that handled the event.

            outcome: Its outcome.

            over: The listener that ran in an earlier child, which was killed.
        """
        if not isinstance(outcome, DeadLetter):
            return outcome
        while child.read_output():
            pass
        failures = outcome.failures or (Failure(reason=outcome.reason, error=outcome.error),)
        printed = {failures[-1].listener: child.printed()}
        if over is not None:
            printed[over.listener_id] = over.output
        failures = tuple(attrs.evolve(each, output=printed.get(each.listener, "")) for each in failures)
        outputs = [f"its last output:\n{each.output}" for each in failures if each.output]
        if not outputs:
            return outcome
        return attrs.evolve(outcome, error=sanitised("\n\n".join([outcome.error, *outputs])), failures=failures)

    # --- the current delivery --------------------------------------------------------------------------------

    def _finish(self, task: _Task, outcome: Outcome) -> None:
        self._task = None
        self._host.note_end(task.delivery, outcome)

    def _give_up_task(self) -> None:
        if self._task is not None:
            self._finish(self._task, Lost(state=self._task.kept, error="no child process could begin"))

    def _hold_to_limits(self, child: Spawned, task: _Task) -> None:
        """Kill *child* if its listener exceeds the time limit, if it makes no progress, or holds too much memory."""
        now = time.monotonic()
        running = child.cell.running()
        if running is not None:
            task.moved = now
        if now < self._log_until:
            self._log_until = 0.0
            what, since = ("no listener", task.moved) if running is None else (running.listener_id, running.since)
            log_run(_log, what, task.delivery, now - since, child.pid, child.frames())
        if running is not None and now - running.since > running.limit:
            frames = child.frames()
            child.kill()
            _log.warning(
                "%s ran for more than %g s on %s; its process was killed",
                running.listener_id,
                running.limit,
                task.delivery,
            )
            self._forget(child)  # this reads its last output
            if child.committed == task.work.number:
                self._finish(task, attrs.evolve(after_unknown(task.delivery), state=_known_state(task)))
                return
            task.work.over_limit = OverLimit(running.listener_id, running.limit, frames, child.printed())
            if task.kept is not None:
                task.work.state = task.kept
            task.frame = frame_of(task.work)
            task.starts = 0
            return
        limit = self._options.memory_limit
        if running is not None:
            limit = self._options.memory_limits.get(running.listener_id, limit)
        if limit is not None and (held := child.memory()) > limit:
            child.kill()
            raise _Over(f"was killed since it held {held >> 20} MiB, and memory_limit is {limit >> 20} MiB")
        if now - task.moved > self._options.time_limit:
            child.kill()
            raise _Over(f"was killed since it made no progress for {now - task.moved:.0f} s, outside of any listener")

    # --- one child after the other ---------------------------------------------------------------------------

    def _spawn(self) -> bool:
        """Start the next child, unless the last try failed only recently; return whether it was started."""
        if time.monotonic() < self._again_at:
            return False
        try:
            child = self._next = Spawned(self._options.hello, lambda line: self._options.print_line(self.number, line))
        except OSError as error:
            self._not_begun(str(error))
            return False
        self._selector.register(child.pipe.socket, selectors.EVENT_READ, (child, False))
        self._selector.register(child.output, selectors.EVENT_READ, (child, True))
        return True

    def _forget(self, child: Spawned) -> str:
        """Stop watching *child*, end what is left of it, and return how it ended."""
        for each in (child.pipe.socket, child.output):
            if each in self._selector.get_map():
                self._selector.unregister(each)
        with self._turn:
            if child is self._child:
                self._child = None
        return child.bury()

    def _not_begun(self, why: str) -> None:
        self._failures += 1
        self._again_at = time.monotonic() + min(_AGAIN_CAP, _AGAIN_FIRST * 2.0**self._failures)
        error = ConfigurationError(f"a child process cannot begin: {why}")
        _log.error("%s", error)
        self._host.note_failure(error, times=self._failures)
        if self._failures >= _MOST_FAILURES:
            self._give_up_task()

    def _close(self, child: Spawned, why: str) -> None:
        """Clean up after *child*, which died or was killed, and decide the outcome of its delivery."""
        is_free = self._host.withdraw(self)
        task = self._task
        begun = task is not None and child.cell.work == task.work.number
        running = child.cell.running()
        how = self._forget(child)
        if is_free or task is None:
            _log.warning("an idle child process %s", why or how)
            return
        if not begun and task.starts < _MOST_STARTS:
            return  # the next child gets it
        where = f" while {running.listener_id} ran" if running is not None else ""
        error = f"the process {why or how}{where}"
        _log.warning("%s is lost: %s", task.delivery, error)
        if printed := child.printed():
            error += f"\n\nits last output:\n{printed}"
        death = str(child.identity.as_witnessed()) if begun else None  # otherwise it died of something else
        listener = running.listener_id if running is not None else ""
        state = _known_state(task) if child.committed == task.work.number else task.kept
        self._finish(task, Lost(state=state, error=sanitised(error), death=death, listener=listener))

    def _is_due(self, served: int) -> bool:
        """Return whether a child has to be replaced after *served* events."""
        return self._options.recycle_after is not None and served >= self._options.recycle_after

    def _is_worn(self, child: Spawned) -> bool:
        """Return whether to replace *child* now: its successor is ready, or it has grown too much and has none."""
        return self._next.is_ready if self._next is not None else self._has_grown(child)

    def _has_grown(self, child: Spawned) -> bool:
        """Return whether *child* has used half of the memory that was left when it started."""
        limit = self._options.memory_limit
        if limit is None or not child.served:
            return False
        return child.memory() - child.base_memory > (limit - child.base_memory) // 2

    def _replace(self, child: Spawned) -> None:
        """Start a successor of *child*, or let the successor take over if it is ready."""
        if self._next is None:
            has_begun = self._spawn()
            if self._is_held_back and not has_begun:  # the last one could not begin: this one can still work
                self._is_held_back = False
                self._host.note_idle(self)
        elif self._next.is_ready and (self._is_held_back or self._host.withdraw(self)):
            self._leave(child)
            self._adopt()

    def _leave(self, child: Spawned) -> None:
        """Let *child* end by itself, while its successor runs already."""
        child.dismiss()
        with self._turn:
            self._child = None
        self._leaving.append((child, time.monotonic() + _LEAVE_PATIENCE))

    def _look_after_leavers(self) -> None:
        for entry in list(self._leaving):
            child, deadline = entry
            if child.has_ended() or time.monotonic() > deadline:
                child.kill()
                self._forget(child)
                self._leaving.remove(entry)

    def _end(self) -> None:
        """End all child processes."""
        if self._child is not None:
            child, self._child = self._child, None
            if not self._is_abandoned:
                self._leaving.append((child, time.monotonic() + _LEAVE_PATIENCE))
                child.dismiss()
            else:
                child.kill()
                self._forget(child)
        if self._next is not None:
            self._next.kill()
            self._forget(self._next)
        while self._leaving:
            self._wait(_LEAVE_EVERY)
            self._look_after_leavers()
        self._selector.close()


def _known_state(task: _Task) -> bytes | None:
    """
    Return the state to store after a transaction of *task* that may have committed; ``None`` for the stored one.

    The transaction has stored a newer state than the last one that was heard of, unless it has its record in an inbox.
    """
    return None if task.work.receipt else task.kept
