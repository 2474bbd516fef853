"""The suite that every transport is held to, on MariaDB."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from database_server import DatabaseServer
from relevo_conformance import suite
from relevo_sql.conformance import MariadbHarness

from .profiles import SHORTER


@pytest.fixture(autouse=True, scope="module")
def _database(mariadb_databases: DatabaseServer) -> Iterator[None]:
    """Name a new database in RELEVO_TEST_MARIADB, where the harness looks."""
    with mariadb_databases.fresh_database() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RELEVO_TEST_MARIADB", url)
        yield


TestMariadb = suite(MariadbHarness, profile=SHORTER)
TestMariadbStandard = pytest.mark.soak(suite(MariadbHarness, profile="standard"))
