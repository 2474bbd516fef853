"""Rows that something else wrote or changed: one of them stops neither a command nor other rows."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from .shop import Shop, lines, opened

BURY = (
    "INSERT INTO relevo_dead (queue, event_id, source, name, body, reason, error, enqueued_at, died_at) "
    "VALUES ('default', '1', 'shop', 'a.b', ?, 'broken', ?, 0, 0)"
)
TWIN = "INSERT INTO relevo_event (queue, target, event_id, source) VALUES ('default', 'default', 'twin', 'shop')"
LARGE = 3_000_000


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Shop:
    shop = opened(tmp_path)
    shop.run("setup")
    return shop


def tamper(shop: Shop, *statements: str) -> None:
    with closing(sqlite3.connect(shop.folder / "shop.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        for statement in statements:
            connection.execute(statement)


def bury(shop: Shop, *, body: bytes = b"{}", error: str = "", change: str = "ref = ref") -> None:
    with closing(sqlite3.connect(shop.folder / "shop.db")) as connection, connection:
        row = connection.execute(BURY, (body, error)).lastrowid
        connection.execute(f"UPDATE relevo_dead SET {change} WHERE ref = {row}")  # noqa: S608 - of these tests


# --- times ----------------------------------------------------------------------------------------------


TIMES = {
    "-9223372036854775808": "-9.22337e+12 s after 1970",
    "9223372036854775807": "9.22337e+12 s after 1970",
    "1e300": "1e+294 s after 1970",
    "9e999": "inf s after 1970",
    "NULL": "unknown",
    "'soon'": "unknown",
    "x'00'": "unknown",
    "-1000000": "1969-12-31 23:59:59Z",
    "0": "1970-01-01 00:00:00Z",
}


@pytest.mark.parametrize(("column", "key"), [("died_at", "died"), ("enqueued_at", "sent")])
def test_dead_letters_with_times_out_of_range_are_shown_beside_the_others(shop: Shop, column: str, key: str) -> None:
    for value in TIMES:
        bury(shop, change=f"{column} = {value}")

    listed = shop.run("dead list")
    rows = shop.run("dead list --json")
    whole = shop.run("dead show 3")
    exported = shop.run("dead show 3 --json")
    found = shop.run("show 1")

    assert [done.returncode for done in (listed, rows, whole, exported, found)] == [0] * 5
    assert len(listed.stdout.splitlines()) == 1 + len(TIMES)
    assert [row[key] for row in json.loads(rows.stdout)] == list(TIMES.values())
    assert f"{key}:        {TIMES['1e300']}" in whole.stdout
    assert json.loads(exported.stdout)[key] == TIMES["1e300"]


@pytest.mark.parametrize("column", ["enqueued_at", "ready_at", "lease_until"])
def test_living_rows_with_times_out_of_range_are_shown(shop: Shop, column: str) -> None:
    number = 0
    for state in range(3):
        for value in TIMES.keys() - {"NULL"}:
            number += 1
            tamper(
                shop,
                "INSERT INTO relevo_event (queue, source, name, body, enqueued_at, event_id) "  # noqa: S608 - of this test
                f"VALUES ('default', '{number}', 'a.b', x'7b7d', 0, '1')",
                f"UPDATE relevo_event SET state = {state}, {column} = {value} WHERE source = '{number}'",  # noqa: S608
            )

    found = shop.run("show 1")
    status = shop.run("status --json")

    assert (found.returncode, status.returncode) == (0, 0), found.stderr
    assert "NaN" not in status.stdout


# --- sizes ----------------------------------------------------------------------------------------------


def test_of_a_large_dead_letter_the_beginning_is_shown_and_all_of_it_is_written_to_a_file(shop: Shop) -> None:
    body = b'{"path": "' + b"\xff" * LARGE + b'"}'
    bury(shop, body=body, error="x" * LARGE)

    listed = shop.run("dead list")
    rows = shop.run("dead list --json")
    whole = shop.run("dead show 1")
    exported = shop.run("dead show 1 --json")
    written = shop.run("dead show 1 --raw body.json")

    assert all(len(done.stdout) < 1_000_000 for done in (listed, rows, whole, exported, written))
    assert f"the first 65536 of {len(body)} bytes" in whole.stdout
    assert f"({LARGE} characters in all)" in whole.stdout
    assert json.loads(exported.stdout)["size"] == len(body)
    assert (written.returncode, written.stdout, written.stderr) == (0, "", "")
    assert (shop.folder / "body.json").read_bytes() == body


def test_a_small_body_is_shown_whole_without_its_size(shop: Shop) -> None:
    bury(shop, body=b'{"path": "sea.jpg"}')

    whole = shop.run("dead show 1")

    assert 'body:        {"path": "sea.jpg"}\n' in whole.stdout
    assert "size" not in whole.stdout


def test_no_file_is_written_for_a_dead_letter_that_is_not_there(shop: Shop) -> None:
    done = shop.run("dead show 1 --raw body.json")

    assert done.returncode == 1
    assert not (shop.folder / "body.json").exists()


def test_a_file_that_cannot_be_written_is_told(shop: Shop) -> None:
    bury(shop)

    done = shop.run("dead show 1 --raw missing/body.json")

    assert done.returncode not in (0, 70)
    assert "missing/body.json" in done.stderr


# --- rows that no claim would find ----------------------------------------------------------------------


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize("change", ["state = 9", "state = 2, ready_at = 'soon'", "state = 3", "state = 1"])
def test_a_row_that_no_claim_would_find_is_counted_reported_and_dead_lettered(shop: Shop, change: str) -> None:
    shop.run("dispatch mail.sent")
    tamper(shop, f"UPDATE relevo_event SET {change}")  # noqa: S608 - of this list

    (status,) = [row for row in json.loads(shop.run("status --json").stdout) if row["queue"] == "default"]
    checked = shop.run("check --live")
    drained = shop.run("drain")
    (letter,) = json.loads(shop.run("dead list --json").stdout)
    after = shop.run("check --live")

    assert (status["ready"], status["leased"], status["scheduled"]) == (1, 0, 0)
    assert checked.returncode == 78
    assert "1 of its rows cannot be handed out" in checked.stderr
    assert (drained.returncode, "1 dead (1 unreadable)" in drained.stdout) == (1, True)
    assert letter["reason"] == "unreadable"
    assert "the column" in letter["error"]
    assert after.returncode == 0


def test_a_lease_in_the_year_3000_is_over(shop: Shop) -> None:
    shop.run("dispatch mail.sent")
    tamper(shop, "UPDATE relevo_event SET state = 1, token = 7, lease_until = 32503680000000000")

    drained = shop.run("drain --json")

    assert (drained.returncode, json.loads(drained.stdout)["done"]) == (0, 1)


# --- tables that are not relevo's -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            ["ALTER TABLE relevo_event RENAME TO kept", "CREATE VIEW relevo_event AS SELECT * FROM kept"],
            '"relevo_event" is a view; expected a table; drop or rename it, and run: relevo setup',
        ),
        (
            ["ALTER TABLE relevo_event RENAME TO kept", "CREATE TABLE relevo_event AS SELECT * FROM kept"],
            'the table "relevo_event" lacks NOT NULL for the columns',
        ),
        (
            ["DROP INDEX relevo_event_identity", TWIN, TWIN],
            "holds 2 rows of the event 'twin'; delete all but one, and run: relevo setup",
        ),
        (
            ["DROP INDEX relevo_event_identity", "CREATE INDEX relevo_event_identity ON relevo_event (event_id)"],
            'the index "relevo_event_identity" is not unique',
        ),
        (
            ["PRAGMA writable_schema = 1", "UPDATE sqlite_master SET sql = replace(sql, 'relevo_event_state', 'x')"],
            'the table "relevo_event" lacks the constraints relevo_event_state_is_known',
        ),
        (["UPDATE relevo_meta SET value = '1' WHERE key = 'schema'"], "has the tables of an older relevo (schema '1'"),
    ],
)  # fmt: skip
def test_tables_that_are_not_as_relevo_made_them_are_refused_in_one_line(
    shop: Shop, changes: list[str], why: str
) -> None:
    tamper(shop, *changes)

    ended = {command: shop.run(command) for command in ("drain", "setup", "check --live", "dispatch mail.sent")}

    for command, done in ended.items():
        assert (command, done.returncode) == (command, 78)
        assert (len(lines(done)), why in done.stderr) == (1, True), done.stderr
