"""
The possible states of an event, as far as a history shows them.

The model uses the core's transition table and counters, and knows no transport. If a fact is not known,
such as whether a send arrived whose answer was lost, the model keeps several possible situations. Later
observations exclude some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from typing import Any

import attrs
from msgspec import Struct
from msgspec.structs import replace

from relevo import (
    MAX_DEATHS,
    Ack,
    Action,
    Counters,
    DeadLetter,
    Envelope,
    Lost,
    Nack,
    Note,
    Outcome,
    Release,
    State,
    Unreadable,
    after,
)
from relevo_conformance.promise import NO_INVENTION, Promise

PENDING = frozenset({State.SCHEDULED, State.READY, State.LEASED})
"""The states in which an event must still be handed out."""

Tag = tuple[int, int]
"""A call in flight, and the position in its batch."""

Identity = tuple[str, ...] | bytes
"""What makes an event the same as another."""


class Situation(Struct, frozen=True, kw_only=True):
    """The state of one event, with all that decides what may happen to it next."""

    state: State | None
    """``None``: not in the store."""

    why: Promise = NO_INVENTION
    """The promise that a delivery breaks if the event is gone or not in the store."""

    counters: Counters = Counters()
    kept: bytes = b""
    begun: Note | None = None
    deaths: tuple[str, ...] = ()
    last: Action | None = None
    """The last action on it, except the passing of time."""

    due: float = 0.0
    holder: int | None = None
    """The number of the delivery that holds it."""

    until: float = inf
    """The earliest time at which its lease can run out."""

    over: float = inf
    """The time at which its lease has surely run out, noticed or not: the delivery then holds nothing."""

    adrift: bool = False
    """Its holder has gone, or learned that it lost the event, which may be handed out again at any time."""

    checkpointed: bool = False
    reason: str = ""
    error: str = ""
    died: tuple[float, float] = (0.0, 0.0)

    tags: frozenset[Tag] = frozenset()
    """The calls in flight whose effect this situation includes."""

    def step(self, action: Action, **changes: Any) -> Situation:
        """Return the situation after *action*, by the core's table and counters."""
        assert self.state is not None
        state = after(self.state, action)
        if action is Action.NACK:
            changes["begun"] = None
        elif action is Action.REVIVE:
            changes |= {"begun": None, "deaths": ()}
        return replace(self, state=state, counters=self.counters.after(action), last=action, **changes)

    def receivable(self, now: float, slack: float) -> Situation | None:
        """Return the ready situation that it may have become by *now*; ``None`` if it cannot be ready."""
        match self.state:
            case State.READY:
                return self
            case State.SCHEDULED if now >= self.due - slack:
                return replace(self.step(Action.COME_DUE), last=self.last)
            case State.LEASED if self.adrift or now >= self.until - slack:
                return self.step(Action.LOSE, holder=None)
            case _:
                return None

    def handed(self, number: int, until: float, over: float) -> Situation:
        """Return the situation in which delivery *number* holds it."""
        taken = self.step(Action.RECEIVE, holder=number, until=until, over=over, adrift=False, checkpointed=False)
        return replace(taken, last=self.last)

    def settled(self, number: int, outcome: Outcome, began: float) -> Situation | None:
        """Return the situation after delivery *number* ended with *outcome*; ``None`` if it does not hold it."""
        if not self.may_be_held(number, began):
            return None
        match outcome:
            case Ack():
                return self.step(Action.ACK)
            case Nack(delay=delay, state=state):
                kept = self.kept if state is None else state
                return self.step(Action.NACK, holder=None, kept=kept, due=began + delay)
            case DeadLetter(reason=reason, error=error, state=state):
                kept = self.kept if state is None else state
                return self.step(
                    Action.DEAD_LETTER, holder=None, kept=kept, reason=reason, error=error, died=(began, inf)
                )
            case Release(delay=delay) if delay > 0:
                return self.step(Action.POSTPONE, holder=None, due=began + delay)
            case Release():
                return self.step(Action.RELEASE, holder=None)
            case Lost(state=state, death=death):
                kept = self.kept if state is None else state
                lost = self.step(Action.LOSE, holder=None, kept=kept)
                if death is None:
                    return lost
                return replace(lost, begun=None, deaths=(*self.deaths, death)[-MAX_DEATHS:])

    def may_be_held(self, number: int, now: float) -> bool:
        """Return whether delivery *number* may hold it at *now*: not if its lease is over, swept or not."""
        return self.state is State.LEASED and self.holder == number and now <= self.over

    def surely_free(self, now: float) -> bool:
        """Return whether it is there, and certainly not held at *now*."""
        return self.state in (State.READY, State.SCHEDULED) or (self.state is State.LEASED and now > self.over)

    def surely_held(self, number: int, now: float, slack: float) -> bool:
        """Return whether delivery *number* surely holds it at *now*."""
        held = self.state is State.LEASED and self.holder == number
        return held and not self.adrift and now < self.until - slack


