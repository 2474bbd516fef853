"""The command line as a new user meets it: one clear line and the right exit code for whatever is wrong."""

from __future__ import annotations

import importlib
import io
import json
import os
import shlex
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner

from relevo import Envelope
from relevo.cli import main
from relevo.cli._main import group

CANARY = "hunter2"

CONFIGURATION = """
source = "shop"
app = "shop:app"
listeners = ["shop_listeners"]

[transports]
main = "sqlite:///shop.db"

[routes]
"image.*" = ["main/media", "main/feed"]
"*" = "main"
"""

APP = """
import relevo
app = relevo.App.from_config()
number = 3
def create(): ...
"""

LISTENERS = r"""
import relevo

@relevo.listener("image.created", queue="media")
def thumbnails(event):
    if event.get("bad"):
        raise relevo.GiveUp("a corrupt \x1b[31mfile")
    print("made", event["image_id"])

@relevo.listener("image.created", queue="feed")
def feed(event): ...

@relevo.listener("mail.sent", priority=3)
def count(event): ...
"""


@attrs.frozen
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@attrs.frozen
class Shop:
    """A folder with an application, and the command line in it."""

    folder: Path

    def write(self, name: str, text: str | bytes) -> None:
        self.folder.joinpath(name).write_bytes(text if isinstance(text, bytes) else text.encode())

    def run(self, command: str, *, given: bytes = b"", **environ: str) -> Done:
        """Run *command* in this process, which is quicker; everything is as it was afterwards."""
        out, error = io.BytesIO(), io.BytesIO()
        modules, path = set(sys.modules), list(sys.path)
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("RELEVO_")]:
                patch.delenv(name)
            for name, value in environ.items():
                patch.setenv(name, value)
            before = dict(os.environ)
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["relevo", *shlex.split(command)])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), "utf-8"))
            patch.setattr(sys, "stdout", io.TextIOWrapper(out, "utf-8", write_through=True))
            patch.setattr(sys, "stderr", io.TextIOWrapper(error, "utf-8", write_through=True))
            with pytest.raises(SystemExit) as ended:
                main()
            assert (dict(os.environ), sys.path) == (before, path), "the command left something behind"
            done = Done(int(ended.value.code or 0), out.getvalue().decode(), error.getvalue().decode())
        for name in set(sys.modules) - modules:
            if name.startswith("shop"):
                del sys.modules[name]
        return done

    def process(self, script: str) -> Done:
        """Run the shell's *script*, in which ``relevo`` is the command line."""
        script = script.replace("relevo ", f"{shlex.quote(sys.executable)} -m relevo ")
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RELEVO_")}
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Shop:
    pytest.importorskip("relevo_sql")
    importlib.invalidate_caches()
    shop = Shop(tmp_path)
    shop.write("relevo.toml", CONFIGURATION)
    shop.write("shop.py", APP)
    shop.write("shop_listeners.py", LISTENERS)
    return shop


def lines(done: Done) -> list[str]:
    return done.stderr.splitlines()


# --- the story ----------------------------------------------------------------------------------------


def test_the_program_is_there_by_its_name_and_as_a_module(shop: Shop) -> None:
    by_module = shop.process("relevo --version")
    by_name = subprocess.run(
        [Path(sys.executable).with_name("relevo"), "--version"], capture_output=True, text=True, check=False
    )

    assert (by_module.returncode, by_name.returncode) == (0, 0)
    assert by_module.stdout == by_name.stdout
    assert by_name.stdout.startswith("relevo, version 0.")


