"""
The topology as data: the declarations on a server, and the destination of an event.

Each queue of relevo has three quorum queues on the server: the *main* one; one of *suspects*, the events whose lease
was lost (law 3: they are handled alone); and one of *dead* letters.

A delayed event walks down a ladder that all queues of one prefix share. Rung *k* is a queue in which an event stays for
``2**k`` steps. The routing key names in binary the rungs in which it stays, and ends with its destination::

    ladder.in ── 0.1.0.1.mail ──> exchange 3 ──0──> exchange 2 ──1──> [queue 2, 0.4 s] ──> exchange 1
      ──0──> exchange 0 ──1──> [queue 0, 0.1 s] ──> ladder.out ── *.*.*.*.mail ──> the main queue

So any delay takes a fixed number of queues. From rung to rung the server moves events at least once. Only queues have a
time to live, never messages (one would hold up those behind it), and no queue expires (its events would be lost). An
event whose queue was deleted meanwhile ends in the *stray* queue.

Two kinds of queue hold no events. One *stream* for the prefix keeps the notes of which process began which suspect, and
each worker that met a suspect has a small queue whose consumer shows that the worker is *here*.

The arguments of a queue cannot be changed later; each stands here with its reason.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping
from enum import StrEnum
from hashlib import sha256
from types import MappingProxyType
from typing import NamedTuple

import attrs

from relevo.errors import ConfigurationError, shown

Argument = str | int

MAX_WORD = 100
_PLAIN = re.compile(rb"[A-Za-z0-9_-]")
_CUT = re.compile(r"%[0-9A-F]?$")
_WORD = re.compile(rf"[A-Za-z0-9_%~-]{{1,{MAX_WORD}}}")


class Role(StrEnum):
    """What a queue on the server is for."""

    MAIN = "q"
    SUSPECT = "suspect"
    DEAD = "dead"
    STRAY = "stray"
    RUNG = "delay"
    BEGUN = "begun"
    HERE = "here"


class Reasoned(NamedTuple):
    """An argument of a declaration, with its reason."""

    value: Argument
    why: str


_QUORUM = {
    "x-queue-type": Reasoned("quorum", "replicated, written through to disk, and the only type that counts deliveries"),
}
_NEVER_DROP = {
    "x-delivery-limit": Reasoned(
        10**15,
        "20, the default since 4.0, drops an event after 21 hand-overs, even if it was only prefetched, and a dead "
        "letter that was listed as often; a thousand a second reach this limit in 30,000 years. Not -1: before 4.2 the "
        "log of such a queue grows without end, see docs/explanation/decisions/0014-a-delivery-limit-out-of-reach.md",
    ),
}
_REFUSE_WHEN_FULL = {
    "x-overflow": Reasoned(
        "reject-publish",
        "without it a policy with max-length drops the oldest dead letters; a refused one stays where it is",
    ),
}
_PATIENT = {
    "x-consumer-timeout": Reasoned(
        7 * 24 * 3600 * 1000,
        "milliseconds; after the server's 30 minutes a long listener would lose its event while it runs (law 8); "
        "events in the prefetch wait for those before them, too",
    ),
}
_AT_LEAST_ONCE = {
    "x-dead-letter-strategy": Reasoned(
        "at-least-once", "the default drops events that cannot be routed or confirmed at that moment; see Topology.net"
    ),
    "x-overflow": Reasoned("reject-publish", "at-least-once is silently off without it"),
}

ARGUMENTS: Mapping[Role, Mapping[str, Reasoned]] = MappingProxyType(
    {
        Role.MAIN: _QUORUM | _NEVER_DROP | _PATIENT | _AT_LEAST_ONCE,
        Role.SUSPECT: _QUORUM | _NEVER_DROP | _PATIENT | _AT_LEAST_ONCE,
        Role.DEAD: _QUORUM | _NEVER_DROP | _REFUSE_WHEN_FULL,
        Role.STRAY: _QUORUM | _NEVER_DROP | _REFUSE_WHEN_FULL,
        Role.RUNG: _QUORUM | _AT_LEAST_ONCE,
        Role.BEGUN: {
            "x-queue-type": Reasoned("stream", "several workers read the notes, and reading does not remove them"),
            "x-max-length-bytes": Reasoned(20_000_000, "about 100,000 notes; a dropped note does not count as a death"),
            "x-max-age": Reasoned("7D", "a suspect that waited longer is begun as one without a note"),
            "x-stream-max-segment-size-bytes": Reasoned(
                2_000_000, "both limits drop whole segments; with the default of 500 MB they would drop nothing"
            ),
        },
        Role.HERE: {
            "x-queue-type": Reasoned("classic", "it holds no messages; only its consumer is counted"),
            "x-expires": Reasoned(600_000, "milliseconds until the queue of a dead worker is deleted"),
        },
    }
)
"""The arguments of the queues of each role; the names of exchanges are added where they are known."""


@attrs.frozen
class Exchange:
    """The declaration of an exchange; all are durable."""

    name: str
    kind: str
    alternate: str | None = None
    """The exchange for messages that this one cannot route."""

    @property
    def arguments(self) -> dict[str, Argument]:
        """The arguments of the declaration."""
        return {"alternate-exchange": self.alternate} if self.alternate else {}


@attrs.frozen
class Queue:
    """The declaration of a queue; all are durable."""

    name: str
    role: Role
    extra: tuple[tuple[str, Argument], ...] = ()

    @property
    def arguments(self) -> dict[str, Argument]:
        """The arguments of the declaration."""
        return {key: argument.value for key, argument in ARGUMENTS[self.role].items()} | dict(self.extra)


@attrs.frozen
class Binding:
    """The declaration that events of *source* with a key like *pattern* go to *target*."""

    source: str
    pattern: str
    target: str
    to_exchange: bool = False


class Destination(NamedTuple):
    """The exchange and the routing key with which an event is published."""

    exchange: str
    key: str
    passes: bool = False
    """Whether the delay is longer than the ladder: the receiver then delays the event again."""


def is_word(text: str) -> bool:
    """Return whether *text* may be a result of :func:`word`."""
    return _WORD.fullmatch(text) is not None


def word(queue: str) -> str:
    """
    Return *queue* as a part of names and as one word of a routing key.

    Letters, digits, ``-`` and ``_`` stay; any other byte of UTF-8 becomes ``%XX``, since dots separate words, and stars
    and hashes match them. A word longer than :data:`MAX_WORD` is cut and ends with a hash that makes it unique.

    Raises:
        ConfigurationError: *queue* cannot be written as UTF-8.
    """
    try:
        data = queue.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{shown(queue)} cannot be the name of a queue: {error}; rename the queue") from error
    plain = "".join(chr(byte) if _PLAIN.match(bytes([byte])) else f"%{byte:02X}" for byte in data)
    if len(plain) <= MAX_WORD:
        return plain
    digest = sha256(data).hexdigest()[:32]
    return f"{_CUT.sub('', plain[: MAX_WORD - 33])}~{digest}"


def removal(name: str, vhost: str) -> str:
    """Return the command that deletes the server's queue *name*, even if the queue no longer answers."""
    return f"rabbitmqctl delete_queue --vhost {shlex.quote(vhost)} {shlex.quote(name)}"


