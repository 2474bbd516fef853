"""Controls: what operators ask of workers on all hosts, to pause a queue or to stop."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from logging import getLogger
from time import gmtime, strftime, time
from types import MappingProxyType
from typing import Self

import msgspec

from relevo._clock import Clock, readable
from relevo._transport.control_store import ControlStore
from relevo._transport.delivery import Delivery, Outcome, Release
from relevo._transport.keeper import DeadLetterOwner
from relevo._transport.transport import Transport
from relevo._visible import visible
from relevo._worker.executor import Flow, Steps
from relevo._worker.ledger import Reminder
from relevo.errors import RelevoError, TransportUnavailableError

_log = getLogger("relevo.worker")

LOOK_EVERY = 1.0
"""Seconds between two looks at the controls."""

FOR_EVER = 100 * 365 * 86_400.0
"""Seconds for which a queue is paused, unless it is resumed."""

STOP_FOR = 86_400.0
"""Seconds for which a request to stop is kept, for workers that do not reach the coordinator."""

MAX_REASON = 500
"""The longest reason of a pause in characters."""

_VERSION = 1
_AT_MOST = 5.0
"""Seconds of a look, where the driver can be held to that."""

_FIRST = 6.0
"""Seconds for which a worker waits for its first look, before it takes events; longer than a look takes."""

_BEGAN = time()
"""When this process began, or soon afterwards: a command imports this before the application."""

_GRACE = 2.0
"""Seconds for which the end of a worker waits for a look."""

_LATEST = 253402300799.0
"""The end of the year 9999: a time that was written by hand may be too large for a date."""

_NO_PAUSE: Mapping[str, Pause] = MappingProxyType({})


class Pause(msgspec.Struct, frozen=True, kw_only=True, tag_field="is", tag="pause"):
    """A queue is paused; a later release may add fields."""

    v: int = _VERSION
    transport: str
    """What :func:`name_there` returns for the transport of the queue."""

    queue: str
    since: float
    """In seconds since the epoch."""

    by: str = ""
    """The user and the host, as ``user@host``."""

    reason: str = ""

    @property
    def key(self) -> str:
        """The key of the control."""
        return _key("pause", self.transport, self.queue)

    @property
    def in_words(self) -> str:
        """The time, the operator and the reason, in words."""
        since = strftime("%Y-%m-%d %H:%M:%SZ", gmtime(min(max(self.since, 0.0), _LATEST)))
        return f"since {since}{f' by {self.by}' if self.by else ''}{f': {self.reason}' if self.reason else ''}"


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag_field="is", tag="stop"):
    """Workers are asked to stop; a later release may add fields."""

    v: int = _VERSION
    transport: str
    """As that of a pause."""

    worker: str
    """The host and the process id, as ``host:pid``; empty for all workers."""

    request: str
    """A random text, another one for each request."""

    since: float
    by: str = ""

    @property
    def key(self) -> str:
        """The key of the control."""
        return _key("stop", self.transport, self.worker)


Control = Pause | Stop
"""What a control asks of workers."""


def _key(*parts: str) -> str:
    return sha256(msgspec.json.encode(parts)).hexdigest()[:40]


def name_there(transport: Transport, coordinator: object) -> str:
    """
    Return the name by which *coordinator* knows *transport*; empty if they are the same.

    Applications that share a coordinator may have given the same name to different transports.
    """
    if coordinator is transport:
        return ""
    return f"{transport.kept_under}/{transport.name}" if isinstance(transport, DeadLetterOwner) else transport.name


def packed(control: Control) -> bytes:
    """Return *control* as bytes."""
    return _encode(control)


def controls_in(found: Iterable[bytes]) -> Iterator[Control]:
    """Yield the controls; what cannot be read, as that of a later release, is ignored."""
    for what in found:
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            yield _decode(what)


def pauses_in(found: Iterable[bytes], transport: str) -> dict[str, Pause]:
    """Return the pauses of the queues of *transport*, by queue; it is empty for the coordinator itself."""
    return {each.queue: each for each in controls_in(found) if isinstance(each, Pause) and each.transport == transport}


def this_worker() -> str:
    """Return the host and the process id by which operators know the workers of this process."""
    return f"{os.uname().nodename}:{os.getpid()}"


class ControlWatch:
    """
    Looks at the controls once a second, in a thread while its block runs.

    If the coordinator cannot be reached, what was known last is kept.

    Args:
        store: Has the controls; ``None`` if there are none, and nothing is looked at.

        clock: The source of time.

        transport: The name of the transport of the worker; empty if that is the coordinator itself.

        queues: Those of the worker.

        stop: Called when the worker is asked to stop; ``None`` if it is not meant by such requests.

        began: When the process began, in seconds since the epoch.

        background: Look from a thread; otherwise only :meth:`begin` and :meth:`look_if_due` look.
    """

    def __init__(
        self,
        store: ControlStore | None,
        clock: Clock,
        *,
        transport: str,
        queues: Collection[str],
        stop: Callable[[], object] | None,
        background: bool = True,
        began: float = _BEGAN,
    ):
        self._store = store
        self._clock = clock
        self._transport = transport
        self._queues = queues
        self._stop = stop
        self._background = background
        self._began = began
        self.paused = _NO_PAUSE
        """The paused queues of the worker; another object after each change."""
        self._requests: frozenset[str] | None = None
        """The requests to stop that were seen; ``None`` before the first look."""
        self._looked = float("-inf")
        self._has_begun = False
        self._missed: float | None = None
        """When the coordinator could not be reached first, in monotonic seconds."""
        self._is_warned = False
        self._reminder = Reminder(clock)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._has_begun:
            self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_GRACE)  # it may wait for a silent server
            self._thread = None

    def begin(self) -> None:
        """
        Begin to look, and wait for the first look; further blocks do that at once.

        It is called when the coordinator is set up as far as possible. It does not wait for long: events can be handled
        without a coordinator.
        """
        self._has_begun = True
        if self._store is not None and self._background:
            self._ended, has_looked = threading.Event(), threading.Event()
            arguments = (self._store, self._ended, has_looked)
            self._thread = threading.Thread(target=self._keep, args=arguments, name="relevo-control", daemon=True)
            self._thread.start()
            has_looked.wait(_FIRST)
        else:
            self.look_if_due()

    def look_if_due(self) -> None:
        """Look, without a thread, if it is time for that."""
        if self._background or self._store is None:
            return
        now = self._clock.monotonic()
        if now - self._looked >= LOOK_EVERY:
            self._looked = now
            self._look(self._store)

    def _keep(self, store: ControlStore, ended: threading.Event, has_looked: threading.Event) -> None:
        while True:
            try:
                if isinstance(store, Transport):
                    store.hurry(_AT_MOST)
                self._look(store)
            except Exception as error:  # noqa: BLE001 - the worker goes on, with what it knows
                _log.debug("the look at the controls met %s: %s", type(error).__name__, error)
            has_looked.set()
            if ended.wait(LOOK_EVERY):
                return

    def _look(self, store: ControlStore) -> None:
        try:
            found = store.controls()
        except TransportUnavailableError as error:
            self._note_outage(store, error)
            return
        except RelevoError as error:  # a database of an earlier release may lack the table, or a role the right to it
            if not self._is_warned:
                self._is_warned = True
                _log.warning("pauses and requests to stop cannot be read, so this worker ignores them: %s", error)
            return
        self._note_return()
        controls = [each for each in controls_in(found.values()) if each.transport == self._transport]
        paused = {each.queue: each for each in controls if isinstance(each, Pause) and each.queue in self._queues}
        if paused != self.paused:
            self.paused = MappingProxyType(paused) if paused else _NO_PAUSE
        self._heed([each for each in controls if isinstance(each, Stop)])

    def _heed(self, stops: Sequence[Stop]) -> None:
        """
        Stop the worker if one of *stops* is for it, and was made since its process began.

        At its first look that is a matter of clocks, which may differ from host to host.
        """
        mine = [each for each in stops if each.worker in ("", this_worker())]
        known, self._requests = self._requests, frozenset(each.request for each in mine)
        new = [each for each in mine if (each.since > self._began if known is None else each.request not in known)]
        if new and self._stop is not None:
            _log.warning("asked to stop by %s (relevo stop)", visible(new[0].by) or "an operator")
            self._stop()

    def _note_outage(self, store: ControlStore, error: TransportUnavailableError) -> None:
        if not self._transport:
            _log.debug("whether a queue is paused is not known: %s", error)
            return  # the worker itself logs the outage of its transport
        self._missed = self._clock.monotonic() if self._missed is None else self._missed
        if self._reminder.take_turn():
            _log.warning("%s; the pauses that were read last stay in force", error)

    def _note_return(self) -> None:
        if self._missed is not None:
            away, self._missed = self._clock.monotonic() - self._missed, None
            _log.warning("pauses and requests to stop can be read again, after an outage of %s", readable(away))


def unless_paused(steps: Steps, paused: Callable[[], Collection[str]]) -> Steps:
    """
    Return steps that give back a delivery whose queue was paused after it was submitted.

    It may have waited for a thread meanwhile.
    """

    def checked(delivery: Delivery, /, *, on_loop: bool) -> Flow | Outcome:
        return Release() if delivery.queue in paused() else steps(delivery, on_loop=on_loop)

    return checked


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Control).decode
