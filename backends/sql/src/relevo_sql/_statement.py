"""
All statements, written once with SQLAlchemy and compiled once for each dialect.

They are run as text with plain values. That saves SQLAlchemy's work on each execution, and rows are returned unchanged:
the conversion of a type would raise an error for a value that is not of the type.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
import sqlalchemy as sa

from relevo_sql._compare_and_set import CompareAndSetPreparer
from relevo_sql._dialect import Dialect, RowChange
from relevo_sql._prepared import Prepared, Preparer
from relevo_sql._query_statement import QueryStatements, since
from relevo_sql._row import ARCHIVED, CLAIMED, EVIDENCE, FARTHEST, FOUND, LONGEST_EVIDENCE, SHOWN, Sent, Stray
from relevo_sql._schema import (
    AT_ONCE,
    BY_IDENTITY,
    BY_LINE,
    BY_STATE,
    BY_TURN,
    CONTENT,
    DEAD_BY_IDENTITY,
    DEAD_BY_QUEUE,
    DONE_BY_ID,
    DONE_BY_TIME,
    HIGH,
    IDENTITY,
    KEPT,
    LEASED,
    LINE,
    NORMAL,
    READY,
    SCHEDULED,
    WAITING,
    announcement,
    dead,
    done,
    event,
    inbox,
    lock,
    meta,
    unique,
    worker,
)

_E, _D, _A = event.c, dead.c, done.c

_FEW = 500
"""How many rows are deleted at a time that are over; a statement that lists them must not be too large."""


def _state(state: int) -> sa.ColumnElement[Any]:
    """Return *state* as a literal, since only then the index of that state is used."""
    return sa.literal_column(str(state))


def _bind(name: str, column: sa.Column[Any] | None = None) -> sa.BindParameter[Any]:
    """Return the parameter *name*, of the type of *column* where a driver may have to know that to pass nothing."""
    return sa.bindparam(name, type_=sa.types.NullType() if column is None else column.type)


def _in_state(state: int) -> sa.ColumnElement[bool]:
    return _E.state == _state(state)


@attrs.frozen
class Window:
    """The statements of one step of a sweep over the rows of a table, in the order of their time."""

    end: Prepared
    """Finds the time of the last one of the next *bound* rows, after *cursor* and up to *before*."""

    delete: Prepared
    """Deletes those that are over, after *cursor* and up to *end*."""


def _window(
    prepared: Preparer, time: sa.Column[Any], *is_over: sa.ColumnElement[bool], skips_locked: bool = False
) -> Window:
    """Return a sweep of the table of *time*. To skip locked rows, PostgreSQL needs the right to update them."""
    after, table = time > _bind("cursor"), time.table
    assert isinstance(table, sa.Table)  # noqa: S101 - for mypy
    some: sa.Select[Any] = sa.select(time).where(after, time <= _bind("before")).order_by(time).limit(_bind("bound"))
    times = (after, time <= _bind("end"))
    # A row that was written again meanwhile has a later time.
    deleted = RowChange(
        table=table, values=None, where=(*times, *is_over), guard=times, at_most=_FEW, skips_locked=skips_locked
    )
    return Window(
        end=prepared(sa.select(sa.func.max(some.subquery().c[time.name]))),
        delete=prepared.change(deleted),
    )


def statements_for(dialect: Dialect, connection: sa.Connection | None = None) -> Statements:
    """
    Return all statements in *dialect*; the same object each time, since compiling takes some milliseconds.

    Args:
        dialect: The dialect.

        connection: The connection to run them on, if it may be of another driver than the transport's own.
    """
    compiler = dialect.compiler if connection is None else dialect.compiler_for(connection)
    key = dialect.name, compiler.name, compiler.paramstyle, dialect.schema
    if key not in _compiled:
        _compiled[key] = Statements(dialect, compiler)
    return _compiled[key]


_compiled: dict[tuple[str, str, str, str], Statements] = {}


class Statements:
    """
    All statements that the transport executes.

    Args:
        dialect: The dialect.

        compiler: What they are compiled with; the dialect's own by default.
    """

    def __init__(self, dialect: Dialect, compiler: sa.Dialect | None = None):
        kind = CompareAndSetPreparer if dialect.uses_compare_and_set else Preparer
        prepared = kind(dialect, compiler or dialect.compiler)
        self._dialect = dialect
        self._sending(prepared, dialect)
        self._lining(prepared, dialect)
        self._receiving(prepared, dialect)
        self._settling(prepared, dialect)
        self._burying(prepared, dialect)
        self._archiving(prepared, dialect)
        self._looking(prepared, dialect)
        self.meta = prepared(sa.select(meta.c.key, meta.c.value))
        self._meeting(prepared, dialect)
        self.queries = QueryStatements(dialect, prepared)

    def write(self, connection: sa.Connection, rows: Sequence[Sent]) -> None:
        """Write *rows* of new events; an event that is already stored stays unchanged."""
        send = self.send
        if any(row.ordering_key is not None for row in rows):
            if self._dialect.turns_at_send:
                send = self.send_in_line
            else:
                rows = [row if row.ordering_key is None else _to_be_put_in_line(row) for row in rows]
        self._dialect.send(connection, send, rows)

    def announce_for(self, connection: sa.Connection, worker: str, about: bytes, *, until: int, now: int) -> None:
        """Keep the announcement of *worker*, or a control, until that time, and delete what has expired."""
        kept = {"about": about, "until": until}
        if not self.announce.run(connection, which=worker, **kept).rowcount:
            self.announce_first.run(connection, worker=worker, **kept)
        self.forget_announcements.rows(connection, now=now)

    def _meeting(self, prepared: Preparer, dialect: Dialect) -> None:
        held = {name: _bind(name) for name in ("holder", "receipt", "until")}
        mine = (lock.c.name == _bind("which"), lock.c.receipt == _bind("mine"))
        free = (lock.c.until <= _bind("now")) | (lock.c.holder == _bind("holder"))
        self.lock_first = prepared(dialect.insert_new(lock, {"name": _bind("which"), **held}, ["name"]))
        self.lock = prepared(sa.update(lock).where(lock.c.name == _bind("which"), free).values(held))
        self.renew_lock = prepared(sa.update(lock).where(*mine).values(until=_bind("until")))
        self.unlock = prepared(sa.delete(lock).where(*mine))
        self.fire_schedule = prepared(
            sa.update(lock)
            # A time that was set by hand may have a part of a second.
            .where(lock.c.name == _bind("which"), lock.c.until >= _bind("fired"), lock.c.until < _bind("following"))
            .values(receipt=_bind("receipt"), until=_bind("until"))
        )
        self.fired_schedules = prepared(
            sa.select(*(sa.column(name) for name in ("name", "until", "receipt")))
            .select_from(lock)
            .where(dialect.among(lock.c.name, "names"))
        )
        first = {"worker": _bind("worker"), "beats": sa.literal_column("1"), "seen_at": _bind("now")}
        again = {"beats": worker.c.beats + sa.literal_column("1"), "seen_at": _bind("now")}
        self.appear_first = prepared(dialect.insert_new(worker, first, ["worker"]))
        self.appear = prepared(sa.update(worker).where(worker.c.worker == _bind("which")).values(again))
        said = {"about": _bind("about"), "until": _bind("until")}
        self.announce_first = prepared(
            dialect.insert_new(announcement, {"worker": _bind("worker"), **said}, ["worker"])
        )
        self.announce = prepared(sa.update(announcement).where(announcement.c.worker == _bind("which")).values(said))
        over = (announcement.c.until <= _bind("now"),)
        self.forget_announcements = prepared.change(
            RowChange(table=announcement, values=None, where=over, at_most=_FEW, skips_locked=True)
        )
        shown: list[sa.ColumnClause[Any]] = [sa.column("worker"), sa.column("about")]
        known = sa.select(*shown).select_from(announcement).where(announcement.c.until > _bind("now"))
        is_control = announcement.c.worker.like(_bind("control"))  # a parameter: some drivers use % themselves
        is_limit = announcement.c.worker.like(_bind("limit"))
        self.announcements = prepared(known.where(~is_control, ~is_limit))
        self.controls = prepared(known.where(is_control))
        self._limiting(prepared, dialect, said)
        done = {"key": _bind("which"), "state": _bind("kept"), "handled_at": _bind("now")}
        self.remember = prepared(sa.insert(inbox).values(done).inline())
        as_noted = (inbox.c.key == _bind("which"), inbox.c.state == _bind("before"))
        further = {"state": _bind("kept"), "handled_at": _bind("now")}
        self.note_again = prepared(sa.update(inbox).where(*as_noted).values(further))
        self.forget_note = prepared(sa.delete(inbox).where(*as_noted))
        self.remembered = prepared(sa.select(inbox.c.state).where(inbox.c.key == _bind("which")))
        self.past_handled = _window(prepared, inbox.c.handled_at)
        self._claiming_keys(prepared, dialect)
        # Without those that a heartbeat has locked: two workers would wait for each other.
        old = (worker.c.seen_at < _bind("before"),)
        self.forget_workers = prepared.change(
            RowChange(table=worker, values=None, where=old, at_most=_FEW, skips_locked=True)
        )
        beats: list[sa.ColumnClause[Any]] = [sa.column("worker"), sa.column("beats")]
        self.beats = prepared(sa.select(*beats).select_from(worker).where(dialect.among(worker.c.worker, "workers")))

    def _limiting(self, prepared: Preparer, dialect: Dialect, said: dict[str, sa.BindParameter[Any]]) -> None:
        key = announcement.c.worker == _bind("which")
        as_read = (key, announcement.c.until == _bind("ended"), announcement.c.about == _bind("before"))
        stored: list[sa.ColumnClause[Any]] = [sa.column("about"), sa.column("until")]
        self.limit = prepared(sa.select(*stored).select_from(announcement).where(key))
        self.limit_first = prepared(dialect.insert_first(announcement, {"worker": _bind("worker"), **said}, ["worker"]))
        self.change_limit = prepared(sa.update(announcement).where(*as_read).values(said))
        self.forget_limit = prepared(sa.delete(announcement).where(*as_read))

    def _claiming_keys(self, prepared: Preparer, dialect: Dialect) -> None:
        key = unique.c.key == _bind("which")
        held = {name: _bind(name) for name in ("source", "event_id", "until")}
        self.take_key_first = prepared(dialect.insert_first(unique, {"key": _bind("which"), **held}, ["key"]))
        self.has_inserted = dialect.has_inserted
        self.lock_key = prepared.lock(unique, (key,), "source", "event_id", "until")
        named = (dialect.same(_E.event_id, _bind("id")), dialect.same(_E.source, _bind("source")))
        waits, is_held = (*named, _E.state != _state(LEASED)), (*named, _in_state(LEASED))
        self.waits = prepared.reads(event, waits, dialect.lock_waiting)
        self.is_held = prepared.reads(event, is_held, dialect.lock_held)
        one: sa.ColumnClause[Any] = sa.literal_column("1")
        self.take_key = prepared(sa.update(unique).where(key).values(held))
        lives = (
            sa.select(one)
            .select_from(event)
            .where(dialect.same(_E.event_id, unique.c.event_id), dialect.same(_E.source, unique.c.source))
        )
        self.past_keys = _window(prepared, unique.c.until, ~lives.correlate(unique).exists(), skips_locked=True)

    def _sending(self, prepared: Preparer, dialect: Dialect) -> None:
        values = {name: _bind(name) for name in Sent._fields}
        self.send = prepared(dialect.insert_new(event, values, IDENTITY), *Sent._fields, *dialect.derived)
        if not dialect.turns_at_send:
            return
        state = _behind_others(dialect, {name: _bind(name) for name in LINE}, otherwise=_bind("state"))
        in_line = values | {**dialect.next_key(_E.seq), "state": state}  # a line is ordered by its keys
        self.send_in_line = prepared(dialect.insert_new(event, in_line, IDENTITY), *Sent._fields)

    def _lining(self, prepared: Preparer, dialect: Dialect) -> None:
        line = [_E[name] for name in LINE]
        self.lines = prepared(sa.select(*line).where(dialect.among(_E.seq, "seqs")))
        # If the clock was set back, what was sent without a delay is due although its time has not come.
        delayed = (_E.ready_at > _bind("now")) & (_E.ready_at > sa.func.coalesce(_E.enqueued_at, _bind("now")))
        turn = sa.case((delayed, _state(SCHEDULED)), else_=_state(READY))
        waits = _in_state(WAITING)
        # MariaDB assigns one after the other: the state first, which depends on the time.
        values = {"state": turn, "ready_at": since(_E)}
        following = RowChange(values=values, where=(waits, _is_next(dialect)), guard=(waits,))
        self.advance = prepared.change(following, *LINE, "now")
        # If another program deleted a row, no settlement makes the next one ready.
        here, before = event.alias("here"), event.alias("before")
        ahead = sa.select(before.c.seq).where(
            *(dialect.same(before.c[name], here.c[name]) for name in LINE), before.c.seq < here.c.seq
        )
        first = sa.select(*(here.c[name] for name in LINE)).where(
            here.c.state == _state(WAITING),
            dialect.same(here.c.queue, _bind("queue")),
            ~dialect.by_index(ahead.correlate(here), before, BY_LINE).exists(),
        )
        first = dialect.by_index(first, here, BY_STATE[WAITING])
        self.left_waiting = prepared(dialect.ordered(first, here.c.ready_at).limit(_bind("bound")))

    def _receiving(self, prepared: Preparer, dialect: Dialect) -> None:
        def change(found: sa.Select[Any], state: int, values: dict[str, Any], *reported: str) -> Prepared:
            bounded = dialect.by_index(found.limit(_bind("bound")), event, BY_STATE[state])
            columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in reported]
            return prepared.change(RowChange(values=values, found=bounded, skips_locked=True, reported=columns))

        def ripe(state: int) -> sa.Select[Any]:
            end = dialect.end_of(state)
            return sa.select(_E.seq).where(_in_state(state), _of_queue(dialect), end <= _bind("now")).order_by(end)

        queues = dialect.table_of("queues")
        if queues is None:
            self.look = prepared.for_each(_question(dialect, _bind("queue", _E.queue)), one="queue", many="queues")
        else:
            self.look = prepared(_question(dialect, queues.c.value).order_by(queues.c.key))
        if dialect.turns_at_send:
            self.promote = change(ripe(SCHEDULED), SCHEDULED, {"state": _state(READY)})
        else:
            turn = sa.case(
                (_E.ordering_key.is_(sa.null()) | _E.target.is_(sa.null()), _state(READY)), else_=_state(WAITING)
            )
            sent = sa.case(
                (_E.ready_at == _state(AT_ONCE), sa.func.coalesce(_E.enqueued_at, _bind("now"))), else_=_E.ready_at
            )
            self.promote = change(ripe(SCHEDULED), SCHEDULED, {"state": turn, "ready_at": sent}, *LINE)
        self.reap = change(ripe(LEASED), LEASED, _FREE | _lost(dialect))
        ahead = sa.select(_E.seq).where(_in_state(READY), _of_queue(dialect), _E.ready_at > _bind("now"))
        self.catch_up = change(ahead.order_by(*dialect.in_order()), READY, {"ready_at": _bind("now")})
        over = dialect.end_of(LEASED)
        endless = sa.select(_E.seq).where(_in_state(LEASED), _of_queue(dialect), over > _farthest())
        self.reap_endless = change(dialect.ordered(endless, over), LEASED, _FREE | _lost(dialect))
        self._claiming(prepared, dialect)

    def _claiming(self, prepared: Preparer, dialect: Dialect) -> None:
        ready = sa.select(_E.seq).where(_in_state(READY), _of_queue(dialect))
        first = ready.order_by(*dialect.in_order()).limit(_bind("bound"))
        leased = {
            "state": _state(LEASED),
            "lease_until": _bind("until"),
            "leased_at": _bind("now"),
            "token": _bind("claim"),
            # Another writer may have omitted it; then it is set to now once.
            "enqueued_at": sa.func.coalesce(_E.enqueued_at, _bind("now")),
        }
        claimed = [
            dialect.start_of(name, LONGEST_EVIDENCE) if name in EVIDENCE else sa.column(name) for name in CLAIMED
        ]
        self._taking(prepared, dialect, leased, claimed)
        found = dialect.by_index(first, event, BY_STATE[READY])
        self.claim = prepared.change(RowChange(values=leased, found=found, skips_locked=True, reported=claimed))
        turn, at, _ = dialect.in_order()
        later = dialect.by_index(first.where(turn == _bind("urgency"), at >= _bind("since")), event, BY_STATE[READY])
        self.claim_since = prepared.change(RowChange(values=leased, found=later, skips_locked=True, reported=claimed))
        held = sa.and_(_in_state(LEASED), _E.lease_until > _bind("now"), _E.lease_until <= _farthest())
        astray = (_is_stray(dialect), _fails(held))
        strays = sa.select(*(_E[name] for name in Stray._fields)).where(*astray, _of_queue_or_none(dialect))
        strays = dialect.ordered(strays, _E.seq).limit(_bind("bound"))
        self.strays = prepared(dialect.by_index(strays, event, dialect.stray_index))
        # Where several write at a time, another worker may have claimed some of them meanwhile.
        chosen = (dialect.among(_E.seq, "seqs"), *(() if dialect.turns_at_send else astray))
        # So that a later claim finds it, whatever its state was.
        unproven = [sa.null().label(name) if name in EVIDENCE else sa.column(name) for name in CLAIMED]
        repaired = leased | {"ready_at": _bind("now")}
        self.claim_strays = prepared.change(RowChange(values=repaired, where=chosen, reported=unproven))

    def _taking(
        self, prepared: Preparer, dialect: Dialect, leased: dict[str, Any], claimed: Sequence[sa.ColumnElement[Any]]
    ) -> None:
        """Prepare what leases given rows, whatever is ready before them."""
        columns = (_E.seq, *(_E[name] for name in LINE), _E.state, _E.ready_at)
        meant = sa.select(*columns).where(dialect.same(_E.event_id, _bind("id")), _of_queue(dialect))
        self.meant = prepared(meant)
        chosen = dialect.among(_E.seq, "seqs")
        over = sa.or_(_E.lease_until <= _bind("now"), _E.lease_until > _farthest())
        lost = RowChange(values=_FREE | _lost(dialect), where=(chosen, _in_state(LEASED), over))
        self.reap_meant = prepared.change(lost)
        one = _E.seq == _bind("which")
        in_line = {"state": _state(WAITING), "ready_at": _bind("now")}
        self.join_line = prepared(sa.update(event).where(one, _in_state(SCHEDULED)).values(in_line))
        late = {"state": _state(SCHEDULED), "ready_at": _bind("at")}
        self.leave_line = prepared(sa.update(event).where(one, _in_state(WAITING)).values(late))
        has_no_line = _E.ordering_key.is_(sa.null()) | _E.target.is_(sa.null())
        can_be = sa.or_(_in_state(READY), _in_state(SCHEDULED) & has_no_line)
        due = {"ready_at": sa.case((_E.ready_at > _bind("now"), _bind("now")), else_=_E.ready_at)}
        self.claim_meant = prepared.change(RowChange(values=leased | due, where=(chosen, can_be), reported=claimed))

    def _settling(self, prepared: Preparer, dialect: Dialect) -> None:
        seq: sa.ColumnClause[Any] = sa.column("seq")
        held = sa.and_(_E.token == _bind("held"), _E.lease_until > _bind("now"))
        chosen = (held, dialect.among(_E.seq, "seqs"))
        one = sa.and_(_E.seq == _bind("which"), _E.token == _bind("held"))
        progress = sa.func.coalesce(_bind("kept", _E.progress), _E.progress)

        def change(values: dict[str, Any] | None) -> Prepared:
            return prepared.change(RowChange(values=values, where=chosen, reported=(seq,)))

        # Locked, where another transaction could change them before this one does.
        self.held = prepared.lock(event, chosen)
        self.ack = change(None)
        self.ack_all = prepared(dialect.delete(event, *chosen))
        self.ack_one = prepared(sa.delete(event).where(held, _E.seq == _bind("which")))
        self.release = change(_FREE)
        self.postpone = change(_FREE | {"state": _state(SCHEDULED), "ready_at": _bind("at")})
        self.extend = change({"lease_until": _bind("until")})
        self.checkpoint = prepared(
            sa.update(event).where(held, _E.seq == _bind("which")).values(progress=_bind("kept"))
        )
        # Also after the end of the lease, which the transaction itself may have kept the worker from renewing.
        self.checkpoint_held = prepared(sa.update(event).where(one).values(progress=_bind("kept")))
        # Changes nothing: an UPDATE waits for the transaction that has written the row, and reports whether it fits.
        same = (*one.clauses, _E.progress == _bind("kept"))
        self.has_progress = prepared(sa.update(event).where(*same).values(progress=_E.progress))
        self.begin = prepared(
            sa.update(event).where(held, _E.seq == _bind("which")).values(begun=_bind("note"), deaths=_bind("dead"))
        )
        noted = (_E.seq == _bind("which"), _E.begun == _bind("note"))
        self.excuse = prepared(sa.update(event).where(*noted).values(begun=_bind("excused")))
        # Statements with values for each row run after the one that selects the held rows, in the same transaction.
        nacked = _FREE | {"state": _bind("next"), "ready_at": _bind("at"), "attempt": _plus_one(dialect, "attempt")}
        nacked["begun"] = sa.null()
        self.nack = prepared(
            sa.update(event).where(one).values(nacked | {"progress": progress}), "which", "held", "next", "at", "kept"
        )
        self.last_ready = prepared(_last_ready(dialect))
        lost = _FREE | _lost(dialect) | {"progress": progress}
        self.lose = prepared(sa.update(event).where(one).values(lost), "which", "held", "kept")
        deaths = dialect.start_of("deaths", LONGEST_EVIDENCE)
        self.deaths = prepared(sa.select(deaths).select_from(event).where(one))
        self.die = prepared(
            sa.update(event).where(one).values(lost | {"begun": sa.null(), "deaths": _bind("dead")}),
            "which", "held", "kept", "dead",
        )  # fmt: skip

    def _burying(self, prepared: Preparer, dialect: Dialect) -> None:
        one = sa.and_(_E.seq == _bind("which"), _E.token == _bind("held"))
        said = {"progress": sa.func.coalesce(_bind("kept", _E.progress), _E.progress), "queue": _bind("queue")}
        kept = [said.get(name, _E[name]) for name in KEPT]
        same = sa.and_(*(dialect.same(_D[name], _E[name]) for name in IDENTITY))
        self.forget = prepared(sa.delete(event).where(one), "which", "held")
        twins = sa.select(*(column[name] for column in (_D, _E) for name in CONTENT), _D.ref, _D.queue)
        twins = twins.select_from(sa.join(event, dead, same))
        earlier = dialect.by_key(twins.where(dialect.among(_E.seq, "seqs")), event)
        self.earlier = prepared(dialect.by_index(earlier, dead, DEAD_BY_IDENTITY))
        ref = dialect.next_key(_D.ref, counted=True)
        self.bury = prepared(
            sa.insert(dead).from_select(
                [*ref, *KEPT, "reason", "error", "died_at"],
                sa.select(*ref.values(), *kept, _bind("reason"), _bind("error"), _bind("died_at")).where(one),
            ),
            "which", "held", "queue", "kept", "reason", "error", "died_at",
        )  # fmt: skip
        shown: list[sa.ColumnClause[Any]] = [sa.column(name) for name in SHOWN]
        page = sa.select(*shown).where(dialect.same(_D.queue, _bind("queue")), _D.ref > _bind("after"))
        page = page.order_by(_D.ref).limit(_bind("bound"))
        self.dead = prepared(dialect.by_index(page, dead, DEAD_BY_QUEUE))
        in_line = partial(_behind_others, dialect, {name: _D[name] for name in LINE})
        if dialect.turns_at_send:
            turn = {
                "state": in_line(otherwise=_state(READY)),
                "ready_at": in_line(behind=-_bind("now"), otherwise=_bind("now")),
            }
        else:
            is_alone = _D.ordering_key.is_(sa.null())
            turn = {
                "state": sa.case((is_alone, _state(READY)), else_=_state(SCHEDULED)),
                "ready_at": sa.case((is_alone, _bind("now")), else_=-_bind("now")),
            }
        fresh = turn | {
            "attempt": sa.literal_column("1"),
            "lost_leases": sa.literal_column("0"),
            "progress": _bind("kept"),
        }
        again = {name: fresh[name] if name in fresh else _D[name] for name in Sent._fields}
        again |= dialect.next_key(_E.seq)
        which = _one_dead(dialect)
        self.lock_dead = prepared.lock(dead, (which,), *IDENTITY)
        self.revive = prepared(dialect.insert_new(event, again, IDENTITY, where=which))
        scheduled = _state(SCHEDULED)
        later = again | {
            "state": in_line(otherwise=scheduled) if dialect.turns_at_send else scheduled,
            "ready_at": _bind("now"),
        }
        self.revive_later = prepared(dialect.insert_new(event, later, IDENTITY, where=which))
        self.living = prepared(twins.where(which))
        self.discard = prepared(sa.delete(dead).where(which))
        self._keeping(prepared, dialect)

    def _keeping(self, prepared: Preparer, dialect: Dialect) -> None:
        """Prepare what stores the dead letters of other transports."""
        kept = {name: _bind(name, _D[name]) for name in (*KEPT, "reason", "error", "died_at")}
        self.keep = prepared(sa.insert(dead).values({**dialect.next_key(_D.ref, counted=True), **kept}).inline())
        # Without RETURNING, which not every database has: a queue that no other row has finds the new row.
        found = dialect.same(_D.queue, _bind("mark"))
        self.kept = prepared(dialect.by_index(sa.select(_D.ref).where(found), dead, DEAD_BY_QUEUE))
        self.name_kept = prepared(sa.update(dead).where(_D.ref == _bind("which")).values(queue=_bind("named")))
        later = dead.alias("later")
        same = sa.and_(*(dialect.same(_D[name], later.c[name]) for name in IDENTITY))
        copies = sa.select(*(column[name] for column in (_D, later.c) for name in CONTENT), _D.ref, _D.queue)
        copies = copies.select_from(sa.join(later, dead, same)).where(later.c.ref == _bind("ref"), _D.ref < later.c.ref)
        self.earlier_kept = prepared(dialect.by_index(copies, dead, DEAD_BY_IDENTITY))
        shown: list[sa.ColumnClause[Any]] = [sa.column(name) for name in SHOWN]
        self.one_dead = prepared(sa.select(*shown).select_from(dead).where(_one_dead(dialect)))

    def _archiving(self, prepared: Preparer, dialect: Dialect) -> None:
        # Of rows that the transaction has locked, so that it archives exactly those that it deletes next.
        held = sa.select(*(_E[name] for name in KEPT), _bind("now")).where(
            _E.token == _bind("held"), dialect.among(_E.seq, "seqs")
        )
        self.archive = prepared(sa.insert(done).from_select([*KEPT, "done_at"], dialect.by_key(held, event)))
        self.archive_nothing = prepared(sa.insert(done).values(queue=_bind("queue"), done_at=_bind("now")).inline())
        # From the oldest that was left: the database may still have to pass over what was deleted before it.
        left = _A.done_at >= _bind("after")
        self.oldest_done = prepared(sa.select(sa.func.min(_A.done_at)).where(left))
        past = sa.select(_A.ref).where(left, _A.done_at < _bind("before"))
        past = past.order_by(_A.done_at).limit(_bind("bound"))
        past = dialect.by_index(past, done, DONE_BY_TIME)
        self.forget_done = prepared.change(RowChange(table=done, values=None, found=past, skips_locked=True))
        kept: list[sa.ColumnClause[Any]] = [sa.column(name) for name in ARCHIVED]
        named = sa.select(*kept).select_from(done).where(dialect.same(_A.event_id, _bind("id"))).order_by(_A.ref)
        self.find_done = prepared(dialect.by_index(named, done, DONE_BY_ID))

    def _looking(self, prepared: Preparer, dialect: Dialect) -> None:
        self.stats = prepared(_figures(dialect))
        nobodys = sa.or_(
            _E.state != _state(LEASED), _E.lease_until <= _bind("now"), _E.lease_until > _farthest(), _is_stray(dialect)
        )
        line: list[sa.ColumnClause[Any]] = [sa.column(name) for name in LINE]
        is_named = dialect.same(_E.event_id, _bind("id"))
        named = (is_named, nobodys)
        self.cancel = prepared.change(RowChange(values=None, where=named, by=BY_IDENTITY, reported=line))
        kept: list[sa.ColumnClause[Any]] = [sa.column(name) for name in FOUND]
        self.find = prepared(sa.select(*kept).select_from(event).where(is_named).order_by(_E.seq))
        self.last = prepared(sa.select(sa.func.max(_E.seq)))

        def remove(some: sa.Select[Any], index: sa.Index) -> Prepared:
            bounded = dialect.ordered(some.where(_E.seq <= _bind("last")), _E.seq).limit(_bind("bound"))
            found = dialect.by_index(bounded, event, index)
            return prepared.change(RowChange(values=None, found=found, locks=True, reported=line))

        self.purge = {
            state: remove(sa.select(_E.seq).where(_in_state(state), _of_queue(dialect), nobodys), BY_STATE[state])
            for state in (WAITING, READY, SCHEDULED, LEASED)
        }
        strays = sa.select(_E.seq).where(_is_stray(dialect), _of_queue_or_none(dialect))
        self.purge_strays = remove(strays, dialect.stray_index)


def _to_be_put_in_line(row: Sent) -> Sent:
    """Return the new *row* for the claim that finds it due, and decides then whether it waits for others."""
    return row if row.state == SCHEDULED else row._replace(state=SCHEDULED, ready_at=AT_ONCE)


def _behind_others(
    dialect: Dialect,
    line: dict[str, Any],
    *,
    behind: sa.ColumnElement[Any] | None = None,
    otherwise: sa.ColumnElement[Any],
) -> sa.ColumnElement[Any]:
    """Return *behind*, by default the state of waiting, for a new row of *line* if another row of it is alive."""
    before = sa.select(_E.seq).where(*(_E[name] == line[name] for name in LINE)).correlate_except(event)
    waits = _state(WAITING) if behind is None else behind
    return sa.case((dialect.by_index(before, event, BY_LINE).exists(), waits), else_=otherwise)


def _is_next(dialect: Dialect) -> sa.ColumnElement[bool]:
    """Return the condition that a waiting row is the next one of its line."""
    if dialect.turns_at_send:  # the oldest; it waits only if the one that was before it is gone
        eldest = sa.select(sa.func.min(_E.seq)).where(*(_E[name] == _bind(name) for name in LINE))
        return _E.seq == dialect.by_index(eldest, event, BY_LINE).scalar_subquery()
    table = event.alias("other")
    other = table.c
    one: sa.ColumnClause[Any] = sa.literal_column("1")

    def of_line(found: sa.ColumnElement[Any], *where: sa.ColumnElement[bool]) -> sa.Select[Any]:
        select = sa.select(found).where(*(dialect.same(other[name], _bind(name)) for name in LINE), *where)
        return dialect.by_index(select, table, BY_TURN)

    waiting = of_line(sa.func.min(other.seq), other.state == _state(WAITING))
    next_one = waiting.correlate(None).scalar_subquery()
    active = of_line(one, other.state.in_([_state(READY), _state(LEASED)]))
    earlier = of_line(one, other.state == _state(SCHEDULED), other.seq < next_one)
    return sa.and_(_E.seq == next_one, ~active.exists(), ~earlier.exists())


def _last_ready(dialect: Dialect) -> sa.Select[Any]:
    """Return the query for the latest times of the ready events of a queue: of the urgent and of the normal ones."""
    urgency, at, _ = dialect.in_order()

    def last(wanted: int) -> sa.ScalarSelect[Any]:
        ready = sa.select(at).select_from(event).where(_in_state(READY), _of_queue(dialect), urgency == _state(wanted))
        ready = dialect.by_index(ready, event, BY_STATE[READY])
        return ready.order_by(at.desc()).limit(sa.literal_column("1")).scalar_subquery()

    return sa.select(last(HIGH), last(NORMAL))


def _plus_one(dialect: Dialect, column: str) -> sa.ColumnElement[Any]:
    """Return *column* and one; a count that another writer has put at the end of its type stays there."""
    one: sa.ColumnClause[Any] = sa.literal_column("1")
    if dialect.is_file:  # SQLite makes a float of it, which no row of relevo has: the row is unreadable
        return _E[column] + one
    most: sa.ColumnClause[Any] = sa.literal_column(str(2**31 - 1))
    return sa.case((_E[column] >= most, _E[column]), else_=_E[column] + one)


def _lost(dialect: Dialect) -> dict[str, Any]:
    """Return the new values of a row whose lease was lost."""
    return {column: _plus_one(dialect, column) for column in ("attempt", "lost_leases")}


def _fails(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Return the condition that *condition* is false or unknown, without IS NOT TRUE, which few databases know."""
    zero: sa.ColumnClause[int] = sa.literal_column("0")
    one: sa.ColumnClause[int] = sa.literal_column("1")
    found: sa.Case[Any] = sa.case((condition, zero), else_=one)
    return found == one


