"""The suite that every transport is held to, on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from database_server import DatabaseServer
from relevo_conformance import suite
from relevo_sql.conformance import PostgresqlHarness

from .profiles import SHORT


@pytest.fixture(autouse=True, scope="module")
def _database(postgresql_databases: DatabaseServer) -> Iterator[None]:
    """Name a new database in RELEVO_TEST_POSTGRESQL, where the harness looks."""
    with postgresql_databases.fresh_database() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RELEVO_TEST_POSTGRESQL", url)
        yield


TestPostgresql = suite(PostgresqlHarness, profile=SHORT)
TestPostgresqlStandard = pytest.mark.soak(suite(PostgresqlHarness, profile="standard"))
