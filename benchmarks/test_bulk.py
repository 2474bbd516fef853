"""Many events at once need little memory, however many they are."""

from __future__ import annotations

import pytest

from bulk import CONTESTANTS, EVENTS, FLOOR, LINES, once

MOST = {LINES: 256, EVENTS: 100}
"""MB."""


@pytest.mark.slow("starts processes, alike on every Python")
@pytest.mark.parametrize("name", MOST)
def test_the_memory_of_many_events_is_that_of_a_thousand(name: str) -> None:
    floor, used = once(CONTESTANTS[FLOOR], 0), once(CONTESTANTS[name], 20_000)

    assert used.memory - floor.memory < 20


@pytest.mark.soak
@pytest.mark.parametrize("name", MOST)
def test_200_000_events_stay_within_their_memory(name: str) -> None:
    assert once(CONTESTANTS[name], 200_000).memory < MOST[name]
