"""Call a transactional listener: what it wrote, and the record that it is done, commit together or not at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from enum import Enum, auto
from functools import partial
from logging import getLogger
from typing import Any

import attrs

from relevo._listener.call import Call
from relevo._listener.journal import FinishedSteps
from relevo._listener.listener import Listener
from relevo._listener.process_loop import SMALL_WORK, in_thread
from relevo._transport.delivery import Delivery, Nack
from relevo._transport.envelope import Envelope
from relevo._transport.optional import HandlingTransaction, Inbox, TransactionalHandling
from relevo._transport.transport import Transport
from relevo._worker.decision import Reason
from relevo._worker.progress import Progress, dumped, dumped_steps, finished_in, loaded
from relevo.errors import (
    CommitUnknownError,
    ConfigurationError,
    LeaseLostError,
    RelevoError,
    SessionError,
    TransportError,
)

_log = getLogger("relevo.worker")

COMMIT_UNKNOWN = "commit-unknown"
"""The reason of a retry after a commit of which it is not known whether it took effect."""

NO_TRANSACTION = "transaction-unavailable"
"""The reason of a retry if the transaction of a listener could not begin."""

NOT_OPENED = "not-opened"
"""The reason of a retry if a lifespan that a listener needs could not be opened."""

_MOST_CLOSES = 3
"""The largest number of times that a transaction is closed whose end is cancelled."""

FIRST, _LONGEST = 1.0, 60.0
"""Seconds before an event is tried again whose commit is unknown; they double each time."""


Around = Callable[[], AbstractContextManager[object]]
"""Returns what surrounds the call of a listener and its transaction."""


class Uncommitted(Enum):
    """How the transaction of a listener ended that is not known to have committed, and raised nothing."""

    LOST = auto()
    """Another worker may have the event. The state of the delivery may be written."""

    UNKNOWN = auto()
    """It may have committed with a state of the delivery, which must be left as it is."""

    UNKNOWN_APART = auto()
    """It may have committed with a record in an inbox. The state of the delivery may be written."""


@attrs.frozen
class NotCalled:
    """The listener was not called, since its transaction could not begin."""

    error: RelevoError


Ending = Uncommitted | NotCalled | None
"""How the transaction of a listener ended; ``None`` if it has committed."""


@attrs.define(kw_only=True, eq=False, repr=False)
class TransactionalCall(Call):
    """The call of a transactional listener."""

    within: Callable[[Callable[[], Any], Around], Any] = attrs.field(init=False)
    """
    Calls a function in a transaction, and returns how that ended; see :meth:`Transactions.run`.

    For an async listener it awaits it: see :meth:`Transactions.run_on_loop`.
    """


def finished(progress: Progress, listener: Listener, call: Call, after: Sequence[Listener]) -> bytes:
    """
    Return the state after *listener* succeeded, without changing *progress*: its transaction may still fail.

    Args:
        progress: The progress before.

        listener: The listener that has returned.

        call: Its call.

        after: The listeners after it.

    Raises:
        StateTooLargeError: The state is too large.
    """
    done = loaded(dumped(progress))
    if call.subject_found:
        done.overcome(Reason.SUBJECT_MISSING)
    done.overcome(NO_TRANSACTION, NOT_OPENED)
    done.finish(listener)
    if call.stopped:
        done.stop(after)
    return dumped(done)


def exporter(transport: Transport, listeners: Iterable[Listener]) -> Callable[[Delivery], bytes]:
    """Return a function from a delivery to its receipt as bytes; empty unless one of *listeners* is transactional."""
    if isinstance(transport, TransactionalHandling) and any(each.mark.transactional for each in listeners):
        return transport.exported_receipt
    return lambda _: b""


def check_transactional(listener: Listener, transport: Transport, outbox: Transport | None) -> None:
    """
    Check that *transport*, or the inbox in its *outbox*, has transactions for *listener*, if that needs them.

    Raises:
        ConfigurationError: There are none, no sessions are made for them, or it is async and they are not.
    """
    if not listener.mark.transactional:
        return
    store = transport if isinstance(transport, TransactionalHandling) else inbox_in(outbox)
    if store is None:
        raise _without_transactions(listener.id, transport)
    if listener.is_async and not store.takes_async_sessions:
        raise ConfigurationError(
            f"{listener.id} is transactional and async, and {type(store).__name__}, which keeps the record that it is "
            f"done, takes no AsyncSession; write it as def"
        )
    if listener.mark.sessions is None and not store.makes_sessions:
        raise ConfigurationError(
            f'{listener.id} is transactional, and the transport "{transport.name}" ({type(transport).__name__}) has no '
            f"database to make its session on; name what makes yours: transactional=sessionmaker(engine)"
        )


def check_inbox(listeners: Iterable[Listener], transport: Transport, outbox: Transport | None) -> None:
    """
    Check that the inbox in *outbox* is set up, if one of *listeners* needs it for the events of *transport*.

    Raises:
        ConfigurationError: It is not set up.

        TransportUnavailableError: Its database cannot be reached.
    """
    inbox = None if isinstance(transport, TransactionalHandling) else inbox_in(outbox)
    if inbox is not None and any(each.mark.transactional for each in listeners):
        inbox.remembered(_NO_KEY)


_NO_KEY = "0"
"""No listener's: its length is not that of a digest."""


