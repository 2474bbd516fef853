"""The rights that the page on creating tables grants: each is needed, and they are enough for what it says."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import attrs
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from relevo import Ack, App, DeadLetter, Delivery, Envelope, Event, Nack, Note, Outcome
from relevo.backend import Firing
from relevo.errors import ConfigurationError
from relevo_sql import SqlTransport

from .command_line import run_script
from .on_mariadb import execute as execute_on_mariadb
from .on_postgresql import execute as execute_on_postgresql
from .on_server import SERVERS, with_driver
from .test_foreign_rows import with_values

pytestmark = pytest.mark.slow("about the rights of a server's user")

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "create-the-tables.md"

KEEP = 86_400.0
"""Seconds for which the events that are done are kept."""

ROLES = ("shop_web", "shop_worker", "shop_deploy")
"""The users of the page: the application that dispatches, the worker, and the one that runs ``relevo setup``."""


def grants(engine: str, role: str) -> list[str]:
    """Return the statements of the page that grant rights on *engine* to *role*."""
    blocks: list[str] = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)
    statements = [re.sub(r"\s+", " ", each).strip() for block in blocks for each in block.split(";")]
    on_mariadb = [each for each in statements if " shop." in each]
    found = on_mariadb if engine == "mariadb" else [each for each in statements if each not in on_mariadb]
    return [each for each in found if each.startswith("GRANT") and each.endswith(f"TO {role}")]


def without(grant: str) -> list[str]:
    """Return *grant* in pieces, so that each right on each thing can be left out."""
    match = re.fullmatch(r"GRANT (.*) ON (SEQUENCE |SCHEMA |DATABASE )?(.*) TO (\w+)", grant)
    assert match
    rights, kind, things, role = match.groups()
    split = re.split(r", (?![^(]*\))", rights)
    return [f"GRANT {right} ON {kind or ''}{thing} TO {role}" for right in split for thing in things.split(", ")]


@attrs.frozen
class Server:
    """A database with users."""

    engine: str
    url: str
    execute: Callable[..., None]
    made: list[str]

    def user(self, role: str, statements: list[str]) -> str:
        """Create a user with the rights that *statements* grant to *role*; return the database's URL for it."""
        name = f"relevo_{secrets.token_hex(6)}"
        self.made.append(name)
        self.execute(
            self.url,
            f"CREATE USER {name} IDENTIFIED BY 'secret'" if self.engine == "mariadb" else f"CREATE ROLE {name} LOGIN",
            *(self._here(each, role, name) for each in statements),
        )
        return sa.make_url(self.url).set(username=name, password="secret").render_as_string(hide_password=False)

    def _here(self, statement: str, role: str, name: str) -> str:
        here = f" {sa.make_url(self.url).database}"
        return statement.replace(f"TO {role}", f"TO {name}").replace(" shop.", f"{here}.").replace(" shop ", f"{here} ")

    def drop_users(self) -> None:
        for name in self.made:
            if self.engine == "mariadb":
                self.execute(self.url, f"DROP USER {name}")
            else:
                self.execute(self.url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


@pytest.fixture(name="server", params=SERVERS)
def _server(request: pytest.FixtureRequest) -> Iterator[Server]:
    engine = request.param
    url = request.getfixturevalue(f"{engine}_database")
    server = Server(engine, url, execute_on_mariadb if engine == "mariadb" else execute_on_postgresql, [])
    if engine == "postgresql":
        # From PostgreSQL 15 on this is the default.
        server.execute(url, "REVOKE CREATE ON SCHEMA public FROM PUBLIC", "REVOKE USAGE ON SCHEMA public FROM PUBLIC")
    yield server
    server.drop_users()


def dispatch(transport: SqlTransport) -> None:
    """Do all that an application does which only dispatches."""
    engine = transport._database.engine
    with App(transports={"main": transport}, routes={"*": "main"}) as app:
        app.dispatch(Event("image.created", {"n": 1}))
        app.dispatch(Event("image.created", {"n": 2}), delay=3600)
        app.dispatch(Event("image.created", {"n": 3}), ordering_key="a", urgency="high")
        for _ in range(2):
            app.dispatch(Event("image.created", {"n": 5}), unique="key")
        app.dispatch_many([Event("image.created", {"n": n}) for n in range(3)])
        with Session(engine) as session:
            app.dispatch(Event("image.created", {"n": 4}), session=session)
            app.dispatch(Event("image.created", {"n": 6}), session=session, unique="other")
            session.commit()
    url = engine.url.render_as_string(hide_password=False)
    document = '{"id": "1", "source": "/cam", "specversion": "1.0", "type": "image.created", "partitionkey": "a"}'
    run_script(url, with_values(transport.insert_statement() or "", url, queue="default", event=document))


def work(transport: SqlTransport) -> None:
    """Do all that a worker and the commands of ``relevo`` do."""
    transport.setup(["default"])
    envelopes = [Envelope(id=f"w-{n}", source="shop", name="image.created", body=b"{}") for n in range(6)]
    transport.send(envelopes)
    transport.send([attrs.evolve(each, id=f"k{each.id}", ordering_key="k") for each in envelopes])
    first = transport.receive(["default"], limit=1, lease=0.001, wait=0)
    deliveries: list[Delivery] = []
    while found := transport.receive(["default"], limit=100, lease=60, wait=0):
        deliveries.extend(found)
        transport.extend(found, lease=60)
        transport.checkpoint(found[0], b"{}")
        transport.begin(found[0], Note(by="process"))
        ends: list[Outcome] = [Ack(), Nack(delay=3600), DeadLetter(reason="broken")]
        transport.settle([(each, ends[number % 3]) for number, each in enumerate(found)])
    assert first
    assert deliveries
    refs = [entry.ref for entry in transport.dead_letters(["default"])]
    transport.revive({refs[0]: b""})
    transport.discard(refs[1:])
    transport.stats("default")
    assert not transport.problems(["default"])
    transport.find("w-1")
    transport.find_done("w-1")
    transport.cancel("w-1")
    transport.purge("default")
    transport.appear("worker")
    transport.presence(["worker"])
    transport.announce("worker", b"", ttl=60.0)
    transport.announce("worker", b"", ttl=60.0)
    assert transport.workers() == {"worker": b""}
    for after in (b"first", b"again", b""):
        transport.change_limit("a1", lambda *_, after=after: after, ttl=60.0)
    receipt = transport.lock("drain", holder="me", ttl=60)
    assert receipt
    transport.renew_lock("drain", receipt, ttl=60)
    transport.unlock("drain", receipt)
    for fired, until in ((None, 60), (60, 120)):
        transport.fire([Firing(name="nightly", fired=fired, until=until, envelopes=tuple(envelopes))])
    assert transport.fired(["nightly"]) == {"nightly": 120}
    transport.purge("default")
    for n in range(2):
        transport.send_unique([attrs.evolve(envelopes[0], id=f"u-{n}")], key="key")
        transport.purge("default")
    transport._sweep._cursor = 0
    transport._sweep._delete()
    assert transport.remembered("key") is None
    transport._inbox._sweep._at = 0.0
    transport._inbox._sweep._delete()
    with closing(transport.handling_once("key")) as transaction:
        transaction.commit_step(b"first")
        transaction.commit_step(b"second")
        transaction.commit(b"done")


def deploy(transport: SqlTransport) -> None:
    transport.setup(["default"])
    assert transport.setup(["default"], dry_run=True) == []


USES = {"shop_web": dispatch, "shop_worker": work, "shop_deploy": deploy}


@pytest.mark.parametrize("role", ROLES)
def test_the_granted_rights_are_enough(server: Server, opener: Opener, role: str) -> None:
    if role != "shop_deploy":
        opener(url=server.url)

    USES[role](opener(url=server.user(role, grants(server.engine, role)), setup=False, keep=KEEP))


@pytest.mark.parametrize("role", ROLES)
def test_each_right_is_needed_and_the_error_names_it(server: Server, opener: Opener, role: str) -> None:
    pieces = [piece for grant in grants(server.engine, role) for piece in without(grant)]
    if role != "shop_deploy":
        opener(url=server.url)
    unneeded, unnamed = [], []

    for piece in pieces:
        clear(server, whole=role == "shop_deploy")
        url = server.user(role, [each for each in pieces if each != piece])
        try:
            USES[role](opener(url=url, setup=False, keep=KEEP))
            unneeded.append(piece)
        except ConfigurationError as error:
            if not is_named(piece, str(error)):
                unnamed.append((piece, str(error)))

    assert (unneeded, unnamed) == ([], [])


def is_named(piece: str, error: str) -> bool:
    """Return whether *error* names the right and the thing that *piece* grants."""
    match = re.fullmatch(r"GRANT (\w+).* ON (.*) TO \w+", piece)
    assert match
    right, thing = match.groups()
    # Without USAGE on a schema, the server does not even say which one.
    name = "" if thing.startswith("SCHEMA") else thing.rpartition(".")[2].rpartition(" ")[2].rstrip("*")
    return right in error and name in error


def clear(server: Server, *, whole: bool) -> None:
    """Remove the rows of relevo's tables, or the tables; leave a row that the next worker deletes."""
    engine = sa.create_engine(with_driver(server.url))
    with engine.begin() as connection:
        for table in sa.inspect(connection).get_table_names():
            if whole:
                connection.exec_driver_sql(f"DROP TABLE {table}")
            elif table != "relevo_meta":
                connection.exec_driver_sql(f"DELETE FROM {table}")  # noqa: S608 - relevo's
        if not whole:
            connection.exec_driver_sql("INSERT INTO relevo_worker VALUES ('long ago', 1, 0)")
            connection.exec_driver_sql("INSERT INTO relevo_announcement VALUES ('long ago', '', 0)")
            connection.exec_driver_sql("INSERT INTO relevo_inbox VALUES ('long ago', '', 0)")
            connection.exec_driver_sql("INSERT INTO relevo_unique VALUES ('long ago', 'shop', 'gone', 1)")
    engine.dispose()


@pytest.mark.postgresql
@pytest.mark.parametrize("schema", ["jobs", "my jobs"])
@pytest.mark.parametrize(
    ("call", "right"),
    [
        (lambda transport: transport.receive(["default"], limit=1, lease=60, wait=0), "SELECT, UPDATE on relevo_event"),
        (lambda transport: transport.lock("drain", holder="me", ttl=60), "SELECT, INSERT on relevo_lock"),
    ],
    ids=["receive", "lock"],
)
def test_a_missing_right_on_a_table_in_a_schema_is_named(
    request: pytest.FixtureRequest, opener: Opener, call: Callable[[SqlTransport], object], right: str, schema: str
) -> None:
    url: str = request.getfixturevalue("postgresql_database")
    opener(url=url, schema=schema).send([Envelope(id="id-1", source="shop", name="image.created", body=b"")])
    server = Server("postgresql", url, execute_on_postgresql, [])
    grants = (f'GRANT USAGE ON SCHEMA "{schema}" TO web', f'GRANT SELECT ON ALL TABLES IN SCHEMA "{schema}" TO web')
    transport = opener(url=server.user("web", list(grants)), schema=schema, setup=False)

    with pytest.raises(ConfigurationError, match=f"permission denied for table relevo_.*; grant this user {right}$"):
        call(transport)

    server.drop_users()


@pytest.mark.postgresql
def test_a_schema_that_may_not_be_created_is_named_with_the_remedy(
    request: pytest.FixtureRequest, opener: Opener
) -> None:
    url: str = request.getfixturevalue("postgresql_database")
    server = Server("postgresql", url, execute_on_postgresql, [])
    transport = opener(url=server.user("deploy", []), schema="jobs", setup=False)

    with pytest.raises(ConfigurationError, match=r"permission denied for database .*; grant this user CREATE on the"):
        transport.setup([])

    server.drop_users()
