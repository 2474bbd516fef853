"""The coordinator: locks by name, up to when schedules have fired, what operators ask for, and counts of limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from uuid import uuid4

import attrs

from relevo.backend import Firing


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


class FiredSchedules:
    """Up to when the schedules of a store have fired; the caller holds the store."""

    def __init__(self) -> None:
        self._fired: dict[str, int] = {}

    def of(self, names: Iterable[str]) -> dict[str, int]:
        """Return up to when each of *names* has fired, without those that were never stored."""
        return {name: self._fired[name] for name in names if name in self._fired}

    def advance(self, firings: Iterable[Firing]) -> list[Firing]:
        """Store the new times; return the firings whose schedules had fired up to the time that they expect."""
        stored = [each for each in firings if self._fired.get(each.name) == each.fired]
        self._fired.update((each.name, each.until) for each in stored)
        return stored


class KeptControls:
    """The controls of a store, each with an end; the caller holds the store and passes the time."""

    def __init__(self) -> None:
        self._set: dict[str, tuple[bytes, float]] = {}

    def set(self, key: str, what: bytes, *, until: float, now: float) -> None:
        """Store the control *key* in place of the earlier one."""
        self._set[key] = what, until
        self.at(now)

    def at(self, now: float) -> dict[str, bytes]:
        """Return the controls that have not expired, and forget the others: the clock may be set back."""
        self._set = {key: entry for key, entry in self._set.items() if entry[1] > now}
        return {key: what for key, (what, _) in self._set.items()}


class KeptLimits:
    """What counts against limits in a store, each value with an end; the caller holds the store and passes the time."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[bytes, float]] = {}

    def change(self, key: str, change: Callable[[bytes, float], bytes], *, until: float, now: float) -> None:
        """Replace the value of *key* by what *change* returns, and forget what has expired, as controls are."""
        self._kept = {each: entry for each, entry in self._kept.items() if entry[1] > now}
        before, _ = self._kept.get(key, (b"", now))
        after = change(before, now)
        if after:
            self._kept[key] = after, until
        else:
            self._kept.pop(key, None)
