"""
A private cron daemon, with its own crontabs, mail and log, in a mount namespace that ends with it.

It does not see the machine's crontabs, and the machine does not see its crontabs. It needs root and Linux.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

from server_process import search_path, spawn, temporary_folder
from server_starter import NotFoundError, system_program

_FOLDERS = ("/usr/sbin", "/sbin")
_SPOOL = Path("/var/spool/cron/crontabs")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_PAM = "auth sufficient pam_permit.so\naccount sufficient pam_permit.so\nsession sufficient pam_permit.so\n"

_SENDMAIL = """#!/bin/sh
mail=$(mktemp {mails}/XXXXXX.new)
cat > "$mail" && mv "$mail" "${{mail%.new}}.mail"
"""

# The last mount hides the programs that mount.
_WORLD = """set -e
mount --bind {folder}/crontabs /var/spool/cron/crontabs
mount --bind {folder}/nothing /etc/cron.d
mount --bind {folder}/crontab /etc/crontab
mount --bind {folder}/pam /etc/pam.d/cron
mount -t tmpfs none /run
mount --bind {folder}/dev /dev
mount --bind {folder}/sbin /usr/sbin
exec /usr/sbin/cron -f -L 7
"""


class Cron:
    """A running cron daemon."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]):
        self._folder = folder
        self._process = process
        self.log: list[str] = []
        """The lines that it wrote to the system's log."""

    def run(self, *words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a command in its mount namespace, which shows its crontabs."""
        enter = ["nsenter", f"--target={self._process.pid}", "--mount", f"--wdns={cwd}", "--", *words]
        return subprocess.run(enter, capture_output=True, text=True, check=False)

    def mails(self) -> list[EmailMessage]:
        """Return the mails that it has sent, the oldest first."""
        found = sorted((self._folder / "mails").glob("*.mail"), key=lambda path: path.stat().st_mtime_ns)
        return [message_from_bytes(path.read_bytes(), policy=policy.default) for path in found]


@contextmanager
def running(environ: Mapping[str, str] = os.environ) -> Iterator[Cron]:
    """
    Start a daemon, yield it, and end it with all that it runs.

    Raises:
        NotFoundError: It cannot run on this machine.

        InstallError: The package could not be installed.
    """
    path = search_path(environ, _FOLDERS)
    if os.geteuid() or not shutil.which("unshare", path=path) or not shutil.which("nsenter", path=path):
        raise NotFoundError("a private cron needs root, unshare and nsenter")
    program = system_program("cron", "cron", environ, folders=_FOLDERS)
    if not _SPOOL.is_dir():
        raise NotFoundError(f"a private cron needs {_SPOOL}")
    disk = Path("/var/tmp")  # noqa: S108 - a private folder is made in it; not in memory, as cron has its own /dev
    log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with temporary_folder("cron", under=disk) as name, log:
        folder = Path(name)
        folder.chmod(0o755)
        _furnish(folder, program)
        log.bind(str(folder / "dev" / "log"))
        world = _WORLD.format(folder=shlex.quote(name))
        command = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", world]
        process = spawn(command, environ, folder / "output", path=path)
        cron = Cron(folder, process)
        listener = threading.Thread(target=_listen, args=(log, cron.log), daemon=True)
        listener.start()
        try:
            _wait_for_start(cron, folder / "output", process)
            yield cron
        finally:
            with suppress(ProcessLookupError):  # it did not start
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            log.shutdown(socket.SHUT_RDWR)
            listener.join(timeout=5.0)


def _furnish(folder: Path, program: Path) -> None:
    for each in ("nothing", "dev", "sbin", "mails", "crontabs"):
        (folder / each).mkdir()
    for each in _DEVICES:
        os.mknod(folder / "dev" / each, (Path("/dev") / each).stat().st_mode, (Path("/dev") / each).stat().st_rdev)
    spool = _SPOOL.stat()
    os.chown(folder / "crontabs", spool.st_uid, spool.st_gid)
    (folder / "crontabs").chmod(spool.st_mode & 0o7777)
    (folder / "crontab").touch(mode=0o644)
    (folder / "pam").write_text(_PAM)
    shutil.copy(program, folder / "sbin" / "cron")
    sendmail = folder / "sbin" / "sendmail"
    sendmail.write_text(_SENDMAIL.format(mails=shlex.quote(str(folder / "mails"))))
    sendmail.chmod(0o755)


def _listen(log: socket.socket, lines: list[str]) -> None:
    while line := log.recv(65536):
        lines.append(line.decode(errors="replace"))


def _wait_for_start(cron: Cron, output: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10.0
    while not any("STARTUP" in line or "INFO" in line for line in cron.log):
        if process.poll() is not None or time.monotonic() > deadline:
            raise NotFoundError(f"a private cron does not start here: {output.read_text(errors='replace').strip()}")
        time.sleep(0.05)
