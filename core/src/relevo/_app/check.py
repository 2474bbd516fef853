"""Start-up checks of listeners, and of the queues that a worker serves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from logging import getLogger
from types import ModuleType

from relevo._event.event import MARK
from relevo._event.subject import Subject, SubjectType, SubjectTypes
from relevo._listener.listener import ListenerTable, marked
from relevo._transport.delivery import MAX_STATE
from relevo._transport.route import NOW, Routes, Target
from relevo._transport.transport import Transport
from relevo.errors import ConfigurationError, RouteNotFoundError, did_you_mean, shown

_log = getLogger("relevo.start")

_ENTRY = 80
"""Bytes that a state takes for a listener beside its id, at most, once its error is left out."""


def check_time_limits(listeners: ListenerTable, transport: Transport, *, limit: float, lease: float) -> None:
    """
    Refuse time limits that outlast a lease which *transport* cannot renew.

    Args:
        listeners: Those that may have limits of their own.

        transport: Where events are received.

        limit: Seconds for listeners that say nothing themselves.

        lease: Seconds.
    """
    if transport.capabilities.lease != "timed" or transport.capabilities.extend:
        return
    for listener in listeners:
        own = listener.mark.time_limit or limit
        if own >= lease:
            raise ConfigurationError(
                f'{listener.id} may run for {own:g} s, and "{transport.name}" cannot renew a lease of {lease:g} s, so '
                f"another worker would begin meanwhile; shorten time_limit, or lengthen lease"
            )


_MOST_TYPES = 1000
"""Unknown types of subjects that are looked at, in case a program makes them up."""


class NoticingSubjects(SubjectTypes):
    """
    The registered types of subjects; an unregistered type that looks like a slip is logged, once.

    It is dispatched all the same: a program that only dispatches need not register what its workers load.
    """

    def __init__(self, types: Iterable[SubjectType] = ()):
        super().__init__(types)
        self._seen: set[str] = set()

    def named(self, subject: object) -> Subject | None:
        found = super().named(subject)
        if found is not None and found.type not in self._by_type and self._by_type:
            self._look_at(found.type)
        return found

    def _look_at(self, kind: str) -> None:
        if kind in self._seen or len(self._seen) >= _MOST_TYPES:
            return
        self._seen.add(kind)
        if meant := did_you_mean(kind, self._by_type):
            _log.warning("an event has a subject of the type %s, which is not registered%s", shown(kind), meant)


def check_listening(thing: object) -> None:
    """
    Refuse *thing* if it cannot hold a listener, where it is registered; modules are imported later.

    Raises:
        ConfigurationError: It has no mark, or no module can be found by that name.
    """
    is_event = isinstance(thing, type) and MARK in vars(thing)
    if is_event or (isinstance(thing, str) and not _may_be_module(thing.partition(":")[0])):
        what, event = ("an event", "…") if is_event else ("no module that can be found", '"…"')
        raise ConfigurationError(
            f"listen: {shown(thing)} is {what}; put @relevo.listener({event}) above the function and @app.listen above "
            f"that, or write app.add_listener({event}, function)"
        )
    if not isinstance(thing, (str, ModuleType)):
        for _ in marked((thing,)):
            pass


def _may_be_module(name: str) -> bool:
    """Return whether Python finds where *name* begins, which imports nothing."""
    from importlib.util import find_spec  # noqa: PLC0415 - few register modules by name

    first = name.partition(".")[0]
    try:
        return first in sys.modules or find_spec(first) is not None
    except (ImportError, ValueError):
        return False


def check_listeners(listeners: ListenerTable, routes: Routes) -> None:
    """Check that every listener's event is routed to where it runs; report all problems together."""
    problems = []
    for listener in listeners:
        try:
            targets = routes.targets(listener.event_name)
        except RouteNotFoundError as error:
            problems.append(f"{listener.id}: {error}")
            continue
        queues = [NOW if target.transport == NOW else target.queue for target in targets]
        if listener.queue is not None and listener.queue not in queues:
            meant = next((each.queue for each in targets if str(each) == listener.queue), None)
            remedy = did_you_mean(listener.queue, queues)
            if meant is not None:
                remedy = f'; a listener names its queue without the transport: queue="{meant}"'
            problems.append(
                f'{listener.id}: it runs in the queue "{listener.queue}", but "{listener.event_name}" is routed '
                f"to {', '.join(map(str, targets))}{remedy}"
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
    Check that *queues* can be served; log the events that have no listener in their queue.

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
