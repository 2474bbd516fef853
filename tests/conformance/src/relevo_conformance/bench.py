"""The work bench of a scenario: workers, queues that never repeat, envelopes, time, and the final drain."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import attrs

from relevo import Delivery, Envelope
from relevo.errors import RelevoError
from relevo_conformance import history
from relevo_conformance.harness import Harness
from relevo_conformance.recorder import Recorder
from relevo_conformance.strategy import Recipe
from relevo_conformance.worker import Worker

SUFFIXES = ("", "x", "_", ".%", ".X/y #*", "-é☃'\"\\")
"""Put behind one word they make queue names that a careless store mixes up: by prefix, pattern, case or quoting."""

_GLIMPSE = 0.3
"""Seconds of real time after which a store that would hand something out has done so, most of the time."""

_ROUNDS = 1000
"""No drain of the suite needs more receives than this."""


@attrs.frozen
class Times:
    """Durations that are long for a fake clock and bearable for a real one, in seconds."""

    lease: float
    delay: float
    step: float
    """What passes between two things that happen one after the other."""


class Thread(threading.Thread):
    """A thread whose error is raised again by :meth:`finish`."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._error = error

    def finish(self, seconds: float = 60.0) -> None:
        """Wait for its end, at most *seconds*; raise what it raised."""
        self.join(seconds)
        assert not self.is_alive(), f"a call did not come back within {seconds} s"
        if self._error is not None:
            raise self._error


