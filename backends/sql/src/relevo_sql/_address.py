"""The address of the database that an application shares with its events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import sqlalchemy
import sqlalchemy as sa
from sqlalchemy.exc import NoSuchModuleError

from relevo import ConfigurationError
from relevo.errors import shown
from relevo_sql._hosted import unknown_parameter
from relevo_sql._transport import SqlTransport

if TYPE_CHECKING:
    from relevo import App


def database_url(
    app: App,
    transport: str | None = None,
    *,
    driver: str | Mapping[str, str] | None = None,
    without: Iterable[str] = (),
) -> sqlalchemy.URL:
    """
    Return the address of the database to which a dispatch with ``session=`` writes, to make the application's engine.

    It is that of the transport, or of its outbox: code that uses it works with the events in the database, and after a
    change to RabbitMQ with an outbox. It contains the password, and no option of relevo's own connections. The options
    ``tls`` and, on MariaDB and MySQL, ``ssl-mode=VERIFY_CA`` and ``VERIFY_IDENTITY`` are encryption that relevo sets
    up itself; give your engine ``connect_args={"ssl": …}`` too. On PostgreSQL with psycopg, the address has ``tls``.

    Args:
        app: The application, whose transports are those of its configuration, not those of ``app.testing()``.

        transport: The name of the transport; by default the only one, as for ``app.transport()``.

        driver: The driver of your engine, such as ``asyncpg``, ``asyncmy`` or ``aiosqlite``; by default the one of
            relevo's own connections: psycopg, PyMySQL, or Python's ``sqlite3``. A program whose database is chosen by
            its configuration names one for each, as in ``{"sqlite": "aiosqlite", "postgresql": "asyncpg"}``; ``mysql``
            is also for MariaDB. For asyncpg, the parameter ``sslmode`` is renamed to ``ssl``.

        without: Parameters of the address to leave out, which *driver* does not know.

    Raises:
        ConfigurationError: The transport does not store its events in a database and has no outbox, there is no such
            transport or several; *driver* is for another database, or does not know a parameter of the address.
    """
    found = app.transport(transport)
    store = app.outboxes.get(found.name, found)
    if not isinstance(store, SqlTransport):
        raise _no_database(found.name, type(store).__name__)
    dropped = [without] if isinstance(without, str) else list(without)
    url = store.url.difference_update_query(dropped)
    return url if driver is None else _driven(url, _for(url, driver) if isinstance(driver, Mapping) else driver)


def _for(url: sa.URL, drivers: Mapping[str, str]) -> str:
    """Return the one of *drivers* that is for the database of *url*."""
    database = url.get_backend_name()
    for name in (database, "mariadb") if database == "mysql" else (database,):
        if name in drivers:
            return drivers[name]
    raise ConfigurationError(
        f"driver: the address is of {database}, and {shown(dict(drivers))} has no driver for it; add one, "
        f'as in "{database}": "{_ASYNCHRONOUS.get(database, "…")}"'
    )


_ASYNCHRONOUS = {"sqlite": "aiosqlite", "postgresql": "asyncpg", "mysql": "asyncmy"}
"""Drivers that errors suggest."""


def _driven(url: sa.URL, driver: object) -> sa.URL:
    """Return *url* for *driver*."""
    if not isinstance(driver, str) or not driver.isidentifier():
        raise ConfigurationError(f'driver: expected the name of a driver, such as "asyncpg"; got {shown(driver)}')
    database = url.get_backend_name()
    url = url.set(drivername=f"{database}+{driver}")
    try:
        url.get_dialect()
    except NoSuchModuleError:
        raise ConfigurationError(
            f'driver: SQLAlchemy has no driver "{driver}" for {database}, the database of the address; if the '
            f"configuration chooses the database, name a driver for each, as in "
            f'driver={{"{database}": "{_ASYNCHRONOUS.get(database, "…")}", …}}'
        ) from None
    if driver == "asyncpg" and (mode := url.query.get("sslmode")) is not None:
        url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    try:
        unknown = unknown_parameter(url)
    except ImportError:  # which create_engine() reports
        unknown = None
    if unknown is not None:
        raise ConfigurationError(
            f"the address has the parameter {shown(unknown)}, which the driver {driver} does not know; leave it out: "
            f'relevo_sql.database_url(app, driver="{driver}", without=[{shown(unknown)}])'
        )
    return url


def _no_database(name: str, kind: str) -> ConfigurationError:
    if kind == "MemoryTransport":
        return ConfigurationError(
            f'the transport "{name}" stores its events in memory, not in a database; write an address such as '
            f"sqlite:///shop.db; in a test, create the engine before app.testing() replaces the transports"
        )
    return ConfigurationError(
        f'the transport "{name}" ({kind}) does not store its events in a database; give it an outbox in your database: '
        f'{name} = {{ url = "…", outbox = "sqlite:///shop.db" }}'
    )
