"""The options and the report of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs


@attrs.frozen(kw_only=True)
class RunOptions:
    """
    The options of a run; a limit that is ``None`` does not apply.

    *max_memory* and *max_failures* are limits of a runner: a worker that is run by itself has no such limits.
    """

    transport: str | None = None
    """Which of the application's transports; the only one by default."""

    queues: tuple[str, ...] = ()
    """In order of preference; all that routes lead to if empty."""

    until_empty: bool = False
    """Stop when nothing is ready any more."""

    settle: float = 0.0
    """With *until_empty*: seconds to wait also for what becomes due, such as retries."""

    max_events: int | None = None
    max_seconds: float | None = None
    max_memory: int | None = None
    """Bytes; a runner stops when its process has grown to this size."""

    max_failures: int | None = None
    """A runner stops soon after this number of deliveries ended in a retry or a dead letter."""

    batch: int | None = None
    """Events received at once; the transport's measure by default."""

    execution: Literal["inline", "threads", "process"] | None = None
    """Where listeners run; what the application says by default."""

    concurrency: int | None = None
    """How many events are handled at once; what the application says by default."""


@attrs.frozen(kw_only=True)
class Report:
    """What a run did."""

    handled: int = 0
    """Deliveries that were settled in any way but released."""

    done: int = 0
    retried: int = 0
    dead: int = 0
    """Dead-lettered; a runner counts also what the relay that it runs beside could not hand on."""

    unsettled: int = 0
    """Deliveries that were received and could not be settled; they are delivered again and may run again."""

    seconds: float = 0.0
    stopped_by: str = "empty"
    """
    ``empty``, ``events``, ``time``, ``asked``, or ``objection`` when a hook lets nothing further be taken; of a runner
    also ``lock`` when another one is at it, ``memory`` and ``failures``.
    """

    reasons: Mapping[str, int] = attrs.field(factory=dict)
    """How many were dead-lettered for which reason."""
