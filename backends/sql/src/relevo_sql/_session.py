"""
Join the application's transactions: events are rows that commit together with its own.

On a connection they are written at once. A session is enlisted: its events are made and written when it commits, in one
statement, after everything pending was flushed and has its keys. Events sent by the application's own listeners of that
commit may come too late for that. They are written at the connection's commit event, the last moment before the
database commits.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import attrs
import sqlalchemy as sa
from sqlalchemy import event as events
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util.concurrency import AsyncAdaptedLock, in_greenlet

from relevo import Clock, Envelope
from relevo.backend import ForkAware
from relevo.backend.session import JoinedObjects, JoinedSession, apart, begin, joinable, listen
from relevo.errors import ConfigurationError, RelevoError, SendError, SessionError, TransportUnavailableError
from relevo_sql._database import Database
from relevo_sql._dialect import ErrorKind, separate_engine
from relevo_sql._errors import relevo_error, translate_errors
from relevo_sql._row import Receipt, Sent, micros
from relevo_sql._schema import event
from relevo_sql._setup import create_within, is_incomplete
from relevo_sql._statement import Statements, statements_for
from relevo_sql._unique import SentClaim


@attrs.frozen
class SentRows:
    """The rows of one send."""

    rows: Sequence[Sent]
    claim: SentClaim | None = None
    """That of the only event on a unique key."""


Make = Callable[[], Sequence[SentRows]]

_THEIRS = "the session's database"


class JoinedSessions(ForkAware):
    """
    The sessions and connections that one transport has joined.

    Args:
        database: The database of the transport, which also has the transport's name.

        wake: Called when a session has committed events.

        clock: The source of time.
    """

    def __init__(self, database: Database, wake: Callable[[], None], clock: Clock):
        self._database = database
        self._clock = clock
        self._wake = wake
        self._sessions = JoinedObjects[Session, _JoinedSession](lambda session: _JoinedSession(session, self))
        self.after_fork_in_child()
        super().__init__()

    def after_fork_in_child(self) -> None:
        self._known: WeakKeyDictionary[sa.Engine, Hashable | None] = WeakKeyDictionary()
        self._turns: WeakKeyDictionary[Any, AbstractContextManager[object]] = WeakKeyDictionary()
        """By event loop."""

    def at(self, session: Any, *, create: bool) -> Callable[[Make], None]:
        """
        Return a function that writes rows in the transaction of *session*.

        Args:
            session: An object with a transaction.

            create: Whether missing tables are created in the transaction.

        Raises:
            SessionError: *session* is not an object of SQLAlchemy's with transactions, a connection to another
                database, or a session whose transaction is over. A session may have no connection yet; it is checked
                when it sends.
        """
        found = joinable(session, by="SQL transport")
        if isinstance(found, Session):
            joined = self._sessions.of(found)
            return lambda make: joined.enlist(found, make, create=create)
        # Checked before the first of several senders has written anything.
        self.fit(found, create=create)
        return lambda make: self._write_at_once(found, make, create=create)

    def connection(self, session: Session) -> sa.Connection:
        """
        Return the connection of *session*, which may open it.

        Raises:
            TransportUnavailableError: It cannot be opened, or the pool of the session's engine has none left.
        """
        try:
            return session.connection(bind_arguments={"clause": event})
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            raise self._translated(error) from getattr(error, "orig", None) or error

    def wake(self) -> None:
        """Wake a blocked receive, since events were committed."""
        self._wake()

    def require_kind(self, dialect: sa.Dialect) -> None:
        """Raise :class:`SessionError` if a session of *dialect* cannot be on the transport's database."""
        if not self._database.dialect.serves(dialect.name):
            raise self._elsewhere("uses another database")

    def fit(self, connection: sa.Connection, *, create: bool) -> bool:
        """
        Return whether tables have to be created on *connection* before it is written to.

        This is checked in every transaction until the tables are committed, since a rollback removes them again.

        Raises:
            SessionError: Rows written on it would not wait for its commit, or the transport would not find them.

            ConfigurationError: Tables may be created, but the existing ones are of another version or not relevo's.
        """
        if not connection.in_transaction():
            connection.begin()
        self.require_kind(connection.dialect)
        self._require_transactions(connection)
        return self._know(connection.engine, create=create)

    def _know(self, engine: sa.Engine, *, create: bool) -> bool:
        """Return whether the database of *engine*, which must be the transport's, lacks tables that may be created."""
        if self._is_known(engine):
            return False
        lacking = self._look_behind(engine, create=create)
        if not lacking:
            self._known[engine] = self._database.location.identity
        return lacking

    def admit(self, session: Session) -> None:
        """
        Check that *session* is on the database, without a connection of its own: its transaction must not begin yet.

        Raises:
            SessionError: It is on another one, has no engine or no transaction, or its commit would commit nothing.
        """
        bind = self.bind_of(session)
        self.require_kind(bind.dialect)
        if isinstance(bind, sa.Connection):
            self._require_own_transaction(bind)
            self._know(bind.engine, create=False)
        elif not self._is_known(bind):
            with self._turn(bind):
                self._admit(bind)

    def _admit(self, engine: sa.Engine) -> None:
        if self._is_known(engine):  # by now
            return
        try:
            with engine.connect() as probe, probe.begin():
                self._require_transactions(probe)
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            raise self._translated(error) from getattr(error, "orig", None) or error
        self._know(engine, create=False)

    def _turn(self, engine: sa.Engine) -> AbstractContextManager[object]:
        """Let the tasks of an event loop look one by one: a server has no connection for each of thousands."""
        if not engine.dialect.is_async:
            return nullcontext()
        from asyncio import get_running_loop  # noqa: PLC0415 - imported already where there is such an engine

        return self._turns.setdefault(get_running_loop(), AsyncAdaptedLock())

    def _require_own_transaction(self, connection: sa.Connection) -> None:
        if connection.in_transaction():
            raise SessionError(
                "the session uses a connection whose transaction outlasts it, so its commit would record nothing; bind "
                "it to an engine"
            )
        if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            raise self._without_transactions()

    def _require_transactions(self, connection: sa.Connection) -> None:
        if not self._database.dialect.joined(connection):
            raise self._without_transactions()

    def _without_transactions(self) -> SessionError:
        return SessionError(
            f'the transport "{self._database.name}" cannot join a connection in AUTOCOMMIT, since it has no '
            f"transaction; pass one that begins and commits"
        )

    def checkpoint(self, session: Session, receipt: Receipt, state: bytes) -> bool:
        """
        Store *state* with the delivery of *receipt* in the transaction of *session*; return whether it is still held.

        Raises:
            SessionError: *session* is on another database.
        """
        connection = self.connection(session)
        self.fit(connection, create=False)
        database = self._database
        with self._translating():
            dialect = database.dialect.located(database.location.identity)
            seq, token = receipt
            run = statements_for(dialect, connection).checkpoint_held.run
            return run(connection, which=seq, held=token, kept=state).rowcount > 0

    def _is_known(self, engine: sa.Engine) -> bool:
        known = self._known.get(engine)
        return known is not None and known == self._database.location.identity

    def replace(self, session: Session, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> bool:
        """
        Store the states *after* in the inbox, in the transaction of *session*; return whether all were as *before*.

        Raises:
            SessionError: *session* is on another database.

            ConfigurationError: There is no inbox.
        """
        now = apart(partial(self._database.now, self._clock))  # first, as in remember()
        known = {key: state for key, state in after.items() if key in before}
        new = [key for key in after if key not in before]
        run = self._statements_of(session).note_again.run
        connection = self.connection(session)
        with self._translating():
            for key, state in known.items():
                if not run(connection, which=key, before=before[key], kept=state, now=now).rowcount:
                    return False
        return all(self.remember(session, [key], after[key]) for key in new)

    def forget(self, session: Session, before: Mapping[str, bytes]) -> bool:
        """Delete the keys of *before* from the inbox, as :meth:`replace` does; return whether they were as *before*."""
        if not before:
            return True
        run = self._statements_of(session).forget_note.run
        connection = self.connection(session)
        with self._translating():
            return all(run(connection, which=key, before=state).rowcount for key, state in before.items())

    def _statements_of(self, session: Session) -> Statements:
        connection = self.connection(session)
        self.fit(connection, create=False)
        return statements_for(self._database.dialect.located(self._database.location.identity), connection)

    def remember(self, session: Session, keys: Iterable[str], state: bytes) -> bool:
        """
        Store each of *keys* with *state* in the inbox, in the transaction of *session*; return whether all are new.

        Raises:
            SessionError: *session* is on another database.

            ConfigurationError: There is no inbox.
        """
        # First: it may need the lock that the transaction then has.
        now = apart(partial(self._database.now, self._clock))
        connection = self.connection(session)
        self.fit(connection, create=False)
        database = self._database
        with self._translating():
            dialect = database.dialect.located(database.location.identity)
            try:
                for key in dict.fromkeys(keys):
                    statements_for(dialect, connection).remember.run(connection, which=key, kept=state, now=now)
            except sa.exc.DBAPIError as error:
                # It is there; or two that insert the same met, and one of them has to try again.
                if isinstance(error, sa.exc.IntegrityError) or dialect.error_kind(error) is ErrorKind.CONFLICT:
                    return False
                raise
        return True

    def bind_of(self, session: Session) -> sa.Engine | sa.Connection:
        """
        Return what *session* uses for relevo's tables.

        Raises:
            SessionError: It has no engine for them.
        """
        try:
            return session.get_bind(clause=event)
        except sa.exc.UnboundExecutionError as error:
            raise SessionError(
                "the session has no engine for relevo's tables; bind it, as with "
                "Session(engine), or binds={relevo_sql.event: engine}"
            ) from error

    def create(self, connection: sa.Connection) -> None:
        """
        Create the tables that are missing in the transaction of *connection*.

        Raises:
            SessionError: They would be created elsewhere: its transaction looks up names in another schema.
        """
        database = self._database
        with self._translating():
            if not database.location.holds(database.dialect.home(connection)):
                raise self._elsewhere("uses another database")
            create_within(database, connection)

    def write(self, connection: sa.Connection, batches: Sequence[SentRows]) -> None:
        """Write *batches* in the transaction of *connection*, without those whose claim is not granted."""
        asked = [(batch.claim, batch.rows[0]) for batch in batches if batch.claim is not None and batch.rows]
        now = self._database.now(self._clock) if asked else 0
        if len(asked) > 1:
            self._lock_in_order(connection, asked, now)
        plain: list[Sent] = []
        for batch in batches:
            if batch.claim is None:
                plain += batch.rows
            elif batch.rows:
                self._write(connection, plain)  # before it is decided: they may include the event that has the key
                plain = []
                self._write(connection, batch.rows, batch.claim, now)
        self._write(connection, plain)

    def _lock_in_order(self, connection: sa.Connection, asked: Sequence[tuple[SentClaim, Sent]], now: int) -> None:
        """Lock the keys that are *asked* for in one order, so that no two transactions wait for each other."""
        dialect = self._database.dialect.located(self._database.location.identity)
        with self._translating():
            statements = statements_for(dialect, connection)
            for claim, row in sorted(asked, key=lambda each: each[0].digest(each[1].source)):
                claim.lock(connection, statements, row, now)

    def _write(
        self, connection: sa.Connection, rows: Sequence[Sent], claim: SentClaim | None = None, now: int = 0
    ) -> None:
        if not rows:
            return
        database = self._database
        try:
            with self._translating():
                try:
                    database.dialect.check_joined(connection, rows)
                    # The transaction may look up names elsewhere since the engine was checked.
                    dialect = database.dialect.located(database.location.identity)
                    statements = statements_for(dialect, connection)
                    if claim is None or claim.is_granted(connection, statements, rows[0], now):
                        statements.write(connection, rows)
                except sa.exc.DBAPIError as error:
                    if claim is not None or database.dialect.error_kind(error) is not ErrorKind.NO_TABLE:
                        raise  # what only unique events need may be missing in the right database
                    raise self._elsewhere("lacks relevo's tables") from error.orig
        except TransportUnavailableError as error:
            positions = range(len(rows))
            raise SendError(self._database.name, refused=positions, why=error.why) from error.__cause__
        except (UnicodeError, OverflowError) as error:
            raise SendError(self._database.name, refused=range(len(rows)), why=str(error)) from error

    def _write_at_once(self, connection: sa.Connection, make: Make, *, create: bool) -> None:
        lacking = self.fit(connection, create=create)
        batches = make()
        if lacking:
            self.create(connection)
        self.write(connection, batches)
        _report(batches)

    def _look_behind(self, engine: sa.Engine, *, create: bool) -> bool:
        # Not in the application's transaction: after a read it might be unable to write. And not on the transport's own
        # connection, which cannot be opened for the first time while the application has written.
        database, looking = self._database, _beside(engine)
        try:
            with looking.connect() as own:
                home = database.dialect.home(own)
                if not database.dialect.is_file and not database.location.holds(home):
                    # A server is known once it was reached, and it may have been restarted since.
                    apart(lambda: database.inspect(lambda ours: database.location.opened(database.dialect.home(ours))))
                same = database.location.holds(home)
                if create and same:
                    return is_incomplete(database, own)
                self._require_same(own, same=same)
        except sa.exc.DBAPIError as error:
            raise self._translated(error) from error.orig
        finally:
            looking.dispose()
        return False

    def _require_same(self, own: sa.Connection, *, same: bool) -> None:
        database = self._database
        try:
            theirs = database.check(own)
        except sa.exc.DBAPIError as error:
            if database.dialect.error_kind(error) is not ErrorKind.NO_TABLE:
                raise
            raise self._elsewhere("lacks relevo's tables") from error.orig
        except ConfigurationError as error:
            raise self._elsewhere("has tables that this version of relevo cannot use") from error
        if not same and theirs not in self._our_ids():
            raise self._elsewhere("uses another database")

    def _translating(self) -> AbstractContextManager[None]:
        database = self._database
        return translate_errors(database.dialect, database.name, lambda: _THEIRS, file=database.location.file)

    def _translated(self, error: sa.exc.SQLAlchemyError) -> RelevoError:
        database = self._database
        return relevo_error(database.dialect, error, database.name, _THEIRS, file=database.location.file)

    def _our_ids(self) -> Iterator[str]:
        with suppress(ConfigurationError, TransportUnavailableError):  # no tables yet, so no id
            yield apart(self._database.identity)
            yield apart(partial(self._database.identity, fresh=True))

    def _elsewhere(self, what: str) -> SessionError:
        database = self._database
        return SessionError(
            f'the session {what}, and the transport "{database.name}" keeps its events in {database.place}; '
            f"pass a session of that database, or configure an outbox in the session's own"
        )


def _beside(engine: sa.Engine) -> sa.Engine:
    """As :func:`separate_engine`, also for the engine of asynchronous sessions."""
    if not engine.dialect.is_async:
        return separate_engine(engine)
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - imported already where there is such a one

    return create_async_engine(engine.url, pool=engine.pool.recreate(), hide_parameters=True).sync_engine


class _JoinedSession(JoinedSession[SentRows]):
    """Writes the rows of a session when it commits; also listens to its connection."""

    def __init__(self, session: Session, joined: JoinedSessions):
        self._joined = joined
        self._connection: sa.Connection | None = None
        self._watched: dict[str, Callable[..., None]] = {}
        self._forget()
        super().__init__(session)

    def _forget(self) -> None:
        self._unchecked = self._creating = self._lacking = self._undone = False
        self._decided: list[SentRows] = []

    def enlist(self, session: Session, make: Make, *, create: bool = False) -> None:
        """Write the rows that *make* returns when *session* commits; if *create*, create missing tables first."""
        begin(session)
        self._creating |= create
        self._check(session)
        super().enlist(session, make)

    def _check(self, session: Session) -> None:
        bind = self._joined.bind_of(session)
        dialect = bind.dialect
        self._joined.require_kind(dialect)
        if dialect.is_async and not in_greenlet():
            self._unchecked = True  # its connection is available only inside an await: at its commit
            return
        connection = self._joined.connection(session)
        if connection is not self._connection:
            self._lacking = self._joined.fit(connection, create=self._creating)
            self._watch(session, connection, is_lent=isinstance(bind, sa.Connection))

    def _watch(self, session: Session, connection: sa.Connection, *, is_lent: bool) -> None:
        """Listen to *connection*; if *is_lent*, it is the application's own, and may outlive many sessions."""
        self._unwatch()
        self._connection = connection
        watched: dict[str, Callable[..., None]] = {"commit": self._last_moment}
        if is_lent or session.twophase:
            watched["prepare_twophase"] = self._last_moment
        if is_lent:
            watched |= {"rollback": self._undo, "rollback_savepoint": self._undo}
            self._watched = watched  # any other connection ends with the session's transaction
        for name, listener in watched.items():
            listen(connection, name, listener)

    def _unwatch(self) -> None:
        if self._connection is not None:
            for name, listener in self._watched.items():
                events.remove(self._connection, name, listener)
        self._connection, self._watched = None, {}

    def _undo(self, *_: object) -> None:
        self._undone = True

    def _write(self, connection: sa.Connection) -> None:
        """Make and write all that is enlisted, also what is enlisted meanwhile."""
        while self.entries:
            entries = list(self.entries)
            batches = [batch for entry in entries for batch in entry.made()]
            if self._unchecked:
                self._lacking = self._joined.fit(connection, create=self._creating)
                self._unchecked = False
            if self._lacking:
                self._joined.create(connection)
                self._lacking = False
            self._joined.write(connection, batches)
            self._decided += [batch for batch in batches if batch.claim is not None]
            written = set(entries)
            self.entries = [entry for entry in self.entries if entry not in written]

    def committing(self, session: Session) -> None:
        if self.entries:
            self._write(self._joined.connection(session))

    def _last_moment(self, connection: sa.Connection, _xid: object = None) -> None:
        """Write what was enlisted after the session's commit event, or in a commit without that event."""
        try:
            self._write(connection)
        except sa.exc.InvalidRequestError as error:  # the session reads nothing more from the database
            raise SessionError(
                "an event that was sent during the session's commit needs a read from the database, which the session "
                "no longer allows; send it before the commit, or load the attributes that name its subject first"
            ) from error

    def on_commit(self, session: Session) -> None:
        if self._connection is not None:
            # Nothing is left, unless the session takes part in a transaction of the connection, which is then still
            # open.
            self._last_moment(self._connection)
        _report(self._decided)
        self._joined.wake()

    def rolling_back(self, transaction: SessionTransaction) -> None:
        connection = self._connection
        if transaction.parent is None and connection and connection.in_transaction() and not self._undone:
            # The session ends but its connection goes on: what was flushed stays there, with what was sent before.
            self.entries = [entry for entry in self.entries if entry.flushed]
            self._last_moment(connection)
        self._undone = False

    def on_end(self) -> None:
        self._unwatch()
        self._forget()


def _report(batches: Sequence[SentRows]) -> None:
    """Report what was decided about the keys of *batches*."""
    for batch in batches:
        if batch.claim is not None and batch.rows:
            batch.claim.report()


@attrs.frozen(eq=False)
class SessionSender:
    """The sender that ``bound_to`` returns."""

    enlist: Callable[[Make], None]
    rows: Callable[[Sequence[Envelope], int], Sequence[Sent]]
    """Turns envelopes, and the time when they become due, into rows."""

    due: Callable[[float], int]

    def send(
        self, make: Callable[[], Sequence[Envelope]], *, delay: float = 0.0, claim: SentClaim | None = None
    ) -> None:
        due = self.due(delay)
        self.enlist(lambda: (SentRows(self.rows(make(), due), claim),))

    def send_unique(
        self,
        make: Callable[[], Sequence[Envelope]],
        *,
        key: str,
        within: float,
        decided: Callable[[str | None], object],
        delay: float = 0.0,
    ) -> None:
        self.send(make, delay=delay, claim=SentClaim(key, micros(max(0.0, within)), decided))
