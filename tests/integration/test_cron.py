"""Cron, the system's own daemon, runs what ``relevo unit cron`` says: every minute, for two minutes."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from pathlib import Path

import attrs
import pytest

import cron_daemon
import server_starter
from database_server import DatabaseServer

PATIENCE = 300.0

LISTENERS = """
import pathlib, time
import relevo

@relevo.listener("image.created")
def make(event):
    here = pathlib.Path(__file__).parent
    with (here / "calls").open("a") as calls:
        print(event["number"], file=calls)
    if event.get("bad"):
        raise relevo.GiveUp("a corrupt file")
    while event.get("slow") and not (here / "go").exists():
        time.sleep(0.05)
"""

CONFIGURATION = """
source = "{source}"
listeners = ["shop_listeners"]
lease = "5s"
transports.main = "{database}"
"""


@attrs.frozen
class Shop:
    """An application in a folder of its own."""

    folder: Path
    cron: cron_daemon.Cron

    @property
    def source(self) -> str:
        return self.folder.name.partition(" ")[0]

    def run(self, *words: str) -> str:
        done = self.cron.run(sys.executable, "-m", "relevo", *words, cwd=self.folder)
        told = done.stderr.splitlines()
        if self.folder.name.startswith("deploy") and told:  # status says that a deploy holds its events
            assert told.pop(0).startswith("relevo: a deploy is in progress on this host since ")
        assert (done.returncode, told) == (0, [])
        return done.stdout

    def dispatch(self, **data: object) -> None:
        self.run("dispatch", "image.created", json.dumps(data))

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().split() if path.exists() else []

    def left(self) -> dict[str, int]:
        (row,) = json.loads(self.run("status", "--json"))
        return {key: row[key] for key in ("ready", "leased", "scheduled", "dead") if row[key]}

    def ticks(self, kind: str) -> int:
        """Return how many ticks cron has begun (``CMD``) or seen the end of (``END``)."""
        return sum(f" {kind} " in line and self.names(line) for line in list(self.cron.log))

    def mails(self) -> list[str]:
        return [mail.get_content() for mail in self.cron.mails() if self.names(str(mail["Subject"]))]

    def names(self, text: str) -> bool:
        """Return whether the command in *text* is the one of this shop; in it the shell's quotes are in the path."""
        return re.search(rf"/{self.source}[^/]*/relevo\.toml", text) is not None

    def process(self) -> int:
        """Return the id of the process that drains now, once the tick that found it at work has gone."""
        found: list[int] = []

        def is_alone() -> bool:
            found[:] = self._draining()
            return len(found) == 1

        until(is_alone)
        return found[0]

    def _draining(self) -> list[int]:
        return [
            process
            for process, line in _processes().items()
            if line.startswith(sys.executable.encode()) and os.fsencode(self.folder) in line and b"\0drain\0" in line
        ]


def _processes() -> dict[int, bytes]:
    """Return the command line of each process by its id."""
    lines = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            lines[int(path.parent.name)] = path.read_bytes()
    return lines


@pytest.fixture(name="cron")
def _cron() -> Iterator[cron_daemon.Cron]:
    try:
        with cron_daemon.running() as cron:
            yield cron
    except server_starter.NotFoundError as error:
        if server_starter.in_ci():
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


# Cron is the same everywhere; what keeps the ticks apart, and what a killed one leaves, is not.
DATABASES = [
    pytest.param("sqlite"),
    *(pytest.param(name, marks=[getattr(pytest.mark, name), pytest.mark.soak]) for name in ("postgresql", "mariadb")),
]


@pytest.fixture(name="database", params=DATABASES)
def _database(request: pytest.FixtureRequest) -> Callable[[], AbstractContextManager[str]]:
    """Return what makes a new database, and gives its URL."""
    if request.param == "sqlite":
        return lambda: nullcontext("sqlite:///shop.db")
    server: DatabaseServer = request.getfixturevalue(f"{request.param}_databases")
    return server.fresh_database


