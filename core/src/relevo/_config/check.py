"""Start-up checks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from logging import getLogger
from types import ModuleType
from typing import TYPE_CHECKING, Any

from relevo._clock import seconds
from relevo._event.event import MARK
from relevo._event.subject import Subject, SubjectType, SubjectTypes
from relevo._listener.listener import ListenerTable, marked
from relevo._problem import KeyPath, Problem, Problems, dotted
from relevo._transport.delivery import MAX_LEASE, MAX_STATE
from relevo._transport.route import NOW, Routes, Target, by_transport, fan_out, parsed_target
from relevo._transport.transport import Transport
from relevo.errors import ConfigurationError, RouteNotFoundError, did_you_mean, shown

if TYPE_CHECKING:
    from relevo._config.schema import Settings

_log = getLogger("relevo.start")

_SHORTEST_LEASE = 1.0
"""Seconds; leases are renewed every third of theirs, by a thread that wakes every quarter of a second."""

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
    The kinds that an application registered; a name of another kind that looks like a slip is told, once.

    It is dispatched all the same: whoever only dispatches need not register what its workers load.
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


def checked_lease(lease: object) -> float:
    """
    Return *lease* in seconds.

    Raises:
        ConfigurationError: It is not a duration, too short to be renewed, or longer than :data:`MAX_LEASE`.
    """
    length = seconds(lease, what="lease")
    if length < _SHORTEST_LEASE:
        raise ConfigurationError(f"lease is {length} s, {_SHORTEST_LEASE} s is the least that can be renewed")
    if length > MAX_LEASE:
        raise ConfigurationError(
            f"lease is {length} s, {MAX_LEASE} s is the most; choose a shorter one, it is renewed while the worker runs"
        )
    return length


def checked_patience(patience: object) -> float:
    """
    Return *patience* in seconds.

    Raises:
        ConfigurationError: It is not a duration.
    """
    return seconds(patience, what="patience")


def checked_setup(setup: object) -> str:
    """
    Return *setup* if it says whether what is missing is created at first use.

    Raises:
        ConfigurationError: It says neither.
    """
    if setup not in ("auto", "explicit"):
        raise ConfigurationError(f'setup: expected "auto" or "explicit"; got {shown(setup)}')
    return str(setup)


def checked_app_name(name: object) -> str:
    """
    Return *name* if it can be that of an application in a module.

    Raises:
        ConfigurationError: It is not ``module:name``.
    """
    if not isinstance(name, str) or not all(name.partition(":")):
        raise ConfigurationError(f'app: expected "module:name", as in "shop:app"; got {shown(name)}')
    return name


def transport_name_problems(names: Iterable[object]) -> Iterator[Problem]:
    """Yield the *names* that no transport can have."""
    for name in names:
        if not isinstance(name, str) or name in ("", NOW) or "/" in name or not name.isprintable():
            fault = f'cannot be the name of a transport; expected text such as main, without a slash, and not "{NOW}"'
            yield _problem(("transports", str(name)), f"transports: {shown(name)} {fault}")


def transport_problems(transports: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what cannot be a transport, or cannot be called so."""
    yield from transport_name_problems(transports)
    for name, transport in transports.items():
        fault = None
        if not isinstance(transport, Transport):
            fault = f"is {type(transport).__name__}, not a relevo.Transport; App.from_config() is what opens addresses"
        elif sum(transport is each for each in transports.values()) > 1:
            fault = "is there under another name too; open it twice"
        if fault is not None:
            yield _problem(("transports", name), f"transports: {shown(name)} {fault}")


def outbox_problems(outboxes: Mapping[str, Any], transports: Collection[str]) -> Iterator[Problem]:
    """Yield the *outboxes* that are of no transport, or cannot join a session."""
    for name, outbox in outboxes.items():
        fault = None
        if name not in transports:
            fault = f'outboxes: no transport is called "{name}"{did_you_mean(name, transports)}'
        elif not isinstance(outbox, Transport):
            fault = f"outboxes: {shown(name)} is {type(outbox).__name__}, not a relevo.Transport"
        elif not outbox.capabilities.transactional:
            fault = (
                f'the outbox "{outbox.name}" cannot join a session, so it cannot keep what is meant for "{name}"; '
                f"an outbox is a SQL transport"
            )
        if fault is not None:
            yield _problem(("transports", name, "outbox"), fault)


