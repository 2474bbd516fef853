from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, strategies as st

from relevo._worker.batch_size import Pace


def _limits(pace: Pace, *, rounds: int, took: float, came: Callable[[int], int] = int) -> list[int]:
    """Receive *rounds* times what is asked for, each batch after *took* seconds; return what was asked for."""
    asked = []
    for _ in range(rounds):
        asked.append(pace.limit())
        pace.adapt(came(asked[-1]), asked=asked[-1], now=_now[0])
        _now[0] += took
    return asked


_now = [1000.0]


def test_it_begins_with_one_and_doubles_while_full_batches_are_quick() -> None:
    assert _limits(Pace(20), rounds=7, took=0.05) == [1, 1, 2, 4, 8, 16, 20]


def test_it_halves_when_a_batch_takes_long() -> None:
    pace = Pace(64)
    _limits(pace, rounds=9, took=0.01)

    assert _limits(pace, rounds=9, took=0.6) == [64, 64, 32, 16, 8, 4, 2, 1, 1]


def test_batches_of_middling_length_leave_it_as_it_is() -> None:
    pace = Pace(64)
    _limits(pace, rounds=5, took=0.01)
    limit = pace.limit()

    assert set(_limits(pace, rounds=5, took=0.3)) <= {limit, limit * 2}
    assert len(set(_limits(pace, rounds=5, took=0.3))) == 1


def test_batches_that_are_not_full_do_not_make_it_grow() -> None:
    assert _limits(Pace(64), rounds=5, took=0.01, came=lambda limit: limit - 1)[-1] == 1


def test_a_suspect_brings_it_back_to_one() -> None:
    pace = Pace(64)
    _limits(pace, rounds=9, took=0.01)

    pace.adapt(4, asked=64, now=0.0, suspect=True)

    assert pace.limit() == 1


@given(st.integers(1, 300), st.lists(st.tuples(st.integers(0, 300), st.floats(0, 3), st.booleans())))
def test_it_never_asks_for_less_than_one_or_more_than_it_may(most: int, rounds: list[tuple[int, float, bool]]) -> None:
    pace, now = Pace(most), 0.0

    for came, took, suspect in rounds:
        asked = pace.limit()
        assert 1 <= asked <= most
        now += took
        pace.adapt(min(came, asked), asked=asked, now=now, suspect=suspect and came > 0)
