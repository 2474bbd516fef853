"""The command line as a user meets it: the story, where the output goes, and help."""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import attrs
import click
import pytest
from click.testing import CliRunner
from hypothesis import given, strategies as st

from relevo import Envelope, Report
from relevo._log_line import LogLineFormatter, line_handler
from relevo.cli._main import group
from relevo.cli._output import _plain_table, _show_folded, _width
from relevo.cli._run import _summary

from .shop import CONFIGURATION, LISTENERS, Done, Shop, lines

# --- the story ----------------------------------------------------------------------------------------


@pytest.mark.lengthy("starts processes")
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


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize("command", ["drain", "worker --max-time 0.1s"])
def test_a_run_that_creates_the_database_says_so_once(shop: Shop, command: str) -> None:
    first, second = shop.process(f"relevo {command}"), shop.process(f"relevo {command}")
    (shop.folder / "shop.db").unlink()
    after_setup = shop.process(f"relevo setup > setup.txt && relevo {command}")
    in_memory = shop.process(f"export RELEVO_TRANSPORTS__MAIN=sqlite:// && relevo {command}")

    (told,) = [line for line in first.stderr.splitlines() if "created the" in line]
    assert told.partition(" ")[2] == (
        f"WARNING relevo.runner: created the database {shop.folder}/shop.db; if there should have been one, check its "
        "path, and whether its disk is mounted"
    )
    assert first.returncode == 0
    assert "created the" not in second.stderr + after_setup.stderr + in_memory.stderr


def test_a_dead_letter_is_shown_to_a_program_with_each_failure_as_data(shop: Shop) -> None:
    shop.run("""dispatch image.created '{"bad": true}'""")
    shop.run("drain")

    shown = json.loads(shop.run("dead show 1 --json").stdout)

    (failure,) = shown["failures"]
    assert (failure["listener"], failure["attempt"]) == ("shop_listeners:thumbnails", 1)
    assert (failure["reason"], failure["exception"]) == ("gave-up", "GiveUp")
    assert failure["error"] == "GiveUp: a corrupt \x1b[31mfile"
    assert failure["traceback"].startswith("Traceback")
    assert failure["traceback"] in shown["error"]


@pytest.mark.lengthy("runs commands")
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
    assert re.fullmatch(r"1 done in \d+\.\d s, 1 dead \(1 gave-up\); see relevo dead list\n", drained.stdout)
    assert (row["event"], row["queue"], row["reason"], row["attempt"]) == ("image.created", "media", "gave-up", 1)
    assert "GiveUp: a corrupt \\x1b[31mfile" in listed.stdout
    assert "\x1b" not in listed.stdout + shown.stdout
    assert shown.stdout == beginning.stdout
    assert '"bad":true' in shown.stdout
    assert "shop_listeners:thumbnails" in shown.stdout
    assert (revived.returncode, revived.stdout) == (0, "1 revived\n")
    assert (kept.returncode, kept.stdout) == (0, "nothing was deleted\n")
    assert unanswered.returncode == 2
    assert "standard input ended without an answer; pass --yes" in unanswered.stderr
    assert (discarded.returncode, discarded.stdout) == (0, "1 discarded\n")
    assert empty.stdout == "no dead letters\n"


