"""The commands of relevo, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

UNAVAILABLE = 69
"""The exit code if a database cannot be reached or written to."""


def relevo(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in *folder*, which :func:`configure` has prepared."""
    command = [sys.executable, "-m", "relevo", *words]
    return subprocess.run(command, cwd=folder, env=_environ(), capture_output=True, text=True, check=False, timeout=300)


@contextmanager
def running(folder: Path, *words: str, errors: IO[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command during the block; what it writes to standard error is added to *errors*."""
    command = [sys.executable, "-m", "relevo", *words]
    process = subprocess.Popen(command, cwd=folder, env=_environ(), stdout=subprocess.DEVNULL, stderr=errors)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def configure(folder: Path, main: str, *, listeners: str = "") -> None:
    """Write a configuration with the transport *main*, in the form of TOML, and the module *listeners*."""
    (folder / "relevo.toml").write_text(
        f'source = "shop"\nlisteners = {[listeners] if listeners else []}\ntransports.main = {main}\n'
    )


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RELEVO_")}
