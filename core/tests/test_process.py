from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from hypothesis import given, strategies as st

from relevo import ProcessIdentity
from relevo._process_identity import lives_here, process_identity, this_process

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc")

DEADLINE = 300.0


@pytest.fixture(name="child")
def _child() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield child
    child.kill()
    child.communicate()


def _wait_for_state(pid: int, states: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in states:
        assert time.monotonic() < deadline
        time.sleep(0.005)


identities = st.builds(
    ProcessIdentity,
    worker=st.text("0123456789abcdef", min_size=1, max_size=64),
    boot=st.uuids().map(str) | st.just(""),
    namespace=st.integers(0, 2**32).map(str),
    pid=st.integers(0, 2**22),
    started=st.integers(0, 2**40),
    witnessed=st.booleans(),
)


@given(identities)
def test_an_identity_comes_back_out_of_its_text(identity: ProcessIdentity) -> None:
    assert ProcessIdentity.parsed(str(identity)) == identity


@given(st.text() | identities.map(lambda one: f"{one}\n") | identities.map(lambda one: str(one)[1:].upper()))
def test_what_is_no_identity_is_none(text: str) -> None:
    found = ProcessIdentity.parsed(text)

    assert found is None or str(found) == text


def test_this_process_lives_and_is_always_the_same() -> None:
    assert this_process() == this_process()
    assert lives_here(this_process()) is True


def test_a_child_of_a_fork_is_another_process() -> None:
    mine = str(this_process())
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, str(this_process()).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)

    other = ProcessIdentity.parsed(os.read(reader, 1000).decode())

    os.close(reader)
    assert other is not None
    assert str(other) != mine
    assert other.worker != this_process().worker
    assert lives_here(other) is False


def test_a_stopped_process_lives(child: subprocess.Popen[bytes]) -> None:
    identity = process_identity(child.pid)
    child.send_signal(signal.SIGSTOP)
    _wait_for_state(child.pid, "T")

    assert lives_here(identity) is True


def test_a_process_that_ended_and_was_not_waited_for_does_not_live(child: subprocess.Popen[bytes]) -> None:
    identity = process_identity(child.pid)
    child.kill()
    _wait_for_state(child.pid, "Z")

    assert lives_here(identity) is False


def test_a_process_that_is_gone_does_not_live(child: subprocess.Popen[bytes]) -> None:
    identity = process_identity(child.pid)
    child.kill()
    child.wait()

    assert lives_here(identity) is False


def test_a_process_that_only_has_the_id_is_another_one() -> None:
    assert lives_here(attrs.evolve(this_process(), started=this_process().started - 1)) is False


@pytest.mark.parametrize(
    "elsewhere",
    [
        attrs.evolve(this_process(), boot="00"),
        attrs.evolve(this_process(), boot=""),
        attrs.evolve(this_process(), namespace="1"),
    ],
)
def test_a_process_elsewhere_cannot_be_told_by_its_id(elsewhere: ProcessIdentity) -> None:
    assert lives_here(elsewhere) is None


def test_each_witnessed_end_counts_for_itself() -> None:
    ends = {str(this_process().as_witnessed()) for _ in range(3)}

    assert len(ends) == 3
