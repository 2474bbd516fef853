"""
The verdict on a suspect, decided from values alone: no clock, no I/O.

A delivery with lost leases is a suspect: the process that held it may have died of it, or may only have lost its
connection. The note that a worker stored before it began the event names that process. Whether the process has
ended is the evidence. Three deaths make a crash loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto

import msgspec

from relevo._process_identity import ProcessIdentity
from relevo._transport.delivery import MAX_DEATHS, Delivery, Note
from relevo._transport.transport import Presence

CRASH_LOOP_DEATHS = 3

GRACE = 30.0
"""
Seconds for which a process on another host has to be away before it counts as dead.

Longer than a worker needs to reconnect after a restart of the server, including its longest pause.
"""

APPEAR_EVERY = 10.0
"""Seconds between two heartbeats."""

_LATE = 1.5 * APPEAR_EVERY
"""Seconds after its last heartbeat for which a worker still counts as alive."""

_LONGEST_GAP = 5.0
"""The most seconds that count between two checks: this process may have been suspended or disconnected itself."""


class Fate(Enum):
    """What is known about a process that began an event."""

    SELF = auto()
    """It is this worker, or one of this process whose run is over."""

    ALIVE = auto()
    AWAY = auto()
    """It sends no heartbeat, but not for long enough."""

    GONE = auto()

    UNKNOWN = auto()
    """Its identity is invalid, so it does not count as a death."""


class MayBegin(msgspec.Struct, frozen=True):
    """The event may be begun."""

    deaths: tuple[str, ...] = ()
    """The processes that may have died of it, to be kept with the note."""


class Wait(msgspec.Struct, frozen=True):
    """Not now: the process that began it is alive and may still settle it, or may not have ended."""


class CrashLoop(msgspec.Struct, frozen=True):
    """The event becomes a dead letter."""

    deaths: tuple[str, ...]


Verdict = MayBegin | Wait | CrashLoop


def judged(note: Note | None, deaths: Sequence[str], fate: Callable[[str], Fate], *, patient: bool) -> Verdict:
    """
    Return the verdict on a suspect.

    A process that seems to have ended is added to the deaths, and the event is begun. Each later verdict checks all
    deaths again and removes a process that is alive after all.

    Args:
        note: The note of the last process that began it, unless that process gave it back.

        deaths: The processes that are presumed dead already.

        fate: Returns what is known about the process whose identity it is given as text.

        patient: Wait if the process that began it is alive.
    """
    accused = list(dict.fromkeys(deaths))
    if note is not None and patient and fate(note.by) is Fate.ALIVE:
        return Wait()
    if note is not None and not note.excused:
        accused.append(note.by)
    fates = {each: fate(each) for each in accused}
    ended = tuple(each for each in fates if fates[each] in (Fate.AWAY, Fate.GONE))
    if len(ended) < CRASH_LOOP_DEATHS:
        return MayBegin(ended)
    gone = tuple(each for each in ended if fates[each] is Fate.GONE)
    return CrashLoop(gone[:MAX_DEATHS]) if len(gone) >= CRASH_LOOP_DEATHS else Wait()


def described_past(delivery: Delivery) -> str:
    """Return how many leases of *delivery* were lost, and which process and listener began it last, in words."""
    note, number = delivery.begun, delivery.lost_leases
    process = ProcessIdentity.parsed(note.by if note is not None else (delivery.deaths or ("",))[-1])
    last = "the process that held it is not known" if process is None else f"begun last by {in_words(process)}"
    where = f" in {note.listener}" if note is not None and note.listener else ""
    return f"after {number} lost lease{'s' if number != 1 else ''}; {last}{where}"


def in_words(process: ProcessIdentity) -> str:
    """Return *process* for people; a process id is unique only until its host starts again."""
    return f"pid {process.pid} of boot {process.boot[:8] or 'unknown'}"


def described_deaths(deaths: Sequence[str], *, last: str) -> str:
    """
    Return the evidence for a crash loop in words.

    Args:
        deaths: The processes that died.

        last: How the last one died, or in which listener; empty if that is not known.
    """
    parsed = [each for each in map(ProcessIdentity.parsed, deaths) if each is not None]
    pids: dict[str, dict[str, None]] = {}
    for each in parsed:
        pids.setdefault(each.boot[:8] or "unknown", {})[str(each.pid)] = None
    who = "; ".join(f"pid {', '.join(found)} of boot {boot}" for boot, found in pids.items())
    cause = last or "a listener ends its process, or memory runs out"
    processes = {(each.boot, each.namespace, each.pid, each.started) for each in parsed}
    what = "processes died while they held it" if len(processes) == len(parsed) else "runs of it were broken off"
    return f"{len(deaths)} {what}; {cause} ({who})"


def cannot_tell(lost_leases: int, *, last: str = "") -> str:
    """Return the reason for giving up an event whose transport keeps no evidence."""
    cause = f"; {last}" if last else ""
    return (
        f"{lost_leases} hand-overs ended without an outcome: "
        f"a process ended or its connection was lost; this transport cannot tell{cause}"
    )


class Absences:
    """
    How long each worker has been away, by the clock of this process.

    Times of two hosts are never compared. Only the time between two answered checks counts.
    """

    def __init__(self) -> None:
        self._seen: dict[str, _Look] = {}

    def look(self, asked: Sequence[str], signs: Mapping[str, Presence], now: float) -> None:
        """
        Record the answer to a check.

        Args:
            asked: The workers that were asked for.

            signs: The heartbeats that were found.

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
        """Return what is known about *worker*, which was checked just now."""
        look = self._seen.get(worker)
        if look is None:
            return Fate.AWAY
        if look.was_alive and look.away < _LATE:
            return Fate.ALIVE
        return Fate.GONE if look.away >= GRACE else Fate.AWAY

    def forget(self, before: float) -> None:
        """Forget workers that were last checked before the monotonic time *before*."""
        self._seen = {worker: look for worker, look in self._seen.items() if look.at >= before}


class _Look(msgspec.Struct, frozen=True):
    beats: int | None
    at: float
    away: float
    """Seconds without a sign."""

    was_alive: bool
    """Whether its last heartbeat was seen, so that the next one may not be due yet."""

    is_connected: bool = False
