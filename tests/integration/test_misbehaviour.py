"""Whatever a listener does: the others are done, its event ends as it should, and nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

import relevo

pytestmark = pytest.mark.slow("each starts processes that are killed or hang")

HERE = Path(__file__).parent
PATIENCE = 300.0
NEIGHBOURS = 10
MEMORY = 256 << 20

DIED = "3 processes died while they held it"
CANNOT_TELL = "this transport cannot tell"

PLACES = 2
HANGING = {"loop", "sleep", "block", "lock", "async-wait", "async-block", "step-sleep", "async-step-wait"}

DONE = ""
FAILED, CRASHED = relevo.Reason.RETRIES_EXHAUSTED, relevo.Reason.CRASH_LOOP
GAVE_UP = relevo.Reason.GAVE_UP

ASYNC_IN_BOTH = {
    "async-raise": (FAILED, "ValueError: no"),
    "async-sys.exit": (FAILED, "SystemExit: 3"),
    "async-cancel": (FAILED, "CancelledError: no"),
    "async-cancel-all": (FAILED, "CancelledError"),
    "async-run": (FAILED, "asyncio.run() cannot be called from a running event loop"),
    "async-tasks": (DONE, ""),
    "async-stop": (DONE, ""),
}
"""What an async listener does that ends in the same way wherever it runs."""

STEPS_IN_BOTH = {
    "step-raise": (FAILED, "ValueError: no"),
    "step-sys.exit": (FAILED, "SystemExit: 3"),
    "step-garbage": (GAVE_UP, "its result cannot be kept"),
    "async-step-raise": (FAILED, "ValueError: no"),
    "async-step-cancel-all": (FAILED, "CancelledError"),
}
"""What a listener does in its second step that ends in the same way wherever it runs."""

IN_PROCESSES: dict[str, tuple[str, str]] = {
    "raise": (FAILED, "ValueError: no"),
    "sys.exit": (FAILED, "SystemExit: 3"),
    "interrupt": (FAILED, "KeyboardInterrupt"),
    "os._exit": (CRASHED, "exited with status 3 while misbehaving:misbehave ran"),
    "segfault": (CRASHED, "was killed by SIGSEGV while misbehaving:misbehave ran"),
    "loop": (FAILED, "misbehaving:hang ran for longer than its time limit of 1 s"),
    "sleep": (FAILED, "misbehaving:hang ran for longer than its time limit of 1 s"),
    "block": (FAILED, "misbehaving:hang ran for longer than its time limit of 1 s"),
    "lock": (FAILED, "misbehaving:hang ran for longer than its time limit of 1 s"),
    "memory": (CRASHED, "MiB, and memory_limit is 256 MiB while misbehaving:misbehave ran"),
    "close": (CRASHED, "closed the connection to its parent"),
    "child": (CRASHED, "exited with status 3 while misbehaving:misbehave ran"),
    "fork": (CRASHED, "exited with status 3 while misbehaving:misbehave ran"),
    "print": (DONE, ""),
    "threads": (DONE, ""),
    "garbage": (DONE, ""),
    "signal": (DONE, ""),
    "terminate": (DONE, ""),
    "pool": (DONE, ""),
    **ASYNC_IN_BOTH,
    "async-interrupt": (FAILED, "KeyboardInterrupt"),
    "async-os._exit": (CRASHED, "exited with status 3 while misbehaving:misbehave_async ran"),
    "async-wait": (FAILED, "misbehaving:hang_async ran for longer than its time limit of 1 s"),
    "async-block": (FAILED, "misbehaving:hang_async ran for longer than its time limit of 1 s"),
    **STEPS_IN_BOTH,
    "step-os._exit": (CRASHED, "exited with status 3 while misbehaving:misbehave_in_step ran"),
    "step-sleep": (FAILED, "misbehaving:hang_in_step ran for longer than its time limit of 1 s"),
    "async-step-wait": (FAILED, "misbehaving:hang_in_async_step ran for longer than its time limit of 1 s"),
}
"""What each is to end as in a child process, and what the dead letter says."""

IN_THREADS = {
    "raise": (FAILED, "ValueError: no"),
    "sys.exit": (FAILED, "SystemExit: 3"),
    "interrupt": (FAILED, "KeyboardInterrupt"),
    "sleep": (CRASHED, "misbehaving:hang ran for longer than its time limit of 1 s"),
    "loop": (CRASHED, "misbehaving:hang ran for longer than its time limit of 1 s"),
    "lock": (CRASHED, "misbehaving:hang ran for longer than its time limit of 1 s"),
    "os._exit": (CRASHED, DIED),
    "segfault": (CRASHED, DIED),
    "memory": (CRASHED, DIED),
    "block": (CRASHED, DIED),
    "print": (DONE, ""),
    "threads": (DONE, ""),
    "garbage": (DONE, ""),
    "terminate": (DONE, ""),
    "pool": (DONE, ""),
    **ASYNC_IN_BOTH,
    "async-interrupt": (FAILED, "KeyboardInterrupt"),
    "async-os._exit": (CRASHED, DIED),
    "async-wait": (FAILED, "misbehaving:hang_async ran for longer than its time limit of 1 s"),
    "async-block": (CRASHED, "misbehaving:hang_async ran for longer than its time limit of 1 s"),
    **STEPS_IN_BOTH,
    "step-os._exit": (CRASHED, DIED),
    "step-sleep": (CRASHED, "misbehaving:hang_in_step ran for longer than its time limit of 1 s"),
    "async-step-wait": (FAILED, "misbehaving:hang_in_async_step ran for longer than its time limit of 1 s"),
}
INLINE = {
    "raise": (FAILED, "ValueError: no"),
    "sys.exit": (FAILED, "SystemExit: 3"),
    "interrupt": (CRASHED, DIED),
    "os._exit": (CRASHED, DIED),
    "segfault": (CRASHED, DIED),
    "memory": (CRASHED, DIED),
    "block": (CRASHED, DIED),
    "print": (DONE, ""),
    "threads": (DONE, ""),
    "garbage": (DONE, ""),
    "terminate": (DONE, ""),
    "pool": (DONE, ""),
    **ASYNC_IN_BOTH,
    "async-interrupt": (CRASHED, DIED),
    "async-os._exit": (CRASHED, DIED),
    **STEPS_IN_BOTH,
    "step-interrupt": (CRASHED, DIED),
    "step-os._exit": (CRASHED, DIED),
}
ON_A_LOOP = {
    **{how: IN_THREADS[how] for how in ("raise", "sys.exit", "interrupt", "sleep", "os._exit", "print", "threads")},
    **ASYNC_IN_BOTH,
    "async-interrupt": (FAILED, "KeyboardInterrupt"),
    "async-os._exit": (CRASHED, DIED),
    "async-wait": (FAILED, "misbehaving:hang_async ran for longer than its time limit of 1 s"),
    "async-block": (CRASHED, "misbehaving:hang_async ran for longer than its time limit of 1 s"),
    "step-os._exit": (CRASHED, DIED),
    "async-step-raise": (FAILED, "ValueError: no"),
    "async-step-cancel-all": (FAILED, "CancelledError"),
    "async-step-wait": (FAILED, "misbehaving:hang_in_async_step ran for longer than its time limit of 1 s"),
}
IN_ONE_PROCESS = [
    *(("async", how, *expected) for how, expected in ON_A_LOOP.items()),
    *(("threads", how, *expected) for how, expected in IN_THREADS.items()),
    *(("inline", how, *expected) for how, expected in INLINE.items()),
]

ON_RABBITMQ = {"raise", "print", "sleep", "os._exit", "block", "memory", "step-os._exit"}
"""One of each kind, by how the listener and its process end."""


def on_each(*cases: tuple[str, ...]) -> list[object]:
    """
    Return *cases*, on each transport.

    What a transport knows of a process does not depend on the listener that ended it. So on RabbitMQ most are left to
    ``make test-all``, and so is what ends a step in the same way inline, in threads, and in a child process.
    """

    def on(transport: str, case: tuple[str, ...]) -> object:
        marks = [pytest.mark.amqp] if transport == "amqp" else []
        is_like_others = case[0] in ("inline", "threads") and case[1] in STEPS_IN_BOTH
        if is_like_others or (transport == "amqp" and not ON_RABBITMQ & {*case}):
            marks.append(pytest.mark.soak)
        return pytest.param(transport, *case, marks=marks, id="-".join((transport, *case[:-2])))

    return [on(transport, case) for transport in ("sqlite", "amqp") for case in cases]


@attrs.frozen
class Theatre:
    """An application in a folder of its own, and the processes that were started for it."""

    folder: Path
    app: relevo.App
    mark: str

    def start(self, *words: str, **more: str) -> subprocess.Popen[bytes]:
        """Start ``relevo`` with *words*; its output goes to a file."""
        environ = {"CRASH_LOG": str(self.folder / "log"), "PYTHONPATH": str(HERE), "THEATRE": self.mark, **more}
        with (self.folder / "printed").open("ab") as printed:
            return subprocess.Popen(
                [sys.executable, "-m", "relevo", *words],
                cwd=self.folder,
                env={**os.environ, **environ},
                stdout=printed,
                stderr=printed,
            )

    def dispatch(self, how: str) -> None:
        """Dispatch one event that goes wrong among others that do not."""
        for number in range(NEIGHBOURS):
            if number == NEIGHBOURS // 2:
                name = "thing.hung" if how in HANGING else "thing.went-wrong"
                name += "-async" if how.startswith("async") else ""
                name += "-in-step" if "step-" in how else ""
                self.app.dispatch(relevo.Event(name, {"how": how}))
            self.app.dispatch(relevo.Event("thing.went-well", {"number": number}))

    def dispatch_meeting(self) -> None:
        """Dispatch events that are done only if as many are handled at once as there are places."""
        self.app.dispatch_many(relevo.Event("thing.met", {"number": n, "places": PLACES}) for n in range(PLACES))

    def met(self) -> set[str]:
        """Return which of them are done."""
        return {line for line in self.lines() if line.startswith("met")}

    def lines(self) -> list[str]:
        """Return what the listeners noted."""
        log = self.folder / "log"
        return log.read_text().splitlines() if log.exists() else []

    def printed(self) -> str:
        """Return what was printed."""
        return (self.folder / "printed").read_text(errors="replace")

    def dead(self) -> list[relevo.DeadLetterEntry]:
        """Return the dead letters."""
        return list(self.app.transport().dead_letters(["default"], limit=99))

    def processes(self) -> dict[int, str]:
        """Return the processes that are left, with their states."""
        found = {}
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdecimal() and f"THEATRE={self.mark}".encode() in (folder / "environ").read_bytes():
                    found[int(folder.name)] = state_of(folder)
            except (OSError, IndexError):
                continue
        return found


def state_of(folder: Path) -> str:
    return (folder / "stat").read_text().rpartition(")")[2].split()[0]


def children_of(pid: int) -> list[str]:
    """Return the states of the children of *pid*."""
    children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")).split()
    found = []
    for child in children:
        with contextlib.suppress(OSError, IndexError):  # it has ended since
            found.append(state_of(Path("/proc", child)))
    return found


def memory_of(pid: int) -> int:
    """Return how many bytes *pid* occupies; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def ended_by_its_host(worker: subprocess.Popen[bytes], theatre: Theatre) -> int:
    """Kill *worker* as a host does that has no memory left, or hears nothing of it; return its exit code."""
    deadline = time.monotonic() + PATIENCE
    while worker.poll() is None:
        assert time.monotonic() < deadline
        if memory_of(worker.pid) > MEMORY or f"wrong block {worker.pid}" in theatre.lines():
            worker.kill()
        time.sleep(0.02)
    return worker.returncode


