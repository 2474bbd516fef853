"""Listeners on an event loop, many at once: ``execution = "async"``."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import relevo
from relevo import (
    Ack,
    App,
    Call,
    ConfigurationError,
    DeadLetterEntry,
    Delivery,
    Event,
    Execution,
    ListenerTable,
    Lost,
    Outcome,
    Release,
    Report,
    RunOptions,
)
from relevo._listener.listener import Mark
from relevo._listener.process_loop import DaemonPool, in_thread, process_loop
from relevo.execution import AsyncExecutor, ThreadExecutor, TimeLimitExceededError
from relevo_memory import MemoryTransport

from .application import Make

PATIENCE = 60.0


def _dead(app: App) -> list[DeadLetterEntry]:
    return list(app.transport("main").dead_letters(["default"], limit=100))


def _drain(app: App, concurrency: int = 100, **more: Any) -> Report:
    return app.drain(RunOptions(execution="async", concurrency=concurrency, until_empty=True, **more))


@pytest.fixture(name="app")
def _app(make: Make) -> App:
    return make(transports={"main": MemoryTransport()}, execution=Execution(kind="async", concurrency=100))


class _Meeting:
    """Lets tasks wait until a number of them are there."""

    def __init__(self, number: int):
        self._number = number
        self.most = self._there = 0
        self._opened: asyncio.Event | None = None

    async def __call__(self) -> None:
        self._opened = self._opened or asyncio.Event()
        self._there += 1
        self.most = max(self.most, self._there)
        if self._there >= self._number:
            self._opened.set()
        async with asyncio.timeout(PATIENCE):
            await self._opened.wait()
        self._there -= 1


def test_as_many_events_as_the_concurrency_says_are_handled_at_once_without_a_thread_for_each(app: App) -> None:
    meeting, threads = _Meeting(300), set[str]()

    @app.listener("image.created", retry=1)
    async def meet(event: Event) -> None:
        threads.add(threading.current_thread().name)
        await meeting()

    app.dispatch_many([Event("image.created") for _ in range(1000)])

    assert _drain(app, 300).done == 1000
    assert meeting.most == 300
    assert threads == {"relevo-loop"}


def test_plain_listeners_run_beside_them_in_threads(app: App) -> None:
    barrier, names = threading.Barrier(4), set[str]()

    @app.listener("image.created", retry=1)
    def wait(event: Event) -> None:
        barrier.wait(PATIENCE)
        names.add(threading.current_thread().name)

    @app.listener("image.created", retry=1)
    async def tell(event: Event, call: Call) -> None:
        await call.dispatch("image.told")

    @app.listener("image.told")
    async def hear(event: Event) -> None:
        names.add(threading.current_thread().name)

    app.dispatch_many([Event("image.created") for _ in range(4)])

    assert _drain(app).done == 8
    assert "relevo-loop" in names
    assert len(names) == 5


class _OwnError(BaseException):
    pass


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), asyncio.CancelledError("no"), SystemExit("no"), KeyboardInterrupt("no"), _OwnError("no")],
    ids=lambda error: type(error).__name__,
)
def test_what_a_listener_raises_is_its_failure_and_the_others_are_done(app: App, error: BaseException) -> None:
    heard: list[str] = []

    @app.listener("image.created", retry=1, priority=1)
    async def fail(event: Event) -> None:
        await asyncio.sleep(0)
        raise error

    @app.listener("image.created")
    async def hear(event: Event) -> None:
        await asyncio.sleep(0)
        heard.append(event.name)

    app.dispatch_many([Event("image.created") for _ in range(3)])

    assert _drain(app).dead == 3
    assert len(heard) == 3
    assert all(type(error).__name__ in each.error for each in _dead(app))


def test_one_that_cancels_itself_fails_and_the_next_listener_is_not_cancelled(app: App) -> None:
    heard: list[str] = []

    @app.listener("image.created", retry=1, priority=1)
    async def cancel(event: Event) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()  # which would be raised by its next await

    @app.listener("image.created", retry=1)
    async def hear(event: Event) -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.sleep(0)
        heard.append(event.name)

    app.dispatch("image.created")

    assert _drain(app).done == 1
    assert heard == ["image.created"]


def test_one_that_cancels_all_tasks_loses_no_event(app: App) -> None:
    done = 0

    @app.listener("image.created", retry=relevo.Retry(100, first=0))
    async def spoil(event: Event) -> None:
        nonlocal done
        await asyncio.sleep(0)
        if event["number"] == 50:
            if done < 20:
                for task in asyncio.all_tasks():
                    task.cancel()
            await asyncio.sleep(0)
        done += 1

    app.dispatch_many([Event("image.created", {"number": number}) for number in range(100)])
    report = _drain(app, 30)

    assert (report.done, report.dead) == (100, 0)


def test_a_plain_listener_that_runs_when_all_tasks_are_cancelled_is_waited_for(app: App) -> None:
    begun, ended = threading.Event(), threading.Event()
    runs: list[str] = []

    @app.listener("image.created", retry=1)
    def wait(event: Event) -> None:
        runs.append(event.name)
        begun.set()
        assert ended.wait(PATIENCE)

    @app.listener("image.shown", retry=1)
    async def spoil(event: Event) -> None:
        await asyncio.to_thread(begun.wait, PATIENCE)
        for task in asyncio.all_tasks():
            task.cancel()
        asyncio.get_running_loop().call_later(0.05, ended.set)

    app.dispatch("image.created")
    app.dispatch("image.shown")
    report = _drain(app)

    assert runs == ["image.created"]
    assert report.done >= 1
    assert all("image.created" not in each.error for each in _dead(app))


def test_each_task_has_the_ids_of_its_own_event(app: App) -> None:
    meeting, seen = _Meeting(50), []

    @app.listener("image.created", retry=1)
    async def follow(event: Event, call: Call) -> None:
        await meeting()
        await app.adispatch("image.rated", {"parent": event.id})
        await meeting()
        await call.dispatch("image.shown", {"parent": event.id})

    def note(event: Event, call: Call) -> None:
        seen.append(call.causation_id == event["parent"])

    app.add_listener("image.rated", note, id="rated")
    app.add_listener("image.shown", note, id="shown")
    app.dispatch_many([Event("image.created") for _ in range(50)])
    _drain(app)

    assert seen == [True] * 100


# --- subjects -----------------------------------------------------------------------------------------


class _Images:
    """Subjects that note in which thread they are loaded, and what is released."""

    def __init__(self, app: App, **known: str):
        self.threads: list[str] = []
        self.released: list[str] = []
        self._known = known
        app.subjects.add(
            relevo.SubjectType(
                type="image", cls=bytes, name=lambda _: None, load=self._load, release=self.released.append
            )
        )

    def _load(self, key: str) -> str | None:
        self.threads.append(threading.current_thread().name)
        return self._known.get(key)


def _about(key: str) -> Event:
    return Event("image.created", subject=relevo.Subject("image", key))


def test_a_subject_is_loaded_in_a_thread_and_released(app: App) -> None:
    images, seen = _Images(app, a="sea"), []

    @app.listener("image.created", retry=1)
    async def look(event: Event, call: Call) -> None:
        found = await asyncio.gather(call.load(), call.load())
        seen.append((*found, call.subject))

    app.dispatch(_about("a"))

    assert _drain(app).done == 1
    assert seen == [("sea", "sea", "sea")]
    assert len(images.threads) == 1
    assert images.threads[0].startswith("relevo-work")
    assert images.released == ["sea"]


def test_a_subject_that_is_missing_is_waited_for_as_elsewhere(app: App) -> None:
    _Images(app)
    seen: list[object] = []

    @app.listener("image.created", missing="tombstone")
    async def look(event: Event, call: Call) -> None:
        seen.append(await call.load())

    app.dispatch(_about("b"))

    report = _drain(app)
    assert (report.retried, report.retry_reasons) == (1, {"subject-missing": 1})


def test_one_that_is_loaded_when_its_listener_has_ended_is_released_too(app: App) -> None:
    release, ended, freed = threading.Event(), threading.Event(), threading.Event()

    def load(_: str) -> str:
        assert release.wait(PATIENCE)
        return "sea"

    app.subjects.add(
        relevo.SubjectType(type="image", cls=bytes, name=lambda _: None, load=load, release=lambda _: freed.set())
    )

    @app.listener("image.created")
    async def look(event: Event, call: Call) -> None:
        look.task = asyncio.create_task(call.load())  # type: ignore[attr-defined]  # so that it is not collected
        await asyncio.sleep(0)
        ended.set()

    app.dispatch(_about("a"))
    _drain(app)
    assert ended.is_set()
    assert not freed.is_set()
    release.set()

    assert freed.wait(PATIENCE)


def test_a_subject_that_is_loaded_on_the_loop_is_warned_of_once(app: App, caplog: pytest.LogCaptureFixture) -> None:
    _Images(app, a="sea")

    @app.listener("image.created", id=f"blocks {time.monotonic()}")
    async def look(event: Event, call: Call) -> None:
        assert call.subject == "sea"

    for _ in range(2):
        app.dispatch(_about("a"))
    _drain(app)

    assert caplog.text.count("write await call.load(), which loads it in a thread") == 1


# --- time limits and the end ----------------------------------------------------------------------------


@pytest.mark.parametrize("execution", ["async", "threads"])
def test_one_that_exceeds_its_limit_is_cancelled_and_has_failed(app: App, execution: Any) -> None:
    ended: list[str] = []

    @app.listener("image.created", retry=1, time_limit=0.1)
    async def hang(event: Event) -> None:
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            ended.append("ended")

    @app.listener("image.created", retry=1)
    async def go_on(event: Event) -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.sleep(0.01)
        ended.append("gone on")

    app.dispatch("image.created")
    app.drain(RunOptions(execution=execution, concurrency=2))

    [dead] = _dead(app)
    assert "hang ran for longer than its time limit of 0.1 s" in dead.error
    assert sorted(ended) == ["ended", "gone on"]


@pytest.fixture(name="released")
def _released() -> Iterator[threading.Event]:
    released = threading.Event()
    yield released
    released.set()


@pytest.mark.parametrize("kind", [AsyncExecutor, ThreadExecutor])
def test_one_that_does_not_end_when_it_is_cancelled_ends_the_worker(
    app: App, released: threading.Event, kind: type[AsyncExecutor | ThreadExecutor]
) -> None:
    app.add_listener("image.created", _stubborn(released), id="stubborn", time_limit=0.05, retry=1)
    app.dispatch("image.created")
    executor = kind(10, grace=0.1, patience=0.1)

    with pytest.raises(TimeLimitExceededError, match="stubborn ran for longer"):
        app.worker(RunOptions(until_empty=True), executor=executor).run()


def _stubborn(released: threading.Event) -> Callable[[Event], Any]:
    async def stubborn(event: Event) -> None:
        while not released.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    return stubborn


def test_one_that_blocks_the_loop_ends_the_worker(app: App, released: threading.Event) -> None:
    async def block(event: Event) -> None:
        released.wait(PATIENCE)

    app.add_listener("image.created", block, id="block", time_limit=0.05, retry=1)
    app.dispatch("image.created")
    executor = AsyncExecutor(10, grace=0.1, patience=0.1)

    with pytest.raises(TimeLimitExceededError, match="block ran for longer"):
        app.worker(RunOptions(until_empty=True), executor=executor).run()


def test_a_worker_that_is_stopped_gives_them_time_and_begins_no_other(app: App) -> None:
    begun: list[int] = []
    options = RunOptions(execution="async", concurrency=2)
    worker = app.worker(options)

    @app.listener("image.created", retry=1)
    async def wait(event: Event) -> None:
        begun.append(event["number"])
        worker.stop()
        await asyncio.sleep(0.1)

    app.dispatch_many([Event("image.created", {"number": number}) for number in range(10)])
    report = worker.run()

    assert report.done == len(begun) <= 2
    assert report.unsettled == 0


def test_what_runs_when_the_executor_is_stopped_is_cancelled() -> None:
    executor, cancelled, begun = AsyncExecutor(2), threading.Event(), threading.Event()
    table = ListenerTable()

    async def wait(event: Event) -> None:
        begun.set()
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            cancelled.set()

    table.add(wait, Mark(event="a.b"))
    with App(transports={"main": MemoryTransport()}) as app:
        app.add_listener("a.b", wait)
        app.dispatch("a.b")
        [delivery] = app.transport().receive(["default"], limit=1, lease=60, wait=0)
        executor.start(app.handle("main", app.listeners, checkpoint=None))
        executor.submit(delivery)
        assert begun.wait(PATIENCE)
        executor.stop()

        assert cancelled.wait(PATIENCE)


def _ended(executor: AsyncExecutor) -> list[Outcome]:
    return [outcome for _, outcome in executor.take_finished(PATIENCE)]


def _handed(executor: AsyncExecutor, handle: Callable[[Delivery], Outcome]) -> None:
    """Start *executor* with *handle*, and hand it one event."""
    with App(transports={"main": MemoryTransport()}) as app:
        app.dispatch("a.b")
        [delivery] = app.transport().receive(["default"], limit=1, lease=60, wait=0)
        executor.start(handle)
        executor.submit(delivery)


def test_what_is_not_begun_when_the_worker_ends_is_given_back() -> None:
    executor, begun = AsyncExecutor(2), list[Delivery]()
    executor.stop_when(lambda: True)

    def handle(delivery: Delivery) -> Outcome:
        begun.append(delivery)
        return Ack()

    _handed(executor, handle)

    assert _ended(executor) == [Release()]
    assert begun == []
    executor.stop()


@pytest.mark.parametrize("error", [KeyboardInterrupt("no"), SystemExit("no")], ids=lambda error: type(error).__name__)
def test_an_interrupt_outside_of_a_listener_ends_the_worker(error: BaseException) -> None:
    executor = AsyncExecutor(2)

    def handle(_: Delivery) -> Outcome:
        raise error

    _handed(executor, handle)

    assert [type(outcome) for outcome in _ended(executor)] == [Lost]
    with pytest.raises(type(error)):
        executor.room()
    executor.stop()


def test_another_handle_runs_in_a_thread() -> None:
    executor = AsyncExecutor(2)

    def handle(delivery: Delivery) -> Outcome:
        assert threading.current_thread().name != "relevo-loop"
        return Ack()

    executor.start(handle)
    with App(transports={"main": MemoryTransport()}) as app:
        app.dispatch("a.b")
        [delivery] = app.transport().receive(["default"], limit=1, lease=60, wait=0)
        executor.submit(delivery)
        while not (found := executor.take_finished(0.1)):
            pass
    executor.stop()

    assert found == [(delivery, Ack())]


# --- which execution ------------------------------------------------------------------------------------


async def _later(event: Event) -> None: ...


def _now(event: Event) -> None: ...


@pytest.mark.parametrize(
    ("functions", "said", "meant"),
    [
        ([_later], Execution(concurrency=8), "async"),
        ([_now], Execution(concurrency=8), "threads"),
        ([_now, _later], Execution(concurrency=8), "threads"),
        ([], Execution(concurrency=8), "threads"),
        ([_later], Execution(), "inline"),
        ([_later], Execution(kind="threads", concurrency=8), "threads"),
        ([_now], Execution(kind="async"), "async"),
    ],
)
def test_by_default_several_at_once_run_on_a_loop_if_all_listeners_are_async(
    functions: list[Any], said: Execution, meant: str
) -> None:
    table = ListenerTable()
    for function in functions:
        table.add(function, Mark(event="a.b"))

    assert said.resolved(table).chosen == meant


@pytest.mark.parametrize("kind", ["threads", "process"])
def test_a_thread_or_a_process_for_each_has_an_upper_limit(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"from 1 to 1000, .*; got 1001; .* up to 10000 with execution"):
        Execution(kind=kind, concurrency=1001)
    with pytest.raises(ConfigurationError, match="from 1 to 10000"):
        Execution(kind="async", concurrency=10_001)
    with pytest.raises(ConfigurationError, match="from 1 to 1000"):
        Execution(concurrency=1001).resolved(ListenerTable())


# --- threads for what blocks ------------------------------------------------------------------------------


def test_a_pool_starts_no_more_threads_than_it_may_and_only_when_the_others_are_busy() -> None:
    pool, names = DaemonPool(3, "few"), set[str]()

    async def one(barrier: threading.Barrier) -> None:
        def work() -> None:
            barrier.wait(PATIENCE)
            names.add(threading.current_thread().name)

        await in_thread(pool, work)

    async def many(number: int) -> None:
        barrier = threading.Barrier(min(number, 3))
        await asyncio.gather(*(one(barrier) for _ in range(number)))

    process_loop.run(many(1), "a test")
    process_loop.run(many(1), "a test")
    assert names == {"few-1"}
    process_loop.run(many(9), "a test")
    assert names == {"few-1", "few-2", "few-3"}
    pool.close()


def test_what_a_thread_raises_is_raised_where_it_is_awaited() -> None:
    pool = DaemonPool(1, "one")

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        process_loop.run(in_thread(pool, fail), "a test")
    pool.close()
