from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, ClassVar, Self

import pika
import pytest

from relevo import Ack, DeadLetter, Envelope, TransportUnavailableError, Unreadable
from relevo.cli._ref import named
from relevo.errors import ConfigurationError, SendError
from relevo_amqp import AmqpTransport
from relevo_amqp._connection import Channel
from relevo_amqp._dead_letters import QueueScan
from relevo_amqp._topology import Role
from relevo_conformance.fault.proxy import Proxy

from .conftest import PATIENCE, Server, drain, ids, receive, wait_until

Make = Callable[..., Envelope]
Connect = Callable[..., AmqpTransport]


def bury(transport: AmqpTransport, queue: str, *envelopes: Envelope) -> None:
    transport.send(envelopes)
    left = len(envelopes)
    while left:
        held = receive(transport, queue)
        for each in held:
            (event_id,) = ids([each])
            assert transport.settle([(each, DeadLetter(reason="r", error=event_id, state=b"s"))]) == []
        left -= len(held)


def test_a_dead_letter_keeps_all_that_was_received_and_why(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    sent = envelope(1, headers={"a": "b"}, urgency="high", expires=2.5)
    transport.send([sent])
    transport.nack(receive(transport, queue)[0], state=b"kept")
    (delivery,) = receive(transport, queue)
    before = time.time()
    transport.dead_letter(delivery, reason="retries-exhausted", error="Traceback …\n\x1b[31mé\x00")

    (entry,) = connect().dead_letters([queue])

    assert entry.envelope == sent
    assert (entry.queue, entry.reason, entry.error) == (queue, "retries-exhausted", "Traceback …\n\x1b[31mé\x00")
    assert (entry.state, entry.attempt, entry.lost_leases) == (b"kept", 2, 0)
    assert entry.enqueued_at == delivery.enqueued_at
    assert before - 0.001 <= entry.died_at <= time.time()
    assert receive(transport, queue, wait=0.3) == []


def test_an_error_that_is_too_long_or_cannot_be_written_is_cut_and_escaped(
    transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(1)])

    transport.dead_letter(receive(transport, queue)[0], reason="r" * 1000, error="lone \udc80 " + "é" * 20_000)

    (entry,) = transport.dead_letters([queue])
    assert len(entry.reason.encode()) <= 255
    assert entry.error.startswith("lone \\udc80 é")
    assert len(entry.error.encode()) <= 16 * 1024


