"""Limits of a run on memory and on failures."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from relevo._hook import hookimpl
from relevo._transport.delivery import DeadLetter, Nack, Settlement

if TYPE_CHECKING:
    from relevo._worker.run import RunOptions

_log = logging.getLogger("relevo.runner")

_SIZES = "/proc/self/statm"


class Limits:
    """
    Objects to taking further events when a limit is reached.

    Args:
        memory: The limit in bytes of this process, without its children.

        failures: The number of deliveries that may end in a retry or a dead letter.
    """

    def __init__(self, *, memory: int | None = None, failures: int | None = None):
        self._memory = memory
        self._failures = failures
        self._failed = 0
        self.objection: str | None = None
        """The name of the limit for which it objected, even if less memory is used since."""

    @classmethod
    def of(cls, options: RunOptions) -> Self:
        """Return the limits that *options* set."""
        return cls(memory=options.max_memory, failures=options.max_failures)

    @property
    def is_set(self) -> bool:
        """Whether there is a limit at all."""
        return self._memory is not None or self._failures is not None

    def reached(self) -> str | None:
        """Return the name of a limit that is reached; ``None`` if none is."""
        if self._failures is not None and self._failed >= self._failures:
            return "failures"
        if self._memory is not None and resident() >= self._memory:
            return "memory"
        return None

    @hookimpl
    def relevo_may_run(self) -> str | None:
        """Object when a limit is reached."""
        reached = self.reached()
        if reached:
            if reached == "failures" and self.objection is None:
                _log.warning("stopped after %d failures; no further event is taken (--max-failures)", self._failed)
            self.objection = reached
        return reached

    @hookimpl
    def relevo_around_settle(self, settlements: Sequence[Settlement]) -> None:
        """Count the failed deliveries."""
        self._failed += sum(isinstance(outcome, (Nack, DeadLetter)) for _, outcome in settlements)


def resident() -> int:
    """Return the resident memory of this process in bytes; without ``/proc`` its maximum so far."""
    try:
        with open(_SIZES, encoding="ascii") as file:  # noqa: PTH123 - pathlib takes long to import
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource  # noqa: PLC0415 - Linux does not need it

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
