"""Drain all transports of an application, in the caller's thread."""

from __future__ import annotations

from logging import getLogger
from typing import TYPE_CHECKING

import attrs

from relevo._runner.loop import LoopRunner
from relevo._visible import visible
from relevo._worker.run import Report, RunOptions

if TYPE_CHECKING:
    from relevo._app.app import App

_log = getLogger("relevo.runner")


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
    return total
