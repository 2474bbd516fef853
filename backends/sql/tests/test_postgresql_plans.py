"""How PostgreSQL finds what it is asked for: by an index, however many rows there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from relevo import SystemClock
from relevo_sql import SqlOptions, SqlTransport
from relevo_sql._dialect import dialect_of
from relevo_sql._prepared import Prepared
from relevo_sql._query_statement import FilterShape, QueryStatements
from relevo_sql._statement import statements_for

Show = Callable[..., str]

_ROWS = """
INSERT INTO relevo_event (state, ready_at, queue, target, event_id, source, name, enqueued_at, body)
SELECT {state}, number, 'default', 'default', '{state}-' || number, 'shop', 'image.created', number, 'x'
FROM generate_series(1, 20000) AS number
"""


@pytest.fixture
def explain(postgresql_database: str) -> Iterator[Show]:
    """Return what shows the plan of a statement, in a table of 20,000 ready and 20,000 scheduled rows."""
    options = SqlOptions(url=postgresql_database)
    with closing(SqlTransport.open(options, name="main", clock=SystemClock())) as transport:
        transport.setup([])
        with psycopg.connect(postgresql_database, autocommit=True) as connection:
            for state in (0, 2):
                connection.execute(_ROWS.format(state=state).encode())
            connection.execute("ANALYZE relevo_event")

            def show(name: str | Prepared, **values: Any) -> str:
                statements = transport._database.statements
                prepared = name if isinstance(name, Prepared) else getattr(statements, name)
                sql = prepared.compile()
                values |= prepared._constants
                arguments = [values[each] for each in prepared._names]
                return "\n".join(row[0] for row in connection.execute(f"EXPLAIN {sql}".encode(), arguments))

            yield show


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("look", {"queues": ["default"]}),
        ("claim", {"now": 1, "until": 2, "claim": 3, "queue": "default", "bound": 250}),
        ("claim_since", {"now": 1, "until": 2, "claim": 3, "queue": "default", "bound": 250, "urgency": 1, "since": 9}),
        ("promote", {"now": 1, "queue": "default", "bound": 1000}),
        ("reap", {"now": 1, "queue": "default", "bound": 1000}),
        ("strays", {"now": 1, "queue": "default", "bound": 250}),
        ("ack", {"held": 3, "now": 1, "seqs": [1, 2, 3]}),
        ("ack_one", {"held": 3, "now": 1, "which": 1}),
        ("advance", {"queue": "default", "target": "default", "ordering_key": "42", "now": 1}),
    ],
)
def test_a_statement_of_a_claim_or_a_settlement_walks_through_no_table(
    explain: Show, name: str, values: dict[str, Any]
) -> None:
    plan = explain(name, **values)

    assert "Index" in plan
    assert "Seq Scan" not in plan


@pytest.fixture
def queries() -> QueryStatements:
    return statements_for(dialect_of(sa.create_engine("postgresql+psycopg://"))).queries


@pytest.mark.parametrize("state", [0, 1, 2, 3])
def test_a_page_of_a_query_is_a_range_of_the_index_of_a_state(
    explain: Show, queries: QueryStatements, state: int
) -> None:
    index = ("relevo_event_ready", "relevo_event_leased", "relevo_event_scheduled", "relevo_event_waiting")[state]
    values: dict[str, Any] = {"queue": "default", "urgency": 1, "low": 5, "high": 10**16, "behind": 3, "bound": 100}
    values |= {"names": ["a"], "prefix0": "ima", "since": 1}

    plain = explain(queries.page(state, FilterShape()), **values)
    filtered = explain(queries.page(state, FilterShape(names=True, prefixes=(3,), since=True)), **values)

    assert index in plain
    assert "Seq Scan" not in plain
    assert "Seq Scan" not in filtered


def test_stuck_keys_are_found_by_indexes(explain: Show, queries: QueryStatements) -> None:
    plan = explain(queries.stuck(), queue="default", now=10**15, before=5, bound=10)

    assert "relevo_event_waiting" in plan
    assert "Seq Scan" not in plan
