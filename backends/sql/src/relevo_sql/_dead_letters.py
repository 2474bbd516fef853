"""Dead letters: list, revive, discard."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from relevo import Clock, DeadLetterEntry
from relevo.errors import ConfigurationError, shown
from relevo_sql._database import Database
from relevo_sql._row import are_copies, entry_of, micros, row_of_entry
from relevo_sql._schema import IDENTITY

PAGE_BYTES = 16 * 1024 * 1024
"""A page ends with the dead letter that exceeds this size."""

_MANY_DIGITS = 20
"""More than any number of a dead letter has."""

_TRIES = 3
"""An event in the way of a revived one may end before it is looked at; not several times in succession."""


class DeadLetterStore:
    """
    The dead letters of a database.

    A ref consists of a number that is never used twice and the queue, so that paging can continue after a dead letter
    that was removed meanwhile.
    """

    def __init__(self, database: Database, clock: Clock):
        self._database = database
        self._statements = database.statements
        self._clock = clock

    def entries(self, queues: Sequence[str], *, after: str | None, limit: int) -> list[DeadLetterEntry]:
        """
        Return up to *limit* of them, queue by queue, the oldest first, starting after the ref *after*.

        Raises:
            ConfigurationError: *after* is not a ref of one of *queues*.
        """
        wanted, number = parsed_ref(queues, after, first=self._database.dialect.before_all)

        def list_them(connection: sa.Connection) -> list[DeadLetterEntry]:
            found: list[DeadLetterEntry] = []
            behind = number
            size = 0
            for name in wanted:
                rows = self._statements.dead.run(connection, queue=name, after=behind, bound=limit - len(found))
                for row in rows:  # one at a time: the rest of a page may not fit into memory
                    found.append(entry_of(row))
                    size += sum(len(value) for value in row if isinstance(value, (bytes, str)))
                    if len(found) >= limit or size >= PAGE_BYTES:
                        rows.close()
                        return found
                behind = self._database.dialect.before_all
            return found

        return self._database.read(list_them) if limit > 0 else []

    def revive(self, refs: Mapping[str, bytes], *, delay: float = 0.0) -> list[str]:
        """Make them ready as new events, each with the given state; return the refs that were not revived."""

        def wake(connection: sa.Connection) -> list[str]:
            now = self._database.now(self._clock, connection)
            due = now + micros(max(0.0, delay))
            missing = []
            for ref, state in refs.items():
                number, queue = _parsed(ref)
                # Locked first: another process may be reviving it, and its event may be done before this one is sent.
                found = self._statements.lock_dead.rows(connection, ref=number, queue=queue)
                if not found:
                    missing.append(ref)
                    continue
                identity = dict(zip(IDENTITY, found[0][1:], strict=True))
                if self._wake(connection, identity, ref=number, queue=queue, kept=state, now=now, due=due):
                    self._statements.discard.run(connection, ref=number, queue=queue)
                else:
                    missing.append(ref)
            return missing

        return self._database.write(wake, durable=True) if refs else []

    def _wake(
        self, connection: sa.Connection, identity: Mapping[str, Any], *, now: int, due: int, **values: object
    ) -> bool:
        """
        Make a copy of a dead letter ready, or scheduled if it is *due* later; return whether it is alive now.

        A copy of the same event that was sent again stays: it started from the beginning, so it does all that this one
        would. If the living event has another content, the dead letter has to wait until that one is gone.
        """
        derived = self._database.dialect.derive(identity)
        for _ in range(_TRIES):
            copy = self._statements.revive_later if due > now else self._statements.revive
            copy.run(connection, now=due, **values, **derived)
            if None in identity.values():  # it equals no other
                return True
            living = self._statements.living.rows(connection, ref=values["ref"], queue=values["queue"])
            if living:
                return are_copies(living[0])
        return False

    def discard(self, refs: Iterable[str]) -> list[str]:
        """Delete them; return the refs that were not found."""
        wanted = list(refs)

        def delete(connection: sa.Connection) -> list[str]:
            missing = []
            for ref in wanted:
                number, queue = _parsed(ref)
                if not self._statements.discard.run(connection, ref=number, queue=queue).rowcount:
                    missing.append(ref)
            return missing

        return self._database.write(delete, durable=True) if wanted else []

    # --- those of other transports ------------------------------------------------------------------------

    def keep(self, letters: Sequence[DeadLetterEntry], *, dying: bool = False) -> list[str]:
        """
        Store *letters*, all or none, beside earlier ones of the same events; return the ref of each.

        Args:
            letters: The dead letters.

            dying: They die now, and not at their ``died_at``.
        """
        rows = [row_of_entry(letter, self._database.dialect.holdable) for letter in letters]
        marks = [secrets.token_hex(16) for _ in rows]

        def insert(connection: sa.Connection) -> list[str]:
            refs = []
            died = {"died_at": self._database.now(self._clock, connection)} if dying else {}
            for mark, row in zip(marks, rows, strict=True):
                self._statements.keep.run(connection, **row | died | {"queue": mark})
                ((number,),) = self._statements.kept.rows(connection, mark=mark)
                self._statements.name_kept.run(connection, which=number, named=row["queue"])
                refs.append(f"{number}@{row['queue']}")
            return refs

        return self._database.write(insert, durable=True) if rows else []

    def replace(self, refs: Iterable[str]) -> None:
        """Delete the dead letters that are earlier copies of those of *refs*."""
        wanted = list(refs)

        def delete(connection: sa.Connection) -> None:
            for number, _ in map(_parsed, wanted):
                for row in self._statements.earlier_kept.rows(connection, ref=number):
                    *_, ref, queue = row
                    if are_copies(row):
                        self._statements.discard.run(connection, ref=ref, queue=queue)

        if wanted:
            self._database.write(delete, durable=True)

    def remove(self, refs: Iterable[str], first: Callable[[Sequence[DeadLetterEntry]], Iterable[str]]) -> list[str]:
        """
        Call *first* once with the dead letters of *refs*, and delete those whose refs it returns.

        No other process removes them meanwhile. They all stay if it raises.

        Returns:
            The refs of which no dead letter was deleted.
        """
        wanted = list(dict.fromkeys(refs))
        chosen: list[frozenset[str]] = []

        def delete(connection: sa.Connection) -> list[str]:
            places = {ref: _parsed(ref) for ref in wanted}
            found: list[Sequence[Any]] = []
            for number, queue in places.values():
                # Locked first: another process may be removing it.
                if self._statements.lock_dead.rows(connection, ref=number, queue=queue):
                    found += self._statements.one_dead.rows(connection, ref=number, queue=queue)
            if not chosen:  # else the transaction is repeated
                chosen.append(frozenset(first([entry_of(row) for row in found])))
            missing = []
            for ref, (number, queue) in places.items():
                if (
                    ref not in chosen[0]
                    or not self._statements.discard.run(connection, ref=number, queue=queue).rowcount
                ):
                    missing.append(ref)
            return missing

        return self._database.write(delete, durable=True) if wanted else []


def parsed_ref(queues: Sequence[str], after: str | None, *, first: float) -> tuple[list[str], float]:
    """
    Return the *queues* in which a list continues after the ref *after*, and the number after which it continues.

    Args:
        queues: The queues.

        after: The ref; ``None`` if the list begins.

        first: A number before all others.

    Raises:
        ConfigurationError: *after* is not a ref of one of *queues*.
    """
    wanted = list(dict.fromkeys(queues))
    if after is None:
        return wanted, first
    number, queue = _parsed(after)
    if number is None or queue not in wanted:
        known = ", ".join(f'"{name}"' for name in wanted)
        raise ConfigurationError(f"{shown(after)} is not the ref of a dead letter of {known}; give one that was listed")
    return wanted[wanted.index(queue) :], number


def _parsed(ref: str) -> tuple[int | None, str]:
    """Return the number and the queue of *ref*; the number is ``None`` if *ref* is invalid."""
    digits, _, queue = ref.partition("@")
    unsigned = digits.removeprefix("-")
    if not (unsigned.isascii() and unsigned.isdigit() and len(unsigned) < _MANY_DIGITS and is_name(queue)):
        return None, ""
    number = int(digits)
    # int() reads other texts as the same number.
    return (number if str(number) == digits and -(2**63) <= number < 2**63 else None, queue)


def is_name(queue: str) -> bool:
    """Return whether every database can hold *queue*, as it can hold the name of every queue."""
    try:
        return b"\0" not in queue.encode()
    except UnicodeEncodeError:
        return False
