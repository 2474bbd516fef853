"""Connections that a server ends: nothing is lost, and what is unknown is reported as unknown."""

from __future__ import annotations

import re
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from relevo import Ack, Envelope
from relevo.errors import SendError, TransportUnavailableError
from relevo_sql import SqlTransport

from .on_server import SERVERS, an_engine, execute, ids, in_a_thread, query, scalar, wait_until

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]


class Sessions(ABC):
    """The sessions of a database, which an administrator ends."""

    own: str
    """Selects the id of a session, in that session."""

    present: str
    end: str

    waiting: str
    """Selects the ids of the sessions that wait for a lock of a table."""

    all_of_a_database: str
    """Selects the ids of all sessions of the current database."""

    lock: str
    """Locks the table of events for every other session."""

    impatience: str
    """Makes the server end the session if it is idle for long enough, outside a transaction."""

    def __init__(self, url: str):
        self.url = url

    def of(self, transport: SqlTransport) -> int:
        """Return the id of the session that *transport* has."""
        found = transport._database.read(lambda connection: connection.exec_driver_sql(self.own).scalar())
        assert isinstance(found, int)
        return found

    def terminate(self, session: int) -> None:
        """End *session*, and wait until it is gone."""
        execute(self.url, self.end.format(session))
        self.wait_until_gone(session)

    def wait_until_gone(self, session: int) -> None:
        wait_until(lambda: not query(self.url, self.present.format(session)))

    @abstractmethod
    def behind(self, connection: sa.Connection) -> int:
        """Return the id of the session behind *connection*, without a statement."""


class PostgresqlSessions(Sessions):
    own = "SELECT pg_backend_pid()"
    present = "SELECT pid FROM pg_stat_activity WHERE pid = {}"
    end = "SELECT pg_terminate_backend({})"
    waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    all_of_a_database = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    lock = "LOCK TABLE relevo_event IN ACCESS EXCLUSIVE MODE"
    impatience = "SET idle_session_timeout = 30"  # milliseconds

    def behind(self, connection: sa.Connection) -> int:
        driver: Any = connection.connection.driver_connection
        return int(driver.info.backend_pid)


class MariadbSessions(Sessions):
    own = "SELECT CONNECTION_ID()"
    present = "SELECT id FROM information_schema.processlist WHERE id = {}"
    end = "KILL {}"
    waiting = (
        "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND state REGEXP '^Waiting for table'"
    )
    all_of_a_database = "SELECT id FROM information_schema.processlist WHERE db = DATABASE()"
    lock = "LOCK TABLES relevo_event WRITE"
    impatience = "SET SESSION wait_timeout = 1"  # seconds

    def behind(self, connection: sa.Connection) -> int:
        driver: Any = connection.connection.driver_connection
        return int(driver.thread_id())


@pytest.fixture(name="sessions", params=SERVERS)
def _sessions(request: pytest.FixtureRequest) -> Sessions:
    cls = PostgresqlSessions if request.param == "postgresql" else MariadbSessions
    return cls(request.getfixturevalue(f"{request.param}_database"))


@pytest.fixture(name="transport")
def _transport(opener: Opener, sessions: Sessions) -> SqlTransport:
    return opener(url=sessions.url)


@contextmanager
def lost(transport: SqlTransport, sessions: Sessions, start: str, moment: str = "before") -> Iterator[list[str]]:
    """Let the server end the connection once, *moment* a statement that begins with *start* is executed."""
    done: list[str] = []

    def lose(connection: sa.Connection, _: object, statement: str, *__: object) -> None:
        if statement.startswith(start) and not done:
            done.append(statement)
            sessions.terminate(sessions.behind(connection))

    engine = transport._database.engine
    sa.event.listen(engine, f"{moment}_cursor_execute", lose)
    try:
        yield done
    finally:
        sa.event.remove(engine, f"{moment}_cursor_execute", lose)


@pytest.mark.parametrize(
    "call",
    [
        lambda transport, envelope: transport.send([envelope]),
        lambda transport, _: transport.receive(["default"], limit=1, lease=60, wait=0),
        lambda transport, _: transport.stats("default"),
        lambda transport, _: transport.setup([]),
    ],
    ids=["send", "receive", "stats", "setup"],
)
def test_a_connection_that_was_ended_while_it_was_idle_is_not_noticed(
    transport: SqlTransport, sessions: Sessions, an_envelope: Maker, call: Callable[..., object]
) -> None:
    transport.send([an_envelope(1)])
    sessions.terminate(sessions.of(transport))

    call(transport, an_envelope(2))

    assert transport.find("id-1")


