"""The outcome in place of a dead letter on a transport that keeps none: the event is put off, and tried again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from logging import getLogger

import attrs

from relevo._clock import readable
from relevo._transport.delivery import DeadLetter, Delivery, Failure, Nack
from relevo._transport.transport import Transport
from relevo._visible import visible
from relevo._worker.decision import epitaph
from relevo._worker.progress import resumed
from relevo.errors import DecodeError

PUT_OFF = 3600.0
"""Seconds after which an event that cannot be handled is tried again."""

_log = getLogger("relevo.worker")

Rewrite = Callable[[Delivery, Callable[[bytes], bytes]], bytes]
"""Returns the state of a delivery as a function changes it, signed if states are."""


def unkept(transport: Transport) -> str | None:
    """Return that *transport* keeps no dead letters, and what a worker does instead; ``None`` if it keeps them."""
    if transport.capabilities.dead_letters:
        return None
    return (
        f'the transport "{transport.name}" keeps no dead letters: an event that cannot be handled is logged as an '
        f"error and tried again in {readable(PUT_OFF)}, until it is handled"
    )


def put_off(delivery: Delivery, dead: DeadLetter, rewrite: Rewrite) -> Nack:
    """
    Return the outcome of *delivery* in place of *dead*: the event is as after a revival, later.

    Args:
        delivery: The delivery.

        dead: The dead letter that it would be.

        rewrite: Changes its state.
    """
    state = dead.state
    if state is not None:
        with suppress(DecodeError):  # a newer release wrote it, and may read it later
            state = rewrite(attrs.evolve(delivery, state=state), partial(resumed, lost_leases=delivery.lost_leases))
    return Nack(delay=PUT_OFF, state=state, reason=dead.reason)


def log_put_off(entries: Sequence[tuple[Delivery, DeadLetter]], *, transport: str) -> None:
    """Log *entries*, which were put off on *transport*, each with the dead letter that it would be."""
    for delivery, dead in entries:
        _log.error(
            '%s cannot be handled, and the transport "%s" keeps no dead letters, so it is tried again in %s: %s',
            delivery,
            transport,
            readable(PUT_OFF),
            visible(epitaph(dead)),
            extra={"relevo_kind": visible(f"cannot be handled: {dead.reason}")},
        )


def for_observers(dead: DeadLetter, *, due: float) -> DeadLetter:
    """Return *dead* for observers after its event was put off: each of its failures says when it is tried again."""
    failures = dead.failures or (Failure(reason=dead.reason, error=dead.error),)
    return attrs.evolve(dead, failures=tuple(attrs.evolve(each, due=due) for each in failures))
