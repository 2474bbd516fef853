"""The transport on a store: clock, waiting, closing, and refusals."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

import attrs

from relevo import (
    BoundSender,
    Capabilities,
    Clock,
    Coordinator,
    DeadLetterEntry,
    DeadLetterFilter,
    Delivery,
    Envelope,
    EventFilter,
    EventGroup,
    Found,
    Note,
    Presence,
    Settlement,
    Stats,
    StuckKeys,
    SystemClock,
    Transport,
    WaitingEntry,
    masked_url,
)
from relevo.backend import (
    ControlStore,
    Firing,
    HandlingTransaction,
    LimitStore,
    ScheduleStore,
    TransactionalHandling,
)
from relevo.errors import ConfigurationError, LeaseLostError, SendError, SessionError, TransportClosedError, shown
from relevo_memory._store import MemoryStore, Posting, taken_over
from relevo_memory._unique import PostedClaim

if TYPE_CHECKING:
    from relevo_memory._session import JoinedSessions

T = TypeVar("T")

_LONGEST_PAUSE = 3600.0
"""Seconds; a longer wait is split, since the interpreter limits one."""

_FIRST_GLANCE, _LONGEST_GLANCE = 0.001, 0.1
"""Seconds to watch a clock that may run or stand still; doubled each time that it ran."""


@attrs.frozen(kw_only=True)
class MemoryOptions:
    """The options of a memory transport in the configuration."""

    url: str = "memory://"


class MemoryTransport(Transport, Coordinator, ScheduleStore, ControlStore, LimitStore, TransactionalHandling):
    """
    Carries events within one process: for tests, and as the reference for all other transports.

    Leases, lost leases, delays, order and refusals are those of a server, driven by the core's transition
    table. A queue is created at its first use, as with ``setup = "auto"``: events sent to a queue without a receiver
    are not lost; they stay there, and ``stats`` counts them.

    All times come from the clock. With a running clock, ``receive`` waits on a condition, which is notified when an
    event becomes ready. A clock that stands still, such as :class:`relevo.testing.FakeClock`, has to sleep until the
    next change, at most for the wait: its time passes, and no real time. Before that, other threads, if there are any,
    get a short real time to send something.

    Args:
        store: The store of the events; a new one by default. Transports that share a store are to it what processes
            are to a server; give them the same clock.

        name: The name of the transport in the application.

        clock: The source of the time.
    """

    capabilities = Capabilities(
        durability="process",
        lease="timed",
        extend=True,
        settlement="confirmed",
        atomic_batch=True,
        delay=0.001,
        lost_leases="exact",
        order="per key",
        urgency=True,
        transactional=True,
        checkpoint=True,
        dead_letters=True,
        cancel=True,
        find=True,
        take=True,
        waiting=True,
        purge=True,
        wakeup=True,
        dedupe=True,
        unique=True,
        stats="exact",
        presence=True,
        max_body=None,
    )
    Options: ClassVar[type] = MemoryOptions
    makes_sessions = False
    takes_async_sessions = True

    def __init__(
        self,
        store: MemoryStore | None = None,
        *,
        name: str = "memory",
        clock: Clock = SystemClock(),  # noqa: B008 - it has no state
    ) -> None:
        self.name = name
        self.store = MemoryStore() if store is None else store
        self.clock = self._clock = clock
        self._stands_still = False
        self._closed = False
        self._joined: JoinedSessions | None = None

    @classmethod
    def open(cls, options: MemoryOptions, *, name: str, clock: Clock) -> Self:
        if options.url.rstrip("/") != "memory:":
            message = f'the transport "{name}" has the invalid address {masked_url(options.url)}; write "memory://"'
            raise ConfigurationError(message)
        return cls(name=name, clock=clock)

    def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        with self._open():
            return [f'queue "{name}" in memory' for name in self.store.declare(queues, dry_run=dry_run)]

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        self._refuse_what_is_no_text(envelopes)
        with self.store.changed:
            now = self._now()
            due = now + max(0.0, delay)
            self.store.add([Posting(envelope.queue, envelope, due) for envelope in envelopes], now)

    def send_unique(
        self, envelopes: Sequence[Envelope], *, key: str, within: float = 0.0, delay: float = 0.0
    ) -> str | None:
        self._refuse_what_is_no_text(envelopes)
        living: list[str | None] = [None]
        claim = PostedClaim(key, within, living.append)
        with self.store.changed:
            now = self._now()
            due = now + max(0.0, delay)
            self.store.add([Posting(envelope.queue, envelope, due, claim) for envelope in envelopes], now)
        return living[-1]

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        deadline = self._clock.monotonic() + wait
        glance = self._first_glance()
        while True:
            with self._open() as now:
                deliveries = self.store.claim(queues, limit=limit, lease=lease, now=now)
                left = deadline - self._clock.monotonic()
                if deliveries or left <= 0 or limit <= 0:
                    return deliveries
                pause = min(left, self.store.next_change(queues) - now)
                if glance:
                    glance = self._watch(pause, glance)
                    continue
            before = self._clock.monotonic()
            self._clock.sleep(pause)
            if self._clock.monotonic() <= before:
                # The clock neither runs nor sleeps: the code that moves it has to call again.
                return ()

    def take(self, queue: str, event_id: str, *, lease: float) -> Sequence[Delivery]:
        with self._open() as now:
            return self.store.take(queue, event_id, lease=lease, now=now)

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        with self._open() as now:
            return self.store.settle(settlements, now)

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        with self._open() as now:
            return self.store.extend(deliveries, lease=lease, now=now)

    def _checkpoint(self, delivery: Delivery, state: bytes) -> None:
        with self._open() as now:
            if not self.store.checkpoint(delivery, state, now):
                raise LeaseLostError(self.name, delivery)

    def begin(self, delivery: Delivery, note: Note) -> None:
        with self._open() as now:
            if not self.store.begin(delivery, note, now):
                raise LeaseLostError(self.name, delivery)

    def excuse(self, delivery: Delivery, note: Note) -> None:
        with self._open() as now:
            self.store.excuse(delivery, note, now)

    def appear(self, worker: str) -> None:
        with self._open():
            self.store.appear(worker)

    def presence(self, workers: Sequence[str]) -> Mapping[str, Presence]:
        with self._open():
            return self.store.presence(workers)

    def stats(self, queue: str) -> Stats:
        with self._open() as now:
            return self.store.stats(queue, now)

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        with self._open():
            return self.store.dead_letters(queues, after=after, limit=limit)

    def matching_dead_letters(
        self, queues: Sequence[str], *, where: DeadLetterFilter, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        with self._open():
            return self.store.dead_letters(queues, after=after, limit=limit, where=where)

    def dead_letter_groups(
        self,
        queues: Sequence[str],
        *,
        by: Literal["event", "queue", "reason"],
        where: DeadLetterFilter | None = None,
        limit: int = 100,
    ) -> Sequence[EventGroup]:
        with self._open():
            return self.store.dead_groups(queues, by=by, where=where or DeadLetterFilter())[: max(0, limit)]

    def _revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        with self._open() as now:
            return self.store.revive(refs, now)

    def _revive_later(self, refs: Mapping[str, bytes], delay: float) -> Sequence[str]:
        with self._open() as now:
            return self.store.revive_later(refs, now, due=now + delay)

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        with self._open():
            return self.store.discard(refs)

    def bound_to(self, session: Any, *, relay_to: str | None = None) -> BoundSender:
        """
        Return a sender whose events become visible when *session*'s transaction commits.

        Any of SQLAlchemy's sessions and connections can be joined, whatever its database. A session
        that has begun no transaction yet begins one at the first send, as it does at an ``add()``.

        Args:
            session: A Session, scoped_session, AsyncSession or Connection.

            relay_to: The name of another transport: the events are stored here in the reserved queue
                ``outbox/<name>``, with unchanged envelopes, until a relay moves them to that transport.

        Raises:
            SessionError: *session* is of another type, or has no transaction and does not begin one.
        """
        with self._open():
            if "sqlalchemy" not in sys.modules:
                raise SessionError(
                    f"{shown(session)} cannot be joined; expected a session or connection of SQLAlchemy's"
                )
            if self._joined is None:
                from relevo_memory._session import JoinedSessions  # noqa: PLC0415 - needs SQLAlchemy, which is optional

                self._joined = JoinedSessions(lambda postings: self.store.add(postings, self._clock.now()))
            return _Bound(self, self._joined.at(session), None if relay_to is None else f"outbox/{relay_to}")

    def handling(self, delivery: Delivery, *, sessions: Callable[[], Any] | None = None) -> HandlingTransaction:
        """
        Return a transaction for one listener of *delivery*, on any database; *sessions* makes its session.

        Raises:
            LeaseLostError: The delivery is no longer held.

            SessionError: *sessions* makes something else than a Session.

            ConfigurationError: *sessions* is ``None``: the store is not a database.
        """
        if sessions is None:
            raise ConfigurationError(
                f'the transport "{self.name}" keeps its events in memory and has no database; name what makes the '
                f"sessions of your own: transactional=sessionmaker(engine)"
            )
        with self._open() as now:
            if not self.store.holds(delivery, now):
                raise LeaseLostError(self.name, delivery)
        from relevo_memory._session import MemoryHandling  # noqa: PLC0415 - needs SQLAlchemy, which is optional

        return MemoryHandling(delivery, sessions, self.store, self._clock.now, name=self.name)

    async def on_loop(self, work: Callable[[], T]) -> T:
        """See :meth:`relevo.backend.TransactionalHandling.on_loop`."""
        from relevo.backend.session import on_loop  # noqa: PLC0415 - needs SQLAlchemy, which is optional

        return await on_loop(work)

    def exported_receipt(self, delivery: Delivery) -> bytes:
        """Return nothing: no other process has the store."""
        return b""

    def find(self, event_id: str) -> Sequence[Found]:
        with self._open() as now:
            return self.store.find(event_id, now)

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[WaitingEntry]:
        with self._open() as now:
            return self.store.waiting(queues, where=where or EventFilter(), after=after, limit=limit, now=now)

    def waiting_groups(
        self,
        queues: Sequence[str],
        *,
        by: Literal["event", "queue", "state"],
        where: EventFilter | None = None,
        limit: int = 100,
    ) -> Sequence[EventGroup]:
        with self._open() as now:
            return self.store.groups(queues, by=by, where=where or EventFilter(), now=now)[: max(0, limit)]

    def stuck_keys(self, queues: Sequence[str], *, longer: float = 60.0, limit: int = 10) -> StuckKeys:
        with self._open() as now:
            return self.store.stuck_keys(queues, longer=longer, limit=limit, now=now)

    def cancel(self, event_id: str) -> int:
        with self._open() as now:
            return self.store.cancel(event_id, now)

    def purge(self, queue: str) -> int:
        with self._open() as now:
            return self.store.purge(queue, now)

    def lock(self, name: str, *, holder: str, ttl: float) -> str | None:
        with self._open() as now:
            return self.store.locks.take(name, holder=holder, until=now + ttl, now=now)

    def renew_lock(self, name: str, receipt: str, *, ttl: float) -> bool:
        with self._open() as now:
            return self.store.locks.renew(name, receipt, until=now + ttl)

    def unlock(self, name: str, receipt: str) -> None:
        with self._open():
            self.store.locks.free(name, receipt)

    def announce(self, worker: str, about: bytes, *, ttl: float) -> None:
        with self._open() as now:
            self.store.announce(worker, about, until=now + ttl)
            self.store.forget_announcements(now)

    def workers(self) -> Mapping[str, bytes]:
        with self._open() as now:
            return self.store.workers(now)

    def set_control(self, key: str, what: bytes, *, ttl: float) -> None:
        with self._open() as now:
            self.store.controls.set(key, what, until=now + ttl, now=now)

    def controls(self) -> Mapping[str, bytes]:
        with self._open() as now:
            return self.store.controls.at(now)

    def change_limit(self, key: str, change: Callable[[bytes, float], bytes], *, ttl: float) -> None:
        with self._open() as now:
            self.store.limits.change(key, change, until=now + ttl, now=now)

    def fired(self, names: Sequence[str]) -> Mapping[str, int]:
        with self._open():
            return self.store.schedules.of(names)

    def fire(self, firings: Sequence[Firing], *, relay_to: str | None = None) -> Collection[str]:
        self._refuse_what_is_no_text([envelope for each in firings for envelope in each.envelopes])
        outbox = None if relay_to is None else f"outbox/{relay_to}"
        with self._open() as now:
            stored = self.store.schedules.advance(firings)
            postings = [
                Posting(outbox or envelope.queue, envelope, now) for each in stored for envelope in each.envelopes
            ]
            if postings:
                self.store.add(postings, now)
            return {each.name for each in stored}

    def close(self) -> None:
        """
        Give up everything held, without settling it, and wake a blocked ``receive``.

        As on a server that knows only leases, held events become ready when their leases end, and count as lost;
        release them first to make them ready at once.
        """
        with self.store.changed:
            self._closed = True
            self.store.changed.notify_all()

    @contextmanager
    def _open(self) -> Iterator[float]:
        """Hold the store and yield the time, so that calls end before a close and run in the order of their times."""
        with self.store.changed:
            yield self._now()

    def _now(self) -> float:
        """Return the time; the caller holds the store."""
        if self._closed:
            raise TransportClosedError(self.name)
        return self._clock.now()

    def _first_glance(self) -> float:
        """Return how long to wait for a change before checking whether time has passed; 0 if the clock stands still."""
        if isinstance(self._clock, SystemClock):
            return _LONGEST_PAUSE
        return 0.0 if self._stands_still and threading.active_count() == 1 else _FIRST_GLANCE

    def _watch(self, pause: float, glance: float) -> float:
        """Wait for a change, for *pause* at most; return the next glance, 0 if the clock stood still meanwhile."""
        before = self._clock.monotonic()
        self.store.changed.wait(min(pause, glance))
        self._stands_still = self._clock.monotonic() <= before
        return 0.0 if self._stands_still else max(glance, min(2 * glance, _LONGEST_GLANCE))

    def _refuse_what_is_no_text(self, envelopes: Sequence[Envelope]) -> None:
        """Refuse lone surrogates, as every transport that stores bytes must."""
        for one in envelopes:
            texts = f"{one.id}{one.source}{one.name}{one.queue}{one.ordering_key}"
            text = "".join((texts, *one.headers, *one.headers.values())) if one.headers else texts
            if text.isascii():
                continue
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise SendError(self.name, refused=range(len(envelopes)), why=str(error)) from error


@attrs.frozen(eq=False)
class _Bound:
    """The sender that ``bound_to`` returns."""

    transport: MemoryTransport
    enlist: Callable[[Callable[[], Sequence[Posting]]], None]
    outbox: str | None

    def send(
        self, make: Callable[[], Sequence[Envelope]], *, delay: float = 0.0, claim: PostedClaim | None = None
    ) -> None:
        with self.transport._open() as now:  # noqa: SLF001 - of the same module
            # Without a delay it is due by any clock, even if that is set back before the commit.
            due = now + delay if delay > 0.0 else -math.inf

        def postings() -> list[Posting]:
            envelopes = make()
            self.transport._refuse_what_is_no_text(envelopes)  # noqa: SLF001 - of the same module
            # On a connection the commit comes later than this, and the sender may have changed its headers by then.
            taken = map(taken_over, envelopes)
            return [Posting(self.outbox or envelope.queue, envelope, due, claim) for envelope in taken]

        self.enlist(postings)

    def send_unique(
        self,
        make: Callable[[], Sequence[Envelope]],
        *,
        key: str,
        within: float,
        decided: Callable[[str | None], object],
        delay: float = 0.0,
    ) -> None:
        self.send(make, delay=delay, claim=PostedClaim(key, within, decided))
