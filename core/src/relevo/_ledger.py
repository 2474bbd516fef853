"""What a worker holds: deliveries whose leases it renews, and settlements that wait to be flushed together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from logging import getLogger

from relevo._clock import Clock
from relevo._delivery import Delivery, Outcome, Release, Settlement
from relevo._hook import Hooks, observed
from relevo._transport import Transport
from relevo.errors import SettleError, TransportClosedError, TransportUnavailableError, UnsupportedError

_log = getLogger("relevo.worker")

FLUSH_AFTER = 0.01
"""Seconds after which a settlement waits no longer for others to go with."""

_MOST_FAILURES = 5
_AGAIN_AFTER = 1.0
"""Seconds after which a settlement that failed is tried again."""


class Ledger:
    """
    Keeps the books of one worker; its methods may be called from the worker and from its keeper.

    Args:
        transport: Where the deliveries come from and go to.

        clock: Where the time comes from.

        hooks: Plugins that look on.

        settled: Called with what was settled and with the deliveries among it whose lease was lost.

        limit: So many settlements do not wait any longer.
    """

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        hooks: Hooks,
        settled: Callable[[Sequence[Settlement], Sequence[Delivery]], None],
        *,
        limit: int,
    ):
        self._transport = transport
        self._clock = clock
        self._around = hooks.observers("relevo_around_settle")
        self._settled = settled
        self._limit = limit
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._held: dict[Delivery, None] = {}
        self._pending: list[Settlement] = []
        self._failed: list[Settlement] = []
        self._since = 0.0
        self._failed_at = 0.0
        self._failures = 0

    def hold(self, deliveries: Iterable[Delivery]) -> None:
        """Note that *deliveries* were received."""
        with self._lock:
            self._held.update(dict.fromkeys(deliveries))

    def held(self) -> int:
        """Return how many are held: received and not known to be settled."""
        return len(self._held)

    def add(self, delivery: Delivery, outcome: Outcome) -> None:
        """Note how *delivery* ends, to be settled with the next flush."""
        with self._lock:
            if not self._pending:
                self._since = self._clock.monotonic()
            self._pending.append((delivery, outcome))

    def release(self, deliveries: Iterable[Delivery]) -> None:
        """Note that *deliveries* were not begun."""
        for delivery in deliveries:
            self.add(delivery, Release())

    def ripe(self) -> bool:
        """Return whether the settlements that wait should be flushed now."""
        pending = len(self._pending)
        return pending >= self._limit or (pending > 0 and self._clock.monotonic() - self._since >= FLUSH_AFTER)

    def flush(self) -> None:
        """
        Settle all that waits.

        Raises:
            TransportUnavailableError: The server could not be reached; it all waits still.

            SettleError: Some could not be settled, and not for the first time.
        """
        with self._flushing:
            batch = self._taken()
            if not batch:
                return
            lost: Sequence[Delivery] = ()
            unsettled: frozenset[object] = frozenset()
            try:
                if self._around:
                    with observed(self._around, transport=self._transport.name, settlements=batch):
                        lost = self._transport.settle(batch)
                else:
                    lost = self._transport.settle(batch)
            except SettleError as error:
                self._failures += 1
                if self._failures > _MOST_FAILURES:
                    raise
                _log.error("%s; trying again", error)  # noqa: TRY400 - its cause says nothing more
                lost = [delivery for delivery, _ in batch if delivery in error.lost]
                unsettled = frozenset(error.unsettled)
            except BaseException:
                with self._lock:
                    self._pending[:0] = batch
                raise
            else:
                self._failures = 0
            with self._lock:
                for delivery, _ in batch:
                    if delivery not in unsettled:
                        self._held.pop(delivery, None)
                if unsettled:
                    self._failed += [entry for entry in batch if entry[0] in unsettled]
                    self._failed_at = self._clock.monotonic()
        self._settled([entry for entry in batch if entry[0] not in unsettled], lost)

    def extend(self, lease: float) -> None:
        """Keep all that is held hidden for another *lease* seconds, where the transport can."""
        with self._lock:
            held = list(self._held)
        if not held or not self._transport.capabilities.extend:
            return
        try:
            lost = self._transport.extend(held, lease=lease)
        except (TransportUnavailableError, TransportClosedError, UnsupportedError) as error:
            _log.warning("the leases of %d deliveries could not be renewed: %s", len(held), error)
            return
        with self._lock:
            waiting = {delivery for delivery, _ in self._pending}
            gone = [delivery for delivery in lost if delivery in self._held and delivery not in waiting]
        for delivery in gone:
            _log.warning("the lease of %r was lost while it was held; it may be handled twice", delivery)

    def _taken(self) -> list[Settlement]:
        with self._lock:
            batch, self._pending = self._pending, []
            if self._failed and self._clock.monotonic() - self._failed_at >= _AGAIN_AFTER:
                batch += self._failed
                self._failed = []
            return batch
