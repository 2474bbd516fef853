"""Capabilities: the promises of a transport as data, read by the worker, the docs and the conformance suite."""

from __future__ import annotations

from typing import Literal

import attrs


@attrs.frozen(kw_only=True)
class Capabilities:
    """
    The capabilities that a transport claims.

    A claimed capability is tested with its declared value. Using one that is not claimed raises
    :class:`UnsupportedError`. Optional capabilities are off by default.
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
    """A batch is sent completely or not at all."""

    delay: float | None = None
    """The resolution of delays in seconds, rounded up, never early; ``None``: events cannot be delayed."""

    lost_leases: Literal["exact", "at least"] = "exact"
    """*at least*: a delivery that was held but not yet handed out may be counted as lost too."""

    order: Literal["none", "per key"] = "none"
    """
    *per key*: an event waits until the earlier ones of its queue and ordering key are settled, so that no two of them
    are held at once. In an outbox only events for the same queue wait for one another.
    """

    urgency: bool = False
    """
    Envelopes of high urgency overtake the others.

    Where ``lost_leases`` is not exact, since deliveries are fetched ahead, this holds for those that are sent without a
    delay; one that was delayed or returned may come behind others.
    """

    transactional: bool = False
    """``bound_to`` joins the caller's transaction."""

    checkpoint: bool = False
    """Progress can be stored during a delivery, so that finished listeners do not run again after a crash."""

    dead_letters: bool = False
    """
    The transport stores dead letters, which can be listed, revived and discarded.

    Without it a worker settles no event as one: it tries an event that cannot be handled again every hour.
    """

    cancel: bool = False
    """An event that is not leased can be removed by its id."""

    find: bool = False
    """Stored events can be looked up by their id."""

    take: bool = False
    """An event can be leased by its id, also before it is due."""

    waiting: bool = False
    """
    Stored events can be listed and counted by filter, and dead letters too if ``dead_letters`` is claimed.

    Stuck ordering keys can be found as well.
    """

    purge: bool = False
    """All events of a queue that are not leased can be removed."""

    wakeup: bool = False
    """A blocked ``receive`` is woken by a send; otherwise it polls."""

    dedupe: bool = False
    """
    While an event is stored, sending another one with the same queue, source and id is ignored.

    Dead letters do not count: an event that is a dead letter can be sent again.
    """

    unique: bool = False
    """While an event with a unique key lives, another one with that key is not sent; the sender gets its id."""

    stats: Literal["exact", "approximate", "none"] = "none"
    """The accuracy of ``stats`` while no events are sent or settled."""

    presence: bool = False
    """
    The transport stores which worker began an event and which workers are alive: ``begin``, ``excuse``, ``appear`` and
    ``presence``.

    Without it a crash cannot be distinguished from a lost connection.
    """

    max_body: int | None = None
    """The largest body in bytes, at least 64; ``None`` if the transport sets no limit. A larger one is refused."""
