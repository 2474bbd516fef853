"""What listeners dispatch by their call, or while an event is handled at once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from typing import Any

import attrs
import pytest

import relevo
from relevo import (
    Call,
    DeferredDispatcher,
    Envelope,
    Event,
    LocalDispatcher,
    Retry,
    RunOptions,
    Subject,
    hookimpl,
    listener,
)
from relevo._event.codec import decoded
from relevo.errors import ConfigurationError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

from .application import Make, drain, waiting


def test_what_a_call_dispatches_is_sent_after_its_listener_and_not_if_it_failed(make: Make) -> None:
    left: list[int | None] = []
    failing = [True]

    @listener("a.b", retry=Retry(2, first=0, jitter=0))
    def first(event: Event, call: Call) -> None:
        call.dispatch(Event("a.c"), delay="1m")
        call.dispatch(Event("a.d"))
        left.append(waiting(app, queue="next"))
        if failing.pop():
            failing.append(False)
            raise ValueError

    app = make(first, routes={"a.b": "main", "*": "main/next"})
    app.dispatch(Event("a.b"))
    app.worker(RunOptions(until_empty=True, settle=1, queues=("default",))).run()

    assert left == [0, 0]
    stats = app.transport().stats("next")
    assert (stats.ready, stats.scheduled) == (1, 1)


@pytest.mark.parametrize("route", ["main", "now"])
@pytest.mark.parametrize("fails", [False, True], ids=["returned", "failed"])
def test_a_call_whose_listener_has_ended_dispatches_nothing_and_says_so(make: Make, route: str, *, fails: bool) -> None:
    calls: list[Call] = []

    @listener("a.b", retry=1)
    def hear(event: Event, call: Call) -> None:
        calls.append(call)
        if fails:
            raise ZeroDivisionError

    app = make(hear, routes={"a.b": route, "*": "main/next"})
    with contextlib.suppress(ZeroDivisionError):
        app.dispatch(Event("a.b"))
        app.worker(RunOptions(until_empty=True, queues=("next",) if route == "now" else ("default",))).run()

    with pytest.raises(ConfigurationError, match=r"test_app.*hear: the listener has ended.*app\.dispatch"):
        calls[0].dispatch(Event("a.c"))
    assert waiting(app, queue="next") == 0


def test_what_a_thread_is_about_to_dispatch_when_its_listener_returns_is_sent_too(make: Make) -> None:
    begun, settled = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    class Slow:
        @hookimpl
        def relevo_enrich(self, event: Event) -> None:
            if event.name == "a.c":
                begun.set()
                settled.wait(0.2)  # it comes to that only if nobody waits for this dispatch

        @hookimpl
        def relevo_around_settle(self) -> None:
            settled.set()

    @listener("a.b")
    def hear(event: Event, call: Call) -> None:
        threads.append(threading.Thread(target=call.dispatch, args=(Event("a.c"),)))
        threads[0].start()
        begun.wait()

    app = make(hear, routes={"a.b": "main", "*": "main/next"}, plugins=[Slow()])
    app.dispatch(Event("a.b"))
    app.worker(RunOptions(until_empty=True, queues=("default",))).run()
    threads[0].join()

    assert waiting(app, queue="next") == 1


def test_a_listener_that_is_run_again_dispatches_the_same_events_again(make: Make, clock: FakeClock) -> None:
    ids: list[str] = []

    class Forgetful(MemoryTransport):
        capabilities = attrs.evolve(MemoryTransport.capabilities, checkpoint=False)

        def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
            ids.extend(envelope.id for envelope in envelopes)
            super().send(envelopes, delay=delay)

    @listener("a.b")
    def twice(event: Event, call: Call) -> None:
        call.dispatch(Event("a.c"))
        call.dispatch(Event("a.c"))

    transport = Forgetful(clock=clock)
    app = make(twice, transports={"main": transport}, routes={"a.b": "main", "*": "main/next"})
    app.dispatch(Event("a.b"))
    caller = app.worker()._handle
    (delivery,) = transport.receive(["default"], limit=1, lease=60.0, wait=0.0)
    caller(delivery)
    caller(delivery)

    assert ids[1:3] == ids[3:5]
    assert len(set(ids)) == 3
    assert ids[1][:13] == ids[0][:13]
    assert waiting(app, queue="next") == 2


def test_what_is_called_at_once_within_a_listener_dispatches_events_of_their_own(make: Make) -> None:
    @listener("a.b")
    def outer(event: Event) -> None:
        app.dispatch(Event("now"))
        app.dispatch(Event("now"))

    @listener("now")
    def inner(event: Event, call: Call) -> None:
        call.dispatch(Event("a.c"))

    app = make(outer, inner, routes={"now": "now", "a.b": "main", "*": "main/next"})
    app.dispatch(Event("a.b"))
    app.worker(RunOptions(until_empty=True, queues=("default",))).run()

    assert waiting(app, queue="next") == 2


def test_what_is_dispatched_at_once_came_of_the_event_that_is_written_too(make: Make) -> None:
    @listener("a.b", queue="now")
    def at_once(event: Event) -> None:
        app.dispatch(Event("a.c"))

    app = make(at_once, routes={"a.b": ["main", "now"], "*": "main/next"})
    done = app.dispatch(Event("a.b"))
    (one,) = app.transport().receive(["next"], limit=9, lease=60.0, wait=0.0)

    assert isinstance(one.envelope, Envelope)
    document = decoded(one.envelope.body)
    assert (document.causationid, document.correlationid) == (done.id, done.id)


def test_a_listener_that_says_something_else_when_it_is_run_again_dispatches_another_event(
    make: Make, clock: FakeClock
) -> None:
    greetings = ["welcome.sent", "goodbye.sent"]

    @listener("a.b")
    def greet(event: Event, call: Call) -> None:
        call.dispatch(Event(greetings.pop(0)))

    app = make(greet, routes={"a.b": "main", "*": "main/next"})
    app.dispatch(Event("a.b"))
    handle = app.worker()._handle
    (delivery,) = app.transport().receive(["default"], limit=1, lease=60.0, wait=0.0)
    handle(delivery)
    handle(delivery)

    names = {one.envelope.name for one in app.transport().receive(["next"], limit=9, lease=60.0, wait=0.0)}  # type: ignore[union-attr]
    assert names == {"welcome.sent", "goodbye.sent"}


def test_two_subjects_are_two_events_of_a_listener_that_is_run_twice(make: Make) -> None:
    names = ["1", "2"]

    @listener("a.b")
    def find(event: Event, call: Call) -> None:
        call.dispatch(Event("image.found", subject=Subject("image", names.pop(0))))

    app = make(find, routes={"a.b": "main", "*": "main/next"})
    app.dispatch(Event("a.b"))
    handle = app.worker()._handle
    (delivery,) = app.transport().receive(["default"], limit=1, lease=60.0, wait=0.0)
    handle(delivery)
    handle(delivery)

    assert waiting(app, queue="next") == 2


@pytest.mark.parametrize("wrong", ["sesion", "dealy", "nonsense"])
def test_a_misspelt_term_is_told_wherever_it_is_said(make: Make, wrong: str) -> None:
    told: list[str] = []
    misspelt: Any = {wrong: 1}

    @listener("a.b", retry=1)
    def hear(event: Event, call: Call) -> None:
        with pytest.raises(TypeError, match=f"a dispatch has no option {wrong}="):
            call.dispatch(Event("a.c"), **misspelt)
        told.append(wrong)

    app = make(hear)
    main = app.transport()
    dispatchers = (app, make(routes={"*": "now"}), DeferredDispatcher(main), LocalDispatcher())
    for dispatcher in dispatchers:
        with pytest.raises(TypeError, match=f"a dispatch has no option {wrong}="):
            dispatcher.dispatch_many([Event("a.b")], **misspelt)
        with pytest.raises(TypeError, match=f"a dispatch has no option {wrong}="):
            asyncio.run(dispatcher.adispatch(Event("a.b"), **misspelt))
    app.dispatch(Event("a.b"))
    drain(app)

    assert told == [wrong]
    assert waiting(app) == 0


def test_what_is_called_at_once_sees_the_context_that_a_later_listener_would_see(make: Make) -> None:
    seen: list[Any] = []

    @listener("n.x")
    @listener("d.x")
    def look(event: Event, call: Call) -> None:
        seen.append((dict(call.context), call.correlation_id))

    class Plugin:
        @hookimpl
        def relevo_enrich(self) -> dict[str, Any]:
            return {"host": "web1"}

    app = make(look, routes={"n.*": "now", "*": "main"}, plugins=[Plugin()])
    with relevo.context(user=1, other=2, correlation_id="c1"):
        app.dispatch(Event("n.x", {"user": 9}))
        app.dispatch(Event("d.x", {"user": 9}))
    drain(app)

    assert seen == [({"host": "web1", "other": 2}, "c1")] * 2


def test_one_event_of_another_is_told_by_its_correlation_causation_and_context(make: Make) -> None:
    seen: list[tuple[str, str | None, str | None, Any]] = []

    @listener("a.b")
    @listener("a.c")
    @listener("a.d")
    def follow(event: Event, call: Call) -> None:
        seen.append((call.event_id, call.correlation_id, call.causation_id, dict(call.context)))
        if event.name == "a.b":
            app.dispatch(Event("a.c"))
        if event.name == "a.c":
            with relevo.context(size="small"):
                call.dispatch(Event("a.d"))

    app = make(follow)
    with relevo.context(user=7):
        root = app.dispatch(Event("a.b")).id
    drain(app)

    (first, second, third) = seen
    assert first == (root, root, None, {"user": 7})
    assert second[1:] == (root, root, {"user": 7})
    assert third[1:] == (root, second[0], {"user": 7, "size": "small"})


def test_a_call_in_process_dispatches_with_the_callers_session(make: Make) -> None:
    sa, orm = pytest.importorskip("sqlalchemy"), pytest.importorskip("sqlalchemy.orm")

    @listener("a.b")
    def now(event: Event, call: Call) -> None:
        call.dispatch(Event("a.c"))

    app = make(now, routes={"a.b": "now", "*": "main"})
    engine = sa.create_engine("sqlite://")
    with orm.Session(engine) as session:
        app.dispatch(Event("a.b"), session=session)
        session.rollback()
        assert waiting(app) == 0
        app.dispatch(Event("a.b"), session=session)
        session.execute(sa.text("SELECT 1"))
        session.commit()
    engine.dispose()

    assert waiting(app) == 1


def test_a_call_takes_no_session(make: Make) -> None:
    @listener("a.b", retry=1)
    def wrong(event: Event, call: Call) -> None:
        call.dispatch(Event("a.c"), session=object())

    app = make(wrong)
    app.dispatch(Event("a.b"))
    drain(app)

    (dead,) = app.transport().dead_letters(["default"], after=None, limit=9)
    assert "call.dispatch() sends after the listener has returned, so it needs an application" in dead.error
