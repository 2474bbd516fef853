"""The worker: its loop, its limits, how it stops, and when a drain is over."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from relevo import (
    Ack,
    App,
    Call,
    Capabilities,
    DeadLetter,
    Delivery,
    Envelope,
    Event,
    Hooks,
    Nack,
    Outcome,
    Reason,
    Report,
    RunOptions,
    SystemClock,
    Worker,
    hookimpl,
    listener,
)
from relevo._worker.executor import SecondSignal
from relevo.errors import ConfigurationError
from relevo.testing import FakeClock
from relevo_memory import MemoryStore, MemoryTransport

from .working import DRAIN, PATIENCE, Handled, Slots, id_of

MakeEnvelope = Callable[..., Envelope]

MakeWorker = Callable[..., Worker]

Send = Callable[..., None]


# --- the loop ------------------------------------------------------------------------------------------


def test_it_handles_what_is_there_in_order_and_ends_when_nothing_is_left(
    transport: Any, send: Send, worker: MakeWorker
) -> None:
    send(20)
    handled = Handled()

    report = worker(handled, options=DRAIN).run()

    assert handled == [str(i) for i in range(20)]
    assert report == Report(handled=20, done=20, seconds=0.0, stopped_by="empty")
    assert transport.stats("default").leased == 0


def test_queues_are_preferred_in_their_order(transport: Any, envelope: MakeEnvelope, worker: MakeWorker) -> None:
    transport.send([envelope("slow", queue="slow"), envelope("quick", queue="quick")])
    handled = Handled()

    worker(handled, queues=["quick", "slow"], options=DRAIN).run()

    assert handled == ["quick", "slow"]


def test_batches_grow_and_are_settled_together(transport: Any, send: Send, worker: MakeWorker) -> None:
    send(63)

    worker(Handled(), options=DRAIN).run()

    assert [limit for limit, _ in transport.said("receive")][:6] == [1, 1, 2, 4, 8, 16]
    assert len(transport.said("settle")) < 5


def test_the_report_counts_by_outcome(send: Send, worker: MakeWorker) -> None:
    send(6)
    outcomes: dict[str, Outcome] = {
        "1": DeadLetter(reason="gave-up"),
        "2": DeadLetter(reason="gave-up"),
        "3": DeadLetter(reason="expired"),
        "4": Nack(delay=60),
    }

    report = worker(Handled(then=lambda delivery: outcomes.get(id_of(delivery))), options=DRAIN).run()

    assert (report.handled, report.done, report.retried, report.dead) == (6, 2, 1, 3)
    assert report.reasons == {"gave-up": 2, "expired": 1}


def test_what_becomes_ready_meanwhile_is_taken_too(
    transport: Any, send: Send, envelope: MakeEnvelope, worker: MakeWorker
) -> None:
    send(1)

    def dispatch_another(delivery: Delivery) -> None:
        if id_of(delivery) != "5":
            transport.send([envelope(str(int(id_of(delivery)) + 1))])

    handled = Handled(then=dispatch_another)

    worker(handled, options=DRAIN).run()

    assert handled == ["0", "1", "2", "3", "4", "5"]


def test_it_may_be_run_again_and_its_report_goes_on(send: Send, worker: MakeWorker) -> None:
    again = worker(Handled(), options=DRAIN)
    send(2)
    first = again.run()
    send(3)

    second = again.run()

    assert (first.done, second.done) == (2, 5)


# --- limits ----------------------------------------------------------------------------------------------


@given(events=st.integers(0, 40), most=st.integers(0, 40), failing=st.integers(0, 3), slots=st.integers(1, 4))
@settings(deadline=None)
def test_it_never_receives_more_than_it_may_handle(events: int, most: int, failing: int, slots: int) -> None:
    clock = FakeClock()
    transport = MemoryTransport(clock=clock)
    transport.send([Envelope(id=str(i), source="shop", name="image.created", body=b"") for i in range(events)])
    received = 0

    class _Counting(MemoryTransport):
        def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
            nonlocal received
            batch = super().receive(queues, limit=limit, lease=lease, wait=wait)
            received += len(batch)
            return batch

    worker = Worker(
        transport=_Counting(transport.store, clock=clock),
        handle=lambda delivery: Nack(delay=60) if int(id_of(delivery)) % 4 < failing else Ack(),
        queues=["default"],
        clock=clock,
        chance=lambda: 0.0,
        options=RunOptions(until_empty=True, max_events=most),
        executor=Slots(clock, slots),
        background=False,
    )

    report = worker.run()

    assert received == report.handled == min(events, most)
    assert report.stopped_by == ("events" if events >= most else "empty")
    assert transport.stats("default").leased == 0


def test_the_time_limit_gives_back_what_was_not_begun(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    send(30)
    handled = Handled(then=lambda _: clock.advance(0.125))

    report = worker(handled, options=RunOptions(max_seconds=1.25)).run()

    assert report.stopped_by == "time"
    assert report.handled == len(handled) == 10
    assert (transport.stats("default").ready, transport.stats("default").leased) == (20, 0)


class _Objecting:
    def __init__(self, after: int) -> None:
        self.left = after

    @hookimpl
    def relevo_may_run(self) -> str | None:
        self.left -= 1
        return "deploy" if self.left < 0 else None


def test_a_stop_that_waits_for_a_listener_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("relevo._worker.running._STOPS_WITHIN", 0.0)
    said = "stopping; waiting for slow on image.created"
    turns = iter(range(30_000))

    @listener("image.created", id="slow")
    def slow(event: Event) -> None:
        worker.stop()
        while said not in caplog.text and next(turns, None) is not None:
            time.sleep(0.01)
        worker._runs.keep_up(stopping=True)

    with App(transports={"main": MemoryTransport()}, listeners=[slow]) as app:
        app.dispatch(Event("image.created"))
        worker = app.worker()
        worker.run()

    assert caplog.text.count(said) == 1
    assert caplog.text.count("which has run for 0 s; a second TERM stops it at once") == 1


def test_an_objection_lets_it_finish_its_batch_and_take_nothing_more(
    transport: Any, send: Send, worker: MakeWorker
) -> None:
    send(20)

    report = worker(Handled(), hooks=Hooks([_Objecting(after=3)])).run()

    assert report.stopped_by == "objection"
    assert report.handled == 1 + 1 + 2
    assert transport.stats("default").leased == 0


def test_an_objection_is_heard_while_something_received_is_left_which_goes_back(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    send(20)
    objecting = _Objecting(after=1000)
    handled: list[Delivery] = []

    def handle(delivery: Delivery) -> Outcome:
        handled.append(delivery)
        if len(handled) == 1 + 1 + 2 + 4 + 1:  # the first of eight
            clock.advance(1.0)
            objecting.left = 0
        return Ack()

    report = worker(handle, hooks=Hooks([objecting])).run()

    assert (report.stopped_by, report.handled) == ("objection", 9)
    assert (transport.stats("default").ready, transport.stats("default").leased) == (11, 0)


# --- stopping ----------------------------------------------------------------------------------------------


def test_a_stop_finishes_what_runs_and_gives_the_rest_back_as_if_never_received(
    transport: Any, send: Send, worker: MakeWorker
) -> None:
    send(15)
    stopped = worker(Handled(then=lambda delivery: stopped.stop() if id_of(delivery) == "8" else None))

    report = stopped.run()

    assert report.stopped_by == "asked"
    assert report.done == 9
    rest = transport.receive(["default"], limit=99, lease=60.0, wait=0.0)
    assert [(id_of(delivery), delivery.attempt, delivery.lost_leases) for delivery in rest] == [
        (str(i), 1, 0) for i in range(9, 15)
    ]


def test_a_stop_before_it_runs_receives_nothing(transport: Any, send: Send, worker: MakeWorker) -> None:
    send(1)
    stopped = worker(Handled())

    stopped.stop()

    assert stopped.stopped
    assert stopped.run() == Report(stopped_by="asked")
    assert transport.said("receive") == []
    with pytest.raises(ConfigurationError, match=r"stopped cannot be run again; make a new one, as app.worker\(\)"):
        stopped.run()


class _Quiet(MemoryTransport):
    """The memory transport, which notes that a worker waits for an event."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        if wait:
            self.is_awaited.set()
        return super().receive(queues, limit=limit, lease=lease, wait=wait)

    @functools.cached_property
    def is_awaited(self) -> threading.Event:
        return threading.Event()


