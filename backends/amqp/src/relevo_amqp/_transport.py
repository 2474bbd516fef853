"""The transport: the methods of the interface as messages, receipts and acks."""

from __future__ import annotations

import logging
import random
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import MappingProxyType
from typing import ClassVar, NamedTuple, Self
from urllib.parse import unquote

import attrs

from relevo import (
    Ack,
    Capabilities,
    Clock,
    DeadLetterEntry,
    Delivery,
    Envelope,
    Nack,
    Note,
    Presence,
    Release,
    Settlement,
    Stats,
    SystemClock,
    Transport,
    Unreadable,
)
from relevo.backend import DEFAULT_SOURCE, DeadLetterOwner, ForkAware, IdentifiedStore, notice_fork
from relevo.backend.tls import is_loopback
from relevo.errors import (
    ConfigurationError,
    LeaseLostError,
    SendError,
    SettleError,
    TransportClosedError,
    TransportError,
    TransportUnavailableError,
)
from relevo_amqp._dead_letters import DeadLetterStore
from relevo_amqp._errors import HURRIED, ConnectionLostError, no_answer, not_set_up, translated
from relevo_amqp._header import NotePlace
from relevo_amqp._hub import Hub
from relevo_amqp._loop import Deadline
from relevo_amqp._mapping import (
    Message,
    MessageRecord,
    UnfitError,
    check_body,
    fresh,
    plain_key,
    read,
    suspect_key,
    written,
)
from relevo_amqp._options import FORMER_PREFIX, MAX_BODY, Address, AmqpOptions, prefix_of
from relevo_amqp._packed import packed, unpacked
from relevo_amqp._page_cache import PageCache
from relevo_amqp._publisher import PublishBatch, PublishResult
from relevo_amqp._receiver import Receiver
from relevo_amqp._settlement import message_of
from relevo_amqp._subscription import CANCELLED, Receipt, Subscription
from relevo_amqp._topology import Destination, Role, Topology, word

_log = logging.getLogger("relevo.amqp")

IDLE = 1.0
"""Seconds without a ``receive`` after which events that were fetched ahead go back, for other workers."""

_MOST_BEGUN = 1000
"""The most hand-overs that are remembered as begun; a process has few, since suspects are handled alone."""

LANDING = 1.0
"""The most seconds from the end of a delay until the event is in its queue."""

