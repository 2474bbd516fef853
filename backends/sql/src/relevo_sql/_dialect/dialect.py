"""
The dialect interface: the transport's demands on a database; one module for each database implements it.

Nothing else in this package depends on which database it is. The statements are written once, with SQLAlchemy; a
dialect compiles them, and supplies what SQL has no common syntax for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol, TypeVar

import attrs
import sqlalchemy as sa

from relevo.errors import ConfigurationError, shown
from relevo_sql._dialect.error_kind import ErrorKind
from relevo_sql._dialect.location import Location
from relevo_sql._dialect.row_change import RowChange, Runnable
from relevo_sql._dialect.upgrade_step import UpgradeStep, with_leased_at
from relevo_sql._row import Sent
from relevo_sql._schema import LEASED, SCHEMA, event, metadata

SLICE = 0.2
"""Seconds that a driver waits for a lock before relevo checks whether to continue waiting."""


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


class Bell(Protocol):
    """Wakes the waiting receives of this process when another one has sent."""

    @property
    def is_listening(self) -> bool:
        """Whether it does now."""

    def expect(self) -> None:
        """Announce that a receive waits."""

    def close(self) -> None:
        """Stop."""


_Insert = TypeVar("_Insert", bound=sa.Insert)


def filled(insert: _Insert, values: Mapping[str, Any], where: sa.ColumnElement[bool] | None) -> _Insert:
    """Return *insert* of one row of *values*, or of those that a query with *where* returns."""
    if where is None:
        return insert.values(values)
    return insert.from_select(list(values), sa.select(*values.values()).where(where))


class Dialect(ABC):
    """One kind of database."""

    name: ClassVar[str]
    """SQLAlchemy's name of it."""

    compiler: sa.Dialect
    """What the statements are compiled with."""

    schema: str = ""
    """The schema of relevo's tables; empty for the one in which the database looks up names without a schema."""

    is_file: ClassVar[bool] = False
    """Whether it is a file that this process reads and writes itself."""

    waits_to_commit: ClassVar[bool] = False
    """Whether a commit that failed for another writer's lock can be tried again."""

    creates_in_transaction: ClassVar[bool] = True
    """Whether a rollback removes tables that were created in the transaction."""

    random_id: str
    """An SQL expression that returns a new id each time: 32 hexadecimal digits."""

    max_autocommit_rows: ClassVar[int] = 0
    """
    The number of new events that one statement can insert outside a transaction.

    It is committed at once and as durably, which saves two round trips.
    """

    leaves_deleted_rows: ClassVar[bool] = False
    """Whether its indexes keep deleted rows until no snapshot needs them and they are vacuumed or purged."""

    commits_statements: ClassVar[bool] = False
    """Whether a statement outside a transaction is committed at once, on a connection of relevo."""

    turns_at_send: ClassVar[bool] = False
    """
    Whether a send itself decides if an event of an ordering key waits for others.

    It can where there is one writer at a time. Elsewhere it does not see what other transactions have written, so the
    next claim decides.
    """

    uses_compare_and_set: ClassVar[bool] = False
    """Whether rows are changed by compare-and-set instead of under locks, and SQLAlchemy runs the statements."""

    derived: ClassVar[Sequence[str]] = ()
    """The columns of ``relevo_event`` that relevo fills beside those of an event, see :meth:`derive`."""

    schema_version: ClassVar[str] = str(SCHEMA)
    """What ``relevo_meta`` records about the tables: their version, and the dialect if it is not the usual one."""

    first_schema: ClassVar[int] = 3
    """The version of the first tables that a release has created in such a database."""

    upgrade_settings: ClassVar[Sequence[str]] = ()
    """What sets up a connection for an upgrade, before its transaction begins."""

    holds_nul: ClassVar[bool] = True
    """Whether a text can contain NUL."""

    before_all: ClassVar[float] = -(2**63)
    """A number before the first of all dead letters."""

    def use_schema(self, schema: str) -> None:
        """
        Keep relevo's tables in *schema*.

        Raises:
            ConfigurationError: The database has no schemas, or *schema* is not the name of one.
        """
        raise ConfigurationError(
            f"schema: only PostgreSQL has schemas inside a database; got {shown(schema)} for a database of "
            f"{self.name}; omit the option, and name another database in the address instead"
        )

    def located(self, home: Hashable | None) -> Dialect:
        """Return the dialect that finds the tables at *home* from any connection; see :meth:`home`."""
        return self

    def lacks_schema(self, connection: sa.Connection) -> bool:
        """Return whether :attr:`schema` does not exist."""
        return False

    def serves(self, name: str) -> bool:
        """Return whether a session on a database that SQLAlchemy calls *name* can be on one of these."""
        return name == self.name

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

    def begin_to_upgrade(self, connection: sa.Connection) -> None:
        """As :meth:`begin_to_create`, on a connection of relevo's own, and before tables are changed."""
        self.begin_to_create(connection)

    def undurable(self, connection: sa.Connection) -> Sequence[str]:
        """Return the settings of the server with which its crash may lose what was committed, as ``name = value``."""
        return ()

    def end_read(self, connection: sa.Connection) -> None:
        """End the transaction that a query has begun, if the driver begins one for it."""
        return

    def commit(self, connection: sa.Connection) -> None:
        """Commit the transaction."""
        connection.exec_driver_sql("COMMIT")

    @abstractmethod
    def rollback(self, connection: sa.Connection) -> None:
        """Roll back the transaction, if there is one."""

    def in_transaction(self, connection: sa.Connection) -> bool:
        """Return whether *connection*, which only relevo uses, is in a transaction, without asking the database."""
        return False

    @abstractmethod
    def joined(self, connection: sa.Connection) -> bool:
        """Return whether what is written on *connection*, the application's, waits for its commit."""

    def begin_for_listener(  # noqa: B027 - most databases have begun
        self, connection: sa.Connection, *, patience: float
    ) -> None:
        """
        Begin the transaction of a listener on *connection*, if the driver has not.

        Args:
            connection: The connection, which may be the application's.

            patience: Seconds to wait for other writers, where a transaction begins by locking them out.
        """

    def engine_for_listeners(self, engine: sa.Engine) -> sa.Engine:
        """Return *engine*, the application's, as the sessions of listeners use it that the transport makes."""
        return engine

    def be_strict(self, connection: sa.Connection) -> None:  # noqa: B027 - most databases always are
        """Let the database refuse what a column cannot hold on *connection*, relevo's own."""

    def check_joined(self, connection: sa.Connection, rows: Sequence[Sent]) -> None:  # noqa: B027 - as above
        """
        Refuse *rows* that the database would change on *connection*, the application's, instead of refusing them.

        Raises:
            OverflowError: A text is longer than its column.

            UnicodeError: The connection cannot send a text.
        """

    @contextmanager
    def any_text(self, connection: sa.Connection) -> Iterator[None]:
        """Return text that is not UTF-8 as :class:`Undecodable` during the block, instead of raising an error."""
        yield

    @staticmethod
    def driver(connection: sa.Connection) -> Any:
        """Return the connection of the driver."""
        return connection.connection.driver_connection

    def notifications(self, engine: sa.Engine, ring: Callable[[], None]) -> Bell | None:
        """
        Return what calls *ring* when an event was sent in any process; ``None`` if the database cannot do that.

        Args:
            engine: Where its connection comes from.

            ring: Called in a thread of its own.
        """
        return None

    def changes(self, connection: sa.Connection) -> int | None:
        """Return a number that changes when another connection commits; ``None`` if there is none that is cheap."""
        return None

    # --- space ------------------------------------------------------------------------------------

    def let_shrink(self, connection: sa.Connection) -> None:  # noqa: B027 - only a file does not shrink by itself
        """Let the database behind *connection*, if it is new and empty, give free space back; see :meth:`give_back`."""

    def spare_pages(self, connection: sa.Connection) -> int:
        """Return how many of the free pages of a file can be given back; 0 if the database sees to that itself."""
        return 0

    def give_back(self, connection: sa.Connection, pages: int) -> None:  # noqa: B027 - only a file has pages
        """Give that number of free *pages* back to the file system, in a transaction that writes."""

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

    def step_from(self, connection: sa.Connection, version: int) -> UpgradeStep:
        """
        Return the step of an upgrade that changes the tables of *version*.

        Args:
            connection: It is only read from.

            version: At least :attr:`first_schema`, and below the present one.
        """
        table = self.compiler.identifier_preparer.format_table(self.metadata.tables[event.name])
        return with_leased_at(table, self.columns(connection, [event.name])[event.name])

    # --- statements -------------------------------------------------------------------------------

    @property
    def metadata(self) -> sa.MetaData:
        """The tables and indexes as the database has them, known once a connection was prepared."""
        return metadata

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

    def by_key(self, select: sa.Select[Any], table: sa.FromClause) -> sa.Select[Any]:
        """As :meth:`by_index`, by the primary key of *table*; these rows first, and then those that are joined."""
        return select

    def lock_waiting(self, select: sa.Select[Any]) -> sa.Select[Any]:
        """
        Return *select* so that no worker takes the events that it finds before the transaction ends.

        It reads what is committed, not what was when the transaction of a session began.
        """
        return select

    def lock_held(self, select: sa.Select[Any]) -> sa.Select[Any]:
        """As :meth:`lock_waiting`, for events that a worker holds: it may extend its lease, but waits to settle."""
        return self.lock_waiting(select)

    def in_order(self) -> Sequence[sa.ColumnElement[Any]]:
        """Return the columns in whose order an index has the ready rows of a queue."""
        return event.c.urgency, event.c.ready_at, event.c.seq

    def end_of(self, state: int) -> sa.ColumnElement[Any]:
        """Return the column that says when *state*, which is not ready, ends; an index has its rows in this order."""
        return event.c.lease_until if state == LEASED else event.c.ready_at

    def ordered(self, select: sa.Select[Any], *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
        """Return *select*, whose order does not matter, by *columns* if the database limits only rows in an order."""
        return select

    def same(self, one: sa.ColumnElement[Any], other: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
        """Return the condition that two texts are equal, byte for byte."""
        return one == other

    def starts_with(
        self, column: sa.ColumnElement[Any], length: int, prefix: sa.ColumnElement[Any]
    ) -> sa.ColumnElement[bool]:
        """Return the condition that *column* starts with *prefix*, which has that *length*."""
        # Not LIKE: it ignores case on SQLite, and gives characters a meaning.
        first: sa.ColumnElement[int] = sa.literal_column("1")
        most: sa.ColumnElement[int] = sa.literal_column(str(length))
        return sa.func.substr(column, first, most) == prefix

    def likely(self, condition: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
        """Return *condition* in a form of which the database expects that many rows fulfil it."""
        return condition

    def start_of(self, column: str, length: int) -> sa.ColumnElement[Any]:
        """Return the first *length* characters of *column*: another writer may have stored a value of any length."""
        first: sa.ColumnElement[int] = sa.literal_column("1")
        most: sa.ColumnElement[int] = sa.literal_column(str(length))
        return sa.func.substr(sa.column(column), first, most).label(column)

    def derive(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the :attr:`derived` columns of a row with *values*."""
        return {}

    def delete(self, table: sa.Table, *where: sa.ColumnElement[bool]) -> sa.ClauseElement:
        """Return the statement that deletes rows of *table*; *where* names their keys."""
        return sa.delete(table).where(*where)

    @abstractmethod
    def steps(self, change: RowChange) -> Sequence[sa.ClauseElement]:
        """
        Return the statements that make *change*.

        It is one statement, or a query and a statement. The query locks the rows and returns the key of each and what
        is reported, each value once; the statement changes the rows whose keys are the parameter ``keys``, see
        :meth:`listed`.

        Without locks, see :attr:`uses_compare_and_set`, the query returns keys, and several statements follow: each is
        about those of the ``keys`` that the SELECT before it has returned, or that still fulfil the guard of the
        change. One puts the parameter ``mark`` on the rows; a SELECT finds them by it and returns what is reported. A
        change without values has no query: it is these two.
        """

    def table_of(self, parameter: str) -> sa.TableValuedAlias | None:
        """
        Return a list that is one *parameter*, see :meth:`listed`: a table of ``value`` in the order of ``key``.

        It is ``None`` if the database has no simple form of it.
        """
        return None

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

    def insert_first(self, table: sa.Table, values: Mapping[str, Any], key: Sequence[str]) -> sa.Insert:
        """
        Return what :meth:`insert_new` returns for a table without a generated key, if its result has to tell more.

        :meth:`has_inserted` takes that result.
        """
        return self.insert_new(table, values, key)

    def has_inserted(self, result: sa.CursorResult[Any]) -> bool:
        """Return whether :meth:`insert_first`, of which this is the *result*, has inserted a row."""
        return result.rowcount > 0

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
        return self.holds_nul or "\0" not in text

    def holdable(self, text: str) -> str:
        """Return *text* in a form that a row can hold: a dead letter that cannot be written would return for ever."""
        valid = text.encode("utf-8", "backslashreplace").decode()
        return valid if self.holds_nul else valid.replace("\0", "\\0")

    # --- errors -----------------------------------------------------------------------------------

    @abstractmethod
    def error_kind(self, error: sa.exc.SQLAlchemyError) -> ErrorKind:
        """Return the meaning of *error*; ``OTHER`` unless it is an error of the driver."""

    def is_refusal(self, error: sa.exc.SQLAlchemyError) -> bool:
        """Return whether *error* is the database's own word that a statement was not executed."""
        return False

    def reason(self, kind: ErrorKind) -> str | None:
        """Return what to say about *kind*, if this database has words of its own for it; see ``_errors``."""
        return None

    def right(self, error: sa.exc.DBAPIError) -> str | None:
        """Return what to grant after *error*, which is ``DENIED``; ``None`` if the database's message says it."""
        return None
