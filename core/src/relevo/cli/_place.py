"""Stores and queues as they are named on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs
import click

from relevo._app.app import App
from relevo._transport.envelope import DEFAULT_QUEUE
from relevo._transport.route import outbox_queue
from relevo._transport.transport import Transport
from relevo.errors import ConfigurationError, did_you_mean


@attrs.frozen
class Place:
    """A store and the queues in it that are meant; of an outbox, whose transport keeps other events there."""

    store: Transport
    queues: Sequence[str]
    transport: str
    is_outbox: bool = False

    def prepare(self, app: App) -> None:
        """Create what is missing, as *app* would; an outbox is asked first, since its transport may be down."""
        if not self.is_outbox or self.store.setup([outbox_queue(self.transport)], dry_run=True):
            app.prepare(self.transport)


def places(app: App, name: str | None, queues: Sequence[str] = ()) -> list[Place]:
    """
    Return where there is something to look at.

    Args:
        app: The application.

        name: A transport, with its outbox, or an outbox alone; all of them by default.

        queues: Only these, as ``queue`` or ``transport/queue``; those that routes lead to by default, and the
            reserved one of an outbox.

    Raises:
        ConfigurationError: There is nothing of that name.

        TransportUnavailableError: A queue is asked for that nothing is routed to, and whether something is
            left in it cannot be found out.
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
    """Return the stores of :func:`places`, each ready and with its queues."""
    found: list[tuple[Transport, list[str]]] = []
    for place in places(app, name, queues):
        place.prepare(app)
        found.append((place.store, list(place.queues)))
    return found


def only_place(app: App, name: str | None, queue: str) -> tuple[Place, str]:
    """
    Return the one place that has *queue*, and what the queue is called there.

    Raises:
        ConfigurationError: There is none, or there are several.
    """
    found = _holding(_whole(app, name), queue, _names(app))
    if len(found) > 1:
        there = ", ".join(f"{place.store.name}/{each}" for place, each in found)
        raise ConfigurationError(f'several transports have a queue "{queue}": write one of {there}')
    return found[0]


def of_one_transport(app: App, name: str | None, queues: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """Return the transport that a worker shall serve, and its queues, which may be typed with its name before them."""
    split = [_split(text, app.transports, app.routes.queues(name or "")) for text in queues]
    for owner in dict.fromkeys(owner for owner, _ in split if owner is not None):
        if name not in (None, owner):
            raise click.UsageError(f'a worker serves one transport, and both "{name}" and "{owner}" are named')
        name = owner
    return name, tuple(queue for _, queue in split)


def check_known(app: App, store: Transport, queue: str, *, where: str = "") -> None:
    """
    Refuse a *queue* that nothing is routed to, unless something is left in it.

    Raises:
        ConfigurationError: Nothing is; it may be misspelt.
    """
    known = app.queues(store.name)
    if queue not in known and not _has_something(store, queue):
        raise _unknown(queue, store.name, known, where=where)


def _whole(app: App, name: str | None) -> list[Place]:
    beside = [owner for owner, outbox in app.outboxes.items() if outbox.name == name]
    if beside and name not in app.transports:
        return [_outbox(app, each) for each in beside]
    known = _names(app)
    if name is not None and name not in known:
        raise ConfigurationError(
            f'no transport is called "{name}"{did_you_mean(name, known)}; there are: {", ".join(known)}'
        )
    found: list[Place] = []
    for each in app.transports if name is None else [name]:
        found.append(Place(app.transport(each), app.queues(each), each))
        if each in app.outboxes:
            found.append(_outbox(app, each))
    return found


def _outbox(app: App, owner: str) -> Place:
    return Place(app.outboxes[owner], [outbox_queue(owner)], owner, is_outbox=True)


def _names(app: App) -> list[str]:
    return list(dict.fromkeys([*app.transports, *(outbox.name for outbox in app.outboxes.values())]))


def _holding(whole: Sequence[Place], text: str, transports: Sequence[str]) -> list[tuple[Place, str]]:
    """Return those of *whole* that have the queue which is typed as *text*, and its name."""
    owner, queue = _split(text, transports, [queue for place in whole for queue in place.queues])
    there = [place for place in whole if owner in (None, place.store.name)]
    if not there:
        raise click.UsageError(f'"{text}" is a queue of "{owner}", and -t says "{whole[0].store.name}"')
    found = [place for place in there if queue in place.queues]
    # What nobody routes to may be left in a transport; an outbox, which may be the same database, has its one queue.
    left = [place for place in there if not place.is_outbox] or there
    found = found or [place for place in left if _has_something(place.store, queue)]
    if not found:
        names = '" or "'.join(dict.fromkeys(place.store.name for place in left))
        raise _unknown(queue, names, dict.fromkeys(each for place in there for each in place.queues))
    return [(place, queue) for place in found]


def _split(text: str, transports: Iterable[str], queues: Iterable[str]) -> tuple[str | None, str]:
    """Return the transport and the queue that *text* says, as routes have it; of a bare queue, no transport."""
    before, slash, behind = text.partition("/")
    if text in queues or before not in transports:
        return None, text
    return before, behind if slash else DEFAULT_QUEUE


def _has_something(store: Transport, queue: str) -> bool:
    """Return whether there is, or may be, anything in *queue*, which nobody routes to."""
    if store.setup([queue], dry_run=True):  # there is no such queue, or nowhere to look for one
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
        f'{where}nothing is routed to the queue "{queue}" of "{transport}", and nothing is in it'
        f"{did_you_mean(queue, known)}; there are: {', '.join(known)}"
    )
