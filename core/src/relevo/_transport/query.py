"""Queries of stored events: filters, and results about waiting events, groups and ordering keys."""

from __future__ import annotations

from collections.abc import Iterable
from math import isnan
from typing import Any, Literal, get_args

import attrs

from relevo._transport.delivery import Note
from relevo._transport.envelope import Envelope
from relevo._visible import visible
from relevo.errors import ConfigurationError, shown

Status = Literal["ready", "leased", "scheduled"]
"""The state of an event that is neither done nor dead."""

_STATES: tuple[Status, ...] = get_args(Status)


def _texts(what: str) -> Any:
    """Return a field of texts; a single text is refused, since it would be read as its letters."""

    def checked(values: Iterable[str]) -> tuple[str, ...]:
        found = () if isinstance(values, str) else tuple(values)
        if isinstance(values, str) or not all(isinstance(value, str) for value in found):
            raise ConfigurationError(f"{what} of a filter: expected a sequence of texts; got {shown(values)}")
        return found

    return attrs.field(default=(), converter=checked)


def _is_time(value: float) -> bool:
    try:
        return not isnan(value)
    except OverflowError:  # an integer that no float holds
        return False


def _time(what: str) -> Any:
    """Return a field of a time in seconds since the epoch, which may be infinite."""

    def check(_: object, __: object, value: object) -> None:
        if value is not None and not (isinstance(value, (int, float)) and _is_time(value)):
            raise ConfigurationError(f"{what} of a filter: expected seconds since the epoch; got {shown(value)}")

    return attrs.field(default=None, validator=check)


