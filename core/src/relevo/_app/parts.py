"""The parts of an application, as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import msgspec

from relevo._app.registry import Registry
from relevo._clock import Clock
from relevo._event.subject import SubjectTypes
from relevo._hook import Hooks
from relevo._identity import IdFactory
from relevo._listener.open_values import OpenValues
from relevo._retry import Retry
from relevo._schedule.table import ScheduleTable
from relevo._transport.acceptance import QueueTable
from relevo._transport.coordinator import Coordinator
from relevo._transport.envelope import DEFAULT_QUEUE
from relevo._transport.route import Routes, Target, beside_helpers
from relevo._transport.transport import Transport
from relevo._worker.execution import Execution
from relevo._worker.signing import Signing

if TYPE_CHECKING:
    from pathlib import Path

    from relevo._config.schema import Config


class LoadedFrom(msgspec.Struct, frozen=True, kw_only=True):
    """Where an application was found."""

    config: Config | None = None
    """The configuration that it was made from."""

    name: str | None = None
    """The name by which the command line found it, ``module:name``, if it did."""

    options: Sequence[str] = ()
    """The options with which the command line found it, if it did."""

    log_level: str | None = None
    """The level of its log that the command line was given, if it was."""

    folder: Path | None = None
    """The working directory that it needs then, since its own code may use relative paths."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Parts:
    """
    The parts of an application; each is valid, and they do not conflict.

    To use other parts, such as memory transports in a test, evolve this value.
    """

    transports: Mapping[str, Transport]
    """The transports by the names that routes use."""

    outboxes: Mapping[str, Transport]
    """From the name of a transport to the transport that stores its outbox."""

    coordinators: Mapping[str, Transport]
    """From the name of a transport to the transport that coordinates its workers, if one was chosen."""

    keepers: Mapping[str, Transport]
    """From the name of a transport to the transport that keeps its dead letters, if one was chosen."""

    routes: Routes
    retries: Mapping[Target, Retry]
    queue_table: QueueTable
    """The options of queues."""

    source: str
    hooks: Hooks
    subjects: SubjectTypes
    signing: Signing | None
    execution: Execution
    registry: Registry
    """The listeners."""

    opened: OpenValues = attrs.field(
        default=attrs.Factory(lambda parts: OpenValues(parts.registry.known.lifespans), takes_self=True)
    )
    """What their lifespans have opened in this process."""

    schedules: ScheduleTable

    clock: Clock
    ids: IdFactory
    chance: Callable[[], float]
    """Returns random numbers from 0 to 1, for the jitter of waits."""

    creates: bool
    """Whether missing tables and queues are created at first use."""

    patience: float
    """Seconds for which an event that no listener here can handle is returned for another worker."""

    lease: float
    """Seconds for which a delivery is hidden from other workers unless it is renewed."""

    lock: Path | None
    """The folder of the lock that lets one process drain at a time."""

    deploy: Path | None
    """The file that keeps workers from taking events while it exists."""

    loaded_from: LoadedFrom

    @property
    def config(self) -> Config | None:
        """The configuration that the application was made from; ``None`` without one."""
        return self.loaded_from.config

    def queues(self, transport: str) -> tuple[str, ...]:
        """Return the queues of *transport* that events are routed to."""
        return self.routes.queues(transport) or (DEFAULT_QUEUE,)

    def beside_helpers(self) -> list[str]:
        """Return the names of the transports without those that only keep something for others, as an outbox."""
        helpers = [each.name for helpers in self._helpers for each in helpers.values()]
        return beside_helpers(self.transports, helpers, self.routes)

    def stores(self) -> list[Transport]:
        """Return all transports, and those that keep something for them; each once."""
        every = (self.transports, *self._helpers)
        return list(dict.fromkeys(each for stores in every for each in stores.values()))

    def stores_of(self, transport: str) -> list[Transport]:
        """Return *transport*, and those that keep something for it; each once."""
        found = (self.transports[transport], *(helpers.get(transport) for helpers in self._helpers))
        return list(dict.fromkeys(filter(None, found)))

    @property
    def _helpers(self) -> tuple[Mapping[str, Transport], ...]:
        return self.outboxes, self.coordinators, self.keepers

    def coordinator(self, store: Transport) -> Coordinator | None:
        """
        Return the coordinator of those that work on *store*, if there is one.

        It is the one that was chosen, else *store* itself, else its outbox.
        """
        chosen: list[object] = [store]
        if self.transports.get(store.name) is store:
            chosen = [self.coordinators.get(store.name), store, self.outboxes.get(store.name)]
        return next((each for each in chosen if isinstance(each, Coordinator)), None)

    def served(self) -> list[str]:
        """
        Return the names of the transports among which a worker chooses: those that a route leads to.

        All are returned if no route leads to any. One without a route, as one that is kept until its last events were
        moved, is served if it is named.
        """
        names = self.beside_helpers()
        return [name for name in names if self.routes.queues(name)] or names

    def joins_sessions(self, transport: str) -> bool:
        """Return whether an event for *transport* can be written inside a session, there or in its outbox."""
        return transport in self.outboxes or self.transports[transport].capabilities.transactional
