"""Validate the arguments of ``App``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

from relevo._clock import Clock, SystemClock
from relevo._config.check import checked_setup, retry_targets
from relevo._event.subject import SubjectType
from relevo._hook import Hooks
from relevo._problem import Problems, dotted
from relevo._retry import Retry
from relevo._transport.route import Routes, Target
from relevo._worker.execution import Execution
from relevo._worker.signing import Signing
from relevo.errors import ConfigurationError, PluginError, SubjectError, shown

if TYPE_CHECKING:
    from pathlib import Path


def mapping(things: object, what: str) -> dict[Any, Any]:
    """Return *things* by their names."""
    if not isinstance(things, Mapping):
        raise ConfigurationError(f"{what}: expected what there is by its name, as in {{…: …}}, got {shown(things)}")
    return dict(things)


def several(things: object, what: str) -> list[Any]:
    """Return *things* if they are several, and not a text, which would be taken for its letters."""
    if isinstance(things, (str, bytes)) or not isinstance(things, Iterable):
        kind = "the text " if isinstance(things, str) else ""
        raise ConfigurationError(f"{what}: expected several, got {kind}{shown(things)}; put it into a list")
    return list(things)


def routes(table: object, problems: Problems) -> Routes:
    """Return the valid routes of *table*; note the problems of the others."""
    good = {}
    with problems.at("routes"):
        for pattern, targets in mapping(table, "routes").items():
            with problems.at("routes", pattern):
                Routes({pattern: targets})
                good[pattern] = targets
    return Routes(good)


def retries(policies: object, problems: Problems) -> dict[Target, Retry]:
    """Return the valid ones of *policies* by their queues; note the problems of the others."""
    good: dict[Target, Retry] = {}
    with problems.at("retries"):
        given = mapping({} if policies is None else policies, "retries")
        for queue, target in retry_targets(given, problems).items():
            with problems.at("retries", queue):
                good[target] = _policy(given[queue], queue)
    return good


def _policy(given: object, queue: str) -> Retry:
    policy = Retry(given) if isinstance(given, int) else given
    if not isinstance(policy, Retry):
        raise ConfigurationError(
            f"{dotted(('retries', queue))}: expected relevo.Retry(…) or a number; got {shown(given)}"
        )
    return policy


def plugins(given: object) -> Hooks:
    """Return the hooks of those that are *given*."""
    found = several(given, "plugins")
    for each in found:
        if isinstance(each, (str, bytes)):
            raise PluginError(
                f"plugins: {shown(each)} is text; give the object or the module that has the hooks: "
                f"App.from_config() is what finds plugins by their names"
            )
    return Hooks(found)


def subject_type(given: Any) -> SubjectType:
    """Return *given* if it can be a kind of subject."""
    if not isinstance(given, SubjectType):
        raise SubjectError(
            f"subjects: {shown(given)} is no relevo.SubjectType; make one, which says how its instances are named and "
            f"loaded, such as relevo_sql.orm_subject(…) of a mapped class"
        )
    kind: Any = given
    for holds, fault in (
        (isinstance(kind.type, str) and kind.type, f"type= is text, such as image, not {shown(kind.type)}"),
        (isinstance(kind.cls, type), f"cls= is a class, not {shown(kind.cls)}"),
        (callable(kind.name), f"name= is a function from an instance to its id, not {shown(kind.name)}"),
        (callable(kind.load), f"load= is a function from an id to the instance, not {shown(kind.load)}"),
    ):
        if not holds:
            raise SubjectError(f"subjects: of a SubjectType {fault}")
    return given


def subject_types(given: object) -> list[SubjectType]:
    """Return those that are *given*, if each can be a kind of subject."""
    return [subject_type(each) for each in several(given, "subjects")]


def signing(given: Any) -> Signing | None:
    """Return the keys that are *given*, if any are."""
    return given if given is None or isinstance(given, Signing) else Signing(given)


def execution(given: Any) -> Execution:
    """Return the execution that is *given*, or of which only the kind is given."""
    if given is None or isinstance(given, str):
        return Execution(given)
    if not isinstance(given, Execution):
        raise ConfigurationError(f"execution: expected relevo.Execution(…), or its kind alone, got {shown(given)}")
    return given


def clock(given: object) -> Clock:
    """Return the clock that is *given*; the machine's if none is."""
    if given is None:
        return SystemClock()
    if not isinstance(given, Clock) or isinstance(given, type):
        raise ConfigurationError(f"clock: expected an object with now(), monotonic() and sleep(); got {shown(given)}")
    return given


def path(given: Any, what: str) -> Path | None:
    """Return the path that is *given*, from the root of all."""
    if given is None:
        return None
    if not isinstance(given, (str, PathLike)):
        raise ConfigurationError(f"{what}: expected a path, got {shown(given)}")
    from pathlib import Path  # noqa: PLC0415 - a program that only dispatches does without

    return Path(given).absolute()


def setup_is_auto(given: object) -> bool:
    """Return whether *given* says that what is missing is created at first use."""
    return checked_setup(given) == "auto"


def function(given: Any, what: str) -> Callable[..., Any]:
    """Return *given* if it can be called."""
    if not callable(given):
        raise ConfigurationError(f"{what}: expected a function, got {shown(given)}")
    return given  # type: ignore[no-any-return]  # callable() tells no result
