"""What PostgreSQL refuses, or lets wait: each error names the thing, the place and the remedy, and no call hangs."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from relevo import Ack, DeadLetter, Envelope, Nack, Outcome
from relevo.errors import ConfigurationError, SendError, TransportError, TransportUnavailableError
from relevo_sql import SqlTransport

from .on_postgresql import address, an_engine, execute, ids, scalar, wait_until, wait_until_gone

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]
Role = Callable[..., str]

CALLS: dict[str, Callable[[SqlTransport], object]] = {
    "send": lambda transport: transport.send([Envelope(id="id-9", source="shop", name="image.created", body=b"")]),
    "receive": lambda transport: transport.receive(["default"], limit=1, lease=60, wait=0),
    "stats": lambda transport: transport.stats("default"),
}


@pytest.fixture(name="transport")
def _transport(opener: Opener, postgresql_database: str) -> SqlTransport:
    return opener(url=postgresql_database, busy_timeout=0.5)


@pytest.fixture(name="role")
def _role(transport: SqlTransport, postgresql_database: str) -> Iterator[Role]:
    """Create a user with settings of its own, and return the database's URL for it."""
    name = f"clerk_{secrets.token_hex(8)}"

    def create(*settings: str, options: str = "", rights: bool = True) -> str:
        execute(postgresql_database, f"CREATE ROLE {name} LOGIN {options}")
        execute(postgresql_database, *(f"ALTER ROLE {name} SET {setting}" for setting in settings))
        if rights:
            execute(postgresql_database, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
            execute(postgresql_database, f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {name}")
        url = sa.make_url(postgresql_database).set(username=name, password="not-to-be-shown")
        return url.render_as_string(hide_password=False)

    yield create
    execute(
        postgresql_database,
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'",  # noqa: S608 - ours
        f"DROP OWNED BY {name}",
        f"DROP ROLE {name}",
    )


@contextmanager
def locked(database: str, table: str = "relevo_event", mode: str = "ACCESS EXCLUSIVE") -> Iterator[sa.Connection]:
    """Hold a lock of *table* in another transaction."""
    with an_engine(database) as engine, engine.connect() as connection:
        connection.exec_driver_sql(f"LOCK TABLE {table} IN {mode} MODE")
        yield connection


@contextmanager
def waits(database: str) -> Iterator[Callable[[], int]]:
    """Yield a function that returns how many statements of other sessions it has seen waiting for a lock."""
    seen: set[object] = set()
    with an_engine(database, isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:

        def look() -> int:
            seen.update(
                connection.exec_driver_sql(
                    "SELECT query_start FROM pg_stat_activity "
                    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
                ).scalars()
            )
            return len(seen)

        yield look


# --- connecting -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
def test_a_server_that_is_away_is_named(opener: Opener, call: str, caplog: pytest.LogCaptureFixture) -> None:
    transport = opener(url="postgresql://shop:not-to-be-shown@127.0.0.1:1/events", setup=False)

    with pytest.raises(
        TransportUnavailableError,
        match=r'"main" is unavailable: the database "events" on 127\.0\.0\.1:1 cannot be reached.*refused',
    ) as caught:
        CALLS[call](transport)

    assert "not-to-be-shown" not in f"{caught.value!r}{caught.value.__cause__!r}{caplog.text}"


def test_all_servers_of_an_address_are_named(opener: Opener) -> None:
    transport = opener(url="postgresql://shop@/events?host=127.0.0.1:1&host=127.0.0.2:1", setup=False)

    with pytest.raises(TransportUnavailableError, match=r'"events" on 127\.0\.0\.1:1, 127\.0\.0\.2:1 cannot be'):
        transport.stats("default")


def test_a_database_that_does_not_exist_is_named(opener: Opener, postgresql_url: str) -> None:
    url = sa.make_url(postgresql_url).set(database="relevo_test_missing").render_as_string(hide_password=False)

    with pytest.raises(TransportUnavailableError, match=r'"relevo_test_missing" on .* does not exist; create it with'):
        opener(url=url)


def test_a_user_that_the_server_does_not_know_is_an_error_of_the_configuration(
    opener: Opener, postgresql_database: str
) -> None:
    url = sa.make_url(postgresql_database).set(username="relevo_nobody", password="not-to-be-shown")

    with pytest.raises(ConfigurationError, match=r'"main" cannot be used.*; .*fix the user and the password') as caught:
        opener(url=url.render_as_string(hide_password=False))

    assert "not-to-be-shown" not in f"{caught.value!r}{caught.value.__cause__!r}"


@pytest.mark.parametrize("lacks", ["LOGIN", "CONNECT"])
def test_a_user_who_may_not_connect_is_an_error_of_the_configuration(
    opener: Opener, role: Role, postgresql_database: str, lacks: str
) -> None:
    url = sa.make_url(role())
    if lacks == "LOGIN":
        execute(postgresql_database, f"ALTER ROLE {url.username} NOLOGIN")
    else:
        execute(postgresql_database, f"REVOKE CONNECT ON DATABASE {url.database} FROM PUBLIC")

    with pytest.raises(ConfigurationError, match=r"not permitted|permission denied for database"):
        opener(url=url.render_as_string(hide_password=False))


def test_too_many_connections_are_an_outage(opener: Opener, role: Role, an_envelope: Maker) -> None:
    url = role(options="CONNECTION LIMIT 1")
    first, second = opener(url=url, setup=False), opener(url=url, setup=False)
    first.send([an_envelope(1)])

    with pytest.raises(TransportUnavailableError, match=r"accepts no more connections: .*; allow more, or use fewer"):
        second.stats("default")
    first.close()
    wait_until(lambda: _works(second))


def test_nothing_is_handed_out_if_there_is_no_connection_to_settle_it(
    opener: Opener, postgresql_database: str, role: Role, an_envelope: Maker
) -> None:
    sender = opener(url=postgresql_database)
    sender.send([an_envelope(1)])

    limited = opener(url=role(options="CONNECTION LIMIT 1"), setup=False)
    limited.stats("default")
    with pytest.raises(TransportUnavailableError, match="accepts no more connections"):
        limited.receive(["default"], limit=1, lease=60, wait=0)

    assert sender.stats("default").ready == 1


def _works(transport: SqlTransport) -> bool:
    try:
        return transport.stats("default").ready == 1
    except TransportUnavailableError:  # the server has not ended the other connection yet
        return False


# --- rights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [*CALLS, "setup"])
def test_a_user_without_rights_on_the_tables_is_told_what_to_grant(opener: Opener, role: Role, call: str) -> None:
    transport = opener(url=role(rights=False), setup=False)

    with pytest.raises(
        ConfigurationError, match="permission denied for table relevo_meta; grant this user SELECT on relevo_meta"
    ):
        (CALLS | {"setup": lambda transport: transport.setup([])})[call](transport)


def test_a_user_who_may_create_no_table_is_told_so(opener: Opener, role: Role, postgresql_database: str) -> None:
    url = role(rights=False)
    execute(postgresql_database, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    execute(postgresql_database, f"GRANT USAGE ON SCHEMA public TO {sa.make_url(url).username}")

    with pytest.raises(
        ConfigurationError, match="permission denied for schema public; grant this user USAGE and CREATE on"
    ):
        opener(url=url)


@pytest.mark.parametrize("call", ["send", "receive"])
def test_a_user_who_may_only_read_is_told_to_name_the_primary(
    transport: SqlTransport, opener: Opener, role: Role, an_envelope: Maker, call: str
) -> None:
    transport.send([an_envelope(1)])
    reader = opener(url=role("default_transaction_read_only = on"), setup=False)

    with pytest.raises(TransportUnavailableError, match=r"is read-only: it is a replica, .*; name the primary"):
        CALLS[call](reader)

    assert ids(transport) == ["id-1"]


def test_a_search_path_without_a_schema_is_named(opener: Opener, postgresql_database: str) -> None:
    with pytest.raises(ConfigurationError, match="no schema has been selected to create in; grant this user USAGE"):
        opener(url=f"{postgresql_database}?options=-csearch_path%3Dnowhere")


# --- waiting ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
def test_a_table_that_stays_locked_is_waited_for_no_longer_than_was_set(
    transport: SqlTransport, postgresql_database: str, call: str
) -> None:
    with (
        locked(postgresql_database),
        pytest.raises(TransportUnavailableError, match=r"a table is locked .* than 0\.5 s .*; look for a transaction"),
    ):
        CALLS[call](transport)

    assert ids(transport) == []


@pytest.mark.parametrize("settings", [(), ("statement_timeout = '40ms'", "lock_timeout = '20ms'")])
@pytest.mark.parametrize("call", ["send", "receive"])
def test_a_lock_that_ends_is_waited_for_whatever_timeouts_the_user_has(
    transport: SqlTransport, opener: Opener, role: Role, postgresql_database: str, call: str, settings: tuple[str, ...]
) -> None:
    patient = opener(url=role(*settings), setup=False)
    patient.stats("default")  # connects
    done: list[object] = []
    thread = threading.Thread(target=lambda: done.append(CALLS[call](patient)))

    with waits(postgresql_database) as seen, locked(postgresql_database):
        thread.start()
        wait_until(lambda: seen() >= 3)  # it waits again and again
        early = list(done)
    thread.join(60)

    assert not early
    assert done


def test_a_transport_that_is_closed_does_not_wait_for_a_lock(opener: Opener, postgresql_database: str) -> None:
    transport = opener(url=postgresql_database, busy_timeout=3600)
    failed: list[str] = []

    def receive() -> None:
        try:
            CALLS["receive"](transport)
        except TransportError as error:
            failed.append(type(error).__name__)

    thread = threading.Thread(target=receive)
    with waits(postgresql_database) as seen, locked(postgresql_database):
        thread.start()
        wait_until(lambda: seen() > 0)
        transport.close()
        thread.join(60)

        assert failed == ["TransportClosedError"]


def test_a_transaction_that_rests_too_long_for_the_server_is_repeated(
    opener: Opener, role: Role, an_envelope: Maker
) -> None:
    # Long enough for the driver and SQLAlchemy, which begin a transaction when they connect.
    hurried = opener(url=role("idle_in_transaction_session_timeout = '2s'"), setup=False)
    hurried.send([an_envelope(1), an_envelope(2)])
    engine = hurried._database.engine
    rested: list[int] = []

    def rest(connection: sa.Connection, _: object, statement: str, *__: object) -> None:
        if statement == "BEGIN" and not rested:
            pid = connection.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]  # psycopg's
            rested.append(pid)
            wait_until_gone(url, pid)

    url = engine.url.render_as_string(hide_password=False)
    sa.event.listen(engine, "after_cursor_execute", rest)
    assert ids(hurried) == ["id-1", "id-2"]
    assert len(rested) == 1


def test_settlements_of_the_same_rows_in_another_order_all_succeed(
    opener: Opener, postgresql_database: str, an_envelope: Maker
) -> None:
    one, two = opener(url=postgresql_database), opener(url=postgresql_database)
    one.send([an_envelope(number, ordering_key=str(number % 3)) for number in range(30)])
    one.send([an_envelope(100 + number) for number in range(100)])
    errors: list[BaseException] = []
    seen: list[str] = []

    def work(transport: SqlTransport) -> None:
        try:
            while deliveries := transport.receive(["default"], limit=20, lease=60, wait=0.1):
                ends: list[Outcome] = [Nack(), DeadLetter(reason="broken"), Ack()]
                assert not transport.settle([(d, ends[min(d.attempt, 2)]) for d in reversed(deliveries)])
                seen.extend(d.envelope.id for d in deliveries if d.attempt > 1 and isinstance(d.envelope, Envelope))
        except BaseException as error:  # noqa: BLE001 - the test tells it
            errors.append(error)

    threads = [threading.Thread(target=work, args=[each]) for each in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not errors
    assert one.stats("default").ready == 0


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_a_transaction_that_the_server_ended_for_another_is_repeated(
    opener: Opener, postgresql_database: str, an_envelope: Maker, state: str
) -> None:
    transport = opener(url=postgresql_database)
    execute(
        postgresql_database,
        "CREATE SEQUENCE refused",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF nextval('refused') <= 2 THEN RAISE EXCEPTION 'not now' USING ERRCODE = '{state}'; END IF; RETURN NEW; "
        "END $$",
        "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON relevo_event FOR EACH STATEMENT EXECUTE FUNCTION refuse()",
    )

    transport.send([an_envelope(1)])
    assert scalar(postgresql_database, "SELECT last_value FROM refused") == 3
    execute(postgresql_database, "ALTER SEQUENCE refused RESTART")
    received = ids(transport)

    assert received == ["id-1"]
    assert scalar(postgresql_database, "SELECT last_value FROM refused") >= 3


# --- data -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("value", ["a" * 256, "a\0b"], ids=["long", "NUL"])
def test_an_event_that_the_database_cannot_hold_is_refused(
    transport: SqlTransport, an_envelope: Maker, value: str, others: int
) -> None:
    for field in ("id", "source", "name", "queue", "ordering_key"):
        envelopes = [an_envelope(0, **{field: value}), *(an_envelope(1 + number) for number in range(others))]
        with pytest.raises(SendError, match="cannot hold a value: ") as caught:
            transport.send(envelopes)
        assert caught.value.refused == tuple(range(len(envelopes))), field

    assert ids(transport) == []


def test_the_location_of_a_database_shows_no_secret(opener: Opener, postgresql_database: str) -> None:
    url = address(postgresql_database).set(drivername="postgresql", password="not-to-be-shown")
    transport = opener(url=url.render_as_string(hide_password=False), setup=False)

    assert "not-to-be-shown" not in transport._database.place + repr(transport) + repr(transport._database.engine)
