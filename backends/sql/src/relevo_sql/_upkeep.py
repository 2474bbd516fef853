"""Upkeep: what workers do for the database beside their work, a little at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from logging import INFO, WARNING, getLogger

from relevo import Clock
from relevo.errors import RelevoError, TransportClosedError, TransportUnavailableError
from relevo_sql._archive import DoneTable
from relevo_sql._database import Database
from relevo_sql._sweep import Sweep

_log = getLogger("relevo.sql")

EVERY = 60.0
"""Seconds after which upkeep is due again."""

_PART = 10
"""What is kept for less than ten minutes is kept for a tenth of that too long at most."""

_PAGES = 250
"""How many pages of a file are given back at once: a megabyte, as a rule."""


class Upkeep:
    """
    Runs tasks when they are due.

    Args:
        tasks: Each does a little, and returns whether more may be left to do.

        clock: The source of time.

        place: The database in words.

        every: Seconds after which they are due again if nothing was left to do.
    """

    def __init__(self, tasks: Sequence[Callable[[], bool]], clock: Clock, *, place: Callable[[], str], every: float):
        self._tasks = tasks
        self._clock = clock
        self._place = place
        self._every = every
        self._due = float("-inf") if tasks else float("inf")
        self._has_failed = False

    def run(self, spare: float = 0.0) -> None:
        """Do a little if it is due, or more while less than *spare* seconds have passed; it raises nothing."""
        now = began = self._clock.monotonic()
        if now < self._due:
            return
        self._due = now + self._every  # another thread leaves it to this one
        try:
            while True in [task() for task in self._tasks]:  # each does its part, however much another has left
                now = self._clock.monotonic()
                if now - began >= spare:
                    self._due = now
                    break
            self._has_failed = False
        except TransportClosedError:
            return
        except RelevoError as error:  # the work itself goes on; an outage is reported there
            is_news = self._has_failed or not isinstance(error, TransportUnavailableError)
            self._has_failed = True
            level = WARNING if is_news else INFO
            _log.log(level, "the upkeep of %s failed, and is tried again later: %s", self._place(), error)


def upkeep_of(database: Database, clock: Clock, keys: Sweep, archive: DoneTable | None) -> Upkeep:
    """Return the upkeep of *database* with its *keys*, and of its *archive* if it has one."""
    tasks: list[Callable[[], bool]] = [keys.step]
    every = EVERY
    if archive is not None:
        tasks.append(archive.forget)
        every = min(every, archive.keep / _PART)
    if database.dialect.is_file and database.is_own:
        tasks.append(partial(_give_back, database))
    return Upkeep(tasks, clock, place=lambda: database.place, every=every)


def _give_back(database: Database) -> bool:
    """Give some of the space that is free in the file of *database* back; return whether there was any to give."""
    spare = database.read(database.dialect.spare_pages)
    if spare:
        database.write(partial(database.dialect.give_back, pages=min(spare, _PAGES)), patience=0.0)
    return spare > 0
