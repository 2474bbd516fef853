"""Find the harness for a TYPE on the command line."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from operator import attrgetter
from pathlib import Path
from traceback import format_exception
from typing import Any

from relevo import Transport
from relevo.errors import ConfigurationError, did_you_mean, shown
from relevo_conformance._generic import generic_harness
from relevo_conformance.harness import Deviation, Harness, allowance_problems
from relevo_conformance.verdict import error_text

HARNESSES = "relevo.harnesses"
TRANSPORTS = "relevo.transports"


def known() -> Mapping[str, EntryPoint]:
    """Return the entry points of all harnesses, and of transports without a harness."""
    return {point.name: point for group in (TRANSPORTS, HARNESSES) for point in entry_points(group=group)}


def harness_of(text: str) -> type[Harness]:
    """
    Return the harness that *text* names.

    Raises:
        ConfigurationError: Nothing has this name, or it is neither a harness nor a transport.
    """
    if ":" in text:
        return _as_harness(_import(text), text)
    for group in (HARNESSES, TRANSPORTS):
        found = {(point.value, _origin(point)): point for point in entry_points(group=group, name=text)}
        if len(found) > 1:
            claims = " and ".join(f"{origin} ({value})" for value, origin in sorted(found))
            raise ConfigurationError(f'{group} "{text}" is claimed by {claims}; uninstall one')
        for point in found.values():
            return _as_harness(_load(point), text)
    hint = did_you_mean(text, known()) or f"; there are {', '.join(sorted(known())) or 'none'}, or write module:Class"
    raise ConfigurationError(f'no harness and no transport is called "{text}"{hint}')


def _load(point: EntryPoint) -> Any:
    where = f'"{point.name}" ({_origin(point)})'
    if not _is_place(point.value.partition("[")[0].strip()):
        raise ConfigurationError(f'{where} is announced as "{point.value}", which is not of the form module:Class')
    # By the convention of relevo's own backends, an extra has what the harness needs beyond its backend.
    remedy = f"; pip install '{point.dist.name}[conformance]'" if point.dist else ""
    return _get(point.load, where, remedy)


def _import(text: str) -> Any:
    if not _is_place(text):
        raise ConfigurationError(f'"{text}" is not of the form module:Class')
    module, _, name = text.partition(":")
    return _get(lambda: attrgetter(name)(importlib.import_module(module)), text)


def _is_place(text: str) -> bool:
    module, _, name = text.partition(":")
    return all(part.strip().isidentifier() for part in (*module.split("."), *name.split(".")))


def _get(load: Callable[[], Any], what: str, remedy: str = "") -> Any:
    """Return what *load* returns; the import of a module may raise anything."""
    try:
        return load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        remedy = remedy if isinstance(error, ImportError) else ""
        refused = ConfigurationError(f"{what} cannot be imported: {_reason(error)}{remedy}")
        if own := _own_traceback(error):
            refused.add_note(own)
        raise refused from error


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, ImportError | AttributeError) else error_text(error)


def _own_traceback(error: BaseException) -> str:
    """Return the traceback from the first frame of the module's own code; empty if none of it ran."""
    trace = error.__traceback__
    while trace is not None and _is_machinery(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    if trace is None and not isinstance(error, SyntaxError):
        return ""
    return "".join(format_exception(type(error), error, trace)).rstrip()


def _is_machinery(file: str) -> bool:
    return file == __file__ or file.startswith("<frozen importlib") or "importlib" in Path(file).parts


def _as_harness(found: Any, text: str) -> type[Harness]:
    if inspect.isclass(found) and issubclass(found, Harness):
        for problem in _problems(found):
            raise ConfigurationError(f"{text}: {problem}")
        return found
    if inspect.isclass(found) and issubclass(found, Transport):
        return generic_harness(found, text.rpartition(":")[2])
    raise ConfigurationError(f"{text} is neither a Harness nor a Transport; got {shown(found)}")


def _problems(harness: type[Harness]) -> Iterator[str]:
    """Yield what is invalid in the class attributes of *harness*."""
    transport: object = getattr(harness, "transport", None)
    if not inspect.isclass(transport):
        yield f"transport must be the class that is tested; got {shown(transport)}"
    yield from (f"{name} {problem}" for name, problem in allowance_problems(harness))
    deviations: object = harness.deviations
    if not isinstance(deviations, Mapping):
        yield f"deviations must be a mapping; got {shown(deviations)}"
    else:
        for name, why in deviations.items():
            if not isinstance(why, Deviation):
                yield f'deviations["{name}"] must be a Deviation(reason, url); got {shown(why)}'


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
