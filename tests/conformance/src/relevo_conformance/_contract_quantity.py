"""Quantities at which real stores break: many deliveries of one event, and many events in one queue, call or page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest

from relevo import Ack, DeadLetter, DeadLetterFilter, Delivery, Lost, Nack, Outcome, Release
from relevo.errors import CodecError, TransportError
from relevo_conformance import promise
from relevo_conformance._contract_send import UNWRITABLE
from relevo_conformance.bench import Bench
from relevo_conformance.contract import Contract, proves
from relevo_conformance.fault import Fault
from relevo_conformance.worker import RecordedWorker

_TIMES, _SLOW_TIMES = 300, 60
"""How often one event is delivered: more than a byte counts; and where each delivery takes time."""

_MANY, _SLOW_MANY = 1100, 200
"""How many events there are in a queue."""

_LIMIT = 300
"""The largest number of events of one receive."""

_PAGE = 100

_WRITES = 8
"""The first writes of a send, each of which fails once; a transport may take one for each hundred events."""

_LARGE = 400_000
"""Bytes of a body; a batch of ten is larger than what some stores take at once."""


class QuantityContract(Contract):
    """What holds for one holds for hundreds."""

    @proves(promise.NACK_RETURNS_LATER)
    def test_hundreds_of_nacks_are_counted(self) -> None:
        self._deliver_often(lambda number: Nack(state=b"%d" % number))

    @proves(promise.LOST_LEASES_ARE_COUNTED)
    def test_hundreds_of_reported_losses_are_counted(self) -> None:
        self._deliver_often(lambda number: Lost(state=b"%d" % number))

    @proves(promise.RELEASE_COUNTS_NOTHING)
    def test_hundreds_of_releases_count_nothing(self) -> None:
        self._deliver_often(lambda number: Release())

    @proves(promise.LOST_LEASES_ARE_COUNTED)
    def test_hundreds_of_lost_leases_are_counted(self) -> None:
        self.require_timed_leases()
        if not self.harness.fake:
            pytest.skip("each lost lease would take time on a real clock")
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            for _ in range(_TIMES):
                bench.one(worker)
                bench.let_leases_end()

            assert bench.one(worker).lost_leases >= _TIMES

    @proves(promise.LOST_LEASE_RETURNS)
    def test_leases_of_all_lengths_end_in_their_time_after_most_events_were_settled(self) -> None:
        self.require_timed_leases()
        if not self.harness.fake:
            pytest.skip("the leases would take time on a real clock")
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(_SLOW_TIMES * 3))
            held = [  # each for less than the one before
                bench.one(worker, limit=1, lease=bench.times.lease * number) for number in range(_SLOW_TIMES * 3, 0, -1)
            ]
            kept = [held[-1], held[-2], held[0]]  # the shortest leases, and the longest
            assert list(worker.settle([(each, Ack()) for each in held if each not in kept])) == []

            for each in kept[:2]:
                bench.let_leases_end()
                again = bench.one(worker)
                assert again.envelope == each.envelope
                worker.ack(again)
            worker.ack(kept[2])

    @proves(promise.SENT_IS_RECEIVED, promise.ACK_IS_FINAL)
    def test_hundreds_of_events_are_received_and_settled_at_once(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(self._many))
            _count(bench, worker)

            held: list[Delivery] = []
            few = min(_LIMIT, self._many // 2)
            for number in (few, self._many - few):  # the last ones at once, so that they have much in common
                held += bench.so_many(worker, number)
                _count(bench, worker)
            assert bench.glimpse(bench.worker()) == []
            if bench.capabilities.extend:
                assert not worker.extend(held, lease=2 * bench.times.lease)
                bench.advance(1.5 * bench.times.lease)
            assert not worker.settle([(one, Ack()) for one in held])

            _count(bench, worker)

    @proves(promise.DELAY_IS_RESPECTED)
    def test_hundreds_of_events_that_become_due_at_once_are_ready_at_once(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelopes = bench.envelopes(self._many)
            worker.send(envelopes, delay=bench.times.delay)
            _count(bench, worker)

            bench.let_delays_end()

            _count(bench, worker)
            if bench.capabilities.find:
                for envelope in envelopes[:: self._many - 1]:
                    worker.find(envelope.id)
            bench.so_many(worker, self._many)

    @proves(promise.LOST_LEASE_RETURNS)
    def test_hundreds_of_leases_that_end_at_once_leave_their_events_ready(self) -> None:
        self.require_timed_leases()
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(self._many))
            held: list[Delivery] = []
            while came := bench.glimpse(worker, limit=_LIMIT):
                held += came
            _count(bench, worker)

            bench.let_leases_end()

            lost = worker.settle([(one, Ack()) for one in reversed(held)])
            assert len(lost) == len(held), f"{len(held) - len(lost)} of {len(held)} leases had ended and were settled"
            _count(bench, worker)
            bench.so_many(bench.worker(), self._many)

    @proves(promise.PURGED_IS_GONE)
    def test_a_purge_of_hundreds_removes_all_that_are_not_held(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(self._many))
            for envelope in bench.envelopes(_PAGE):
                worker.send([envelope])
            held = bench.so_many(worker, _PAGE)

            assert worker.purge(bench.queue) == self._many
            _count(bench, worker)
            assert not worker.settle([(one, Nack()) for one in held])

    @proves(promise.DEAD_IS_KEPT_WITH_REASON, promise.REVIVED_IS_RECEIVED, promise.DISCARDED_IS_GONE)
    def test_hundreds_of_dead_letters_are_listed_and_revived_and_discarded(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            number = self._many
            worker.send(bench.envelopes(number))
            held = bench.so_many(worker, number)
            _bury(worker, held[_PAGE:])
            bench.advance(bench.times.step)
            _bury(worker, held[1:_PAGE])  # later, so that they are listed last
            bench.advance(bench.times.step)
            assert worker.dead_letter(held[0], reason="gave-up")
            _count(bench, worker)
            if bench.capabilities.waiting:
                found = worker.matching_dead_letters([bench.queue], DeadLetterFilter(reasons=("gave-up",)), limit=1)
                assert [one.envelope for one in found] == [held[0].envelope], "the last dead letter was not found"

            refs = _pages(bench, worker, number)
            made_up = [f"{bench.token}-{place}" for place in range(number // 2)]
            among_others = [ref for pair in zip(refs[::2], made_up, strict=False) for ref in pair]
            missing = worker.revive({ref: b"state %d" % place for place, ref in enumerate(among_others)})
            assert {*missing} == {*made_up}, "revive did not return each ref that was made up"
            _count(bench, worker)
            missing = worker.discard(refs)
            assert {*missing} == {*refs[::2]}, "discard did not return each ref that was revived before"
            _count(bench, worker)

            assert worker.dead_letters([bench.queue]) == []

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_hundreds_of_events_of_a_transaction_come(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            with worker.transaction() as transaction:
                transaction.send(bench.envelopes(_LIMIT))
                transaction.commit()

            bench.so_many(worker, _LIMIT)

    @proves(promise.SEND_TELLS_APART)
    def test_a_batch_of_hundreds_whose_last_event_is_refused_is_reported_as_it_was_sent(self) -> None:
        for spoilt in UNWRITABLE:
            with self.bench() as bench:
                worker = bench.worker()

                # The checker knows from the error what is stored.
                with suppress(TransportError, CodecError):
                    worker.send([*bench.envelopes(self._many // 2), bench.envelope(**spoilt)])

    @proves(promise.BATCH_IS_ATOMIC)
    def test_a_batch_of_hundreds_that_fails_at_any_write_comes_whole_or_not_at_all(self) -> None:
        for number in range(1, _WRITES):
            with self.bench(queues=2) as bench:
                worker = bench.worker()
                half = self._many // 4
                batch = [*bench.envelopes(half), *bench.envelopes(half, queue=bench.queues[1])]
                is_sent = False
                with bench.recorder.faulty(worker, Fault("before", number)), suppress(TransportError):
                    worker.send(batch)
                    is_sent = True

                # The drain requires that all come, or none.
            if is_sent:  # it has fewer writes
                return

    @proves(promise.FOUND_AS_IT_IS)
    def test_an_event_is_found_in_many_queues(self) -> None:
        with self.bench(queues=6) as bench:
            worker = bench.worker()
            worker.send([bench.envelope(queue=queue, id=f"{bench.token}-same") for queue in bench.queues])

            assert len(worker.find(f"{bench.token}-same")) == len(bench.queues)

    @proves(promise.SENT_IS_RECEIVED)
    def test_a_batch_of_some_megabytes_is_received(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            size = min(bench.capabilities.max_body or _LARGE, _LARGE)
            envelopes = [bench.envelope(body=b"%d" % number * (size // 2)) for number in range(10, 20)]
            worker.send(envelopes)

            assert {one.envelope for one in bench.so_many(worker, len(envelopes))} == {*envelopes}

    @proves(promise.ORDER_IS_KEPT)
    def test_hundreds_of_events_of_one_key_keep_their_order(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(_PAGE, ordering_key="k"))
            for envelope in bench.envelopes(_PAGE // 10, ordering_key="k"):
                worker.send([envelope])

            for _ in range(_PAGE + _PAGE // 10):
                assert worker.ack(bench.one(worker, limit=_LIMIT))

    @proves(promise.ORDER_IS_KEPT, promise.SENT_IS_RECEIVED)
    def test_hundreds_that_wait_for_their_key_hide_no_other_event(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            worker.send(bench.envelopes(self._many, ordering_key="k"))
            first = bench.one(worker)
            free = [bench.envelope(ordering_key="l"), bench.envelope()]
            worker.send(free)

            assert {bench.one(other).envelope for _ in free} == {*free}
            assert worker.release(first)
            if bench.capabilities.purge:  # which is faster than to receive one after the other
                assert worker.purge(bench.queue) == self._many

    @property
    def _many(self) -> int:
        return _MANY if self.harness.fake else _SLOW_MANY

    def _deliver_often(self, outcome: Callable[[int], Outcome]) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            for number in range(_TIMES if self.harness.fake else _SLOW_TIMES):
                assert worker.settles(bench.one(worker), outcome(number))

            held = bench.one(worker)
            if bench.capabilities.dead_letters:
                worker.dead_letter(held)
                bench.dead_letter(worker)


def _count(bench: Bench, worker: RecordedWorker) -> None:
    if bench.capabilities.stats != "none":
        worker.stats(bench.queue)


def _bury(worker: RecordedWorker, deliveries: Sequence[Delivery]) -> None:
    """Dead-letter all *deliveries* in one call, each with an error and a state of its own."""
    deaths = (DeadLetter(reason="crash-loop", error=f"error {n}", state=b"%d" % n) for n in range(len(deliveries)))
    assert not worker.settle(list(zip(deliveries, deaths, strict=True)))


def _pages(bench: Bench, worker: RecordedWorker, number: int) -> Sequence[str]:
    """Return the refs of all dead letters, read page by page."""
    refs: list[str] = []
    while entries := worker.dead_letters([bench.queue], after=refs[-1] if refs else None, limit=_PAGE):
        refs += [entry.ref for entry in entries]
        assert len(refs) <= number, "a page lists dead letters that an earlier one listed"
    return refs
