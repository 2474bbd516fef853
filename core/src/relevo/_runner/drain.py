"""Drain all transports of an application, in the caller's thread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from logging import INFO, getLogger
from typing import TYPE_CHECKING

import attrs

from relevo._runner.loop import LoopRunner
from relevo._transport.query import EventFilter
from relevo._visible import visible
from relevo._worker.run import Report, RunOptions
from relevo.errors import TransportError

if TYPE_CHECKING:
    from relevo._app.app import App

_log = getLogger("relevo.runner")

_UNKNOWN = "until their lease ends"


def drain_everything(app: App, options: RunOptions) -> Report:
    """
    Handle ready events on the transport of *options*, by default on all of *app*, until none is left or a limit.

    Listeners may dispatch from one transport to another, so all are drained in turn until none has an event.
    """
    names = list(app.transports) if options.transport is None else [app.transport(options.transport).name]
    runner = LoopRunner(signals=False, others=False)
    began = app.clock.monotonic()
    total = Report()
    while names:
        before = total.handled
        for name in names:
            left = attrs.evolve(options, transport=name, until_empty=True)
            if options.max_events is not None:
                left = attrs.evolve(left, max_events=max(0, options.max_events - total.handled))
            if options.max_seconds is not None:
                left = attrs.evolve(left, max_seconds=max(0.0, options.max_seconds + began - app.clock.monotonic()))
            total = Report.sum_of([total, runner.run(app, left)])
            if total.stopped_by != "empty":
                return total
        if len(names) == 1 or total.handled == before:
            break
    if options.event_id is not None and not total.handled and not total.unsettled:
        _log.warning(
            "no event was handled: none with the id %s can be taken from %s",
            visible(options.event_id),
            ", ".join(names),
        )
    elif not total.handled and _log.isEnabledFor(INFO):
        for name in names:
            _log_held(app, name, options.queues or app.queues(name))
    return total


def _log_held(app: App, name: str, queues: Sequence[str]) -> None:
    """Log how many events of *queues* are held by another worker, or by a process that has ended, and until when."""
    transport = app.transport(name)
    if transport.capabilities.stats == "none":
        return
    try:
        number = sum(transport.stats(queue).leased or 0 for queue in queues)
        is_listed = number and transport.capabilities.waiting
        found = transport.waiting(queues, where=EventFilter(states=("leased",))) if is_listed else ()
    except TransportError as error:
        _log.debug('the events of "%s" cannot be counted: %s', name, error)
        return
    if not number:
        return
    ends = [each.until for each in found if each.until is not None]
    is_known = len(ends) >= number  # else the last one may be on another page
    again = f"until {time.strftime('%H:%M:%SZ', time.gmtime(max(ends)))} at the latest" if is_known else _UNKNOWN
    _log.info(
        "no event was handled: another worker, or a process that has ended, holds %d of %s, %s",
        number,
        name,
        again,
    )
