"""A transport on both sides of a fork, on PostgreSQL: each process has a connection of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest

from relevo import Ack, Envelope
from relevo_sql import SqlTransport

from .test_forks import FORKED_WITHOUT_A_WORD, START

pytestmark = pytest.mark.slow("starts processes that fork")

Opener = Callable[..., SqlTransport]

SESSION = """
def session():
    return transport._database.read(lambda connection: connection.exec_driver_sql("SELECT pg_backend_pid()").scalar())

transport = opened()
"""


def run(script: str, database: str) -> list[str]:
    """Run *script* and return its lines."""
    process = subprocess.Popen(
        [sys.executable, "-c", START + script, database],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its children too
        raise
    assert (process.returncode, errors) == (0, "")
    return output.splitlines()


def left(opener: Opener, database: str) -> list[str]:
    transport = opener(url=database, setup=False)
    deliveries = transport.receive(["default"], limit=10_000, lease=60, wait=0)
    assert not transport.settle([(delivery, Ack()) for delivery in deliveries])
    return [d.envelope.id for d in deliveries if isinstance(d.envelope, Envelope)]


def test_parent_and_children_use_different_connections(opener: Opener, postgresql_database: str) -> None:
    script = """
transport.send([an_envelope("before")])
before = session()
pipe, into = os.pipe()

def work(number):
    for each in range(20):
        transport.send([an_envelope(f"child-{number}-{each}")])
    os.write(into, f"{session()}\\n".encode())

children = [in_child(lambda: work(number)) for number in range(2)]
for each in range(20):
    transport.send([an_envelope(f"parent-{each}")])
codes = [ended(child) for child in children]
os.close(into)
with os.fdopen(pipe) as lines:
    theirs = [int(line) for line in lines]
print(json.dumps([codes, len({before, session(), *theirs}), transport.stats("default").ready]))
"""

    (line,) = run(SESSION + script, postgresql_database)

    expected = {"before", *(f"parent-{each}" for each in range(20))}
    expected |= {f"child-{number}-{each}" for number in range(2) for each in range(20)}
    assert json.loads(line) == [[0, 0], 4, 61]  # the parent's connection was closed for the forks
    assert Counter(left(opener, postgresql_database)) == Counter(dict.fromkeys(expected, 1))


def test_a_thread_that_waits_for_events_goes_on_in_the_parent_and_a_child_waits_too(
    opener: Opener, postgresql_database: str
) -> None:
    script = """
taken = []

def wait():
    while not taken:
        taken.extend(transport.receive(["default"], limit=1, lease=60, wait=60))

thread = threading.Thread(target=wait)
thread.start()
transport.stats("default")

def work():
    transport.send([an_envelope("for the parent")])
    deliveries = transport.receive(["child"], limit=1, lease=60, wait=60)
    assert not transport.settle([(delivery, Ack()) for delivery in deliveries])
    print([delivery.envelope.id for delivery in deliveries], flush=True)
    transport.close()

child = in_child(work)
thread.join()
assert not transport.settle([(delivery, Ack()) for delivery in taken])
print([delivery.envelope.id for delivery in taken], flush=True)
transport.send([Envelope(id="for the child", source="shop", name="a.b", body=b"", queue="child")])
print(ended(child))
"""

    assert run(SESSION + script, postgresql_database) == ["['for the parent']", "['for the child']", "0"]
    assert left(opener, postgresql_database) == []


def test_a_delivery_of_the_parent_is_nothing_to_a_child(postgresql_database: str) -> None:
    script = """
transport.send([an_envelope("held")])
(held,) = transport.receive(["default"], limit=1, lease=60, wait=0)

def work():
    assert transport.settle([(held, Ack())]) == [held]
    print("lost", flush=True)

child = in_child(work)
print(ended(child), transport.settle([(held, Ack())]))
"""

    assert run(SESSION + script, postgresql_database) == ["lost", "0 []"]


def test_a_child_that_ends_does_not_end_the_session_of_the_parent(opener: Opener, postgresql_database: str) -> None:
    script = """
engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
from sqlalchemy.orm import Session

with Session(engine) as session:
    session.execute(sa.text("SELECT 1"))
    transport.bound_to(session).send(lambda: [an_envelope("parent")])
    print(ended(in_child(lambda: transport.send([an_envelope("child")]))))
    session.commit()
"""

    assert run(SESSION + script, postgresql_database) == ["0"]
    assert sorted(left(opener, postgresql_database)) == ["child", "parent"]


def test_a_connection_that_crossed_a_fork_that_python_is_not_told_of_is_refused_and_not_touched(
    opener: Opener, postgresql_database: str
) -> None:
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

    error, code = run(FORKED_WITHOUT_A_WORD + script, postgresql_database)

    assert code == "0"
    assert error.startswith(
        'the transport "main" had a connection open when this process was forked, and two processes cannot share it; '
        "send and receive only after the fork, or configure the server that forks to call Python's fork hooks"
    )
    assert left(opener, postgresql_database) == ["parent", "parent again"]
