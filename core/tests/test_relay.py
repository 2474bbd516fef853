from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from relevo import Ack, Delivery, Envelope, Nack, Note, Release, RunOptions, Settlement, Worker
from relevo._clock import readable
from relevo._process_identity import this_process
from relevo._transport.route import outbox_queue
from relevo._worker.relay import RelayExecutor
from relevo.backend import ParallelSettlement
from relevo.errors import (
    ConfigurationError,
    SendError,
    TransportClosedError,
    TransportUnavailableError,
    UnsupportedError,
)
from relevo.testing import FakeClock
from relevo_memory import MemoryStore, MemoryTransport
from relevo_memory._store import Posting

OUTBOX = outbox_queue("broker")
DRAIN = RunOptions(until_empty=True)
PATIENCE = 300.0
DOWN = TransportUnavailableError("broker", "down")
Relay = Callable[..., Worker]
MakeWorker = Callable[..., Worker]


@pytest.fixture(name="outbox")
def _outbox(clock: FakeClock) -> Iterator[MemoryTransport]:
    with MemoryTransport(name="outbox", clock=clock) as outbox:
        yield outbox


@pytest.fixture(name="put")
def _put(outbox: MemoryTransport, envelope: Callable[..., Envelope], clock: FakeClock) -> Callable[..., None]:
    """Put events called 0, 1, 2 and so on into the outbox, as a committed transaction does."""

    def put(number: int = 1, **fields: Any) -> None:
        envelopes = [envelope(str(i), **fields) for i in range(number)]
        outbox.store.add([Posting(queue=OUTBOX, envelope=one, due=clock.now()) for one in envelopes], clock.now())

    return put


Put = Callable[..., None]


@pytest.fixture(name="relay")
def _relay(outbox: MemoryTransport, transport: Any, clock: FakeClock) -> Relay:
    """Make a worker that moves what is in the outbox to the transport."""

    def relay(**how: Any) -> Worker:
        return Worker(
            handle=lambda _: Release(),
            **{
                "transport": outbox,
                "queues": [OUTBOX],
                "clock": clock,
                "chance": lambda: 1.0,
                "options": DRAIN,
                "executor": RelayExecutor(transport, clock=clock, patience=how.pop("patience", 3600.0)),
                "background": False,
                **how,
            },
        )

    return relay


def _received(transport: Any) -> Sequence[Delivery]:
    return MemoryTransport.receive(transport, ["default", "feed"], limit=1000, lease=60.0, wait=0.0)


def _moved(transport: Any) -> list[str]:
    return [one.envelope.id for one in _received(transport) if isinstance(one.envelope, Envelope)]


def test_events_are_moved_in_order_their_envelopes_unchanged(
    put: Put, relay: Relay, transport: Any, envelope: Callable[..., Envelope]
) -> None:
    put(100, queue="feed", urgency="high", ordering_key="7")

    report = relay().run()

    received = _received(transport)
    assert report.done == 100
    assert transport.stats("feed").ready == 99  # one of a key at a time
    assert received[0].envelope == envelope("0", queue="feed", urgency="high", ordering_key="7")


def test_a_batch_is_sent_in_one_go(put: Put, relay: Relay, transport: Any) -> None:
    put(15)

    relay().run()

    assert [len(ids) for ids in transport.said("send")] == [1, 1, 2, 4, 7]


def test_a_batch_grows_to_1000_events_or_to_what_the_options_say(put: Put, relay: Relay, transport: Any) -> None:
    put(3500)

    relay(options=RunOptions(until_empty=True)).run()
    usual = max(len(ids) for ids in transport.said("send"))
    put(100)
    relay(options=RunOptions(until_empty=True, batch=20)).run()
    chosen = max(len(ids) for ids in transport.said("send")[-6:])

    assert (usual, chosen) == (1000, 20)


def test_an_outbox_gives_an_event_up_only_when_the_target_has_it(
    put: Put, outbox: MemoryTransport, transport: Any, clock: FakeClock
) -> None:
    put(3)
    executor = RelayExecutor(transport, clock=clock)
    for delivery in outbox.receive([OUTBOX], limit=3, lease=60.0, wait=0.0):
        executor.submit(delivery)
    before = transport.said("send"), executor.running()

    outcomes = [outcome for _, outcome in executor.take_finished(0.0)]

    assert before == ([], 3)
    assert outcomes == [Ack(), Ack(), Ack()]
    assert all(outcome.moved for outcome in outcomes if isinstance(outcome, Ack))
    assert _moved(transport) == ["0", "1", "2"]


