"""Bugs that show when one feature is used by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import attrs
import sqlalchemy as sa
from sqlalchemy.orm import Session, SessionTransaction

from relevo import DeadLetter, DeadLetterEntry, DeadLetterFilter, Delivery, EventFilter, EventGroup, Nack
from relevo.errors import CommitUnknownError, TransportClosedError
from relevo_conformance import promise
from relevo_sql import SqlTransport, _database, _settle, _stats, _transport
from relevo_sql._claim import Claim, Claimer, Prospect
from relevo_sql._database import Database
from relevo_sql._dead_letters import DeadLetterStore, _parsed
from relevo_sql._errors import RefusedError
from relevo_sql._group_commit import GroupCommit, _Status
from relevo_sql._query import Searcher
from relevo_sql._row import CLAIMED, Receipt, Sent, delivery_of, found_of, micros
from relevo_sql._schema import KEPT
from relevo_sql._session import JoinedSessions, Make, _JoinedSession
from relevo_sql._settle import Settler
from relevo_sql._statement import Statements
from relevo_sql._stats import Counter
from relevo_sql._token import new_token

from .planting import Patches, commit, planted, reworded

# --- sending ---------------------------------------------------------------------------------------


@planted(promise.BATCH_IS_ATOMIC, "Each event of a batch is committed separately.")
def sends_a_batch_in_several_transactions() -> Patches:
    write = Statements.write

    def one_by_one(self: Statements, connection: sa.Connection, rows: Sequence[Sent]) -> None:
        for position, row in enumerate(rows):
            if position:
                try:
                    commit(connection)
                except sa.exc.DBAPIError as error:
                    raise CommitUnknownError("sql", "the commit failed") from error
            write(self, connection, [row])

    return {(Statements, "write"): one_by_one}


@planted(
    promise.SEND_TELLS_APART, "If a commit fails, all events are reported as refused, although some may be stored."
)
def takes_a_failed_commit_for_a_refusal() -> Patches:
    return {(_database, "CommitUnknownError"): RefusedError}


@planted(
    promise.RESENT_IS_ONE,
    "Sending a held event again replaces its row, and with it the lease.",
)
def replaces_what_is_sent_again() -> Patches:
    conflict = " ON CONFLICT (event_id, source, target, queue) DO NOTHING"
    return reworded(["send", "send_in_line"], ("INSERT INTO", "INSERT OR REPLACE INTO"), (conflict, ""))


@planted(
    promise.DELAY_IS_RESPECTED,
    "The due time of a delayed event is truncated to whole seconds.",
    by_chance=False,
)
def rounds_the_time_of_a_delayed_event_down() -> Patches:
    return {(_transport, "micros"): lambda seconds: int(seconds) * 1_000_000}


@planted(promise.PAYLOAD_IS_UNTOUCHED, "Each claim overwrites the send time.")
def dates_an_event_at_each_claim() -> Patches:
    return reworded(["claim"], ("coalesce(relevo_event.enqueued_at, ?)", "?"))


@planted(promise.JOINS_THE_TRANSACTION, "Events of a session are written at once, on the transport's own connection.")
def writes_beside_the_transaction() -> Patches:
    def enlist(self: _JoinedSession, session: Session, make: Make, *, create: bool) -> None:
        database, rows = self._joined._database, [row for batch in make() for row in batch.rows]
        database.write(lambda connection: database.statements.write(connection, rows))

    return {(_JoinedSession, "enlist"): enlist}


@planted(promise.JOINS_THE_TRANSACTION, "Events of a savepoint are sent although the savepoint is rolled back.")
def ignores_savepoints() -> Patches:
    ended = _JoinedSession._after_transaction_end

    def end(self: _JoinedSession, session: Session, transaction: SessionTransaction) -> None:
        if not transaction.nested:
            ended(self, session, transaction)

    return {(_JoinedSession, "_after_transaction_end"): end}


@planted(
    promise.JOINS_THE_TRANSACTION,
    "The end of a savepoint, even a release, drops everything that the session has sent so far.",
)
def drops_all_at_the_end_of_a_savepoint() -> Patches:
    ended = _JoinedSession._after_transaction_end

    def end(self: _JoinedSession, session: Session, transaction: SessionTransaction) -> None:
        if transaction.nested:
            self.entries = []
        ended(self, session, transaction)

    return {(_JoinedSession, "_after_transaction_end"): end}


# --- receiving -------------------------------------------------------------------------------------


@planted(
    promise.LEASED_IS_HIDDEN,
    "A receive selects ready events, and leases them in another transaction without checking again.",
    by_chance=False,
)
def selects_and_then_updates_without_a_guard() -> Patches:
    def take(
        self: Claimer, connection: sa.Connection, prospects: Sequence[Prospect], limit: int, lease: float
    ) -> list[Delivery]:
        now, token = self._now(), new_token()
        taken: list[Any] = []
        self._pass_time(connection, prospects, now, 1000)
        for prospect in prospects:
            taken += connection.exec_driver_sql(
                "SELECT seq FROM relevo_event WHERE state = 0 AND queue = ? ORDER BY urgency, ready_at, seq LIMIT ?",
                (prospect.queue, limit - len(taken)),
            ).scalars()
        commit(connection)
        columns = ", ".join(CLAIMED)
        rows: list[Any] = []
        for seq in taken:
            rows += connection.exec_driver_sql(
                f"UPDATE relevo_event SET state = 1, lease_until = ?, token = ?, "  # noqa: S608 - our own columns
                f"enqueued_at = coalesce(enqueued_at, ?) WHERE seq = ? RETURNING {columns}",
                (now + micros(lease), token, now, seq),
            ).all()
        return [delivery_of(row, token) for row in rows]

    return {(Claimer, "_take"): take}


@planted(
    promise.LEASED_IS_HIDDEN,
    "A lease begins at the send time, so an event that waited for long has none.",
)
def reckons_leases_from_the_time_of_sending() -> Patches:
    sent = "coalesce(relevo_event.enqueued_at, ?4)"
    return reworded(
        ["claim"],
        (
            "lease_until=?, leased_at=?, token=?, enqueued_at=coalesce(relevo_event.enqueued_at, ?)",
            f"lease_until={sent} + ?1 - ?4, leased_at=?2, token=?3, enqueued_at={sent}",
        ),
    )


@planted(promise.LOST_LEASES_ARE_COUNTED, "A lease that ends counts neither as an attempt nor as a lost lease.")
def ends_a_lease_as_if_it_were_a_release() -> Patches:
    return reworded(["reap"], (", attempt=(relevo_event.attempt + 1), lost_leases=(relevo_event.lost_leases + 1)", ""))


@planted(
    promise.QUEUES_ARE_ISOLATED,
    "The name of a queue is used as a LIKE pattern, so an underscore matches any character.",
)
def finds_queues_by_like() -> Patches:
    return reworded(
        ["look", "claim", "promote", "reap"],
        ("relevo_event.queue = ", "relevo_event.queue LIKE "),
    )


@planted(promise.MALFORMED_IS_QUARANTINED, "A claim skips rows that a foreign program wrote without an id.")
def skips_rows_without_an_id() -> Patches:
    return reworded(["claim"], ("relevo_event.state = 0 AND", "relevo_event.state = 0 AND event_id IS NOT NULL AND"))


@planted(promise.MALFORMED_IS_QUARANTINED, "A row in an unknown state is never handed out.")
def passes_over_a_row_in_an_unknown_state() -> Patches:
    return reworded(["look"], ("END) IS NOT TRUE AND", "END) IS NOT TRUE AND relevo_event.state != 9 AND"))


# --- settling --------------------------------------------------------------------------------------


@planted(promise.ACK_IS_FINAL, "The transaction of a settlement is rolled back at its end.")
def does_not_commit_what_it_settles() -> Patches:
    def settled(self: Settler, chosen: dict[Receipt, Any]) -> set[Receipt]:
        def forget(connection: sa.Connection) -> set[Receipt]:
            settled = self._settle(connection, chosen)
            connection.exec_driver_sql("ROLLBACK")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            return settled

        return self._database.write(forget)

    return {(Settler, "_settled"): settled}


@planted(promise.STALE_SETTLE_IS_REFUSED, "A leased row can also be settled by its earlier holder.")
def settles_by_the_row_without_the_receipt() -> Patches:
    return reworded(
        ["held", "ack", "ack_all", "ack_one", "release", "extend", "nack", "lose", "forget", "bury"],
        ("relevo_event.token = ?", "(relevo_event.token = ? OR relevo_event.state = 1)"),
    )


@planted(promise.STALE_SETTLE_IS_REFUSED, "A checkpoint of a delivery that is no longer held is reported as stored.")
def ignores_how_many_rows_a_checkpoint_touched() -> Patches:
    checkpoint = Settler.checkpoint

    def keep(self: Settler, delivery: Delivery, state: bytes) -> bool:
        checkpoint(self, delivery, state)
        return True

    return {(Settler, "checkpoint"): keep}


def _nack_early(self: Settler, connection: sa.Connection, ended: Sequence[tuple[Receipt, str, Any]], now: int) -> None:
    rows = []
    for (seq, token), _, outcome in ended:
        at = int((now / 1_000_000) + max(0.0, outcome.delay)) * 1_000_000
        rows.append((seq, token, 2 if at > now else 0, at, outcome.state))
    self._statements.nack.run_many(connection, rows)


@planted(
    promise.NACK_RETURNS_LATER,
    "The due time after a nack is truncated to whole seconds.",
    by_chance=False,
)
def rounds_the_delay_of_a_nack_down() -> Patches:
    return {
        (Settler, "_nack"): _nack_early,
        (Settler, "_one_by_one"): {**Settler._one_by_one, Nack: _nack_early},
    }


@planted(promise.NACK_RETURNS_LATER, "A state is truncated at 255 bytes, as by a column that is too narrow.")
def cuts_states_at_255_bytes() -> Patches:
    return reworded(
        ["nack", "lose", "bury", "checkpoint"],
        ("coalesce(?,", "coalesce(substr(?, 1, 255),"),
        ("progress=?", "progress=substr(?, 1, 255)"),
    )


@planted(promise.RELEASE_COUNTS_NOTHING, "A release counts as an attempt.")
def counts_a_release_as_an_attempt() -> Patches:
    return reworded(["release"], ("SET state=0,", "SET state=0, attempt=(relevo_event.attempt + 1),"))


@planted(promise.EXTEND_KEEPS_THE_LEASE, "An extension is reported as done, but does not lengthen the lease.")
def never_lengthens_a_lease() -> Patches:
    return reworded(["extend"], ("lease_until=?", "lease_until=min(relevo_event.lease_until, ?)"))


@planted(promise.EXTEND_KEEPS_THE_LEASE, "An extended lease ends one second early.", by_chance=False)
def ends_an_extension_a_second_early() -> Patches:
    return reworded(["extend"], ("lease_until=?", "lease_until=? - 1000000"))


@planted(promise.CHECKPOINT_SURVIVES_A_LOST_LEASE, "A lost lease clears the state of the last checkpoint.")
def empties_the_state_of_a_lost_lease() -> Patches:
    return reworded(["reap"], ("SET state=0,", "SET state=0, progress=x'',"))


def _bury_late(self: Settler, connection: sa.Connection, ended: Sequence[tuple[Receipt, str, Any]], now: int) -> None:
    columns = ", ".join(KEPT)
    rows = []
    for receipt, _, outcome in ended:
        found = connection.exec_driver_sql(
            f"SELECT {columns} FROM relevo_event WHERE seq = ? AND token = ?",  # noqa: S608 - our own columns
            tuple(receipt),
        ).one()
        kept = dict(zip(KEPT, found, strict=True))
        if outcome.state is not None:
            kept["progress"] = outcome.state
        rows.append((*kept.values(), outcome.reason, outcome.error, now))
    receipts = [receipt for receipt, _, _ in ended]
    self._replace(connection, receipts)
    self._statements.forget.run_many(connection, receipts)
    commit(connection)
    places = ", ".join("?" * (len(KEPT) + 3))
    for row in rows:
        connection.exec_driver_sql(
            f"INSERT INTO relevo_dead ({columns}, reason, error, died_at) VALUES ({places})",  # noqa: S608 - the same
            row,
        )


@planted(
    promise.DEAD_IS_KEPT_WITH_REASON,
    "A dead letter is written in a separate transaction, after the one that deletes the event.",
    by_chance=False,
)
def buries_after_the_source_is_gone() -> Patches:
    return {
        (Settler, "_one_by_one"): {**Settler._one_by_one, DeadLetter: _bury_late},
    }


@planted(
    promise.SENT_IS_RECEIVED,
    "A failed statement is not rolled back, and its connection is used again.",
    by_chance=False,
)
def leaves_a_failed_transaction_open() -> Patches:
    return {(Database, "_clean_up"): lambda self, error: None}


# --- the store -------------------------------------------------------------------------------------


@planted(promise.REVIVED_IS_RECEIVED, "A revived event also stays a dead letter.")
def revives_a_copy() -> Patches:
    def revive(self: DeadLetterStore, refs: Mapping[str, bytes], *, delay: float = 0.0) -> list[str]:
        def wake(connection: sa.Connection) -> list[str]:
            now, missing = self._database.now(self._clock), []
            for ref, state in refs.items():
                number, queue = _parsed(ref)
                run = self._statements.revive.run
                if not run(connection, ref=number, queue=queue, kept=state, now=now).rowcount:
                    missing.append(ref)
            return missing

        return self._database.write(wake, durable=True) if refs else []

    return {(DeadLetterStore, "revive"): revive}


@planted(promise.DISCARDED_IS_GONE, "A ref without a dead letter is reported as discarded.", by_chance=False)
def ignores_how_many_rows_a_discard_touched() -> Patches:
    discard = DeadLetterStore.discard

    def say_nothing(self: DeadLetterStore, refs: Iterable[str]) -> list[str]:
        discard(self, refs)
        return []

    return {(DeadLetterStore, "discard"): say_nothing}


_NOBODYS = "(relevo_event.state != 1 OR relevo_event.lease_until <= ?"


@planted(promise.PURGED_IS_GONE, "A purge deletes leased rows.")
def purges_what_is_leased() -> Patches:
    return reworded(["purge of leased"], (_NOBODYS, "(? IS NOT NULL"))


@planted(promise.CANCELLED_IS_GONE, "A cancel deletes a leased row.")
def cancels_what_is_leased() -> Patches:
    return reworded(["cancel"], (_NOBODYS, "(? IS NOT NULL"))


@planted(
    promise.ORDER_IS_KEPT,
    "After a cancel or a purge, the next event of the ordering key waits forever.",
    by_chance=False,
)
def gives_away_no_turn_of_what_was_removed() -> Patches:
    # A receive that finds nothing would give it the turn in the end.
    return {(_stats, "advance"): lambda *_: None, (Claimer, "_give_turns"): lambda *_: False}


@planted(
    promise.FOUND_AS_IT_IS,
    "An event whose lease has ended is found as held until the next receive.",
    by_chance=False,
)
def finds_a_lease_that_is_over_as_held() -> Patches:
    return {(_stats, "found_of"): lambda row, now: found_of(row, 0)}


@planted(promise.STATS_ARE_TRUE_AT_REST, "An event whose lease has ended counts as held until the next receive.")
def counts_a_lease_that_is_over_as_held() -> Patches:
    return reworded(["stats"], ("AND relevo_event.lease_until <= ?", "AND relevo_event.lease_until <= ? AND 0"))


# --- evidence --------------------------------------------------------------------------------------


@planted(promise.BEGUN_IS_KEPT, "A lost lease removes the note.")
def forgets_the_note_with_the_lease() -> Patches:
    return reworded(["reap", "lose"], ("token=NULL", "token=NULL, begun=NULL"))


@planted(promise.BEGUN_IS_KEPT, "A release removes the note.")
def releases_without_the_note() -> Patches:
    return reworded(["release", "postpone"], ("token=NULL", "token=NULL, begun=NULL"))


@planted(promise.BEGUN_IS_KEPT, "A nack keeps the note.")
def retries_with_the_note() -> Patches:
    return reworded(["nack"], (" begun=NULL,", ""))


@planted(promise.BEGUN_IS_KEPT, "A nack removes the deaths.", by_chance=False)
def retries_without_the_deaths() -> Patches:
    return reworded(["nack"], ("begun=NULL", "begun=NULL, deaths=NULL"))


@planted(promise.BEGUN_IS_KEPT, "A death that the worker reports does not remove the note.", by_chance=False)
def keeps_the_note_beside_a_death() -> Patches:
    return reworded(["die"], (" begun=NULL,", ""))


@planted(promise.BEGUN_IS_KEPT, "A note is stored with all rows of its claim.")
def notes_all_rows_of_a_claim() -> Patches:
    return reworded(["begin"], ("AND relevo_event.seq = ?", "AND ? IS NOT NULL"))


@planted(promise.STALE_SETTLE_IS_REFUSED, "A note is stored although the lease has ended.")
def notes_what_is_no_longer_held() -> Patches:
    return reworded(
        ["begin"], ("relevo_event.token = ? AND relevo_event.lease_until > ?", "? IS NOT NULL AND ? IS NOT NULL")
    )


@planted(
    promise.BEGUN_IS_KEPT,
    "A process that ends normally excuses the last note, even that of another process.",
    by_chance=False,
)
def excuses_any_note() -> Patches:
    return reworded(["excuse"], ("relevo_event.begun = ?", "? IS NOT NULL"))


@planted(promise.RELEASE_COUNTS_NOTHING, "The delay of a release is ignored.", by_chance=False)
def postpones_nothing() -> Patches:
    return reworded(["postpone"], ("state=2, ready_at=?", "state=0, ready_at=min(?, 0)"))


@planted(
    promise.PRESENCE_IS_SEEN,
    "The heartbeat counter of a worker does not rise when the worker appears again.",
    by_chance=False,
)
def counts_each_worker_once() -> Patches:
    return reworded(["appear"], ("beats + 1", "beats"))


@planted(
    promise.SENT_IS_RECEIVED,
    "If one of the sends that share a commit is refused, the others are reported as sent.",
    by_chance=False,
    exactly=False,
)
def reports_a_group_as_sent() -> Patches:
    lead = GroupCommit._lead

    def lead_wrongly(self: GroupCommit) -> None:
        group = [*self._queue]
        lead(self)
        for request in group:
            if len(group) > 1 and request.status is _Status.ALONE:
                request.status = _Status.WRITTEN

    return {(GroupCommit, "_lead"): lead_wrongly}


@planted(
    promise.QUERIED_AS_IT_IS,
    "The dead letters of a queue are listed from the ref on with which those of the queue before it end.",
    by_chance=False,
    exactly=False,
)
def goes_on_behind_the_queue_before() -> Patches:
    dead_letters = Searcher.dead_letters

    def listed(
        self: Searcher, queues: Sequence[str], *, where: DeadLetterFilter, after: str | None, limit: int
    ) -> list[DeadLetterEntry]:
        found = dead_letters(self, queues, where=where, after=after, limit=limit)
        last, kept = 0 if after is None else int(after.partition("@")[0]), list[DeadLetterEntry]()
        for entry in found:
            if (number := int(entry.ref.partition("@")[0])) > last:
                last = number
                kept.append(entry)
        return kept

    return {(Searcher, "dead_letters"): listed}


@planted(
    promise.BATCH_IS_ATOMIC,
    "A batch is written in parts of a hundred, and an error of a later part is reported for all.",
    by_chance=False,
    exactly=False,
)
def writes_a_long_batch_in_parts() -> Patches:
    write = GroupCommit.write

    def in_parts(self: GroupCommit, rows: Sequence[Sent]) -> None:
        for start in range(0, len(rows), 100):
            write(self, rows[start : start + 100])

    return {(GroupCommit, "write"): in_parts}


@planted(promise.STALE_SETTLE_IS_REFUSED, "A process that was forked settles what its parent holds.", by_chance=False)
def settles_for_its_parent() -> Patches:
    return {(_settle, "is_of_this_process"): lambda token: True}


@planted(
    promise.CLOSE_IS_IDEMPOTENT, "A receive that waits returns nothing when its transport is closed.", by_chance=False
)
def ends_a_wait_quietly() -> Patches:
    receive = SqlTransport.receive

    def quiet(
        self: SqlTransport, queues: Sequence[str], *, limit: int, lease: float, wait: float
    ) -> Sequence[Delivery]:
        self._require_open()
        try:
            return receive(self, queues, limit=limit, lease=lease, wait=wait)
        except TransportClosedError:
            return ()

    return {(SqlTransport, "receive"): quiet}


@planted(
    promise.LEASED_IS_HIDDEN,
    "A take looks in one transaction whether the event is free, and leases it in another.",
    by_chance=False,
    exactly=False,
)
def takes_what_was_free_before() -> Patches:
    take = Claimer.take
    look = "SELECT 1 FROM relevo_event WHERE queue = ? AND event_id = ? AND (state <> 1 OR lease_until <= ?)"

    def in_two(self: Claimer, queue: str, event_id: str, *, lease: float) -> list[Delivery]:
        now = self._now()
        free = self._database.read(lambda connection: connection.exec_driver_sql(look, (queue, event_id, now)).all())
        return take(self, queue, event_id, lease=lease) if free else []

    claims_any = reworded(["claim_meant"], ("(relevo_event.state = 0 OR", "(relevo_event.state IN (0, 1) OR"))
    return {**claims_any, (Claimer, "take"): in_two}


@planted(
    promise.PREFERENCE_IS_KEPT,
    "For a while after a full claim no queue is checked for events that have become due.",
    by_chance=False,
    exactly=False,
)
def looks_at_no_queue_after_a_full_claim() -> Patches:
    claim = Claimer.claim

    def hasty(self: Claimer, queues: Sequence[str], *, limit: int, lease: float, sent: bool = False) -> Claim:
        if self._clock.monotonic() < self._next_look and (found := self._take_ready(queues, limit, lease)):
            return Claim(found)
        came = claim(self, queues, limit=limit, lease=lease, sent=sent)
        if len(came.deliveries) >= limit:
            self._next_look = self._clock.monotonic() + 0.05
        return came

    return {(Claimer, "claim"): hasty}


@planted(
    promise.NOBODY_STARVES,
    "An event that is taken before it is due keeps its due time, so events that are sent until then come first.",
    by_chance=False,
    exactly=False,
)
def keeps_the_time_of_what_is_taken() -> Patches:
    return reworded(["claim_meant"], ("(relevo_event.ready_at > ?)", "(relevo_event.ready_at > ? AND 0)"))


@planted(
    promise.QUERIED_AS_IT_IS,
    "Groups are cut to the limit in each queue, before those of several queues are added.",
    by_chance=False,
)
def cuts_groups_in_each_queue() -> Patches:
    groups = SqlTransport.waiting_groups

    def cut(
        self: SqlTransport,
        queues: Sequence[str],
        *,
        by: Literal["event", "queue", "state"],
        where: EventFilter | None = None,
        limit: int = 100,
    ) -> Sequence[EventGroup]:
        found: dict[str, EventGroup] = {}
        for queue in queues:
            for one in groups(self, [queue], by=by, where=where, limit=limit):
                other = found.get(one.key, one)
                count = one.count + (0 if other is one else other.count)
                oldest, newest = min(one.oldest, other.oldest), max(one.newest, other.newest)
                found[one.key] = attrs.evolve(one, count=count, oldest=oldest, newest=newest)
        return sorted(found.values(), key=lambda one: -one.count)[:limit]

    return {(SqlTransport, "waiting_groups"): cut}


# --- a clock that is set back ----------------------------------------------------------------------


@planted(promise.NOBODY_STARVES, "After the clock was set back, a retry goes before what was sent until then.")
def retries_before_what_was_sent_by_a_later_clock() -> Patches:
    return {(Settler, "_catch_up"): lambda self, connection, queue, now: None}


@planted(promise.SENT_IS_RECEIVED, "An event is scheduled if the clock is set back between its send and the commit.")
def schedules_what_was_sent_by_a_later_clock() -> Patches:
    def due(self: SqlTransport, delay: float) -> int:
        return self._now() + micros(max(0.0, delay))

    return {(SqlTransport, "_due"): due}


# --- what is kept too long or too short ------------------------------------------------------------


@planted(promise.JOINS_THE_TRANSACTION, "Tables that a session creates are taken for committed, though it rolls back.")
def knows_tables_before_their_commit() -> Patches:
    fit = JoinedSessions.fit

    def fit_once(self: JoinedSessions, connection: sa.Connection, *, create: bool) -> bool:
        lacking = fit(self, connection, create=create)
        self._known[connection.engine] = self._database.location.identity
        return lacking

    return {(JoinedSessions, "fit"): fit_once}


@planted(promise.EXTEND_KEEPS_THE_LEASE, "An extension is not shortened, and one beyond two weeks counts as endless.")
def extends_beyond_the_longest_lease() -> Patches:
    return {(_settle, "lease_end"): lambda lease, now: now + micros(lease)}


@planted(promise.DEAD_IS_KEPT_WITH_REASON, "The dead letter of a copy in an outbox replaces that of its own queue.")
def takes_the_copy_of_an_outbox_for_its_own() -> Patches:
    return reworded(["earlier"], ("AND relevo_dead.queue = relevo_event.queue", ""))


@planted(promise.PURGED_IS_GONE, "A purge leaves what a receive makes ready meanwhile.")
def purges_each_state_once() -> Patches:
    def purge(self: Counter, queue: str) -> int:
        last = self._database.read(lambda connection: self._statements.last.run(connection).scalar()) or 0
        return self._purge_once(queue, last)

    return {(Counter, "purge"): purge}
