"""
Receive, and law 3: what a lost process held is handed out alone.

The consumers of the main queues bring events ahead of their time. One whose earlier holder died
(the server counted it, or a header says so) is moved, confirmed, to the suspects of its queue. From
time to time the suspects are looked after, at the start first of all: then the consumers stop, what
lies here is handed out, and once all that was handed out is settled, the suspects follow one by one,
each alone in this process. If it dies of one, nobody pays but that one.

Moving is done by the hundreds. Handing out is not, and cannot be quicker than the server writes one
entry into the log of the suspects' queue after the other, about a thousand a second: that this one is
out must be written before it is begun, and nothing else may be out with it.

A suspect that was lost again may have been begun, so the notes are read, see :mod:`relevo_amqp._notes`. In an alarm
the server accepts neither events nor notes. Then no suspect is handed out, what should be moved stays set apart, and
all other events go on.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from logging import getLogger

from relevo import Clock, Delivery
from relevo_amqp._errors import NOT_FOUND, LineLostError
from relevo_amqp._header import suspected_at
from relevo_amqp._hub import Hub
from relevo_amqp._mapping import Record, lost_leases, plain_key, postponed, read, suspect_key, written
from relevo_amqp._subscription import Arrival, Receipt, Subscription
from relevo_amqp._topology import Role

MAX_PREFETCH = 1000
LOOK_EVERY = 1.0
"""Seconds between two looks for suspects that others left."""

TURN = 5.0
"""Seconds for which suspects are handed out before the others have their turn again."""

ALONE_WITHIN = 1.0
"""Seconds for which a suspect waits until all else that was handed out is settled."""

SWEEP = 250
"""Events that are looked through at once where a lost process has left some, to move these together."""

MAX_STALLS = 5
"""Looks that found events ready, and none handed out, after which the subscription is made again."""

MOST_APART = 2000
"""The number of events waiting to be moved from which on no further events are fetched ahead."""

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 15.0
"""Seconds without suspects after something could not be moved or noted, doubled each time."""

_log = getLogger("relevo.amqp")

_PATROL = 0.5
"""Seconds in which something arrives that the server has ready."""


class Receiver:
    """
    Hands out what one subscription brings.

    Args:
        hub: The connections.

        clock: For what was sent without saying when, and for delays that go on.

        prefetch: Events fetched ahead for each queue; by demand if ``None``.

        patience: Seconds for which what a newer release sent is given back.

        ended: Whether waiting makes no sense any more.
    """

    def __init__(self, hub: Hub, clock: Clock, *, prefetch: int | None, patience: float, ended: Callable[[], bool]):
        self.subscription: Subscription | None = None
        self._hub = hub
        self._clock = clock
        self._wanted_prefetch = prefetch
        self._patience = patience
        self._ended = ended
        self._queues: tuple[str, ...] = ()
        self._look_at = 0.0
        self._turn_ends = 0.0
        self._suspects_there = False
        self._misplaced: list[Arrival] = []
        self._pauses = 0
        self._resume_at = 0.0
        self._traces: set[str] = set()
        """Queues in which there was something that a lost process had held, not swept since."""
        self._stalls = 0
        self._wants_alone_since: float | None = None

    def receive(self, queues: tuple[str, ...], *, limit: int, wait: float) -> list[Delivery]:
        """
        Hand out up to *limit*; blocks up to *wait* seconds.

        Raises:
            LineLostError: The server could not be reached; nothing is held any more.
        """
        deadline = time.monotonic() + wait
        subscription = self._subscribed(queues, limit)
        while not self._ended():
            self._move()
            if deliveries := self._hand_out(subscription, queues, limit):
                return deliveries
            if self._misplaced and self._moving:
                continue
            if self._suspects_there and not self._moving:
                self._suspects_there = False
                self._wants_alone_since = None
                self._consume(subscription, queues, limit)
                continue
            if self._suspects_there:
                if self._alone(subscription):
                    subscription = self._clean(subscription)
                    suspect = self._next_suspect(subscription, queues)
                    if suspect is not None:
                        self._wants_alone_since = None
                        return [suspect]
                    self._wants_alone_since = None
                    self._suspects_there = False
                    self._look_at = time.monotonic() + LOOK_EVERY
                    self._consume(subscription, queues, limit)
                    continue
            elif self._moving and time.monotonic() >= self._look_at and self._suspected(subscription, queues):
                self._gather(subscription, limit)
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                if self._suspects_there or not self._more(subscription, queues):
                    return []
                continue
            self._sleep(subscription, min(left, LOOK_EVERY / 4 if self._suspects_there else LOOK_EVERY))
        return []

    @property
    def stale(self) -> bool:
        """Whether there is no subscription, and the next :meth:`receive` makes one."""
        return self.subscription is None or self.subscription.lost is not None

    def wake(self) -> None:
        """Have a waiting :meth:`receive` see that all has ended; from any thread."""
        if self.subscription is not None:
            with self.subscription.changed:
                self.subscription.changed.notify_all()

    @property
    def laden(self) -> bool:
        """Whether anything lies here that was not handed out."""
        return bool(
            (self._misplaced and self._moving) or (self.subscription is not None and self.subscription.buffered)
        )

    def lying(self, queue: str) -> int:
        """Return how many of *queue* lie here and were not handed out."""
        buffered = 0 if self.subscription is None else self.subscription.buffered_of(queue)
        return buffered + sum(arrival.queue == queue for arrival in self._misplaced)

    def release(self) -> None:
        """
        Give back what lies here and was not handed out, counting nothing; blocking.

        Raises:
            LineLostError: The server could not be reached; it comes back and counts as lost.
        """
        subscription = self.subscription
        if subscription is None or subscription.lost is not None or self._hub.publisher.blocked is not None:
            return
        subscription.pause(subscription.queues)
        misplaced, self._misplaced = self._misplaced, []
        self._relocate(subscription, [*misplaced, *subscription.take_all()])

    def hurry(self, timeout: float) -> None:
        """Wait no longer than *timeout* seconds for each answer from now on: this is about to end."""
        if self.subscription is not None:
            self.subscription.hurry(timeout)

    def finish(self) -> None:
        """
        End the subscription once its acks are through; blocking.

        Raises:
            LineLostError: The server could not be reached.
        """
        if self.subscription is not None and self.subscription.lost is None:
            self.subscription.finish()

    # --- subscribing -----------------------------------------------------------------------------------

    def _subscribed(self, queues: tuple[str, ...], limit: int) -> Subscription:
        """Return a subscription that brings *queues*, with a prefetch that *limit* needs."""
        subscription = self.subscription
        if subscription is None or subscription.lost is not None:
            self._hub.provide(queues)
            self._hub.appear_again()
            self._misplaced = []
            self._traces = set()
            subscription = self._hub.subscription()
            self.subscription = subscription
            self._queues = queues
            self._look_at = 0.0
            self._suspects_there = False
            self._suspected(subscription, queues)
        elif subscription.worn and not self._suspects_there and not subscription.held and not subscription.buffered:
            self.release()
            subscription = self._clean(subscription)
        if not self._suspects_there:
            self._consume(subscription, queues, limit)
        return subscription

    def _consume(self, subscription: Subscription, queues: tuple[str, ...], limit: int) -> None:
        """Have *queues* brought, with a prefetch that *limit* needs, and no others."""
        topology = self._hub.topology
        if left_out := subscription.queues.difference(queues):
            subscription.pause(left_out)
            self._relocate(subscription, subscription.take(tuple(left_out), subscription.buffered))
        if set(queues) - set(self._queues):
            self._hub.provide(queues)
        self._queues = queues
        ahead = self._ahead(limit)
        added = False
        for queue in queues:
            window = subscription.window(queue)
            # The caller may hold all that it can be brought; then a further consumer brings more.
            starved = (
                subscription.full(queue) and not subscription.buffered_of(queue) and len(self._misplaced) < MOST_APART
            )
            if window < ahead or starved:
                more = ahead if starved else ahead - window
                subscription.consume(queue, topology.queue(queue, Role.MAIN), more)
                added = True
        if added:
            for _ in range(2):  # so that the first of each are here, and the preferred queue is
                for queue in queues:
                    subscription.count(topology.queue(queue, Role.MAIN))

    def _ahead(self, limit: int) -> int:
        """Return how many of each queue are brought ahead of their time."""
        return self._wanted_prefetch or min(2 * limit if limit > 1 else 1, MAX_PREFETCH)

    def _clean(self, subscription: Subscription) -> Subscription:
        """Return *subscription*, or if a consumer of it was ended and nothing is held, another one on a new channel."""
        if not subscription.worn or subscription.held:
            return subscription
        fresh = self._hub.subscription()
        subscription.finish()
        self.subscription = fresh
        return fresh

    # --- handing out -----------------------------------------------------------------------------------

    def _hand_out(self, subscription: Subscription, queues: Sequence[str], limit: int) -> list[Delivery]:
        """Return what lies here and may be handed out; what may not is set apart to be moved."""
        now = self._clock.now()
        deliveries = []
        for arrival in subscription.take(queues, limit):
            record, wait = self._read(arrival, now)
            if wait > 0.0:
                self._misplaced.append(arrival)
            elif record.lost_leases:
                self._traces.add(arrival.queue)
                self._misplaced.append(arrival)
            else:
                deliveries.append(_delivery(subscription, arrival, record))
        return deliveries

    def _alone(self, subscription: Subscription) -> bool:
        """
        Return whether the next suspect may be handed out: once nothing is held, but after a while all the same.

        A caller that goes on to receive while it holds something for long would see nothing any more; it is then
        for the caller to run the suspect alone.
        """
        now = time.monotonic()
        if self._wants_alone_since is None:
            self._wants_alone_since = now
        return not subscription.held or now >= self._wants_alone_since + ALONE_WITHIN

    def _next_suspect(self, subscription: Subscription, queues: Sequence[str]) -> Delivery | None:
        """Return the next suspect, or ``None`` if there is none or their turn is over."""
        if time.monotonic() >= self._turn_ends:
            return None
        for queue in queues:
            while (arrival := subscription.get(queue, self._hub.topology.queue(queue, Role.SUSPECT))) is not None:
                subscription.hold(arrival)
                record, wait = self._read(arrival, self._clock.now())
                if wait:
                    self._relocate(subscription, [arrival])
                    continue
                try:
                    return _delivery(subscription, arrival, self._with_note(arrival, record))
                except LineLostError as error:
                    subscription.give_back_now(_receipt(subscription, arrival, record))
                    self.pause(error)
                    return None
        return None

    def _with_note(self, arrival: Arrival, record: Record) -> Record:
        """
        Return *record*, of a suspect, with the note that counts.

        Raises:
            LineLostError: The suspect was lost again, so it may have a note, and the notes could not be read.
        """
        if not record.suspect or not lost_leases(arrival.properties):
            return record
        notes = self._hub.notes.read([record.suspect], since=suspected_at(record.suspect))
        return record.noted(notes.get(record.suspect))

    def _read(self, arrival: Arrival, now: float) -> tuple[Record, float]:
        """Return what *arrival* says, its counters brought up to date, and for how long it is not handed out here."""
        record = read(arrival.properties, arrival.body, queue=arrival.queue, now=now)
        return postponed(record.lost(lost_leases(arrival.properties)), now, patience=self._patience)

    def _suspected(self, subscription: Subscription, queues: Sequence[str]) -> bool:
        """Look whether there are suspects, and begin their turn."""
        now = time.monotonic()
        self._look_at = now + LOOK_EVERY
        topology = self._hub.topology
        self._suspects_there = any(subscription.count(topology.queue(queue, Role.SUSPECT)) for queue in queues)
        self._turn_ends = now + TURN
        return self._suspects_there

    # --- moving ----------------------------------------------------------------------------------------

    def _gather(self, subscription: Subscription, limit: int) -> None:
        """
        Stop the consumers before the suspects' turn, with as many of these as can be found at once.

        Who asks for few is brought few, and suspects that others left in the main queue would come by ones and twos,
        each time with the whole way to the suspects and back. They lie at its head, so a wide look finds them. What
        else it finds goes back, counting nothing, as far as it is more than is brought otherwise.
        """
        traces, self._traces = self._traces & subscription.queues, set()
        for queue in traces:
            subscription.consume(queue, self._hub.topology.queue(queue, Role.MAIN), SWEEP)
        subscription.pause(subscription.queues)
        if not traces:
            return
        now = self._clock.now()
        room: defaultdict[str, int] = defaultdict(lambda: self._ahead(limit))

        def strange(arrival: Arrival) -> bool:
            record, _ = self._read(arrival, now)
            if record.lost_leases:
                return True
            room[arrival.queue] -= 1
            return room[arrival.queue] < 0

        self._misplaced += subscription.sift(strange)

    @property
    def _moving(self) -> bool:
        """Whether the server is expected to accept moved events and notes."""
        return self._hub.publisher.blocked is None and time.monotonic() >= self._resume_at

    def pause(self, error: LineLostError) -> None:
        """
        Move nothing and hand out no suspect for a while, because of *error* when something was published.

        Raises:
            ConfigurationError: Something is missing on the server that this process was not told to make.

            LineLostError: The server could not be reached.
        """
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._pauses, 10))
        if not self._pauses:
            _log.warning("suspects (events that were lost before) have to wait: %s", error.why)
        self._pauses += 1
        self._resume_at = time.monotonic() + (0.0 if self._hub.publisher.blocked is not None else pause)
        if error.code == NOT_FOUND:
            self._hub.provide(self._queues)

    def resume(self) -> None:
        """Note that the server accepts moved events and notes."""
        self._pauses = 0
        self._resume_at = 0.0

    def _move(self) -> None:
        """Move what was set apart to where it belongs, unless that has to wait."""
        if self._misplaced and self.subscription is not None and self._moving:
            misplaced, self._misplaced = self._misplaced, []
            self._relocate(self.subscription, misplaced)
            self._look_at = 0.0

    def _relocate(self, subscription: Subscription, arrivals: Sequence[Arrival]) -> None:
        """
        Publish *arrivals* to where they belong, counters brought up to date, and ack those that are confirmed.

        What cannot be moved now stays set apart, and is moved later.

        Raises:
            ConfigurationError: Their place is missing, and this process was not told to make it.

            LineLostError: Some were not confirmed, and the server is in no alarm.
        """
        if not arrivals:
            return
        topology, now = self._hub.topology, self._clock.now()
        try:
            found = self._found(arrivals, now)
        except LineLostError as error:
            self._misplaced += arrivals
            self.pause(error)
            return
        messages = {}
        for arrival, record, wait in found:
            key = ""
            if record.lost_leases and not wait:
                key = suspect_key(now, secrets.token_hex(8))
                route = topology.aside(Role.SUSPECT, arrival.queue)
            else:
                route = topology.route(arrival.queue, wait)
            message = written(
                record.keyed(key or record.suspect), exchange=route.exchange, key=route.key, delayed=wait > 0.0
            )
            messages[Receipt(subscription.token, arrival.tag)] = message
        moved = self._hub.mover.move(messages)
        subscription.ack([receipt.tag for receipt in moved.confirmed])
        if moved.confirmed:
            subscription.wait_for_acks()  # each would be there twice if what is handed out next ended the process
        confirmed = {receipt.tag for receipt in moved.confirmed}
        left = [arrival for arrival in arrivals if arrival.tag not in confirmed]
        self._misplaced += left
        if left and self._hub.publisher.blocked is None:
            if moved.refused:
                self._hub.provide(self._queues)  # a queue is gone that they need
            raise LineLostError(f"events could not be moved to where they belong: {moved.why}")

    def _found(self, arrivals: Sequence[Arrival], now: float) -> list[tuple[Arrival, Record, float]]:
        """
        Return what *arrivals* say, with the notes on those that were handed out before, and their delays.

        Raises:
            LineLostError: The notes could not be read.
        """
        found = [(arrival, *self._read(arrival, now)) for arrival in arrivals]
        keys = [_key_of_first(arrival, record) for arrival, record, _ in found]
        if not any(keys):
            return found
        since = min(record.enqueued_at for key, (_, record, _) in zip(keys, found, strict=True) if key)
        notes = self._hub.notes.read(set(filter(None, keys)), since=since)
        self.resume()
        return [
            (arrival, record.noted(notes.get(key)), wait)
            for key, (arrival, record, wait) in zip(keys, found, strict=True)
        ]

    # --- waiting ---------------------------------------------------------------------------------------

    def _more(self, subscription: Subscription, queues: Sequence[str]) -> bool:
        """
        Ask the server whether it has something ready for this subscription, and wait a moment for it.

        Two round trips: what a queue handed out before it answered the first has arrived with the second.
        """
        topology = self._hub.topology
        due = False
        for _ in range(2):
            ready = [queue for queue in queues if subscription.count(topology.queue(queue, Role.MAIN))]
            due = any(not subscription.full(queue) for queue in ready)
            if subscription.buffered:
                return True
        if not due:
            self._stalls = 0
            return False
        self._sleep(subscription, _PATROL)
        self._stalls = 0 if subscription.buffered else self._stalls + 1
        if self._stalls >= MAX_STALLS:
            # Events are ready, there is room for them, and none comes: https://github.com/rabbitmq/rabbitmq-server/issues/15473
            self._stalls = 0
            subscription.close()
            raise LineLostError("the server has events ready and hands none out")
        return bool(subscription.buffered)

    def _sleep(self, subscription: Subscription, seconds: float) -> None:
        """Wait until something arrives or changes, at most *seconds*."""
        with subscription.changed:
            if subscription.lost is None and not subscription.buffered and not self._ended():
                subscription.changed.wait(seconds)
        if subscription.lost is not None:
            raise subscription.lost


def _key_of_first(arrival: Arrival, record: Record) -> str:
    """Return the key of a note that a hand-over from a main queue may have left; empty if there can be none."""
    times = lost_leases(arrival.properties)
    if not times or record.lost_leases > times:  # what had lost leases before is not handed out from there
        return ""
    return record.suspect or plain_key(record.envelope, arrival.queue, record.attempt - times, record.enqueued_at)


def _receipt(subscription: Subscription, arrival: Arrival, record: Record) -> Receipt:
    return Receipt(subscription.token, arrival.tag, record.suspect, lost_leases(arrival.properties))


def _delivery(subscription: Subscription, arrival: Arrival, record: Record) -> Delivery:
    return Delivery(
        envelope=record.envelope,
        queue=arrival.queue,
        attempt=record.attempt,
        lost_leases=record.lost_leases,
        begun=record.begun,
        deaths=record.deaths,
        receipt=_receipt(subscription, arrival, record),
        state=record.state,
        enqueued_at=record.enqueued_at,
    )
