"""Send packed events: a batch for each transport, or inside a session."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import attrs

from relevo._clock import moment
from relevo._dispatch.dispatcher import PackedEvent, check_options
from relevo._event.context import Ambient, ambient
from relevo._event.event import Event, declared
from relevo._hook import Hooks
from relevo._listener.call import DispatchOptions
from relevo._transport.envelope import Envelope
from relevo._transport.route import NOW, Target
from relevo._transport.transport import BoundSender
from relevo.errors import SendError, TransportError

Entry = tuple[int, PackedEvent, Mapping[str, Sequence[Target]]]
"""
An event that was checked, and its targets by their transport.

Before it the position, among those that were dispatched together, of the one that it is or that brought it about.
"""


@attrs.frozen(kw_only=True)
class TransportBatch:
    """What goes to one transport in one go."""

    transport: str
    wait: float
    """Seconds from now before which none is handled."""

    parts: list[tuple[int, PackedEvent, Sequence[Target]]] = attrs.field(factory=list)
    """Each event's position, itself, and its targets there."""

    envelopes: list[Envelope] = attrs.field(factory=list)
    """What :meth:`fill` made."""

    def fill(self) -> None:
        """Make the envelopes; if one cannot be made, there are none."""
        self.envelopes[:] = [each for _, packed, group in self.parts for each in packed.make(group)]

    @property
    def positions(self) -> list[int]:
        """Those of the envelopes' events."""
        return [position for position, _, group in self.parts for _ in group]


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


def check_without_packing(event_name: str, options: DispatchOptions, *, now: float) -> None:
    """Check the *options* of a dispatch that needs no envelope, as packing it would."""
    check_options(event_name, options)
    if (expires := options.get("expires")) is not None:
        moment(expires, now=now, what="the expires of a dispatch")


def send_batches(entries: Sequence[Entry], number: int, send: Callable[[TransportBatch], None]) -> None:
    """
    Send *entries*, those of each transport and delay in one call.

    Raises:
        SendError: Not every one is known to be safe; its positions are those in *entries*.

        TransportError: Nothing was sent.
    """
    batches = _batches(entries)
    for batch in batches:
        batch.fill()
    _one_by_one(batches, number, send)


def enlist(entries: Sequence[Entry], number: int, bound: Callable[[str], BoundSender]) -> None:
    """
    Have all *entries* written with a session's transaction; if one cannot be, none is.

    On a plain connection they are written now. So whoever is the first to be asked for envelopes makes all of
    them, also those of the other transports, and only then is anything written.

    Args:
        entries: What.

        number: So many were dispatched together.

        bound: From the name of a transport to what joins the session for it.

    Raises:
        SendError: Not every one was written; its positions are those in *entries*.
    """
    batches = _batches(entries)
    senders = {name: bound(name) for name in dict.fromkeys(batch.transport for batch in batches)}
    refused = filled = False

    def envelopes(batch: TransportBatch) -> Sequence[Envelope]:
        nonlocal filled
        if refused:
            return ()
        if not filled:
            for each in batches:
                each.fill()
            filled = True
        return batch.envelopes

    try:
        _one_by_one(
            batches,
            number,
            lambda batch: senders[batch.transport].send(partial(envelopes, batch), delay=batch.wait),
        )
    except BaseException:
        refused = True
        raise


def _batches(entries: Sequence[Entry]) -> list[TransportBatch]:
    batches: dict[tuple[str, float], TransportBatch] = {}
    for position, packed, groups in entries:
        for transport, group in groups.items():
            batch = batches.setdefault((transport, packed.wait), TransportBatch(transport=transport, wait=packed.wait))
            batch.parts.append((position, packed, group))
    return list(batches.values())


def _one_by_one(batches: Sequence[TransportBatch], number: int, send: Callable[[TransportBatch], None]) -> None:
    """Send *batches*; an error reports the fate of each event that was dispatched together."""
    fates: list[set[str]] = [set() for _ in range(number)]
    for done, batch in enumerate(batches):
        positions = batch.positions
        try:
            send(batch)
        except SendError as error:
            for fate in ("sent", "refused", "unknown"):
                for index in getattr(error, fate):
                    fates[positions[index]].add(fate)
            raise _send_error(batch.transport, fates, batches[done + 1 :], error.why) from error
        except TransportError as error:
            if done == 0:
                raise
            raise _send_error(batch.transport, fates, batches[done:], str(error)) from error
        for position in positions:
            fates[position].add("sent")


def _send_error(transport: str, fates: Sequence[set[str]], unsent: Iterable[TransportBatch], why: str) -> SendError:
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
