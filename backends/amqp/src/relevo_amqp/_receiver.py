"""
The receiver: hands out the deliveries of a subscription, and suspects one by one (law 3).

The consumers of the main queues bring events ahead of time. A suspect, an event whose lease was lost (the server
counted it, or a header says so), is moved, confirmed, to the queue of suspects. The receiver looks for suspects at the
start and every second. When it finds some, it stops the consumers, hands out what they brought, waits until all of that
is settled, and hands out the suspects one by one. If this process dies of one, only that one is lost. The phases, and
what the receiver does in each, are in :mod:`relevo_amqp._phase`.

Events are moved by the hundreds. Suspects are handed out one by one, about a thousand a second: before a suspect is
begun, the server must have written that it is out, and nothing else may be out with it.

A suspect that was lost again may have been begun, so the notes are read, see :mod:`relevo_amqp._notes`. In an alarm
the server accepts neither events nor notes. Then no suspect is handed out, events that should be moved stay set apart,
and all other events go on.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from logging import getLogger

from relevo import Clock, Delivery
from relevo.backend import made_delivery
from relevo_amqp._errors import HURRIED, NOT_FOUND, ConnectionLostError
from relevo_amqp._header import noted_since
from relevo_amqp._hub import Hub
from relevo_amqp._mapping import MessageRecord, lost_leases, plain_key, postponed, read
from relevo_amqp._phase import Observation, Phase, ReceiverState, Step, Trigger, longest_wait, next_step
from relevo_amqp._settlement import relocated
from relevo_amqp._subscription import Arrival, Receipt, Subscription
from relevo_amqp._topology import Role

MAX_PREFETCH = 1000

SWEEP = 250
"""Events that one sweep reads from the head of a queue in which a lost process left some, to move these together."""

MOST_SET_APART = 2000
"""Events that wait to be moved; with more of them, no further ones are fetched ahead."""

_ARRIVES_WITHIN = 0.5
"""Seconds in which an event arrives that the server has ready."""

_log = getLogger("relevo.amqp")


class Receiver:
    """
    Hands out the events of one subscription.

    Args:
        hub: The connections.

        clock: The time to use for an event without one, and for delays longer than the ladder.

        prefetch: Events fetched ahead for each queue; by demand if ``None``.

        patience: Seconds for which an event of a newer release is given back.

        ended: Returns whether a waiting call must return.
    """

    def __init__(self, hub: Hub, clock: Clock, *, prefetch: int | None, patience: float, ended: Callable[[], bool]):
        self.subscription: Subscription | None = None
        self._hub = hub
        self._clock = clock
        self._wanted_prefetch = prefetch
        self._patience = patience
        self._ended = ended
        self._queues: tuple[str, ...] = ()
        self._state = ReceiverState()
        self._set_apart: list[Arrival] = []
        """Events that were taken and belong elsewhere, until the server has confirmed that they are there."""
        self._to_sweep: set[str] = set()
        """Queues that brought an event of a lost process since they were last swept."""

    def receive(self, queues: tuple[str, ...], *, limit: int, wait: float) -> list[Delivery]:
        """
        Hand out up to *limit* events; blocks up to *wait* seconds.

        Raises:
            ConnectionLostError: The server could not be reached; nothing is held any more.
        """
        deadline = time.monotonic() + wait
        subscription = self._subscribe(queues, limit)
        is_empty = False
        while not self._ended():
            found: list[Delivery] = []
            seen = self._observed(subscription, queues, deadline, is_empty=is_empty)
            match next_step(self._state, seen):
                case Step.MOVE:
                    self._move(subscription)
                case Step.HAND_OUT:
                    found = self._hand_out(subscription, queues, limit)
                case Step.LOOK:
                    self._look(subscription, queues, limit)
                case Step.CLEAR:
                    self._change(Trigger.HELD)
                case Step.HAND_OUT_SUSPECT:
                    subscription = self._clean(subscription)
                    found = self._hand_out_suspect(subscription, queues, limit)
                case Step.END_TURN:
                    subscription = self._clean(subscription)
                    self._end_turn(subscription, queues, limit)
                case Step.WAIT:
                    self._sleep(subscription, queues, longest_wait(self._state, seen))
                case Step.ASK:
                    is_empty = not self._more(subscription, queues)
                case Step.RETURN:
                    break
            if found:
                return found
        return []

    def _observed(
        self, subscription: Subscription, queues: Sequence[str], deadline: float, *, is_empty: bool
    ) -> Observation:
        """Return what the next step depends on."""
        return Observation(
            now=time.monotonic(),
            deadline=deadline,
            arrived=subscription.has_arrived(queues),
            set_apart=bool(self._set_apart),
            held=bool(subscription.held),
            blocked=self._hub.publisher.blocked is not None,
            empty=is_empty,
        )

    def _change(self, change: Trigger) -> None:
        self._state = self._state.after(change, time.monotonic())

    @property
    def stale(self) -> bool:
        """Whether there is no subscription, and the next :meth:`receive` makes one."""
        return self.subscription is None or self.subscription.lost is not None

    def wake(self) -> None:
        """Make a waiting :meth:`receive` check whether it must return; from any thread."""
        if self.subscription is not None:
            with self.subscription.lock:
                self.subscription.changed.notify_all()

    @property
    def has_fetched(self) -> bool:
        """Whether events were fetched that :meth:`release` would give back."""
        return bool(
            (self._set_apart and self._accepts) or (self.subscription is not None and self.subscription.buffered)
        )

    def fetched(self, queue: str) -> int:
        """Return how many events of *queue* were fetched and not handed out."""
        buffered = 0 if self.subscription is None else self.subscription.buffered_of(queue)
        return buffered + sum(arrival.queue == queue for arrival in self._set_apart)

    def release(self) -> None:
        """
        Give back what was fetched and not handed out, counting nothing; blocking.

        Raises:
            ConnectionLostError: The server could not be reached; it delivers these events again, with a lost lease.
        """
        subscription = self.subscription
        if subscription is None or subscription.lost is not None or self._hub.publisher.blocked is not None:
            return
        subscription.pause(subscription.queues)
        self._set_apart += subscription.take_all()
        self._relocate(subscription)

    def hurry(self, timeout: float) -> None:
        """Wait at most *timeout* seconds for each answer from now on: the receiver is about to end."""
        if self.subscription is not None:
            self.subscription.hurry(timeout)

    def finish(self) -> None:
        """
        End the subscription once the server has its acks; blocking.

        Raises:
            ConnectionLostError: The server could not be reached.
        """
        if self.subscription is not None and self.subscription.lost is None:
            self.subscription.finish()

    # --- subscribing -----------------------------------------------------------------------------------

    def _subscribe(self, queues: tuple[str, ...], limit: int) -> Subscription:
        """Return a subscription with consumers of *queues*, and a prefetch for *limit*."""
        subscription = self.subscription
        if subscription is None or subscription.lost is not None:
            self._hub.provide(queues)
            self._hub.appear_again()
            self._set_apart = []
            self._to_sweep = set()
            subscription = self._hub.subscription()
            self.subscription = subscription
            self._queues = queues
            self._state = self._state.resubscribed()
            self._look(subscription, queues, limit)
        elif self._is_consuming and subscription.worn and not subscription.held and not subscription.buffered:
            self.release()
            subscription = self._clean(subscription)
        subscription.flush()
        if self._is_consuming:
            self._consume(subscription, queues, limit)
        return subscription

    @property
    def _is_consuming(self) -> bool:
        return self._state.phase is Phase.CONSUMING

    def _consume(self, subscription: Subscription, queues: tuple[str, ...], limit: int) -> None:
        """Start the consumers of *queues*, with a prefetch for *limit*, and stop all others."""
        topology = self._hub.topology
        if left_out := subscription.queues.difference(queues):
            subscription.pause(left_out)
            self._set_apart += subscription.take(tuple(left_out), subscription.buffered)
            self._relocate(subscription)
        if set(queues) - set(self._queues):
            self._hub.provide(queues)
        self._queues = queues
        ahead = self._ahead(limit)
        added = False
        for queue in queues:
            window = subscription.window(queue)
            # The caller may hold as many events as the consumers may bring; then a further consumer brings more.
            starved = (
                subscription.full(queue)
                and not subscription.buffered_of(queue)
                and len(self._set_apart) < MOST_SET_APART
            )
            if window < ahead or starved:
                more = ahead if starved else ahead - window
                subscription.consume(queue, topology.queue(queue, Role.MAIN), more)
                added = True
        if added:
            for _ in range(2):  # so that the first events have arrived, also those of the preferred queue
                for queue in queues:
                    subscription.count(topology.queue(queue, Role.MAIN))

    def _ahead(self, limit: int) -> int:
        """Return how many events of each queue are fetched ahead."""
        return self._wanted_prefetch or min(2 * limit if limit > 1 else 1, MAX_PREFETCH)

    def _clean(self, subscription: Subscription) -> Subscription:
        """Return *subscription*, or a new one on another channel if a consumer of it was ended and it holds nothing."""
        if not subscription.worn or subscription.held or subscription.buffered:
            return subscription
        fresh = self._hub.subscription()
        subscription.finish()
        self.subscription = fresh
        return fresh

    # --- handing out -----------------------------------------------------------------------------------

    def _hand_out(self, subscription: Subscription, queues: Sequence[str], limit: int) -> list[Delivery]:
        """Return the events that arrived and may be handed out; set apart those that have to be moved."""
        now = self._clock.now()
        deliveries = []
        for arrival in subscription.take(queues, limit):
            record, wait = self._read(arrival, now)
            if wait > 0.0:
                self._set_apart.append(arrival)
            elif record.lost_leases:
                self._to_sweep.add(arrival.queue)
                self._set_apart.append(arrival)
            else:
                deliveries.append(_delivery(subscription, arrival, record))
        return deliveries

    # --- suspects --------------------------------------------------------------------------------------

    def _look(self, subscription: Subscription, queues: Sequence[str], limit: int) -> None:
        """Look for suspects; if there are any, their turn begins."""
        topology = self._hub.topology
        self._state = self._state.looked(time.monotonic())
        if any(subscription.count(topology.queue(queue, Role.SUSPECT)) for queue in queues):
            self._gather(subscription, limit)
            self._change(Trigger.FOUND)  # last: after an interrupt the next call starts the consumers that are missing

    def _end_turn(self, subscription: Subscription, queues: tuple[str, ...], limit: int) -> None:
        """End the suspects' turn: the consumers bring events again."""
        self._change(Trigger.ENDED)
        self._consume(subscription, queues, limit)

    def _hand_out_suspect(self, subscription: Subscription, queues: tuple[str, ...], limit: int) -> list[Delivery]:
        """Return the next suspect; if there is none, end their turn."""
        suspect = self._next_suspect(subscription, queues)
        if suspect is None:
            self._end_turn(subscription, queues, limit)
            return []
        self._change(Trigger.HANDED_OUT)
        return [suspect]

    def _next_suspect(self, subscription: Subscription, queues: Sequence[str]) -> Delivery | None:
        """Return the next suspect, or ``None`` if there is none or its notes cannot be read."""
        for queue in queues:
            while (arrival := subscription.get(queue, self._hub.topology.queue(queue, Role.SUSPECT))) is not None:
                subscription.hold(arrival)
                record, wait = self._read(arrival, self._clock.now())
                if wait:
                    self._set_apart.append(arrival)
                    self._relocate(subscription)
                    continue
                try:
                    return _delivery(subscription, arrival, self._with_note(arrival, record))
                except ConnectionLostError as error:
                    subscription.give_back_now(_receipt(subscription, arrival, record))
                    self.pause(error)
                    return None
        return None

    def _with_note(self, arrival: Arrival, record: MessageRecord) -> MessageRecord:
        """
        Return the *record* of a suspect with the note that counts.

        A note that came with the message may have been excused since, by a process that had lost the event.

        Raises:
            ConnectionLostError: The suspect was lost again, so it may have a note, or its note may have been excused,
                and the notes could not be read.
        """
        own = record.suspect if lost_leases(arrival.properties) else ""
        earlier = record.excusable_at
        keys = {*([own] if own else []), *([] if earlier is None else [earlier.key])}
        if not keys:
            return record
        notes = self._hub.notes.read(keys, since=min(noted_since(key, record.enqueued_at) for key in keys))
        if earlier is not None:
            record = record.excused_by(notes.at(earlier))
        return record.noted(notes.on(own))

    def _read(self, arrival: Arrival, now: float) -> tuple[MessageRecord, float]:
        """Return the record of *arrival*, with current counters, and the seconds for which it is not handed out."""
        record = read(arrival.properties, arrival.body, queue=arrival.queue, now=now)
        return postponed(record.lost(lost_leases(arrival.properties)), now, patience=self._patience)

    def _gather(self, subscription: Subscription, limit: int) -> None:
        """
        Stop the consumers before the suspects' turn, and set apart as many suspects as one sweep finds.

        A small limit means a small prefetch, so suspects that a lost process left in the main queue would arrive by
        ones and twos, each time with a new turn. They are at the head of the queue, so a sweep finds them. Other events
        that it finds go back, counting nothing, except as many as are usually fetched ahead.
        """
        sweep, self._to_sweep = self._to_sweep & subscription.queues, set()
        for queue in sweep:
            subscription.consume(queue, self._hub.topology.queue(queue, Role.MAIN), SWEEP)
        subscription.pause(subscription.queues)
        if not sweep:
            return
        now = self._clock.now()
        room: defaultdict[str, int] = defaultdict(lambda: self._ahead(limit))

        def goes_back(arrival: Arrival) -> bool:
            record, _ = self._read(arrival, now)
            if record.lost_leases:
                return True
            room[arrival.queue] -= 1
            return room[arrival.queue] < 0

        self._set_apart += subscription.take_if(goes_back)

    # --- moving ----------------------------------------------------------------------------------------

    @property
    def _accepts(self) -> bool:
        """Whether the server is expected to accept moved events and notes."""
        return self._state.accepts(time.monotonic(), blocked=self._hub.publisher.blocked is not None)

    def pause(self, error: ConnectionLostError) -> None:
        """
        Move no event and hand out no suspect for a while, since publishing one failed with *error*.

        Raises:
            ConfigurationError: Something is missing on the server that this process did not set up.

            ConnectionLostError: The server could not be reached, or the caller left no time.
        """
        if error.kind == HURRIED:
            raise error
        if not self._state.refusals:
            _log.warning("suspects (events whose lease was lost) have to wait: %s", error.why)
        self._state = self._state.refused(time.monotonic(), blocked=self._hub.publisher.blocked is not None)
        if error.code == NOT_FOUND:
            self._hub.provide(self._queues)

    def resume(self) -> None:
        """Note that the server accepts moved events and notes."""
        self._state = self._state.accepted()

    def _move(self, subscription: Subscription) -> None:
        """Move what was set apart, and look for suspects soon."""
        self._relocate(subscription)
        self._state = self._state.moved()

    def _relocate(self, subscription: Subscription) -> None:
        """
        Publish the events that were set apart to where they belong, with current counters; ack those confirmed.

        Events that cannot be moved now stay set apart, and are moved later.

        Raises:
            ConfigurationError: A queue is missing that this process did not set up.

            ConnectionLostError: Some were not confirmed, although there is no alarm.
        """
        arrivals, now = self._set_apart, self._clock.now()
        if not arrivals:
            return
        try:
            found = self._look_up(arrivals, now)
        except ConnectionLostError as error:
            self.pause(error)
            return
        messages = {
            Receipt(subscription.token, arrival.tag): relocated(
                record, arrival.queue, wait, topology=self._hub.topology, now=now, unique=secrets.token_hex(8)
            )
            for arrival, record, wait in found
        }
        moved = self._hub.mover.move(messages)
        confirmed = {receipt.tag for receipt in moved.confirmed}
        subscription.ack(confirmed)
        if confirmed:
            subscription.wait_for_acks()  # if the next hand-over ends the process, no event is there twice
        self._set_apart = [arrival for arrival in arrivals if arrival.tag not in confirmed]
        if self._set_apart and self._hub.publisher.blocked is None:
            if moved.refused:
                self._hub.provide(self._queues)  # a queue that they need is gone
            raise ConnectionLostError(f"events could not be moved to their queues: {moved.why}")

    def _look_up(self, arrivals: Sequence[Arrival], now: float) -> list[tuple[Arrival, MessageRecord, float]]:
        """
        Return *arrivals* with their records and delays, and the notes on those that were handed out before.

        Raises:
            ConnectionLostError: The notes could not be read.
        """
        found = [(arrival, *self._read(arrival, now)) for arrival in arrivals]
        keys = [_key_of_first(arrival, record) for arrival, record, _ in found]
        if not any(keys):
            return found
        since = min(record.enqueued_at for key, (_, record, _) in zip(keys, found, strict=True) if key)
        notes = self._hub.notes.read(set(filter(None, keys)), since=since)
        self.resume()
        return [
            (arrival, record.noted(notes.on(key)), wait)
            for key, (arrival, record, wait) in zip(keys, found, strict=True)
        ]

    # --- waiting ---------------------------------------------------------------------------------------

    def _more(self, subscription: Subscription, queues: Sequence[str]) -> bool:
        """
        Ask the server whether it has events ready for this subscription, and wait a moment for them.

        Two round trips: what a queue handed out before it answered the first has arrived with the second.

        Raises:
            ConnectionLostError: The server has events ready and hands none out, or could not be reached.
        """
        topology = self._hub.topology
        due = False
        for _ in range(2):
            ready = [queue for queue in queues if subscription.count(topology.queue(queue, Role.MAIN))]
            due = any(not subscription.full(queue) for queue in ready)
            if subscription.has_arrived(queues):
                return True
        if due:
            self._sleep(subscription, queues, _ARRIVES_WITHIN)
        arrived = subscription.has_arrived(queues)
        self._state = self._state.asked(stalled=due and not arrived)
        if self._state.is_stuck:  # https://github.com/rabbitmq/rabbitmq-server/issues/15473
            subscription.close()
            raise ConnectionLostError("the server has ready events but delivers none")
        return arrived

    def _sleep(self, subscription: Subscription, queues: Sequence[str], seconds: float) -> None:
        """Wait until something arrives or changes, at most *seconds*."""
        with subscription.lock:
            if subscription.lost is None and not subscription.has_arrived(queues) and not self._ended():
                subscription.changed.wait(seconds)
        if subscription.lost is not None:
            raise subscription.lost


def _key_of_first(arrival: Arrival, record: MessageRecord) -> str:
    """Return the key of a note that a hand-over from the main queue may have left; empty if there is none."""
    times = lost_leases(arrival.properties)
    if not times or record.lost_leases > times:  # earlier lost leases: it was not handed out from there
        return ""
    return record.suspect or plain_key(record.envelope, arrival.queue, record.attempt - times, record.enqueued_at)


def _receipt(subscription: Subscription, arrival: Arrival, record: MessageRecord) -> Receipt:
    return Receipt(
        subscription.token, arrival.tag, record.suspect, lost_leases(arrival.properties), record.excusable_at
    )


def _delivery(subscription: Subscription, arrival: Arrival, record: MessageRecord) -> Delivery:
    return made_delivery(
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
