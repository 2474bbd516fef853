"""
Scenarios of concurrent calls that no schedule interleaves, in threads and in processes.

They need no hook. A race shows by chance here, so each scenario is repeated until enough calls of different workers
raced, by its history. No lease ends meanwhile, however slow the machine is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from math import inf
from time import monotonic

import pytest

from relevo import Ack, Delivery, Envelope, Nack, Note, Settlement
from relevo.errors import CodecError, LeaseLostError, TransportError
from relevo_conformance import promise
from relevo_conformance._children import UnusableError, can_be_shared, play_apart
from relevo_conformance._contract_race import each_outcome
from relevo_conformance._free_part import LEASE, held_parts, parts_of
from relevo_conformance.bench import Bench, tolerated
from relevo_conformance.contract import Contract, proves
from relevo_conformance.history import tally
from relevo_conformance.promise import RACED
from relevo_conformance.worker import RecordedWorker

WORKERS = 4

ROUNDS = 20
"""How often the calls meet on one bench."""

RECEIVES = 4
"""How often each worker receives in a round, if receives are to meet."""

SECONDS = 3.0
"""After them calls that have raced often enough do not meet again."""

BENCHES = 10
"""On how many benches they meet at most; if they have not raced then, the promise is unknown."""

APART, SECONDS_APART = 3, 10.0
"""Calls of processes race this many times as often, for few of them do so on one bench, and until so much later."""

RESENT = 30
"""The number of events that each process sends; they are the same for all."""

TURNS = 12
"""How often each process purges or receives."""

LOCKS = 2
"""The number of locks that each process takes in turn."""

ADDED = 3
"""How often each worker changes what counts against a limit, if changes are to meet."""

_MEETINGS = 5
"""How often sends of one instance meet."""

Round = Callable[[Bench, Sequence[RecordedWorker], int], None]
Parts = Callable[[Bench, RecordedWorker], Sequence[Callable[[RecordedWorker], None]]]


class FreeRaceContract(Contract):
    """Concurrent calls keep the promises, however they meet."""

    # --- workers that do as they like ---------------------------------------------------------------

    @proves(promise.LEASED_IS_HIDDEN, promise.SENT_IS_RECEIVED)
    def test_threads_that_receive_as_they_like_share_out_the_events(self) -> None:
        def check(bench: Bench, workers: Sequence[RecordedWorker], number: int) -> None:
            parts = parts_of(bench, workers[0], WORKERS)

            bench.freely(*(partial(part.play, worker) for part, worker in zip(parts, workers, strict=True)))

        self.until_raced(check, "receive raced receive", "receive raced send", rounds=1)

    @proves(promise.LEASED_IS_HIDDEN, promise.SENT_IS_RECEIVED)
    def test_processes_that_receive_as_they_like_share_out_the_events(self) -> None:
        def parts(bench: Bench, worker: RecordedWorker) -> Sequence[Callable[[RecordedWorker], None]]:
            return [part.play for part in parts_of(bench, worker, WORKERS)]

        self.apart(parts, "receive raced receive", "receive raced send")

    @proves(promise.RESENT_IS_ONE)
    def test_processes_that_send_the_same_events_make_one_of_each(self) -> None:
        def send_all(worker: RecordedWorker, batch: Sequence[Envelope]) -> None:
            for envelope in batch:
                worker.send([envelope])

        def parts(bench: Bench, worker: RecordedWorker) -> Sequence[Callable[[RecordedWorker], None]]:
            batch = bench.envelopes(RESENT)
            return [partial(send_all, batch=batch) for _ in range(WORKERS)]

        def check(bench: Bench) -> None:
            worker = bench.worker()
            came = bench.receive(worker, RESENT, limit=RESENT + 1, lease=LEASE)
            came += [] if len(came) > RESENT else receive(bench, worker)
            assert len(came) == RESENT, f"of {RESENT} events that {WORKERS} processes sent {len(came)} came"
            ack_all(worker, came)

        self.apart(parts, "send raced send", check=check)

    @proves(promise.STALE_SETTLE_IS_REFUSED, promise.ACK_IS_FINAL)
    def test_of_settlements_of_several_processes_one_counts(self) -> None:
        self.require_timed_leases()  # another lease ends with the worker that closes before the processes begin
        self.apart(lambda bench, worker: held_parts(bench, worker, WORKERS), "settle raced settle")

    @proves(promise.PURGED_IS_GONE)
    def test_processes_that_purge_and_receive_share_out_the_events(self) -> None:
        def purge_often(
            worker: RecordedWorker, queue: str, batches: Sequence[Sequence[Envelope]], glance: float
        ) -> None:
            for number, batch in enumerate(batches):
                worker.send(batch)
                if number % 2:
                    worker.purge(queue)
                ack_all(worker, worker.receive([queue], limit=2, lease=LEASE, wait=glance))

        def parts(bench: Bench, worker: RecordedWorker) -> Sequence[Callable[[RecordedWorker], None]]:
            return [
                partial(
                    purge_often,
                    queue=bench.queue,
                    batches=[bench.envelopes(3) for _ in range(TURNS)][number % 2 :],
                    glance=bench.glance,
                )
                for number in range(WORKERS)
            ]

        self.apart(parts, "purge raced receive")

    def apart(self, parts: Parts, *situations: str, check: Callable[[Bench], None] = lambda _: None) -> None:
        """
        Let processes play *parts* on one bench after another, until each of *situations* was met often enough.

        On a slow store there are fewer benches.

        Args:
            parts: They are made of a bench and a worker that closes before they begin.

            *situations: Pairs of calls, such as "receive raced send".

            check: Is called with the bench after they were played.
        """
        if not can_be_shared(self.harness.capabilities):
            pytest.skip("no process that is forked can share the store")
        met: Counter[str] = Counter()
        slow = monotonic() + SECONDS_APART
        for _ in range(BENCHES):
            met.update(self.play_once(parts, check))
            if is_enough(met, situations, times=1 if monotonic() > slow else APART):
                return

    def play_once(self, parts: Parts, check: Callable[[Bench], None]) -> Mapping[str, int]:
        """Let processes play *parts* on one bench, *check* it, and return how often each situation was met."""
        harness = self.harness_type()  # its own store, to which this process has no connection when it forks
        harness.watch = self.harness.watch
        try:
            with self.free_bench(Bench(harness, tolerated=tolerated(harness) - self.proven)) as bench:
                sender = bench.worker()
                played = parts(bench, sender)
                sender.close()

                bench.recorder.take_in(play_apart(bench.recorder, played, seconds=harness.call_timeout))
                check(bench)
            return tally(bench.recorder.records)
        except UnusableError as error:
            pytest.skip(f"only threads raced, and no processes: {error}")
        finally:
            harness.close()

    # --- calls that meet ----------------------------------------------------------------------------

    @proves(promise.LEASED_IS_HIDDEN)
    def test_receives_that_meet_hand_out_each_event_once(self) -> None:
        def check(bench: Bench, workers: Sequence[RecordedWorker], number: int) -> None:
            workers[0].send(bench.envelopes(RECEIVES * WORKERS // 2))
            came: list[tuple[RecordedWorker, Delivery]] = []

            def receive_often(worker: RecordedWorker) -> None:
                for _ in range(RECEIVES):
                    came.extend((worker, delivery) for delivery in receive(bench, worker))

            bench.freely(*(partial(receive_often, worker) for worker in workers))

            for worker, delivery in came:
                worker.ack(delivery)

        self.until_raced(check, "receive raced receive")

    @proves(promise.ORDER_IS_KEPT)
    def test_receives_of_one_key_that_meet_take_turns(self) -> None:
        def check(bench: Bench, workers: Sequence[RecordedWorker], number: int) -> None:
            batch = bench.envelopes(2, ordering_key="a")
            workers[0].send(batch)
            came: list[tuple[RecordedWorker, Delivery]] = []

            def receive_one(worker: RecordedWorker) -> None:
                came.extend((worker, delivery) for delivery in receive(bench, worker, limit=2))

            bench.freely(*(partial(receive_one, worker) for worker in workers))  # the checker knows which may be held

            for worker, delivery in came:
                worker.ack(delivery)
            ack_all(workers[0], bench.receive(workers[0], len(batch) - len(came), lease=LEASE))

        self.until_raced(check, "receive raced receive")

    @proves(promise.EXTEND_KEEPS_THE_LEASE, promise.CHECKPOINT_SURVIVES_A_LOST_LEASE)
    def test_calls_of_one_instance_that_meet_all_take_effect(self) -> None:
        def check(bench: Bench, workers: Sequence[RecordedWorker], number: int) -> None:
            holder, *_, other = workers
            holder.send(bench.envelopes(4))
            extended, kept, done, _ = bench.so_many(holder, 4, lease=LEASE)

            bench.freely(
                lambda: holder.extend([extended], lease=4 * LEASE),
                lambda: holder.checkpoint(kept, b"kept"),
                lambda: holder.ack(done),
                lambda: receive(bench, holder),
            )

            if bench.harness.fake:
                bench.advance(2 * LEASE)  # the checker knows what may come now, and with which state
            ack_all(other, receive(bench, other, limit=4))
            holder.ack(extended)

        with self.free_bench(self.bench()) as bench:
            workers = [bench.worker() for _ in range(2)]
            for number in range(ROUNDS):
                check(bench, workers, number)

    @proves(promise.SENT_IS_RECEIVED, promise.SEND_TELLS_APART)
    def test_a_send_that_is_refused_changes_nothing_for_those_that_it_meets(self) -> None:
        def send(worker: RecordedWorker, batches: Sequence[Sequence[Envelope]]) -> None:
            for batch in batches:
                with suppress(TransportError, CodecError):  # the checker knows from the error what is stored
                    worker.send(batch)

        with self.free_bench(self.bench()) as bench:
            worker = bench.worker()  # one instance, whose calls may share a write
            for _ in range(_MEETINGS):
                whole = [[bench.envelopes(2) for _ in range(RECEIVES)] for _ in range(WORKERS)]
                refused = [[bench.envelope(source="\udfff")] for _ in range(RECEIVES)]

                bench.freely(*(partial(send, worker, batches) for batches in (*whole, refused)))

    @proves(promise.STALE_SETTLE_IS_REFUSED)
    def test_of_settlements_that_meet_one_counts(self) -> None:
        outcomes = each_outcome(self.harness.capabilities)

        def check(bench: Bench, workers: Sequence[RecordedWorker], number: int) -> None:
            held = hold_one(bench, workers[0])
            counted: list[bool] = []

            def settle(worker: RecordedWorker, position: int) -> None:
                counted.append(worker.settles(held, outcomes[(number + position) % len(outcomes)]))

            # The holder settles it in two threads: where a lease belongs to a connection, no other worker can.
            settlers = (workers[0], *workers[:-1])
            bench.freely(*(partial(settle, worker, position) for position, worker in enumerate(settlers)))

            assert counted.count(True) == 1, f"{counted.count(True)} of {len(counted)} settlements counted"

        self.until_raced(check, "settle raced settle")

    @proves(promise.EXTEND_KEEPS_THE_LEASE)
    def test_an_extension_that_meets_a_settlement_does_not_bring_the_event_back(self) -> None:
        def check(bench: Bench, workers: Sequence[RecordedWorker], number: int) -> None:
            held = hold_one(bench, workers[0])
            settler, *others = workers[number % 2 :]
            outcome = (Ack(), Nack(state=b"back"))[number // 2 % 2]
            counted: list[bool] = []
            extend = partial(RecordedWorker.extend, deliveries=[held], lease=LEASE)

            bench.freely(
                lambda: counted.append(settler.settles(held, outcome)),
                *(partial(extend, worker) for worker in (*others, *workers[: number % 2])),
            )

            if counted != [True]:
                assert workers[0].ack(held)

        self.until_raced(check, "extend raced settle")

    @proves(promise.CHECKPOINT_SURVIVES_A_LOST_LEASE)
    def test_a_checkpoint_that_meets_a_settlement_comes_before_it_or_not_at_all(self) -> None:
        def check(bench: Bench, workers: Sequence[RecordedWorker], number: int) -> None:
            holder, *others = workers
            held = hold_one(bench, holder)

            def keep(worker: RecordedWorker) -> None:
                with suppress(LeaseLostError):
                    worker.checkpoint(held, b"kept")

            bench.freely(lambda: holder.settles(held, Nack(state=b"back")), *(partial(keep, one) for one in others))

            holder.ack(bench.one(holder, lease=LEASE))

        self.until_raced(check, "checkpoint raced settle")

    @proves(promise.CANCELLED_IS_GONE)
    def test_an_event_that_is_cancelled_and_received_at_once_is_gone_or_comes(self) -> None:
        def check(bench: Bench, workers: Sequence[RecordedWorker], number: int) -> None:
            receiver, *others = workers
            envelope = bench.envelope()
            receiver.send([envelope])
            came: list[Delivery] = []
            gone: list[int] = []

            bench.freely(
                lambda: came.extend(receive(bench, receiver)),
                *(partial(lambda worker: gone.append(worker.cancel(envelope.id)), worker) for worker in others),
            )

            if not sum(gone):
                came.extend(bench.receive(receiver, 1 - len(came), lease=LEASE))
            assert (len(came), sum(gone)) in ((1, 0), (0, 1)), (
                f"it came {len(came)} times, and {sum(gone)} were removed"
            )
            ack_all(receiver, came)

        self.until_raced(check, "cancel raced receive")

    @proves(promise.PURGED_IS_GONE)
    def test_a_purge_that_meets_a_receive_takes_out_what_does_not_come(self) -> None:
        def check(bench: Bench, workers: Sequence[RecordedWorker], number: int) -> None:
            receiver, *others = workers
            receiver.send(bench.envelopes(3))
            came: list[Delivery] = []
            gone: list[int] = []

            bench.freely(
                lambda: came.extend(receive(bench, receiver, limit=2)),
                *(partial(lambda worker: gone.append(worker.purge(bench.queue)), worker) for worker in others),
            )

            came.extend(bench.receive(receiver, 3 - len(came) - sum(gone), lease=LEASE))
            assert len(came) + sum(gone) == 3, f"of 3 events {len(came)} came, and {sum(gone)} were removed"
            ack_all(receiver, came)

        self.until_raced(check, "purge raced receive")

    @proves(promise.REVIVED_IS_RECEIVED)
    def test_of_revivals_that_meet_one_finds_the_dead_letter(self) -> None:
        def check(bench: Bench, workers: Sequence[RecordedWorker], number: int) -> None:
            workers[0].dead_letter(hold_one(bench, workers[0]))
            ref = bench.dead_letter(workers[0]).ref
            missing: Counter[str] = Counter()

            bench.freely(*(partial(lambda worker: missing.update(worker.revive({ref: b""})), one) for one in workers))

            assert missing[ref] == WORKERS - 1, f"{WORKERS - missing[ref]} revivals found it"
            assert workers[0].ack(bench.one(workers[0], lease=LEASE))

        self.until_raced(check, "revive raced revive")

    @proves(promise.DISCARDED_IS_GONE, promise.REVIVED_IS_RECEIVED)
    def test_of_a_revival_and_discards_that_meet_one_finds_the_dead_letter(self) -> None:
        def check(bench: Bench, workers: Sequence[RecordedWorker], number: int) -> None:
            workers[0].dead_letter(hold_one(bench, workers[0]))
            ref = bench.dead_letter(workers[0]).ref
            reviver, *others = workers[number % 2 :]
            missing: Counter[str] = Counter()

            bench.freely(
                lambda: missing.update(reviver.revive({ref: b""})),
                *(partial(lambda worker: missing.update(worker.discard([ref])), one) for one in others),
            )

            assert missing[ref] == len(others), f"{len(others) + 1 - missing[ref]} of them found it"
            ack_all(workers[0], bench.glimpse(workers[0]))

        self.until_raced(check, "discard raced revive")

    @proves(promise.BEGUN_IS_KEPT)
    def test_a_note_that_meets_a_settlement_is_stored_before_it_or_not_at_all(self) -> None:
        def check(bench: Bench, workers: Sequence[RecordedWorker], number: int) -> None:
            holder, *others = workers
            held = hold_one(bench, holder)

            def begin(worker: RecordedWorker) -> None:
                with suppress(LeaseLostError):
                    worker.begin(held, Note(by="a1:0b-9c:1:7:9"))

            bench.freely(lambda: holder.settles(held, Nack()), *(partial(begin, one) for one in others))

            holder.ack(bench.one(holder, lease=LEASE))

        self.until_raced(check, "begin raced settle")

    @proves(promise.RESENT_IS_ONE)
    def test_sends_of_one_event_that_meet_make_one(self) -> None:
        def check(bench: Bench, workers: Sequence[RecordedWorker], number: int) -> None:
            batch = bench.envelopes(2)

            bench.freely(*(partial(worker.send, batch[:: (1, -1)[at % 2]]) for at, worker in enumerate(workers)))

            came = bench.receive(workers[0], 2, limit=10, lease=LEASE)
            assert len(came) == 2, f"of 2 events that were sent {WORKERS} times {len(came)} came"
            ack_all(workers[0], came)

        self.until_raced(check, "send raced send")

    @proves(promise.LOCK_HAS_ONE_HOLDER)
    def test_of_holders_that_meet_one_gets_the_lock(self) -> None:
        def check(bench: Bench, workers: Sequence[RecordedWorker], number: int) -> None:
            name = f"{bench.queue}/{number // 2}"  # the second time it exists
            got: list[tuple[RecordedWorker, str]] = []

            def lock(worker: RecordedWorker) -> None:
                receipt = worker.lock(name, holder=worker.name, ttl=LEASE)
                got.extend([] if receipt is None else [(worker, receipt)])

            bench.freely(*(partial(lock, worker) for worker in workers))

            assert len(got) == 1, f"{len(got)} of {len(workers)} holders got a lock that was free"
            for worker, receipt in got:
                worker.unlock(name, receipt)

        self.until_raced(check, "lock raced lock")

    @proves(promise.LOCK_HAS_ONE_HOLDER, promise.LOCK_IS_KEPT_BY_ITS_RECEIPT)
    def test_locks_of_several_processes_have_one_holder_each(self) -> None:
        def parts(bench: Bench, worker: RecordedWorker) -> Sequence[Callable[[RecordedWorker], None]]:
            names = [f"{bench.queue}/{number % LOCKS}" for number in range(LOCKS * TURNS)]
            return [partial(lock_often, names=names) for _ in range(WORKERS)]  # the checker knows who may have them

        self.apart(parts, "lock raced lock")

    @proves(promise.LIMIT_IS_COUNTED_ONCE)
    def test_of_changes_that_meet_none_is_lost(self) -> None:
        def check(bench: Bench, workers: Sequence[RecordedWorker], number: int) -> None:
            key = f"{bench.token}{number // 2:x}"  # the second time something is there

            bench.freely(*(partial(add_often, worker, key=key) for worker in workers))

            expected = len(workers) * ADDED
            assert removed(workers[0], key) == expected, f"of {expected} changes that met some were lost"

        self.until_raced(check, "changelimit raced changelimit")

    @proves(promise.LIMIT_IS_COUNTED_ONCE)
    def test_changes_of_one_instance_that_meet_are_all_made(self) -> None:
        def check(bench: Bench, workers: Sequence[RecordedWorker], number: int) -> None:
            worker, key = workers[0], f"{bench.token}{number // 2:x}"

            bench.freely(*(partial(add_often, each, key=key) for each in (worker, worker, *workers[1:])))

            expected = (len(workers) + 1) * ADDED
            assert removed(worker, key) == expected, f"of {expected} changes that met some were lost"

        self.until_raced(check, "changelimit raced changelimit")

    @proves(promise.LIMIT_IS_COUNTED_ONCE)
    def test_of_changes_of_several_processes_none_is_lost(self) -> None:
        def parts(bench: Bench, worker: RecordedWorker) -> Sequence[Callable[[RecordedWorker], None]]:
            return [partial(add_often, key=f"{bench.token}a", times=TURNS) for _ in range(WORKERS)]

        def check(bench: Bench) -> None:
            found = removed(bench.worker(), f"{bench.token}a")
            assert found == TURNS * WORKERS, f"of {TURNS * WORKERS} changes {found} are there"

        self.apart(parts, "changelimit raced changelimit", check=check)

    # --- how often ----------------------------------------------------------------------------------

    def until_raced(self, check: Round, *situations: str, rounds: int = ROUNDS) -> None:
        """
        Run *check* some *rounds* on one bench after another, until each of *situations* was met often enough.

        On a slow store there are fewer rounds. One in the memory of this process is never slow, only the machine may be
        busy; all rounds are needed then, since fewer calls meet in each.
        """
        met: Counter[str] = Counter()
        in_memory = self.harness.capabilities.durability == "process"
        slow = inf if in_memory else monotonic() + SECONDS
        for _ in range(BENCHES):
            with self.free_bench(self.bench()) as bench:
                workers = [bench.worker() for _ in range(WORKERS)]
                for number in range(rounds):
                    check(bench, workers, number)
                    if monotonic() > slow and is_enough(met + Counter(tally(bench.recorder.records)), situations):
                        break
            met.update(tally(bench.recorder.records))
            if is_enough(met, situations):
                return

    @contextmanager
    def free_bench(self, bench: Bench) -> Iterator[Bench]:
        """Yield *bench* for calls with long leases, none of which is held at the end."""
        with bench:
            yield bench
            if not bench.harness.fake:
                bench.recorder.horizon = 0.0  # otherwise the drain would wait for the leases


def is_enough(met: Mapping[str, int], situations: Iterable[str], *, times: int = 1) -> bool:
    """Return whether each of *situations* was met *times* the number that a promise needs."""
    return all(met.get(situation, 0) >= times * RACED for situation in situations)


def lock_often(worker: RecordedWorker, names: Iterable[str]) -> None:
    """Take each lock of *names* that no other holder has, renew and release it."""
    for name in names:
        receipt = worker.lock(name, holder=worker.name, ttl=LEASE)
        if receipt is not None:
            worker.renew_lock(name, receipt, ttl=LEASE)
            worker.unlock(name, receipt)


def add_often(worker: RecordedWorker, key: str, times: int = ADDED) -> None:
    """Add 1 to the number that is stored under *key*, some *times*."""
    for _ in range(times):
        worker.change_limit(key, lambda before, _: b"%d" % (int(before or b"0") + 1), ttl=LEASE)


def removed(worker: RecordedWorker, key: str) -> int:
    """Remove the number that is stored under *key*, and return it."""
    found: list[bytes] = []

    def remove(before: bytes, _: float) -> bytes:
        found.append(before)
        return b""

    worker.change_limit(key, remove, ttl=LEASE)
    return int(found[-1] or b"0")


def hold_one(bench: Bench, worker: RecordedWorker) -> Delivery:
    """Return a delivery of *worker*."""
    worker.send([bench.envelope()])
    return bench.one(worker, lease=LEASE)


def receive(bench: Bench, worker: RecordedWorker, *, limit: int = 1) -> Sequence[Delivery]:
    """Return what one receive of *worker* returns."""
    return worker.receive(bench.queues, limit=limit, lease=LEASE, wait=bench.glance)


def ack_all(worker: RecordedWorker, deliveries: Sequence[Delivery]) -> None:
    """Ack *deliveries*, if there are any."""
    settlements: list[Settlement] = [(delivery, Ack()) for delivery in deliveries]
    if settlements:
        worker.settle(settlements)
