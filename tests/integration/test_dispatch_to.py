"""Dispatches to chosen targets on every store: in a session, by an outbox, signed, and run in child processes."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import relevo

KEY = "ICl1y4JgHHCMPzFuR0eDBVcNmsBqKtd_4-wYpJw2oT8"
PATIENCE = 120.0

LISTENERS = """
import os
import relevo

def log(name, event, call):
    with open(os.environ["SHOP_LOG"], "a") as file:
        file.write(f'{event["number"]} {name} {call.queue}\\n')

@relevo.listener("image.created")
def resize(event, call):
    log("resize", event, call)
    if event["number"] == 2 and call.attempt == 1:
        raise relevo.RetryLater(0.1)

@relevo.listener("image.created", queue="feed")
def show(event, call):
    log("show", event, call)
"""

PROGRAM = """
import sys
import relevo
import sqlalchemy as sa
from relevo_sql import database_url

app = relevo.App.from_config("relevo.toml")
app.dispatch("image.created", {"number": 0})
app.dispatch("image.created", {"number": 1}, to=["main/fast", "main/feed"])
engine = sa.create_engine(database_url(app))
for number, commits in ((2, True), (3, False)):
    with engine.connect() as connection:
        app.dispatch("image.created", {"number": number}, to=["main/fast", "main/feed"], session=connection)
        connection.commit() if commits else connection.rollback()
engine.dispose()
app.close()
"""
"""Dispatches in a process that has not imported the listeners."""


def _server(name: str) -> object:
    return pytest.param(name, marks=[pytest.mark.slow("about a server, not Python"), getattr(pytest.mark, name)])


@pytest.fixture(name="main", params=["sqlite", *map(_server, ("amqp", "postgresql", "mariadb"))])
def _main(request: pytest.FixtureRequest) -> str:
    """Return the address and the options of the transport; RabbitMQ has an outbox."""
    if request.param == "sqlite":
        return 'url = "sqlite:///shop.db"'
    if request.param == "amqp":
        options = f'prefix = "to-{uuid.uuid4().hex[:8]}", levels = 8, settle_in = 0, outbox = "sqlite:///box.db"'
        return f'url = "{request.getfixturevalue("rabbitmq_url")}", {options}'
    return f'url = "{request.getfixturevalue(f"{request.param}_database")}"'


@pytest.fixture(name="shop")
def _shop(
    tmp_path: Path, main: str, monkeypatch: pytest.MonkeyPatch, forget: Callable[[relevo.App], None]
) -> Iterator[relevo.App]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop_listeners.py").write_text(LISTENERS)
    (tmp_path / "relevo.toml").write_text(
        f"""
source = "shop"
listeners = ["shop_listeners"]
signing = "{KEY}"
transports.main = {{ {main} }}

[routes]
"image.*" = ["main/media", "main/feed"]
"fast.*" = "main/fast"
"""
    )
    with relevo.App.from_config("relevo.toml", environ={}) as app:
        app.setup()
        yield app
        forget(app)


@pytest.mark.parametrize("execution", ["inline", "process"])
def test_each_listener_runs_once_where_the_dispatch_sent_the_event(
    shop: relevo.App, tmp_path: Path, execution: str
) -> None:
    log = tmp_path / "log"
    environ = {**os.environ, "SHOP_LOG": str(log), "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}

    subprocess.run([sys.executable, "-c", PROGRAM], env=environ, check=True, timeout=PATIENCE)
    drain = [sys.executable, "-m", "relevo", "drain", "--settle", "20s", "--execution", execution]
    subprocess.run(drain, env=environ, check=True, timeout=PATIENCE)

    ran = sorted(log.read_text().splitlines())
    assert ran == [
        "0 resize media",
        "0 show feed",
        "1 resize fast",
        "1 show feed",
        "2 resize fast",
        "2 resize fast",
        "2 show feed",
    ]
    assert list(shop.transport().dead_letters(["media", "feed", "fast"], limit=10)) == []


def test_a_listener_that_the_dispatching_process_has_not_imported_makes_a_dead_letter(
    shop: relevo.App, tmp_path: Path
) -> None:
    environ = {**os.environ, "SHOP_LOG": str(tmp_path / "log"), "PYTHONPATH": os.pathsep.join(sys.path)}
    environ["RELEVO_PATIENCE"] = "0s"
    shop.dispatch("image.created", {"number": 9}, to="main/fast")

    drain = [sys.executable, "-m", "relevo", "drain", "--settle", "5s"]
    done = subprocess.run(drain, env=environ, check=False, timeout=PATIENCE, capture_output=True)

    assert done.returncode == 1
    [dead] = shop.transport().dead_letters(["fast"], limit=10)
    assert dead.reason == "listener-bypassed"
    assert 'shop_listeners:show runs only in the queue "feed"' in dead.error
    assert not (tmp_path / "log").exists()
