"""The relay: moves events from an outbox to their transport, or between any two queues."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from logging import INFO, WARNING, getLogger

import attrs

from relevo._clock import Clock, readable
from relevo._transport.acceptance import QueueTable
from relevo._transport.delivery import Ack, DeadLetter, Delivery, Nack, Outcome, Release
from relevo._transport.envelope import Envelope
from relevo._transport.route import Target
from relevo._transport.transport import Transport
from relevo._visible import visible
from relevo._worker import decision
from relevo._worker.executor import Executor, Handle
from relevo._worker.ledger import Reminder
from relevo._worker.progress import loaded
from relevo._worker.signing import Signing, UnknownKeyError, wait_for_key
from relevo.errors import (
    CodecError,
    ConfigurationError,
    DecodeError,
    NotAcceptedError,
    RelevoError,
    SendError,
    TransportError,
    TransportUnavailableError,
    UnsupportedError,
    described,
)

_log = getLogger("relevo.relay")

_AGAIN_FIRST, _AGAIN_CAP = 1.0, 60.0
_BATCH = 1000

_MOMENT, _MOST_PASSED_ON = 5.0, 5 * _BATCH
"""For how many seconds, and for how many events at most, a relay remembers what it sent."""

_MOVED = Ack(moved=True)

_UNFIT = (UnsupportedError, CodecError, ValueError, TypeError, OverflowError)
"""Raised by a target for an event that needs an unsupported feature or cannot be encoded."""


class StaysError(RelevoError):
    """Raised by the change of a relay for an event that is not to be moved."""


class RelayExecutor(Executor):
    """
    Passes on what a worker receives from an outbox, a batch at a time.

    An event that the target has confirmed is done here; one whose outcome is unknown is sent again under
    the same id; one that the target refuses is tried again, and dead-lettered when *patience* runs out.
    While the target is down all events stay where they are, and no attempt counts.

    Args:
        target: The transport to send to.

        clock: The source of time.

        patience: Seconds from the first refusal of an event until it is dead-lettered; ``None``: never, it
            stays where it is, and its state is not changed.

        change: Takes an envelope and the queue that it was received from, returns the one to send. It raises
            :class:`DecodeError` for a forged event, which becomes a dead letter, unchanged, and
            :class:`NotAcceptedError` for one that the target queue does not accept, as if the target refused it, and
            :class:`StaysError` for one that is not to be moved.
    """

    waits = True  # for the target to store a batch
    largest_batch = _BATCH  # each batch is durable in two servers, and that costs as much for a few events

    def __init__(
        self,
        target: Transport,
        *,
        clock: Clock,
        patience: float | None = decision.PATIENCE,
        change: Callable[[Envelope, str], Envelope] = lambda envelope, _: envelope,
    ):
        self._target = target
        self._clock = clock
        self._patience = patience
        self._change = change
        self._batch: list[Delivery] = []
        self._outage: TransportError | ConfigurationError | None = None
        self._has_sent = False
        self._passed_on: deque[tuple[float, Mapping[tuple[str, str, str], Delivery]]] = deque()
        self._remembered = 0
        self._reminder = Reminder(clock)

    def start(self, handle: Handle) -> None:
        """Do nothing: the events are passed on, not handled."""

    def room(self) -> int:
        if not self._batch:  # once for a batch, and while there is nothing to send: it holds the bodies
            self._forget()
        outage, self._outage = self._outage, None
        if outage is not None:
            raise outage
        return _BATCH - len(self._batch)

    def submit(self, delivery: Delivery) -> None:
        self._batch.append(delivery)

    def running(self) -> int:
        return len(self._batch)

    def passed_on(self, event: Envelope) -> Delivery | None:
        key, now = (event.source, event.id, event.queue), self._clock.monotonic()
        sent = (batch[key] for at, batch in tuple(self._passed_on) if key in batch and now - at < _MOMENT)
        return next(sent, None)

    def stalled(self) -> Sequence[Delivery]:
        return ()

    def take_finished(self, wait: float) -> Sequence[tuple[Delivery, Outcome]]:
        """Send what was submitted and return the outcomes."""
        batch, self._batch = self._batch, []
        now = self._clock.now()
        ended: list[tuple[Delivery, Outcome]] = []
        sound: list[tuple[Delivery, Envelope]] = []
        for delivery in batch:
            changed = self._changed(delivery, now)
            if isinstance(changed, Envelope):
                sound.append((delivery, changed))
            else:
                ended.append((delivery, changed))
        return ended + self._hand_on(sound) if sound else ended

    def _changed(self, delivery: Delivery, now: float) -> Envelope | Outcome:
        """Return the envelope to send for *delivery*, or the outcome of the event here if it is not sent."""
        envelope = delivery.envelope
        if not isinstance(envelope, Envelope):
            return decision.unreadable(envelope)
        late = None if envelope.expires is None else decision.expired(envelope.expires, now)
        if late is not None:
            return late
        try:
            return self._change(envelope, delivery.queue)
        except UnknownKeyError as error:
            if self._patience is None:
                return self._refuse(delivery, error)
            outcome = wait_for_key(delivery, now, detail=str(error), patience=self._patience)
            self._note_refused(delivery, outcome, str(error), is_first=not delivery.state)
            return outcome
        except (NotAcceptedError, StaysError) as error:
            return self._refuse(delivery, error)
        except TransportError as error:  # it asked the target
            self._outage = error
            return Release()
        except DecodeError as error:
            return DeadLetter(reason=decision.Reason.FORGED, error=decision.sanitised(str(error)))

    def stop(self) -> None:
        self._batch = []
        self._passed_on.clear()
        self._remembered = 0

    def _hand_on(self, batch: Sequence[tuple[Delivery, Envelope]]) -> list[tuple[Delivery, Outcome]]:
        self._remember(batch)
        try:
            self._target.send([envelope for _, envelope in batch])
        except SendError as error:
            return [(delivery, self._after(error, position, delivery)) for position, (delivery, _) in enumerate(batch)]
        except TransportError as error:
            self._outage = error
            return [(delivery, Release()) for delivery, _ in batch]
        except _UNFIT as error:
            if len(batch) == 1:
                return [(batch[0][0], self._refuse(batch[0][0], error))]
            return [ended for entry in batch for ended in self._hand_on([entry])]  # to find the one that is unfit
        except ConfigurationError as error:  # about the target, not an event; after a first success, an outage
            name, why = self._target.name, f"it worked before, and fails now: {error}"
            self._outage = TransportUnavailableError(name, why) if self._has_sent else error
            return [(delivery, Release()) for delivery, _ in batch]
        self._has_sent = True
        return [(delivery, _MOVED) for delivery, _ in batch]

    def _remember(self, batch: Sequence[tuple[Delivery, Envelope]]) -> None:
        """Note which of *batch* is sent now."""
        sent = {(envelope.source, envelope.id, envelope.queue): delivery for delivery, envelope in batch}
        self._passed_on.append((self._clock.monotonic(), sent))
        self._remembered += len(sent)
        self._forget()

    def _forget(self) -> None:
        """Forget what was sent earlier than a moment ago, and the first of too many."""
        now = self._clock.monotonic()
        while self._passed_on and (now - self._passed_on[0][0] >= _MOMENT or self._remembered > _MOST_PASSED_ON):
            _, sent = self._passed_on.popleft()
            self._remembered -= len(sent)

    def _after(self, error: SendError, position: int, delivery: Delivery) -> Outcome:
        if position in error.sent:
            return _MOVED
        if position in error.refused:
            return self._refuse(delivery, error)
        return _again(delivery)

    def _refuse(self, delivery: Delivery, error: Exception) -> Outcome:
        why = str(error) if isinstance(error, RelevoError) else described(error)
        if self._patience is None:
            _log.warning("%s stays: %s", delivery, why)
            return _again(delivery)
        try:
            progress = loaded(delivery.state)
        except DecodeError:
            progress = loaded(b"")
        reason = decision.Reason.NOT_ACCEPTED if isinstance(error, NotAcceptedError) else decision.Reason.REFUSED
        is_first = reason not in progress.waiting
        outcome = progress.give_back(reason, self._clock.now(), detail=why, patience=self._patience)
        self._note_refused(delivery, outcome, why, is_first=is_first)
        return outcome

    def _note_refused(self, delivery: Delivery, outcome: Outcome, why: str, *, is_first: bool) -> None:
        """Log why *delivery* stays when it is refused first, at most once a minute as a warning."""
        if not is_first or not isinstance(outcome, Nack):  # the dead letter is logged too
            return
        event = delivery.envelope
        is_followed = isinstance(event, Envelope) and event.ordering_key is not None
        _log.log(
            WARNING if self._reminder.take_turn() else INFO,
            "%s was not moved, and is tried again for %s: %s%s",
            delivery,
            readable(self._patience or 0.0),
            visible(why),
            "; the events behind it with its ordering key wait meanwhile" if is_followed else "",
        )


def relayed(
    signing: Signing | None, source: str, *, transport: str, queues: QueueTable
) -> Callable[[Envelope, str], Envelope]:
    """
    Return the change for a :class:`RelayExecutor` that moves the events of an outbox, each to its own queue.

    Args:
        signing: Verifies the events and signs them again, if the application signs.

        source: The application's name.

        transport: The name of the transport that the events are moved to.

        queues: The options of the queues.
    """
    if signing is None and not queues:
        return lambda envelope, _: envelope

    def change(envelope: Envelope, _: str) -> Envelope:
        own = envelope.queue
        moved = envelope if signing is None else signing.readdressed(envelope, to=own, queue=own, source=source)
        queues.check(envelope.name, Target(transport, own))
        return moved

    return change


def readdressed(
    signing: Signing | None, source: str, *, to: Target, queues: QueueTable
) -> Callable[[Envelope, str], Envelope]:
    """
    Return the change for a :class:`RelayExecutor` that moves events to another queue.

    Args:
        signing: As for :func:`relayed`.

        source: As for :func:`relayed`.

        to: Where the events are moved.

        queues: As for :func:`relayed`.
    """

    def change(envelope: Envelope, queue: str) -> Envelope:
        if signing is None:
            moved = attrs.evolve(envelope, queue=to.queue)
        else:
            moved = signing.readdressed(envelope, to=to.queue, queue=queue, source=source)
        queues.check(envelope.name, to)
        return moved

    return change


def _again(delivery: Delivery) -> Nack:
    return Nack(delay=min(_AGAIN_CAP, _AGAIN_FIRST * 2.0 ** min(delivery.attempt - 1, 10)))
