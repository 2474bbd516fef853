"""
Workers, one after the other and now and then two, over a bad line, with listeners that do their worst.

Everything is drawn and nothing waits, so that a failure is replayed from the example that hypothesis prints.
What happened is judged while it happens (a listener that is done is not run again, a suspect is alone) and at
the end (every event is done or dead, and what is dead runs to its end once it is revived).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal
from uuid import uuid4

import attrs
import msgspec
import pytest
from hypothesis import event as noted, example, given, settings, strategies as st

from relevo import (
    Ack,
    Call,
    DeadLetterEntry,
    Delivery,
    Envelope,
    Event,
    GiveUp,
    ListenerTable,
    Note,
    Outcome,
    Release,
    Retry,
    RetryLater,
    RunOptions,
    Settlement,
    Worker,
)
from relevo._clock import has_come
from relevo._event.subject import SubjectTypes
from relevo._listener.listener import Mark
from relevo._process_identity import ProcessIdentity
from relevo._worker.caller import Caller
from relevo._worker.progress import ListenerProgress, Progress, loaded, revived
from relevo._worker.suspect import Suspects
from relevo._worker.transaction import Transactions
from relevo.errors import SettleError, TransportClosedError, TransportUnavailableError
from relevo.testing import FakeClock
from relevo_memory import MemoryStore, MemoryTransport

RUNS = 3
POLICY = Retry(RUNS, first=1, factor=3, cap=20)
QUEUE = "default"

Deed = Literal[
    "ok",
    "fail",
    "later",
    "give up",
    "exit",  # SystemExit
    "stop",  # the propagation
    "die",  # the process, at once
    "interrupt",  # KeyboardInterrupt: the process, in order; a loss, since it ends in the middle of the event
    "quit",  # worker.stop()
    "long",  # three minutes, with the keeper renewing
    "sleep",  # the process is suspended until its leases are over, and another one works meanwhile
]
Fault = Literal["none", "before", "after", "refuse"]


@attrs.frozen(kw_only=True)
class Plan:
    """What goes wrong."""

    events: Sequence[Mapping[str, Sequence[Deed]]]
    """For each event what its listeners do, run by run; the last deed is repeated if it is ok, fail or die."""

    settling: Sequence[Fault] = ()
    receiving: Sequence[Fault] = ()
    keeping: Sequence[Fault] = ()
    pause: float = 61.0
    """Seconds between one process and the next."""

    limits: Sequence[int | None] = ()
    """The ``max_events`` of each process; none after these."""


deeds = st.sampled_from(Deed.__args__)  # type: ignore[attr-defined]
scripts = st.lists(deeds, min_size=1, max_size=4)
faults = st.lists(st.sampled_from(["none", "none", "none", "before", "after", "refuse"]), max_size=12)
plans = st.builds(
    Plan,
    events=st.lists(st.dictionaries(st.sampled_from("abc"), scripts, min_size=1, max_size=3), min_size=1, max_size=10),
    settling=faults,
    receiving=faults,
    keeping=faults,
    pause=st.sampled_from([2.0, 61.0]),
    limits=st.lists(st.none() | st.integers(1, 5), max_size=6),
)


class World:
    """The store, the time, the plan, and what happened."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.clock = FakeClock()
        self.store = MemoryStore()
        self.faults = {
            operation: iter(drawn)
            for operation, drawn in (
                ("settle", plan.settling),
                ("receive", plan.receiving),
                ("checkpoint", plan.keeping),
            )
        }
        self.limits = iter(plan.limits)
        self.healed = False
        self.broken: list[AssertionError] = []
        self.depth = 0
        self.deaths = 0
        self.accidents = 0
        """What may cost an innocent event a loss, apart from a death."""
        self.living: set[ProcessIdentity] = set()
        self.holder: dict[str, Line] = {}
        self.kept: dict[str, Progress] = {}
        """What a transport keeps of each event."""
        self.begun: dict[str, Counter[str]] = defaultdict(Counter)
        self.succeeded: dict[str, set[str]] = defaultdict(set)
        self.stopped: dict[str, str] = {}
        """The first listener of each event that stopped the propagation; their names are in the order of calling."""
        with MemoryTransport(self.store, clock=self.clock) as transport:
            transport.send([_envelope(str(number), event) for number, event in enumerate(plan.events)])

    def deed(self, event: str, listener: str) -> Deed:
        script = self.plan.events[int(event)][listener]
        run = self.begun[event][listener] - 1
        if self.healed:
            return "ok"
        if run < len(script):
            return script[run]
        return script[-1] if script[-1] in {"fail", "die"} else "ok"

    def run(self) -> None:
        """Run one process after the other until no event lives."""
        for _ in range(500):
            if not self.alive():
                return
            Process(self).run()
            for error in self.broken:
                raise error
            self.clock.advance(self.plan.pause)
        pytest.fail(f"after 500 processes {self.alive()} events are neither done nor dead")

    def alive(self) -> int:
        with MemoryTransport(self.store, clock=self.clock) as transport:
            stats = transport.stats(QUEUE)
        return (stats.ready or 0) + (stats.leased or 0) + (stats.scheduled or 0)

    def dead(self) -> Mapping[str, DeadLetterEntry]:
        with MemoryTransport(self.store, clock=self.clock) as transport:
            entries = transport.dead_letters([QUEUE])
        ids = [entry.envelope.id for entry in entries if isinstance(entry.envelope, Envelope)]
        assert len(set(ids)) == len(entries), "an event has one dead letter"
        return dict(zip(ids, entries, strict=True))

    def revive(self) -> None:
        """Mend all listeners and make the dead letters ready again."""
        self.healed = True
        with MemoryTransport(self.store, clock=self.clock) as transport:
            for event, entry in self.dead().items():
                assert transport.revive({entry.ref: revived(entry.state)}) == []
                kept = loaded(entry.state)
                for name, mine in kept.listeners.items():
                    kept.listeners[name] = mine if mine.status == "done" else ListenerProgress()
                self.kept[event] = kept


