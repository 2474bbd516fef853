"""Whatever a stranger's transport or harness does, the suite gives a verdict that can be read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from zlib import crc32

import attrs
import pytest
from hypothesis import Phase

from relevo import Capabilities, Delivery, Stats, StuckKeys, Unreadable
from relevo.errors import SendError, SettleError, TransportUnavailableError
from relevo_conformance import PROMISES, Finding, Harness, Violation, contract, examine, history
from relevo_conformance.bench import Bench
from relevo_conformance.contract import FRUITLESS, HANGS, NOT_RUN, NOTHING_CAME
from relevo_conformance.harness import Observed
from relevo_conformance.profile import PROFILES
from relevo_conformance.trial import Trial
from relevo_conformance.verdict import BrokenPromiseError
from relevo_memory import MemoryTransport

from .memory import MemoryHarness
from .strange import (
    FAILING,
    HOURS,
    OPERATIONS,
    BreaksNothing,
    OpensNothing,
    StopsNobody,
    Strange,
    Unshowable,
    Unspeakable,
    answering,
    hanging,
    harness_of,
    raising,
    where_time_is_real,
)

SCENARIOS = {
    "setup": "test_setting_up_again_creates_nothing",
    "send": "test_what_was_sent_is_received",
    "receive": "test_what_was_sent_is_received",
    "settle": "test_each_settlement_of_a_batch_stands_alone",
    "extend": "test_an_extended_lease_holds",
    "checkpoint": "test_a_checkpoint_survives_a_lost_lease",
    "dead_letters": "test_looking_at_dead_letters_changes_nothing",
    "revive": "test_only_what_was_named_is_revived",
    "discard": "test_what_is_discarded_is_gone_and_no_other",
    "cancel": "test_what_is_cancelled_never_comes",
    "find": "test_an_event_is_found_as_it_is_through_its_life",
    "waiting": "test_an_event_is_listed_as_it_is_through_its_life",
    "waiting_groups": "test_groups_are_counted_with_their_oldest_and_newest",
    "matching_dead_letters": "test_dead_letters_are_chosen_and_counted",
    "stuck_keys": "test_a_key_is_stuck_behind_a_retry_and_only_then",
    "purge": "test_a_purge_removes_what_is_not_held_from_one_queue",
    "stats": "test_the_figures_follow_an_event_through_its_life",
    "close": "test_closing_again_does_nothing",
}
"""By operation: a scenario that needs it."""

RANDOM = "test_random_histories_keep_every_promise"


@pytest.fixture(autouse=True)
def _hours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only what hangs be overdue, however busy the machine is."""
    monkeypatch.setattr("relevo_conformance.watch.monotonic", HOURS)


def found(harness: type[Harness], *tests: str, share: int = 1) -> list[Finding]:
    """Return what *tests* find; if none is named, what one of *share* scenarios finds, which are the same each time."""

    def is_tried(name: str, _: object) -> bool:
        return name in tests if tests else name != RANDOM and crc32(name.encode()) % share == 0

    return list(
        examine(
            harness,
            profile=attrs.evolve(PROFILES["quick"].part(), rows=20, operations=1),
            phases=(Phase.generate,),
            matching=is_tried,
        )
    )


def the_one(harness: type[Harness], test: str) -> Finding:
    (finding,) = found(harness, test)
    return finding


# --- a call that hangs -----------------------------------------------------------------------------


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_call_that_never_comes_back_is_a_broken_promise(operation: str) -> None:
    finding = the_one(answering(operation, hanging), SCENARIOS[operation])

    assert (finding.status, set(finding.promises)) == ("broken", {"calls-come-back"})
    assert "did not come back within" in finding.what
    assert "it is at " in finding.what
    assert "if it is only slow, raise call_timeout of the harness" in finding.what


def test_a_random_history_that_hangs_ends_too() -> None:
    finding = the_one(answering("settle", hanging), RANDOM)

    assert (finding.status, set(finding.promises)) == ("broken", {"calls-come-back"})


