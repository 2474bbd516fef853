"""Makes a worker keep the limits of its queues, which apply to all workers together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import groupby
from logging import getLogger
from math import inf
from typing import Protocol
from uuid import uuid4

import msgspec

from relevo._clock import Clock
from relevo._transport.delivery import Delivery, Outcome, Release
from relevo._transport.limit import Limit
from relevo._transport.limit_store import LimitStore
from relevo._transport.transport import Transport
from relevo._worker.aside import Aside
from relevo._worker.executor import Flow, Steps
from relevo._worker.ledger import Reminder
from relevo._worker.usage import SOON, Grant, Usage, packed, requested, unpacked, validity
from relevo.errors import RelevoError, TransportUnavailableError

_log = getLogger("relevo.worker")

_AFTER_OUTAGE, _LONGEST_OUTAGE = 1.0, 15.0
"""Seconds after which to ask again, if the store could not be reached; longer each time, since it may hang."""

_AT_MOST = 1.0
"""Seconds of a request to a store that is not the transport itself: other queues of the worker wait meanwhile."""

_SETTLE_UP, _SETTLE_UP_LATER = 0.02, 0.25
"""Seconds after which places of events that are settled are given back, if places are scarce, and if they are not."""

_PART_OF_WINDOW = 10
"""Where events wait in the worker, they may begin for up to one of this many parts of the window."""

_ANSWERS = 4
"""How many answers of the store fit into the time for which a worker may begin what it was allowed."""

_SELDOM = 0.2
"""Seconds after which to ask again at most for a place that another worker has; a worker that waits costs little so."""

_TRIES = 3
"""How often a thread asks for the delivery that it is to begin."""

_SHARE = 4
"""A worker takes at most one of this many free places at once, beyond those that it can use at once."""

_KEPT_FOR = 60.0
"""Seconds for which what counts is stored, beyond the time for which it counts."""

Take = Callable[[Sequence[str], int, float], Sequence[Delivery]]
"""Receives from queues, at most a number of deliveries, after a wait of at most some seconds."""


class _UnchangedError(Exception):
    """Raised by a change that changes nothing, so that nothing is written."""


class _Permit:
    """What a delivery was allowed."""

    __slots__ = ("is_begun", "part", "until")

    def __init__(self, part: float, until: float):
        self.part = part
        self.until = until
        """The monotonic time until which it may begin."""
        self.is_begun = False


class _Gate:
    """One queue with a limit; its fields are guarded by the lock of the limiter."""

    def __init__(self, queue: str, limit: Limit, key: str):
        self.queue = queue
        self.limit = limit
        self.key = key
        """That of the store."""
        window = 0.0 if limit.rate is None else limit.rate.window
        self.least = self.valid_for = inf if limit.rate is None else validity(limit.rate)
        """Seconds for which a worker may begin what it was allowed."""
        self.most = window / _PART_OF_WINDOW
        self.kept_for = 3 * window + _KEPT_FOR  # what may begin up to a window later counts for longer than one
        self.free = inf
        """How many further events seem to be allowed; before the first request, any number."""
        self.opens_at = -inf
        """The monotonic time at which to ask again, if no further event is allowed."""
        self.permits: dict[Delivery, _Permit] = {}
        self.unused: list[float] = []
        """The times at which permits count as used that were not, and that the store does not know of."""
        self.reported = 0
        """How many places this worker has, as far as the store knows."""
        self.asked_at = -inf
        """The monotonic time of the last request."""
        self.denials = 0
        """How often in a row no further event was allowed."""
        self.renew_at = -inf
        """The monotonic time at which to renew the places."""
        self.is_logged = False
        """Whether it was logged that the limit is reached, since it last was not."""

    @property
    def owes(self) -> bool:
        """Whether this worker has something to give back."""
        return len(self.permits) < self.reported or bool(self.unused)

    @property
    def is_scarce(self) -> bool:
        """Whether other workers may wait for places."""
        most = self.limit.concurrency
        return bool(self.unused) or (most is not None and self.free < most / _SHARE)


class Limiter:
    """
    Asks the store of limits which events may begin; its methods may be called from any thread.

    Args:
        store: Counts for all workers.

        limits: By queue.

        clock: The source of time.

        transport: The name of the transport for the store; empty if they are the same.

        lease: Seconds for which what a worker handles counts, unless it is renewed.

        slots: How many events the worker can run at once.

        holds: Returns whether a delivery is held, as far as is known.

        patient: Wait for a store that is down, instead of raising.
    """

    def __init__(
        self,
        store: LimitStore,
        limits: Mapping[str, Limit],
        clock: Clock,
        *,
        transport: str,
        lease: float,
        slots: int,
        holds: Callable[[Delivery], bool],
        patient: bool,
    ):
        self._store = store
        self._clock = clock
        self._lease = lease
        self._slots = slots
        self._holds = holds
        self._patient = patient
        self._worker = uuid4().hex
        self._gates = {queue: _Gate(queue, limit, key_of(transport, queue)) for queue, limit in limits.items()}
        self._lock = threading.RLock()
        self._reminder = Reminder(clock)
        self._active_at = clock.monotonic()
        self._failures = 0
        """How often in a row the store could not be reached."""
        self._aside = Aside("relevo-limits") if transport else None
        """Asks another store than the transport itself: if it hangs, the worker goes on with other queues."""

    def start(self) -> None:
        """Begin a run."""
        self._active_at = self._clock.monotonic()

    # --- receiving -----------------------------------------------------------------------------------

    def receive(self, take: Take, queues: Sequence[str], *, limit: int, wait: float) -> Sequence[Delivery]:
        """
        Receive from *queues* what seems to be allowed; what is, :meth:`admitted` decides.

        Args:
            take: Receives.

            queues: In order of preference.

            limit: The most deliveries.

            wait: Seconds to wait for events.
        """
        room = {queue: self._room(queue, limit) for queue in queues}
        is_open = [queue for queue in queues if room[queue]]
        if not is_open:
            return ()
        groups = [(key, list(group)) for key, group in groupby(is_open, key=self._group)]
        if len(groups) > 1:
            for _, group in groups:
                if batch := take(group, room[group[0]], 0.0):
                    return batch
            if not wait:
                return ()
        if len(is_open) < len(queues):
            wait = min(wait, self.opens_in(queues))
        return take(is_open, min(room[queue] for queue in is_open), wait)

    def opens_in(self, queues: Iterable[str]) -> float:
        """Return the seconds until a queue that seems closed is worth another request; infinite if none is closed."""
        with self._lock:
            for gate in self._of(queues):
                self._prune(gate)
            times = [gate.opens_at for gate in self._of(queues) if gate.free < 1]
        now = self._clock.monotonic()
        return max(0.0, min(times) - now) if times else inf

    def is_closed(self, queues: Iterable[str]) -> bool:
        """Return whether one of *queues* seems to have reached its limit."""
        return any(gate.free < 1 for gate in self._of(queues))

    def closed(self, queues: Iterable[str]) -> Collection[str]:
        """Return those of *queues* that seem to have reached their limits."""
        return [gate.queue for gate in self._of(queues) if gate.free < 1]

    def has_settled(self, queues: Iterable[str]) -> bool:
        """Return whether this worker has places of *queues* that seem closed, and does not need them any more."""
        with self._lock:
            for gate in self._of(queues):
                self._prune(gate)
            return any(gate.free < 1 and gate.opens_at == -inf for gate in self._of(queues))

    def closed_for(self, queues: Sequence[str]) -> float:
        """Return the seconds until one of *queues* is worth another request, if all seem closed; 0 if one is open."""
        with self._lock:
            return self.opens_in(queues) if all(self.is_closed([each]) for each in queues) else 0.0

    def opens_within(self, patience: float, queues: Collection[str]) -> bool:
        """
        Return whether one of *queues* may open soon.

        Args:
            patience: Seconds after an event was last admitted or settled.

            queues: Some that seemed closed.
        """
        with self._lock:  # the thread that reads ahead may ask meanwhile
            left = self.opens_in(queues)
            is_open = len(self.closed(queues)) < len(queues)
            return is_open or (patience > 0 and self._clock.monotonic() + left <= self._active_at + patience)

    def _group(self, queue: str) -> str:
        """Return what queues have in common that are received from together: a queue with a limit stands alone."""
        return queue if queue in self._gates else ""

    def _room(self, queue: str, limit: int) -> int:
        gate = self._gates.get(queue)
        if gate is None:
            return limit
        with self._lock:
            if gate.free < 1 and self._clock.monotonic() >= gate.opens_at:
                self._ask(gate, 0)
            if gate.limit.concurrency is None:
                return int(min(limit, gate.free))
            free = min(gate.free, gate.limit.concurrency)
            return int(min(limit, max(min(free, self._slots), free // _SHARE)))  # the others are for other workers

    # --- beginning ------------------------------------------------------------------------------------

    def admitted(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return the deliveries of *batch* that may begin, and note them; the others have to be given back."""
        if not any(each.queue in self._gates for each in batch):
            return batch
        allowed: dict[str, int] = {}
        with self._lock:
            for gate in self._of(dict.fromkeys(each.queue for each in batch)):
                mine = [each for each in batch if each.queue == gate.queue]
                allowed[gate.queue] = self._permit(gate, mine)
        kept = []
        for each in batch:
            if each.queue in allowed:
                allowed[each.queue] -= 1
                if allowed[each.queue] < 0:
                    continue
            kept.append(each)
        return kept

    def begins(self, delivery: Delivery) -> bool:
        """Return whether *delivery*, which was admitted, may begin now, and note that; not if it is too late."""
        gate = self._gates.get(delivery.queue)
        if gate is None:
            return True
        permit = gate.permits.get(delivery)  # a held one keeps its permit, so the lock is not needed
        if permit is None or self._clock.monotonic() > permit.until:
            gate.valid_for = max(gate.valid_for, min(2 * gate.valid_for, gate.most))
            return False
        permit.is_begun = True
        return True

    def still_begins(self, delivery: Delivery, *, asks: bool) -> bool:
        """
        Return whether *delivery* may begin, which may have waited for a thread.

        Args:
            delivery: One that was admitted.

            asks: Whether to ask again if the permission has ended; blocking.
        """
        gate = self._gates.get(delivery.queue)
        if gate is None or self.begins(delivery):
            return True
        with self._lock:
            if (permit := gate.permits.get(delivery)) is not None:
                permit.is_begun = False
            # If the answer takes longer than the permission lasts, the next one lasts for several such answers.
            return asks and any(self._permit(gate, [delivery]) and self.begins(delivery) for _ in range(_TRIES))

    def _permit(self, gate: _Gate, deliveries: Sequence[Delivery]) -> int:
        """Ask for places for *deliveries*, note those that are allowed, the first ones, and return their number."""
        for each in deliveries:
            if each in gate.permits:
                self._forget(gate, each)
        before, valid_for = self._clock.monotonic(), gate.valid_for
        grant = self._ask(gate, len(deliveries))
        if grant.number:
            self._active_at = before
        for each in deliveries[: grant.number]:
            gate.permits[each] = _Permit(grant.part, before + valid_for)
        return grant.number

    # --- giving back -------------------------------------------------------------------------------------

    def settle_up(self) -> None:
        """Give back the places of events that are settled, if that is due."""
        now = self._clock.monotonic()
        for gate in self._gates.values():
            is_due = now - gate.asked_at >= (_SETTLE_UP if gate.is_scarce else _SETTLE_UP_LATER)
            if is_due and not self._failures and (gate.permits or gate.owes):
                with self._lock:
                    self._prune(gate)
                    if gate.owes:
                        self._ask(gate, 0)

    def keep_up(self) -> None:
        """Keep the places of what runs for another lease, when it is time for that."""
        now = self._clock.monotonic()
        for gate in self._gates.values():
            if gate.reported and now >= gate.renew_at:
                with self._lock:
                    self._ask(gate, 0)

    def close(self) -> None:
        """Give back what is not used, and all places but those of what is still held; not to a store that is down."""
        for gate in self._gates.values():
            with self._lock, suppress(RelevoError):
                self._prune(gate)
                if gate.owes and not self._failures:
                    self._ask(gate, 0)
        if self._aside is not None:
            self._aside.end()

    def _prune(self, gate: _Gate) -> None:
        """Forget the permits of what is settled: its places can be asked for at once."""
        if over := [each for each in gate.permits if not self._holds(each)]:
            self._active_at = self._clock.monotonic()
            for each in over:
                self._forget(gate, each)
            if gate.limit.concurrency is not None:
                gate.opens_at = -inf

    def _forget(self, gate: _Gate, delivery: Delivery) -> None:
        permit = gate.permits.pop(delivery)
        if not permit.is_begun and gate.limit.rate is not None:
            gate.unused.append(permit.part)

    # --- the store -----------------------------------------------------------------------------------------

    def _ask(self, gate: _Gate, wanted: int) -> Grant:
        """
        Ask for *wanted* further places; if the store cannot be reached, there is none.

        Raises:
            RelevoError: It cannot, and the worker is not patient.
        """
        self._prune(gate)
        keeps, unused = len(gate.permits), tuple(gate.unused)
        gate.unused.clear()  # if it is not known whether the store has taken it, it counts: not to be given back twice
        grant = Grant(number=0)

        def change(stored: bytes, now: float) -> bytes:
            nonlocal grant
            usage, grant = requested(
                _readable(stored, gate.queue),
                gate.limit,
                worker=self._worker,
                now=now,
                wanted=wanted,
                keeps=keeps,
                lease=self._lease,
                unused=unused,
                valid_for=gate.valid_for,
            )
            after = packed(usage)
            if after == stored:
                raise _UnchangedError
            return after

        gate.asked_at = self._clock.monotonic()
        try:
            self._change(gate, change)
        except _UnchangedError:
            pass
        except RelevoError as error:
            self._note_outage(gate, error)
            if not self._patient:
                raise
            return Grant(number=0)
        self._failures = 0
        if gate.limit.rate is not None:
            took = self._clock.monotonic() - gate.asked_at
            before = gate.least if grant.number < wanted else gate.valid_for
            gate.valid_for = max(before, min(_ANSWERS * took, gate.limit.rate.window))
        gate.reported = keeps + grant.number if gate.limit.concurrency is not None else 0
        gate.free = grant.free
        gate.denials = 0 if grant.free or grant.number else gate.denials + 1
        again = grant.again if grant.again != SOON else min(SOON * 2 ** (gate.denials - 1), _SELDOM)
        gate.opens_at = gate.asked_at + again
        gate.renew_at = gate.asked_at + self._lease / 3
        if not gate.free and grant.number < wanted and not gate.is_logged:
            _log.info("the queue %s has reached its limit: %s; its other events wait", gate.queue, gate.limit)
        gate.is_logged = not gate.free and (gate.is_logged or grant.number < wanted)
        return grant

    def _change(self, gate: _Gate, change: Callable[[bytes, float], bytes]) -> None:
        def work() -> None:
            if self._aside is not None and isinstance(self._store, Transport):
                self._store.hurry(_AT_MOST)
            self._store.change_limit(gate.key, change, ttl=gate.kept_for + self._lease)

        if self._aside is None:
            work()
            return
        try:
            self._aside.call(work, within=_AT_MOST)
        except TimeoutError:
            name = str(getattr(self._store, "name", "coordinator"))
            raise TransportUnavailableError(name, f"it does not answer within {_AT_MOST:g} s") from None

    def _note_outage(self, gate: _Gate, error: RelevoError) -> None:
        """Let all queues with a limit wait, since the store could not be reached for *gate*."""
        pause = min(_AFTER_OUTAGE * 2**self._failures, _LONGEST_OUTAGE)
        self._failures += 1
        now = self._clock.monotonic()
        for each in self._gates.values():
            each.free, each.opens_at = 0, now + pause
            each.renew_at = max(each.renew_at, now + _AFTER_OUTAGE)
        if self._reminder.take_turn():
            queues = ", ".join(self._gates)
            _log.warning("queues with a limit wait (%s), since it cannot be checked: %s", queues, error)

    def _of(self, queues: Iterable[str]) -> Iterator[_Gate]:
        return (self._gates[queue] for queue in queues if queue in self._gates)


def _readable(stored: bytes, queue: str) -> Usage:
    try:
        return unpacked(stored)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _log.warning("what counts against the limit of %s cannot be read; the count starts from zero: %s", queue, error)
        return Usage()


def key_of(transport: str, queue: str) -> str:
    """Return the key of the limit of *queue*; *transport* is its name for the store."""
    return sha256(msgspec.json.encode(("limit", transport, queue))).hexdigest()[:40]


class StillBegins(Protocol):
    """Returns whether a limit lets a delivery begin; *asks* says whether it may wait for the store."""

    def __call__(self, delivery: Delivery, /, *, asks: bool) -> bool: ...


def unless_late(steps: Steps, may_begin: StillBegins) -> Steps:
    """Return steps that give back a delivery that has waited for a thread, and that its limit lets begin no longer."""

    def checked(delivery: Delivery, /, *, on_loop: bool) -> Flow | Outcome:
        return steps(delivery, on_loop=on_loop) if may_begin(delivery, asks=not on_loop) else Release()

    return checked
