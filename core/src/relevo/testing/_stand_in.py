"""Memory transports in place of an application's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from relevo._clock import Clock
from relevo._config.discovery import transport_class
from relevo._transport.delivery import Delivery
from relevo._transport.envelope import Envelope
from relevo._transport.route import RESERVED, Target
from relevo._transport.transport import Transport

OnSent = Callable[[Envelope, Target, float], None]
"""Called with an envelope that was stored, its target, and the seconds until it is due."""


OnStored = Callable[[Delivery, bytes], None]
"""Called with a delivery and the state that was stored with it before it was settled."""


def stand_ins(
    transports: Iterable[Transport], *, clock: Clock, sent: OnSent, stored: OnStored
) -> Mapping[Transport, Transport]:
    """
    Return a memory transport with the same name for each of *transports*.

    Args:
        transports: The transports to replace; only their capabilities are used.

        clock: The source of time.

        sent: Called for every envelope that is sent, and for enlisted ones at the commit.

        stored: Called for every state that is stored.

    Raises:
        ConfigurationError: relevo-memory is not installed.
    """
    memory = transport_class("memory")
    return {former: _stand_in(former, memory(name=former.name, clock=clock), sent, stored) for former in transports}


def _stand_in(former: Transport, memory: Any, sent: OnSent, stored: OnStored) -> Transport:
    # A dispatch that the real transport refuses is refused in tests too; and if it keeps no dead letters, the stand-in
    # keeps none either.
    memory.capabilities = attrs.evolve(
        memory.capabilities,
        urgency=former.capabilities.urgency,
        order=former.capabilities.order,
        delay=former.capabilities.delay and memory.capabilities.delay,
        transactional=former.capabilities.transactional,
        dead_letters=former.capabilities.dead_letters,
        unique=former.capabilities.unique,
        checkpoint=former.capabilities.checkpoint,
    )
    memory.store = _WatchedStore(memory.store, former.name, sent, stored)
    transport: Transport = memory
    return transport


class _WatchedStore:
    """
    A store of relevo-memory that reports the envelopes and the states that it stores.

    It wraps the store, not the transport, since enlisted events reach the store when their session commits.
    """

    def __init__(self, store: Any, transport: str, sent: OnSent, stored: OnStored):
        self._store = store
        self._transport = transport
        self._sent = sent
        self._stored = stored

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def add(self, postings: Sequence[Any], now: float) -> None:
        self._store.add(postings, now)
        for posting in postings:
            if posting.claim is not None and not posting.claim.granted:
                continue
            kept_for = posting.queue.removeprefix(RESERVED) if posting.queue.startswith(RESERVED) else self._transport
            self._sent(posting.envelope, Target(kept_for, posting.envelope.queue), max(0.0, posting.due - now))

    def checkpoint(self, delivery: Delivery, state: bytes, now: float) -> bool:
        is_held: bool = self._store.checkpoint(delivery, state, now)
        if is_held:
            self._stored(delivery, state)
        return is_held