def _of_queue(dialect: Dialect) -> sa.ColumnElement[bool]:
    return dialect.same(_E.queue, _bind("queue"))


def _of_queue_or_none(dialect: Dialect, queue: sa.ColumnElement[Any] | None = None) -> sa.ColumnElement[bool]:
    """Return the condition that a stray row names *queue* or no queue."""
    named: sa.ColumnClause[Any] = sa.literal_column(dialect.stray_queue)
    return named.in_([_bind("queue") if queue is None else queue, sa.literal_column("''")])


def _is_stray(dialect: Dialect) -> sa.ColumnElement[bool]:
    return sa.text(dialect.stray)  # type: ignore[return-value]  # valid in a WHERE


def _farthest() -> sa.ColumnElement[Any]:
    """Return the latest time at which a lease of relevo can end."""
    return _bind("now") + sa.literal_column(str(FARTHEST))


def _one_dead(dialect: Dialect) -> sa.ColumnElement[bool]:
    return sa.and_(_D.ref == _bind("ref"), dialect.same(_D.queue, _bind("queue")))


_FREE: dict[str, Any] = {"state": _state(READY), "lease_until": sa.null(), "token": sa.null()}


def _figures(dialect: Dialect) -> sa.Select[Any]:
    """Return all figures of a queue as one row: one statement reads one consistent snapshot."""
    count_one: sa.ColumnClause[Any] = sa.literal_column("1")
    count, oldest = sa.func.count().label("number"), sa.func.min(_E.enqueued_at).label("oldest")

    def of(name: str, state: int, *where: sa.ColumnElement[bool]) -> sa.Subquery:
        columns = (count, oldest) if where or state == READY else (count,)
        figures = sa.select(*columns).select_from(event).where(_in_state(state), _of_queue(dialect), *where)
        return dialect.by_index(figures, event, BY_STATE[state]).subquery(name)

    # A stray row counts as ready; it is already counted by its state, if the state is a valid one.
    ripe = sa.or_(
        _in_state(READY),
        _in_state(LEASED) & ((_E.lease_until <= _bind("now")) | (_E.lease_until > _farthest())),
        (_in_state(SCHEDULED) | _in_state(WAITING)) & (_E.ready_at <= _bind("now")),
    )
    held, late = (
        (_of_queue(dialect) & _in_state(LEASED)),
        (_of_queue(dialect) & (_in_state(SCHEDULED) | _in_state(WAITING))),
    )
    strays: Any = sa.select(
        count,
        sa.func.count(sa.case((held, count_one))).label("held"),
        sa.func.count(sa.case((late, count_one))).label("later"),
    )
    strays = strays.select_from(event).where(
        _is_stray(dialect), _of_queue_or_none(dialect), _fails(_of_queue(dialect) & ripe)
    )
    buried = sa.select(count).select_from(dead).where(dialect.same(_D.queue, _bind("queue")))
    parts = (
        of("ready", READY),
        of("leased", LEASED),
        of("over", LEASED, dialect.end_of(LEASED) <= _bind("now")),
        of("scheduled", SCHEDULED),
        of("due", SCHEDULED, dialect.end_of(SCHEDULED) <= _bind("now")),
        of("waiting", WAITING),
        of("late", WAITING, dialect.end_of(WAITING) <= _bind("now")),
        dialect.by_index(buried, dead, DEAD_BY_QUEUE).subquery("dead"),
        of("endless", LEASED, dialect.end_of(LEASED) > _farthest()),
        dialect.by_index(strays, event, dialect.stray_index).subquery("strays"),
    )
    return sa.select(*(column for part in parts for column in part.c))


def _question(dialect: Dialect, queue: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Return the query whether *queue* has something ready, and when its next delay and lease end."""

    def first(state: int, found: sa.ColumnElement[Any], order: sa.ColumnElement[Any]) -> sa.ScalarSelect[Any]:
        of_queue = dialect.by_index(
            sa.select(found).select_from(event).where(_in_state(state), dialect.same(_E.queue, queue)),
            event,
            BY_STATE[state],
        )
        return of_queue.order_by(order).limit(sa.literal_column("1")).scalar_subquery()

    one: sa.ColumnElement[int] = sa.literal_column("1").label("one")
    stray = sa.select(one).select_from(event).where(_is_stray(dialect), _of_queue_or_none(dialect, queue))
    stray = dialect.by_index(stray, event, dialect.stray_index)
    due, over = dialect.end_of(SCHEDULED), dialect.end_of(LEASED)
    return sa.select(
        queue,
        first(READY, one, dialect.in_order()[0]),
        first(SCHEDULED, due, due),
        first(LEASED, over, over),
        first(LEASED, over, over.desc()),
        sa.case((stray.exists(), one)),
    )
