from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from relevo import Delivery, Envelope, Transport
from relevo.testing import FakeClock
from relevo_memory import MemoryStore, MemoryTransport


@pytest.fixture(name="clock")
def _clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(name="store")
def _store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture(name="transport")
def _transport(store: MemoryStore, clock: FakeClock) -> Iterator[MemoryTransport]:
    with MemoryTransport(store, clock=clock) as transport:
        yield transport


@pytest.fixture(name="other")
def _other(store: MemoryStore, clock: FakeClock) -> Iterator[MemoryTransport]:
    """Open a second transport on the same store, as another process would."""
    with MemoryTransport(store, name="other", clock=clock) as transport:
        yield transport


@pytest.fixture(name="envelope")
def _envelope() -> Callable[..., Envelope]:
    def envelope(event_id: str = "1", **fields: Any) -> Envelope:
        return Envelope(**{"id": event_id, "source": "shop", "name": "image.created", "body": b"{}", **fields})

    return envelope


@pytest.fixture(name="take")
def _take() -> Callable[..., Sequence[Delivery]]:
    """Receive what is ready, without waiting."""

    def take(
        transport: Transport, *queues: str, limit: int = 100, lease: float = 60.0, wait: float = 0.0
    ) -> Sequence[Delivery]:
        return transport.receive(queues or ("default",), limit=limit, lease=lease, wait=wait)

    return take


@pytest.fixture(name="ids")
def _ids() -> Callable[[Sequence[Delivery]], list[str]]:
    def ids(deliveries: Sequence[Delivery]) -> list[str]:
        return [one.envelope.id for one in deliveries if isinstance(one.envelope, Envelope)]

    return ids
