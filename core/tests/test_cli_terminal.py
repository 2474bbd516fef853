"""What events hold of others' text reaches neither the terminal as a control character nor as a line of its own."""

from __future__ import annotations

import logging
import re
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from relevo import App, Envelope
from relevo._log_line import LogLineFormatter, log_to_stderr
from relevo._transport.delivery import Note
from relevo._transport.query import EventGroup, StuckKey, StuckKeys, WaitingEntry
from relevo._transport.transport import DeadLetterEntry
from relevo._worker.progress import ListenerProgress, Progress, Raised, dumped
from relevo_memory import MemoryTransport

from .shop import Done, Shop, opened

NASTY = "\n\r\t\x0b\x0c\x1c\x00\x1b\x7f\x85\x9b\u2028\u2029\u202a\u202e\u2066\u2069\ud800 a:\\\"'"
TEXT = st.text(st.one_of(st.sampled_from(NASTY), st.characters()), max_size=12)
FORGED = "x\nrelevo: all is well\r\x1b[2J\u202e"

FIELDS = (
    *("id", "source", "name", "queue", "ordering_key", "body"),
    *("ref", "reason", "error", "cursor", "by"),
    *("listener", "why", "last", "kind", "traceback"),
)
"""All text that a store keeps or returns."""

COMMANDS = (
    *("dead list", "dead list --by reason", "dead list --by event", "dead list --by listener", "dead list --by queue"),
    *("dead show r", "dead discard r --yes", "dead revive r"),
    *("list", "list --by event", "show 1", "status", "handle 1"),
)


@attrs.frozen
class Texts:
    """A text for each field."""

    of: dict[str, str]

    @property
    def envelope(self) -> Envelope:
        return Envelope(
            id=self.of["id"],
            source=self.of["source"],
            name=self.of["name"],
            queue=self.of["queue"],
            ordering_key=self.of["ordering_key"],
            body=self.of["body"].encode("utf-8", "surrogatepass"),
        )

    @property
    def state(self) -> bytes:
        listener, why, last, kind, trace = (
            self.of[key].encode("utf-8", "replace").decode() for key in ("listener", "why", "last", "kind", "traceback")
        )
        progress = ListenerProgress("dead", 1, 0.0, why, last)
        return dumped(Progress(1, listeners={listener: progress}, raised={listener: Raised(kind, trace)}))

    @property
    def entry(self) -> DeadLetterEntry:
        return DeadLetterEntry(
            ref=f"r{self.of['ref']}",
            queue=self.of["queue"],
            envelope=self.envelope,
            reason=self.of["reason"],
            error=self.of["error"],
            state=self.state,
            attempt=1,
            lost_leases=0,
            enqueued_at=0.0,
            died_at=0.0,
        )

    @property
    def waiting(self) -> WaitingEntry:
        return WaitingEntry(
            queue=self.of["queue"],
            envelope=self.envelope,
            status="scheduled",
            attempt=1,
            lost_leases=0,
            state=self.state,
            enqueued_at=0.0,
            cursor=self.of["cursor"],
            begun=Note(by=self.of["by"], deaths=(), listener=self.of["listener"]),
        )

    def group(self, key: str) -> EventGroup:
        return EventGroup(key=self.of[{"event": "name"}.get(key, key)], count=1, oldest=0.0, newest=0.0)


class Forged(MemoryTransport):
    """A store that another program has written to."""

    texts: Texts

    def dead_letters(self, queues: Sequence[str], *, after: str | None = None, **_: Any) -> Sequence[DeadLetterEntry]:
        return [] if after is not None else [self.texts.entry]

    def matching_dead_letters(self, queues: Sequence[str], **how: Any) -> Sequence[DeadLetterEntry]:
        return self.dead_letters(queues, after=how["after"])

    def dead_letter_groups(self, queues: Sequence[str], *, by: str, **_: Any) -> Sequence[EventGroup]:
        return [self.texts.group(by)]

    def waiting(self, queues: Sequence[str], *, after: str | None = None, **_: Any) -> Sequence[WaitingEntry]:
        return [] if after is not None else [self.texts.waiting]

    def waiting_groups(self, queues: Sequence[str], *, by: str, **_: Any) -> Sequence[EventGroup]:
        return [self.texts.group(by)]

    def find(self, event_id: str) -> Sequence[WaitingEntry]:
        return [self.texts.waiting]

    def stuck_keys(self, queues: Sequence[str], *, longer: float = 0.0, limit: int = 10) -> StuckKeys:
        key = self.texts.of["ordering_key"]
        stuck = StuckKey(queue=self.texts.of["queue"], key=key, waiting=1, since=0.0, first=self.texts.waiting)
        return StuckKeys(keys=(stuck,), total=1)


@pytest.fixture(name="shop", scope="module")
def _shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder: Path = tmp_path_factory.mktemp("forged")
    yield Shop(folder)
    sys.modules.pop("forged_shop", None)


def ran(shop: Shop, command: str, texts: Texts) -> Done:
    """Run *command* in an application whose store holds *texts*."""
    module: Any = types.ModuleType("forged_shop")
    store = Forged()
    store.texts = texts
    module.app = App(transports={"main": store}, routes={"*": "main"}, source="shop")
    sys.modules["forged_shop"] = module
    done = shop.run(f"-a forged_shop:app {command}")
    assert "Traceback" not in done.stderr
    return done


def printed(done: Done) -> list[str]:
    """Return the lines that *done* printed."""
    return (done.stdout + done.stderr).split("\n")


PLAIN = Texts(dict.fromkeys(FIELDS, "x"))


