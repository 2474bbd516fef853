from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import relevo
from relevo import (
    Ack,
    Call,
    DeadLetter,
    Delivery,
    Envelope,
    Event,
    Failure,
    GiveUp,
    Hooks,
    ListenerTable,
    Nack,
    Outcome,
    Reason,
    Retry,
    RetryLater,
    SubjectType,
    hookimpl,
)
from relevo._event.subject import Gone
from relevo._worker.caller import Caller
from relevo._worker.executor import Flow, Handling
from relevo._worker.listener_log import ObstacleLog
from relevo._worker.progress import ListenerProgress, Progress, dumped, loaded
from relevo.errors import DecodeError, LeaseLostError, TransportClosedError, TransportUnavailableError, described
from relevo.testing import FakeClock

Make = Callable[..., Delivery]
Listen = Callable[..., None]
MakeCaller = Callable[..., Caller]


def _fail(event: object) -> None:
    raise ValueError("not today")


def _stateful(outcome: Outcome) -> Progress:
    assert isinstance(outcome, (Nack, DeadLetter))
    assert outcome.state is not None
    return loaded(outcome.state)


def _stateful_bytes(outcome: Outcome) -> bytes:
    return dumped(_stateful(outcome))


# --- what listeners are given -----------------------------------------------------------------------


def test_a_listener_is_called_with_the_event_and_the_delivery_is_done(
    listen: Listen, caller: MakeCaller, delivery: Make
) -> None:
    events: list[Event] = []
    listen(events.append, id="keep")

    outcome = caller().outcome(delivery(data={"image_id": 7}))

    assert outcome == Ack()
    assert [(event.name, event["image_id"]) for event in events] == [("image.created", 7)]


@relevo.event("image.created", version=2, subject="image_id", of="image")
@attrs.frozen
class _ImageCreated:
    image_id: int


def test_a_listener_may_ask_for_the_declared_class_and_for_the_call(
    listen: Listen, caller: MakeCaller, delivery: Make
) -> None:
    seen: list[tuple[_ImageCreated, int, int, str]] = []

    def keep(event: _ImageCreated, call: Call) -> None:
        seen.append((event, call.attempt, call.lost_leases, call.listener_id))

    listen(keep, event=_ImageCreated)

    outcome = caller().outcome(delivery(data={"image_id": 7}, dataversion=2, lost_leases=1))

    assert outcome == Ack()
    assert seen == [(_ImageCreated(7), 1, 1, "keep")]


def test_listeners_are_called_by_priority_each_with_an_event_of_its_own(
    listen: Listen, caller: MakeCaller, delivery: Make
) -> None:
    seen: list[tuple[str, Event]] = []
    listen(lambda event: seen.append(("late", event)), id="late")
    listen(lambda event: seen.append(("soon", event)), id="soon", priority=1)

    caller().outcome(delivery())

    assert [name for name, _ in seen] == ["soon", "late"]
    assert seen[0][1] == seen[1][1]
    assert seen[0][1] is not seen[1][1]


def test_what_a_listener_changes_in_its_event_reaches_no_other(
    listen: Listen, caller: MakeCaller, delivery: Make
) -> None:
    seen: list[Any] = []

    def spoil(event: Event) -> None:
        event["tags"].append("spoilt")

    listen(spoil, priority=1)
    listen(lambda event: seen.append(event["tags"]), id="look")

    caller().outcome(delivery(data={"tags": ["sea"]}))

    assert seen == [["sea"]]


@pytest.mark.parametrize("level", ["INFO", "WARNING"])
def test_each_listener_that_is_done_is_logged_with_its_time_from_info_on(
    listen: Listen, caller: MakeCaller, delivery: Make, clock: FakeClock, caplog: pytest.LogCaptureFixture, level: str
) -> None:
    caplog.set_level(level, "relevo.listener")

    def fail(event: Event) -> None:
        raise ValueError("no")

    listen(lambda _: clock.advance(0.25), id="slow", priority=2)
    listen(fail, id="fail", priority=1)
    listen(lambda _: None, id="quick")

    caller().outcome(delivery(event_id="17"))

    done = [record.getMessage() for record in caplog.records if " done on " in record.getMessage()]
    place = "image.created 17 in default"
    assert done == ([f"slow done on {place} (250.0 ms)", f"quick done on {place} (0.0 ms)"] if level == "INFO" else [])


def test_only_the_listeners_of_the_queue_are_called(listen: Listen, caller: MakeCaller, delivery: Make) -> None:
    called: list[str] = []
    listen(lambda _: called.append("first"), id="first")
    listen(lambda _: called.append("feed"), id="feed", queue="feed")
    both = caller(first_queue=lambda _: "media")

    both.outcome(delivery(queue="media"))
    both.outcome(delivery(queue="feed"))

    assert called == ["first", "feed"]


# --- what listeners raise ---------------------------------------------------------------------------


def test_a_failure_is_tried_again_after_the_policys_wait(listen: Listen, caller: MakeCaller, delivery: Make) -> None:
    listen(_fail, retry=Retry(3, first=7))

    outcome = caller().outcome(delivery())

    assert isinstance(outcome, Nack)
    assert outcome.delay == pytest.approx(7.0)
    assert _stateful(outcome).listeners["_fail"].error == "ValueError: not today"


