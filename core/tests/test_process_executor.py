"""Child processes and deliveries that cannot be handed to them: each ends, and no slot is lost."""

from __future__ import annotations

import ast
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from relevo import Ack, DeadLetter, Delivery, Envelope, Execution, Outcome, Reason, Unreadable
from relevo._execution import spawned
from relevo._execution.pipe import Hello, Ready
from relevo._transport.delivery import Lost, Nack
from relevo._worker.decision import unreadable
from relevo.errors import ConfigurationError
from relevo.execution import ProcessExecutor

PATIENCE = 300.0
SLOTS = 2
APPLICATION = """
import relevo
from relevo_memory import MemoryTransport

@relevo.listener("thing.done")
def do(event):
    pass

app = relevo.App(transports={"main": MemoryTransport()}, routes={"*": "main"}, listeners=[do], source="shop")
"""

Make = Callable[..., Delivery]


@pytest.fixture(name="executor", scope="module")
def _executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessExecutor]:
    """Start an executor with real child processes."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop_of_children.py").write_text(APPLICATION)
    hello = Hello(
        path=[str(folder), str(Path(__file__).parent), *sys.path],
        app="shop_of_children:app",
        config=None,
        transport="main",
        time_limit=PATIENCE,
        log_levels={},
    )
    executor = ProcessExecutor(hello, Execution("process", SLOTS, PATIENCE), checkpoint=None, listeners=())
    executor.start(_refused)
    yield executor
    executor.stop()


def _refused(delivery: Delivery) -> Outcome:
    """Return the outcome of a delivery for which no listener is called; all others go to a child."""
    assert isinstance(delivery.envelope, Unreadable)
    return unreadable(delivery.envelope)


def _ended(executor: ProcessExecutor, *deliveries: Delivery) -> Sequence[Outcome]:
    """Submit *deliveries* when there is room, and return how each ended."""
    found: dict[Delivery, Outcome] = {}
    deadline = time.monotonic() + PATIENCE
    for delivery in deliveries:
        while not executor.room():
            found.update(executor.take_finished(0.05))
            assert time.monotonic() < deadline
        executor.submit(delivery)
    while executor.running():
        found.update(executor.take_finished(0.05))
        assert time.monotonic() < deadline
    return [found[delivery] for delivery in deliveries]


def _all_slots_are_free(executor: ProcessExecutor) -> bool:
    deadline = time.monotonic() + PATIENCE
    while executor.room() < SLOTS and time.monotonic() < deadline:
        time.sleep(0.01)
    return executor.room() == SLOTS and executor.running() == 0 and not executor.stalled()


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"headers": {"a": "\ud800"}}, "headers"),
        ({"headers": {"\udfff": "a"}}, "headers"),
        ({"ordering_key": "\ud800"}, "ordering_key"),
        ({"expires": 2**70}, "expires"),
    ],
    ids=["header", "header's name", "ordering key", "number beyond 64 bits"],
)
def test_an_event_that_cannot_be_packed_ends_as_malformed_and_takes_no_slot(
    executor: ProcessExecutor, delivery: Make, fields: dict[str, object], field: str
) -> None:
    hostile = [delivery(name="thing.done", **fields) for _ in range(SLOTS + 1)]

    outcomes = _ended(executor, *hostile, delivery(name="thing.done"))

    assert outcomes[-1] == Ack()
    for outcome in outcomes[:-1]:
        assert isinstance(outcome, DeadLetter)
        assert outcome.reason == Reason.MALFORMED
        assert f"$.{field}" in outcome.error
    assert _all_slots_are_free(executor)


def test_a_delivery_that_cannot_be_packed_ends_as_malformed_too(executor: ProcessExecutor, delivery: Make) -> None:
    (outcome,) = _ended(executor, delivery(name="thing.done", attempt=2**70))

    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == Reason.MALFORMED
    assert _all_slots_are_free(executor)


def test_what_no_listener_is_called_for_is_given_to_no_child(executor: ProcessExecutor, delivery: Make) -> None:
    numbers = [slot._child.cell.work for slot in executor._slots if slot._child]

    outcomes = _ended(
        executor,
        delivery(whole=Unreadable(raw=b"\xff", why="bytes")),
    )

    assert [each.reason for each in outcomes if isinstance(each, DeadLetter)] == ["unreadable"]
    assert [slot._child.cell.work for slot in executor._slots if slot._child] == numbers


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    state=st.binary(max_size=60) | st.sampled_from([b'{"v":99,"zz":"\xff"}', b"1e999", b'{"v":1,"waiting":[]}']),
    data=st.binary(max_size=60),
    headers=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
    attempt=st.integers(1, 2**70),
)
def test_whatever_a_message_holds_it_ends_and_its_slot_is_free(
    executor: ProcessExecutor, delivery: Make, state: bytes, data: bytes, headers: dict[str, str], attempt: int
) -> None:
    body = b'{"specversion":"1.0","id":"1","source":"shop","type":"thing.done","data":%b}' % data
    hostile = Envelope(id="1", source="shop", name="thing.done", body=body, headers=headers)

    (outcome,) = _ended(executor, delivery(whole=hostile, state=state, attempt=attempt))

    assert isinstance(outcome, (Ack, Nack, DeadLetter)), outcome
    assert not isinstance(outcome, Lost)
    assert _all_slots_are_free(executor)


HANGING = """
import pathlib, time
from relevo_memory import MemoryTransport
import relevo

