"""The note in a lock file: which process holds the lock, and when it should be done."""

from __future__ import annotations

from contextlib import suppress
from logging import getLogger
from typing import TYPE_CHECKING

import msgspec

from relevo._app.app import parts_of
from relevo._process_identity import ProcessIdentity, lives_here, this_process
from relevo._runner.host_lock import HostLock
from relevo._visible import visible
from relevo._worker.announcement import announced, on_this_host
from relevo.errors import RelevoError

if TYPE_CHECKING:
    from relevo._app.app import App
    from relevo._worker.run import RunOptions

_GRACE, _WITHOUT_LIMIT = 60.0, 3600.0
"""Seconds after which a run is late: after its own limits, and after its start if it has no limit."""

_AGAIN_AFTER = 3600.0
"""Seconds between two warnings of one late run, for all processes together."""

_log = getLogger("relevo.runner")


class LockNote(msgspec.Struct, frozen=True):
    """What the holder of a lock writes into it; a later release may add fields."""

    by: str
    """The identity of the process."""

    since: float
    """When it began, in seconds since the epoch."""

    due: float
    """When it should be done."""

    warned: float = 0.0
    """When another process last warned that it is late."""


def sign(lock: HostLock, app: App, options: RunOptions) -> None:
    """Write into the held *lock* that this process runs *app* with *options*, for those that find the lock taken."""
    now = app.clock.now()
    limit = _WITHOUT_LIMIT if options.max_seconds is None else options.max_seconds
    due = now + limit + app.execution.longest(app.listeners) + _GRACE
    lock.write(msgspec.json.encode(LockNote(by=str(this_process()), since=now, due=due)))


def described_holder(lock: HostLock, app: App, transport: str) -> str:
    """
    Return which process of this host holds *lock* of *transport*, and its listener, in words; empty if not known.

    A warning is logged if the process should have ended, and then once in an hour.
    """
    note = _read(lock)
    process = None if note is None else ProcessIdentity.parsed(note.by)
    if note is None or process is None or not lives_here(process):  # in a container, or of one that could not write it
        return ""
    now = app.clock.now()
    minutes = max(0.0, now - note.since) / 60
    listeners = ", ".join(dict.fromkeys(busy_here(app, transport).get(process.pid, ())))
    what = f"process {process.pid}, {f'in {listeners}, ' if listeners else ''}for {minutes:.0f} min"
    if now >= note.due and now - note.warned >= _AGAIN_AFTER:
        lock.write(msgspec.json.encode(msgspec.structs.replace(note, warned=now)))
        _log.warning(
            "a drain has held the lock %s for longer than its limits allow (%s); other drains of its queues handle "
            "nothing meanwhile; if its listener hangs, end it: kill -9 %d",
            lock.path,
            visible(what),
            process.pid,
        )
    return what


def _read(lock: HostLock) -> LockNote | None:
    try:
        return msgspec.json.decode(lock.read(), type=LockNote)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def busy_here(app: App, transport: str | None = None) -> dict[int, list[str]]:
    """
    Return the processes of this host that hold events, with their listeners, as far as workers announced them.

    Args:
        app: The application.

        transport: Only workers of this transport, or of what has the same coordinator.
    """
    found: dict[int, list[str]] = {}
    parts = parts_of(app)
    stores = parts.stores() if transport is None else parts.stores_of(transport)
    for coordinator in dict.fromkeys(filter(None, map(parts.coordinator, stores))):
        with suppress(RelevoError):
            said = announced(coordinator.workers().values())
            for each in filter(on_this_host, said):
                found.setdefault(each.pid, []).extend(held.listener for held in each.held if held.listener)
    return found
