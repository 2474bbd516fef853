"""Optional interfaces of a transport, each for one kind of store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from relevo._transport.delivery import MAX_STATE, Delivery
from relevo._transport.query import DoneEntry
from relevo._transport.transport import BoundSender
from relevo.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")

INHERITED: Mapping[str, object] = MappingProxyType({"is_inherited": True})
"""
Metadata of an option whose default is the application's setting of the same name.

``patience: float = attrs.field(default=3600.0, metadata=INHERITED)`` is for a transport that returns events which it
cannot read yet; ``patience`` is the only such setting.
"""


class SessionSetup(ABC):
    """
    A transport that can set up in the transaction that it joins.

    It is for a store where ``setup`` would wait for that transaction, as SQLite does after a session has written.
    """

    @abstractmethod
    def bound_with_setup(
        self, session: Any, queues: Sequence[str], *, relay_to: str | None = None
    ) -> BoundSender | None:
        """
        Return a sender that also creates what is missing in *session*'s transaction.

        It is called instead of ``setup`` and ``bound_to`` until ``setup`` has been called once. After a rollback the
        created tables or queues do not exist, and the next sender creates them again.

        Args:
            session: An object that the transport can join.

            queues: Queues that will be sent to.

            relay_to: See :meth:`relevo.Transport.bound_to`.

        Returns:
            The sender; ``None`` if only ``setup`` can create anything.

        Raises:
            SessionError: See :meth:`relevo.Transport.bound_to`.

            ConfigurationError: The existing tables do not match, for example a newer schema.
        """


def _fitting(state: bytes) -> bytes:
    """Return *state*, or raise :class:`ConfigurationError` if it is too long."""
    if len(state) > MAX_STATE:
        raise ConfigurationError(f"a state has at most {MAX_STATE} bytes, not {len(state)}")
    return state


class HandlingTransaction(ABC):
    """
    The transaction of one listener: what it writes, and the state of its delivery, commit together or not at all.

    It is used by one thread, and ends with :meth:`close`. That of an async listener is used inside
    :meth:`TransactionalHandling.on_loop`.
    """

    @property
    @abstractmethod
    def session(self) -> Any:
        """The session that the listener writes with. Only :meth:`commit` commits it; any other commit raises."""

    def commit(self, state: bytes, committing: Callable[[], object] = lambda: None) -> None:
        """
        Store *state* with the delivery, in the same transaction, and commit that.

        If it returns, the transaction has committed, even if a listener to the session's events raised afterwards.

        Args:
            state: The state.

            committing: Called when all is written, before the database is asked to commit. If the process ends after
                that, it is not known whether it has committed.

        Raises:
            LeaseLostError: The delivery was handed out again; nothing was written.

            CommitUnknownError: It is not known whether the transaction has committed; the stored state shows it.

            TransportUnavailableError: The state could not be written; nothing was.

            SessionError: The session is on another database than the events; nothing was written.

            ConfigurationError: *state* is longer than :data:`relevo.MAX_STATE`; nothing was written.

            BaseException: The session raised it; nothing was written.
        """
        self._commit(_fitting(state), committing)

    def commit_step(self, state: bytes, committing: Callable[[], object] = lambda: None) -> None:
        """
        Do as :meth:`commit` does for a listener that goes on, and begin the next transaction of the session.

        Raises:
            BaseException: As :meth:`commit` does; then there is no further transaction.
        """
        self._commit_step(_fitting(state), committing)

    @abstractmethod
    def _commit(self, state: bytes, committing: Callable[[], object]) -> None:
        """Implement :meth:`commit`; the size of *state* has been checked."""

    @abstractmethod
    def _commit_step(self, state: bytes, committing: Callable[[], object]) -> None:
        """Implement :meth:`commit_step`; the size of *state* has been checked."""

    @property
    @abstractmethod
    def has_written(self) -> bool:
        """Whether something was written with the session since it began, or since the last commit."""

    @abstractmethod
    def close(self) -> None:
        """Close the session; roll back what is not committed. Raises nothing."""


class TransactionalHandling(ABC):
    """
    A transport that stores the state of a delivery in the transaction of the listener's own rows.

    So the effect of a listener in that database is there if and only if the listener is done.
    """

    makes_sessions: bool = True
    """Whether it makes sessions itself, on a database of its own."""

    takes_async_sessions: bool = False
    """Whether the session of a listener may be an ``AsyncSession``; then :meth:`on_loop` is implemented."""

    @abstractmethod
    def handling(self, delivery: Delivery, *, sessions: Callable[[], Any] | None = None) -> HandlingTransaction:
        """
        Return a transaction for one listener of *delivery*, which is held here or by the parent of this process.

        Where the transaction may keep the worker from renewing its lease, as on SQLite, a delivery whose lease has
        ended is still held until the event is handed out again.

        Args:
            delivery: The delivery. Its receipt may be what :meth:`exported_receipt` returned in another process.

            sessions: Makes the session, inside :meth:`on_loop` an ``AsyncSession``; by default the transport does, with
                the address of its own database.

        Raises:
            LeaseLostError: The receipt is neither one of this process nor of its parent.

            TransportClosedError: The transport is closed.

            SessionError: *sessions* makes something else, or a session of another database.

            ConfigurationError: The transport has no database, and *sessions* is ``None``.

            TransportUnavailableError: The database cannot be reached.
        """

    @abstractmethod
    def exported_receipt(self, delivery: Delivery) -> bytes:
        """
        Return the receipt of *delivery* as bytes, with which a child process may call :meth:`handling`.

        It is empty if it is not one of this process, or if no other process reaches the store.
        """

    async def on_loop(self, work: Callable[[], T]) -> T:
        """
        Call *work* on the event loop of this thread, so that what it does with an ``AsyncSession`` is awaited.

        A transaction for an async listener is opened, committed and closed in such a call. It is
        :func:`relevo.backend.session.on_loop` for the sessions of SQLAlchemy.

        Args:
            work: Calls :meth:`handling`, or a method of what that returned.
        """
        raise NotImplementedError


class Inbox(ABC):
    """
    A transport whose database remembers which listeners are done with the events of *another* transport.

    A broker cannot record in a transaction of the database that a listener is done. The inbox records it there, with
    the listener's own rows. So the effect of a listener in that database happens once, for as long as the record is
    kept, also if the broker delivers the event again.
    """

    makes_sessions: bool = True
    """Whether it makes sessions itself, on a database of its own."""

    takes_async_sessions: bool = False
    """Whether the session of a listener may be an ``AsyncSession``; then :meth:`on_loop` is implemented."""

    @abstractmethod
    def remembered(self, key: str) -> bytes | None:
        """
        Return the state that was committed with *key*; ``None`` if there is none, or if it is no longer kept.

        Args:
            key: Identifies a listener and an event: at most 64 letters and digits of ASCII.

        Raises:
            ConfigurationError: The inbox is not set up.

            TransportUnavailableError: The database cannot be reached.
        """

    @abstractmethod
    def noted(self, key: str) -> bytes | None:
        """
        Return the state of the last :meth:`HandlingTransaction.commit_step` with *key*; ``None`` if there is none.

        There is none either when it is no longer kept, and after the commit with *key*.

        Raises:
            ConfigurationError: As for :meth:`remembered`.

            TransportUnavailableError: The same.
        """

    @abstractmethod
    def handling_once(
        self,
        key: str,
        *,
        aliases: Sequence[str] = (),
        noted: Mapping[str, bytes] | None = None,
        sessions: Callable[[], Any] | None = None,
    ) -> HandlingTransaction:
        """
        Return a transaction for the listener and the event of *key*.

        Its commits raise :class:`LeaseLostError`, and nothing is written, if *key*, or one of *aliases*, was committed
        before, or if something else is noted for one of them than *noted* says.

        Args:
            key: As for :meth:`remembered`.

            aliases: Further keys that are committed with it: a worker of an earlier release looks for these. A key may
                be named twice.

            noted: What :meth:`noted` returned for the keys for which that is not ``None``.

            sessions: Makes the session, inside :meth:`on_loop` an ``AsyncSession``; by default the transport does, with
                the address of its own database.

        Raises:
            SessionError: *sessions* makes something else, or a session of another database.

            ConfigurationError: The inbox is not set up.

            TransportUnavailableError: The database cannot be reached.
        """

    async def on_loop(self, work: Callable[[], T]) -> T:
        """Call *work* as :meth:`TransactionalHandling.on_loop` does."""
        raise NotImplementedError


class Archive(ABC):
    """A transport that can keep the events that are done for a time; ``relevo show`` finds them."""

    @property
    @abstractmethod
    def keep(self) -> float | None:
        """Seconds for which it keeps them; ``None`` if it does not."""

    @abstractmethod
    def find_done(self, event_id: str) -> Sequence[DoneEntry]:
        """
        Return the events of *event_id* that are done, the oldest first; none if it does not keep them.

        There is one for each queue that the event was handled in, and one more for each time that it was sent again
        after that. An event whose :class:`relevo.Ack` is ``moved`` is not among them.

        Raises:
            ConfigurationError: The archive is not set up.

            TransportUnavailableError: The server could not be reached.
        """


class ParallelSettlement(ABC):
    """
    A transport that settles over a connection of its own, so that it receives at the same time.

    A worker then settles in one thread and, if leases are timed, receives in another: while the server stores the
    outcomes of one batch and looks for the next one, a third is handled. There is still one ``receive`` at a time.
    Other transports settle and receive in the worker's thread, which is faster if ``settle`` waits for nothing. So does
    an instance that does not settle in parallel, unless the worker itself waits for a server, as a relay does.
    """

    @property
    @abstractmethod
    def settles_in_parallel(self) -> bool:
        """Whether this instance settles in parallel."""


class FileStore(ABC):
    """A transport that stores its events in files on this host."""

    @property
    @abstractmethod
    def folder(self) -> Path | None:
        """The folder of the files, if it is known; the locks of their users are stored there too."""

    def missing(self) -> str:
        """
        Return what does not exist yet, with its path; empty if it exists, or if that is not known.

        Commands that look after events create no file: another path, or a disk that is not mounted, would look like an
        empty store.
        """
        return ""


class IdentifiedStore(ABC):
    """
    A transport that knows whether another one has the same queues.

    ``relevo check --live`` then reports two transports that take each other's events.
    """

    @abstractmethod
    def store_id(self) -> str:
        """
        Return a text that is the same only for transports that have the same queues.

        Two of the same class that have the same queues should have the same text, also if their addresses differ.

        Raises:
            ConfigurationError: The store is not set up.

            TransportUnavailableError: The server could not be reached, or the store does not exist.
        """


class QueueCatalog(IdentifiedStore):
    """
    A transport that knows which of its queues hold events.

    So the command line and workers find events in queues that no route leads to any more. It also claims ``waiting``
    and ``dead_letters``.
    """

    @abstractmethod
    def held_queues(self) -> Sequence[str]:
        """
        Return the queues that hold events or dead letters, those of outboxes too.

        The cost may grow with the number of queues, not with that of the events: a drain calls it each time.

        Raises:
            TransportUnavailableError: The server could not be reached.
        """


class SchemaUpgrade(ABC):
    """
    A transport whose tables, or what else ``setup`` creates, may be of an older release, and can be changed.

    ``setup`` raises :class:`ConfigurationError` for a store of an older release, with the remedy ``relevo setup
    --upgrade``. That calls ``upgrade`` instead of ``setup``.
    """

    @abstractmethod
    def upgrade(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        """
        Change what an older release has created to what this one needs, and create what is missing for *queues*.

        Events and dead letters are kept, with all that is stored about them. If it is interrupted, calling it again
        finishes it. If several processes call it at a time, one of them does it.

        Args:
            queues: Names of queues that will be sent to or received from.

            dry_run: Only report.

        Returns:
            A readable description of each thing that was, or would be, changed or created; empty if there is none.

        Raises:
            TransportUnavailableError: The server could not be reached, or a worker of an older release holds an event
                that it could not settle afterwards.

            ConfigurationError: It cannot be upgraded, for example since a newer release has created it.
        """

    @abstractmethod
    def upgrade_script(self, queues: Sequence[str]) -> str:
        """
        Return a script that does what ``upgrade`` would do now; the store is read, and not changed.

        Args:
            queues: The queues that ``upgrade`` would be called with.

        Returns:
            Whole lines, as of :meth:`SetupScript.setup_script`; empty if nothing is to be upgraded.

        Raises:
            TransportUnavailableError: The server could not be reached.
        """


class SetupScript(ABC):
    """A transport whose setup can be printed as a script, for an administrator to read and run."""

    @abstractmethod
    def setup_script(self, queues: Sequence[str]) -> str:
        """
        Return a script that creates everything that *queues* need in an empty store, without I/O.

        ``relevo setup --print`` prints it. The same store and queues give the same script, so that a store with two
        names is printed once. It contains no secret.

        Args:
            queues: The queues that ``setup`` would be called with.

        Returns:
            Whole lines. A comment names the database.
        """

    def insert_statement(self) -> str | None:
        """
        Return the statement with which a program without relevo inserts an event; ``None`` if there is none.

        ``relevo setup --print-insert`` prints it. Its parameters are ``:queue``, and ``:event``: a CloudEvent in JSON.
        """
        return None