@attrs.frozen
class Topology:
    """
    The names and declarations of one prefix.

    Args:
        prefix: The beginning of all names.

        resolution: Seconds; the step of delays.

        levels: The number of rungs of the ladder.
    """

    prefix: str
    resolution: float = 0.1
    levels: int = 20

    # --- names ------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """The step of delays in milliseconds."""
        return math.ceil(round(self.resolution * 1000, 6))

    @property
    def ladder(self) -> str:
        """The beginning of the ladder's names; another step or number of levels is another ladder."""
        return f"{self.prefix}.{Role.RUNG}.{self.step}ms.{self.levels}"

    def rung(self, level: int) -> str:
        """Return the name of the exchange before rung *level*, and of its queue."""
        return f"{self.ladder}.{level:02}" if level >= 0 else f"{self.ladder}.out"

    @property
    def entrance(self) -> str:
        """The exchange that starts a delay; it routes nothing for queues that were never declared."""
        return f"{self.ladder}.in"

    def exchange(self, role: Role) -> str:
        """Return the name of the exchange that leads to the queues of *role*."""
        return f"{self.prefix}.{role}"

    def queue(self, queue: str, role: Role) -> str:
        """Return the server's name for relevo's *queue* in *role*."""
        return f"{self.prefix}.{role}.{word(queue)}"

    def here(self, worker: str) -> Queue:
        """Return the queue whose consumer shows that *worker* is alive."""
        return Queue(f"{self.prefix}.{Role.HERE}.{word(worker)}", Role.HERE)

    @property
    def begun(self) -> Queue:
        """The stream of the notes."""
        return Queue(f"{self.prefix}.{Role.BEGUN}", Role.BEGUN)

    @property
    def stray(self) -> Queue:
        """The queue of events that left the ladder after their queue was deleted."""
        return Queue(f"{self.prefix}.{Role.STRAY}", Role.STRAY)

    def mark(self, queue: str | None) -> Exchange:
        """
        Return the mark that the queues of *queue*, or the shared ones if ``None``, survive a crash of the server.

        It routes no events. It is declared when the queues are old enough (see :mod:`relevo_amqp._declaration`). An
        exchange is the cheapest durable object that other processes can look up.
        """
        return Exchange(f"{self.ladder}.settled" if queue is None else f"{self.prefix}.settled.{word(queue)}", "fanout")

    # --- declarations -----------------------------------------------------------------------------

    def exchanges(self) -> Iterator[Exchange]:
        """Yield the exchanges that all queues of the prefix share, each after those that it refers to."""
        for role in (Role.MAIN, Role.SUSPECT, Role.DEAD):
            yield Exchange(self.exchange(role), "direct")
        yield Exchange(self.stray.name, "fanout")
        yield Exchange(self.begun.name, "fanout")
        yield Exchange(self.rung(-1), "topic", self.stray.name)
        for level in range(self.levels):
            yield Exchange(self.rung(level), "topic")
        yield Exchange(self.entrance, "topic")

    def shared_queues(self) -> Iterator[Queue]:
        """Yield the queues that all queues of the prefix share."""
        yield self.stray
        yield self.begun
        for level in range(self.levels):
            # The server counts whole milliseconds and cuts off the rest; one more, so that no event is early.
            stay = (self.step << level) + 1
            yield Queue(
                self.rung(level),
                Role.RUNG,
                (("x-message-ttl", stay), ("x-dead-letter-exchange", self.rung(level - 1))),
            )

    def own_queues(self, queue: str) -> Iterator[Queue]:
        """Yield the server's queues for relevo's *queue*, dead letters first: the others refer to them."""
        net = self.net(queue)
        yield Queue(self.queue(queue, Role.DEAD), Role.DEAD)
        yield Queue(self.queue(queue, Role.SUSPECT), Role.SUSPECT, net)
        yield Queue(self.queue(queue, Role.MAIN), Role.MAIN, net)

    def net(self, queue: str) -> tuple[tuple[str, Argument], ...]:
        """
        Return the arguments by which an event that the server gives up becomes a dead letter.

        relevo does not rely on them: it publishes dead letters itself, sets no time to live and no limit here, and
        never rejects. But a person who inspects a queue may reject, a sender may set an ``expiration``, and a policy
        may set both; its ``delivery-limit`` takes precedence over that of the queue (seen on 4.0.5). Without these
        arguments the server drops the event, a third end (law 1).
        """
        return (("x-dead-letter-exchange", self.exchange(Role.DEAD)), ("x-dead-letter-routing-key", word(queue)))

    def shared_bindings(self) -> Iterator[Binding]:
        """Yield the ladder's bindings: at each rung, 1 leads into the queue and 0 past it."""
        yield Binding(self.stray.name, "", self.stray.name)
        yield Binding(self.begun.name, "", self.begun.name)
        for level in range(self.levels):
            before, behind = "*." * (self.levels - 1 - level), ".*" * (level + 1)
            yield Binding(self.rung(level), f"{before}1{behind}", self.rung(level))
            yield Binding(self.rung(level), f"{before}0{behind}", self.rung(level - 1), to_exchange=True)

    def own_bindings(self, queue: str) -> Iterator[Binding]:
        """Yield the bindings of relevo's *queue*; events arrive once the last ones exist."""
        for role in (Role.DEAD, Role.SUSPECT, Role.MAIN):
            yield Binding(self.exchange(role), word(queue), self.queue(queue, role))
        delayed = "*." * self.levels + word(queue)
        yield Binding(self.rung(-1), delayed, self.queue(queue, Role.MAIN))
        yield Binding(self.entrance, delayed, self.rung(self.levels - 1), to_exchange=True)

    # --- routes -----------------------------------------------------------------------------------

    def route(self, queue: str, delay: float = 0.0) -> Destination:
        """
        Return the destination from which an event reaches *queue* after *delay* seconds.

        The delay is rounded up to the step and begins when the server accepts the event, so the event is never early.
        A delay longer than the ladder takes all of it, and ``passes``.
        """
        if delay <= 0.0:
            return Destination(self.exchange(Role.MAIN), word(queue))
        most = (1 << self.levels) - 1
        steps = most + 1 if delay > most * self.step / 1000 else -(-math.ceil(delay * 1000) // self.step)
        bits = f"{min(steps, most):0{self.levels}b}"
        return Destination(self.entrance, ".".join([*bits, word(queue)]), steps > most)

    def aside(self, role: Role, queue: str) -> Destination:
        """Return the destination of an event that joins the suspects or the dead letters of *queue*."""
        return Destination(self.exchange(role), word(queue))
