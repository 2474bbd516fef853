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
    DeadLetter,
    DeadLetterEntry,
    Delivery,
    Envelope,
    Event,
    Execution,
    ListenerTable,
    Lost,
    Outcome,
    Release,
    Report,
    RunOptions,
)
from relevo._clock import SystemClock
from relevo._listener.listener import Mark
from relevo._listener.process_loop import DaemonPool, in_thread, process_loop
from relevo._worker.caller import Caller
from relevo._worker.executor import Executor, Handling, InlineExecutor
from relevo.execution import AsyncExecutor, ThreadExecutor, TimeLimitExceededError
from relevo.testing import FakeClock
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


def test_a_cancellation_that_it_takes_back_does_not_run_its_event_again(app: App) -> None:
    runs: list[str] = []

    @app.listener("image.created", retry=1)
    async def waver(event: Event) -> None:
        runs.append(event.name)
        task = asyncio.current_task()
        assert task is not None
        if len(runs) < 10:  # else this test would never end
            task.cancel()
            task.uncancel()  # which until Python 3.13 leaves the task cancelled at its next await, or at its end

    app.dispatch("image.created")

    assert _drain(app).done == 1
    assert len(runs) == 1


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


def _handling(app: App, executor: Executor, running: dict[int, tuple[Delivery, str]]) -> Handling:
    """Return what handles the events of *app*, and notes in *running* which listeners run."""
    caller = Caller(
        listeners=executor.watch(app.listeners),
        first_queue=lambda _: "default",
        subjects=app.subjects,
        clock=SystemClock(),
        chance=lambda: 0.0,
        checkpoint=lambda _, __: None,
        running=running,
    )
    return Handling(caller.steps)


def test_progress_that_is_too_large_is_a_dead_letter_as_in_threads(app: App) -> None:
    executor = AsyncExecutor(2)

    async def go_on(event: Event) -> None: ...

    for number in range(100):
        app.add_listener("image.created", go_on, id=f"{number:0>250}")
    app.dispatch("image.created")
    [delivery] = app.transport().receive(["default"], limit=1, lease=60, wait=0)
    executor.start(_handling(app, executor, {}))
    executor.submit(delivery)

    [outcome] = _ended(executor)
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == "state-too-large"
    executor.stop()


@pytest.mark.parametrize("execution", ["async", "threads", "inline"])
def test_a_listener_that_has_ended_does_not_run(app: App, execution: Any) -> None:
    running: dict[int, tuple[Delivery, str]] = {}
    executors: dict[str, Callable[[], Executor]] = {
        "async": lambda: AsyncExecutor(2),
        "threads": lambda: ThreadExecutor(2),
        "inline": InlineExecutor,
    }

    @app.listener("image.created", id="run")
    async def run(event: Event) -> None:
        assert [listener_id for _, listener_id in running.values()] == ["run"]

    app.dispatch("image.created")
    [delivery] = app.transport().receive(["default"], limit=1, lease=60, wait=0)
    executor = executors[execution]()
    executor.start(_handling(app, executor, running))
    executor.submit(delivery)
    while not (found := executor.take_finished(0.1)):
        pass

    assert found == [(delivery, Ack())]
    assert running == {}
    executor.stop()


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


@pytest.mark.parametrize("execution", ["async", "threads"])
def test_a_listener_that_is_cancelled_does_not_wait_for_its_subject(app: App, execution: Any) -> None:
    loaded = threading.Event()
    app.subjects.add(
        relevo.SubjectType(type="image", cls=bytes, name=lambda _: None, load=lambda _: loaded.wait(PATIENCE))
    )
    ended: list[str] = []

    @app.listener("image.created", retry=1, time_limit=0.5)
    async def look(event: Event, call: Call) -> None:
        try:
            async with asyncio.timeout(0.01):
                await call.load()
        except TimeoutError:
            ended.append("after its own time")
        try:
            await call.load()
        finally:
            ended.append("after its limit")

    app.dispatch(_about("a"))
    app.drain(RunOptions(execution=execution, concurrency=2))
    loaded.set()

    assert ended == ["after its own time", "after its limit"]
    assert "look ran for longer than its time limit of 0.5 s" in _dead(app)[0].error


def test_subjects_that_hang_hold_up_no_other_event(app: App) -> None:
    loaded = threading.Event()
    app.subjects.add(
        relevo.SubjectType(type="image", cls=bytes, name=lambda _: None, load=lambda _: loaded.wait(PATIENCE) or None)
    )
    hanging = 0

    @app.listener("image.created", retry=1)
    async def look(event: Event, call: Call) -> None:
        nonlocal hanging
        hanging += 1
        await call.load()

    @app.listener("image.shown", retry=1)
    async def go_on(event: Event, call: Call) -> None:
        async with asyncio.timeout(PATIENCE):
            while hanging < 20:  # noqa: ASYNC110 - a number
                await asyncio.sleep(0.01)
        await call.dispatch("image.told")

    @app.listener("image.told", retry=1)
    async def hear(event: Event) -> None:
        loaded.set()

    app.dispatch_many([_about("a") for _ in range(20)])
    app.dispatch("image.shown")

    assert _drain(app).done == 22


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


