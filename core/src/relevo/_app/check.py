"""Start-up checks of listeners and of a worker's queues."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from logging import getLogger
from types import ModuleType
from typing import TYPE_CHECKING

from relevo._clock import Clock, SystemClock, readable
from relevo._event.codec import DEFAULT_SOURCE
from relevo._event.subject import Subject, SubjectType, SubjectTypes
from relevo._hook import Hooks, doubled
from relevo._listener.listener import Listener, ListenerTable, defined_at, marked
from relevo._mark import MARK
from relevo._problem import with_lines
from relevo._secret import masked, without_secrets
from relevo._transport.acceptance import QueueTable
from relevo._transport.delivery import MAX_STATE
from relevo._transport.route import NOW, Routes, Routing, Target
from relevo._transport.transport import Transport
from relevo._visible import visible
from relevo._worker.execution import Execution
from relevo._worker.signing import Signing
from relevo._worker.transaction import check_inbox, check_transactional
from relevo.errors import ConfigurationError, NotAcceptedError, RouteNotFoundError, did_you_mean, shown

if TYPE_CHECKING:
    from relevo._app.registry import Registry
    from relevo._config.schema import Config

_log = getLogger("relevo.app")

_ENTRY = 80
"""The largest size in bytes of a listener's entry in a state, without its id and its error."""


def check_time_limits(listeners: ListenerTable, transport: Transport, *, limit: float, lease: float) -> None:
    """
    Refuse time limits that are longer than a lease which *transport* cannot renew.

    Args:
        listeners: The listeners, which may have their own limits.

        transport: The transport of the worker.

        limit: The default time limit of a listener in seconds.

        lease: The lease in seconds.
    """
    if transport.capabilities.lease != "timed" or transport.capabilities.extend:
        return
    for listener in listeners:
        own = listener.mark.time_limit or limit
        if own >= lease:
            raise ConfigurationError(
                f'{listener.id} may run for {own:g} s, and "{transport.name}" cannot renew a lease of {lease:g} s, so '
                f"another worker would begin the event meanwhile; shorten time_limit, or lengthen lease"
            )


def unenforced_limits(listeners: Iterable[Listener], execution: Execution) -> list[str]:
    """Return which of *listeners* have time limits that *execution* cannot enforce on them alone, with the remedy."""
    effect = {
        "inline": "is not enforced inline",
        "threads": "ends the whole worker with exit code 70, since a thread cannot be ended",
        "async": "ends the whole worker with exit code 70, since it is not async, and a thread cannot be ended",
    }.get(execution.chosen)
    if effect is None:
        return []
    remedy = 'set execution = "process", where the listener alone is ended'
    return [
        f"{listener.id}: time_limit={readable(listener.mark.time_limit)} {effect}; {remedy}"
        for listener in listeners
        if listener.mark.time_limit is not None and not (listener.is_async and execution.chosen in ("threads", "async"))
    ]


def doubled_plugins(hooks: Hooks) -> list[str]:
    """Return which plugins of *hooks* are there several times, so that each hook is called for all of them."""
    return [
        f"the plugin {name} is there {'twice' if len(places) == 2 else f'{len(places)} times'}: "
        f"{masked(' and '.join(places))}; what it counts or mails is doubled; remove one, unless both are wanted: then "
        f"give them an attribute that differs, such as a name"
        for name, places in doubled(hooks)
    ]


def shared_source(signing: Signing | None, source: str) -> str | None:
    """
    Return why applications that share a key accept each other's events: the *source* is the default; else ``None``.

    A signature is valid for the application that has the source of the event.
    """
    if signing is None or source != DEFAULT_SOURCE:
        return None
    return (
        f'the source is "{source}", as of every application without one, so that applications which share a key handle '
        f'each other\'s signed events; set source to a name of its own, list "{source}" under signing.accept until its '
        f'earlier events are handled, and on RabbitMQ keep its queues with prefix = "{source}"'
    )


_MOST_TYPES = 1000
"""The largest number of unknown subject types that are checked, in case a program generates them."""


