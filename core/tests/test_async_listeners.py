"""Listeners that are ``async def``: each way to run listeners runs them too, on one event loop of the process."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from _thread import interrupt_main
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import relevo
from relevo import App, Call, DeadLetterEntry, Event, LocalDispatcher, Report, Retry, RunOptions
from relevo._listener.process_loop import process_loop
from relevo.errors import ConfigurationError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

from .application import Make

PATIENCE = 30.0

IN_THIS_PROCESS = [RunOptions(), RunOptions(execution="threads", concurrency=3)]


def _dead(app: App) -> list[DeadLetterEntry]:
    transport = app.transport("main")
    assert isinstance(transport, MemoryTransport)
    return list(transport.dead_letters(["default"], after=None, limit=100))


def _drain(app: App, options: RunOptions) -> Report:
    return app.drain(RunOptions(execution=options.execution, concurrency=options.concurrency, until_empty=True))


# --- in a worker ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", IN_THIS_PROCESS, ids=str)
def test_an_async_listener_runs_to_its_end_before_its_event_is_done(make: Make, options: RunOptions) -> None:
    app, heard = make(transports={"main": MemoryTransport()}), []

    @app.listener("image.created")
    async def rate(event: Event) -> None:
        await asyncio.sleep(0.001)
        heard.append(event["path"])

    @app.listener("image.created")
    async def show(event: Event, call: Call) -> None:
        await asyncio.sleep(0.001)
        heard.append((call.attempt, call.event_id == event.id))

    app.dispatch("image.created", {"path": "sea.jpg"})

    assert _drain(app, options).done == 1
    assert heard == ["sea.jpg", (1, True)]


@pytest.mark.parametrize("options", IN_THIS_PROCESS, ids=str)
def test_a_task_of_a_task_group_can_give_up(make: Make, options: RunOptions) -> None:
    app = make(transports={"main": MemoryTransport()})

    async def rated() -> None:
        raise relevo.GiveUp("no rating")

    @app.listener("image.created")
    async def rate(event: Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(rated())

    app.dispatch("image.created")
    _drain(app, options)

    (entry,) = _dead(app)
    assert entry.reason == "gave-up"
    assert "no rating" in entry.error


@pytest.mark.parametrize("options", IN_THIS_PROCESS, ids=str)
def test_all_of_them_run_on_one_loop_which_outlives_a_drain(make: Make, options: RunOptions) -> None:
    app, loops = make(transports={"main": MemoryTransport()}), set()

    @app.listener("image.created")
    async def keep(event: Event) -> None:
        loops.add(asyncio.get_running_loop())

    for _ in range(3):
        app.dispatch("image.created")
        _drain(app, options)

    assert len(loops) == 1


def test_threads_wait_for_their_listeners_at_the_same_time(make: Make) -> None:
    app = make(transports={"main": MemoryTransport()})
    meeting: list[asyncio.Event] = []

    @app.listener("image.created", retry=1)
    async def meet(event: Event) -> None:
        meeting.append(asyncio.Event())
        if len(meeting) == 3:
            for each in meeting:
                each.set()
        async with asyncio.timeout(PATIENCE):
            await meeting[-1].wait()

    for _ in range(3):
        app.dispatch("image.created")

    assert _drain(app, RunOptions(execution="threads", concurrency=3)).done == 3


class _OwnError(BaseException):
    pass


@pytest.mark.parametrize("options", IN_THIS_PROCESS, ids=str)
@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        asyncio.CancelledError("no"),
        SystemExit("no"),
        GeneratorExit("no"),
        StopIteration("no"),
        _OwnError("no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_it_raises_is_its_failure_and_the_loop_goes_on(
    make: Make, options: RunOptions, error: BaseException
) -> None:
    app, clock, runs = make(transports={"main": MemoryTransport()}), FakeClock(), []

    @app.listener("image.created", retry=Retry(2, first=0))
    async def fail(event: Event) -> None:
        await asyncio.sleep(0)
        runs.append(clock.now())
        raise error

    app.dispatch("image.created")

    report = _drain(app, options)
    [dead] = _dead(app)
    assert (report.retried, report.dead, len(runs)) == (1, 1, 2)
    assert type(error).__name__ in dead.error
    assert process_loop.run(asyncio.sleep(0, "on"), "a test") == "on"


def test_an_interrupt_that_it_raises_ends_an_inline_worker_as_that_of_a_plain_one_does(make: Make) -> None:
    app = make(transports={"main": MemoryTransport()})

    @app.listener("image.created")
    async def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    app.dispatch("image.created")

    with pytest.raises(KeyboardInterrupt):
        app.drain()


def test_in_threads_an_interrupt_that_it_raises_is_its_failure(make: Make) -> None:
    app = make(transports={"main": MemoryTransport()})

    @app.listener("image.created", retry=1)
    async def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    app.dispatch("image.created")
    _drain(app, RunOptions(execution="threads", concurrency=2))

    assert "the listener raised KeyboardInterrupt" in _dead(app)[0].error


async def _later() -> None: ...


async def _steps() -> Any:
    yield 1


@pytest.mark.parametrize("options", IN_THIS_PROCESS, ids=str)
@pytest.mark.parametrize(
    ("result", "error"),
    [(_later, "returned an awaitable, which is not awaited"), (_steps, "returned a lazy async_generator")],
)
def test_one_that_forgets_to_await_has_failed(
    make: Make, options: RunOptions, result: Callable[[], object], error: str
) -> None:
    app = make(transports={"main": MemoryTransport()})

    @app.listener("image.created", retry=1)
    async def forget(event: Event) -> object:
        return result()

    app.dispatch("image.created")
    _drain(app, options)

    assert error in _dead(app)[0].error


def test_a_plain_listener_may_return_a_coroutine_as_a_decorator_around_one_does(make: Make) -> None:
    app, heard = make(transports={"main": MemoryTransport()}), []

    async def hear(event: Event) -> None:
        await asyncio.sleep(0)
        heard.append(event.name)

    def decorated(event: Event) -> Awaitable[None]:
        return hear(event)

    app.add_listener("image.created", decorated)
    app.add_listener("image.created", functools.partial(hear), id="partial")
    app.dispatch("image.created")

    assert app.drain().done == 1
    assert heard == ["image.created"] * 2


def test_context_and_ids_are_those_of_its_event_in_its_tasks_too(make: Make) -> None:
    app, seen = make(transports={"main": MemoryTransport()}), []

    @app.listener("image.created")
    async def follow(event: Event, call: Call) -> None:
        async def later() -> None:
            await app.adispatch("image.rated")

        await asyncio.gather(later(), later())
        await call.dispatch("image.shown")
        call.dispatch("image.shown")

    def note(event: Event, call: Call) -> None:
        seen.append((event.name, call.context.get("user"), call.causation_id, call.correlation_id))

    for name in ("image.rated", "image.shown"):
        app.add_listener(name, note, id=name)
    with relevo.context(user=7, correlation_id="case"):
        sent = app.dispatch("image.created")
    app.drain()

    assert sorted(seen) == [(name, 7, sent.id, "case") for name in ("image.rated",) * 2 + ("image.shown",) * 2]


def test_it_gets_the_context_variables_of_its_caller(make: Make) -> None:
    app, seen = make(transports={"main": MemoryTransport()}), []
    variable = contextvars.ContextVar[str]("tenant")

    @app.listener("image.created")
    async def look(event: Event) -> None:
        seen.append(variable.get())
        variable.set("changed")

    app.dispatch("image.created")
    variable.set("shop")
    app.drain()

    assert (seen, variable.get()) == (["shop"], "shop")


def test_it_dispatches_nothing_if_it_fails(make: Make) -> None:
    app = make(transports={"main": MemoryTransport()})

    @app.listener("image.created", retry=1)
    async def fail(event: Event, call: Call) -> None:
        await call.dispatch("image.rated")
        await asyncio.sleep(0)
        raise ValueError

    app.dispatch("image.created")

    assert app.drain().handled == 1


def test_its_subject_is_loaded_when_it_asks(make: Make) -> None:
    app, seen = make(transports={"main": MemoryTransport()}), []
    app.subjects.add(relevo.SubjectType(type="image", cls=bytes, name=lambda _: None, load={"7": b"sea"}.get))

    @app.listener("image.created", missing="skip")
    async def look(event: Event, call: Call) -> None:
        seen.append(call.subject)

    app.dispatch(Event("image.created", subject=relevo.Subject("image", "7")))

    assert app.drain().done == 1
    assert seen == [b"sea"]


# --- what it does to the loop -----------------------------------------------------------------------


def _stop_the_loop() -> None:
    asyncio.get_running_loop().stop()


async def _exit() -> None:
    raise SystemExit


@pytest.mark.parametrize(
    "harm",
    [_stop_the_loop, lambda: asyncio.create_task(_exit()), lambda: asyncio.create_task(asyncio.sleep(3600))],
    ids=["stop", "exit", "leave"],
)
def test_what_it_does_to_the_loop_does_not_end_it(make: Make, harm: Callable[[], object]) -> None:
    app, heard = make(transports={"main": MemoryTransport()}), []

    @app.listener("image.created")
    async def spoil(event: Event) -> None:
        heard.append(harm())
        await asyncio.sleep(0.001)
        await asyncio.sleep(0.001)

    for _ in range(2):
        app.dispatch("image.created")

    assert app.drain().done == 2
    for each in heard:
        if isinstance(each, asyncio.Task):
            each.get_loop().call_soon_threadsafe(each.cancel)


def test_one_that_cancels_all_tasks_fails_and_so_do_those_that_run(make: Make) -> None:
    app, begun = make(transports={"main": MemoryTransport()}), []

    @app.listener("image.created", retry=1)
    async def wait(event: Event) -> None:
        begun.append(event.id)
        if len(begun) == 3:
            for task in asyncio.all_tasks():
                task.cancel()
        async with asyncio.timeout(PATIENCE):
            await asyncio.Event().wait()

    for _ in range(3):
        app.dispatch("image.created")

    assert _drain(app, RunOptions(execution="threads", concurrency=3)).dead == 3
    assert all("CancelledError" in each.error for each in _dead(app))


@pytest.mark.parametrize("options", IN_THIS_PROCESS, ids=str)
def test_one_whose_task_is_cancelled_at_its_very_end_has_ended(make: Make, options: RunOptions) -> None:
    app, runs = make(transports={"main": MemoryTransport()}), []

    @app.listener("image.created", retry=1)
    async def cancel(event: Event) -> None:
        runs.append(event.name)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()  # which its next await would raise

    app.dispatch("image.created")

    assert _drain(app, options).done == 1
    assert len(runs) == 1


def test_one_that_calls_asyncio_run_fails(make: Make) -> None:
    app = make(transports={"main": MemoryTransport()})

    @app.listener("image.created", retry=1)
    async def nest(event: Event) -> None:
        work = _later()
        try:
            asyncio.run(work)
        finally:
            work.close()

    app.dispatch("image.created")
    app.drain()

    assert "asyncio.run() cannot be called from a running event loop" in _dead(app)[0].error


# --- in process -------------------------------------------------------------------------------------


def test_in_process_the_dispatch_returns_when_it_has_ended() -> None:
    dispatcher, heard = LocalDispatcher(), []

    async def hear(event: Event, call: Call) -> None:
        await asyncio.sleep(0.001)
        heard.append(event.name)
        call.stop_propagation()

    dispatcher.add_listener("a.b", hear)
    dispatcher.add_listener("a.b", heard.append, id="later")
    dispatcher.dispatch("a.b")

    assert heard == ["a.b"]


@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError(), SystemExit(3), KeyboardInterrupt()])
def test_in_process_the_dispatch_raises_what_it_raises(error: BaseException) -> None:
    dispatcher = LocalDispatcher()

    async def fail(event: Event) -> None:
        await asyncio.sleep(0)
        raise error

    dispatcher.add_listener("a.b", fail)

    with pytest.raises(type(error)):
        dispatcher.dispatch("a.b")


def test_an_awaited_dispatch_runs_it_on_the_loop_that_awaits_whose_clients_it_can_use(make: Make) -> None:
    app, loops = make(routes={"*": "now"}), []

    @app.listener("a.b")
    async def first(event: Event, call: Call) -> None:
        loops.append(asyncio.get_running_loop())
        await app.adispatch("c.d")

    @app.listener("c.d")
    async def second(event: Event) -> None:
        loops.append(asyncio.get_running_loop())

    async def main() -> asyncio.AbstractEventLoop:
        await app.adispatch("a.b")
        return asyncio.get_running_loop()

    own = asyncio.run(main())

    assert loops == [own, own]


def test_one_whose_loop_ends_before_it_does_not_wait_for_ever(make: Make) -> None:
    app, begun = make(routes={"*": "now"}), asyncio.Event()
    ended: list[BaseException] = []

    async def wait(event: Event) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def dispatch() -> None:
        try:
            await app.adispatch("a.b")
        except asyncio.CancelledError as error:
            ended.append(error)

    async def main() -> None:
        task = asyncio.create_task(dispatch())
        await begun.wait()
        task.cancel()

    app.add_listener("a.b", wait)
    asyncio.run(main())  # which waits for the thread of the dispatch

    assert len(ended) == 1


def test_one_whose_loop_stops_for_good_does_not_wait_for_ever(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    app, begun = make(routes={"*": "now"}), asyncio.Event()

    async def wait(event: Event) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def main() -> asyncio.Task[Any]:
        task = asyncio.create_task(app.adispatch("a.b"))
        await begun.wait()
        return task

    app.add_listener("a.b", wait)
    loop = asyncio.new_event_loop()
    with caplog.at_level(logging.DEBUG, "relevo.dispatch"):
        task = loop.run_until_complete(main())
        ends = time.monotonic() + PATIENCE
        while "raised in process" not in caplog.text and time.monotonic() < ends:  # its thread
            time.sleep(0.01)

    with pytest.raises(RuntimeError, match="the event loop that the listener ran on has ended before it"):
        loop.run_until_complete(asyncio.wait_for(task, PATIENCE))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_a_dispatch_in_process_on_its_own_loop_is_refused_rather_than_waiting_for_ever(make: Make) -> None:
    app, heard = make(routes={"a.*": "main", "*": "now"}, transports={"main": MemoryTransport()}), []

    @app.listener("a.b", retry=1)
    async def outer(event: Event) -> None:
        app.dispatch("c.d")

    @app.listener("a.well")
    async def well(event: Event) -> None:
        await app.adispatch("c.d")

    @app.listener("c.d")
    async def inner(event: Event) -> None:
        heard.append(event.name)

    app.dispatch("a.b")
    app.dispatch("a.well")
    report = app.drain()

    assert (report.done, report.dead, heard) == (1, 1, ["c.d"])
    assert "inner is async, and is called in process on the event loop that it has to run on" in _dead(app)[0].error


def test_a_session_of_another_loop_is_refused_in_process(make: Make) -> None:
    app = make(routes={"*": "now"})

    async def use(event: Event, call: Call) -> None:
        raise AssertionError("it was called")

    app.add_listener("a.b", use)

    async def main() -> None:
        await app.adispatch("a.b", session=object())

    with pytest.raises(ConfigurationError, match="it would use the session on another event loop than yours"):
        asyncio.run(main())


def test_an_interrupt_of_the_thread_that_waits_cancels_it() -> None:
    dispatcher, cancelled = LocalDispatcher(), threading.Event()

    async def wait(event: Event) -> None:
        interrupt_main()
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            cancelled.set()

    dispatcher.add_listener("a.b", wait)

    with pytest.raises(KeyboardInterrupt):
        dispatcher.dispatch("a.b")
    assert cancelled.wait(PATIENCE)


# --- registration -----------------------------------------------------------------------------------


def test_a_transactional_one_is_refused_when_it_is_registered(make: Make) -> None:
    async def write(event: Event, call: Call) -> None: ...

    with pytest.raises(ConfigurationError, match=r"is transactional and async; .* write it as def"):
        make(transports={"main": MemoryTransport()}).add_listener("a.b", write, transactional=True)


def test_a_test_reports_its_error_from_its_first_line_on(make: Make) -> None:
    app = make(transports={"main": MemoryTransport()})

    async def fail(event: Event) -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    app.add_listener("image.created", fail)
    with app.testing() as t:
        app.dispatch("image.created")
        with pytest.raises(ValueError, match="no") as caught:
            t.drain()

    assert caught.traceback[-1].name == "fail"


# --- processes --------------------------------------------------------------------------------------

_SHOP = """
import asyncio, os, signal, sys, time, warnings
import relevo
from relevo_memory import MemoryTransport

