"""Queues that hold events and have no route, so that no worker handles these events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import attrs

from relevo._app.parts import Parts
from relevo._transport.envelope import Envelope
from relevo._transport.keeper import DeadLetterOwner
from relevo._transport.optional import QueueCatalog
from relevo._transport.query import WaitingEntry
from relevo._transport.route import RESERVED, Target, kept_origin, outbox_queue
from relevo._transport.transport import Transport
from relevo.errors import RelevoError, RouteNotFoundError, nearest

_NEAR = 0.75
"""How like the name of another queue a misspelt one is, from 0 to 1; "old-media" is another name than "media"."""

_SAMPLE = 20
"""The events of a queue that are looked at: a drain does so each time, and there may be millions."""


@attrs.frozen
class UnroutedQueue:
    """A queue that holds events and has no route."""

    store: Transport
    queue: str
    targets: Sequence[Target]
    """Where the events in it are routed to now, as far as those that were looked at tell; empty if that is unknown."""

    has_dead: bool
    """Whether it holds dead letters."""

    is_dead: bool
    """Whether it holds dead letters alone."""

    near: Target | None
    """The queue with a route that it may have been meant to be; ``None`` if none has a similar name."""

    is_movable: bool
    """Whether an event can be moved now; one that is scheduled or leased stays until it is ready."""

    @property
    def place(self) -> str:
        """Its name on the command line."""
        return f"{self.store.name}/{self.queue}"

    def of_dead_letters(self) -> UnroutedQueue:
        """Return it as if it held only its dead letters, for a command that is about these."""
        return attrs.evolve(self, is_dead=True)

    def __str__(self) -> str:
        if (kept := kept_origin(self.queue)) is not None:
            name, _, queue = kept
            return (
                f'"{self.place}" holds dead letters of "{name}/{queue}", to which no route leads, or which no longer '
                f'leaves them here; let it, with dead_letters = "{self.store.name}", and look at them: relevo dead '
                f"list -t {name} -q {queue}"
            )
        owner = self.queue.removeprefix(RESERVED)
        if owner != self.queue:
            return (
                f'"{self.place}" holds events of an outbox that "{owner}" no longer has; give it that outbox again, '
                f"and run: relevo relay -t {owner} --until-empty"
            )
        unled = "no route leads to it" + ("" if self.near is None else f'; did you mean "{self.near}"?')
        only = self.targets[0] if len(self.targets) == 1 else None
        meant = self.near if self.near in self.targets else only
        move = f"relevo move --from {self.place} --to {meant or '…'}"
        where = ", ".join(map(str, self.targets))
        several = f"; its events are routed to {where}, and move takes all to one" if self.targets[1:] else ""
        if self.is_dead:
            dead = f"-t {self.store.name} -q {self.queue} --all"
            return (
                f'"{self.place}" holds dead letters, and {unled}; handle them again: relevo dead revive '
                f"{dead}, then {move}; or delete them: relevo dead discard {dead}{several}"
            )
        return f'"{self.place}" holds events, and {unled}; move them: {move}; or add a route{several}'


def _has_ready(waiting: Sequence[WaitingEntry]) -> bool:
    """Return whether an event of a queue is ready, or may be, as one behind the sample *waiting* of it."""
    return len(waiting) == _SAMPLE or any(entry.status == "ready" for entry in waiting)


def unrouted_queues(parts: Parts, stores: Iterable[Transport], *, own: bool) -> list[UnroutedQueue]:
    """
    Return the queues in *stores* that hold events or dead letters and have no route.

    Args:
        parts: The parts of the application.

        stores: Transports and outboxes of the application that are set up; those that cannot tell are passed over.

        own: Pass over a queue whose first event is another application's, which may share the store.

    Raises:
        TransportUnavailableError: A server could not be reached.
    """
    found: list[UnroutedQueue] = []
    seen: set[str] = set()
    for store in dict.fromkeys(stores):
        if not isinstance(store, QueueCatalog):
            continue
        queues = [queue for queue in store.held_queues() if queue not in _known(parts, store)]
        if not queues or (store_id := store.store_id()) in seen:
            continue
        seen.add(store_id)
        shared = {queue for other in _known_elsewhere(parts, store, queues, store_id) for queue in _known(parts, other)}
        for queue in queues:
            waiting, dead = store.waiting([queue], limit=_SAMPLE), store.dead_letters([queue], limit=_SAMPLE)
            envelopes = [*(entry.envelope for entry in waiting), *(entry.envelope for entry in dead)]
            if queue not in shared and not (own and _are_others(envelopes, parts.source)):
                targets = _targets(parts, queue, envelopes)
                is_movable = bool(waiting) and (queue.startswith(RESERVED) or _has_ready(waiting))
                found.append(
                    UnroutedQueue(
                        store,
                        queue,
                        targets,
                        near=_near(parts, store, queue),
                        has_dead=bool(dead),
                        is_dead=bool(dead) and not waiting,
                        is_movable=is_movable,
                    )
                )
    return found


def _known(parts: Parts, store: Transport) -> set[str]:
    """Return the queues of *store* that a route or a relay of the application leads to."""
    owners = (outbox_queue(owner) for owner, outbox in parts.outboxes.items() if outbox is store)
    routed = parts.routes.queues(store.name) if parts.transports.get(store.name) is store else ()
    kept = (
        owner.kept.queue(queue)
        for name, keeper in parts.keepers.items()
        if keeper is store and isinstance(owner := parts.transports[name], DeadLetterOwner) and owner.kept is not None
        for queue in parts.queues(name)
    )
    return {*routed, *owners, *kept}


def _known_elsewhere(parts: Parts, store: Transport, queues: Iterable[str], store_id: str) -> Iterator[Transport]:
    """Yield the other transports and outboxes with the same queues as *store*, if they know one of *queues*."""
    wanted = set(queues)
    for other in dict.fromkeys(parts.stores()):
        if other is not store and isinstance(other, QueueCatalog) and not wanted.isdisjoint(_known(parts, other)):
            with suppress(RelevoError):  # it is down, or was never set up, and so it is another one
                if other.store_id() == store_id:
                    yield other


def _near(parts: Parts, store: Transport, queue: str) -> Target | None:
    """Return the queue of *store* with a route whose name is most like that of *queue*; ``None`` if none is."""
    found = None if queue.startswith(RESERVED) else nearest(queue, parts.routes.queues(store.name), _NEAR)
    return None if found is None else Target(store.name, found)


def _targets(parts: Parts, queue: str, envelopes: Iterable[object]) -> list[Target]:
    """Return where the events *envelopes* of *queue* are routed to: to a queue of the same name, or to all targets."""
    found: dict[Target, None] = {}
    for name in dict.fromkeys(envelope.name for envelope in envelopes if isinstance(envelope, Envelope)):
        with suppress(RouteNotFoundError):
            deferred = parts.routes.routing(name).deferred
            found |= dict.fromkeys([each for each in deferred if each.queue == queue][:1] or deferred)
    return list(found)


def _are_others(envelopes: Iterable[object], source: str) -> bool:
    """Return whether *envelopes* are from other sources than *source*; an unreadable one may be from it."""
    sources = [envelope.source for envelope in envelopes if isinstance(envelope, Envelope)]
    return bool(sources) and source not in sources
