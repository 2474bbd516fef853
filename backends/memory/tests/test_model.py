"""
The transport against a model that keeps one list and searches it.

What the transport does with rankings and lines, the model does by looking at everything; both have to
hand out the same events in the same order, with the same counters, whatever happened before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import attrs
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relevo import (
    Ack,
    Action,
    Counters,
    DeadLetter,
    Delivery,
    Envelope,
    LeaseLostError,
    Lost,
    Nack,
    Outcome,
    Release,
    State,
    Unreadable,
    action_of,
    after,
)
from relevo.testing import FakeClock
from relevo_memory import MemoryStore, MemoryTransport

QUEUES = ("a", "b")
ALIVE = frozenset({State.SCHEDULED, State.READY, State.LEASED})

queues = st.sampled_from(QUEUES)
preferences = st.sampled_from([("a",), ("b",), ("a", "b"), ("b", "a")])
delays = st.sampled_from([0.0, 0.0, 1.0, 2.5, 10.0])
states = st.sampled_from([None, b"", b"progress"])
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.just(Ack()),
    st.builds(Release, delay=delays),
    st.builds(Nack, delay=delays, state=states),
    st.builds(Lost, state=states),
    st.builds(DeadLetter, reason=st.just("no"), state=states),
)


@attrs.define(eq=False)
class Event:
    """One event as the model has it."""

    queue: str
    envelope: Envelope | Unreadable
    sent: float
    turn: int
    status: State
    place: int = 0
    due: float = 0.0
    until: float = 0.0
    counters: Counters = attrs.field(factory=Counters)
    state: bytes = b""
    died: int = 0
    holder: Delivery | None = None

    @property
    def identity(self) -> object:
        one = self.envelope
        return (self.queue, one.source, one.id) if isinstance(one, Envelope) else object()

    def is_copy_of(self, other: Event) -> bool:
        """Return whether both are the same event; others may have its identity."""
        return self.identity == other.identity and self.envelope == other.envelope

    @property
    def key(self) -> str | None:
        return self.envelope.ordering_key if isinstance(self.envelope, Envelope) else None

    @property
    def urgency(self) -> str:
        return self.envelope.urgency if isinstance(self.envelope, Envelope) else "normal"


class Model(RuleBasedStateMachine):
    """Does everything twice."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.store = MemoryStore()
        self.transports = [MemoryTransport(self.store, clock=self.clock) for _ in range(2)]
        self.events: list[Event] = []
        self.held: list[Delivery] = []
        self.stale: list[Delivery] = []
        self.ticks = 0

    # --- the model ---------------------------------------------------------------------------------

    def tick(self) -> int:
        self.ticks += 1
        return self.ticks

    def alive(self, **wanted: Any) -> list[Event]:
        return [
            one
            for one in self.events
            if one.status in ALIVE and all(getattr(one, name) == value for name, value in wanted.items())
        ]

    def step(self, one: Event, action: Action) -> None:
        one.status = after(one.status, action)
        one.counters = one.counters.after(action)
        if one.status is State.READY and action not in {Action.RELEASE, Action.LOSE}:
            one.place = self.tick()
        if one.status is not State.LEASED and one.holder is not None:
            self.held.remove(one.holder)
            self.stale.append(one.holder)
            one.holder = None

    def pass_time(self) -> None:
        now = self.clock.now()
        for one in sorted(self.alive(status=State.LEASED), key=lambda one: one.until):
            if one.until <= now:
                self.step(one, Action.LOSE)
        for one in sorted(self.alive(status=State.SCHEDULED), key=lambda one: one.due):
            if one.due <= now:
                self.step(one, Action.COME_DUE)

    def receivable(self, queue: str) -> list[Event]:
        ready = [
            one
            for one in self.alive(queue=queue, status=State.READY)
            if one.key is None or not any(earlier.turn < one.turn for earlier in self.alive(queue=queue, key=one.key))
        ]
        return sorted(ready, key=lambda one: (one.urgency != "high", one.place))

    def holding(self, delivery: Delivery) -> Event | None:
        return next((one for one in self.events if one.holder is delivery), None)

    # --- what is done ------------------------------------------------------------------------------

    @rule(
        chosen=st.lists(
            st.tuples(
                st.integers(0, 5), queues, st.sampled_from(["normal", "high"]), st.sampled_from([None, None, "k", "l"])
            ),
            min_size=1,
            max_size=4,
        ),
        delay=delays,
    )
    def send(self, chosen: list[tuple[int, str, Literal["normal", "high"], str | None]], delay: float) -> None:
        batch = [
            Envelope(id=str(number), source="s", name="n", queue=queue, body=b"", urgency=urgency, ordering_key=key)
            for number, queue, urgency, key in chosen
        ]
        self.transports[0].send(batch, delay=delay)
        for envelope in batch:
            now = self.clock.now()
            status = State.SCHEDULED if delay else State.READY
            one = Event(envelope.queue, envelope, now, self.tick(), status, self.tick(), due=now + delay)
            if not any(other.identity == one.identity for other in self.alive()):
                self.events.append(one)

    @rule(queue=queues)
    def put_raw(self, queue: str) -> None:
        self.store.put_raw(queue, b"?")
        self.transports[0].stats(queue)
        unreadable = Unreadable(raw=b"?", headers={}, why="bytes put into the store, not an envelope")
        self.events.append(Event(queue, unreadable, self.clock.now(), self.tick(), State.READY, self.tick()))

    @rule(names=preferences, limit=st.integers(0, 5), lease=st.sampled_from([1.0, 5.0, 60.0]), who=st.integers(0, 1))
    def receive(self, names: Sequence[str], limit: int, lease: float, who: int) -> None:
        expected = [one for name in names for one in self.receivable(name)][:limit]

        deliveries = self.transports[who].receive(names, limit=limit, lease=lease, wait=0)

        assert [
            (one.envelope, one.queue, one.attempt, one.lost_leases, one.state, one.enqueued_at) for one in deliveries
        ] == [
            (one.envelope, one.queue, one.counters.attempt, one.counters.lost_leases, one.state, one.sent)
            for one in expected
        ]
        for one, delivery in zip(expected, deliveries, strict=True):
            self.step(one, Action.RECEIVE)
            one.holder, one.until = delivery, self.clock.now() + lease
            self.held.append(delivery)

    @precondition(lambda self: self.held or self.stale)
    @rule(data=st.data(), who=st.integers(0, 1))
    def settle(self, data: st.DataObject, who: int) -> None:
        batch = data.draw(
            st.lists(st.tuples(st.sampled_from(self.held or self.stale), outcomes), min_size=1, max_size=4)
        )
        if self.stale and data.draw(st.integers(0, 4)) == 0:
            batch.append((data.draw(st.sampled_from(self.stale)), data.draw(outcomes)))
        expected = []
        for delivery, outcome in batch:
            one = self.holding(delivery)
            if one is None:
                expected.append(delivery)
                continue
            if not isinstance(outcome, (Ack, Release)) and outcome.state is not None:
                one.state = outcome.state
            one.due = self.clock.now() + (outcome.delay if isinstance(outcome, (Nack, Release)) else 0.0)
            if isinstance(outcome, DeadLetter):
                self.events = [
                    other for other in self.events if other.status is not State.DEAD or not other.is_copy_of(one)
                ]
                one.died = self.tick()
            self.step(one, action_of(outcome))
            self.pass_time()

        assert self.transports[who].settle(batch) == expected

    @precondition(lambda self: self.held or self.stale)
    @rule(data=st.data(), lease=st.sampled_from([1.0, 30.0]))
    def extend(self, data: st.DataObject, lease: float) -> None:
        delivery = data.draw(st.sampled_from([*self.held, *self.stale]))
        one = self.holding(delivery)

        assert self.transports[0].extend([delivery], lease=lease) == ([] if one else [delivery])

        if one is not None:
            self.step(one, Action.EXTEND)
            one.until = self.clock.now() + lease

    @precondition(lambda self: self.held or self.stale)
    @rule(data=st.data(), state=st.binary(max_size=3))
    def checkpoint(self, data: st.DataObject, state: bytes) -> None:
        delivery = data.draw(st.sampled_from([*self.held, *self.stale]))
        one = self.holding(delivery)
        try:
            self.transports[0].checkpoint(delivery, state)
        except LeaseLostError:
            assert one is None
        else:
            assert one is not None
            one.state = state

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.5, 60.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.pass_time()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def a_lease_runs_out(self, data: st.DataObject) -> None:
        one = self.holding(data.draw(st.sampled_from(self.held)))
        assert one is not None
        self.advance(one.until - self.clock.now())

    @rule(number=st.integers(0, 5))
    def cancel(self, number: int) -> None:
        doomed = [
            one
            for one in self.alive()
            if one.status is not State.LEASED and isinstance(one.envelope, Envelope) and one.envelope.id == str(number)
        ]

        assert self.transports[0].cancel(str(number)) == len(doomed)

        for one in doomed:
            self.step(one, Action.CANCEL)

    @rule(queue=queues)
    def purge(self, queue: str) -> None:
        doomed = [one for one in self.alive(queue=queue) if one.status is not State.LEASED]

        assert self.transports[0].purge(queue) == len(doomed)

        for one in doomed:
            self.step(one, Action.CANCEL)

    @precondition(lambda self: self.dead())
    @rule(data=st.data(), state=st.binary(max_size=3))
    def revive(self, data: st.DataObject, state: bytes) -> None:
        one = data.draw(st.sampled_from(self.dead()))
        ref = self.ref_of(one)

        living = next((other for other in self.alive() if other.identity == one.identity), None)
        has_to_wait = living is not None and not living.is_copy_of(one)

        assert self.transports[0].revive({ref: state}) == ([ref] if has_to_wait else [])
        assert self.transports[0].revive({ref: state}) == [ref]

        if living is not None:
            if not has_to_wait:
                self.events.remove(one)
        else:
            self.step(one, Action.REVIVE)
            one.turn, one.state = self.tick(), state

    @precondition(lambda self: self.dead())
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.dead()))

        assert self.transports[0].discard([self.ref_of(one)]) == []

        self.step(one, Action.DISCARD)

    # --- what has to hold -----------------------------------------------------------------------------

    def dead(self, queue: str | None = None) -> list[Event]:
        dead = [one for one in self.events if one.status is State.DEAD and queue in (None, one.queue)]
        return sorted(dead, key=lambda one: (one.queue, one.died))

    def ref_of(self, one: Event) -> str:
        return self.transports[0].dead_letters(QUEUES)[self.dead().index(one)].ref

    @invariant()
    def dead_letters_are_the_same(self) -> None:
        entries = self.transports[1].dead_letters(QUEUES)

        assert [(one.queue, one.envelope, one.attempt, one.lost_leases, one.state) for one in entries] == [
            (one.queue, one.envelope, one.counters.attempt, one.counters.lost_leases, one.state) for one in self.dead()
        ]

    @invariant()
    def stats_are_the_same(self) -> None:
        for queue in QUEUES:
            stats = self.transports[1].stats(queue)
            ready = self.alive(queue=queue, status=State.READY)
            oldest = min((one.sent for one in ready), default=None)
            assert stats.ready == len(ready)
            assert stats.leased == len(self.alive(queue=queue, status=State.LEASED))
            assert stats.scheduled == len(self.alive(queue=queue, status=State.SCHEDULED))
            assert stats.dead == len(self.dead(queue))
            assert stats.oldest_age == (None if oldest is None else self.clock.now() - oldest)

    def teardown(self) -> None:
        """Drain: whatever is alive comes, and comes to its end."""
        for _ in range(len(self.events) + 2):
            self.advance(60.0)
            self.receive(QUEUES, 100, 60.0, 0)
            self.transports[0].settle([(delivery, Ack()) for delivery in self.held])
            for delivery in list(self.held):
                one = self.holding(delivery)
                assert one is not None
                self.step(one, Action.ACK)
        assert self.alive() == []
        self.stats_are_the_same()


TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