def wait_for(what: Callable[[], bool], theatre: Theatre) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, (theatre.lines()[-5:], theatre.printed()[-3000:])
        time.sleep(0.05)


@pytest.fixture(name="theatre")
def _theatre(
    transport: str, request: pytest.FixtureRequest, tmp_path: Path, forget: Callable[[relevo.App], None]
) -> Iterator[Theatre]:
    main = '"sqlite:///theatre.db"'
    if transport == "amqp":
        url = request.getfixturevalue("rabbitmq_url")
        main = f'{{ url = "{url}", prefix = "theatre-{uuid.uuid4().hex[:8]}", levels = 8, settle_in = 0 }}'
    (tmp_path / "relevo.toml").write_text(
        f"""
source = "theatre"
listeners = ["misbehaving"]
memory_limit = "256M"

[transports]
main = {main}
"""
    )
    app = relevo.App.from_config(tmp_path / "relevo.toml", environ={})
    theatre = Theatre(tmp_path, app, uuid.uuid4().hex)
    try:
        yield theatre
    finally:
        for pid in theatre.processes():
            os.kill(pid, signal.SIGKILL)
        forget(app)
        app.close()


@pytest.mark.parametrize(
    "transport, how, reason, told", on_each(*((how, *expected) for how, expected in IN_PROCESSES.items()))
)
def test_in_child_processes_only_the_event_of_the_one_that_misbehaves_pays(
    theatre: Theatre, how: str, reason: str, told: str
) -> None:
    theatre.dispatch(how)
    worker = theatre.start("worker", "--execution", "process", "-c", str(PLACES))

    wait_for(lambda: sum(line.startswith("well") for line in theatre.lines()) >= NEIGHBOURS, theatre)
    wait_for(lambda: bool(theatre.dead()) if reason else f"after {how}" in theatre.lines(), theatre)
    theatre.dispatch_meeting()
    wait_for(lambda: len(theatre.met()) == PLACES, theatre)
    wait_for(lambda: len(children_of(worker.pid)) == PLACES, theatre)
    states = children_of(worker.pid)
    worker.send_signal(signal.SIGTERM)
    code = worker.wait(PATIENCE)

    lines = theatre.lines()
    assert code == 0, theatre.printed()
    assert "Z" not in states
    assert theatre.processes() == {}
    assert sorted(line for line in lines if line.startswith("well")) == sorted(
        f"well {number}" for number in range(NEIGHBOURS)
    )
    assert lines.count(f"before {how}") == 1  # what was done before a process died is not done again
    assert lines.count(f"prepared {how}") == ("step-" in how)
    assert sum(line.startswith("wrong") for line in lines) == (3 if reason == CRASHED else 1)
    assert [(each.reason, told in each.error) for each in theatre.dead()] == ([(reason, True)] if reason else [])
    if reason == CRASHED:
        assert how == "close" or f"about to {how}" in theatre.dead()[0].error
    else:
        assert lines.count(f"after {how}") == 1


