"""Scenarios of settling."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from relevo import MAX_LEASE, MAX_STATE, Ack, DeadLetter, Delivery, Lost, Nack, Note, Outcome, Release
from relevo.errors import ConfigurationError, LeaseLostError
from relevo_conformance import promise
from relevo_conformance._contract_race import each_outcome
from relevo_conformance.bench import Bench
from relevo_conformance.contract import Contract, proves
from relevo_conformance.worker import RecordedWorker

STATE = bytes(range(256)) * (MAX_STATE // 256)
TOO_LONG = STATE + b"\0"

SOME = 9
"""How many events are held, of which every second one is settled in one call."""

LONG_LEASES = (3600.0, 86_400.0, MAX_LEASE)
"""Seconds; the last ones are longer than stores with their own limits take by default."""

MANY = 250
"""The size of a batch of settlements that a store may have to split."""


class SettleContract(Contract):
    """Each outcome has its whole effect, on its own event."""

    @proves(promise.ACK_IS_FINAL)
    def test_what_is_done_never_comes_again(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(3))
            for delivery in bench.receive(worker, 3):
                assert worker.ack(delivery)

            bench.advance(2 * bench.times.lease if not bench.is_connected else 1.0 + bench.times.step)
            bench.lose(worker)

            assert bench.glimpse(bench.worker()) == []

    @proves(promise.ACK_IS_FINAL)
    def test_each_settlement_of_a_batch_stands_alone(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(4))
            stale, done, back, kept = bench.so_many(worker, 4)
            worker.ack(stale)

            lost = worker.settle([(done, Ack()), (stale, Nack()), (back, Nack(state=b"once")), (kept, Release())])

            assert list(lost) == [stale]
            again = bench.receive(worker, 2)
            assert {(one.envelope, one.attempt, one.state) for one in again} == {
                (back.envelope, 2, b"once"),
                (kept.envelope, 1, b""),
            }

    @proves(promise.ACK_IS_FINAL, promise.NACK_RETURNS_LATER)
    def test_each_settlement_of_a_long_batch_counts(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(MANY))
            held = bench.receive(worker, MANY, limit=MANY)
            outcomes: list[Outcome] = [Ack(), Nack(state=b"again")]

            lost = worker.settle(list(zip(held, itertools.cycle(outcomes))))

            assert list(lost) == []
            again = bench.receive(worker, MANY // 2, limit=MANY)
            assert {(one.envelope, one.attempt, one.state) for one in again} == {
                (one.envelope, 2, b"again") for one in held[1::2]
            }
            assert list(worker.settle([(one, Ack()) for one in again])) == []

    @proves(promise.ACK_IS_FINAL, promise.STALE_SETTLE_IS_REFUSED)
    def test_some_deliveries_that_are_settled_in_one_call_take_no_other_along(self) -> None:
        def settle_some(outcome: Outcome) -> None:
            with self.bench() as bench:
                worker = bench.worker()
                worker.send(bench.envelopes(SOME))
                held = [bench.one(worker) for _ in range(SOME)]
                some = held[1::2]

                assert list(worker.settle([(one, outcome) for one in some])) == []

                others = [one for one in held if one not in some]
                assert list(worker.settle([(one, Nack(state=b"other")) for one in others])) == []

        self.each(each_outcome(self.harness.capabilities), settle_some)

    @proves(promise.NACK_RETURNS_LATER)
    def test_what_is_given_back_comes_again_with_the_next_attempt(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])

            for attempt in range(1, 5):
                delivery = bench.one(worker)
                assert (delivery.attempt, delivery.lost_leases) == (attempt, 0)
                assert worker.nack(delivery)

    @proves(promise.NACK_RETURNS_LATER)
    def test_what_is_given_back_comes_to_any_worker(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            worker.send([bench.envelope()])
            worker.nack(bench.one(worker))
            worker.close()

            assert bench.one(other).attempt == 2

    @proves(promise.NACK_RETURNS_LATER)
    def test_what_is_given_back_keeps_its_state_until_it_is_replaced(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])

            for said, kept in ((STATE, STATE), (None, STATE), (b"", b""), (b"\x00", b"\x00")):
                worker.nack(bench.one(worker), state=said)
                delivery = bench.one(worker)
                assert delivery.state == kept
                worker.release(delivery)

    @proves(promise.NACK_RETURNS_LATER, promise.DELAY_IS_RESPECTED)
    def test_what_is_given_back_for_later_does_not_come_early(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])

            held = bench.one(worker)
            due = self.harness.clock.now() + bench.times.delay

            worker.nack(held, delay=bench.times.delay, state=b"later")

            early = bench.glimpse(worker)
            bench.approach(due)
            early += bench.glimpse(worker)
            assert early == [] or not self.harness.fake
            bench.advance(10 * self.harness.slack + (self.harness.capabilities.delay or 0.0) + self.harness.slack)
            for delivery in early or bench.receive(worker):  # on a real clock its time may have come
                assert (delivery.attempt, delivery.state) == (2, b"later")

    @proves(promise.DELAY_IS_RESPECTED)
    def test_a_delay_is_not_shortened_by_a_fraction_of_a_millisecond(self) -> None:
        if not self.harness.fake:
            pytest.skip("a real clock cannot be stopped so shortly before a time")
        claims = self.harness.capabilities

        def send(bench: Bench, worker: RecordedWorker, delay: float) -> None:
            worker.send([bench.envelope()], delay=delay)

        def commit(bench: Bench, worker: RecordedWorker, delay: float) -> None:
            with worker.transaction() as transaction:
                transaction.send([bench.envelope()], delay=delay)
                transaction.commit()

        def settle(kind: type[Nack | Release], bench: Bench, worker: RecordedWorker, delay: float) -> None:
            worker.send([bench.envelope()])
            assert worker.settles(bench.one(worker), kind(delay=delay))

        def revive(bench: Bench, worker: RecordedWorker, delay: float) -> None:
            worker.send([bench.envelope()])
            worker.dead_letter(bench.one(worker))
            assert not worker.revive_later({bench.dead_letter(worker).ref: b""}, delay=delay)

        ways: list[tuple[bool, Callable[[Bench, RecordedWorker, float], None]]] = [
            (True, send),
            (claims.transactional, commit),
            (True, partial(settle, Nack)),
            (True, partial(settle, Release)),
            (claims.take and claims.dead_letters, revive),
        ]

        def play(case: tuple[Callable[[Bench, RecordedWorker, float], None], float]) -> None:
            way, fraction = case
            with self.bench() as bench:
                worker = bench.worker()
                delay = bench.times.delay + fraction
                due = self.harness.clock.now() + delay
                way(bench, worker, delay)

                bench.approach(due)

                assert bench.glimpse(worker) == []
                bench.advance(12 * self.harness.slack + (claims.delay or 0.0))
                bench.one(worker)

        # One that is cut to milliseconds, and one that is rounded to them, would be due early.
        self.each([(way, fraction) for is_claimed, way in ways if is_claimed for fraction in (0.000_9, 0.000_4)], play)

    @proves(promise.NACK_RETURNS_LATER, promise.DELAY_IS_RESPECTED)
    def test_what_is_given_back_for_later_outlives_the_worker(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            worker.nack(bench.one(worker), delay=bench.times.delay, state=b"later")

            bench.lose(worker)
            bench.let_delays_end()

            delivery = bench.one(bench.worker())
            assert (delivery.attempt - delivery.lost_leases, delivery.state) == (2, b"later")

    @proves(promise.NACK_RETURNS_LATER, promise.DELAY_IS_RESPECTED)
    def test_two_delays_of_one_batch_that_differ_by_less_than_a_second_are_kept_each(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            for kind in (Nack, Release):
                worker.send(bench.envelopes(2))
                first, second = bench.so_many(worker, 2)
                delay = bench.times.delay + 0.2

                worker.settle([(first, kind(delay=delay)), (second, kind(delay=delay + 0.7))])
                bench.advance(delay + (bench.capabilities.delay or 0.0) + 3 * self.harness.slack)

                # The checker knows whether the other one is early; on a slow machine it is due.
                came = bench.receive(worker, 1, limit=10)
                assert first.envelope in [each.envelope for each in came]
                bench.advance(0.7)
                if len(came) < 2:
                    came += bench.receive(worker)
                for each in came:
                    worker.ack(each)

    @proves(promise.RELEASE_COUNTS_NOTHING)
    def test_what_is_released_comes_as_if_it_had_never_been_out(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            worker.send([bench.envelope()])
            worker.nack(bench.one(worker), state=b"once")

            for holder in (worker, other, worker):
                delivery = bench.one(holder)
                assert (delivery.attempt, delivery.lost_leases, delivery.state) == (2, 0, b"once")
                assert holder.release(delivery)

    @proves(promise.RELEASE_COUNTS_NOTHING)
    def test_what_is_released_keeps_its_lost_leases(self) -> None:
        with self.bench() as bench:
            lost, worker = bench.worker(), bench.worker()
            lost.send([bench.envelope()])
            bench.one(lost)
            bench.lose(lost)
            first = bench.one(worker)

            worker.release(first)

            again = bench.one(worker)
            assert (again.attempt, again.lost_leases) == (first.attempt, first.lost_leases)

    @proves(promise.DEAD_IS_KEPT_WITH_REASON)
    def test_what_is_dead_is_kept_with_all_that_is_known(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelope = bench.envelope(headers={"signature": "v1=abc"}, body=bench.fitting(bytes(range(256))))
            worker.send([envelope])
            worker.nack(bench.one(worker), state=b"once")
            died = DeadLetter(reason="retries-exhausted", error="Traceback:\n \u2603 no such image", state=STATE)

            assert worker.settles(bench.one(worker), died)

            assert bench.glimpse(worker) == []
            entry = bench.dead_letter(worker)
            assert entry.envelope == envelope
            assert (entry.reason, entry.error, entry.state) == (died.reason, died.error, died.state)
            assert (entry.queue, entry.attempt, entry.lost_leases) == (bench.queue, 2, 0)

    @proves(promise.DEAD_IS_KEPT_WITH_REASON)
    def test_what_is_dead_keeps_the_state_that_nobody_replaced(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            worker.nack(bench.one(worker), state=b"once")

            worker.dead_letter(bench.one(worker))

            entry = bench.dead_letter(worker)
            assert entry.state == b"once"

    @proves(promise.DEAD_IS_KEPT_WITH_REASON)
    def test_what_is_dead_outlives_every_worker(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            worker.dead_letter(bench.one(worker))

            bench.lose(worker)

            assert len(bench.worker().dead_letters([bench.queue])) == 1


class StateContract(Contract):
    """The state of a delivery has a limit."""

    @proves(promise.STATE_IS_BOUNDED)
    def test_a_state_that_is_too_long_is_refused_and_the_delivery_stays_held(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            worker.send(bench.envelopes(2))
            for delivery in bench.receive(worker, 2):
                worker.nack(delivery, state=STATE)
            first, second = bench.so_many(worker, 2)

            for outcome in self.oversized():
                with pytest.raises(ConfigurationError):
                    worker.settle([(second, Ack()), (first, outcome)])

            assert bench.glimpse(other) == []
            assert worker.ack(second)
            assert worker.nack(first)
            assert bench.one(other).state == STATE

    @proves(promise.STATE_IS_BOUNDED, promise.CHECKPOINT_SURVIVES_A_LOST_LEASE)
    def test_a_checkpoint_of_a_state_that_is_too_long_is_refused(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            delivery = bench.one(worker)
            worker.checkpoint(delivery, STATE)

            with pytest.raises(ConfigurationError):
                worker.checkpoint(delivery, TOO_LONG)

            assert worker.nack(delivery)
            assert bench.one(worker).state == STATE

    @proves(promise.STATE_IS_BOUNDED, promise.REVIVED_IS_RECEIVED)
    def test_nothing_is_revived_with_a_state_that_is_too_long(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(2))
            for delivery in bench.so_many(worker, 2):
                worker.dead_letter(delivery)
            first, second = (entry.ref for entry in bench.dead_letters(worker, 2))

            with pytest.raises(ConfigurationError):
                worker.revive({first: b"", second: TOO_LONG})
            if self.harness.capabilities.take:
                with pytest.raises(ConfigurationError):
                    worker.revive_later({first: b"", second: TOO_LONG}, delay=bench.times.delay)

            assert [entry.ref for entry in worker.dead_letters([bench.queue])] == [first, second]

    def oversized(self) -> list[Outcome]:
        """Return each call that stores a state, with a state that is too long."""
        outcomes: list[Outcome] = [Nack(state=TOO_LONG), Lost(state=TOO_LONG)]
        if self.harness.capabilities.dead_letters:
            outcomes.append(DeadLetter(reason="too long", state=TOO_LONG))
        return outcomes


class StaleContract(Contract):
    """A settlement after the lease was lost changes nothing, and reports that."""

    def outcomes(self) -> list[Outcome]:
        """Return one outcome of each kind that the transport supports."""
        outcomes: list[Outcome] = [Ack(), Nack(state=b"stale"), Release(), Lost(state=b"stale")]
        if self.harness.capabilities.dead_letters:
            outcomes.append(DeadLetter(reason="stale", state=b"stale"))
        return outcomes

    @proves(promise.STALE_SETTLE_IS_REFUSED)
    def test_a_second_settlement_changes_nothing_whatever_the_first_was(self) -> None:
        def settle_twice(first: Outcome) -> None:
            with self.bench() as bench:
                worker = bench.worker()
                worker.send([bench.envelope()])
                delivery = bench.one(worker)
                worker.settles(delivery, first)

                for second in self.outcomes():
                    assert not worker.settles(delivery, second)

        self.each(self.outcomes(), settle_twice)

    @proves(promise.STALE_SETTLE_IS_REFUSED)
    def test_a_delivery_that_stands_twice_in_a_batch_is_settled_once(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            delivery = bench.one(worker)

            lost = worker.settle([(delivery, Nack(state=b"first")), (delivery, Ack())])

            assert list(lost) == [delivery]
            again = bench.one(worker)
            assert (again.attempt, again.state) == (2, b"first")

    @proves(promise.STALE_SETTLE_IS_REFUSED)
    def test_an_old_receipt_changes_nothing_while_a_new_holder_lives(self) -> None:
        def settle_late(outcome: Outcome) -> None:
            with self.bench() as bench:
                old, new = self._two_holders(bench)

                assert not bench.recorder.workers[0].settles(old, outcome)

                # The new holder still holds it: no other worker gets it, and its own settlement counts.
                assert bench.glimpse(bench.recorder.workers[0]) == []
                assert bench.recorder.workers[1].nack(new, state=b"new")
                again = bench.one(bench.recorder.workers[1])
                assert (again.attempt, again.state) == (new.attempt + 1, b"new")

        self.each(self.outcomes(), settle_late)

    @proves(promise.STALE_SETTLE_IS_REFUSED)
    def test_nothing_is_done_with_the_receipt_of_an_earlier_hand_over(self) -> None:
        claims = self.harness.capabilities

        def act_late(outcome: Outcome) -> None:
            with self.bench() as bench:
                slow, quick = bench.worker(), bench.worker()
                slow.send([bench.envelope()])
                old = bench.one(slow)
                slow.settles(old, outcome)
                new = bench.one(quick)

                if claims.extend:
                    assert list(slow.extend([old], lease=3 * bench.times.lease)) == [old]
                if claims.checkpoint:
                    with pytest.raises(LeaseLostError):
                        slow.checkpoint(old, b"stale")
                assert not slow.settles(old, Nack(state=b"stale"))

                assert quick.nack(new)
                again = bench.one(quick)
                assert (again.attempt, again.state) == (new.attempt + 1, new.state)

        outcomes: Sequence[Outcome] = (Release(), Nack(), Lost())
        self.each(outcomes, act_late)

    @proves(promise.STALE_SETTLE_IS_REFUSED)
    def test_a_receipt_of_a_lost_worker_changes_nothing_in_the_hand_of_another(self) -> None:
        def settle_for_another(outcome: Outcome) -> None:
            with self.bench() as bench:
                lost, other = bench.worker(), bench.worker()
                lost.send([bench.envelope()])
                old = bench.one(lost)
                bench.lose(lost)
                new = bench.one(other)

                assert not other.settles(old, outcome)

                assert other.ack(new)

        self.each(self.outcomes(), settle_for_another)

    @proves(promise.STALE_SETTLE_IS_REFUSED)
    def test_the_short_operations_say_that_a_lease_was_lost(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            delivery = bench.one(worker)
            worker.ack(delivery)

            claims = self.harness.capabilities
            operations: list[tuple[bool, Callable[[], object]]] = [
                (True, lambda: worker.transport.ack(delivery)),
                (True, lambda: worker.transport.nack(delivery)),
                (claims.dead_letters, lambda: worker.transport.dead_letter(delivery, reason="gave-up")),
                (claims.checkpoint, lambda: worker.checkpoint(delivery, b"stale")),
                (claims.presence, lambda: worker.begin(delivery, Note(by="a1::0:0:0"))),
            ]
            worker.transport.name = "orders"
            for operation in (each for is_claimed, each in operations if is_claimed):
                with pytest.raises(LeaseLostError) as caught:
                    operation()

                named = caught.value.delivery
                assert isinstance(named, Delivery), f"the error names {named!r}, which is not a Delivery"
                assert named.envelope == delivery.envelope, f"the error names {named!r}, not {delivery!r}"
                assert caught.value.transport == "orders", f'the error names "{caught.value.transport}", not "orders"'

    @proves(promise.STALE_SETTLE_IS_REFUSED, promise.REVIVED_IS_RECEIVED)
    def test_a_receipt_from_before_the_death_changes_nothing_after_the_revival(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            old = bench.one(worker)
            worker.dead_letter(old)
            entry = bench.dead_letter(worker)
            worker.revive({entry.ref: b"revived"})
            new = bench.one(worker)

            for outcome in self.outcomes():
                assert not worker.settles(old, outcome)

            assert (new.attempt, new.lost_leases, new.state) == (1, 0, b"revived")
            assert worker.ack(new)

    @proves(promise.STALE_SETTLE_IS_REFUSED, promise.EXTEND_KEEPS_THE_LEASE)
    def test_an_old_receipt_extends_nothing(self) -> None:
        with self.bench() as bench:
            old, new = self._two_holders(bench)
            worker = bench.recorder.workers[0]

            assert list(worker.extend([old], lease=10 * bench.times.lease)) == [old]

            assert bench.recorder.workers[1].ack(new)

    @proves(promise.STALE_SETTLE_IS_REFUSED, promise.CHECKPOINT_SURVIVES_A_LOST_LEASE)
    def test_an_old_receipt_keeps_no_checkpoint(self) -> None:
        with self.bench() as bench:
            old, new = self._two_holders(bench)

            with pytest.raises(LeaseLostError):
                bench.recorder.workers[0].checkpoint(old, b"stale")

            bench.recorder.workers[1].nack(new)
            assert bench.one(bench.recorder.workers[1]).state == b""

    @proves(promise.STALE_SETTLE_IS_REFUSED)
    def test_a_settlement_after_the_lease_counts_for_nothing_though_nobody_noticed_its_end(self) -> None:
        self.require_timed_leases()
        for outcome in self.outcomes():
            with self.bench() as bench:
                worker = bench.worker()
                worker.send([bench.envelope()])
                held = bench.one(worker)
                bench.let_leases_end()

                assert not worker.settles(held, outcome), "it was settled although its lease had ended"

    @proves(promise.STALE_SETTLE_IS_REFUSED, promise.EXTEND_KEEPS_THE_LEASE)
    def test_a_lease_that_is_over_is_not_extended_though_nobody_noticed_its_end(self) -> None:
        self.require_timed_leases()
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            held = bench.one(worker)
            bench.let_leases_end()

            assert list(worker.extend([held], lease=bench.times.lease)) == [held]

    @proves(promise.STALE_SETTLE_IS_REFUSED, promise.CHECKPOINT_SURVIVES_A_LOST_LEASE)
    def test_a_checkpoint_after_the_lease_is_not_kept_though_nobody_noticed_its_end(self) -> None:
        self.require_timed_leases()
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            held = bench.one(worker)
            bench.let_leases_end()

            with pytest.raises(LeaseLostError):
                worker.checkpoint(held, b"late")

    def _two_holders(self, bench: Bench) -> tuple[Delivery, Delivery]:
        """Return a delivery whose lease the first worker lost, and the next delivery, which the second worker holds."""
        slow, quick = bench.worker(), bench.worker()
        slow.send([bench.envelope()])
        old = bench.one(slow)
        if bench.is_connected:
            # Its connection lasts as long as the worker, so it releases the event first.
            slow.release(old)
        else:
            bench.advance(bench.times.lease + self.harness.slack)
        return old, bench.one(quick)


class LeaseContract(Contract):
    """A lease can be extended, and a checkpoint survives a lost lease."""

    @proves(promise.EXTEND_KEEPS_THE_LEASE)
    def test_an_extended_lease_holds(self) -> None:
        with self.bench() as bench:
            holder, other = bench.worker(), bench.worker()
            holder.send(bench.envelopes(2))
            began = self.harness.clock.now()
            held = bench.receive(holder, 2)

            for _ in range(4):
                bench.advance(bench.times.lease / 2)
                began = self.harness.clock.now()
                assert list(holder.extend(held, lease=bench.times.lease)) == []

            bench.approach_the_end_of_a_lease(began)

            assert bench.glimpse(other) == []
            for delivery in held:
                assert holder.ack(delivery)

    @proves(promise.LEASED_IS_HIDDEN)
    def test_a_lease_of_an_hour_a_day_or_a_week_is_kept_to_its_end(self) -> None:
        self.require_timed_leases()
        if not self.harness.fake:
            pytest.skip("the lease is too long for a real clock")
        for lease in LONG_LEASES:
            for extends in (False, True) if self.harness.capabilities.extend else (False,):
                with self.bench() as bench:
                    holder, other = bench.worker(), bench.worker()
                    holder.send([bench.envelope()])
                    held = bench.one(holder, lease=bench.times.lease if extends else lease)
                    ends = self.harness.clock.now() + lease
                    if extends:
                        assert not holder.extend([held], lease=lease)

                    bench.approach(ends)
                    assert bench.glimpse(other) == [], f"a lease of {lease:g} s was not kept"
                    bench.advance(1.0 + 20 * self.harness.slack)
                    assert bench.one(other).lost_leases == 1, f"a lease of {lease:g} s did not end"

    @proves(promise.EXTEND_KEEPS_THE_LEASE)
    def test_some_leases_that_are_extended_in_one_call_take_no_other_along(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            worker.send(bench.envelopes(SOME))
            held = bench.so_many(worker, SOME)

            assert not worker.extend(held[1::2], lease=4 * bench.times.lease)
            bench.let_leases_end()

            came = bench.so_many(other, len(held[::2]))
            assert {one.envelope for one in came} == {one.envelope for one in held[::2]}

    @proves(promise.LOST_LEASE_RETURNS)
    def test_equal_leases_begin_with_the_receive_that_states_them(self) -> None:
        self.require_timed_leases()
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            worker.send(bench.envelopes(2))
            first = bench.one(worker)
            bench.advance(bench.times.lease / 2)
            second = bench.one(worker)

            bench.advance(bench.times.lease / 2 + 3 * self.harness.slack)

            # The checker knows which lease has ended.
            again = bench.one(other)
            assert again.envelope == first.envelope or not self.harness.fake
            worker.settle([(second, Ack())])

    @proves(promise.EXTEND_KEEPS_THE_LEASE)
    def test_an_extended_lease_runs_out_too(self) -> None:
        with self.bench() as bench:
            holder, other = bench.worker(), bench.worker()
            holder.send([bench.envelope()])
            held = bench.one(holder)
            holder.extend([held], lease=2 * bench.times.lease)

            bench.advance(2 * bench.times.lease + self.harness.slack)

            assert bench.one(other).lost_leases == 1

    @proves(promise.EXTEND_KEEPS_THE_LEASE)
    def test_an_extension_that_is_shorter_than_what_is_left_ends_the_lease_sooner(self) -> None:
        with self.bench() as bench:
            holder, other = bench.worker(), bench.worker()
            holder.send([bench.envelope()])
            held = bench.one(holder, lease=3600.0)
            assert not holder.extend([held], lease=bench.times.lease)

            bench.advance(bench.times.lease + self.harness.slack)

            assert bench.one(other).lost_leases == 1

    @proves(promise.EXTEND_KEEPS_THE_LEASE)
    def test_extending_nothing_does_nothing(self) -> None:
        with self.bench() as bench:
            assert list(bench.worker().extend([], lease=bench.times.lease)) == []

    @proves(promise.CHECKPOINT_SURVIVES_A_LOST_LEASE)
    def test_a_checkpoint_survives_a_lost_lease(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            worker.send([bench.envelope()])
            delivery = bench.one(worker)
            worker.checkpoint(delivery, b"first")
            worker.checkpoint(delivery, STATE)

            bench.lose(worker)

            again = bench.one(other)
            assert (again.state, again.lost_leases) == (STATE, 1)

    @proves(promise.CHECKPOINT_SURVIVES_A_LOST_LEASE)
    def test_a_checkpoint_stays_when_the_outcome_says_nothing_of_the_state(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            delivery = bench.one(worker)
            worker.checkpoint(delivery, b"half done")

            assert worker.nack(delivery)

            assert bench.one(worker).state == b"half done"
