"""A run with a time limit: it bounds the worker's own calls, and not what a listener sends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import pytest

from relevo import App, Call, LoopRunner, Report, RunOptions, listener
from relevo._worker.worker import GRACE
from relevo_amqp import AmqpTransport

from .conftest import Server, receive

Connect = Callable[..., AmqpTransport]

LIMITS = (1.0, 5.0, 25.0)
"""Seconds for a run; a longer one if the machine paused until the time was over, before anything was received."""


@pytest.mark.parametrize("execution", ["inline", "threads"])
def test_a_listener_that_outlives_the_time_limit_can_still_send(
    execution: Literal["inline", "threads"], server: Server, connect: Connect, queue: str
) -> None:
    onward = server.queue()

    @listener("image.created", id="outlive", queue=queue)
    def outlive(event: object, call: Call) -> None:
        call.dispatch("image.sent", {"early": True})
        while time.monotonic() <= began + limit + GRACE + 0.5:
            time.sleep(0.1)
        app.dispatch("image.sent", {})
        call.dispatch("image.sent", {})

    with App(
        transports={"main": connect()},
        routes={"*": f"main/{queue}", "image.sent": f"main/{onward}"},
        listeners=[outlive],
    ) as app:
        app.setup()
        for _ in range(3):  # what was fetched ahead goes back meanwhile
            app.dispatch("image.created", {})
        reports: list[Report] = []
        for limit in LIMITS:
            began = time.monotonic()
            options = RunOptions(
                until_empty=True, max_seconds=limit, execution=execution, concurrency=1, queues=(queue,)
            )
            reports.append(LoopRunner().run(app, options))
            if reports[-1].done:
                break

        report = reports[-1]
        assert (report.done, report.retried, report.unsettled, report.stopped_by) == (1, 0, 0, "time")
        with connect() as other:
            assert len(receive(other, onward, limit=1)) == 1
            assert other.stats(onward).ready == 2