def test_a_run_that_takes_its_time_is_waited_for_from_its_end(
    listen: Listen, caller: MakeCaller, delivery: Make, clock: FakeClock
) -> None:
    def slow(event: object) -> None:
        clock.advance(100)
        raise ValueError

    listen(slow, retry=Retry(3, first=7))

    outcome = caller().outcome(delivery())

    assert isinstance(outcome, Nack)
    assert outcome.delay == pytest.approx(7.0)


def test_each_failure_is_one_warning_with_the_listener_the_event_the_run_and_the_error(
    listen: Listen, caller: MakeCaller, delivery: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    listen(_fail, retry=Retry(2, first="8m", jitter=0))

    again = caller().outcome(delivery(event_id="17"))
    caller().outcome(delivery(event_id="17", state=_due_now(_stateful(again))))

    first, last = caplog.records
    said = "_fail failed on image.created 17 in default"
    line = _fail.__code__.co_firstlineno + 1
    assert first.message == f"{said} (run 1 of 2, again in 8 min): ValueError: not today (test_caller.py:{line})"
    assert last.message == f"{said} (run 2 of 2, the last): ValueError: not today (test_caller.py:{line})"
    assert (first.name, first.levelname, first.exc_info) == ("relevo.listener", "WARNING", None)


def test_a_failure_is_located_in_the_listener_and_not_in_its_decorator(
    listen: Listen, caller: MakeCaller, delivery: Make, caplog: pytest.LogCaptureFixture
) -> None:
    @contextlib.contextmanager
    def around() -> Iterator[None]:
        yield

    listen(around()(_fail))  # the wrapper is in contextlib.py

    caller().outcome(delivery())

    line = _fail.__code__.co_firstlineno + 1
    assert caplog.messages[-1].endswith(f"(test_caller.py:{line})")


def _due_now(progress: Progress) -> bytes:
    for each in progress.listeners.values():
        each.due = 0.0
    return dumped(progress)


def test_a_listener_that_gives_up_or_asks_for_a_later_run_is_logged_as_that(
    listen: Listen, caller: MakeCaller, delivery: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def gives_up(event: object) -> None:
        raise GiveUp("no such customer")

    def waits(event: object) -> None:
        raise RetryLater("30s", "not paid yet")

    listen(gives_up)
    listen(waits)

    caller().outcome(delivery(event_id="17"))

    gave_up, asked = caplog.records
    assert "gives_up failed on image.created 17 in default (run 1 of 5, gave up): GiveUp: no such" in gave_up.message
    assert (asked.levelname, asked.message) == (
        "INFO",
        "waits asks to run again on image.created 17 in default (run 1 of 5, again in 30 s): RetryLater: not paid yet",
    )


def test_the_warning_of_a_failure_is_one_line_without_secrets_and_has_its_traceback_at_info(
    listen: Listen, caller: MakeCaller, delivery: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def hostile(event: object) -> None:
        raise ValueError("no\x1b[31m\nroute to amqp://shop:s3cret@host")

    listen(hostile)

    caller().outcome(delivery(name="image.created", event_id="17"))

    (record,) = caplog.records
    assert record.message.isprintable()
    assert "s3cret" not in record.message
    assert "image.created 17 in default" in record.message
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError


def test_what_a_foreign_event_says_of_itself_cannot_harm_the_log_of_events_without_a_listener(
    table: ListenerTable, delivery: Make, caplog: pytest.LogCaptureFixture
) -> None:
    log = ObstacleLog(table, 3600.0, lambda _: ())
    foreign = delivery(name="a\x1b[31m.{b} amqp://shop:s3cret@host", event_id="1\n7", enqueued_at=float("inf"))
    other_release = Nack(state=b"\xff", reason="newer-version")

    for outcome in (Nack(reason="unknown-event"), Nack(reason="listener-failed"), Nack(), other_release):
        log.note(foreign, outcome)
        log.note(foreign, outcome)

    assert [record.name for record in caplog.records] == ["relevo.listener"] * 2
    assert all(record.getMessage().isprintable() for record in caplog.records)
    assert "s3cret" not in caplog.text
    assert "is retried until an unknown time" in caplog.text


@pytest.mark.usefixtures("silenced")
@pytest.mark.parametrize(("waiting", "number"), [({}, 1), ({"unknown-event": 1.0}, 0), ({"subject-missing": 1.0}, 1)])
def test_where_retries_are_not_logged_an_event_of_an_unknown_name_is_at_its_first_delivery(
    table: ListenerTable,
    delivery: Make,
    caplog: pytest.LogCaptureFixture,
    waiting: dict[str, float],
    number: int,
) -> None:
    log = ObstacleLog(table, 3600.0, lambda _: ())

    log.note(delivery(name="a.b", state=dumped(Progress(1, waiting=waiting))), Nack(reason="unknown-event"))

    assert [record.name for record in caplog.records] == ["relevo.worker"] * number


@pytest.fixture(name="silenced")
def _silenced() -> Iterator[None]:
    log = logging.getLogger("relevo.listener")
    log.setLevel(logging.ERROR)
    yield
    log.setLevel(logging.NOTSET)


def test_only_so_many_names_without_a_listener_are_logged(
    table: ListenerTable, delivery: Make, caplog: pytest.LogCaptureFixture
) -> None:
    log = ObstacleLog(table, 3600.0, lambda _: ())

    for number in range(150):
        log.note(delivery(name=f"a.b{number}"), Nack(reason="unknown-event"))

    assert len(caplog.records) == 100


def test_one_failing_listener_does_not_stop_the_others(listen: Listen, caller: MakeCaller, delivery: Make) -> None:
    called: list[object] = []
    listen(_fail, priority=1)
    listen(called.append, id="other")

    outcome = caller().outcome(delivery())

    assert len(called) == 1
    statuses = {key: each.status for key, each in _stateful(outcome).listeners.items()}
    assert statuses == {"_fail": "due", "other": "done"}


def test_a_retry_runs_only_the_listeners_that_have_not_succeeded_each_with_its_own_attempt(
    listen: Listen, caller: MakeCaller, delivery: Make, clock: FakeClock
) -> None:
    attempts: list[tuple[str, int]] = []

    def good(event: object, call: Call) -> None:
        attempts.append(("good", call.attempt))

    def bad(event: object, call: Call) -> None:
        attempts.append(("bad", call.attempt))
        raise ValueError

    listen(good)
    listen(bad, retry=Retry(2))
    both = caller()
    first = both.outcome(delivery())
    assert isinstance(first, Nack)
    clock.advance(first.delay)

    last = both.outcome(delivery(state=first.state, attempt=9))

    assert attempts == [("good", 1), ("bad", 1), ("bad", 2)]
    assert isinstance(last, DeadLetter)
    assert last.reason == Reason.RETRIES_EXHAUSTED
    assert last.error.startswith("bad: retries-exhausted after 2 runs: ValueError\nTraceback")
    assert "good" not in last.error.splitlines()[0]


def test_a_delivery_that_comes_too_early_runs_nothing_and_waits_for_the_rest(
    listen: Listen, caller: MakeCaller, delivery: Make, clock: FakeClock
) -> None:
    called: list[object] = []
    listen(called.append, id="keep")
    state = dumped(Progress(1, listeners={"keep": ListenerProgress("due", 1, clock.now() + 30)}))

    outcome = caller().outcome(delivery(state=state))

    assert called == []
    assert outcome == Nack(delay=30.0, state=state)


def test_the_earliest_due_listener_says_when(listen: Listen, caller: MakeCaller, delivery: Make) -> None:
    for name, first in (("slow", 60), ("quick", 3), ("middle", 10)):
        listen(_fail, id=name, retry=Retry(2, first=first))

    outcome = caller().outcome(delivery())

    assert isinstance(outcome, Nack)
    assert outcome.delay == pytest.approx(3.0)


def test_retry_later_names_the_delay_and_give_up_ends_it(listen: Listen, caller: MakeCaller, delivery: Make) -> None:
    def later(event: object) -> None:
        raise RetryLater("5m")

    def never(event: object) -> None:
        raise GiveUp("no such image")

    listen(later)
    listen(never)

    outcome = caller().outcome(delivery())

    assert isinstance(outcome, Nack)
    assert outcome.delay == pytest.approx(300.0)
    assert _stateful(outcome).listeners["never"] == ListenerProgress("dead", 1, 0.0, "gave-up", "GiveUp: no such image")


class _HostileError(BaseException):
    def __str__(self) -> str:
        raise SystemExit("from __str__")


def _recurse(event: object) -> None:
    _recurse(event)


def _grouped(event: object) -> None:
    raise BaseExceptionGroup("all", [SystemExit(1), KeyError(2)])


def _raiser(error: BaseException) -> Callable[[object], None]:
    def raising(event: object) -> None:
        raise error

    raising.__name__ = type(error).__name__
    return raising


@pytest.mark.parametrize(
    "listener",
    [
        _raiser(SystemExit(3)),
        _raiser(GeneratorExit()),
        _raiser(asyncio.CancelledError()),
        _raiser(StopIteration()),
        _raiser(_HostileError()),
        _raiser(ValueError("\0\ud800" * 100_000)),
        _raiser(DecodeError("the listener's own")),
        _raiser(LeaseLostError("its own", None)),
        _raiser(TransportUnavailableError("its own", "down")),
        _recurse,
        _grouped,
    ],
)
def test_whatever_a_listener_raises_is_its_failure_and_nobody_elses(
    listener: Callable[[object], None], listen: Listen, caller: MakeCaller, delivery: Make
) -> None:
    called: list[object] = []
    listen(listener, id="bad", retry=1)
    listen(called.append, id="good")

    outcome = caller().outcome(delivery())

    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == Reason.RETRIES_EXHAUSTED
    outcome.error.encode()
    assert len(called) == 1


def test_an_interrupt_is_not_the_listeners(listen: Listen, caller: MakeCaller, delivery: Make) -> None:
    listen(_raiser(KeyboardInterrupt()), id="bad")

    with pytest.raises(KeyboardInterrupt):
        caller().outcome(delivery())


def test_the_queues_policy_is_for_listeners_that_have_none(listen: Listen, caller: MakeCaller, delivery: Make) -> None:
    listen(_fail)

    outcome = caller(queue_retry={"default": Retry(1)}.get).outcome(delivery())

    assert isinstance(outcome, DeadLetter)


# --- stopping the propagation -----------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_a_stop_keeps_the_later_listeners_from_being_called_for_good(
    fails: bool,  # noqa: FBT001
    listen: Listen,
    caller: MakeCaller,
    delivery: Make,
    clock: FakeClock,
) -> None:
    called: list[str] = []

    def stop(event: object, call: Call) -> None:
        called.append("stop")
        call.stop_propagation()
        if fails and call.attempt == 1:
            raise ValueError

    listen(_fail, id="early", priority=2)
    listen(stop, priority=1)
    listen(lambda _: called.append("late"), id="late")
    first = caller().outcome(delivery())
    assert isinstance(first, Nack)
    clock.advance(10)

    caller().outcome(delivery(state=first.state))

    assert called == ["stop", "stop"] if fails else ["stop"]


def test_a_lone_listener_that_stops_the_propagation_is_done(listen: Listen, caller: MakeCaller, delivery: Make) -> None:
    def stop(event: object, call: Call) -> None:
        call.stop_propagation()

    listen(stop)

    assert caller().outcome(delivery()) == Ack()


# --- what cannot be handled here --------------------------------------------------------------------


def test_an_unknown_event_is_given_back_and_then_dead_lettered(
    listen: Listen, caller: MakeCaller, delivery: Make, clock: FakeClock
) -> None:
    listen(_fail, queue="feed")
    first = caller().outcome(delivery())
    assert isinstance(first, Nack)
    clock.advance(3600)

    last = caller().outcome(delivery(state=first.state))

    assert first.delay == 1.0
    assert isinstance(last, DeadLetter)
    assert last.reason == Reason.UNKNOWN_EVENT
    assert last.error == 'no listener for "image.created" in the queue "default"; its listeners here are in feed'


def test_a_newer_version_is_given_back_and_then_dead_lettered(
    listen: Listen, caller: MakeCaller, delivery: Make, clock: FakeClock
) -> None:
    def typed(event: _ImageCreated) -> None: ...

    listen(typed, event=_ImageCreated)
    first = caller().outcome(delivery(dataversion=3))
    assert isinstance(first, Nack)
    clock.advance(3600)

    last = caller().outcome(delivery(dataversion=3, state=first.state))

    assert isinstance(last, DeadLetter)
    assert last.reason == Reason.NEWER_VERSION


def test_a_state_of_a_newer_release_is_given_back_not_touched(
    listen: Listen, caller: MakeCaller, delivery: Make
) -> None:
    called: list[object] = []
    listen(called.append, id="keep")

    outcome = caller().outcome(delivery(state=b'{"v":2,"done":["keep"]}'))

    assert isinstance(outcome, Nack)
    assert outcome.state is not None
    assert outcome.state.startswith(b'{"v":2,"done":["keep"],"waiting":')
    assert called == []


def test_a_newer_state_that_cannot_say_since_when_is_waited_for_from_when_the_event_was_sent(
    listen: Listen, caller: MakeCaller, delivery: Make, clock: FakeClock
) -> None:
    listen(_fail)
    state = b'{"v":2,"waiting":[]}'

    early = caller().outcome(delivery(state=state, enqueued_at=clock.now() - 3599))
    late = caller().outcome(delivery(state=state, enqueued_at=clock.now() - 3600))

    assert isinstance(early, Nack)
    assert early.state == state
    assert isinstance(late, DeadLetter)
    assert late.reason == Reason.NEWER_VERSION


def test_a_reason_to_wait_is_forgotten_when_the_event_was_handled(
    listen: Listen, caller: MakeCaller, delivery: Make, clock: FakeClock
) -> None:
    listen(_fail)
    state = dumped(Progress(1, waiting={"unknown-event": clock.now() - 3599, "newer-version": 1.0}))

    outcome = caller().outcome(delivery(state=state))

    assert _stateful(outcome).waiting == {}


def _images(*names: str) -> SubjectType:
    return SubjectType(type="image", cls=object, name=str, load=lambda name: name if name in names else None)


def test_a_missing_subject_is_waited_for_without_counting_a_run(
    listen: Listen, caller: MakeCaller, delivery: Make, clock: FakeClock
) -> None:
    seen: list[tuple[object, int]] = []

    def look(event: object, call: Call) -> None:
        seen.append((call.subject, call.attempt))

    listen(look)
    first = caller(subjects=[_images()]).outcome(delivery(subject="image/7"))
    assert isinstance(first, Nack)
    clock.advance(first.delay)

    last = caller(subjects=[_images("7")]).outcome(delivery(subject="image/7", state=first.state))

    assert last == Ack()
    assert seen == [("7", 1)]


def test_a_subject_that_stays_missing_is_a_dead_letter_after_a_minute(
    listen: Listen, caller: MakeCaller, delivery: Make, clock: FakeClock
) -> None:
    def look(event: object, call: Call) -> None:
        _ = call.subject

    listen(look)
    state, hand_overs = b"", 0
    began = clock.now()
    while isinstance(outcome := caller(subjects=[_images()]).outcome(delivery(subject="image/7", state=state)), Nack):
        assert outcome.state is not None
        state, hand_overs = outcome.state, hand_overs + 1
        clock.advance(outcome.delay)

    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == Reason.SUBJECT_MISSING
    assert "look: subject-missing after 0 runs: the subject image/7 is gone" in outcome.error
    assert clock.now() - began == pytest.approx(60.0, abs=0.01)
    assert hand_overs < 10


def test_a_subject_that_was_found_and_goes_missing_again_is_waited_for_anew(
    listen: Listen, caller: MakeCaller, delivery: Make, clock: FakeClock
) -> None:
    def look(event: object, call: Call) -> None:
        raise ValueError(call.subject)

    listen(look)
    missing = caller(subjects=[_images()])
    first = missing.outcome(delivery(subject="image/7"))
    clock.advance(59.0)
    found = caller(subjects=[_images("7")]).outcome(delivery(subject="image/7", state=_stateful_bytes(first)))
    clock.advance(59.0)
    again = missing.outcome(delivery(subject="image/7", state=_stateful_bytes(found)))

    assert _stateful(found).waiting == {}
    assert isinstance(again, Nack)


@pytest.mark.parametrize("missing, seen", [("skip", []), ("tombstone", [Gone("image", "7")])])
def test_a_listener_may_be_skipped_or_told_that_its_subject_is_gone(
    missing: str, seen: list[object], listen: Listen, caller: MakeCaller, delivery: Make, clock: FakeClock
) -> None:
    subjects: list[object] = []
    others: list[object] = []

    def look(event: object, call: Call) -> None:
        subjects.append(call.subject)

    listen(look, missing=missing)
    listen(others.append, id="other")
    state = dumped(Progress(1, waiting={"subject-missing": clock.now() - 59.0}))
    early = caller(subjects=[_images()]).outcome(delivery(subject="image/7", state=state))
    clock.advance(1.0)
    last = caller(subjects=[_images()]).outcome(delivery(subject="image/7", state=_stateful_bytes(early)))

    assert isinstance(early, Nack)
    assert last == Ack()
    assert subjects == seen
    assert len(others) == 1


# --- what is malformed -------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [b"\xff", b"{}", b'{"v":1,"listeners":7}'])
def test_an_unreadable_state_is_malformed(state: bytes, listen: Listen, caller: MakeCaller, delivery: Make) -> None:
    listen(_fail)

    outcome = caller().outcome(delivery(state=state))

    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == Reason.MALFORMED


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"{}", b'{"a":' + b"[" * 100_000])
def test_a_body_that_is_no_event_is_malformed(body: bytes, listen: Listen, caller: MakeCaller, delivery: Make) -> None:
    listen(_fail)

    outcome = caller().outcome(delivery(whole=Envelope(id="1", source="shop", name="image.created", body=body)))

    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == Reason.MALFORMED


