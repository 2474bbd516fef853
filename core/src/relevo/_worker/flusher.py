"""A thread that flushes settlements, so that the worker receives and calls meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from logging import getLogger
from typing import Self

_log = getLogger("relevo.worker")


class Flusher:
    """
    Flushes on request, in a thread of its own, while it is entered.

    Args:
        flush: Flushes all that is pending, as :meth:`Ledger.flush`.
    """

    def __init__(self, flush: Callable[[], None]):
        self._flush = flush
        self._requested = threading.Event()
        self._thread: threading.Thread | None = None
        self._ended = self._failed = False

    def __enter__(self) -> Self:
        self._ended = self._failed = False
        self._thread = threading.Thread(target=self._run, name="relevo-flusher", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ended = True
        self._requested.set()
        if self._thread is not None and (kind is None or issubclass(kind, Exception)):
            self._thread.join()  # an interruption waits for no server

    def request(self) -> bool:
        """
        Request a flush; return ``False`` if the last one failed.

        Then the caller has to flush, and gets the error: what could not be settled is pending again.
        """
        if self._failed:
            self._failed = False
            return False
        self._requested.set()
        return True

    def _run(self) -> None:
        while self._requested.wait() and not self._ended:
            self._requested.clear()
            try:
                self._flush()
            except Exception as error:  # noqa: BLE001 - the worker's thread sees the error too, and decides
                _log.debug("the flusher met %s: %s", type(error).__name__, error)
                self._failed = True
