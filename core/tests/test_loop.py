from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from relevo import App, Envelope, Event, RunOptions, listener
from relevo._loop import LoopRunner, stopped_by_signals
from relevo._relay import outbox_queue
from relevo.errors import TransportUnavailableError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport
from relevo_memory._store import Posting

DOWN = TransportUnavailableError("main", "down")
DRAIN = RunOptions(until_empty=True)
OUTBOX = outbox_queue("main")


@pytest.fixture(name="outbox")
def _outbox(clock: FakeClock) -> Iterator[MemoryTransport]:
    with MemoryTransport(name="outbox", clock=clock) as outbox:
        yield outbox


@pytest.fixture(name="put")
def _put(outbox: MemoryTransport, envelope: Callable[..., Envelope], clock: FakeClock) -> Callable[[str], None]:
    """Put an event into the outbox, as a committed transaction does."""

    def put(event_id: str) -> None:
        posting = Posting(queue=OUTBOX, envelope=envelope(event_id), due=clock.now())
        outbox.store.add([posting], clock.now())

    return put


@pytest.fixture(name="app")
def _app(transport: Any, outbox: MemoryTransport, clock: FakeClock) -> Callable[..., App]:
    """Make an application with one listener and, unless said otherwise, an outbox."""
    transport.name = "main"

    def app(function: Callable[..., object], *, with_outbox: bool = True) -> App:
        return App(
            transports={"main": transport},
            routes={"*": "main"},
            listeners=[listener("image.created", id="keep")(function)],
            outboxes={"main": outbox} if with_outbox else {},
            clock=clock,
            chance=lambda: 0.0,
        )

    return app


MakeApp = Callable[..., App]


# --- until empty ---------------------------------------------------------------------------------------


def test_a_drain_empties_the_outbox_and_the_queue(app: MakeApp, transport: Any, put: Callable[[str], None]) -> None:
    called: list[object] = []
    put("1")
    put("2")

    report = LoopRunner().run(app(lambda event: called.append(event)), DRAIN)  # noqa: PLW0108 - a list cannot be marked

    assert (report.done, report.stopped_by, len(called)) == (2, "empty", 2)
    assert transport.stats("default").leased == 0


def test_a_drain_goes_on_while_listeners_put_something_into_the_outbox(
    app: MakeApp, put: Callable[[str], None], outbox: MemoryTransport
) -> None:
    called: list[str] = []

    def dispatch_another(event: object, call: Any) -> None:
        called.append(call.event_id)
        if len(called) < 4:
            put(str(len(called)))

    put("0")

    report = LoopRunner().run(app(dispatch_another), DRAIN)

    assert called == ["0", "1", "2", "3"]
    assert report.done == 4
    assert outbox.stats(OUTBOX).ready == 0


def test_the_first_event_of_an_outbox_may_come_from_a_listener(
    app: MakeApp, transport: Any, put: Callable[[str], None], envelope: Callable[..., Envelope]
) -> None:
    called: list[str] = []

    def dispatch_another(event: object, call: Any) -> None:
        called.append(call.event_id)
        if call.event_id == "0":
            put("1")

    transport.send([envelope("0")])

    LoopRunner().run(app(dispatch_another), DRAIN)

    assert called == ["0", "1"]


def test_limits_hold_for_all_rounds_of_a_drain_together(
    app: MakeApp, put: Callable[[str], None], clock: FakeClock
) -> None:
    called: list[str] = []

    def dispatch_another(event: object, call: Any) -> None:
        called.append(call.event_id)
        clock.advance(1.0)
        put(str(len(called)))

    put("0")
    another = app(dispatch_another)
    by_number = LoopRunner().run(another, RunOptions(until_empty=True, max_events=3))
    put("again")
    by_time = LoopRunner().run(another, RunOptions(until_empty=True, max_seconds=5.0))

    assert (by_number.handled, by_number.stopped_by) == (3, "events")
    assert (by_time.handled, by_time.stopped_by) == (5, "time")


def test_a_drain_without_an_outbox_looks_once(app: MakeApp, transport: Any) -> None:
    report = LoopRunner().run(app(lambda event: None, with_outbox=False), DRAIN)

    assert report.handled == 0
    assert len(transport.said("receive")) == 1


def test_a_drain_ends_with_the_error_of_its_relay_and_its_worker_has_taken_nothing(
    app: MakeApp, transport: Any, put: Callable[[str], None], outbox: MemoryTransport
) -> None:
    put("1")
    transport.fail("send", DOWN)

    with pytest.raises(TransportUnavailableError):
        LoopRunner().run(app(lambda event: None), DRAIN)

    assert (outbox.stats(OUTBOX).ready, outbox.stats(OUTBOX).leased) == (1, 0)


@pytest.mark.parametrize("options", [DRAIN, RunOptions(max_events=1)])
def test_a_report_tells_what_the_relay_dead_lettered(
    options: RunOptions, app: MakeApp, put: Callable[[str], None], outbox: MemoryTransport
) -> None:
    outbox.store.put_raw(OUTBOX, b"not an event")
    put("1")

    report = LoopRunner().run(app(lambda event: None), options)

    assert (report.done, report.dead, report.reasons) == (1, 1, {"unreadable": 1})


# --- for ever ----------------------------------------------------------------------------------------------


