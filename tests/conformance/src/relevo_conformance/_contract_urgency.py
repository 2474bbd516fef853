"""Scenarios of urgency."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest

from relevo import Ack, Capabilities, DeadLetter, Delivery, Envelope, Lost, Nack, Outcome, Release
from relevo_conformance import promise
from relevo_conformance.bench import Bench
from relevo_conformance.contract import Contract, proves
from relevo_conformance.worker import RecordedWorker

NORMAL = 24
"""The number of events that an urgent one overtakes."""

FIRST = 6
"""How many receives may be needed: a broker may deliver some events of normal urgency first, lest they starve."""

Past = Callable[[Bench, RecordedWorker, Delivery], None]
"""Makes an event that a worker holds ready again."""


class UrgencyContract(Contract):
    """An urgent event overtakes normal ones, as long as it is not finished."""

    @proves(promise.URGENT_OVERTAKES)
    def test_an_urgent_event_overtakes_normal_ones(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(NORMAL, urgency="normal"))
            urgent = bench.envelope(urgency="high")
            worker.send([urgent])

            assert first(bench, worker, urgent)

    @proves(promise.URGENT_OVERTAKES)
    def test_an_urgent_event_overtakes_normal_ones_whatever_happened_to_it(self) -> None:
        self.require_exact_order()

        def check(life: tuple[bool, Sequence[Past]]) -> None:
            is_delayed, happened = life
            with self.bench() as bench:
                worker = bench.worker()
                urgent = bench.envelope(urgency="high")
                # The urgent one comes last, so that it has to overtake them each time.
                worker.send(bench.envelopes(NORMAL, urgency="normal"))
                worker.send([urgent], delay=bench.times.delay if is_delayed else 0.0)
                let_delay_end(bench)
                for past in happened:
                    held = first(bench, worker, urgent)
                    assert held is not None
                    past(bench, worker, held)
                    worker = bench.worker()

                assert first(bench, worker, urgent)

        single = [(False, [past]) for past in pasts(self.harness.capabilities)]
        lost_after = [(False, [past, lose]) for past in pasts(self.harness.capabilities)]
        delayed = [(True, [past]) for past in pasts(self.harness.capabilities)]
        self.each(single + lost_after + (delayed if self.harness.capabilities.delay is not None else []), check)

    @proves(promise.URGENT_OVERTAKES, promise.DELAY_IS_RESPECTED)
    def test_an_urgent_event_overtakes_normal_ones_when_it_is_due(self) -> None:
        self.require_exact_order()
        with self.bench() as bench:
            worker = bench.worker()
            urgent = bench.envelope(urgency="high")
            worker.send([urgent], delay=bench.times.delay)
            worker.send(bench.envelopes(NORMAL, urgency="normal"))

            let_delay_end(bench)

            assert first(bench, worker, urgent)

    @proves(promise.URGENT_OVERTAKES, promise.ORDER_IS_KEPT)
    def test_an_urgent_event_overtakes_normal_ones_once_its_key_is_free(self) -> None:
        self.require_exact_order()
        if self.harness.capabilities.order != "per key":
            pytest.skip("order per key is not claimed")
        ends: list[Outcome] = [Ack()]
        ends += [DeadLetter(reason="none")] if self.harness.capabilities.dead_letters else []
        for end in ends:
            with self.bench() as bench:
                worker = bench.worker()
                worker.send([bench.envelope(ordering_key="key")])
                held = bench.one(worker)
                urgent = bench.envelope(ordering_key="key", urgency="high")
                worker.send([*bench.envelopes(NORMAL, urgency="normal"), urgent])

                worker.settles(held, end)
                bench.advance(bench.times.step)  # a store may look only now and then at what waits

                assert first(bench, worker, urgent), f"its key was free after {end}, and normal events came first"

    def require_exact_order(self) -> None:
        """Skip the test where urgency is only promised for what is sent without a delay."""
        if self.harness.capabilities.lost_leases != "exact":
            pytest.skip("lost_leases is not exact, so an event that was delayed or returned may come behind others")


def pasts(claimed: Capabilities) -> Iterator[Past]:
    """Yield the ways in which an event that is held becomes ready again."""
    yield partial(settle, Nack(state=b"again"))
    yield partial(settle, Release())
    yield partial(settle, Lost())
    yield lose
    if claimed.delay is not None:
        yield lambda bench, worker, held: settle(Nack(delay=bench.times.delay), bench, worker, held)
        yield lambda bench, worker, held: settle(Release(delay=bench.times.delay), bench, worker, held)
    if claimed.dead_letters:
        yield revive


def settle(outcome: Outcome, bench: Bench, worker: RecordedWorker, held: Delivery) -> None:
    """Settle it, and let the delay end, if any."""
    worker.settles(held, outcome)
    if isinstance(outcome, Nack | Release) and outcome.delay:
        let_delay_end(bench)


def lose(bench: Bench, worker: RecordedWorker, held: Delivery) -> None:
    """Kill its worker, and let the lease end."""
    bench.recorder.kill(worker)
    if not bench.is_connected:
        bench.let_leases_end()


def revive(bench: Bench, worker: RecordedWorker, held: Delivery) -> None:
    """Dead-letter it, and revive it."""
    worker.dead_letter(held)
    worker.revive({bench.dead_letter(worker).ref: b""})


def let_delay_end(bench: Bench) -> None:
    """Let time pass until a delay that begins now is over, by any clock."""
    bench.advance(bench.times.delay + (bench.capabilities.delay or 0.0) + 3 * bench.harness.slack)


def first(bench: Bench, worker: RecordedWorker, urgent: Envelope) -> Delivery | None:
    """Return the delivery of *urgent*, held, if it comes before most other events; these are acked."""
    for _ in range(FIRST):
        delivery = bench.one(worker)
        if delivery.envelope == urgent:
            return delivery
        worker.ack(delivery)
    return None
