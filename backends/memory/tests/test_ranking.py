"""The heap under every queue, held to a dictionary that is searched."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from relevo_memory._ranking import Ranking

numbers = st.integers(0, 9)
ranks = st.tuples(st.sampled_from([0.0, 0.5, 1.0, float("inf")]), st.integers(0, 3))
steps = st.lists(
    st.one_of(st.tuples(st.just("put"), numbers, ranks), st.tuples(st.just("remove"), numbers, st.none())), max_size=300
)


@settings(deadline=None)
@given(steps)
def test_the_first_is_the_one_with_the_lowest_rank(steps: list[tuple[str, int, tuple[float, int] | None]]) -> None:
    ranking = Ranking()
    expected: dict[int, tuple[float, int]] = {}

    for action, number, rank in steps:
        if rank is not None:
            ranking.put(number, rank)
            expected[number] = rank
        else:
            ranking.remove(number)
            expected.pop(number, None)

        assert ranking.first() == min(((rank, number) for number, rank in expected.items()), default=None), action
        assert len(ranking) == len(expected)


def test_what_was_removed_does_not_pile_up() -> None:
    ranking = Ranking()

    for number in range(10_000):
        ranking.put(number, (1.0, 0))
        ranking.remove(number)

    assert len(ranking._heap) < 200


def test_what_was_ranked_again_does_not_pile_up() -> None:
    ranking = Ranking()

    for place in range(10_000):
        ranking.put(1, (1.0, place))

    assert len(ranking._heap) < 200
    assert ranking.first() == ((1.0, 9_999), 1)