def inbox_in(outbox: Transport | None) -> Inbox | None:
    """Return *outbox* if it is an inbox too, as a database is."""
    if outbox is None:
        return None
    return outbox if isinstance(outbox, Inbox) else None


def key_of(service: str, envelope: Envelope, queue: str, listener_id: str) -> str:
    """Return what identifies in an inbox that a listener of *service* is done with an event in a queue."""
    from hashlib import sha256  # noqa: PLC0415 - it loads OpenSSL

    digest = sha256()
    for text in (service, envelope.source, envelope.id, queue, listener_id):
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8) + raw)
    return digest.hexdigest()


def _without_transactions(listener_id: str, transport: Transport | None) -> ConfigurationError:
    name = "" if transport is None else transport.name
    return ConfigurationError(
        f'{listener_id} is transactional, and the transport "{name}" ({type(transport).__name__}) cannot '
        f"record in a transaction that it is done; give the transport an outbox in the database of its rows, such as "
        f'outbox = "sqlite:///shop.db", or route its event to a transport on that database'
    )


def after_unknown(delivery: Delivery) -> Nack:
    """Return the outcome of *delivery* after a commit of which the effect is unknown: the stored state shows it."""
    return Nack(delay=min(_LONGEST, FIRST * 2.0 ** min(delivery.attempt - 1, 10)), reason=COMMIT_UNKNOWN)


_STOPPED, _DONE = b"stopped", b"done"
"""What an inbox remembers of a listener."""


def _record_of(call: Call) -> bytes:
    """Return what an inbox remembers of the listener that has returned from *call*."""
    return _STOPPED if call.stopped else _DONE


@attrs.frozen(eq=False, repr=False)
class _Record:
    """What commits with the rows of a listener."""

    opened: Callable[[], HandlingTransaction]
    """Begins the transaction."""

    done: Callable[[], bytes]
    """Returns what is recorded when the listener has returned."""

    noted: Callable[[], bytes]
    """Returns what is recorded when it has finished a step."""

    finished: FinishedSteps | None = None
    """What earlier runs finished, if that is not part of the progress."""


@attrs.define(eq=False, repr=False)
class OpenTransaction:
    """
    The transaction of a listener while that runs. It commits with each finished step, and at the end.

    Args:
        handling: The transaction of the transport.

        record: What commits with it.

        call: The call of the listener.

        committing: Called before each commit.

        store: Awaits the session of an async listener.
    """

    _handling: HandlingTransaction
    _record: _Record
    _call: Call
    _committing: Callable[[], None]
    _store: TransactionalHandling | Inbox | None = None
    ending: Uncommitted | None = None
    """How it ended if a commit did not succeed, of which it is not known whether nothing was written."""

    @property
    def session(self) -> Any:
        """The session that the listener writes with."""
        return self._handling.session

    @property
    def finished(self) -> FinishedSteps | None:
        """What earlier runs finished, if that is not part of the progress."""
        return self._record.finished

    @property
    def has_written(self) -> bool:
        """Whether something was written since it began, or since the last commit."""
        return self._handling.has_written

    def commit(self) -> None:
        """Commit what was written with what is noted, and begin again."""
        self._commit(self._handling.commit_step, self._record.noted())

    def end(self) -> None:
        """Commit what was written with the record that the listener is done."""
        self._commit(self._handling.commit, self._record.done())

    def _commit(self, commit: Callable[[bytes, Callable[[], None]], None], state: bytes) -> None:
        try:
            commit(state, self._committing)
        except LeaseLostError:
            self.ending = Uncommitted.LOST
            raise
        except CommitUnknownError as error:
            _log.warning("%r: what is stored will show whether it is done: %s", self._call, error)
            self.ending = Uncommitted.UNKNOWN
            raise

    async def on_loop(self, work: Callable[[], None]) -> None:
        """Call *work* so that the event loop awaits what it does with the session."""
        assert self._store is not None  # noqa: S101 - an async listener has one
        await self._store.on_loop(work)

    def close(self) -> None:
        """Roll back what is not committed."""
        self._handling.close()


