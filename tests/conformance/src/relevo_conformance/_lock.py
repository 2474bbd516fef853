"""
The model of a lock: its possible states after calls that may have overlapped.

A call takes effect at one moment between its beginning and its end. So each result must fit one order of the calls: the
model follows all of them, and forgets those that a result excludes.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from relevo_conformance.history import Lock, RenewLock, Unlock

Call = Lock | RenewLock | Unlock
Result = bool | None
"""Whether a lock was taken, or a receipt held it; ``None`` of an unlock."""


@attrs.frozen
class HeldLock:
    """A lock that has a holder."""

    holder: str
    receipt: int
    """The number of the call that took it."""

    until: tuple[float, float]
    """The earliest and the latest time at which it expires, in seconds since the epoch."""

    def __str__(self) -> str:
        return f"held by {self.holder!r} until {self.until[1]:.3f}, by the receipt of call {self.receipt}"


@attrs.frozen(kw_only=True)
class Flight:
    """A call that has not returned."""

    op: int
    call: Call
    receipt: int | None
    """The number of the call that returned the receipt which it was given, if one did."""

    began: float


Situation = tuple[HeldLock | None, frozenset[tuple[int, Result]]]
"""Who holds the lock, and which of the calls in flight have taken effect, with their results."""


def effects(
    held: HeldLock | None, flight: Flight, now: float, slack: float
) -> Iterator[tuple[HeldLock | None, Result]]:
    """Yield what the call *flight* may make of *held* between its beginning and *now*, each with its result."""
    match flight.call:
        case Lock(holder=holder, ttl=ttl):
            is_anothers = held is not None and held.holder != holder
            if held is None or not is_anothers or held.until[0] <= now + slack:
                yield HeldLock(holder, flight.op, (flight.began + ttl, now + ttl)), True
            if held is not None and is_anothers and held.until[1] > flight.began - slack:
                yield held, False
        case RenewLock(ttl=ttl):
            if held is not None and held.receipt == flight.receipt:
                yield attrs.evolve(held, until=(flight.began + ttl, now + ttl)), True
            else:
                yield held, False
        case Unlock():
            yield (None if held is not None and held.receipt == flight.receipt else held), None


@attrs.define(eq=False)
class LockModel:
    """One lock."""

    slack: float
    """Seconds by which the coordinator's clock may differ from the times of the calls."""

    situations: frozenset[Situation] = frozenset({(None, frozenset())})
    is_known: bool = True
    """Whether its situations are known; they are not after a call that failed, or broke a promise."""

    _flying: dict[int, Flight] = attrs.field(factory=dict)

    def begin(self, flight: Flight) -> None:
        """Let a call begin."""
        self._flying[flight.op] = flight

    def end(self, op: int, result: Result, now: float) -> frozenset[HeldLock | None]:
        """Let the call *op* end with *result*; return who may have had the lock, if that is impossible."""
        possible = self._possible(now)
        fitting = frozenset((held, done - {(op, result)}) for held, done in possible if (op, result) in done)
        del self._flying[op]
        if not self.is_known or fitting:
            self.situations = fitting
            return frozenset()
        self.is_known = False
        return frozenset(held for held, _ in self.situations)

    def give_up(self, op: int) -> None:
        """Let the call *op* end with an error: from now on nothing is known."""
        self._flying.pop(op, None)
        self.is_known = False

    def _possible(self, now: float) -> frozenset[Situation]:
        """Return the situations after any of the calls in flight, in any order."""
        found, fresh = set(self.situations), list(self.situations)
        while fresh and self.is_known:
            held, done = fresh.pop()
            effected = {number for number, _ in done}
            for flight in self._flying.values():
                if flight.op in effected:
                    continue
                for after, result in effects(held, flight, now, self.slack):
                    situation = after, done | {(flight.op, result)}
                    if situation not in found:
                        found.add(situation)
                        fresh.append(situation)
        return frozenset(found)


@attrs.define(eq=False)
class Locks:
    """The locks of a history by name, and the calls that returned receipts."""

    by_name: dict[str, LockModel] = attrs.field(factory=dict)
    receipts: dict[str, int] = attrs.field(factory=dict)
