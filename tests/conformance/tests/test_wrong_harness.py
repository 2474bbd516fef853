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
        (StandsStill, "StandsStill.advance did not move the clock by 61.002 s"),
        (HasNoSession, "HasNoSession.session returned None; expected a context manager"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_hook_that_is_wrong_is_named_with_what_it_did(harness: type[Harness], why: str) -> None:
    findings = list(examine(harness, matching=lambda test, _: test == "test_of_two_transactions_each_has_its_own_end"))

    assert {one.status for one in findings} == {"error"}
    assert all(why in one.what for one in findings), findings
