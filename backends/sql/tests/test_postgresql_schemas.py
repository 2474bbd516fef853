"""relevo's tables in a schema of PostgreSQL that the sessions of the application do not look into."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from relevo import Ack, App, DeadLetter, Envelope, Event, Nack, Outcome
from relevo.errors import ConfigurationError, SessionError
from relevo_sql import SqlOptions, SqlTransport

from .command_line import configure, relevo, run_script
from .on_postgresql import address, an_engine, execute, ids, scalar, wait_until

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

SCHEMAS = ["jobs", 'we"ird', "100% {x} 'Ünï' :a $1 %s"]

pytestmark = [pytest.mark.postgresql, pytest.mark.slow("about a database, not about Python")]


def tables(database: str) -> list[str]:
    """Return the schemas that have a table of relevo's."""
    query = "SELECT array_agg(DISTINCT schemaname::text) FROM pg_tables WHERE starts_with(tablename, 'relevo_')"
    return list(scalar(database, query) or ())


@pytest.mark.parametrize("schema", SCHEMAS)
def test_everything_works_in_a_schema_with_any_name(
    opener: Opener, postgresql_database: str, an_envelope: Maker, schema: str
) -> None:
    transport = opener(url=postgresql_database, schema=schema, setup=False)

    planned = transport.setup([], dry_run=True)
    created = transport.setup([])
    again = transport.setup([])
    transport.send([an_envelope(number) for number in range(3)])
    transport.send([an_envelope(3, ordering_key="a"), an_envelope(4, ordering_key="a")])
    transport.send([an_envelope(5)], delay=3600)
    deliveries = transport.receive(["default"], limit=10, lease=60, wait=0)
    ends: list[Outcome] = [Ack(), Nack(delay=3600), DeadLetter(reason="broken"), Ack()]
    lost = transport.settle(list(zip(deliveries, ends, strict=True)))
    figures = transport.stats("default")
    (entry,) = transport.dead_letters(["default"])

    assert planned == created
    assert (created[0], again, lost) == (f'schema "{schema}"', [], [])
    assert (figures.ready, figures.leased, figures.scheduled, figures.dead) == (1, 0, 2, 1)
    assert not transport.revive({entry.ref: b""})
    assert transport.cancel("id-5") == 1
    assert len(transport.find("id-1")) == 1
    assert not transport.problems(["default"])
    receipt = transport.lock("line", holder="me", ttl=60)
    assert receipt
    transport.unlock("line", receipt)
    transport.appear("worker")
    assert transport.presence(["worker"])
    assert transport.purge("default") > 0
    assert tables(postgresql_database) == [schema]


@pytest.mark.parametrize("schema", ["Shop", "a shop", "100%"])
def test_the_first_schema_of_the_search_path_may_have_any_name(
    opener: Opener, postgresql_database: str, an_envelope: Maker, schema: str
) -> None:
    name = sa.make_url(postgresql_database).database
    execute(
        postgresql_database,
        f'CREATE SCHEMA "{schema}"'.replace("%", "%%"),
        f'ALTER DATABASE "{name}" SET search_path = "{schema}"'.replace("%", "%%"),
    )

    transport = opener(url=postgresql_database)
    transport.send([an_envelope(1)])

    assert ids(transport) == ["id-1"]
    assert tables(postgresql_database) == [schema]


@pytest.mark.parametrize("kind", ["session", "connection"])
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize("schema", SCHEMAS[1:])
def test_a_session_with_another_search_path_is_joined_from_the_first_dispatch_on(
    opener: Opener, postgresql_database: str, driver: str, kind: str, schema: str
) -> None:
    pytest.importorskip(driver)
    transport = opener(url=postgresql_database, schema=schema, setup=False)
    execute(postgresql_database, "CREATE SCHEMA tenant")
    elsewhere = address(postgresql_database, driver, search_path="tenant")
    with App(transports={"main": transport}, routes={"*": "main"}) as app, an_engine(elsewhere) as engine:
        for end in ("rollback", "commit", "commit"):
            with Session(engine) if kind == "session" else engine.connect() as session:
                session.execute(sa.text("SET LOCAL search_path TO pg_temp"))
                app.dispatch(Event(f"image.{end}"), session=session)
                getattr(session, end)()

        assert tables(postgresql_database) == [schema]
        assert len(ids(transport)) == 2


def test_an_asynchronous_session_is_joined(opener: Opener, postgresql_database: str) -> None:
    pytest.importorskip("asyncpg")
    transport = opener(url=postgresql_database, schema=SCHEMAS[2], setup=False)

    async def upload(app: App) -> None:
        engine = create_async_engine(address(postgresql_database, "asyncpg"))
        async with AsyncSession(engine) as session:
            app.dispatch(Event("image.created"), session=session)
            await session.commit()
        await engine.dispose()

    with App(transports={"main": transport}, routes={"*": "main"}) as app:
        asyncio.run(upload(app))
        asyncio.run(upload(app))

        assert tables(postgresql_database) == [SCHEMAS[2]]
        assert len(ids(transport)) == 2


def test_an_engine_is_given_its_schema(postgresql_database: str, an_envelope: Maker) -> None:
    with an_engine(postgresql_database) as engine, SqlTransport(engine, schema="jobs") as transport:
        transport.setup([])
        transport.send([an_envelope(1)])

        assert ids(transport) == ["id-1"]
    assert tables(postgresql_database) == ["jobs"]


