"""
pika: its loop, connections and channels, with calls that a thread can wait for. The one module with its API.

A connection or channel that is lost is never repaired: everything about it is new after a
reconnection (channel numbers, delivery tags, the numbering of confirms), so a new object is made. All
that touches pika runs in a callback; the methods marked *blocking* are for the other threads.
"""

from __future__ import annotations

import logging
import re
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, NamedTuple, TypeVar

import pika
import pika.frame
from pika.adapters.select_connection import IOLoop, SelectConnection

from relevo_amqp._errors import HURRIED, SILENCE, ConnectionLostError, no_answer
from relevo_amqp._frame import Acks, Encoder, properties_of
from relevo_amqp._header import UNDECODABLE
from relevo_amqp._loop import GONE, Deadline, Loop
from relevo_amqp._mapping import Message
from relevo_amqp._noise import hush, quiet
from relevo_amqp._options import Address
from relevo_amqp._reply import Reply

_log = logging.getLogger("relevo.amqp")

T = TypeVar("T")


class ThreadLoop(Loop):
    """A loop with a thread of its own, the I/O thread."""

    def __init__(self, name: str, deadline: Deadline | None = None):
        super().__init__(deadline)
        self._loop = IOLoop()
        hush()
        self._thread = threading.Thread(target=self._run, name=f"relevo-amqp-{name}", daemon=True)
        self._thread.start()

    @property
    def inside(self) -> bool:
        return threading.current_thread() is self._thread

    @property
    def native(self) -> IOLoop:
        return self._loop

    def soon(self, callback: Callable[[], None]) -> None:
        self._loop.add_callback_threadsafe(callback)

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        self._loop.call_later(seconds, callback)

    def result(self, answer: Reply[T], timeout: float) -> T:
        return answer.result(timeout)

    def stop(self, timeout: float) -> None:
        self.soon(self._loop.stop)
        if not self.inside:
            self._thread.join(max(1.0, self.within(timeout)))

    def _run(self) -> None:
        try:
            with quiet:
                self._loop.start()
        except Exception:  # noqa: BLE001 - all waiting calls must end, whatever ended this thread
            _log.exception("the I/O thread of the RabbitMQ transport failed; the next call starts a new one")
        finally:
            self._ended = True
            self._discard_all(GONE)
            self._loop.close()


class _TolerantConnection(SelectConnection):  # type: ignore[misc]  # pika has no types
    """
    A connection of pika that survives headers which pika cannot decode.

    Examples are a time beyond the calendar, an invalid number, and tables nested deeper than the stack. In pika such a
    message ends every connection that receives it. Here it is received without its headers.
    """

    acks: Acks | None = None
    """Reads the confirmations, if there will be any."""

    buffers_bytes = hasattr(SelectConnection, "_on_data_available")
    """Whether this release of pika has the method that takes what was received; else pika reads confirmations."""

    writes_frames = hasattr(SelectConnection, "_output_marshaled_frames")
    """Whether this release of pika has the method that :meth:`write` needs; it has no public one."""

    def write(self, frames: bytes) -> bool:
        """Write encoded *frames*; return whether this release of pika can do so."""
        if self.writes_frames:
            self._output_marshaled_frames([frames])
        return self.writes_frames

    def _on_data_available(self, data: bytes) -> None:
        # Only at the begin of a frame; a release may keep the rest of the last one elsewhere.
        if self.acks is not None and self.buffers_bytes and getattr(self, "_frame_buffer", None) == b"":
            taken = self.acks.take(data)
            self.bytes_received += taken  # by which pika knows that the server lives
            data = data[taken:]
        if data:
            super()._on_data_available(data)

    def _read_frame(self) -> Any:
        try:
            return super()._read_frame()
        except Exception as error:
            received = _undecodable(self._frame_buffer, error)
            if received is None:
                raise
            return received


