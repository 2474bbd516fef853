"""Statements in the form in which they are run: as text with plain values, compiled once for each dialect."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, ClassVar, cast

import sqlalchemy as sa
from sqlalchemy.sql.compiler import SQLCompiler

from relevo_sql._dialect import Dialect, RowChange


class Prepared:
    """
    A statement in the form that the driver takes.

    It is compiled at its first run: that takes SQLAlchemy a millisecond or two, and a short-lived process needs few
    statements.

    Args:
        statement: The statement, with a parameter for each value.

        compiler: What it is compiled with.

        order: The names of the values of :meth:`run_many`.
    """

    __slots__ = ("_arrange", "_compiler", "_constants", "_names", "_order", "_statement", "sql")

    is_one: ClassVar[bool] = True
    """Whether one run executes one statement."""

    def __init__(self, statement: sa.ClauseElement, compiler: sa.Dialect, *, order: Sequence[str] = ()):
        self._statement = statement
        self._compiler = compiler
        self._order = order
        self._arrange: Callable[[Sequence[object]], tuple[object, ...]] = tuple
        self.sql = ""

    def run(self, connection: sa.Connection, **values: object) -> sa.CursorResult[Any]:
        """Execute it with *values*."""
        if not self.sql:
            self.compile()
        values |= self._constants
        return connection.exec_driver_sql(self.sql, tuple([values[name] for name in self._names]))

    def rows(self, connection: sa.Connection, **values: object) -> Sequence[Sequence[Any]]:
        """Execute it with *values*; return the rows that it reports."""
        return _fetched(self.run(connection, **values))

    def count(self, connection: sa.Connection, **values: object) -> int:
        """Execute it with *values*, if it is a change that reports nothing; return the number of rows that it found."""
        return self.run(connection, **values).rowcount

    def run_many(self, connection: sa.Connection, rows: Sequence[Sequence[object]]) -> None:
        """Execute it for each of *rows*, whose values are in the given order."""
        if not self.sql:
            self.compile()
        if rows:
            connection.exec_driver_sql(self.sql, list(map(self._arrange, rows)))

    def compile(self) -> str:
        """Compile it, and return its text."""
        compiled = cast("SQLCompiler", self._statement.compile(dialect=self._compiler))
        self._names: list[str] = list(compiled.positiontup or ())
        self._constants = {name: value for name, value in compiled.params.items() if value is not None}
        if self._order and list(self._order) != self._names:
            self._arrange = itemgetter(*(self._order.index(name) for name in self._names))
        self.sql = str(compiled)
        return self.sql


class PreparedPair(Prepared):
    """
    A query that locks rows, and the statement that changes them.

    Args:
        query: The query. It returns the key of each row, and what is reported.

        change: The statement; its parameter ``keys`` are the keys.

        listed: Makes a value of that parameter.

        reports_key: The key is reported too.

        compiler: What they are compiled with.

        order: The names of the values of :meth:`run_many`.
    """

    __slots__ = ("_listed", "_reports_key", "change")

    is_one = False

    def __init__(
        self,
        query: sa.ClauseElement,
        change: Prepared,
        compiler: sa.Dialect,
        *,
        listed: Callable[[Iterable[object]], object],
        reports_key: bool,
        order: Sequence[str] = (),
    ):
        super().__init__(query, compiler, order=order)
        self.change = change
        self._listed = listed
        self._reports_key = reports_key

    def rows(self, connection: sa.Connection, **values: object) -> Sequence[Sequence[Any]]:
        found = _fetched(self.run(connection, **values))
        if found:
            self.change.run(connection, **values, keys=self._listed([row[0] for row in found]))
        return found if self._reports_key else [row[1:] for row in found]

    def count(self, connection: sa.Connection, **values: object) -> int:
        return len(self.rows(connection, **values))

    def run_many(self, connection: sa.Connection, rows: Sequence[Sequence[object]]) -> None:
        for row in rows:
            self.rows(connection, **dict(zip(self._order, row, strict=True)))


class PreparedUnion(Prepared):
    """A query that is run for each of several values, in one statement: ``run(connection, queues=[…])``."""

    __slots__ = ("_many", "_one")

    def __init__(self, query: sa.ClauseElement, compiler: sa.Dialect, *, one: str, many: str):
        super().__init__(query, compiler)
        self._one, self._many = one, many

    def run(self, connection: sa.Connection, **values: object) -> sa.CursorResult[Any]:
        if not self.sql:
            self.compile()
        members = cast("Sequence[object]", values[self._many])
        values |= self._constants
        parameters = [each if name == self._one else values[name] for each in members for name in self._names]
        return connection.exec_driver_sql(" UNION ALL ".join([self.sql] * len(members)), tuple(parameters))


def _fetched(result: sa.CursorResult[Any]) -> Sequence[Sequence[Any]]:
    """Return the rows of *result* as the driver has made them: those of SQLAlchemy cost as much again."""
    if not result.returns_rows:
        return ()
    rows = result.cursor.fetchall()
    result.close()
    return rows


class Preparer:
    """Prepares statements for *dialect*."""

    def __init__(self, dialect: Dialect, compiler: sa.Dialect):
        self._dialect = dialect
        self._compiler = compiler

    def __call__(self, statement: sa.ClauseElement, *order: str) -> Prepared:
        """Return *statement*; *order* are the names of the values of ``run_many``."""
        return Prepared(statement, self._compiler, order=order)

    def change(self, change: RowChange, *order: str) -> Prepared:
        """Return what makes *change*, in as many steps as the database needs."""
        *queries, statement = self._dialect.steps(change)
        if not queries:
            return self(statement, *order)
        (query,) = queries
        return PreparedPair(
            query,
            self(statement),
            self._compiler,
            listed=self._dialect.listed,
            reports_key=change.reports_key,
            order=order,
        )

    def lock(self, table: sa.Table, where: Sequence[sa.ColumnElement[bool]], *reported: str) -> Prepared:
        """Return what locks the rows of *table* for which *where* is true; it reports their keys, and *reported*."""
        columns: list[sa.ColumnClause[Any]] = [
            sa.column(name) for name in (table.primary_key.columns[0].name, *reported)
        ]
        locked = sa.select(*columns).select_from(table).where(*where).with_for_update()
        return self(self._dialect.by_key(locked, table))

    def reads(
        self,
        table: sa.Table,
        where: Sequence[sa.ColumnElement[bool]],
        locked: Callable[[sa.Select[Any]], sa.Select[Any]],
    ) -> Prepared:
        """Return what finds the rows of *table* for which *where* is true, as they are now; *locked* locks them."""
        one: sa.ColumnClause[Any] = sa.literal_column("1")
        return self(locked(sa.select(one).select_from(table).where(*where)))

    def for_each(self, query: sa.ClauseElement, *, one: str, many: str) -> Prepared:
        """Return what runs *query*, which has the parameter *one*, for each member of the parameter *many*."""
        return PreparedUnion(query, self._compiler, one=one, many=many)
