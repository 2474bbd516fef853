"""Steps: what a listener has finished is not done again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from threading import Barrier, Event as ThreadEvent, Thread
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from relevo import App, Call, Event, GiveUp, ListenerTable, RetryLater, SubjectType
from relevo._listener.journal import FinishedSteps, Journal
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
        assert await call.step("one", fetch, "a") == "A"
        assert await asyncio.create_task(call.step("two", fetch, "b")) == "B"
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


def test_an_async_loop_that_was_left_does_not_hold_what_comes_after_it(
    app: App, t: AppTesting, done: list[Any]
) -> None:
    async def note(name: str) -> None:
        done.append(name)

    @app.listener("rows.added", id="add")
    async def add(_: Event, call: Call) -> None:
        async for row in call.cursor("rows", range(9)):
            done.append(row)
            if row == call.attempt:
                break
        await call.step("after", note, "after")
        if call.attempt == 1:
            raise RetryLater(delay=1)

    app.dispatch(Event("rows.added"))
    t.drain()
    t.travel("2s")
    t.drain()

    assert done == [0, 1, "after", 1, 2]


@pytest.mark.parametrize("release", ["renamed", "removed", "added"])
def test_a_step_inside_another_one_may_change_too(app: App, t: AppTesting, done: list[Any], release: str) -> None:
    @app.listener("image.created", id="process")
    def process(_: Event, call: Call) -> None:
        def outer() -> None:
            if call.attempt == 1:
                call.step("one", done.append, "one")
                raise RetryLater(delay=1)
            match release:
                case "renamed":
                    call.rename_step("one", to="two")
                case "removed":
                    call.forget_steps("one")
                case _:
                    call.add_steps("two")
            call.step("two", done.append, "two")

        call.step("outer", outer)

    app.dispatch(Event("image.created"))
    t.drain()
    t.travel("2s")
    t.drain()

    assert done == (["one"] if release == "renamed" else ["one", "two"])


def test_a_step_that_failed_before_a_finished_one_runs_again(app: App, t: AppTesting, done: list[Any]) -> None:
    @app.listener("image.created", id="process")
    def process(_: Event, call: Call) -> None:
        with suppress(ZeroDivisionError):
            call.step("fails", lambda: 1 // 0)
        call.step("other", done.append, "other")
        if call.attempt == 1:
            raise RetryLater(delay=1)

    app.dispatch(Event("image.created"))
    t.drain()
    t.travel("2s")
    t.drain()

    assert done == ["other"]


def test_a_step_that_was_added_before_a_finished_one(app: App, t: AppTesting, done: list[Any]) -> None:
    release: list[str] = []

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
        ("twice", StepError, "it was begun already in this run; in a loop, give each step its own name"),
        ("empty", StepError, "expected a name of 1 to 100 printable characters"),
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

    with pytest.raises(StepError, match="it is not async, and this listener is"):
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


@pytest.mark.lengthy("tries many cases")
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


# --- a listener that catches what ends its steps -------------------------------------------------------


def returning(done: list[Any], number: int) -> Callable[[Event, Call], Any]:
    async def pay(n: int) -> None:
        done.append(n)

    async def process(_: Event, call: Call) -> None:
        async def pay_all() -> None:
            for n in range(number):
                await call.step(f"pay {n}", pay, n)

        await asyncio.gather(pay_all(), return_exceptions=True)

    return process


def grouped(done: list[Any], number: int) -> Callable[[Event, Call], Any]:
    async def pay(n: int) -> None:
        done.append(n)

    async def clean_up() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError("the clean-up failed") from None

    async def process(_: Event, call: Call) -> None:
        async with asyncio.TaskGroup() as group:
            other = group.create_task(clean_up())
            for n in range(number):
                await call.step(f"pay {n}", pay, n)
            other.cancel()
            group.create_task(asyncio.sleep(0))

    async def guarded(event: Event, call: Call) -> None:
        try:
            await process(event, call)
        except* ValueError:
            pass

    return guarded


def swallowing(done: list[Any], number: int) -> Callable[[Event, Call], Any]:
    def process(_: Event, call: Call) -> None:
        for n in range(number):
            try:
                call.step(f"pay {n}", done.append, n)
            except BaseException as error:
                if n % 2:
                    raise RuntimeError("wrapped") from error

    return process


@pytest.mark.parametrize("listener", [returning, grouped, swallowing])
def test_what_stopped_goes_on_however_the_listener_takes_it(
    app: App, t: AppTesting, done: list[Any], listener: Callable[..., Any]
) -> None:
    app.listener("image.created", id="process", retry=1)(listener(done, 8))
    app.dispatch(Event("image.created"))
    for n in (0, 1, 4):
        t.interrupt(after=f"pay {n}")
        t.drain(raises=False)

    t.drain()

    assert sorted(done) == list(range(8))
    assert t.dead == []


@pytest.mark.parametrize("step", ["", "late"])
def test_a_refusal_that_is_caught_fails_the_listener(app: App, t: AppTesting, step: str) -> None:
    @app.listener("image.created", id="process")
    def process(_: Event, call: Call) -> None:
        call.step("late", int)
        with suppress(StepError):
            call.step(step, int)

    app.dispatch(Event("image.created"))

    with pytest.raises(StepError):
        t.drain()


def test_no_step_runs_after_one_that_could_not_be_noted(clock: FakeClock, done: list[Any]) -> None:
    transport = MemoryTransport(clock=clock)
    app = App(source="shop", transports={"main": transport}, routes={"*": ["main"]}, clock=clock)

    @app.listener("image.created", id="process")
    def process(_: Event, call: Call) -> None:
        clock.advance(1000.0)
        transport.receive(["default"], limit=1, lease=1.0, wait=0.0)
        for n in range(3):
            with suppress(LeaseLostError):
                call.step(f"step {n}", done.append, n)

    app.dispatch(Event("image.created"))
    app.drain()

    assert done == [0]


def test_a_step_that_failed_may_be_tried_again_in_the_same_run(app: App, t: AppTesting, done: list[Any]) -> None:
    @app.listener("image.created", id="process")
    def process(_: Event, call: Call) -> None:
        def flaky() -> None:
            done.append(len(done))
            if len(done) < 3:
                raise ConnectionError

        for _attempt in range(3):
            with suppress(ConnectionError):
                call.step("fetch", flaky)
                break

    app.dispatch(Event("image.created"))
    t.drain()

    assert done == [0, 1, 2]


def test_a_result_that_cannot_be_kept_is_final(app: App, t: AppTesting, done: list[Any]) -> None:
    def charge() -> datetime:
        done.append("charged")
        return datetime.now(UTC)

    @app.listener("image.created", id="process", retry=5)
    def process(_: Event, call: Call) -> None:
        call.step("charge", charge)

    app.dispatch(Event("image.created"))
    t.drain(raises=False)
    t.travel("30d")
    t.drain(raises=False)

    (dead,) = t.dead
    assert (done, dead.reason) == (["charged"], "gave-up")
    assert "its result cannot be kept: $: datetime.datetime is not JSON" in dead.entry.error


def test_steps_come_one_after_the_other(app: App, t: AppTesting, done: list[Any]) -> None:
    async def slow() -> None:
        await asyncio.sleep(0.01)

    @app.listener("image.created", id="tasks")
    async def tasks(_: Event, call: Call) -> None:
        await asyncio.gather(call.step("one", slow), call.step("two", slow))

    @app.listener("image.replaced", id="threads")
    def threads(_: Event, call: Call) -> None:
        both = Barrier(2)

        def first() -> None:
            both.wait(10)
            both.wait(10)

        def second() -> None:
            both.wait(10)
            try:
                call.step("two", done.append, "two")
            finally:
                both.wait(10)

        with ThreadPoolExecutor(2) as pool:
            for each in (pool.submit(call.step, "one", first), pool.submit(second)):
                each.result()

    for name in ("image.created", "image.replaced"):
        app.dispatch(Event(name))
        with pytest.raises(StepError, match=r'"two": the step "one" runs beside it; steps come one after the other'):
            t.drain()
    assert done == []


def test_a_step_that_outlives_its_listener_is_not_noted(app: App, t: AppTesting, done: list[Any]) -> None:
    errors: list[BaseException] = []
    may_end, has_ended = ThreadEvent(), ThreadEvent()

    @app.listener("image.created", id="process")
    def process(_: Event, call: Call) -> None:
        in_step = ThreadEvent()

        def slow() -> None:
            in_step.set()
            may_end.wait(10)
            done.append("slow")

        def run() -> None:
            try:
                call.step("slow", slow)
            except StepError as error:
                errors.append(error)
            has_ended.set()

        if call.attempt == 1:
            Thread(target=run, daemon=True).start()
            in_step.wait(10)
            raise RetryLater(delay=1)
        call.step("slow", done.append, "again")

    app.dispatch(Event("image.created"))
    t.drain()
    may_end.set()
    has_ended.wait(10)
    t.travel("2s")
    t.drain()

    assert done == ["slow", "again"]
    assert "the listener has ended" in str(errors[0])


def test_a_task_that_was_not_begun_runs_no_step_after_its_listener(app: App, t: AppTesting, done: list[Any]) -> None:
    async def note() -> None:
        done.append("late")

    @app.listener("image.created", id="process")
    async def process(_: Event, call: Call) -> None:
        if call.attempt == 1:
            later = asyncio.get_running_loop().create_future()
            tasks.append(asyncio.ensure_future(wait(later, call.step("late", note))))
            asyncio.get_running_loop().call_later(0.05, later.set_result, None)
            await asyncio.sleep(0)
            raise RetryLater(delay=1)
        await asyncio.wait(tasks)

    async def wait(later: asyncio.Future[None], step: Any) -> None:
        await later
        with suppress(StepError):
            await step

    tasks: list[asyncio.Future[None]] = []
    app.dispatch(Event("image.created"))
    t.drain()
    t.travel("2s")
    t.drain()

    assert done == []


def test_a_step_that_failed_with_finished_ones_inside_may_be_tried_again(
    app: App, t: AppTesting, done: list[Any]
) -> None:
    @app.listener("image.created", id="process")
    def process(_: Event, call: Call) -> None:
        def outer() -> None:
            call.step("inner", done.append, "inner")
            done.append("outer")
            if done.count("outer") == 1:
                raise ConnectionError

        for _attempt in range(2):
            with suppress(ConnectionError):
                call.step("outer", outer)
                break

    app.dispatch(Event("image.created"))
    t.drain()

    assert done == ["inner", "outer", "outer"]


def test_a_cancellation_while_a_note_is_stored_is_not_lost(app: App, t: AppTesting, done: list[Any]) -> None:
    @app.listener("image.created", id="process")
    async def process(_: Event, call: Call) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                async for row in call.cursor("rows", range(10_000)):
                    done[:] = [row]
        done.append("ended")

    app.dispatch(Event("image.created"))
    t.drain()

    last, end = done
    assert (last < 9_999, end) == (True, "ended")


def test_an_async_step_that_is_not_awaited_is_refused(app: App, t: AppTesting) -> None:
    async def fetch() -> None:
        pass

    @app.listener("image.created", id="plain")
    def plain(_: Event, call: Call) -> None:
        call.step("fetch", fetch)  # type: ignore[unused-coroutine]  # as the type checker says

    @app.listener("image.replaced", id="forgetful")
    async def forgetful(_: Event, call: Call) -> None:
        call.step("fetch", fetch)  # type: ignore[unused-coroutine]  # the same

    app.dispatch(Event("image.created"))
    with pytest.raises(StepError, match="its function is async, and this listener is not"):
        t.drain()
    app.dispatch(Event("image.replaced"))
    with pytest.raises(StepError, match="it is async, and was not awaited"):
        t.drain()


def test_what_a_thread_of_a_step_dispatches_is_of_that_step(app: App, t: AppTesting, done: list[Any]) -> None:
    app.listener("image.resized", id="resized")(lambda event: done.append(event.arguments["n"]))

    @app.listener("image.created", id="process")
    def process(_: Event, call: Call) -> None:
        def spread() -> None:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda n: call.dispatch("image.resized", {"n": n}), range(3)))

        call.step("spread", spread)
        if call.attempt == 1:
            raise RetryLater(delay=1)

    app.dispatch(Event("image.created"))
    t.drain()
    t.travel("2s")
    t.drain()

    assert sorted(done) == [0, 1, 2]


def test_events_of_different_steps_have_different_ids(app: App, t: AppTesting) -> None:
    @app.listener("image.created", id="a")
    def one(_: Event, call: Call) -> None:
        call.step("b 0", call.dispatch, "x")
        for _row in call.cursor("b", range(1)):
            call.dispatch("x")

    @app.listener("image.created", id="a b")
    def other(_: Event, call: Call) -> None:
        call.dispatch("x")

    app.listener("x", id="x")(lambda event: None)
    app.dispatch(Event("image.created"))
    t.drain()

    assert len({each.id for each in t.dispatched("x")}) == 3


@pytest.mark.parametrize("name", ["\ud800", ("t", "u"), b"bytes", 5, None, "a\x1fb", "x" * 101])
def test_an_odd_name_is_refused(app: App, t: AppTesting, name: Any) -> None:
    listen = app.listener("image.created", id="process")
    listen(lambda event, call: call.step(name, int) and None)
    app.dispatch(Event("image.created"))
    with pytest.raises(StepError, match="expected a name of 1 to 100 printable characters"):
        t.drain()
    with pytest.raises(StepError, match="expected a name of 1 to 100 printable characters"):
        make_call().rename_step("a", to=name)
    with pytest.raises(StepError, match="expected a name of 1 to 100 printable characters"):
        make_call().add_steps(name)


@pytest.mark.parametrize("change", ["rename", "onto", "forget"])
def test_a_change_of_steps_that_comes_too_late_is_refused(app: App, t: AppTesting, change: str) -> None:
    @app.listener("image.created", id="process")
    def process(_: Event, call: Call) -> None:
        call.step("one", int)
        if call.attempt == 1:
            raise RetryLater(delay=1)
        match change:
            case "rename":
                call.rename_step("one", to="two")
            case "onto":
                call.rename_step("two", to="one")
            case _:
                call.forget_steps("one")

    app.dispatch(Event("image.created"))
    t.drain()
    t.travel("2s")

    if change == "onto":
        t.drain()  # no earlier run had that one
    else:
        with pytest.raises(StepError, match="too late"):
            t.drain()


@pytest.mark.parametrize("result", [b"1e999999", b'"\xff"', b"9" * 5000])
def test_a_result_of_another_program_is_read_or_refused(result: bytes) -> None:
    journal = Journal(listener_id="process", finished=FinishedSteps({"one": msgspec.Raw(result)}), send=print)

    with pytest.raises(StepError, match="its stored result is invalid") as raised:
        journal.result("one")

    assert raised.value.is_final


# --- what is stored ------------------------------------------------------------------------------------


class WithoutCheckpoint(MemoryTransport):
    capabilities = attrs.evolve(MemoryTransport.capabilities, checkpoint=False)


def test_too_many_results_fail_at_their_step_without_checkpoint_too(done: list[Any]) -> None:
    app = App(source="shop", transports={"main": WithoutCheckpoint()}, routes={"*": ["main"]})

    @app.listener("image.created", id="process")
    def process(_: Event, call: Call) -> None:
        for number in range(20):
            call.step(f"step {number}", lambda: "x" * 1900)
            done.append(number)

    app.dispatch(Event("image.created"))
    report = app.drain()

    assert report.dead == 1
    assert len(done) < 10