def _undecodable(data: bytes, error: Exception) -> tuple[int, Any] | None:
    """Return the size of the first frame in *data*, and the frame without its headers; ``None`` if it has none."""
    kind, channel, size = struct.unpack_from(">BHL", data)
    if kind != pika.spec.FRAME_HEADER:
        return None
    (body_size,) = struct.unpack_from(">Q", data, pika.spec.FRAME_HEADER_SIZE + 4)
    properties = pika.BasicProperties(headers={UNDECODABLE: type(error).__name__})
    end = pika.spec.FRAME_HEADER_SIZE + size + pika.spec.FRAME_END_SIZE
    return end, pika.frame.Header(channel, body_size, properties)


class Connection:
    """
    One connection to a server, from its opening to its end.

    Args:
        loop: Runs the callbacks.

        address: The server's address.

        purpose: Part of the connection's name on the server.

        heartbeat: Seconds.

        tls: How it is encrypted, if it is.
    """

    def __init__(
        self, loop: Loop, address: Address, *, purpose: str, heartbeat: int, tls: ssl.SSLContext | None = None
    ):
        self.loop = loop
        self.blocked: str | None = None
        self.lost: ConnectionLostError | None = None
        self._address = address
        self._purpose = purpose
        self._heartbeat = heartbeat
        self._tls = tls
        self._opened: Reply[None] = Reply()
        self._closed: Reply[None] = Reply()
        self._raw: Any = None

    def open(self, timeout: float) -> None:
        """
        Connect; blocking.

        Raises:
            ConnectionLostError: The connection could not be opened.
        """
        try:
            self._resolve(timeout)
            self.loop.soon(lambda: self._start(timeout))
            _wait(self._opened, timeout + 1.0, self.loop)
        except BaseException:
            self.abort()
            raise

    def _resolve(self, timeout: float) -> None:
        """Resolve the host name in a separate thread, since pika logs an error if that fails."""
        host, port = self._address.host, self._address.port
        found: Reply[None] = Reply()

        def look() -> None:
            try:
                socket.getaddrinfo(host, port)
            except (OSError, UnicodeError) as error:
                found.fail(
                    ConnectionLostError(f"the host name {host} cannot be resolved: {error}", kind=type(error).__name__)
                )
            else:
                found.set(None)

        with suppress(ValueError):
            ip_address(host)
            return
        threading.Thread(target=look, name="relevo-amqp-name", daemon=True).start()
        left = self.loop.within(timeout)
        try:
            found.result(left)
        except TimeoutError:
            raise no_answer("no answer", left, usual=timeout) from None

    @property
    def version(self) -> tuple[int, ...]:
        """The server's version; empty if the server sends none."""
        version = str((self._raw.server_properties or {}).get("version", ""))
        return tuple(int(number) for number in re.split(r"[-+]", version)[0].split(".") if number.isdigit())

    def channel(self, timeout: float) -> Channel:
        """
        Open a channel; blocking.

        Raises:
            ConnectionLostError: The connection was lost.
        """
        opened: Reply[Channel] = Reply()

        def start() -> None:
            if self.lost is not None:
                opened.fail(self.lost)
                return
            channel = Channel(self, opened)
            try:
                channel.adopt(self._raw.channel(on_open_callback=lambda _: opened.set(channel)))
            except Exception as error:  # noqa: BLE001 - the waiting call raises it
                opened.fail(_connection_lost(error))

        self.loop.soon(start)
        return self.wait(opened, timeout)

    def wait(self, answer: Reply[T], timeout: float) -> T:
        """
        Return what the server answers; blocking.

        After a timeout the state of the connection is unknown, and no call would wait for an answer that comes late.
        So the connection is cut.

        Raises:
            ConnectionLostError: The connection was lost, or the answer did not come in time.
        """
        try:
            return _wait(answer, timeout, self.loop)
        except ConnectionLostError as error:
            if error.kind in (SILENCE, HURRIED):
                self.abort()
            raise

    def last(self, seconds: float) -> None:
        """
        Wait for *seconds*, and check that the connection still exists; blocking.

        Raises:
            ConnectionLostError: The connection was lost, perhaps with the server.
        """
        if self._has_ended(max(0.0, seconds)):
            raise self.lost or GONE

    def close(self, timeout: float) -> None:
        """Close the connection and wait for the server's answer; blocking."""

        def start() -> None:
            if self._raw is None or self._raw.is_closed:
                self._closed.set(None)
            elif not self._raw.is_closing:
                self._raw.close()

        if self.blocked is not None:  # the server reads nothing, so not the close either
            self.abort(timeout)
        elif self.loop.alive:
            self.loop.soon(start)
            if not self._has_ended(self.loop.within(timeout)):
                self.abort(timeout)

    def abort(self, timeout: float = 0.0) -> None:
        """Cut the connection without a close, as the end of a process does; wait up to *timeout* seconds for it."""

        def start() -> None:
            if self._raw is None or self._raw.is_closed:
                self._closed.set(None)
                return
            self.lose(ConnectionLostError("the connection was cut"))
            # pika has no public method for it: close() waits for an answer that may never come.
            terminate = getattr(self._raw, "_terminate_stream", None)
            if terminate is not None:
                terminate(pika.exceptions.StreamLostError("cut by relevo"))
            elif not self._raw.is_closing:
                self._raw.close()

        if self.loop.inside:
            start()
        elif self.loop.alive:
            self.loop.soon(start)
            self._has_ended(self.loop.within(timeout))

    def _has_ended(self, timeout: float) -> bool:
        """Return whether the connection ended within *timeout* seconds; blocking."""
        with suppress(TimeoutError):
            self.loop.result(self._closed, timeout)
        return self._closed.is_set()

    # --- in callbacks --------------------------------------------------------------------------

    def _start(self, timeout: float) -> None:
        self.loop.watch(self)
        try:
            self._raw = _TolerantConnection(
                self._parameters(timeout),
                on_open_callback=self._on_open,
                on_open_error_callback=self._on_end,
                on_close_callback=self._on_end,
                custom_ioloop=self.loop.native,
            )
        except Exception as error:  # noqa: BLE001 - the waiting call raises it
            self.lose(_connection_lost(error))

    def _parameters(self, timeout: float) -> Any:
        address = self._address
        return pika.ConnectionParameters(
            host=address.host,
            port=address.port,
            virtual_host=address.vhost,
            credentials=pika.PlainCredentials(address.user, address.password.reveal()),
            heartbeat=self._heartbeat,
            socket_timeout=timeout,
            stack_timeout=timeout,
            ssl_options=pika.SSLOptions(self._tls, address.host) if self._tls is not None else None,
            client_properties={"connection_name": self._purpose, "product": "relevo"},
        )

    def _on_open(self, raw: Any) -> None:
        raw.add_on_connection_blocked_callback(self._on_blocked)
        raw.add_on_connection_unblocked_callback(self._on_unblocked)
        self._opened.set(None)

    def _on_blocked(self, _: Any, frame: Any) -> None:
        self.blocked = str(frame.method.reason)

    def _on_unblocked(self, *_: Any) -> None:
        self.blocked = None

    def _on_end(self, _: Any, error: BaseException) -> None:
        self.lose(_connection_lost(error))
        self._closed.set(None)

    def discard(self, error: ConnectionLostError) -> None:
        """Mark it as lost, and close the socket without the driver, whose state may be unknown."""
        raw, self._raw = self._raw, None
        self.lose(error)
        self._closed.set(None)
        for stream in _sockets_of(raw):  # else the garbage collector closes them
            stream.close()

    def lose(self, error: ConnectionLostError) -> None:
        """Mark it as lost."""
        if self.lost is None:
            self.lost = error
        self._opened.fail(error)
        self.loop.forget(self)  # last: after an interrupt the loop does the rest


