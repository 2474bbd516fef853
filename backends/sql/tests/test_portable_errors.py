"""How the portable dialect is chosen, and what errors of an unknown driver mean to it."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mssql

from relevo import Ack, App, Envelope, SystemClock
from relevo.errors import ConfigurationError, RelevoError, SendError, TransportUnavailableError
from relevo_sql import SqlOptions, SqlTransport, _database, _dialect
from relevo_sql._dialect import ErrorKind
from relevo_sql._dialect.portable import PortableDialect
from relevo_sql._errors import relevo_error

from .on_postgresql import an_engine, execute, scalar, wait_until

Maker = Callable[..., Envelope]
Opener = Callable[..., SqlTransport]

UNKNOWN = PortableDialect(mssql.dialect())  # type: ignore[no-untyped-call]  # SQLAlchemy's


@pytest.mark.parametrize("scheme", ["mssql", "oracle", "cockroachdb"])
def test_a_database_without_a_dialect_is_refused_with_the_name_of_the_portable_one(scheme: str) -> None:
    with (
        pytest.raises(ConfigurationError, match=f'none for {scheme}; .*dialect = "portable"'),
        App.from_config(environ={"RELEVO_TRANSPORTS__MAIN": f"{scheme}://db/shop"}) as app,
    ):
        app.setup()


def test_an_engine_without_a_dialect_is_refused_likewise() -> None:
    engine = sa.create_engine(
        "mssql+pyodbc://db/shop?driver=FreeTDS",
        module=SimpleNamespace(paramstyle="qmark", version="5.1", Cursor=object),
    )

    with pytest.raises(ConfigurationError, match=r'none for mssql; .*dialect = "portable"'):
        SqlTransport(engine)


def test_another_dialect_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"dialect: expected .portable..*; got 'sqlite'"):
        SqlOptions(url=f"sqlite:///{tmp_path}/shop.db", dialect="sqlite")
    with pytest.raises(ConfigurationError, match='dialect: expected "portable"'):
        SqlTransport(sa.create_engine("sqlite:///shop.db"), dialect="postgresql")


@pytest.mark.parametrize("url", ["cockroachdb://hunter2@db/shop", "mssql+nonsense://hunter2@db/shop"])
def test_a_driver_that_is_not_installed_is_named(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is not installed .*docs.sqlalchemy.org/dialects"):
        SqlTransport.open(SqlOptions(url=url, dialect="portable"), name="main", clock=SystemClock())


def test_an_engine_of_the_application_will_do(engine: sa.Engine, an_envelope: Maker) -> None:
    with SqlTransport(engine, dialect="portable") as transport, engine.begin() as connection:
        transport.setup([])
        transport.bound_to(connection).send(lambda: [an_envelope()])
        assert not transport.receive(["default"], limit=1, lease=60, wait=0)
        connection.commit()

        (delivery,) = transport.receive(["default"], limit=1, lease=60, wait=0)

    assert delivery.envelope == an_envelope()


def test_the_portable_dialect_with_a_schema_is_refused_whatever_the_database(engine: sa.Engine) -> None:
    with pytest.raises(ConfigurationError, match=r"schema: the portable dialect has no such option; got .jobs.; omit"):
        SqlTransport(engine, schema="jobs", dialect="portable")


def test_the_tables_of_the_other_dialect_are_refused(opener: Opener, an_envelope: Maker) -> None:
    opener()
    portable = opener(dialect="portable", setup=False)

    for call in (lambda: portable.setup([]), lambda: portable.send([an_envelope()])):
        with pytest.raises(ConfigurationError, match='created with no option "dialect"; configure'):
            call()


def test_the_portable_tables_are_refused_by_the_other_dialect(opener: Opener, an_envelope: Maker) -> None:
    opener(dialect="portable")
    own = opener(setup=False)

    for call in (lambda: own.setup([]), lambda: own.send([an_envelope()])):
        with pytest.raises(ConfigurationError, match='created with dialect = "portable"; configure'):
            call()


def an_error(kind: type[sa.exc.DBAPIError], statement: str = "UPDATE relevo_event", *, lost: bool = False) -> ErrorKind:
    return UNKNOWN.error_kind(kind(statement, (), Exception("words"), connection_invalidated=lost))


@pytest.mark.parametrize(
    ("kind", "meaning"),
    [
        (sa.exc.IntegrityError, ErrorKind.OTHER),
        (sa.exc.OperationalError, ErrorKind.CONFLICT),
        (sa.exc.ProgrammingError, ErrorKind.NO_TABLE),
        (sa.exc.DataError, ErrorKind.TOO_BIG),
        (sa.exc.InterfaceError, ErrorKind.OTHER),
        (sa.exc.DatabaseError, ErrorKind.OTHER),
    ],
)
def test_an_error_of_an_unknown_driver_means_what_its_class_says(
    kind: type[sa.exc.DBAPIError], meaning: ErrorKind
) -> None:
    assert an_error(kind) is meaning
    assert an_error(kind, lost=True) is ErrorKind.LOST
    assert an_error(kind, "\nCREATE TABLE relevo_event") is ErrorKind.CONFLICT
    assert an_error(kind, "") is ErrorKind.LOST


def test_a_row_that_another_transaction_has_inserted_is_a_conflict() -> None:
    assert an_error(sa.exc.IntegrityError, "INSERT INTO relevo_event") is ErrorKind.CONFLICT
    assert an_error(sa.exc.IntegrityError, "COMMIT") is ErrorKind.CONFLICT


def test_a_right_that_is_missing_on_an_unknown_driver_is_not_taken_for_a_missing_table() -> None:
    denied = sa.exc.ProgrammingError("UPDATE relevo_event", (), Exception("UPDATE permission denied"))

    found = relevo_error(UNKNOWN, denied, "main", "the database")

    assert isinstance(found, ConfigurationError)
    assert re.search(r"\(UPDATE permission denied\); run: relevo setup.*, or grant this user", str(found))


def test_tables_are_missing_if_the_first_statement_fails() -> None:
    query = "SELECT relevo_meta.[key], relevo_meta.value \nFROM relevo_meta"

    assert an_error(sa.exc.DatabaseError, query) is ErrorKind.NO_TABLE
    assert UNKNOWN.error_kind(sa.exc.PendingRollbackError()) is ErrorKind.LOST
    assert UNKNOWN.error_kind(sa.exc.ArgumentError()) is ErrorKind.OTHER


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the driver of SQLite be one whose errors are not known."""
    monkeypatch.setattr(_dialect, "_LIKE", {})


