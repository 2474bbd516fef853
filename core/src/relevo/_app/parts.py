"""The parts of an application, as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from relevo._app.registry import Registry
from relevo._clock import Clock
from relevo._event.subject import SubjectTypes
from relevo._hook import Hooks
from relevo._identity import IdFactory
from relevo._retry import Retry
from relevo._transport.envelope import DEFAULT_QUEUE
from relevo._transport.route import Routes, Target
from relevo._transport.transport import Transport
from relevo._worker.execution import Execution
from relevo._worker.signing import Signing

if TYPE_CHECKING:
    from pathlib import Path

    from relevo._config.schema import Config


@attrs.frozen(kw_only=True)
class LoadedFrom:
    """Where an application was found."""

    config: Config | None = None
    """The configuration that it was made of."""

    options: Sequence[str] = ()
    """Options of the command line that lead to it, if it was found that way."""

    folder: Path | None = None
    """The folder that has to be the working directory then, since code of its own may start paths from there."""


@attrs.frozen(kw_only=True)
class Parts:
    """
    What an application is made of; every part is valid, and they fit together.

    To work with others, such as memory transports in a test, evolve this value.
    """

    transports: Mapping[str, Transport]
    """By the names that routes use."""

    outboxes: Mapping[str, Transport]
    """By the name of the transport whose events they keep."""

    routes: Routes
    retries: Mapping[Target, Retry]
    source: str
    hooks: Hooks
    subjects: SubjectTypes
    signing: Signing | None
    execution: Execution
    registry: Registry
    """The listeners."""

    clock: Clock
    ids: IdFactory
    chance: Callable[[], float]
    """Returns random numbers from 0 to 1, for the jitter of waits."""

    creates: bool
    """Whether missing tables and queues are created at first use."""

    patience: float
    """Seconds for which events are given back that no listener here can handle."""

    lease: float
    """Seconds for which a delivery is hidden from other workers unless it is renewed."""

    lock: Path | None
    """The folder of the lock that lets one drain at a time."""

    deploy: Path | None
    """The file that keeps events from being taken while it exists."""

    loaded_from: LoadedFrom

    def queues(self, transport: str) -> tuple[str, ...]:
        """Return the queues of *transport* that routes lead to."""
        return self.routes.queues(transport) or (DEFAULT_QUEUE,)

    def joins_sessions(self, transport: str) -> bool:
        """Return whether an event for *transport* can be written inside a session, there or in its outbox."""
        return transport in self.outboxes or self.transports[transport].capabilities.transactional
