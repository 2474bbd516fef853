"""What the checker says of locks, and what a card says of a transport that is no coordinator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from relevo import Coordinator, Transport
from relevo.backend import ControlStore, LimitStore
from relevo_conformance import PROMISES, Promise, examine, history
from relevo_conformance.card import Examination, card
from relevo_conformance.harness import Observed
from relevo_conformance.replay import replay
from relevo_memory import MemoryTransport

from .memory import MemoryHarness
from .scenes_of_locks import RENEWED, TTL, UNLOCKED, lock, locked
from .script import Script
from .strange import harness_of, where_time_is_real

OF_COORDINATORS = [promise for promise in PROMISES.values() if promise.interface is Coordinator]


class PlainTransport(Transport):
    """What a transport has to have, and no coordinator."""


for _name, _member in vars(MemoryTransport).items():
    if _name not in vars(Coordinator) and _name not in vars(PlainTransport):
        setattr(PlainTransport, _name, _member)
PlainTransport.__abstractmethods__ = frozenset()


class PlainHarness(MemoryHarness):
    transport = PlainTransport  # type: ignore[assignment]  # what MemoryHarness opens


def test_a_transport_that_is_no_coordinator_makes_none_of_its_promises() -> None:
    wanted = {promise.id for promise in OF_COORDINATORS}

    findings = list(examine(PlainHarness, matching=lambda _, promises: bool(promises & wanted)))

    assert {one.status for one in findings} == {"skipped"}
    seen = card(findings, examination=about(PlainHarness), promises=OF_COORDINATORS)
    assert [(line.status, line.why) for line in seen.lines] == [("N/A", "the transport is not a Coordinator")] * 3
    assert seen.verdict == "conformant"


def test_nothing_is_known_of_a_coordinator_on_which_no_test_ran() -> None:
    seen = card((), examination=about(MemoryHarness), promises=OF_COORDINATORS)

    assert {line.status for line in seen.lines} == {"UNKNOWN"}
    assert seen.verdict == "unknown"


def about(harness: type[MemoryHarness]) -> Examination:
    return Examination(transport="t", harness=harness.__name__, capabilities=MemoryTransport.capabilities)


def test_an_instance_that_is_no_coordinator_as_its_class_is_an_error_of_the_harness() -> None:
    class OpensAnother(MemoryHarness):
        transport = MemoryTransport

        def open(self) -> Transport:
            plain: Any = PlainTransport
            opened: Transport = plain(self.store, clock=self.clock)
            return opened

    wanted = {promise.id for promise in OF_COORDINATORS}
    findings = list(examine(OpensAnother, matching=lambda _, promises: bool(promises & wanted)))

    assert {one.status for one in findings} == {"error", "skipped"}
    assert "which is not a Coordinator, while MemoryTransport is one" in findings[0].what


class InMilliseconds(MemoryTransport):
    """Takes seconds for milliseconds."""

    def lock(self, name: str, *, holder: str, ttl: float) -> str | None:
        return super().lock(name, holder=holder, ttl=ttl / 1000)

    def announce(self, worker: str, about: bytes, *, ttl: float) -> None:
        super().announce(worker, about, ttl=ttl / 1000)

    def set_control(self, key: str, what: bytes, *, ttl: float) -> None:
        super().set_control(key, what, ttl=ttl / 1000)

    def change_limit(self, key: str, change: Callable[[bytes, float], bytes], *, ttl: float) -> None:
        super().change_limit(key, change, ttl=ttl / 1000)


class TooEarly(MemoryTransport):
    """Ends what ends within a minute after a quarter of the time."""

    def lock(self, name: str, *, holder: str, ttl: float) -> str | None:
        return super().lock(name, holder=holder, ttl=ttl / 4 if ttl < 60 else ttl)

    def announce(self, worker: str, about: bytes, *, ttl: float) -> None:
        super().announce(worker, about, ttl=ttl / 4 if ttl < 60 else ttl)

    def set_control(self, key: str, what: bytes, *, ttl: float) -> None:
        super().set_control(key, what, ttl=ttl / 4 if ttl < 60 else ttl)

    def change_limit(self, key: str, change: Callable[[bytes, float], bytes], *, ttl: float) -> None:
        super().change_limit(key, change, ttl=ttl / 4 if ttl < 60 else ttl)


@pytest.mark.parametrize("transport", [InMilliseconds, TooEarly])
@pytest.mark.parametrize(
    ("test", "promise"),
    [
        ("test_a_lock_stays_with_its_holder_almost_until_it_expires_and_is_free_then", "lock-has-one-holder"),
        ("test_an_announcement_expires_and_no_other_with_it", "announced-is-seen"),
        ("test_a_control_expires_and_no_other_with_it", "control-is-seen"),
        ("test_what_counts_against_a_limit_expires_and_nothing_else_with_it", "limit-is-counted-once"),
    ],
)
def test_by_a_clock_that_runs_an_early_end_is_seen(transport: type[MemoryTransport], test: str, promise: str) -> None:
    harness = where_time_is_real(harness_of(transport))

    (finding,) = examine(harness, matching=lambda name, _: name == test)

    assert finding.status == "broken"
    assert finding.promises == {promise}


# --- what the checker must not say ------------------------------------------------------------------


def test_a_lock_that_may_have_expired_goes_to_either() -> None:
    for receipt in ("r2", None):
        script = Script()
        locked(script, "r1")
        script.wait(TTL)
        locked(script, receipt, "other")

        assert script.broken() == set()


@pytest.mark.parametrize("receipt", ["r2", None])
def test_nothing_is_known_of_a_lock_after_a_call_that_failed(receipt: str | None) -> None:
    script = Script()
    script.call(lock(), end="unknown", error="TransportUnavailableError")
    locked(script, receipt, "other")
    locked(script, None, "third")

    assert script.broken() == set()


@pytest.mark.parametrize("holds", [True, False])
def test_a_renewal_that_meets_a_takeover_is_before_it_or_after_it(*, holds: bool) -> None:
    script = Script()
    locked(script, "r1")
    renewal = script.begin(RENEWED, worker="one")
    takeover = script.begin(lock(), worker="other")
    script.end(takeover, history.Locked("r2"))
    script.end(renewal, history.Renewed(holds=holds))

    assert script.broken() == set()


@pytest.mark.parametrize("receipt", ["r2", None])
def test_a_call_that_never_returned_may_have_had_its_effect(receipt: str | None) -> None:
    script = Script()
    locked(script, "r1")
    script.begin(UNLOCKED, worker="one")
    locked(script, receipt, "other")

    assert script.broken() == set()


def test_one_lock_says_nothing_of_another() -> None:
    script = Script()
    locked(script, "r1")
    script.call(history.Lock(name="other", holder="other", ttl=TTL), history.Locked("r2"))

    assert script.broken() == set()


# --- a history of locks -----------------------------------------------------------------------------


class LetsTwoIn(MemoryTransport):
    """Gives each lock to everybody."""

    def lock(self, name: str, *, holder: str, ttl: float) -> str | None:
        receipt = super().lock(name, holder=holder, ttl=ttl)
        return receipt or f"{holder}'s {name}"


class LetsTwoInHarness(MemoryHarness):
    transport = LetsTwoIn


def test_a_history_of_locks_can_be_run_again() -> None:
    observed = Observed()
    test = "test_a_renewal_counts_from_now_whether_that_is_longer_or_shorter"
    (found,) = examine(LetsTwoInHarness, matching=lambda name, _: name == test, observed=observed)
    assert found.status == "broken"

    again = replay(found.history, LetsTwoInHarness)

    wanted = [type(one.call) for one in found.history if isinstance(one, history.Invoked)]
    assert [type(one.call) for one in again if isinstance(one, history.Invoked)] == wanted
    values = [
        one.value for one in again if isinstance(one, history.Returned) and isinstance(one.value, history.Renewed)
    ]
    assert values == [history.Renewed(holds=True)] * 2, "a receipt is another one the second time"


class CountsInThePast(MemoryTransport):
    """A change gets a time of an hour ago."""

    def change_limit(self, key: str, change: Callable[[bytes, float], bytes], *, ttl: float) -> None:
        super().change_limit(key, lambda before, now: change(before, now - 3600.0), ttl=ttl)


class CountsInThePastHarness(MemoryHarness):
    transport = CountsInThePast


def test_a_history_of_limits_can_be_run_again() -> None:
    observed = Observed()
    test = "test_a_change_gets_the_time_by_which_what_it_stores_expires"
    (found,) = examine(CountsInThePastHarness, matching=lambda name, _: name == test, observed=observed)
    assert found.status == "broken"

    again = replay(found.history, MemoryHarness)

    wanted = [type(one.call) for one in found.history if isinstance(one, history.Invoked)]
    assert [type(one.call) for one in again if isinstance(one, history.Invoked)] == wanted
    values = [one.value for one in again if isinstance(one, history.Returned) and one.value is not None]
    assert [one.after for one in values if isinstance(one, history.LimitChanged)] == [b"there"]


def test_what_a_change_gets_must_be_bytes_and_a_time() -> None:
    test = "test_what_was_stored_against_a_limit_comes_unchanged_to_the_next_change_of_its_key"
    for transport, expected in (
        (CountsInText, "'' as what is stored; expected bytes"),
        (CountsWithoutTime, "None as the time"),
    ):
        (found,) = examine(harness_of(transport), matching=lambda name, _: name == test)

        assert found.status == "broken"
        assert f"change_limit passed {expected}" in found.what


class CountsInText(MemoryTransport):
    """A change gets text."""

    def change_limit(self, key: str, change: Callable[[Any, float], bytes], *, ttl: float) -> None:
        super().change_limit(key, lambda before, now: change(before.decode("latin-1"), now), ttl=ttl)


class CountsWithoutTime(MemoryTransport):
    """A change gets no time."""

    def change_limit(self, key: str, change: Callable[[bytes, Any], bytes], *, ttl: float) -> None:
        super().change_limit(key, lambda before, _: change(before, None), ttl=ttl)


def test_the_promises_of_a_coordinator_name_it() -> None:
    assert [promise.id for promise in OF_COORDINATORS] == [
        "lock-has-one-holder",
        "lock-is-kept-by-its-receipt",
        "announced-is-seen",
    ]
    assert [one.id for one in PROMISES.values() if one.interface is ControlStore] == ["control-is-seen"]
    assert [one.id for one in PROMISES.values() if one.interface is LimitStore] == ["limit-is-counted-once"]
    assert Promise("a", "A.").is_made_by(PlainTransport)
    assert not OF_COORDINATORS[0].is_made_by(PlainTransport)
