"""A change of rows, which each database makes in its own number of statements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs
import sqlalchemy as sa

from relevo_sql._schema import event


@attrs.frozen(kw_only=True)
class RowChange:
    """A change of rows, which reports values of them: see :meth:`Dialect.steps`."""

    values: Mapping[str, Any] | None
    """The new values by column; ``None`` to delete the rows."""

    table: sa.Table = event

    where: Sequence[sa.ColumnElement[bool]] = ()
    """What the rows have in common."""

    by: sa.Index | None = None
    """The index that finds these rows; ``None`` if it is the primary key."""

    found: sa.Select[Any] | None = None
    """Instead of :attr:`where`: it selects the keys of the rows."""

    guard: Sequence[sa.ColumnElement[bool]] | None = None
    """
    The conditions that a row, read without a lock, must still meet when it is changed; by default all of the query.
    """

    skips_locked: bool = False
    """Whether rows that another transaction is changing are left out, if the database can do that."""

    locks: bool = False
    """Whether the query waits for the transactions that are changing rows which it finds, and looks at these again."""

    at_most: int | None = None
    """How many rows are changed at a time, of those that :attr:`where` finds; ``None`` for all."""

    reported: Sequence[sa.ColumnElement[Any]] = ()
    """The values that are reported of each row, as they are afterwards."""

    @property
    def key(self) -> sa.Column[Any]:
        """The primary key, of one column."""
        return self.table.primary_key.columns[0]

    @property
    def reports_key(self) -> bool:
        """Whether the key is the first of the values that are reported."""
        return bool(self.reported) and getattr(self.reported[0], "name", None) == self.key.name

    @property
    def query(self) -> sa.Select[Any]:
        """The query that selects the keys of the rows."""
        return sa.select(self.key).where(*self.where).limit(self.at_most) if self.found is None else self.found

    def statement(self, *where: sa.ColumnElement[bool]) -> sa.Update | sa.Delete:
        """Return the statement that changes the rows for which *where* is true."""
        if self.values is None:
            return sa.delete(self.table).where(*where)
        return sa.update(self.table).where(*where).values(self.values)

    def at_once(self, chosen: Callable[[sa.Select[Any]], sa.ColumnElement[bool]]) -> Sequence[sa.ClauseElement]:
        """Return one statement that does it all; *chosen* returns the condition that a query finds a row."""
        is_all = self.found is None and self.at_most is None
        changing = self.statement(*self.where if is_all else (chosen(self.query),))
        return [changing.returning(*self.reported) if self.reported else changing]


class Runnable(Protocol):
    """A statement that is run for each of several rows."""

    def run_many(self, connection: sa.Connection, rows: Sequence[Sequence[object]]) -> None:
        """Execute it for each of *rows*."""