def _envelope(event: str, names: Mapping[str, object]) -> Envelope:
    """Return an event whose name says which listeners it has."""
    name = "sim." + "".join(sorted(names))
    body = {"specversion": "1.0", "id": event, "source": "sim", "type": name}
    return Envelope(id=event, source="sim", name=name, body=msgspec.json.encode(body))


class Line(MemoryTransport):
    """What one process has of the store: it fails as planned, and is dead when the process is."""

    world: World
    held: set[str]
    begun: set[str]
    """What the worker handled since it received it last."""
    finished: set[str]
    refused: set[str]
    """Events whose end the transport has refused to record."""
    """The events that it handled to an outcome, which it may use for the same event later."""
    dead = False
    faulty = False

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        fault = self._fault("receive")
        batch = super().receive(queues, limit=limit, lease=lease, wait=wait)
        if fault == "after":
            self.world.accidents += 1
            raise TransportUnavailableError(self.name, "no answer")
        received = {_id(delivery) for delivery in batch}
        self.held |= received
        self.begun -= received
        self.refused -= received
        self.world.holder |= dict.fromkeys(received, self)
        return batch

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        fault = self._fault("settle")
        if fault == "refuse":
            unsettled = [delivery for delivery, _ in settlements]
            self.refused |= {_id(delivery) for delivery in unsettled} & self.finished
            raise SettleError(self.name, unsettled=unsettled, why="the queue is full")
        lost = super().settle(settlements)
        for delivery, outcome in settlements:
            if delivery not in lost:
                self._keep(delivery, outcome)
        if fault == "after":
            raise TransportUnavailableError(self.name, "no answer")
        self.held -= {_id(delivery) for delivery, _ in settlements}
        return lost

    def checkpoint(self, delivery: Delivery, state: bytes) -> None:
        fault = self._fault("checkpoint")
        super().checkpoint(delivery, state)
        self.world.kept[_id(delivery)] = loaded(state)
        if fault == "after":
            raise TransportUnavailableError(self.name, "no answer")

    def begin(self, delivery: Delivery, note: Note) -> None:
        self._require_life()
        super().begin(delivery, note)

    def excuse(self, delivery: Delivery, note: Note) -> None:
        self._require_life()
        super().excuse(delivery, note)

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        lost = super().extend(deliveries, lease=lease)
        self.held -= {_id(delivery) for delivery in lost}
        return lost

    def _keep(self, delivery: Delivery, outcome: Outcome) -> None:
        event = _id(delivery)
        if isinstance(outcome, Release):
            assert event not in self.begun, "released is what was not begun"
        elif getattr(outcome, "reason", "") != "crash-loop":
            assert event in self.begun | self.finished, "what ends was handled here"
        state = None if isinstance(outcome, (Ack, Release)) else outcome.state
        if state is not None:
            self.world.kept[_id(delivery)] = loaded(state)

    def _require_life(self) -> None:
        if self.dead:
            raise TransportClosedError(self.name)

    def _fault(self, operation: str) -> Fault:
        self._require_life()
        fault: Fault = next(self.world.faults[operation], "none")
        self.faulty = self.faulty or fault != "none"
        if fault == "before":
            raise TransportUnavailableError(self.name, "down")
        return fault