def is_pending(one: Situation) -> bool:
    """Return whether the event must still be handed out."""
    return one.state in PENDING


def absent(why: Promise) -> Situation:
    """Return the situation of an event that is not in the store; handing it out breaks *why*."""
    return Situation(state=None, why=why)


def arrival(due: float | None) -> Change:
    """Return the change that puts an event into the store: ready, or scheduled until *due*."""

    def change(one: Situation) -> Situation | None:
        if one.state is not None:
            return None
        if due is None:
            return replace(one, state=State.READY)
        return replace(one, state=State.SCHEDULED, due=due)

    return change


Change = Callable[[Situation], Situation | None]
"""The effect of a call on a situation; ``None`` if it has none."""


@attrs.define(eq=False, kw_only=True)
class Copy:
    """One event in one queue; there is one for each time that it was sent."""

    number: int
    queue: str
    event: Envelope | Unreadable
    op: int
    """The call that sent it."""

    sent: tuple[float, float]
    """The earliest and the latest time of sending, in seconds since the epoch."""

    possible: tuple[Situation, ...]
    enqueued_at: float | None = None
    ref: str | None = None
    """The ref of its dead letter, once it was listed."""

    in_line: bool = True
    """Whether its place in the order of its key is known; it is not for delayed, revived and extra copies."""

    placed: int = -1
    """The call that gave it its place in the order of its key: the send, or the commit."""

    beside: frozenset[int] = frozenset()
    """The calls that were in flight when that one began; they are not earlier."""

    revived: bool = False

    spared: Promise | None = None
    """The promise that a cancel or a purge breaks if it removes this held event; ``None`` without such a call."""

    doubtful: bool = False
    """Whether it may not exist although the send succeeded, since the same event was there."""

    confirmed: bool = False
    """Whether the send succeeded, so that this event or the same one, which was there, must come."""

    bygone: frozenset[int] = frozenset()
    """The copies of the same event that had surely ended when it was sent; they cannot be what its send found there."""

    overlooked: int | None = None
    """The last receive that returned nothing although this event was surely ready; its delivery proves the mistake."""

    breaks: int = 0
    """How often workers of its queue had vanished when it was last seen."""

    refs_are_known: bool = True
    """Whether :attr:`ref` is surely the ref of its dead letter: a revival with an unknown result may have ended it."""

    flying: dict[Tag, Change] = attrs.field(factory=dict)
    """The possible effects of the calls in flight, in any order."""

    @property
    def identity(self) -> Identity:
        """What makes it the same event as another."""
        return identity(self.queue, self.event)

    def surely(self, condition: Callable[[Situation], bool]) -> bool:
        """Return whether *condition* holds in every possible situation."""
        return all(condition(situation) for situation in self.possible)

    def maybe(self, condition: Callable[[Situation], bool]) -> bool:
        """Return whether *condition* holds in some possible situation."""
        return any(condition(situation) for situation in self.possible)

    def become(self, situations: Iterable[Situation]) -> None:
        """Replace the possible situations."""
        found = tuple(situations)
        self.possible = found if len(found) == 1 else tuple(dict.fromkeys(found))  # most often it is one
        assert self.possible

    def branch(self, tag: Tag, change: Change) -> bool:
        """Add *change* as possible from now on; return whether it applies to any situation."""
        self.flying[tag] = change
        possible = list(self.possible)
        for one in possible:  # grows: of overlapping calls, the later one may have its effect first
            possible.extend(
                replace(changed, tags=one.tags | {other})
                for other, then in self.flying.items()
                if other not in one.tags and (changed := then(one)) is not None
            )
        self.become(possible)
        return self.maybe(lambda one: tag in one.tags)

    def resolve(self, tag: Tag, *, happened: bool | None) -> bool:
        """
        Set whether the change with *tag* happened; ``None``: unknown.

        Returns:
            Whether that is possible; if it is not, no situation is excluded.
        """
        self.flying.pop(tag, None)
        left = [one for one in self.possible if happened is None or (tag in one.tags) is happened]
        self.become(replace(one, tags=one.tags - {tag}) if tag in one.tags else one for one in left or self.possible)
        return bool(left)

    def __str__(self) -> str:
        match self.event:
            case Envelope(id=event_id):
                return f'the event {event_id!r} in "{self.queue}"'
            case Unreadable(raw=raw):
                return f'the bytes {raw[:40]!r} in "{self.queue}"'


def missing_headers(event: Unreadable, found: Unreadable) -> str:
    """Return the names of the headers of *event* that are missing or different in *found*; a store may add others."""
    return ", ".join(repr(name) for name, value in event.headers.items() if found.headers.get(name) != value)


def identity(queue: str, event: Envelope | Unreadable) -> Identity:
    """Return what makes *event* in *queue* the same event as another."""
    match event:
        case Envelope(queue=target, source=source, id=event_id):
            return queue, target, source, event_id
        case Unreadable(raw=raw):
            return queue.encode(errors="surrogatepass") + b"\0" + raw
