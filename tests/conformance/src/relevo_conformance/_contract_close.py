"""Scenarios of beginning and ending, and of what is not claimed."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from relevo import App, Delivery, Envelope, Event
from relevo.errors import (
    ConfigurationError,
    LeaseLostError,
    SendError,
    TransportClosedError,
    TransportUnavailableError,
    UnsupportedError,
)
from relevo_conformance import promise
from relevo_conformance.bench import Bench, Thread
from relevo_conformance.contract import Contract, proves
from relevo_conformance.harness import BREAKAGES
from relevo_conformance.worker import Worker

PROMPTLY = 10.0
"""Seconds of real time, generous for a machine under load."""

LONG = 60.0
"""Seconds for which a receive waits that is woken before."""


class SetUpContract(Contract):
    """Setting up can be done again, and asked about."""

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

            told = [list(worker.setup(bench.queues, dry_run=True)) for _ in range(2)]

            assert told[0] == told[1] == list(worker.setup(bench.queues))

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
        harness = self.harness_type()  # a store of its own: in that of the class something may be set up
        try:
            app = App(transports={"main": harness.open()}, routes={"*": "main/media"}, setup="explicit")
            with app:
                if not app.setup(dry_run=True):
                    pytest.skip("there is nothing to set up")

                with pytest.raises(ConfigurationError, match="relevo setup"):
                    app.dispatch(Event("image.created"))
                with pytest.raises(ConfigurationError, match="relevo setup"):
                    app.prepare("main")
        finally:
            harness.drop("media")
            harness.close()

    @proves(promise.SETUP_IS_IDEMPOTENT)
    def test_what_is_refused_for_want_of_setting_up_says_so(self) -> None:
        harness = self.harness_type()
        try:
            with harness.open() as transport:
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
    """What an application calls a transport it finds again in errors, whoever opened it."""

    @proves(promise.ERRORS_ARE_TRANSLATED)
    def test_errors_name_the_transport_as_the_application_does(self) -> None:
        with self.bench() as bench:
            worker = bench.recorder.worker()
            worker.transport.name = "orders"  # an App does this before it uses what it was given
            worker.setup(bench.queues)
            worker.send([bench.envelope()])
            held = bench.one(worker)
            worker.ack(held)

            with pytest.raises(LeaseLostError) as lost:
                worker.transport.ack(held)
            worker.close()
            with pytest.raises(TransportClosedError) as closed:
                worker.send([bench.envelope()])

            assert (lost.value.transport, closed.value.transport) == ("orders", "orders")

    @proves(promise.ERRORS_ARE_TRANSLATED)
    def test_a_store_that_fails_is_told_under_the_name_of_its_transport(self) -> None:
        for breakage in BREAKAGES:
            with self.bench() as bench:
                sender = bench.recorder.worker()
                sender.transport.name = "orders"
                sender.setup(bench.queues)

                with (
                    bench.recorder.broken(sender, breakage),
                    pytest.raises((SendError, TransportUnavailableError)) as caught,
                ):
                    sender.send([bench.envelope()])

                assert '"orders"' in str(caught.value)


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

            for verb in self._verbs(bench, worker, held):
                with pytest.raises(TransportClosedError):
                    verb()

    @proves(promise.CLOSE_IS_IDEMPOTENT)
    def test_a_close_settles_nothing(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            worker.send(bench.envelopes(2))
            bench.receive(worker, 2)

            worker.close()
            if not bench.is_connected:
                bench.advance(bench.times.lease + self.harness.slack)

            assert [one.losses for one in bench.receive(other, 2)] == [1, 1]

    @proves(promise.CLOSE_IS_IDEMPOTENT)
    def test_a_close_counts_as_lost_what_is_held_and_not_what_was_fetched_ahead(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            worker.send(bench.envelopes(5))
            held = bench.one(worker)

            worker.close()
            if not bench.is_connected:
                bench.advance(bench.times.lease + self.harness.slack)

            losses = {one.envelope: one.losses for one in bench.receive(other, 5)}
            assert losses.pop(held.envelope) == 1
            assert list(losses.values()) == [0, 0, 0, 0]

    @proves(promise.CLOSE_IS_IDEMPOTENT)
    def test_a_close_wakes_a_receive_that_waits(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            began = self.harness.clock.now()
            waiting = Thread(lambda: worker.receive([bench.queue], limit=1, lease=bench.times.lease, wait=LONG))
            time.sleep(0.2)

            worker.close()

            try:
                waiting.finish(PROMPTLY)
            except TransportClosedError:
                return
            # It was over before the close: the clock is one that a wait moves.
            assert self.harness.clock.now() - began >= LONG

    @proves(promise.CLOSE_IS_IDEMPOTENT)
    def test_a_with_block_closes(self) -> None:
        with self.bench() as bench:
            with self.harness.open() as transport:
                transport.setup([bench.queue])

            with pytest.raises(TransportClosedError):
                transport.send([])

    def _verbs(self, bench: Bench, worker: Worker, held: Delivery) -> list[Callable[[], object]]:
        """Return what can be asked, apart from what is not claimed anyway."""
        claimed = self.harness.capabilities
        verbs: list[tuple[bool, Callable[[], object]]] = [
            (True, lambda: worker.setup([bench.queue])),
            (True, lambda: worker.send([bench.envelope()])),
            (True, lambda: worker.receive([bench.queue], limit=1, lease=1.0)),
            (True, lambda: worker.ack(held)),
            (claimed.extend, lambda: worker.extend([held], lease=1.0)),
            (claimed.checkpoint, lambda: worker.checkpoint(held, b"")),
            (claimed.stats != "none", lambda: worker.stats(bench.queue)),
            (claimed.dead_letters, lambda: worker.dead_letters([bench.queue])),
            (claimed.dead_letters, lambda: worker.revive({"none": b""})),
            (claimed.dead_letters, lambda: worker.discard(["none"])),
            (claimed.cancel, lambda: worker.cancel("none")),
            (claimed.find, lambda: worker.transport.find("none")),
            (claimed.purge, lambda: worker.purge(bench.queue)),
        ]
        return [verb for is_claimed, verb in verbs if is_claimed]


class UnclaimedContract(Contract):
    """What is not claimed raises, and does nothing."""

    @proves(promise.UNCLAIMED_IS_REFUSED)
    def test_what_is_not_claimed_raises(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            held = bench.one(worker)

            for verb in self._unclaimed(bench, worker, held):
                with pytest.raises(UnsupportedError):
                    verb()

            assert worker.ack(held)

    @proves(promise.UNCLAIMED_IS_REFUSED)
    def test_the_numbers_that_are_claimed_make_sense(self) -> None:
        claimed = self.harness.capabilities

        assert claimed.delay is None or 0.0 < claimed.delay <= 60.0
        assert claimed.max_body is None or claimed.max_body >= 1024
        assert not (claimed.extend and claimed.lease == "connection"), "connection leases need no renewing"

    def _unclaimed(self, bench: Bench, worker: Worker, held: Delivery) -> list[Callable[[], object]]:
        claimed = self.harness.capabilities
        verbs: list[tuple[bool, Callable[[], object]]] = [
            (claimed.delay is not None, lambda: worker.send([bench.envelope()], delay=1.0)),
            (claimed.urgency, lambda: worker.send([bench.envelope(), bench.envelope(urgency="high")])),
            (claimed.order != "none", lambda: worker.send([bench.envelope(), bench.envelope(ordering_key="a")])),
            (claimed.extend, lambda: worker.extend([held], lease=1.0)),
            (claimed.checkpoint, lambda: worker.checkpoint(held, b"")),
            (claimed.stats != "none", lambda: worker.stats(bench.queue)),
            (claimed.dead_letters, lambda: worker.dead_letter(held)),
            (claimed.dead_letters, lambda: worker.dead_letters([bench.queue])),
            (claimed.dead_letters, lambda: worker.revive({"none": b""})),
            (claimed.dead_letters, lambda: worker.discard(["none"])),
            (claimed.transactional, lambda: worker.transport.bound_to(object())),
            (claimed.cancel, lambda: worker.cancel("none")),
            (claimed.find, lambda: worker.transport.find("none")),
            (claimed.purge, lambda: worker.purge(bench.queue)),
        ]
        return [verb for is_claimed, verb in verbs if not is_claimed]
