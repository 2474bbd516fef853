from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

import relevo
from relevo import (
    App,
    ConfigurationError,
    Delivery,
    Event,
    Execution,
    Lost,
    Outcome,
    RunOptions,
    TimeLimitExceededError,
)
from relevo.execution import ThreadExecutor
from relevo_memory import MemoryTransport

Make = Callable[..., Delivery]
DRAIN = RunOptions(until_empty=True)
PATIENCE = 300.0


@pytest.fixture(name="made")
def _made() -> Iterator[Callable[..., App]]:
    with contextlib.ExitStack() as stack:

        def made(*listeners: object, threads: int = 2, lease: float = 60.0, **terms: Any) -> App:
            return stack.enter_context(
                App(
                    transports={"main": MemoryTransport()},
                    routes={"*": "main"},
                    listeners=listeners,
                    lease=lease,
                    execution=Execution("threads", threads, **terms),
                )
            )

        yield made


MakeApp = Callable[..., App]


def _finished(executor: ThreadExecutor, number: int) -> list[tuple[Delivery, Outcome]]:
    found: list[tuple[Delivery, Outcome]] = []
    deadline = time.monotonic() + PATIENCE
    while len(found) < number:
        assert time.monotonic() < deadline
        found += executor.take_finished(0.02)
    return found


def test_as_many_listeners_run_at_once_as_there_are_threads(made: MakeApp) -> None:
    meeting = threading.Barrier(4, timeout=PATIENCE)

    @relevo.listener("image.created")
    def meet(event: Event) -> None:
        meeting.wait()

    app = made(meet, threads=4)
    app.dispatch_many(Event("image.created") for _ in range(8))

    report = app.worker(DRAIN).run()

    assert (report.done, report.retried) == (8, 0)


def test_one_that_blocks_holds_up_no_other(made: MakeApp) -> None:
    others_done = threading.Event()
    done: list[int] = []

    @relevo.listener("image.created")
    def work(event: Event) -> None:
        if event["number"] == 0:
            assert others_done.wait(PATIENCE)
        done.append(event["number"])
        if len(done) == 19:
            others_done.set()

    app = made(work)
    app.dispatch_many(Event("image.created", {"number": number}) for number in range(20))

    report = app.worker(DRAIN).run()

    assert report.done == 20
    assert done[-1] == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, ValueError])
def test_whatever_a_listener_raises_is_its_own_failure_and_its_thread_lives_on(
    made: MakeApp, error: type[BaseException]
) -> None:
    meeting = threading.Barrier(2, timeout=PATIENCE)
    met: list[int] = []

    @relevo.listener("image.created", retry=1)
    def work(event: Event) -> None:
        if event["number"] == 3:
            raise error
        if event["number"] > 3:
            with contextlib.suppress(threading.BrokenBarrierError):  # a failure more would end one thread more
                meeting.wait()
                met.append(event["number"])

    app = made(work)
    app.dispatch_many(Event("image.created", {"number": number}) for number in range(6))

    report = app.worker(DRAIN).run()

    (dead,) = app.transport().dead_letters(["default"], limit=9)
    assert sorted(met) == [4, 5]
    assert (report.done, report.reasons) == (5, {"retries-exhausted": 1})
    assert error.__name__ in dead.error


def test_a_listener_that_returns_a_generator_has_failed_in_a_thread_too(made: MakeApp) -> None:
    @relevo.listener("image.created", retry=1)
    def work(event: Event) -> object:
        return (each for each in [event])

    app = made(work)
    app.dispatch("image.created")

    app.worker(DRAIN).run()

    (dead,) = app.transport().dead_letters(["default"], limit=9)
    assert "returned a lazy generator" in dead.error


