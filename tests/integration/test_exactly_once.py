"""Transactional listeners whose process is killed at each moment of their transaction: each row is there once."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from _pytest.mark import ParameterSet

import relevo
from relevo_sql import database_url

PATIENCE = 120

MOMENTS = ("in the listener", "before the commit", "at the commit", "after the commit", "before the ack")
LATE = ("late before the commit", "late after the commit")
"""Moments at which the listener exceeds its time limit, for which its process is killed."""

PLAIN = """
@relevo.listener("order.paid", transactional=True, time_limit="2s")
def pay(event, call):
    session, connection = call.session, call.session.connection()
    session.execute(sa.text(f"INSERT INTO shipped VALUES ({event['number']}0)"))
    call.dispatch("order.shipped", {"number": event["number"]})
    prepare(event, session, connection, time.sleep)
"""

STEPS = """
def ship(event, call, part):
    session, connection = call.session, call.session.connection()
    session.execute(sa.text(f"INSERT INTO shipped VALUES ({event['number']}{part})"))
    if part == 2:
        call.dispatch("order.shipped", {"number": event["number"]})
        prepare(event, session, connection, time.sleep)


@relevo.listener("order.paid", transactional=True, time_limit="2s")
def pay(event, call):
    call.step("first", ship, event, call, 0)
    for row in call.cursor("rows", range(1, 4)):
        ship(event, call, row)
    ship(event, call, 4)
"""

ASYNC = """
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.util import await_only

sessions = async_sessionmaker(create_async_engine(os.environ["SHOP_DATABASE"]))


@relevo.listener("order.paid", transactional=sessions, time_limit="2s")
async def pay(event, call):
    connection = await call.session.connection()
    await call.session.execute(sa.text(f"INSERT INTO shipped VALUES ({event['number']}0)"))
    await call.dispatch("order.shipped", {"number": event["number"]})
    sleep = lambda seconds: await_only(asyncio.sleep(seconds))
    prepare(event, call.session.sync_session, connection.sync_connection, sleep)
"""

ASYNC_STEPS = """
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.util import await_only

sessions = async_sessionmaker(create_async_engine(os.environ["SHOP_DATABASE"]), expire_on_commit=False)


async def ship(event, call, part):
    connection = await call.session.connection()
    await call.session.execute(sa.text(f"INSERT INTO shipped VALUES ({event['number']}{part})"))
    if part == 2:
        await call.dispatch("order.shipped", {"number": event["number"]})
        sleep = lambda seconds: await_only(asyncio.sleep(seconds))
        prepare(event, call.session.sync_session, connection.sync_connection, sleep)


@relevo.listener("order.paid", transactional=sessions, time_limit="2s")
async def pay(event, call):
    await call.step("first", ship, event, call, 0)
    async for row in call.cursor("rows", range(1, 4)):
        await ship(event, call, row)
    await ship(event, call, 4)
