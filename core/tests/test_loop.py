from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Any, Literal

import attrs
import pytest

from relevo import (
    App,
    Coordinator,
    Envelope,
    Event,
    Execution,
    ListenerTable,
    Report,
    RetryLater,
    RunOptions,
    hookimpl,
    listener,
)
from relevo._app.check import unenforced_limits
from relevo._runner import host_lock, process_limit, single_flight as flights
from relevo._runner.lock_path import single_flight
from relevo._runner.loop import LoopRunner, stop_on_signals
from relevo._transport.route import outbox_queue
from relevo._worker.worker import GRACE
from relevo.cli._run import why_later
from relevo.errors import ConfigurationError, TransportUnavailableError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport
from relevo_memory._store import Posting

DOWN = TransportUnavailableError("main", "down")
DRAIN = RunOptions(until_empty=True)
OUTBOX = outbox_queue("main")
PATIENCE = 300.0
KEY = "Vq3TnB7xZk9RwLf2HsJd8Mpy0123abcd"


@pytest.fixture(name="outbox")
def _outbox(clock: FakeClock) -> Iterator[MemoryTransport]:
    with MemoryTransport(name="outbox", clock=clock) as outbox:
        yield outbox


@pytest.fixture(name="put")
def _put(outbox: MemoryTransport, envelope: Callable[..., Envelope], clock: FakeClock) -> Callable[..., None]:
    """Put an event into the outbox, as a committed transaction does."""

    def put(event_id: str, *, delay: float = 0.0) -> None:
        posting = Posting(queue=OUTBOX, envelope=envelope(event_id), due=clock.now() + delay)
        outbox.store.add([posting], clock.now())

    return put