@pytest.fixture(name="idle")
def _idle() -> Iterator[tuple[Worker, threading.Thread]]:
    """Give a worker that waits for an event, and the thread in which it does."""
    with _Quiet() as transport:
        idle = Worker(
            transport=transport, handle=Handled(), queues=["default"], clock=SystemClock(), chance=lambda: 0.0
        )
        thread = threading.Thread(target=idle.run)
        thread.start()
        assert transport.is_awaited.wait(PATIENCE)
        yield idle, thread
        idle.stop()
        thread.join(PATIENCE)


@pytest.mark.lengthy("waits")
def test_an_idle_worker_hears_a_stop(idle: tuple[Worker, threading.Thread]) -> None:
    worker, thread = idle

    worker.stop()
    thread.join(PATIENCE)

    assert not thread.is_alive()


@pytest.mark.lengthy("waits")
def test_a_closed_transport_ends_an_idle_worker_without_an_error(idle: tuple[Worker, threading.Thread]) -> None:
    worker, thread = idle

    worker._transport.close()
    thread.join(PATIENCE)

    assert not thread.is_alive()  # an error in the thread would fail this test


@pytest.mark.usefixtures("idle")
def test_an_idle_worker_needs_next_to_no_processor() -> None:
    def needed() -> float:
        before = time.process_time()
        time.sleep(1.0)
        return time.process_time() - before

    assert any(needed() < 0.05 for _ in range(5))  # something else of this process may need some at times


