"""Unique events: of one key, one event lives at a time."""

from __future__ import annotations

import msgspec

from relevo._dispatch.dispatched import Dispatched
from relevo._transport.route import Target
from relevo.errors import SessionError


class KeyClaim(msgspec.Struct, eq=False):
    """What one dispatch asks for with ``unique=``, and what came of it."""

    key: str
    within: float
    """Seconds for which the key stays taken, from the dispatch on."""

    is_decided: bool = False
    """Whether it is known; in a session not before the commit."""

    living: str | None = None
    """The id of the event that had the key; ``None`` if there was none."""

    def decide(self, living: str | None) -> None:
        """Record that the event with the id *living* has the key, or that the event of this dispatch was sent."""
        self.living, self.is_decided = living, True


class UniqueDispatched(Dispatched, frozen=True, kw_only=True):
    """The result of a dispatch with ``unique=``."""

    claim: KeyClaim

    @property
    def duplicate_of(self) -> str | None:
        if not self.claim.is_decided:
            raise SessionError(
                f'the unique key "{self.claim.key}" is checked when the session commits; read duplicate after the '
                f"commit; after a rollback nothing was sent"
            )
        return self.claim.living


def is_refused(result: Dispatched) -> bool:
    """Return whether it is known that the event was not sent, since another one has its key."""
    return isinstance(result, UniqueDispatched) and result.claim.living is not None


def dispatched(event_id: str, targets: tuple[Target, ...], claim: KeyClaim | None) -> Dispatched:
    """Return the result of a dispatch; that of one with a *claim* reads the result from there."""
    if claim is None:
        return Dispatched(id=event_id, targets=targets)
    return UniqueDispatched(id=event_id, targets=targets, claim=claim)
