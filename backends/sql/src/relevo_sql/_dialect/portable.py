"""Any database that SQLAlchemy knows, in plain SQL: chosen by name for those that have no dialect of their own here."""

from __future__ import annotations

import uuid
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import visitors

from relevo.errors import ConfigurationError, shown
from relevo_sql._dialect.dialect import Dialect, Line, Stored
from relevo_sql._dialect.error_kind import ErrorKind
from relevo_sql._dialect.portable_tables import BINARY, IDENTITY_COLUMN, LINES, MARK, STRAY, identity_of, tables_on
from relevo_sql._dialect.row_change import RowChange, Runnable
from relevo_sql._dialect.server import UnnamedLocation, number_of
from relevo_sql._row import Sent
from relevo_sql._schema import IDENTITY, SCHEMA, STRAYS, done, event, inbox, meta

PORTABLE = "portable"

_SLOTS = 64
"""How many locks the ordering keys share: the most rows that a transaction updates to lock them."""

_BEST = "READ COMMITTED"


class PortableDialect(Dialect):
    """
    Plain SQL: no RETURNING, no SKIP LOCKED, no upsert, no partial index, no lock but that of a row that is updated.

    A change of rows is a compare-and-set, see ``_compare_and_set``. SQLAlchemy begins and ends the transactions and
    runs the statements, so that any driver will do. The isolation level is READ COMMITTED if the database has it; a
    stronger one makes some transactions fail and be repeated.

    Args:
        compiler: SQLAlchemy's dialect of the engine.

        like: The dialect that relevo has for this database or for one that uses the same drivers; it tells what an
            error means and whether a connection is in a transaction.
    """

    name = PORTABLE
    uses_compare_and_set = True
    derived = (IDENTITY_COLUMN,)
    creates_in_transaction = False
    holds_nul = False
    schema_version = f"{SCHEMA} {PORTABLE}"
    first_schema = 4
    stray, stray_index = STRAY, STRAYS

    def __init__(self, compiler: sa.Dialect, like: Dialect | None = None):
        self.compiler = compiler
        self._like = like
        # No expression makes one on any database, so a script is for one database.
        self.random_id = f"'{uuid.uuid4().hex}'" if like is None else like.random_id

    def use_schema(self, schema: str) -> None:
        raise ConfigurationError(
            f"schema: the portable dialect has no such option; got {shown(schema)}; omit it, and name the database in "
            f"the address, or omit dialect on PostgreSQL"
        )

    def serves(self, name: str) -> bool:
        return name == self.compiler.name or (self._like is not None and self._like.serves(name))

    # --- connections ------------------------------------------------------------------------------

    def location(self, url: sa.URL) -> UnnamedLocation:
        return UnnamedLocation(url)

    def prepare(self, connection: sa.Connection, *, own: bool) -> Hashable:
        connection.rollback()  # a listener of the application may have begun something
        try:
            levels = connection.dialect.get_isolation_level_values(self.driver(connection))
        except NotImplementedError:
            levels = ()
        if _BEST in levels:
            connection.execution_options(isolation_level=_BEST)
        if self._like is not None:
            self._like.be_strict(connection)
            connection.rollback()
        return self.home(connection)

    def home(self, connection: sa.Connection) -> Hashable:
        url = connection.engine.url
        return url.host, url.port, url.database

    def begin(self, connection: sa.Connection, *, durable: bool) -> None:
        connection.rollback()
        connection.begin()

    def end_read(self, connection: sa.Connection) -> None:
        connection.rollback()

    def commit(self, connection: sa.Connection) -> None:
        try:
            connection.commit()
        except sa.exc.DBAPIError as error:
            error.statement = error.statement or "COMMIT"  # only what fails before a statement is without one
            raise

    def rollback(self, connection: sa.Connection) -> None:
        connection.rollback()

    def joined(self, connection: sa.Connection) -> bool:
        if self._like is not None:
            return self._like.joined(connection)
        level = connection.get_execution_options().get("isolation_level")
        driver = connection.connection.dbapi_connection
        return level != "AUTOCOMMIT" and getattr(driver, "autocommit", False) is not True

    def begin_for_listener(self, connection: sa.Connection, *, patience: float) -> None:
        if self._like is not None:
            self._like.begin_for_listener(connection, patience=patience)

    def engine_for_listeners(self, engine: sa.Engine) -> sa.Engine:
        return engine if self._like is None else self._like.engine_for_listeners(engine)

    def check_joined(self, connection: sa.Connection, rows: Sequence[Sent]) -> None:
        if self._like is not None:
            self._like.check_joined(connection, rows)

    @contextmanager
    def any_text(self, connection: sa.Connection) -> Iterator[None]:
        if self._like is None:
            yield
        else:
            with self._like.any_text(connection):
                yield

    # --- the catalog ------------------------------------------------------------------------------

    @property
    def metadata(self) -> sa.MetaData:
        return tables_on(self.compiler.name)

    def catalog(self, connection: sa.Connection) -> Mapping[str, Stored]:
        seen = sa.inspect(connection)
        found = {name: Stored(kind="view") for name in seen.get_view_names()}
        for name in seen.get_table_names():
            found[name] = Stored(kind="table")
            # Others are refused anyway, and SQLAlchemy warns of indexes that it does not understand.
            if name in (inbox.name, done.name) or (
                name in self.metadata.tables and MARK in {column["name"] for column in seen.get_columns(name)}
            ):
                indexes = seen.get_indexes(name)
                found |= {str(each["name"]): Stored(kind="index", unique=bool(each["unique"])) for each in indexes}
        return found

    def columns(self, connection: sa.Connection, tables: Sequence[str]) -> Mapping[str, Mapping[str, bool]]:
        seen = sa.inspect(connection)
        there = set(seen.get_table_names()).intersection(tables)
        return {name: {each["name"]: each["nullable"] for each in seen.get_columns(name)} for name in there}

    # --- statements -------------------------------------------------------------------------------

    def ordered(self, select: sa.Select[Any], *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
        return select.order_by(*columns)  # SQL Server limits nothing else

    def same(self, one: sa.ColumnElement[Any], other: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
        if self.compiler.name in BINARY:
            return one == other
        # The first part finds the rows by an index; a space at the end of a text counts only in the second part.
        end = sa.literal_column("'.'", sa.Unicode())
        return sa.and_(one == other, _text(one) + end == _text(other) + end)

    def starts_with(
        self, column: sa.ColumnElement[Any], length: int, prefix: sa.ColumnElement[Any]
    ) -> sa.ColumnElement[bool]:
        start = sa.func.substring if self.compiler.name == "mssql" else sa.func.substr
        one: sa.ColumnElement[int] = sa.literal_column("1")
        return self.same(start(column, one, sa.literal_column(str(length))), prefix)

    def start_of(self, column: str, length: int) -> sa.ColumnElement[Any]:
        return sa.column(column)  # databases differ in the name of the function

    def derive(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return {IDENTITY_COLUMN: identity_of(*(values[name] for name in IDENTITY))}

    def steps(self, change: RowChange) -> Sequence[sa.ClauseElement]:
        found = change.query
        guard = change.guard
        if guard is None:
            guard = () if found.whereclause is None else (found.whereclause,)
        table = self.metadata.tables[change.table.name]
        key = table.c[change.key.name]
        chosen = key.in_(sa.bindparam("keys", expanding=True))
        unchanged = [chosen, *(_moved(each, change.table, table) for each in guard)]
        if change.values is None and not change.reported:
            return found, sa.delete(table).where(*unchanged)
        values = {name: _moved(value, change.table, table) for name, value in (change.values or {}).items()}
        if not change.reported:
            return found, sa.update(table).where(*unchanged).values(values)
        mark: sa.BindParameter[int] = sa.bindparam("mark")
        if change.values == {}:
            where = unchanged[1:]
            marking = sa.update(table).where(*where).values({MARK: mark})
            return marking, sa.select(*change.reported).select_from(table).where(*where, table.c[MARK] == mark)
        taking = sa.update(table).where(*unchanged).values({**values, MARK: mark})
        taken = sa.select(key, *change.reported).select_from(table).where(chosen, table.c[MARK] == mark)
        steps = (found, taking, taken)
        return steps if change.values is not None else (*steps, sa.delete(table).where(chosen))

    def among(self, column: sa.ColumnElement[Any], parameter: str) -> sa.ColumnElement[bool]:
        return column.in_(sa.bindparam(parameter, expanding=True))

    def listed(self, values: Iterable[object]) -> object:
        return list(values)

    def insert_new(
        self,
        table: sa.Table,
        values: Mapping[str, Any],
        key: Sequence[str],
        *,
        where: sa.ColumnElement[bool] | None = None,
    ) -> sa.Insert:
        there = self.metadata.tables[table.name]
        if table is event:
            values, key = {**values, IDENTITY_COLUMN: sa.bindparam(IDENTITY_COLUMN)}, self.derived
        filled = {name: _typed(value, there.c[name]) for name, value in values.items()}
        one: sa.ColumnClause[Any] = sa.literal_column("1")
        twin = sa.select(one).select_from(there).where(*(there.c[name] == filled[name] for name in key))
        new = sa.select(*filled.values()).where(~twin.exists(), *(() if where is None else (where,)))
        return sa.insert(there).from_select(list(filled), new)

    def insert_first(self, table: sa.Table, values: Mapping[str, Any], key: Sequence[str]) -> sa.Insert:
        return self.insert_new(table, values, key).execution_options(preserve_rowcount=True)

    def send(self, connection: sa.Connection, statement: Runnable, rows: Sequence[Sent]) -> None:
        statement.run_many(connection, [(*row, *self.derive(row._asdict()).values()) for row in rows])

    def lock_lines(self, connection: sa.Connection, lines: Iterable[Line]) -> None:
        # An UPDATE locks a row until the transaction ends. In one order, so that no two transactions wait for each
        # other. Two that insert the same row conflict, and one is repeated.
        table = self.metadata.tables[LINES]
        for slot in sorted({number_of(line) % _SLOTS for line in lines}):
            locking = sa.update(table).where(table.c.slot == slot).values(turns=table.c.turns + 1)
            if not connection.execute(locking).rowcount:
                connection.execute(sa.insert(table).values(slot=slot, turns=1).inline())

    # --- errors -----------------------------------------------------------------------------------

    def error_kind(self, error: sa.exc.SQLAlchemyError) -> ErrorKind:
        known = ErrorKind.OTHER if self._like is None else self._like.error_kind(error)
        if known is not ErrorKind.OTHER:
            return known
        if isinstance(error, (sa.exc.ResourceClosedError, sa.exc.PendingRollbackError)):
            return ErrorKind.LOST  # a call inside a transaction has found that the connection of both is lost
        if not isinstance(error, sa.exc.DBAPIError):
            return ErrorKind.OTHER
        statement = (error.statement or "").lstrip()
        if error.connection_invalidated or (not statement and self._like is None):
            return ErrorKind.LOST  # or the server was not reached, or refused the user
        is_of_key = isinstance(error, sa.exc.IntegrityError) and statement.startswith(("INSERT ", "COMMIT"))
        if is_of_key or statement.startswith("CREATE "):
            return ErrorKind.CONFLICT  # another transaction has inserted or created the same
        if self._like is not None:
            return ErrorKind.OTHER
        if f"FROM {meta.name}" in statement:  # the first statement of all
            return ErrorKind.NO_TABLE
        return next((kind for raised, kind in _BY_CLASS if isinstance(error, raised)), ErrorKind.OTHER)

    def reason(self, kind: ErrorKind) -> str | None:
        known = None if self._like is None else self._like.reason(kind)
        return known or _REASONS.get(kind)


def _moved(clause: Any, before: sa.Table, after: sa.Table) -> Any:
    """Return *clause* with the columns of *after* instead of those of *before*."""

    def moved(element: Any, **_: Any) -> Any:
        return after.c[element.name] if isinstance(element, sa.Column) and element.table is before else None

    return visitors.replacement_traverse(clause, {}, moved)


def _text(text: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Return *text* with the type of text, which a parameter lacks: two numbers would be added."""
    if isinstance(text, sa.BindParameter):
        return sa.bindparam(text.key, type_=sa.Unicode())
    return text


def _typed(value: Any, column: sa.Column[Any]) -> Any:
    """Return *value*, as a parameter of the type of *column*, since a SELECT does not tell what it is for."""
    if isinstance(value, sa.BindParameter):
        return sa.bindparam(value.key, type_=column.type)
    return value


_REASONS = {
    ErrorKind.READ_ONLY: "{place} is read-only: {error}",
    ErrorKind.NO_TABLE: "{place} lacks tables that relevo needs, or refuses a statement ({error}); run: relevo setup, "
    "or call transport.setup([…]) with its queues, or grant this user the right that the error names",
}


_BY_CLASS: Sequence[tuple[type[sa.exc.DBAPIError], ErrorKind]] = (
    (sa.exc.DataError, ErrorKind.TOO_BIG),
    (sa.exc.ProgrammingError, ErrorKind.NO_TABLE),
    (sa.exc.OperationalError, ErrorKind.CONFLICT),  # a deadlock, a lock, a transaction that must be repeated, as a rule
)
"""
The meaning of the classes of the DB-API, where the codes of a driver are not known.

https://peps.python.org/pep-0249/#exceptions
"""
