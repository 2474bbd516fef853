"""
Filters for pika's log records where relevo raises the same error.

pika tells of a refused password in five lines at level ERROR, of a server that is down in seven, and
then hands the error to relevo, which says it once. So what pika logs in the thread of a transport is
dropped. What the application does with pika in its own threads is none of our business, and whoever
sets a level for ``pika``, or for one of its modules, gets all of it.
"""

from __future__ import annotations

import logging
import threading

DRIVER = "pika"


class QuietThread(threading.Thread):
    """A thread in which the driver logs nothing, unless somebody wants it to."""


def hush() -> None:
    """Have the driver's loggers know a :class:`QuietThread`; those that there are, so after its import."""
    for name, logger in tuple(logging.root.manager.loggerDict.items()):
        if name.partition(".")[0] == DRIVER and isinstance(logger, logging.Logger):
            logger.addFilter(_wanted)  # once: the same filter is not added twice


def _wanted(record: logging.LogRecord) -> bool:
    return not isinstance(threading.current_thread(), QuietThread) or _asked_for(record.name)


def _asked_for(name: str) -> bool:
    """Return whether somebody set a level for the logger *name*, or for one above it up to the driver's."""
    while name:
        if logging.getLogger(name).level != logging.NOTSET:
            return True
        name = name.rpartition(".")[0]
    return False
