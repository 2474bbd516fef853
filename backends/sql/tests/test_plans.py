"""How SQLite finds what it is asked for, with a backlog in the way: by an index, never by walking."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pytest

from relevo import Envelope, Nack
from relevo.testing import FakeClock
from relevo_sql import SqlTransport
from relevo_sql._prepared import Prepared
from relevo_sql._query_statement import FilterShape
from relevo_sql._schema import LEASED, READY, SCHEDULED, WAITING
from relevo_sql._statement import Statements

pytestmark = pytest.mark.slow("about the plans of SQLite, not Python")

Maker = Callable[..., Envelope]


@pytest.fixture
def crowded(transport: SqlTransport, path: Path, an_envelope: Maker, clock: FakeClock) -> SqlTransport:
    """Return a transport with 10,000 scheduled events, 200 leased, 200 that wait in line and a few ready."""
    transport.send([an_envelope(number) for number in range(10_000)], delay=3600)
    transport.send([an_envelope(number, urgency="high") for number in range(20_000, 20_200)])
    transport.receive(["default"], limit=200, lease=60, wait=0)
    transport.send([an_envelope(number, ordering_key="42") for number in range(40_000, 40_200)])
    transport.send([an_envelope(number) for number in range(30_000, 30_010)])
    return transport


def plan(path: Path, statement: Prepared) -> str:
    sql = statement.compile()
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"EXPLAIN QUERY PLAN {sql}", [None] * sql.count("?")).fetchall()
    return "\n".join(row[3] for row in rows)


def by(index: str, condition: str) -> str:
    return f"SEARCH relevo_event USING COVERING INDEX relevo_event_{index} ({condition})"


@pytest.mark.parametrize(
    ("name", "found_by"),
    [
        ("claim", [by("ready", "queue=?"), "SEARCH relevo_event USING INTEGER PRIMARY KEY"]),
        ("promote", [by("scheduled", "queue=? AND ready_at<?"), "SEARCH relevo_event USING INTEGER PRIMARY KEY"]),
        ("reap", [by("leased", "queue=? AND lease_until<?"), "SEARCH relevo_event USING INTEGER PRIMARY KEY"]),
        ("look", [by("ready", "queue=?"), by("scheduled", "queue=?"), by("leased", "queue=?")]),
        ("stats", [by("ready", "queue=?"), by("waiting", "queue=? AND ready_at<?")]),
        ("last_ready", [by("ready", "queue=? AND urgency=?")]),
        ("catch_up", [by("ready", "queue=?"), "SEARCH relevo_event USING INTEGER PRIMARY KEY"]),
        ("ack", ["SEARCH relevo_event USING INTEGER PRIMARY KEY"]),
        ("ack_one", ["SEARCH relevo_event USING INTEGER PRIMARY KEY"]),
        ("begin", ["SEARCH relevo_event USING INTEGER PRIMARY KEY"]),
        ("postpone", ["SEARCH relevo_event USING INTEGER PRIMARY KEY"]),
        ("die", ["SEARCH relevo_event USING INTEGER PRIMARY KEY"]),
        ("appear", ["SEARCH relevo_worker USING INDEX"]),
        ("announce", ["SEARCH relevo_announcement USING INDEX"]),
        ("limit", ["SEARCH relevo_announcement USING INDEX"]),
        ("change_limit", ["SEARCH relevo_announcement USING INDEX"]),
        ("forget_limit", ["SEARCH relevo_announcement USING INDEX"]),
        ("meant", ["SEARCH relevo_event USING INDEX relevo_event_identity (event_id=?)"]),
        ("claim_meant", ["SEARCH relevo_event USING INTEGER PRIMARY KEY"]),
        ("reap_meant", ["SEARCH relevo_event USING INTEGER PRIMARY KEY"]),
        ("join_line", ["SEARCH relevo_event USING INTEGER PRIMARY KEY"]),
        ("beats", ["SEARCH relevo_worker USING INDEX"]),
        ("extend", ["SEARCH relevo_event USING INTEGER PRIMARY KEY"]),
        ("nack", ["SEARCH relevo_event USING INTEGER PRIMARY KEY"]),
        ("bury", ["SEARCH relevo_event USING INTEGER PRIMARY KEY"]),
        ("earlier", ["SEARCH relevo_event USING INTEGER PRIMARY KEY", "INDEX relevo_dead_identity (event_id=?"]),
        ("send_in_line", [by("line", "queue=? AND target=? AND ordering_key=?")]),
        ("advance", [by("line", "queue=? AND target=? AND ordering_key=?")]),
        ("cancel", ["SEARCH relevo_event USING INDEX relevo_event_identity (event_id=?)"]),
        ("strays", ["SEARCH relevo_event USING INDEX relevo_event_stray (<expr>=?"]),
        ("left_waiting", ["INDEX relevo_event_line (queue=? AND target=? AND ordering_key=? AND seq<?)"]),
        ("dead", ["SEARCH relevo_dead USING INDEX relevo_dead_queue (queue=? AND ref>?)"]),
        ("discard", ["SEARCH relevo_dead USING INTEGER PRIMARY KEY"]),
    ],
)  # fmt: skip
def test_a_statement_finds_its_rows_by_an_index(
    crowded: SqlTransport, path: Path, name: str, found_by: list[str]
) -> None:
    statement = getattr(crowded._database.statements, name)

    told = plan(path, statement)

    for step in found_by:
        assert step in told
    assert "SCAN relevo_event" not in told
    assert "SCAN relevo_dead" not in told
    assert "TEMP B-TREE" not in told or name == "look"  # the queues asked for are put in their order


@pytest.mark.parametrize(
    ("state", "found_by"),
    [
        (READY, "INDEX relevo_event_ready (queue=? AND urgency=? AND ready_at>? AND ready_at<?)"),
        (LEASED, "INDEX relevo_event_leased (queue=? AND lease_until>? AND lease_until<?)"),
        (SCHEDULED, "INDEX relevo_event_scheduled (queue=? AND ready_at>? AND ready_at<?)"),
        (WAITING, "INDEX relevo_event_waiting (queue=? AND ready_at>? AND ready_at<?)"),
    ],
)
def test_a_page_of_a_query_is_a_range_of_the_index_of_a_state(
    crowded: SqlTransport, path: Path, state: int, found_by: str
) -> None:
    queries = crowded._database.statements.queries
    page = queries.page(state, FilterShape(names=True, prefixes=(3,), since=True))
    group = queries.groups([state, state], FilterShape(), by_name=True)

    told = plan(path, page)

    assert found_by in told
    assert "TEMP B-TREE" not in told.replace("USE TEMP B-TREE FOR LAST TERM", "")  # of rows with the same time
    assert found_by in plan(path, group)


@pytest.mark.parametrize("by", ["event", "queue", "state"])
def test_a_count_is_one_statement_which_sees_each_event_once(
    crowded: SqlTransport, by: Literal["event", "queue", "state"]
) -> None:
    ran: list[str] = []
    crowded._database._connection.connection.driver_connection.set_trace_callback(ran.append)  # type: ignore[union-attr]

    assert crowded.waiting_groups(["default"], by=by)

    assert sum("relevo_event" in each for each in ran) == 1


def test_stuck_keys_are_found_by_indexes(crowded: SqlTransport, path: Path) -> None:
    told = plan(path, crowded._database.statements.queries.stuck())

    assert "INDEX relevo_event_waiting (queue=? AND ready_at<?)" in told
    assert "INDEX relevo_event_line (queue=? AND target=? AND ordering_key=?)" in told
    assert "SEARCH head USING INTEGER PRIMARY KEY" in told
    assert "SCAN relevo_event" not in told


def test_filtered_dead_letters_are_found_by_their_queue(crowded: SqlTransport, path: Path) -> None:
    queries = crowded._database.statements.queries

    page = plan(path, queries.dead_page(FilterShape(others=True)))

    assert "SEARCH relevo_dead USING INDEX relevo_dead_queue (queue=? AND ref>?)" in page
    assert "INDEX relevo_dead_queue (queue=?)" in plan(path, queries.dead_group(FilterShape(), by="reason"))


def test_the_plans_stay_when_an_analyze_finds_that_all_rows_are_of_one_queue(crowded: SqlTransport, path: Path) -> None:
    statements = all_of(crowded._database.statements)
    before = {name: plan(path, statement) for name, statement in statements}
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ANALYZE")

    after = {name: plan(path, statement) for name, statement in statements}

    assert after == before
    assert [name for name, told in after.items() if "SCAN relevo_e" in told or "SCAN relevo_d" in told] == []


def all_of(statements: Statements) -> list[tuple[str, Prepared]]:
    found: list[tuple[str, Any]] = []
    for name, value in vars(statements).items():
        if isinstance(value, dict):
            found.extend((f"{name}-{key}", prepared) for key, prepared in value.items())
        elif isinstance(value, Prepared):
            found.append((name, value))
    return found


def test_a_claim_costs_no_more_with_a_backlog_in_other_states(
    transport: SqlTransport, an_envelope: Maker, path: Path
) -> None:
    def steps() -> int:
        """Return how many instructions of SQLite one receive of one event takes."""
        count = 0

        def tick() -> int:
            nonlocal count
            count += 1
            return 0

        driver: Any = transport._database.read(lambda connection: connection.connection.driver_connection)
        driver.set_progress_handler(tick, 1)
        (delivery,) = transport.receive(["default"], limit=1, lease=60, wait=0)
        driver.set_progress_handler(None, 1)
        transport.settle([(delivery, Nack())])
        return count

    transport.send([an_envelope(0)])
    alone = steps()
    transport.send([an_envelope(number) for number in range(1, 5_000)], delay=3600)
    transport.send([an_envelope(number, ordering_key="42") for number in range(5_000, 7_000)])

    assert steps() < alone * 1.5
