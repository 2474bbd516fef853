"""The listeners of an application; modules that are given by name are imported at first use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import MethodType, ModuleType

from relevo._app.imported import Imported, Removed, is_early
from relevo._fork import ForkLock
from relevo._listener.listener import Listener, ListenerTable, id_of, marks_of
from relevo.errors import ConfigurationError

_FORKING = 5.0
"""The longest time in seconds that a fork waits for a thread that imports listeners."""


_NONE = ListenerTable()


def _is_same(one: object, other: object) -> bool:
    return one is other or (isinstance(one, (str, MethodType)) and type(one) is type(other) and one == other)


class Registry:
    """
    The listeners of an application.

    Args:
        listeners: Marked functions, subscribers, modules, or the names of modules.
    """

    def __init__(self, listeners: Iterable[object] = ()):
        self.known = ListenerTable()
        """The listeners of the modules that have been imported so far."""
        self.modules: list[str] = []
        """The names of the modules that were registered as a whole, so far."""
        self._unloaded = list(listeners)
        self._loading = ForkLock(patience=_FORKING)
        self._is_loading = False
        self._changes = 0
        self._imported: Imported | None = None

    @property
    def imported(self) -> ListenerTable:
        """
        The listeners that are not registered yet, as far as they are imported; this imports nothing.

        It waits for no thread that imports them.
        """
        if not self._unloaded:
            return _NONE
        found = self._imported
        if found is None or not found.is_current(self._changes):
            changes = self._changes  # read before the things, so that a change meanwhile is noticed
            found = self._imported = Imported(tuple(self._unloaded), changes=changes)
        return found.table

    @property
    def table(self) -> ListenerTable:
        """
        All listeners; modules that were given by name are imported now, and functions defined again are renewed.

        Raises:
            ConfigurationError: A listener cannot be registered, or was defined again with an error; each access raises
                it, so that no earlier function is called in its place.
        """
        if self._unloaded:
            from relevo._listener.importing import marked_in  # noqa: PLC0415 - a dispatch alone does not need it

            with self._loading:
                if self._is_loading:  # a module that is imported right now asks; it has those before it
                    return self.known
                self._is_loading = True
                try:
                    while self._unloaded:
                        first = self._unloaded[0]
                        if isinstance(first, Removed):
                            first.withdraw_from(self.known)
                        else:
                            self.known.extend(marked_in(first))
                            self._note_module(first)
                        del self._unloaded[0]
                finally:
                    self._is_loading = False
        self.known.renew()
        return self.known

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep other threads out while the block changes the listeners."""
        with self._loading:
            try:
                yield
            finally:
                self._changes += 1

    def _note_module(self, thing: object) -> None:
        name = thing.__name__ if isinstance(thing, ModuleType) else thing
        if isinstance(name, str) and ":" not in name:
            self.modules.append(name)

    def add(self, things: Sequence[object]) -> None:
        """
        Register *things*: modules at first use, and whatever else comes after them; functions alone at once.

        A function for a class that is not complete yet is registered at first use too.
        """
        with self._changing():
            if self._unloaded or any(isinstance(each, (str, ModuleType)) for each in things):
                self._unloaded.extend(things)
            else:
                try:
                    self.known.extend(things)
                except ConfigurationError as error:
                    if not is_early(error):
                        raise
                    self._unloaded.extend(things)

    def remove(self, things: Iterable[object]) -> None:
        """
        Remove the listeners of *things*; ignore those that are not registered.

        Nothing else is imported or registered for it, so it works even if that fails.
        """
        from relevo._listener.importing import marked_in  # noqa: PLC0415 - a dispatch alone does not need it

        with self._changing():
            for thing in things:
                before = len(self._unloaded)
                self._unloaded = [each for each in self._unloaded if not _is_same(each, thing)]
                if isinstance(thing, str) and len(self._unloaded) < before and thing not in sys.modules:
                    continue  # it was never imported
                found = marked_in(thing)
                self.known.withdraw(found)
                self._remove_later(found)

    def remove_function(self, function: Callable[..., object]) -> None:
        """Remove the listeners that call *function*; ignore it if it is not registered."""
        with self._changing():
            self._unloaded = [each for each in self._unloaded if not _is_same(each, function)]
            self.known.remove_function(function)
            if marks_of(function):
                self._remove_later([function])

    def remove_listener(self, listener: Listener) -> None:
        """Remove *listener*; ignore it if it is not registered."""
        with self._changing():
            self.known.remove(listener)

    def remove_id(self, listener_id: str) -> None:
        """Remove the listeners with that id; ignore it if there are none."""

        def has_it(thing: object) -> bool:
            return callable(thing) and {id_of(thing, mark) for mark in marks_of(thing)} == {listener_id}

        with self._changing():
            self._unloaded = [each for each in self._unloaded if not has_it(each)]
            self.known.remove_id(listener_id)
            if self._unloaded:
                self._unloaded.append(Removed(listener_id=listener_id))

    def _remove_later(self, things: Sequence[object]) -> None:
        """Remove *things* again when the modules before are imported, which may register them."""
        if self._unloaded:
            self._unloaded.append(Removed(tuple(things)))

    def copy(self) -> Registry:
        """Return another registry with the same listeners in the same order, all imported."""
        made = Registry()
        made.known = self.table.copy()
        return made