@pytest.fixture(name="app")
def _app(transport: Any, outbox: MemoryTransport, clock: FakeClock) -> Callable[..., App]:
    """Make an application with one listener and, unless said otherwise, an outbox."""
    transport.name = "main"

    def app(function: Callable[..., object], *, with_outbox: bool = True, **more: Any) -> App:
        return App(
            transports={"main": transport},
            routes={"*": "main"},
            listeners=[listener("image.created", id="keep")(function)],
            outboxes={"main": outbox} if with_outbox else {},
            clock=clock,
            chance=lambda: 0.0,
            **more,
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


@pytest.mark.parametrize("settle, done", [(0.0, 1), (1.5, 1), (2.5, 2), (60.0, 3)])
def test_a_drain_waits_for_what_becomes_due_in_the_outbox_as_long_as_it_is_told_to(
    settle: float, done: int, app: MakeApp, put: Callable[..., None], clock: FakeClock
) -> None:
    began = clock.now()
    put("at once")
    put("soon", delay=2.0)
    put("later", delay=4.0)

    report = LoopRunner().run(app(lambda event: None), attrs.evolve(DRAIN, settle=settle))

    assert (report.done, report.stopped_by) == (done, "empty")
    assert clock.now() - began <= settle + 1.0
    assert clock.now() - began < 10.0


def test_the_time_that_a_drain_waits_is_one_for_the_outbox_and_the_queue(
    app: MakeApp, put: Callable[..., None], clock: FakeClock
) -> None:
    called: list[float] = []
    began = clock.now()

    def be_called_later(event: object) -> None:
        called.append(clock.now() - began)
        raise RetryLater(4.0)

    put("now and then")
    put("too late", delay=7.0)

    LoopRunner().run(app(be_called_later), attrs.evolve(DRAIN, settle=6.0))

    assert [round(each) for each in called] == [0, 4]
    assert clock.now() - began < 7.0


def test_a_drain_that_waits_for_its_outbox_ends_for_a_deploy(
    app: MakeApp, put: Callable[..., None], clock: FakeClock
) -> None:
    class Objecting:
        @hookimpl
        def relevo_may_run(self) -> str | None:
            return "deploy" if clock.now() >= began + 1.0 else None

    began = clock.now()
    put("later", delay=30.0)
    made = app(lambda event: None)
    made.hooks.add(Objecting())

    report = LoopRunner().run(made, attrs.evolve(DRAIN, settle=60.0))

    assert report.stopped_by == "objection"
    assert clock.now() - began < 3.0


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

    assert (report.handled, report.done, report.dead, report.reasons) == (2, 1, 1, {"unreadable": 1})


# --- a relay alone ------------------------------------------------------------------------------------------


def test_a_relay_alone_moves_events_and_calls_no_listener(
    app: MakeApp, transport: Any, put: Callable[[str], None], outbox: MemoryTransport
) -> None:
    put("1")
    put("2")

    report = LoopRunner().run(app(lambda event: pytest.fail("called")), RunOptions(until_empty=True, relay_only=True))

    assert (report.done, report.stopped_by) == (2, "empty")
    assert (outbox.stats(OUTBOX).ready, transport.stats("default").ready) == (0, 2)


def test_a_relay_alone_waits_for_a_target_that_is_down_when_it_starts(
    app: MakeApp, transport: Any, put: Callable[[str], None]
) -> None:
    put("1")
    transport.fail("setup", DOWN, times=3)

    report = LoopRunner(patient=True).run(app(lambda event: None), RunOptions(max_events=1, relay_only=True))

    assert (report.done, transport.stats("default").ready) == (1, 1)


def test_a_relay_alone_goes_on_during_a_deploy(
    app: MakeApp, put: Callable[[str], None], tmp_path: Path, transport: Any
) -> None:
    (tmp_path / "deploy").touch()
    put("1")

    report = LoopRunner().run(
        app(lambda event: None, deploy=tmp_path / "deploy"), RunOptions(until_empty=True, relay_only=True)
    )

    assert (report.done, transport.stats("default").ready) == (1, 1)


def test_a_relay_alone_needs_an_outbox(app: MakeApp) -> None:
    with pytest.raises(ConfigurationError, match='"main" has no outbox; nothing to relay; give it one'):
        LoopRunner().run(app(lambda event: None, with_outbox=False), RunOptions(relay_only=True))


@pytest.mark.parametrize(
    "options", [{"queues": ["feed"]}, {"concurrency": 2}, {"max_memory": "1G"}, {"max_failures": 1}, {"event_id": "1"}]
)
def test_a_relay_alone_refuses_what_has_no_effect_on_it(options: dict[str, Any]) -> None:
    (name,) = options

    with pytest.raises(ConfigurationError, match=f"RunOptions: {name}: a relay calls no listener.*leave {name} out"):
        RunOptions(relay_only=True, **options)


# --- for ever ----------------------------------------------------------------------------------------------


def test_a_relay_runs_beside_the_worker(app: MakeApp, put: Callable[[str], None]) -> None:
    called: list[str] = []

    def keep(event: object, call: Any) -> None:
        called.append(call.event_id)

    for number in range(5):
        put(str(number))

    before = set(threading.enumerate())  # others of this process may still be at their mails

    report = LoopRunner().run(app(keep), RunOptions(max_events=5))

    assert sorted(called) == ["0", "1", "2", "3", "4"]
    assert report.stopped_by == "events"
    left = set(threading.enumerate()) - before
    assert [thread.name for thread in left if thread.name.startswith("relevo")] == []


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


@pytest.mark.parametrize("down, is_relay", [("main", True), ("main", False), ("outbox", True)])
def test_the_end_of_an_outage_at_the_start_is_logged_too(
    app: MakeApp,
    transport: Any,
    outbox: MemoryTransport,
    put: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
    down: str,
    *,
    is_relay: bool,
) -> None:
    put("1")
    store = transport if down == "main" else outbox
    errors = [TransportUnavailableError(down, "down")] * 3
    set_up = store.setup

    def setup(*given: Any, **how: Any) -> Any:
        if errors:
            raise errors.pop()
        return set_up(*given, **how)

    store.setup = setup  # type: ignore[method-assign]  # an outbox of memory has no faults of its own

    LoopRunner(patient=True).run(app(lambda event: None), RunOptions(max_events=1, relay_only=is_relay))

    ended = [record.getMessage() for record in caplog.records if " is back after " in record.getMessage()]
    assert [each.partition(" is back")[0] for each in ended] == [f'the transport "{down}"']


def fail_until(store: Any, is_up: threading.Event) -> None:
    """Let *store* be down until *is_up* is set."""
    set_up = store.setup

    def setup(*given: Any, **how: Any) -> Any:
        if not is_up.is_set():
            raise TransportUnavailableError(store.name, "no such host")
        return set_up(*given, **how)

    store.setup = setup


def test_a_worker_begins_although_its_outbox_is_down(
    app: MakeApp, outbox: MemoryTransport, put: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    is_up = threading.Event()
    fail_until(outbox, is_up)
    put("stored before")
    handled: list[str] = []

    def work(event: object, call: Any) -> None:
        handled.append(call.event_id)
        is_up.set()

    made = app(work)
    sent = made.dispatch("image.created").id

    report = LoopRunner(patient=True).run(made, RunOptions(max_events=2))

    assert handled == [sent, "stored before"]
    assert report.done == 2
    assert 'the transport "outbox" is unavailable: no such host; events that do not need it are handled' in caplog.text


def test_a_relay_warns_of_the_event_of_another_application_that_it_moves(
    app: MakeApp, put: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    put("1")
    put("2")

    LoopRunner().run(app(lambda event: None, source="another"), RunOptions(relay_only=True, max_events=2))

    assert caplog.text.count("an event of the application") == 1


@pytest.mark.parametrize("options", [DRAIN, RunOptions(max_events=1)])
def test_a_runner_that_is_not_patient_does_not_begin_without_the_outbox(
    options: RunOptions, app: MakeApp, outbox: MemoryTransport
) -> None:
    fail_until(outbox, threading.Event())
    handled: list[object] = []
    made = app(lambda event: handled.append(event))  # noqa: PLW0108 - a list cannot be marked
    made.dispatch("image.created")

    with pytest.raises(TransportUnavailableError, match="no such host"):
        LoopRunner().run(made, options)

    assert handled == []


@pytest.mark.parametrize("until_empty", [True, False])
@pytest.mark.parametrize("with_outbox", [True, False])
@pytest.mark.parametrize("operation", ["setup", "receive"])
def test_a_patient_runner_that_waits_for_a_server_ends_at_a_limit_of_time(
    *, operation: str, with_outbox: bool, until_empty: bool, app: MakeApp, transport: Any, clock: FakeClock
) -> None:
    transport.fail(operation, DOWN, times=100)
    began = clock.now()

    report = LoopRunner(patient=True).run(
        app(lambda event: None, with_outbox=with_outbox), RunOptions(until_empty=until_empty, max_seconds=30.0)
    )

    assert (report.handled, report.stopped_by) == (0, "time")
    assert clock.now() - began >= 30.0
    if not with_outbox:  # the clock is one that a relay in its thread moves too, as often as it gets its turn
        assert clock.now() - began < 35.0  # and so does a worker that finds nothing


def test_a_limit_of_time_applies_to_the_calls_of_the_relay_beside_the_worker(
    app: MakeApp, transport: Any, outbox: Any
) -> None:
    limited: set[tuple[str, str]] = set()
    for store in (transport, outbox):

        def note(seconds: float | None, name: str = store.name) -> None:
            if seconds is not None:
                limited.add((threading.current_thread().name, name))

        store.hurry = note

    LoopRunner().run(app(lambda event: None), RunOptions(max_seconds=30.0))

    assert limited >= {("relevo-relay", "main"), ("relevo-relay", "outbox")}


@pytest.mark.parametrize("until_empty", [True, False])
def test_a_limit_of_time_applies_to_what_a_relay_alone_creates(
    app: MakeApp, transport: Any, outbox: Any, *, until_empty: bool
) -> None:
    said: list[tuple[str, float | None]] = []
    for store in (transport, outbox):

        def note(seconds: float | None, name: str = store.name) -> None:
            said.append((name, seconds))

        store.hurry = note
    set_up = transport.setup

    def setup(*given: Any, **how: Any) -> Any:
        said.append(("setup", None))
        return set_up(*given, **how)

    transport.setup = setup

    options = RunOptions(relay_only=True, until_empty=until_empty, max_seconds=30.0)
    LoopRunner().run(app(lambda event: None), options)

    assert said[:3] == [("main", 30.0 + GRACE), ("outbox", 30.0 + GRACE), ("setup", None)]
    assert said[-2:] == [("main", None), ("outbox", None)]


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

    with stop_on_signals(None):
        during = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    assert during != before
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # beside threads that other tests left
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_child_of_a_fork_ends_as_it_did_before_even_the_moment_it_is_there(number: signal.Signals) -> None:
    before = {each: signal.signal(each, signal.SIG_DFL) for each in (signal.SIGTERM, signal.SIGINT)}
    codes = []
    with stop_on_signals(None), stop_on_signals(None):
        for _ in range(20):
            child = os.fork()
            if not child:
                signal.alarm(20)
                signal.pause()
                os._exit(0)
            os.kill(child, number)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    for each, handler in before.items():
        signal.signal(each, handler)

    assert set(codes) == {-number}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # beside threads that other tests left
def test_a_child_of_a_fork_keeps_a_handler_that_a_listener_set() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals(None):
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(7))
        child = os.fork()
        if not child:
            signal.alarm(20)
            while True:  # a signal that comes just before a pause would be handled after it
                time.sleep(0.01)
        os.kill(child, signal.SIGTERM)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert code == 7
    assert signal.getsignal(signal.SIGTERM) is before


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
        with stop_on_signals(None):
            during.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    assert during == [signal.getsignal(signal.SIGTERM)]


SHOP = """
import atexit, pathlib, time
import relevo
from relevo_memory import MemoryTransport

@relevo.listener("image.created")
def work(event):
    print("begun", flush=True)
    while not pathlib.Path("gate").exists():
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
    """``relevo worker`` in a process of its own, whose listener waits at a gate."""

    def __init__(self, folder: Path, *, number: int, command: str = "worker") -> None:
        (folder / "shop.py").write_text(SHOP.replace("NUMBER", str(number)))
        self._gate = folder / "gate"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "relevo", *command.split(), "-a", "shop:app"],
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

    def open_gate(self) -> None:
        """Let its listeners end."""
        self._gate.touch()

    def end(self, *, warned: str = "") -> tuple[int, list[str]]:
        """Wait for its end; return its exit code and what else it said; its log is one line with *warned*, or empty."""
        try:
            stdout, stderr = self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()
        assert len(stderr.splitlines()) == bool(warned), stderr
        assert warned in stderr
        return self.process.returncode, stdout.splitlines()


@pytest.mark.lengthy("waits")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["worker", "drain"])
def test_the_first_signal_finishes_the_current_listener_and_gives_back_the_rest(
    number: signal.Signals, command: str, tmp_path: Path
) -> None:
    program = _Program(tmp_path, number=5, command=command)
    program.wait_for("begun")

    program.process.send_signal(number)
    program.open_gate()
    code, said = program.end()

    assert said == ["finished", "left 4 0 0"]
    assert code == 0


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["worker", "drain", "worker --concurrency 2"])
def test_a_second_signal_ends_at_once_and_names_the_listener(
    number: signal.Signals, command: str, tmp_path: Path
) -> None:
    several = "concurrency" in command
    program = _Program(tmp_path, number=1 if several else 5, command=command)
    program.wait_for("begun")

    for patience in (1, 20, 20):  # two that come together are one; a third may come while the second one is obeyed
        program.process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            program.process.wait(patience)
            break
    code, said = program.end(warned="WARNING relevo.worker: a second signal stopped shop:work on image.created ")

    assert said == [f"left {0 if several else 5} {1 if several else 0} 0"]
    assert code == 128 + number


SILENT = """
import time
import relevo
from relevo_memory import MemoryTransport
from relevo import LoopRunner, RunOptions

class Silent(MemoryTransport):
    def settle(self, settlements):
        print("settling", flush=True)
        while True:
            try:
                time.sleep(600)
            except KeyboardInterrupt:  # a driver that goes on
                pass

@relevo.listener("image.created")
def create_thumbnails(event: relevo.Event) -> None: ...

app = relevo.App(transports={"main": Silent()}, routes={"*": "main"}, listeners=[create_thumbnails])
app.dispatch(relevo.Event("image.created"))
LoopRunner().run(app, RunOptions())
"""


@pytest.mark.lengthy("starts processes")
def test_a_second_signal_ends_a_worker_whose_server_does_not_answer() -> None:
    with subprocess.Popen([sys.executable, "-c", SILENT], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "settling\n"

            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            for patience in (20, PATIENCE):  # two that come together are one
                process.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(patience)
                    break
        finally:
            process.kill()

        assert process.wait() == 128 + signal.SIGTERM


@pytest.mark.lengthy("waits")
def test_an_idle_worker_ends_after_a_signal(tmp_path: Path) -> None:
    program = _Program(tmp_path, number=1)
    program.open_gate()
    program.wait_for("finished")
    time.sleep(0.5)

    program.process.send_signal(signal.SIGTERM)
    code, said = program.end()

    assert (code, said) == (0, ["left 0 0 0"])


# --- one at a time ---------------------------------------------------------------------------------------------


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Callable[..., App]:
    """Make an application on a database file, each time as another process has it."""

    def shop(function: Callable[..., object] = lambda event: None, **how: Any) -> App:
        config = tmp_path / "relevo.toml"
        config.write_text('source = "shop"\ntransports.main = "sqlite:///shop.db"\n')
        made = App.from_config(config, environ={}, **how)
        made.listen(listener("image.created", id="keep")(function))
        return made

    return shop


def test_a_drain_does_nothing_while_another_is_at_it(shop: Callable[..., App]) -> None:
    reports: list[Report] = []
    runner = LoopRunner(single_flight=True)

    def drain_too(event: object) -> None:
        with shop() as another:
            reports.append(runner.run(another, DRAIN))
            reports.append(runner.run(another, RunOptions(until_empty=True, queues=("default",))))
            reports.append(LoopRunner().run(another, DRAIN))

    with shop(drain_too) as app:
        app.dispatch(Event("image.created"))
        reports.append(runner.run(app, DRAIN))
        reports.append(runner.run(app, DRAIN))

    assert [report.stopped_by for report in reports] == ["lock", "empty", "empty", "empty", "empty"]
    assert reports[3].done == 1


def test_a_drain_that_holds_the_lock_for_too_long_is_reported_once_an_hour(
    shop: Callable[..., App], clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    options = RunOptions(until_empty=True, max_seconds=55.0)
    reports: list[Report] = []
    warnings: list[int] = []

    def hang(event: object) -> None:
        with shop(clock=clock) as another:
            for seconds in (300.0, 800.0, 60.0, 3600.0):  # the time limit of a listener is 900 s
                clock.advance(seconds)
                reports.append(LoopRunner(single_flight=True).run(another, options))
                warnings.append(caplog.text.count("for longer than its limits allow"))

    with shop(hang, clock=clock) as app:
        coordinator = app.transport("main")
        assert isinstance(coordinator, Coordinator)
        about = {
            "v": 1,
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "held": [["default", "shop", "1", "shop:hang"]],
        }
        app.dispatch(Event("image.created"))
        coordinator.announce("ab", json.dumps(about).encode(), ttl=10_000.0)
        LoopRunner(single_flight=True).run(app, options)

    assert [report.stopped_by for report in reports] == ["lock"] * 4
    assert reports[0].objection == f"process {os.getpid()}, in shop:hang, for 5 min"
    assert warnings == [0, 1, 1, 2]
    assert f"kill -9 {os.getpid()}" in caplog.text


@pytest.mark.parametrize("note", [b"", b"[", b'{"by": "1", "since": 0, "due": 0}', b"\xff" * 5000])
def test_a_note_in_a_lock_that_cannot_be_read_names_nobody(shop: Callable[..., App], note: bytes) -> None:
    reports: list[Report] = []

    def drain_too(event: object) -> None:
        with shop() as another:
            single_flight(another, "main", ()).host_lock.write(note)
            reports.append(LoopRunner(single_flight=True).run(another, DRAIN))

    with shop(drain_too) as app:
        app.dispatch(Event("image.created"))
        LoopRunner(single_flight=True).run(app, DRAIN)

    assert [(report.stopped_by, report.objection) for report in reports] == [("lock", "")]


def test_a_drain_that_fails_lets_the_next_one_work(shop: Callable[..., App]) -> None:
    failed: list[int] = []

    def fail_once(event: object) -> None:
        if not failed:
            failed.append(1)
            raise KeyboardInterrupt

    with shop(fail_once) as app:
        app.dispatch(Event("image.created"))
        with pytest.raises(KeyboardInterrupt):
            LoopRunner(single_flight=True).run(app, DRAIN)

        assert LoopRunner(single_flight=True).run(app, DRAIN).done == 1


def elsewhere(app: App, *, holder: str = "another host") -> str | None:
    """Take the lock of the coordinator as another host does."""
    coordinator = app.transport("main")
    assert isinstance(coordinator, Coordinator)
    return coordinator.lock(single_flight(app, "main", ())._name, holder=holder, ttl=30.0)


def test_a_drain_does_nothing_while_another_host_is_at_it(shop: Callable[..., App], clock: FakeClock) -> None:
    with shop(clock=clock) as app:
        app.dispatch(Event("image.created"))
        assert elsewhere(app) is not None

        first = LoopRunner(single_flight=True).run(app, DRAIN)
        clock.advance(30)
        second = LoopRunner(single_flight=True).run(app, DRAIN)

        assert (first.stopped_by, first.done) == ("lock", 0)
        assert (second.stopped_by, second.done) == ("empty", 1), "its time is over, and it was not renewed"
        assert elsewhere(app) is not None, "it is given up at the end"


def test_who_died_on_this_host_is_waited_for_by_nobody_here(shop: Callable[..., App], clock: FakeClock) -> None:
    with shop(clock=clock) as app:
        app.dispatch(Event("image.created"))
        dead = single_flight(app, "main", ())
        with dead.on_this_host():
            holder = dead._lock.identity()
        coordinator = app.transport("main")
        assert isinstance(coordinator, Coordinator)
        assert coordinator.lock(dead._name, holder=holder, ttl=30.0) is not None

        assert LoopRunner(single_flight=True).run(app, DRAIN).done == 1


def test_who_loses_the_lock_takes_no_further_events(shop: Callable[..., App], clock: FakeClock) -> None:
    called: list[object] = []

    def sleep(event: object) -> None:
        called.append(event)
        clock.advance(31)
        assert elsewhere(app) is not None, "nobody renewed it"

    with shop(sleep, clock=clock) as app:
        app.dispatch_many([Event("image.created")] * 3)

        report = LoopRunner(single_flight=True).run(app, DRAIN)

        assert (report.stopped_by, report.done, len(called)) == ("lock", 1, 1)
        stats = app.transport("main").stats("default")
        assert (stats.ready, stats.leased) == (2, 0), "the others are given back"
        assert elsewhere(app, holder="a third one") is None, "what another has taken is not given up"


def test_a_lock_that_was_late_is_the_reason_even_if_it_is_renewed_then(
    shop: Callable[..., App], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = iter([True])
    monkeypatch.setattr(flights.SingleFlight, "is_lost", lambda _: next(late, False))
    with shop(clock=clock) as app:
        app.dispatch(Event("image.created"))

        report = LoopRunner(single_flight=True).run(app, DRAIN)

    assert (report.stopped_by, report.handled) == ("lock", 0)


@pytest.mark.lengthy("waits")
def test_the_lock_is_renewed_while_a_listener_runs(
    shop: Callable[..., App], clock: FakeClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(flights, "TTL", 0.6)
    tried: list[str | None] = []

    def ends() -> float:
        with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
            ((end,),) = connection.execute("SELECT until FROM relevo_lock")
        return float(end) / 1e6

    def wait(event: object) -> None:
        for _ in range(4):
            clock.advance(0.3)
            deadline = time.monotonic() + PATIENCE
            while ends() < clock.now() + 0.55 and time.monotonic() < deadline:
                time.sleep(0.01)
            tried.append(elsewhere(app))

    with shop(wait, clock=clock) as app:
        app.dispatch(Event("image.created"))

        report = LoopRunner(single_flight=True).run(app, DRAIN)

    assert (report.stopped_by, report.done) == ("empty", 1)
    assert tried == [None] * 4


def test_who_is_told_that_the_lock_is_gone_takes_no_further_events(
    shop: Callable[..., App], clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(flights, "TTL", 0.6)  # of which little passes by its own clock

    def be_robbed(event: object) -> None:
        flight = single_flight(app, "main", ())
        assert flight._lock.path.exists()
        coordinator = app.transport("main")
        assert isinstance(coordinator, Coordinator)
        held = flight._lock.path.stat()
        heir = f"{host_lock._running()}/{held.st_dev:x}/{held.st_ino:x}"
        assert coordinator.lock(flight._name, holder=heir, ttl=600.0) is not None
        deadline = time.monotonic() + PATIENCE
        while "was lost to another process" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    with shop(be_robbed, clock=clock) as app:
        app.dispatch_many([Event("image.created")] * 2)

        assert LoopRunner(single_flight=True).run(app, DRAIN).stopped_by == "lock"

        assert app.transport("main").stats("default").ready == 1


def test_an_outbox_is_the_coordinator_of_a_transport_that_is_none(tmp_path: Path) -> None:
    config = tmp_path / "relevo.toml"
    config.write_text('transports.main = { url = "amqp://127.0.0.1", outbox = "sqlite:///shop.db" }\n')

    with App.from_config(config, environ={}) as app:
        coordinator: object = single_flight(app, "main", ())._coordinator

        assert coordinator is app.outboxes["main"]


def test_what_ends_with_its_process_needs_no_lock(app: MakeApp, transport: Any, tmp_path: Path) -> None:
    made = app(lambda event: None, with_outbox=False, lock=tmp_path / "not there", deploy=tmp_path / "shop.deploy")

    assert LoopRunner(single_flight=True).run(made, DRAIN).stopped_by == "empty"


# --- deploys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_outbox", [False, True])
def test_a_drain_takes_nothing_during_a_deploy(
    *, with_outbox: bool, app: MakeApp, transport: Any, put: Callable[[str], None], envelope: Any, tmp_path: Path
) -> None:
    deploy = tmp_path / "shop.deploy"
    deploy.touch()
    made = app(lambda event: None, with_outbox=with_outbox, deploy=deploy)
    transport.send([envelope("0")])
    put("1")
    transport.calls.clear()

    during = LoopRunner().run(made, DRAIN)
    said = list(transport.calls)
    deploy.unlink()
    after = LoopRunner().run(made, DRAIN)

    assert (during.stopped_by, during.handled) == ("objection", 0)
    assert said == [], "nothing was so much as looked at"
    assert after.done == 1 + with_outbox


def test_a_worker_finishes_what_it_does_gives_back_the_rest_and_waits_for_the_end_of_a_deploy(
    app: MakeApp, transport: Any, clock: FakeClock, put: Callable[[str], None], tmp_path: Path
) -> None:
    called: list[str] = []
    waiting: list[tuple[int, int]] = []
    deploy = tmp_path / "shop.deploy"

    def work(event: object, call: Any) -> None:
        called.append(call.event_id)
        if len(called) == 1 + 1 + 2 + 4 + 1:  # the first of eight
            clock.advance(1.0)
            deploy.touch()

    made = app(work, with_outbox=False, deploy=deploy)
    sleep = clock.sleep

    def end_after_ten_looks(seconds: float) -> None:
        sleep(seconds)
        if deploy.exists():
            stats = transport.stats("default")
            waiting.append((len(called), stats.leased))
            if len(waiting) == 10:
                deploy.unlink()

    clock.sleep = end_after_ten_looks  # type: ignore[method-assign]
    for number in range(20):
        made.dispatch(Event("image.created", {"number": number}))

    report = LoopRunner().run(made, RunOptions(max_events=20, batch=10))

    assert waiting == [(9, 0)] * 10
    assert (report.done, report.stopped_by) == (20, "events")
    assert len(set(called)) == len(called) == 20, "what was given back counts as nothing"


def test_a_worker_says_that_it_waits_for_the_end_of_a_deploy_and_that_it_goes_on(
    app: MakeApp, clock: FakeClock, tmp_path: Path
) -> None:
    deploy = tmp_path / "shop.deploy"
    deploy.touch()
    made = app(lambda event: None, with_outbox=False, deploy=deploy)
    made.dispatch(Event("image.created"))
    sleep = clock.sleep
    told: list[str] = []

    def end_the_deploy(seconds: float) -> None:
        sleep(seconds)
        deploy.unlink(missing_ok=True)

    clock.sleep = end_the_deploy  # type: ignore[method-assign]

    report = LoopRunner(tell=told.append).run(made, RunOptions(max_events=1))

    assert report.done == 1
    begun, over = told
    assert begun.startswith("waiting: a deploy is in progress on this host since ")
    assert begun.endswith(f"relevo deploy end, or rm {deploy}")
    assert over == "the deploy is over; events are handled again"


def test_a_deploy_that_is_over_when_the_rest_was_given_back_does_not_end_the_worker(
    app: MakeApp, clock: FakeClock, tmp_path: Path
) -> None:
    deploy = tmp_path / "shop.deploy"
    seen: list[bool] = []

    def begin_a_deploy(event: object) -> None:
        clock.advance(1.0)
        if not seen:
            deploy.touch()

    class _End:
        @hookimpl
        def relevo_around_settle(self) -> None:
            seen.append(deploy.exists())
            deploy.unlink(missing_ok=True)

    made = app(begin_a_deploy, with_outbox=False, deploy=deploy)
    made.hooks.add(_End())
    for number in range(5):
        made.dispatch(Event("image.created", {"number": number}))

    report = LoopRunner().run(made, RunOptions(max_events=5))

    assert seen[0], "the deploy was there when the worker stopped"
    assert (report.done, report.stopped_by) == (5, "events")


@pytest.mark.lengthy("waits")
def test_a_worker_that_waits_for_the_end_of_a_deploy_ends_at_a_limit_of_time(
    app: MakeApp, clock: FakeClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deploy = tmp_path / "shop.deploy"
    deploy.touch()
    made = app(lambda event: None, deploy=deploy)
    os.utime(deploy, (clock.now(), clock.now()))

    report = LoopRunner().run(made, RunOptions(max_seconds=2.5 * 3600))

    assert (report.handled, report.stopped_by) == (0, "time")
    assert caplog.text.count("a deploy has kept events from being handled") == 2


@pytest.mark.parametrize("until_empty", [False, True])
@pytest.mark.parametrize("end", ["time", "asked"])
def test_a_run_ends_while_another_process_keeps_it_from_being_counted(
    end: str,
    *,
    until_empty: bool,
    app: MakeApp,
    put: Callable[[str], None],
    outbox: MemoryTransport,
    clock: FakeClock,
    tmp_path: Path,
) -> None:
    made = app(lambda event: None, deploy=tmp_path / "shop.deploy")
    put("1")
    holder = host_lock.HostLock(tmp_path / "shop.deploy.working")
    holder.acquire()
    advance, began = clock.sleep, clock.now()

    def sleep(seconds: float) -> None:
        advance(seconds)
        if clock.now() - began > 2.0:
            assert end == "asked", "the run waits longer than its limit of time"
            os.kill(os.getpid(), signal.SIGTERM)
        assert clock.now() - began < 3.0, "the run waits although it was stopped"

    clock.sleep = sleep  # type: ignore[method-assign]
    options = RunOptions(until_empty=until_empty, max_seconds=1.0 if end == "time" else None)

    report = LoopRunner().run(made, options)

    assert (report.handled, report.stopped_by) == (0, end)
    assert outbox.stats(OUTBOX).ready == 1


@pytest.mark.parametrize(
    ("execution", "said"),
    [
        ("inline", "hasty: time_limit=1 s is not enforced inline; "),
        ("threads", "hasty: time_limit=1 s ends the whole worker with exit code 70, "),
        ("process", None),
    ],
)
def test_a_time_limit_that_is_not_enforced_on_its_listener_alone_is_a_warning(
    execution: Literal["inline", "threads", "process"], said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    @listener("image.created", id="hasty", time_limit="1s")
    def hasty(event: object) -> None: ...

    table = ListenerTable()
    table.extend([hasty])
    texts = unenforced_limits(table, Execution(execution))

    assert [text.startswith(said or "") for text in texts] == [True] * (said is not None)
    if execution == "inline":
        with App(transports={"main": MemoryTransport()}, listeners=[hasty]) as app:
            LoopRunner(signals=False).run(app, RunOptions(max_seconds=0.0))
            LoopRunner(signals=False).run(app, DRAIN)
        assert caplog.text.count('set execution = "process"') == 1


class _Counting:
    def __init__(self, to: str = "") -> None:
        self.to = to

    @hookimpl
    def relevo_around_settle(self) -> None: ...


@pytest.mark.parametrize(("others", "count"), [([_Counting()], 1), ([_Counting("another")], 0), ([], 0)])
def test_a_worker_says_at_its_start_that_a_plugin_is_there_twice(
    others: list[_Counting], count: int, caplog: pytest.LogCaptureFixture
) -> None:
    @listener("image.created")
    def listen(event: object) -> None: ...

    with App(transports={"main": MemoryTransport()}, listeners=[listen], plugins=[_Counting(), *others]) as app:
        LoopRunner(signals=False).run(app, DRAIN)
        assert caplog.text == ""  # cron would mail it each minute
        LoopRunner(signals=False).run(app, RunOptions(max_seconds=0.0))

    assert caplog.text.count("_Counting is there twice: plugins[0] of App(…) and plugins[1] of App(…); ") == count


class _Nested:
    """Runs a second worker inside of the first."""

    def __init__(self) -> None:
        self.app: App | None = None
        self.runs = 0

    @hookimpl
    def relevo_around_run(self) -> None:
        self.runs += 1
        app, self.app = self.app, None
        if app is not None:
            LoopRunner(signals=False).run(app, RunOptions(max_seconds=0.0))


def test_what_relevo_registers_for_each_of_two_runs_is_no_plugin_that_is_there_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @listener("image.created")
    def listen(event: object) -> None: ...

    nested = _Nested()
    with App(transports={"main": MemoryTransport()}, listeners=[listen], plugins=[nested]) as app:
        nested.app = app
        LoopRunner(signals=False).run(app, RunOptions(max_seconds=0.0))

    assert nested.runs == 2
    assert "is there" not in caplog.text


@pytest.mark.parametrize(
    ("signing", "source", "is_warned"), [(KEY, "app", True), (KEY, "shop", False), (None, "app", False)]
)
def test_a_worker_that_verifies_signatures_without_a_source_says_so_at_its_start(
    signing: str | None,
    source: str,
    is_warned: bool,  # noqa: FBT001 - a parameter of pytest
    app: MakeApp,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = app(lambda event: None, with_outbox=False, signing=signing, source=source)

    LoopRunner(signals=False).run(made, DRAIN)
    assert caplog.text == ""  # cron would mail it each minute

    LoopRunner(signals=False).run(made, RunOptions(max_seconds=0.0))
    assert ('signing: the source is "app", as of every application without one' in caplog.text) is is_warned


def test_an_objection_of_a_plugin_still_ends_a_worker(app: MakeApp) -> None:
    class _Objecting:
        @hookimpl
        def relevo_may_run(self) -> str:
            return "not on a Sunday"

    made = app(lambda event: None, with_outbox=False)
    made.hooks.add(_Objecting())

    report = LoopRunner().run(made, RunOptions(max_seconds=5.0))

    assert (report.stopped_by, report.objection) == ("objection", "not on a Sunday")
    assert why_later(report) == "a plugin stops events: not on a Sunday"


# --- further limits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("until_empty", [True, False])
def test_a_run_stops_when_so_many_have_failed_and_logs_it_once(
    *, until_empty: bool, app: MakeApp, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: Event) -> None:
        clock.advance(1.0)
        if event["number"] % 2:
            raise ValueError("odd")

    made = app(fail, with_outbox=False)
    for number in range(20):
        made.dispatch(Event("image.created", {"number": number}))

    report = LoopRunner().run(made, RunOptions(until_empty=until_empty, max_seconds=100.0, max_failures=3))

    assert (report.retried, report.done, report.stopped_by) == (3, 3, "failures")
    said = [(each.levelname, each.getMessage()) for each in caplog.records if each.name == "relevo.runner"]
    assert said == [("WARNING", "stopped after 3 failures; no further event is taken (--max-failures)")]


@pytest.mark.parametrize("until_empty", [True, False])
def test_a_run_stops_when_the_process_has_grown_too_large(
    *, until_empty: bool, app: MakeApp, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [0]
    monkeypatch.setattr(process_limit, "resident", lambda: (100 + held[0]) << 20)

    def grow(event: object) -> None:
        clock.advance(1.0)
        held[0] += 10

    made = app(grow, with_outbox=False)
    for number in range(20):
        made.dispatch(Event("image.created", {"number": number}))

    report = LoopRunner().run(made, RunOptions(until_empty=until_empty, max_seconds=100.0, max_memory="150M"))

    assert (report.done, report.stopped_by) == (5, "memory")


def test_the_size_of_the_process_is_told_by_the_system() -> None:
    before = process_limit.resident()
    block = bytearray(os.urandom(1)) * (64 << 20)

    assert (32 << 20) < process_limit.resident() - before < (256 << 20)
    assert len(block) == 64 << 20
    assert 1 << 20 < before < 4 << 30


def test_plugins_of_a_run_are_gone_after_it(app: MakeApp) -> None:
    made = app(lambda event: None)

    LoopRunner().run(made, attrs.evolve(DRAIN, max_failures=1))

    assert made.hooks.observers("relevo_around_settle") == ()
