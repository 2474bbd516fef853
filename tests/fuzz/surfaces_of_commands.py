"""Surfaces of the command line: its arguments, and the files that it is pointed to."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

from mutation import packed, parts
from oversized import MANY, of_json, of_lines, of_texts
from relevo import Ack, DeadLetter, DeadLetterEntry, Envelope
from relevo._schema.compatibility import compare
from relevo._schema.schema import schemas
from relevo.cli._crontab import merged
from relevo.cli._main import main
from relevo.cli._supervisor import examine
from relevo.errors import ConfigurationError
from relevo.testing import FakeClock
from relevo_conformance import history
from relevo_conformance._jsonline import dump, load
from relevo_conformance.harness import judge_of
from relevo_memory.conformance import MemoryHarness
from surface import DifferentError, Surface
from surfaces_of_configuration import folder
from surfaces_of_events import STATE, _types

# --- arguments ---------------------------------------------------------------------------------------------------

_ENDLESS = {"worker", "relay"}
_ELSEWHERE = ("--out", "--raw", "--install", "--uninstall", "--supervisor", "--max-", "--settle", "install")
"""The beginnings of options that write files or crontabs, read a file of another surface, or wait."""

CODES = {0, 1, 2, 65, 69, 75, 78}

SHOP = """
import relevo
app = relevo.App.from_config()
"""
LISTENERS = """
import attrs
import relevo

@relevo.event("image.created", version=2, subject="image_id", of="image")
@attrs.frozen
class ImageCreated:
    image_id: int

@relevo.listener(ImageCreated)
def take(event): ...

@relevo.listener("image.*".replace("*", "rated"), queue="feed")
def feed(event): ...
"""
CONFIGURATION = """
source = "shop"
app = "fuzzed_shop:app"
listeners = ["fuzzed_listeners"]
lock = "locks"
deploy = "shop.deploy"

[transports]
main = "memory://"
db = "sqlite:///shop.db"

[routes]
"image.*" = ["main/media", "main/feed"]
"mail.*" = "db"
"*" = "main"
"""


def command(data: bytes) -> None:
    """Run a command; it ends with a documented exit code, and its lines on standard error begin with its name."""
    given = parts(data, list[Any])
    words = [str(each) for each in given or ()]
    if _ENDLESS & set(words) or any(each.startswith(_ELSEWHERE) or "\0" in each for each in words):
        return
    _run(words)


def dispatched_lines(data: bytes) -> None:
    """Dispatch an event for each line of standard input; the same holds for what the command says."""
    _run(["dispatch", "image.created", "--lines", "-", "--json"], data)


def _run(words: list[str], given: bytes = b'{"image_id": 7}') -> None:
    with _in_shop(), _arguments(words, given) as error:
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        told = error.getvalue()
    if code not in CODES or ("Traceback" in told and "--debug" not in words):
        raise DifferentError(code, told[-3000:])
    if any(each < " " and each not in "\n\t" for each in told):
        raise DifferentError("a control character", told)


@cache
def _shop() -> Path:
    made = folder() / "shop"
    made.mkdir()
    made.joinpath("relevo.toml").write_text(CONFIGURATION, encoding="utf-8")
    made.joinpath("fuzzed_shop.py").write_text(SHOP, encoding="utf-8")
    made.joinpath("fuzzed_listeners.py").write_text(LISTENERS, encoding="utf-8")
    made.joinpath("events.json").write_text(json.dumps(_document()), encoding="utf-8")
    return made


@contextmanager
def _in_shop() -> Iterator[None]:
    """Run the block in the folder of an application, where no other program is found."""
    before, path = Path.cwd(), os.environ["PATH"]
    os.chdir(_shop())
    os.environ["PATH"] = str(_shop())
    try:
        yield
    finally:
        os.chdir(before)
        os.environ["PATH"] = path


class _Standard(io.TextIOWrapper):
    """A standard stream that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), "utf-8", errors="backslashreplace", write_through=True)

    def getvalue(self) -> str:
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode()

    def emptied(self) -> _Standard:
        """Return it without what was written."""
        assert isinstance(self.buffer, io.BytesIO)
        self.buffer.seek(0)
        self.buffer.truncate()
        return self


