"""
What a database must do for the transport; one module for each database implements it.

Nothing else in this package depends on which database it is. The statements are written once, with SQLAlchemy; a
dialect compiles them, and supplies what SQL has no common syntax for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from pathlib import Path
from typing import Any, ClassVar, Protocol

import attrs
import sqlalchemy as sa

from relevo_sql._row import Sent

SLICE = 0.2
"""Seconds that a driver waits for a lock before relevo checks whether to continue waiting."""


class Trouble(Enum):
    """The meaning of a driver's error, independent of the driver."""

    BUSY = auto()
    STALE = auto()
    CONFLICT = auto()
    LOST = auto()
    CROWDED = auto()
    DENIED = auto()
    READ_ONLY = auto()
    FULL = auto()
    IO = auto()
    NOT_FOUND = auto()
    NOT_A_DATABASE = auto()
    MALFORMED = auto()
    NO_TABLE = auto()
    TOO_BIG = auto()
    UNDECODABLE = auto()
    THREAD = auto()
    OTHER = auto()


@attrs.frozen
class Stored:
    """A table, an index or another object, as the database itself describes it."""

    kind: str
    """``table``, ``index``, or another word of the database."""

    constraints: frozenset[str] = frozenset()
    """The names of a table's constraints."""

    unique: bool = False
    """Whether an index is unique."""


Line = tuple[Any, Any, Any]
"""A queue, the queue of the envelopes, and an ordering key: what is handed out one after another."""


class Notifications(Protocol):
    """Wakes the waiting receives of this process when another one has sent."""

    @property
    def is_listening(self) -> bool:
        """Whether it does now."""

    def expect(self) -> None:
        """Announce that a receive waits."""

    def close(self) -> None:
        """Stop."""


class Runnable(Protocol):
    """A statement that is run for each of several rows."""

    def run_many(self, connection: sa.Connection, rows: Sequence[Sequence[object]]) -> None:
        """Execute it for each of *rows*."""


class Location(ABC):
    """The database of a transport: its name in messages, and whether another connection reaches the same one."""

    @property
    @abstractmethod
    def words(self) -> str:
        """The database in words, without secrets."""

    @property
    def path(self) -> Path | None:
        """The file, if it is one, as the configuration names it."""
        return None

    @property
    def file(self) -> str:
        """The path of the file as the database reports it, empty if there is none."""
        return ""

    @property
    def is_named(self) -> bool:
        """Whether it can be compared with other databases before it has an id."""
        return True

    @property
    @abstractmethod
    def identity(self) -> Hashable | None:
        """What identifies the database itself now; ``None`` if that is not known, or it does not exist."""

    def is_absent(self) -> bool:
        """Return whether the database does not exist yet."""
        return False

    def unfit(self) -> str:
        """Return why the database cannot be created here; empty if it can."""
        return ""

    @abstractmethod
    def opened(self, home: Any) -> None:
        """Remember *home*, what :meth:`Dialect.prepare` returned for a new connection."""

    def was_replaced(self) -> bool:
        """Return whether another database has taken the place of the one that was opened."""
        return False

    @abstractmethod
    def holds(self, home: Any) -> bool:
        """Return whether *home*, what :meth:`Dialect.home` returned for another connection, is this database."""


