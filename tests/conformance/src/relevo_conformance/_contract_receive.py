"""Scenarios of receiving."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from relevo import Delivery, Lost, Nack, Outcome, Release, Unreadable
from relevo_conformance import promise
from relevo_conformance.bench import Bench, Thread
from relevo_conformance.contract import Contract, proves
from relevo_conformance.worker import RecordedWorker

KEYS = ("a", "A", "a ", " a", "", "\u00e9", "e\u0301", "k" * 200 + "a", "k" * 200 + "b", None, None)
"""Keys that a careless store takes for one: by case, spaces, Unicode's forms or their beginning."""

SOON = 0.02
"""Seconds; a store that looks now and then for what is due may not do so within this time."""


class ReceiveContract(Contract):
    """An event has one holder, and is delivered again when the holder vanishes."""

    @proves(promise.LIMIT_IS_RESPECTED)
    def test_no_more_is_handed_out_than_was_asked_for(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(10))

            first = bench.receive(worker, 3, limit=3)

            assert len(first) == 3

    @proves(promise.LIMIT_IS_RESPECTED, promise.QUEUES_ARE_ISOLATED)
    def test_nothing_is_handed_out_for_a_limit_of_zero_or_of_no_queue(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(2))

            for queues, limit in (([bench.queue], 0), ([], 10), ([], 0)):
                for wait in (0.0, bench.glance):
                    came = worker.receive(queues, limit=limit, lease=bench.times.lease, wait=wait)
                    assert came == [], f"a receive of {len(queues)} queues with a limit of {limit} returned {came}"
            assert len(bench.receive(bench.worker(), 2)) == 2, "what was not handed out is leased"

    @proves(promise.LIMIT_IS_RESPECTED, promise.PREFERENCE_IS_KEPT)
    def test_no_more_is_leased_than_was_handed_out(self) -> None:
        with self.bench() as bench:
            greedy, other = bench.worker(), bench.worker()
            greedy.send(bench.envelopes(5))
            bench.receive(greedy, 2, limit=2)

            rest = bench.receive(other, 3, limit=10)

            assert len(rest) == 3

    @proves(promise.LEASED_IS_HIDDEN)
    def test_what_is_held_is_hidden_from_all_others_and_from_the_holder(self) -> None:
        with self.bench() as bench:
            holder, other = bench.worker(), bench.worker()
            holder.send(bench.envelopes(4))
            held = bench.receive(holder, 4)

            assert bench.glimpse(other) == []
            assert bench.glimpse(holder) == []
            for delivery in held:
                assert holder.ack(delivery)

    @proves(promise.LEASED_IS_HIDDEN)
    def test_a_lease_holds_until_its_end(self) -> None:
        with self.bench() as bench:
            holder, other = bench.worker(), bench.worker()
            holder.send([bench.envelope()])
            began = self.harness.clock.now()
            held = bench.one(holder)

            if bench.is_connected:
                bench.advance(bench.times.step)
            else:
                bench.approach_the_end_of_a_lease(began)

            assert bench.glimpse(other) == []
            assert holder.ack(held)

    @proves(promise.LEASED_IS_HIDDEN)
    def test_a_lease_begins_when_it_is_received_and_not_when_it_is_sent(self) -> None:
        with self.bench() as bench:
            holder, other = bench.worker(), bench.worker()
            holder.send([bench.envelope()])
            bench.advance(2 * bench.times.lease if not bench.is_connected else bench.times.step)

            held = bench.one(holder)

            assert bench.glimpse(other) == []
            assert holder.ack(held)

    @proves(promise.LEASED_IS_HIDDEN)
    def test_workers_that_receive_at_the_same_time_share_what_is_there(self) -> None:
        with self.bench() as bench:
            workers = [bench.worker() for _ in range(3)]
            workers[0].send(bench.envelopes(45))
            got: list[Delivery] = []

            def work(worker: RecordedWorker) -> None:
                def take() -> bool:
                    deliveries = bench.glimpse(worker, limit=4)
                    for delivery in deliveries:
                        worker.ack(delivery)
                    got.extend(deliveries)
                    if not deliveries:  # the other workers hold the rest
                        time.sleep(0.01)
                    return len(got) >= 45

                deadline = time.monotonic() + 20.0
                while not take() and time.monotonic() < deadline:
                    pass

            threads = [Thread(partial(work, worker)) for worker in workers]
            for thread in threads:
                thread.finish()

            assert len(got) == 45

    @proves(promise.LOST_LEASE_RETURNS)
    def test_what_a_lost_worker_held_comes_back(self) -> None:
        with self.bench() as bench:
            holder, other = bench.worker(), bench.worker()
            holder.send(bench.envelopes(3))
            bench.receive(holder, 3)

            bench.lose(holder)

            again = bench.receive(other, 3)
            assert [(one.attempt, one.lost_leases) for one in again] == [(2, 1)] * 3

    @proves(promise.LOST_LEASE_RETURNS)
    def test_what_the_only_worker_held_comes_back_to_the_next_one(self) -> None:
        with self.bench() as bench:
            holder = bench.worker()
            holder.send([bench.envelope()])
            bench.one(holder)

            bench.lose(holder)

            assert bench.one(bench.worker()).lost_leases == 1

    @proves(promise.LOST_LEASES_ARE_COUNTED)
    def test_every_crash_counts_as_an_attempt_and_a_lost_lease(self) -> None:
        with self.bench() as bench:
            bench.worker().send([bench.envelope()])

            for crash in range(4):
                worker = bench.worker()
                delivery = bench.one(worker)
                assert delivery.attempt == 1 + delivery.lost_leases
                assert delivery.lost_leases >= crash
                bench.lose(worker)

    @proves(promise.LOST_LEASES_ARE_COUNTED)
    def test_lost_leases_and_nacks_are_told_apart(self) -> None:
        with self.bench() as bench:
            first = bench.worker()
            first.send([bench.envelope()])
            first.nack(bench.one(first))
            bench.one(first)
            bench.lose(first)
            second = bench.worker()

            delivery = bench.one(second)

            assert delivery.attempt - delivery.lost_leases == 2
            assert delivery.lost_leases == 1

    @proves(promise.LOST_LEASES_ARE_COUNTED)
    def test_whoever_watched_a_process_die_says_so_and_it_comes_back_at_once(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            worker.send([bench.envelope()])
            delivery = bench.one(worker)

            assert worker.report_lost(delivery, state=b"half done")

            again = bench.one(other)
            assert (again.attempt, again.lost_leases, again.state) == (2, 1, b"half done")

    @proves(promise.PREFERENCE_IS_KEPT)
    def test_the_queue_named_first_is_emptied_first(self) -> None:
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            first, second = bench.queues
            worker.send([bench.envelope(queue=queue) for queue in (first, second, first, second)])

            came = bench.receive(worker, 3, queues=[second, first], limit=3)

            # The order within one answer is not promised.
            assert sorted(one.queue for one in came) == sorted([second, second, first])

    @proves(promise.PREFERENCE_IS_KEPT)
    def test_what_becomes_due_in_the_queue_named_first_comes_next(self) -> None:
        resolution = self.harness.capabilities.delay
        if not self.harness.fake or resolution is None or resolution > SOON:
            pytest.skip("no delay of some milliseconds can be awaited")
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            late, others = bench.envelope(), bench.envelopes(4, queue=bench.queues[1])
            worker.send([late], delay=SOON)
            worker.send(others)
            bench.one(worker, queues=bench.queues, limit=1)  # after which a store may not look for what is due

            bench.advance(SOON + resolution + 3 * self.harness.slack)

            assert bench.one(worker, queues=bench.queues, limit=1).envelope == late

    @proves(promise.SENT_IS_RECEIVED)
    def test_a_receive_that_waits_gets_what_is_sent_meanwhile(self) -> None:
        with self.bench() as bench:
            sender, receiver = bench.worker(), bench.worker()
            came: list[Delivery] = []
            deadline = time.monotonic() + 20.0

            def wait() -> None:
                while not came and time.monotonic() < deadline:
                    came.extend(receiver.receive([bench.queue], limit=1, lease=bench.times.lease, wait=5.0))

            waiting = Thread(wait)
            time.sleep(0.1)

            sender.send([bench.envelope()])

            waiting.finish()
            assert len(came) == 1


class UnreadableContract(Contract):
    """Foreign bytes are handed out unchanged, and block nothing."""

    @proves(promise.MALFORMED_IS_QUARANTINED)
    def test_foreign_bytes_are_handed_out_whole_and_those_behind_them_follow(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            before, after = bench.envelopes(2)
            worker.send([before])
            raw = bench.raw()
            worker.send([after])

            deliveries = bench.receive(worker, 3)

            found = [one.envelope for one in deliveries]
            assert before in found
            assert after in found
            unreadable = [one for one in found if isinstance(one, Unreadable)]
            assert [one.raw for one in unreadable] == [raw]
            assert unreadable[0].why

    @proves(promise.MALFORMED_IS_QUARANTINED)
    def test_all_kinds_of_foreign_bytes_are_handed_out(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            put = [bench.raw(raw) for raw in (b"", b"{}", b'{"half": ', b"\x00\xff", b"text ", bytes(range(256)))]

            deliveries = bench.receive(worker, len(put))

            raws = [one.envelope.raw for one in deliveries if isinstance(one.envelope, Unreadable)]
            assert sorted(raws) == sorted(put)

    @proves(promise.MALFORMED_IS_QUARANTINED)
    def test_the_headers_of_foreign_bytes_are_handed_out_with_them(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            headers = {"Content-Type": "text/plain", "x": "", "from": "a foreign program \u2603"}
            bench.raw(headers=headers)

            delivery = bench.one(worker)

            assert isinstance(delivery.envelope, Unreadable)
            assert headers.items() <= delivery.envelope.headers.items()

    @proves(promise.MALFORMED_IS_QUARANTINED)
    def test_foreign_bytes_have_attempts_and_lost_leases_like_any_other(self) -> None:
        with self.bench() as bench:
            first = bench.worker()
            bench.raw()
            first.nack(bench.one(first))
            bench.one(first)

            bench.lose(first)

            delivery = bench.one(bench.worker())
            assert isinstance(delivery.envelope, Unreadable)
            assert (delivery.attempt, delivery.lost_leases) == (3, 1)

    @proves(promise.MALFORMED_IS_QUARANTINED)
    def test_foreign_bytes_that_are_given_back_in_any_way_come_again(self) -> None:
        def give_back(outcome: Outcome) -> None:
            with self.bench() as bench:
                worker = bench.worker()
                raw = bench.raw()
                for _ in range(2):
                    assert worker.settles(bench.one(worker), outcome)
                    bench.let_delays_end()

                delivery = bench.one(worker)
                assert isinstance(delivery.envelope, Unreadable)
                assert delivery.envelope.raw == raw

        delay = 0.4 if self.harness.capabilities.delay is not None else 0.0
        outcomes: Sequence[Outcome] = (Nack(), Release(), Lost(), Nack(delay=delay), Release(delay=delay))
        self.each(outcomes, give_back)

    @proves(promise.MALFORMED_IS_QUARANTINED)
    def test_whatever_call_meets_foreign_bytes_first_leaves_them_as_they_are(self) -> None:
        claims = self.harness.capabilities
        calls: list[tuple[bool, Callable[[Bench, RecordedWorker], object]]] = [
            (True, lambda bench, worker: worker.setup(bench.queues)),
            (True, lambda bench, worker: worker.send(bench.envelopes(1))),
            (claims.stats != "none", lambda bench, worker: worker.stats(bench.queue)),
            (claims.find, lambda bench, worker: worker.find("none")),
            (claims.cancel, lambda bench, worker: worker.cancel("none")),
            (claims.take, lambda bench, worker: worker.take(bench.queue, "none", lease=bench.times.lease)),
            (claims.purge, lambda bench, worker: worker.purge(bench.queues[1])),
            (claims.waiting, lambda bench, worker: worker.waiting(bench.queues)),
            (claims.waiting, lambda bench, worker: worker.waiting_groups(bench.queues, "event")),
            (claims.waiting, lambda bench, worker: worker.stuck_keys(bench.queues)),
            (claims.dead_letters, lambda bench, worker: worker.dead_letters(bench.queues)),
            (claims.dead_letters, lambda bench, worker: worker.revive({"none": b""})),
            (claims.dead_letters, lambda bench, worker: worker.discard(["none"])),
            (True, lambda bench, worker: worker.transport.problems(bench.queues)),
        ]

        def meet(call: Callable[[Bench, RecordedWorker], object]) -> None:
            with self.bench(queues=2) as bench:
                worker = bench.worker()
                worker.send(bench.envelopes(1))
                bench.raw()

                call(bench, worker)  # the checker requires that they come in the end

        self.each([call for is_claimed, call in calls if is_claimed], meet)

    @proves(promise.MALFORMED_IS_QUARANTINED, promise.DEAD_IS_KEPT_WITH_REASON)
    def test_foreign_bytes_can_be_kept_aside_and_revived(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            raw = bench.raw()

            worker.dead_letter(bench.one(worker), reason="unreadable", error="no envelope")

            entry = bench.dead_letter(worker)
            assert isinstance(entry.envelope, Unreadable)
            assert (entry.envelope.raw, entry.reason) == (raw, "unreadable")
            assert list(worker.revive({entry.ref: b""})) == []
            assert isinstance(bench.one(worker).envelope, Unreadable)

    @proves(promise.MALFORMED_IS_QUARANTINED, promise.DEAD_IS_KEPT_WITH_REASON)
    def test_equal_foreign_bytes_are_kept_aside_each(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            for _ in range(3):
                bench.recorder.put_raw(bench.queue, b"no envelope")  # the same each time

            for delivery in bench.receive(worker, 3):
                worker.dead_letter(delivery, reason="unreadable")

            assert len(bench.dead_letters(worker, 3)) == 3


class OrderContract(Contract):
    """The order of each key is kept if it is claimed."""

    @proves(promise.ORDER_IS_KEPT)
    def test_events_of_one_key_come_one_after_the_other(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            batch = [bench.envelope(ordering_key="a") for _ in range(4)]
            worker.send(batch[:2])
            worker.send(batch[2:])

            for envelope in batch:
                delivery = bench.one(worker, limit=10)
                assert delivery.envelope == envelope
                assert bench.glimpse(worker) == []
                worker.ack(delivery)

    @proves(promise.ORDER_IS_KEPT)
    def test_an_event_that_is_given_back_keeps_its_place(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            first, second = (bench.envelope(ordering_key="a") for _ in range(2))
            worker.send([first, second])

            for _ in range(2):
                delivery = bench.one(worker)
                assert delivery.envelope == first
                worker.nack(delivery)

            last = bench.one(worker)
            assert last.envelope == first
            worker.ack(last)
            assert bench.one(worker).envelope == second

    @proves(promise.ORDER_IS_KEPT, promise.REVIVED_IS_RECEIVED)
    def test_what_is_revived_together_comes_one_after_the_other(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            for _ in range(3):
                worker.send([bench.envelope(ordering_key="a")])
                worker.dead_letter(bench.one(worker))
            worker.revive({entry.ref: b"" for entry in worker.dead_letters(bench.queues)})

            for _ in range(3):
                held = bench.one(worker, limit=10)
                bench.glimpse(worker)  # the checker knows that none may come
                worker.ack(held)

    @proves(promise.ORDER_IS_KEPT, promise.DELAY_IS_RESPECTED)
    def test_an_event_that_is_given_back_for_later_holds_its_key_back(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            first, second, other = (bench.envelope(ordering_key=key) for key in "aab")
            worker.send([first, second, other])
            for delivery in bench.receive(worker, 2, limit=10):
                if delivery.envelope == first:
                    worker.nack(delivery, delay=bench.times.delay)

            assert bench.glimpse(worker) == []

    @proves(promise.ORDER_IS_KEPT, promise.DELAY_IS_RESPECTED)
    def test_an_event_that_is_given_back_for_later_holds_back_what_is_sent_with_its_key_meanwhile(self) -> None:
        urgencies = ("normal", "high") if self.harness.capabilities.urgency else ("normal",)
        for urgency in urgencies:
            with self.bench() as bench:
                worker = bench.worker()
                first, second = (bench.envelope(ordering_key="a", urgency=each) for each in ("normal", urgency))
                worker.send([first])
                worker.nack(bench.one(worker), delay=bench.times.delay)

                worker.send([second])

                early = bench.glimpse(worker)  # the checker knows which of them may come
                assert early == [] or not self.harness.fake
                bench.let_delays_end()
                for delivery in early or bench.receive(worker, 1):
                    assert delivery.envelope == first
                    worker.ack(delivery)

    @proves(promise.ORDER_IS_KEPT)
    def test_a_lost_worker_does_not_reorder_a_key(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            first, second = (bench.envelope(ordering_key="a") for _ in range(2))
            worker.send([first, second])
            bench.one(worker)

            bench.lose(worker)

            again = bench.one(other, limit=10)
            assert again.envelope == first
            other.ack(again)
            assert bench.one(other).envelope == second

    @proves(promise.ORDER_IS_KEPT, promise.DEAD_IS_KEPT_WITH_REASON)
    def test_a_dead_letter_lets_its_key_go_on(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            first, second = (bench.envelope(ordering_key="a") for _ in range(2))
            worker.send([first, second])

            worker.dead_letter(bench.one(worker))

            assert bench.one(worker).envelope == second

    @proves(promise.ORDER_IS_KEPT, promise.REVIVED_IS_RECEIVED)
    def test_a_revived_event_holds_back_what_is_sent_later(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            first, second = (bench.envelope(ordering_key="a") for _ in range(2))
            worker.send([first])
            worker.dead_letter(bench.one(worker))
            worker.revive({bench.dead_letter(worker).ref: b""})
            worker.send([second])

            for envelope in (first, second):
                delivery = bench.one(worker, limit=10)
                assert delivery.envelope == envelope
                assert bench.glimpse(bench.worker()) == []
                assert worker.ack(delivery)

    @proves(promise.ORDER_IS_KEPT, promise.SENT_IS_RECEIVED)
    def test_however_an_event_ends_the_next_of_its_key_is_ready_at_once(self) -> None:
        claims = self.harness.capabilities
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()

            def cancel(held: Delivery) -> None:
                worker.nack(held, delay=3600.0)
                assert worker.cancel(held.envelope.id) == 1  # type: ignore[union-attr]  # it is readable

            ends: list[Callable[[Delivery], object]] = [worker.ack]
            if claims.dead_letters:
                ends.append(worker.dead_letter)
            if claims.cancel and claims.delay is not None:
                ends.append(cancel)
            for number, end in enumerate(ends):
                worker.send(batch := bench.envelopes(2, ordering_key=str(number)))
                held = bench.one(worker)
                assert bench.glimpse(other) == []  # an idle receive may look for what waits without a reason

                end(held)

                following = bench.one(other)
                assert following.envelope == batch[1]
                assert other.ack(following)

    @proves(promise.ORDER_IS_KEPT)
    def test_keys_do_not_hold_one_another_up(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope(ordering_key=key) for key in KEYS])

            assert len(bench.receive(worker, len(KEYS), limit=20)) == len(KEYS)
