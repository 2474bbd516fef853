"""The coordinator: locks by name, each with an end."""

from __future__ import annotations

from uuid import uuid4

import attrs


@attrs.frozen
class _Held:
    holder: str
    receipt: str
    until: float


class Locks:
    """The locks of a store; the caller holds the store and passes the time."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}

    def take(self, name: str, *, holder: str, until: float, now: float) -> str | None:
        """Return a receipt for the lock *name*; ``None`` if another holder has it."""
        held = self._held.get(name)
        if held is not None and held.until > now and held.holder != holder:
            return None
        receipt = uuid4().hex
        self._held[name] = _Held(holder, receipt, until)
        return receipt

    def renew(self, name: str, receipt: str, *, until: float) -> bool:
        """Renew the lock *name*; return whether *receipt* held it."""
        held = self._held.get(name)
        if held is None or held.receipt != receipt:
            return False
        self._held[name] = attrs.evolve(held, until=until)
        return True

    def free(self, name: str, receipt: str) -> None:
        """Release the lock *name* if *receipt* holds it."""
        held = self._held.get(name)
        if held is not None and held.receipt == receipt:
            del self._held[name]
