"""``relevo dispatch --lines``: events from a file, what is invalid in it, and how an interrupted command continues."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

import pytest

from relevo.cli._arguments import MAX_LINE
from relevo.cli._lines import CHUNK, Lines
from relevo.cli._position import FirstLine, Ids
from relevo.cli._progress import progress

from .shop import Shop, lines, told_in_one_line

KEY = "0193a5c0b0007000800000000000abcd"
COMMAND = "dispatch row.imported --lines rows.jsonl"


def numbered(numbers: Iterable[int]) -> str:
    return "".join(f'{{"id": {number}}}\n' for number in numbers)


def stored(shop: Shop) -> list[int]:
    """Return the numbers of the events in the queue, in order."""
    with closing(sqlite3.connect(shop.folder / "shop.db")) as database:
        found = database.execute("SELECT body FROM relevo_event ORDER BY seq").fetchall()
    return [json.loads(body)["data"]["id"] for (body,) in found]


def ids(shop: Shop) -> list[str]:
    with closing(sqlite3.connect(shop.folder / "shop.db")) as database:
        return [event_id for (event_id,) in database.execute("SELECT event_id FROM relevo_event ORDER BY seq")]


# --- all lines --------------------------------------------------------------------------------------------


def test_an_event_is_dispatched_for_each_line_in_order(shop: Shop) -> None:
    shop.write("rows.jsonl", "\ufeff" + numbered(range(2500)) + '\n  \r\n{"id": 2500}\r\n{"id": 2501}')

    done = shop.run(COMMAND)

    (advice,) = lines(done)
    assert done.returncode == 0
    assert advice.startswith('relevo: no listener here for "row.imported" in main/default; ')
    assert re.fullmatch(r"2502 dispatched in \d+\.\d s → main/default\n", done.stdout)
    assert stored(shop) == list(range(2502))
    assert ids(shop) == sorted(set(ids(shop)), key=ids(shop).index)


def test_the_lines_of_standard_input_have_the_options_of_the_command(shop: Shop) -> None:
    command = (
        "dispatch image.created --lines - --subject image/7 --urgency high --ordering-key k --expires 1h --delay 9m"
    )

    done = shop.run(f"{command} --json", given=b'{"a": 1}\n{"a": 2}\n')

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "lines": 2,
        "dispatched": 2,
        "rejected": 0,
        "earlier": {"lines": 0, "rejected": 0},
        "rejects": [],
        "targets": ["main/media", "main/feed"],
    }
    with closing(sqlite3.connect(shop.folder / "shop.db")) as database:
        found = database.execute(
            "SELECT body ->> '$.subject', urgency, ordering_key, round(expires - ready_at / 1e6, -1) FROM relevo_event"
        ).fetchall()
    assert found == [("image/7", found[0][1], "k", 3600 - 540)] * 4


def test_each_line_is_validated_with_the_class_of_the_listeners(shop: Shop) -> None:
    shop.write(
        "shop_listeners.py",
        "import attrs, relevo\n"
        "@relevo.event('row.imported', version=3)\n"
        "@attrs.frozen\n"
        "class RowImported:\n"
        "    id: int\n"
        "@relevo.listener(RowImported)\n"
        "def load(event): ...\n",
    )
    shop.write("rows.jsonl", '{"id": 0}\n{"id": "one"}\n{"id": 2}\n')

    done = shop.run(COMMAND)

    why = "the data of 'row.imported' does not fit RowImported: Expected `int`, got `str` - at `$.id`"
    assert (done.returncode, lines(done)) == (65, [f"relevo: line 2: {why}"])
    assert stored(shop) == [0, 2]
    with closing(sqlite3.connect(shop.folder / "shop.db")) as database:
        assert set(database.execute("SELECT body ->> '$.dataversion' FROM relevo_event")) == {(3,)}


def called_in_process(shop: Shop) -> None:
    """Route the events to a listener that is called at once, and raises for 0."""
    shop.write("relevo.toml", (shop.folder / "relevo.toml").read_text().replace('"*" = "main"', '"*" = "now"'))
    shop.write(
        "shop_listeners.py",
        "import relevo\n"
        "@relevo.listener('row.imported')\n"
        "def load(event):\n"
        "    print('loaded', event['id'], 6 // event['id'])\n",
    )


def test_on_a_route_in_process_an_error_of_a_listener_names_the_line(shop: Shop) -> None:
    called_in_process(shop)
    shop.write("rows.jsonl", numbered([3, 2, 0, 1]))

    done = shop.run(f"{COMMAND} --resume position")
    shop.write("rows.jsonl", numbered([3, 2, 6, 1]))
    again = shop.run(f"{COMMAND} --resume position")

    assert (done.returncode, done.stdout) == (70, "loaded 3 2\nloaded 2 3\n")
    assert lines(done)[0] == (
        "relevo: lines 1 to 2 are dispatched or rejected, and perhaps some of lines 3 to 3; "
        "to continue, run the same command again"
    )
    assert "ZeroDivisionError" in done.stderr
    assert again.stdout.startswith("loaded 6 1\nloaded 1 6\n2 dispatched in ")


# --- invalid lines ----------------------------------------------------------------------------------------

INVALID = {
    '{"id": 1': "the arguments are not JSON: expecting ',' delimiter in column 9; write an object, as in "
    "'{\"image_id\": 7}'",
    "[1]": "the arguments must be a JSON object, not list; write an object, as in '{\"image_id\": 7}'",
    '{"id": [NaN]}': "$.id[0]: NaN is not JSON; send null or text",
    '{"id": 1, "id": 2}': "duplicate key 'id'; remove one of them",
    '{"id": "\\u0000"}': "$.id: holds a NUL character, which PostgreSQL cannot store",
    '{"id": {"a": "\\ud800"}}': "$.id.a: holds the lone surrogate U+D800, which is not a character",
    '{"id": 9223372036854775808}': "$.id: the integer does not fit 64 bits; send it as text",
    '{"id": 1e999}': "$.id: 1e999 is too large for a number; send it as text",
    '{"id": "a\tb"}': "the arguments are not JSON: invalid control character in column 10; write an object, as in "
    "'{\"image_id\": 7}'",
    "\\": "the arguments are not JSON: expecting value in column 1; write an object, as in '{\"image_id\": 7}'",
    '{"id": ' + "[" * 101 + "]" * 101 + "}": f"$.id{'[0]' * 26}[…: deeper than 100 levels",
    '{"id": "' + "x" * 1024 * 1024 + '"}': None,
}


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize("line, why", INVALID.items(), ids=[str(number) for number in range(len(INVALID))])
def test_an_invalid_line_is_reported_by_its_number_and_the_others_are_dispatched(
    shop: Shop, line: str, why: str | None
) -> None:
    shop.write("rows.jsonl", numbered(range(3)) + line + "\n" + numbered(range(3, 9)))

    done = shop.run(f"{COMMAND} --rejects rejects.jsonl")

    assert (done.returncode, len(lines(done))) == (65, 2)
    assert lines(done)[1].startswith("relevo: line 4: ")
    if why is not None and "…" not in why:
        assert lines(done)[1] == f"relevo: line 4: {why}"
    assert re.fullmatch(r"9 dispatched in \d+\.\d s, 1 rejected → main/default\n", done.stdout)
    assert stored(shop) == list(range(9))
    assert (shop.folder / "rejects.jsonl").read_text() == line + "\n"


def test_bytes_that_are_not_utf_8_spoil_only_their_line(shop: Shop) -> None:
    shop.write("rows.jsonl", b'{"id": 0}\n{"id": "\xff"}\n{"id": 2}\n')

    done = shop.run(f"{COMMAND} --json")

    assert "relevo: line 2: the arguments are not JSON: byte 9 is not UTF-8; send UTF-8" in lines(done)
    assert (done.returncode, json.loads(done.stdout)["rejected"], stored(shop)) == (65, 1, [0, 2])


def test_many_invalid_lines_are_reported_in_order_whatever_refuses_them(shop: Shop) -> None:
    large = '{"id": "' + "x" * 1024 * 1024 + '"}\n'
    bad = {3: "nonsense\n", 4: large, 5: "[]\n", 8: large}
    shop.write("rows.jsonl", "".join(bad.get(number, numbered([number])) for number in range(1, 12)))

    done = shop.run(f"{COMMAND} --rejects rejects.jsonl")

    assert re.findall(r"line (\d+):", done.stderr) == ["3", "4", "5", "8"]
    assert (shop.folder / "rejects.jsonl").read_text() == "".join(bad.values())
    assert stored(shop) == [1, 2, 6, 7, 9, 10, 11]


def test_rejected_lines_are_appended_and_can_be_dispatched_when_they_are_corrected(shop: Shop) -> None:
    shop.write("rejects.jsonl", "of yesterday")
    shop.write("rows.jsonl", '{"id": 1}\n{"id": 2\n')

    shop.run(f"{COMMAND} --rejects rejects.jsonl")

    assert (shop.folder / "rejects.jsonl").read_text() == 'of yesterday\n{"id": 2\n'
    shop.write("corrected.jsonl", '{"id": 2}\n')
    assert shop.run("dispatch row.imported --lines corrected.jsonl").returncode == 0
    assert stored(shop) == [1, 2]


@pytest.mark.parametrize(
    "command, why",
    [
        ("dispatch a.b '{}' --lines rows.jsonl", "each line has the arguments of an event; leave ARGUMENTS out"),
        ("dispatch a.b --rejects x", "--rejects is for the lines of --lines; pass both, or neither"),
        ("dispatch a.b --resume x", "--resume is for the lines of --lines; pass both, or neither"),
        ("dispatch a.b --from-line 3", "--from-line is for the lines of --lines; pass both, or neither"),
        ("dispatch a.b --lines none.jsonl", "none.jsonl cannot be opened: No such file or directory"),
        ("dispatch a.b --lines .", ". cannot be opened: Is a directory"),
        ("dispatch a.b --lines rows.jsonl --rejects none/x", "none/x cannot be opened: No such file or directory"),
        (
            "dispatch a.b --lines rows.jsonl --rejects rows.jsonl",
            "--rejects is the file of --lines; choose another one",
        ),
        (
            "dispatch a.b --lines rows.jsonl --rejects new --resume ./new",
            "--rejects is the file of --resume; choose another one",
        ),
        ("dispatch a.b --lines rows.jsonl --resume rows.jsonl", "rows.jsonl: expected a file that --resume wrote"),
        ("dispatch a.b --lines rows.jsonl --resume /dev/full", "/dev/full: expected a regular file"),
        ("dispatch a.b --lines rows.jsonl --resume shop.py", "shop.py: expected a file that --resume wrote"),
        ("dispatch a.b --lines rows.jsonl --from-line 0", "expected a line's number, as in 5001; got '0'"),
        ("dispatch a.b --lines rows.jsonl --from-line 7:x", "expected a line's number, as in 5001; got '7:x'"),
        ("dispatch a.b --lines rows.jsonl --from-line ٣", "expected a line's number, as in 5001; got"),
        ("dispatch 'a b' --lines rows.jsonl", "'a b' is not an event name"),
        ("dispatch a.b --lines rows.jsonl --expires 0s", "expected a time above 0"),
        ("dispatch a.b --lines ''", "it is empty; pass a value, or omit the option"),
    ],
)
def test_what_is_misused_is_refused_before_anything_is_sent_or_written(shop: Shop, command: str, why: str) -> None:
    shop.write("rows.jsonl", numbered([1]))
    before = {path: path.read_bytes() for path in shop.folder.iterdir() if path.is_file()}

    done = shop.run(command)

    assert (done.returncode, done.stdout) == (2, "")
    assert why in lines(done)[-1]
    assert {path: path.read_bytes() for path in before} == before
    assert not (shop.folder / "shop.db").exists() or stored(shop) == []


def test_without_a_route_no_file_is_written(shop: Shop) -> None:
    shop.write("relevo.toml", (shop.folder / "relevo.toml").read_text().replace('"*" = "main"\n', ""))
    shop.write("rows.jsonl", numbered([1]))

    done = shop.run(f"{COMMAND} --resume position --rejects rejects.jsonl")

    assert done.returncode == 78
    assert 'no route for "row.imported"' in done.stderr
    assert not {"position", "rejects.jsonl"} & {path.name for path in shop.folder.iterdir()}


# --- interrupted ------------------------------------------------------------------------------------------

PLUGIN = """
import contextlib, os, signal, relevo

