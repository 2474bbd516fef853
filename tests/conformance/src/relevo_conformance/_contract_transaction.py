"""Scenarios of sending in the application's transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import product

import attrs
import pytest
from hypothesis import given, strategies as st

from relevo import Envelope
from relevo.errors import CodecError, SessionError, TransportError, shown
from relevo_conformance import history, promise
from relevo_conformance._contract_send import UNREADABLE, UNWRITABLE, has_lone_surrogate
from relevo_conformance._program import (
    OPERATIONS,
    Move,
    Player,
    nestings,
    programs,
    several_in_a_row,
    several_in_one_another,
)
from relevo_conformance.bench import Bench
from relevo_conformance.contract import Contract, proves, raised_by
from relevo_conformance.harness import HookMissing
from relevo_conformance.verdict import error_text
from relevo_conformance.worker import Maker, RecordedTransaction

_NESTED = 3
"""The largest number of savepoints of which each nesting is tried."""


_DOZEN = 12
"""More savepoints than one digit counts: a store may tell them apart by a part of their names."""


class _NotMadeError(Exception):
    """Raised where the application cannot make its events."""


class TransactionContract(Contract):
    """What is sent in the application's transaction is part of it."""

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_what_is_sent_in_a_transaction_comes_after_its_commit_and_not_before(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            with worker.transaction() as transaction:
                transaction.send(bench.envelopes(2))

                assert bench.glimpse(other) == []
                transaction.commit()

            assert len(bench.receive(other, 2)) == 2

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_what_is_sent_in_a_transaction_that_is_rolled_back_never_comes(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            with worker.transaction() as transaction:
                transaction.send(bench.envelopes(2))

                transaction.rollback()

            assert bench.glimpse(worker) == []

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_an_abandoned_transaction_sends_nothing(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()

            with worker.transaction() as transaction:
                transaction.send([bench.envelope()])

            assert bench.glimpse(worker) == []

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_a_session_that_was_closed_sends_no_earlier_events(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            later = bench.envelope()
            with worker.transaction() as transaction:
                transaction.send([bench.envelope()])
                if not transaction.close():
                    pytest.skip("its Transaction has no close()")
                again = transaction.again()
                again.send([later])
                again.commit()

            assert bench.one(worker, limit=10).envelope == later

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_of_two_transactions_each_has_its_own_end(self) -> None:
        for commits_first in (False, True):
            with self.bench() as bench:
                worker = bench.worker()
                kept = bench.envelopes(2)
                with worker.transaction() as one, worker.transaction() as other:
                    one.send(kept[:1])
                    other.send([bench.envelope()])
                    one.send(kept[1:])
                    if commits_first:
                        one.commit()
                    other.rollback()
                    if not commits_first:
                        one.commit()

                assert {delivery.envelope for delivery in bench.so_many(worker, 2)} == {*kept}

    @proves(promise.JOINS_THE_TRANSACTION, promise.ORDER_IS_KEPT)
    def test_what_is_sent_in_a_transaction_keeps_the_order_of_its_key(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelopes = bench.envelopes(4, ordering_key="k")
            with worker.transaction() as transaction:
                transaction.send(envelopes[:1])
                transaction.send(envelopes[1:3])
                with transaction.savepoint("commit"):
                    transaction.send(envelopes[3:])
                transaction.commit()

            for envelope in envelopes:
                delivery = bench.one(worker)
                assert delivery.envelope == envelope
                worker.ack(delivery)

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_a_savepoint_that_is_rolled_back_discards_only_its_own_events(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            kept, also_kept = bench.envelope(), bench.envelope()
            with worker.transaction() as transaction:
                transaction.send([kept])
                with transaction.savepoint("rollback"):
                    transaction.send([bench.envelope()])
                with transaction.savepoint("commit"):
                    transaction.send([also_kept])

                transaction.commit()

            assert {one.envelope for one in bench.receive(worker, 2)} == {kept, also_kept}

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_an_event_whose_savepoint_was_rolled_back_can_be_sent_again_in_its_transaction(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelope = bench.envelope()
            with worker.transaction() as transaction:
                with transaction.savepoint("rollback"):
                    transaction.send([envelope])
                transaction.send([envelope])

                transaction.commit()

            assert bench.one(worker).envelope == envelope

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_what_commits_late_is_not_passed_over(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            early, late = bench.envelopes(2)
            with worker.transaction() as transaction:
                transaction.send([late])
                other.send([early])
                bench.advance(bench.times.step)
                assert other.ack(bench.one(other))

                transaction.commit()

            assert bench.one(other).envelope == late

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_a_second_transaction_of_one_session_begins_with_nothing(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            later = bench.envelope()
            with worker.transaction() as transaction:
                transaction.send([bench.envelope()])
                transaction.rollback()
            with worker.transaction() as transaction:
                transaction.send([later])

                transaction.commit()

            assert bench.one(worker).envelope == later

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_a_make_that_is_passed_again_after_the_end_of_a_transaction_is_called_again(self) -> None:
        for kind, way in product(self.transaction_kinds(), ("rollback", "commit", "fail")):
            with self.bench() as bench:
                worker = bench.worker()
                maker, made = Maker(), list[str]()
                with worker.transaction(kind) as transaction:
                    transaction.send([bench.envelope()], maker=maker)
                    if way == "commit":
                        transaction.commit()
                    elif way == "rollback" or not transaction.commit_that_fails():
                        transaction.rollback()
                    again = transaction.again()
                    again.send([bench.envelope()], maker=maker, meanwhile=partial(made.append, way))
                    again.commit()

                assert made == [way], f"after a {way} the same make was called {len(made)} times, not once"

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_several_instances_join_one_transaction(self) -> None:
        for way in ("commit", "rollback"):
            with self.bench() as bench:
                worker, other = bench.worker(), bench.worker()
                with worker.transaction() as transaction:
                    for one in (worker, other, worker):
                        transaction.send(bench.envelopes(1), by=one)
                    with transaction.savepoint("rollback"):
                        transaction.send(bench.envelopes(1), by=other)
                    if way == "commit":
                        transaction.commit()
                    else:
                        transaction.rollback()
                    again = transaction.again()
                    again.send(bench.envelopes(1), by=other)
                    again.commit()

                bench.so_many(worker, 4 if way == "commit" else 1)

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_what_makes_no_events_sends_none_and_spoils_no_transaction(self) -> None:
        for kind in self.transaction_kinds():
            with self.bench() as bench:
                worker = bench.worker()
                with worker.transaction(kind) as transaction:
                    transaction.send([])
                    transaction.commit()
                    again = transaction.again()
                    again.send([])
                    again.send(bench.envelopes(1))
                    again.send(())
                    again.commit()

                bench.one(worker)

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_the_events_of_a_session_that_flushes_are_made_at_its_commit(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            with worker.transaction() as transaction:
                if not transaction.flushes:
                    pytest.skip("its transactions flush no objects, so events may be made at once")
                for one in _in_sequence(bench, transaction):
                    written: list[bool] = []
                    # The end of a savepoint flushes what is pending, so one comes after it.
                    for part in (nullcontext(), one.savepoint("commit"), nullcontext()):
                        with part:
                            is_written = one.add_pending()
                            if is_written is None:
                                pytest.skip("its Transaction has no add_pending()")
                            one.send([bench.envelope()], meanwhile=partial(_note, written, is_written))

                            assert not written, "make was called by send, before the pending objects were flushed"
                    one.commit()
                    assert len(written) == 3, f"for 3 sends make was called {len(written)} times"
                    assert all(written), "make was called before the pending objects were flushed"

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_an_early_flush_of_a_session_makes_no_events(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            with worker.transaction() as transaction:
                if not transaction.flushes:
                    pytest.skip("its transactions flush no objects, so events may be made at once")
                for one in _in_sequence(bench, transaction):
                    made: list[str] = []
                    for part in (nullcontext(), one.savepoint("commit")):
                        with part:
                            one.add_pending()
                            one.send([bench.envelope()], meanwhile=partial(made.append, "made"))
                            one.flush()

                            assert not made, "make was called at an early flush, before the last object was changed"
                    one.commit()

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_a_failed_commit_of_a_session_sends_nothing_then_or_later(self) -> None:
        self._fail("session")

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_a_failed_commit_of_a_connection_sends_nothing_then_or_later(self) -> None:
        self._fail("connection")

    def _fail(self, kind: history.Kind) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            failed, kept = bench.envelopes(2)
            with worker.transaction(kind) as transaction:
                transaction.send([failed])
                if not transaction.commit_that_fails():
                    pytest.skip("its Transaction has no fail_commit()")
                again = transaction.again()
                again.send([kept])
                again.commit()

            came = [bench.one(worker), *bench.glimpse(worker)]
            assert [one.envelope for one in came] == [kept], (
                "not only the event of the second commit was delivered: the first one failed"
            )

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_a_commit_whose_events_cannot_be_made_fails_with_the_error_and_sends_nothing(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            with worker.transaction() as transaction:
                before = transaction.count_written()
                transaction.add_pending()
                transaction.send_what_raises(_NotMadeError())
                self._check_failing_commit(transaction, before)

            assert bench.glimpse(worker) == []

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_what_is_sent_at_the_last_flush_and_cannot_be_made_fails_the_commit(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            with worker.transaction() as transaction:
                before = transaction.count_written()
                later = partial(transaction.send_what_raises, _NotMadeError())
                transaction.send([bench.envelope()], meanwhile=_flushing_again(transaction, later))
                self._check_failing_commit(transaction, before)

            assert bench.glimpse(worker) == []

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_what_is_sent_at_the_last_flush_commits_with_the_transaction(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            first, second = bench.envelopes(2)
            with worker.transaction() as transaction:
                flush_again = _flushing_again(transaction, partial(transaction.send_unrecorded, [second].copy))

                def make() -> Sequence[Envelope]:
                    flush_again()
                    return [first]

                transaction.send_unrecorded(make)
                transaction.commit()

            came = [one.envelope for one in bench.past_the_recorder(worker, 2)]
            assert came in ([first, second], [second, first]), "not each event of the transaction came once"

    def _check_failing_commit(self, transaction: RecordedTransaction, before: int) -> None:
        """Check that a commit fails whose events cannot be made, and that nothing more than *before* is written."""
        with pytest.raises(_NotMadeError):
            transaction.commit()
        transaction.rollback()
        assert transaction.count_written() == before, "the transaction was committed although its commit raised"

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_what_cannot_be_written_comes_with_its_transaction_or_fails_it(self) -> None:
        largest = self.harness.capabilities.max_body
        for spoilt in UNWRITABLE if largest is None else [*UNWRITABLE, {"body": b"x" * (largest + 1)}]:
            with self.bench() as bench:
                worker = bench.worker()
                odd = bench.envelope(**spoilt)
                with worker.transaction() as transaction:
                    transaction.send([bench.envelope()])
                    try:
                        transaction.send([odd])
                        transaction.send([bench.envelope()])
                        transaction.commit()
                    except (TransportError, CodecError):
                        transaction.rollback()
                        came = bench.glimpse(worker)
                        assert came == [], "an event of a transaction that failed was delivered"
                    else:
                        assert not has_lone_surrogate(spoilt), f"{spoilt!a}: {UNREADABLE}"

    @proves(promise.JOINS_THE_TRANSACTION, promise.RESENT_IS_ONE)
    def test_the_same_event_in_a_transaction_fails_nothing(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelope, other = bench.envelopes(2)
            worker.send([envelope])
            with worker.transaction() as transaction:
                transaction.send([envelope, other])

                transaction.commit()

            came = bench.so_many(worker, 2)
            assert {one.envelope for one in came} == {envelope, other}

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_a_transaction_that_outlives_its_transport_fails_or_sends_its_events(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            with worker.transaction() as transaction:
                before = transaction.count_written()
                transaction.add_pending()
                transaction.send(bench.envelopes(2))
                worker.close()
                try:
                    transaction.commit()
                except TransportError:  # the checker expects the events only after a commit
                    transaction.rollback()
                    assert transaction.count_written() == before, "the transaction was committed without its events"

            bench.receive(bench.worker(), 2)

    @proves(promise.JOINS_THE_TRANSACTION, promise.DELAY_IS_RESPECTED)
    def test_a_delay_counts_in_a_transaction_too(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            with worker.transaction() as transaction:
                transaction.send([bench.envelope()], delay=bench.times.delay)

                transaction.commit()

            assert bench.glimpse(worker) == [] or not self.harness.fake

    @proves(promise.JOINS_THE_TRANSACTION, promise.DELAY_IS_RESPECTED)
    def test_each_send_of_a_transaction_has_its_own_delay(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            delay = bench.times.delay
            with worker.transaction() as transaction:
                for own in (4 * delay, 0.0, 2 * delay, 0.0):
                    transaction.send([bench.envelope()], delay=own)
                transaction.commit()

            # The checker knows which of them are not due yet.
            bench.so_many(worker, 2)
            bench.advance(2 * delay + (bench.capabilities.delay or 0.0) + 3 * self.harness.slack)
            bench.so_many(worker, 1)

    @proves(promise.JOINS_THE_TRANSACTION, promise.DELAY_IS_RESPECTED)
    def test_a_delay_counts_from_its_own_send_in_a_long_transaction(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            delay = bench.times.delay
            with worker.transaction() as transaction:
                transaction.send([bench.envelope()], delay=delay)
                bench.advance(delay / 2)
                transaction.send([bench.envelope()], delay=delay)
                bench.advance(delay / 4)
                transaction.commit()

            bench.advance(delay / 2)
            bench.receive(worker, 1, limit=10)  # the checker knows which of them is not due yet

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_what_is_no_session_is_refused_at_once(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            for other in (object(), None, "session", worker.transport):
                for relay in (None, f"broker-{bench.token}"):
                    error = raised_by(partial(worker.transport.bound_to, other, relay_to=relay))

                    assert isinstance(error, SessionError), (
                        f"bound_to({shown(other)}) must raise SessionError, not {error_text(error)}"
                    )

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_a_connection_without_a_transaction_is_refused(self) -> None:
        if not self.harness.has("connection"):
            pytest.skip("it joins no connections")
        with self.bench() as bench, self.harness.connection() as transaction:
            worker = bench.worker()
            without = getattr(transaction, "without_transaction", None)
            if without is None:
                pytest.skip("its Transaction has no without_transaction()")
            with without() as other:
                error = raised_by(partial(worker.transport.bound_to, other))

            assert isinstance(error, SessionError), f"bound_to must raise SessionError, not {error_text(error)}"

    @proves(promise.JOINS_THE_TRANSACTION, promise.SETUP_IS_IDEMPOTENT)
    def test_what_is_set_up_in_a_transaction_is_set_up_again_after_that_was_rolled_back(self) -> None:
        for fails in (False, True):
            with self.bench_with(self.harness.clock) as bench:
                envelope = bench.envelope()
                with bench.recorder.worker().transaction() as transaction:
                    if not transaction.send_with_setup(envelope):
                        pytest.skip("it sets nothing up in a transaction")
                    if not fails:
                        transaction.rollback()
                    elif not transaction.commit_that_fails():
                        pytest.skip("its Transaction has no fail_commit()")
                    again = transaction.again()
                    again.send_with_setup(envelope)
                    again.commit()

                came = [one.envelope for one in bench.past_the_recorder(bench.worker())]
                assert came == [envelope], "what was set up in a transaction that ended was not set up again"

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_what_waits_for_a_relay_lies_in_the_outbox_unchanged(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            outbox = bench.outbox(f"broker-{bench.token}")
            worker.setup([outbox])
            envelope = bench.envelope()
            with worker.transaction() as transaction:
                transaction.send([envelope], relay_to=f"broker-{bench.token}")

                transaction.commit()

            delivery = bench.one(worker, queues=[outbox])
            assert (delivery.queue, delivery.envelope) == (outbox, envelope)

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_each_event_of_a_transaction_waits_for_its_own_relay(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            names = [f"broker-{bench.token}", f"other-{bench.token}"]
            outboxes = [bench.outbox(name) for name in names]
            worker.setup(outboxes)
            envelopes = bench.envelopes(4)
            with worker.transaction() as transaction:
                for envelope, name in zip(envelopes, [names[0], None, names[1], names[0]], strict=True):
                    transaction.send([envelope], relay_to=name)

                transaction.commit()

            for queue, wanted in zip(
                [*outboxes, bench.queue], [{envelopes[0], envelopes[3]}, {envelopes[2]}, {envelopes[1]}], strict=True
            ):
                came = bench.so_many(worker, len(wanted), queues=[queue])
                assert {one.envelope for one in came} == wanted, f"{queue} delivered other events than were sent to it"

    @proves(promise.JOINS_THE_TRANSACTION, promise.ORDER_IS_KEPT)
    def test_events_for_different_queues_do_not_wait_for_one_another_in_an_outbox(self) -> None:
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            name = f"broker-{bench.token}"
            outbox = bench.outbox(name)
            worker.setup([outbox])
            envelopes = [bench.envelope(queue=queue, ordering_key="k") for queue in bench.queues]
            assert bench.glimpse(worker, queues=[outbox]) == []  # a store may repair this now and then
            with worker.transaction() as transaction:
                transaction.send(envelopes, relay_to=name)
                transaction.commit()

            held = bench.so_many(worker, 2, queues=[outbox])
            assert {one.envelope for one in held} == {*envelopes}

    @proves(promise.JOINS_THE_TRANSACTION, promise.DEAD_IS_KEPT_WITH_REASON)
    def test_each_copy_of_a_fan_out_in_an_outbox_dies_by_itself(self) -> None:
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            name = f"broker-{bench.token}"
            outbox = bench.outbox(name)
            worker.setup([outbox])
            envelope = bench.envelope()
            copies = [envelope, attrs.evolve(envelope, queue=bench.queues[1])]
            with worker.transaction() as transaction:
                transaction.send(copies, relay_to=name)
                transaction.commit()

            for delivery in bench.so_many(worker, 2, queues=[outbox]):
                assert worker.dead_letter(delivery)

            listed = worker.dead_letters([outbox])
            assert {*(one.envelope for one in listed)} == {*copies}, (
                "the list of dead letters lacks a copy of the fan-out"
            )
            worker.discard([listed[0].ref])
            assert [one.envelope for one in worker.dead_letters([outbox])] == [listed[1].envelope]

    @proves(promise.JOINS_THE_TRANSACTION, promise.DEAD_IS_KEPT_WITH_REASON)
    def test_copies_in_an_outbox_and_in_their_own_queue_die_separately(self) -> None:
        for dies_last in (0, 1):
            with self.bench() as bench:
                worker = bench.worker()
                name = f"broker-{bench.token}"
                queues = [bench.queue, bench.outbox(name)]
                worker.setup(queues)
                envelope = bench.envelope()
                worker.send([envelope])
                with worker.transaction() as transaction:
                    transaction.send([envelope], relay_to=name)
                    transaction.commit()

                held = [bench.one(worker, queues=[queue]) for queue in queues]
                for delivery in (held[1 - dies_last], held[dies_last]):
                    assert worker.dead_letter(delivery)

                dead = [len(worker.dead_letters([queue])) for queue in queues]
                assert dead == [1, 1], "the dead letter of one copy removed that of the other"

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_each_nesting_of_savepoints_in_a_session_keeps_every_promise(self) -> None:
        self._nest("session")

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_each_nesting_of_savepoints_on_a_connection_keeps_every_promise(self) -> None:
        self._nest("connection")

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_dozens_of_savepoints_of_a_session_are_told_apart(self) -> None:
        self._set_dozens("session")

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_dozens_of_savepoints_of_a_connection_are_told_apart(self) -> None:
        self._set_dozens("connection")

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_random_programs_of_sessions_keep_every_promise(self) -> None:
        self._run("session", programs(*OPERATIONS))

    @proves(promise.JOINS_THE_TRANSACTION)
    def test_random_programs_of_a_connection_keep_every_promise(self) -> None:
        self._run("connection", programs("send", "savepoint", "release", "undo", "commit", "rollback", "fail", "wait"))

    def _nest(self, kind: history.Kind) -> None:
        if not self.harness.has(kind):
            raise HookMissing(kind)
        self.each(
            nestings(_NESTED if self.harness.fake and not self.harness.is_durable else 2),
            lambda program: self._transact(kind, program),
        )

    def _set_dozens(self, kind: history.Kind) -> None:
        if not self.harness.has(kind):
            raise HookMissing(kind)
        for program in (several_in_a_row(_DOZEN), several_in_one_another(_DOZEN)):
            self._transact(kind, program)

    def _run(self, kind: history.Kind, drawn: st.SearchStrategy[Sequence[Move]]) -> None:
        if not self.harness.has(kind):
            raise HookMissing(kind)

        @self.profile.seeded
        @self.profile.of_payloads(fake=self.harness.fake, phases=self.phases)
        @given(program=drawn)
        def run(program: Sequence[Move]) -> None:
            self._transact(kind, program)

        run()

    def _transact(self, kind: history.Kind, program: Sequence[Move]) -> None:
        with self.bench(queues=2) as bench:
            Player(bench, kind).play(program)


def _in_sequence(bench: Bench, transaction: RecordedTransaction) -> Iterator[RecordedTransaction]:
    """Yield *transaction*, and of the same session the one after its commit and the one after a failed commit."""
    yield transaction
    yield (again := transaction.again())
    failed = again.again()
    failed.send([bench.envelope()])
    if failed.commit_that_fails():
        yield failed.again()


def _flushing_again(transaction: RecordedTransaction, later: Callable[[], object]) -> Callable[[], None]:
    """Return a function that adds an object to be flushed, and has *later* called at that flush."""
    if transaction.add_pending() is None or not transaction.at_flush(lambda: None):
        pytest.skip("its Transaction has no add_pending() or no at_flush()")

    def flush_again() -> None:
        transaction.add_pending()
        transaction.at_flush(later)

    return flush_again


def _note(written: list[bool], is_written: Callable[[], bool]) -> None:
    written.append(is_written())
