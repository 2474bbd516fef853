"""What other threads were about when the process was forked is not in the child's way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from relevo.backend import ForkLock

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

LISTENERS = """
import forking, relevo

forking.begun.set()
forking.forked.wait(60)

@relevo.listener("a.b")
def hear(event): ...
"""

FORKING = '''
import os, signal, threading, warnings
from relevo import App, Event
from relevo_memory import MemoryTransport

begun, forked = threading.Event(), threading.Event()


def in_child(work):
    """Fork, and return how *work* ended in the child: its exit code, or less than zero if it hung."""
    warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: a fork beside threads; that is what is tested
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if work() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
'''


def run(folder: Path, program: str) -> list[str]:
    """Return the words that *program* prints in a process of its own."""
    folder.joinpath("forking.py").write_text(FORKING)
    folder.joinpath("slow_listeners.py").write_text(LISTENERS)
    command = [sys.executable, "-c", "from forking import *\n" + program]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.lengthy("starts processes")
def test_a_fork_waits_for_listeners_that_another_thread_loads(tmp_path: Path) -> None:
    # Hooks are called in the reverse order, so the import can end only when the fork has begun.
    program = """
app = App(transports={"main": MemoryTransport()}, routes={"*": "main"}, listeners=["slow_listeners"])
os.register_at_fork(before=forked.set)
thread = threading.Thread(target=lambda: app.listeners)
thread.start()
begun.wait()
print(in_child(lambda: len(app.listeners) == 1))
thread.join()
print(len(app.listeners))
"""

    assert run(tmp_path, program) == ["0", "1"]


@pytest.mark.lengthy("starts processes")
def test_a_fork_waits_for_a_lock_whose_holder_makes_another_one(tmp_path: Path) -> None:
    program = """
import time
from relevo.backend import ForkLock

lock, made = ForkLock(patience=1000), []

def work():
    with lock:
        begun.set()
        forked.wait(60)
        for _ in range(200):  # the fork waits for the lock meanwhile
            made.append(ForkLock())
            time.sleep(0.001)

os.register_at_fork(before=forked.set)
thread = threading.Thread(target=work)
thread.start()
begun.wait()
print(in_child(lambda: lock.__enter__() is None and all(each.__enter__() is None for each in made)))
thread.join()
print(len(made))
"""

    assert run(tmp_path, program) == ["0", "200"]


@pytest.mark.lengthy("starts processes")
def test_a_child_sets_up_although_a_thread_of_its_parent_was_about_to(tmp_path: Path) -> None:
    program = """
class Slow(MemoryTransport):
    def setup(self, queues, *, dry_run=False):
        begun.set()
        if os.getpid() == parent:
            forked.wait(60)
        return super().setup(queues, dry_run=dry_run)

parent = os.getpid()
app = App(transports={"main": Slow()}, routes={"*": "main"})
thread = threading.Thread(target=app.prepare, args=["main"])
thread.start()
begun.wait()
print(in_child(lambda: app.dispatch(Event("a.b")).targets))
forked.set()
thread.join()
print(app.dispatch(Event("a.b")).targets[0])
"""

    assert run(tmp_path, program) == ["0", "main/default"]


def test_a_module_with_listeners_may_fork_while_it_is_loaded(tmp_path: Path) -> None:
    tmp_path.joinpath("forks.py").write_text(
        "import forking, relevo\n@relevo.listener('a.b')\ndef hear(event): ...\n"
        "print(forking.in_child(lambda: True), flush=True)\n"
    )
    program = """
app = App(transports={"main": MemoryTransport()}, routes={"*": "main"}, listeners=["forks"])
print(len(app.listeners), flush=True)
print(in_child(lambda: len(app.listeners) == 1))
"""

    assert run(tmp_path, program) == ["0", "1", "0"]


def test_many_threads_that_fork_leave_no_lock_held(tmp_path: Path) -> None:
    program = """
apps = [App(transports={"main": MemoryTransport()}, routes={"*": "main"}) for _ in range(3)]
codes = []
threads = [threading.Thread(target=lambda: codes.append(in_child(lambda: True))) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
for app in apps: app.prepare("main")
codes.append(in_child(lambda: [app.add_listener("a.b", print) for app in apps] != []))
print(*codes)
"""

    assert run(tmp_path, program) == ["0"] * 9


OBJECTS = """
import ctypes
from relevo.backend import ForkAware, ForkLock, notice_fork

class Noting(ForkAware):
    def __init__(self):
        self.calls = []
        super().__init__()

    def before_fork(self): self.calls.append("before")
    def after_fork_in_parent(self): self.calls.append("in_parent")
    def after_fork_in_child(self): self.calls.append("in_child")

def in_unseen_child(work):
    child = ctypes.PyDLL(None).fork()  # as a server in C forks: Python is not told
    if child == 0:
        signal.alarm(20)
        os._exit(0 if work() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

noting = Noting()
"""


def test_an_object_learns_of_a_fork_on_both_sides_of_it(tmp_path: Path) -> None:
    program = """
print(in_child(lambda: noting.calls == ["before", "in_child"]), *noting.calls)
"""

    assert run(tmp_path, OBJECTS + program) == ["0", "before", "in_parent"]


def test_in_the_child_of_a_fork_that_python_does_not_see_an_object_starts_again_once(tmp_path: Path) -> None:
    program = """
print(in_unseen_child(lambda: notice_fork() or notice_fork() or noting.calls == ["in_child"]), len(noting.calls))
notice_fork()
print(len(noting.calls))
"""

    assert run(tmp_path, OBJECTS + program) == ["0", "0", "0"]


@pytest.mark.parametrize("fork", ["in_child", "in_unseen_child"])
def test_a_lock_that_another_thread_holds_is_free_in_the_child(tmp_path: Path, fork: str) -> None:
    program = f"""
lock, free = ForkLock(), threading.Event()

def hold():
    with lock:
        begun.set()
        free.wait()

def take():
    notice_fork()
    with lock:
        return True

thread = threading.Thread(target=hold)
thread.start()
begun.wait()
print({fork}(take))
free.set()
thread.join()
print(take())
"""

    assert run(tmp_path, OBJECTS + program) == ["0", "True"]


@pytest.mark.parametrize("fork", ["in_child", "in_unseen_child"])
def test_a_lock_that_the_forking_thread_holds_stays_its_own(tmp_path: Path, fork: str) -> None:
    program = f"""
lock = ForkLock()

def taken_by_a_thread():
    got = []
    thread = threading.Thread(target=lambda: got.append(lock._lock.acquire(blocking=False)))
    thread.start()
    thread.join()
    return got[0]

def work():
    notice_fork()
    before = taken_by_a_thread()
    lock.__exit__(None, None, None)
    return not before

with lock:
    print({fork}(work))
"""

    assert run(tmp_path, OBJECTS + program) == ["0"]


def test_a_lock_starts_again_after_a_fork_that_was_seen_and_one_that_was_not() -> None:
    lock = ForkLock()
    lock.before_fork()
    lock.after_fork_in_parent()

    lock.after_fork_in_child()

    with lock:
        pass
