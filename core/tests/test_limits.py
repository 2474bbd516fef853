"""Limits of queues, which hold over all workers: how many events run at once, and how many begin in a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from relevo import Ack, App, Delivery, Event, Nack, QueueOptions, RunOptions, Worker, listener
from relevo._transport.limit import Limit, Rate
from relevo._worker.usage import unpacked
from relevo.errors import ConfigurationError, TransportUnavailableError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

from .working import DRAIN, PATIENCE, Handled, Slots, lose

ONE = RunOptions(max_events=1)
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

    requests = writes = 0
    is_down = False
    takes = 0.0
    """Seconds until a request is answered."""

    def change_limit(self, key: str, change: Callable[[bytes, float], bytes], *, ttl: float) -> None:
        self.requests += 1
        if self.is_down:
            raise TransportUnavailableError("limits", "it is down")
        super().change_limit(key, change, ttl=ttl)
        self.writes += 1
        self._clock.sleep(self.takes)


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


@pytest.mark.parametrize("window", [0.1, 1.0])
def test_a_rate_is_kept_although_each_answer_takes_long(
    limited: MakeWorker, send: Send, clock: FakeClock, counting: Counting, window: float
) -> None:
    send(30)
    counting.takes = 0.05
    handled = Started(clock)

    report = limited(handled, rate=Rate(5, window), coordinator=counting).run()

    assert report.done == 30
    assert most_within(handled.times, window) <= 5


def test_what_a_stopped_worker_did_not_begin_may_be_begun_by_another(limited: MakeWorker, send: Send) -> None:
    send(30)

    def stop(_: Delivery) -> None:
        if len(first) == 12:
            stopped.stop()

    first, second = Handled(then=stop), Handled()
    stopped = limited(first, rate=Rate(20, 3600.0))
    stopped.run()
    limited(second, rate=Rate(20, 3600.0)).run()

    assert (len(first), len(second)) == (12, 8)


def test_what_is_given_back_to_a_store_whose_answer_is_lost_is_not_given_back_again(
    limited: MakeWorker, send: Send, counting: Counting
) -> None:
    send(1)
    worker = limited(Handled(), rate=Rate(4, 3600.0), coordinator=counting, patient=True)
    limiter: Any = worker._limiter
    (gate,) = limiter._gates.values()
    limiter._ask(gate, 2)
    (part,) = [part for part, _ in unpacked(counting.store.limits._kept[gate.key][0]).begun]
    change = counting.change_limit

    def lose_answer(*arguments: Any, **how: Any) -> None:
        change(*arguments, **how)
        raise TransportUnavailableError("limits", "the answer is lost")

    gate.unused.append(part)
    counting.change_limit = lose_answer  # type: ignore[method-assign]
    limiter._ask(gate, 0)
    counting.change_limit = change  # type: ignore[method-assign]
    limiter._ask(gate, 0)

    assert unpacked(counting.store.limits._kept[gate.key][0]).begun == [(part, 1)]


def test_a_drain_that_waits_for_a_limit_looks_now_and_then(
    worker: MakeWorker, send: Send, clock: FakeClock, transport: MemoryTransport
) -> None:
    send(3, queue="slow")
    looks: list[float] = []
    receive = transport.receive

    def counted(*arguments: Any, **how: Any) -> Sequence[Delivery]:
        looks.append(clock.now())
        return receive(*arguments, **how)

    transport.receive = counted  # type: ignore[method-assign]

    report = worker(Handled(), queues=["slow", "free"], limits={"slow": Limit(rate=Rate(1, 1.0))}, options=DRAIN).run()

    assert report.done == 3
    assert len(looks) < 30


def test_a_limit_of_one_queue_does_not_end_the_patience_with_another(
    worker: MakeWorker, send: Send, clock: FakeClock, transport: MemoryTransport
) -> None:
    send(1, queue="slow")
    worker(Handled(), queues=["slow"], limits={"slow": Limit(rate=Rate(1, 3600.0))}, options=DRAIN).run()
    send(1, queue="slow")
    send(2, queue="free", ordering_key="a")
    (held,) = transport.receive(["free"], limit=1, lease=60.0, wait=0.0)
    sleep = clock.sleep

    def settled_meanwhile(seconds: float) -> None:
        sleep(seconds)
        transport.settle([(held, Ack())])

    clock.sleep = settled_meanwhile  # type: ignore[method-assign]

    report = worker(
        Handled(), queues=["slow", "free"], limits={"slow": Limit(rate=Rate(1, 3600.0))}, options=DRAIN
    ).run()

    assert report.done == 1


@pytest.fixture(name="closed")
def _closed(worker: MakeWorker, send: Send) -> MakeWorker:
    """Make workers of two queues, the first of which has reached its limit for an hour, and has an event."""
    limits = {"slow": Limit(rate=Rate(1, 3600.0))}
    send(2, queue="slow")
    worker(Handled(), queues=["slow"], limits=limits, options=DRAIN).run()
    return lambda handle, **how: worker(handle, **{"queues": ["slow", "default"], "limits": limits, **how})


def test_a_suspect_of_another_queue_is_not_left_behind(
    closed: MakeWorker, send: Send, clock: FakeClock, transport: MemoryTransport
) -> None:
    send(1)
    lose(transport, clock, 1)

    assert closed(Handled(), options=DRAIN).run().done == 1


def test_a_drain_still_waits_for_the_retries_of_other_queues(closed: MakeWorker, send: Send) -> None:
    send(1)
    handled = Handled(then=lambda each: Nack(delay=3.0) if each.attempt == 1 else None)

    report = closed(handled, options=RunOptions(until_empty=True, settle=20.0)).run()

    assert (report.retried, report.done) == (1, 1)


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


def test_a_worker_that_waits_writes_nothing(limited: MakeWorker, send: Send, counting: Counting) -> None:
    send(3)

    def wait(_: Delivery) -> None:
        before = counting.writes
        limited(Handled(), at_once=1, coordinator=counting).run()  # for two seconds
        written.append(counting.writes - before)

    written: list[int] = []
    limited(Handled(then=wait), at_once=1, coordinator=counting).run()

    assert written == [0, 0, 0]


def test_a_store_that_fails_in_the_middle_leaves_no_event_leased(
    limited: MakeWorker, send: Send, counting: Counting, clock: FakeClock, transport: MemoryTransport
) -> None:
    send(60)

    def fail(_: Delivery) -> None:
        if len(handled) == 20:
            counting.is_down = True
            clock.sleep(5.0)

    handled = Handled(then=fail)
    with pytest.raises(TransportUnavailableError, match="limits"):
        limited(handled, rate=Rate(1000, 1.0), coordinator=counting).run()

    stats = transport.stats("default")
    assert (len(handled), stats.ready, stats.leased) == (20, 40, 0)


def test_places_are_renewed_soon_after_an_outage(
    limited: MakeWorker, send: Send, counting: Counting, clock: FakeClock
) -> None:
    send(1)
    left: list[float] = []

    def renew(_: Delivery) -> None:
        limiter: Any = serving._limiter
        for seconds, counting.is_down in ((21.0, True), (1.1, False)):  # the first is a third of the lease
            clock.sleep(seconds)
            limiter.keep_up()
        ((stored, _until),) = counting.store.limits._kept.values()
        ((_places, until),) = unpacked(stored).held.values()
        left.append(until - clock.now())

    serving = limited(Handled(then=renew), at_once=1, coordinator=counting, patient=True, lease=60.0, options=ONE)
    serving.run()

    assert left == [pytest.approx(60.0, abs=0.1)]


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
    assert "queues with a limit wait (slow), since it cannot be checked" in caplog.text


def test_a_store_that_hangs_holds_up_no_other_queue(
    worker: MakeWorker, send: Send, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relevo._worker.limiter._AT_MOST", 0.05)
    send(1, queue="slow")
    send(20, queue="quick")
    answers = threading.Event()
    change = counting.change_limit

    def hang(*arguments: Any, **how: Any) -> None:
        answers.wait(PATIENCE)
        change(*arguments, **how)

    counting.change_limit = hang  # type: ignore[method-assign]

    def handle(_: Delivery) -> None:
        if len(handled) == 20:
            answers.set()
        if len(handled) == 21:
            serving.stop()

    handled = Handled(then=handle)
    limits = {"slow": Limit(concurrency=1)}
    serving = worker(handled, queues=["slow", "quick"], limits=limits, coordinator=counting, patient=True)
    report = serving.run()

    assert report.done == 21


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


@pytest.mark.parametrize(
    ("options", "first"),
    [
        (QueueOptions(concurrency=2), 12),
        (QueueOptions(rate="5/m"), 5),
        (QueueOptions(concurrency=2, rate="5/m"), 5),
        (QueueOptions(concurrency=4, rate="5/m"), 5),
    ],
)
def test_in_a_test_all_is_handled_that_the_limit_allows_at_that_time(
    make: Callable[..., App], options: QueueOptions, first: int
) -> None:
    @listener("mail.sent")
    def send(event: Event) -> None: ...

    app = make(send, queues={"default": options})
    with app.testing() as t:
        app.dispatch_many([Event("mail.sent") for _ in range(12)])
        done = [t.drain().done, t.drain().done]

    assert done == [first, 0]


def test_a_transport_that_cannot_count_needs_a_coordinator(worker: MakeWorker) -> None:
    with pytest.raises(
        ConfigurationError, match="the limit of default needs a coordinator that counts for all workers"
    ):
        worker(Handled(), limits={"default": Limit(concurrency=1)}, coordinator=None)


@pytest.mark.parametrize(
    "options", [{"concurrency": 0}, {"concurrency": True}, {"concurrency": "3"}, {"rate": "often"}]
)
def test_an_invalid_limit_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="QueueOptions"):
        QueueOptions(**options)