def _sockets_of(raw: Any) -> Iterator[socket.socket]:
    """Yield the socket of the driver's connection *raw*: its own, or that of an attempt to connect."""
    connector = getattr(getattr(raw, "_connection_workflow", None), "_connector", None)
    attempt = getattr(getattr(connector, "_task_ref", None), "_cancel", None)  # a method of what has the socket
    for owner in (getattr(raw, "_transport", None), connector, getattr(attempt, "__self__", None)):
        stream = getattr(owner, "_sock", None)
        if isinstance(stream, socket.socket):
            yield stream


class Encoded(NamedTuple):
    """A message, and the bytes of its publish."""

    message: Message
    data: bytes


class Channel:
    """
    One channel, from its opening to its end.

    ``on_lost`` and ``on_cancel`` are called in a callback.
    """

    def __init__(self, connection: Connection, opened: Reply[Channel]):
        self.loop = connection.loop
        self.connection = connection
        self.lost: ConnectionLostError | None = None
        self.on_lost: Callable[[ConnectionLostError], None] | None = None
        self.on_cancel: Callable[[str], None] | None = None
        self.raw: Any = None
        self._waiting: set[Reply[Any]] = {opened}
        self._gets: deque[tuple[Reply[Any], Callable[[], None]]] = deque()
        """The gets without an answer, in order; pika knows of one at a time, and an interrupt leaves one behind."""
        self._encoder: Encoder | None = None

    def adopt(self, raw: Any) -> None:
        """Use pika's channel *raw*; in a callback."""
        self.raw = raw
        raw.add_on_close_callback(lambda _, error: self.lose(_connection_lost(error)))
        raw.add_on_cancel_callback(self._on_server_cancel)
        raw.add_callback(self._on_empty, [pika.spec.Basic.GetEmpty], one_shot=False)
        self.loop.watch(self)

    def call(self, method: str, *args: Any, timeout: float, **kwargs: Any) -> Any:
        """
        Call pika's *method*, and return the server's answer; blocking.

        Raises:
            ConnectionLostError: The channel was lost, or the answer did not come in time.
        """
        try:
            return self._run(
                lambda answer: getattr(self.raw, method)(
                    *args, callback=lambda frame: self._answer(answer, frame), **kwargs
                ),
                timeout,
            )
        except ConnectionLostError as error:
            if method not in _OF_QUEUES:
                raise
            raise _of_queue(error, args[0]) from error

    def get(self, queue: str, on_got: Callable[[int], None], timeout: float) -> tuple[int, Any, bytes] | None:
        """
        Take one message from *queue*, or ``None`` if it is empty; blocking.

        Args:
            queue: The server's name.

            on_got: Called with the delivery tag, in a callback and so in the order of tags.

            timeout: Seconds.

        Raises:
            ConnectionLostError: As :meth:`call`.
        """

        def ask() -> None:
            self.raw.basic_get(
                queue, lambda _, method, properties, body: self._on_message(on_got, method, properties, body)
            )

        def start(answer: Reply[Any]) -> None:
            self._gets.append((answer, ask))
            if len(self._gets) == 1:
                ask()

        try:
            result: tuple[int, Any, bytes] | None = self._run(start, timeout)
        except ConnectionLostError as error:
            raise _of_queue(error, queue) from error
        return result

    def consume(
        self,
        queue: str,
        receive: Callable[..., None],
        *,
        tag: str,
        prefetch: int,
        begun: Callable[[], None],
        timeout: float,
    ) -> None:
        """
        Start a consumer; blocking.

        Args:
            queue: The server's name.

            receive: Called by pika with each message, in a callback.

            tag: The name of the consumer on this channel.

            prefetch: How many of its messages may be unacked.

            begun: Called in the callback that starts it. So the caller knows of it exactly if the server does, also
                after an interrupt.

            timeout: Seconds.

        Raises:
            ConnectionLostError: As :meth:`call`.
        """

        def start(answer: Reply[Any]) -> None:
            self.raw.basic_qos(prefetch_count=prefetch)
            self.raw.basic_consume(queue, receive, consumer_tag=tag, callback=lambda frame: self._answer(answer, frame))
            begun()

        try:
            self._run(start, timeout)
        except ConnectionLostError as error:
            raise _of_queue(error, queue) from error

    def cancel(self, tag: str, timeout: float, *, ended: Callable[[], None] = lambda: None) -> None:
        """
        Cancel a consumer; messages that are on their way still arrive; blocking.

        Args:
            tag: The name of the consumer on this channel.

            timeout: Seconds.

            ended: Called in the callback that learns of its end, see :meth:`consume`.

        Raises:
            ConnectionLostError: As :meth:`call`.
        """

        def on_answer(answer: Reply[Any], frame: Any) -> None:
            ended()
            self._answer(answer, frame)

        def start(answer: Reply[Any]) -> None:
            if tag not in self.raw.consumer_tags:  # the server cancelled it, and pika would never call back
                on_answer(answer, None)
                return
            self.raw.basic_cancel(tag, callback=lambda frame: on_answer(answer, frame))
            # pika rejects messages that arrive before the answer to the cancel; the server would count a failure.
            getattr(self.raw, "_cancelled", set()).discard(tag)

        self._run(start, timeout)

    def confirm(
        self,
        on_confirm: Callable[[int, bool, bool], None],
        on_return: Callable[[Any, Any, bytes], None],
        timeout: float,
    ) -> None:
        """
        Turn on publisher confirms; blocking.

        Args:
            on_confirm: Called with a delivery tag, whether all earlier tags are included, and whether the server
                accepted them.

            on_return: Called with a message that could not be routed: the answer, the properties, the body.

            timeout: Seconds.

        Raises:
            ConnectionLostError: As :meth:`call`.
        """

        def on_answer(frame: Any) -> None:
            on_confirm(frame.method.delivery_tag, frame.method.multiple, isinstance(frame.method, pika.spec.Basic.Ack))

        def start(answer: Reply[Any]) -> None:
            self.raw.add_on_return_callback(lambda _, method, properties, body: on_return(method, properties, body))
            self.raw.confirm_delivery(on_answer, callback=lambda frame: self._answer(answer, frame))
            self.raw.connection.acks = Acks(
                self.raw.channel_number,
                lambda tag, multiple: on_confirm(tag, multiple, True),  # noqa: FBT003 - its type has no names
            )

        self._run(start, timeout)

    def encoded(self, message: Message) -> Encoded:
        """Return *message* as :meth:`publish` takes it; an error of pika's if it cannot be encoded."""
        if self._encoder is None:
            self._encoder = Encoder(self.raw.channel_number, self.raw.connection.params.frame_max)
        return Encoded(message, self._encoder.encoded(message))

    def publish(self, encoded: Sequence[Encoded]) -> None:
        """Publish messages, in one write if pika allows it; in a callback."""
        if not self.raw.connection.write(b"".join(each.data for each in encoded)):
            for message, _ in encoded:
                self.raw.basic_publish(
                    message.exchange, message.key, message.body, properties_of(message.properties), mandatory=True
                )

    def commit(self, answered: Callable[[], None]) -> None:
        """Commit the acks that were sent, and call *answered* when the server did it; in a callback."""
        self.raw.tx_commit(lambda _: self.loop.soon(answered))

    def cut(self) -> None:
        """Cut the connection of a silent server, and mark it as lost at once, before the loop cuts it."""
        if self.connection.lost is None:
            self.connection.lost = ConnectionLostError("the connection was cut")
        self.connection.abort()

    def close(self) -> None:
        """Close the channel without waiting; the server gets back what it held."""

        def start() -> None:
            if self.raw.is_open:
                self.raw.close()

        if self.loop.alive:
            self.loop.soon(start)

    # --- in callbacks --------------------------------------------------------------------------

    def _run(self, start: Callable[[Reply[Any]], None], timeout: float) -> Any:
        answer: Reply[Any] = Reply()

        def begin() -> None:
            if self.lost is not None:
                answer.fail(self.lost)
                return
            self._waiting.add(answer)
            try:
                start(answer)
            except Exception as error:  # noqa: BLE001 - the waiting call raises it
                self._waiting.discard(answer)
                answer.fail(_connection_lost(error))

        self.loop.soon(begin)
        return self.connection.wait(answer, timeout)

    def _answer(self, answer: Reply[Any], frame: Any) -> None:
        self._waiting.discard(answer)
        answer.set(frame)

    def _on_message(self, on_got: Callable[[int], None], method: Any, properties: Any, body: bytes) -> None:
        on_got(method.delivery_tag)
        self._got((method.delivery_tag, properties, body))

    def _on_empty(self, _: Any) -> None:
        self._got(None)

    def _got(self, message: tuple[int, Any, bytes] | None) -> None:
        answer, _ = self._gets.popleft()
        self._answer(answer, message)
        if self._gets:
            _, ask = self._gets[0]
            ask()

    def _on_server_cancel(self, frame: Any) -> None:
        if self.on_cancel is not None:
            self.on_cancel(frame.method.consumer_tag)

    def discard(self, error: ConnectionLostError) -> None:
        """Mark the channel as lost."""
        self.lose(error)

    def lose(self, error: ConnectionLostError) -> None:
        """Mark the channel as lost, and end all waiting calls."""
        if self.lost is None:
            self.lost = error
        for answer in self._waiting:
            answer.fail(self.lost)
        self._waiting.clear()
        if self.on_lost is not None:
            self.on_lost(self.lost)
            self.on_lost = None
        self.loop.forget(self)  # last: after an interrupt the loop does the rest


