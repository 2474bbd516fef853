"""Which dead letters a command is about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Self, get_args

import attrs
import click

from relevo._transport.envelope import Envelope
from relevo._transport.query import DeadLetterFilter, EventGroup
from relevo._transport.transport import DeadLetterEntry, Transport
from relevo._worker.progress import failures_of
from relevo.cli._filter import event_option, time_options
from relevo.cli._main import refuse_invalid

_PAGE = 200

By = Literal["event", "queue", "reason", "listener"]

KEYS: tuple[By, ...] = get_args(By)
"""By what dead letters are counted."""


@attrs.frozen(kw_only=True)
class DeadLetterChoice:
    """
    The dead letters that match the options of a command.

    A transport stores the names of failed listeners in a form that only relevo reads, so these are compared here; and
    so is everything if the transport cannot filter.
    """

    where: DeadLetterFilter = attrs.field(factory=DeadLetterFilter)
    listeners: tuple[str, ...] = ()

    @classmethod
    def of(cls, *, listeners: tuple[str, ...], **conditions: Any) -> Self:
        """Return it for the values of :func:`dead_letter_options`."""
        return cls(where=DeadLetterFilter(**conditions), listeners=listeners)

    def entries(self, store: Transport, queues: Sequence[str]) -> Iterator[DeadLetterEntry]:
        """Yield those of *queues* in *store*."""
        filters = self.where != DeadLetterFilter() and store.capabilities.waiting
        after: str | None = None
        while page := (
            store.matching_dead_letters(queues, where=self.where, after=after, limit=_PAGE)
            if filters
            else store.dead_letters(queues, after=after, limit=_PAGE)
        ):
            after = page[-1].ref
            yield from filter(self._has, page)

    def _has(self, entry: DeadLetterEntry) -> bool:
        name = entry.envelope.name if isinstance(entry.envelope, Envelope) else None
        if not self.where.matches(name=name, reason=entry.reason, died_at=entry.died_at):
            return False
        return not self.listeners or not set(self.listeners).isdisjoint(failed_listeners(entry))


def dead_letter_options(command: Any) -> Any:
    """Add the options that choose dead letters to *command*."""
    for option in (
        time_options("dead-lettered"),
        click.option(
            "--listener",
            "listeners",
            multiple=True,
            metavar="ID",
            callback=refuse_invalid,
            help="Only those in which this listener failed; may be repeated.",
        ),
        click.option(
            "--reason",
            "reasons",
            multiple=True,
            metavar="REASON",
            callback=refuse_invalid,
            help="Only those with this reason; may be repeated.",
        ),
        event_option,
    ):
        command = option(command)
    return command


def failed_listeners(entry: DeadLetterEntry) -> list[str]:
    """Return the ids of the listeners that failed."""
    return list(dict.fromkeys(failure.listener for failure in failures_of(entry) if failure.listener))


def dead_letter_groups(
    places: Iterable[tuple[Transport, list[str]]], choice: DeadLetterChoice, by: By, *, required: bool
) -> list[tuple[str, EventGroup]]:
    """
    Count the dead letters of *places* that *choice* has.

    Args:
        places: Stores and queues.

        choice: The dead letters.

        by: What those of a group have in common. One with several failed listeners is in a group for each.

        required: Whether a store without dead letters is an error.
    """
    found: list[tuple[str, EventGroup]] = []
    for store, queues in places:
        claims = store.capabilities
        if not claims.dead_letters and not required:
            continue
        if claims.waiting and by != "listener" and not choice.listeners:
            found += [(store.name, group) for group in store.dead_letter_groups(queues, by=by, where=choice.where)]
            continue
        tally = Tally(by)
        for entry in choice.entries(store, queues):
            tally.add(store.name, entry)
        found += tally.groups
    return found


class Tally:
    """
    Counts dead letters by a property.

    Args:
        by: What those of a group have in common. One with several failed listeners is in a group for each.
    """

    def __init__(self, by: By):
        self._by = by
        self._groups: dict[tuple[str, str], EventGroup] = {}

    def add(self, store: str, entry: DeadLetterEntry) -> None:
        """Count *entry*, of the transport named *store*."""
        name = entry.envelope.name if isinstance(entry.envelope, Envelope) else ""
        keys = {"event": [name], "queue": [entry.queue], "reason": [entry.reason]}
        for key in keys.get(self._by) or failed_listeners(entry) or [""]:
            known = self._groups.get((store, key))
            if known is None:
                known = EventGroup(key=key, count=0, oldest=entry.died_at, newest=entry.died_at)
            self._groups[store, key] = EventGroup(
                key=key,
                count=known.count + 1,
                oldest=min(known.oldest, entry.died_at),
                newest=max(known.newest, entry.died_at),
            )

    @property
    def groups(self) -> list[tuple[str, EventGroup]]:
        """The groups, each with the name of its transport."""
        return [(store, group) for (store, _), group in self._groups.items()]
