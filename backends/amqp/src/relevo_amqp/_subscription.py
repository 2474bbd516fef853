"""
Deliveries from their arrival to their ack.

A subscription uses one channel and ends with it. A closed channel, a cancel by the server, a lost connection and a
deleted queue all end it, and then none of its receipts is valid. The next subscription is another object with another
token, so that receipts cannot be confused.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from relevo import Note
from relevo_amqp._connection import Channel
from relevo_amqp._errors import ConnectionLostError, no_answer
from relevo_amqp._header import NotePlace
from relevo_amqp._mapping import urgent

_CALM, _CALM_TRIES = 3, 100
"""Round trips without an arrival after which nothing is on its way, and the most round trips."""

CANCELLED = "cancelled"
"""The kind of error when the server cancelled a consumer and the connection still works."""

_AGAIN = 0.05
"""Seconds between two attempts to give an event back while a consumer is being cancelled."""


class Receipt(NamedTuple):
    """Proof of holding a delivery: the token of its subscription, and its tag there."""

    token: int
    tag: int

    key: str = ""
    """Identifies the message in notes; empty if the message carries no key."""

    hand_over: int = 0
    """How many hand-overs of the message were lost before this one."""

    begun_at: NotePlace | None = None
    """Where the note that came with the message was written; ``None`` without one, or if that is not known."""


class Arrival(NamedTuple):
    """A message that arrived."""

    tag: int
    queue: str
    """Relevo's name of the queue."""

    properties: Any
    body: bytes


class _Consumer:
    """One consumer on the server: its queue, its prefetch, and how many of its events are unacked."""

    __slots__ = ("name", "out", "prefetch", "queue")

    def __init__(self, queue: str, name: str, prefetch: int):
        self.queue = queue
        self.name = name
        self.prefetch = prefetch
        self.out = 0


