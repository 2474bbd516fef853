"""Scenarios of queries: lists of unfinished events by filter, page by page, and counts by groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, combinations
from typing import Any

import attrs
import pytest

from relevo import (
    DeadLetter,
    DeadLetterEntry,
    DeadLetterFilter,
    Delivery,
    Envelope,
    EventFilter,
    EventGroup,
    Lost,
    Note,
    WaitingEntry,
)
from relevo.backend import QueueCatalog
from relevo_conformance import promise
from relevo_conformance._contract_send import SEPARATORS
from relevo_conformance._contract_store import ALIKE
from relevo_conformance.bench import Bench, tolerated
from relevo_conformance.contract import Contract, proves
from relevo_conformance.worker import RecordedWorker

_NAMES = ("image.created", "image.deleted", "imagexcreated", "Image.created", "image.", "image", "image%created")
"""Names that are alike by case, or as a pattern."""

_LIMITS = (1, 2, 3, 100)

_DOZENS = 40
"""A number of groups that is below the limit of a query, if none is given."""


def _groups_of(entries: Iterable[WaitingEntry]) -> dict[str, EventGroup]:
    """Return the groups of *entries* by the names of their events."""
    times: dict[str, list[float]] = {}
    for one in entries:
        times.setdefault(one.envelope.name, []).append(one.enqueued_at)
    return {name: _group_of(name, at) for name, at in times.items()}


def _group_of(key: str, times: Sequence[float]) -> EventGroup:
    return EventGroup(key=key, count=len(times), oldest=min(times), newest=max(times))


class WaitingContract(Contract):
    """Unfinished events are listed and counted as they are."""

    @proves(promise.QUERIED_AS_IT_IS)
    def test_an_event_is_listed_as_it_is_through_its_life(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelope = bench.envelope(headers={"a": "1"}, body=bench.fitting(bytes(range(256))))
            assert list(worker.waiting([bench.queue])) == []
            worker.send([envelope])

            ready = only(bench, worker)
            began = bench.harness.clock.now()
            held = bench.one(worker)
            ended = bench.harness.clock.now()
            leased = only(bench, worker)
            worker.nack(held, state=b"once")
            again = only(bench, worker)

            assert (ready.envelope, ready.status, ready.attempt, ready.until) == (envelope, "ready", 1, None)
            assert (leased.status, leased.attempt, leased.enqueued_at) == ("leased", 1, held.enqueued_at)
            slack = 1.0 if not self.harness.fake else 0.001
            assert leased.leased_at is None or began - slack <= leased.leased_at <= ended + slack
            assert (again.status, again.attempt, again.state, again.leased_at) == ("ready", 2, b"once", None)
            assert worker.ack(bench.one(worker))
            assert list(worker.waiting([bench.queue])) == []

    @proves(promise.QUERIED_AS_IT_IS, promise.DELAY_IS_RESPECTED)
    def test_what_waits_for_its_time_is_listed_with_it(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()], delay=bench.times.delay)
            only(bench, worker)

            bench.let_delays_end()

            assert only(bench, worker).status == "ready"

    @proves(promise.QUERIED_AS_IT_IS)
    def test_an_event_whose_holder_was_lost_is_listed_ready_with_its_lost_lease(self) -> None:
        with self.bench() as bench:
            lost, other = bench.worker(), bench.worker()
            lost.send([bench.envelope()])
            bench.one(lost)

            bench.lose(lost)

            assert bench.eventually(lambda: only(bench, other).status == "ready")
            one = only(bench, other)
            assert (one.attempt, one.lost_leases, one.until) == (2, 1, None)
            assert [each.status for each in other.waiting([bench.queue], where=EventFilter(states=("ready",)))]
            assert not other.waiting([bench.queue], where=EventFilter(states=("leased",)))

    @proves(promise.QUERIED_AS_IT_IS)
    def test_a_filter_chooses_states(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            crowd(bench, worker)

            for states in (("ready",), ("leased",), ("scheduled",), ("ready", "leased"), ("leased", "scheduled")):
                worker.waiting(bench.queues, where=EventFilter(states=states), limit=2)
                worker.waiting_groups(bench.queues, "state", EventFilter(states=states))

            assert len(worker.waiting(bench.queues)) == len({one.cursor for one in worker.waiting(bench.queues)})

    @proves(promise.QUERIED_AS_IT_IS)
    def test_a_filter_chooses_names_byte_for_byte(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope(name=name) for name in _NAMES])

            def chosen(*names: str) -> set[str]:
                where = EventFilter(names=names)
                return {one.envelope.name for one in worker.waiting([bench.queue], where=where)}

            assert chosen("image.created") == {"image.created"}
            assert chosen("image.*") == {"image.created", "image.deleted", "image."}
            assert chosen("image*", "Image.created") == set(_NAMES)
            assert chosen("*") == set(_NAMES)
            assert chosen("image%*", "i_age") == {"image%created"}
            assert chosen("nothing") == set()
            groups = worker.waiting_groups([bench.queue], "event", EventFilter(names=("image.*",)))
            assert {group.key: group.count for group in groups} == {
                "image.created": 1, "image.deleted": 1, "image.": 1
            }  # fmt: skip

    @proves(promise.QUERIED_AS_IT_IS)
    def test_a_filter_chooses_times_of_sending(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            for _ in range(3):
                worker.send([bench.envelope()])
                bench.advance(bench.times.step)
            times = sorted(one.enqueued_at for one in worker.waiting([bench.queue]))

            def chosen(since: float | None, until: float | None) -> list[float]:
                where = EventFilter(since=since, until=until)
                return sorted(one.enqueued_at for one in worker.waiting([bench.queue], where=where))

            assert chosen(times[1], None) == times[1:]
            assert chosen(None, times[1]) == times[:1]
            assert chosen(times[1], times[2]) == times[1:2]
            assert chosen(times[2] + 1.0, None) == []

    @proves(promise.QUERIED_AS_IT_IS)
    def test_pages_have_each_event_once(self) -> None:
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            crowd(bench, worker)

            for limit in _LIMITS:
                for queues in (bench.queues, bench.queues[::-1]):
                    entries = worker.waiting(queues, limit=limit)
                    assert len({(one.queue, one.envelope.id) for one in entries}) == len(entries)

    @proves(promise.QUERIED_AS_IT_IS, promise.JOINS_THE_TRANSACTION)
    def test_what_waits_for_a_relay_is_listed_and_counted(self) -> None:
        with self.bench() as bench:
            worker, relay = bench.worker(), f"broker-{bench.token}"
            outbox = bench.outbox(relay)
            worker.setup([outbox])
            with worker.transaction() as transaction:
                transaction.send(bench.envelopes(2), relay_to=relay)
                transaction.commit()

            for queues in ([outbox], [bench.queue, outbox]):
                assert [entry.queue for entry in worker.waiting(queues)] == [outbox, outbox]
                assert [(one.key, one.count) for one in worker.waiting_groups(queues, "queue")] == [(outbox, 2)]

    @proves(promise.QUERIED_AS_IT_IS)
    def test_pages_go_on_whatever_the_names_of_their_queues_contain(self) -> None:
        with self.bench() as bench:
            bench.queues = tuple(f"{bench.queue}{separator}a" for separator in SEPARATORS)
            worker = bench.worker()
            for queue in bench.queues:
                worker.send(bench.envelopes(2, queue=queue))

            after, paged = None, []
            while page := worker.waiting(bench.queues, after=after, limit=1, whole=False):
                paged.append(page[0].queue)
                after = page[0].cursor

            expected = [queue for queue in bench.queues for _ in range(2)]
            assert paged == expected, "the pages have not each event of each queue once"

    @proves(promise.QUERIED_AS_IT_IS)
    def test_pages_go_on_in_another_instance(self) -> None:
        with self.bench(queues=2) as bench:
            workers = [bench.worker(), bench.worker()]
            for queue in bench.queues:
                workers[0].send(bench.envelopes(2, queue=queue))
            everything = [entry.envelope for entry in workers[0].waiting(bench.queues)]

            after, paged = None, []
            for worker in (*workers, *workers):
                (entry,) = worker.waiting(bench.queues, after=after, limit=1, whole=False)
                paged.append(entry.envelope)
                after = entry.cursor

            assert paged == everything

    @proves(promise.QUERIED_AS_IT_IS)
    def test_pages_go_on_after_an_event_that_was_settled_moved_or_cancelled(self) -> None:
        def change(act: Callable[[RecordedWorker, Delivery], object]) -> None:
            with self.bench() as bench:
                worker = bench.worker()
                worker.send(bench.envelopes(7))
                held = {one.envelope: one for one in bench.so_many(worker, 7)}
                seen: list[WaitingEntry] = []
                page: Sequence[WaitingEntry] = worker.waiting([bench.queue], limit=2, whole=False)
                while page:
                    assert len(page) <= 2, f"{len(page)} events are on a page of at most 2"
                    seen += page
                    act(worker, held[page[-1].envelope])
                    page = worker.waiting([bench.queue], after=page[-1].cursor, limit=2, whole=False)

                moved = {id(one) for one in seen if one.status != "leased"}
                still = [one.envelope for one in seen if id(one) not in moved]
                assert len(still) == len(set(still)), "an event is on two pages"
                assert {one.envelope for one in seen} == {*held}, "an event that did not change is on no page"

        ways: list[Callable[[RecordedWorker, Delivery], object]] = [
            lambda worker, delivery: worker.ack(delivery),
            lambda worker, delivery: worker.nack(delivery),
            lambda worker, delivery: worker.release(delivery),
        ]
        if self.harness.capabilities.delay is not None:
            ways.append(lambda worker, delivery: worker.nack(delivery, delay=3600.0))
        self.each(ways, change)

    @proves(promise.QUERIED_AS_IT_IS)
    def test_pages_go_on_after_what_is_sent_meanwhile(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelopes = bench.envelopes(5)
            worker.send(envelopes)
            seen: list[Envelope] = []
            page: Sequence[WaitingEntry] = worker.waiting([bench.queue], limit=1, whole=False)
            while page and len(seen) < 20:
                seen += [one.envelope for one in page]
                if len(seen) < 5:
                    worker.send([bench.envelope()])
                page = worker.waiting([bench.queue], after=page[-1].cursor, limit=1, whole=False)

            assert len(seen) == len(set(seen)), "an event is on two pages"
            assert {*envelopes} <= {*seen}, "an event that did not change is on no page"

    @proves(promise.QUERIED_AS_IT_IS)
    def test_only_events_of_the_queues_that_were_named_are_listed_and_counted(self) -> None:
        with Bench(self.harness, names=ALIKE, tolerated=tolerated(self.harness) - self.proven) as bench:
            worker = bench.worker()
            for number, queue in enumerate(bench.queues):
                worker.send(bench.envelopes(number + 1, queue=queue))

            for number, queue in enumerate(bench.queues):
                assert {one.queue for one in worker.waiting([queue], limit=2)} == {queue}
                assert [(one.key, one.count) for one in worker.waiting_groups([queue], "queue")] == [
                    (queue, number + 1)
                ]
            assert list(worker.waiting([])) == []
            assert list(worker.waiting_groups([], "event")) == []

    @proves(promise.QUERIED_AS_IT_IS)
    def test_groups_are_counted_with_their_oldest_and_newest(self) -> None:
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            sent = (("image.created", 0), ("image.deleted", 1), ("image.created", 1), ("image.created", 0))
            for name, queue in sent:
                worker.send([bench.envelope(name=name, queue=bench.queues[queue])])
                bench.advance(bench.times.step)
            times: dict[str, list[float]] = {}
            for one in worker.waiting(bench.queues):
                times.setdefault(one.envelope.name, []).append(one.enqueued_at)

            groups = worker.waiting_groups(bench.queues, "event")

            assert list(groups) == [
                _group_of(name, at) for name, at in sorted(times.items(), key=lambda each: -len(each[1]))
            ]
            of_queue = {queue: worker.waiting([queue]) for queue in bench.queues}
            assert {one.key: one for one in worker.waiting_groups(bench.queues, "queue")} == {
                queue: _group_of(queue, [one.enqueued_at for one in entries]) for queue, entries in of_queue.items()
            }
            assert list(worker.waiting_groups(bench.queues, "state")) == [
                _group_of("ready", [at for each in times.values() for at in each])
            ]

    @proves(promise.QUERIED_AS_IT_IS)
    def test_dozens_of_groups_are_all_returned(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            names = [f"image.n{number}" for number in range(_DOZENS)]
            worker.send([bench.envelope(name=name) for name in names])

            groups = worker.waiting_groups([bench.queue], "event")
            assert sorted(one.key for one in groups) == sorted(names)
            if not bench.capabilities.dead_letters:
                return
            worker.settle([(one, DeadLetter(reason=one.envelope.name)) for one in bench.so_many(worker, _DOZENS)])  # type: ignore[union-attr]
            for by in ("event", "reason"):
                dead = worker.dead_letter_groups([bench.queue], by)
                assert sorted(one.key for one in dead) == sorted(names)

    @proves(promise.QUERIED_AS_IT_IS, promise.DEAD_IS_KEPT_WITH_REASON)
    def test_dead_letters_are_counted_from_the_beginning_of_a_time_to_before_its_end(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            for _ in range(3):
                worker.send([bench.envelope()])
                worker.dead_letter(bench.one(worker))
                bench.advance(bench.times.step)
            died = [entry.died_at for entry in bench.dead_letters(worker, 3)]

            for since, until in ((0, 1), (0, 2), (1, 2), (1, 1), (2, 2)):
                where = DeadLetterFilter(since=died[since], until=died[until])
                counts = [one.count for one in worker.dead_letter_groups([bench.queue], "queue", where)]
                assert sum(counts) == until - since, f"of 3 dead letters, {sum(counts)} died from {since} to {until}"

    @proves(promise.QUERIED_AS_IT_IS, promise.DEAD_IS_KEPT_WITH_REASON)
    def test_dead_letters_are_chosen_and_counted(self) -> None:
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            died = (("image.created", "a"), ("image.deleted", "A"), ("image.created", "b"), ("image.created", "a"))
            for place, (name, reason) in enumerate(died):
                worker.send([bench.envelope(name=name, queue=bench.queues[place // 3])])
                bench.advance(bench.times.step)
                worker.settle([(bench.one(worker, queues=bench.queues), DeadLetter(reason=reason))])
                bench.advance(bench.times.step)
            entries = worker.dead_letters(bench.queues)

            def chosen(where: DeadLetterFilter) -> list[str]:
                refs: list[str] = []
                while page := worker.matching_dead_letters(
                    bench.queues, where, after=refs[-1] if refs else None, limit=1
                ):
                    refs += [one.ref for one in page]
                    assert len(refs) <= len(died), "the pages do not end"
                return refs

            refs = [entry.ref for entry in entries]
            assert chosen(DeadLetterFilter()) == refs
            assert chosen(DeadLetterFilter(reasons=("a",))) == [refs[0], refs[3]]
            assert chosen(DeadLetterFilter(reasons=("a", "b"), names=("image.c*",))) == [refs[0], refs[2], refs[3]]
            assert chosen(DeadLetterFilter(since=entries[1].died_at, until=entries[2].died_at)) == [refs[1]]
            reasons = worker.dead_letter_groups(bench.queues, "reason")
            assert {one.key: one.count for one in reasons} == {"a": 2, "A": 1, "b": 1}
            assert (reasons[0].oldest, reasons[0].newest) == (entries[0].died_at, entries[3].died_at)
            names = worker.dead_letter_groups(bench.queues, "event", DeadLetterFilter(reasons=("a", "b")))
            assert [(one.key, one.count) for one in names] == [("image.created", 3)]
            assert [one.key for one in worker.dead_letter_groups(bench.queues[1:], "queue")] == [bench.queues[1]]

    @proves(promise.QUERIED_AS_IT_IS, promise.DEAD_IS_KEPT_WITH_REASON)
    def test_dead_letters_of_several_queues_are_chosen_queue_by_queue_whichever_died_first(self) -> None:
        with self.bench(queues=3) as bench:
            worker = bench.worker()
            died: dict[str, list[Envelope]] = {queue: [] for queue in bench.queues}
            for number in range(3):
                for queue in (*bench.queues, *bench.queues[number:]):
                    event = bench.envelope(queue=queue)
                    worker.send([event])
                    worker.settle([(bench.one(worker, queues=[queue]), DeadLetter(reason="ab"[number % 2]))])
                    died[queue] += [event] if number % 2 else []
                    bench.advance(bench.times.step)

            for queues in (bench.queues, bench.queues[::-1], (*bench.queues[1:], bench.queue)):
                wanted = [event for queue in queues for event in died[queue]]
                for limit in _LIMITS:
                    found: list[DeadLetterEntry] = []
                    while page := worker.matching_dead_letters(
                        queues, DeadLetterFilter(reasons=("b",)), after=found[-1].ref if found else None, limit=limit
                    ):
                        found += page
                        assert len(found) <= len(wanted), "the pages do not end"
                    assert [one.envelope for one in found] == wanted, f"{len(found)} of {len(wanted)} were found"

    @proves(promise.QUERIED_AS_IT_IS)
    def test_the_largest_group_is_the_one_that_is_left_by_a_limit(self) -> None:
        claims = self.harness.capabilities
        with self.bench() as bench:
            worker = bench.worker()
            for name in ("image.deleted", "image.created", "image.created"):
                worker.send([bench.envelope(name=name)])

            (waiting,) = worker.transport.waiting_groups([bench.queue], by="event", limit=1)
            assert (waiting.key, waiting.count) == ("image.created", 2)
            if claims.dead_letters:
                for _ in range(3):
                    worker.dead_letter(bench.one(worker))
                (dead,) = worker.transport.dead_letter_groups([bench.queue], by="event", limit=1)
                assert (dead.key, dead.count) == ("image.created", 2)

    @proves(promise.QUERIED_AS_IT_IS)
    def test_a_group_of_several_queues_is_counted_whole_before_the_largest_are_chosen(self) -> None:
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            for queue, alone in zip(bench.queues, ("image.created", "image.moved"), strict=True):
                worker.send([bench.envelope(queue=queue, name=alone) for _ in range(3)])
                worker.send([bench.envelope(queue=queue, name="image.deleted") for _ in range(2)])
            bench.advance(bench.times.step)

            (group,) = worker.transport.waiting_groups(bench.queues, by="event", limit=1)

            assert (group.key, group.count) == ("image.deleted", 4)
            if self.harness.capabilities.dead_letters:
                for queue in bench.queues:
                    for delivery in bench.so_many(worker, 5, queues=[queue], limit=5):
                        worker.dead_letter(delivery)
                (group,) = worker.transport.dead_letter_groups(bench.queues, by="event", limit=1)
                assert (group.key, group.count) == ("image.deleted", 4)

    @proves(promise.QUERIED_AS_IT_IS, promise.EXTEND_KEEPS_THE_LEASE)
    def test_an_extended_lease_began_when_it_was_taken(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            held = bench.one(worker)
            began = only(bench, worker).leased_at

            bench.advance(bench.times.step)
            worker.extend([held], lease=bench.times.lease)

            assert only(bench, worker).leased_at == began
            assert worker.ack(held)

    @proves(promise.QUERIED_AS_IT_IS, promise.MALFORMED_IS_QUARANTINED, promise.DEAD_IS_KEPT_WITH_REASON)
    def test_foreign_bytes_that_are_dead_have_no_name(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            bench.raw()
            worker.dead_letter(bench.one(worker), reason="unreadable")
            worker.send([bench.envelope()])
            worker.dead_letter(bench.one(worker))
            refs = [entry.ref for entry in bench.dead_letters(worker, 2)]

            named = worker.matching_dead_letters([bench.queue], DeadLetterFilter(names=("*",)))

            assert [entry.ref for entry in named] == refs[1:]

    @proves(promise.QUERIED_AS_IT_IS)
    def test_a_filter_chooses_what_meets_all_its_conditions(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            for _ in range(2):
                worker.send([bench.envelope(name=name) for name in ("image.created", "image.deleted")])
                bench.one(worker, limit=1, lease=3600.0)
                bench.advance(bench.times.step)
            middle = sorted(one.enqueued_at for one in worker.waiting([bench.queue]))[2]

            conditions: dict[str, Any] = {
                "names": ("image.c*",), "states": ("leased",), "since": middle, "until": middle
            }  # fmt: skip
            for some in chain.from_iterable(combinations(conditions, number) for number in (1, 2, 3)):
                where = EventFilter(**{name: conditions[name] for name in some})
                entries = worker.waiting([bench.queue], where=where)  # the checker knows which they are

                groups = worker.waiting_groups([bench.queue], "event", where)

                assert {one.key: one for one in groups} == _groups_of(entries), f"{where} chose {groups}"

    @proves(promise.QUERIED_AS_IT_IS, promise.DEAD_IS_KEPT_WITH_REASON)
    def test_a_query_with_a_limit_of_zero_or_of_no_queue_returns_nothing(self) -> None:
        everything, dead = EventFilter(names=("*",)), DeadLetterFilter(names=("*",))
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(2))
            worker.dead_letter(bench.one(worker, limit=1))

            transport = worker.transport
            for queues, limit in (([bench.queue], 0), ([], 10)):
                answers: dict[str, Sequence[object]] = {
                    "waiting": transport.waiting(queues, limit=limit),
                    "waiting by filter": transport.waiting(queues, where=everything, limit=limit),
                    "waiting_groups": transport.waiting_groups(queues, by="event", limit=limit),
                    "dead_letters": transport.dead_letters(queues, limit=limit),
                    "matching_dead_letters": transport.matching_dead_letters(queues, where=dead, limit=limit),
                    "dead_letter_groups": transport.dead_letter_groups(queues, by="reason", limit=limit),
                }
                for method, answer in answers.items():
                    assert not [*answer], f"{method} of {len(queues)} queues with a limit of {limit} returned {answer}"

    @proves(promise.QUERIED_AS_IT_IS, promise.DEAD_IS_KEPT_WITH_REASON)
    def test_the_queues_that_hold_events_are_known(self) -> None:
        with self.bench(queues=6) as bench:
            worker = bench.worker()
            catalog = worker.transport
            if not isinstance(catalog, QueueCatalog):
                pytest.skip("the transport is not a QueueCatalog")
            ready, held, late, dead, done, _ = bench.queues
            worker.send([bench.envelope(queue=queue) for queue in (ready, held, dead, done)])
            if bench.capabilities.delay is not None:
                worker.send([bench.envelope(queue=late)], delay=bench.times.delay)
            bench.one(worker, queues=[held])
            worker.dead_letter(bench.one(worker, queues=[dead]))
            worker.ack(bench.one(worker, queues=[done]))

            ours = [queue for queue in catalog.held_queues() if queue in bench.queues]

            wanted = {ready, held, dead, *([late] if bench.capabilities.delay is not None else [])}
            assert sorted(ours) == sorted(wanted), f"{ours} are said to hold events, and {sorted(wanted)} do"

    @proves(promise.QUERIED_AS_IT_IS, promise.DEAD_IS_KEPT_WITH_REASON)
    def test_dead_letters_are_chosen_by_whole_reasons_and_counted_by_their_times(self) -> None:
        reasons = ("a", "ab", "A", "a%", "a_", "b", "a*", "b")
        with self.bench() as bench:
            worker = bench.worker()
            for reason in reasons:
                worker.send([bench.envelope()])
                worker.dead_letter(bench.one(worker), reason=reason)
                bench.advance(bench.times.step)
            entries = worker.dead_letters([bench.queue])

            for reason in reasons:
                chosen = worker.matching_dead_letters([bench.queue], DeadLetterFilter(reasons=(reason,)))
                wanted = [entry.ref for entry in entries if entry.reason == reason]
                assert [entry.ref for entry in chosen] == wanted, f"reason {reason!r} chose {chosen}"
                groups = worker.dead_letter_groups([bench.queue], "reason", DeadLetterFilter(reasons=(reason,)))
                assert [(group.key, group.count) for group in groups] == [(reason, reasons.count(reason))]
            first, last = entries[1].died_at, entries[4].died_at
            for since, until, number in ((first, last, 3), (first, None, 7), (None, last, 4), (None, None, 8)):
                where = DeadLetterFilter(since=since, until=until)
                (group,) = worker.dead_letter_groups([bench.queue], "queue", where)
                assert (group.key, group.count) == (bench.queue, number), f"{where} chose {group}"


class StuckKeyContract(Contract):
    """Ordering keys whose first event keeps others waiting are found."""

    @proves(promise.QUERIED_AS_IT_IS, promise.ORDER_IS_KEPT, promise.DELAY_IS_RESPECTED)
    def test_the_keys_that_are_stuck_the_longest_come_first(self) -> None:
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            stuck: list[tuple[str, str]] = []
            for key in ("m", "z", "a"):
                for queue in bench.queues:
                    first, second = bench.envelopes(2, queue=queue, ordering_key=key)
                    worker.send([first])
                    worker.nack(bench.one(worker, queues=[queue], limit=1), delay=3600.0)
                    worker.send([second])
                    bench.advance(2 * max(bench.times.step, self.harness.slack))
                    stuck.append((queue, key))
            assert bench.glimpse(worker) == []  # some stores put what is due in line only then

            for limit in (1, 3, 6, 10):
                found = worker.stuck_keys(bench.queues, limit=limit)

                assert [(one.queue, one.key) for one in found.keys] == stuck[:limit]
                assert (found.total, [one.waiting for one in found.keys]) == (6, [1] * min(limit, 6))

    @proves(promise.QUERIED_AS_IT_IS, promise.ORDER_IS_KEPT, promise.DELAY_IS_RESPECTED)
    def test_what_is_not_due_does_not_wait_behind_a_stuck_key(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            first, second, third = bench.envelopes(3, ordering_key="a")
            worker.send([first])
            worker.nack(bench.one(worker), delay=3600.0)
            worker.send([third], delay=1800.0)
            assert worker.stuck_keys([bench.queue]).total == 0

            worker.send([second])
            assert bench.glimpse(worker) == []

            (key,) = worker.stuck_keys([bench.queue]).keys
            assert key.waiting == 1

    @proves(promise.QUERIED_AS_IT_IS, promise.ORDER_IS_KEPT)
    def test_a_key_is_stuck_behind_a_retry_and_only_then(self) -> None:
        claims = self.harness.capabilities
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([*bench.envelopes(3, ordering_key="a"), *bench.envelopes(2, ordering_key="A")])
            assert worker.stuck_keys([bench.queue]).total == 0
            held = bench.so_many(worker, 2)
            assert worker.stuck_keys([bench.queue]).total == 0

            (first,) = (one for one in held if one.envelope.ordering_key == "a")  # type: ignore[union-attr]
            worker.nack(first, delay=3600.0 if claims.delay is not None else 0.0)

            stuck = worker.stuck_keys([bench.queue])
            if claims.delay is None:
                assert stuck.total == 0
                return
            (key,) = stuck.keys
            assert (stuck.total, key.queue, key.key, key.waiting) == (1, bench.queue, "a", 2)
            assert key.since == first.enqueued_at
            assert key.first is not None
            assert (key.first.envelope, key.first.status, key.first.attempt) == (first.envelope, "scheduled", 2)
            assert worker.stuck_keys([bench.queue], limit=0).total == 1

    @proves(promise.QUERIED_AS_IT_IS, promise.ORDER_IS_KEPT)
    def test_the_first_event_of_a_stuck_key_is_that_of_the_list(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(2, ordering_key="a"))
            worker.settles(bench.one(worker), Lost(state=b"lost"))
            held = bench.one(worker)
            bench.advance(bench.times.step)
            if bench.capabilities.presence:
                worker.begin(held, Note(by="a1::0:0:0"))

            (key,) = worker.stuck_keys([bench.queue]).keys

            (listed,) = worker.waiting([bench.queue], where=EventFilter(states=("leased",)))
            assert key.first is not None
            shown = attrs.evolve(key.first, cursor=listed.cursor)
            assert shown == listed, "a stuck key shows its first event otherwise than a list does"

    @proves(promise.QUERIED_AS_IT_IS, promise.ORDER_IS_KEPT, promise.DELAY_IS_RESPECTED)
    def test_a_key_is_stuck_since_the_first_event_behind_was_due(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            first, second = bench.envelopes(2, ordering_key="a")
            worker.send([first])
            worker.send([second], delay=bench.times.delay)
            (sent,) = (one.enqueued_at for one in worker.waiting([bench.queue]) if one.envelope == second)

            worker.nack(bench.one(worker), delay=3600.0)
            bench.let_delays_end()
            assert bench.glimpse(worker) == []  # some stores put what is due in line only then

            (key,) = worker.stuck_keys([bench.queue]).keys
            assert key.since >= sent + bench.times.delay - 0.001

    @proves(promise.QUERIED_AS_IT_IS, promise.ORDER_IS_KEPT)
    def test_a_key_is_stuck_behind_a_suspect_and_behind_a_long_lease(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(2, ordering_key="a"))
            held = bench.one(worker, limit=10)
            assert worker.stuck_keys([bench.queue]).total == 0
            assert worker.stuck_keys([bench.queue], longer=0.0).total in (0, 1)  # not every store knows the time

            worker.nack(held)
            held = bench.one(worker, limit=10)
            assert worker.stuck_keys([bench.queue]).total == 0, "a key is stuck behind an event that was only nacked"

            worker.report_lost(held)

            assert worker.stuck_keys([bench.queue]).total == 0
            again = bench.one(worker, limit=10)
            (key,) = worker.stuck_keys([bench.queue]).keys
            assert key.first is not None
            assert (key.first.status, key.first.lost_leases, key.waiting) == ("leased", 1, 1)
            worker.ack(again)
            assert worker.stuck_keys([bench.queue]).total == 0


def only(bench: Bench, worker: RecordedWorker) -> WaitingEntry:
    """Return the one unfinished event of the bench's queue."""
    (one,) = worker.waiting([bench.queue])
    return one


def crowd(bench: Bench, worker: RecordedWorker) -> None:
    """Put events of all states into each queue, some of them behind others of their ordering key."""
    claims = bench.capabilities
    for queue in bench.queues:
        keyed = bench.envelopes(3, queue=queue, ordering_key="a") if claims.order != "none" else []
        urgent = bench.envelopes(1, queue=queue, urgency="high") if claims.urgency else []
        worker.send([*keyed, *bench.envelopes(5, queue=queue), *urgent])
        if claims.delay is not None:
            worker.send(bench.envelopes(2, queue=queue), delay=3600.0)
        bench.advance(bench.times.step)
    taken = bench.so_many(worker, 4, queues=bench.queues, lease=3600.0)
    worker.nack(taken[0])
    if claims.delay is not None:
        worker.nack(taken[1], delay=3600.0)
