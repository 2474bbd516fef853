"""
RabbitMQ transports with one bug each, planted where messages are written, read and moved.

Each names the promise that it breaks. The results of the suite are in docs/reference/mutants.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from relevo import (
    Ack,
    DeadLetter,
    DeadLetterEntry,
    Delivery,
    Envelope,
    Lost,
    Nack,
    Outcome,
    Presence,
    Release,
    Settlement,
    Unreadable,
)
from relevo_amqp import _dead_letters, _receiver, _transport
from relevo_amqp._dead_letters import DeadLetterStore
from relevo_amqp._hub import Hub
from relevo_amqp._mapping import Message, MessageRecord, WrittenNote, word_of, written
from relevo_amqp._receiver import Receiver
from relevo_amqp._settlement import message_of, relocated
from relevo_amqp._topology import Destination, Role, Topology
from relevo_amqp._transport import AmqpTransport
from relevo_amqp.conformance import AmqpHarness
from relevo_conformance import promise
from relevo_conformance.mutant import Mutant
from relevo_conformance.promise import Promise

MUTANTS: list[Mutant] = []

NOT_FOUND = frozenset({"WrapsDelaysAtAMinute"})
"""Bugs that show only after a minute; on a real clock the suite does not wait that long."""

Patches = Mapping[tuple[object, str], object]


def planted(breaks: Promise, wrong: str) -> Callable[[Callable[[], Patches]], Callable[[], Patches]]:
    """Plant a bug that breaks *breaks*: what is decorated returns the patches."""

    def plant(bug: Callable[[], Patches]) -> Callable[[], Patches]:
        MUTANTS.append(
            Mutant(
                name="".join(word.capitalize() for word in bug.__name__.split("_")),
                wrong=wrong,
                harness=AmqpHarness,
                breaks=breaks,
                exactly=False,
                by_chance=False,  # a history of many steps on a server takes minutes
                patches=bug(),
            )
        )
        return bug

    return plant


def envelopes(change: Callable[[Envelope], Envelope]) -> Callable[[MessageRecord], MessageRecord]:
    """Return a change of records that changes their envelopes."""

    def changed(record: MessageRecord) -> MessageRecord:
        event = record.envelope
        return attrs.evolve(record, envelope=change(event)) if isinstance(event, Envelope) else record

    return changed


def sent_as(change: Callable[[MessageRecord], MessageRecord], *, delayed: bool = False) -> Patches:
    """Return patches that apply *change* to each sent event, or with *delayed* to each delayed one."""

    def write(record: MessageRecord, **more: Any) -> Message:
        return written(change(record) if more.get("delayed") or not delayed else record, **more)

    return {(_transport, "written"): write}


def moved_as(change: Callable[[MessageRecord], MessageRecord]) -> Patches:
    """Return patches that apply *change* to an event when its lease is lost."""

    def move(record: MessageRecord, *place: Any, **more: Any) -> Message:
        return relocated(change(record) if record.lost_leases else record, *place, **more)

    return {(_receiver, "relocated"): move}


def settled_as(change: Callable[[Delivery, Outcome], tuple[Delivery, Outcome]]) -> Patches:
    """Return patches that apply *change* to each settlement."""

    def message(delivery: Delivery, outcome: Outcome, **more: Any) -> Message | None:
        return message_of(*change(delivery, outcome), **more)

    return {(_transport, "message_of"): message}


def revived_as(change: Callable[[MessageRecord, MessageRecord], MessageRecord]) -> Patches:
    """Return patches with which a revival stores what *change* returns for the dead and the revived record."""
    revived = MessageRecord.revived

    def revive(self: MessageRecord, state: bytes, *, key: str) -> MessageRecord:
        return change(self, revived(self, state, key=key))

    return {(MessageRecord, "revived"): revive}


def listed_as(change: Callable[[DeadLetterEntry], DeadLetterEntry]) -> Patches:
    """Return patches that apply *change* to each listed dead letter."""
    entry = _dead_letters._entry
    return {(_dead_letters, "_entry"): lambda letter, queue: change(entry(letter, queue))}


# --- sending ---------------------------------------------------------------------------------------


@planted(promise.SENT_IS_RECEIVED, "Only the first hundred events of a batch are sent.")
def sends_a_hundred_of_a_batch() -> Patches:
    send = AmqpTransport.send

    def some(self: AmqpTransport, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        send(self, envelopes[:100], delay=delay)

    return {(AmqpTransport, "send"): some}


@planted(promise.DELAY_IS_RESPECTED, "A delay wraps around after a minute.")
def wraps_delays_at_a_minute() -> Patches:
    route = Topology.route

    def wrapped(self: Topology, queue: str, delay: float = 0.0) -> Destination:
        return route(self, queue, delay % 60.0)

    return {(Topology, "route"): wrapped}


@planted(promise.PAYLOAD_IS_UNTOUCHED, "A delayed event loses its urgency.")
def delays_urgent_events_as_normal_ones() -> Patches:
    return sent_as(envelopes(lambda event: attrs.evolve(event, urgency="normal")), delayed=True)


@planted(promise.PAYLOAD_IS_UNTOUCHED, "A delayed event loses its headers.")
def delays_without_headers() -> Patches:
    return sent_as(envelopes(lambda event: attrs.evolve(event, headers={})), delayed=True)


@planted(promise.PAYLOAD_IS_UNTOUCHED, "The name of an event is truncated at 64 characters.")
def cuts_names_at_64_characters() -> Patches:
    return sent_as(envelopes(lambda event: attrs.evolve(event, name=event.name[:64])))


@planted(promise.PAYLOAD_IS_UNTOUCHED, "Trailing spaces of a source are stripped.")
def strips_sources() -> Patches:
    return sent_as(envelopes(lambda event: attrs.evolve(event, source=event.source.rstrip())))


@planted(promise.PAYLOAD_IS_UNTOUCHED, "Headers with an empty value are dropped.")
def drops_empty_headers() -> Patches:
    def full(event: Envelope) -> Envelope:
        return attrs.evolve(event, headers={name: value for name, value in event.headers.items() if value})

    return sent_as(envelopes(full))


@planted(promise.PAYLOAD_IS_UNTOUCHED, "Only the first 32 headers of an event are kept.")
def keeps_32_headers() -> Patches:
    return sent_as(envelopes(lambda event: attrs.evolve(event, headers=dict([*event.headers.items()][:32]))))


# --- lost leases -----------------------------------------------------------------------------------


def lost_as(attempt: Callable[[int], int], lost_leases: Callable[[int], int]) -> Patches:
    """Return patches that change the counters after a lost lease."""
    lost = MessageRecord.lost

    def count(self: MessageRecord, times: int) -> MessageRecord:
        right = lost(self, times)
        if not times:
            return right
        return attrs.evolve(right, attempt=attempt(right.attempt), lost_leases=lost_leases(right.lost_leases))

    return {(MessageRecord, "lost"): count}


@planted(promise.LOST_LEASES_ARE_COUNTED, "After three lost leases no further one is counted.")
def counts_three_lost_leases() -> Patches:
    return lost_as(lambda attempt: attempt, lambda lost_leases: min(lost_leases, 3))


@planted(promise.LOST_LEASES_ARE_COUNTED, "A lost lease does not count as an attempt.")
def counts_no_attempt_for_a_lost_lease() -> Patches:
    return lost_as(lambda attempt: attempt - 1, lambda lost_leases: lost_leases)


@planted(promise.PAYLOAD_IS_UNTOUCHED, "An event loses its headers at a lost lease.")
def loses_headers_with_a_lease() -> Patches:
    return moved_as(envelopes(lambda event: attrs.evolve(event, headers={})))


@planted(promise.PAYLOAD_IS_UNTOUCHED, "An event loses its urgency at a lost lease.")
def loses_urgency_with_a_lease() -> Patches:
    return moved_as(envelopes(lambda event: attrs.evolve(event, urgency="normal")))


@planted(promise.PAYLOAD_IS_UNTOUCHED, "An event loses its expiry at a lost lease.")
def loses_the_expiry_with_a_lease() -> Patches:
    return moved_as(envelopes(lambda event: attrs.evolve(event, expires=None)))


@planted(promise.LOST_LEASES_ARE_COUNTED, "An event loses its state at a lost lease.")
def loses_the_state_with_a_lease() -> Patches:
    return moved_as(lambda record: attrs.evolve(record, state=b""))


@planted(promise.PAYLOAD_IS_UNTOUCHED, "A lost lease changes the send time of the event.")
def dates_an_event_at_a_lost_lease() -> Patches:
    return moved_as(lambda record: attrs.evolve(record, enqueued_at=record.enqueued_at + 3600.0))


@planted(promise.BEGUN_IS_KEPT, "The deaths that a note names are not stored.")
def forgets_the_deaths_of_a_note() -> Patches:
    def noted(self: MessageRecord, written: WrittenNote | None) -> MessageRecord:
        return self if written is None else attrs.evolve(self, begun=written.note)

    return {(MessageRecord, "noted"): noted}


# --- settling --------------------------------------------------------------------------------------


@planted(promise.ACK_IS_FINAL, "Only the first hundred settlements of a batch are done, but all are reported as done.")
def settles_a_hundred_of_a_batch() -> Patches:
    settle = AmqpTransport._settle

    def some(self: AmqpTransport, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return settle(self, settlements[:100])

    return {(AmqpTransport, "_settle"): some}


@planted(promise.NACK_RETURNS_LATER, "The delay of a nack of an urgent event is ignored.")
def gives_urgent_events_back_at_once() -> Patches:
    def hurried(delivery: Delivery, outcome: Outcome) -> tuple[Delivery, Outcome]:
        urgent = isinstance(delivery.envelope, Envelope) and delivery.envelope.urgency == "high"
        if isinstance(outcome, Nack) and urgent:
            return delivery, attrs.evolve(outcome, delay=0.0)
        return delivery, outcome

    return settled_as(hurried)


@planted(promise.NACK_RETURNS_LATER, "A nack resets the number of lost leases.")
def forgets_lost_leases_at_a_nack() -> Patches:
    def forgetful(delivery: Delivery, outcome: Outcome) -> tuple[Delivery, Outcome]:
        return attrs.evolve(delivery, lost_leases=0) if isinstance(outcome, Nack) else delivery, outcome

    return settled_as(forgetful)


@planted(promise.RELEASE_COUNTS_NOTHING, "A release with a delay clears the state.")
def empties_the_state_at_a_release_for_later() -> Patches:
    def emptied(delivery: Delivery, outcome: Outcome) -> tuple[Delivery, Outcome]:
        later = isinstance(outcome, Release) and outcome.delay > 0
        return attrs.evolve(delivery, state=b"") if later else delivery, outcome

    return settled_as(emptied)


@planted(promise.NACK_RETURNS_LATER, "A nack with an empty state keeps the old state.")
def keeps_the_state_at_an_empty_one() -> Patches:
    def kept(delivery: Delivery, outcome: Outcome) -> tuple[Delivery, Outcome]:
        if isinstance(outcome, Nack) and outcome.state == b"":
            return delivery, attrs.evolve(outcome, state=None)
        return delivery, outcome

    return settled_as(kept)


@planted(promise.LOST_LEASES_ARE_COUNTED, "A delivery that is reported lost with an empty state keeps its old state.")
def keeps_the_state_of_what_is_reported_lost() -> Patches:
    def kept(delivery: Delivery, outcome: Outcome) -> tuple[Delivery, Outcome]:
        if isinstance(outcome, Lost) and outcome.state == b"":
            return delivery, attrs.evolve(outcome, state=None)
        return delivery, outcome

    return settled_as(kept)


@planted(promise.DEAD_IS_KEPT_WITH_REASON, "A dead letter with an empty state keeps the old state.")
def keeps_the_state_of_what_dies() -> Patches:
    def kept(delivery: Delivery, outcome: Outcome) -> tuple[Delivery, Outcome]:
        if isinstance(outcome, DeadLetter) and outcome.state == b"":
            return delivery, attrs.evolve(outcome, state=None)
        return delivery, outcome

    return settled_as(kept)


@planted(promise.PAYLOAD_IS_UNTOUCHED, "The id of a dead letter is cut at 255 bytes.")
def cuts_the_id_of_a_dead_letter() -> Patches:
    def kept(delivery: Delivery, outcome: Outcome) -> tuple[Delivery, Outcome]:
        event = delivery.envelope
        if isinstance(outcome, DeadLetter) and isinstance(event, Envelope):
            cut = event.id.encode()[:255].decode(errors="ignore")
            return attrs.evolve(delivery, envelope=attrs.evolve(event, id=cut)), outcome
        return delivery, outcome

    return settled_as(kept)


@planted(promise.BEGUN_IS_KEPT, "A nack with a delay keeps the note.")
def keeps_the_note_at_a_delayed_nack() -> Patches:
    def message(delivery: Delivery, outcome: Outcome, **more: Any) -> Message | None:
        if isinstance(outcome, Nack) and outcome.delay > 0:
            counted = attrs.evolve(delivery, attempt=delivery.attempt + 1)
            if outcome.state is not None:
                counted = attrs.evolve(counted, state=outcome.state)
            return message_of(counted, Release(delay=outcome.delay), **more)
        return message_of(delivery, outcome, **more)

    return {(_transport, "message_of"): message}


@planted(promise.BEGUN_IS_KEPT, "An excuse is not found once the event was published again.")
def forgets_where_a_note_was_written() -> Patches:
    return {(MessageRecord, "excusable_at"): property(lambda self: None)}


@planted(promise.NOBODY_STARVES, "An event that has lost a lease goes back to the suspects when it is nacked.")
def keeps_nacked_suspects_apart() -> Patches:
    def message(delivery: Delivery, outcome: Outcome, *, topology: Topology, **more: Any) -> Message | None:
        right = message_of(delivery, outcome, topology=topology, **more)
        if right is not None and isinstance(outcome, Nack) and not outcome.delay and delivery.lost_leases:
            return attrs.evolve(right, exchange=topology.exchange(Role.SUSPECT))
        return right

    return {(_transport, "message_of"): message}


def is_foreign(delivery: Delivery) -> bool:
    """Return whether *delivery* is of foreign bytes."""
    return isinstance(delivery.envelope, Unreadable)


def without_headers(delivery: Delivery) -> Delivery:
    """Return *delivery* of foreign bytes without their headers."""
    event = delivery.envelope
    return attrs.evolve(delivery, envelope=attrs.evolve(event, headers={})) if is_foreign(delivery) else delivery


@planted(promise.MALFORMED_IS_QUARANTINED, "Foreign bytes lose their headers at a nack.")
def gives_foreign_bytes_back_without_headers() -> Patches:
    return settled_as(lambda one, outcome: (without_headers(one) if isinstance(outcome, Nack) else one, outcome))


@planted(promise.MALFORMED_IS_QUARANTINED, "Foreign bytes are dead-lettered without their headers.")
def buries_foreign_bytes_without_headers() -> Patches:
    return settled_as(lambda one, outcome: (without_headers(one) if isinstance(outcome, DeadLetter) else one, outcome))


@planted(promise.MALFORMED_IS_QUARANTINED, "A release of foreign bytes is treated as an ack.")
def drops_foreign_bytes_that_are_released() -> Patches:
    return settled_as(
        lambda one, outcome: (one, Ack() if isinstance(outcome, Release) and is_foreign(one) else outcome)
    )


# --- dead letters ----------------------------------------------------------------------------------


def with_envelope(change: Callable[[Envelope], Envelope]) -> Callable[[DeadLetterEntry], DeadLetterEntry]:
    """Return a change of dead letters that changes their envelopes."""

    def changed(entry: DeadLetterEntry) -> DeadLetterEntry:
        event = entry.envelope
        return attrs.evolve(entry, envelope=change(event)) if isinstance(event, Envelope) else entry

    return changed


@planted(promise.DEAD_IS_KEPT_WITH_REASON, "A dead letter is listed without the expiry of its event.")
def lists_the_dead_without_an_expiry() -> Patches:
    return listed_as(with_envelope(lambda event: attrs.evolve(event, expires=None)))


@planted(promise.DEAD_IS_KEPT_WITH_REASON, "A dead letter is listed without its lost leases.")
def lists_the_dead_without_lost_leases() -> Patches:
    return listed_as(lambda entry: attrs.evolve(entry, lost_leases=0))


@planted(promise.DEAD_IS_KEPT_WITH_REASON, "An error is truncated at 1,000 characters.")
def cuts_errors_at_1000_characters() -> Patches:
    return listed_as(lambda entry: attrs.evolve(entry, error=entry.error[:1000]))


@planted(promise.REVIVED_IS_RECEIVED, "A revived event has no headers.")
def revives_without_headers() -> Patches:
    change = envelopes(lambda event: attrs.evolve(event, headers={}))
    return revived_as(lambda dead, right: change(right))


@planted(promise.REVIVED_IS_RECEIVED, "A revived event never expires.")
def revives_without_an_expiry() -> Patches:
    change = envelopes(lambda event: attrs.evolve(event, expires=None))
    return revived_as(lambda dead, right: change(right))


@planted(promise.REVIVED_IS_RECEIVED, "A revived event keeps the lost leases from before its death.")
def revives_with_lost_leases() -> Patches:
    return revived_as(lambda dead, right: attrs.evolve(right, lost_leases=dead.lost_leases))


@planted(promise.REVIVED_IS_RECEIVED, "An event that is revived with an empty state keeps its old state.")
def revives_with_the_old_state_instead_of_none() -> Patches:
    return revived_as(lambda dead, right: attrs.evolve(right, state=right.state or dead.state))


@planted(promise.REVIVED_IS_RECEIVED, "All events that are revived in one call get the state of the first one.")
def revives_all_with_the_first_state() -> Patches:
    revive = DeadLetterStore.revive

    def alike(self: DeadLetterStore, refs: Mapping[str, bytes]) -> list[str]:
        return revive(self, dict.fromkeys(refs, next(iter(refs.values()), b"")))

    return {(DeadLetterStore, "revive"): alike}


@planted(promise.DISCARDED_IS_GONE, "Of several dead letters in one queue, only the first is discarded.")
def discards_one_of_each_queue() -> Patches:
    discard = DeadLetterStore.discard

    def one(self: DeadLetterStore, refs: Iterable[str]) -> list[str]:
        return discard(self, list({word_of(ref): ref for ref in reversed(list(refs))}.values()))

    return {(DeadLetterStore, "discard"): one}


@planted(
    promise.DEAD_IS_KEPT_WITH_REASON, "A page after the first lists only the queue in which the page before ended."
)
def ends_a_page_with_its_queue() -> Patches:
    entries = DeadLetterStore.entries

    def first(self: DeadLetterStore, queues: Sequence[str], *, after: str | None, limit: int) -> list[DeadLetterEntry]:
        found = entries(self, queues, after=after, limit=limit)
        return [one for one in found if after is None or word_of(one.ref) == word_of(after)]

    return {(DeadLetterStore, "entries"): first}


# --- receiving and presence ------------------------------------------------------------------------


@planted(promise.SENT_IS_RECEIVED, "A receive from several queues looks only at the first two.")
def looks_at_two_queues() -> Patches:
    receive = Receiver.receive

    def two(self: Receiver, queues: tuple[str, ...], *, limit: int, wait: float) -> list[Delivery]:
        return receive(self, queues[:2], limit=limit, wait=wait)

    return {(Receiver, "receive"): two}


@planted(promise.PRESENCE_IS_SEEN, "A presence query returns only the first worker.")
def sees_one_worker() -> Patches:
    presence = Hub.presence

    def one(self: Hub, workers: Sequence[str]) -> dict[str, Presence]:
        return presence(self, workers[:1])

    return {(Hub, "presence"): one}
