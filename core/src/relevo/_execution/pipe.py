"""Messages between a parent and its child process, length-prefixed, over a socket pair."""

from __future__ import annotations

import socket
from collections import deque
from typing import Literal

import msgspec

from relevo._transport.delivery import Ack, DeadLetter, Delivery, Failure, Lost, Nack, Outcome, Release, Unreadable
from relevo._transport.envelope import Envelope
from relevo.errors import DecodeError, EncodeError
from relevo.wire import pack, unpack

CUT_OFF = 86
"""The exit status of a child that cannot reach its parent, since a listener closed the connection."""

_LENGTH = 4
_LONGEST = 256 << 20
_CHUNK = 1 << 16


class Hello(msgspec.Struct, array_like=True, tag=True):
    """The first message of a parent: which application to create."""

    path: list[str]
    """The value of ``sys.path``."""

    app: str | None
    """``module:name``, if the application is in a module."""

    config: str | None
    """The file of the configuration, if there is one; otherwise the environment alone is read."""

    transport: str
    time_limit: float
    log_levels: dict[str, int]
    """By the name of a logger, the root's with an empty name; empty if logging is not configured."""


class Ready(msgspec.Struct, array_like=True, tag=True):
    """A child's answer to :class:`Hello`, once it can begin."""

    listeners: list[str]
    """The events and ids of its listeners."""

    plugins: list[str] = []
    """The names of its plugins with hooks that are called where listeners run."""

    subjects: list[str] = []
    """The names of its subject types."""


class Failed(msgspec.Struct, array_like=True, tag=True):
    """The other answer: the child cannot begin."""

    why: str


class OverLimit(msgspec.Struct, array_like=True, frozen=True):
    """A listener that exceeded its time limit in a child that was killed."""

    listener_id: str
    limit: float
    frames: list[tuple[str, int, str]]
    """Where it was: file, line and function, the innermost last; empty if that is not known."""

    output: str
    """The last output of the child."""


class Work(msgspec.Struct, array_like=True, tag=True):
    """A delivery; its receipt only for a transactional listener."""

    number: int
    envelope: bytes
    """As :func:`relevo.wire.pack` encodes it."""

    queue: str
    attempt: int
    lost_leases: int
    state: bytes
    enqueued_at: float
    over_limit: OverLimit | None = None
    """It counts as failed and is not called again."""

    receipt: bytes = b""
    """As :meth:`TransactionalHandling.exported_receipt` returns it."""


class Progressed(msgspec.Struct, array_like=True, tag=True):
    """The progress of the delivery; the parent stores it and answers."""

    state: bytes


class Runs(msgspec.Struct, array_like=True, tag=True):
    """Which listener of an event that was lost before is about to run; the parent stores it and answers."""

    listener_id: str


class Answer(msgspec.Struct, array_like=True, tag=True):
    """The answer to :class:`Progressed` or :class:`Runs`."""

    is_held: bool
    """The worker still holds the delivery."""

    problem: str = ""


class ProcessChange(msgspec.Struct, array_like=True, frozen=True):
    """A change that a listener made to its process."""

    listener_id: str
    name: str
    """The part that was changed; each is logged once per listener."""

    text: str
    """The description of that part."""

    fate: Literal["restored", "replaced", "kept"]
    """The consequence: the change is undone, the process is replaced, or the change stays."""


class Ended(msgspec.Struct, array_like=True, tag=True):
    """How a delivery ended."""

    number: int
    outcome: str
    delay: float = 0.0
    state: bytes | None = None
    reason: str = ""
    error: str = ""
    death: str | None = None
    changes: list[ProcessChange] = []
    """The changes that its listeners made to the process."""

    failures: tuple[Failure, ...] = ()

    @property
    def is_last(self) -> bool:
        """Whether the process must not get another delivery."""
        return any(each.fate == "replaced" for each in self.changes)


Message = Hello | Ready | Failed | Work | Progressed | Runs | Answer | Ended


