"""Resolve the names of transports, outboxes and queues on the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress

import attrs
import click

from relevo._app.app import App, parts_of, stores_of
from relevo._app.check import several_queues
from relevo._app.stores import missing_file, raise_together
from relevo._config.discovery import transport_class
from relevo._secret import without_secrets
from relevo._transport.envelope import DEFAULT_QUEUE
from relevo._transport.optional import QueueCatalog
from relevo._transport.route import outbox_queue
from relevo._transport.transport import Transport
from relevo._visible import visible
from relevo.cli._main import tell
from relevo.cli._output import at_terminal
from relevo.errors import ConfigurationError, RelevoError, TransportUnavailableError, UnsupportedError, did_you_mean


@attrs.frozen
class Place:
    """A store and the selected queues in it; an outbox has only its own queue, although its store may have others."""

    store: Transport
    queues: Sequence[str]
    transport: str
    is_outbox: bool = False

    def prepare(self, app: App) -> None:
        """
        Create the tables and queues that are missing, as *app* would, but no file.

        An empty file in place of one with another name, or on a disk that is not mounted, would look like a store that
        holds nothing. An outbox and its transport are prepared apart, since one of them may be down.

        Raises:
            ConfigurationError: Something is missing, and *app* creates nothing.

            TransportUnavailableError: There is no file, and *app* would create it; or the server could not be reached.
        """
        if parts_of(app).creates:
            self.require_file()
        if not self.is_outbox:
            stores_of(app).set_up(self.transport)
            if self.transport in app.keepers and not missing_file(app.keepers[self.transport]):
                stores_of(app).set_up_keeper(self.transport)
        elif self.store.lacking([outbox_queue(self.transport)]):
            stores_of(app).set_up_outbox(self.transport)

    def require_file(self) -> None:
        """Raise :class:`TransportUnavailableError` if the file of the store does not exist."""
        if (why := self.absence()) is not None:
            raise why

    def absence(self) -> TransportUnavailableError | None:
        """
        Return the error for a file of the store that does not exist; ``None`` if there is nothing to report.

        Raises:
            TransportUnavailableError: It could not be created either, as without its folder.
        """
        missing = missing_file(self.store)
        if not missing:
            return None
        self.store.lacking(self.queues)
        return TransportUnavailableError(
            self.store.name,
            f"{missing} yet; the first dispatch, a worker or relevo setup creates it; if events were dispatched "
            f"already, check its path, and whether its disk is mounted",
        )


def places(app: App, name: str | None, queues: Sequence[str] = ()) -> list[Place]:
    """
    Return the selected stores and queues.

    Args:
        app: The application.

        name: A transport, with its outbox, or an outbox alone; by default all of them.

        queues: Queues, as ``queue`` or ``transport/queue``; by default the routed ones, and the reserved queue
            of an outbox.

    Raises:
        ConfigurationError: No transport, outbox or queue has that name.

        TransportUnavailableError: Nothing is routed to a given queue, and its content could not be
            checked.
    """
    whole = _whole(app, name)
    if not queues:
        return whole
    held = [pair for text in queues for pair in _holding(whole, text, _names(app))]
    return [
        attrs.evolve(place, queues=list(dict.fromkeys(queue for each, queue in held if each is place)))
        for place in whole
        if any(each is place for each, _ in held)
    ]


def stores(app: App, name: str | None, queues: Sequence[str] = ()) -> list[tuple[Transport, list[str]]]:
    """
    Return the stores of :func:`places`, set up, each with its queues.

    One whose file does not exist holds no events: it is left out, and reported on standard error.

    Raises:
        TransportUnavailableError: None of the files exists, or a server could not be reached.
    """
    found: list[tuple[Transport, list[str]]] = []
    absent: list[RelevoError] = []
    for place in places(app, name, queues):
        if parts_of(app).creates and (why := place.absence()) is not None:
            absent.append(why)
            continue
        place.prepare(app)
        found.append((place.store, list(place.queues)))
    if not found:
        raise_together(absent)
    for each in absent:
        _tell_once(each)
    return found


def _tell_once(error: RelevoError) -> None:
    """Report *error* on standard error, but not again in the same command."""
    reported: set[str] = click.get_current_context().meta.setdefault(f"{__name__}.reported", set())
    if str(error) not in reported:
        reported.add(str(error))
        tell(error)


def lists_queues(store: Transport) -> bool:
    """Return whether relevo finds events in queues of *store* that no route leads to."""
    return isinstance(store, QueueCatalog) or private_to_process(store) is not None


def tell_unlisted(app: App, name: str | None, queues: Sequence[str] = ()) -> None:
    """
    Report on standard error which queues :func:`places` has selected in a store that cannot list the others.

    If routes lead to the store, the other queues are empty as a rule, and the report is for people at a terminal.
    """
    for place in places(app, name) if not queues else ():
        store = place.store
        if place.is_outbox or lists_queues(store) or (app.routes.queues(store.name) and not at_terminal(sys.stderr)):
            continue
        click.echo(
            visible(
                f'relevo: the transport "{store.name}" cannot list its queues; looked only at: '
                f"{', '.join(place.queues)}; name others with -q"
            ),
            err=True,
        )


def unclaimed(store: Transport, capability: str) -> UnsupportedError:
    """Return the error for a command that needs a *capability* that *store* does not claim."""
    return UnsupportedError(store.name, capability, store.why_unclaimed.get(capability, ""))


def only_place(app: App, name: str | None, queue: str) -> tuple[Place, str]:
    """
    Return the only place that has *queue*, and the name of the queue there.

    Raises:
        ConfigurationError: No place has it, or several have.
    """
    found = _holding(_whole(app, name), queue, _names(app))
    if len(found) > 1:
        there = ", ".join(f"{place.store.name}/{each}" for place, each in found)
        raise ConfigurationError(f'several transports have a queue "{queue}": write one of {there}')
    return found[0]


def of_one_transport(app: App, name: str | None, queues: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """Return the transport for a worker, and its queues, which may be given as ``transport/queue``."""
    split = [_split(text, app.transports, app.routes.queues(name or "")) for text in queues]
    for owner in dict.fromkeys(owner for owner, _ in split if owner is not None):
        if name not in (None, owner):
            raise click.UsageError(f'a worker serves one transport; got "{name}" and "{owner}"')
        name = owner
    return name, tuple(queue for _, queue in split)


def private_to_process(store: Transport) -> str | None:
    """Return why no other process sees the events of *store*; ``None`` if others see them, or if that is unknown."""
    if store.capabilities.durability != "process" or not _is_in_memory(store):
        return None
    return (
        f'the transport "{store.name}" keeps events in the memory of the process that dispatched them, '
        f"where no other process sees them"
    )


def tell_private(store: Transport, remedy: str) -> None:
    """Report on standard error that no other process sees the events of *store*, if that is so, with a *remedy*."""
    if why := private_to_process(store):
        click.echo(visible(f"relevo: {why}; {remedy}"), err=True)


def tell_unseen(app: App, name: str | None, queues: Sequence[str] = ()) -> None:
    """
    Report which of the stores that :func:`places` selects are empty because each process has its own.

    One that holds something was filled by this process, as by the module of the application.
    """
    private = [place for place in places(app, name) if private_to_process(place.store) is not None]
    selected = [place.store for place in places(app, name, queues)] if private else []
    for store in dict.fromkeys(place.store for place in private if place.store in selected):
        held = [queue for place in private if place.store is store for queue in place.queues]
        with suppress(RelevoError):  # a third party's transport may have a server, or no figures
            if not any(_has_something(store, queue) for queue in held):
                tell_private(store, "look at them in that process, or use another transport")


def short_lived(store: Transport) -> str | None:
    """Return why the events of *store* may be lost; ``None`` if they survive a crash of the host."""
    if store.capabilities.durability != "process":
        return None
    return private_to_process(store) or (
        f'the transport "{store.name}" claims the durability "process": its events may end with the process that '
        f"dispatched them, or with a crash of the host"
    )


def _is_in_memory(store: Transport) -> bool:
    """Return whether *store* is relevo-memory's: others with the same claim may have files, or a server."""
    try:
        return isinstance(store, transport_class("memory"))
    except ConfigurationError:  # it is not installed
        return False