def test_an_interrupt_ends_it_at_once_and_nothing_that_was_held_is_gone(
    transport: Any, send: Send, worker: MakeWorker
) -> None:
    def interrupt(delivery: Delivery) -> None:
        if id_of(delivery) == "8":
            raise KeyboardInterrupt(15)

    send(15)

    with pytest.raises(KeyboardInterrupt):
        worker(Handled(then=interrupt)).run()

    assert transport.stats("default").leased == 0
    rest = transport.receive(["default"], limit=99, lease=60.0, wait=0.0)
    attempts = {id_of(delivery): (delivery.attempt, delivery.lost_leases) for delivery in rest}
    assert attempts == {"8": (2, 1)} | {str(i): (1, 0) for i in range(9, 15)}


def test_a_listener_that_interrupts_every_worker_is_a_crash_loop_and_its_neighbours_are_done(
    transport: Any, send: Send, listen: Callable[..., None], worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    handled: list[str] = []

    def interrupt(event: object, call: Call) -> None:
        if call.event_id == "3":
            raise KeyboardInterrupt
        handled.append(call.event_id)

    listen(interrupt)
    send(6)

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            worker().run()
    told = [message for message in caplog.messages if "KeyboardInterrupt ended the run; this is crash" in message]
    assert ["1 of 3" in told[0], "2 of 3" in told[1], len(told)] == [True, True, 2]
    worker(options=RunOptions(until_empty=True)).run()

    (dead,) = transport.dead_letters(["default"], after=None, limit=9)
    assert dead.reason == Reason.CRASH_LOOP
    assert sorted(handled) == ["0", "1", "2", "4", "5"]


def test_a_second_signal_is_named_as_what_ended_the_run(
    transport: Any, send: Send, listen: Callable[..., None], worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupt(event: object) -> None:
        raise SecondSignal(15)

    listen(interrupt)
    send(1)

    with pytest.raises(SecondSignal):
        worker().run()

    assert "a second TERM or INT stopped the worker in the middle of it; this is crash 1 of 3" in caplog.text


@pytest.mark.parametrize("defect", [RuntimeError("a defect"), SystemExit(1)])
def test_a_defect_ends_it_and_costs_the_event_a_loss_and_the_others_nothing(
    defect: BaseException, transport: Any, send: Send, worker: MakeWorker
) -> None:
    def fail(delivery: Delivery) -> None:
        if id_of(delivery) == "8":
            raise defect

    send(15)

    with pytest.raises(type(defect)):
        worker(Handled(then=fail)).run()

    rest = transport.receive(["default"], limit=99, lease=60.0, wait=0.0)
    assert {id_of(delivery): delivery.lost_leases for delivery in rest} == {"8": 1} | {str(i): 0 for i in range(9, 15)}


# --- when a drain is over ------------------------------------------------------------------------------------


def test_a_drain_leaves_what_is_not_due(transport: Any, send: Send, worker: MakeWorker, clock: FakeClock) -> None:
    send(2, delay=5.0)
    began = clock.now()

    report = worker(Handled(), options=DRAIN).run()

    assert report.handled == 0
    assert clock.now() == began
    assert len(transport.said("receive")) == 1


def test_a_drain_that_settles_waits_for_what_comes_due_in_time_and_no_longer(
    transport: Any, envelope: MakeEnvelope, worker: MakeWorker, clock: FakeClock
) -> None:
    for delay in (2.0, 8.0, 31.0):
        transport.send([envelope(str(delay))], delay=delay)
    began = clock.now()
    handled = Handled()

    worker(handled, options=RunOptions(until_empty=True, settle=30.0)).run()

    assert handled == ["2.0", "8.0"]
    assert clock.now() - began == pytest.approx(30.0)
    assert len(transport.said("receive")) < 60


def test_a_drain_that_settles_counts_only_the_time_that_it_waited(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    def fail_once(delivery: Delivery) -> Outcome | None:
        clock.advance(15)
        return Nack(delay=2.0) if delivery.attempt == 1 else None

    send(3)

    report = worker(Handled(then=fail_once), options=RunOptions(until_empty=True, settle=5.0)).run()

    assert (report.done, report.retried) == (3, 3)


def test_a_drain_does_not_wait_for_ever_for_what_stands_behind_another_of_its_key(
    transport: Any, envelope: MakeEnvelope, worker: MakeWorker, clock: FakeClock
) -> None:
    transport.send([envelope("first", ordering_key="7"), envelope("second", ordering_key="7")])
    began = clock.now()

    report = worker(Handled(then=lambda _: Nack(delay=3600.0)), options=DRAIN).run()

    assert (report.handled, report.stopped_by) == (1, "empty")
    assert clock.now() - began <= 2.0


def test_a_drain_believes_an_empty_receive_where_there_are_no_stats(
    store: MemoryStore, clock: FakeClock, envelope: MakeEnvelope, worker: MakeWorker
) -> None:
    class _NoStats(MemoryTransport):
        capabilities = Capabilities(durability="process", lease="timed", extend=True, delay=0.001)

    with _NoStats(store, clock=clock) as transport:
        transport.send([envelope()])
        transport.send([envelope("later")], delay=5.0)

        at_once = worker(Handled(), transport=transport, options=DRAIN).run()
        settled = worker(Handled(), transport=transport, options=RunOptions(until_empty=True, settle=6.0)).run()

    assert (at_once.done, settled.done) == (1, 1)
