"""What an application commits with SQLAlchemy, while a test watches."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from datetime import date, datetime, time
from functools import wraps
from typing import Any
from uuid import UUID
from warnings import warn
from weakref import WeakKeyDictionary, WeakSet

import attrs

from relevo._listener import journal
from relevo.errors import described
from relevo.testing._effect import Rows, TableName
from relevo.testing._place import frames, place

_WRITE = re.compile(
    r"\b(?:INSERT(?:\s+OR\s+\w+|\s+IGNORE)?\s+INTO|REPLACE\s+INTO|UPDATE|DELETE\s+FROM|MERGE\s+INTO)\s+([\w.\"`\[\]]+)",
    re.IGNORECASE,
)
_QUERY = re.compile(r"\s*\(?\s*SELECT\b", re.IGNORECASE)
_VOLATILE = re.compile(
    r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}|\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d)?.*)?", re.IGNORECASE
)
"""A random id or a time, as some drivers take it."""

_CONSTRUCTORS = (list, dict, set, tuple, str, bytes, int, float, bool)
"""Called without arguments, each returns the same value each time."""

_TIMES = (date, datetime, time)

_committing: ContextVar[list[Commit] | None] = ContextVar("relevo_testing_committing", default=None)
"""The commits of connections in the commit of a session that runs in this thread or task."""


@attrs.frozen(kw_only=True)
class Commit:
    """One commit of the application, or of relevo on its behalf."""

    content: str
    """What it wrote: the statements with their values, without times and random ids."""

    where: str
    """The file and line of the application."""

    is_of_application: bool
    """Whether the application committed itself, and not relevo in the transaction of a listener."""


@attrs.frozen
class _Write:
    name: str
    table: Any
    """The table as SQLAlchemy has it, or its name as it stands in the statement, in quotes if need be."""

    content: str


@attrs.define(eq=False, repr=False)
class WatchedDatabases:
    """
    The databases that the application writes to with SQLAlchemy, with what is committed there.

    Args:
        refuse: Called before each commit; raises if there may be none.

        committed: Called after each commit that wrote something; it may raise.

        unread: Columns that are not compared, each as ``table.column``.
    """

    _refuse: Callable[[], None]
    _committed: Callable[[Commit], None]
    _unread: Collection[str] = ()
    sites: dict[TableName, str] = attrs.field(factory=dict, init=False)
    """Where each table was last written to."""

    _tables: dict[TableName, Counter[str]] = attrs.field(factory=dict, init=False)
    _engines: dict[object, int] = attrs.field(factory=dict, init=False)
    _begun: WeakSet[Any] = attrs.field(factory=WeakSet, init=False)
    _writes: WeakKeyDictionary[Any, dict[TableName, list[_Write]]] = attrs.field(factory=WeakKeyDictionary, init=False)

    def rows(self) -> Rows:
        """Return what the tables held at the last commit, of those that were written to."""
        return dict(self._tables)

    def abandon(self) -> None:
        """Roll back the sessions that are still in a transaction, as the end of their process would."""
        begun, self._begun = [*self._begun], WeakSet()
        for session in begun:
            if session.in_transaction() and not session.get_bind().dialect.is_async:
                session.rollback()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """
        Watch every engine of this process while the block runs.

        SQLAlchemy has no event after a commit, so the methods that end in one are wrapped: that of a transaction; that
        of a session, which has more to do after the commit of its connection, such as to post events that were
        dispatched with it; and the end of a ``with`` block, which would roll back if the commit in it raised.
        """
        sqlalchemy: Any = sys.modules.get("sqlalchemy")
        if sqlalchemy is None:  # then the application does not use it
            yield
            return
        engine = sqlalchemy.engine
        orm: Any = sys.modules.get("sqlalchemy.orm.session")
        events = [
            (engine.Engine, "after_cursor_execute", self._note),
            (engine.Engine, "rollback", self._forget),
        ]
        wrapped: list[tuple[Any, str, Callable[[Callable[..., Any]], Callable[..., Any]]]] = [
            (engine.Transaction, "commit", self._commit(engine.RootTransaction)),
            (engine.util.TransactionalContext, "__exit__", self._afterwards),
        ]
        if orm is not None:
            events.append((orm.Session, "after_begin", self._note_begin))
            wrapped.append((orm.SessionTransaction, "commit", self._afterwards))
        with ExitStack() as undo:
            for target, name, function in events:
                sqlalchemy.event.listen(target, name, function)
                undo.callback(sqlalchemy.event.remove, target, name, function)
            for owner, name, wrap in wrapped:
                undo.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, wrap(getattr(owner, name)))
            yield

    # --- statements ------------------------------------------------------------------------------------

    def _note(self, connection: Any, _: Any, statement: str, parameters: Any, context: Any, __: Any) -> None:
        if (written := _written(statement, context)) is None:
            return
        name, table = written
        key = self._engines.setdefault(_database_of(connection.engine), len(self._engines)), name
        self.sites[key] = place()
        write = _Write(name, table, f"{statement} {_stable(parameters)}")
        self._writes.setdefault(connection, {}).setdefault(key, []).append(write)

    def _note_begin(self, session: Any, _: object, __: object) -> None:
        self._begun.add(session)

    def _forget(self, connection: Any) -> None:
        self._writes.pop(connection, None)

    # --- commits ---------------------------------------------------------------------------------------

    def _commit(self, root: Any) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
        """Return a decorator for the commit of a transaction of a connection; *root* is the class of outer ones."""

        def wrap(commit: Callable[[Any], None]) -> Callable[[Any], None]:
            @wraps(commit)
            def watched(transaction: Any) -> None:
                if not isinstance(transaction, root):  # a savepoint
                    commit(transaction)
                    return
                self._refuse()
                connection = transaction.connection
                commit(transaction)
                if written := self._writes.pop(connection, None):
                    self._end(self._commit_of(connection, written))

            return watched

        return wrap

    def _afterwards(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return *method*, in which commits are reported when it has ended."""

        @wraps(method)
        def watched(*arguments: Any, **options: Any) -> Any:
            if _committing.get() is not None:  # one of them inside another one
                return method(*arguments, **options)
            commits: list[Commit] = []
            token = _committing.set(commits)
            try:
                result = method(*arguments, **options)
            finally:
                _committing.reset(token)
            for each in commits:
                self._committed(each)
            return result

        return watched

    def _end(self, commit: Commit) -> None:
        commits = _committing.get()
        if commits is None:
            self._committed(commit)
        else:
            commits.append(commit)

    def _commit_of(self, connection: Any, written: dict[TableName, list[_Write]]) -> Commit:
        for key, writes in written.items():
            rows = _read(connection, writes[-1], self._unread)
            if rows is not None:
                self._tables[key] = rows
        return Commit(
            content="\n".join(each.content for writes in written.values() for each in writes),
            where=place(),
            is_of_application=not any(frame.f_globals.get("__name__") == journal.__name__ for frame in frames()),
        )