@attrs.frozen(eq=False, repr=False)
class Transactions:
    """
    The transactions of the listeners of one transport.

    Args:
        transport: The transport; ``None`` if there are no transactions.

        outbox: Its outbox, which may be an inbox too.

        sealed: Signs the state of an event; ``None`` if states are not signed.

        committing: Called before a transaction commits with the state of its delivery.

        service: The source of the application. Another one with a listener of the same id may use the same inbox; its
            server, such as one node of a cluster, would not always be named in the same way.
    """

    _transport: Transport | None = None
    _outbox: Transport | None = None
    _sealed: Callable[[bytes, Envelope], bytes] | None = None
    _committing: Callable[[], None] = lambda: None
    _service: str = ""

    def run(
        self,
        function: Callable[[], object],
        around: Around,
        *,
        delivery: Delivery,
        call: Call,
        listener: Listener,
        state: Callable[[], bytes],
        noted: Callable[[], bytes],
    ) -> Ending:
        """
        Call *function* in a transaction; commit that together with the record that *listener* is done.

        Args:
            function: Calls the listener; what it raises rolls the transaction back, and is raised. It is not called if
                the inbox remembers that the listener is done.

            around: Surrounds the transaction, unless the inbox remembers that the listener is done.

            delivery: The delivery that the listener is called for.

            call: Gets the session.

            listener: The listener.

            state: Returns the state of the delivery after a success.

            noted: Returns it after a step of the listener.

        Returns:
            How it ended if it is not known to have committed.

        Raises:
            BaseException: *function* raised it, or the transaction could not be committed; nothing was written.
        """
        envelope = delivery.envelope
        assert isinstance(envelope, Envelope)  # noqa: S101 - only such a one has listeners
        store: object = self._transport
        if isinstance(store, TransactionalHandling):
            opened = partial(store.handling, delivery, sessions=listener.mark.sessions)
            record = _Record(opened, partial(self._state_of, state, envelope), partial(self._state_of, noted, envelope))
            with around():
                return self._run(function, record, call)
        try:
            once = self._record_once(self._inbox(listener), delivery, listener, call)
        except (ConfigurationError, TransportError) as error:
            return NotCalled(error)
        if once is None:
            return None
        with around():
            ending = self._run(function, once, call)
        return Uncommitted.UNKNOWN_APART if ending is Uncommitted.UNKNOWN else ending

    async def run_on_loop(
        self,
        function: Callable[[], Awaitable[object]],
        around: Around,
        *,
        delivery: Delivery,
        call: Call,
        listener: Listener,
        state: Callable[[], bytes],
        noted: Callable[[], bytes],
    ) -> Ending:
        """
        Do as :meth:`run` does for an async *listener*, on the loop of this thread.

        If it is cancelled, the transaction is rolled back before this ends, unless it has committed.
        """
        envelope = delivery.envelope
        assert isinstance(envelope, Envelope)  # noqa: S101 - as above
        store: object = self._transport
        if isinstance(store, TransactionalHandling):
            opened = partial(store.handling, delivery, sessions=listener.mark.sessions)
            record = _Record(opened, partial(self._state_of, state, envelope), partial(self._state_of, noted, envelope))
            with around():
                return await self._run_on_loop(store, function, record, call)
        try:
            inbox = self._inbox(listener)
            once = await in_thread(SMALL_WORK, self._record_once, inbox, delivery, listener, call)
        except (ConfigurationError, TransportError) as error:
            return NotCalled(error)
        if once is None:
            return None
        with around():
            ending = await self._run_on_loop(inbox, function, once, call)
        return Uncommitted.UNKNOWN_APART if ending is Uncommitted.UNKNOWN else ending

    def _inbox(self, listener: Listener) -> Inbox:
        inbox = inbox_in(self._outbox)
        if inbox is None:
            raise _without_transactions(listener.id, self._transport)
        return inbox

    def _record_once(self, inbox: Inbox, delivery: Delivery, listener: Listener, call: Call) -> _Record | None:
        """Return what records in *inbox* how far *listener* is; ``None`` if it is done."""
        assert isinstance(delivery.envelope, Envelope)  # noqa: S101 - as above
        ids = (listener.id, *listener.aliases)
        keys = [key_of(self._service, delivery.envelope, delivery.queue, each) for each in ids]
        done = next((found for each in keys if (found := inbox.remembered(each)) is not None), None)
        if done is None:
            # One that was handed out before without a trace meets a note at its first commit, and is given back.
            is_first = delivery.attempt == 1 and not delivery.lost_leases and not delivery.state
            noted = {key: state for key in keys if not is_first and (state := inbox.noted(key)) is not None}
            steps = finished_in(next(iter(noted.values()), b""))
            opened = partial(
                inbox.handling_once, keys[0], aliases=keys[1:], noted=noted, sessions=listener.mark.sessions
            )
            return _Record(opened, partial(_record_of, call), partial(dumped_steps, steps), steps)
        _log.info("%r: not called, since the inbox remembers that it is done", call)
        if done == _STOPPED:
            call.stop_propagation()
        return None

    def _state_of(self, state: Callable[[], bytes], envelope: Envelope) -> bytes:
        return state() if self._sealed is None else self._sealed(state(), envelope)

    def _run(self, function: Callable[[], object], record: _Record, call: Call) -> Ending:
        """Call *function* in the transaction of *record*, and commit both."""
        try:
            handling = record.opened()
        except LeaseLostError:
            return Uncommitted.LOST
        except SessionError:  # of the application's own sessions
            raise
        except (ConfigurationError, TransportError) as error:
            return NotCalled(error)
        transaction = OpenTransaction(handling, record, call, self._committing)
        try:
            call.use_session(transaction.session, transaction)
            function()
            transaction.end()
        except BaseException as error:
            call.roll_back_steps()
            if transaction.ending is None or isinstance(error, KeyboardInterrupt):
                raise
        finally:
            call.use_session(None)
            transaction.close()
        return transaction.ending

    async def _run_on_loop(
        self,
        store: TransactionalHandling | Inbox,
        function: Callable[[], Awaitable[object]],
        record: _Record,
        call: Call,
    ) -> Ending:
        """Do as :meth:`_run` does, with a transaction of *store* whose session is awaited."""
        try:
            handling = await store.on_loop(record.opened)
        except LeaseLostError:
            return Uncommitted.LOST
        except SessionError:  # as above
            raise
        except (ConfigurationError, TransportError) as error:
            return NotCalled(error)
        transaction = OpenTransaction(handling, record, call, self._committing, store)
        try:
            call.use_session(transaction.session, transaction)
            await function()
            await store.on_loop(transaction.end)
        except BaseException as error:
            call.roll_back_steps()
            if transaction.ending is None or isinstance(error, KeyboardInterrupt):
                raise
        finally:
            call.use_session(None)
            await _to_its_end(partial(store.on_loop, transaction.close))
        return transaction.ending


async def _to_its_end(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """
    Await *work*, even if this task is cancelled meanwhile: a transaction that stays open would keep its locks.

    It is called again if it is cancelled itself, maybe before it began: a listener may cancel all tasks of the loop.
    """
    import asyncio  # noqa: PLC0415 - only a listener that is async needs it

    for _ in range(_MOST_CLOSES):
        task = asyncio.ensure_future(work())
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait((task,))
        if not task.cancelled():
            task.result()
            return
