"""The suite that every transport is held to, in the portable dialect on servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from database_server import DatabaseServer
from relevo_conformance import suite
from relevo_sql.conformance import PortableMariadbHarness, PortablePostgresqlHarness

from .on_server import named_database
from .profiles import SHORT

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def _on_postgresql(postgresql_databases: DatabaseServer) -> Iterator[None]:
    with named_database(postgresql_databases, "RELEVO_TEST_POSTGRESQL"):
        yield


@pytest.fixture(scope="module")
def _on_mariadb(mariadb_databases: DatabaseServer) -> Iterator[None]:
    with named_database(mariadb_databases, "RELEVO_TEST_MARIADB"):
        yield


TestPortableOnPostgresql = pytest.mark.usefixtures("_on_postgresql")(suite(PortablePostgresqlHarness, profile=SHORT))
TestPortableOnMariadb = pytest.mark.usefixtures("_on_mariadb")(suite(PortableMariadbHarness, profile=SHORT))
