"""The part of one of several workers that act at the same time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

import attrs

from relevo import Ack, DeadLetter, Delivery, Envelope, Nack, Note, Outcome, Release
from relevo.errors import LeaseLostError
from relevo_conformance.bench import Bench
from relevo_conformance.verdict import claims_of
from relevo_conformance.worker import RecordedWorker

LEASE = 120.0
"""Seconds; much longer than a scenario."""

WAITING, CANCELLED, DEAD = 24, 6, 4
"""How many events are in the queue before, how many of them are cancelled, and how many dead letters are revived."""

HELD = 32
"""How many events are held, which several workers settle."""

EACH, AGAIN = 4, 2
"""How many events each worker sends, and how many each of them sends, so that all but one are duplicates."""

EMPTY = 3
"""A worker stops after this number of receives without a result, one after another."""


@attrs.frozen(kw_only=True)
class Part:
    """What one worker does; each of its calls may meet any call of the others."""

    queue: str
    wait: float
    """Seconds for which a receive waits."""

    sends: Sequence[Envelope]
    cancels: Sequence[str]
    """Ids of events, which other workers cancel too."""

    revives: Mapping[str, bytes]
    """Dead letters by their refs, which other workers revive too."""

    def play(self, worker: RecordedWorker) -> None:
        """Receive and settle until nothing comes; before each receive comes another call, as long as there is one."""
        errands = self._errands(worker)
        empty = 0
        for turn in itertools.count():
            errand = next(errands, None)
            if errand is not None:
                errand()
            deliveries = worker.receive([self.queue], limit=1 + turn % 2, lease=LEASE, wait=self.wait)
            for delivery in deliveries:
                self._handle(worker, delivery, turn)
            empty = 0 if deliveries or errand else empty + 1
            if empty == EMPTY:
                return

    def _errands(self, worker: RecordedWorker) -> Iterator[Callable[[], object]]:
        yield from (partial(worker.send, [envelope]) for envelope in self.sends)
        yield from (partial(worker.cancel, event_id) for event_id in self.cancels)
        if self.revives:
            yield partial(worker.revive, self.revives)

    def _handle(self, worker: RecordedWorker, delivery: Delivery, turn: int) -> None:
        """Settle *delivery*, now and then after a call that needs it, and with another outcome than the usual one."""
        claims = claims_of(worker.transport)
        if claims.extend and turn % 3 == 1:
            worker.extend([delivery], lease=LEASE)
        if claims.presence and turn % 5 == 3:
            with suppress(LeaseLostError):
                worker.begin(delivery, Note(by=f"a{turn:x}:0b-9c:1:7:9"))
        if claims.checkpoint and turn % 3 == 2:
            _checkpoint(worker, delivery)
        outcome: Outcome = Ack()
        if turn % 4 == 1:
            outcome = Nack(state=b"again")
        elif turn % 4 == 3:
            outcome = Release()
        elif claims.dead_letters and turn % 10 == 4 and delivery.envelope in self.sends:
            outcome = DeadLetter(reason="raced")
        worker.settles(delivery, outcome)


def parts_of(bench: Bench, worker: RecordedWorker, number: int) -> Sequence[Part]:
    """Let *worker* prepare the queue of *bench*, and return the parts of *number* workers."""
    claims = bench.capabilities
    refs: Mapping[str, bytes] = {}
    if claims.dead_letters:
        worker.send(bench.envelopes(DEAD))
        for delivery in bench.so_many(worker, DEAD, lease=LEASE):
            worker.dead_letter(delivery)
        refs = {entry.ref: b"revived" for entry in bench.dead_letters(worker, DEAD)}
    keys = [None, "a", "b"] if claims.order == "per key" else [None]
    waiting = [bench.envelope(ordering_key=keys[number % len(keys)]) for number in range(WAITING)]
    worker.send(waiting)
    again = bench.envelopes(AGAIN) if claims.dedupe else []
    return [
        Part(
            queue=bench.queue,
            wait=bench.glance,
            sends=[*again, *bench.envelopes(EACH)],  # these first, while all have just begun
            cancels=[one.id for one in waiting[-CANCELLED:]] if claims.cancel else (),
            revives=refs,
        )
        for _ in range(number)
    ]


def held_parts(bench: Bench, worker: RecordedWorker, number: int) -> Sequence[Callable[[RecordedWorker], None]]:
    """
    Let *worker* receive events and dead-letter others, and return the parts of *number* workers that end the same ones.

    The leases must be timed, so that a worker can settle what another one received.
    """
    claims = bench.capabilities
    refs: list[str] = []
    worker.send(bench.envelopes(HELD))
    if claims.dead_letters:
        for delivery in bench.so_many(worker, DEAD, lease=LEASE):
            worker.dead_letter(delivery)
        refs = [entry.ref for entry in bench.dead_letters(worker, DEAD)]
    held = bench.so_many(worker, HELD - len(refs), lease=LEASE)
    return [partial(_end_all, held=held, refs=refs, first=first) for first in range(number)]


def _end_all(worker: RecordedWorker, held: Sequence[Delivery], refs: Sequence[str], first: int) -> None:
    """End *held* and *refs* in the same order as the others, each in another way than they do."""
    claims = claims_of(worker.transport)
    ways: list[Callable[[Delivery], object]] = [
        lambda delivery: worker.settles(delivery, Ack()),
        lambda delivery: worker.settles(delivery, Nack(state=b"again")),
    ]
    if claims.extend:
        ways.append(lambda delivery: worker.extend([delivery], lease=LEASE))
    if claims.checkpoint:
        ways.append(partial(_checkpoint, worker))
    for turn, delivery in enumerate(held, start=first):
        ways[turn % len(ways)](delivery)
    for turn, ref in enumerate(refs, start=first):
        if turn % 2:
            worker.discard([ref])
        else:
            worker.revive({ref: b"revived"})


def _checkpoint(worker: RecordedWorker, delivery: Delivery) -> None:
    with suppress(LeaseLostError):  # it is in the history, and judged
        worker.checkpoint(delivery, b"kept")