@cache
def _streams() -> tuple[_Standard, _Standard]:
    """Return one pair of streams for all cases: click keeps each stream that it wrote to."""
    return _Standard(), _Standard()


@contextmanager
def _arguments(words: list[str], standard_input: bytes) -> Iterator[_Standard]:
    """Give *words* and *standard_input* to the command in the block; yield standard error."""
    before, given, log = sys.argv, sys.stdin, logging.getLogger("relevo")
    handlers, level = list(log.handlers), log.level
    sys.argv = ["relevo", *words]
    sys.stdin = io.TextIOWrapper(io.BytesIO(standard_input), "utf-8")
    out, error = (stream.emptied() for stream in _streams())
    try:
        with redirect_stdout(out), redirect_stderr(error):
            yield error
    finally:
        sys.argv, sys.stdin = before, given
        log.handlers[:] = handlers
        log.setLevel(level)


COMMANDS = (
    'dispatch image.created {"image_id":7} --subject image/7 --delay 5m --urgency high --expires 1h --json',
    "dispatch mail.sent - --ordering-key k",
    "dispatch image.created {}",
    "drain -t main -q media --limit 5 -c 1 --json",
    "status --json -q main/feed",
    "status -t db",
    "list --event image.* --state ready --since 2h --until 2026-11-28 --by event -t main",
    "show 0198c3a4-6e1f-7c52-9d1e-0f6a2b3c4d5e --json",
    "cancel 0198c3a4 -t main",
    "handle 0198c3a4 -t main -q media --json",
    "dead list --reason expired --event image.* --by reason",
    "dead show 1 -t db --json",
    "dead revive 1 2 --yes",
    "dead discard --all --yes -t db",
    "move --from main/media --to main/feed --limit 5",
    "purge main/feed --yes",
    "transports --json",
    "listeners --format json",
    "schema image.created --diff events.json",
    "schema --asyncapi --api-version 1.0.0",
    "check --json -a fuzzed_shop:app",
    "config show --origin --json",
    "unit cron --every 5m",
    "unit supervisor -t main",
    "setup --plan",
    "deploy begin",
    "deploy end",
    "completion bash",
    "--config relevo.toml --debug status",
    "-a fuzzed_shop:number status -l debug",
    'dispatch image.created {"image_id":NaN}',
    "drain --limit 1_000",
    "drain --limit ٣",
)


# --- files ------------------------------------------------------------------------------------------------------


def supervisor(data: bytes) -> None:
    """Check a configuration of supervisor; errors show no bytes that a terminal obeys."""
    path = _programs() / "supervisord.conf"
    path.write_bytes(data)
    if b"include" in data.lower() and _ELSEWHERE_IN_FILES.search(data):  # it may name any file of this machine
        return
    examine(path, time_limit=900.0, environ={"HOME": "/srv/shop"})


_ELSEWHERE_IN_FILES = re.compile(rb"[/%~]|\.\.")


@cache
def _programs() -> Path:
    """Return a folder with files that a configuration may include, which are beside it."""
    made = folder() / "supervisor"
    made.mkdir()
    made.joinpath("program.ini").write_bytes(b"[program:mail]\ncommand = relevo drain\nstopwaitsecs = 5\n")
    made.joinpath("broken.ini").write_bytes(b"stopwaitsecs = \xff\x1b[31m\n")
    made.joinpath("folder.ini").mkdir()
    return made


def crontab(data: bytes) -> None:
    """Replace relevo's block in a crontab, and remove it; everything else stays."""
    text = data.decode("utf-8", "surrogateescape")
    changed = merged(text, "shop", "* * * * * relevo drain")
    if merged(changed, "shop", "* * * * * relevo drain") != changed:
        raise DifferentError(changed)


def _document() -> Any:
    return schemas([_types()["image.created"]], source="shop")


