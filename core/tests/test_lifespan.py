"""Lifespans: what a process opens once, and listeners get by its type."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import shlex
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NewType

import attrs
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

import relevo
from relevo import (
    App,
    Call,
    ConfigurationError,
    Event,
    Execution,
    ListenerTable,
    LocalDispatcher,
    Proceed,
    Report,
    RunOptions,
)
from relevo._listener import open_values
from relevo._listener.lifespan import LIFESPAN, LifespanTable
from relevo._listener.listener import Mark
from relevo._listener.open_values import OpenValues
from relevo._listener.process_loop import process_loop
from relevo._worker.progress import loaded
from relevo.testing import AppTesting, FakeClock
from relevo_memory import MemoryTransport

from .application import Make
from .shop import Shop

ALL_WAYS = pytest.mark.parametrize("way", ["inline", "threads", "async", "now", "testing"])


@attrs.define(eq=False)
class Engine:
    name: str = "real"


class SpecialEngine(Engine):
    pass


OtherEngine = NewType("OtherEngine", Engine)


@attrs.define(eq=False)
class Client:
    loop: Any = None


@attrs.define(eq=False)
class Pool:
    engine: Engine


@pytest.fixture(name="seen")
def _seen() -> list[Any]:
    """Return what happened, in order."""
    return []


def _handle(app: App, way: str, *, times: int = 2) -> None:
    """Dispatch an event *times*, and have it handled in that *way*; close what was opened."""
    events = [Event("now.done" if way == "now" else "a.done") for _ in range(times)]
    if way == "testing":
        with app.testing() as t:
            app.dispatch_many(events)
            t.drain()
    else:
        app.dispatch_many(events)
        app.drain() if way == "now" else _drain(app, way)
        app.close()


def _drain(app: App, kind: Any) -> Report:
    return app.drain(RunOptions(execution=kind, concurrency=1 if kind == "inline" else 2))


@pytest.fixture(name="app")
def _app(make: Make) -> App:
    return make(routes={"now.*": "now", "*": "main"}, clock=None, transports={"main": MemoryTransport()})


def _engine_of(app: App, seen: list[Any]) -> None:
    @app.lifespan
    def engine() -> Iterator[Engine]:
        seen.append("open engine")
        yield Engine()
        seen.append("close engine")


def _client_of(app: App, seen: list[Any]) -> None:
    @app.lifespan
    async def client() -> AsyncIterator[Client]:
        seen.append("open client")
        await asyncio.sleep(0)
        async with asyncio.TaskGroup():  # which has to end in the task in which it began
            yield Client(asyncio.get_running_loop())
        await asyncio.sleep(0)
        seen.append("close client")


# --- opening and closing ----------------------------------------------------------------------------------------------


@ALL_WAYS
def test_a_value_is_opened_once_given_to_each_call_and_closed_at_the_end(app: App, seen: list[Any], way: str) -> None:
    got: set[Engine] = set()
    _engine_of(app, seen)

    @app.listener("now.done")
    @app.listener("a.done")
    def update(event: Event, call: Call, engine: Engine) -> None:
        seen.append(event.name[-4:])
        got.add(engine)

    _handle(app, way)

    assert seen == ["open engine", "done", "done", "close engine"]
    assert len(got) == 1


@ALL_WAYS
def test_an_async_value_lives_on_the_loop_of_the_listeners(app: App, seen: list[Any], way: str) -> None:
    _engine_of(app, seen)
    _client_of(app, seen)

    @app.listener("now.done")
    @app.listener("a.done")
    async def update(event: Event, call: Call, *, client: Client, engine: Engine) -> None:
        assert client.loop is asyncio.get_running_loop()
        assert engine.name == "real"
        seen.append("done")

    _handle(app, way, times=1)

    assert sorted(seen[:2]) == ["open client", "open engine"]
    assert seen[2] == "done"
    assert sorted(seen[3:]) == ["close client", "close engine"]


@ALL_WAYS
def test_what_no_listener_that_is_called_needs_is_not_opened(app: App, seen: list[Any], way: str) -> None:
    _engine_of(app, seen)

    @app.listener("now.done")
    @app.listener("a.done")
    def plain(event: Event) -> None:
        seen.append("plain")

    @app.listener("other.done")
    def update(event: Event, call: Call, engine: Engine) -> None: ...

    _handle(app, way, times=1)

    assert seen == ["plain"]


@ALL_WAYS
def test_a_lifespan_gets_what_others_yield_and_closes_before_them(app: App, seen: list[Any], way: str) -> None:
    @app.lifespan
    def pool(engine: Engine) -> Generator[Pool, None, None]:  # before the one that it needs
        seen.append("open pool")
        yield Pool(engine)
        seen.append("close pool")

    _engine_of(app, seen)

    @app.lifespan
    async def client(pool: Pool, *, engine: Engine) -> AsyncGenerator[Client, None]:
        assert pool.engine is engine
        yield Client()
        seen.append("close client")

    @app.listener("now.done")
    @app.listener("a.done")
    async def update(event: Event, call: Call, client: Client, pool: Pool) -> None:
        seen.append(pool.engine.name)

    _handle(app, way, times=1)

    assert seen == ["open engine", "open pool", "real", "close client", "close pool", "close engine"]


def test_values_are_kept_from_one_run_to_the_next_and_opened_again_after_a_close(app: App, seen: list[Any]) -> None:
    _engine_of(app, seen)

    @app.listener("now.done")
    def update(event: Event, call: Call, engine: Engine) -> None: ...

    app.dispatch(Event("now.done"))
    app.dispatch(Event("now.done"))
    app.close()
    app.dispatch(Event("now.done"))
    app.close()
    app.close()

    assert seen == ["open engine", "close engine"] * 2


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_one_thread_opens_and_the_others_wait(app: App, seen: list[Any], is_async: bool) -> None:  # noqa: FBT001
    meeting = threading.Barrier(4)

    @app.lifespan
    def engine() -> Iterator[Engine]:
        seen.append("open")
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(0.3)  # the others would be here too
        yield Engine()

    if is_async:

        @app.listener("a.done")
        async def on_loop(event: Event, call: Call, engine: Engine) -> None:
            seen.append(engine.name)
    else:

        @app.listener("a.done")
        def update(event: Event, call: Call, engine: Engine) -> None:
            seen.append(engine.name)

    app.dispatch_many([Event("a.done")] * 4)
    report = app.drain(RunOptions(execution="async" if is_async else "threads", concurrency=4))

    assert report.done == 4
    assert seen == ["open"] + ["real"] * 4


def test_a_lifespan_that_is_slow_to_open_does_not_block_the_loop(app: App, seen: list[Any]) -> None:
    others_ran = threading.Event()

    @app.lifespan
    def engine() -> Iterator[Engine]:
        assert others_ran.wait(60)
        yield Engine()

    @app.listener("a.done")
    async def update(event: Event, call: Call, engine: Engine) -> None:
        seen.append("update")

    @app.listener("b.done")
    async def other(event: Event) -> None:
        seen.append("other")
        others_ran.set()

    app.dispatch(Event("a.done"))
    app.dispatch(Event("b.done"))
    _drain(app, "async")

    assert seen == ["other", "update"]


def test_a_lifespan_has_a_context_of_its_own(app: App, seen: list[Any]) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="nothing")

    @app.lifespan
    def engine() -> Iterator[Engine]:
        seen.append(variable.get())
        token = variable.set("set")
        yield Engine()
        seen.append(variable.get())
        variable.reset(token)

    @app.lifespan
    async def client() -> AsyncIterator[Client]:
        seen.append(variable.get())
        yield Client()

    @app.listener("now.done")
    async def update(event: Event, call: Call, engine: Engine, client: Client) -> None:
        seen.append(variable.get())

    variable.set("of the dispatch")
    app.dispatch(Event("now.done"))
    app.close()

    assert seen == ["nothing", "nothing", "of the dispatch", "set"]


def test_each_loop_has_async_values_of_its_own_which_end_with_it(app: App, seen: list[Any]) -> None:
    _client_of(app, seen)

    @app.listener("now.done")
    async def update(event: Event, call: Call, client: Client) -> None:
        assert client.loop is asyncio.get_running_loop()
        seen.append("done")

    async def program() -> None:
        await app.adispatch(Event("now.done"))
        await app.adispatch(Event("now.done"))

    app.dispatch(Event("now.done"))  # on the loop of the process, which goes on
    asyncio.run(program())
    asyncio.run(program())

    assert seen == ["open client", "done"] + ["open client", "done", "done", "close client"] * 2


def test_closing_on_the_loop_of_a_value_does_not_wait_for_that_loop(
    app: App, seen: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    _client_of(app, seen)

    @app.listener("now.done")
    async def update(event: Event, call: Call, client: Client) -> None: ...

    async def program() -> None:
        await app.adispatch(Event("now.done"))
        app.close()
        while "close client" not in seen:  # noqa: ASYNC110 - what it waits for knows of no event
            await asyncio.sleep(0)

    asyncio.run(program())

    assert seen == ["open client", "close client"]
    assert "has not closed" not in caplog.text


def test_an_async_value_that_does_not_close_is_left_behind(
    app: App, seen: list[Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_values, "_CLOSE_WITHIN", 0.05)
    goes_on = asyncio.Event()

    @app.lifespan
    async def client() -> AsyncIterator[Client]:
        yield Client()
        await goes_on.wait()
        seen.append("closed")

    @app.listener("now.done")
    async def update(event: Event, call: Call, client: Client) -> None: ...

    app.dispatch(Event("now.done"))
    app.close()

    assert "client has not closed within 0.05 s" in caplog.text
    assert not seen
    process_loop.loop().call_soon_threadsafe(goes_on.set)


def test_a_value_that_ends_while_it_is_opened_is_not_given_to_a_listener(
    app: App, seen: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def failing() -> None:
        raise ValueError("lost at once")

    @app.lifespan
    async def client() -> AsyncIterator[Client]:
        async with asyncio.TaskGroup() as group:
            if not seen:
                group.create_task(failing())
            yield Client()

    @app.listener("a.done")
    async def update(event: Event, call: Call, client: Client) -> None:
        seen.append("update")

    app.dispatch(Event("a.done"))
    app.drain()
    seen.append("repaired")
    app.drain(RunOptions(until_empty=True, settle=60.0))
    app.dispatch(Event("a.done"))
    app.drain()

    assert seen[-1] == "update"


def test_a_value_whose_background_task_fails_is_opened_again(
    app: App, seen: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    fail = asyncio.Event()

    async def failing() -> None:
        await fail.wait()
        raise ValueError("lost")

    @app.lifespan
    async def client() -> AsyncIterator[Client]:
        seen.append("open")
        async with asyncio.TaskGroup() as group:
            group.create_task(failing())
            yield Client()

    @app.listener("now.done")
    async def update(event: Event, call: Call, client: Client) -> None: ...

    app.dispatch(Event("now.done"))
    process_loop.loop().call_soon_threadsafe(fail.set)
    while "could not be closed" not in caplog.text:
        threading.Event().wait(0.01)
    fail.clear()
    app.dispatch(Event("now.done"))
    process_loop.loop().call_soon_threadsafe(fail.set)

    assert seen == ["open", "open"]


def _fail() -> None:
    raise OSError("down")


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["inline", "threads", "async"])
@pytest.mark.parametrize("error", [ValueError, SystemExit])
@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_what_cannot_be_opened_gives_the_event_back_and_counts_as_no_run(
    make: Make,
    clock: FakeClock,
    seen: list[Any],
    caplog: pytest.LogCaptureFixture,
    kind: Any,
    error: type[BaseException],
    is_async: bool,  # noqa: FBT001
) -> None:
    transport = MemoryTransport(clock=clock)
    app = make(transports={"main": transport})
    failing = [error for _ in range(6)]

    if is_async:

        @app.lifespan
        async def client() -> AsyncIterator[Client]:
            if failing:
                raise failing.pop()
            yield Client()

        @app.listener("a.done", id="update", retry=1)
        async def on_loop(event: Event, call: Call, client: Client) -> None:
            seen.append(call.attempt)
    else:

        @app.lifespan
        def engine() -> Iterator[Engine]:
            if failing:
                raise failing.pop()
            yield Engine()

        @app.listener("a.done", id="update", retry=1)
        def update(event: Event, call: Call, engine: Engine) -> None:
            seen.append(call.attempt)

    @app.listener("a.done", id="other")
    def other(event: Event) -> None:
        seen.append("other")

    app.dispatch(Event("a.done"))
    reports = [_drain(app, kind)]
    while not reports[-1].done:
        clock.advance(120)
        reports.append(_drain(app, kind))

    # After an attempt that took long, as on a busy machine, the next ones fail at once for as long.
    assert not failing
    assert sum(each.retried for each in reports) >= 6
    assert seen == ["other", 1]
    assert not list(transport.dead_letters(["default"], limit=9))
    assert "waits, since what update needs cannot be opened" in caplog.text
    assert "in client" in caplog.text or "in engine" in caplog.text  # the traceback
    assert not transport.stats("default").ready


def test_while_it_cannot_be_opened_the_events_of_others_are_handled_and_one_warning_is_logged(
    app: App, seen: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    @app.lifespan
    def engine() -> Iterator[Engine]:
        _fail()
        yield Engine()

    @app.listener("a.done")
    def update(event: Event, call: Call, engine: Engine) -> None: ...

    @app.listener("b.done")
    def other(event: Event) -> None:
        seen.append("other")

    app.dispatch_many([Event("a.done"), Event("b.done"), Event("a.done")])
    report = app.drain()

    assert seen == ["other"]
    assert (report.done, report.retried, report.retry_reasons) == (1, 2, {"not-opened": 2})
    assert caplog.text.count("cannot be opened: OSError: down") == 1


def test_a_wait_that_is_over_is_forgotten_so_that_the_next_one_begins_short(make: Make, clock: FakeClock) -> None:
    app = make()
    failing = [OSError("down")]

    @app.lifespan
    def engine() -> Iterator[Engine]:
        if failing:
            raise failing.pop()
        yield Engine()

    @app.listener("a.done")
    def update(event: Event, call: Call, engine: Engine) -> None:
        raise relevo.RetryLater(delay=600)

    app.dispatch(Event("a.done"))
    waits = []
    for _ in range(2):
        app.drain()
        (entry,) = app.transport().waiting(["default"])
        waits.append(set(loaded(entry.state).waiting))
        clock.advance(60)

    assert waits == [{"not-opened"}, set()]


def test_a_dispatch_that_calls_listeners_raises_what_a_lifespan_raises(app: App) -> None:
    @app.lifespan
    def engine() -> Iterator[Engine]:
        _fail()
        yield Engine()

    @app.listener("now.done")
    def update(event: Event, call: Call, engine: Engine) -> None: ...

    with pytest.raises(OSError, match="down"):
        app.dispatch(Event("now.done"))


def test_a_lifespan_that_does_not_open_fails_a_test(app: App) -> None:
    @app.lifespan
    def engine() -> Iterator[Engine]:
        _fail()
        yield Engine()

    @app.listener("a.done")
    def update(event: Event, call: Call, engine: Engine) -> None: ...

    with app.testing() as t:
        app.dispatch(Event("a.done"))
        with pytest.raises(OSError, match="down"):
            t.drain()
        t.travel("1h")
        assert t.drain(raises=False).retried == 1
        assert t.drain().handled == 0


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_an_error_in_closing_is_logged_and_the_others_are_closed(
    app: App,
    seen: list[Any],
    caplog: pytest.LogCaptureFixture,
    is_async: bool,  # noqa: FBT001
) -> None:
    _engine_of(app, seen)
    if is_async:

        @app.lifespan
        async def client() -> AsyncIterator[Client]:
            yield Client()
            raise SystemExit(1) if seen[-1] == "exit" else ValueError("broken")
    else:

        @app.lifespan
        def sync_client() -> Iterator[Client]:
            yield Client()
            raise SystemExit(1) if seen[-1] == "exit" else ValueError("broken")

    @app.listener("a.done")
    async def update(event: Event, call: Call, engine: Engine, client: Client) -> None: ...

    if not is_async:
        app.unlisten(update)

        @app.listener("a.done")
        def plain(event: Event, call: Call, engine: Engine, client: Client) -> None: ...

    app.dispatch(Event("a.done"))
    report = app.drain()
    app.close()

    assert report.done == 1
    assert seen == ["open engine", "close engine"]
    assert "client could not be closed" in caplog.text
    assert "ValueError: broken" in caplog.text


def test_a_lifespan_that_yields_twice_is_an_error_at_its_end(app: App, caplog: pytest.LogCaptureFixture) -> None:
    @app.lifespan
    def engine() -> Iterator[Engine]:
        yield Engine()
        yield Engine()

    @app.listener("now.done")
    def update(event: Event, call: Call, engine: Engine) -> None: ...

    app.dispatch(Event("now.done"))
    app.close()

    assert "generator didn't stop" in caplog.text


def test_a_lifespan_that_needs_its_own_value_to_open_fails(app: App) -> None:
    @app.lifespan
    def engine() -> Iterator[Engine]:
        app.dispatch(Event("now.done"))
        yield Engine()

    @app.listener("now.done")
    def update(event: Event, call: Call, engine: Engine) -> None: ...

    with pytest.raises(RuntimeError, match="engine calls a listener that asks for its own value before it has one"):
        app.dispatch(Event("now.done"))


# --- what is refused --------------------------------------------------------------------------------------------------


def _worker(app: App) -> None:
    app.worker()


def _check(app: App) -> None:
    with app.testing() as t:
        t.drain()


def _dispatch(app: App) -> None:
    app.dispatch(Event("now.done"))


REFUSING = pytest.mark.parametrize("start", [_worker, _check, _dispatch], ids=["worker", "testing", "now"])


@REFUSING
def test_a_type_that_no_lifespan_yields_is_refused_at_the_start(app: App, start: Callable[[App], None]) -> None:
    @app.listener("now.done", id="update")
    def update(event: Event, call: Call, engine: Engine) -> None: ...

    with pytest.raises(
        ConfigurationError,
        match=r"^update: engine is annotated as Engine, and no lifespan yields that; put @app.lifespan above a "
        r"function that yields it, annotated -> Iterator\[Engine\]",
    ):
        start(app)


@pytest.mark.parametrize("asked", [Engine, SpecialEngine])
def test_another_class_of_the_family_is_named_in_the_error(app: App, asked: type) -> None:
    given = SpecialEngine if asked is Engine else Engine

    def engine() -> Iterator[Any]:
        yield given()

    engine.__annotations__["return"] = Iterator[given]  # type: ignore[valid-type]
    app.lifespan(engine)

    def update(event: Event, call: Call, engine: Any) -> None: ...

    update.__annotations__["engine"] = asked
    app.add_listener("a.done", update, id="update")

    with pytest.raises(ConfigurationError, match=f"no lifespan yields that; did you mean {given.__name__}"):
        app.worker()


@REFUSING
def test_an_async_value_for_a_plain_listener_is_refused(
    app: App, seen: list[Any], start: Callable[[App], None]
) -> None:
    _client_of(app, seen)

    @app.listener("now.done", id="update")
    def update(event: Event, call: Call, client: Client) -> None: ...

    with pytest.raises(ConfigurationError, match=r"update: client comes from the async lifespan .*client, which only"):
        start(app)
    assert not seen


@REFUSING
def test_a_lifespan_that_needs_its_own_value_is_refused(app: App, start: Callable[[App], None]) -> None:
    @app.lifespan
    def engine(pool: Pool) -> Iterator[Engine]:
        yield pool.engine

    @app.lifespan
    def pool(engine: Engine) -> Iterator[Pool]:
        yield Pool(engine)

    @app.listener("now.done", id="update")
    def update(event: Event, call: Call, pool: Pool) -> None: ...

    with pytest.raises(ConfigurationError, match=r"is its own value, directly or through other lifespans"):
        start(app)


def test_all_problems_are_reported_together(app: App) -> None:
    for number in (1, 2):

        def update(event: Event, call: Call, engine: Engine) -> None: ...

        app.add_listener("a.done", update, id=f"update-{number}")

    @app.lifespan
    def pool(engine: Engine) -> Iterator[Pool]:
        yield Pool(engine)

    with pytest.raises(ConfigurationError) as raised:
        app.worker()

    assert len(str(raised.value).splitlines()) == 3


def test_two_lifespans_of_one_type_are_refused_and_a_type_of_its_own_tells_them_apart(
    app: App, seen: list[Any]
) -> None:
    _engine_of(app, seen)

    with pytest.raises(ConfigurationError, match=r'both yield Engine, .*: OtherEngine = NewType\("OtherEngine", Eng'):

        @app.lifespan
        def second() -> Iterator[Engine]:
            yield Engine("second")

    @app.lifespan
    def other() -> Iterator[OtherEngine]:
        yield OtherEngine(Engine("other"))

    @app.listener("now.done")
    def update(event: Event, call: Call, engine: Engine, other: OtherEngine) -> None:
        seen.append((engine.name, other.name))

    app.dispatch(Event("now.done"))

    assert seen == ["open engine", ("real", "other")]


def unannotated():  # type: ignore[no-untyped-def] # noqa: ANN201
    yield Engine()


def bare() -> Iterator:  # type: ignore[type-arg]
    yield Engine()


def of_text() -> Iterator[str]:
    yield "token"


def of_anything() -> Iterator[Any]:
    yield 3


def of_some_data() -> Iterator[list[int] | None]:
    yield None


def returning() -> Engine:
    return Engine()


@contextlib.contextmanager
def managed() -> Iterator[Engine]:
    yield Engine()


def unknown() -> Iterator[Nowhere]:  # type: ignore[name-defined] # noqa: F821
    yield 3


def asking_for_data(url: str) -> Iterator[Engine]:
    yield Engine(url)


def asking(url) -> Iterator[Engine]:  # type: ignore[no-untyped-def] # noqa: ANN001
    yield Engine(url)


class Holder:
    def engine(self) -> Iterator[Engine]:
        yield Engine()


@pytest.mark.parametrize(
    "function, told",
    [
        (unannotated, r"it is not annotated with what it yields; write -> Iterator\[Engine\]"),
        (bare, r"it is annotated as .*Iterator; write -> Iterator\[Engine\]"),
        (of_text, r'it yields str, which does not say what it is for; .*: Token = NewType\("Token", str\)'),
        (of_anything, "it yields Any, which does not say"),
        (of_some_data, r"it yields list\[int\] \| None, which does not say"),
        (returning, "expected a function with one yield, without other decorators; got"),
        (managed, "expected a function with one yield, without other decorators; got"),
        (Engine, "expected a function with one yield"),
        (3, "expected a function with one yield, without other decorators; got 3"),
        (unknown, "the annotation of what it yields cannot be evaluated: NameError: name 'Nowhere' is not defined"),
        (asking_for_data, "url is annotated as str, and only the value of a lifespan is found by its type"),
        (asking, "annotate url with the type of what a lifespan yields, or remove it"),
        (Holder.engine, "it is a method; write a function"),
    ],
)
def test_what_cannot_be_a_lifespan_is_refused(function: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        relevo.lifespan(function)


def without_call(event: Event, *, engine: Engine) -> None: ...
def optional_call(event: Event, call: Call | None = None, *, engine: Engine) -> None: ...
def with_default(event: Event, call: Call, engine: Engine, size: int = 3, other: Pool | None = None) -> None: ...
def with_number(event: Event, call: Call, number: int) -> None: ...
def unannotated_third(event: Event, call: Call, engine) -> None: ...  # type: ignore[no-untyped-def] # noqa: ANN001
def positional(event: Event, call: Call, engine: Engine, /) -> None: ...
def nowhere(event: Event, call: Call, engine: Nowhere) -> None: ...  # type: ignore[name-defined] # noqa: F821
def in_place_of_the_call(event: Event, engine: Engine) -> None: ...


@pytest.mark.parametrize(
    "function, told",
    [
        (without_call, r"write \(event, call, engine\) to get what a lifespan yields"),
        (with_number, "number is annotated as int, and only the value of a lifespan is found by its type; read data"),
        (unannotated_third, "annotate engine with the type of what a lifespan yields, or remove it"),
        (positional, "engine is passed by its name; put it after the /"),
        (nowhere, "the annotation of engine cannot be evaluated: NameError"),
        (in_place_of_the_call, r"annotate it as relevo.Call, .*: \(event, call, engine: Engine\)"),
    ],
)
def test_a_listener_that_cannot_be_given_what_it_needs_is_refused(function: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        relevo.App(routes={"*": "now"}).listener("a.done")(function)


@pytest.mark.parametrize("function", [optional_call, with_default])
def test_parameters_with_defaults_keep_them(function: Callable[..., object]) -> None:
    found = ListenerTable().add(function, Mark(event="a.done"))

    assert (found.takes_call, found.needs) == (True, {"engine": Engine})


# --- where lifespans come from ----------------------------------------------------------------------------------------


@relevo.lifespan
def marked() -> Iterator[Engine]:
    yield Engine("marked")


def test_a_mark_changes_nothing_and_an_application_registers_it(make: Make, seen: list[Any]) -> None:
    app = make(marked, routes={"*": "now"})

    @app.listener("a.done")
    def update(event: Event, call: Call, engine: Engine) -> None:
        seen.append(engine.name)

    app.dispatch(Event("a.done"))

    assert seen == ["marked"]
    assert next(marked()).name == "marked"


def test_a_removed_lifespan_is_not_opened_again(make: Make) -> None:
    app = make(marked, routes={"*": "now"})

    @app.listener("a.done")
    def update(event: Event, call: Call, engine: Engine) -> None: ...

    app.unlisten(marked)

    with pytest.raises(ConfigurationError, match="no lifespan yields that"):
        app.dispatch(Event("a.done"))


def test_a_lifespan_is_registered_together_with_listeners_or_not_at_all() -> None:
    app = App(routes={"*": "now"})

    def no_listener() -> None: ...

    with pytest.raises(ConfigurationError):
        LocalDispatcher(app.listeners).listen(marked, no_listener)

    assert not list(app.listeners.lifespans)


def test_a_lifespan_that_is_defined_again_replaces_the_former_one() -> None:
    table = LifespanTable()

    def made(kind: str) -> None:
        @relevo.lifespan
        def engine() -> Iterator[Engine]:
            yield Engine(kind)

        table.add(vars(engine)[LIFESPAN])

    made("first")
    made("second")

    (found,) = table
    assert next(found.function()).name == "second"


def test_a_local_dispatcher_opens_and_closes_too(seen: list[Any]) -> None:
    dispatcher = LocalDispatcher()

    @dispatcher.lifespan
    def engine() -> Iterator[Engine]:
        yield Engine()

    @dispatcher.listener("a.done")
    def update(event: Event, call: Call, engine: Engine) -> None:
        seen.append(engine.name)

    dispatcher.dispatch("a.done")

    assert seen == ["real"]


# --- together with the rest -------------------------------------------------------------------------------------------


@ALL_WAYS
@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_values_pass_through_plugins_and_other_decorators(
    make: Make,
    seen: list[Any],
    way: str,
    is_async: bool,  # noqa: FBT001
) -> None:
    class Wrapping:
        @relevo.hookimpl
        def relevo_around_listener(self, event: object, call: Call, proceed: Proceed) -> object:
            return proceed()

        @relevo.hookimpl
        async def relevo_around_async_listener(self, event: object, call: Call, proceed: relevo.AsyncProceed) -> object:
            return await proceed()

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return inner

    app = make(
        routes={"now.*": "now", "*": "main"},
        clock=None,
        transports={"main": MemoryTransport()},
        plugins=[Wrapping()],
    )
    _engine_of(app, seen)
    if is_async:

        @app.listener("now.done")
        @app.listener("a.done")
        async def on_loop(event: Event, call: Call, engine: Engine) -> None:
            seen.append(engine.name)
    else:

        @app.listener("now.done")
        @app.listener("a.done")
        @decorated
        def update(event: Event, call: Call, engine: Engine) -> None:
            seen.append(engine.name)

    _handle(app, way, times=1)

    assert seen == ["open engine", "real", "close engine"]


def test_a_transactional_listener_gets_values_and_waits_for_them(tmp_path: Path, seen: list[Any]) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    failing = [OSError("down")]
    rows = sa.table("effect", sa.column("name"))
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("create table effect (name text)"))

    with App(source="shop", transports={"main": url}, chance=lambda: 0.0) as app:

        @app.lifespan
        def made() -> Iterator[Engine]:
            if failing:
                raise failing.pop()
            yield Engine()

        @app.listener("a.done", transactional=sessionmaker(engine))
        def update(event: Event, call: Call, engine: Engine) -> None:
            call.session.execute(sa.insert(rows).values(name=engine.name))

        app.dispatch(Event("a.done"))
        assert app.drain().retry_reasons == {"not-opened": 1}
        assert app.drain(RunOptions(until_empty=True, settle=60.0)).done == 1

    with engine.connect() as connection:
        assert connection.execute(sa.select(rows)).all() == [("real",)]
    engine.dispose()


def test_a_subject_is_released_and_steps_work_beside_a_value(app: App, seen: list[Any]) -> None:
    _engine_of(app, seen)

    @app.listener("a.done")
    def update(event: Event, call: Call, engine: Engine) -> None:
        call.step("one", lambda: seen.append(engine.name))

    _handle(app, "inline", times=1)

    assert seen == ["open engine", "real", "close engine"]


# --- tests of applications --------------------------------------------------------------------------------------------


def test_a_test_provides_its_own_values(app: App, seen: list[Any]) -> None:
    _engine_of(app, seen)
    _client_of(app, seen)
    client = Client()

    @app.listener("a.done")
    @app.listener("now.done")
    async def update(event: Event, call: Call, engine: Engine, client: Client) -> None:
        seen.append((engine.name, client))

    with app.testing(provide={Engine: Engine("fake"), Client: client}) as t:
        app.dispatch(Event("a.done"))
        app.dispatch(Event("now.done"))
        t.drain()

    assert seen == [("fake", client)] * 2


def test_what_is_open_outside_of_a_test_is_not_used_in_it(app: App, seen: list[Any]) -> None:
    _engine_of(app, seen)

    @app.listener("now.done")
    def update(event: Event, call: Call, engine: Engine) -> None:
        seen.append("done")

    app.dispatch(Event("now.done"))
    with app.testing():
        app.dispatch(Event("now.done"))
    app.dispatch(Event("now.done"))

    assert seen == ["open engine", "done", "open engine", "done", "close engine", "done"]


def test_a_value_that_nothing_asks_for_is_refused_in_a_test(app: App, seen: list[Any]) -> None:
    _engine_of(app, seen)

    with pytest.raises(ConfigurationError, match="no lifespan yields Pool, and no listener asks for it; there are: En"):
        app.testing(provide={Pool: Pool(Engine())}).__enter__()

    with app.testing(provide={Engine: Engine()}) as t:
        assert isinstance(t, AppTesting)


# --- processes --------------------------------------------------------------------------------------------------------


PROCESS = """
import asyncio, os, relevo
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

