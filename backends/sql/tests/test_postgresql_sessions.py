"""Sessions and connections of an application on PostgreSQL: its transaction, its settings, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from relevo import Envelope
from relevo.errors import ConfigurationError, SessionError
from relevo_sql import SqlTransport

from .on_postgresql import address, an_engine, execute, ids, scalar

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

DRIVERS = ["psycopg", "psycopg2"]


@pytest.fixture(name="transport")
def _transport(opener: Opener, postgresql_database: str) -> SqlTransport:
    return opener(url=postgresql_database)


@pytest.fixture(name="shop", params=DRIVERS)
def _shop(request: pytest.FixtureRequest, postgresql_database: str) -> Iterator[sa.Engine]:
    """Return the application's engine, with one driver and with another."""
    pytest.importorskip(request.param)
    execute(postgresql_database, "CREATE TABLE image (id INTEGER PRIMARY KEY)")
    with an_engine(address(postgresql_database, request.param)) as engine:
        yield engine


def test_a_session_that_sends_nothing_costs_nothing(transport: SqlTransport, shop: sa.Engine) -> None:
    seen: list[str] = []
    note = lambda *execution: seen.append(execution[2])  # noqa: E731 - to remove it again
    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        with Session(shop) as session:
            transport.bound_to(session)
            session.execute(sa.text("INSERT INTO image VALUES (1)"))
            session.commit()
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)

    assert [statement for statement in seen if "pg_catalog" not in statement and "show" not in statement.lower()] == [
        "INSERT INTO image VALUES (1)"
    ]


# --- settings of the application -------------------------------------------------------------------------


def test_serializable_transactions_that_only_send_do_not_conflict(
    transport: SqlTransport, postgresql_database: str, an_envelope: Maker
) -> None:
    with an_engine(postgresql_database, isolation_level="SERIALIZABLE") as engine, ExitStack() as stack:
        sessions = [stack.enter_context(Session(engine)) for _ in range(3)]
        for number, session in enumerate(sessions):
            assert session.execute(sa.text("SHOW transaction_isolation")).scalar() == "serializable"
            transport.bound_to(session).send(partial(lambda n: [an_envelope(n, ordering_key="42")], number))
            transport.send([an_envelope(10 + number)])
        for session in sessions:
            session.commit()

    assert sorted(ids(transport)) == ["id-0", "id-10", "id-11", "id-12"]


def test_a_schema_translation_map_is_not_for_the_tables_of_relevo(
    transport: SqlTransport, postgresql_database: str, an_envelope: Maker
) -> None:
    execute(postgresql_database, "CREATE SCHEMA tenant")
    translated = {"schema_translate_map": {None: "tenant"}}
    with an_engine(postgresql_database, execution_options=translated) as engine, Session(engine) as session:
        transport.bound_to(session).send(lambda: [an_envelope(1)])
        session.commit()

    assert ids(transport) == ["id-1"]


def test_a_search_path_with_another_schema_first_finds_the_same_tables(
    transport: SqlTransport, postgresql_database: str, an_envelope: Maker
) -> None:
    execute(postgresql_database, "CREATE SCHEMA tenant")
    for number, path in enumerate(("tenant,public", "nowhere,public")):
        with an_engine(address(postgresql_database, search_path=path)) as engine, Session(engine) as session:
            transport.bound_to(session).send(partial(lambda n: [an_envelope(n)], number))
            session.commit()

    assert ids(transport) == ["id-0", "id-1"]


def test_a_schema_that_a_listener_of_the_engine_chooses_is_that_of_the_transport_too(
    postgresql_database: str, an_envelope: Maker
) -> None:
    execute(postgresql_database, "CREATE SCHEMA tenant")

    def choose(driver: Any, _: object) -> None:  # as SQLAlchemy's page on PostgreSQL does it
        driver.autocommit = True
        driver.execute("SET SESSION search_path = tenant")
        driver.autocommit = False

    with an_engine(postgresql_database) as engine:
        sa.event.listen(engine, "connect", choose)
        with SqlTransport(engine) as transport, Session(engine) as session:
            transport.setup([])
            transport.bound_to(session).send(lambda: [an_envelope(1)])
            session.commit()
            received = ids(transport)

    assert received == ["id-1"]
    found = scalar(
        postgresql_database, "SELECT string_agg(schemaname, ' ') FROM pg_tables WHERE tablename = 'relevo_event'"
    )
    assert found == "tenant"


@pytest.mark.parametrize("tables", [True, False])
def test_a_search_path_that_leads_to_other_tables_is_another_database(
    transport: SqlTransport, opener: Opener, postgresql_database: str, an_envelope: Maker, *, tables: bool
) -> None:
    execute(postgresql_database, "CREATE SCHEMA tenant")
    elsewhere = address(postgresql_database, search_path="tenant")
    if tables:
        opener(url=elsewhere.set(drivername="postgresql").render_as_string(hide_password=False))
    wrong = "uses another database" if tables else "lacks relevo's tables"
    with an_engine(elsewhere) as engine, Session(engine) as session, pytest.raises(SessionError, match=wrong):
        transport.bound_to(session).send(lambda: [an_envelope(1)])

    assert ids(transport) == []


def test_a_user_without_rights_on_the_tables_is_told_what_to_grant(
    transport: SqlTransport, postgresql_database: str, an_envelope: Maker
) -> None:
    role = f"clerk_{sa.make_url(postgresql_database).database}"
    execute(postgresql_database, f"CREATE ROLE {role} LOGIN", f"GRANT SELECT ON relevo_meta TO {role}")
    try:
        with an_engine(address(postgresql_database).set(username=role)) as engine, Session(engine) as session:
            transport.bound_to(session).send(lambda: [an_envelope(1)])
            with pytest.raises(ConfigurationError, match="permission denied for table relevo_event; grant"):
                session.commit()
    finally:
        execute(postgresql_database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_the_transport_does_not_work_on_a_driver_that_returns_other_types(shop: sa.Engine, an_envelope: Maker) -> None:
    with SqlTransport(shop) as transport:
        if shop.dialect.driver == "psycopg":
            transport.setup([])
            transport.send([an_envelope(1)])
            assert ids(transport) == ["id-1"]
        else:
            with pytest.raises(ConfigurationError, match=r'postgresql\+psycopg, not the driver "psycopg2"'):
                transport.setup([])
