"""Call a transactional listener: what it wrote, and the record that it is done, commit together or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from logging import getLogger

import attrs

from relevo._listener.call import Call
from relevo._listener.listener import Listener, Sessions
from relevo._transport.delivery import Delivery, Nack
from relevo._transport.envelope import Envelope
from relevo._transport.optional import HandlingTransaction, TransactionalHandling
from relevo._transport.transport import Transport
from relevo._worker.decision import Reason
from relevo._worker.progress import Progress, dumped, loaded
from relevo.errors import CommitUnknownError, ConfigurationError, LeaseLostError

_log = getLogger("relevo.worker")

COMMIT_UNKNOWN = "commit-unknown"
"""The reason of a retry after a commit of which it is not known whether it took effect."""

_FIRST, _LONGEST = 1.0, 60.0
"""Seconds before an event is tried again whose commit is unknown; they double each time."""


class Unfinished(Enum):
    """How the transaction of a listener ended that neither committed nor raised."""

    LOST = auto()
    """Another worker may have the event; nothing was written."""

    UNKNOWN = auto()
    """It may have committed."""


Within = Callable[[Callable[[], object]], Unfinished | None]
"""Calls a function in a transaction; returns ``None`` if that has committed."""


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
    done.finish(listener)
    if call.stopped:
        done.stop(after)
    return dumped(done)


def exporter(transport: Transport, listeners: Iterable[Listener]) -> Callable[[Delivery], bytes]:
    """Return a function from a delivery to its receipt as bytes; empty unless one of *listeners* is transactional."""
    if isinstance(transport, TransactionalHandling) and any(each.mark.transactional for each in listeners):
        return transport.exported_receipt
    return lambda _: b""


def check_transactional(listener: Listener, transport: Transport) -> None:
    """
    Check that *transport* has transactions for *listener*, if that needs them.

    Raises:
        ConfigurationError: It has none, or makes no sessions for them.
    """
    if not listener.mark.transactional:
        return
    if not isinstance(transport, TransactionalHandling):
        raise _without_transactions(listener.id, transport)
    if listener.mark.sessions is None and not transport.makes_sessions:
        raise ConfigurationError(
            f'{listener.id} is transactional, and the transport "{transport.name}" ({type(transport).__name__}) has no '
            f"database to make its session on; name what makes yours: transactional=sessionmaker(engine)"
        )


def _without_transactions(listener_id: str, transport: Transport) -> ConfigurationError:
    return ConfigurationError(
        f'{listener_id} is transactional, and the transport "{transport.name}" ({type(transport).__name__}) cannot '
        f"record in a transaction that it is done; route its event to a transport on the database of its rows, such as "
        f"sqlite:///shop.db, or remove transactional"
    )


def after_unknown(delivery: Delivery) -> Nack:
    """Return the outcome of *delivery* after a commit of which the effect is unknown: the stored state shows it."""
    return Nack(delay=min(_LONGEST, _FIRST * 2.0 ** min(delivery.attempt - 1, 10)), reason=COMMIT_UNKNOWN)


@attrs.frozen(eq=False, repr=False)
class Transactions:
    """
    The transactions of the listeners of one transport.

    Args:
        transport: The transport.

        sealed: Signs the state of an event; ``None`` if states are not signed.
    """

    _transport: Transport
    _sealed: Callable[[bytes, Envelope], bytes] | None = None

    def run(
        self,
        function: Callable[[], object],
        *,
        delivery: Delivery,
        call: Call,
        sessions: Sessions | None,
        state: Callable[[], bytes],
    ) -> Unfinished | None:
        """
        Call *function* in a transaction; commit that together with the state that *state* then returns.

        Args:
            function: Calls the listener; what it raises rolls the transaction back, and is raised.

            delivery: The delivery that the listener is called for.

            call: Gets the session.

            sessions: Makes the session; by default the transport does.

            state: Returns the state after a success.

        Returns:
            How it ended if it has not committed.

        Raises:
            BaseException: *function* raised it, or the transaction could not be committed; nothing was written.
        """
        store = self._transport
        if not isinstance(store, TransactionalHandling):
            raise _without_transactions(call.listener_id, store)
        try:
            transaction = store.handling(delivery, sessions=sessions)
        except LeaseLostError:
            return Unfinished.LOST
        try:
            call.begin(transaction.session)
            function()
            after, envelope = state(), delivery.envelope
            if self._sealed is not None and isinstance(envelope, Envelope):
                after = self._sealed(after, envelope)
            return self._commit(transaction, after, delivery)
        finally:
            call.begin(None)
            transaction.close()

    @staticmethod
    def _commit(transaction: HandlingTransaction, state: bytes, delivery: Delivery) -> Unfinished | None:
        try:
            transaction.commit(state)
        except LeaseLostError:
            return Unfinished.LOST
        except CommitUnknownError as error:
            _log.warning("%s: the stored progress will show whether its listener is done: %s", delivery, error)
            return Unfinished.UNKNOWN
        return None