def test_a_connection_that_is_ended_as_it_is_opened_is_replaced(
    opener: Opener, transport: SqlTransport, sessions: Sessions, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])
    another = opener(url=sessions.url, setup=False)
    ended: list[int] = []

    def end(connection: sa.Connection) -> None:
        if not ended:
            ended.append(sessions.behind(connection))
            sessions.terminate(ended[0])

    sa.event.listen(another._database.engine, "engine_connect", end)

    assert ids(another) == ["id-1"]
    assert len(ended) == 1


@pytest.mark.parametrize(
    ("moment", "statement"),
    [("before", "SELECT"), ("after", "SELECT"), ("before", "BEGIN"), ("after", "BEGIN"), ("before", "UPDATE")],
)
def test_a_connection_that_is_ended_inside_a_receive_loses_nothing(
    transport: SqlTransport, sessions: Sessions, an_envelope: Maker, statement: str, moment: str
) -> None:
    transport.send([an_envelope(1), an_envelope(2)])

    with lost(transport, sessions, statement, moment) as done:
        received = ids(transport)

    assert len(done) == 1
    assert received == ["id-1", "id-2"]
    assert transport.stats("default").leased == 2


def test_a_connection_that_is_ended_between_two_statements_of_a_claim_is_replaced_whole(
    transport: SqlTransport, sessions: Sessions, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])
    database = transport._database

    def forget(*execution: Any) -> None:  # so that the claim compares the clocks inside its transaction
        if execution[2] == "BEGIN":
            database._compared = (0.0, 0.0)

    sa.event.listen(database.engine, "before_cursor_execute", forget)
    with lost(transport, sessions, "BEGIN", "after") as done:
        received = ids(transport)

    assert len(done) == 1
    assert received == ["id-1"]


def test_a_claim_whose_commit_is_unknown_is_handed_out_again_when_its_lease_is_over(
    transport: SqlTransport, sessions: Sessions, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])

    with (
        lost(transport, sessions, "COMMIT"),
        pytest.raises(TransportUnavailableError, match=r"the commit failed: the database .* ended the connection"),
    ):
        transport.receive(["default"], limit=1, lease=0.05, wait=0)
    (again,) = transport.receive(["default"], limit=1, lease=60, wait=30)

    assert again.envelope == an_envelope(1)
    assert not transport.settle([(again, Ack())])


def test_a_send_in_a_transaction_that_is_ended_at_its_commit_is_unknown(
    opener: Opener, mariadb_database: str, an_envelope: Maker
) -> None:
    transport, sessions = opener(url=mariadb_database), MariadbSessions(mariadb_database)
    envelopes = [an_envelope(number) for number in range(3)]

    with (
        lost(transport, sessions, "COMMIT") as done,
        pytest.raises(SendError, match=r"the commit failed: the database .* ended the connection") as caught,
    ):
        transport.send(envelopes)
    transport.send(envelopes)

    assert len(done) == 1
    assert caught.value.unknown == (0, 1, 2)
    assert ids(transport) == ["id-0", "id-1", "id-2"]


def test_a_settlement_in_one_statement_whose_answer_is_lost_is_unknown_and_not_lost(
    opener: Opener, postgresql_database: str, an_envelope: Maker
) -> None:
    transport, sessions = opener(url=postgresql_database), PostgresqlSessions(postgresql_database)
    transport.send([an_envelope(1), an_envelope(2)])
    held = transport.receive(["default"], limit=2, lease=60, wait=0)

    with (
        lost(transport, sessions, "DELETE") as done,
        pytest.raises(TransportUnavailableError, match=r"the commit failed: the database .* ended the connection"),
    ):
        transport.settle([(each, Ack()) for each in held])

    assert len(done) == 1
    assert not transport.settle([(each, Ack()) for each in held])
    assert transport.stats("default").leased == 0


def test_a_claim_in_one_statement_whose_answer_is_lost_is_unknown(
    opener: Opener, postgresql_database: str, an_envelope: Maker
) -> None:
    transport, sessions = opener(url=postgresql_database), PostgresqlSessions(postgresql_database)
    transport.send([an_envelope(number) for number in range(4)])
    transport.receive(["default"], limit=2, lease=60, wait=0)  # all that it asked for: the next one does not look

    with lost(transport, sessions, "UPDATE") as done, pytest.raises(TransportUnavailableError, match="commit failed"):
        transport.receive(["default"], limit=2, lease=60, wait=0)

    assert len(done) == 1
    assert ids(transport) == ["id-2", "id-3"]


