"""An optional interface of a coordinator: up to when each schedule has fired."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

import attrs

from relevo._transport.envelope import Envelope


@attrs.frozen(kw_only=True)
class Firing:
    """A schedule that fires, with the events of its ticks."""

    name: str
    """Up to 255 characters."""

    fired: int | None
    """Up to when it has fired before, in seconds since the epoch; ``None`` if it was never stored."""

    until: int
    """Up to when it has fired afterwards."""

    envelopes: tuple[Envelope, ...] = ()


class ScheduleStore(ABC):
    """
    A coordinator that stores up to when each schedule has fired, in the same transaction as the events of the ticks.

    So a tick is fired once, however many workers try, and none is lost or repeated if one of them dies.
    """

    @abstractmethod
    def fired(self, names: Sequence[str]) -> Mapping[str, int]:
        """
        Return up to when each of the schedules *names* has fired, in seconds since the epoch.

        Returns:
            The times by name, without the schedules that were never stored.

        Raises:
            TransportUnavailableError: The server could not be reached.
        """

    @abstractmethod
    def fire(self, firings: Sequence[Firing], *, relay_to: str | None = None) -> Collection[str]:
        """
        Store the new time of each of *firings*, and its events, in one transaction.

        A schedule whose stored time is no longer ``fired`` was fired by another worker: nothing of it is stored.

        Args:
            firings: With different names.

            relay_to: The name of another transport: the events are stored in its outbox here, as by
                :meth:`relevo.Transport.bound_to`.

        Returns:
            The names of those that were stored.

        Raises:
            TransportUnavailableError: The server could not be reached; nothing was stored.

            SendError: An event was refused; nothing was stored.

            CommitUnknownError: It is not known whether they were stored; :meth:`fired` tells.
        """
