"""A worker that waits on PostgreSQL is woken by the sends of other processes."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import pytest
import sqlalchemy as sa

from database_server import DatabaseServer
from relevo import Delivery, Envelope, SystemClock
from relevo_sql import SqlOptions, SqlTransport, _pause

Maker = Callable[..., Envelope]

LONG = 60.0
"""Seconds; a poll at this interval would not find an event in time."""


@pytest.fixture(autouse=True)
def _nothing_else_wakes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the second poll be late, and the flag be extended seldom: both would find an event too."""
    monkeypatch.setattr(_pause, "_FIRST", LONG)
    monkeypatch.setattr("relevo_sql._dialect.notifications._REFRESH", LONG)


def opened(url: str, **options: Any) -> SqlTransport:
    transport = SqlTransport.open(SqlOptions(url=url, poll=LONG, **options), name="main", clock=SystemClock())
    transport.setup([])
    return transport


@pytest.fixture
def waiting(postgresql_database: str) -> Iterator[SqlTransport]:
    """Return a transport that polls once a minute at most."""
    with closing(opened(postgresql_database)) as transport:
        yield transport


@pytest.fixture
def sending(postgresql_database: str) -> Iterator[SqlTransport]:
    with closing(opened(postgresql_database)) as transport:
        yield transport


@contextmanager
def receive(transport: SqlTransport) -> Iterator[Future[Any]]:
    """Receive in another thread, which waits for an event."""
    with ThreadPoolExecutor(1) as threads:
        yield threads.submit(transport.receive, ["default"], limit=10, lease=60, wait=LONG)


def names(deliveries: list[Delivery]) -> list[str]:
    found = [delivery.envelope for delivery in deliveries]
    return [envelope.id for envelope in found if isinstance(envelope, Envelope)]


def await_(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG / 2
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_listening(transport: SqlTransport) -> bool:
    notifications = transport._notifications
    return notifications is not None and notifications.is_listening


def connection_of(transport: SqlTransport) -> object:
    """Return the connection on which it listens, if it has one."""
    notifications: Any = transport._notifications
    return notifications._connection


def polls_seldom(transport: SqlTransport) -> None:
    """Wait until a poll that found nothing would be followed by a long pause."""
    await_(lambda: is_listening(transport))
    time.sleep(0.5)  # it polls once more when it listens; this waits for no event


def test_a_send_of_another_connection_ends_a_wait(
    waiting: SqlTransport, sending: SqlTransport, an_envelope: Maker
) -> None:
    with receive(waiting) as received:
        polls_seldom(waiting)

        sending.send([an_envelope(1)])

        assert names(received.result(LONG / 2)) == ["id-1"]


def test_events_of_a_session_end_a_wait_when_it_commits(
    waiting: SqlTransport, sending: SqlTransport, postgresql_database: str, an_envelope: Maker
) -> None:
    engine = sa.create_engine(sa.make_url(postgresql_database).set(drivername="postgresql+psycopg"))
    with receive(waiting) as received:
        polls_seldom(waiting)

        with engine.begin() as connection:
            sending.bound_to(connection).send(lambda: [an_envelope(1)])
            assert not received.done()

        assert names(received.result(LONG / 2)) == ["id-1"]
    engine.dispose()


def test_a_process_that_sends_to_two_databases_wakes_the_workers_of_both(
    waiting: SqlTransport, sending: SqlTransport, postgresql_databases: DatabaseServer, an_envelope: Maker
) -> None:
    with postgresql_databases.fresh_database() as url, closing(opened(url)) as elsewhere, receive(waiting) as received:
        polls_seldom(waiting)

        elsewhere.send([an_envelope(1)])
        sending.send([an_envelope(2)])

        assert names(received.result(LONG / 2)) == ["id-2"]


def test_it_listens_again_after_its_connection_was_ended(
    waiting: SqlTransport, sending: SqlTransport, postgresql_database: str, an_envelope: Maker
) -> None:
    engine = sa.create_engine(sa.make_url(postgresql_database).set(drivername="postgresql+psycopg"))
    with receive(waiting) as received:
        await_(lambda: is_listening(waiting))
        first = connection_of(waiting)

        with engine.begin() as connection:
            ended = connection.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND query LIKE 'INSERT INTO relevo_lock%'"
                )
            ).all()
        await_(lambda: connection_of(waiting) not in (None, first))
        polls_seldom(waiting)
        sending.send([an_envelope(1)])

        assert ended == [(True,)]
        assert names(received.result(LONG / 2)) == ["id-1"]
    engine.dispose()


def test_a_close_ends_the_thread(waiting: SqlTransport) -> None:
    before = set(threading.enumerate())
    with receive(waiting) as received:
        await_(lambda: is_listening(waiting))
        (thread,) = [each for each in threading.enumerate() if each not in before and each.name == "relevo-listen"]

        waiting.close()

        with suppress(Exception):
            received.result(LONG / 2)
        assert not thread.is_alive()


