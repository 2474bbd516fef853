"""What the tests of the worker share: handles and executors that note what they are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from relevo import Ack, Delivery, Envelope, Executor, Outcome, RunOptions
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

DRAIN = RunOptions(until_empty=True)
PATIENCE = 300.0


def id_of(delivery: Delivery) -> str:
    assert isinstance(delivery.envelope, Envelope)
    return delivery.envelope.id


class Handled(list[str]):
    """A handle that notes what it is given and is done with it, unless told otherwise."""

    def __init__(self, *, then: Callable[[Delivery], Outcome | None] = lambda _: None) -> None:
        super().__init__()
        self.then = then

    def __call__(self, delivery: Delivery) -> Outcome:
        self.append(id_of(delivery))
        return self.then(delivery) or Ack()


def lose(transport: Any, clock: FakeClock, number: int, *, times: int = 1) -> None:
    """Let somebody receive so many events and die, so often."""
    for _ in range(times):
        MemoryTransport.receive(transport, ["default"], limit=number, lease=60.0, wait=0.0)
        clock.advance(61)


class Slots(Executor):
    """Handles in several places at once, each delivery for as many seconds as it takes."""

    def __init__(self, clock: FakeClock, number: int, *, takes: Callable[[Delivery], float] = lambda _: 0.5) -> None:
        self.clock = clock
        self.number = number
        self.takes = takes
        self.busy: list[tuple[Delivery, float]] = []
        self.beside: dict[str, int] = {}
        self.polls = 0

    def start(self, handle: Callable[[Delivery], Outcome]) -> None:
        self.handle = handle

    def room(self) -> int:
        return self.number - len(self.busy)

    def submit(self, delivery: Delivery) -> None:
        assert self.room()
        self.busy.append((delivery, self.clock.now() + self.takes(delivery)))
        for one, _ in self.busy:
            self.beside[id_of(one)] = max(self.beside.get(id_of(one), 0), len(self.busy) - 1)

    def take_finished(self, wait: float) -> Sequence[tuple[Delivery, Outcome]]:
        self.polls += 1
        if not self._over():
            self.clock.sleep(wait)
        over = self._over()
        self.busy = [one for one in self.busy if one not in over]
        return [(delivery, self.handle(delivery)) for delivery, _ in over]

    def running(self) -> int:
        return len(self.busy)

    def stalled(self) -> Sequence[Delivery]:
        return ()

    def stop(self) -> None:
        self.busy = []

    def _over(self) -> Sequence[tuple[Delivery, float]]:
        return [one for one in self.busy if one[1] <= self.clock.now()]
