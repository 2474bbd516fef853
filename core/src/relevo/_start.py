"""What can be seen to be wrong with an application before its first event: the checks of the start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from logging import getLogger
from typing import Any

from relevo._delivery import MAX_STATE
from relevo._listener import ListenerTable
from relevo._retry import Retry
from relevo._route import NOW, Routes, Target
from relevo._sending import by_transport
from relevo._transport import Transport
from relevo.errors import ConfigurationError, RouteNotFoundError, did_you_mean, shown

_log = getLogger("relevo.start")

_ENTRY = 80
"""Bytes that a state takes for a listener beside its id, at most, once its error is left out."""


def several(things: Iterable[object], what: str) -> Iterable[object]:
    """Return *things* if they are not a text, which would be taken for its letters."""
    if isinstance(things, str):
        raise ConfigurationError(f"{what}: expected several, got the text {shown(things)}; put it into a list")
    return things


def check_transports(transports: Mapping[str, Any], outboxes: Mapping[str, Transport]) -> None:
    """Tell the transports what they are called here, and refuse what cannot be one."""
    for name, transport in transports.items():
        if not isinstance(transport, Transport):
            raise ConfigurationError(
                f'transports: "{name}" is {type(transport).__name__}, not a relevo.Transport; '
                f"App.from_config() is what opens addresses"
            )
        if name == NOW or "/" in name:
            raise ConfigurationError(f'transports: none can be called {shown(name)}; "{NOW}" and slashes are taken')
        if sum(transport is each for each in transports.values()) > 1:
            raise ConfigurationError(f'transports: "{name}" is there under another name too; open it twice')
        transport.name = name
    for name, outbox in outboxes.items():
        if name not in transports:
            raise ConfigurationError(f'outboxes: no transport is called "{name}"{did_you_mean(name, transports)}')
        if not outbox.capabilities.transactional:
            raise ConfigurationError(
                f'outboxes: "{outbox.name}" cannot join a session, so it cannot keep what is meant for "{name}"; '
                f"an outbox is a SQL transport"
            )


def check_targets(routes: Routes, transports: Iterable[str]) -> None:
    """Check that every target of *routes* names one of *transports*; all that do not are told together."""
    known = [*transports, NOW]
    problems = [
        f'routes."{pattern}": no transport is called {shown(target.transport)}{did_you_mean(target.transport, known)}'
        for pattern, targets in routes.table.items()
        for target in targets
        if target.transport not in known
    ]
    if problems:
        raise ConfigurationError("\n".join(problems))


def check_routes(
    routes: Routes,
    transports: Mapping[str, Transport],
    retries: Mapping[Target, Retry],
    joins_sessions: Callable[[str], bool],
) -> None:
    """Check that routes lead to transports, each to what can be written in one go, and that policies have queues."""
    check_targets(routes, transports)
    for pattern, targets in routes.table.items():
        names = list(by_transport(targets))
        if len(names) > 1 and not all(joins_sessions(name) for name in names):
            raise fan_out(pattern, names)
    for queue, policy in retries.items():
        given: Any = policy
        if not isinstance(given, Retry):
            raise ConfigurationError(f'retries."{queue}": expected relevo.Retry(…) or a number, got {shown(given)}')
        if queue.transport not in transports:
            mend = did_you_mean(queue.transport, transports)
            raise ConfigurationError(f'retries."{queue}": no transport is called "{queue.transport}"{mend}')
        if str(queue) not in (routed := [str(target) for targets in routes.table.values() for target in targets]):
            mend = did_you_mean(str(queue), routed)
            raise ConfigurationError(f'retries."{queue}": nothing is routed there{mend}')


def fan_out(event_name: str, transports: Iterable[str]) -> ConfigurationError:
    """Return the error for an event that would go to several transports, where a crash could part them."""
    names = ", ".join(f'"{name}"' for name in transports)
    return ConfigurationError(
        f'"{event_name}" is routed to several transports ({names}); a crash between them would lose a part: '
        f"dispatch it with session=, where each can join it or has an outbox, or route it to one transport"
    )


def check_listeners(listeners: ListenerTable, routes: Routes) -> None:
    """Check that every listener's event is routed to where it runs; all that are not are told together."""
    problems = []
    for listener in listeners:
        try:
            targets = routes.targets(listener.event_name)
        except RouteNotFoundError as error:
            problems.append(f"{listener.id}: {error}")
            continue
        queues = [NOW if target.transport == NOW else target.queue for target in targets]
        if listener.queue is not None and listener.queue not in queues:
            problems.append(
                f'{listener.id}: it runs in the queue "{listener.queue}", but "{listener.event_name}" is routed '
                f"to {', '.join(map(str, targets))}{did_you_mean(listener.queue, queues)}"
            )
    if problems:
        raise ConfigurationError("\n".join(problems))


def check_queues(
    listeners: ListenerTable,
    routes: Routes,
    transport: Transport,
    queues: Sequence[str],
    first_queue: Callable[[str], str],
) -> None:
    """
    Check that *queues* can be served; log which events that are heard here nobody hears there.

    Raises:
        ConfigurationError: Nothing is routed to one of them, the transport cannot delay, or the ids of an
            event's listeners are longer than a state may be.
    """
    known = routes.queues(transport.name)
    for queue in queues if known else ():
        if queue not in known:
            raise ConfigurationError(
                f'nothing is routed to the queue "{queue}" of "{transport.name}"{did_you_mean(queue, known)}; '
                f"there are: {', '.join(known)}"
            )
    if transport.capabilities.delay is None:
        raise ConfigurationError(
            f'the transport "{transport.name}" does not support delay, and without it nothing can be tried again: '
            f"choose one that claims it"
        )
    for name in dict.fromkeys(listener.event_name for listener in listeners):
        for target in routes.targets(name):
            if target.transport == transport.name and target.queue in queues:
                _check_target(listeners, name, target, first_queue(name))


def _check_target(listeners: ListenerTable, name: str, target: Target, first: str) -> None:
    hearing = listeners.in_queue(name, target.queue, first)
    if sum(len(listener.id.encode()) + _ENTRY for listener in hearing) > MAX_STATE:
        raise ConfigurationError(
            f'"{name}" has {len(hearing)} listeners in {target}, and what they did takes more than the '
            f"{MAX_STATE:,} bytes that can be kept: give them shorter ids with listener(…, id=…), or "
            f"queues of their own"
        )
    if not hearing:
        _log.warning(
            '"%s" is routed to %s, but no listener here runs there; what no worker of that queue has a '
            'listener for is dead-lettered in the end: give a listener queue="%s", or take the target out',
            name,
            target,
            target.queue,
        )
