"""
Publish with confirms: a window of messages in flight, each with one of four results.

The connection has no thread: the threads that send also read the confirmations, see
:class:`relevo_amqp._loop.CallerLoop`.

A message is *confirmed*, *refused* (not accepted or not routable), *unsent* (the connection was lost before) or
*unknown* (sent, and the answer is missing). Confirms come out of order, and a return comes before the confirm of the
same message, so a table holds the messages in flight.
"""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

from relevo_amqp._connection import Channel, Connection, Encoded
from relevo_amqp._errors import ACCESS_REFUSED, HURRIED, NOT_FOUND, ConnectionLostError
from relevo_amqp._loop import CallerLoop, Loop
from relevo_amqp._mapping import Message

NOT_TAKEN = (
    "the server refused it: a target queue is full, as with a policy of max-length, or has lost its data; "
    "run relevo check --live"
)


class PublishResult(IntEnum):
    """The result of publishing a message."""

    CONFIRMED = 1
    REFUSED = 2
    UNKNOWN = 3
    UNSENT = 4


_LONGEST_WRITE = 64 * 1024
"""Bytes of messages that are joined to one write."""

_OF_EXCHANGES = frozenset({NOT_FOUND, ACCESS_REFUSED})
"""The codes with which the server ends a channel because of the exchange of a message."""

_TURN_AFTER = 1.0
"""The most seconds without a look at the connection while nothing is sent."""


class PublishBatch:
    """Messages that one caller waits for."""

    def __init__(self, messages: Sequence[Message], channel: Channel | None = None):
        self.messages = messages
        self.channel = channel
        self.results: list[PublishResult | None] = [None] * len(messages)
        self.why = ""
        self.homeless: int | None = None
        """The position of the first message that no queue is bound for."""
        self.begun = 0
        self.open = len(messages)
        self.progress = time.monotonic()

    def is_done(self) -> bool:
        """Return whether each message has a result."""
        return not self.open

    def exchange(self, position: int) -> str:
        """Return the exchange of the message at *position*."""
        return self.messages[position].exchange

    def settle(self, position: int, result: PublishResult, why: str = "") -> None:
        """Set the result of the message at *position*, unless it has one."""
        if self.results[position] is not None:
            return
        self.results[position] = result
        self.why = self.why or why
        self.open -= 1

    def turn_away(self, position: int, why: str) -> None:
        """Refuse the message at *position*, which no queue is bound for."""
        if self.results[position] is None and self.homeless is None:
            self.homeless = position
        self.settle(position, PublishResult.REFUSED, why)

    def give_up(self, why: str) -> None:
        """End the batch because of *why*: messages that were not begun are unsent, those in flight are unknown."""
        for position, result in enumerate(self.results):
            if result is None:
                self.settle(position, PublishResult.UNKNOWN if position < self.begun else PublishResult.UNSENT, why)
        self.open = 0

    def doubt(self, why: str) -> None:
        """Turn confirmed messages into unknown ones, because of *why*."""
        for position in self.positions(PublishResult.CONFIRMED):
            self.results[position] = PublishResult.UNKNOWN
        self.why = self.why or why

    def positions(self, result: PublishResult) -> tuple[int, ...]:
        """Return the positions of the messages with this *result*."""
        return tuple(position for position, each in enumerate(self.results) if each is result)


