"""The bench of a scenario: workers, unique queues, envelopes, time, and the final drain."""

from __future__ import annotations

import itertools
import math
import secrets
import string
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Self

import attrs

from relevo import Ack, DeadLetterEntry, Delivery, Envelope
from relevo.errors import LeaseLostError, TransportError
from relevo_conformance import history
from relevo_conformance._flavour import PLAIN, Flavour
from relevo_conformance._free_race import Race
from relevo_conformance.fault import Breakage
from relevo_conformance.fault.turnstile import Turnstile
from relevo_conformance.harness import Harness, MovableClock, patience_of
from relevo_conformance.promise import PROMISES
from relevo_conformance.recorder import Recorder
from relevo_conformance.strategy import Recipe
from relevo_conformance.verdict import HarnessError
from relevo_conformance.watch import Watchdog, forget_interruptions
from relevo_conformance.worker import RecordedWorker

SUFFIXES = ("", "x", "_", ".%", ".X/y #*", "-é☃'\"\\", string.punctuation)
"""
Appended to one word, they make queue names that a careless store confuses: by prefix, pattern, case or quoting, or by a
separator of its own.
"""

_BREATH = 0.01
"""Seconds between two checks of a condition, if patience is long."""

_BREATHS = 20
"""The least number of checks within the patience, also if it is short."""

_VAIN = 3
"""How often a transport that never handed anything out is waited for; afterwards each condition is checked once."""

_ROUNDS = 1000
"""The largest number of receives in a drain."""


@attrs.frozen
class Times:
    """Durations that are long for a fake clock and bearable for a real one, in seconds."""

    lease: float
    delay: float
    step: float
    """The time between two successive actions."""


def tolerated(harness: Harness) -> frozenset[str]:
    """Return the ids of the promises from which the transport of *harness* deviates with permission."""
    return frozenset(name for name in harness.deviations if name in PROMISES and PROMISES[name].level == "must")


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
        """Wait at most *seconds* for its end; raise what it raised."""
        self.join(seconds)
        assert not self.is_alive(), f"a call did not return within {seconds} s"
        if self._error is not None:
            raise self._error


def finish_all(threads: Sequence[Thread]) -> None:
    """Wait for the end of all *threads*; raise the error of the first one that failed."""
    raised: list[BaseException] = []
    for thread in threads:
        try:
            thread.finish()
        except BaseException as error:  # noqa: BLE001 - raised below
            raised.append(error)
    if raised:
        raise raised[0]


LENGTH_OF_TOKEN = 16
"""Characters of the random part of the names of queues; tens of thousands of benches may share a store."""


