"""Every reader of a card gets all of it, in the form that they read."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from xml.etree import ElementTree as ET

import attrs
import pytest
from rich.console import Console

from relevo import Capabilities
from relevo_conformance import PROMISES, Deviation
from relevo_conformance.card import Card, Counterexample, Examination, Line, card
from relevo_conformance.examination import Finding
from relevo_conformance.report import to_json, to_junit, to_markdown, to_terminal

BROKEN = "ack-is-final"


@pytest.fixture(name="sample")
def _sample() -> Card:
    kept = frozenset(PROMISES) - {BROKEN, "malformed-is-quarantined", "preference-is-kept"}
    return card(
        [
            Finding(test="test_all", status="kept", promises=kept),
            Finding(
                test="test_ack", status="broken", promises=frozenset({BROKEN}), what="x | y came <twice>", program="a()"
            ),
            Finding(test="test_flaky", status="broken", promises=frozenset({BROKEN}), what="once", reproduced=False),
            Finding(
                test="test_raw", status="skipped", promises=frozenset({"malformed-is-quarantined"}), what="no put_raw"
            ),
            Finding(test="test_order", status="deviates", promises=frozenset({"preference-is-kept"})),
        ],
        examination=Examination(
            transport="demo",
            harness="DemoHarness",
            capabilities=Capabilities(durability="host", lease="timed"),
            seed=7,
            duration=1.5,
            versions={"demo": "1.0"},
        ),
        met={situation: 1000 for promise in PROMISES.values() for situation in promise.floors},
        deviations={"preference-is-kept": Deviation("it cannot", "https://example.org")},
        defined=("session",),
    )


def terminal(shown: Card) -> str:
    stream = io.StringIO()
    to_terminal(shown, Console(file=stream, width=120))
    return stream.getvalue()


@pytest.mark.parametrize("render", [terminal, to_json, to_junit, to_markdown])
def test_every_form_tells_the_verdict_the_failures_the_errors_and_the_seed(sample: Card, render: object) -> None:
    assert callable(render)

    text = render(sample)

    for word in ("not conformant", "demo", BROKEN, "test_ack", "7", "a()", "it cannot", "no put_raw", "session()"):
        assert word in text


def test_json_is_read_back(sample: Card) -> None:
    read = json.loads(to_json(sample))

    by_id = {promise["id"]: promise for promise in read["promises"]}
    assert (read["verdict"], read["seed"]) == ("not conformant", 7)
    assert by_id[BROKEN]["status"] == "FAIL"
    assert [failure["reproduced"] for failure in by_id[BROKEN]["failures"]] == [True, False]
    assert by_id["malformed-is-quarantined"]["status"] == "UNKNOWN"
    assert read["capabilities"]["lease"] == "timed"
    assert sum(read["summary"].values()) == len(PROMISES)


def test_junit_has_a_case_for_every_promise_and_one_for_the_harness(sample: Card) -> None:
    root = ET.fromstring(to_junit(sample))  # noqa: S314 - made here

    cases = {case.get("name"): [child.tag for child in case] for case in root.iter("testcase")}
    assert set(cases) == {*PROMISES, "harness"}
    assert cases[BROKEN][0] == "failure"
    assert cases["malformed-is-quarantined"][0] == "skipped"
    assert cases["harness"] == ["error"]
    assert root.get("failures") == "1"
    assert root.get("tests") == str(len(cases))


def test_junit_tells_how_often_what_was_met_and_which_hook_was_called(sample: Card) -> None:
    root = ET.fromstring(to_junit(attrs.evolve(sample, hooks={"kill": 12})))  # noqa: S314 - made here

    told = {one.get("name"): one.get("value") for one in root.iter("property")}
    assert (told["met: event handed out"], told["hook: kill"]) == ("1000", "12")
    (kept,) = (case for case in root.iter("testcase") if case.get("name") == "sent-is-received")
    assert kept.findtext("system-out") == "event handed out 1000, drain done 1000, receive raced send 1000"


def test_a_page_leaves_names_as_they_are_written(sample: Card) -> None:
    examination = attrs.evolve(sample.examination, versions={"Python": "3.11.7"})

    assert "Profile quick, seed 7, 2 s; Python 3.11.7." in to_markdown(attrs.evolve(sample, examination=examination))


@pytest.mark.parametrize("render", [terminal, to_markdown])
def test_a_card_shows_how_much_more_the_harness_allows_than_by_default(
    sample: Card, render: Callable[[Card], str]
) -> None:
    lenient = attrs.evolve(sample.examination, allows={"slack": (2.5, 0.002), "patience": (20.0, None)})
    shown = attrs.evolve(sample, examination=lenient)

    text = " ".join(render(shown).split())

    assert "DemoHarness sets slack to 2.5 s (0.002 s by default), patience to 20 s" in text
    assert " sets " not in render(sample)
    assert json.loads(to_json(shown))["allows"] == {
        "slack": {"seconds": 2.5, "default": 0.002},
        "patience": {"seconds": 20.0, "default": None},
    }
    assert 'name="slack" value="2.5"' in to_junit(shown)


def test_a_bar_in_a_text_does_not_break_the_table(sample: Card) -> None:
    rows = [row for row in to_markdown(sample).splitlines() if row.startswith("| `")]

    assert len(rows) == len(PROMISES)
    assert all(row.replace("\\|", "").count("|") == 6 for row in rows)


def test_what_was_not_reproduced_says_so(sample: Card) -> None:
    assert "not reproduced" in terminal(sample)
    assert "not reproduced" in to_markdown(sample)
    assert "not reproduced" in to_junit(sample)


@pytest.mark.parametrize(
    "replays, told",
    [(True, ""), (False, "does not break the promise"), (None, "the replay of the history did not finish")],
)
@pytest.mark.parametrize("render", [terminal, to_markdown])
def test_what_a_history_does_alone_is_told_as_far_as_it_was_seen(
    sample: Card, *, render: Callable[[Card], str], replays: bool | None, told: str
) -> None:
    failure = Counterexample(test="t", what="x", written="a/b.jsonl", replays=replays)
    shown = attrs.evolve(sample, lines=[attrs.evolve(line, failures=[failure]) for line in sample.lines])

    text = render(shown)

    assert [words for words in ("does not break the promise", "did not finish") if words in text] == [
        words for words in ("does not break the promise", "did not finish") if words in told
    ]


def test_nothing_in_a_text_is_taken_for_markup() -> None:
    promise = PROMISES[BROKEN]
    shown = Card(
        examination=Examination(
            transport="[red]x", harness="H", capabilities=Capabilities(durability="host", lease="timed")
        ),
        lines=[
            Line(
                promise=promise,
                status="FAIL",
                failures=[
                    Counterexample(
                        test="t", what="got [bold]this[/bold] [/nothing]", written="a/b.jsonl", replay="run it"
                    )
                ],
            )
        ],
    )

    text = terminal(shown)

    assert "got [bold]this[/bold] [/nothing]" in text
    assert "[red]x" in text
    assert "a/b.jsonl" in text
    assert "run it" in text


def test_what_was_shrunk_is_shown_first_however_many_scenarios_failed_too(sample: Card) -> None:
    scenarios = [
        Counterexample(test=f"test_{number}", what="x", program=f"worker {number}: open()") for number in range(5)
    ]
    shrunk = Counterexample(test="test_random", what="x", program="worker 9: open()", shrunk=True)
    lines = [
        attrs.evolve(line, failures=[*scenarios, shrunk]) if line.promise.id == BROKEN else line
        for line in sample.lines
    ]

    shown = terminal(attrs.evolve(sample, lines=lines))

    assert shown.index("worker 9: open()") < shown.index("worker 0: open()")
    assert "3 more tests" in shown
