"""RabbitMQ with a database that keeps something for it: the locks and announcements of its workers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import relevo

PATIENCE = 60.0

SLOW = """
import pathlib, time
import relevo

@relevo.listener("image.created", id="slow")
def slow(event):
    pathlib.Path("begun").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
"""


@attrs.frozen
class Helped:
    """A folder with a configuration, and its application."""

    folder: Path
    app: relevo.App

    def start(self, command: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "relevo", *command.split()],
            cwd=self.folder,
            env={"PYTHONPATH": str(self.folder), "PATH": "/usr/bin:/bin", **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command: str, **environ: str) -> tuple[int, str, str]:
        process = self.start(command, **environ)
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err


@pytest.fixture(
    name="database",
    params=[
        "sqlite",
        pytest.param("postgresql", marks=[pytest.mark.postgresql, pytest.mark.slow("about a server, not Python")]),
    ],
)
def _database(request: pytest.FixtureRequest) -> str:
    return "sqlite:///shop.db" if request.param == "sqlite" else str(request.getfixturevalue("postgresql_database"))


Configure = Callable[[str], Helped]


@pytest.fixture(name="configured")
def _configured(
    rabbitmq_url: str, database: str, tmp_path: Path, forget: Callable[[relevo.App], None]
) -> Iterator[Configure]:
    made: list[relevo.App] = []

    def configured(keys: str) -> Helped:
        options = f'prefix = "helped-{uuid.uuid4().hex[:8]}", levels = 4, settle_in = 0'
        (tmp_path / "relevo.toml").write_text(
            f'source = "shop"\nlisteners = ["shop_listeners"]\n\n[transports]\ndb = "{database}"\n'
            f'main = {{ url = "{rabbitmq_url}", {options}, {keys} }}\n'
        )
        made.append(relevo.App.from_config(tmp_path / "relevo.toml", environ={}))
        made[0].setup()
        return Helped(tmp_path, made[0])

    yield configured
    for app in made:
        forget(app)
        app.close()


def until(condition: Callable[[], Any]) -> Any:
    """Return what *condition* returns once that is true."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come true")


@pytest.mark.lengthy("waits for an announcement")
def test_one_host_drains_rabbitmq_at_a_time_and_the_status_shows_its_worker(configured: Configure) -> None:
    helped = configured('coordinator = "db"')
    (helped.folder / "shop_listeners.py").write_text(SLOW)
    hosts = [helped.folder / "one", helped.folder / "two"]
    for each in hosts:
        each.mkdir()
    helped.app.dispatch("image.created")

    draining = helped.start("drain", RELEVO_LOCK=str(hosts[0]))
    try:
        until((helped.folder / "begun").exists)
        elsewhere, _, _ = helped.run("drain", RELEVO_LOCK=str(hosts[1]))
        workers = until(lambda: json.loads(helped.run("status --json")[1])[-1]["workers"])
    finally:
        (helped.folder / "go").touch()
        _, err = draining.communicate(timeout=PATIENCE)
    afterwards, _, _ = helped.run("drain", RELEVO_LOCK=str(hosts[1]))

    assert (draining.returncode, err) == (0, "")
    assert (elsewhere, afterwards) == (75, 0)
    assert [(each["holds"], each["running"]) for each in workers] == [(1, ["slow"])]
    assert workers[0]["worker"].endswith(f":{draining.pid}")
    assert json.loads(helped.run("status --json")[1])[-1]["workers"] == []
