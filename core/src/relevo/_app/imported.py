"""The listeners that are imported and not registered yet, for a dispatch, which imports nothing."""

from __future__ import annotations

import sys
from contextlib import suppress
from types import ModuleType

import attrs

from relevo._listener.listener import ListenerTable
from relevo._listener.namesake import generation
from relevo.errors import RelevoError


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
        self._missing: list[str] = []
        """The names of modules that are not imported."""
        self._unfinished: list[tuple[ModuleType, int]] = []
        """Modules that are being imported, with the number of their global names."""
        self._is_lasting = True
        """Whether no listener was left out whose class may be complete later."""
        self.table = ListenerTable()
        for thing in things:
            with suppress(RelevoError):
                self._add(thing)
        self._is_complete = self._is_lasting and not self._missing and not self._unfinished

    def is_current(self, changes: int) -> bool:
        """Return whether nothing was given, defined again or imported since, in a few comparisons."""
        if self._changes != changes or self._generation != generation.number:
            return False
        return self._is_complete or (
            self._is_lasting
            and sys.modules.keys().isdisjoint(self._missing)
            and all(_is_unfinished(module) and len(vars(module)) == number for module, number in self._unfinished)
        )

    def _add(self, thing: object) -> None:
        if isinstance(thing, Removed):
            thing.withdraw_from(self.table)
            return
        from relevo._listener.importing import marked_in  # noqa: PLC0415 - slow, and many applications only dispatch

        found = self._imported(thing)
        for each in () if found is None else marked_in(found):
            try:
                self.table.extend((each,))
            except RelevoError as error:
                self._is_lasting = self._is_lasting and not is_early(error)

    def _imported(self, thing: object) -> object:
        """Return *thing*, or what it names in a module that is imported; ``None`` if that is not imported."""
        from relevo._listener.importing import imported_module  # noqa: PLC0415 - as above

        name, _, inside = thing.partition(":") if isinstance(thing, str) else ("", "", "")
        found = imported_module(name) if name else thing
        if found is None:
            self._missing.append(name)
        elif isinstance(found, ModuleType) and _is_unfinished(found):
            self._unfinished.append((found, len(vars(found))))
        return vars(found).get(inside) if inside and found is not None else found


def _is_unfinished(module: ModuleType) -> bool:
    """Return whether *module* is being imported; of a script it cannot be known when it ends."""
    return module.__name__ == "__main__" or getattr(getattr(module, "__spec__", None), "_initializing", False)
