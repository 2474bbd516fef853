"""The form of log lines, of commands and of child processes."""

from __future__ import annotations

import logging
import sys
import time
from copy import copy
from typing import TextIO

from relevo._visible import visible, visible_lines


class LogLineFormatter(logging.Formatter):
    """
    Formats each record as one line, since events and errors may contain line breaks; passwords are masked.

    A traceback follows in indented lines, so that none looks like a record.
    """

    def __init__(self) -> None:
        self.converter = time.gmtime
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record = copy(record)
        record.exc_text = None  # the traceback as the formatter of another handler has written it
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - overrides logging.Formatter
        return visible(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802 - overrides logging.Formatter
        return visible_lines(super().formatException(ei))  # type: ignore[arg-type]

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - overrides logging.Formatter
        return visible_lines(stack_info)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to the present standard error: a progress bar replaces it, so that lines appear above the bar."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(LogLineFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def log_to_stderr(level: int | str) -> None:
    """
    Log records of *level* and above to standard error, unless the program has configured logging.

    Of the library that finds the plugins only warnings are logged; relevo logs what it found.
    """
    handler = _Handler()
    logging.basicConfig(level=level.upper() if isinstance(level, str) else level, handlers=[handler])
    if handler in logging.root.handlers:
        logging.getLogger("stevedore").setLevel(logging.WARNING)


def log_no_retries() -> None:
    """Do not log what is tried again, also in child processes, unless the program has configured logging."""
    if all(isinstance(handler, _Handler) for handler in logging.root.handlers):
        logging.getLogger("relevo.listener").setLevel(logging.ERROR)
