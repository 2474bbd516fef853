"""A private server as a process: free ports, its own folder, and its end by process id."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

START_LIMIT = 180.0
"""Seconds for a server to answer; three are usual for RabbitMQ."""

STOP_LIMIT = 20.0
"""Seconds for a server to end after a signal, before it is killed; one is usual."""

_PORTS = (20_000, 32_768)

_CHANCE = random.SystemRandom()
"""Hypothesis seeds the module's own generator alike in all processes."""


class StartError(Exception):
    """Raised when a private server cannot be started; shows the end of its log."""


def temporary_folder(name: str, *, under: Path | None = None) -> tempfile.TemporaryDirectory[str]:
    """Return a new folder for the server *name*, deleted at the end of the block."""
    return tempfile.TemporaryDirectory(prefix=f"relevo-{name}-", dir=under, ignore_cleanup_errors=True)


def free_ports(count: int) -> list[int]:
    """
    Return *count* different ports of loopback.

    They lie below those that Linux and macOS give to outgoing connections. So while a server that was killed starts
    again, no connection of another process takes its port.
    """
    with ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            port = _CHANCE.randrange(*_PORTS)
            free = stack.enter_context(socket.socket())
            with suppress(OSError):
                free.bind(("127.0.0.1", port))
                found.append(port)
        return found


def search_path(environ: Mapping[str, str], folders: Sequence[str]) -> str:
    """Return the PATH with *folders*: an ordinary user's PATH may lack the folders of servers."""
    return os.pathsep.join([environ.get("PATH", os.defpath), *folders])


def tied(command: Sequence[str], *, path: str, stop: signal.Signals = signal.SIGTERM) -> Sequence[str]:
    """Return *command*, changed so that Linux sends it *stop* when the process that started it ends."""
    setpriv = shutil.which("setpriv", path=path)
    return [setpriv, "--pdeathsig", stop.name.removeprefix("SIG"), "--", *command] if setpriv else command


def spawn(
    command: Sequence[str],
    environ: Mapping[str, str],
    log: Path,
    *,
    path: str,
    account: pwd.struct_passwd | None = None,
    stop: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """
    Start *command*.

    It has its own session, since Ctrl-C is for the tests, and it is ended after them. If this process is killed,
    Linux ends it.

    Args:
        command: The program and its arguments.

        environ: Its environment.

        log: The file of its output.

        path: Where setpriv is looked up.

        account: The user that runs it, in the folder of *log*, since this user may not enter the current one. By
            default it is the user of this process.

        stop: The signal with which Linux ends it.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            tied(command, path=path, stop=stop),
            env=environ,
            cwd=log.parent if account else None,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes], stop: signal.Signals = signal.SIGTERM) -> None:
    """End *process* with the signal *stop*, and wait for it."""
    process.send_signal(stop)
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(
    ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, *, name: str, limit: float = START_LIMIT
) -> None:
    """
    Return when *ready* returns true.

    Args:
        ready: Called five times a second.

        process: The server.

        log: The file of its output.

        name: The name of its kind.

        limit: Seconds to wait.

    Raises:
        StartError: The server ended, or *limit* is over.
    """
    deadline = time.monotonic() + limit
    while not ready():
        if process.poll() is not None:
            raise StartError(f"the private {name} ended with {process.returncode}\n{last_words(log)}")
        if time.monotonic() > deadline:
            raise StartError(f"the private {name} did not answer within {limit:g} s\n{last_words(log)}")
        time.sleep(0.2)


def last_words(log: Path) -> str:
    """Return the end of the output in the file *log*."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])
