"""A thread that receives the next batch, so that the worker calls listeners meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Self

from relevo._transport.delivery import Delivery


class ReadAhead:
    """
    Receives one batch on request, in a thread of its own, while it is entered.

    Args:
        receive: Receives up to a number of deliveries, without waiting for events; called in the thread.
    """

    def __init__(self, receive: Callable[[int], Sequence[Delivery]]):
        self._receive = receive
        self._requests: SimpleQueue[int] = SimpleQueue()
        self._results: SimpleQueue[Sequence[Delivery] | BaseException] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._requested = False
        self.limit = 0
        """The limit of the last request."""

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="relevo-read-ahead", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.put(0)
        if self._thread is not None:
            self._thread.join()

    def request(self, limit: int) -> None:
        """Receive at most *limit* deliveries; :meth:`take` returns them."""
        self._requested, self.limit = True, limit
        self._requests.put(limit)

    def take(self) -> Sequence[Delivery]:
        """Return what was requested, and wait for it; nothing if nothing was. Raises what the receive raised."""
        if not self._requested:
            return ()
        result = self._results.get()
        self._requested = False  # not before: an interruption leaves the result for the next call
        if isinstance(result, BaseException):
            raise result
        return result

    def _run(self) -> None:
        while limit := self._requests.get():
            try:
                self._results.put(self._receive(limit))
            except BaseException as error:  # noqa: BLE001 - the worker's thread waits for it, and raises it
                self._results.put(error)
