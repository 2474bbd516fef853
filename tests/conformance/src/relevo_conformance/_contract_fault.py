"""Scenarios of a store that fails in the middle of a call, for each kind of call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial

from relevo import Ack, DeadLetter, Lost, Nack, Outcome, Release
from relevo.errors import ConfigurationError, TransportError
from relevo_conformance import promise
from relevo_conformance.bench import Bench
from relevo_conformance.contract import Contract, proves
from relevo_conformance.fault import Fault
from relevo_conformance.harness import BREAKAGES
from relevo_conformance.worker import RecordedWorker

Arrange = Callable[[Bench, RecordedWorker], Callable[[], object]]
"""Prepares the scenario, and returns the call that fails."""

FAULTS = (
    Fault("before", 1),
    Fault("after", 1),
    Fault("before", 2),
    Fault("before", None),
    Fault("after", None),
)
"""The first write, the second, and the one that makes the others durable."""


class FaultContract(Contract):
    """Every call with every failure; the checker knows which states each failure may leave."""

    def whatever_fails(self, arrange: Arrange) -> None:
        """Run the call that *arrange* returns with each failure, and require that the worker continues."""

        def meet(fault: Fault) -> None:
            with self.bench() as bench:
                self.goes_on(bench, arrange, partial(bench.recorder.faulty, fault=fault))

        self.each(FAULTS, meet)

    def goes_on(
        self, bench: Bench, arrange: Arrange, broken: Callable[[RecordedWorker], AbstractContextManager[None]]
    ) -> None:
        """Run the call that *arrange* returns while the store is *broken*, and require that the worker continues."""
        worker = bench.worker()
        call = arrange(bench, worker)

        with broken(worker), suppress(TransportError, ConfigurationError):
            call()

        later = bench.envelope()
        worker.send([later])
        assert bench.comes(worker, later), "an event that was sent after the failure did not come"

    @proves(promise.FAILURE_LOSES_NOTHING, promise.SEND_TELLS_APART)
    def test_a_send_that_fails_says_what_became_of_each_event(self) -> None:
        def arrange(bench: Bench, worker: RecordedWorker) -> Callable[[], object]:
            batch = bench.envelopes(3)
            return lambda: worker.send(batch)

        if self.harness.has("broken"):
            self.whatever_fails(arrange)
        for breakage in BREAKAGES:
            with self.bench() as bench:
                self.goes_on(bench, arrange, partial(bench.recorder.broken, breakage=breakage))

    @proves(promise.FAILURE_LOSES_NOTHING, promise.LOST_LEASE_RETURNS)
    def test_what_a_receive_that_fails_took_comes_back(self) -> None:
        def arrange(bench: Bench, worker: RecordedWorker) -> Callable[[], object]:
            worker.send(bench.envelopes(3))
            return lambda: bench.glimpse(worker, limit=2)

        self.whatever_fails(arrange)

    @proves(promise.FAILURE_LOSES_NOTHING)
    def test_a_settlement_that_fails_can_be_said_again(self) -> None:
        for outcome in self.outcomes():

            def arrange(bench: Bench, worker: RecordedWorker, outcome: Outcome = outcome) -> Callable[[], object]:
                worker.send(bench.envelopes(3))
                held = bench.receive(worker, 2)

                def settle_until_told() -> None:
                    with suppress(TransportError):
                        worker.settle([(one, outcome) for one in held])
                    worker.settle([(one, outcome) for one in held])

                return settle_until_told

            self.whatever_fails(arrange)

    @proves(promise.FAILURE_LOSES_NOTHING, promise.EXTEND_KEEPS_THE_LEASE)
    def test_an_extension_that_fails_leaves_one_of_the_two_leases(self) -> None:
        def arrange(bench: Bench, worker: RecordedWorker) -> Callable[[], object]:
            worker.send([bench.envelope()])
            held = bench.one(worker)
            return lambda: worker.extend([held], lease=3 * bench.times.lease)

        self.whatever_fails(arrange)

    @proves(promise.FAILURE_LOSES_NOTHING, promise.CHECKPOINT_SURVIVES_A_LOST_LEASE)
    def test_a_checkpoint_that_fails_leaves_one_of_the_two_states(self) -> None:
        def arrange(bench: Bench, worker: RecordedWorker) -> Callable[[], object]:
            worker.send([bench.envelope()])
            held = bench.one(worker)
            worker.checkpoint(held, b"first")
            return lambda: worker.checkpoint(held, b"second")

        self.whatever_fails(arrange)

    @proves(promise.FAILURE_LOSES_NOTHING, promise.REVIVED_IS_RECEIVED)
    def test_what_is_revived_while_the_store_fails_is_dead_or_alive(self) -> None:
        def arrange(bench: Bench, worker: RecordedWorker) -> Callable[[], object]:
            refs = self.buried(bench, worker)
            return lambda: worker.revive(dict.fromkeys(refs, b"revived"))

        self.whatever_fails(arrange)

    @proves(promise.FAILURE_LOSES_NOTHING, promise.DISCARDED_IS_GONE)
    def test_what_is_discarded_while_the_store_fails_is_dead_or_gone(self) -> None:
        def arrange(bench: Bench, worker: RecordedWorker) -> Callable[[], object]:
            refs = self.buried(bench, worker)
            return lambda: worker.discard(refs[:1])

        self.whatever_fails(arrange)

    @proves(promise.FAILURE_LOSES_NOTHING, promise.CANCELLED_IS_GONE)
    def test_a_cancel_that_fails_takes_out_all_or_nothing(self) -> None:
        def arrange(bench: Bench, worker: RecordedWorker) -> Callable[[], object]:
            sent = bench.envelopes(2)
            worker.send(sent)
            return lambda: worker.cancel(sent[0].id)

        self.whatever_fails(arrange)

    @proves(promise.FAILURE_LOSES_NOTHING, promise.PURGED_IS_GONE)
    def test_a_purge_that_fails_takes_out_nothing_that_is_held(self) -> None:
        def arrange(bench: Bench, worker: RecordedWorker) -> Callable[[], object]:
            worker.send(bench.envelopes(3))
            bench.receive(worker, 1)
            return lambda: worker.purge(bench.queue)

        self.whatever_fails(arrange)

    def outcomes(self) -> list[Outcome]:
        """Return one outcome of each kind that the transport supports."""
        outcomes: list[Outcome] = [Ack(), Nack(state=b"back"), Release(), Lost(state=b"lost")]
        if self.harness.capabilities.dead_letters:
            outcomes.append(DeadLetter(reason="failed", error="the store failed too", state=b"dead"))
        return outcomes

    def buried(self, bench: Bench, worker: RecordedWorker) -> list[str]:
        """Return the refs of two dead letters."""
        worker.send(bench.envelopes(2))
        for delivery in bench.receive(worker, 2):
            worker.dead_letter(delivery)
        return [entry.ref for entry in worker.dead_letters([bench.queue])]
