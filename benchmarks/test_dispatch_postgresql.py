"""benchmarks/dispatch_postgresql.py sends what it says."""

from __future__ import annotations

from dispatch_postgresql import lines, measured, pairs


def test_every_pair_is_measured_and_printed(postgresql_url: str) -> None:
    with pairs(postgresql_url, events=8) as contestants:
        heads, *printed = lines(measured(contestants, rounds=1))

    assert heads.startswith("microseconds an event")
    assert [line[:28].strip() for line in printed] == [
        "dispatch, one by one",
        "dispatch_many of 1,000",
        "8 threads, one by one",
        "session=, 1 a commit",
        "session=, 100 a commit",
        "the driver's row, 1 a commit",
    ]
    assert all(float(line.split()[-1].replace(",", "")) > 0 for line in printed)
