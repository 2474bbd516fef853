"""An optional interface of a coordinator: what operators ask of the workers, such as to pause a queue."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping


class ControlStore(ABC):
    """
    A coordinator that stores controls: what operators ask of all workers, also of those that start later.

    A transport may derive from it besides :class:`relevo.Coordinator`. Workers look at the controls once a second, so
    they should be quick to read. They end neither with the transport that set them nor with its process, and survive a
    restart of the server.
    """

    @abstractmethod
    def set_control(self, key: str, what: bytes, *, ttl: float) -> None:
        """
        Store the control *key*; it replaces the earlier one.

        Args:
            key: At most 40 hexadecimal digits.

            what: At most :data:`relevo.MAX_ANNOUNCEMENT` bytes, which only the core reads.

            ttl: Seconds until it expires, up to a hundred years; not more than 0 removes it.

        Raises:
            TransportUnavailableError: The server could not be reached.

        Promises:
            control-is-seen
        """

    @abstractmethod
    def controls(self) -> Mapping[str, bytes]:
        """
        Return the controls that have not expired, by key.

        Raises:
            TransportUnavailableError: The server could not be reached.

        Promises:
            control-is-seen
        """
