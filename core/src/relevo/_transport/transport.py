"""The transport interface: the contract between the core and the backends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import attrs

from relevo._clock import Clock
from relevo._transport.capabilities import Capabilities
from relevo._transport.delivery import (
    MAX_STATE,
    Ack,
    DeadLetter,
    Delivery,
    Lost,
    Nack,
    Note,
    Outcome,
    Settlement,
    Unreadable,
)
from relevo._transport.envelope import Envelope
from relevo._transport.query import DeadLetterFilter, EventFilter, EventGroup, Found, StuckKeys, WaitingEntry
from relevo._visible import visible
from relevo.errors import ConfigurationError, LeaseLostError, UnsupportedError, shown

_STATEFUL = (Nack, DeadLetter, Lost)
"""The outcomes that carry a state."""


@attrs.frozen(kw_only=True)
class Stats:
    """The number of events in a queue by state; ``None`` if the transport cannot count them."""

    ready: int | None = None
    """Including events that wait for an earlier one with their ordering key."""

    leased: int | None = None
    scheduled: int | None = None
    dead: int | None = None
    oldest_age: float | None = None
    """
    Seconds since the oldest ready event was sent, at least 0, as after a clock was set back; ``None`` also if none is
    ready.
    """


@attrs.frozen(kw_only=True)
class DeadLetterEntry:
    """
    A stored dead letter: everything that was received, with the reason and the error.

    Args:
        ref: Opaque, unique, and the same in each list: after fan-out several have the same event id, and unreadable
            bytes have none.

        queue: The queue that it was received from.

        envelope: The event as it was sent, or the unreadable bytes.

        reason: The :class:`Reason` why it is a dead letter.

        error: The error as text; of several listeners one after the other.

        state: The progress of its listeners; :meth:`App.failures` reads why they failed.

        attempt: The number of the last attempt.

        lost_leases: The number of hand-overs that ended without a settlement, such as by a crash.

        enqueued_at: When it was sent, in seconds since the epoch.

        died_at: When it became a dead letter, in seconds since the epoch.
    """

    ref: str
    queue: str
    envelope: Envelope | Unreadable
    reason: str
    error: str
    state: bytes
    attempt: int
    lost_leases: int
    enqueued_at: float
    died_at: float

    def __repr__(self) -> str:
        of = self.envelope
        what = f"{of.name} {of.id}" if isinstance(of, Envelope) else f"{len(of.raw)} unreadable bytes"
        return visible(f"<DeadLetterEntry {self.ref} of {what} in {self.queue}: {self.reason}>")


@attrs.frozen(kw_only=True)
class Presence:
    """A heartbeat of a worker."""

    beats: int
    """Counts the heartbeats; higher with each one, also if the worker was suspended for minutes."""

    connected: bool = False
    """The server sees the worker's connection now, so there is no need to wait for the next beat."""


class BoundSender(Protocol):
    """Sends inside the caller's transaction: all events commit with it, or none."""

    def send(self, make: Callable[[], Sequence[Envelope]], *, delay: float = 0.0) -> None:
        """
        Write the envelopes that *make* returns when the transaction commits.

        Args:
            make: Called at most once, as late as the transaction can still be written to, after pending
                objects were flushed; on a plain connection at once. Never called after a rollback. If it
                raises, the commit fails with its error.

            delay: Seconds from now before which none is delivered.
        """
        ...


@runtime_checkable
class UniqueSender(BoundSender, Protocol):
    """A sender that can send unique events; ``bound_to`` returns one where ``unique`` is claimed."""

    def send_unique(
        self,
        make: Callable[[], Sequence[Envelope]],
        *,
        key: str,
        within: float,
        decided: Callable[[str | None], object],
        delay: float = 0.0,
    ) -> None:
        """
        As :meth:`BoundSender.send`, for the envelopes of one event, unless an event with *key* lives at that time.

        Args:
            make: As for :meth:`BoundSender.send`.

            key: As for :meth:`Transport.send_unique`.

            within: As for :meth:`Transport.send_unique`.

            decided: Called with what :meth:`Transport.send_unique` would return, when that is known: before the commit
                returns.

            delay: As for :meth:`BoundSender.send`.
        """
        ...


