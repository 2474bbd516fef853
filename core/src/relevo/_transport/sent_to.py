"""The targets that a dispatch chose, in a header of its envelopes, so that each listener runs once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from relevo._transport.envelope import Envelope
from relevo._transport.route import NOW, Target
from relevo.errors import DecodeError, shown

HEADER = "relevo-to"

_FIRST, _OTHER = "first", "other"


class SentTo(msgspec.Struct, frozen=True):
    """
    The targets that a dispatch chose, as far as a worker needs to know them.

    Queues alone are named, since another application may call the same transport differently. Which of its queues the
    event was sent to is not known there, so none of its listeners is left out.
    """

    is_first: bool
    """Whether this is the envelope of the first target, where listeners without a queue run."""

    others: tuple[str, ...] | None = None
    """In the envelope of the first target: the queues of the other ones, ``now`` too; ``None`` if not known."""

    def first_queue(self, queue: str) -> str:
        """Return *queue*, where the envelope was received, if listeners without a queue run there; else nothing."""
        return queue if self.is_first else ""

    def leaves_out(self, listener_queue: str | None, queue: str) -> bool:
        """
        Return whether a listener in *listener_queue* is in none of the queues that the event was sent to.

        Only the envelope of the first target says so, which was received from *queue*. A listener without a queue is
        never left out.
        """
        return self.others is not None and listener_queue not in (None, queue, *self.others)


def headers_for(targets: Sequence[Target]) -> Mapping[Target, Mapping[str, str]]:
    """Return for each of *targets*, which a dispatch chose, the headers of its envelope."""
    others = dict.fromkeys(NOW if each.transport == NOW else each.queue for each in targets[1:])
    first = " ".join((_FIRST, *others))
    return {each: {HEADER: _OTHER if number else first} for number, each in enumerate(targets)}


def sent_to(envelope: Envelope, *, source: str) -> SentTo | None:
    """
    Return what *envelope* says of its targets; ``None`` if the route of its name says where listeners run.

    Args:
        envelope: As it was received.

        source: The name of the application that received it. In an event of another one the first target may be that
            of the other's listeners, so the route decides in the envelopes of the later targets.

    Raises:
        DecodeError: It says something that this release does not write.
    """
    said = envelope.headers.get(HEADER)
    if said is None:
        return None
    place, *others = said.split(" ")
    if place == _FIRST:
        return SentTo(is_first=True, others=tuple(others) if envelope.source == source else None)
    if said != _OTHER:
        raise DecodeError(f"its header {HEADER} is malformed: {shown(said)}")
    return SentTo(is_first=False) if envelope.source == source else None