@pytest.mark.parametrize("execution", ["async", "threads"])
def test_what_one_does_when_it_is_cancelled_at_its_limit_is_not_cancelled_again(app: App, execution: Any) -> None:
    ended: list[str] = []

    @app.listener("image.created", retry=1, time_limit=0.1)
    async def hang(event: Event) -> None:
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            await asyncio.sleep(0.5)  # the worker looks at the limits five times meanwhile
            ended.append("rolled back")

    app.dispatch("image.created")
    app.drain(RunOptions(execution=execution, concurrency=2))

    assert ended == ["rolled back"]
    assert "hang ran for longer than its time limit of 0.1 s" in _dead(app)[0].error


class _Held:
    """Listeners of which one waits for another that blocks the loop, longer than the limit of the first."""

    def __init__(self, app: App, *, until: Callable[[], bool], limit: float, as_callback: bool = False):
        self.blocks = threading.Event()

        def block() -> None:
            self.blocks.set()
            ends = time.monotonic() + PATIENCE
            while not until() and time.monotonic() < ends:
                time.sleep(0.01)

        async def wait(event: Event) -> None:
            while not self.blocks.is_set():  # noqa: ASYNC110 - set while the loop is blocked
                await asyncio.sleep(0.01)

        async def spoil(event: Event) -> None:
            if as_callback:
                asyncio.get_running_loop().call_soon(block)
                await asyncio.sleep(PATIENCE)
            else:
                block()

        app.add_listener("image.waited", wait, id="wait", time_limit=0.7, retry=1)
        app.add_listener("image.blocked", spoil, id="spoil", time_limit=limit, retry=1)
        app.dispatch_many([Event("image.waited"), Event("image.waited"), Event("image.blocked")])

    @staticmethod
    def deaths(app: App) -> dict[str, int]:
        """Return the deaths of the events that are left."""
        left = app.transport().receive(["default"], limit=10, lease=60, wait=0)
        return {each.envelope.name: len(each.deaths) for each in left if isinstance(each.envelope, Envelope)}


@pytest.mark.parametrize("kind", [AsyncExecutor, ThreadExecutor])
def test_the_time_in_which_another_blocks_the_loop_does_not_count_for_a_limit(
    app: App, kind: type[AsyncExecutor | ThreadExecutor]
) -> None:
    began = time.monotonic()
    _Held(app, until=lambda: time.monotonic() - began > 5, limit=PATIENCE)

    report = app.worker(RunOptions(until_empty=True), executor=kind(10, grace=0.1, patience=2)).run()

    assert (report.done, report.retried, report.dead) == (3, 0, 0)


@pytest.mark.parametrize("kind", [AsyncExecutor, ThreadExecutor])
def test_one_that_blocks_the_loop_is_to_blame_and_those_that_wait_for_it_are_not(
    app: App, released: threading.Event, kind: type[AsyncExecutor | ThreadExecutor]
) -> None:
    _Held(app, until=released.is_set, limit=2)

    with pytest.raises(TimeLimitExceededError, match="spoil ran for longer"):
        app.worker(RunOptions(until_empty=True), executor=kind(10, grace=0.1, patience=2)).run()

    assert _Held.deaths(app) == {"image.waited": 0, "image.blocked": 1}


@pytest.mark.parametrize("kind", [AsyncExecutor, ThreadExecutor])
def test_none_of_several_is_to_blame_if_it_is_not_known_which_of_them_blocks_the_loop(
    app: App, released: threading.Event, kind: type[AsyncExecutor | ThreadExecutor]
) -> None:
    _Held(app, until=released.is_set, limit=2, as_callback=True)

    with pytest.raises(TimeLimitExceededError):
        app.worker(RunOptions(until_empty=True), executor=kind(10, grace=0.1, patience=2)).run()

    assert _Held.deaths(app) == {"image.waited": 0, "image.blocked": 0}


def test_one_is_given_time_to_end_after_a_server_was_down_for_longer_than_its_limit(app: App, clock: FakeClock) -> None:
    executor, begun = AsyncExecutor(2, clock=clock), threading.Event()

    @app.listener("image.created", retry=1, time_limit=1)
    async def hang(event: Event) -> None:
        begun.set()
        await asyncio.sleep(PATIENCE)

    app.dispatch("image.created")
    [delivery] = app.transport().receive(["default"], limit=1, lease=60, wait=0)
    executor.start(app.handle("main", executor.watch(app.listeners), checkpoint=None))
    executor.submit(delivery)
    assert begun.wait(PATIENCE)
    clock.advance(1000)  # in which the worker waited for the server, and looked at no limit

    while not (found := executor.take_finished(0.1)):
        clock.advance(0.1)

    assert [type(outcome) for _, outcome in found] == [DeadLetter]
    assert executor.room() == 2
    executor.stop()


