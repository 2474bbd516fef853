"""The coordinator: what the processes of an application share across hosts. The second, optional port."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Coordinator(ABC):
    """
    Keeps what processes have to know of one another, wherever they run.

    A transport may be one too, by deriving from both; a runner that is to be the only one asks whether it is. It has
    one idea of the time for all who ask it, and every call is done at once or not at all, whoever calls beside it.
    """

    @abstractmethod
    def lock(self, name: str, *, holder: str, ttl: float) -> str | None:
        """
        Take the lock *name*, which is made by the first who asks for it; never wait for another holder.

        Args:
            name: Up to 255 characters.

            holder: Who asks, in up to 255 characters. Whoever bears the same name knows that no other of it lives,
                and takes over at once what that one held.

            ttl: Seconds until it is free by itself, unless it is renewed.

        Returns:
            A receipt, other than every one before; ``None`` if somebody else has it.

        Raises:
            TransportUnavailableError: The server could not be reached.
        """

    @abstractmethod
    def renew_lock(self, name: str, receipt: str, *, ttl: float) -> bool:
        """
        Keep the lock *name* for another *ttl* seconds from now.

        Returns:
            Whether *receipt* still holds it; if not, nothing was changed. One whose time is over holds it as long as
            nobody else has taken it.

        Raises:
            TransportUnavailableError: The server could not be reached.
        """

    @abstractmethod
    def unlock(self, name: str, receipt: str) -> None:
        """
        Give up the lock *name*, if *receipt* still holds it.

        Raises:
            TransportUnavailableError: The server could not be reached; it is free when its time is over.
        """
