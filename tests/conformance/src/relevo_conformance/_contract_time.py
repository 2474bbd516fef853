"""Scenarios of time: the wait of a receive, fairness, and clocks that jump."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest

from relevo import Delivery, Lost
from relevo_conformance import promise
from relevo_conformance.bench import Bench, Thread
from relevo_conformance.contract import Contract, proves
from relevo_conformance.harness import MovableClock
from relevo_conformance.worker import RecordedWorker

PROMPTLY = 10.0
"""Seconds of real time, generous for a machine under load."""

SLEEP = 6.0
"""Seconds that a receive may wait; a send must wake it."""

_OCCUPIED = SLEEP / 3, SLEEP
"""
The lease and the delay in seconds of the other events in the queue, for each try. The event of the test must come
before them: on a slow machine the first try may last longer.
"""

LONG = 8.0
"""Seconds that a receive waits beyond the time when an event gets ready."""

TRIES = 2
"""Tries, of which one must be woken in time: the machine may be slow."""

_WAIT = 20.0
"""Seconds by a clock that is moved."""

_STEP = 0.1
"""Seconds between two sends."""

_SENDS = 200
"""The number of sends, far more than fit into the wait of the receive beside them."""

ENOUGH = 20
"""The number of receives within which an event must be handed out, whatever else is in its queue."""

SEVERAL = 6
"""The number of events beside one that fails; a broker may have fetched some of them ahead."""

DAYS = 40 * 86400.0
"""Seconds."""


class _SetBackInASleep(MovableClock):
    """Is set back at the end of its first sleep."""

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if not self._set_back:
            self.set_back(10 * _WAIT)


class WaitContract(Contract):
    """A receive waits no longer than its wait."""

    @proves(promise.WAIT_IS_KEPT)
    def test_a_receive_that_is_not_to_wait_comes_back_at_once(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            before = self.harness.clock.monotonic()

            assert self.received(bench, 0.0) == []

            passed = self.harness.clock.monotonic() - before
            assert passed <= (self.harness.slack if self.harness.fake else PROMPTLY)
            worker.close()

    @proves(promise.WAIT_IS_KEPT)
    def test_a_receive_that_finds_nothing_comes_back_when_its_wait_is_over(self) -> None:
        with self.bench() as bench:
            wait = 5.0 if self.harness.fake else 0.5
            before = self.harness.clock.monotonic()

            assert self.received(bench, wait) == []

            passed = self.harness.clock.monotonic() - before
            assert passed <= wait + (self.harness.slack if self.harness.fake else PROMPTLY)

    @proves(promise.WAIT_IS_KEPT, promise.DELAY_IS_RESPECTED)
    def test_a_wait_does_not_begin_again_when_something_becomes_due_for_others(self) -> None:
        if not self.harness.fake:
            pytest.skip("needs a clock that can be moved")
        with self.bench(queues=2) as bench:
            worker, clock = bench.worker(), self.harness.clock
            key = "a" if bench.capabilities.order == "per key" else None
            if key:  # what becomes due in the same queue, and waits for what is held
                worker.send([bench.envelope(ordering_key=key)])
                bench.one(worker, lease=10 * _WAIT)
            for part in (0.2, 0.5, 0.9):
                place = 0 if key else 1
                worker.send([bench.envelope(queue=bench.queues[place], ordering_key=key)], delay=part * _WAIT)
            before = clock.monotonic()

            came = worker.receive([bench.queue], limit=1, lease=bench.times.lease, wait=_WAIT)

            passed = clock.monotonic() - before
            assert came == []
            most = _WAIT + self.harness.slack + (bench.capabilities.delay or 0.0)
            assert passed <= most, f"a receive with a wait of {_WAIT:g} s returned after {passed:g} s"

    @proves(promise.WAIT_IS_KEPT, promise.DELAY_IS_RESPECTED)
    def test_a_wait_is_not_longer_if_the_clock_is_set_back_meanwhile(self) -> None:
        if not self.harness.fake:
            pytest.skip("needs a clock that can be moved")
        with self.bench_with(_SetBackInASleep()) as bench:
            worker, clock = bench.worker(), bench.harness.clock
            worker.send([bench.envelope()], delay=_WAIT / 2)
            before = clock.monotonic()

            worker.receive([bench.queue], limit=1, lease=bench.times.lease, wait=_WAIT)

            passed = clock.monotonic() - before
            assert passed <= _WAIT + self.harness.slack, f"a wait of {_WAIT:g} s took {passed:g} s"

    @proves(promise.WAIT_IS_KEPT)
    def test_a_wait_ends_while_others_send(self) -> None:
        with self.bench_whose_clock_runs(queues=2) as bench:
            sender, receiver = bench.worker(), bench.worker()
            is_back = threading.Event()

            def wait() -> None:
                assert receiver.receive([bench.queue], limit=1, lease=0.1, wait=_STEP * 5) == []
                is_back.set()

            waiting = Thread(wait)
            for _ in range(_SENDS):  # to another queue, for many times the wait
                sender.send([bench.envelope(queue=bench.queues[1])])
                if is_back.wait(_STEP):
                    break

            assert is_back.is_set(), (
                f"a receive with a wait of {5 * _STEP:g} s had not returned after {_SENDS} sends to another queue"
            )
            waiting.finish()

    @proves(promise.WAIT_IS_KEPT)
    def test_a_receive_that_waits_finds_what_nobody_woke_it_for(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            came: list[Delivery] = []
            deadline = time.monotonic() + 2 * PROMPTLY

            def wait() -> None:
                while not came and time.monotonic() < deadline:
                    came.extend(worker.receive([bench.queue], limit=1, lease=bench.times.lease, wait=5.0))

            waiting = Thread(wait)
            time.sleep(0.1)

            bench.raw()  # foreign bytes, which wake no receive

            waiting.finish()
            assert len(came) == 1

    @proves(promise.WAIT_IS_KEPT, promise.DELAY_IS_RESPECTED)
    def test_a_receive_that_waits_finds_what_becomes_due(self) -> None:
        with self.bench_whose_clock_runs(queues=2) as bench:
            sender, receiver = bench.worker(), bench.worker()
            delay = max(0.5, bench.capabilities.delay or 0.0)
            sender.send([bench.envelope(queue=bench.queues[1])], delay=delay)

            self.require_found(bench, receiver, delay)

    @proves(promise.WAIT_IS_KEPT, promise.LOST_LEASE_RETURNS)
    def test_a_receive_that_waits_finds_what_a_lease_that_ended_gave_back(self) -> None:
        self.require_timed_leases()
        with self.bench_whose_clock_runs(queues=2) as bench:
            holder, receiver = bench.worker(), bench.worker()
            holder.send([bench.envelope(queue=bench.queues[1])])
            lease = 1.0
            bench.one(holder, lease=lease)
            bench.recorder.kill(holder)

            self.require_found(bench, receiver, lease)

    @proves(promise.WAIT_IS_KEPT, promise.LEASED_IS_HIDDEN, promise.DELAY_IS_RESPECTED)
    def test_the_lease_of_what_a_receive_waited_for_begins_at_the_hand_over(self) -> None:
        self.require_timed_leases()
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            lease = bench.times.lease
            worker.send([bench.envelope()], delay=lease / 2)

            if not worker.receive([bench.queue], limit=1, lease=lease, wait=lease):
                bench.advance(lease / 2)  # this transport waits for less
                bench.one(worker)
            bench.advance(0.75 * lease)

            bench.glimpse(other)  # the checker knows that its lease is not over

    def require_found(self, bench: Bench, receiver: RecordedWorker, soon: float) -> None:
        """Require that the event which is ready in *soon* seconds is found by receives that wait much longer."""
        deadline = time.monotonic() + soon + 2 * PROMPTLY
        wait = soon + LONG
        while time.monotonic() < deadline:
            began = time.monotonic()
            came = receiver.receive(bench.queues, limit=1, lease=0.5, wait=wait)
            waited = time.monotonic() - began
            assert waited < soon + LONG / 2, (
                f"an event became ready within {soon:g} s, but a receive waited {waited:.1f} s"
            )
            if came:
                receiver.ack(came[0])
                return
        raise AssertionError(f"an event that became ready within {soon:g} s was not found")

    @proves(promise.WOKEN_BY_A_SEND)
    def test_a_receive_that_waits_is_woken_by_a_send_long_before_its_wait_is_over(self) -> None:
        with self.bench_whose_clock_runs(queues=2) as bench:
            sender, receiver = bench.worker(), bench.worker()
            for place, queue in enumerate(bench.queues, start=1):
                took = [self._woken_after(bench, sender, receiver, queue) for _ in range(TRIES)]

                assert min(took) <= SLEEP / 4, (
                    f"wakeup is claimed, and of {TRIES} receives that waited {SLEEP:g} s for a send the quickest "
                    f"returned {min(took):.1f} s after it; the event came to queue {place} of {len(bench.queues)}"
                )

    @proves(promise.WOKEN_BY_A_SEND)
    def test_of_several_receives_that_wait_the_right_one_is_woken(self) -> None:
        for place in (0, -1):
            tries = (self._woken_among_others(place, occupied) for occupied in _OCCUPIED)

            assert any(took <= SLEEP / 4 for took in tries), (
                f"wakeup is claimed, and of several receives that waited {SLEEP:g} s, each for another queue, the "
                f"right one returned later than {SLEEP / 4:g} s after a send to its queue, in each of "
                f"{len(_OCCUPIED)} tries"
            )

    def _woken_among_others(self, place: int, occupied: float) -> float:
        """Return the seconds from a send to the queue at *place* to the return of the receive that waits for it."""
        with self.bench_whose_clock_runs(queues=3) as bench:
            return self._woken_at(bench, bench.queues[place], occupied)

    def _woken_at(self, bench: Bench, wanted: str, occupied: float) -> float:
        sender = bench.worker()
        back: dict[str, float] = {}
        receivers = {queue: bench.worker() for queue in bench.queues}
        for queue, receiver in receivers.items():  # connected now: only the wake-up is timed
            receiver.receive([queue], limit=1, lease=bench.times.lease, wait=0)
        # Its queue is not empty: one event is held there, another one is not due, for longer than a wake-up may take.
        new = [bench.envelope(queue=queue) for queue in bench.queues]
        if bench.capabilities.lost_leases == "exact":  # otherwise its holder may fetch the new event ahead
            sender.send([bench.envelope(queue=wanted)])
            bench.one(sender, queues=[wanted], lease=occupied)
        if bench.capabilities.delay is not None:
            sender.send([bench.envelope(queue=wanted)], delay=occupied)

        def receive(queue: str) -> None:
            came = receivers[queue].receive([queue], limit=1, lease=0.5, wait=SLEEP)
            is_new = any(one.envelope in new for one in came)  # not the one that was held there, on a slow machine
            back[queue] = time.monotonic() if is_new else math.inf

        waiting = {}
        for queue in bench.queues:
            waiting[queue] = Thread(partial(receive, queue))
            time.sleep(0.1)  # so that they wait in this order
        sent = time.monotonic()
        sender.send([one for one in new if one.queue == wanted])
        waiting.pop(wanted).finish(SLEEP + 2 * PROMPTLY)
        sender.send([one for one in new if one.queue != wanted])
        for thread in waiting.values():
            thread.finish(SLEEP + 2 * PROMPTLY)
        return back[wanted] - sent

    def _woken_after(self, bench: Bench, sender: RecordedWorker, receiver: RecordedWorker, queue: str) -> float:
        """Return the seconds between a send and the return of a waiting receive; its whole wait if it got nothing."""
        came: list[Delivery] = []
        back: list[float] = []

        def wait() -> None:
            came.extend(receiver.receive(bench.queues, limit=1, lease=bench.times.lease, wait=SLEEP))
            back.append(time.monotonic())

        waiting = Thread(wait)
        time.sleep(0.2)
        sent = time.monotonic()
        sender.send([bench.envelope(queue=queue)])
        waiting.finish(SLEEP + 2 * PROMPTLY)
        took = back[0] - sent if came else SLEEP
        for delivery in came or bench.receive(receiver):
            receiver.ack(delivery)
        return took

    def received(self, bench: Bench, wait: float) -> list[Delivery]:
        """Return what a receive returns; it runs in a thread of its own, since it may hang."""
        worker = bench.worker()
        came: list[Delivery] = []
        Thread(lambda: came.extend(worker.receive(bench.queues, limit=1, lease=bench.times.lease, wait=wait))).finish(
            wait + 2 * PROMPTLY
        )
        return came


class FairnessContract(Contract):
    """No event waits for ever while others are delivered."""

    @proves(promise.NOBODY_STARVES)
    def test_an_event_comes_although_its_neighbour_fails_for_ever_and_more_are_sent(self) -> None:
        self.wait_beside_a_failing_one()

    @proves(promise.NOBODY_STARVES)
    def test_an_urgent_event_comes_although_an_urgent_neighbour_fails_for_ever(self) -> None:
        if not self.harness.capabilities.urgency:
            pytest.skip("urgency is not claimed")
        self.wait_beside_a_failing_one(urgency="high")

    @proves(promise.NOBODY_STARVES)
    def test_an_event_comes_although_its_neighbour_fails_for_ever_and_is_tried_again_later(self) -> None:
        if self.harness.capabilities.delay is None:
            pytest.skip("delay is not claimed")
        with self.bench() as bench:
            worker = bench.worker()
            poison, patient = bench.envelope(), bench.envelope()
            worker.send([poison, patient])

            for _ in range(ENOUGH):
                delivery = bench.one(worker, limit=1)
                if delivery.envelope == patient:
                    worker.ack(delivery)
                    return
                worker.nack(delivery, delay=bench.times.delay)
                bench.let_delays_end()

            raise AssertionError(f"{ENOUGH} receives returned an event that is nacked each time, and no other")

    @proves(promise.NOBODY_STARVES)
    def test_events_come_although_a_neighbour_that_was_lost_fails_for_ever(self) -> None:
        with self.bench() as bench:
            lost, worker = bench.worker(), bench.worker()
            poison, patient = bench.envelope(), bench.envelopes(SEVERAL)
            worker.send([poison])
            bench.one(lost)
            bench.lose(lost)
            worker.send(patient)

            for _ in range(ENOUGH):
                bench.advance(bench.times.step)
                delivery = bench.one(worker, limit=1)
                if delivery.envelope == poison:
                    worker.nack(delivery)
                    continue
                worker.ack(delivery)
                patient = [one for one in patient if one != delivery.envelope]
                if not patient:
                    return

            missing = f"{len(patient)} of {SEVERAL} events that waited beside it"
            raise AssertionError(f"{ENOUGH} receives returned an event that is nacked each time, but not {missing}")

    def wait_beside_a_failing_one(self, **fields: Any) -> None:
        """Check that of two events with *fields* the second one is received although the first one is nacked always."""
        with self.bench() as bench:
            worker = bench.worker()
            poison, patient = (bench.envelope(**fields) for _ in range(2))
            worker.send([poison, patient])

            for _ in range(ENOUGH):
                bench.advance(bench.times.step)
                worker.send([bench.envelope()])
                delivery = bench.one(worker, limit=1)
                if delivery.envelope == patient:
                    worker.ack(delivery)
                    return
                if delivery.envelope == poison:
                    worker.nack(delivery)
                else:
                    worker.ack(delivery)

            raise AssertionError(f"{ENOUGH} receives returned other events, but not one that was there before them")

    @proves(promise.NOBODY_STARVES)
    def test_what_cannot_be_read_holds_nobody_up(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            raws = [bench.raw() for _ in range(3)]
            envelope = bench.envelope()
            worker.send([envelope])

            for _ in range(ENOUGH):
                bench.advance(bench.times.step)
                delivery = bench.one(worker, limit=1)
                if delivery.envelope == envelope:
                    return
                worker.nack(delivery)

            raise AssertionError(f"{len(raws)} unreadable events delayed an event for {ENOUGH} receives")


class ClockContract(Contract):
    """If a clock jumps, nothing is early by that clock, and nothing is lost."""

    @proves(promise.LOST_LEASE_RETURNS)
    def test_what_was_held_when_the_clock_leapt_by_days_comes_back_once(self) -> None:
        self.require_timed_leases()
        self.require_movable_clock()
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            worker.send(bench.envelopes(2))
            held = bench.receive(worker, 2)

            bench.advance(DAYS)

            again = bench.receive(other, 2)
            assert {one.envelope for one in again} == {one.envelope for one in held}
            assert [worker.ack(one) for one in held] == [False, False]

    @proves(promise.LEASED_IS_HIDDEN)
    def test_a_lease_holds_when_the_clock_is_set_back(self) -> None:
        self.require_movable_clock()
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            worker.send([bench.envelope()])
            held = bench.one(worker)

            bench.set_back(10 * bench.times.lease)
            bench.advance(0.9 * bench.times.lease)

            assert bench.glimpse(other) == []
            assert worker.ack(held)

    @proves(promise.SENT_IS_RECEIVED)
    def test_what_was_sent_comes_at_once_although_the_clock_was_set_back(self) -> None:
        self.require_movable_clock()
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(2))

            bench.set_back(3600.0)

            first, second = bench.so_many(worker, 2)
            worker.nack(first)
            worker.ack(second)
            assert bench.one(worker).envelope == first.envelope

    @proves(promise.SENT_IS_RECEIVED, promise.JOINS_THE_TRANSACTION)
    def test_what_was_sent_in_a_transaction_comes_at_once_although_the_clock_was_set_back_before_its_end(self) -> None:
        self.require_movable_clock()
        for kind in self.transaction_kinds():
            with self.bench() as bench:
                worker = bench.worker()
                envelope = bench.envelope()
                with worker.transaction(kind) as transaction:
                    transaction.send([envelope])
                    bench.set_back(3600.0)
                    transaction.commit()

                assert bench.one(worker).envelope == envelope

    @proves(promise.SENT_IS_RECEIVED)
    def test_what_was_given_back_or_revived_comes_at_once_although_the_clock_was_set_back(self) -> None:
        self.require_movable_clock()

        def revive(bench: Bench, worker: RecordedWorker, held: Delivery) -> None:
            worker.dead_letter(held)
            bench.advance(bench.times.step)
            worker.revive({bench.dead_letter(worker).ref: b""})

        acts: list[Callable[[Bench, RecordedWorker, Delivery], object]] = [
            lambda _, worker, held: worker.nack(held),
            lambda _, worker, held: worker.release(held),
            lambda _, worker, held: worker.settles(held, Lost()),
        ]
        if self.harness.capabilities.dead_letters:
            acts.append(revive)
        keys = (None, "a") if self.harness.capabilities.order == "per key" else (None,)
        for key, act in product(keys, acts):
            with self.bench() as bench:
                worker = bench.worker()
                worker.send([bench.envelope(ordering_key=key)])
                held = bench.one(worker)
                act(bench, worker, held)

                bench.set_back(3600.0)

                assert bench.one(worker).envelope == held.envelope

    @proves(promise.REVIVED_IS_RECEIVED)
    def test_what_was_revived_behind_an_event_of_its_key_comes_after_it_although_the_clock_was_set_back(self) -> None:
        self.require_movable_clock()
        key = "a" if self.harness.capabilities.order == "per key" else None
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope(ordering_key=key)])
            held = bench.one(worker)
            worker.dead_letter(held)
            bench.advance(bench.times.step)
            worker.send([bench.envelope(ordering_key=key)])
            worker.revive({bench.dead_letter(worker).ref: b""})

            bench.set_back(3600.0)

            came = []
            for _ in range(2):
                delivery = bench.one(worker)
                worker.ack(delivery)
                came.append(delivery.envelope)
            assert held.envelope in came

    @proves(promise.ORDER_IS_KEPT)
    def test_the_next_of_an_ordering_key_comes_at_once_although_the_clock_was_set_back(self) -> None:
        self.require_movable_clock()
        with self.bench() as bench:
            worker = bench.worker()
            first, second = bench.envelopes(2, ordering_key="a")
            worker.send([first, second])

            bench.set_back(3600.0)

            worker.ack(bench.one(worker))
            assert bench.one(worker).envelope == second

    @proves(promise.STATS_ARE_TRUE_AT_REST)
    def test_the_age_of_the_oldest_event_is_not_negative_when_the_clock_is_set_back(self) -> None:
        self.require_movable_clock()
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])

            bench.set_back(3600.0)

            worker.stats(bench.queue)  # which has to be well-formed

    @proves(promise.DELAY_IS_RESPECTED)
    def test_a_delay_is_not_shortened_when_the_clock_is_set_back(self) -> None:
        self.require_movable_clock()
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()], delay=bench.times.delay)

            bench.set_back(bench.times.delay)

            assert bench.glimpse(worker) == []

    @proves(promise.NOBODY_STARVES)
    def test_an_event_comes_although_its_neighbour_fails_for_ever_while_the_clock_stands_or_is_set_back(self) -> None:
        self.require_movable_clock()
        is_delayed = (False, True) if self.harness.capabilities.delay is not None else (False,)
        for seconds, waits in product((0.0, 3600.0), is_delayed):
            with self.bench() as bench:
                worker = bench.worker()
                for envelope in bench.envelopes(2):
                    worker.send([envelope])
                if seconds:
                    bench.set_back(seconds)

                failing = delivery = bench.one(worker, limit=1)
                for _ in range(ENOUGH):
                    if delivery.envelope != failing.envelope:
                        break
                    worker.nack(delivery, delay=bench.times.delay if waits else 0.0)
                    if waits:
                        bench.let_delays_end()
                    delivery = bench.one(worker, limit=1)

                assert delivery.envelope != failing.envelope, f"an event was nacked {ENOUGH} times, and no other came"
                worker.ack(delivery)

    @proves(promise.NOBODY_STARVES)
    def test_a_retry_comes_although_more_are_sent_after_the_clock_was_set_back(self) -> None:
        self.require_movable_clock()
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(2))
            bench.set_back(3600.0)
            failed = bench.one(worker, limit=1)
            worker.nack(failed)

            for _ in range(ENOUGH):
                bench.advance(bench.times.step)
                worker.send([bench.envelope()])
                delivery = bench.one(worker, limit=1)
                worker.ack(delivery)
                if delivery.envelope == failed.envelope:
                    return

            raise AssertionError(f"{ENOUGH} receives returned other events, and not the one that was nacked")

    def require_movable_clock(self) -> None:
        """Skip the test if the clock cannot be set."""
        if not isinstance(self.harness.clock, MovableClock):
            pytest.skip("the clock cannot be set")
