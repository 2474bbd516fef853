"""The transport interface: the seam between the core and the backends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, Self

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
from relevo.errors import ConfigurationError, LeaseLostError, UnsupportedError

_STATEFUL = (Nack, DeadLetter, Lost)
"""The outcomes that carry a state."""


@attrs.frozen(kw_only=True)
class Stats:
    """How many events a queue holds; ``None`` where the transport cannot tell."""

    ready: int | None = None
    """Those that wait behind an earlier one of their ordering key are among them."""

    leased: int | None = None
    scheduled: int | None = None
    dead: int | None = None
    oldest_age: float | None = None
    """Seconds since the oldest ready event was sent; ``None`` also if none is ready."""


@attrs.frozen(kw_only=True)
class DeadLetterEntry:
    """A dead letter as it is kept: everything that was received, and why it ended here."""

    ref: str
    """Opaque, and of this dead letter alone: fan-out shares event ids, unreadable bytes have none."""

    queue: str
    envelope: Envelope | Unreadable
    reason: str
    error: str
    state: bytes
    attempt: int
    """The attempt that was the last."""

    lost_leases: int
    enqueued_at: float
    died_at: float


@attrs.frozen(kw_only=True)
class Found:
    """An event as it is kept, alive: neither done nor dead."""

    queue: str
    envelope: Envelope
    status: Literal["ready", "leased", "scheduled"]
    attempt: int
    """That of the hand-over at hand, or else of the next one."""

    lost_leases: int
    state: bytes
    enqueued_at: float
    until: float | None = None
    """Of a leased one when its lease ends, of a scheduled one when it is due, in seconds since the epoch."""


@attrs.frozen(kw_only=True)
class Presence:
    """A sign of life of a worker."""

    beats: int
    """Rises with each sign that the worker gave."""

    connected: bool = False
    """The server sees the worker's connection now, so there is no need to wait for the next beat."""


class BoundSender(Protocol):
    """Sends inside somebody else's transaction: all commit together, or nothing does."""

    def send(self, make: Callable[[], Sequence[Envelope]], *, delay: float = 0.0) -> None:
        """
        Write what *make* returns when the transaction commits.

        Args:
            make: Called at most once, at the latest moment at which the transaction can still be
                written to, after pending objects were flushed; on a plain connection at once. Never
                after a rollback. If it raises, the commit fails with that.

            delay: Seconds from now before which none is handed out.
        """
        ...