class Bench:
    """
    Runs one scenario on a harness, and judges it at the end of the ``with`` block.

    At the end all workers are closed, all time passes, and what still comes is received and acked;
    then nothing that was sent may be missing. This is left out when the block failed.

    Args:
        harness: What opens and breaks the transports.

        queues: How many queues.
    """

    def __init__(self, harness: Harness, *, queues: int = 1) -> None:
        token = secrets.token_hex(4)
        self.harness = harness
        self.capabilities = harness.capabilities
        self.recorder = Recorder(harness)
        self.token = token
        self.queues = tuple(f"t{token}{suffix}" for suffix in SUFFIXES[:queues])
        self._sent = 0
        self._outboxes: list[str] = []

    @property
    def queue(self) -> str:
        """The first queue."""
        return self.queues[0]

    @cached_property
    def times(self) -> Times:
        """How long leases and delays are here."""
        if self.harness.fake:
            return Times(lease=60.0, delay=20.0, step=1.0)
        resolution = self.capabilities.delay or 0.0
        return Times(lease=60.0 if self.is_connected else 1.5, delay=max(0.4, 2 * resolution), step=0.01)

    @property
    def is_connected(self) -> bool:
        """Whether a lease lasts as long as a connection."""
        return self.capabilities.lease == "connection"

    @property
    def patience(self) -> float:
        """Seconds of real time within which what is ready is handed out."""
        stated = type(self.harness).patience
        if stated is not None:
            return stated
        return 0.0 if self.harness.fake else 10.0

    @property
    def glance(self) -> float:
        """Seconds for which one receive waits: none where one look must do."""
        return min(self.patience, _GLIMPSE)

    # --- arranging --------------------------------------------------------------------------------------

    def worker(self) -> Worker:
        """Return another worker, its queues set up."""
        worker = self.recorder.worker()
        worker.setup(self.queues)
        return worker

    def envelope(self, *, queue: str | None = None, **fields: Any) -> Envelope:
        """Return an envelope like no other; what matters is said in *fields*."""
        self._sent += 1
        defaults: dict[str, Any] = {
            "id": f"{self.token}-{self._sent}",
            "source": "conformance",
            "name": "image.created",
            "queue": self.queue if queue is None else queue,
            "body": b'{"number": %d}' % self._sent,
        }
        return Envelope(**(defaults | fields))

    def cook(self, recipe: Recipe) -> Envelope:
        """Return an envelope as *recipe* says, with an id of its own."""
        return self.envelope(
            queue=self.queues[recipe.place],
            id=f"{self.token}-{self._sent + 1}{recipe.id_end}",
            source=recipe.source,
            name=recipe.name,
            body=recipe.body,
            headers=recipe.headers,
            urgency=recipe.urgency,
            ordering_key=recipe.ordering_key,
            expires=recipe.expires,
        )

    def envelopes(self, number: int, **fields: Any) -> list[Envelope]:
        """Return *number* envelopes."""
        return [self.envelope(**fields) for _ in range(number)]

    def raw(
        self, raw: bytes = b"\x80 no envelope ", *, queue: str | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Put bytes like no others into a queue as a stranger does; return them."""
        self._sent += 1
        raw += f"{self.token}-{self._sent}".encode()
        self.recorder.put_raw(self.queue if queue is None else queue, raw, headers)
        return raw

    def outbox(self, name: str) -> str:
        """Return the queue in which events for the transport *name* wait for a relay."""
        queue = f"outbox/{name}"
        self._outboxes.append(queue)
        return queue

    # --- receiving --------------------------------------------------------------------------------------

    def receive(
        self,
        worker: Worker,
        number: int = 1,
        *,
        queues: Sequence[str] | None = None,
        limit: int | None = None,
        lease: float | None = None,
    ) -> list[Delivery]:
        """
        Return *number* deliveries, asking again while the harness has patience.

        Fewer come back if no more came in time; more if one receive gave more.
        """
        deliveries: list[Delivery] = []

        def ask() -> bool:
            deliveries.extend(
                worker.receive(
                    self.queues if queues is None else queues,
                    limit=number - len(deliveries) if limit is None else limit,
                    lease=self.times.lease if lease is None else lease,
                    wait=self.glance,
                )
            )
            return len(deliveries) >= number

        self.eventually(ask)
        return deliveries

    def one(self, worker: Worker, **options: Any) -> Delivery:
        """Return the one delivery that must come now."""
        deliveries = self.receive(worker, **options)
        assert len(deliveries) == 1, f"{len(deliveries)} deliveries came instead of one"
        return deliveries[0]

    def glimpse(self, worker: Worker, *, queues: Sequence[str] | None = None, limit: int = 10) -> list[Delivery]:
        """Return what comes at once, most often nothing; the checker judges whether it may."""
        return worker.receive(
            self.queues if queues is None else queues,
            limit=limit,
            lease=self.times.lease,
            wait=self.glance,
        )

    def eventually(self, condition: Callable[[], bool]) -> bool:
        """Ask for *condition* until it holds or the patience of the harness is at its end."""
        deadline = time.monotonic() + self.patience
        while not condition():
            if time.monotonic() >= deadline:
                return False
        return True

    # --- what befalls -----------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass."""
        self.recorder.advance(seconds)

    def lose(self, *workers: Worker) -> None:
        """Let *workers* vanish, and time pass until their leases have run out."""
        for worker in workers:
            self.recorder.kill(worker)
        if not self.is_connected:
            self.advance(self.times.lease + self.harness.slack)

    # --- the end ----------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Close all workers, let all time pass, and ack whatever still comes."""
        for worker in self.recorder.workers:
            if worker.alive:
                worker.close()
        worker = self.recorder.worker()
        queues = (*self.queues, *self._outboxes)
        worker.setup(queues)
        self._pass_all_time()
        came_to_its_end = self._receive_all(worker, queues)
        self._look_around(worker, queues)
        drain = self.recorder.began(worker.name, history.Drain())
        self.recorder.ended(drain, "done" if came_to_its_end else "unknown")
        worker.close()

    def _pass_all_time(self) -> None:
        left = self.recorder.horizon - self.harness.clock.now()
        if left >= 0:
            self.advance(left + max(self.capabilities.delay or 0.0, self.harness.slack) + self.times.step)

    def _receive_all(self, worker: Worker, queues: Sequence[str]) -> bool:
        """Return whether it came to an end: nothing comes any more, and either all came or patience is over."""
        deadline = time.monotonic() + self.patience
        for _ in range(_ROUNDS):
            deliveries = worker.receive(queues, limit=50, lease=3600.0, wait=self.glance)
            for delivery in deliveries:
                worker.ack(delivery)
            if not deliveries and (not self.recorder.pending() or time.monotonic() >= deadline):
                return True
        return False

    def _look_around(self, worker: Worker, queues: Sequence[str]) -> None:
        if self.capabilities.dead_letters:
            worker.dead_letters(queues)
        if self.capabilities.stats != "none":
            for queue in queues:
                worker.stats(queue)

    def clean_up(self) -> None:
        """Close what is open and drop the queues, whatever happened before."""
        for worker in self.recorder.workers:
            if worker.alive:
                with suppress(RelevoError):
                    worker.transport.close()
        for queue in self.queues:
            self.recorder.hooks["drop"] += 1
            self.harness.drop(queue)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.drain()
        finally:
            self.clean_up()
