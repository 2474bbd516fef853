"""
The verdict on a suspect, decided from values alone: no clock, no I/O.

A delivery with losses is a suspect: whoever held it may have died of it, or only have lost its connection.
What a worker noted before it began the event says who that was, and whether that process has ended is the
evidence. Three deaths make a crash loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto

import attrs

from relevo._delivery import MAX_DEATHS, Note
from relevo._process import ProcessIdentity
from relevo._transport import Presence

CRASH_LOOP_DEATHS = 3

GRACE = 30.0
"""
Seconds for which a process on another host has to be away before it counts as dead.

Longer than a worker takes to connect again after a restart of the server, its longest pause included.
"""

APPEAR_EVERY = 10.0
"""Seconds between two signs of life."""

_LATE = 1.5 * APPEAR_EVERY
"""Seconds for which a worker whose last sign was seen still counts as alive."""

_LONGEST_GAP = 5.0
"""Seconds that count at most between two looks: whoever looks may have been stopped, or disconnected, itself."""


class Fate(Enum):
    """What is known of a process that began an event."""

    SELF = auto()
    """It is the one that asks."""

    ALIVE = auto()
    AWAY = auto()
    """It gives no sign of life, but not for long enough."""

    GONE = auto()

    UNKNOWN = auto()
    """It cannot be read who it is; that accuses nothing."""


@attrs.frozen
class Begin:
    """The event may be begun."""

    deaths: tuple[str, ...] = ()
    """The processes that may have died of it, to be kept with the note."""


@attrs.frozen
class Wait:
    """Not now: the process that began it lives and may still settle it, or it is not certain that it has ended."""


@attrs.frozen
class CrashLoop:
    """It ends here."""

    deaths: tuple[str, ...]


Verdict = Begin | Wait | CrashLoop


def judged(note: Note | None, deaths: Sequence[str], fate: Callable[[str], Fate], *, patient: bool) -> Verdict:
    """
    Return what follows from the evidence on a suspect.

    A process that only seems to have ended is among the deaths from then on, and the event is begun all the same. All
    of them are asked for again each time, and one that is there after all is struck off.

    Args:
        note: Of the last process that began it, unless it gave it back.

        deaths: The processes that are taken for dead already.

        fate: From the text of an identity to what is known of that process now.

        patient: Wait for a process that began it and lives.
    """
    accused = list(dict.fromkeys(deaths))
    if note is not None and patient and fate(note.by) is Fate.ALIVE:
        return Wait()
    if note is not None and not note.excused:
        accused.append(note.by)
    fates = {each: fate(each) for each in accused}
    ended = tuple(each for each in fates if fates[each] in (Fate.AWAY, Fate.GONE))
    if len(ended) < CRASH_LOOP_DEATHS:
        return Begin(ended)
    gone = tuple(each for each in ended if fates[each] is Fate.GONE)
    return CrashLoop(gone[:MAX_DEATHS]) if len(gone) >= CRASH_LOOP_DEATHS else Wait()


def described_deaths(deaths: Sequence[str], *, last: str) -> str:
    """
    Return the evidence for a crash loop in words.

    Args:
        deaths: Who died.

        last: How the last one did, or in which listener; empty if that is not known.
    """
    parsed = [each for each in map(ProcessIdentity.parsed, deaths) if each is not None]
    who = ", ".join(f"pid {each.pid} of boot {each.boot[:8] or 'unknown'}" for each in parsed)
    cause = last or "a listener ends them, or the memory does"
    return f"{len(deaths)} processes died while they held it; {cause} ({who})"


def cannot_tell(losses: int, *, last: str = "") -> str:
    """Return why an event is given up where the transport keeps no evidence."""
    told = f"; {last}" if last else ""
    return (
        f"{losses} hand-overs ended without an outcome: "
        f"a process ended or its connection was lost; this transport cannot tell{told}"
    )


class Absences:
    """
    How long each worker has been away, by the clock of the one that looks.

    Times of two hosts are never compared, and an interval counts only between two looks that were answered.
    """

    def __init__(self) -> None:
        self._seen: dict[str, _Look] = {}

    def look(self, asked: Sequence[str], signs: Mapping[str, Presence], now: float) -> None:
        """
        Note an answer.

        Args:
            asked: The workers that were asked for.

            signs: What was found of them.

            now: Monotonic seconds.
        """
        for worker in asked:
            sign, before = signs.get(worker), self._seen.get(worker)
            beats = None if sign is None else sign.beats
            if sign is not None and (sign.connected or (before is not None and before.beats != beats)):
                self._seen[worker] = _Look(beats, now, 0.0, was_alive=True, is_connected=sign.connected)
            elif before is None:
                self._seen[worker] = _Look(beats, now, 0.0, was_alive=False)
            else:
                away = before.away + max(0.0, min(now - before.at, _LONGEST_GAP))
                self._seen[worker] = _Look(beats, now, away, was_alive=before.was_alive and not before.is_connected)

    def fate(self, worker: str) -> Fate:
        """Return what is known of *worker*, which was looked for just now."""
        look = self._seen.get(worker)
        if look is None:
            return Fate.AWAY
        if look.was_alive and look.away < _LATE:
            return Fate.ALIVE
        return Fate.GONE if look.away >= GRACE else Fate.AWAY

    def forget(self, before: float) -> None:
        """Forget workers that were last looked for before the monotonic time *before*."""
        self._seen = {worker: look for worker, look in self._seen.items() if look.at >= before}


@attrs.frozen
class _Look:
    beats: int | None
    at: float
    away: float
    """Seconds without a sign."""

    was_alive: bool = attrs.field(kw_only=True)
    """Whether its last sign was seen to come, so that the next one may just not be due."""

    is_connected: bool = attrs.field(default=False, kw_only=True)
