"""The card says of each promise what the findings amount to, and no more."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from relevo import Capabilities
from relevo_conformance import PROMISES, Deviation
from relevo_conformance.card import Card, Examination, Line, card
from relevo_conformance.contract import LEFT_OUT, NOT_RUN
from relevo_conformance.examination import Finding
from relevo_conformance.history import Invoked, Open
from relevo_conformance.promise import Needs, Promise
from relevo_conformance.report import to_markdown

ALL = Capabilities(durability="host", lease="timed", extend=True, lost_leases="exact")
NOTHING = Capabilities(durability="process", lease="timed", lost_leases="at least")

CORE = Promise("ack-is-final", "…")
MUST = PROMISES["preference-is-kept"]
OPTIONAL = Promise("extend-keeps-the-lease", "…", "optional", Needs("extend"))
UNCLAIMED = "unclaimed-is-refused"
RANDOM = Finding(test="test_random", status="kept")
WHY = Deviation("the server shares its connections out", "https://example.org/why")


def found(status: Any, *promises: str, **more: Any) -> Finding:
    return Finding(**({"test": "test_it", "status": status, "promises": frozenset(promises)} | more))


def make(*findings: Finding, claims: Capabilities = ALL, promises: tuple[Promise, ...] = (CORE,), **more: Any) -> Card:
    examination = Examination(transport="memory", harness="MemoryHarness", capabilities=claims)
    return card(findings, examination=examination, promises=promises, **more)


def line(*findings: Finding, **more: Any) -> Line:
    return make(*findings, **more).lines[0]


def test_what_a_test_showed_to_be_kept_passes() -> None:
    assert line(found("kept", CORE.id)).status == "PASS"


def test_one_test_that_found_it_broken_outweighs_all_that_did_not() -> None:
    failed = line(found("kept", CORE.id), found("broken", CORE.id, what="it came again"))

    assert failed.status == "FAIL"
    assert [failure.what for failure in failed.failures] == ["it came again"]


def test_what_random_histories_found_is_shown_as_its_recorded_calls() -> None:
    records = [Invoked(op=0, worker="worker 1", at=0.0, call=Open())]
    shown, unrecorded = (
        line(found("broken", CORE.id, program="state = M()", history=history)).failures[0] for history in (records, ())
    )

    assert (shown.program, shown.shrunk) == ("worker 1: open()  # still running at the end of this history", True)
    assert (unrecorded.program, unrecorded.shrunk) == ("state = M()", True)


def test_a_promise_whose_tests_were_all_skipped_is_unknown_and_says_why() -> None:
    unknown = line(found("skipped", CORE.id, what="no hook put_raw"), RANDOM)

    assert (unknown.status, unknown.why) == ("UNKNOWN", "no hook put_raw")


def test_what_is_not_claimed_is_no_reason_beside_a_hook_that_is_missing() -> None:
    skipped = [
        found("skipped", CORE.id, what=what) for what in ("X has no hook broken", "purged-is-gone is not claimed")
    ]

    assert line(*skipped).why == "X has no hook broken"


def test_a_promise_whose_tests_were_all_skipped_does_not_blame_other_promises() -> None:
    unknown = line(found("skipped", CORE.id, what="no hook put_raw"), found("broken", "another-one"))

    assert unknown.why == "no hook put_raw"


def test_a_promise_that_nothing_looked_at_is_unknown() -> None:
    assert line().status == "UNKNOWN"
    assert line(found("kept", "another-one")).status == "UNKNOWN"


def test_a_promise_without_a_test_of_its_own_is_shown_by_the_random_histories() -> None:
    assert line(RANDOM).status == "PASS"


def test_below_its_floor_a_promise_is_unknown_whatever_passed() -> None:
    floors = attrs.evolve(CORE, floors={"ack": 10, "kill done": 1})

    unknown = line(found("kept", CORE.id), promises=(floors,), met={"ack": 9, "kill done": 1})

    assert unknown.status == "UNKNOWN"
    assert unknown.why == "ack: met 9 times, at least 10 are needed"
    assert unknown.met == {"ack": (9, 10), "kill done": (1, 1)}
    assert line(found("kept", CORE.id), promises=(floors,), met={"ack": 10, "kill done": 1}).status == "PASS"


def test_a_promise_that_the_random_histories_did_not_get_to_show_says_what_was_not_met() -> None:
    floors = attrs.evolve(CORE, floors={"event handed out": 20})
    broken, left = found("broken", "another-one"), found("skipped", what="no more were run")

    ended = "tests ended early, since another-one is broken"
    assert (
        line(broken, promises=(floors,), met={}).why
        == f"event handed out: met 0 times, at least 20 are needed; {ended}"
    )
    assert line(left, promises=(floors,), met={}).why == "no more were run"
    assert line(broken).why == f"no test of it finished; {ended}"


def test_a_promise_below_its_floor_says_which_hook_its_tests_miss() -> None:
    floors = attrs.evolve(CORE, floors={"ack": 10})
    skipped = [found("skipped", CORE.id, what=what) for what in ("X has no hook broken", "purge is not claimed")]

    why = line(found("kept", CORE.id), *skipped, promises=(floors,), met={"ack": 9}).why

    assert why == "ack: met 9 times, at least 10 are needed; X has no hook broken"


@pytest.mark.parametrize("reason", sorted(LEFT_OUT))
def test_a_promise_below_its_floor_says_that_tests_were_left_out(reason: str) -> None:
    floors = attrs.evolve(CORE, floors={"ack": 10})
    findings = [found("kept", CORE.id), found("broken", "another-one"), found("skipped", "a-third-one", what=reason)]

    assert line(*findings, promises=(floors,), met={"ack": 9}).why == (
        f"ack: met 9 times, at least 10 are needed; {reason}"
    )
    assert line(*findings[:1], promises=(floors,), met={"ack": 9}).why == "ack: met 9 times, at least 10 are needed"


def test_what_is_not_claimed_and_was_not_asked_for_says_that_tests_were_left_out() -> None:
    unknown = line(found("skipped", UNCLAIMED, what=NOT_RUN), claims=NOTHING, promises=(OPTIONAL,))

    assert unknown.why == (f"extend is not claimed; no test showed whether it is refused properly; {NOT_RUN}")


FAULTS = PROMISES["failure-loses-nothing"]


def test_a_store_that_fails_is_shown_only_by_a_failure_of_each_operation() -> None:
    kept, skipped = found("kept", FAULTS.id), found("skipped", FAULTS.id, what="XHarness has no hook broken")
    met = {"fault met": 99, "send failed": 99}

    sends_alone = line(kept, skipped, promises=(FAULTS,), met=met)
    all_three = line(kept, promises=(FAULTS,), met={**met, "receive failed": 1, "settle failed": 1}, claims=NOTHING)
    extends_too = line(kept, promises=(FAULTS,), met={**met, "receive failed": 1, "settle failed": 1})

    assert (sends_alone.status, sends_alone.why) == (
        "UNKNOWN",
        "no call failed of receive, settle, extend; XHarness has no hook broken",
    )
    assert all_three.status == "PASS"
    assert all_three.met["settle failed"] == (1, 1)
    assert (extends_too.status, extends_too.why) == ("UNKNOWN", "no call failed of extend")


@pytest.mark.parametrize("promise", [PROMISES["batch-is-atomic"], PROMISES["no-invention"]])
def test_where_nothing_was_handed_out_nothing_is_shown_of_what_is(promise: Promise) -> None:
    claims = attrs.evolve(ALL, atomic_batch=True)

    told = line(found("kept", promise.id), claims=claims, promises=(promise,), met={"batch": 99, "event unknown": 99})

    assert told.status == "UNKNOWN"
    assert "event handed out: met 0 times" in told.why


def test_below_its_floor_a_broken_promise_is_broken() -> None:
    floors = attrs.evolve(CORE, floors={"ack": 10})

    assert line(found("broken", CORE.id), promises=(floors,)).status == "FAIL"


def test_what_is_not_claimed_is_not_applicable_if_it_is_refused_properly() -> None:
    refused = line(found("kept", UNCLAIMED), claims=NOTHING, promises=(OPTIONAL,))

    assert refused.status == "N/A"


@pytest.mark.parametrize("probes", [(), ("broken",), ("kept", "broken"), ("skipped",)])
def test_what_is_not_claimed_is_unknown_unless_it_was_seen_to_be_refused(probes: tuple[str, ...]) -> None:
    findings = [found(status, UNCLAIMED) for status in probes]

    assert line(*findings, claims=NOTHING, promises=(OPTIONAL,)).status == "UNKNOWN"


def test_a_must_that_the_capabilities_rule_out_needs_no_refusal() -> None:
    assert line(claims=NOTHING, promises=(MUST,)).status == "N/A"


def test_what_nobody_can_ask_for_is_not_said_to_be_refused() -> None:
    told = line(found("kept", UNCLAIMED), claims=NOTHING, promises=(PROMISES["woken-by-a-send"],))

    assert (told.status, told.why) == ("N/A", "wakeup is not claimed")


def test_a_must_that_is_broken_as_declared_deviates() -> None:
    deviates = line(found("deviates", MUST.id), promises=(MUST,), deviations={MUST.id: WHY})

    assert deviates.status == "DEVIATES"
    assert WHY.reason in deviates.why
    assert WHY.url in deviates.why
    assert line(found("broken", MUST.id), promises=(MUST,), deviations={MUST.id: WHY}).status == "DEVIATES"


def test_a_declared_deviation_that_is_kept_passes_and_is_told() -> None:
    kept = line(found("kept", MUST.id), promises=(MUST,), deviations={MUST.id: WHY})

    assert kept.status == "PASS"
    assert "declared as a deviation" in kept.why


@pytest.mark.parametrize("promise", [PROMISES["ack-is-final"], PROMISES["extend-keeps-the-lease"]])
def test_nobody_deviates_from_what_is_not_a_must(promise: Promise) -> None:
    failed = make(found("broken", promise.id), promises=(promise,), deviations={promise.id: WHY})

    assert failed.lines[0].status == "FAIL"
    assert f'deviation from "{promise.id}"' in failed.errors[0]


def test_a_deviation_from_no_promise_is_an_error() -> None:
    assert "there is no such promise" in make(deviations={"be-kind": WHY}).errors[0]


def test_a_hook_that_was_never_called_is_an_error() -> None:
    idle = make(found("kept", CORE.id), defined=("open", "session"), hooks={"open": 3})

    assert len(idle.errors) == 1
    assert "session()" in idle.errors[0]
    assert idle.verdict == "unknown"


def test_a_test_that_the_harness_failed_is_an_error_and_leaves_its_promise_unknown() -> None:
    failed = make(found("error", CORE.id, what="MyHarness.kill raised KeyError"))

    assert failed.errors == ("test_it: MyHarness.kill raised KeyError",)
    assert failed.lines[0].status == "UNKNOWN"


def test_a_promise_that_was_not_looked_at_and_is_broken_is_told_all_the_same() -> None:
    broken = make(found("kept", CORE.id), found("broken", OPTIONAL.id, what="it came again"))

    assert [(line.promise.id, line.status) for line in broken.lines] == [(CORE.id, "PASS"), (OPTIONAL.id, "FAIL")]
    assert (broken.verdict, broken.errors) == ("not conformant", ())


def test_what_broke_without_breaking_a_promise_is_an_error() -> None:
    assert make(found("broken", what="Unsatisfiable")).errors == ("test_it: Unsatisfiable",)


@pytest.mark.parametrize(
    "findings, claims, verdict",
    [
        ([found("kept", CORE.id, OPTIONAL.id)], ALL, "conformant"),
        ([found("kept", CORE.id), found("broken", OPTIONAL.id)], ALL, "not conformant"),
        ([found("kept", OPTIONAL.id)], ALL, "unknown"),
        ([found("kept", CORE.id)], ALL, "unknown"),
        ([found("kept", CORE.id)], NOTHING, "conformant"),
        ([found("kept", CORE.id), found("kept", UNCLAIMED)], NOTHING, "conformant"),
    ],
)
def test_the_verdict_is_conformant_only_if_all_that_is_promised_was_shown(
    findings: list[Finding], claims: Capabilities, verdict: str
) -> None:
    assert make(*findings, claims=claims, promises=(CORE, OPTIONAL)).verdict == verdict


def test_a_verdict_on_some_of_the_promises_says_that_it_is_on_a_part() -> None:
    about = attrs.evolve(make().examination, only=(CORE.id,))

    kept, broken, unknown = (
        card(findings, examination=about, promises=(CORE,))
        for findings in ([found("kept", CORE.id)], [found("broken", CORE.id)], [])
    )

    assert (kept.verdict, broken.verdict, unknown.verdict) == ("conformant in part", "not conformant", "unknown")
    assert f"a part of the tests, for 1 of {len(PROMISES)} promises" in to_markdown(kept)
    assert "a part of" not in to_markdown(make(found("kept", CORE.id)))


def test_a_deviation_does_not_stand_in_the_way_of_the_verdict() -> None:
    deviating = make(
        found("kept", CORE.id), found("deviates", MUST.id), promises=(CORE, MUST), deviations={MUST.id: WHY}
    )

    assert deviating.verdict == "conformant"


def test_the_same_findings_make_the_same_card() -> None:
    findings = (found("kept", CORE.id), found("broken", OPTIONAL.id), RANDOM)

    assert make(*findings) == make(*findings)