def note(*words):
    with open("log", "a") as log:
        print(*words, file=log)

class Engine:
    def __init__(self): self.pid = os.getpid()

class Client:
    pass

@relevo.lifespan
def engine() -> Iterator[Engine]:
    note("open", os.getpid())
    os.environ["OPENED"] = "yes"
    if Path("broken").exists():
        raise OSError("down")
    yield Engine()
    del os.environ["OPENED"]
    note("close", os.getpid())

@relevo.lifespan
async def client(engine: Engine) -> AsyncIterator[Client]:
    yield Client()
    await asyncio.sleep(0)
    note("close-client", os.getpid())

@relevo.listener("a.done")
async def update(event, call, engine: Engine, client: Client):
    note("update", os.getpid(), engine.pid, os.environ.get("OPENED"))
"""

CONFIGURATION = """
source = "shop"
listeners = ["shop_listeners"]
{more}
[transports]
main = "sqlite:///shop.db"
"""


def _log(shop: Shop) -> list[list[str]]:
    file = shop.folder / "log"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture(name="program")
def _program(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    shop.write("shop_listeners.py", PROCESS)
    shop.write("relevo.toml", CONFIGURATION.format(more=""))
    return shop


def test_the_command_line_closes_at_the_end(program: Shop) -> None:
    assert program.run("dispatch a.done").returncode == 0
    assert program.run("check").returncode == 0
    done = program.run("drain")

    assert (done.returncode, done.stderr) == (0, "")
    assert [words[0] for words in _log(program)] == ["open", "update", "close-client", "close"]


def test_one_event_handled_by_name_gets_values_too(program: Shop) -> None:
    event_id = program.run("dispatch a.done").stdout.split()[0]
    done = program.run(f"handle {event_id}")

    assert done.returncode == 0, done.stderr
    assert [words[0] for words in _log(program)] == ["open", "update", "close-client", "close"]


def test_the_check_reports_what_nothing_yields(program: Shop) -> None:
    program.write("shop_listeners.py", PROCESS.replace("@relevo.lifespan\nasync", "async"))

    done = program.run("check")

    assert done.returncode == 78
    assert "client is annotated as Client, and no lifespan yields that" in done.stdout + done.stderr


@pytest.mark.lengthy("starts child processes")
def test_each_child_process_opens_its_own_and_closes_it_when_it_is_replaced(program: Shop) -> None:
    program.write("relevo.toml", CONFIGURATION.format(more='execution = "process"\nconcurrency = 1\nrecycle_after = 2'))
    program.run("dispatch a.done")
    program.run("dispatch a.done")
    program.run("dispatch a.done")

    done = program.process("relevo drain && touch broken && relevo dispatch a.done && relevo drain -l warning")

    assert done.returncode == 0, done.stderr
    found = _log(program)
    updates = [words for words in found if words[0] == "update"]
    assert len(updates) == 3
    assert all(pid == engine and opened == "yes" for _, pid, engine, opened in updates)
    used = {pid for _, pid, *_ in updates}
    assert len(used) == 2
    assert str(os.getpid()) not in used
    for pid in used:
        own = [words[0] for words in found if words[1] == pid]
        assert own[0] == "open"
        assert own.count("open") == 1
        assert own[-2:] == ["close-client", "close"]
    assert "environment" not in done.stderr  # which a lifespan changes for all listeners
    assert "cannot be opened: OSError: down" in done.stderr


@pytest.mark.lengthy("starts child processes")
def test_a_worker_that_is_terminated_closes(program: Shop) -> None:
    program.run("dispatch a.done")

    done = program.process("relevo worker & until grep -q update log; do sleep 0.1; done; kill $!; wait $!")

    assert done.returncode == 0, done.stderr
    assert [words[0] for words in _log(program)] == ["open", "update", "close-client", "close"]


SLOW = """
import os, time, relevo
from collections.abc import Iterator
from pathlib import Path

