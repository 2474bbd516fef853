"""Whatever is wrong, the command line says so in one clear line, and ends with the code that says who must act."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from importlib.metadata import EntryPoints
from pathlib import Path

import click
import pytest
from hypothesis import given, settings, strategies as st

from relevo.cli import _synonym
from relevo.cli._main import group

from .shop import CANARY, CONFIGURATION, Shop, lines, opened, told_in_one_line

# --- what is wrong ------------------------------------------------------------------------------------

CONFIGURATIONS: dict[str, tuple[str | bytes, str, str]] = {
    # what is written, the command, what is said
    "an unknown scheme": (
        '[transports]\nmain = "sqlit:///x"',
        "status",
        'transports.main: no transport for "sqlit"; available: ',
    ),
    "an address that is none": (
        f'[transports]\nmain = "me:{CANARY}@host"',
        "status",
        "transports.main: expected an address such as sqlite:///shop.db, ",
    ),
    "a bad port": (
        f'[transports]\nmain = "amqp://me:{CANARY}@host:x/"',
        "status",
        "transports.main: ",
    ),
    "an unknown key": (
        'sorce = 1\n[transports]\nmain = "memory://"',
        "status",
        'unknown key "sorce"; did you mean "source"?',
    ),
    "an unknown option": (
        '[transports]\nmain = {url = "sqlite:///x.db", pol = 1}',
        "status",
        'unknown option "pol"; did you mean "poll"?',
    ),
    "a wrong type": (
        '[transports]\nmain = {url = "sqlite:///x.db", poll = [1]}',
        "status",
        "transports.main.poll: expected a number; got a list",
    ),
    "a number out of range": (
        '[transports]\nmain = {url = "sqlite:///x.db", poll = 0}',
        "status",
        "transports.main: poll: expected a number of seconds above 0; got 0",
    ),
    "an unknown option in a table of its own": (
        '[transports.main]\nurl = "sqlite:///x.db"\npol = 1',
        "status",
        'relevo.toml:3: transports.main: unknown option "pol"; did you mean "poll"?',
    ),
    "a variable that is not set": (
        f'[transports]\nmain = "amqp://me:{CANARY}${{NO_SUCH_VARIABLE}}@host/"',
        "status",
        "relevo.toml:2: transports.main: the variable NO_SUCH_VARIABLE is not set; set it, or write ",
    ),
    "a variable that is not set, for all of a plugin": (
        '[transports]\nmain = "memory://"\n[plugins]\nmail = "${NO_SUCH_VARIABLE}"',
        "status",
        "relevo.toml:4: plugins.mail: the variable NO_SUCH_VARIABLE is not set; set it, or write ",
    ),
    "a folder without a name": (
        'lock = ""\n[transports]\nmain = "memory://"',
        "status",
        "relevo.toml:1: lock: expected a path as text; got empty text",
    ),
    "a number that is not whole": (
        'concurrency = "2.0"\n[transports]\nmain = "memory://"',
        "status",
        "relevo.toml:1: concurrency: expected a whole number from 1 to 10000; got '2.0'",
    ),
    "a password out of an example": (
        '[transports]\nmain = "amqp://guest:guest@broker.example/"',
        "status",
        "relevo.toml:2: transports.main: amqp://guest:***@broker.example/ has a publicly known default password",
    ),
    "a key for signatures that is a password": (
        f'signing = "{CANARY}"\n[transports]\nmain = "memory://"',
        "status",
        "relevo.toml:1: signing: expected keys of at least 32 characters; got one with 7 characters",
    ),
    "a retry policy that cannot be": (
        CONFIGURATION + '[retries]\n"main/feed" = { factor = 0 }',
        "status",
        'retries."main/feed".factor: expected a number from 1; got 0.0',
    ),
    "a route to a transport that is not there": (
        CONFIGURATION.replace('= "main"', '= "mian"'),
        "status",
        'relevo.toml:11: routes."*": no transport is called \'mian\'; did you mean "main"?',
    ),
    "an outbox that cannot join a session": (
        '[transports]\nmain = { url = "sqlite:///x.db", outbox = "amqp://127.0.0.1:1" }',
        "status",
        "cannot join a session",
    ),
    "a folder that is none": (
        '[transports]\nmain = "sqlite://shop.db"',
        "status",
        "write sqlite:///shop.db",
    ),
    "an address of a database in memory": (
        '[transports]\nmain = "sqlite://"',
        "status",
        "transports.main: ",
    ),
    "an empty configuration": (
        "",
        "status",
        "relevo.toml: no transport; add one",
    ),
    "a syntax error": (
        "a = = 1",
        "status",
        'relevo.toml:1: a: Invalid value (column 5); expected "text" in quotes, a number, true, false',
    ),
    "a configuration that is too large": (
        b"#" * (1 << 21),
        "status",
        "expected a file of at most 1 MiB; got a larger one",
    ),
    "no route": (
        CONFIGURATION.replace('"*" =', '"mail.*" ='),
        "dispatch feed.read",
        'no route for "feed.read"; routes: "image.*", "mail.*"',
    ),
    "a listener in a queue without a route": (
        CONFIGURATION.replace("main/feed", "main/fed"),
        "drain",
        '/shop_listeners.py:10): it runs in the queue "feed", but "image.created" is routed to main/media, main/fed',
    ),
    "no such listener module": (
        CONFIGURATION.replace("shop_listeners", "shop_listener"),
        "drain",
        'listeners: there is no module "shop_listener"',
    ),
}

LISTENER_MODULES: dict[str, tuple[str, str]] = {
    # what is written, what is said
    "two listeners of one id": (
        "from relevo import listener as on\n@on('a.b', id='x')\ndef f(e): ...\n@on('a.b', id='x')\ndef g(e): ...\n",
        'two listeners of "a.b" have the id "x"',
    ),
    "a listener module without listeners": (
        "",
        "/shop_listeners.py) has no listener; put @relevo.listener(",
    ),
    "an event name in a listener module": (
        "import relevo\n@relevo.listener('a b')\ndef f(e): ...\n",
        "shop_listeners.py:2: 'a b' is not an event name",
    ),
    "a listener that is a generator": (
        "import relevo\n@relevo.listener('a.b')\nasync def f(e): yield\n",
        (
            "shop_listeners:f cannot be a listener: it has a yield, so calling it does not run it; use def or "
            "async def without yield, and call the generator inside, as in: for _ in steps(event): pass"
        ),
    ),
    "a listener that is async and transactional": (
        "import relevo\n@relevo.listener('a.b', transactional=True)\nasync def f(e, call): ...\n",
        (
            "shop_listeners:f is transactional and async; no transport makes an AsyncSession; name a session factory: "
            "transactional=async_sessionmaker(engine), or write it as def"
        ),
    ),
}

COMMANDS: dict[str, tuple[str, int, str]] = {
    # what is typed, the exit code, what is said
    "a configuration that is missing": (
        "status --config no.toml",
        78,
        "no.toml does not exist; give another with --config or RELEVO_CONFIG",
    ),
    "a configuration that is a directory": (
        "status --config .",
        78,
        "expected a regular file; got a directory",
    ),
    "a queue that nothing is routed to": (
        "drain -q meida",
        78,
        'nothing is routed to the queue "meida" of "main"; did you mean "media"?; there are: media, feed, default',
    ),
    "queues in one argument": (
        "drain -q media,feed",
        78,
        'the queue "media,feed" of "main"; pass each queue by itself (-q feed -q mail on the command line); there are:',
    ),
    "queues in one argument to look at": (
        "status -q media,feed",
        78,
        'of "main", and nothing is in it; pass each queue by itself (-q feed -q mail on the command line); there are:',
    ),
    "a transport that is not there": (
        "status -t mian",
        78,
        'no transport is called "mian"; did you mean "main"?',
    ),
    "a relay without an outbox": (
        "relay",
        78,
        'the transport "main" has no outbox',
    ),
    "no such app module": (
        "status -a shpo:app",
        78,
        'app: there is no module "shpo"',
    ),
    "no such app": (
        "status -a shop:ap",
        78,
        'app: "shop" has no "ap"; did you mean "app"?',
    ),
    "an app that is none": (
        "status -a shop:number",
        78,
        'app: "shop:number": expected a relevo.App; got int',
    ),
    "an app that is a function": (
        "status -a shop:create",
        78,
        'app: "shop:create": expected a relevo.App; got function',
    ),
    "no such app, said before the command": (
        "-a shop:ap status",
        78,
        'app: "shop" has no "ap"; did you mean "app"?',
    ),
    "an app without its name": (
        "status -a shop",
        78,
        "app: expected \"shop:app\"; got 'shop'",
    ),
    "a path as an app": (
        "status -a ./shop.py:app",
        78,
        "app: './shop.py:app' is not a module",
    ),
    "arguments that are no JSON": (
        "dispatch a.b nope",
        65,
        'the event "a.b" cannot be sent: the arguments are not JSON',
    ),
    "arguments that are no object": (
        "dispatch a.b [1]",
        65,
        "the arguments must be a JSON object, not list",
    ),
    "arguments with NaN": (
        "dispatch a.b '{\"a\": [1, NaN]}'",
        65,
        'the event "a.b" cannot be sent: $.a[1]: NaN is not JSON; send null or text',
    ),
    "arguments with a lone surrogate": (
        'dispatch a.b \'{"a": "\\ud800"}\'',
        65,
        "$.a: holds the lone surrogate U+D800, which is not a character",
    ),
    "arguments with NUL": (
        'dispatch a.b \'{"a": "\\u0000"}\'',
        65,
        "$.a: holds a NUL character",
    ),
    "arguments with a large integer": (
        "dispatch a.b '{\"a\": 9223372036854775808}'",
        65,
        "$.a: the integer does not fit 64 bits",
    ),
    "arguments with an integer of many digits": (
        f"dispatch a.b '{{\"a\": {'9' * 9999}}}'",
        65,
        "$.a: the integer does not fit 64 bits; send it as text",
    ),
    "arguments with Infinity": (
        "dispatch a.b '{\"a\": -Infinity}'",
        65,
        "$.a: -Infinity is not JSON; send null or text",
    ),
    "arguments with a number beyond all": (
        'dispatch a.b \'{"a": {"b c": 1e400}}\'',
        65,
        "$.a['b c']: 1e400 is too large for a number; send it as text",
    ),
    "arguments with a key that is there twice": (
        'dispatch a.b \'{"a": [{"b": 1, "c": 2, "b": 1}]}\'',
        65,
        "$.a[0]: duplicate key 'b'; remove one of them",
    ),
    "arguments with a key that is there twice at the top": (
        'dispatch a.b \'{"b": 1, "b": 2}\'',
        65,
        """the event "a.b" cannot be sent: duplicate key 'b'; remove one of them""",
    ),
    "arguments that end early": (
        "dispatch a.b '{\"a\": 1'",
        65,
        """expecting ',' delimiter in line 1, column 8; write an object, as in '{"image_id": 7}'""",
    ),
    "arguments that are deeper than Python goes": (
        f"""dispatch a.b '{{"a": {"[" * 50_000}{"]" * 50_000}}}'""",
        65,
        'the event "a.b" cannot be sent: deeper than 100 levels',
    ),
    "arguments that are too deep": (
        f"""dispatch a.b '{{"a": {"[" * 101}{"]" * 101}}}'""",
        65,
        "deeper than 100 levels",
    ),
}


@pytest.mark.parametrize("what", CONFIGURATIONS)
def test_one_clear_line_about_a_configuration_with(shop: Shop, what: str) -> None:
    text, command, line = CONFIGURATIONS[what]
    shop.write("relevo.toml", text)

    done = shop.run(command)

    assert line in told_in_one_line(done)
    assert done.returncode == 78


@pytest.mark.parametrize("what", LISTENER_MODULES)
def test_one_clear_line_about_a_module_with(shop: Shop, what: str) -> None:
    text, line = LISTENER_MODULES[what]
    shop.write("shop_listeners.py", text)

    done = shop.run("drain")

    assert line in told_in_one_line(done)
    assert done.returncode == 78


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize("what", COMMANDS)
def test_one_clear_line_about_a_command_with(shop: Shop, what: str) -> None:
    command, code, line = COMMANDS[what]

    done = shop.run(command)

    assert line in told_in_one_line(done)
    assert done.returncode == code


def test_one_clear_line_about_a_variable_with_a_slip(shop: Shop) -> None:
    done = shop.run("status", RELEVO_TRANSPORTS_MAIN=f"amqp://{CANARY}")

    assert 'did you mean "RELEVO_TRANSPORTS__MAIN"?' in told_in_one_line(done)
    assert done.returncode == 78


def test_several_problems_are_told_together(shop: Shop) -> None:
    shop.write("relevo.toml", 'sorce = 1\nsetup = 3\n[transports]\nmain = 4\n[routes]\n"*" = []\n')

    done = shop.run("status")

    assert done.returncode == 78
    assert len(lines(done)) == 4
    assert [line.partition("relevo.toml:")[2][0] for line in lines(done)] == ["1", "2", "4", "6"]


def test_the_file_is_checked_before_the_application_that_it_names_is_imported(shop: Shop) -> None:
    text = CONFIGURATION.replace('"sqlite:///shop.db"', '{ url = "sqlite:///shop.db", pol = 1 }')
    shop.write("relevo.toml", text.replace("[transports]", '[transports]\nfeed = "sqlit:///x"'))
    shop.write("shop.py", "import nothing_like_that\n")

    done = shop.run("status")

    assert done.returncode == 78
    assert [line.partition("relevo.toml:")[2].partition(" ")[0] for line in lines(done)] == ["7:", "8:"]


def test_one_clear_line_about_a_package_that_is_missing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relevo._config.discovery._points", lambda _: EntryPoints(()))

    done = shop.run("status")

    assert 'relevo.toml:7: transports.main: no transport for "sqlite"; available: none; install "relevo-sql"' in (
        told_in_one_line(done)
    )
    assert done.returncode == 78


@pytest.mark.parametrize("module, command", [("shop_listeners.py", "drain"), ("shop.py", "status")])
def test_an_import_that_fails_shows_its_own_traceback(shop: Shop, module: str, command: str) -> None:
    shop.write(module, "def helper():\n    1 / 0\n\nhelper()\n")

    done = shop.run(command)

    assert done.returncode == 78
    assert f'{module}", line 4' in done.stderr
    assert lines(done)[0] == "  Traceback (most recent call last):"
    assert lines(done)[-2] == "  ZeroDivisionError: division by zero"
    assert lines(done)[-1].endswith(
        f'the module "{module[:-3]}" cannot be imported: ZeroDivisionError: division by zero'
    )
    assert [line.startswith("relevo: ") for line in lines(done)] == [False] * (len(lines(done)) - 1) + [True]
    assert "importlib" not in done.stderr
    assert "site-packages" not in done.stderr
    assert "relevo/" not in done.stderr
    assert len(lines(done)) < 12


def test_the_way_to_an_error_is_shown_to_whoever_asks(shop: Shop) -> None:
    shop.write("relevo.toml", f'[transports]\nmain = "amqp://me:{CANARY}@127.0.0.1:1/"\n')

    silent, told = shop.run("status"), shop.run("--debug status")

    assert silent.returncode == told.returncode == 69
    assert "Traceback" not in silent.stderr
    assert told.stderr.endswith(silent.stderr)
    assert "relevo.errors.TransportUnavailableError: " in told.stderr
    assert "in status" in told.stderr
    assert CANARY not in told.stderr


def test_what_a_driver_says_is_not_shown(shop: Shop) -> None:
    shop.write("relevo.toml", '[transports]\nmain = "sqlite:///shop.db"\n')
    shop.write("shop.db", b"no database" * 1000)

    told = shop.run("--debug status").stderr

    assert "sqlite3.DatabaseError\n" in told
    assert "file is not a database" not in told.rpartition("relevo: ")[0]


def test_an_import_that_fails_cannot_speak_to_the_terminal(shop: Shop) -> None:
    shop.write("shop_listeners.py", "raise ValueError('\\x1b[31m\\nrelevo: forged')\n")

    done = shop.run("drain")

    assert "\x1b" not in done.stderr
    assert lines(done)[-1].endswith(r"cannot be imported: ValueError: \x1b[31m relevo: forged")


def test_too_large_an_event_is_bad_data(shop: Shop) -> None:
    done = shop.run("dispatch a.b -", given=json.dumps({"a": "x" * 1024 * 1024}).encode())

    assert (done.returncode, len(lines(done))) == (65, 1)
    assert "the limit is 1,048,576" in done.stderr


@pytest.mark.parametrize(
    "given, why",
    [
        (b"", "standard input is empty"),
        (b" \n", "standard input is empty"),
        (b"\xff", "are not JSON: byte 1 of standard input is not UTF-8"),
        (b"{", "are not JSON"),
        (b"null", "not NoneType"),
    ],
)
def test_standard_input_that_is_no_event_is_bad_data(shop: Shop, given: bytes, why: str) -> None:
    done = shop.run("dispatch a.b -", given=given)

    assert (done.returncode, len(lines(done))) == (65, 1)
    assert why in done.stderr


def test_arguments_come_from_standard_input(shop: Shop) -> None:
    shop.run("dispatch image.created -", given='{"image_id": "ä𝄞"}\n'.encode())

    assert shop.run("drain").stdout == "made ä𝄞\n"


@pytest.mark.slow("starts the command line in a process of its own")
def test_standard_input_that_is_closed_is_empty(shop: Shop) -> None:
    done = shop.process("relevo dispatch a.b - <&-")

    assert (done.returncode, len(lines(done))) == (65, 1)
    assert "standard input is empty" in done.stderr


@pytest.mark.parametrize(
    "command, code, why",
    [
        (
            "dispatch a.b x=\udcff",
            65,
            r"""the event "a.b" cannot be sent: ARGUMENTS: 'x=\udcff' has bytes that are invalid""",
        ),
        ('dispatch a.b \'{"x": "\udcff"}\'', 65, r"""ARGUMENTS: '{"x": "\udcff"}' has bytes that are invalid"""),
        ("dispatch a.\udcff", 2, r"invalid value for 'NAME': 'a.\udcff' is not text"),
        ("dispatch a.b --subject image/\udcff", 2, r"invalid value for '--subject': 'image/\udcff' is not text"),
        ("status -t \udcff", 2, r"invalid value for '-t' / '--transport': '\udcff' is not text"),
        ("status -a shop:\udcff", 2, r"invalid value for '-a' / '--app': 'shop:\udcff' is not text"),
        ("-a shop:\udcff status", 2, r"invalid value for '-a' / '--app': 'shop:\udcff' is not text"),
        ("schema \udcff", 2, r"'\udcff' is not text"),
        ("schema --api-version \udcff", 2, r"invalid value for '--api-version': '\udcff' is not text"),
        ("move --from main/\udcff --to main", 2, r"'\udcff' cannot name a queue"),
        (
            "drain --max-time \udcff",
            2,
            r"""invalid value for '--max-time': expected seconds as a number, or text such as""",
        ),
    ],
)
def test_bytes_that_are_no_text_are_told_by_the_name_of_their_argument(
    shop: Shop, command: str, code: int, why: str
) -> None:
    done = shop.run(command)

    assert why in told_in_one_line(done)
    assert done.returncode == code


@pytest.mark.slow("starts the command line in a process of its own")
def test_bytes_that_a_shell_gives_are_told_as_they_are(shop: Shop) -> None:
    done = shop.process('relevo dispatch a.b $\'{"a": "\\xff"}\'')

    assert r"""ARGUMENTS: '{"a": "\udcff"}' has bytes that are invalid""" in told_in_one_line(done)
    assert done.returncode == 65


@pytest.mark.parametrize(
    "command, why",
    [
        ("", "relevo --help lists all commands"),
        ("wrker", 'there is no command "wrker"; did you mean "worker"?'),
        ("frobnicate", 'there is no command "frobnicate"'),
        ("retry 3", 'there is no command "retry"; it is called "relevo dead revive" here; see relevo --help'),
        ("pause", "pause: expected --queue or --all; got neither"),
        ("resume --all -q feed", "resume: expected --queue or --all; got both"),
        ("stop", "stop: expected --worker or --all; got neither"),
        ("stop --worker 4711", 'stop: --worker: expected HOST:PID, as in web-1:4711; got "4711"'),
        ("queue pause media", 'there is no command "queue pause"; it is called "relevo pause" here'),
        ("dead delete 3", 'dead: there is no command "delete"; it is called "relevo dead discard" here'),
        ("purgee", 'there is no command "purgee"; see relevo --help'),
        ("dead discrd 3", 'dead: there is no command "discrd"; see relevo dead --help'),
        ("failed", 'there is no command "failed"; it is called "relevo dead list" here'),
        ("consume high low", 'there is no command "consume"; it is called "relevo worker" here'),
        ("messenger:failed:retry 3", 'it is called "relevo dead revive" here'),
        ("dead remove 3", 'dead: there is no command "remove"; it is called "relevo dead discard" here'),
        ("worker --limit 3", 'worker: there is no option --limit; it is called "--max-events" here; see relevo worker'),
        ("beat -l info", 'no command "beat"; the workers fire schedules; "relevo schedules" lists them; see relevo'),
        ("call shop.mail", 'there is no command "call"; it is called "relevo dispatch" here'),
        ("inspect active", 'there is no command "inspect active"; it is called "relevo list" here'),
        ("inspect ping", 'there is no command "inspect ping"; relevo sends no messages to workers'),
        ("inspect else", 'there is no command "inspect"; it is called "relevo list" here'),
        ("control shutdown", 'there is no command "control shutdown"; it is called "relevo stop" here'),
        ("rabbitmq:consumer mail", 'there is no command "rabbitmq:consumer"; it is called "relevo worker" here'),
        ("messenger:stop-workers", 'there is no command "messenger:stop-workers"; it is called "relevo stop" here'),
        ("messenger:failed:show", 'write "relevo dead list" for all dead letters, and "relevo dead show REF" for one'),
        ("worker -P threads", 'there is no option -P; write "--execution threads", or "--execution process"'),
        (
            "worker --execution prefork",
            "'prefork' is not one of 'inline', 'threads', 'process', 'async'; write \"--execution p",
        ),
        ("worker -vv", 'there is no option -v; write "-l info" or "-l debug"'),
        ("worker --execution solo", '; write "--execution inline"'),
        (
            "list --state active",
            "'active' is not one of 'ready', 'leased', 'running', 'scheduled'; write \"--state running\"",
        ),
        ("worker -O fair", "there is no option -O; there is nothing to set; a worker adapts"),
        ("worker --burst", 'there is no option --burst; "relevo drain" handles what is due, and exits'),
        ("drain --workers 4", 'there is no option --workers; it is called "--concurrency" here'),
        ("dead list --class-filter a.b", 'there is no option --class-filter; it is called "--event" here'),
        (
            "-l info drain",
            'relevo: there is no option -l; write it after the command: "relevo drain -l …"; see relevo',
        ),
        (
            "-t main dead list",
            'there is no option -t; write it after the command: "relevo dead list -t …"; see relevo',
        ),
        ("-z dead list", "relevo: there is no option -z; see relevo --help"),
        ("report", 'there is no command "report"; it is called "relevo config show" here'),
        ("worker -B", "there is no option -B; the workers fire schedules"),
        (
            "worker async",
            'unexpected extra argument (async); a transport is chosen with "-t NAME", a queue with "-q NAME"; see',
        ),
        ("purge mail async", "unexpected extra argument (async); see relevo purge --help"),
        ("purge -q mail", 'there is no option -q; write the queue without an option: "relevo purge QUEUE"'),
        ("purge mail --force", 'there is no option --force; it is called "--yes" here'),
        ("list --all", "there is no option --all; it lists all queues"),
        ("show --all", "show: there is no option --all; see relevo show --help"),
        ("relay --sleep 3", "relay: there is no option --sleep; see relevo relay --help"),
        ("dispatch a.b --eta 3", 'there is no option --eta; write the time from now: "--delay 5m"'),
        ("dispatch a.b --queue mail", "there is no option --queue; the routes in the configuration choose the queue"),
        ("unit systemd --user", 'unit systemd: there is no option --user; it prints a unit of the system; set "User="'),
        ("unit systemd --time-limit 3", 'set "time_limit" in the configuration; for the whole process, write "--max-t'),
        ("drain --time-limit 3", 'set "time_limit" in the configuration; for the whole process, write "--max-time"'),
        ("drain -Q media", 'there is no option -Q; it is called "-q" here'),
        ("check --time-limit 3", "check: there is no option --time-limit; see relevo check --help"),
        ("dead lst", 'dead: there is no command "lst"; did you mean "list"? see relevo dead --help'),
        (
            "drain --max-event 3",
            'drain: there is no option --max-event; did you mean "--max-events"? see relevo',
        ),
        ("drain -z", "drain: there is no option -z; see relevo drain --help"),
        ("--confg x status", 'relevo: there is no option --confg; did you mean "--config"? see relevo --help'),
        ("dead list --jsn", 'dead list: there is no option --jsn; did you mean "--json"? see relevo dead list --help'),
        ("status -t ''", "invalid value for '-t' / '--transport': it is empty; pass a value, or omit the option"),
        ("drain -q media -q ''", "it is empty"),
        ("status --config ''", "it is empty"),
        ("--config '' status", "it is empty"),
        ("status -a ''", "it is empty"),
        ("cancel ''", "it is empty"),
        ("cancel \ud800", r"'\ud800' is not text"),
        ("show \udcff", r"'\udcff' is not text"),
        ("purge \ud800", r"'\ud800' is not text"),
        ("status -q a -q \ud800", r"'\ud800' is not text"),
        ("dead revive 1 \ud800", r"'\ud800' is not text"),
        ("completion", "missing argument '{bash|zsh|fish}'. Choose from: bash, zsh, fish"),
        ("status \ud800\x1b[31m", r"got unexpected extra argument (\ud800\x1b[31m)"),
        ("status further", "got unexpected extra argument (further)"),
        ("status --config", "status: option '--config' requires an argument; see relevo status --help"),
        ("drain -c", "drain: option '-c' requires an argument; see relevo drain --help"),
        ("dead list -q", "dead list: option '-q' requires an argument; see relevo dead list --help"),
        ("--config", "option '--config' requires an argument; see relevo --help"),
        ("status --config a.toml --config b.toml", "'--config': it is given twice; pass it once"),
        ("--config a.toml --config b.toml status", "'--config': it is given twice; pass it once"),
        ("status -a shop:app --app shop:other", "'-a' / '--app': it is given twice; pass it once"),
        ("-a shop:app -a shop:app status", "'-a' / '--app': it is given twice; pass it once"),
        ("listeners --format dot", "'dot' is not one of 'table', 'json', 'mermaid'"),
        ("completion tcsh", "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
        ("drain --max-events 0", "0 is not in the range"),
        ("drain --max-time soon", "'--max-time': expected seconds as a number, or text such as"),
        ("drain --max-time -1", "'--max-time': expected 0 s or more; got -1.0"),
        ("dispatch", "missing argument 'NAME'"),
        ("dispatch 'a b'", "'a b' is not an event name"),
        ("dispatch a.b --subject image", "write type/id, as in image/7"),
        ("dispatch a.b --delay never", "'--delay': expected seconds as a number, or text such as"),
        ("dead revive", "expected REFS of dead letters, or --all"),
        ("dead revive x --all", "expected REFS of dead letters, or --all"),
        ("dead discard", "expected REFS of dead letters, or --all"),
        ("status -l loud", "loud"),
    ],
)
def test_a_command_that_is_wrong_is_a_matter_of_usage(shop: Shop, command: str, why: str) -> None:
    done = shop.run(command)

    assert done.returncode == 2
    assert why in done.stderr
    assert not command or told_in_one_line(done)


COMMANDS_THAT_END = (
    "drain",
    "dispatch",
    "status",
    "dead",
    "dead list",
    "dead show",
    "dead revive",
    "dead discard",
    "show",
    "cancel",
    "move",
    "move --from main/media --to main/feed",
    "purge",
    "transports",
    "listeners",
    "check",
    "config show",
    "setup",
    "completion",
    "relay --until-empty",
    "",
)
WORDS = [
    "",
    " ",
    "-",
    "--",
    "-x",
    "--json",
    "--all",
    "--yes",
    "-q",
    "-t",
    "-a",
    "--config",
    "--limit",
    "--from",
    "--to",
]
WORDS += [
    "main",
    "media",
    "main/feed",
    "now",
    "outbox/main",
    "a.b",
    "image.created",
    "{}",
    "[1]",
    '{"bad":true}',
    "x" * 300,
]
WORDS += [
    "\ud800",
    "\x1b[31m",
    "é𝄞",
    "1",
    "0",
    "-1",
    "9" * 20,
    "1s",
    "nan",
    "relevo.toml",
    ".",
    "shop:app",
    "shop:number",
]


@pytest.mark.lengthy("runs commands")
@given(
    st.sampled_from(COMMANDS_THAT_END),
    st.lists(st.sampled_from(WORDS), max_size=4),
    st.sampled_from([b"", b"y\n", b"{}", b"\xff"]),
)
@settings(max_examples=100, deadline=None)  # the first of each command imports it
def test_whatever_is_typed_ends_as_it_should(shop_folder: Path, command: str, words: list[str], given: bytes) -> None:
    done = Shop(shop_folder).run(f"{command} {shlex.join(words)}", given=given)

    assert done.returncode in (0, 1, 2, 65, 78)
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


@pytest.fixture(name="shop_folder", scope="module")
def _shop_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return opened(tmp_path_factory.mktemp("shop")).folder


def test_nothing_found_says_where_it_was_looked_for(tmp_path: Path) -> None:
    done = Shop(tmp_path).run("status")

    assert done.returncode == 78
    assert f"there is no relevo.toml in {tmp_path} or above: no transport; add one" in done.stderr


@pytest.mark.lengthy("starts processes")
def test_a_folder_that_is_gone_is_told(shop: Shop) -> None:
    done = shop.process("mkdir gone && cd gone && rmdir ../gone && relevo status")

    assert (done.returncode, done.stderr) == (78, "relevo: the working directory no longer exists\n")


# --- servers and secrets --------------------------------------------------------------------------------


AMQP = f"""[transports]
main = {{ url = "amqp://me:{CANARY}@127.0.0.1:1/", connect_timeout = 1, outbox = "sqlite:///box.db" }}
"""


@pytest.mark.parametrize(
    "command",
    [
        "status",
        "dispatch a.b",
        "drain",
        "worker --fail-fast",
        "setup",
        "dead list",
        "show 1",
        "check --live",
        "move --from main/a --to main/default",
    ],
)
def test_a_server_that_is_down_is_told(shop: Shop, command: str) -> None:
    pytest.importorskip("relevo_amqp")
    shop.write("relevo.toml", AMQP)
    shop.run("setup")

    done = shop.run(command)

    assert done.returncode == 69, done.stderr
    assert len(lines(done)) == 1
    assert done.stderr.startswith('relevo: the transport "main" is unavailable')
    assert CANARY not in done.stdout + done.stderr


@pytest.mark.slow("starts the command line in a process of its own")
@pytest.mark.parametrize("command", ["drain", "dispatch a.b"])
def test_no_log_line_shows_the_password(shop: Shop, command: str) -> None:
    pytest.importorskip("relevo_amqp")
    shop.write("relevo.toml", AMQP)

    done = shop.process(f"relevo {command} -l debug")

    assert CANARY not in done.stdout + done.stderr
    assert lines(done)[-1].startswith('relevo: the transport "main" is unavailable')


@pytest.mark.parametrize("command", ["status", "dispatch a.b", "drain", "check --live"])
def test_a_database_of_a_newer_release_is_left_alone(shop: Shop, command: str) -> None:
    shop.run("setup")
    with sqlite3.connect(shop.folder / "shop.db") as database:
        database.execute("UPDATE relevo_meta SET value = '999' WHERE key = 'schema'")
    database.close()

    done = shop.run(command)

    assert done.returncode == 78
    assert len(lines(done)) == 1
    assert "999" in done.stderr


@pytest.mark.parametrize("command", ["dispatch mail.sent", "drain", "purge media --yes"])
def test_a_database_that_may_only_be_read_is_unavailable(shop: Shop, command: str) -> None:
    shop.run("dispatch mail.sent")
    shop.write("relevo.toml", CONFIGURATION.replace("///shop.db", "///file:shop.db?mode=ro&uri=true"))

    done = shop.run(command)

    assert done.returncode == 69
    assert "is not writable; allow this user to write to the file" in told_in_one_line(done)


def test_an_answer_that_is_no_text_is_no_answer(shop: Shop) -> None:
    shop.run("setup")

    done = shop.run("purge media", given=b"\xff\n")

    assert done.returncode == 2
    assert "standard input ended without an answer; pass --yes" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_database_file_that_may_not_be_written_is_unavailable(shop: Shop) -> None:
    shop.run("setup")
    shop.folder.joinpath("shop.db").chmod(0o444)

    done = shop.run("dispatch mail.sent")

    assert (done.returncode, len(lines(done))) == (69, 1)


def test_a_file_that_is_no_database_is_told(shop: Shop) -> None:
    shop.write("shop.db", b"x" * 4096)

    done = shop.run("status")

    assert done.returncode in (69, 78)
    assert len(lines(done)) == 1


def test_a_database_that_cannot_be_written_is_unavailable(shop: Shop) -> None:
    shop.write("relevo.toml", '[transports]\nmain = "sqlite:////proc/none/x.db"\n')

    done = shop.run("dispatch a.b")

    assert done.returncode == 69
    assert len(lines(done)) == 1


@pytest.mark.slow("starts the command line in a process of its own")
@pytest.mark.parametrize("command", ["status", "status --json", "listeners --format mermaid", "dispatch a.b", "--help"])
def test_an_output_that_is_full_is_told_in_one_line(shop: Shop, command: str) -> None:
    shop.run("setup")

    done = shop.process(f"relevo {command} > /dev/full")

    assert done.returncode == 74
    assert told_in_one_line(done) == (
        "relevo: standard output cannot be written: No space left on device; what the command did is done\n"
    )


def test_a_defect_shows_its_traceback_and_no_password(shop: Shop) -> None:
    shop.write("relevo.toml", 'app = "shop:app"\n')
    shop.write(
        "shop.py",
        "import relevo, relevo_memory\n"
        "class Broken(relevo_memory.MemoryTransport):\n"
        "    def stats(self, queue): raise ZeroDivisionError('in stats')\n"
        "app = relevo.App(transports={'main': Broken()}, routes={'*': 'main'})\n"
        f"secret = relevo.Secret('{CANARY}')\n",
    )

    done = shop.run("status")

    assert done.returncode == 70
    assert lines(done)[0] == "relevo: an unexpected error in relevo or in one of your modules:"
    assert lines(done)[-1] == "  ZeroDivisionError: in stats"
    assert CANARY not in done.stderr


EXITING = """
import atexit, logging, os, sys, time
import relevo

