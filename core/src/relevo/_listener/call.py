"""The call: the second argument of a listener."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from inspect import iscoroutinefunction
from logging import getLogger
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypedDict, TypeVar, Unpack

import attrs

from relevo._awaited import NOTHING
from relevo._clock import Duration, Moment
from relevo._event.codec import Document, attributes_of, context_of, generic, generic_from
from relevo._event.context import ambient
from relevo._event.event import event_from
from relevo._event.subject import Gone, Subject, SubjectLoader
from relevo._listener.journal import IN, Cursor, Journal, Rows, StepTransaction
from relevo._listener.process_loop import LOADS, in_thread, is_in_loop, process_loop
from relevo._synonym import missing_attribute
from relevo._transport.envelope import Urgency
from relevo.errors import ConfigurationError, SubjectMissingError, shown

T = TypeVar("T")
P = ParamSpec("P")

_log = getLogger("relevo.listener")

_NOTHING: Mapping[str, Any] = {}

_blocking: set[str] = set()
"""The ids of listeners of which it was logged that they load their subject on the event loop."""


class DispatchOptions(TypedDict, total=False):
    """The options of a dispatch; :meth:`App.dispatch` documents them."""

    session: Any
    delay: Duration
    at: Moment | None
    urgency: Urgency
    ordering_key: str | None
    expires: Moment | None
    unique: str | None
    within: Duration
    to: str | Sequence[str] | None


class Outgoing(Protocol):
    """Takes the events that a listener dispatches by its call."""

    def hold(self, event: object, *, key: str, options: DispatchOptions, session: Any = None) -> object:
        """
        Validate *event* and return it for :meth:`send_held`, which gets the same *session*.

        *key* is unique among the events of the call.
        """
        ...

    def send_held(self, held: Sequence[Any], session: Any = None) -> None:
        """Dispatch the events that :meth:`hold` returned, inside the transaction of *session* if there is one."""
        ...


@attrs.define(kw_only=True, eq=False, repr=False)
class Call:
    """
    One call of one listener.

    If the dispatch calls listeners in process, there is no delivery: the attempt is 1 and the queue is ``now``.
    """

    listener_id: str
    """The id of the listener."""

    queue: str
    """The queue that the event was received from."""

    attempt: int
    """1 at the first run of this listener for this event; each listener has its own count."""

    lost_leases: int
    """Earlier deliveries that ended without a settlement: a crash, a lost connection, an expired lease."""

    stopped: bool = attrs.field(default=False, init=False)
    """Whether :meth:`stop_propagation` was called."""

    given: Mapping[str, Any] = attrs.field(default=_NOTHING, init=False)
    """What the listener gets after the call, by parameter: what lifespans yield."""

    _document: Document | None
    _subject: Any
    _subjects: SubjectLoader
    _outgoing: Outgoing | None = None
    _body: bytes = b"{}"
    _event: Any = None
    _event_id: str = ""
    _session: Any = None
    _open_journal: Callable[[Callable[[Sequence[Any]], None], StepTransaction | None], Journal] | None = None
    """
    Returns the journal of the call, which sends events so and commits so; ``None`` without a delivery that keeps one.
    """

    _passed: Callable[[str], None] = lambda _: None
    """Called with what the listener has dispatched, in words."""

    _transaction: StepTransaction | None = attrs.field(default=None, init=False)

    _journal: Journal | None = attrs.field(default=None, init=False)
    _loaded: Any = attrs.field(default=None, init=False)
    _held: list[object] = attrs.field(factory=list, init=False)
    _over: bool = attrs.field(default=False, init=False)
    _has_ended: bool = attrs.field(default=False, init=False)
    _is_released: bool = attrs.field(default=False, init=False)
    _loading: Lock = attrs.field(factory=Lock, init=False)
    _lock: RLock = attrs.field(factory=RLock, init=False)
    _gone: bool = attrs.field(default=False, init=False)

    @property
    def event_id(self) -> str:
        """
        The event's id, the same at every attempt; use it to make effects idempotent.

        With a ``LocalDispatcher`` it is empty, unless the event was made with an id.
        """
        return self._document.id if self._document else self._event_id

    @property
    def source(self) -> str:
        """The application that dispatched it. Empty in process."""
        return self._document.source if self._document else ""

    @property
    def time(self) -> str:
        """When it was dispatched, in the format of RFC 3339. Empty in process."""
        return (self._document.time if self._document else None) or ""

    @property
    def correlation_id(self) -> str | None:
        """The id that all events of one business case share; by default the id of the first event."""
        return (self._document.correlationid or self._document.id) if self._document else ambient().correlation

    @property
    def causation_id(self) -> str | None:
        """The id of the event whose listener dispatched this one. ``None`` in process."""
        return self._document.causationid if self._document else None

    @property
    def context(self) -> Mapping[str, Any]:
        """The context that the application added at the dispatch."""
        return context_of(self._document) if self._document else ambient().context

    @property
    def arguments(self) -> Mapping[str, Any]:
        """
        The event's arguments and its context in one: under a name that both have, the argument.

        Those of a declared class are its data, in the types of JSON.
        """
        own = generic(self._document) if self._document else generic_from(self._event)
        return {**self.context, **own.arguments}

    @property
    def attributes(self) -> Mapping[str, Any]:
        """
        All attributes of the event as a CloudEvent, by name, without its data; empty in process.

        They include the subject as text, also one that is not a type and an id, and the extensions of other programs.
        """
        return attributes_of(self._body)

    @property
    def subject_found(self) -> bool:
        """Whether the listener loaded the subject."""
        return self._loaded is not None

    @property
    def subject(self) -> Any:
        """
        The subject of the event, loaded at the first access; ``None`` if the event has no subject.

        It is a :class:`Gone` for a listener with ``missing="tombstone"`` if the subject was not found in time.

        Raises:
            SubjectMissingError: It is deleted or not committed yet.

            SubjectError: Its type is not registered.
        """
        if not isinstance(self._subject, Subject):
            return self._subject
        if self._loaded is None:
            if process_loop.is_here():
                self._warn_of_blocking()
            self._loaded = self._subjects.load(self._subject)
            if self._loaded is None and self._gone:
                return Gone(self._subject.type, self._subject.id)
            if self._loaded is None:
                raise SubjectMissingError(self._subject)
        return self._loaded

    async def load(self) -> Any:
        """
        Return :attr:`subject`, which is loaded in a thread unless it was loaded before, so that no other task waits.

        For async listeners: afterwards :attr:`subject` has it too. A listener that is cancelled, such as by
        ``asyncio.timeout`` or at its time limit, does not wait for the thread.

        Raises:
            SubjectMissingError: It is deleted or not committed yet.

            SubjectError: Its type is not registered.
        """
        if not isinstance(self._subject, Subject) or self._loaded is not None:
            return self.subject
        return await in_thread(LOADS, self._load_for_loop, is_given_up=lambda: True)

    def _load_for_loop(self) -> Any:
        with self._loading:  # two tasks of the listener may ask for it
            found = self.subject
        if self._has_ended:  # the listener did not wait for it
            self.release()
        return found

    def _warn_of_blocking(self) -> None:
        if self.listener_id not in _blocking:
            _blocking.add(self.listener_id)
            _log.warning(
                "%s: call.subject loads the subject on the event loop, where all other async listeners wait for it; "
                "write await call.load(), which loads it in a thread (logged once)",
                self.listener_id,
            )

    @property
    def session(self) -> Any:
        """
        The session of a transactional listener: what is written with it commits when the listener is done.

        In a listener that the dispatch calls in process, it is the session of the dispatch. The listener neither
        commits nor closes it; a savepoint (``begin_nested()``) is its own.

        Raises:
            ConfigurationError: The listener is not transactional, or it has ended.
        """
        if self._session is None:
            raise ConfigurationError(
                f"{self.listener_id}: call.session is for a transactional listener, until it has ended; write "
                f"@relevo.listener(…, transactional=True), or pass session= to a dispatch that calls it in process"
            )
        return self._session

    def use_session(self, session: Any, transaction: StepTransaction | None = None) -> None:
        """
        Make *session* that of the listener; ``None`` for none. The caller of the listener calls it.

        With *transaction* each finished step commits what was written with it.
        """
        self._session, self._transaction = session, transaction

    def dispatch(
        self,
        event: object,
        arguments: Mapping[str, Any] | None = None,
        *,
        subject: Any = None,
        **options: Unpack[DispatchOptions],
    ) -> Awaitable[None]:
        """
        Dispatch *event* when this listener has returned without an error; if it raises, nothing is sent.

        Inside a step it is sent when that has returned, and for a row of a cursor when that is handled.

        A transactional listener dispatches in its transaction, so the event is there if and only if its effect is. The
        event is validated now. It never waits for a server, so an async listener may await it or not: ``await
        call.dispatch(…)``. A thread, a task or a callback that outlives the listener must use ``app.dispatch(…)``.
        If the listener runs again after a crash and dispatches the same events, they have the same ids, so they are
        duplicates of the first ones.

        Args:
            event: An :class:`Event`, an instance of a declared class, or the name of an event.

            arguments: With a name: the event's data, in the types of JSON.

            subject: With a name: the object that the event is about, as for :class:`Event`.

            options: Those of :meth:`App.dispatch`, except the session.

        Raises:
            ConfigurationError: An option is invalid or not supported, or the listener has ended.

            EncodeError: A value has no exact form in JSON.
        """
        event = event_from(event, arguments, subject)
        if self._outgoing is None or options.get("session") is not None:
            raise ConfigurationError(
                f"{self.listener_id}: call.dispatch() sends after the listener has returned, so it needs an "
                f"application and accepts no session; use app.dispatch(…) to send at once"
            )
        with self._lock:  # a thread may call this while the listener returns: the event is held in time, or refused
            if self._over:
                raise ConfigurationError(
                    f"{self.listener_id}: the listener has ended, so call.dispatch() cannot send any more; "
                    f"use app.dispatch(…), which sends at once"
                )
            step = None if self._journal is None else self._journal.scope_here()
            if step is None:
                held, key = self._held, f"{self.source} {self.listener_id} {len(self._held)}"
            else:
                held, key = step.held, IN.join((self.source, self.listener_id, step.path, str(len(step.held))))
            held.append(self._outgoing.hold(event, key=key, options=options, session=self._session))
        self._passed("call.dispatch")
        return NOTHING

    # --- steps -----------------------------------------------------------------------------------------

    def step(self, name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Call *function*, and note under *name* that it is done; skip it if an earlier run of the listener did it.

        An async listener awaits it: ``await call.step("resize", resize, image)`` with an ``async def``. The note is
        stored at once where the transport claims ``checkpoint``, and with the settlement elsewhere. A crash in the
        middle of *function*, or before the note is stored, runs it again. Events that it dispatches by the call are
        sent before the note. When the worker is to end, the listener stops between two steps, and continues at its
        next run; that counts as no run.

        Args:
            name: The name of the step, which no other step of the listener has, of 1 to 100 characters.

            function: What to do.

            args: Its arguments, not stored: a later run may pass others.

            kwargs: The same.

        Returns:
            What *function* returned, as JSON gives it back, in this run and in later ones: a tuple is a list.

        Raises:
            StepError: The name is invalid, or was used in this run by a step that did not fail; the result has no exact
                form in JSON or more than 2,000 bytes; the step is new, and an earlier run finished one that has not
                begun in this one; another step runs beside it; or one of step and listener is async, and the other is
                not.

            ConfigurationError: The listener has ended.

            LeaseLostError: The event is another worker's now.

            CodecError: The results and names of all steps of the event exceed 16 KiB, and it becomes a dead letter.
        """
        journal = self._opened_journal()
        path = journal.path(name)
        if iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
            if not is_in_loop():
                raise journal.refusal(name, "its function is async, and this listener is not; write it as async def")
            promised = self._step_on_loop(journal, path, partial(function, *args, **kwargs))
            journal.expect_await(path, promised)
            return promised  # type: ignore[return-value]  # it has what the coroutine of *function* has
        if process_loop.is_here():
            raise journal.refusal(
                name, "it is not async, and this listener is; pass an async def, or asyncio.to_thread and it"
            )
        if journal.begin(path):
            journal.stop_here()
            entered = journal.enter(path)
            try:
                value: object = function(*args, **kwargs)
            except BaseException as error:
                journal.fail(path, entered, error)
                raise
            journal.leave(entered)
            value = None if value is NOTHING else value  # of call.dispatch()
            self._refuse_awaitable(journal, name, value)
            try:
                journal.finish(path, value, held=entered.held)
            except BaseException:
                journal.retract(path)
                raise
        result: T = journal.result(path)
        return result

    async def _step_on_loop(self, journal: Journal, path: str, function: Callable[[], Any]) -> Any:
        journal.note_awaited(path)
        if journal.begin(path):
            journal.stop_here()
            entered = journal.enter(path)
            try:
                value = await function()
                await journal.noted(partial(journal.finish, path, value, held=entered.held))
            except BaseException as error:
                journal.fail(path, entered, error)
                raise
            journal.leave(entered)
        return journal.result(path)

    def _refuse_awaitable(self, journal: Journal, name: str, value: object) -> None:
        if hasattr(value, "__await__"):
            getattr(value, "close", int)()
            why = "its function returned an awaitable; pass the async function itself, and its arguments"
            raise journal.refusal(name, why)

    def cursor(self, name: str, rows: Rows[T], *, every: int = 1) -> Cursor[T]:
        """
        Iterate over *rows*, and continue after the last handled row of an earlier run: ``for row in call.cursor(…)``.

        A row is handled when the loop asks for the next one. Then the events that were dispatched for it by the call
        are sent, and the number of handled rows is recorded. An async listener writes ``async for``. *rows* must have
        the same order in each run.

        Args:
            name: Unique among the steps and cursors of the listener, 1 to 100 characters.

            rows: The rows, or a function that takes the number of handled rows and returns the remaining ones.

            every: Store the number after this many rows. A crash repeats the rows since then; a stop and a failure
                repeat none.

        Raises:
            StepError: Raised by the loop, as for :meth:`step`.

            ConfigurationError: As for :meth:`step`, or *every* is not positive.
        """
        if type(every) is not int or every < 1:
            raise ConfigurationError(f"{self.listener_id}: call.cursor(every=…): expected 1 or more; got {every!r}")
        return Cursor(name, rows, every, self._opened_journal())

    def rename_step(self, earlier: str, *, to: str) -> None:
        """
        Use what earlier runs recorded for the step *earlier* as that of *to*.

        Call it before either step begins, and for a step inside another one in the function of that.

        Raises:
            StepError: Such a step has begun in this run, or a name is invalid.
        """
        self._opened_journal().rename(earlier, to)

    def add_steps(self, *names: str) -> None:
        """
        Allow new steps to begin before steps that earlier runs finished. Call it before the new steps begin.

        Raises:
            StepError: A name is invalid.
        """
        self._opened_journal().add(names)

    def forget_steps(self, *names: str) -> None:
        """
        Delete what earlier runs recorded for steps that the listener no longer has.

        Raises:
            StepError: Such a step has begun in this run, or a name is invalid.
        """
        self._opened_journal().forget(names)

    def _opened_journal(self) -> Journal:
        with self._lock:  # several threads of the listener may begin steps
            if self._over:
                raise ConfigurationError(f"{self.listener_id}: the listener has ended, and begins no further step")
            if self._journal is None:
                self._journal = self._made_journal(self._held.extend)
            return self._journal

    def _made_journal(self, hold: Callable[[Sequence[Any]], None]) -> Journal:
        if self._open_journal is None:  # in process, nothing is kept, and events are sent with the listener
            return Journal(listener_id=self.listener_id, send=hold)
        send = hold if self._outgoing is None else partial(self._outgoing.send_held, session=self._session)
        return self._open_journal(send, self._transaction)

    @property
    def is_interrupted(self) -> bool:
        """Whether the listener stopped between two steps, since the worker ends."""
        return self._journal is not None and self._journal.is_interrupted

    def roll_back_steps(self) -> None:
        """Forget the steps that did not commit; the caller of a transactional listener calls it."""
        if self._journal is not None:
            self._journal.roll_back()

    def check_steps(self) -> None:
        """Raise what ended the steps of the listener, if that has caught it; its caller calls it."""
        if self._journal is not None:
            self._journal.check_end()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            """Raise :class:`AttributeError`, for an attribute of another tool with what there is instead."""
            return missing_attribute(self, "Call", name)

    def __repr__(self) -> str:
        event = f" for {shown(self.event_id)}" if self.event_id else ""
        return f"<Call of {self.listener_id} in {self.queue}{event}, attempt {self.attempt}>"

    def give_subject_up(self) -> bool:
        """Make :attr:`subject` a :class:`Gone` for the next call; return whether it was not one before."""
        gone, self._gone = self._gone, True
        self._held.clear()
        self._journal = None  # its names may come again
        return not gone

    def end(self) -> bool:
        """
        Refuse further dispatches; return whether there is a subject, which has to be released.

        The caller of the listener calls it when the listener has ended.
        """
        if self._journal is not None:
            self._journal.close()
        with self._lock:
            self._over = self._has_ended = True
        return self._loaded is not None

    def release(self) -> None:
        """Release the subject after the end, once; the caller of the listener calls it."""
        with self._lock:
            is_first = self._has_ended and not self._is_released
            self._is_released = True
        if is_first:
            try:
                self._subjects.release(self._subject, self._loaded)
            except Exception:  # noqa: BLE001 - what the listener did is done
                _log.exception("%s: its subject %s could not be released", self.listener_id, self._subject)

    def holds_events(self) -> bool:
        """Return whether :meth:`send_held` has events to send."""
        return bool(self._held) or (self._journal is not None and bool(self._journal.unsent()))

    def send_held(self) -> None:
        """
        Refuse further dispatches, and send the events dispatched by this call.

        The caller of the listener calls it when the listener has returned, and :meth:`end` afterwards: the subject may
        belong to the transaction that is still to be committed.
        """
        self.check_steps()
        with self._lock:
            self._over = True
        held = self._held if self._journal is None else [*self._held, *self._journal.unsent()]
        if held and self._outgoing is not None:
            self._outgoing.send_held(held, self._session)

    def stop_propagation(self) -> None:
        """Never call the later listeners of this queue for this event, even if this listener raises."""
        self.stopped = True