@relevo.listener("thing.done")
def do(event):
    time.sleep(1000)

if pathlib.Path({gate!r}).exists():
    time.sleep(1000)  # an import that hangs, in each child but the first

app = relevo.App(transports={{"main": MemoryTransport()}}, routes={{"*": "main"}}, listeners=[do], source="shop")
"""


@pytest.fixture(name="hanging")
def _hanging(tmp_path: Path) -> Iterator[ProcessExecutor]:
    """Start an executor of one slot, whose listener hangs and whose second child does not begin."""
    gate = tmp_path / "gate"
    (tmp_path / "hanging_shop.py").write_text(HANGING.format(gate=str(gate)))
    hello = Hello(
        path=[str(tmp_path), str(Path(__file__).parent), *sys.path],
        app="hanging_shop:app",
        config=None,
        transport="main",
        time_limit=0.2,
        log_levels={},
    )
    # The limit is that of the listener alone: a child may need longer to begin with it.
    executor = ProcessExecutor(hello, Execution("process", 1, PATIENCE), checkpoint=None, listeners=())
    executor.start(_refused)
    gate.touch()
    yield executor
    executor.stop()


@pytest.mark.lengthy("starts processes")
def test_a_child_that_lacks_listeners_which_an_earlier_one_had_is_of_a_changed_program() -> None:
    hello = Hello(path=[], app="shop:app", config=None, transport="main", time_limit=PATIENCE, log_levels={})
    execution = Execution("process", 1, PATIENCE)
    executor = ProcessExecutor(hello, execution, checkpoint=None, listeners=["a.b make"], eager=False)
    executor.start(_refused)
    executor.note_ready(Ready(["a.b make"]))
    executor.start(_refused)
    executor.note_ready(Ready(["a.b renamed"]))

    with pytest.raises(ConfigurationError, match=r"a\.b make; the program has changed since this worker started; res"):
        executor.room()


@pytest.mark.slow("waits five seconds for a child that hangs")
def test_a_worker_that_stops_does_not_wait_for_a_child_that_hangs_while_it_begins(
    hanging: ProcessExecutor, delivery: Make
) -> None:
    hanging.submit(delivery(name="thing.done"))
    slot = hanging._slots[0]
    deadline = time.monotonic() + PATIENCE
    while slot._next is None and time.monotonic() < deadline:  # the first was killed at its time limit
        time.sleep(0.01)

    hanging.stop_when(lambda: True)
    ended: list[tuple[Delivery, Outcome]] = []
    while not ended and time.monotonic() < deadline:
        ended += hanging.take_finished(0.05)

    ((_, outcome),) = ended
    assert isinstance(outcome, Lost)
    assert outcome.death is None


@pytest.mark.slow("starts five children, each later than the last")
def test_a_child_that_does_not_begin_is_given_up(
    hanging: ProcessExecutor, delivery: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relevo._execution.slot._START_WITHIN", 0.2)
    hanging.submit(delivery(name="thing.done"))
    ended: list[tuple[Delivery, Outcome]] = []
    deadline = time.monotonic() + PATIENCE
    while not ended and time.monotonic() < deadline:
        ended += hanging.take_finished(0.05)

    ((_, outcome),) = ended
    assert isinstance(outcome, Lost)
    with pytest.raises(ConfigurationError, match=r"it did not begin within 0\.2 s"):
        hanging.room()


# --- a listener that exceeds its time limit ----------------------------------------------------------------

SLOW = """
import signal, time
from relevo_memory import MemoryTransport
import relevo