class NoticingSubjects(SubjectTypes):
    """
    The registered subject types; an unregistered type that looks like a typing error is logged, once.

    The event is dispatched nevertheless: a program that only dispatches need not register the types.
    """

    def __init__(self, types: Iterable[SubjectType] = ()):
        super().__init__(types)
        self._seen: set[str] = set()

    def named(self, subject: object) -> Subject | None:
        found = super().named(subject)
        if found is not None and self._by_type and self._called(found.type) is None:
            self._warn_if_misspelt(found.type)
        return found

    def _warn_if_misspelt(self, kind: str) -> None:
        if kind in self._seen or len(self._seen) >= _MOST_TYPES:
            return
        self._seen.add(kind)
        if meant := did_you_mean(kind, self._by_type):
            _log.warning("an event has a subject of the type %s, which is not registered%s", shown(kind), meant)


def check_listening(thing: object) -> None:
    """
    Refuse *thing* at its registration if it cannot have a listener; modules are imported later.

    Raises:
        ConfigurationError: It has no mark, or no module of that name was found.
    """
    is_event = isinstance(thing, type) and MARK in vars(thing)
    if is_event or (isinstance(thing, str) and not _may_be_module(thing.partition(":")[0])):
        what, event = ("an event", "…") if is_event else ("not the name of a module that can be found", '"…"')
        raise ConfigurationError(
            f"listen: expected a listener or a module; got {shown(thing)}, which is {what}; put "
            f"@relevo.listener({event}) above the function and @app.listen above that, or write "
            f"app.add_listener({event}, function)"
        )
    if not isinstance(thing, (str, ModuleType)):
        for _ in marked((thing,)):
            pass


def _may_be_module(name: str) -> bool:
    """Return whether Python finds the first package of *name*; nothing is imported."""
    from importlib.util import find_spec  # noqa: PLC0415 - few applications register modules by name

    first = name.partition(".")[0]
    try:
        return first in sys.modules or find_spec(first) is not None
    except (ImportError, ValueError):
        return False


def warn_of_risks(transport: Transport) -> None:
    """Log what is unsafe in how *transport* is configured."""
    for risk in transport.risks():
        _log.warning('the transport "%s": %s', transport.name, masked(risk))


def warn_of_other_clock(transport: Transport, clock: Clock) -> None:
    """Log that *transport* does not follow the *clock* of the application, as one made in code without it."""
    own = transport.clock
    if own is None or own is clock or (isinstance(own, SystemClock) and isinstance(clock, SystemClock)):
        return
    _log.warning(
        'the transport "%s" has another clock (%s) than the application (%s); events are due by the clock of the '
        "transport; pass clock= to the transport too",
        transport.name,
        type(own).__name__,
        type(clock).__name__,
    )


def warn_of_ignored_settings(found: Config, own: Config | None, *, app: str) -> None:
    """
    Log which settings have no effect, since the application does not read them.

    Args:
        found: The configuration by which the command line found the application.

        own: The configuration that the application was made from; ``None`` if it was made in code.

        app: The name of the application.
    """
    if own is not None and own.path == found.path:
        return
    ignored = [key for key in dict.fromkeys(str(keys[0]) for keys in found.origins.said) if key != "app"]
    if ignored:
        how = "is made in code" if own is None else f"is made from {own.path or own.origins.default}"
        _log.warning(
            "%s: %s have no effect, since %s %s; create it with relevo.App.from_config(), or remove them",
            found.path or found.origins.default,
            ", ".join(ignored),
            app,
            how,
        )


def check_listeners(listeners: ListenerTable, routes: Routes, queues: QueueTable) -> None:
    """
    Check that every listener's event is routed to where it runs, and accepted there; report all problems together.

    An event is also checked for its other targets: it could not be dispatched if one of them did not accept it.
    """
    problems = []
    for listener in listeners:
        place = defined_at(listener.function)
        who = f"{listener.id} ({place})" if place else listener.id
        try:
            targets = routes.targets(listener.event_name)
        except RouteNotFoundError as error:
            problems.append(f"{who}: {error}")
            continue
        if why := _bypassed(listener, targets):
            problems.append(f"{who}: {why}")
        for target in targets:
            try:
                queues.check(listener.event_name, target)
            except NotAcceptedError as error:
                problems.append(f"{who}: {error}")
    if problems:
        raise with_lines(ConfigurationError(), problems)