def check_known(app: App, store: Transport, queue: str, *, where: str = "") -> None:
    """
    Refuse a *queue* that nothing is routed to, unless it holds events.

    Raises:
        ConfigurationError: It holds none; its name may be misspelt.
    """
    known = app.queues(store.name)
    if queue not in known and not _has_something(store, queue):
        raise _unknown(queue, store.name, known, where=where)


def _whole(app: App, name: str | None) -> list[Place]:
    owners = [owner for owner, outbox in app.outboxes.items() if outbox.name == name]
    if owners and name not in app.transports:
        return [_outbox(app, each) for each in owners]
    known = _names(app)
    if name is not None and name not in known:
        raise ConfigurationError(
            f'no transport is called "{without_secrets(name)}"{did_you_mean(name, known)}; '
            f"there are: {', '.join(known)}"
        )
    found: list[Place] = []
    beside = parts_of(app).beside_helpers()
    for each in app.transports if name is None else [name]:
        if each in beside or name is not None:  # one that is only an outbox has no other queue
            found.append(Place(app.transport(each), app.queues(each), each))
        if each in app.outboxes:
            found.append(_outbox(app, each))
    return found


def _outbox(app: App, owner: str) -> Place:
    return Place(app.outboxes[owner], [outbox_queue(owner)], owner, is_outbox=True)


