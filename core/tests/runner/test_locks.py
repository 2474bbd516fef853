"""One drain at a time on a host, and no event during a deploy."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pytest

from relevo import (
    App,
    Coordinator,
    Event,
    Execution,
    ListenerTable,
    Report,
    RunOptions,
    hookimpl,
    listener,
)
from relevo._app.check import unenforced_limits
from relevo._runner import host_lock, single_flight as flights
from relevo._runner.lock_path import single_flight
from relevo._runner.loop import LoopRunner
from relevo._transport.route import outbox_queue
from relevo.cli._run import why_later
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

DRAIN = RunOptions(until_empty=True)

OUTBOX = outbox_queue("main")

PATIENCE = 300.0

KEY = "Vq3TnB7xZk9RwLf2HsJd8Mpy0123abcd"

MakeApp = Callable[..., App]


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
