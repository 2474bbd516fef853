"""
The phases of a receiver, and its next step.

The consumers bring events of the main queues. From time to time the receiver looks for suspects; if there are any, it
stops the consumers and hands the suspects out one by one, each while nothing else is held::

    CONSUMING ──found──> SUSPECTS ──held──> CLEARING
        ^                 │    ^              │  │
        ├───── ended ─────┘    └─ handed out ─┘  │
        └────────────────── ended ───────────────┘

``TRANSITIONS`` and :func:`next_step` are pure: they read no clock and ask no server.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum, auto
from types import MappingProxyType

import attrs

LOOK_EVERY = 1.0
"""Seconds between two looks for suspects that other processes left."""

TURN = 5.0
"""Seconds for which suspects are handed out before the other events have their turn again."""

CLEAR_WITHIN = 1.0
"""Seconds for which a suspect waits until everything else that was handed out is settled."""

MAX_STALLS = 5
"""Questions in a row that found events ready and brought none, after which the subscription is replaced."""

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 15.0
"""Seconds without suspects after an event could not be moved or a note not written, doubled each time."""


class Phase(StrEnum):
    """What the subscription is used for."""

    CONSUMING = auto()
    """Consumers bring events of the main queues."""

    SUSPECTS = auto()
    """The consumers are stopped, and suspects are fetched one by one."""

    CLEARING = auto()
    """The same, but the caller still holds something, and the next suspect waits for it."""


class Trigger(StrEnum):
    """What moves a receiver to another phase."""

    FOUND = auto()
    """A look found suspects."""

    HELD = auto()
    """The next suspect has to wait for what the caller holds."""

    HANDED_OUT = auto()
    """A suspect was handed out."""

    ENDED = auto()
    """No suspect is left, their turn is over, or the server accepts no moves."""


TRANSITIONS: Mapping[tuple[Phase, Trigger], Phase] = MappingProxyType(
    {
        (Phase.CONSUMING, Trigger.FOUND): Phase.SUSPECTS,
        (Phase.SUSPECTS, Trigger.HELD): Phase.CLEARING,
        (Phase.SUSPECTS, Trigger.HANDED_OUT): Phase.SUSPECTS,
        (Phase.SUSPECTS, Trigger.ENDED): Phase.CONSUMING,
        (Phase.CLEARING, Trigger.HANDED_OUT): Phase.SUSPECTS,
        (Phase.CLEARING, Trigger.ENDED): Phase.CONSUMING,
    }
)


class Step(StrEnum):
    """What a receiver does next."""

    MOVE = auto()
    """Move the events that were set apart."""

    HAND_OUT = auto()
    """Hand out what the consumers brought."""

    LOOK = auto()
    """Look for suspects; if there are any, stop the consumers."""

    CLEAR = auto()
    """Begin to wait until nothing is held."""

    HAND_OUT_SUSPECT = auto()
    """Fetch the next suspect and hand it out."""

    END_TURN = auto()
    """Let the consumers bring events again."""

    WAIT = auto()
    """Wait until something arrives or is settled."""

    ASK = auto()
    """Ask the server whether it has events ready."""

    RETURN = auto()
    """Return nothing."""


@attrs.frozen(kw_only=True)
class Observation:
    """What a receiver sees before a step."""

    now: float
    """Monotonic, like all times of this module."""

    deadline: float
    """When the caller wants an answer."""

    arrived: bool = False
    """The consumers brought something that can be handed out."""

    set_apart: bool = False
    """Events wait to be moved to where they belong."""

    held: bool = False
    """The caller has not settled everything."""

    blocked: bool = False
    """The server has stopped taking events, as in an alarm."""

    empty: bool = False
    """The server was asked, and has no events ready."""


@attrs.frozen(kw_only=True)
class ReceiverState:
    """A phase, with the times and counts that end it."""

    phase: Phase = Phase.CONSUMING
    look_at: float = 0.0
    """When to look for suspects."""

    turn_ends_at: float = 0.0
    """When the suspects' turn is over."""

    clear_until: float = 0.0
    """Until when a suspect waits for what is held."""

    refusals: int = 0
    """How many moves and notes in a row failed."""

    retry_at: float = 0.0
    """When the next move or note is tried."""

    stalls: int = 0
    """How many questions in a row found events ready and brought none."""

    def after(self, change: Trigger, now: float) -> ReceiverState:
        """Return the state that *change* leads to at *now*."""
        state = attrs.evolve(self, phase=TRANSITIONS[self.phase, change])
        match change:
            case Trigger.FOUND:
                return attrs.evolve(state, turn_ends_at=now + TURN)
            case Trigger.HELD:
                return attrs.evolve(state, clear_until=now + CLEAR_WITHIN)
            case Trigger.ENDED:
                return attrs.evolve(state, look_at=now + LOOK_EVERY)
            case _:
                return state

    def looked(self, now: float) -> ReceiverState:
        """Return the state after a look for suspects at *now*."""
        return attrs.evolve(self, look_at=now + LOOK_EVERY)

    def moved(self) -> ReceiverState:
        """Return the state after events were moved: there may be suspects now."""
        return attrs.evolve(self, look_at=0.0)

    def asked(self, *, stalled: bool) -> ReceiverState:
        """Return the state after a question; *stalled* if the server had events ready and brought none."""
        return attrs.evolve(self, stalls=self.stalls + 1 if stalled else 0)

    @property
    def is_stuck(self) -> bool:
        """Whether the server will not hand out anything on this subscription."""
        return self.stalls >= MAX_STALLS

    def refused(self, now: float, *, blocked: bool) -> ReceiverState:
        """Return the state after a move or a note failed at *now*; if *blocked*, only the end of that is waited for."""
        pause = 0.0 if blocked else min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self.refusals, 10))
        return attrs.evolve(self, refusals=self.refusals + 1, retry_at=now + pause)

    def accepted(self) -> ReceiverState:
        """Return the state after the server accepted a move or a note."""
        return attrs.evolve(self, refusals=0, retry_at=0.0)

    def accepts(self, now: float, *, blocked: bool) -> bool:
        """Return whether the server is expected to accept moves and notes."""
        return not blocked and now >= self.retry_at

    def resubscribed(self) -> ReceiverState:
        """Return the state with a new subscription; what the server refused, it still does."""
        return ReceiverState(refusals=self.refusals, retry_at=self.retry_at)