def schema(data: bytes) -> None:
    """Compare with an earlier output, which may be any document."""
    try:
        document = json.loads(data)
    except RecursionError:
        return
    compare(document, _document())
    compare(_document(), document)


def _history() -> bytes:
    """Return a history in which an event is sent, fails, is a dead letter, is revived and is done."""
    sent = Envelope(id="7", source="shop", name="image.created", queue="q", body=b"{}", headers={"a": "b"})
    entry = DeadLetterEntry(
        ref="1", queue="q", envelope=sent, reason="gave-up", error="no", state=STATE, attempt=1, lost_leases=0,
        enqueued_at=100.0, died_at=101.0,
    )  # fmt: skip

    def handed(number: int) -> history.Handed:
        return history.Handed(
            number=number, event=sent, queue="q", attempt=1, lost_leases=0, state=b"", enqueued_at=100.0
        )

    receive = history.Receive(queues=("q",), limit=1, lease=60.0, wait=0.0)
    calls: list[tuple[history.Call, history.Value | None]] = [
        (history.Open(), None),
        (history.SetUp(queues=("q",)), None),
        (history.Send(envelopes=(sent,)), None),
        (receive, history.HandedOut((handed(0),))),
        (history.Settle(items=(history.Item(0, DeadLetter(reason="gave-up", error="no")),)), history.Settled()),
        (history.ListDead(queues=("q",)), history.Entries((entry,))),
        (history.Revive(refs={"1": b""}), history.Missing(())),
        (receive, history.HandedOut((handed(1),))),
        (history.Settle(items=(history.Item(1, Ack()),)), history.Settled()),
    ]
    records: list[history.Record] = []
    for op, (call, value) in enumerate(calls):
        records.append(history.Invoked(op=op, worker="web", at=100.0 + op, call=call))
        records.append(history.Returned(op=op, at=100.5 + op, end="done", value=value))
    return "\n".join(dump(records)).encode()


def recorded(data: bytes) -> None:
    """Judge a recorded history, which may be any text."""
    records = load(data.decode("utf-8").split("\n"))
    judged = judge_of(MemoryHarness, MemoryHarness.transport.capabilities, FakeClock())
    judged.feed_all(records)
    list(judged.unaccounted())


CRONTAB = b"MAILTO=dev\n# relevo shop begin\n* * * * * relevo drain\n# relevo shop end\n5 0 * * * other\n"
SUPERVISOR = b"""\
[unix_http_server]
file = /run/supervisor.sock
chmod = 0700

[inet_http_server]
port = 127.0.0.1:9001
username = user
password = %(ENV_HOME)s

[program:shop]
command = relevo worker -t main
stopwaitsecs = 930
stopsignal = TERM
"""

