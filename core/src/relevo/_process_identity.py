"""The identity of a process, and whether that process is alive."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import ClassVar

import attrs

_TEXT = re.compile(r"([0-9a-f]{1,64}):([0-9a-f-]{0,64}):([0-9]{0,20}):([0-9]{1,10}):([0-9]{1,20})(\+?)", re.ASCII)
_START_TIME = 19
"""Its position in ``/proc/PID/stat`` after the name of the command, see proc_pid_stat(5)."""


@attrs.frozen(kw_only=True)
class ProcessIdentity:
    """
    The identity of one process, unique on all hosts.

    A process id alone is not enough: ids are reused, and every container on a kernel has a process 1.

    Args:
        worker: A random number in hexadecimal; the key under which a transport keeps its presence.

        boot: The kernel's boot id; empty if the system has none.

        namespace: The number of the namespace in which *pid* is valid.

        pid: The process id.

        started: When the process was started, in clock ticks since the kernel booted.

        witnessed: Its parent, or the process itself, saw it end; no further evidence is needed.
    """

    worker: str
    boot: str = ""
    namespace: str = ""
    pid: int = 0
    started: int = 0
    witnessed: bool = False

    def __str__(self) -> str:
        seen = "+" if self.witnessed else ""
        return f"{self.worker}:{self.boot}:{self.namespace}:{self.pid}:{self.started}{seen}"

    @classmethod
    def parsed(cls, text: str) -> ProcessIdentity | None:
        """Return the identity in *text*; ``None`` if *text* is not a valid one."""
        found = _TEXT.fullmatch(text)
        if found is None:
            return None
        worker, boot, namespace, pid, started, seen = found.groups()
        return cls(
            worker=worker, boot=boot, namespace=namespace, pid=int(pid), started=int(started), witnessed=bool(seen)
        )

    def as_witnessed(self) -> ProcessIdentity:
        """Return a copy whose end was seen, with a new random part each time, so that each end counts."""
        return attrs.evolve(self, worker=os.urandom(16).hex(), witnessed=True)

    def shares_host(self, other: ProcessIdentity) -> bool:
        """Return whether a process id means the same to both."""
        return bool(self.boot) and (self.boot, self.namespace) == (other.boot, other.namespace)


def process_identity(pid: int, *, worker: str | None = None) -> ProcessIdentity:
    """Return the identity of the live process *pid*, which is this one or a child in the same namespace."""
    return ProcessIdentity(
        worker=worker or os.urandom(16).hex(),
        boot=_boot(),
        namespace=_namespace(),
        pid=pid,
        started=_started(pid) or 0,
    )


def this_process() -> ProcessIdentity:
    """Return the identity of this process; a forked child has a different one than its parent."""
    pid = os.getpid()
    found = _Own.known
    if found is None or found.pid != pid:
        found = _Own.known = process_identity(pid)
    return found


class _Own:
    known: ClassVar[ProcessIdentity | None] = None


Lives = Callable[[ProcessIdentity], bool | None]
"""Returns whether a process is alive; ``None`` if this host cannot find out."""


def lives_here(process: ProcessIdentity) -> bool | None:
    """
    Return whether *process* is alive, if it runs on this host and in this namespace.

    The kernel's process table decides. A zombie is not alive. A process that was stopped by a signal is alive. A
    process with the same id and another start time is a different one.

    Returns:
        ``None`` if it ran elsewhere, or if this system has no ``/proc``.
    """
    if not this_process().shares_host(process):
        return None
    try:
        fields = _fields(process.pid)
    except (FileNotFoundError, ProcessLookupError):
        return _is_hidden(process.pid)
    except OSError:
        return None
    if fields[0] in "ZX":
        return False
    return int(fields[_START_TIME]) == process.started


def _is_hidden(pid: int) -> bool:
    """Return whether *pid* is alive although ``/proc`` does not show it, as with the mount option ``hidepid``."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _started(pid: int) -> int | None:
    try:
        return int(_fields(pid)[_START_TIME])
    except (OSError, IndexError, ValueError):
        return None


def _fields(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` after the command's name, which may hold spaces and brackets."""
    return _text(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _text(path: str) -> str:
    """Return the content of *path*, without pathlib, which an application that only dispatches need not import."""
    with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123 - see above
        return file.read()


def _boot() -> str:
    try:
        return _text("/proc/sys/kernel/random/boot_id").strip()
    except OSError:
        return ""  # not Linux


def _namespace() -> str:
    try:
        return re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))  # noqa: PTH115 - see _text
    except OSError:
        return ""
