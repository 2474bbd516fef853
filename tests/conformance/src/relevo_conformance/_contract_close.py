"""Scenarios of setup and close, of the transport's name, and of unclaimed capabilities."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from relevo import App, Capabilities, Coordinator, DeadLetterFilter, Delivery, Envelope, Event, Note
from relevo.backend import ControlStore, LimitStore
from relevo.errors import (
    ConfigurationError,
    LeaseLostError,
    SendError,
    TransportClosedError,
    TransportUnavailableError,
    UnsupportedError,
    shown,
)
from relevo_conformance import promise
from relevo_conformance.bench import Bench, Thread
from relevo_conformance.contract import Contract, proves, raised_by
from relevo_conformance.harness import BREAKAGES, opened
from relevo_conformance.verdict import error_text
from relevo_conformance.worker import RecordedWorker

PROMPTLY = 10.0
"""Seconds of real time, generous for a machine under load."""

NOT_SET_UP = "before setup a call must raise a ConfigurationError that names the command `relevo setup`"

ATTEMPTS = 3
"""How often it is tried, since a receive may return by itself just after a close began."""

LONG = 60.0
"""Seconds that a receive may wait; it is woken earlier."""


SMALLEST_BODY = 64
"""The least ``max_body`` in bytes: the events that the suite itself needs are not longer."""


class SetUpContract(Contract):
    """Setup can be repeated, and has a dry run."""

    @proves(promise.SETUP_IS_IDEMPOTENT)
    def test_setting_up_again_creates_nothing(self) -> None:
        with self.bench(queues=3) as bench:
            worker = bench.worker()

            assert list(worker.setup(bench.queues)) == []
            assert list(bench.worker().setup(bench.queues, dry_run=True)) == []

    @proves(promise.SETUP_IS_IDEMPOTENT)
    def test_a_dry_run_says_what_would_be_created_and_creates_nothing(self) -> None:
        with self.bench(queues=3) as bench:
            worker = bench.recorder.worker()

            words = [list(worker.setup(bench.queues, dry_run=True)) for _ in range(2)]

            assert words[0] == words[1] == list(worker.setup(bench.queues))

    @proves(promise.SETUP_IS_IDEMPOTENT)
    def test_to_ask_what_is_lacking_creates_nothing(self) -> None:
        with self.bench(queues=3) as bench:
            worker = bench.recorder.worker()
            missing = [*worker.setup(bench.queues, dry_run=True)]

            lacking = [[*worker.transport.lacking(bench.queues)] for _ in range(2)]

            assert lacking[0] == lacking[1], f"what is lacking changed from {lacking[0]} to {lacking[1]}"
            assert {*lacking[0]} <= {*missing}, f"{lacking[0]} are lacking, but a setup creates only {missing}"
            assert [*worker.setup(bench.queues)] == missing
            assert [*worker.transport.lacking(bench.queues)] == []

    @proves(promise.SETUP_IS_IDEMPOTENT)
    def test_queues_that_are_missing_among_others_are_set_up_and_named(self) -> None:
        for known in (0, 1, 2):
            with self.bench(queues=3) as bench:
                worker = bench.recorder.worker()
                alone = [{*worker.setup([queue], dry_run=True)} for queue in bench.queues]
                worker.setup([bench.queues[known]])
                shared = set[str].intersection(*alone)  # such as the tables that all queues need
                missing = set[str]().union(*(texts for place, texts in enumerate(alone) if place != known)) - shared

                created = [*worker.setup(bench.queues, dry_run=True)]

                assert {*created} >= missing, f"setup names {created}, and {sorted(missing)} are missing"
                assert [*worker.setup(bench.queues)] == created
                assert [*worker.setup(bench.queues, dry_run=True)] == []
                for queue in bench.queues:
                    worker.send([bench.envelope(queue=queue)])

    @proves(promise.SETUP_IS_IDEMPOTENT)
    def test_setting_up_again_leaves_everything_where_it_is(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(2))
            held = bench.one(worker)

            bench.worker()

            assert worker.ack(held)
            assert worker.ack(bench.one(worker))

    @proves(promise.SETUP_IS_IDEMPOTENT)
    def test_an_application_that_sets_nothing_up_is_told_what_is_missing_and_how_to_mend_it(self) -> None:
        with self.bench() as bench:
            bench.worker()  # reports an invalid return value before the application fails on it
        harness = self.harness_type()  # its own store: something may be set up in the store of the class
        try:
            app = App(transports={"main": opened(harness)}, routes={"*": "main/media"}, setup="explicit")
            with app:
                if not app.setup(dry_run=True):
                    pytest.skip("there is nothing to set up")

                for operation in (lambda: app.dispatch(Event("image.created")), lambda: app.prepare("main")):
                    said = raised_by(operation)
                    assert isinstance(said, ConfigurationError), f"{NOT_SET_UP}, not {error_text(said)}"
                    assert "relevo setup" in str(said), f"{NOT_SET_UP}; it raised: {said}"
        finally:
            harness.drop("media")
            harness.close()

    @proves(promise.SETUP_IS_IDEMPOTENT)
    def test_what_is_refused_for_want_of_setting_up_says_so(self) -> None:
        harness = self.harness_type()
        try:
            with opened(harness) as transport:
                envelope = Envelope(id="1", source="conformance", name="image.created", queue="media", body=b"{}")

                said = ""
                try:
                    transport.send([envelope])
                except (SendError, TransportUnavailableError, ConfigurationError) as error:
                    said = str(error)

                assert not said or "relevo setup" in said
        finally:
            harness.drop("media")
            harness.close()

    @proves(promise.SETUP_IS_IDEMPOTENT)
    def test_setting_up_nothing_does_nothing(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()

            assert list(worker.setup([])) == []


class NameContract(Contract):
    """Errors name a transport as the application does."""

    @proves(promise.ERRORS_ARE_TRANSLATED)
    def test_errors_name_the_transport_as_the_application_does(self) -> None:
        with self.bench() as bench:
            worker = bench.recorder.worker()
            worker.transport.name = "orders"  # an App does this before it uses the transport
            worker.setup(bench.queues)
            worker.send([bench.envelope()])
            held = bench.one(worker)
            worker.ack(held)

            lost = raised_by(lambda: worker.transport.ack(held))
            worker.close()
            closed = raised_by(lambda: worker.send([bench.envelope()]))

            assert isinstance(lost, LeaseLostError), f"a second ack must raise LeaseLostError, not {error_text(lost)}"
            assert isinstance(closed, TransportClosedError), f"after close, send ended with {error_text(closed)}"
            named = (lost.transport, closed.transport)
            assert named == ("orders", "orders"), f'the transport is called "orders", but its errors name {named}'

    @proves(promise.ERRORS_ARE_TRANSLATED, promise.SENT_IS_RECEIVED)
    def test_a_name_is_for_errors_alone(self) -> None:
        with self.bench() as bench:
            sender, worker = bench.recorder.worker(), bench.recorder.worker()
            sender.transport.name, worker.transport.name = "orders", "Orders 2/\u2603"
            for one in (sender, worker):
                one.setup(bench.queues)
            sender.send(bench.envelopes(2))
            held = bench.so_many(worker, 2)

            worker.transport.name = "renamed"

            assert worker.ack(held[0]), "a delivery is lost since its transport was renamed"
            assert worker.nack(held[1]), "a delivery is lost since its transport was renamed"
            worker.ack(bench.one(worker))
            lost = raised_by(lambda: worker.transport.ack(held[0]))
            assert isinstance(lost, LeaseLostError), f"a second ack must raise LeaseLostError, not {error_text(lost)}"
            assert lost.transport == "renamed", (
                f'the transport is called "renamed", but its error names "{lost.transport}"'
            )

    @proves(promise.ERRORS_ARE_TRANSLATED)
    def test_a_store_that_fails_is_told_under_the_name_of_its_transport(self) -> None:
        for breakage in BREAKAGES:
            with self.bench() as bench:
                sender = bench.recorder.worker()
                sender.transport.name = "orders"
                sender.setup(bench.queues)

                error = bench.fail_send(sender, breakage, [bench.envelope()])

                assert '"orders"' in str(error), f'the transport is called "orders", but its error is: {error}'


class CloseContract(Contract):
    """A close ends everything, settles nothing, and may be repeated."""

    @proves(promise.CLOSE_IS_IDEMPOTENT)
    def test_closing_again_does_nothing(self) -> None:
        with self.bench() as bench:
            used, unused = bench.worker(), bench.recorder.worker()

            for worker in (used, unused, used, unused):
                worker.close()

    @proves(promise.CLOSE_IS_IDEMPOTENT)
    def test_after_a_close_every_method_says_so(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            held = bench.one(worker)
            worker.close()

            for operation in self._operations(bench, worker, held):
                error = raised_by(operation)
                assert isinstance(error, TransportClosedError), f"after close, a call ended with {error_text(error)}"

    @proves(promise.CLOSE_IS_IDEMPOTENT)
    def test_after_a_close_every_method_says_so_for_an_empty_batch_too(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.close()

            for name, operation in self._empty_batches(bench, worker):
                error = raised_by(operation)
                assert isinstance(error, TransportClosedError), f"after close, {name} ended with {error_text(error)}"

    @proves(promise.CLOSE_IS_IDEMPOTENT)
    def test_a_close_settles_nothing(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            worker.send(bench.envelopes(2))
            bench.receive(worker, 2)

            worker.close()
            if not bench.is_connected:
                bench.advance(bench.times.lease + self.harness.slack)

            assert [one.lost_leases for one in bench.receive(other, 2)] == [1, 1]

    @proves(promise.CLOSE_IS_IDEMPOTENT)
    def test_a_close_counts_as_lost_what_is_held_and_not_what_was_fetched_ahead(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            worker.send(bench.envelopes(5))
            held = bench.one(worker)

            worker.close()
            if not bench.is_connected:
                bench.advance(bench.times.lease + self.harness.slack)

            lost_leases = {one.envelope: one.lost_leases for one in bench.receive(other, 5)}
            assert lost_leases.pop(held.envelope) == 1
            assert list(lost_leases.values()) == [0, 0, 0, 0]

    @proves(promise.CLOSE_IS_IDEMPOTENT)
    def test_a_close_wakes_a_receive_that_waits(self) -> None:
        raised = any(self._raises_what_waits_at_a_close() for _ in range(ATTEMPTS))

        assert raised, f"{ATTEMPTS} times a receive that was blocked at a close returned, instead of raising an error"

    def _raises_what_waits_at_a_close(self) -> bool:
        """Return whether a receive that was blocked when its transport was closed raised the error."""
        with self.bench_whose_clock_runs() as bench:
            other, worker = bench.worker(), bench.worker()
            deadline = time.monotonic() + 2 * PROMPTLY
            returned = [0.0]

            def wait(waiter: RecordedWorker) -> None:
                while time.monotonic() < deadline:  # it may return before its wait is over
                    waiter.receive([bench.queue], limit=1, lease=0.2, wait=LONG)
                    if waiter is worker:
                        returned.append(time.monotonic())

            waiting = []
            for waiter in (other, worker):  # the other one first: a close that wakes one of them wakes that
                waiting.append(Thread(partial(wait, waiter)))
                time.sleep(0.2)

            closed_at = time.monotonic()
            worker.close()

            with pytest.raises(TransportClosedError):
                waiting.pop().finish(PROMPTLY)
            other.close()
            with pytest.raises(TransportClosedError):
                waiting.pop().finish(PROMPTLY)
            # One that returns by itself all the time may have done so just now.
            return returned[-1] < closed_at or len(returned) > 2

    @proves(promise.CLOSE_IS_IDEMPOTENT)
    def test_a_with_block_closes(self) -> None:
        with self.bench() as bench:
            with opened(self.harness) as transport:
                transport.setup([bench.queue])

            error = raised_by(lambda: transport.send([]))
            assert isinstance(error, TransportClosedError), f"after its with block, send ended with {error_text(error)}"

    def _empty_batches(self, bench: Bench, worker: RecordedWorker) -> Iterator[tuple[str, Callable[[], object]]]:
        """Yield calls that have nothing to do, by name, for which the transport claims the capability."""
        claimed = self.harness.capabilities
        yield "send", lambda: worker.send([])
        yield "receive of no queue", lambda: worker.receive([], lease=1.0)
        yield "receive with a limit of 0", lambda: worker.receive([bench.queue], limit=0, lease=1.0)
        yield "settle", lambda: worker.settle([])
        yield "setup", lambda: worker.setup([])
        yield "setup as a dry run", lambda: worker.setup([bench.queue], dry_run=True)
        yield "lacking", lambda: worker.transport.lacking([bench.queue])
        if claimed.extend:
            yield "extend", lambda: worker.extend([], lease=1.0)
        if claimed.presence:
            yield "presence", lambda: worker.transport.presence([])
        if claimed.dead_letters:
            yield "dead_letters", lambda: worker.dead_letters([], limit=1)
            yield "dead_letters with a limit of 0", lambda: worker.dead_letters([bench.queue], limit=0)
            yield "revive", lambda: worker.revive({})
            yield "discard", lambda: worker.discard([])
        if claimed.dead_letters and claimed.take:
            yield "revive_later", lambda: worker.revive_later({}, delay=1.0)
        if claimed.waiting:
            yield "waiting", lambda: worker.waiting([])
            yield "waiting_groups", lambda: worker.waiting_groups([], "event")
            yield "stuck_keys", lambda: worker.stuck_keys([])

    def _operations(self, bench: Bench, worker: RecordedWorker, held: Delivery) -> list[Callable[[], object]]:
        """Return all calls for which the transport claims the capability."""
        claimed = self.harness.capabilities
        operations: list[tuple[bool, Callable[[], object]]] = [
            (True, lambda: worker.setup([bench.queue])),
            (True, lambda: worker.send([bench.envelope()])),
            (True, lambda: worker.receive([bench.queue], limit=1, lease=1.0)),
            (True, lambda: worker.ack(held)),
            (claimed.extend, lambda: worker.extend([held], lease=1.0)),
            (claimed.checkpoint, lambda: worker.checkpoint(held, b"")),
            (claimed.presence, lambda: worker.begin(held, Note(by="a1::0:0:0"))),
            (claimed.presence, lambda: worker.excuse(held, Note(by="a1::0:0:0"))),
            (claimed.presence, lambda: worker.transport.appear("a1")),
            (claimed.presence, lambda: worker.transport.presence(["a1"])),
            (claimed.stats != "none", lambda: worker.stats(bench.queue)),
            (claimed.dead_letters, lambda: worker.dead_letters([bench.queue])),
            (claimed.dead_letters, lambda: worker.revive({"none": b""})),
            (claimed.dead_letters, lambda: worker.discard(["none"])),
            (claimed.cancel, lambda: worker.cancel("none")),
            (claimed.unique, lambda: worker.transport.send_unique([bench.envelope()], key="key")),
            (claimed.find, lambda: worker.find("none")),
            (claimed.take, lambda: worker.take(bench.queue, "none", lease=1.0)),
            (claimed.purge, lambda: worker.purge(bench.queue)),
            (claimed.waiting, lambda: worker.waiting([bench.queue])),
            (claimed.waiting, lambda: worker.waiting_groups([bench.queue], "event")),
            (claimed.waiting, lambda: worker.stuck_keys([bench.queue])),
            (
                claimed.waiting and claimed.dead_letters,
                lambda: worker.matching_dead_letters([bench.queue], DeadLetterFilter(reasons=("none",))),
            ),
            (
                claimed.waiting and claimed.dead_letters,
                lambda: worker.dead_letter_groups([bench.queue], "reason"),
            ),
        ]
        if issubclass(self.harness_type.transport, Coordinator):
            operations += [
                (True, lambda: worker.lock("none", holder="none", ttl=60.0)),
                (True, lambda: worker.renew_lock("none", "none", ttl=60.0)),
                (True, lambda: worker.unlock("none", "none")),
                (True, lambda: worker.announce("a1", b"", ttl=60.0)),
                (True, worker.workers),
            ]
        if issubclass(self.harness_type.transport, ControlStore):
            operations += [
                (True, lambda: worker.set_control("a1", b"", ttl=60.0)),
                (True, worker.controls),
            ]
        if issubclass(self.harness_type.transport, LimitStore):
            operations += [(True, lambda: worker.change_limit("a1", lambda before, _: before, ttl=60.0))]
        return [operation for is_claimed, operation in operations if is_claimed]


class UnclaimedContract(Contract):
    """Calls that need an unclaimed capability."""

    @proves(promise.UNCLAIMED_IS_REFUSED)
    def test_what_is_not_claimed_raises(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            held = bench.one(worker)

            for operation in self._unclaimed(bench, worker, held):
                error = raised_by(operation)
                assert isinstance(error, UnsupportedError), (
                    f"a call for an unclaimed capability must raise UnsupportedError, not {error_text(error)}"
                )

            assert worker.ack(held)

    @proves(promise.UNCLAIMED_IS_REFUSED)
    def test_what_is_claimed_makes_sense(self) -> None:
        wrong = list(nonsense(self.harness.capabilities))

        assert not wrong, "; ".join(wrong)

    def _unclaimed(self, bench: Bench, worker: RecordedWorker, held: Delivery) -> list[Callable[[], object]]:
        claimed = self.harness.capabilities
        operations: list[tuple[bool, Callable[[], object]]] = [
            (claimed.delay is not None, lambda: worker.send([bench.envelope()], delay=1.0)),
            (claimed.urgency, lambda: worker.send([bench.envelope(), bench.envelope(urgency="high")])),
            (claimed.order != "none", lambda: worker.send([bench.envelope(), bench.envelope(ordering_key="a")])),
            (claimed.extend, lambda: worker.extend([held], lease=1.0)),
            (claimed.checkpoint, lambda: worker.checkpoint(held, b"")),
            (claimed.presence, lambda: worker.begin(held, Note(by="a1::0:0:0"))),
            (claimed.presence, lambda: worker.excuse(held, Note(by="a1::0:0:0"))),
            (claimed.presence, lambda: worker.transport.appear("a1")),
            (claimed.presence, lambda: worker.transport.presence(["a1"])),
            (claimed.stats != "none", lambda: worker.stats(bench.queue)),
            (claimed.dead_letters, lambda: worker.dead_letter(held)),
            (claimed.dead_letters, lambda: worker.dead_letters([bench.queue])),
            (claimed.dead_letters, lambda: worker.revive({"none": b""})),
            (claimed.dead_letters, lambda: worker.discard(["none"])),
            (claimed.transactional, lambda: worker.transport.bound_to(object())),
            (claimed.cancel, lambda: worker.cancel("none")),
            (claimed.find, lambda: worker.find("none")),
            (claimed.take, lambda: worker.take(bench.queue, "none", lease=1.0)),
            (claimed.purge, lambda: worker.purge(bench.queue)),
            (claimed.waiting, lambda: worker.waiting([bench.queue])),
            (claimed.waiting, lambda: worker.waiting_groups([bench.queue], "event")),
            (claimed.waiting, lambda: worker.stuck_keys([bench.queue])),
            (
                claimed.waiting and claimed.dead_letters,
                lambda: worker.matching_dead_letters([bench.queue], DeadLetterFilter(reasons=("none",))),
            ),
            (
                claimed.waiting and claimed.dead_letters,
                lambda: worker.dead_letter_groups([bench.queue], "reason"),
            ),
        ]
        return [operation for is_claimed, operation in operations if not is_claimed]


def nonsense(claimed: Capabilities) -> Iterator[str]:
    """Yield what is invalid in *claimed*, and what to claim instead."""
    for field, kind in get_type_hints(Capabilities).items():
        value = getattr(claimed, field)
        allowed = get_args(kind) if get_origin(kind) is Literal else ()
        if allowed and value not in allowed:
            yield f"{field} is {shown(value)}; claim {' or '.join(map(repr, allowed))}"
        if kind is bool and not isinstance(value, bool):
            yield f"{field} is {shown(value)}; claim True or False"
    if claimed.delay is not None and not (_is_number(claimed.delay) and 0.0 < claimed.delay <= 60.0):
        yield (
            f"delay is {shown(claimed.delay)}; claim the seconds to which delays are rounded up, more than 0 and at "
            f"most 60, or None"
        )
    if claimed.max_body is not None and not (_is_number(claimed.max_body) and claimed.max_body >= SMALLEST_BODY):
        yield f"max_body is {shown(claimed.max_body)}; claim {SMALLEST_BODY} bytes or more, or None for no limit"
    if claimed.extend and claimed.lease == "connection":
        yield "extend is claimed, but a lease that lasts as long as a connection needs no extension; do not claim it"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
