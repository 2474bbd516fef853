"""The options and the report of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import attrs
import msgspec

from relevo._awaited import Finished
from relevo._worker.execution import size_text

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
    """Only ``drain`` has it."""

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


@attrs.frozen(kw_only=True)
class RunOptions:
    """
    The options of a run; a limit that is ``None`` does not apply.

    *max_memory* and *max_failures* are limits of a runner: a worker that is run by itself has no such limits.
    """

    transport: str | None = None
    """The name of one of the application's transports; by default its only one."""

    queues: tuple[str, ...] = ()
    """In order of preference; if empty, all queues that have a route."""

    until_empty: bool = False
    """Stop when no event is ready."""

    execution: Literal["inline", "threads", "process"] | None = attrs.field(
        default=None,
        metadata=_set_by(
            "--execution",
            "Where listeners run; overrides the configuration.",
            kind="choice",
            choices=("inline", "threads", "process"),
        ),
    )
    """Where listeners run; by default the application's setting."""

    concurrency: int | None = attrs.field(
        default=None, metadata=_set_by("--concurrency", "Handle up to N events at once.", short="-c", most=1000)
    )
    """The number of events that are handled at once; by default the application's setting."""

    max_events: int | None = attrs.field(default=None, metadata=_set_by("--max-events", "Stop after N events."))

    max_seconds: float | None = attrs.field(
        default=None, metadata=_set_by("--max-time", "Stop after this time, as in 55s or 1h.", kind="duration")
    )

    max_memory: int | None = attrs.field(
        default=None,
        metadata=_set_by("--max-memory", "Stop when the process uses this much memory, as in 512M.", kind="size"),
    )
    """Bytes; a runner stops when its process has grown to this size."""

    max_failures: int | None = attrs.field(
        default=None, metadata=_set_by("--max-failures", "Stop after about N failures.")
    )
    """A runner stops soon after this number of deliveries ended in a retry or a dead letter."""

    settle: float = attrs.field(
        default=0.0,
        metadata=_set_by(
            "--settle", "Also wait this long for events that become due.", kind="duration", until_empty_only=True
        ),
    )
    """With *until_empty*: seconds to wait also for events that become due, such as retries."""

    event_id: str | None = None
    """
    Handle only the event with this id, once, even before it is due; with *until_empty* and the queue of the event.

    The transport has to claim ``take``.
    """

    batch: int | None = None
    """The most events to receive at once; by default the worker's own limit."""

    def ends_within(self, seconds: float) -> bool:
        """Return whether a run that goes well may reach one of the limits in less than *seconds*."""
        if self.max_events is not None or self.max_memory is not None:  # events may be quick, and memory used at once
            return True
        return self.max_seconds is not None and self.max_seconds < seconds


def flags() -> dict[str, Flag]:
    """Return the flags of :class:`RunOptions` by the names of their fields."""
    found = ((field.name, field.metadata.get("flag")) for field in attrs.fields(RunOptions))
    return {name: flag for name, flag in found if flag is not None}


@attrs.frozen(kw_only=True)
class Report(Finished):
    """The result of a run."""

    handled: int = 0
    """Deliveries that were settled in any way but released."""

    done: int = 0
    retried: int = 0
    """Deliveries that ended in a retry; an event that was retried twice counts twice, even if it is done now."""

    dead: int = 0
    """Dead-lettered; a runner also counts the events that its relay could not pass on."""

    unsettled: int = 0
    """Deliveries that were received and could not be settled; they are delivered again and may run again."""

    seconds: float = 0.0
    stopped_by: str = "empty"
    """
    ``empty``, ``events``, ``time``, ``asked``, or ``objection`` when a hook objects to further events; of a runner
    also ``lock`` when another one runs already, ``memory`` and ``failures``.
    """

    objection: str = ""
    """The words of the hook that objected: ``deploy``, or those of a plugin."""

    reasons: Mapping[str, int] = attrs.field(factory=dict)
    """The number of dead letters, by reason."""

    retry_reasons: Mapping[str, int] = attrs.field(factory=dict)
    """The number of retries, by reason: ``listener-failed``, or the :class:`Reason` for which an event waits."""

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
        )


def retries(report: Report) -> str:
    """Return how many runs of *report* ended in a retry, in words; an event that was retried twice counts twice."""
    return "1 retry" if report.retried == 1 else f"{report.retried} retries"
