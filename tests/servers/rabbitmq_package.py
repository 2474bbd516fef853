"""Install the system's RabbitMQ package; on Debian and its descendants."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence

COMMAND = "sudo apt-get update && sudo apt-get install -y rabbitmq-server"
"""What a person types."""


class InstallError(Exception):
    """Raised when the package cannot be installed; says why."""


def install(environ: Mapping[str, str] = os.environ) -> None:
    """
    Install RabbitMQ.

    The package may start a system service of its own at the standard port. It is left alone: the
    tests start a private node.

    Raises:
        InstallError: This is no Debian, we may not, or apt-get failed.
    """
    update, add = _commands(environ)
    print("installing RabbitMQ with apt-get", file=sys.stderr, flush=True)
    # The lists may be fresh enough although they cannot be brought up to date.
    complaints = [_complaint(update, environ), failure := _complaint(add, environ)]
    if failure:
        raise InstallError("\n".join(["RabbitMQ could not be installed", *filter(None, complaints)]))


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


def _commands(environ: Mapping[str, str]) -> tuple[list[str], list[str]]:
    path = environ.get("PATH", os.defpath)
    apt_get = shutil.which("apt-get", path=path)
    if apt_get is None:
        raise InstallError(
            "RabbitMQ can be installed only where there is apt-get; "
            "install it by hand, or name a server in RELEVO_TEST_AMQP"
        )
    prefix: list[str] = []
    if os.geteuid():
        sudo = shutil.which("sudo", path=path)
        if sudo is None:
            raise InstallError(f"installing RabbitMQ needs root and there is no sudo; as root, type:  {COMMAND}")
        prefix = [sudo, "-n", "env", "DEBIAN_FRONTEND=noninteractive"]
    patient = ["-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]
    return (
        [*prefix, apt_get, *patient, "update"],
        [*prefix, apt_get, *patient, "install", "-y", "--no-install-recommends", "rabbitmq-server"],
    )