class _WithOneConnection(MemoryTransport, ParallelSettlement):
    """An outbox whose calls follow one another, as on SQLite."""

    settles_in_parallel = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.received = 0

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        batch = super().receive(queues, limit=limit, lease=lease, wait=wait)
        self.received += len(batch)
        return batch


def test_the_next_batch_is_received_while_the_target_stores_one(
    relay: Relay, transport: Any, envelope: Callable[..., Envelope], clock: FakeClock
) -> None:
    send = transport.send
    stored: list[Envelope] = []

    def store_slowly(envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        stored.extend(envelopes)
        if len(envelopes) == 32:  # the next batch comes before this one is stored
            deadline = time.monotonic() + 30.0
            while outbox.received <= len(stored):
                assert time.monotonic() < deadline
                time.sleep(0.002)
        send(envelopes, delay=delay)

    transport.send = store_slowly
    with _WithOneConnection(name="outbox", clock=clock) as outbox:
        outbox.store.add(
            [Posting(queue=OUTBOX, envelope=envelope(str(each)), due=0.0) for each in range(200)], clock.now()
        )

        report = relay(transport=outbox, background=True).run()

    assert report.done == len(stored) == 200


# --- the target is down ------------------------------------------------------------------------------


def test_a_relay_that_is_not_patient_raises_and_everything_stays_where_it_is(
    put: Put, relay: Relay, transport: Any, outbox: MemoryTransport
) -> None:
    put(3)
    transport.fail("send", DOWN)

    with pytest.raises(TransportUnavailableError):
        relay().run()

    stats = outbox.stats(OUTBOX)
    assert (stats.ready, stats.leased, stats.scheduled) == (3, 0, 0)
    (first, *_) = outbox.receive([OUTBOX], limit=3, lease=60.0, wait=0.0)
    assert (first.attempt, first.lost_leases) == (1, 0)


@pytest.mark.parametrize("done", [False, True])
def test_a_patient_relay_waits_longer_and_longer_and_then_moves_them(
    done: bool,  # noqa: FBT001
    put: Put,
    relay: Relay,
    transport: Any,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put(3)
    transport.fail("send", DOWN, times=20, done=done)
    began = clock.now()

    report = relay(patient=True).run()

    took = clock.now() - began
    assert took == pytest.approx(0.1 + 0.2 + 0.4 + 0.8 + 1.6 + 15 * 3.0)
    assert report.handled == report.done == 3
    assert sorted(_moved(transport)) == ["0", "1", "2"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{DOWN}; waiting until it is back",
        f'the transport "broker" is back after {readable(took)}',
    ]


def test_a_relay_that_is_stopped_in_an_outage_gives_back_what_it_holds(
    put: Put, relay: Relay, transport: Any, outbox: MemoryTransport
) -> None:
    put(3)
    transport.fail("send", DOWN, times=10**6)
    clock = _Stopping(lambda: stopped.stop())  # noqa: PLW0108 - there is no worker yet
    stopped = relay(patient=True, clock=clock, options=RunOptions())

    report = stopped.run()

    assert (report.stopped_by, report.handled) == ("asked", 0)
    assert (outbox.stats(OUTBOX).ready, outbox.stats(OUTBOX).leased) == (3, 0)


class _Stopping(FakeClock):
    def __init__(self, stop: Callable[[], None]) -> None:
        super().__init__()
        self.stop = stop

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.stop()


def test_a_closed_target_ends_the_relay_and_nothing_is_lost(
    put: Put, relay: Relay, transport: Any, outbox: MemoryTransport
) -> None:
    put(3)
    transport.close()

    with pytest.raises(TransportClosedError):
        relay(patient=True).run()

    assert (outbox.stats(OUTBOX).ready, outbox.stats(OUTBOX).leased) == (3, 0)


# --- what the target says of each ---------------------------------------------------------------------


def test_what_was_sent_is_done_and_what_is_unknown_is_sent_again_under_its_id(
    put: Put, transport: Any, outbox: MemoryTransport, clock: FakeClock
) -> None:
    put(4)
    executor = RelayExecutor(transport, clock=clock)
    transport.fail("send", SendError("broker", sent=[1], unknown=[0, 2, 3], why="no answer"))
    for delivery in outbox.receive([OUTBOX], limit=4, lease=60.0, wait=0.0):
        executor.submit(delivery)

    outcomes = [outcome for _, outcome in executor.take_finished(0.0)]

    assert outcomes == [Nack(delay=1.0), Ack(), Nack(delay=1.0), Nack(delay=1.0)]


def test_what_is_refused_is_tried_for_as_long_as_patience_lasts_from_the_first_refusal(
    put: Put, relay: Relay, transport: Any, outbox: MemoryTransport, clock: FakeClock
) -> None:
    put(1)
    clock.advance(1e6)  # it was dispatched long ago, and the target was down
    transport.fail("send", SendError("broker", refused=[0], why="too large"), times=10**6)
    began = clock.now()

    report = relay(patience=600.0, options=RunOptions(until_empty=True, settle=1000.0)).run()

    (entry,) = outbox.dead_letters([OUTBOX])
    assert report.reasons == {"refused": 1}
    assert entry.reason == "refused"
    assert "too large" in entry.error
    assert 600.0 <= entry.died_at - began < 601.0
    assert len(transport.said("send")) < 25


def test_a_refused_event_is_logged_when_it_is_refused_first(
    put: Put, relay: Relay, transport: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    put(3, ordering_key="7")
    transport.fail("send", SendError("broker", refused=[0], why="the queue is full"), times=10)

    report = relay(patience=600.0, options=RunOptions(until_empty=True, settle=300.0)).run()

    assert (report.done, report.dead) == (3, 0)
    (told,) = [record.getMessage() for record in caplog.records if record.name == "relevo.relay"]
    assert "outbox/broker was not moved, and is tried again for 10 min: " in told
    assert "the queue is full" in told
    assert told.endswith("; the events behind it with its ordering key wait meanwhile")


def test_of_many_refused_events_one_a_minute_is_a_warning(
    put: Put, transport: Any, outbox: MemoryTransport, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    put(6)
    executor = RelayExecutor(transport, clock=clock)
    transport.fail("send", SendError("broker", refused=range(3), why="the queue is full"), times=2)

    with caplog.at_level("INFO", logger="relevo.relay"):
        for _ in range(2):
            for delivery in outbox.receive([OUTBOX], limit=3, lease=60.0, wait=0.0):
                executor.submit(delivery)
            executor.take_finished(0.0)
            clock.advance(60.0)

    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "INFO"] * 2


def test_an_event_that_asks_for_what_the_target_does_not_claim_holds_up_nobody(
    put: Put,
    relay: Relay,
    outbox: MemoryTransport,
    envelope: Callable[..., Envelope],
    clock: FakeClock,
    store: MemoryStore,
) -> None:
    class _NoOrder(MemoryTransport):
        def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
            if any(envelope.ordering_key for envelope in envelopes):
                raise UnsupportedError(self.name, "order")
            super().send(envelopes, delay=delay)

    put(7)
    bad = envelope("bad", ordering_key="7")
    outbox.store.add([Posting(queue=OUTBOX, envelope=bad, due=clock.now())], clock.now())
    with _NoOrder(store, clock=clock) as target:
        report = relay(executor=RelayExecutor(target, clock=clock, patience=0.0)).run()

        assert sorted(_moved(target)) == [str(i) for i in range(7)]
    assert (report.done, report.reasons) == (7, {"refused": 1})


def test_a_target_that_refuses_the_relay_after_it_took_events_is_an_outage_and_refuses_no_event(
    put: Put, relay: Relay, transport: Any, outbox: MemoryTransport, clock: FakeClock
) -> None:
    mover = relay(patient=True, executor=RelayExecutor(transport, clock=clock, patience=0.0))
    put(1)
    mover.run()
    transport.fail("send", ConfigurationError("no such user"), times=5)
    put(3)

    report = mover.run()

    assert (report.done, report.dead) == (4, 0)


def test_a_target_that_refuses_the_relay_from_the_start_ends_it_and_refuses_no_event(
    put: Put, relay: Relay, transport: Any, outbox: MemoryTransport, clock: FakeClock
) -> None:
    transport.fail("send", ConfigurationError("no such user"))
    put(3)

    with pytest.raises(ConfigurationError):
        relay(patient=True, executor=RelayExecutor(transport, clock=clock, patience=0.0)).run()

    assert outbox.stats(OUTBOX).ready == 3


# --- suspects, and what should not be moved -------------------------------------------------------------


def test_a_suspect_is_sent_alone_and_the_third_death_is_a_crash_loop(
    put: Put, relay: Relay, transport: Any, outbox: MemoryTransport, clock: FakeClock
) -> None:
    put(12)
    deaths = tuple(str(this_process().as_witnessed()) for _ in range(3))
    first, _ = outbox.receive([OUTBOX], limit=2, lease=60.0, wait=0.0)
    outbox.begin(first, Note(by="nobody", deaths=deaths))
    clock.advance(61)

    report = relay().run()

    assert report.reasons == {"crash-loop": 1}
    assert ["1"] in transport.said("send")
    assert sorted(_moved(transport), key=int) == [str(i) for i in range(1, 12)]


def test_an_expired_event_and_bytes_that_are_none_are_not_moved(
    put: Put, relay: Relay, transport: Any, outbox: MemoryTransport, clock: FakeClock
) -> None:
    put(1, expires=clock.now() - 1)
    outbox.store.put_raw(OUTBOX, b"\xff")

    report = relay().run()

    assert report.reasons == {"expired": 1, "unreadable": 1}
    assert transport.said("send") == []


@pytest.mark.parametrize("defect", [ValueError("NUL"), UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogate")])
def test_an_event_that_the_target_cannot_even_write_holds_up_nobody(
    put: Put, relay: Relay, transport: Any, outbox: MemoryTransport, defect: Exception
) -> None:
    put(3)
    send = transport.send

    def sends(envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        if any(each.id == "1" for each in envelopes):
            raise defect
        send(envelopes, delay=delay)

    transport.send = sends

    report = relay().run()

    assert _moved(transport) == ["0", "2"]
    assert (report.done, report.retried) == (2, 1)


def test_a_relay_holds_no_event_for_longer_than_a_moment_after_it_was_sent(
    put: Put, transport: Any, outbox: MemoryTransport, clock: FakeClock
) -> None:
    executor = RelayExecutor(transport, clock=clock)
    put(3)
    batch = outbox.receive([OUTBOX], limit=3, lease=60.0, wait=0.0)
    for each in batch:
        executor.submit(each)
    executor.take_finished(0.0)
    first = batch[0].envelope
    assert isinstance(first, Envelope)
    assert executor.passed_on(first) is batch[0]
    sent = [weakref.ref(each) for each in batch]
    del batch, each

    clock.advance(6.0)
    assert executor.room()
    gc.collect()

    assert executor.passed_on(first) is None
    assert [ref() for ref in sent] == [None] * 3


def test_a_relay_remembers_the_last_5000_events_that_it_sent_a_moment_ago(
    put: Put, transport: Any, outbox: MemoryTransport, clock: FakeClock
) -> None:
    executor = RelayExecutor(transport, clock=clock)
    put(6000)
    sent = []
    for size in (1, 1, 1, 997, 1000, 1000, 1000, 1000, 500, 500):
        batch = outbox.receive([OUTBOX], limit=size, lease=60.0, wait=0.0)
        for each in batch:
            executor.submit(each)
        executor.take_finished(0.0)
        sent += [each.envelope for each in batch if isinstance(each.envelope, Envelope)]

    remembered = [executor.passed_on(each) is not None for each in sent]

    assert remembered == [False] * 1000 + [True] * 5000


class _SlowToRecord(MemoryTransport):
    """An outbox whose settlements wait until they are let through."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.is_asked, self.may_go = threading.Event(), threading.Event()

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        self.is_asked.set()
        assert self.may_go.wait(PATIENCE)
        return super().settle(settlements)


@pytest.mark.parametrize("records_after", [3.0, float("inf")])
def test_a_worker_beside_a_relay_begins_what_was_sent_once_the_outbox_knows_that(
    records_after: float, relay: Relay, worker: MakeWorker, envelope: Callable[..., Envelope], clock: FakeClock
) -> None:
    began = clock.now()
    handled: list[float] = []
    with _SlowToRecord(name="outbox", clock=clock) as outbox:
        outbox.store.add([Posting(queue=OUTBOX, envelope=envelope("1"), due=began)], began)
        moving = relay(transport=outbox)
        thread = threading.Thread(target=moving.run)
        thread.start()
        assert outbox.is_asked.wait(PATIENCE)

        sleep = clock.sleep

        def record_in_time(seconds: float) -> None:
            sleep(seconds)
            if clock.now() - began >= records_after and not outbox.may_go.is_set():
                outbox.may_go.set()
                thread.join(PATIENCE)

        def handle(_: Delivery) -> Ack:
            handled.append(clock.now() - began)
            return Ack()

        clock.sleep = record_in_time  # type: ignore[method-assign]
        beside = worker(handle, options=DRAIN)
        beside.follow(moving)
        beside.run()
        outbox.may_go.set()
        thread.join(PATIENCE)

    assert handled == [pytest.approx(min(records_after, 5.0), abs=0.1)]
