from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
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
    Executor,
    Hooks,
    Nack,
    Outcome,
    Reason,
    Report,
    RunOptions,
    Settlement,
    Stats,
    SystemClock,
    Worker,
    hookimpl,
    listener,
)
from relevo._worker.executor import SecondSignal
from relevo._worker.stall import StalledError
from relevo._worker.worker import GRACE
from relevo.errors import ConfigurationError, SettleError, TransportClosedError, TransportUnavailableError
from relevo.testing import FakeClock
from relevo.testing._clock import StandingClock
from relevo_memory import MemoryStore, MemoryTransport

MakeEnvelope = Callable[..., Envelope]
MakeWorker = Callable[..., Worker]
DRAIN = RunOptions(until_empty=True)
DOWN = TransportUnavailableError("main", "down")
WRONG = ConfigurationError("no such user")
PATIENCE = 300.0


def _id(delivery: Delivery) -> str:
    assert isinstance(delivery.envelope, Envelope)
    return delivery.envelope.id


class _Handled(list[str]):
    """A handle that notes what it is given and is done with it, unless told otherwise."""

    def __init__(self, *, then: Callable[[Delivery], Outcome | None] = lambda _: None) -> None:
        super().__init__()
        self.then = then

    def __call__(self, delivery: Delivery) -> Outcome:
        self.append(_id(delivery))
        return self.then(delivery) or Ack()


@pytest.fixture(name="send")
def _send(transport: Any, envelope: MakeEnvelope) -> Callable[..., None]:
    """Send so many events, called 0, 1, 2 and so on."""

    def send(number: int, *, delay: float = 0.0, **fields: Any) -> None:
        transport.send([envelope(str(i), **fields) for i in range(number)], delay=delay)

    return send


Send = Callable[..., None]


