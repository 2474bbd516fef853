"""A history can be written down, read again, and judged the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from relevo import DeadLetterFilter, EventFilter, Release
from relevo_conformance import check, dump, history, load
from relevo_conformance.bench import Bench
from relevo_conformance.history import tally

from .memory import MemoryHarness
from .script import BROKER, EVERYTHING, NOTHING, Script, event

Path = tuple[str | int, ...]
"""To a value within a line: the names of fields, and positions."""

GONE, OTHER = object(), object()
"""Stand for no value, and for one of the same history that stands elsewhere."""

NOT_A_NUMBER = float("nan")
ODD: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-3, 12)
    | st.sampled_from([10**30, 10**400, -0.5, 1e308, -1e308, NOT_A_NUMBER, float("inf")])
    | st.sampled_from(["", "x", "done", "sent", "NaN", "1", "a", "\ud800", "\x00", "\x1b[1m"])
    | st.sampled_from([[], {}, [1], [None], [[]], {"$": "Ack"}, {"$": "Nope"}, {"$": []}, {"$": "Envelope"}])
    | st.sampled_from([{"$": "bytes"}, {"$": "bytes", "base64": "!!"}, {"$": "bytes", "base64": "AA=="}])
    | st.sampled_from([{"$": "map"}, {"$": "map", "items": [[]]}, {"$": "map", "items": [[{}, "x"]]}])
)


@pytest.fixture(name="recorded", scope="module")
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
        worker.find(f"{bench.token}-1")
        worker.waiting(bench.queues, where=EventFilter(names=("image.*",), states=("ready", "leased"), until=1e12))
        worker.waiting_groups(bench.queues, "state")
        worker.matching_dead_letters(bench.queues, DeadLetterFilter(reasons=("expired",)))
        worker.dead_letter_groups(bench.queues, "reason", DeadLetterFilter(since=0.0))
        worker.stuck_keys(bench.queues)
        worker.cancel("nothing")
        worker.purge(bench.queues[1])
        worker.stats(bench.queue)
        receipt = worker.lock(bench.queue, holder="one", ttl=60.0)
        assert receipt is not None
        other.lock(bench.queue, holder="other", ttl=60.0)
        worker.renew_lock(bench.queue, receipt, ttl=60.0)
        worker.unlock(bench.queue, receipt)
        worker.announce("a1", b"\x00about", ttl=60.0)
        worker.change_limit("a1", lambda *_: b"\x00counted", ttl=60.0)
        worker.workers()
        bench.lose(other)
    harness.close()
    return bench.recorder.records


def test_a_history_survives_being_written_as_json_lines(recorded: list[history.Record]) -> None:
    again = load(dump(recorded))

    assert list(again) == recorded


def test_each_record_is_one_line_of_json(recorded: list[history.Record]) -> None:
    head, *lines = dump(recorded)

    assert json.loads(head) == {"$": "relevo-conformance history", "version": 1}
    for line in lines:
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
    head, *lines = dump(script.records)

    assert len(load([head, lines[0], "", " ", lines[1]])) == 2
    for wrong in ("{}", "[]", "not json", '{"$":"Invoked"}', '{"$":"Popen"}', '{"$":"Ack"}', lines[0][:-9], lines[1]):
        with pytest.raises(ValueError, match="line 2"):
            load([head, wrong])


@pytest.mark.parametrize("first", ["", "{}", "[1]", "not json", '{"$":"Invoked"}', "\x7fELF", '{"version":1}'])
def test_a_file_of_another_program_is_refused(first: str) -> None:
    with pytest.raises(ValueError, match="expected the header"):
        load([first, "{}"])


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_history_of_another_version_is_refused_and_says_which_can_be_read(version: object) -> None:
    head = json.dumps({"$": "relevo-conformance history", "version": version})

    with pytest.raises(ValueError, match=rf"version {version!r}; expected 1"):
        load([head])


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
        "handed out after a lost lease",
        "handed out after a nack",
        "extended",
        "deadletter",
        "release",
        "lost",
        "revived",
        "drain done",
    ):
        assert met.get(situation), situation


def test_only_a_call_that_its_store_failed_has_met_the_fault() -> None:
    checkpoint = history.Checkpoint(delivery=0, state=b"")
    calls: list[tuple[history.Call, history.End, str]] = [
        (SENT[0].call, "refused", "TransportUnavailableError"),
        (history.Break("before", 1), "done", ""),
        (checkpoint, "refused", "LeaseLostError"),
        (checkpoint, "refused", "ConfigurationError"),
        (ASKED, "done", ""),
        (checkpoint, "unknown", "TransportUnavailableError"),
        (SENT[0].call, "unknown", "SendError"),
        (history.Mend(), "done", ""),
        (ASKED, "unknown", "TransportUnavailableError"),
    ]
    records: list[history.Record] = []
    for op, (call, end, error) in enumerate(calls):
        records.append(history.Invoked(op=op, worker="a", at=1.0, call=call))
        records.append(history.Returned(op=op, at=1.0, end=end, error=error))

    met = tally(records)

    assert met["fault met"] == 2
    assert {name: number for name, number in met.items() if name.endswith(" failed")} == {
        "checkpoint failed": 1,
        "send failed": 1,
    }


# --- of a stranger ---------------------------------------------------------------------------------


def paths(plain: object, to: Path = ()) -> Iterator[Path]:
    """Yield where *plain*, and each value within it, stands."""
    yield to
    if isinstance(plain, dict | list):
        for key, item in plain.items() if isinstance(plain, dict) else enumerate(plain):
            yield from paths(item, (*to, key))


def at(plain: Any, path: Path) -> Any:
    for step in path:
        plain = plain[step]
    return plain


@pytest.fixture(name="written", scope="module")
def _written(recorded: list[history.Record]) -> list[Any]:
    """Return what the lines of a history hold, the first left out; of records that are alike one is enough."""
    return [json.loads(line) for line in dump(recorded)][1:]


@pytest.fixture(name="places", scope="module")
def _places(written: list[Any]) -> list[tuple[int, Path]]:
    return [(number, path) for number, line in enumerate(written) for path in paths(line) if path]


@settings(deadline=None)
@given(where=st.integers(0, 9999), to=ODD | st.sampled_from([GONE, OTHER]), other=st.integers(0, 9999))
def test_whatever_a_value_is_changed_to_there_is_a_verdict_or_a_refusal_of_its_line(
    written: list[Any], places: list[tuple[int, Path]], where: int, to: Any, other: int
) -> None:
    lines = deepcopy(written)
    number, path = places[where % len(places)]
    kept = at(lines[number], path[:-1])
    if to is GONE:
        del kept[path[-1]]
    else:
        number, place = places[other % len(places)]
        kept[path[-1]] = at(written[number], place) if to is OTHER else to
    head = next(iter(dump([])))

    told = ""
    try:
        records = load([head, *map(json.dumps, lines)])
    except ValueError as error:
        records, told = (), str(error)

    assert records or re.fullmatch(r"line \d+: .*", told)
    for capabilities in (EVERYTHING, BROKER, NOTHING):
        assert all(str(violation) for violation in check(records, capabilities))


SENT = [history.Invoked(op=1, worker="a", at=1.0, call=history.Send(envelopes=(event(), event(2)), delay=2.0))]
ASKED = history.Receive(queues=("q",), limit=2, lease=60.0, wait=0.0)
RECEIVED = [
    history.Invoked(op=1, worker="a", at=1.0, call=ASKED),
    history.Returned(op=1, at=1.0, end="done", value=history.HandedOut((Script().handed(event()),))),
]


@pytest.mark.parametrize(
    ("records", "path", "to", "told"),
    [
        (SENT, ("at",), "NaN", "line 2: at: expected `float`, got `str`"),
        (SENT, ("at",), float("nan"), "line 2: at: expected a finite number"),
        (SENT, ("at",), float("inf"), "line 2: at: expected a finite number"),
        (SENT, ("at",), 10**400, "line 2: at: number out of range"),
        (SENT, ("at",), True, "line 2: at: expected `float`, got `bool`"),
        (SENT, ("op",), 1.0, "line 2: op: expected `int`, got `float`"),
        (SENT, ("op",), False, "line 2: op: expected `int`, got `bool`"),
        (SENT, ("at",), GONE, "line 2: the record: object missing required field `at`"),
        (SENT, ("when",), 1.0, "line 2: the record: object contains unknown field `when`"),
        (SENT, ("$",), "Popen", "line 2: $: invalid value 'Popen'"),
        (SENT, ("$",), "\ud800", "line 2: the record: a name contains the lone surrogate '\\ud800'"),
        (SENT, ("call", "$"), "Ack", "line 2: call.$: invalid value 'Ack'"),
        (SENT, ("call", "delay"), None, "line 2: call.delay: expected `float`, got `null`"),
        (SENT, ("call", "envelopes"), None, "line 2: call.envelopes: expected `array`, got `null`"),
        (SENT, ("call", "envelopes", 1, "id"), 7, "line 2: call.envelopes[1].id: expected `str`, got `int`"),
        (SENT, ("call", "envelopes", 0, "body"), "{}", "line 2: call.envelopes[0].body: expected `object`, got `str`"),
        (
            SENT,
            ("call", "envelopes", 0, "body", "base64"),
            "!",
            "line 2: call.envelopes[0].body.base64: inval",
        ),
        (
            SENT,
            ("call", "envelopes", 0, "headers"),
            {},
            "line 2: call.envelopes[0].headers: object mis",
        ),
        (
            SENT,
            ("call", "envelopes", 0, "headers", "items"),
            [["a", 1]],
            "line 2: call.envelopes[0].headers.items[0][1]: expected `str`, got `int`",
        ),
        (
            SENT,
            ("call", "envelopes", 0, "urgency"),
            "higher",
            "line 2: call.envelopes[0].urgency: invalid enum value 'higher'",
        ),
        (
            SENT,
            ("call", "envelopes", 0, "ordering_key"),
            0,
            "line 2: call.envelopes[0].ordering_key: expected `str | null`, got `int`",
        ),
        (
            RECEIVED,
            ("value", "deliveries", 0, "attempt"),
            None,
            "line 3: value.deliveries[0].attempt: expected `in",
        ),
        (
            RECEIVED,
            ("value", "deliveries", 0, "event"),
            {"$": "Handed"},
            "line 3: value.deliveries[0].event.$: invalid value 'Handed'",
        ),
        (RECEIVED, ("op",), 2, "line 3: op is 2, but this call had not begun, or had already ended"),
    ],
)
def test_a_line_is_refused_by_the_field_that_is_wrong(
    records: list[history.Record], path: Path, to: object, told: str
) -> None:
    *before, line = [json.loads(line) for line in dump(records)]
    kept = at(line, path[:-1])
    if to is GONE:
        del kept[path[-1]]
    else:
        kept[path[-1]] = to

    with pytest.raises(ValueError) as raised:  # noqa: PT011 - looked at below
        load(map(json.dumps, [*before, line]))

    assert str(raised.value).startswith(told)


def test_a_whole_number_is_a_time_too() -> None:
    lines = [line.replace("1.0", "1") for line in dump(SENT)]

    (record,) = load(lines)

    assert record == SENT[0]
    assert isinstance(record.at, float)


def test_what_cannot_follow_on_the_lines_before_is_refused() -> None:
    def calls(*all_: tuple[history.Call, history.Value | None], ops: tuple[int, ...] = (1, 2, 3, 4)) -> Iterator[str]:
        records: list[history.Record] = []
        for op, (call, value) in zip(ops, all_, strict=False):
            records.append(history.Invoked(op=op, worker="a", at=1.0, call=call))
            records.append(history.Returned(op=op, at=1.0, end="done", value=value))
        return dump(records)

    handed = history.HandedOut((Script().handed(event()),))
    received: tuple[history.Call, history.Value] = (ASKED, handed)
    begun: list[tuple[history.Call, None]] = [
        (history.SetSavepoint(transaction=1, savepoint=number), None) for number in (1, 2)
    ]
    outer, inner = ((history.EndSavepoint(transaction=1, savepoint=one, way="rollback"), None) for one in (1, 2))

    with pytest.raises(ValueError, match="line 4: op is 1, which is the number of an earlier call"):
        load(calls((history.Open(), None), (history.Open(), None), ops=(1, 1)))
    with pytest.raises(ValueError, match=r"line 5: value\.deliveries\[0\]\.number is 1, which is that of another"):
        load(calls(received, received))
    with pytest.raises(ValueError, match=r"line 3: value\.fates has 1 items for 2 envelopes"):
        load(calls((SENT[0].call, history.Fates(("sent",)))))
    with pytest.raises(ValueError, match='line 9: end is "done", but savepoint 2 had not begun, or had already ended'):
        load(calls(*begun, outer, inner))
    assert len(load(calls(*begun, inner, outer))) == 8


def test_lines_that_are_nested_too_deeply_are_refused() -> None:
    deep = "[" * 100_000 + "]" * 100_000

    with pytest.raises(ValueError, match="line 2 is not a record"):
        load([*dump([]), deep])
    with pytest.raises(ValueError, match="expected the header"):
        load([deep])
