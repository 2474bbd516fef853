"""The transport: the methods of the interface."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from logging import getLogger
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

import attrs
import sqlalchemy as sa

from relevo import (
    BoundSender,
    Capabilities,
    Clock,
    Coordinator,
    DeadLetterEntry,
    DeadLetterFilter,
    Delivery,
    DoneEntry,
    Envelope,
    EventFilter,
    EventGroup,
    Found,
    Note,
    Presence,
    Settlement,
    Stats,
    StuckKeys,
    SystemClock,
    Transport,
    WaitingEntry,
)
from relevo.backend import (
    Archive,
    ControlStore,
    DeadLetterKeeper,
    FileStore,
    Firing,
    ForkLock,
    HandlingTransaction,
    Inbox,
    LimitStore,
    ParallelSettlement,
    QueueCatalog,
    ScheduleStore,
    SchemaUpgrade,
    SessionSetup,
    SetupScript,
    TransactionalHandling,
    notice_fork,
)
from relevo.errors import CommitUnknownError, ConfigurationError, LeaseLostError, SendError, TransportClosedError
from relevo_sql._archive import DoneTable
from relevo_sql._claim import Claimer
from relevo_sql._controls import ControlRows
from relevo_sql._database import Database
from relevo_sql._dead_letters import DeadLetterStore
from relevo_sql._dialect import dialect_of, separate_engine
from relevo_sql._errors import RefusedError
from relevo_sql._group_commit import GroupCommit
from relevo_sql._heartbeats import Heartbeats
from relevo_sql._inbox import InboxTable, notes_key
from relevo_sql._insert import insert_statement
from relevo_sql._limits import LimitRows
from relevo_sql._locks import Locks
from relevo_sql._options import INBOX_KEEP, SqlOptions, engine_for, engine_for_sessions, risks_of
from relevo_sql._own_session import watch_sessions
from relevo_sql._pause import SELDOM, Doorbell, Patience
from relevo_sql._query import Searcher
from relevo_sql._row import Sent, micros, row_of
from relevo_sql._schedules import Schedules
from relevo_sql._schema import event
from relevo_sql._settle import Settler
from relevo_sql._setup import script_for, set_up
from relevo_sql._stats import Counter
from relevo_sql._unique import SentClaim, key_sweep, write_unique
from relevo_sql._upgrade import upgrade, upgrade_script_for
from relevo_sql._upkeep import upkeep_of

if TYPE_CHECKING:
    from relevo_sql._handling import DoneRecord, SessionSource
    from relevo_sql._session import JoinedSessions

T = TypeVar("T")

_log = getLogger("relevo.sql")

_MOST = 2**31 - 1
"""Rows; a larger limit means no limit, and does not fit the integers of every database."""

_SPARE = 0.1
"""Seconds for which a receive that finds nothing may delete what was kept for long enough."""

_IMPORT_PATIENCE = 10.0
"""Seconds for which a fork waits for the import of the session support."""


class SqlTransport(
    Transport,
    Coordinator,
    ScheduleStore,
    ControlStore,
    LimitStore,
    SessionSetup,
    FileStore,
    ParallelSettlement,
    QueueCatalog,
    SchemaUpgrade,
    SetupScript,
    TransactionalHandling,
    Inbox,
    Archive,
    DeadLetterKeeper,
):
    """
    Keeps events in a database, as rows beside the application's own.

    The engine is not changed: relevo's connection comes from a separate pool of the same kind, so the application
    notices nothing. On SQLite events are sent with a durable commit. A claim or a settlement can be undone by a crash
    of the host, and only by that: the event is then delivered again. Sends of the same process wake a blocked
    ``receive``; everything else is found by polling.

    It may be used before a fork, and after it in both processes: it closes its connection before the fork, and the
    child opens its own. Events that were handed out before the fork belong to the parent; in the child they are lost.
    Where Python's fork hooks are not called, as under uWSGI without ``py-call-uwsgi-fork-hooks``, only :meth:`setup`
    may be called before the fork; after any other use the child raises an error. Close the connections of your own
    engine too, with ``engine.dispose()``, before a process is forked.

    Args:
        engine: The engine of the database that stores the events, or its address, such as ``sqlite:///shop.db``.

        name: The name of the transport in the application.

        clock: The source of the time.

        busy_timeout: Seconds to wait for the transaction of another writer to end.

        poll: Seconds between two polls of a ``receive`` that has waited for long.

        notify: Whether a ``receive`` that waits listens for notifications, where the database has them.

        schema: The schema of relevo's tables on PostgreSQL; by default the first one of the ``search_path`` that
            exists. Setup creates it.

        dialect: ``"portable"`` for a database that relevo has no dialect for; by default the database's own one.

        inbox_keep: Seconds for which it remembers which transactional listeners are done with the events of a
            transport whose outbox it is.

        keep: Seconds for which it keeps the events that are done; by default it deletes an event when it is done.

    Raises:
        ConfigurationError: The database is not supported, or has no schemas and *schema* is given.
    """

    capabilities = Capabilities(
        durability="host",
        lease="timed",
        extend=True,
        settlement="confirmed",
        atomic_batch=True,
        delay=0.001,
        lost_leases="exact",
        order="per key",
        urgency=True,
        transactional=True,
        checkpoint=True,
        dead_letters=True,
        cancel=True,
        find=True,
        take=True,
        waiting=True,
        purge=True,
        wakeup=False,
        dedupe=True,
        unique=True,
        stats="exact",
        presence=True,
        max_body=None,
    )
    Options: ClassVar[type] = SqlOptions
    takes_async_sessions = True

    def __init__(
        self,
        engine: sa.Engine | str,
        *,
        name: str = "sql",
        clock: Clock = SystemClock(),  # noqa: B008 - it has no state
        busy_timeout: float = 30.0,
        poll: float = 0.1,
        notify: bool = True,
        schema: str | None = None,
        dialect: str | None = None,
        inbox_keep: float = INBOX_KEEP,
        keep: float | None = None,
    ):
        if isinstance(engine, str):
            options = SqlOptions(
                url=engine,
                busy_timeout=busy_timeout,
                poll=poll,
                notify=notify,
                schema=schema,
                dialect=dialect,
                inbox_keep=inbox_keep,
                keep=keep,
            )
            self._open(options, name=name, clock=clock)
            return
        if not hasattr(engine, "dialect"):
            raise ConfigurationError(
                f"SqlTransport: expected an engine, as sqlalchemy.create_engine(…) makes it, or an address such as "
                f"sqlite:///shop.db; got {type(engine).__name__}"
            )
        # It checks them, as with an address.
        SqlOptions(url="sqlite://", busy_timeout=busy_timeout, poll=poll, inbox_keep=inbox_keep, keep=keep)
        chosen = dialect_of(engine, dialect, schema=schema)  # before a copy is made, which not every engine can be
        self._begin(
            Database(
                separate_engine(engine),
                chosen,
                name=name,
                own=False,
                patience=busy_timeout,
                archives=keep is not None,
            ),
            clock,
            poll,
            notify=notify,
            session_engine=partial(chosen.engine_for_listeners, engine),
            inbox_keep=inbox_keep,
            keep=keep,
        )

    def _begin(
        self,
        database: Database,
        clock: Clock,
        poll: float,
        *,
        notify: bool,
        session_engine: Callable[[], sa.Engine],
        inbox_keep: float,
        keep: float | None,
    ) -> None:
        self.clock = self._clock = clock
        self._poll = poll
        if "sqlalchemy.orm" in sys.modules:
            # It listens to all sessions. Later, a thread might be calling such listeners.
            import relevo.backend.session  # noqa: F401, PLC0415 - a worker that has no session needs no ORM

            if database.dialect.is_file:
                watch_sessions()

        self._closed = False
        self._process = 0  # none yet: this process may be the child of a fork that was not noticed either
        self._kept = False
        self._doorbell = Doorbell()
        self._waited: Patience | None = None
        """The last wait of a receive, if it found nothing."""
        self._database = database
        self._group_commit = GroupCommit(database)
        self._claimer = Claimer(database, clock)
        # On a server, settling does not wait for a claim; a file has one writer at a time.
        self._settling = database if database.dialect.is_file else database.second_connection()
        self._databases = frozenset({database, self._settling})
        self._settler = Settler(self._settling, clock)
        self._archive = None if keep is None else DoneTable(self._settling, clock, keep=keep)
        self._sweep = key_sweep(self._settling, clock)
        self._upkeep = upkeep_of(self._settling, clock, self._sweep, self._archive)
        self._dead_letters = DeadLetterStore(database, clock)
        self._counter = Counter(database, clock)
        self._query = Searcher(database, clock)
        self._locks = Locks(database, clock)
        self._schedules = Schedules(database)
        self._heartbeats = Heartbeats(database, clock)
        self._controls = ControlRows(database, clock)
        self._limits = LimitRows(database, clock)
        notifies = notify and isinstance(clock, SystemClock)
        self._notifications = database.dialect.notifications(database.engine, self._doorbell.ring) if notifies else None
        if self._notifications is not None:
            self.capabilities = attrs.evolve(type(self).capabilities, wakeup=True)
        self._session_engine = session_engine
        self._inbox = InboxTable(database, clock, keep=inbox_keep)
        self._sessions: SessionSource | None = None
        self._joined: JoinedSessions | None = None
        self._joining = ForkLock(patience=_IMPORT_PATIENCE)

    @classmethod
    def open(cls, options: SqlOptions, *, name: str, clock: Clock) -> Self:
        self = cls.__new__(cls)
        self._open(options, name=name, clock=clock)
        return self

    def _open(self, options: SqlOptions, *, name: str, clock: Clock) -> None:
        engine = engine_for(options)
        dialect = dialect_of(engine, options.dialect, schema=options.schema)
        database = Database(
            engine,
            dialect,
            name=name,
            own=True,
            patience=options.busy_timeout,
            file_mode=options.permissions,
            archives=options.keep is not None,
        )
        self._begin(
            database,
            clock,
            options.poll,
            notify=options.notify,
            session_engine=lambda: engine_for_sessions(options),
            inbox_keep=options.inbox_keep,
            keep=options.keep,
        )

    @property
    def name(self) -> str:
        """The name of the transport in the application, which all its errors use."""
        return self._database.name

    @name.setter
    def name(self, name: str) -> None:
        for database in self._databases:
            database.name = name

    @property
    def settles_in_parallel(self) -> bool:
        """Whether settlements have a connection of their own, as on a server."""
        return len(self._databases) > 1

    @property
    def url(self) -> sa.URL:
        """The address of the database, with the password, if any; see ``relevo_sql.database_url``."""
        return self._database.engine.url

    @property
    def folder(self) -> Path | None:
        """The folder of the database file, if there is one."""
        path = self._database.location.path
        return None if path is None else path.parent

    def missing(self) -> str:
        return self._database.place.removeprefix("the ") if self._database.location.is_absent() else ""

    def risks(self) -> Sequence[str]:
        return risks_of(self.url)

    def blocked_send(self) -> str | None:
        return self._database.blocked_send()

    def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        with self._setting_up(dry_run=dry_run):
            return set_up(self._database, dry_run=dry_run)

    def upgrade(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        with self._setting_up(dry_run=dry_run):
            return upgrade(self._database, self._clock, dry_run=dry_run)

    def upgrade_script(self, queues: Sequence[str]) -> str:
        with self._setting_up(dry_run=True):
            return upgrade_script_for(self._database)

    @contextmanager
    def _setting_up(self, *, dry_run: bool) -> Iterator[None]:
        self._require_open()
        try:
            yield
            self._kept = self._kept or not dry_run
        finally:
            # A setup during an import leaves no connection open, in whatever way the process is forked later.
            for database in self._databases:
                database.disconnect()

    def lacking(self, queues: Sequence[str]) -> Sequence[str]:
        self._require_open()
        return set_up(self._database, dry_run=True, only_needed=True)

    def setup_script(self, queues: Sequence[str]) -> str:
        return script_for(self._database)

    def insert_statement(self) -> str | None:
        dialect = self._database.dialect
        table = dialect.compiler.identifier_preparer.format_table(dialect.metadata.tables[event.name])
        return insert_statement(dialect.name, table=table)

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        self._require_open()
        if not envelopes:
            return
        self._send(envelopes, delay, self._group_commit.write)

    def send_unique(
        self, envelopes: Sequence[Envelope], *, key: str, within: float = 0.0, delay: float = 0.0
    ) -> str | None:
        self._require_open()
        if not envelopes:
            return None
        living: list[str | None] = []
        claim = SentClaim(key, micros(max(0.0, within)), living.append)
        self._send(envelopes, delay, partial(write_unique, self._database, self._clock, claim))
        return living[-1]

    def _send(self, envelopes: Sequence[Envelope], delay: float, write: Callable[[Sequence[Sent]], object]) -> None:
        """Call *write* with the rows of *envelopes*."""
        everything = range(len(envelopes))
        try:
            write(self._rows(envelopes, self._due(delay)))
        except CommitUnknownError as error:
            raise SendError(self.name, unknown=everything, why=error.why) from error.__cause__
        except RefusedError as error:
            raise SendError(self.name, refused=everything, why=error.why) from error.__cause__
        except (UnicodeError, OverflowError) as error:
            raise SendError(self.name, refused=everything, why=str(error)) from error
        if self._doorbell.is_heard:
            self._doorbell.ring()

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        patience = Patience(self._clock, self._doorbell, wait=wait, longest=self._poll, before=self._waited)
        self._waited = None
        sends = self._doorbell.sends
        queues, limit = self._holdable(queues), min(limit, _MOST)
        while True:
            self._require_open()
            if limit <= 0:
                return ()
            rings = self._doorbell.listen()
            is_sent, sends = self._doorbell.sends != sends, self._doorbell.sends
            try:
                self._require_settling()
                claim = self._claimer.claim(queues, limit=limit, lease=lease, sent=is_sent, waits=patience.left > 0)
            except ConfigurationError:
                # If this transport created the tables, it creates them again in an empty database, and only there.
                if not self._kept or not self._database.is_empty():
                    raise
                set_up(self._database, dry_run=False)
                _log.warning("%s was empty; the tables were created again", self._database.place)
                continue
            if claim.deliveries:
                return claim.deliveries
            self._upkeep.run(_SPARE)
            if patience.left <= 0:
                self._waited = patience
                return ()
            change = float("inf")
            if claim.next_change is not None:
                change = (claim.next_change - self._now()) / 1_000_000
            if self._notifications is not None:
                self._notifications.expect()
                if self._notifications.is_listening:
                    patience.longest = max(self._poll, SELDOM)
            changed = None if claim.changes is None else partial(self._database.changed_since, claim.changes)
            if not patience.pause(rings, change, changed):
                return ()

    def take(self, queue: str, event_id: str, *, lease: float) -> Sequence[Delivery]:
        self._require_open()
        self._require_settling()
        if not all(map(self._database.dialect.can_hold, (queue, event_id))):
            return ()
        return self._claimer.take(queue, event_id, lease=lease)

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        self._require_open()
        lost = self._settler.settle(settlements)
        self._doorbell.ring(sent=False)
        self._upkeep.run()
        return lost

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        self._require_open()
        return self._settler.extend(deliveries, lease=lease)

    def _checkpoint(self, delivery: Delivery, state: bytes) -> None:
        self._require_open()
        if not self._settler.checkpoint(delivery, state):
            raise LeaseLostError(self.name, delivery)

    def begin(self, delivery: Delivery, note: Note) -> None:
        self._require_open()
        if not self._settler.begin(delivery, note):
            raise LeaseLostError(self.name, delivery)

    def excuse(self, delivery: Delivery, note: Note) -> None:
        self._require_open()
        self._settler.excuse(delivery, note)

    def appear(self, worker: str) -> None:
        self._require_open()
        self._heartbeats.appear(worker)

    def presence(self, workers: Sequence[str]) -> Mapping[str, Presence]:
        self._require_open()
        return self._heartbeats.presence(workers)

    def stats(self, queue: str) -> Stats:
        self._require_open()
        if not self._database.dialect.can_hold(queue):
            return Stats(ready=0, leased=0, scheduled=0, dead=0)
        return self._counter.stats(queue)

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        self._require_open()
        return self._dead_letters.entries(self._holdable(queues), after=after, limit=min(limit, _MOST))

    def matching_dead_letters(
        self, queues: Sequence[str], *, where: DeadLetterFilter, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        self._require_open()
        return self._query.dead_letters(self._holdable(queues), where=where, after=after, limit=min(limit, _MOST))

    def dead_letter_groups(
        self,
        queues: Sequence[str],
        *,
        by: Literal["event", "queue", "reason"],
        where: DeadLetterFilter | None = None,
        limit: int = 100,
    ) -> Sequence[EventGroup]:
        self._require_open()
        return self._query.dead_groups(self._holdable(queues), by=by, where=where or DeadLetterFilter())[
            : max(0, limit)
        ]

    def _revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        return self._revive_later(refs, 0.0)

    def _revive_later(self, refs: Mapping[str, bytes], delay: float) -> Sequence[str]:
        self._require_open()
        missing = self._dead_letters.revive(refs, delay=delay)
        self._doorbell.ring()
        return missing

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        self._require_open()
        return self._dead_letters.discard(refs)

    def keep_dead_letters(self, letters: Sequence[DeadLetterEntry], *, dying: bool = False) -> Sequence[str]:
        self._require_open()
        try:
            return self._dead_letters.keep(letters, dying=dying)
        except RefusedError as error:
            raise SendError(self.name, refused=range(len(letters)), why=error.why) from error.__cause__

    def replace_earlier(self, refs: Iterable[str]) -> None:
        self._require_open()
        self._dead_letters.replace(refs)

    def remove_dead_letters(
        self, refs: Iterable[str], first: Callable[[Sequence[DeadLetterEntry]], Iterable[str]]
    ) -> Sequence[str]:
        self._require_open()
        return self._dead_letters.remove(refs, first)

    def bound_to(self, session: Any, *, relay_to: str | None = None) -> BoundSender:
        """
        Return a sender that writes inside *session*'s transaction.

        A session writes all its events at its commit, in one statement; the rollback of a savepoint removes the events
        that were sent in it. A connection writes at once. The transaction is the application's own, and so is the
        durability of its commit.

        Args:
            session: A Session, scoped_session, AsyncSession or Connection of the same database, which is one
                with the same random id in ``relevo_meta``.

            relay_to: The name of another transport: the events are stored here in the reserved queue
                ``outbox/<name>``, with unchanged envelopes, until a relay moves them to that transport.

        Raises:
            SessionError: *session* is of another type, or a Connection to another database. For a session of another
                database the error is raised when it sends, for an asynchronous one when it commits.
        """
        return self._bound(session, relay_to, create=False)

    def bound_with_setup(
        self, session: Any, queues: Sequence[str], *, relay_to: str | None = None
    ) -> BoundSender | None:
        # The session's database can be identified only by its file, since it has no id yet.
        return self._bound(session, relay_to, create=True) if self._database.location.is_named else None

    def _bound(self, session: Any, relay_to: str | None, *, create: bool) -> BoundSender:
        self._require_open()
        outbox = None if relay_to is None else f"outbox/{relay_to}"
        joined = self._joined_sessions()
        from relevo_sql._session import SessionSender  # noqa: PLC0415 - see _joined_sessions()

        return SessionSender(
            enlist=joined.at(session, create=create),
            rows=lambda envelopes, due: self._rows(envelopes, due, outbox=outbox),
            due=self._due_if_open,
        )

    def _joined_sessions(self) -> JoinedSessions:
        with self._joining:
            # A worker needs no ORM, and an application with a session has imported it: benchmarks/command_line.py.
            from relevo_sql._session import JoinedSessions  # noqa: PLC0415

            if self._joined is None and self._database.dialect.is_file:
                watch_sessions()
            joined = self._joined = self._joined or JoinedSessions(self._database, self._doorbell.ring, self._clock)
        return joined

    def handling(self, delivery: Delivery, *, sessions: Callable[[], Any] | None = None) -> HandlingTransaction:
        """
        Return a transaction for one listener of *delivery*, in the database of the events.

        By default its session is on the engine that the transport was given, or on one for its address, with the
        isolation level READ COMMITTED on a server: at a higher one a listener that runs for longer than a third of its
        lease may fail, since the row of its event was changed when the lease was renewed.

        Raises:
            LeaseLostError: The receipt is neither one of this process nor of its parent.

            SessionError: *sessions* makes something else than a Session, or one of another database.

            TransportUnavailableError: The database cannot be reached.
        """
        self._require_open()
        from relevo_sql._handling import receipt_in, record_of  # noqa: PLC0415 - see _joined_sessions()

        receipt = receipt_in(delivery)
        if receipt is None:
            raise LeaseLostError(self.name, delivery)
        joined, settler = self._joined_sessions(), self._settler
        return self._handling(sessions, record_of(joined, settler, delivery, receipt))

    def handling_once(
        self,
        key: str,
        *,
        aliases: Sequence[str] = (),
        noted: Mapping[str, bytes] | None = None,
        sessions: Callable[[], Any] | None = None,
    ) -> HandlingTransaction:
        """
        Return a transaction for the listener and the event of *key*, which another transport delivers.

        Raises:
            SessionError: *sessions* makes something else than a Session, or one of another database.

            TransportUnavailableError: The database cannot be reached.
        """
        self._require_open()
        from relevo_sql._handling import record_once  # noqa: PLC0415 - see _joined_sessions()

        record = record_once(self._joined_sessions(), self._inbox, (key, *aliases), noted or {})
        return self._handling(sessions, record)

    def remembered(self, key: str) -> bytes | None:
        self._require_open()
        return self._inbox.state_of(key)

    def noted(self, key: str) -> bytes | None:
        self._require_open()
        return self._inbox.state_of(notes_key(key))

    def _handling(self, sessions: Callable[[], Any] | None, record: DoneRecord) -> HandlingTransaction:
        from relevo.backend.session import ListenerSession  # noqa: PLC0415 - see _joined_sessions()
        from relevo_sql._handling import SessionSource, SqlHandling  # noqa: PLC0415 - the same

        if sessions is None:
            with self._joining:
                if self._sessions is None:
                    self._sessions = SessionSource(self._session_engine, own=self._database.is_own)
                sessions = self._sessions.sessions
        begun = partial(self._database.dialect.begin_for_listener, patience=self._database.patience)
        own = ListenerSession(sessions, by="SQL transport", begun=begun)
        try:
            self._joined_sessions().admit(own.session)
        except BaseException:
            own.close()
            raise
        return SqlHandling(own, record, self._database.dialect, name=self.name)

    async def on_loop(self, work: Callable[[], T]) -> T:
        from relevo.backend.session import on_loop  # noqa: PLC0415 - see _joined_sessions()

        return await on_loop(work)

    def exported_receipt(self, delivery: Delivery) -> bytes:
        from relevo_sql._handling import exported  # noqa: PLC0415 - see _joined_sessions()

        return exported(delivery)

    def find(self, event_id: str) -> Sequence[Found]:
        self._require_open()
        return self._counter.find(event_id)

    @property
    def keep(self) -> float | None:
        return None if self._archive is None else self._archive.keep

    def find_done(self, event_id: str) -> Sequence[DoneEntry]:
        self._require_open()
        return () if self._archive is None else self._archive.find(event_id)

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[WaitingEntry]:
        self._require_open()
        return self._query.waiting(
            self._holdable(queues), where=where or EventFilter(), after=after, limit=min(limit, _MOST)
        )

    def waiting_groups(
        self,
        queues: Sequence[str],
        *,
        by: Literal["event", "queue", "state"],
        where: EventFilter | None = None,
        limit: int = 100,
    ) -> Sequence[EventGroup]:
        self._require_open()
        return self._query.groups(self._holdable(queues), by=by, where=where or EventFilter())[: max(0, limit)]

    def stuck_keys(self, queues: Sequence[str], *, longer: float = 60.0, limit: int = 10) -> StuckKeys:
        self._require_open()
        if isnan(longer):
            raise ConfigurationError("longer: expected seconds; got nan")
        return self._query.stuck_keys(self._holdable(queues), longer=longer, limit=min(limit, _MOST))

    def held_queues(self) -> Sequence[str]:
        self._require_open()
        return self._query.held_queues()

    def store_id(self) -> str:
        """Return the random id of the database, which its tables have."""
        self._require_open()
        return self._database.identity()

    def _holdable(self, queues: Sequence[str]) -> Sequence[str]:
        """Return *queues* without those that have no events, since no row can hold their names."""
        return [queue for queue in queues if self._database.dialect.can_hold(queue)]

    def problems(self, queues: Sequence[str]) -> Sequence[str]:
        self._require_open()
        if set_up(self._database, dry_run=True, only_needed=True):
            return ()
        if settings := self._database.read(self._database.dialect.undurable):
            _log.warning(
                'the transport "%s": %s may lose committed events when its server crashes (%s)',
                self.name,
                self._database.place,
                ", ".join(settings),
            )
        return self._counter.problems(queues)

    def cancel(self, event_id: str) -> int:
        self._require_open()
        return self._counter.cancel(event_id)

    def purge(self, queue: str) -> int:
        self._require_open()
        return self._counter.purge(queue) if self._database.dialect.can_hold(queue) else 0

    def lock(self, name: str, *, holder: str, ttl: float) -> str | None:
        self._require_open()
        return self._locks.take(name, holder=holder, ttl=ttl)

    def renew_lock(self, name: str, receipt: str, *, ttl: float) -> bool:
        self._require_open()
        return self._locks.renew(name, receipt, ttl=ttl)

    def unlock(self, name: str, receipt: str) -> None:
        self._require_open()
        self._locks.free(name, receipt)

    def fired(self, names: Sequence[str]) -> Mapping[str, int]:
        self._require_open()
        return self._schedules.fired(names)

    def fire(self, firings: Sequence[Firing], *, relay_to: str | None = None) -> Collection[str]:
        self._require_open()
        outbox = None if relay_to is None else f"outbox/{relay_to}"
        number = sum(len(each.envelopes) for each in firings)
        try:
            stored = self._schedules.fire(
                firings, lambda each: self._rows(each.envelopes, self._due(0.0), outbox=outbox)
            )
        except (RefusedError, UnicodeError, OverflowError) as error:
            why = error.why if isinstance(error, RefusedError) else str(error)
            raise SendError(self.name, refused=range(number), why=why) from error
        if self._doorbell.is_heard:
            self._doorbell.ring()
        return stored

    def announce(self, worker: str, about: bytes, *, ttl: float) -> None:
        self._require_open()
        self._heartbeats.announce(worker, about, ttl=ttl)

    def workers(self) -> Mapping[str, bytes]:
        self._require_open()
        return self._heartbeats.workers()

    def set_control(self, key: str, what: bytes, *, ttl: float) -> None:
        self._require_open()
        self._controls.set(key, what, ttl=ttl)

    def controls(self) -> Mapping[str, bytes]:
        self._require_open()
        return self._controls.all()

    def change_limit(self, key: str, change: Callable[[bytes, float], bytes], *, ttl: float) -> None:
        self._require_open()
        self._limits.change(key, change, ttl=ttl)

    def hurry(self, seconds: float | None) -> None:
        for database in self._databases:
            database.hurry(seconds)

    def close(self) -> None:
        """
        Give up everything held, without settling it, and wake a blocked ``receive``.

        Held events become ready when their leases end, and count as lost; release them first to make them
        ready at once.
        """
        self._notice_fork()
        self._closed = True
        self._doorbell.ring()
        if self._notifications is not None:
            self._notifications.close()
        for database in self._databases:
            database.close()
        if self._sessions is not None:
            self._sessions.close()

    def _require_open(self) -> None:
        self._notice_fork()
        if self._closed:
            raise TransportClosedError(self.name)

    def _notice_fork(self) -> None:
        if self._process != os.getpid():
            notice_fork()
            self._process = os.getpid()

    def _require_settling(self) -> None:
        """Connect: what could not be settled must not be handed out."""
        self._settling.identity()
        if self._archive is not None:
            self._archive.require()

    def _now(self) -> int:
        return self._database.now(self._clock)

    def _due(self, delay: float) -> int:
        # Without a delay it is due at once, even if the clock is set back before the commit.
        return self._now() + micros(delay) if delay > 0.0 else 0

    def _due_if_open(self, delay: float) -> int:
        self._require_open()
        return self._due(delay)

    def _rows(self, envelopes: Sequence[Envelope], due: int, *, outbox: str | None = None) -> list[Sent]:
        now = self._now()
        try:
            return [row_of(envelope, now=now, due=due, outbox=outbox) for envelope in envelopes]
        except (UnicodeError, OverflowError) as error:
            raise SendError(self.name, refused=range(len(envelopes)), why=str(error)) from error