def test_an_event_is_dispatched_handled_and_seen(shop: Shop) -> None:
    dispatched = shop.run("""dispatch image.created '{"image_id": 7}'""")
    before = shop.run("status --json")
    drained = shop.run("drain")
    after = shop.run("status --json")
    again = shop.run("drain")

    assert dispatched.returncode == 0
    assert dispatched.stdout.endswith(" → main/media, main/feed\n")
    assert [(row["queue"], row["ready"]) for row in json.loads(before.stdout)] == [
        ("media", 1),
        ("feed", 1),
        ("default", 0),
    ]
    assert (drained.returncode, drained.stdout, drained.stderr) == (0, "made 7\n", "")
    assert [row["ready"] for row in json.loads(after.stdout)] == [0, 0, 0]
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_a_dead_letter_is_told_listed_shown_revived_and_discarded(shop: Shop) -> None:
    shop.run("""dispatch image.created '{"bad": true}'""")

    drained = shop.run("drain")
    listed = shop.run("dead list")
    (row,) = json.loads(shop.run("dead list --json").stdout)
    shown = shop.run(f"dead show {row['ref']}")
    beginning = shop.run(f"dead show {row['ref'][:1]}")
    revived = shop.run(f"dead revive {row['ref']} {row['ref']}")
    died_again = shop.run("drain")
    kept = shop.run("dead discard --all", given=b"n\n")
    unanswered = shop.run("dead discard --all", given=b"")
    discarded = shop.run("dead discard --all", given=b"y\n")
    empty = shop.run("dead list")

    assert drained.returncode == died_again.returncode == 1
    assert drained.stdout.startswith("1 done, 1 dead (1 gave-up); see relevo dead list in ")
    assert (row["event"], row["queue"], row["reason"], row["attempt"]) == ("image.created", "media", "gave-up", 1)
    assert "GiveUp: a corrupt \\x1b[31mfile" in listed.stdout
    assert "\x1b" not in listed.stdout + shown.stdout
    assert shown.stdout == beginning.stdout
    assert '"bad":true' in shown.stdout
    assert "shop_listeners:thumbnails" in shown.stdout
    assert (revived.returncode, revived.stdout) == (0, "1 revived\n")
    assert (kept.returncode, kept.stdout) == (0, "nothing was deleted\n")
    assert unanswered.returncode == 2
    assert "nobody answered; say --yes" in unanswered.stderr
    assert (discarded.returncode, discarded.stdout) == (0, "1 discarded\n")
    assert empty.stdout == "no dead letters\n"


def test_a_dead_letter_of_a_newer_release_stays_and_the_others_are_revived(shop: Shop) -> None:
    for _ in range(2):
        shop.run("""dispatch image.created '{"bad": true}'""")
    shop.run("drain")
    with sqlite3.connect(shop.folder / "shop.db") as database:
        database.execute("UPDATE relevo_dead SET progress = ? WHERE ref = 1", [b'{"v":2}'])
    database.close()

    revived = shop.run("dead revive --all")

    assert (revived.returncode, revived.stdout) == (1, "1 revived\n")
    (line,) = lines(revived)
    assert line.endswith("stays: a newer release of relevo wrote the state: version 2; revive it with that release")


def test_a_drain_that_may_take_nothing_further_says_later(shop: Shop) -> None:
    shop.write("guard.py", "import relevo\n@relevo.hookimpl\ndef relevo_may_run(): return 'deploy'\n")
    shop.write("relevo.toml", 'plugins = ["guard"]\n' + CONFIGURATION)
    shop.run("""dispatch image.created '{"image_id": 7}'""")

    drained = shop.run("drain")
    worked = shop.run("worker")

    assert (drained.returncode, drained.stdout, drained.stderr) == (75, "", "")
    assert worked.returncode == 75
    assert json.loads(shop.run("status --json").stdout)[0]["ready"] == 1


def test_what_a_relay_dead_letters_is_told_and_counts(shop: Shop) -> None:
    relevo_sql, sqlalchemy = pytest.importorskip("relevo_sql"), pytest.importorskip("sqlalchemy")
    shop.write(
        "relevo.toml",
        CONFIGURATION.replace(
            'main = "sqlite:///shop.db"', 'main = { url = "sqlite:///shop.db", outbox = "sqlite:///outbox.db" }'
        ),
    )
    expired = Envelope(id="1", source="shop", name="mail.sent", queue="outbox/main", body=b"{}", expires=1.0)
    told = []

    for command in ("drain", "relay --until-empty"):
        with relevo_sql.SqlTransport(sqlalchemy.create_engine(f"sqlite:///{shop.folder}/outbox.db")) as outbox:
            outbox.setup(["outbox/main"])
            outbox.send([attrs.evolve(expired, id=command)])
        told.append(shop.run(command))

    assert [done.returncode for done in told] == [1, 1]
    assert told[0].stdout.startswith("0 done, 1 dead (1 expired); see relevo dead list in ")
    assert told[1].stdout.startswith("0 moved, 1 dead (1 expired); see relevo dead list in ")