@pytest.mark.parametrize("inner", [{"id": "2"}, {"type": "image.deleted"}])
def test_an_envelope_that_says_something_else_than_its_body_is_malformed(
    inner: dict[str, str], listen: Listen, caller: MakeCaller, delivery: Make
) -> None:
    listen(_fail)
    listen(_fail, event="image.deleted")

    outcome = caller().outcome(delivery(body=inner))

    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == Reason.MALFORMED


def test_data_that_does_not_fit_one_listener_is_given_to_the_others(
    listen: Listen, caller: MakeCaller, delivery: Make
) -> None:
    called: list[object] = []

    def typed(event: _ImageCreated) -> None: ...

    listen(typed, event=_ImageCreated)
    listen(called.append, id="generic")

    outcome = caller().outcome(delivery(data={"image_id": "seven"}))

    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == Reason.MALFORMED
    assert outcome.error.startswith("typed: malformed after 0 runs")
    assert len(called) == 1


@relevo.event("image.weighed")
@attrs.define
class _Weighed:
    grams: int

    def __attrs_post_init__(self) -> None:
        _ = 1 // self.grams


def test_an_error_in_the_constructor_of_an_event_is_the_failure_of_its_listener(
    listen: Listen, caller: MakeCaller, delivery: Make
) -> None:
    def weigh(event: _Weighed) -> None: ...

    listen(weigh, event=_Weighed, retry=1)

    outcome = caller().outcome(delivery(name="image.weighed", data={"grams": 0}))

    assert isinstance(outcome, DeadLetter)
    assert "ZeroDivisionError" in outcome.error


