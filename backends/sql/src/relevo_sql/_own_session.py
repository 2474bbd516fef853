"""
Find a session of the caller's own that keeps SQLite's write lock: waiting for it is futile.

A dispatch without ``session=`` waits for other writers. If the writer is a session of the same thread, or of the task
that awaits the dispatch, it cannot commit before the dispatch has returned.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import attrs
import sqlalchemy as sa

from relevo.backend import awaiting_task
from relevo_sql._dialect import Location

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, SessionTransaction


@attrs.frozen
class _Begun:
    """A transaction of a session on an SQLite database."""

    connection: ReferenceType[sa.Connection]
    changes: int
    """The rows that its connection had changed before."""

    process: int = attrs.field(factory=os.getpid, init=False)

    def has_written_to(self, location: Location) -> bool:
        """Return whether it is open and has changed rows of the database at *location*."""
        connection = self.connection()
        with suppress(sa.exc.SQLAlchemyError, AttributeError):  # closed meanwhile
            if connection is None or self.process != os.getpid():  # its session is the parent's
                return False
            driver: Any = connection.connection.driver_connection
            return bool(
                connection.in_transaction()
                and driver.in_transaction
                and driver.total_changes > self.changes
                and location.is_at(connection.engine.url.database or "")
            )
        return False


class _OfThread(threading.local):
    """The transactions that were begun in a thread."""

    def __init__(self) -> None:
        self.begun: list[_Begun] = []


_of_thread = _OfThread()
_of_task: WeakKeyDictionary[Any, list[_Begun]] = WeakKeyDictionary()
"""The transactions that were begun in each task, for a dispatch in another thread that the task awaits."""


def is_blocked_by_own_session(location: Location) -> bool:
    """Return whether a session of the caller has written to the database at *location* and has not committed."""
    task = awaiting_task()
    begun = [*_of_thread.begun, *(_of_task.get(task, ()) if task is not None else ())]
    return any(each.has_written_to(location) for each in begun)


@cache
def watch_sessions() -> None:
    """Note from now on in which thread and task each session begins a transaction on SQLite."""
    from sqlalchemy import event  # noqa: PLC0415 - only programs that use the ORM call this
    from sqlalchemy.orm import Session  # noqa: PLC0415 - as above

    event.listen(Session, "after_begin", _note)


def _note(_: Session, transaction: SessionTransaction, connection: sa.Connection) -> None:
    if connection.dialect.name != "sqlite" or transaction.nested:
        return
    driver: Any = connection.connection.driver_connection
    begun = _Begun(ref(connection), getattr(driver, "total_changes", sys.maxsize))
    _of_thread.begun = _with(_of_thread.begun, begun)
    if (task := _current_task()) is not None:
        _of_task[task] = _with(_of_task.get(task, []), begun)


def _with(known: list[_Begun], begun: _Begun) -> list[_Begun]:
    """Return *known* with *begun*, without those that are over."""
    found = [(each, each.connection()) for each in known]
    return [each for each, connection in found if connection is not None and not connection.closed] + [begun]


def _current_task() -> object:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        task: object = asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        return None
    return task
