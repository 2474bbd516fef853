"""The queries on the page "Monitor relevo" find an event by an argument, on each database."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlalchemy as sa

import relevo
from relevo_sql import database_url

from .workspace import ROOT

PAGE = (ROOT / "docs" / "how-to" / "monitor.md").read_text(encoding="utf-8")
QUERIES = dict(re.findall(r"On (\w+):\n\n```sql\n(.*?);\n```", PAGE, re.DOTALL))


def check(database: str, url: str) -> None:
    """Dispatch events to *url*, and check that the query for *database* finds one of them, alive and dead."""
    with relevo.App(transports={"main": url}) as app:
        app.setup()
        engine = sa.create_engine(database_url(app))
        sought = app.dispatch("image.created", {"path": "sea.jpg"})
        app.dispatch("image.created", {"path": "hill.jpg"})
        app.dispatch("image.deleted", {"path": "sea.jpg"})
        with engine.begin() as connection:
            unreadable = "UPDATE relevo_event SET body = :raw WHERE name = 'image.deleted'"
            connection.execute(sa.text(unreadable), {"raw": b"\xff"})

            assert connection.execute(sa.text(QUERIES[database].replace("::", "\\:\\:"))).all() == [
                (sought.id, "default", 0, 1)
            ]
            dead = QUERIES[database].replace("relevo_event", "relevo_dead").replace("state", "ref, reason")
            assert connection.execute(sa.text(dead.replace("::", "\\:\\:"))).all() == []
        engine.dispose()


def test_the_query_for_sqlite_finds_an_event_by_an_argument(tmp_path: Path) -> None:
    check("SQLite", f"sqlite:///{tmp_path}/shop.db")


@pytest.mark.postgresql
def test_the_query_for_postgresql_finds_an_event_by_an_argument(postgresql_database: str) -> None:
    check("PostgreSQL", postgresql_database)


@pytest.mark.mariadb
def test_the_query_for_mariadb_finds_an_event_by_an_argument(mariadb_database: str) -> None:
    check("MariaDB", mariadb_database)
