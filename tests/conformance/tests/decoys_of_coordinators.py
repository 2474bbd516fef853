"""Unusual but correct coordinators: locks and announcements that are stored, timed or named in another way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType

import attrs

from relevo_memory import MemoryTransport
from relevo_memory._locks import Locks

from .decoy import decoy
from .memory import BreakableStore


@attrs.frozen
class Entry:
    """A line of a log of locks: who took one, renewed or released it."""

    name: str
    holder: str
    number: int
    """Of the line with which it was taken."""

    until: float | None
    """``None`` if it was released."""


class LoggedLocks(Locks):
    """Locks whose calls are written one after another; the last line of a lock tells who has it."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Entry] = []

    def last(self, name: str) -> Entry | None:
        """Return the last line of the lock *name*, if it was not released."""
        line = next((one for one in reversed(self.log) if one.name == name), None)
        return None if line is None or line.until is None else line

    def take(self, name: str, *, holder: str, until: float, now: float) -> str | None:
        line = self.last(name)
        if line is not None and line.until is not None and line.until > now and line.holder != holder:
            return None
        number = len(self.log)
        self.log.append(Entry(name, holder, number, until))
        return str(number)

    def renew(self, name: str, receipt: str, *, until: float) -> bool:
        line = self.last(name)
        if line is None or str(line.number) != receipt:
            return False
        self.log.append(attrs.evolve(line, until=until))
        return True

    def free(self, name: str, receipt: str) -> None:
        line = self.last(name)
        if line is not None and str(line.number) == receipt:
            self.log.append(attrs.evolve(line, until=None))


@decoy
class WritesALogOfItsLocks(BreakableStore):
    """Locks are lines of a log, and a receipt is the number of one, as a text."""

    def __init__(self) -> None:
        super().__init__()
        self.locks = LoggedLocks()


@decoy
class HoldsLocksForAMomentLonger(MemoryTransport):
    """A lock and an announcement last a thousandth of a second longer, as where times are rounded up."""

    def lock(self, name: str, *, holder: str, ttl: float) -> str | None:
        return super().lock(name, holder=holder, ttl=ttl + 0.001)

    def renew_lock(self, name: str, receipt: str, *, ttl: float) -> bool:
        return super().renew_lock(name, receipt, ttl=ttl + 0.001)

    def announce(self, worker: str, about: bytes, *, ttl: float) -> None:
        super().announce(worker, about, ttl=ttl + 0.001 if ttl > 0.0 else ttl)

    def set_control(self, key: str, what: bytes, *, ttl: float) -> None:
        super().set_control(key, what, ttl=ttl + 0.001 if ttl > 0.0 else ttl)

    def change_limit(self, key: str, change: Callable[[bytes, float], bytes], *, ttl: float) -> None:
        super().change_limit(key, change, ttl=ttl + 0.001)


class NamedReceipts(Locks):
    """Locks whose receipts are long texts with the name of the lock and of the holder."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count()

    def take(self, name: str, *, holder: str, until: float, now: float) -> str | None:
        if super().take(name, holder=holder, until=until, now=now) is None:
            return None
        receipt = f"{holder} has {name} for the {next(self._numbers)}. time "
        self._held[name] = attrs.evolve(self._held[name], receipt=receipt)
        return receipt


@decoy
class TellsAReceiptInWords(BreakableStore):
    """A receipt names the lock and its holder, and ends with a space; announcements are listed backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.locks = NamedReceipts()

    def workers(self, now: float) -> dict[str, bytes]:
        return dict(sorted(super().workers(now).items(), reverse=True))


@decoy
class ShowsAnnouncementsOfOthers(MemoryTransport):
    """Other applications on the same store announce their workers, too; the answer is a view that cannot be changed."""

    def workers(self) -> Mapping[str, bytes]:
        return MappingProxyType({"ffff" * 16: b"another application", **super().workers()})


class _OvertakenError(Exception):
    """Raised by a change that is made again."""


@decoy
class ChangesEachLimitTwice(MemoryTransport):
    """A change is overtaken each time by one that alters nothing, so it is made again."""

    def change_limit(self, key: str, change: Callable[[bytes, float], bytes], *, ttl: float) -> None:
        def overtaken(before: bytes, now: float) -> bytes:
            change(before, now)
            raise _OvertakenError

        with suppress(_OvertakenError):
            super().change_limit(key, overtaken, ttl=ttl)
        super().change_limit(key, change, ttl=ttl)
