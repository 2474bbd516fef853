"""How MariaDB finds what it is asked for, with a backlog in the way: by an index, never by walking."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from database_server import DatabaseServer
from relevo import DeadLetter, Envelope, SystemClock
from relevo_sql import SqlOptions, SqlTransport
from relevo_sql._prepared import Prepared, PreparedPair
from relevo_sql._query_statement import FilterShape

from .on_mariadb import execute

Maker = Callable[..., Envelope]

VALUES: dict[str, Any] = {
    "queue": "default", "target": "default", "ordering_key": "42", "now": 10**15, "bound": 10, "until": 2, "claim": 7,
    "seqs": (1, 2, 3), "keys": (1, 2, 3), "held": 7, "which": 3, "at": 1, "kept": b"", "note": "n", "dead": "d",
    "excused": "e", "next": 0, "last": 10**9, "after": 0, "ref": 1, "id": "id-5", "before": 5, "workers": ("a", "b"),
    "worker": "a", "reason": "r", "error": "e", "died_at": 1, "mine": "m", "holder": "h", "receipt": "r",
    "urgency": 1, "low": 5, "high": 10**16, "behind": 3, "names": ("a", "b"), "prefix0": "ima", "since": 1,
    "reasons": ("r",),
}  # fmt: skip


@contextmanager
def crowded(url: str, an_envelope: Maker) -> Iterator[SqlTransport]:
    """Yield a transport with 10,000 scheduled events, 200 leased, 200 that wait in line, and a few ready and dead."""
    with SqlTransport.open(SqlOptions(url=url), name="main", clock=SystemClock()) as transport:
        transport.setup([])
        transport.send([an_envelope(number) for number in range(10_000)], delay=3600)
        transport.send([an_envelope(number, urgency="high") for number in range(20_000, 20_200)])
        transport.receive(["default"], limit=200, lease=3600, wait=0)
        transport.send([an_envelope(number, ordering_key="42") for number in range(40_000, 40_200)])
        transport.receive(["default"], limit=1, lease=3600, wait=0)
        transport.send([an_envelope(number) for number in range(30_000, 30_020)])
        dying = transport.receive(["default"], limit=10, lease=3600, wait=0)
        transport.settle([(delivery, DeadLetter(reason="r", error="e")) for delivery in dying])
        for number in range(5):
            transport.appear(f"worker-{number}")
            transport.lock(f"lock-{number}", holder="h", ttl=60)
        yield transport


@pytest.fixture(scope="module", params=["as it is", "analysed"])
def transport(
    request: pytest.FixtureRequest, mariadb_databases: DatabaseServer, an_envelope_of_module: Maker
) -> Iterator[SqlTransport]:
    with mariadb_databases.fresh_database() as url, crowded(url, an_envelope_of_module) as transport:
        if request.param == "analysed":  # it finds that all rows are of one queue
            execute(url, "ANALYZE TABLE relevo_event, relevo_dead, relevo_worker, relevo_lock")
        yield transport


@pytest.fixture(scope="module")
def an_envelope_of_module() -> Maker:
    def make(number: int, **fields: Any) -> Envelope:
        return Envelope(id=f"id-{number}", source="shop", name="image.created", body=b"{}", **fields)

    return make


def plan(transport: SqlTransport, statement: Prepared) -> list[tuple[str, str, str, str]]:
    """Return for each step the table, how it is read, by which index, and remarks."""
    sql = statement.compile()
    values = (
        VALUES | {f"{name}{part}": value for name, value in VALUES.items() for part in (0, 1)} | statement._constants
    )
    if "relevo_worker" in sql:
        values["which"] = "worker-1"
    parameters = tuple(values[name] for name in statement._names)
    rows = transport._database.read(lambda c: c.exec_driver_sql(f"EXPLAIN {sql}", parameters).all())
    return [(str(row[2]), str(row[3]), str(row[5]), str(row[9])) for row in rows if row[2] is not None]


def steps_of(statement: Prepared) -> list[Prepared]:
    return [statement, statement.change] if isinstance(statement, PreparedPair) else [statement]


STATE, TURN, STRAY = "relevo_event_state", "relevo_event_turn", "relevo_event_stray"


@pytest.mark.parametrize(
    ("name", "indexes"),
    [
        ("claim", {STATE, "PRIMARY"}),
        ("claim_since", {STATE, "PRIMARY"}),
        ("promote", {STATE, "PRIMARY"}),
        ("reap", {STATE, "PRIMARY"}),
        ("reap_endless", {STATE, "PRIMARY"}),
        ("look", {STATE, STRAY}),
        ("strays", {STRAY}),
        ("claim_strays", {"PRIMARY"}),
        ("advance", {TURN, "PRIMARY"}),
        ("left_waiting", {STATE, TURN}),
        ("held", {"PRIMARY"}),
        ("ack", {"PRIMARY"}),
        ("ack_one", {"PRIMARY"}),
        ("ack_all", {"PRIMARY"}),
        ("release", {"PRIMARY"}),
        ("postpone", {"PRIMARY"}),
        ("extend", {"PRIMARY"}),
        ("begin", {"PRIMARY"}),
        ("nack", {"PRIMARY"}),
        ("lose", {"PRIMARY"}),
        ("die", {"PRIMARY"}),
        ("forget", {"PRIMARY"}),
        ("dead", {"relevo_dead_queue"}),
        ("discard", {"PRIMARY"}),
        ("cancel", {"relevo_event_identity", "PRIMARY"}),
        ("find", {"relevo_event_identity"}),
        ("purge_strays", {STRAY, "PRIMARY"}),
        ("appear", {"PRIMARY"}),
        ("meant", {"relevo_event_identity"}),
        ("claim_meant", {"PRIMARY"}),
        ("reap_meant", {"PRIMARY"}),
        ("join_line", {"PRIMARY"}),
        ("beats", {"PRIMARY"}),
        ("stats", {STATE, STRAY, "relevo_dead_queue"}),
    ],
)
def test_a_statement_finds_its_rows_by_an_index(transport: SqlTransport, name: str, indexes: set[str]) -> None:
    found = [step for each in steps_of(getattr(transport._database.statements, name)) for step in plan(transport, each)]

    read = [step for step in found if not step[0].startswith("<derived")]
    assert {index for _, _, index, _ in read} == indexes
    assert {how for _, how, _, _ in read} <= {"const", "ref", "range"}
    if name != "find":  # a few rows of one id
        assert [step for step in read if "filesort" in step[3] or "temporary" in step[3]] == []


@pytest.mark.parametrize("state", [0, 1, 2, 3])
def test_a_page_of_a_query_is_a_range_of_the_index_of_states(transport: SqlTransport, state: int) -> None:
    queries = transport._database.statements.queries
    conditions = FilterShape(names=True, prefixes=(3,), since=True)

    (page,) = plan(transport, queries.page(state, conditions))
    groups = plan(transport, queries.groups([state, state], FilterShape(), by_name=True))

    assert page[:3] == ("relevo_event", "range", STATE)
    assert "filesort" not in page[3]
    assert [step[:3] for step in groups if step[0] == "relevo_event"] == [("relevo_event", "range", STATE)] * 2


def test_stuck_keys_are_found_by_indexes(transport: SqlTransport) -> None:
    found = plan(transport, transport._database.statements.queries.stuck())

    read = {(table, how, index) for table, how, index, _ in found if not table.startswith("<derived")}
    assert ("relevo_event", "range", STATE) in read
    assert ("head", "eq_ref", "PRIMARY") in read
    assert {how for _, how, _ in read} <= {"range", "ref", "eq_ref"}
    assert {index for _, _, index in read} == {STATE, TURN, "PRIMARY"}


def test_filtered_dead_letters_are_found_by_their_queue(transport: SqlTransport) -> None:
    queries = transport._database.statements.queries

    (page,) = plan(transport, queries.dead_page(FilterShape(others=True)))
    (group,) = plan(transport, queries.dead_group(FilterShape(), by="reason"))

    assert (page[2], group[2]) == ("relevo_dead_queue", "relevo_dead_queue")
    assert "filesort" not in page[3]


@pytest.mark.parametrize("state", [0, 1, 2, 3])
def test_a_purge_finds_the_rows_of_each_state_by_their_index(transport: SqlTransport, state: int) -> None:
    query, change = steps_of(transport._database.statements.purge[state])

    assert [step[:3] for step in plan(transport, query)] == [("relevo_event", "ref", STATE)]
    assert [step[:3] for step in plan(transport, change)] == [("relevo_event", "range", "PRIMARY")]


def test_a_dead_letter_of_the_same_event_is_found_by_its_id(transport: SqlTransport) -> None:
    statement = transport._database.statements.earlier
    rows = transport._database.read(
        lambda c: c.exec_driver_sql("SELECT seq FROM relevo_event WHERE state = 1 LIMIT 100").all()
    )

    text = statement.compile()
    seqs = tuple(seq for (seq,) in rows)
    found = transport._database.read(lambda c: c.exec_driver_sql(f"EXPLAIN {text}", (seqs,)).all())

    assert {(each[2], each[5]) for each in found} == {
        ("relevo_event", "PRIMARY"),
        ("relevo_dead", "relevo_dead_identity"),
    }


def test_ten_thousand_keys_are_looked_up_one_by_one(transport: SqlTransport) -> None:
    change = steps_of(transport._database.statements.purge[2])[1]
    keys = tuple(range(1, 10_001))

    found = transport._database.read(lambda c: c.exec_driver_sql(f"EXPLAIN {change.compile()}", (keys,)).all())

    assert [(row[3], row[5]) for row in found] == [("range", "PRIMARY")]


def test_no_row_of_another_state_is_read_by_a_claim(transport: SqlTransport) -> None:
    def rows_read() -> int:
        found = transport._database.read(lambda c: c.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'").all())
        return sum(int(number) for _, number in found)

    before = rows_read()
    transport.receive(["default"], limit=5, lease=3600, wait=0)
    cost = rows_read() - before

    assert cost < 500  # of 10,400 rows; SHOW itself reads some


def test_every_locking_statement_names_its_index(transport: SqlTransport) -> None:
    statements = transport._database.statements
    pairs = [value for value in vars(statements).values() if isinstance(value, PreparedPair)]
    texts = [step.compile() for pair in (*pairs, *statements.purge.values()) for step in steps_of(pair)]

    lacking = [text for text in texts if not re.search(r"FORCE INDEX|JOIN relevo_dead", text)]

    assert lacking == []
