"""A table whose listeners are derived from those of another one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

from relevo._listener.listener import Listener, ListenerTable


class DerivedTable(ListenerTable):
    """
    The listeners of another table, each changed by :meth:`_derived`.

    Args:
        listeners: The other table, with the listeners that are added later.
    """

    def __init__(self, listeners: ListenerTable):
        super().__init__(listeners.event_types)
        self.lifespans = listeners.lifespans
        self._listeners = listeners
        self._made: dict[Listener, Listener] = {}
        self._found: dict[tuple[Listener, ...], tuple[Listener, ...]] = {}

    @abstractmethod
    def _derived(self, listener: Listener) -> Listener:
        """Return *listener* as it is in this table; called once for each."""

    def of(self, event_name: str) -> tuple[Listener, ...]:
        return self._all(self._listeners.of(event_name))

    def in_queue(self, event_name: str, queue: str, first: str) -> tuple[Listener, ...]:
        return self._all(self._listeners.in_queue(event_name, queue, first))

    def __iter__(self) -> Iterator[Listener]:
        return iter(self._all(tuple(self._listeners)))

    def __len__(self) -> int:
        return len(self._listeners)

    def _all(self, listeners: tuple[Listener, ...]) -> tuple[Listener, ...]:
        found = self._found.get(listeners)
        if found is None:
            found = self._found[listeners] = tuple(map(self._one, listeners))
        return found

    def _one(self, listener: Listener) -> Listener:
        found = self._made.get(listener)
        if found is None:
            found = self._made[listener] = self._derived(listener)
        return found
