"""Optional interfaces of a transport, each for one kind of store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from relevo._transport.transport import BoundSender

if TYPE_CHECKING:
    from pathlib import Path

INHERITED: Mapping[str, object] = MappingProxyType({"is_inherited": True})
"""
Metadata of an option that has the application's setting of the same name, unless its own value is configured.

``patience: float = attrs.field(default=3600.0, metadata=INHERITED)`` is for a transport that gives back what it cannot
read yet; ``patience`` is the only such setting.
"""


class SessionSetup(ABC):
    """
    A transport that can set up in the transaction that it joins.

    It is for a store where ``setup`` would wait for that very transaction, as SQLite does once a session has written.
    """

    @abstractmethod
    def bound_with_setup(
        self, session: Any, queues: Sequence[str], *, relay_to: str | None = None
    ) -> BoundSender | None:
        """
        Return a sender that also creates what is missing in *session*'s transaction.

        It is called in place of ``setup`` and ``bound_to`` until ``setup`` was called once. If the transaction is
        rolled back, what it created is gone with it, and the next sender creates it again.

        Args:
            session: Whatever the transport can join.

            queues: Those that will be sent to.

            relay_to: As for :meth:`relevo.Transport.bound_to`.

        Returns:
            The sender; ``None`` if only ``setup`` can create anything here.

        Raises:
            SessionError: As from :meth:`relevo.Transport.bound_to`.

            ConfigurationError: What is there does not fit, for example a newer schema.
        """


class FileStore(ABC):
    """A transport that keeps its events in files on this host."""

    @property
    @abstractmethod
    def folder(self) -> Path | None:
        """Where the files are, if it is known; the locks of those who use them lie there too."""
