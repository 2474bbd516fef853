"""Changes that a listener makes to its child process do not affect the next event of that child."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

import relevo

pytestmark = pytest.mark.lengthy("starts processes")

PATIENCE = 120.0

LISTENERS = '''
import fcntl
import gc
import json
import locale
import os
import resource
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import relevo

LOG = Path(__file__).with_name("log")
HERE = os.getcwd()
LIMITS = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))
STREAMS = sys.stdin, sys.stdout, sys.stderr


def seen():
    """Return the state of this process, each part in a form that JSON can express."""
    found = {}
    for name, look in PARTS.items():
        try:
            found[name] = look()
        except OSError as error:
            found[name] = str(error)
    return json.loads(json.dumps(found))


PARTS = {
    "directory": os.getcwd,
    "root": lambda: os.stat("/").st_ino,
    # without the mark that each child process has of its own
    "environment": lambda: {key: each for key, each in sorted(os.environ.items()) if key != "_RELEVO_CHILD"},
    "zone": lambda: time.strftime("%Z"),
    "descriptors": lambda: {fd: os.readlink(f"/proc/self/fd/{fd}").split("[")[0] for fd in range(3)},
    "flags": lambda: [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in range(3)],
    "inherited": lambda: [os.get_inheritable(fd) for fd in range(3)],
    "streams": lambda: [a is b and not a.closed for a, b in zip((sys.stdin, sys.stdout, sys.stderr), STREAMS)],
    "limits": lambda: [resource.getrlimit(getattr(resource, name)) for name in LIMITS],
    "umask": lambda: [os.umask(0o22), os.umask(0o22)][0],
    "timers": lambda: [signal.getitimer(each) for each in range(3)],
    "handlers": lambda: [getattr(signal.getsignal(each), "__name__", str(each)) for each in range(1, 32)],
    "blocked": lambda: sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "locale": lambda: locale.setlocale(locale.LC_ALL),
    "priority": lambda: os.getpriority(os.PRIO_PROCESS, 0),
    "user": lambda: [*os.getresuid(), *os.getresgid()],
    "collector": lambda: [gc.isenabled(), gc.get_threshold()],
    "recursion": sys.getrecursionlimit,
    "timeout": socket.getdefaulttimeout,
}


def note(**what):
    with LOG.open("a") as log:
        log.write(json.dumps({"pid": os.getpid(), **what}) + "\\n")


def limit(kind, soft, hard):
    resource.setrlimit(kind, (soft, hard))


def remove_directory():
    Path(HERE, "gone").mkdir()
    os.chdir(Path(HERE, "gone"))
    Path(HERE, "gone").rmdir()


def block_an_alarm():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    os.kill(os.getpid(), signal.SIGALRM)


def change_zone():
    os.environ["TZ"] = "Pacific/Kiritimati"
    time.tzset()


def open_in_its_place(fd):
    os.close(fd)
    return os.open("/dev/zero", os.O_RDONLY)


def start_a_thread():
    threading.Thread(target=time.sleep, args=(600,), name="stays", daemon=True).start()


def set_a_variable_and_fail():
    os.environ["SET"] = "1"
    raise ValueError


DAMAGE = {
    "directory": lambda: os.chdir("/"),
    "directory-removed": remove_directory,
    "environment-set": lambda: os.environ.update(SET="1", HOME="/nowhere", BYTES=os.fsdecode(b"\\xff")),
    "environment-cleared": lambda: os.environ.clear(),
    "environment-replaced": lambda: setattr(os, "environ", {}),
    "environment-and-failure": set_a_variable_and_fail,
    "zone": change_zone,
    "descriptor-0": lambda: os.close(0),
    "descriptor-1": lambda: os.close(1),
    "descriptors-1-and-2": lambda: os.closerange(1, 3),
    "descriptor-1-other": lambda: open_in_its_place(1),
    "descriptor-1-flags": lambda: os.set_blocking(1, False),
    "descriptor-2-inherited": lambda: os.set_inheritable(2, False),
    "descriptors-all": lambda: os.closerange(0, 64),
    "stream-replaced": lambda: setattr(sys, "stdout", None),
    "stream-closed": lambda: sys.stdout.close(),
    "stream-detached": lambda: sys.stdout.detach(),
    "limit-soft": lambda: limit(resource.RLIMIT_NOFILE, 5, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
    "limit-hard": lambda: limit(resource.RLIMIT_FSIZE, 0, 0),
    "umask": lambda: os.umask(0o777),
    "alarm": lambda: signal.alarm(600),
    "timer": lambda: signal.setitimer(signal.ITIMER_PROF, 600, 1),
    "handler": lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    "handler-of-python": lambda: signal.signal(signal.SIGCHLD, note),
    "blocked": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGRTMIN + 1]),
    "blocked-and-pending": block_an_alarm,
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C"),
    "priority": lambda: os.nice(3),
    "collector": gc.disable,
    "collector-threshold": lambda: gc.set_threshold(0),
    "recursion": lambda: sys.setrecursionlimit(2000),
    "timeout": lambda: socket.setdefaulttimeout(0.001),
    "threads": start_a_thread,
    "nothing": lambda: None,
    "user": lambda: os.setuid(65534) if os.geteuid() == 0 else None,
    "root": lambda: os.chroot(HERE) if os.geteuid() == 0 else None,
}


note(seen=seen(), kinds=list(DAMAGE))


@relevo.listener("process.damaged", id="damage", priority=2, retry=1)
def damage(event):
    note(damaged=event["kind"])
    DAMAGE[event["kind"]]()


@relevo.listener("process.damaged", id="beside", priority=1, retry=1)
def beside(event):
    note(beside=event["kind"], seen=seen())


@relevo.listener("process.seen", retry=1)
def look(event):
    note(kind=event["kind"], seen=seen())
    print("still here", event["kind"])
'''

RESTORED = [
    "directory",
    "directory-removed",
    "environment-set",
    "environment-cleared",
    "environment-replaced",
    "environment-and-failure",
    "zone",
    "descriptor-0",
    "descriptor-1",
    "descriptors-1-and-2",
    "descriptor-1-other",
    "descriptor-1-flags",
    "descriptor-2-inherited",
    "stream-replaced",
    "limit-soft",
    "umask",
    "alarm",
    "timer",
    "handler",
    "handler-of-python",
    "blocked",
    "blocked-and-pending",
    "priority",
    "collector",
    "collector-threshold",
    "recursion",
    "timeout",
]
REPLACED = ["descriptors-all", "stream-closed", "stream-detached"]
ROOT_REPLACES = ["user", "root"]
UNTOUCHED = ["threads", "nothing"]
DEPENDS = ["limit-hard", "locale"]
"""Restored or replaced, depending on the rights of the process and the locale of the machine."""


@attrs.frozen
class Run:
    """What was seen in the child processes of one worker, and what the worker logged."""

    clean: dict[str, Any]
    beside: dict[str, dict[str, Any]]
    after: dict[str, dict[str, Any]]
    damaged: dict[str, int]
    """The process in which each kind of damage was done."""

    code: int
    log: str


def drained(folder: Path, kinds: list[str], **keys: object) -> Run:
    """Drain one event for each of *kinds* that damages its process, each followed by one that looks."""
    (folder / "damage.py").write_text(LISTENERS)
    said = "\n".join(f"{key} = {value!r}" for key, value in keys.items())
    config = 'listeners = ["damage"]\nexecution = "process"\n{}\n[transports]\nmain = "sqlite:///damage.db"\n'
    (folder / "relevo.toml").write_text(config.format(""))
    with relevo.App.from_config(folder / "relevo.toml", environ={}) as app:
        app.dispatch_many(
            relevo.Event(name, {"kind": kind}) for kind in kinds for name in ("process.damaged", "process.seen")
        )
    (folder / "relevo.toml").write_text(config.format(said))  # a plugin is the worker's alone
    with subprocess.Popen(
        [sys.executable, "-m", "relevo", "drain", "-l", "info"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        umask=0o22,
        env={**os.environ, "HOME": "/somewhere"},
    ) as process:
        log, _ = process.communicate(timeout=PATIENCE)
    (folder / "printed").write_text(log)
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    return Run(
        clean=next(line["seen"] for line in reversed(lines) if "kinds" in line),
        beside={line["beside"]: line for line in lines if "beside" in line},
        after={line["kind"]: line for line in lines if "kind" in line},
        damaged={line["damaged"]: line["pid"] for line in lines if "damaged" in line},
        code=process.returncode,
        log=log,
    )


@pytest.fixture(scope="module", name="run")
def _run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return drained(tmp_path_factory.mktemp("damage"), [*RESTORED, *UNTOUCHED, *DEPENDS, *REPLACED, *ROOT_REPLACES])


def different(run: Run, seen: dict[str, Any]) -> dict[str, Any]:
    """Return what differs from a clean process."""
    return {name: seen[name] for name in seen if seen[name] != run.clean[name]}


@pytest.mark.parametrize("kind", [*RESTORED, *DEPENDS, *REPLACED, *ROOT_REPLACES])
def test_what_a_listener_does_to_its_process_does_not_reach_the_next_event(run: Run, kind: str) -> None:
    assert different(run, run.after[kind]["seen"]) == {}
    assert f"still here {kind}\n" in run.log


@pytest.mark.parametrize("kind", RESTORED)
def test_what_a_listener_does_to_its_process_does_not_reach_the_next_listener_of_its_event(run: Run, kind: str) -> None:
    assert different(run, run.beside[kind]["seen"]) == {}


@pytest.mark.parametrize("kind", [*RESTORED, *UNTOUCHED])
def test_a_process_that_can_be_restored_is_kept(run: Run, kind: str) -> None:
    assert run.after[kind]["pid"] == run.damaged[kind]


@pytest.mark.parametrize("kind", REPLACED)
def test_a_process_that_cannot_be_restored_is_replaced(run: Run, kind: str) -> None:
    assert run.after[kind]["pid"] != run.damaged[kind]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("kind", ROOT_REPLACES)
def test_a_process_with_another_user_or_root_is_replaced(run: Run, kind: str) -> None:
    assert run.after[kind]["pid"] != run.damaged[kind]


def test_no_event_is_blamed_for_what_another_did(run: Run) -> None:
    assert "is lost" not in run.log
    assert "idle child" not in run.log
    assert run.after.keys() == run.damaged.keys()


@pytest.mark.parametrize(
    ("what", "fate"),
    [
        ("the working directory", "restored"),
        ("the environment (BYTES, HOME, SET)", "restored"),
        ("standard descriptors (0)", "restored"),
        ("resource limits (RLIMIT_NOFILE)", "restored"),
        ("the umask", "restored"),
        ("timers (ITIMER_REAL)", "restored"),
        ("signal handlers (SIGTERM)", "restored"),
        ("standard streams (sys.stdout)", "restored"),
        ("descriptors that lead to the worker", "so the process is replaced"),
    ],
)
def test_each_finding_is_logged_once_with_the_name_of_the_listener(run: Run, what: str, fate: str) -> None:
    first = [line for line in run.log.splitlines() if what in line and "damage changed" in line]
    kind = what.split(" (", maxsplit=1)[0]

    assert len(first) == 1, run.log
    assert fate in first[0]
    assert run.log.count(f"damage changed {kind}") == 1, run.log


def test_threads_that_a_listener_leaves_are_reported(run: Run) -> None:
    assert [line for line in run.log.splitlines() if "damage left threads (stays)" in line]


def test_with_recycle_after_1_each_event_has_a_process_of_its_own(tmp_path: Path) -> None:
    run = drained(tmp_path, ["directory", "directory-removed", "threads"], recycle_after=1)

    pids = [each["pid"] for each in run.after.values()] + [*run.damaged.values()]
    assert len(set(pids)) == len(pids) == 6, run.log
    assert [different(run, each["seen"]) for each in run.after.values()] == [{}, {}, {}]
    assert run.log.count("damage changed the working directory") == 1
    assert "is lost" not in run.log


PLUGIN = """
import contextlib
import os
import relevo

