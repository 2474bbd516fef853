"""Bugs of locks, of announcements, of controls, and of what counts against limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import attrs

from relevo_conformance import promise
from relevo_memory import MemoryTransport
from relevo_memory._locks import KeptControls, KeptLimits, Locks, _Held

from .memory import BreakableStore
from .planting import planted


class Altered(Locks):
    """Locks with access to who holds each."""

    def holder_of(self, name: str) -> str | None:
        """Return the last holder of the lock *name*."""
        held = self._held.get(name)
        return None if held is None else held.holder

    def put(self, name: str, **changes: Any) -> None:
        """Change what is stored of the lock *name*, if it is held."""
        if name in self._held:
            self._held[name] = attrs.evolve(self._held[name], **changes)


def with_locks(locks: type[Locks]) -> Callable[[type[BreakableStore]], type[BreakableStore]]:
    """Let a store have *locks*."""

    def change(store: type[BreakableStore]) -> type[BreakableStore]:
        before = store.__init__

        def init(self: BreakableStore) -> None:
            before(self)
            self.locks = locks()

        store.__init__ = init  # type: ignore[method-assign]
        return store

    return change


# --- locks -----------------------------------------------------------------------------------------


class _OneReceipt(Altered):
    def take(self, name: str, *, holder: str, until: float, now: float) -> str | None:
        if super().take(name, holder=holder, until=until, now=now) is None:
            return None
        self.put(name, receipt=f"receipt of {holder}")
        return f"receipt of {holder}"


@planted(promise.LOCK_HAS_ONE_HOLDER, by_chance=False)
@with_locks(_OneReceipt)
class GivesEachHolderOneReceipt(BreakableStore):
    """All locks of one holder have the same receipt."""


@planted(promise.LOCK_IS_KEPT_BY_ITS_RECEIPT, by_chance=False)
class RenewsNoExpiredLock(MemoryTransport):
    """An expired lock is not renewed, although no other holder has taken it."""

    def renew_lock(self, name: str, receipt: str, *, ttl: float) -> bool:
        held = self.store.locks._held.get(name)
        return (held is None or held.until > self._clock.now()) and super().renew_lock(name, receipt, ttl=ttl)


@planted(promise.LOCK_IS_KEPT_BY_ITS_RECEIPT, by_chance=False)
class ReleasesNoExpiredLock(MemoryTransport):
    """An expired lock is not released, so its receipt still renews it."""

    def unlock(self, name: str, receipt: str) -> None:
        held = self.store.locks._held.get(name)
        if held is None or held.until > self._clock.now():
            super().unlock(name, receipt)


@planted(promise.LOCK_IS_KEPT_BY_ITS_RECEIPT, by_chance=False)
class RenewsALockThatAnotherTookMeanwhile(MemoryTransport):
    """A renewal compares the receipt in one step, and renews the lock by its name in the next one."""

    def renew_lock(self, name: str, receipt: str, *, ttl: float) -> bool:
        held = self.store.locks._held
        with self._open():
            if name not in held or held[name].receipt != receipt:
                return False
        with self._open() as now:
            held[name] = attrs.evolve(held[name], until=now + ttl)
            return True


@planted(promise.LOCK_HAS_ONE_HOLDER, by_chance=False)
class ReleasesALockThatAnotherTookMeanwhile(MemoryTransport):
    """A release compares the receipt in one step, and releases the lock by its name in the next one."""

    def unlock(self, name: str, receipt: str) -> None:
        held = self.store.locks._held
        with self._open():
            if name not in held or held[name].receipt != receipt:
                return
        with self._open():
            held.pop(name, None)


class _CutNames(Altered):
    def take(self, name: str, *, holder: str, until: float, now: float) -> str | None:
        return super().take(name[:250], holder=holder, until=until, now=now)

    def renew(self, name: str, receipt: str, *, until: float) -> bool:
        return super().renew(name[:250], receipt, until=until)

    def free(self, name: str, receipt: str) -> None:
        super().free(name[:250], receipt)


@planted(promise.LOCK_HAS_ONE_HOLDER, by_chance=False)
@with_locks(_CutNames)
class CutsTheNamesOfLocks(BreakableStore):
    """The name of a lock is truncated at 250 characters, so two long names are one lock."""


class _AlikeHolders(Altered):
    def take(self, name: str, *, holder: str, until: float, now: float) -> str | None:
        return super().take(name, holder=holder.casefold(), until=until, now=now)


@planted(promise.LOCK_HAS_ONE_HOLDER, by_chance=False)
@with_locks(_AlikeHolders)
class ComparesHoldersWithoutCase(BreakableStore):
    """Two holders whose names differ by case take over each other's locks."""


