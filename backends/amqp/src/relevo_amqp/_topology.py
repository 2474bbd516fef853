"""
The topology as data: what is declared on a server, and where an event goes.

For each queue of relevo there are three on the server, all quorum queues: the *main* one; the one of
the *suspects*, in which lie events whose holder died (law 3: they are handled alone); and the one of
the *dead* letters.

A delay is a walk down a ladder that all queues of one prefix share. Rung *k* is a queue in which an
event stays for ``2**k`` steps; the routing key says in binary in which rungs it stays, and ends with
where it goes then::

    ladder.in ── 0.1.0.1.mail ──> exchange 3 ──0──> exchange 2 ──1──> [queue 2, 0.4 s] ──> exchange 1
      ──0──> exchange 0 ──1──> [queue 0, 0.1 s] ──> ladder.out ── *.*.*.*.mail ──> the main queue

So any delay needs a fixed number of queues. From rung to rung the server moves events at least once.
Time-outs stand at queues, never at messages (one would hold up those behind it), and no queue expires
(it would take its events along). An event whose queue was deleted meanwhile ends in the *stray* queue.

Two things hold no events. One *stream* for the prefix keeps the notes of which process began which suspect, and
each worker that met a suspect has a small queue whose consumer shows that it is *here*.

The arguments of a queue cannot be changed later; each is written down here with its reason.
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

Argument = str | int

MAX_WORD = 100
_PLAIN = re.compile(rb"[A-Za-z0-9_-]")
_CUT = re.compile(r"%[0-9A-F]?$")


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
    """An argument of a declaration, and why it is there."""

    value: Argument
    why: str


_QUORUM = {
    "x-queue-type": Reasoned("quorum", "replicated, written through to disk, and the only type that counts deliveries"),
}
_NEVER_DROP = {
    "x-delivery-limit": Reasoned(
        10**15,
        "20, the default since 4.0, drops an event after 21 hand-overs, prefetched bystanders too, and a dead letter "
        "that was listed as often; a thousand a second reach this limit in 30,000 years. Not -1: before 4.2 the log of "
        "such a queue grows without end, see docs/explanation/decisions/0014-a-delivery-limit-out-of-reach.md",
    ),
}
_REFUSE_WHEN_FULL = {
    "x-overflow": Reasoned(
        "reject-publish",
        "without it a policy with max-length drops the oldest dead letters; what is refused stays where it is",
    ),
}
_PATIENT = {
    "x-consumer-timeout": Reasoned(
        7 * 24 * 3600 * 1000,
        "milliseconds; the server's 30 minutes would take a long listener's event away while it runs (law 8); "
        "what lies in the prefetch waits for those before it, too",
    ),
}
_AT_LEAST_ONCE = {
    "x-dead-letter-strategy": Reasoned(
        "at-least-once", "the default drops what cannot be routed or is not confirmed at that moment; see Topology.net"
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
            "x-max-length-bytes": Reasoned(20_000_000, "about 100,000 notes; a dropped note never counts as a death"),
            "x-max-age": Reasoned("7D", "a suspect that waited longer is begun as one without a note"),
            "x-stream-max-segment-size-bytes": Reasoned(
                2_000_000, "both limits drop whole segments; with the default of 500 MB they would drop nothing"
            ),
        },
        Role.HERE: {
            "x-queue-type": Reasoned("classic", "it holds no messages; only its consumer is counted"),
            "x-expires": Reasoned(600_000, "milliseconds after which the queue of a dead worker is deleted"),
        },
    }
)
"""What each role's queues are declared with; names of exchanges are added where they are known."""


@attrs.frozen
class Exchange:
    """An exchange as it is declared; all are durable."""

    name: str
    kind: str
    alternate: str | None = None
    """Takes what this one cannot route."""

    @property
    def arguments(self) -> dict[str, Argument]:
        """What the server is told."""
        return {"alternate-exchange": self.alternate} if self.alternate else {}


@attrs.frozen
class Queue:
    """A queue as it is declared; all are durable."""

    name: str
    role: Role
    extra: tuple[tuple[str, Argument], ...] = ()

    @property
    def arguments(self) -> dict[str, Argument]:
        """What the server is told."""
        return {key: argument.value for key, argument in ARGUMENTS[self.role].items()} | dict(self.extra)


