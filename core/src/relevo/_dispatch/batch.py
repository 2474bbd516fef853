"""Send packed events: a batch for each transport and delay, or inside a session."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from relevo._dispatch.packer import PackedEvent, Packer
from relevo._hook import Hooks, observed
from relevo._transport.envelope import Envelope
from relevo._transport.route import Target
from relevo._transport.transport import BoundSender, Transport
from relevo.errors import SendError, TransportError

Groups = Mapping[str, Sequence[Target]]
"""Targets by transport."""


class TransportBatch:
    """
    The events that go to one transport with one delay, and their envelopes.

    Args:
        transport: Its name.

        wait: Seconds from now before which none is handled.
    """

    __slots__ = ("envelopes", "parts", "positions", "transport", "wait")

    def __init__(self, transport: str, wait: float):
        self.transport = transport
        self.wait = wait
        self.parts: list[tuple[PackedEvent, Sequence[Target]]] = []
        self.positions: list[int] = []
        """For each envelope the index of its event in the dispatch."""
        self.envelopes: list[Envelope] = []

    def fill(self, packer: Packer) -> None:
        """Make the envelopes: all, or none if one cannot be made."""
        made: list[Envelope] = []
        for packed, targets in self.parts:
            made += packer.envelopes(packed, targets)
        self.envelopes = made


class Batches:
    """
    The events of one dispatch by transport and delay, in order.

    Args:
        number: The number of events in the dispatch. Positions are indexes of these events; an event that a listener
            dispatches has the position of the event that the listener was called with.
    """

    __slots__ = ("_batches", "_number")

    def __init__(self, number: int):
        self._number = number
        self._batches: dict[tuple[str, float], TransportBatch] = {}

    def add(self, packed: PackedEvent, groups: Groups, position: int) -> None:
        """Add *packed* for the targets in *groups*."""
        wait = packed.conditions.wait
        for transport, targets in groups.items():
            batch = self._batches.get((transport, wait))
            if batch is None:
                batch = self._batches[transport, wait] = TransportBatch(transport, wait)
            batch.parts.append((packed, targets))
            batch.positions += [position] * len(targets)

    def send(self, packer: Packer, send: Callable[[TransportBatch], None]) -> None:
        """
        Send all batches, each in one call.

        Raises:
            SendError: Not every event is known to be safe; it holds the positions.

            TransportError: Nothing was sent.
        """
        for batch in self._batches.values():
            batch.fill(packer)
        self._send_each(send)

    def enlist(self, packer: Packer, bound: Callable[[str], BoundSender]) -> None:
        """
        Write all events in a session's transaction: all, or none if one cannot be written.

        On a plain connection they are written now. So the first batch whose envelopes are needed makes those of all
        batches, including other transports, before anything is written.

        Args:
            packer: Makes the envelopes.

            bound: Takes the name of a transport, returns a sender that has joined the session for it.

        Raises:
            SendError: Not every event was written; it holds the positions.
        """
        batches = self._batches.values()
        senders = {name: bound(name) for name in dict.fromkeys(batch.transport for batch in batches)}
        refused = filled = False

        def envelopes(batch: TransportBatch) -> Sequence[Envelope]:
            nonlocal filled
            if refused:
                return ()
            if not filled:
                for each in batches:
                    each.fill(packer)
                filled = True
            return batch.envelopes

        try:
            self._send_each(lambda batch: senders[batch.transport].send(partial(envelopes, batch), delay=batch.wait))
        except BaseException:
            refused = True
            raise

    def _send_each(self, send: Callable[[TransportBatch], None]) -> None:
        """Send every batch; an error reports the result for each event of the dispatch."""
        done: list[TransportBatch] = []
        for batch in self._batches.values():
            try:
                send(batch)
            except SendError as error:
                raise self._send_error(batch, done, error, error.why) from error
            except TransportError as error:
                if not done:
                    raise
                none = SendError(batch.transport, refused=range(len(batch.positions)), why=str(error))
                raise self._send_error(batch, done, none, str(error)) from error
            done.append(batch)

    def _send_error(
        self, failed: TransportBatch, done: Iterable[TransportBatch], error: SendError, why: str
    ) -> SendError:
        """Return the error with the result for each event; one that only some targets got is unknown."""
        fates: list[set[str]] = [set() for _ in range(self._number)]
        for batch in self._batches.values():
            if batch is not failed:
                fate = "sent" if any(batch is each for each in done) else "refused"
                for position in batch.positions:
                    fates[position].add(fate)
        for fate in ("sent", "refused", "unknown"):
            for index in getattr(error, fate):
                fates[failed.positions[index]].add(fate)
        known = {"sent", "refused"}
        return SendError(
            failed.transport,
            sent=[position for position, fate in enumerate(fates) if fate == {"sent"} or not fate],
            refused=[position for position, fate in enumerate(fates) if fate == {"refused"}],
            unknown=[position for position, fate in enumerate(fates) if "unknown" in fate or fate >= known],
            why=why,
        )


def send_envelopes(transport: Transport, envelopes: Sequence[Envelope], *, delay: float, hooks: Hooks) -> None:
    """Send *envelopes* inside the observing hooks."""
    observers = hooks.observers("relevo_around_send")
    if not observers:
        transport.send(envelopes, delay=delay)
        return
    with observed(observers, transport=transport.name, envelopes=envelopes):
        transport.send(envelopes, delay=delay)
