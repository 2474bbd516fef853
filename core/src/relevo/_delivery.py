"""What a transport hands out, and how that ends; ``relevo._life`` says what may follow on what."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from relevo._envelope import NO_HEADERS, Envelope

MAX_STATE = 16 * 1024
"""The longest ``state`` in bytes that every transport keeps."""

MAX_LEASE = 7 * 86_400.0
"""The longest lease in seconds; a transport may shorten a longer one to this."""

MAX_ERROR = 16 * 1024
"""The longest ``error`` of a dead letter in bytes of UTF-8; what calls a transport cuts it."""


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
        of = self.envelope
        what = f"{of.name} {of.id}" if isinstance(of, Envelope) else f"{len(of.raw)} unreadable bytes"
        return f"<Delivery of {what} from {self.queue}, attempt {self.attempt}>"


# --- how a delivery ends ---------------------------------------------------------------------------


@attrs.frozen
class Ack:
    """Done: never delivered again."""


@attrs.frozen(kw_only=True)
class Nack:
    """Not now: delivered again with the next attempt, not before *delay* seconds from now."""

    delay: float = 0.0
    state: bytes | None = None
    """Replaces what was kept; ``None`` leaves what the last settlement or checkpoint kept."""


@attrs.frozen(kw_only=True)
class DeadLetter:
    """Never: kept aside with its reason until somebody revives or discards it."""

    reason: str
    """A short code, such as ``retries-exhausted`` or ``crash-loop``."""

    error: str = ""
    """What went wrong, in words: of a failed listener its id and traceback."""

    state: bytes | None = None
    """Replaces what was kept; ``None`` leaves it."""


@attrs.frozen
class Release:
    """Not started: delivered again as if it had never been received; counters and state stay."""


@attrs.frozen(kw_only=True)
class Lost:
    """
    The process that ran it died, and whoever watched it says so: delivered again at once, and a loss more.

    What the end of a lease does by itself, without waiting for it.
    """

    state: bytes | None = None
    """Replaces what was kept; ``None`` leaves it."""

    error: str = ""
    """How it died, in words, for those who look on; no transport keeps it."""


Outcome = Ack | Nack | DeadLetter | Release | Lost
Settlement = tuple[Delivery, Outcome]
