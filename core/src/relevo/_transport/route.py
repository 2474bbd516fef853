"""Routes: from the name of an event to its target queues."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Self, TypeVar

import attrs
import msgspec

from relevo._problem import Problems, dotted
from relevo._transport.class_route import covering, declared_below, doubled, label, unfit
from relevo._transport.envelope import DEFAULT_QUEUE
from relevo.errors import ConfigurationError, RouteNotFoundError, shown

T = TypeVar("T")

NOW = "now"
"""The target that calls listeners in process, during the dispatch."""

RESERVED = "outbox/"
"""The prefix of queues that belong to relays."""

MAX_QUEUE = 128

MAX_KEPT = 255
"""The most characters of the reserved queue of kept dead letters, as every database holds them."""

_LONGEST_OWNER = 50

MOST_ROUTINGS = 1000
"""The largest number of event names whose routing is cached, in case a program generates names."""


@attrs.frozen
class Target:
    """A queue of a transport."""

    transport: str
    queue: str = DEFAULT_QUEUE

    def __str__(self) -> str:
        return self.transport if self.transport == NOW else f"{self.transport}/{self.queue}"


def checked_queue(queue: object, *, where: str) -> str:
    """
    Return *queue* if it is a valid name of a queue.

    Raises:
        ConfigurationError: It is not a string, is empty, too long, reserved, an address, or has spaces or control
            characters.
    """
    if not isinstance(queue, str):
        fault = f"it is {type(queue).__name__}, not text"
    elif not 0 < len(queue) <= MAX_QUEUE:
        fault = f"it has {len(queue)} characters, 1 to {MAX_QUEUE} are allowed"
    elif not is_word(queue):
        fault = "spaces and control characters are not allowed"
    elif "://" in queue:
        fault = "it is an address"
    elif queue.startswith((RESERVED, "amq.")):
        fault = f'names that begin with "{RESERVED}" or "amq." are reserved'
    else:
        return queue
    raise ConfigurationError(f"{where}: {shown(queue)} cannot name a queue: {fault}")


def parsed_target(text: object, *, where: str) -> Target:
    """Return the target in *text*, ``transport`` or ``transport/queue``."""
    transport, slash, queue = text.partition("/") if isinstance(text, str) else ("", "", "")
    if not transport or (slash and transport == NOW) or "://" in str(text):
        fix = f'; write "{NOW}"' if transport == "sync:" else ""
        raise ConfigurationError(
            f'{where}: expected a target, "transport", "transport/queue" or "{NOW}"; got {shown(text)}{fix}'
        )
    if queue == NOW:
        raise ConfigurationError(
            f'{where}: a queue cannot be called "{NOW}", which means that listeners are called in process'
        )
    return Target(transport, checked_queue(queue, where=where) if slash else DEFAULT_QUEUE)


def outbox_queue(transport: str) -> str:
    """Return the reserved queue of the outbox of *transport*."""
    return f"{RESERVED}{transport}"


def kept_prefix(transport: str, owner: str) -> str:
    """
    Return the beginning of the reserved queues in which another transport keeps dead letters.

    Args:
        transport: The name of the transport that they are of.

        owner: A word for it, since another application with the same database may call its own one so, too.
    """
    begin = f"{RESERVED}{transport}/{owner}/"
    if len(begin) <= MAX_KEPT - MAX_QUEUE:
        return begin
    from hashlib import sha256  # noqa: PLC0415 - it loads OpenSSL, and few names are that long

    return f"{RESERVED}{sha256(begin.encode()).hexdigest()}/{owner[:_LONGEST_OWNER]}/"


def kept_origin(queue: str) -> tuple[str, str, str] | None:
    """
    Return the transport, the word for it, and its queue whose dead letters are in the reserved *queue*.

    The result is ``None`` for another queue.
    """
    transport, slash, rest = queue.removeprefix(RESERVED).partition("/")
    if not queue.startswith(RESERVED) or not slash:
        return None
    owner, slash, own = rest.partition("/")
    return (transport, owner, own) if slash else (transport, "", rest)


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """Where the events of one name go."""

    targets: tuple[Target, ...]
    deferred: tuple[Target, ...]
    """The targets without ``now``."""

    transports: tuple[str, ...]
    """The transports of these."""

    is_now: bool
    first: str
    """``now`` if that is the first target, so that listeners without a queue are called in process."""

    headers: Mapping[Target, Mapping[str, str]] | None = None
    """The headers of the envelope for each target, if the dispatch chose the targets."""

    @classmethod
    def of(cls, targets: tuple[Target, ...], *, headers: Mapping[Target, Mapping[str, str]] | None = None) -> Self:
        """Return the routing to *targets*, whose envelopes have the *headers*."""
        deferred = tuple(target for target in targets if target.transport != NOW)
        return cls(
            targets=targets,
            deferred=deferred,
            transports=tuple(dict.fromkeys(target.transport for target in deferred)),
            is_now=any(target.transport == NOW for target in targets),
            first=NOW if targets[0].transport == NOW else "",
            headers=headers,
        )

    def of_transport(self, transport: str, values: Iterable[T]) -> list[T]:
        """Return those of *values*, one for each target in :attr:`deferred`, whose target is of *transport*."""
        return [value for target, value in zip(self.deferred, values, strict=True) if target.transport == transport]


def fan_out(event_name: str, transports: Iterable[str]) -> ConfigurationError:
    """Return the error for an event that is routed to several transports without a session."""
    names = ", ".join(f'"{name}"' for name in transports)
    return ConfigurationError(
        f'"{event_name}" is routed to several transports ({names}); a crash could leave it in only some of them; '
        f"route it to one transport, or dispatch it with session= if each transport can join it or has an outbox"
    )


RouteTable = Mapping[Any, str | Sequence[str]]
"""From the names, patterns and classes of events to their targets; a union would fit no mapping with other keys."""


class Routes:
    """
    The routing table of an application.

    An exact name wins, then the class of the event or the nearest of its base classes, then the longest matching
    pattern: ``image.*`` matches every name that begins with ``image.``, ``*`` matches all.

    Args:
        table: From a name, a pattern or a class to one or several targets. A class covers the events that it and the
            classes derived from it declare, also those that are dispatched by their name.

    Raises:
        ConfigurationError: A pattern, a class or a target is invalid, or an event has two routes of its own; it
            reports all problems at once.
    """

    def __init__(self, table: RouteTable):
        problems = Problems()
        parsed = {key: parsed_targets(key, targets, problems) for key, targets in table.items()}
        for cls, why in doubled(parsed).items():
            problems.add(("routes", label(cls)), f"routes: {why}")
        problems.raise_any()
        self.table: Mapping[str, tuple[Target, ...]] = {
            key: targets for key, targets in parsed.items() if isinstance(key, str)
        }
        """The routes by name and pattern."""
        self.classes: Mapping[type, tuple[Target, ...]] = {
            key: targets for key, targets in parsed.items() if isinstance(key, type)
        }
        """The routes by class."""
        self.entries: Mapping[str, tuple[Target, ...]] = {key_text(key): targets for key, targets in parsed.items()}
        """All routes in the order of the table; a class is named as in ``class shop.events.ImageCreated``."""
        prefixes = [pattern for pattern in self.table if pattern.endswith("*")]
        self._prefixes = sorted(prefixes, key=len, reverse=True)
        cached = lru_cache(MOST_ROUTINGS if not self.classes else 0)  # a class may be imported later
        self.routing = cached(lambda name: Routing.of(self.targets(name)))
        """Takes the name of an event, returns its routing; raises as :meth:`targets` does."""

    def __repr__(self) -> str:
        found = (f"{pattern}: {', '.join(map(str, targets))}" for pattern, targets in self.entries.items())
        return f"<Routes {'; '.join(found)}>"

    def targets(self, name: str, cls: type | None = None) -> tuple[Target, ...]:
        """
        Return the targets of the event *name*, in order.

        Args:
            name: The name.

            cls: The class of the event; by default the imported class that declares the name, if a route covers it.

        Raises:
            RouteNotFoundError: No route fits.
        """
        found = self.table.get(name)
        if found is not None:
            return found
        if self.classes:
            cls = declared_below(self.classes).get(name) if cls is None else cls
            key = None if cls is None else covering(cls, self.classes)
            if key is not None:
                return self.classes[key]
        for pattern in self._prefixes:
            if name.startswith(pattern[:-1]):
                return self.table[pattern]
        example = next((each.transport for targets in self.entries.values() for each in targets), "main")
        raise RouteNotFoundError(name, self.entries, example=example)

    def names(self) -> set[str]:
        """Return the names of the events with a route of their own, or by their class as far as that is imported."""
        exact = {name for name in self.table if not name.endswith("*")}
        return exact | declared_below(self.classes).keys()

    def queues(self, transport: str) -> tuple[str, ...]:
        """Return the queues of *transport* that events are routed to, in the order of the table."""
        found = (each.queue for targets in self.entries.values() for each in targets if each.transport == transport)
        return tuple(dict.fromkeys(found))


def key_text(key: str | type) -> str:
    """Return the *key* of a route as text."""
    return label(key) if isinstance(key, type) else key


def beside_helpers(transports: Iterable[str], helpers: Iterable[str], routes: Routes | None = None) -> list[str]:
    """
    Return those of *transports* that events can be routed to by default; all if there is no other one.

    Args:
        transports: The names of transports.

        helpers: The names of those that keep something for another one, such as its outbox.

        routes: A transport that a route leads to does more than that.
    """
    only = {name for name in helpers if routes is None or not routes.queues(name)}
    names = list(transports)
    return [name for name in names if name not in only] or names


def parsed_targets(pattern: object, targets: object, problems: Problems) -> tuple[Target, ...]:
    """Return the valid targets of *pattern*; note in *problems* what is invalid."""
    if isinstance(pattern, type):
        keys: Any = ("routes", label(pattern))
        if why := unfit(pattern):
            problems.add(keys, f"routes: {why}")
            return ()
        return _parsed(keys, targets, problems)
    keys = ("routes", pattern)
    if not isinstance(pattern, str) or not is_word(pattern):
        what = f"{shown(pattern)} cannot match an event"
        problems.add(keys, f'routes: {what}; write a name, or a prefix and *, as in "image.*"')
        return ()
    if "*" in pattern[:-1]:
        problems.add(keys, f"{dotted(keys)}: a * is only allowed at the end")
    return _parsed(keys, targets, problems)


def _parsed(keys: Any, targets: object, problems: Problems) -> tuple[Target, ...]:
    """Return the valid targets of the route at *keys*; note in *problems* what is invalid."""
    where = dotted(keys)
    if isinstance(targets, str | bytes) or not isinstance(targets, Sequence):
        targets = (targets,)
    parsed: list[Target] = []
    for text in targets:
        with problems.at(*keys):
            parsed.append(parsed_target(text, where=where))
    if not targets:
        problems.add(keys, f"{where}: expected at least one target; got none")
    if len(set(parsed)) != len(parsed):
        problems.add(keys, f"{where}: duplicate target; remove one")
    return tuple(parsed)


def is_word(text: str) -> bool:
    """Return whether *text* is printable, without spaces, and not empty."""
    return text.isprintable() and text.split() == [text]
