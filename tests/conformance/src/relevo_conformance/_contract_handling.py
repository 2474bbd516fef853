"""Scenarios of transactional listeners: what they write, and the state of the delivery, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs
import pytest

from relevo import MAX_STATE, Ack, Delivery, Envelope, Nack, Release, Settlement, Transport
from relevo.backend import HandlingTransaction, TransactionalHandling
from relevo.errors import ConfigurationError, LeaseLostError, SessionError, shown
from relevo_conformance import promise
from relevo_conformance.bench import Bench
from relevo_conformance.contract import Contract, proves, raised_by
from relevo_conformance.harness import CommitFailedError, HookMissing, Transaction
from relevo_conformance.verdict import error_text

_LEASE = 60.0

_STATE = b"done"


@attrs.frozen
class _Listener:
    """A listener in its transaction: it has written something."""

    transaction: HandlingTransaction
    writes: Any
    """What the harness writes with: see :meth:`Harness.handling`."""

    def written(self) -> int:
        """Return how much of it is committed; not to be called in the transaction."""
        found: int = self.writes.count_written()
        return found


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
    def test_a_commit_that_fails_leaves_no_row_and_no_state_and_the_next_one_both(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench)
            with self._listener(transport, delivery) as failed:
                if not hasattr(failed.writes, "fail_commit"):
                    pytest.skip("its Transaction has no fail_commit()")
                failed.writes.fail_commit()
                with pytest.raises(CommitFailedError):
                    failed.transaction.commit(b"failed")
            with self._listener(transport, delivery) as listener:
                listener.transaction.commit(_STATE)

            assert (failed.written(), listener.written()) == (0, 1)
            assert self._again(bench, transport, delivery).state == _STATE

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_of_several_listeners_the_last_state_stays(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench)
            for state in (b"one is done, and another one is not", b"both"):
                with self._listener(transport, delivery) as listener:
                    listener.transaction.commit(state)

                assert listener.written() == 1

            assert self._again(bench, transport, delivery).state == b"both"

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_the_states_of_two_deliveries_are_kept_apart(self) -> None:
        with self.bench() as bench:
            transport, one = self._leased(bench)
            _, other = self._leased(bench, transport)
            for delivery, state in ((other, b"other"), (one, b"one")):
                with self._listener(transport, delivery) as listener:
                    listener.transaction.commit(state)

            came = self._all_again(bench, transport, [one, other])
            assert {each.envelope: each.state for each in came} == {one.envelope: b"one", other.envelope: b"other"}

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_after_the_next_hand_over_nothing_is_committed(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench, lease=bench.times.lease)
            with self._begun(transport, delivery) as listener:
                bench.let_leases_end()
                other = bench.worker().transport
                again = _received(bench, other, 1)[0]
                listener.writes.add_pending()
                error = raised_by(partial(listener.transaction.commit, _STATE))

            assert isinstance(error, LeaseLostError), (
                f"commit() after the next hand over must raise LeaseLostError, not {error_text(error)}"
            )
            assert listener.written() == 0, "a row is there although the event was handed out again"
            assert (again.state, self._again(bench, other, again).state) == (b"", b"")

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
            exported: object = _handler(transport).exported_receipt(delivery)
            assert isinstance(exported, bytes), f"exported_receipt returned {shown(exported)}; expected bytes"
            if not exported:
                pytest.skip("its receipts are of no use in another process")
            child = attrs.evolve(delivery, receipt=exported)
            with self._listener(bench.worker().transport, child) as listener:
                listener.transaction.commit(_STATE)

            assert listener.written() == 1
            assert self._again(bench, transport, delivery).state == _STATE

    @proves(promise.EFFECT_IS_THERE_IF_DONE)
    def test_another_receipt_is_none(self) -> None:
        with self.bench() as bench:
            transport, delivery = self._leased(bench)
            for receipt in (None, b"", b"1", b"1 2 3", object(), "1"):
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

    # --- what they have in common ------------------------------------------------------------------------

    def _leased(
        self, bench: Bench, transport: Transport | None = None, *, lease: float = _LEASE
    ) -> tuple[Transport, Delivery]:
        """Send an event, and return a transport with its delivery."""
        if not self.harness.has("handling"):
            raise HookMissing("handling")
        transport = transport or bench.worker().transport
        transport.send([bench.envelope()])
        return transport, _received(bench, transport, 1, lease=lease)[0]

    @contextmanager
    def _begun(self, transport: Transport, delivery: Delivery) -> Iterator[_Listener]:
        """Yield a listener that has written nothing yet."""
        with self.harness.handling(transport, delivery) as (transaction, writes):
            yield _Listener(transaction, _complete(writes))

    @contextmanager
    def _listener(self, transport: Transport, delivery: Delivery) -> Iterator[_Listener]:
        """Yield a listener that has written something."""
        with self._begun(transport, delivery) as listener:
            listener.writes.add_pending()
            listener.transaction.session.flush()
            yield listener

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
        assert transport.settle([(delivery, Ack()) for delivery in came]) == []
        return came


def _received(bench: Bench, transport: Transport, number: int, *, lease: float = _LEASE) -> Sequence[Delivery]:
    """Return *number* deliveries, which must come."""
    came: list[Delivery] = []

    def look() -> bool:
        came.extend(transport.receive(bench.queues, limit=number - len(came), lease=lease, wait=bench.glance))
        return len(came) == number

    bench.eventually(look)
    assert len(came) == number, f"{len(came)} of {number} events came"
    assert all(isinstance(each.envelope, Envelope) for each in came)
    return came


def _handler(transport: Transport) -> TransactionalHandling:
    assert isinstance(transport, TransactionalHandling)
    return transport


def _returning(made: Any) -> Callable[[], Any]:
    return lambda: made


def _complete(writes: Transaction) -> Any:
    """Return *writes*, which must be able to write, and to count what it wrote."""
    for name in ("add_pending", "count_written"):
        if not hasattr(writes, name):
            raise HookMissing("handling")
    return writes
