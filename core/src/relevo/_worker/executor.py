"""The executor interface, and the executor that handles deliveries inline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from relevo._listener.listener import ListenerTable
from relevo._process_identity import this_process
from relevo._transport.delivery import Delivery, Lost, Outcome
from relevo._transport.envelope import Envelope

Handle = Callable[[Delivery], Outcome]
"""From a delivery to its outcome, which includes what listeners raise."""


class Executor(ABC):
    """
    Handles deliveries for a worker.

    :meth:`watch` and :meth:`stop_when` are called once, before the worker runs; all methods but :meth:`listening` are
    called from the worker's thread.
    """

    waits: ClassVar[bool] = False
    """
    Whether :meth:`take_finished` waits for a server. If so, and the transport is a :class:`ParallelSettlement`, the
    worker receives and settles meanwhile in threads, even over the connection that both share.
    """

    def watch(self, listeners: ListenerTable) -> ListenerTable:
        """Return *listeners*, or replacements that hold each call to its time limit; by default *listeners*."""
        return listeners

    def stop_when(self, is_ending: Callable[[], bool]) -> None:  # noqa: B027 - most executors have nothing to give back
        """Give back what is submitted and not begun once *is_ending* returns true; by default do nothing."""

    @abstractmethod
    def start(self, handle: Handle) -> None:
        """Get ready to handle deliveries with *handle*."""

    @abstractmethod
    def room(self) -> int:
        """
        Return how many further deliveries can be submitted now.

        Raises:
            TransportUnavailableError: None, since something that the executor needs is down; raised once
                for each attempt that failed; nothing that was submitted waits for it.
        """

    @abstractmethod
    def submit(self, delivery: Delivery) -> None:
        """Begin to handle *delivery*; :meth:`room` was not 0."""

    @abstractmethod
    def take_finished(self, wait: float) -> Sequence[tuple[Delivery, Outcome]]:
        """Return the deliveries that finished since the last call; if there are none, wait up to *wait* seconds."""

    @abstractmethod
    def running(self) -> int:
        """Return how many were submitted and not yet returned by :meth:`take_finished`."""

    def listening(self) -> Sequence[tuple[Delivery, str]]:
        """
        Return the ids of the listeners that run in other processes, each with its delivery; none by default.

        It may be called from any thread.
        """
        return ()

    def passed_on(self, event: Envelope) -> Delivery | None:
        """
        Return the delivery whose event this sent as *event* to another transport a moment ago; by default none.

        It may be called from any thread.
        """
        return None

    @abstractmethod
    def stalled(self) -> Sequence[Delivery]:
        """
        Return the submitted deliveries that are not finished and that nothing works on.

        A running listener, a starting child process and progress that is being stored count as work.
        """

    @abstractmethod
    def stop(self) -> None:
        """End what :meth:`start` began; what still runs is abandoned."""


class SecondSignal(KeyboardInterrupt):  # not SystemExit, which would count as a failure of the listener
    """Raised in the main thread by a second signal, to end it at once."""


class InlineExecutor(Executor):
    """Handles each delivery in the worker's own thread, one after the other."""

    def __init__(self) -> None:
        self._done: list[tuple[Delivery, Outcome]] = []

    def start(self, handle: Handle) -> None:
        self._handle = handle

    def room(self) -> int:
        return 0 if self._done else 1

    def submit(self, delivery: Delivery) -> None:
        try:
            outcome = self._handle(delivery)
        except BaseException as error:
            # A defect or an interrupt, not a failure of a listener: the process ends in the middle of it, as in a
            # crash. It counts as a death, so it cannot block the queue for ever: the third one ends the event.
            why = f"{type(error).__name__} ended the run"
            if isinstance(error, SecondSignal):
                why = "a second TERM or INT stopped the worker in the middle of it"
            self._done.append((delivery, Lost(error=why, death=str(this_process().as_witnessed()))))
            raise
        self._done.append((delivery, outcome))

    def take_finished(self, wait: float) -> Sequence[tuple[Delivery, Outcome]]:
        done, self._done = self._done, []
        return done

    def running(self) -> int:
        return len(self._done)

    def stalled(self) -> Sequence[Delivery]:
        return ()

    def stop(self) -> None:
        self._done = []
