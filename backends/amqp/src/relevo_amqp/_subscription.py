"""
What the server hands out, from its arrival to its ack.

A subscription lives on one channel and ends with it: a closed channel, a cancel by the server, a lost
connection and a deleted queue are one event, after which nothing of it is valid any more. A new one is
another object with another token, so that its receipts cannot be mistaken.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

from relevo_amqp._connection import Channel
from relevo_amqp._errors import LineLostError
from relevo_amqp._mapping import urgent


class Receipt(NamedTuple):
    """Proof of holding a delivery: of which subscription, and its tag there."""

    token: int
    tag: int


class Arrival(NamedTuple):
    """A message that lies here."""

    tag: int
    queue: str
    """Relevo's name of the queue."""

    properties: Any
    body: bytes
    suspect: bool = False
    """It comes from the queue of the suspects."""


class Subscription:
    """
    The consumers of one channel, what they brought, and what is to be acked.

    Args:
        channel: Open; its own.

        timeout: Seconds for an answer of the server.
    """

    def __init__(self, channel: Channel, *, timeout: float):
        self.token = secrets.randbits(63)
        self.changed = threading.Condition()
        self.lost: LineLostError | None = None
        self._channel = channel
        self._timeout = timeout
        self._consumers: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._numbers = 0
        self._prefetch = 0
        self._urgent: dict[str, deque[Arrival]] = {}
        self._normal: dict[str, deque[Arrival]] = {}
        self._unacked: dict[int, None] = {}
        self._held: set[int] = set()
        self._settling: set[int] = set()
        self._done: set[int] = set()
        self._flush_scheduled = False
        channel.on_lost = self._on_lost
        channel.on_cancel = self._on_cancel

    # --- consumers: blocking ---------------------------------------------------------------------------

    @property
    def prefetch(self) -> int:
        """How many unacked events the server lets each consumer have."""
        return self._prefetch

    @property
    def running(self) -> bool:
        """Whether there are consumers."""
        return bool(self._consumers)

    def consume(self, queues: Iterable[tuple[str, str]], prefetch: int) -> None:
        """
        Have the server hand out from *queues*; the consumers there were, if any, end.

        Args:
            queues: Relevo's name and the server's name of each.

            prefetch: How many each may have unacked.

        Raises:
            LineLostError: The channel is gone.
        """
        old, self._consumers = self._consumers, {}
        self._channel.call("basic_qos", prefetch_count=prefetch, timeout=self._timeout)
        self._prefetch = prefetch
        for queue, name in queues:
            self._numbers += 1
            tag = f"relevo-{self._numbers}"
            self._names[tag] = name
            self._urgent.setdefault(queue, deque())
            self._normal.setdefault(queue, deque())
            self._channel.call("basic_consume", name, self._receiver(queue), consumer_tag=tag, timeout=self._timeout)
            self._consumers[queue] = tag
        for tag in old.values():
            self._channel.cancel(tag, self._timeout)

    def pause(self) -> None:
        """
        End the consumers; what is on its way still arrives.

        Raises:
            LineLostError: The channel is gone.
        """
        old, self._consumers = self._consumers, {}
        for tag in old.values():
            self._channel.cancel(tag, self._timeout)

    def get(self, queue: str, name: str) -> Arrival | None:
        """
        Take one from the suspects of *queue*, whose name on the server is *name*.

        Raises:
            LineLostError: The channel is gone.
        """
        got = self._channel.get(name, self._timeout)
        if got is None:
            return None
        tag, properties, body = got
        with self.changed:
            self._unacked[tag] = None
        return Arrival(tag, queue, properties, body, suspect=True)

    def count(self, name: str) -> int:
        """
        Return how many events of the server's queue *name* are ready; a round trip behind all that was delivered.

        Raises:
            LineLostError: The channel is gone, as it is when there is no such queue.
        """
        frame = self._channel.call("queue_declare", name, passive=True, timeout=self._timeout)
        return int(frame.method.message_count)

    def close(self) -> None:
        """Close the channel; what is unacked goes back, and counts as lost."""
        self._on_lost(LineLostError("closed"))
        self._channel.close()

    # --- arrivals ----------------------------------------------------------------------------------------

    def take(self, queues: Sequence[str], limit: int) -> list[Arrival]:
        """Return up to *limit* that lie here, by preference; they are held from now on."""
        taken: list[Arrival] = []
        with self.changed:
            for lane in (self._urgent, self._normal):
                for queue in queues:
                    arrivals = lane.get(queue)
                    while arrivals and len(taken) < limit:
                        taken.append(arrivals.popleft())
            self._held.update(arrival.tag for arrival in taken)
        return taken

    def take_all(self) -> list[Arrival]:
        """Return all that lie here; they are held from now on."""
        return self.take(tuple(self._normal), 1 << 62)

    @property
    def buffered(self) -> int:
        """How many lie here."""
        return sum(len(arrivals) for lane in (self._urgent, self._normal) for arrivals in lane.values())

    def buffered_of(self, queue: str) -> int:
        """How many of *queue* lie here."""
        return sum(len(lane.get(queue, ())) for lane in (self._urgent, self._normal))

    @property
    def held(self) -> int:
        """How many were taken and are neither acked nor given back."""
        return len(self._held) + len(self._settling)

    def hold(self, arrival: Arrival) -> None:
        """Hold *arrival*, which was got and not taken."""
        with self.changed:
            self._held.add(arrival.tag)

    # --- settling ----------------------------------------------------------------------------------------

    def claim(self, receipt: object) -> int | None:
        """Return the tag that *receipt* proves and stop holding it, or ``None`` if it proves nothing any more."""
        if not isinstance(receipt, Receipt) or receipt.token != self.token:
            return None
        with self.changed:
            if self.lost is not None or receipt.tag not in self._held:
                return None
            self._held.discard(receipt.tag)
            self._settling.add(receipt.tag)
            return receipt.tag

    def unclaim(self, tags: Collection[int]) -> None:
        """Hold *tags* again, since they could not be settled."""
        with self.changed:
            self._settling.difference_update(tags)
            if self.lost is None:
                self._held.update(tags)

    def ack(self, tags: Collection[int]) -> None:
        """Send the acks of *tags* soon, all that come together at once; of a lost subscription none is sent."""
        with self.changed:
            if self.lost is not None:
                return
            self._held.difference_update(tags)
            self._settling.difference_update(tags)
            self._done.update(tags)
            wake = not self._flush_scheduled and bool(self._done)
            self._flush_scheduled = self._flush_scheduled or wake
            self.changed.notify_all()
        if wake:
            self._channel.loop.soon(self._flush)

    def give_back(self, tags: Sequence[int], after: float) -> None:
        """Return *tags* to the server after *after* seconds if they are still held then; it counts a loss."""

        def give() -> None:
            with self.changed:
                mine = [tag for tag in tags if tag in self._held] if self.lost is None else []
                self._held.difference_update(mine)
                for tag in mine:
                    self._unacked.pop(tag, None)
                self.changed.notify_all()
            for tag in mine:
                self._channel.raw.basic_nack(tag, requeue=True)

        self._channel.loop.soon(lambda: self._channel.loop.later(after, give))

    # --- in the loop's thread ----------------------------------------------------------------------------

    def _receiver(self, queue: str) -> Callable[[Any, Any, Any, bytes], None]:
        calm, rush, unacked, changed = self._normal[queue], self._urgent[queue], self._unacked, self.changed

        def receive(_: Any, method: Any, properties: Any, body: bytes) -> None:
            arrival = Arrival(method.delivery_tag, queue, properties, body)
            with changed:
                if self.lost is not None:
                    return
                unacked[arrival.tag] = None
                (rush if urgent(properties) else calm).append(arrival)
                changed.notify()

        return receive

    def _flush(self) -> None:
        """Ack what is done: one frame for all up to the oldest that is not, and one for each of the others."""
        with self.changed:
            self._flush_scheduled = False
            if self.lost is not None or not self._done:
                return
            done, self._done = self._done, set()
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

    def _on_cancel(self, tag: str) -> None:
        """Note that the server ended a consumer: its queue is gone, or an event was held too long (4.3 on)."""
        if tag in self._consumers.values():
            self._on_lost(LineLostError(f'the server ended the subscription of "{self._names[tag]}"'))
            self._channel.close()

    def _on_lost(self, error: LineLostError) -> None:
        with self.changed:
            if self.lost is None:
                self.lost = error
            self._consumers.clear()
            for lane in (self._urgent, self._normal):
                for arrivals in lane.values():
                    arrivals.clear()
            self._held.clear()
            self._settling.clear()
            self._done.clear()
            self._unacked.clear()
            self.changed.notify_all()
