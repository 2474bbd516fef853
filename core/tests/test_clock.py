from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, strategies as st

from relevo import Clock, SystemClock
from relevo._clock import moment, seconds
from relevo.errors import ConfigurationError
from relevo.testing import FakeClock


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500ms", 0.5), ("2s", 2.0), ("1.5 m", 90.0), ("7d", 604800.0), ("0s", 0.0)],
)
def test_a_duration_is_a_number_with_a_unit(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@given(st.floats(0, 1e9))
def test_seconds_may_be_a_number_or_a_timedelta(number: float) -> None:
    assert seconds(number) == number
    assert seconds(timedelta(seconds=number)) == pytest.approx(number, abs=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            "",
            "2",
            "s",
            "-1s",
            "1e3s",
            "2 weeks",
            -0.1,
            float("nan"),
            float("inf"),
            1e10,
            10**400,
            True,
            None,
            b"2s",
            [2],
        ),
        *(" 1h", "1h ", "1h\n", "1\t h", "\u0663s", "1_000s", "+1s", ".5s", "1.s", "\uff15m"),
    ],
)
def test_what_is_no_duration_is_refused_by_its_name(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^the lease: expected .*; got "):
        seconds(wrong, what="the lease")


@pytest.mark.parametrize("number", ["0", "7", "-1.5"])
def test_a_number_in_quotes_lacks_its_unit(number: str) -> None:
    hint = f'got {number!r}; add a unit, as in "{number}s", or leave the quotes out'
    with pytest.raises(ConfigurationError, match=re.escape(hint)):
        seconds(number)


@pytest.mark.parametrize("wrong", [-1, -0.5, "-1s", timedelta(seconds=-1), -(10**400)])
def test_of_a_duration_that_is_negative_that_is_what_is_wrong(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^the delay: expected 0 s or more; got "):
        seconds(wrong, what="the delay")


NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("5m", NOW + 300),
        (timedelta(hours=1), NOW + 3600),
        (NOW + 1, NOW + 1),
        (7, 7.0),
        (datetime.fromtimestamp(NOW, UTC), NOW),
        (datetime(1, 1, 1, tzinfo=UTC), -62135596800.0),
        (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), 253402300799.0),
    ],
)
def test_a_moment_is_by_the_calendar_by_the_epoch_or_from_now(value: object, expected: float) -> None:
    assert moment(value, now=NOW, what="the end") == expected


@pytest.mark.parametrize(
    "wrong",
    [
        *(10**400, -(10**400), 1e300, float("inf"), float("nan"), NOW * 1000, 253402300800),
        *(True, None, "", "1", " 5m ", [7]),
        datetime(2026, 1, 1),  # noqa: DTZ001 - it has no zone
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-23))),
    ],
)
def test_what_is_no_moment_is_refused_by_its_name(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^the end: expected .*; got ") as caught:
        moment(wrong, now=NOW, what="the end")

    assert "\n" not in str(caught.value)


def test_the_machines_clock_is_a_clock() -> None:
    clock: Clock = SystemClock()
    before = clock.monotonic()

    clock.sleep(0.001)

    assert isinstance(clock, Clock)
    assert clock.monotonic() > before
    assert clock.now() > 1_700_000_000


def test_a_fake_clock_stands_still_until_it_is_moved() -> None:
    clock = FakeClock(1000.0)

    before = clock.now(), clock.monotonic()
    clock.advance(1.5)
    clock.sleep(0.5)

    assert before == (1000.0, 1000.0)
    assert clock.now() == clock.monotonic() == 1002.0
    assert isinstance(clock, Clock)


@given(start=st.floats(1e9, 2.1e9), steps=st.lists(st.integers(0, 10_000_000)))
def test_a_fake_clock_counts_whole_microseconds(start: float, steps: list[int]) -> None:
    clock = FakeClock(start)
    began = datetime.fromtimestamp(clock.now(), UTC)

    for step in steps:
        clock.advance(step / 1_000_000)

    assert clock.now() == clock.monotonic() == (began + timedelta(microseconds=sum(steps))).timestamp()


def test_the_shortest_sleep_moves_a_fake_clock_by_a_microsecond() -> None:
    clock = FakeClock(1000.0)

    clock.sleep(1e-9)
    clock.sleep(0.0)

    assert clock.now() == 1000.000001


def test_a_fake_clock_does_not_go_backwards() -> None:
    clock = FakeClock()

    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1.0)


@pytest.mark.parametrize("wrong", ["1h", None, timedelta(hours=1), True, [1]])
def test_a_fake_clock_is_moved_by_a_number_and_its_error_names_what_takes_text(wrong: Any) -> None:
    clock = FakeClock(1000.0)

    with pytest.raises(
        ConfigurationError, match=r'^advance: expected seconds as a number; got .*; .* t\.travel\("1h"\)'
    ):
        clock.advance(wrong)

    assert clock.now() == 1000.0


def test_the_system_clock_follows_what_replaces_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    waits: list[float] = []
    monkeypatch.setattr(time, "time", lambda: 1e9)
    monkeypatch.setattr(time, "monotonic", lambda: 7.0)
    monkeypatch.setattr(time, "sleep", waits.append)

    clock.sleep(3.0)

    assert (clock.now(), clock.monotonic(), waits) == (1e9, 7.0, [3.0])
