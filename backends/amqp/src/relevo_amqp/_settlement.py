"""The message that replaces a delivery after its outcome, or in another queue; pure functions."""

from __future__ import annotations

import attrs

from relevo import MAX_DEATHS, MAX_ERROR, Ack, DeadLetter, Delivery, Lost, Nack, Outcome, Release
from relevo_amqp._header import MAX_REASON, NotePlace, fitting
from relevo_amqp._mapping import DeadLetterDetails, Message, MessageRecord, reference, suspect_key, written
from relevo_amqp._topology import Role, Topology, word


def message_of(
    delivery: Delivery,
    outcome: Outcome,
    *,
    topology: Topology,
    now: float,
    unique: str,
    begun_at: NotePlace | None = None,
) -> Message | None:
    """
    Return the message that must be confirmed before *delivery* is acked; ``None`` if the event is done.

    A nack, a release and a lost lease are new messages: the server's nack would count as a lost lease, or not at all,
    and could not keep a state. A release and a lost lease keep the note on a delivery; a retry, and a death that the
    worker saw, remove it. A retry goes to the end of its queue also if a lease was lost, so that it holds up no other
    event; from there it is moved to the suspects, as every suspect that arrives in a queue.

    Args:
        delivery: The delivery that ends.

        outcome: Its outcome.

        topology: The names of exchanges and queues.

        now: Seconds since the epoch.

        unique: Makes the ref of a dead letter, or the key of the new message, unique.

        begun_at: Where the note on *delivery* was written, if that is known.
    """
    if isinstance(outcome, Ack):
        return None
    if isinstance(outcome, DeadLetter):
        record = attrs.evolve(
            _record(delivery, outcome.state), dead_letter=_details(delivery, outcome, now=now, unique=unique)
        )
        route = topology.aside(Role.DEAD, delivery.queue)
        return written(record, exchange=route.exchange, key=route.key)
    delay, state = 0.0, None
    attempt, lost_leases, begun, deaths = delivery.attempt, delivery.lost_leases, delivery.begun, delivery.deaths
    if isinstance(outcome, Nack):
        delay, state, attempt, begun = outcome.delay, outcome.state, attempt + 1, None
    elif isinstance(outcome, Lost):
        state, attempt, lost_leases = outcome.state, attempt + 1, lost_leases + 1
        if outcome.death is not None:
            begun, deaths = None, (*deaths, outcome.death)[-MAX_DEATHS:]
    elif isinstance(outcome, Release):
        delay = outcome.delay
    record = attrs.evolve(
        _record(delivery, state),
        attempt=attempt,
        lost_leases=lost_leases,
        begun=begun,
        begun_at=None if begun is None else begun_at,
        deaths=deaths,
    )
    record = record.keyed(suspect_key(now, unique))  # a new key, so that no earlier note counts
    if delay <= 0.0 and lost_leases and not isinstance(outcome, Nack):
        route = topology.aside(Role.SUSPECT, delivery.queue)
    else:
        route = topology.route(delivery.queue, delay)
    if route.passes:
        record = attrs.evolve(record, due=now + delay)
    return written(record, exchange=route.exchange, key=route.key, delayed=delay > 0.0)


def relocated(
    record: MessageRecord, queue: str, wait: float, *, topology: Topology, now: float, unique: str
) -> Message:
    """
    Return *record* as the message that replaces it in another queue.

    A suspect goes to the suspects, an event that has to wait to the ladder, and any other back to its queue.

    Args:
        record: The received event, with its current counters.

        queue: The queue it was received from.

        wait: Seconds for which it is not handed out.

        topology: The names of exchanges and queues.

        now: Seconds since the epoch.

        unique: Makes the key of the new message unique.
    """
    if record.lost_leases and not wait:
        record = record.keyed(suspect_key(now, unique))
        route = topology.aside(Role.SUSPECT, queue)
    else:
        route = topology.route(queue, wait)
    return written(record, exchange=route.exchange, key=route.key, delayed=wait > 0.0)


def _record(delivery: Delivery, state: bytes | None) -> MessageRecord:
    return MessageRecord(
        envelope=delivery.envelope,
        queue=delivery.queue,
        attempt=delivery.attempt,
        lost_leases=delivery.lost_leases,
        state=delivery.state if state is None else state,
        enqueued_at=delivery.enqueued_at,
    )


def _details(delivery: Delivery, outcome: DeadLetter, *, now: float, unique: str) -> DeadLetterDetails:
    return DeadLetterDetails(
        ref=reference(word(delivery.queue), now, unique),
        reason=fitting(outcome.reason, MAX_REASON),
        error=fitting(outcome.error, MAX_ERROR),
        at=now,
    )
