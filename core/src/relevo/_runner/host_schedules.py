"""Up to when schedules have fired, in a file of this host: for a transport without a coordinator."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import attrs

from relevo._app.app import parts_of
from relevo._app.schedules import AloneLedger, store_of
from relevo._runner.host_lock import HostLock
from relevo._runner.lock_path import schedule_file
from relevo._transport.schedule_store import Firing, ScheduleStore
from relevo.errors import TransportUnavailableError

if TYPE_CHECKING:
    from relevo._app.app import App
    from relevo._dispatch.sender import Sender

T = TypeVar("T")

_CREATE = "CREATE TABLE IF NOT EXISTS fired (name TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID"
_READ = "SELECT name, until FROM fired WHERE name IN (SELECT value FROM json_each(?))"
_FIRST = "INSERT OR IGNORE INTO fired (name, until) VALUES (?, ?)"
_NEXT = "UPDATE fired SET until = ? WHERE name = ? AND until = ?"


class HostScheduleStore(ScheduleStore):
    """
    Stores up to when schedules have fired in a file of SQLite; it stores no events.

    Args:
        name: The name of the transport, for errors.

        path: The file; it is created at the first use.
    """

    def __init__(self, name: str, path: Path):
        self._name = name
        self.path = path

    def fired(self, names: Sequence[str]) -> Mapping[str, int]:
        from json import dumps  # noqa: PLC0415 - few have such a store

        found = self._run(lambda connection: connection.execute(_READ, (dumps([*names]),)).fetchall())
        return {name: until if isinstance(until, int) else -1 for name, until in found}  # it may be no number

    def fire(self, firings: Sequence[Firing], *, relay_to: str | None = None) -> Collection[str]:
        def fire(connection: sqlite3.Connection) -> list[str]:
            return [each.name for each in firings if _advance(connection, each)]

        return self._run(fire)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with closing(sqlite3.connect(self.path, timeout=30.0, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(_CREATE)
                result = work(connection)
                connection.execute("COMMIT")
                return result
        except sqlite3.Error as error:
            raise TransportUnavailableError(self._name, f"the schedules in {self.path}: {error}") from error


def _advance(connection: sqlite3.Connection, firing: Firing) -> bool:
    if firing.fired is None:
        return connection.execute(_FIRST, (firing.name, firing.until)).rowcount > 0
    return connection.execute(_NEXT, (firing.until, firing.name, firing.fired)).rowcount > 0


@attrs.frozen(eq=False, repr=False)
class HostLedger(AloneLedger):
    """
    Sends the events, and then stores in a file of this host up to when their schedules have fired.

    One worker of this host at a time does so: a lock of the kernel is free as soon as its holder has died.

    Args:
        lock: The lock.
    """

    _lock: HostLock = attrs.field(kw_only=True)

    @contextmanager
    def holding(self) -> Iterator[bool]:
        may_fire = self._lock.acquire()
        try:
            yield may_fire
        finally:
            self._lock.release()


def host_ledger(app: App, name: str, sender: Sender) -> HostLedger:
    """Return where the schedules of the transport *name* fire if it has no coordinator."""
    path = schedule_file(app, name)
    return HostLedger(
        HostScheduleStore(name, path), sender, app.source, app.clock, lock=HostLock(path.with_suffix(".lock"))
    )


def schedule_store(app: App, name: str) -> ScheduleStore:
    """Return where it is stored up to when the schedules of the transport *name* have fired."""
    return store_of(name, parts_of(app)) or HostScheduleStore(name, schedule_file(app, name))


def fired_on_this_host(app: App, name: str) -> str | None:
    """Return that the schedules of the transport *name* are fired by each host, if they are."""
    if store_of(name, parts_of(app)) is not None:
        return None
    return (
        f'the schedules of "{name}" are fired by one worker of this host, and so by one of each other host that has a '
        f'worker of "{name}": it has no coordinator; give it one in a database, as in coordinator = "sqlite:///shop.db"'
    )