class Subscription:
    """
    The consumers of one channel, the messages that arrived, and the acks.

    Args:
        channel: An open channel for this subscription alone, in transactions, see :meth:`_flush`.

        timeout: Seconds for an answer of the server.
    """

    def __init__(self, channel: Channel, *, timeout: float):
        self.token = secrets.randbits(63)
        self.lock = threading.RLock()
        """Guards its state; taken by itself, not through the condition, which an interrupt could leave locked."""
        self.changed = threading.Condition(self.lock)
        self.lost: ConnectionLostError | None = None
        self.worn = False
        """Whether a consumer was cancelled on it: the server may keep an event for it and never deliver that."""
        self._channel = channel
        self._timeout = timeout
        self._consumers: dict[str, _Consumer] = {}
        self._numbers = 0
        self._urgent: dict[str, deque[Arrival]] = {}
        self._normal: dict[str, deque[Arrival]] = {}
        self._unacked: dict[int, _Consumer | None] = {}  # in the order of tags, which acks of several rely on
        self._held: set[int] = set()
        self._settling: set[int] = set()
        self._notes: dict[int, Note] = {}
        self._done: set[int] = set()
        self._return_at: dict[int, float] = {}
        """The times at which events that could not be settled go back, by tag."""
        self._flush_scheduled = False
        self._acks_wait = False
        # How many flushes were sent, how many of them committed, and for how many of these that was answered.
        self._sent = self._committed = self._taken = 0
        channel.on_lost = self._on_lost
        channel.on_cancel = self._on_cancel

    def hurry(self, timeout: float) -> None:
        """Wait at most *timeout* seconds for each answer from now on: the subscription is about to end."""
        self._timeout = min(self._timeout, timeout)

    # --- consumers: blocking ---------------------------------------------------------------------------

    @property
    def queues(self) -> set[str]:
        """The queues that have a consumer."""
        return {consumer.queue for consumer in tuple(self._consumers.values())}

    def window(self, queue: str) -> int:
        """Return how many events of *queue* may be unacked: the prefetch of its consumers together."""
        return sum(consumer.prefetch for consumer in self._of(queue))

    def full(self, queue: str) -> bool:
        """Return whether the server delivers no more of *queue* until an ack."""
        return all(consumer.out >= consumer.prefetch for consumer in self._of(queue))

    def consume(self, queue: str, name: str, prefetch: int) -> None:
        """
        Start a further consumer of *queue*, so that the server delivers *prefetch* more events of it.

        A consumer is never cancelled to start one with a larger prefetch, see :meth:`pause`.

        Args:
            queue: Relevo's name of the queue.

            name: The server's name of the queue.

            prefetch: How many events of the new consumer may be unacked.

        Raises:
            ConnectionLostError: The channel was lost.
        """
        self._numbers += 1
        tag = f"relevo-{self._numbers}"
        consumer = _Consumer(queue, name, prefetch)
        with self.lock:
            self._urgent.setdefault(queue, deque())
            self._normal.setdefault(queue, deque())
        self._channel.consume(
            name,
            self._receiver(consumer),
            tag=tag,
            prefetch=prefetch,
            begun=partial(self._begin, tag, consumer),
            timeout=self._timeout,
        )

    def pause(self, queues: Collection[str]) -> None:
        """
        Cancel the consumers of *queues*; events that arrived stay here.

        An event that the server has assigned to a consumer and not yet sent when the consumer is cancelled stays hidden
        until the channel closes (seen on 4.0.5). So first the acks wait, until the consumers are full or the queues
        empty. An event that is hidden nevertheless goes back when the channel is replaced.

        Raises:
            ConnectionLostError: The channel was lost.
        """
        with self.lock:
            ending = {tag: consumer for tag, consumer in self._consumers.items() if consumer.queue in queues}
        if not ending:
            return
        with self.lock:
            self._acks_wait = True
            sent = self._sent
        try:
            self._wait_for(sent)
            self._wait_for_calm(list(ending.values()))
            for tag in ending:
                self.worn = True
                self._channel.cancel(tag, self._timeout, ended=partial(self._end, tag))
        finally:
            self._acks_wait = False
            self.ack(())

    def _wait_for_calm(self, consumers: Sequence[_Consumer]) -> None:
        """
        Wait until nothing is on its way.

        Acks take effect with the next entry in the queue's log, and make room for further assignments. A get is such
        an entry, so its answer comes after them; the event that it fetches is kept like an arrival. Events that a queue
        assigned before one round trip have arrived with the next.
        """
        for name, queue in {consumer.name: consumer.queue for consumer in consumers}.items():
            arrival = self.get(queue, name)
            if arrival is not None:
                with self.lock:
                    self._normal[queue].append(arrival)
        quiet = 0
        for _ in range(_CALM_TRIES):
            before = sum(consumer.out for consumer in consumers)
            for name in {consumer.name for consumer in consumers}:
                self.count(name)
            quiet = quiet + 1 if before == sum(consumer.out for consumer in consumers) else 0
            if quiet >= _CALM:
                return

    def _of(self, queue: str) -> list[_Consumer]:
        with self.lock:
            return [consumer for consumer in self._consumers.values() if consumer.queue == queue]

    def get(self, queue: str, name: str) -> Arrival | None:
        """
        Fetch one event from the server's queue *name*, which belongs to relevo's *queue*.

        Raises:
            ConnectionLostError: The channel was lost.
        """
        got = self._channel.get(name, self._note, self._timeout)
        if got is None:
            return None
        tag, properties, body = got
        return Arrival(tag, queue, properties, body)

    def count(self, name: str) -> int:
        """
        Return how many events of the server's queue *name* are ready; the answer comes after earlier deliveries.

        Raises:
            ConnectionLostError: The channel was lost, as it is when the queue is missing.
        """
        frame = self._channel.call("queue_declare", name, passive=True, timeout=self._timeout)
        return int(frame.method.message_count)

    def close(self) -> None:
        """Close the channel; unacked events go back with a lost lease."""
        self._on_lost(ConnectionLostError("closed"))
        self._channel.close()

    def finish(self) -> None:
        """
        Close the channel once the server has the acks.

        Raises:
            ConnectionLostError: The channel was lost.
        """
        self.wait_for_acks()
        if self.lost is not None:
            raise self.lost
        self.close()

    # --- arrivals ----------------------------------------------------------------------------------------

    def take(self, queues: Sequence[str], limit: int) -> list[Arrival]:
        """Take up to *limit* events that arrived, in the order of *queues*; they are held from now on."""
        taken: list[Arrival] = []
        with self.lock:
            for queue in queues:  # an urgent event overtakes those of its own queue alone
                for lane in (self._urgent, self._normal):
                    arrivals = lane.get(queue)
                    while arrivals and len(taken) < limit:
                        taken.append(arrivals.popleft())
            self._held.update(arrival.tag for arrival in taken)
        return taken

    def take_if(self, chosen: Callable[[Arrival], bool]) -> list[Arrival]:
        """Take the events that arrived and are *chosen*, in the order of their arrival; they are held from now on."""
        taken: list[Arrival] = []
        with self.lock:
            for lane in (self._urgent, self._normal):
                for arrivals in lane.values():
                    tags = {arrival.tag for arrival in arrivals if chosen(arrival)}
                    if tags:
                        taken += (arrival for arrival in arrivals if arrival.tag in tags)
                        left = [arrival for arrival in arrivals if arrival.tag not in tags]
                        arrivals.clear()  # the consumers' callbacks hold it
                        arrivals.extend(left)
            self._held.update(arrival.tag for arrival in taken)
        return taken

    def take_all(self) -> list[Arrival]:
        """Take all events that arrived; they are held from now on."""
        return self.take(tuple(self._normal), 1 << 62)

    @property
    def buffered(self) -> int:
        """How many events arrived and were not taken."""
        with self.lock:
            return sum(len(arrivals) for lane in (self._urgent, self._normal) for arrivals in lane.values())

    def buffered_of(self, queue: str) -> int:
        """Return how many events of *queue* arrived and were not taken."""
        return sum(len(lane.get(queue, ())) for lane in (self._urgent, self._normal))

    def has_arrived(self, queues: Sequence[str]) -> bool:
        """Return whether an event of one of *queues* arrived and was not taken."""
        return any(lane.get(queue) for lane in (self._urgent, self._normal) for queue in queues)

    @property
    def held(self) -> int:
        """How many events were taken and are neither acked nor given back."""
        with self.lock:
            return len(self._held) + len(self._settling)

    def hold(self, arrival: Arrival) -> None:
        """Hold *arrival*, which :meth:`get` fetched."""
        with self.lock:
            self._held.add(arrival.tag)

    # --- notes -------------------------------------------------------------------------------------------

    def holds(self, receipt: object) -> bool:
        """Return whether the delivery of *receipt* is held and not being settled."""
        if not isinstance(receipt, Receipt) or receipt.token != self.token:
            return False
        with self.lock:
            return self.lost is None and receipt.tag in self._held

    def note(self, receipt: Receipt, note: Note) -> bool:
        """Remember *note*; return whether the delivery is still held."""
        with self.lock:
            held = self.lost is None and receipt.tag in self._held
            if held:
                self._notes[receipt.tag] = note
            return held

    def noted(self, receipt: object) -> Note | None:
        """Return the note that was remembered for a delivery of this subscription."""
        return self._notes.get(receipt.tag) if isinstance(receipt, Receipt) and receipt.token == self.token else None

    # --- settling ----------------------------------------------------------------------------------------

    def claim(self, receipt: object) -> int | None:
        """Return the tag of *receipt* and stop holding it; ``None`` if its lease was lost."""
        if not isinstance(receipt, Receipt) or receipt.token != self.token:
            return None
        with self.lock:
            if self.lost is not None or receipt.tag not in self._held:
                return None
            self._held.discard(receipt.tag)
            self._settling.add(receipt.tag)
            return receipt.tag

    def unclaim(self, tags: Collection[int]) -> None:
        """Hold *tags* again, which could not be settled."""
        with self.lock:
            self._settling.difference_update(tags)
            if self.lost is None:
                self._held.update(tags)

    def ack(self, tags: Collection[int]) -> None:
        """Ack *tags* soon, together with others; a lost subscription sends nothing."""
        with self.lock:
            if self.lost is not None:
                return
            self._held.difference_update(tags)
            self._settling.difference_update(tags)
            self._done.update(tags)
            self._discount(tags)
            for tag in tags:
                self._notes.pop(tag, None)
            self._schedule_flush()
            self.changed.notify_all()

    def flush(self) -> None:
        """Send soon what an :meth:`ack` that was interrupted did not send."""
        with self.lock:
            self._schedule_flush()

    def _schedule_flush(self) -> None:
        """Flush soon if something is done, unless that is scheduled; with the lock."""
        if self._done and not self._flush_scheduled and not self._acks_wait:
            self._channel.loop.soon(self._flush)
            self._flush_scheduled = True

    def wait_for_acks(self) -> None:
        """
        Wait until the server has received all acks, or the subscription is lost; blocking.

        An event whose ack the server has not received is delivered once more if the process dies. So ``settle`` waits
        before it acks more, and the number of such events is bounded, however slow this process and the server are.
        """
        with self.lock:
            self._schedule_flush()  # an interrupt can have ended the ack() that should have
            last = self._sent + bool(self._done)
        self._wait_for(last)

    def _wait_for(self, flush: int) -> None:
        with self.lock:
            timeout = self._channel.loop.within(self._timeout)
            answered = self.changed.wait_for(lambda: self.lost is not None or self._taken >= flush, timeout)
        if not answered:
            # At once, and not when the loop notices the cut: nothing of it may be claimed any more.
            self._on_lost(no_answer("the server did not confirm the acks", timeout, usual=self._timeout))
            self._channel.cut()

    def give_back(self, tags: Sequence[int], after: float) -> None:
        """
        Return *tags* to the server, with a lost lease, if they are still held after *after* seconds.

        Another call for a tag starts its time again.
        """
        due = time.monotonic() + after
        with self.lock:
            self._return_at.update(dict.fromkeys(tags, due))

        def give() -> None:
            if self._acks_wait:
                self._channel.loop.later(_AGAIN, give)
                return
            self._flush()  # wait_for_acks() already counts on the next number
            with self.lock:
                mine = [tag for tag in tags if tag in self._held and self._return_at.get(tag) == due]
                for tag in tags:
                    if self._return_at.get(tag) == due:
                        del self._return_at[tag]
                self._held.difference_update(mine)
                self._discount(mine)
                for tag in mine:
                    del self._unacked[tag]
                    self._notes.pop(tag, None)
                self.changed.notify_all()
                self._sent += bool(mine)
            for tag in mine:
                self._channel.raw.basic_nack(tag, requeue=True)
            self._commit()

        self._channel.loop.soon(lambda: self._channel.loop.later(after, give))

    def give_back_now(self, receipt: object) -> None:
        """Return the delivery of *receipt* to the server at once, with a lost lease."""
        tag = self.claim(receipt)
        if tag is None:
            return

        def give() -> None:
            if self._acks_wait:
                self._channel.loop.later(_AGAIN, give)
                return
            self._flush()
            with self.lock:
                if self.lost is not None or tag not in self._settling:
                    return
                self._settling.discard(tag)
                self._discount([tag])
                del self._unacked[tag]
                self._notes.pop(tag, None)
                self.changed.notify_all()
                self._sent += 1
            self._channel.raw.basic_nack(tag, requeue=True)
            self._commit()

        self._channel.loop.soon(give)

    # --- in the loop's thread ----------------------------------------------------------------------------

    def _begin(self, tag: str, consumer: _Consumer) -> None:
        with self.lock:
            if self.lost is None:
                self._consumers[tag] = consumer

    def _end(self, tag: str) -> None:
        with self.lock:
            self._consumers.pop(tag, None)

    def _receiver(self, consumer: _Consumer) -> Callable[[Any, Any, Any, bytes], None]:
        queue = consumer.queue
        calm, rush, unacked, lock = self._normal[queue], self._urgent[queue], self._unacked, self.lock

        def receive(_: Any, method: Any, properties: Any, body: bytes) -> None:
            arrival = Arrival(method.delivery_tag, queue, properties, body)
            with lock:
                if self.lost is not None:
                    return
                unacked[arrival.tag] = consumer
                consumer.out += 1
                (rush if urgent(properties) else calm).append(arrival)
                self.changed.notify_all()  # all: settle() waits on the same condition for something else

        return receive

    def _note(self, tag: int) -> None:
        with self.lock:
            if self.lost is None:
                self._unacked[tag] = None

    def _flush(self) -> None:
        """
        Ack what is done: one frame for all up to the oldest that is not, and one for each of the others.

        All in one transaction, for two reasons. Its commit is answered, and an ack is not. And the channel passes the
        acks of a transaction to the queue together. Of single acks it keeps back the 32nd and later ones until the
        queue has written the earlier ones, and forgets them if it is closed before, even in good order
        (https://github.com/rabbitmq/rabbitmq-server/issues/10327); such events are delivered again, with a lost lease.
        """
        with self.lock:
            self._flush_scheduled = False
            if self.lost is not None or self._acks_wait or not self._done:
                return
            done, self._done = self._done, set()
            self._sent += 1
            upto = 0
            finished = 0
            for tag in self._unacked:
                if tag not in done:
                    break
                upto = tag
                finished += 1
            for tag in done:
                del self._unacked[tag]
        raw = self._channel.raw
        if finished == 1:
            raw.basic_ack(upto)
        elif finished:
            raw.basic_ack(upto, multiple=True)
        if finished < len(done):
            for tag in sorted(done):
                if tag > upto:
                    raw.basic_ack(tag)
        self._commit()

    def _commit(self) -> None:
        """Commit what was sent; acks that are sent before the answer are committed after it."""
        if self.lost is None and self._taken == self._committed < self._sent:
            self._committed = self._sent
            self._channel.commit(self._on_commit)

    def _on_commit(self) -> None:
        with self.lock:
            self._taken = self._committed
            self.changed.notify_all()
        self._commit()

    def _discount(self, tags: Iterable[int]) -> None:
        unacked = self._unacked
        for tag in tags:
            consumer = unacked[tag]
            if consumer is not None:
                consumer.out -= 1

    def _on_cancel(self, tag: str) -> None:
        """End the subscription: the server cancelled a consumer, as its queue is gone or an event was held too long."""
        consumer = self._consumers.get(tag)
        if consumer is not None:
            self._acks_wait = False  # the channel works: ack what is done before it is closed
            self._flush()
            if self._committed < self._sent:
                self._committed = self._sent
                self._channel.commit(self._on_commit)
            why = f'the server cancelled the consumer of "{consumer.name}", as it does when a queue is deleted'
            self._on_lost(ConnectionLostError(why, kind=CANCELLED))
            self._channel.close()

    def _on_lost(self, error: ConnectionLostError) -> None:
        with self.lock:
            if self.lost is None:
                self.lost = error
            self._consumers.clear()
            for lane in (self._urgent, self._normal):
                for arrivals in lane.values():
                    arrivals.clear()
            self._held.clear()
            self._settling.clear()
            self._notes.clear()
            self._done.clear()
            self._unacked.clear()
            self.changed.notify_all()