class _CutHolders(Altered):
    def take(self, name: str, *, holder: str, until: float, now: float) -> str | None:
        return super().take(name, holder=holder[:254], until=until, now=now)


@planted(promise.LOCK_HAS_ONE_HOLDER, by_chance=False)
@with_locks(_CutHolders)
class CutsTheNamesOfHolders(BreakableStore):
    """The name of a holder is truncated at 254 characters."""


class _OnlyLonger(Altered):
    def renew(self, name: str, receipt: str, *, until: float) -> bool:
        held = self._held.get(name)
        return super().renew(name, receipt, until=until if held is None else max(until, held.until))


@planted(promise.LOCK_IS_KEPT_BY_ITS_RECEIPT, by_chance=False, exactly=False)
@with_locks(_OnlyLonger)
class ShortensNoLock(BreakableStore):
    """A renewal does not shorten a lock."""


@planted(promise.LOCK_IS_KEPT_BY_ITS_RECEIPT, by_chance=False, exactly=False)
class RenewsFromTheEnd(MemoryTransport):
    """A renewal counts from the end of the lock, not from now."""

    def renew_lock(self, name: str, receipt: str, *, ttl: float) -> bool:
        held, now = self.store.locks._held.get(name), self._clock.now()
        later = 0.0 if held is None else max(0.0, held.until - now)
        return super().renew_lock(name, receipt, ttl=ttl + later)


class _AnyReceipt(Altered):
    def free(self, name: str, receipt: str) -> None:
        self._held.pop(name, None)


@planted(promise.LOCK_IS_KEPT_BY_ITS_RECEIPT, by_chance=False, exactly=False)
@with_locks(_AnyReceipt)
class ReleasesWithAnyReceipt(BreakableStore):
    """A lock is released by whichever receipt."""


class _SameReceipt(Altered):
    def take(self, name: str, *, holder: str, until: float, now: float) -> str | None:
        before = self._held.get(name)
        receipt = super().take(name, holder=holder, until=until, now=now)
        if receipt is None or before is None or before.holder != holder:
            return receipt
        self.put(name, receipt=before.receipt)
        return before.receipt


@planted(promise.LOCK_HAS_ONE_HOLDER, by_chance=False)
@with_locks(_SameReceipt)
class TakesOverWithTheOldReceipt(BreakableStore):
    """A holder that takes over its own lock gets the receipt that the lock had."""


class _RefusesTheSame(Altered):
    def take(self, name: str, *, holder: str, until: float, now: float) -> str | None:
        held = self._held.get(name)
        if held is not None and held.until > now:
            return None
        return super().take(name, holder=holder, until=until, now=now)


@planted(promise.LOCK_HAS_ONE_HOLDER, by_chance=False)
@with_locks(_RefusesTheSame)
class RefusesTheSameHolder(BreakableStore):
    """A holder whose earlier process is dead has to wait until its own lock has expired."""


class _KeepsTheTime(Altered):
    def take(self, name: str, *, holder: str, until: float, now: float) -> str | None:
        before = self._held.get(name)
        receipt = super().take(name, holder=holder, until=until, now=now)
        if receipt is not None and before is not None and before.holder == holder and before.until > now:
            self.put(name, until=before.until)
        return receipt


@planted(promise.LOCK_HAS_ONE_HOLDER, by_chance=False)
@with_locks(_KeepsTheTime)
class TakesOverForTheRestOfTheTime(BreakableStore):
    """A lock that its own holder takes over expires when it would have expired before."""


@planted(promise.LOCK_HAS_ONE_HOLDER, by_chance=False)
class WaitsForTheHolder(MemoryTransport):
    """A lock that another holder has is waited for."""

    def lock(self, name: str, *, holder: str, ttl: float) -> str | None:
        receipt = super().lock(name, holder=holder, ttl=ttl)
        if receipt is None:
            self._clock.sleep(1.0)
            receipt = super().lock(name, holder=holder, ttl=ttl)
        return receipt


