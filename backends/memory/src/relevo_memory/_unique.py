"""The keys of unique events."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from relevo import Envelope


@attrs.define(eq=False)
class PostedClaim:
    """What the sender of an event asks for with a unique key."""

    key: str
    within: float
    """Seconds from its sending for which the key stays taken."""

    decided: Callable[[str | None], object]
    """Called with the id of the event that has the key; with ``None`` if that is the event of the claim now."""

    granted: bool | None = None
    """Whether it is; ``None`` until it is decided."""


@attrs.frozen
class _Holder:
    event_id: str
    until: float


class UniqueKeys:
    """
    Which event of each application has which key.

    Args:
        lives: Takes the source and the id of an event, and returns whether a copy of it is in the store.
    """

    def __init__(self, lives: Callable[[str, str], bool]) -> None:
        self._lives = lives
        self._holders: dict[tuple[str, str], _Holder] = {}
        self._sweep_at = 64

    def grants(self, claim: PostedClaim, envelope: Envelope, now: float) -> bool:
        """Return whether *envelope* has the key of its *claim*, which is given to it unless another event has it."""
        if claim.granted is None:
            self._decide(claim, envelope, now)
        return claim.granted is True

    def _decide(self, claim: PostedClaim, envelope: Envelope, now: float) -> None:
        at = envelope.source, claim.key
        holder = self._holders.get(at)
        if holder is None or not self._has_its_key(at, holder, now):
            self._sweep(now)  # before: the event is not in the store yet
            self._holders[at] = _Holder(envelope.id, now + max(0.0, claim.within))
            holder = None
        elif holder.event_id == envelope.id and self._lives(at[0], envelope.id):
            holder = None  # it is sent again
        claim.granted = holder is None
        claim.decided(None if holder is None else holder.event_id)

    def _has_its_key(self, at: tuple[str, str], holder: _Holder, now: float) -> bool:
        return now < holder.until or self._lives(at[0], holder.event_id)

    def _sweep(self, now: float) -> None:
        """Forget the keys that no event has, each time that twice as many are stored."""
        if len(self._holders) >= self._sweep_at:
            self._holders = {at: each for at, each in self._holders.items() if self._has_its_key(at, each, now)}
            self._sweep_at = max(64, 2 * len(self._holders))