def wait(*_):
    os.close(os.open("exiting", os.O_CREAT))
    time.sleep(60)

app = relevo.App.from_config()
if "{when}" == "atexit":
    atexit.register(wait)
elif "{when}" == "logging":
    handler = logging.NullHandler()
    handler.flush = wait
    logging.getLogger("shop").addHandler(handler)
else:
    class Slow(relevo.errors.ConfigurationError):
        def __str__(self): return wait() or "slow"
    raise Slow
"""


@pytest.mark.slow("starts the command line in a process of its own")
@pytest.mark.parametrize("when", ["atexit", "logging", "error"])
def test_an_interrupt_while_it_exits_shows_no_traceback(when: str, shop: Shop) -> None:
    shop.write("shop.py", EXITING.replace("{when}", when))
    command = [sys.executable, "-m", "relevo", "transports", "--json"]
    with subprocess.Popen(
        command, cwd=shop.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 300
        while not (shop.folder / "exiting").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)

        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=300)

    assert error == ""
    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT)


def test_what_another_tools_word_is_called_here_is_there() -> None:
    names = [" ".join(path) for path, _ in commands()]
    options = [names_of(command) for _, command in commands()]
    answers = [*_synonym._COMMAND_ANSWERS.values(), *_synonym._OPTION_ANSWERS.values()]

    assert set(_synonym._COMMANDS.values()) <= set(names)
    for word, meant in _synonym._OPTIONS.items():
        assert any(meant in each for each in options)
        assert not [each for each in options if {word, meant} <= each]
    for typed in {typed for answer in answers for typed in re.findall("`relevo ([^-`]+?)(?: [-A-Z][^`]*)?`", answer)}:
        assert typed in [*names, "COMMAND"], typed
    for typed in {typed for answer in answers for typed in re.findall("`(--?[a-z-]+)[^`]*`", answer)}:
        assert any(typed in each for each in options), typed


def test_no_word_of_another_tool_is_one_of_ours() -> None:
    of_group = {path[0] for path, _ in commands()}
    by_name = {" ".join(path): names_of(command) for path, command in commands()}

    assert of_group.isdisjoint({*_synonym._COMMANDS, *_synonym._COMMAND_ANSWERS})
    assert not _synonym._COMMANDS.keys() & _synonym._COMMAND_ANSWERS.keys()
    for key in _synonym._OPTION_ANSWERS:
        command, _, option = key.rpartition(" ")
        assert option not in by_name.get(command, ()), key


def commands() -> list[tuple[list[str], click.Command]]:
    """Return all commands, each with its path."""
    context = click.Context(group)
    found: list[tuple[list[str], click.Command]] = []

    def walk(path: list[str], command: click.Command | None) -> None:
        assert command is not None
        found.append((path, command))
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                walk([*path, name], command.get_command(context, name))

    for name in group.list_commands(context):
        walk([name], group.get_command(context, name))
    return found


def names_of(command: click.Command | None) -> set[str]:
    return set() if command is None else {name for param in command.params for name in param.opts}


@pytest.mark.slow("a command in a process of its own")
def test_a_module_below_the_configuration_is_told_to_be_where_nothing_is_searched(shop: Shop) -> None:
    below = shop.folder / "below"
    below.mkdir()
    below.joinpath("naive.py").write_text("import relevo\napp = relevo.App(routes={'*': 'now'})\n")

    done = shop.process("cd below && PYTHONSAFEPATH=1 relevo -a naive:app listeners")

    assert done.returncode == 78
    assert (
        f"folder first; this is {shop.folder}, since {shop.folder}/relevo.toml was found; {below}/naive.py is in the "
        "working directory, which is not searched" in done.stderr
    )


def test_a_file_as_the_name_of_an_application_is_answered_with_its_module(shop: Shop) -> None:
    done = shop.run("-a naive.py listeners")

    assert 'app: expected "module:name", as in "naive:app"; got ' in done.stderr