@pytest.mark.lengthy("calls many listeners")
def test_more_listeners_than_a_state_can_remember_are_a_dead_letter_not_the_end_of_the_worker(
    listen: Listen, caller: MakeCaller, delivery: Make
) -> None:
    for number in range(400):
        listen(_fail, id=f"shop.listeners:create_thumbnails_{number}")

    outcome = caller().outcome(delivery())

    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == Reason.STATE_TOO_LARGE


# --- progress in the middle -------------------------------------------------------------------------


def _done_in(states: list[bytes]) -> list[set[str]]:
    return [{key for key, each in loaded(state).listeners.items() if each.status == "done"} for state in states]


def test_what_is_done_is_kept_before_the_next_listener_is_called(
    listen: Listen, caller: MakeCaller, delivery: Make
) -> None:
    kept: list[bytes] = []
    before: list[int] = []
    for name in "abc":
        listen(lambda _: before.append(len(kept)), id=name)

    outcome = caller(checkpoint=lambda _, state: kept.append(state)).outcome(delivery())

    assert outcome == Ack()
    assert before == [0, 1, 2]
    assert _done_in(kept) == [{"a"}, {"a", "b"}]


@pytest.mark.parametrize("error", [LeaseLostError("main", None), TransportClosedError("main")])
def test_no_further_listener_is_called_once_somebody_else_has_the_delivery(
    error: Exception, listen: Listen, caller: MakeCaller, delivery: Make
) -> None:
    def checkpoint(_: Delivery, __: bytes) -> None:
        raise error

    called: list[str] = []
    for name in "abc":
        listen(lambda _, name=name: called.append(name), id=name)

    outcome = caller(checkpoint=checkpoint).outcome(delivery())

    assert called == ["a"]
    assert isinstance(outcome, Nack)


