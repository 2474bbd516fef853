"""New databases for measurements, whose commits are durable if the server's are."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

_DRIVERS = {"postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql"}

_CREATE = {
    "postgresql": (
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'",
        "ALTER DATABASE {name} SET synchronous_commit = on",  # whatever the server's default is
    ),
    "mariadb": ("CREATE DATABASE {name} CHARACTER SET utf8mb4",),
}
_DROP = {"postgresql": "DROP DATABASE {name} WITH (FORCE)", "mariadb": "DROP DATABASE {name}"}

_DURABLE: Mapping[str, Mapping[str, str]] = {
    "postgresql": {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"},
    "mariadb": {"innodb_flush_log_at_trx_commit": "1", "innodb_doublewrite": "ON"},
}
"""The settings of a server whose commits survive a crash of the host."""


def kind_of(url: str) -> str:
    """Return the kind of the server at *url*: the part before the driver, in SQLAlchemy's spelling."""
    return url.partition("://")[0].partition("+")[0]


def is_server(url: str) -> bool:
    """Return whether *url* is that of a database on a server."""
    return kind_of(url) in _CREATE


def engine_of(url: str) -> sa.Engine:
    """Return an engine with the driver that relevo uses."""
    parsed = sa.make_url(url)
    return sa.create_engine(parsed.set(drivername=_DRIVERS.get(kind_of(url), parsed.drivername)))


def connected(engine: sa.Engine) -> sa.Connection:
    """Return a connection whose statements commit by themselves."""
    return engine.execution_options(isolation_level="AUTOCOMMIT").connect()


def plain(url: str) -> str:
    """Return *url* without a driver, as drivers read it."""
    return sa.make_url(url).set(drivername=kind_of(url)).render_as_string(hide_password=False)


def scalar(url: str, query: str) -> int:
    """Return the number that *query* finds."""
    with _to(url) as connection:
        return int(connection.exec_driver_sql(query).scalar_one())


@contextmanager
def fresh(url: str) -> Iterator[str]:
    """
    Create a database, yield its URL, and delete it, even if connections to it are open.

    Args:
        url: A database on the same server, such as the one that is always there. For SQLite, a file in the folder to
            use; without one, in the folder for temporary files.
    """
    if kind_of(url) == "sqlite":
        path = sa.make_url(url).database
        with tempfile.TemporaryDirectory(prefix="relevo-bench-", dir=Path(path).parent if path else None) as folder:
            yield f"sqlite:///{folder}/bench.db"
        return
    kind, name = kind_of(url), f"relevo_bench_{secrets.token_hex(4)}"
    _execute(url, [statement.format(name=name) for statement in _CREATE[kind]])
    try:
        yield sa.make_url(url).set(database=name).render_as_string(hide_password=False)
    finally:
        _execute(url, [_DROP[kind].format(name=name)])


def about(url: str) -> Iterator[str]:
    """Yield the version of the server at *url* and its settings of durability, and a warning if it is not durable."""
    wanted = _DURABLE[kind_of(url)]
    with _to(url) as connection:
        version = ".".join(map(str, connection.dialect.server_version_info or ()))
        show = "SHOW {}" if kind_of(url) == "postgresql" else "SELECT @@{}"
        found = {name: str(connection.exec_driver_sql(show.format(name)).scalar()) for name in wanted}
    yield f"{kind_of(url)} {version}: {', '.join(f'{name} {value}' for name, value in found.items())}"
    # A new database sets this one itself.
    lost = [name for name in wanted if name != "synchronous_commit" and found[name] not in (wanted[name], "1")]
    if lost:
        yield f"  ITS COMMITS ARE NOT DURABLE ({', '.join(lost)}): do not compare these figures with others"


@contextmanager
def _to(url: str) -> Iterator[sa.Connection]:
    engine = engine_of(url)
    try:
        with connected(engine) as connection:
            yield connection
    finally:
        engine.dispose()


def _execute(url: str, statements: Sequence[str]) -> None:
    with _to(url) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
