"""What MariaDB refuses, or relevo refuses of it: errors name the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from pymysql.converters import escape_bytes  # type: ignore[import-untyped]  # it has no types

from database_server import DatabaseServer
from relevo import Envelope
from relevo.errors import ConfigurationError, SendError, TransportUnavailableError
from relevo_sql import SqlTransport
from relevo_sql._dialect import ErrorKind
from relevo_sql._dialect.mariadb import MARIADB, MYSQL, MariadbDialect, kind_of

from .on_mariadb import an_engine, execute, query
from .on_server import ids_of, received

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

DEADLOCK, LOCK_WAIT, PACKET = 1213, 1205, 1153


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("10.6.0-MariaDB", MARIADB),
        ("11.8.9-MariaDB-0+deb13u1", MARIADB),
        ("8.0.19", MYSQL),
        ("8.4.3-commercial", MYSQL),
    ],
)
def test_the_version_tells_which_of_the_two_a_server_is(version: str, kind: object) -> None:
    assert kind_of(version) is kind


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("10.5.27-MariaDB-log", r"MariaDB is 10\.5\.27; relevo needs 10\.6 or newer"),
        ("8.0.18", r"MySQL is 8\.0\.18; relevo needs 8\.0\.19 or newer"),
        ("5.7.44-log", r"MySQL is 5\.7\.44;"),
        ("8.0.11-TiDB-v7.5.0", r"MySQL is 8\.0\.11;"),
    ],
)
def test_an_old_server_is_refused(version: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        kind_of(version)


def test_another_driver_is_refused_in_an_address(opener: Opener) -> None:
    with pytest.raises(ConfigurationError, match=r"own connections use mysql\+pymysql; write mariadb://…"):
        opener(url="mariadb+mariadbconnector://localhost/shop")


def test_an_address_without_a_database_is_refused(opener: Opener, mariadb_url: str) -> None:
    with pytest.raises(ConfigurationError, match="names no database; write mariadb://"):
        opener(url=sa.make_url(mariadb_url).set(database="").render_as_string(hide_password=False))


def test_an_engine_whose_updates_count_only_changes_is_refused(mariadb_database: str) -> None:
    def without_flag(_: object, __: object, ___: object, arguments: dict[str, Any]) -> None:
        arguments["client_flag"] = 0

    with an_engine(mariadb_database) as engine:
        sa.event.listen(engine, "do_connect", without_flag)
        pool = sa.pool.NullPool(creator=lambda: engine.dialect.connect(**_arguments(mariadb_database)))
        bare = sa.create_engine(mariadb_database, pool=pool)
        with SqlTransport(bare) as transport, pytest.raises(ConfigurationError, match=r"CLIENT\.FOUND_ROWS"):
            transport.setup([])


def _arguments(url: str) -> dict[str, Any]:
    parsed = sa.make_url(url)
    given = {"host": parsed.host, "port": parsed.port, "user": parsed.username, "password": parsed.password or ""}
    return given | {"database": parsed.database}


@pytest.mark.parametrize("scheme", ["mariadb", "mysql", "mariadb+pymysql", "mysql+pymysql"])
def test_each_scheme_reaches_the_server(opener: Opener, mariadb_database: str, an_envelope: Maker, scheme: str) -> None:
    url = sa.make_url(mariadb_database).set(drivername=scheme).render_as_string(hide_password=False)
    transport = opener(url=url)

    transport.send([an_envelope(1)])

    assert ids_of(received(transport)) == ["id-1"]


def test_the_sessions_of_the_application_keep_their_settings(opener: Opener, mariadb_database: str) -> None:
    with an_engine(mariadb_database) as engine, SqlTransport(engine) as transport:
        transport.setup([])
        with engine.connect() as connection:
            found = connection.exec_driver_sql("SELECT @@innodb_lock_wait_timeout, @@check_constraint_checks").one()

    assert tuple(found) == (50, 1)


def test_a_value_that_does_not_fit_into_a_packet_is_refused_with_the_setting(
    opener: Opener, mariadb_database: str, an_envelope: Maker
) -> None:
    transport = opener(url=mariadb_database)
    limit = query(mariadb_database, "SELECT @@max_allowed_packet")[0][0]
    sent = len(escape_bytes(b"x" * 1000)) // 1000  # bytes for each byte of the body: 2 since PyMySQL 1.2.3, 1 before

    # The server ends the connection while the second one is being sent.
    for size in (limit // sent + 2**17, limit + 2**20):
        with pytest.raises(SendError, match=r"cannot hold a value.*max_allowed_packet") as caught:
            transport.send([an_envelope(1, body=b"x" * size)])
        assert list(caught.value.refused) == [0]
    transport.send([an_envelope(2)])

    assert ids_of(received(transport)) == ["id-2"]


@pytest.mark.parametrize("fields", [{"id": "x" * 256}, {"expires": float("inf")}, {"source": "\ud800"}])
def test_a_value_that_no_column_holds_is_refused(
    opener: Opener, mariadb_database: str, an_envelope: Maker, fields: dict[str, Any]
) -> None:
    transport = opener(url=mariadb_database)

    with pytest.raises(SendError) as caught:
        transport.send([an_envelope(1), an_envelope(**fields)])

    assert list(caught.value.refused) == [0, 1]
    assert transport.stats("default").ready == 0


def test_a_user_without_privileges_is_told_what_is_missing(
    opener: Opener, mariadb_database: str, mariadb_databases: DatabaseServer
) -> None:
    opener(url=mariadb_database)
    parsed = sa.make_url(mariadb_database)
    name = f"reader_{str(parsed.database)[-8:]}"
    execute(
        mariadb_database,
        f"CREATE USER {name} IDENTIFIED BY 'hunter2'",
        f"GRANT SELECT ON {parsed.database}.* TO {name}",
    )
    try:
        url = parsed.set(username=name, password="hunter2").render_as_string(hide_password=False)
        transport = opener(url=url, setup=False)
        with pytest.raises(ConfigurationError, match=r"command denied.*grant what is missing") as caught:
            transport.lock("x", holder="h", ttl=1)
        wrong = parsed.set(username=name, password="wrong").render_as_string(hide_password=False)
        with pytest.raises(ConfigurationError, match=r"Access denied.*\(1045\); grant what is missing, or fix"):
            opener(url=wrong)
    finally:
        execute(mariadb_database, f"DROP USER {name}")
    assert "hunter2" not in str(caught.value)


def test_a_database_that_is_not_there_is_named(opener: Opener, mariadb_database: str) -> None:
    missing = sa.make_url(mariadb_database).set(database="relevo_test_missing")

    with pytest.raises(TransportUnavailableError, match=r'"relevo_test_missing" on .* does not exist; create it with'):
        opener(url=missing.render_as_string(hide_password=False))


def test_a_server_that_is_not_there_is_unavailable(opener: Opener) -> None:
    with pytest.raises(TransportUnavailableError, match="cannot be reached, or ended the connection"):
        opener(url="mariadb://root@127.0.0.1:1/shop")


def test_a_database_without_tables_says_what_to_run(opener: Opener, mariadb_database: str, an_envelope: Maker) -> None:
    transport = opener(url=mariadb_database, setup=False)

    with pytest.raises(ConfigurationError, match="lacks tables that relevo needs; run: relevo setup"):
        transport.send([an_envelope(1)])


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (1020, ErrorKind.CONFLICT), (DEADLOCK, ErrorKind.CONFLICT), (LOCK_WAIT, ErrorKind.BUSY),
        (PACKET, ErrorKind.TOO_BIG), (1040, ErrorKind.CROWDED), (1290, ErrorKind.READ_ONLY),
        (1114, ErrorKind.FULL), (1176, ErrorKind.NO_TABLE),
        (2013, ErrorKind.LOST), (4031, ErrorKind.LOST), (4025, ErrorKind.OTHER), (9999, ErrorKind.OTHER),
    ],
)  # fmt: skip
def test_an_error_is_known_by_its_number(number: int, kind: ErrorKind) -> None:
    driver = sa.create_engine("mysql+pymysql://").dialect.loaded_dbapi

    error = sa.exc.OperationalError("", (), driver.OperationalError(number, "words"))

    assert MariadbDialect().error_kind(error) is kind


@pytest.mark.parametrize(
    ("parameters", "meaning"),
    [
        ([("x" * 2000,)] * 2000, ErrorKind.LOST),
        ([("x" * 2000,), (b"x" * 3_000_000,)], ErrorKind.TOO_BIG),
        (("x" * 2000, ("x" * 3_000_000,)), ErrorKind.TOO_BIG),
    ],
    ids=["many rows", "one of two rows", "a list"],
)
def test_a_server_that_ends_the_connection_in_a_long_statement_refuses_it(parameters: Any, meaning: ErrorKind) -> None:
    gone = sa.exc.OperationalError("INSERT", parameters, Exception(2006, "MySQL server has gone away"))

    assert MariadbDialect().error_kind(gone) is meaning


def test_a_server_that_does_not_wait_for_the_disk_is_warned_about(
    opener: Opener, mariadb_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    transport = opener(url=mariadb_database)
    assert not transport.problems(["default"])
    before = caplog.messages

    ((earlier,),) = query(mariadb_database, "SELECT @@GLOBAL.innodb_flush_log_at_trx_commit")
    execute(mariadb_database, "SET GLOBAL innodb_flush_log_at_trx_commit = 2")
    try:
        assert not transport.problems(["default"])
    finally:
        execute(mariadb_database, f"SET GLOBAL innodb_flush_log_at_trx_commit = {earlier}")

    (line,) = caplog.messages[len(before) :]
    assert "may lose committed events when its server crashes (innodb_flush_log_at_trx_commit = 2)" in line


@pytest.mark.parametrize("setting", ["completion_type=1", "sql_select_limit=1", "max_join_size=1"])
def test_settings_of_a_session_that_would_break_transactions_or_cut_results_are_set_back(
    opener: Opener, mariadb_database: str, an_envelope: Maker, setting: str
) -> None:
    changed = opener(url=f"{mariadb_database}?init_command=SET+{setting.replace('=', '%3D')}")
    changed.send([an_envelope(1), an_envelope(2)])
    changed.send([an_envelope(3)])

    assert query(mariadb_database, "SELECT count(*) FROM relevo_event") == [(3,)]
    assert len(received(changed)) == 3
