"""
Random histories: Hypothesis chooses the next step, and the checker decides whether its result is allowed.

Safety is checked at each step. A missing event is never an error in the middle of a history, since a
broker may be slow; what must come is checked in the final drain. Each kind of step has a rule of its
own, the rare ones too: a rule that needs many conditions at once would never run.
"""

from __future__ import annotations

import sys
import unittest
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial, wraps
from typing import Any, ClassVar, Literal, TypeVar

import attrs
from hypothesis import event, seed, strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, consumes, multiple, precondition, rule

from relevo import Capabilities, DeadLetter, Delivery, Envelope, EventFilter, Note, Outcome
from relevo.errors import ConfigurationError, LeaseLostError, RelevoError, TransportError
from relevo_conformance import strategy
from relevo_conformance._pair import Row, rows_of_seed, try_foreign_headers
from relevo_conformance._play import Play
from relevo_conformance._world import Violation
from relevo_conformance.bench import Bench, tolerated
from relevo_conformance.contract import Contract
from relevo_conformance.fault import Breakage, Fault
from relevo_conformance.harness import Harness, HookMissing
from relevo_conformance.history import Record, Way, tally
from relevo_conformance.strategy import Recipe
from relevo_conformance.worker import RecordedWorker

QUEUES = 3
WORKERS = 2

FAR = (200, 5000, 130000)
"""Multiples of the usual delay: more than an hour, a day and a month; on a clock that can be moved."""

PAIRS = 2
"""The seed of the rows of the table of pairs, another than that of the profiles."""

LATE = 100
"""Records after which a history may have steps that leave the checker uncertain."""

Reach = Literal["none", "near", "far"]
"""How long delays may be: *far* only on a fake clock."""

Drawn = TypeVar("Drawn")


@attrs.frozen(eq=False)
class Held:
    """A delivery and who received it."""

    worker: RecordedWorker
    delivery: Delivery

    def __repr__(self) -> str:
        return repr(self.delivery)


Deliveries = MultipleResults[Held]


def claimed(make: Callable[[Capabilities], st.SearchStrategy[Drawn]]) -> st.SearchStrategy[Drawn]:
    """Return what *make* draws for the transport of the machine that draws it."""
    made = cache(make)  # making a strategy is slow, and there are few transports
    return st.runner().flatmap(lambda machine: made(machine.capabilities))


def where(condition: Callable[[Capabilities], bool]) -> Callable[[Any], Any]:
    """Let a rule run only if *condition* holds for the capabilities."""
    return precondition(lambda machine: condition(machine.capabilities))


def several(most: int) -> st.SearchStrategy[list[Recipe]]:
    """Return recipes for a batch."""
    return claimed(lambda claims: st.lists(strategy.plain_recipes(claims, queues=QUEUES), min_size=1, max_size=most))


def delays() -> st.SearchStrategy[int]:
    """Return delays, as multiples of the usual one; most often none."""
    return st.runner().flatmap(lambda machine: _DELAYS[machine.reach])


_USUAL = (0, 0, 0, 1, 2)
_DELAYS: Mapping[Reach, st.SearchStrategy[int]] = {
    "none": st.just(0),
    "near": st.sampled_from(_USUAL),
    "far": st.sampled_from((*_USUAL, *_USUAL, *_USUAL, *FAR)),
}


_STATES = strategy.any_of(strategy.STATES, called="STATES")


def outcomes() -> st.SearchStrategy[Outcome]:
    """Return outcomes, none of which is delayed."""
    return claimed(lambda claims: strategy.outcomes(claims, st.just(0.0)))


def faults() -> st.SearchStrategy[Fault]:
    """Return writes that fail; mostly the answer to the last one is lost, which transports often misinterpret."""
    return st.builds(Fault, st.sampled_from(("after", "before")), st.sampled_from((None, 1, 2, 3)))


breakable = precondition(lambda machine: machine.can("broken"))
"""Lets a rule run only if the harness can let any write fail."""

_WORKER = st.integers(0, WORKERS - 1)
_QUEUES = st.permutations(range(QUEUES)).map(tuple)
_SOME_QUEUES = st.tuples(_QUEUES, st.integers(1, QUEUES)).map(lambda drawn: drawn[0][: drawn[1]])