def _bypassed(listener: Listener, targets: Sequence[Target]) -> str:
    """Return that none of *targets*, those of its event, is the queue that *listener* names; empty if one is."""
    reached = [_room(target) for target in targets]
    if listener.queue is None or listener.queue in reached:
        return ""
    meant = next((each.queue for each in targets if str(each) == listener.queue), None)
    remedy = did_you_mean(listener.queue, reached) or _with_queue(listener, targets)
    if meant is not None:
        remedy = f'; a listener names its queue without the transport: queue="{meant}"'
    where = ", ".join(map(str, targets))
    return f'it runs in the queue "{listener.queue}", but "{listener.event_name}" is routed to {where}{remedy}'


def bypassed(event_name: str, listeners: Iterable[Listener], targets: Sequence[Target]) -> list[str]:
    """Return which of *listeners*, those of *event_name*, never get it, since none of its *targets* is their queue."""
    return [
        f"{each.id} will not get this event: {why}"
        for each in listeners
        if each.event_name == event_name and (why := _bypassed(each, targets))
    ]


class BypassNotice:
    """
    Logs at the first dispatch of a name that a listener of it is in a queue that the event does not get to.

    Args:
        registry: The listeners; those in modules that are not imported are not known, since a dispatch imports none.
    """

    def __init__(self, registry: Registry):
        self._registry = registry
        self._noticed: set[str] = set()

    def __call__(self, event_name: str, routing: Routing) -> None:
        """Log it once for *event_name*, whose *routing* was worked out."""
        if event_name in self._noticed:
            return
        imported, known = self._registry.imported, self._registry.known  # in this order: both change meanwhile
        found = {each.id: each for each in (*imported.of(event_name), *known.of(event_name))}
        for text in bypassed(event_name, found.values(), routing.targets):
            self._noticed.add(event_name)
            _log.warning("%s", visible(text))


def _with_queue(listener: Listener, targets: Sequence[Target]) -> str:
    """Return the route that leads to the queue of *listener* too; empty if its event is handled in process."""
    if any(each.transport == NOW for each in targets):
        return ""
    wanted = [*targets, Target(targets[0].transport, listener.queue or "")]
    listed = ", ".join(f'"{each}"' for each in wanted)
    return f'; write under [routes]: "{listener.event_name}" = [{listed}]'


def unheard(event_name: str, listeners: ListenerTable, routes: Routes) -> Sequence[Target]:
    """
    Return the targets of *event_name* whose workers have no listener for it, so that it would be dead-lettered there.

    Without the queues in which no listener of this program runs, if the event is handled elsewhere or routed by its
    name: those are of another program. Empty without a route, and if there are no listeners at all.
    """
    try:
        targets = routes.targets(event_name)
    except RouteNotFoundError:
        return ()
    missing = [target for target in targets if not _heard(event_name, target, listeners, targets)]
    if not missing or not len(listeners):
        return ()
    if event_name not in routes.table and len(missing) == len(targets):
        return missing
    return [target for target in missing if listeners_at(target, listeners, routes)]


def listeners_at(target: Target, listeners: ListenerTable, routes: Routes) -> Sequence[Listener]:
    """Return those of *listeners* that run at *target*, ordered by event; events without a route have none there."""
    found: list[Listener] = []
    for name in dict.fromkeys(each.event_name for each in listeners):
        with suppress(RouteNotFoundError):  # a worker refuses to start with it
            targets = routes.targets(name)
            found += _heard(name, target, listeners, targets) if target in targets else ()
    return found


