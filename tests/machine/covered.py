"""The share of lines and branches that the tests of this process ran, package by package."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

import msgspec

DEPTH = 2
"""A row is a distribution's package or a package in it: relevo, relevo/_worker."""


class Summary(msgspec.Struct):
    """The counts of coverage.py for a file."""

    covered_lines: int
    num_statements: int
    covered_branches: int = 0
    num_branches: int = 0
    """0 if branches were not measured."""


class File(msgspec.Struct):
    """A file of coverage.py's report."""

    summary: Summary


class Report(msgspec.Struct):
    """The part of coverage.py's JSON report that is shown."""

    files: dict[str, File]


def table(report: bytes) -> Iterator[str]:
    """
    Yield the lines of a table: each package with its statements, lines and branches in percent, and the total.

    What was not measured is a dash.

    Args:
        report: The output of ``coverage json``, with branches or without.
    """
    packages: dict[str, list[Summary]] = defaultdict(list)
    for path, file in msgspec.json.decode(report, type=Report).files.items():
        packages[package(path)].append(file.summary)
    yield f"{'':28}{'statements':>12}{'lines':>9}{'branches':>10}"
    for name in sorted(packages):
        yield _row(name, packages[name])
    yield _row("total", [each for summaries in packages.values() for each in summaries])


def package(path: str) -> str:
    """Return the package of the file at *path*, which is in a folder ``src``."""
    parts = PurePosixPath(path).parts
    return "/".join(parts[parts.index("src") + 1 : -1][:DEPTH])


def _row(name: str, summaries: Iterable[Summary]) -> str:
    counts = [msgspec.structs.astuple(each) for each in summaries]
    covered_lines, statements, covered_branches, branches = map(sum, zip(*counts, strict=True))
    return (
        f"{name:28}{statements:>12,}{_percent(covered_lines, statements):>9}{_percent(covered_branches, branches):>10}"
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
