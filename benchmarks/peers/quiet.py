"""Whether a machine is quiet enough for measurements, since other programs may run on it."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import attrs

BUSY = 0.25
"""The share of all processors that other programs may use."""

_GLANCE = 0.3
_WRITES, _BLOCK = 50, b"x" * 8192
_TIMES = Path("/proc/stat")


@attrs.frozen
class Machine:
    """The state of the machine just before a measurement."""

    busy: float | None
    """The share of all processors that was in use; ``None`` if the system does not report it."""

    sync: float
    """Microseconds until 8 KiB are on disk, the median."""


def wait(folder: Path, *, patience: float) -> Machine:
    """
    Wait for a quiet moment, and return the last state of the machine.

    Args:
        folder: A folder on the disk to measure.

        patience: Seconds to wait at most; after that the measurement begins anyway.
    """
    deadline = time.monotonic() + patience
    while True:
        machine = Machine(_busy(), _sync(folder))
        if machine.busy is None or machine.busy <= BUSY or time.monotonic() >= deadline:
            return machine


def _busy() -> float | None:
    if not _TIMES.exists():
        return None
    before = _times()
    time.sleep(_GLANCE)
    user, _, system, idle, *others = (after - then for after, then in zip(_times(), before, strict=True))
    # Niced processes give way, and processes that wait for a disk use no processor.
    used = user + system + sum(others[1:5])
    return used / max(1, used + idle + others[0])


def _times() -> list[int]:
    return [int(ticks) for ticks in _TIMES.read_text().partition("\n")[0].split()[1:]]


def _sync(folder: Path) -> float:
    took = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(_WRITES):
            began = time.perf_counter()
            file.seek(0)
            file.write(_BLOCK)
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6