@attrs.frozen(kw_only=True)
class Names:
    """
    Names of events, and patterns of them.

    Args:
        exact: Whole names.

        prefixes: Prefixes of names.
    """

    exact: tuple[str, ...]
    prefixes: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Return *names*, in which a pattern ends with a ``*``, as in routes."""
        names = tuple(names)
        return cls(
            exact=tuple(name for name in names if not name.endswith("*")),
            prefixes=tuple(name[:-1] for name in names if name.endswith("*")),
        )

    def match(self, name: str | None) -> bool:
        """Return whether *name* is one of them; unreadable bytes have none, and match only an empty list."""
        if not self.exact and not self.prefixes:
            return True
        return name is not None and (name in self.exact or name.startswith(self.prefixes))


@attrs.frozen(kw_only=True)
class _Filter:
    names: tuple[str, ...] = _texts("names")
    since: float | None = _time("since")
    until: float | None = _time("until")

    @property
    def patterns(self) -> Names:
        """The names, separated from the prefixes."""
        return Names.of(self.names)

    def matches_name(self, name: str | None) -> bool:
        """Return whether it selects events with *name*; ``None`` if the event is unreadable."""
        return self.patterns.match(name)

    def matches_time(self, at: float) -> bool:
        """Return whether it selects events that were sent, or dead-lettered, *at* that time."""
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)


@attrs.frozen(kw_only=True)
class EventFilter(_Filter):
    """
    Selects stored events that are neither done nor dead; the empty filter selects all.

    An event must meet all given conditions.

    Args:
        names: Names of events; one that ends with a ``*`` is a prefix, as in routes.

        states: Any of ``ready``, ``leased`` and ``scheduled``.

        since: Sent at this time or later, in seconds since the epoch.

        until: Sent before this time.

    Raises:
        ConfigurationError: A state is unknown, a condition is a single text, or a time is not a number.
    """

    states: tuple[Status, ...] = _texts("states")

    def __attrs_post_init__(self) -> None:
        for state in self.states:
            if state not in _STATES:
                raise ConfigurationError(
                    f"states of a filter: expected some of {', '.join(_STATES)}; got {shown(state)}"
                )

    def matches(self, found: Found) -> bool:
        """Return whether it selects *found*."""
        is_wanted = not self.states or found.status in self.states
        return is_wanted and self.matches_name(found.envelope.name) and self.matches_time(found.enqueued_at)

    @property
    def wanted(self) -> tuple[Status, ...]:
        """The states that it selects."""
        return tuple(state for state in _STATES if not self.states or state in self.states)


@attrs.frozen(kw_only=True)
class DeadLetterFilter(_Filter):
    """
    Selects dead letters; the empty filter selects all.

    A dead letter must meet all given conditions.

    Args:
        names: Names of events; one that ends with a ``*`` is a prefix, as in routes. Unreadable bytes
            have no name, so a filter with names does not select them.

        reasons: Codes, such as ``retries-exhausted``.

        since: Dead-lettered at this time or later, in seconds since the epoch.

        until: Dead-lettered before this time.

    Raises:
        ConfigurationError: A condition is a single text, or a time is not a number.
    """

    reasons: tuple[str, ...] = _texts("reasons")

    def matches(self, *, name: str | None, reason: str, died_at: float) -> bool:
        """Return whether it selects a dead letter; *name* is that of its event, ``None`` if it is unreadable."""
        is_wanted = not self.reasons or reason in self.reasons
        return is_wanted and self.matches_name(name) and self.matches_time(died_at)


@attrs.frozen(kw_only=True)
class Found:
    """
    A stored event that is neither done nor dead.

    Args:
        queue: The queue that it is in.

        envelope: The event as it was sent.

        status: ``ready``, ``leased`` or ``scheduled``.

        attempt: The number of the current hand-over if it is leased, else of the next one.

        lost_leases: The number of hand-overs that ended without a settlement, such as by a crash.

        state: The progress of its listeners; :meth:`App.failures` reads why they failed.

        enqueued_at: When it was sent, in seconds since the epoch.

        until: The end of its lease if it is leased, or the time at which it is due if it is scheduled, in seconds
            since the epoch; ``None`` also for a connection lease.

        begun: The note of the last process that began it, as in :class:`Delivery`; most events have none.
    """

    queue: str
    envelope: Envelope
    status: Status
    attempt: int
    lost_leases: int
    state: bytes
    enqueued_at: float
    until: float | None = None
    begun: Note | None = None

    def __repr__(self) -> str:
        of = self.envelope
        name = type(self).__name__
        return visible(f"<{name} {of.name} {of.id} in {self.queue}, {self.status}, attempt {self.attempt}>")


@attrs.frozen(kw_only=True, repr=False)
class WaitingEntry(Found):
    """
    An event in a list of those that are neither done nor dead.

    It has the fields of :class:`Found`, and two of its own.

    Args:
        cursor: Opaque: where the next page begins. It stays valid if the event changes or is deleted.

        leased_at: When it was leased, in seconds since the epoch; ``None`` if it is not leased, or if that is not
            known.
    """

    cursor: str
    leased_at: float | None = None


@attrs.frozen(kw_only=True)
class DoneEntry:
    """
    An event that is done, which its transport keeps for a time.

    Args:
        queue: The queue that it was handled in.

        envelope: The event as it was sent.

        attempt: The number of the hand-over after which it was done.

        lost_leases: The number of hand-overs that ended without a settlement, such as by a crash.

        enqueued_at: When it was sent, in seconds since the epoch.

        done_at: When it was done, in seconds since the epoch.
    """

    queue: str
    envelope: Envelope
    attempt: int
    lost_leases: int
    enqueued_at: float
    done_at: float

    def __repr__(self) -> str:
        of = self.envelope
        return visible(f"<DoneEntry {of.name} {of.id} in {self.queue}, attempt {self.attempt}>")


@attrs.frozen(kw_only=True)
class EventGroup:
    """The number of events or dead letters with the same name, queue, state or reason."""

    key: str
    """A name, a queue, a state or a reason; empty for the name of unreadable bytes."""

    count: int
    oldest: float
    """When the oldest was sent, or dead-lettered, in seconds since the epoch."""

    newest: float
    """When the newest was sent, or dead-lettered, in seconds since the epoch."""


@attrs.frozen(kw_only=True)
class StuckKey:
    """An ordering key whose first event blocks others."""

    queue: str
    key: str
    waiting: int
    """The number of events that are due and wait behind the first one."""

    since: float
    """When the first of these was due, in seconds since the epoch."""

    first: WaitingEntry | None
    """
    The event that they wait for, which is scheduled or leased.

    ``None`` if another program has deleted it; an idle worker notices that.
    """


@attrs.frozen(kw_only=True)
class StuckKeys:
    """The ordering keys that are stuck."""

    keys: tuple[StuckKey, ...] = ()
    """Some of them, those that have been stuck the longest first."""

    total: int = 0
    """The number of all."""
