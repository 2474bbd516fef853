"""
Drive transports, and record what happens; each record is checked when it is made.

A :class:`RecordedWorker` stands for a process: it has a transport of its own, and can be killed.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import pytest

from relevo import Delivery, Transport
from relevo.errors import RelevoError, shown
from relevo_conformance import history, promise
from relevo_conformance.checker import Violation
from relevo_conformance.fault import Breakage, Fault
from relevo_conformance.harness import Harness, HookMissing, judge_of, opened
from relevo_conformance.verdict import BrokenPromiseError, HarnessError, LeftBehind, error_text, is_a_persons, raised_in
from relevo_conformance.watch import Watchdog
from relevo_conformance.worker import RecordedWorker

Result = TypeVar("Result")

_NOTICEABLE = 0.001
"""Seconds that every clock shows; less may vanish in its resolution, or in that of a float."""


class Recorder:
    """
    Records the history of one scenario or one random run.

    Args:
        harness: What opens and breaks the transports.

        raising: Whether a broken promise stops the run at once.

        tolerated: The ids of promises whose violations are not reported.

        first: The number of the first call and of the first delivery.
    """

    def __init__(
        self, harness: Harness, *, raising: bool = True, tolerated: frozenset[str] = frozenset(), first: int = 0
    ) -> None:
        self.harness = harness
        self.watch = harness.watch
        self.raising = raising
        self.records: list[history.Record] = []
        self.workers: list[RecordedWorker] = []
        self.transactions = itertools.count(1)
        self.hooks: Counter[str] = Counter()
        """How often each hook of the harness was called; a hook that was never called is not tested."""

        self.horizon = 0.0
        """The latest end of the delays and leases so far, in seconds since the epoch."""

        self.around: Callable[[Callable[[], Any]], Any] | None = None
        """Makes the calls of the transports, if they race."""

        self._tolerated = tolerated
        self._first = first
        self._judge = judge_of(type(harness), harness.capabilities, harness.clock)
        self._told = 0
        self._lock = threading.RLock()
        self._flying: set[int] = set()
        self._numbers: dict[int, int] = {}
        self._deliveries: list[Delivery] = []

    # --- workers and faults of the store --------------------------------------------------------------

    def worker(self, name: str = "") -> RecordedWorker:
        """Return a new worker with a *name* that is unique in the history, by default its number."""
        name = name or f"worker {len(self.workers) + 1}"
        op = self.begin(name, history.Open())
        worker = RecordedWorker(self, name, self._open())
        self.workers.append(worker)
        self.end(op)
        return worker

    def kill(self, worker: RecordedWorker) -> None:
        """Let *worker* vanish."""
        worker.alive = False
        op = self.begin(worker.name, history.Kill())
        self.hook("kill", lambda: self.harness.kill(worker.transport))
        self.end(op)

    def put_raw(self, queue: str, raw: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Put *raw* into *queue*, as a foreign program does."""
        call = history.PutRaw(queue=queue, raw=raw, headers=dict(headers or {}))
        op = self.begin("stranger", call)
        self.hook("put_raw", lambda: self.harness.put_raw(queue, raw, call.headers))
        self.end(op)

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass."""
        before = self.harness.clock.now()
        self.hook("advance", lambda: self.harness.advance(seconds), wait=0.0 if self.harness.fake else seconds)
        if seconds >= _NOTICEABLE and self.harness.clock.now() <= before:
            why = f"did not move the clock by {seconds:g} s"
            raise HarnessError(type(self.harness).__name__, "advance", why)

    @contextmanager
    def broken(self, worker: RecordedWorker, breakage: Breakage) -> Iterator[None]:
        """Break the store beneath *worker* for its next send, and repair it at the end."""
        with self.enter("broken_send", lambda: self.harness.broken_send(worker.transport, breakage)):
            self.end(self.begin(worker.name, history.Break(breakage)))
            yield
        self.end(self.begin(worker.name, history.Mend()))

    @contextmanager
    def faulty(self, worker: RecordedWorker, fault: Fault) -> Iterator[None]:
        """Let a write of *worker*'s next call fail, and repair the store at the end."""
        with self.enter("broken", lambda: self.harness.broken(worker.transport, fault)):
            self.end(self.begin(worker.name, history.Break(fault.moment, fault.at)))
            yield
        self.end(self.begin(worker.name, history.Mend()))

    @contextmanager
    def turnstile(self, worker: RecordedWorker, stop: Callable[[], None]) -> Iterator[None]:
        """Call *stop* between any two steps of *worker*."""
        with self.enter("turnstile", lambda: self.harness.turnstile(worker.transport, stop)):
            yield

    # --- the harness ------------------------------------------------------------------------------------

    def hook(self, name: str, act: Callable[[], Result], *, wait: float = 0.0, watch: Watchdog | None = None) -> Result:
        """
        Return what the hook *name* returns.

        Raises:
            HookMissing: The harness does not have it.

            HarnessError: It raised another error, or did not return.
        """
        self.hooks[name] += 1
        return self._guard(name, act, wait=wait, watch=watch)

    def _guard(
        self, name: str, act: Callable[[], Result], *, wait: float = 0.0, watch: Watchdog | None = None
    ) -> Result:
        kind = type(self.harness).__name__
        watch = watch or self.watch
        # One at a time, so that hooks need not be thread-safe; but the clock is the same for all threads.
        alone = nullcontext() if name == "advance" else watch.hooks

        def called() -> Result:
            with alone:
                return act()

        try:
            return watch.call(called, partial(HarnessError, kind, name), wait=wait)
        except (HookMissing, HarnessError, LeftBehind, pytest.skip.Exception):
            raise
        except BaseException as error:
            if is_a_persons(error):
                raise
            raise HarnessError(kind, name, f"raised {error_text(error)}") from error

    @contextmanager
    def enter(self, name: str, make: Callable[[], AbstractContextManager[Result]]) -> Iterator[Result]:
        """Enter the context manager of the hook *name*, and exit it at the end."""
        manager, value = self.hook(name, lambda: self._enter(name, make()))
        try:
            yield value
        except BaseException as error:
            if not self._guard(f"{name}, at its end,", partial(_leave, manager, error)):
                raise
        else:
            self._guard(f"{name}, at its end,", partial(_leave, manager, None))

    def _enter(
        self, name: str, manager: AbstractContextManager[Result]
    ) -> tuple[AbstractContextManager[Result], Result]:
        if not hasattr(manager, "__enter__"):
            why = f"returned {shown(manager)}; expected a context manager"
            raise HarnessError(type(self.harness).__name__, name, why)
        return manager, manager.__enter__()

    def _open(self) -> Transport:
        """Return another transport; an error of its own methods is the transport's, not the harness's."""
        try:
            transport = self.hook("open", lambda: opened(self.harness))
        except HarnessError as error:
            cause = error.__cause__
            if cause is None or not raised_in(cause.__traceback__, type(self.harness).transport):
                raise
            if isinstance(cause, RelevoError):
                raise cause from None
            violation = Violation(promise.ERRORS_ARE_TRANSLATED.id, None, f"opening it raised {error_text(cause)}")
            raise BrokenPromiseError([violation]) from cause
        before, self.harness.last_opened = self.harness.last_opened, transport
        if before is transport:
            why = "returned an instance that it had returned before; each worker needs one of its own"
            raise HarnessError(type(self.harness).__name__, "open", why)
        return transport

    # --- records ----------------------------------------------------------------------------------------

    def begin(self, worker: str, call: history.Call) -> int:
        """Record that *call* begins; return its number."""
        with self._lock:
            self.watch.require_attention()
            op = self._first + len(self.records)
            self._flying.add(op)
            self._write(history.Invoked(op=op, worker=worker, at=self._now(), call=call))
            return op

    def end(self, op: int, end: history.End = "done", *, error: str = "", value: history.Value | None = None) -> None:
        """
        Record that the call *op* ended.

        Raises:
            BrokenPromiseError: The history now breaks a promise.

            LeftBehind: It was overdue, and the test has its verdict.
        """
        with self._lock:
            if op not in self._flying:
                raise LeftBehind
            self._flying.discard(op)
            self._write(history.Returned(op=op, at=self._now(), end=end, error=error, value=value))
        self._require_kept()

    def take_in(self, records: Iterable[history.Record]) -> None:
        """
        Add *records*, which another recorder made of calls on the same store.

        Raises:
            BrokenPromiseError: The history now breaks a promise.
        """
        for record in records:  # the last one that is shown is the one that breaks it
            with self._lock:
                self._write(record)
            self._require_kept()

    def note_hung(self, op: int, why: str) -> BaseException:
        """Record that the call *op* did not return, and return the verdict."""
        try:
            self.end(op, "hung", error=why)
        except BrokenPromiseError as error:
            return error
        return BrokenPromiseError(self._judge.violations[-1:])

    @property
    def violations(self) -> tuple[Violation, ...]:
        """The violations so far, without tolerated ones."""
        return tuple(one for one in self._judge.violations if one.promise not in self._tolerated)

    @property
    def is_broken(self) -> bool:
        """Whether a promise was broken."""
        return bool(self.violations)

    def number(self, delivery: Delivery) -> int:
        """Return the number of *delivery* in this history; a new number for a new delivery."""
        with self._lock:
            known = self._numbers.get(id(delivery))
            if known is None:
                known = self._numbers[id(delivery)] = self._first + len(self._deliveries)
                self._deliveries.append(delivery)  # kept alive, so that its id() stays unique
            return known

    def share_numbers_of(self, other: Recorder) -> None:
        """Take over the numbers of the deliveries that *other* knows; call it before there are others."""
        self._numbers.update(other._numbers)

    def until(self, seconds: float) -> None:
        """Record a delay or a lease that ends *seconds* from now."""
        self.horizon = max(self.horizon, self.harness.clock.now() + seconds)

    def pending(self) -> bool:
        """Return whether an event must still be handed out."""
        return self._judge.pending()

    def _require_kept(self) -> None:
        """Raise the violations that were not raised before."""
        with self._lock:
            fresh = self.violations[self._told :]
            self._told += len(fresh)
        if fresh and self.raising:
            raise BrokenPromiseError(fresh)

    def _now(self) -> float:
        return self.harness.clock.now()

    def _write(self, record: history.Record) -> None:
        self.records.append(record)
        self._judge.feed(record)


def _leave(manager: AbstractContextManager[object], error: BaseException | None) -> bool:
    """Exit *manager*; return whether it suppressed *error*."""
    try:
        return bool(
            manager.__exit__(*(None, None, None) if error is None else (type(error), error, error.__traceback__))
        )
    except BaseException as raised:
        if raised is error:
            return False
        raise
