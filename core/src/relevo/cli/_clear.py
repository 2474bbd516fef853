"""``relevo cancel`` and ``relevo purge``: remove events that no worker has begun."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence, Set as AbstractSet
from typing import Any

import attrs
import click

from relevo._app.app import App
from relevo._transport.optional import IdentifiedStore
from relevo._transport.query import EventFilter, Found
from relevo._transport.transport import Transport
from relevo.cli._event_id import when_done, whole_id
from relevo.cli._filter import (
    Tally,
    by_option,
    error_option,
    event_option,
    group_rows,
    listener_option,
    show_groups,
    time_options,
)
from relevo.cli._handled import held_by, or_wait
from relevo.cli._list import KEYS, By, EventChoice, Place, able, keys_of
from relevo.cli._main import EXIT_NOTHING, exit_code, not_found, refuse_invalid, tell
from relevo.cli._option import ask, json_option, queue_option, transport_option, with_app, yes_option
from relevo.cli._output import at_terminal, echo, show_json, when
from relevo.cli._parameter import Choice
from relevo.cli._place import only_place, stores, unclaimed
from relevo.cli._progress import Bar, progress
from relevo.errors import RelevoError, UnsupportedError

_HELD = (
    "a worker holds these, and cancel removes only events that no worker has begun; stop that worker first (with a "
    "second TERM if it hangs)"
)
"""Why the states in which a worker holds an event cannot be chosen."""


@click.command()
@click.argument("event_ids", nargs=-1, metavar="[ID]...", callback=refuse_invalid)
@click.option("--all", "everything", is_flag=True, help="All waiting events, or all that match the other options.")
@yes_option
@transport_option
@queue_option
@click.option(
    "--state",
    "states",
    multiple=True,
    type=Choice(["ready", "scheduled"], refused=dict.fromkeys(("leased", "running"), _HELD)),
    help="Only events in this state; may be repeated.",
)
@event_option
@listener_option(
    "Only those in which this listener failed, or one with a prefix, as in shop.*; all events are read for it."
)
@error_option("Only those with a failure whose error contains this text; all events are read for it.")
@time_options("sent")
@by_option(*KEYS, text="Also count them by this property, before the question.")
@json_option
@with_app
def cancel(
    *,
    app: App,
    event_ids: tuple[str, ...],
    everything: bool,
    yes: bool,
    transport: str | None,
    queues: tuple[str, ...],
    listeners: tuple[str, ...],
    errors: tuple[str, ...],
    by: By | None,
    as_json: bool,
    **conditions: Any,
) -> int:
    """
    Remove the events ID from all queues.

    ID is a whole id, or the end of one: six characters or more that no other event has.

    An event that a worker has begun stays, with its copies in other queues; the worker is named. To remove only these
    copies, name all their queues with -q. Exits with 1 if one of the events was not removed from any queue: it may be
    done, dead, or in progress.

    With --all it removes the events that match the options, after a question. These are events in queues that routes
    lead to, and the application's own in other queues; those of another application in the same database stay, unless
    -q names their queue. An event that a worker holds stays. So does one that also waits in a queue, or in a state,
    that was not chosen, since an event is removed from all its queues. Exits with 1 if some stay, and with 78 if a
    transport cannot list, find or cancel its events.

    Example: relevo cancel 0198c3a4-6e1f-7c52-9d1e-0f6a2b3c4d5e

    Example: relevo cancel --all --event product.imported --since 5m
    """
    if bool(event_ids) == everything:
        raise click.UsageError("expected IDs of events, or --all")
    choice = EventChoice(where=EventFilter(**conditions), listeners=listeners, errors=errors)
    if event_ids and (choice != EventChoice() or by):
        raise click.UsageError("options that choose events go with --all, not with an ID")
    if everything:
        return _cancel_all(app, transport, queues, choice, by, yes=yes, as_json=as_json)
    return _cancel_each(app, event_ids, transport, queues, as_json=as_json)


def _cancel_each(
    app: App, event_ids: Sequence[str], transport: str | None, queues: tuple[str, ...], *, as_json: bool
) -> int:
    """Remove the events *event_ids*, report what stays, and return the exit code."""
    meant = list(dict.fromkeys(whole_id(app, each, transport) for each in event_ids))
    places = list(dict.fromkeys(store for store, _ in stores(app, transport)))
    named = {(_identity(store), queue) for store, names in stores(app, transport, queues) for queue in names}
    able_to = list(dict.fromkeys(_first_of_each(store for store in places if store.capabilities.cancel).values()))
    if not able_to:
        raise unclaimed(places[0], "cancel")
    unable = ", ".join(f'"{store.name}"' for store in places if not store.capabilities.cancel)
    besides = f"; {unable} cannot cancel events: the event may still wait there" if unable else ""
    taken, faults, left = 0, list[str](), 0
    for event_id in meant:
        refusals = _refusals(app, able_to, event_id, named if queues else None)
        count = 0 if refusals else sum(store.cancel(event_id) for store in able_to)
        taken_since = list(_begun(able_to, event_id))
        if queues:  # what a worker holds elsewhere was not meant
            taken_since = [(store, each) for store, each in taken_since if (_identity(store), each.queue) in named]
        begun = refusals or [_stays(app, *each) for each in taken_since]
        if not count and not begun:
            begun.append(_nothing_waits(places, event_id) + besides)
        taken += count
        faults += begun
        left = left if count else EXIT_NOTHING
    if as_json:
        show_json({"cancelled": taken})
    else:
        echo(f"{taken} cancelled")
    not_found(faults)
    return left


def _nothing_waits(places: Sequence[Transport], event_id: str) -> str:
    """Return that no event of *event_id* waits, and whether it is done, as far as *places* keep that."""
    done = when_done(places, event_id)
    if done is None:
        return f"no waiting event has the id {event_id}"
    return f"the event {event_id} was done at {when(done)}; an event that is kept after that cannot be cancelled"


def _cancel_all(
    app: App,
    transport: str | None,
    queues: tuple[str, ...],
    choice: EventChoice,
    by: By | None,
    *,
    yes: bool,
    as_json: bool,
) -> int:
    """Remove the events of *choice* after a question, report what stays, and return the exit code."""
    found, unable = able(app, transport, queues, own=True)
    refused = {store: why for store, _ in found if (why := _cannot_cancel_all(store))}
    places = [(store, names) for store, names in found if store not in refused]
    unable += refused.values()
    if not places:
        raise unable[0]
    choice.refuse_unknown(app, places)
    chosen = _Cancellation.of(places, choice, by)
    chosen.leave_those_elsewhere()
    if by is not None and not as_json:
        show_groups(by, chosen.tally.groups, "sent", empty="no events")
    agrees = yes or not chosen.count or ask(f"Cancel {chosen}? This cannot be undone.")
    if agrees:
        show = at_terminal(sys.stderr) and not as_json
        try:
            with progress("cancelling", total=sum(map(len, chosen.ids.values())), show=show) as bar:
                chosen.cancel(bar)
        except RelevoError as error:
            tell(error)
            not_found([chosen.how_far()])
            return exit_code(error)
        except BaseException:  # such as Ctrl-C
            not_found([chosen.how_far()])
            raise
    if as_json:
        done = {"cancelled": chosen.cancelled, "held": chosen.held, "elsewhere": chosen.elsewhere, "gone": chosen.gone}
        groups = {} if by is None else {"groups": group_rows(by, chosen.tally.groups, "sent")}
        show_json({**done, **groups})
    else:
        echo(f"{chosen.cancelled} cancelled" if agrees else "nothing was cancelled")
    left = not_found(list(chosen.what_stays() if agrees else ()))
    for each in unable:
        tell(each)
    return max(map(exit_code, unable), default=left)


def _cannot_cancel_all(store: Transport) -> UnsupportedError | None:
    """
    Return why not all events that match can be cancelled in *store*; ``None`` if they can.

    An event is cancelled with its copies, of which only some are listed: those in queues that the application knows.
    """
    if not store.capabilities.cancel:
        return unclaimed(store, "cancel")
    if store.capabilities.find:
        return None
    why = (
        "cancel --all would also remove copies of its events that were not chosen; cancel an event by its id, with all "
        "its copies: relevo cancel ID"
    )
    return UnsupportedError(store.name, "find", "; ".join(filter(None, (store.why_unclaimed.get("find"), why))))


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"


_FEW = 5
"""The largest number of queues that a question names."""

_Place = tuple[Transport, str]
"""A store and a queue in it."""

_Copy = tuple[str, str]
"""The queue and the source of an event; a store has one event of an id in a queue for each source."""


@attrs.define
class _Cancellation:
    """
    The waiting events that a command removes: their ids, each with where it was found.

    Whole events may not fit into memory.
    """

    ids: dict[Transport, dict[str, frozenset[_Copy]]]
    tally: Tally
    labels: dict[tuple[Transport, str], str] = attrs.field(factory=dict)
    """The queues that they were found in, as ``transport/queue``."""

    queues: set[_Place] = attrs.field(factory=set)
    """The queues that were looked at."""

    held: int = 0
    """The number of those that match, and that a worker holds there or in another of these queues."""

    elsewhere: int = 0
    """The number of those that match, and whose id waits where it was not chosen too."""

    cancelled: int = 0
    gone: int = 0
    """The number of those that were no longer there when they were to be removed."""

    @classmethod
    def of(cls, places: Sequence[Place], choice: EventChoice, by: By | None) -> _Cancellation:
        """Find the events of *choice* in *places*, and count them *by* a property."""
        first = _first_of_each(store for store, _ in places)
        chosen = cls(ids={store: {} for store in first.values()}, tally=Tally())
        alone: dict[_Copy, frozenset[_Copy]] = {}  # one object for many events
        for store, queues in places:
            ids = chosen.ids[first[store]]
            chosen.queues |= {(first[store], queue) for queue in queues}
            for entry in choice.entries(store, queues):
                if entry.status == "leased":
                    chosen.held += 1
                    continue
                event_id, copy = entry.envelope.id, (entry.queue, entry.envelope.source)
                before = ids.get(event_id)
                if before is not None and copy in before:  # its state has changed meanwhile
                    continue
                one = alone.setdefault(copy, frozenset([copy]))
                ids[event_id] = one if before is None else before | one
                chosen.labels.setdefault((first[store], entry.queue), f"{store.name}/{entry.queue}")
                if by is not None:
                    chosen.tally.add(store.name, keys_of(entry, by), entry.enqueued_at)
        return chosen

    def leave_those_elsewhere(self) -> None:
        """
        Leave out events of which something else would be removed, or something that was chosen would stay.

        That is the same event in another queue, or one with its id.
        """
        for store, ids in self.ids.items():
            for event_id, copies in list(ids.items()):
                found = [(each, (each.queue, each.envelope.source)) for each in store.find(event_id)]
                sources = {source for _, source in copies}
                if any(copy not in copies for each, copy in found if each.status != "leased"):
                    self.elsewhere += len(ids.pop(event_id))
                elif any(
                    (store, queue) in self.queues and source in sources
                    for each, (queue, source) in found
                    if each.status == "leased"
                ):  # its copies are cancelled together, and that one cannot be
                    self.held += len(ids.pop(event_id))

    @property
    def count(self) -> int:
        """The number of events to remove; one in several queues counts once for each."""
        return sum(len(copies) for ids in self.ids.values() for copies in ids.values())

    def __str__(self) -> str:
        queues = {(store, queue) for store, ids in self.ids.items() for copies in ids.values() for queue, _ in copies}
        labels = [label for queue, label in self.labels.items() if queue in queues]
        named = ", ".join(labels) if len(labels) <= _FEW else f"{len(labels)} queues"
        return f"{_events(self.count)} in {named}"

    def cancel(self, bar: Bar) -> None:
        """Remove them, each in a transaction of its own."""
        for store, ids in self.ids.items():
            for event_id, copies in ids.items():
                taken = store.cancel(event_id)
                self.cancelled += taken
                self.gone += max(0, len(copies) - taken)
                bar.advance(1)

    def how_far(self) -> str:
        """Return how many were removed before the command was ended."""
        return f"{self.cancelled} of {_events(self.count)} cancelled; to cancel the others, run the command again"

    def what_stays(self) -> Iterator[str]:
        """Yield what was not removed, and why."""
        if self.held:
            yield f"{_events(self.held)} stayed: held by a worker"
        if self.elsewhere:
            yield (
                f"{_events(self.elsewhere)} stayed: also waiting in a queue, in a state or with a failure that the "
                "options leave out, and an event is cancelled in all its queues; choose these too, or cancel by its id"
            )
        if self.gone:
            yield f"{_events(self.gone)} not found any more: done, dead, or taken by a worker since"


def _first_of_each(stores: Iterable[Transport]) -> dict[Transport, Transport]:
    """Return the first of the *stores* with the same queues as each of them: two names may lead to one database."""
    first: dict[object, Transport] = {}
    return {each: first.setdefault(_identity(each), each) for each in stores}


def _identity(store: Transport) -> object:
    return (type(store), store.store_id()) if isinstance(store, IdentifiedStore) else store


_Named = AbstractSet[tuple[object, str]]
"""The queues that were named, each with what identifies its store."""


def _refusals(app: App, stores: Sequence[Transport], event_id: str, named: _Named | None) -> list[str]:
    """
    Return why the event *event_id* is not cancelled in *stores*; empty if it may be.

    Its copies in several queues are cancelled together. So none is if a worker has begun one of them, unless the queues
    of the others are *named*; nor is one that waits where it was not named.
    """
    copies = [(store, each) for store in stores if store.capabilities.find for each in store.find(event_id)]
    held = [(store, each) for store, each in copies if each.status == "leased"]
    waiting = [(store, each) for store, each in copies if each.status != "leased"]
    others = " ".join(f"-q {store.name}/{each.queue}" for store, each in waiting)
    if named is None:
        also = f"; it stays where it waits too; to remove it only there: relevo cancel {event_id} {others}"
        return [_stays(app, *each) + (also if waiting else "") for each in held]
    meant = [_stays(app, store, each) for store, each in held if (_identity(store), each.queue) in named]
    if meant:
        return meant
    left = [f"{store.name}/{each.queue}" for store, each in waiting if (_identity(store), each.queue) not in named]
    if not left:
        return [] if waiting else [f"no event has the id {event_id} and waits in a queue that was named"]
    where = ", ".join(left)
    together = f"it also waits in {where}, and its copies are cancelled together"
    return [f"the event {event_id} stays: {together}; to remove them all: relevo cancel {event_id} {others}"]


def _begun(stores: Sequence[Transport], event_id: str) -> Iterator[tuple[Transport, Found]]:
    """Yield where in *stores* a worker has begun the event."""
    for store in stores:
        for found in store.find(event_id) if store.capabilities.find else ():
            if found.status == "leased":
                yield store, found


def _stays(app: App, store: Transport, found: Found) -> str:
    """Return that *found* stays in *store* since a worker has begun it, and what to do about it."""
    return (
        f"the event {found.envelope.id} stays in {store.name}/{found.queue}: {held_by(app, store, found)}; to remove "
        f"it, stop that worker (with a second TERM if it hangs){or_wait(found)}, and cancel again"
    )


@click.command()
@click.argument("queue", callback=refuse_invalid)
@transport_option
@yes_option
@json_option
@with_app
def purge(*, app: App, queue: str, transport: str | None, yes: bool, as_json: bool) -> int:
    """
    Delete all events of QUEUE that no worker has begun; dead letters stay.

    Write QUEUE as in routes, transport/queue, or only the queue.

    Example: relevo purge main/feed --yes
    """
    place, name = only_place(app, transport, queue)
    store = place.store
    if not store.capabilities.purge:
        raise unclaimed(store, "purge")
    place.prepare(app)
    agrees = yes or ask(f"Delete {_how_many(store, name)} of {store.name}/{name}? This cannot be undone.")
    taken = store.purge(name) if agrees else 0
    if as_json:
        show_json({"purged": taken})
    else:
        echo(f"{taken} purged" if agrees else "nothing was deleted")
    return 0


def _how_many(store: Transport, queue: str) -> str:
    stats = store.stats(queue) if store.capabilities.stats != "none" else None
    if stats is None or stats.ready is None:
        return "all waiting events"
    count = stats.ready + (stats.scheduled or 0)
    return "1 waiting event" if count == 1 else f"{count} waiting events"