class Plugin:
    number = 0

    @relevo.hookimpl
    @contextlib.contextmanager
    def relevo_around_send(self):
        self.number += 1
        {before}
        yield
        {after}

plugin = Plugin()
"""


def with_plugin(shop: Shop, *, before: str = "pass", after: str = "pass") -> None:
    """Run *before* and *after* each send, whose ``self.number`` begins with 1."""
    shop.write("shop_plugin.py", PLUGIN.format(before=before, after=after))
    text = (shop.folder / "relevo.toml").read_text()
    if "plugins" not in text:
        shop.write("relevo.toml", 'plugins = ["shop_plugin:plugin"]\n' + text)


@pytest.mark.lengthy("starts processes")
def test_a_command_that_was_killed_after_a_chunk_was_stored_dispatches_no_line_twice_and_loses_none(shop: Shop) -> None:
    text = numbered(range(2 * CHUNK)) + "nonsense\n" + numbered(range(2 * CHUNK, 3 * CHUNK)) + "more\n"
    shop.write("rows.jsonl", text)
    with_plugin(shop, after="if self.number == 3: os._exit(9)")
    command = f"{COMMAND} --resume position --rejects rejects.jsonl"

    killed = shop.process(f"relevo {command}")
    before = ids(shop)
    with_plugin(shop)
    done = shop.run(command)
    again = shop.run(command)

    assert (killed.returncode, len(before)) == (9, 3 * CHUNK - 1)
    assert done.returncode == again.returncode == 65, "a line was rejected, if by an earlier command"
    assert stored(shop) == list(range(3 * CHUNK))
    assert ids(shop)[: len(before)] == before
    assert (shop.folder / "rejects.jsonl").read_text() == "nonsense\nmore\n"
    assert again.stdout.startswith("0 dispatched in ")


def test_a_line_that_was_rejected_before_the_command_was_killed_is_appended_once(shop: Shop) -> None:
    shop.write("rows.jsonl", "one\n" + numbered(range(CHUNK)) + "two\nthree\n")
    with_plugin(shop)
    command = f"{COMMAND} --resume position --rejects rejects.jsonl"
    shop.run(command)
    head, begun, *_ = (shop.folder / "position").read_text().splitlines(keepends=True)
    shop.write("position", head + begun + '{"lines":1000,"dig')

    done = shop.run(command)

    assert re.findall(r"line (\d+):", done.stderr) == ["1", "1002", "1003"]
    assert (shop.folder / "rejects.jsonl").read_text() == "one\ntwo\nthree\n"
    assert stored(shop) == list(range(CHUNK))
    assert json.loads((shop.folder / "position").read_text().splitlines()[-1])["lines"] == CHUNK + 3


@pytest.mark.lengthy("starts processes")
def test_a_full_disk_ends_it_with_the_line_up_to_which_all_is_stored(shop: Shop) -> None:
    text = numbered(range(6 * CHUNK))
    shop.write("rows.jsonl", text)
    assert shop.run("setup").returncode == 0

    done = shop.process(f"ulimit -f 1000; relevo {COMMAND}")

    whole = stored(shop)
    assert 0 < len(whole) < 6 * CHUNK
    assert (done.returncode, done.stdout) == (69, "")
    found = re.fullmatch(
        r"relevo: lines 1 to (\d+) are dispatched or rejected, "
        r"and perhaps some of lines \d+ to (\d+); to continue, pass --from-line (\d+:[0-9a-f]{32})",
        lines(done)[-1],
    )
    assert found is not None, done.stderr
    assert whole in (list(range(int(found[1]))), list(range(int(found[2]))))
    assert shop.run(f"{COMMAND} --from-line {found[3]}").returncode == 0
    assert stored(shop) == list(range(6 * CHUNK))


def test_a_broken_database_ends_it_with_the_line_up_to_which_all_is_stored(shop: Shop) -> None:
    shop.write("rows.jsonl", numbered(range(2 * CHUNK + 1)))
    shop.write("broken", b"x" * 8192)
    with_plugin(shop, before="if self.number == 3: os.replace('broken', 'shop.db')")

    done = shop.run(f"{COMMAND} --resume position")

    assert done.returncode in {69, 78}
    assert f"relevo: lines 1 to {2 * CHUNK} are dispatched or rejected, and none after them; " in lines(done)[-1]


def test_where_the_outcome_of_a_chunk_is_unknown_it_is_dispatched_again_with_the_same_ids(shop: Shop) -> None:
    shop.write("rows.jsonl", numbered(range(CHUNK + 5)))
    raising = "raise relevo.SendError('main', sent=[0], unknown=[1, 2], refused=[3, 4], why='it was cut off')"
    shop.write(
        "shop.py",
        "import relevo\n"
        "from relevo_memory import MemoryTransport\n"
        "class Cut(MemoryTransport):\n"
        "    number = 0\n"
        "    def send(self, envelopes, *, delay=0.0):\n"
        "        self.number += 1\n"
        "        with open('sent', 'a') as file:\n"
        "            file.writelines(each.id + chr(10) for each in envelopes)\n"
        "        if self.number == 2:\n"
        f"            {raising}\n"
        "app = relevo.App(transports={'main': Cut()}, routes={'*': 'main'})\n",
    )

    done = shop.run(COMMAND)
    place = lines(done)[-1].split()[-1]
    again = shop.run(f"{COMMAND} --from-line {place}")

    assert (done.returncode, again.returncode) == (69, 0)
    assert lines(done)[-1] == (
        f"relevo: lines 1 to 1000 are dispatched or rejected, and perhaps some of lines 1001 to 1005; "
        f"to continue, pass --from-line {place}"
    )
    sent = (shop.folder / "sent").read_text().split()
    assert sent[CHUNK : CHUNK + 5] == sent[CHUNK + 5 :]
    assert len(set(sent)) == CHUNK + 5


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_chunk_that_is_being_sent(shop: Shop, number: signal.Signals) -> None:
    shop.write("rows.jsonl", numbered(range(3 * CHUNK)))
    with_plugin(shop, before=f"if self.number == 2: os.kill(os.getpid(), {int(number)})")

    done = shop.process(f"relevo {COMMAND} --resume position")
    with_plugin(shop)
    again = shop.run(f"{COMMAND} --resume position")

    assert (done.returncode, done.stdout) == (128 + number, "")
    assert lines(done)[-1] == (
        f"relevo: lines 1 to {2 * CHUNK} are dispatched or rejected, and none after them; "
        f"to continue, run the same command again"
    )
    assert again.stdout.startswith(f"{CHUNK} dispatched in ")
    assert stored(shop) == list(range(3 * CHUNK))


@pytest.mark.lengthy("starts processes")
def test_a_second_signal_ends_it_at_once_and_the_chunk_is_in_doubt(shop: Shop) -> None:
    shop.write("rows.jsonl", numbered(range(3 * CHUNK)))
    kill = "os.kill(os.getpid(), signal.SIGINT)"
    with_plugin(shop, before=f"if self.number == 2: {kill}; {kill}")

    done = shop.process(f"relevo {COMMAND}")

    assert done.returncode == 130
    assert f"lines 1 to {CHUNK} are dispatched or rejected, and perhaps some of lines 1001 to 2000" in lines(done)[-1]


@contextmanager
def running(shop: Shop, command: str) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-m", "relevo", *command.split()]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RELEVO_")}
    process = subprocess.Popen(
        words,
        cwd=shop.folder,
        env=environ,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.mark.lengthy("runs commands")
def test_the_lines_of_a_pipe_are_dispatched_as_they_come_and_ctrl_c_says_how_far_it_came(shop: Shop) -> None:
    shop.run("setup")
    with running(shop, "dispatch mail.sent --lines -") as process:
        assert process.stdin is not None
        process.stdin.write(numbered(range(3)) + '{"id": ')
        process.stdin.flush()
        while len(stored(shop)) < 3:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=300)

    assert process.returncode == 130
    assert error.startswith("relevo: lines 1 to 3 are dispatched or rejected, and none after them; ")


@pytest.mark.lengthy("runs commands")
def test_one_command_at_a_time_uses_a_position(shop: Shop) -> None:
    shop.run("setup")
    with running(shop, "dispatch mail.sent --lines - --resume position") as process:
        assert process.stdin is not None
        process.stdin.write(numbered([7]))
        process.stdin.flush()
        while not stored(shop):
            assert process.poll() is None
        other = shop.run("dispatch mail.sent --lines - --resume position", given=b'{"id": 8}\n')
        process.communicate(timeout=300)
    assert process.returncode == 0

    assert other.returncode == 75
    assert "another command uses --resume position; wait for its end" in told_in_one_line(other)
    assert stored(shop) == [7]


@pytest.mark.lengthy("starts processes")
def test_at_a_terminal_a_bar_shows_how_many_lines_are_dispatched_and_invalid_ones_appear_above_it(shop: Shop) -> None:
    shop.write("rows.jsonl", numbered(range(CHUNK)) + "nonsense\n")
    terminal, its_end = os.openpty()
    words = [sys.executable, "-m", "relevo", *COMMAND.split()]

    done = subprocess.run(
        words,
        cwd=shop.folder,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
        stderr=its_end,
        stdout=its_end,
        check=False,
    )
    os.close(its_end)
    shown = b"".join(iter(lambda: _read(terminal), b"")).decode()
    os.close(terminal)

    assert done.returncode == 65
    assert re.search(r"dispatching .*1001/1001.* [\d,]+/s", shown)
    assert re.search(r"(\n|\r|\x1b\[2K)relevo: line 1001: the arguments are not JSON", shown)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # nobody has its other end open
        return b""


# --- continued --------------------------------------------------------------------------------------------


def test_a_file_that_has_grown_continues_with_its_new_lines(shop: Shop) -> None:
    shop.write("rows.jsonl", numbered(range(3)).rstrip())
    shop.run(f"{COMMAND} --resume position")
    shop.write("rows.jsonl", numbered(range(5)))

    done = shop.run(f"{COMMAND} --resume position")

    assert done.stdout.startswith("2 dispatched in ")
    assert stored(shop) == list(range(5))


@pytest.mark.parametrize("text", [numbered([0, 7, 2, 3]), numbered([1, 2, 3])])
def test_a_position_of_other_lines_is_refused(shop: Shop, text: str) -> None:
    shop.write("rows.jsonl", numbered(range(3)))
    shop.run(f"{COMMAND} --resume position")
    before = (shop.folder / "position").read_bytes()
    shop.write("rows.jsonl", text)

    done = shop.run(f"{COMMAND} --resume position")

    assert done.returncode == 2
    key = json.loads(before.splitlines()[0])["key"]
    assert (
        "--resume: the first 3 lines of rows.jsonl are not those that were dispatched; remove position, and pass "
        f"--from-line 4:{key} to dispatch only the lines after them, or --from-line 1:{key} to dispatch all again: a "
        "line that is unchanged keeps the id of its event, but an event that was handled meanwhile is handled twice"
    ) in lines(done)[-1]
    assert (stored(shop), (shop.folder / "position").read_bytes()) == ([0, 1, 2], before)


@pytest.mark.parametrize("text", [numbered([0, 1]), ""])
def test_a_shorter_file_is_not_offered_to_continue_after_its_end(shop: Shop, text: str) -> None:
    shop.write("rows.jsonl", numbered(range(3)))
    shop.run(f"{COMMAND} --resume position")
    key = json.loads((shop.folder / "position").read_text().splitlines()[0])["key"]
    shop.write("rows.jsonl", text)

    done = shop.run(f"{COMMAND} --resume position")

    assert (done.returncode, stored(shop)) == (2, [0, 1, 2])
    assert (
        f"rows.jsonl has {text.count('id')} lines, 3 were dispatched; for another file, pass another path"
        in lines(done)[-1]
    )
    assert f"--from-line 1:{key}" in lines(done)[-1]
    assert "--from-line 4" not in lines(done)[-1]


def test_a_position_of_another_store_is_refused_and_the_advice_dispatches_there(shop: Shop) -> None:
    shop.write("rows.jsonl", numbered(range(3)))
    shop.run(f"{COMMAND} --resume position")
    before = (shop.folder / "position").read_bytes()
    (shop.folder / "shop.db").rename(shop.folder / "rehearsal.db")

    done = shop.run(f"{COMMAND} --resume position")
    whole = shop.run(f"{COMMAND} --resume other")

    assert (done.returncode, (shop.folder / "position").read_bytes()) == (2, before)
    assert "dispatched to main/default, which was another store then; to dispatch all" in lines(done)[-1]
    key = json.loads(before.splitlines()[0])["key"]
    assert (
        "to dispatch all lines, pass another path; to dispatch only those after line 3, remove position and"
        in lines(done)[-1]
    )
    assert f"remove position and pass --from-line 4:{key}" in lines(done)[-1]
    assert (whole.returncode, stored(shop)) == (0, [0, 1, 2])


def test_a_position_of_another_queue_is_refused(shop: Shop) -> None:
    shop.write("rows.jsonl", numbered(range(3)))
    shop.run(f"{COMMAND} --resume position")
    shop.write("relevo.toml", (shop.folder / "relevo.toml").read_text().replace('"*" = "main"', '"*" = "main/rows"'))

    done = shop.run(f"{COMMAND} --resume position")

    assert done.returncode == 2
    assert "dispatched to main/default; the event is routed to main/rows now" in lines(done)[-1]


def test_a_position_of_an_earlier_release_is_continued_and_says_that_it_does_not_know_the_store(shop: Shop) -> None:
    shop.write("rows.jsonl", numbered(range(3)))
    shop.run(f"{COMMAND} --resume position")
    head, *others = (shop.folder / "position").read_text().splitlines(keepends=True)
    known = json.loads(head)
    del known["to"]
    shop.write("position", "".join([json.dumps(known, separators=(",", ":")) + "\n", *others]))
    shop.write("rows.jsonl", numbered(range(5)))

    done = shop.run(f"{COMMAND} --resume position")

    assert "relevo: position does not say to which store lines 1 to 3 were dispatched" in done.stderr
    assert (done.returncode, stored(shop)) == (0, list(range(5)))


def test_the_counts_of_a_continued_command_are_told_apart(shop: Shop) -> None:
    shop.write("rows.jsonl", "bad\n" + numbered([1, 2]))
    shop.run(f"{COMMAND} --resume position")
    shop.write("rows.jsonl", "bad\n" + numbered([1, 2, 3]) + "worse\n")

    done = shop.run(f"{COMMAND} --resume position")
    again = shop.run(f"{COMMAND} --resume position --json")

    assert done.stdout.startswith("1 dispatched in ")
    assert done.stdout.endswith(" s, 2 rejected in all (1 now), lines 1 to 3 were done earlier → main/default\n")
    found = json.loads(again.stdout)
    assert (found["lines"], found["dispatched"], found["rejected"]) == (5, 0, 0)
    assert found["earlier"] == {"lines": 5, "rejected": 2}
    assert (done.returncode, again.returncode) == (65, 65)


@pytest.mark.parametrize("way", ["rows.jsonl", "-"])
def test_an_unfinished_last_line_is_tried_again_once_it_is_complete(shop: Shop, way: str) -> None:
    begun, complete = numbered([0, 1]) + '{"id": 2, "sk', numbered([0, 1]) + '{"id": 2, "sku": 7}\n' + numbered([3])
    command = f"dispatch row.imported --lines {way} --resume position --rejects rejects.jsonl"
    shop.write("rows.jsonl", begun)

    done = shop.run(command, given=begun.encode())
    shop.write("rows.jsonl", complete)
    again = shop.run(command, given=complete.encode())

    assert (done.returncode, again.returncode) == (65, 0)
    assert "relevo: line 3: the arguments are not JSON: " in done.stderr
    assert "it has no newline at its end, so it may be unfinished: it is not rejected" in done.stderr
    assert again.stdout.startswith("2 dispatched in ")
    assert stored(shop) == [0, 1, 2, 3]
    assert (shop.folder / "rejects.jsonl").read_text() == ""


def test_a_last_line_without_a_newline_that_is_whole_is_rejected(shop: Shop) -> None:
    shop.write("rows.jsonl", numbered([0]) + "7")

    done = shop.run("dispatch row.imported --lines rows.jsonl --resume position --rejects rejects.jsonl")

    assert done.returncode == 65
    assert "unfinished" not in done.stderr
    assert (shop.folder / "rejects.jsonl").read_text() == "7\n"


def test_a_file_that_was_repaired_is_dispatched_again_with_the_same_ids(shop: Shop) -> None:
    shop.write("rows.jsonl", numbered([0, 1, 2]))
    shop.run(f"{COMMAND} --resume position")
    shop.write("rows.jsonl", numbered([0, 7, 2, 3]))
    advice = lines(shop.run(f"{COMMAND} --resume position"))[-1]
    found = re.search(r"--from-line (1:\w+)", advice)
    assert found is not None
    (shop.folder / "position").unlink()

    done = shop.run(f"{COMMAND} --resume position --from-line {found[1]}")

    assert done.returncode == 0
    assert stored(shop) == [0, 1, 2, 7, 3]


@pytest.mark.parametrize("way", ["--lines rows", "--lines rows --resume position", "--lines - --rejects rejects"])
def test_a_file_of_another_format_ends_it_before_anything_is_dispatched(shop: Shop, way: str) -> None:
    csv = b"id,name\n" * 2500
    shop.write("rows", csv)
    command = f"dispatch row.imported {way}"

    done, again = shop.run(command, given=csv), shop.run(command, given=csv)
    meant = shop.run(f"{command} --from-line 1 --json", given=csv)

    for each in (done, again):
        assert (each.returncode, each.stdout) == (65, "")
        assert lines(each)[1].startswith("relevo: line 100 and all before it are invalid: the arguments are not JSON: ")
        assert lines(each)[1].endswith(
            "a CSV file has to be converted to JSON Lines; no line is dispatched or rejected; "
            "to reject these lines and dispatch the rest, pass --from-line 1"
        )
        assert len(lines(each)) == 2
    found = json.loads(meant.stdout)
    assert (meant.returncode, found["rejected"], len(found["rejects"])) == (65, 2500, 100)


def test_a_compressed_file_ends_it_with_the_command_that_reads_it(shop: Shop) -> None:
    shop.write("rows.jsonl.gz", gzip.compress(numbered([1, 2]).encode()))

    done = shop.run("dispatch row.imported --lines rows.jsonl.gz")

    assert (done.returncode, done.stdout) == (65, "")
    assert "the file is compressed; no line is dispatched; pass its lines, as in: zcat FILE | relevo" in done.stderr


@pytest.mark.parametrize("encoding, begin", [("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff")])
def test_a_utf_16_file_ends_it_with_the_command_that_converts_it(shop: Shop, encoding: str, begin: bytes) -> None:
    shop.write("rows.jsonl", begin + numbered([1, 2]).encode(encoding))

    done = shop.run(COMMAND)

    assert (done.returncode, done.stdout) == (65, "")
    assert lines(done)[-1] == (
        "relevo: the file is UTF-16; no line is dispatched; pass its lines as UTF-8, as in: iconv -f UTF-16 -t UTF-8 "
        "FILE | relevo dispatch row.imported --lines -"
    )


def test_a_short_file_without_objects_is_reported_as_another_format(shop: Shop) -> None:
    shop.write("rows.jsonl", "id,name\n1,Sea\n2,Hill\n")
    hint = "relevo: no line is an object; a CSV file has to be converted to JSON Lines"

    done = shop.run(COMMAND)
    shop.write("rows.jsonl", 'bad\n{"id": 1\n')
    with_an_object = shop.run(COMMAND)
    shop.write("rows.jsonl", "[\n7\n]\n")
    of_an_array = shop.run(COMMAND)

    assert (done.returncode, lines(done)[-1]) == (65, hint)
    assert lines(done)[1].startswith("relevo: line 1: ")
    assert hint not in with_an_object.stderr
    assert hint not in of_an_array.stderr


@pytest.mark.parametrize("files", ["a.jsonl b.jsonl", "a.jsonl b.jsonl c.jsonl"])
def test_several_files_are_refused_with_the_pipe_that_joins_them(shop: Shop, files: str) -> None:
    for name in files.split():
        shop.write(name, numbered([1]))

    done = shop.run(f"dispatch row.imported --lines {files}")

    assert done.returncode == 2
    assert "--lines takes one file; for several, run: cat FILES | relevo dispatch row.imported --lines -" in (
        told_in_one_line(done)
    )


@pytest.mark.parametrize("text", ['[{"id": 1}, {"id": 2}]\n', "[\n" + '  {"id": 1},\n' * 200 + "]\n"])
def test_an_array_is_reported_with_the_program_that_makes_lines_of_it(shop: Shop, text: str) -> None:
    shop.write("rows.json", text)

    done = shop.run("dispatch row.imported --lines rows.json")

    assert done.returncode == 65
    assert "a JSON array has to be converted to JSON Lines, as jq -c '.[]' does" in done.stderr


def test_a_file_without_the_option_for_lines_is_reported_with_it(shop: Shop) -> None:
    shop.write("rows.jsonl", numbered([1]))

    done = shop.run("dispatch row.imported rows.jsonl")

    assert done.returncode == 65
    assert "rows.jsonl is a file; to dispatch an event for each of its lines, pass --lines rows.jsonl" in done.stderr


def test_a_name_that_is_probably_misspelt_ends_it_before_line_1_unless_the_line_is_given(shop: Shop) -> None:
    shop.write("rows.jsonl", numbered([1]))

    done = shop.run("dispatch mail.snet --lines rows.jsonl --resume position")
    meant = shop.run("dispatch mail.snet --lines rows.jsonl --resume position --from-line 1")
    again = shop.run("dispatch mail.snet --lines rows.jsonl --resume position")

    assert (done.returncode, done.stdout) == (78, "")
    assert told_in_one_line(done) == (
        'relevo: nothing here handles "mail.snet"; did you mean "mail.sent"?; no line is dispatched; '
        "to dispatch them nevertheless, pass --from-line 1\n"
    )
    assert (meant.returncode, again.returncode, stored(shop)) == (0, 0, [1])


def test_many_invalid_lines_are_not_all_reported(shop: Shop) -> None:
    shop.write("rows.jsonl", numbered([1]) + "bad\n" * 50)

    done = shop.run(f"{COMMAND} --rejects rejects.jsonl")

    assert len(re.findall(r"line \d+:", done.stderr)) == 20
    assert lines(done)[-1] == "relevo: 30 more lines were rejected; they are in rejects.jsonl"


def test_where_the_dispatch_is_refused_no_line_is_in_doubt(shop: Shop) -> None:
    shop.run("setup")
    shop.write("relevo.toml", (shop.folder / "relevo.toml").read_text().replace("sqlite:///shop.db", "sqlite:///x.db"))
    shop.write("relevo.toml", 'setup = "explicit"\n' + (shop.folder / "relevo.toml").read_text())
    shop.write("rows.jsonl", numbered([1]))

    done = shop.run(COMMAND)

    assert done.returncode == 78
    assert lines(done)[-1].startswith("relevo: no line is dispatched; to continue, ")


@pytest.mark.parametrize("before", [0, 1000])
def test_without_a_terminal_the_progress_is_logged_every_ten_seconds(
    before: int, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    caplog.set_level("INFO", "relevo.cli")

    with progress("dispatching", before=before, show=False, monotonic=lambda: now) as bar:
        for _ in range(25):
            now += 1
            bar.advance(100)

    assert caplog.messages == [f"dispatching: {before + 1000}, 100/s", f"dispatching: {before + 2000}, 100/s"]


@pytest.mark.parametrize("bad", ["bad", '{"id": "one"}', '{"id": 1, "text": "' + "x" * 1024 * 1024 + '"}'])
def test_no_error_of_a_rejected_line_is_kept(shop: Shop, bad: str) -> None:
    shop.write(
        "shop_listeners.py",
        "import attrs, gc, relevo\n"
        "def errors():\n"
        "    return [each for each in gc.get_objects() if isinstance(each, relevo.RelevoError)]\n"
        "EARLIER = errors()\n"  # those of other tests in this process, which are kept until the end
        "@relevo.event('row.imported')\n"
        "@attrs.frozen\n"
        "class RowImported:\n"
        "    id: int\n"
        "    text: str = ''\n"
        "    def __attrs_post_init__(self):\n"
        "        if self.id == 2000:\n"
        "            print('errors:', len(errors()) - len(EARLIER))\n"
        "@relevo.listener(RowImported)\n"
        "def load(event): ...\n",
    )
    shop.write("rows.jsonl", numbered(range(999)) + f"{bad}\n" + numbered([2000]))

    done = shop.run(COMMAND)

    assert (done.returncode, done.stdout.splitlines()[0]) == (65, "errors: 0"), "each error holds its whole chunk"
    assert "1000 dispatched in " in done.stdout


def test_a_hundred_invalid_lines_after_a_valid_one_end_nothing(shop: Shop) -> None:
    shop.write("rows.jsonl", numbered([1]) + "bad\n" * 150 + numbered([2]))

    done = shop.run(f"{COMMAND} --json")

    found = json.loads(done.stdout)
    assert (done.returncode, found["dispatched"], found["rejected"]) == (65, 2, 150)
    assert found["rejects"][0]["line"] == 2
    assert found["rejects"][0]["why"].startswith("the arguments are not JSON")
    assert stored(shop) == [1, 2]


def test_a_rejected_line_that_is_too_long_to_be_kept_is_reported_as_cut(shop: Shop) -> None:
    shop.write("rows.jsonl", b'{"id": "' + b"x" * MAX_LINE + b'"}\n' + numbered([2]).encode())

    done = shop.run(f"{COMMAND} --rejects rejects.jsonl")

    assert lines(done)[1] == "relevo: line 1: longer than 16 MiB; rejects.jsonl has only its beginning"
    assert (done.returncode, stored(shop)) == (65, [2])


def test_a_position_of_another_event_or_beside_a_line_is_refused(shop: Shop) -> None:
    shop.write("rows.jsonl", numbered(range(3)))
    shop.run(f"{COMMAND} --resume position")

    other = shop.run("dispatch mail.sent --lines rows.jsonl --resume position")
    both = shop.run(f"{COMMAND} --resume position --from-line 2")

    assert 'position has the position of "row.imported"; choose another path, or remove it' in lines(other)[-1]
    assert "position has a position already; leave one of the two out" in lines(both)[-1]
    assert other.returncode == both.returncode == 2


@pytest.mark.parametrize(
    "text", ["x\n", '{"event":"row.imported"}\n', '{"event":"row.imported","key":"x"}\n', "\n", "7"]
)
def test_another_file_in_place_of_a_position_stays_as_it_is(shop: Shop, text: str) -> None:
    shop.write("rows.jsonl", numbered([1]))
    shop.write("position", text)

    done = shop.run(f"{COMMAND} --resume position")

    assert done.returncode == 2
    assert "position: expected a file that --resume wrote; got another one; choose another path" in lines(done)[-1]
    assert (shop.folder / "position").read_text() == text


@pytest.mark.parametrize("torn", ["", "{", '{"event":"row.impor'])
def test_a_position_that_was_begun_and_not_written_begins_with_line_1(shop: Shop, torn: str) -> None:
    shop.write("rows.jsonl", numbered(range(3)))
    shop.write("position", torn)

    assert shop.run(f"{COMMAND} --resume position").returncode == 0

    assert stored(shop) == [0, 1, 2]
    assert json.loads((shop.folder / "position").read_text().splitlines()[0])["event"] == "row.imported"


def test_a_line_to_begin_with_is_where_a_new_position_begins(shop: Shop) -> None:
    shop.write("rows.jsonl", numbered(range(5)))
    command = f"{COMMAND} --resume position"

    shop.run(f"{command} --from-line 3:{KEY}")
    shop.write("rows.jsonl", numbered(range(6)))
    shop.run(command)

    assert stored(shop) == [2, 3, 4, 5]
    assert ids(shop) == [Ids(KEY).of(number, b'{"id": %d}' % (number - 1)) for number in range(3, 7)]


def test_a_line_beyond_the_last_one_is_refused(shop: Shop) -> None:
    shop.write("rows.jsonl", numbered(range(3)))

    exactly = shop.run(f"{COMMAND} --from-line 4")
    beyond = shop.run(f"{COMMAND} --from-line 5")

    assert (exactly.returncode, exactly.stdout[:13]) == (0, "0 dispatched ")
    assert (beyond.returncode, beyond.stdout) == (2, "")
    assert "--from-line: expected at most 4; rows.jsonl has 3 lines" in lines(beyond)[-1]


@pytest.mark.lengthy("starts processes")
def test_a_position_that_cannot_be_written_ends_it_before_anything_is_sent(shop: Shop) -> None:
    called_in_process(shop)
    shop.write("rows.jsonl", numbered([1, 2, 3]))

    done = shop.process(f"ulimit -f 0; relevo {COMMAND} --resume position 2>/dev/stdout | cat")

    assert done.stdout.splitlines() == ["relevo: position cannot be written: File too large"]


def test_rejects_that_cannot_be_written_end_it_with_the_line_up_to_which_all_is_stored(shop: Shop) -> None:
    shop.write("rows.jsonl", numbered(range(CHUNK)) + "nonsense\n" + numbered([CHUNK]))

    done = shop.run(f"{COMMAND} --rejects /dev/full")

    assert (done.returncode, done.stdout) == (74, "")
    assert lines(done)[-2] == "relevo: /dev/full cannot be written: No space left on device"
    assert f"lines 1 to {CHUNK} are dispatched or rejected, and perhaps some of lines 1001 to 1002; " in lines(done)[-1]


# --- the parts --------------------------------------------------------------------------------------------


class Pipe:
    """It returns its blocks one by one."""

    def __init__(self, *blocks: bytes):
        self._blocks = list(blocks)

    def read1(self, size: int, /) -> bytes:
        block = self._blocks.pop(0) if self._blocks else b""
        assert len(block) <= size
        return block


def taken(lines: Lines) -> list[list[bytes]]:
    return list(iter(lines.take, []))


def test_lines_are_whole_wherever_the_blocks_end_and_come_as_they_arrive() -> None:
    assert taken(Lines(Pipe(b"a\nb", b"b", b"b\n", b"\n", b"c"))) == [[b"a"], [b"bbb"], [b""], [b"c"]]
    assert taken(Lines(Pipe(b"\xef\xbb\xbfa\n"))) == [[b"a"]]
    assert taken(Lines(Pipe())) == []
    growing = Lines(Pipe(b"a", b"", b"b\n"))
    assert (growing.take(), growing.is_torn, growing.take(), growing.is_torn) == ([b"a"], True, [b"b"], False)


def test_a_chunk_has_a_limited_number_of_lines() -> None:
    assert [len(chunk) for chunk in taken(Lines(io.BytesIO(b"1\n" * (2 * CHUNK + 3))))] == [CHUNK, CHUNK, 3]
    assert Lines(io.BytesIO(b"1\n2\n3\n")).take(2) == [b"1", b"2"]


def test_a_line_that_is_too_long_is_cut_and_the_next_one_is_whole() -> None:
    block = b"x" * 1024 * 1024
    lines = Lines(Pipe(b"a\n", *[block] * 20, b"\nb\n"))

    assert [list(map(len, chunk)) for chunk in taken(lines)] == [[1], [MAX_LINE + 1, 1]]
    assert lines.number == 3


def test_a_digest_depends_on_the_lines_and_not_on_how_they_are_taken() -> None:
    one, other, short = Lines(io.BytesIO(b"a\nb\nc\n")), Lines(Pipe(b"a", b"\nb\n", b"c")), Lines(io.BytesIO(b"a\nb\n"))
    one.skip(3)
    other.take(1)
    other.skip(3)
    short.skip(3)

    assert (one.number, other.number, short.number) == (3, 3, 2)
    assert one.digest == other.digest != short.digest


def test_an_id_is_that_of_the_line_and_its_number_and_sorts_by_it() -> None:
    made = Ids(KEY)

    assert made.of(1, b"a") == Ids(KEY).of(1, b"a")
    assert len({made.of(1, b"a"), made.of(1, b"b"), made.of(2, b"a"), Ids.new(1.0).of(1, b"a")}) == 4
    assert made.of(999, b"a") < made.of(1000, b"a") < made.of(200_000, b"a")
    assert FirstLine.parsed(str(FirstLine(7, made))) == FirstLine(7, made)
