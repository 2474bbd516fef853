"""Sending what was checked: a batch for each transport, or inside a session."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from relevo._call import Terms
from relevo._clock import moment
from relevo._context import Ambient, ambient
from relevo._dispatcher import Parcel, check_terms
from relevo._envelope import Envelope
from relevo._event import Event, declared
from relevo._hook import Hooks
from relevo._route import NOW, Target
from relevo._transport import BoundSender
from relevo.errors import SendError, TransportError

Entry = tuple[Parcel, Mapping[str, Sequence[Target]]]
"""An event that was checked, and its targets by their transport."""


@attrs.frozen(kw_only=True)
class Batch:
    """What goes to one transport in one go."""

    transport: str
    wait: float
    """Seconds from now before which none is handled."""

    envelopes: list[Envelope] = attrs.field(factory=list)
    positions: list[int] = attrs.field(factory=list)
    """Of each envelope's event among those that were dispatched together."""


def by_transport(targets: Iterable[Target]) -> Mapping[str, Sequence[Target]]:
    """Return *targets* by their transport, in order, without those that are called at once."""
    groups: dict[str, list[Target]] = {}
    for target in targets:
        if target.transport != NOW:
            groups.setdefault(target.transport, []).append(target)
    return groups


def carried(event: object, hooks: Hooks, event_id: str) -> Ambient:
    """
    Return what is carried along to the listeners of *event* that are called at once: as to those that come later.

    Args:
        event: As it was dispatched.

        hooks: Plugins that add to the context.

        event_id: Its id; empty if it has none, since it is written nowhere.
    """
    own = event.arguments if isinstance(event, Event) else declared(type(event)).fields
    around = ambient()
    context = {**hooks.enrichment(event), **around.context}
    return Ambient(
        {key: each for key, each in context.items() if key not in own},
        around.correlation or event_id or None,
        event_id or around.causation,
    )


def check_without_packing(event_name: str, terms: Terms, *, now: float) -> None:
    """Check the *terms* of a dispatch that needs no envelope, as packing it would."""
    check_terms(event_name, terms)
    if (expires := terms.get("expires")) is not None:
        moment(expires, now=now, what="the expires of a dispatch")


def send_batches(entries: Sequence[Entry], send: Callable[[Batch], None]) -> None:
    """
    Send *entries*, those of each transport and delay together.

    Raises:
        SendError: Not every one is known to be safe; its positions are those of *entries*.

        TransportError: Nothing was sent.
    """
    batches: dict[tuple[str, float], Batch] = {}
    for position, (parcel, groups) in enumerate(entries):
        for transport, group in groups.items():
            batch = batches.setdefault((transport, parcel.wait), Batch(transport=transport, wait=parcel.wait))
            made = parcel.make(group)
            batch.envelopes.extend(made)
            batch.positions.extend([position] * len(made))
    fates: list[set[str]] = [set() for _ in entries]
    left = list(batches.values())
    while left:
        batch = left[0]
        try:
            send(batch)
        except SendError as error:
            for fate in ("sent", "refused", "unknown"):
                for index in getattr(error, fate):
                    fates[batch.positions[index]].add(fate)
            raise _told(batch.transport, fates, left[1:], error.why) from error
        except TransportError as error:
            if len(left) == len(batches):
                raise
            raise _told(batch.transport, fates, left, str(error)) from error
        for position in batch.positions:
            fates[position].add("sent")
        del left[0]


def _told(transport: str, fates: Sequence[set[str]], unsent: Iterable[Batch], why: str) -> SendError:
    """Return the error that says of each event what became of it; one that arrived in part is unknown."""
    for batch in unsent:
        for position in batch.positions:
            fates[position].add("refused")
    known = {"sent", "refused"}
    return SendError(
        transport,
        sent=[position for position, fate in enumerate(fates) if fate == {"sent"} or not fate],
        refused=[position for position, fate in enumerate(fates) if fate == {"refused"}],
        unknown=[position for position, fate in enumerate(fates) if "unknown" in fate or fate >= known],
        why=why,
    )


def enlist(entries: Sequence[Entry], bound: Callable[[str], BoundSender]) -> None:
    """
    Have all *entries* written with a session's transaction; if one cannot be, none is.

    Args:
        entries: What.

        bound: From the name of a transport to what joins the session for it.
    """
    senders = [(bound(name), parcel, group) for parcel, groups in entries for name, group in groups.items()]
    refused = False

    def maker(parcel: Parcel, group: Sequence[Target]) -> Callable[[], Sequence[Envelope]]:
        return lambda: () if refused else parcel.make(group)

    try:
        for sender, parcel, group in senders:
            sender.send(maker(parcel, group), delay=parcel.wait)
    except BaseException:
        refused = True
        raise
