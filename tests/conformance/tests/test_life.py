"""Long lives have each operation after each other, and a bug that needs two of them is found and told by these."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from random import Random

import attrs
import pytest

from relevo import Delivery, Nack, Outcome, Settlement
from relevo_conformance._contract_life import LifeContract
from relevo_conformance._life import OPERATIONS, operations_of, walks
from relevo_conformance.profile import PROFILES
from relevo_conformance.verdict import BrokenPromiseError
from relevo_memory import MemoryTransport

from .memory import MemoryHarness

NAMES = ("a", "b", "c")


def chance(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - it decides what is tested


@pytest.mark.parametrize("strength", [2, 3])
def test_walks_have_each_name_after_each_other(strength: int) -> None:
    found = list(walks(NAMES, strength=strength, length=6, rng=chance(1)))

    met = {tuple(walk[place : place + strength]) for walk in found for place in range(6 - strength + 1)}
    assert met == set(product(NAMES, repeat=strength))
    assert {len(walk) for walk in found} == {6}


def test_walks_are_the_same_for_the_same_seed_and_others_for_another() -> None:
    first, again, other = (list(walks(NAMES, strength=3, length=6, rng=chance(seed))) for seed in (1, 1, 2))

    assert first == again != other


def test_a_transport_that_claims_everything_lives_through_all_operations() -> None:
    assert list(operations_of(MemoryHarness())) == list(OPERATIONS)


def test_standard_looks_at_longer_sequences_than_quick() -> None:
    assert PROFILES["standard"].operations > PROFILES["quick"].operations


class SettlesWithTheReceivedState(MemoryTransport):
    """A nack without a state restores the state of the delivery, and so forgets a checkpoint."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super().settle([(delivery, restoring(delivery, outcome)) for delivery, outcome in settlements])


def restoring(delivery: Delivery, outcome: Outcome) -> Outcome:
    """Return *outcome*; a nack without a state gets that of *delivery*."""
    return (
        attrs.evolve(outcome, state=delivery.state) if isinstance(outcome, Nack) and outcome.state is None else outcome
    )


class BrokenHarness(MemoryHarness):
    transport = SettlesWithTheReceivedState


def test_a_bug_that_needs_two_operations_is_found_and_told_by_them() -> None:
    class Tests(LifeContract):
        harness_type = BrokenHarness
        profile = PROFILES["quick"]

    Tests.setup_class()

    with pytest.raises(BrokenPromiseError) as raised:
        Tests().test_each_operation_after_each_other_keeps_every_promise()

    case, _, _ = str(raised.value).partition(":\n")
    assert "checkpoint" in case
    assert case.count(",") <= 1, case