def _database_of(engine: Any) -> object:
    """Return what is the same for all engines of one database; one in memory belongs to its pool."""
    url = engine.url
    is_private = engine.dialect.name == "sqlite" and ("memory" in str(url) or not url.database)
    return id(engine.pool) if is_private else str(url)


def _written(statement: str, context: Any) -> tuple[str, Any] | None:
    """Return the table that *statement* writes to, and what SQLAlchemy knows of it."""
    compiled = getattr(context, "compiled", None)
    table = getattr(getattr(compiled, "statement", None), "table", None)
    if compiled is not None and (context.isinsert or context.isupdate or context.isdelete) and hasattr(table, "c"):
        return str(getattr(table, "fullname", table)), table
    if _QUERY.match(statement) or not (found := _WRITE.search(statement)):
        return None
    return re.sub(r'["`\[\]]', "", found[1]), found[1]


def _read(connection: Any, write: _Write, unread: Collection[str]) -> Counter[str] | None:
    """
    Return the rows of the table of *write*; ``None`` if it cannot be read.

    The driver's own connection is used: a connection of SQLAlchemy's would begin a transaction, and one from the pool
    may be the same one, of which the end would roll back what others write.
    """
    preparer = connection.dialect.identifier_preparer
    name = write.table if isinstance(write.table, str) else preparer.format_table(write.table)
    raw = connection.connection
    cursor = raw.cursor()
    try:
        cursor.execute(f"SELECT * FROM {name}")  # noqa: S608 - the name is the application's own
        columns = [each[0] for each in cursor.description]
        skipped = {f"{write.name}.{each}" for each in _filled_in(write.table)} | {*unread}
        read = [index for index, each in enumerate(columns) if f"{write.name}.{each}" not in skipped]
        return Counter(
            ", ".join(f"{columns[index]}={_shown(row[index])}" for index in read if not isinstance(row[index], _TIMES))
            for row in cursor.fetchall()
        )
    except Exception as error:  # noqa: BLE001 - of any driver: a table that was dropped, or that may not be read
        warn(f"the table {write.name} is not compared, since it cannot be read: {described(error)}", stacklevel=2)
        return None
    finally:
        cursor.close()
        raw.rollback()  # the query has begun a transaction in most drivers


def _shown(value: object) -> str:
    """Return *value* as text; some drivers return bytes as a view of memory, whose text differs each time."""
    return repr(bytes(value) if isinstance(value, memoryview) else value)


def _filled_in(table: Any) -> Iterator[str]:
    """Return the columns whose value differs in each run of a listener that is right: numbers, times, random ids."""
    for column in getattr(table, "c", ()):
        if (
            column is getattr(table, "autoincrement_column", None)
            or column.foreign_keys
            or _is_time(column.type)
            or _is_called(column.default)
            or _is_called(column.onupdate)
            or "(" in str(getattr(column.server_default, "arg", ""))
        ):
            yield column.name


def _is_called(default: Any) -> bool:
    """Return whether *default* of a column is not the same value for each row; one made by ``list`` or ``int`` is."""
    if default is None or default.is_scalar:
        return False
    function = getattr(default, "arg", None)
    return getattr(function, "__wrapped__", function) not in _CONSTRUCTORS


def _is_time(kind: Any) -> bool:
    try:
        return issubclass(kind.python_type, _TIMES)
    except NotImplementedError:
        return False


def _stable(value: Any) -> str:
    """Return *value* as text, without what differs in each run: times and random ids."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_stable(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(_stable, value)) + ")"
    if isinstance(value, (*_TIMES, UUID)) or (isinstance(value, str) and _VOLATILE.fullmatch(value)):
        return f"<{type(value).__name__}>"
    return repr(value)