GRACE = 30.0
"""Seconds for which a delivery that could not be settled is held, so that the caller can settle it again."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 3.0
"""Seconds between two attempts to subscribe, doubled each time."""


_UNSEEN = "RabbitMQ shows the events of a queue only to a worker that takes them"


class _Move(NamedTuple):
    """A delivery that is published again before it is acked."""

    delivery: Delivery
    tag: int
    message: Message


class AmqpTransport(Transport, ForkAware, IdentifiedStore, DeadLetterOwner):
    """
    Carries events on RabbitMQ 4.0 or later.

    A lease lasts as long as the connection, so there is nothing to extend. When the process dies, the server delivers
    all events that it held again at once, with a lost lease; those that were only fetched ahead, too. When ``settle``
    returns, the server has received the acks of the call before, and may not have written them: if the connection or
    the server dies after an ack, an event that is done may be delivered once more.

    Args:
        options: The options, or only the address.

        name: The transport's name in the application.

        clock: The source of the time. Waiting for the server uses the real time.
    """

    Options: ClassVar[type] = AmqpOptions
    why_unclaimed: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            **dict.fromkeys(("find", "waiting"), _UNSEEN),
            "take": f"{_UNSEEN}, and hands them out only in their order",
            "purge": "the scheduled events of all queues wait together; to delete the ready ones, run: "
            "rabbitmqctl purge_queue PREFIX.q.QUEUE, where PREFIX is the option prefix, by default the source",
        }
    )
    capabilities = Capabilities(
        durability="host",
        lease="connection",
        settlement="sent",
        delay=AmqpOptions().resolution,
        lost_leases="at least",
        urgency=True,
        dead_letters=True,
        wakeup=True,
        stats="approximate",
        presence=True,
        max_body=MAX_BODY,
    )

    def __init__(self, options: AmqpOptions | str | None = None, *, name: str = "amqp", clock: Clock | None = None):
        if isinstance(options, str):
            options = AmqpOptions(url=options)
        self.name = name
        self._options = options or AmqpOptions()
        self.clock = self._clock = clock or SystemClock()
        self._address = Address.parse(self._options.url)
        self._closed = False
        self._kept: set[str] = set()
        self._seen: set[str] = set()
        """The queues for which the former default prefix was looked at."""

        self.capabilities = attrs.evolve(
            type(self).capabilities, delay=self._options.resolution, max_body=self._options.max_body
        )
        self.after_fork_in_child()
        super().__init__()

    @classmethod
    def open(cls, options: AmqpOptions, *, name: str, clock: Clock) -> Self:
        return cls(options, name=name, clock=clock)

    # --- life -----------------------------------------------------------------------------------------

    def after_fork_in_child(self) -> None:
        """Start without connections: those of the parent stay the parent's."""
        self._lock = threading.RLock()
        self._using = threading.Condition(self._lock)
        self._users: set[object] = set()
        """One for each call that runs."""

        self._turn: object | None = None
        """The turn to receive, if a thread has it."""

        self._hub: Hub | None = None
        self._receiver: Receiver | None = None
        self._begun: dict[tuple[str, int], None] = {}
        self._deadline = Deadline()
        self._failures = 0
        self._not_before = 0.0
        self._received_at = 0.0
        self._idling = False
        self._last_due = 0.0
        self._page_cache = PageCache()

    @contextmanager
    def _in_use(self) -> Iterator[Hub]:
        """Make :meth:`close` wait, and translate errors."""
        notice_fork()
        user = object()
        try:
            with self._lock:  # not by the condition: an interrupt could leave it locked
                if self._closed:
                    raise TransportClosedError(self.name)
                if self._hub is None or not self._hub.loop.alive:
                    self._hub = Hub(
                        self._options, self._topology(), name=self.name, kept=self._kept, deadline=self._deadline
                    )
                    self._receiver = None
                hub = self._hub
                self._users.add(user)
            yield hub
        except ConnectionLostError as error:
            raise translated(error, transport=self.name, place=str(self._address)) from error
        finally:
            with self._lock:
                self._users.discard(user)
                self._using.notify_all()

    def hurry(self, seconds: float | None) -> None:
        notice_fork()
        self._deadline.at = float("inf") if seconds is None else time.monotonic() + seconds

    def close(self) -> None:
        notice_fork()
        with self._lock:
            first, self._closed = not self._closed, True
            hub, receiver = self._hub, self._receiver
            self._using.notify_all()
            if receiver is not None:
                receiver.wake()
            timeout = 2 * self._options.confirm_timeout
            self._using.wait_for(lambda: not self._users, timeout if hub is None else hub.loop.within(timeout))
        if first and hub is not None:
            try:
                if receiver is not None:
                    receiver.hurry(self._options.confirm_timeout)
                    with suppress(ConnectionLostError, ConfigurationError):  # then the server delivers it again
                        receiver.release()
                    with suppress(ConnectionLostError):
                        receiver.finish()
            finally:
                hub.close(self._options.confirm_timeout)

    def _abort(self) -> None:
        """Cut the connections, as the end of a killed process does; for tests."""
        with self._lock:
            self._closed = True
            if self._hub is not None:
                self._hub.abort(self._options.confirm_timeout)
            if self._receiver is not None:
                self._receiver.wake()

    # --- setting up -----------------------------------------------------------------------------------

    def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        with self._in_use() as hub:
            wanted = list(dict.fromkeys(queues))
            created = hub.declare(wanted, dry_run=dry_run)
            for former in self._former(hub, [queue for queue in wanted if queue not in self._seen]):
                _log.warning('the transport "%s": %s', self.name, former)
            self._seen.update(wanted)
            if not dry_run:
                self._kept.update(wanted)
            return created

    def _topology(self) -> Topology:
        options = self._options
        return Topology(self._prefix, options.resolution, options.levels)

    @property
    def _prefix(self) -> str:
        return self._options.prefix or prefix_of(self.source)

    def _former(self, hub: Hub, queues: Sequence[str]) -> list[str]:
        """Return which of *queues* exist under the former default prefix: events of this application may wait there."""
        prefix = hub.topology.prefix
        if self._options.prefix is not None or prefix == FORMER_PREFIX:
            return []
        return [
            f'the queue "{name}" exists, with {number} event{"" if number == 1 else "s"}: the default prefix was '
            f'"{FORMER_PREFIX}", and is now the source; if the queue is this application\'s, move its events, see '
            f'Change the transport in the documentation, or go on with prefix = "{FORMER_PREFIX}"; if it is another '
            f'one\'s, write prefix = "{prefix}"'
            for name, number in hub.former(queues).items()
        ]

    def risks(self) -> Sequence[str]:
        found = [*self._address.risks(), *self._shared_prefix()]
        if isinstance(self._clock, SystemClock):
            return found
        name = type(self._clock).__name__
        return [*found, f"the server measures delays, so a {name} makes no event due; use app.testing() in tests"]

    def _shared_prefix(self) -> Iterator[str]:
        """Yield why other applications may take the events of this one, if its prefix is that of all without a name."""
        if self._options.prefix is None and self.source == DEFAULT_SOURCE:
            yield (
                f'the application has no source, so its queues begin with "{DEFAULT_SOURCE}", and another application '
                f"without one on this virtual host would take its events; set source to a name of its own, and "
                f'prefix = "{DEFAULT_SOURCE}" on this transport to keep its present queues; the prefix alone is enough '
                f"if no other application uses the virtual host"
            )

    def store_id(self) -> str:
        """Return the server, its virtual host and the prefix; the names of a server elsewhere are not resolved."""
        address = self._address
        host = "localhost" if is_loopback(address.host) else address.host
        return f"{host}:{address.port} {address.vhost} {self._topology().prefix}"

    def problems(self, queues: Sequence[str]) -> Sequence[str]:
        """
        Return the policies and the lost data that affect *queues*, and queues of the former default prefix.

        Other queues of the prefix that hold events are logged. The management plugin reports these, policies and lost
        data. Without it they are not found, and a warning in the log describes how to enable it.

        Raises:
            TransportClosedError: After ``close()``.

            TransportUnavailableError: The server could not be reached.
        """
        from relevo_amqp._management import Management, ManagementError  # noqa: PLC0415 - relevo check alone needs HTTP

        with self._in_use() as hub:
            former = self._former(hub, list(dict.fromkeys(queues)))
        topology = self._topology()
        own = [each for queue in dict.fromkeys(queues) for each in topology.own_queues(queue)]
        shared = [each for each in topology.shared_queues() if each.role is not Role.BEGUN]  # its loss harms no event
        names = [each.name for each in (*own, *shared)]
        options = self._options
        management = Management(self._address, options.management, timeout=options.connect_timeout, tls=options.tls)
        try:
            problems = management.problems(names)
            held = management.held([f"{topology.exchange(role)}." for role in (Role.MAIN, Role.SUSPECT, Role.DEAD)])
        except ManagementError as error:
            _log.warning(
                'the transport "%s" of %s: policies that harm its queues could not be checked: %s',
                self.name,
                self._address,
                error,
            )
            return tuple(former)
        self._warn_of_unrouted(held, queues)
        return [*former, *problems]

    def _warn_of_unrouted(self, held: Mapping[str, int], queues: Sequence[str]) -> None:
        """Log which of the queues that are *held*, by the words in their names, are none of *queues*."""
        for each in sorted(held.keys() - {word(queue) for queue in queues}):
            place = f"{self.name}/{each if '~' in each else unquote(each)}"
            _log.warning(
                '"%s" holds %d events, and no route leads to it; move them: relevo move --from %s --to …; '
                "or add a route",
                place,
                held[each],
                place,
            )

    # --- sending --------------------------------------------------------------------------------------

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        if any(envelope.ordering_key is not None for envelope in envelopes):
            raise self._unsupported("order")
        with self._in_use() as hub:
            messages, refused, why = self._messages(hub, envelopes, delay)
            self._note_delay(delay)
            batch = hub.publisher.send([message for _, message in messages])
            if not refused and batch.results.count(PublishResult.CONFIRMED) == len(envelopes):
                return
            results = {
                result: [messages[position][0] for position in batch.positions(result)] for result in PublishResult
            }
            if envelopes and len(results[PublishResult.UNSENT]) == len(envelopes):
                raise TransportUnavailableError(self.name, f"{self._address}: {batch.why}")
            raise SendError(
                self.name,
                sent=results[PublishResult.CONFIRMED],
                refused=sorted([*refused, *results[PublishResult.REFUSED], *results[PublishResult.UNSENT]]),
                unknown=results[PublishResult.UNKNOWN],
                why=why or self._why(batch, [envelopes[position].queue for position, _ in messages]),
            )

    def _why(self, batch: PublishBatch, queues: Sequence[str]) -> str:
        """Return why not all of *batch* was sent; a missing queue is named."""
        return batch.why if batch.homeless is None else str(not_set_up(self.name, [queues[batch.homeless]]))

    def _messages(
        self, hub: Hub, envelopes: Sequence[Envelope], delay: float
    ) -> tuple[list[tuple[int, Message]], list[int], str]:
        """Return the messages with their positions, the positions of envelopes that do not fit, and why the first."""
        now = self._clock.now()
        routes: dict[str, Destination] = {}
        messages: list[tuple[int, Message]] = []
        refused: list[int] = []
        first_why = ""
        for position, envelope in enumerate(envelopes):
            route = routes.get(envelope.queue)
            try:
                check_body(envelope, self._options.max_body)
                if route is None:
                    route = routes[envelope.queue] = hub.topology.route(envelope.queue, delay)
                message = None
                if not delay:
                    message = fresh(envelope, exchange=route.exchange, key=route.key, enqueued_at=now)
                if message is None:
                    record = MessageRecord(
                        envelope=envelope,
                        queue=envelope.queue,
                        enqueued_at=now,
                        due=now + delay if route.passes else None,
                    )
                    message = written(record, exchange=route.exchange, key=route.key, delayed=delay > 0.0)
                messages.append((position, message))
            except (UnfitError, UnicodeEncodeError, ConfigurationError) as error:
                refused.append(position)
                first_why = first_why or f"the event at position {position} cannot be sent: {error}"
        return messages, refused, first_why

    # --- receiving ------------------------------------------------------------------------------------

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        if limit < 1 or not queues:
            with self._in_use():  # which it is not after a close
                return ()
        deadline = time.monotonic() + wait
        with self._in_use() as hub, self._turn_to_receive(hub.loop.within(float("inf"))):
            if self._receiver is None:
                self._receiver = Receiver(
                    hub,
                    self._clock,
                    prefetch=self._options.prefetch,
                    patience=self._options.patience,
                    ended=lambda: self._closed,
                )
            failed = False
            while True:
                fresh = self._receiver.stale
                if fresh:
                    self._pause(deadline)
                try:
                    deliveries = self._receiver.receive(
                        tuple(dict.fromkeys(queues)), limit=limit, wait=max(0.0, deadline - time.monotonic())
                    )
                except ConnectionLostError as error:
                    self._note_failure()
                    if fresh or failed or error.kind == HURRIED:
                        raise
                    if error.kind == CANCELLED:
                        _log.warning(
                            "%s; the transport subscribes again, and events that were held are delivered again",
                            error.why,
                        )
                    failed = True
                    continue
                self._failures = 0
                if self._closed:
                    raise TransportClosedError(self.name)
                self._note_receive(hub)
                return deliveries

    @contextmanager
    def _turn_to_receive(self, seconds: float) -> Iterator[None]:
        """
        Wait until no other thread receives, or gives fetched events back, for at most *seconds*.

        An interrupt between an ``acquire()`` and the block that releases would keep a lock for ever.
        """
        turn = object()
        left = min(seconds, threading.TIMEOUT_MAX)
        try:
            with self._lock:
                if not self._using.wait_for(lambda: self._turn is None, left):
                    raise no_answer("the prefetched events were not returned to the server", left, usual=float("inf"))
                self._turn = turn
            yield
        finally:
            with self._lock:
                if self._turn is turn:
                    self._turn = None
                    self._using.notify_all()

    def _note_failure(self) -> None:
        """Count a subscription that was lost or failed; the next one waits a little."""
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 - so that all do not come back at once; no secret
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures, 10)) * jitter
        self._failures += 1
        self._not_before = time.monotonic() + pause

    def _pause(self, deadline: float) -> None:
        """Wait until the next attempt to subscribe is due, at most until *deadline*."""
        until = min(self._not_before, deadline)
        with self._lock:
            self._using.wait_for(lambda: self._closed, timeout=max(0.0, until - time.monotonic()))
        if self._closed:
            raise TransportClosedError(self.name)

    def _note_receive(self, hub: Hub) -> None:
        """Check from time to time that fetched events do not wait for a caller with a long listener."""
        self._received_at = time.monotonic()
        if not self._idling:
            self._idling = True
            hub.loop.soon(lambda: hub.loop.later(IDLE, lambda: self._check_idle(hub)))

    def _check_idle(self, hub: Hub) -> None:
        """
        Check, in the loop's thread, whether the caller is still busy; another thread then does what blocks.

        Without fetched events there is nothing to give back, and no consumer is cancelled: an event that is sent in
        that moment could stay hidden for a while and lose its lease (see :meth:`Subscription.pause`).
        """
        left = self._received_at + IDLE - time.monotonic()
        if left <= 0 and not self._closed and self._receiver is not None and not self._receiver.has_fetched:
            left = IDLE
        if left > 0:
            hub.loop.later(left, lambda: self._check_idle(hub))
            return
        self._idling = False
        if self._turn is None and not self._closed:
            threading.Thread(target=self._give_back_fetched, name=f"relevo-amqp-{self.name}-idle", daemon=True).start()

    def _give_back_fetched(self) -> None:
        """Stop fetching ahead and give back fetched events, until the next receive."""
        with suppress(TransportError, ConfigurationError), self._in_use(), self._turn_to_receive(0.0):
            if self._receiver is not None:
                self._receiver.release()

    # --- evidence -------------------------------------------------------------------------------------

    def begin(self, delivery: Delivery, note: Note) -> None:
        """
        Write *note* and its deaths durably, before the listeners of *delivery* are called.

        In an alarm the server accepts no note. If the first note on a delivery is not confirmed, the delivery goes back
        to the server, and no other suspect is handed out for a while.
        """
        with self._in_use() as hub:
            receiver, receipt = self._receiver, delivery.receipt
            subscription = None if receiver is None else receiver.subscription
            if receiver is None or subscription is None or not subscription.holds(receipt):
                raise LeaseLostError(self.name, delivery)
            assert isinstance(receipt, Receipt)  # noqa: S101 - it is held
            key = _key_of(delivery, receipt)
            before = subscription.noted(receipt)
            try:
                hub.notes.append(key, receipt.hand_over, note, before=before)
            except ConnectionLostError as error:
                if before is None:
                    subscription.give_back_now(receipt)
                    with suppress(ConfigurationError, ConnectionLostError):  # the next receive raises it
                        receiver.pause(error)
                raise TransportUnavailableError(self.name, f"{self._address}: {error.why}") from error
            # If this event ends the process, the server must already have committed the earlier settlements.
            subscription.wait_for_acks()
            if not subscription.note(receipt, note):
                hub.notes.withdraw(key, receipt.hand_over, before=before)
                raise LeaseLostError(self.name, delivery)
            with self._lock:
                self._begun[key, receipt.hand_over] = None
                if len(self._begun) > _MOST_BEGUN:
                    del self._begun[next(iter(self._begun))]
            receiver.resume()

    def excuse(self, delivery: Delivery, note: Note) -> None:
        """
        Mark *note* as excused, if it is still the last one on *delivery*: the end of its process is not a death.

        This replaces only the note of this hand-over, wherever the event is meanwhile: a message that carries the note
        names the place of it in the stream. A hand-over that this transport did not begin has no note; only the last
        thousand that it began are known. The excuse is not found if a release of relevo that does not know
        ``relevo-begun-at`` has published the event again, or once the stream has dropped it.
        """
        receipt = delivery.receipt
        if not isinstance(receipt, Receipt):
            return
        key = _key_of(delivery, receipt)
        excused = attrs.evolve(note, excused=True)
        with self._in_use() as hub:
            if (key, receipt.hand_over) not in self._begun:
                return
            try:
                hub.notes.append(key, receipt.hand_over, excused, before=note)
            except ConnectionLostError as error:
                raise TransportUnavailableError(self.name, f"{self._address}: {error.why}") from error
            if self._receiver is not None and self._receiver.subscription is not None:
                self._receiver.subscription.note(receipt, excused)

    def appear(self, worker: str) -> None:
        with self._in_use() as hub:
            try:
                hub.appear(worker)
            except ConnectionLostError as error:  # without the permission suspects wait, and all other events go on
                raise TransportUnavailableError(self.name, f"{self._address}: {error.why}") from error

    def presence(self, workers: Sequence[str]) -> Mapping[str, Presence]:
        with self._in_use() as hub:
            return hub.presence(workers)

    # --- settling -------------------------------------------------------------------------------------

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        with self._in_use() as hub:
            if self.kept is None:
                return self._settle_here(hub, settlements)
            return self.kept.settle(settlements, partial(self._settle_here, hub))

    def _settle_here(self, hub: Hub, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        subscription = None if self._receiver is None else self._receiver.subscription
        if subscription is None:
            return [delivery for delivery, _ in settlements]
        # Wait for the flush before this one, so that work goes on while acks are in flight. And wait before anything is
        # claimed: if the subscription ends meanwhile, what it held is lost and must not be published.
        subscription.wait_for_acks()
        lost, done, moves = self._sort(hub, subscription, settlements)
        subscription.ack(done)
        unsettled, why, is_lost = self._move(hub, subscription, moves)
        if unsettled:
            if is_lost and len(unsettled) == len(settlements):
                raise TransportUnavailableError(self.name, f"{self._address}: {why}")
            raise SettleError(self.name, lost=lost, unsettled=unsettled, why=why)
        return lost

    def _sort(
        self, hub: Hub, subscription: Subscription, settlements: Sequence[Settlement]
    ) -> tuple[list[Delivery], list[int], list[_Move]]:
        """Claim what is held; return the lost deliveries, the tags of those that are done, and the moves."""
        now = self._clock.now()
        lost: list[Delivery] = []
        done: list[int] = []
        moves: list[_Move] = []
        claimed: list[int] = []
        try:
            for delivery, outcome in settlements:
                tag = subscription.claim(delivery.receipt)
                if tag is None:
                    lost.append(delivery)
                    continue
                claimed.append(tag)
                if isinstance(outcome, Ack):
                    done.append(tag)
                    continue
                note = subscription.noted(delivery.receipt)
                message = message_of(
                    _with_note(delivery, note),
                    outcome,
                    topology=hub.topology,
                    now=now,
                    unique=secrets.token_hex(8),
                    begun_at=_begun_at(delivery, note),
                )
                if isinstance(outcome, (Nack, Release)):
                    self._note_delay(outcome.delay)
                if message is not None:
                    moves.append(_Move(delivery, tag, message))
        except BaseException:
            subscription.unclaim(claimed)  # nothing was settled, so the caller may settle it otherwise
            raise
        return lost, done, moves

    def _move(self, hub: Hub, subscription: Subscription, moves: list[_Move]) -> tuple[list[Delivery], str, bool]:
        """
        Publish *moves* and ack those that are confirmed.

        Returns:
            The deliveries that are not confirmed, why, and whether the server could not be reached, so that nothing
            else would succeed.
        """
        why, is_lost = "", False
        for again in (False, True):
            if not moves:
                break
            if again and subscription.lost is not None:  # the server delivers them again
                why, is_lost = subscription.lost.why, True
                break
            try:
                if again:
                    # A queue that was deleted is declared again, so that its events have a place.
                    hub.provide(tuple({move.delivery.queue for move in moves}))
            except ConnectionLostError as error:
                why, is_lost = error.why, True
                break
            except ConfigurationError as error:  # this process may not declare them
                why = str(error)
                break
            moved = hub.mover.move({Receipt(subscription.token, move.tag): move.message for move in moves})
            subscription.ack([receipt.tag for receipt in moved.confirmed])
            moves = [move for move in moves if Receipt(subscription.token, move.tag) not in moved.confirmed]
            why, is_lost = moved.why, moved.is_lost
            if not moved.refused:
                break
        tags = [move.tag for move in moves]
        if tags:
            subscription.unclaim(tags)
            subscription.give_back(tags, GRACE)
        return [move.delivery for move in moves], why, is_lost

    def _note_delay(self, delay: float) -> None:
        """Remember that this process sent an event that becomes ready after *delay* seconds."""
        if delay > 0.0:
            self._last_due = max(self._last_due, time.monotonic() + delay)

    # --- stats and dead letters -----------------------------------------------------------------------

    def stats(self, queue: str) -> Stats:
        """
        Return how many events *queue* holds, without those that other processes have fetched.

        All queues of a prefix share the ladder, so the number of scheduled events is known only if the ladder is empty:
        ``scheduled`` is 0 or ``None``. An event that another process delayed may be missed in the milliseconds in which
        it moves on; delays with another resolution or number of levels are not seen.

        Raises:
            TransportUnavailableError: The server could not be reached.
        """
        with self._in_use() as hub:
            # First, so that an event that becomes due meanwhile is counted as ready.
            own = time.monotonic() < self._last_due + LANDING
            scheduled = None if own or hub.delaying() else 0
            names = [hub.topology.queue(queue, role) for role in (Role.MAIN, Role.SUSPECT, Role.DEAD)]
            main, suspects, dead = hub.counts(names)
            here = 0 if self._receiver is None else self._receiver.fetched(queue)
            kept = 0 if self.kept is None else self.kept.count(queue)
            return Stats(ready=main + suspects + here, scheduled=scheduled, dead=None if kept is None else dead + kept)

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        with self._in_use() as hub:
            own = DeadLetterStore(hub, self._clock, self._page_cache)
            if self.kept is None:
                return own.entries(queues, after=after, limit=limit)
            if after is None:
                self.kept.adopt(queues, own.entries, own.discard)
            return self.kept.entries(queues, after=after, limit=limit)

    def _revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        with self._in_use() as hub:
            if self.kept is not None:
                return self.kept.revive(refs)
            return DeadLetterStore(hub, self._clock, self._page_cache).revive(refs)

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        with self._in_use() as hub:
            if self.kept is not None:
                return self.kept.discard(refs)
            return DeadLetterStore(hub, self._clock, self._page_cache).discard(list(refs))

    # --- dead letters that another transport keeps ----------------------------------------------------

    @property
    def kept_under(self) -> str:
        """The prefix: another application has another one."""
        return self._prefix

    def packed(self, envelope: Envelope | Unreadable, queue: str) -> bytes:
        return packed(written(MessageRecord(envelope=envelope, queue=queue, enqueued_at=0.0), exchange="", key=""))

    def unpacked(self, packed: bytes, queue: str) -> Envelope | Unreadable:
        properties, body = unpacked(packed)
        return read(properties, body, queue=queue, now=self._clock.now()).envelope

    def restore(self, letters: Sequence[DeadLetterEntry]) -> Sequence[int]:
        with self._in_use() as hub:
            exchange, now = hub.topology.exchange(Role.MAIN), self._clock.now()
            messages = []
            for letter in letters:
                key = suspect_key(now, secrets.token_hex(8))  # so that no earlier note is found
                record = MessageRecord(envelope=letter.envelope, queue=letter.queue, enqueued_at=letter.enqueued_at)
                record = record.revived(letter.state, key=key)
                messages.append(written(record, exchange=exchange, key=word(letter.queue)))
            batch = hub.publisher.send(messages)
            confirmed = batch.positions(PublishResult.CONFIRMED)
            if len(confirmed) < len(letters):
                unknown = batch.positions(PublishResult.UNKNOWN)
                refused = [each for each in range(len(letters)) if each not in confirmed and each not in unknown]
                why = self._why(batch, [letter.queue for letter in letters])
                raise SendError(self.name, sent=confirmed, refused=refused, unknown=unknown, why=why)
            return confirmed


def _with_note(delivery: Delivery, note: Note | None) -> Delivery:
    """Return *delivery* with the *note* that was written after it was handed out, if there is one."""
    return delivery if note is None else attrs.evolve(delivery, begun=note, deaths=note.deaths)


def _begun_at(delivery: Delivery, note: Note | None) -> NotePlace | None:
    """Return where the last note on *delivery* was written: *note* after it was handed out, or an earlier one."""
    receipt = delivery.receipt
    assert isinstance(receipt, Receipt)  # noqa: S101 - it was claimed
    return receipt.begun_at if note is None else NotePlace(_key_of(delivery, receipt), receipt.hand_over)


def _key_of(delivery: Delivery, receipt: Receipt) -> str:
    """Return the key of the notes on this message."""
    if receipt.key:
        return receipt.key
    return plain_key(delivery.envelope, delivery.queue, delivery.attempt - receipt.hand_over, delivery.enqueued_at)
