"""The worker while its server is down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest

from relevo import (
    Ack,
    Delivery,
    Envelope,
    Outcome,
    RunOptions,
    Settlement,
    Worker,
)
from relevo._worker.worker import GRACE
from relevo.errors import ConfigurationError, SettleError, TransportClosedError, TransportUnavailableError
from relevo.testing import FakeClock
from relevo_memory import MemoryStore, MemoryTransport

from .working import DRAIN, Handled, id_of

MakeEnvelope = Callable[..., Envelope]

MakeWorker = Callable[..., Worker]

DOWN = TransportUnavailableError("main", "down")

WRONG = ConfigurationError("no such user")

Send = Callable[..., None]


class _OverAConnection(MemoryTransport):
    """The memory transport, whose leases end together as those of a connection do."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, lease="connection", extend=False)

    def lose_all(self) -> None:
        """Lose the connection, and with it all leases."""
        self._clock.sleep(61)


@pytest.mark.parametrize("operation", ["receive", "settle", "stats"])
def test_a_worker_that_is_not_patient_raises_when_the_server_is_down(
    operation: str, transport: Any, send: Send, worker: MakeWorker
) -> None:
    send(3)
    transport.fail(operation, DOWN)

    with pytest.raises(TransportUnavailableError):
        worker(Handled(), options=DRAIN).run()

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
    handled = Handled(then=lambda _: transport.fail(operation, WRONG, times=50) if len(handled) == 1 else None)

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

    worker(Handled(then=fail), patient=True, options=DRAIN).run()

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
        worker(Handled(then=lambda _: transport.fail(operation, WRONG)), options=DRAIN).run()


def test_with_a_time_limit_every_call_is_told_how_long_it_may_take(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    told: list[float | None] = []
    transport.hurry = lambda seconds: told.append(seconds if seconds is None else clock.monotonic() + seconds)
    began = clock.monotonic()
    send(4)

    report = worker(
        Handled(then=lambda delivery: clock.advance(30.0 if id_of(delivery) == "2" else 1.0)),
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

    worker(Handled(then=handle), options=RunOptions(max_seconds=10.0), limited=[other]).run()

    assert seen == [None, None]
    assert limited == [10.0 + GRACE, GRACE]


def test_what_could_not_be_settled_is_in_the_report(transport: Any, send: Send, worker: MakeWorker) -> None:
    send(1)
    transport.fail("settle", DOWN, times=1000)

    report = worker(Handled(), patient=True, options=RunOptions(max_seconds=10.0)).run()

    assert report.unsettled == 1


def test_a_lost_connection_gives_up_what_was_received_over_it_and_not_begun(
    store: MemoryStore, envelope: MakeEnvelope, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    with _OverAConnection(store, clock=clock) as transport:
        transport.send([envelope(str(i)) for i in range(200)])
        handled: list[str] = []

        def handle(delivery: Delivery) -> Outcome:
            handled.append(id_of(delivery))
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
            if id_of(delivery) == "2":  # while the outcome of the first waits to be settled
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

    report = worker(Handled(then=lambda _: transport.close()), patient=True).run()

    assert (report.stopped_by, report.handled, report.unsettled) == ("asked", 0, 1)
    assert 'the transport "memory" is closed, so the worker ends' in caplog.messages
    with pytest.raises(TransportClosedError):
        worker(Handled()).run()


def test_what_can_never_be_settled_ends_it_and_the_rest_goes_back(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    def refuse(delivery: Delivery) -> None:
        if id_of(delivery) == "0":
            transport.fail("settle", SettleError("main", unsettled=[delivery], why="full"), times=99)

    send(1)
    began = clock.now()

    with pytest.raises(SettleError):
        worker(Handled(then=refuse)).run()

    assert 4 < clock.now() - began < 20
    assert len(transport.said("receive")) < 50


def test_a_patient_worker_goes_on_with_the_others_while_one_cannot_be_settled_and_logs_it_once_a_minute(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    settle = type(transport).settle
    full = True

    def settled(settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        stuck = [delivery for delivery, _ in settlements if full and id_of(delivery) == "0"]
        lost: Sequence[Delivery] = settle(transport, [entry for entry in settlements if entry[0] not in stuck])
        if stuck:
            raise SettleError("main", lost=lost, unsettled=stuck, why="an alarm")
        return lost

    transport.settle = settled
    send(1)
    began = clock.now()
    handled = Handled()
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

    report = worker(Handled(then=refuse), options=options).run()

    assert report.done == 1
    assert len(transport.said("settle")) <= 5
    assert len(transport.said("receive")) < 250
