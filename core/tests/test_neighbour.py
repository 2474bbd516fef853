"""Workers of two applications in one process, as after the cell of a notebook that makes both was run again."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import attrs
import pytest

from relevo import App
from relevo._worker.neighbour import Neighbour, running
from relevo_memory import MemoryTransport


def _serving(app: App) -> Callable[[], None]:
    """Run a worker of *app* in a thread; return a function that stops it, once it has handled an event."""
    handled = threading.Event()
    app.add_listener("image.created", lambda _: handled.set(), id="shop:note")
    worker = app.worker()
    thread = threading.Thread(target=worker.run, name="an earlier cell", daemon=True)
    app.dispatch("image.created")
    thread.start()
    assert handled.wait(30.0)

    def stop() -> None:
        worker.stop()
        thread.join(30.0)
        assert not thread.is_alive()

    return stop


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]


@pytest.fixture(name="address")
def _address(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/shop.db"


@pytest.mark.lengthy("starts processes")
def test_a_worker_of_an_earlier_application_is_logged_once(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with App(source="shop", transports={"main": address}) as earlier:
        stop = _serving(earlier)

        with App(source="shop", transports={"main": address}) as app:
            app.drain()
            app.drain()
        stop()

    [warning] = _warnings(caplog)
    assert warning == (
        "a worker of another App object in this process also serves main: default, in the thread "
        '"an earlier cell"; it takes a share of the events and calls the listeners of that App; this happens if a '
        "cell of a notebook is run again; call stop() of that worker or close() of that App, or restart the kernel"
    )


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize("other", ["ended", "another source", "another queue", "another file", "the same application"])
def test_a_worker_that_takes_none_of_its_events_is_not_logged(
    address: str, other: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = "lab" if other == "another source" else "shop"
    queue = "main/slow" if other == "another queue" else "main"
    with App(source="shop", transports={"main": address}) as earlier:
        stop = _serving(earlier)
        if other == "ended":
            stop()

        transports = {"main": address.replace("shop.db", "lab.db") if other == "another file" else address}
        with App(source=source, transports=transports, routes={"*": queue}) as app:
            app.setup()  # a drain that creates the file warns of it
            (earlier if other == "the same application" else app).drain()
        stop()

    assert not _warnings(caplog)


@pytest.mark.lengthy("starts processes")
def test_a_store_of_each_application_is_not_shared(caplog: pytest.LogCaptureFixture) -> None:
    with App(transports={"main": MemoryTransport()}) as earlier, App(transports={"main": MemoryTransport()}) as app:
        stop = _serving(earlier)
        app.drain()
        stop()

    assert not _warnings(caplog)


def test_workers_that_start_and_end_in_other_threads_meanwhile_do_no_harm() -> None:
    is_over = threading.Event()
    transport = MemoryTransport()

    def run(number: int, stack: ExitStack) -> Neighbour:
        first, *_ = [stack.enter_context(running(transport, ["default"])) for _ in range(number)]
        return first

    def start_and_end() -> None:
        while not is_over.is_set():
            with ExitStack() as stack:
                run(20, stack)

    threads = [threading.Thread(target=start_and_end, daemon=True) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        with ExitStack() as stack:
            here = run(100, stack)
            for _ in range(1000):
                here.warn_of_others()
    finally:
        sys.setswitchinterval(interval)
        is_over.set()
        for thread in threads:
            thread.join(30.0)


@attrs.define(init=False)
class _Comparable(MemoryTransport):
    """A transport that has no hash, since its class defines ``==``."""


def test_a_transport_without_a_hash_is_compared_with_others() -> None:
    with running(_Comparable(), ["default"]) as one, running(_Comparable(), ["default"]) as other:
        one.warn_of_others()
        other.warn_of_others()