def test_a_receive_beside_a_close_does_not_start_the_thread_again(waiting: SqlTransport) -> None:
    before = set(threading.enumerate())
    notifications = waiting._notifications
    assert notifications is not None
    with receive(waiting):
        await_(lambda: is_listening(waiting))
        waiting.close()

    notifications.expect()  # as a receive does that began before the close

    assert set(threading.enumerate()) <= before


def test_it_listens_in_a_process_with_many_open_files(
    waiting: SqlTransport, sending: SqlTransport, an_envelope: Maker
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard) if hard >= 0 else 4096, hard))
    with ExitStack() as files:
        files.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while files.enter_context(open(os.devnull)).fileno() < 1100:  # noqa: PTH123 - select() knows those below 1024
            pass

        with receive(waiting) as received:
            polls_seldom(waiting)
            sending.send([an_envelope(1)])

            assert names(received.result(LONG / 2)) == ["id-1"]


def test_the_module_can_be_imported_on_a_system_without_poll() -> None:
    code = (
        "import select\n"
        "for name in ('poll', 'epoll', 'kqueue', 'devpoll', 'POLLIN'):\n"
        "    vars(select).pop(name, None)\n"
        "import relevo_sql._dialect.postgresql"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_the_child_of_a_fork_listens_on_its_own(
    waiting: SqlTransport, sending: SqlTransport, an_envelope: Maker
) -> None:
    with receive(waiting) as received:
        polls_seldom(waiting)
        sending.send([an_envelope(1)])
        assert names(received.result(LONG / 2)) == ["id-1"]

    here, there = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            with receive(waiting) as received:
                polls_seldom(waiting)
                os.write(there, b"w")
                status = 0 if names(received.result(LONG / 2)) == ["id-2"] else 2
        finally:
            os._exit(status)
    os.close(there)  # so that it ends with the child
    is_waiting = os.read(here, 1)
    sending.send([an_envelope(2)])
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(here)

    assert (is_waiting, status) == (b"w", 0)


def test_wakeup_is_claimed_if_the_database_notifies(postgresql_database: str) -> None:
    for notify in (True, False):
        with closing(opened(postgresql_database, notify=notify)) as transport:
            assert transport.capabilities.wakeup is notify
    assert not SqlTransport.capabilities.wakeup


def test_without_notifications_there_is_no_thread(postgresql_database: str, an_envelope: Maker) -> None:
    before = set(threading.enumerate())
    with closing(opened(postgresql_database, notify=False)) as transport:
        transport.receive(["default"], limit=1, lease=60, wait=0.05)

        assert transport._notifications is None
        assert set(threading.enumerate()) <= before


def test_nobody_is_notified_while_no_worker_waits(
    sending: SqlTransport, postgresql_database: str, an_envelope: Maker
) -> None:
    engine = sa.create_engine(sa.make_url(postgresql_database).set(drivername="postgresql+psycopg"))
    with engine.connect() as listening:
        driver: Any = listening.connection.driver_connection
        driver.autocommit = True
        driver.execute("LISTEN relevo")

        sending.send([an_envelope(1)])
        driver.execute("NOTIFY relevo, 'the last'")

        assert [found.payload for found in driver.notifies(timeout=LONG, stop_after=1)] == ["the last"]
    engine.dispose()


def test_behind_a_pool_of_connections_it_polls_and_says_so(
    postgresql_database: str, an_envelope: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    url = sa.make_url(postgresql_database)
    with pool(url.port or 5432) as port:
        behind = url.set(port=port).update_query_dict({"sslmode": "disable", "gssencmode": "disable"})
        shown = behind.render_as_string(hide_password=False)
        with closing(opened(shown)) as transport:

            def says_so() -> bool:  # a receive that ends before the connection is there may end that too
                transport.receive(["default"], limit=1, lease=60, wait=0.2)
                return "a pool of connections" in caplog.text

            await_(says_so)
            transport.receive(["default"], limit=1, lease=60, wait=0.05)

            assert not is_listening(transport)
    assert caplog.text.count("a pool of connections") == 1


@contextmanager
def pool(server: int) -> Iterator[int]:
    """Pass connections on, with other process ids than the server's, as PgBouncer does."""
    listening = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []
    sockets = [listening]

    def passes(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                key = data.find(b"K\0\0\0\x0c")  # BackendKeyData
                target.sendall(data if key < 0 else data[: key + 5] + b"\0\0\0\x01" + data[key + 9 :])
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def accepts() -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                behind = socket.create_connection(("127.0.0.1", server))
                sockets.extend((client, behind))
                for ends in ((client, behind), (behind, client)):
                    threads.append(threading.Thread(target=passes, args=ends, daemon=True))
                    threads[-1].start()

    accepting = threading.Thread(target=accepts, daemon=True)
    accepting.start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    accepting.join()
    for thread in threads:
        thread.join()
    for each in sockets:
        each.close()
