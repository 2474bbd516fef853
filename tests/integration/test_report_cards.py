"""What `relevo-conformance run` says of the transports that need no server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.card
@pytest.mark.parametrize("kind", ["memory", "sql"])
def test_the_report_card_says_conformant(kind: str, tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("relevo-conformance")

    ran = subprocess.run([command, "run", kind], cwd=tmp_path, capture_output=True, text=True, check=False)

    print(ran.stdout)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
