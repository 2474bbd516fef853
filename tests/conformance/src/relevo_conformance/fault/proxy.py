"""A TCP proxy on loopback that passes, swallows, delays, refuses or cuts what goes through it, or ends at one write."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import attrs

from relevo_conformance.fault._countdown import Countdown, Fault

_CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)
"""Linger for no time: the other side gets a reset instead of an orderly end."""

_NONE = Fault(at=0)
"""A fault that no write matches."""

_EFFECT = 0.3
"""Seconds after which a request without an answer is assumed to have had its effect."""

_FAREWELL = 2.0
"""Seconds within which a client notices that its connection ended."""


@attrs.frozen
class Request:
    """A part of a client's data, which arrives as a whole or not at all."""

    data: bytes

    writes: bool = False
    """Whether it may change something at the server."""

    lasting: bool = False
    """Whether it makes writes durable, as a commit does."""


Split = Callable[[bytes], Iterable[Request]]
"""Takes the next data of one connection, and returns all requests that are complete with it."""


def _unsplit(data: bytes) -> Iterable[Request]:
    return (Request(data),)


class Proxy:
    """
    Stands between a transport and its server.

    It knows no protocol. *marks* identify kinds of connections, such as those of a sender and those of a receiver,
    and *splits* find the requests. TLS passes, but then the server's
    name does not match its certificate, and there are no requests to find.

    Args:
        url: The URL of the server.

        port: The port of the server, if *url* has none.

        marks: Whether these bytes mark the connection of the client that sends them; by default none do.

        splits: Called for each connection; returns a function that finds its requests. Without it :meth:`broken`
            breaks nothing.
    """

    def __init__(
        self,
        url: str,
        *,
        port: int | None = None,
        marks: Callable[[bytes], bool] = lambda data: False,
        splits: Callable[[], Split] = lambda: _unsplit,
    ):
        parts = urlsplit(url)
        target = parts.port or port
        if target is None:
            raise ValueError(f"{parts.scheme}://{parts.hostname} has no port; pass one as port=")
        self._target = (parts.hostname or "127.0.0.1", target)
        self._marks = marks
        self._splits = splits
        self._listener = socket.create_server(("127.0.0.1", 0))
        credentials, at, _ = parts.netloc.rpartition("@")
        place = f"{credentials}{at}127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = parts._replace(netloc=place).geturl()
        """The URL of the server with the address of the proxy."""

        self.swallow_requests = False
        self.swallow_answers = False
        self.refuse = False
        """New connections are refused."""

        self.refuse_marked = False
        """A connection ends at the moment when it would be marked."""

        self.delay = 0.0
        """Seconds by which all data is delayed, in both directions."""

        self.requested = 0
        """The number of bytes that clients have sent so far."""

        self.met = threading.Event()
        """Set when the write that fails was reached; cleared by each new fault."""

        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._marked: set[socket.socket] = set()
        self._mute: set[socket.socket] = set()
        self._ending: set[socket.socket] = set()
        self._is_broken = False
        self._countdown = Countdown(_NONE)
        self._breaking = threading.Lock()
        self._swallowed = threading.Event()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, *, marked_only: bool = False) -> None:
        """Reset every connection, or only those that are marked."""
        with self._lock:
            pairs = [pair for pair in self._pairs if pair[0] in self._marked or not marked_only]
            self._pairs = [pair for pair in self._pairs if pair not in pairs]
        for pair in pairs:
            for each in pair:
                with suppress(OSError):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

    def mute_marked(self) -> None:
        """Discard the answers to the connections that are marked now, until they end."""
        with self._lock:
            self._mute |= self._marked

    @contextmanager
    def broken(self, fault: Fault) -> Iterator[None]:
        """
        End a connection at one write; at the end of the block connections work again.

        Args:
            fault: Which write. *before*: the server never gets it. *after*: the server has executed it, and the answer
                is lost with the connection.
        """
        with self._breaking:
            self._countdown, self._is_broken = Countdown(fault), True
            self.met.clear()
        try:
            yield
        finally:
            with self._breaking:
                self._countdown, self._is_broken = Countdown(_NONE), False

    def close(self) -> None:
        """Cut all connections, and stop listening."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refuse:
                client.close()
                continue
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            for each in (client, server):  # small writes are sent at once, as a client's are
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.append((client, server))
            threading.Thread(target=self._pass_requests, args=(client, server), daemon=True).start()
            threading.Thread(target=self._pass_answers, args=(server, client), daemon=True).start()

    def _pass_requests(self, client: socket.socket, server: socket.socket) -> None:
        split = self._splits()

        def request(data: bytes) -> None:
            self.requested += len(data)
            if self._marks(data):
                with self._lock:
                    self._marked.add(client)
                if self.refuse_marked:
                    raise ConnectionRefusedError
            if not self.swallow_requests:
                for one in split(data):
                    self._ask(one, client, server)

        self._pass(client, server, request)

    def _pass_answers(self, server: socket.socket, client: socket.socket) -> None:
        def answer(data: bytes) -> None:
            if client in self._mute:
                self._swallowed.set()
            elif not self.swallow_answers:
                client.sendall(data)

        self._pass(server, client, answer)

    def _ask(self, request: Request, client: socket.socket, server: socket.socket) -> None:
        """Pass *request* on, unless it is the write that fails."""
        if not (self._is_broken and request.writes):
            server.sendall(request.data)
            return
        with self._breaking:  # the end of the block waits until the connection has ended
            countdown = self._countdown
            if countdown.begins(lasting=request.lasting):
                self._end(client, server)
            is_last = countdown.ends(lasting=request.lasting)
            if is_last:  # mute first: an answer may be quicker than this thread
                self._swallowed.clear()
                with self._lock:
                    self._mute.add(client)
            server.sendall(request.data)
            if is_last:
                self._swallowed.wait(_EFFECT)
                self._end(client, server)

    def _end(self, client: socket.socket, server: socket.socket) -> None:
        """
        End both sides, and wait until the client has noticed it.

        Raises:
            ConnectionAbortedError: Always.
        """
        self.met.set()
        with self._lock:
            self._ending.add(client)
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
            client.shutdown(socket.SHUT_WR)
            client.settimeout(_FAREWELL)
            while client.recv(_CHUNK):
                pass
            client.shutdown(socket.SHUT_RD)
        raise ConnectionAbortedError

    def _pass(self, source: socket.socket, target: socket.socket, deliver: Callable[[bytes], None]) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                if self.delay:
                    time.sleep(self.delay)
                deliver(data)
        for each in (source, target):
            if each not in self._ending:  # _end() shuts that one down
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