def places_of(event_name: str, listeners: ListenerTable, routes: Routes) -> Sequence[str]:
    """Return where the listeners of *event_name* run: targets of its route, or the queues that they name."""
    try:
        targets = routes.targets(event_name)
    except RouteNotFoundError:
        targets = ()
    heard = {target: _heard(event_name, target, listeners, targets) for target in targets}
    placed = {each.id for found in heard.values() for each in found}
    others = [each.queue for each in listeners.of(event_name) if each.queue and each.id not in placed]
    return [*(str(target) for target, found in heard.items() if found), *dict.fromkeys(others)]


def unheard_at(event_name: str, target: Target, listeners: ListenerTable, routes: Routes) -> str | None:
    """Return that no listener here handles *event_name* at *target*; ``None`` if one does, or another program may."""
    try:
        targets = routes.targets(event_name)
    except RouteNotFoundError:
        targets = ()
    there = target in targets and _heard(event_name, target, listeners, targets)
    elsewhere = ", ".join(places_of(event_name, listeners, routes))
    if there or not (elsewhere or listeners_at(target, listeners, routes)):
        return None
    then = f"; its listeners are in {elsewhere}" if elsewhere else ""
    return f'no listener here for "{event_name}" in {target}{then}{"" if elsewhere else listeners.hint(event_name)}'


def _heard(event_name: str, target: Target, listeners: ListenerTable, targets: Sequence[Target]) -> Sequence[Listener]:
    """Return the listeners of *event_name* that run at *target*, one of its *targets*."""
    first = _room(targets[0]) if targets[0].transport == target.transport else ""
    return listeners.in_queue(event_name, _room(target), first)


def _room(target: Target) -> str:
    """Return what the listeners at *target* call their queue."""
    return NOW if target.transport == NOW else target.queue


def unheard_text(event_name: str, targets: Iterable[Target], listeners: ListenerTable, *, then: str = "") -> str:
    """Return that no listener here handles *event_name* at *targets*, *then* what follows, and the nearest event."""
    where = ", ".join(str(target) for target in targets)
    return f'no listener here for "{event_name}" in {where}{then}{listeners.hint(event_name)}'


def without_any(listeners: ListenerTable, config: Config | None) -> str | None:
    """Return that there are no listeners, with the remedy; ``None`` if there are some."""
    if len(listeners):
        return None
    return f"no listeners, so no event is handled here; name their modules: {how_to_list(config)}"


def how_to_list(config: Config | None) -> str:
    """Return where the modules with listeners are named, in the *config* or where an application is made in code."""
    return 'relevo.App(listeners=["…"])' if config is None else 'listeners = ["…"] in relevo.toml'


def misnamed(listener: Listener) -> str | None:
    """Return that the parameters of *listener* look like the data of its event; ``None`` if they do not."""
    try:
        parameters = [*inspect.signature(listener.function).parameters.values()]
    except (TypeError, ValueError):  # it is written in C
        return None
    if any(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters):  # a wrapper passes them on
        return None
    if listener.takes_call and len(parameters) > 1:
        first, second = parameters[:2]
        if _is_named_like(first, _EVENTS) or _is_named_like(second, _CALLS):
            return None
        names, called, renamed = f"{first.name}, {second.name}", "event, call", "parameters"
    elif not listener.takes_call and len(parameters) == 1:
        first = parameters[0]
        if first.annotation is not first.empty or not _DATA.fullmatch(first.name):
            return None
        names, called, renamed = first.name, "event", "parameter"
    else:  # it takes more by default
        return None
    return (
        f"{listener.id} ({defined_at(listener.function)}) takes ({names}), but is called with ({called}); "
        f'read the data from the event, as in event["{first.name}"], or rename the {renamed}'
    )


_DATA = re.compile(r"(?:\w+_)?(?:id|ids|pk|pks|uid|uuid)", re.ASCII)
"""Names of a single parameter that is surely meant to be a value of the data."""

_EVENTS = ("event", "evt", "message", "payload")
_CALLS = ("call", "context", "ctx")
"""Parts of names for the first and the second parameter of a listener."""