# --- answers and errors -------------------------------------------------------------------------------


def _wait(answer: Reply[T], timeout: float, loop: Loop) -> T:
    """Return the value of *answer*; raise an error if the loop ends or no answer comes."""
    left = loop.within(timeout)
    try:
        return loop.result(answer, left)
    except TimeoutError:
        if not loop.alive:
            raise GONE from None
        raise no_answer("no answer", left, usual=timeout) from None


_OF_QUEUES = frozenset({"basic_consume", "queue_declare", "queue_bind"})
"""The methods whose first argument is the name of a queue on the server."""


def _of_queue(error: ConnectionLostError, name: str) -> ConnectionLostError:
    """Return *error* with the name of the queue that did not answer: the connection may still work."""
    if error.kind != SILENCE:
        return error
    why = (
        f'{error.why} from the queue "{name}"; if other queues answer, this one may have lost its data; '
        f"run relevo check --live"
    )
    return ConnectionLostError(why, kind=SILENCE)


def _connection_lost(error: BaseException) -> ConnectionLostError:
    """Translate pika's *error*; while connecting, pika wraps the cause several times."""
    inner: Any = error
    while True:
        nested = getattr(inner, "exceptions", None) or getattr(inner, "exception", None)
        if nested is None and isinstance(inner, pika.exceptions.AMQPConnectionError) and inner.args:
            nested = inner.args[0]
        if isinstance(nested, (list, tuple)) and nested:
            nested = nested[-1]
        if not isinstance(nested, BaseException):
            break
        inner = nested
    code = getattr(inner, "reply_code", 0)
    text = getattr(inner, "reply_text", "") or str(inner) or type(inner).__name__
    if not code and (answer := _ANSWER.search(text)):  # refused while connecting: pika keeps only the answer's text
        code, text = int(answer[1]), answer[2]
    lost = ConnectionLostError(f"{code} {text}" if code else text, code=code, kind=type(inner).__name__)
    lost.__cause__ = error
    return lost


_ANSWER = re.compile(r"ConnectionClosedByBroker: \((\d{3})\) ['\"](.*)['\"]", re.DOTALL)
