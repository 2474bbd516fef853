"""The tests that run on each Python."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from operator import contains, eq
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression

import pythons
import run

NUMBER_OF_PROCESSES = "PYTEST_XDIST_AUTO_NUM_WORKERS"
MARKS = ("", "slow", "lengthy", "conformance", "card", "repository", "soak")


def marks_run(versions: list[str], *, everything: bool = False) -> dict[str, set[str]]:
    """Return the MARKS that run in each environment with tests."""
    return {
        part.environment.partition("-")[0]: {
            mark for mark in MARKS if Expression.compile(part.marks).evaluate(partial(eq, mark))
        }
        for part in run.parts(versions, everything=everything)
        if part.marks
    }


def where_run(marks: set[str]) -> set[str]:
    """Return the environments, of three Pythons, that run a test with *marks*."""
    return {
        part.environment.partition("-")[0]
        for part in run.parts(["3.11", "3.12", "3.13"])
        if part.marks and Expression.compile(part.marks).evaluate(partial(contains, marks))
    }


def test_a_single_python_runs_all_but_the_soaks() -> None:
    assert marks_run(["3.13"]) == {"py313": {"", "slow", "lengthy", "conformance", "card", "repository"}}


def test_two_pythons_share_what_is_not_about_python() -> None:
    assert marks_run(["3.11", "3.13"]) == {
        "py311": {"", "conformance"},
        "py313": {"", "slow", "lengthy", "card", "repository"},
    }


@pytest.mark.parametrize(
    ("marks", "python"),
    [({"amqp"}, "py311"), ({"redis"}, "py311"), ({"sql"}, "py313"), ({"sql", "mariadb"}, "py313")],
)
def test_one_of_two_pythons_runs_the_suite(marks: set[str], python: str) -> None:
    assert where_run({"conformance", *marks}) == {python}


def test_the_other_tests_of_the_sql_backend_run_on_each_python() -> None:
    assert where_run({"sql"}) == {"py311", "py312", "py313"}


@pytest.mark.parametrize("server", ["amqp", "redis", "postgresql", "mariadb"])
def test_the_newest_runs_the_other_tests_of_servers(server: str) -> None:
    assert where_run({server}) == where_run({server, "slow"}) == {"py313"}


def test_the_checks_run_on_the_newest_python() -> None:
    assert [part.python for part in run.parts(["3.11", "3.13"]) if part.environment == "checks"] == ["3.13"]


def test_a_python_between_runs_the_unit_tests() -> None:
    assert marks_run(["3.11", "3.12", "3.13"])["py312"] == {""}


def test_everything_is_everything_on_each_and_the_soaks_on_one() -> None:
    whole = {"", "slow", "lengthy", "conformance", "card", "repository"}

    found = marks_run(["3.11", "3.13"], everything=True)

    assert (found["py311"], found["py313"], found["soak"]) == (whole, whole, {"soak"})


def test_older_libraries_are_a_part_of_everything() -> None:
    found = marks_run(["3.13"], everything=True)

    assert found["sqlalchemy20"] == found["oldest"] == {"", "lengthy", "conformance", "repository"}
    assert "sqlalchemy20" not in marks_run(["3.13"])


def test_the_outside_judge_is_a_part_of_everything() -> None:
    assert "judge" in [part.environment for part in run.parts(["3.13"], everything=True)]
    assert "judge" not in [part.environment for part in run.parts(["3.13"])]


@pytest.mark.parametrize("versions", [["3.12"], ["3.11", "3.12", "3.13"]])
@pytest.mark.parametrize("everything", [False, True])
def test_one_python_measures_coverage(versions: list[str], *, everything: bool) -> None:
    measured = {part.environment: part.measures for part in run.parts(versions, everything=everything) if part.measures}

    assert measured == {f"py{versions[-1].replace('.', '')}": "branches" if everything else "lines"}


@pytest.mark.parametrize("versions", [["3.12"], ["3.11", "3.12", "3.13"]])
def test_the_newest_python_checks_the_types(versions: list[str]) -> None:
    with_types = [part.environment for part in run.parts(versions) if part.marks and "-tests" not in part.environment]

    assert with_types == [f"py{versions[-1].replace('.', '')}"]


def test_each_python_checks_the_types_where_everything_runs() -> None:
    assert not any("-tests" in part.environment for part in run.parts(["3.11", "3.13"], everything=True))


@pytest.mark.parametrize("versions", [["3.12"], ["3.11", "3.13"]])
def test_the_checks_come_first(versions: list[str]) -> None:
    assert next(run.parts(versions)).environment == "checks"


class Scripted(run.Part):
    """A part that runs a script of Python instead of tox."""

    def _command(self, discover: Sequence[str]) -> Sequence[str]:
        return [sys.executable, "-c", self.marks]


MEETS = """
import pathlib, time
pathlib.Path("{mine}").touch()
deadline = time.monotonic() + 60
while not pathlib.Path("{other}").exists() and time.monotonic() < deadline:
    time.sleep(0.01)
print(pathlib.Path("{other}").exists())
"""


def test_the_parts_run_beside_the_last_one_which_takes_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "ROOT", tmp_path)
    first = Scripted("first", MEETS.format(mine="a", other="b"))
    second = Scripted("second", "import sys; print('second'); sys.exit(1)")
    longest = Scripted("longest", MEETS.format(mine="b", other="a"))

    ended = run.run_side_by_side([first, second, longest], [])

    assert ended == {first: True, second: False, longest: True}
    met, first_title, *middle, printed = [line for line in capfd.readouterr().out.splitlines() if line]
    assert (met, first_title.partition(" ")[0], printed) == ("True", "first", "second")
    assert "True" in middle


def test_a_part_beside_another_has_a_process_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NUMBER_OF_PROCESSES, raising=False)
    beside = Scripted("beside", f"import os; print(os.environ.get({NUMBER_OF_PROCESSES!r}))")

    assert beside.run_beside([]) == (True, f"{run.cores()}\n")

    monkeypatch.setenv(NUMBER_OF_PROCESSES, "7")
    assert beside.run_beside([]) == (True, "7\n")


@pytest.mark.parametrize("versions", [["3.12"], ["3.11", "3.13"]])
def test_the_newest_python_whose_part_takes_longest_comes_last(versions: list[str]) -> None:
    *_, last = run.parts(versions)

    assert last.environment == f"py{versions[-1].replace('.', '')}"


def test_a_python_that_does_not_run_is_passed_over_for_a_later_one(tmp_path: Path) -> None:
    mine = "{}.{}".format(*sys.version_info)
    other = next(version for version in pythons.SUPPORTED if version != mine)
    shims, real = tmp_path / "shims", tmp_path / "real"
    for folder, script in ((shims, "exit 127"), (real, f"echo {other}")):
        folder.mkdir()
        program = folder / f"python{other}"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    found = pythons.present({"PATH": os.pathsep.join(map(str, (shims, real)))})

    assert found[other] == str(real / f"python{other}")
    assert sorted(found, key=pythons.numbers) == sorted({mine, other}, key=pythons.numbers)
