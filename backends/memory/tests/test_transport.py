"""What is sent, what is handed out, and in which order."""

from __future__ import annotations

import sys
from collections.abc import Callable, MutableMapping, Sequence
from subprocess import run

import pytest

from relevo import Delivery, Envelope, Unreadable
from relevo.errors import ConfigurationError, TransportClosedError
from relevo.testing import FakeClock
from relevo_memory import MemoryOptions, MemoryStore, MemoryTransport

Make = Callable[..., Envelope]
Take = Callable[..., Sequence[Delivery]]
Ids = Callable[[Sequence[Delivery]], list[str]]


def test_what_is_sent_is_received_as_it_was(
    transport: MemoryTransport, clock: FakeClock, envelope: Make, take: Take
) -> None:
    sent = envelope(
        body=b"\x00\xff", headers={"Ä": "ö"}, urgency="high", ordering_key="k", expires=1.5, queue="media", name="a.b"
    )

    transport.send([sent])
    clock.advance(7)
    [delivery] = take(transport, "media")

    assert delivery.envelope == sent
    assert delivery.queue == "media"
    assert (delivery.attempt, delivery.lost_leases, delivery.state) == (1, 0, b"")
    assert delivery.enqueued_at == clock.now() - 7


def test_another_transport_on_the_same_store_receives_it(
    transport: MemoryTransport, other: MemoryTransport, envelope: Make, take: Take
) -> None:
    transport.send([envelope()])

    assert len(take(other)) == 1
    assert take(transport) == []


def test_transports_without_a_common_store_know_nothing_of_each_other(envelope: Make, take: Take) -> None:
    one, two = MemoryTransport(), MemoryTransport()

    one.send([envelope()])

    assert take(two) == []


def test_events_come_in_the_order_in_which_they_were_sent(
    transport: MemoryTransport, envelope: Make, take: Take, ids: Ids
) -> None:
    transport.send([envelope("1"), envelope("2")])
    transport.send([envelope("3")])

    assert ids(take(transport)) == ["1", "2", "3"]


def test_urgent_events_overtake(transport: MemoryTransport, envelope: Make, take: Take, ids: Ids) -> None:
    transport.send([envelope("1"), envelope("2", urgency="high"), envelope("3"), envelope("4", urgency="high")])

    assert ids(take(transport)) == ["2", "4", "1", "3"]


def test_queues_come_in_the_order_of_preference(
    transport: MemoryTransport, envelope: Make, take: Take, ids: Ids
) -> None:
    transport.send([envelope("1", queue="a", urgency="high"), envelope("2", queue="b"), envelope("3", queue="c")])

    assert ids(take(transport, "b", "a")) == ["2", "1"]
    assert ids(take(transport, "c", "c")) == ["3"]


def test_the_limit_counts_over_all_queues_and_leases_no_more(
    transport: MemoryTransport, envelope: Make, take: Take, ids: Ids
) -> None:
    transport.send([envelope("1", queue="a"), envelope("2", queue="a"), envelope("3", queue="b")])

    assert ids(take(transport, "b", "a", limit=2)) == ["3", "1"]
    assert transport.stats("a").leased == 1
    assert take(transport, "a", limit=0) == []
    assert transport.stats("a").ready == 1


def test_an_empty_batch_does_nothing(transport: MemoryTransport) -> None:
    transport.send([])

    assert transport.settle([]) == []
    assert transport.extend([], lease=1) == []


# --- delays ----------------------------------------------------------------------------------------


def test_a_delayed_event_is_ready_when_its_delay_is_over_and_not_before(
    transport: MemoryTransport, clock: FakeClock, envelope: Make, take: Take
) -> None:
    transport.send([envelope()], delay=0.5)

    clock.advance(0.499)
    assert take(transport) == []
    assert transport.stats("default").scheduled == 1
    clock.advance(0.001)
    assert len(take(transport)) == 1


def test_a_shorter_delay_overtakes_a_longer_one(
    transport: MemoryTransport, clock: FakeClock, envelope: Make, take: Take, ids: Ids
) -> None:
    transport.send([envelope("late")], delay=20)
    transport.send([envelope("soon")], delay=10)

    clock.advance(30)

    assert ids(take(transport)) == ["soon", "late"]


def test_what_comes_due_stands_before_what_is_sent_afterwards(
    transport: MemoryTransport, clock: FakeClock, envelope: Make, take: Take, ids: Ids
) -> None:
    transport.send([envelope("delayed")], delay=10)
    transport.send([envelope("before")])
    clock.advance(10)
    transport.send([envelope("after")])

    assert ids(take(transport)) == ["before", "delayed", "after"]