class Bench:
    """
    Runs one scenario on a harness, and checks it at the end of the ``with`` block.

    At the end all workers are closed, all delays and leases end, and the remaining events are received and acked;
    then no sent event may be missing. This is skipped if the block failed.

    Args:
        harness: What opens and breaks the transports.

        queues: The number of queues.

        names: The endings of the names of the queues; by default those of :data:`SUFFIXES`.

        flavour: What all events have, unless other fields are stated.

        tolerated: The ids of promises whose violations are not reported.

        deadline: The latest end of the patience, by :func:`time.monotonic`.
    """

    def __init__(
        self,
        harness: Harness,
        *,
        queues: int = 1,
        names: Sequence[str] = (),
        flavour: Flavour = PLAIN,
        tolerated: frozenset[str] = frozenset(),
        deadline: float = math.inf,
    ) -> None:
        token = secrets.token_hex(LENGTH_OF_TOKEN // 2)
        self.harness = harness
        self.capabilities = harness.capabilities
        self.recorder = Recorder(harness, tolerated=tolerated)
        self.token = token
        self.flavour = flavour
        self.queues = tuple(f"t{token}{suffix}{flavour.queue_end}" for suffix in names or SUFFIXES[:queues])
        self._deadline = deadline
        self._sent = 0
        self._failed = False
        self._is_set_up = False
        self._stopped_nothing = False
        self.steps: Sequence[int] = ()
        """The number of steps that each call of the last :meth:`at_once` took."""
        self.further: list[str] = []
        """Other queues that the bench drains, such as those in which events wait for a relay."""

        harness.watch.benches.append(self)

    @property
    def queue(self) -> str:
        """The first queue."""
        return self.queues[0]

    @cached_property
    def times(self) -> Times:
        """The lengths of leases and delays on this bench."""
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
        """Seconds of real time within which a ready event is handed out."""
        watch = self.harness.watch
        if watch.vain_looks >= _VAIN and not watch.handed_out:
            return 0.0
        return self._stated_patience

    @property
    def _stated_patience(self) -> float:
        return patience_of(type(self.harness), self.harness.clock)

    @property
    def glance(self) -> float:
        """Seconds for which one receive waits; 0 if a condition is checked once."""
        return min(self._stated_patience, type(self.harness).glance)

    # --- arranging --------------------------------------------------------------------------------------

    def worker(self) -> RecordedWorker:
        """Return another worker, its queues set up."""
        worker = self.recorder.worker()
        worker.setup(self.queues)
        self._is_set_up = True
        return worker

    def envelope(self, *, queue: str | None = None, **fields: Any) -> Envelope:
        """Return a unique envelope with *fields*."""
        self._sent += 1
        defaults: dict[str, Any] = {
            "source": "conformance",
            "name": "image.created",
            "queue": self.queue if queue is None else queue,
            "body": b'{"number": %d}' % self._sent,
            **self.flavour.defaults(f"{self.token}-{self._sent}"),
        }
        return Envelope(**(defaults | fields))

    def cook(self, recipe: Recipe) -> Envelope:
        """Return an envelope made by *recipe*, with a unique id."""
        return self.envelope(
            queue=self.queues[recipe.place],
            id=f"{self.token}-{self._sent + 1}{recipe.id_end}",
            source=recipe.source,
            name=recipe.name,
            body=self.fitting(recipe.body),
            headers=recipe.headers,
            urgency=recipe.urgency,
            ordering_key=recipe.ordering_key,
            expires=recipe.expires,
        )

    def fitting(self, body: bytes, *, room: int = 0) -> bytes:
        """Return *body*, cut to the longest that the transport takes, with *room* bytes left."""
        largest = self.capabilities.max_body
        return body if largest is None else body[: largest - room]

    def envelopes(self, number: int, **fields: Any) -> list[Envelope]:
        """Return *number* envelopes."""
        return [self.envelope(**fields) for _ in range(number)]

    def raw(
        self, raw: bytes = b"\x80 no envelope ", *, queue: str | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Put unique foreign bytes into a queue; return them."""
        self._sent += 1
        unique = f"{self.token}-{self._sent}".encode()
        raw = self.fitting(raw, room=len(unique)) + unique
        self.recorder.put_raw(self.queue if queue is None else queue, raw, headers)
        return raw

    def outbox(self, name: str) -> str:
        """Return the queue in which events for the transport *name* wait for a relay."""
        queue = f"outbox/{name}"
        self.include(queue)
        return queue

    def include(self, queue: str) -> None:
        """Drain *queue* too at the end, and drop it."""
        if queue not in self.further:
            self.further.append(queue)

    def fail_send(self, sender: RecordedWorker, breakage: Breakage, batch: Sequence[Envelope]) -> TransportError:
        """
        Return what a send of *batch* raises while the store beneath *sender* is broken.

        Raises:
            HarnessError: It raised nothing, and all was sent: the hook broke nothing.
        """
        with self.recorder.broken(sender, breakage):
            try:
                sender.send(batch)
            except TransportError as error:
                return error
        came = {one.envelope for one in self.receive(self.worker(), len(batch))}
        assert came == {*batch}, "a send returned without an error, but not all events came: its store had failed"
        hook = "broken_send" if "broken_send" in type(self.harness).defines() else "broken"
        why = f"broke nothing: with Fault({breakage!r}) a send returned, and all that it sent came"
        raise HarnessError(type(self.harness).__name__, hook, why)

    # --- receiving --------------------------------------------------------------------------------------

    def receive(
        self,
        worker: RecordedWorker,
        number: int = 1,
        *,
        queues: Sequence[str] | None = None,
        limit: int | None = None,
        lease: float | None = None,
        wait: float | None = None,
    ) -> list[Delivery]:
        """
        Return *number* deliveries, asking again while the harness has patience.

        A receive may return fewer than its limit, so each one asks for what is missing.

        Args:
            worker: Who receives.

            number: There are fewer if no more came in time, and more only if *limit* is larger.

            queues: By default all of the bench.

            limit: The largest number; by default *number*.

            lease: In seconds; by default that of the bench.

            wait: Of each receive, in seconds; by default that of the bench.
        """
        deliveries: list[Delivery] = []
        most = number if limit is None else limit

        def ask() -> bool:
            came = worker.receive(
                self.queues if queues is None else queues,
                limit=most - len(deliveries),
                lease=self.times.lease if lease is None else lease,
                wait=self.glance if wait is None else wait,
            )
            deliveries.extend(came)
            return bool(came) or self.breathe()

        # Some come one by one, so the patience is for the next one, not for all.
        while len(deliveries) < number and self.until(ask):
            pass
        return deliveries

    def past_the_recorder(self, worker: RecordedWorker, number: int = 1) -> list[Delivery]:
        """Return *number* deliveries that were sent past the recorder, or fewer if no more come, and ack them."""
        came: list[Delivery] = []

        def look() -> bool:
            found = worker.transport.receive(self.queues, limit=10, lease=self.times.lease, wait=self.glance)
            came.extend(found)
            return bool(found)

        while len(came) < number and self.eventually(look):
            pass
        worker.transport.settle([(one, Ack()) for one in came])
        return came

    def comes(self, worker: RecordedWorker, envelope: Envelope) -> bool:
        """Return whether *envelope* comes, behind any number of others, while the harness has patience."""
        found = False

        def look() -> bool:
            nonlocal found
            came = self.glimpse(worker)
            found = any(one.envelope == envelope for one in came)
            return bool(came) or self.breathe()

        while not found and self.until(look):
            pass
        return found

    def one(self, worker: RecordedWorker, **options: Any) -> Delivery:
        """Return the one delivery that must come now."""
        return self.so_many(worker, 1, **options)[0]

    def so_many(self, worker: RecordedWorker, number: int, **options: Any) -> list[Delivery]:
        """Return the *number* deliveries that must come now."""
        deliveries = self.receive(worker, number, **options)
        assert len(deliveries) == number, f"{len(deliveries)} deliveries came instead of {number}"
        return deliveries

    def dead_letter(self, worker: RecordedWorker) -> DeadLetterEntry:
        """Return the one dead letter that must be there."""
        return self.dead_letters(worker, 1)[0]

    def dead_letters(self, worker: RecordedWorker, number: int) -> Sequence[DeadLetterEntry]:
        """Return the *number* dead letters that must be there."""
        entries = worker.dead_letters([self.queue])
        assert len(entries) == number, f"{len(entries)} dead letters are listed instead of {number}"
        return entries

    def glimpse(
        self, worker: RecordedWorker, *, queues: Sequence[str] | None = None, limit: int = 10
    ) -> list[Delivery]:
        """Return what a receive returns at once, most often nothing; the checker decides whether it may."""
        return worker.receive(
            self.queues if queues is None else queues,
            limit=limit,
            lease=self.times.lease,
            wait=self.glance,
        )

    def eventually(self, condition: Callable[[], bool]) -> bool:
        """Check *condition*, with short pauses, until it holds or the patience of the harness is over."""
        return self.until(lambda: condition() or self.breathe())

    def breathe(self) -> bool:
        """Let other threads work for a moment; return False."""
        if self._stated_patience > 0.0:  # otherwise there is no second check
            time.sleep(min(_BREATH, self._stated_patience / _BREATHS))
        return False

    def until(self, condition: Callable[[], bool]) -> bool:
        """Check *condition*, which pauses itself if it fails, until it holds or the patience is over."""
        deadline = min(time.monotonic() + self.patience, self._deadline)
        while not condition():
            if time.monotonic() >= deadline:
                self._count_vain_look()
                return False
        return True

    def _count_vain_look(self) -> None:
        watch = self.harness.watch
        if not watch.handed_out:
            watch.vain_looks += 1

    # --- at once ----------------------------------------------------------------------------------------

    def at_once(self, schedule: Sequence[int], *calls: tuple[RecordedWorker, Callable[[], object]]) -> None:
        """
        Run *calls*, each of another worker, with their steps interleaved by *schedule*.

        Args:
            schedule: The position of the call that takes the next step, for each step.

            calls: Each with the worker whose call it is.
        """
        turnstile = Turnstile(schedule)
        stops = itertools.count()

        def stop() -> None:
            next(stops)
            turnstile.stop()

        with ExitStack() as stack:
            for worker, _ in calls:
                stack.enter_context(self.recorder.turnstile(worker, stop))
            errors = turnstile.run(*(call for _, call in calls))
        self.steps = turnstile.steps
        self._stopped_nothing = self._stopped_nothing or next(stops) == 0
        for error in errors:
            if error is not None and not isinstance(error, LeaseLostError):
                raise error

    def freely(self, *calls: Callable[[], object]) -> None:
        """
        Run *calls* at the same time, each in a thread of its own; raise the error of the first one that failed.

        The calls of transports begin together, until one thread is done; nothing interleaves their steps.
        """
        forget_interruptions()  # which a race cannot bear, since it runs under a profiler
        race = Race(threading.Barrier(len(calls)))
        self.recorder.around = race.run
        try:
            finish_all([Thread(partial(race.take_part, call)) for call in calls])
        finally:
            self.recorder.around = None

    def _require_stops(self) -> None:
        """Report a call without a step as an error of the harness only after the drain: it may have taken no step."""
        if self._stopped_nothing:
            why = "stopped no step: it must call *stop* before each step of the transport"
            raise HarnessError(type(self.harness).__name__, "turnstile", why)

    # --- events from outside-------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass."""
        self.recorder.advance(seconds)

    def let_delays_end(self) -> None:
        """Let time pass until what was delayed now is due, in a store that rounds delays up, by any clock."""
        self.advance(self.times.delay + (self.capabilities.delay or 0.0) + 3 * self.harness.slack)

    def let_leases_end(self) -> None:
        """Let time pass until a lease that was taken now is over, by any clock."""
        self.advance(self.times.lease + 3 * self.harness.slack)

    def approach(self, due: float) -> None:
        """Let time pass until shortly before *due*, so that a glimpse ends before it."""
        left = due - self.harness.clock.now() - self.glance - 10 * self.harness.slack
        if left > 0:
            self.advance(left)

    def approach_the_end_of_a_lease(self, began: float) -> None:
        """Let time pass until shortly before the end of a lease that began at *began* or later."""
        if self.harness.fake:
            self.approach(began + self.times.lease)
        else:  # other threads may be slow, and the lease ends by itself
            self.advance(0.9 * self.times.lease)

    def set_back(self, seconds: float) -> bool:
        """Set the clock *seconds* back; return whether that is possible."""
        clock = self.harness.clock
        if not isinstance(clock, MovableClock):
            return False
        clock.set_back(seconds)
        return True

    def lose(self, *workers: RecordedWorker) -> None:
        """Kill *workers*, and let time pass until their leases have run out."""
        for worker in workers:
            self.recorder.kill(worker)
        if not self.is_connected:
            self.advance(self.times.lease + self.harness.slack)

    # --- the end ----------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Close all workers, let all delays and leases end, and ack what still comes."""
        for worker in self.recorder.workers:
            if worker.alive:
                worker.close()
        worker = self.recorder.worker()
        queues = (*self.queues, *self.further)
        if self.further or not self._is_set_up:
            worker.setup(queues)
        self._pass_all_time()
        came_to_its_end = self.receive_all(worker, queues)
        self._look_around(worker, queues)
        if came_to_its_end and self.recorder.pending():  # an event that might have been dead is not
            came_to_its_end = self.receive_all(worker, queues)
            self._look_around(worker, queues)
        drain = self.recorder.begin(worker.name, history.Drain())
        self.recorder.end(drain, "done" if came_to_its_end else "unknown")
        worker.close()

    def _pass_all_time(self) -> None:
        left = self.recorder.horizon - self.harness.clock.now()
        if left >= 0:
            self.advance(left + max(self.capabilities.delay or 0.0, self.harness.slack) + self.times.step)

    def receive_all(self, worker: RecordedWorker, queues: Sequence[str]) -> bool:
        """Ack what comes; return whether it finished: nothing comes, and either all came or the patience is over."""
        deadline = min(time.monotonic() + self.patience, self._deadline)
        for _ in range(_ROUNDS):
            deliveries = worker.receive(queues, limit=50, lease=3600.0, wait=self.glance)
            if deliveries:
                worker.settle([(delivery, Ack()) for delivery in deliveries])
                continue
            if not self.recorder.pending():
                return True
            if time.monotonic() >= deadline:
                self._count_vain_look()
                return time.monotonic() < self._deadline
            self.breathe()
        return False

    def _look_around(self, worker: RecordedWorker, queues: Sequence[str]) -> None:
        if self.capabilities.dead_letters:
            worker.dead_letters(queues)
        if self.capabilities.stats != "none":
            for queue in queues:
                worker.stats(queue)

    def clean_up(self, watch: Watchdog | None = None, *, failed: bool = False) -> None:
        """
        Close what is open and drop the queues, also after a failure.

        Args:
            watch: Finds calls that take too long.

            failed: Whether an error ended the history, which is kept then.
        """
        self._failed = self._failed or failed
        watch = watch or self.recorder.watch
        if self in self.harness.watch.benches:
            self.harness.watch.benches.remove(self)
        for worker in self.recorder.workers:
            if worker.alive:
                worker.clean_up(watch)
        for queue in (*self.queues, *self.further):
            self.recorder.hook("drop", partial(self.harness.drop, queue), watch=watch)
        self._write_down()

    def _write_down(self) -> None:
        """Report what happened here to the observer of the harness."""
        if (observed := self.harness.observed) is not None:
            recorder = self.recorder
            broken = (tuple(recorder.records), recorder.violations) if recorder.is_broken else None
            failed = tuple(recorder.records) if self._failed else ()
            observed.take_in(history.tally(recorder.records), recorder.hooks, broken, failed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._failed = isinstance(error, Exception)
        try:
            if kind is None:
                self.drain()
                self._require_stops()
        finally:
            self.clean_up()
