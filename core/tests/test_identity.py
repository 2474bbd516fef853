from __future__ import annotations

import uuid

from hypothesis import given, strategies as st

from relevo._identity import uuid7

times = st.integers(0, 2**48 - 1)


@given(times)
def test_an_id_is_a_uuid_of_version_7_in_its_usual_text(milliseconds: int) -> None:
    text = uuid7(milliseconds / 1000)

    parsed = uuid.UUID(text)

    assert str(parsed) == text
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122


@given(times, times)
def test_ids_sort_by_the_millisecond_of_the_dispatch(first: int, second: int) -> None:
    earlier, later = sorted([first, second])

    if earlier < later:
        assert uuid7((earlier + 0.5) / 1000) < uuid7((later + 0.5) / 1000)


def test_the_time_can_be_read_from_an_id() -> None:
    assert uuid.UUID(uuid7(1_767_225_600.123)).int >> 80 == 1_767_225_600_123


def test_no_two_ids_of_one_moment_are_equal() -> None:
    assert len({uuid7(1.0) for _ in range(10_000)}) == 10_000


def test_74_bits_of_an_id_are_random() -> None:
    numbers = [uuid.UUID(uuid7(1.0)).int for _ in range(200)]
    set_in_some, set_in_all = numbers[0], numbers[0]

    for number in numbers:
        set_in_some |= number
        set_in_all &= number

    assert (set_in_some & ~set_in_all).bit_count() == 74
