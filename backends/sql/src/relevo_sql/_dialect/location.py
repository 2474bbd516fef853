"""The location of a database."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from pathlib import Path
from typing import Any


class Location(ABC):
    """The database of a transport: its name in messages, and whether another connection reaches the same one."""

    @property
    @abstractmethod
    def words(self) -> str:
        """The database in words, without secrets."""

    @property
    def path(self) -> Path | None:
        """The file, if it is one, as the configuration names it."""
        return None

    @property
    def file(self) -> str:
        """The path of the file as the database reports it, empty if there is none."""
        return ""

    @property
    def is_named(self) -> bool:
        """Whether it can be compared with other databases before it has an id."""
        return True

    @property
    @abstractmethod
    def identity(self) -> Hashable | None:
        """What identifies the database itself now; ``None`` if that is not known, or it does not exist."""

    def is_absent(self) -> bool:
        """Return whether the database does not exist yet."""
        return False

    def misfit(self) -> str:
        """Return why what is in the place of the database can never be one; empty if it can, or if nothing is there."""
        return ""

    def unfit(self) -> str:
        """Return why the database cannot be created here; empty if it can."""
        return ""

    def create(self, mode: int | None) -> None:  # noqa: B027 - most databases are not created by a connection
        """
        Create the database if it does not exist and a connection would create it.

        Args:
            mode: The permissions of its file; ``None`` for this user alone, or fewer if the umask says so.
        """

    def is_at(self, database: str) -> bool:
        """Return whether it is the file that *database*, of the address of another engine, names."""
        return False

    @abstractmethod
    def opened(self, home: Any) -> None:
        """Remember *home*, what :meth:`Dialect.prepare` returned for a new connection."""

    def was_replaced(self) -> bool:
        """Return whether another database has taken the place of the one that was opened."""
        return False

    @abstractmethod
    def holds(self, home: Any) -> bool:
        """Return whether *home*, what :meth:`Dialect.home` returned for another connection, is this database."""