def test_a_relay_runs_beside_the_worker(app: MakeApp, put: Callable[[str], None]) -> None:
    called: list[str] = []

    def keep(event: object, call: Any) -> None:
        called.append(call.event_id)

    for number in range(5):
        put(str(number))

    report = LoopRunner().run(app(keep), RunOptions(max_events=5))

    assert sorted(called) == ["0", "1", "2", "3", "4"]
    assert report.stopped_by == "events"
    assert [thread for thread in threading.enumerate() if thread.name.startswith("relevo")] == []


def test_a_relay_that_fails_stops_the_worker_and_says_why(
    app: MakeApp, put: Callable[[str], None], transport: Any
) -> None:
    put("1")
    transport.fail("send", RuntimeError("a defect of the driver"))

    with pytest.raises(RuntimeError, match="a defect of the driver"):
        LoopRunner(patient=True).run(app(lambda event: None), RunOptions(max_seconds=3600.0))


@pytest.mark.parametrize("options", [DRAIN, RunOptions(max_events=1)])
def test_a_patient_runner_waits_for_a_server_that_is_down_from_the_start(
    options: RunOptions, app: MakeApp, transport: Any, put: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    put("1")
    transport.fail("setup", DOWN, times=5)

    report = LoopRunner(patient=True).run(app(lambda event: None), options)

    assert report.done == 1
    assert caplog.text.count("waiting until it is back") == 1


def test_a_runner_that_is_not_patient_says_that_the_server_is_down(app: MakeApp, transport: Any) -> None:
    transport.fail("setup", DOWN)

    with pytest.raises(TransportUnavailableError):
        LoopRunner().run(app(lambda event: None), DRAIN)


# --- what the host system runs ------------------------------------------------------------------------------


def test_the_unit_is_the_command_line(app: MakeApp) -> None:
    runner = LoopRunner()

    worker = runner.unit(app(lambda event: None), RunOptions(transport="main"))
    drain = runner.unit(app(lambda event: None), DRAIN)

    assert worker == f"{sys.executable} -m relevo worker --transport main"
    assert drain == f"{sys.executable} -m relevo drain"


# --- signals --------------------------------------------------------------------------------------------------


def test_handlers_of_signals_are_put_back(app: MakeApp) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    with stopped_by_signals(None):
        during = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    assert during != before
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_program_may_keep_its_signals(app: MakeApp) -> None:
    before = signal.getsignal(signal.SIGTERM)
    during: list[object] = []
    made = app(lambda event: during.append(signal.getsignal(signal.SIGTERM)), with_outbox=False)
    made.dispatch(Event("image.created"))

    LoopRunner(signals=False).run(made, DRAIN)

    assert during == [before]


def test_outside_the_main_thread_signals_are_left_alone(app: MakeApp) -> None:
    during: list[object] = []

    def run() -> None:
        with stopped_by_signals(None):
            during.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    assert during == [signal.getsignal(signal.SIGTERM)]


SHOP = """
import atexit, time
import relevo
from relevo_memory import MemoryTransport

@relevo.listener("image.created")
def work(event):
    print("begun", flush=True)
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        time.sleep(0.01)
    print("finished", flush=True)

main = MemoryTransport(name="main")
app = relevo.App(transports={"main": main}, routes={"*": "main"}, listeners=[work])
for number in range(NUMBER):
    app.dispatch(relevo.Event("image.created", {"number": number}))

@atexit.register
def tell():
    stats = MemoryTransport(main.store).stats("default")
    print("left", stats.ready, stats.leased, stats.scheduled, flush=True)
"""


class _Program:
    """``relevo worker`` in a process of its own, whose listener takes so many seconds."""

    def __init__(self, folder: Path, *, seconds: float, number: int, verb: str = "worker") -> None:
        (folder / "shop.py").write_text(SHOP.replace("SECONDS", str(seconds)).replace("NUMBER", str(number)))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "relevo", verb, "-a", "shop:app"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, line: str) -> None:
        stdout: IO[str] | None = self.process.stdout
        assert stdout is not None
        for found in stdout:
            if found.strip() == line:
                return
        pytest.fail(f"it ended without saying {line!r}: {self.process.communicate()[1]}")

    def end(self) -> tuple[int, list[str]]:
        """Wait for its end; return its exit code and what else it said."""
        try:
            stdout, stderr = self.process.communicate(timeout=20)
        finally:
            self.process.kill()
        assert stderr == ""
        return self.process.returncode, stdout.splitlines()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("verb", ["worker", "drain"])
def test_the_first_signal_finishes_the_current_listener_and_gives_back_the_rest(
    number: signal.Signals, verb: str, tmp_path: Path
) -> None:
    program = _Program(tmp_path, seconds=0.5, number=5, verb=verb)
    program.wait_for("begun")

    program.process.send_signal(number)
    code, said = program.end()

    assert said == ["finished", "left 4 0 0"]
    assert code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(number: signal.Signals, tmp_path: Path) -> None:
    program = _Program(tmp_path, seconds=60, number=5)
    program.wait_for("begun")

    program.process.send_signal(number)
    time.sleep(0.3)
    began = time.monotonic()
    program.process.send_signal(number)
    code, said = program.end()

    assert time.monotonic() - began < 3
    assert said == ["left 5 0 0"]
    assert code == 128 + number


def test_an_idle_worker_ends_soon_after_a_signal(tmp_path: Path) -> None:
    program = _Program(tmp_path, seconds=0, number=1)
    program.wait_for("finished")
    time.sleep(0.5)

    began = time.monotonic()
    program.process.send_signal(signal.SIGTERM)
    code, said = program.end()

    assert time.monotonic() - began < 3
    assert (code, said) == (0, ["left 0 0 0"])