def test_listing_a_hundred_times_changes_nothing(
    server: Server, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    bury(transport, queue, *(envelope(number) for number in range(3)))

    lists = [transport.dead_letters([queue]) for _ in range(30)]

    assert all([each.ref for each in one] == [each.ref for each in lists[0]] for one in lists)
    assert len(lists[0]) == 3
    assert server.ready(server.topology.queue(queue, Role.DEAD)) == 3


def test_a_queue_without_dead_letters_and_one_that_is_not_there_have_none(transport: AmqpTransport, queue: str) -> None:
    assert transport.dead_letters([queue, "never-set-up"]) == []
    assert transport.revive({"never-set-up/0-0": b"", "nonsense": b""}) == ["never-set-up/0-0", "nonsense"]
    assert transport.discard(["nonsense"]) == ["nonsense"]


@pytest.mark.parametrize("after", ["", "none", "elsewhere/1"])
def test_a_page_behind_something_that_is_no_ref_of_these_queues_is_refused(
    transport: AmqpTransport, queue: str, after: str
) -> None:
    with pytest.raises(ConfigurationError, match="is not the ref of a dead letter of"):
        transport.dead_letters([queue], after=after)


@pytest.mark.parametrize("ref", ["x" * 300 + "/1", "\ud800/1"])
def test_a_ref_that_names_no_queue_is_not_found(transport: AmqpTransport, ref: str) -> None:
    assert transport.revive({ref: b""}) == [ref]
    assert transport.discard([ref]) == [ref]


def test_an_event_for_a_queue_whose_name_cannot_be_written_is_refused(transport: AmqpTransport) -> None:
    with pytest.raises(SendError) as raised:
        transport.send([Envelope(id="1", source="shop", name="image.created", queue="\ud800", body=b"{}")])

    assert raised.value.refused == (0,)


def test_reviving_starts_afresh_with_the_state_that_is_given(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    bury(transport, queue, envelope(1), envelope(2), envelope(3))
    entries = transport.dead_letters([queue])
    stranger = connect()

    missing = stranger.revive({entries[0].ref: b"one", entries[2].ref: b"three", "default/none": b""})

    assert missing == ["default/none"]
    assert [entry.ref for entry in transport.dead_letters([queue])] == [entries[1].ref]
    revived = drain(transport, queue, least=2)
    assert {(each.state, each.attempt, each.lost_leases) for each in revived} == {(b"one", 1, 0), (b"three", 1, 0)}


def test_discarding_deletes_for_good_and_only_what_was_named(
    transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    bury(transport, queue, *(envelope(number) for number in range(5)))
    entries = transport.dead_letters([queue])

    assert transport.discard([entries[1].ref, entries[3].ref]) == []

    assert [entry.ref for entry in transport.dead_letters([queue])] == [entries[number].ref for number in (0, 2, 4)]
    assert transport.discard([entries[1].ref]) == [entries[1].ref]


@pytest.mark.parametrize("first", [0, 1])
def test_of_many_that_stand_in_turns_with_others_every_one_is_discarded(
    server: Server, transport: AmqpTransport, queue: str, envelope: Make, first: int
) -> None:
    bury(transport, queue, *(envelope(number) for number in range(400)))
    refs = [entry.ref for entry in transport.dead_letters([queue], limit=400)]

    assert transport.discard(refs[first::2]) == []

    assert [entry.ref for entry in transport.dead_letters([queue], limit=400)] == refs[1 - first :: 2]
    assert server.ready(server.topology.queue(queue, Role.DEAD)) == 200


def test_events_that_share_an_id_are_different_dead_letters(
    transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    bury(transport, queue, envelope(1), envelope(1))
    first, second = transport.dead_letters([queue])

    assert first.ref != second.ref
    assert transport.discard([first.ref]) == []
    assert [entry.ref for entry in transport.dead_letters([queue])] == [second.ref]


def test_pages_follow_one_another(server: Server, transport: AmqpTransport, queue: str, envelope: Make) -> None:
    other = server.queue()
    transport.setup([other])
    bury(transport, queue, *(envelope(number) for number in range(3)))
    bury(transport, other, *(envelope(number, queue=other) for number in range(3)))
    everything = transport.dead_letters([other, queue])

    pages = []
    after = None
    while page := transport.dead_letters([other, queue], after=after, limit=2):
        pages.append(list(page))
        after = page[-1].ref

    assert [entry.queue for entry in everything] == [other] * 3 + [queue] * 3
    assert [entry.ref for page in pages for entry in page] == [entry.ref for entry in everything]
    assert [len(page) for page in pages] == [2, 2, 2]


class CountedScan(QueueScan):
    scans: ClassVar[int] = 0

    def __enter__(self) -> Self:
        type(self).scans += 1
        return super().__enter__()


def test_further_pages_need_no_further_scan_and_hide_nothing_from_others(
    server: Server,
    connect: Connect,
    transport: AmqpTransport,
    queue: str,
    envelope: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bury(transport, queue, *(envelope(number) for number in range(20)))
    everything = [entry.ref for entry in connect().dead_letters([queue])]
    monkeypatch.setattr("relevo_amqp._dead_letters.QueueScan", CountedScan)
    CountedScan.scans = 0

    paged = [entry.ref for entry in transport.dead_letters([queue], limit=2)]
    first = CountedScan.scans
    while len(paged) < 20:
        paged += [entry.ref for entry in transport.dead_letters([queue], after=paged[-1], limit=2)]
        assert server.ready(server.topology.queue(queue, Role.DEAD)) == 20

    assert paged == everything
    assert transport.dead_letters([queue], after=paged[-1], limit=2) == []
    assert CountedScan.scans == first
    bury(transport, queue, envelope(99))
    assert len(transport.dead_letters([queue], after=paged[-1], limit=2)) == 1


@pytest.mark.parametrize("most", [65_000, 700])
def test_of_more_than_two_thousand_dead_letters_all_are_found(
    transport: AmqpTransport, queue: str, envelope: Make, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Of a consumer without a prefetch a quorum queue takes leave after 2000."""
    monkeypatch.setattr("relevo_amqp._dead_letters.MOST_UNACKED", most)
    transport.send([envelope(number) for number in range(2100)])
    left = 2100
    while left:
        held = receive(transport, queue, limit=500)
        assert transport.settle([(each, DeadLetter(reason="r")) for each in held]) == []
        left -= len(held)

    found = transport.dead_letters([queue], limit=5000)

    assert len({entry.ref for entry in found}) == 2100
    assert transport.discard([entry.ref for entry in found]) == []
    assert transport.dead_letters([queue]) == []


def test_what_was_discarded_or_revived_meanwhile_is_on_no_further_page(
    server: Server, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    bury(transport, queue, *(envelope(number) for number in range(8)))
    refs = [entry.ref for entry in transport.dead_letters([queue])]
    transport.dead_letters([queue], limit=2)

    transport.discard([refs[2]])
    transport.revive({refs[4]: b""})

    page = transport.dead_letters([queue], after=refs[1], limit=3)
    assert [entry.ref for entry in page] == [refs[number] for number in (3, 5, 6)]


def test_what_could_not_be_revived_is_still_on_the_next_page(
    server: Server, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    bury(transport, queue, *(envelope(number) for number in range(3)))
    refs = [entry.ref for entry in transport.dead_letters([queue])]
    transport.dead_letters([queue], limit=1)
    server.rest()
    server.channel().queue_delete(server.topology.queue(queue, Role.MAIN))

    with pytest.raises(TransportUnavailableError, match="not every dead letter"):
        transport.revive({refs[1]: b""})

    assert [entry.ref for entry in transport.dead_letters([queue], after=refs[0])] == refs[1:]


@pytest.mark.parametrize(
    "remove",
    [lambda one, ref: one.discard([ref]), lambda one, ref: one.revive({ref: b""})],
    ids=["discard", "revive"],
)
def test_what_could_not_be_dropped_since_the_connection_was_lost_is_told(
    server: Server,
    connect: Connect,
    transport: AmqpTransport,
    queue: str,
    envelope: Make,
    monkeypatch: pytest.MonkeyPatch,
    remove: Callable[[AmqpTransport, str], object],
) -> None:
    bury(transport, queue, envelope(1))
    (entry,) = transport.dead_letters([queue])
    proxy = Proxy(server.url, port=5672)
    distant = connect(url=proxy.url)
    drop = QueueScan.drop

    def drop_and_cut(scan: QueueScan, tags: set[int]) -> None:
        drop(scan, tags)
        proxy.cut()
        wait_until(lambda: scan._channel is not None and scan._channel.lost is not None)

    monkeypatch.setattr(QueueScan, "drop", drop_and_cut)

    with pytest.raises(TransportUnavailableError):
        remove(distant, entry.ref)

    monkeypatch.undo()
    proxy.close()
    wait_until(lambda: server.ready(server.topology.queue(queue, Role.DEAD)) == 1)  # the server has noticed the cut
    assert [each.ref for each in transport.dead_letters([queue])] == [entry.ref]


def test_a_list_that_the_end_of_the_connection_cut_short_is_an_error(
    server: Server,
    connect: Connect,
    transport: AmqpTransport,
    queue: str,
    envelope: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relevo_amqp._dead_letters._IDLE", 0.5)
    bury(transport, queue, *(envelope(number) for number in range(3)))
    proxy = Proxy(server.url, port=5672)
    distant = connect(url=proxy.url)
    consume = QueueScan._consume

    def consume_and_cut(scan: QueueScan, channel: Channel, number: int) -> None:
        consume(scan, channel, number - 1)  # the last one is still on its way
        scan._consumers["scan-0"] = number
        proxy.cut()

    monkeypatch.setattr(QueueScan, "_consume", consume_and_cut)

    with pytest.raises(TransportUnavailableError):
        distant.dead_letters([queue])

    proxy.close()


class LateQueue(SimpleQueue[object]):
    """Stalls the I/O thread before the first item, as a machine that pauses does."""

    late = 1.0

    def put(self, item: object, *args: Any, **kwargs: Any) -> None:
        time.sleep(self.late)
        self.late = 0.0
        super().put(item, *args, **kwargs)


def test_a_list_is_not_cut_short_by_a_pause(
    transport: AmqpTransport, queue: str, envelope: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(transport, queue, *(envelope(number) for number in range(3)))
    monkeypatch.setattr("relevo_amqp._dead_letters._IDLE", 0.1)
    monkeypatch.setattr("relevo_amqp._dead_letters.SimpleQueue", LateQueue)

    assert len(transport.dead_letters([queue])) == 3


def test_a_queue_that_is_deleted_while_one_looks_does_not_cost_what_is_held(
    server: Server, transport: AmqpTransport, queue: str, envelope: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(transport, queue, envelope(1))
    transport.send([envelope(2)])
    (held,) = receive(transport, queue)
    server.rest()
    consume = QueueScan._consume

    def consume_and_delete(scan: QueueScan, channel: Channel, number: int) -> None:
        cancelled = threading.Event()
        channel.on_cancel = lambda _: cancelled.set()
        consume(scan, channel, number)
        server.channel().queue_delete(scan.name)
        assert cancelled.wait(60.0)

    monkeypatch.setattr(QueueScan, "_consume", consume_and_delete)

    assert [entry.error for entry in transport.dead_letters([queue])] == ["id-1"]

    assert transport.settle([(held, Ack())]) == []


@pytest.mark.parametrize(
    "remove",
    [lambda one, ref: one.discard([ref, "x"]), lambda one, ref: one.revive({ref: b"", "x": b""})],
    ids=["discard", "revive"],
)
def test_what_goes_with_its_queue_is_no_failure_of_who_removes_it(
    server: Server,
    transport: AmqpTransport,
    queue: str,
    envelope: Make,
    monkeypatch: pytest.MonkeyPatch,
    remove: Callable[[AmqpTransport, str], Sequence[str]],
) -> None:
    monkeypatch.setattr("relevo_amqp._dead_letters._IDLE", 0.2)
    bury(transport, queue, envelope(1))
    (entry,) = transport.dead_letters([queue])
    enter = QueueScan.__enter__

    def enter_and_delete(scan: QueueScan) -> QueueScan:
        enter(scan)
        if scan._expected:
            scan._expected += 1  # as if another program had fetched one
            wait_until(lambda: not scan._found.empty())
            server.channel().queue_delete(scan.name)
        return scan

    monkeypatch.setattr(QueueScan, "__enter__", enter_and_delete)

    assert remove(transport, entry.ref) == ["x"]


def test_what_the_server_put_aside_by_itself_is_listed_and_can_be_revived(
    server: Server, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    """The safety net: a program other than relevo rejects an event."""
    transport.send([envelope(1)])
    channel = server.channel()
    method, _, _ = channel.basic_get(server.topology.queue(queue, Role.MAIN))
    channel.basic_reject(method.delivery_tag, requeue=False)
    wait_until(lambda: bool(transport.dead_letters([queue])))

    (entry,) = transport.dead_letters([queue])
    assert entry.reason == "server-rejected"
    assert isinstance(entry.envelope, Envelope)
    assert [each.ref for each in transport.dead_letters([queue])] == [entry.ref]
    assert transport.revive({entry.ref: b"again"}) == []
    (delivery,) = receive(transport, queue)
    assert (ids([delivery]), delivery.state, delivery.attempt) == (["id-1"], b"again", 1)


def test_an_event_with_an_expiration_is_not_lost_when_it_runs_out(
    server: Server, transport: AmqpTransport, queue: str
) -> None:
    """The safety net again: without it the server would drop it."""
    channel = server.channel()
    channel.confirm_delivery()
    channel.basic_publish(
        server.topology.exchange(Role.MAIN),
        queue,
        b"short-lived",
        pika.BasicProperties(expiration="50"),
        mandatory=True,
    )
    wait_until(lambda: bool(transport.dead_letters([queue])))

    assert [entry.reason for entry in transport.dead_letters([queue])] == ["server-expired"]


def test_foreign_bytes_among_the_dead_letters_are_shown_too(
    server: Server, transport: AmqpTransport, queue: str
) -> None:
    channel = server.channel()
    channel.confirm_delivery()
    channel.basic_publish(server.topology.exchange(Role.DEAD), queue, b"\xff", pika.BasicProperties(), mandatory=True)

    (entry,) = transport.dead_letters([queue])

    assert isinstance(entry.envelope, Unreadable)
    assert entry.envelope.raw == b"\xff"
    assert transport.discard([entry.ref]) == []
    assert transport.dead_letters([queue]) == []


def test_a_revival_that_cannot_be_confirmed_keeps_the_dead_letter(
    server: Server, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    bury(transport, queue, envelope(1))
    (entry,) = transport.dead_letters([queue])
    server.channel().queue_delete(server.topology.queue(queue, Role.MAIN))

    with pytest.raises(Exception, match="not every dead letter"):
        transport.revive({entry.ref: b""})

    assert [each.ref for each in transport.dead_letters([queue])] == [entry.ref]
    transport.setup([queue])
    assert transport.revive({entry.ref: b""}) == []
    assert ids(receive(transport, queue)) == ["id-1"]


def test_stats_count_what_is_ready_and_what_is_dead(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    worker = connect()
    bury(worker, queue, envelope(0))
    worker.close()
    transport.send([envelope(number) for number in range(1, 6)])

    stats = connect().stats(queue)
    held = receive(transport, queue, limit=2)
    own = transport.stats(queue)

    assert (stats.ready, stats.dead) == (5, 1)
    assert (stats.leased, stats.oldest_age) == (None, None)
    assert own.ready == 5 - len(held)
    assert connect().stats("never-set-up").ready == 0


def test_an_event_is_in_the_delay_or_ready_whenever_one_looks(
    server: Server,
    connect: Connect,
    transport: AmqpTransport,
    queue: str,
    envelope: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relevo_amqp._transport.LANDING", PATIENCE)  # as long as a busy machine may take
    other = server.queue()
    transport.setup([other])
    assert connect().stats(queue).scheduled == 0
    sent_at = time.monotonic()
    transport.send([envelope(1)], delay=0.7)  # by three rungs

    looks = [transport.stats(queue)]
    delayed = connect().stats(other).scheduled
    if time.monotonic() - sent_at < 0.7:  # else the machine paused
        assert delayed is None  # the queue of a delayed event is unknown
    deadline = time.monotonic() + PATIENCE
    while not looks[-1].ready and time.monotonic() < deadline:
        looks.append(transport.stats(queue))

    assert [each for each in looks if each.scheduled == 0 and not each.ready] == []
    assert looks[-1].ready == 1
    assert connect().stats(other).scheduled == 0
    monkeypatch.undo()
    while transport.stats(other).scheduled is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert transport.stats(other).scheduled == 0


def test_a_retry_that_this_process_asked_for_is_never_overlooked(
    transport: AmqpTransport, queue: str, envelope: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relevo_amqp._transport.LANDING", PATIENCE)  # as long as a busy machine may take
    transport.send([envelope(1)])
    transport.nack(receive(transport, queue)[0], delay=0.7)

    looks = [transport.stats(queue)]
    while not (again := receive(transport, queue, wait=0.0)):
        looks.append(transport.stats(queue))

    assert {each.scheduled for each in looks} == {None}
    assert again[0].attempt == 2


def test_a_child_of_a_fork_makes_its_own_connections(transport: AmqpTransport, queue: str, envelope: Make) -> None:
    transport.send([envelope(1)])
    pid = os.fork()
    if pid == 0:
        try:
            transport.send([envelope(2)])
            transport.close()
            os._exit(0)
        finally:
            os._exit(1)

    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    transport.send([envelope(3)])
    assert sorted(ids(drain(transport, queue, wait=0.5, least=3))) == ["id-1", "id-2", "id-3"]


def test_only_the_whole_ref_chooses_a_dead_letter_to_change_on_the_command_line(
    transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    bury(transport, queue, envelope(1))
    (entry,) = transport.dead_letters([queue])
    beginnings = [entry.ref[:1], entry.ref.partition("/")[0], entry.ref[:-1]]

    shown, _ = named([(transport, entry)], beginnings, by_beginning=True)
    changed, unknown = named([(transport, entry)], beginnings, by_beginning=False)
    whole, _ = named([(transport, entry)], [entry.ref], by_beginning=False)

    assert (shown, changed, whole) == ([(transport, entry)], [], [(transport, entry)])
    assert list(unknown) == beginnings
