"""Turn a delivery into its outcome: decode the event, call the listeners that are due, decide."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from enum import Enum, auto
from functools import partial
from logging import INFO, getLogger
from math import inf
from typing import Any, Final, Literal

import attrs
import msgspec

from relevo._awaited import refuse_undone
from relevo._clock import Clock
from relevo._event.codec import DEFAULT_SOURCE, Document, context_of, decoded, generic, typed
from relevo._event.context import NO_CONTEXT, Ambient, enter, leave
from relevo._event.subject import Subject, SubjectLoader
from relevo._hook import Hooks, Observer, notify, observe
from relevo._listener.call import Call, Outgoing
from relevo._listener.journal import Journal, StepTransaction, is_interruption
from relevo._listener.lifespan import LifespanTable
from relevo._listener.listener import Listener, ListenerTable, policy_of
from relevo._listener.open_values import OpenValues
from relevo._listener.process_loop import SMALL_WORK, awaited, in_thread
from relevo._retry import Retry
from relevo._transport.delivery import Ack, DeadLetter, Delivery, Outcome
from relevo._transport.envelope import Envelope
from relevo._transport.sent_to import SentTo, sent_to
from relevo._visible import visible
from relevo._worker import decision
from relevo._worker.decision import Reason
from relevo._worker.executor import Flow, Steps, Work, carried_out, followed
from relevo._worker.ledger import Reminder
from relevo._worker.listener_log import log_done, log_failure
from relevo._worker.progress import (
    STATE_VERSION,
    NewerStateError,
    Progress,
    StateTooLargeError,
    dumped,
    give_back_unread,
    loaded,
)
from relevo._worker.transaction import (
    COMMIT_UNKNOWN,
    FIRST,
    NO_TRANSACTION,
    NOT_OPENED,
    Ending,
    NotCalled,
    TransactionalCall,
    Transactions,
    Uncommitted,
    after_unknown,
    finished,
)
from relevo.errors import (
    DecodeError,
    LeaseLostError,
    RelevoError,
    SubjectMissingError,
    TransportClosedError,
    described,
)

_log = getLogger("relevo.worker")
_listener_log = getLogger("relevo.listener")
_ACK = Ack()


# --- how the call of a listener ends -------------------------------------------------------------------


class _Result(Enum):
    DONE = auto()
    PUT_OFF = auto()
    """It could not run, and is called again later, at the time in its progress."""
    AGAIN = auto()
    """It is to be called once more now."""


class _Failed(msgspec.Struct, frozen=True):
    error: BaseException
    """What the listener raised."""


class _Unfit(msgspec.Struct, frozen=True):
    """The listener cannot be called for this event, ever."""

    reason: Reason
    error: str


class _NotGiven(msgspec.Struct, frozen=True):
    """The listener was not called, since a lifespan that it needs could not be opened."""

    error: BaseException


_DONE: Final = _Result.DONE  # until Python 3.12 a member of an enum is slow to get
_Again = Literal[_Result.AGAIN]
_Noted = Literal[_Result.DONE, _Result.PUT_OFF] | NotCalled | _NotGiven | _Failed | _Unfit
_Ended = _Noted | Uncommitted


@attrs.define(kw_only=True, eq=False, repr=False)
class Caller:
    """
    Calls the listeners of deliveries.

    Args:
        listeners: The listeners of this process.

        first_queue: From the name of an event to the queue of this transport in which listeners without a
            queue of their own are called; empty if that is not a queue of this transport.

        subjects: Loads the subjects of events.

        clock: The source of time.

        chance: Returns random numbers from 0 to 1, for the jitter of retries.

        source: The name of the application.

        transactions: Those of transactional listeners.

        checkpoint: Stores progress in the middle of a delivery; ``None`` if the transport does not claim that.

        hooks: Plugins that observe the calls.

        queue_retry: From a queue to the retry policy of listeners without one.

        patience: Seconds for which events that this process cannot handle are given back.

        outgoing: Sends the events that listeners dispatch by their call.

        runs: Notes which listener of a delivery with lost leases runs; ``None`` if no evidence is kept.

        running: Gets the listener that runs for each delivery, by the identity of that.

        stops: Returns whether a listener is to stop after its step of that name.

        passed: Called with what a listener has finished or dispatched, in words.

        opened: What lifespans have opened, for the listeners that need it.
    """

    _listeners: ListenerTable
    _first_queue: Callable[[str], str]
    _subjects: SubjectLoader
    _clock: Clock
    _chance: Callable[[], float]
    _source: str = DEFAULT_SOURCE
    _transactions: Transactions = attrs.field(factory=Transactions)
    _checkpoint: Callable[[Delivery, bytes], None] | None = None
    _hooks: Hooks = attrs.field(factory=Hooks)
    _queue_retry: Callable[[str], Retry | None] = lambda _: None
    _patience: float = decision.PATIENCE
    _outgoing: Outgoing | None = None
    _runs: Callable[[Delivery, str], None] | None = None
    _running: dict[int, tuple[Delivery, str]] = attrs.field(factory=dict)
    _stops: Callable[[str], bool] = lambda _: False
    _passed: Callable[[str], None] = lambda _: None
    _opened: OpenValues = attrs.field(factory=lambda: OpenValues(LifespanTable()))
    _reminder: Reminder = attrs.field(init=False)
    _transaction_reminder: Reminder = attrs.field(init=False)
    _opening_reminder: Reminder = attrs.field(init=False)
    _around: Sequence[Observer] = attrs.field(init=False)
    _around_call: Sequence[Observer] = attrs.field(init=False)
    _failure_observers: Sequence[Observer] = attrs.field(init=False)
    steps: Steps = attrs.field(init=False)
    """Returns the flow that handles a delivery: by calling its listeners or, on a loop, by yielding their turns."""

    def __attrs_post_init__(self) -> None:
        self._reminder, self._transaction_reminder = Reminder(self._clock), Reminder(self._clock)
        self._opening_reminder = Reminder(self._clock)
        self._around = self._hooks.observers("relevo_around_handle")
        self._around_call = self._hooks.observers("relevo_around_call")
        self._failure_observers = self._hooks.observers("relevo_listener_failed")
        self.steps = self._observed if self._around else self._steps

    def outcome(self, delivery: Delivery) -> Outcome:
        """
        Return the outcome of *delivery*, which includes what its listeners raise.

        Raises:
            KeyboardInterrupt: A listener was interrupted from the terminal.
        """
        return carried_out(self.steps(delivery, on_loop=False))

    def _observed(self, delivery: Delivery, *, on_loop: bool) -> Flow:
        with observe(self._around, delivery=delivery):
            return (yield from followed(self._steps(delivery, on_loop=on_loop)))

    def _steps(self, delivery: Delivery, *, on_loop: bool) -> Flow | Outcome:
        now = self._clock.now()
        envelope = delivery.envelope
        if not isinstance(envelope, Envelope):
            return decision.unreadable(envelope)
        late = None if envelope.expires is None else decision.expired(envelope.expires, now)
        if late is not None:
            return late
        try:
            progress = loaded(delivery.state) if delivery.state else Progress(STATE_VERSION)
            document = decoded(envelope.body)
            if (document.id, document.type, document.source) != (envelope.id, envelope.name, envelope.source):
                return DeadLetter(reason=Reason.MALFORMED, error=decision.sanitised(_two_names(document, envelope)))
            to = sent_to(envelope, source=self._source) if envelope.headers else None
            first = self._first_queue(envelope.name) if to is None else to.first_queue(delivery.queue)
            listeners = self._listeners.in_queue(envelope.name, delivery.queue, first)
            if not listeners or document.dataversion is not None or to is not None:
                obstacle = self._bypassed(document.type, delivery.queue, to, progress) or self._obstacle(
                    listeners, document, delivery.queue
                )
                if obstacle is not None:
                    reason, detail = obstacle
                    return progress.give_back(reason, now, detail=detail, patience=self._patience)
            if delivery.state:
                progress.overcome(Reason.UNKNOWN_EVENT, Reason.LISTENER_BYPASSED, Reason.NEWER_VERSION)
                progress.adopt_aliases(listeners)
        except NewerStateError as error:
            return give_back_unread(delivery, now, detail=str(error), patience=self._patience)
        except DecodeError as error:
            return DeadLetter(reason=Reason.MALFORMED, error=decision.sanitised(str(error)))
        return self._call_due(delivery, document, listeners, progress, now=now, on_loop=on_loop)

    def _call_due(
        self,
        delivery: Delivery,
        document: Document,
        listeners: Sequence[Listener],
        progress: Progress,
        *,
        now: float,
        on_loop: bool,
    ) -> Flow:
        context = context_of(document) if document.relevocontext else NO_CONTEXT
        around = Ambient(context, document.correlationid or document.id, document.id)
        token = enter(around)  # not a block: a context manager costs a tenth of the call
        is_logged = _listener_log.isEnabledFor(INFO)
        try:
            due = progress.due(listeners, now)
            for listener in due:
                is_later = listener is not due[0]
                if (is_later or delivery.lost_leases) and not (
                    yield partial(self._may_begin, delivery, listener, progress, is_later=is_later)
                ):
                    break
                self._running[id(delivery)] = delivery, listener.id
                call = self._call(listener, delivery, document, progress, listeners) if listener.takes_call else None
                arguments = (listener, call, document, progress)
                not_given = (yield from self._give(listener, call)) if listener.needs else None
                began = self._clock.monotonic() if is_logged else 0.0
                result = (
                    (yield self._run, arguments, self._run_on_loop if listener.is_async else None)
                    if on_loop and not_given is None
                    else not_given or self._run(*arguments)
                )
                if is_logged and result is _DONE:
                    log_done(delivery, listener.id, seconds=self._clock.monotonic() - began)
                if call is not None and call.end():
                    yield call.release
                    progress.overcome(Reason.SUBJECT_MISSING)
                if result is _DONE and len(listeners) == 1 and not progress.listeners:
                    return _ACK
                if isinstance(result, Uncommitted):
                    return self._give_back(delivery, listener, listeners, progress, result)
                if isinstance(result, _Failed) and self._failure_observers:
                    yield partial(self._note, delivery, document, listener, progress, result)
                else:
                    self._note(delivery, document, listener, progress, result)
                # What a transactional listener asked for counts as its rows do: if they are committed.
                if call is not None and call.stopped and (result is _DONE or not listener.mark.transactional):
                    progress.stop(_after(listener, listeners))
                    break
            return progress.conclude(listeners, self._clock.now(), patience=self._patience)
        except StateTooLargeError as error:
            return DeadLetter(reason=Reason.STATE_TOO_LARGE, error=decision.sanitised(str(error)))
        finally:
            leave(token)
            self._running.pop(id(delivery), None)

    def _give(self, listener: Listener, call: Call | None) -> Generator[Work, Any, _NotGiven | None]:
        """Give *call* what *listener* needs, and open it in a thread if it is not open; return why that failed."""
        given: Any = self._opened.values(listener)
        if given is None:
            given = yield self._open, (listener,), None
        if isinstance(given, _NotGiven):
            return given
        if call is not None:
            call.given = given
        return None

    def _open(self, listener: Listener) -> Mapping[str, object] | _NotGiven:
        """Open what *listener* needs, and return it by parameter, or why that failed."""
        try:
            return self._opened.open(listener)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - SystemExit of a lifespan must not end the worker
            return _NotGiven(error)

    def _note(
        self,
        delivery: Delivery,
        document: Document,
        listener: Listener,
        progress: Progress,
        result: _Noted,
    ) -> None:
        """Note in *progress* how the call of *listener* ended."""
        if listener.mark.transactional and not isinstance(result, NotCalled):
            progress.overcome(NO_TRANSACTION, COMMIT_UNKNOWN)
        if listener.needs and not isinstance(result, _NotGiven):
            progress.overcome(NOT_OPENED)
        match result:
            case _Result.DONE:
                progress.finish(listener)
            case _Failed(error):
                self._note_failure(delivery, document, listener, progress, error)
            case _Unfit(reason, error):
                progress.give_up(listener, reason, error)
            case NotCalled(error):
                self._wait_for_transaction(delivery, listener, progress, error)
            case _NotGiven(error):
                self._wait_for_lifespan(delivery, listener, progress, error)

    def _give_back(
        self,
        delivery: Delivery,
        listener: Listener,
        listeners: Sequence[Listener],
        progress: Progress,
        ending: Uncommitted,
    ) -> Outcome:
        """Return the outcome after the transaction of *listener* ended so; what is stored decides what runs again."""
        if ending is Uncommitted.UNKNOWN:
            return after_unknown(delivery)
        now = self._clock.now()
        if ending is Uncommitted.UNKNOWN_APART:
            return progress.give_back(COMMIT_UNKNOWN, now, detail="", patience=inf)
        _log.warning("%s: the transaction of %s was refused: it was handed out again", delivery, listener.id)
        progress.postpone(listener, now + FIRST)
        return progress.conclude(listeners, now, patience=self._patience)

    def _wait_for_transaction(
        self, delivery: Delivery, listener: Listener, progress: Progress, error: RelevoError
    ) -> None:
        """Note in *progress* that *listener* was not called; the waits grow, and do not count as runs."""
        progress.put_off(listener, NO_TRANSACTION, self._clock.now(), patience=inf)
        if self._transaction_reminder.take_turn():
            _log.warning("%s waits, since the transaction of %s cannot begin: %s", delivery, listener.id, error)

    def _wait_for_lifespan(
        self, delivery: Delivery, listener: Listener, progress: Progress, error: BaseException
    ) -> None:
        """Note in *progress* that *listener* was not called; the waits grow, and do not count as runs."""
        progress.put_off(listener, NOT_OPENED, self._clock.now(), patience=inf)
        if self._opening_reminder.take_turn():
            _log.warning(
                "%s waits, since what %s needs cannot be opened: %s",
                delivery,
                listener.id,
                visible(described(error)),
                exc_info=error,
            )

    def _call(
        self,
        listener: Listener,
        delivery: Delivery,
        document: Document,
        progress: Progress,
        listeners: Sequence[Listener],
    ) -> Call:
        mine = progress.listeners.get(listener.id)
        call = (TransactionalCall if listener.mark.transactional else Call)(
            listener_id=listener.id,
            queue=delivery.queue,
            attempt=mine.runs + 1 if mine else 1,
            lost_leases=delivery.lost_leases,
            document=document,
            subject=Subject.parsed(document.subject) if document.subject else None,
            subjects=self._subjects,
            outgoing=self._outgoing,
            body=delivery.envelope.body if isinstance(delivery.envelope, Envelope) else b"{}",
            open_journal=partial(self._journal, listener, delivery, progress),
            passed=self._passed,
        )
        if isinstance(call, TransactionalCall):
            state = partial(finished, progress, listener, call, _after(listener, listeners))
            run = self._transactions.run_on_loop if listener.is_async else self._transactions.run
            noted = partial(dumped, progress)
            call.within = partial(run, delivery=delivery, call=call, listener=listener, state=state, noted=noted)
        return call

    def _journal(
        self,
        listener: Listener,
        delivery: Delivery,
        progress: Progress,
        send: Callable[[Sequence[Any]], None],
        transaction: StepTransaction | None,
    ) -> Journal:
        """Return the journal of a call of *listener*, which is part of *progress*, or of what *transaction* records."""

        def store() -> None:
            if self._checkpoint is None:
                dumped(progress)  # so that one that is too large fails now, and not at a stop
            elif not self._keep(delivery, progress):
                raise LeaseLostError(delivery.queue, delivery)

        apart = None if transaction is None else transaction.finished
        return Journal(
            listener_id=listener.id,
            finished=progress.finished_by(listener) if apart is None else apart,
            store=store if transaction is None else transaction.commit,
            is_kept=True,
            stops=self._stops,
            send=send,
            passed=self._passed,
            transaction=transaction,
        )

    def _run(self, listener: Listener, call: Call | None, document: Document, progress: Progress) -> _Ended:
        """
        Call *listener*, in a transaction if it has one, or wait for its subject, and return how that ended.

        Each listener gets a copy of the event, so that a change by one does not reach another.
        """
        kind = listener.event_type
        try:
            try:
                event = typed(document, kind) if kind else generic(document)
            except DecodeError as error:
                return _Unfit(Reason.MALFORMED, str(error))
            if isinstance(call, TransactionalCall):
                run = self._transaction(listener, event, call)
                ending: Any = listener.watched(run) if listener.watched else awaited(run(), listener.id)
                return ending or _DONE
            if self._around_call:
                with observe(self._around_call, event=event, listener_id=listener.id):
                    _call(listener, event, call)
            else:
                _call(listener, event, call)
        except (KeyboardInterrupt, StateTooLargeError):
            raise
        except BaseException as error:  # noqa: BLE001 - SystemExit or a cancelled task must not end the worker
            ended = self._ended_by(error, listener, call, progress)
        else:
            return _DONE
        return self._run(listener, call, document, progress) if ended is _Result.AGAIN else ended

    async def _run_on_loop(
        self, listener: Listener, call: Call | None, document: Document, progress: Progress
    ) -> _Ended:
        """Do as :meth:`_run` does for an async *listener* on the event loop of this thread."""
        kind = listener.event_type
        try:
            try:
                event = typed(document, kind) if kind else generic(document)
            except DecodeError as error:
                return _Unfit(Reason.MALFORMED, str(error))
            if isinstance(call, TransactionalCall):
                run = self._transaction(listener, event, call)
                ending: Ending = await (listener.watched(run) if listener.watched else run())
                return ending or _DONE
            if self._around_call:
                with observe(self._around_call, event=event, listener_id=listener.id):
                    await _call_on_loop(listener, event, call)
            else:
                await _call_on_loop(listener, event, call)
        except (KeyboardInterrupt, StateTooLargeError):
            raise
        except BaseException as error:  # noqa: BLE001 - as above
            ended = self._ended_by(error, listener, call, progress)
        else:
            return _DONE
        return await self._run_on_loop(listener, call, document, progress) if ended is _Result.AGAIN else ended

    def _transaction(self, listener: Listener, event: object, call: TransactionalCall) -> Callable[[], Any]:
        """Return what calls *listener* in a transaction, or a coroutine that does if it is async."""
        function = partial(_call_on_loop if listener.is_async else _call, listener, event, call)
        return partial(call.within, function, partial(observe, self._around_call, event=event, listener_id=listener.id))

    def _ended_by(
        self, error: BaseException, listener: Listener, call: Call | None, progress: Progress
    ) -> _Ended | _Again:
        """Return how a call of *listener* ends that raised *error*: if its subject is missing, as it is marked."""
        if is_interruption(error) or (call is not None and call.is_interrupted):
            _log.info("%s stops between two steps, since the worker ends; its next run continues there", listener.id)
            progress.postpone(listener, 0.0)
            return _Result.PUT_OFF
        if not isinstance(error, SubjectMissingError):
            return _Failed(error)
        if progress.put_off(listener, Reason.SUBJECT_MISSING, self._clock.now(), patience=self._patience):
            return _Result.PUT_OFF
        if listener.mark.missing == "skip":
            return _Result.DONE
        if listener.mark.missing == "tombstone" and call is not None and call.give_subject_up():
            return _Result.AGAIN
        return _Unfit(Reason.SUBJECT_MISSING, str(error))

    def _note_failure(
        self, delivery: Delivery, document: Document, listener: Listener, progress: Progress, error: BaseException
    ) -> None:
        """Note in *progress* that *listener* raised *error*, log it, and notify the observers."""
        policy = policy_of(listener, queue=self._queue_retry(delivery.queue))
        failure = progress.fail(listener, error, policy, now=self._clock.now(), chance=self._chance())
        log_failure(delivery, failure, error, function=listener.function, runs=policy.runs, now=self._clock.now())
        if not self._failure_observers:
            return
        try:
            event = generic(document)
        except DecodeError:  # a declared class may ignore fields that cannot be decoded
            event = generic(msgspec.structs.replace(document, data=msgspec.Raw(b"{}"), data_base64=msgspec.Raw()))
        about = {"delivery": delivery, "event": event, "listener_id": listener.id, "failure": failure}
        notify(self._failure_observers, **about, attempt=failure.attempt, error=error, due=failure.due)

    def _may_begin(self, delivery: Delivery, listener: Listener, progress: Progress, *, is_later: bool) -> bool:
        """Store *progress* before a later listener, and which one runs for a suspect; return whether it may run."""
        if is_later and not self._keep(delivery, progress):
            return False
        if delivery.lost_leases and self._runs is not None:
            self._runs(delivery, listener.id)
        return True

    def _keep(self, delivery: Delivery, progress: Progress) -> bool:
        """Store *progress* if the transport claims that; return whether further listeners may be called."""
        if self._checkpoint is None:
            return True
        state = dumped(progress)
        try:
            self._checkpoint(delivery, state)
        except (LeaseLostError, TransportClosedError):
            return False  # the work of further listeners would be lost: the settlement will be refused
        except Exception as error:  # noqa: BLE001 - any error; it must not hide what the listeners did
            if self._reminder.take_turn():
                _log.warning(
                    "progress of %s could not be stored; a crash now would run listeners again: %s", delivery, error
                )
        return True

    def _bypassed(
        self, event_name: str, queue: str, to: SentTo | None, progress: Progress
    ) -> tuple[Reason, str] | None:
        """Return that a listener would never get the event, which was sent *to* chosen targets; ``None`` if none is."""
        if to is None or progress.stopped:
            return None
        for listener in self._listeners.of(event_name):
            if to.leaves_out(listener.queue, queue) and progress.listeners.keys().isdisjoint(
                (listener.id, *listener.aliases)
            ):
                return Reason.LISTENER_BYPASSED, (
                    f'{listener.id} runs only in the queue "{listener.queue}", which the dispatch left out with to=; '
                    f"dispatch it to that queue too, or remove queue= from the listener and revive this"
                )
        return None

    def _obstacle(self, listeners: Sequence[Listener], document: Document, queue: str) -> tuple[Reason, str] | None:
        """Return why this process cannot handle *document*, as a code and in words, if it cannot."""
        if not listeners:
            elsewhere = {each.queue or self._first_queue(document.type) for each in self._listeners.of(document.type)}
            elsewhere.discard("")  # the first queue is on another transport
            where = f"; its listeners here are in {', '.join(sorted(elsewhere))}" if elsewhere else ""
            return Reason.UNKNOWN_EVENT, f'no listener for "{document.type}" in the queue "{queue}"{where}'
        version = document.dataversion
        if version is not None:
            for listener in listeners:
                kind = listener.event_type
                if kind is not None and version > kind.version:
                    detail = f'"{document.type}" has version {version}, {listener.id} knows {kind.version}'
                    return Reason.NEWER_VERSION, detail
        return None


def _call(listener: Listener, event: object, call: Call | None) -> None:
    """Call *listener*, and send the events of its *call*."""
    result = listener.function(event) if call is None else listener.function(event, call, **call.given)
    if result is not None:
        # A session that is not async is used by one thread; add() refuses what is seen to be async.
        done = result if isinstance(call, TransactionalCall) else awaited(result, listener.id)
        refuse_undone(done, "the listener")
    if call is not None:
        call.send_held()


async def _call_on_loop(listener: Listener, event: object, call: Call | None) -> None:
    """Do as :func:`_call` does for an async *listener*; its events are sent in a thread, unless it has a session."""
    result: Any = listener.function(event) if call is None else listener.function(event, call, **call.given)
    refuse_undone(await result, "the listener")
    if call is not None:
        # With a session they are only enlisted, and that must not be used in another thread.
        if call.holds_events() and not isinstance(call, TransactionalCall):
            await in_thread(SMALL_WORK, call.send_held)
        else:
            call.send_held()


def _after(listener: Listener, listeners: Sequence[Listener]) -> Sequence[Listener]:
    """Return those of *listeners* that come after *listener*."""
    return listeners[listeners.index(listener) + 1 :]


def _two_names(document: Document, envelope: Envelope) -> str:
    body, around = (document.type, document.id, document.source), (envelope.name, envelope.id, envelope.source)
    said, wrapped = (f'"{name}" {event_id} from {source}' for name, event_id, source in (body, around))
    return f"the body names {said}, the envelope {wrapped}"
