"""The suite that every transport is held to, on MariaDB as if it were MySQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from database_server import DatabaseServer
from relevo_conformance import suite
from relevo_sql._dialect.mariadb import MYSQL
from relevo_sql.conformance import MariadbHarness

from .on_mariadb import query
from .on_server import named_database

pytestmark = pytest.mark.soak


@pytest.fixture(autouse=True, scope="module")
def _database(mariadb_databases: DatabaseServer) -> Iterator[None]:
    """Use MariaDB as if it were MySQL: with its collation, and no row that breaks a constraint."""
    variable = "RELEVO_TEST_MARIADB"
    with named_database(mariadb_databases, variable) as url, pytest.MonkeyPatch.context() as patch:
        if not query(url, f"SHOW COLLATION LIKE '{MYSQL.collation}'"):
            pytest.skip("only MariaDB from 11.4 on knows the collations of MySQL")
        patch.setenv(variable, url.replace("mariadb", "mysql", 1))
        patch.setattr("relevo_sql._dialect.mariadb.kind_of", lambda _: MYSQL)
        yield


TestAsOnMysql = suite(MariadbHarness)
