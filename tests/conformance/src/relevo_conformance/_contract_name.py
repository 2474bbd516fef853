"""Scenarios of names that are alike: a call on one queue, or for one id, touches no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from relevo import DeadLetter, DeadLetterFilter, Envelope
from relevo_conformance import promise
from relevo_conformance.bench import LENGTH_OF_TOKEN, Bench, tolerated
from relevo_conformance.contract import Contract, proves
from relevo_conformance.worker import RecordedWorker

ENDS = ("", "a", "A", "ab", "b", "a_", "a%", "a*", "a?", "aé", "aé".upper(), "ae\u0301", "a\\", "a'", "a.b", "a,b")
"""
Endings of names that are alike: one begins or ends as another, or equals it for a pattern, or if case, accents or the
form of a letter do not count.
"""

BLANKS = ("a ", " a", "a\t", "a\n", "a\x7f")
"""Endings of ids, which may have blanks, too."""

LONGEST_QUEUE = 128
"""The largest number of characters of the name of a queue."""

LONGEST_ID = 255
"""The largest number of characters of an id."""

Ways = Iterable[Callable[[Sequence[str]], Sequence[str]]]

_BOTH_WAYS: Ways = (list, lambda names: names[::-1])


def _long(start: str, length: int) -> Iterator[str]:
    """Yield two names of *length* characters that begin with *start*, and of which only the last character differs."""
    for end in "xy":
        yield start.ljust(length - 1, "-") + end


class AlikeContract(Contract):
    """Names that are alike are different names."""

    def bench_of_alike_queues(self) -> Bench:
        """Return a bench whose queues have names that are alike."""
        names = (*ENDS, *_long("", LONGEST_QUEUE - 1 - LENGTH_OF_TOKEN))
        return Bench(self.harness, names=names, tolerated=tolerated(self.harness) - self.proven)

    @proves(promise.QUEUES_ARE_ISOLATED)
    def test_a_receive_returns_nothing_of_a_queue_with_a_similar_name(self) -> None:
        with self.bench_of_alike_queues() as bench:
            worker = bench.worker()
            envelopes = _one_for_each_queue(bench)
            worker.send(envelopes)

            for queue, envelope in zip(bench.queues, envelopes, strict=True):
                delivery = bench.one(worker, queues=[queue], limit=10)
                assert (delivery.queue, delivery.envelope) == (queue, envelope)
                worker.ack(delivery)

    @proves(promise.PURGED_IS_GONE, promise.QUEUES_ARE_ISOLATED)
    def test_a_purge_takes_nothing_from_a_queue_with_a_similar_name(self) -> None:
        for in_order in _BOTH_WAYS:
            with self.bench_of_alike_queues() as bench:
                worker = bench.worker()
                worker.send(_one_for_each_queue(bench))

                _require_one_each(worker.purge, in_order(bench.queues), "a purge of {} removed {} events instead of 1")

    @proves(promise.PURGED_IS_GONE, promise.JOINS_THE_TRANSACTION)
    def test_a_purge_takes_nothing_from_an_outbox_with_a_similar_name(self) -> None:
        for in_order in _BOTH_WAYS:
            with self.bench() as bench:
                worker = bench.worker()
                relays = [f"b{bench.token}{end}" for end in ("", "a", "A", "a_", "a%", "-a", ".a")]
                outboxes = [bench.outbox(relay) for relay in relays]
                worker.setup(outboxes)
                for relay in relays:
                    with worker.transaction() as transaction:
                        transaction.send([bench.envelope()], relay_to=relay)
                        transaction.commit()
                worker.send([bench.envelope()])

                queues = in_order([*outboxes, bench.queue])

                _require_one_each(worker.purge, queues, "a purge of {} removed {} events instead of 1")

    @proves(promise.CANCELLED_IS_GONE)
    def test_a_cancel_takes_no_event_with_a_similar_id(self) -> None:
        for in_order in _BOTH_WAYS:
            with self.bench() as bench:
                worker = bench.worker()
                ids = _alike_ids(bench)
                worker.send([bench.envelope(id=each) for each in ids])

                _require_one_each(worker.cancel, in_order(ids), "a cancel of {} removed {} events instead of 1")

    @proves(promise.FOUND_AS_IT_IS)
    def test_an_event_with_a_similar_id_is_not_found(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            ids = _alike_ids(bench)
            worker.send([bench.envelope(id=each) for each in ids])

            for each in ids:
                found = [one.envelope.id for one in worker.find(each)]
                assert found == [each], f"a search for {each!r} found {found}"

    @proves(promise.TAKEN_BY_ITS_ID, promise.QUEUES_ARE_ISOLATED)
    def test_an_event_with_a_similar_id_or_in_a_queue_with_a_similar_name_is_not_taken(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            ids = _alike_ids(bench)
            worker.send([bench.envelope(id=each) for each in ids])
            for each in ids:
                taken = worker.take(bench.queue, each, lease=bench.times.lease)
                assert [_id(one.envelope) for one in taken] == [each], f"to take {each!r} returned {taken}"
                worker.ack(taken[0])
        with self.bench_of_alike_queues() as bench:
            worker = bench.worker()
            event_id = f"{bench.token}-one"
            worker.send([bench.envelope(queue=queue, id=event_id) for queue in bench.queues])
            for queue in bench.queues:
                taken = worker.take(queue, event_id, lease=bench.times.lease)
                assert [one.queue for one in taken] == [queue], f"to take an event of {queue!r} returned {taken}"
                worker.ack(taken[0])

    @proves(promise.STATS_ARE_TRUE_AT_REST)
    def test_the_figures_count_nothing_of_a_queue_with_a_similar_name(self) -> None:
        claims = self.harness.capabilities
        with self.bench_of_alike_queues() as bench:
            worker = bench.worker()
            worker.send(
                [one for place, queue in enumerate(bench.queues) for one in bench.envelopes(place, queue=queue)]
            )
            if claims.dead_letters:
                _bury_one_in_each_second(bench, worker, bench.queues)

            for place, queue in enumerate(bench.queues):
                stats, alive = worker.stats(queue), place - (place % 2 if claims.dead_letters else 0)
                assert stats.ready in (alive, None), f"{queue!r} has {alive} ready events, not {stats.ready}"
                dead = place % 2 if claims.dead_letters else 0
                assert stats.dead in (dead, None), f"{queue!r} has {dead} dead letters, not {stats.dead}"

    @proves(promise.DEAD_IS_KEPT_WITH_REASON, promise.REVIVED_IS_RECEIVED, promise.DISCARDED_IS_GONE)
    def test_the_dead_letters_of_a_queue_with_a_similar_name_are_others(self) -> None:
        with self.bench_of_alike_queues() as bench:
            worker = bench.worker()
            event_id = f"{bench.token}-one"
            worker.send([bench.envelope(queue=queue, id=event_id) for queue in bench.queues])
            _bury_all(bench, worker)

            for place, queue in enumerate(bench.queues):
                (entry,) = worker.dead_letters([queue])
                assert entry.queue == queue
                missing = worker.revive({entry.ref: b""}) if place % 2 else worker.discard([entry.ref])
                assert list(missing) == []
                assert list(worker.dead_letters([queue])) == []
                left = [one.queue for one in worker.dead_letters(bench.queues)]
                assert left == list(bench.queues[place + 1 :]), f"of the dead letters in {queue!r}, others were touched"

    @proves(promise.QUERIED_AS_IT_IS, promise.ORDER_IS_KEPT, promise.DEAD_IS_KEPT_WITH_REASON)
    def test_queries_return_nothing_of_a_queue_with_a_similar_name(self) -> None:
        claims = self.harness.capabilities
        with self.bench_of_alike_queues() as bench:
            worker = bench.worker()
            worker.send(_one_for_each_queue(bench))
            _bury_all(bench, worker)
            for queue in bench.queues:
                worker.send(bench.envelopes(2, queue=queue, ordering_key="a"))
            if claims.delay is not None:  # each key is stuck behind a retry
                for queue in bench.queues:
                    worker.nack(bench.one(worker, queues=[queue], limit=1), delay=3600.0)

            for queue in bench.queues:
                assert [one.queue for one in worker.waiting([queue])] == [queue] * 2
                assert [(one.key, one.count) for one in worker.waiting_groups([queue], "queue")] == [(queue, 2)]
                stuck = worker.stuck_keys([queue])
                wanted = [queue] if claims.delay is not None else []
                assert ([one.queue for one in stuck.keys], stuck.total) == (wanted, len(wanted))
                where = DeadLetterFilter(names=("*",))
                assert [one.queue for one in worker.matching_dead_letters([queue], where)] == [queue]
                assert [(one.key, one.count) for one in worker.dead_letter_groups([queue], "queue")] == [(queue, 1)]


def _id(event: object) -> str | None:
    return event.id if isinstance(event, Envelope) else None


def _one_for_each_queue(bench: Bench) -> list[Envelope]:
    return [bench.envelope(queue=queue) for queue in bench.queues]


def _alike_ids(bench: Bench) -> list[str]:
    """Return ids that are alike, each of them unique on this bench."""
    token = bench.token
    ids = [f"{token}{end}" for end in (*ENDS, *BLANKS)]
    return [*ids, f"a{token}", *_long(token, LONGEST_ID)]


def _require_one_each(take_out: Callable[[str], int], names: Iterable[str], what: str) -> None:
    """Require that *take_out* removes one event for each of *names*, and that none was removed before its turn."""
    for name in names:
        number = take_out(name)
        assert number == 1, what.format(repr(name), number)


def _bury_all(bench: Bench, worker: RecordedWorker) -> None:
    """Dead-letter the one event that each queue of *bench* has."""
    died = DeadLetter(reason="gave-up")
    worker.settle([(one, died) for one in bench.so_many(worker, len(bench.queues))])


def _bury_one_in_each_second(bench: Bench, worker: RecordedWorker, queues: Sequence[str]) -> None:
    """Dead-letter one event of each second of *queues*."""
    for queue in queues[1::2]:
        worker.dead_letter(bench.one(worker, queues=[queue], limit=1))