@pytest.mark.parametrize("count", [1, 3])
def test_a_send_in_one_statement_that_is_ended_while_it_waits_is_unknown(
    opener: Opener, postgresql_database: str, an_envelope: Maker, count: int
) -> None:
    envelopes = [an_envelope(number) for number in range(count)]
    transport, sessions = opener(url=postgresql_database), PostgresqlSessions(postgresql_database)
    session = sessions.of(transport)
    waits = f"SELECT pid FROM pg_stat_activity WHERE pid = {session} AND wait_event_type = 'Lock'"  # noqa: S608 - a number

    with an_engine(postgresql_database) as engine, engine.connect() as other:
        other.exec_driver_sql("LOCK TABLE relevo_event IN SHARE MODE")
        with in_a_thread(lambda: transport.send(envelopes)) as found:
            wait_until(lambda: bool(query(postgresql_database, waits)))
            sessions.terminate(session)
    (error,) = found
    transport.send(envelopes)

    assert isinstance(error, SendError)
    assert error.unknown == tuple(range(count))
    assert re.search("the commit failed: the database .* ended the connection", str(error))
    assert ids(transport) == [envelope.id for envelope in envelopes]


def test_a_session_whose_connection_is_ended_sends_nothing_and_the_next_one_works(
    transport: SqlTransport, sessions: Sessions, an_envelope: Maker
) -> None:
    with an_engine(sessions.url) as engine:
        with Session(engine) as session:
            mine = session.execute(sa.text(sessions.own)).scalar_one()
            transport.bound_to(session).send(lambda: [an_envelope(1)])
            sessions.terminate(mine)
            with pytest.raises(
                SendError, match="the session's database cannot be reached, or ended the conn"
            ) as caught:
                session.commit()
        with Session(engine) as session:
            transport.bound_to(session).send(lambda: [an_envelope(2)])
            session.commit()

    assert caught.value.refused == (0,)
    assert ids(transport) == ["id-2"]


def test_a_server_that_ends_idle_sessions_is_not_noticed(
    transport: SqlTransport, sessions: Sessions, an_envelope: Maker
) -> None:
    if isinstance(sessions, PostgresqlSessions) and int(scalar(sessions.url, "SHOW server_version_num")) < 140_000:
        pytest.skip("idle_session_timeout came with PostgreSQL 14")
    for number in range(2):
        transport.send([an_envelope(number)])
        session = sessions.of(transport)
        transport._database.read(lambda connection: connection.exec_driver_sql(sessions.impatience))
        sessions.wait_until_gone(session)

    assert ids(transport) == ["id-0", "id-1"]


def test_a_transaction_whose_rollback_is_interrupted_too_does_not_take_what_is_sent_later(
    transport: SqlTransport, sessions: Sessions, an_envelope: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(transport._database.dialect, "rollback", interrupted)
        with pytest.raises(KeyboardInterrupt):
            transport._database.write(interrupted)
    transport.send([an_envelope(1)])

    assert query(sessions.url, "SELECT count(*) FROM relevo_event") == [(1,)]


@pytest.mark.parametrize("read", ["stats", "find", "dead_letters"])
def test_a_signal_handler_that_reads_in_the_middle_of_a_send_is_refused(
    read: str, transport: SqlTransport, sessions: Sessions, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])
    found: list[str] = []
    with an_engine(sessions.url) as engine, engine.connect() as other:
        other.exec_driver_sql(sessions.lock)

        def handle(*_: object) -> None:
            try:
                getattr(transport, read)(["default"] if read == "dead_letters" else "default")
            except TransportUnavailableError as error:
                found.append(error.why)
            finally:
                other.invalidate()  # which ends its lock

        def interrupt() -> None:
            try:
                wait_until(lambda: bool(query(sessions.url, sessions.waiting)))
            finally:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, handle)
        try:
            with ThreadPoolExecutor(1) as pool:
                interrupting = pool.submit(interrupt)
                transport.send([an_envelope(2)])
                interrupting.result()
        finally:
            signal.signal(signal.SIGUSR1, before)

    assert len(found) == 1
    assert "was interrupted by a signal handler that uses the transport" in found[0]
    assert ids(transport) == ["id-1", "id-2"]


def test_a_transport_has_the_documented_number_of_connections(
    transport: SqlTransport, sessions: Sessions, an_envelope: Maker
) -> None:
    def connections() -> int:
        return len(query(sessions.url, sessions.all_of_a_database)) - 1  # without that of the query

    transport.send([an_envelope(1)])
    transport.stats("default")
    wait_until(lambda: connections() == 1)

    transport.settle([(each, Ack()) for each in transport.receive(["default"], limit=1, lease=60, wait=0)])
    wait_until(lambda: connections() == 2)

    transport.receive(["default"], limit=1, lease=60, wait=0.2)
    expected = 3 if isinstance(sessions, PostgresqlSessions) else 2
    wait_until(lambda: connections() == expected)
