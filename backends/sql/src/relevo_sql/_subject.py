"""Rows as subjects: identified by their primary key, and loaded by it when a listener needs them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy
import sqlalchemy as sa

from relevo import ConfigurationError, SubjectType
from relevo.errors import shown
from relevo_sql._subject_key import SubjectKey
from relevo_sql._subject_source import OwnSessions, RowSource, ScopedSessions

if TYPE_CHECKING:
    import sqlalchemy.orm  # noqa: TC004 - the other uses are of an import in a function
    from sqlalchemy.ext.asyncio import async_sessionmaker


def orm_subject(
    cls: type,
    sessions: Callable[[], sqlalchemy.orm.Session] | sqlalchemy.orm.scoped_session[Any] | async_sessionmaker[Any],
    *,
    type: str | None = None,  # noqa: A002 - the name that SubjectType uses
    aliases: Iterable[str] = (),
    batch: bool = False,
) -> SubjectType:
    """
    Return the mapped class *cls* as a kind of subject, for ``App(subjects=[…])`` or ``app.add_subject(…)``.

    The name of an object is its primary key: integers, text, UUIDs and dates, also of several columns. A value of
    another type that the database converts, such as a ``datetime`` for a date, is refused until the object was
    refreshed. An object has a name once its row was written, and loses it if that is rolled back, whatever its
    attributes contain; a detached or deleted object still has it. An object that is not written yet, such as before the
    flush, can be dispatched with ``session=``: it is named at the commit, which fails if the object was not written by
    then.

    If it is registered again, as in a cell of a notebook, for the same class or a class of the same name, it replaces
    the earlier one.

    Args:
        cls: A class that SQLAlchemy has mapped; instances of its subclasses are of this kind too.

        sessions: Makes a session to load with, such as a ``sessionmaker``. The object stays in it until the listener
            has ended, so that what it loads lazily can be loaded. No transaction is open between loads, and the
            session is never committed with changes: to change the object, load it in a session of your own, or
            ``merge`` it. A ``scoped_session`` is used as it is; the application removes it. With an
            ``async_sessionmaker`` each load opens a connection, and closes it: the object is detached, so what is not
            loaded with it cannot be loaded later. A ``sessionmaker`` on the same database is quicker.

        type: The type in the event. By default it is the name of the class, as in ``order_line`` for ``OrderLine``,
            and the name of the table is an alias.

        aliases: Earlier names of the type, so that events that are stored with them find their subject.

        batch: Load the objects of all events that a worker has received together with one query, when the first
            listener asks for one. An object may then be up to a second old when its listener gets it: it may lack what
            the listener of another event has changed since. A second listener of an event loads it again. Child
            processes handle one event at a time, so they load each object alone.

    Raises:
        ConfigurationError: *cls* is not mapped, *sessions* makes no session, such as an engine, a part of the key is
            of a type without exactly one form as text, or *batch* is set with a ``scoped_session``.
    """
    from sqlalchemy.orm import Mapper  # noqa: PLC0415 - imported already for a class that is mapped

    mapper: Mapper[Any] | None = sa.inspect(cls, raiseerr=False)
    if not isinstance(mapper, Mapper):
        raise ConfigurationError(f"orm_subject: {cls!r} is not a class that SQLAlchemy has mapped")
    source = _source(cls, SubjectKey.of(mapper), sessions)
    if batch and isinstance(source, ScopedSessions):
        raise ConfigurationError(
            f"orm_subject: batch=True does not work with a scoped_session, in which the objects of {cls.__name__} "
            f"would share what each listener changes; pass a sessionmaker, or leave batch= out"
        )
    return SubjectType(
        type=type or _in_snake_case(cls.__name__),
        cls=cls,
        name=source.key.text,
        load=source.load,
        release=source.release,
        load_many=source.load_many if batch else None,
        aliases=(*(() if type else _former_type(mapper)), *([aliases] if isinstance(aliases, str) else aliases)),
    )


def _source(cls: type, key: SubjectKey, sessions: Any) -> RowSource:
    """Return what loads instances of *cls* with *sessions*."""
    from sqlalchemy.orm import scoped_session  # noqa: PLC0415 - imported already for a class that is mapped

    asynchronous = sys.modules.get("sqlalchemy.ext.asyncio")
    if asynchronous and isinstance(sessions, asynchronous.async_sessionmaker):
        from relevo_sql._async_subject import AsyncSessions  # noqa: PLC0415 - others do not need asyncio

        return AsyncSessions(cls, key, sessions)
    if isinstance(sessions, scoped_session):
        return ScopedSessions(cls, key, sessions)
    if not callable(sessions) or (asynchronous and isinstance(sessions, asynchronous.async_scoped_session)):
        raise ConfigurationError(
            f"orm_subject: expected a source of sessions that load {cls.__name__}; got {shown(sessions)}; pass a "
            f"sessionmaker, such as sqlalchemy.orm.sessionmaker(engine), or an async_sessionmaker"
        )
    return OwnSessions(cls, key, sessions)


def _former_type(mapper: sqlalchemy.orm.Mapper[Any]) -> Sequence[str]:
    """Return the table of *mapper*, which was the type by default once; a subclass may be in that of its parent."""
    table = mapper.local_table
    return () if mapper.single or not isinstance(table, sa.Table) else (table.name,)


def _in_snake_case(name: str) -> str:
    """Return *name*, that of a class, as the type of its instances: ``http_log`` for ``HTTPLog``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
