"""
The executor interface, the executor that handles deliveries inline, and what both carry out.

The handling of a delivery is a flow: a generator that decides, and yields each piece of work that may take time. There
are two ways to carry it out. A thread does the work itself, one piece after the other. An event loop awaits the
coroutine of an async listener, and gives all other work to threads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator, Sequence
from logging import getLogger
from types import GeneratorType
from typing import Any, ClassVar, Protocol

from relevo._listener.listener import ListenerTable
from relevo._process_identity import this_process
from relevo._transport.delivery import Delivery, Lost, Outcome
from relevo._transport.envelope import Envelope
from relevo._worker import decision
from relevo._worker.stack import Frame

_log = getLogger("relevo.worker")

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

    at_limit: ClassVar[str] = ""
    """What happens to a listener at its time limit, in words, for the log; empty if nothing enforces the limit."""

    largest_batch: ClassVar[int] = 250
    """The most events that the worker receives at once, unless its options name another number."""

    def watch(self, listeners: ListenerTable) -> ListenerTable:
        """Return *listeners*, or replacements that hold each call to its time limit; by default *listeners*."""
        return listeners

    def stop_when(self, is_ending: Callable[[], bool]) -> None:  # noqa: B027 - most executors have nothing to give back
        """Give back what is submitted and not begun once *is_ending* returns true; by default do nothing."""

    def interrupts(self, step: str) -> bool:
        """Return whether a listener is to stop after its *step*, although the worker goes on; from any thread."""
        return False

    def passed(self, what: str) -> None:  # noqa: B027 - only a test that ends listeners there needs to know
        """Note that a listener has finished or dispatched *what*, in words; from any thread; by default do nothing."""

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

    def frames(self, delivery: Delivery) -> Sequence[Frame]:
        """Return where the listener of *delivery* waits, if it is async and runs on a loop of this process."""
        return ()

    def log_children(self) -> None:  # noqa: B027 - most executors have none
        """Log soon what runs in child processes, since when and where it is; from any thread; by default nothing."""

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


# --- flows --------------------------------------------------------------------------------------------

Blocking = Callable[[], Any]
"""Work that may block: progress is stored, a subject is released, plugins are called."""

Turn = tuple[Callable[..., Any], tuple[Any, ...], Callable[..., Awaitable[Any]] | None]
"""The call of a listener: a function that may block, its arguments, and its twin for an event loop, if there is one."""

Work = Turn | Blocking
"""What a flow waits for."""

Flow = Generator[Work, Any, Outcome]
"""Yields work, takes what that returned or raised, and returns the outcome."""


class Steps(Protocol):
    """
    Returns the flow of the handling of a delivery, or the outcome if there is nothing to do.

    Only one that is carried out on an event loop yields the turns of listeners. In a thread the flow calls them, since
    a turn that is not yielded saves 2 % of the time that an event takes in memory.
    """

    def __call__(self, delivery: Delivery, /, *, on_loop: bool) -> Flow | Outcome: ...


def followed(flow: Flow | Outcome) -> Flow:
    """Return the outcome of *flow*, inside another flow."""
    if not isinstance(flow, GeneratorType):
        return flow  # type: ignore[return-value]  # an outcome
    return (yield from flow)  # type: ignore[no-any-return]  # as it is typed, also what is narrowed is any generator


def carried_out(flow: Flow | Outcome) -> Outcome:
    """Do the work of *flow* in this thread; return its outcome."""
    if not isinstance(flow, GeneratorType):
        return flow  # type: ignore[return-value]  # as above
    try:
        work = flow.send(None)
        while True:
            try:
                done = work[0](*work[1]) if isinstance(work, tuple) else work()
            except BaseException as error:  # noqa: BLE001 - the flow decides
                work = flow.throw(error)
            else:
                work = flow.send(done)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # of any StopIteration


class Handling:
    """
    Handles deliveries as *steps* decide.

    An error outside of a listener ends only the delivery that it occurred in; errors of listeners are handled before.
    ``KeyboardInterrupt`` and ``SystemExit`` pass through.

    Args:
        steps: Returns the flow of a delivery's handling.
    """

    def __init__(self, steps: Steps):
        self._steps = steps

    def __call__(self, delivery: Delivery) -> Outcome:
        """Handle *delivery* in this thread; return its outcome."""
        try:
            return carried_out(self._steps(delivery, on_loop=False))
        except Exception as error:  # noqa: BLE001 - any error; other deliveries must go on
            return _unhandled(delivery, error)

    async def on_loop(self, delivery: Delivery, do: Callable[[Work], Awaitable[Any]]) -> Outcome:
        """Handle *delivery* on an event loop, where *do* awaits each piece of work; return its outcome."""
        try:
            flow = self._steps(delivery, on_loop=True)
            if not isinstance(flow, GeneratorType):
                return flow  # type: ignore[return-value]  # as above
            work = flow.send(None)
            while True:
                try:
                    done = await do(work)
                except BaseException as error:  # noqa: BLE001 - the flow decides
                    work = flow.throw(error)
                else:
                    work = flow.send(done)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # as above
        except Exception as error:  # noqa: BLE001 - as above
            return _unhandled(delivery, error)


def _unhandled(delivery: Delivery, error: Exception) -> Outcome:
    _log.exception("%s could not be handled", delivery)
    return decision.unhandled(delivery, error)
