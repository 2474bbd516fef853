"""What the worker holds: leases, places of executors, and deliveries that nothing works on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from relevo import (
    DeadLetter,
    Delivery,
    Envelope,
    Hooks,
    Outcome,
    RunOptions,
    SystemClock,
    Worker,
    hookimpl,
)
from relevo._worker.stall import StalledError
from relevo.testing import FakeClock
from relevo_memory import MemoryStore, MemoryTransport

from .working import DRAIN, PATIENCE, Handled, Slots, id_of, lose

MakeEnvelope = Callable[..., Envelope]

MakeWorker = Callable[..., Worker]

Send = Callable[..., None]


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

    report = worker(Handled(then=be_busy), background=True, options=DRAIN).run()

    assert report.done == 3
    assert caplog.records == []


def test_what_was_lost_before_it_was_begun_is_left_to_who_has_it_now(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    def oversleep(delivery: Delivery) -> None:
        if id_of(delivery) == "4" and delivery.attempt == 1:
            clock.advance(61)
            _eventually(lambda: "was lost" in caplog.text)

    send(8)
    handled = Handled(then=oversleep)

    worker(handled, background=True, options=RunOptions(max_events=8)).run()

    assert transport.said("receive")[3][0] == 4  # what stood behind it was received with it
    assert [handled.count(event) for event in "4567"] == [1, 1, 1, 1]
    assert "was no longer held when it was settled" in caplog.text


def test_what_is_finished_is_settled_while_the_next_listener_runs(store: MemoryStore, envelope: MakeEnvelope) -> None:
    with MemoryTransport(store) as transport:
        transport.send([envelope(str(i)) for i in range(7)])

        def wait_for_the_others(delivery: Delivery) -> None:
            if id_of(delivery) == "5":
                _eventually(lambda: transport.stats("default").leased == 2)  # itself and the one behind it

        handled = Handled(then=wait_for_the_others)
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

    assert worker(Handled(then=be_busy), background=True, options=DRAIN).run().done == 1


def test_nothing_runs_beside_a_worker_that_ended(send: Send, worker: MakeWorker) -> None:
    send(1)
    before = set(threading.enumerate())  # others of this process may still be at their mails

    worker(Handled(), background=True, options=DRAIN).run()

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
        self.dead.append((id_of(delivery), outcome.reason, self.transport.stats("default").dead))
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

    worker(Handled(then=die), hooks=Hooks([watch]), options=DRAIN).run()

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
    lose(transport, clock, 1, times=30)

    report = worker(options=DRAIN).run()

    assert report.reasons == {}
    assert report.done == len(called) == 3


# --- executors with more than one place ----------------------------------------------------------------------


def test_several_places_are_filled_and_a_suspect_gets_them_all_to_itself(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    send(20)
    lose(transport, clock, 2)
    slots = Slots(clock, 3)

    report = worker(Handled(), executor=slots, options=DRAIN).run()

    assert report.done == 20
    assert {event: slots.beside[event] for event in "01"} == {"0": 0, "1": 0}
    assert max(slots.beside.values()) == 2


def test_a_stop_waits_for_what_runs_in_all_places_and_gives_back_the_rest(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    send(20)
    slots = Slots(clock, 3, takes=lambda delivery: 0.1 * (1 + int(id_of(delivery))))
    handled = Handled(then=lambda delivery: stopped.stop() if id_of(delivery) == "4" else None)
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
    slots = Slots(clock, 2, takes=lambda _: 10.0)

    worker(Handled(), executor=slots, options=RunOptions(max_events=5)).run()

    assert slots.polls + len(transport.said("receive")) < 30.0 / 0.02 * 1.5


# --- a delivery that nothing works on -------------------------------------------------------------------------


class _Forgetful(Slots):
    """Drops some deliveries: nothing works on them, and they never end."""

    def __init__(self, clock: FakeClock, *lost: str, takes: Callable[[Delivery], float] = lambda _: 0.5) -> None:
        super().__init__(clock, 3, takes=takes)
        self.lost = lost
        self.is_starting = False

    def stalled(self) -> Sequence[Delivery]:
        return [] if self.is_starting else [one for one, _ in self.busy if id_of(one) in self.lost]

    def _over(self) -> Sequence[tuple[Delivery, float]]:
        return [one for one in super()._over() if id_of(one[0]) not in self.lost]


def test_a_delivery_that_nothing_works_on_ends_the_worker_and_is_given_back_as_lost(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    send(6)
    handled = Handled()
    began = clock.now()

    with pytest.raises(StalledError, match=r"image.created 2 .*no listener has been running for 3\d s"):
        worker(handled, executor=_Forgetful(clock, "2")).run()

    assert sorted(handled) == ["0", "1", "3", "4", "5"]
    assert 30 <= clock.now() - began < 40
    told = [record for record in caplog.records if "image.created 2" in record.message]
    assert [record.levelname for record in told] == ["ERROR", "WARNING"]
    assert told[1].message.endswith("; this is crash 1 of 3, and the last makes it a dead letter")
    (again,) = transport.receive(["default"], limit=9, lease=60.0, wait=0.0)
    assert (id_of(again), again.lost_leases) == ("2", 1)


@pytest.mark.parametrize("seconds", [0.0, 1e9], ids=["told to stop", "out of time"])
def test_a_worker_that_is_to_end_waits_no_longer_for_a_delivery_that_nothing_works_on(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock, seconds: float
) -> None:
    send(2)
    began = clock.now()
    options = RunOptions(max_seconds=5.0 if seconds else None)
    handled = Handled(then=lambda _: None if seconds else stopping.stop())
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
    slots = _Forgetful(clock, "0", takes=lambda delivery: 600.0 if id_of(delivery) == "1" else 0.0)
    slots.is_starting = True
    running = worker(Handled(), executor=slots, options=RunOptions(max_seconds=300.0), lease=1e4)
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

    assert worker(Handled(), executor=slots, options=DRAIN, lease=1e6).run().done == 2
