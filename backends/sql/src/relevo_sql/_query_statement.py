"""The statements of queries: pages of waiting events and of dead letters, their numbers, and ordering keys."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import attrs
import sqlalchemy as sa

from relevo_sql._dialect import Dialect
from relevo_sql._row import FARTHEST, FOUND, SHOWN
from relevo_sql._schema import (
    BY_LINE,
    BY_STATE,
    BY_TURN,
    DEAD_BY_QUEUE,
    FARTHEST_TIME,
    LEASED,
    LINE,
    READY,
    SCHEDULED,
    WAITING,
    dead,
    event,
)

_E, _D = event.c, dead.c

QUERIED = (*FOUND, "leased_at")
"""The columns of a waiting event in a list."""


def _next(state: int) -> str:
    return f"after{state}"


NEXT = (*map(_next, BY_STATE), "after_dead")
"""The parts of the tables that have an index by queue: the rows of each state, and the dead ones."""


@attrs.frozen
class FilterShape:
    """Which conditions a filter has; their values are parameters, so that one statement serves all such filters."""

    names: bool = False
    prefixes: tuple[int, ...] = ()
    """The length of each."""

    others: bool = False
    """Whether the reason is one of several."""

    since: bool = False
    until: bool = False

    def on(self, dialect: Dialect, columns: Mapping[str, Any], *, at: str) -> list[sa.ColumnElement[bool]]:
        """Return them as conditions on *columns*, of which *at* is the time."""
        name = columns["name"]
        named: list[sa.ColumnElement[bool]] = [dialect.among(name, "names")] if self.names else []
        named += [
            dialect.starts_with(name, length, _bind(f"prefix{number}")) for number, length in enumerate(self.prefixes)
        ]
        found: list[sa.ColumnElement[bool]] = [dialect.likely(sa.or_(*named))] if named else []
        if self.others:
            found.append(dialect.among(columns["reason"], "reasons"))
        if self.since:
            found.append(columns[at] >= _bind("since"))
        if self.until:
            found.append(columns[at] < _bind("until"))
        return found


class QueryStatements:
    """
    The statements of queries, each built when it is first needed.

    Args:
        dialect: The dialect.

        prepared: Prepares a statement.
    """

    def __init__(self, dialect: Dialect, prepared: Callable[[Any], Any]):
        self._dialect = dialect
        self._prepared = prepared
        self._made: dict[Hashable, Any] = {}

    def page(self, state: int, conditions: FilterShape) -> Any:
        """
        Return the query for a page of the rows of a queue in *state*, in the order of the index of that state.

        The rows are those from ``low`` to ``high``, of those with the time ``low`` only the ones behind the row
        ``behind``.
        """
        return self._once(("page", state, conditions), lambda: self._page(state, conditions))

    def groups(self, states: Sequence[int], conditions: FilterShape, *, by_name: bool) -> Any:
        """
        Return the query that counts the rows of a queue in several parts, by the name of the event if *by_name*.

        It is one statement, which sees one moment: in the next one an event may have gone to another part. *states*
        are those of the parts, whose parameters end with their numbers.
        """

        def make() -> Any:
            return sa.union_all(*(self._group(*part, conditions, by_name) for part in enumerate(states)))

        return self._once(("groups", tuple(states), conditions, by_name), make)

    def dead_page(self, conditions: FilterShape) -> Any:
        """Return the query for a page of the dead letters of a queue."""

        def make() -> sa.Select[Any]:
            columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in SHOWN]
            page = sa.select(*columns).select_from(dead).where(_D.queue == _bind("queue"), _D.ref > _bind("after"))
            page = page.where(*conditions.on(self._dialect, dict(_D), at="died_at"))
            return self._dialect.by_index(page.order_by(_D.ref).limit(_bind("bound")), dead, DEAD_BY_QUEUE)

        return self._once(("dead page", conditions), make)

    def dead_group(self, conditions: FilterShape, *, by: str) -> Any:
        """Return the query that counts the dead letters of a queue by the column *by*."""

        def make() -> sa.Select[Any]:
            key = sa.func.coalesce(_D[by], _literal("''")) if by != "queue" else _literal("''")
            wanted = sa.and_(_D.queue == _bind("queue"), *conditions.on(self._dialect, dict(_D), at="died_at"))
            found = sa.select(key.label("part"), *_numbers(_D.died_at)).select_from(dead).where(wanted)
            found = self._dialect.by_index(found, dead, DEAD_BY_QUEUE)
            return found if by == "queue" else found.group_by(key)

        return self._once(("dead group", conditions, by), make)

    def next_queues(self) -> Any:
        """Return the query for the next queue with rows in each of :data:`NEXT`, after the one that is given for it."""

        def first(queue: sa.Column[Any], name: str, index: sa.Index, *where: sa.ColumnElement[bool]) -> Any:
            # Not min(), for which MariaDB reads all of them.
            found = sa.select(queue).where(queue > _bind(name), *where).order_by(queue).limit(_literal(1))
            return self._dialect.by_index(found, queue.table, index).scalar_subquery()

        def make() -> sa.Select[Any]:
            living = [
                first(_E.queue, _next(state), index, _E.state == _literal(state)) for state, index in BY_STATE.items()
            ]
            return sa.select(*living, first(_D.queue, NEXT[-1], DEAD_BY_QUEUE))

        return self._once("next queues", make)

    def stuck(self) -> Any:
        """Return the query for the ordering keys of a queue that are stuck."""
        return self._once("stuck", lambda: _stuck(self._dialect))

    def rows(self) -> Any:
        """Return the query for rows by their keys, with the same columns."""
        at = sa.case((_E.state == _literal(LEASED), _E.lease_until), else_=_E.ready_at)
        found = sa.select(*(_E[name] for name in QUERIED), at.label("at_")).where(self._dialect.among(_E.seq, "seqs"))
        return self._once("rows", lambda: found)

    def _once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = self._prepared(make())
        return self._made[key]

    def _time(self, state: int) -> sa.ColumnElement[Any]:
        return self._dialect.in_order()[1] if state == READY else self._dialect.end_of(state)

    def _of_state(self, state: int, part: str = "") -> list[sa.ColumnElement[bool]]:
        found = [_E.state == _literal(state), _E.queue == _bind("queue")]
        return [*found, self._dialect.in_order()[0] == _bind(f"urgency{part}")] if state == READY else found

    def _page(self, state: int, conditions: FilterShape) -> sa.Select[Any]:
        at = self._time(state)
        behind = sa.or_(at > _bind("low"), _E.seq > _bind("behind"))
        found = sa.select(*(_E[name] for name in QUERIED), at.label("at_")).where(
            *self._of_state(state), at >= _bind("low"), at <= _bind("high"), behind
        )
        found = found.where(*conditions.on(self._dialect, dict(_E), at="enqueued_at"))
        return self._dialect.by_index(found.order_by(at, _E.seq).limit(_bind("bound")), event, BY_STATE[state])

    def _group(
        self,
        part: int,
        state: int,
        conditions: FilterShape,
        by_name: bool,  # noqa: FBT001 - internal
    ) -> sa.Select[Any]:
        at = self._time(state)
        # Without a row that another program left incomplete: it is unreadable.
        whole = (_E[name].is_not(sa.null()) for name in ("event_id", "source", "name", "body", "enqueued_at"))
        key = _E.name if by_name else _literal("''")
        found = sa.select(_literal(part).label("number"), key.label("part"), *_numbers(_E.enqueued_at)).where(
            *self._of_state(state, str(part)), at >= _bind(f"low{part}"), at <= _bind(f"high{part}"), *whole
        )
        found = found.where(*conditions.on(self._dialect, dict(_E), at="enqueued_at"))
        found = self._dialect.by_index(found, event, BY_STATE[state])
        return found.group_by(key) if by_name else found


def _numbers(at: sa.ColumnElement[Any]) -> Sequence[sa.ColumnElement[Any]]:
    return sa.func.count(), sa.func.min(at), sa.func.max(at)


def since(row: Any) -> sa.ColumnElement[Any]:
    """Return the time since when *row* is due, also if it is a revived one that waits: see ``AT_ONCE``."""
    is_revived = row["ready_at"].between(_literal(-FARTHEST_TIME), _literal(-1))
    return sa.case((is_revived, -row["ready_at"]), else_=row["ready_at"])


def _stuck(dialect: Dialect) -> sa.Select[Any]:
    """Return the query: the lines of a queue in which others wait for a row that cannot be handed out now."""
    line = _lines(dialect)
    head = event.alias("head")
    first = dialect.by_key(sa.select(line), head).outerjoin_from(line, head, head.c.seq == _head(dialect, line))
    held = sa.and_(
        head.c.state == _literal(LEASED),
        head.c.lease_until > _bind("now"),
        head.c.lease_until <= _bind("now") + _literal(FARTHEST),
        sa.or_(head.c.lost_leases > _literal(0), head.c.leased_at <= _bind("before")),
    )
    late = sa.and_(head.c.state == _literal(SCHEDULED), head.c.ready_at > _bind("now"))
    lost = sa.or_(head.c.seq.is_(sa.null()), head.c.state == _literal(WAITING))
    found = first.add_columns(head.c.seq.label("head_seq"), head.c.state.label("head_state"), _total())
    return found.where(sa.or_(held, late, lost)).order_by(line.c.since).limit(_bind("bound"))


def _total() -> sa.ColumnElement[Any]:
    return sa.func.count().over().label("total")


def _lines(dialect: Dialect) -> sa.Subquery:
    """Return the lines of a queue in which rows that are due wait for another one."""
    columns = (_E.target, _E.ordering_key)
    numbers = (
        sa.func.count().label("number"), sa.func.min(since(_E)).label("since"), sa.func.min(_E.seq).label("next_seq")
    )  # fmt: skip
    due = dialect.end_of(WAITING) <= _bind("now")
    found = sa.select(*columns, *numbers).where(_E.state == _literal(WAITING), _E.queue == _bind("queue"), due)
    return dialect.by_index(found, event, BY_STATE[WAITING]).group_by(*columns).subquery("line")


def _head(dialect: Dialect, line: sa.Subquery) -> sa.ColumnElement[Any]:
    """Return the key of the row that the others of *line* wait for."""
    table = event.alias("first")
    mine = {"queue": _bind("queue"), "target": line.c.target, "ordering_key": line.c.ordering_key}

    def of_line(found: Any, index: sa.Index, *where: sa.ColumnElement[bool]) -> sa.Select[Any]:
        select = sa.select(found).select_from(table).where(*(table.c[name] == mine[name] for name in LINE), *where)
        return dialect.by_index(select.correlate(line), table, index)

    if dialect.turns_at_send:
        return of_line(sa.func.min(table.c.seq), BY_LINE).scalar_subquery()
    active = of_line(table.c.seq, BY_TURN, table.c.state.in_([_literal(READY), _literal(LEASED)])).limit(_literal(1))
    late = (table.c.state == _literal(SCHEDULED), table.c.seq < line.c.next_seq)
    earlier = of_line(sa.func.min(table.c.seq), BY_TURN, *late)
    return sa.func.coalesce(active.scalar_subquery(), earlier.scalar_subquery())


def _literal(value: object) -> sa.ColumnClause[Any]:
    return sa.literal_column(str(value))


def _bind(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(name, type_=sa.types.NullType())
