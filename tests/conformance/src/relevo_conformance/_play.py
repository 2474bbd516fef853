"""
Play one row of the table of pairs: an event with certain features, its past, and an operation on it.

A play judges nothing. It makes calls, and then looks at everything that can be seen; the checker judges the calls. So a
step that finds no event, because another step took it away, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import attrs

from relevo import Ack, DeadLetter, Delivery, Envelope, EventFilter, Nack, Outcome, Release, Unreadable
from relevo_conformance.bench import Bench
from relevo_conformance.worker import RecordedTransaction, RecordedWorker

if TYPE_CHECKING:
    from relevo_conformance._pair import Level

_TRIES = 8
"""The largest number of receives for one event."""

_PAGES = 50
"""The largest number of pages of dead letters that are read."""

_PAGE = 3
"""The size of a page of waiting events."""

_FOUND = 3
"""The number of events that are looked up by their ids."""

DAY = 86_400.0


@attrs.frozen(eq=False)
class Taken:
    """A delivery and who received it."""

    worker: RecordedWorker
    delivery: Delivery
    began: float
    """The earliest time at which its lease can have begun."""


class Play:
    """
    One event, its neighbours, and two workers.

    Args:
        bench: A bench with three queues.

        row: The level of each factor.
    """

    def __init__(self, bench: Bench, row: Mapping[str, Level]) -> None:
        self.bench = bench
        self.row = row
        self.claims = bench.capabilities
        self.worker, self.other = bench.worker(), bench.recorder.worker()
        self.place = bench.queues[0]
        """The queue in which the event is."""

        self.ids: list[str] = []
        self.event: Envelope | bytes = b""
        self.due = 0.0
        self.held: Taken | None = None
        """The last delivery of the event; it may have been lost or settled since."""

        self.ends = 0.0
        """The earliest time at which its lease can end."""

        self.is_held = False
        self.is_gone = False
        """Whether it is done, dead or removed, so that there is no use in waiting for it."""

        self.was_vain = False
        """Whether nothing came although the event was waited for: it may be behind others, or not there."""

        self.is_late = False
        """Whether the next operation comes after the end of the last delivery, and is for that one."""

        self.others: list[Taken] = []
        """Deliveries of other events, most of them held."""

        self.stale: list[Taken] = []
        """Earlier deliveries of the event."""

    def run(self) -> None:
        """Play the row, up to the last look."""
        self.act("origin")
        self.act("past")
        self.act("situation")
        self.act("time before the operation")
        self.act("operation")
        self.is_late = False
        self.act("time after the operation")
        self.act("second operation")
        if not self.is_in_an_outbox:
            self.worker.send([self.neighbour()])
        self.look_around(self.other)
        self.glimpse()
        self.look_up(self.worker, 1)  # the drain looks at the rest

    def act(self, factor: str) -> None:
        """Carry out the level of *factor*."""
        self.row[factor].value(self)

    def value(self, factor: str) -> Any:
        """Return the value of the level of *factor*."""
        return self.row[factor].value

    # --- sending ----------------------------------------------------------------------------------------

    @property
    def state(self) -> bytes | None:
        """The state that outcomes carry."""
        return cast("bytes | None", self.value("state").settled)

    @property
    def delay(self) -> float:
        """Seconds for which the event is delayed; a delay of an outcome is never 0."""
        return self.seconds(self.value("delay"))

    @property
    def later(self) -> float:
        """Seconds for which outcomes delay the event; none where delays are not claimed."""
        return 0.0 if self.claims.delay is None else self.seconds(self.value("delay of an outcome"))

    def seconds(self, stated: float | None) -> float:
        """Return *stated*, or where it is ``None`` the usual delay."""
        return 1.025 * self.bench.times.delay if stated is None else stated  # no whole number of seconds

    def made(self) -> Envelope:
        """Return the event with all its features."""
        key, _ = self.value("key")
        return self._new(
            queue=self.place,
            name=self.value("name"),
            body=self.value("body")(self.claims.max_body),
            headers=self.value("headers"),
            urgency=self.value("urgency"),
            ordering_key=key,
            expires=self.value("expiry")(self.bench.harness.clock.now()),
            **self.value("twin").of_the_event,
        )

    def neighbour(self, *, queue: str | None = None, plain: bool = False) -> Envelope:
        """Return an event that shares with the event what the row says."""
        _, key = self.value("key")
        urgent = self.claims.urgency and not plain and self.value("urgency") == "normal"
        return self._new(
            queue=self.place if queue is None else queue,
            ordering_key=None if plain else key,
            urgency="high" if urgent and self.value("neighbours").contrary else "normal",
        )

    def twin(self, event: Envelope) -> list[Envelope]:
        """Return the event that differs from *event* in one thing, if there is one."""
        changes = self.value("twin").of_the_twin(event, self.bench.queues)
        if changes is None:
            return []
        twin = attrs.evolve(event, **changes, body=b'{"twin": true}')
        self.ids.append(twin.id)
        return [twin]

    def _new(self, **fields: Any) -> Envelope:
        beginning, ending = fields.pop("id_begin", ""), fields.pop("id_end", "")
        envelope = self.bench.envelope(**{name: value for name, value in fields.items() if value is not None})
        envelope = attrs.evolve(envelope, id=f"{beginning}{envelope.id}{ending}")
        self.ids.append(envelope.id)
        return envelope

    @contextmanager
    def arranging(self, *, put_delay: bool = True) -> Iterator[tuple[list[Envelope], Envelope, list[Envelope]]]:
        """Yield the neighbours before the event, the event, and those after it; expect it to be due after its delay."""
        scene = self.value("neighbours")
        event = self.made()
        self.event = event
        elsewhere = self.bench.queues[1:3] if scene.everywhere else ()
        before = [self.neighbour(queue=queue) for queue in (*elsewhere, *[None] * scene.before)]
        after = [*self.twin(event), *(self.neighbour() for _ in range(scene.after))]
        yield before, event, after
        self.due = self.bench.harness.clock.now() + self.delay if put_delay else 0.0

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        """Send *envelopes*, if there are any."""
        if envelopes:
            self.worker.send(envelopes, delay=delay)

    def send_one_like_it(self) -> Envelope:
        """Send another event with the features of the event, and its twin; return it."""
        fresh = attrs.evolve(self.made(), queue=self.bench.queues[0])
        self.send([fresh, *self.twin(fresh)])
        return fresh

    @contextmanager
    def transaction(self) -> Iterator[RecordedTransaction]:
        """Begin a transaction of the application."""
        with self.worker.transaction() as transaction:
            yield transaction

    # --- receiving --------------------------------------------------------------------------------------

    @property
    def lease(self) -> float:
        """Seconds of each lease."""
        stated = self.value("lease")
        return self.bench.times.lease if stated is None else cast("float", stated)

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues from which the event is received."""
        return cast("tuple[str, ...]", self.value("queues")(self.place, *self.bench.queues[1:3]))

    def ripen(self) -> None:
        """Let the delay of the event end, and look whether it comes earlier."""
        left = self.due - self.bench.harness.clock.now()
        if left <= 0:
            return
        self.glimpse(1)
        if self.bench.harness.fake:
            self.bench.advance(left / 2)
            self.look_around(self.other)
            self.glimpse(1)
            self.bench.approach(self.due)
            self.glimpse(1)
        left = self.due - self.bench.harness.clock.now()
        self.bench.advance(max(left, 0.0) + (self.claims.delay or 0.0) + 2 * self.bench.harness.slack)
        self.look_around(self.other)  # before any receive notices that it is due

    def glimpse(self, limit: int = 10) -> None:
        """Look what another worker gets at once."""
        now = self.bench.harness.clock.now()
        queues = dict.fromkeys((*self.queues, *self.bench.queues, self.place))
        came = self.other.receive(tuple(queues), limit=limit, lease=self.lease, wait=self.bench.glance)
        for delivery in came:
            self._keep(Taken(self.other, delivery, now))

    def take(self, worker: RecordedWorker | None = None) -> Taken | None:
        """Receive until the event is held, with what comes before it; return its delivery, if it came."""
        if self.is_held:
            return self.held
        if self.is_gone:
            return None
        self.ripen()
        worker = worker or self.worker
        came = True
        for _ in range(_TRIES):
            if came and not self.has_the_event():
                came = self._ask(worker)
                self.finish_what_is_ahead()
        self._put_aside()
        return self.held if self.has_the_event() else None

    def take_by_id(self, worker: RecordedWorker) -> None:
        """Let *worker* take the event by its id, due or not; if it comes, it is held like a received one."""
        if not isinstance(self.event, Envelope):
            return
        now = self.bench.harness.clock.now()
        for delivery in worker.take(self.place, self.event.id, lease=self.lease):
            self._keep(Taken(worker, delivery, now))

    def has_the_event(self) -> bool:
        """Return whether the event is held."""
        return self.is_held

    def _ask(self, worker: RecordedWorker) -> bool:
        """Receive once; return whether anything came. Have patience only until nothing came for the first time."""
        now = self.bench.harness.clock.now()
        limit = self.value("limit")
        if self.was_vain:
            came = worker.receive(self.queues, limit=limit, lease=self.lease, wait=self.bench.glance)
        else:
            came = self.bench.receive(worker, 1, queues=self.queues, limit=limit, lease=self.lease)
        self.was_vain = self.was_vain or not came
        for delivery in came:
            self._keep(Taken(worker, delivery, now))
        return bool(came)

    def _keep(self, taken: Taken) -> None:
        if self.is_the_event(taken.delivery) and not self.is_held:
            if self.held is not None:
                self.stale.append(self.held)
            self.held, self.is_held = taken, True
            self.ends = taken.began + self.lease
        else:
            self.others.append(taken)

    @property
    def is_in_an_outbox(self) -> bool:
        """Whether the event waits for a relay, where it cannot be sent to directly."""
        return self.place in self.bench.further

    def is_the_event(self, delivery: Delivery) -> bool:
        """Return whether *delivery* is of the event."""
        return self.is_it(delivery.queue, delivery.envelope)

    def is_it(self, queue: str, found: Envelope | Unreadable) -> bool:
        """Return whether *found* in *queue* is the event."""
        return queue == self.place and self.event == content(found)

    def finish_what_is_ahead(self) -> None:
        """Ack the events of the same key, since the event waits for them."""
        key, shared = self.value("key")
        if key is None or shared != key or self.has_the_event():
            return
        for taken in self.others:
            event = taken.delivery.envelope
            if taken.worker.alive and isinstance(event, Envelope) and event.ordering_key == key:
                taken.worker.ack(taken.delivery)

    def _put_aside(self) -> None:
        """Do with the other events that came what the row says."""
        settle: Callable[[], Outcome] | None = self.value("others")
        if settle is None:
            return
        others, self.others = self.others, []
        for taken in others:
            if taken.worker.alive:
                taken.worker.settles(taken.delivery, settle())

    def delivery(self) -> Taken | None:
        """Return a delivery of the event that is held now if it can be; else, or if that is wanted, the last one."""
        return self.held if self.is_late else self.take() or self.held

    def hand_of(self, held: Taken) -> RecordedWorker:
        """Return the worker that received it, or another one if that one has gone."""
        return held.worker if held.worker.alive else self.worker

    @property
    def actor(self) -> RecordedWorker:
        """The worker that acts on the store, which need not be the one that holds the event."""
        return cast("RecordedWorker", self.value("who")(self))

    # --- settling and losing ----------------------------------------------------------------------------

    def settle(self, outcome: Outcome) -> None:
        """Settle the last delivery of the event, held or not."""
        if (held := self.delivery()) is not None:
            was, self.is_held = self.is_held, False
            self.hand_of(held).settles(held.delivery, outcome)
            if was and isinstance(outcome, Nack | Release):
                self.due = self.bench.harness.clock.now() + outcome.delay
            self.is_gone = self.is_gone or (was and isinstance(outcome, Ack | DeadLetter))

    def give_back(self, outcome: Outcome) -> None:
        """Receive the event and settle it."""
        if self.take() is not None:
            self.settle(outcome)

    def let_lease_end(self) -> None:
        """Let the holder of the event vanish, or its lease run out."""
        if self.bench.is_connected:
            self.vanish(self.bench.recorder.kill)
        else:
            self.bench.advance(self.lease + 3 * self.bench.harness.slack)
        self.is_held = False

    def vanish(self, end: Callable[[RecordedWorker], None]) -> None:
        """End the worker that holds the event, and start another one."""
        holder = self.hand_of(self.held) if self.held is not None else self.worker
        end(holder)
        if holder is self.other:
            self.other = self.bench.recorder.worker()
        else:
            self.worker = self.bench.recorder.worker()
        if self.bench.is_connected:
            self.is_held = False

    def died(self) -> DeadLetter:
        """Return the outcome with which the event dies."""
        reason, error = self.value("death")
        return DeadLetter(reason=reason, error=error, state=self.state)

    def refs(self) -> Mapping[str, bytes]:
        """Return the refs of all dead letters, each with another state for its revival."""
        entries = self.actor.dead_letters([*self.bench.queues, *self.bench.further])
        refs = {entry.ref: b"revived %d" % number for number, entry in enumerate(entries)}
        own = {entry.ref: self.value("state").revived for entry in entries if self.is_it(entry.queue, entry.envelope)}
        return {**refs, **own}

    def extra(self) -> Taken | None:
        """Send another event to the other queue, foreign bytes if the event is, and receive it."""
        queue = self.bench.queues[1]
        if isinstance(self.event, Envelope):
            event: Envelope | bytes = self.neighbour(queue=queue, plain=True)
            self.worker.send([cast("Envelope", event)])
        else:
            event = self.bench.raw(queue=queue)
        now = self.bench.harness.clock.now()
        found = None
        for delivery in self.bench.receive(self.worker, 1, queues=[queue], limit=5, lease=self.lease):
            taken = Taken(self.worker, delivery, now)
            if content(delivery.envelope) == event:
                found = taken
            else:
                self._keep(taken)
        return found

    def bury_extras(self, number: int) -> None:
        """Let *number* other events die, each with a state of its own."""
        for count in range(number):
            if (extra := self.extra()) is not None:
                extra.worker.dead_letter(extra.delivery, error=f"error {count}", state=b"died %d" % count)

    # --- looking ----------------------------------------------------------------------------------------

    def look_up(self, worker: RecordedWorker, number: int = _FOUND) -> None:
        """Look the first *number* events up by their ids."""
        if self.claims.find:
            for event_id in dict.fromkeys(self.ids[:number]):
                worker.find(event_id)

    def look_around(self, worker: RecordedWorker) -> None:
        """Look at everything that is stored; a lookup comes last, since a store may notice then what is due."""
        if self.claims.stats != "none":
            for queue in (*self.bench.queues[:2], *self.bench.further):
                worker.stats(queue)
        if self.claims.dead_letters:
            worker.dead_letters([*self.bench.queues, *self.bench.further])
        if self.claims.waiting:
            queues = [*self.bench.queues[:2], *self.bench.further]
            worker.waiting(queues, limit=_PAGE)
            worker.waiting(queues, where=EventFilter(states=("leased", "scheduled")))
            worker.waiting_groups(queues, "state")
        self.look_up(worker)

    def turn_pages(self, worker: RecordedWorker, between: Callable[[str], None] = lambda ref: None) -> None:
        """Read the dead letters page by page, one on each; call *between* with each ref before the next page."""
        after: str | None = None
        for _ in range(_PAGES):
            entries = worker.dead_letters([*self.bench.queues, *self.bench.further], after=after, limit=1)
            if not entries:
                return
            after = entries[-1].ref
            between(after)


def content(found: Envelope | Unreadable) -> Envelope | bytes:
    """Return what was sent: an envelope, or the bytes that are none."""
    return found.raw if isinstance(found, Unreadable) else found
