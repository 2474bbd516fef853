"""The schedules of an application, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from relevo._event.event import Event
from relevo._schedule.schedule import Schedule
from relevo.errors import ConfigurationError, shown


class ScheduleTable:
    """
    The schedules of an application.

    Args:
        schedules: The first ones.

    Raises:
        ConfigurationError: Two of them have the same name.
    """

    def __init__(self, schedules: Iterable[Schedule] = ()):
        self._schedules: dict[str, Schedule] = {}
        for each in schedules:
            self.add(each)

    def add(self, schedule: Schedule) -> None:
        """
        Add *schedule*; one that says the same, as after a module was loaded again, replaces the former one.

        Raises:
            ConfigurationError: Another one has its name.
        """
        former = self._schedules.get(schedule.name)
        if former is not None and _said(former) != _said(schedule):
            raise ConfigurationError(
                f"schedule: {shown(schedule.name)} is the name of another one already, at {former.cron}; pass name= "
                f"to tell them apart"
            )
        self._schedules[schedule.name] = schedule

    def __iter__(self) -> Iterator[Schedule]:
        return iter(self._schedules.values())

    def __len__(self) -> int:
        return len(self._schedules)

    def copy(self) -> ScheduleTable:
        """Return a table with the same schedules."""
        return ScheduleTable(self)


def _said(schedule: Schedule) -> tuple[object, ...]:
    event = schedule.event
    # Values of a class that was defined again are not equal, but look the same.
    data = event.arguments if isinstance(event, Event) else repr(event)
    options = schedule.urgency, schedule.ordering_key, schedule.expires
    return schedule.cron, schedule.event_name, data, schedule.timezone, schedule.missed, schedule.grace, options