"""

PARTS = {PLAIN: 1, ASYNC: 1, STEPS: 5, ASYNC_STEPS: 5}
"""How many rows each writes for an event, with the digit of the part behind the number of the event."""

SHOP = '''
import asyncio
import os
import signal
import time

import relevo
import sqlalchemy as sa


def kill_once(number):
    """End this process, unless it was done before for this event."""
    try:
        os.close(os.open(f"killed-{number}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def sleep_once(number, sleep):
    """Exceed the time limit, unless it was done before for this event."""
    try:
        os.close(os.open(f"killed-{number}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    sleep(600)


@relevo.listener("order.paid", priority=1)
def first(event):
    """Have some progress, which is stored before the next listener is called."""


def prepare(event, session, connection, sleep):
    """Do what has to happen in this event, or have it done later."""
    number, moment = event["number"], event["moment"]
    if moment == "in the listener":
        kill_once(number)
    elif moment == "before the commit":
        sa.event.listen(session, "before_commit", lambda _: kill_once(number))
    elif moment == "at the commit":
        sa.event.listen(connection, "commit", lambda _: kill_once(number))
    elif moment == "after the commit":
        sa.event.listen(session, "after_commit", lambda _: kill_once(number))
    elif moment == "late before the commit":
        sa.event.listen(session, "before_commit", lambda _: sleep_once(number, sleep))
    elif moment == "late after the commit":
        sa.event.listen(session, "after_commit", lambda _: sleep_once(number, sleep))


PAY


@relevo.listener("order.paid", priority=-1)
def end(event):
    if event["moment"] == "before the ack":
        kill_once(event["number"])


@relevo.listener("order.shipped")
def deliver(event):
    with open("delivered", "a") as file:
        file.write(f"{event['number']}\\n")
'''


CASES = {
    "plain-inline": (PLAIN, "inline"),
    "plain-process": (PLAIN, "process"),
    "async-process": (ASYNC, "process"),
    "async-loop": (ASYNC, "async"),
    "steps-inline": (STEPS, "inline"),
    "steps-process": (STEPS, "process"),
    "steps-loop": (ASYNC_STEPS, "async"),
}
CHOSEN = {
    "sqlite": {"plain-inline", "steps-loop"},
    "postgresql": {"async-loop"},
    "mariadb": {"steps-process"},
    "amqp": {"plain-inline"},
}
"""Each listener, each execution and each store at least once; the other pairs are left to ``make test-all``."""


def cases() -> Iterator[ParameterSet]:
    """Yield the transports, each with listeners and where they run."""
    for name, case in CASES.items():
        for store, chosen in CHOSEN.items():
            marks = [] if name in chosen else [pytest.mark.soak]
            if store != "sqlite":
                marks += [getattr(pytest.mark, store), pytest.mark.slow("about a server, not Python")]
            yield pytest.param(store, *case, marks=marks, id=f"{store}-{name}")


@pytest.fixture(name="main")
def _main(request: pytest.FixtureRequest) -> str:
    """Return the transport of the events: a database, or RabbitMQ with an inbox in one."""
    name: str = request.param
    if name == "amqp":
        options = f'prefix = "once-{uuid.uuid4().hex[:8]}", levels = 8, settle_in = 0, outbox = "sqlite:///shop.db"'
        return f'{{ url = "{request.getfixturevalue("rabbitmq_url")}", {options} }}'
    return f'"{"sqlite:///shop.db" if name == "sqlite" else request.getfixturevalue(f"{name}_database")}"'


@pytest.mark.lengthy("starts processes and kills them")
@pytest.mark.parametrize(("main", "listener", "execution"), list(cases()), indirect=["main"])
def test_each_row_is_there_once_whenever_the_process_is_killed(
    tmp_path: Path,
    main: str,
    listener: str,
    execution: str,
    monkeypatch: pytest.MonkeyPatch,
    forget: Callable[[relevo.App], None],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.py").write_text(SHOP.replace("PAY", listener))
    (tmp_path / "relevo.toml").write_text(
        f'source = "shop"\nlisteners = ["shop"]\nlease = "1s"\nexecution = "{execution}"\nconcurrency = 1\n\n'
        f"[transports]\nmain = {main}\n"
    )
    with relevo.App.from_config("relevo.toml") as app:
        app.setup()
        engine = sa.create_engine(database_url(app))
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE shipped (number INTEGER)"))
        if listener in {ASYNC, ASYNC_STEPS}:
            driver = usable(_ASYNC_DRIVERS[engine.dialect.name])
            monkeypatch.setenv("SHOP_DATABASE", engine.url.set(drivername=driver).render_as_string(hide_password=False))
        moments = MOMENTS if execution == "inline" else (*MOMENTS, *LATE)
        for number, moment in enumerate(moments):
            app.dispatch("order.paid", {"number": number, "moment": moment})
        transport = app.transport()

        codes = list(_drains(tmp_path))

        with engine.connect() as connection:
            shipped = sorted(connection.scalars(sa.text("SELECT number FROM shipped")))
        dead = transport.dead_letters(["default"])
        left = transport.stats("default")
        engine.dispose()
        forget(app)
    killed = [code for code in codes if code < 0]
    assert len(killed) == (0 if execution == "process" else len(MOMENTS))
    assert len(list(tmp_path.glob("killed-*"))) == len(moments)
    assert shipped == [int(f"{number}{part}") for number in range(len(moments)) for part in range(PARTS[listener])]
    assert sorted((tmp_path / "delivered").read_text().split()) == [str(number) for number in range(len(moments))]
    assert (list(dead), left.ready, left.leased or 0, left.scheduled) == ([], 0, 0, 0)


_ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg", "mysql": "mysql+asyncmy"}


def usable(driver: str) -> str:
    """Return *driver*, with its dialect; skip the test if it is not installed."""
    pytest.importorskip(driver.partition("+")[2])
    return driver


def _drains(folder: Path) -> Iterator[int]:
    """Drain until a process ends by itself, at most once more than there are moments; yield each exit code."""
    for _ in range(len(MOMENTS) + 1):
        code = _drain(folder)
        yield code
        if code == 0:
            return


def _drain(folder: Path) -> int:
    """Drain in a process of its own; return its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "relevo", "drain", "--settle", "20s"],
        cwd=folder,
        env=dict(os.environ),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode
