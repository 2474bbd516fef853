"""The format of log lines."""

from __future__ import annotations

import logging
import sys
import time

from relevo._visible import visible, visible_lines


class _Formatter(logging.Formatter):
    """
    Formats each record as one line, since events and errors may contain line breaks.

    A traceback follows in indented lines, so that none looks like a record.
    """

    def __init__(self) -> None:
        self.converter = time.gmtime
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - overrides logging.Formatter
        return visible(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802 - overrides logging.Formatter
        return visible_lines(super().formatException(ei))  # type: ignore[arg-type]

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - overrides logging.Formatter
        return visible_lines(stack_info)


def log_to_stderr(level: str) -> None:
    """Log records of *level* and above to standard error, unless the program has configured logging."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
