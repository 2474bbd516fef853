"""The suite that every transport is held to, on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from database_server import DatabaseServer
from relevo_conformance import suite
from relevo_sql.conformance import PostgresqlHarness

from .on_server import named_database
from .profiles import SHORT


@pytest.fixture(autouse=True, scope="module")
def _database(postgresql_databases: DatabaseServer) -> Iterator[None]:
    with named_database(postgresql_databases, "RELEVO_TEST_POSTGRESQL"):
        yield


TestPostgresql = suite(PostgresqlHarness, profile=SHORT)
TestPostgresqlStandard = pytest.mark.soak(suite(PostgresqlHarness, profile="standard"))