def next_step(state: ReceiverState, seen: Observation) -> Step:
    """Return what to do in *state*; the first rule that applies."""
    accepts = state.accepts(seen.now, blocked=seen.blocked)
    if seen.set_apart and accepts:
        return Step.MOVE
    if seen.arrived:
        return Step.HAND_OUT
    if state.phase is not Phase.CONSUMING:
        return _step_with_suspects(state, seen) if accepts else Step.END_TURN
    if accepts and seen.now >= state.look_at:
        return Step.LOOK
    if seen.now < seen.deadline:
        return Step.WAIT
    return Step.RETURN if seen.empty else Step.ASK


def _step_with_suspects(state: ReceiverState, seen: Observation) -> Step:
    """Return what to do in the suspects' turn, when nothing else is there to hand out."""
    if not seen.held or (state.phase is Phase.CLEARING and seen.now >= state.clear_until):
        return Step.HAND_OUT_SUSPECT if seen.now < state.turn_ends_at else Step.END_TURN
    if state.phase is Phase.SUSPECTS:
        return Step.CLEAR
    return Step.WAIT if seen.now < seen.deadline else Step.RETURN


def longest_wait(state: ReceiverState, seen: Observation) -> float:
    """Return the seconds that a wait may last; in the suspects' turn less, since a settlement may come unnoticed."""
    patrol = LOOK_EVERY if state.phase is Phase.CONSUMING else LOOK_EVERY / 4
    return max(0.0, min(seen.deadline - seen.now, patrol))
