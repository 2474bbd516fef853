"""Scenarios of a receive that waits on several queues: an event that becomes ready in any of them ends the wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

import attrs

from relevo import Capabilities, Delivery
from relevo_conformance import promise
from relevo_conformance.bench import Bench, Thread
from relevo_conformance.contract import Contract, proves
from relevo_conformance.worker import RecordedWorker

QUEUES = 3

LONG = 8.0
"""Seconds of real time that a receive waits beyond the time when an event gets ready; half of them are too many."""

_TIMES = 20
"""The same on a clock moved by hand, as a multiple of the time until an event gets ready."""

_BEGUN = 0.3
"""Seconds of real time after which a receive in another thread waits."""

_LATER = 4 * LONG
"""Seconds of real time for which an event is held or delayed: it ends no wait by itself."""

_MUCH_LATER = 12 * 3600.0
"""Seconds on a clock moved by hand for which it is held or delayed, longer than each wait."""

Act = Callable[[], object]


@attrs.frozen
class Ending:
    """What makes an event ready during a wait."""

    name: str
    prepare: Callable[[Bench, RecordedWorker, str], Act]
    """Puts an event into a queue; returns the call that makes it ready, or one that does nothing if time does."""

    claimed: Callable[[Capabilities], bool] = lambda _: True
    """Whether it is possible with these capabilities."""


@attrs.frozen
class Case:
    """One wait: what ends it, in which of the queues, and whether there are others."""

    ending: Ending
    place: int
    beside_others: bool = False
    """Whether each queue has an event that is held for longer, and one that is delayed for longer."""

    def __str__(self) -> str:
        beside = "other events are held and delayed for longer" if self.beside_others else "there is no other event"
        return f"{self.ending.name} in queue {self.place + 1} of {QUEUES}, while {beside},"


def _nothing() -> None:
    """Make nothing ready; time does."""


def _delayed(bench: Bench, worker: RecordedWorker, queue: str) -> Act:
    worker.send([bench.envelope(queue=queue)], delay=bench.times.delay)
    return _nothing


def _nacked_for_later(bench: Bench, worker: RecordedWorker, queue: str) -> Act:
    worker.nack(_held(bench, worker, queue, lease=_LATER), delay=bench.times.delay)
    return _nothing


def _released_for_later(bench: Bench, worker: RecordedWorker, queue: str) -> Act:
    worker.release_later(_held(bench, worker, queue, lease=_LATER), bench.times.delay)
    return _nothing


def _revived_for_later(bench: Bench, worker: RecordedWorker, queue: str) -> Act:
    worker.revive_later({_dead(bench, worker, queue): b""}, delay=bench.times.delay)
    return _nothing


def _leased(bench: Bench, worker: RecordedWorker, queue: str) -> Act:
    holder = bench.worker()
    _held(bench, holder, queue)
    bench.recorder.kill(holder)
    return _nothing


BY_TIME = (
    Ending("the end of a delay", _delayed, lambda claims: claims.delay is not None),
    Ending("the end of the delay of a nack", _nacked_for_later, lambda claims: claims.delay is not None),
    Ending("the end of the delay of a release", _released_for_later, lambda claims: claims.delay is not None),
    Ending(
        "the end of the delay of a revival",
        _revived_for_later,
        lambda claims: claims.take and claims.dead_letters and claims.delay is not None,
    ),
    Ending("the end of a lease", _leased, lambda claims: claims.lease == "timed"),
)


def _sent(bench: Bench, worker: RecordedWorker, queue: str) -> Act:
    return lambda: worker.send([bench.envelope(queue=queue)])


def _committed(bench: Bench, worker: RecordedWorker, queue: str) -> Act:
    def commit() -> None:
        with worker.transaction() as transaction:
            transaction.send([bench.envelope(queue=queue)])
            transaction.commit()

    return commit


def _nacked(bench: Bench, worker: RecordedWorker, queue: str) -> Act:
    return partial(worker.nack, _held(bench, worker, queue, lease=_LATER))


def _released(bench: Bench, worker: RecordedWorker, queue: str) -> Act:
    return partial(worker.release, _held(bench, worker, queue, lease=_LATER))


def _revived(bench: Bench, worker: RecordedWorker, queue: str) -> Act:
    return partial(worker.revive, {_dead(bench, worker, queue): b""})


def _acked_before(bench: Bench, worker: RecordedWorker, queue: str) -> Act:
    return partial(worker.ack, _first_of_two(bench, worker, queue))


def _dead_before(bench: Bench, worker: RecordedWorker, queue: str) -> Act:
    return partial(worker.dead_letter, _first_of_two(bench, worker, queue))


def _cancelled_before(bench: Bench, worker: RecordedWorker, queue: str) -> Act:
    first, second = bench.envelopes(2, queue=queue, ordering_key="a")
    worker.send([first], delay=_LATER)
    worker.send([second])
    return partial(worker.cancel, first.id)


BY_A_CALL = (
    Ending("a send", _sent),
    Ending("a nack", _nacked),
    Ending("a release", _released),
    Ending("a revival", _revived, lambda claims: claims.dead_letters),
    Ending("the ack of the event before with its key", _acked_before, lambda claims: claims.order == "per key"),
    Ending(
        "the death of the event before with its key",
        _dead_before,
        lambda claims: claims.order == "per key" and claims.dead_letters,
    ),
    Ending("a commit", _committed, lambda claims: claims.transactional),
    Ending(
        "the cancelling of the event before with its key",
        _cancelled_before,
        lambda claims: claims.order == "per key" and claims.cancel and claims.delay is not None,
    ),
)


class WaitOnSeveralContract(Contract):
    """A receive that waits on several queues returns soon after an event became ready in any of them."""

    @proves(promise.WAIT_IS_KEPT)
    def test_a_wait_on_several_queues_ends_when_something_becomes_due_in_any_of_them(self) -> None:
        ways = (False, True) if self.harness.fake else (False,)  # what is held is waited for at the end
        places = range(QUEUES)
        cases = [Case(each, place, way) for each in self.possible(BY_TIME) for place in places for way in ways]
        late: list[Case] = []

        def play(case: Case) -> None:
            with self.bench(queues=QUEUES) as bench:
                if self.waits_too_long(bench, case):
                    late.append(case)

        self.each(cases, play)
        for case in late:  # again and alone: the machine may have been slow
            with self.bench(queues=QUEUES) as bench:
                if waited := self.waits_too_long(bench, case):
                    raise AssertionError(f"{case} did not end a wait: {waited}")

    @proves(promise.WAIT_IS_KEPT)
    def test_a_wait_on_several_queues_ends_when_a_call_makes_something_ready_in_any_of_them(self) -> None:
        endings = self.possible(BY_A_CALL)
        late: list[Case] = []

        def play(case: Case) -> None:
            with self.bench_whose_clock_runs(queues=QUEUES) as bench:
                if self.is_not_ended_by_a_call(bench, case):
                    late.append(case)

        if self.harness.fake:  # each case has a store of its own
            self.each_at_once([Case(each, place) for each in endings for place in range(QUEUES)], play)
        else:  # alone: the calls of others may wake the receive
            for number, each in enumerate(endings):
                play(Case(each, (number + 1) % QUEUES))
        for case in late:
            with self.bench_whose_clock_runs(queues=QUEUES) as bench:
                if waited := self.is_not_ended_by_a_call(bench, case):
                    raise AssertionError(f"{case} did not end a wait: {waited}")

    def possible(self, endings: Iterable[Ending]) -> list[Ending]:
        """Return those of *endings* that the transport's capabilities allow."""
        return [each for each in endings if each.claimed(self.harness.capabilities)]

    def waits_too_long(self, bench: Bench, case: Case) -> str:
        """Play *case*, which time ends; return what is wrong with the wait, if anything."""
        worker, receiver, other = bench.worker(), bench.worker(), bench.worker()
        clock, times = bench.harness.clock, bench.times
        held = [_held(bench, other, queue, lease=_MUCH_LATER) for queue in bench.queues if case.beside_others]
        if case.beside_others and bench.capabilities.delay is not None:
            worker.send([bench.envelope(queue=queue) for queue in bench.queues], delay=_MUCH_LATER)
        case.ending.prepare(bench, worker, bench.queues[case.place])
        due = max(times.lease if case.ending.prepare is _leased else times.delay, bench.capabilities.delay or 0.0)
        longer = _TIMES * due if bench.harness.fake else LONG
        wait, before = due + longer, clock.monotonic()

        came = receiver.receive(bench.queues, limit=1, lease=times.lease, wait=wait)

        waited = clock.monotonic() - before
        if not came and waited < due:  # this transport waits for less
            bench.advance(due - waited + (bench.capabilities.delay or 0.0) + 3 * bench.harness.slack)
        delivery = came[0] if came else bench.one(receiver)
        assert receiver.ack(delivery)
        for one in held:
            other.ack(one)
        if waited < due + longer / 2:
            return ""
        return f"a receive with a wait of {wait:g} s returned after {waited:.1f} s, an event was ready after {due:g} s"

    def is_not_ended_by_a_call(self, bench: Bench, case: Case) -> str:
        """Play *case*, which a call ends; return what is wrong with the wait, if anything."""
        worker, receiver = bench.worker(), bench.worker()
        make_ready = case.ending.prepare(bench, worker, bench.queues[case.place])
        came: list[Delivery] = []
        deadline = time.monotonic() + 3 * LONG

        def wait() -> None:
            while not came and time.monotonic() < deadline:  # some transports wait for less
                came.extend(receiver.receive(bench.queues, limit=1, lease=_LATER, wait=LONG))

        waiting = Thread(wait)
        time.sleep(_BEGUN)
        make_ready()
        ready = time.monotonic()
        waiting.finish()
        waited = time.monotonic() - ready
        assert came, f"{case} made an event ready, and no receive returned it within {2 * LONG:g} s"
        receiver.ack(came[0])
        bench.recorder.horizon = 0.0  # all is settled or cancelled, so the end waits for no lease and no delay
        return "" if waited < LONG / 2 else f"a receive with a wait of {LONG:g} s returned {waited:.1f} s after it"


def _held(bench: Bench, worker: RecordedWorker, queue: str, *, lease: float | None = None) -> Delivery:
    """Return the delivery of a new event of *queue*, which *worker* holds."""
    worker.send([bench.envelope(queue=queue)])
    return bench.one(worker, queues=[queue], lease=lease)


def _dead(bench: Bench, worker: RecordedWorker, queue: str) -> str:
    """Return the ref of a dead letter of *queue*."""
    worker.dead_letter(_held(bench, worker, queue, lease=_LATER))
    (entry,) = worker.dead_letters([queue])
    return entry.ref


def _first_of_two(bench: Bench, worker: RecordedWorker, queue: str) -> Delivery:
    """Return the delivery of the first of two events of *queue* with one ordering key."""
    worker.send(bench.envelopes(2, queue=queue, ordering_key="a"))
    return bench.one(worker, queues=[queue], limit=1, lease=_LATER)
