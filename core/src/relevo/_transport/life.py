"""
The states of a delivery and their transitions.

An event that a transport accepted is always in one of the states below, and changes it only by
``TRANSITIONS``. There is no third end: an accepted event is DONE, or it is DEAD and stored with its
reason; GONE needs an explicit command.

    send ──> READY ──receive──> LEASED ──ack──> DONE
               ^                  │ │
               ├── release, lose ─┘ ├──nack, postpone──> SCHEDULED ──come due──> READY
               │                    └──dead letter──> DEAD ──revive──> READY
               └─ (READY, SCHEDULED ──cancel──> GONE, DEAD ──discard──> GONE)

The memory transport, the conformance suite's model and the diagram in the docs read this table; it is not
used while an event is handled. The changes of the counters are defined here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum, auto
from types import MappingProxyType

import attrs

from relevo._transport.delivery import Ack, DeadLetter, Lost, Nack, Outcome, Release
from relevo.errors import RelevoError


class State(StrEnum):
    """The state of an accepted event."""

    SCHEDULED = auto()
    READY = auto()
    LEASED = auto()
    DEAD = auto()
    DONE = auto()
    GONE = auto()


class Action(StrEnum):
    """An action that changes the state."""

    COME_DUE = auto()
    RECEIVE = auto()
    EXTEND = auto()
    CHECKPOINT = auto()
    ACK = auto()
    NACK = auto()
    RELEASE = auto()
    POSTPONE = auto()
    """A release with a delay."""

    DEAD_LETTER = auto()
    LOSE = auto()
    REVIVE = auto()
    DISCARD = auto()
    CANCEL = auto()


TRANSITIONS: Mapping[tuple[State, Action], State] = MappingProxyType(
    {
        (State.SCHEDULED, Action.COME_DUE): State.READY,
        (State.READY, Action.RECEIVE): State.LEASED,
        (State.LEASED, Action.EXTEND): State.LEASED,
        (State.LEASED, Action.CHECKPOINT): State.LEASED,
        (State.LEASED, Action.ACK): State.DONE,
        (State.LEASED, Action.NACK): State.SCHEDULED,
        (State.LEASED, Action.RELEASE): State.READY,
        (State.LEASED, Action.POSTPONE): State.SCHEDULED,
        (State.LEASED, Action.DEAD_LETTER): State.DEAD,
        (State.LEASED, Action.LOSE): State.READY,
        (State.DEAD, Action.REVIVE): State.READY,
        (State.DEAD, Action.DISCARD): State.GONE,
        (State.SCHEDULED, Action.CANCEL): State.GONE,
        (State.READY, Action.CANCEL): State.GONE,
    }
)
"""All transitions. A nack without delay passes through SCHEDULED too and is due at once."""


class ForbiddenTransitionError(RelevoError):
    """Raised for an action that the state does not allow; it shows a bug of a transport."""

    def __init__(self, state: object, action: object):
        self.state = state
        self.action = action
        super().__init__(f"a delivery that is {state} cannot {action}")


def after(state: State, action: Action) -> State:
    """
    Return the state that *action* leads to from *state*.

    Raises:
        ForbiddenTransitionError: *state* does not allow *action*.
    """
    try:
        return TRANSITIONS[state, action]
    except KeyError:
        raise ForbiddenTransitionError(state, action) from None


@attrs.frozen(kw_only=True)
class Counters:
    """The counters of an event: hand-overs and lost leases."""

    attempt: int = 1
    """The number of the next hand-over."""

    lost_leases: int = 0
    """Earlier hand-overs that ended without a settlement."""

    def after(self, action: Action) -> Counters:
        """Return the counters after *action*: a nack or a lost lease counts an attempt, a revival resets them."""
        match action:
            case Action.NACK:
                return attrs.evolve(self, attempt=self.attempt + 1)
            case Action.LOSE:
                return Counters(attempt=self.attempt + 1, lost_leases=self.lost_leases + 1)
            case Action.REVIVE:
                return Counters()
            case _:
                return self


_ACTIONS: Mapping[type[Outcome], Action] = {
    Ack: Action.ACK,
    Nack: Action.NACK,
    DeadLetter: Action.DEAD_LETTER,
    Release: Action.RELEASE,
    Lost: Action.LOSE,
}


def action_of(outcome: Outcome) -> Action:
    """Return the action of *outcome*."""
    if isinstance(outcome, Release) and outcome.delay > 0:
        return Action.POSTPONE
    return _ACTIONS[type(outcome)]
