"""A history can be written down, read again, and judged the same."""

from __future__ import annotations

import json

import pytest

from relevo import Release
from relevo_conformance import check, dump, history, load
from relevo_conformance.bench import Bench
from relevo_conformance.history import tally

from .memory import MemoryHarness
from .script import EVERYTHING, Script, event


@pytest.fixture(name="recorded")
def _recorded() -> list[history.Record]:
    """Record a history in which every kind of call and of value occurs."""
    harness = MemoryHarness()
    with Bench(harness, queues=2) as bench:
        worker, other = bench.worker(), bench.worker()
        worker.send([bench.envelope(headers={"a": "é"}, body=bytes(range(256)), expires=1.5), *bench.envelopes(3)])
        bench.raw()
        worker.send([bench.envelope()], delay=5.0)
        with bench.recorder.broken(worker, "after"), pytest.raises(Exception, match="lost"):
            worker.send([bench.envelope()])
        with worker.transaction() as transaction:
            with transaction.savepoint("rollback"):
                transaction.send([bench.envelope()])
            transaction.commit()
        first, second, third, fourth, *_ = bench.receive(worker, 5)
        worker.extend([first], lease=60.0)
        worker.checkpoint(first, b"\x00half")
        worker.settle([(first, Release())])
        worker.nack(second, state=b"once")
        worker.report_lost(third)
        worker.dead_letter(fourth, error="why")
        refs = [entry.ref for entry in worker.dead_letters(bench.queues)]
        worker.revive(dict.fromkeys(refs, b""))
        worker.discard(refs)
        worker.cancel("nothing")
        worker.purge(bench.queues[1])
        worker.stats(bench.queue)
        bench.lose(other)
    harness.close()
    return bench.recorder.records


def test_a_history_survives_being_written_as_json_lines(recorded: list[history.Record]) -> None:
    again = load(dump(recorded))

    assert list(again) == recorded


def test_each_record_is_one_line_of_json(recorded: list[history.Record]) -> None:
    for line in dump(recorded):
        assert "\n" not in line
        assert json.loads(line)["$"] in {"Invoked", "Returned"}


def test_a_history_that_was_read_is_judged_as_the_one_that_was_written() -> None:
    script = Script()
    script.send(event(1))
    script.receive(event(2))

    again = load(dump(script.records))

    assert [(one.promise, one.op) for one in check(again, EVERYTHING)] == [("no-invention", 2)]


def test_blank_lines_are_skipped_and_others_are_told_by_their_number() -> None:
    script = Script()
    script.send(event())
    lines = list(dump(script.records))

    assert len(load([lines[0], "", " ", lines[1]])) == 2
    for wrong in ("{}", "[]", "not json", '{"$":"Invoked"}', '{"$":"Popen"}', '{"$":"Ack"}'):
        with pytest.raises(ValueError, match="line 2"):
            load([lines[0], wrong])


def test_what_has_no_place_in_a_history_is_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        list(dump([object()]))  # type: ignore[list-item]


def test_a_tally_says_what_was_met(recorded: list[history.Record]) -> None:
    met = tally(recorded)

    for situation in (
        "event sent",
        "event unknown",
        "event handed out",
        "unreadable handed out",
        "handed out after a loss",
        "handed out after a nack",
        "extended",
        "deadletter",
        "release",
        "lost",
        "revived",
        "drain done",
    ):
        assert met.get(situation), situation
