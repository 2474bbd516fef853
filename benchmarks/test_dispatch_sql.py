"""benchmarks/dispatch_sql.py sends what it says, to each database."""

from __future__ import annotations

import pytest

from dispatch_sql import lines, measured, pairs

pytestmark = pytest.mark.slow("runs each measurement once")


def measured_on(url: str) -> None:
    """Measure each pair once at *url*, and look at what is printed."""
    with pairs(url, events=8) as contestants:
        heads, *printed = lines(measured(contestants, rounds=1), driver="a driver")

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


def test_every_pair_is_measured_on_sqlite() -> None:
    measured_on("sqlite://")


def test_every_pair_is_measured_on_postgresql(postgresql_url: str) -> None:
    measured_on(postgresql_url)


def test_every_pair_is_measured_on_mariadb(mariadb_url: str) -> None:
    measured_on(mariadb_url)
