"""A mistake in a harness is reported as one of the harness: with the hook, and what it did."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pytest

from relevo import Transport
from relevo_conformance import Harness, examine
from relevo_memory import MemoryStore, MemoryTransport

from .memory import MemoryHarness


class ForgetsItsBase(MemoryHarness):
    def __init__(self) -> None:
        self.store = self.store_type()


class OpensOneInstance(MemoryHarness):
    def __init__(self) -> None:
        super().__init__()
        self.one = MemoryTransport(MemoryStore(), clock=self.clock)

    def open(self) -> Transport:
        return self.one


class OpensNothing(MemoryHarness):
    def open(self) -> Transport:
        return None  # type: ignore[return-value]


class Misspells(Harness):
    transport = MemoryTransport

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()

    def open(self) -> Transport:
        return MemoryTransport(self.store, clock=self.clock)

    def kill(self, transport: Transport) -> None:
        pass

    def brokn(self, transport: Transport) -> None:
        pass


class StandsStill(MemoryHarness):
    def advance(self, seconds: float) -> None:
        pass


class HasNoSession(MemoryHarness):
    def session(self) -> AbstractContextManager[Any]:  # type: ignore[override]
        return None  # type: ignore[return-value]


class AllowsAnything(MemoryHarness):
    slack = 1e9


class NeverLate(MemoryHarness):
    call_timeout = float("nan")


@pytest.mark.parametrize(
    ("harness", "why"),
    [
        (AllowsAnything, "AllowsAnything.slack is 1000000000.0; expected a number of seconds from 0 to 60"),
        (NeverLate, "NeverLate.call_timeout is nan; expected a number of seconds above 0 and up to 3600"),
        (ForgetsItsBase, "ForgetsItsBase.__init__ did not call super().__init__()"),
        (OpensOneInstance, "OpensOneInstance.open returned an instance that it had returned before"),
        (StandsStill, "StandsStill.advance did not move the clock by 61.001 s"),
        (HasNoSession, "HasNoSession.session returned None; expected a context manager"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_hook_that_is_wrong_is_named_with_what_it_did(harness: type[Harness], why: str) -> None:
    findings = list(examine(harness, matching=lambda test, _: test == "test_of_two_transactions_each_has_its_own_end"))

    assert {one.status for one in findings} == {"error"}
    assert all(why in one.what for one in findings), findings


def test_a_harness_that_opens_nothing_is_never_a_fault_of_the_transport() -> None:
    findings = list(examine(OpensNothing, matching=lambda test, _: "with_block" in test or "set" in test))

    assert {one.status for one in findings if one.status != "skipped"} == {"error"}, findings
    assert any("OpensNothing.open returned None; expected a relevo.Transport" in one.what for one in findings)


def test_the_method_that_is_most_like_a_missing_hook_is_named() -> None:
    test = "test_a_settlement_that_fails_can_be_said_again"

    findings = list(examine(Misspells, matching=lambda name, _: name == test))

    assert {one.what for one in findings} == {'Misspells has no hook broken; did you mean it by "brokn"?'}
