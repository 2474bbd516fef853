"""Steps: what a listener has finished is not done again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from relevo import App, Call, Event, GiveUp, ListenerTable, RetryLater, SubjectType
from relevo.errors import ConfigurationError, LeaseLostError, StepError
from relevo.testing import AppTesting, FakeClock, make_call
from relevo_memory import MemoryTransport

Listen = Callable[..., Any]


@pytest.fixture
def done() -> list[Any]:
    """Return what the steps did, in order."""
    return []


@pytest.fixture
def app() -> App:
    return App(source="shop", transports={"main": MemoryTransport()}, routes={"*": ["main"]}, listeners=ListenerTable())


@pytest.fixture
def t(app: App) -> Iterator[AppTesting]:
    with app.testing() as testing:
        yield testing


def test_a_finished_step_is_not_run_again_and_gives_its_result_back(app: App, t: AppTesting, done: list[Any]) -> None:
    seen = []

    def resized(width: int) -> list[int]:
        done.append("resize")
        return [width, 2]

    @app.listener("image.created", id="process")
    def process(_: Event, call: Call) -> None:
        seen.append(call.step("resize", resized, 1))
        if call.attempt == 1:
            raise RetryLater(delay=1)
        call.step("publish", done.append, "publish")

    app.dispatch(Event("image.created"))
    t.drain()
    t.travel("2s")
    t.drain()

    assert (done, seen) == (["resize", "publish"], [[1, 2], [1, 2]])


def test_a_result_is_the_same_in_the_first_run_and_in_later_ones(app: App, t: AppTesting) -> None:
    seen: list[object] = []

    @app.listener("image.created", id="process")
    def process(_: Event, call: Call) -> None:
        seen.append(call.step("size", lambda: {"size": (1, 2)}))
        if call.attempt == 1:
            raise RetryLater(delay=1)

    app.dispatch(Event("image.created"))
    t.drain()
    t.travel("2s")
    t.drain()

    assert seen == [{"size": [1, 2]}] * 2


def test_async_steps(app: App, t: AppTesting, done: list[Any]) -> None:
    async def fetch(url: str) -> str:
        await asyncio.sleep(0)
        done.append(url)
        return url.upper()

    @app.listener("image.created", id="process")
    async def process(_: Event, call: Call) -> None:
        nonlocal done
        both = await asyncio.gather(call.step("one", fetch, "a"), call.step("two", fetch, "b"))
        assert list(both) == ["A", "B"]
        if call.attempt == 1:
            raise RetryLater(delay=1)
        done += [row async for row in call.cursor("rows", range(2))]

    app.dispatch(Event("image.created"))
    t.drain()
    t.travel("2s")
    t.drain()

    assert done == ["a", "b", 0, 1]


@pytest.mark.parametrize("fails_at", range(4))
def test_a_cursor_goes_on_after_the_last_row(app: App, t: AppTesting, done: list[Any], fails_at: int) -> None:
    @app.listener("rows.added", id="add")
    def add(_: Event, call: Call) -> None:
        for row in call.cursor("rows", ["a", "b", "c"]):
            if call.attempt == 1 and len(done) == fails_at:
                raise RetryLater(delay=1)
            done.append(row)

    app.dispatch(Event("rows.added"))
    t.drain()
    t.travel("2s")
    t.drain()

    assert done == ["a", "b", "c"]


def test_a_function_gives_the_rows_that_are_left(app: App, t: AppTesting, done: list[Any]) -> None:
    asked = []

    def rows(start: int) -> range:
        asked.append(start)
        return range(start, 4)

    @app.listener("rows.added", id="add")
    def add(_: Event, call: Call) -> None:
        for row in call.cursor("rows", rows):
            if call.attempt == 1 and row == 2:
                raise RetryLater(delay=1)
            done.append(row)

    app.dispatch(Event("rows.added"))
    t.drain()
    t.travel("2s")
    t.drain()

    assert (done, asked) == ([0, 1, 2, 3], [0, 2])


def test_async_rows(app: App, t: AppTesting, done: list[Any]) -> None:
    async def rows() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    @app.listener("rows.added", id="add")
    async def add(_: Event, call: Call) -> None:
        async for row in call.cursor("rows", rows()):
            if call.attempt == 1 and row == 1:
                raise RetryLater(delay=1)
            done.append(row)

    app.dispatch(Event("rows.added"))
    t.drain()
    t.travel("2s")
    t.drain()

    assert done == [0, 1, 2]


def test_a_stop_interrupts_between_two_steps_and_counts_as_no_run(app: App, t: AppTesting, done: list[Any]) -> None:
    attempts = []

    @app.listener("image.created", id="process", retry=1)
    def process(_: Event, call: Call) -> None:
        attempts.append(call.attempt)
        call.step("resize", done.append, "resize")
        done.extend(call.cursor("rows", "ab"))

    app.dispatch(Event("image.created"))
    t.interrupt(after="resize")
    t.interrupt(after="rows")
    report = t.drain()

    assert (done, attempts) == (["resize", "a", "b"], [1, 1, 1])
    assert (report.retried, report.done) == (2, 1)


def test_an_interruption_that_never_came_fails_the_test(app: App, t: AppTesting) -> None:
    app.listener("image.created", id="process")(lambda event: None)
    app.dispatch(Event("image.created"))
    t.interrupt(after="resized")

    with pytest.raises(AssertionError, match=r'interrupt\(after="resized"\): no listener'):
        t.drain()


def test_no_handler_of_errors_catches_an_interruption(app: App, t: AppTesting, done: list[Any]) -> None:
    @app.listener("image.created", id="process")
    async def process(_: Event, call: Call) -> None:
        async def note(name: str) -> None:
            done.append(name)

        try:
            await call.step("resize", note, "resize")
            async with asyncio.TaskGroup() as group:
                group.create_task(call.step("publish", note, "publish"))
        except Exception:  # noqa: BLE001 - as listeners have it
            done.append("caught")

    app.dispatch(Event("image.created"))
    t.interrupt(after="resize")
    t.drain()

    assert done == ["resize", "publish"]


def test_what_a_step_dispatches_is_sent_before_it_is_noted(app: App, t: AppTesting, done: list[Any]) -> None:
    app.listener("image.resized", id="resized")(lambda event: done.append(event.arguments["n"]))

    @app.listener("image.created", id="process")
    def process(_: Event, call: Call) -> None:
        call.dispatch("image.resized", {"n": 0})  # with the listener, when it has ended
        call.step("one", call.dispatch, "image.resized", {"n": 1})
        for row in call.cursor("rows", [2, 3]):
            call.dispatch("image.resized", {"n": row})
        if call.attempt == 1:
            raise RetryLater(delay=1)

    app.dispatch(Event("image.created"))
    t.drain()
    first = list(done)
    t.travel("2s")
    t.drain()

    assert (first, done) == ([1, 2, 3], [1, 2, 3, 0])
    assert len({each.id for each in t.dispatched("image.resized")}) == 4


def test_what_was_dispatched_for_the_row_at_which_a_loop_was_left_is_sent(
    app: App, t: AppTesting, done: list[Any]
) -> None:
    app.listener("row.seen", id="seen")(lambda event: done.append(event.arguments["row"]))

    @app.listener("rows.added", id="sync")
    def sync(_: Event, call: Call) -> None:
        for row in call.cursor("rows", range(9)):
            call.dispatch("row.seen", {"row": row})
            if row == 1:
                break

    @app.listener("rows.added", id="on loop")
    async def on_loop(_: Event, call: Call) -> None:
        async for row in call.cursor("rows", range(9)):
            call.dispatch("row.seen", {"row": row + 10})
            if row == 1:
                break

    app.dispatch(Event("rows.added"))
    t.drain()

    assert sorted(done) == [0, 1, 10, 11]


@pytest.mark.parametrize("fails_at", range(7))
def test_steps_inside_a_step_and_for_a_row(app: App, t: AppTesting, done: list[Any], fails_at: int) -> None:
    sent: list[int] = []
    app.listener("row.seen", id="seen")(lambda event: sent.append(event.arguments["row"]))
    points = iter(range(100))

    @app.listener("rows.added", id="add")
    def add(_: Event, call: Call) -> None:
        def fail() -> None:
            if next(points) == fails_at:
                raise RetryLater(delay=1)

        def outer() -> None:
            call.step("one", done.append, "inner")
            fail()
            done.append("outer")

        call.step("outer", outer)
        fail()
        for row in call.cursor("rows", range(2)):
            call.step("one", done.append, row)  # the name is that of another step, and of another row
            call.dispatch("row.seen", {"row": row})
            fail()
        call.step("one", done.append, "last")
        fail()

    app.dispatch(Event("rows.added"))
    t.drain()
    t.travel("2s")
    t.drain()

    assert (done, sent) == (["inner", "outer", 0, 1, "last"], [0, 1])


def test_a_loop_that_was_left_does_not_hold_what_comes_after_it(app: App, t: AppTesting, done: list[Any]) -> None:
    @app.listener("rows.added", id="add")
    def add(_: Event, call: Call) -> None:
        for _row in call.cursor("rows", range(3)):
            break
        call.step("last", done.append, "last")
        if call.attempt == 1:
            raise RetryLater(delay=1)

    app.dispatch(Event("rows.added"))
    t.drain()
    t.travel("2s")
    t.drain()

    assert done == ["last"]


def test_a_step_that_failed_beside_others_runs_again(app: App, t: AppTesting, done: list[Any]) -> None:
    async def note(name: str, attempt: int) -> None:
        if name == "one" and attempt == 1:
            await asyncio.sleep(0.01)
            raise RetryLater(delay=1)
        done.append(name)

    @app.listener("image.created", id="process")
    async def process(_: Event, call: Call) -> None:
        await asyncio.gather(*(call.step(name, note, name, call.attempt) for name in ("one", "two", "three")))

    @app.listener("image.created", id="catch")
    def catch(_: Event, call: Call) -> None:
        with suppress(ZeroDivisionError):
            call.step("fails", lambda: 1 // 0)
        call.step("other", done.append, "other")
        if call.attempt == 1:
            raise RetryLater(delay=1)

    app.dispatch(Event("image.created"))
    t.drain()
    t.travel("2s")
    t.drain()

    assert sorted(done) == ["one", "other", "three", "two"]


def test_a_step_that_was_added_before_a_finished_one(app: App, t: AppTesting, done: list[Any]) -> None:
    release = []

    @app.listener("image.created", id="process", retry=9)
    def process(_: Event, call: Call) -> None:
        if release:
            call.add_steps(*release[1:])
            call.step("check", done.append, "check")
        call.step("resize", done.append, "resize")
        if len(release) < 2:
            raise RetryLater(delay=1)

    app.dispatch(Event("image.created"))
    t.drain()
    release.append("check")
    t.travel("2s")
    with pytest.raises(StepError, match=r'or call.add_steps\("check"\) if this one was added before it'):
        t.drain()
    release.append("check")
    t.travel("1h")
    t.drain()

    assert done == ["resize", "check"]


def test_a_renamed_and_a_removed_step_are_refused_until_that_is_said(app: App, t: AppTesting, done: list[Any]) -> None:
    release = ["resize", "publish"]

    @app.listener("image.created", id="process", retry=9)
    def process(_: Event, call: Call) -> None:
        if "says" in release:
            call.rename_step("resize", to="shrink")
            call.forget_steps("publish")
        for name in release[:2]:
            call.step(name, done.append, name)
        if "fails" in release or call.attempt == 1:
            raise RetryLater(delay=1)
        call.step("end", done.append, "end")

    app.dispatch(Event("image.created"))
    t.drain()
    release[:] = ["shrink", "other"]
    t.travel("2s")
    with pytest.raises(StepError, match=r'process: the step "shrink": it is new, .* finished "resize".*rename_step'):
        t.drain()
    release.append("says")
    t.travel("1h")
    t.drain()

    assert done == ["resize", "publish", "other", "end"]


def test_a_listener_that_is_called_again_for_a_subject_that_is_gone_goes_on_too(
    app: App, t: AppTesting, done: list[Any]
) -> None:
    app.add_subject(SubjectType(type="image", cls=dict, name=lambda _: "7", load=lambda _: None))

    @app.listener("image.created", id="process", missing="tombstone")
    def process(_: Event, call: Call) -> None:
        call.step("resize", done.append, "resize")
        done.append(type(call.subject).__name__)

    app.dispatch(Event("image.created", subject={}))
    t.drain()
    t.travel("2h")
    t.drain()

    assert done == ["resize", "Gone"]


def test_a_revived_dead_letter_goes_on_after_its_last_step(app: App, t: AppTesting, done: list[Any]) -> None:
    is_fixed = False

    @app.listener("image.created", id="process")
    def process(_: Event, call: Call) -> None:
        call.step("resize", done.append, "resize")
        if not is_fixed:
            raise GiveUp("no room")
        call.step("publish", done.append, "publish")

    app.dispatch(Event("image.created"))
    with pytest.raises(GiveUp):
        t.drain()
    is_fixed = True
    t.revive(*t.dead)
    t.drain()

    assert done == ["resize", "publish"]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (object(), "its result cannot be kept"),
        ({1: 2}, "its result cannot be kept"),
        (float("nan"), "its result cannot be kept"),
        ("x" * 3000, "its result has 3,002 bytes, and at most 2,000 are kept; store the data and return its key"),
    ],
)
def test_a_result_that_cannot_be_kept_is_refused(app: App, t: AppTesting, value: object, why: str) -> None:
    @app.listener("image.created", id="process")
    def process(_: Event, call: Call) -> None:
        call.step("resize", lambda: value)

    app.dispatch(Event("image.created"))

    with pytest.raises(StepError, match=f'process: the step "resize": {why}'):
        t.drain()


def test_too_many_results_make_a_dead_letter_that_says_so(app: App, t: AppTesting) -> None:
    @app.listener("image.created", id="process")
    def process(_: Event, call: Call) -> None:
        for number in range(20):
            call.step(f"step {number}", lambda: "x" * 1900)

    app.dispatch(Event("image.created"))
    t.drain(raises=False)

    (dead,) = t.dead
    assert dead.reason == "state-too-large"
    assert "finished steps" in dead.entry.error


def misused(call: Call, how: str) -> object:
    async def coroutine() -> None:
        pass

    match how:
        case "twice":
            call.step("one", int)
            return call.step("one", int)
        case "empty":
            return call.step("", int)
        case "awaitable":
            return call.step("one", partial(lambda each: each(), coroutine))
        case "every":
            return call.cursor("rows", [], every=0)
        case _:
            raise AssertionError(how)


@pytest.mark.parametrize(
    ("how", "error", "why"),
    [
        ("twice", StepError, "it was begun already in this run; in a loop give each its own name"),
        ("empty", StepError, "a step has a name of 1 to 100 printable characters"),
        ("awaitable", StepError, "pass the async function itself"),
        ("every", ConfigurationError, "expected 1 or more; got 0"),
    ],
)
def test_misuse_is_named(app: App, t: AppTesting, how: str, error: type[Exception], why: str) -> None:
    app.listener("image.created", id="process")(lambda event, call: misused(call, how) and None)
    app.dispatch(Event("image.created"))

    with pytest.raises(error, match=why):
        t.drain()


def test_an_async_listener_has_async_steps_alone(app: App, t: AppTesting) -> None:
    @app.listener("image.created", id="process")
    async def process(_: Event, call: Call) -> None:
        call.step("resize", int)

    app.dispatch(Event("image.created"))

    with pytest.raises(StepError, match="in an async listener a step is async"):
        t.drain()


def test_a_step_after_the_end_of_its_listener_is_refused(app: App, t: AppTesting) -> None:
    calls: list[Call] = []
    app.listener("image.created", id="process")(lambda event, call: calls.append(call))
    app.dispatch(Event("image.created"))
    t.drain()

    with pytest.raises(ConfigurationError, match="process: the listener has ended"):
        calls[0].step("late", int)


def test_steps_run_without_a_delivery_too(done: list[Any]) -> None:
    call = make_call()

    assert call.step("one", int, "3") == 3
    assert list(call.cursor("rows", range(2))) == [0, 1]
    call.rename_step("a", to="b")
    call.forget_steps("a")


def test_a_lost_lease_ends_the_listener_at_its_step(clock: FakeClock, done: list[Any]) -> None:
    transport = MemoryTransport(clock=clock)
    app = App(source="shop", transports={"main": transport}, routes={"*": ["main"]}, clock=clock)

    @app.listener("image.created", id="process")
    def process(_: Event, call: Call) -> None:
        if not done:  # another worker takes the event
            clock.advance(1000.0)
            transport.receive(["default"], limit=1, lease=1.0, wait=0.0)
        try:
            call.step("one", done.append, "one")
        except LeaseLostError:
            done.append("lost")
            raise

    app.dispatch(Event("image.created"))
    app.drain()

    assert done == ["one", "lost"]


@settings(max_examples=40)
@given(st.lists(st.integers(0, 6), max_size=8), st.integers(1, 3))
def test_each_row_and_step_is_done_once_however_often_it_fails(fails: list[int], every: int) -> None:
    transport = MemoryTransport()
    app = App(source="shop", transports={"main": transport}, routes={"*": ["main"]})
    done: list[object] = []
    left = list(fails)

    @app.listener("rows.added", id="add", retry=50)
    def add(_: Event, call: Call) -> None:
        begun = 0

        def fail_at(point: int) -> None:
            nonlocal begun
            begun += 1
            if left and left[0] == point:
                left.pop(0)
                raise ValueError(point)

        call.step("first", done.append, "first")
        fail_at(0)
        for row in call.cursor("rows", range(5), every=every):
            fail_at(row + 1)
            done.append(row)
        call.step("last", done.append, "last")
        fail_at(6)

    with app.testing() as t:
        app.dispatch(Event("rows.added"))
        for _ in range(len(fails) + 1):
            t.drain(raises=False)
            t.travel("30d")

    assert done == ["first", 0, 1, 2, 3, 4, "last"]
