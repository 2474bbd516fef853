"""The relay: moves events from an outbox to the transport that they were meant for, envelopes unchanged."""

from __future__ import annotations

from collections.abc import Sequence

from relevo import _decision as decision
from relevo._clock import Clock
from relevo._delivery import Ack, DeadLetter, Delivery, Nack, Outcome, Release
from relevo._envelope import Envelope
from relevo._executor import Handle
from relevo._route import RESERVED
from relevo._transport import Transport
from relevo.errors import SendError, TransportUnavailableError

_AGAIN_FIRST, _AGAIN_CAP = 1.0, 60.0
_BATCH = 250


def outbox_queue(transport: str) -> str:
    """Return the reserved queue that holds what is meant for *transport*."""
    return f"{RESERVED}{transport}"


class RelayExecutor:
    """
    Hands on what a worker receives from an outbox, a batch at a time.

    An event that the target has confirmed is done here; one whose outcome is unknown is sent again under
    the same id; one that the target refuses is tried again, and dead-lettered when *patience* runs out.
    While the target is down everything stays where it is.

    Args:
        target: Where to.

        clock: Where the time comes from.

        patience: Seconds since the dispatch after which a refused event is dead-lettered.
    """

    def __init__(self, target: Transport, *, clock: Clock, patience: float = decision.PATIENCE):
        self._target = target
        self._clock = clock
        self._patience = patience
        self._batch: list[Delivery] = []
        self._outage: TransportUnavailableError | None = None

    def start(self, handle: Handle) -> None:
        """Nothing to get ready: the events are handed on, not handled."""

    def room(self) -> int:
        return _BATCH - len(self._batch)

    def submit(self, delivery: Delivery) -> None:
        self._batch.append(delivery)

    def running(self) -> int:
        return len(self._batch)

    def finished(self, wait: float) -> Sequence[tuple[Delivery, Outcome]]:
        """
        Send what was submitted and say what became of it.

        Raises:
            TransportUnavailableError: The target was down the last time; what was submitted then was
                released, what was submitted since is sent the next time.
        """
        outage, self._outage = self._outage, None
        if outage is not None:
            raise outage
        batch, self._batch = self._batch, []
        envelopes = [(delivery, delivery.envelope) for delivery in batch if isinstance(delivery.envelope, Envelope)]
        unreadable = [delivery for delivery in batch if not isinstance(delivery.envelope, Envelope)]
        dead = DeadLetter(reason=decision.Reason.UNREADABLE, error="not an envelope")
        return [*((delivery, dead) for delivery in unreadable), *self._handed_on(envelopes)]

    def stop(self) -> None:
        self._batch = []

    def _handed_on(self, batch: Sequence[tuple[Delivery, Envelope]]) -> list[tuple[Delivery, Outcome]]:
        if not batch:
            return []
        try:
            self._target.send([envelope for _, envelope in batch])
        except TransportUnavailableError as error:
            self._outage = error
            return [(delivery, Release()) for delivery, _ in batch]
        except SendError as error:
            return [(delivery, self._after(error, position, delivery)) for position, (delivery, _) in enumerate(batch)]
        return [(delivery, Ack()) for delivery, _ in batch]

    def _after(self, error: SendError, position: int, delivery: Delivery) -> Outcome:
        if position in error.sent:
            return Ack()
        if position in error.refused and self._clock.now() - delivery.enqueued_at >= self._patience:
            return DeadLetter(reason=decision.Reason.REFUSED, error=decision.sanitised(str(error)))
        return Nack(delay=min(_AGAIN_CAP, _AGAIN_FIRST * 2.0 ** min(delivery.attempt - 1, 10)))
