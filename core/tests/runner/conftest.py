"""An application with an outbox, for the runner."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from relevo import App, Envelope, listener
from relevo._transport.route import outbox_queue
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport
from relevo_memory._store import Posting

OUTBOX = outbox_queue("main")


@pytest.fixture(name="outbox")
def _outbox(clock: FakeClock) -> Iterator[MemoryTransport]:
    with MemoryTransport(name="outbox", clock=clock) as outbox:
        yield outbox


@pytest.fixture(name="put")
def _put(outbox: MemoryTransport, envelope: Callable[..., Envelope], clock: FakeClock) -> Callable[..., None]:
    """Put an event into the outbox, as a committed transaction does."""

    def put(event_id: str, *, delay: float = 0.0) -> None:
        posting = Posting(queue=OUTBOX, envelope=envelope(event_id), due=clock.now() + delay)
        outbox.store.add([posting], clock.now())

    return put


@pytest.fixture(name="app")
def _app(transport: Any, outbox: MemoryTransport, clock: FakeClock) -> Callable[..., App]:
    """Make an application with one listener and, unless said otherwise, an outbox."""
    transport.name = "main"

    def app(function: Callable[..., object], *, with_outbox: bool = True, **more: Any) -> App:
        return App(
            transports={"main": transport},
            routes={"*": "main"},
            listeners=[listener("image.created", id="keep")(function)],
            outboxes={"main": outbox} if with_outbox else {},
            clock=clock,
            chance=lambda: 0.0,
            **more,
        )

    return app
