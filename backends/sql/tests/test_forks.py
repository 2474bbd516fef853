"""A transport on both sides of a fork: the child starts with nothing, the parent goes on, and no event is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from relevo import Ack, Envelope, SystemClock
from relevo_sql import SqlOptions, SqlTransport

pytestmark = pytest.mark.slow("starts processes that fork")

START = """
import contextlib, ctypes, json, multiprocessing, os, sys, threading, warnings
import sqlalchemy as sa
from relevo import Ack, Envelope, SystemClock
from relevo.errors import ConfigurationError, LeaseLostError
from relevo_sql import SqlOptions, SqlTransport

warnings.simplefilter("ignore", DeprecationWarning)  # of forks while there are threads
url = sys.argv[1]

def an_envelope(id):
    return Envelope(id=id, source="shop", name="a.b", body=b"{}")

def opened():
    transport = SqlTransport.open(SqlOptions(url=url), name="main", clock=SystemClock())
    transport.setup([])
    return transport

def in_child(work):
    if (child := os.fork()) == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            print(f"child: {error!r}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return child

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""

EVERYBODY = """
transport = opened()
transport.send([an_envelope("held")])
(held,) = transport.receive(["default"], limit=1, lease=60, wait=0)
pipe, into = os.pipe()
stop = threading.Event()
sent_beside = []

def send_beside():
    while not stop.is_set():
        transport.send([an_envelope(f"beside-{len(sent_beside)}")])
        sent_beside.append(None)

def wait_beside():
    while not stop.is_set():
        transport.receive(["nothing"], limit=1, lease=60, wait=0.3)

def work(number):
    def send_in_a_thread():
        for each in range(20):
            transport.send([an_envelope(f"thread-{number}-{each}")])

    thread = threading.Thread(target=send_in_a_thread)
    thread.start()
    taken = []
    for each in range(60):
        transport.send([an_envelope(f"child-{number}-{each}")])
        deliveries = transport.receive(["default"], limit=3, lease=60, wait=0)
        assert not transport.settle([(d, Ack()) for d in deliveries])
        taken += [d.envelope.id for d in deliveries]
    thread.join()
    os.write(into, (json.dumps(taken) + "\\n").encode())

threads = [threading.Thread(target=each) for each in (send_beside, wait_beside)]
for thread in threads:
    thread.start()
children = [in_child(lambda: work(number)) for number in range(2)]
other = multiprocessing.get_context("fork").Process(target=work, args=[2])
other.start()
taken = []
for each in range(30):
    transport.send([an_envelope(f"parent-{each}")])
    deliveries = transport.receive(["default"], limit=2, lease=60, wait=0)
    assert not transport.settle([(d, Ack()) for d in deliveries])
    taken += [d.envelope.id for d in deliveries]
codes = [ended(child) for child in children]
other.join()
stop.set()
for thread in threads:
    thread.join()
os.close(into)
with os.fdopen(pipe) as lines:
    for line in lines:
        taken += json.loads(line)
assert not transport.settle([(held, Ack())])
transport.close()
print(json.dumps([codes, other.exitcode, taken, len(sent_beside)]))
"""


def run(script: str, path: Path) -> list[str]:
    """Run *script* and return its lines."""
    process = subprocess.Popen(
        [sys.executable, "-c", START + script, f"sqlite:///{path}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its children too
        raise
    assert (process.returncode, errors) == (0, "")
    return output.splitlines()


def left(path: Path) -> list[str]:
    with SqlTransport.open(SqlOptions(url=f"sqlite:///{path}"), name="after", clock=SystemClock()) as transport:
        deliveries = transport.receive(["default"], limit=10_000, lease=60, wait=0)
        assert not transport.settle([(delivery, Ack()) for delivery in deliveries])
        return [d.envelope.id for d in deliveries if isinstance(d.envelope, Envelope)]


def test_parent_and_children_work_on_at_the_same_time(path: Path) -> None:
    (line,) = run(EVERYBODY, path)

    codes, other, taken, beside = json.loads(line)
    expected = {f"child-{number}-{each}" for number in range(3) for each in range(60)}
    expected |= {f"thread-{number}-{each}" for number in range(3) for each in range(20)}
    expected |= {f"parent-{each}" for each in range(30)} | {f"beside-{each}" for each in range(beside)}
    assert (codes, other) == ([0, 0], 0)
    assert Counter(taken + left(path)) == Counter(dict.fromkeys(expected, 1))


def test_what_a_child_sends_stays_when_the_parent_ends_before_it(path: Path) -> None:
    script = """
transport = opened()
transport.send([an_envelope("parent")])
pipe, into = os.pipe()
go, goes = os.pipe()

def work():
    transport.send([an_envelope("first")])
    os.write(into, b"x")
    os.read(go, 1)
    transport.send([an_envelope("last")])

child = in_child(work)
os.read(pipe, 1)
transport.close()
stranger = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM relevo_event').fetchall()"
os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", stranger, url.removeprefix("sqlite:///")])
os.write(goes, b"x")
print(ended(child))
"""

    assert run(script, path) == ["0"]
    assert left(path) == ["parent", "first", "last"]


def test_no_connection_is_open_while_a_process_is_forked(path: Path) -> None:
    script = """
def files():
    found = set()
    for each in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(os.path.basename(os.readlink(f"/proc/self/fd/{each}")))
    return sorted(name for name in found if name.startswith("shop.db"))

transport = opened()
transport.stats("default")
given = SqlTransport(sa.create_engine(url))
given.stats("default")
assert files()
child = in_child(lambda: print(files(), flush=True))
print(ended(child), transport.stats("default").ready, given.stats("default").ready)
"""

    assert run(script, path) == ["[]", "0 0 0"]


def test_a_delivery_of_the_parent_is_nothing_to_a_child(path: Path) -> None:
    script = """
transport = opened()
transport.send([an_envelope("held")])
(held,) = transport.receive(["default"], limit=1, lease=60, wait=0)

def work():
    assert transport.settle([(held, Ack())]) == [held]
    assert transport.extend([held], lease=60) == [held]
    try:
        transport.checkpoint(held, b"half")
    except LeaseLostError:
        print("lost", flush=True)
    transport.close()

child = in_child(work)
print(ended(child), transport.extend([held], lease=60), transport.settle([(held, Ack())]))
"""

    assert run(script, path) == ["lost", "0 [] []"]


def test_a_child_of_a_child_works_too(path: Path) -> None:
    script = """
transport = opened()
transport.send([an_envelope("parent")])

def work():
    transport.send([an_envelope("child")])
    grandchild = in_child(lambda: transport.send([an_envelope("grandchild")]))
    assert ended(grandchild) == 0
    transport.send([an_envelope("child again")])

print(ended(in_child(work)))
"""

    assert run(script, path) == ["0"]
    assert left(path) == ["parent", "child", "grandchild", "child again"]


def test_one_that_was_closed_stays_closed_in_a_child(path: Path) -> None:
    script = """
from relevo.errors import TransportClosedError
transport = opened()
transport.close()

def work():
    try:
        transport.stats("default")
    except TransportClosedError:
        print("closed", flush=True)

print(ended(in_child(work)))
"""

    assert run(script, path) == ["closed", "0"]


def test_a_session_joins_in_a_child_what_was_set_up_before(path: Path) -> None:
    script = """
import relevo
from sqlalchemy.orm import Session

engine = sa.create_engine(url)
app = relevo.App(transports={"main": SqlTransport(engine)}, routes={"*": "main"})
app.setup()
app.dispatch(relevo.Event("image.created"))

def work():
    with Session(engine) as session:
        app.dispatch(relevo.Event("image.created"), session=session)
        session.commit()

print([ended(child) for child in [in_child(work), in_child(work)]], app.transport().stats("default").ready)
"""

    assert run(script, path) == ["[0, 0] 3"]


def test_a_fork_does_not_wait_for_a_thread_that_waits_for_another_writer(path: Path) -> None:
    script = """
import subprocess
transport = opened()
blocking = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN IMMEDIATE'); print(); input()"
blocker = subprocess.Popen(
    [sys.executable, "-c", blocking, url.removeprefix("sqlite:///")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
)
blocker.stdout.readline()
thread = threading.Thread(target=transport.send, args=[[an_envelope("patient")]])
thread.start()
while not transport._database._uses:
    pass
pipe, into = os.pipe()

def work():
    os.read(pipe, 1)
    transport.send([an_envelope("child")])

child = in_child(work)
print(thread.is_alive())
blocker.communicate(b"\\n")
thread.join()
os.write(into, b"x")
print(ended(child))
"""

    assert run(script, path) == ["True", "0"]
    assert left(path) == ["patient", "child"]


FORKED_WITHOUT_A_WORD = """
def in_child(work):
    child = ctypes.PyDLL(None).fork()  # as a server in C forks: Python is not told
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child

transport = opened()
"""


def test_it_may_be_set_up_before_a_fork_that_python_is_not_told_of(path: Path) -> None:
    script = """
transport._joining.__enter__()
transport._doorbell._changed.acquire()
print(ended(in_child(lambda: transport.send([an_envelope("child")]))))
"""

    assert run(FORKED_WITHOUT_A_WORD + script, path) == ["0"]
    assert left(path) == ["child"]


def test_one_that_is_made_after_such_a_fork_works_beside_one_that_was_made_before(path: Path) -> None:
    script = """
def work():
    beside = SqlTransport.open(SqlOptions(url=url + "-beside"), name="beside", clock=SystemClock())
    beside.setup([])
    beside.send([an_envelope("beside")])
    transport.send([an_envelope("child")])
    beside.send([an_envelope("beside again")])

print(ended(in_child(work)))
"""

    assert run(FORKED_WITHOUT_A_WORD + script, path) == ["0"]
    assert left(path) == ["child"]
    assert left(Path(f"{path}-beside")) == ["beside", "beside again"]


def test_a_connection_that_crossed_such_a_fork_is_refused_and_not_touched(path: Path) -> None:
    script = """
transport.send([an_envelope("parent")])

def work():
    try:
        transport.send([an_envelope("child")])
    except ConfigurationError as error:
        print(error, flush=True)

print(ended(in_child(work)))
transport.send([an_envelope("parent again")])
"""

    error, code = run(FORKED_WITHOUT_A_WORD + script, path)
    assert code == "0"
    assert error == (
        'the transport "main" had a connection open when this process was forked, and SQLite would lose what is '
        "written now; send and receive only after the fork, or configure the server that forks to call Python's fork "
        "hooks (uWSGI: py-call-uwsgi-fork-hooks), or to import the application in each process (uWSGI: lazy-apps)"
    )
    assert left(path) == ["parent", "parent again"]
