"""What workers announce: the events that they hold for long, and the listener that runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from relevo import App, Delivery, Envelope, Event, ProcessIdentity, RunOptions, SystemClock, listener
from relevo._transport.coordinator import MAX_ANNOUNCEMENT
from relevo._worker.announcement import (
    EXPIRES_AFTER,
    LOOK_EVERY,
    Announcement,
    Announcer,
    HeldEvent,
    HoldingWorker,
    holders,
)
from relevo.errors import TransportUnavailableError
from relevo.testing import FakeClock
from relevo_memory import MemoryStore, MemoryTransport
from relevo_sql import SqlOptions, SqlTransport

from .shop import opened

WORKER = ProcessIdentity(worker="a1", pid=42)
HERE = os.uname().nodename


def delivery(event_id: str) -> Delivery:
    envelope = Envelope(id=event_id, source="shop", name="image.created", body=b"{}")
    return Delivery(envelope=envelope, queue="default", receipt=None, enqueued_at=0.0)


def seen(store: MemoryTransport) -> dict[str, HoldingWorker]:
    return {event_id: holder for (_, _, event_id), holder in holders(store.workers().values()).items()}


def announcer(
    store: MemoryTransport, clock: FakeClock, held: list[Delivery], *running: tuple[Delivery, str]
) -> Announcer:
    return Announcer(store, clock, WORKER, held=lambda: list(held), running=lambda: running)


def test_only_what_is_held_for_long_is_announced_with_all_that_is_held() -> None:
    clock = FakeClock()
    store = MemoryTransport(clock=clock)
    held = [delivery("slow"), delivery("quick")]
    mine = announcer(store, clock, held, (held[0], "shop:bill"))

    def later() -> dict[str, HoldingWorker]:
        clock.advance(LOOK_EVERY)
        mine.keep_up()
        return seen(store)

    assert later() == {}
    held[1] = delivery("next")
    worker = f"{HERE}:42"
    assert later() == {
        "slow": HoldingWorker(worker=worker, listener="shop:bill"), "next": HoldingWorker(worker=worker, listener=None)
    }  # fmt: skip
    held[:] = [delivery("other")]
    assert later() == {}


def test_an_announcement_is_repeated_before_it_expires_and_not_more_often() -> None:
    clock = FakeClock()
    told: list[float] = []

    class Counting(MemoryTransport):
        def announce(self, worker: str, about: bytes, *, ttl: float) -> None:
            told.append(clock.monotonic())
            assert ttl == EXPIRES_AFTER

    mine = announcer(Counting(clock=clock), clock, [delivery("slow")])
    for _ in range(600):
        clock.advance(0.1)
        mine.keep_up()

    pauses = [after - before for before, after in pairwise(told)]
    assert max(pauses) < EXPIRES_AFTER / 2
    assert min(pauses) >= LOOK_EVERY


def test_a_server_that_is_down_does_not_end_the_worker() -> None:
    class Down(MemoryTransport):
        def announce(self, worker: str, about: bytes, *, ttl: float) -> None:
            raise TransportUnavailableError("main", "it is down")

    clock = FakeClock()
    mine = announcer(Down(clock=clock), clock, [delivery("slow")])
    for _ in range(3):
        clock.advance(LOOK_EVERY)
        mine.keep_up()
    mine.withdraw()


def test_an_announcement_that_is_too_long_keeps_what_runs() -> None:
    held = [HeldEvent("default", "shop", f"waits-{number}" * 10) for number in range(2000)]
    running = [HeldEvent("default", "shop", f"runs-{number}", "shop:bill") for number in range(8)]

    packed = Announcement(1, "host", 1, [*held, *running]).packed()

    assert MAX_ANNOUNCEMENT // 4 < len(packed) <= MAX_ANNOUNCEMENT
    ids = {event_id for _, _, event_id in holders([packed])}
    assert {each.id for each in running} <= ids


@pytest.mark.parametrize("execution", ["inline", "threads"])
def test_a_worker_announces_the_listener_that_runs(execution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relevo._worker.announcement.LOOK_EVERY", 0.0)
    store = MemoryStore()
    main, observer = MemoryTransport(store), MemoryTransport(store)
    found: list[dict[str, HoldingWorker]] = []

    @listener("image.created", id="shop:slow")
    def slow(event: Event) -> None:
        until(lambda: bool(seen(observer).get("1")) and seen(observer)["1"].listener is not None)
        found.append(seen(observer))

    app = App(transports={"main": main}, routes={"*": "main"}, listeners=[slow], execution=execution)
    app.dispatch(Event("image.created", id="1"))

    app.worker(RunOptions(until_empty=True, batch=1)).run()

    assert found[0]["1"] == HoldingWorker(worker=f"{HERE}:{os.getpid()}", listener="shop:slow")
    assert seen(observer) == {}


def until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(12_000):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("it did not come true")


LISTENERS = """
import pathlib, time, relevo

@relevo.listener("image.created", queue="media", id="slow")
def slow(event):
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
"""


@pytest.mark.slow("starts a child process")
def test_a_worker_announces_the_listener_that_runs_in_a_child_process(tmp_path: Path) -> None:
    shop = opened(tmp_path)
    shop.write("shop_listeners.py", LISTENERS)
    shop.run("dispatch image.created --json")
    found: list[HoldingWorker] = []

    def look() -> None:
        options = SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}")
        try:
            with SqlTransport.open(options, name="main", clock=SystemClock()) as store:
                until(lambda: any(each.listener for each in holders(store.workers().values()).values()))
                found.extend(holders(store.workers().values()).values())
        finally:
            shop.write("go", "")

    looking = threading.Thread(target=look)
    looking.start()
    # In a process of its own: imports of the application do not run beside those of the thread.
    done = shop.process("RELEVO_EXECUTION=process relevo drain -q media")
    looking.join()

    assert done.returncode == 0, done.stderr
    assert {each.listener for each in found} == {"slow"}
