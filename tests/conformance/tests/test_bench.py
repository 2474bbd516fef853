"""What carries the scenarios does not let anything pass, and cleans up."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from relevo import Transport
from relevo.errors import TransportClosedError
from relevo_conformance import BrokenPromiseError, Harness, HookMissing
from relevo_conformance.bench import Bench, Thread
from relevo_conformance.harness import LONGEST_SLEEP
from relevo_memory import MemoryTransport

from .memory import MemoryHarness
from .mutants_of_single_features import AcksWhenItHandsOut, CountsReleases


class DroppingHarness(MemoryHarness):
    def __init__(self) -> None:
        super().__init__()
        self.dropped: list[str] = []

    def drop(self, queue: str) -> None:
        self.dropped.append(queue)


@pytest.fixture(name="harness")
def _harness() -> DroppingHarness:
    return DroppingHarness()


def test_a_promise_that_is_broken_is_raised_where_it_shows() -> None:
    class Broken(MemoryHarness):
        transport = CountsReleases

    def release() -> None:
        with Bench(Broken()) as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            worker.release(bench.one(worker))
            bench.one(worker)
            pytest.fail("it was broken before")

    with pytest.raises(BrokenPromiseError, match="attempt 2") as caught:
        release()

    assert caught.value.promises == {"release-counts-nothing"}


def test_what_was_lost_is_raised_at_the_end_of_the_block() -> None:
    class Broken(MemoryHarness):
        transport = AcksWhenItHandsOut

    def lose() -> None:
        with Bench(Broken()) as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            bench.one(worker)

    with pytest.raises(BrokenPromiseError) as caught:
        lose()

    assert caught.value.promises == {"lost-lease-returns"}


def test_an_error_in_the_block_is_not_masked_and_all_is_cleaned_up(harness: DroppingHarness) -> None:
    workers = []
    queues: list[str] = []

    def stumble() -> None:
        with Bench(harness, queues=2) as bench:
            queues.extend(bench.queues)
            workers.append(bench.worker())
            workers[0].send([bench.envelope()])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stumble()

    assert harness.dropped == queues
    with pytest.raises(TransportClosedError):
        workers[0].transport.send([])


def test_no_two_benches_use_the_same_queues(harness: DroppingHarness) -> None:
    assert not set(Bench(harness, queues=6).queues) & set(Bench(harness, queues=6).queues)


def test_it_is_known_which_hooks_were_called(harness: DroppingHarness) -> None:
    with Bench(harness) as bench:
        worker = bench.worker()
        bench.raw()
        bench.lose(worker)

    assert {"open", "kill", "put_raw", "advance", "drop"} <= set(bench.recorder.hooks)
    assert bench.recorder.hooks["session"] == 0


def test_an_optional_hook_that_is_missing_says_so() -> None:
    class Bare(Harness):
        transport = MemoryTransport

        def open(self) -> Transport:
            return MemoryTransport(clock=self.clock)

        def kill(self, transport: Transport) -> None: ...

        def put_raw(self, queue: str, raw: bytes, headers: Mapping[str, str]) -> None: ...

    bare = Bare()

    with pytest.raises(HookMissing, match="session"):
        bare.session()
    with pytest.raises(HookMissing, match="broken_send"):
        bare.broken_send(bare.open(), "before")


def test_a_real_clock_is_not_asked_to_pass_a_long_time() -> None:
    class Real(MemoryHarness):
        @staticmethod
        def new_clock() -> NoSleep:
            return NoSleep()

    with pytest.raises(ValueError, match="real clock"):
        Real().advance(LONGEST_SLEEP + 1)


class NoSleep:
    """A clock that nobody can move, and that does not sleep in a test."""

    def now(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError(seconds)


def test_what_a_thread_raised_is_raised_by_whoever_waits_for_it() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Thread(fail).finish()
