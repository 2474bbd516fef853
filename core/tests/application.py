"""What tests of an application share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from relevo import App, Envelope, Report, RunOptions
from relevo.errors import SendError
from relevo_memory import MemoryTransport

DRAIN = RunOptions(until_empty=True)


class Plain(MemoryTransport):
    """It joins no session, and claims no order, no urgency and no unique events."""

    capabilities = attrs.evolve(
        MemoryTransport.capabilities, transactional=False, order="none", urgency=False, unique=False
    )


Make = Callable[..., App]


def drain(app: App, transport: str | None = None) -> Report:
    return app.worker(attrs.evolve(DRAIN, transport=transport)).run()


def waiting(app: App, transport: str = "main", queue: str = "default") -> int | None:
    return app.transport(transport).stats(queue).ready


class Partial(MemoryTransport):
    """It takes the first envelope, refuses the second, and of the rest it does not know."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        raise SendError("x", sent=[0], refused=[1], unknown=range(2, len(envelopes)), why="a bad line")
