"""The id of an event as a narrow table shows it: only its end."""

from __future__ import annotations

import click

from relevo._app.app import App
from relevo._transport.envelope import Envelope
from relevo.cli._dead import entries
from relevo.cli._list import listed

CUT = "…"
"""What a table shows in place of the beginning of an id."""


_SHORTEST = 6
"""
Characters of an end that are needed. Fewer may be the end of another event too: if the one that was meant is done
meanwhile, that other one would be handled or cancelled in its place.
"""


def whole_id(app: App, given: str, transport: str | None) -> str:
    """
    Return the id that *given* means: itself, or if it begins with ``…`` the only one that ends so.

    It is *given* if no event has such an id. All events are read for it.

    Raises:
        click.BadParameter: Several events have such an id, or *given* is too short.
    """
    if not given.startswith(CUT):
        return given
    end = given.removeprefix(CUT)
    if len(end) < _SHORTEST:
        raise click.BadParameter(
            f'expected at least {_SHORTEST} characters of the end of an id; got "{end}"; relevo list --json shows '
            f"whole ids",
            param_hint="ID",
        )
    found = {entry.envelope.id for _, entry in listed(app, transport) if entry.envelope.id.endswith(end)}
    for _, dead in entries(app, transport, ()):
        if isinstance(dead.envelope, Envelope) and dead.envelope.id.endswith(end):
            found.add(dead.envelope.id)
    if len(found) > 1:
        raise click.BadParameter(
            f'{len(found)} events have an id that ends with "{end}"; pass the whole id, as relevo list --json shows it',
            param_hint="ID",
        )
    return found.pop() if found else given
