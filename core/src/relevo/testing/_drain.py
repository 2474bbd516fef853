"""Handle ready events, and record the failures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any

import attrs

from relevo._app.check import unheard, unheard_text
from relevo._event.codec import decoded, generic
from relevo._event.event import Event
from relevo._hook import hookimpl
from relevo._listener import process_loop
from relevo._listener.call import Call
from relevo._listener.journal import is_interruption
from relevo._listener.lifespan import Asking, LifespanTable
from relevo._listener.listener import Listener, ListenerTable
from relevo._listener.open_values import OpenValues
from relevo._listener.process_loop import awaited
from relevo._listener.wrapper import with_wrappers
from relevo._retry import is_retry_later
from relevo._transport.delivery import Delivery, Failure, Lost, Nack, Outcome, Settlement
from relevo._transport.envelope import Envelope
from relevo._transport.route import Target, outbox_queue
from relevo._transport.transport import DeadLetterEntry, Transport
from relevo._worker.decision import Reason
from relevo._worker.executor import Handle, InlineExecutor
from relevo._worker.progress import failures_of
from relevo._worker.run import Report, RunOptions
from relevo.errors import DecodeError, SubjectMissingError, described
from relevo.testing import _crash
from relevo.testing._crash import Crashes
from relevo.testing._record import format_event

if TYPE_CHECKING:
    from relevo._app.app import App
    from relevo._worker.worker import Worker

_ALL = 1_000_000
_LONGEST_EVENT = 100


@attrs.frozen(kw_only=True)
class RaisedError:
    """An exception that a listener raised."""

    listener: Listener
    error: BaseException
    traceback: TracebackType | None
    """The traceback from the listener on."""


class OpenValuesForTest(OpenValues):
    """
    What lifespans open inside the block of a test.

    Args:
        lifespans: The lifespans.

        provided: Values in place of what lifespans yield, by type.
    """

    def __init__(self, lifespans: LifespanTable, provided: Mapping[Any, object]):
        super().__init__(lifespans, provided)
        self.failures: list[BaseException] = []
        """What lifespans have raised instead of opening, since the last drain began."""

    def open(self, asking: Asking) -> Mapping[str, object]:
        try:
            return super().open(asking)
        except BaseException as error:
            self.failures.append(error)
            raise


@attrs.frozen(kw_only=True, repr=False)
class DeadEvent:
    """A dead letter, with its event and reason."""

    event: Event | None
    """The event; ``None`` if it cannot be read."""

    id: str
    transport: str
    queue: str
    reason: str
    """A short code, as in :class:`relevo.Reason`."""

    error: str
    """The error, with the tracebacks of its listeners."""

    entry: DeadLetterEntry
    """The stored dead letter."""

    def __repr__(self) -> str:
        return f"<{format_dead(self)}>"


def format_dead(dead: DeadEvent) -> str:
    """Return *dead* in one line: a long event is cut, so that the cause is seen."""
    what = "unreadable bytes" if dead.event is None else format_event(dead.event)
    what = what if len(what) <= _LONGEST_EVENT else f"{what[: _LONGEST_EVENT - 1]}…"
    causes = [_cause(each) for each in failures_of(dead.entry)]
    return f"{what} in {dead.transport}/{dead.queue}: {dead.reason}: {'; '.join(causes)}".rstrip(": ")


def _cause(failure: Failure) -> str:
    first, _, _ = failure.error.partition("\n")
    return f"{failure.listener}: {first}" if failure.listener else first


def dead_events(app: App) -> list[DeadEvent]:
    """Return the dead letters of *app* and its outboxes."""
    places: list[tuple[str, Transport, tuple[str, ...]]] = []
    for name, transport in app.transports.items():
        places.append((name, transport, app.queues(name)))
        if name in app.outboxes:
            places.append((name, app.outboxes[name], (outbox_queue(name),)))
    return [_dead(name, entry) for name, transport, queues in places for entry in _entries(transport, queues)]


def _entries(transport: Transport, queues: tuple[str, ...]) -> Iterator[DeadLetterEntry]:
    after: str | None = None
    if not transport.capabilities.dead_letters:
        return
    while page := transport.dead_letters(queues, after=after, limit=_ALL):
        yield from page
        after = page[-1].ref


def _dead(transport: str, entry: DeadLetterEntry) -> DeadEvent:
    envelope = entry.envelope
    return DeadEvent(
        event=_event(envelope) if isinstance(envelope, Envelope) else None,
        id=envelope.id if isinstance(envelope, Envelope) else "",
        transport=transport,
        queue=entry.queue,
        reason=entry.reason,
        error=entry.error,
        entry=entry,
    )


def _event(envelope: Envelope) -> Event | None:
    try:
        return generic(decoded(envelope.body))
    except DecodeError:
        return None


def drain(
    app: App,
    *,
    twice: bool,
    failed: Callable[[RaisedError], None],
    limit: int,
    interrupted: set[str],
    crashes: Crashes | None = None,
) -> Report:
    """
    Handle ready events on every transport of *app* until none is left.

    Args:
        app: The application.

        twice: Handle every delivery twice.

        failed: Called with each unexpected exception of a listener.

        limit: The largest number of events.

        interrupted: The steps after which a listener stops once; those that come are removed.

        crashes: Ends deliveries at their points; ``None`` to let them come to their end.

    Raises:
        AssertionError: The limit was reached.
    """
    listeners = _ReportingTable(with_wrappers(app.listeners, app.hooks), failed, crashes)
    workers: list[Worker] = []
    relays: list[Worker] = []
    for name in app.transports:
        relay = app.relay(name, RunOptions(until_empty=True))
        relays += [] if relay is None else [relay]
        options = RunOptions(transport=name, until_empty=True, max_events=limit + 1)
        if crashes is not None:
            executor: _Executor = _CrashExecutor(interrupted, crashes)
        else:
            executor = (_TwiceExecutor if twice else _Executor)(interrupted)
        worker = app.worker(options, executor=executor, listeners=listeners)
        worker.waits_for_limits = False  # the clock does not move
        workers.append(worker)
    before = -1
    while True:
        moved = [_of_relay(relay.run()) for relay in relays]
        total = Report.sum_of([*moved, *(worker.run() for worker in workers)])
        if total.handled > limit:
            raise AssertionError(
                f"more than {limit:,} events were handled; does a listener dispatch the event that it handles? "
                f"If that number is expected, pass t.drain(limit=…)"
            )
        if total.handled == before or len(workers) + len(relays) == 1:
            ended = total.done + total.retried + total.dead  # without what was lost on purpose
            return attrs.evolve(total, handled=ended)
        before = total.handled


class Unheard:
    """A plugin that notes the events that were given back because no listener here handles them."""

    def __init__(self) -> None:
        self._events: dict[tuple[str, Target], None] = {}

    @contextmanager
    def watching(self, app: App) -> Iterator[None]:
        """Note what the workers of *app* give back while the block runs."""
        app.hooks.add(self)
        try:
            yield
        finally:
            app.hooks.remove(self)

    @hookimpl
    def relevo_around_settle(self, transport: str, settlements: Sequence[Settlement]) -> None:
        for delivery, outcome in settlements:
            envelope = delivery.envelope
            is_given_back = isinstance(outcome, Nack) and outcome.reason == Reason.UNKNOWN_EVENT
            if is_given_back and isinstance(envelope, Envelope):
                self._events[envelope.name, Target(transport, delivery.queue)] = None

    def texts(self, app: App) -> list[str]:
        """Return a line for each of the events that *app* should handle."""
        missing = [
            (name, target) for name, target in self._events if target in unheard(name, app.listeners, app.routes)
        ]
        return [unheard_text(name, [target], app.listeners) for name, target in missing]


def _of_relay(report: Report) -> Report:
    """Return *report* of a relay with the dead letters only: relayed events are counted where they are handled."""
    return attrs.evolve(report, handled=report.dead, done=0, retried=0, retry_reasons={})


class _Executor(InlineExecutor):
    """Interrupts listeners after certain steps, once each."""

    def __init__(self, interrupted: set[str]):
        super().__init__()
        self._interrupted = interrupted

    def interrupts(self, step: str) -> bool:
        is_asked = step in self._interrupted
        self._interrupted.discard(step)
        return is_asked


class _TwiceExecutor(_Executor):
    """Handles every delivery twice; the first time the process seems to die before the settlement."""

    def start(self, handle: Handle) -> None:
        def twice(delivery: Delivery) -> Outcome:
            first = handle(delivery)
            if delivery.lost_leases == 0:
                return Lost(state=delivery.state)  # the stored progress is lost too, so that all listeners run again
            is_back = delivery.attempt - delivery.lost_leases == 1
            return first if is_back else handle(delivery)  # losing it again and again would never end

        super().start(twice)


class _CrashExecutor(_Executor):
    """Handles every delivery until the process seems to die, at each of its points in turn."""

    def __init__(self, interrupted: set[str], crashes: Crashes):
        super().__init__(interrupted)
        self._crashes = crashes

    def start(self, handle: Handle) -> None:
        super().start(lambda delivery: self._crashes.handle(delivery, handle))

    def passed(self, what: str) -> None:
        self._crashes.pass_point(what)


class _ReportingTable(ListenerTable):
    """
    Listeners whose exceptions are reported as objects; a worker keeps only their text.

    With *crashes* they are killed too.
    """

    def __init__(self, listeners: ListenerTable, failed: Callable[[RaisedError], None], crashes: Crashes | None = None):
        super().__init__(listeners.event_types)
        self.lifespans = listeners.lifespans
        self._listeners = listeners
        self._failed = failed
        self._crashes = crashes

    def of(self, event_name: str) -> tuple[Listener, ...]:
        return tuple(self._reporting(each) for each in self._listeners.of(event_name))

    def __iter__(self) -> Iterator[Listener]:
        return map(self._reporting, self._listeners)

    def __len__(self) -> int:
        return len(self._listeners)

    def _reporting(self, listener: Listener) -> Listener:
        @wraps(listener.function)  # so that errors name its place
        def function(*arguments: Any, **given: Any) -> object:
            with self._watched(listener, *arguments[1:2]):
                return awaited(listener.function(*arguments, **given), listener.id)

        @wraps(listener.function)
        async def on_loop(*arguments: Any, **given: Any) -> object:
            with self._watched(listener, *arguments[1:2]):
                result: Any = listener.function(*arguments, **given)
                return await result

        is_on_loop = listener.is_async and listener.mark.transactional  # where its transaction is
        return attrs.evolve(listener, function=on_loop if is_on_loop else function)

    @contextmanager
    def _watched(self, listener: Listener, call: Call | None = None) -> Iterator[None]:
        try:
            with nullcontext() if self._crashes is None else self._crashes.calling(listener):
                yield
                if call is not None:
                    call.check_steps()
        except BaseException as error:
            if not _is_expected(listener, error):
                self._failed(RaisedError(listener=listener, error=error, traceback=_from_listener(error)))
            raise


_BEFORE_LISTENER = frozenset({__file__, contextlib.__file__, _crash.__file__, process_loop.__file__})


def _from_listener(error: BaseException) -> TracebackType | None:
    """Return the traceback of *error* from the listener on, whose coroutine may have run in another thread."""
    found = error.__traceback__
    while found is not None and found.tb_frame.f_code.co_filename in _BEFORE_LISTENER:
        found = found.tb_next
    return found or error.__traceback__


def _is_expected(listener: Listener, error: BaseException) -> bool:
    """Return whether *error* is ``RetryLater``, an interruption, or a missing subject that *listener* handles."""
    if is_interruption(error):
        return True
    if isinstance(error, SubjectMissingError):
        return listener.mark.missing != "fail"
    return is_retry_later(error)


def format_raised(failure: RaisedError) -> str:
    """Return *failure* in one line."""
    return f"{failure.listener.id}: {described(failure.error)}"