def test_a_worker_stops_after_what_it_was_told(shop: Shop) -> None:
    for number in range(3):
        shop.run(f"dispatch image.created {shlex.quote(json.dumps({'image_id': number}))}")

    done = shop.run("worker --max-events 2 --max-time 20s -q media")

    assert (done.returncode, done.stdout, done.stderr) == (0, "made 0\nmade 1\n", "")


def test_listeners_are_shown_in_the_order_of_their_calls(shop: Shop) -> None:
    rows = json.loads(shop.run("listeners --json").stdout)

    assert [(row["event"], row["listener"], row["target"]) for row in rows] == [
        ("image.created", "shop_listeners:thumbnails", "main/media"),
        ("image.created", "shop_listeners:feed", "main/feed"),
        ("mail.sent", "shop_listeners:count", "main/default"),
    ]
    assert "shop_listeners:feed" in shop.run("listeners").stdout


def test_setup_says_what_it_creates_and_then_nothing(shop: Shop) -> None:
    plan = shop.run("setup --plan")
    planned = shop.folder.joinpath("shop.db").exists()
    created = shop.run("setup")
    again = shop.run("setup")

    assert plan.stdout == created.stdout != ""
    assert not planned
    assert again.stdout == "nothing is missing\n"


def test_the_configuration_can_stand_elsewhere_and_the_options_on_either_side(shop: Shop, tmp_path: Path) -> None:
    elsewhere = attrs.evolve(shop, folder=tmp_path / "elsewhere")
    elsewhere.folder.mkdir()

    before = elsewhere.run("--config ../relevo.toml dispatch mail.sent")
    behind = elsewhere.run("dispatch --config ../relevo.toml -a shop:app mail.sent")
    by_variable = elsewhere.run("status --json", RELEVO_CONFIG=str(shop.folder / "relevo.toml"))

    assert (before.returncode, behind.returncode) == (0, 0)
    assert [row["ready"] for row in json.loads(by_variable.stdout)] == [0, 0, 2]
    assert list(elsewhere.folder.iterdir()) == []


def test_the_environment_swaps_the_transport(shop: Shop) -> None:
    done = shop.run("dispatch mail.sent --json", RELEVO_TRANSPORTS__MAIN="memory://")

    assert json.loads(done.stdout)["targets"] == ["main/default"]
    assert not shop.folder.joinpath("shop.db").exists()


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
        "transports.main: an address begins with its scheme",
    ),
    "a bad port": (
        f'[transports]\nmain = "amqp://me:{CANARY}@host:x/"',
        "status",
        "transports.main: ",
    ),
    "an unknown key": (
        "sorce = 1",
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
        "transports.main.poll: expected `float`, got `array`",
    ),
    "a number out of range": (
        '[transports]\nmain = {url = "sqlite:///x.db", poll = 0}',
        "status",
        "transports.main: poll cannot be 0",
    ),
    "an empty configuration": (
        "",
        "status",
        "relevo.toml: no transport; add one",
    ),
    "a syntax error": (
        "a = = 1",
        "status",
        "relevo.toml:1: Invalid value (column 5)",
    ),
    "a configuration that is too large": (
        b"#" * (1 << 21),
        "status",
        "is larger than 1 MiB",
    ),
    "no route": (
        CONFIGURATION.replace('"*" =', '"mail.*" ='),
        "dispatch feed.read",
        'no route for "feed.read"; routes: "image.*", "mail.*"',
    ),
    "a listener in a queue without a route": (
        CONFIGURATION.replace("main/feed", "main/fed"),
        "drain",
        'shop_listeners:feed: it runs in the queue "feed", but "image.created" is routed to main/media, main/fed',
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
        'the module "shop_listeners" has no listener',
    ),
    "an event name in a listener module": (
        "import relevo\n@relevo.listener('a b')\ndef f(e): ...\n",
        "shop_listeners.py:2: 'a b' is not an event name",
    ),
    "a listener that is async": (
        "import relevo\n@relevo.listener('a.b')\nasync def f(e): ...\n",
        "shop_listeners:f cannot be a listener: async def",
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
        "is a directory, expected a file",
    ),
    "a queue that nothing is routed to": (
        "drain -q meida",
        78,
        'nothing is routed to the queue "meida" of "main"; did you mean "media"?; there are: media, feed, default',
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
        'app: "shop:number" is int, not a relevo.App',
    ),
    "an app that is a function": (
        "status -a shop:create",
        78,
        'app: "shop:create" is function, not a relevo.App',
    ),
    "an app without its name": (
        "status -a shop",
        78,
        'app: write "module:name", as in "shop:app", not "shop"',
    ),
    "a path as an app": (
        "status -a ./shop.py:app",
        78,
        "app: './shop.py:app' is not a module",
    ),
    "arguments that are no JSON": (
        "dispatch a.b nope",
        65,
        'the event "a.b" cannot be sent: $: the arguments are not JSON',
    ),
    "arguments that are no object": (
        "dispatch a.b [1]",
        65,
        "the arguments must be a JSON object, not list",
    ),
    "arguments with NaN": (
        "dispatch a.b '{\"a\": NaN}'",
        65,
        "the arguments are not JSON",
    ),
    "arguments with a lone surrogate": (
        'dispatch a.b \'{"a": "\\ud800"}\'',
        65,
        "$",
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
    "arguments that are too deep": (
        f"""dispatch a.b '{{"a": {"[" * 101}{"]" * 101}}}'""",
        65,
        "deeper than 100 levels",
    ),
}