@pytest.fixture(name="shop")
def _shop(
    disk_path: Path, cron: cron_daemon.Cron, database: Callable[[], AbstractContextManager[str]]
) -> Iterator[Callable[[str], Shop]]:
    """Open a shop in a folder of this name, with a database of its own."""
    folders: list[Path] = []

    def shop(name: str) -> Shop:
        folder = disk_path / name
        folder.mkdir()
        folders.append(folder)
        made = Shop(folder, cron)
        url = stack.enter_context(database())
        (folder / "relevo.toml").write_text(CONFIGURATION.format(source=made.source, database=url))
        (folder / "shop_listeners.py").write_text(LISTENERS)
        return made

    with ExitStack() as stack:
        yield shop
        for folder in folders:
            (folder / "go").touch()  # nothing of it outlives the test


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.5)  # the conditions read all processes, and start some


@pytest.mark.slow("cron starts a command each minute: two minutes")
def test_cron_runs_what_the_unit_says(shop: Callable[[str], Shop], cron: cron_daemon.Cron) -> None:
    """All at once, since every tick takes a minute: what is due, slow, killed, kept by a deploy, and dead."""
    plain, slow, killed, deploy, failing = map(shop, ("plain 50% it's", "slow", "killed", "deploy", "failing"))
    shops = (plain, slow, killed, deploy, failing)
    plain.dispatch(number=1)
    slow.dispatch(number=1, slow=True)
    killed.dispatch(number=1, slow=True)
    deploy.dispatch(number=1)
    deploy.run("deploy", "begin")
    failing.dispatch(number=1, bad=True)
    until(lambda: time.time() % 60 < 40)  # so that all get their first tick in the same minute
    for each in shops:
        each.run("unit", "cron", "--install")

    # the first tick
    until(lambda: plain.ticks("END") > 0 and deploy.ticks("END") > 0 and bool(failing.mails()))
    until(lambda: bool(slow.calls() and killed.calls()))

    assert (plain.calls(), plain.left()) == (["1"], {}), "dispatch, tick, done"
    assert (deploy.calls(), deploy.left()) == ([], {"ready": 1}), "nothing is begun during a deploy"
    assert (failing.calls(), failing.left()) == (["1"], {"dead": 1})
    assert len(failing.mails()) == 1
    warning, summary = failing.mails()[0].splitlines()
    assert re.search(r"WARNING relevo\.worker: image\.created \S+ in \S+ is dead: gave-up: \S+ after 1 run: ", warning)
    assert re.fullmatch(r"0 done in \d+\.\d s, 1 dead \(1 gave-up\); see relevo dead list", summary)
    first = slow.process()
    os.kill(killed.process(), signal.SIGKILL)
    (killed.folder / "go").touch()
    killed.dispatch(number=2)
    deploy.run("deploy", "end")
    plain.dispatch(number=2)

    # the next one: slow is still at it, and killed has left its lock and its event
    until(lambda: slow.ticks("END") >= 1 and plain.calls() == ["1", "2"] and deploy.calls() == ["1"])
    until(lambda: sorted(killed.calls()) == ["1", "1", "2"] and failing.ticks("END") >= 2)
    until(lambda: killed.left() == {})

    assert (slow.calls(), slow.process()) == (["1"], first), "the tick beside it did nothing"
    (slow.folder / "go").touch()
    until(lambda: slow.left() == {})
    plain.run("unit", "cron", "--remove")
    listed = cron.run("crontab", "-l", cwd=plain.folder).stdout
    assert (plain.left(), deploy.left(), failing.left()) == ({}, {}, {"dead": 1})
    assert (failing.names(listed), plain.names(listed)) == (True, False), "its line alone is gone"
    assert [len(each.mails()) for each in (plain, slow, deploy, failing)] == [0, 0, 0, 1], (
        "cron has nothing else to tell"
    )
    told = [mail for mail in killed.mails() if mail != "Killed\n"]
    assert len(told) <= 1, told
    assert all("after 1 lost lease;" in mail for mail in told), (
        "the shell says that it was killed, the next drain handles it again"
    )
    for each in shops:
        each.run("unit", "cron", "--remove")
    assert cron.run("crontab", "-l", cwd=plain.folder).stdout == ""