def _names(app: App) -> list[str]:
    return list(dict.fromkeys([*app.transports, *(outbox.name for outbox in app.outboxes.values())]))


def _holding(whole: Sequence[Place], text: str, transports: Sequence[str]) -> list[tuple[Place, str]]:
    """Return the places among *whole* that have the queue *text*, and its name."""
    owner, queue = _split(text, transports, [queue for place in whole for queue in place.queues])
    there = [place for place in whole if owner in (None, place.store.name)]
    if not there:
        raise click.UsageError(f'"{text}" is a queue of "{owner}", but -t is "{whole[0].store.name}"')
    found = [place for place in there if queue in place.queues]
    # A queue without a route may still hold events on a transport; an outbox, maybe the same database, has one queue.
    left = [place for place in there if not place.is_outbox] or there
    found = found or [place for place in left if _has_something(place.store, queue)]
    if not found:
        names = '" or "'.join(dict.fromkeys(place.store.name for place in left))
        raise _unknown(queue, names, dict.fromkeys(each for place in there for each in place.queues))
    return [(place, queue) for place in found]


def _split(text: str, transports: Iterable[str], queues: Iterable[str]) -> tuple[str | None, str]:
    """Return the transport and the queue in *text*, as in routes; ``None`` and the queue without a transport."""
    before, slash, behind = text.partition("/")
    if text in queues or before not in transports:
        return None, text
    return before, behind if slash else DEFAULT_QUEUE


def _has_something(store: Transport, queue: str) -> bool:
    """Return whether *queue*, to which nothing is routed, holds events or may hold some."""
    if store.lacking([queue]):  # the queue, or the tables for it, do not exist
        return False
    if store.capabilities.dead_letters and store.dead_letters([queue], limit=1):
        return True
    if store.capabilities.stats == "none":
        return True
    figures = store.stats(queue)
    return any(number is None or number > 0 for number in (figures.ready, figures.leased, figures.scheduled))


def _unknown(queue: str, transport: str, known: Iterable[str], *, where: str = "") -> ConfigurationError:
    known = list(known)
    return ConfigurationError(
        f'{where}nothing is routed to the queue "{without_secrets(queue)}" of "{transport}", and nothing is in it'
        f"{several_queues(queue) or did_you_mean(queue, known)}; there are: {', '.join(known)}"
    )
