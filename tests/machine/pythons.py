"""The Pythons of this machine that relevo supports."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping

SUPPORTED = ("3.11", "3.12", "3.13")
"""The minor versions on which relevo is tested, the oldest first."""

_WHICH = "import sys, venv; print('%d.%d' % sys.version_info[:2])"


def present(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """
    Return the program of each supported Python that runs here, by its minor version, the oldest first.

    The Python that runs this code is one of them, also if its version is not supported.

    Args:
        environ: The environment with the PATH.
    """
    found = {"{}.{}".format(*sys.version_info): getattr(sys, "_base_executable", sys.executable)}
    for version in SUPPORTED:
        for folder in environ.get("PATH", os.defpath).split(os.pathsep):
            program = shutil.which(f"python{version}", path=folder)
            if version not in found and program is not None and _version(program) == version:
                found[version] = program
    return dict(sorted(found.items(), key=lambda item: numbers(item[0])))


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers in *version*, which sort like versions."""
    return tuple(map(int, re.findall(r"\d+", version)))


def _version(program: str) -> str:
    """Return the minor version of *program*, or nothing if it does not run, such as the shim of a version manager."""
    try:
        done = subprocess.run([program, "-c", _WHICH], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
