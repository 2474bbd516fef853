"""The listeners that are imported and not registered yet, for a dispatch, which imports nothing."""

from __future__ import annotations

import sys
from logging import getLogger
from time import monotonic
from types import ModuleType

import attrs

from relevo._listener.listener import ListenerTable, marked
from relevo._listener.namesake import generation

_log = getLogger("relevo.app")

_SELDOM = 1.0
"""The seconds after which a class that was not complete is looked at again, whatever has changed."""


@attrs.frozen
class Removed:
    """Things, and an id, that were removed before modules were imported that may register them."""

    things: tuple[object, ...] = ()
    listener_id: str = ""

    def withdraw_from(self, table: ListenerTable) -> None:
        """Remove them from *table*."""
        table.withdraw(self.things)
        table.remove_id(self.listener_id)


def is_early(error: BaseException | None) -> bool:
    """Return whether *error* comes of a class with a field whose type is defined below it."""
    while error is not None:
        if isinstance(error, NameError) or getattr(error, "code", None) == "class-not-fully-defined":  # of pydantic
            return True
        error = error.__cause__
    return False


class Imported:
    """
    The listeners of what was given to an application, without those in modules that are not imported.

    What cannot be registered is left out: a worker reports it.

    Args:
        things: What was given and is not registered yet.

        changes: How often that had changed.
    """

    def __init__(self, things: tuple[object, ...], *, changes: int):
        self._changes = changes
        self._generation = generation.number
        self._names: list[str] = []
        """The names of modules that were given."""
        self._modules: list[ModuleType | None] = []
        """These modules; ``None`` for one that is not imported."""
        self._unfinished: list[tuple[ModuleType, int]] = []
        """Modules that are being imported, with the number of their global names."""
        self._early: dict[type, object] = {}
        """Classes that are not complete yet, with what may tell that they are."""
        self._until = monotonic() + _SELDOM
        self.table = ListenerTable()
        for thing in things:
            try:
                self._add(thing)
            except Exception:  # noqa: BLE001 - a foreign module is looked at, for an event that may not need it
                _log.debug("listeners that no dispatch can validate with", exc_info=True)
        try:
            self.table.renew(always=True)
        except Exception:  # noqa: BLE001 - as above
            _log.debug("a listener that was defined again is not valid", exc_info=True)

    def is_current(self, changes: int) -> bool:
        """Return whether nothing was given, defined again, imported or completed since, in a few comparisons."""
        if self._changes != changes or self._generation != generation.number:
            return False
        if [*map(sys.modules.get, self._names)] != self._modules:
            return False
        if not all(_is_unfinished(module) and len(vars(module)) == number for module, number in self._unfinished):
            return False
        if not self._early:
            return True
        if (now := monotonic()) >= self._until:
            self._until = now + _SELDOM  # so that one thread builds the next one
            return False
        return all(_completeness(cls) == before for cls, before in self._early.items())

    def _add(self, thing: object) -> None:
        if isinstance(thing, Removed):
            thing.withdraw_from(self.table)
            return
        from relevo._listener.importing import marked_in  # noqa: PLC0415 - slow, and many applications only dispatch

        found = self._imported(thing)
        for each in () if found is None else marked_in(found):
            try:
                self.table.extend((each,))
            except Exception as error:  # noqa: BLE001 - the checks of a class may raise anything
                _log.debug("a listener that no dispatch can validate with", exc_info=True)
                if is_early(error):
                    classes = [mark.event for _, mark in marked((each,)) if isinstance(mark.event, type)]
                    self._early |= {cls: _completeness(cls) for cls in classes}

    def _imported(self, thing: object) -> object:
        """Return *thing*, or what it names in a module that is imported; ``None`` if that is not imported."""
        from relevo._listener.importing import imported_module  # noqa: PLC0415 - as above

        name, _, inside = thing.partition(":") if isinstance(thing, str) else ("", "", "")
        if name:
            self._names.append(name)
            self._modules.append(sys.modules.get(name))  # None if it runs as the script
        found = imported_module(name) if name else thing
        if isinstance(found, ModuleType) and _is_unfinished(found):
            self._unfinished.append((found, len(vars(found))))
        return vars(found).get(inside) if inside and found is not None else found


def _completeness(cls: type) -> object:
    """Return what differs as a rule when *cls* is complete: the number of names around it, and what pydantic says."""
    around = [len(vars(module)) for each in cls.__mro__ if (module := sys.modules.get(each.__module__)) is not None]
    return around, getattr(cls, "__pydantic_complete__", None)


def _is_unfinished(module: ModuleType) -> bool:
    """Return whether *module* is being imported; of a script it cannot be known when it ends."""
    return module.__name__ == "__main__" or getattr(getattr(module, "__spec__", None), "_initializing", False)
