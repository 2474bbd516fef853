"""Turn a delivery into its outcome: decode the event, call the listeners that are due, decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from functools import partial
from logging import getLogger
from math import inf
from threading import get_ident
from typing import Final

import attrs
import msgspec

from relevo._awaited import refuse_undone
from relevo._clock import Clock
from relevo._event.codec import Document, context_of, decoded, generic, typed
from relevo._event.context import Ambient, enter, leave
from relevo._event.subject import Subject, SubjectLoader
from relevo._hook import Hooks, Observer, notify, observe
from relevo._listener.call import Call, Outgoing
from relevo._listener.listener import Listener, ListenerTable, policy_of
from relevo._listener.process_loop import awaited
from relevo._retry import Retry
from relevo._transport.delivery import Ack, DeadLetter, Delivery, Outcome
from relevo._transport.envelope import Envelope
from relevo._worker import decision
from relevo._worker.decision import Reason
from relevo._worker.executor import Handle
from relevo._worker.ledger import Reminder
from relevo._worker.listener_log import log_failure
from relevo._worker.progress import (
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
    NotCalled,
    TransactionalCall,
    Transactions,
    Uncommitted,
    after_unknown,
    finished,
)
from relevo.errors import DecodeError, LeaseLostError, RelevoError, SubjectMissingError, TransportClosedError

_log = getLogger("relevo.worker")
_ACK = Ack()


# --- how the call of a listener ends -------------------------------------------------------------------


class _Result(Enum):
    DONE = auto()
    PUT_OFF = auto()
    """It could not run, and is called again later, at the time in its progress."""


class _Failed(msgspec.Struct, frozen=True):
    error: BaseException
    """What the listener raised."""


class _Unfit(msgspec.Struct, frozen=True):
    """The listener cannot be called for this event, ever."""

    reason: Reason
    error: str


_DONE: Final = _Result.DONE  # until Python 3.12 a member of an enum is slow to get
_Noted = _Result | NotCalled | _Failed | _Unfit
_Ended = _Noted | Uncommitted


def contained(handle: Handle) -> Handle:
    """
    Wrap *handle* so that an error outside of a listener ends only the delivery that it occurred in.

    Errors of listeners are handled before. ``KeyboardInterrupt`` and ``SystemExit`` pass through.
    """

    def outcome(delivery: Delivery) -> Outcome:
        try:
            return handle(delivery)
        except Exception as error:  # noqa: BLE001 - any error; other deliveries must go on
            _log.exception("%s could not be handled", delivery)
            return decision.unhandled(delivery, error)

    return outcome


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

        transactions: Those of transactional listeners.

        checkpoint: Stores progress in the middle of a delivery; ``None`` if the transport does not claim that.

        hooks: Plugins that observe the calls.

        queue_retry: From a queue to the retry policy of listeners without one.

        patience: Seconds for which events that this process cannot handle are given back.

        outgoing: Sends the events that listeners dispatch by their call.

        runs: Notes which listener of a delivery with lost leases runs; ``None`` if no evidence is kept.

        running: Gets the listener that runs in each thread, with its delivery.
    """

    _listeners: ListenerTable
    _first_queue: Callable[[str], str]
    _subjects: SubjectLoader
    _clock: Clock
    _chance: Callable[[], float]
    _transactions: Transactions = attrs.field(factory=Transactions)
    _checkpoint: Callable[[Delivery, bytes], None] | None = None
    _hooks: Hooks = attrs.field(factory=Hooks)
    _queue_retry: Callable[[str], Retry | None] = lambda _: None
    _patience: float = decision.PATIENCE
    _outgoing: Outgoing | None = None
    _runs: Callable[[Delivery, str], None] | None = None
    _running: dict[int, tuple[Delivery, str]] = attrs.field(factory=dict)
    _reminder: Reminder = attrs.field(init=False)
    _transaction_reminder: Reminder = attrs.field(init=False)
    _around: Sequence[Observer] = attrs.field(init=False)
    _around_call: Sequence[Observer] = attrs.field(init=False)
    _failure_observers: Sequence[Observer] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._reminder, self._transaction_reminder = Reminder(self._clock), Reminder(self._clock)
        self._around = self._hooks.observers("relevo_around_handle")
        self._around_call = self._hooks.observers("relevo_around_call")
        self._failure_observers = self._hooks.observers("relevo_listener_failed")

    def outcome(self, delivery: Delivery) -> Outcome:
        """
        Return the outcome of *delivery*, which includes what its listeners raise.

        Raises:
            KeyboardInterrupt: A listener was interrupted from the terminal.
        """
        if self._around:
            with observe(self._around, delivery=delivery):
                return self._outcome(delivery)
        return self._outcome(delivery)

    def _outcome(self, delivery: Delivery) -> Outcome:
        now = self._clock.now()
        envelope = delivery.envelope
        if not isinstance(envelope, Envelope):
            return decision.unreadable(envelope)
        late = None if envelope.expires is None else decision.expired(envelope.expires, now)
        if late is not None:
            return late
        try:
            progress = loaded(delivery.state)
            document = decoded(envelope.body)
            if (document.id, document.type, document.source) != (envelope.id, envelope.name, envelope.source):
                return DeadLetter(reason=Reason.MALFORMED, error=decision.sanitised(_two_names(document, envelope)))
            listeners = self._listeners.in_queue(envelope.name, delivery.queue, self._first_queue(envelope.name))
            if not listeners or document.dataversion is not None:
                obstacle = self._obstacle(listeners, document, delivery.queue)
                if obstacle is not None:
                    reason, detail = obstacle
                    return progress.give_back(reason, now, detail=detail, patience=self._patience)
            around = Ambient(context_of(document), document.correlationid or document.id, document.id)
            token = enter(around)  # not a block: a context manager costs a tenth of the call
            try:
                return self._call_due(delivery, document, listeners, progress, now)
            finally:
                leave(token)
                self._running.pop(get_ident(), None)
        except NewerStateError as error:
            return give_back_unread(delivery, now, detail=str(error), patience=self._patience)
        except DecodeError as error:
            return DeadLetter(reason=Reason.MALFORMED, error=decision.sanitised(str(error)))
        except StateTooLargeError as error:
            return DeadLetter(reason=Reason.STATE_TOO_LARGE, error=decision.sanitised(str(error)))

    def _call_due(
        self, delivery: Delivery, document: Document, listeners: Sequence[Listener], progress: Progress, now: float
    ) -> Outcome:
        if delivery.state:
            progress.overcome(Reason.UNKNOWN_EVENT, Reason.NEWER_VERSION)
            progress.adopt_aliases(listeners)
        due = progress.due(listeners, now)
        for listener in due:
            if listener is not due[0] and not self._keep(delivery, progress):
                break
            if delivery.lost_leases and self._runs is not None:
                self._runs(delivery, listener.id)
            self._running[get_ident()] = delivery, listener.id
            call = self._call(listener, delivery, document, progress, listeners) if listener.takes_call else None
            result = self._run(listener, call, document, progress)
            if call is not None:
                self._end(call, progress)
            if result is _DONE and len(listeners) == 1 and not progress.listeners:
                return _ACK
            if isinstance(result, Uncommitted):
                return self._give_back(delivery, listener, listeners, progress, result)
            self._note(delivery, document, listener, progress, result)
            # What a transactional listener asked for counts as its rows do: if they are committed.
            if call is not None and call.stopped and (result is _DONE or not listener.mark.transactional):
                progress.stop(_after(listener, listeners))
                break
        return progress.conclude(listeners, self._clock.now(), patience=self._patience)

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
        match result:
            case _Result.DONE:
                progress.finish(listener)
            case _Failed(error):
                self._note_failure(delivery, document, listener, progress, error)
            case _Unfit(reason, error):
                progress.give_up(listener, reason, error)
            case NotCalled(error):
                self._wait_for_transaction(delivery, listener, progress, error)

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
        )
        if isinstance(call, TransactionalCall):
            state = partial(finished, progress, listener, call, _after(listener, listeners))
            call.within = partial(self._transactions.run, delivery=delivery, call=call, listener=listener, state=state)
        return call

    @staticmethod
    def _end(call: Call, progress: Progress) -> None:
        call.end()
        if call.subject_found:
            progress.overcome(Reason.SUBJECT_MISSING)

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
                around = partial(observe, self._around_call, event=event, listener_id=listener.id)
                run = partial(call.within, partial(_call, listener, event, call), around)
                ending = run() if listener.watched is None else listener.watched(run)
                return ending or _DONE
            if self._around_call:
                with observe(self._around_call, event=event, listener_id=listener.id):
                    _call(listener, event, call)
            else:
                _call(listener, event, call)
        except (KeyboardInterrupt, StateTooLargeError):
            raise
        except SubjectMissingError as error:
            missing = error
        except BaseException as error:  # noqa: BLE001 - SystemExit or a cancelled task must not end the worker
            return _Failed(error)
        else:
            return _DONE
        return self._without_subject(listener, call, document, progress, missing)

    def _without_subject(
        self,
        listener: Listener,
        call: Call | None,
        document: Document,
        progress: Progress,
        missing: SubjectMissingError,
    ) -> _Ended:
        """Return how the call of *listener* ends whose subject is missing: wait for it first, then do as marked."""
        if progress.put_off(listener, Reason.SUBJECT_MISSING, self._clock.now(), patience=self._patience):
            return _Result.PUT_OFF
        if listener.mark.missing == "skip":
            return _Result.DONE
        if listener.mark.missing == "tombstone" and call is not None and call.give_subject_up():
            return self._run(listener, call, document, progress)
        return _Unfit(Reason.SUBJECT_MISSING, str(missing))

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
    result = listener.function(event) if call is None else listener.function(event, call)
    if result is not None:
        # A session that is not async is used by one thread; add() refuses what is seen to be async.
        done = result if isinstance(call, TransactionalCall) else awaited(result, listener.id)
        refuse_undone(done, "the listener")
    if call is not None:
        call.send_held()


def _after(listener: Listener, listeners: Sequence[Listener]) -> Sequence[Listener]:
    """Return those of *listeners* that come after *listener*."""
    return listeners[listeners.index(listener) + 1 :]


def _two_names(document: Document, envelope: Envelope) -> str:
    body, around = (document.type, document.id, document.source), (envelope.name, envelope.id, envelope.source)
    said, wrapped = (f'"{name}" {event_id} from {source}' for name, event_id, source in (body, around))
    return f"the body names {said}, the envelope {wrapped}"
