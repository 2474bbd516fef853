"""relevo-memory: events in the memory of one process, for tests and as the reference implementation of a transport."""

from relevo_memory._store import MemoryStore
from relevo_memory._transport import MemoryOptions, MemoryTransport
from relevo_memory._runner import ManualRunner

__all__ = [
    # the transport
    "MemoryTransport",
    "MemoryOptions",
    "MemoryStore",
    # the runner
    "ManualRunner",
]
