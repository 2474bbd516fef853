"""Outages of the database under a running worker: it waits, resumes, and logs what is wrong."""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import attrs
import pytest
import sqlalchemy as sa

from relevo import (
    Ack,
    App,
    Delivery,
    Envelope,
    LoopRunner,
    Outcome,
    Report,
    RunOptions,
    SystemClock,
    Worker,
    listener,
)
from relevo._worker.worker import GRACE
from relevo.errors import ConfigurationError, SendError, TransportError, TransportUnavailableError
from relevo_sql import SqlTransport

from .command import UNAVAILABLE, configure, relevo
from .on_server import in_a_thread
from .test_errors import a_writer, failing

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]
LIMITS = (1.0, 5.0, 25.0)
"""Seconds for a run; a longer one if the machine paused until the time was over, before anything was received."""


class _Running:
    """A patient worker in a thread, and what it handled."""

    def __init__(self, transport: SqlTransport, *, lease: float):
        self.handled: list[str] = []
        self.envelopes: list[Envelope] = []
        self._worker = Worker(
            transport=transport,
            handle=self._handle,
            queues=["default"],
            clock=SystemClock(),
            chance=lambda: 0.0,
            options=RunOptions(),
            lease=lease,
            patient=True,
        )
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait_until(self, met: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not met():
            assert time.monotonic() < deadline
            assert self._thread.is_alive(), self.errors
            time.sleep(0.01)

    def stop(self) -> None:
        self._worker.stop()
        self._thread.join(60)

    def _run(self) -> None:
        try:
            self._worker.run()
        except BaseException as error:  # noqa: BLE001 - the test tells it
            self.errors.append(error)

    def _handle(self, delivery: Delivery) -> Outcome:
        assert isinstance(delivery.envelope, Envelope)
        self.envelopes.append(delivery.envelope)
        self.handled.append(delivery.envelope.id)
        return Ack()


@contextmanager
def _running(transport: SqlTransport, *, lease: float = 60.0) -> Iterator[_Running]:
    running = _Running(transport, lease=lease)
    try:
        yield running
    finally:
        running.stop()


def _empty(path: Path) -> None:
    """Replace *path* with an empty file."""
    new = path.with_suffix(".new")
    new.touch()
    new.replace(path)
    for rest in ("-wal", "-shm"):
        path.with_name(path.name + rest).unlink(missing_ok=True)


def _has_tables(path: Path) -> bool:
    connection = sqlite3.connect(path)
    try:
        return len(connection.execute("SELECT name FROM sqlite_master").fetchall()) > 5
    finally:
        connection.close()


def test_a_worker_that_set_up_its_database_does_so_again_where_it_was_replaced_by_an_empty_one(
    opener: Opener, path: Path, an_envelope: Maker
) -> None:
    opener().send([an_envelope(1)])
    with _running(opener()) as running:
        running.wait_until(lambda: running.handled == ["id-1"])

        _empty(path)
        running.wait_until(lambda: _has_tables(path))
        opener(setup=False).send([an_envelope(2)])

        running.wait_until(lambda: running.handled == ["id-1", "id-2"])


def test_a_worker_that_only_checked_its_database_waits_until_an_empty_one_is_set_up(
    opener: Opener, path: Path, an_envelope: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    opener().send([an_envelope(1)])
    with _running(opener(setup=False)) as running:
        running.wait_until(lambda: running.handled == ["id-1"])

        _empty(path)
        running.wait_until(lambda: "it worked before, and fails now: " in caplog.text)
        untouched = not _has_tables(path)
        opener().send([an_envelope(2)])

        running.wait_until(lambda: running.handled == ["id-1", "id-2"])
    assert untouched


def test_a_database_with_other_tables_is_never_set_up_by_receiving(opener: Opener, path: Path) -> None:
    transport = opener()
    transport.receive(["default"], limit=1, lease=60, wait=0)
    _empty(path)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE mine (id INTEGER)")
    connection.close()

    with pytest.raises(ConfigurationError, match="run: relevo setup"):
        transport.receive(["default"], limit=1, lease=60, wait=0)

    assert not _has_tables(path)


@pytest.mark.parametrize("number", [1, 2])
def test_an_event_that_went_into_a_file_that_was_removed_meanwhile_is_unknown(
    number: int, opener: Opener, path: Path, an_envelope: Maker
) -> None:
    transport = opener()
    transport.send([an_envelope(1)])

    def remove(*execution: Any) -> None:
        if execution[2].startswith("INSERT"):
            path.unlink()

    sa.event.listen(transport._database.engine, "before_cursor_execute", remove)
    with pytest.raises(SendError, match="was removed or replaced") as caught:
        transport.send([an_envelope(2 + each) for each in range(number)])

    assert caught.value.unknown == tuple(range(number))


def test_a_call_waits_for_another_writer_no_longer_than_it_was_told(
    opener: Opener, path: Path, an_envelope: Maker
) -> None:
    transport = opener(busy_timeout=3600.0)
    transport.send([an_envelope(1)])
    transport.hurry(0.1)

    with a_writer(path), pytest.raises(TransportUnavailableError, match="locked by another writer"):
        transport.receive(["default"], limit=1, lease=60, wait=0)
    transport.hurry(None)

    assert len(transport.receive(["default"], limit=1, lease=60, wait=0)) == 1


def test_a_call_of_another_thread_waits_as_long_as_ever(opener: Opener, path: Path, an_envelope: Maker) -> None:
    transport = opener(busy_timeout=3600.0)
    transport.send([an_envelope(1)])
    transport.hurry(0.0)

    with ExitStack() as stack:
        stack.enter_context(a_writer(path))
        with in_a_thread(lambda: transport.send([an_envelope(2)])) as sent:
            time.sleep(0.5)  # while another writer has the lock
            assert not sent
            stack.close()

    assert sent == [None]


@pytest.mark.parametrize("execution", ["inline", "threads"])
def test_a_listener_that_outlives_the_time_limit_can_still_wait_for_another_writer(
    opener: Opener, path: Path, execution: Literal["inline", "threads"]
) -> None:
    @listener("image.created", id="outlive")
    def outlive(event: object) -> None:
        while time.monotonic() <= began + limit + GRACE + 0.2:
            time.sleep(0.1)
        with ExitStack() as stack:
            stack.enter_context(a_writer(path))
            threading.Timer(0.5, stack.pop_all().close).start()
            app.dispatch("image.sent", {})

    app = App(
        transports={"main": opener(busy_timeout=3600.0)},
        routes={"*": "main", "image.sent": "main/sent"},
        listeners=[outlive],
    )
    app.dispatch("image.created", {})
    options = RunOptions(until_empty=True, execution=execution, concurrency=1, queues=("default",))
    reports: list[Report] = []
    for limit in LIMITS:
        began = time.monotonic()
        reports.append(LoopRunner().run(app, attrs.evolve(options, max_seconds=limit)))
        if reports[-1].done:
            break

    report = reports[-1]
    assert (report.done, report.retried, report.unsettled, report.stopped_by) == (1, 0, 0, "time")
    assert app.transports["main"].stats("sent").ready == 1


@pytest.mark.parametrize(("free", "said"), [(0, "the disk is full"), (1 << 30, r"\(SQLITE_IOERR_SHMSIZE\); check")])
def test_an_error_of_the_disk_says_that_the_disk_is_full_if_it_is(
    free: int, said: str, opener: Opener, an_envelope: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = opener()
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    error.sqlite_errorname = "SQLITE_IOERR_SHMSIZE"
    room = SimpleNamespace(f_bavail=free, f_frsize=1, f_files=0, f_favail=0)
    monkeypatch.setattr(os, "statvfs", lambda _: room)

    with failing(transport, "before", "INSERT", error), pytest.raises(TransportError, match=said):
        transport.send([an_envelope(1)])


def test_a_worker_waits_for_a_database_that_stays_locked_and_a_dispatch_is_told(
    opener: Opener, path: Path, an_envelope: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    said = r"shop\.db is locked by another writer for longer than 0\.1 s; look for a transaction that is left open"
    sender = opener(busy_timeout=0.1)
    sender.send([an_envelope(1)])
    with ExitStack() as writer:
        writer.enter_context(a_writer(path))
        with _running(opener(busy_timeout=0.1, setup=False)) as running:
            running.wait_until(lambda: re.search(f"{said}; waiting until it is back", caplog.text) is not None)
            with pytest.raises(TransportUnavailableError, match=said):
                sender.send([an_envelope(2)])
            nothing = list(running.handled)
            writer.close()
            running.wait_until(lambda: running.handled == ["id-1"])

    assert nothing == []


@pytest.mark.parametrize("words", [("drain",), ("dispatch", "image.created", "{}")])
def test_a_command_on_a_database_that_stays_locked_ends_with_the_remedy(
    opener: Opener, path: Path, an_envelope: Maker, words: tuple[str, ...]
) -> None:
    opener().send([an_envelope(1)])
    configure(path.parent, f'{{ url = "sqlite:///{path}", busy_timeout = 0.1 }}')

    with a_writer(path):
        done = relevo(path.parent, *words)

    assert done.returncode == UNAVAILABLE
    assert "is locked by another writer for longer than 0.1 s" in done.stderr
    assert "Traceback" not in done.stderr
