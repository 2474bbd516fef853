"""
Dead letters, found by reading their queue: a queue has no index.

A scan fetches all dead letters of a queue and gives them back, which counts nothing. During a scan other processes
see fewer dead letters, so a ref that is not found is looked for again. One scan serves several pages, see
:mod:`relevo_amqp._page_cache`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Self

import attrs

from relevo import Clock, DeadLetterEntry
from relevo.errors import ConfigurationError, shown
from relevo_amqp._connection import Channel
from relevo_amqp._errors import NOT_FOUND, ConnectionLostError
from relevo_amqp._hub import Hub
from relevo_amqp._mapping import expelled, read, suspect_key, word_of, written
from relevo_amqp._page_cache import Earliest, FoundDeadLetter, PageCache
from relevo_amqp._publisher import PublishResult
from relevo_amqp._topology import Role, word

MOST_UNACKED = 65_000
"""The largest prefetch of one consumer; AMQP has two bytes for it."""

_IDLE = 2.0
"""Seconds without an event before a scan asks the server whether more are coming; others may have taken the rest."""

_TRIES = 3
_PAUSE = 0.25


class DeadLetterStore:
    """
    The dead letters of a transport.

    Args:
        hub: The connections.

        clock: The time to use for a dead letter without one.

        page_cache: Keeps the dead letters of further pages.
    """

    def __init__(self, hub: Hub, clock: Clock, page_cache: PageCache):
        self._hub = hub
        self._clock = clock
        self._page_cache = page_cache

    def entries(self, queues: Sequence[str], *, after: str | None, limit: int) -> list[DeadLetterEntry]:
        """
        Return dead letters, queue by queue, the oldest first; blocking.

        Raises:
            ConnectionLostError: The server could not be reached.

            ConfigurationError: *after* is not a ref of one of *queues*.
        """
        found: list[DeadLetterEntry] = []
        queues = list(dict.fromkeys(queues))
        start = word_of(after) if after is not None else None
        words = [word(queue) for queue in queues]
        if after is not None:
            if start not in words:
                known = ", ".join(f'"{queue}"' for queue in queues)
                raise ConfigurationError(
                    f"{shown(after)} is not the ref of a dead letter of {known}; give one that was listed"
                )
            queues = queues[words.index(start) :]
        for queue in queues:
            if len(found) >= limit:
                break
            behind = after if after is not None and word(queue) == start else ""
            found += self._entries_of(queue, behind=behind, limit=limit - len(found))
        return found

    def revive(self, refs: Mapping[str, bytes]) -> list[str]:
        """
        Send dead letters to their queues again, confirmed, then drop them; return the missing refs; blocking.

        Raises:
            ConnectionLostError: The server could not be reached, or did not confirm all; the others stay dead letters.
        """

        def publish_again(letters: Sequence[FoundDeadLetter]) -> Sequence[int]:
            exchange = self._hub.topology.exchange(Role.MAIN)
            now = self._clock.now()
            messages = []
            for letter in letters:
                key = suspect_key(now, secrets.token_hex(8))  # so that no earlier note is found
                record = letter.record.revived(refs[letter.ref], key=key)
                messages.append(written(record, exchange=exchange, key=word_of(letter.ref) or ""))
            batch = self._hub.publisher.send(messages)
            confirmed = batch.positions(PublishResult.CONFIRMED)
            if len(confirmed) < len(letters):
                problems.append(batch.why)
            return [letters[position].tag for position in confirmed]

        problems: list[str] = []
        missing = self._remove(refs, publish_again)
        if problems:
            raise ConnectionLostError(f"not every dead letter could be sent again: {problems[0]}")
        return missing

    def discard(self, refs: Sequence[str]) -> list[str]:
        """
        Delete dead letters; return the refs that were not found; blocking.

        Raises:
            ConnectionLostError: The server could not be reached.
        """
        return self._remove(refs, lambda letters: [letter.tag for letter in letters])

    # --- scanning ----------------------------------------------------------------------------------------

    def _entries_of(self, queue: str, *, behind: str, limit: int) -> list[DeadLetterEntry]:
        letters, complete = self._page_cache.take(queue, behind, limit)
        if len(letters) < limit and not complete:
            letters += self._scan(queue, behind=letters[-1].ref if letters else behind, limit=limit - len(letters))
        return [_entry(letter, queue) for letter in letters]

    def _scan(self, queue: str, *, behind: str, limit: int) -> list[FoundDeadLetter]:
        """Return the first *limit* of *queue* behind the ref *behind*, and cache those that follow."""
        earliest = Earliest(limit)
        for name in self._places(word(queue)):
            with QueueScan(self._hub, name) as scan:
                for letter in self._letters(scan, word(queue), queue):
                    if letter.ref > behind:
                        earliest.add(letter)
        page, rest = earliest.letters[:limit], earliest.letters[limit:]
        if page:  # so that the page behind the last letter needs no scan
            self._page_cache.put(queue, page[-1].ref, rest, complete=earliest.complete)
        return page

    def _remove(
        self, refs: Mapping[str, bytes] | Sequence[str], take: Callable[[Sequence[FoundDeadLetter]], Sequence[int]]
    ) -> list[str]:
        """Call *take* with the letters of *refs* that are found, and drop those whose tags it returns."""
        missing = dict.fromkeys(refs)
        for attempt in range(_TRIES):
            for queue in dict.fromkeys(word_of(ref) for ref in missing):
                for name in self._places(queue) if queue is not None else ():
                    with QueueScan(self._hub, name) as scan:
                        letters = [each for each in self._letters(scan, queue or "") if each.ref in missing]
                        gone = set(take(letters))
                        scan.drop(gone)
                        self._page_cache.drop({letter.ref for letter in letters if letter.tag in gone})
                        for letter in letters:
                            missing.pop(letter.ref, None)
            if not any(word_of(ref) for ref in missing):
                break
            if attempt + 1 < _TRIES:
                time.sleep(_PAUSE)
        return list(missing)

    def _places(self, queue: str) -> tuple[str, str]:
        topology = self._hub.topology
        return f"{topology.exchange(Role.DEAD)}.{queue}", topology.stray.name

    def _letters(self, scan: QueueScan, queue: str, name: str = "") -> Iterator[FoundDeadLetter]:
        """Yield the letters of the queue with the word *queue*; a letter that names no queue is one of *name*."""
        stray = scan.name == self._hub.topology.stray.name
        now = self._clock.now()
        for tag, properties, body in scan:
            record = read(properties, body, queue=name, now=now)
            if stray and word(record.queue) != queue:  # a stray letter always names its queue
                continue
            details = record.dead_letter or expelled(properties, body, word=queue, now=now)
            if word_of(details.ref) != queue:  # this ref would not find it
                details = attrs.evolve(details, ref=expelled(properties, body, word=queue, now=now).ref)
            yield FoundDeadLetter(details.ref, tag, record, details, len(body))


class QueueScan:
    """
    One scan of a queue; at the end everything that was not dropped goes back.

    Args:
        hub: The connections.

        name: The name of the queue on the server.
    """

    def __init__(self, hub: Hub, name: str):
        self.name = name
        self._hub = hub
        self._found: SimpleQueue[tuple[int, Any, bytes]] = SimpleQueue()
        self._channel: Channel | None = None
        self._expected = 0
        self._consumers: dict[str, int] = {}
        self._last = 0
        self._seen = 0
        self._dropped: list[int] = []

    def __enter__(self) -> Self:
        channel = self._hub.channel()
        try:
            self._expected = self._count(channel)
            while (left := self._expected - sum(self._consumers.values())) > 0:
                self._consume(channel, min(left, MOST_UNACKED))
            self._channel = channel
        except ConnectionLostError as error:
            if error.code != NOT_FOUND:
                raise
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        channel = self._channel
        if channel is None or (channel.lost is not None and (failure is not None or not self._dropped)):
            return
        if channel.lost is not None:
            raise channel.lost  # so nothing was dropped
        if self._expected:
            try:
                self._give_back(channel)
            except ConnectionLostError:
                if failure is None:  # else the failure is raised
                    raise
        channel.close()

    def _give_back(self, channel: Channel) -> None:
        for tag in self._consumers:
            channel.cancel(tag, self._hub.timeout)
        if self._dropped:
            channel.call("tx_select", timeout=self._hub.timeout)
        channel.loop.soon(lambda: self._settle(channel))
        if self._dropped:
            channel.call("tx_commit", timeout=self._hub.timeout)
        try:
            self._await_return(channel)
        except ConnectionLostError as error:
            if error.code != NOT_FOUND:  # the queue was deleted: nothing returns
                raise

    def __iter__(self) -> Iterator[tuple[int, Any, bytes]]:
        while self._seen < self._expected and (found := self._next()) is not None:
            self._seen += 1
            yield found

    def _next(self) -> tuple[int, Any, bytes] | None:
        """Return the next event that arrives; ``None`` if no more are on their way."""
        with suppress(Empty):
            return self._found.get(timeout=_IDLE)
        channel = self._channel
        if channel is None:
            return None
        try:
            # This process or the server may have paused. Events that the queue handed out before its first answer have
            # arrived when the second answer comes.
            for _ in range(2):
                self._count(channel)
        except ConnectionLostError as error:
            if error.code != NOT_FOUND:
                raise  # letters may be missing
            self._channel = None  # the queue was deleted, with all that is to be dropped
        with suppress(Empty):
            return self._found.get_nowait()
        return None

    def drop(self, tags: Collection[int]) -> None:
        """Delete *tags* at the end."""
        self._dropped += tags

    def _consume(self, channel: Channel, number: int) -> None:
        """
        Start a consumer that brings *number* events, and no more.

        Without a prefetch a quorum queue delivers 2000 and then waits for acks. And when a consumer has as many as its
        prefetch, nothing is on its way to it, so it can be cancelled.
        """
        tag = f"scan-{len(self._consumers)}"
        channel.call("basic_qos", prefetch_count=number, timeout=self._hub.timeout)
        self._consumers[tag] = number
        channel.call(
            "basic_consume",
            self.name,
            lambda _, method, properties, body: self._found.put((method.delivery_tag, properties, body)),
            consumer_tag=tag,
            timeout=self._hub.timeout,
        )

    def _settle(self, channel: Channel) -> None:
        """
        Ack what was dropped, then give the rest back.

        All in one transaction: of many single acks right before the end of a channel the server forgets the last ones
        (https://github.com/rabbitmq/rabbitmq-server/issues/10327). In a transaction the acks reach the queue together
        if nothing else stands between them, so all acks come first.
        """
        if channel.lost is None:
            upto = 0
            for tag in sorted(self._dropped):
                if tag > upto + 1:
                    break
                upto = tag
            if upto:
                channel.raw.basic_ack(upto, multiple=True)
            for tag in sorted(self._dropped):
                if tag > upto:
                    channel.raw.basic_ack(tag)
            if len(self._dropped) < self._seen or not self._found.empty():
                channel.raw.basic_nack(0, multiple=True, requeue=True)  # 0: all of them

    def _await_return(self, channel: Channel) -> None:
        """Wait a moment until the queue has what goes back, so that the next scan sees it."""
        deadline = time.monotonic() + 1.0
        while self._count(channel) < self._seen - len(self._dropped) and time.monotonic() < deadline:
            time.sleep(0.002)

    def _count(self, channel: Channel) -> int:
        frame = channel.call("queue_declare", self.name, passive=True, timeout=self._hub.timeout)
        return int(frame.method.message_count)


def _entry(letter: FoundDeadLetter, queue: str) -> DeadLetterEntry:
    record = letter.record
    return DeadLetterEntry(
        ref=letter.ref,
        queue=queue,
        envelope=record.envelope,
        reason=letter.details.reason,
        error=letter.details.error,
        state=record.state,
        attempt=record.attempt,
        lost_leases=record.lost_leases,
        enqueued_at=record.enqueued_at,
        died_at=letter.details.at,
    )
