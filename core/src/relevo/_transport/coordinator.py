"""The coordinator interface: locks and announcements that processes share across hosts. Optional for backends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

MAX_ANNOUNCEMENT = 32 * 1024
"""The longest announcement of a worker in bytes; the caller of a coordinator cuts it."""


class Coordinator(ABC):
    """
    Stores the locks by which processes on several hosts coordinate, and what workers announce about themselves.

    A transport may also be a coordinator, by deriving from both classes; a runner that must run alone checks that.
    All callers share the coordinator's own clock, and each call is atomic. Names, holders and receipts are different if
    any character is, a space at the end too. Nothing ends when the transport that made it closes, or its process ends.
    """

    @abstractmethod
    def lock(self, name: str, *, holder: str, ttl: float) -> str | None:
        """
        Take the lock *name*, which is created at its first use; never wait for another holder.

        Args:
            name: The lock, up to 255 characters.

            holder: The caller, up to 255 characters. A caller with the same holder takes the lock over at once: it has
                to know that the earlier process is no longer alive.

            ttl: Seconds until the lock expires, unless it is renewed.

        Returns:
            A new, unique receipt; ``None`` if another holder has the lock.

        Raises:
            TransportUnavailableError: The server could not be reached.

        Promises:
            lock-has-one-holder
        """

    @abstractmethod
    def renew_lock(self, name: str, receipt: str, *, ttl: float) -> bool:
        """
        Renew the lock *name*: it expires *ttl* seconds from now.

        Returns:
            Whether *receipt* still holds the lock; if not, nothing was changed. An expired receipt holds it until
            another holder takes the lock.

        Raises:
            TransportUnavailableError: The server could not be reached.

        Promises:
            lock-is-kept-by-its-receipt
        """

    @abstractmethod
    def unlock(self, name: str, receipt: str) -> None:
        """
        Release the lock *name*, if *receipt* still holds it.

        Raises:
            TransportUnavailableError: The server could not be reached; the lock is free when it expires.

        Promises:
            lock-is-kept-by-its-receipt
        """

    @abstractmethod
    def announce(self, worker: str, about: bytes, *, ttl: float) -> None:
        """
        Store what *worker* announces about itself; it replaces the earlier announcement.

        Args:
            worker: The random part of its identity, at most 64 hexadecimal digits.

            about: At most :data:`MAX_ANNOUNCEMENT` bytes, which only the core reads.

            ttl: Seconds until it expires; not more than 0 removes it.

        Raises:
            TransportUnavailableError: The server could not be reached.

        Promises:
            announced-is-seen
        """

    @abstractmethod
    def workers(self) -> Mapping[str, bytes]:
        """
        Return the announcements that have not expired, by worker.

        Raises:
            TransportUnavailableError: The server could not be reached.

        Promises:
            announced-is-seen
        """
