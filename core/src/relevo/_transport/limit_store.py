"""An optional interface of a coordinator: what counts against the limits of queues."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable


class LimitStore(ABC):
    """
    A coordinator that stores what counts against limits, such as how many events of a queue run on all hosts.

    A transport may derive from it besides :class:`relevo.Coordinator`. Workers of a queue with a limit call it before
    they begin events, some dozens of times a second. What it stores ends neither with the transport that stored it nor
    with its process, and survives a restart of the server.
    """

    @abstractmethod
    def change_limit(self, key: str, change: Callable[[bytes, float], bytes], *, ttl: float) -> None:
        """
        Replace what is stored under *key* by what *change* returns, as one atomic operation.

        Args:
            key: At most 40 hexadecimal digits.

            change: Takes what is stored, empty if nothing is or if it has expired, and the time of the store in seconds
                since the epoch, which all callers share and which never goes back by more than its clock does. It
                returns what to store, at most :data:`relevo.MAX_ANNOUNCEMENT` bytes, or empty bytes to store nothing.
                It is called again if another caller was faster, so it must have no effect. If it raises, nothing is
                stored, and the error is raised here.

            ttl: Seconds until what is stored expires, counted from now, up to a hundred years.

        Raises:
            TransportUnavailableError: The server could not be reached; the change was made or not.

        Promises:
            limit-is-counted-once
        """
