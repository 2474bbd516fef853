"""The runner: until empty, a relay alone, for ever, and its limits."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from relevo import (
    App,
    Envelope,
    Event,
    RetryLater,
    RunOptions,
    hookimpl,
)
from relevo._runner import process_limit
from relevo._runner.loop import LoopRunner
from relevo._transport.route import outbox_queue
from relevo._worker.worker import GRACE
from relevo.errors import ConfigurationError, TransportUnavailableError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

DOWN = TransportUnavailableError("main", "down")

DRAIN = RunOptions(until_empty=True)

OUTBOX = outbox_queue("main")

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
