"""Announcements: the events that each worker holds, and the running listeners, for operators."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from logging import getLogger
from typing import Annotated

import attrs
import msgspec

from relevo._clock import Clock
from relevo._process_identity import ProcessIdentity
from relevo._transport.coordinator import MAX_ANNOUNCEMENT, Coordinator
from relevo._transport.delivery import Delivery
from relevo._transport.envelope import Envelope
from relevo._worker.running import Run
from relevo.errors import RelevoError

_log = getLogger("relevo.worker")

LOOK_EVERY = 5.0
"""Seconds between two looks; what is held at two looks in a row is announced, so quick events cost nothing."""

EXPIRES_AFTER = 20.0
"""Seconds for which an announcement is shown."""

_VERSION = 1
_LONGEST_NAME = 255

_Key = tuple[str, str, str]
"""The queue, the source and the id of an event."""


class HeldEvent(msgspec.Struct, array_like=True, frozen=True):
    """An event that a worker holds."""

    queue: str
    source: str
    id: str
    listener: str = ""
    """The id of the listener that runs; empty if the event waits in the worker."""


class Announcement(msgspec.Struct, frozen=True):
    """What a worker announces; a later release may add fields."""

    v: int
    host: Annotated[str, msgspec.Meta(max_length=_LONGEST_NAME)]
    pid: int
    held: list[HeldEvent] = []
    transport: str = ""
    """The name of the transport of the events; empty if that is the coordinator itself."""

    def packed(self) -> bytes:
        """Return it as bytes; events that do not fit are left out, those without a running listener first."""
        held = sorted(self.held, key=lambda each: not each.listener)
        while True:
            found = _encode(msgspec.structs.replace(self, held=held))
            if len(found) <= MAX_ANNOUNCEMENT:
                return found
            del held[len(held) // 2 :]


@attrs.frozen(kw_only=True)
class HoldingWorker:
    """The worker that holds an event."""

    worker: str
    """The host and the process id, as ``host:pid``."""

    listener: str | None
    """The id of the listener that runs; ``None`` if the event waits in the worker."""


class Announcer:
    """
    Announces what a worker holds, while it holds something for more than some seconds.

    Args:
        coordinator: Keeps the announcements.

        clock: The source of time.

        worker: The identity of the worker.

        held: Returns the deliveries that the worker holds.

        running: Returns the listeners that run, each with its delivery.

        transport: The name of the transport of the deliveries; empty if that is the coordinator itself.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        clock: Clock,
        worker: ProcessIdentity,
        *,
        held: Callable[[], Sequence[Delivery]],
        running: Callable[[], Iterable[Run]],
        transport: str = "",
    ):
        self._coordinator = coordinator
        self._clock = clock
        self._worker = worker
        self._held = held
        self._running = running
        self._transport = transport[:_LONGEST_NAME]
        self._looked = clock.monotonic()
        self._seen: frozenset[Delivery] = frozenset()
        self._is_known = False

    def keep_up(self) -> None:
        """Announce what is held, or withdraw it, if it is time for that."""
        now = self._clock.monotonic()
        if now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        held = self._held()
        seen, self._seen = self._seen, frozenset(held)
        if not seen.isdisjoint(self._seen):
            self._announce(held)
        else:
            self.withdraw()

    def withdraw(self) -> None:
        """Remove the announcement, if there is one."""
        if self._is_known:
            self._is_known = False
            self._tell(b"", ttl=0.0)

    def _announce(self, held: Sequence[Delivery]) -> None:
        listeners = {_key(delivery): listener for delivery, listener in self._running()}
        keys = filter(None, map(_key, held))
        events = [HeldEvent(*key, listeners.get(key, "")[:_LONGEST_NAME]) for key in keys]
        about = Announcement(_VERSION, _host(), self._worker.pid, events, self._transport)
        self._is_known = True
        self._tell(about.packed(), ttl=EXPIRES_AFTER)

    def _tell(self, about: bytes, *, ttl: float) -> None:
        try:
            self._coordinator.announce(self._worker.worker, about, ttl=ttl)
        except RelevoError as error:
            _log.debug("what this worker holds could not be announced: %s", error)


def announced(announcements: Iterable[bytes]) -> Iterator[Announcement]:
    """Yield what workers announced; announcements that cannot be read are ignored."""
    for about in announcements:
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            yield _decode(about)


def on_this_host(said: Announcement) -> bool:
    """Return whether the worker that announced *said* runs on this host."""
    return said.host == _host()


def _host() -> str:
    return os.uname().nodename[:_LONGEST_NAME]


def holders(announcements: Iterable[bytes], transport: str = "") -> Mapping[_Key, HoldingWorker]:
    """
    Return who holds each event, by its queue, source and id; announcements that cannot be read are ignored.

    Args:
        announcements: All that a coordinator has.

        transport: The name of the transport of the events; empty if that is the coordinator itself.
    """
    found: dict[_Key, HoldingWorker] = {}
    for said in announced(announcements):
        for each in said.held if said.transport == transport[:_LONGEST_NAME] else ():
            holder = HoldingWorker(worker=f"{said.host}:{said.pid}", listener=each.listener or None)
            found[each.queue, each.source, each.id] = holder
    return found


def _key(delivery: Delivery) -> _Key | None:
    envelope = delivery.envelope
    return (delivery.queue, envelope.source, envelope.id) if isinstance(envelope, Envelope) else None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Announcement).decode