def wait():
    while True:  # not in Python's own code, which would be the innermost frame elsewhere
        pass

@relevo.listener("thing.done", id="slow", retry={retry}, time_limit=3)
def slow(event):
    {before}
    print("before it hangs", flush=True)
    wait()

@relevo.listener("thing.done", id="quick", priority=-1, retry=1)
def quick(event):
    print("quick fails")
    raise ValueError("no")

class Plugin:
    @relevo.hookimpl
    def relevo_listener_failed(self, failure):
        with open({path!r}, "a") as file:
            file.write(repr((failure.listener, failure.output, failure.traceback)) + chr(10))

app = relevo.App(
    transports={{"main": MemoryTransport()}},
    routes={{"*": "main"}},
    listeners=[slow, quick],
    plugins=[Plugin()],
    source="shop",
)
"""


@contextmanager
def slow_executor(folder: Path, *, retry: int = 1, before: str = "pass") -> Iterator[ProcessExecutor]:
    """Start an executor of one slot, whose first listener does *before*, says so in its time, and then hangs."""
    (folder / "slow_shop.py").write_text(SLOW.format(retry=retry, before=before, path=str(folder / "failures")))
    hello = Hello(
        path=[str(folder), *sys.path],
        app="slow_shop:app",
        config=None,
        transport="main",
        time_limit=PATIENCE,
        log_levels={"relevo.listener": logging.ERROR},  # its warnings would stand among the output
    )
    executor = ProcessExecutor(hello, Execution("process", 1, PATIENCE), checkpoint=None, listeners=())
    executor.start(_refused)
    try:
        yield executor
    finally:
        executor.stop()


def failures_in(folder: Path) -> dict[str, tuple[str, str]]:
    """Return the output and the traceback of each listener as the plugin was passed them."""
    rows = [ast.literal_eval(line) for line in (folder / "failures").read_text().splitlines()]
    return {listener: (output, trace) for listener, output, trace in rows}


@pytest.mark.lengthy("starts processes")
def test_a_dead_letter_after_a_timeout_has_the_output_and_the_place_of_the_listener(
    tmp_path: Path, delivery: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawned, "_TRACE_PATIENCE", PATIENCE)  # it says where it is, however late

    with slow_executor(tmp_path) as executor:
        (outcome,) = _ended(executor, delivery(name="thing.done"))

    assert isinstance(outcome, DeadLetter)
    slow, quick = outcome.failures
    path = tmp_path / "slow_shop.py"
    number = path.read_text().splitlines().index("    wait()") + 1
    assert (slow.kind, slow.output, quick.output) == ("TimeLimitExceededError", "before it hangs", "quick fails")
    assert slow.traceback.startswith(
        "Traceback (most recent call last):\n"
        f'  File "{path}", line {number}, in slow\n'
        "    wait()\n"
        f'  File "{path}", line '
    )
    assert "relevo.errors" not in slow.traceback.split("TimeLimitExceededError")[0]
    assert slow.traceback.splitlines()[-1].startswith("relevo._worker.time_limit.TimeLimitExceededError: slow ran for")
    assert "its last output:\nbefore it hangs" in outcome.error
    assert "its last output:\nquick fails" in outcome.error


@pytest.mark.lengthy("starts processes")
def test_a_timeout_that_is_retried_is_observed_with_the_output_and_the_place(
    tmp_path: Path, delivery: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawned, "_TRACE_PATIENCE", PATIENCE)  # as above

    with slow_executor(tmp_path, retry=3) as executor:
        (outcome,) = _ended(executor, delivery(name="thing.done"))

    assert isinstance(outcome, Nack)
    output, trace = failures_in(tmp_path)["slow"]
    assert output == "before it hangs"
    assert ", in wait\n" in trace


@pytest.mark.lengthy("starts processes")
def test_a_listener_that_answers_no_signal_is_killed_all_the_same(tmp_path: Path, delivery: Make) -> None:
    block = "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())"

    with slow_executor(tmp_path, before=block) as executor:
        (outcome,) = _ended(executor, delivery(name="thing.done"))

    assert isinstance(outcome, DeadLetter)
    assert outcome.failures[0].output == "before it hangs"
    assert "TimeLimitExceededError" in outcome.failures[0].traceback
