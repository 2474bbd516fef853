"""The dead letters that a command's options choose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Self, get_args

import attrs
import click

from relevo._app.app import App
from relevo._transport.delivery import Failure
from relevo._transport.envelope import Envelope
from relevo._transport.query import DeadLetterFilter, EventGroup
from relevo._transport.transport import DeadLetterEntry, Transport
from relevo._worker.decision import Reason
from relevo._worker.progress import failures_of
from relevo.cli._filter import Tally, error_option, event_option, has_failed, listener_option, time_options
from relevo.cli._known import refuse_unknown_events, refuse_unknown_listeners, refuse_unknown_reasons
from relevo.cli._main import refuse_invalid

_PAGE = 200

Place = tuple[Transport, list[str]]
"""A store, and queues in it."""

By = Literal["event", "queue", "reason", "listener", "error"]

KEYS: tuple[By, ...] = get_args(By)
"""By what dead letters are counted."""


@attrs.frozen(kw_only=True)
class DeadLetterChoice:
    """
    The dead letters that match the options of a command.

    A transport stores the names of failed listeners in a form that only relevo reads, and searches no texts of errors,
    so these are compared here; and so is everything if the transport cannot filter.
    """

    where: DeadLetterFilter = attrs.field(factory=DeadLetterFilter)
    listeners: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()

    @classmethod
    def of(cls, *, listeners: tuple[str, ...], errors: tuple[str, ...], **conditions: Any) -> Self:
        """Return it for the values of :func:`dead_letter_options`."""
        return cls(where=DeadLetterFilter(**conditions), listeners=listeners, errors=errors)

    def refuse_unknown(self, app: App, places: Iterable[Place]) -> None:
        """
        Refuse names of events, listeners and reasons that neither *app* nor a dead letter of *places* has.

        Raises:
            ConfigurationError: An event or a listener is unknown.

            click.BadParameter: A reason is unknown.
        """
        able = [(store, queues) for store, queues in places if store.capabilities.dead_letters]

        def holds(choice: DeadLetterChoice) -> bool:
            return any(True for store, queues in able for _ in choice.entries(store, queues))

        refuse_unknown_reasons(
            self.where.reasons, lambda reason: holds(DeadLetterChoice(where=DeadLetterFilter(reasons=(reason,))))
        )
        refuse_unknown_events(
            app, self.where.names, lambda name: holds(DeadLetterChoice(where=DeadLetterFilter(names=(name,))))
        )
        refuse_unknown_listeners(app, self.listeners, lambda name: holds(DeadLetterChoice(listeners=(name,))))

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
        if not self.listeners and not self.errors:
            return True
        return any(has_failed(failure, self.listeners, self.errors) for failure in failures_of(entry))


def dead_letter_options(command: Any) -> Any:
    """Add the options that choose dead letters to *command*."""
    for option in (
        time_options("dead-lettered"),
        error_option("Only those with a failure whose error contains this text; all dead letters are read for it."),
        listener_option(
            "Only those in which this listener failed, or one with a prefix, as in shop.*; may be repeated."
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


def keys_of(entry: DeadLetterEntry, by: By) -> list[str]:
    """Return the property *by* of *entry*: several, if several listeners failed; one is empty if it is not known."""
    match by:
        case "event":
            return [entry.envelope.name if isinstance(entry.envelope, Envelope) else ""]
        case "queue":
            return [entry.queue]
        case "reason":
            return [entry.reason]
        case "listener":
            return failed_listeners(entry) or [""]
        case "error":
            return list(dict.fromkeys(error_of(failure) for failure in failures_of(entry)))


def error_of(failure: Failure) -> str:
    """Return the class of the exception of *failure*; without one its reason if that is a missing listener."""
    return failure.kind or (failure.reason if failure.reason == Reason.LISTENER_MISSING else "")


def dead_letter_groups(
    places: Iterable[Place], choice: DeadLetterChoice, by: By, *, required: bool
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
        if claims.waiting and by in ("event", "queue", "reason") and not choice.listeners and not choice.errors:
            found += [(store.name, group) for group in store.dead_letter_groups(queues, by=by, where=choice.where)]
            continue
        tally = Tally()
        for entry in choice.entries(store, queues):
            tally.add(store.name, keys_of(entry, by), entry.died_at)
        found += tally.groups
    return found