@pytest.mark.usefixtures("unknown")
def test_missing_tables_are_reported_with_the_words_of_an_unknown_driver(opener: Opener, an_envelope: Maker) -> None:
    transport = opener(dialect="portable", setup=False)

    with pytest.raises(ConfigurationError, match=r"\(no such table: relevo_meta\); run: relevo setup"):
        transport.send([an_envelope()])


@pytest.mark.usefixtures("unknown")
@pytest.mark.parametrize("kind", [sqlite3.OperationalError, sqlite3.InterfaceError, sqlite3.DatabaseError])
def test_a_connection_that_an_unknown_driver_refuses_is_reported_at_once_in_its_words(
    opener: Opener, an_envelope: Maker, kind: type[Exception]
) -> None:
    transport = opener(dialect="portable")
    attempts: list[object] = []

    @sa.event.listens_for(transport._database.engine, "do_connect")
    def refuse(*arguments: object) -> None:
        attempts.append(arguments)
        raise kind("login failed for user shop")

    with pytest.raises(TransportUnavailableError, match=r"cannot be reached, .*: login failed for user shop"):
        transport.send([an_envelope()])

    assert len(attempts) == 1


@pytest.mark.usefixtures("unknown")
def test_many_may_set_up_and_work_at_once_on_an_unknown_driver(
    opener: Opener, an_envelope: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_database, "_SETTING_UP", 60.0)  # however slow those before are
    transports = [opener(dialect="portable", setup=False) for _ in range(4)]
    start = threading.Barrier(len(transports))
    failed: list[RelevoError] = []

    def work(transport: SqlTransport) -> None:
        start.wait()
        try:
            transport.setup([])
            transport.send([an_envelope()])  # each sends the same event
        except RelevoError as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=[transport]) for transport in transports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failed
    (delivery,) = transports[0].receive(["default"], limit=10, lease=60, wait=0)
    assert transports[0].settle([(delivery, Ack())]) == []


@pytest.mark.usefixtures("unknown")
def test_a_writer_that_does_not_end_is_waited_for_and_then_reported(
    opener: Opener, engine: sa.Engine, an_envelope: Maker
) -> None:
    transport = opener(dialect="portable", busy_timeout=0.1)
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(TransportUnavailableError, match="other transactions changed the same rows for longer"):
            transport.send([an_envelope()])
        connection.rollback()

    transport.send([an_envelope()])
    assert transport.stats("default").ready == 1


@pytest.mark.usefixtures("unknown")
def test_a_connection_in_autocommit_is_not_joined(opener: Opener, engine: sa.Engine, an_envelope: Maker) -> None:
    transport = opener(dialect="portable")

    with (
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        pytest.raises(RelevoError, match="AUTOCOMMIT"),
    ):
        transport.bound_to(connection)


@pytest.fixture
def on_postgresql(postgresql_database: str) -> Iterator[SqlTransport]:
    options = SqlOptions(url=postgresql_database, dialect="portable")
    with SqlTransport.open(options, name="main", clock=SystemClock()) as transport:
        transport.setup([])
        yield transport


def test_a_connection_that_the_server_has_ended_is_replaced(
    on_postgresql: SqlTransport, postgresql_database: str, an_envelope: Maker
) -> None:
    on_postgresql.send([an_envelope(1)])
    others = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    execute(postgresql_database, f"SELECT pg_terminate_backend(pid) FROM ({others}) AS other")  # noqa: S608 - our own text
    wait_until(lambda: scalar(postgresql_database, others) is None)

    on_postgresql.send([an_envelope(2)])

    assert on_postgresql.stats("default").ready == 2


def test_the_later_of_two_sessions_with_the_same_event_fails(
    on_postgresql: SqlTransport, postgresql_database: str, an_envelope: Maker
) -> None:
    failed: list[SendError] = []
    waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with an_engine(postgresql_database) as engine, engine.connect() as first, engine.connect() as second:
        on_postgresql.bound_to(first).send(lambda: [an_envelope()])

        def send_again() -> None:
            try:
                on_postgresql.bound_to(second).send(lambda: [an_envelope()])
            except SendError as error:
                failed.append(error)

        thread = threading.Thread(target=send_again)
        thread.start()
        wait_until(lambda: scalar(postgresql_database, waiting) is not None)
        first.commit()
        thread.join()

    assert [list(error.refused) for error in failed] == [[0]]
    assert on_postgresql.stats("default").ready == 1
