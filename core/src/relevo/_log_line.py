"""The form of log lines, of commands and of child processes."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import TextIO

from relevo._visible import visible, visible_lines

_WHOLE = 5
"""Records of one kind that are logged whole."""

_LIBRARIES = ("stevedore", "pika")
"""Libraries that relevo calls, and that log each of their steps; relevo logs what matters of them."""


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


def log_to_stderr(level: int | str) -> None:
    """Log records of *level* and above to standard error, unless the program has configured logging."""
    logging.basicConfig(level=level.upper() if isinstance(level, str) else level, handlers=[line_handler()])


def line_handler() -> logging.StreamHandler[TextIO]:
    """Return a handler that writes such lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogLineFormatter())
    handler.addFilter(_matters)
    return handler


def _matters(record: logging.LogRecord) -> bool:
    """Return whether *record* is not a mere step of a library whose level the program did not set."""
    library = record.name.partition(".")[0]
    is_a_step = library in _LIBRARIES and record.levelno < logging.WARNING
    return not is_a_step or logging.getLogger(library).level != logging.NOTSET


@contextmanager
def log_repeats_briefly() -> Iterator[None]:
    """
    Log the first records of a kind whole and count the others, for mail from cron; one line for each kind at the end.

    A record has a kind if its ``relevo_kind`` is set. Nothing changes if the program has configured logging.
    """
    handlers = [each for each in logging.root.handlers if isinstance(each.formatter, LogLineFormatter)]
    seen: Counter[tuple[str, int, str]] = Counter()

    def is_whole(record: logging.LogRecord) -> bool:
        if (kind := getattr(record, "relevo_kind", None)) is None:
            return True
        key = (record.name, record.levelno, str(kind))
        seen[key] += 1
        return seen[key] <= _WHOLE

    for handler in handlers[:1]:
        handler.addFilter(is_whole)
    try:
        yield
    finally:
        for handler in handlers[:1]:
            handler.removeFilter(is_whole)
        for (name, level, kind), number in seen.items():
            if number > _WHOLE:
                logging.getLogger(name).log(level, "and %d more like it: %s", number - _WHOLE, kind)


def log_no_retries() -> None:
    """Do not log what is tried again, also in child processes, unless the program has configured logging."""
    if all(isinstance(handler.formatter, LogLineFormatter) for handler in logging.root.handlers):
        logging.getLogger("relevo.listener").setLevel(logging.ERROR)


@contextmanager
def log_to(stream: TextIO, *, instead_of: TextIO) -> Iterator[None]:
    """Let every handler that logs to *instead_of*, also one of the program, log to *stream* while the block runs."""
    root = logging.root
    loggers = [root, *(each for each in root.manager.loggerDict.values() if isinstance(each, logging.Logger))]
    handlers = [
        handler
        for logger in loggers
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is instead_of
    ]
    for handler in handlers:
        handler.setStream(stream)
    try:
        yield
    finally:
        for handler in handlers:
            handler.setStream(instead_of)
