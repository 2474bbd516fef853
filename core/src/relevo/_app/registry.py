"""The listeners of an application; modules that are given by name are imported at first use."""

from __future__ import annotations

from collections.abc import Iterable

from relevo._fork import ForkLock
from relevo._listener.listener import ListenerTable

_FORKING = 5.0
"""The longest time in seconds that a fork waits for a thread that imports listeners."""


class Registry:
    """
    The listeners of an application.

    Args:
        listeners: Marked functions, subscribers, modules, or the names of modules.
    """

    def __init__(self, listeners: Iterable[object] = ()):
        self.known = ListenerTable()
        """The listeners of the modules that have been imported so far."""
        self._unloaded = list(listeners)
        self._loading = ForkLock(patience=_FORKING)
        self._is_loading = False

    @property
    def table(self) -> ListenerTable:
        """All listeners; modules that were given by name are imported now."""
        if self._unloaded:
            from relevo._listener.importing import marked_in  # noqa: PLC0415 - a dispatch alone does not need it

            with self._loading:
                if self._is_loading:  # a module that is imported right now asks; it has those before it
                    return self.known
                self._is_loading = True
                try:
                    while self._unloaded:
                        self.known.extend(marked_in(self._unloaded[0]))
                        del self._unloaded[0]
                finally:
                    self._is_loading = False
        return self.known

    def add(self, things: Iterable[object]) -> None:
        """Register *things*, at first use."""
        with self._loading:
            self._unloaded.extend(things)

    def remove(self, things: Iterable[object]) -> None:
        """Remove the listeners of *things*; ignore those that are not registered."""
        from relevo._listener.importing import marked_in  # noqa: PLC0415 - a dispatch alone does not need it

        self.table.withdraw([found for thing in things for found in marked_in(thing)])

    def copy(self) -> Registry:
        """Return another registry with the same listeners in the same order, all imported."""
        made = Registry()
        made.known = self.table.copy()
        return made
