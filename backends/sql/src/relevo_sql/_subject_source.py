"""Where the rows come from that are subjects: sessions of the application."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from logging import getLogger
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import attrs
import sqlalchemy as sa

from relevo import ConfigurationError
from relevo.errors import shown
from relevo_sql._subject_key import Key, SubjectKey

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, scoped_session

_log = getLogger("relevo.sql")


@attrs.define(eq=False)
class RowSource(ABC):
    """Loads the instances of a mapped class."""

    _cls: type
    key: SubjectKey

    def load(self, text: str) -> object | None:
        """Return the instance whose key is *text*; ``None`` if there is none."""
        key = self.key.parsed(text)
        return None if key is None else self._loaded(key)

    @abstractmethod
    def _loaded(self, key: Key) -> object | None: ...

    def load_many(self, texts: Sequence[str]) -> Mapping[str, object]:
        """Return the instances that have the keys *texts*, each apart from the others, by their keys; here none."""
        return {}

    @abstractmethod
    def release(self, instance: object) -> None:
        """End the use of *instance*, and log its changes if they are lost."""

    def _in(self, session: Session | scoped_session[Any], key: Key) -> object | None:
        """Return the object in *session* that has *key*; ``None`` if there is none."""
        try:
            found: object | None = session.get(self._cls, key)
        except (OverflowError, sa.exc.DBAPIError) as error:
            if _refuses_value(error):
                return None
            raise
        return found if found is not None and self.key.is_of(found, key) else None

    def _all_in(self, session: Session, texts: Sequence[str]) -> Mapping[str, object]:
        """Return the objects in *session* that have the keys *texts*, by their keys."""
        keys = [key for key in map(self.key.parsed, texts) if key is not None]
        try:
            rows: Sequence[object] = session.scalars(sa.select(self._cls).where(self.key.among(keys))).unique().all()
        except (OverflowError, sa.exc.DBAPIError) as error:
            if _refuses_value(error):
                return {}  # each is loaded alone
            raise
        # Text that is another form of a key, as a database may find it, is not in it, and is loaded alone.
        return {str(self.key.text(row)): row for row in rows}


_sessions: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()
"""The sessions of loaded objects, by their states: an object does not keep its session alive."""


@attrs.define(eq=False)
class OwnSessions(RowSource):
    """Loads each object with a session of its own, which is open until the object is released."""

    _make: Callable[[], Session]

    def _loaded(self, key: Key) -> object | None:
        session = self._opened()
        try:
            found = self._in(session, key)
            session.commit()  # ends the transaction, and keeps what was loaded
        except BaseException:
            session.close()
            raise
        if found is None:
            session.close()
        else:
            _sessions[sa.inspect(found)] = session
        return found

    def load_many(self, texts: Sequence[str]) -> Mapping[str, object]:
        with self._opened() as session:
            found = self._all_in(session, texts)
            return {text: self._moved(found[text]) for text in texts if text in found}

    def _moved(self, row: object) -> object:
        """Return a copy of *row* in a session of its own, with copies of what was loaded with it."""
        session = self._opened()
        copy = session.merge(row, load=False)
        session.commit()  # as for one that is loaded alone
        _sessions[sa.inspect(copy)] = session
        return copy

    def _opened(self) -> Session:
        session = self._make()
        asynchronous = sys.modules.get("sqlalchemy.ext.asyncio")
        if asynchronous and isinstance(session, asynchronous.AsyncSession):
            raise ConfigurationError(
                f"orm_subject: expected a function that makes sessions of sqlalchemy.orm to load {self._cls.__name__}; "
                f"it returned {shown(session)}; pass asynchronous sessions as an async_sessionmaker"
            )
        session.autoflush = session.expire_on_commit = False
        return session

    def release(self, instance: object) -> None:
        session = _sessions.pop(sa.inspect(instance), None)
        if session is None:  # the type was registered again meanwhile, with other sessions
            return
        changed = {type(each).__name__ for each in session.dirty if session.is_modified(each)}
        if changed or session.new or session.deleted:
            warn_of_lost(", ".join(sorted(changed)) or type(instance).__name__)
        session.close()


@attrs.define(eq=False)
class ScopedSessions(RowSource):
    """Loads each object with the session of the scope, which the application removes."""

    _scoped: scoped_session[Any]

    def _loaded(self, key: Key) -> object | None:
        return self._in(self._scoped, key)

    def release(self, instance: object) -> None:
        if sa.inspect(instance).modified:
            _log.warning(
                "a listener changed call.subject (%s) and did not commit: the changes are lost, or another "
                "listener commits them; commit the scoped_session in the listener",
                type(instance).__name__,
            )


def _refuses_value(error: Exception) -> bool:
    """Return whether *error* is about a value that a column cannot have, such as a number that is too large for it."""
    # sqlite3 raises an OverflowError; asyncpg an error of no class of SQLAlchemy, whose SQLSTATE is a data exception.
    state = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
    return isinstance(error, (OverflowError, sa.exc.DataError)) or state.startswith("22")


def warn_of_lost(changed: str) -> None:
    """Log that changes of the classes *changed* are lost."""
    _log.warning(
        "a listener changed what call.subject had loaded (%s), and the changes are lost; to store them, load or merge "
        "the object in a session of your own, and commit that",
        changed,
    )