class Dialect(ABC):
    """One kind of database."""

    name: ClassVar[str]
    """SQLAlchemy's name of it."""

    compiler: sa.Dialect
    """What the statements are compiled with."""

    is_file: ClassVar[bool] = False
    """Whether it is a file that this process reads and writes itself."""

    waits_to_commit: ClassVar[bool] = False
    """Whether a commit that failed for another writer's lock can be tried again."""

    commits_alone: ClassVar[bool] = False
    """Whether a statement outside a transaction is committed at once and as durably, which saves two round trips."""

    turns_at_send: ClassVar[bool] = False
    """
    Whether a send itself decides if an event of an ordering key waits for others.

    It can where there is one writer at a time. Elsewhere it does not see what other transactions have written, so the
    next claim decides.
    """

    before_all: ClassVar[float] = -(2**63)
    """A number before the first of all dead letters."""

    def compiler_for(self, connection: sa.Connection) -> sa.Dialect:
        """Return what statements are compiled with for *connection*, the application's, perhaps of another driver."""
        return self.compiler

    # --- connections ------------------------------------------------------------------------------

    @abstractmethod
    def location(self, url: sa.URL) -> Location:
        """Return the location of the database that *url* names."""

    @abstractmethod
    def prepare(self, connection: sa.Connection, *, own: bool) -> Any:
        """
        Prepare *connection*, which only relevo uses; return what :meth:`home` returns.

        Args:
            connection: A new connection.

            own: Whether relevo opened the database itself, and may choose its settings.

        Raises:
            ConfigurationError: The database is not supported.
        """

    def is_alive(self, connection: sa.Connection) -> bool:
        """Return whether *connection* is open still, as far as can be seen without asking the database."""
        return True

    @abstractmethod
    def home(self, connection: sa.Connection) -> Any:
        """Return what tells the database behind *connection* from others; nothing of relevo need be in it."""

    @abstractmethod
    def begin(self, connection: sa.Connection, *, durable: bool) -> None:
        """Begin a transaction that writes; if *durable*, its commit survives a crash of the host."""

    def begin_to_create(self, connection: sa.Connection) -> None:
        """
        Keep others from creating tables until the transaction of *connection* ends, which may be the application's.

        A database need not do anything if it needs no such lock.
        """
        return

    def commit(self, connection: sa.Connection) -> None:
        """Commit the transaction."""
        connection.exec_driver_sql("COMMIT")

    @abstractmethod
    def rollback(self, connection: sa.Connection) -> None:
        """Roll back the transaction, if there is one."""

    @abstractmethod
    def joined(self, connection: sa.Connection) -> bool:
        """Return whether what is written on *connection*, the application's, waits for its commit."""

    @contextmanager
    def any_text(self, connection: sa.Connection) -> Iterator[None]:
        """Return text that is not UTF-8 as :class:`Undecodable` during the block, instead of raising an error."""
        yield

    @staticmethod
    def driver(connection: sa.Connection) -> Any:
        """Return the connection of the driver."""
        return connection.connection.driver_connection

    def notifications(self, engine: sa.Engine, ring: Callable[[], None]) -> Notifications | None:
        """
        Return what calls *ring* when an event was sent in any process; ``None`` if the database cannot do that.

        Args:
            engine: Where its connection comes from.

            ring: Called in a thread of its own.
        """
        return None

    # --- time -------------------------------------------------------------------------------------

    def ahead(self, connection: sa.Connection) -> int:
        """Return by how many microseconds the database's time is ahead of this host's."""
        return 0

    # --- the catalog ------------------------------------------------------------------------------

    @abstractmethod
    def catalog(self, connection: sa.Connection) -> Mapping[str, Stored]:
        """Return every object in the database, by name."""

    @abstractmethod
    def columns(self, connection: sa.Connection, tables: Sequence[str]) -> Mapping[str, Mapping[str, bool]]:
        """Return the columns of each of *tables*, and whether each is nullable."""

    # --- statements -------------------------------------------------------------------------------

    @property
    @abstractmethod
    def stray(self) -> str:
        """The condition of a row of ``relevo_event`` that no claim would find."""

    @property
    def stray_queue(self) -> str:
        """The queue of a stray row; empty, which is not a valid name, if the row names none."""
        return "relevo_event.queue"

    @property
    @abstractmethod
    def stray_index(self) -> sa.Index:
        """The index of :attr:`stray`."""

    def next_key(self, key: sa.Column[Any], *, counted: bool = False) -> Mapping[str, sa.ColumnElement[Any]]:
        """
        Return the value of the integer primary key *key* for a new row, by its name; empty if the database has it.

        Args:
            key: The column.

            counted: Whether no key is used twice.
        """
        return {}

    def by_index(self, select: sa.Select[Any], table: sa.FromClause, index: sa.Index) -> sa.Select[Any]:
        """Return *select* with the instruction to find its rows by *index*, if the database needs one."""
        return select

    @abstractmethod
    def chosen(self, select: sa.Select[Any]) -> sa.ColumnElement[bool]:
        """
        Return the condition that a row of ``relevo_event`` is one that *select* finds.

        Args:
            select: Selects keys; rows that another transaction is changing are left out.
        """

    @abstractmethod
    def table_of(self, parameter: str) -> sa.TableValuedAlias:
        """Return a list that is one *parameter*, see :meth:`listed`: a table of ``value`` in the order of ``key``."""

    @abstractmethod
    def among(self, column: sa.ColumnElement[Any], parameter: str) -> sa.ColumnElement[bool]:
        """Return the condition that *column* is a member of a list that is one *parameter*, see :meth:`listed`."""

    @abstractmethod
    def listed(self, values: Iterable[object]) -> object:
        """Return *values* in the form that :meth:`among` and :meth:`table_of` expect."""

    @abstractmethod
    def insert_new(
        self,
        table: sa.Table,
        values: Mapping[str, Any],
        key: Sequence[str],
        *,
        where: sa.ColumnElement[bool] | None = None,
    ) -> sa.Insert:
        """
        Return an INSERT that ignores rows that exist already.

        Args:
            table: The table of the row.

            values: An expression for each column.

            key: The columns that identify a row.

            where: The rows of other tables that the expressions refer to; by default they refer to no table.
        """

    def send(self, connection: sa.Connection, statement: Runnable, rows: Sequence[Sent]) -> None:
        """
        Insert *rows* of new events.

        Args:
            connection: The transport's connection, or the application's.

            statement: Inserts one row, in whatever database; another may be quicker for many.

            rows: The rows, at least one.
        """
        statement.run_many(connection, rows)

    def lock_lines(self, connection: sa.Connection, lines: Iterable[Line]) -> None:
        """
        Let no other transaction choose the next events of *lines* until this one ends.

        A database need not do anything if it has one writer at a time.
        """
        return

    def can_hold(self, text: str) -> bool:
        """Return whether a row can hold *text*: no event has one that it cannot hold, as a lone surrogate."""
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
        return True

    def holdable(self, text: str) -> str:
        """Return *text* in a form that a row can hold: a dead letter that cannot be written would return for ever."""
        return text.encode("utf-8", "backslashreplace").decode()

    # --- errors -----------------------------------------------------------------------------------

    @abstractmethod
    def trouble(self, error: sa.exc.SQLAlchemyError) -> Trouble:
        """Return the meaning of *error*; ``OTHER`` unless it is an error of the driver."""

    def is_refusal(self, error: sa.exc.SQLAlchemyError) -> bool:
        """Return whether *error* is the database's own word that a statement was not executed."""
        return False

    def reason(self, trouble: Trouble) -> str | None:
        """Return what to say about *trouble*, if this database has words of its own for it; see ``_errors``."""
        return None