class Transport(ABC):
    """
    Carries envelopes and remembers them until they are settled.

    This is all that a stranger writes to put relevo on something new. Batches go in and come out
    everywhere, since a commit or a round trip is what costs; a batch of one is common, an empty one
    does nothing. Every method may be called from several threads, ``receive`` from one at a time.
    Foreign errors are translated: what a method raises is a :class:`RelevoError`, the driver's own is
    its ``__cause__``.

    Three methods check the size of a state before anything else: ``settle``, ``checkpoint`` and ``revive``. A transport
    implements what they call then: ``_settle``, ``_checkpoint`` and ``_revive``.

    A process may be forked while it has an instance, as by a server that imports the application first.
    One that has done nothing but ``open`` and ``setup`` must work on both sides then, so these two leave
    no connection, thread or lock in use. What was used more may refuse to work in the child, and says so;
    a socket or a lock that both sides use is never right. One that means to go on starts again in the
    child: :class:`relevo.backend.ForkAware` says when, and :func:`relevo.backend.notice_fork` where nothing told
    Python. What was handed out before stays with the parent, and to the child it is lost.
    """

    capabilities: Capabilities
    """Of the class where it can be known there, else of the instance from the start."""

    Options: ClassVar[type]
    """
    An attrs class of what configuration may say. The core refuses unknown keys and wrong types.
    A field ``url: str`` gets the address; a field ``directory: pathlib.Path``, if there is one, gets
    the folder that relative paths start from; fields of type :class:`Secret` are masked everywhere.
    """

    name: str
    """What the application calls it, which may say so after it was opened; errors and log lines do too."""

    @classmethod
    @abstractmethod
    def open(cls, options: Any, *, name: str, clock: Clock) -> Self:
        """
        Return a transport that does no I/O until it is used.

        Args:
            options: An instance of :attr:`Options`.

            name: What the application calls it.

            clock: Where the time comes from.

        Raises:
            ConfigurationError: The options cannot work together.
        """

    @abstractmethod
    def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        """
        Create what is missing for *queues*; never alter what is there.

        Args:
            queues: Names of queues that will be sent to or received from.

            dry_run: Only tell.

        Returns:
            What was, or would be, created, in words for a person; empty when all is there.

        Raises:
            TransportUnavailableError: The server could not be reached.

            ConfigurationError: What is there does not fit, for example a newer schema.

        Promises:
            setup-is-idempotent
        """

    @abstractmethod
    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        """
        Take *envelopes* over; when this returns they are as safe as ``durability`` claims.

        Args:
            envelopes: They may be for several queues.

            delay: Seconds before which none is handed out, rounded up to the claimed resolution.

        A queue that nobody set up is either refused or made; it never swallows an event.

        Raises:
            SendError: Not all is known to be safe; says which were sent, refused, unknown. Too large
                is refused; a commit or a confirmation that was lost is unknown. An event that
                ``dedupe`` recognised was sent.

            TransportUnavailableError: The server could not be reached; nothing was sent.

            UnsupportedError: *delay*, an urgency or an ordering key is asked for and not claimed;
                nothing was sent.

            TransportClosedError: After ``close()``.

        Promises:
            sent-is-received · payload-is-untouched · send-tells-apart · batch-is-atomic
        """

    @abstractmethod
    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        """
        Hand out up to *limit* events that are ready, each hidden from everyone else.

        Args:
            queues: In order of preference.

            limit: How many at most; no more than these are leased to the caller, except where
                lost leases are counted as "at least".

            lease: Seconds for which they are hidden, unless extended. Ignored where leases are of
                the connection.

            wait: Seconds to block at most if nothing is ready; 0 looks and returns.

        Returns:
            The deliveries; empty when nothing was ready in time. What is not an envelope comes as
            :class:`Unreadable` and never as an error.

        Raises:
            TransportUnavailableError: The server could not be reached.

            TransportClosedError: After ``close()``, also when it was blocked.

        Promises:
            limit-is-respected · leased-is-hidden · lost-lease-returns · lost-leases-are-counted ·
            malformed-is-quarantined · nobody-starves · wait-is-kept
        """

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        """
        End each of *settlements*, each on its own, by compare-and-set on the receipt.

        A dead letter is durable before its source is given up; if the same event lies dead in its queue
        already, the new one takes its place. What is nacked goes behind the others that are ready, so that
        it holds nobody up. Where settlement is only ``sent``, that is said of acks alone: the other outcomes
        are confirmed when this returns.

        Args:
            settlements: Pairs of a delivery and its outcome.

        Returns:
            The deliveries whose lease was lost; nothing was changed for them. One that stands twice among
            *settlements* is lost the second time.

        Raises:
            TransportUnavailableError: The server could not be reached; none is known to be settled.
                They may be settled again: those that were come back as lost.

            SettleError: Some could not be settled, though others were or would have been; names them. What was
                not settled stays leased, and is delivered again if it is not settled later.

            ConfigurationError: A state is longer than :data:`MAX_STATE`; nothing was changed.

        Promises:
            ack-is-final · nack-returns-later · dead-is-kept-with-reason · release-counts-nothing ·
            stale-settle-is-refused · state-is-bounded
        """
        self._check_states(outcome.state for _, outcome in settlements if isinstance(outcome, _STATEFUL))
        return self._settle(settlements)

    @abstractmethod
    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        """Do what :meth:`settle` promises; no state is too long."""

    @abstractmethod
    def close(self) -> None:
        """
        Give up everything held, without settling it, and wake a blocked ``receive``.

        Calls that have begun in other threads come to an end first. What was fetched but not yet
        handed out goes back as released. May be called again. Every other method raises
        :class:`TransportClosedError` afterwards.

        Promises:
            close-is-idempotent
        """

    def hurry(self, seconds: float | None) -> None:  # noqa: B027 - for transports that can wait for long
        """
        Limit every call to *seconds* from now; one that takes longer raises :class:`TransportUnavailableError`.

        A run with a time limit calls it before each of its calls. The default does nothing: override it if a call
        can wait for more than a few seconds, as for a server that does not answer or for a lock.

        Args:
            seconds: From now, by the clock of the host; ``None`` restores the configured timeouts.
        """

    # --- by capability: what is not claimed raises ------------------------------------------------

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        """
        Keep *deliveries* hidden for another *lease*.

        Args:
            deliveries: Ones that this transport handed out.

            lease: Seconds from now.

        Returns:
            Those whose lease was already lost; nothing was changed for them.

        Raises:
            TransportUnavailableError: The server could not be reached.

            UnsupportedError: ``extend`` is not claimed.

        Promises:
            extend-keeps-the-lease · stale-settle-is-refused
        """
        raise self._unsupported("extend")

    def checkpoint(self, delivery: Delivery, state: bytes) -> None:
        """
        Keep *state* with *delivery* now, so that a crash later in it does not lose what is done.

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
        """Do what :meth:`checkpoint` promises; *state* is not too long."""
        raise self._unsupported("checkpoint")

    def begin(self, delivery: Delivery, note: Note) -> None:
        """
        Keep *note* and its deaths with *delivery*, durably, before its listeners are called.

        A later delivery has them as ``begun`` and ``deaths``. A lost lease and a release keep the note; a retry removes
        it and keeps the deaths; :class:`Lost` with a death removes it and adds the death. A later call replaces it.

        Args:
            delivery: One that is held.

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

        The worker calls it if it ends normally or was told to end, and if it handled the event but could not settle it.

        The call may come after the lease was lost, even while another worker holds the event; nothing else changes.
        After the delivery was settled, the note may stay as it is.

        Args:
            delivery: One that this transport handed out.

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
        Return the last sign of life of each of *workers* that has given one.

        Args:
            workers: The random parts of their identities.

        Returns:
            For the workers that are known. A worker that has died may stay known for a while; its beats do not rise.

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

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        """
        Return dead letters without changing them: queue by queue in the order given, the oldest first.

        Args:
            queues: Whose; the caller knows them from its routes.

            after: The ``ref`` of the last one seen, to page on; it may have been discarded meanwhile.

            limit: The largest number to return. Fewer are returned if they are large, so that a page fits into
                memory; an empty page is the end.

        Raises:
            UnsupportedError: ``dead_letters`` is not claimed.

        Promises:
            dead-is-kept-with-reason
        """
        raise self._unsupported("dead_letters")

    def revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        """
        Make dead letters ready again, as new: first attempt, no lost leases.

        Args:
            refs: From each dead letter's ``ref`` to the ``state`` it starts with.

        Returns:
            The refs that were not found. If the same event lives again in its queue, that one stays
            and the dead letter goes.

        Raises:
            ConfigurationError: A state is longer than :data:`MAX_STATE`; nothing was changed.

        Promises:
            revived-is-received · state-is-bounded
        """
        self._check_states(refs.values())
        return self._revive(refs)

    def _revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        """Do what :meth:`revive` promises; no state is too long."""
        raise self._unsupported("dead_letters")

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        """Delete dead letters for good; return the refs that were not found."""
        raise self._unsupported("dead_letters")

    def bound_to(self, session: Any, *, relay_to: str | None = None) -> BoundSender:
        """
        Return a sender that writes inside *session*'s transaction.

        Args:
            session: Whatever the backend can join; the core hands it on unseen.

            relay_to: The name of another transport: the events are kept in the reserved queue
                ``outbox/<name>`` here, their envelopes unchanged, until a relay moves them there.

        Raises:
            SessionError: It cannot be joined: another database, or no transaction at all.

            UnsupportedError: ``transactional`` is not claimed.

        Promises:
            joins-the-transaction
        """
        raise self._unsupported("transactional")

    def cancel(self, event_id: str) -> int:
        """Take out the events of *event_id* that nobody holds; return how many that were."""
        raise self._unsupported("cancel")

    def find(self, event_id: str) -> Sequence[Found]:
        """
        Return the living events of *event_id*, in whichever queue, without changing them.

        What waits behind another one of its ordering key counts as ready.

        Raises:
            UnsupportedError: ``find`` is not claimed.

        Promises:
            found-as-it-is
        """
        raise self._unsupported("find")

    def purge(self, queue: str) -> int:
        """Take out all events of *queue* that nobody holds; return how many that were."""
        raise self._unsupported("purge")

    # --- what follows from the above ----------------------------------------------------------------

    def ack(self, delivery: Delivery) -> None:
        """Settle *delivery* as done; raise :class:`LeaseLostError` if it is no longer held."""
        self._settle_one(delivery, Ack())

    def nack(self, delivery: Delivery, *, delay: float = 0.0, state: bytes | None = None) -> None:
        """Give *delivery* back, again after *delay* seconds; raise :class:`LeaseLostError` if no longer held."""
        self._settle_one(delivery, Nack(delay=delay, state=state))

    def dead_letter(self, delivery: Delivery, *, reason: str, error: str = "", state: bytes | None = None) -> None:
        """Keep *delivery* aside for good; raise :class:`LeaseLostError` if it is no longer held."""
        self._settle_one(delivery, DeadLetter(reason=reason, error=error, state=state))

    def _settle_one(self, delivery: Delivery, outcome: Outcome) -> None:
        if self.settle([(delivery, outcome)]):
            raise LeaseLostError(self.name, delivery)

    def _check_states(self, states: Iterable[bytes | None]) -> None:
        """Raise :class:`ConfigurationError` if one of *states* is longer than :data:`MAX_STATE`."""
        for state in states:
            if state is not None and len(state) > MAX_STATE:
                raise ConfigurationError(
                    f'the transport "{self.name}" keeps {MAX_STATE} bytes of state, not {len(state)}; '
                    f"nothing was changed"
                )

    def _unsupported(self, capability: str) -> UnsupportedError:
        return UnsupportedError(self.name, capability)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"
