"""The transport: the methods of the interface, each an operation of the script."""

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
"""Bytes; Redis accepts more, but other clients wait while it copies them."""

_LARGEST_BATCH = 10_000
"""Envelopes that are sent together; the server does nothing else meanwhile, for about a tenth of a second."""

_CHUNK = 1000
"""The maximum number of items in one script, as in the script itself; other clients are served between two scripts."""

_LOOK = 1.0
"""Seconds between two polls of a ``receive`` that is not woken."""

_GLANCE = 0.001
"""Seconds after which a running clock has moved."""


class RedisTransport(Transport):
    """
    Stores events in Redis 6.2 or later, or Valkey, on one primary; Redis Cluster is not supported.

    ``host`` durability requires a server that answers only when the data is on disk. Each connection checks the
    settings, and is refused if they differ; with ``durability = "process"`` the transport claims only what it gets.
    The time is the server's, unless the clock is not the system's; then the time is the clock's.

    It may be used in both processes after a fork. Events that were handed out before stay with the parent.

    Args:
        options: The address of the server, and other options.

        name: The name of the transport in the application.

        clock: The source of the time.
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
        """The name of the transport in the application, which all its errors use."""
        return self._server.name

    @name.setter
    def name(self, name: str) -> None:
        self._server.name = name

    @property
    def prefix(self) -> str:
        """The prefix of all its keys."""
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
                    continue  # more is due than one script moves
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
            if queue not in wanted or at == event.NO_TICK:
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

        Held events become ready when their leases end, and count as lost; release them first to make them ready at
        once.
        """
        self._gate.close()
        self._server.pool.disconnect()

    # --- common parts -------------------------------------------------------------------------------

    @contextmanager
    def _open(self) -> Iterator[None]:
        with self._gate.passed() as is_open:
            if not is_open:
                raise TransportClosedError(self.name)
            yield

    def _run(self, operation: str, *arguments: bytes | str | float) -> Any:
        now = b"" if isinstance(self._clock, SystemClock) else b"%d" % round(self._clock.now() * 1_000_000)
        return self._server.run(operation, now, *arguments)

    def _of(self, event_id: str, operation: str) -> Iterator[Any]:
        """Run *operation* for all events with the id; yield the answer of each script."""
        after: bytes | str = "-inf"
        while after:
            after, answer = self._run(operation, event_id, after)
            yield answer

    def _pause(self, queues: Sequence[str], seconds: float) -> bool:
        """
        Wait until there may be something to receive; return whether another poll is worthwhile.

        Args:
            queues: The queues whose bells wake it.

            seconds: Seconds until the next delay or lease ends.
        """
        runs = isinstance(self._clock, SystemClock)
        before = self._clock.monotonic()
        longest = max(_GLANCE, min(seconds, _LOOK if runs else _GLANCE))
        rang = self._server.call("BLPOP", *(self._server.key("bell", queue) for queue in queues), longest)
        if runs or rang or self._clock.monotonic() > before:
            return True
        # A clock that stands still, as in tests: its time passes only in sleep(), or when the test moves it.
        self._clock.sleep(seconds)
        return self._clock.monotonic() > before

    def _each(self, operation: str, items: Sequence[T], arguments: Callable[[T], event.Arguments]) -> list[T]:
        """Run *operation* for each of *items*; return those that the script did not find."""
        missing: list[T] = []
        with self._open():
            for first in range(0, len(items), _CHUNK):
                chunk = items[first : first + _CHUNK]
                positions = self._run(operation, *(argument for item in chunk for argument in arguments(item)))
                missing += [chunk[position] for position in positions]
        return missing

    def _refused(self, envelopes: Sequence[Envelope], why: str) -> SendError:
        return SendError(self.name, refused=range(len(envelopes)), why=why)
