"""A recorded history is a program that can be run again, on the same or on another transport."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

import attrs
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from relevo import Delivery, SystemClock
from relevo_conformance import BrokenPromiseError, Harness, check, dump, history, load
from relevo_conformance.bench import Bench
from relevo_conformance.harness import judge_of
from relevo_conformance.machine import TransportMachine, machine_for
from relevo_conformance.mutant import Mutant
from relevo_conformance.profile import PROFILES
from relevo_conformance.replay import replay
from relevo_memory import MemoryTransport

from .memory import MemoryHarness
from .mutants import MUTANTS
from .script import Script, event
from .strange import Strange, answering, hanging, impatient, where_time_is_real
from .test_modest import ModestHarness


def random_histories(harness: type[Harness], number: int) -> Iterator[list[history.Record]]:
    """Record random histories; the last one may break a promise."""
    recorded: list[list[history.Record]] = []
    machine = machine_for(harness, seeded=7)

    class Recording(machine):  # type: ignore[misc, valid-type]
        def teardown(self) -> None:
            try:
                super().teardown()
            finally:
                recorded.append(self.bench.recorder.records)

    assert issubclass(Recording, TransportMachine)
    profile = PROFILES["quick"].of_histories(fake=True, phases=[Phase.generate])
    with suppress(BaseException):
        run_state_machine_as_test(Recording, settings=settings(profile, max_examples=number))
    return iter(recorded)


QUERIED = {"leased_at", "oldest", "newest", "since"}
"""The times in what queries return."""


def told(records: Iterable[history.Record]) -> list[object]:
    """Return *records* without what differs from run to run: names, times, refs and words."""
    names: dict[str, str] = {}
    first: list[float] = []

    def plain(value: Any, field: str = "") -> object:
        if field in {"at", "enqueued_at", "died_at", "until", "oldest_age", *QUERIED} and isinstance(value, float):
            first.append(value)
            return None if field == "oldest_age" else round(value - first[0], 3)
        if field in {"queue", "queues", "ref", "refs", "after", "cursor", "relay_to", "lines", "missing"}:
            many = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            return [
                None if one is None else names.setdefault(f"{field[0]}{one}", f"{field[0]}{len(names)}") for one in many
            ]
        if attrs.has(type(value)):
            return type(value).__name__, [
                (one.name, plain(getattr(value, one.name), one.name)) for one in attrs.fields(type(value))
            ]
        if isinstance(value, tuple | list):
            return [plain(one) for one in value]
        return value

    return [plain(record) for record in records]


def notes(records: Iterable[history.Record]) -> list[str]:
    calls = (record.call for record in records if isinstance(record, history.Invoked))
    return [call.text for call in calls if isinstance(call, history.Remark)]


def test_a_history_of_memory_is_the_same_again_on_memory() -> None:
    histories = list(random_histories(MemoryHarness, 25))

    assert len(histories) >= 25
    for records in histories:
        again = replay(records, MemoryHarness)

        assert told(again) == told(records)
        assert check(again, MemoryTransport.capabilities) == []


def broken(records: Sequence[history.Record], harness: type[Harness]) -> set[str]:
    """Return the promises that *records* break, as exactly as the machine judges them."""
    judge = judge_of(harness, harness.transport.capabilities, harness.new_clock())
    return {one.promise for one in judge.feed_all(records).violations}


BY_CHANCE = [mutant for mutant in MUTANTS if mutant.by_chance][::6]


@pytest.mark.parametrize("mutant", BY_CHANCE, ids=lambda mutant: mutant.name)
def test_a_history_of_a_bug_shows_it_again_and_nothing_on_the_reference(mutant: Mutant) -> None:
    with mutant.plant() as harness:
        *_, records = random_histories(harness, 200)
        then, now = broken(records, harness), broken(replay(records, harness), harness)

    reference = broken(replay(records, MemoryHarness), MemoryHarness)

    assert then
    assert then <= now
    assert reference == set()


def test_a_history_that_was_written_down_can_be_run_again() -> None:
    records = next(random_histories(MemoryHarness, 1))

    assert told(replay(load(dump(records)), MemoryHarness)) == told(records)


def test_queues_get_names_of_their_own_that_are_as_alike_as_the_old_ones() -> None:
    with Bench(MemoryHarness(), queues=6) as bench:
        worker = bench.worker()
        worker.send([bench.envelope(queue=queue) for queue in bench.queues])
    records = bench.recorder.records

    again = replay(records, MemoryHarness)

    old, new = (
        next(
            one.call.queues for one in found if isinstance(one, history.Invoked) and isinstance(one.call, history.SetUp)
        )
        for found in (records, again)
    )
    assert set(old).isdisjoint(new)
    assert [name.removeprefix(old[0]) for name in old] == [name.removeprefix(new[0]) for name in new]


def test_a_history_that_nobody_recorded_here_can_be_run() -> None:
    script = Script()
    script.setup("q")
    script.send(event(1), event(2))
    held = script.receive(event(1), event(2))
    script.ack(held[0])
    script.wait(20.0)
    script.nack(held[1], delay=5.0)

    again = replay(script.records, MemoryHarness)

    assert notes(again) == []
    assert history.tally(again)["ack"] == history.tally(again)["nack"] == 1
    assert round(again[-1].at - again[0].at, 3) == 20.0


def test_what_has_no_counterpart_is_left_out_and_said() -> None:
    script = Script()
    script.setup("q")
    held = script.receive(event(1))
    script.ack(held[0])

    again = replay(script.records, MemoryHarness)

    assert "ack" not in history.tally(again)
    assert notes(again) == ["call 3 skips delivery 1: it has not come"]


def test_calls_that_overlapped_are_run_one_after_the_other_and_that_is_said() -> None:
    script = Script()
    script.setup("q")
    first = script.begin(history.Send(envelopes=(event(1),)))
    second = script.begin(history.Send(envelopes=(event(2),)), worker="b")
    script.end(second)
    script.end(first)

    again = replay(script.records, MemoryHarness)

    assert notes(again) == [f"call {second} began while {first} was in flight"]
    assert history.tally(again)["event sent"] == 2


def test_a_hook_that_the_other_harness_does_not_have_is_left_out_and_said() -> None:
    class Bare(MemoryHarness):
        session = Harness.session  # type: ignore[assignment]

    with Bench(MemoryHarness()) as bench:
        worker = bench.worker()
        with worker.transaction() as transaction:
            transaction.send([bench.envelope()])
            transaction.commit()

    again = replay(bench.recorder.records, Bare)

    assert any("has no hook session" in note for note in notes(again))


def test_what_the_other_transport_does_not_claim_is_refused_there() -> None:
    with Bench(MemoryHarness()) as bench:
        worker = bench.worker()
        worker.send([bench.envelope()], delay=20.0)

    again = replay(bench.recorder.records, ModestHarness)

    assert history.tally(again)["event refused"] == 1
    assert check(again, ModestHarness.transport.capabilities) == []


def test_a_call_that_hangs_ends_the_replay_and_is_in_the_history() -> None:
    with Bench(MemoryHarness()) as bench:
        worker = bench.worker()
        worker.send([bench.envelope()])
        worker.ack(bench.one(worker))

    again = replay(bench.recorder.records, impatient(answering("settle", hanging)))

    assert [one.promise for one in check(again, MemoryTransport.capabilities)] == ["calls-come-back"]


@pytest.mark.parametrize("operation, strange", [("settle", hanging), ("receive", lambda _: [])])
def test_a_replay_ends_when_its_time_is_over(operation: str, strange: Strange) -> None:
    with Bench(MemoryHarness()) as bench:
        worker = bench.worker()
        worker.send([bench.envelope()])
        worker.ack(bench.one(worker))
    patient = type("Patient", (answering(operation, strange),), {"new_clock": SystemClock, "patience": 60.0})
    began = monotonic()

    with suppress(TimeoutError):
        assert "drain done" not in history.tally(replay(bench.recorder.records, patient, deadline=began + 5.0))

    assert 5.0 <= monotonic() - began < 20.0


def test_a_replay_does_not_begin_to_wait_for_what_is_beyond_its_time() -> None:
    with Bench(MemoryHarness()) as bench:
        bench.worker()
        bench.advance(20.0)
        bench.worker()
    began = monotonic()

    with pytest.raises(TimeoutError):
        replay(bench.recorder.records, where_time_is_real(MemoryHarness), deadline=began + 10.0)

    assert monotonic() - began < 10.0


def test_an_answer_that_is_none_does_not_end_the_replay() -> None:
    def tuples(answer: list[Delivery]) -> object:
        return {"deliveries": answer}

    with Bench(MemoryHarness()) as bench:
        worker = bench.worker()
        worker.send([bench.envelope()])
        worker.ack(bench.one(worker))

    again = replay(bench.recorder.records, answering("receive", tuples))

    assert {one.promise for one in check(again, MemoryTransport.capabilities)} >= {"answers-are-well-formed"}
    assert history.tally(again)["close done"] >= 1


def test_a_bench_of_a_broken_history_says_what_it_said_before() -> None:
    with pytest.raises(BrokenPromiseError), Bench(answering("cancel", lambda _: None)()) as bench:
        bench.worker().cancel("nothing")

    again = replay(bench.recorder.records, answering("cancel", lambda _: None))

    assert "answers-are-well-formed" in {one.promise for one in check(again, MemoryTransport.capabilities)}
