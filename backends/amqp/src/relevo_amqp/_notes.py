"""
Notes of which process began which suspect, written to one stream, and read when the suspect was lost again.

A note belongs to one message, by its *key*, and to one hand-over of it, by the number of earlier hand-overs that
were lost. The note of the last hand-over counts. A note may arrive after its writer has given the event back, as after
an alarm. A second note for the same hand-over withdraws it.

A reader cannot see the end of a stream. So it publishes a marker and reads until the marker arrives. In an alarm the
server accepts neither notes nor markers; then no suspect is handed out.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs

from relevo import Note
from relevo_amqp import _header as header
from relevo_amqp._connection import Channel
from relevo_amqp._errors import NOT_FOUND, ConnectionLostError, no_answer
from relevo_amqp._header import PLAIN, NotePlace
from relevo_amqp._mapping import Message, WrittenNote
from relevo_amqp._publisher import Publisher, PublishResult

READ_WITHIN = 10.0
"""Seconds for reading the notes; the largest stream takes about four."""

MARGIN = 3600.0
"""The most seconds by which the clocks of two hosts may differ."""

_PREFETCH, _ACK_EVERY = 1000, 250
_MOST_FILTERS = 50
_MOST_OWED = 1000
_LAST = 4_000_000_000.0
"""Seconds since the epoch that every system can convert; a message with a later time has no note."""

_FILTER = "x-stream-filter-value"


@attrs.frozen
class FoundNotes:
    """
    The notes that were read.

    Args:
        written: By key and number of the hand-over: the last note as text; ``None`` if it was withdrawn.
    """

    written: Mapping[str, Mapping[int, str | None]]

    def on(self, key: str) -> WrittenNote | None:
        """Return the note that counts for the message of *key*: that of the last hand-over with one."""
        written = self.written.get(key, {})
        kept = [hand_over for hand_over, packed in written.items() if packed is not None]
        note = Note.unpacked(written[max(kept)]) if kept else None
        return None if note is None else WrittenNote(note, NotePlace(key, max(kept)))

    def at(self, place: NotePlace) -> Note | None:
        """Return the last note that was written in *place*."""
        return Note.unpacked(self.written.get(place.key, {}).get(place.hand_over))


class NoteLog:
    """
    The stream of a prefix.

    Args:
        name: The name of the stream and of its exchange.

        publisher: Publishes notes and markers.

        open_channel: Opens a channel for reading; blocking.

        timeout: Seconds for an answer of the server.

        within: Shortens a number of seconds so that it ends at the deadline.
    """

    def __init__(
        self,
        name: str,
        publisher: Publisher,
        open_channel: Callable[[], Channel],
        *,
        timeout: float,
        within: Callable[[float], float],
    ):
        self._name = name
        self._publisher = publisher
        self._open_channel = open_channel
        self._timeout = timeout
        self._within = within
        self._owed: deque[Message] = deque(maxlen=_MOST_OWED)
        """Withdrawals that are not written yet, of notes that may still arrive."""
        self._repaying = threading.Lock()
        """Held while they are written: a copy of a withdrawal must not follow a later note for the same hand-over."""

    def append(self, key: str, hand_over: int, note: Note, *, before: Note | None = None) -> None:
        """
        Write *note* and return once it is confirmed; blocking.

        Args:
            key: The key of the message.

            hand_over: The number of the hand-over.

            note: The note to write.

            before: The note of the same hand-over that counts if this one is not confirmed.

        Raises:
            ConnectionLostError: The note was not confirmed. It may arrive later; the next write restores *before*.
        """
        try:
            self._write(self._message(key, [key, hand_over, note.packed()]))
        except ConnectionLostError:
            self.withdraw(key, hand_over, before=before)
            raise

    def withdraw(self, key: str, hand_over: int, *, before: Note | None = None) -> None:
        """Withdraw the note of a hand-over with the next write; restore *before* if there is one."""
        self._owed.append(self._message(key, [key, hand_over, None if before is None else before.packed()]))

    def probe(self) -> None:
        """
        Publish an entry that readers ignore; blocking.

        Raises:
            ConnectionLostError: It was not confirmed.
        """
        batch = self._publisher.send([self._message(PLAIN, [])], unless_blocked=True, is_lasting=False)
        if batch.results[-1] is not PublishResult.CONFIRMED:
            raise ConnectionLostError(self._publisher.blocked or batch.why or "a probe was not confirmed")

    def read(self, keys: Collection[str], *, since: float) -> FoundNotes:
        """
        Return the notes on the messages of *keys*; blocking.

        Args:
            keys: The keys of messages.

            since: The earliest time at which a note can have been written, in seconds since the epoch by any clock.

        Raises:
            ConnectionLostError: The server could not be reached, or accepts no marker.
        """
        reading = _Reading(keys)
        filters = list(dict.fromkeys(map(_filter_of, keys)))
        arguments: dict[str, Any] = {"x-stream-offset": _offset(since - MARGIN)}
        if len(filters) <= _MOST_FILTERS:
            arguments["x-stream-filter"] = filters
        channel = self._open_channel()
        try:
            channel.on_lost = reading.end
            channel.on_cancel = lambda _: reading.end(ConnectionLostError(f'the stream "{self._name}" was deleted'))
            channel.call("basic_qos", prefetch_count=_PREFETCH, timeout=self._timeout)
            channel.call(
                "basic_consume",
                self._name,
                lambda _, method, __, body: reading.take(channel, method.delivery_tag, body),
                arguments=arguments,
                timeout=self._timeout,
            )
            self._write(self._message(filters[0], [reading.marker]))
            return reading.result(self._within(READ_WITHIN))
        finally:
            channel.on_lost = None
            channel.close()

    def _write(self, message: Message) -> None:
        """Write what is owed, then *message*."""
        if not self._owed:
            self._send([], message)
            return
        with self._repaying:
            owed = tuple(self._owed)
            self._send(owed, message)
            for each in owed:
                if self._owed and self._owed[0] is each:
                    self._owed.popleft()

    def _send(self, owed: Sequence[Message], message: Message) -> None:
        batch = self._publisher.send([*owed, message], unless_blocked=True)
        if batch.results[-1] is not PublishResult.CONFIRMED:
            why = self._publisher.blocked or batch.why or "a note was not confirmed"
            raise ConnectionLostError(why, code=0 if batch.homeless is None else NOT_FOUND)

    def _message(self, key: str, entry: list[Any]) -> Message:
        properties = {
            "content_type": "application/json",
            "delivery_mode": 2,
            "headers": {header.VERSION: header.WIRE_VERSION, _FILTER: _filter_of(key)},
        }
        return Message(self._name, "", properties, json.dumps(entry).encode())


class _Reading:
    """The notes that were read so far; :meth:`take` and :meth:`end` are called in the loop's thread."""

    def __init__(self, keys: Collection[str]):
        self.marker = secrets.token_hex(16)
        self._keys = frozenset(keys)
        self._found: dict[str, dict[int, str | None]] = {key: {} for key in self._keys}
        self._seen = 0
        self._ended = threading.Event()
        self._error: ConnectionLostError | None = None

    def take(self, channel: Channel, tag: int, body: bytes) -> None:
        """Add the note in *body*; ignore anything else."""
        self._seen += 1
        if self._seen % _ACK_EVERY == 0:
            channel.raw.basic_ack(tag, multiple=True)
        try:
            entry = json.loads(body)
        except (ValueError, RecursionError):
            return
        match entry:
            case [str() as marker] if marker == self.marker:
                self._ended.set()
            case [str() as key, int() as hand_over, str() | None as note] if key in self._keys:
                self._found[key][hand_over] = note

    def end(self, error: ConnectionLostError) -> None:
        """End the reading with *error*."""
        if not self._ended.is_set():
            self._error = error
            self._ended.set()

    def result(self, timeout: float) -> FoundNotes:
        """
        Wait for the marker for *timeout* seconds, and return the notes.

        Raises:
            ConnectionLostError: The marker did not come.
        """
        if not self._ended.wait(timeout):
            raise no_answer("the notes could not be read", timeout, usual=READ_WITHIN)
        if self._error is not None:
            raise self._error
        return FoundNotes(self._found)


def _offset(since: float) -> datetime:
    return datetime.fromtimestamp(min(max(0.0, since), _LAST), UTC)


def _filter_of(key: str) -> str:
    """Return the value for the server's filter; messages without a key of their own share one value."""
    return PLAIN if key.startswith(PLAIN) else key
