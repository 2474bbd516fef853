"""Scenarios of arguments and answers as values: their owner, their types, and names given twice."""

from __future__ import annotations

from collections import UserList
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from types import MappingProxyType
from typing import Any, Literal

import attrs
import pytest

from relevo import MAX_LEASE, Ack, DeadLetterFilter, Delivery, Envelope, Nack, Note, Settlement
from relevo.errors import shown
from relevo_conformance import promise
from relevo_conformance._contract_store import bury
from relevo_conformance.bench import Bench, Thread
from relevo_conformance.contract import Contract, proves
from relevo_conformance.worker import RecordedWorker

Kind = Callable[[Sequence[Any]], Sequence[Any]]

_KINDS: Sequence[Kind] = (tuple, UserList)
"""Types of sequences other than lists."""


_LIMITS = (10_000, 2**31, 2**63 - 1, 10**20)
"""Limits that are larger than some numbers can be."""


_GROUPS: Sequence[Literal["event", "queue", "state"]] = ("event", "queue", "state")
_DEAD_GROUPS: Sequence[Literal["event", "queue", "reason"]] = ("event", "queue", "reason")


class ArgumentContract(Contract):
    """Arguments stay the caller's, and answers stay as they were."""

    @proves(promise.SENT_IS_RECEIVED, promise.ACK_IS_FINAL)
    def test_a_call_neither_changes_nor_keeps_the_lists_that_it_gets(self) -> None:
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            queues = [*bench.queues]
            envelopes = bench.envelopes(3)
            sent = [*envelopes]

            worker.send(envelopes)
            _require_same(envelopes, sent, "send")
            envelopes.clear()
            held = bench.so_many(worker, 3, queues=queues)
            _require_same(queues, bench.queues, "receive")
            assert {one.envelope for one in held} == {*sent}, "an event was lost when the list of its send was emptied"

            if bench.capabilities.extend:
                extended = [*held]
                worker.extend(extended, lease=bench.times.lease)
                _require_same(extended, held, "extend")
            settlements: list[Settlement] = [(held[0], Ack()), (held[1], Nack()), (held[2], Nack(state=b"kept"))]
            asked = [*settlements]
            worker.settle(settlements)
            _require_same(settlements, asked, "settle")
            settlements.clear()
            came = bench.so_many(worker, 2, queues=queues)
            assert {one.state for one in came} == {b"", b"kept"}

    @proves(promise.DEAD_IS_KEPT_WITH_REASON, promise.REVIVED_IS_RECEIVED, promise.DISCARDED_IS_GONE)
    def test_a_call_on_dead_letters_neither_changes_nor_keeps_what_it_gets(self) -> None:
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            bury(bench, worker, 3)
            queues = [*bench.queues]
            refs = [entry.ref for entry in worker.dead_letters(queues)]
            _require_same(queues, bench.queues, "dead_letters")
            revived, asked = {refs[0]: b"a", refs[1]: b"b"}, {refs[0]: b"a", refs[1]: b"b"}

            assert list(worker.revive(revived)) == []
            assert revived == asked, "revive changed the mapping that it got"
            revived.clear()

            assert {one.state for one in bench.so_many(worker, 2)} == {b"a", b"b"}
            assert [entry.ref for entry in worker.dead_letters(queues)] == refs[2:]

    @proves(promise.SENT_IS_RECEIVED, promise.ACK_IS_FINAL)
    def test_a_sequence_of_any_kind_will_do(self) -> None:
        for kind in _KINDS:
            with self.bench(queues=2) as bench:
                worker = bench.worker()
                queues = kind(bench.queues)
                worker.setup(queues)
                worker.send(kind([bench.envelope(queue=queue) for queue in bench.queues]))
                held = bench.so_many(worker, 2, queues=queues)
                if bench.capabilities.extend:
                    assert not worker.extend(kind(held), lease=bench.times.lease)

                assert not worker.settle(kind([(one, Ack()) for one in held]))

                if bench.capabilities.waiting:
                    assert not worker.waiting(queues)
                    assert not worker.waiting_groups(queues, "event")
                    assert not worker.stuck_keys(queues).total

    @proves(promise.DEAD_IS_KEPT_WITH_REASON, promise.REVIVED_IS_RECEIVED, promise.DISCARDED_IS_GONE)
    def test_dead_letters_are_named_by_a_sequence_a_mapping_or_an_iterable_of_any_kind(self) -> None:
        for kind in _KINDS:
            with self.bench() as bench:
                worker = bench.worker()
                bury(bench, worker, 3)
                refs = [entry.ref for entry in worker.dead_letters(kind([bench.queue]))]

                assert not worker.revive(MappingProxyType({refs[0]: b"revived"}))
                assert not worker.discard(refs[1:])  # the worker passes an iterator
                assert not worker.dead_letters(kind([bench.queue]))

                assert bench.one(worker).state == b"revived"

    @proves(promise.LIMIT_IS_RESPECTED, promise.LEASED_IS_HIDDEN)
    def test_a_queue_that_is_named_twice_is_received_from_once(self) -> None:
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            first, second = bench.queues
            worker.send([*bench.envelopes(5), *bench.envelopes(2, queue=second)])
            named = [first, second, first, second]

            held = bench.receive(worker, 3, queues=named)
            assert len(held) == 3
            held += bench.receive(worker, 4, queues=named, limit=10)

            assert len(held) == 7
            assert not worker.settle([(one, Ack()) for one in held])

    @proves(promise.DEAD_IS_KEPT_WITH_REASON)
    def test_a_queue_that_is_named_twice_has_its_dead_letters_listed_once(self) -> None:
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            for queue in bench.queues:
                bury(bench, worker, 2, queue=queue)
            listed = [entry.ref for entry in worker.dead_letters(bench.queues)]
            named = [*bench.queues, *bench.queues]

            assert [entry.ref for entry in worker.dead_letters(named)] == listed
            paged: list[str] = []
            while page := worker.dead_letters(named, after=paged[-1] if paged else None, limit=1):
                paged += [entry.ref for entry in page]
                assert len(paged) <= len(listed), "pages of queues that are named twice list a dead letter again"
            assert paged == listed

    @proves(promise.QUERIED_AS_IT_IS)
    def test_a_queue_that_is_named_twice_is_listed_and_counted_once(self) -> None:
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            worker.send([bench.envelope(queue=queue) for queue in bench.queues for _ in range(2)])
            named = [*bench.queues, *bench.queues]

            listed = [entry.cursor for entry in worker.waiting(bench.queues)]

            for limit in (1, 3, 100):
                assert [entry.cursor for entry in worker.waiting(named, limit=limit)] == listed
            assert [group.count for group in worker.waiting_groups(named, "queue")] == [2, 2]

    @proves(promise.QUERIED_AS_IT_IS)
    def test_a_queue_that_is_named_twice_is_queried_as_one_that_is_named_once(self) -> None:
        claims = self.harness.capabilities
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            named = [*bench.queues, bench.queue]
            if claims.dead_letters:
                for queue in bench.queues:
                    bury(bench, worker, 2, queue=queue)
            if claims.order == "per key" and claims.delay is not None:
                for queue in bench.queues:
                    worker.send(bench.envelopes(2, queue=queue, ordering_key="k"))
                    held = bench.one(worker, queues=[queue], limit=1)
                    worker.nack(held, delay=bench.times.lease)
            answers: list[Callable[[Sequence[str]], object]] = [
                *(partial(worker.waiting_groups, by=by) for by in _GROUPS),
                worker.stuck_keys,
            ]
            if claims.dead_letters:
                answers += [partial(worker.dead_letter_groups, by=by) for by in _DEAD_GROUPS]
                answers.append(partial(worker.matching_dead_letters, where=DeadLetterFilter()))

            for answer in answers:
                once, twice = answer(bench.queues), answer(named)
                assert twice == once, f"{shown(once)} became {shown(twice)} when a queue was named twice"

    @proves(promise.DEAD_IS_KEPT_WITH_REASON)
    def test_a_list_of_no_dead_letters_is_empty(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            bury(bench, worker, 2)

            assert list(worker.dead_letters([bench.queue], limit=0)) == []
            assert list(worker.dead_letters([bench.queue], after=bench.dead_letters(worker, 2)[0].ref, limit=0)) == []

    @proves(promise.LIMIT_IS_RESPECTED, promise.WAIT_IS_KEPT)
    def test_a_limit_or_a_wait_of_any_size_will_do(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            for limit, wait in product(_LIMITS, (1e6, 1e10)):
                worker.send([bench.envelope()])

                assert worker.ack(bench.one(worker, limit=limit, wait=wait))

    @proves(promise.LIMIT_IS_RESPECTED, promise.DEAD_IS_KEPT_WITH_REASON)
    def test_a_list_with_a_limit_of_any_size_is_not_empty(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            bury(bench, worker, 2)
            worker.send(bench.envelopes(2))

            for limit in _LIMITS:
                assert worker.dead_letters([bench.queue], limit=limit), f"a list with a limit of {limit} is empty"
                if bench.capabilities.waiting:
                    found = worker.waiting([bench.queue], limit=limit, whole=False)
                    assert found, f"a list with a limit of {limit} is empty"
                    worker.stuck_keys([bench.queue], limit=limit)

    @proves(promise.LEASED_IS_HIDDEN)
    def test_a_lease_of_any_length_is_accepted(self) -> None:
        self.require_timed_leases()
        if not self.harness.fake:
            pytest.skip("the lease is too long for a real clock")
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            for lease in (MAX_LEASE, 2 * MAX_LEASE, 1e9):
                for extends in (False, True) if bench.capabilities.extend else (False,):
                    worker.send([bench.envelope()])
                    held = bench.one(worker, lease=bench.times.lease if extends else lease)
                    if extends:
                        assert not worker.extend([held], lease=lease)
                    how = "an extension" if extends else "a lease"
                    for seconds in (0.0, MAX_LEASE - 1.0):  # a transport may shorten a longer lease to MAX_LEASE
                        bench.advance(seconds)
                        assert bench.glimpse(other) == [], f"{how} of {lease:g} s was not kept"
                    assert worker.ack(held)

    @proves(promise.SETUP_IS_IDEMPOTENT)
    def test_a_queue_that_is_named_twice_is_set_up_once(self) -> None:
        with self.bench() as bench:
            worker = bench.recorder.worker()
            once = [*worker.setup([bench.queue], dry_run=True)]

            assert [*worker.setup([bench.queue, bench.queue], dry_run=True)] == once
            assert [*worker.setup([bench.queue, bench.queue])] == once
            assert [*worker.setup([bench.queue, bench.queue])] == []

    @proves(promise.EXTEND_KEEPS_THE_LEASE)
    def test_a_delivery_that_is_named_twice_is_extended(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(3))
            first, second, done = bench.so_many(worker, 3)
            worker.ack(done)

            lost = worker.extend([first, done, second, first], lease=2 * bench.times.lease)

            assert [*lost] == [done], f"{len(lost)} deliveries were lost, not the one that was done"
            bench.advance(1.5 * bench.times.lease)
            assert worker.ack(first)
            assert worker.ack(second)

    @proves(promise.ACK_IS_FINAL, promise.STALE_SETTLE_IS_REFUSED)
    def test_a_call_that_is_made_again_has_no_further_effect(self) -> None:
        claims = self.harness.capabilities
        note = Note(by="a1::0:0:0", listener="first")
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            held = bench.one(worker)
            for _ in range(2):
                worker.setup(bench.queues)
                if claims.checkpoint:
                    worker.checkpoint(held, b"again")
                if claims.presence:
                    worker.begin(held, note)
                if claims.extend:
                    assert not worker.extend([held], lease=bench.times.lease)
            for _ in range(2 if claims.presence else 0):
                worker.excuse(held, note)
            worker.release(held)

            again = bench.one(worker)

            wanted = (1, 0, b"again" if claims.checkpoint else b"")
            assert (again.attempt, again.lost_leases, again.state) == wanted
            if claims.presence:
                assert again.begun == attrs.evolve(note, excused=True)
            assert [worker.ack(one) for one in (again, again, held)] == [True, False, False]

    @proves(promise.DEAD_IS_KEPT_WITH_REASON, promise.REVIVED_IS_RECEIVED, promise.DISCARDED_IS_GONE)
    def test_what_was_discarded_or_revived_is_not_found_again(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            bury(bench, worker, 3)
            refs = [entry.ref for entry in worker.dead_letters([bench.queue])]

            assert list(worker.discard([refs[0]])) == []
            assert list(worker.revive({refs[1]: b"revived"})) == []

            for one in (worker, other):
                assert {*one.discard(refs[:2])} == {*refs[:2]}
                assert {*one.revive(dict.fromkeys(refs[:2], b"again"))} == {*refs[:2]}
            assert bench.one(worker, limit=10).state == b"revived"
            assert [entry.ref for entry in worker.dead_letters([bench.queue])] == refs[2:]

    @proves(promise.ANSWERS_ARE_WELL_FORMED)
    def test_what_a_transport_says_of_itself_is_text_and_changes_nothing(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(2))
            held = bench.one(worker)
            for _ in range(2):
                for name, said in (
                    ("problems", worker.transport.problems(bench.queues)),
                    ("problems of no queue", worker.transport.problems([])),
                    ("risks", worker.transport.risks()),
                    ("lacking", worker.transport.lacking(bench.queues)),
                ):
                    assert _is_texts(said), f"{name} returned {shown(said)}; expected a sequence of texts"
                blocked: object = worker.transport.blocked_send()
                assert blocked is None, f"blocked_send returned {shown(blocked)}; no session is open"

            assert worker.ack(held)
            bench.one(worker, limit=10)

    @proves(promise.CALLS_COME_BACK)
    def test_a_limit_of_time_is_that_of_its_thread_until_it_is_lifted(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(1))
            worker.transport.hurry(0.0)
            try:
                Thread(lambda: worker.ack(bench.one(worker))).finish()
            finally:
                worker.transport.hurry(None)

            worker.send(bench.envelopes(1))
            assert worker.ack(bench.one(worker))

    @proves(promise.ANSWERS_ARE_WELL_FORMED)
    def test_an_answer_stays_as_it_was_whatever_is_done_afterwards(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            if bench.capabilities.dead_letters:
                bury(bench, worker, 1)
            worker.send(bench.envelopes(2, ordering_key="k" if bench.capabilities.order == "per key" else None))
            held = bench.one(worker)
            looks = self._looks(bench, worker, held)
            answers = [(name, look()) for name, look in looks]
            noted = [_noted(answer) for _, answer in answers]
            handed_out = _noted([held])

            if bench.capabilities.checkpoint:
                worker.checkpoint(held, b"changed")
            worker.nack(held, state=b"changed")
            worker.send(bench.envelopes(2))
            if bench.capabilities.dead_letters:
                worker.dead_letter(bench.one(worker))
            if bench.capabilities.presence:
                worker.transport.appear("a1")
            for _, look in looks:
                look()

            for (name, answer), before in zip(answers, noted, strict=True):
                assert _noted(answer) == before, f"what {name} returned was changed by later calls"
            assert _noted([held]) == handed_out, "a delivery was changed by later calls"

    def _looks(
        self, bench: Bench, worker: RecordedWorker, held: Delivery
    ) -> Sequence[tuple[str, Callable[[], object]]]:
        """Return calls that change nothing, by name."""
        claims = self.harness.capabilities
        found = held.envelope
        assert isinstance(found, Envelope)
        looks: list[tuple[bool, str, Callable[[], object]]] = [
            (claims.stats != "none", "stats", lambda: worker.stats(bench.queue)),
            (claims.dead_letters, "dead_letters", lambda: worker.transport.dead_letters([bench.queue])),
            (claims.find, "find", lambda: worker.find(found.id)),
            (claims.presence, "presence", lambda: worker.transport.presence(["a1"])),
            (claims.waiting, "waiting", lambda: worker.waiting([bench.queue], whole=False)),
            (claims.waiting, "waiting_groups", lambda: worker.waiting_groups([bench.queue], "state")),
            (claims.waiting, "stuck_keys", lambda: worker.stuck_keys([bench.queue], longer=0.0)),
        ]
        return [(name, look) for is_claimed, name, look in looks if is_claimed]


def _require_same(now: Sequence[object], before: Sequence[object], method: str) -> None:
    assert [*now] == [*before], f"{method} changed the list that it got"


def _is_texts(said: object) -> bool:
    if not isinstance(said, Sequence) or isinstance(said, str | bytes):
        return False
    return all(isinstance(one, str) for one in said)


def _noted(answer: object) -> object:
    """Return what *answer* says now, as values that nothing changes."""
    if isinstance(answer, Mapping):
        return {key: _noted(value) for key, value in answer.items()}
    if isinstance(answer, Sequence) and not isinstance(answer, str | bytes):
        return [_noted(each) for each in answer]
    kind: type[Any] = type(answer)
    if attrs.has(kind):
        return {field.name: _noted(getattr(answer, field.name)) for field in attrs.fields(kind)}
    return answer