@pytest.mark.parametrize("transport, kind, how, reason, told", on_each(*IN_ONE_PROCESS))
def test_in_one_process_the_others_are_done_too(theatre: Theatre, kind: str, how: str, reason: str, told: str) -> None:
    if told == DIED and not theatre.app.transport().capabilities.presence:
        told = CANNOT_TELL
    theatre.dispatch(how)
    places = {"inline": 1, "threads": PLACES, "async": PLACES}[kind]
    is_over = reason == CRASHED  # and its process with it; else whoever handled it is to be there for the next
    if not is_over and places == PLACES:
        theatre.dispatch_meeting()
    is_killed = is_over and not how.endswith("interrupt") and "time limit" not in told
    lease = {"RELEVO_LEASE": "2s"} if is_killed else {}  # events of a killed worker return when their lease ends

    codes: list[int] = []
    while len(codes) < 8 and (not codes or codes[-1] not in (0, 1)):
        worker = theatre.start("drain", "--settle", "15s", "--execution", kind, "-c", str(places), **lease)
        codes.append(ended_by_its_host(worker, theatre))

    lines = theatre.lines()
    if is_over and "time limit" in told:
        assert codes == [70, 70, 70, 0]
    elif is_over and how.endswith("interrupt"):
        assert codes == [130, 130, 130, 0]  # the third sees that it is the third
    else:
        assert codes[-1] == (1 if reason else 0), (codes, theatre.printed()[-3000:])
    assert {line for line in lines if line.startswith("well")} == {f"well {number}" for number in range(NEIGHBOURS)}
    assert len(theatre.met()) == (0 if is_over or places == 1 else PLACES)
    assert lines.count(f"after {how}") == (0 if is_over else 1)
    assert is_over or lines.count(f"before {how}") == 1
    if theatre.app.transport().capabilities.checkpoint:
        first = next(place for place, line in enumerate(lines) if line.startswith("wrong"))
        assert f"before {how}" not in lines[first:]  # what was done before a process died is not done again
        assert lines.count(f"prepared {how}") == ("step-" in how)
    assert [(each.reason, told in each.error) for each in theatre.dead()] == ([(reason, True)] if reason else [])
    assert theatre.processes() == {}
