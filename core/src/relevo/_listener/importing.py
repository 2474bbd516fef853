"""Import the modules that configuration names, and find the listeners in them."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterable
from importlib.util import find_spec
from inspect import unwrap
from pathlib import Path
from pkgutil import iter_modules
from types import FunctionType, ModuleType, TracebackType

from relevo._listener.lifespan import lifespan_of
from relevo._listener.listener import Listener, defined_at, marked_methods, marks_of
from relevo._listener.namesake import hidden, hidden_by
from relevo.errors import ConfigurationError, RelevoError, TransportError, described, did_you_mean, shown

_RELEVO = Path(__file__).parents[1]


class NotImportedError(ConfigurationError):
    """Raised when the import of a module fails; the cause is its error, with the traceback from the module on."""


def import_object(name: str, *, where: str) -> object:
    """
    Import and return the object called *name*: ``module``, or ``module:name`` for an attribute.

    Args:
        name: The name from the configuration.

        where: The beginning of the error.

    Raises:
        ConfigurationError: There is no such module or attribute.

        NotImportedError: Its import failed.
    """
    module_name, colon, inside = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")) or (colon and not inside.isidentifier()):
        raise ConfigurationError(f'{where}: {shown(name)} is not a module; write "shop.listeners" or "shop:app"')
    try:
        module = _run_as(module_name) or importlib.import_module(module_name)
    except (TransportError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            missing = error.name or module_name
            raise ConfigurationError(
                f'{where}: there is no module "{missing}"{_near(missing)}; Python searches sys.path, '
                f"and the command line searches the configuration's folder first"
            ) from error
        fault = f'{where}: the module "{module_name}" cannot be imported'
        trace = _own(error.__traceback__)
        if isinstance(error, RelevoError):  # its text says how to fix it
            raise ConfigurationError(f"{fault}: {_place(trace)}{error}") from error
        raise NotImportedError(f"{fault}: {' '.join(described(error).split())}") from error.with_traceback(trace)
    if not colon:
        return module
    if not hasattr(module, inside):
        fix = did_you_mean(inside, vars(module)) or "; define it at the top of that module, or name what is there"
        raise ConfigurationError(f'{where}: "{module_name}" has no "{inside}"{fix}')
    return getattr(module, inside)


def _near(missing: str) -> str:
    """Return the end of an error: the nearest name in the package of *missing*, or in the project's own folders."""
    package, dot, _ = missing.rpartition(".")
    own = [folder for folder in sys.path if not folder.endswith("-packages")]
    folders = getattr(sys.modules.get(package), "__path__", ()) if dot else own
    names = {each.name for each in iter_modules(folders)} - (set() if dot else sys.stdlib_module_names)
    return did_you_mean(missing, sorted(f"{package}{dot}{name}" for name in names))


def imported_module(name: str) -> ModuleType | None:
    """Return the module *name* if it was imported, or is being imported; nothing is imported for it."""
    found: object = sys.modules.get(name)
    if found is None and name.isidentifier():
        found = _run_as(name)
    return found if isinstance(found, ModuleType) else None


def _run_as(name: str) -> ModuleType | None:
    """Return ``__main__`` if it is the file of the module *name*, which an import would run a second time."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    called = main.__spec__.name if main.__spec__ else Path(file or "").stem  # as in the ids of its listeners
    if file is None or called != name or name in sys.modules:
        return None
    spec = find_spec(name)
    return main if spec and spec.origin and Path(spec.origin).resolve() == Path(file).resolve() else None


def _own(trace: TracebackType | None) -> TracebackType | None:
    """Return *trace* without the frames of the import machinery before the imported module."""
    while trace is not None and _is_machinery(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace


def _place(trace: TracebackType | None) -> str:
    """Return the innermost place outside of relevo and its backends, as ``file:line: ``; empty if there is none."""
    places = [
        f"{frame.f_code.co_filename}:{line}: "
        for frame, line in traceback.walk_tb(trace)
        if not _is_machinery(frame.f_code.co_filename)
        and not str(frame.f_globals.get("__name__")).startswith("relevo_")
    ]
    return places[-1] if places else ""


def _is_machinery(filename: str) -> bool:
    return filename.startswith("<") or "importlib" in filename or Path(filename).is_relative_to(_RELEVO)


def marked_in(thing: object) -> list[object]:
    """
    Return the objects with listeners in *thing*: a module, the name of a module, ``module:name``, or an object.

    In a module these are its own marked functions, its own lifespans, and its global subscribers: instances of classes
    with marked methods.

    Raises:
        ConfigurationError: A module cannot be imported, has no listener and no lifespan, or has two listeners of the
            same name.
    """
    if isinstance(thing, str):
        thing = import_object(thing, where="listeners")
    if not isinstance(thing, ModuleType):
        return [thing]
    inside = f"{thing.__name__}."
    found = [
        each
        for each in tuple(vars(thing).values())  # at once, since another thread may be importing it
        if ((marks_of(each) or lifespan_of(each)) and f"{_module_of(each)}.".startswith(inside))
        or marked_methods(type(each))
    ]
    if not found:
        place = defined_at(thing)
        raise ConfigurationError(
            f'listeners: the module "{thing.__name__}"{place and f" ({place})"} has no listener; put '
            "@relevo.listener(…) above a function, or assign an instance of a class with marked methods to a global "
            "name"
        )
    kept = {id(unwrap(each)) if isinstance(each, FunctionType) else id(each) for each in found}
    for each in found:
        for lost in hidden_by(each):
            if id(lost) not in kept:
                raise ConfigurationError(f"listeners: {lost.__code__.co_filename}: {hidden(lost, each)}")
    return list({id(each): each for each in found}.values())


def unregistered_classes(modules: Iterable[ModuleType], listeners: Iterable[Listener]) -> list[type]:
    """Return the classes of *modules* with marked methods of which no instance is among *listeners*."""
    functions = [each.function for each in listeners]
    owners = [getattr(each, "__self__", None) for each in functions]
    alone = {id(getattr(each, "__func__", each)) for each in functions}  # a static method does not show its class
    classes = {
        id(each): each
        for module in modules
        for each in vars(module).values()
        if isinstance(each, type) and f"{_module_of(each)}.".startswith(f"{module.__name__}.")
    }
    return [
        cls
        for cls in classes.values()
        if marked_methods(cls)
        and not any(isinstance(owner, cls) for owner in owners)
        and alone.isdisjoint(id(getattr(each, "__func__", each)) for each in vars(cls).values())
    ]


def _module_of(thing: object) -> object:
    return getattr(thing, "__module__", None)
