"""The suite that every transport is held to, on each database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from database_server import DatabaseServer
from relevo_conformance import suite
from relevo_sql.conformance import PostgresqlHarness, SqlHarness

TestSqlite = suite(SqlHarness)


@pytest.fixture(scope="module")
def _postgresql(postgresql_databases: DatabaseServer) -> Iterator[None]:
    """Name a new database in RELEVO_TEST_POSTGRESQL, where the harness looks."""
    with postgresql_databases.fresh_database() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RELEVO_TEST_POSTGRESQL", url)
        yield


TestPostgresql = pytest.mark.usefixtures("_postgresql")(suite(PostgresqlHarness))
