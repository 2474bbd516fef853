"""The address from which an application makes the engine of its own rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

import relevo
from relevo.errors import ConfigurationError
from relevo_sql import database_url


@contextmanager
def an_app(main: str, **options: Any) -> Iterator[relevo.App]:
    with relevo.App(transports={"main": main}, source="shop", **options) as app:
        yield app


def text(url: sa.URL) -> str:
    return url.render_as_string(hide_password=False)


@pytest.mark.parametrize(
    ("written", "driver", "expected"),
    [
        ("postgres://me:p%40w@db/shop", None, "postgresql+psycopg://me:p%40w@db/shop"),
        ("postgresql://me:pw@db:5433/shop", "asyncpg", "postgresql+asyncpg://me:pw@db:5433/shop"),
        ("postgresql://db/shop?sslmode=require", "psycopg", "postgresql+psycopg://db/shop?sslmode=require"),
        ("postgresql://db/shop?sslmode=verify-full", "asyncpg", "postgresql+asyncpg://db/shop?ssl=verify-full"),
        ("mariadb://me:pw@db/shop?charset=utf8mb4", None, "mysql+pymysql://me:pw@db/shop?charset=utf8mb4"),
        ("mariadb://me:pw@db/shop", "asyncmy", "mysql+asyncmy://me:pw@db/shop"),
        ("mysql://db/shop?ssl-mode=REQUIRED", "asyncmy", "mysql+asyncmy://db/shop?ssl_check_hostname=false"),
        ("mysql://db/shop?ssl-mode=REQUIRED", None, "mysql+pymysql://db/shop?ssl_check_hostname=false"),
        ("sqlite:////srv/shop.db", None, "sqlite:////srv/shop.db"),
        ("sqlite:////srv/shop.db", "aiosqlite", "sqlite+aiosqlite:////srv/shop.db"),
    ],
)
def test_the_address_is_the_written_one_for_the_driver_that_is_asked_for(
    written: str, driver: str | None, expected: str
) -> None:
    with an_app(written) as app:
        assert text(database_url(app, driver=driver)) == expected
        assert text(database_url(app, "main", driver=driver)) == expected


def test_the_database_is_that_of_the_outbox_where_there_is_one() -> None:
    with an_app("amqp://localhost", outboxes={"main": "sqlite:////srv/shop.db"}) as app:
        assert text(database_url(app)) == "sqlite:////srv/shop.db"


def test_an_outbox_that_is_a_transport_of_its_own_needs_no_other_call() -> None:
    transports: Any = {"main": "amqp://localhost", "db": "sqlite:////srv/shop.db"}
    with relevo.App(transports=transports, outboxes={"main": "db"}, source="shop") as app:
        assert database_url(app) == database_url(app, "db") == sa.make_url("sqlite:////srv/shop.db")


@pytest.mark.parametrize(
    ("main", "why"),
    [
        ("memory://", 'the transport "main" stores its events in memory, not in a database; write an address such as'),
        ("amqp://localhost", r'"main" \(AmqpTransport\) does not store its events in a database; give it an outbox'),
    ],
)
def test_without_a_database_the_error_names_what_is_missing(main: str, why: str) -> None:
    with an_app(main) as app, pytest.raises(ConfigurationError, match=why):
        database_url(app)


def test_a_parameter_that_the_driver_does_not_know_can_be_left_out() -> None:
    with an_app("postgresql://db/shop?channel_binding=hunter2&sslmode=require") as app:
        with pytest.raises(ConfigurationError, match=r"'channel_binding', .* asyncpg .*without=\['channel_") as caught:
            database_url(app, driver="asyncpg")
        found = database_url(app, driver="asyncpg", without=["channel_binding", "pgbouncer"])

    assert "hunter2" not in str(caught.value)
    assert text(found) == "postgresql+asyncpg://db/shop?ssl=require"


@pytest.mark.parametrize("driver", ["", "postgresql+asyncpg", "asyncpg://"])
def test_a_driver_is_one_name(driver: str) -> None:
    with (
        an_app("postgresql://db/shop") as app,
        pytest.raises(ConfigurationError, match=r'driver: expected .* "asyncpg"'),
    ):
        database_url(app, driver=driver)


DRIVERS = {"sqlite": "aiosqlite", "postgresql": "asyncpg", "mysql": "asyncmy"}


@pytest.mark.parametrize(
    ("written", "drivers", "expected"),
    [
        ("sqlite:////srv/shop.db", DRIVERS, "sqlite+aiosqlite:////srv/shop.db"),
        ("postgresql://db/shop?sslmode=require", DRIVERS, "postgresql+asyncpg://db/shop?ssl=require"),
        ("mysql://db/shop", DRIVERS, "mysql+asyncmy://db/shop"),
        ("mariadb://db/shop", DRIVERS, "mysql+asyncmy://db/shop"),
        ("mariadb://db/shop", {"mariadb": "asyncmy"}, "mysql+asyncmy://db/shop"),
    ],
)
def test_the_driver_may_be_named_for_each_database(written: str, drivers: dict[str, str], expected: str) -> None:
    with an_app(written) as app:
        assert text(database_url(app, driver=drivers)) == expected


@pytest.mark.parametrize(
    ("driver", "told"),
    [
        ("aiosqlite", r'no driver "aiosqlite" for postgresql, .* as in driver=\{"postgresql": "asyncpg", …\}'),
        ({"postgresql": "asyncmy"}, r'no driver "asyncmy" for postgresql'),
        (
            {"sqlite": "aiosqlite"},
            r'the address is of postgresql, and .* has no driver for it; add one, as in "postgresql": "asyncpg"',
        ),
        ({"postgresql": 7}, r"driver: expected the name of a driver.*; got 7"),
        (3, r"driver: expected the name of a driver.*; got 3"),
        (["aiosqlite"], r"driver: expected the name of a driver.*; got \['aiosqlite'\]"),
    ],
)
def test_a_driver_of_another_database_is_refused(driver: Any, told: str) -> None:
    with an_app("postgresql://db/shop") as app, pytest.raises(ConfigurationError, match=told):
        database_url(app, driver=driver)
