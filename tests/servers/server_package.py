"""Install the system's package of a server, on Debian and its derivatives."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class InstallError(Exception):
    """Raised when the package cannot be installed; says why."""


def command(package: str) -> str:
    """Return the command for a person to type."""
    return f"sudo apt-get update && sudo apt-get install -y {package}"


def install(package: str, name: str, environ: Mapping[str, str] = os.environ) -> None:
    """
    Install *package* of the server *name*.

    The package may start a system service at the standard port. This service is not used: the
    tests start a private server.

    Raises:
        InstallError: There is no apt-get, root is not allowed, or apt-get failed.
    """
    update, add = _commands(package, name, environ)
    with _alone():
        print(f"installing {name} with apt-get", file=sys.stderr, flush=True)
        # The package lists may be new enough even if they cannot be updated.
        complaints = [_complaint(update, environ), failure := _complaint(add, environ)]
    if failure:
        raise InstallError("\n".join([f"{name} could not be installed", *filter(None, complaints)]))


@contextmanager
def _alone() -> Iterator[None]:
    """Wait until no other process of the tests installs packages, since apt-get fails beside a second update."""
    with (Path(tempfile.gettempdir()) / f"relevo-install-{os.geteuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _complaint(command: Sequence[str], environ: Mapping[str, str]) -> str:
    done = subprocess.run(
        command,
        env=dict(environ) | {"DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return f"$ {' '.join(command)}\n{done.stdout.strip()}" if done.returncode else ""


def _commands(package: str, name: str, environ: Mapping[str, str]) -> tuple[list[str], list[str]]:
    path = environ.get("PATH", os.defpath)
    apt_get = shutil.which("apt-get", path=path)
    if apt_get is None:
        raise InstallError(
            f"{name} can be installed only where there is apt-get; "
            f"install it by hand, or name a server in the environment"
        )
    prefix: list[str] = []
    if os.geteuid():
        sudo = shutil.which("sudo", path=path)
        if sudo is None:
            raise InstallError(f"installing {name} needs root and there is no sudo; as root, type:  {command(package)}")
        prefix = [sudo, "-n", "env", "DEBIAN_FRONTEND=noninteractive"]
    patient = ["-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]
    return (
        [*prefix, apt_get, *patient, "update"],
        [*prefix, apt_get, *patient, "install", "-y", "--no-install-recommends", package],
    )
