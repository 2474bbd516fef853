"""Fire the schedules of one transport: what is due, in batches, and no tick twice."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from heapq import heappop, heappush
from itertools import islice
from logging import getLogger
from typing import Protocol

import attrs

from relevo._clock import readable
from relevo._schedule.schedule import Due, Schedule

_BATCH = 100
"""Schedules that are fired in one transaction."""

_AGAIN = 60
"""
Seconds after which a schedule is looked at again that another worker has fired, or that could not be fired.

The other worker may have died when it had fired some of many missed ticks.
"""

_AHEAD = 3600
"""Seconds; a schedule that has fired up to a later time than that from now shows that a clock was wrong."""

_log = getLogger("relevo.schedule")


@attrs.frozen
class ScheduleStep:
    """What one schedule is to do."""

    schedule: Schedule

    fired: int | None
    """Up to when it has fired, in seconds since the epoch; ``None`` if it is new."""

    due: Due


class FiringLedger(Protocol):
    """Stores up to when schedules have fired, and sends the events of their ticks."""

    def holding(self) -> AbstractContextManager[bool]:
        """Return a block in which schedules may be fired, if it yields true; else another worker fires them."""
        ...

    def fired(self, names: Sequence[str]) -> Mapping[str, int]:
        """Return up to when the schedules *names* have fired, without new ones."""
        ...

    def fire(self, steps: Sequence[ScheduleStep]) -> Collection[str]:
        """Carry out *steps*; return the names of the schedules that no other worker has fired meanwhile."""
        ...


class Clockwork:
    """
    Fires schedules when it is turned; any number of processes may have one each.

    Up to when a schedule has fired is read again before it fires, since another process may have fired it.

    Args:
        schedules: The schedules.

        ledger: Where they fire.
    """

    def __init__(self, schedules: Iterable[Schedule], ledger: FiringLedger):
        self._schedules = {each.name: each for each in schedules}
        self._ledger = ledger
        self._waiting = list(self._schedules)
        """Those of which it is not known yet up to when they have fired."""
        self._upcoming: list[tuple[int, str]] = []
        """A heap of the next tick of each schedule, and its name."""

    def __len__(self) -> int:
        return len(self._schedules)

    @property
    def next(self) -> int | None:
        """The next tick of all schedules, in seconds since the epoch; ``None`` if there is none, or it is not known."""
        return self._upcoming[0][0] if self._upcoming else None

    def turn(self, now: float) -> int:
        """
        Fire what is due at *now*, in seconds since the epoch; a new schedule fires from now on.

        Returns:
            The number of ticks that were fired.

        Raises:
            TransportError: A server could not be reached, or refused an event; what is due is fired by a later call.
        """
        moment = int(now)
        if self._waiting:
            self._look(moment)
        if self.next is None or self.next > moment:
            return 0
        with self._ledger.holding() as may_fire:
            return self._fire_all(moment) if may_fire else 0

    def _look(self, now: int) -> None:
        """Read up to when the schedules have fired; new ones begin at *now*."""
        while self._waiting:
            names = self._waiting[:_BATCH]
            fired = self._ledger.fired(names)
            steps = [ScheduleStep(self._schedules[each], None, Due((), now)) for each in names if each not in fired]
            if steps:
                self._ledger.fire(steps)
            for each in names:
                known = fired.get(each, now)
                if known > now + _AHEAD:
                    _log.warning(
                        'the schedule "%s" has fired up to a time that comes in %s: the clock of this host, or of '
                        "another one, was wrong; it fires again after that time, or under another name",
                        each,
                        readable(known - now),
                    )
                self._expect(each, known)
            del self._waiting[:_BATCH]

    def _fire_all(self, now: int) -> int:
        again: list[str] = []
        number = 0
        while names := list(islice(self._due(now), _BATCH)):
            try:
                number += self._fire(sorted(names), now, again)
            except BaseException:
                for each in names:
                    heappush(self._upcoming, (now, each))
                raise
        for each in again:
            heappush(self._upcoming, (now + _AGAIN, each))
        return number

    def _due(self, now: int) -> Iterator[str]:
        """Take the schedules that are due from the heap."""
        while self._upcoming and self._upcoming[0][0] <= now:
            yield heappop(self._upcoming)[1]

    def _fire(self, names: Sequence[str], now: int, again: list[str]) -> int:
        """Fire what is due of *names*; add to *again* those that were not fired here."""
        fired = self._ledger.fired(names)
        steps = []
        for name in names:
            known = fired.get(name)
            due = self._schedules[name].due(known, now) if known is not None else Due((), now)
            if due is not None:
                steps.append(ScheduleStep(self._schedules[name], known, due))
            else:
                self._expect(name, max(now, fired[name]))
        stored = self._ledger.fire(steps) if steps else ()
        number = 0
        for step in steps:
            name = step.schedule.name
            if name in stored:
                number += len(step.due.ticks)
                self._expect(name, step.due.until)
            else:
                again.append(name)
        return number

    def _expect(self, name: str, fired: int) -> None:
        """Wait for the first tick of the schedule *name* after *fired*."""
        following = self._schedules[name].next(fired)
        if following is not None:
            heappush(self._upcoming, (following, name))
