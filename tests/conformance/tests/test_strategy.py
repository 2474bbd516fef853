"""What is drawn can be read where it is told."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings, strategies as st

from relevo_conformance.strategy import any_of

LARGE = b"x" * 1000


def told(values: list[bytes]) -> str:
    """Return how Hypothesis tells the call with one of *values*."""

    @settings(max_examples=1, phases=[Phase.generate], database=None, derandomize=True)
    @given(st.builds(dict, body=any_of(values, called="VALUES")))
    def fail(value: object) -> None:
        raise AssertionError(value)

    with pytest.raises(AssertionError) as raised:
        fail()
    return "\n".join(raised.value.__notes__)


def test_a_small_value_is_told_as_it_is() -> None:
    assert "b'small'" in told([b"small"])


def test_a_large_value_is_told_by_its_place() -> None:
    assert "VALUES.__getitem__(0)" in told([LARGE])


def test_every_value_is_drawn() -> None:
    drawn = set()

    @settings(max_examples=100, database=None, derandomize=True)
    @given(any_of([b"small", LARGE, b"other"], called="VALUES"))
    def note(value: bytes) -> None:
        drawn.add(value)

    note()
    assert drawn == {b"small", LARGE, b"other"}
