"""The keys of the configuration: their names, types and defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import attrs
import msgspec

from relevo._config.check import checked_app_name, checked_lease, checked_patience, checked_setup
from relevo._config.table import REST, wrong_type
from relevo._event.codec import DEFAULT_SOURCE, checked_source
from relevo._event.event import Event, checked_name
from relevo._problem import Origin, Origins, Problem
from relevo._retry import Retry
from relevo._schedule.cron import checked_cron, checked_timezone
from relevo._schedule.schedule import GRACE, Missed, Schedule, checked_expiry, checked_grace, checked_ordering_key
from relevo._secret import Secret, masked
from relevo._transport.acceptance import QueueOptions
from relevo._transport.envelope import Urgency
from relevo._transport.route import beside_helpers
from relevo._worker.decision import PATIENCE
from relevo._worker.execution import TIME_LIMIT, Execution, Kind
from relevo._worker.signing import Signing
from relevo._worker.worker import LEASE
from relevo.errors import ConfigurationError, EventNameError, shown

_EMPTY: Mapping[str, Any] = MappingProxyType({})
_EXECUTION = {field.name: field.converter for field in attrs.fields(Execution)}
_NAME = msgspec.Meta(min_length=1)


@attrs.frozen(kw_only=True)
class TransportConfig:
    """One entry under ``[transports]``; text alone is its address."""

    url: Annotated[Secret, "sqlite:///shop.db"]
    outbox: Secret | None = None
    """The name of another transport, or an address."""

    coordinator: Secret | None = None
    """As of the outbox."""

    dead_letters: Secret | None = None
    """As of the outbox."""

    options: Mapping[str, Any] = attrs.field(default=_EMPTY, repr=False, metadata=REST)
    """All other keys; the class of the transport defines them."""

    def helpers(self) -> dict[str, str]:
        """Return the transports that keep something for this one, each a name or an address, by their keys."""
        found = {"outbox": self.outbox, "coordinator": self.coordinator, "dead_letters": self.dead_letters}
        return {key: text.reveal() for key, text in found.items() if text}


@attrs.frozen(kw_only=True)
class PluginConfig:
    """One entry under ``plugins``."""

    options: Mapping[str, Any] = attrs.field(default=_EMPTY, repr=False, metadata=REST)
    """The class of the plugin defines them."""


def _event_name(given: object) -> str:
    try:
        return checked_name(given)
    except EventNameError:
        raise ConfigurationError(
            f"event: expected the name of an event, as in night.begun; got {shown(given)}"
        ) from None


def _arguments(given: Any) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise wrong_type("arguments", f"Expected `object`, got `{type(given).__name__}`", "{ full = true }")
    return given


@attrs.frozen(kw_only=True)
class ScheduleConfig:
    """One entry under ``[schedules]``; its key is the name of the schedule."""

    cron: Annotated[str, checked_cron]
    event: Annotated[str, _event_name]
    """Its name."""

    arguments: Annotated[Mapping[str, Any], _arguments] = _EMPTY
    """Its data."""

    timezone: Annotated[str, checked_timezone] = "UTC"
    missed: Missed = "once"
    grace: float = attrs.field(default=GRACE, converter=checked_grace)
    urgency: Urgency = "normal"
    ordering_key: str | None = attrs.field(default=None, converter=checked_ordering_key)
    expires: float | None = attrs.field(default=None, converter=checked_expiry)

    def named(self, name: str) -> Schedule:
        """Return the schedule *name*."""
        return Schedule(
            name=name,
            cron=self.cron,
            event=Event(self.event, self.arguments),
            timezone=self.timezone,
            missed=self.missed,
            grace=self.grace,
            urgency=self.urgency,
            ordering_key=self.ordering_key,
            expires=self.expires,
        )


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """
    All keys, in the order in which they are shown and documented.

    A function beside a type reads and validates the value instead of the type; text beside it is an example.
    """

    source: Annotated[str, checked_source] = DEFAULT_SOURCE
    app: Annotated[str | None, checked_app_name] = None
    listeners: Annotated[tuple[Annotated[str, _NAME], ...], '["shop.listeners"]'] = ()
    plugins: Annotated[Mapping[str, PluginConfig], "{ mail = {} }, or a list of names"] = _EMPTY
    """By the name of a plugin in an installed package, a module, or ``module:name``."""

    setup: Annotated[str, checked_setup] = "auto"
    patience: Annotated[float, checked_patience] = PATIENCE
    lease: Annotated[float, checked_lease] = LEASE
    execution: Annotated[Kind | None, _EXECUTION["kind"]] = None
    concurrency: Annotated[int, _EXECUTION["concurrency"]] = 1
    time_limit: Annotated[float, _EXECUTION["time_limit"]] = TIME_LIMIT
    memory_limit: Annotated[int | None, _EXECUTION["memory_limit"]] = None
    recycle_after: Annotated[int | None, _EXECUTION["recycle_after"]] = None
    lock: Path | None = None
    deploy: Path | None = None
    signing: Signing | None = None
    retries: Annotated[Mapping[str, Retry], '"main/feed" = 8'] = _EMPTY
    """By the queue in which listeners run, as ``transport/queue``."""

    queues: Annotated[Mapping[str, QueueOptions], 'media = { accept = ["image.*"] }'] = _EMPTY
    """By the name of a queue, or as ``transport/queue``."""

    schedules: Annotated[Mapping[str, ScheduleConfig], 'nightly = { cron = "0 3 * * *", event = "night.begun" }'] = (
        _EMPTY
    )
    """By their names."""

    transports: Annotated[Mapping[str, TransportConfig], '[transports] main = "sqlite:///shop.db"'] = _EMPTY
    routes: Annotated[Mapping[str, tuple[str, ...]], '"*" = "main"'] = _EMPTY

    def __repr__(self) -> str:
        return masked(super().__repr__())

    def default_routes(self, transports: Iterable[str] = ()) -> Mapping[str, tuple[str, ...]]:
        """
        Return the routes of a configuration without any: all events go to the first transport.

        A transport that another one has as its outbox, or that helps it otherwise, is passed over.

        Args:
            transports: The names of the transports, if some of them are invalid.
        """
        helpers = [text for entry in self.transports.values() for text in entry.helpers().values()]
        return {"*": (beside_helpers(transports or self.transports, helpers)[0],)}

    def chosen_execution(self) -> Execution:
        """Return where listeners run, how many at once, and for how long, as one value."""
        return Execution(self.execution, self.concurrency, self.time_limit, self.memory_limit, self.recycle_after)


KEYS = Settings.__struct_fields__


class Config(Settings, frozen=True, kw_only=True):
    """The settings, and where they were found."""

    directory: Path
    """Where relative paths start."""

    path: Path | None = None
    """The file they were read from."""

    is_found: bool = False
    """Whether the search found it, so that the user may not have meant to run the modules in it."""

    origins: Origins = msgspec.field(default_factory=lambda: Origins(Origin("the configuration")))
    """Where each value comes from."""

    problems: tuple[Problem, ...] = ()
    """What is invalid, and is left out here."""
