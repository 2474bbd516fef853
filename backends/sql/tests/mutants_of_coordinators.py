"""Bugs of locks, of announcements, and of what counts against limits."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from relevo_conformance import promise
from relevo_sql._limits import LimitRows
from relevo_sql._locks import Locks, exactly
from relevo_sql._schema import lock

from .planting import Patches, planted, reworded

ITS_RECEIPT = "relevo_lock.receipt = ?"
ANY_RECEIPT = "? IS NOT NULL"


@planted(promise.LOCK_HAS_ONE_HOLDER, "A lock is taken although another holder has it.", by_chance=False)
def takes_every_lock() -> Patches:
    return reworded(["lock"], ("relevo_lock.until <= ?", "0 < ?"))


@planted(
    promise.LOCK_IS_KEPT_BY_ITS_RECEIPT,
    "A holder that takes its lock over leaves the old receipt valid.",
    by_chance=False,
)
def keeps_the_receipt_at_a_takeover() -> Patches:
    return reworded(["lock"], ("receipt=?", "receipt=coalesce(relevo_lock.receipt, ?)"))


@planted(promise.LOCK_IS_KEPT_BY_ITS_RECEIPT, "A lock is renewed with any receipt.", by_chance=False)
def renews_with_any_receipt() -> Patches:
    return reworded(["renew_lock"], (ITS_RECEIPT, ANY_RECEIPT))


@planted(promise.LOCK_IS_KEPT_BY_ITS_RECEIPT, "A lock is released with any receipt.", by_chance=False, exactly=False)
def releases_with_any_receipt() -> Patches:
    return reworded(["unlock"], (ITS_RECEIPT, ANY_RECEIPT))


@planted(promise.LOCK_IS_KEPT_BY_ITS_RECEIPT, "A renewal does not shorten a lock.", by_chance=False, exactly=False)
def shortens_no_lock() -> Patches:
    return reworded(["renew_lock"], ("until=?", "until=max(relevo_lock.until, ?)"))


@planted(
    promise.LOCK_HAS_ONE_HOLDER, "Holders whose names differ by case take over each other's locks.", by_chance=False
)
def compares_holders_without_case() -> Patches:
    return reworded(["lock"], ("relevo_lock.holder = ?", "relevo_lock.holder = ? COLLATE NOCASE"))


@planted(promise.LOCK_IS_KEPT_BY_ITS_RECEIPT, "Whoever takes a lock removes all that have expired.", by_chance=False)
def removes_expired_locks() -> Patches:
    take = Locks.take

    def sweep_and_take(self: Locks, name: str, *, holder: str, ttl: float) -> str | None:
        def sweep(connection: sa.Connection) -> object:
            return connection.execute(sa.delete(lock).where(lock.c.until <= self._now(connection)))

        self._database.write(sweep)
        return take(self, name, holder=holder, ttl=ttl)

    return {(Locks, "take"): sweep_and_take}


@planted(
    promise.LOCK_HAS_ONE_HOLDER,
    "Whether a lock is free is read in one transaction, and it is taken in another.",
    by_chance=False,
)
def looks_before_it_locks() -> Patches:
    take = Locks.take

    def look_and_take(self: Locks, name: str, *, holder: str, ttl: float) -> str | None:
        def look(connection: sa.Connection) -> bool:
            is_held = sa.select(lock.c.name).where(lock.c.name == exactly(name), lock.c.until > self._now(connection))
            return connection.execute(is_held.where(lock.c.holder != exactly(holder))).first() is None

        def free(connection: sa.Connection) -> object:
            return connection.execute(sa.delete(lock).where(lock.c.name == exactly(name)))

        if not self._database.write(look):
            return None
        self._database.write(free)
        return take(self, name, holder=holder, ttl=ttl)

    return {(Locks, "take"): look_and_take}


@planted(
    promise.ANNOUNCED_IS_SEEN,
    "An announcement does not expire before the one that it replaces would have.",
    by_chance=False,
)
def keeps_the_longer_announcement() -> Patches:
    return reworded(["announce"], ("until=?", "until=max(relevo_announcement.until, ?)"))


@planted(promise.ANNOUNCED_IS_SEEN, "An announcement replaces the time of the earlier one only.", by_chance=False)
def keeps_the_first_announcement() -> Patches:
    return reworded(["announce"], ("about=?", "about=coalesce(relevo_announcement.about, ?)"))


@planted(promise.ANNOUNCED_IS_SEEN, "Expired announcements are shown until another one is made.", by_chance=False)
def shows_expired_announcements() -> Patches:
    return reworded(["announcements"], ("until > ?", "until > ? - 3600000000000"))


@planted(
    promise.ANNOUNCED_IS_SEEN,
    "What deletes expired announcements deletes those that expire within a minute, too.",
    by_chance=False,
)
def forgets_announcements_early() -> Patches:
    return reworded(["forget_announcements"], ("until <= ?", "until <= ? + 61000000"))


@planted(
    promise.LIMIT_IS_COUNTED_ONCE, "A change of a limit replaces what others have stored meanwhile.", by_chance=False
)
def replaces_what_was_changed() -> Patches:
    any_row = ("relevo_announcement.until = ?", "? IS NOT NULL"), ("relevo_announcement.about = ?", "? IS NOT NULL")
    return reworded(["change_limit"], *any_row)


@planted(
    promise.LIMIT_IS_COUNTED_ONCE, "Whether the first change of a limit was stored is not looked at.", by_chance=False
)
def loses_first_changes() -> Patches:
    inserts = LimitRows._inserts

    def always(self: LimitRows, which: str, kept: dict[str, Any]) -> bool:
        return inserts(self, which, kept) or True

    return {(LimitRows, "_inserts"): always}


@planted(promise.LIMIT_IS_COUNTED_ONCE, "What counts against limits is shown as workers.", by_chance=False)
def shows_limits_as_workers() -> Patches:
    end = "AND relevo_announcement.worker NOT LIKE ?"
    return reworded(["announcements"], (f"{end} {end}", f"{end} {end.replace('NOT LIKE', 'IS NOT')}"))
