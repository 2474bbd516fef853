"""The options and the report of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Any, Literal, Never, Self, get_args

import attrs
import msgspec
from attrs.converters import optional

from relevo._awaited import Finished
from relevo._clock import Duration, seconds
from relevo._size import size, size_text
from relevo._synonym import RUN_OPTIONS
from relevo._worker.execution import Kind
from relevo.errors import ConfigurationError, did_you_mean, no_option, shown

OF_A_RELAY = frozenset({"transport", "until_empty", "max_events", "max_seconds", "settle", "batch", "relay_only"})
"""The fields of :class:`RunOptions` that have an effect on a relay alone."""

SMALLEST = 1 << 20
"""Bytes; a smaller limit of the memory lacks its unit."""


class Flag(msgspec.Struct, frozen=True, kw_only=True):
    """
    The option of the command line that sets a field of :class:`RunOptions`.

    ``relevo drain``, ``relevo worker`` and the units of host systems have an option for each field with a flag.
    """

    name: str
    help: str
    kind: Literal["count", "duration", "size", "choice"] = "count"
    short: str = ""
    most: int | None = None
    """Of a count."""

    choices: tuple[str, ...] = ()
    until_empty_only: bool = False
    """``worker`` does not have it."""

    def text_of(self, value: Any) -> str:
        """Return *value* as it is written on the command line."""
        match self.kind:
            case "duration":
                return f"{value:.9f}".rstrip("0").rstrip(".") + "s"
            case "size":
                return size_text(value)
            case _:
                return str(value)


def _set_by(name: str, help: str, **more: Any) -> Mapping[str, Flag]:  # noqa: A002 - the word for it
    return {"flag": Flag(name=name, help=help, **more)}


_Check = Callable[[object, "attrs.Attribute[Any]", Any], None]
"""What attrs calls with an instance, a field and its value."""


def _expected(what: str, is_it: Callable[[Any], bool], *, known: Iterable[str] = ()) -> _Check:
    """Return a check that raises the error for a value that is not *what* is expected."""

    def check(_: object, field: attrs.Attribute[Any], value: Any) -> None:
        if value is not None and not is_it(value):
            meant = did_you_mean(value, known) if isinstance(value, str) else ""
            raise ConfigurationError(f"RunOptions: {field.name}: expected {what}; got {shown(value)}{meant}")

    return check


def _whole(least: int) -> _Check:
    return _expected(f"a whole number of at least {least}", lambda value: type(value) is int and value >= least)


_text = _expected("text", lambda value: isinstance(value, str))
_flag = _expected("True or False", lambda value: type(value) is bool)
_texts = _expected(
    "a sequence of texts", lambda value: isinstance(value, tuple) and all(isinstance(each, str) for each in value)
)
_kind = _expected("inline, threads, process or async", lambda value: value in get_args(Kind), known=get_args(Kind))


def _several(value: Iterable[str]) -> tuple[str, ...]:
    given: Any = value
    if isinstance(given, Iterable):
        return (given,) if isinstance(given, str) else tuple(given)
    return given  # type: ignore[no-any-return]  # the validator refuses it


def _longest_run(value: Duration) -> float:
    return inf if value == inf else seconds(value, what="RunOptions: max_seconds")


def _longest_wait(value: Duration) -> float:
    return seconds(value, what="RunOptions: settle")


def _most_memory(value: int | str) -> int:
    return size(value, what="RunOptions: max_memory", least=SMALLEST)


@attrs.frozen(kw_only=True, init=False)
class RunOptions:
    """
    The options of a run; a limit that is ``None`` does not apply.

    *max_memory* and *max_failures* are limits of a runner: a worker that is run by itself has no such limits.

    Args:
        transport: The name of one of the application's transports; by default its only one.

        queues: The queues, in order of preference; if empty, all queues that have a route.

        until_empty: Stop when no event is ready.

        execution: Where listeners run: ``inline``, ``threads``, ``process`` or ``async``; by default the application's
            setting.

        concurrency: The number of events that are handled at once; by default the application's setting.

        max_events: Stop after this number of events.

        max_seconds: Stop after this time: seconds, a timedelta, or text such as ``"55s"``.

        max_memory: Stop when the process of a runner has grown to this size: bytes, or text such as ``"512M"``.

        max_failures: Stop a runner soon after this number of deliveries ended in a retry or a dead letter.

        settle: With *until_empty*: wait this long also for events that become due, such as retries: seconds, a
            timedelta, or text such as ``"30s"``.

        event_id: Handle only the event with this id, once, even before it is due; with *until_empty* and the queue of
            the event. The transport has to claim ``take``.

        batch: The most events to receive at once; by default the worker's own limit.

        relay_only: Let a runner run the relay of the transport's outbox, and no listener; otherwise it runs both. Of
            the other options it takes *transport*, *until_empty*, *max_events*, *max_seconds*, *settle* and *batch*.

    Raises:
        ConfigurationError: One of them has the wrong type, is too small, or has no effect on a relay.

        TypeError: An argument is unknown; the error names the one that is meant.
    """

    transport: str | None = attrs.field(default=None, validator=_text)
    queues: tuple[str, ...] = attrs.field(default=(), converter=_several, validator=_texts)
    until_empty: bool = attrs.field(default=False, validator=_flag)

    execution: Literal["inline", "threads", "process", "async"] | None = attrs.field(
        default=None,
        validator=_kind,
        metadata=_set_by(
            "--execution",
            "Where listeners run; overrides the configuration.",
            kind="choice",
            choices=("inline", "threads", "process", "async"),
        ),
    )

    concurrency: int | None = attrs.field(
        default=None,
        validator=_whole(1),
        metadata=_set_by(
            "--concurrency",
            "Handle up to N events at once, in threads by default, or on an event loop if all listeners are async.",
            short="-c",
            most=10_000,
        ),
    )

    max_events: int | None = attrs.field(
        default=None, validator=_whole(0), metadata=_set_by("--max-events", "Stop after N events.")
    )

    max_seconds: float | None = attrs.field(
        default=None,
        converter=optional(_longest_run),
        metadata=_set_by("--max-time", "Stop after this time, as in 55s or 1h.", kind="duration"),
    )
    """Seconds."""

    max_memory: int | None = attrs.field(
        default=None,
        converter=optional(_most_memory),
        metadata=_set_by("--max-memory", "Stop when the process uses this much memory, as in 512M.", kind="size"),
    )
    """Bytes."""

    max_failures: int | None = attrs.field(
        default=None, validator=_whole(1), metadata=_set_by("--max-failures", "Stop after about N failures.")
    )

    settle: float = attrs.field(
        default=0.0,
        converter=_longest_wait,
        metadata=_set_by(
            "--settle", "Also wait this long for events that become due.", kind="duration", until_empty_only=True
        ),
    )
    """Seconds."""

    event_id: str | None = attrs.field(default=None, validator=_text)
    batch: int | None = attrs.field(default=None, validator=_whole(1))
    relay_only: bool = attrs.field(default=False, validator=_flag)

    def __init__(
        self,
        *,
        transport: str | None = None,
        queues: Iterable[str] = (),
        until_empty: bool = False,
        execution: Kind | None = None,
        concurrency: int | None = None,
        max_events: int | None = None,
        max_seconds: Duration | None = None,
        max_memory: int | str | None = None,
        max_failures: int | None = None,
        settle: Duration = 0.0,
        event_id: str | None = None,
        batch: int | None = None,
        relay_only: bool = False,
        **unknown: Never,
    ):
        if unknown:
            raise no_option("RunOptions", next(iter(unknown)), attrs.fields_dict(RunOptions), RUN_OPTIONS)
        RunOptions.__attrs_init__(
            self,
            transport=transport,
            queues=queues,
            until_empty=until_empty,
            execution=execution,
            concurrency=concurrency,
            max_events=max_events,
            max_seconds=max_seconds,
            max_memory=max_memory,
            max_failures=max_failures,
            settle=settle,
            event_id=event_id,
            batch=batch,
            relay_only=relay_only,
        )

    def __attrs_post_init__(self) -> None:
        for name in without_effect_on_a_relay(attrs.asdict(self, recurse=False)) if self.relay_only else ():
            raise ConfigurationError(
                f"RunOptions: {name}: a relay calls no listener, so it takes only "
                f"{', '.join(sorted(OF_A_RELAY - {'relay_only'}))}; leave {name} out"
            )

    def ends_within(self, seconds: float) -> bool:
        """Return whether a run that goes well may reach one of the limits in less than *seconds*."""
        if self.max_events is not None or self.max_memory is not None:  # events may be quick, and memory used at once
            return True
        return self.max_seconds is not None and self.max_seconds < seconds


def without_effect_on_a_relay(given: Mapping[str, object]) -> list[str]:
    """Return the fields of :class:`RunOptions` that *given* sets and that have no effect on a relay."""
    fields = (field for field in attrs.fields(RunOptions) if field.name not in OF_A_RELAY)
    return [field.name for field in fields if given.get(field.name, field.default) != field.default]


def flags() -> dict[str, Flag]:
    """Return the flags of :class:`RunOptions` by the names of their fields."""
    found = ((field.name, field.metadata.get("flag")) for field in attrs.fields(RunOptions))
    return {name: flag for name, flag in found if flag is not None}


@attrs.frozen(kw_only=True, repr=False)
class Report(Finished):
    """
    The result of a run.

    Args:
        handled: The number of deliveries that were settled in any way but released.

        done: How many of them are done.

        retried: How many ended in a retry, since a listener failed or the event waits for something; an event that was
            retried twice counts twice, even if it is done now.

        dead: How many were dead-lettered; a runner also counts the events that its relay could not pass on.

        unsettled: The number of deliveries that were received and could not be settled; they are delivered again and
            may run again.

        seconds: How long the run took, in seconds.

        stopped_by: ``empty``, ``events``, ``time``, ``asked``, or ``objection`` when a hook objects to further events;
            of a runner also ``lock`` when another one runs already, ``memory`` and ``failures``.

        objection: The words of the hook that objected: ``deploy``, or those of a plugin; for ``lock``, who holds it, if
            known.

        reasons: The number of dead letters, by reason.

        retry_reasons: The number of retries, by reason: ``listener-failed``, or the :class:`Reason` for which an event
            waits.

        paused: The queues that were paused, so that their events wait.
    """

    handled: int = 0
    done: int = 0
    retried: int = 0
    dead: int = 0
    unsettled: int = 0
    seconds: float = 0.0
    stopped_by: str = "empty"
    objection: str = ""
    reasons: Mapping[str, int] = attrs.field(factory=dict)
    retry_reasons: Mapping[str, int] = attrs.field(factory=dict)
    paused: Sequence[str] = ()

    def __repr__(self) -> str:
        """Return the fields that say something; the seconds in milliseconds."""
        plain = Report()
        found = {field.name: getattr(self, field.name) for field in attrs.fields(Report)}
        found["seconds"] = round(self.seconds, 3)
        always = ("handled", "done")
        said = [f"{name}={value!r}" for name, value in found.items() if name in always or value != getattr(plain, name)]
        return f"{type(self).__name__}({', '.join(said)})"

    @classmethod
    def sum_of(cls, reports: Sequence[Report]) -> Self:
        """Return the result of several runs as one; it was stopped by the first that was not stopped as empty."""
        ended = next((report for report in reports if report.stopped_by != "empty"), cls())
        return cls(
            handled=sum(report.handled for report in reports),
            done=sum(report.done for report in reports),
            retried=sum(report.retried for report in reports),
            dead=sum(report.dead for report in reports),
            unsettled=sum(report.unsettled for report in reports),
            seconds=sum(report.seconds for report in reports),
            stopped_by=ended.stopped_by,
            objection=ended.objection,
            reasons=dict(sum((Counter(report.reasons) for report in reports), Counter())),
            retry_reasons=dict(sum((Counter(report.retry_reasons) for report in reports), Counter())),
            paused=tuple(dict.fromkeys(queue for report in reports for queue in report.paused)),
        )


def retries(report: Report) -> str:
    """Return how many runs of *report* ended in a retry, in words; an event that was retried twice counts twice."""
    return "1 retry" if report.retried == 1 else f"{report.retried} retries"
