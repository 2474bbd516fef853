"""Routes: from the name of an event to the queues that it is written to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from relevo._envelope import DEFAULT_QUEUE
from relevo.errors import ConfigurationError, RouteNotFoundError, did_you_mean, shown

NOW = "now"
"""The target that calls listeners in process, at the dispatch."""

RESERVED = "outbox/"
"""Queues that begin like this belong to relays."""

MAX_QUEUE = 128


@attrs.frozen
class Target:
    """A queue of a transport."""

    transport: str
    queue: str = DEFAULT_QUEUE

    def __str__(self) -> str:
        return self.transport if self.transport == NOW else f"{self.transport}/{self.queue}"


def checked_queue(queue: str, *, where: str) -> str:
    """
    Return *queue* if it can name one.

    Raises:
        ConfigurationError: It is empty, too long, reserved, or has spaces or control characters.
    """
    fault = None
    if not queue or len(queue) > MAX_QUEUE:
        fault = f"it has {len(queue)} characters, 1 to {MAX_QUEUE} are allowed"
    elif not queue.isprintable() or " " in queue:
        fault = "spaces and control characters are not allowed"
    elif queue.startswith((RESERVED, "amq.")):
        fault = f'names that begin with "{RESERVED}" or "amq." are reserved'
    if fault:
        message = f"{where}: {shown(queue)} cannot name a queue: {fault}"
        raise ConfigurationError(message)
    return queue


def parsed_target(text: str, *, where: str) -> Target:
    """Return the target that *text* names, ``transport`` or ``transport/queue``."""
    transport, slash, queue = text.partition("/")
    if not transport:
        message = f'{where}: {shown(text)} is not a target; write "transport" or "transport/queue"'
        raise ConfigurationError(message)
    return Target(transport, checked_queue(queue, where=where) if slash else DEFAULT_QUEUE)


class Routes:
    """
    Where events go.

    An exact name wins, then the longest matching pattern: ``image.*`` matches every name that begins
    with ``image.``, ``*`` matches all.

    Args:
        table: From name or pattern to one target or several.

    Raises:
        ConfigurationError: A pattern or a target is malformed.
    """

    def __init__(self, table: Mapping[str, str | Sequence[str]]):
        self._exact: dict[str, tuple[Target, ...]] = {}
        self._prefixes: list[tuple[str, tuple[Target, ...]]] = []
        for pattern, targets in table.items():
            parsed = _parsed_targets(pattern, [targets] if isinstance(targets, str) else targets)
            if pattern.endswith("*"):
                self._prefixes.append((pattern[:-1], parsed))
            else:
                self._exact[pattern] = parsed
        self._prefixes.sort(key=lambda entry: -len(entry[0]))
        self.patterns = tuple(table)

    def targets(self, name: str) -> tuple[Target, ...]:
        """
        Return where events called *name* go, the first target first.

        Raises:
            RouteNotFoundError: No pattern matches.
        """
        found = self._exact.get(name)
        if found is not None:
            return found
        for prefix, targets in self._prefixes:
            if name.startswith(prefix):
                self._exact[name] = targets
                return targets
        raise RouteNotFoundError(name, self.patterns)

    def queues(self, transport: str) -> tuple[str, ...]:
        """Return every queue of *transport* that something is routed to, in the order of the table."""
        every = [*self._exact.values(), *(targets for _, targets in self._prefixes)]
        return tuple(dict.fromkeys(t.queue for targets in every for t in targets if t.transport == transport))

    def check(self, transports: Iterable[str]) -> None:
        """
        Raises:
            ConfigurationError: A target names a transport that is not in *transports*.
        """
        known = [*transports, NOW]
        for pattern, targets in [*self._exact.items(), *((f"{p}*", t) for p, t in self._prefixes)]:
            for target in targets:
                if target.transport not in known:
                    hint = did_you_mean(target.transport, known)
                    message = f'routes."{pattern}": no transport is called "{target.transport}"{hint}'
                    raise ConfigurationError(message)


def _parsed_targets(pattern: str, targets: Sequence[str]) -> tuple[Target, ...]:
    where = f'routes."{pattern}"'
    if "*" in pattern[:-1]:
        message = f"{where}: a * may only stand at the end"
        raise ConfigurationError(message)
    parsed = tuple(parsed_target(text, where=where) for text in targets)
    if not parsed:
        message = f"{where}: needs at least one target"
        raise ConfigurationError(message)
    if len(set(parsed)) != len(parsed):
        message = f"{where}: names a target twice"
        raise ConfigurationError(message)
    return parsed