def told_in_one_line(done: Done) -> str:
    """Return what *done* said, which is one line and not the password."""
    assert len(lines(done)) == 1, done.stderr
    assert done.stderr.startswith("relevo: ")
    assert CANARY not in done.stderr
    assert done.stdout == ""
    return done.stderr


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


def test_one_clear_line_about_a_package_that_is_missing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relevo._discovery._points", lambda *_, **__: ())

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
    assert lines(done)[-1] == "relevo: ZeroDivisionError: division by zero"
    assert "importlib" not in done.stderr
    assert "site-packages" not in done.stderr
    assert len(lines(done)) < 12


def test_too_large_an_event_is_bad_data(shop: Shop) -> None:
    done = shop.run("dispatch a.b -", given=json.dumps({"a": "x" * 1024 * 1024}).encode())

    assert (done.returncode, len(lines(done))) == (65, 1)
    assert "1,048,576 are allowed" in done.stderr


@pytest.mark.parametrize(
    "given, why",
    [
        (b"", "standard input is empty"),
        (b" \n", "standard input is empty"),
        (b"\xff", "are not JSON"),
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


def test_standard_input_that_is_closed_is_empty(shop: Shop) -> None:
    done = shop.process("relevo dispatch a.b - <&-")

    assert (done.returncode, len(lines(done))) == (65, 1)
    assert "standard input is empty" in done.stderr


def test_bytes_that_are_no_text_are_bad_data(shop: Shop) -> None:
    done = shop.process('relevo dispatch a.b $\'{"a": "\\xff"}\'')

    assert (done.returncode, len(lines(done))) == (65, 1)


@pytest.mark.parametrize(
    "command, why",
    [
        ("wrker", 'there is no command "wrker"; did you mean "worker"?'),
        ("frobnicate", 'there is no command "frobnicate"'),
        ("dead lst", "lst"),
        ("drain --max-event 3", "--max-event"),
        ("drain --max-events 0", "0 is not in the range"),
        ("drain --max-time soon", "it cannot be 'soon'; write seconds"),
        ("drain --max-time -1", "it cannot be '-1'"),
        ("dispatch", "Missing argument 'NAME'"),
        ("dispatch 'a b'", "'a b' is not an event name"),
        ("dispatch a.b --subject image", "write type/id, as in image/7"),
        ("dispatch a.b --delay never", "it cannot be 'never'"),
        ("dead revive", "name dead letters, or say --all"),
        ("dead revive x --all", "name dead letters, or say --all"),
        ("dead discard", "name dead letters, or say --all"),
        ("dead show nothing", "there is no dead letter 'nothing'; see relevo dead list"),
        ("status -l loud", "loud"),
    ],
)
def test_a_command_that_is_wrong_is_a_matter_of_usage(shop: Shop, command: str, why: str) -> None:
    done = shop.run(command)

    assert done.returncode == 2
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_found_says_where_it_was_looked_for(tmp_path: Path) -> None:
    done = Shop(tmp_path).run("status")

    assert done.returncode == 78
    assert f"there is no relevo.toml in {tmp_path} or above: no transport; add one" in done.stderr


def test_a_folder_that_is_gone_is_told(shop: Shop) -> None:
    done = shop.process("mkdir gone && cd gone && rmdir ../gone && relevo status")

    assert (done.returncode, done.stderr) == (78, "relevo: the working directory does not exist any more\n")


# --- servers and secrets --------------------------------------------------------------------------------


AMQP = f"""[transports]
main = {{ url = "amqp://me:{CANARY}@127.0.0.1:1/", connect_timeout = 1, outbox = "sqlite:///box.db" }}
"""


@pytest.mark.parametrize("command", ["status", "dispatch a.b", "drain", "worker --fail-fast", "setup", "dead list"])
def test_a_server_that_is_down_is_told(shop: Shop, command: str) -> None:
    pytest.importorskip("relevo_amqp")
    shop.write("relevo.toml", AMQP)

    done = shop.run(command)

    assert done.returncode == 69, done.stderr
    assert len(lines(done)) == 1
    assert done.stderr.startswith('relevo: the transport "main" is unavailable')
    assert CANARY not in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["drain", "dispatch a.b"])
def test_no_log_line_shows_the_password(shop: Shop, command: str) -> None:
    pytest.importorskip("relevo_amqp")
    shop.write("relevo.toml", AMQP)

    done = shop.process(f"relevo {command} -l debug")

    assert CANARY not in done.stdout + done.stderr
    assert lines(done)[-1].startswith('relevo: the transport "main" is unavailable')


def test_a_database_that_cannot_be_written_is_unavailable(shop: Shop) -> None:
    shop.write("relevo.toml", '[transports]\nmain = "sqlite:////proc/none/x.db"\n')

    done = shop.run("dispatch a.b")

    assert done.returncode == 69
    assert len(lines(done)) == 1


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
    assert lines(done)[0] == "relevo: a defect in relevo or in a module of yours:"
    assert lines(done)[-1] == "ZeroDivisionError: in stats"
    assert CANARY not in done.stderr


# --- where the output goes --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["dead list", "dead list --json", "--help", "status", "listeners"])
def test_a_reader_that_has_seen_enough_ends_it_without_a_word(shop: Shop, command: str) -> None:
    for _ in range(2):
        shop.run("""dispatch image.created '{"bad": true}'""")
    shop.run("drain")

    done = shop.process(f"relevo {command} | head -c 1 > /dev/null; exit ${{PIPESTATUS[0]}}")

    assert done.stderr == ""
    assert done.returncode in (0, 141)


def test_a_closed_standard_output_is_no_fault(shop: Shop) -> None:
    for command in ("status", "dispatch mail.sent", "drain", "listeners --json"):
        assert shop.process(f"relevo {command} >&-").returncode == 0


def test_tables_are_not_folded_for_programs(shop: Shop) -> None:
    name = "image." + "x" * 190
    shop.run(f"dispatch {name}")
    shop.run("drain", RELEVO_PATIENCE="0")
    time.sleep(1.2)
    shop.run("drain", RELEVO_PATIENCE="0")

    listed = shop.run("dead list")

    assert any(name in line for line in listed.stdout.splitlines())
    assert all(line == line.rstrip() for line in listed.stdout.splitlines())


def test_help_is_quick_and_names_every_command(shop: Shop) -> None:
    done = shop.run("--help")
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "relevo", "--help"], capture_output=True, text=True, check=True
    ).stderr

    assert all(f"  {name} " in done.stdout for name in ("worker", "drain", "dispatch", "status", "dead", "setup"))
    for heavy in ("sqlalchemy", "stevedore", "rich", "asyncio", "tomllib", "pika"):
        assert not any(line.split("|")[-1].strip() == heavy for line in loaded.splitlines()), heavy


def test_every_command_has_help(shop: Shop) -> None:
    for command in (
        "worker",
        "drain",
        "dispatch",
        "relay",
        "status",
        "dead",
        "dead list",
        "dead show",
        "dead revive",
        "listeners",
        "setup",
    ):
        done = CliRunner().invoke(group, [*command.split(), "--help"])
        assert done.exit_code == 0
        assert done.output.startswith("Usage: ")
