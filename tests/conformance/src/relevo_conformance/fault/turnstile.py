"""
Interleave concurrent calls by a schedule: at each step one of them continues to its next stop.

A stop is a place where another worker may act between two steps, such as before a statement. Only one thread
runs at a time. A thread that waits for a lock of another one, and so reaches no stop, keeps waiting while the
others continue. The same schedule gives the same history, so a failure shrinks, and can be repeated.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

BLOCKED = 0.05
"""Seconds of real time after which a call that reaches no stop is assumed to wait for another one."""

_STUCK = 60.0
"""Seconds of real time after which calls that all wait for one another count as a deadlock."""


class Turnstile:
    """Lets one thread through at a time."""

    def __init__(self, schedule: Iterable[int] = ()) -> None:
        """
        Create a turnstile for one :meth:`run`.

        Args:
            schedule: The index of the call that continues, for each step; after its end the first call that can.
        """
        self._schedule = iter(schedule)
        self._changed = threading.Condition()
        self._passengers: list[_Passenger] = []
        self._of = threading.local()

    def stop(self) -> None:
        """Wait until the schedule lets this thread continue; do nothing in a thread that :meth:`run` did not start."""
        passenger = getattr(self._of, "passenger", None)
        if passenger is None:
            return
        with self._changed:
            passenger.waits = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not passenger.waits)

    @property
    def steps(self) -> Sequence[int]:
        """The number of steps that each call took."""
        return [passenger.steps for passenger in self._passengers]

    def run(self, *calls: Callable[[], object]) -> list[BaseException | None]:
        """Run *calls*, each in a thread of its own; return what each raised."""
        self._passengers = [_Passenger(call) for call in calls]
        for passenger in self._passengers:
            threading.Thread(target=self._ride, args=(passenger,), daemon=True).start()
        with self._changed:
            assert self._changed.wait_for(lambda: all(one.waits for one in self._passengers), _STUCK)
            while not all(one.over for one in self._passengers):
                self._step()
        return [passenger.error for passenger in self._passengers]

    def _step(self) -> None:
        """Let one call continue to its next stop, or its end, or until it is assumed to be blocked."""
        waiting = [one for one in self._passengers if one.waits]
        if not waiting:
            # All remaining calls wait for one another, or for time to pass.
            assert self._changed.wait_for(self._any_arrived, _STUCK), "the calls wait for one another"
            return
        chosen = self._chosen(waiting)
        chosen.waits = False
        chosen.steps += 1
        self._changed.notify_all()
        self._changed.wait_for(lambda: chosen.waits or chosen.over, BLOCKED)

    def _chosen(self, waiting: Sequence[_Passenger]) -> _Passenger:
        wanted = next(self._schedule, None)
        if wanted is not None and (one := self._passengers[wanted % len(self._passengers)]) in waiting:
            return one
        return waiting[0]

    def _any_arrived(self) -> bool:
        return any(one.waits for one in self._passengers) or all(one.over for one in self._passengers)

    def _ride(self, passenger: _Passenger) -> None:
        self._of.passenger = passenger
        self.stop()
        try:
            passenger.call()
        except BaseException as error:  # noqa: BLE001 - raised by the run
            passenger.error = error
        with self._changed:
            passenger.over = True
            self._changed.notify_all()


class _Passenger:
    """One call that runs."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.waits = False
        self.over = False
        self.steps = 0
        self.error: BaseException | None = None
