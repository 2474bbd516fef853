"""Plugins that wrap listeners: around each call, wherever it takes place, and what they may do to it."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, assert_type

import attrs
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

import relevo
from relevo import (
    App,
    AsyncProceed,
    Call,
    Event,
    GiveUp,
    Hooks,
    LocalDispatcher,
    Proceed,
    Retry,
    RetryLater,
    RunOptions,
)
from relevo._hook import names_where_listeners_run
from relevo._listener.listener import defined_at
from relevo._listener.wrapper import with_wrappers
from relevo._worker.progress import failures_of
from relevo.errors import PluginError, blame, described
from relevo_memory import MemoryTransport

T = TypeVar("T")

ALL_WAYS = pytest.mark.parametrize("way", ["inline", "threads", "async", "now", "testing"])
BOTH_KINDS = pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


@attrs.define(eq=False)
class Wrapping:
    """A plugin that notes what happens around each listener, on a loop and off it."""

    name: str
    seen: list[Any]

    @relevo.hookimpl
    def relevo_around_listener(self, event: object, call: Call, proceed: Proceed) -> object:
        self.seen.append(f"{self.name} before {call.listener_id}")
        result = proceed()
        self.seen.append(f"{self.name} after {result}")
        return result

    @relevo.hookimpl
    async def relevo_around_async_listener(self, event: object, call: Call, proceed: AsyncProceed) -> object:
        self.seen.append(f"{self.name} before {call.listener_id}")
        result = await proceed()
        self.seen.append(f"{self.name} after {result}")
        return result


class Acting:
    """A plugin that does in both kinds of listeners what the test says; *after* gets the result."""

    def __init__(self, *, before: Callable[..., Any] | None = None, after: Callable[[Any], Any] | None = None):
        self.before = before
        self.after = after

    @relevo.hookimpl
    def relevo_around_listener(self, call: Call, proceed: Proceed) -> object:
        if self.before is not None and (found := self.before(call, proceed)) is not proceed:
            return found
        result = proceed()
        return result if self.after is None else self.after(result)

    @relevo.hookimpl
    async def relevo_around_async_listener(self, call: Call, proceed: AsyncProceed) -> object:
        if self.before is not None and (found := self.before(call, proceed)) is not proceed:
            return found
        result = await proceed()
        return result if self.after is None else self.after(result)


def raises(error: BaseException) -> Callable[..., Any]:
    def function(*_: object) -> Any:
        raise error

    return function


def noted(seen: list[Any], what: object, result: T) -> T:
    """Add *what* to *seen*; return *result*."""
    seen.append(what)
    return result


def app_with(*plugins: object) -> App:
    return App(
        transports={"main": MemoryTransport()}, routes={"now.*": "now", "*": "main"}, plugins=plugins, source="shop"
    )


def listen(app: App, event: str, function: Callable[..., object], *, is_async: bool, **how: Any) -> None:
    """Add *function*, which takes the call, as a listener with the id ``feed``."""

    async def on_loop(event: Event, call: Call) -> object:
        await asyncio.sleep(0)
        return function(call)

    def plain(event: Event, call: Call) -> object:
        return function(call)

    app.add_listener(event, on_loop if is_async else plain, id=how.pop("id", "feed"), **how)


def run(app: App, way: str, event: str = "image.created") -> None:
    """Dispatch *event*, and have it handled in that *way*."""
    if way == "now":
        app.dispatch(f"now.{event}")
    elif way == "testing":
        with app.testing() as t:
            app.dispatch(event)
            t.drain()
    else:
        app.dispatch(event)
        app.drain(RunOptions(until_empty=True, execution=way))  # type: ignore[arg-type]  # one of them


def handle(app: App, *, is_async: bool) -> None:
    """Dispatch an event and have it handled where a listener of the kind usually is."""
    run(app, "async" if is_async else "inline")


def on(way: str) -> str:
    return "now.image.created" if way == "now" else "image.created"


def dead(app: App) -> relevo.DeadLetterEntry:
    (letter,) = app.transport().dead_letters(["default"], limit=2)
    return letter


def waiting(app: App) -> list[str]:
    return [group.key for group in app.transport().waiting_groups(["default"], by="event")]


# --- wherever listeners run -----------------------------------------------------------------------------


@ALL_WAYS
@BOTH_KINDS
def test_a_plugin_wraps_each_call_and_sees_its_result(way: str, is_async: bool) -> None:  # noqa: FBT001 - by pytest
    seen: list[Any] = []
    app = app_with(Wrapping("it", seen))
    listen(app, on(way), lambda _: noted(seen, "called", 7), is_async=is_async)

    run(app, way)

    assert seen == ["it before feed", "called", "it after 7"]


@ALL_WAYS
@BOTH_KINDS
def test_the_one_registered_last_is_the_outermost(way: str, is_async: bool) -> None:  # noqa: FBT001 - by pytest
    seen: list[Any] = []
    app = app_with(Wrapping("inner", seen), Wrapping("outer", seen))
    listen(app, on(way), lambda _: noted(seen, "called", 7), is_async=is_async)

    run(app, way)

    before = ["outer before feed", "inner before feed"]
    assert seen == [*before, "called", "inner after 7", "outer after 7"]


def test_tryfirst_and_trylast_set_the_order() -> None:
    seen: list[str] = []

    def made(name: str, *, first: bool = False, last: bool = False) -> object:
        class Plugin:
            @relevo.hookimpl(tryfirst=first, trylast=last)
            def relevo_around_listener(self, proceed: Proceed) -> object:
                seen.append(name)
                return proceed()

        return Plugin()

    dispatcher = LocalDispatcher(hooks=[made("a", first=True), made("b", last=True), made("c"), made("d")])
    dispatcher.add_listener("image.created", print, id="feed")

    dispatcher.dispatch("image.created")

    assert seen == ["a", "d", "c", "b"]


@ALL_WAYS
@BOTH_KINDS
def test_a_context_that_it_enters_is_that_of_the_listener(way: str, is_async: bool) -> None:  # noqa: FBT001 - by pytest
    class Tenants:
        @relevo.hookimpl
        def relevo_around_listener(self, proceed: Proceed) -> object:
            token = tenant.set("anna")
            try:
                return proceed()
            finally:
                tenant.reset(token)

        @relevo.hookimpl
        async def relevo_around_async_listener(self, proceed: AsyncProceed) -> object:
            token = tenant.set("anna")
            try:
                return await proceed()
            finally:
                tenant.reset(token)

    found: list[str] = []
    app = app_with(Tenants())
    listen(app, on(way), lambda _: found.append(tenant.get()), is_async=is_async)

    run(app, way)

    assert found == ["anna"]
    assert tenant.get() == "nobody"


@ALL_WAYS
def test_a_lock_of_the_loop_is_held_around_async_listeners(way: str) -> None:
    together: list[int] = []
    inside = 0

    class OneAtATime:
        def __init__(self) -> None:
            self.lock = asyncio.Lock()

        @relevo.hookimpl
        async def relevo_around_async_listener(self, proceed: AsyncProceed) -> object:
            async with self.lock:
                return await proceed()

    app = app_with(OneAtATime())

    @app.listener(on(way))
    async def feed(event: Event) -> None:
        nonlocal inside
        inside += 1
        await asyncio.sleep(0)
        together.append(inside)
        inside -= 1

    with app.testing() if way == "testing" else _nothing() as t:
        app.dispatch_many([Event(on(way))] * 20)
        if way == "testing":
            t.drain()
        elif way != "now":
            app.drain(RunOptions(until_empty=True, execution=way, concurrency=1 if way == "inline" else 10))  # type: ignore[arg-type]

    assert together == [1] * 20


@contextmanager
def _nothing() -> Iterator[Any]:
    yield None


@ALL_WAYS
def test_it_gets_the_event_of_a_listener_without_a_call_and_of_a_deferred_function(way: str) -> None:
    seen: list[Any] = []

    class Watch:
        @relevo.hookimpl
        def relevo_around_listener(self, event: object, call: Call, proceed: Proceed) -> object:
            seen.append((type(event).__name__, call.listener_id, call.attempt, proceed()))
            return None

    app = app_with(Watch())
    name = "now.mail.send" if way == "now" else "mail.send"

    @app.deferred(name)
    def send_mail(number: int) -> str:
        return f"sent {number}"

    if way == "testing":
        with app.testing() as t:
            send_mail.defer(3)
            t.drain()
    else:
        send_mail.defer(3)
        if way != "now":
            app.drain(RunOptions(until_empty=True, execution=way))  # type: ignore[arg-type]

    assert seen == [("send_mail", name, 1, "sent 3")]


@pytest.mark.parametrize("way", ["inline", "now"])
def test_a_plain_listener_that_returns_a_coroutine_is_done_before_the_plugin_goes_on(way: str) -> None:
    seen: list[Any] = []
    app = app_with(Wrapping("it", seen))

    async def work() -> int:
        await asyncio.sleep(0)
        seen.append("done")
        return 7

    app.add_listener(on(way), lambda event, call: work(), id="feed")

    run(app, way)

    assert seen == ["it before feed", "done", "it after 7"]


@pytest.mark.parametrize("way", ["inline", "now"])
@BOTH_KINDS
def test_a_listener_whose_work_is_not_done_has_failed_inside_the_plugin(way: str, is_async: bool) -> None:  # noqa: FBT001 - by pytest
    seen: list[Any] = []
    app = app_with(Wrapping("it", seen))
    listen(app, on(way), lambda _: map(print, [1]), is_async=is_async, retry=1)

    if way == "now":
        with pytest.raises(TypeError, match="its work was not done"):
            run(app, way)
    else:
        run(app, way)
        assert "its work was not done" in dead(app).error

    assert seen == ["it before feed"]


# --- refusing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["inline", "threads", "async"])
@BOTH_KINDS
@pytest.mark.parametrize(
    ("error", "reason", "text"),
    [
        (GiveUp("no such tenant"), "gave-up", "GiveUp: no such tenant"),
        (RetryLater("0s"), "retries-exhausted", "RetryLater: "),
        (ValueError("not now"), "retries-exhausted", "ValueError: not now"),
    ],
    ids=["GiveUp", "RetryLater", "ValueError"],
)
def test_a_refusal_counts_as_the_listeners_and_names_the_plugin(
    way: str,
    is_async: bool,  # noqa: FBT001 - by pytest
    error: Exception,
    reason: str,
    text: str,
) -> None:
    called: list[int] = []
    attempts: list[int] = []

    def refuse(call: Call, proceed: object) -> object:
        attempts.append(call.attempt)
        raise error

    app = app_with(Acting(before=refuse))
    listen(app, "image.created", called.append, is_async=is_async, retry=Retry(2, first=0))

    run(app, way)
    letter = dead(app)

    assert called == []
    assert attempts == ([1] if reason == "gave-up" else [1, 2])
    assert letter.reason == reason
    (failure,) = failures_of(letter)
    plugin = f"{__name__}.Acting"
    assert failure.error.startswith(text)
    assert failure.error.endswith(f"(raised by the plugin {plugin})")
    assert failure.listener == "feed"
    assert f"raised by the plugin {plugin}" in letter.error


@BOTH_KINDS
def test_in_process_a_refusal_is_raised_by_the_dispatch(is_async: bool) -> None:  # noqa: FBT001 - by pytest
    app = app_with(Acting(before=raises(GiveUp("no such tenant"))))
    listen(app, "now.image.created", print, is_async=is_async)

    with pytest.raises(GiveUp) as caught:
        app.dispatch("now.image.created")

    assert described(caught.value) == f"GiveUp: no such tenant (raised by the plugin {__name__}.Acting)"
    assert caught.value.__notes__ == [f"raised by the plugin {__name__}.Acting"]


@BOTH_KINDS
def test_in_tests_a_refusal_is_raised_by_drain(is_async: bool) -> None:  # noqa: FBT001 - by pytest
    app = app_with(Acting(before=raises(ValueError("no such tenant"))))
    listen(app, "image.created", print, is_async=is_async)

    with pytest.raises(ValueError, match="no such tenant"):
        run(app, "testing")


def test_a_plugin_may_wait_for_the_subject_as_a_listener_does() -> None:
    images: dict[str, str] = {}
    seen: list[str] = []
    app = App(
        transports={"main": MemoryTransport()},
        routes={"*": "main"},
        plugins=[Acting(before=lambda call, proceed: call.subject and proceed)],
        subjects=[relevo.SubjectType(type="image", cls=str, name=lambda _: None, load=images.get)],
    )
    listen(app, "image.created", lambda call: seen.append(call.subject), is_async=False)
    with app.testing() as t:
        app.dispatch("image.created", subject=relevo.Subject("image", "7"))
        t.drain(raises=False)
        images["7"] = "sea.jpg"
        t.travel("2s")
        t.drain()

    assert seen == ["sea.jpg"]


# --- the error of the listener ----------------------------------------------------------------------------


@ALL_WAYS
@BOTH_KINDS
def test_an_error_of_the_listener_passes_through_and_is_its_own(way: str, is_async: bool) -> None:  # noqa: FBT001 - by pytest
    seen: list[Any] = []
    app = app_with(Wrapping("inner", seen), Wrapping("outer", seen))
    listen(app, on(way), raises(ValueError("not today")), is_async=is_async, retry=1)

    if way in ("now", "testing"):
        with pytest.raises(ValueError, match="not today") as caught:
            run(app, way)
        assert not hasattr(caught.value, "__notes__")
    else:
        run(app, way)
        assert failures_of(dead(app))[0].error == "ValueError: not today"
        assert "raised by" not in dead(app).error

    assert seen == ["outer before feed", "inner before feed"]


class Translating:
    """It makes of a refused connection what says when to come back."""

    @relevo.hookimpl
    def relevo_around_listener(self, proceed: Proceed) -> object:
        try:
            return proceed()
        except ConnectionError as error:
            raise RetryLater("1h") from error

    @relevo.hookimpl
    async def relevo_around_async_listener(self, proceed: AsyncProceed) -> object:
        try:
            return await proceed()
        except ConnectionError as error:
            raise RetryLater("1h") from error


@BOTH_KINDS
def test_an_error_can_be_translated(is_async: bool, caplog: pytest.LogCaptureFixture) -> None:  # noqa: FBT001 - by pytest
    app = app_with(Translating())
    listen(app, "image.created", raises(ConnectionError("refused")), is_async=is_async, retry=Retry(2, first=0))

    with caplog.at_level(logging.INFO, "relevo.listener"):
        handle(app, is_async=is_async)

    (line,) = [each.message for each in caplog.records if "asks to run again" in each.message]
    assert "again in 60 min" in line
    assert f"(raised by the plugin {__name__}.Translating)" in line
    assert app.transport().stats("default").scheduled == 1


class Swallowing:
    @relevo.hookimpl
    def relevo_around_listener(self, proceed: Proceed) -> object:
        try:
            return proceed()
        except BaseException:  # noqa: BLE001 - the purpose of this plugin
            return None

    @relevo.hookimpl
    async def relevo_around_async_listener(self, proceed: AsyncProceed) -> object:
        try:
            return await proceed()
        except BaseException:  # noqa: BLE001 - the purpose of this plugin
            return None


@ALL_WAYS
@BOTH_KINDS
def test_a_plugin_cannot_swallow_the_error_of_a_listener(way: str, is_async: bool) -> None:  # noqa: FBT001 - by pytest
    app = app_with(Swallowing())
    listen(app, on(way), raises(ValueError("not today")), is_async=is_async, retry=1)

    if way in ("now", "testing"):
        with pytest.raises(ValueError, match="not today") as caught:
            run(app, way)
        (note,) = caught.value.__notes__
    else:
        run(app, way)
        note = dead(app).error
        assert failures_of(dead(app))[0].error == "ValueError: not today"

    assert f"the plugin {__name__}.Swallowing caught this and returned" in note


@pytest.mark.parametrize("plugin", [Swallowing(), Wrapping("it", [])], ids=["swallowing", "plain"])
@BOTH_KINDS
def test_a_stop_between_two_steps_passes_through(plugin: object, is_async: bool) -> None:  # noqa: FBT001 - by pytest
    ran: list[str] = []
    app = app_with(plugin)

    def feed(event: Event, call: Call) -> None:
        call.step("one", ran.append, "one")
        call.step("two", ran.append, "two")

    async def one(name: str) -> None:
        ran.append(name)

    async def feed_on_loop(event: Event, call: Call) -> None:
        await call.step("one", one, "one")
        await call.step("two", one, "two")

    app.add_listener("image.created", feed_on_loop if is_async else feed, id="feed", retry=1)
    with app.testing() as t:
        app.dispatch("image.created")
        t.interrupt(after="one")
        report = t.drain()
        again = t.drain()

    assert ran == ["one", "two"]
    assert report.done + again.done == 1
    assert report.dead + again.dead == 0


@BOTH_KINDS
def test_a_listener_that_swallows_a_stop_has_not_succeeded_for_the_plugin(is_async: bool) -> None:  # noqa: FBT001 - by pytest
    seen: list[Any] = []
    app = app_with(Wrapping("it", seen))

    def feed(event: Event, call: Call) -> None:
        call.step("one", int)
        try:
            call.step("two", int)
        except BaseException:  # noqa: BLE001 - the purpose of this listener
            return

    async def nothing() -> None: ...

    async def feed_on_loop(event: Event, call: Call) -> None:
        await call.step("one", nothing)
        try:
            await call.step("two", nothing)
        except BaseException:  # noqa: BLE001 - as above
            return

    app.add_listener("image.created", feed_on_loop if is_async else feed, id="feed")
    with app.testing() as t:
        app.dispatch("image.created")
        t.interrupt(after="one")
        t.drain()

    assert seen == ["it before feed", "it before feed", "it after None"]


# --- exactly one call -------------------------------------------------------------------------------------


def failing(app: App, function: Callable[[Call], object], *, is_async: bool) -> str:
    """Return the error with which the listener of an event ends that calls *function*."""
    listen(app, "image.created", function, is_async=is_async, retry=1)
    handle(app, is_async=is_async)
    return dead(app).error.splitlines()[-1].removeprefix("relevo.errors.")


@BOTH_KINDS
def test_a_plugin_that_neither_calls_nor_skips_the_listener_has_failed(is_async: bool) -> None:  # noqa: FBT001 - by pytest
    app = app_with(Acting(before=lambda _, __: None))

    error = failing(app, raises(AssertionError("it is not called")), is_async=is_async)

    hook = "relevo_around_async_listener" if is_async else "relevo_around_listener"
    assert error == (
        f"PluginError: the plugin {__name__}.Acting: {hook} returned without calling the listener; write return "
        f'proceed(), raise an error, or write return proceed.skip("why")'
    )


@pytest.mark.filterwarnings("error")
def test_one_that_forgets_await_has_failed_and_the_listener_is_not_called() -> None:
    app = app_with(Acting(before=lambda _, proceed: proceed()))

    error = failing(app, raises(AssertionError("it is not called")), is_async=True)

    assert "returned without calling the listener; write return await proceed()" in error


@BOTH_KINDS
def test_a_second_call_is_refused(is_async: bool) -> None:  # noqa: FBT001 - by pytest
    called: list[int] = []

    class Twice:
        @relevo.hookimpl
        def relevo_around_listener(self, proceed: Proceed) -> object:
            proceed()
            return proceed()

        @relevo.hookimpl
        async def relevo_around_async_listener(self, proceed: AsyncProceed) -> object:
            await proceed()
            return await proceed()

    error = failing(app_with(Twice()), lambda call: called.append(call.attempt), is_async=is_async)

    assert called == [1]
    assert "Twice: relevo_around_" in error
    assert "used proceed twice" in error
    assert "raise relevo.RetryLater to have the listener called again later" in error
    assert "raised by" not in error


def test_a_second_call_after_an_error_is_refused_too() -> None:
    called: list[int] = []

    class Retrying:
        @relevo.hookimpl
        def relevo_around_listener(self, proceed: Proceed) -> object:
            try:
                return proceed()
            except ValueError:
                return proceed()

    def fail(call: Call) -> object:
        called.append(call.attempt)
        raise ValueError("not today")

    app = app_with(Retrying())
    error = failing(app, fail, is_async=False)

    assert called == [1]
    assert "used proceed twice" in error
    assert "ValueError: not today" in dead(app).error


def test_a_listener_that_still_runs_when_the_plugin_returns_has_failed() -> None:
    release, ended = threading.Event(), threading.Event()

    class Impatient:
        @relevo.hookimpl
        def relevo_around_listener(self, proceed: Proceed) -> object:
            begun.clear()
            threading.Thread(target=proceed, daemon=True).start()
            assert begun.wait(60)
            return None

    begun = threading.Event()

    def wait(_: Call) -> None:
        begun.set()
        assert release.wait(60)
        ended.set()

    error = failing(app_with(Impatient()), wait, is_async=False)
    release.set()

    assert "returned while the listener still runs" in error
    assert ended.wait(60)


def test_proceed_is_refused_after_the_plugin_has_returned() -> None:
    kept: list[Proceed] = []
    dispatcher = LocalDispatcher(hooks=[Acting(before=lambda _, proceed: noted(kept, proceed, proceed))])
    called: list[object] = []
    dispatcher.add_listener("image.created", called.append, id="feed")
    dispatcher.dispatch("image.created")

    with pytest.raises(PluginError, match="after its return"):
        kept[0]()
    with pytest.raises(PluginError, match="after its return"):
        kept[0].skip("too late")

    assert len(called) == 1


def test_proceed_that_was_kept_and_not_used_calls_nothing_later() -> None:
    kept: list[Proceed] = []
    app = app_with(Acting(before=lambda _, proceed: noted(kept, proceed, None)))

    error = failing(app, raises(AssertionError("it is not called")), is_async=False)

    assert "returned without calling the listener" in error
    with pytest.raises(PluginError, match="after its return"):
        kept[0]()


# --- skipping ---------------------------------------------------------------------------------------------


@ALL_WAYS
@BOTH_KINDS
def test_a_skipped_listener_is_done_and_a_log_says_why(
    way: str,
    is_async: bool,  # noqa: FBT001 - by pytest
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[Any] = []
    app = app_with(Acting(before=lambda _, proceed: proceed.skip("seen before")), Wrapping("outer", seen))
    listen(app, on(way), raises(AssertionError("it is not called")), is_async=is_async)

    with caplog.at_level(logging.INFO, "relevo.listener"):
        run(app, way)

    (line,) = [each.message for each in caplog.records if "not called" in each.message]
    assert line.startswith("<Call of feed in ")
    assert line.endswith(f": not called, since the plugin {__name__}.Acting skips it: seen before")
    assert seen == ["outer before feed", "outer after None"]
    if way != "now":
        assert app.transport().stats("default").ready == 0
        assert not app.transport().dead_letters(["default"], limit=1)


# --- what is sent and committed ---------------------------------------------------------------------------


@ALL_WAYS
@BOTH_KINDS
def test_events_are_sent_after_the_plugin_has_returned(way: str, is_async: bool) -> None:  # noqa: FBT001 - by pytest
    ready: list[int | None] = []
    app = app_with(Acting(after=lambda result: noted(ready, app.transport().stats("default").ready, result)))

    @app.listener("image.rated", queue="default")
    def rated(event: Event) -> None:
        ready.append(-1)

    listen(app, on(way), lambda call: call.dispatch("image.rated"), is_async=is_async)

    run(app, way)
    if way == "now":
        app.drain()

    before = [each for each in ready if each is not None and each >= 0]
    assert before[0] == 0
    assert -1 in ready


@pytest.mark.parametrize("way", ["inline", "threads", "async", "now"])
@BOTH_KINDS
def test_an_error_after_the_listener_sends_nothing(way: str, is_async: bool) -> None:  # noqa: FBT001 - by pytest
    app = app_with(Acting(after=raises(ValueError("too late"))))
    listen(app, on(way), lambda call: call.dispatch("image.rated"), is_async=is_async, retry=1)

    if way == "now":
        with pytest.raises(ValueError, match="too late"):
            run(app, way)
    else:
        run(app, way)
        assert dead(app).reason == "retries-exhausted"

    assert "image.rated" not in waiting(app)


def test_what_a_plugin_dispatches_by_the_call_is_sent_with_the_events_of_the_listener() -> None:
    app = app_with(Acting(before=lambda call, proceed: noted([], call.dispatch("image.seen"), proceed)))
    listen(app, "image.created", lambda call: call.dispatch("image.rated"), is_async=False)

    app.dispatch("image.created")
    app.drain(RunOptions(until_empty=True, max_events=1))

    assert sorted(waiting(app)) == ["image.rated", "image.seen"]


_TABLES = sa.MetaData()
RESULTS = sa.Table("results", _TABLES, sa.Column("event", sa.String(255)), sa.Column("result", sa.Integer))


class Results:
    """Stores the results of transactional listeners, in their transactions; fails afterwards if that is wanted."""

    def __init__(self, error: Exception | None = None):
        self.error = error

    @relevo.hookimpl
    def relevo_around_listener(self, call: Call, proceed: Proceed) -> object:
        result = proceed()
        call.session.execute(sa.insert(RESULTS).values(event=call.event_id, result=result))
        if self.error is not None:
            raise self.error
        return result

    @relevo.hookimpl
    async def relevo_around_async_listener(self, call: Call, proceed: AsyncProceed) -> object:
        result = await proceed()
        await call.session.execute(sa.insert(RESULTS).values(event=call.event_id, result=result))
        if self.error is not None:
            raise self.error
        return result


@pytest.fixture(name="engine")
def _engine(tmp_path: Any) -> Iterator[sa.Engine]:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'rows.db'}")
    _TABLES.create_all(engine)
    yield engine
    engine.dispose()


def stored(engine: sa.Engine) -> Sequence[int]:
    with engine.connect() as connection:
        return connection.scalars(sa.select(RESULTS.c.result)).all()


@pytest.mark.parametrize("error", [None, ValueError("too late")], ids=["done", "failed"])
@pytest.mark.parametrize("way", ["inline", "threads", "async"])
@BOTH_KINDS
def test_what_a_plugin_writes_commits_with_a_transactional_listener(
    engine: sa.Engine,
    way: str,
    is_async: bool,  # noqa: FBT001 - by pytest
    error: Exception | None,
) -> None:
    sessions: Any = sessionmaker(engine)
    if is_async:
        pytest.importorskip("aiosqlite")
        extension: Any = pytest.importorskip("sqlalchemy.ext.asyncio")
        address = engine.url.set(drivername="sqlite+aiosqlite")
        sessions = extension.async_sessionmaker(extension.create_async_engine(address, poolclass=sa.NullPool))
    app = app_with(Results(error))
    listen(app, "image.created", lambda call: 7, is_async=is_async, transactional=sessions, retry=1)

    run(app, way)

    assert stored(engine) == ([7] if error is None else [])
    assert len(app.transport().dead_letters(["default"], limit=2)) == (error is not None)


def test_what_a_step_has_committed_stays_though_the_plugin_fails_afterwards(engine: sa.Engine) -> None:
    def bill(call: Call) -> int:
        call.step("bill", lambda: call.session.execute(sa.insert(RESULTS).values(event="step", result=1)) and None)
        return 7

    results = Results(ValueError("too late"))
    app = app_with(results)
    listen(
        app, "image.created", bill, is_async=False, transactional=sessionmaker(engine), retry=relevo.Retry(2, first=0)
    )
    app.dispatch("image.created")
    app.drain(RunOptions(max_events=1, until_empty=True))
    between = stored(engine)
    results.error = None
    app.drain(RunOptions(until_empty=True, settle=5))

    assert (between, stored(engine)) == ([1], [1, 7])


def test_a_step_is_refused_after_a_plugin_has_written_in_the_transaction(engine: sa.Engine) -> None:
    class Early:
        @relevo.hookimpl
        def relevo_around_listener(self, call: Call, proceed: Proceed) -> object:
            call.session.execute(sa.insert(RESULTS).values(event="early", result=1))
            return proceed()

    app = app_with(Early())
    step: Callable[[Call], object] = lambda call: call.step("bill", int)  # noqa: E731 - one line of a listener
    listen(app, "image.created", step, is_async=False, transactional=sessionmaker(engine), retry=1)

    run(app, "inline")

    (letter,) = app.transport().dead_letters(["default"], limit=2)
    assert 'feed: the step "bill": call.session has written something before it' in letter.error
    assert stored(engine) == []


def test_in_process_the_session_is_that_of_the_dispatch(engine: sa.Engine) -> None:
    app = app_with(Results())
    listen(app, "now.image.created", lambda call: 7, is_async=False)

    with sessionmaker(engine)() as session:
        app.dispatch("now.image.created", session=session)
        before = stored(engine)
        session.commit()

    assert [before, stored(engine)] == [[], [7]]


# --- what is around it, and within ------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["inline", "threads", "async", "now"])
@BOTH_KINDS
def test_observing_plugins_see_what_deciding_ones_made_of_it(way: str, is_async: bool) -> None:  # noqa: FBT001 - by pytest
    seen: list[str] = []

    class Observer:
        @relevo.hookimpl
        @contextmanager
        def relevo_around_call(self) -> Iterator[None]:
            seen.append("begins")
            try:
                yield
            except BaseException as error:
                seen.append(type(error).__name__)
                raise

    app = app_with(Observer(), Translating())
    listen(app, on(way), raises(ConnectionError("refused")), is_async=is_async)

    if way == "now":
        with pytest.raises(RetryLater):
            run(app, way)
    else:
        run(app, way)

    assert seen == ["begins", "RetryLater"]


@pytest.mark.parametrize("way", ["threads", "async"])
def test_the_time_limit_of_an_async_listener_covers_the_plugin(way: str) -> None:
    class Slow:
        @relevo.hookimpl
        async def relevo_around_async_listener(self, proceed: AsyncProceed) -> object:
            await asyncio.sleep(60)
            return await proceed()

    app = app_with(Slow())
    listen(app, "image.created", print, is_async=True, retry=1, time_limit=0.05)

    run(app, way)

    assert "TimeLimitExceededError: feed ran for longer than its time limit" in dead(app).error
    assert f"raised by the plugin {__name__}." in dead(app).error  # the cause shows where it was


# --- which listeners a plugin wraps -----------------------------------------------------------------------


class PlainOnly:
    @relevo.hookimpl
    def relevo_around_listener(self, proceed: Proceed) -> object:
        return proceed()


class AsyncOnly:
    @relevo.hookimpl
    async def relevo_around_async_listener(self, proceed: AsyncProceed) -> object:
        return await proceed()


MISFITS = pytest.mark.parametrize(
    ("plugin", "is_async", "text"),
    [
        (
            PlainOnly(),
            True,
            (
                f"feed is async, and the plugin {__name__}.PlainOnly has only relevo_around_listener; "
                f"add async def relevo_around_async_listener(self, proceed): return await proceed()"
            ),
        ),
        (
            AsyncOnly(),
            False,
            (
                f"feed is not async, and the plugin {__name__}.AsyncOnly has only "
                f"relevo_around_async_listener; add def relevo_around_listener(self, proceed): return proceed()"
            ),
        ),
    ],
    ids=["plain", "async"],
)


@MISFITS
def test_a_plugin_without_the_hook_for_a_kind_of_listeners_is_refused_before_the_first_event(
    plugin: object,
    is_async: bool,  # noqa: FBT001 - by pytest
    text: str,
) -> None:
    app = app_with(plugin)
    listen(app, "image.created", print, is_async=is_async)

    with pytest.raises(PluginError) as caught:
        app.worker()

    assert str(caught.value) == text


@MISFITS
def test_in_process_no_listener_is_called_then(plugin: object, is_async: bool, text: str) -> None:  # noqa: FBT001 - by pytest
    called: list[object] = []
    app = app_with(plugin)
    listen(app, "now.image.created", called.append, is_async=not is_async, id="first", priority=1)
    listen(app, "now.image.created", called.append, is_async=is_async)

    with pytest.raises(PluginError) as caught:
        app.dispatch("now.image.created")

    assert str(caught.value) == text
    assert called == []


@MISFITS
def test_a_listener_that_is_added_later_fails_then(plugin: object, is_async: bool, text: str) -> None:  # noqa: FBT001 - by pytest
    app = app_with(plugin)
    worker = app.worker(RunOptions(until_empty=True))
    listen(app, "image.created", raises(AssertionError("it is not called")), is_async=is_async, retry=1)
    app.dispatch("image.created")

    worker.run()

    assert dead(app).error.endswith(f"PluginError: {text}")


def test_without_a_plugin_listeners_stay_as_they_are() -> None:
    app = app_with()

    assert with_wrappers(app.listeners, app.hooks) is app.listeners


def test_a_wrapped_listener_leads_to_its_function_and_is_wrapped_once() -> None:
    app = app_with(Wrapping("it", []))
    listen(app, "image.created", print, is_async=False)

    ((plain,), (once,)) = app.listeners, with_wrappers(app.listeners, app.hooks)
    (twice,) = with_wrappers(with_wrappers(app.listeners, app.hooks), app.hooks)

    assert once.function is not plain.function
    assert defined_at(once.function) == defined_at(plain.function)
    assert inspect.unwrap(twice.function) is plain.function
    assert inspect.unwrap(twice.function, stop=lambda each: each is not twice.function) is plain.function


def test_a_child_process_needs_a_plugin_that_wraps_listeners() -> None:
    assert names_where_listeners_run(Hooks([PlainOnly()])) == ["PlainOnly"]
    assert names_where_listeners_run(Hooks([AsyncOnly()])) == ["AsyncOnly"]


def test_a_delivery_that_is_handled_without_a_worker_is_wrapped_too() -> None:
    seen: list[Any] = []
    app = app_with(Wrapping("it", seen))
    listen(app, "image.created", lambda _: 7, is_async=False)
    app.dispatch("image.created")
    (delivery,) = app.transport().receive(["default"], limit=1, lease=60, wait=0)

    app.handle("main", app.listeners, checkpoint=None)(delivery)

    assert seen == ["it before feed", "it after 7"]


def test_in_process_a_session_of_another_loop_is_refused_inside_the_plugin() -> None:
    app = app_with(Wrapping("it", []))

    async def work() -> None:
        raise AssertionError("it is not called")

    app.add_listener("now.image.created", lambda event, call: work(), id="feed")

    async def main() -> None:
        await app.adispatch("now.image.created", session=object())

    with pytest.raises(relevo.ConfigurationError, match="on another event loop than yours"):
        asyncio.run(main())


def test_a_plugin_that_is_removed_wraps_nothing_any_more() -> None:
    seen: list[Any] = []
    plugin = Wrapping("it", seen)
    app = app_with(plugin)
    listen(app, "now.image.created", lambda _: 7, is_async=False)

    app.hooks.remove(plugin)
    run(app, "now")

    assert seen == []


# --- how it is written ------------------------------------------------------------------------------------


class WithYield:
    @relevo.hookimpl
    def relevo_around_listener(self, proceed: Proceed) -> Iterator[None]:
        yield


class AsManager:
    @relevo.hookimpl
    @contextmanager
    def relevo_around_listener(self, proceed: Proceed) -> Iterator[None]:
        yield


class AsyncYield:
    @relevo.hookimpl
    async def relevo_around_async_listener(self, proceed: AsyncProceed) -> AsyncIterator[None]:
        yield


class WrongKind:
    @relevo.hookimpl
    async def relevo_around_listener(self, proceed: AsyncProceed) -> object:
        return await proceed()


class OtherKind:
    @relevo.hookimpl
    def relevo_around_async_listener(self, proceed: Proceed) -> object:
        return proceed()


class WithoutProceed:
    @relevo.hookimpl
    def relevo_around_listener(self, call: Call) -> object:
        return None


class Optional:
    @relevo.hookimpl
    def relevo_around_listener(self, proceed: Proceed | None = None) -> object:
        return None


class Pluggys:
    @relevo.hookimpl(wrapper=True)
    def relevo_around_listener(self, proceed: Proceed) -> Iterator[None]:
        yield


class Strange:
    @relevo.hookimpl
    def relevo_around_listener(self, proceed: Proceed, delivery: object) -> object:
        return proceed()


PLAIN = "; write def relevo_around_listener(self, proceed): return proceed()"
ON_LOOP = "; write async def relevo_around_async_listener(self, proceed): return await proceed()"
LACKS = "relevo_around_listener does not take proceed, which calls the listener"
YIELDS = "has a yield; it calls the listener by proceed instead"


@pytest.mark.parametrize(
    ("plugin", "why"),
    [
        (WithYield(), f"relevo_around_listener {YIELDS}{PLAIN}"),
        (AsManager(), f"relevo_around_listener {YIELDS}{PLAIN}"),
        (AsyncYield(), f"relevo_around_async_listener {YIELDS}{ON_LOOP}"),
        (WrongKind(), f"relevo_around_listener is async; relevo_around_async_listener is for async listeners{PLAIN}"),
        (
            OtherKind(),
            f"relevo_around_async_listener is not async; relevo_around_listener is for listeners that are not{ON_LOOP}",
        ),
        (WithoutProceed(), f"{LACKS}{PLAIN}"),
        (Optional(), f"{LACKS}{PLAIN}"),
        (Pluggys(), f"relevo_around_listener cannot be a wrapper of pluggy's{PLAIN}"),
        (Strange(), "relevo_around_listener has no argument delivery; it takes only event, call, proceed"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_a_hook_that_cannot_wrap_a_listener_is_refused_at_its_registration(plugin: object, why: str) -> None:
    hooks = Hooks()

    with pytest.raises(PluginError) as caught:
        hooks.add(plugin)

    assert str(caught.value) == f"the plugin {__name__}.{type(plugin).__name__}: {why}"
    assert not hooks.plugins


def test_type_checkers_find_a_forgotten_await() -> None:
    class Forgetful:
        @relevo.hookimpl
        async def relevo_around_async_listener(self, proceed: AsyncProceed) -> object:
            proceed()  # type: ignore[unused-coroutine]
            return assert_type(await proceed(), object)

        @relevo.hookimpl
        def relevo_around_listener(self, proceed: Proceed) -> object:
            proceed(3)  # type: ignore[call-arg]
            proceed.skip()  # type: ignore[call-arg]
            return assert_type(proceed(), object)

    assert Hooks([Forgetful()]).wraps


# --- whose error it is ------------------------------------------------------------------------------------


def test_an_error_that_is_raised_again_and_again_names_its_plugin_once() -> None:
    refusal = GiveUp("no")
    dispatcher = LocalDispatcher(hooks=[Acting(before=raises(refusal))])
    dispatcher.add_listener("image.created", print, id="feed")

    for _ in range(3):
        with pytest.raises(GiveUp):
            dispatcher.dispatch("image.created")

    assert refusal.__notes__ == [f"raised by the plugin {__name__}.Acting"]


def test_a_hostile_error_names_its_plugin_too() -> None:
    class HostileError(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise ValueError(name)

        @property
        def __dict__(self) -> Any:  # type: ignore[override]
            raise ValueError("no attributes")

        def add_note(self, note: str, /) -> None:
            raise ValueError("no notes")

    error = HostileError("no")

    blame(error, "shop:Tenants")

    assert described(error) == "HostileError: no (raised by the plugin shop:Tenants)"
