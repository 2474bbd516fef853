"""A run of each surface that is guided by coverage finds nothing either."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from surfaces import SURFACES

SECONDS = 20


@pytest.mark.soak
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python")
@pytest.mark.parametrize("name", [surface.name for surface in SURFACES])
def test_a_guided_run_finds_nothing(name: str, tmp_path: Path) -> None:
    program = Path(__file__).with_name("guided.py")

    done = subprocess.run(
        [sys.executable, program, name, str(SECONDS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=30 * SECONDS,
    )

    assert done.returncode == 0, done.stderr[-5000:]
    assert "Done " in done.stderr
