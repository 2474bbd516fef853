"""Scenarios of stored data: dead letters, figures, and removed events."""

from __future__ import annotations

import string
from collections.abc import Callable

import attrs
import pytest

from relevo import MAX_ERROR, DeadLetter, Delivery, Envelope, Found, Note, Release
from relevo_conformance import promise
from relevo_conformance._contract_send import LONG_DELAYS
from relevo_conformance.bench import SUFFIXES, Bench, tolerated
from relevo_conformance.contract import Contract, proves
from relevo_conformance.strategy import IDENTITIES
from relevo_conformance.worker import RecordedWorker

SEVERAL_RECEIVES = 20
"""After which an event that was ready first must have come."""

AGE_STEP = 30.0
"""Seconds between two sends."""

SOME = 7
"""How many dead letters there are, of which every second one is discarded in one call."""

ALIKE = ("", "a", "A", "a_", "ab", "%")
"""Endings of queue names that are alike by case, or as a pattern."""


_ERRORS = (
    " a\ttab,\r\ntwo lines and spaces at both ends \n",
    "\\ \\n \\u0041 %s %(name)s {} {0} $1 :name ?",
    "'quotes', \"more\" and `others`; -- <a href='x'>&amp;</a>",
    "\U0001f40d \u2603 e\u0301 \u00e9 \ufeff\u200b\u2028",
    "null",
    "0",
    "",
)
"""Errors that a careless store changes: by spaces, line ends, escapes, placeholders, markup or forms of Unicode."""


def bury(bench: Bench, worker: RecordedWorker, number: int, *, queue: str | None = None) -> None:
    """Send *number* events and dead-letter them, one after another."""
    for _ in range(number):
        envelope = bench.envelope(queue=queue)
        worker.send([envelope])
        worker.dead_letter(bench.one(worker, queues=[envelope.queue]), state=b"failed")
        bench.advance(bench.times.step)


