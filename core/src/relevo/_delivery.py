"""
The life of a delivery.

An event that a transport accepted is always in one of the states below, and only the steps in
``TRANSITIONS`` lead from one to another. There is no third end: an accepted event is DONE, or it
is DEAD and kept with its reason; GONE needs somebody's explicit command.

    send ──> READY ──receive──> LEASED ──ack──> DONE
               ^                  │ │
               ├── release, lose ─┘ ├──nack──> SCHEDULED ──come due──> READY
               │                    └──dead letter──> DEAD ──revive──> READY
               └─ (READY, SCHEDULED ──cancel──> GONE, DEAD ──discard──> GONE)

This module is the one place that says so: the memory transport, the conformance suite's model and
the diagram in the docs read this table. How the counters change stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum, auto
from types import MappingProxyType

import attrs

from relevo._envelope import NO_HEADERS, Envelope
from relevo.errors import ForbiddenTransitionError

MAX_STATE = 16 * 1024
"""The longest ``state`` in bytes that every transport keeps."""

MAX_ERROR = 16 * 1024
"""The longest ``error`` of a dead letter in bytes of UTF-8; what calls a transport cuts it."""


class State(StrEnum):
    """Where an accepted event is."""

    SCHEDULED = auto()
    READY = auto()
    LEASED = auto()
    DEAD = auto()
    DONE = auto()
    GONE = auto()


class Action(StrEnum):
    """What can happen to it."""

    COME_DUE = auto()
    RECEIVE = auto()
    EXTEND = auto()
    CHECKPOINT = auto()
    ACK = auto()
    NACK = auto()
    RELEASE = auto()
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
        (State.LEASED, Action.DEAD_LETTER): State.DEAD,
        (State.LEASED, Action.LOSE): State.READY,
        (State.DEAD, Action.REVIVE): State.READY,
        (State.DEAD, Action.DISCARD): State.GONE,
        (State.SCHEDULED, Action.CANCEL): State.GONE,
        (State.READY, Action.CANCEL): State.GONE,
    }
)
"""Every step there is. A nack without delay passes through SCHEDULED too and is due at once."""


def after(state: State, action: Action) -> State:
    """
    Return where *action* leads from *state*.

    Raises:
        ForbiddenTransitionError: There is no such step.
    """
    try:
        return TRANSITIONS[state, action]
    except KeyError:
        raise ForbiddenTransitionError(state, action) from None


@attrs.frozen(kw_only=True)
class Counters:
    """How often an event was handed over, and how often its holder vanished."""

    attempt: int = 1
    """The number that the next hand-over bears."""

    losses: int = 0
    """Earlier hand-overs that ended without a settlement."""

    def after(self, action: Action) -> Counters:
        """Return the counters after *action*: a nack or a loss uses an attempt up, a revival starts afresh."""
        match action:
            case Action.NACK:
                return attrs.evolve(self, attempt=self.attempt + 1)
            case Action.LOSE:
                return Counters(attempt=self.attempt + 1, losses=self.losses + 1)
            case Action.REVIVE:
                return Counters()
            case _:
                return self


@attrs.frozen(kw_only=True)
class Unreadable:
    """Bytes that a transport received and that are not an envelope; they are dead-lettered, never dropped."""

    raw: bytes
    headers: Mapping[str, str] = NO_HEADERS
    why: str


@attrs.frozen(kw_only=True, eq=False)
class Delivery:
    """
    One hand-over of an envelope to one worker.

    A value without a handle: settling it is a verb of the transport. No two are equal, since each
    hand-over is its own.
    """

    envelope: Envelope | Unreadable
    queue: str
    """The queue that it was received from."""

    attempt: int = 1
    """1 on the first hand-over; releases do not count."""

    losses: int = 0
    """Earlier hand-overs that ended without a settlement: the process that held it died."""

    receipt: object
    """Opaque proof of holding it; new at each hand-over."""

    state: bytes = b""
    """What the last settlement or checkpoint said, at most 16 KiB; the core's own, never read by a transport."""

    enqueued_at: float
    """When it was sent, in seconds since the epoch."""

    def __repr__(self) -> str:
        envelope = self.envelope
        if isinstance(envelope, Envelope):
            what = f"{envelope.name} {envelope.id}"
        else:
            what = f"{len(envelope.raw)} unreadable bytes"
        return f"<Delivery of {what} from {self.queue}, attempt {self.attempt}>"


# --- how a delivery ends ---------------------------------------------------------------------------


@attrs.frozen
class Ack:
    """Done: never delivered again."""

    action = Action.ACK


@attrs.frozen(kw_only=True)
class Nack:
    """Not now: delivered again with the next attempt, not before *delay* seconds from now."""

    delay: float = 0.0
    state: bytes | None = None
    """Replaces what was kept; ``None`` leaves what the last settlement or checkpoint kept."""

    action = Action.NACK


@attrs.frozen(kw_only=True)
class DeadLetter:
    """Never: kept aside with its reason until somebody revives or discards it."""

    reason: str
    """A short code, such as ``retries-exhausted`` or ``crash-loop``."""

    error: str = ""
    """What went wrong, in words: of a failed listener its id and traceback."""

    state: bytes | None = None
    """Replaces what was kept; ``None`` leaves it."""

    action = Action.DEAD_LETTER


@attrs.frozen
class Release:
    """Not started: delivered again as if it had never been received; counters and state stay."""

    action = Action.RELEASE


@attrs.frozen(kw_only=True)
class Lost:
    """
    The process that ran it died, and whoever watched it says so: delivered again at once, and a loss more.

    What the end of a lease does by itself, without waiting for it.
    """

    state: bytes | None = None
    """Replaces what was kept; ``None`` leaves it."""

    action = Action.LOSE


Outcome = Ack | Nack | DeadLetter | Release | Lost
Settlement = tuple[Delivery, Outcome]
