"""The commands of relevo, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

UNAVAILABLE = 69
"""The exit code if a database cannot be reached or written to."""


def relevo(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in *folder*, which :func:`configure` has prepared."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RELEVO_")}
    command = [sys.executable, "-m", "relevo", *words]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=60)


def configure(folder: Path, main: str) -> None:
    """Write a configuration with the transport *main*, in the form of TOML."""
    (folder / "relevo.toml").write_text(f'source = "shop"\nlisteners = []\ntransports.main = {main}\n')
