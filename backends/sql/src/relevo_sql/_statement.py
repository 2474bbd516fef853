"""
Every statement, written once in SQLAlchemy's words and compiled once a dialect.

They are run as text with plain values. That spares SQLAlchemy's work on each execution, and it lets a row
come back as it is: a type's own conversion would raise at a value that is not of the type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.sql.compiler import SQLCompiler

from relevo_sql._dialect import SqliteDialect
from relevo_sql._row import CLAIMED, SENT, SHOWN
from relevo_sql._schema import IDENTITY, KEPT, LEASED, READY, SCHEDULED, dead, event, meta

_E, _D = event.c, dead.c


class Prepared:
    """A statement as the driver takes it."""

    __slots__ = ("_arrange", "_constants", "_names", "sql")

    def __init__(self, statement: sa.ClauseElement, dialect: SqliteDialect, *, order: Sequence[str] = ()):
        compiled = cast("SQLCompiler", statement.compile(dialect=dialect.compiler))
        self.sql = str(compiled)
        self._names: list[str] = list(compiled.positiontup or ())
        self._constants = {name: value for name, value in compiled.params.items() if value is not None}
        self._arrange: Callable[[Sequence[object]], tuple[object, ...]] | None = None
        if order:
            self._arrange = itemgetter(*(order.index(name) for name in self._names))

    def run(self, connection: sa.Connection, **values: object) -> sa.CursorResult[Any]:
        """Execute it with *values*."""
        values |= self._constants
        return connection.exec_driver_sql(self.sql, tuple([values[name] for name in self._names]))

    def run_many(self, connection: sa.Connection, rows: Sequence[Sequence[object]]) -> int:
        """Execute it for each of *rows*, whose values stand in the order given; return how many rows were touched."""
        if not rows:
            return 0
        if self._arrange is not None:
            rows = list(map(self._arrange, rows))
        return connection.exec_driver_sql(self.sql, rows).rowcount


def _state(state: int) -> sa.ColumnElement[Any]:
    """Return *state* as a literal: only then is the index of that state used."""
    return sa.literal_column(str(state))


def _bind(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(name, type_=sa.types.NullType())


def _in_state(state: int) -> sa.ColumnElement[bool]:
    return _E.state == _state(state)


_Prepare = Callable[..., Prepared]


class Statements:
    """All that the transport says to the database."""

    def __init__(self, dialect: SqliteDialect):
        def prepared(statement: sa.ClauseElement, *order: str) -> Prepared:
            return Prepared(statement, dialect, order=order)

        self._sending(prepared, dialect)
        self._receiving(prepared, dialect)
        self._settling(prepared, dialect)
        self._burying(prepared, dialect)
        self._looking(prepared)
        self.meta = prepared(sa.select(meta.c.key, meta.c.value))

    def _sending(self, prepared: _Prepare, dialect: SqliteDialect) -> None:
        self.send = prepared(dialect.insert_new(event, SENT, IDENTITY), *SENT)

    def _receiving(self, prepared: _Prepare, dialect: SqliteDialect) -> None:
        def ripe(state: int, end: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
            found = sa.select(_E.seq).where(_in_state(state), _of_queue(), end <= _bind("now"))
            return _E.seq.in_(found.order_by(end).limit(_bind("bound")))

        self.look = prepared(_question(dialect))
        self.promote = prepared(sa.update(event).where(ripe(SCHEDULED, _E.ready_at)).values(state=_state(READY)))
        self.reap = prepared(sa.update(event).where(ripe(LEASED, _E.lease_until)).values(_FREE | _LOST))
        ready = sa.select(_E.seq).where(_in_state(READY), _of_queue())
        first = ready.order_by(_E.urgency, _E.ready_at, _E.seq).limit(_bind("bound"))
        self.claim = prepared(
            sa.update(event)
            .where(_E.seq.in_(first))
            .values(
                state=_state(LEASED),
                lease_until=_bind("until"),
                token=_bind("claim"),
                # A stranger may not have said when; then it is now, and stays so.
                enqueued_at=sa.func.coalesce(_E.enqueued_at, _bind("now")),
            )
            .returning(*map(sa.column, CLAIMED))
        )

    def _settling(self, prepared: _Prepare, dialect: SqliteDialect) -> None:
        seq: sa.ColumnClause[Any] = sa.column("seq")
        held = sa.and_(_E.token == _bind("held"), _E.lease_until > _bind("now"))
        chosen = _E.seq.in_(dialect.members("seqs"))
        one = sa.and_(_E.seq == _bind("which"), _E.token == _bind("held"))
        progress = sa.func.coalesce(_bind("kept"), _E.progress)

        self.held = prepared(sa.select(seq).select_from(event).where(held, chosen))
        self.ack = prepared(sa.delete(event).where(held, chosen).returning(seq))
        self.release = prepared(sa.update(event).where(held, chosen).values(_FREE).returning(seq))
        self.extend = prepared(sa.update(event).where(held, chosen).values(lease_until=_bind("until")).returning(seq))
        self.checkpoint = prepared(
            sa.update(event).where(held, _E.seq == _bind("which")).values(progress=_bind("kept"))
        )
        # Those that differ from row to row come after a look at which are held, in the same transaction.
        nacked = _FREE | {"state": _bind("next"), "ready_at": _bind("at"), "attempt": _plus_one("attempt")}
        self.nack = prepared(
            sa.update(event).where(one).values(nacked | {"progress": progress}), "which", "held", "next", "at", "kept"
        )
        self.lose = prepared(
            sa.update(event).where(one).values(_FREE | _LOST | {"progress": progress}), "which", "held", "kept"
        )

    def _burying(self, prepared: _Prepare, dialect: SqliteDialect) -> None:
        one = sa.and_(_E.seq == _bind("which"), _E.token == _bind("held"))
        kept = [_E[name] if name != "progress" else sa.func.coalesce(_bind("kept"), _E.progress) for name in KEPT]
        same = sa.and_(*(_D[name] == _E[name] for name in IDENTITY))
        self.forget = prepared(sa.delete(event).where(one), "which", "held")
        self.replace = prepared(
            sa.delete(dead).where(_D.ref.in_(sa.select(_D.ref).select_from(sa.join(event, dead, same)).where(one))),
            "which", "held",
        )  # fmt: skip
        self.bury = prepared(
            sa.insert(dead).from_select(
                [*KEPT, "reason", "error", "died_at"],
                sa.select(*kept, _bind("reason"), _bind("error"), _bind("died_at")).where(one),
            ),
            "which", "held", "kept", "reason", "error", "died_at",
        )  # fmt: skip
        self.dead = prepared(
            sa.select(*map(sa.column, SHOWN))
            .select_from(dead)
            .where(_D.queue == _bind("queue"), _D.ref > _bind("after"))
            .order_by(_D.ref)
            .limit(_bind("bound"))
        )
        fresh = {"attempt": sa.literal_column("1"), "losses": sa.literal_column("0"), "progress": _bind("kept")}
        again = sa.select(_state(READY), _bind("now"), *(fresh.get(name, _D[name]) for name in KEPT)).where(_one_dead())
        self.revive = prepared(dialect.insert_new(event, SENT, IDENTITY, again))
        self.discard = prepared(sa.delete(dead).where(_one_dead()))

    def _looking(self, prepared: _Prepare) -> None:
        self.stats = prepared(_figures())
        nobodys = sa.or_(_E.state != _state(LEASED), _E.lease_until <= _bind("now"))
        self.cancel = prepared(sa.delete(event).where(_E.event_id == _bind("id"), nobodys))
        self.last = prepared(sa.select(sa.func.max(_E.seq)))
        self.purge = {
            state: prepared(
                sa.delete(event).where(
                    _E.seq.in_(
                        sa.select(_E.seq)
                        .where(_in_state(state), _of_queue(), nobodys, _E.seq <= _bind("last"))
                        .limit(_bind("bound"))
                    )
                )
            )
            for state in (READY, SCHEDULED, LEASED)
        }


def _plus_one(column: str) -> sa.ColumnElement[Any]:
    return _E[column] + sa.literal_column("1")


def _of_queue() -> sa.ColumnElement[bool]:
    return _E.queue == _bind("queue")


def _one_dead() -> sa.ColumnElement[bool]:
    return sa.and_(_D.ref == _bind("ref"), _D.queue == _bind("queue"))


_FREE: dict[str, Any] = {"state": _state(READY), "lease_until": sa.null(), "token": sa.null()}
_LOST: dict[str, Any] = {"attempt": _plus_one("attempt"), "losses": _plus_one("losses")}


def _figures() -> sa.Select[Any]:
    """Return all figures of a queue as one row: one statement is one view, in which nothing moves."""
    count, oldest = sa.func.count().label("number"), sa.func.min(_E.enqueued_at).label("oldest")

    def of(name: str, state: int, *where: sa.ColumnElement[bool]) -> sa.Subquery:
        columns = (count, oldest) if where or state == READY else (count,)
        return sa.select(*columns).select_from(event).where(_in_state(state), _of_queue(), *where).subquery(name)

    parts = (
        of("ready", READY),
        of("leased", LEASED),
        of("over", LEASED, _E.lease_until <= _bind("now")),
        of("scheduled", SCHEDULED),
        of("due", SCHEDULED, _E.ready_at <= _bind("now")),
        sa.select(count).select_from(dead).where(_D.queue == _bind("queue")).subquery("dead"),
    )
    return sa.select(*(column for part in parts for column in part.c))


def _question(dialect: SqliteDialect) -> sa.Select[Any]:
    """Return the question what each queue has: something ready, and when the next delay and lease end."""
    queues = dialect.table_of("queues")

    def first(state: int, found: sa.ColumnElement[Any], order: sa.ColumnElement[Any]) -> sa.ScalarSelect[Any]:
        of_queue = sa.select(found).where(_in_state(state), _E.queue == queues.c.value)
        return of_queue.order_by(order).limit(sa.literal_column("1")).scalar_subquery()

    return sa.select(
        queues.c.value,
        first(READY, sa.literal_column("1"), _E.urgency),
        first(SCHEDULED, _E.ready_at, _E.ready_at),
        first(LEASED, _E.lease_until, _E.lease_until),
    ).order_by(queues.c.key)