class WatchedCase:
    """Gives each machine the test case that pytest collects; it runs on a stage, which is abandoned if a call hangs."""

    def __get__(self, machine: object, owner: type[TransportMachine]) -> Any:
        if "_case" not in vars(owner):
            owner._case = _watched(owner, super(TransportMachine, owner).TestCase)
        return owner._case


def _watched(machine: type[TransportMachine], case: Any) -> type[unittest.TestCase]:
    class Alone(Contract):
        """Opens a harness for one run, and closes it."""

        harness_type = machine.harness_type

    class Watched(case):  # type: ignore[misc]
        @wraps(case.runTest)  # with the attributes that Hypothesis' plugin looks for
        def runTest(self) -> None:  # noqa: N802 - unittest's name
            __tracebackhide__ = True
            Alone.setup_class()
            try:
                machine.harness = Alone.harness
                Alone.run(super().runTest)
            finally:
                machine.harness = None
                Alone.teardown_class()

    Watched.__name__, Watched.__qualname__, Watched.__module__ = case.__name__, case.__qualname__, case.__module__
    return Watched


class TransportMachine(RuleBasedStateMachine):
    """
    Two workers, three queues, and a rule for each thing that can happen.

    Made for one harness by :func:`machine_for`; a fresh bench, and so fresh queues, for each history.
    """

    TestCase = WatchedCase()
    _case: ClassVar[type[unittest.TestCase]]

    harness_type: ClassVar[type[Harness]]
    harness: ClassVar[Harness | None] = None
    """Opened at the first history unless it was opened before. A test case opens its own, and closes it."""

    met: ClassVar[Counter[str]]
    """How often each situation was met, over all histories of the run."""

    played: ClassVar[int] = 0
    """How many histories ended, for any reason."""

    proof: ClassVar[tuple[Sequence[Record], Sequence[Violation]] | None] = None
    """The last of them that broke a promise, with its violations."""

    rows: ClassVar[Sequence[Row]] = ()
    """Rows of the table of pairs, other ones than the scenario plays."""

    sent: Bundle[Envelope] = Bundle("sent")
    live: Bundle[Held] = Bundle("live")
    """Deliveries that were not settled here; some of them may be lost nevertheless."""

    ever: Bundle[Held] = Bundle("ever")
    """All deliveries; most of them are stale."""

    def __init__(self) -> None:
        super().__init__()
        cls = type(self)
        if cls.harness is None:
            cls.harness = cls.harness_type()
        self.capabilities = cls.harness.capabilities
        if self.capabilities.delay is None:
            self.reach: Reach = "none"
        else:
            self.reach = "far" if cls.harness.fake else "near"
        self.bench = Bench(cls.harness, queues=QUEUES, tolerated=tolerated(cls.harness))
        self.workers = [self.bench.worker() for _ in range(WORKERS)]
        self.lease = self.bench.times.lease
        # Elsewhere a row takes as long as all the other rules.
        self.plays_rows = cls.harness.is_prompt and not cls.harness.is_durable
        self.buried = False
        """Whether a dead letter was seen; preconditions cannot read bundles."""

    def teardown(self) -> None:
        """Drain and check what is left, unless a promise is already broken: that must not be masked."""
        try:
            if not self.bench.recorder.is_broken and sys.exc_info()[0] is None:
                self.bench.drain()
        finally:
            self.bench.clean_up(failed=isinstance(sys.exc_info()[1], RelevoError))
            type(self).played += 1
            recorder = self.bench.recorder
            if recorder.is_broken:
                type(self).proof = (tuple(recorder.records), recorder.violations)
            met = tally(recorder.records)
            type(self).met.update(met)
            for situation in met:
                event(situation)

    # --- sending ----------------------------------------------------------------------------------------

    @rule(target=sent, recipes=several(4), delay=delays(), who=_WORKER)
    def send(self, recipes: list[Recipe], delay: int, who: int) -> MultipleResults[Envelope]:
        if delay:
            # Where a delayed event stands in the order of its key is not promised.
            recipes = [attrs.evolve(recipe, ordering_key=None) for recipe in recipes]
        envelopes = [self.bench.cook(recipe) for recipe in recipes]
        self.workers[who].send(envelopes, delay=delay * self.bench.times.delay)
        return multiple(*envelopes)

    @rule(targets=(live, ever), recipes=several(3), who=_WORKER)
    def send_and_receive(self, recipes: list[Recipe], who: int) -> Deliveries:
        self.workers[who].send([self.bench.cook(recipe) for recipe in recipes])
        return self._poll(1 - who, places=sorted({recipe.place for recipe in recipes}), limit=4)

    @rule(envelope=sent, who=_WORKER)
    def send_again(self, envelope: Envelope, who: int) -> None:
        self.workers[who].send([envelope])

    @precondition(lambda machine: machine.can("put_raw"))
    @rule(place=st.integers(0, QUEUES - 1), raw=strategy.bodies())
    def a_stranger_sends_bytes(self, place: int, raw: bytes) -> None:
        with suppress(HookMissing):
            self.bench.raw(b"\x80" + raw, queue=self.bench.queues[place])

    @precondition(lambda machine: machine.can("broken_send") and not machine.can("broken"))
    @rule(target=sent, recipes=several(3), breakage=st.sampled_from(("before", "after")), who=_WORKER)
    def the_store_breaks_while_sending(
        self, recipes: list[Recipe], breakage: Breakage, who: int
    ) -> MultipleResults[Envelope]:
        envelopes = [self.bench.cook(recipe) for recipe in recipes]
        with ExitStack() as stack:
            with suppress(HookMissing):
                stack.enter_context(self.bench.recorder.broken(self.workers[who], breakage))
            with suppress(TransportError, ConfigurationError):
                self.workers[who].send(envelopes)
        return multiple(*envelopes)

    @precondition(lambda machine: machine.can("session"))
    @where(lambda claims: claims.transactional)
    @rule(
        before=several(2),
        inside=several(2),
        savepoint=st.sampled_from(("commit", "rollback")),
        end=st.sampled_from(("commit", "commit", "rollback")),
        who=_WORKER,
    )
    def a_transaction(self, before: list[Recipe], inside: list[Recipe], savepoint: Way, end: Way, who: int) -> None:
        with suppress(HookMissing), self.workers[who].transaction() as transaction:
            transaction.send([self.bench.cook(recipe) for recipe in before])
            self.bench.glimpse(self.workers[1 - who])
            with transaction.savepoint(savepoint):
                transaction.send([self.bench.cook(recipe) for recipe in inside])
            if end == "commit":
                transaction.commit()
            else:
                transaction.rollback()

    # --- receiving --------------------------------------------------------------------------------------

    @rule(targets=(live, ever), who=_WORKER, places=_SOME_QUEUES, limit=st.integers(1, 5), leases=st.integers(1, 2))
    def receive(self, who: int, places: Sequence[int], limit: int, leases: int) -> Deliveries:
        return self._poll(who, places=places, limit=limit, lease=leases * self.lease)

    @where(lambda claims: claims.take)
    @rule(targets=(live, ever), envelope=sent, who=_WORKER, leases=st.integers(1, 2))
    def take_by_id(self, envelope: Envelope, who: int, leases: int) -> Deliveries:
        return self._take(who, envelope, lease=leases * self.lease)

    @where(lambda claims: claims.take and claims.delay is not None)
    @rule(targets=(live, ever), recipes=several(1), who=_WORKER)
    def take_by_id_before_it_is_due(self, recipes: list[Recipe], who: int) -> Deliveries:
        # Without a key, as in a delayed send.
        envelope = self.bench.cook(attrs.evolve(recipes[0], ordering_key=None))
        self.workers[who].send([envelope], delay=self.bench.times.delay)
        return self._take(1 - who, envelope)

    @where(lambda claims: claims.extend)
    @rule(held=live, leases=st.integers(1, 3))
    def extend(self, held: Held, leases: int) -> None:
        self._worker_of(held).extend([held.delivery], lease=leases * self.lease)

    @where(lambda claims: claims.extend)
    @rule(targets=(live, ever), held=live)
    def a_lease_is_extended_and_outlives_the_first_one(self, held: Held) -> Deliveries:
        self._worker_of(held).extend([held.delivery], lease=3 * self.lease)
        self.bench.advance(2 * self.lease)
        return self._poll_elsewhere(held)

    @where(lambda claims: claims.checkpoint)
    @rule(held=live, state=_STATES)
    def checkpoint(self, held: Held, state: bytes) -> None:
        with suppress(LeaseLostError):
            self._worker_of(held).checkpoint(held.delivery, state)

    @where(lambda claims: claims.presence)
    @rule(held=live, note=strategy.notes())
    def begin(self, held: Held, note: Note) -> None:
        with suppress(LeaseLostError):
            self._worker_of(held).begin(held.delivery, note)

    @where(lambda claims: claims.presence)
    @rule(targets=(live, ever), held=consumes(live), note=strategy.notes(), is_settled=st.booleans())
    def begin_and_excuse(self, held: Held, note: Note, *, is_settled: bool) -> Deliveries:
        worker = self._worker_of(held)
        with suppress(LeaseLostError):
            worker.begin(held.delivery, note)
        if is_settled:
            worker.release(held.delivery)
        worker.excuse(held.delivery, note)
        if not is_settled:
            worker.release(held.delivery)
        return self._poll_elsewhere(held)

    # --- settling ---------------------------------------------------------------------------------------

    @rule(held=consumes(live))
    def ack(self, held: Held) -> None:
        self._worker_of(held).ack(held.delivery)

    @rule(targets=(live, ever), held=consumes(live), delay=delays(), state=strategy.states())
    def give_back_and_look_at_once(self, held: Held, delay: int, state: bytes | None) -> Deliveries:
        self._worker_of(held).nack(held.delivery, delay=delay * self.bench.times.delay, state=state)
        return self._poll_elsewhere(held)

    @where(lambda claims: claims.delay is not None)
    @rule(targets=(live, ever), held=consumes(live), delay=st.integers(1, 2))
    def release_for_later_and_look_at_once(self, held: Held, delay: int) -> Deliveries:
        self._worker_of(held).release_later(held.delivery, delay * self.bench.times.delay)
        return self._poll_elsewhere(held)

    @rule(targets=(live, ever), held=consumes(live))
    def release_and_look_at_once(self, held: Held) -> Deliveries:
        self._worker_of(held).release(held.delivery)
        return self._poll_elsewhere(held)

    @rule(held=consumes(live), state=strategy.states())
    def report_lost(self, held: Held, state: bytes | None) -> None:
        self._worker_of(held).report_lost(held.delivery, state=state)

    @where(lambda claims: claims.dead_letters)
    @rule(targets=(live, ever), held=consumes(live), died=strategy.dead_letters())
    def dead_letter_and_look(self, held: Held, died: DeadLetter) -> Deliveries:
        worker = self._worker_of(held)
        worker.settles(held.delivery, died)
        self.buried = bool(worker.dead_letters(self.bench.queues))
        return self._poll_elsewhere(held)

    @where(lambda claims: claims.dead_letters)
    @rule(
        targets=(live, ever),
        held=consumes(live),
        died=strategy.dead_letters(),
        state=_STATES,
        outcome=outcomes(),
    )
    def an_event_dies_and_is_revived_and_the_old_receipt_is_used(
        self, held: Held, died: DeadLetter, state: bytes, outcome: Outcome
    ) -> Deliveries:
        worker = self._worker_of(held)
        worker.settles(held.delivery, died)
        worker.revive({entry.ref: state for entry in worker.dead_letters(self.bench.queues)})
        taken = self._poll_elsewhere(held)
        worker.settles(held.delivery, outcome)
        return taken

    @where(lambda claims: claims.dead_letters)
    @rule(targets=(live, ever), held=consumes(live), died=strategy.dead_letters())
    def an_event_dies_and_is_sent_again(self, held: Held, died: DeadLetter) -> Deliveries:
        worker = self._worker_of(held)
        worker.settles(held.delivery, died)
        if isinstance(held.delivery.envelope, Envelope):
            worker.send([held.delivery.envelope])
        self.buried = bool(worker.dead_letters(self.bench.queues))
        return self._poll_elsewhere(held)

    @rule(recipes=several(4), stale=ever, drawn=st.lists(outcomes(), min_size=5, max_size=5), who=_WORKER)
    def settle_a_batch(self, recipes: list[Recipe], stale: Held, drawn: list[Outcome], who: int) -> None:
        worker = self.workers[who]
        worker.send([self.bench.cook(recipe) for recipe in recipes])
        batch = [stale.delivery, *(held.delivery for held in self._poll(who, limit=4).values)]
        worker.settle(list(zip(batch, drawn, strict=False)))

    @rule(held=ever, outcome=outcomes())
    def settle_what_may_be_stale(self, held: Held, outcome: Outcome) -> None:
        self._worker_of(held).settles(held.delivery, outcome)

    @where(lambda claims: claims.extend)
    @rule(held=ever)
    def extend_what_may_be_stale(self, held: Held) -> None:
        self._worker_of(held).extend([held.delivery], lease=3 * self.lease)

    @rule(targets=(live, ever), held=consumes(live), outcome=outcomes())
    def settle_twice_and_look(self, held: Held, outcome: Outcome) -> Deliveries:
        worker = self._worker_of(held)
        worker.nack(held.delivery)
        taken = self._poll_elsewhere(held)
        worker.settles(held.delivery, outcome)
        return taken

    # --- losing -----------------------------------------------------------------------------------------

    @where(lambda claims: claims.lease == "timed")
    @rule(targets=(live, ever), held=consumes(live), outcome=outcomes())
    def a_lease_runs_out_and_the_slow_one_settles(self, held: Held, outcome: Outcome) -> Deliveries:
        self.bench.advance(2 * self.lease + self.bench.harness.slack)
        taken = self._poll_elsewhere(held)
        self._worker_of(held).settles(held.delivery, outcome)
        self._poll(self.workers.index(self._worker_of(held)), limit=1)
        return taken

    @rule(targets=(live, ever), who=_WORKER)
    def a_worker_is_lost(self, who: int) -> Deliveries:
        return self._lose(who)

    @where(lambda claims: claims.checkpoint)
    @rule(targets=(live, ever), held=consumes(live), state=_STATES)
    def a_worker_is_lost_after_a_checkpoint(self, held: Held, state: bytes) -> Deliveries:
        worker = self._worker_of(held)
        with suppress(LeaseLostError):
            worker.checkpoint(held.delivery, state)
        return self._lose(self.workers.index(worker))

    @where(lambda claims: claims.presence)
    @rule(targets=(live, ever), held=consumes(live), note=strategy.notes())
    def a_worker_is_lost_after_it_began(self, held: Held, note: Note) -> Deliveries:
        worker = self._worker_of(held)
        with suppress(LeaseLostError):
            worker.begin(held.delivery, note)
        return self._lose(self.workers.index(worker))

    @rule(who=_WORKER)
    def a_worker_closes(self, who: int) -> None:
        self.workers[who].close()
        self.workers[who] = self.bench.worker()

    @rule(steps=st.integers(1, 30))
    def time_passes(self, steps: int) -> None:
        self.bench.advance(steps * self.bench.times.step)

    @precondition(lambda machine: machine.bench.harness.fake)
    @rule(days=st.sampled_from((1, 40, 400)))
    def days_pass(self, days: int) -> None:
        self.bench.advance(days * 86400.0)

    # Late, since afterwards less is certain, so less is checked.
    @precondition(lambda machine: machine.bench.harness.fake and len(machine.bench.recorder.records) > LATE)
    @rule(seconds=st.sampled_from((0.5, 30.0, 600.0)))
    def the_clock_is_set_back(self, seconds: float) -> None:
        self.bench.set_back(seconds)

    # --- what is stored ---------------------------------------------------------------------------------

    @precondition(lambda machine: machine.buried)
    @rule(targets=(live, ever), who=_WORKER, number=st.integers(1, 3), state=_STATES)
    def revive(self, who: int, number: int, state: bytes) -> Deliveries:
        refs = [entry.ref for entry in self.workers[who].dead_letters(self.bench.queues)]
        self.buried = len(refs) > number
        self.workers[who].revive(dict.fromkeys(refs[:number], state))
        taken = self._poll(who, limit=1)
        self.workers[who].revive(dict.fromkeys(refs[:1], b"twice"))
        return taken

    @precondition(lambda machine: machine.buried)
    @rule(who=_WORKER)
    def discard(self, who: int) -> None:
        refs = [entry.ref for entry in self.workers[who].dead_letters(self.bench.queues)]
        self.workers[who].discard(refs[:1])
        self.buried = bool(self.workers[who].dead_letters(self.bench.queues))

    @where(lambda claims: claims.cancel)
    @rule(envelope=consumes(sent), who=_WORKER)
    def cancel(self, envelope: Envelope, who: int) -> None:
        if self.capabilities.find:
            self.workers[who].find(envelope.id)
        self.workers[who].cancel(envelope.id)

    @where(lambda claims: claims.purge)
    @rule(envelope=consumes(sent), who=_WORKER)
    def purge(self, envelope: Envelope, who: int) -> None:
        self.workers[who].purge(envelope.queue)

    @rule(who=_WORKER)
    def look_around(self, who: int) -> None:
        worker = self.workers[who]
        worker.setup(self.bench.queues)
        if self.capabilities.stats != "none":
            for queue in self.bench.queues:
                worker.stats(queue)
        if self.capabilities.dead_letters:
            worker.dead_letters(self.bench.queues)
        if self.capabilities.waiting:
            worker.waiting(self.bench.queues, limit=3)
            worker.waiting(self.bench.queues, where=EventFilter(states=("leased", "scheduled")), limit=3)
            worker.waiting_groups(self.bench.queues, "state")

    @precondition(lambda machine: machine.plays_rows)
    @rule(number=st.integers(0, 999))
    def an_event_with_a_pair_of_features(self, number: int) -> None:
        cls = type(self)
        if not cls.rows:
            try_foreign_headers(self.bench.harness)
            cls.rows = rows_of_seed(self.bench.harness, PAIRS)
        with suppress(HookMissing):
            Play(self.bench, cls.rows[number % len(cls.rows)]).run()

    # --- a write fails ----------------------------------------------------------------------------------

    @breakable
    @rule(target=sent, recipes=several(3), fault=faults(), who=_WORKER)
    def a_write_fails_while_sending(self, recipes: list[Recipe], fault: Fault, who: int) -> MultipleResults[Envelope]:
        envelopes = [self.bench.cook(recipe) for recipe in recipes]
        with self._faulty(self.workers[who], fault):
            self.workers[who].send(envelopes)
        return multiple(*envelopes)

    @breakable
    @rule(targets=(live, ever), who=_WORKER, limit=st.integers(1, 5), fault=faults())
    def a_write_fails_while_receiving(self, who: int, limit: int, fault: Fault) -> Deliveries:
        taken: Deliveries = multiple()
        with self._faulty(self.workers[who], fault):
            taken = self._poll(who, limit=limit)
        return multiple(*taken.values, *self._poll(1 - who, limit=limit).values)

    @breakable
    @rule(targets=(live, ever), held=consumes(live), outcome=outcomes(), fault=faults(), times=st.integers(1, 2))
    def a_write_fails_while_settling(self, held: Held, outcome: Outcome, fault: Fault, times: int) -> Deliveries:
        worker = self._worker_of(held)
        with self._faulty(worker, fault):
            worker.settles(held.delivery, outcome)
        if times > 1:
            worker.settles(held.delivery, outcome)
        if isinstance(outcome, DeadLetter):
            self.buried = bool(worker.dead_letters(self.bench.queues))
        return self._poll_elsewhere(held)

    @breakable
    @rule(recipes=several(4), drawn=st.lists(outcomes(), min_size=4, max_size=4), fault=faults(), who=_WORKER)
    def a_write_fails_while_settling_a_batch(
        self, recipes: list[Recipe], drawn: list[Outcome], fault: Fault, who: int
    ) -> None:
        worker = self.workers[who]
        worker.send([self.bench.cook(recipe) for recipe in recipes])
        batch = [held.delivery for held in self._poll(who, limit=4).values]
        with self._faulty(worker, fault):
            worker.settle(list(zip(batch, drawn, strict=False)))

    @breakable
    @where(lambda claims: claims.extend or claims.checkpoint)
    @rule(
        targets=(live, ever),
        held=live,
        state=_STATES,
        fault=faults(),
        extends=st.booleans(),
        is_lost=st.booleans(),
    )
    def a_write_fails_while_extending_or_keeping_a_checkpoint(
        self, held: Held, state: bytes, fault: Fault, *, extends: bool, is_lost: bool
    ) -> Deliveries:
        worker = self._worker_of(held)
        for further in (fault, Fault("after")):  # the second answer is always lost, so that no run is without one
            with self._faulty(worker, further):
                if self.capabilities.extend and (extends or not self.capabilities.checkpoint):
                    worker.extend([held.delivery], lease=3 * self.lease)
                else:
                    worker.checkpoint(held.delivery, state)
            extends = not extends
        if is_lost:
            return self._lose(self.workers.index(worker))
        self.bench.advance(2 * self.lease)
        return self._poll_elsewhere(held)

    @breakable
    @where(lambda claims: claims.dead_letters)
    @rule(
        targets=(live, ever), held=consumes(live), died=strategy.dead_letters(), fault=faults(), revives=st.booleans()
    )
    def a_write_fails_while_reviving_or_discarding(
        self, held: Held, died: DeadLetter, fault: Fault, *, revives: bool
    ) -> Deliveries:
        worker = self._worker_of(held)
        refs = self._bury(worker, held, died)
        for further in (fault, Fault("after")):  # the second answer is always lost, so that no run is without one
            with self._faulty(worker, further):
                if revives:
                    worker.revive(dict.fromkeys(refs, b"revived"))
                else:
                    worker.discard(refs)
            revives = not revives
        self.buried = bool(worker.dead_letters(self.bench.queues))
        return self._poll_elsewhere(held)

    @breakable
    @where(lambda claims: claims.cancel or claims.purge)
    @rule(recipes=several(2), who=_WORKER, fault=faults())
    def a_write_fails_while_taking_out(self, recipes: list[Recipe], who: int, fault: Fault) -> None:
        # New events: most earlier ones are held or done, and removing these writes nothing.
        envelopes = [self.bench.cook(recipe) for recipe in recipes]
        self.workers[who].send(envelopes)
        with self._faulty(self.workers[who], fault):
            if self.capabilities.cancel:
                self.workers[who].cancel(envelopes[0].id)
            else:
                self.workers[who].purge(envelopes[0].queue)

    # --- how --------------------------------------------------------------------------------------------

    def can(self, hook: str) -> bool:
        """Return whether the harness has *hook*."""
        return self.bench.harness.has(hook)

    @contextmanager
    def _faulty(self, worker: RecordedWorker, fault: Fault) -> Iterator[None]:
        """Let a write of *worker* fail, where the harness can, and ignore the error of its call."""
        with ExitStack() as stack:
            with suppress(HookMissing):
                stack.enter_context(self.bench.recorder.faulty(worker, fault))
            with suppress(TransportError, ConfigurationError):
                yield

    def _bury(self, worker: RecordedWorker, held: Held, died: DeadLetter) -> list[str]:
        """Dead-letter *held*; return the refs of all dead letters."""
        worker.settles(held.delivery, died)
        return [entry.ref for entry in worker.dead_letters(self.bench.queues)]

    def _worker_of(self, held: Held) -> RecordedWorker:
        """Return the worker that received it, or another one if that one has gone."""
        return held.worker if held.worker.alive else self.workers[0]

    def _lose(self, who: int) -> Deliveries:
        self.bench.recorder.kill(self.workers[who])
        self.workers[who] = self.bench.worker()
        if not self.bench.is_connected:
            self.bench.advance(2 * self.lease + self.bench.harness.slack)
        return self._poll(1 - who, limit=5)

    def _poll_elsewhere(self, held: Held) -> Deliveries:
        other = self.workers[1] if self._worker_of(held) is self.workers[0] else self.workers[0]
        return self._poll(self.workers.index(other), limit=3)

    def _poll(
        self, who: int, *, places: Sequence[int] = tuple(range(QUEUES)), limit: int, lease: float | None = None
    ) -> Deliveries:
        worker = self.workers[who]
        deliveries = worker.receive(
            [self.bench.queues[place] for place in places],
            limit=limit,
            lease=self.lease if lease is None else lease,
            wait=self.bench.glance,
        )
        return multiple(*map(partial(Held, worker), deliveries))

    def _take(self, who: int, envelope: Envelope, *, lease: float | None = None) -> Deliveries:
        worker = self.workers[who]
        lease = self.lease if lease is None else lease
        return multiple(*map(partial(Held, worker), worker.take(envelope.queue, envelope.id, lease=lease)))


def machine_for(harness: type[Harness], *, seeded: int | None = None) -> type[TransportMachine]:
    """
    Return the machine that drives *harness*; its ``TestCase`` can be collected by itself.

    In this test case, a call that does not return within the harness's ``call_timeout`` breaks a promise and ends the
    run. Any other way to run the machine waits until the call returns.

    Args:
        harness: What drives the transport.

        seeded: A seed, for the same histories in each run; by default they differ.
    """
    name = f"{harness.__name__.removesuffix('Harness')}Machine"
    members = {"harness_type": harness, "met": Counter(), "__doc__": f"Random histories on {harness.__name__}."}
    machine = type(name, (TransportMachine,), members)
    return machine if seeded is None else seed(seeded)(machine)
