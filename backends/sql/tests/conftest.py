from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from database_server import DatabaseServer
from relevo import Clock, Envelope, SystemClock
from relevo.testing import FakeClock
from relevo_conformance._contract_free_race import FreeRaceContract
from relevo_conformance._contract_race import RaceContract
from relevo_sql import SqlOptions, SqlTransport
from relevo_sql.conformance import PortableHarness

from .on_server import DATABASES

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

SYSTEM_CLOCK = SystemClock()

HERE = Path(__file__).parent
SERVERS = ("postgresql", "mariadb", "mysql")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Leave some tests of the portable dialect to ``make test-all``.

    They are those on servers, as its statements are those that it has on SQLite, and those that race on SQLite, where
    one transaction writes at a time whatever the dialect is.
    """
    for item in items:
        if item.path.is_relative_to(HERE) and (_is_on_server(item) or _races(item)):
            item.add_marker(pytest.mark.soak)


def _is_on_server(item: pytest.Item) -> bool:
    words = item.name.partition("[")[2]
    return "portable" in words and any(server in words for server in SERVERS)


def _races(item: pytest.Item) -> bool:
    name = item.name.partition("[")[0]
    return (
        isinstance(item, pytest.Function)
        and getattr(item.cls, "harness_type", None) is PortableHarness
        and any(hasattr(contract, name) for contract in (RaceContract, FreeRaceContract))
    )


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture
def opener(path: Path) -> Iterator[Opener]:
    """Open transports on one file by its address, and close them in the end."""
    opened: list[SqlTransport] = []

    def open_one(clock: Clock = SYSTEM_CLOCK, *, url: str = "", setup: bool = True, **options: Any) -> SqlTransport:
        said = SqlOptions(url=url or f"sqlite:///{path}", **options)
        transport = SqlTransport.open(said, name="main", clock=clock)
        opened.append(transport)
        if setup:
            transport.setup([])
        return transport

    yield open_one
    for transport in opened:
        transport.close()


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest) -> str:
    """Give the URL of a new database on each server in turn, and "" for the SQLite file of :func:`opener`."""
    engine: str = request.param
    url: str = "" if engine == "sqlite" else request.getfixturevalue(f"{engine}_database")
    return url


@pytest.fixture(params=[{}, {"dialect": "portable"}], ids=["own dialect", "portable"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Give the options of a transport with the dialect of its database, and with the portable one."""
    options: dict[str, Any] = request.param
    return options


@pytest.fixture
def transport(opener: Opener, clock: FakeClock) -> SqlTransport:
    return opener(clock)


@pytest.fixture
def engine(path: Path) -> Iterator[sa.Engine]:
    """Return an engine as an application has one."""
    engine = sa.create_engine(f"sqlite:///{path}")
    yield engine
    engine.dispose()


@pytest.fixture
def server(request: pytest.FixtureRequest, driver: str) -> DatabaseServer:
    """Return the server for the module's fixture *driver*: the dialect and driver of the application's engine."""
    name = "postgresql_databases" if driver.startswith("postgresql") else "mariadb_databases"
    found: DatabaseServer = request.getfixturevalue(name)
    return found


@pytest.fixture
def server_database(server: DatabaseServer) -> Iterator[str]:
    """Give the URL of a new database on the server."""
    with server.fresh_database() as url:
        yield url


@pytest.fixture
def an_envelope() -> Maker:
    """Return what makes envelopes that differ by a number."""

    def make(number: int = 1, **fields: Any) -> Envelope:
        values: dict[str, Any] = {
            "id": f"id-{number}",
            "source": "shop",
            "name": "image.created",
            "body": b'{"number":%d}' % number,
        }
        return Envelope(**(values | fields))

    return make
