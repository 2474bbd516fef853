"""The options of queues: the events that each accepts, and its limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Never

import attrs
from attrs.converters import optional

from relevo._problem import Problems, dotted
from relevo._synonym import QUEUE_OPTIONS
from relevo._transport.limit import MOST_EVENTS, Limit, rate_from
from relevo._transport.route import MOST_ROUTINGS, NOW, Routing, Target, checked_queue, is_word, parsed_target
from relevo.errors import ConfigurationError, NotAcceptedError, no_option, shown


def _patterns(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return the patterns that are *given*, one or several, if each is valid."""
    where = "QueueOptions.accept"
    if not isinstance(given, (str, list, tuple, set, frozenset)):
        raise ConfigurationError(f'{where}: expected a list of patterns such as "image.*"; got {shown(given)}')
    found: tuple[Any, ...] = (given,) if isinstance(given, str) else tuple(given)
    if not found:
        raise ConfigurationError(f'{where}: expected at least one pattern such as "image.*"; got none')
    for each in found:
        if not isinstance(each, str) or not is_word(each) or "*" in each[:-1]:
            what = 'expected names of events, or a prefix and *, as in "image.*"'
            raise ConfigurationError(f"{where}: {what}; got {shown(each)}")
    return found


def _concurrency(given: Any) -> int:
    if type(given) is not int or not 1 <= given <= MOST_EVENTS:
        what = f"expected a whole number from 1 to {MOST_EVENTS}"
        raise ConfigurationError(f"QueueOptions.concurrency: {what}; got {shown(given)}")
    return given


def _rate(given: Any) -> str:
    return str(rate_from(given, what="QueueOptions.rate"))


@attrs.frozen(kw_only=True, init=False)
class QueueOptions:
    """
    The options of a queue.

    Args:
        accept: The events that it accepts: names, or prefixes and ``*``, as in routes. Any other event is
            refused at the dispatch; one that reaches the queue anyway becomes a dead letter, ``not-accepted``,
            before its body is read.

        concurrency: How many of its events are handled at once, by all workers on all hosts together.

        rate: How many of its events begin in a time, with all workers together: text such as ``"10/s"``, ``"1000/h"``
            or ``"5/10m"``. That holds for every period of that length, wherever it begins.

    Raises:
        ConfigurationError: There is no pattern, or one of the arguments is invalid.

        TypeError: An argument is unknown; the error says what to write instead.
    """

    accept: Annotated[tuple[str, ...], _patterns] = attrs.field(default=("*",), converter=_patterns)
    concurrency: Annotated[int | None, _concurrency] = attrs.field(default=None, converter=optional(_concurrency))
    rate: Annotated[str | None, _rate] = attrs.field(default=None, converter=optional(_rate))

    def __init__(
        self,
        *,
        accept: str | Iterable[str] = ("*",),
        concurrency: int | None = None,
        rate: str | None = None,
        **unknown: Never,
    ):
        if unknown:
            raise no_option("QueueOptions", next(iter(unknown)), attrs.fields_dict(QueueOptions), QUEUE_OPTIONS)
        QueueOptions.__attrs_init__(self, accept=accept, concurrency=concurrency, rate=rate)

    @property
    def limit(self) -> Limit | None:
        """Its limit; ``None`` if it has none."""
        if self.concurrency is None and self.rate is None:
            return None
        return Limit(concurrency=self.concurrency, rate=None if self.rate is None else rate_from(self.rate))

    def accepts(self, name: str) -> bool:
        """Return whether the queue accepts the event *name*."""
        return any(name == each or (each.endswith("*") and name.startswith(each[:-1])) for each in self.accept)

    def accepts_some(self, pattern: str) -> bool:
        """Return whether the queue accepts any event that matches *pattern*, a name or a prefix and ``*``."""
        if not pattern.endswith("*"):
            return self.accepts(pattern)
        prefix = pattern[:-1]
        return any(
            each.startswith(prefix) or (each.endswith("*") and prefix.startswith(each[:-1])) for each in self.accept
        )


_ALL = QueueOptions()
_EVERYWHERE = ""
"""Stands for the name of a transport in a target that means a queue on every transport."""


class QueueTable:
    """
    The options of an application's queues.

    Args:
        options: By the name of a queue, which applies to every transport, or by ``transport/queue``.

        problems: Collects the problems of invalid keys, which are left out; by default they are raised together.

    Raises:
        ConfigurationError: A key does not name a queue, or a queue has options twice.
    """

    def __init__(self, options: Mapping[str, QueueOptions] | None = None, problems: Problems | None = None):
        self.options: dict[str, QueueOptions] = {}
        self._keys: dict[Target, str] = {}
        by_name: dict[str, str] = {}
        found = Problems() if problems is None else problems
        for key, each in (options or {}).items():
            with found.at("queues", key):
                place = queue_named(key)
                other = self.key(place) or (None if place.transport else by_name.get(place.queue))
                if other is not None:
                    both = f"{shown(other)} has options for that queue already; remove one of the two"
                    raise ConfigurationError(f"{dotted(('queues', key))}: {both}")
                self.options[key] = each
                self._keys[place] = by_name[place.queue] = key
        if problems is None:
            found.raise_any()

    def __bool__(self) -> bool:
        return bool(self.options)

    def key(self, target: Target) -> str | None:
        """Return the key with the options of *target*; ``None`` if it has none, as in process."""
        if target.transport == NOW:
            return None
        return self._keys.get(target) or self._keys.get(Target(_EVERYWHERE, target.queue))

    def of(self, target: Target) -> QueueOptions:
        """Return the options of *target*."""
        key = self.key(target)
        return _ALL if key is None else self.options[key]

    def limits(self, transport: str, queues: Iterable[str]) -> dict[str, Limit]:
        """Return the limits of *queues* of the transport of that name, by queue, without those that have none."""
        found = ((queue, self.of(Target(transport, queue)).limit) for queue in queues)
        return {queue: limit for queue, limit in found if limit is not None}

    def check(self, name: str, target: Target) -> None:
        """
        Check that *target* accepts the event *name*.

        Raises:
            NotAcceptedError: It does not.
        """
        key = self.key(target)
        if key is not None and not self.options[key].accepts(name):
            raise NotAcceptedError(name, str(target), self.options[key].accept, key=key)

    def checked(self, routing: Callable[[str], Routing]) -> Callable[[str], Routing]:
        """Return *routing* with a check of all queues; it takes the name of an event and raises as :meth:`check`."""

        def checked(name: str) -> Routing:
            found = routing(name)
            for target in found.deferred:
                self.check(name, target)
            return found

        return lru_cache(MOST_ROUTINGS)(checked)


def queue_named(key: object) -> Target:
    """
    Return the queue that *key* names, on one transport, or on every transport if it is the name of a queue alone.

    Raises:
        ConfigurationError: It does not name a queue.
    """
    if isinstance(key, str) and "/" in key:
        return parsed_target(key, where="queues")
    if key == NOW:
        raise ConfigurationError(f'queues: "{NOW}" is not a queue; a route to it calls listeners in process')
    return Target(_EVERYWHERE, checked_queue(key, where="queues"))
