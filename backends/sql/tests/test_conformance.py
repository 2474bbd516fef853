"""The suite that every transport is held to, on each database."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import pytest

from database_server import DatabaseServer
from relevo_conformance import suite
from relevo_conformance.profile import PROFILES
from relevo_sql._dialect.mariadb import MYSQL
from relevo_sql.conformance import (
    MariadbHarness,
    PortableHarness,
    PortableMariadbHarness,
    PortablePostgresqlHarness,
    PostgresqlHarness,
    SqlHarness,
)

from .on_mariadb import query

SHORT = attrs.evolve(PROFILES["quick"], rows=40, durable_histories=12)
"""The quick profile with fewer pairs of features and histories: on a server all of them take minutes."""

SHORTER = attrs.evolve(SHORT, operations=1, durable_histories=6, durable_schedules=1)
"""The same with less of all, for the database and the dialect on which each operation takes longest."""

TestSqlite = suite(SqlHarness, profile=attrs.evolve(PROFILES["quick"], rows=120))
"""With the rows that hold the most pairs of features; `make test-all` runs the standard profile."""

TestPortable = suite(PortableHarness, profile=SHORTER)


@pytest.fixture(scope="module")
def _postgresql(postgresql_databases: DatabaseServer) -> Iterator[None]:
    """Name a new database in RELEVO_TEST_POSTGRESQL, where the harness looks."""
    with postgresql_databases.fresh_database() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RELEVO_TEST_POSTGRESQL", url)
        yield


TestPostgresql = pytest.mark.usefixtures("_postgresql")(suite(PostgresqlHarness, profile=SHORT))
TestPostgresqlStandard = pytest.mark.soak(
    pytest.mark.usefixtures("_postgresql")(suite(PostgresqlHarness, profile="standard"))
)


@pytest.fixture(scope="module")
def _portable_on_postgresql(postgresql_databases: DatabaseServer) -> Iterator[None]:
    """As above, for tables of the portable dialect."""
    with postgresql_databases.fresh_database() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RELEVO_TEST_POSTGRESQL", url)
        yield


TestPortableOnPostgresql = pytest.mark.soak(
    pytest.mark.usefixtures("_portable_on_postgresql")(suite(PortablePostgresqlHarness, profile=SHORT))
)


@pytest.fixture(scope="module")
def _mariadb(mariadb_databases: DatabaseServer) -> Iterator[None]:
    """Name a new database in RELEVO_TEST_MARIADB, where the harness looks."""
    with mariadb_databases.fresh_database() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RELEVO_TEST_MARIADB", url)
        yield


TestMariadb = pytest.mark.usefixtures("_mariadb")(suite(MariadbHarness, profile=SHORTER))
TestMariadbStandard = pytest.mark.soak(pytest.mark.usefixtures("_mariadb")(suite(MariadbHarness, profile="standard")))


@pytest.fixture(scope="module")
def _portable_on_mariadb(mariadb_databases: DatabaseServer) -> Iterator[None]:
    """As above, for tables of the portable dialect."""
    with mariadb_databases.fresh_database() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RELEVO_TEST_MARIADB", url)
        yield


TestPortableOnMariadb = pytest.mark.soak(
    pytest.mark.usefixtures("_portable_on_mariadb")(suite(PortableMariadbHarness, profile=SHORT))
)


@pytest.fixture(scope="module")
def _mysql(mariadb_databases: DatabaseServer) -> Iterator[None]:
    """As for MariaDB, which is used as if it were MySQL: with its collation, and no row that breaks a constraint."""
    with mariadb_databases.fresh_database() as url, pytest.MonkeyPatch.context() as patch:
        if not query(url, f"SHOW COLLATION LIKE '{MYSQL.collation}'"):
            pytest.skip("only MariaDB from 11.4 on knows the collations of MySQL")
        patch.setenv("RELEVO_TEST_MARIADB", url.replace("mariadb", "mysql", 1))
        patch.setattr("relevo_sql._dialect.mariadb.kind_of", lambda _: MYSQL)
        yield


TestAsOnMysql = pytest.mark.soak(pytest.mark.usefixtures("_mysql")(suite(MariadbHarness)))