@pytest.mark.lengthy("tries many cases")
@pytest.mark.parametrize("command", COMMANDS)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@example(texts=Texts(dict.fromkeys(FIELDS, FORGED)))
@given(texts=st.fixed_dictionaries(dict.fromkeys(FIELDS, TEXT)).map(Texts))
def test_no_text_adds_a_line_or_a_control_character(command: str, texts: Texts, shop: Shop) -> None:
    expected, found = (printed(ran(shop, command, each)) for each in (PLAIN, texts))

    assert all(line.isprintable() for line in found)
    if "show" in command:  # an error and a body may have several lines, which are indented
        expected, found = ([line for line in lines if line[:1] != " " and line] for lines in (expected, found))
    assert len(found) <= len(expected)


@pytest.mark.lengthy("tries many cases")
@pytest.mark.parametrize("command", COMMANDS)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@example(texts=Texts(dict.fromkeys(FIELDS, FORGED)))
@given(texts=st.fixed_dictionaries(dict.fromkeys(FIELDS, TEXT)).map(Texts))
def test_a_document_is_valid_whatever_text_there_is(command: str, texts: Texts, shop: Shop) -> None:
    document = ran(shop, f"{command} --json", texts).stdout

    msgspec.json.decode(document)  # stricter than Python's own: no lone surrogates
    assert all(line.isprintable() for line in document.split("\n"))


PRINTING = """
import relevo, sys

@relevo.listener("text.printed")
def write(event):
    print("mine\\x1b[2J\\rrelevo: forged\\u202e\\tend\\r", file=getattr(sys, event["to"]))
"""


@pytest.mark.slow("starts the command line and its child processes")
@pytest.mark.parametrize("to", ["stdout", "stderr"])
def test_what_a_child_process_prints_is_escaped(to: str, tmp_path: Path) -> None:
    shop = opened(tmp_path)
    shop.write("shop_listeners.py", PRINTING)
    shop.run(f'dispatch text.printed \'{{"to": "{to}"}}\'')

    done = shop.process("RELEVO_EXECUTION=process relevo drain")

    assert re.fullmatch(r"\[\d\] mine\\x1b\[2J\\rrelevo: forged\\u202e +end\n", done.stderr)
    assert done.returncode == 0


def test_a_log_line_with_a_stack_is_one_line_and_indented_ones(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    error = ValueError("one\nrelevo: forged\x1b")

    try:
        log_to_stderr("INFO")
        logging.getLogger("shop").error("a\nb\x1b", exc_info=error, stack_info=True)
    finally:
        root.setLevel(level)

    first, *others = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert first.endswith(r"ERROR shop: a\nb\x1b")
    assert all(line.startswith("  ") and line.isprintable() for line in others)
    assert r"  relevo: forged\x1b" in others


WRITING = """
import os, pathlib, relevo

@relevo.listener("text.printed")
def write(event):
    os.write(1, b"x")
    os.system("echo child")

try:
    found = os.readlink("/proc/self/fd/1")
except OSError:
    found = "closed"
pathlib.Path("found").write_text(found)
"""


@pytest.mark.slow("starts the command line in a process of its own")
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system has no /proc")
def test_what_is_written_to_a_closed_descriptor_reaches_no_other_file(tmp_path: Path) -> None:
    shop = opened(tmp_path)
    shop.write("shop_listeners.py", WRITING)
    shop.run("dispatch text.printed")

    done = shop.process("relevo drain >&-")

    assert (done.returncode, done.stderr) == (0, "")
    assert tmp_path.joinpath("found").read_text() == "/dev/null"


def test_a_log_line_has_no_password_even_if_another_handler_wrote_the_traceback_first() -> None:
    error = ConnectionError("amqp://me:hunter2@broker.example/\x1b is down")
    message, given = "%s cannot be reached", ("postgresql://me:hunter3@db.example/shop",)
    record = logging.LogRecord("shop", logging.ERROR, "x.py", 1, message, given, (type(error), error, None))
    record.stack_info = "url = 'mariadb://me:hunter4@db.example/shop'"
    logging.Formatter().format(record)
    written = record.exc_text

    first, *rest = LogLineFormatter().format(record).split("\n")

    assert first.endswith("Z ERROR shop: postgresql://me:***@db.example/shop cannot be reached")
    assert rest == [
        r"  ConnectionError: amqp://me:***@broker.example/\x1b is down",
        "  url = 'mariadb://me:***@db.example/shop'",
    ]
    assert record.exc_text == written
    assert written is not None


LOGGING = """
import logging, relevo

@relevo.listener("text.printed")
def log(event):
    url = "amqp://me:hunter2@broker.example/"
    try:
        raise ConnectionError(f"{url} is down")
    except ConnectionError:
        logging.getLogger("shop").exception("no\\nline \\x1b[2J %s", url)
"""


@pytest.mark.slow("starts the command line in a process of its own")
def test_what_a_listener_logs_in_a_child_process_is_masked_and_visible(tmp_path: Path) -> None:
    shop = opened(tmp_path)
    shop.write("shop_listeners.py", LOGGING)
    shop.run("dispatch text.printed")

    done = shop.process("RELEVO_EXECUTION=process relevo drain -l info")

    assert done.returncode == 0, done.stderr
    assert r"ERROR shop: no\nline \x1b[2J amqp://me:***@broker.example/" in done.stderr
    assert "]   ConnectionError: amqp://me:***@broker.example/ is down" in done.stderr
    assert "hunter2" not in done.stderr
    assert "\x1b" not in done.stderr
