"""The suite that every transport is held to, on MariaDB."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from database_server import DatabaseServer
from relevo_conformance import suite
from relevo_sql.conformance import MariadbHarness

from .on_server import named_database
from .profiles import SHORTER


@pytest.fixture(autouse=True, scope="module")
def _database(mariadb_databases: DatabaseServer) -> Iterator[None]:
    with named_database(mariadb_databases, "RELEVO_TEST_MARIADB"):
        yield


TestMariadb = suite(MariadbHarness, profile=SHORTER)
TestMariadbStandard = pytest.mark.soak(suite(MariadbHarness, profile="standard"))