class Engine:
    pass

@relevo.lifespan
def engine() -> Iterator[Engine]:
    os.chdir("elsewhere")
    with open("openings", "a") as file:
        print("opening", file=file)
    while not Path("go").exists():
        time.sleep(0.01)
    yield Engine()

@relevo.listener("a.done", priority=1)
def update(event, call, engine: Engine):
    os.chdir("/")

@relevo.listener("a.done")
def follow(event):
    print("follow in", os.getcwd(), flush=True)

@relevo.listener("a.done", priority=-1)
def end(event, call, engine: Engine):
    Path("ended").touch()
"""


@pytest.fixture(name="elsewhere")
def _elsewhere(program: Shop) -> Path:
    """Return the folder in which a program with a slow lifespan works."""
    more = 'execution = "process"\nconcurrency = 1\ntime_limit = "1s"'
    program.write("relevo.toml", CONFIGURATION.format(more=more))
    program.write("shop_listeners.py", SLOW)
    folder = program.folder / "elsewhere"
    folder.mkdir()
    program.run("dispatch a.done")
    return folder


@pytest.mark.lengthy("starts child processes")
def test_an_opening_that_exceeds_the_time_limit_of_a_child_is_tried_again_and_no_crash(
    program: Shop, elsewhere: Path
) -> None:
    openings = f"$(wc -l < {elsewhere}/openings 2>/dev/null || echo 0)"
    wait = f"until [ {openings} -ge 4 ]; do sleep 0.1; done; touch {elsewhere}/go"

    done = program.process(f"relevo drain --settle 60s & {wait}; wait")

    assert (elsewhere / "ended").exists(), done.stderr
    assert "shop_listeners:engine ran for longer than its time limit of 1 s" in done.stderr
    assert "this is crash" not in done.stderr
    assert json.loads(program.run("dead list --json").stdout) == []


@pytest.mark.lengthy("starts child processes")
def test_a_listener_does_not_leave_the_folder_that_a_lifespan_chose(program: Shop, elsewhere: Path) -> None:
    (elsewhere / "go").touch()

    done = program.process("relevo drain")

    assert f"follow in {elsewhere}" in done.stderr, done.stderr
    assert (elsewhere / "ended").exists()
    assert "cannot be restored" not in done.stderr


@pytest.mark.lengthy("starts processes")
def test_a_program_that_only_dispatches_in_process_closes_at_its_end(program: Shop) -> None:
    program.write("relevo.toml", CONFIGURATION.format(more='[routes]\n"*" = "now"\n'))

    script = "import relevo; relevo.App.from_config().dispatch('a.done')"
    done = program.process(shlex.join([sys.executable, "-c", script]))

    assert done.returncode == 0, done.stderr
    assert [words[0] for words in _log(program)] == ["open", "update", "close-client", "close"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_the_child_of_a_fork_opens_its_own(seen: list[Any]) -> None:
    table = ListenerTable()

    @relevo.lifespan
    def engine() -> Iterator[Engine]:
        yield Engine(str(os.getpid()))
        seen.append(os.getpid())

    def update(event: Event, call: Call, engine: Engine) -> None: ...

    table.extend([engine])
    listener = table.add(update, Mark(event="a.done"))
    opened = OpenValues(table.lifespans)
    mine = opened.open(listener)["engine"]
    reader, writer = os.pipe()

    pid = os.fork()
    if pid == 0:
        before = opened.values(listener)
        own = opened.open(listener)["engine"]
        opened.close()
        is_right = before is None and own.name == str(os.getpid()) and seen == [os.getpid()]  # type: ignore[attr-defined]
        os.write(writer, b"right" if is_right else b"wrong")
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)

    assert os.read(reader, 10) == b"right"
    os.close(reader)
    assert opened.values(listener) == {"engine": mine}
    opened.close()
    assert seen == [os.getpid()]


FORKING = """
import os, sys, warnings
from collections.abc import AsyncIterator, Iterator
import relevo

