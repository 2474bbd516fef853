"""Queries: pages of waiting events and of dead letters, their numbers by group, and ordering keys that are stuck."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import attrs
import sqlalchemy as sa

from relevo import (
    Clock,
    DeadLetterEntry,
    DeadLetterFilter,
    Envelope,
    EventFilter,
    EventGroup,
    StuckKey,
    StuckKeys,
    WaitingEntry,
)
from relevo.errors import ConfigurationError, shown
from relevo_sql._database import Database
from relevo_sql._dead_letters import PAGE_BYTES, is_name, parsed_ref
from relevo_sql._query_statement import NEXT, FilterShape
from relevo_sql._row import FARTHEST, LONGEST, entry_of, found_of, micros
from relevo_sql._schema import HIGH, LEASED, NORMAL, READY, SCHEDULED, WAITING

_LAST = 2**63 - 1
"""The latest time of a column."""

_BUCKETS = ((READY, HIGH), (READY, NORMAL), (LEASED, NORMAL), (SCHEDULED, NORMAL), (WAITING, NORMAL))
"""What a queue is listed in: a state and an urgency, in each of which an index has the rows in the order of a time."""

_HEADS = {LEASED: 2, SCHEDULED: 3}
"""In which of these the row is that others of its ordering key wait for."""


class _Position(NamedTuple):
    """Where a row is in its list."""

    bucket: int
    at: Any
    seq: Any

    def cursor(self, queue: str) -> str:
        return f"{self.bucket}.{self.at}.{self.seq}@{queue}"


class _Window(NamedTuple):
    """A part of a bucket: the rows with a time from *low* to *high*; all of them have one status at a given moment."""

    bucket: int
    status: str
    low: Any
    high: int


class _Stuck(NamedTuple):
    """An ordering group whose events wait for a row that cannot be handed out now."""

    queue: str
    target: Any
    key: Any
    waiting: int
    since: Any
    next_seq: Any
    head: Any
    """The primary key of the row that blocks the group; ``None`` if that row is gone."""

    head_state: Any
    total: int
    """How many such groups the queue has."""


@attrs.frozen
class _Chosen:
    """A filter: the conditions that it has, and their values."""

    conditions: FilterShape
    values: dict[str, object]
    is_empty: bool = False
    """Whether it matches nothing, since no row can hold its values."""


class Searcher:
    """Answers queries on a database."""

    def __init__(self, database: Database, clock: Clock):
        self._database = database
        self._dialect = database.dialect
        self._statements = database.statements.queries
        self._clock = clock

    # --- waiting events -----------------------------------------------------------------------------

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter, after: str | None, limit: int
    ) -> list[WaitingEntry]:
        """
        Return up to *limit* of the living events of *queues* that match *where*, starting after the cursor *after*.

        Raises:
            ConfigurationError: *after* is not a cursor of one of *queues*.
        """
        wanted = list(dict.fromkeys(queues))
        start = None
        if after is not None:
            start, queue = _parsed_cursor(after)
            if start is None or queue not in wanted:
                known = ", ".join(f'"{name}"' for name in wanted)
                raise ConfigurationError(f"{shown(after)} is not a cursor of {known}; give one that was returned")
            wanted = wanted[wanted.index(queue) :]
        chosen = self._chosen(where)
        if limit <= 0 or chosen.is_empty:
            return []
        now = self._now()

        def read(connection: sa.Connection) -> list[WaitingEntry]:
            found: list[WaitingEntry] = []
            size, behind = 0, start
            for name in wanted:
                for window in self._windows(where, now, behind):
                    for row in self._rows(connection, name, window, chosen, behind=behind, limit=limit):
                        entry = _entry(row, window.bucket, name, now)
                        if entry is not None and where.matches(entry):
                            found.append(entry)
                            size += sum(len(value) for value in row if isinstance(value, (bytes, str)))
                        if len(found) >= limit or size >= PAGE_BYTES:
                            return found
                behind = None
            return found

        return self._database.read(read)

    def groups(self, queues: Sequence[str], *, by: str, where: EventFilter) -> list[EventGroup]:
        """Count the living events of *queues* that match *where*."""
        chosen = self._chosen(where)
        if chosen.is_empty:
            return []
        windows = list(self._windows(where, self._now(), None))
        buckets = [_BUCKETS[window.bucket] for window in windows]
        statement = self._statements.groups([state for state, _ in buckets], chosen.conditions, by_name=by == "event")
        values = dict(chosen.values)
        for number, (window, (state, urgency)) in enumerate(zip(windows, buckets, strict=True)):
            values |= {f"low{number}": window.low, f"high{number}": window.high}
            values |= {f"urgency{number}": urgency} if state == READY else {}

        def read(connection: sa.Connection) -> list[tuple[str, Any]]:
            found: list[tuple[str, Any]] = []
            for name in dict.fromkeys(queues):
                for number, part, *numbers in statement.run(connection, queue=name, **values):
                    key = {"event": _text(part), "queue": name, "state": windows[number].status}[by]
                    found.append((key, numbers))
            return found

        return _merged(self._database.read(read))

    def _windows(self, where: EventFilter, now: int, behind: _Position | None) -> Iterator[_Window]:
        """Yield the parts of the buckets, from the place *behind* on, whose rows have a status that matches *where*."""
        first = self._dialect.before_all
        parts = {
            READY: [("ready", first, _LAST)],
            LEASED: [
                ("ready", first, now),
                ("leased", now + 1, now + FARTHEST),
                ("ready", now + FARTHEST + 1, _LAST),
            ],
            SCHEDULED: [("ready", first, now), ("scheduled", now + 1, _LAST)],
        }
        parts[WAITING] = parts[SCHEDULED]
        for bucket, (state, _) in enumerate(_BUCKETS):
            for status, low, high in parts[state]:
                is_behind = behind is None or (bucket, high) >= behind[:2]
                if status in where.wanted and is_behind:
                    yield _Window(bucket, status, low, high)

    def _rows(
        self,
        connection: sa.Connection,
        queue: str,
        window: _Window,
        chosen: _Chosen,
        *,
        behind: _Position | None,
        limit: int,
    ) -> Iterator[Sequence[Any]]:
        """Yield the rows of *window*; one at a time, since all may not fit into memory."""
        state, urgency = _BUCKETS[window.bucket]
        low, seq = window.low, self._dialect.before_all
        if behind is not None and behind.bucket == window.bucket and behind.at >= low:
            low, seq = behind.at, behind.seq
        statement = self._statements.page(state, chosen.conditions)
        count = limit
        while count == limit:
            rows = statement.run(
                connection,
                queue=queue, urgency=urgency, low=low, high=window.high, behind=seq, bound=limit, **chosen.values,
            )  # fmt: skip
            count = 0
            with rows:
                for row in rows:
                    count += 1
                    low, seq = row[-1], row[0]
                    yield row

    # --- dead letters -------------------------------------------------------------------------------

    def dead_letters(
        self, queues: Sequence[str], *, where: DeadLetterFilter, after: str | None, limit: int
    ) -> list[DeadLetterEntry]:
        """
        Return up to *limit* of the dead letters that match *where*, starting after the ref *after*.

        Raises:
            ConfigurationError: *after* is not a ref of one of *queues*.
        """
        wanted, last = parsed_ref(queues, after, first=self._dialect.before_all)
        chosen = self._chosen(where)
        if limit <= 0 or chosen.is_empty:
            return []
        statement = self._statements.dead_page(chosen.conditions)

        def read(connection: sa.Connection) -> list[DeadLetterEntry]:
            found: list[DeadLetterEntry] = []
            size, behind = 0, last
            for name in wanted:
                count = limit
                while count == limit:
                    count = 0
                    rows = statement.run(connection, queue=name, after=behind, bound=limit, **chosen.values)
                    with rows:
                        for row in rows:
                            count, behind, entry = count + 1, row[0], entry_of(row)
                            if _is_wanted(entry, where):
                                found.append(entry)
                                size += sum(len(value) for value in row if isinstance(value, (bytes, str)))
                            if len(found) >= limit or size >= PAGE_BYTES:
                                return found
                behind = self._dialect.before_all
            return found

        return self._database.read(read)

    def dead_groups(self, queues: Sequence[str], *, by: str, where: DeadLetterFilter) -> list[EventGroup]:
        """Count the dead letters of *queues* that match *where*."""
        chosen = self._chosen(where)
        if chosen.is_empty:
            return []
        column = {"event": "name"}.get(by, by)
        statement = self._statements.dead_group(chosen.conditions, by=column)

        def read(connection: sa.Connection) -> list[tuple[str, Any]]:
            return [
                (name if by == "queue" else _text(part), numbers)
                for name in dict.fromkeys(queues)
                for part, *numbers in statement.run(connection, queue=name, **chosen.values)
            ]

        return _merged(self._database.read(read))

    # --- ordering keys ------------------------------------------------------------------------------

    def stuck_keys(self, queues: Sequence[str], *, longer: float, limit: int) -> StuckKeys:
        """Return the stuck ordering keys of *queues*, those stuck the longest first."""
        now = self._now()
        bound = max(1, limit)  # each row has the number of all

        def read(connection: sa.Connection) -> tuple[list[_Stuck], dict[Any, Sequence[Any]], int]:
            found: list[_Stuck] = []
            total = 0
            for name in dict.fromkeys(queues):
                rows = self._statements.stuck().run(
                    connection, queue=name, now=now, before=now - micros(longer), bound=bound
                )
                of_queue = [_Stuck(name, *row) for row in rows]
                found += of_queue
                total += of_queue[0].total if of_queue else 0
            found.sort(key=lambda each: each.since)
            del found[max(0, limit) :]
            heads = [each.head for each in found if each.head is not None and each.head_state != WAITING]
            rows = self._statements.rows().run(connection, seqs=self._dialect.listed(heads)).all() if heads else []
            return found, {row[0]: row for row in rows}, total

        found, heads, total = self._database.read(read)

        def first(stuck: _Stuck) -> WaitingEntry | None:
            if stuck.head not in heads:
                return None
            return _entry(heads[stuck.head], _HEADS[stuck.head_state], stuck.queue, now)

        keys = [
            StuckKey(
                queue=each.queue,
                key=_text(each.key),
                waiting=each.waiting,
                since=each.since / 1_000_000,
                first=first(each),
            )
            for each in found
        ]
        return StuckKeys(keys=tuple(keys), total=total)

    # --- queues -------------------------------------------------------------------------------------

    def held_queues(self) -> list[str]:
        """Return the queues that have rows, living or dead; one step in each index for each of them."""
        statement = self._statements.next_queues()

        def read(connection: sa.Connection) -> list[str]:
            found: set[str] = set()
            after = dict.fromkeys(NEXT, "")
            while True:
                row = statement.run(connection, **after).one()
                further = {part: queue for part, queue in zip(NEXT, row, strict=True) if isinstance(queue, str)}
                if not further:
                    return sorted(found)
                found.update(further.values())
                after |= further

        return self._database.read(read)

    # --- filters ------------------------------------------------------------------------------------

    def _chosen(self, where: EventFilter | DeadLetterFilter) -> _Chosen:
        reasons = where.reasons if isinstance(where, DeadLetterFilter) else ()
        exact, prefixes = self._holdable(where.patterns.exact), self._holdable(where.patterns.prefixes)
        known = self._holdable(reasons)
        values: dict[str, object] = {f"prefix{number}": prefix for number, prefix in enumerate(prefixes)}
        if exact:
            values["names"] = self._dialect.listed(exact)
        if known:
            values["reasons"] = self._dialect.listed(known)
        if where.since is not None:
            values["since"] = _edge(where.since)
        if where.until is not None:
            values["until"] = _edge(where.until)
        conditions = FilterShape(
            names=bool(exact),
            prefixes=tuple(map(len, prefixes)),
            others=bool(known),
            since=where.since is not None,
            until=where.until is not None,
        )
        is_empty = bool(where.names and not exact and not prefixes) or bool(reasons and not known)
        return _Chosen(conditions, values, is_empty)

    def _holdable(self, texts: Iterable[str]) -> list[str]:
        return [text for text in texts if self._dialect.can_hold(text)]

    def _now(self) -> int:
        return self._database.now(self._clock)


def _edge(seconds: float) -> int:
    """Return *seconds* as microseconds that a column can hold."""
    return micros(max(seconds, -LONGEST / 1_000_000))


def _entry(row: Sequence[Any], bucket: int, queue: str, now: int) -> WaitingEntry | None:
    """Return a *row* for a list; ``None`` if it is unreadable."""
    *columns, leased_at, at = row
    found = found_of(columns, now)
    if found is None:
        return None
    is_held = found.status == "leased" and type(leased_at) is int
    return WaitingEntry(
        **attrs.asdict(found, recurse=False),
        cursor=_Position(bucket, at, row[0]).cursor(queue),
        leased_at=leased_at / 1_000_000 if is_held else None,
    )


def _is_wanted(entry: DeadLetterEntry, where: DeadLetterFilter) -> bool:
    name = entry.envelope.name if isinstance(entry.envelope, Envelope) else None
    return where.matches(name=name, reason=entry.reason, died_at=entry.died_at)


def _merged(parts: Iterable[tuple[str, Any]]) -> list[EventGroup]:
    """Return a group for each key of *parts*, which have a number, a first and a last time; the largest first."""
    groups: dict[str, EventGroup] = {}
    for key, (count, *times) in parts:
        if not count:  # a count without GROUP BY has a row also if there is nothing to count
            continue
        oldest, newest = (time / 1_000_000 if type(time) is int else 0.0 for time in times)
        known = groups.get(key, EventGroup(key=key, count=0, oldest=oldest, newest=newest))
        groups[key] = EventGroup(
            key=key,
            count=known.count + count,
            oldest=min(known.oldest, oldest),
            newest=max(known.newest, newest),
        )
    return sorted(groups.values(), key=lambda one: (-one.count, one.key))


def _parsed_cursor(cursor: str) -> tuple[_Position | None, str]:
    """Return the place and the queue of *cursor*; the place is ``None`` if *cursor* is invalid."""
    numbers, _, queue = cursor.partition("@")
    parts = numbers.split(".")
    if len(parts) != len(_Position._fields) or not is_name(queue):
        return None, ""
    if not all(part.removeprefix("-").isascii() and part.removeprefix("-").isdigit() for part in parts):
        return None, ""
    if any(len(part) > _DIGITS for part in parts):
        return None, ""
    place = _Position(*map(int, parts))
    fits = 0 <= place.bucket < len(_BUCKETS) and all(-_LAST <= part <= _LAST for part in place)
    return (place if fits and place.cursor(queue) == cursor else None), queue


_DIGITS = 20
"""More than any number of a cursor has."""


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else "" if value is None else str(value)
