"""A send on PostgreSQL is durable, whatever the database or the role of the user chooses for its sessions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from relevo_sql import SqlTransport

from .on_postgresql import an_engine, execute, scalar

Opener = Callable[..., SqlTransport]

pytestmark = pytest.mark.postgresql


def settings(transport: SqlTransport) -> list[tuple[str, str]]:
    """Return the settings of each connection that *transport* has."""
    shown = "SELECT current_setting('synchronous_commit'), current_setting('lock_timeout')"
    return [
        (str(each[0]), str(each[1]))
        for database in transport._databases
        for each in [database.read(lambda connection: connection.exec_driver_sql(shown).one())]
    ]


@pytest.mark.parametrize(
    ("chosen", "used"), [("off", "on"), ("local", "local"), ("remote_write", "remote_write"), ("on", "on")]
)
def test_a_commit_waits_for_the_disk_even_if_those_of_the_database_do_not(
    opener: Opener, postgresql_database: str, chosen: str, used: str
) -> None:
    name = sa.make_url(postgresql_database).database
    execute(postgresql_database, f'ALTER DATABASE "{name}" SET synchronous_commit = {chosen}')

    transport = opener(url=postgresql_database)

    assert settings(transport) == [(used, "200ms")] * 2
    assert scalar(postgresql_database, "SHOW synchronous_commit") == chosen


def test_it_does_with_an_engine_of_the_application_and_leaves_the_application_its_own(postgresql_database: str) -> None:
    off = postgresql_database + "?options=-csynchronous_commit%3Doff"
    with an_engine(off) as engine, SqlTransport(engine) as transport, engine.connect() as connection:
        transport.setup([])

        assert settings(transport) == [("on", "200ms")] * 2
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "off"


def test_a_server_that_does_not_wait_for_the_disk_is_warned_about(
    opener: Opener, postgresql_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    is_off = [name for name in ("fsync", "full_page_writes") if scalar(postgresql_database, f"SHOW {name}") == "off"]
    transport = opener(url=postgresql_database)

    assert not transport.problems(["default"])

    assert [f"({', '.join(f'{name} = off' for name in is_off)})"] * bool(is_off) == [
        line[line.index("(") :] for line in caplog.messages if "may lose committed events" in line
    ]