def test_a_dead_letter_that_its_queue_does_not_accept_stays_until_the_list_has_changed(shop: Shop) -> None:
    shop.run("dispatch image.deleted")
    shop.write("relevo.toml", f'{CONFIGURATION}\n[queues.feed]\naccept = ["image.created"]\n')
    shop.run("drain -q feed")
    (dead,) = json.loads(shop.run("dead list --json").stdout)

    kept = shop.run("dead revive --all")
    still = json.loads(shop.run("dead list --json").stdout)
    shop.write("relevo.toml", CONFIGURATION)
    done = shop.run("dead revive --all")

    assert (dead["reason"], still) == ("not-accepted", [dead])
    assert kept.returncode == 1
    assert "stays: the queue main/feed does not accept 'image.deleted'; it accepts: " in kept.stderr
    assert (done.returncode, done.stdout) == (0, "1 revived\n")


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
        with relevo_sql.SqlTransport(
            sqlalchemy.create_engine(f"sqlite:///{shop.folder}/outbox.db", poolclass=sqlalchemy.NullPool)
        ) as outbox:
            outbox.setup(["outbox/main"])
            outbox.send([attrs.evolve(expired, id=command)])
        told.append(shop.run(command))

    assert [done.returncode for done in told] == [1, 1]
    assert told[0].stdout.endswith(" s, 1 dead (1 expired); see relevo dead list\n")
    assert told[1].stdout.endswith(" s, 1 dead (1 expired); see relevo dead list\n")


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


def test_the_sql_of_a_setup_is_printed_once_for_each_database_and_creates_nothing(shop: Shop) -> None:
    shop.write(
        "relevo.toml",
        """
        source = "shop"
        app = "shop:app"
        [transports]
        main = "sqlite:///shop.db"
        other = { url = "memory://", outbox = "sqlite:///shop.db" }
        third = "sqlite:///third.db"
        [routes]
        "*" = ["main", "other", "third"]
        """,
    )

    printed = shop.run("setup --print")
    third = shop.run("setup --print -t third")
    outbox = shop.run("setup --print -t other")

    heads = [line.rpartition("/")[2] for line in printed.stdout.splitlines() if line.startswith("--")]
    assert (printed.returncode, heads) == (0, ["shop.db", "third.db"])
    assert printed.stderr == (
        'relevo: the transport "other" has no SQL to print; relevo setup --plan shows what it lacks\n'
    )
    assert (third.stdout.count("CREATE TABLE relevo_event"), third.stderr) == (1, "")
    assert "shop.db" in outbox.stdout
    assert not list(shop.folder.glob("*.db"))


def test_the_statement_that_inserts_an_event_is_printed_where_there_is_one(shop: Shop) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("[routes]", 'other = "memory://"\n[routes]'))

    main = shop.run("setup --print-insert -t main")
    other = shop.run("setup --print-insert -t other")

    assert (main.returncode, main.stderr) == (0, "")
    assert main.stdout.startswith("INSERT INTO relevo_event (")
    assert (other.returncode, other.stdout) == (0, "")
    assert 'the transport "other" has no SQL to print' in other.stderr
    assert not list(shop.folder.glob("*.db"))


@pytest.mark.parametrize("other", ["--plan", "--check", "--json", "--print-insert"])
@pytest.mark.parametrize("option", ["--print", "--print-insert"])
def test_printing_the_sql_of_a_setup_is_not_combined(shop: Shop, option: str, other: str) -> None:
    done = shop.run(f"setup {option} {other if other != option else '--print'}")

    assert (done.returncode, done.stdout) == (2, "")
    assert "omit --plan, --check and --json" in done.stderr


def test_an_upgrade_prints_no_statement_that_inserts(shop: Shop) -> None:
    done = shop.run("setup --print-insert --upgrade")

    assert (done.returncode, "omit --upgrade" in done.stderr) == (2, True)


def test_an_upgrade_of_what_does_not_exist_is_a_setup(shop: Shop) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("[routes]", 'other = "memory://"\n[routes]'))

    plan = shop.run("setup --upgrade --plan")
    printed = shop.run("setup --upgrade --print")
    planned = list(shop.folder.glob("*.db"))
    done = shop.run("setup --upgrade")
    check = shop.run("setup --upgrade --check -t main")

    assert (plan.returncode, plan.stdout, planned) == (0, done.stdout, [])
    assert (printed.returncode, "CREATE TABLE relevo_event" in printed.stdout) == (0, True)
    assert 'the transport "other" has no SQL to print' in printed.stderr
    assert (done.returncode, "table relevo_event" in done.stdout) == (0, True)
    assert (check.returncode, check.stdout) == (0, "nothing is missing\n")