def _id(delivery: Delivery) -> str:
    assert isinstance(delivery.envelope, Envelope)
    return delivery.envelope.id


class Process:
    """A worker and its listeners."""

    def __init__(self, world: World, *, limit: int | None = None) -> None:
        self.world = world
        self.limit = limit or next(world.limits, None)
        self.line = Line(world.store, clock=world.clock)
        self.line.world, self.line.held, self.line.begun, self.line.finished = world, set(), set(), set()
        self.line.refused = set()
        self.identity = ProcessIdentity(worker=uuid4().hex, boot="51", pid=1, started=len(world.living) + 1)
        suspects = Suspects(self.line, world.clock, self.identity, lambda process: process in world.living)
        caller = Caller(
            listeners=self._table(),
            first_queue=lambda _: QUEUE,
            subjects=SubjectTypes(),
            clock=world.clock,
            chance=lambda: 0.5,
            transactions=Transactions(self.line),
            checkpoint=self.line.checkpoint,
            runs=suspects.runs,
        )

        def handle(delivery: Delivery) -> Outcome:
            self.line.begun.add(_id(delivery))
            outcome = caller.outcome(delivery)
            self.line.finished.add(_id(delivery))
            return outcome

        self.worker = Worker(
            transport=self.line,
            handle=handle,
            queues=[QUEUE],
            clock=world.clock,
            chance=lambda: 0.5,
            options=RunOptions(until_empty=True, max_events=self.limit),
            patient=True,
            background=False,
            suspects=suspects,
        )

    def run(self) -> None:
        self.world.living.add(self.identity)
        try:
            self._run()
        finally:
            self.world.living.remove(self.identity)

    def _run(self) -> None:
        refused = False
        try:
            report = self.worker.run()
            assert self.limit is None or report.handled <= self.limit
        except KeyboardInterrupt:
            pass
        except SettleError:
            refused = True
        if not (self.line.dead or self.line.faulty):
            assert not self.line.held, "a process that ends in order gives everything back"
        elif self.line.held and not self.line.dead:
            self.world.accidents += 1
        assert not refused or self.line.faulty

    def _table(self) -> ListenerTable:
        table = ListenerTable()
        for names in ("a", "b", "c", "ab", "ac", "bc", "abc"):
            for priority, name in enumerate(reversed(names)):
                mark = Mark(event=f"sim.{names}", id=name, priority=priority, retry=POLICY)
                table.add(self._listener(name), mark)
        return table

    def _listener(self, name: str) -> Callable[[Event, Call], None]:
        def listener(event: Event, call: Call) -> None:
            try:
                self._judge(call)
                self.world.begun[call.event_id][name] += 1
                self._do(self.world.deed(call.event_id, name), call)
                self.world.succeeded[call.event_id].add(name)
            except AssertionError as error:  # to the worker it is a failure like any other
                self.world.broken.append(error)
                raise

        return listener

    def _judge(self, call: Call) -> None:
        """Hold the worker to the laws of what it may run, and when; one that somebody else relieved cannot know."""
        if self.world.holder[call.event_id] is not self.line:
            return
        if call.lost_leases:
            # It does not wait for ever for what is over and what the transport does not let go.
            assert self.line.held - self.line.refused <= {call.event_id}, "a suspect is handled alone"
        assert call.attempt <= RUNS, "no listener runs more often than its policy says"
        kept = self.world.kept.get(call.event_id)
        mine = kept.listeners.get(call.listener_id) if kept else None
        if mine:
            assert mine.status == "due", "a listener that is known to be done or dead is not run again"
            assert has_come(mine.due, self.world.clock.now()), "no listener is run early"
        assert mine or not (kept and kept.stopped), "what a stop skipped is never run"
        assert call.attempt == (mine.runs if mine else 0) + 1

    def _do(self, deed: Deed, call: Call) -> None:  # noqa: C901 - one line for each deed
        world = self.world
        match deed:
            case "fail":
                raise ValueError(deed)
            case "later":
                raise RetryLater(5)
            case "give up":
                raise GiveUp(deed)
            case "exit":
                raise SystemExit(deed)
            case "stop":
                call.stop_propagation()
                world.stopped[call.event_id] = min(call.listener_id, world.stopped.get(call.event_id, "z"))
            case "die":
                world.deaths += 1
                self.line.dead = True
                raise KeyboardInterrupt
            case "interrupt":
                raise KeyboardInterrupt
            case "quit":
                self.worker.stop()
            case "long":
                for _ in range(9):
                    world.clock.advance(20)
                    self.worker._ledger.extend(60.0)
            case "sleep":
                world.accidents += 1
                world.clock.advance(61)
                if world.depth == 0:
                    world.depth += 1
                    Process(world, limit=2).run()
                    world.depth -= 1


