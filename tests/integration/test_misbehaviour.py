"""Whatever a listener does: the others are done, its event ends as it should, and nothing of it is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
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
HANGING = {
    "session-sleep",
    "loop",
    "sleep",
    "block",
    "lock",
    "async-wait",
    "async-block",
    "step-sleep",
    "async-step-wait",
}

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
    "grow": (CRASHED, "MiB, and memory_limit is 128 MiB while misbehaving:grow ran"),
    "close": (CRASHED, "closed the connection to its parent"),
    "child": (CRASHED, "exited with status 3 while misbehaving:misbehave ran"),
    "fork": (CRASHED, "exited with status 3 while misbehaving:misbehave ran"),
    "session": (DONE, ""),
    "session-exit": (CRASHED, "exited with status 3 while misbehaving:misbehave ran"),
    "session-sleep": (FAILED, "misbehaving:hang ran for longer than its time limit of 1 s"),
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
IN_ONE_PROCESS = {"async": ON_A_LOOP, "threads": IN_THREADS, "inline": INLINE}

ON_RABBITMQ = {"raise", "print", "sleep", "os._exit", "block", "memory", "step-os._exit"}
"""One of each kind, by how the listener and its process end: what a transport knows of a process depends on no more."""

ENDING_THE_PROCESS = {
    "async": {"sleep", "async-os._exit", "async-block"},
    "threads": {"sleep", "os._exit", "async-block"},
    "inline": {"interrupt", "segfault", "step-os._exit"},
}
"""One of each kind, by how the only process ends; the others are left to ``make test-all``."""


def is_over(expected: tuple[str, str]) -> bool:
    """Return whether it ends its process, if the listener shares that with others."""
    return expected[0] == CRASHED


def case(transport: str, *words: str, hows: Iterable[str], is_rare: bool = False) -> object:
    """Return a case of a test; one that *is_rare* is left to ``make test-all``."""
    marks = [pytest.mark.amqp] * (transport == "amqp") + [pytest.mark.soak] * is_rare
    listed = tuple(hows)
    name = listed[0] if len(listed) == 1 else "all"
    return pytest.param(transport, *words, listed, marks=marks, id="-".join((transport, *words, name)))


def in_child_processes() -> Iterator[object]:
    """Yield what misbehaves in child processes: all at once, and each alone."""
    yield case("sqlite", hows=IN_PROCESSES)
    yield case("amqp", hows=[how for how in IN_PROCESSES if how in ON_RABBITMQ])
    for transport in ("sqlite", "amqp"):
        for how in IN_PROCESSES:
            yield case(transport, hows=[how], is_rare=True)


def in_one_process() -> Iterator[object]:
    """
    Yield what misbehaves in the process of the worker: those that leave it alive at once, and each alone.

    One that cancels all tasks of a loop does not leave the others on it alone.
    """
    for kind, found in IN_ONE_PROCESS.items():
        alive = [how for how, each in found.items() if not is_over(each) and "cancel-all" not in how]
        yield case("sqlite", kind, hows=alive)
        yield case("amqp", kind, hows=[how for how in alive if how in ON_RABBITMQ])
        for transport in ("sqlite", "amqp"):
            for how, each in found.items():
                is_usual = how in ENDING_THE_PROCESS[kind] if is_over(each) else how.endswith("cancel-all")
                usual = is_usual and (transport == "sqlite" or (how in ON_RABBITMQ and is_over(each)))
                yield case(transport, kind, hows=[how], is_rare=not usual)


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

    def dispatch(self, *hows: str) -> None:
        """Dispatch an event that goes wrong for each of *hows*, among others that do not."""
        well = [relevo.Event("thing.went-well", {"number": number}) for number in range(NEIGHBOURS)]
        wrong = [relevo.Event(name_of(how), {"how": how}) for how in hows]
        self.app.dispatch_many([*well[: NEIGHBOURS // 2], *wrong, *well[NEIGHBOURS // 2 :]])

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

    def dead_by_how(self) -> dict[str, relevo.DeadLetterEntry]:
        """Return the dead letter of each that misbehaved."""
        found = {}
        for each in self.dead():
            assert isinstance(each.envelope, relevo.Envelope)
            found[json.loads(each.envelope.body)["data"]["how"]] = each
        return found

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


def name_of(how: str) -> str:
    """Return the event whose listener misbehaves as *how* says."""
    if how == "grow":
        return "thing.grew"
    name = "thing.hung" if how in HANGING else "thing.went-wrong"
    return name + ("-async" if how.startswith("async") else "") + ("-in-step" if "step-" in how else "")


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


@pytest.mark.parametrize("transport, hows", list(in_child_processes()))
def test_in_child_processes_only_the_events_of_those_that_misbehave_pay(theatre: Theatre, hows: Sequence[str]) -> None:
    theatre.dispatch(*hows)
    worker = theatre.start("worker", "--execution", "process", "-c", str(PLACES))
    dying = [how for how in hows if IN_PROCESSES[how][0]]
    ending = {f"after {how}" for how in hows if IN_PROCESSES[how][0] != CRASHED}

    wait_for(lambda: sum(line.startswith("well") for line in theatre.lines()) >= NEIGHBOURS, theatre)
    wait_for(lambda: len(theatre.dead()) == len(dying) and ending <= {*theatre.lines()}, theatre)
    theatre.dispatch_meeting()
    wait_for(lambda: len(theatre.met()) == PLACES, theatre)
    wait_for(lambda: len(children_of(worker.pid)) == PLACES, theatre)
    states = children_of(worker.pid)
    worker.send_signal(signal.SIGTERM)
    code = worker.wait(PATIENCE)

    lines, dead = theatre.lines(), theatre.dead_by_how()
    assert code == 0, theatre.printed()
    assert "Z" not in states
    assert theatre.processes() == {}
    assert sorted(line for line in lines if line.startswith("well")) == sorted(
        f"well {number}" for number in range(NEIGHBOURS)
    )
    assert sorted(dead) == sorted(dying)
    for how in hows:
        reason, told = IN_PROCESSES[how]
        assert lines.count(f"before {how}") == 1, how  # what was done before a process died is not done again
        assert lines.count(f"prepared {how}") == ("step-" in how), how
        assert sum(line.startswith(f"wrong {how} ") for line in lines) == (3 if reason == CRASHED else 1), how
        assert lines.count(f"after {how}") == (reason != CRASHED), how
        if reason:
            assert (dead[how].reason, told in dead[how].error) == (reason, True), how
        if reason == CRASHED:
            assert how == "close" or f"about to {how}" in dead[how].error


@pytest.mark.parametrize("transport, kind, hows", list(in_one_process()))
def test_in_one_process_the_others_are_done_too(theatre: Theatre, kind: str, hows: Sequence[str]) -> None:
    expected = {how: IN_ONE_PROCESS[kind][how] for how in hows}
    ends = [how for how in hows if is_over(expected[how])]
    told = expected[ends[0]][1] if ends else ""
    if told == DIED and not theatre.app.transport().capabilities.presence:
        told = CANNOT_TELL
    theatre.dispatch(*hows)
    places = {"inline": 1, "threads": PLACES, "async": PLACES}[kind]
    if not ends and places == PLACES:  # whoever handled it is to be there for the next
        theatre.dispatch_meeting()
    is_interrupted = any(how.endswith("interrupt") for how in ends)
    is_limited = bool(ends) and "time limit" in told
    # Events of a killed worker return when their lease ends.
    lease = {"RELEVO_LEASE": "2s"} if ends and not is_interrupted and not is_limited else {}

    codes: list[int] = []
    while len(codes) < 8 and (not codes or codes[-1] not in (0, 1)):
        worker = theatre.start("drain", "--settle", "15s", "--execution", kind, "-c", str(places), **lease)
        codes.append(ended_by_its_host(worker, theatre))

    lines, dead = theatre.lines(), theatre.dead_by_how()
    if is_limited:
        assert codes == [70, 70, 70, 0]
    elif is_interrupted:
        assert codes == [130, 130, 130, 0]  # the third sees that it is the third
    else:
        assert codes[-1] == (1 if dead else 0), (codes, theatre.printed()[-3000:])
    assert {line for line in lines if line.startswith("well")} == {f"well {number}" for number in range(NEIGHBOURS)}
    assert len(theatre.met()) == (0 if ends or places == 1 else PLACES)
    assert sorted(dead) == sorted(how for how in hows if expected[how][0])
    for how, (reason, error) in expected.items():
        assert lines.count(f"after {how}") == (0 if how in ends else 1), how
        assert ends or lines.count(f"before {how}") == 1, how
        if theatre.app.transport().capabilities.checkpoint:
            first = next(place for place, line in enumerate(lines) if line.startswith(f"wrong {how} "))
            assert f"before {how}" not in lines[first:], how  # what was done before a process died is not done again
            assert lines.count(f"prepared {how}") == ("step-" in how), how
        if reason:
            assert (dead[how].reason, (told if how in ends else error) in dead[how].error) == (reason, True), how
    assert theatre.processes() == {}
