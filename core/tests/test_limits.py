"""Limits of queues, which hold over all workers: how many events run at once, and how many begin in a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from relevo import App, Delivery, Event, QueueOptions, Worker, listener
from relevo._transport.limit import Limit, Rate
from relevo.errors import ConfigurationError, TransportUnavailableError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

from .working import DRAIN, Handled, Slots, lose

MakeWorker = Callable[..., Worker]
Send = Callable[..., None]


class Started(Handled):
    """Notes when each event began, in seconds since the epoch."""

    def __init__(self, clock: FakeClock, *, takes: float = 0.0):
        super().__init__(then=self._note)
        self.clock = clock
        self.takes = takes
        self.times: list[float] = []

    def _note(self, _: Delivery) -> None:
        self.times.append(self.clock.now())
        self.clock.sleep(self.takes)


class Counting(MemoryTransport):
    """Counts the requests, and cannot be reached when a test says so."""

    requests = 0
    is_down = False

    def change_limit(self, key: str, change: Callable[[bytes, float], bytes], *, ttl: float) -> None:
        self.requests += 1
        if self.is_down:
            raise TransportUnavailableError("limits", "it is down")
        super().change_limit(key, change, ttl=ttl)


@pytest.fixture(name="counting")
def _counting(clock: FakeClock) -> Iterator[Counting]:
    """Give a coordinator of its own, which counts the requests."""
    with Counting(clock=clock, name="limits") as counting:
        yield counting


@pytest.fixture(name="limited")
def _limited(worker: MakeWorker) -> MakeWorker:
    """Make a worker whose queue has a limit."""

    def limited(handle: Any, *, at_once: int | None = None, rate: Rate | None = None, **how: Any) -> Worker:
        limits = {"default": Limit(concurrency=at_once, rate=rate)}
        return worker(handle, **{"limits": limits, "options": DRAIN, **how})

    return limited


def most_within(times: Sequence[float], window: float) -> int:
    return max(sum(first <= each < first + window for each in times) for first in times)


# --- rates ---------------------------------------------------------------------------------------------------


def test_a_drain_goes_on_at_the_rate(limited: MakeWorker, send: Send, clock: FakeClock) -> None:
    send(25)
    handled = Started(clock)

    report = limited(handled, rate=Rate(5, 1.0)).run()

    assert (report.done, report.stopped_by) == (25, "empty")
    assert most_within(handled.times, 1.0) == 5
    assert handled.times[-1] - handled.times[0] < 4 * 1.05


def test_a_drain_ends_when_its_limit_holds_for_long(limited: MakeWorker, send: Send, clock: FakeClock) -> None:
    send(5)
    began = clock.now()

    report = limited(Handled(), rate=Rate(2, 3600.0)).run()

    assert (report.done, report.stopped_by) == (2, "empty")
    assert clock.now() - began < 5


def test_what_the_limit_holds_back_waits_in_the_store(
    limited: MakeWorker, send: Send, transport: MemoryTransport
) -> None:
    send(5)

    limited(Handled(), rate=Rate(2, 3600.0)).run()

    left = transport.receive(["default"], limit=10, lease=60.0, wait=0.0)
    assert [(each.attempt, each.lost_leases) for each in left] == [(1, 0)] * 3


def test_workers_share_a_rate(limited: MakeWorker, send: Send, clock: FakeClock) -> None:
    send(8)
    one, other = Started(clock), Started(clock)

    limited(one, rate=Rate(3, 3600.0)).run()
    limited(other, rate=Rate(5, 3600.0)).run()

    assert (len(one), len(other)) == (3, 2)


def test_a_slow_listener_does_not_begin_what_it_was_allowed_long_ago(
    limited: MakeWorker, send: Send, clock: FakeClock
) -> None:
    send(40)
    handled = Started(clock, takes=0.3)

    limited(handled, rate=Rate(4, 1.0)).run()

    assert len(handled) == 40
    assert most_within(handled.times, 1.0) <= 4


def test_a_suspect_counts_too(limited: MakeWorker, send: Send, clock: FakeClock, transport: MemoryTransport) -> None:
    send(2)
    lose(transport, clock, 2)
    handled = Started(clock)

    limited(handled, rate=Rate(1, 1.5)).run()

    assert len(handled) == 2
    assert handled.times[1] - handled.times[0] >= 1.5


def test_a_queue_without_limit_goes_on_beside_one_that_waits(worker: MakeWorker, send: Send, clock: FakeClock) -> None:
    send(3, queue="slow")
    send(20, queue="quick")
    handled = Started(clock)

    report = worker(
        handled, queues=["slow", "quick"], limits={"slow": Limit(rate=Rate(1, 3600.0))}, options=DRAIN
    ).run()

    assert report.done == 21
    assert len(set(handled.times)) == 1


# --- concurrency -----------------------------------------------------------------------------------------------


def test_no_more_run_at_once_than_the_limit_allows(limited: MakeWorker, send: Send, clock: FakeClock) -> None:
    send(12)
    slots = Slots(clock, 5)

    report = limited(Handled(), at_once=2, executor=slots, slots=5).run()

    assert report.done == 12
    assert max(slots.beside.values()) == 1


def test_a_worker_takes_only_what_it_can_run_if_there_are_few_places(limited: MakeWorker, send: Send) -> None:
    send(9)
    waiting: list[int] = []

    def handle(_: Delivery) -> None:
        waiting.append(len(worker._backlog))

    worker = limited(Handled(then=handle), at_once=3)
    worker.run()

    assert waiting == [0] * 9


def test_two_workers_never_run_more_together(
    limited: MakeWorker, send: Send, clock: FakeClock, transport: MemoryTransport
) -> None:
    send(6)
    inner = Handled()
    done: list[int] = []

    def handle(_: Delivery) -> None:
        done.append(limited(inner, at_once=1).run().done)

    limited(Handled(then=handle), at_once=1).run()

    assert len(done) == 6, "one after the other"
    assert inner == []


def test_the_place_of_a_worker_that_died_is_free_after_a_lease(
    limited: MakeWorker, send: Send, clock: FakeClock
) -> None:
    send(2)

    class Killed(BaseException):
        pass

    def die(_: Delivery) -> None:
        raise Killed

    dead = limited(Handled(then=die), at_once=1, lease=60.0)
    dead._limiter.close = lambda: None  # type: ignore[union-attr, method-assign]  # a killed process gives nothing back
    with pytest.raises(Killed):
        dead.run()

    before = limited(Handled(), at_once=1).run()
    clock.advance(61)
    after = limited(Handled(), at_once=1).run()

    assert (before.done, after.done) == (0, 2)


def test_places_are_given_back_at_the_end(
    limited: MakeWorker, send: Send, counting: Counting, clock: FakeClock
) -> None:
    send(3)

    limited(Handled(), at_once=3, coordinator=counting).run()

    assert counting.store.limits._kept == {}


# --- the store ------------------------------------------------------------------------------------------------


def test_a_queue_without_limit_asks_nothing(worker: MakeWorker, send: Send, counting: Counting) -> None:
    send(3)

    worker(Handled(), coordinator=counting, options=DRAIN).run()

    assert counting.requests == 0


def test_a_batch_is_one_request(limited: MakeWorker, send: Send, counting: Counting) -> None:
    send(1000)

    limited(Handled(), rate=Rate(10_000, 1.0), coordinator=counting).run()

    assert counting.requests < 20


def test_an_idle_queue_asks_nothing(limited: MakeWorker, counting: Counting) -> None:
    limited(Handled(), at_once=2, coordinator=counting).run()

    assert counting.requests == 0


def test_without_its_store_a_drain_ends_with_the_error(limited: MakeWorker, send: Send, counting: Counting) -> None:
    send(1)
    counting.is_down = True
    handled = Handled()

    with pytest.raises(TransportUnavailableError, match="limits"):
        limited(handled, at_once=1, coordinator=counting).run()

    assert handled == []


def test_a_worker_waits_for_the_store_and_handles_what_has_no_limit(
    worker: MakeWorker, send: Send, counting: Counting, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    send(1, queue="slow")
    send(3, queue="quick")
    counting.is_down = True

    def handle(_: Delivery) -> None:
        if len(handled) == 3:
            counting.is_down = False
        if len(handled) == 4:
            serving.stop()

    handled = Handled(then=handle)
    serving = worker(
        handled,
        queues=["slow", "quick"],
        limits={"slow": Limit(concurrency=1)},
        coordinator=counting,
        patient=True,
    )
    report = serving.run()

    assert report.done == 4
    assert "the queue slow waits, since what counts against its limit is not known" in caplog.text


def test_what_counts_and_cannot_be_read_starts_from_zero(
    limited: MakeWorker, send: Send, counting: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    send(1)
    worker = limited(Handled(), at_once=1, coordinator=counting)
    (gate,) = worker._limiter._gates.values()  # type: ignore[union-attr]  # it has one
    counting.change_limit(gate.key, lambda *_: b"\xff nonsense", ttl=60.0)

    assert worker.run().done == 1
    assert "cannot be read; the count starts from zero" in caplog.text


# --- applications -----------------------------------------------------------------------------------------------


def test_a_limit_is_an_option_of_a_queue(make: Callable[..., App], clock: FakeClock) -> None:
    times: list[float] = []

    @listener("mail.sent")
    def send(event: Event) -> None:
        times.append(clock.now())

    app = make(send, queues={"default": QueueOptions(rate="2/m")})
    for _ in range(5):
        app.dispatch(Event("mail.sent"))

    with app.testing() as t:
        for _ in range(5):
            t.app.dispatch(Event("mail.sent"))
        first = t.drain().done
        t.travel("62s")
        second = t.drain().done

    assert (first, second) == (2, 2)


def test_a_transport_that_cannot_count_needs_a_coordinator(worker: MakeWorker) -> None:
    with pytest.raises(ConfigurationError, match="need a coordinator that counts for all workers"):
        worker(Handled(), limits={"default": Limit(concurrency=1)}, coordinator=None)


@pytest.mark.parametrize(
    "options", [{"concurrency": 0}, {"concurrency": True}, {"concurrency": "3"}, {"rate": "often"}]
)
def test_an_invalid_limit_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="QueueOptions"):
        QueueOptions(**options)