def test_a_checkpoint_that_cannot_be_written_is_told_and_the_listeners_go_on(
    listen: Listen, caller: MakeCaller, delivery: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def checkpoint(_: Delivery, __: bytes) -> None:
        raise TransportUnavailableError("main", "gone")

    for name in "abc":
        listen(print, id=name)

    assert caller(checkpoint=checkpoint).outcome(delivery(event_id="17")) == Ack()
    assert len(caplog.messages) == 1, "once a minute"
    assert caplog.messages[0].startswith("progress of image.created 17 in default could not be stored; ")


# --- hooks --------------------------------------------------------------------------------------------


class _Watch:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    @hookimpl
    def relevo_around_handle(self, delivery: Delivery) -> None:
        self.seen.append(delivery)
        raise RuntimeError("a broken plugin")


def test_an_observing_hook_sees_every_delivery_and_cannot_break_one(
    table: ListenerTable, listen: Listen, caller: MakeCaller, delivery: Make
) -> None:
    watch = _Watch()
    listen(print)
    one = delivery()

    outcome = caller(hooks=Hooks([watch])).outcome(one)

    assert outcome == Ack()
    assert watch.seen == [one]


class _Session:
    """Notes when a listener begins and how it ends, as a plugin would that opens a session for each."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @hookimpl
    @contextlib.contextmanager
    def relevo_around_call(self, event: object, listener_id: str) -> Iterator[None]:
        self.seen.append((listener_id, event))
        try:
            yield
        except ValueError as error:
            self.seen.append(str(error))
            raise
        self.seen.append("done")


def test_a_hook_is_called_around_each_listener(listen: Listen, caller: MakeCaller, delivery: Make) -> None:
    session = _Session()
    listen(lambda event: session.seen.append(event.image_id), event=_ImageCreated, id="typed", priority=1)
    listen(_fail, id="bad")

    caller(hooks=Hooks([session])).outcome(delivery(data={"image_id": 7}))

    (bad, event) = session.seen.pop(3)
    assert session.seen == [("typed", _ImageCreated(7)), 7, "done", "not today"]
    assert (bad, event["image_id"]) == ("bad", 7)


def test_a_hook_around_a_listener_that_fails_changes_nothing(
    listen: Listen, caller: MakeCaller, delivery: Make
) -> None:
    class Broken:
        @hookimpl
        @contextlib.contextmanager
        def relevo_around_call(self) -> Iterator[None]:
            yield
            raise RuntimeError("a broken plugin")

    listen(print)

    assert caller(hooks=Hooks([Broken()])).outcome(delivery()) == Ack()


class _Reporter:
    """Notes every failure of a listener, as a plugin that mails them would."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    @hookimpl
    def relevo_listener_failed(
        self,
        delivery: Delivery,
        event: Event,
        listener_id: str,
        attempt: int,
        error: BaseException,
        due: float | None,
        failure: Failure,
    ) -> None:
        assert isinstance(delivery.envelope, Envelope)
        assert (failure.listener, failure.attempt, failure.due) == (listener_id, attempt, due)
        assert (failure.kind, failure.error) == (type(error).__name__, described(error))
        assert event.id == delivery.envelope.id
        self.told.append((event.name, event["a"], listener_id, attempt, repr(error), due))


def test_a_hook_is_told_of_each_failure_and_when_the_listener_is_run_again(
    listen: Listen, caller: MakeCaller, delivery: Make, clock: FakeClock
) -> None:
    reporter = _Reporter()
    listen(_fail, retry=Retry(2, first=7))
    listen(_raiser(GiveUp("never")), id="given up")
    listen(_raiser(RetryLater("5s")), id="later")
    listen(print, id="fine")
    calls = caller(hooks=Hooks([reporter]))
    now = clock.now()

    first = calls.outcome(delivery(data={"a": 1}))
    clock.advance(7)
    calls.outcome(delivery(data={"a": 1}, attempt=2, state=_stateful_bytes(first)))

    fail = "ValueError('not today')"
    assert reporter.told[:3] == [
        ("image.created", 1, "_fail", 1, fail, now + 7.0),
        ("image.created", 1, "given up", 1, "GiveUp('never')", None),
        ("image.created", 1, "later", 1, repr(RetryLater("5s")), now + 5.0),
    ]
    assert [each[2:] for each in reporter.told[3:4]] == [("_fail", 2, fail, None)]


def test_a_hook_is_told_of_the_failure_of_a_listener_of_a_class_by_the_name_of_the_event(
    listen: Listen, caller: MakeCaller, delivery: Make
) -> None:
    reporter = _Reporter()
    listen(_fail, event=_Weighed)

    for grams in (1, 0):  # the listener fails, and then the constructor of the class
        caller(hooks=Hooks([reporter])).outcome(delivery(name="image.weighed", data={"a": 1, "grams": grams}))

    assert [each[:4] for each in reporter.told] == [("image.weighed", 1, "_fail", 1)] * 2
    assert "ZeroDivisionError" in reporter.told[1][4]


def test_a_hook_that_fails_when_it_is_told_of_a_failure_changes_nothing(
    listen: Listen, caller: MakeCaller, delivery: Make, caplog: pytest.LogCaptureFixture
) -> None:
    class _Broken:
        @hookimpl
        def relevo_listener_failed(self, error: BaseException) -> None:
            raise RuntimeError("no network")

    listen(_fail, retry=Retry(2, first=7))

    outcome = caller(hooks=Hooks([_Broken()])).outcome(delivery())

    assert isinstance(outcome, Nack)
    assert outcome.delay == pytest.approx(7.0)
    assert "an observing hook failed" in caplog.text


def test_what_is_waited_for_is_no_failure_of_a_listener(listen: Listen, caller: MakeCaller, delivery: Make) -> None:
    reporter = _Reporter()

    def look(event: object, call: Call) -> None:
        assert call.subject

    listen(look)

    caller(subjects=[_images()], hooks=Hooks([reporter])).outcome(delivery(subject="image/7", data={"a": 1}))

    assert reporter.told == []


def test_a_huge_traceback_does_not_take_long(listen: Listen, caller: MakeCaller, delivery: Make) -> None:
    def chain(event: object) -> None:
        error: Exception | None = None
        for number in range(2000):
            try:
                raise ValueError(number) from error  # noqa: TRY301
            except ValueError as raised:
                error = raised
        assert error is not None
        raise error

    listen(chain, retry=1)
    began = time.thread_time()

    outcome = caller().outcome(delivery())

    assert isinstance(outcome, DeadLetter)
    assert time.thread_time() - began < 5


def _steps(event: object) -> Iterator[int]:
    _fail(event)
    yield 1


@functools.wraps(_steps)
def _wrapped_steps(event: object) -> Iterator[int]:
    return _steps(event)


async def _asynchronous_steps(event: object) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (_wrapped_steps, "generator"),
        (lambda event: (each for each in [event]), "generator"),
        (lambda event: _asynchronous_steps(event), "async_generator"),  # noqa: PLW0108 - what hides it
        (lambda event: map(_fail, [event]), "map"),
        (lambda event: filter(_fail, [event]), "filter"),
    ],
)
@pytest.mark.parametrize("takes_call", [False, True])
def test_a_listener_that_returns_lazy_work_has_failed(
    listen: Listen, caller: MakeCaller, delivery: Make, function: Callable[..., object], kind: str, *, takes_call: bool
) -> None:
    listen((lambda event, call: function(event)) if takes_call else function, id="lazy")

    outcome = caller().outcome(delivery())

    assert isinstance(outcome, Nack)
    expected = f"the listener returned a lazy {kind}, which nothing iterates over; its work was not done"
    assert expected in _stateful(outcome).listeners["lazy"].error


