"""Several processes on one file, and one that is killed: nothing is lost, and nothing is handed out twice."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import pytest

from relevo import Envelope
from relevo_sql import SqlTransport

pytestmark = pytest.mark.slow("thousands of events through several processes")

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

EVENTS = 3_000

WORKER = """
import json, sys
from pathlib import Path
from relevo import Ack, Nack, SystemClock
from relevo_sql import SqlOptions, SqlTransport

with SqlTransport.open(SqlOptions(url=sys.argv[1]), name="worker", clock=SystemClock()) as transport:
    print("open", flush=True)
    sys.stdin.readline()
    done, has_begun = [], False
    while True:
        is_all = Path("all sent").exists()
        deliveries = transport.receive(["default"], limit=7, lease=300, wait=0.5)
        if not deliveries and is_all:
            break
        if deliveries and not has_begun:
            has_begun = True
            print("busy", flush=True)
            sys.stdin.readline()  # until each of the workers has some
        again = [d for d in deliveries if d.attempt == 1 and int(d.envelope.id[3:]) % 10 == 0]
        lost = transport.settle([(d, Nack() if d in again else Ack()) for d in deliveries])
        assert not lost
        done += [d.envelope.id for d in deliveries if d not in again]
    print(json.dumps(done))
"""

HOLDER = """
import json, sys, time
from relevo import SystemClock
from relevo_sql import SqlOptions, SqlTransport

transport = SqlTransport.open(SqlOptions(url=sys.argv[1]), name="holder", clock=SystemClock())
deliveries = transport.receive(["default"], limit=5, lease=600, wait=5)
transport.checkpoint(deliveries[0], b"half")
print(json.dumps([d.envelope.id for d in deliveries]), flush=True)
time.sleep(60)
"""

SENDER = """
import sys
from relevo import Envelope, SystemClock
from relevo_sql import SqlOptions, SqlTransport

transport = SqlTransport.open(SqlOptions(url=sys.argv[1]), name="sender", clock=SystemClock())
for number in range(1_000_000):
    transport.send([Envelope(id=f"id-{number}-{k}", source="shop", name="a.b", body=b"x" * 300) for k in range(3)])
    print(number, flush=True)
"""


def start(script: str, path: Path, *, ready: str = "") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, f"sqlite:///{path}"],
        cwd=path.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if ready:
        assert line_of(process) == ready
    return process


def line_of(process: subprocess.Popen[str]) -> str:
    output: IO[str] | None = process.stdout
    assert output is not None
    return output.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def kill(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate()
    return output


def test_workers_in_several_processes_share_a_queue(opener: Opener, path: Path, an_envelope: Maker) -> None:
    transport = opener()
    workers = [start(WORKER, path, ready="open") for _ in range(3)]
    transport.send([an_envelope(number) for number in range(EVENTS // 2)])

    for worker in workers:
        go_on(worker)
    assert [line_of(worker) for worker in workers] == ["busy"] * 3
    for worker in workers:
        go_on(worker)
    for number in range(EVENTS // 2, EVENTS, 50):
        transport.send([an_envelope(k) for k in range(number, number + 50)])
    (path.parent / "all sent").touch()
    done: list[list[str]] = [json.loads(worker.communicate(timeout=300)[0]) for worker in workers]

    assert [worker.returncode for worker in workers] == [0, 0, 0]
    counted = Counter(event_id for of_one in done for event_id in of_one)
    assert counted == Counter({f"id-{number}": 1 for number in range(EVENTS)})
    assert all(done), "one of them had nothing to do"
    stats = transport.stats("default")
    assert (stats.ready, stats.leased, stats.scheduled, stats.dead) == (0, 0, 0, 0)


def test_what_a_killed_process_held_comes_back_with_a_loss(opener: Opener, path: Path, an_envelope: Maker) -> None:
    transport = opener()
    transport.send([an_envelope(number) for number in range(8)])
    holder = start(HOLDER, path)
    held = json.loads(line_of(holder))

    kill(holder)
    at_once = transport.receive(["default"], limit=10, lease=600, wait=0)
    with closing(sqlite3.connect(path)) as connection, connection:  # as if the ten minutes were over
        connection.executemany("UPDATE relevo_event SET lease_until = 0 WHERE event_id = ?", [(each,) for each in held])
    back = list(transport.receive(["default"], limit=10, lease=600, wait=60))

    assert held == [f"id-{number}" for number in range(5)]
    assert [(d.envelope, d.lost_leases) for d in at_once] == [(an_envelope(number), 0) for number in range(5, 8)]
    assert [(d.envelope, d.attempt, d.lost_leases) for d in back] == [
        (an_envelope(number), 2, 1) for number in range(5)
    ]
    assert [d.state for d in back] == [b"half", b"", b"", b"", b""]


def test_what_a_killed_process_had_sent_is_there(opener: Opener, path: Path) -> None:
    transport = opener()
    sender = start(SENDER, path, ready="0")
    confirmed = [line_of(sender) for _ in range(20)]

    confirmed += kill(sender).split()
    last = int(confirmed[-1])

    received: Counter[Any] = Counter()
    while deliveries := transport.receive(["default"], limit=500, lease=60, wait=0):
        received.update(d.envelope.id for d in deliveries if isinstance(d.envelope, Envelope))
    batches = Counter(event_id.rpartition("-")[0] for event_id in received)
    assert {f"id-{number}" for number in range(last)} <= batches.keys()
    assert set(received.values()) == {1}
    assert set(batches.values()) == {3}, "a part of a batch was sent"
