"""
The application whose listeners do what no listener should.

What was done is written to the file that ``CRASH_LOG`` names, as in ``crashing``.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import relevo

_LOG = os.environ.get("CRASH_LOG", os.devnull)
_FOREVER = 300.0
_PATIENCE = 300.0

Listen = Callable[[relevo.Event], None]


def note(*words: object) -> None:
    """Write *words* as one line that survives whatever follows."""
    with open(_LOG, "ab", buffering=0) as log:  # noqa: PTH123 - a listener may have closed what was open
        log.write((" ".join(map(str, words)) + "\n").encode())


@relevo.listener("thing.went-well")
def do_well(event: relevo.Event) -> None:
    """Do what is asked for."""
    note("well", event["number"])


@relevo.listener("thing.met", retry=1)
def meet(event: relevo.Event) -> None:
    """Return when so many events are handled at the same moment, this one among them."""
    note("came", event["number"])
    deadline = time.monotonic() + _PATIENCE
    while len(set(_lines("came"))) < event["places"]:
        if time.monotonic() > deadline:
            raise TimeoutError("no other came: a place for one is gone")
        time.sleep(0.02)
    note("met", event["number"])


def _lines(word: str) -> list[str]:
    return [line for line in Path(_LOG).read_text().splitlines() if line.startswith(word)]


def each_kind(priority: int) -> Callable[[Listen], Listen]:
    """Return a decorator that lets a function listen to all that goes wrong."""

    def listening(function: Listen) -> Listen:
        function = relevo.listener("thing.grew", priority=priority)(function)
        for name in ("thing.went-wrong", "thing.hung"):
            for kind in ("", "-async", "-in-step", "-async-in-step"):
                function = relevo.listener(f"{name}{kind}", priority=priority)(function)
        return function

    return listening


@each_kind(priority=10)
def come_before(event: relevo.Event) -> None:
    """Come before the one that misbehaves."""
    note("before", event["how"])


@each_kind(priority=-10)
def come_after(event: relevo.Event) -> None:
    """Come after the one that misbehaves."""
    note("after", event["how"])


@relevo.listener("thing.went-wrong", retry=1)
def misbehave(event: relevo.Event) -> object:
    """Do as the event says."""
    note("wrong", event["how"], os.getpid())
    print(f"about to {event['how']}")
    return MISBEHAVIOURS[event["how"]]()


@relevo.listener("thing.hung", retry=1, time_limit="1s")
def hang(event: relevo.Event) -> object:
    """Do what does not end; what does may take longer than this on a busy machine."""
    return misbehave(event)


@relevo.listener("thing.went-wrong-async", retry=1)
async def misbehave_async(event: relevo.Event) -> object:
    """Do as the event says, on the event loop."""
    note("wrong", event["how"], os.getpid())
    print(f"about to {event['how']}")
    await asyncio.sleep(0.01)
    return await ASYNC_MISBEHAVIOURS[event["how"]]()


@relevo.listener("thing.grew", retry=1, memory_limit="128M")
def grow(event: relevo.Event) -> object:
    """Occupy more than this listener may, and less than the application allows."""
    return misbehave(event)


@relevo.listener("thing.hung-async", retry=1, time_limit="1s")
async def hang_async(event: relevo.Event) -> object:
    """Do what does not end."""
    return await misbehave_async(event)


@relevo.listener("thing.went-wrong-in-step", retry=1)
def misbehave_in_step(event: relevo.Event, call: relevo.Call) -> object:
    """Finish a step, and do as the event says in the next one."""
    note("wrong", event["how"], os.getpid())
    print(f"about to {event['how']}")
    call.step("prepare", note, "prepared", event["how"])
    return call.step("misbehave", MISBEHAVIOURS[event["how"].removeprefix("step-")])


@relevo.listener("thing.hung-in-step", retry=1, time_limit="1s")
def hang_in_step(event: relevo.Event, call: relevo.Call) -> object:
    """Do in a step what does not end."""
    return misbehave_in_step(event, call)


@relevo.listener("thing.went-wrong-async-in-step", retry=1)
async def misbehave_in_async_step(event: relevo.Event, call: relevo.Call) -> object:
    """Finish a step, and do as the event says in the next one, on the event loop."""
    note("wrong", event["how"], os.getpid())
    print(f"about to {event['how']}")
    await call.step("prepare", asyncio.to_thread, note, "prepared", event["how"])
    return await call.step("misbehave", ASYNC_MISBEHAVIOURS[event["how"].replace("-step", "")])


@relevo.listener("thing.hung-async-in-step", retry=1, time_limit="1s")
async def hang_in_async_step(event: relevo.Event, call: relevo.Call) -> object:
    """Do in a step what does not end."""
    return await misbehave_in_async_step(event, call)


def _raise() -> None:
    raise ValueError("no")


def _interrupt() -> None:
    raise KeyboardInterrupt


def _loop() -> None:
    while True:
        pass


def _block() -> None:
    ctypes.PyDLL(None).sleep(int(_FOREVER))  # without letting go of the interpreter


def _wait_for_a_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def _occupy_memory() -> None:
    held: list[bytes] = []
    while len(held) < 128:  # a gigabyte exceeds the limit; the process that kills this one may be slow
        held.append(b"x" * (8 << 20))
        time.sleep(0.005)
    time.sleep(_FOREVER)


def _occupy_some_memory() -> None:
    held = b"x" * (160 << 20)
    time.sleep(_FOREVER)
    del held


def _close_everything() -> None:
    os.closerange(0, 1 << 16)


def _start_another_and_die() -> None:
    subprocess.Popen(["sleep", str(_FOREVER)])
    os._exit(3)


def _start_elsewhere() -> None:
    subprocess.Popen(["sleep", str(_FOREVER)], start_new_session=True)
    subprocess.run(["setsid", "--fork", "sleep", str(_FOREVER)], check=True)


def _start_elsewhere_and_die() -> None:
    _start_elsewhere()
    os._exit(3)


def _start_elsewhere_and_wait() -> None:
    _start_elsewhere()
    time.sleep(_FOREVER)


def _fork_and_die() -> None:
    if os.fork() == 0:
        time.sleep(_FOREVER)
    os._exit(3)


def _print_a_lot() -> None:
    for _ in range(3000):
        print("x" * 1000)
    sys.stderr.write("y" * 2_000_000)


def _leave_threads() -> None:
    for daemon in (True, False):
        threading.Thread(target=time.sleep, args=(3.0 if not daemon else _FOREVER,), daemon=daemon).start()


def _return_garbage() -> object:
    return {object(): b"\xff"}


def _end_the_parent_of_nobody() -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(os.getpid(), 15)
        os.kill(os.getpid(), 2)


def _end_a_fork() -> None:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(_FOREVER,))
    process.start()
    process.terminate()
    process.join()


def _use_a_pool() -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(abs, range(9))


MISBEHAVIOURS: dict[str, Callable[[], object]] = {
    "raise": _raise,
    "sys.exit": lambda: sys.exit(3),
    "interrupt": _interrupt,
    "os._exit": lambda: os._exit(3),
    "segfault": lambda: ctypes.string_at(0),
    "loop": _loop,
    "sleep": lambda: time.sleep(_FOREVER),
    "block": _block,
    "lock": _wait_for_a_lock,
    "memory": _occupy_memory,
    "grow": _occupy_some_memory,
    "close": _close_everything,
    "child": _start_another_and_die,
    "fork": _fork_and_die,
    "session": _start_elsewhere,
    "session-exit": _start_elsewhere_and_die,
    "session-sleep": _start_elsewhere_and_wait,
    "print": _print_a_lot,
    "threads": _leave_threads,
    "garbage": _return_garbage,
    "signal": _end_the_parent_of_nobody,
    "terminate": _end_a_fork,
    "pool": _use_a_pool,
}


# --- what listeners do that are async -----------------------------------------------------------------


async def _cancel_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(_FOREVER)


async def _wait() -> None:
    await asyncio.sleep(_FOREVER)


async def _cancelled() -> None:
    raise asyncio.CancelledError("no")


async def _block_the_loop() -> None:
    time.sleep(_FOREVER)  # noqa: ASYNC251 - that is what it does


async def _leave_tasks() -> None:
    async def end() -> None:
        await asyncio.sleep(0.01)
        sys.exit(3)

    _left.extend(map(asyncio.create_task, (asyncio.sleep(_FOREVER), end())))


async def _nest() -> None:
    work = asyncio.sleep(0)
    try:
        asyncio.run(work)
    finally:
        work.close()


async def _stop_the_loop() -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.01)


def _asynchronously(function: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def done() -> object:
        return function()

    return done


_left: list[asyncio.Task[None]] = []

ASYNC_MISBEHAVIOURS: dict[str, Callable[[], Awaitable[object]]] = {
    **{f"async-{how}": _asynchronously(MISBEHAVIOURS[how]) for how in ("raise", "sys.exit", "interrupt", "os._exit")},
    "async-cancel": _cancelled,
    "async-cancel-all": _cancel_all,
    "async-wait": _wait,
    "async-block": _block_the_loop,
    "async-tasks": _leave_tasks,
    "async-run": _nest,
    "async-stop": _stop_the_loop,
}
