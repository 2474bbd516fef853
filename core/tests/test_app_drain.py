"""``App.drain()``: what a script or a notebook calls in place of a worker."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

import relevo
from relevo import App, Dispatched, Event, Report, RunOptions, Target
from relevo.errors import ConfigurationError
from relevo_memory import MemoryTransport

from .application import Make, Plain


def test_it_handles_what_is_there_on_every_transport_and_what_becomes_ready(make: Make, clock: object) -> None:
    heard: list[str] = []
    transports = {"main": MemoryTransport(), "other": MemoryTransport()}
    app = make(transports=transports, routes={"*": "main", "image.rated": "other", "image.shown": "main"})

    @app.listener("image.created")
    def rate(event: Event) -> None:
        heard.append(event.name)
        app.dispatch("image.rated")

    @app.listener("image.rated")
    def show(event: Event) -> None:
        heard.append(event.name)
        app.dispatch("image.shown")

    app.add_listener("image.shown", lambda event: heard.append(event.name), id="end")
    app.dispatch("image.created")
    app.dispatch("image.created", delay="1h")
    report = app.drain()

    assert heard == ["image.created", "image.rated", "image.shown"]
    assert (report.handled, report.done, report.stopped_by) == (3, 3, "empty")
    assert app.drain().handled == 0


def test_limits_hold_for_all_transports_together(make: Make) -> None:
    transports = {"main": MemoryTransport(), "other": MemoryTransport()}
    app = make(transports=transports, routes={"a": "main", "b": "other"})
    app.add_listener("a", lambda event: None, id="a")
    app.add_listener("b", lambda event: None, id="b")
    for _ in range(3):
        app.dispatch("a")
        app.dispatch("b")

    report = app.drain(RunOptions(max_events=4))

    assert (report.handled, report.stopped_by) == (4, "events")
    assert app.drain(RunOptions(transport="main")).handled == 0
    assert app.drain(RunOptions(transport="other")).handled == 2


def test_events_in_an_outbox_are_moved_first(make: Make, tmp_path: Path) -> None:
    from sqlalchemy import create_engine  # noqa: PLC0415 - only this test needs it
    from sqlalchemy.orm import Session  # noqa: PLC0415 - as above

    heard: list[Event] = []
    address = f"sqlite:///{tmp_path}/shop.db"
    app = make(transports={"main": Plain()}, outboxes={"main": address})
    app.add_listener("image.created", heard.append, id="hear")
    engine = create_engine(address)
    with Session(engine) as session:
        app.dispatch("image.created", {"id": 1}, session=session)
        session.commit()
    engine.dispose()

    assert app.drain().done == 1
    assert [each["id"] for each in heard] == [1]


def test_without_a_transport_there_is_nothing_to_handle() -> None:
    assert App(routes={"*": "now"}).drain() == Report()


def test_to_await_what_is_no_coroutine_does_its_work_once(make: Make) -> None:
    heard: list[str] = []
    app = make()
    app.add_listener("a.b", lambda event: heard.append(event.name), id="one")

    async def inside() -> tuple[Dispatched, Report]:
        return await app.dispatch("a.b"), await app.drain()  # type: ignore[misc]  # as it is easily written

    done, report = asyncio.run(inside())

    assert heard == ["a.b"]
    assert (done.targets, report.done) == ((Target("main"),), 1)


@pytest.mark.parametrize("route", ["main", "now"])
def test_a_listener_may_return_what_it_dispatched(make: Make, route: str) -> None:
    app = make(routes={"first": route, "second": "main"})
    app.add_listener("first", lambda event: app.dispatch("second"), id="chain")
    app.add_listener("second", lambda event: None, id="end")
    app.dispatch("first")

    report = app.drain()

    assert (report.retried, report.dead, report.done) == (0, 0, 2 if route == "main" else 1)


def test_a_worker_creates_what_is_missing_as_a_drain_does(make: Make, tmp_path: Path) -> None:
    app = make(transports={"main": f"sqlite:///{tmp_path}/shop.db"})

    report = app.worker(RunOptions(max_seconds="0.2s", until_empty=True)).run()

    assert report.stopped_by == "empty"
    app.dispatch("image.created")
    assert app.transport().stats("default").ready == 1


def test_a_worker_creates_nothing_if_only_a_command_may(make: Make, tmp_path: Path) -> None:
    app = make(transports={"main": f"sqlite:///{tmp_path}/shop.db"}, setup="explicit")

    with pytest.raises(ConfigurationError, match="is not set up; run relevo setup"):
        app.worker(RunOptions(until_empty=True)).run()


def test_a_worker_calls_a_listener_that_is_registered_while_it_runs(make: Make) -> None:
    app = make(transports={"main": "memory://"})
    heard: list[str] = []

    @app.listener("image.created")
    def first(event: Event) -> None:
        @app.listener("image.rated", id="second")
        def second(event: Event) -> None:
            heard.append(event.name)

        app.dispatch("image.rated")

    app.dispatch("image.rated")  # nothing is known of it before
    app.dispatch("image.created")
    report = app.drain()

    assert heard == ["image.rated"]
    assert (report.done, report.retried) == (2, 1)


def test_why_an_event_waits_or_is_dead_is_read_from_its_entry(make: Make) -> None:
    app = make(transports={"main": "memory://"})

    @app.listener("image.created", id="shop:rate", retry=2)
    def rate(event: Event) -> None:
        raise ValueError("no size")

    sent = app.dispatch("image.created")
    app.drain()
    (entry,) = app.transport().waiting(["default"])
    app.drain(RunOptions(event_id=sent.id))
    (dead,) = app.transport().dead_letters(["default"])

    (waits,) = app.failures(entry)
    assert (waits.listener, waits.error, waits.attempt) == ("shop:rate", "ValueError: no size", 1)
    assert waits.due is not None
    (died,) = app.failures(dead)
    assert (died.listener, died.reason, died.due) == ("shop:rate", "retries-exhausted", None)
    assert repr(entry) == f"<WaitingEntry image.created {sent.id} in default, scheduled, attempt 2>"
    assert repr(dead) == f"<DeadLetterEntry {dead.ref} of image.created {sent.id} in default: retries-exhausted>"


def test_the_parts_of_an_application_are_short_in_a_notebook() -> None:
    class Watcher:
        pass

    with App(routes={"image.*": "now", "*": ["now"]}, plugins=[Watcher()]) as app:
        listener = app.add_listener("image.created", print, id="shop:print")

        assert repr(app.routes) == "<Routes image.*: now; *: now>"
        assert repr(app.subjects) == "<SubjectTypes without a type>"
        assert repr(app.hooks) == "<Hooks of Watcher>"
        assert repr(listener) == "<Listener shop:print of image.created>"
        assert repr(app) == "<App app: in process>"
        with app.testing() as t:
            app.dispatch("image.created", {})
            assert repr(t) == "<AppTesting of app: 1 dispatched>"
        assert repr(t) == "<AppTesting of app: 1 dispatched, ended>"
        assert repr(app.testing()) == "<AppTesting of app: 0 dispatched, not entered>"
    assert repr(app) == "<App app: in process, closed>"

    dispatcher = relevo.LocalDispatcher()
    assert repr(dispatcher) == "<LocalDispatcher with 0 listeners>"
    dispatcher.add_listener("image.created", print, id="print")
    assert repr(dispatcher) == "<LocalDispatcher with 1 listener>"
    assert "TYPE_CHECKING" not in dir(relevo)


def test_events_that_another_process_holds_are_logged_if_none_was_handled(
    make: Make, clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "relevo.runner")
    app = make(transports={"main": MemoryTransport()})
    app.add_listener("image.created", lambda _: None, id="note")
    app.drain()
    assert not [each for each in caplog.messages if "another worker" in each]
    app.dispatch("image.created")
    assert app.transport().receive(["default"], limit=1, lease=60, wait=0)

    app.drain()

    [message] = [each for each in caplog.messages if "another worker" in each]
    assert re.fullmatch(
        r"no event was handled: another worker, or a process that has ended, holds 1 of main, "
        r"until \d\d:\d\d:\d\dZ at the latest",
        message,
    )


@pytest.mark.parametrize(
    ("later", "held", "until"),
    [(150, 1, r"\d\d:\d\d:\d\dZ at the latest"), (0, 150, "their lease ends")],
)
def test_the_time_until_which_events_are_held_is_that_of_all_of_them(
    later: int, held: int, until: str, make: Make, clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "relevo.runner")
    app = make(transports={"main": MemoryTransport()})
    app.add_listener("image.created", lambda _: None, id="note")
    for _ in range(later):
        app.dispatch("image.created", delay="1h")
    for _ in range(held):
        app.dispatch("image.created")
        assert app.transport().receive(["default"], limit=1, lease=60, wait=0)

    app.drain()

    [message] = [each for each in caplog.messages if "another worker" in each]
    assert re.search(rf"holds {held} of main, until {until}$", message)
