"""The id of an event as a narrow table shows it: only its end."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import click

from relevo._app.app import App
from relevo._transport.envelope import Envelope
from relevo._transport.optional import Archive
from relevo._transport.query import DoneEntry
from relevo._transport.transport import Transport
from relevo.cli._dead import entries
from relevo.cli._list import listed
from relevo.cli._output import age
from relevo.cli._place import stores

_CUT = re.compile(r"…|\.\.\.")
"""What a table shows in place of the beginning of an id, and how a keyboard has it."""

_SHORTEST = 6
"""
Characters of an end that are needed. Fewer may be the end of another event too: if the one that was meant is done
meanwhile, that other one would be handled or cancelled in its place.
"""

_BARE = re.compile(rf"[0-9a-f-]{{{_SHORTEST},35}}")
_MADE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""
An end without a cut, and the ids that it may be the end of: those that relevo makes.

The id of another program's event may be any text. It could be a whole id, of an event that is done meanwhile, and the
end of another one.
"""

_FEW = 5
"""The largest number of ids that an error shows."""


def whole_id(app: App, given: str, transport: str | None) -> str:
    """
    Return the id that *given* means: itself, or the only one that ends so.

    An end begins with ``…`` or ``...``; without them it is looked for only if no event has *given* as its id, so that
    no other events are read then. It is *given* if no event has such an id. All events are read for an end.

    Raises:
        click.BadParameter: Several events have such an id, or *given* is too short.
    """
    cut = _CUT.match(given)
    if cut is None and not _BARE.fullmatch(given):
        return given
    end = given if cut is None else given[cut.end() :]
    if len(end) < _SHORTEST:
        raise click.BadParameter(
            f'expected at least {_SHORTEST} characters of the end of an id; got "{end}"; relevo list --json shows '
            f"whole ids",
            param_hint="ID",
        )
    if cut is None and _has(app, transport, given):
        return given
    found = {each for each in _ids(app, transport) if each.endswith(end)}
    if given in found:
        return given
    if cut is None:
        found = {each for each in found if _MADE.fullmatch(each)}
    if len(found) > 1:
        some = ", ".join(sorted(found)[:_FEW]) + (", …" if len(found) > _FEW else "")
        raise click.BadParameter(
            f'{len(found)} events have an id that ends with "{end}"; pass the whole id: {some}', param_hint="ID"
        )
    return found.pop() if found else given


def done_events(stores: Iterable[Transport], event_id: str) -> Iterator[tuple[Transport, DoneEntry]]:
    """Yield the events of *event_id* that are done and that *stores* still keep."""
    for store in stores:
        if isinstance(store, Archive):
            yield from ((store, entry) for entry in store.find_done(event_id))


def when_done(stores: Iterable[Transport], event_id: str) -> float | None:
    """Return when the event of *event_id* was done, in its last queue; ``None`` if *stores* keep no such event."""
    return max((entry.done_at for _, entry in done_events(stores, event_id)), default=None)


def how_long_kept(stores: Iterable[Transport]) -> str:
    """Return for how long *stores* keep events that are done: why there may be no event with an id."""
    kept = [store.keep for store in stores if isinstance(store, Archive) and store.keep is not None]
    return f"events that are done are {f'kept for {age(max(kept))}, and found by a whole id' if kept else 'not kept'}"


def _has(app: App, transport: str | None, event_id: str) -> bool:
    """Return whether an event has the id *event_id*, as far as that can be looked up without reading all."""
    return any(store.capabilities.find and store.find(event_id) for store, _ in stores(app, transport))


def _ids(app: App, transport: str | None) -> Iterator[str]:
    """Yield the ids of the events of *transport*, or of all, also of the dead letters."""
    for _, entry in listed(app, transport):
        yield entry.envelope.id
    for _, dead in entries(app, transport, ()):
        if isinstance(dead.envelope, Envelope):
            yield dead.envelope.id
