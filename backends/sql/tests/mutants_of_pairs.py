"""Bugs that show only with two features together, after a long time, or in large numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import sqlalchemy as sa
from sqlalchemy.orm import Session, SessionTransaction

from relevo import Ack, DeadLetterEntry, Envelope, Nack, Settlement
from relevo.backend import session as joining
from relevo_conformance import promise
from relevo_sql import _claim, _dead_letters, _settle, _transport
from relevo_sql._claim import Claimer, Prospect
from relevo_sql._dead_letters import DeadLetterStore, _parsed
from relevo_sql._prepared import Prepared
from relevo_sql._row import Receipt, Sent, lease_end, row_of
from relevo_sql._schema import SCHEDULED, WAITING
from relevo_sql._session import SessionSender
from relevo_sql._settle import Settler
from relevo_sql._stats import Counter
from relevo_sql._transport import SqlTransport

from .planting import Patches, planted_pair, reworded

WRAP = 2**32 / 1000
"""Seconds: the milliseconds that 32 bits count, almost 50 days."""


# --- time ------------------------------------------------------------------------------------------


@planted_pair(
    promise.DELAY_IS_RESPECTED, "A delay is stored as milliseconds in 32 bits, so that more than 49 days wrap around."
)
def wraps_long_delays() -> Patches:
    due = SqlTransport._due
    return {(SqlTransport, "_due"): lambda self, delay: due(self, delay % WRAP)}


@planted_pair(promise.NACK_RETURNS_LATER, "The delay of a nack is stored as milliseconds in 32 bits.")
def wraps_long_delays_of_a_nack() -> Patches:
    end = Settler._nack

    def nack(self: Settler, connection: sa.Connection, ended: Sequence[tuple[Receipt, str, Any]], now: int) -> None:
        end(self, connection, [(r, q, attrs.evolve(o, delay=o.delay % WRAP)) for r, q, o in ended], now)

    return {(Settler, "_one_by_one"): {**Settler._one_by_one, Nack: nack}}


@planted_pair(promise.LEASED_IS_HIDDEN, "A lease of more than an hour ends after an hour.")
def leases_for_an_hour_at_most() -> Patches:
    return {(_claim, "lease_end"): lambda lease, now: lease_end(min(lease, 3600.0), now)}


@planted_pair(promise.EXTEND_KEEPS_THE_LEASE, "An extension of more than an hour ends after an hour.")
def extends_for_an_hour_at_most() -> Patches:
    return {(_settle, "lease_end"): lambda lease, now: lease_end(min(lease, 3600.0), now)}


@planted_pair(promise.LEASED_IS_HIDDEN, "A lease is truncated to whole seconds.")
def cuts_leases_to_whole_seconds() -> Patches:
    return {(_claim, "lease_end"): lambda lease, now: lease_end(float(int(lease)), now)}


@planted_pair(promise.LOST_LEASE_RETURNS, "A checkpoint prolongs the lease by six days.")
def leases_for_days_after_a_checkpoint() -> Patches:
    return reworded(["checkpoint"], ("SET progress=?", "SET progress=?, lease_until=lease_until + 518400000000"))


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED, "An event loses its urgency when its delay ends.")
def promotes_urgent_events_as_normal_ones() -> Patches:
    return reworded(["promote"], ("SET state=0", "SET state=0, urgency=1"))


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED, "An event loses its urgency at a lost lease.")
def reaps_urgent_events_as_normal_ones() -> Patches:
    return reworded(["reap"], ("SET state=0,", "SET state=0, urgency=1,"))


@planted_pair(
    promise.DELAY_IS_RESPECTED, "A delayed event is delivered early when it becomes the first of its ordering key."
)
def gives_a_turn_before_its_time() -> Patches:
    return reworded(["advance"], ("THEN 2 ELSE 0", "THEN 0 ELSE 0"))


# --- counters and state ----------------------------------------------------------------------------


@planted_pair(promise.LOST_LEASES_ARE_COUNTED, "After 255 lost leases no further one is counted.")
def keeps_lost_leases_in_a_byte() -> Patches:
    return reworded(["reap", "lose"], ("(relevo_event.lost_leases + 1)", "min(relevo_event.lost_leases + 1, 255)"))


@planted_pair(promise.NACK_RETURNS_LATER, "After 127 attempts no further one is counted.")
def keeps_attempts_in_seven_bits() -> Patches:
    return reworded(["nack"], ("(relevo_event.attempt + 1)", "min(relevo_event.attempt + 1, 127)"))


@planted_pair(promise.NACK_RETURNS_LATER, "A nack resets the number of lost leases.")
def forgets_lost_leases_at_a_nack() -> Patches:
    return reworded(["nack"], ("begun=NULL,", "begun=NULL, lost_leases=0,"))


@planted_pair(promise.RELEASE_COUNTS_NOTHING, "A release with a delay clears the state.")
def empties_the_state_of_what_is_postponed() -> Patches:
    return reworded(["postpone"], ("token=NULL", "token=NULL, progress=x''"))


@planted_pair(promise.LOST_LEASES_ARE_COUNTED, "The second lost lease clears the state.")
def empties_the_state_at_the_second_lost_lease() -> Patches:
    emptied = "progress=CASE WHEN relevo_event.lost_leases > 0 THEN x'' ELSE relevo_event.progress END"
    return reworded(["reap"], ("token=NULL", f"token=NULL, {emptied}"))


@planted_pair(promise.CHECKPOINT_SURVIVES_A_LOST_LEASE, "A checkpoint sets the state of all rows of its claim.")
def checkpoints_a_whole_claim() -> Patches:
    return reworded(["checkpoint"], ("AND relevo_event.seq = ?", "AND ? IS NOT NULL"))


@planted_pair(
    promise.CHECKPOINT_SURVIVES_A_LOST_LEASE, "A checkpoint with an empty state does not replace the old state."
)
def keeps_no_empty_checkpoint() -> Patches:
    return reworded(["checkpoint"], ("progress=?", "progress=coalesce(nullif(?, x''), relevo_event.progress)"))


@planted_pair(promise.BEGUN_IS_KEPT, "A checkpoint removes the note.")
def forgets_the_note_at_a_checkpoint() -> Patches:
    return reworded(["checkpoint"], ("SET progress=?", "SET progress=?, begun=NULL"))


@planted_pair(promise.BEGUN_IS_KEPT, "An extension removes the note.")
def forgets_the_note_at_an_extension() -> Patches:
    return reworded(["extend"], ("SET lease_until=?", "SET lease_until=?, begun=NULL"))


@planted_pair(
    promise.ACK_IS_FINAL,
    "If a batch has deliveries of several receives, only those of the first are settled, but all are reported as done.",
)
def settles_one_claim_of_a_batch() -> Patches:
    run = Settler._run_grouped

    def first(
        self: Settler, connection: sa.Connection, statement: Prepared, receipts: Iterable[Receipt], **values: object
    ) -> set[Receipt]:
        known = list(receipts)
        some = [one for one in known if one.token == known[0].token]
        return run(self, connection, statement, some, **values) | {one for one in known if one not in some}

    return {(Settler, "_run_grouped"): first}


# --- dead letters ----------------------------------------------------------------------------------


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON, "A dead letter is stored without its headers.")
def buries_without_headers() -> Patches:
    return reworded(["bury"], ("relevo_event.headers", "NULL"))


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON, "A dead letter is stored without its expiry.")
def buries_without_an_expiry() -> Patches:
    return reworded(["bury"], ("relevo_event.expires", "NULL"))


@planted_pair(promise.REVIVED_IS_RECEIVED, "A revived event never expires.")
def revives_without_an_expiry() -> Patches:
    return reworded(["revive"], ("relevo_dead.expires", "NULL"))


@planted_pair(promise.REVIVED_IS_RECEIVED, "A revived event has no headers.")
def revives_without_headers() -> Patches:
    return reworded(["revive"], ("relevo_dead.headers", "NULL"))


@planted_pair(promise.REVIVED_IS_RECEIVED, "A revived event has normal urgency.")
def revives_urgent_events_as_normal_ones() -> Patches:
    return reworded(["revive"], ("relevo_dead.urgency", "1"))


@planted_pair(promise.REVIVED_IS_RECEIVED, "A revived event keeps the lost leases from before its death.")
def revives_with_lost_leases() -> Patches:
    return reworded(["revive"], ("relevo_dead.expires, 1, 0,", "relevo_dead.expires, 1, relevo_dead.lost_leases,"))


@planted_pair(promise.REVIVED_IS_RECEIVED, "An event that is revived with an empty state keeps its old state.")
def revives_with_the_old_state_instead_of_none() -> Patches:
    return reworded(["revive"], ("? AS anon_3", "coalesce(nullif(?, x''), relevo_dead.progress) AS anon_3"))


@planted_pair(promise.REVIVED_IS_RECEIVED, "All events that are revived in one call get the state of the first one.")
def revives_all_with_the_first_state() -> Patches:
    revive = DeadLetterStore.revive

    def alike(self: DeadLetterStore, refs: Mapping[str, bytes]) -> list[str]:
        return revive(self, dict.fromkeys(refs, next(iter(refs.values()), b"")))

    return {(DeadLetterStore, "revive"): alike}


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON, "A dead letter replaces one with the same id from another source.")
def replaces_the_dead_of_another_source() -> Patches:
    return reworded(["earlier"], ("relevo_dead.source = relevo_event.source AND ", ""))


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON, "A dead letter replaces one of the same id with another body.")
def replaces_the_dead_of_other_content() -> Patches:
    return {(_settle, "are_copies"): lambda _row: True}


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON, "A dead letter is deleted for a living event with its id.")
def revives_over_other_content() -> Patches:
    return {(_dead_letters, "are_copies"): lambda _row: True}


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON, "A dead letter replaces one of the same event in another queue.")
def replaces_the_dead_of_another_queue() -> Patches:
    both = " AND relevo_dead.target = relevo_event.target AND relevo_dead.queue = relevo_event.queue"
    return reworded(["earlier"], (both, ""))


@planted_pair(
    promise.DEAD_IS_KEPT_WITH_REASON,
    "A page that continues in the next queue omits dead letters that are older than the last one of the page before.",
)
def goes_on_by_number_in_the_next_queue() -> Patches:
    entries = DeadLetterStore.entries

    def later(self: DeadLetterStore, queues: Sequence[str], *, after: str | None, limit: int) -> list[DeadLetterEntry]:
        found = entries(self, queues, after=after, limit=limit)
        number = None if after is None else _parsed(after)[0]
        return found if number is None else [one for one in found if (_parsed(one.ref)[0] or 0) > number]

    return {(DeadLetterStore, "entries"): later}


# --- ids, keys and queues --------------------------------------------------------------------------


@planted_pair(promise.CANCELLED_IS_GONE, "A cancel also removes events whose ids differ only in case.")
def cancels_in_any_case() -> Patches:
    return reworded(["cancel"], ("relevo_event.event_id = ?", "relevo_event.event_id = ? COLLATE NOCASE"))


@planted_pair(promise.CANCELLED_IS_GONE, "A cancel also removes events whose ids differ only in a trailing space.")
def cancels_with_any_space() -> Patches:
    return reworded(["cancel"], ("relevo_event.event_id = ?", "relevo_event.event_id = ? COLLATE RTRIM"))


@planted_pair(promise.ORDER_IS_KEPT, "Ordering keys that differ only in case are treated as equal.")
def lines_up_in_any_case() -> Patches:
    lines = reworded(["send_in_line"], ("ordering_key = ?)) THEN", "ordering_key = ? COLLATE NOCASE)) THEN"))
    return {**lines, (Claimer, "_give_turns"): lambda *_: False}  # which would give the turn in the end


@planted_pair(promise.ORDER_IS_KEPT, "Ordering keys that differ only in a trailing space are treated as equal.")
def lines_up_with_any_space() -> Patches:
    lines = reworded(["send_in_line"], ("ordering_key = ?)) THEN", "ordering_key = ? COLLATE RTRIM)) THEN"))
    return {**lines, (Claimer, "_give_turns"): lambda *_: False}  # which would give the turn in the end


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED, "An empty ordering key is stored as NULL.")
def stores_an_empty_key_as_none() -> Patches:
    def row(envelope: Envelope, **more: Any) -> Sent:
        made = row_of(envelope, **more)
        return made._replace(ordering_key=made.ordering_key or None)

    return {(_transport, "row_of"): row}


# --- operating -------------------------------------------------------------------------------------


@planted_pair(promise.CANCELLED_IS_GONE, "An event that waits for its retry is not cancelled.")
def cancels_no_retries() -> Patches:
    return reworded(
        ["cancel"], ("WHERE relevo_event.event_id = ?", "WHERE (state != 2 OR attempt = 1) AND event_id = ?")
    )


@planted_pair(promise.PURGED_IS_GONE, "A purge does not remove events that wait for a retry.")
def purges_no_retries() -> Patches:
    return reworded(["purge of scheduled"], ("state = 2 AND", "state = 2 AND relevo_event.attempt = 1 AND"))


@planted_pair(
    promise.PURGED_IS_GONE, "A purge does not remove events that wait for an earlier one of their ordering key."
)
def purges_nothing_that_waits() -> Patches:
    return reworded(["purge of waiting"], ("state = 3 AND", "state = 3 AND 0 AND"))


@planted_pair(promise.PURGED_IS_GONE, "A purge removes at most a hundred events of each state.")
def purges_a_hundred() -> Patches:
    def purge(self: Counter, queue: str) -> int:
        last = self._database.read(lambda c: self._statements.last.run(c).scalar()) or 0
        some = [
            partial(self._take_out, statement=statement, queue=queue, last=last, bound=100)
            for statement in self._statements.purge.values()
        ]
        return sum(self._database.write(each, durable=True) for each in some)

    return {(Counter, "purge"): purge}


@planted_pair(promise.STATS_ARE_TRUE_AT_REST, "An event that is due counts as scheduled until the next receive.")
def counts_what_is_due_as_scheduled() -> Patches:
    return reworded(["stats"], ("relevo_event.ready_at <= ?) AS due", "relevo_event.ready_at <= ? AND 0) AS due"))


@planted_pair(promise.STATS_ARE_TRUE_AT_REST, "The count of dead letters includes those of all queues.")
def counts_the_dead_of_all_queues() -> Patches:
    return reworded(["stats"], ("WHERE relevo_dead.queue = ?) AS dead", "WHERE ? IS NOT NULL) AS dead"))


@planted_pair(promise.SENT_IS_RECEIVED, "A receive from several queues looks only at the first two.")
def looks_at_two_queues() -> Patches:
    look = Claimer._look

    def two(self: Claimer, connection: sa.Connection, queues: Sequence[str]) -> tuple[int | None, list[Prospect]]:
        return look(self, connection, queues[:2])

    return {(Claimer, "_look"): two}


# --- sessions --------------------------------------------------------------------------------------


@planted_pair(
    promise.JOINS_THE_TRANSACTION,
    "Events of a nested savepoint are sent although the outer savepoint is rolled back.",
)
def knows_one_savepoint() -> Patches:
    around = joining._around

    def ends(session: Session) -> Iterator[SessionTransaction]:
        every = list(around(session))
        yield from dict.fromkeys((every[0], every[-1]))

    return {(joining, "_around"): ends}


@planted_pair(promise.JOINS_THE_TRANSACTION, "The callable that makes the events of a transaction is called twice.")
def makes_its_events_twice() -> Patches:
    send = SessionSender.send

    def twice(self: SessionSender, make: Any, *, delay: float = 0.0) -> None:
        send(self, lambda: (make(), make())[1], delay=delay)

    return {(SessionSender, "send"): twice}


@planted_pair(
    promise.JOINS_THE_TRANSACTION,
    "The events of a transaction are made when they are sent, before pending objects are flushed.",
)
def makes_its_events_at_once() -> Patches:
    send = SessionSender.send

    def early(self: SessionSender, make: Any, *, delay: float = 0.0) -> None:
        made = make()
        send(self, lambda: made, delay=delay)

    return {(SessionSender, "send"): early}


@planted_pair(
    promise.JOINS_THE_TRANSACTION,
    "Events of a rolled-back transaction are stored at the next commit of the session.",
)
def writes_what_was_rolled_back_at_the_next_commit() -> Patches:
    ended = joining.JoinedSession._after_transaction_end

    def keep(self: Any, session: Session, transaction: SessionTransaction) -> None:
        is_rollback = transaction is not self._committed
        entries = list(self.entries)
        ended(self, session, transaction)
        if transaction.parent is None and is_rollback:
            self.entries = [attrs.evolve(one, within=()) for one in entries]

    return {(joining.JoinedSession, "_after_transaction_end"): keep}


@planted_pair(promise.ORDER_IS_KEPT, "What is revived with a delay becomes ready then, although its key is held.")
def revives_later_beside_its_key() -> Patches:
    return reworded(["revive_later"], (f"THEN {WAITING}", f"THEN {SCHEDULED}"))


@planted_pair(promise.ORDER_IS_KEPT, "After a dead letter the next of its key waits until an idle worker repairs it.")
def gives_no_turn_after_a_dead_letter() -> Patches:
    leaving = _settle._leaving

    def of_acks(chosen: Mapping[Receipt, Settlement]) -> list[int]:
        return leaving({receipt: each for receipt, each in chosen.items() if isinstance(each[1], Ack)})

    return {(_settle, "_leaving"): of_acks}


@planted_pair(promise.ORDER_IS_KEPT, "After a cancel the next event of its key waits until an idle worker repairs it.")
def gives_no_turn_after_a_cancel() -> Patches:
    def take_out(self: Counter, connection: sa.Connection, statement: Prepared, **values: object) -> int:
        return len(statement.rows(connection, now=self._now(connection), **values))

    return {(Counter, "_take_out"): take_out}
