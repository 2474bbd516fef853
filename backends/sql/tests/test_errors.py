"""What goes wrong outside the program: reported with a remedy, and nothing is lost or left half done."""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from relevo import Ack, App, DeadLetter, Envelope, Event
from relevo.errors import (
    ConfigurationError,
    SendError,
    SessionError,
    TransportClosedError,
    TransportError,
    TransportUnavailableError,
)
from relevo_sql import SqlTransport

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]


@contextmanager
def a_writer(path: Path) -> Iterator[None]:
    """Hold the write lock of *path*."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def execute(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql)


@contextmanager
def failing(transport: SqlTransport, moment: str, start: str, error: BaseException) -> Iterator[list[str]]:
    """Let every statement that begins with *start* fail, *moment* it is executed."""
    failed: list[str] = []

    def fail(*execution: Any) -> None:
        statement = execution[2]
        if statement.startswith(start):
            failed.append(statement)
            # As SQLAlchemy does, which not in all versions looks after what its listeners raise.
            raise sa.exc.OperationalError(statement, (), error) if isinstance(error, Exception) else error

    engine = transport._database.engine
    sa.event.listen(engine, f"{moment}_cursor_execute", fail)
    try:
        yield failed
    finally:
        sa.event.remove(engine, f"{moment}_cursor_execute", fail)


def received(transport: SqlTransport, lease: float = 60) -> list[str]:
    deliveries = transport.receive(["default"], limit=100, lease=lease, wait=0)
    return [d.envelope.id for d in deliveries if isinstance(d.envelope, Envelope)]


# --- whose error it is ----------------------------------------------------------------------------------


def test_every_error_names_the_transport_as_the_application_does(
    opener: Opener, path: Path, engine: sa.Engine, tmp_path: Path
) -> None:
    opener()
    transport = SqlTransport(engine, busy_timeout=0.3)
    app = App(transports={"orders": transport}, routes={"*": "orders"})
    event = Event("image.created")
    elsewhere = sa.create_engine(f"sqlite:///{tmp_path}/other.db")

    with app:
        with a_writer(path), pytest.raises(TransportUnavailableError, match='"orders"'):
            app.dispatch(event)
        broken = failing(transport, "after", "COMMIT", sqlite3.OperationalError("disk I/O error"))
        with broken, pytest.raises(SendError, match='"orders"'):
            app.dispatch(event)
        with Session(elsewhere) as session, pytest.raises(SessionError, match='"orders"'):
            app.dispatch(event, session=session)
        execute(path, "DROP TABLE relevo_event")
        with pytest.raises(ConfigurationError, match='"orders"'):
            app.dispatch(event)
    with pytest.raises(TransportClosedError, match='"orders"'):
        app.dispatch(event)
    assert repr(transport) == "<SqlTransport orders>"
    elsewhere.dispose()


# --- locks ----------------------------------------------------------------------------------------------


def test_a_writer_that_stays_is_named_after_the_time_that_was_set(
    opener: Opener, path: Path, an_envelope: Maker
) -> None:
    transport = opener(busy_timeout=0.3)
    start = time.monotonic()

    with a_writer(path), pytest.raises(TransportUnavailableError, match=r"shop\.db is locked .* than 0\.3 s") as caught:
        transport.send([an_envelope()])

    assert 0.25 < time.monotonic() - start < 25
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    assert received(transport) == []


def test_a_writer_that_ends_is_waited_for(opener: Opener, path: Path, an_envelope: Maker) -> None:
    transport = opener()
    sent = threading.Event()

    def send() -> None:
        transport.send([an_envelope()])
        sent.set()

    with a_writer(path):
        thread = threading.Thread(target=send)
        thread.start()
        assert not sent.wait(0.5)
    thread.join(60)

    assert sent.is_set()
    assert received(transport) == ["id-1"]


def test_a_look_that_finds_nothing_needs_no_lock(opener: Opener, path: Path) -> None:
    transport = opener(busy_timeout=0.3)

    with a_writer(path):
        assert received(transport) == []
        assert transport.stats("default").ready == 0
        assert transport.dead_letters(["default"]) == []


def test_closing_does_not_wait_for_a_writer(opener: Opener, path: Path, an_envelope: Maker) -> None:
    transport = opener(busy_timeout=600)
    raised: list[BaseException] = []
    begun = threading.Event()

    def send() -> None:
        try:
            transport.send([an_envelope()])
        except TransportError as error:
            raised.append(error)

    def note(_: Any, __: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("BEGIN"):
            begun.set()

    sa.event.listen(transport._database.engine, "before_cursor_execute", note)
    with a_writer(path):
        thread = threading.Thread(target=send)
        thread.start()
        assert begun.wait(60)
        start = time.monotonic()
        transport.close()
        took = time.monotonic() - start
        thread.join(60)

    assert took < 60
    assert [type(error) for error in raised] == [TransportClosedError]


def test_a_lease_begins_when_the_lock_has_come(opener: Opener, path: Path, an_envelope: Maker) -> None:
    transport = opener()
    transport.send([an_envelope()])
    claimed: list[str] = []

    with a_writer(path):
        thread = threading.Thread(target=lambda: claimed.extend(received(transport, lease=1.0)), daemon=True)
        thread.start()
        time.sleep(0.8)
        unlocked = time.monotonic()
    thread.join(30)
    assert not thread.is_alive(), "the receive does not end"
    while transport.stats("default").leased:
        assert time.monotonic() < unlocked + 30, "the lease does not end"
        time.sleep(0.01)
    ended = time.monotonic()

    assert claimed == ["id-1"]
    assert ended - unlocked > 0.9, "it began with the wait for the lock"


# --- sending --------------------------------------------------------------------------------------------


def test_a_commit_that_failed_is_unknown(opener: Opener, an_envelope: Maker) -> None:
    transport = opener()

    with (
        failing(transport, "after", "COMMIT", sqlite3.OperationalError("disk I/O error")),
        pytest.raises(SendError) as caught,
    ):
        transport.send([an_envelope(1), an_envelope(2)])
    transport.send([an_envelope(1), an_envelope(2)])

    assert (caught.value.sent, caught.value.refused, caught.value.unknown) == ((), (), (0, 1))
    assert received(transport) == ["id-1", "id-2"]


def test_a_database_that_cannot_grow_refuses_and_goes_on_settling(
    opener: Opener, an_envelope: Maker, path: Path
) -> None:
    transport = opener()
    transport.send([an_envelope(1)])
    (held,) = transport.receive(["default"], limit=1, lease=60, wait=0)
    transport._database.read(lambda c: c.exec_driver_sql("PRAGMA max_page_count = 1").scalar())

    with pytest.raises(SendError, match="free space") as caught:
        transport.send([an_envelope(number, body=b"x" * 100_000) for number in range(2, 5)])
    lost = transport.settle([(held, Ack())])
    transport._database.read(lambda c: c.exec_driver_sql("PRAGMA max_page_count = 1000000").scalar())
    transport.send([an_envelope(5)])

    assert caught.value.refused == (0, 1, 2)
    assert not lost
    assert received(transport) == ["id-5"]


@pytest.mark.parametrize("field", ["id", "source", "name", "queue"])
def test_text_that_no_database_holds_is_refused_and_its_batch_with_it(
    transport: SqlTransport, an_envelope: Maker, field: str
) -> None:
    with pytest.raises(SendError) as caught:
        transport.send([an_envelope(1), an_envelope(2, **{field: "\ud800"})])

    assert caught.value.refused == (0, 1)
    assert received(transport) == []


def test_a_statement_that_fails_leaves_nothing_of_its_batch(opener: Opener, an_envelope: Maker) -> None:
    transport = opener()

    with (
        failing(transport, "before", "INSERT", sqlite3.OperationalError("disk I/O error")),
        pytest.raises(TransportUnavailableError, match="disk I/O error"),
    ):
        transport.send([an_envelope()])

    assert received(transport) == []
    transport.send([an_envelope()])
    assert received(transport) == ["id-1"]


# --- settling -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["SELECT relevo_dead", "INSERT INTO relevo_dead", "DELETE FROM relevo_event"])
def test_a_dead_letter_that_cannot_be_written_leaves_its_source(opener: Opener, an_envelope: Maker, start: str) -> None:
    transport = opener()
    transport.send([an_envelope()])
    (held,) = transport.receive(["default"], limit=1, lease=60, wait=0)

    with (
        failing(transport, "before", start, sqlite3.OperationalError("disk I/O error")) as failed,
        pytest.raises(TransportUnavailableError),
    ):
        transport.settle([(held, DeadLetter(reason="broken"))])
    before = transport.dead_letters(["default"])
    lost = transport.settle([(held, DeadLetter(reason="broken"))])

    assert failed
    assert before == []
    assert not lost
    assert [entry.reason for entry in transport.dead_letters(["default"])] == ["broken"]


# --- files ----------------------------------------------------------------------------------------------


def test_a_database_that_may_only_be_read_can_be_looked_at(opener: Opener, path: Path, an_envelope: Maker) -> None:
    opener().send([an_envelope()])
    transport = opener(url=f"sqlite:///file:{path}?mode=ro&uri=true", setup=False)

    with pytest.raises(TransportUnavailableError, match="not writable"):
        transport.send([an_envelope(2)])
    with pytest.raises(TransportUnavailableError, match="not writable"):
        transport.receive(["default"], limit=1, lease=60, wait=0)

    assert transport.stats("default").ready == 1


def test_a_database_that_becomes_writable_is_written(opener: Opener, path: Path, an_envelope: Maker) -> None:
    transport = opener()
    transport._database.read(lambda c: c.exec_driver_sql("PRAGMA query_only = ON"))

    with pytest.raises(TransportUnavailableError, match="not writable"):
        transport.send([an_envelope(1)])
    transport.send([an_envelope(2)])

    assert received(transport) == ["id-2"]


def test_a_missing_directory_is_named(opener: Opener, tmp_path: Path) -> None:
    transport = opener(url=f"sqlite:///{tmp_path}/nowhere/shop.db", setup=False)

    for dry_run in (True, False):
        with pytest.raises(TransportUnavailableError, match=r"there is no folder .*/nowhere; create it"):
            transport.setup([], dry_run=dry_run)

    assert not list(tmp_path.iterdir())


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


@pytest.mark.parametrize("make, kind", [(os.mkdir, "a directory"), (os.mkfifo, "a pipe"), (_bind, "a special file")])
@pytest.mark.parametrize("form", ["{}", "file:{}?uri=true"])
def test_what_is_no_file_in_the_place_of_the_database_is_an_error_of_the_configuration(
    opener: Opener, path: Path, make: Callable[[Path], None], kind: str, form: str
) -> None:
    make(path)
    transport = opener(url=f"sqlite:///{form.format(path)}", setup=False)

    for use in (lambda: transport.setup([], dry_run=True), lambda: transport.setup([]), lambda: transport.stats("a")):
        with pytest.raises(ConfigurationError, match=rf"cannot be used: {path}: expected .*; got {kind}; fix"):
            use()


def test_a_file_that_is_no_database_is_refused(opener: Opener, path: Path) -> None:
    path.write_bytes(b"This is a text about databases, and not one. " * 100)

    with pytest.raises(ConfigurationError, match="not an SQLite database"):
        opener(setup=False).setup([])


def test_a_file_that_was_replaced_is_opened_anew(opener: Opener, path: Path, an_envelope: Maker) -> None:
    transport = opener()
    transport.send([an_envelope(1)])
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()

    with pytest.raises(TransportUnavailableError, match="there is no database"):
        transport.send([an_envelope(2)])
    opener()
    transport.send([an_envelope(3)])

    assert received(transport) == ["id-3"]


# --- the driver's own connection ------------------------------------------------------------------------


def test_a_connection_that_broke_is_replaced(opener: Opener, an_envelope: Maker) -> None:
    transport = opener()
    transport.send([an_envelope(1)])
    transport._database.read(lambda c: c.connection.driver_connection.close())  # type: ignore[union-attr]

    with pytest.raises(TransportUnavailableError):
        transport.send([an_envelope(2)])
    transport.send([an_envelope(3)])

    assert received(transport) == ["id-1", "id-3"]


def test_an_interrupted_call_leaves_no_transaction_open(opener: Opener, path: Path, an_envelope: Maker) -> None:
    transport = opener()

    with failing(transport, "after", "INSERT", KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        transport.send([an_envelope(1)])

    with closing(sqlite3.connect(path, timeout=0)) as other, other:
        other.execute("DELETE FROM relevo_event")
    transport.send([an_envelope(2)])
    assert received(transport) == ["id-2"]


def test_a_close_in_the_middle_of_a_call_of_the_same_thread_lets_it_end(opener: Opener, an_envelope: Maker) -> None:
    transport = opener()

    def close_as_a_signal_handler_does(*execution: Any) -> None:
        if execution[2].startswith("INSERT"):
            transport.close()

    engine = transport._database.engine
    sa.event.listen(engine, "before_cursor_execute", close_as_a_signal_handler_does)
    transport.send([an_envelope(1)])
    sa.event.remove(engine, "before_cursor_execute", close_as_a_signal_handler_does)

    with pytest.raises(TransportClosedError):
        transport.stats("default")
    assert received(opener()) == ["id-1"]
