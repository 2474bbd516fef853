"""Whatever answers in the place of the management plugin ends in a report or in an error, and takes little memory."""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from relevo_amqp import _management
from relevo_amqp._management import Management, ManagementError
from relevo_amqp._options import Address

ADDRESS = Address.parse("amqp://me:pw@127.0.0.1/")
QUEUES = "?columns="
STATUS = "/status"

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def answering(answer: Answer) -> Iterator[Management]:
    """Return a plugin whose requests *answer* answers."""

    class Plugin(BaseHTTPRequestHandler):
        """Answers with what the test gives."""

        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            answer(self)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Plugin) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            yield Management(ADDRESS, f"http://127.0.0.1:{web.server_port}", timeout=30.0, known_within=0.0)
        finally:
            web.shutdown()
            thread.join()


def saying(body: bytes, *, status: int = 200, about: str = "") -> Answer:
    """Return an answer with *body* to requests whose path contains *about*, and a sound one to the others."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        is_it = about in request.path
        sound = b'[{"Raft State": "leader"}]' if STATUS in request.path else b'{"effective_policy_definition": {}}'
        said = body if is_it else sound
        request.send_response(status if is_it else 200)
        request.send_header("Content-Length", str(len(said)))
        request.end_headers()
        request.wfile.write(said)

    return answer


NOT_ABOUT_QUEUES = {
    "no JSON": b"<html>",
    "nothing": b"",
    "not UTF-8": b'["\xff"]',
    "too deep": b"[" * 100_000,
    "too deep a table": b'{"a":' * 100_000,
    "too many digits": b"9" * 5000,
    "a text": b'"leader"',
    "no value": b"null",
    "a list of texts": b'["leader"]',
    "a list of lists": b'[[["Raft State", "leader"]]]',
}


@pytest.mark.parametrize("about", [STATUS, QUEUES])
@pytest.mark.parametrize("body", NOT_ABOUT_QUEUES.values(), ids=NOT_ABOUT_QUEUES)
def test_an_answer_that_is_not_about_queues_is_refused(body: bytes, about: str) -> None:
    with answering(saying(body, about=about)) as management, pytest.raises(ManagementError) as caught:
        management.problems(["q"]) if about == STATUS else management.held(["q"])

    assert "is not a management plugin: its answer is not about queues" in str(caught.value)
    assert "set the option management" in str(caught.value)


def test_an_answer_that_was_cut_off_is_no_answer() -> None:
    def cut(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "100")
        request.end_headers()
        request.wfile.write(b"[{")

    with answering(cut) as management, pytest.raises(ManagementError, match="does not answer: IncompleteRead"):
        management.problems(["q"])


@pytest.mark.parametrize("body", [b"[]", b'[{"name": "q"}]', b"7"])
def test_an_answer_about_one_queue_that_is_no_table_is_refused(body: bytes) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        saying(body if STATUS not in request.path else b'[{"Raft State": "leader"}]')(request)

    with answering(answer) as management, pytest.raises(ManagementError, match="is not about queues"):
        management.problems(["q"])


DEFINITIONS = {
    "an empty list, as old releases write it": ([], []),
    "a list": (["max-length"], []),
    "a text": ("max-length", []),
    "a number": (7, []),
    "a policy": ({"max-length": 7, "other": 1}, ["max-length = 7 "]),
    "a table as a value": ({"expires": {"a": [1]}}, ["expires = a value of another type "]),
    "a long value": ({"dead-letter-exchange": "x" * 9000}, [f"dead-letter-exchange = {'x' * 300} "]),
    "an integer of 4,000 digits": ({"max-length": 10**4000}, ["max-length = 1" + "0" * 299]),
}


@pytest.mark.parametrize("definition, expected", DEFINITIONS.values(), ids=DEFINITIONS)
def test_the_definition_of_a_policy_may_have_any_type(definition: object, expected: list[str]) -> None:
    queue = {"effective_policy_definition": definition, "policy": ["p"], "operator_policy": "o" * 9000}

    def answer(request: BaseHTTPRequestHandler) -> None:
        saying(b'[{"Raft State": "leader"}]' if STATUS in request.path else json.dumps(queue).encode())(request)

    with answering(answer) as management:
        found = management.problems(["q"])

    assert len(found) == len(expected)
    assert all(part in text for part, text in zip(expected, found, strict=True))
    assert all(f'the operator policy "{"o" * 300}": ' in text for text in found)


@pytest.mark.parametrize("members", ["[]", '[{"Raft State": ["leader"]}]', '[{"Raft State": null}]', "[{}]"])
def test_a_member_of_unknown_state_is_no_leader(members: str) -> None:
    with answering(saying(members.encode(), about=STATUS)) as management:
        (problem,) = management.problems(["q"])

    assert "has no leader" in problem


def test_only_numbers_of_messages_that_a_queue_can_have_are_counted() -> None:
    numbers = [3, 0, -1, "4", None, [5], 1.5, 2**63, 10**4000]
    queues = [{"name": "q.a", "messages": each} for each in numbers]
    names: list[object] = [7, None, ["q.b"], {"q.b": 1}]
    queues += [{"name": each, "messages": 9} for each in names]

    with answering(saying(json.dumps(queues).encode())) as management:
        assert management.held(["q."]) == {"a": 3}


@pytest.fixture(name="limit")
def _limit(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(_management, "_LARGEST", 1 << 20)
    return 1 << 20


def endless(request: BaseHTTPRequestHandler) -> None:
    """Send a body without an end."""
    request.send_response(200)
    request.end_headers()
    with_what(request, b" " * 65536)


def endless_chunk(request: BaseHTTPRequestHandler) -> None:
    """Send a chunk of a negative length, after which ``read(size)`` would read everything."""
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    with_what(request, b"-1\r\n" + b" " * 65536)


def with_what(request: BaseHTTPRequestHandler, block: bytes) -> None:
    """Send *block* until the client is gone, or has been sent far more than it may take."""
    try:
        for _ in range(2000):
            request.wfile.write(block)
    except OSError:
        return


@pytest.mark.parametrize("answer", [endless, endless_chunk])
def test_an_answer_without_an_end_is_read_up_to_the_limit(answer: Answer, limit: int) -> None:
    with answering(answer) as management:
        tracemalloc.start()
        try:
            with pytest.raises(ManagementError) as caught:
                management.held(["q"])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert "not a management plugin" in str(caught.value) or "does not answer" in str(caught.value)
    assert peak < 8 * limit


def test_an_answer_of_the_largest_size_is_read(limit: int) -> None:
    body = b"[]" + b" " * (limit - 2)

    with answering(saying(body)) as management:
        assert management.held(["q"]) == {}
    with (
        answering(saying(body + b" ")) as management,
        pytest.raises(ManagementError, match="its answer has more than 1 MiB"),
    ):
        management.held(["q"])


def test_a_long_reason_is_cut() -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302, "x" * 60_000)
        request.send_header("Content-Length", "0")
        request.end_headers()

    with answering(answer) as management, pytest.raises(ManagementError) as caught:
        management.held(["q"])

    assert f"302 {'x' * 300};" in str(caught.value)
