"""The proxy does to a connection what a bad network does, and only when told."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from relevo_conformance.fault import Fault
from relevo_conformance.fault.proxy import Proxy, Request

SOON = 60.0
"""Seconds in which loopback answers, also when the machine pauses."""

A_WHILE = 0.2
"""Seconds in which it would have."""


@pytest.fixture(name="heard")
def _heard() -> list[bytes]:
    """Give what the server was asked."""
    return []


@pytest.fixture(name="server")
def _server(heard: list[bytes]) -> Iterator[int]:
    """Give the port of a server that answers with what it was asked."""
    listener = socket.create_server(("127.0.0.1", 0))

    def echo(client: socket.socket) -> None:
        with suppress(OSError), client:
            while data := client.recv(1024):
                heard.append(data)
                client.sendall(data)

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    with suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture(name="proxy")
def _proxy(server: int) -> Iterator[Proxy]:
    proxy = Proxy(f"echo://me:secret@127.0.0.1:{server}/path?key=1", marks=lambda data: b"publish" in data)
    yield proxy
    proxy.close()


@pytest.fixture(name="connect")
def _connect(proxy: Proxy) -> Iterator[type[Client]]:
    Client.proxy = proxy
    yield Client
    for client in Client.all:
        client.socket.close()
    Client.all.clear()


class Client:
    """Asks, and hears or not."""

    proxy: Proxy
    all: list[Client] = []  # noqa: RUF012 - closed and emptied by the fixture

    def __init__(self) -> None:
        port = int(self.proxy.url.rpartition(":")[2].partition("/")[0])
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=SOON)
        self.all.append(self)

    def says(self, words: bytes) -> bytes:
        """Return the answer; nothing if the connection is at its end, and then close it."""
        answer = b""
        try:
            self.socket.sendall(words)
            answer = self.socket.recv(1024)
        except TimeoutError:
            raise
        except OSError:
            pass
        if not answer:
            self.socket.close()
        return answer


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_passes_everything_on(connect: type[Client]) -> None:
    assert connect().says(b"hello") == b"hello"


def test_its_url_is_that_of_the_server_but_for_the_place(proxy: Proxy, server: int) -> None:
    assert proxy.url.startswith("echo://me:secret@127.0.0.1:")
    assert proxy.url.endswith("/path?key=1")
    assert f":{server}/" not in proxy.url


def test_a_url_without_a_port_needs_one(server: int) -> None:
    with pytest.raises(ValueError, match="pass one as port="):
        Proxy("echo://127.0.0.1")

    Proxy("echo://127.0.0.1", port=server).close()


def test_a_cut_ends_every_connection_and_the_next_one_is_let_in(proxy: Proxy, connect: type[Client]) -> None:
    before = connect()
    assert before.says(b"hello") == b"hello"

    proxy.cut()

    assert before.says(b"again") == b""
    assert connect().says(b"hello") == b"hello"


def test_a_cut_of_the_marked_leaves_the_others(proxy: Proxy, connect: type[Client]) -> None:
    marked, other = connect(), connect()
    assert (marked.says(b"I publish"), other.says(b"hello")) == (b"I publish", b"hello")

    proxy.cut(marked_only=True)

    assert (marked.says(b"again"), other.says(b"again")) == (b"", b"again")


def test_requests_are_swallowed_while_it_is_told_to(proxy: Proxy, connect: type[Client]) -> None:
    client = connect()
    assert client.says(b"hello") == b"hello"

    proxy.swallow_requests = True
    client.socket.settimeout(A_WHILE)
    requested = proxy.requested
    with pytest.raises(TimeoutError):
        client.says(b"lost")
    wait_until(lambda: proxy.requested == requested + len(b"lost"))
    proxy.swallow_requests = False
    client.socket.settimeout(SOON)

    assert client.says(b"again") == b"again"


def test_answers_are_swallowed_after_the_request_has_arrived(proxy: Proxy, connect: type[Client]) -> None:
    client = connect()
    requested = proxy.requested

    proxy.swallow_answers = True
    client.socket.settimeout(A_WHILE)
    with pytest.raises(TimeoutError):
        client.says(b"heard")

    wait_until(lambda: proxy.requested == requested + len(b"heard"))


def test_the_marked_are_muted_for_the_rest_of_their_connection(proxy: Proxy, connect: type[Client]) -> None:
    marked, other = connect(), connect()
    marked.says(b"I publish")

    proxy.mute_marked()
    marked.socket.settimeout(A_WHILE)
    with pytest.raises(TimeoutError):
        marked.says(b"again")

    assert other.says(b"hello") == b"hello"
    assert connect().says(b"I publish") == b"I publish"


def test_nobody_is_let_in_while_it_refuses(proxy: Proxy, connect: type[Client]) -> None:
    proxy.refuse = True

    assert connect().says(b"hello") == b""


def test_only_the_marked_are_refused_if_it_is_told_so(proxy: Proxy, connect: type[Client]) -> None:
    proxy.refuse_marked = True

    assert connect().says(b"I publish") == b""
    assert connect().says(b"hello") == b"hello"


def test_what_is_delayed_arrives_all_the_same(proxy: Proxy, connect: type[Client]) -> None:
    proxy.delay = 2 * A_WHILE
    client = connect()
    began = time.monotonic()

    assert client.says(b"slow") == b"slow"

    assert time.monotonic() - began >= 2 * proxy.delay  # there and back


def test_a_server_that_is_gone_ends_the_connection(connect: type[Client]) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    connect.proxy = Proxy(f"echo://127.0.0.1:{port}")

    assert connect().says(b"hello") == b""
    connect.proxy.close()


# --- one write that fails --------------------------------------------------------------------------


class Words:
    """Splits at full stops; capitals write, and an exclamation makes it last."""

    def __init__(self) -> None:
        self._rest = b""

    def __call__(self, data: bytes) -> Iterator[Request]:
        *whole, self._rest = (self._rest + data).split(b".")
        for word in whole:
            yield Request(word + b".", writes=word[:1].isupper(), lasting=word.endswith(b"!"))


@pytest.fixture(name="splitting")
def _splitting(server: int, connect: type[Client]) -> Iterator[Proxy]:
    proxy = connect.proxy = Proxy(f"echo://127.0.0.1:{server}", splits=Words)
    yield proxy
    proxy.close()


def test_what_is_not_whole_is_not_passed_on(splitting: Proxy, connect: type[Client], heard: list[bytes]) -> None:
    client = connect()
    client.socket.sendall(b"hello.wor")

    assert client.socket.recv(1024) == b"hello."
    assert client.says(b"ld.") == b"world."
    assert b"".join(heard) == b"hello.world."


def test_a_connection_ends_before_the_write_that_was_meant(
    splitting: Proxy, connect: type[Client], heard: list[bytes]
) -> None:
    client, other = connect(), connect()

    with splitting.broken(Fault("before", 2)):
        assert client.says(b"look.") == b"look."
        assert client.says(b"One.") == b"One."
        assert client.says(b"Two.Three.") == b""

    assert b"".join(heard) == b"look.One."
    assert other.says(b"Two.") == b"Two."


def test_a_connection_ends_after_the_write_that_was_meant_and_the_answer_with_it(
    splitting: Proxy, connect: type[Client], heard: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relevo_conformance.fault.proxy._EFFECT", SOON)  # the server answers, however late
    client = connect()

    with splitting.broken(Fault("after", 1)):
        assert client.says(b"One.Two.") == b""

    assert b"".join(heard) == b"One."


class SlowToSend(Proxy):
    """Goes on after a write only when its answer was discarded, or has had the time to reach the client."""

    def _ask(self, request: Request, client: socket.socket, server: Any) -> None:
        class Server:
            shutdown = server.shutdown

            @staticmethod
            def sendall(data: bytes) -> None:
                server.sendall(data)
                self._swallowed.wait(A_WHILE)

        slow: Any = Server()
        super()._ask(request, client, slow)


def test_an_answer_that_is_quicker_than_the_proxy_is_lost_too(server: int, connect: type[Client]) -> None:
    proxy = connect.proxy = SlowToSend(f"echo://127.0.0.1:{server}", splits=Words)
    client = connect()

    with proxy.broken(Fault("after", 1)):
        assert client.says(b"One.") == b""

    proxy.close()


def test_a_write_has_had_its_effect_when_the_connection_ends_after_it(
    connect: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relevo_conformance.fault.proxy._EFFECT", SOON)  # this server answers when it is done
    done = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener.accept()[0] as client:
            client.recv(1024)
            threading.Event().wait(A_WHILE / 2)
            done.set()
            client.sendall(b"done")
            client.recv(1024)

    thread = threading.Thread(target=serve)
    thread.start()
    connect.proxy = Proxy(f"echo://127.0.0.1:{listener.getsockname()[1]}", splits=Words)
    client = connect()

    with connect.proxy.broken(Fault("after", 1)):
        assert client.says(b"One.") == b""
        was_done = done.is_set()

    assert was_done
    thread.join(SOON)
    listener.close()
    connect.proxy.close()


def test_the_write_that_makes_the_others_last_can_be_meant(
    splitting: Proxy, connect: type[Client], heard: list[bytes]
) -> None:
    client = connect()

    with splitting.broken(Fault("before", None)):
        assert client.says(b"One.") == b"One."
        assert client.says(b"Two!.") == b""

    assert b"".join(heard) == b"One."


def test_one_write_fails_and_no_other(splitting: Proxy, connect: type[Client]) -> None:
    client, other = connect(), connect()

    with splitting.broken(Fault("before", 1)):
        assert client.says(b"One.") == b""
        assert other.says(b"One.") == b"One."


def test_what_was_not_met_is_over_when_it_is_mended(splitting: Proxy, connect: type[Client]) -> None:
    client = connect()

    with splitting.broken(Fault("before", 2)):
        assert client.says(b"One.") == b"One."

    assert client.says(b"Two.") == b"Two."


def test_a_fault_is_over_when_the_client_has_noticed_it(
    splitting: Proxy, connect: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relevo_conformance.fault.proxy._FAREWELL", SOON)
    client = connect()
    noticed = threading.Event()

    def slow() -> None:
        assert client.socket.recv(1024) == b""
        threading.Event().wait(A_WHILE)
        noticed.set()
        client.socket.close()

    with splitting.broken(Fault("before", 1)):
        client.socket.sendall(b"One.")
        thread = threading.Thread(target=slow)
        thread.start()
        assert splitting.met.wait(SOON)

    assert noticed.is_set()
    thread.join(SOON)