SURFACES = (
    Surface(
        name="command",
        target=command,
        shape="msgpack",
        seeds={each: packed(*each.split(" ")) for each in COMMANDS},
        weight=0.1,
        oversized={
            **of_json(lambda data: packed("dispatch", "image.created", data.decode())),
            **of_texts(lambda text: packed("status", "-q", text)),
            **{
                f"{name}, dispatched": make
                for name, make in of_texts(lambda text: packed("dispatch", text, "{}")).items()
            },
            # Click takes a square of the number of arguments, which only an operator writes.
            "8,000 options": lambda: packed("list", *["--event", "a.b"] * 8_000),
            "8,000 references": lambda: packed("dead", "revive", "--yes", *map(str, range(8_000))),
        },
    ),
    Surface(
        name="dispatch lines",
        target=dispatched_lines,
        shape="lines of json",
        seeds={
            "lines": b'{"image_id": 7}\n\n{"image_id": 8}\r\n{"image_id": 9}',
            "invalid lines": b'{"image_id": "x"}\n{"image_id": 8}\n[]\n{"image_id": NaN}\nid,path\n',
            "another format": b"id,path\n" * 150,
            "a byte order mark": b'\xef\xbb\xbf{"image_id": 7}\n',
            "bytes that are not UTF-8": b'{"image_id": 7}\n\xff\xfe\n',
            "control characters": b'{"image_id": 7}\n{"\x1b[31m": 1}\n',
            "nothing": b"",
        },
        weight=0.1,
        oversized={
            **of_json(lambda data: b'{"image_id": 7}\n' + data + b"\n" + b'{"image_id":' + data + b"}\n"),
            "200,000 empty lines": lambda: b"\n" * 200_000,
            "80,000 invalid lines after a valid one": lambda: b'{"image_id": 7}\n' + b"x\n" * MANY,
            "80,000 lines of another format": lambda: b"id,path\n" * MANY,
        },
    ),
    Surface(
        name="supervisor",
        target=supervisor,
        shape="text",
        errors=(ConfigurationError,),
        seeds={
            "a configuration": SUPERVISOR,
            "a percent sign": b"[program:x]\ncommand=relevo worker\nstopwaitsecs=%",
            "bytes that are not UTF-8": b"[program:\xff]",
            "a section twice": SUPERVISOR + SUPERVISOR,
            "5,000 digits": b"[program:x]\ncommand=relevo worker\nstopwaitsecs=" + b"9" * 5000,
            "5,000 digits of a start": b"[program:x]\ncommand=relevo worker\nstartsecs=" + b"9" * 5000,
            "a width without a name": b"[unix_http_server]\nchmod=%9999999999s",
            "names within names": b"[unix_http_server]\nchmod=" + b"%(" * 4000,
            "included files": SUPERVISOR.replace(b"/", b"").replace(b"%(ENV_HOME)s", b"x")
            + b"[include]\nfiles = *.ini no-such.conf\n",
            "a file that includes itself": b"[include]\nfiles = *.conf supervisord.conf\n",
        },
        weight=0.3,
        oversized={
            **of_lines(),
            **{f"{name}, after a file": make for name, make in of_lines(lambda data: SUPERVISOR + data).items()},
            "80,000 included files": lambda: b"[include]\nfiles = " + b"no-such.conf\n " * MANY,
            "80,000 lines of a value": lambda: SUPERVISOR + b"environment = A=1\n" + b" ,B=2\n" * MANY,
            "80,000 percent signs": lambda: SUPERVISOR + b"environment = " + b"%%(ENV_HOME)s" * MANY,
        },
    ),
    Surface(
        name="crontab",
        target=crontab,
        shape="text",
        errors=(ConfigurationError,),
        seeds={"a crontab": CRONTAB, "none": b"", "an end without a beginning": b"# relevo shop end\n"},
        weight=0.2,
        oversized={
            **of_lines(),
            "80,000 entries": lambda: b"5 0 * * * other\n" * MANY,
            "20,000 blocks": lambda: CRONTAB * 20_000,
            "80,000 beginnings": lambda: b"# relevo shop begin\n" * MANY,
        },
    ),
    Surface(
        name="schema",
        target=schema,
        shape="json",
        errors=(ValueError,),
        seeds={
            "an output": json.dumps(_document()).encode(),
            "a reference to itself": b'{"$defs":{"a":{"x-relevo":{"event":"image.created","version":1},"$ref":"#"}}}',
            "no object": b"[]",
        },
        weight=0.5,
        oversized={
            **of_json(),
            **{
                f"{name}, as definitions": make
                for name, make in of_json(lambda data: b'{"$defs":' + data + b"}").items()
            },
            "80,000 definitions": lambda: (
                b'{"$defs":{'
                + b",".join(b'"d%d":{"$ref":"#/$defs/d%d"}' % (each, each + 1) for each in range(MANY))
                + b"}}"
            ),
        },
    ),
    Surface(
        name="history",
        target=recorded,
        shape="lines of json",
        errors=(ValueError,),
        seeds={"a history": _history(), "its header alone": _history().partition(b"\n")[0]},
        weight=0.3,
        oversized=of_json(lambda data: _history() + b"\n" + data),
    ),
)
