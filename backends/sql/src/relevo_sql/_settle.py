"""Settle: a batch in one transaction or one statement, each delivery by a compare-and-set on its receipt."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, ClassVar

import attrs
import sqlalchemy as sa

from relevo import Ack, Clock, DeadLetter, Delivery, Lost, Nack, Note, Release, Settlement
from relevo_sql._database import Database
from relevo_sql._prepared import Prepared
from relevo_sql._row import OrderingGroup, Receipt, are_copies, deaths_of, deaths_text, lease_end, micros
from relevo_sql._schema import READY, SCHEDULED
from relevo_sql._token import is_of_this_process


class _NotAllHeldError(Exception):
    """Some of the deliveries to settle are no longer held."""


_BOUND = 1000
"""The most rows whose time is corrected in one transaction."""

_Ended = tuple[Receipt, str, Any]
"""The receipt, the queue that handed the delivery out, and the outcome."""


def receipts_of(deliveries: Iterable[Delivery]) -> list[Receipt | None]:
    """Return the receipt of each of *deliveries*; ``None`` if it is not a receipt of this process."""
    is_known = cache(is_of_this_process)  # a batch has few tokens, and each answer is a call of the system
    receipts = [delivery.receipt for delivery in deliveries]
    return [each if isinstance(each, Receipt) and is_known(each.token) else None for each in receipts]


def receipt_of(delivery: Delivery) -> Receipt | None:
    """Return the receipt of *delivery*; ``None`` if it is not a receipt of this process."""
    return receipts_of([delivery])[0]


class Settler:
    """Settles, extends and marks deliveries that are held."""

    def __init__(self, database: Database, clock: Clock):
        self._database = database
        self._statements = database.statements
        self._clock = clock

    def settle(self, settlements: Sequence[Settlement]) -> list[Delivery]:
        """Apply each of *settlements*; return the deliveries that were no longer held."""
        receipts = receipts_of([delivery for delivery, _ in settlements])
        chosen: dict[Receipt, Settlement] = {}
        for receipt, settlement in zip(receipts, settlements, strict=True):
            if receipt is not None:
                chosen.setdefault(receipt, settlement)
        settled = self._settled(chosen) if chosen else set()
        lost = []
        for receipt, (delivery, _) in zip(receipts, settlements, strict=True):
            if receipt in settled:
                settled.remove(receipt)  # a delivery that is in a batch twice is lost the second time
            else:
                lost.append(delivery)
        return lost

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> list[Delivery]:
        """Let each lease end *lease* seconds from now; return the deliveries that were no longer held."""
        receipts = receipts_of(deliveries)
        known = {receipt for receipt in receipts if receipt is not None}

        def prolong(connection: sa.Connection) -> set[Receipt]:
            now = self._now(connection)
            until = lease_end(lease, now)
            return self._run_grouped(connection, self._statements.extend, known, now=now, until=until)

        held = self._database.write(prolong) if known else set()
        return [each for each, receipt in zip(deliveries, receipts, strict=True) if receipt not in held]

    def checkpoint(self, delivery: Delivery, state: bytes) -> bool:
        """Keep *state* with *delivery*; return whether it is still held."""
        receipt = receipt_of(delivery)
        if receipt is None:
            return False
        seq, token = receipt
        run = self._statements.checkpoint.run
        touched = self._database.update(
            lambda connection: run(connection, which=seq, held=token, now=self._now(connection), kept=state).rowcount,
            repeatable=True,
        )
        return touched > 0

    def has_progress(self, receipt: Receipt, state: bytes) -> bool:
        """Return whether the row of *receipt* has *state*; wait for a transaction that is about to write it."""
        seq, token = receipt
        run = self._statements.has_progress.run
        found = self._database.update(
            lambda connection: run(connection, which=seq, held=token, kept=state).rowcount, repeatable=True
        )
        return found > 0

    def begin(self, delivery: Delivery, note: Note) -> bool:
        """Keep *note* and its deaths with *delivery*; return whether it is still held."""
        receipt = receipt_of(delivery)
        if receipt is None:
            return False
        seq, token = receipt
        kept = {"note": note.packed(), "dead": deaths_text(note.deaths)}
        run = self._statements.begin.run
        # Not durable: a crash of the host may lose the note, but no listener causes such a crash.
        touched = self._database.update(
            lambda connection: run(connection, which=seq, held=token, now=self._now(connection), **kept).rowcount,
            repeatable=True,
        )
        return touched > 0

    def excuse(self, delivery: Delivery, note: Note) -> None:
        """Mark *note* as excused if it is still the last one, even if another worker holds the event."""
        receipt = delivery.receipt
        if isinstance(receipt, Receipt):
            kept = {"note": note.packed(), "excused": attrs.evolve(note, excused=True).packed()}
            run = self._statements.excuse.run
            self._database.update(lambda connection: run(connection, which=receipt.seq, **kept), repeatable=True)

    def _now(self, connection: sa.Connection) -> int:
        return self._database.now(self._clock, connection)

    def _settled(self, chosen: Mapping[Receipt, Settlement]) -> set[Receipt]:
        """Settle *chosen*, in one statement if one can do it; return the receipts that were held."""
        only_acks = {type(outcome) for _, outcome in chosen.values()} == {Ack}
        if only_acks and not self._database.archives and not _leaving(chosen):
            if len(chosen) == 1:
                return self._ack_one(*chosen)
            if len({token for _, token in chosen}) == 1:  # what one claim has found
                if self._statements.ack.is_one and not self._database.dialect.turns_at_send:
                    return self._database.update(lambda connection: self._settle(connection, chosen))
                with suppress(_NotAllHeldError):  # rare, and undone: the general way finds out which ones are
                    return self._database.write(lambda connection: self._ack_all(connection, chosen))
        return self._database.write(lambda connection: self._settle(connection, chosen))

    def _ack_all(self, connection: sa.Connection, chosen: Collection[Receipt]) -> set[Receipt]:
        """Delete the rows of one claim, for which no other waits; only their number is read, which takes less time."""
        receipts = set(chosen)
        seqs = self._database.dialect.listed([seq for seq, _ in chosen])
        (held,) = {token for _, token in chosen}
        deleted = self._statements.ack_all.run(connection, held=held, seqs=seqs, now=self._now(connection)).rowcount
        if deleted < len(receipts):
            raise _NotAllHeldError
        return receipts

    def _ack_one(self, receipt: Receipt) -> set[Receipt]:
        """Delete a row that no other waits for; every database reports in one step whether it was held."""
        seq, token = receipt
        run = self._statements.ack_one.run
        touched = self._database.update(
            lambda connection: run(connection, which=seq, held=token, now=self._now(connection)).rowcount
        )
        return {receipt} if touched else set()

    def _settle(self, connection: sa.Connection, chosen: Mapping[Receipt, Settlement]) -> set[Receipt]:
        now = self._now(connection)
        of: dict[type, list[Receipt]] = {Ack: [], Release: [], Nack: [], Lost: [], DeadLetter: []}
        postponed: dict[float, list[Receipt]] = {}
        done: list[Receipt] = []
        for receipt, (_, outcome) in chosen.items():
            if isinstance(outcome, Release) and outcome.delay > 0:
                postponed.setdefault(outcome.delay, []).append(receipt)
            elif self._database.archives and isinstance(outcome, Ack) and not outcome.moved:
                done.append(receipt)
            else:
                of[type(outcome)].append(receipt)
        leaving = _leaving(chosen)
        lines: Any = ()
        if leaving:
            lines = self._statements.lines.rows(connection, seqs=self._database.dialect.listed(leaving))
        settled = self._run_grouped(connection, self._statements.ack, of[Ack], now=now)
        settled |= self._archive(connection, done, now)
        settled |= self._run_grouped(connection, self._statements.release, of[Release], now=now)
        for delay, receipts in postponed.items():
            at = now + micros(delay)
            settled |= self._run_grouped(connection, self._statements.postpone, receipts, now=now, at=at)
        for kind, end in self._one_by_one.items():
            held = self._run_grouped(connection, self._statements.held, of[kind], now=now)
            if held:
                ended = [
                    (each, delivery.queue, outcome) for each, (delivery, outcome) in chosen.items() if each in held
                ]
                end(self, connection, ended, now)
                settled |= held
        advance(connection, self._database, lines, now)
        return settled

    def _archive(self, connection: sa.Connection, done: Iterable[Receipt], now: int) -> set[Receipt]:
        """Move the rows of the receipts *done* to the archive; return those that were held."""
        held = self._run_grouped(connection, self._statements.held, done, now=now)
        for statement in (self._statements.archive, self._statements.ack_all):
            self._run_grouped(connection, statement, held, now=now)
        return held

    def _run_grouped(
        self, connection: sa.Connection, statement: Prepared, receipts: Iterable[Receipt], **values: object
    ) -> set[Receipt]:
        """Run *statement* once for each claim of *receipts*; return the receipts that were held."""
        of_claim: dict[int, list[Receipt]] = {}
        for receipt in receipts:
            of_claim.setdefault(receipt.token, []).append(receipt)
        held: set[Receipt] = set()
        for token, claimed in of_claim.items():
            seqs = self._database.dialect.listed([seq for seq, _ in claimed])
            found = {seq for (seq,) in statement.rows(connection, held=token, seqs=seqs, **values)}
            held.update([receipt for receipt in claimed if receipt.seq in found])
        return held

    def _nack(self, connection: sa.Connection, ended: Sequence[_Ended], now: int) -> None:
        for queue in {queue for _, queue, _ in ended}:
            self._catch_up(connection, queue, now)
        rows = []
        for (seq, token), _, outcome in ended:
            delay = micros(max(0.0, outcome.delay))
            # One microsecond puts it behind what was sent at the same time.
            state, at = (SCHEDULED, now + delay) if delay else (READY, now + 1)
            rows.append((seq, token, state, at, outcome.state))
        self._statements.nack.run_many(connection, rows)

    def _catch_up(self, connection: sa.Connection, queue: str, now: int) -> None:
        """
        Make *now* the time of the ready events of *queue* whose time is later, so that a retry goes behind them.

        Their time is later if the clock was set back, or if another program wrote it.
        """
        (latest,) = self._statements.last_ready.rows(connection, queue=queue)
        if any(isinstance(each, int) and each > now for each in latest):
            self._statements.catch_up.rows(connection, queue=queue, now=now, bound=_BOUND)

    def _lose(self, connection: sa.Connection, ended: Sequence[_Ended], now: int) -> None:
        alive = [(*receipt, outcome.state) for receipt, _, outcome in ended if outcome.death is None]
        dead = []
        for (seq, token), _, outcome in ended:
            if outcome.death is not None:
                kept = self._statements.deaths.run(connection, which=seq, held=token).scalar()
                dead.append((seq, token, outcome.state, deaths_text((*deaths_of(kept), outcome.death))))
        self._statements.lose.run_many(connection, alive)
        self._statements.die.run_many(connection, dead)

    def _bury(self, connection: sa.Connection, ended: Sequence[_Ended], now: int) -> None:
        """Store dead letters, one for each event and queue, and then delete their rows."""
        receipts = [receipt for receipt, _, _ in ended]
        self._replace(connection, receipts)
        safe = self._database.dialect.holdable
        self._statements.bury.run_many(
            connection, [(*receipt, queue, o.state, safe(o.reason), safe(o.error), now) for receipt, queue, o in ended]
        )
        self._statements.forget.run_many(connection, receipts)

    def _replace(self, connection: sa.Connection, receipts: Iterable[Receipt]) -> None:
        """Delete the earlier dead letters of events that become dead letters again."""
        seqs = self._database.dialect.listed([seq for seq, _ in receipts])
        for row in self._statements.earlier.rows(connection, seqs=seqs):
            *_, ref, queue = row
            if are_copies(row):
                self._statements.discard.run(connection, ref=ref, queue=queue)

    _one_by_one: ClassVar[dict[type, Callable[[Settler, sa.Connection, Sequence[_Ended], int], None]]] = {
        Nack: _nack,
        Lost: _lose,
        DeadLetter: _bury,
    }


def advance(connection: sa.Connection, database: Database, lines: Iterable[Sequence[Any]], now: int) -> None:
    """Give the next event of each of *lines* its turn if none has it."""
    found = {line for line in map(OrderingGroup._make, lines) if line.ordering_key is not None}
    database.dialect.lock_lines(connection, found)
    database.statements.advance.run_many(connection, [(*line, now) for line in found])


def _leaving(chosen: Mapping[Receipt, Settlement]) -> list[int]:
    """Return the keys of the rows that go, and for which others may wait; that is unknown of what cannot be read."""
    return [
        seq
        for (seq, _), (delivery, outcome) in chosen.items()
        if getattr(delivery.envelope, "ordering_key", "unknown") is not None and isinstance(outcome, (Ack, DeadLetter))
    ]