class Transport(ABC):
    """
    Stores envelopes and delivers them until they are settled.

    A backend implements this class. All methods work on batches, since the cost is a commit or a round
    trip; a batch of one is common, an empty batch does nothing. Every method may be called from several
    threads, ``receive`` from one at a time. Errors of the driver are translated: a method raises a
    :class:`RelevoError` with the driver's error as its ``__cause__``.

    A method may get what the store never issued: a delivery of another transport, or a made-up ref, id or queue. Such a
    delivery is lost, and such a ref or id is not found; a queue that was not set up is empty, or naming it is a
    :class:`ConfigurationError`. Nothing is changed, and no other error is raised. Refs and ids may be any text; the
    names of queues were checked: 1 to 128 characters, none of them a space or a control character.

    A queue that is named twice counts once. A limit, a lease and a wait may be of any size. A sequence or mapping may
    be of any type; a method neither changes it nor keeps it. What a method returned does not change later.

    Four methods check the size of a state first: ``settle``, ``checkpoint``, ``revive`` and ``revive_later``. A
    transport implements the methods that they call: ``_settle``, ``_checkpoint``, ``_revive`` and ``_revive_later``.

    A process may fork while it has an instance, as a server does that imports the application first.
    An instance on which only ``open`` and ``setup`` were called must work in parent and child, so these two leave
    no connection, thread or lock in use. After other calls an instance may refuse to work in the child, with an
    error that says so; it must never share a socket or a lock with the parent. To continue in the child it starts
    again: :class:`relevo.backend.ForkAware` calls it after a fork, and :func:`relevo.backend.notice_fork` detects
    forks that Python does not see. Earlier deliveries stay with the parent; in the child they are lost.
    """

    capabilities: Capabilities
    """Set on the class if known there, else on the instance from the start."""

    Options: ClassVar[type]
    """
    An attrs class with the options of the transport. The core refuses unknown keys and wrong types.
    A field ``url: str`` gets the address. An optional field ``directory: pathlib.Path`` gets the folder
    that relative paths start from. Fields of type :class:`Secret` are masked everywhere.
    """

    why_unclaimed: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Why it does not claim a capability, by the name of the capability; a part of :class:`UnsupportedError`."""

    name: str
    """Its name in the application, which may set it after ``open``; used in errors and log lines."""

    source: str = ""
    """The name of the application, which sets it before the first use; empty without one."""

    clock: Clock | None = None
    """Its source of time, if it has one; a worker warns if the application has another."""

    @classmethod
    @abstractmethod
    def open(cls, options: Any, *, name: str, clock: Clock) -> Self:
        """
        Return a transport that does no I/O until it is used.

        Args:
            options: An instance of :attr:`Options`.

            name: Its name in the application.

            clock: The source of time.

        Raises:
            ConfigurationError: The options conflict.
        """

    @abstractmethod
    def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        """
        Create what is missing for *queues*; never alter what exists.

        Args:
            queues: Names of queues that will be sent to or received from.

            dry_run: Only report.

        Returns:
            A readable description of each thing that was, or would be, created; empty if nothing is missing.

        Raises:
            TransportUnavailableError: The server could not be reached.

            ConfigurationError: The existing tables or queues do not match, for example a newer schema.

        Promises:
            setup-is-idempotent
        """

    def lacking(self, queues: Sequence[str]) -> Sequence[str]:
        """
        Return what is missing for *queues* and without which no event can be sent or received; change nothing.

        By default all that ``setup`` would create. A transport returns less if it can do without a part of that, as
        in a store that an earlier release has set up.

        Args:
            queues: Names of queues.

        Returns:
            A readable description of each thing.

        Raises:
            TransportUnavailableError: The server could not be reached.

            ConfigurationError: As of :meth:`setup`.
        """
        return self.setup(queues, dry_run=True)

    @abstractmethod
    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        """
        Accept *envelopes*; when this returns they are as safe as ``durability`` claims.

        Args:
            envelopes: They may be for several queues.

            delay: Seconds before which none is delivered, rounded up to the claimed resolution.

        A queue that was not set up is refused or created; it never loses an event.

        Raises:
            SendError: Not every envelope is known to be safe; reports which were sent, refused, unknown. One
                that is too large is refused; after a lost commit or confirmation it is unknown. An event that
                ``dedupe`` recognised counts as sent.

            TransportUnavailableError: The server could not be reached; nothing was sent.

            UnsupportedError: *delay*, an urgency or an ordering key is used but not claimed;
                nothing was sent.

            TransportClosedError: After ``close()``.

        Promises:
            sent-is-received · payload-is-untouched · send-tells-apart · batch-is-atomic
        """

    @abstractmethod
    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        """
        Lease up to *limit* ready events, each hidden from all other receivers.

        Args:
            queues: In order of preference: an event is handed out only if none is ready in the queues before it.
                A call may serve one queue, the first in which an event is ready.

            limit: The largest number; fewer may be returned, although more are ready. No more are leased to the
                caller, unless lost leases are counted as "at least".

            lease: Seconds for which they are hidden, unless extended. Ignored for connection leases.

            wait: The longest time in seconds to block if nothing is ready; 0 returns at once.

        Returns:
            The deliveries, in any order; empty if nothing was ready in time. Bytes that are not an envelope are
            returned as :class:`Unreadable`, not raised.

        Raises:
            TransportUnavailableError: The server could not be reached.

            TransportClosedError: After ``close()``, also when it was blocked.

        Promises:
            limit-is-respected · leased-is-hidden · lost-lease-returns · lost-leases-are-counted ·
            malformed-is-quarantined · nobody-starves · wait-is-kept
        """

    def take(self, queue: str, event_id: str, *, lease: float) -> Sequence[Delivery]:
        """
        Lease the events of *queue* with the id *event_id*, also one that is scheduled; it is due from now on.

        The deliveries are those of :meth:`receive`, but the worker chooses the event. It never waits.

        Args:
            queue: The queue.

            event_id: The id; several sources may have used it.

            lease: Seconds for which they are hidden, unless extended.

        Returns:
            The deliveries; empty if there is no such event, if it is leased, or if it waits for an earlier one with
            its ordering key. Then nothing was changed.

        Raises:
            TransportUnavailableError: The server could not be reached.

            UnsupportedError: ``take`` is not claimed.

        Promises:
            taken-by-its-id · leased-is-hidden · lost-leases-are-counted
        """
        raise self._unsupported("take")

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        """
        Settle each of *settlements* independently, by compare-and-set on the receipt.

        A dead letter is durable before its source is deleted; it replaces an earlier dead letter of the same event
        in its queue. A nacked event blocks no other, and none after its delay either: it goes behind those that are
        ready, or takes turns with them. Where settlement is only ``sent``, that applies to acks: the other outcomes
        are confirmed when this returns.

        Args:
            settlements: Pairs of a delivery and its outcome.

        Returns:
            The deliveries whose lease was lost, in any order; nothing was changed for them. The second of two
            settlements of one delivery is returned as lost.

        Raises:
            TransportUnavailableError: The server could not be reached; none is known to be settled.
                They may be settled again: those that already were are returned as lost.

            SettleError: Some could not be settled; it names them. Others were settled, or would have been. Those that
                were not settled stay leased, and are delivered again if they are not settled later.

            ConfigurationError: A state is longer than :data:`MAX_STATE`; nothing was changed.

        Promises:
            ack-is-final · nack-returns-later · dead-is-kept-with-reason · release-counts-nothing ·
            stale-settle-is-refused · state-is-bounded
        """
        self._check_states(outcome.state for _, outcome in settlements if isinstance(outcome, _STATEFUL))
        return self._settle(settlements)

    @abstractmethod
    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        """Implement :meth:`settle`; the states have been checked."""

    @abstractmethod
    def close(self) -> None:
        """
        Give up all leases without settling them, and wake a blocked ``receive``.

        Running calls of other threads finish first. Events that were fetched but not delivered are
        released. May be called again. Every other method that reads or changes the store raises
        :class:`TransportClosedError` afterwards, for an empty batch too.

        Promises:
            close-is-idempotent
        """

    def hurry(self, seconds: float | None) -> None:  # noqa: B027 - optional, for transports that can wait for long
        """
        Limit every call of the calling thread to *seconds* from now.

        A call that takes longer raises :class:`TransportUnavailableError`. The calls of other threads are not limited:
        listeners may run in them, and what a listener sends or stores has the configured timeouts.

        A run with a time limit calls it before each of its calls, and with ``None`` before it calls a listener in its
        own thread. If the seconds were too few to know whether the server is well, the error says so by ``hurried``,
        and the run ends as out of time. The default does nothing: override it if a call can wait for more than a few
        seconds, as for a server that does not answer or for a lock.

        Args:
            seconds: From now, by the clock of the host; ``None`` restores the configured timeouts.
        """

    # --- by capability: the default raises UnsupportedError ----------------------------------------

    def send_unique(
        self, envelopes: Sequence[Envelope], *, key: str, within: float = 0.0, delay: float = 0.0
    ) -> str | None:
        """
        Accept *envelopes*, the copies of one event, unless an event with *key* lives; all of them, or none.

        The event that was accepted with a key has it for *within* seconds, and for as long as a copy of it is stored;
        dead letters do not count. While it is stored, the same event may be sent again.

        Args:
            envelopes: Envelopes with the same source and id, for one or several queues.

            key: The key; applications with other sources have keys of their own.

            within: Seconds from now for which the key stays taken, also if the event is settled before.

            delay: As for :meth:`send`.

        Returns:
            The id of the event that has the key, and nothing was changed; ``None`` if the envelopes were accepted. It
            is the same id for an event that was settled within the time of its key.

        Raises:
            SendError: As from :meth:`send`.

            TransportUnavailableError: The server could not be reached; nothing was sent.

            UnsupportedError: ``unique`` is not claimed, or as from :meth:`send`.

        Promises:
            one-event-of-a-key-lives
        """
        raise self._unsupported("unique")

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        """
        Keep *deliveries* hidden for another *lease*.

        Args:
            deliveries: Deliveries of this transport.

            lease: Seconds from now to the end of each lease, also if that is sooner than it would have ended.

        Returns:
            Those whose lease was already lost, in any order; nothing was changed for them.

        Raises:
            TransportUnavailableError: The server could not be reached.

            UnsupportedError: ``extend`` is not claimed.

        Promises:
            extend-keeps-the-lease · stale-settle-is-refused
        """
        raise self._unsupported("extend")

    def checkpoint(self, delivery: Delivery, state: bytes) -> None:
        """
        Store *state* with *delivery* now, so that a later crash does not lose the progress.

        Raises:
            LeaseLostError: It is no longer held; nothing was changed.

            TransportUnavailableError: The server could not be reached.

            UnsupportedError: ``checkpoint`` is not claimed.

            ConfigurationError: *state* is longer than :data:`MAX_STATE`; nothing was changed.

        Promises:
            checkpoint-survives-a-lost-lease · state-is-bounded
        """
        self._check_states((state,))
        self._checkpoint(delivery, state)

    def _checkpoint(self, delivery: Delivery, state: bytes) -> None:
        """Implement :meth:`checkpoint`; the size of *state* has been checked."""
        raise self._unsupported("checkpoint")

    def begin(self, delivery: Delivery, note: Note) -> None:
        """
        Store *note* and its deaths with *delivery*, durably, before its listeners are called.

        A later delivery has them as ``begun`` and ``deaths``. A lost lease and a release keep the note; a retry removes
        it and keeps the deaths; :class:`Lost` with a death removes it and adds the death. A later call replaces it.

        Args:
            delivery: A delivery that is held.

            note: Names the process that begins it.

        Raises:
            LeaseLostError: The delivery is no longer held; nothing was changed.

            TransportUnavailableError: The note is not known to be stored, so the event must not be begun. The
                transport may have given the delivery back; then ``settle`` reports it as lost.

            UnsupportedError: ``presence`` is not claimed.

        Promises:
            begun-is-kept
        """
        raise self._unsupported("presence")

    def excuse(self, delivery: Delivery, note: Note) -> None:
        """
        Mark *note* as excused, if it is still the last one on *delivery*: the end of its process is not a death.

        The worker calls it if it ends normally or is stopped, and if it handled the event but could not settle it.

        The call may come after the lease was lost: while another worker holds the event, or after that worker has given
        it back without a note of its own. Nothing else changes. After *delivery* itself was settled, the note may stay
        as it is.

        Args:
            delivery: A delivery of this transport.

            note: The note that was stored with it.

        Raises:
            TransportUnavailableError: The server could not be reached.

            UnsupportedError: ``presence`` is not claimed.

        Promises:
            begun-is-kept
        """
        raise self._unsupported("presence")

    def appear(self, worker: str) -> None:
        """
        Record that *worker* is alive; called before its first ``begin`` and every ten seconds after that.

        Args:
            worker: The random part of its identity, at most 64 hexadecimal digits.

        Raises:
            TransportUnavailableError: The server could not be reached.

            UnsupportedError: ``presence`` is not claimed.

        Promises:
            presence-is-seen
        """
        raise self._unsupported("presence")

    def presence(self, workers: Sequence[str]) -> Mapping[str, Presence]:
        """
        Return the last heartbeat of each of *workers* that has sent one.

        Args:
            workers: The random parts of their identities.

        Returns:
            For the workers that are known. A worker that has died may stay known for a while; its beats do not rise.
            One that was silent for more than an hour may be forgotten.

        Raises:
            TransportUnavailableError: The server could not be reached.

            UnsupportedError: ``presence`` is not claimed.

        Promises:
            presence-is-seen
        """
        raise self._unsupported("presence")

    def stats(self, queue: str) -> Stats:
        """
        Return how many events *queue* holds.

        Raises:
            TransportUnavailableError: The server could not be reached.

            UnsupportedError: ``stats`` is "none".

        Promises:
            stats-are-true-at-rest
        """
        raise self._unsupported("stats")

    def problems(self, queues: Sequence[str]) -> Sequence[str]:
        """
        Return the problems of the store that holds the events of *queues*, and change nothing.

        ``relevo check --live`` calls it after ``setup`` with ``dry_run``. The default returns nothing: override it if
        events can be lost or stuck in a way that no other call reports. A check that cannot be made is not a problem:
        log a warning that says how to make it possible.

        Args:
            queues: Names of queues; missing ones are not reported here.

        Returns:
            One text for each problem, which says what is wrong and how to fix it.

        Raises:
            TransportUnavailableError: The server could not be reached.
        """
        return ()

    def risks(self) -> Sequence[str]:
        """
        Return what is unsafe in how this transport is configured, such as a password that is sent in the clear.

        It is logged once, when a worker starts and by ``relevo check``. The default returns nothing. No I/O.

        Returns:
            One text for each risk, which says what is unsafe and how to fix it, and shows no password.
        """
        return ()

    def blocked_send(self) -> str | None:
        """
        Return why a ``send`` would wait without success: for a session of this thread or task that cannot commit.

        ``app.testing()`` asks the configured transport, so that a dispatch without ``session=`` fails there too. The
        default returns ``None``. No I/O.

        Returns:
            What blocks it and how to fix it, as ``send`` would report it; ``None`` if nothing does.
        """
        return None

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        """
        Return dead letters without changing them: queue by queue in the given order, the oldest first.

        Args:
            queues: The queues, which the caller knows from its routes.

            after: The ``ref`` of the last entry of the previous page; it may have been discarded since.

            limit: The largest number to return. Fewer may be returned, for example if they are large, so that a page
                fits into memory; only an empty page is the end.

        Raises:
            ConfigurationError: *after* is not the ref of a dead letter of *queues*.

            UnsupportedError: ``dead_letters`` is not claimed.

        Promises:
            dead-is-kept-with-reason
        """
        raise self._unsupported("dead_letters")

    def matching_dead_letters(
        self, queues: Sequence[str], *, where: DeadLetterFilter, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        """
        Return the dead letters that match *where*, in the form in which :meth:`dead_letters` returns all.

        Args:
            queues: The queues.

            where: The filter.

            after: The ``ref`` of the last entry of the previous page.

            limit: The largest number to return; fewer may be returned; only an empty page is the end.

        Raises:
            ConfigurationError: *after* is not the ref of a dead letter of *queues*.

            UnsupportedError: ``dead_letters`` or ``waiting`` is not claimed.

        Promises:
            queried-as-it-is
        """
        raise self._unsupported("waiting")

    def dead_letter_groups(
        self,
        queues: Sequence[str],
        *,
        by: Literal["event", "queue", "reason"],
        where: DeadLetterFilter | None = None,
        limit: int = 100,
    ) -> Sequence[EventGroup]:
        """
        Count dead letters by a property, without changing them; the largest group comes first.

        Args:
            queues: The queues; a group may contain dead letters of several.

            by: The name of the event, the queue, or the reason.

            where: The filter; ``None`` selects all.

            limit: The largest number of groups to return.

        Raises:
            UnsupportedError: ``dead_letters`` or ``waiting`` is not claimed.

        Promises:
            queried-as-it-is
        """
        raise self._unsupported("waiting")

    def revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        """
        Make dead letters ready again, as new: first attempt, no lost leases.

        Where ``order`` is claimed, what is sent later with the same ordering key waits for them.

        Args:
            refs: From each dead letter's ``ref`` to its new ``state``.

        Returns:
            The refs that were not found, in any order. Where ``dedupe`` is claimed and a copy of the same event is in
            its queue again, the copy stays and the dead letter is deleted; elsewhere both may be delivered. If it is an
            event with the same id and source but other content, the dead letter stays, and its ref is returned too.

        Raises:
            ConfigurationError: A state is longer than :data:`MAX_STATE`, or *refs* is not a mapping; nothing was
                changed.

        Promises:
            revived-is-received · state-is-bounded
        """
        self._check_revived(refs)
        return self._revive(refs)

    def _revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        """Implement :meth:`revive`; the states have been checked."""
        raise self._unsupported("dead_letters")

    def revive_later(self, refs: Mapping[str, bytes], *, delay: float) -> Sequence[str]:
        """
        Revive dead letters that are due only in *delay* seconds; until then only ``take`` leases them.

        Otherwise it does the same as :meth:`revive`.

        Args:
            refs: From each dead letter's ``ref`` to its new ``state``.

            delay: Seconds until they are due.

        Returns:
            The refs that were not found, as from :meth:`revive`.

        Raises:
            ConfigurationError: As from :meth:`revive`.

            UnsupportedError: ``take`` or ``dead_letters`` is not claimed.

        Promises:
            taken-by-its-id · revived-is-received · state-is-bounded
        """
        self._check_revived(refs)
        return self._revive_later(refs, delay)

    def _revive_later(self, refs: Mapping[str, bytes], delay: float) -> Sequence[str]:
        """Implement :meth:`revive_later`; the states have been checked."""
        raise self._unsupported("take")

    def _check_revived(self, refs: Mapping[str, bytes]) -> None:
        given: object = refs
        if not isinstance(given, Mapping):
            raise ConfigurationError(
                f"revive: expected a mapping from refs to states; got {shown(given)}; write {{ref: app.revived(entry)}}"
            )
        self._check_states(refs.values())

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        """Delete dead letters for good; return the refs that were not found, in any order."""
        raise self._unsupported("dead_letters")

    def bound_to(self, session: Any, *, relay_to: str | None = None) -> BoundSender:
        """
        Return a sender that writes inside *session*'s transaction.

        Args:
            session: An object that the backend can join; the core passes it through.

            relay_to: The name of another transport: the events are stored here, in the reserved queue
                ``outbox/<name>``, with unchanged envelopes, until a relay moves them there.

        Raises:
            SessionError: It cannot be joined: it uses another database, or has no transaction.

            UnsupportedError: ``transactional`` is not claimed.

        Promises:
            joins-the-transaction
        """
        raise self._unsupported("transactional")

    def cancel(self, event_id: str) -> int:
        """Remove the events with the id *event_id* in all queues that are not leased; return their number."""
        raise self._unsupported("cancel")

    def find(self, event_id: str) -> Sequence[Found]:
        """
        Return the stored events with the id *event_id* in all queues, without changing them.

        An event that waits for an earlier one with its ordering key counts as ready.

        Raises:
            UnsupportedError: ``find`` is not claimed.

        Promises:
            found-as-it-is
        """
        raise self._unsupported("find")

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[WaitingEntry]:
        """
        Return events that are neither done nor dead, queue by queue in the given order, without changing them.

        Within a queue the order is the transport's own. An event whose state changes while the pages are read
        may be on two pages or on none; every other one is on exactly one page, whatever is sent or settled meanwhile.
        Unreadable bytes are not listed.

        Args:
            queues: The queues.

            where: The filter; ``None`` selects all.

            after: The ``cursor`` of the last entry of the previous page; its event may have been deleted since.

            limit: The largest number to return. Fewer may be returned, for example if they are large, so that a page
                fits into memory; only an empty page is the end.

        Raises:
            ConfigurationError: *after* is not a cursor of *queues*.

            UnsupportedError: ``waiting`` is not claimed.

        Promises:
            queried-as-it-is
        """
        raise self._unsupported("waiting")

    def waiting_groups(
        self,
        queues: Sequence[str],
        *,
        by: Literal["event", "queue", "state"],
        where: EventFilter | None = None,
        limit: int = 100,
    ) -> Sequence[EventGroup]:
        """
        Count events that are neither done nor dead by a property; the largest group comes first.

        It may read all events of *queues*.

        Args:
            queues: The queues; a group may contain events of several.

            by: The name of the event, the queue, or the state.

            where: The filter; ``None`` selects all.

            limit: The largest number of groups to return.

        Raises:
            UnsupportedError: ``waiting`` is not claimed.

        Promises:
            queried-as-it-is
        """
        raise self._unsupported("waiting")

    def stuck_keys(self, queues: Sequence[str], *, longer: float = 60.0, limit: int = 10) -> StuckKeys:
        """
        Return the ordering keys whose first event blocks others that are due.

        The first event is scheduled, as for a retry, is leased after a lost lease or for *longer* seconds, or was
        deleted by another program. A key whose first event is ready is not stuck: it waits for a worker.

        Args:
            queues: The queues.

            longer: Seconds for which the first event must be leased, unless it has a lost lease.

            limit: The largest number of keys to return; ``total`` counts all.

        Raises:
            UnsupportedError: ``waiting`` is not claimed.

        Promises:
            queried-as-it-is
        """
        raise self._unsupported("waiting")

    def purge(self, queue: str) -> int:
        """Remove all events of *queue* that are not leased; return their number."""
        raise self._unsupported("purge")

    # --- concrete -----------------------------------------------------------------------------------

    def ack(self, delivery: Delivery) -> None:
        """Settle *delivery* as done; raise :class:`LeaseLostError` if it is no longer held."""
        self._settle_one(delivery, Ack())

    def nack(self, delivery: Delivery, *, delay: float = 0.0, state: bytes | None = None) -> None:
        """Have *delivery* delivered again after *delay* seconds; raise :class:`LeaseLostError` if no longer held."""
        self._settle_one(delivery, Nack(delay=delay, state=state))

    def dead_letter(self, delivery: Delivery, *, reason: str, error: str = "", state: bytes | None = None) -> None:
        """Dead-letter *delivery*; raise :class:`LeaseLostError` if it is no longer held."""
        self._settle_one(delivery, DeadLetter(reason=reason, error=error, state=state))

    def _settle_one(self, delivery: Delivery, outcome: Outcome) -> None:
        if self.settle([(delivery, outcome)]):
            raise LeaseLostError(self.name, delivery)

    def _check_states(self, states: Iterable[bytes | None]) -> None:
        """Raise :class:`ConfigurationError` if one of *states* is longer than :data:`MAX_STATE`."""
        for state in states:
            if state is not None and len(state) > MAX_STATE:
                raise ConfigurationError(
                    f'the transport "{self.name}" stores at most {MAX_STATE} bytes of state, not {len(state)}; '
                    f"nothing was changed"
                )

    def _unsupported(self, capability: str) -> UnsupportedError:
        return UnsupportedError(self.name, capability, self.why_unclaimed.get(capability, ""))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"
