"""
Statements that SQLAlchemy runs, and changes of rows by compare-and-set, for databases that share nothing better.

A change reads the keys of the rows, changes those that still fulfil its conditions and puts a mark on them, and reads
back the rows with that mark. So it reports exactly what it changed: under any isolation level a transaction sees what
it has written itself, and no other change has the same mark. A lock is a mark alone, on the rows that are there when it
is put: a query before it would read an old snapshot in some transactions of the application.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import visitors

from relevo_sql._dialect import RowChange
from relevo_sql._prepared import Prepared, Preparer
from relevo_sql._token import new_token

_MOST = 500
"""The members of a list in one statement: Oracle allows 1000, and SQL Server 2100 parameters of all kinds."""

_PREFIX = "p_"
"""
Begins the name of each parameter.

SQLAlchemy takes a parameter with the name of a column for a new value of that column.
"""

_AS_NAMED: Mapping[str, Any] = {"schema_translate_map": None}
"""The connection may be the application's and have a schema translation map."""


class Executed(Prepared):
    """A statement that SQLAlchemy runs, which passes values as each driver expects them."""

    __slots__ = ()

    def __init__(self, statement: sa.ClauseElement, compiler: sa.Dialect, *, order: Sequence[str] = ()):
        # Or SQLAlchemy adds RETURNING where the database knows it.
        whole = statement.inline() if isinstance(statement, sa.Insert) else statement
        super().__init__(_renamed(whole), compiler, order=order)

    def compile(self) -> str:
        return str(self._statement.compile(dialect=self._compiler))

    def run(self, connection: sa.Connection, **values: object) -> Any:
        return self._execute(connection, values)

    def rows(self, connection: sa.Connection, **values: object) -> Sequence[Sequence[Any]]:
        results = (self._execute(connection, part) for part in _parts(values))
        return [row for result in results if result.returns_rows for row in result]

    def run_many(self, connection: sa.Connection, rows: Sequence[Sequence[object]]) -> None:
        if rows:
            self._execute(connection, [dict(zip(self._order, row, strict=True)) for row in rows])

    def _execute(self, connection: sa.Connection, values: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Any:
        given: Any = _prefixed(values) if isinstance(values, Mapping) else list(map(_prefixed, values))
        statement: Any = self._statement
        return connection.execute(statement, given, execution_options=_AS_NAMED)


class MarkedChange(Executed):
    """
    A change of rows in several statements.

    Args:
        steps: See :meth:`Dialect.steps`.

        compiler: What the texts are compiled with that :meth:`compile` returns.

        order: The names of the values of :meth:`run_many`.
    """

    __slots__ = ("_following",)

    def __init__(self, steps: Sequence[sa.ClauseElement], compiler: sa.Dialect, *, order: Sequence[str] = ()):
        found, *following = steps
        super().__init__(found, compiler, order=order)
        self._following = [(Executed(step, compiler), isinstance(step, sa.Select)) for step in following]

    def compile(self) -> str:
        return ";\n".join([super().compile(), *(step.compile() for step, _ in self._following)])

    def rows(self, connection: sa.Connection, **values: object) -> Sequence[Sequence[Any]]:
        changes = self._found(connection, values)
        return [row for part, keys in changes for row in self._change(connection, part, keys)]

    def count(self, connection: sa.Connection, **values: object) -> int:
        number = 0
        for part, keys in self._found(connection, values):
            self._change(connection, part, keys)
            number += len(keys)
        return number

    def run_many(self, connection: sa.Connection, rows: Sequence[Sequence[object]]) -> None:
        for row in rows:
            self.rows(connection, **dict(zip(self._order, row, strict=True)))

    def _found(
        self, connection: sa.Connection, values: Mapping[str, Any]
    ) -> Iterator[tuple[Mapping[str, Any], Sequence[Any]]]:
        """Yield the values and the keys of each part of the change."""
        for part in _parts(values):
            found = [row[0] for row in self.run(connection, **part)]
            for start in range(0, len(found), _MOST):
                yield part, found[start : start + _MOST]

    def _change(self, connection: sa.Connection, values: Mapping[str, Any], keys: Sequence[Any]) -> list[Sequence[Any]]:
        mark = new_token()
        rows: Sequence[Sequence[Any]] = ()
        for step, reads in self._following:
            result = step.run(connection, **values, keys=keys, mark=mark)
            if reads:
                rows = result.all()
                keys = [row[0] for row in rows]
        return [row[1:] for row in rows]


class MarkedLock(Executed):
    """A lock of rows: an UPDATE that puts the parameter ``mark`` on them, and a SELECT that reads them back."""

    __slots__ = ("_taken",)

    def __init__(self, marking: sa.ClauseElement, taken: sa.ClauseElement, compiler: sa.Dialect):
        super().__init__(marking, compiler)
        self._taken = Executed(taken, compiler)

    def compile(self) -> str:
        return f"{super().compile()};\n{self._taken.compile()}"

    def rows(self, connection: sa.Connection, **values: object) -> Sequence[Sequence[Any]]:
        locked: list[Sequence[Any]] = []
        for part in _parts(values):
            marked = {**part, "mark": new_token()}
            self.run(connection, **marked)
            locked += self._taken.run(connection, **marked).all()
        return locked


class ExecutedForEach(Executed):
    """A query that is run for each of several values: ``run(connection, queues=[…])``."""

    __slots__ = ("_many", "_one")

    def __init__(self, query: sa.ClauseElement, compiler: sa.Dialect, *, one: str, many: str):
        super().__init__(query, compiler)
        self._one, self._many = one, many

    def run(self, connection: sa.Connection, **values: Any) -> Any:
        return [
            row
            for member in values[self._many]
            for row in self._execute(connection, values | {self._one: member, self._many: None})
        ]


class CompareAndSetPreparer(Preparer):
    """Prepares statements that SQLAlchemy runs."""

    def __call__(self, statement: sa.ClauseElement, *order: str) -> Prepared:
        return Executed(statement, self._compiler, order=order)

    def change(self, change: RowChange, *order: str) -> Prepared:
        return MarkedChange(self._dialect.steps(change), self._compiler, order=order)

    def lock(self, table: sa.Table, where: Sequence[sa.ColumnElement[bool]], *reported: str) -> Prepared:
        columns: list[sa.ColumnClause[Any]] = [
            sa.column(name) for name in (table.primary_key.columns[0].name, *reported)
        ]
        marking, taken = self._dialect.steps(RowChange(table=table, values={}, where=where, reported=columns))
        return MarkedLock(marking, taken, self._compiler)

    def reads(
        self,
        table: sa.Table,
        where: Sequence[sa.ColumnElement[bool]],
        locked: Callable[[sa.Select[Any]], sa.Select[Any]],
    ) -> Prepared:
        return self.lock(table, where)

    def for_each(self, query: sa.ClauseElement, *, one: str, many: str) -> Prepared:
        return ExecutedForEach(query, self._compiler, one=one, many=many)


def _prefixed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {_PREFIX + name: value for name, value in values.items()}


def _parts(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield *values* with a part of the list among them at a time."""
    name = next((name for name, value in values.items() if isinstance(value, list) and len(value) > _MOST), None)
    if name is None:
        yield dict(values)
        return
    for start in range(0, len(values[name]), _MOST):
        yield {**values, name: values[name][start : start + _MOST]}


def _renamed(statement: sa.ClauseElement) -> Any:
    """Return *statement* with other names of its parameters."""

    def renamed(element: Any, **_: Any) -> Any:
        if isinstance(element, sa.BindParameter) and element.required:
            return sa.bindparam(_PREFIX + element.key, type_=element.type, expanding=element.expanding)
        return None

    return visitors.replacement_traverse(statement, {}, renamed)
