"""A TCP proxy on loopback that passes, swallows, or cuts what goes through it."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from urllib.parse import urlsplit

PUBLISHING = b": publish"
"""In the name that a transport gives to its connection when it opens it."""


class Proxy:
    """
    Stands between a transport and the server.

    Args:
        url: The server's.
    """

    def __init__(self, url: str):
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 5672)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        credentials, at, _ = parts.netloc.rpartition("@")
        self.url = f"{parts.scheme}://{credentials}{at}127.0.0.1:{port}{parts.path}"
        self.swallow_answers = False
        self.swallow_requests = False
        self.refuse = False
        self.refuse_publishing = False
        self.requested = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._publishing: set[socket.socket] = set()
        self._mute: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, *, publishing_only: bool = False) -> None:
        """Reset every connection, or only those that publish."""
        with self._lock:
            pairs = [pair for pair in self._pairs if pair[0] in self._publishing or not publishing_only]
            self._pairs = [pair for pair in self._pairs if pair not in pairs]
        for pair in pairs:
            for each in pair:
                with suppress(OSError):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

    def mute_publishing(self) -> None:
        """Swallow the answers to those that publish now, for the rest of their connection."""
        with self._lock:
            self._mute |= self._publishing

    def close(self) -> None:
        """Cut, and listen no more."""
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
            server = socket.create_connection(self._target)
            with self._lock:
                self._pairs.append((client, server))
            threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, request: bool) -> None:  # noqa: FBT001
        while True:
            try:
                data = source.recv(65536)
                if not data:
                    break
                if request:
                    self.requested += len(data)
                    if PUBLISHING in data:
                        self._publishing.add(source)
                        if self.refuse_publishing:
                            break
                elif target in self._mute:
                    continue
                if not (self.swallow_requests if request else self.swallow_answers):
                    target.sendall(data)
            except OSError:
                break
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
