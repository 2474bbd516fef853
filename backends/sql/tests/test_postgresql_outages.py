"""Connections that the server ends: nothing is lost, and what is unknown is reported as unknown."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from relevo import Ack, Envelope
from relevo.errors import SendError, TransportUnavailableError
from relevo_sql import SqlTransport

from .on_postgresql import an_engine, execute, ids, scalar, wait_until, wait_until_gone

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]


@pytest.fixture(name="transport")
def _transport(opener: Opener, postgresql_database: str) -> SqlTransport:
    return opener(url=postgresql_database)


def terminate(database: str, pid: int) -> None:
    """End the session *pid*, and wait until it is gone."""
    scalar(database, f"SELECT pg_terminate_backend({pid})")
    wait_until_gone(database, pid)


def session_of(transport: SqlTransport) -> int:
    pid = transport._database.read(lambda connection: connection.exec_driver_sql("SELECT pg_backend_pid()").scalar())
    assert isinstance(pid, int)
    return pid


@contextmanager
def lost(transport: SqlTransport, database: str, start: str, moment: str = "before") -> Iterator[list[str]]:
    """Let the server end the connection once, *moment* a statement that begins with *start* is executed."""
    done: list[str] = []

    def lose(connection: sa.Connection, _: object, statement: str, *__: object) -> None:
        if statement.startswith(start) and not done:
            done.append(statement)
            driver: Any = connection.connection.driver_connection
            terminate(database, driver.info.backend_pid)

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
    transport: SqlTransport, postgresql_database: str, an_envelope: Maker, call: Callable[..., object]
) -> None:
    transport.send([an_envelope(1)])
    terminate(postgresql_database, session_of(transport))

    call(transport, an_envelope(2))

    assert transport.find("id-1")


@pytest.mark.parametrize(
    ("moment", "statement"),
    [("before", "SELECT"), ("after", "SELECT"), ("before", "BEGIN"), ("after", "BEGIN"), ("before", "UPDATE")],
)
def test_a_connection_that_is_ended_inside_a_receive_loses_nothing(
    transport: SqlTransport, postgresql_database: str, an_envelope: Maker, statement: str, moment: str
) -> None:
    transport.send([an_envelope(1), an_envelope(2)])

    with lost(transport, postgresql_database, statement, moment) as done:
        received = ids(transport)

    assert len(done) == 1
    assert received == ["id-1", "id-2"]
    assert transport.stats("default").leased == 2


def test_a_connection_that_is_ended_between_two_statements_of_a_claim_is_replaced_whole(
    transport: SqlTransport, postgresql_database: str, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])
    database = transport._database

    def forget(*execution: Any) -> None:  # so that the claim compares the clocks inside its transaction
        if execution[2] == "BEGIN":
            database._compared = (0.0, 0.0)

    sa.event.listen(database.engine, "before_cursor_execute", forget)
    with lost(transport, postgresql_database, "BEGIN", "after") as done:
        received = ids(transport)

    assert len(done) == 1
    assert received == ["id-1"]


def test_a_claim_whose_commit_is_unknown_is_handed_out_again_when_its_lease_is_over(
    transport: SqlTransport, postgresql_database: str, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])

    with (
        lost(transport, postgresql_database, "COMMIT"),
        pytest.raises(TransportUnavailableError, match=r"the commit failed: the database .* ended the connection"),
    ):
        transport.receive(["default"], limit=1, lease=0.05, wait=0)
    (again,) = transport.receive(["default"], limit=1, lease=60, wait=30)

    assert again.envelope == an_envelope(1)
    assert not transport.settle([(again, Ack())])


@pytest.mark.parametrize("count", [1, 3])
def test_a_send_whose_connection_is_ended_is_unknown_and_can_be_repeated(
    transport: SqlTransport, postgresql_database: str, an_envelope: Maker, count: int
) -> None:
    envelopes = [an_envelope(number) for number in range(count)]
    pid = session_of(transport)
    errors: list[SendError] = []

    def send() -> None:
        try:
            transport.send(envelopes)
        except SendError as error:
            errors.append(error)

    waits = f"SELECT pid FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'"  # noqa: S608 - a number
    with an_engine(postgresql_database) as engine, engine.connect() as other:
        other.exec_driver_sql("LOCK TABLE relevo_event IN SHARE MODE")
        thread = threading.Thread(target=send)
        thread.start()
        wait_until(lambda: bool(scalar(postgresql_database, waits)))
        terminate(postgresql_database, pid)
        thread.join(60)

    assert [error.unknown for error in errors] == [tuple(range(count))]
    assert "the commit failed: the database" in str(errors[0])
    assert "ended the connection" in str(errors[0])
    transport.send(envelopes)
    assert ids(transport) == [envelope.id for envelope in envelopes]


def test_a_session_whose_connection_is_ended_sends_nothing_and_the_next_one_works(
    transport: SqlTransport, postgresql_database: str, an_envelope: Maker
) -> None:
    with an_engine(postgresql_database) as engine:
        with Session(engine) as session:
            pid = session.execute(sa.text("SELECT pg_backend_pid()")).scalar()
            transport.bound_to(session).send(lambda: [an_envelope(1)])
            terminate(postgresql_database, int(pid or 0))
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
    opener: Opener, postgresql_database: str, an_envelope: Maker
) -> None:
    if int(scalar(postgresql_database, "SHOW server_version_num")) < 140_000:
        pytest.skip("idle_session_timeout came with PostgreSQL 14")
    execute(
        postgresql_database, f"ALTER DATABASE {sa.make_url(postgresql_database).database} SET idle_session_timeout = 30"
    )
    transport = opener(url=postgresql_database)

    for number in range(3):
        transport.send([an_envelope(number)])
        pid = session_of(transport)
        wait_until_gone(postgresql_database, pid)

    assert ids(transport) == ["id-0", "id-1", "id-2"]


def test_a_full_disk_refuses_an_event(transport: SqlTransport, postgresql_database: str, an_envelope: Maker) -> None:
    execute(
        postgresql_database,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$",
        "CREATE TRIGGER refuse BEFORE INSERT ON relevo_event FOR EACH STATEMENT EXECUTE FUNCTION refuse()",
    )

    with pytest.raises(SendError, match="cannot grow, since the disk of the server is full; free space") as caught:
        transport.send([an_envelope(1)])

    assert caught.value.refused == (0,)
