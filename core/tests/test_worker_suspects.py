"""Suspects: handled alone, and set aside for others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given, settings, strategies as st

from relevo import (
    Ack,
    App,
    Delivery,
    Envelope,
    Nack,
    Outcome,
    Stats,
    Worker,
)
from relevo.errors import SettleError, TransportUnavailableError
from relevo.testing import FakeClock
from relevo.testing._clock import StandingClock
from relevo_memory import MemoryTransport

from .working import DRAIN, Handled, Slots, id_of, lose

MakeEnvelope = Callable[..., Envelope]

MakeWorker = Callable[..., Worker]

Send = Callable[..., None]


def test_a_suspect_is_handled_alone_nothing_else_begun_running_or_unflushed(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock, envelope: MakeEnvelope
) -> None:
    send(10)
    lose(transport, clock, 3)
    transport.send([envelope(f"new-{i}") for i in range(20)])
    leased: dict[str, int | None] = {}
    lost_leases: dict[str, int] = {}

    def look(delivery: Delivery) -> None:
        leased[id_of(delivery)] = transport.stats("default").leased
        lost_leases[id_of(delivery)] = delivery.lost_leases

    handled = Handled(then=look)

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
    handled = Handled(then=lambda one: attempts.update({id_of(one): (one.attempt, one.lost_leases)}))

    worker(handled, options=DRAIN).run()

    assert attempts.pop("20") == (2, 1)
    assert set(attempts.values()) == {(2, 0)}


def test_many_suspects_cost_no_more_than_one_round_each(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    send(100)
    lose(transport, clock, 100)
    transport.calls.clear()

    report = worker(Handled(), options=DRAIN).run()

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
    lose(transport, clock, deadly)
    send("new", others)
    handled: list[str] = []

    def handle(delivery: Delivery) -> Outcome:
        handled.append(id_of(delivery))
        if id_of(delivery).startswith("deadly"):
            raise KeyboardInterrupt
        return Ack()

    drain = Worker(
        transport=transport,
        handle=handle,
        queues=["default"],
        clock=clock,
        chance=lambda: 0.0,
        options=DRAIN,
        executor=Slots(clock, slots),
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
    lose(transport, clock, 1)
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
    lose(transport, clock, 2)

    report = worker(Handled(), options=DRAIN, patient=True, transport=transport).run()

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
    lose(transport, clock, suspects)
    transport.suspects = 0
    handled = Handled()

    worker(handled, options=DRAIN, transport=transport).run()

    assert handled == ["new", *names]


def test_suspects_are_set_aside_for_half_of_the_time_at_most(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock, envelope: MakeEnvelope
) -> None:
    send(1)
    lose(transport, clock, 1)
    transport.send([envelope("new-0")])
    handled = Handled()

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
    lose(transport, clock, 1)
    received: list[Delivery] = []
    leased: list[int | None] = []

    def look(delivery: Delivery) -> None:
        received.append(delivery)
        if id_of(delivery) == "first":
            transport.fail("settle", SettleError("main", unsettled=[delivery], why="full"), times=2)
        else:
            leased.append(transport.stats("default").leased)

    transport.send([envelope("first", urgency="high")])

    worker(Handled(then=look), options=DRAIN).run()

    assert [id_of(delivery) for delivery in received] == ["first", "suspect"]
    assert leased == [1]
