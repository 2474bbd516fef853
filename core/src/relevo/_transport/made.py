"""
Fast construction of envelopes and deliveries, for the code that makes one for each event.

The constructor of a frozen class looks each slot up by its name; these functions set the slots directly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from relevo._transport.delivery import Delivery, Note, Unreadable
from relevo._transport.envelope import NO_HEADERS, Envelope, Urgency

_new = object.__new__


def _setters(kind: type[attrs.AttrsInstance]) -> list[Callable[[Any, Any], None]]:
    """Return the functions that set the slots of *kind*, in the order of its fields."""
    return [vars(kind)[field.name].__set__ for field in attrs.fields(kind)]


(
    _set_id,
    _set_source,
    _set_name,
    _set_envelope_queue,
    _set_body,
    _set_headers,
    _set_urgency,
    _set_ordering_key,
    _set_expires,
) = _setters(Envelope)


def made_envelope(
    *,
    id: str,  # noqa: A002 - the name of the field
    source: str,
    name: str,
    queue: str,
    body: bytes,
    headers: Mapping[str, str] = NO_HEADERS,
    urgency: Urgency,
    ordering_key: str | None,
    expires: float | None,
) -> Envelope:
    """Return an envelope, as ``Envelope(…)`` does, in half the time."""
    made = _new(Envelope)
    _set_id(made, id)
    _set_source(made, source)
    _set_name(made, name)
    _set_envelope_queue(made, queue)
    _set_body(made, body)
    _set_headers(made, headers)
    _set_urgency(made, urgency)
    _set_ordering_key(made, ordering_key)
    _set_expires(made, expires)
    return made


(
    _set_envelope,
    _set_queue,
    _set_attempt,
    _set_lost_leases,
    _set_begun,
    _set_deaths,
    _set_receipt,
    _set_state,
    _set_enqueued_at,
) = _setters(Delivery)


def made_delivery(
    *,
    envelope: Envelope | Unreadable,
    queue: str,
    attempt: int,
    lost_leases: int,
    begun: Note | None,
    deaths: tuple[str, ...],
    receipt: object,
    state: bytes,
    enqueued_at: float,
) -> Delivery:
    """Return a delivery, as ``Delivery(…)`` does, in half the time."""
    made = _new(Delivery)
    _set_envelope(made, envelope)
    _set_queue(made, queue)
    _set_attempt(made, attempt)
    _set_lost_leases(made, lost_leases)
    _set_begun(made, begun)
    _set_deaths(made, deaths)
    _set_receipt(made, receipt)
    _set_state(made, state)
    _set_enqueued_at(made, enqueued_at)
    return made
