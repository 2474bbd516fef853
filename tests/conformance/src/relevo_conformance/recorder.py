"""
Drives transports and writes down what happens; every record is judged as it is made.

A :class:`Worker` stands for a process: it has a transport of its own, and can be killed.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from relevo import Delivery
from relevo_conformance import history
from relevo_conformance.checker import Judge, Violation
from relevo_conformance.harness import Breakage, Harness
from relevo_conformance.worker import Worker


class BrokenPromiseError(AssertionError):
    """
    Raised when what was recorded breaks a promise.

    Args:
        violations: What was broken, in the order in which it showed.
    """

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("\n".join(str(violation) for violation in violations))

    @property
    def promises(self) -> frozenset[str]:
        """The ids of the promises that were broken."""
        return frozenset(violation.promise for violation in self.violations)


class Recorder:
    """
    Keeps the history of one scenario or one random run.

    Args:
        harness: What opens and breaks the transports.
    """

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.records: list[history.Record] = []
        self.workers: list[Worker] = []
        self.transactions = itertools.count(1)
        self.hooks: Counter[str] = Counter()
        """How often each hook of the harness was called: one that never is has not been tested."""

        self.horizon = 0.0
        """The latest time at which a delay or a lease that was asked for ends, in seconds since the epoch."""

        self._judge = Judge(harness.capabilities, slack=harness.slack)
        self._told = 0
        self._lock = threading.RLock()
        self._numbers: dict[int, int] = {}
        self._deliveries: list[Delivery] = []

    # --- workers and what befalls the store -----------------------------------------------------------

    def worker(self) -> Worker:
        """Return a worker that has just begun."""
        name = f"worker {len(self.workers) + 1}"
        with self._noted(name, history.Open(), "open"):
            transport = self.harness.open()
        worker = Worker(self, name, transport)
        self.workers.append(worker)
        return worker

    def kill(self, worker: Worker) -> None:
        """Let *worker* vanish."""
        worker.alive = False
        with self._noted(worker.name, history.Kill(), "kill"):
            self.harness.kill(worker.transport)

    def put_raw(self, queue: str, raw: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Put *raw* into *queue* as a stranger does."""
        call = history.PutRaw(queue=queue, raw=raw, headers=dict(headers or {}))
        with self._noted("stranger", call, "put_raw"):
            self.harness.put_raw(queue, raw, call.headers)

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass."""
        self.hooks["advance"] += 1
        self.harness.advance(seconds)

    @contextmanager
    def broken(self, worker: Worker, breakage: Breakage) -> Iterator[None]:
        """Break the store beneath *worker* for its next send, and mend it."""
        self.hooks["broken_send"] += 1
        with self.harness.broken_send(worker.transport, breakage):
            self.ended(self.began(worker.name, history.Break(breakage)))
            yield
        self.ended(self.began(worker.name, history.Mend()))

    # --- records ----------------------------------------------------------------------------------------

    def began(self, worker: str, call: history.Call) -> int:
        """Write down that *call* begins; return its number."""
        with self._lock:
            op = len(self.records)
            self._write(history.Invoked(op=op, worker=worker, at=self.harness.clock.now(), call=call))
            return op

    def ended(self, op: int, end: history.End = "done", *, error: str = "", value: history.Value | None = None) -> None:
        """
        Write down that the call *op* ended.

        Raises:
            BrokenPromiseError: What is known now breaks a promise.
        """
        with self._lock:
            self._write(history.Returned(op=op, at=self.harness.clock.now(), end=end, error=error, value=value))
            fresh = self._judge.violations[self._told :]
            self._told += len(fresh)
        if fresh:
            raise BrokenPromiseError(fresh)

    @property
    def is_broken(self) -> bool:
        """Whether a promise was broken."""
        return bool(self._judge.violations)

    def number(self, delivery: Delivery) -> int:
        """Return the number of *delivery* in this history; a new one if it was not seen before."""
        with self._lock:
            known = self._numbers.get(id(delivery))
            if known is None:
                known = self._numbers[id(delivery)] = len(self._deliveries)
                self._deliveries.append(delivery)  # kept alive, so that its id stays its own
            return known

    def until(self, seconds: float) -> None:
        """Take note of a delay or a lease that ends *seconds* from now."""
        self.horizon = max(self.horizon, self.harness.clock.now() + seconds)

    def pending(self) -> bool:
        """Tell whether something must still be handed out."""
        return self._judge.pending()

    def _write(self, record: history.Record) -> None:
        self.records.append(record)
        self._judge.feed(record)

    @contextmanager
    def _noted(self, worker: str, call: history.Call, hook: str) -> Iterator[None]:
        self.hooks[hook] += 1
        op = self.began(worker, call)
        yield
        self.ended(op)
