"""The random histories meet what they are there to meet."""

from __future__ import annotations

from collections import Counter
from typing import NoReturn

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from relevo import Transport
from relevo_conformance import Harness, HookMissing
from relevo_conformance.fault import Fault
from relevo_conformance.machine import TransportMachine, machine_for
from relevo_conformance.profile import PROFILES
from relevo_conformance.promise import CALLS_COME_BACK
from relevo_conformance.verdict import BrokenPromiseError, HarnessError

from .memory import MemoryHarness
from .strange import answering, hanging, impatient

QUICK = PROFILES["quick"]

RARE = (
    "unreadable handed out",
    "handed out after a lost lease",
    "handed out after a nack",
    "event unknown",
    "receive unknown",
    "settle unknown",
    "extend unknown",
    "checkpoint unknown",
    "revive unknown",
    "discard unknown",
    "cancel unknown",
    "event refused",
    "stale ack",
    "stale nack",
    "stale release",
    "stale deadletter",
    "stale lost",
    "stale extend",
    "extended",
    "checkpoint refused",
    "checkpoint done",
    "deadletter",
    "revived",
    "discard done",
    "cancel done",
    "purge done",
    "endsavepoint done",
    "endtransaction done",
    "kill done",
    "close done",
)

FLOOR = 5
"""The least number of times in a quick run: what is met once may be met by chance."""


@pytest.fixture(name="met", scope="module")
def _met() -> dict[str, int]:
    machine = machine_for(MemoryHarness, seeded=QUICK.seed)
    run_state_machine_as_test(machine, settings=QUICK.of_histories(fake=True))
    return dict(machine.met)


# One test, since each process of xdist that runs a part of it would need a quick run of its own.
def test_a_quick_run_meets_the_rare_situations(met: dict[str, int]) -> None:
    assert {situation: met.get(situation, 0) for situation in RARE if met.get(situation, 0) < FLOOR} == {}


def test_a_hook_that_turns_out_to_be_missing_leaves_the_histories_without_faults() -> None:
    class Unbreakable(MemoryHarness):
        def broken(self, transport: Transport, fault: Fault) -> NoReturn:
            raise HookMissing("broken")

    machine = machine_for(Unbreakable, seeded=QUICK.seed)

    run_state_machine_as_test(machine, settings=settings(QUICK.of_histories(fake=True), max_examples=30))

    assert machine.met["drain done"] >= 30
    assert not [situation for situation in machine.met if situation.endswith(" failed") or situation == "fault met"]


def test_every_history_is_drained_to_its_end(met: dict[str, int]) -> None:
    assert met["drain done"] >= QUICK.histories
    assert "drain unknown" not in met


def test_the_seed_decides_the_histories() -> None:
    short = settings(QUICK.of_histories(fake=True, phases=[Phase.generate]), max_examples=20)
    runs = []
    for seeded in (1, 1, 2):
        machine = machine_for(MemoryHarness, seeded=seeded)
        run_state_machine_as_test(machine, settings=short)
        runs.append(dict(machine.met))

    assert runs[0] == runs[1] != runs[2]


def test_a_machine_has_a_test_case_that_can_be_collected_by_itself() -> None:
    machine = machine_for(MemoryHarness, seeded=1)
    case = machine.TestCase
    case.settings = settings(QUICK.of_histories(fake=True), max_examples=5)

    case("runTest").debug()

    assert issubclass(machine, TransportMachine)
    assert machine.met["drain done"] >= 5


@pytest.mark.parametrize("operation", ["setup", "send", "receive", "close"])
def test_a_call_that_never_comes_back_ends_a_test_case_that_was_collected_by_itself(operation: str) -> None:
    case = machine_for(impatient(answering(operation, hanging)), seeded=1).TestCase

    with pytest.raises(BrokenPromiseError) as raised:
        case("runTest").debug()

    assert raised.value.promises == {CALLS_COME_BACK.id}
    assert f"{operation} did not come back within 1 s" in str(raised.value)


def test_a_hook_that_never_comes_back_ends_a_test_case_that_was_collected_by_itself() -> None:
    class CannotOpen(MemoryHarness):
        call_timeout = 1.0

        def open(self) -> Transport:
            hanging(None)

    with pytest.raises(HarnessError, match=r"CannotOpen\.open did not come back within 1 s"):
        machine_for(CannotOpen, seeded=1).TestCase("runTest").debug()


def test_a_machine_that_somebody_adds_rules_to_has_a_test_case_of_its_own() -> None:
    machine = machine_for(MemoryHarness, seeded=1)
    further: type[TransportMachine] = type("Further", (machine,), {"met": Counter()})
    further.TestCase.settings = settings(QUICK.of_histories(fake=True), max_examples=5)

    further.TestCase("runTest").debug()

    assert further.met["drain done"] >= 5
    assert not machine.met


def test_a_test_case_closes_the_harness_that_it_opened() -> None:
    closed: list[Harness] = []

    class Told(MemoryHarness):
        def close(self) -> None:
            super().close()
            closed.append(self)

    case = machine_for(Told, seeded=1).TestCase
    case.settings = settings(QUICK.of_histories(fake=True), max_examples=5)

    case("runTest").debug()

    assert len(closed) == 1