app = relevo.App(transports={"main": MemoryTransport()}, routes={"a.*": "main", "*": "now"})

@app.listener("c.d")
async def hear(event):
    await asyncio.sleep(0)
    print("heard in", "the child" if os.getpid() != PARENT else "the parent", flush=True)

PARENT = os.getpid()
"""


def _run(folder: Path, program: str, **options: Any) -> subprocess.CompletedProcess[str]:
    folder.joinpath("program.py").write_text(_SHOP + program)
    return subprocess.run(
        [sys.executable, "-W", "error", "program.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        **options,
    )


@pytest.mark.lengthy("starts processes")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_the_child_of_a_fork_has_a_loop_of_its_own_and_the_parents_goes_on(tmp_path: Path) -> None:
    program = """
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which is what is tested
app.dispatch("c.d")
if (child := os.fork()) == 0:
    signal.alarm(20)
    app.dispatch("c.d")
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
app.dispatch("c.d")
"""

    done = _run(tmp_path, program)

    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == ["heard in the parent", "heard in the child", "heard in the parent"]


@pytest.mark.lengthy("starts processes")
def test_a_process_ends_the_tasks_that_are_left_and_does_not_wait_for_one_that_blocks(tmp_path: Path) -> None:
    program = """
async def linger():
    try:
        await asyncio.sleep(3600)
    finally:
        print("ended", flush=True)

