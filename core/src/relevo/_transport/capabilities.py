"""Capabilities: the promises of a transport as data, read by the worker, the docs and the conformance suite."""

from __future__ import annotations

from typing import Literal

import attrs


@attrs.frozen(kw_only=True)
class Capabilities:
    """
    What a transport claims.

    Claimed means tested, at its number; not claimed means that asking for it raises
    :class:`UnsupportedError`. Whatever is optional is off unless said.
    """

    durability: Literal["process", "host", "replicated"]
    """What a sent event survives: nothing beyond the *process*, a crash of the *host*, or the loss of one host."""

    lease: Literal["timed", "connection"]
    """*timed*: a delivery is hidden for the seconds asked for. *connection*: until the connection ends."""

    extend: bool = False
    """A lease can be renewed. Connection leases need no renewing and do not claim it."""

    settlement: Literal["confirmed", "sent"] = "confirmed"
    """*confirmed*: when ``settle`` returns it is done. *sent*: on its way, and a crash may bring an extra copy."""

    atomic_batch: bool = False
    """A batch is sent whole or not at all."""

    delay: float | None = None
    """The resolution of delays in seconds, rounded up, never early; ``None``: events cannot be delayed."""

    lost_leases: Literal["exact", "at least"] = "exact"
    """*at least*: a delivery that was held but not yet handed out may be counted as lost too."""

    order: Literal["none", "per key"] = "none"
    """*per key*: an event waits until the earlier ones of its queue and ordering key are settled."""

    urgency: bool = False
    """Envelopes of high urgency overtake the others."""

    transactional: bool = False
    """``bound_to`` joins the caller's transaction."""

    checkpoint: bool = False
    """Progress can be kept in the middle of a delivery, so that what finished is not run again after a crash."""

    dead_letters: bool = False
    """Dead letters are kept here, and can be listed, revived and discarded."""

    cancel: bool = False
    """An event that nobody holds can be taken out by its id."""

    find: bool = False
    """The events that are kept can be looked up by their id."""

    purge: bool = False
    """All events of a queue that nobody holds can be taken out."""

    wakeup: bool = False
    """A blocked ``receive`` is woken by a send; otherwise it polls."""

    dedupe: bool = False
    """
    While an event is kept, sending one of the same queue, source and id again makes no second one.

    A dead letter is not kept in this sense: the event may be sent again beside it.
    """

    stats: Literal["exact", "approximate", "none"] = "none"
    """How far the figures of ``stats`` can be trusted when nothing moves."""

    presence: bool = False
    """
    The transport stores which worker began an event and which workers are alive: ``begin``, ``excuse``, ``appear`` and
    ``presence``.

    Without it a transport cannot tell a crash from a lost connection.
    """

    max_body: int | None = None
    """The largest body in bytes; ``None``: no limit of its own."""
