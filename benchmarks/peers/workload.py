"""The measurements: how many events a second are sent, or handled by one worker, and how long one takes to reach it."""

from __future__ import annotations

import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path

import attrs

from peers import database, quiet
from peers.meter import VARIABLE, Meter
from peers.peer import Immediate, Peer, Place, Sender

BENCHMARKS = Path(__file__).parents[1]

STALL = 30.0
"""Seconds without an event after which no more are expected; a worker has to start within them."""

_TRAIL = 1.0
"""Seconds for the ack or deletion of handled events."""

_CALM = 1.5
"""Seconds until a worker is idle after its first event."""

_STEP = 0.05
_GRACE = 10.0


@attrs.frozen(kw_only=True)
class Measured:
    """The result of one measurement."""

    value: float
    """Events a second; or the median in milliseconds."""

    p95: float | None = None
    """Milliseconds."""

    events: int
    left: int = 0
    """How many events were not done although their listener ran: the next worker handles them again."""

    twice: int = 0
    """How many calls of the listener were repeated ones."""

    machine: quiet.Machine


def consume(peer: str, url: str, *, events: int, patience: float) -> Measured:
    """
    Measure how many events a second one worker of *peer* handles, of those that exist when it starts.

    Args:
        peer: The class of the peer, as module:name.

        url: The address of its server; empty if it needs none.

        events: The number of events.

        patience: Seconds to wait for a quiet machine.
    """
    with _peer(peer, url) as one:
        meter = Meter.made(one.place.folder / "meter", events=events)
        one.fill(events)
        machine = quiet.wait(one.place.folder, patience=patience)
        with running(one, one.command(), meter) as process:
            _until(events, meter, process)
            time.sleep(_TRAIL)
            _until_nothing_is_left(one)
        entered = [entry for _, entry in meter.read()]
        seconds = (entered[events - 1] - entered[0]) / 1e9
        return Measured(
            value=(events - 1) / seconds,
            events=events,
            left=one.left(),
            twice=len(entered) - events,
            machine=machine,
        )


def dispatch(peer: str, url: str, *, events: int, patience: float) -> Measured:
    """
    Measure how many events a second *peer* sends one by one, each of them durable before the next.

    Args:
        peer: The class of the peer, as module:name.

        url: The address of its server; empty if it needs none.

        events: The number of events.

        patience: Seconds to wait for a quiet machine.
    """
    with _peer(peer, url) as one:
        assert isinstance(one, Sender)  # noqa: S101 - CONTESTANTS names only such peers
        with one.sending() as send:
            send()  # afterwards everything that is created on demand exists
            machine = quiet.wait(one.place.folder, patience=patience)
            began = time.perf_counter()
            for _ in range(events):
                send()
            taken = time.perf_counter() - began
        return Measured(value=events / taken, events=events, machine=machine)


def latency(peer: str, url: str, *, seconds: float, rate: float, patience: float) -> Measured:
    """
    Measure the time from before an event is sent until its listener is called, in a worker that is otherwise idle.

    Args:
        peer: The class of the peer, as module:name.

        url: The address of its server; empty if it needs none.

        seconds: The duration.

        rate: Events a second.

        patience: Seconds to wait for a quiet machine.
    """
    events = 1 + round(seconds * rate)
    with _peer(peer, url) as one:
        meter = Meter.made(one.place.folder / "meter", events=events)
        assert isinstance(one, Immediate)  # noqa: S101 - CONTESTANTS names only such peers
        machine = quiet.wait(one.place.folder, patience=patience)
        with running(one, one.resident(), meter) as process, one.sending() as send:
            send()  # afterwards everything that is created on demand exists
            _until(1, meter, process)
            time.sleep(_CALM)
            began = time.monotonic()
            for number in range(1, events):
                time.sleep(max(0.0, began + number / rate - time.monotonic()))
                send()
            _until(events, meter, process)
            _until_nothing_is_left(one)
        notes = meter.read()
        waits = [(entered - sent) / 1e6 for sent, entered in notes[1:events]]
        return Measured(
            value=statistics.median(waits),
            p95=statistics.quantiles(waits, n=20, method="inclusive")[-1],
            events=len(waits),
            left=one.left(),
            twice=len(notes) - events,
            machine=machine,
        )


@contextmanager
def _peer(name: str, url: str) -> Iterator[Peer]:
    """Yield the peer *name* with separate resources, and delete everything that it created."""
    module, _, kind = name.partition(":")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="relevo-bench-"))
        own = stack.enter_context(database.fresh(url)) if database.is_server(url) else url
        place = Place(folder=Path(folder), name=f"bench-{secrets.token_hex(4)}", url=own)
        # For its module, for its worker, and for the program that starts the worker.
        path = os.pathsep.join(filter(None, (str(BENCHMARKS), os.environ.get("PYTHONPATH"))))
        os.environ |= {**place.environ(), "PYTHONPATH": path}
        peer: Peer = getattr(import_module(module), kind)(place)
        try:
            yield peer
        finally:
            peer.clear()


@contextmanager
def running(peer: Peer, command: Sequence[str], meter: Meter) -> Iterator[subprocess.Popen[bytes]]:
    """Run the worker of *peer* by *command*, in a separate session, until the block ends."""
    log = peer.place.folder / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=BENCHMARKS,
            env={**os.environ, **peer.environ(), VARIABLE: str(meter.path)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        except NotHandledError:
            sys.stderr.write(log.read_text(errors="replace")[-2000:])
            raise
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End *process* with a TERM, and kill what is left in its session."""
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class NotHandledError(Exception):
    """Raised when a worker does not handle the events that were sent."""


def _until(number: int, meter: Meter, process: subprocess.Popen[bytes]) -> None:
    """Wait until that number of events was handled."""
    seen, since = 0, time.monotonic()
    while not meter.came(number):
        time.sleep(_STEP)
        if time.monotonic() - since > STALL or process.poll() is not None:
            came = len(meter.read())
            if came == seen or process.poll() is not None:
                raise NotHandledError(f"{came} of {number} events were handled; the worker ended: {process.poll()}")
            seen, since = came, time.monotonic()


def _until_nothing_is_left(peer: Peer) -> None:
    """
    Wait until the last events are done too: the worker may be between their listeners and the ack, or the deletion.

    A broker may not count those that the worker holds.
    """
    since = time.monotonic()
    while peer.left() and time.monotonic() - since < STALL:
        time.sleep(_STEP)
