"""The outcome in place of a dead letter on a transport that keeps none: the event is put off, and tried again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from logging import ERROR, WARNING, getLogger

import attrs

from relevo._clock import readable
from relevo._transport.delivery import DeadLetter, Delivery, Failure, Nack
from relevo._transport.transport import Transport
from relevo._visible import visible
from relevo._worker.decision import Reason, epitaph
from relevo._worker.progress import resumed
from relevo.errors import DecodeError

PUT_OFF = 3600.0
"""Seconds after which an event that cannot be handled is tried again, as a rule."""

PUT_OFF_LONG = 86_400.0
"""Seconds after which one is tried again that can only be handled after a change of the program, if ever."""

_LASTING = frozenset({Reason.EXPIRED, Reason.UNREADABLE})

_log = getLogger("relevo.worker")

Rewrite = Callable[[Delivery, Callable[[bytes], bytes]], bytes]
"""Returns the state of a delivery as a function changes it, signed if states are."""


def unkept(transport: Transport) -> str | None:
    """Return that *transport* keeps no dead letters, and what a worker does instead; ``None`` if it keeps them."""
    if transport.capabilities.dead_letters:
        return None
    return (
        f'the transport "{transport.name}" keeps no dead letters: an event that cannot be handled is logged and tried '
        f"again in {readable(PUT_OFF)}, or in {readable(PUT_OFF_LONG)} if it expired or is unreadable, until it is "
        f"handled"
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
    return Nack(delay=delay_of(dead), state=state, reason=dead.reason)


def delay_of(dead: DeadLetter) -> float:
    """Return for how many seconds an event is put off that would be *dead*."""
    return PUT_OFF_LONG if dead.reason in _LASTING else PUT_OFF


def log_put_off(entries: Sequence[tuple[Delivery, DeadLetter]], *, transport: str) -> None:
    """
    Log *entries*, which were put off on *transport*, each with the dead letter that it would be.

    Those that expired, or that are unreadable, share one warning for each reason: no person has to act at once.
    """
    lasting: dict[str, list[tuple[Delivery, DeadLetter]]] = {}
    for entry in entries:
        if entry[1].reason in _LASTING:
            lasting.setdefault(entry[1].reason, []).append(entry)
        else:
            _log_together([entry], ERROR, transport)
    for alike in lasting.values():
        _log_together(alike, WARNING, transport)


def _log_together(entries: Sequence[tuple[Delivery, DeadLetter]], level: int, transport: str) -> None:
    delivery, dead = entries[0]
    _log.log(
        level,
        '%s%s cannot be handled, and the transport "%s" keeps no dead letters, so %s tried again in %s: %s',
        delivery,
        f" and {len(entries) - 1} more" if entries[1:] else "",
        transport,
        "they are" if entries[1:] else "it is",
        readable(delay_of(dead)),
        visible(epitaph(dead)),
        extra={"relevo_kind": visible(f"cannot be handled: {dead.reason}")},
    )


def for_observers(dead: DeadLetter, *, due: float) -> DeadLetter:
    """Return *dead* for observers after its event was put off: each of its failures says when it is tried again."""
    failures = dead.failures or (Failure(reason=dead.reason, error=dead.error),)
    return attrs.evolve(dead, failures=tuple(attrs.evolve(each, due=due) for each in failures))
