"""
Move events: publish each to another queue, only once, before it is acked.

While the server accepts no events, as during a memory alarm, a publish may stay unconfirmed for minutes. A second
move of the same event waits for that publish instead of sending another copy.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

import attrs

from relevo_amqp._errors import ConnectionLostError
from relevo_amqp._mapping import Message
from relevo_amqp._publisher import PublishBatch, Publisher, PublishResult
from relevo_amqp._subscription import Receipt


@attrs.frozen
class MoveResult:
    """The result of a move."""

    confirmed: frozenset[Receipt]
    refused: bool = False
    """Whether the server refused one of the others, or could not route it."""

    why: str = ""
    """Why not all are confirmed."""

    is_lost: bool = False
    """Whether the connection was lost, or could not be opened."""


class Mover:
    """
    Publishes moved events, but none while the server accepts no events.

    A server reports an alarm only after the first publish on a connection, and accepts that message when the alarm is
    over. So the first message is a probe; an event would leave a copy of itself for each process.

    Args:
        publisher: Publishes the messages.

        probe: Publishes a message that is not an event.
    """

    def __init__(self, publisher: Publisher, probe: Callable[[], None]):
        self._publisher = publisher
        self._probe = probe
        self._lock = threading.Lock()
        self._open: dict[Receipt, tuple[PublishBatch, int]] = {}
        """The messages that were published and have no result yet."""

    def move(self, messages: Mapping[Receipt, Message]) -> MoveResult:
        """Publish those of *messages* that are not published yet, and return the result; blocking."""
        with self._lock:
            self._open = {key: entry for key, entry in self._open.items() if key in messages or entry[0].open}
            before = {key: self._open.pop(key) for key in messages if key in self._open}
        for batch, _ in before.values():
            self._publisher.wait(batch, unless_blocked=True)
        results = {key: batch.results[position] for key, (batch, position) in before.items()}
        waiting = [key for key, result in results.items() if result is None]
        confirmed = {key for key, result in results.items() if result is PublishResult.CONFIRMED}
        fresh = [key for key in messages if key not in confirmed and key not in waiting]
        why, refused = "", False
        if fresh and not self._publisher.is_proven:
            with suppress(ConnectionLostError):  # the send below raises it
                self._probe()
        try:
            batch = self._publisher.send([messages[key] for key in fresh], unless_blocked=True)
        except ConnectionLostError as error:
            why = error.why
        else:
            confirmed.update(fresh[position] for position in batch.positions(PublishResult.CONFIRMED))
            refused = bool(batch.positions(PublishResult.REFUSED))
            why = batch.why
            before |= {key: (batch, position) for position, key in enumerate(fresh) if batch.results[position] is None}
        with self._lock:
            self._open |= {key: entry for key, entry in before.items() if entry[0].results[entry[1]] is None}
        blocked = self._publisher.blocked
        is_lost = len(confirmed) < len(messages) and not refused and blocked is None
        return MoveResult(frozenset(confirmed), refused, why or blocked or "no confirmation yet", is_lost)
