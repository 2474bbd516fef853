"""Scenes of locks: each result must fit one order of the calls."""

from __future__ import annotations

from relevo_conformance import history, promise

from .scene import scene
from .script import Script

TTL = 60.0
RENEWED = history.RenewLock(name="drain", receipt="r1", ttl=TTL)
UNLOCKED = history.Unlock(name="drain", receipt="r1")


def lock(holder: str = "one", ttl: float = TTL) -> history.Lock:
    return history.Lock(name="drain", holder=holder, ttl=ttl)


def locked(script: Script, receipt: str | None, holder: str = "one", ttl: float = TTL) -> None:
    script.call(lock(holder, ttl), history.Locked(receipt), worker=holder)


@scene(promise.LOCK_HAS_ONE_HOLDER)
def a_second_holder_gets_a_lock(*, honest: bool) -> Script:
    script = Script()
    locked(script, "r1")
    script.wait(TTL - 1.0)
    locked(script, None if honest else "r2", "other")
    return script


@scene(promise.LOCK_HAS_ONE_HOLDER)
def a_lock_is_refused_that_has_expired(*, honest: bool) -> Script:
    script = Script()
    locked(script, "r1")
    script.wait(TTL + 1.0)
    locked(script, "r2" if honest else None, "other")
    return script


@scene(promise.LOCK_HAS_ONE_HOLDER)
def a_lock_is_refused_that_was_released(*, honest: bool) -> Script:
    script = Script()
    locked(script, "r1")
    script.call(UNLOCKED)
    locked(script, "r2" if honest else None, "other")
    return script


@scene(promise.LOCK_HAS_ONE_HOLDER)
def the_same_holder_is_refused(*, honest: bool) -> Script:
    script = Script()
    locked(script, "r1")
    locked(script, "r2" if honest else None)
    return script


@scene(promise.LOCK_HAS_ONE_HOLDER)
def two_locks_have_one_receipt(*, honest: bool) -> Script:
    script = Script()
    locked(script, "r1")
    script.call(lock(), history.Locked("r2" if honest else "r1"))
    return script


@scene(promise.LOCK_HAS_ONE_HOLDER)
def of_two_holders_that_meet_both_get_the_lock(*, honest: bool) -> Script:
    script = Script()
    first = script.begin(lock("one"), worker="one")
    second = script.begin(lock("other"), worker="other")
    script.end(second, history.Locked("r2"))
    script.end(first, history.Locked(None if honest else "r1"))
    return script


@scene(promise.LOCK_HAS_ONE_HOLDER)
def of_two_holders_that_meet_none_gets_the_lock(*, honest: bool) -> Script:
    script = Script()
    first = script.begin(lock("one"), worker="one")
    second = script.begin(lock("other"), worker="other")
    script.end(second, history.Locked(None))
    script.end(first, history.Locked("r1" if honest else None))
    return script


@scene(promise.LOCK_IS_KEPT_BY_ITS_RECEIPT)
def a_receipt_renews_a_lock_that_another_took(*, honest: bool) -> Script:
    script = Script()
    locked(script, "r1")
    script.wait(TTL + 1.0)
    if not honest:
        locked(script, "r2", "other")
    script.call(RENEWED, history.Renewed(holds=True))
    return script


@scene(promise.LOCK_IS_KEPT_BY_ITS_RECEIPT)
def the_receipt_of_a_lock_does_not_renew_it(*, honest: bool) -> Script:
    script = Script()
    locked(script, "r1")
    script.wait(TTL + 1.0)
    script.call(RENEWED, history.Renewed(holds=honest))
    return script


@scene(promise.LOCK_HAS_ONE_HOLDER)
def a_renewed_lock_goes_to_another(*, honest: bool) -> Script:
    script = Script()
    locked(script, "r1", ttl=TTL if honest else 10 * TTL)
    script.wait(0.75 * TTL)
    script.call(RENEWED, history.Renewed(holds=True))
    script.wait(0.75 * TTL)
    locked(script, None, "other")
    script.wait(0.5 * TTL)
    locked(script, "r2" if honest else None, "other")
    return script