def test_a_negative_delay_is_none(transport: MemoryTransport, envelope: Make, take: Take) -> None:
    transport.send([envelope()], delay=-5)

    assert len(take(transport)) == 1


# --- the same event again ----------------------------------------------------------------------------


def test_an_event_that_lives_is_not_doubled_by_sending_it_again(
    transport: MemoryTransport, clock: FakeClock, envelope: Make, take: Take
) -> None:
    transport.send([envelope(body=b"first"), envelope(body=b"again")])
    transport.send([envelope()], delay=5)
    [delivery] = take(transport)
    transport.send([envelope()])
    assert take(transport) == []

    transport.nack(delivery, delay=1)
    transport.send([envelope()])
    assert take(transport) == []

    clock.advance(100)
    [again] = take(transport)
    assert isinstance(again.envelope, Envelope)
    assert again.envelope.body == b"first"


def test_other_queues_sources_and_ids_are_other_events(transport: MemoryTransport, envelope: Make, take: Take) -> None:
    transport.send([envelope(), envelope(source="other"), envelope("2"), envelope(queue="feed")])

    assert len(take(transport, "default", "feed")) == 4


def test_an_event_that_is_done_can_be_sent_again(transport: MemoryTransport, envelope: Make, take: Take) -> None:
    transport.send([envelope()])
    transport.ack(take(transport)[0])
    transport.send([envelope()])

    assert len(take(transport)) == 1


# --- foreign bytes -----------------------------------------------------------------------------------


def test_foreign_bytes_come_as_unreadable_and_what_follows_flows(
    transport: MemoryTransport, store: MemoryStore, clock: FakeClock, envelope: Make, take: Take
) -> None:
    transport.send([envelope()])
    store.put_raw("default", b"\x80 no envelope", {"kind": "foreign"})
    store.put_raw("default", b"\x80 no envelope", {"kind": "foreign"})
    transport.send([envelope("2")])

    first, raw, twin, last = take(transport)

    assert raw.envelope == twin.envelope
    assert isinstance(raw.envelope, Unreadable)
    assert raw.envelope.raw == b"\x80 no envelope"
    assert raw.envelope.headers == {"kind": "foreign"}
    assert raw.envelope.why
    assert raw.enqueued_at == clock.now()
    assert [one.attempt for one in (first, last)] == [1, 1]


def test_foreign_bytes_live_like_events(
    transport: MemoryTransport, store: MemoryStore, clock: FakeClock, take: Take
) -> None:
    store.put_raw("default", b"?")
    assert transport.stats("default").ready == 1

    [raw] = take(transport, lease=5)
    clock.advance(5)
    [raw] = take(transport)
    assert (raw.attempt, raw.lost_leases) == (2, 1)
    transport.nack(raw)
    [raw] = take(transport)
    transport.dead_letter(raw, reason="unreadable")

    [dead] = transport.dead_letters(["default"])
    assert dead.envelope == raw.envelope
    transport.revive({dead.ref: b""})
    [raw] = take(transport)
    assert raw.envelope == dead.envelope
    assert raw.attempt == 1


# --- queues and figures --------------------------------------------------------------------------------


def test_setup_names_what_it_made_once(transport: MemoryTransport) -> None:
    assert len(transport.setup(["a", "b", "a"], dry_run=True)) == 2
    assert len(transport.setup(["a", "b", "a"])) == 2
    assert transport.setup(["a", "b"]) == []


def test_an_unknown_queue_is_made_by_the_first_send_and_by_nothing_else(
    transport: MemoryTransport, envelope: Make, take: Take
) -> None:
    take(transport, "typo")
    transport.stats("typo")
    transport.purge("typo")
    assert len(transport.setup(["typo"], dry_run=True)) == 1

    transport.send([envelope(queue="typo")])
    assert transport.setup(["typo"], dry_run=True) == []
    assert transport.stats("typo").ready == 1


def test_stats_tell_each_state(transport: MemoryTransport, clock: FakeClock, envelope: Make, take: Take) -> None:
    transport.send([envelope(str(number)) for number in range(5)])
    transport.send([envelope("later")], delay=5)
    dead, held, put_off = take(transport, limit=3, lease=100)
    transport.dead_letter(dead, reason="no")
    transport.nack(put_off, delay=50)
    clock.advance(3)

    stats = transport.stats("default")

    assert (stats.ready, stats.leased, stats.scheduled, stats.dead) == (2, 1, 2, 1)
    assert stats.oldest_age == 3
    clock.advance(2)
    assert transport.stats("default").ready == 3
    assert held.attempt == 1


