"""LISTEN and NOTIFY of PostgreSQL: a send wakes the workers of other processes that wait."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from logging import getLogger
from typing import Any

import sqlalchemy as sa

from relevo import masked_url
from relevo.backend import ForkAware
from relevo_sql._dialect.server import readable

_log = getLogger("relevo.sql")

CHANNEL = "relevo"

FLAG = "relevo/waiting"
"""The row in ``relevo_lock`` that says, until its time, that a worker waits: a send notifies only then."""

_REFRESH = 10.0
"""Seconds between two extensions of the flag."""

_FLAG = (
    "INSERT INTO {locks} AS held (name, holder, receipt, until) "
    "VALUES (%s, '', '', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + %s) "
    "ON CONFLICT (name) DO UPDATE SET until = greatest(held.until, excluded.until)"
)

_AGAIN = 3.0
"""Seconds after a lost connection until the next attempt; meanwhile workers poll."""


class Notifications(ForkAware):
    """
    Calls *ring* when an event was sent, in a thread with a connection of its own.

    A notification can be missed: while the connection is lost, or if an event is sent at the very moment when a worker
    begins to wait. So a worker that waits still polls, but less often.

    Args:
        engine: Where the connection comes from.

        ring: Called after each notification, in the thread.

        locks: The name of ``relevo_lock`` in a statement of psycopg.
    """

    def __init__(self, engine: sa.Engine, ring: Callable[[], None], *, locks: str):
        self._engine = engine
        self._flag = _FLAG.format(locks=locks)
        self._ring = ring
        self._inherited: list[object] = []
        # Re-entrant, since a signal handler may close the transport in the thread that receives.
        self._turn = threading.RLock()
        self._thread: threading.Thread | None = None
        self._connection: sa.Connection | None = None
        self._words: tuple[socket.socket, socket.socket] | None = None  # Windows waits for no other kind of pipe
        self._is_over = False
        self._expected = 0.0
        self.is_listening = False
        """Whether notifications arrive now."""
        super().__init__()

    def expect(self) -> None:
        """Announce that this process waits for events; the first time this starts the thread."""
        before, self._expected = self._expected, time.monotonic()
        if self._is_over:
            return
        if self._thread is None:
            self._start()
        elif self._expected - before > _REFRESH:
            self._send(b"w")

    def close(self) -> None:
        """End the thread and close its connection; no call starts it again."""
        self._is_over = True
        self._stop()

    def before_fork(self) -> None:
        self._stop()

    def after_fork_in_child(self) -> None:
        if self._connection is not None:  # a fork that Python did not see; closing it would end the parent's
            self._inherited.append(self._connection)
        for end in self._words or ():
            end.close()
        self._turn = threading.RLock()
        self._thread = self._connection = self._words = None
        self.is_listening = False

    def _start(self) -> None:
        with self._turn:
            if self._thread is None and not self._is_over:
                words = socket.socketpair()
                thread = threading.Thread(target=self._run, args=words[:1], name="relevo-listen", daemon=True)
                thread.start()
                self._words, self._thread = words, thread
        if self._is_over:  # a signal handler has closed it meanwhile, or it found that it gets no notifications
            self._stop()

    def _stop(self) -> None:
        """End the thread and close its connection; :meth:`expect` may start another one."""
        with self._turn:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            self._send(b"q")
            if thread is not threading.current_thread():
                thread.join()
            assert self._words is not None  # noqa: S101 - opened with the thread
            for end in self._words:
                end.close()
            self._words = None

    def _send(self, word: bytes) -> None:
        """Send *word* to the thread, if there is one; it may have ended by itself."""
        with self._turn:
            if self._words is not None:
                self._words[1].send(word)

    def _run(self, words: socket.socket) -> None:
        """Listen until it is asked to quit."""
        while True:
            try:
                if not self._listen(words):
                    return
            except Exception as error:  # noqa: BLE001 - of the driver, or of what opens connections; workers poll
                _log.debug("no notifications for %g s: %s", _AGAIN, error)
            finally:
                self.is_listening = False
                self._close_connection()
            if readable(words.fileno(), timeout=_AGAIN) and b"q" in words.recv(64):
                return

    def _listen(self, words: socket.socket) -> bool:
        """Listen on a new connection; return whether to try again when it has ended."""
        self._connection = self._engine.connect()
        driver: Any = self._connection.connection.driver_connection
        driver.rollback()
        driver.autocommit = True
        if driver.execute("SELECT pg_backend_pid()").fetchone()[0] != driver.info.backend_pid:
            _log.warning(
                "%s is reached through a pool of connections (such as PgBouncer), which passes on no notifications; "
                "workers poll instead. Set notify = false, or name the server itself",
                masked_url(self._engine.url.render_as_string(hide_password=False)),
            )
            self._is_over = True
            return False
        driver.execute(f"LISTEN {CHANNEL}")
        flagged = 0.0
        while True:
            now = time.monotonic()
            is_expected = now - self._expected <= _REFRESH
            if is_expected and now - flagged >= _REFRESH:
                driver.execute(self._flag, (FLAG, round(2 * _REFRESH * 1_000_000)))
                flagged = now
                self.is_listening = True
                self._ring()  # what was sent before the flag was there
            timeout = max(0.0, flagged + _REFRESH - now) if is_expected else None
            found = readable(driver.fileno(), words.fileno(), timeout=timeout)
            if words.fileno() in found and b"q" in words.recv(64):
                return False
            if driver.fileno() in found:
                driver.pgconn.consume_input()
            notified = False
            while driver.pgconn.notifies() is not None:
                notified = True
            if notified:
                self._ring()

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.invalidate()  # it never goes back to a pool
                connection.close()
