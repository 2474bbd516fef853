"""What a harness declares not to be kept is tolerated, and nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import Phase

from relevo import Delivery
from relevo_conformance import Deviation
from relevo_conformance.examination import Finding, examine
from relevo_conformance.profile import PROFILES
from relevo_conformance.trial import RANDOM
from relevo_memory import MemoryTransport

from .memory import MemoryHarness

PREFERENCE = "preference-is-kept"


class Contrary(MemoryTransport):
    """Empties the queue first that was named last."""

    def receive(self, queues: Sequence[str], **options: Any) -> Sequence[Delivery]:
        return super().receive(list(reversed(queues)), **options)


class DeviatingHarness(MemoryHarness):
    transport = Contrary
    deviations = {PREFERENCE: Deviation("it is contrary", "https://example.org/contrary")}  # noqa: RUF012 - never changed


class StrictHarness(MemoryHarness):
    transport = Contrary


def findings(harness: type[MemoryHarness]) -> list[Finding]:
    return list(
        examine(
            harness,
            profile=PROFILES["quick"].part(),
            phases=[Phase.generate],
            matching=lambda name, promises: name == RANDOM or PREFERENCE in promises,
        )
    )


@pytest.mark.slow("runs random histories")
def test_a_declared_deviation_is_tolerated_by_the_histories_and_told_by_its_own_tests() -> None:
    found = findings(DeviatingHarness)

    assert {one.test: one.status for one in found}[RANDOM] == "kept"
    deviating = [one for one in found if one.status == "deviates"]
    assert deviating
    assert all("it is contrary" in one.what for one in deviating)
    assert not [one for one in found if one.status == "broken"]


def test_without_a_declaration_the_same_is_broken() -> None:
    found = findings(StrictHarness)

    assert [one for one in found if one.status == "deviates"] == []
    assert any(one.status == "broken" and PREFERENCE in one.promises for one in found)