@pytest.mark.lengthy("waits")
def test_a_listener_over_its_time_limit_ends_the_worker_and_counts_as_a_loss(made: MakeApp) -> None:
    release = threading.Event()

    @relevo.listener("image.hung", time_limit="50ms", id="hang")
    def hang(event: Event) -> None:
        release.wait(PATIENCE)

    @relevo.listener("image.created")  # without that limit, which it could exceed on a busy machine
    def work(event: Event) -> None: ...

    app = made(hang, work, time_limit=PATIENCE)
    app.dispatch_many(Event("image.hung" if number == 0 else "image.created") for number in range(10))

    with pytest.raises(TimeLimitExceededError, match=r"hang ran for longer than its time limit of 0.05 s"):
        app.worker().run()

    rest = app.transport().receive(["default"], limit=99, lease=60.0, wait=0.0)
    release.set()
    assert [(each.lost_leases, each.attempt) for each in rest if each.lost_leases] == [(1, 2)]
    assert app.transport().stats("default").leased == len(rest)


@pytest.mark.lengthy("waits")
def test_those_that_are_within_their_limit_finish_before_the_worker_ends(
    made: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    release, both = threading.Event(), threading.Barrier(2, timeout=PATIENCE)
    done: list[str] = []

    @relevo.listener("image.created", id="meet", priority=1)
    def meet(event: Event) -> None:
        both.wait()  # else the other may exceed its limit before the slow one has begun

    @relevo.listener("image.created", id="hang", time_limit=0.05)
    def hang(event: Event) -> None:
        release.wait(PATIENCE)

    @relevo.listener("image.rated")
    def slow(event: Event) -> None:
        both.wait()
        deadline = time.monotonic() + PATIENCE
        while "hang has run for more than" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        if "hang has run for more than" in caplog.text:
            done.append("slow")

    app = made(meet, hang, slow)
    app.dispatch_many([Event("image.created"), Event("image.rated")])

    with pytest.raises(TimeLimitExceededError):
        app.worker().run()

    release.set()
    assert done == ["slow"]
    assert app.transport().stats("default").ready == 1


@pytest.mark.lengthy("waits")
def test_what_was_not_begun_when_the_worker_gives_up_is_no_loss(made: MakeApp) -> None:
    release, both = threading.Event(), threading.Barrier(2, timeout=PATIENCE)

    @relevo.listener("image.created", id="meet", priority=1)
    def meet(event: Event) -> None:
        both.wait()  # else the first may exceed its limit before the second has begun

    @relevo.listener("image.created", id="hang", time_limit=0.3)
    def hang(event: Event) -> None:
        release.wait(PATIENCE)

    app = made(meet, hang)
    app.dispatch_many(Event("image.created", {"number": number}) for number in range(6))

    with pytest.raises(TimeLimitExceededError):
        app.worker().run()

    release.set()
    transport = app.transport()
    held = [transport.receive(["default"], limit=9, lease=60.0, wait=0.0) for _ in range(6)]
    assert sorted(each.lost_leases for batch in held for each in batch) == [0, 0, 0, 0, 1, 1]


@pytest.mark.slow("waits for three time limits")
def test_a_third_loss_by_hanging_is_a_crash_loop_that_says_so(made: MakeApp) -> None:
    release = threading.Event()

    @relevo.listener("image.created", time_limit=0.05, id="hang")
    def hang(event: Event) -> None:
        release.wait(PATIENCE)

    app = made(hang)
    app.dispatch(Event("image.created"))

    for _ in range(3):
        with pytest.raises(TimeLimitExceededError):
            app.worker(DRAIN).run()

    release.set()
    (dead,) = app.transport().dead_letters(["default"], limit=9)
    assert (dead.reason, dead.lost_leases) == ("crash-loop", 2)
    assert dead.error.startswith("3 runs of it were broken off; the worker ended: hang ran for longer than")


def test_what_an_abandoned_thread_says_later_is_heard_by_nobody(delivery: Make) -> None:
    release, begun = threading.Event(), threading.Event()

    def handle(_: Delivery) -> Outcome:
        begun.set()
        release.wait(PATIENCE)
        return relevo.Ack()

    executor = ThreadExecutor(1)
    executor.start(handle)
    executor.submit(delivery())
    assert begun.wait(PATIENCE)
    executor.stop()
    executor.start(lambda _: relevo.Nack())
    release.set()
    executor.submit(delivery())

    (ended,) = _finished(executor, 1)

    assert ended[1] == relevo.Nack()
    assert executor.running() == 0
    executor.stop()


@pytest.mark.parametrize("defect", [RuntimeError, SystemExit, KeyboardInterrupt])
def test_a_defect_ends_the_worker_and_counts_as_a_loss(delivery: Make, defect: type[BaseException]) -> None:
    def defective(one: Delivery) -> Outcome:
        raise defect

    one = delivery()
    executor = ThreadExecutor(2)
    executor.start(defective)
    executor.submit(one)

    ((ended, outcome),) = _finished(executor, 1)
    assert ended is one
    assert isinstance(outcome, Lost)
    assert outcome.death is not None
    with pytest.raises(defect):
        executor.room()
    executor.stop()


def test_an_interrupt_ends_the_worker_without_waiting_for_what_runs(made: MakeApp) -> None:
    begun, release = threading.Event(), threading.Event()

    @relevo.listener("image.created")
    def block(event: Event) -> None:
        begun.set()
        release.wait(PATIENCE)

    @attrs.define
    class Impatient:
        @relevo.hookimpl
        def relevo_may_run(self) -> None:
            if begun.is_set():
                raise KeyboardInterrupt

    app = made(block)
    app.hooks.add(Impatient())
    app.dispatch(Event("image.created"))

    with pytest.raises(KeyboardInterrupt):
        app.worker().run()

    was_running = not release.is_set()
    release.set()
    assert was_running
    assert app.transport().stats("default").leased == 1


def test_what_no_thread_has_begun_is_given_back_when_the_worker_stops(made: MakeApp) -> None:
    begun: list[int] = []
    full, stopped = threading.Event(), threading.Event()

    @relevo.listener("image.created")
    def work(event: Event) -> None:
        begun.append(event["number"])
        if len(begun) == 4:
            full.set()
        assert stopped.wait(PATIENCE)

    app = made(work, threads=4)
    app.dispatch_many(Event("image.created", {"number": number}) for number in range(30))
    worker = app.worker(RunOptions())
    thread = threading.Thread(target=worker.run)
    thread.start()
    assert full.wait(PATIENCE)
    while worker._executor.running() < 6:
        time.sleep(0.01)

    worker.stop()
    stopped.set()
    thread.join(PATIENCE)

    rest = app.transport().receive(["default"], limit=99, lease=60.0, wait=0.0)
    assert sorted(begun) == list(range(4))
    assert [(each.attempt, each.lost_leases) for each in rest] == [(1, 0)] * 26


@pytest.mark.parametrize(
    "own, common, fits", [("5s", 900, True), (None, 5, True), (None, 10, False), ("20s", 5, False)]
)
def test_a_time_limit_is_shorter_than_a_lease_that_cannot_be_renewed(
    made: MakeApp, own: str | None, common: float, *, fits: bool
) -> None:
    @relevo.listener("image.created", id="work", time_limit=own)
    def work(event: Event) -> None: ...

    app = made(work, time_limit=common, lease=10)
    transport = app.transport()
    transport.capabilities = attrs.evolve(transport.capabilities, extend=False)

    if fits:
        app.worker()
    else:
        with pytest.raises(ConfigurationError, match=r'work may run for .* s, and "main" cannot renew a lease of 10 s'):
            app.worker()


def test_no_thread_is_left_when_it_stops(made: MakeApp) -> None:
    @relevo.listener("image.created")
    def work(event: Event) -> None: ...

    app = made(work, threads=4)
    app.dispatch(Event("image.created"))

    before = set(threading.enumerate())  # others of this process may still be at their mails

    app.worker(DRAIN).run()

    left = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("relevo-")]
    for thread in left:
        thread.join(10.0)  # one that ends, but not within the second for which the worker waits
    assert [thread.name for thread in left if thread.is_alive()] == []


def test_a_listener_that_is_registered_later_is_called_too(made: MakeApp) -> None:
    heard: list[str] = []

    @relevo.listener("image.created")
    def late(event: Event) -> None:
        heard.append(event.name)

    app = made()
    worker = app.worker(DRAIN)
    app.listen(late)
    assert len(app.listeners) == 1
    app.dispatch(Event("image.created"))

    worker.run()

    assert heard == ["image.created"]