def test_a_loop_without_end_is_left_behind() -> None:
    def spinning(answer: object) -> object:
        HOURS.go_by()
        while answer is not None:
            pass
        return answer

    finding = the_one(answering("receive", spinning), SCENARIOS["receive"])

    assert set(finding.promises) == {"calls-come-back"}
    assert "in spinning" in finding.what


def test_what_follows_on_a_test_that_hangs_is_run_on_another_harness() -> None:
    calls = itertools.count()

    def once(answer: Any) -> Any:
        return hanging(answer) if next(calls) == 0 else answer

    findings = found(answering("extend", once), share=4)

    assert next(calls) > 3
    assert [one.status for one in findings if one.status not in {"kept", "skipped"}] == ["broken"]


def test_a_transport_that_always_hangs_is_not_waited_for_in_every_test() -> None:
    findings = found(answering("send", hanging))

    hung = [one for one in findings if one.status == "broken"]
    left = [one for one in findings if one.what == NOT_RUN]
    assert len(hung) == HANGS
    assert len(left) > 50
    assert {one.status for one in left} == {"skipped"}


def test_a_transport_that_always_hangs_is_not_said_to_be_the_fault_of_its_harness() -> None:
    told = Trial(harness=answering("send", hanging), name="hanging").run()

    assert told.verdict == "not conformant"
    assert told.errors == ()
    assert {line.status for line in told.lines} == {"FAIL", "UNKNOWN"}


# --- an answer that is none ------------------------------------------------------------------------


def first(change: Callable[[Any], Any]) -> Strange:
    """Return what changes the first of a sequence, if there is one."""
    return lambda answer: [change(answer[0]), *answer[1:]] if answer else answer


def of_a_delivery(**fields: Any) -> tuple[str, Strange]:
    return "receive", first(lambda delivery: attrs.evolve(delivery, **fields))


def of_an_envelope(**fields: Any) -> tuple[str, Strange]:
    return "receive", first(lambda one: attrs.evolve(one, envelope=attrs.evolve(one.envelope, **fields)))


def generated(answer: Any) -> Iterator[Any]:
    yield from answer


