"""Rows as subjects: identified by their primary key, and loaded by it when a listener needs them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from logging import getLogger
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import sqlalchemy
import sqlalchemy as sa

from relevo import ConfigurationError, SubjectType
from relevo.errors import shown
from relevo_sql._subject_key import Key, SubjectKey

if TYPE_CHECKING:
    import sqlalchemy.orm  # noqa: TC004 - the other uses are of an import in a function

_log = getLogger("relevo.sql")

_NO_SUCH_VALUE = (OverflowError, sa.exc.DataError)
"""Raised by drivers and databases for a value that the type of a column cannot have, such as a larger number."""


def orm_subject(
    cls: type,
    sessions: Callable[[], sqlalchemy.orm.Session] | sqlalchemy.orm.scoped_session[Any],
    *,
    type: str | None = None,  # noqa: A002 - the name that SubjectType uses
    aliases: Iterable[str] = (),
) -> SubjectType:
    """
    Return the mapped class *cls* as a kind of subject, for ``App(subjects=[…])`` or ``app.add_subject(…)``.

    The name of an object is its primary key: integers, text, UUIDs and dates, also of several columns. An object has a
    name once its row was written, and loses it if that is rolled back, whatever its attributes contain; a detached or
    deleted object still has it. An object that is not written yet, such as before the flush, can be dispatched with
    ``session=``: it is named at the commit, which fails if the object was not written by then.

    If it is registered again, as in a cell of a notebook, for the same class or a class of the same name, it replaces
    the earlier one.

    Args:
        cls: A class that SQLAlchemy has mapped; instances of its subclasses are of this kind too.

        sessions: Makes a session to load with, such as a ``sessionmaker``. The object stays in it until the listener
            has ended, so that what it loads lazily can be loaded. No transaction is open between loads, and the
            session is never committed with changes: to change the object, load it in a session of your own, or
            ``merge`` it. A ``scoped_session`` is used as it is; the application removes it.

        type: The type in the event. By default it is the name of the class, as in ``order_line`` for ``OrderLine``,
            and the name of the table is an alias.

        aliases: Earlier names of the type, so that events that are stored with them find their subject.

    Raises:
        ConfigurationError: *cls* is not mapped, *sessions* makes no session, such as an engine, or a part of
            the key is of a type without exactly one form as text.
    """
    from sqlalchemy.orm import Mapper, scoped_session  # noqa: PLC0415 - imported already for a class that is mapped

    mapper: Mapper[Any] | None = sa.inspect(cls, raiseerr=False)
    if not isinstance(mapper, Mapper):
        raise ConfigurationError(f"orm_subject: {cls!r} is not a class that SQLAlchemy has mapped")
    if not _makes_sessions(sessions):
        raise ConfigurationError(
            f"orm_subject: expected a source of sessions that load {cls.__name__}; got {shown(sessions)}; "
            f"pass a sessionmaker, such as sqlalchemy.orm.sessionmaker(engine)"
        )
    key_of = SubjectKey.of(mapper)

    def load(text: str) -> object | None:
        key = key_of.parsed(text)
        if key is None:
            return None
        if isinstance(sessions, scoped_session):
            return _get(sessions, cls, key_of, key)
        return _load(cls, key_of, key, sessions())

    load.__qualname__ = "load_of_orm_subject"  # by which a subject type is known when its cell is run again
    return SubjectType(
        type=type or _in_snake_case(cls.__name__),
        cls=cls,
        name=key_of.text,
        load=load,
        release=_release,
        aliases=(*(() if type else _former_type(mapper)), *([aliases] if isinstance(aliases, str) else aliases)),
    )


def _former_type(mapper: sqlalchemy.orm.Mapper[Any]) -> Sequence[str]:
    """Return the table of *mapper*, which was the type by default once; a subclass may be in that of its parent."""
    table = mapper.local_table
    return () if mapper.single or not isinstance(table, sa.Table) else (table.name,)


_sessions: WeakKeyDictionary[Any, sqlalchemy.orm.Session] = WeakKeyDictionary()
"""The sessions of loaded objects, by their states: an object does not keep its session alive."""


def _get(
    session: sqlalchemy.orm.Session | sqlalchemy.orm.scoped_session[Any], cls: type, key_of: SubjectKey, key: Key
) -> object | None:
    """Return the object in *session* that has *key*; ``None`` if there is none."""
    try:
        found: object | None = session.get(cls, key)
    except _NO_SUCH_VALUE:
        return None
    return found if found is not None and key_of.is_of(found, key) else None


def _load(cls: type, key_of: SubjectKey, key: Key, session: sqlalchemy.orm.Session) -> object | None:
    """Return the object with *key*, which stays in *session*; close *session* and return ``None`` if there is none."""
    try:
        session.autoflush = session.expire_on_commit = False
        found = _get(session, cls, key_of, key)
        session.commit()  # ends the transaction, and keeps what was loaded
    except BaseException:
        session.close()
        raise
    if found is None:
        session.close()
    else:
        _sessions[sa.inspect(found)] = session
    return found


def _release(instance: object) -> None:
    """Close the session of *instance*, unless it is scoped; log its changes, which are lost."""
    state = sa.inspect(instance)
    session = _sessions.pop(state, None)
    if session is None:
        if state.modified:
            _log.warning(
                "a listener changed call.subject (%s) and did not commit it, so the changes are lost, or another "
                "listener commits them: commit the scoped_session in the listener",
                type(instance).__name__,
            )
        return
    changed = {type(each).__name__ for each in session.dirty if session.is_modified(each)}
    if changed or session.new or session.deleted:
        _log.warning(
            "a listener changed what call.subject had loaded (%s), and the changes are lost: load it in a session of "
            "your own, or merge it into one, and commit that",
            ", ".join(sorted(changed)) or type(instance).__name__,
        )
    session.close()


def _makes_sessions(given: object) -> bool:
    """Return whether *given* can make sessions; asynchronous ones cannot be used in synchronous listeners."""
    asynchronous = sys.modules.get("sqlalchemy.ext.asyncio")
    makers = (asynchronous.async_sessionmaker, asynchronous.async_scoped_session) if asynchronous else ()
    return callable(given) and not isinstance(given, makers)


def _in_snake_case(name: str) -> str:
    """Return *name*, that of a class, as the type of its instances: ``http_log`` for ``HTTPLog``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