@pytest.mark.parametrize("result", [[1], "done", 3, iter([1]), {"a": 1}.items()])
def test_a_listener_may_return_anything_that_is_there(
    listen: Listen, caller: MakeCaller, delivery: Make, result: object
) -> None:
    listen(lambda _: result, id="any")

    assert caller().outcome(delivery()) == Ack()


# --- what cannot be read ------------------------------------------------------------------------------------


@relevo.event("image.created")
@attrs.frozen
class _Bare:
    image_id: int = 0


def _with_data(delivery: Make, data: bytes, **fields: Any) -> Delivery:
    body = b'{"specversion":"1.0","id":"1","source":"shop","type":"image.created","data":%b}' % data
    return delivery(whole=Envelope(id="1", source="shop", name="image.created", body=body), **fields)


@pytest.mark.parametrize(
    "data",
    [b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', b'{"\xff":1}', b'{"a":{"b":["\xff"]}}', b'{"a":"\\ud800"}'],
    ids=["byte", "surrogate", "key", "deep", "escape"],
)
@pytest.mark.parametrize("event", ["image.created", _Bare], ids=["by name", "by class"])
def test_data_that_cannot_be_read_is_malformed_at_once_and_no_listener_is_called(
    listen: Listen, caller: MakeCaller, delivery: Make, data: bytes, event: object
) -> None:
    called: list[object] = []
    listen(called.append, event=event, id="keep")

    outcome = caller().outcome(_with_data(delivery, data))

    assert isinstance(outcome, DeadLetter)
    assert (outcome.reason, called) == (Reason.MALFORMED, [])


def test_a_failure_is_observed_even_where_the_rest_of_the_data_cannot_be_read_by_name(
    listen: Listen, caller: MakeCaller, delivery: Make
) -> None:
    seen: list[str] = []

    class Watch:
        @hookimpl
        def relevo_listener_failed(self, event: Event, error: BaseException) -> None:
            seen.append(f"{event.name} {error}")

    def fail(event: _Bare) -> None:
        raise ValueError("not today")

    listen(fail, event=_Bare)

    outcome = caller(hooks=Hooks([Watch()])).outcome(_with_data(delivery, b'{"image_id":1,"z":1e999}'))

    assert isinstance(outcome, Nack)
    assert seen == ["image.created not today"]


@pytest.mark.parametrize("noted", [b"1e308", b"9e9"])
def test_no_time_in_a_state_makes_patience_endless(
    caller: MakeCaller, delivery: Make, clock: FakeClock, noted: bytes
) -> None:
    state = b'{"v":99,"waiting":{"newer-version":%b}}' % noted
    began, outcome = clock.now(), caller(patience=600.0).outcome(delivery(state=state))

    while isinstance(outcome, Nack):
        assert clock.now() - began < 700
        clock.advance(outcome.delay)
        outcome = caller(patience=600.0).outcome(delivery(state=outcome.state))

    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == Reason.NEWER_VERSION


def test_an_event_that_says_it_was_sent_in_the_future_is_not_waited_for_without_end(
    caller: MakeCaller, delivery: Make, clock: FakeClock
) -> None:
    hostile = delivery(state=b'{"v":99,"waiting":[]}', enqueued_at=1e308, attempt=602)

    outcome = caller(patience=600.0).outcome(hostile)

    assert isinstance(outcome, DeadLetter)


def test_the_reason_of_a_dead_letter_out_of_a_state_is_text_that_every_store_keeps(
    listen: Listen, caller: MakeCaller, delivery: Make
) -> None:
    listen(print, id="keep")
    state = b'{"v":1,"listeners":{"keep":["dead",1,0,"\\u0000%b"]}}' % (b"x" * 999)

    outcome = caller().outcome(delivery(state=state))

    assert isinstance(outcome, DeadLetter)
    assert "\0" not in outcome.reason
    assert len(outcome.reason) <= 200


@pytest.mark.lengthy("tries many cases")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    state=st.binary(max_size=80)
    | st.sampled_from([b'{"v":99,"zz":"\xff"}', b"1e999", b'{"v":1,"waiting":{"a":1e308}}']),
    data=st.binary(max_size=80),
    headers=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
    attempt=st.integers(1, 2**70),
    enqueued_at=st.floats(allow_nan=False),
)
def test_whatever_a_delivery_holds_it_ends_and_nothing_is_raised(
    listen: Listen, caller: MakeCaller, delivery: Make, table: ListenerTable, enqueued_at: float, **made: Any
) -> None:
    if not len(table):
        listen(lambda event: event.get("a"), id="keep")

    hostile = _with_data(delivery, made["data"], state=made["state"], attempt=made["attempt"], enqueued_at=enqueued_at)
    outcome = caller().outcome(attrs.evolve(hostile, envelope=attrs.evolve(hostile.envelope, headers=made["headers"])))

    assert isinstance(outcome, (Ack, Nack, DeadLetter))


