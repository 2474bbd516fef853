"""Fire the schedules of one transport: what is due, in batches, and no tick twice."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from heapq import heappop, heappush
from logging import getLogger
from typing import Protocol

import attrs

from relevo._clock import END_OF_DATES, readable
from relevo._schedule.schedule import Due, Schedule

_BATCH = 100
"""Schedules that are fired in one transaction."""

_MOST_EVENTS = 1000
"""Events that are stored in one transaction."""

_AGAIN = 60
"""
Seconds after which a schedule is looked at again that another worker has fired, or that could not be fired.

The other worker may have died when it had fired some of many missed ticks.
"""

_AHEAD = 3600
"""Seconds; a schedule that has fired up to a later time than that from now shows that a clock was wrong."""

_LAST = END_OF_DATES - 100 * 366 * 86_400
"""Seconds since the epoch; after that the search for the next tick would come to the end of all dates."""

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

    def fire(self, steps: Sequence[ScheduleStep], may_go_on: Callable[[], bool]) -> Collection[str]:
        """
        Carry out *steps*; return the names of the schedules that no other worker has fired meanwhile.

        If they are more than one transaction, it ends between two as soon as *may_go_on* returns false.
        """
        ...


def _always() -> bool:
    return True


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

    def turn(self, now: float, *, may_go_on: Callable[[], bool] = _always) -> int:
        """
        Fire what is due at *now*, in seconds since the epoch; a new schedule fires from now on.

        A schedule that has to fire many missed ticks fires the first of them; so the others do not wait for it. Turn it
        until it returns 0.

        Args:
            now: The time.

            may_go_on: What is due is left to a later call as soon as this returns false.

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
            return self._fire_all(moment, may_go_on) if may_fire else 0

    def _look(self, now: int) -> None:
        """Read up to when the schedules have fired; new ones begin at *now*."""
        while self._waiting:
            names = self._waiting[:_BATCH]
            fired = self._ledger.fired(names)
            steps = [ScheduleStep(self._schedules[each], None, Due((), now)) for each in names if each not in fired]
            if steps:
                self._ledger.fire(steps, _always)
            for each in names:
                known = fired.get(each, now)
                if is_possible(known) and known > now + _AHEAD:
                    _log.warning(
                        'the schedule "%s" has fired up to a time that comes in %s: the clock of this host, or of '
                        "another one, was wrong; it fires again after that time, or under another name",
                        each,
                        readable(known - now),
                    )
                self._expect(each, self._following(each, known) if is_possible(known) else now)
            del self._waiting[:_BATCH]

    def _fire_all(self, now: int, may_go_on: Callable[[], bool]) -> int:
        due = []
        while self._upcoming and self._upcoming[0][0] <= now:
            due.append(heappop(self._upcoming)[1])
        number = 0
        try:
            while due and may_go_on():
                fired, following = self._fire(sorted(due[:_BATCH]), now, may_go_on)
                number += fired
                del due[:_BATCH]
                for name, moment in following.items():
                    self._expect(name, moment)
        finally:
            for each in due:
                self._expect(each, now)
        return number

    def _fire(
        self, names: Sequence[str], now: int, may_go_on: Callable[[], bool]
    ) -> tuple[int, Mapping[str, int | None]]:
        """Fire what is due of *names*; return the number of ticks, and when each is to be looked at again."""
        fired = self._ledger.fired(names)
        most = max(1, _MOST_EVENTS // len(names))
        following: dict[str, int | None] = {}
        steps = []
        for name in names:
            known = fired.get(name)
            if known is not None and not is_possible(known):
                _log.error('the schedule "%s" cannot fire: %s', name, impossible(known))
                following[name] = now + _AGAIN
                continue
            due = self._schedules[name].due(known, now, most=most) if known is not None else Due((), now)
            if due is not None:
                steps.append(ScheduleStep(self._schedules[name], known, due))
            else:
                following[name] = self._following(name, max(now, fired[name]))
        stored = self._ledger.fire(steps, may_go_on) if steps else ()
        number = 0
        for step in steps:
            name = step.schedule.name
            if name in stored:
                number += len(step.due.ticks)
                following[name] = self._following(name, step.due.until)
            else:
                following[name] = now + _AGAIN
        return number, following

    def _following(self, name: str, fired: int) -> int | None:
        """Return the first tick of the schedule *name* after *fired*, if there is one."""
        return self._schedules[name].next(fired)

    def _expect(self, name: str, moment: int | None) -> None:
        """Look at the schedule *name* again at *moment*."""
        if moment is not None:
            heappush(self._upcoming, (moment, name))


def is_possible(fired: int) -> bool:
    """Return whether a schedule can have *fired* up to this time, in seconds since the epoch."""
    return 0 <= fired < _LAST


def impossible(fired: int) -> str:
    """Return what to do about a store that has an impossible time in it."""
    return (
        f"the stored time up to which it has fired is impossible ({fired} s after 1970); delete it from the store, "
        f"and the schedule begins again as a new one"
    )
