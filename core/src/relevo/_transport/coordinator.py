"""The coordinator interface: locks that processes share across hosts. A second, optional port for backends."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Coordinator(ABC):
    """
    Stores the locks by which processes on several hosts coordinate.

    A transport may also be a coordinator, by deriving from both classes; a runner that must run alone checks that.
    All callers share the coordinator's own clock, and each call is atomic.
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
        """

    @abstractmethod
    def unlock(self, name: str, receipt: str) -> None:
        """
        Release the lock *name*, if *receipt* still holds it.

        Raises:
            TransportUnavailableError: The server could not be reached; the lock is free when it expires.
        """
