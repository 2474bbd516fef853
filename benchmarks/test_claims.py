"""What benchmarks/claims.py prints is counted correctly, on each database."""

from __future__ import annotations

import pytest

from claims import TABLES, emptied, fresh, main

pytestmark = pytest.mark.slow("runs each measurement once")

SMALL = [
    *("--events", "250", "--pending", "250", "500", "--scheduled", "5", "--line", "4", "--ordered", "2"),
    *("--passed", "250", "--workers", "2", "--shared", "500"),
]
NAMES = [
    "250 pending",
    "500 pending",
    "250 pending, 5 scheduled",
    "250 pending, 4 of one key",
    "2 of one key",
    "4 of one key",
    "no snapshot, at first",
    "no snapshot, 250 events later",
    "a snapshot, at first",
    "a snapshot, 250 events later",
    "2 processes",
]


def measured(url: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Measure everything at *url*; return the names of the lines, and of the server."""
    assert main([url, *SMALL]) == 0
    lines = capsys.readouterr().out.splitlines()
    return [line.partition("   ")[0] if line.startswith("  ") else line for line in lines]


def test_all_tables_are_measured_on_sqlite(capsys: pytest.CaptureFixture[str]) -> None:
    printed = measured("sqlite://", capsys)

    assert [line.strip() for line in printed if line.startswith("  ")] == NAMES
    assert [line.split()[0] for line in printed if line and not line.startswith("  ")] == list(TABLES)


def test_all_tables_are_measured_on_postgresql(capsys: pytest.CaptureFixture[str], postgresql_url: str) -> None:
    printed = measured(postgresql_url, capsys)

    assert [line.strip() for line in printed if line.startswith("  ")][: len(NAMES)] == NAMES
    assert next(line for line in printed if line.startswith("postgresql ")).partition("fsync ")[2]


def test_events_that_no_process_received_are_counted() -> None:
    with fresh("sqlite://") as bench:
        bench.fill(300)

        line = emptied(bench.url, workers=1, events=302)

    assert (line.name, line.wrong) == ("1 process", "0 twice, 2 missed")