def target_problems(routes: Routes, transports: Iterable[str]) -> Iterator[Problem]:
    """Yield the targets that name none of *transports*."""
    known = [*transports, NOW]
    for pattern, targets in routes.table.items():
        for target in targets:
            if target.transport not in known:
                what = f"no transport is called {shown(target.transport)}{did_you_mean(target.transport, known)}"
                yield _problem(("routes", pattern), f'routes."{pattern}": {what}')


def retry_problems(
    targets: Mapping[str, Target], routes: Routes | None, transports: Collection[str]
) -> Iterator[Problem]:
    """
    Yield the retry policies of queues without a route.

    Args:
        targets: The queues of the policies, by their names as they were written.

        routes: Where events go; ``None`` if that is not known.

        transports: The names that there are.
    """
    for name, target in targets.items():
        known = routes.queues(target.transport) if routes else ()
        fault = None
        if target.transport not in transports:
            fault = f"no transport is called {shown(target.transport)}{did_you_mean(target.transport, transports)}"
        elif routes and target.queue not in known:
            fault = f"nothing is routed to that queue{did_you_mean(target.queue, known)}"
        if fault is not None:
            yield _problem(("retries", name), f"{dotted(('retries', name))}: {fault}")


def retry_targets(names: Iterable[str], problems: Problems) -> dict[str, Target]:
    """Return the queues that *names* are of; *problems* learns of those that are invalid, or there twice."""
    found: dict[str, Target] = {}
    for name in names:
        with problems.at("retries", name):
            target = parsed_target(name, where="retries")
            if target in found.values():
                what = f"{target} is there twice; its default queue need not be named"
                raise ConfigurationError(f"{dotted(('retries', name))}: {what}")
            found[name] = target
    return found


def setting_problems(
    settings: Settings, retries: Mapping[str, Target], written: object, problems: Problems
) -> Iterator[Problem]:
    """
    Yield the settings that conflict, or name a transport or a queue that is not there.

    Args:
        settings: The valid ones.

        retries: The queues of their retry policies.

        written: The transports, valid or not; if there are none it is the application that has them.

        problems: What is invalid by itself; nothing is said of what would need it.
    """
    try:
        settings.chosen_execution()
    except ConfigurationError as error:
        yield Problem(("concurrency",), error)
    wrong = [each.keys for each in problems if each.keys[0] == "transports"]
    names = [*(written if isinstance(written, dict) else ()), *(str(keys[1]) for keys in wrong if keys[1:])]
    transports = dict.fromkeys(filter(None, names))
    if not transports:
        return
    yield from target_problems(Routes(settings.routes), transports)
    for name, entry in settings.transports.items():
        text = entry.outbox.reveal() if entry.outbox else "://"
        if "://" not in text and text not in transports:
            what = f"neither an address nor the name of a transport{did_you_mean(text, transports)}"
            yield _problem(keys := ("transports", name, "outbox"), f"{dotted(keys)}: {what}")
    routes = None if problems.concern("routes") else Routes(settings.routes or {"*": next(iter(transports))})
    yield from retry_problems(retries, routes, transports)


def fan_out_problems(routes: Routes, joins_sessions: Mapping[str, bool]) -> Iterator[Problem]:
    """Yield the routes whose targets can never be written in one go; says nothing of transports it does not know."""
    for pattern, targets in routes.table.items():
        names = list(by_transport(targets))
        known = [joins_sessions[name] for name in names if name in joins_sessions]
        if len(names) > 1 and len(known) == len(names) and not all(known):
            yield Problem(("routes", pattern), fan_out(pattern, names))


def _problem(keys: KeyPath, what: str) -> Problem:
    return Problem(keys, ConfigurationError(what))


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
            meant = next((each.queue for each in targets if str(each) == listener.queue), None)
            mend = did_you_mean(listener.queue, queues)
            if meant is not None:
                mend = f'; a listener names its queue without the transport: queue="{meant}"'
            problems.append(
                f'{listener.id}: it runs in the queue "{listener.queue}", but "{listener.event_name}" is routed '
                f"to {', '.join(map(str, targets))}{mend}"
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