class DeadLetterContract(Contract):
    """Dead letters can be listed, revived and discarded."""

    @proves(promise.DEAD_IS_KEPT_WITH_REASON)
    def test_looking_at_dead_letters_changes_nothing(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            bury(bench, worker, 3)

            looks = [list(worker.dead_letters([bench.queue])) for _ in range(3)]

            assert len(looks[0]) == 3
            assert looks[0] == looks[1] == looks[2]

    @proves(promise.DEAD_IS_KEPT_WITH_REASON)
    def test_an_error_of_the_greatest_length_is_kept_whole_whatever_its_characters(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            for character in "eé☃":
                error = character * (MAX_ERROR // len(character.encode()))
                worker.send([bench.envelope()])

                assert worker.settles(bench.one(worker), DeadLetter(reason="gave-up", error=error))

                entry = bench.dead_letter(worker)
                assert entry.error == error, f"{len(entry.error)} of {len(error)} characters were kept"
                worker.discard([entry.ref])

    @proves(promise.DEAD_IS_KEPT_WITH_REASON)
    def test_an_error_is_kept_to_the_letter(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            for error in _ERRORS:
                worker.send([bench.envelope()])

                assert worker.settles(bench.one(worker), DeadLetter(reason="gave-up", error=error))

                entry = bench.dead_letter(worker)
                assert entry.error == error, f"the error {error!a} was kept as {entry.error!a}"
                worker.discard([entry.ref])

    @proves(promise.DEAD_IS_KEPT_WITH_REASON, promise.REVIVED_IS_RECEIVED, promise.DISCARDED_IS_GONE)
    def test_of_dead_letters_with_one_id_only_those_that_are_named_are_revived_and_discarded(self) -> None:
        with self.bench(queues=3) as bench:
            worker = bench.worker()
            first = bench.envelope()
            copies = [attrs.evolve(first, queue=queue) for queue in bench.queues]
            copies.append(attrs.evolve(first, source=f"{first.source}-2", ordering_key=None))
            worker.send(copies)
            worker.settle([(one, DeadLetter(reason="gave-up")) for one in bench.so_many(worker, 4)])
            refs = {one.envelope: one.ref for one in worker.dead_letters(bench.queues)}
            assert len({*refs.values()}) == 4, f"of 4 dead letters with one id, {len({*refs.values()})} have a ref"

            assert list(worker.revive({refs[copies[1]]: b"revived"})) == []
            assert list(worker.discard([refs[copies[2]]])) == []

            left = {one.envelope: one.ref for one in worker.dead_letters(bench.queues)}
            assert left == {one: refs[one] for one in (copies[0], copies[3])}
            again = bench.one(worker, limit=10)
            assert (again.envelope, again.state) == (copies[1], b"revived")

    @proves(promise.DEAD_IS_KEPT_WITH_REASON)
    def test_what_died_first_is_listed_first_whenever_it_was_sent(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            for envelope in bench.envelopes(3):
                worker.send([envelope])
                bench.advance(bench.times.step)
            held = sorted(bench.so_many(worker, 3), key=lambda one: one.enqueued_at, reverse=True)
            for one in held:
                assert worker.dead_letter(one)
                bench.advance(bench.times.step)

            bench.dead_letters(worker, 3)  # the checker knows when each of them died

    @proves(promise.DEAD_IS_KEPT_WITH_REASON)
    def test_the_pages_of_dead_letters_go_on_in_another_instance(self) -> None:
        with self.bench(queues=2) as bench:
            workers = [bench.worker(), bench.worker()]
            for queue in bench.queues:
                bury(bench, workers[0], 2, queue=queue)
            refs = [entry.ref for entry in bench.worker().dead_letters(bench.queues)]

            paged: list[str] = []
            for worker in (*workers, *workers):
                after = paged[-1] if paged else None
                paged += [entry.ref for entry in worker.dead_letters(bench.queues, after=after, limit=1)]

            assert paged == refs

    @proves(promise.DEAD_IS_KEPT_WITH_REASON)
    def test_dead_letters_come_page_by_page_without_gap_or_repetition(self) -> None:
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            for queue in bench.queues:
                bury(bench, worker, 3, queue=queue)
            order = [bench.queues[1], bench.queues[0]]
            everything = [entry.ref for entry in worker.dead_letters(order)]

            for limit in (1, 2, 4, 6, 7):
                paged: list[str] = []
                while page := worker.dead_letters(order, after=paged[-1] if paged else None, limit=limit):
                    assert len(page) <= limit
                    paged.extend(entry.ref for entry in page)
                assert paged == everything

    @proves(promise.DEAD_IS_KEPT_WITH_REASON)
    def test_pages_go_on_after_a_dead_letter_that_was_discarded(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            bury(bench, worker, 3)
            refs = [entry.ref for entry in bench.dead_letters(worker, 3)]
            worker.discard([refs[0]])

            page = worker.dead_letters([bench.queue], after=refs[0])

            assert [entry.ref for entry in page] == refs[1:]

    @proves(promise.DEAD_IS_KEPT_WITH_REASON)
    def test_only_the_dead_letters_of_the_queues_that_were_named_are_listed(self) -> None:
        with Bench(self.harness, names=ALIKE, tolerated=tolerated(self.harness) - self.proven) as bench:
            worker = bench.worker()
            for queue in bench.queues:
                bury(bench, worker, 1, queue=queue)

            for queue in bench.queues:
                assert [entry.queue for entry in worker.dead_letters([queue])] == [queue]
            assert list(worker.dead_letters([])) == []

    @proves(promise.REVIVED_IS_RECEIVED)
    def test_what_is_revived_comes_as_new_with_the_state_that_was_given(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            worker.nack(bench.one(worker))
            last = bench.one(worker)
            worker.dead_letter(last, state=b"failed")
            entry = bench.dead_letter(worker)

            assert list(worker.revive({entry.ref: b"revived"})) == []

            again = bench.one(worker)
            assert again.envelope == last.envelope
            assert (again.attempt, again.lost_leases, again.state) == (1, 0, b"revived")
            assert list(worker.dead_letters([bench.queue])) == []

    @proves(promise.DEAD_IS_KEPT_WITH_REASON, promise.REVIVED_IS_RECEIVED, promise.DISCARDED_IS_GONE)
    def test_dead_letters_with_odd_names_are_revived_and_discarded(self) -> None:
        with self.bench(queues=len(SUFFIXES)) as bench:
            worker = bench.worker()
            ends = ("", string.punctuation)
            worker.send(
                [
                    bench.envelope(queue=queue, id=f"{bench.token}-{place}{end}")
                    for place, queue in enumerate(bench.queues)
                    for end in ends
                ]
            )
            number = len(ends) * len(bench.queues)
            worker.settle([(one, DeadLetter(reason="retries-exhausted")) for one in bench.so_many(worker, number)])

            refs = [entry.ref for entry in worker.dead_letters(bench.queues)]
            assert len(refs) == number, f"{len(refs)} dead letters are listed instead of {number}"
            assert not worker.revive(dict.fromkeys(refs[::2], b"")), "a listed dead letter was not found"
            assert not worker.discard(refs[1::2]), "a listed dead letter was not found"

            assert len(bench.receive(worker, len(refs[::2]))) == len(refs[::2])

    @proves(promise.REVIVED_IS_RECEIVED)
    def test_a_dead_letter_is_revived_once(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            bury(bench, worker, 1)
            entry = bench.dead_letter(worker)
            worker.revive({entry.ref: b""})

            assert list(worker.revive({entry.ref: b""})) == [entry.ref]

            assert worker.ack(bench.one(worker))
            assert bench.glimpse(worker) == []

    @proves(promise.REVIVED_IS_RECEIVED)
    def test_what_is_revived_can_die_again(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            bury(bench, worker, 1)
            first = bench.dead_letter(worker)
            worker.revive({first.ref: b""})

            worker.dead_letter(bench.one(worker), reason="again")

            second = bench.dead_letter(worker)
            assert (second.reason, second.attempt) == ("again", 1)

    @proves(promise.REVIVED_IS_RECEIVED)
    def test_only_what_was_named_is_revived(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            bury(bench, worker, 3)
            refs = [entry.ref for entry in bench.dead_letters(worker, 3)]

            assert list(worker.revive({refs[1]: b"one"})) == []

            assert bench.one(worker, limit=10).state == b"one"
            assert [entry.ref for entry in worker.dead_letters([bench.queue])] == [refs[0], refs[2]]

    @proves(promise.REVIVED_IS_RECEIVED, promise.RESENT_IS_ONE)
    def test_of_two_contents_of_one_event_that_are_revived_together_the_second_stays_dead(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            first, last = bench.envelopes(2)
            second = attrs.evolve(first, body=b"[]")
            for envelope in (first, second, last):
                worker.send([envelope])
                worker.dead_letter(bench.one(worker))
            refs = [entry.ref for entry in bench.dead_letters(worker, 3)]

            assert list(worker.revive(dict.fromkeys(refs, b""))) == [refs[1]]

            came = bench.so_many(worker, 2)
            assert first in [each.envelope for each in came]
            assert last in [each.envelope for each in came]
            assert bench.dead_letter(worker).ref == refs[1]

    @proves(promise.REVIVED_IS_RECEIVED, promise.RESENT_IS_ONE)
    def test_a_dead_letter_stays_while_its_event_lives_with_other_content_whatever_that_does(self) -> None:
        later = self.harness.capabilities.delay is not None
        for what in ("is ready", "is held", "was nacked", *(["was nacked for later"] if later else [])):
            with self.bench() as bench:
                worker = bench.worker()
                old = bench.envelope()
                worker.send([old])
                worker.dead_letter(bench.one(worker))
                entry = bench.dead_letter(worker)
                worker.send([attrs.evolve(old, body=b"[]")])
                held = None if what == "is ready" else bench.one(worker)
                if held is not None and what != "is held":
                    worker.nack(held, delay=bench.times.delay if what == "was nacked for later" else 0.0)

                assert list(worker.revive({entry.ref: b""})) == [entry.ref], f"the other one {what}"

                assert bench.dead_letter(worker).ref == entry.ref
                if what == "was nacked for later":
                    bench.let_delays_end()
                worker.ack(held if held is not None and what == "is held" else bench.one(worker))
                assert list(worker.revive({entry.ref: b""})) == []
                assert bench.one(worker).envelope == old

    @proves(promise.DISCARDED_IS_GONE)
    def test_what_is_discarded_is_gone_and_no_other(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            bury(bench, worker, SOME)
            refs = [entry.ref for entry in bench.dead_letters(worker, SOME)]

            assert list(worker.discard(refs[1::2])) == []

            assert [entry.ref for entry in worker.dead_letters([bench.queue])] == refs[::2]
            assert sorted(worker.discard(refs)) == sorted(refs[1::2])
            assert sorted(worker.revive(dict.fromkeys(refs, b""))) == sorted(refs)

    @proves(promise.REVIVED_IS_RECEIVED)
    def test_reviving_and_discarding_nothing_does_nothing(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            bury(bench, worker, 1)

            assert list(worker.revive({})) == []
            assert list(worker.discard([])) == []

            assert len(worker.dead_letters([bench.queue])) == 1


class StatsContract(Contract):
    """The figures are exact when nothing changes."""

    @proves(promise.STATS_ARE_TRUE_AT_REST)
    def test_the_figures_follow_an_event_through_its_life(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.stats(bench.queue)
            worker.send(bench.envelopes(4))
            if self.harness.capabilities.delay is not None:
                worker.send(bench.envelopes(1), delay=bench.times.delay)
            worker.stats(bench.queue)
            held = bench.so_many(worker, 3)
            worker.stats(bench.queue)

            worker.ack(held[0])
            worker.nack(held[1])
            if self.harness.capabilities.dead_letters:
                worker.dead_letter(held[2])

            worker.stats(bench.queue)
            bench.advance(bench.times.delay + 1)
            worker.stats(bench.queue)

    @proves(promise.STATS_ARE_TRUE_AT_REST, promise.ORDER_IS_KEPT)
    def test_what_waits_behind_its_ordering_key_counts_as_ready(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope(ordering_key="a") for _ in range(4)])
            bench.one(worker, limit=10)

            stats = worker.stats(bench.queue)

            assert (stats.ready, stats.leased) in ((3, 1), (3, None))

    @proves(promise.STATS_ARE_TRUE_AT_REST)
    def test_the_oldest_event_grows_older(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            bench.advance(30.0 if self.harness.fake else 1.5)
            worker.send([bench.envelope()])

            age = worker.stats(bench.queue).oldest_age

            assert age is None or age >= (29.0 if self.harness.fake else 0.5)

    @proves(promise.STATS_ARE_TRUE_AT_REST, promise.REVIVED_IS_RECEIVED, promise.FOUND_AS_IT_IS)
    def test_the_oldest_event_may_be_one_that_was_revived(self) -> None:
        if not self.harness.fake:
            pytest.skip("the clock cannot be moved")
        with self.bench() as bench:
            worker = bench.worker()
            first, second = bench.envelopes(2)
            worker.send([first])
            worker.dead_letter(bench.one(worker))
            bench.advance(AGE_STEP)
            worker.send([second])
            bench.advance(AGE_STEP)
            worker.revive({bench.dead_letter(worker).ref: b""})
            bench.advance(AGE_STEP)

            age = worker.stats(bench.queue).oldest_age

            sent = min(found.enqueued_at for one in (first, second) for found in worker.find(one.id))
            expected = self.harness.clock.now() - sent
            assert age is None or abs(age - expected) < AGE_STEP / 2, f"it is {age} s old, and not {expected} s"

    @proves(promise.STATS_ARE_TRUE_AT_REST)
    def test_the_figures_of_one_queue_say_nothing_of_another(self) -> None:
        with self.bench(queues=4) as bench:
            worker = bench.worker()
            for number, queue in enumerate(bench.queues):
                worker.send(bench.envelopes(number, queue=queue))

            figures = [worker.stats(queue).ready for queue in bench.queues]

            assert figures in ([0, 1, 2, 3], [None] * 4)


class FindContract(Contract):
    """An unfinished event is found by its id, unchanged, and is not changed by that."""

    @proves(promise.FOUND_AS_IT_IS)
    def test_an_event_is_found_as_it_is_through_its_life(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            body = bench.fitting(bytes(range(256)))
            envelope, other = bench.envelope(headers={"a": "1"}, body=body), bench.envelope()
            assert list(worker.find(envelope.id)) == []
            worker.send([envelope, other])

            ready = self._only(worker, envelope)
            held = min(bench.so_many(worker, 2), key=lambda one: one.envelope != envelope)
            leased = self._only(worker, envelope)
            worker.nack(held, state=b"once")
            again = self._only(worker, envelope)

            assert (ready.status, ready.attempt, ready.state, ready.until) == ("ready", 1, b"", None)
            assert (leased.status, leased.attempt, leased.enqueued_at) == ("leased", 1, held.enqueued_at)
            assert (again.status, again.attempt, again.lost_leases, again.state) == ("ready", 2, 0, b"once")
            assert worker.ack(bench.one(worker))
            assert list(worker.find(envelope.id)) == []

    @proves(promise.FOUND_AS_IT_IS)
    def test_an_event_whose_holder_was_lost_is_found_ready_with_its_lost_lease(self) -> None:
        with self.bench() as bench:
            lost, other = bench.worker(), bench.worker()
            envelope = bench.envelope()
            lost.send([envelope])
            bench.one(lost)

            bench.lose(lost)

            assert bench.eventually(lambda: self._only(other, envelope).status == "ready")
            one = self._only(other, envelope)
            assert (one.attempt, one.lost_leases, one.until) == (2, 1, None)

    @proves(promise.FOUND_AS_IT_IS, promise.EXTEND_KEEPS_THE_LEASE)
    def test_an_event_is_found_with_the_end_of_its_lease(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelope = bench.envelope()
            worker.send([envelope])
            held = bench.one(worker)
            before = self._only(worker, envelope).until

            worker.extend([held], lease=3 * bench.times.lease)

            after = self._only(worker, envelope).until
            assert before is not None
            assert after is not None
            assert after >= before + bench.times.lease

    @proves(promise.FOUND_AS_IT_IS, promise.DELAY_IS_RESPECTED)
    def test_an_event_that_waits_for_its_time_is_found_with_it(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelope = bench.envelope()
            worker.send([envelope], delay=bench.times.delay)

            one = self._only(worker, envelope)

            assert one.status == "scheduled" or not self.harness.fake
            bench.let_delays_end()
            assert self._only(worker, envelope).status == "ready"

    @proves(promise.FOUND_AS_IT_IS)
    def test_an_event_is_found_in_each_queue_and_no_other_event_is(self) -> None:
        with self.bench(queues=3) as bench:
            worker = bench.worker()
            envelope = bench.envelope(id=f"{bench.token}_a")
            twin = bench.envelope(id=envelope.id, queue=bench.queues[1])
            others = [bench.envelope(id=f"{bench.token}{end}") for end in ("-a", "_A", "_", "_a%", "_a ")]
            worker.send([envelope, twin, *others])

            found = worker.find(envelope.id)

            assert {(one.queue, one.envelope) for one in found} == {(bench.queue, envelope), (bench.queues[1], twin)}
            assert list(worker.find("%")) == []

    @proves(promise.FOUND_AS_IT_IS, promise.DEAD_IS_KEPT_WITH_REASON)
    def test_an_event_is_not_found_while_it_is_dead(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelope = bench.envelope()
            worker.send([envelope])
            worker.dead_letter(bench.one(worker))

            assert list(worker.find(envelope.id)) == []

            entry = bench.dead_letter(worker)
            worker.revive({entry.ref: b"revived"})
            one = self._only(worker, envelope)
            assert (one.status, one.attempt, one.lost_leases, one.state) == ("ready", 1, 0, b"revived")

    @proves(promise.FOUND_AS_IT_IS, promise.JOINS_THE_TRANSACTION)
    def test_what_waits_for_a_relay_is_found(self) -> None:
        with self.bench() as bench:
            worker, relay = bench.worker(), f"broker-{bench.token}"
            outbox = bench.outbox(relay)
            worker.setup([outbox])
            envelope = bench.envelope()
            with worker.transaction() as transaction:
                transaction.send([envelope], relay_to=relay)
                transaction.commit()

            assert self._only(worker, envelope).queue == outbox

    def _only(self, worker: RecordedWorker, envelope: Envelope) -> Found:
        """Return the one unfinished event with the id of *envelope*."""
        found = worker.find(envelope.id)
        assert [one.envelope for one in found] == [envelope]
        return found[0]


class TakeOutContract(Contract):
    """Cancelled and purged events are gone, and no others."""

    @proves(promise.CANCELLED_IS_GONE, promise.JOINS_THE_TRANSACTION)
    def test_what_waits_for_a_relay_is_cancelled(self) -> None:
        with self.bench() as bench:
            worker, relay = bench.worker(), f"broker-{bench.token}"
            worker.setup([bench.outbox(relay)])
            envelope = bench.envelope()
            with worker.transaction() as transaction:
                transaction.send([envelope], relay_to=relay)
                transaction.commit()

            assert worker.cancel(envelope.id) == 1

    @proves(promise.CANCELLED_IS_GONE)
    def test_what_is_cancelled_never_comes(self) -> None:
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            doomed, other = bench.envelopes(2)
            worker.send([doomed, other, bench.envelope(id=doomed.id, queue=bench.queues[1])])

            assert worker.cancel(doomed.id) == 2

            assert worker.cancel(doomed.id) == 0
            assert bench.one(worker, limit=10).envelope == other

    @proves(promise.CANCELLED_IS_GONE, promise.DELAY_IS_RESPECTED)
    def test_what_waits_for_its_time_can_be_cancelled(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            doomed = bench.envelope()
            worker.send([doomed], delay=bench.times.delay)

            assert worker.cancel(doomed.id) == 1

    @proves(promise.CANCELLED_IS_GONE)
    def test_what_somebody_holds_is_not_cancelled(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            held = bench.one(worker)

            assert worker.cancel(f"{bench.token}-1") == 0

            assert worker.ack(held)

    @proves(promise.CANCELLED_IS_GONE, promise.ORDER_IS_KEPT)
    def test_what_waits_behind_a_cancelled_event_of_its_key_has_its_turn(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            doomed, second, third = bench.envelopes(3, ordering_key="a")
            worker.send([doomed, second, third])

            worker.cancel(doomed.id)

            for envelope in (second, third):
                delivery = bench.one(worker, limit=10)
                assert delivery.envelope == envelope
                worker.ack(delivery)

    @proves(promise.CANCELLED_IS_GONE, promise.ORDER_IS_KEPT)
    def test_what_waits_behind_a_cancelled_event_that_was_not_due_has_its_turn_at_once(self) -> None:
        claims = self.harness.capabilities

        def cancel(make_wait: Callable[[Bench, RecordedWorker, Envelope], None]) -> None:
            with self.bench() as bench:
                worker = bench.worker()
                doomed, second = bench.envelopes(2, ordering_key="a")
                make_wait(bench, worker, doomed)
                worker.send([second])
                worker.cancel(doomed.id)

                assert bench.one(worker, limit=10).envelope == second, "nothing of its key is left before it"

        ways = [sent_for_later, nacked_for_later] if claims.delay is not None else []
        self.each(ways, cancel)

    @proves(promise.PURGED_IS_GONE)
    def test_a_purge_removes_what_is_not_held_from_one_queue(self) -> None:
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            worker.send([*bench.envelopes(3), *bench.envelopes(2, queue=bench.queues[1])])
            held = bench.one(worker, queues=[bench.queue])

            assert worker.purge(bench.queue) == 2

            assert worker.purge(bench.queue) == 0
            assert worker.ack(held)
            assert len(bench.receive(worker, 2, limit=10)) == 2

    @proves(promise.PURGED_IS_GONE, promise.MALFORMED_IS_QUARANTINED)
    def test_a_purge_that_meets_foreign_bytes_first_removes_and_counts_them(self) -> None:
        for number in (0, 2):
            with self.bench(queues=2) as bench:
                worker = bench.worker()
                worker.send([*bench.envelopes(1), *bench.envelopes(1, queue=bench.queues[1])])
                held = bench.one(worker, queues=[bench.queue])
                worker.send(bench.envelopes(number))
                for queue in (bench.queue, *bench.queues):
                    bench.raw(queue=queue)

                assert worker.purge(bench.queue) == number + 2

                assert worker.purge(bench.queue) == 0
                assert worker.ack(held)
                bench.so_many(worker, 2)

    @proves(promise.PURGED_IS_GONE)
    def test_a_purge_spares_what_is_held_after_a_lost_lease(self) -> None:
        with self.bench() as bench:
            lost, worker = bench.worker(), bench.worker()
            lost.send([bench.envelope()])
            bench.one(lost)
            bench.lose(lost)
            held = bench.one(worker)

            assert worker.purge(bench.queue) == 0

            assert worker.ack(held)

    @proves(promise.PURGED_IS_GONE)
    def test_a_purge_takes_out_what_has_a_lease_that_ended(self) -> None:
        self.require_timed_leases()
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(3))
            bench.receive(worker, 2)
            bench.let_leases_end()

            assert worker.purge(bench.queue) == 3

    @proves(promise.CANCELLED_IS_GONE)
    def test_what_has_a_lease_that_ended_is_cancelled(self) -> None:
        self.require_timed_leases()
        with self.bench() as bench:
            worker = bench.worker()
            doomed = bench.envelope()
            worker.send([doomed])
            bench.one(worker)
            bench.let_leases_end()

            assert worker.cancel(doomed.id) == 1

    @proves(promise.PURGED_IS_GONE, promise.DEAD_IS_KEPT_WITH_REASON)
    def test_a_purge_leaves_the_dead_letters(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            bury(bench, worker, 2)

            worker.purge(bench.queue)

            assert len(worker.dead_letters([bench.queue])) == 2


def sent_for_later(bench: Bench, worker: RecordedWorker, envelope: Envelope) -> None:
    """Send *envelope* with a delay."""
    worker.send([envelope], delay=bench.times.delay)


def nacked_for_later(bench: Bench, worker: RecordedWorker, envelope: Envelope) -> None:
    """Send *envelope*, and nack it with a delay."""
    worker.send([envelope])
    assert worker.nack(bench.one(worker), delay=bench.times.delay)


class TakeContract(Contract):
    """An event that is not held is leased by its id, and no other event is."""

    @proves(promise.TAKEN_BY_ITS_ID, promise.QUEUES_ARE_ISOLATED)
    def test_an_event_is_taken_by_its_id_and_no_other_event_is(self) -> None:
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            envelope = bench.envelope(id=f"{bench.token}_a", body=bench.fitting(bytes(range(256))))
            twin = bench.envelope(id=envelope.id, queue=bench.queues[1])
            namesake = bench.envelope(id=envelope.id, source=f"{envelope.source}-2")
            others = [bench.envelope(id=f"{bench.token}{end}") for end in ("-a", "_A", "_", "_a%", "_a ")]
            worker.send([*others, envelope, twin, namesake])

            taken = worker.take(bench.queue, envelope.id, lease=bench.times.lease)

            assert {one.envelope for one in taken} == {envelope, namesake}
            assert worker.take(bench.queue, "%", lease=bench.times.lease) == []
            assert worker.take(bench.queue, envelope.id, lease=bench.times.lease) == []
            assert all(worker.ack(one) for one in taken)
            assert worker.take(bench.queue, envelope.id, lease=bench.times.lease) == []

    @proves(promise.TAKEN_BY_ITS_ID, promise.NOBODY_STARVES)
    def test_an_event_that_was_taken_before_it_was_due_comes_although_more_are_sent(self) -> None:
        if self.harness.capabilities.delay is None:
            pytest.skip("delay is not claimed")
        with self.bench() as bench:
            worker = bench.worker()
            early = bench.envelope()
            worker.send([early], delay=3600.0)
            (held,) = worker.take(bench.queue, early.id, lease=bench.times.lease)
            worker.settles(held, Release())

            for _ in range(SEVERAL_RECEIVES):
                bench.advance(bench.times.step)
                worker.send([bench.envelope()])
                delivery = bench.one(worker, limit=1)
                worker.ack(delivery)
                if delivery.envelope == early:
                    return

            raise AssertionError(f"{SEVERAL_RECEIVES} receives returned events that were sent later, and not this one")

    @proves(promise.TAKEN_BY_ITS_ID, promise.NACK_RETURNS_LATER)
    def test_an_event_is_taken_before_it_is_due_as_its_next_attempt(self) -> None:
        claims = self.harness.capabilities
        with self.bench() as bench:
            worker = bench.worker()
            late = [bench.envelope(), bench.envelope()]
            worker.send(late, delay=3600.0 if claims.delay is not None else 0.0)
            (first,) = worker.take(bench.queue, late[0].id, lease=bench.times.lease)
            worker.nack(first, delay=3600.0 if claims.delay is not None else 0.0, state=b"once")

            (again,) = worker.take(bench.queue, late[0].id, lease=bench.times.lease)

            assert (first.attempt, again.attempt, again.lost_leases, again.state) == (1, 2, 0, b"once")
            worker.release(again)
            (released,) = worker.take(bench.queue, late[0].id, lease=bench.times.lease)
            assert (released.attempt, released.state) == (2, b"once")
            assert worker.ack(released)

    @proves(promise.TAKEN_BY_ITS_ID, promise.DELAY_IS_RESPECTED)
    def test_what_was_taken_before_it_was_due_is_due_from_then_on(self) -> None:
        def give_back(way: Callable[[Bench, RecordedWorker, Delivery], object]) -> None:
            with self.bench() as bench:
                worker, other = bench.worker(), bench.worker()
                envelope = bench.envelope()
                worker.send([envelope], delay=3600.0)
                (taken,) = worker.take(bench.queue, envelope.id, lease=bench.times.lease)

                way(bench, worker, taken)

                again = bench.one(other)
                assert again.envelope == envelope
                other.ack(again)
                bench.recorder.horizon = 0.0  # nothing is left that could be due

        self.each(
            [
                lambda _, worker, taken: worker.release(taken),
                lambda _, worker, taken: worker.nack(taken),
                lambda _, worker, taken: worker.report_lost(taken),
                lambda bench, worker, _: bench.lose(worker),
            ],
            give_back,
        )

    @proves(promise.TAKEN_BY_ITS_ID, promise.LEASED_IS_HIDDEN)
    def test_of_two_events_with_one_id_the_one_that_is_not_held_is_taken(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            first = bench.envelope(id=f"{bench.token}-one")
            second = bench.envelope(id=first.id, source=f"{first.source}-2")
            worker.send([first])
            held = bench.one(worker)
            worker.send([second])

            taken = other.take(bench.queue, first.id, lease=bench.times.lease)

            assert [one.envelope for one in taken] == [second]
            assert other.ack(taken[0])
            assert worker.ack(held)

    @proves(promise.TAKEN_BY_ITS_ID, promise.LEASED_IS_HIDDEN)
    def test_a_taken_event_is_hidden_for_the_lease_that_was_asked_for(self) -> None:
        self.require_timed_leases()
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            envelopes = bench.envelopes(2)
            worker.send(envelopes)
            lease = bench.times.lease
            for envelope, factor in zip(envelopes, (1, 3), strict=True):
                (_,) = worker.take(bench.queue, envelope.id, lease=factor * lease)

            bench.let_leases_end()

            back = bench.one(other, limit=10)
            assert back.envelope == envelopes[0]
            assert bench.glimpse(other) == []
            assert other.ack(back)

    @proves(promise.TAKEN_BY_ITS_ID, promise.BEGUN_IS_KEPT)
    def test_an_event_is_taken_with_its_note_and_its_deaths(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelope = bench.envelope()
            worker.send([envelope])
            held = bench.one(worker)
            note = Note(by="a1::0:0:0", deaths=("a0::0:0:0",), listener="first")
            worker.begin(held, note)
            assert worker.release(held)

            (taken,) = worker.take(bench.queue, envelope.id, lease=bench.times.lease)

            assert (taken.begun, taken.deaths) == (note, note.deaths)

    @proves(promise.TAKEN_BY_ITS_ID, promise.JOINS_THE_TRANSACTION)
    def test_what_waits_for_a_relay_is_taken(self) -> None:
        with self.bench() as bench:
            worker, relay = bench.worker(), f"broker-{bench.token}"
            outbox = bench.outbox(relay)
            worker.setup([outbox])
            envelope = bench.envelope()
            with worker.transaction() as transaction:
                transaction.send([envelope], relay_to=relay)
                transaction.commit()

            assert worker.take(bench.queue, envelope.id, lease=bench.times.lease) == []
            (taken,) = worker.take(outbox, envelope.id, lease=bench.times.lease)
            assert (taken.queue, taken.envelope) == (outbox, envelope)
            assert worker.ack(taken)

    @proves(promise.TAKEN_BY_ITS_ID, promise.REVIVED_IS_RECEIVED)
    def test_a_revival_in_an_hour_a_day_or_a_month_is_due_then(self) -> None:
        if not self.harness.fake:
            pytest.skip("the delay is too long for a real clock")
        for delay in LONG_DELAYS:
            with self.bench() as bench:
                worker = bench.worker()
                bury(bench, worker, 1)
                due = self.harness.clock.now() + delay
                worker.revive_later({bench.dead_letter(worker).ref: b"revived"}, delay=delay)

                assert bench.glimpse(worker) == [], f"a delay of {delay:g} s was not kept"
                bench.approach(due)
                assert bench.glimpse(worker) == [], f"a delay of {delay:g} s was not kept"
                bench.advance(1.0 + (self.harness.capabilities.delay or 0.0))
                assert bench.one(worker).state == b"revived"

    @proves(promise.TAKEN_BY_ITS_ID, promise.REVIVED_IS_RECEIVED, promise.FOUND_AS_IT_IS, promise.QUERIED_AS_IT_IS)
    def test_what_is_revived_with_a_delay_is_shown_as_scheduled(self) -> None:
        claims = self.harness.capabilities
        with self.bench() as bench:
            worker = bench.worker()
            envelope = bench.envelope()
            worker.send([envelope])
            worker.dead_letter(bench.one(worker), state=b"failed")

            worker.revive_later({bench.dead_letter(worker).ref: b"revived"}, delay=3600.0)

            due = self.harness.clock.now() + 3600.0
            (found,), (listed,) = worker.find(envelope.id), worker.waiting([bench.queue])
            for one in (found, listed):
                assert (one.status, one.attempt, one.lost_leases, one.state) == ("scheduled", 1, 0, b"revived")
                assert one.until is not None
                assert abs(one.until - due) <= 60.0
            if claims.stats == "exact":
                stats = worker.stats(bench.queue)
                assert (stats.ready or 0, stats.scheduled or 1, stats.dead or 0) == (0, 1, 0)
            (taken,) = worker.take(bench.queue, envelope.id, lease=bench.times.lease)
            assert worker.ack(taken)
            bench.recorder.horizon = 0.0  # nothing is left that could be due

    @proves(promise.TAKEN_BY_ITS_ID, promise.REVIVED_IS_RECEIVED, promise.LOST_LEASES_ARE_COUNTED)
    def test_what_is_revived_with_a_delay_is_as_new_whatever_it_went_through(self) -> None:
        with self.bench() as bench:
            lost, worker = bench.worker(), bench.worker()
            envelope = bench.envelope()
            lost.send([envelope])
            bench.one(lost)
            bench.lose(lost)
            worker.nack(bench.one(worker), state=b"once")
            held = bench.one(worker)
            if bench.capabilities.presence:
                worker.begin(held, Note(by=IDENTITIES[0], deaths=(IDENTITIES[1],)))
            worker.dead_letter(held, state=b"failed")
            bench.advance(2 * bench.times.step)

            worker.revive_later({bench.dead_letter(worker).ref: b"revived"}, delay=3600.0)

            (taken,) = worker.take(bench.queue, envelope.id, lease=bench.times.lease)
            assert (taken.attempt, taken.lost_leases, taken.state) == (1, 0, b"revived")
            assert (taken.begun, taken.deaths) == (None, ())
            assert abs(taken.enqueued_at - held.enqueued_at) <= 0.001, "a revival changed the time of the send"
            assert worker.ack(taken)

    @proves(promise.TAKEN_BY_ITS_ID, promise.REVIVED_IS_RECEIVED, promise.RESENT_IS_ONE)
    def test_what_is_revived_with_a_delay_makes_no_second_one(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelope, first = bench.envelope(), bench.envelope()
            second = attrs.evolve(first, body=b"[]")
            for one in (envelope, first):
                worker.send([one])
                worker.dead_letter(bench.one(worker))
            refs = [entry.ref for entry in bench.dead_letters(worker, 2)]
            worker.send([envelope, second])

            missing = worker.revive_later(dict.fromkeys([*refs, "none"], b"revived"), delay=bench.times.delay)

            assert sorted(missing) == sorted([refs[1], "none"])
            assert bench.dead_letter(worker).ref == refs[1]
            assert {one.envelope for one in bench.so_many(worker, 2, limit=10)} == {envelope, second}

    @proves(promise.TAKEN_BY_ITS_ID, promise.REVIVED_IS_RECEIVED)
    def test_what_is_revived_with_a_delay_is_not_received_but_taken(self) -> None:
        claims = self.harness.capabilities
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            plain, keyed = bench.envelope(), bench.envelope(ordering_key=None if claims.order == "none" else "a")
            worker.send([plain, keyed])
            worker.settle([(one, DeadLetter(reason="gave-up")) for one in bench.so_many(worker, 2)])
            refs = [entry.ref for entry in bench.dead_letters(worker, 2)]

            assert list(worker.revive_later(dict.fromkeys(refs, b"revived"), delay=3600.0)) == []

            assert other.receive([bench.queue], lease=bench.times.lease) == []
            for envelope in (plain, keyed):
                (taken,) = worker.take(bench.queue, envelope.id, lease=bench.times.lease)
                assert (taken.envelope, taken.attempt, taken.state) == (envelope, 1, b"revived")
                assert worker.ack(taken)

    @proves(promise.TAKEN_BY_ITS_ID, promise.REVIVED_IS_RECEIVED, promise.ORDER_IS_KEPT)
    def test_what_is_revived_with_a_delay_waits_for_what_holds_its_key(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            first, second = bench.envelopes(2, ordering_key="a")
            worker.send([first])
            worker.dead_letter(bench.one(worker))
            worker.send([second])
            held = bench.one(worker, lease=bench.times.lease + 2 * bench.times.delay)

            worker.revive_later({bench.dead_letter(worker).ref: b""}, delay=bench.times.delay)
            bench.advance(2 * bench.times.delay)

            assert bench.glimpse(other) == []
            assert other.take(bench.queue, first.id, lease=bench.times.lease) == []
            assert worker.ack(held)
            again = bench.one(other)
            assert again.envelope == first
            assert other.ack(again)

    @proves(promise.TAKEN_BY_ITS_ID, promise.REVIVED_IS_RECEIVED, promise.ORDER_IS_KEPT)
    def test_what_is_revived_with_a_delay_holds_back_what_is_sent_later(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            first, second = bench.envelopes(2, ordering_key="a")
            worker.send([first])
            worker.dead_letter(bench.one(worker))
            worker.revive_later({bench.dead_letter(worker).ref: b""}, delay=3600.0)
            worker.send([second])

            assert bench.glimpse(worker) == []
            assert worker.take(bench.queue, second.id, lease=bench.times.lease) == []
            (taken,) = worker.take(bench.queue, first.id, lease=bench.times.lease)
            assert bench.glimpse(worker) == []
            assert worker.ack(taken)
            following = bench.one(worker)
            assert following.envelope == second
            assert worker.ack(following)

    @proves(promise.TAKEN_BY_ITS_ID, promise.LEASED_IS_HIDDEN, promise.LOST_LEASES_ARE_COUNTED)
    def test_a_held_event_is_not_taken_until_its_holder_is_lost(self) -> None:
        with self.bench() as bench:
            lost, other = bench.worker(), bench.worker()
            envelope = bench.envelope()
            lost.send([envelope])
            bench.one(lost)
            assert other.take(bench.queue, envelope.id, lease=bench.times.lease) == []

            bench.lose(lost)

            found: list[Delivery] = []

            def take() -> bool:
                found.extend(other.take(bench.queue, envelope.id, lease=bench.times.lease))
                return bool(found)

            assert bench.eventually(take)
            assert (found[0].attempt, found[0].lost_leases) == (2, 1)
            assert other.receive([bench.queue], lease=bench.times.lease) == []

    @proves(promise.TAKEN_BY_ITS_ID, promise.ORDER_IS_KEPT)
    def test_an_event_is_taken_only_when_its_ordering_key_has_its_turn(self) -> None:
        claims = self.harness.capabilities
        with self.bench() as bench:
            worker = bench.worker()
            first, second, third = bench.envelopes(3, ordering_key="a")
            worker.send([first, second])
            worker.send([third], delay=3600.0 if claims.delay is not None else 0.0)

            def take(envelope: Envelope) -> list[Delivery]:
                return worker.take(bench.queue, envelope.id, lease=bench.times.lease)

            assert take(second) == take(third) == []
            (head,) = take(first)
            assert take(second) == []
            worker.nack(head, delay=3600.0 if claims.delay is not None else 0.0)
            assert take(second) == take(third) == []
            (head,) = take(first)
            assert worker.ack(head)
            assert take(third) == []
            (head,) = take(second)
            assert worker.ack(head)
            (head,) = take(third)
            assert worker.ack(head)