def test_an_unused_queue_has_no_oldest_age(transport: MemoryTransport) -> None:
    stats = transport.stats("nobody")

    assert (stats.ready, stats.leased, stats.scheduled, stats.dead) == (0, 0, 0, 0)
    assert stats.oldest_age is None


def test_cancel_takes_out_what_nobody_holds_in_every_queue(
    transport: MemoryTransport, envelope: Make, take: Take, ids: Ids
) -> None:
    transport.send([envelope("x", queue="a"), envelope("y", queue="a"), envelope("x", queue="held")])
    transport.send([envelope("x", queue="b")], delay=5)
    [held] = take(transport, "held")

    assert transport.cancel("x") == 2
    assert transport.cancel("x") == 0
    assert ids(take(transport, "a", "b")) == ["y"]
    transport.ack(held)


def test_a_cancelled_event_can_be_sent_again(transport: MemoryTransport, envelope: Make, take: Take) -> None:
    transport.send([envelope()])
    transport.cancel("1")
    transport.send([envelope()])

    assert len(take(transport)) == 1


def test_purge_leaves_the_held_the_dead_and_the_other_queues(
    transport: MemoryTransport, store: MemoryStore, envelope: Make, take: Take
) -> None:
    transport.send([envelope(str(number)) for number in range(4)])
    transport.send([envelope("later")], delay=5)
    transport.send([envelope(queue="other")])
    dead, held = take(transport, limit=2)
    transport.dead_letter(dead, reason="no")
    store.put_raw("default", b"?")

    assert transport.purge("default") == 4

    stats = transport.stats("default")
    assert (stats.ready, stats.leased, stats.scheduled, stats.dead) == (0, 1, 0, 1)
    assert transport.stats("other").ready == 1
    transport.ack(held)


# --- opening and closing --------------------------------------------------------------------------------


def test_it_opens_from_its_options(clock: FakeClock) -> None:
    transport = MemoryTransport.open(MemoryOptions(url="memory://"), name="main", clock=clock)

    assert transport.name == "main"
    assert repr(transport) == "<MemoryTransport main>"
    assert MemoryTransport.Options is MemoryOptions


@pytest.mark.parametrize("url", ["memory://shared", "memory:///x", "memory", "memory://?a=b"])
def test_an_address_inside_memory_is_refused_with_what_to_write(url: str, clock: FakeClock) -> None:
    with pytest.raises(ConfigurationError, match='write "memory://"'):
        MemoryTransport.open(MemoryOptions(url=url), name="main", clock=clock)


def test_after_close_everything_else_is_refused(transport: MemoryTransport, envelope: Make, take: Take) -> None:
    transport.send([envelope()])
    [delivery] = take(transport)

    transport.close()
    transport.close()

    calls: list[Callable[[], object]] = [
        lambda: transport.setup(["a"]),
        lambda: transport.send([]),
        lambda: take(transport),
        lambda: transport.settle([]),
        lambda: transport.extend([], lease=1),
        lambda: transport.checkpoint(delivery, b""),
        lambda: transport.stats("default"),
        lambda: transport.dead_letters(["default"]),
        lambda: transport.revive({}),
        lambda: transport.discard([]),
        lambda: transport.cancel("1"),
        lambda: transport.purge("default"),
        lambda: transport.bound_to(None),
        lambda: transport.ack(delivery),
    ]
    for call in calls:
        with pytest.raises(TransportClosedError, match='"memory" is closed'):
            call()


def test_what_a_closed_transport_held_comes_back_as_a_loss_when_its_lease_is_past(
    transport: MemoryTransport, other: MemoryTransport, clock: FakeClock, envelope: Make, take: Take
) -> None:
    transport.send([envelope()])
    take(transport, lease=30)

    transport.close()

    assert take(other) == []
    clock.advance(30)
    [delivery] = take(other)
    assert (delivery.attempt, delivery.lost_leases) == (2, 1)


@pytest.mark.lengthy("starts processes")
def test_importing_it_loads_no_sqlalchemy() -> None:
    program = "import sys, relevo_memory; relevo_memory.MemoryTransport(); assert 'sqlalchemy' not in sys.modules"

    done = run([sys.executable, "-c", program], check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


# --- what is handed over ---------------------------------------------------------------------------


def test_headers_are_taken_over_when_they_are_sent_and_nobody_can_change_them(
    transport: MemoryTransport, store: MemoryStore, envelope: Make, take: Take
) -> None:
    headers = {"signature": "v1=abc"}
    transport.send([envelope("1", headers=headers)])
    store.put_raw("default", b"\x80", headers)

    headers["signature"] = "forged"

    for delivery in take(transport):
        assert delivery.envelope.headers == {"signature": "v1=abc"}
        assert not isinstance(delivery.envelope.headers, MutableMapping)