class _OverAConnection(MemoryTransport):
    """The memory transport, whose leases end together as those of a connection do."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, lease="connection", extend=False)

    def lose_all(self) -> None:
        """Lose the connection, and with it all leases."""
        self._clock.sleep(61)


# --- the loop ------------------------------------------------------------------------------------------


def test_it_handles_what_is_there_in_order_and_ends_when_nothing_is_left(
    transport: Any, send: Send, worker: MakeWorker
) -> None:
    send(20)
    handled = _Handled()

    report = worker(handled, options=DRAIN).run()

    assert handled == [str(i) for i in range(20)]
    assert report == Report(handled=20, done=20, seconds=0.0, stopped_by="empty")
    assert transport.stats("default").leased == 0


def test_queues_are_preferred_in_their_order(transport: Any, envelope: MakeEnvelope, worker: MakeWorker) -> None:
    transport.send([envelope("slow", queue="slow"), envelope("quick", queue="quick")])
    handled = _Handled()

    worker(handled, queues=["quick", "slow"], options=DRAIN).run()

    assert handled == ["quick", "slow"]


def test_batches_grow_and_are_settled_together(transport: Any, send: Send, worker: MakeWorker) -> None:
    send(63)

    worker(_Handled(), options=DRAIN).run()

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

    report = worker(_Handled(then=lambda delivery: outcomes.get(_id(delivery))), options=DRAIN).run()

    assert (report.handled, report.done, report.retried, report.dead) == (6, 2, 1, 3)
    assert report.reasons == {"gave-up": 2, "expired": 1}


def test_what_becomes_ready_meanwhile_is_taken_too(
    transport: Any, send: Send, envelope: MakeEnvelope, worker: MakeWorker
) -> None:
    send(1)

    def dispatch_another(delivery: Delivery) -> None:
        if _id(delivery) != "5":
            transport.send([envelope(str(int(_id(delivery)) + 1))])

    handled = _Handled(then=dispatch_another)

    worker(handled, options=DRAIN).run()

    assert handled == ["0", "1", "2", "3", "4", "5"]


def test_it_may_be_run_again_and_its_report_goes_on(send: Send, worker: MakeWorker) -> None:
    again = worker(_Handled(), options=DRAIN)
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
        handle=lambda delivery: Nack(delay=60) if int(_id(delivery)) % 4 < failing else Ack(),
        queues=["default"],
        clock=clock,
        chance=lambda: 0.0,
        options=RunOptions(until_empty=True, max_events=most),
        executor=_Slots(clock, slots),
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
    handled = _Handled(then=lambda _: clock.advance(0.125))

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

    report = worker(_Handled(), hooks=Hooks([_Objecting(after=3)])).run()

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
    stopped = worker(_Handled(then=lambda delivery: stopped.stop() if _id(delivery) == "8" else None))

    report = stopped.run()

    assert report.stopped_by == "asked"
    assert report.done == 9
    rest = transport.receive(["default"], limit=99, lease=60.0, wait=0.0)
    assert [(_id(delivery), delivery.attempt, delivery.lost_leases) for delivery in rest] == [
        (str(i), 1, 0) for i in range(9, 15)
    ]


def test_a_stop_before_it_runs_receives_nothing(transport: Any, send: Send, worker: MakeWorker) -> None:
    send(1)
    stopped = worker(_Handled())

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
            transport=transport, handle=_Handled(), queues=["default"], clock=SystemClock(), chance=lambda: 0.0
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
        if _id(delivery) == "8":
            raise KeyboardInterrupt(15)

    send(15)

    with pytest.raises(KeyboardInterrupt):
        worker(_Handled(then=interrupt)).run()

    assert transport.stats("default").leased == 0
    rest = transport.receive(["default"], limit=99, lease=60.0, wait=0.0)
    attempts = {_id(delivery): (delivery.attempt, delivery.lost_leases) for delivery in rest}
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
        if _id(delivery) == "8":
            raise defect

    send(15)

    with pytest.raises(type(defect)):
        worker(_Handled(then=fail)).run()

    rest = transport.receive(["default"], limit=99, lease=60.0, wait=0.0)
    assert {_id(delivery): delivery.lost_leases for delivery in rest} == {"8": 1} | {str(i): 0 for i in range(9, 15)}


# --- suspects ------------------------------------------------------------------------------------------------


def _lose(transport: Any, clock: FakeClock, number: int, *, times: int = 1) -> None:
    """Let somebody receive so many events and die, so often."""
    for _ in range(times):
        MemoryTransport.receive(transport, ["default"], limit=number, lease=60.0, wait=0.0)
        clock.advance(61)


def test_a_suspect_is_handled_alone_nothing_else_begun_running_or_unflushed(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock, envelope: MakeEnvelope
) -> None:
    send(10)
    _lose(transport, clock, 3)
    transport.send([envelope(f"new-{i}") for i in range(20)])
    leased: dict[str, int | None] = {}
    lost_leases: dict[str, int] = {}

    def look(delivery: Delivery) -> None:
        leased[_id(delivery)] = transport.stats("default").leased
        lost_leases[_id(delivery)] = delivery.lost_leases

    handled = _Handled(then=look)

    worker(handled, options=DRAIN).run()

    assert sorted(handled) == sorted([*map(str, range(10)), *(f"new-{i}" for i in range(20))])
    assert {event: leased[event] for event, lost in lost_leases.items() if lost} == {"0": 1, "1": 1, "2": 1}
    assert set(lost_leases.values()) == {0, 1}


def test_what_was_received_beside_a_suspect_goes_back_uncounted(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    send(40)
    received = MemoryTransport.receive(transport, ["default"], limit=40, lease=60.0, wait=0.0)
    clock.advance(1)
    MemoryTransport.extend(transport, [*received[:20], *received[21:]], lease=1000.0)
    clock.advance(60)  # the lease of number 20 has ended
    MemoryTransport.settle(transport, [(delivery, Nack()) for delivery in [*received[:20], *received[21:]]])
    attempts: dict[str, tuple[int, int]] = {}
    handled = _Handled(then=lambda delivery: attempts.update({_id(delivery): (delivery.attempt, delivery.lost_leases)}))

    worker(handled, options=DRAIN).run()

    assert attempts.pop("20") == (2, 1)
    assert set(attempts.values()) == {(2, 0)}


def test_many_suspects_cost_no_more_than_one_round_each(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    send(100)
    _lose(transport, clock, 100)
    transport.calls.clear()

    report = worker(_Handled(), options=DRAIN).run()

    assert report.done == 100
    assert len(transport.said("receive")) <= 102 + 9  # it does not know at first that there is nothing else
    assert sum(len(settlements) for settlements in transport.said("settle")) <= 2 * 101


@given(
    deadly=st.integers(1, 6), others=st.integers(0, 20), slots=st.integers(1, 3), starts_in=st.sampled_from([0.0, 10.0])
)
@settings(deadline=None)
def test_a_drain_that_dies_of_a_suspect_has_done_everything_else_before(
    deadly: int, others: int, slots: int, starts_in: float
) -> None:
    clock = FakeClock()
    transport = MemoryTransport(clock=clock)

    def send(name: str, number: int) -> None:
        ids = [f"{name}-{each}" for each in range(number)]
        transport.send([Envelope(id=each, source="shop", name="image.created", body=b"") for each in ids])

    send("deadly", deadly)
    _lose(transport, clock, deadly)
    send("new", others)
    handled: list[str] = []

    def handle(delivery: Delivery) -> Outcome:
        handled.append(_id(delivery))
        if _id(delivery).startswith("deadly"):
            raise KeyboardInterrupt
        return Ack()

    drain = Worker(
        transport=transport,
        handle=handle,
        queues=["default"],
        clock=clock,
        chance=lambda: 0.0,
        options=DRAIN,
        executor=_Slots(clock, slots),
        background=False,
        prepare=lambda: clock.sleep(starts_in),
    )

    with pytest.raises(KeyboardInterrupt):
        drain.run()

    assert handled[:-1] == [f"new-{each}" for each in range(others)]
    assert handled[-1].startswith("deadly")


def test_where_the_clock_stands_a_suspect_is_handled_all_the_same(envelope: MakeEnvelope) -> None:
    clock = StandingClock()
    transport = MemoryTransport(clock=clock)
    transport.send([envelope("0")])
    _lose(transport, clock, 1)
    transport.send([envelope("new-0")])

    with App(transports={"main": transport}, clock=clock, routes={"*": "main"}) as app:
        app.add_listener("image.created", lambda event: None, id="one")
        report = app.drain()

    assert report.done == 2


def test_suspects_are_given_back_if_what_else_is_ready_cannot_be_looked_up(
    worker: MakeWorker, clock: FakeClock, envelope: MakeEnvelope
) -> None:
    class Flaky(MemoryTransport):
        faults = 1

        def stats(self, queue: str) -> Stats:
            self.faults -= 1
            if self.faults == 0:
                raise TransportUnavailableError("main", "gone")
            return super().stats(queue)

    transport = Flaky(clock=clock)
    transport.send([envelope("0"), envelope("1")])
    _lose(transport, clock, 2)

    report = worker(_Handled(), options=DRAIN, patient=True, transport=transport).run()

    assert (report.done, report.unsettled) == (2, 0)


@pytest.mark.parametrize("suspects", [2, 12])
def test_a_drain_waits_for_others_that_are_on_their_way_behind_several_suspects(
    worker: MakeWorker, clock: FakeClock, envelope: MakeEnvelope, suspects: int
) -> None:
    class OneByOne(MemoryTransport):
        """Its figures are not known, and the other event arrives after the last suspect."""

        capabilities = attrs.evolve(MemoryTransport.capabilities, stats="none")
        suspects = 0
        is_sent = False

        def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
            if self.suspects == suspects and not self.is_sent:
                self.is_sent = True
                self.send([envelope("new")])
            found = super().receive(queues, limit=1, lease=lease, wait=wait)
            self.suspects += sum(each.lost_leases > 0 for each in found)
            return found

    transport = OneByOne(clock=clock)
    names = [f"{number:02}" for number in range(suspects)]
    MemoryTransport.send(transport, [envelope(name) for name in names])
    _lose(transport, clock, suspects)
    transport.suspects = 0
    handled = _Handled()

    worker(handled, options=DRAIN, transport=transport).run()

    assert handled == ["new", *names]


def test_suspects_are_set_aside_for_half_of_the_time_at_most(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock, envelope: MakeEnvelope
) -> None:
    send(1)
    _lose(transport, clock, 1)
    transport.send([envelope("new-0")])
    handled = _Handled()

    def more(delivery: Delivery) -> None:
        transport.send([envelope(f"new-{len(handled)}")])
        clock.sleep(1)

    handled.then = more

    worker(handled, options=attrs.evolve(DRAIN, max_seconds=20.0)).run()

    assert 8 <= handled.index("0") <= 13


def test_a_suspect_waits_until_a_failed_settlement_is_through(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock, envelope: MakeEnvelope
) -> None:
    transport.send([envelope("suspect")], delay=1.0)
    clock.advance(1.0)
    _lose(transport, clock, 1)
    received: list[Delivery] = []
    leased: list[int | None] = []

    def look(delivery: Delivery) -> None:
        received.append(delivery)
        if _id(delivery) == "first":
            transport.fail("settle", SettleError("main", unsettled=[delivery], why="full"), times=2)
        else:
            leased.append(transport.stats("default").leased)

    transport.send([envelope("first", urgency="high")])

    worker(_Handled(then=look), options=DRAIN).run()

    assert [_id(delivery) for delivery in received] == ["first", "suspect"]
    assert leased == [1]


# --- the server is down ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["receive", "settle", "stats"])
def test_a_worker_that_is_not_patient_raises_when_the_server_is_down(
    operation: str, transport: Any, send: Send, worker: MakeWorker
) -> None:
    send(3)
    transport.fail(operation, DOWN)

    with pytest.raises(TransportUnavailableError):
        worker(_Handled(), options=DRAIN).run()

    assert transport.stats("default").leased == 0


@pytest.mark.parametrize("operation", ["receive", "settle", "stats", "checkpoint"])
@pytest.mark.parametrize("done", [False, True])
def test_a_patient_worker_outlasts_an_outage_wherever_it_meets_it(
    operation: str,
    done: bool,  # noqa: FBT001
    transport: Any,
    send: Send,
    worker: MakeWorker,
    listen: Callable[..., None],
    clock: FakeClock,
) -> None:
    called: list[str] = []
    listen(lambda _: called.append("a"), id="a")
    listen(lambda _: called.append("b"), id="b")
    send(9)
    transport.fail(operation, DOWN, times=3, done=done)

    worker(patient=True, options=DRAIN).run()
    clock.advance(61)  # what was received when the answer got lost comes back
    worker(patient=True, options=DRAIN).run()

    assert sorted(called) == ["a"] * 9 + ["b"] * 9
    stats = transport.stats("default")
    assert (stats.ready, stats.leased, stats.scheduled, stats.dead) == (0, 0, 0, 0)


def test_the_waits_of_an_outage_grow_to_seconds_and_one_line_a_minute_tells_of_it(
    transport: Any, worker: MakeWorker, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    transport.fail("receive", DOWN, times=100)
    began = clock.now()

    worker(patient=True, chance=lambda: 1.0, options=RunOptions(until_empty=True)).run()

    took = clock.now() - began
    assert took == pytest.approx(0.1 + 0.2 + 0.4 + 0.8 + 1.6 + 95 * 3.0)
    assert len(caplog.records) == 1 + took // 60


def test_the_end_of_an_outage_is_logged_with_its_length(
    transport: Any, worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    transport.fail("receive", TransportUnavailableError(transport.name, "down"), times=6)

    worker(patient=True, chance=lambda: 1.0, options=RunOptions(until_empty=True)).run()

    assert caplog.text.count(f'the transport "{transport.name}" is back after 6.1 s') == 1


def test_an_outage_is_sat_out_for_no_longer_than_a_limit_of_time(
    transport: Any, worker: MakeWorker, clock: FakeClock
) -> None:
    transport.fail("receive", DOWN, times=100)
    began = clock.now()

    report = worker(patient=True, chance=lambda: 1.0, options=RunOptions(max_seconds=10.0)).run()

    assert report.stopped_by == "time"
    assert clock.now() - began == pytest.approx(10.0)


@pytest.mark.parametrize("operation", ["receive", "settle", "stats"])
def test_a_configuration_error_after_the_first_receive_is_an_outage_that_is_logged_once_a_minute(
    operation: str, transport: Any, send: Send, worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    send(3)
    handled = _Handled(then=lambda _: transport.fail(operation, WRONG, times=50) if len(handled) == 1 else None)

    report = worker(handled, patient=True, options=DRAIN).run()

    assert report.done == 3
    told = [
        record.message for record in caplog.records if "it worked before, and fails now: no such user" in record.message
    ]
    assert len(told) in ((2, 3) if operation == "receive" else (1,))  # 50 tries, up to 3 seconds apart


def test_an_outage_that_comes_and_goes_is_logged_once_a_minute(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Delivery) -> None:
        transport.fail("settle", DOWN)
        clock.advance(1.0)

    send(100)

    worker(_Handled(then=fail), patient=True, options=DRAIN).run()

    assert len(caplog.records) == 2


def test_a_configuration_error_at_the_first_receive_ends_it(transport: Any, worker: MakeWorker) -> None:
    transport.fail("receive", WRONG)

    with pytest.raises(ConfigurationError):
        worker(patient=True).run()


@pytest.mark.parametrize("operation", ["receive", "settle", "stats"])
def test_one_that_is_not_patient_tells_a_configuration_error_after_the_first_receive_as_an_outage(
    operation: str, transport: Any, send: Send, worker: MakeWorker
) -> None:
    send(3)

    with pytest.raises(TransportUnavailableError, match="it worked before, and fails now: no such user"):
        worker(_Handled(then=lambda _: transport.fail(operation, WRONG)), options=DRAIN).run()


def test_with_a_time_limit_every_call_is_told_how_long_it_may_take(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    told: list[float | None] = []
    transport.hurry = lambda seconds: told.append(seconds if seconds is None else clock.monotonic() + seconds)
    began = clock.monotonic()
    send(4)

    report = worker(
        _Handled(then=lambda delivery: clock.advance(30.0 if _id(delivery) == "2" else 1.0)),
        options=RunOptions(max_seconds=10.0),
    ).run()

    assert report.stopped_by == "time"
    assert report.done == 3
    *moments, last = told
    assert last is None
    assert set(moments) - {None} == {began + 10.0 + GRACE, began + 32.0 + GRACE}


def test_the_time_limit_does_not_apply_to_the_calls_of_a_listener_nor_to_those_of_other_threads(
    transport: Any, other: Any, send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    limits: dict[str, dict[int, float | None]] = {"main": {}, "other": {}}
    for store, told in zip((transport, other), limits.values(), strict=True):
        store.hurry = lambda seconds, told=told: told.update({threading.get_ident(): seconds})
    seen: list[float | None] = []

    def handle(delivery: Delivery) -> None:
        clock.advance(60.0)
        seen.extend(told.get(threading.get_ident()) for told in limits.values())

    send(1)
    receive, settle = transport.receive, transport.settle
    limited: list[float | None] = []

    def noted(call: Callable[..., Any]) -> Callable[..., Any]:
        def do(*arguments: Any, **options: Any) -> Any:
            limited.append(limits["main"][threading.get_ident()])
            return call(*arguments, **options)

        return do

    transport.receive, transport.settle = noted(receive), noted(settle)

    worker(_Handled(then=handle), options=RunOptions(max_seconds=10.0), limited=[other]).run()

    assert seen == [None, None]
    assert limited == [10.0 + GRACE, GRACE]


def test_what_could_not_be_settled_is_in_the_report(transport: Any, send: Send, worker: MakeWorker) -> None:
    send(1)
    transport.fail("settle", DOWN, times=1000)

    report = worker(_Handled(), patient=True, options=RunOptions(max_seconds=10.0)).run()

    assert report.unsettled == 1


def test_a_lost_connection_gives_up_what_was_received_over_it_and_not_begun(
    store: MemoryStore, envelope: MakeEnvelope, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    with _OverAConnection(store, clock=clock) as transport:
        transport.send([envelope(str(i)) for i in range(200)])
        handled: list[str] = []

        def handle(delivery: Delivery) -> Outcome:
            handled.append(_id(delivery))
            clock.advance(0.002)
            if len(handled) == 150:
                transport.lose_all()
            return Ack()

        Worker(
            transport=transport,
            handle=handle,
            queues=["default"],
            clock=clock,
            chance=lambda: 1.0,
            options=DRAIN,
            background=False,
        ).run()

    assert set(handled) == {str(i) for i in range(200)}
    assert len(handled) - 200 <= 2 * 6  # those of the flush that failed, and of the one that found it
    lost, again = caplog.records
    assert "the connection that held them was lost" in lost.message
    assert "is handled again, alone, after 1 lost lease" in again.message


def test_a_call_that_the_time_limit_cut_short_ends_the_run_as_out_of_time(worker: MakeWorker, clock: FakeClock) -> None:
    class Busy(MemoryTransport):
        takes = 11.0

        def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
            self._clock.sleep(self.takes)
            raise TransportUnavailableError(self.name, "no answer in the 0 s that were left", hurried=True)

    transport = Busy(clock=clock)
    options = attrs.evolve(DRAIN, max_seconds=5.0)

    report = worker(transport=transport, options=options).run()
    transport.takes = 1.0
    with pytest.raises(TransportUnavailableError):
        worker(transport=transport, options=options).run()

    assert (report.stopped_by, report.unsettled) == ("time", 0)


def test_a_connection_that_was_lost_before_the_time_was_up_ends_the_run_as_an_outage(
    store: MemoryStore, worker: MakeWorker, envelope: MakeEnvelope, clock: FakeClock
) -> None:
    class Silent(_OverAConnection):
        is_silent = False

        def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
            if self.is_silent:
                self._clock.sleep(11.0)
                raise TransportUnavailableError(self.name, "no answer in the 0 s that were left", hurried=True)
            return super().receive(queues, limit=limit, lease=lease, wait=wait)

    with Silent(store, clock=clock) as transport:
        transport.send([envelope("1"), envelope("2")])

        def handle(delivery: Delivery) -> Outcome:
            if _id(delivery) == "2":  # while the outcome of the first waits to be settled
                transport.lose_all()
                transport.is_silent = True
            return Ack()

        with pytest.raises(TransportUnavailableError, match="no answer"):
            worker(handle, transport=transport, options=attrs.evolve(DRAIN, max_seconds=65.0)).run()


def test_a_stop_is_heard_in_an_outage(transport: Any, worker: MakeWorker, clock: FakeClock) -> None:
    transport.fail("receive", DOWN, times=10**6)
    stopped = worker(patient=True)
    sleep = clock.sleep
    clock.sleep = lambda seconds: stopped.stop() if clock.now() > 1_767_225_660 else sleep(seconds)  # type: ignore[method-assign]

    assert stopped.run().stopped_by == "asked"


def test_a_closed_transport_ends_it_as_a_stop_does(
    transport: Any, send: Send, worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    send(3)

    report = worker(_Handled(then=lambda _: transport.close()), patient=True).run()

    assert (report.stopped_by, report.handled, report.unsettled) == ("asked", 0, 1)
    assert 'the transport "memory" is closed, so the worker ends' in caplog.messages
    with pytest.raises(TransportClosedError):
        worker(_Handled()).run()


def test_a_closed_transport_ends_an_idle_worker_without_an_error(idle: tuple[Worker, threading.Thread]) -> None:
    worker, thread = idle

    worker._transport.close()
    thread.join(PATIENCE)

    assert not thread.is_alive()  # an error in the thread would fail this test


def test_what_can_never_be_settled_ends_it_and_the_rest_goes_back(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    def refuse(delivery: Delivery) -> None:
        if _id(delivery) == "0":
            transport.fail("settle", SettleError("main", unsettled=[delivery], why="full"), times=99)

    send(1)
    began = clock.now()

    with pytest.raises(SettleError):
        worker(_Handled(then=refuse)).run()

    assert 4 < clock.now() - began < 20
    assert len(transport.said("receive")) < 50


def test_a_patient_worker_goes_on_with_the_others_while_one_cannot_be_settled_and_logs_it_once_a_minute(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    settle = type(transport).settle
    full = True

    def settled(settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        stuck = [delivery for delivery, _ in settlements if full and _id(delivery) == "0"]
        lost: Sequence[Delivery] = settle(transport, [entry for entry in settlements if entry[0] not in stuck])
        if stuck:
            raise SettleError("main", lost=lost, unsettled=stuck, why="an alarm")
        return lost

    transport.settle = settled
    send(1)
    began = clock.now()
    handled = _Handled()
    patient = worker(handled, patient=True, lease=1000.0, options=RunOptions(max_seconds=150.0))
    sleep = clock.sleep

    def go_on(seconds: float) -> None:
        nonlocal full
        if len(handled) < 5 and clock.now() - began > 20.0 * len(handled):
            send_one(str(len(handled)))
        full = clock.now() - began < 130.0
        sleep(seconds)

    def send_one(name: str) -> None:
        transport.send([attrs.evolve(first, id=name)])

    first = transport.receive(["default"], limit=1, lease=0.0, wait=0.0)[0].envelope
    clock.sleep = go_on  # type: ignore[method-assign]

    report = patient.run()

    assert report.done == 5
    assert report.unsettled == 0
    assert len([record for record in caplog.records if "could not settle" in record.message]) == 3


@pytest.mark.parametrize("options", [DRAIN, RunOptions(max_seconds=10)])
def test_a_settlement_that_fails_for_a_while_is_waited_for_without_spinning(
    options: RunOptions, transport: Any, send: Send, worker: MakeWorker
) -> None:
    def refuse(delivery: Delivery) -> None:
        transport.fail("settle", SettleError("main", unsettled=[delivery], why="full"), times=3)

    send(1)

    report = worker(_Handled(then=refuse), options=options).run()

    assert report.done == 1
    assert len(transport.said("settle")) <= 5
    assert len(transport.said("receive")) < 250


# --- when a drain is over ------------------------------------------------------------------------------------


def test_a_drain_leaves_what_is_not_due(transport: Any, send: Send, worker: MakeWorker, clock: FakeClock) -> None:
    send(2, delay=5.0)
    began = clock.now()

    report = worker(_Handled(), options=DRAIN).run()

    assert report.handled == 0
    assert clock.now() == began
    assert len(transport.said("receive")) == 1


def test_a_drain_that_settles_waits_for_what_comes_due_in_time_and_no_longer(
    transport: Any, envelope: MakeEnvelope, worker: MakeWorker, clock: FakeClock
) -> None:
    for delay in (2.0, 8.0, 31.0):
        transport.send([envelope(str(delay))], delay=delay)
    began = clock.now()
    handled = _Handled()

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

    report = worker(_Handled(then=fail_once), options=RunOptions(until_empty=True, settle=5.0)).run()

    assert (report.done, report.retried) == (3, 3)


def test_a_drain_does_not_wait_for_ever_for_what_stands_behind_another_of_its_key(
    transport: Any, envelope: MakeEnvelope, worker: MakeWorker, clock: FakeClock
) -> None:
    transport.send([envelope("first", ordering_key="7"), envelope("second", ordering_key="7")])
    began = clock.now()

    report = worker(_Handled(then=lambda _: Nack(delay=3600.0)), options=DRAIN).run()

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

        at_once = worker(_Handled(), transport=transport, options=DRAIN).run()
        settled = worker(_Handled(), transport=transport, options=RunOptions(until_empty=True, settle=6.0)).run()

    assert (at_once.done, settled.done) == (1, 1)


# --- leases -----------------------------------------------------------------------------------------------------


def _eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


@pytest.mark.lengthy("waits")
def test_leases_are_renewed_while_a_listener_is_busy(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    def be_busy(_: Delivery) -> None:
        for _hour in range(6):
            seen = len(transport.said("extend"))
            clock.advance(20)
            _eventually(lambda seen=seen: len(transport.said("extend")) > seen)  # type: ignore[misc]

    send(3)

    report = worker(_Handled(then=be_busy), background=True, options=DRAIN).run()

    assert report.done == 3
    assert caplog.records == []


def test_what_was_lost_before_it_was_begun_is_left_to_who_has_it_now(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    def oversleep(delivery: Delivery) -> None:
        if _id(delivery) == "4" and delivery.attempt == 1:
            clock.advance(61)
            _eventually(lambda: "was lost" in caplog.text)

    send(8)
    handled = _Handled(then=oversleep)

    worker(handled, background=True, options=RunOptions(max_events=8)).run()

    assert transport.said("receive")[3][0] == 4  # what stood behind it was received with it
    assert [handled.count(event) for event in "4567"] == [1, 1, 1, 1]
    assert "was no longer held when it was settled" in caplog.text


def test_what_is_finished_is_settled_while_the_next_listener_runs(store: MemoryStore, envelope: MakeEnvelope) -> None:
    with MemoryTransport(store) as transport:
        transport.send([envelope(str(i)) for i in range(7)])

        def wait_for_the_others(delivery: Delivery) -> None:
            if _id(delivery) == "5":
                _eventually(lambda: transport.stats("default").leased == 2)  # itself and the one behind it

        handled = _Handled(then=wait_for_the_others)
        Worker(
            transport=transport,
            handle=handled,
            queues=["default"],
            clock=SystemClock(),
            chance=lambda: 0.0,
            options=DRAIN,
        ).run()

    assert len(handled) == 7


@pytest.mark.lengthy("waits")
def test_the_keeper_outlives_whatever_it_meets(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    def be_busy(delivery: Delivery) -> None:
        transport.fail("extend", RuntimeError("a defect of the driver"))
        for _ in range(2):
            seen = len(transport.said("extend"))
            clock.advance(20)
            _eventually(lambda seen=seen: len(transport.said("extend")) > seen)  # type: ignore[misc]

    send(1)

    assert worker(_Handled(then=be_busy), background=True, options=DRAIN).run().done == 1


def test_nothing_runs_beside_a_worker_that_ended(send: Send, worker: MakeWorker) -> None:
    send(1)
    before = set(threading.enumerate())  # others of this process may still be at their mails

    worker(_Handled(), background=True, options=DRAIN).run()

    left = set(threading.enumerate()) - before
    assert [thread.name for thread in left if thread.name.startswith("relevo")] == []


# --- hooks ------------------------------------------------------------------------------------------------------


class _Watch:
    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = transport
        self.dead: list[tuple[str, str, int | None]] = []
        self.runs: list[tuple[str, Sequence[str], bool]] = []

    @hookimpl
    def relevo_dead_lettered(self, delivery: Delivery, outcome: DeadLetter) -> None:
        self.dead.append((_id(delivery), outcome.reason, self.transport.stats("default").dead))
        raise RuntimeError("a broken plugin")

    @hookimpl
    def relevo_around_run(self, transport: str, queues: Sequence[str], until_empty: bool) -> None:  # noqa: FBT001 - by name
        self.runs.append((transport, queues, until_empty))


def test_a_dead_letter_is_told_after_it_was_kept_and_only_if_it_was(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    def die(delivery: Delivery) -> Outcome:
        if delivery.attempt == 1:
            clock.advance(61)  # the lease is over
        return DeadLetter(reason="gave-up")

    watch = _Watch(transport)
    send(1)

    worker(_Handled(then=die), hooks=Hooks([watch]), options=DRAIN).run()

    assert watch.dead == [("0", "gave-up", 1)]
    assert caplog.text.count("is dead: gave-up") == 1
    assert caplog.text.count("was no longer held") == 1
    assert watch.runs == [("memory", ("default",), True)]


def test_lost_leases_harm_no_event_that_ended_no_process(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock, listen: Callable[..., None]
) -> None:
    called: list[object] = []
    listen(called.append, id="keep")
    send(3)
    _lose(transport, clock, 1, times=30)

    report = worker(options=DRAIN).run()

    assert report.reasons == {}
    assert report.done == len(called) == 3


# --- executors with more than one place ----------------------------------------------------------------------


class _Slots(Executor):
    """Handles in several places at once, each delivery for as many seconds as it takes."""

    def __init__(self, clock: FakeClock, number: int, *, takes: Callable[[Delivery], float] = lambda _: 0.5) -> None:
        self.clock = clock
        self.number = number
        self.takes = takes
        self.busy: list[tuple[Delivery, float]] = []
        self.beside: dict[str, int] = {}
        self.polls = 0

    def start(self, handle: Callable[[Delivery], Outcome]) -> None:
        self.handle = handle

    def room(self) -> int:
        return self.number - len(self.busy)

    def submit(self, delivery: Delivery) -> None:
        assert self.room()
        self.busy.append((delivery, self.clock.now() + self.takes(delivery)))
        for one, _ in self.busy:
            self.beside[_id(one)] = max(self.beside.get(_id(one), 0), len(self.busy) - 1)

    def take_finished(self, wait: float) -> Sequence[tuple[Delivery, Outcome]]:
        self.polls += 1
        if not self._over():
            self.clock.sleep(wait)
        over = self._over()
        self.busy = [one for one in self.busy if one not in over]
        return [(delivery, self.handle(delivery)) for delivery, _ in over]

    def running(self) -> int:
        return len(self.busy)

    def stalled(self) -> Sequence[Delivery]:
        return ()

    def stop(self) -> None:
        self.busy = []

    def _over(self) -> Sequence[tuple[Delivery, float]]:
        return [one for one in self.busy if one[1] <= self.clock.now()]


def test_several_places_are_filled_and_a_suspect_gets_them_all_to_itself(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    send(20)
    _lose(transport, clock, 2)
    slots = _Slots(clock, 3)

    report = worker(_Handled(), executor=slots, options=DRAIN).run()

    assert report.done == 20
    assert {event: slots.beside[event] for event in "01"} == {"0": 0, "1": 0}
    assert max(slots.beside.values()) == 2


def test_a_stop_waits_for_what_runs_in_all_places_and_gives_back_the_rest(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    send(20)
    slots = _Slots(clock, 3, takes=lambda delivery: 0.1 * (1 + int(_id(delivery))))
    handled = _Handled(then=lambda delivery: stopped.stop() if _id(delivery) == "4" else None)
    stopped = worker(handled, executor=slots)

    report = stopped.run()

    stats = transport.stats("default")
    assert report.stopped_by == "asked"
    assert (report.done, stats.leased, stats.ready) == (len(slots.beside), 0, 20 - len(slots.beside))
    assert set(handled) == set(slots.beside)


def test_waiting_for_a_busy_place_does_not_spin(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    send(6)
    slots = _Slots(clock, 2, takes=lambda _: 10.0)

    worker(_Handled(), executor=slots, options=RunOptions(max_events=5)).run()

    assert slots.polls + len(transport.said("receive")) < 30.0 / 0.02 * 1.5


# --- a delivery that nothing works on -------------------------------------------------------------------------


class _Forgetful(_Slots):
    """Drops some deliveries: nothing works on them, and they never end."""

    def __init__(self, clock: FakeClock, *lost: str, takes: Callable[[Delivery], float] = lambda _: 0.5) -> None:
        super().__init__(clock, 3, takes=takes)
        self.lost = lost
        self.is_starting = False

    def stalled(self) -> Sequence[Delivery]:
        return [] if self.is_starting else [one for one, _ in self.busy if _id(one) in self.lost]

    def _over(self) -> Sequence[tuple[Delivery, float]]:
        return [one for one in super()._over() if _id(one[0]) not in self.lost]


def test_a_delivery_that_nothing_works_on_ends_the_worker_and_is_given_back_as_lost(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    send(6)
    handled = _Handled()
    began = clock.now()

    with pytest.raises(StalledError, match=r"image.created 2 .*no listener has been running for 3\d s"):
        worker(handled, executor=_Forgetful(clock, "2")).run()

    assert sorted(handled) == ["0", "1", "3", "4", "5"]
    assert 30 <= clock.now() - began < 40
    told = [record for record in caplog.records if "image.created 2" in record.message]
    assert [record.levelname for record in told] == ["ERROR", "WARNING"]
    assert told[1].message.endswith("; this is crash 1 of 3, and the last makes it a dead letter")
    (again,) = transport.receive(["default"], limit=9, lease=60.0, wait=0.0)
    assert (_id(again), again.lost_leases) == ("2", 1)


@pytest.mark.parametrize("seconds", [0.0, 1e9], ids=["told to stop", "out of time"])
def test_a_worker_that_is_to_end_waits_no_longer_for_a_delivery_that_nothing_works_on(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock, seconds: float
) -> None:
    send(2)
    began = clock.now()
    options = RunOptions(max_seconds=5.0 if seconds else None)
    handled = _Handled(then=lambda _: None if seconds else stopping.stop())
    stopping = worker(handled, executor=_Forgetful(clock, "0"), options=options)

    with pytest.raises(StalledError):
        stopping.run()

    assert clock.now() - began < 40
    assert transport.stats("default").leased == 0


@pytest.mark.lengthy("waits")
def test_a_start_that_takes_long_and_a_listener_that_runs_for_long_are_no_standstill(
    send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    send(2)
    slots = _Forgetful(clock, "0", takes=lambda delivery: 600.0 if _id(delivery) == "1" else 0.0)
    slots.is_starting = True
    running = worker(_Handled(), executor=slots, options=RunOptions(max_seconds=300.0), lease=1e4)
    over = clock.now() + 500.0

    def take_finished(wait: float, finish: Callable[[float], Any] = slots.take_finished) -> Any:
        if clock.now() > over:
            slots.lost = ()
        return finish(wait)

    slots.take_finished = take_finished  # type: ignore[method-assign]

    assert running.run().done == 2


def test_a_process_that_was_suspended_and_an_outage_are_no_standstill(
    send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    send(2)
    slots = _Forgetful(clock, "0")
    suspensions = iter(range(10))

    def take_finished(wait: float, finish: Callable[[float], Any] = slots.take_finished) -> Any:
        if slots.busy and next(suspensions, None) is not None:
            clock.advance(3600.0)
        elif slots.busy:
            slots.lost = ()
        return finish(wait)

    slots.take_finished = take_finished  # type: ignore[method-assign]

    assert worker(_Handled(), executor=slots, options=DRAIN, lease=1e6).run().done == 2
