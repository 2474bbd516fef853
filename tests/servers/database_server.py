"""What the starters of PostgreSQL and MariaDB share: whether a server can be used, and a database for each test."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import attrs
import sqlalchemy as sa

ROOM = 2**30
"""Bytes for the databases of a test run; few of them are there at a time, and each has 8 MB at first."""

_GONE_LIMIT = 5.0
"""Seconds for the sessions in a database to end; some milliseconds are usual."""


@attrs.frozen(kw_only=True)
class DatabaseKind:
    """One kind of server, by its driver and its statements."""

    driver: str
    """SQLAlchemy's name for dialect and driver; a URL may name another driver, or none."""

    options: Mapping[str, object]
    """Arguments of the driver; they limit the time to connect."""

    oldest: tuple[int, ...]
    """The first version that can be used."""

    create: Sequence[str]
    """The statements that create a database and set it up."""

    drop: str
    sessions: str
    """Selects the ids of the sessions in a database."""

    end_session: str

    def refusal(self, url: str) -> str:
        """
        Return why the server at *url* cannot be used; empty if it is new enough and creates a database.

        This database is dropped at once.
        """
        try:
            with self.server(url) as server:
                version = server.version()
                if version < self.oldest:
                    return f"it is version {_shown(version)}, and {_shown(self.oldest)} is needed"
                with server.fresh_database():
                    return ""
        except sa.exc.SQLAlchemyError as error:
            text = str(error.orig if isinstance(error, sa.exc.DBAPIError) else error)  # of the driver alone
            return " ".join(text.split())

    @contextmanager
    def server(self, url: str) -> Iterator[DatabaseServer]:
        """Yield the server at *url*, to which it stays connected until the end of the block."""
        parsed = sa.make_url(url)
        engine = sa.create_engine(
            parsed.set(drivername=self.driver),
            connect_args=dict(self.options),
            isolation_level="AUTOCOMMIT",  # no transaction can create a database
        )
        try:
            yield DatabaseServer(self, parsed, engine)
        finally:
            engine.dispose()

    @contextmanager
    def fresh_database(self, url: str) -> Iterator[str]:
        """Create a database on the server at *url*, yield its URL, and drop it, even if connections to it are open."""
        with self.server(url) as server, server.fresh_database() as database:
            yield database


@attrs.frozen
class DatabaseServer:
    """A server that is connected to once, since that takes as long as creating a database."""

    _kind: DatabaseKind
    _url: sa.URL
    _engine: sa.Engine

    def version(self) -> tuple[int | str, ...]:
        """Return its version."""
        with self._engine.connect():
            return self._engine.dialect.server_version_info or ()

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """Create a database, yield its URL, and drop it, even if connections to it are open."""
        name = f"relevo_test_{secrets.token_hex(8)}"
        with self._engine.connect() as connection:
            for statement in self._kind.create:
                connection.exec_driver_sql(statement.format(name=name))
        try:
            yield self._url.set(database=name).render_as_string(hide_password=False)
        finally:
            with self._engine.connect() as connection:
                self._end_sessions(connection, name)
                connection.exec_driver_sql(self._kind.drop.format(name=name))

    def _end_sessions(self, connection: sa.Connection, name: str) -> None:
        """
        End the sessions in the database *name*, and wait until they have ended.

        PostgreSQL would end them too, but then it looks only every 100 ms whether they have ended. MariaDB would wait
        for their transactions. A session that its client has just closed may also still be there.
        """
        deadline = time.monotonic() + _GONE_LIMIT
        ended: set[int] = set()
        while ids := set(connection.scalars(sa.text(self._kind.sessions), {"name": name})):
            for each in ids - ended:
                with suppress(sa.exc.DBAPIError):  # it has just ended
                    connection.exec_driver_sql(self._kind.end_session.format(id=each))
            ended |= ids
            if time.monotonic() > deadline:
                break
            time.sleep(0.001)


def _shown(version: tuple[object, ...]) -> str:
    return ".".join(map(str, version))
