"""Controls: operators pause queues and stop workers, which look at that once a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import pytest

from relevo import Ack, App, Delivery, Event, Execution, Report, RunOptions, SystemClock, Worker, hookimpl, listener
from relevo._app.app import parts_of
from relevo._process_identity import this_process
from relevo._runner.loop import LoopRunner
from relevo._transport.route import outbox_queue
from relevo._worker.announcement import holders
from relevo._worker.control import (
    FOR_EVER,
    LOOK_EVERY,
    Control,
    ControlWatch,
    Pause,
    Stop,
    controls_in,
    packed,
    pauses_in,
    this_worker,
)
from relevo.backend import ControlStore
from relevo.errors import ConfigurationError, TransportUnavailableError
from relevo.testing import FakeClock
from relevo_memory import MemoryStore, MemoryTransport

from .working import DRAIN, PATIENCE, Handled, Slots, lose

MakeWorker = Callable[..., Worker]
Send = Callable[..., None]


def ask(store: ControlStore, control: Control) -> None:
    store.set_control(control.key, packed(control), ttl=FOR_EVER)


def pause(store: ControlStore, queue: str = "default", *, transport: str = "") -> Pause:
    paused = Pause(transport=transport, queue=queue, since=0.0, by="ann@web-1")
    ask(store, paused)
    return paused


def resume(store: ControlStore, queue: str = "default", *, transport: str = "") -> None:
    store.set_control(Pause(transport=transport, queue=queue, since=0.0).key, b"", ttl=0.0)


def stop(store: ControlStore, request: str, *, worker: str = "", transport: str = "") -> None:
    ask(store, Stop(transport=transport, worker=worker, request=request, since=0.0, by="ann@web-1"))


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- looking -------------------------------------------------------------------------------------------


class Counting(MemoryTransport):
    """Counts the looks, and cannot be reached when it is told so."""

    looks = 0
    error: Exception | None = None

    def controls(self) -> Mapping[str, bytes]:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return super().controls()


@pytest.fixture(name="board")
def _board(clock: FakeClock) -> Iterator[Counting]:
    with Counting(clock=clock) as board:
        yield board


def watch(board: ControlStore, clock: FakeClock, *, transport: str = "", **how: Any) -> ControlWatch:
    return ControlWatch(
        board, clock, background=False, **{"transport": transport, "queues": ["feed", "media"], "stop": None, **how}
    )


def test_it_looks_once_a_second_at_most(board: Counting, clock: FakeClock) -> None:
    watched = watch(board, clock)

    with watched:
        for _ in range(30):
            watched.look_if_due()
            clock.advance(LOOK_EVERY / 10)

    assert board.looks == 3


def test_what_is_paused_changes_only_with_the_controls(board: Counting, clock: FakeClock) -> None:
    watched = watch(board, clock)
    seen = []

    for act in (lambda: None, lambda: pause(board, "feed"), lambda: None, lambda: resume(board, "feed")):
        act()
        watched.look_if_due()
        seen.append(watched.paused)
        clock.advance(LOOK_EVERY)

    assert [list(each) for each in seen] == [[], ["feed"], ["feed"], []]
    assert seen[1] is seen[2], "the worker takes another object for a change"


def test_pauses_of_other_queues_and_transports_are_not_its_own(board: Counting, clock: FakeClock) -> None:
    pause(board, "other")
    pause(board, "feed", transport="rabbit")
    own, rabbit = watch(board, clock), watch(board, clock, transport="rabbit")

    own.look_if_due()
    rabbit.look_if_due()

    assert (list(own.paused), list(rabbit.paused)) == ([], ["feed"])


def test_what_a_later_release_asks_is_ignored(board: Counting, clock: FakeClock) -> None:
    board.set_control("a1", b'{"is":"slow-down","v":2,"transport":"","queue":"feed"}', ttl=60.0)
    board.set_control("a2", b"\xff", ttl=60.0)
    board.set_control("a3", b"[" * 20_000, ttl=60.0)
    board.set_control("a4", packed(Pause(v=9, transport="", queue="media", since=1e300))[:-1] + b',"x":1}', ttl=60.0)
    watched = watch(board, clock)

    watched.look_if_due()

    assert list(watched.paused) == ["media"]
    assert "since 9999-12-31" in watched.paused["media"].in_words


def test_an_earlier_release_takes_a_control_for_no_announcement() -> None:
    controls: list[Control] = [
        Pause(transport="", queue="feed", since=1.0),
        Stop(transport="", worker="", request="1", since=1.0),
    ]

    stored = [packed(each) for each in controls]

    assert holders(stored) == {}
    assert list(controls_in(stored)) == controls


def test_what_was_known_last_stays_while_the_coordinator_is_down(
    board: Counting, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    pause(board, "feed", transport="rabbit")
    watched = watch(board, clock, transport="rabbit")
    watched.look_if_due()

    board.error = TransportUnavailableError("db", "it is down")
    for _ in range(30):
        clock.advance(LOOK_EVERY)
        watched.look_if_due()
    known = list(watched.paused)
    board.error = None
    clock.advance(LOOK_EVERY)
    resume(board, "feed", transport="rabbit")
    watched.look_if_due()

    assert (known, list(watched.paused)) == (["feed"], [])
    assert [record.getMessage() for record in caplog.records] == [
        'the transport "db" is unavailable: it is down; the pauses that were read last stay in force',
        "pauses and requests to stop can be read again, after an outage of 30 s",
    ]


def test_a_coordinator_that_lacks_a_table_pauses_nothing(
    board: Counting, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    board.error = ConfigurationError("a table is missing")
    watched = watch(board, clock, transport="rabbit")

    watched.look_if_due()

    watched.look_if_due()

    assert list(watched.paused) == []
    assert caplog.messages == [
        "pauses and requests to stop cannot be read, so this worker ignores them: a table is missing"
    ]


# --- stopping ------------------------------------------------------------------------------------------


def test_a_worker_heeds_each_request_to_stop_once_and_none_from_before_its_start(
    board: Counting, clock: FakeClock
) -> None:
    stops: list[str] = []
    watched = watch(board, clock, stop=lambda: stops.append("stopped"))
    counts = []

    for request in ("before", "before", "first", "first", "second"):
        stop(board, request)
        watched.look_if_due()
        counts.append(len(stops))
        clock.advance(LOOK_EVERY)

    assert counts == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("worker", "is_asked"),
    [("", True), (this_worker(), True), ("elsewhere:1", False), (f"{this_worker()}0", False)],
    ids=["all", "this", "another", "alike"],
)
def test_a_request_may_be_for_one_worker(worker: str, is_asked: bool, board: Counting, clock: FakeClock) -> None:  # noqa: FBT001 - a parameter of the test
    stops: list[str] = []
    watched = watch(board, clock, stop=lambda: stops.append("stopped"))
    watched.look_if_due()

    stop(board, "1", worker=worker)
    clock.advance(LOOK_EVERY)
    watched.look_if_due()

    assert bool(stops) == is_asked


def test_a_request_that_was_made_before_the_first_look_succeeded_is_not_heeded(
    board: Counting, clock: FakeClock
) -> None:
    stops: list[str] = []
    watched = watch(board, clock, stop=lambda: stops.append("stopped"))
    board.error = TransportUnavailableError("db", "it is down")
    watched.look_if_due()

    stop(board, "1")
    board.error = None
    clock.advance(LOOK_EVERY)
    watched.look_if_due()

    assert stops == []


def test_the_name_of_a_worker_is_the_one_that_operators_see() -> None:
    assert this_worker().endswith(f":{this_process().pid}")


# --- a worker ------------------------------------------------------------------------------------------


def test_the_events_of_a_paused_queue_wait_and_others_are_handled(
    transport: Any, envelope: Callable[..., Any], worker: MakeWorker
) -> None:
    transport.send([envelope("1", queue="feed"), envelope("2", queue="media")])
    pause(transport, "feed")
    handled = Handled()

    report = worker(handled, queues=["feed", "media"], options=DRAIN).run()

    assert handled == ["2"]
    assert (report.stopped_by, report.paused) == ("empty", ("feed",))
    assert transport.stats("feed").ready == 1


@pytest.mark.parametrize("stats", ["exact", "none"])
def test_a_drain_ends_if_all_its_queues_are_paused(stats: Any, transport: Any, send: Send, worker: MakeWorker) -> None:
    transport.capabilities = attrs.evolve(transport.capabilities, stats=stats)
    send(2)
    pause(transport)

    report = worker(Handled(), options=attrs.evolve(DRAIN, settle=30.0)).run()

    assert (report.handled, report.stopped_by, report.paused) == (0, "empty", ("default",))
    assert transport.said("receive") == []


def test_what_was_received_and_not_begun_goes_back_as_if_it_had_never_been_received(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    send(10)

    def pause_at_the_third(_: Delivery) -> None:
        if len(handled) == 3:
            pause(transport)
        clock.advance(LOOK_EVERY)

    handled = Handled(then=pause_at_the_third)

    report = worker(handled, options=DRAIN).run()
    resume(transport)
    again = transport.receive(["default"], limit=10, lease=60.0, wait=0.0)

    assert handled == ["0", "1", "2"]
    assert (report.done, report.unsettled) == (3, 0)
    assert [(each.attempt, each.lost_leases) for each in again] == [(1, 0)] * 7


def test_a_suspect_of_a_paused_queue_is_not_begun(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    send(1)
    lose(transport, clock, 1)
    pause(transport)
    handled = Handled()
    one = worker(handled)

    threading.Timer(0.0, one.stop).start()
    one.run()

    assert handled == []
    assert transport.stats("default").ready == 1


class PausingSlots(Slots):
    """Pauses the queue while it takes a delivery with others behind it, as when a child process starts slowly."""

    worker: Any
    board: Any
    submitted = submitted_before = 0

    def submit(self, delivery: Delivery) -> None:
        super().submit(delivery)
        self.submitted += 1
        if not self.submitted_before and len(self.worker._backlog) > 1:
            self.submitted_before = self.submitted
            pause(self.board)
            self.clock.advance(LOOK_EVERY)
            self.worker._control.look_if_due()


def test_nothing_more_is_submitted_if_a_submission_took_longer_than_the_pause(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock
) -> None:
    send(50)
    slots = PausingSlots(clock, 3)
    slots.worker = worker(Handled(), executor=slots, options=DRAIN)
    slots.board = transport

    report = slots.worker.run()

    assert 0 < slots.submitted == slots.submitted_before == report.done
    assert transport.stats("default").ready == 50 - report.done


def test_what_was_received_ahead_of_a_pause_goes_back(transport: Any, send: Send, worker: MakeWorker) -> None:
    send(1)
    one = worker(Handled(), options=DRAIN)
    receive = transport.receive

    def paused_meanwhile(*arguments: Any, **how: Any) -> Any:
        batch = receive(*arguments, **how)
        one._heeded = one._control.paused = {"default": pause(transport)}
        return batch

    transport.receive = paused_meanwhile
    report = one.run()

    assert (report.handled, report.unsettled) == (0, 0)
    assert transport.stats("default").ready == 1


def test_a_resumed_queue_is_handled_by_the_same_worker(
    transport: Any, send: Send, worker: MakeWorker, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    send(2)
    pause(transport)
    handled = Handled()
    one = worker(handled, options=DRAIN)

    one.run()
    resume(transport)
    clock.advance(LOOK_EVERY)
    report = one.run()

    assert (len(handled), report.paused) == (2, ())
    said = [record.getMessage() for record in caplog.records if "queue" in record.getMessage()]
    assert said == [
        "the queue default of memory has been paused since 1970-01-01 00:00:00Z by ann@web-1; its events wait",
        "the queue default of memory was resumed",
    ]


def test_an_event_that_an_operator_chose_is_handled_although_its_queue_is_paused(make: Callable[..., App]) -> None:
    called: list[object] = []
    app = make(listener("image.created", id="keep")(lambda event: called.append(event)))  # noqa: PLW0108 - as above
    sent = app.dispatch(Event("image.created"))
    pause(app.transport("main"))  # type: ignore[arg-type]  # it is one

    app.worker(attrs.evolve(DRAIN, event_id=sent.id)).run()

    assert len(called) == 1


class Turning:
    """Counts the turns of a loop, as the watchdog does."""

    turns = 0

    @hookimpl
    def relevo_may_run(self) -> None:
        self.turns += 1


def test_a_worker_whose_queues_are_all_paused_goes_on_turning(
    make: Callable[..., App], caplog: pytest.LogCaptureFixture
) -> None:
    app = make(clock=SystemClock(), transports={"main": MemoryTransport()})
    pause(app.transport("main"))  # type: ignore[arg-type]  # it is one
    turning = Turning()
    app.hooks.add(turning)
    one = app.worker()
    thread = threading.Thread(target=one.run)

    thread.start()
    until(lambda: turning.turns > 5)
    one.stop()
    thread.join(PATIENCE)

    assert not thread.is_alive()
    assert len([record for record in caplog.records if "been paused" in record.getMessage()]) == 1


def test_an_event_that_waits_for_a_thread_is_not_begun_after_a_pause(make: Callable[..., App]) -> None:
    begun: list[int] = []
    go = threading.Event()

    def wait(event: Event) -> None:
        begun.append(event["number"])
        go.wait(PATIENCE)

    app = make(
        listener("image.created", id="wait")(wait),
        clock=SystemClock(),
        transports={"main": MemoryTransport()},
        execution=Execution("threads", 2),
    )
    for number in range(8):
        app.dispatch(Event("image.created", {"number": number}))
    one = app.worker(DRAIN)
    reports: list[Report] = []
    thread = threading.Thread(target=lambda: reports.append(one.run()))
    thread.start()
    until(lambda: len(begun) == 2)

    pause(app.transport("main"))  # type: ignore[arg-type]  # it is one
    until(lambda: one.paused)
    go.set()
    thread.join(PATIENCE)

    assert sorted(begun) == [0, 1]
    assert (reports[0].done, reports[0].unsettled) == (2, 0)
    assert app.transport("main").stats("default").ready == 6


# --- a runner ------------------------------------------------------------------------------------------


@pytest.fixture(name="shops")
def _shops() -> Iterator[Callable[..., App]]:
    """Make applications with an outbox, as several processes have them."""
    main, outbox = MemoryStore(), MemoryStore()
    made: list[App] = []

    def shop(**how: Any) -> App:
        made.append(
            App(
                transports={"main": MemoryTransport(main)},
                outboxes={"main": MemoryTransport(outbox, name="outbox")},
                routes={"*": "main"},
                source="shop",
                listeners=[listener("image.created", id="keep")(lambda event: None)],
                **how,
            )
        )
        return made[-1]

    yield shop
    for each in made:
        each.close()


def begun(app: App, reports: list[Report], **options: Any) -> threading.Thread:
    """Run *app* in a thread, until it has looked at the controls."""
    stores: list[Any] = [app.outboxes["main"], *([] if options.get("relay_only") else [app.transport("main")])]
    looked = [noting(each) for each in stores]
    runner = LoopRunner(signals=False)
    thread = threading.Thread(target=lambda: reports.append(runner.run(app, RunOptions(**options))))
    thread.start()
    assert all(each.wait(PATIENCE) for each in looked)
    return thread


def noting(store: Any) -> threading.Event:
    """Return what is set when a worker has looked at the controls of *store* for the second time."""
    looks: list[object] = []
    looked = threading.Event()
    controls = store.controls

    def look() -> Any:
        if looks:
            looked.set()
        looks.append(None)
        return controls()

    store.controls = look
    return looked


def is_empty(app: App) -> bool:
    stats = app.transport("main").stats("default")
    return (stats.ready, stats.leased) == (0, 0)


def test_workers_stop_when_they_are_asked_to_and_one_that_starts_later_does_not(shops: Callable[..., App]) -> None:
    reports: list[Report] = []
    apps = [shops() for _ in range(2)]
    threads = [begun(app, reports) for app in apps]

    stop(apps[0].transport("main"), "1")  # type: ignore[arg-type]  # it is one
    for thread in threads:
        thread.join(PATIENCE)
    later = shops()
    thread = begun(later, reports)
    later.dispatch(Event("image.created"))
    until(lambda: is_empty(later))

    assert [report.stopped_by for report in reports] == ["asked", "asked"]
    stop(later.transport("main"), "2")  # type: ignore[arg-type]  # it is one
    thread.join(PATIENCE)
    assert reports[-1].stopped_by == "asked"


def test_a_relay_beside_a_worker_is_not_stopped_alone_and_one_by_itself_is(shops: Callable[..., App]) -> None:
    reports: list[Report] = []
    app, other = shops(), shops()
    worker, relay = begun(app, reports), begun(other, reports, relay_only=True)

    stop(app.outboxes["main"], "1")  # type: ignore[arg-type]  # it is one
    relay.join(PATIENCE)

    looked = noting(app.outboxes["main"])
    assert looked.wait(PATIENCE)  # the relay beside the worker has seen the request, too
    outbox: Any = app.outboxes["main"]
    outbox.send([attrs.evolve(_sent(), id="moved", queue=outbox_queue("main"))])
    until(lambda: outbox.stats(outbox_queue("main")).ready == 0)

    assert [report.stopped_by for report in reports] == ["asked"]
    assert worker.is_alive()
    stop(app.transport("main"), "1")  # type: ignore[arg-type]  # it is one
    worker.join(PATIENCE)
    assert len(reports) == 2


def test_the_queue_of_an_outbox_may_be_paused_and_a_drain_that_waits_for_it_ends(shops: Callable[..., App]) -> None:
    app = shops()
    outbox: Any = app.outboxes["main"]
    queue = outbox_queue("main")
    pause(outbox, queue)
    envelope = _sent()
    outbox.send([attrs.evolve(envelope, queue=queue)])

    report = LoopRunner(signals=False).run(app, attrs.evolve(DRAIN, settle=300.0))

    assert (report.handled, report.stopped_by) == (0, "empty")
    assert outbox.stats(queue).ready == 1


def _sent() -> Any:
    """Return the envelope of an event, as it is sent."""
    with App(transports={"main": MemoryTransport()}, routes={"*": "main"}, source="shop") as app:
        app.dispatch(Event("image.created"))
        (delivery,) = app.transport("main").receive(["default"], limit=1, lease=60.0, wait=0.0)
        return delivery.envelope


# --- where they are kept -------------------------------------------------------------------------------


def test_controls_are_kept_by_the_coordinator_under_the_name_of_the_transport(clock: FakeClock) -> None:
    with MemoryTransport(name="db", clock=clock) as board:
        found = pauses_in([packed(pause(board, "feed", transport="rabbit"))], "rabbit")

        assert list(found) == ["feed"]
        assert pauses_in(board.controls().values(), "") == {}


def test_a_transport_without_controls_has_workers_that_look_at_none(make: Callable[..., App]) -> None:
    app = make()
    assert isinstance(parts_of(app).coordinator(app.transport("main")), ControlStore)
    assert (
        Worker(
            transport=app.transport("main"),
            handle=lambda _: Ack(),
            queues=["default"],
            clock=app.clock,
            chance=lambda: 0.0,
            coordinator=None,
        ).paused
        == {}
    )
