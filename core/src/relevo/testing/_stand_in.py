"""Memory transports in place of an application's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from relevo._clock import Clock
from relevo._config.discovery import transport_class
from relevo._transport.envelope import Envelope
from relevo._transport.route import RESERVED, Target
from relevo._transport.transport import Transport

Taken = Callable[[Envelope, Target, float], None]
"""Told of an envelope that has become visible, for which target, and in how many seconds it is due."""


def stand_ins(transports: Iterable[Transport], *, clock: Clock, taken: Taken) -> Mapping[Transport, Transport]:
    """
    Return a transport in memory for each of *transports*, of its name.

    Args:
        transports: What is stood in for; nothing is asked of them but what they claim.

        clock: Where the time comes from.

        taken: Told of everything that is sent, and of what is enlisted once that has committed.

    Raises:
        ConfigurationError: relevo-memory is not installed.
    """
    memory = transport_class("memory")
    return {former: _stand_in(former, memory(name=former.name, clock=clock), taken) for former in transports}


def _stand_in(former: Transport, memory: Any, taken: Taken) -> Transport:
    # A dispatch that the former refuses is refused in tests too.
    memory.capabilities = attrs.evolve(
        memory.capabilities,
        urgency=former.capabilities.urgency,
        order=former.capabilities.order,
        delay=former.capabilities.delay and memory.capabilities.delay,
        transactional=former.capabilities.transactional,
    )
    memory.store = _WatchedStore(memory.store, former.name, taken)
    transport: Transport = memory
    return transport


class _WatchedStore:
    """
    A store of relevo-memory that tells what it takes in.

    There, and not at the transport, since events that were enlisted with a session get here at its commit.
    """

    def __init__(self, store: Any, transport: str, taken: Taken):
        self._store = store
        self._transport = transport
        self._taken = taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def add(self, postings: Sequence[Any], now: float) -> None:
        self._store.add(postings, now)
        for posting in postings:
            kept_for = posting.queue.removeprefix(RESERVED) if posting.queue.startswith(RESERVED) else self._transport
            self._taken(posting.envelope, Target(kept_for, posting.envelope.queue), max(0.0, posting.due - now))