class Publisher:
    """
    Publishes over one connection, opened when it is needed.

    Args:
        loop: Runs the callbacks of the connection.

        keeper: Its thread looks at the connection while nothing is sent, for heartbeats.

        connect: Opens a connection whose callbacks a loop runs; blocking.

        window: The largest number of messages in flight.

        timeout: Seconds without any confirmation after which they are given up.

        heartbeat: Seconds.

        answer_within: Seconds for the opening of a channel.

        wait_until_durable: Called with the channel after a confirmation; returns when what was confirmed survives a
            crash of the server, and raises :class:`ConnectionLostError` if it may be lost.
    """

    def __init__(
        self,
        loop: CallerLoop,
        keeper: Loop,
        connect: Callable[[Loop], Connection],
        *,
        window: int,
        timeout: float,
        heartbeat: float,
        answer_within: float,
        wait_until_durable: Callable[[Channel], None],
    ):
        self._loop = loop
        self._keeper = keeper
        self._heartbeat = heartbeat
        self._connect = connect
        self._window = window
        self._timeout = timeout
        self._answer_within = answer_within
        self._wait_until_durable = wait_until_durable
        self._opening = threading.RLock()
        self._opener: int | None = None
        """The thread that holds :attr:`_opening`."""
        self._failure: ConnectionLostError | None = None
        """Why the last attempt to connect failed, if it did."""
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._kept = False
        """Whether a look at the connection is due; in callbacks of the keeper only."""

        # In callbacks only:
        self._waiting: deque[PublishBatch] = deque()
        self._flying: dict[int, tuple[PublishBatch, int]] = {}
        self._tag = 0
        self._working: set[str] = set()
        """The exchanges that accepted a message on this channel."""
        self._tried: set[str] = set()
        """Those to which one was sent."""

    @property
    def is_proven(self) -> bool:
        """Whether the server has confirmed a message on the current connection."""
        channel = self._channel
        return channel is not None and channel.lost is None and bool(self._working)

    @property
    def blocked(self) -> str | None:
        """Why the server has stopped taking events; ``None`` if it has not, as far as this process knows."""
        connection = self._connection
        reason = None if connection is None or connection.lost is not None else connection.blocked
        return None if reason is None else f"the server has stopped taking events: {reason}"

    def send(
        self, messages: Sequence[Message], *, unless_blocked: bool = False, is_lasting: bool = True
    ) -> PublishBatch:
        """
        Publish *messages* and return the result of each; blocking.

        Args:
            messages: What to publish.

            unless_blocked: Send nothing, and stop waiting, once the server has stopped taking events. Messages that
                were sent before that was known have no result yet, see :meth:`wait`.

            is_lasting: Wait also until confirmed messages survive a crash of the server.

        Raises:
            ConnectionLostError: The server could not be reached; nothing was sent.
        """
        if not messages:
            return PublishBatch(messages)
        if self._loop.inside or self._opener == threading.get_ident():
            return self._send_aside(messages, unless_blocked=unless_blocked, is_lasting=is_lasting)
        channel = self._open_channel()
        if unless_blocked and (why := self.blocked) is not None:
            raise ConnectionLostError(why)
        batch = PublishBatch(messages, channel)
        try:
            self._loop.soon(lambda: self._take(batch, channel))
            if is_lasting:
                self.wait(batch, unless_blocked=unless_blocked)
            else:
                self._wait_for_results(batch, unless_blocked=unless_blocked)
        except BaseException:
            batch.give_up("the thread that sent it was interrupted")  # what waits for room is not sent
            raise
        return batch

    def _send_aside(self, messages: Sequence[Message], *, unless_blocked: bool, is_lasting: bool) -> PublishBatch:
        """Publish over another connection: a handler of a signal interrupted a send of the same thread."""
        aside = Publisher(
            CallerLoop(self._loop.deadline),
            self._keeper,
            self._connect,
            window=self._window,
            timeout=self._timeout,
            heartbeat=self._heartbeat,
            answer_within=self._answer_within,
            wait_until_durable=self._wait_until_durable,
        )
        try:
            return aside.send(messages, unless_blocked=unless_blocked, is_lasting=is_lasting)
        finally:
            aside.close(self._answer_within)

    def wait(self, batch: PublishBatch, *, unless_blocked: bool) -> None:
        """Wait until all of *batch* have a result or, with *unless_blocked*, the server takes no events; blocking."""
        self._wait_for_results(batch, unless_blocked=unless_blocked)
        if batch.channel is not None and batch.is_done():
            try:
                self._wait_until_durable(batch.channel)
            except ConnectionLostError as error:
                batch.doubt(error.why)

    def _wait_for_results(self, batch: PublishBatch, *, unless_blocked: bool) -> None:
        channel = batch.channel

        def is_over() -> bool:
            return not batch.open or (unless_blocked and self.blocked is not None)

        def is_over_or_lost() -> bool:
            return is_over() or (channel is not None and channel.lost is not None)

        while True:
            left = min(batch.progress + self._timeout, self._loop.deadline.at) - time.monotonic()
            self._loop.wait(is_over_or_lost, left)
            if is_over():
                return
            if not self._loop.alive:
                self._loop.run(lambda: batch.give_up("the transport was closed"))
            elif channel is not None and channel.lost is not None:
                # As a rule the loss has ended the batch by then; an interrupt can end a callback before that.
                self._loop.run(functools.partial(batch.give_up, channel.lost.why))
            elif time.monotonic() >= min(batch.progress + self._timeout, self._loop.deadline.at):
                self._loop.run(lambda: self._time_out(batch))

    def close(self, timeout: float) -> None:
        """Close the connection; blocking."""
        with self._opening:
            if self._connection is not None:
                self._connection.close(timeout)
        self._loop.stop(timeout)

    def abort(self, timeout: float) -> None:
        """Cut the connection; blocking."""
        if self._connection is not None:
            self._connection.abort(timeout)
        self._loop.stop(timeout)

    def _open_channel(self) -> Channel:
        """Return an open channel; one thread at a time opens it, and those that wait for it share its failure."""
        known = self._failure
        with self._opening:
            failure = self._failure
            if failure is not known and failure is not None:
                raise failure.again()
            self._opener = threading.get_ident()
            try:
                return self._opened()
            except ConnectionLostError as error:
                if error.kind != HURRIED:  # others may have more time
                    self._failure = error.again()
                raise
            finally:
                self._opener = None

    def _opened(self) -> Channel:
        connection, channel = self._connection, self._channel
        if connection is not None and not self._flying:
            self._loop.look()  # it may have ended while nothing was sent
        if connection is None or connection.lost is not None:
            connection = self._connection = self._connect(self._loop)
            self._keeper.soon(self._keep)
        elif channel is not None and channel.lost is None:
            return channel
        channel = connection.channel(self._answer_within)
        channel.on_lost = lambda error: self._on_lost(channel, error)
        channel.confirm(
            lambda tag, multiple, taken: self._on_confirm(channel, tag, multiple=multiple, taken=taken),
            self._on_return,
            self._answer_within,
        )
        self._loop.soon(lambda: self._begin(channel))
        return channel

    # --- in callbacks of the keeper --------------------------------------------------------------------

    def _keep(self) -> None:
        """Look at the connection from now on, until it is closed."""
        if not self._kept:
            self._kept = True
            self._keeper.watch(self)
            self._keeper.later(min(_TURN_AFTER, self._heartbeat / 4), self._look)

    def _look(self) -> None:
        self._loop.look()
        if self._loop.connected:
            self._keeper.later(min(_TURN_AFTER, self._heartbeat / 4), self._look)
        else:
            self._kept = False
            self._keeper.forget(self)

    def discard(self, error: ConnectionLostError) -> None:
        """End the connection, since nothing answers the server's heartbeats any more."""
        self.abort(0.0)

    # --- in callbacks ----------------------------------------------------------------------------------

    def _begin(self, channel: Channel) -> None:
        self._channel = channel
        self._tag = 0
        self._working, self._tried = set(), set()

    def _take(self, batch: PublishBatch, channel: Channel) -> None:
        if channel.lost is not None:
            batch.give_up(channel.lost.why)
            return
        batch.progress = time.monotonic()
        self._waiting.append(batch)
        self._pump()

    def _pump(self) -> None:
        """Publish waiting messages, as far as the window has room."""
        waiting, channel = self._waiting, self._channel
        while waiting and len(self._flying) < self._window and channel is not None and channel.lost is None:
            batch = waiting[0]
            if not batch.open or batch.begun >= len(batch.messages):
                waiting.popleft()
            elif not self._publish(batch, channel):
                return

    def _publish(self, batch: PublishBatch, channel: Channel) -> bool:
        """
        Publish the next messages of *batch*, in one write.

        The first message to an exchange flies alone until it is confirmed. If the exchange is missing, the server ends
        the channel without the number of a message, and those that fly together have an unknown result.

        Returns:
            Whether to go on; not before such a message is confirmed.
        """
        encoded: list[Encoded] = []
        size = 0
        goes_on = True
        while batch.begun < len(batch.messages) and len(self._flying) < self._window and size < _LONGEST_WRITE:
            position = batch.begun
            exchange = batch.exchange(position)
            if exchange not in self._working and exchange in self._tried:
                goes_on = False
                break
            batch.begun += 1
            try:
                encoded.append(channel.encoded(batch.messages[position]))
            except Exception as error:  # noqa: BLE001 - pika's encoder raises many kinds
                batch.settle(position, PublishResult.REFUSED, f"it cannot be encoded: {error!r}")
                continue
            size += len(encoded[-1].data)
            self._tag += 1
            self._flying[self._tag] = (batch, position)
            self._tried.add(exchange)
        if encoded:
            channel.publish(encoded)
            self._loop.flush()  # the server begins while the next ones are encoded
        return goes_on

    def _on_confirm(self, channel: Channel, tag: int, *, multiple: bool, taken: bool) -> None:
        if channel is not self._channel:
            return
        flying = self._flying
        result = PublishResult.CONFIRMED if taken else PublishResult.REFUSED
        why = "" if taken else NOT_TAKEN
        if multiple:
            tags = []
            for each in flying:
                if each > tag:
                    break
                tags.append(each)
        else:
            tags = [tag] if tag in flying else []
        now = time.monotonic()
        for each in tags:
            batch, position = flying[each]
            batch.progress = now
            batch.settle(position, result, why)
            del flying[each]
            self._working.add(batch.exchange(position))
        for batch in self._waiting:
            batch.progress = now
        if self._waiting:
            self._pump()

    def _on_return(self, method: Any, properties: Any, body: bytes) -> None:
        """Refuse the first message in flight that equals the returned one: returns come in publishing order."""
        for batch, position in self._flying.values():
            message = batch.messages[position]
            if (
                message.key == method.routing_key
                and message.exchange == method.exchange
                and message.properties.get("message_id") == properties.message_id
                and message.body == body
                and batch.results[position] is None
            ):
                batch.turn_away(position, f"no queue is bound for it ({method.reply_text})")
                return

    def _on_lost(self, channel: Channel, error: ConnectionLostError) -> None:
        if channel is not self._channel:
            return
        named = {exchange for exchange in self._tried if error.code in _OF_EXCHANGES and f"'{exchange}'" in error.why}
        flying = tuple(self._flying.values())
        # The server names an exchange that is missing, or that this user may not write to. It ends the channel at the
        # first message to it, and accepts none after that. So the last one was not accepted; earlier ones may have
        # been, before the exchange was deleted or the permission withdrawn.
        last = max((at for at, (batch, position) in enumerate(flying) if batch.exchange(position) in named), default=-1)
        for at, (batch, position) in enumerate(flying):
            if at == last:
                self._refuse(batch, position, error)
            else:
                batch.settle(position, PublishResult.UNKNOWN, error.why)
        self._flying = {}
        while self._waiting:
            batch = self._waiting[0]
            for position in range(batch.begun, len(batch.messages)):
                if batch.exchange(position) in named:
                    self._refuse(batch, position, error)
            batch.give_up(error.why)
            self._waiting.popleft()

    def _refuse(self, batch: PublishBatch, position: int, error: ConnectionLostError) -> None:
        """Refuse a message whose exchange is missing, or may not be written to."""
        if error.code == NOT_FOUND:
            batch.turn_away(position, error.why)
        else:
            why = f"{error.why}; this user needs the permission to write to it"
            batch.settle(position, PublishResult.REFUSED, why)

    def _time_out(self, batch: PublishBatch) -> None:
        if not batch.open:  # the last confirmation has just come
            return
        connection, channel = self._connection, batch.channel
        now = time.monotonic()
        late = min(self._timeout, now - batch.progress)
        why = self.blocked or f"no confirmation in {late:.3g} s"
        is_silent = now >= batch.progress + self._timeout
        if (
            channel is not None
            and channel is self._channel
            and connection is not None
            and (is_silent or not self._serves_others(batch))
        ):
            connection.abort()  # what is in flight must not arrive later
            channel.lose(ConnectionLostError(why))
        batch.give_up(why)

    def _serves_others(self, batch: PublishBatch) -> bool:
        """Return whether callers with more time than that of *batch* wait for the same connection."""
        others = itertools.chain(self._waiting, (each for each, _ in self._flying.values()))
        return any(each.open and each is not batch for each in others)
