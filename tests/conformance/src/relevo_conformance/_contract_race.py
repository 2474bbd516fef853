"""
Scenarios of two concurrent calls, whose steps are interleaved by a drawn schedule.

If a store runs each call as one step, there are few different schedules. These scenarios find a call that reads,
and then writes on the assumption that nothing has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import pytest
from hypothesis import given, strategies as st

from relevo import Ack, Capabilities, DeadLetter, Delivery, Envelope, Lost, Nack, Note, Outcome, Release, Settlement
from relevo.errors import LeaseLostError
from relevo_conformance import promise
from relevo_conformance.bench import Bench
from relevo_conformance.contract import Contract, proves
from relevo_conformance.harness import HookMissing
from relevo_conformance.worker import RecordedWorker

Schedule = Sequence[int]

LONGEST = 12
"""Steps that are drawn; after them the first call runs to its end."""


_STEPS_OF_A_WAIT = 8
"""Steps of a receive after which something is sent; a transport that looks again and again takes any number."""

_WAIT = 8.0
"""Seconds of a receive that waits; half of them are too many."""

SCHEDULES: st.SearchStrategy[Schedule] = st.lists(st.integers(0, 1), max_size=LONGEST)


class RaceContract(Contract):
    """Each of two concurrent calls has its whole effect or none."""

    def whatever_comes_between(self, check: Callable[[Bench, Schedule], None], *, longest: int = LONGEST) -> None:
        """Run *check* with many schedules, each on its own bench; calls are interrupted before step *longest*."""
        if not self.harness.has("turnstile"):
            raise HookMissing("turnstile")
        # A write based on an outdated read shows where one call takes some steps, and then the other runs to its end.
        # Each such schedule is tried, since the window is often one step wide; after the end of the first call all
        # are the same.
        for first in (0, 1):
            for steps in range(1, longest):
                with self.bench() as bench:
                    check(bench, [first] * steps + [1 - first] * longest)
                if bench.steps[first] <= steps:
                    break

        @self.profile.of_schedules(fake=self.harness.fake, durable=self.harness.is_durable, phases=self.phases)
        @given(schedule=SCHEDULES)
        def run(schedule: Schedule) -> None:
            with self.bench() as bench:
                check(bench, schedule)

        run()

    @proves(promise.LEASED_IS_HIDDEN, promise.TAKEN_BY_ITS_ID)
    def test_a_take_while_somebody_receives_hands_the_event_out_once(self) -> None:
        def check(bench: Bench, schedule: Schedule) -> None:
            one, other = bench.worker(), bench.worker()
            envelope = bench.envelope()
            one.send([envelope])
            came: list[tuple[RecordedWorker, Delivery]] = []

            def take() -> None:
                came.extend((one, each) for each in one.take(bench.queue, envelope.id, lease=bench.times.lease))

            def receive() -> None:
                came.extend((other, each) for each in receiving(bench, other, 1)())

            bench.at_once(schedule, (one, take), (other, receive))

            for worker, delivery in came:
                assert worker.ack(delivery)

        self.whatever_comes_between(check)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_of_two_unique_sends_at_once_one_is_a_duplicate(self) -> None:
        def check(bench: Bench, schedule: Schedule) -> None:
            one, other, own = bench.worker(), bench.worker(), bench.queue
            for worker, key in ((one, own if len(schedule) % 2 else f"{own} one"), (other, f"{own} other")):
                # They are connected then; and every second time, the key was another event's before.
                assert worker.transport.send_unique([bench.envelope()], key=key) is None
            bench.past_the_recorder(one, 2)
            mine, others = bench.envelopes(2)
            answers: dict[str, str | None] = {}

            def send(worker: RecordedWorker, envelope: Envelope) -> None:
                answers[envelope.id] = worker.transport.send_unique([envelope], key=own)

            bench.at_once(schedule, (one, lambda: send(one, mine)), (other, lambda: send(other, others)))

            accepted = [event_id for event_id, living in answers.items() if living is None]
            assert len(accepted) == 1, f"of two events with one key {len(accepted)} were accepted"
            assert [living for living in answers.values() if living is not None] == accepted
            came = bench.past_the_recorder(one, 2)
            assert [each.envelope.id for each in came if isinstance(each.envelope, Envelope)] == accepted

        self.whatever_comes_between(check, longest=16)

    @proves(promise.LEASED_IS_HIDDEN)
    def test_two_receives_at_once_hand_out_each_event_once(self) -> None:
        def check(bench: Bench, schedule: Schedule) -> None:
            one, other = bench.worker(), bench.worker()
            one.send(bench.envelopes(3))

            bench.at_once(schedule, (one, receiving(bench, one, 2)), (other, receiving(bench, other, 2)))

        self.whatever_comes_between(check)

    @proves(promise.ORDER_IS_KEPT)
    def test_two_receives_at_once_of_one_key_take_turns(self) -> None:
        def check(bench: Bench, schedule: Schedule) -> None:
            one, other = bench.worker(), bench.worker()
            one.send(bench.envelopes(3, ordering_key="a"))

            bench.at_once(schedule, (one, receiving(bench, one, 2)), (other, receiving(bench, other, 2)))

        self.whatever_comes_between(check)

    @proves(promise.NACK_RETURNS_LATER, promise.RELEASE_COUNTS_NOTHING)
    def test_what_is_given_back_while_somebody_receives_is_handed_out_whole(self) -> None:
        def check(bench: Bench, schedule: Schedule) -> None:
            holder, other = bench.worker(), bench.worker()
            holder.send(bench.envelopes(3))
            first, second = bench.so_many(holder, 2)
            back: list[Settlement] = [(first, Nack(state=b"given back")), (second, Release())]

            bench.at_once(schedule, (holder, lambda: holder.settle(back)), (other, receiving(bench, other, 3)))

        self.whatever_comes_between(check)

    @proves(promise.STALE_SETTLE_IS_REFUSED)
    def test_of_two_settlements_of_one_receipt_one_counts(self) -> None:
        outcomes = each_outcome(self.harness.capabilities)

        def check(bench: Bench, schedule: Schedule) -> None:
            one, other = bench.worker(), bench.worker()
            one.send([bench.envelope()])
            held = bench.one(one)
            outcome = outcomes[len(schedule) % len(outcomes)]
            counted: list[bool] = []

            bench.at_once(
                schedule,
                (one, lambda: counted.append(one.settles(held, Ack()))),
                (other, lambda: counted.append(other.settles(held, outcome))),
            )

            assert sorted(counted) == [False, True]

        self.whatever_comes_between(check)

    @proves(promise.STALE_SETTLE_IS_REFUSED)
    def test_a_settlement_after_the_lease_counts_for_nothing_whoever_receives(self) -> None:
        self.require_timed_leases()

        def check(bench: Bench, schedule: Schedule) -> None:
            slow, other = bench.worker(), bench.worker()
            held = self.overdue(bench, slow)

            bench.at_once(schedule, (slow, lambda: slow.settles(held, Ack())), (other, receiving(bench, other, 1)))

        self.whatever_comes_between(check)

    @proves(promise.EXTEND_KEEPS_THE_LEASE)
    def test_a_lease_that_is_over_is_not_extended_whoever_receives(self) -> None:
        self.require_timed_leases()

        def check(bench: Bench, schedule: Schedule) -> None:
            slow, other = bench.worker(), bench.worker()
            held = self.overdue(bench, slow)

            bench.at_once(
                schedule,
                (slow, lambda: slow.extend([held], lease=bench.times.lease)),
                (other, receiving(bench, other, 1)),
            )

        self.whatever_comes_between(check)

    @proves(promise.CHECKPOINT_SURVIVES_A_LOST_LEASE)
    def test_a_checkpoint_after_the_lease_is_not_kept_whoever_receives(self) -> None:
        self.require_timed_leases()

        def check(bench: Bench, schedule: Schedule) -> None:
            slow, other = bench.worker(), bench.worker()
            held = self.overdue(bench, slow)

            def keep() -> None:
                with suppress(LeaseLostError):
                    slow.checkpoint(held, b"kept")

            bench.at_once(schedule, (slow, keep), (other, receiving(bench, other, 1)))

        self.whatever_comes_between(check)

    @proves(promise.STALE_SETTLE_IS_REFUSED)
    def test_a_settlement_whose_lease_ends_meanwhile_counts_before_it_or_not_at_all(self) -> None:
        for outcome in each_outcome(self.harness.capabilities):
            self._while_its_lease_ends(partial(_settle, outcome))

    @proves(promise.EXTEND_KEEPS_THE_LEASE)
    def test_an_extension_whose_lease_ends_meanwhile_counts_before_it_or_not_at_all(self) -> None:
        self._while_its_lease_ends(lambda slow, held: slow.extend([held], lease=self.lease))

    @proves(promise.CHECKPOINT_SURVIVES_A_LOST_LEASE)
    def test_a_checkpoint_whose_lease_ends_meanwhile_is_kept_before_it_or_not_at_all(self) -> None:
        self._while_its_lease_ends(lambda slow, held: slow.checkpoint(held, b"kept"))

    @property
    def lease(self) -> float:
        """The usual lease on a clock that is moved, in seconds."""
        return 60.0

    def _while_its_lease_ends(self, call: Callable[[RecordedWorker, Delivery], object]) -> None:
        """Let the lease end, and another worker receive the event for longer, after each step of *call*."""
        self.require_timed_leases()
        if not self.harness.has("turnstile"):
            raise HookMissing("turnstile")
        if not self.harness.fake:
            pytest.skip("the clock cannot be moved while a call runs")
        for steps in range(1, LONGEST):
            with self.bench() as bench:
                slow, other = bench.worker(), bench.worker()
                slow.send([bench.envelope()])
                held = bench.one(slow)
                came: list[Delivery] = []

                def act(slow: RecordedWorker = slow, held: Delivery = held) -> None:
                    with suppress(LeaseLostError):
                        call(slow, held)

                def receive(bench: Bench = bench, other: RecordedWorker = other, came: list[Delivery] = came) -> None:
                    bench.let_leases_end()
                    came.extend(other.receive(bench.queues, limit=1, lease=10 * self.lease, wait=0.0))

                bench.at_once([0] * steps + [1] * LONGEST, (slow, act), (other, receive))
                bench.advance(3 * self.lease)
                bench.glimpse(bench.worker())  # the checker knows whether the other one holds it
                for delivery in came:
                    other.ack(delivery)
            if bench.steps[0] <= steps:
                return

    @proves(promise.PURGED_IS_GONE)
    def test_a_purge_while_somebody_receives_takes_out_the_others(self) -> None:
        self.purge_beside_a_receive()

    @proves(promise.PURGED_IS_GONE, promise.DELAY_IS_RESPECTED)
    def test_a_purge_while_somebody_receives_takes_out_the_others_that_are_due_too(self) -> None:
        self.purge_beside_a_receive(are_delayed=True)

    def purge_beside_a_receive(self, *, are_delayed: bool = False) -> None:
        """Check that of some events each is received or removed by a purge at the same time."""

        def check(bench: Bench, schedule: Schedule) -> None:
            holder, other = bench.worker(), bench.worker()
            holder.send(bench.envelopes(3), delay=bench.times.delay if are_delayed else 0.0)
            if are_delayed:
                bench.let_delays_end()
            held: list[Delivery] = []
            purged: list[int] = []

            bench.at_once(
                schedule,
                (holder, lambda: held.extend(receiving(bench, holder, 2)())),
                (other, lambda: purged.append(other.purge(bench.queue))),
            )

            assert len(held) + purged[0] == 3, f"of 3 events {len(held)} were received and {purged[0]} removed"
            for delivery in held:
                assert holder.ack(delivery)

        # A purge looks for the events of each state in turn, in SQL with several steps for each.
        self.whatever_comes_between(check, longest=3 * LONGEST if are_delayed else LONGEST)

    @proves(promise.PURGED_IS_GONE, promise.ORDER_IS_KEPT)
    def test_what_is_sent_during_a_purge_does_not_wait_for_what_was_removed(self) -> None:
        def check(bench: Bench, schedule: Schedule) -> None:
            one, other = bench.worker(), bench.worker()
            bench.glimpse(one)  # nothing yet
            one.send(bench.envelopes(2, ordering_key="k"))
            purged: list[int] = []

            bench.at_once(
                schedule,
                (one, lambda: purged.append(one.purge(bench.queue))),
                (other, lambda: other.send([bench.envelope(ordering_key="k")])),
            )

            left = 3 - purged[0]
            came = len(bench.receive(one, left))
            assert came == left, f"of 3 events {purged[0]} were removed by the purge, and {came} came after it"

        self.whatever_comes_between(check)

    @proves(promise.REVIVED_IS_RECEIVED)
    def test_of_two_revivals_of_one_dead_letter_one_finds_it(self) -> None:
        def check(bench: Bench, schedule: Schedule) -> None:
            one, other = bench.worker(), bench.worker()
            one.send([bench.envelope()])
            one.dead_letter(bench.one(one))
            entry = bench.dead_letter(one)
            missing: list[str] = []

            bench.at_once(
                schedule,
                (one, lambda: missing.extend(one.revive({entry.ref: b"one"}))),
                (other, lambda: missing.extend(other.revive({entry.ref: b"other"}))),
            )

            assert missing == [entry.ref]
            assert one.ack(bench.one(one))

        self.whatever_comes_between(check)

    @proves(promise.LOCK_HAS_ONE_HOLDER, promise.LOCK_IS_KEPT_BY_ITS_RECEIPT)
    def test_an_expired_lock_that_its_holder_and_another_want_at_once_has_one_holder(self) -> None:
        if not self.harness.fake:
            pytest.skip("the clock cannot be moved until a lock has expired")

        def check(bench: Bench, schedule: Schedule, *, act: Callable[[RecordedWorker, str, str], object]) -> None:
            earlier, other, third = (bench.worker() for _ in range(3))
            name = f"{bench.queue}/a"
            stale = earlier.lock(name, holder="one", ttl=bench.times.lease)
            assert stale is not None, "a free lock was refused"
            bench.let_leases_end()
            bench.advance(bench.times.step)  # a lock may be held for a moment longer than a lease
            kept: list[object] = []
            taken: list[str | None] = []

            bench.at_once(
                schedule,
                (earlier, lambda: kept.append(act(earlier, name, stale))),
                (other, lambda: taken.append(other.lock(name, holder="other", ttl=10 * self.lease))),
            )

            (receipt,) = taken
            assert bool(kept[0]) == (receipt is None), "both hold the lock, or neither"
            assert third.lock(name, holder="third", ttl=self.lease) is None, "the lock was given to a third holder"
            if receipt is not None:
                assert other.renew_lock(name, receipt, ttl=self.lease), "the receipt was refused"

        for act in (_renew_lock, RecordedWorker.unlock, _lock_again):
            self.whatever_comes_between(partial(check, act=act))

    @proves(promise.RESENT_IS_ONE)
    def test_two_sends_of_one_event_at_once_make_one(self) -> None:
        def check(bench: Bench, schedule: Schedule) -> None:
            one, other = bench.worker(), bench.worker()
            batch = bench.envelopes(2)

            bench.at_once(schedule, (one, lambda: one.send(batch)), (other, lambda: other.send(batch[::-1])))

            assert len(bench.receive(one, 2, limit=10)) == 2

        self.whatever_comes_between(check)

    @proves(promise.SENT_IS_RECEIVED)
    def test_what_is_sent_while_somebody_receives_comes_now_or_later(self) -> None:
        def check(bench: Bench, schedule: Schedule) -> None:
            sender, other = bench.worker(), bench.worker()
            sender.send(bench.envelopes(1))
            batch = bench.envelopes(2)

            bench.at_once(schedule, (sender, lambda: sender.send(batch)), (other, receiving(bench, other, 3)))

        self.whatever_comes_between(check)

    @proves(promise.WAIT_IS_KEPT)
    def test_a_send_between_two_steps_of_a_receive_ends_its_wait(self) -> None:
        if not self.harness.has("turnstile"):
            raise HookMissing("turnstile")
        for steps in range(1, _STEPS_OF_A_WAIT):
            taken, waited = self._waited_for_a_send(steps)
            if waited >= _WAIT / 2:  # again: the machine may have been slow
                taken, waited = self._waited_for_a_send(steps)
            assert waited < _WAIT / 2, (
                f"a receive with a wait of {_WAIT:g} s returned {waited:.1f} s after an event was sent"
            )
            if taken < steps:
                return

    def _waited_for_a_send(self, steps: int) -> tuple[int, float]:
        """
        Send something after *steps* of a receive that waits.

        Returns:
            How many steps the receive took in all, and the seconds after which it returned the event; 0 if it returned
            nothing, as one does that waits for less.
        """
        with self.bench_whose_clock_runs() as bench:
            receiver, sender = bench.worker(), bench.worker()
            clock, came, sent_at = bench.harness.clock, list[Delivery](), list[float]()

            def receive() -> None:
                came.extend(receiver.receive(bench.queues, limit=1, lease=self.lease, wait=_WAIT))

            def send() -> None:
                sender.send([bench.envelope()])
                sent_at.append(clock.monotonic())

            bench.at_once([0] * steps + [1] * LONGEST, (receiver, receive), (sender, send))
            waited = clock.monotonic() - sent_at[0] if came else 0.0
            for delivery in came:
                receiver.ack(delivery)
            bench.recorder.horizon = 0.0  # all is settled, so the end waits for no lease
            return bench.steps[0], waited

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_what_commits_while_somebody_receives_comes_now_or_later(self) -> None:
        def check(bench: Bench, schedule: Schedule) -> None:
            sender, other = bench.worker(), bench.worker()
            sender.send(bench.envelopes(1))
            with sender.transaction() as transaction:
                transaction.send(bench.envelopes(2))

                bench.at_once(schedule, (sender, transaction.commit), (other, receiving(bench, other, 3)))

        self.whatever_comes_between(check)

    @proves(promise.BEGUN_IS_KEPT)
    def test_an_excuse_while_another_worker_begins_leaves_the_note_of_the_other_one(self) -> None:
        late_note, note = Note(by="a1::0:0:1"), Note(by="a1::0:0:2")

        def check(bench: Bench, schedule: Schedule) -> None:
            late, other = bench.worker(), bench.worker()
            late.send([bench.envelope()])
            held = bench.one(late)
            late.begin(held, late_note)
            late.settles(held, Lost())
            again = bench.one(other)

            bench.at_once(
                schedule, (late, lambda: late.excuse(held, late_note)), (other, lambda: other.begin(again, note))
            )

            other.settles(again, Lost())
            found = bench.one(bench.worker()).begun
            assert found == note, f"the next hand-over shows {found}, not the note of the last worker"

        self.whatever_comes_between(check)

    @proves(promise.SETUP_IS_IDEMPOTENT)
    def test_two_set_ups_at_once_leave_all_that_is_needed(self) -> None:
        if not self.harness.has("turnstile"):
            raise HookMissing("turnstile")
        for first in range(2):
            for steps in range(0, LONGEST, 2):
                self._set_up_twice([first] * steps + [1 - first] * LONGEST)

    def _set_up_twice(self, schedule: Schedule) -> None:
        harness = self.harness_type()  # its own store: something may be set up in the store of the class
        try:
            with Bench(harness) as bench:
                one, other = bench.recorder.worker(), bench.recorder.worker()

                bench.at_once(
                    schedule, (one, lambda: one.setup(bench.queues)), (other, lambda: other.setup(bench.queues))
                )

                assert list(one.setup(bench.queues, dry_run=True)) == []
                other.send([bench.envelope()])
                assert one.ack(bench.one(one))
        finally:
            harness.close()

    def overdue(self, bench: Bench, worker: RecordedWorker) -> Delivery:
        """Return a delivery of *worker* whose lease is over, and which no other worker has received yet."""
        worker.send([bench.envelope()])
        held = bench.one(worker)
        bench.let_leases_end()
        return held


def _renew_lock(worker: RecordedWorker, name: str, receipt: str) -> object:
    return worker.renew_lock(name, receipt, ttl=1200.0)


def _lock_again(worker: RecordedWorker, name: str, _: str) -> object:
    return worker.lock(name, holder="one", ttl=1200.0)


def _settle(outcome: Outcome, worker: RecordedWorker, delivery: Delivery) -> object:
    return worker.settles(delivery, outcome)


def each_outcome(capabilities: Capabilities) -> Sequence[Outcome]:
    """Return one outcome of each kind that a transport with *capabilities* supports."""
    outcomes: list[Outcome] = [Ack(), Nack(state=b"back"), Release(), Lost()]
    if capabilities.dead_letters:
        outcomes.append(DeadLetter(reason="raced"))
    return outcomes


def receiving(bench: Bench, worker: RecordedWorker, limit: int) -> Callable[[], list[Delivery]]:
    """Return a function in which *worker* receives without waiting."""
    return lambda: worker.receive(bench.queues, limit=limit, lease=bench.times.lease, wait=0.0)
