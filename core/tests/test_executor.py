from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from relevo import Ack, Delivery, Executor, InlineExecutor, Lost, Outcome, ProcessIdentity

Make = Callable[..., Delivery]


def _started(handle: Callable[[Delivery], Outcome]) -> Executor:
    executor: Executor = InlineExecutor()
    executor.start(handle)
    return executor


def test_it_handles_one_delivery_at_a_time_where_it_is_submitted(delivery: Make) -> None:
    one = delivery()
    executor = _started(lambda _: Ack())

    executor.submit(one)

    assert (executor.room(), executor.running()) == (0, 1)
    assert executor.take_finished(0.0) == [(one, Ack())]
    assert (executor.room(), executor.running()) == (1, 0)
    assert executor.take_finished(0.0) == []


def _is_witnessed(death: str | None) -> bool:
    process = ProcessIdentity.parsed(death or "")
    return process is not None and process.witnessed and process.pid == os.getpid()


@pytest.mark.parametrize("defect", [RuntimeError, SystemExit, GeneratorExit, KeyboardInterrupt])
def test_a_defect_or_an_interrupt_counts_as_a_loss_so_that_it_cannot_stop_the_queue_for_ever(
    delivery: Make, defect: type[BaseException]
) -> None:
    def defective(_: Delivery) -> Outcome:
        raise defect

    one = delivery()
    executor = _started(defective)

    with pytest.raises(defect):
        executor.submit(one)

    ((ended, outcome),) = executor.take_finished(0.0)
    assert ended is one
    assert isinstance(outcome, Lost)
    assert _is_witnessed(outcome.death)


def test_what_was_not_collected_is_forgotten_when_it_stops(delivery: Make) -> None:
    executor = _started(lambda _: Ack())
    executor.submit(delivery())

    executor.stop()

    assert executor.running() == 0