warnings.simplefilter("ignore")  # of a fork beside threads
app, parent = relevo.App(routes={"*": "now"}, source="shop"), os.getpid()
def tell(what): print(what, "in the", "parent" if os.getpid() == parent else "child", flush=True)
class Engine: pass
class Client: pass

@app.lifespan
def engine() -> Iterator[Engine]:
    try:
        yield Engine()
    finally:
        tell("engine closed")

@app.lifespan
async def client(engine: Engine) -> AsyncIterator[Client]:
    try:
        yield Client()
    finally:
        tell("client closed")

@app.listener("a.done")
async def update(event, call, client: Client): pass

app.dispatch("a.done")
if (child := os.fork()) == 0:
    if len(sys.argv) > 1:
        app.dispatch("a.done")
    sys.exit()
os.waitpid(child, 0)
tell("waited")
"""


@pytest.mark.lengthy("starts processes")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("dispatches", [False, True])
def test_the_child_of_a_fork_never_closes_what_its_parent_has_opened(
    program: Shop,
    dispatches: bool,  # noqa: FBT001
) -> None:
    program.write("forking.py", FORKING)

    done = program.process(shlex.join([sys.executable, "forking.py", *["dispatch"][: int(dispatches)]]))

    closed = ["client closed in the", "engine closed in the"]
    child = [f"{each} child" for each in closed] if dispatches else []
    assert done.stdout.splitlines() == [*child, "waited in the parent", *[f"{each} parent" for each in closed]]
    assert done.stderr == ""


@pytest.mark.parametrize("kind", ["inline", "threads", "async"])
def test_a_listener_that_asks_for_nothing_is_called_as_before(app: App, seen: list[Any], kind: Any) -> None:
    @app.listener("a.done")
    def plain(*args: Any, **kwargs: Any) -> None:
        seen.append((len(args), kwargs))

    app.dispatch(Event("a.done"))
    assert app.execution == Execution()
    _drain(app, kind)

    assert seen == [(2, {})]


def test_opening_is_logged_for_those_who_look(app: App, seen: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    _engine_of(app, seen)

    @app.listener("now.done")
    def update(event: Event, call: Call, engine: Engine) -> None: ...

    with caplog.at_level(logging.DEBUG, logger="relevo.listener"):
        app.dispatch(Event("now.done"))

    assert "engine is open" in caplog.text
