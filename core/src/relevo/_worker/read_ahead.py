"""A thread that receives the next batch, so that the worker calls listeners meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Self

from relevo._transport.delivery import Delivery

_Results = SimpleQueue[Sequence[Delivery] | BaseException]


class ReadAhead:
    """
    Receives one batch on request, in a thread of its own, while it is entered.

    Args:
        receive: Receives up to a number of deliveries, without waiting for events; called in the thread.

        release: Gives back what came after the end, when nothing takes it any more; called in the thread.
    """

    def __init__(self, receive: Callable[[int], Sequence[Delivery]], release: Callable[[Sequence[Delivery]], object]):
        self._receive = receive
        self._release = release
        self._requests: SimpleQueue[int] = SimpleQueue()
        self._results: _Results = SimpleQueue()
        self._lock = threading.Lock()
        self._begun = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._requested = self._ended = False
        self.limit = 0
        """The limit of the last request."""

    def __enter__(self) -> Self:
        # New ones: the thread of an interrupted run may still use the others.
        self._requests, self._results = SimpleQueue(), SimpleQueue()
        self._requested = self._ended = False
        queues = (self._requests, self._results)
        self._thread = threading.Thread(target=self._run, args=queues, name="relevo-read-ahead", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._lock:
            self._ended = True
        self._requests.put(0)
        if self._thread is not None and (kind is None or issubclass(kind, Exception)):
            self._thread.join()  # an interruption waits for no server

    def request(self, limit: int) -> None:
        """Receive at most *limit* deliveries; :meth:`take` returns them."""
        self.limit = limit
        self._requests.put(limit)
        self._requested = True
        self._begun.acquire()  # this thread would keep the interpreter to itself while it calls quick listeners

    def take(self) -> Sequence[Delivery]:
        """
        Return what was requested, and nothing if nothing was; raise what the receive raised.

        It waits for the receive, but not after the end: what comes later is released.
        """
        if not self._requested:
            return ()
        try:
            result = self._results.get(block=not self._ended)
        except Empty:
            return ()
        self._requested = False
        if isinstance(result, BaseException):
            raise result
        return result

    def _run(self, requests: SimpleQueue[int], results: _Results) -> None:
        while limit := requests.get():
            self._begun.release()
            result: Sequence[Delivery] | BaseException
            try:
                result = self._receive(limit)
            except BaseException as error:  # noqa: BLE001 - the worker's thread waits for it, and raises it
                result = error
            with self._lock:
                is_late = self._ended or results is not self._results
                if not is_late:
                    results.put(result)
            if is_late and not isinstance(result, BaseException):
                self._release(result)
