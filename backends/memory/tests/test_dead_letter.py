"""What is kept aside, and how it comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from relevo import DeadLetterEntry, Delivery, Envelope
from relevo.errors import ConfigurationError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

Make = Callable[..., Envelope]
Take = Callable[..., Sequence[Delivery]]
Ids = Callable[[Sequence[Delivery]], list[str]]


@pytest.fixture(name="bury")
def _bury(transport: MemoryTransport, envelope: Make, take: Take) -> Callable[..., DeadLetterEntry]:
    """Send an event and dead-letter it."""

    def bury(event_id: str = "1", **fields: str) -> DeadLetterEntry:
        transport.send([envelope(event_id, **fields)])
        queue = fields.get("queue", "default")
        [delivery] = take(transport, queue)
        transport.dead_letter(delivery, reason="no")
        return transport.dead_letters([queue])[-1]

    return bury


def test_a_dead_letter_keeps_everything(
    transport: MemoryTransport, clock: FakeClock, envelope: Make, take: Take
) -> None:
    transport.send([envelope()])
    sent_at = clock.now()
    take(transport, lease=5)
    clock.advance(5)
    [delivery] = take(transport)
    transport.dead_letter(delivery, reason="retries-exhausted", error="Traceback …", state=b"progress")

    [dead] = transport.dead_letters(["default"])

    assert dead.envelope == delivery.envelope
    assert (dead.reason, dead.error, dead.state) == ("retries-exhausted", "Traceback …", b"progress")
    assert (dead.attempt, dead.lost_leases) == (2, 1)
    assert (dead.enqueued_at, dead.died_at) == (sent_at, clock.now())
    assert dead.queue == "default"


def test_a_dead_letter_is_never_handed_out(
    transport: MemoryTransport, bury: Callable[..., DeadLetterEntry], clock: FakeClock, take: Take
) -> None:
    bury()

    clock.advance(1_000_000)

    assert take(transport) == []
    assert transport.stats("default").dead == 1


def test_dead_letters_are_listed_queue_by_queue_the_oldest_first(
    transport: MemoryTransport, bury: Callable[..., DeadLetterEntry]
) -> None:
    b1, a1, b2 = bury("1", queue="b"), bury("1", queue="a"), bury("2", queue="b")

    assert transport.dead_letters(["b", "a", "b", "none"]) == [b1, b2, a1]
    assert transport.dead_letters(["a", "b"], limit=2) == [a1, b1]
    assert transport.dead_letters([]) == []
    assert transport.dead_letters(["a"], limit=0) == []


def test_paging_goes_through_all_queues_and_goes_on_behind_what_is_gone(
    transport: MemoryTransport, bury: Callable[..., DeadLetterEntry]
) -> None:
    a1, a2, b1 = bury("1", queue="a"), bury("2", queue="a"), bury("3", queue="b")
    a3 = bury("4", queue="a")

    assert transport.dead_letters(["b", "a"], after=b1.ref, limit=2) == [a1, a2]
    transport.discard([a2.ref])
    assert transport.dead_letters(["b", "a"], after=a2.ref) == [a3]
    assert transport.dead_letters(["a", "b"], after=a2.ref) == [a3, b1]
    assert transport.dead_letters(["a", "b"], after=b1.ref) == []


@pytest.mark.parametrize(
    "ref", ["", "x", "1@other", "@default", "-1@default", "²@default", "01@default", "9" * 5000 + "@default"]
)
def test_paging_behind_something_that_is_no_ref_of_these_queues_is_refused(
    ref: str, transport: MemoryTransport, bury: Callable[..., DeadLetterEntry]
) -> None:
    bury()

    with pytest.raises(ConfigurationError, match='not the ref of a dead letter of "default"'):
        transport.dead_letters(["default"], after=ref)


@pytest.mark.parametrize("made_up", ["0{}", "{} ", "+{}", "9" * 5000])
def test_a_ref_that_is_like_another_is_not_found(
    made_up: str, transport: MemoryTransport, bury: Callable[..., DeadLetterEntry]
) -> None:
    entry = bury()
    ref = made_up.format(entry.ref)

    assert transport.revive({ref: b""}) == [ref]
    assert transport.discard([ref]) == [ref]

    assert transport.dead_letters(["default"]) == [entry]


def test_the_same_event_in_the_same_queue_has_one_dead_letter_the_latest(
    transport: MemoryTransport, bury: Callable[..., DeadLetterEntry]
) -> None:
    first, elsewhere, second = bury(), bury(queue="feed"), bury()

    assert first.ref != second.ref
    assert transport.dead_letters(["default", "feed"]) == [second, elsewhere]
    assert transport.revive({first.ref: b""}) == [first.ref]


def test_a_revived_event_is_as_new_with_the_state_given(
    transport: MemoryTransport, clock: FakeClock, envelope: Make, take: Take
) -> None:
    transport.send([envelope()])
    take(transport, lease=5)
    clock.advance(5)
    transport.dead_letter(take(transport)[0], reason="no", state=b"old")
    [dead] = transport.dead_letters(["default"])

    assert transport.revive({dead.ref: b"fresh", "9@default": b"", "nonsense": b""}) == ["9@default", "nonsense"]

    [delivery] = take(transport)
    assert (delivery.attempt, delivery.lost_leases, delivery.state) == (1, 0, b"fresh")
    assert delivery.envelope == dead.envelope
    assert transport.dead_letters(["default"]) == []
    assert transport.revive({dead.ref: b""}) == [dead.ref]


def test_reviving_what_lives_again_keeps_the_living_one(
    transport: MemoryTransport, bury: Callable[..., DeadLetterEntry], envelope: Make, take: Take
) -> None:
    dead = bury()
    transport.send([envelope()])
    [living] = take(transport)
    transport.checkpoint(living, b"working")

    assert transport.revive({dead.ref: b"fresh"}) == []

    assert take(transport) == []
    transport.nack(living)
    [again] = take(transport)
    assert (again.state, again.attempt) == (b"working", 2)
    assert transport.dead_letters(["default"]) == []


def test_events_that_share_an_id_have_a_dead_letter_each(
    transport: MemoryTransport, envelope: Make, take: Take
) -> None:
    bodies = [b"one", b"two", b"one"]
    for body in bodies:
        transport.send([envelope(body=body)])
        transport.dead_letter(take(transport)[0], reason="no")

    kept = transport.dead_letters(["default"])

    assert [entry.envelope.body for entry in kept if isinstance(entry.envelope, Envelope)] == [b"two", b"one"]
    assert transport.discard([entry.ref for entry in kept]) == []
    assert transport.stats("default").dead == 0


def test_a_dead_letter_stays_while_another_event_with_its_id_lives(
    transport: MemoryTransport, bury: Callable[..., DeadLetterEntry], envelope: Make, take: Take
) -> None:
    dead = bury()
    transport.send([envelope(body=b"another")])

    assert transport.revive({dead.ref: b""}) == [dead.ref]

    assert transport.dead_letters(["default"]) == [dead]
    transport.ack(take(transport)[0])
    assert transport.revive({dead.ref: b""}) == []
    assert take(transport)[0].envelope == dead.envelope


def test_a_dead_event_can_be_sent_again_and_both_are_kept(
    transport: MemoryTransport, bury: Callable[..., DeadLetterEntry], envelope: Make, take: Take
) -> None:
    dead = bury()

    transport.send([envelope()])

    assert len(take(transport)) == 1
    assert transport.dead_letters(["default"]) == [dead]


def test_a_revived_event_that_dies_again_is_one_dead_letter(
    transport: MemoryTransport, bury: Callable[..., DeadLetterEntry], take: Take
) -> None:
    transport.revive({bury().ref: b""})
    transport.dead_letter(take(transport)[0], reason="again")

    [dead] = transport.dead_letters(["default"])

    assert dead.reason == "again"
    assert transport.stats("default").dead == 1


def test_discard_deletes_for_good_and_tells_what_was_not_there(
    transport: MemoryTransport, bury: Callable[..., DeadLetterEntry], take: Take
) -> None:
    one, two = bury("1"), bury("2")

    assert transport.discard([one.ref, "9@default", one.ref]) == ["9@default", one.ref]

    assert transport.dead_letters(["default"]) == [two]
    assert take(transport) == []
    assert transport.revive({one.ref: b""}) == [one.ref]


def test_a_queue_may_have_the_sign_of_a_ref_in_its_name(
    transport: MemoryTransport, bury: Callable[..., DeadLetterEntry]
) -> None:
    dead = bury(queue="a@b@c")

    assert transport.dead_letters(["a@b@c"], after=dead.ref) == []
    assert transport.discard([dead.ref]) == []
