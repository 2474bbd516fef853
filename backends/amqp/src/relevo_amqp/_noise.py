"""
Filters for pika's log records where relevo raises the same error.

pika logs a refused password in five lines at level ERROR, and a server that is down in seven. Then relevo raises the
same error once. So the filter drops the records that pika logs while a transport uses it. It keeps those of other
code, since the application may use pika itself, and all of them once a level is set for the logger ``pika`` or one
below it.
"""

from __future__ import annotations

import logging
import threading

DRIVER = "pika"


class Quiet(threading.local):
    """A context in which the driver logs nothing in this thread, unless a level is set for its logger."""

    depth = 0

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1


quiet = Quiet()


def hush() -> None:
    """Add the filter to the existing loggers of the driver; call it after the driver's import."""
    for name, logger in tuple(logging.root.manager.loggerDict.items()):
        if name.partition(".")[0] == DRIVER and isinstance(logger, logging.Logger):
            logger.addFilter(_wanted)  # once: the same filter is not added twice


def _wanted(record: logging.LogRecord) -> bool:
    return not quiet.depth or _asked_for(record.name)


def _asked_for(name: str) -> bool:
    """Return whether a level is set for the logger *name*, or for one above it up to the driver's."""
    while name:
        if logging.getLogger(name).level != logging.NOTSET:
            return True
        name = name.rpartition(".")[0]
    return False