@attrs.frozen
class Binding:
    """Events of *source* with a key like *pattern* go to *target*."""

    source: str
    pattern: str
    target: str
    to_exchange: bool = False


class Destination(NamedTuple):
    """Where an event is published."""

    exchange: str
    key: str
    passes: bool = False
    """The delay is longer than the ladder: whoever receives the event sends it on."""


def word(queue: str) -> str:
    """
    Return *queue* as a part of names and as one word of a routing key.

    Letters, digits, ``-`` and ``_`` stand for themselves, any other byte of UTF-8 is ``%XX``: dots would divide
    words, and stars and hashes match them. What is longer than :data:`MAX_WORD` is cut, and made unique by a hash.
    """
    data = queue.encode("utf-8")
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
        prefix: With what all names begin.

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
        """With what the names of the ladder begin; another step or height is another ladder."""
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
        """Keeps what came out of the ladder when its queue was gone."""
        return Queue(f"{self.prefix}.{Role.STRAY}", Role.STRAY)

    def mark(self, queue: str | None) -> Exchange:
        """
        Return the mark of the queues of *queue*, or of the shared ones if ``None``: they survive a crash of the server.

        It takes no events. It is declared when the queues are old enough (see :mod:`relevo_amqp._declaration`). An
        exchange is the cheapest durable thing that other processes can look up.
        """
        return Exchange(f"{self.ladder}.settled" if queue is None else f"{self.prefix}.settled.{word(queue)}", "fanout")

    # --- declarations -----------------------------------------------------------------------------

    def exchanges(self) -> Iterator[Exchange]:
        """Yield what all queues of the prefix share, each after what it refers to."""
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
            # The server counts whole milliseconds and cuts off the rest: one more, so as to be never early.
            stay = (self.step << level) + 1
            yield Queue(
                self.rung(level),
                Role.RUNG,
                (("x-message-ttl", stay), ("x-dead-letter-exchange", self.rung(level - 1))),
            )

    def own_queues(self, queue: str) -> Iterator[Queue]:
        """Yield the queues of relevo's *queue*; the safety net first."""
        net = self.net(queue)
        yield Queue(self.queue(queue, Role.DEAD), Role.DEAD)
        yield Queue(self.queue(queue, Role.SUSPECT), Role.SUSPECT, net)
        yield Queue(self.queue(queue, Role.MAIN), Role.MAIN, net)

    def net(self, queue: str) -> tuple[tuple[str, Argument], ...]:
        """
        Return with what the server's own ways of giving an event up end among the dead letters.

        relevo uses none of them: it publishes dead letters itself, sets no time-out and no limit here, and never
        rejects. Others do: whoever looks at a queue by hand and rejects, who sends with an ``expiration``, and an
        operator's policy; one with a ``delivery-limit`` goes before that of the queue (seen on 4.0.5). Without this
        the server drops the event, a third end (law 1).
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
        """Yield the bindings of relevo's *queue*; with the last ones events begin to come in."""
        for role in (Role.DEAD, Role.SUSPECT, Role.MAIN):
            yield Binding(self.exchange(role), word(queue), self.queue(queue, role))
        delayed = "*." * self.levels + word(queue)
        yield Binding(self.rung(-1), delayed, self.queue(queue, Role.MAIN))
        yield Binding(self.entrance, delayed, self.rung(self.levels - 1), to_exchange=True)

    # --- routes -----------------------------------------------------------------------------------

    def route(self, queue: str, delay: float = 0.0) -> Destination:
        """
        Return where an event for *queue* goes to be there after *delay* seconds.

        The delay is rounded up to the step, and begins when the server takes the event, so it is never early for
        whoever asked; its confirmation comes a while later. One longer than the ladder takes all of it, and ``passes``.
        """
        if delay <= 0.0:
            return Destination(self.exchange(Role.MAIN), word(queue))
        most = (1 << self.levels) - 1
        steps = most + 1 if delay > most * self.step / 1000 else -(-math.ceil(delay * 1000) // self.step)
        bits = f"{min(steps, most):0{self.levels}b}"
        return Destination(self.entrance, ".".join([*bits, word(queue)]), steps > most)

    def aside(self, role: Role, queue: str) -> Destination:
        """Return where an event of *queue* goes to lie among the suspects or the dead."""
        return Destination(self.exchange(role), word(queue))
