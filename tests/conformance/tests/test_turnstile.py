"""Two calls at once go as the schedule says, and the suite finds a race by it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import ClassVar

import pytest
from hypothesis import Phase

from relevo import Action, Delivery, State
from relevo_conformance import promise
from relevo_conformance.examination import examine
from relevo_conformance.fault.turnstile import Turnstile
from relevo_memory import MemoryTransport
from relevo_memory._queue import Receipt

from .memory import MemoryHarness


class Steps:
    """Writes down who takes which step."""

    def __init__(self, turnstile: Turnstile) -> None:
        self.turnstile = turnstile
        self.taken: list[str] = []

    def walk(self, who: str, number: int) -> None:
        for step in range(number):
            if step:
                self.turnstile.stop()
            self.taken.append(f"{who}{step}")


@pytest.mark.parametrize(
    ("schedule", "taken"),
    [
        ([], ["a0", "a1", "a2", "b0", "b1"]),
        ([1, 1], ["b0", "b1", "a0", "a1", "a2"]),
        ([0, 1, 0, 1, 0], ["a0", "b0", "a1", "b1", "a2"]),
        ([0, 1, 1, 1, 0], ["a0", "b0", "b1", "a1", "a2"]),
    ],
)
def test_the_schedule_says_whose_turn_it_is(
    schedule: Sequence[int], taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "relevo_conformance.fault.turnstile.BLOCKED", 60.0
    )  # no step blocks, and a pause of the machine must not count as one that does
    turnstile = Turnstile(schedule)
    steps = Steps(turnstile)

    errors = turnstile.run(lambda: steps.walk("a", 3), lambda: steps.walk("b", 2))

    assert steps.taken == taken
    assert errors == [None, None]


def test_who_waits_for_a_lock_is_left_waiting_while_the_other_goes_on() -> None:
    turnstile = Turnstile([0, 1, 1, 1])
    lock = threading.Lock()
    is_held = threading.Event()
    taken: list[str] = []

    def hold() -> None:
        with lock:
            is_held.set()
            turnstile.stop()
            taken.append("held")

    def wait() -> None:
        is_held.wait()  # a pause of the machine may have counted as a step that blocks
        with lock:
            taken.append("came after")

    turnstile.run(hold, wait)

    assert taken == ["held", "came after"]


def test_what_a_call_raises_is_told_and_the_other_comes_to_its_end() -> None:
    turnstile = Turnstile()
    steps = Steps(turnstile)
    error = ValueError("no")

    def fail() -> None:
        raise error

    assert turnstile.run(fail, lambda: steps.walk("b", 2)) == [error, None]
    assert steps.taken == ["b0", "b1"]


def test_nobody_waits_at_a_stop_outside_of_a_run() -> None:
    Turnstile([0]).stop()


class LooksThenLeases(MemoryTransport):
    """Selects what is ready, and then updates it without looking again."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        with self._open() as now:
            found = [self.store._at(name, now) for name in queues]
            ready = [(queue, one) for queue in found for one in queue.events.values() if one.status is State.READY]
        with self._open() as now:
            for queue, event in ready[:limit]:
                if event.status is State.READY:
                    event.until = now + lease
                    queue.step(event, Action.RECEIVE)
                event.receipt = Receipt(queue.name, event.number)
            return [event.delivery() for _, event in ready[:limit]]


class RacyHarness(MemoryHarness):
    transport: ClassVar[type[MemoryTransport]] = LooksThenLeases


def test_a_claim_that_trusts_an_earlier_look_is_found() -> None:
    (finding,) = examine(
        RacyHarness,
        profile="quick",
        phases=(Phase.generate,),
        matching=lambda name, _: name == "test_two_receives_at_once_hand_out_each_event_once",
    )

    assert finding.status == "broken"
    assert promise.LEASED_IS_HIDDEN.id in finding.promises
