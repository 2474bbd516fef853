"""Processes that run tests beside the first one."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn

import attrs
import pytest

from relevo import Delivery
from relevo_conformance._companion import (
    Claim,
    CompanionEndedError,
    CompanionFailedError,
    Companions,
    NotSentError,
    Send,
)
from relevo_conformance.trial import Trial
from relevo_memory import MemoryTransport

from .memory import MemoryHarness
from .strange import harness_of

TESTS = tuple(f"test_{number}" for number in range(100))


def rest(companions: Companions) -> Iterator[object]:
    """Yield what they send until they have ended."""
    while companions.running() is not None:
        yield from companions.received()
    yield from companions.received()


def claims_all(claim: Claim, send: Send) -> None:
    for test in TESTS:
        if claim(test):
            send(test)


def test_each_test_is_run_by_one_process() -> None:
    with Companions(3, claims_all) as companions:
        companions.start()
        own = [test for test in reversed(TESTS) if companions.claim(test)]
        received = list(rest(companions))

    assert Counter([*own, *received]) == Counter(TESTS)


def test_what_is_told_comes_whole_and_in_order() -> None:
    sent = [b"." * 3_000_000, MappingProxyType({"a": 1}), ("b", 2.0), None]

    def send_all(claim: Claim, send: Send) -> None:
        for something in sent:
            send((something,))

    received: list[object] = []
    with Companions(1, send_all) as companions:
        companions.start()
        while len(received) < len(sent) - 1:
            received += companions.received()
        received += rest(companions)

    assert received == [(something,) for something in sent]


def test_what_cannot_be_sent_is_refused_and_what_follows_is_sent() -> None:
    def send_all(claim: Claim, send: Send) -> None:
        try:
            send(lambda: None)
        except NotSentError:
            send("refused")

    with Companions(1, send_all) as companions:
        companions.start()
        assert list(rest(companions)) == ["refused"]


@pytest.mark.parametrize("status", [0, 3, -signal.SIGKILL])
def test_a_process_that_ends_before_its_tests_is_named_with_the_test(status: int) -> None:
    def end(claim: Claim, send: Send) -> None:
        assert claim("test_a")
        send("before")
        if status < 0:
            os.kill(os.getpid(), -status)
            signal.pause()
        os._exit(status)

    received: list[object] = []
    with Companions(1, end) as companions:
        companions.start()
        with pytest.raises(CompanionEndedError) as raised:
            received.extend(rest(companions))

    assert received == ["before"]
    assert (raised.value.test, raised.value.status) == ("test_a", status)


def test_an_error_of_the_suite_is_none_of_the_transport() -> None:
    def fail(claim: Claim, send: Send) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with Companions(1, fail) as companions:
        companions.start()
        with pytest.raises(CompanionFailedError, match="no space left"):
            list(rest(companions))


def test_what_a_transport_closes_is_not_needed() -> None:
    def close(claim: Claim, send: Send) -> None:
        os.closerange(3, 1000)
        assert claim("test_a")
        send("after")

    with Companions(1, close) as companions:
        companions.start()
        assert list(rest(companions)) == ["after"]


def test_each_process_has_the_same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trial, "_run_beside", lambda self, claim, send: send(self.chosen_profile.seed))
    trial = Trial(harness=MemoryHarness, name="memory", profile="standard")

    with trial.companions(3) as companions:
        companions.start()
        assert list(rest(companions)) == [trial.chosen_profile.seed] * 2


class Count(int):
    """A number that cannot be sent."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("it cannot be sent")


class CountsWrongly(MemoryTransport):
    """Counts one attempt too many, but not in the first process, which waits until another one does that."""

    first = os.getpid()
    has_counted: ClassVar[Path]

    def receive(self, *args: Any, **options: Any) -> list[Delivery]:
        came = list(super().receive(*args, **options))
        if os.getpid() == self.first:
            until = time.monotonic() + 20.0
            while not self.has_counted.exists() and time.monotonic() < until:
                time.sleep(0.01)
            return came
        if came:
            self.has_counted.touch()
        return [attrs.evolve(one, attempt=Count(one.attempt + 1)) for one in came]


def test_what_is_broken_in_another_process_is_broken_although_its_history_cannot_be_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(CountsWrongly, "has_counted", tmp_path / "counted", raising=False)
    trial = Trial(harness=harness_of(CountsWrongly), name="wrong", only=["nack-returns-later"], shrink=False)

    with trial.companions(2) as companions:
        card = trial.run(companions=companions)

    assert card.verdict == "not conformant"


def test_the_end_of_the_block_ends_them_whether_they_run_or_have_not_begun() -> None:
    def wait(claim: Claim, send: Send) -> None:
        signal.pause()

    for starts in (True, False):
        with Companions(2, wait) as companions:
            processes = [each._process for each in companions._companions]
            if starts:
                companions.start()

        for process in processes:
            with pytest.raises(ChildProcessError):
                os.waitpid(process, 0)