def _is_named_like(parameter: inspect.Parameter, words: Iterable[str]) -> bool:
    """Return whether *parameter* may be meant so: it is annotated, or its name has one of *words* or is too short."""
    name = parameter.name
    is_short = len(name) < 3 or name.startswith("_")
    return is_short or parameter.annotation is not parameter.empty or any(word in name.lower() for word in words)


def check_queues(
    listeners: ListenerTable,
    routes: Routes,
    transport: Transport,
    queues: Sequence[str],
    first_queue: Callable[[str], str],
    *,
    outbox: Transport | None = None,
) -> None:
    """
    Check that *queues* can be served; log the events that have no listener in their queue.

    Raises:
        ConfigurationError: Nothing is routed to one of them, the transport does not support delay, or the ids of an
            event's listeners do not fit into a state; or a listener is transactional, and the transport does not
            support that.
    """
    check_routed(transport.name, queues, routes)
    if transport.capabilities.delay is None:
        raise ConfigurationError(
            f'the transport "{transport.name}" does not support delay, which retries need; choose one that claims it'
        )
    for name in dict.fromkeys(listener.event_name for listener in listeners):
        for target in routes.targets(name):
            if target.transport == transport.name and target.queue in queues:
                _check_target(listeners, name, target, first_queue(name))
                for each in listeners.in_queue(name, target.queue, first_queue(name)):
                    check_transactional(each, transport, outbox)


def check_inbox_of(
    transport: Transport, queues: Iterable[str], outbox: Transport | None, listeners: ListenerTable, routes: Routes
) -> None:
    """
    Check that the inbox in *outbox* is set up, if one of *listeners* needs it for the events of *transport*.

    Raises:
        ConfigurationError: It is not set up.

        TransportUnavailableError: Its database cannot be reached.
    """
    targets = [Target(transport.name, queue) for queue in queues]
    check_inbox([each for target in targets for each in listeners_at(target, listeners, routes)], transport, outbox)


def check_routed(transport: str, queues: Iterable[str], routes: Routes) -> None:
    """
    Check that *routes* lead to each of *queues*, unless none leads to their *transport*.

    Raises:
        ConfigurationError: Nothing is routed to one of them.
    """
    known = routes.queues(transport)
    for queue in queues if known else ():
        if queue not in known:
            raise ConfigurationError(
                f'nothing is routed to the queue "{without_secrets(queue)}" of "{transport}"'
                f"{several_queues(queue) or did_you_mean(queue, known)}; there are: {', '.join(known)}"
            )


def several_queues(queue: str) -> str:
    """Return the hint that each queue is passed by itself if *queue*, which is not known, looks like a list."""
    return "; pass each queue by itself (-q feed -q mail on the command line)" if "," in queue else ""


def _check_target(listeners: ListenerTable, name: str, target: Target, first: str) -> None:
    found = listeners.in_queue(name, target.queue, first)
    if sum(len(listener.id.encode()) + _ENTRY for listener in found) > MAX_STATE:
        raise ConfigurationError(
            f'"{name}" has {len(found)} listeners in {target}, whose progress does not fit into '
            f"{MAX_STATE:,} bytes of state; give them shorter ids with listener(…, id=…), or "
            f"different queues"
        )
    if not found:
        _log.warning("%s", _unserved(name, target))


def unserved(listeners: ListenerTable, routes: Routes) -> list[str]:
    """
    Return the warnings about targets in which no listener runs, of events that have listeners here.

    Those of :func:`unheard` are left out, since they are more than a warning; another program may serve these.
    """
    found: list[str] = []
    for name in dict.fromkeys(each.event_name for each in listeners):
        targets, known = routes.targets(name), unheard(name, listeners, routes)
        silent = [each for each in targets if each.transport != NOW and not _heard(name, each, listeners, targets)]
        found += [_unserved(name, target) for target in silent if target not in known]
    return found


def _unserved(event_name: str, target: Target) -> str:
    return (
        f'"{event_name}" is routed to {target}, but no listener here runs there; an event without a listener in any '
        f'worker of that queue is dead-lettered in the end; give a listener queue="{target.queue}", or remove the '
        f"target"
    )