# --- defects ------------------------------------------------------------------------------------------------


def test_a_defect_outside_of_a_listener_ends_its_delivery_and_is_logged(
    delivery: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def defective(_: Delivery, *, on_loop: bool) -> Flow:
        raise ZeroDivisionError("a defect")

    outcome = Handling(defective)(delivery())

    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == Reason.MALFORMED
    assert "ZeroDivisionError: a defect" in outcome.error
    assert "image.created 1" in caplog.text


@pytest.mark.parametrize("error", [MemoryError(), OSError(24, "Too many open files")])
def test_a_lack_that_may_pass_is_retried_a_few_times(delivery: Make, error: Exception) -> None:
    def lacking(_: Delivery, *, on_loop: bool) -> Flow:
        raise error

    first, last = Handling(lacking)(delivery()), Handling(lacking)(delivery(attempt=5))

    assert first == Nack(delay=2.0)
    assert isinstance(last, DeadLetter)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_is_no_defect(delivery: Make, error: type[BaseException]) -> None:
    def ending(_: Delivery, *, on_loop: bool) -> Flow:
        raise error

    with pytest.raises(error):
        Handling(ending)(delivery())


def test_progress_that_cannot_be_kept_for_whatever_reason_keeps_no_listener_from_being_called(
    listen: Listen, caller: MakeCaller, delivery: Make
) -> None:
    called: list[str] = []

    def defective(_: Delivery, state: bytes) -> None:
        raise ZeroDivisionError

    for name in ("one", "other"):
        listen(lambda _, name=name: called.append(name), id=name)

    assert caller(checkpoint=defective).outcome(delivery()) == Ack()
    assert sorted(called) == ["one", "other"]
