"""Schedules of workers that are killed while they fire: no tick is lost, and none fires twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import relevo

PATIENCE = 240
WORKERS = 2
TICKS = 30
"""The fewest ticks that are looked at."""

START = 1_767_225_600

SHOP = '''
import os
import signal
import time

import relevo
import relevo._app.schedules
import relevo._runner.schedules
from relevo._dispatch.sender import Sender
from relevo._runner.host_schedules import HostScheduleStore
from relevo_sql import SqlTransport
from relevo_sql._schedules import Schedules

SPEED = 300.0  # a minute takes a fifth of a second
relevo._runner.schedules._LONGEST = relevo._runner.schedules._BUSY = 0.02  # of real time
relevo._app.schedules._TTL = 5 * SPEED  # more than a busy machine takes


class Fast:
    """A clock that is the same in all processes of the test."""

    def now(self):
        return START + self.monotonic()

    def monotonic(self):
        return (time.time() - float(os.environ["BEGAN"])) * SPEED

    def sleep(self, seconds):
        time.sleep(seconds / SPEED)


def kill_once(moment):
    """End this process, unless it was done before at this moment."""
    try:
        os.close(os.open(f"killed {moment}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def killing(cls, name, before, after, is_meant):
    """Kill the process before and after the method *name* of *cls*."""
    call = getattr(cls, name)

    def killed(self, *args, **kwargs):
        if before and is_meant(*args):
            kill_once(before)
        result = call(self, *args, **kwargs)
        if after and is_meant(*args):
            kill_once(after)
        return result

    setattr(cls, name, killed)


killing(SqlTransport, "fire", "before the transaction", "after the commit", lambda firings: firings[0].fired)
killing(Schedules, "_advance", None, "in the transaction", lambda connection, firing, receipt: firing.fired)
killing(HostScheduleStore, "fire", "before the transaction", "after the commit", lambda firings: firings[0].fired)
killing(relevo._runner.host_schedules, "_advance", None, "in the transaction", lambda firing: firing.fired)
killing(Sender, "send", "before it is sent", "after it was sent", lambda ready, session: True)

app = relevo.App.from_config(clock=Fast())


@app.listener("nothing.done", queue="idle")
def do_nothing(event): ...


app.schedule("* * * * *", "minute.passed", missed="all")
'''.replace("START", str(START))

STORED = {"before the transaction", "in the transaction", "after the commit"}
SENT = {"before it is sent", "after it was sent"}
BETWEEN = 3
"""How often a worker is killed after it has sent an event to another store, and before it has stored that."""


@pytest.fixture(
    name="main",
    params=[
        "sqlite",
        *(
            pytest.param(
                name,
                marks=[getattr(pytest.mark, name.split()[0]), pytest.mark.slow("about a server, not Python"), *more],
            )
            for name, *more in (
                ("postgresql",),
                ("mariadb", pytest.mark.soak),
                ("amqp",),
                ("amqp with a coordinator",),
                ("amqp with an outbox", pytest.mark.soak),
            )
        ),
    ],
)
def _main(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name.startswith("amqp"):
        options = f'prefix = "ticks-{uuid.uuid4().hex[:8]}", levels = 8, settle_in = 0'
        if (helper := name.rpartition(" ")[2]) != "amqp":
            options += f', {helper} = "sqlite:///shop.db"'
        return f'{{ url = "{request.getfixturevalue("rabbitmq_url")}", {options} }}'
    return f'"{"sqlite:///shop.db" if name == "sqlite" else request.getfixturevalue(f"{name}_database")}"'


@pytest.mark.lengthy("starts processes and kills them")
def test_each_tick_fires_once_whenever_a_worker_is_killed(
    tmp_path: Path, main: str, monkeypatch: pytest.MonkeyPatch, forget: Callable[[relevo.App], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BEGAN", str(time.time()))
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "relevo.toml").write_text(
        f'source = "shop"\napp = "shop:app"\nlock = "."\n[transports]\nmain = {main}\n'
        '[routes]\n"nothing.*" = "main/idle"\n"*" = "main/ticks"\n'
    )
    is_apart = "amqp" in main and "outbox" not in main
    moments = STORED | (SENT if is_apart else set())
    with relevo.App.from_config("relevo.toml") as app, ExitStack() as last:
        app.setup()
        last.callback(forget, app)
        fired = Counter[int]()
        with ExitStack() as stack:
            workers = [_worker(tmp_path, stack) for _ in range(WORKERS)]
            deadline = time.monotonic() + PATIENCE
            while len(fired) < TICKS or {each.removeprefix("killed ") for each in _killed(tmp_path)} < moments:
                assert time.monotonic() < deadline, (fired, _killed(tmp_path))
                for index, worker in enumerate(workers):
                    if (code := worker.poll()) is not None:
                        assert code == -signal.SIGKILL, _errors(tmp_path)
                        workers[index] = _worker(tmp_path, stack)
                fired.update(_taken(app))
            for worker in workers:
                worker.terminate()
            codes = [worker.wait(PATIENCE) for worker in workers]
        while taken := list(_taken(app)):
            fired.update(taken)

    assert set(codes) <= {0, -signal.SIGKILL, -signal.SIGTERM}, _errors(tmp_path)
    assert sorted(fired) == [*range(min(fired), max(fired) + 60, 60)]
    if "outbox" not in main:  # a relay whose process is killed moves an event again
        assert sum(fired.values()) - len(fired) <= (BETWEEN if is_apart else 0)


def _worker(folder: Path, stack: ExitStack) -> subprocess.Popen[bytes]:
    """Start a worker that fires the schedules, and leaves their events to the test."""
    with (folder / "errors").open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "relevo", "worker", "-q", "idle"],
            cwd=folder,
            env={**os.environ},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    stack.callback(process.kill)
    return process


def _taken(app: relevo.App) -> Iterator[int]:
    """Handle the events of ticks, so that a second one would be no duplicate; return the ticks."""
    if (relay := app.relay("main", relevo.RunOptions(until_empty=True))) is not None:
        relay.run()
    transport = app.transports["main"]
    held = transport.receive(["ticks"], limit=100, lease=60, wait=0.1)
    transport.settle([(each, relevo.Ack()) for each in held])
    for each in held:
        assert isinstance(each.envelope, relevo.Envelope)
        yield int(each.envelope.id.replace("-", "")[:12], 16) // 1000


def _killed(folder: Path) -> set[str]:
    return {each.name for each in folder.glob("killed *")}


def _errors(folder: Path) -> str:
    return (folder / "errors").read_text()[-3000:]
