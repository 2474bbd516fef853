"""Modules that configuration names: how they are imported, and what is looked for inside."""

from __future__ import annotations

import importlib
import traceback
from pathlib import Path
from types import ModuleType

from relevo._listener import marked_methods, marks_of
from relevo.errors import ConfigurationError, RelevoError, TransportError, did_you_mean, shown


def imported(name: str, *, where: str) -> object:
    """
    Import and return what *name* says: ``module``, or ``module:name`` for something inside.

    Args:
        name: As configuration has it.

        where: What the error begins with.

    Raises:
        ConfigurationError: There is no such thing, or its import failed; then its own traceback is in
            the text, since that is what has to be mended.
    """
    module_name, colon, inside = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")) or (colon and not inside.isidentifier()):
        raise ConfigurationError(f'{where}: {shown(name)} is not a module; write "shop.listeners" or "shop:app"')
    try:
        module = importlib.import_module(module_name)
    except (TransportError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f'{where}: there is no module "{error.name}"; it is imported as Python would, '
                f"and the command line looks in the configuration's folder first"
            ) from error
        raise ConfigurationError(f'{where}: the module "{module_name}" cannot be imported: {_told(error)}') from error
    if not colon:
        return module
    if not hasattr(module, inside):
        raise ConfigurationError(f'{where}: "{module_name}" has no "{inside}"{did_you_mean(inside, vars(module))}')
    return getattr(module, inside)


def _told(error: BaseException) -> str:
    """Return *error* for whoever wrote the module: one line if it is relevo's, else the whole traceback."""
    trace = error.__traceback__
    while trace is not None and _is_machinery(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    if not isinstance(error, RelevoError):
        return "\n" + "".join(traceback.format_exception(type(error), error, trace)).rstrip()
    frames = [frame for frame in traceback.extract_tb(trace) if not _is_machinery(frame.filename)]
    return f"{frames[-1].filename}:{frames[-1].lineno}: {error}" if frames else str(error)


def _is_machinery(filename: str) -> bool:
    return filename.startswith("<") or "importlib" in filename or Path(filename).is_relative_to(Path(__file__).parent)


def marked_in(thing: object) -> list[object]:
    """
    Return what may hold listeners in *thing*: a module, the name of one, ``module:name``, or itself.

    In a module these are the marked functions that were written in it, and the subscribers, the instances
    of classes with marked methods, that it has a name for.

    Raises:
        ConfigurationError: A module cannot be imported, or holds no listener.
    """
    if isinstance(thing, str):
        thing = imported(thing, where="listeners")
    if not isinstance(thing, ModuleType):
        return [thing]
    inside = f"{thing.__name__}."
    found = [
        each
        for each in vars(thing).values()
        if (marks_of(each) and f"{_module_of(each)}.".startswith(inside)) or marked_methods(type(each))
    ]
    if not found:
        raise ConfigurationError(
            f'listeners: the module "{thing.__name__}" has no listener; put @relevo.listener(…) above a function, '
            f"or give an instance of a class with marked methods a name in the module"
        )
    return list({id(each): each for each in found}.values())


def _module_of(thing: object) -> object:
    return getattr(thing, "__module__", None)
