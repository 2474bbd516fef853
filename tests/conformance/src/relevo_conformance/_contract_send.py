"""Scenarios of sending."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from types import MappingProxyType
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st
from hypothesis.errors import Flaky

from relevo import Ack, DeadLetter, Envelope, Nack, Outcome, Release, Transport
from relevo.errors import CodecError, ConfigurationError, SendError, TransportError, TransportUnavailableError
from relevo_conformance import promise
from relevo_conformance._contract_race import each_outcome
from relevo_conformance.contract import Contract, proves
from relevo_conformance.harness import BREAKAGES
from relevo_conformance.strategy import BODIES, EXPIRIES, HEADERS, IDS, MEGABYTE, NAMES, SOURCES, Recipe, recipes
from relevo_conformance.verdict import error_text, flaky_verdict

UNTOLD = "a send whose answer was lost must raise a SendError with the fate of each event"

UNWRITABLE: Sequence[Mapping[str, Any]] = (
    {"headers": {"text": "\ud800"}},
    {"headers": {"\udfff": "text"}},
    {"source": "\udfff"},
    {"headers": {"text": "\x00"}},
)
"""Fields that a store may refuse."""

UNREADABLE = "a lone surrogate was accepted, but no worker can pass it to another process or another transport"

SEPARATORS = ("", *".:/-_|#@,")
"""The likely separators of the name of a queue and what follows it."""


def _others_with_the_id_of(envelope: Envelope) -> list[Envelope]:
    """Return events that share the id, source and queue of *envelope*, and differ from it in one part each."""
    return [differ(envelope) for differ in _DIFFERENCES]


_DIFFERENCES: Sequence[Callable[[Envelope], Envelope]] = (
    lambda one: attrs.evolve(one, body=b'{"another": "body"}'),
    lambda one: attrs.evolve(one, headers={**one.headers, "another": "header"}),
    lambda one: attrs.evolve(one, name=f"{one.name}.another"),
    lambda one: attrs.evolve(one, expires=FAR_AWAY),
)

FAR_AWAY = 9e9
"""A time at which an event expires, in seconds since the epoch."""

LONG_DELAYS = (3600.0, 7200.0, 86400.0, 30 * 86400.0)
"""Delays in seconds: the longest one of the default retry policy, and longer ones."""


LONGEST_ID = 255
"""The longest id of an event, in characters."""

_LONG = 200
"""Characters of a long name."""

_TAKEN = (
    "Content-Type",
    "content-type",
    "traceparent",
    "message-id",
    "priority",
    "expiration",
    "ce-id",
    "source",
    "body",
)
"""Names of headers that protocols and stores use themselves."""


class SendContract(Contract):
    """A sent event is received once and unchanged."""

    @proves(promise.SENT_IS_RECEIVED)
    def test_what_was_sent_is_received(self) -> None:
        with self.bench() as bench:
            sender, receiver = bench.worker(), bench.worker()
            envelope = bench.envelope()

            sender.send([envelope])

            delivery = bench.one(receiver)
            assert delivery.envelope == envelope
            assert (delivery.attempt, delivery.lost_leases, delivery.state) == (1, 0, b"")
            assert receiver.ack(delivery)

    @proves(promise.SENT_IS_RECEIVED)
    def test_a_batch_is_received_whole(self) -> None:
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            batch = [*bench.envelopes(15), *bench.envelopes(15, queue=bench.queues[1])]

            worker.send(batch)

            deliveries = bench.receive(worker, 30)
            assert {delivery.envelope for delivery in deliveries} == set(batch)

    @proves(promise.SENT_IS_RECEIVED)
    def test_an_empty_batch_does_nothing(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()

            worker.send([])
            lost = worker.settle([])

            assert list(lost) == []
            assert bench.glimpse(worker) == []

    @proves(promise.SENT_IS_RECEIVED)
    def test_a_queue_that_nobody_set_up_swallows_nothing(self) -> None:
        with self.bench() as bench:
            sender = bench.recorder.worker()

            with suppress(SendError, TransportUnavailableError, ConfigurationError):
                sender.send([bench.envelope()])

            # It may be sent or refused; the checker requires that what the transport reported is true.
            bench.worker()

    @proves(promise.SURVIVES_REOPENING)
    def test_what_was_sent_outlives_a_sender_that_closes(self) -> None:
        with self.bench() as bench:
            sender = bench.worker()
            sender.send(bench.envelopes(3))

            sender.close()

            assert len(bench.receive(bench.worker(), 3)) == 3

    @proves(promise.SURVIVES_REOPENING)
    def test_what_was_sent_outlives_a_sender_that_is_killed(self) -> None:
        with self.bench() as bench:
            sender = bench.worker()
            sender.send(bench.envelopes(3))

            bench.recorder.kill(sender)

            assert len(bench.receive(bench.worker(), 3)) == 3

    @proves(promise.QUEUES_ARE_ISOLATED)
    def test_queues_with_similar_names_are_isolated(self) -> None:
        with self.bench(queues=6) as bench:
            worker = bench.worker()
            worker.send([bench.envelope(queue=queue) for queue in bench.queues for _ in range(2)])

            for queue in bench.queues:
                deliveries = bench.receive(worker, 2, queues=[queue], limit=10)

                assert [one.queue for one in deliveries] == [queue, queue]


class PayloadContract(Contract):
    """No field of an event is changed on its way."""

    @proves(promise.PAYLOAD_IS_UNTOUCHED)
    def test_treacherous_payloads_arrive_as_they_were_sent(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            batch = [
                *(bench.envelope(body=bench.fitting(body)) for body in BODIES),
                *(bench.envelope(headers=headers) for headers in HEADERS),
                *(bench.envelope(id=f"{bench.token}{end}") for end in IDS),
                *(bench.envelope(source=source) for source in SOURCES),
                *(bench.envelope(name=name) for name in NAMES),
                *(bench.envelope(expires=expires) for expires in EXPIRIES),
            ]

            worker.send(batch)

            deliveries = bench.receive(worker, len(batch))
            assert len(deliveries) == len(batch)

    @proves(promise.PAYLOAD_IS_UNTOUCHED)
    def test_the_longest_ids_and_the_names_of_other_headers_arrive_as_they_were_sent(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            batch = [
                *(bench.envelope(id=f"{bench.token}-".ljust(LONGEST_ID, end)) for end in "x\u00e9\u2603\U0001f40d"),
                bench.envelope(headers=dict.fromkeys(_TAKEN, "of the sender")),
            ]

            worker.send(batch)

            assert {one.envelope for one in bench.so_many(worker, len(batch))} == {*batch}

    @proves(promise.PAYLOAD_IS_UNTOUCHED)
    def test_the_longest_texts_of_an_event_outlive_each_outcome(self) -> None:
        claims = self.harness.capabilities
        outcomes = [one for one in each_outcome(claims) if not isinstance(one, Ack)]
        if claims.delay is not None:
            outcomes += [Nack(delay=max(0.4, claims.delay)), Release(delay=max(0.4, claims.delay))]

        def check(outcome: Outcome) -> None:
            with self.bench() as bench:
                worker = bench.worker()
                batch = [
                    *(bench.envelope(id=f"{bench.token}-".ljust(LONGEST_ID, end)) for end in "x\u00e9\u2603\U0001f40d"),
                    bench.envelope(source="\u2603" * _LONG, name="\u00e9" * _LONG),
                ]
                worker.send(batch)
                held = bench.so_many(worker, len(batch))
                assert not worker.settle([(each, outcome) for each in held])

                if isinstance(outcome, DeadLetter):  # the checker knows what is to be listed
                    worker.revive({each.ref: b"" for each in bench.dead_letters(worker, len(batch))})
                elif isinstance(outcome, Nack | Release) and outcome.delay:
                    bench.let_delays_end()
                came = bench.so_many(worker, len(batch))
                assert {each.envelope for each in came} == {*batch}
                assert not worker.settle([(each, Ack()) for each in came])

        self.each(outcomes, check)

    @proves(promise.PAYLOAD_IS_UNTOUCHED)
    def test_headers_that_the_sender_changes_afterwards_arrive_as_they_were_sent(self) -> None:
        @contextmanager
        def sent(transport: Transport, envelope: Envelope) -> Iterator[None]:
            transport.send([envelope])
            yield

        self._change_headers(sent)

    @proves(promise.PAYLOAD_IS_UNTOUCHED, promise.JOINS_THE_TRANSACTION)
    def test_headers_that_the_sender_changes_before_the_commit_arrive_as_they_were_sent(self) -> None:
        if not self.harness.has("connection"):
            pytest.skip("it joins no connections")

        @contextmanager
        def joined(transport: Transport, envelope: Envelope) -> Iterator[None]:
            with self.harness.connection() as transaction:
                transport.bound_to(transaction.session).send([envelope].copy)
                yield
                transaction.commit()

        self._change_headers(joined)

    def _change_headers(self, sending: Callable[[Transport, Envelope], AbstractContextManager[None]]) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            for is_wrapped in (False, True):
                headers = {"kind": "photo"}
                envelope = bench.envelope(headers=MappingProxyType(headers) if is_wrapped else headers)
                expected = attrs.evolve(envelope, headers={**headers})
                with sending(worker.transport, envelope):  # past the recorder, which would keep what is changed
                    headers["kind"] = "changed"

                came = [one.envelope for one in bench.past_the_recorder(worker)]
                assert came == [expected], "headers changed in the store with those of the sender"

    @proves(promise.PAYLOAD_IS_UNTOUCHED)
    def test_a_body_of_a_megabyte_arrives_as_it_was_sent(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelope = bench.envelope(body=bench.fitting(MEGABYTE))

            worker.send([envelope])

            assert bench.one(worker).envelope == envelope

    @proves(promise.PAYLOAD_IS_UNTOUCHED)
    def test_any_payload_arrives_as_it_was_sent_and_again_after_a_nack(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()

            @self.profile.seeded
            @self.profile.of_payloads(fake=self.harness.fake, phases=self.phases)
            @given(drawn=st.lists(recipes(self.harness.capabilities), min_size=1, max_size=10))
            def check(drawn: list[Recipe]) -> None:
                batch = [bench.cook(recipe) for recipe in drawn]

                worker.send(batch)

                came = 0
                while came < 2 * len(batch):  # events of one key are handed out one after another
                    deliveries = bench.receive(worker, 1, limit=10)
                    assert deliveries, f"{came} hand-overs of {2 * len(batch)}"
                    came += len(deliveries)
                    for delivery in deliveries:
                        assert worker.nack(delivery) if delivery.attempt == 1 else worker.ack(delivery)

            try:
                check()
            except Flaky as error:
                recorder = bench.recorder
                proof = (recorder.records, recorder.violations) if recorder.is_broken else None
                raise flaky_verdict(error, proof) from None

    @proves(promise.PAYLOAD_IS_UNTOUCHED)
    def test_what_a_receiver_does_to_an_envelope_stays_with_it(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope(headers={"signature": "v1=abc"})])
            delivery = bench.one(worker)

            headers = delivery.envelope.headers
            if isinstance(headers, dict):
                headers["signature"] = "forged"
                headers["more"] = "headers"
            worker.nack(delivery)

            assert dict(bench.one(worker).envelope.headers) == {"signature": "v1=abc"}

    @proves(promise.PAYLOAD_IS_UNTOUCHED)
    def test_what_a_sender_does_to_an_envelope_afterwards_stays_with_it(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            some, none = {"signature": "v1=abc"}, dict[str, str]()
            worker.send([bench.envelope(headers=some), bench.envelope(headers=none)])

            for headers in (some, none):
                headers.update(signature="forged", more="headers")

            came = [dict(one.envelope.headers) for one in bench.receive(worker, 2)]
            assert sorted(came, key=len) == [{}, {"signature": "v1=abc"}]

    @proves(promise.PAYLOAD_IS_UNTOUCHED, promise.JOINS_THE_TRANSACTION)
    def test_what_a_sender_does_to_an_envelope_after_a_commit_stays_with_it(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            headers = {"signature": "v1=abc"}
            with worker.transaction() as transaction:
                transaction.send([bench.envelope(headers=headers)])
                transaction.commit()

            headers["signature"] = "forged"

            assert dict(bench.one(worker).envelope.headers) == {"signature": "v1=abc"}

    @proves(promise.PAYLOAD_IS_UNTOUCHED)
    def test_an_expiry_is_carried_and_nothing_else(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            long_ago = bench.envelope(expires=self.harness.clock.now() - 1000)

            worker.send([long_ago])

            assert bench.one(worker).envelope == long_ago


class SendErrorContract(Contract):
    """A send that fails reports the outcome of each event."""

    @proves(promise.SEND_TELLS_APART)
    def test_a_send_that_fails_before_anything_was_written_sent_nothing_or_does_not_know(self) -> None:
        with self.bench() as bench:
            sender = bench.worker()

            bench.fail_send(sender, "before", bench.envelopes(3))

            assert bench.glimpse(bench.worker()) == []

    @proves(promise.SEND_TELLS_APART)
    def test_a_send_whose_answer_was_lost_does_not_say_that_it_sent_nothing(self) -> None:
        with self.bench() as bench:
            sender = bench.worker()
            batch = bench.envelopes(3)

            error = bench.fail_send(sender, "after", batch)

            assert isinstance(error, SendError), f"{UNTOLD}; it raised {error_text(error)}"
            # If a batch is sent in parts, the events after the part that failed may be refused.
            written = [*error.sent, *error.unknown]
            assert written, f"{UNTOLD}; it reported that all were refused, although they were written"
            came = bench.receive(bench.worker(), len(written))
            assert {one.envelope for one in came} == {batch[position] for position in written}

    @proves(promise.BATCH_IS_ATOMIC)
    def test_a_batch_whose_fate_is_unknown_comes_whole_or_not_at_all(self) -> None:
        for breakage in BREAKAGES:
            with self.bench(queues=2) as bench:
                sender = bench.worker()
                batch = [*bench.envelopes(3), *bench.envelopes(3, queue=bench.queues[1])]

                with bench.recorder.broken(sender, breakage), suppress(TransportError):
                    sender.send(batch)

                # The drain requires that all come, or none.

    @proves(promise.SEND_TELLS_APART)
    def test_an_unknown_send_can_be_sent_again_with_the_same_id(self) -> None:
        with self.bench() as bench:
            sender = bench.worker()
            envelope = bench.envelope()
            assert isinstance(bench.fail_send(sender, "after", [envelope]), SendError), UNTOLD
            again = bench.worker()

            again.send([envelope])

            for delivery in bench.receive(again, 1, limit=10):
                assert delivery.envelope == envelope

    @proves(promise.SEND_TELLS_APART)
    def test_a_body_that_is_too_large_is_refused_and_its_neighbours_are_told_apart(self) -> None:
        largest = self.harness.capabilities.max_body
        if largest is None:
            pytest.skip("no limit of the body is claimed")
        with self.bench() as bench:
            sender = bench.worker()
            batch = [bench.envelope(), bench.envelope(body=b"x" * (largest + 1)), bench.envelope()]

            refused: Sequence[int] = ()
            try:
                sender.send(batch)
            except SendError as error:
                refused = error.refused

            assert 1 in refused, f"a body of {largest + 1} bytes was not refused, although max_body is {largest}"

    @proves(promise.SEND_TELLS_APART)
    def test_what_cannot_be_written_is_refused_or_arrives_and_is_never_half_there(self) -> None:
        for spoilt in UNWRITABLE:
            with self.bench() as bench:
                worker = bench.worker()
                batch = [bench.envelope(), bench.envelope(**spoilt), bench.envelope()]

                refused: Sequence[int] = ()
                try:
                    worker.send(batch)
                except SendError as error:
                    refused = error.refused
                except (TransportError, CodecError):
                    refused = [1]

                assert 1 in refused or not has_lone_surrogate(spoilt), f"{spoilt!a}: {UNREADABLE}"
                # The checker knows from the error what is stored. What was not at fault can be sent again.
                worker.send([batch[0], batch[2], bench.envelope()])

    @proves(promise.SEND_TELLS_APART)
    def test_of_a_long_batch_to_several_queues_only_what_is_refused_does_not_come(self) -> None:
        largest = self.harness.capabilities.max_body
        spoilt: list[dict[str, Any]] = [{"headers": {"text": "\ud800"}}, {"name": "image.\ud800"}]
        spoilt += [] if largest is None else [{"body": b"x" * (largest + 1)}]

        def send(case: tuple[dict[str, Any], bool]) -> None:
            fields, is_sent_again = case
            with self.bench(queues=3) as bench:
                batch = [bench.envelope(queue=bench.queues[number % 2]) for number in range(_LONG)]
                good = [*batch[: _LONG - 2], batch[-1]]
                batch[_LONG - 2] = bench.envelope(queue=bench.queues[2], **fields)
                worker = bench.worker()

                with suppress(TransportError, CodecError):
                    worker.send(batch)

                # The checker knows from the error what is stored. What was not at fault can be sent again.
                if is_sent_again:
                    worker.send(good)

        self.each([(fields, is_sent_again) for fields in spoilt for is_sent_again in (True, False)], send)


_LONG = 130
"""The number of envelopes in a long batch: more than stores usually write at once."""


def has_lone_surrogate(fields: Mapping[str, object]) -> bool:
    """Return whether a text in *fields* has a lone surrogate."""
    return "\\ud" in ascii(fields)


class DelayContract(Contract):
    """A delayed event is neither early nor lost."""

    @proves(promise.DELAY_IS_RESPECTED)
    def test_a_delayed_event_does_not_come_early(self) -> None:
        with self.bench() as bench:
            sender, receiver = bench.worker(), bench.worker()
            due = self.harness.clock.now() + bench.times.delay

            sender.send([bench.envelope()], delay=bench.times.delay)

            # Meanwhile time has passed on a real clock; the checker knows how much.
            assert bench.glimpse(receiver) == [] or not self.harness.fake
            bench.approach(due)
            assert bench.glimpse(receiver) == [] or not self.harness.fake

    @proves(promise.DELAY_IS_RESPECTED, promise.ORDER_IS_KEPT)
    def test_a_delayed_event_does_not_come_early_when_it_has_its_turn(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope(ordering_key="k")])
            worker.send([bench.envelope(ordering_key="k")], delay=bench.times.delay)

            worker.ack(bench.one(worker))

            # Meanwhile time has passed on a real clock; the checker knows how much.
            assert bench.glimpse(worker) == [] or not self.harness.fake

    @proves(promise.DELAY_IS_RESPECTED)
    def test_an_event_that_is_due_takes_no_other_along(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            delay = bench.times.delay
            first, second = bench.envelopes(2)
            worker.send([second], delay=1.5 * delay)
            worker.send([first], delay=delay)

            bench.advance(delay + (bench.capabilities.delay or 0.0) + 3 * self.harness.slack)

            # The checker knows whether the second one is early.
            came = [bench.one(worker), *bench.glimpse(other)]
            assert first in [delivery.envelope for delivery in came]

    @proves(promise.DELAY_IS_RESPECTED)
    def test_equal_delays_begin_with_the_call_that_states_them(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            delay = bench.times.delay
            worker.send(bench.envelopes(4))
            for nacked, released in zip(*[iter(bench.so_many(worker, 4))] * 2, strict=True):
                worker.send([bench.envelope()], delay=delay)
                worker.nack(nacked, delay=delay)
                worker.release_later(released, delay)
                bench.advance(delay / 2)  # in the end the first three are due, and the others after another half

            # The checker knows which of them are early.
            bench.receive(other, 3 if self.harness.fake else 1, limit=6)

    @proves(promise.DELAY_IS_RESPECTED)
    def test_a_delayed_event_comes_when_it_is_due(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()], delay=bench.times.delay)

            bench.let_delays_end()

            assert worker.ack(bench.one(worker))

    @proves(promise.DELAY_IS_RESPECTED, promise.NACK_RETURNS_LATER)
    def test_a_delay_is_not_cut_to_a_whole_second(self) -> None:
        if not self.harness.fake:
            pytest.skip("on a real clock no receive happens at the right fraction of a second")
        with self.bench() as bench:
            sender, receiver = bench.worker(), bench.worker()
            for fraction in (0.3, 0.5, 0.9):
                bench.advance(1.0 + fraction - self.harness.clock.now() % 1.0)
                sender.send([bench.envelope()])
                held = bench.one(sender)
                due = self.harness.clock.now() + 1.5
                sender.nack(held, delay=1.5)
                sender.send([bench.envelope()], delay=1.5)

                bench.approach(due)

                assert bench.glimpse(receiver) == []
                bench.advance(1.0 + (self.harness.capabilities.delay or 0.0))
                for delivery in bench.receive(receiver, 2):
                    receiver.ack(delivery)

    @proves(promise.DELAY_IS_RESPECTED, promise.NACK_RETURNS_LATER)
    def test_a_delay_of_an_hour_a_day_or_a_month_is_kept_to_its_end(self) -> None:
        if not self.harness.fake:
            pytest.skip("the delay is too long for a real clock")
        for delay in LONG_DELAYS:
            with self.bench() as bench:
                worker = bench.worker()
                worker.send([bench.envelope()])
                held = bench.one(worker)
                due = self.harness.clock.now() + delay
                worker.nack(held, delay=delay)
                worker.send([bench.envelope()], delay=delay)

                assert bench.glimpse(worker) == [], f"a delay of {delay:g} s was not kept"
                bench.approach(due)
                assert bench.glimpse(worker) == [], f"a delay of {delay:g} s was not kept"
                bench.advance(1.0 + (self.harness.capabilities.delay or 0.0))
                came = bench.receive(worker, 2)
                assert sorted(one.attempt for one in came) == [1, 2], f"a delay of {delay:g} s did not end"

    @proves(promise.DELAY_IS_RESPECTED)
    def test_a_delay_survives_the_end_of_all_workers(self) -> None:
        with self.bench() as bench:
            sender = bench.worker()
            sender.send([bench.envelope()], delay=bench.times.delay)

            bench.recorder.kill(sender)

            assert bench.glimpse(bench.worker()) == [] or not self.harness.fake

    @proves(promise.DELAY_IS_RESPECTED)
    def test_a_delayed_event_holds_up_nobody(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(5), delay=bench.times.delay)
            prompt = bench.envelope()

            worker.send([prompt])

            assert prompt in [one.envelope for one in bench.receive(worker)]


class DedupeContract(Contract):
    """An event that is sent several times is one event."""

    @proves(promise.RESENT_IS_ONE)
    def test_sending_a_kept_event_again_makes_no_second_one(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelope = bench.envelope()
            worker.send([envelope])

            worker.send([envelope])
            worker.send([envelope, bench.envelope()])

            assert len(bench.receive(worker, 2, limit=10)) == 2

    @proves(promise.RESENT_IS_ONE, promise.SENT_IS_RECEIVED)
    def test_events_whose_names_are_equal_when_joined_are_not_one(self) -> None:
        with self.bench() as bench:
            queue = bench.queue
            behind = [f"{queue}{separator}a" for separator in SEPARATORS]
            before = [f"b{separator}{queue}" for separator in SEPARATORS]
            bench.queues = (queue, *behind, *before)
            worker = bench.worker()
            # A part that is moved from each of queue, source and id to each other one, with a separator.
            names = {
                name
                for separator in ("", " ", *string.punctuation)
                for joined in (f"a{separator}b", f"b{separator}c")
                for name in ((queue, joined, "c"), (queue, "c", joined), (queue, "a", joined), (queue, joined, "a"))
            }
            names |= {(name, *rest) for name in behind for rest in (("b", "c"), ("c", "b"))}
            names |= {(name, *rest) for name in before for rest in (("a", "c"), ("c", "a"))}
            batch = [bench.envelope(queue=name, source=source, id=id_) for name, source, id_ in sorted(names)]

            worker.send(batch)

            came = bench.so_many(worker, len(batch))
            assert {one.envelope for one in came} == {*batch}, "events with different names were taken for one"

    @proves(promise.RESENT_IS_ONE)
    def test_an_event_that_stands_twice_in_a_batch_is_one(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelope, other = bench.envelopes(2)

            worker.send([envelope, other, envelope])

            came = bench.receive(worker, 2, limit=10)
            assert {one.envelope for one in came} == {envelope, other}
            assert bench.glimpse(worker) == []

    @proves(promise.RESENT_IS_ONE)
    def test_sending_an_event_again_while_it_is_held_makes_no_second_one(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelope = bench.envelope()
            worker.send([envelope])
            held = bench.one(worker)

            worker.send([envelope])

            assert bench.glimpse(worker) == []
            assert worker.ack(held)

    @proves(promise.RESENT_IS_ONE)
    def test_sending_an_event_again_after_it_was_done_makes_a_new_one(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelope = bench.envelope()
            worker.send([envelope])
            worker.ack(bench.one(worker))

            worker.send([envelope])

            assert worker.ack(bench.one(worker))

    @proves(promise.RESENT_IS_ONE, promise.DELAY_IS_RESPECTED)
    def test_sending_an_event_again_while_it_waits_for_its_time_makes_no_second_one(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            sent, given_back = bench.envelopes(2)
            worker.send([given_back])
            worker.nack(bench.one(worker), delay=bench.times.delay)
            worker.send([sent], delay=bench.times.delay)

            worker.send([sent, given_back])

            assert bench.glimpse(worker) == [] or not self.harness.fake

    @proves(promise.RESENT_IS_ONE, promise.DEAD_IS_KEPT_WITH_REASON)
    def test_sending_an_event_again_beside_its_dead_letter_makes_a_new_one(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelope = bench.envelope()
            worker.send([envelope])
            worker.dead_letter(bench.one(worker))

            worker.send([envelope])

            again = bench.one(worker)
            assert (again.envelope, again.attempt) == (envelope, 1)
            assert len(worker.dead_letters([bench.queue])) == 1
            assert worker.ack(again)

    @proves(promise.RESENT_IS_ONE, promise.REVIVED_IS_RECEIVED)
    def test_reviving_an_event_that_lives_again_makes_no_second_one(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelope = bench.envelope()
            worker.send([envelope])
            worker.dead_letter(bench.one(worker))
            entry = bench.dead_letter(worker)
            worker.send([envelope])

            assert list(worker.revive({entry.ref: b"revived"})) == []

            assert bench.one(worker, limit=10).state == b""
            assert list(worker.dead_letters([bench.queue])) == []

    @proves(promise.RESENT_IS_ONE, promise.DEAD_IS_KEPT_WITH_REASON)
    def test_an_event_that_dies_twice_has_one_dead_letter(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelope = bench.envelope()
            for reason in ("first", "second"):
                worker.send([envelope])
                worker.dead_letter(bench.one(worker), reason=reason)

            assert [entry.reason for entry in worker.dead_letters([bench.queue])] == ["second"]

    @proves(promise.DEAD_IS_KEPT_WITH_REASON)
    def test_dead_letters_that_share_an_id_are_kept_if_their_contents_differ(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            envelope = bench.envelope()
            others = [envelope, *_others_with_the_id_of(envelope), attrs.evolve(envelope, source="another")]

            for each in others:
                worker.send([each])
                worker.dead_letter(bench.one(worker))

            assert [entry.envelope for entry in bench.dead_letters(worker, len(others))] == others

    @proves(promise.DEAD_IS_KEPT_WITH_REASON, promise.REVIVED_IS_RECEIVED)
    def test_a_dead_letter_is_not_lost_for_a_living_event_with_its_id(self) -> None:
        for differ in _DIFFERENCES:
            with self.bench() as bench:
                worker = bench.worker()
                envelope = bench.envelope()
                worker.send([envelope])
                worker.dead_letter(bench.one(worker))
                entry = bench.dead_letter(worker)
                other = differ(envelope)
                worker.send([other])

                stayed = list(worker.revive({entry.ref: b"revived"}))

                assert stayed in ([], [entry.ref])
                assert [one.envelope for one in worker.dead_letters([bench.queue])] == [envelope][: len(stayed)]
                alive = set()
                for _ in range(1 if stayed else 2):  # in turn, if both have a key
                    held = bench.one(worker)
                    alive.add(held.envelope)
                    worker.ack(held)
                assert alive == ({other} if stayed else {envelope, other})

    @proves(promise.RESENT_IS_ONE)
    def test_an_event_of_another_source_or_queue_is_another_one(self) -> None:
        with self.bench(queues=2) as bench:
            worker = bench.worker()
            envelope = bench.envelope()
            others = [
                bench.envelope(id=envelope.id, source="another"),
                bench.envelope(id=envelope.id, queue=bench.queues[1]),
            ]

            worker.send([envelope, *others])

            assert len(bench.receive(worker, 3)) == 3