def _assert_every_event_has_its_end(world: World) -> None:
    dead = world.dead()
    for number, names in enumerate(world.plan.events):
        event = str(number)
        if event in dead:
            _assert_the_dead_letter_tells_why(world, dead[event], names)
            continue
        by_priority = sorted(names)
        stop = world.stopped.get(event)
        called = by_priority[: by_priority.index(stop) + 1] if stop else by_priority
        assert world.succeeded[event] >= set(called) - ({stop} if stop else set()), "done means that all listeners are"


def _assert_the_dead_letter_tells_why(
    world: World, entry: DeadLetterEntry, names: Mapping[str, Sequence[Deed]]
) -> None:
    noted(f"dead: {entry.reason}")
    progress = loaded(entry.state)
    if entry.reason == "crash-loop":
        assert entry.lost_leases >= 2, "the third death may be one that the worker saw"
        fatal = [deed for script in names.values() for deed in script if deed in {"die", "interrupt"}]
        assert fatal, "only what ends its process is a crash loop"
        assert len(fatal) >= 3 or "die" in {script[-1] for script in names.values()}
        return
    assert entry.reason in {"retries-exhausted", "gave-up"}
    failed = {name for name, mine in progress.listeners.items() if mine.status == "dead"}
    assert failed
    assert not any(mine.status == "due" for mine in progress.listeners.values()), "dead means that none is due"
    heads = {line.partition(":")[0] for line in entry.error.splitlines() if " after " in line}
    assert failed <= heads, "the dead letter names the failed listeners"
    assert not heads & {name for name, mine in progress.listeners.items() if mine.status == "done"}


POISON: Sequence[Deed] = ("die",)


@pytest.mark.lengthy("tries many cases")
@given(plans)
@example(Plan(events=[{"a": POISON}] + [{"a": ["ok"]}] * 9))
@example(Plan(events=[{"a": ["ok"], "b": POISON, "c": ["fail"]}] * 3, settling=["after", "before"]))
@example(Plan(events=[{"a": ["fail"], "b": ["stop"]}, {"a": ["fail", "fail", "stop"], "b": ["give up"]}], pause=2.0))
@example(Plan(events=[{"a": ["sleep"], "b": ["ok"]}, {"a": ["sleep", "die"]}, {"a": ["ok"]}]))
@example(
    Plan(
        events=[{"a": ["ok"]}, {"a": ["sleep", "ok", "die", "interrupt"]}, {"a": ["die"]}],
        settling=["refuse"],
        receiving=["none", "none", "after"],
        pause=2.0,
    )
)
@example(
    Plan(
        events=[{"a": ["ok", "quit"]}, {"a": ["sleep"]}],
        settling=["none", "refuse", "refuse", "refuse", "refuse", "before", "refuse"],
        pause=2.0,
    )
)
@settings(deadline=None)
def test_whatever_goes_wrong_every_event_is_done_or_lies_in_the_dead_letters_and_can_be_revived(plan: Plan) -> None:
    world = World(plan)

    world.run()
    _assert_every_event_has_its_end(world)
    world.revive()
    world.run()

    assert world.dead() == {}
    _assert_every_event_has_its_end(world)


def test_a_listener_that_kills_its_process_is_set_aside_and_its_99_neighbours_are_done() -> None:
    events: list[Mapping[str, Sequence[Deed]]] = [{"a": ["ok"], "b": ["ok"]} for _ in range(100)]
    events[50] = {"a": ["ok"], "b": POISON}
    world = World(Plan(events=events))

    world.run()

    assert {event: entry.reason for event, entry in world.dead().items()} == {"50": "crash-loop"}
    assert world.deaths == 4, "the first loss has no note"
    assert world.begun["50"] == {"a": 1, "b": 4}
    assert sum(runs.total() for runs in world.begun.values()) - 4 <= 99 * 2 + 2 * 250
    neighbours = [world.begun[str(number)] for number in range(100) if number != 50]
    assert all(world.succeeded[str(number)] == {"a", "b"} for number in range(100) if number != 50)
    assert max(runs.total() for runs in neighbours) <= 4
