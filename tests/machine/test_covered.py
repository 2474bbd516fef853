"""The table of covered lines and branches."""

from __future__ import annotations

import msgspec

import covered


def report(**files: tuple[int, int, int, int]) -> bytes:
    """Return coverage.py's report of *files*: covered lines, lines, covered branches, branches."""
    names = ("covered_lines", "num_statements", "covered_branches", "num_branches")
    return msgspec.json.encode(
        {
            "meta": {"format": 3},
            "files": {
                f"core/src/{path.replace('__', '/')}.py": {"summary": dict(zip(names, counts, strict=True))}
                for path, counts in files.items()
            },
        }
    )


def test_the_files_of_a_package_are_one_row() -> None:
    head, worker, total = covered.table(report(relevo__worker__loop=(8, 10, 1, 2), relevo__worker__pace=(10, 10, 2, 2)))

    assert head.split() == ["statements", "lines", "branches"]
    assert worker.split() == ["relevo/worker", "20", "90.0", "%", "75.0", "%"]
    assert total.split() == ["total", *worker.split()[1:]]


def test_a_package_in_a_package_belongs_to_the_outer_one() -> None:
    rows = list(covered.table(report(relevo__cli__commands__drain=(1, 1, 0, 0), relevo__errors=(1, 2, 0, 0))))

    assert [row.split()[0] for row in rows[1:]] == ["relevo", "relevo/cli", "total"]


def test_without_branches_there_is_no_share_of_them() -> None:
    _, row, _ = covered.table(report(relevo__errors=(1, 2, 0, 0)))

    assert row.split() == ["relevo", "2", "50.0", "%", "-"]
