"""What benchmarks/growth.py prints is counted correctly, on each database."""

from __future__ import annotations

import pytest

from growth import PARTS, growth, main, passed

pytestmark = pytest.mark.slow("runs each measurement once")


def measured(url: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Measure everything at *url*; return the titles and the numbers of events."""
    main([url, "--events", "200", "--keep", "60"])
    lines = capsys.readouterr().out.splitlines()
    return [line[:32].strip() or line.split()[0] for line in lines if line]


EXPECTED = [
    each
    for title in ("without keep", "keep = 60 s")
    for each in (title, *(str(number * 20) for number in range(1, PARTS + 1)), "the")
]


def test_all_parts_are_measured_on_sqlite(capsys: pytest.CaptureFixture[str]) -> None:
    assert measured("sqlite://", capsys) == EXPECTED


def test_all_parts_are_measured_on_postgresql(capsys: pytest.CaptureFixture[str], postgresql_url: str) -> None:
    assert measured(postgresql_url, capsys) == EXPECTED


def test_all_parts_are_measured_on_mariadb(capsys: pytest.CaptureFixture[str], mariadb_url: str) -> None:
    assert measured(mariadb_url, capsys) == EXPECTED


def test_what_is_kept_is_counted() -> None:
    plain, kept = ([part.kept for part in passed("sqlite://", events=30, keep=keep)] for keep in (None, 60.0))

    assert plain == [0] * PARTS
    assert kept == list(range(3, 31, 3))


def test_the_end_is_compared_with_the_middle() -> None:
    assert growth([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]) == 2.0