@planted(promise.LOCK_HAS_ONE_HOLDER, by_chance=False)
class ReleasesItsLocksAtItsClose(MemoryTransport):
    """A transport that is closed releases the locks that it took."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.taken: dict[str, str] = {}

    def lock(self, name: str, *, holder: str, ttl: float) -> str | None:
        receipt = super().lock(name, holder=holder, ttl=ttl)
        self.taken |= {} if receipt is None else {name: receipt}
        return receipt

    def close(self) -> None:
        for name, receipt in self.taken.items():
            self.store.locks.free(name, receipt)
        super().close()


class _ComesBack(Altered):
    def __init__(self) -> None:
        super().__init__()
        self.before: dict[str, _Held] = {}

    def take(self, name: str, *, holder: str, until: float, now: float) -> str | None:
        before = self._held.get(name)
        receipt = super().take(name, holder=holder, until=until, now=now)
        if receipt is not None and before is not None and before.holder != holder:
            self.before[name] = before
        return receipt

    def free(self, name: str, receipt: str) -> None:
        super().free(name, receipt)
        if name not in self._held and name in self.before:
            self._held[name] = attrs.evolve(self.before.pop(name), until=0.0)


@planted(promise.LOCK_IS_KEPT_BY_ITS_RECEIPT, by_chance=False)
@with_locks(_ComesBack)
class RemembersTheHolderBefore(BreakableStore):
    """After another holder released a lock, the receipt of the one before renews it again."""


class _OfAnyLock(Altered):
    def renew(self, name: str, receipt: str, *, until: float) -> bool:
        places = [place for place, held in self._held.items() if held.receipt == receipt]
        return any(super(_OfAnyLock, self).renew(place, receipt, until=until) for place in places)


@planted(promise.LOCK_IS_KEPT_BY_ITS_RECEIPT, by_chance=False)
@with_locks(_OfAnyLock)
class RenewsByTheReceiptAlone(BreakableStore):
    """A renewal looks for the receipt only, and ignores the name of the lock."""


class _ForADay(Altered):
    def take(self, name: str, *, holder: str, until: float, now: float) -> str | None:
        return super().take(name, holder=holder, until=min(until, now + 86_400.0), now=now)


@planted(promise.LOCK_HAS_ONE_HOLDER, by_chance=False)
@with_locks(_ForADay)
class LocksForADayAtMost(BreakableStore):
    """A lock expires after a day, whatever lifetime it was given."""


@planted(promise.LOCK_HAS_ONE_HOLDER, by_chance=False)
class LooksBeforeItLocks(MemoryTransport):
    """Whether a lock is free is looked up in one step, and it is taken in another."""

    def lock(self, name: str, *, holder: str, ttl: float) -> str | None:
        with self._open() as now:
            held = self.store.locks._held.get(name)
        if held is not None and held.until > now and held.holder != holder:
            return None
        with self._open() as now:
            return self.store.locks.take(name, holder=holder, until=now + ttl, now=float("inf"))


# --- announcements ---------------------------------------------------------------------------------


@planted(promise.ANNOUNCED_IS_SEEN, by_chance=False)
class RemovesNoAnnouncement(MemoryTransport):
    """An announcement whose lifetime is not positive is ignored instead of removing the earlier one."""

    def announce(self, worker: str, about: bytes, *, ttl: float) -> None:
        self.workers()  # which refuses a closed transport
        if ttl > 0.0:
            super().announce(worker, about, ttl=ttl)


@planted(promise.ANNOUNCED_IS_SEEN, by_chance=False)
class TakesALifetimeBelowZeroForNone(MemoryTransport):
    """An announcement with a negative lifetime never expires."""

    def announce(self, worker: str, about: bytes, *, ttl: float) -> None:
        super().announce(worker, about, ttl=1e9 if ttl < 0.0 else ttl)


@planted(promise.ANNOUNCED_IS_SEEN, by_chance=False)
class KeepsTheLongerAnnouncement(BreakableStore):
    """An announcement does not replace one that expires later."""

    def announce(self, worker: str, about: bytes, *, until: float) -> None:
        before = self._announcements.get(worker)
        if before is None or until > before[1]:
            super().announce(worker, about, until=until)


@planted(promise.ANNOUNCED_IS_SEEN, by_chance=False)
class ReplacesTheTextAndKeepsTheTime(BreakableStore):
    """An announcement that replaces another expires when that one would have."""

    def announce(self, worker: str, about: bytes, *, until: float) -> None:
        before = self._announcements.get(worker)
        super().announce(worker, about, until=until if before is None else before[1])


@planted(promise.ANNOUNCED_IS_SEEN, by_chance=False)
class CutsAnnouncementsAt16Kibibytes(BreakableStore):
    """An announcement is truncated at 16 KiB."""

    def announce(self, worker: str, about: bytes, *, until: float) -> None:
        super().announce(worker, about[: 16 * 1024], until=until)


@planted(promise.ANNOUNCED_IS_SEEN, by_chance=False)
class HidesEmptyAnnouncements(BreakableStore):
    """An announcement without bytes is not shown."""

    def workers(self, now: float) -> dict[str, bytes]:
        return {who: about for who, about in super().workers(now).items() if about}


@planted(promise.ANNOUNCED_IS_SEEN, by_chance=False)
class CutsTheNamesOfWorkers(BreakableStore):
    """Workers that announce themselves are told apart by 63 digits only."""

    def announce(self, worker: str, about: bytes, *, until: float) -> None:
        super().announce(worker[:63], about, until=until)


@planted(promise.ANNOUNCED_IS_SEEN, by_chance=False)
class ShowsAPageOfAnnouncements(BreakableStore):
    """No more than 128 announcements are shown."""

    def workers(self, now: float) -> dict[str, bytes]:
        return dict([*super().workers(now).items()][:128])


@planted(promise.ANNOUNCED_IS_SEEN, by_chance=False)
class ShowsExpiredAnnouncements(BreakableStore):
    """An announcement is shown for an hour after it has expired."""

    def announce(self, worker: str, about: bytes, *, until: float) -> None:
        super().announce(worker, about, until=until + 3600.0)


@planted(promise.ANNOUNCED_IS_SEEN, by_chance=False)
class ShowsItsOwnAnnouncements(MemoryTransport):
    """A transport shows only what it announced itself."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.own: set[str] = set()

    def announce(self, worker: str, about: bytes, *, ttl: float) -> None:
        super().announce(worker, about, ttl=ttl)
        self.own.add(worker)

    def workers(self) -> Mapping[str, bytes]:
        return {who: about for who, about in super().workers().items() if who in self.own}


