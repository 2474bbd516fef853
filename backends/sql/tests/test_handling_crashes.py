"""Transactional listeners whose process is killed at each moment of their transaction: each row is there once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

import relevo

PATIENCE = 120

MOMENTS = ("in the listener", "before the commit", "at the commit", "after the commit", "before the ack")

SHOP = '''
import os
import signal

import relevo
import sqlalchemy as sa


def kill_once(number):
    """End this process, unless it was done before for this event."""
    try:
        os.close(os.open(f"killed-{number}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


@relevo.listener("order.paid", transactional=True)
def pay(event, call):
    number, moment = event["number"], event["moment"]
    session, connection = call.session, call.session.connection()
    session.execute(sa.text(f"INSERT INTO shipped VALUES ({number})"))
    call.dispatch("order.shipped", {"number": number})
    if moment == "in the listener":
        kill_once(number)
    elif moment == "before the commit":
        sa.event.listen(session, "before_commit", lambda _: kill_once(number))
    elif moment == "at the commit":
        sa.event.listen(connection, "commit", lambda _: kill_once(number))
    elif moment == "after the commit":
        sa.event.listen(session, "after_commit", lambda _: kill_once(number))


@relevo.listener("order.paid", priority=-1)
def end(event):
    if event["moment"] == "before the ack":
        kill_once(event["number"])


@relevo.listener("order.shipped")
def deliver(event):
    with open("delivered", "a") as file:
        file.write(f"{event['number']}\\n")
'''


@pytest.fixture(
    name="url",
    params=[
        "sqlite",
        *(
            pytest.param(name, marks=[getattr(pytest.mark, name), pytest.mark.slow("about a server, not Python")])
            for name in ("postgresql", "mariadb")
        ),
    ],
)
def _url(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return "sqlite:///shop.db" if name == "sqlite" else request.getfixturevalue(f"{name}_database")


@pytest.mark.lengthy("starts processes and kills them")
@pytest.mark.parametrize("execution", ["inline", "process"])
def test_each_row_is_there_once_whenever_the_process_is_killed(
    tmp_path: Path, url: str, execution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "relevo.toml").write_text(
        f'source = "shop"\nlisteners = ["shop"]\nlease = "1s"\nexecution = "{execution}"\nconcurrency = 1\n\n'
        f'[transports]\nmain = "{url}"\n'
    )
    with relevo.App.from_config("relevo.toml") as app:
        app.setup()
        engine = sa.create_engine(app.transport().url)  # type: ignore[attr-defined]  # it is an SqlTransport
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE shipped (number INTEGER)"))
        for number, moment in enumerate(MOMENTS):
            app.dispatch("order.paid", {"number": number, "moment": moment})
        transport = app.transport()

        codes = [_drain(tmp_path) for _ in range(len(MOMENTS) + 1)]

        with engine.connect() as connection:
            shipped = sorted(connection.scalars(sa.text("SELECT number FROM shipped")))
        dead = transport.dead_letters(["default"])
        left = transport.stats("default")
        engine.dispose()
    killed = [code for code in codes if code < 0]
    assert len(killed) == (len(MOMENTS) if execution == "inline" else 0)
    assert len(list(tmp_path.glob("killed-*"))) == len(MOMENTS)
    assert shipped == [0, 1, 2, 3, 4]
    assert sorted((tmp_path / "delivered").read_text().split()) == ["0", "1", "2", "3", "4"]
    assert (dead, left.ready, left.leased, left.scheduled) == ([], 0, 0, 0)


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