def test_one_transport_is_set_up_by_its_name(shop: Shop) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("[routes]", 'other = "sqlite:///other.db"\n[routes]'))

    done = shop.run("setup -t main")
    left = shop.run("setup --check")
    wrong = shop.run("setup --check -t mian")

    assert (done.returncode, shop.folder.joinpath("other.db").exists()) == (0, False)
    assert (left.returncode, "table relevo_event" in left.stdout) == (78, True)
    assert (wrong.returncode, 'did you mean "main"' in wrong.stderr) == (78, True)


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


# --- where the output goes --------------------------------------------------------------------------------


@pytest.mark.slow("five commands, each in a process of its own")
@pytest.mark.parametrize("command", ["dead list", "dead list --json", "--help", "status", "listeners"])
def test_a_reader_that_has_seen_enough_ends_it_without_a_word(shop: Shop, command: str) -> None:
    for _ in range(2):
        shop.run("""dispatch image.created '{"bad": true}'""")
    shop.run("drain")

    done = shop.process(f"relevo {command} | head -c 1 > /dev/null; exit ${{PIPESTATUS[0]}}")

    assert done.stderr == ""
    assert done.returncode in (0, 141)


@pytest.mark.slow("four commands, each in a process of its own")
def test_a_closed_standard_output_cannot_be_written(shop: Shop) -> None:
    shop.run("setup")
    for command in ("status", "dispatch mail.sent", "listeners --json", "unit cron"):
        done = shop.process(f"relevo {command} >&-")
        assert done.stderr == (
            "relevo: standard output cannot be written: it is closed; what the command did is done\n"
        )
        assert done.returncode == 74
    assert shop.process("relevo drain >&-") == Done(0, "", ""), "it has nothing to print"
    assert "    0  " in shop.run("status").stdout


@pytest.mark.lengthy("runs commands")
def test_tables_are_not_folded_for_programs(shop: Shop) -> None:
    name = "image." + "x" * 190
    shop.run(f"dispatch {name}")
    listed, deadline = shop.run("dead list"), time.monotonic() + 60
    while name not in listed.stdout and time.monotonic() < deadline:  # a listener is waited for, for a second at least
        shop.run("drain", RELEVO_PATIENCE="0")
        listed = shop.run("dead list")

    assert any(name in line for line in listed.stdout.splitlines())
    assert all(line == line.rstrip() for line in listed.stdout.splitlines())


@pytest.mark.slow("several commands, each in a process of its own")
@pytest.mark.parametrize("encoding", ["latin-1", "cp437", "utf-8"])
def test_what_the_encoding_has_no_form_for_is_escaped(shop: Shop, encoding: str) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("shop.db", "→é𝄞.db"))
    before = f"export PYTHONIOENCODING={encoding};"

    done = shop.process(
        f"{before} relevo dispatch mail.sent > sent && relevo config show > table && relevo config show --json > json"
    )

    assert (done.returncode, done.stderr) == (0, "")
    sent, table, as_json = (
        shop.folder.joinpath(name).read_bytes().decode(encoding) for name in ("sent", "table", "json")
    )
    assert sent.endswith(("→ main/default\n", "\\u2192 main/default\n"))
    assert "é" in table
    assert "sqlite:///→é𝄞.db" in [row["value"] for row in json.loads(as_json)]


@pytest.mark.slow("starts the command line in a process of its own")
def test_a_terminal_that_is_too_narrow_for_a_table_shows_a_value_in_a_line(shop: Shop) -> None:
    shop.run("setup")
    narrow = at_terminal(shop, "status -q media", columns=40)
    wide = at_terminal(shop, "status -q media", columns=80)

    assert narrow[:7] == [
        "transport: main",
        "queue:     media",
        "ready:     0",
        "leased:    0",
        "scheduled: 0",
        "dead:      0",
        "oldest:    -",
    ]
    assert [line.split() for line in wide[1:2]] == [["main", "media", "0", "0", "0", "0", "-"]]


