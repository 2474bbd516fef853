"""
The worker: receive, call, settle.

What is to become of a delivery is decided elsewhere (:mod:`relevo._decision`); here it is carried out.
The worker holds deliveries in three places, and everything that is held is renewed until it is settled:
the *backlog* (received, not begun), what the executor runs, and the settlements that wait to be
flushed together.

A delivery with losses may end the process. It is handled alone: nothing else is begun, running or
unflushed while it runs, and what was received with it goes back as released (law 3).
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from logging import WARNING, getLogger

from relevo._clock import Clock
from relevo._delivery import Ack, DeadLetter, Delivery, Nack, Outcome, Settlement
from relevo._executor import Executor, Handle, InlineExecutor
from relevo._hook import Hooks, notify, observed
from relevo._ledger import Ledger
from relevo._pace import Pace
from relevo._runner import Report, RunOptions
from relevo._transport import Transport
from relevo.errors import RelevoError, TransportClosedError, TransportUnavailableError

_log = getLogger("relevo.worker")

LEASE = 60.0
"""Seconds of a lease; renewed every third of it."""

MAX_BATCH = 250
_WAIT = 1.0
_WAIT_BUSY = 0.02
_KEEPER_PERIOD = 0.02
_OUTAGE_FIRST, _OUTAGE_CAP = 0.1, 3.0
_COMPLAIN_EVERY = 60.0


class Worker:
    """
    Handles the events of some queues of one transport until it is told to stop.

    Args:
        transport: Where the events are.

        handle: From a delivery to its outcome.

        queues: In order of preference.

        clock: Where the time comes from, and what waits in an outage.

        chance: Returns random numbers from 0 to 1, for the jitter of waits.

        options: Its limits.

        executor: Where listeners run; in this thread if unsaid.

        hooks: Plugins that look on, and may object to taking further events.

        lease: Seconds for which deliveries are hidden; renewed every third of it where that is claimed.

        patient: Wait for a server that is down, instead of raising.

        background: Renew leases and flush settlements also while a listener runs, from a thread.
    """

    def __init__(
        self,
        transport: Transport,
        handle: Handle,
        *,
        queues: Sequence[str],
        clock: Clock,
        chance: Callable[[], float],
        options: RunOptions | None = None,
        executor: Executor | None = None,
        hooks: Hooks | None = None,
        lease: float = LEASE,
        patient: bool = False,
        background: bool = True,
    ):
        self._transport = transport
        self._handle = handle
        self._queues = tuple(queues)
        self._clock = clock
        self._chance = chance
        self._options = options or RunOptions()
        self._executor: Executor = executor or InlineExecutor()
        self._hooks = hooks or Hooks()
        self._dead_observers = self._hooks.observers("relevo_dead_lettered")
        self._lease = lease
        self._patient = patient
        self._background = background
        most = self._options.batch or MAX_BATCH
        self._backlog: deque[Delivery] = deque()
        self._ledger = Ledger(transport, clock, self._hooks, self._settled, limit=most)
        self._pace = Pace(most)
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._outages = 0
        self._complained = 0.0
        self._started = 0.0
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()

    def stop(self) -> None:
        """Finish what runs, release the rest and end; may be called from a signal's handler or any thread."""
        self._stop.set()

    def run(self) -> Report:
        """
        Handle events until a limit is reached, nothing is ready any more, or :meth:`stop` is called.

        Raises:
            TransportUnavailableError: The server could not be reached, and the worker is not patient.
        """
        self._started = self._clock.monotonic()
        self._executor.start(self._handle)
        keeper = threading.Thread(target=self._keep, name="relevo-keeper", daemon=True)
        if self._background:
            keeper.start()
        around = self._hooks.observers("relevo_around_run")
        try:
            with observed(around, transport=self._transport.name, queues=self._queues):
                stopped_by = self._loop()
        finally:
            try:
                self._put_back()
            finally:
                self._ended.set()
                if self._background:
                    keeper.join()
                self._executor.stop()
        return Report(
            handled=self._counts["handled"],
            done=self._counts["done"],
            retried=self._counts["retried"],
            dead=self._counts["dead"],
            seconds=self._clock.monotonic() - self._started,
            stopped_by=stopped_by,
            reasons=dict(self._reasons),
        )

    # --- the loop -----------------------------------------------------------------------------------

    def _loop(self) -> str:
        while True:
            ended = self._limit_reached()
            if ended and not self._executor.running():
                return ended
            try:
                if not ended:
                    self._begin()
                self._collect()
                if ended or self._backlog or not self._executor.room():
                    continue
                came = self._fetch()
                self._outages = 0
                if not came and self._options.until_empty:
                    if self._ledger.held():
                        self._pause(_WAIT_BUSY)
                    elif self._drained():
                        return "empty"
            except TransportUnavailableError as error:
                self._sit_out(error)

    def _begin(self) -> None:
        """Submit from the backlog what there is room for; a suspect only once it is alone."""
        backlog, executor = self._backlog, self._executor
        while backlog and executor.room() and not self._stop.is_set():
            if not backlog[0].losses:
                executor.submit(backlog.popleft())
            elif executor.running():
                return
            else:
                self._ledger.flush()
                executor.submit(backlog.popleft())
                self._collect(until_idle=True)
                self._ledger.flush()

    def _collect(self, *, until_idle: bool = False) -> None:
        """Note what was finished; with *until_idle*, until nothing runs. Flush when it is time."""
        executor = self._executor
        while True:
            busy = executor.running() and (until_idle or self._backlog or not executor.room())
            for delivery, outcome in executor.finished(_WAIT_BUSY if busy else 0.0):
                self._ledger.add(delivery, outcome)
                self._count(outcome)
            if self._ledger.ripe():
                self._ledger.flush()
            if not until_idle or not executor.running():
                return

    def _fetch(self) -> bool:
        """Receive further events into the backlog; return whether any came."""
        limit = self._pace.limit()
        if self._options.max_events is not None:
            limit = min(limit, self._options.max_events - self._counts["handled"] - self._executor.running())
            if limit < 1:
                return True
        if self._executor.running():
            wait = _WAIT_BUSY
        elif self._options.until_empty:
            wait = 0.0
        else:
            wait = 0.0 if self._ledger.held() else _WAIT
        batch = self._transport.receive(self._queues, limit=limit, lease=self._lease, wait=wait)
        self._pace.received(batch, asked=limit, now=self._clock.monotonic())
        self._ledger.hold(batch)
        suspect = next((delivery for delivery in batch if delivery.losses), None)
        if suspect is None:
            self._backlog.extend(batch)
        else:
            self._backlog.append(suspect)
            self._ledger.release(delivery for delivery in batch if delivery is not suspect)
        if not batch:
            self._ledger.flush()
        return bool(batch)

    def _drained(self) -> bool:
        """Return whether nothing is ready, by the transport's own figures, and nothing worth waiting for comes due."""
        if self._transport.capabilities.stats == "none":
            return True
        stats = [self._transport.stats(queue) for queue in self._queues]
        if any(each.ready for each in stats):
            self._pause(0.01)
            return False
        left = self._options.settle - (self._clock.monotonic() - self._started)
        if left > 0 and any(each.scheduled or each.leased for each in stats):
            self._pause(min(0.05, left))
            return False
        return True

    def _limit_reached(self) -> str | None:
        options = self._options
        if self._stop.is_set():
            return "asked"
        if options.max_events is not None and self._counts["handled"] >= options.max_events:
            return "events"
        if options.max_seconds is not None and self._clock.monotonic() - self._started >= options.max_seconds:
            return "time"
        if not self._backlog:
            objection = self._hooks.objection()
            if objection is not None:
                _log.info("taking no further events: %s", objection)
                return "asked"
        return None

    # --- beside the loop ------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Renew leases and flush settlements while a listener keeps the worker's thread busy."""
        renewed = self._clock.monotonic()
        while not self._ended.wait(_KEEPER_PERIOD):
            try:
                if self._ledger.ripe():
                    self._ledger.flush()
            except RelevoError:
                pass  # the loop meets it too, and knows what to do
            now = self._clock.monotonic()
            if now - renewed >= self._lease / 3:
                renewed = now
                self._ledger.extend(self._lease)

    def _sit_out(self, error: TransportUnavailableError) -> None:
        """Wait for a server that is down, longer each time, with one line a minute; or raise *error*."""
        if not self._patient:
            raise error
        now = self._clock.monotonic()
        if self._outages == 0 or now - self._complained >= _COMPLAIN_EVERY:
            self._complained = now
            _log.warning("%s; waiting until it is back", error)
        longest = min(_OUTAGE_CAP, _OUTAGE_FIRST * 2.0 ** min(self._outages, 10))
        self._outages += 1
        self._pause(longest * (0.5 + self._chance() / 2))

    def _pause(self, seconds: float) -> None:
        """Wait in slices, so that :meth:`stop` is heard."""
        while seconds > 0 and not self._stop.is_set():
            self._clock.sleep(min(seconds, 0.1))
            seconds -= 0.1

    def _put_back(self) -> None:
        """Settle what is finished and release what was not begun."""
        try:
            self._collect(until_idle=True)
            self._ledger.release(self._backlog)
            self._backlog.clear()
            self._ledger.flush()
        except (TransportUnavailableError, TransportClosedError) as error:
            _log.warning("%d held deliveries come back when their lease ends: %s", self._ledger.held(), error)

    # --- counting --------------------------------------------------------------------------------------

    def _count(self, outcome: Outcome) -> None:
        self._counts["handled"] += 1
        if isinstance(outcome, Ack):
            self._counts["done"] += 1
        elif isinstance(outcome, DeadLetter):
            self._counts["dead"] += 1
            self._reasons[outcome.reason] += 1
        elif isinstance(outcome, Nack):
            self._counts["retried"] += 1

    def _settled(self, settlements: Sequence[Settlement], lost: Sequence[Delivery]) -> None:
        for delivery in lost:
            _log.warning("the lease of %r was lost before it was settled; it is handled again", delivery)
        if not self._dead_observers and not _log.isEnabledFor(WARNING):
            return
        for delivery, outcome in settlements:
            if isinstance(outcome, DeadLetter) and delivery not in lost:
                _log.warning("%r is dead: %s", delivery, outcome.reason)
                notify(self._dead_observers, delivery=delivery, outcome=outcome)