@relevo.hookimpl
@contextlib.contextmanager
def relevo_around_handle(delivery):
    before = os.getcwd()
    os.chdir("/usr")
    os.environ["SET"] = "by the plugin"
    try:
        yield
    finally:
        os.chdir(before)
        del os.environ["SET"]
"""


@pytest.mark.parametrize("hook", ["relevo_around_handle", "relevo_around_call"])
def test_what_a_plugin_changes_around_listeners_is_neither_undone_nor_blamed_on_them(hook: str, tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN.replace("relevo_around_handle(delivery)", f"{hook}()"))

    run = drained(tmp_path, ["nothing", "directory", "environment-cleared", "alarm"], plugins=["plugin"])

    assert run.code == 0, run.log
    for each in [run.beside["nothing"], run.beside["environment-cleared"], *run.after.values()]:
        seen = each["seen"]
        assert (seen["directory"], seen["environment"].get("SET")) == ("/usr", "by the plugin")
        assert different(run, seen).keys() <= {"directory", "environment"}
    # What the plugin had changed first, only a new process can have again.
    assert "damage changed the working directory of its process; it cannot be restored" in run.log
    assert "damage changed timers (ITIMER_REAL) of its process; restored" in run.log
    assert run.after["nothing"]["pid"] == run.damaged["nothing"] == run.damaged["directory"]
