"""
Run the README's two commands on a new Debian: in a folder, with only Python, make, git and a clone of HEAD.

    make test-fresh
    sudo env PYTHONPATH=tests/servers .venv/bin/python tests/machine/fresh.py [COMMAND …]

`make demo` and `make test` run there without and with CI=true, or each COMMAND does, in a shell. This needs root and
debootstrap, which is installed first if that is allowed (see CONTRIBUTING.md). This machine's settings for packages
are copied: apt's mirror and settings, pip's index, proxies and certificates.

Mounts and processes are in their own namespaces, so none is left after any end. The network is this machine's, so
a server at its standard place does not belong to the new machine. The tests do not look for one there, and apt-get
does not start servers that it installs; the tests start their own.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from server_starter import UNAVAILABLE, NotFoundError, system_program

ROOT = Path(__file__).resolve().parents[2]
SUITE = "trixie"
PACKAGES = ("python3", "python3-venv", "make", "git")
COMMANDS = ("make demo", "make test", "CI=true make demo", "CI=true make test")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

OWN = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "RELEVO_TEST_AMQP_STANDARD": "amqp://guest:guest@127.0.0.1:1/",
    "RELEVO_TEST_REDIS_STANDARD": "redis://127.0.0.1:1/0",
    "RELEVO_TEST_POSTGRESQL_STANDARD": "postgresql://postgres@127.0.0.1:1/postgres",
    "RELEVO_TEST_MARIADB_STANDARD": "mariadb+pymysql://root@127.0.0.1:1/test",
}
"""The environment on the new machine, without the copied settings."""

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
PIP_KEYS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")

INSTALL = """set -eu
debootstrap --variant=minbase --include="$PACKAGES" "$SUITE" "$FOLDER" $MIRROR
"""

ENTER = """set -eu
mount --bind "$FOLDER" "$FOLDER"
cd "$FOLDER"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
pivot_root . mnt
exec chroot . sh -c 'umount -l /mnt; exec env --ignore-environment "$@"' sh "$@"
"""
"""Makes the folder the root of its mount namespace, so that no path leads out of it."""

RUN = """cd "$HOME/relevo"
for command; do
    printf '\\n--- a new Debian: %s\\n' "$command"
    sh -c "$command" || { code=$?; printf '\\n--- a new Debian: %s: exit code %s\\n' "$command" "$code"; exit "$code"; }
done
"""


def main(commands: Sequence[str]) -> int:
    """Run *commands*, or the README's, and return the exit code of the first that fails."""
    if os.geteuid():
        print("fresh.py: a new Debian in a folder needs root; run it with sudo", file=sys.stderr)
        return UNAVAILABLE
    signal.signal(signal.SIGTERM, _leave)
    try:
        debootstrap = system_program("debootstrap", "debootstrap", folders=("/usr/sbin",))
        system_program("unshare", "util-linux")
    except NotFoundError as error:
        print(error, file=sys.stderr)
        return UNAVAILABLE
    folder = Path(tempfile.mkdtemp(prefix="relevo-fresh-", dir="/var/tmp"))
    try:
        folder.chmod(0o755)
        environ = {
            **os.environ,
            "PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), str(debootstrap.parent)]),
            "FOLDER": str(folder),
            "SUITE": SUITE,
            "PACKAGES": ",".join(PACKAGES),
            "MIRROR": mirror(),
        }
        if code := apart(["sh", "-c", INSTALL], environ):
            return code
        carry_over(folder)
        clone = ["git", "clone", "--quiet", "--no-hardlinks", f"file://{ROOT}", str(folder / "root" / "relevo")]
        subprocess.run(clone, check=True)
        words = [f"{name}={value}" for name, value in {**OWN, **dict(carried(os.environ))}.items()]
        words += ["sh", "-c", RUN, "sh", *(commands or COMMANDS)]
        return apart(["sh", "-c", ENTER, "sh", *words], environ)
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=False)


def apart(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run *command* in namespaces that end its mounts and processes with it; return its exit code."""
    unshare = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    process = subprocess.Popen([*unshare, *command], env=environ, stdin=subprocess.DEVNULL)
    try:
        return process.wait()
    finally:
        process.kill()
        process.wait()


def mirror() -> str:
    """Return this machine's mirror of Debian packages; empty on another system, or without package lists."""
    said = _said(["apt-get", "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(REPO_URI)", "Created-By: Packages"])
    found = re.search(rf"^Debian {SUITE} (\S+)", said, re.MULTILINE)
    return found[1] if found else ""


def carry_over(folder: Path) -> None:
    """Copy this machine's settings for packages and the network to the system in *folder*."""
    acquire = _said(["apt-config", "dump", "--format", '%F "%v";%n', "Acquire"]).splitlines()
    lines = [line for line in acquire if not line.startswith("Acquire::IndexTargets")]
    (folder / "etc/apt/apt.conf.d/90-carried-over").write_text("\n".join(lines) + "\n")
    if Path("/etc/apt/auth.conf.d").is_dir():
        shutil.copytree("/etc/apt/auth.conf.d", folder / "etc/apt/auth.conf.d", dirs_exist_ok=True)
    for name in ("resolv.conf", "hosts"):
        shutil.copyfile(Path("/etc") / name, folder / "etc" / name)
    if bundle := certificates(os.environ):
        there = folder / CERTIFICATES.relative_to("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle, there)
    policy = folder / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)


def carried(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the variables that give programs the network settings of *environ* and of this machine."""
    for name in PROXIES:
        yield from ((each, environ[each]) for each in (name, name.lower()) if each in environ)
    for line in _said([sys.executable, "-m", "pip", "config", "list"]).splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in PIP_KEYS:
            yield f"PIP_{name.upper().replace('-', '_')}", str(ast.literal_eval(value))
    if certificates(environ):
        yield from ((name, str(CERTIFICATES)) for name in ("SSL_CERT_FILE", "PIP_CERT", "GIT_SSL_CAINFO"))


def certificates(environ: Mapping[str, str]) -> Path | None:
    """Return the file of the certificates that this machine trusts."""
    named = environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    return next((path for path in (Path(named or ""), CERTIFICATES) if path.is_file()), None)


def _said(command: Sequence[str]) -> str:
    """Return the output of *command*; empty if it is not installed."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout


def _leave(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
