"""Validate the arguments of ``App``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from inspect import iscoroutinefunction
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from relevo._clock import Clock, SystemClock
from relevo._config.check import checked_setup
from relevo._event.subject import SubjectType
from relevo._hook import Hooks
from relevo._problem import Problems, dotted
from relevo._retry import Retry
from relevo._schedule.schedule import Schedule
from relevo._schedule.table import ScheduleTable
from relevo._synonym import RUN_OPTIONS
from relevo._transport.acceptance import QueueOptions, QueueTable
from relevo._transport.class_route import doubled, label
from relevo._transport.route import Routes, parsed_targets
from relevo._worker.execution import Execution
from relevo._worker.run import RunOptions
from relevo._worker.signing import Signing
from relevo.errors import ConfigurationError, PluginError, SubjectError, no_option, shown

if TYPE_CHECKING:
    from pathlib import Path

_NONE: Mapping[str, object] = MappingProxyType({})


def mapping(things: object, what: str) -> dict[Any, Any]:
    """Return *things* as a dictionary if they are a mapping."""
    if not isinstance(things, Mapping):
        raise ConfigurationError(f"{what}: expected a mapping; got {shown(things)}; write {{key: value, …}}")
    return dict(things)


def several(things: object, what: str) -> list[Any]:
    """Return *things* as a list if they are iterable; text is refused, since it would be split into its letters."""
    if isinstance(things, (str, bytes)) or not isinstance(things, Iterable):
        kind = "the text " if isinstance(things, str) else ""
        raise ConfigurationError(f"{what}: expected a list; got {kind}{shown(things)}; put it into a list")
    return list(things)


def routes(table: object, problems: Problems) -> Routes:
    """Return the valid routes of *table*; note the problems of the others."""
    good = {}
    with problems.at("routes"):
        for pattern, targets in mapping(table, "routes").items():
            found = Problems()
            parsed_targets(pattern, targets, found)
            problems.extend(found)
            if not found:
                good[pattern] = targets
    for cls, why in doubled(good).items():
        problems.add(("routes", label(cls)), f"routes: {why}")
        del good[cls]
    return Routes(good)


def retry_policies(given: object, problems: Problems) -> dict[str, Retry | None]:
    """Return the retry policies by the names of their queues, ``None`` for an invalid one, whose problem is noted."""
    policies: dict[str, Retry | None] = {}
    with problems.at("retries"):
        for queue, policy in mapping({} if given is None else given, "retries").items():
            policies[queue] = None
            with problems.at("retries", queue):
                policies[queue] = _policy(policy, dotted(("retries", queue)))
    return policies


def _policy(given: object, where: str) -> Retry:
    if isinstance(given, Retry):
        return given
    if not isinstance(given, int):
        raise ConfigurationError(f"{where}: expected relevo.Retry(…) or a whole number; got {shown(given)}")
    try:
        return Retry(given)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None


def queue_table(given: object, problems: Problems) -> QueueTable:
    """Return the table of the valid queue options that are *given*; note the problems of the others."""
    good = {}
    with problems.at("queues"):
        for key, options in mapping({} if given is None else given, "queues").items():
            with problems.at("queues", key):
                if not isinstance(options, QueueOptions):
                    where = dotted(("queues", str(key)))
                    raise ConfigurationError(f"{where}: expected relevo.QueueOptions(…); got {shown(options)}")
                good[key] = options
    return QueueTable(good, problems)


def schedule_table(given: object) -> ScheduleTable:
    """Return the table of the schedules that are *given*."""
    found = several(given, "schedules")
    for each in found:
        if not isinstance(each, Schedule):
            raise ConfigurationError(f"schedules: expected relevo.Schedule(…); got {shown(each)}")
    return ScheduleTable(found)


def plugins(given: object) -> Hooks:
    """Return the hooks of the plugins that are *given*."""
    found = several(given, "plugins")
    for each in found:
        if isinstance(each, (str, bytes)):
            raise PluginError(
                f"plugins: expected an object or a module that has hooks; got the text {shown(each)}; pass the plugin "
                f"itself: only App.from_config() finds plugins by name"
            )
    return Hooks(found)


def subject_type(given: Any) -> SubjectType:
    """Return *given* if it is a valid subject type."""
    if not isinstance(given, SubjectType):
        raise SubjectError(
            f"subjects: expected a relevo.SubjectType; got {shown(given)}; create one that names and loads the "
            f"instances, such as relevo_sql.orm_subject(…) for a mapped class"
        )
    kind: Any = given
    for name, holds, expected in (
        ("type", isinstance(kind.type, str) and kind.type, "text such as image"),
        ("cls", isinstance(kind.cls, type), "a class"),
        ("name", callable(kind.name), "a function from an instance to its id"),
        ("load", callable(kind.load), "a function from an id to the instance"),
        ("release", kind.release is None or callable(kind.release), "a function that takes the instance"),
        ("load_many", kind.load_many is None or callable(kind.load_many), "a function from ids to the instances by id"),
        ("aliases", all(isinstance(each, str) and each for each in kind.aliases), "earlier names, each a text,"),
    ):
        if not holds:
            got = shown(getattr(kind, name))
            raise SubjectError(f"subjects: expected {expected} as {name}= of a SubjectType; got {got}")
    for name in ("name", "load", "release", "load_many"):
        if iscoroutinefunction(getattr(kind, name)):
            raise SubjectError(
                f'subjects: the {name}= of the subject type "{kind.type}" is async, and is not awaited; expected a '
                f"plain function, which may call asyncio.run()"
            )
    return given


def subject_types(given: object) -> list[SubjectType]:
    """Return the subject types that are *given*, if each is valid."""
    return [subject_type(each) for each in several(given, "subjects")]


def signing(given: Any) -> Signing | None:
    """Return the signing keys that are *given*, if any are."""
    return given if given is None or isinstance(given, Signing) else Signing(given)


def execution(given: Any) -> Execution:
    """Return the execution that is *given*, as such or by its kind alone."""
    if given is None or isinstance(given, str):
        return Execution(given)
    if not isinstance(given, Execution):
        raise ConfigurationError(
            f'execution: expected relevo.Execution(…) or the name of its kind, such as "threads"; got {shown(given)}'
        )
    return given


def run_options(given: object, what: str, unknown: Mapping[str, object] = _NONE) -> RunOptions:
    """
    Return the options of a run that are *given* to the method *what*; by default those without limits.

    Raises:
        TypeError: The method got *unknown* arguments; the error says where they belong.
    """
    if unknown:
        name = min(unknown)
        options = attrs.fields_dict(RunOptions)
        here = {each: f"write app.{what}(relevo.RunOptions({each}=…))" for each in options}
        here |= {each: f"write app.{what}(relevo.RunOptions(…)): {answer}" for each, answer in RUN_OPTIONS.items()}
        raise no_option(what, name, options, here)
    if given is None:
        return RunOptions()
    if not isinstance(given, RunOptions):
        raise ConfigurationError(
            f"{what}: expected relevo.RunOptions(…); got {shown(given)}; write {what}(relevo.RunOptions(max_events=5))"
        )
    return given


def clock(given: object) -> Clock:
    """Return the clock that is *given*; by default the machine's."""
    if given is None:
        return SystemClock()
    if not isinstance(given, Clock) or isinstance(given, type):
        raise ConfigurationError(f"clock: expected an object with now(), monotonic() and sleep(); got {shown(given)}")
    return given


def path(given: Any, what: str) -> Path | None:
    """Return the path that is *given* as an absolute path."""
    if given is None:
        return None
    if not isinstance(given, (str, PathLike)):
        raise ConfigurationError(f"{what}: expected a path as text or pathlib.Path; got {shown(given)}")
    from pathlib import Path  # noqa: PLC0415 - a program that only dispatches does not need it

    return Path(given).absolute()


def setup_is_auto(given: object) -> bool:
    """Return whether the setup that is *given* creates missing tables and queues at first use."""
    return checked_setup(given) == "auto"


def function(given: Any, what: str) -> Callable[..., Any]:
    """Return *given* if it can be called."""
    if not callable(given):
        raise ConfigurationError(f"{what}: expected a function; got {shown(given)}; pass the function itself")
    return given  # type: ignore[no-any-return]  # callable() does not narrow the type of the result