@pytest.mark.parametrize("kind", [AsyncExecutor, ThreadExecutor])
def test_what_is_given_up_is_no_failure_of_its_listener(
    app: App, caplog: pytest.LogCaptureFixture, kind: type[AsyncExecutor | ThreadExecutor]
) -> None:
    begun, ended = threading.Event(), threading.Event()
    executor = kind(2)
    running: dict[int, tuple[Delivery, str]] = {}

    @app.listener("image.created")
    async def wait(event: Event) -> None:
        begun.set()
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            ended.set()

    app.dispatch("image.created")
    [delivery] = app.transport().receive(["default"], limit=1, lease=60, wait=0)
    executor.start(_handling(app, executor, running))
    executor.submit(delivery)
    assert begun.wait(PATIENCE)
    executor.stop()
    assert ended.wait(PATIENCE)
    ends = time.monotonic() + PATIENCE
    while running and time.monotonic() < ends:
        time.sleep(0.01)

    assert not running
    assert "failed on" not in caplog.text


@pytest.mark.parametrize(
    ("execution", "concurrency", "names_the_event"), [("async", 5, True), ("threads", 5, True), ("inline", 1, False)]
)
def test_one_that_blocks_the_loop_is_logged_once_with_its_event_and_where_it_is(
    app: App, caplog: pytest.LogCaptureFixture, execution: Any, concurrency: int, *, names_the_event: bool
) -> None:
    @app.listener("image.created", id="spoil", retry=1)
    async def spoil(event: Event) -> None:
        def what_blocks() -> None:
            ends = time.monotonic() + PATIENCE
            while "has blocked the event loop" not in caplog.text and time.monotonic() < ends:
                time.sleep(0.01)
            looked = set[float]()
            while len(looked) < 3 and time.monotonic() < ends:  # so that it could be logged again
                time.sleep(0.01)
                looked.add(process_loop._looked)

        what_blocks()

    event_id = app.dispatch("image.created").id
    report = app.drain(RunOptions(execution=execution, concurrency=concurrency, until_empty=True))

    assert report.done == 1
    [line] = [each.getMessage() for each in caplog.records if "has blocked the event loop" in each.getMessage()]
    about = f"image.created {event_id} in default" if names_the_event else f"the event {event_id}"
    assert line.startswith(f"spoil on {about} has blocked the event loop of this process for ")
    assert "in what_blocks\n" in line
    assert "run_forever" not in line


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


def test_a_task_that_is_cancelled_before_it_has_begun_gives_its_event_back() -> None:
    executor, begun, free = AsyncExecutor(2), list[Delivery](), threading.Event()
    loop = process_loop.loop()

    def handle(delivery: Delivery) -> Outcome:
        begun.append(delivery)
        return Ack()

    def cancel_all() -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()

    loop.call_soon_threadsafe(free.wait, PATIENCE)  # so that both of the next callbacks run in one turn
    _handed(executor, handle)
    loop.call_soon_threadsafe(cancel_all)
    free.set()

    assert _ended(executor) == [Release()]
    assert begun == []
    executor.stop()


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt("no"), SystemExit("no"), asyncio.CancelledError("no"), _OwnError("no")],
    ids=lambda error: type(error).__name__,
)
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


def test_a_dispatch_in_process_waits_for_no_thread_that_waits_for_it(make: Make) -> None:
    app = make(transports={"main": MemoryTransport()}, routes={"now.*": "now", "*": "main"})
    _Images(app, a="sea")
    ended: list[str] = []

    @app.listener("image.created", retry=1, priority=1)
    async def await_it(event: Event) -> None:
        async with asyncio.timeout(PATIENCE):
            await app.adispatch("now.first")

    @app.listener("now.first")
    async def await_another(event: Event) -> None:
        await app.adispatch("now.second")

    @app.listener("now.second")
    async def hear(event: Event) -> None:
        ended.append(event.name)

    @app.listener("image.created", retry=1)
    async def send_later(event: Event, call: Call) -> None:
        await call.dispatch(Event("now.third", subject=relevo.Subject("image", "a")))

    @app.listener("now.third")
    async def look(event: Event, call: Call) -> None:
        async with asyncio.timeout(PATIENCE):
            await call.load()
        ended.append(event.name)

    app.dispatch_many([Event("image.created") for _ in range(100)])

    assert _drain(app).done == 100
    assert sorted(ended) == ["now.second"] * 100 + ["now.third"] * 100


@pytest.mark.parametrize("by", ["app", "local"])
def test_listeners_of_an_awaited_dispatch_have_the_threads_of_its_loop(make: Make, by: str) -> None:
    app = make(transports={"main": MemoryTransport()}, routes={"now.*": "now", "*": "main"})
    dispatcher = app if by == "app" else relevo.LocalDispatcher(app.listeners)
    ended: list[str] = []

    @app.listener("now.first")
    async def look_up(event: Event) -> None:
        ended.append(await asyncio.to_thread(lambda: event.name))

    async def dispatch() -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(dispatcher.adispatch("now.first") for _ in range(100)))

    asyncio.run(dispatch())

    assert ended == ["now.first"] * 100


def test_what_a_thread_raises_is_raised_where_it_is_awaited() -> None:
    pool = DaemonPool(1, "one")

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        process_loop.run(in_thread(pool, fail), "a test")
    pool.close()
