"""Scenarios of unique events: of one key, one event lives at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs
import pytest

from relevo import Ack, DeadLetter, Delivery, Envelope, Nack, Release, Settlement, Transport, UniqueSender
from relevo.errors import TransportClosedError, shown
from relevo_conformance import promise
from relevo_conformance._contract_name import BLANKS, ENDS
from relevo_conformance.bench import Bench
from relevo_conformance.contract import Contract, proves, raised_by
from relevo_conformance.verdict import error_text

_LEASE = 60.0

ALIKE = tuple(dict.fromkeys((*ENDS, *BLANKS, "", "ß", "ss", "0", "00", "😀", "😁")))
"""Endings of keys that a store must tell apart."""

LONGEST = 255
"""The largest number of characters of a key."""


@attrs.frozen
class _Sent:
    """An event that was sent with a unique key, and what was returned."""

    envelope: Envelope
    living: str | None


class UniqueContract(Contract):
    """
    While an event with a key lives, no other one with that key is accepted, and the sender gets its id.

    These calls are not recorded: a history knows nothing of keys.
    """

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_a_second_event_of_a_key_is_refused_and_leaves_nothing(self) -> None:
        with self.bench() as bench:
            transport, other = bench.worker().transport, bench.worker().transport
            first = self._accepted(bench, transport)
            for by in (transport, other):
                self._require_duplicate(bench, by, first)

            _require_all(bench, transport, first)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_an_event_has_its_key_until_it_is_settled_for_good(self) -> None:
        with self.bench() as bench:
            transport = bench.worker().transport
            first = self._accepted(bench, transport)
            for outcome in (Nack(), Release(), Ack()):
                held = _received(bench, transport, 1)
                self._require_duplicate(bench, transport, first)
                _settle(transport, held, outcome)
                if not isinstance(outcome, Ack):
                    self._require_duplicate(bench, transport, first)
            second = self._accepted(bench, transport)
            self._require_duplicate(bench, transport, second)

            _require_all(bench, transport, second)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_a_dead_letter_has_no_key(self) -> None:
        if not self.harness.capabilities.dead_letters:
            pytest.skip("dead_letters is not claimed")
        with self.bench() as bench:
            transport = bench.worker().transport
            self._accepted(bench, transport)
            _settle(transport, _received(bench, transport, 1), DeadLetter(reason="rejected", error="no"))
            second = self._accepted(bench, transport)

            _require_all(bench, transport, second)
            transport.discard([each.ref for each in transport.dead_letters([bench.queue])])

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_an_event_that_is_delayed_or_was_lost_has_its_key(self) -> None:
        with self.bench() as bench:
            transport = bench.worker().transport
            delayed = None
            if self.harness.capabilities.delay is not None:
                delayed = self._accepted(bench, transport, delay=bench.times.delay)
                self._require_duplicate(bench, transport, delayed)
                bench.let_delays_end()
            first = delayed or self._accepted(bench, transport)
            if self.harness.capabilities.lease == "timed":
                _received(bench, transport, 1, lease=bench.times.lease)
                bench.let_leases_end()
            self._require_duplicate(bench, transport, first)

            _require_all(bench, transport, first)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_a_key_stays_taken_for_its_time_and_no_longer(self) -> None:
        within = 60.0 if self.harness.fake else 1.5
        with self.bench() as bench:
            transport = bench.worker().transport
            for _ in range(2):  # the second time its row exists
                began = self.harness.clock.now()
                first = self._accepted(bench, transport, within=within)
                _require_all(bench, transport, first)
                bench.advance(within / 2 if self.harness.fake else 0.1)
                early = self._sent(bench, transport)
                is_taken = self.harness.fake or self.harness.clock.now() < began + within - self.harness.slack
                assert early.living == first.id or not is_taken, (
                    f"the key was free {within / 2} s after the event, although it is taken for {within} s"
                )
                bench.advance(within + 3 * self.harness.slack + bench.times.step)
                if early.living is None:  # on a slow machine
                    _require_all(bench, transport, early.envelope)
                later = self._accepted(bench, transport)

                _require_all(bench, transport, later)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_an_event_that_outlives_the_time_of_its_key_has_it_still(self) -> None:
        within = 60.0 if self.harness.fake else 0.1
        with self.bench() as bench:
            transport = bench.worker().transport
            first = self._accepted(bench, transport, within=within)
            bench.advance(3 * within + 3 * self.harness.slack + bench.times.step)
            self._require_duplicate(bench, transport, first, within=within)

            _require_all(bench, transport, first)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_keys_are_told_apart(self) -> None:
        with self.bench() as bench:
            transport = bench.worker().transport
            keys = [f"{_key(bench)}{end}" for end in ALIKE]
            keys += [f"{_key(bench):x<{LONGEST - 1}}{end}" for end in "ab"]
            accepted = {key: self._accepted(bench, transport, key=key) for key in keys}
            for key, first in accepted.items():
                self._require_duplicate(bench, transport, first, key=key)

            _require_all(bench, transport, *accepted.values())

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_applications_have_keys_of_their_own(self) -> None:
        with self.bench() as bench:
            transport = bench.worker().transport
            sources = ("shop", "Shop", "shop2", "ops")  # "ops" and "2…" must not add up to another one's
            envelopes, own = [bench.envelope(source=source) for source in sources], _key(bench)
            for envelope, key in zip(envelopes, (f"2{own}", f"2{own}", own, f"h2{own}"), strict=True):
                assert transport.send_unique([envelope], key=key) is None, (
                    f"the key {key!r} of {envelope.source!r} is taken by another application"
                )

            _require_all(bench, transport, *envelopes)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_the_same_event_may_be_sent_again(self) -> None:
        with self.bench() as bench:
            transport = bench.worker().transport
            first = self._accepted(bench, transport)
            again = transport.send_unique([first], key=_key(bench))

            assert again is None, "an event is a duplicate of itself"
            _require_all(bench, transport, *([first] if self.harness.capabilities.dedupe else [first] * 2))

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_the_same_event_is_refused_once_it_is_settled_within_the_time_of_its_key(self) -> None:
        for within in (0.0, 60.0):  # that of the second send, which may ask for what it has asked for before
            with self.bench() as bench:
                transport = bench.worker().transport
                first = self._accepted(bench, transport, within=60.0)
                _require_all(bench, transport, first)

                living = transport.send_unique([first], key=_key(bench), within=within)
                assert living == first.id, f"it was settled within its time, and send_unique() returned {shown(living)}"
                _require_all(bench, transport)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_an_event_has_its_key_while_a_copy_of_it_lives(self) -> None:
        with self.bench(queues=2) as bench:
            transport = bench.worker().transport
            one = bench.envelope(queue=bench.queues[0])
            copies = [one, attrs.evolve(one, queue=bench.queues[1])]
            assert transport.send_unique(copies, key=_key(bench)) is None
            for queue in bench.queues:
                self._require_duplicate(bench, transport, one)
                held = _received(bench, transport, 1, queues=[queue])
                _settle(transport, held, Ack())
            second = self._accepted(bench, transport)

            _require_all(bench, transport, second)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_the_copies_of_a_duplicate_leave_nothing_anywhere(self) -> None:
        with self.bench(queues=2) as bench:
            transport = bench.worker().transport
            first = self._accepted(bench, transport, queue=bench.queues[1])
            one = bench.envelope(queue=bench.queues[0])
            copies = [one, attrs.evolve(one, queue=bench.queues[1])]

            assert transport.send_unique(copies, key=_key(bench)) == first.id
            _require_all(bench, transport, first)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_an_event_without_a_key_has_none(self) -> None:
        with self.bench() as bench:
            transport = bench.worker().transport
            plain = bench.envelope()
            transport.send([plain])
            first = self._accepted(bench, transport)
            other = bench.envelope()
            transport.send([other])

            _require_all(bench, transport, plain, first, other)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_an_event_that_was_cancelled_has_no_key(self) -> None:
        if not self.harness.capabilities.cancel:
            pytest.skip("cancel is not claimed")
        with self.bench() as bench:
            transport = bench.worker().transport
            transport.cancel(self._accepted(bench, transport).id)
            second = self._accepted(bench, transport)

            _require_all(bench, transport, second)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_after_close_a_unique_send_raises(self) -> None:
        with self.bench() as bench:
            transport = bench.worker().transport
            transport.close()
            error = raised_by(partial(transport.send_unique, [bench.envelope()], key=_key(bench)))

            assert isinstance(error, TransportClosedError), (
                f"send_unique() after close() must raise TransportClosedError, not {error_text(error)}"
            )

    # --- in a transaction -----------------------------------------------------------------------------

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_a_transaction_takes_the_key_when_it_commits(self) -> None:
        with self.bench() as bench:
            transport = bench.worker().transport
            for kind in self.transaction_kinds():
                with self._transaction(bench, kind) as transaction:
                    envelope, decided = self._enlisted(bench, transport, transaction.session)
                    transaction.commit()

                    assert decided == [None], f"after the commit decided() was called with {decided}"
                    self._require_duplicate(bench, transport, envelope)
                    _require_all(bench, transport, envelope)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_a_transaction_that_is_rolled_back_takes_no_key(self) -> None:
        with self.bench() as bench:
            transport = bench.worker().transport
            for kind in self.transaction_kinds():
                with self._transaction(bench, kind) as transaction:
                    self._enlisted(bench, transport, transaction.session)
                    transaction.rollback()
                first = self._accepted(bench, transport)

                _require_all(bench, transport, first)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_a_savepoint_that_is_rolled_back_takes_no_key(self) -> None:
        with self.bench() as bench:
            transport = bench.worker().transport
            for kind in self.transaction_kinds():
                with self._transaction(bench, kind) as transaction:
                    savepoint = transaction.savepoint()
                    self._enlisted(bench, transport, transaction.session)
                    savepoint.rollback()
                    envelope, decided = self._enlisted(bench, transport, transaction.session)
                    transaction.commit()

                    assert decided == [None], f"after the commit decided() was called with {decided}"
                    _require_all(bench, transport, envelope)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_a_transaction_sends_no_duplicate_and_commits_what_else_it_has(self) -> None:
        with self.bench() as bench:
            transport = bench.worker().transport
            for kind in self.transaction_kinds():
                first = self._accepted(bench, transport)
                with self._transaction(bench, kind) as transaction:
                    before, other = bench.envelope(), bench.envelope()
                    sender = transport.bound_to(transaction.session)
                    sender.send(lambda before=before: [before])  # type: ignore[misc]
                    _, decided = self._enlisted(bench, transport, transaction.session)
                    sender.send(lambda other=other: [other])  # type: ignore[misc]
                    transaction.commit()

                    assert decided == [first.id], f"after the commit decided() was called with {decided}"
                    _require_all(bench, transport, first, before, other)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_the_second_of_two_events_in_one_transaction_is_a_duplicate(self) -> None:
        with self.bench() as bench:
            transport = bench.worker().transport
            for kind in self.transaction_kinds():
                with self._transaction(bench, kind) as transaction:
                    first, decided = self._enlisted(bench, transport, transaction.session)
                    _, second = self._enlisted(bench, transport, transaction.session)
                    transaction.commit()

                    assert (decided, second) == ([None], [first.id])
                    _require_all(bench, transport, first)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_an_event_that_was_settled_before_the_commit_does_not_count(self) -> None:
        with self.bench() as bench:
            transport = bench.worker().transport
            for kind in self.transaction_kinds():
                with self._transaction(bench, kind) as transaction:
                    if not hasattr(transaction.session, "flush"):
                        continue  # it is decided at once
                    first = self._accepted(bench, transport)
                    envelope, decided = self._enlisted(bench, transport, transaction.session)
                    _require_all(bench, transport, first)
                    transaction.commit()

                    assert decided == [None], f"after the commit decided() was called with {decided}"
                    _require_all(bench, transport, envelope)

    # --- steps ----------------------------------------------------------------------------------------

    def _sent(self, bench: Bench, transport: Transport, *, key: str | None = None, **options: Any) -> _Sent:
        envelope = bench.envelope(**({"queue": options.pop("queue")} if "queue" in options else {}))
        living: object = transport.send_unique([envelope], key=_key(bench) if key is None else key, **options)
        assert living is None or isinstance(living, str), f"send_unique() returned {shown(living)}; expected an id"
        return _Sent(envelope, living)

    def _accepted(self, bench: Bench, transport: Transport, **options: Any) -> Envelope:
        """Return an event that was sent with a key that no event has."""
        sent = self._sent(bench, transport, **options)
        assert sent.living is None, f"no event has the key, and send_unique() returned {shown(sent.living)}"
        return sent.envelope

    def _require_duplicate(self, bench: Bench, transport: Transport, first: Envelope, **options: Any) -> None:
        sent = self._sent(bench, transport, **options)
        assert sent.living == first.id, (
            f"the event {first.id} has the key, and send_unique() of another one returned {shown(sent.living)}"
        )

    @contextmanager
    def _transaction(self, bench: Bench, kind: Any) -> Iterator[Any]:
        with bench.recorder.enter(kind, getattr(self.harness, kind)) as transaction:
            yield transaction

    @staticmethod
    def _enlisted(bench: Bench, transport: Transport, session: Any) -> tuple[Envelope, Sequence[str | None]]:
        """Send an event with a key in the transaction of *session*; return it, and what becomes known of it."""
        envelope, decided = bench.envelope(), list[str | None]()
        sender: object = transport.bound_to(session)
        assert isinstance(sender, UniqueSender), f"bound_to() returned {shown(sender)}; expected a UniqueSender"
        sender.send_unique(lambda: [envelope], key=_key(bench), within=0.0, decided=decided.append)
        return envelope, decided


def _key(bench: Bench) -> str:
    """Return a key that no other scenario uses."""
    return f"{bench.queues[0]} key"


def _received(
    bench: Bench, transport: Transport, number: int, *, lease: float = _LEASE, queues: Sequence[str] | None = None
) -> Sequence[Delivery]:
    """Return *number* deliveries, which must come."""
    came: list[Delivery] = []

    def look() -> bool:
        limit = number - len(came)
        found = transport.receive(queues or bench.queues, limit=limit, lease=lease, wait=bench.glance)
        came.extend(found)
        return bool(found)

    while len(came) < number and bench.eventually(look):  # some come one by one
        pass
    assert len(came) == number, f"{len(came)} of {number} events came"
    return came


def _settle(transport: Transport, deliveries: Sequence[Delivery], outcome: Any) -> None:
    settlements: list[Settlement] = [(delivery, outcome) for delivery in deliveries]
    assert transport.settle(settlements) == [], "a delivery was lost within its lease"


def _require_all(bench: Bench, transport: Transport, *expected: Envelope) -> None:
    """Require that the *expected* events come, and no others, and ack them."""
    held = _received(bench, transport, len(expected))
    held = [*held, *transport.receive(bench.queues, limit=10, lease=_LEASE, wait=bench.glance)]
    _settle(transport, held, Ack())
    came = [each.envelope.id for each in held if isinstance(each.envelope, Envelope)]
    assert sorted(came) == sorted(each.id for each in expected), (
        f"{len(expected)} events are there, and {len(came)} came: {', '.join(came)}"
    )
