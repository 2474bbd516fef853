"""Real processes that are killed or stopped while they hold an event: only three deaths make a crash loop."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import attrs
import pytest

import relevo
from relevo import DeadLetterEntry, Lost, Note

PATIENCE = 300.0
NEIGHBOURS = 6

CRASHES_BEFORE_IT_BEGINS = """
import os
import relevo
import sqlalchemy as sa
from relevo_sql import SqlTransport

class Crashing(SqlTransport):
    def begin(self, delivery, note):
        os.kill(os.getpid(), 9)

app = relevo.App(source="doomed", transports={"main": Crashing(sa.create_engine("sqlite:///doomed.db"), name="main")},
                 routes={"*": "main"}, listeners=["doomed"], lease=60.0)
relevo.LoopRunner().run(app, relevo.RunOptions(until_empty=True))
"""


@attrs.frozen
class Stage:
    """The application in a folder, and the processes that were started for it."""

    folder: Path
    app: relevo.App
    started: list[subprocess.Popen[bytes]] = attrs.field(factory=list)

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        return self.run_python("-m", "relevo", *words)

    def run_python(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / "printed").open("ab") as printed:
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
                stdout=printed,
                stderr=printed,
            )
        self.started.append(process)
        return process

    def drain(self, *words: str) -> int:
        return self.start("drain", "--settle", "20s", *words).wait(PATIENCE)

    def suspect(self, event: relevo.Event) -> None:
        """Dispatch *event*, and lose it once."""
        self.app.dispatch(event)
        transport = self.app.transport()
        held = transport.receive(["default"], limit=10, lease=60, wait=0)
        transport.settle([(delivery, Lost()) for delivery in held])

    def calls(self, *what: str) -> list[str]:
        """Return the calls of *what*, without the processes."""
        path = self.folder / "calls"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [f"{line[0]} {line[1]}" for line in lines if not what or line[0] in what]

    def dead(self) -> list[DeadLetterEntry]:
        return list(self.app.transport().dead_letters(["default"]))

    def rows(self) -> list[tuple[int, str | None, str | None]]:
        """Return lost leases, note and deaths of the events that are not done."""
        with closing(sqlite3.connect(self.folder / "doomed.db")) as connection:
            return connection.execute("SELECT lost_leases, begun, deaths FROM relevo_event ORDER BY seq").fetchall()

    def end_leases(self) -> None:
        """Let the leases of all that is held be over, as they are if a minute passes."""
        with closing(sqlite3.connect(self.folder / "doomed.db")) as connection, connection:
            connection.execute("UPDATE relevo_event SET lease_until = 0 WHERE lease_until IS NOT NULL")

    def stop(self, worker: subprocess.Popen[bytes]) -> None:
        """Stop *worker* for as long as its leases last, which takes no time here."""
        while True:
            worker.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, worker.pid, os.WSTOPPED)
            try:
                self.end_leases()
            except sqlite3.OperationalError:  # it was writing, so that it is to go on first
                worker.send_signal(signal.SIGCONT)
                time.sleep(0.05)
            else:
                return

    def wait_for(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < deadline, (self.calls(), self.rows(), (self.folder / "printed").read_text())
            time.sleep(0.02)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    (tmp_path / "relevo.toml").write_text(
        'source = "doomed"\nlisteners = ["doomed"]\nlease = "60s"\n\n[transports]\nmain = "sqlite:///doomed.db"\n'
    )
    app = relevo.App.from_config(tmp_path / "relevo.toml", environ={})
    stage = Stage(tmp_path, app)
    yield stage
    for process in stage.started:
        if process.poll() is None:
            process.kill()
            process.wait()
    app.close()


@pytest.mark.slow("starts up to five processes, each of which imports everything")
@pytest.mark.parametrize(
    ("execution", "whom", "processes"),
    [("inline", "itself", 4), ("threads", "itself", 4), ("process", "itself", 3), ("process", "parent", 4)],
)
def test_exactly_the_killer_among_its_neighbours_is_a_crash_loop(
    stage: Stage, execution: str, whom: str, processes: int
) -> None:
    for number in range(NEIGHBOURS):
        stage.app.dispatch(relevo.Event("thing.done", {"number": number}))
        if number == NEIGHBOURS // 2:
            stage.app.dispatch(relevo.Event("process.killed", {"number": "x", "whom": whom}))

    codes: list[int] = []
    while not codes or (codes[-1] < 0 and len(codes) < 8):
        codes.append(stage.drain("--execution", execution, "-c", "1"))
        stage.end_leases()

    (dead,) = stage.dead()
    assert codes == [1] if processes == 3 else codes == [-signal.SIGKILL] * 4 + [1]
    assert stage.calls("began") == ["began x"] * processes
    assert set(stage.calls("ended")) == {f"ended {number}" for number in range(NEIGHBOURS)}
    assert dead.reason == "crash-loop"
    assert "3 processes died while they held it" in dead.error
    assert "while doomed:kill ran" in dead.error
    assert stage.rows() == []


@pytest.mark.lengthy("starts processes")
def test_a_lease_that_runs_out_while_its_process_is_stopped_is_no_death(stage: Stage) -> None:
    stage.app.dispatch(relevo.Event("file.awaited", {"number": 1}))
    worker = stage.start("worker")
    stage.wait_for(lambda: bool(stage.calls("began")))

    stage.stop(worker)
    (found,) = stage.app.transport().find(_only_id(stage))
    stage.wait_for(lambda: stage.app.transport().find(found.envelope.id)[0].status == "ready")
    (stage.folder / "go").touch()
    worker.send_signal(signal.SIGCONT)

    stage.wait_for(lambda: not stage.rows())
    assert stage.calls() == ["began 1", "ended 1"]
    assert stage.dead() == []
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0


@pytest.mark.lengthy("starts processes")
def test_a_suspect_is_left_to_a_process_that_began_it_and_is_only_stopped(stage: Stage) -> None:
    stage.suspect(relevo.Event("file.awaited", {"number": 1}))
    worker = stage.start("worker")
    stage.wait_for(lambda: bool(stage.calls("began")))

    stage.stop(worker)
    (found,) = stage.app.transport().find(_only_id(stage))
    stage.wait_for(lambda: stage.app.transport().find(found.envelope.id)[0].status == "ready")
    stage.app.dispatch(relevo.Event("thing.done", {"number": 2}))
    code = stage.start("drain", "--max-time", "10s").wait(PATIENCE)  # else it begins it after the grace
    meanwhile = stage.rows()
    (stage.folder / "go").touch()
    worker.send_signal(signal.SIGCONT)

    stage.wait_for(lambda: not stage.rows())
    assert code == 0
    assert [(lost_leases, deaths) for lost_leases, _, deaths in meanwhile] == [(2, None)]
    assert sorted(stage.calls()) == ["began 1", "ended 1", "ended 2"]
    assert stage.dead() == []


@pytest.mark.slow("starts five processes, one after another")
def test_a_process_that_was_told_to_end_and_is_killed_then_is_no_death(stage: Stage) -> None:
    stage.suspect(relevo.Event("file.awaited", {"number": 1}))
    for kills in range(1, 5):
        worker = stage.start("worker")
        stage.wait_for(lambda kills=kills: len(stage.calls("began")) == kills)  # type: ignore[misc]

        worker.send_signal(signal.SIGTERM)
        stage.wait_for(lambda: _is_excused(stage))
        worker.kill()
        worker.wait()
        stage.end_leases()

    (stage.folder / "go").touch()
    code = stage.drain()

    assert code == 0
    assert stage.calls("ended") == ["ended 1"]
    assert stage.dead() == []


@pytest.mark.slow("starts five processes, one after another")
def test_a_crash_before_any_of_several_suspects_is_begun_accuses_none_of_them(stage: Stage) -> None:
    for number in range(4):
        stage.suspect(relevo.Event("thing.done", {"number": number}))

    codes = []
    for _ in range(4):
        _await_ready(stage)
        codes.append(stage.run_python("-c", CRASHES_BEFORE_IT_BEGINS).wait(PATIENCE))
        stage.end_leases()
    rows = stage.rows()
    _await_ready(stage)
    code = stage.drain()

    assert codes == [-signal.SIGKILL] * 4, (stage.folder / "printed").read_text()
    assert [(note, deaths) for _, note, deaths in rows] == [(None, None)] * 4
    assert code == 0
    assert sorted(stage.calls()) == [f"ended {number}" for number in range(4)]
    assert stage.dead() == []


def _await_ready(stage: Stage) -> None:
    """Wait until all suspects are ready: a drain gives some back for a second, and a killed one holds its lease."""
    stage.wait_for(lambda: stage.app.transport().stats("default").ready == 4)


def _only_id(stage: Stage) -> str:
    with closing(sqlite3.connect(stage.folder / "doomed.db")) as connection:
        ((event_id,),) = connection.execute("SELECT event_id FROM relevo_event").fetchall()
    return str(event_id)


def _is_excused(stage: Stage) -> bool:
    ((_, begun, _),) = stage.rows()
    note = Note.unpacked(begun)
    return note is not None and note.excused