# --- controls --------------------------------------------------------------------------------------


def with_controls(controls: type[KeptControls]) -> Callable[[type[BreakableStore]], type[BreakableStore]]:
    """Let a store have *controls*."""

    def change(store: type[BreakableStore]) -> type[BreakableStore]:
        before = store.__init__

        def init(self: BreakableStore) -> None:
            before(self)
            self.controls = controls()

        store.__init__ = init  # type: ignore[method-assign]
        return store

    return change


class _Forgetful(KeptControls):
    def set(self, key: str, what: bytes, *, until: float, now: float) -> None:
        super().set(key, what, until=min(until, now + 86_400.0), now=now)


@planted(promise.CONTROL_IS_SEEN, by_chance=False)
@with_controls(_Forgetful)
class ControlsForADayAtMost(BreakableStore):
    """A control expires after a day, whatever lifetime it was given: a paused queue goes on overnight."""


class _Lasting(KeptControls):
    def set(self, key: str, what: bytes, *, until: float, now: float) -> None:
        if until > now:
            super().set(key, what, until=until, now=now)


@planted(promise.CONTROL_IS_SEEN, by_chance=False)
@with_controls(_Lasting)
class RemovesNoControl(BreakableStore):
    """A control whose lifetime is not positive is ignored instead of removing the earlier one."""


class _First(KeptControls):
    def set(self, key: str, what: bytes, *, until: float, now: float) -> None:
        super().set(key, self.at(now).get(key, what), until=until, now=now)


@planted(promise.CONTROL_IS_SEEN, by_chance=False)
@with_controls(_First)
class KeepsTheFirstControl(BreakableStore):
    """A control that replaces another has the text of that one."""


class _Short(KeptControls):
    def set(self, key: str, what: bytes, *, until: float, now: float) -> None:
        super().set(key[:39], what, until=until, now=now)


@planted(promise.CONTROL_IS_SEEN, by_chance=False)
@with_controls(_Short)
class CutsTheKeysOfControls(BreakableStore):
    """Controls are told apart by 39 digits only."""


class _Stale(KeptControls):
    def at(self, now: float) -> dict[str, bytes]:
        return super().at(now - 3600.0)


@planted(promise.CONTROL_IS_SEEN, by_chance=False)
@with_controls(_Stale)
class ShowsExpiredControls(BreakableStore):
    """A control is shown for an hour after it has expired."""


