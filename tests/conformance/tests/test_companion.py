"""Processes that run tests beside the first one."""

from __future__ import annotations

import os
import signal
from collections import Counter
from types import MappingProxyType

import pytest

from relevo_conformance._companion import Claim, CompanionEndedError, Companions, NotSentError, Send

TESTS = tuple(f"test_{number}" for number in range(100))


def claims_all(claim: Claim, send: Send) -> None:
    for test in TESTS:
        if claim(test):
            send(test)


def test_each_test_is_run_by_one_process() -> None:
    with Companions(3, claims_all) as companions:
        companions.start()
        own = [test for test in reversed(TESTS) if companions.claim(test)]
        received = list(companions.received(wait=True))

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
        received += companions.received(wait=True)

    assert received == [(something,) for something in sent]


def test_what_cannot_be_sent_is_refused_and_what_follows_is_sent() -> None:
    def send_all(claim: Claim, send: Send) -> None:
        try:
            send(lambda: None)
        except NotSentError:
            send("refused")

    with Companions(1, send_all) as companions:
        companions.start()
        assert list(companions.received(wait=True)) == ["refused"]


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
            received.extend(companions.received(wait=True))

    assert received == ["before"]
    assert (raised.value.test, raised.value.status) == ("test_a", status)


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