@app.listener("x.y")
async def leave(event):
    leave.task = asyncio.create_task(linger())
    await asyncio.sleep(0)

@app.listener("x.z")
async def block(event):
    def block():
        print("blocks", flush=True)
        time.sleep(3600)
    asyncio.get_running_loop().call_later(0.1, block)

app.dispatch("x.y")
if "block" in os.environ:
    app.dispatch("x.z")
    time.sleep(0.5)
"""

    assert _run(tmp_path, program).stdout == "ended\n"
    assert _run(tmp_path, program, env={**os.environ, "block": "1"}).stdout == "blocks\n"


@pytest.mark.lengthy("starts processes")
def test_a_process_waits_for_dispatches_and_not_for_threads_that_listeners_have_left(tmp_path: Path) -> None:
    program = """
@app.listener("x.y")
async def leave(event):
    leave.tasks = asyncio.create_task(asyncio.to_thread(time.sleep, 3600)), asyncio.create_task(app.adispatch("x.z"))
    await asyncio.sleep(0.1)

@app.listener("x.z")
def send(event):
    time.sleep(0.5)
    print("sent", flush=True)

app.dispatch("x.y")
"""

    assert _run(tmp_path, program).stdout == "sent\n"


@pytest.mark.lengthy("starts a process")
@pytest.mark.parametrize("execution", ["inline", "threads"])
def test_a_second_signal_ends_a_worker_whose_coroutine_goes_on(tmp_path: Path, execution: str) -> None:
    program = f"""
from relevo import RunOptions
from relevo import LoopRunner

@app.listener("a.b")
async def wait(event):
    print("begun", flush=True)
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise

app.dispatch("a.b")
LoopRunner().run(app, RunOptions(execution="{execution}"))
"""
    tmp_path.joinpath("program.py").write_text(_SHOP + program)
    with subprocess.Popen([sys.executable, "program.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "begun\n"
        worker.send_signal(signal.SIGTERM)
        time.sleep(0.3)  # the first one lets it go on; if this is too short, the test proves less
        assert worker.poll() is None
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE) == 128 + signal.SIGTERM
        assert worker.stdout.read() == "cancelled\n"


@pytest.mark.lengthy("starts processes")
def test_there_is_no_loop_without_an_async_listener(tmp_path: Path) -> None:
    program = """
app.add_listener("e.f", print)
app.dispatch("e.f")
import threading
print(sorted({thread.name for thread in threading.enumerate()}))
"""

    assert _run(tmp_path, program).stdout.splitlines()[-1] == "['MainThread']"