def test_two_schemas_of_a_database_are_two_stores(opener: Opener, postgresql_database: str, an_envelope: Maker) -> None:
    first, second, plain = (
        opener(url=postgresql_database, **options) for options in ({"schema": "a"}, {"schema": "b"}, {})
    )

    with an_engine(postgresql_database) as engine, Session(engine) as session:
        for number, transport in enumerate((first, second, plain)):
            transport.bound_to(session).send(lambda number=number: [an_envelope(number)])  # type: ignore[misc]  # of mypy
        session.commit()

    assert [ids(transport) for transport in (first, second, plain)] == [["id-0"], ["id-1"], ["id-2"]]
    assert sorted(tables(postgresql_database)) == ["a", "b", "public"]


def test_a_session_of_another_database_is_refused_although_the_schema_is_called_the_same(
    opener: Opener, postgresql_database: str, postgresql_databases: Any, an_envelope: Maker
) -> None:
    transport = opener(url=postgresql_database, schema="jobs")
    with postgresql_databases.fresh_database() as other, an_engine(other) as engine, Session(engine) as session:
        opener(url=other, schema="jobs")

        with pytest.raises(SessionError, match="uses another database"):
            transport.bound_to(session).send(lambda: [an_envelope(1)])


def test_a_send_wakes_the_workers_of_its_schema(opener: Opener, postgresql_database: str, an_envelope: Maker) -> None:
    waiting, sending = (opener(url=postgresql_database, schema=SCHEMAS[2], poll=60.0) for _ in range(2))
    notifications = waiting._notifications
    assert notifications is not None

    with ThreadPoolExecutor(1) as threads:
        received = threads.submit(waiting.receive, ["default"], limit=10, lease=60, wait=60)
        wait_until(lambda: notifications.is_listening)
        flag = f"SELECT count(*) FROM {quoted(SCHEMAS[2])}.relevo_lock"  # noqa: S608 - ours
        wait_until(lambda: scalar(postgresql_database, flag.replace("%", "%%")) == 1)
        sending.send([an_envelope(1)])

        assert [d.envelope.id for d in received.result(30) if isinstance(d.envelope, Envelope)] == ["id-1"]


def quoted(schema: str) -> str:
    return '"' + schema.replace('"', '""') + '"'


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_printed_sql_creates_the_schema(tmp_path: Path, postgresql_database: str, schema: str) -> None:
    configure(tmp_path, postgresql_database, f"schema = '''{schema.replace('$', '$$')}'''")

    printed = relevo(tmp_path, "setup", "--print")
    before = relevo(tmp_path, "setup", "--check")
    run_script(postgresql_database, printed.stdout)
    after = relevo(tmp_path, "setup", "--check")

    assert f"\nCREATE SCHEMA IF NOT EXISTS {quoted(schema) if schema != 'jobs' else schema};\n" in printed.stdout
    assert (before.returncode, before.stdout.splitlines()[0]) == (78, f'schema "{schema}"')
    assert (after.returncode, after.stdout) == (0, "nothing is missing\n")
    assert tables(postgresql_database) == [schema]


def test_a_schema_that_is_there_is_not_created(opener: Opener, postgresql_database: str) -> None:
    execute(postgresql_database, "CREATE SCHEMA jobs")

    created = opener(url=postgresql_database, schema="jobs", setup=False).setup([])

    assert "table relevo_event" in created
    assert 'schema "jobs"' not in created


def test_an_error_names_the_schema(opener: Opener, postgresql_database: str) -> None:
    transport = opener(url=postgresql_database, schema="jobs", setup=False)

    with pytest.raises(ConfigurationError, match=r'\(schema "jobs"\) lacks tables that relevo needs'):
        transport.stats("default")


@pytest.mark.parametrize("schema", ["", "x" * 64, "ü" * 32, "a\0b"])
def test_a_name_that_the_server_would_change_is_refused(schema: str) -> None:
    with pytest.raises(ConfigurationError, match="schema: expected a name of 1 to 63 bytes; got"):
        SqlTransport.open(SqlOptions(url="postgresql://shop@db/shop", schema=schema), name="main", clock=_CLOCK)


@pytest.mark.parametrize("url", ["sqlite:///shop.db", "mariadb://shop@db/shop", "mysql://shop@db/shop"])
def test_only_postgresql_has_schemas(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"schema: only PostgreSQL has schemas inside a database; got .jobs."):
        SqlTransport.open(SqlOptions(url=url, schema="jobs"), name="main", clock=_CLOCK)


_CLOCK: Any = None


def test_a_transaction_that_looks_elsewhere_writes_into_the_store_of_its_transport(
    opener: Opener, postgresql_database: str, an_envelope: Maker
) -> None:
    transport, other = opener(url=postgresql_database), opener(url=postgresql_database, schema="tenant")

    with an_engine(postgresql_database) as engine:
        for number, path in enumerate(("public", "tenant", "pg_temp")):
            with Session(engine) as session:
                session.execute(sa.text(f"SET LOCAL search_path TO {path}"))
                transport.bound_to(session).send(lambda number=number: [an_envelope(number)])  # type: ignore[misc]  # of mypy
                session.commit()

    assert ids(transport) == ["id-0", "id-1", "id-2"]
    assert ids(other) == []
