"""Workers of one process that share events although they belong to different applications."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import getLogger
from weakref import WeakValueDictionary

import attrs

from relevo._transport.optional import IdentifiedStore
from relevo._transport.transport import Transport
from relevo.errors import RelevoError

_log = getLogger("relevo.worker")


@attrs.define(eq=False, repr=False)
class Neighbour:
    """A worker that runs in this process."""

    transport: Transport
    queues: Sequence[str]
    thread: str = attrs.field(factory=lambda: threading.current_thread().name)
    process: int = attrs.field(factory=os.getpid)
    """The id of the process; a fork has a copy of this value, but not the worker."""

    named: WeakValueDictionary[int, Transport] = attrs.field(factory=WeakValueDictionary)
    """The transports of the workers that logged this one, by ``id()``: one that defines ``==`` has no hash."""

    def warn_of_others(self) -> None:
        """Log the workers of other applications that take events from the same queues, each once."""
        for other in _running.copy():
            if id(self.transport) in other.named or not self._shares_events(other):
                continue
            other.named[id(self.transport)] = self.transport
            _log.warning(
                'a worker of another App object in this process also serves %s: %s, in the thread "%s"; it takes a '
                "share of the events and calls the listeners of that App; this happens if a cell of a notebook is "
                "run again; call stop() of that worker or close() of that App, or restart the kernel",
                other.transport.name,
                ", ".join(other.queues),
                other.thread,
            )

    def _shares_events(self, other: Neighbour) -> bool:
        """Return whether *other*, of another application of the same name, takes events from the same queues."""
        mine, theirs = self.transport, other.transport
        if other.process != self.process or mine is theirs or type(mine) is not type(theirs):
            return False
        if mine.source != theirs.source or {*self.queues}.isdisjoint(other.queues):
            return False
        if not isinstance(mine, IdentifiedStore) or not isinstance(theirs, IdentifiedStore):
            return False
        try:
            return mine.store_id() == theirs.store_id()
        except RelevoError:  # one of them is closed, or its server is down
            return False


_running: dict[Neighbour, None] = {}
"""The workers that run now. Other threads change it at any time, so it is copied, in one step, to be iterated."""


@contextmanager
def running(transport: Transport, queues: Sequence[str]) -> Iterator[Neighbour]:
    """Note that a worker for *queues* of *transport* runs in this thread while the block runs."""
    entry = Neighbour(transport, queues)
    _running[entry] = None
    try:
        yield entry
    finally:
        _running.pop(entry, None)