@planted(promise.CONTROL_IS_SEEN, by_chance=False)
class KeepsControlsInTheProcess(MemoryTransport):
    """A transport shows only the controls that it set itself."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.own: set[str] = set()

    def set_control(self, key: str, what: bytes, *, ttl: float) -> None:
        super().set_control(key, what, ttl=ttl)
        self.own.add(key)

    def controls(self) -> Mapping[str, bytes]:
        return {key: what for key, what in super().controls().items() if key in self.own}


@planted(promise.CONTROL_IS_SEEN, by_chance=False)
class AnnouncesItsControls(MemoryTransport):
    """Controls and announcements of workers are one table with one key."""

    def set_control(self, key: str, what: bytes, *, ttl: float) -> None:
        self.announce(key, what, ttl=ttl)

    def controls(self) -> Mapping[str, bytes]:
        return self.workers()


# --- limits ----------------------------------------------------------------------------------------

Change = Callable[[bytes, float], bytes]


def with_limits(limits: type[KeptLimits]) -> Callable[[type[BreakableStore]], type[BreakableStore]]:
    """Let a store have *limits*."""

    def change(store: type[BreakableStore]) -> type[BreakableStore]:
        before = store.__init__

        def init(self: BreakableStore) -> None:
            before(self)
            self.limits = limits()

        store.__init__ = init  # type: ignore[method-assign]
        return store

    return change


@planted(promise.LIMIT_IS_COUNTED_ONCE, by_chance=False)
class ChangesOutsideTheLock(MemoryTransport):
    """What is stored against a limit is read, changed, and written in another step."""

    def change_limit(self, key: str, change: Change, *, ttl: float) -> None:
        with self._open() as now:
            before, until = self.store.limits._kept.get(key, (b"", now))
        after = change(before if until > now else b"", now)
        super().change_limit(key, lambda *_: after, ttl=ttl)


class _Late(KeptLimits):
    def change(self, key: str, change: Change, *, until: float, now: float) -> None:
        super().change(key, change, until=until + 3600.0, now=now)


@planted(promise.LIMIT_IS_COUNTED_ONCE, by_chance=False)
@with_limits(_Late)
class CountsWhatHasExpired(BreakableStore):
    """What counts against a limit does so for an hour after it has expired."""


class _Emptied(KeptLimits):
    def change(self, key: str, change: Change, *, until: float, now: float) -> None:
        try:
            super().change(key, change, until=until, now=now)
        except Exception:
            super().change(key, lambda *_: b"", until=until, now=now)
            raise


@planted(promise.LIMIT_IS_COUNTED_ONCE, by_chance=False)
@with_limits(_Emptied)
class EmptiesALimitAfterAnError(BreakableStore):
    """A change that raises an error leaves nothing of what was stored."""


class _Swallowing(KeptLimits):
    def change(self, key: str, change: Change, *, until: float, now: float) -> None:
        with suppress(Exception):
            super().change(key, change, until=until, now=now)


@planted(promise.LIMIT_IS_COUNTED_ONCE, by_chance=False)
@with_limits(_Swallowing)
class SwallowsTheErrorOfAChange(BreakableStore):
    """The error of a change is not raised to its caller."""


class _Unmoved(KeptLimits):
    def change(self, key: str, change: Change, *, until: float, now: float) -> None:
        _, earlier = self._kept.get(key, (b"", 0.0))
        super().change(key, change, until=earlier if earlier > now else until, now=now)


@planted(promise.LIMIT_IS_COUNTED_ONCE, by_chance=False)
@with_limits(_Unmoved)
class CountsForTheFirstLifetime(BreakableStore):
    """A change does not alter when what is stored against a limit expires."""


class _Kept(KeptLimits):
    def change(self, key: str, change: Change, *, until: float, now: float) -> None:
        super().change(key, lambda before, at: change(before, at) or before, until=until, now=now)


@planted(promise.LIMIT_IS_COUNTED_ONCE, by_chance=False)
@with_limits(_Kept)
class RemovesNoLimit(BreakableStore):
    """Empty bytes do not remove what is stored against a limit."""


class _Cut(KeptLimits):
    def change(self, key: str, change: Change, *, until: float, now: float) -> None:
        super().change(key[:39], change, until=until, now=now)


@planted(promise.LIMIT_IS_COUNTED_ONCE, by_chance=False)
@with_limits(_Cut)
class CutsTheKeysOfLimits(BreakableStore):
    """What counts against limits is told apart by 39 digits only."""


@planted(promise.LIMIT_IS_COUNTED_ONCE, by_chance=False)
class CountsByTheTimeSinceItsStart(MemoryTransport):
    """A change gets the seconds since the transport was opened instead of the time that all callers share."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.began = self._clock.now()

    def change_limit(self, key: str, change: Change, *, ttl: float) -> None:
        super().change_limit(key, lambda before, now: change(before, now - self.began), ttl=ttl)


@planted(promise.LIMIT_IS_COUNTED_ONCE, by_chance=False)
class CountsInTheProcess(MemoryTransport):
    """What counts against a limit is kept by each transport for itself."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.own = KeptLimits()

    def change_limit(self, key: str, change: Change, *, ttl: float) -> None:
        with self._open() as now:
            self.own.change(key, change, until=now + ttl, now=now)
