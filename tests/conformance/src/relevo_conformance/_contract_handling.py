"""Scenarios of transactional listeners: what they write, and the state of the delivery, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import attrs
import pytest

from relevo import MAX_STATE, Ack, Delivery, Envelope, Nack, Release, Settlement, Transport
from relevo.backend import TransactionalHandling
from relevo.errors import ConfigurationError, LeaseLostError, RelevoError, SessionError, TransportClosedError, shown
from relevo_conformance import promise
from relevo_conformance._listener import (
    BegunListener,
    begun,
    failed,
    having_written,
    require_failure,
    require_notice,
)
from relevo_conformance.bench import Bench, Thread
from relevo_conformance.contract import Contract, proves, raised_by
from relevo_conformance.harness import HookMissing
from relevo_conformance.verdict import error_text

_HOOK = "handling"

_LEASE = 60.0

_AT_MOST = 0.5
"""Seconds of real time for which a commit waits for another thread, if that does not wait for the commit."""

_STATE = b"\x00 done, in bytes that are not text: \xff"
_STEP = b"\x00 a step, in bytes that are not text: \xff"


class HandlingContract(Contract):
    """
    What a listener wrote is there if and only if its delivery has the state that was committed with it.

    These calls are not recorded: the history of a transport knows nothing of the rows of an application.
    """

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_a_row_and_the_state_commit_together(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench)
            with self._listener(transport, delivery) as listener:
                listener.transaction.commit(_STATE)

            assert listener.written() == 1, "the row is missing after commit()"
            assert self._again(bench, transport, delivery).state == _STATE

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_what_is_not_committed_leaves_no_row_and_no_state(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench)
            with self._listener(transport, delivery) as listener:
                pass

            assert listener.written() == 0, "a row is there without commit()"
            assert self._again(bench, transport, delivery).state == b""

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_a_commit_that_fails_leaves_no_row_and_the_state_before_it(self) -> None:
        for before in (b"", b"one is done, and another one is not"):
            with self.bench() as bench:
                transport, delivery = self._leased(bench)
                if before:
                    with self._listener(transport, delivery) as listener:
                        listener.transaction.commit(before)
                failed = self._failed(transport, delivery)

                assert failed.written() == 0, "a row is there although commit() failed"
                after = self._again(bench, transport, delivery).state
                assert after == before, f"after a commit() that failed the state is {after!r} instead of {before!r}"

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_after_a_commit_that_failed_the_next_one_leaves_a_row_and_a_state(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench)
            failed = self._failed(transport, delivery)
            with self._listener(transport, delivery) as listener:
                listener.transaction.commit(_STATE)

            assert (failed.written(), listener.written()) == (0, 1)
            assert self._again(bench, transport, delivery).state == _STATE

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_a_commit_is_announced_before_it_once(self) -> None:
        for fails in (True, False):
            with self.bench() as bench:
                transport, delivery = self._leased(bench)
                seen: list[bytes] = []
                announce = partial(seen.append, _STATE)
                if fails:
                    self._failed(transport, delivery, committing=announce)
                else:
                    with self._listener(transport, delivery) as listener:
                        listener.transaction.commit(_STATE, announce)
                transport.settle([(delivery, Ack())])

                assert seen == [_STATE], f"committing() was called {len(seen)} times, not once before the commit"

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_of_several_listeners_the_last_state_stays(self) -> None:
        for last in (b"both", b""):
            with self.bench() as bench:
                transport, delivery = self._leased(bench)
                for state in (b"one is done, and another one is not", last):
                    with self._listener(transport, delivery) as listener:
                        listener.transaction.commit(state)

                    assert listener.written() == 1, "the row is missing after commit()"

                assert self._again(bench, transport, delivery).state == last

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_the_states_of_two_deliveries_are_kept_apart(self) -> None:
        with self.bench() as bench:
            transport, (one, other) = self._all_leased(bench, 2)
            for delivery, state in ((other, b"other"), (one, b"one")):
                with self._listener(transport, delivery) as listener:
                    listener.transaction.commit(state)

            came = self._all_again(bench, transport, [one, other])
            assert {each.envelope: each.state for each in came} == {one.envelope: b"one", other.envelope: b"other"}

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_two_listeners_at_the_same_time_have_a_session_each(self) -> None:
        with self.bench() as bench:
            transport, (one, other) = self._all_leased(bench, 2)
            with self._begun(transport, one) as left, self._begun(transport, other) as listener:
                left.writes.add_pending()
                listener.writes.add_pending()
                listener.transaction.commit(_STATE)

            assert (left.written(), listener.written()) == (0, 1), "a commit is not that of one listener alone"
            came = self._all_again(bench, transport, [one, other])
            assert {each.envelope: each.state for each in came} == {one.envelope: b"", other.envelope: _STATE}

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_after_the_next_hand_over_nothing_is_committed(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench, lease=bench.times.lease)
            with self._begun(transport, delivery) as listener:
                bench.let_leases_end()
                other = bench.worker().transport
                again = _received(bench, other, 1)[0]
                listener.writes.add_pending()
                seen: list[bytes] = []
                error = raised_by(partial(listener.transaction.commit, _STATE, partial(seen.append, _STATE)))

            assert isinstance(error, LeaseLostError), (
                f"commit() after the next hand over must raise LeaseLostError, not {error_text(error)}"
            )
            assert seen == [], "committing() was called although the event was handed out again"
            assert listener.written() == 0, "a row is there although the event was handed out again"
            assert (again.state, self._again(bench, other, again).state) == (b"", b"")

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_a_lease_that_ends_before_the_commit_leaves_both_or_neither(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench, lease=bench.times.lease)
            with self._begun(transport, delivery) as listener:
                bench.let_leases_end()
                listener.writes.add_pending()
                error = raised_by(partial(listener.transaction.commit, _STATE))

            self._require_both_or_neither(bench, listener, error)

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_a_lease_that_ends_during_the_commit_leaves_both_or_neither(self) -> None:
        if not self.harness.capabilities.transactional:
            pytest.skip("no event is made during a commit: transactional is not claimed")
        with self.bench() as bench:
            transport, delivery = self._leased(bench, lease=bench.times.lease)

            def make() -> Sequence[Envelope]:
                bench.let_leases_end()
                return ()

            with self._listener(transport, delivery) as listener:
                transport.bound_to(listener.transaction.session).send(make)
                error = raised_by(partial(listener.transaction.commit, _STATE))

            self._require_both_or_neither(bench, listener, error)

    @proves(promise.EFFECT_IS_THERE_IF_DONE, promise.EXTEND_KEEPS_THE_LEASE)
    def test_a_lease_that_is_extended_during_a_commit_is_kept(self) -> None:
        self.require_timed_leases()
        with self.bench() as bench:
            transport, delivery = self._leased(bench, lease=bench.times.lease)
            lost: list[Delivery] = []
            threads: list[Thread] = []

            def extend() -> None:
                lost.extend(transport.extend([delivery], lease=4 * bench.times.lease))

            def committing() -> None:
                threads.append(Thread(extend))
                threads[0].join(_AT_MOST)  # it may have to wait for the commit

            with self._listener(transport, delivery) as listener:
                listener.transaction.commit(_STATE, committing)
            threads[0].finish()
            assert lost == [], "an extension during the commit returned the delivery as lost"
            bench.advance(2 * bench.times.lease)

            came = bench.worker().transport.receive(bench.queues, limit=1, lease=_LEASE, wait=bench.glance)
            assert list(came) == [], "the event was handed out again before its extended lease was over"
            assert transport.settle([(delivery, Ack())]) == []

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_after_a_commit_the_lease_ends_as_before(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench, lease=bench.times.lease)
            with self._listener(transport, delivery) as listener:
                listener.transaction.commit(_STATE)

            self._require_the_end_of_the_lease(bench, "after commit()")

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_after_a_commit_that_failed_the_lease_ends_as_before(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench, lease=bench.times.lease)
            self._failed(transport, delivery)

            self._require_the_end_of_the_lease(bench, "after a commit() that failed")

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_after_the_settlement_nothing_is_committed(self) -> None:
        for outcome in (Ack(), Nack(), Release()):
            with self.bench() as bench:
                transport, delivery = self._leased(bench)
                with self._begun(transport, delivery) as listener:
                    assert transport.settle([(delivery, outcome)]) == []
                    listener.writes.add_pending()
                    error = raised_by(partial(listener.transaction.commit, _STATE))

                assert isinstance(error, LeaseLostError), (
                    f"commit() after {outcome} must raise LeaseLostError, not {error_text(error)}"
                )
                assert listener.written() == 0, f"a row is there although {outcome} had settled the delivery"
                if not isinstance(outcome, Ack):
                    assert [each.state for each in bench.past_the_recorder(bench.worker())] == [b""]

    @proves(promise.EFFECT_IS_THERE_IF_DONE, promise.JOINS_THE_TRANSACTION)
    def test_what_is_sent_in_the_transaction_of_a_listener_exists_if_that_commits(self) -> None:
        for commits in (True, False):
            with self.bench() as bench:
                transport, delivery = self._leased(bench)
                envelope = bench.envelope()
                with self._listener(transport, delivery) as listener:
                    sender = transport.bound_to(listener.transaction.session)
                    sender.send(_returning([envelope]))
                    if commits:
                        listener.transaction.commit(_STATE)
                transport.settle([(delivery, Ack())])

                came = [each.envelope for each in bench.past_the_recorder(bench.worker(), 2)]
                assert came == ([envelope] if commits else [])

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_a_listener_does_not_commit_its_session(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench)
            with self._listener(transport, delivery) as listener:
                error = raised_by(listener.writes.commit)

            assert isinstance(error, SessionError), (
                f"commit() of the session must raise SessionError, not {error_text(error)}"
            )
            assert listener.written() == 0
            assert self._again(bench, transport, delivery).state == b""

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_a_savepoint_is_the_business_of_the_listener(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench)
            with self._listener(transport, delivery) as listener:
                listener.writes.savepoint().commit()
                lost = listener.writes.savepoint()
                listener.writes.add_pending()
                lost.rollback()
                listener.transaction.commit(_STATE)

            assert listener.written() == 1, "what a savepoint kept is missing, or what it undid is there"
            assert self._again(bench, transport, delivery).state == _STATE

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_a_listener_that_ends_its_transaction_is_not_done(self) -> None:
        for end in ("rollback", "close"):
            with self.bench() as bench:
                transport, delivery = self._leased(bench)
                with self._listener(transport, delivery) as listener:
                    if not hasattr(listener.writes, end):
                        continue
                    getattr(listener.writes, end)()
                    listener.writes.add_pending()
                    error = raised_by(partial(listener.transaction.commit, _STATE))

                assert isinstance(error, SessionError), (
                    f"commit() after {end}() of the session must raise SessionError, not {error_text(error)}: what the "
                    f"listener wrote before is lost"
                )
                assert listener.written() == 0, f"a row is there although {end}() ended the transaction"
                assert self._again(bench, transport, delivery).state == b""

    @proves(promise.EFFECT_IS_THERE_IF_DONE, promise.STATE_IS_BOUNDED)
    def test_a_state_is_bounded_in_a_transaction_too(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench)
            with self._listener(transport, delivery) as refused:
                error = raised_by(lambda: refused.transaction.commit(bytes(MAX_STATE + 1)))
            with self._listener(transport, delivery) as listener:
                listener.transaction.commit(bytes(MAX_STATE))

            assert isinstance(error, ConfigurationError), (
                f"commit() of a state that is too long must raise ConfigurationError, not {error_text(error)}"
            )
            assert (refused.written(), listener.written()) == (0, 1)
            assert self._again(bench, transport, delivery).state == bytes(MAX_STATE)

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_an_exported_receipt_is_valid_in_another_instance(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench)
            with self._listener(bench.worker().transport, _exported(transport, delivery)) as listener:
                listener.transaction.commit(_STATE)

            assert listener.written() == 1
            assert self._again(bench, transport, delivery).state == _STATE

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_an_exported_receipt_is_not_valid_after_the_next_hand_over(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench, lease=bench.times.lease)
            child = _exported(transport, delivery)
            bench.let_leases_end()
            other = bench.worker().transport
            again = _received(bench, other, 1)[0]

            def commit() -> None:
                with self._listener(transport, child) as listener:
                    listener.transaction.commit(_STATE)

            error = raised_by(commit)
            assert isinstance(error, LeaseLostError), (
                f"an exported receipt must not outlive its delivery, but with it there was {error_text(error)}"
            )
            assert self._again(bench, other, again).state == b""

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_a_step_commits_with_its_state_and_what_follows_does_not(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench)
            with self._listener(transport, delivery) as listener:
                listener.transaction.commit_step(_STEP)
                rows = listener.written()
                listener.writes.add_pending()
                listener.transaction.session.flush()

            assert (rows, listener.written()) == (1, 1), "the rows are not those of the step alone"
            assert self._again(bench, transport, delivery).state == _STEP

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_a_listener_with_steps_commits_at_its_end_too(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench)
            with self._listener(transport, delivery) as listener:
                for number in range(2):
                    listener.transaction.commit_step(b"%d" % number)
                    listener.writes.add_pending()
                listener.transaction.commit(_STATE)

            assert listener.written() == 3, "a row of two steps and the end is missing after commit()"
            assert self._again(bench, transport, delivery).state == _STATE

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_a_step_that_fails_leaves_the_state_of_the_last_one(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench)
            with self._listener(transport, delivery) as listener:
                listener.transaction.commit_step(_STEP)
                listener.writes.add_pending()
                require_failure(listener, listener.transaction.commit_step)

            assert listener.written() == 1, "the rows are not those of the first step alone"
            assert self._again(bench, transport, delivery).state == _STEP

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_a_step_after_the_next_hand_over_commits_nothing(self) -> None:
        for ends in (False, True):
            with self.bench() as bench:
                transport, delivery = self._leased(bench)
                with self._listener(transport, delivery) as listener:
                    listener.transaction.commit_step(_STEP)
                    again = self._again(bench, transport, delivery)
                    listener.writes.add_pending()
                    transaction = listener.transaction
                    error = raised_by(partial(transaction.commit if ends else transaction.commit_step, _STATE))

                assert isinstance(error, LeaseLostError), (
                    f"a step after the next hand-over must raise LeaseLostError, not {error_text(error)}"
                )
                assert (listener.written(), again.state) == (1, _STEP)

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_what_was_written_since_the_last_step_is_noticed(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench)
            with self._begun(transport, delivery) as listener:
                require_notice(listener)
            transport.settle([(delivery, Ack())])

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_another_receipt_is_none(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench)
            for receipt in (None, b"", b"1", b"1 2 3", b"1 99999999999999999999", object(), "1"):
                error = raised_by(self._opening(transport, attrs.evolve(delivery, receipt=receipt)))

                assert isinstance(error, LeaseLostError), (
                    f"handling() with the receipt {shown(receipt)} must raise LeaseLostError, not {error_text(error)}"
                )
            transport.settle([(delivery, Ack())])

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_what_makes_no_session_is_refused(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench)
            for made in (None, object(), "session"):
                error = raised_by(partial(_handler(transport).handling, delivery, sessions=_returning(made)))

                assert isinstance(error, SessionError), (
                    f"handling() with {shown(made)} as its session must raise SessionError, not {error_text(error)}"
                )
            transport.settle([(delivery, Ack())])

    @proves(promise.EFFECT_IS_THERE_IF_DONE, promise.CLOSE_IS_IDEMPOTENT)
    def test_a_closed_transport_begins_no_transaction(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench, lease=bench.times.lease)
            transport.close()
            error = raised_by(self._opening(transport, delivery))

            assert isinstance(error, TransportClosedError), (
                f"handling() after close() must raise TransportClosedError, not {error_text(error)}"
            )
            bench.let_leases_end()
            bench.past_the_recorder(bench.worker())

    # --- what they have in common ------------------------------------------------------------------------

    def _leased(self, bench: Bench, *, lease: float = _LEASE) -> tuple[Transport, Delivery]:
        """Send an event, and return a transport with its delivery."""
        transport, (delivery,) = self._all_leased(bench, 1, lease=lease)
        return transport, delivery

    def _all_leased(self, bench: Bench, number: int, *, lease: float = _LEASE) -> tuple[Transport, Sequence[Delivery]]:
        """Send *number* events, and return a transport with their deliveries, which one receive returned if it can."""
        if not self.harness.has(_HOOK):
            raise HookMissing(_HOOK)
        bench.recorder.hooks[_HOOK] += 1  # not as other hooks: an error in it is the transport's
        transport = bench.worker().transport
        transport.send(bench.envelopes(number))
        return transport, _received(bench, transport, number, lease=lease)

    def _begun(self, transport: Transport, delivery: Delivery) -> AbstractContextManager[BegunListener]:
        """Return a listener that has written nothing yet."""
        return begun(self.harness.handling(transport, delivery), hook=_HOOK)

    def _listener(self, transport: Transport, delivery: Delivery) -> AbstractContextManager[BegunListener]:
        """Return a listener that has written something."""
        return having_written(self.harness.handling(transport, delivery), hook=_HOOK)

    def _failed(
        self, transport: Transport, delivery: Delivery, *, committing: Callable[[], object] = lambda: None
    ) -> BegunListener:
        """Return a listener whose commit has failed."""
        return failed(self.harness.handling(transport, delivery), hook=_HOOK, committing=committing)

    @staticmethod
    def _require_both_or_neither(bench: Bench, listener: BegunListener, error: RelevoError | None) -> None:
        """Require a row and the state if commit() raised no *error*, and otherwise none of them."""
        assert error is None or isinstance(error, LeaseLostError), (
            f"commit() after the end of the lease must succeed or raise LeaseLostError, not {error_text(error)}"
        )
        state, rows = (_STATE, 1) if error is None else (b"", 0)
        assert listener.written() == rows, (
            f"there are {listener.written()} rows after a commit() with {error_text(error)}"
        )
        came = [each.state for each in bench.past_the_recorder(bench.worker())]
        assert came == [state], f"the event came again with {came} instead of the state {state!r}, and {rows} rows"

    @staticmethod
    def _require_the_end_of_the_lease(bench: Bench, when: str) -> None:
        bench.let_leases_end()
        came = bench.past_the_recorder(bench.worker())
        assert [each.lost_leases for each in came] == [1], f"{when} the lease does not end"

    def _opening(self, transport: Transport, delivery: Delivery) -> Callable[[], None]:
        def opened() -> None:
            with self.harness.handling(transport, delivery):
                pass

        return opened

    def _again(self, bench: Bench, transport: Transport, delivery: Delivery) -> Delivery:
        """Return the next delivery of the event of *delivery*, after settling both."""
        return self._all_again(bench, transport, [delivery])[0]

    @staticmethod
    def _all_again(bench: Bench, transport: Transport, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        nacks: list[Settlement] = [(delivery, Nack()) for delivery in deliveries]
        assert transport.settle(nacks) == [], "a delivery was lost within its lease"
        came = _received(bench, transport, len(deliveries))
        counted = {each.envelope: (each.attempt + 1, each.lost_leases) for each in deliveries}
        assert {each.envelope: (each.attempt, each.lost_leases) for each in came} == counted, (
            "a transaction counts as an attempt, or as a lost lease"
        )
        assert transport.settle([(delivery, Ack()) for delivery in came]) == []
        return came


def _received(bench: Bench, transport: Transport, number: int, *, lease: float = _LEASE) -> Sequence[Delivery]:
    """Return *number* deliveries, which must come."""
    came: list[Delivery] = []

    def look() -> bool:
        found = transport.receive(bench.queues, limit=number - len(came), lease=lease, wait=bench.glance)
        came.extend(found)
        return bool(found)

    while len(came) < number and bench.eventually(look):  # some come one by one
        pass
    assert len(came) == number, f"{len(came)} of {number} events came"
    assert all(isinstance(each.envelope, Envelope) for each in came)
    return came


def _handler(transport: Transport) -> TransactionalHandling:
    assert isinstance(transport, TransactionalHandling)
    return transport


def _exported(transport: Transport, delivery: Delivery) -> Delivery:
    """Return *delivery* as a child process gets it."""
    receipt: object = _handler(transport).exported_receipt(delivery)
    assert isinstance(receipt, bytes), f"exported_receipt returned {shown(receipt)}; expected bytes"
    if not receipt:
        pytest.skip("its receipts are of no use in another process")
    return attrs.evolve(delivery, receipt=receipt)


def _returning(made: Any) -> Callable[[], Any]:
    return lambda: made
