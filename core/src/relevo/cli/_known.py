"""
Refuse names in filters that neither the application nor a store knows: they are misspelt.

An event or a listener is known as long as something stored has it, as a queue without a route is. A store is only
asked for names that the application does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import click

from relevo._app.app import App
from relevo._secret import without_secrets
from relevo._transport.query import Names
from relevo._worker.decision import Reason
from relevo.errors import ConfigurationError, did_you_mean

_TYPING_ERROR = 0.87
"""How like another name one is that may be misspelt: order.exported is less like order.imported."""

Holds = Callable[[str], bool]
"""Returns whether something stored has a name, or matches a pattern."""


def refuse_unknown_events(app: App, names: Iterable[str], holds: Holds) -> None:
    """
    Refuse those of *names* that no event here has.

    A route whose pattern matches a name leads to events of other programs too, unless the name looks like a typing
    error.

    Raises:
        ConfigurationError: No listener, route or stored event has one of them.
    """
    if known := _events(app):
        prefixes = tuple(each[:-1] for each in app.routes.table if each.endswith("*") and each != "*")
        names = [each for each in names if not each.startswith(prefixes) or _hint(each, known)]
        _refuse("--event", names, known, holds, "no listener, no route and nothing stored here has this name")


def misspelt(app: App, name: str) -> str:
    """Return ``; did you mean "…"?`` if no listener, class or route here has the event *name*, and one is like it."""
    known = _events(app)
    return "" if name in known else did_you_mean(name, known, _TYPING_ERROR)


def refuse_unknown_listeners(app: App, ids: Iterable[str], holds: Holds) -> None:
    """
    Refuse those of *ids* that no listener here has.

    Raises:
        ConfigurationError: No listener has one of them, and none with it has failed.
    """
    if known := _listeners(app):
        _refuse("--listener", ids, known, holds, "no listener has this id, and nothing stored here names it")


def listeners_gone(app: App, ids: Iterable[str]) -> list[str]:
    """Return those of *ids* that no listener here has, or had before; none if the listeners are not known."""
    known = _listeners(app)
    return [each for each in ids if each not in known] if known else []


def refuse_unknown_reasons(reasons: Iterable[str], holds: Holds) -> None:
    """
    Refuse those of *reasons* that do not exist.

    Raises:
        click.BadParameter: One of them is not a reason of relevo, and no dead letter has it: a plugin may set its own.
    """
    known = [str(reason) for reason in Reason]
    for reason in reasons:
        if reason not in known and not holds(reason):
            raise click.BadParameter(
                f'no dead letter has the reason "{without_secrets(reason)}"{did_you_mean(reason, known)}; '
                f"there are: {', '.join(known)}",
                param_hint="--reason",
            )


def _refuse(option: str, wanted: Iterable[str], known: Sequence[str], holds: Holds, why: str) -> None:
    for each in wanted:
        if not any(map(Names.of([each]).match, known)) and not holds(each):
            raise ConfigurationError(f'{option} "{without_secrets(each)}": {why}{_hint(each, known)}')


def _hint(wanted: str, known: Sequence[str]) -> str:
    """Return the one of *known* that was meant: its end is what people remember of the id of a listener."""
    if "*" in wanted[:-1]:
        return '; "*" can only be the last character, as in "shop.*"'
    word = wanted.rstrip("*")
    ends = (each for each in known if word and each.endswith((f":{word}", f".{word}")))
    end = next(ends, None)
    return did_you_mean(word, known) if end is None else f'; did you mean "{without_secrets(end)}"?'


def _events(app: App) -> list[str]:
    """Return the names of events that *app* knows; empty if it has no listeners, and so cannot tell."""
    try:
        listeners = app.listeners
    except ConfigurationError:  # they cannot be imported here
        return []
    heard = {listener.event_name for listener in listeners}
    routed = (app.routes.table.keys() - {"*"}) | app.routes.names()
    return sorted(heard | routed | {*listeners.event_types}) if heard else []


def _listeners(app: App) -> list[str]:
    """Return the ids of the listeners of *app*, and the earlier ones."""
    try:
        return sorted({name for listener in app.listeners for name in (listener.id, *listener.aliases)})
    except ConfigurationError:  # as above
        return []
