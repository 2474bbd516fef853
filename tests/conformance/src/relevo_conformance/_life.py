"""
Long lives of one event: sequences of its holder's operations, in which each operation follows each other one.

Many bugs show only if one operation of the holder follows another one. For example, an extension removes a note, or
the second lost lease clears a checkpoint. The table of pairs has two operations in a row, a life has dozens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count, product
from random import Random
from typing import Any

import attrs

from relevo import Ack, DeadLetter, Delivery, Envelope, Lost, Nack, Note, Outcome, Release
from relevo.errors import LeaseLostError
from relevo_conformance.bench import Bench
from relevo_conformance.harness import Harness
from relevo_conformance.worker import RecordedWorker

KINDS: Mapping[str, Mapping[str, Any]] = {
    "an event": {},
    "an urgent event": {"urgency": "high"},
    "an event with a key": {"ordering_key": "k"},
    "an event with headers": {"headers": {"kind": "a "}, "expires": 4_102_444_800.0, "source": "shop"},
    "foreign bytes": {},
}


class Life:
    """
    One event, the worker that holds it, and another one.

    Args:
        bench: A bench with two queues.

        kind: One of :data:`KINDS`.
    """

    def __init__(self, bench: Bench, kind: str) -> None:
        self.bench = bench
        self.claims = bench.capabilities
        self.holder, self.other = bench.worker(), bench.worker()
        self.event: Envelope | bytes
        self.delivery: Delivery | None = None
        self.earlier: Delivery | None = None
        self.notes: list[Note] = []
        self._numbers = count(1)
        if kind == "foreign bytes":
            self.event = bench.raw()
        else:
            self.event = bench.envelope(**KINDS[kind])
            self.send(self.event, bench.envelope(ordering_key=self.event.ordering_key))

    def send(self, event: Envelope, neighbour: Envelope) -> None:
        """Send the *event*, and another one behind it."""
        self.holder.send([event, neighbour])

    def hold(self) -> Delivery | None:
        """Return the delivery that is held; it is received now if the event is ready."""
        for _ in range(_TRIES):
            if self.delivery is not None:
                break
            came = self.bench.receive(self.holder, 1, limit=5, lease=self.lease)
            for delivery in came:
                if self.is_the_event(delivery):
                    self.delivery = delivery
                else:
                    self.holder.ack(delivery)
            if not came:
                break
        return self.delivery

    def is_the_event(self, delivery: Delivery) -> bool:
        """Return whether *delivery* is of the event."""
        found = delivery.envelope
        return self.event == (found if isinstance(found, Envelope) else found.raw)

    @property
    def lease(self) -> float:
        """Seconds of each lease."""
        return self.bench.times.lease

    def state(self) -> bytes:
        """Return another state each time."""
        return b"state %d" % next(self._numbers)

    def settle(self, outcome: Outcome) -> None:
        """Settle the event, and let the delay end."""
        if (held := self.hold()) is not None:
            self.end()
            self.holder.settles(held, outcome)
            if isinstance(outcome, Nack | Release) and outcome.delay:
                self.glimpse()
                self.bench.advance(outcome.delay + (self.claims.delay or 0.0) + 3 * self.bench.harness.slack)

    def end(self) -> None:
        """Note that the delivery is not held any more."""
        self.earlier, self.delivery = self.delivery or self.earlier, None

    def glimpse(self) -> None:
        """Let the other worker receive, and give back what comes."""
        for delivery in self.bench.glimpse(self.other, queues=[self.bench.queue]):
            self.other.release(delivery)

    def let_lease_end(self, vanish: Callable[[RecordedWorker], None]) -> None:
        """Let the holder vanish, and its lease end."""
        if self.hold() is not None:
            self.end()
            vanish(self.holder)
            self.holder = self.bench.worker()
            if not self.bench.is_connected:
                self.bench.advance(2 * self.lease + 3 * self.bench.harness.slack)

    def revive(self) -> None:
        """Revive the dead letters of the queue."""
        entries = self.other.dead_letters([self.bench.queue])
        self.other.revive({entry.ref: self.state() for entry in entries})

    def finish(self) -> None:
        """Look at it once more, held and given back."""
        self.hold()
        look(self)
        self.settle(Nack())
        self.hold()


_TRIES = 5
"""The largest number of receives for the event."""

Step = Callable[[Life], None]


# --- what is done with it ---------------------------------------------------------------------------


def settle(make: Callable[[Life], Outcome]) -> Step:
    """Return a step that settles it."""
    return lambda life: life.settle(make(life))


def extend(life: Life) -> None:
    """Extend its lease, which outlives the first one."""
    if (held := life.hold()) is not None:
        life.holder.extend([held], lease=4 * life.lease)
        if life.bench.harness.fake:
            life.bench.advance(1.2 * life.lease)


def checkpoint(make: Callable[[Life], bytes]) -> Step:
    """Return a step that stores a checkpoint."""

    def act(life: Life) -> None:
        if (held := life.hold()) is not None:
            with suppress(LeaseLostError):
                life.holder.checkpoint(held, make(life))

    return act


def begin(life: Life) -> None:
    """Store another note."""
    if (held := life.hold()) is not None:
        number = len(life.notes)
        deaths = ("a2:0b-9c:1:7:8+",) if number % 2 else ()
        note = Note(by=f"a1:0b-9c:1:7:{number % 3}", deaths=deaths, listener=f"shop.listeners:listen_{number % 2}")
        life.notes.append(note)
        with suppress(LeaseLostError):
            life.holder.begin(held, note)


def excuse(position: int) -> Step:
    """Return a step that excuses the note at *position* of all."""

    def act(life: Life) -> None:
        if (held := life.hold()) is not None and len(life.notes) >= abs(position):
            life.holder.excuse(held, life.notes[position])

    return act


def excuse_late(life: Life) -> None:
    """Excuse the last note while another worker holds the event."""
    if (held := life.hold()) is not None:
        hand_over(life)
        life.hold()
        if life.notes:
            life.other.excuse(held, life.notes[-1])


def hand_over(life: Life) -> None:
    """Let the lease end, and the other worker be the next holder."""
    life.let_lease_end(RecordedWorker.close if life.bench.is_connected else lambda worker: None)
    life.holder, life.other = life.other, life.holder


def die_and_revive(life: Life) -> None:
    """Let it die, and revive it."""
    life.settle(DeadLetter(reason="crash-loop", error="no such image", state=life.state()))
    look(life)
    life.revive()


def die_and_be_sent(life: Life) -> None:
    """Let it die, and send it again."""
    if isinstance(life.event, Envelope):
        life.settle(DeadLetter(reason="unknown-event", error="", state=None))
        life.other.send([life.event])


def be_revived_beside_itself(life: Life) -> None:
    """Let it die, be sent again and held, and revive the dead letter."""
    if isinstance(life.event, Envelope) and life.claims.dedupe:
        die_and_be_sent(life)
        life.hold()
        life.revive()


def send_again(life: Life) -> None:
    """Send it again while it is held; without ``dedupe`` that makes another one."""
    if isinstance(life.event, Envelope) and life.claims.dedupe:
        life.hold()
        life.other.send([life.event])


def settle_the_earlier(life: Life) -> None:
    """Settle its earlier delivery."""
    life.hold()
    if life.earlier is not None:
        life.other.settles(life.earlier, Ack())


def try_to_remove(life: Life) -> None:
    """Cancel and purge while it is held, which removes nothing."""
    if life.hold() is not None:
        if life.claims.cancel and isinstance(life.event, Envelope):
            life.other.cancel(life.event.id)
        if life.claims.purge:
            life.other.purge(life.bench.queue)


def look(life: Life) -> None:
    """Look at everything that is stored."""
    if life.claims.stats != "none":
        life.other.stats(life.bench.queue)
    if life.claims.dead_letters:
        life.other.dead_letters([life.bench.queue])
    if life.claims.find and isinstance(life.event, Envelope):
        life.other.find(life.event.id)
    if life.claims.waiting:
        life.other.waiting([life.bench.queue])


def wait(life: Life) -> None:
    """Let time pass while it is held."""
    if life.hold() is not None and life.bench.harness.fake:
        life.bench.advance(life.lease / 50)


@attrs.frozen
class LifeOperation:
    """A step and the capabilities that it needs."""

    act: Step
    needs: tuple[str, ...] = ()


_LATER: Callable[[Life], float] = lambda life: life.bench.times.delay  # noqa: E731

OPERATIONS: Mapping[str, LifeOperation] = {
    "extend": LifeOperation(extend, ("extend",)),
    "checkpoint": LifeOperation(checkpoint(Life.state), ("checkpoint",)),
    "checkpoint an empty state": LifeOperation(checkpoint(lambda life: b""), ("checkpoint",)),
    "begin": LifeOperation(begin, ("presence",)),
    "excuse": LifeOperation(excuse(-1), ("presence",)),
    "excuse the previous note": LifeOperation(excuse(-2), ("presence",)),
    "excuse after a hand-over": LifeOperation(excuse_late, ("presence",)),
    "nack": LifeOperation(settle(lambda life: Nack())),
    "nack with a state": LifeOperation(settle(lambda life: Nack(state=life.state()))),
    "nack with an empty state": LifeOperation(settle(lambda life: Nack(state=b""))),
    "nack with a delay": LifeOperation(settle(lambda life: Nack(delay=_LATER(life))), ("delay",)),
    "release": LifeOperation(settle(lambda life: Release())),
    "release with a delay": LifeOperation(settle(lambda life: Release(delay=_LATER(life))), ("delay",)),
    "report lost": LifeOperation(settle(lambda life: Lost())),
    "report lost with a state": LifeOperation(settle(lambda life: Lost(state=life.state()))),
    "report lost with an empty state": LifeOperation(settle(lambda life: Lost(state=b""))),
    "report a death": LifeOperation(settle(lambda life: Lost(death="a3::0:0:0")), ("presence",)),
    "let the lease end": LifeOperation(hand_over),
    "kill": LifeOperation(lambda life: life.let_lease_end(life.bench.recorder.kill)),
    "close": LifeOperation(lambda life: life.let_lease_end(RecordedWorker.close)),
    "dead-letter and revive": LifeOperation(die_and_revive, ("dead_letters",)),
    "dead-letter and send again": LifeOperation(die_and_be_sent, ("dead_letters",)),
    "revive beside the same event": LifeOperation(be_revived_beside_itself, ("dead_letters",)),
    "send again while held": LifeOperation(send_again),
    "settle the earlier delivery": LifeOperation(settle_the_earlier),
    "cancel and purge": LifeOperation(try_to_remove),
    "inspect the store": LifeOperation(look),
    "wait": LifeOperation(wait),
}


def operations_of(harness: Harness) -> Sequence[str]:
    """Return the names of the operations that *harness* can have."""
    claimed = harness.capabilities
    return [
        name
        for name, operation in OPERATIONS.items()
        if all(getattr(claimed, need) not in (None, False, "none") for need in operation.needs)
    ]


def walks(names: Sequence[str], *, strength: int, length: int, rng: Random) -> Iterator[Sequence[str]]:
    """
    Yield walks in which each *strength* names follow one another, in each order.

    Args:
        names: What the walks consist of.

        strength: 2 for pairs, 3 for triples.

        length: The number of names of a walk.

        rng: Where chance comes from.
    """
    todo = list(product(names, repeat=strength))
    rng.shuffle(todo)
    missing = set(todo)
    while todo:
        first = todo.pop()
        if first not in missing:
            continue
        walk = list(first)
        missing.discard(first)
        while len(walk) < length:
            before = tuple(walk[1 - strength :])
            walk.append(rng.choice([name for name in names if (*before, name) in missing] or names))
            missing.discard((*before, walk[-1]))
        yield walk
