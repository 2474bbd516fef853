"""
Effects happen exactly once, although everything is killed: from a table over RabbitMQ to a table.

    make soak

Orders are written with their events in one transaction on PostgreSQL. A relay moves the events from the outbox to
RabbitMQ, and workers write a shipment for each order, with an inbox. Meanwhile dispatchers, relays, workers, the broker
and the database are killed, as often as ``RELEVO_SOAK_KILLS`` says. In the end each order has one shipment.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import sqlalchemy as sa

import rabbitmq_node
import relevo
from rabbitmq import refusal
from relevo.errors import RelevoError
from restarting import Server, restarting

pytestmark = pytest.mark.soak

KILLS = int(os.environ.get("RELEVO_SOAK_KILLS", "2000"))

SERVERS_EVERY = 50
"""Of so many kills, one is that of the database and one that of the broker, which take seconds to start."""

PATIENCE = 600.0
"""Seconds for all that was dispatched to be handled in the end."""

SHOP = """
import relevo
import sqlalchemy as sa


@relevo.listener("order.paid", transactional=True)
def ship(event, call):
    call.session.execute(sa.text("INSERT INTO shipment (order_id) VALUES (:order)"), {"order": event["order"]})
"""

DISPATCH = """
import time

import relevo
import relevo_sql
import sqlalchemy as sa
from sqlalchemy.orm import Session

app = relevo.App.from_config("relevo.toml")
engine = sa.create_engine(relevo_sql.database_url(app))
while True:
    try:
        with Session(engine) as session:
            order = session.scalar(sa.text("INSERT INTO orders DEFAULT VALUES RETURNING id"))
            app.dispatch("order.paid", {"order": order}, session=session)
            session.commit()
    except (relevo.RelevoError, sa.exc.SQLAlchemyError) as error:  # the database is being killed
        print(error, flush=True)
        time.sleep(0.05)
    time.sleep(0.005)
"""

CONFIGURATION = """
source = "shop"
listeners = ["shop"]
lease = "5s"

[transports]
main = {{ url = "{broker}", outbox = "{database}", levels = 8, settle_in = 0 }}

[routes]
"*" = "main"
"""


@attrs.define
class Program:
    """A process that is started again whenever it was killed."""

    words: tuple[str, ...]
    folder: Path
    kills: int = 0
    since: float = 0.0
    """When it was started, in monotonic seconds."""

    _process: subprocess.Popen[bytes] = attrs.field(init=False)

    def start(self) -> None:
        """Start it."""
        self.since = time.monotonic()
        with (self.folder / "output.log").open("ab") as log:
            self._process = subprocess.Popen([sys.executable, *self.words], cwd=self.folder, stdout=log, stderr=log)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it, at once or by another signal."""
        self._process.send_signal(how)
        self._process.wait(PATIENCE)
        self.kills += 1


@pytest.fixture(name="node")
def _node() -> Iterator[rabbitmq_node.PrivateNode]:
    launcher = rabbitmq_node.launcher()
    if launcher is None:
        pytest.skip("RabbitMQ is not installed")
    with rabbitmq_node.PrivateNode(launcher) as node:
        node.wait_until(lambda: not refusal(node.url))
        yield node


@pytest.fixture(name="database")
def _database() -> Iterator[Server]:
    with restarting("postgresql") as server:
        yield server


def test_each_order_has_one_shipment_whatever_is_killed(
    tmp_path: Path, node: rabbitmq_node.PrivateNode, database: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    url = database.new_database()
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "dispatch.py").write_text(DISPATCH)
    (tmp_path / "relevo.toml").write_text(CONFIGURATION.format(broker=node.url, database=url))
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"), poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE orders (id SERIAL PRIMARY KEY)")
        connection.exec_driver_sql("CREATE TABLE shipment (order_id INTEGER NOT NULL)")
    with relevo.App.from_config(tmp_path / "relevo.toml", environ={}) as app:
        app.setup()
        dispatcher = Program(("dispatch.py",), tmp_path)
        relay = Program(("-m", "relevo", "relay"), tmp_path)
        workers = [Program(("-m", "relevo", "worker"), tmp_path) for _ in range(2)]
        programs = [dispatcher, relay, *workers]
        for program in programs:
            program.start()
        try:
            servers = _kill_all(programs, node, database)
            dispatcher.kill()
            _wait_until_handled(app, engine)
        finally:
            for program in (relay, *workers):
                program.kill(signal.SIGTERM)
    orders, missing, double, invented = _counted(engine)
    engine.dispose()
    with capsys.disabled():
        print(
            f"\n{orders} orders, {sum(each.kills for each in programs) - len(programs) + servers} kills, "
            f"{servers} of them of the database and the broker: {missing} shipments missing, {double} double"
        )
    assert orders > KILLS / 10
    assert (missing, double, invented) == (0, 0, 0)


def _kill_all(programs: list[Program], node: rabbitmq_node.PrivateNode, database: Server) -> int:
    """Kill *programs* in turn by chance, and the servers now and then; return how often a server was killed."""
    chance = random.Random(KILLS)  # noqa: S311 - no secret
    servers = 0
    for number in range(1, KILLS + 1):
        time.sleep(chance.uniform(0.0, 1.0))
        if number % SERVERS_EVERY == 0:
            database.restart()
            servers += 1
        elif number % SERVERS_EVERY == SERVERS_EVERY // 2:
            node.kill()
            node.start()
            node.wait_until(lambda: not refusal(node.url))
            servers += 1
        else:
            # The older ones more often: one that is killed while it starts proves little.
            now = time.monotonic()
            (program,) = chance.choices(programs, weights=[(now - each.since) ** 2 for each in programs])
            program.kill()
            program.start()
    return servers


def _wait_until_handled(app: relevo.App, engine: sa.Engine) -> None:
    """Return when each order has a shipment; events that became dead letters by the kills are revived."""
    deadline = time.monotonic() + PATIENCE
    while _counted(engine)[1] and time.monotonic() < deadline:
        for transport in (app.transports["main"], app.outboxes["main"]):
            queues = ["default", "outbox/main"]
            try:
                transport.revive({entry.ref: b"" for entry in transport.dead_letters(queues)})
            except RelevoError as error:
                print(error)
        time.sleep(1.0)


def _counted(engine: sa.Engine) -> tuple[int, int, int, int]:
    """Return the numbers of orders, of missing shipments, of double ones, and of those without an order."""
    queries = (
        "SELECT count(*) FROM orders",
        "SELECT count(*) FROM orders WHERE id NOT IN (SELECT order_id FROM shipment)",
        "SELECT count(*) - count(DISTINCT order_id) FROM shipment",
        "SELECT count(*) FROM shipment WHERE order_id NOT IN (SELECT id FROM orders)",
    )
    with engine.connect() as connection:
        found = [int(connection.exec_driver_sql(query).scalar() or 0) for query in queries]
    return found[0], found[1], found[2], found[3]
