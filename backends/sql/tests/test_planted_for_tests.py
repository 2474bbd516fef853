"""The tests of this package find the bugs that are planted for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import planted_for_tests
from .planted_for_tests import BUGS, PLANTED

FOLDER = Path(__file__).parent


@pytest.mark.soak  # a process for each bug, which runs tests until one fails: minutes
@pytest.mark.parametrize("name", BUGS)
def test_the_test_that_a_bug_names_finds_it(name: str) -> None:
    ours = ("-m", "not postgresql and not mariadb")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider"]
    command += ["-p", planted_for_tests.__name__, *ours, f"{FOLDER}/{BUGS[name].found_by}"]
    ended = subprocess.run(
        command, env={**os.environ, PLANTED: name}, capture_output=True, text=True, check=False, timeout=300
    )

    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout[-2000:] + ended.stderr[-2000:]
    assert not any(f"E   {kind}" in ended.stdout for kind in ("TypeError", "AttributeError", "NameError")), (
        f"the bug cannot be planted any more: {ended.stdout[-2000:]}"
    )
