"""The transport: the seam's methods, each a verb of the script."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self, TypeVar

import attrs

from relevo import (
    MAX_LEASE,
    Capabilities,
    Clock,
    DeadLetterEntry,
    Delivery,
    Envelope,
    Found,
    Settlement,
    Stats,
    SystemClock,
    Transport,
)
from relevo.errors import ConfigurationError, EncodeError, LeaseLostError, SendError, TransportClosedError, shown
from relevo_redis import _event as event
from relevo_redis._errors import AnswerLostError
from relevo_redis._gate import Gate
from relevo_redis._options import RedisOptions
from relevo_redis._server import LAYOUT, Server

T = TypeVar("T")

MAX_BODY = 16 * 1024 * 1024
"""Bytes; Redis takes more, but all others wait while it copies them."""

_LARGEST_BATCH = 10_000
"""Envelopes that are sent together; the server does nothing else meanwhile, for about a tenth of a second."""

_CHUNK = 1000
"""So many at most are done in one script, as it says itself; between two of them the server serves others."""

_LOOK = 1.0
"""Seconds between two looks of a ``receive`` that nobody wakes."""

_GLANCE = 0.001
"""Seconds in which a clock that runs has moved."""


class RedisTransport(Transport):
    """
    Keeps events in Redis 6.2 or later, or Valkey, on one primary; Redis Cluster is not served.

    ``host`` durability asks much of a server: to answer only when what it took is on disk. Each connection
    looks whether it is set so, and refuses if not; with ``durability = "process"`` it claims no more than it
    gets. Time is the server's own, unless the clock is another than the system's: then that is the time.

    It may be used on both sides of a fork. What was handed out before is the parent's to settle.

    Args:
        options: Where the events are kept.

        name: What the application calls it.

        clock: Where the time comes from.
    """

    capabilities = Capabilities(
        durability="host",
        lease="timed",
        extend=True,
        settlement="confirmed",
        atomic_batch=True,
        delay=0.001,
        lost_leases="exact",
        order="per key",
        urgency=True,
        checkpoint=True,
        dead_letters=True,
        cancel=True,
        find=True,
        purge=True,
        wakeup=True,
        dedupe=True,
        stats="exact",
        max_body=MAX_BODY,
    )
    Options: ClassVar[type] = RedisOptions

    def __init__(
        self,
        options: RedisOptions,
        *,
        name: str = "redis",
        clock: Clock = SystemClock(),  # noqa: B008 - it has no state
    ):
        self.capabilities = attrs.evolve(type(self).capabilities, durability=options.durability)
        self._server = Server(options, name)
        self._clock = clock
        self._gate = Gate()

    @classmethod
    def open(cls, options: RedisOptions, *, name: str, clock: Clock) -> Self:
        return cls(options, name=name, clock=clock)

    @property
    def name(self) -> str:
        """What the application calls it; what lies below raises errors under this name too."""
        return self._server.name

    @name.setter
    def name(self, name: str) -> None:
        self._server.name = name

    @property
    def prefix(self) -> str:
        """With what all its keys begin."""
        return self._server.prefix

    def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        version = self._server.key("version")
        with self._open():
            if not queues or self._server.call("EXISTS", version):
                return []
            if not dry_run:
                self._server.call("SET", version, LAYOUT)
            return [f'keys that begin with "{self.prefix}:", in layout {LAYOUT.decode()}']

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        with self._open():
            everything = range(len(envelopes))
            if len(envelopes) > _LARGEST_BATCH:
                raise self._refused(envelopes, f"{len(envelopes)} at once; send {_LARGEST_BATCH} at most")
            if any(len(envelope.body) > MAX_BODY for envelope in envelopes):
                raise self._refused(envelopes, f"a body of the batch is larger than {MAX_BODY} bytes")
            try:
                postings = [argument for envelope in envelopes for argument in event.posting(envelope)]
            except (EncodeError, UnicodeError, OverflowError) as error:
                raise self._refused(envelopes, str(error)) from error
            try:
                if postings:
                    self._run("send", event.micros(max(0.0, delay)), *postings)
            except AnswerLostError as error:
                raise SendError(self.name, unknown=everything, why=error.why) from error.__cause__

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        deadline = self._clock.monotonic() + wait
        token = secrets.token_hex(8)
        with self._open():
            while limit > 0 and queues:
                change, moved, rows = self._run("receive", token, limit, event.micros(min(lease, MAX_LEASE)), *queues)
                if not rows and moved >= _CHUNK:
                    continue  # time has brought more than one script moves
                left = deadline - self._clock.monotonic()
                if rows or left <= 0:
                    return [event.delivery(token, row) for row in rows]
                if not self._pause(queues, left if change < 0 else min(left, change / 1_000_000)):
                    break
                if self._gate.closed:
                    raise TransportClosedError(self.name)
            return []

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        lost = self._each("settle", settlements, lambda settlement: event.settlement(*settlement))
        return [delivery for delivery, _ in lost]

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        length = event.micros(min(lease, MAX_LEASE))
        return self._each("extend", deliveries, lambda delivery: (*event.holding(delivery), length))

    def _checkpoint(self, delivery: Delivery, state: bytes) -> None:
        if self._each("checkpoint", [delivery], lambda delivery: (*event.holding(delivery), state)):
            raise LeaseLostError(self.name, delivery)

    def stats(self, queue: str) -> Stats:
        with self._open():
            moved, *figures = self._run("stats", queue)
            while moved:
                moved, *figures = self._run("stats", queue)
            return event.stats(figures)

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        wanted = list(dict.fromkeys(queues))
        at = "-inf"
        if after is not None:
            queue, at = event.grave(after)
            if queue not in wanted:
                raise ConfigurationError(f"{shown(after)} is not the ref of a dead letter of {', '.join(wanted)}")
            wanted = wanted[wanted.index(queue) :]
        entries: list[DeadLetterEntry] = []
        with self._open():
            for queue in wanted:
                while left := max(0, min(limit - len(entries), _CHUNK)):
                    rows = self._run("dead", queue, at, left)
                    if not rows:
                        break
                    entries += [event.entry(queue, row) for row in rows]
                    at = rows[-1][0]
                at = "-inf"
            return entries

    def _revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        return self._each("revive", list(refs), lambda ref: (*event.grave(ref), refs[ref]))

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        return self._each("discard", list(refs), event.grave)

    def find(self, event_id: str) -> Sequence[Found]:
        with self._open():
            return [one for rows in self._of(event_id, "find") for one in event.found(rows)]

    def cancel(self, event_id: str) -> int:
        with self._open():
            return sum(map(int, self._of(event_id, "cancel")))

    def purge(self, queue: str) -> int:
        with self._open():
            total = 0
            while number := self._run("purge", queue):
                total += number
            return total

    def close(self) -> None:
        """
        Give up everything held, without settling it; a blocked ``receive`` ends within a second.

        What was held comes back when its lease is past, and counts as a loss; release it first to have it
        back at once.
        """
        self._gate.close()
        self._server.pool.disconnect()

    # --- what these have in common ------------------------------------------------------------------

    @contextmanager
    def _open(self) -> Iterator[None]:
        with self._gate.passed() as is_open:
            if not is_open:
                raise TransportClosedError(self.name)
            yield

    def _run(self, verb: str, *arguments: bytes | str | float) -> Any:
        now = b"" if isinstance(self._clock, SystemClock) else b"%d" % round(self._clock.now() * 1_000_000)
        return self._server.run(verb, now, *arguments)

    def _of(self, event_id: str, verb: str) -> Iterator[Any]:
        """Do *verb* to all that have the id; yield what each script answers."""
        after: bytes | str = "-inf"
        while after:
            after, answer = self._run(verb, event_id, after)
            yield answer

    def _pause(self, queues: Sequence[str], seconds: float) -> bool:
        """
        Wait until there may be something to receive; return whether another look is worth it.

        Args:
            queues: Whose bells are listened to.

            seconds: After which time alone may have brought something.
        """
        runs = isinstance(self._clock, SystemClock)
        before = self._clock.monotonic()
        longest = max(_GLANCE, min(seconds, _LOOK if runs else _GLANCE))
        rang = self._server.call("BLPOP", *(self._server.key("bell", queue) for queue in queues), longest)
        if runs or rang or self._clock.monotonic() > before:
            return True
        # A clock that stands still, as in tests: its time passes when it is asked to sleep, or somebody else moves it.
        self._clock.sleep(seconds)
        return self._clock.monotonic() > before

    def _each(self, verb: str, items: Sequence[T], arguments: Callable[[T], event.Arguments]) -> list[T]:
        """Do *verb* to each of *items*; return those that the script did not find."""
        missing: list[T] = []
        with self._open():
            for first in range(0, len(items), _CHUNK):
                chunk = items[first : first + _CHUNK]
                positions = self._run(verb, *(argument for item in chunk for argument in arguments(item)))
                missing += [chunk[position] for position in positions]
        return missing

    def _refused(self, envelopes: Sequence[Envelope], why: str) -> SendError:
        return SendError(self.name, refused=range(len(envelopes)), why=why)