class GarbledError(Exception):
    """Raised when the received bytes are not a valid message."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


def frame_of(message: Message) -> bytes:
    """
    Return *message* as bytes, preceded by its length.

    Raises:
        EncodeError: It holds a value that MessagePack cannot carry, or is too long.
    """
    name = type(message).__name__
    try:
        data = _encode(message)
    except (UnicodeEncodeError, OverflowError, TypeError) as error:
        raise EncodeError(name, "$", str(error)) from error
    if len(data) > _LONGEST:
        raise EncodeError(name, "$", f"expected at most {_LONGEST:,} bytes for a child process; got {len(data):,}")
    return len(data).to_bytes(_LENGTH, "big") + data


class Pipe:
    """One end; any thread may send, only one may receive."""

    def __init__(self, end: socket.socket):
        self.socket = end
        self._buffer = bytearray()
        self._come: deque[Message] = deque()

    def send(self, message: Message) -> None:
        """
        Send *message*.

        Raises:
            OSError: The other end is gone.
        """
        self.send_frame(frame_of(message))

    def send_frame(self, frame: bytes) -> None:
        """
        Send *frame*, which :func:`frame_of` made.

        Raises:
            OSError: The other end is gone.
        """
        self.socket.sendall(frame)

    def receive(self) -> Message | None:
        """Wait for the next message and return it; ``None`` if the other end is gone."""
        while not self._come:
            if not self.feed():
                return None
        return self._come.popleft()

    def come(self) -> deque[Message]:
        """Return the messages that have come; the caller removes those that it has handled."""
        return self._come

    def feed(self) -> bool:
        """
        Receive what comes next, after a wait if nothing is there; return whether more can come.

        Raises:
            GarbledError: It is not a valid message.
        """
        try:
            data = self.socket.recv(_CHUNK)
        except ConnectionError:
            return False
        if not data:
            return False
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _LENGTH:
            length = int.from_bytes(buffer[:_LENGTH], "big")
            if length > _LONGEST:
                raise GarbledError
            if len(buffer) < _LENGTH + length:
                break
            try:
                self._come.append(_decode(buffer[_LENGTH : _LENGTH + length]))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise GarbledError from error
            del buffer[: _LENGTH + length]
        return True

    def close(self) -> None:
        """Close this end."""
        self.socket.close()


# --- deliveries and outcomes --------------------------------------------------------------------------


def work_of(delivery: Delivery, envelope: Envelope, number: int, *, receipt: bytes = b"") -> Work:
    """
    Return what a child needs to handle *delivery*; *receipt* is that of the delivery as bytes, if it needs that.

    Raises:
        EncodeError: *envelope* cannot be packed.
    """
    return Work(
        number,
        pack(envelope),
        delivery.queue,
        delivery.attempt,
        delivery.lost_leases,
        delivery.state,
        delivery.enqueued_at,
        receipt=receipt,
    )


def delivery_of(work: Work) -> Delivery:
    """Return the delivery that :func:`work_of` was given; its receipt is the one in bytes."""
    envelope: Envelope | Unreadable
    try:
        envelope = unpack(work.envelope)
    except DecodeError as error:  # an exception here would end the child, and the next one with the same work
        envelope = Unreadable(raw=work.envelope, why=str(error))
    return Delivery(
        envelope=envelope,
        queue=work.queue,
        attempt=work.attempt,
        lost_leases=work.lost_leases,
        receipt=work.receipt,
        state=work.state,
        enqueued_at=work.enqueued_at,
    )


def ended_of(outcome: Outcome, number: int) -> Ended:
    """Return *outcome* as a message."""
    if isinstance(outcome, Nack):
        return Ended(number, "nack", delay=outcome.delay, state=outcome.state, reason=str(outcome.reason))
    if isinstance(outcome, DeadLetter):
        reason, error, failures = str(outcome.reason), outcome.error, outcome.failures
        return Ended(number, "dead", state=outcome.state, reason=reason, error=error, failures=failures)
    if isinstance(outcome, Lost):
        return Ended(number, "lost", state=outcome.state, error=outcome.error, death=outcome.death)
    if isinstance(outcome, Release):
        return Ended(number, "release", delay=outcome.delay)
    return Ended(number, "ack")


def outcome_of(ended: Ended) -> Outcome:
    """
    Return the outcome that :func:`ended_of` was given.

    Raises:
        GarbledError: It is not a message.
    """
    if ended.outcome == "ack":
        return Ack()
    if ended.outcome == "nack":
        return Nack(delay=ended.delay, state=ended.state, reason=ended.reason)
    if ended.outcome == "dead":
        return DeadLetter(reason=ended.reason, error=ended.error, state=ended.state, failures=ended.failures)
    if ended.outcome == "lost":
        return Lost(state=ended.state, error=ended.error, death=ended.death)
    if ended.outcome == "release":
        return Release(delay=ended.delay)
    raise GarbledError
