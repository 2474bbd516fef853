"""The upkeep of a database runs its tasks in turn."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from relevo.errors import ConfigurationError, TransportClosedError, TransportUnavailableError
from relevo.testing import FakeClock
from relevo_sql._upkeep import Upkeep


def task(name: str, calls: list[str], parts: int) -> Callable[[], bool]:
    """Return a task that has *parts* left to do, and writes its *name* to *calls* for each."""
    left = [parts]

    def do() -> bool:
        calls.append(name)
        left[0] -= 1
        return left[0] > 0

    return do


def upkeep(*tasks: Callable[[], bool], clock: FakeClock) -> Upkeep:
    return Upkeep(tasks, clock, place=lambda: "the database", every=60.0)


def test_each_task_does_its_part_however_much_another_has_left() -> None:
    calls: list[str] = []
    ours = upkeep(task("long", calls, 1000), task("short", calls, 1), clock=FakeClock())

    ours.run()
    ours.run()

    assert calls == ["long", "short"] * 2


def test_spare_time_is_used_until_nothing_is_left() -> None:
    calls: list[str] = []
    ours = upkeep(task("long", calls, 3), task("short", calls, 1), clock=FakeClock())

    ours.run(spare=1.0)
    ours.run(spare=1.0)  # not due

    assert calls == ["long", "short"] * 3


def test_it_is_due_again_after_a_while() -> None:
    calls: list[str] = []
    clock = FakeClock()
    ours = upkeep(task("one", calls, 1), clock=clock)

    for _ in range(3):
        ours.run()
        clock.advance(60)

    assert calls == ["one"] * 3


@pytest.mark.parametrize(
    ("error", "levels"),
    [
        (TransportUnavailableError("main", "it is down"), ["INFO", "WARNING"]),  # the work reports an outage
        (ConfigurationError("a table is missing"), ["WARNING", "WARNING"]),
        (TransportClosedError("closed"), []),
    ],
)
def test_a_failure_is_not_the_works(error: Exception, levels: list[str], caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []

    def fail() -> bool:
        calls.append("failed")
        raise error

    clock = FakeClock()
    ours = upkeep(fail, clock=clock)

    with caplog.at_level("INFO", "relevo.sql"):
        ours.run()
        ours.run()  # not due
        clock.advance(60)
        ours.run()

    assert calls == ["failed"] * 2
    assert [record.levelname for record in caplog.records] == levels