def at_terminal(shop: Shop, command: str, *, columns: int) -> list[str]:
    """Return what somebody at a terminal of so many *columns* reads."""
    terminal, its_end = os.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "NO_COLOR": "1"}
    subprocess.run(
        [sys.executable, "-m", "relevo", *shlex.split(command)],
        cwd=shop.folder,
        env=environ,
        stdout=its_end,
        check=True,
    )
    os.close(its_end)
    shown = os.read(terminal, 65536)
    os.close(terminal)
    return shown.decode().splitlines()


# --- help ---------------------------------------------------------------------------------------------------


def commands(group_: click.Group = group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return every command there is, as it is typed."""
    context = click.Context(group_)
    found = []
    for name in group_.list_commands(context):
        command = group_.get_command(context, name)
        found.append((*path, name))
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
    return found


def test_help_names_every_command_in_sections(shop: Shop) -> None:
    done = shop.run("--help")

    assert all(f"\n  {name} " in done.stdout for name, *_ in commands())
    assert [line for line in done.stdout.splitlines() if line and line[0] != " "][1:] == [
        "Options:",
        "Handle events:",
        "Look after events:",
        "Look after the application:",
    ]


def test_without_arguments_the_first_commands_are_named(shop: Shop) -> None:
    done = shop.run("")

    assert (done.returncode, done.stdout) == (2, "")
    assert "  dispatch  Dispatch one event.\n" in done.stderr
    assert len(lines(done)) < 12


@pytest.mark.parametrize("command", ["", "--help", "--version", "wrker"])
def test_what_needs_no_application_is_quick(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "relevo", *shlex.split(command)],
        capture_output=True,
        text=True,
        check=False,
    )
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}

    assert "relevo.cli._main" in loaded
    for heavy in ("sqlalchemy", "stevedore", "rich", "asyncio", "tomllib", "pika", "attrs", "msgspec", "logging"):
        assert heavy not in loaded
    assert {name for name in loaded if name.startswith("relevo._")} == {"relevo._secret", "relevo._visible"}


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize("command", ["status", "drain", "dead list"])
def test_a_short_command_does_without_what_is_slow_to_import(shop: Shop, command: str) -> None:
    shop.run("dispatch mail.sent")

    done = shop.process(f"PYTHONPROFILEIMPORTTIME=1 relevo {command}")

    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert "relevo_sql._transport" in loaded
    assert not {"rich", "sqlalchemy.orm", "relevo.ext.mail", "difflib"} & loaded


@pytest.mark.lengthy("starts processes")
def test_the_search_for_garbage_begins_when_the_application_is_open(shop: Shop) -> None:
    shop.write(
        "shop_listeners.py",
        "import gc, relevo\n"
        "@relevo.listener('mail.sent')\n"
        "def count(event): print(gc.isenabled(), gc.get_freeze_count() > 10_000)\n",
    )
    before = gc.isenabled(), gc.get_freeze_count()

    done = shop.process("relevo dispatch mail.sent > /dev/null && relevo drain")
    shop.run("dispatch mail.sent")
    shop.run("drain")

    assert done.stdout.splitlines()[0] == "True True"
    assert gc.isenabled() == before[0]
    assert gc.get_freeze_count() <= before[1], "it does not freeze what other tests have made"


_texts = st.text(st.sampled_from("ab é語🎉e\u0301-"), max_size=6).map(str.strip)


@given(st.lists(st.tuples(_texts, _texts, _texts), min_size=1, max_size=4), st.tuples(*[st.booleans()] * 3))
def test_a_table_that_fits_looks_as_one_that_is_folded(rows: list[tuple[str, ...]], numbers: tuple[bool, ...]) -> None:
    columns = ("name", "語", "c")
    widths = [max(map(_width, each)) for each in zip(columns, *rows, strict=True)]
    out = io.StringIO()

    with redirect_stdout(out):
        _show_folded(columns, rows, numbers, 200)

    assert "\n".join([*_plain_table(columns, rows, numbers, widths), ""]) == out.getvalue()


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(group, [*command, "--help"])

    assert done.exit_code == 0
    assert done.output.startswith("Usage: ")
    assert "Example" in done.output
    assert f"relevo {' '.join(command)}" in " ".join(done.output.split("Example")[1].split())


@pytest.mark.parametrize("path", sorted({path[:-1] for path in commands()}), ids=" ".join)
def test_the_help_of_a_group_shows_the_line_of_each_command_in_full(path: tuple[str, ...]) -> None:
    output = CliRunner().invoke(group, [*path, "--help"], terminal_width=80).output

    named = [name for *above, name in commands() if tuple(above) == path]
    rows = {name: re.search(rf"^  {name} +(.+(?:\n {{6,}}.+)*)$", output, re.MULTILINE) for name in named}
    assert [name for name, row in rows.items() if row is None or not row[1].endswith(".")] == []
    assert [name for name, row in rows.items() if row is not None and row[1].endswith("...")] == []


SILENT: set[tuple[str, ...]] = {("dead",), ("deploy",), ("config",), ("completion",), ("unit",)}
SILENT |= {("unit", name) for name in ("cron", "supervisor", "systemd")}
"""Groups, and what prints a script."""


@pytest.mark.parametrize("command", [each for each in commands() if each not in SILENT], ids=" ".join)
def test_every_command_that_shows_something_does_so_for_programs(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(group, [*command, "--help"])

    assert "--json" in done.output


def test_what_is_done_is_told_as_json(shop: Shop) -> None:
    shop.run("""dispatch image.created '{"bad": true}'""")

    plan = json.loads(shop.run("setup --json").stdout)
    drained = json.loads(shop.run("drain --json").stdout)
    revived = json.loads(shop.run("dead revive --all --json").stdout)
    worked = json.loads(shop.run("worker --max-events 1 --json").stdout)
    discarded = json.loads(shop.run("dead discard --all --yes --json").stdout)

    assert plan == []
    assert (drained["dead"], drained["reasons"]) == (1, {"gave-up": 1})
    assert revived == {"revived": 1, "gone": [], "unknown": [], "stayed": []}
    assert (worked["handled"], worked["stopped_by"]) == (1, "events")
    assert discarded == {"discarded": 1, "gone": [], "unknown": []}


def test_a_setup_that_only_checks_says_later_what_is_missing(shop: Shop) -> None:
    before = shop.run("setup --check")
    there = shop.folder.joinpath("shop.db").exists()
    shop.run("setup")
    after = shop.run("setup --check")

    assert (before.returncode, there) == (78, False)
    assert (after.returncode, after.stdout) == (0, "nothing is missing\n")


# --- completion ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(shop: Shop, shell: str) -> None:
    done = shop.run(f"completion {shell}")

    assert (done.returncode, done.stderr) == (0, "")
    assert "_RELEVO_COMPLETE" in done.stdout
    assert "relevo" in done.stdout


def completed(shop: Shop, typed: str) -> list[str]:
    """Return what bash offers for the last word of *typed*."""
    words = f"relevo {typed}".split(" ")
    done = shop.run("", _RELEVO_COMPLETE="bash_complete", COMP_WORDS=" ".join(words), COMP_CWORD=str(len(words) - 1))
    assert (done.returncode, done.stderr) == (0, "")
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_commands_options_and_transports_are_completed(shop: Shop) -> None:
    assert completed(shop, "dr") == ["drain"]
    assert completed(shop, "dead re") == ["revive"]
    assert completed(shop, "drain --max-e") == ["--max-events"]
    assert completed(shop, "listeners --format m") == ["mermaid"]
    assert completed(shop, "status -t ") == ["main"]
    assert completed(shop, "--config nothing.toml status -t ") == []
    assert completed(shop, "status -t x") == []


def test_what_is_wrong_with_the_configuration_is_not_told_while_somebody_types(shop: Shop) -> None:
    shop.write("relevo.toml", "sorce = 1")

    assert completed(shop, "status -t ") == []


# --- log lines ----------------------------------------------------------------------------------------------


@pytest.fixture(name="in_tokyo")
def _in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


def test_a_log_line_is_one_line_whatever_it_holds(in_tokyo: None) -> None:
    record = logging.LogRecord("relevo.worker", logging.WARNING, "", 0, "%s died", ("a\nb\x1b[31m\u202ec",), None)
    record.created, record.msecs = 0.0, 7.0

    assert LogLineFormatter().format(record) == (
        "1970-01-01T00:00:00.007Z WARNING relevo.worker: a\\nb\\x1b[31m\\u202ec died"
    )


@pytest.mark.parametrize(
    ("name", "level", "logged"),
    [
        ("stevedore.extension", logging.DEBUG, 0),
        ("pika.adapters", logging.INFO, 0),
        ("pika.adapters", logging.WARNING, 1),
        ("shop", logging.DEBUG, 1),
        ("relevo.worker", logging.DEBUG, 1),
    ],
)
def test_the_steps_of_a_library_are_logged_only_if_the_program_sets_its_level(
    name: str, level: int, logged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = logging.LogRecord(name, level, "", 0, "x", (), None)

    assert bool(line_handler().filter(record)) == bool(logged)

    monkeypatch.setattr(logging.getLogger(name.partition(".")[0]), "level", logging.DEBUG)
    assert line_handler().filter(record)


def test_a_traceback_cannot_look_like_a_record() -> None:
    error = ValueError("x\n1970-01-01T00:00:00.000Z ERROR relevo: forged")
    record = logging.LogRecord("relevo", logging.ERROR, "", 0, "failed", (), (ValueError, error, None))

    first, *rest = LogLineFormatter().format(record).splitlines()

    assert first.endswith(" ERROR relevo: failed")
    assert all(line.startswith("  ") for line in rest)
    assert rest[-1] == "  1970-01-01T00:00:00.000Z ERROR relevo: forged"


FAILING = """
import relevo

@relevo.listener("image.created", queue="media", retry=relevo.Retry(3, first="9m", jitter=0))
def thumbnails(event):
    raise ValueError("no such file: sea.jpg")
"""


@pytest.mark.slow("six commands, each in a process of its own")
@pytest.mark.parametrize("execution", ["inline", "process"])
def test_a_drain_without_a_terminal_logs_what_is_tried_again_only_if_it_is_asked(shop: Shop, execution: str) -> None:
    shop.write(
        "relevo.toml",
        f'execution = "{execution}"\n' + CONFIGURATION.replace('["main/media", "main/feed"]', '"main/media"'),
    )
    shop.write("shop_listeners.py", FAILING)

    silent = shop.process("relevo dispatch image.created && relevo drain")
    asked = shop.process("relevo dispatch image.created && relevo drain -l warning")

    assert (silent.returncode, silent.stderr) == (0, "")
    assert (asked.returncode, len(lines(asked))) == (0, 1)
    assert " WARNING relevo.listener: shop_listeners:thumbnails failed on image.created " in asked.stderr
    assert (
        " in media (run 1 of 3, again in 9 min): ValueError: no such file: sea.jpg (shop_listeners.py:6)"
        in asked.stderr
    )


@pytest.mark.parametrize(("level", "warns"), [("", False), ("-l warning", False), ("-l info", True)])
def test_a_drain_warns_of_a_time_limit_that_is_not_enforced_but_not_each_minute(
    shop: Shop, caplog: pytest.LogCaptureFixture, level: str, *, warns: bool
) -> None:
    shop.write("shop_listeners.py", LISTENERS.replace("priority=3", 'time_limit="1s"'))
    caplog.set_level("INFO" if warns else "WARNING", "relevo")

    shop.run(f"drain {level}")

    assert ("time_limit=1 s is not enforced inline" in caplog.text) is warns


@pytest.mark.parametrize("parameters", ["image_id", "image_id, carrier"])
def test_a_drain_warns_of_parameters_that_are_named_like_data(
    shop: Shop, caplog: pytest.LogCaptureFixture, parameters: str
) -> None:
    shop.write(
        "shop_listeners.py",
        f"import relevo\n\n@relevo.listener('image.created', queue='media')\ndef thumbnails({parameters}):\n    pass\n",
    )
    caplog.set_level("INFO", "relevo")

    shop.run("drain -l info")

    assert f"shop_listeners:thumbnails ({shop.folder}/shop_listeners.py:3) takes ({parameters}), but is" in caplog.text


def test_an_application_without_listeners_is_told_that_it_handles_nothing(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace('["shop_listeners"]', "[]"))
    told = 'no listeners, so no event is handled here; name their modules: listeners = ["…"] in relevo.toml'
    caplog.set_level("INFO", "relevo")

    checked, strict = shop.run("check"), shop.run("check --strict")
    shop.run("drain -l info")

    assert f"listeners       warning  {told}" in checked.stdout
    assert (checked.returncode, "relevo: listeners: " in strict.stderr) == (0, False)
    assert [each.getMessage() for each in caplog.records].count(told) == 1


def test_an_application_made_in_code_without_listeners_is_told_how_to_name_them_there(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.write("bare.py", 'import relevo\napp = relevo.App(transports={"main": "sqlite:///bare.db"})\n')
    told = 'no listeners, so no event is handled here; name their modules: relevo.App(listeners=["…"])'
    caplog.set_level("INFO", "relevo")

    checked = shop.run("-a bare:app check")
    shop.run("-a bare:app drain -l info")

    assert told in checked.stdout
    assert [each.getMessage() for each in caplog.records].count(told) == 1


def test_the_summary_of_a_drain_says_why_events_will_be_retried(shop: Shop) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace('["main/media", "main/feed"]', '"main/media"'))
    shop.write("shop_listeners.py", FAILING)
    for name in ("image.created", "image.created", "image.crated"):
        shop.run(f"dispatch {name}")

    done = shop.run("drain --json")

    assert json.loads(done.stdout)["retry_reasons"] == {"listener-failed": 2, "unknown-event": 1}
    assert _summary(Report(retried=3, retry_reasons={"unknown-event": 1, "listener-failed": 2})) == (
        "0 done in 0.0 s, 3 retries (2 listener-failed, 1 unknown-event)"
    )


@pytest.mark.slow("a command in a process of its own")
def test_debug_logs_the_steps_of_relevo_and_not_those_of_its_libraries(shop: Shop) -> None:
    shop.run("dispatch mail.sent")

    done = shop.process("relevo drain -l debug -c 2")

    records = [line.split(" ", 1)[1] for line in lines(done)]
    assert f"DEBUG relevo.app: the configuration is {shop.folder}/relevo.toml" in records
    assert 'DEBUG relevo.app: the transport "main": SqlTransport' in records
    assert "INFO relevo.worker: serving main: media, feed, default (2 threads)" in records
    assert "DEBUG relevo.worker: received 1 from main" in records
    assert any(re.fullmatch(r"DEBUG relevo.worker: mail.sent \S+ in default: done", each) for each in records)
    assert "INFO relevo.worker: stopped serving main (empty): 1 done, 0 retries, 0 dead" in records
    assert all(re.match(r"(DEBUG|INFO) relevo\.", each) for each in records)


@pytest.mark.slow("two commands, each in a process of its own")
def test_log_lines_of_all_commands_have_one_form(shop: Shop) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace('"main/feed"]', '"main/feed", "main/third"]'))
    shop.run("setup")

    done = shop.process("relevo drain; relevo worker --max-time 1s")

    form = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING relevo\.\w+: \S.*")
    assert len(lines(done)) == 2
    assert all(form.fullmatch(line) for line in lines(done))