def endless(answer: Any) -> Any:
    class Endless(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            return itertools.repeat(Unshowable())

    return Endless([1])


def stranger(answer: object) -> list[Delivery]:
    return [
        Delivery(envelope=Unreadable(raw=b"", why=""), queue="q", receipt=1, enqueued_at=0.0),
    ]


MALFORMED: list[tuple[str, Strange]] = [
    ("setup", lambda _: "created all"),
    ("setup", lambda _: None),
    ("setup", lambda _: [1]),
    ("send", lambda _: 3),
    ("receive", lambda _: None),
    ("receive", generated),
    ("receive", set),
    ("receive", endless),
    ("receive", lambda answer: [attrs.asdict(one) for one in answer] or [{}]),
    ("receive", lambda _: [Unshowable()]),
    ("receive", lambda _: b"nothing"),
    of_a_delivery(attempt=0),
    of_a_delivery(attempt=True),
    of_a_delivery(lost_leases=-1),
    of_a_delivery(state="begun"),
    of_a_delivery(queue=None),
    of_a_delivery(envelope=b"{}"),
    of_a_delivery(enqueued_at="yesterday"),
    of_a_delivery(enqueued_at=float("nan")),
    of_an_envelope(body="{}"),
    of_an_envelope(headers=None),
    of_an_envelope(headers={"a": 1}),
    of_an_envelope(urgency="soon"),
    of_an_envelope(urgency=[]),
    of_an_envelope(id=7),
    ("settle", lambda _: None),
    ("settle", lambda _: True),
    ("settle", stranger),
    ("settle", lambda _: [None]),
    ("extend", lambda _: None),
    ("extend", stranger),
    ("checkpoint", lambda _: True),
    ("stats", lambda _: (1, 2, 3, 4)),
    ("stats", lambda _: None),
    ("stats", lambda _: Stats(ready=-1)),
    ("stats", lambda _: Stats(ready="many")),  # type: ignore[arg-type]
    ("dead_letters", lambda _: None),
    ("dead_letters", lambda _: [("1", "failed")]),
    ("dead_letters", first(lambda entry: attrs.evolve(entry, ref=1))),
    ("dead_letters", first(lambda entry: attrs.evolve(entry, died_at=None))),
    ("revive", lambda _: None),
    ("revive", lambda _: ["whatever"]),
    ("discard", lambda _: 1),
    ("cancel", lambda _: None),
    ("cancel", lambda _: True),
    ("cancel", lambda _: -1),
    ("find", lambda _: None),
    ("find", lambda _: [None, 42]),
    ("find", first(lambda found: attrs.evolve(found, status="dead"))),
    ("find", first(lambda found: attrs.evolve(found, until="soon"))),
    ("waiting", lambda _: None),
    ("waiting", lambda _: [None, 42]),
    ("waiting", first(lambda entry: attrs.evolve(entry, cursor=7))),
    ("waiting", first(lambda entry: attrs.evolve(entry, leased_at="soon"))),
    ("waiting_groups", lambda _: [("image.created", 1)]),
    ("matching_dead_letters", lambda _: 7),
    ("stuck_keys", lambda _: None),
    ("stuck_keys", lambda _: StuckKeys(total=-1)),
    ("stuck_keys", lambda _: StuckKeys(keys=(7,))),  # type: ignore[arg-type]
    ("purge", lambda _: "all"),
    ("close", lambda _: True),
    ("send", raising(SendError("memory", unknown=[0], sent=[9], why="odd"))),
    ("send", raising(SendError("memory", unknown=["first"], why="odd"))),  # type: ignore[list-item]
    ("settle", raising(SettleError("memory", unsettled=["first"], why="odd"))),
]


@pytest.mark.parametrize(
    ("operation", "strange"), MALFORMED, ids=[f"{at}-{operation}" for at, (operation, _) in enumerate(MALFORMED)]
)
def test_an_answer_that_is_none_is_told_by_its_method_and_by_what_was_expected(
    operation: str, strange: Strange
) -> None:
    finding = the_one(answering(operation, strange), SCENARIOS[operation])

    assert (finding.status, set(finding.promises)) == ("broken", {"answers-are-well-formed"})
    assert operation in finding.what
    assert "expected" in finding.what
    assert len(finding.what) < 1000


def test_a_set_up_that_answers_nothing_is_told_as_that_wherever_it_is_met() -> None:
    told = the_one(
        answering("setup", lambda _: None),
        "test_an_application_that_sets_nothing_up_is_told_what_is_missing_and_how_to_mend_it",
    )

    assert (told.status, set(told.promises)) == ("broken", {"answers-are-well-formed"})


@pytest.mark.parametrize("answer", ["all", None, {"lease": "timed"}])
def test_capabilities_that_are_none_are_told_once_for_all_tests(answer: object) -> None:
    transport = type("Claims", (MemoryTransport,), {"capabilities": property(lambda self: answer)})

    (finding,) = found(harness_of(transport))

    assert (finding.status, set(finding.promises)) == ("broken", {"answers-are-well-formed"})
    assert "expected a relevo.Capabilities" in finding.what


def test_capabilities_that_raise_are_told_once_for_all_tests() -> None:
    def capabilities(self: object) -> Capabilities:
        raise SystemExit(3)

    transport = type("Claims", (MemoryTransport,), {"capabilities": property(capabilities)})

    (finding,) = found(harness_of(transport))

    assert (finding.status, set(finding.promises)) == ("broken", {"answers-are-well-formed"})
    assert "SystemExit: 3" in finding.what


def test_dead_letters_that_are_more_than_were_asked_for_are_told() -> None:
    harness = answering("dead_letters", lambda answer: [*answer, *answer, *answer])

    findings = found(harness, "test_dead_letters_come_page_by_page_without_gap_or_repetition")

    assert [one.status for one in findings] == ["broken"]
    assert findings[0].promises & {"limit-is-respected", "dead-is-kept-with-reason"}


# --- an error that is none -------------------------------------------------------------------------

ODD: list[BaseException] = [
    SystemExit(1),
    KeyboardInterrupt(),
    GeneratorExit(),
    BaseException("bare"),
    KeyError("receipt"),
    Unspeakable(),
    OSError("x" * 5_000_000),
    ValueError("\x00\x1b[31m\ud800"),
    ExceptionGroup("several", [ValueError(1), KeyError(2)]),
    pytest.fail.Exception("from inside"),
]


@pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("operation", ["send", "receive", "settle", "close"])
def test_an_error_that_is_none_of_relevo_is_told_in_a_line(operation: str, error: BaseException) -> None:
    finding = the_one(answering(operation, raising(error)), SCENARIOS[operation])

    assert (finding.status, set(finding.promises)) == ("broken", {"errors-are-translated"})
    assert type(error).__name__ in finding.what
    assert len(finding.what) < 3000
    assert finding.what.replace("\n", "").isprintable()


def test_an_error_of_a_transport_while_it_is_opened_is_its_own_and_not_the_harness_s() -> None:
    def init(self: MemoryTransport, *args: object, **options: object) -> None:
        message = "no driver"
        raise ImportError(message)

    transport = type("Unopenable", (MemoryTransport,), {"__init__": init})

    finding = the_one(harness_of(transport), SCENARIOS["send"])

    assert (finding.status, set(finding.promises)) == ("broken", {"errors-are-translated"})
    assert "ImportError: no driver" in finding.what


def test_a_server_that_cannot_be_reached_is_told_as_it_says_so() -> None:
    error = TransportUnavailableError("memory", "nobody listens at 127.0.0.1:1")

    finding = the_one(answering("send", raising(error)), SCENARIOS["send"])

    assert finding.status == "broken"
    assert "nobody listens" in finding.what


# --- a transport that does nothing, or the same for ever ---------------------------------------------


class Never(MemoryTransport):
    """Does not even look."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return []


def test_a_transport_that_never_hands_anything_out_is_found_and_not_waited_for_in_every_test() -> None:
    findings = found(answering("receive", lambda _: []))

    failed = [one for one in findings if one.status == "broken"]
    left = [one for one in findings if one.what == NOTHING_CAME]
    assert len(failed) == FRUITLESS
    assert len(left) > 50
    assert {one.status for one in left} == {"skipped"}


def test_a_transport_that_never_hands_anything_out_has_its_card_soon_where_time_is_real() -> None:
    harness = where_time_is_real(harness_of(Never))

    told = Trial(harness=harness, name="never").run()

    assert (told.verdict, told.errors) == ("not conformant", ())
    assert {line.status for line in told.lines} == {"FAIL", "UNKNOWN"}
    assert NOTHING_CAME in {line.why for line in told.lines}
    assert sum(told.met.values()) < 1000


def test_a_transport_that_never_hands_anything_out_is_told_in_words_and_is_not_the_harness_s_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(contract, "FRUITLESS", 10**6)
    findings = list(
        examine(
            harness_of(Never),
            phases=(Phase.generate,),
            matching=lambda name, _: name != RANDOM and "wait" not in name and "same_time" not in name,
        )
    )

    broken = [one for one in findings if one.status == "broken"]
    assert len(broken) > 50
    assert [one.what for one in findings if one.status == "error"] == []
    assert [one.what for one in broken if "ValueError" in one.what or "IndexError" in one.what] == []


def test_a_look_that_comes_back_at_once_is_not_repeated_without_end() -> None:
    harness = where_time_is_real(harness_of(Never))
    bench = Bench(harness())
    worker = bench.worker()

    assert bench.receive(worker, 1) == []

    assert history.tally(bench.recorder.records)["receive done"] < 50
    bench.clean_up()


def test_what_was_ever_handed_out_is_waited_for_as_long_as_the_harness_has_patience() -> None:
    bench = Bench(where_time_is_real(MemoryHarness)())
    worker = bench.worker()
    for _ in range(5):
        bench.receive(worker)
    assert bench.patience == 0.0

    worker.send([bench.envelope()])
    assert worker.ack(bench.one(worker))

    assert bench.patience == 0.4
    bench.clean_up()


def test_a_transport_that_hands_out_the_same_delivery_for_ever_is_found() -> None:
    kept: list[Delivery] = []

    def again(answer: list[Delivery]) -> list[Delivery]:
        kept[:] = kept or answer
        return list(kept)

    finding = the_one(answering("receive", again), SCENARIOS["receive"])

    assert finding.status == "broken"
    assert finding.promises & {"ack-is-final", "leased-is-hidden", "no-invention"}


# --- a harness that fails ----------------------------------------------------------------------------


@pytest.mark.parametrize("harness", FAILING, ids=lambda harness: harness.__name__)
def test_a_hook_that_fails_is_the_harness_s_fault_and_says_nothing_of_the_transport(harness: type[Harness]) -> None:
    findings = found(harness, share=4)

    blamed = [one for one in findings if one.status == "error"]
    assert blamed
    assert f"{harness.__name__}.{FAILING[harness]}" in blamed[0].what  # type: ignore[index]
    assert "the author was tired" in blamed[0].what or "expected" in blamed[0].what or "come back" in blamed[0].what
    if harness is not OpensNothing:  # scenarios that open one themselves do not look at what it is
        assert {one.status for one in findings} <= {"error", "kept", "skipped"}


def test_a_hook_that_breaks_nothing_is_the_harness_s_fault() -> None:
    observed = Observed()

    findings = list(
        examine(BreaksNothing, profile="quick", observed=observed, matching=lambda name, _: "fails" in name)
    )

    blamed = [one for one in findings if one.status == "error"]
    assert any("BreaksNothing.broken broke nothing" in one.what for one in blamed)
    assert {one.status for one in findings} == {"error", "kept"}
    assert "fault met" not in observed.met, "so nothing is said of failure-loses-nothing"


def test_faults_that_are_met_are_counted() -> None:
    observed = Observed()

    list(examine(MemoryHarness, profile="quick", observed=observed, matching=lambda name, _: "fails" in name))

    assert observed.met["fault met"] >= PROMISES["failure-loses-nothing"].floors["fault met"]


def test_a_turnstile_that_stops_nobody_is_the_harness_s_fault() -> None:
    finding = the_one(StopsNobody, "test_two_receives_at_once_hand_out_each_event_once")

    assert finding.status == "error"
    assert "StopsNobody.turnstile stopped no step" in finding.what


@pytest.mark.parametrize(
    ("claim", "told"),
    [
        ({"lease": "sometimes"}, "lease is 'sometimes'; claim 'timed' or 'connection'"),
        ({"durability": "forever"}, "durability is 'forever'; claim 'process' or 'host' or 'replicated'"),
        ({"delay": -1.0}, "delay is -1.0; claim the seconds"),
        ({"delay": "short"}, "delay is 'short'; claim the seconds"),
        ({"max_body": 0}, "max_body is 0; claim 64 bytes or more"),
        ({"max_body": 63}, "max_body is 63; claim 64 bytes or more"),
        ({"extend": "yes"}, "extend is 'yes'; claim True or False"),
    ],
    ids=str,
)
def test_a_claim_that_makes_no_sense_is_told_with_what_to_claim_instead(claim: dict[str, Any], told: str) -> None:
    claims = attrs.evolve(MemoryTransport.capabilities, **claim)
    harness = harness_of(type("Boasting", (MemoryTransport,), {"capabilities": claims}))

    finding = the_one(harness, "test_what_is_claimed_makes_sense")

    assert finding.status == "broken"
    assert told in finding.what


def test_of_many_violations_that_are_alike_a_few_are_told_and_the_rest_counted() -> None:
    error = BrokenPromiseError([Violation("no-invention", number, "was never sent") for number in range(100)])

    assert str(error).splitlines()[-1] == "and 97 more of no-invention"
    assert len(str(error).splitlines()) == 4
