from __future__ import annotations

import attrs
import msgspec
import pytest
from hypothesis import example, given, strategies as st

from relevo import (
    MAX_ERROR,
    MAX_STATE,
    Ack,
    DeadLetter,
    DeadLetterEntry,
    Delivery,
    Envelope,
    Failure,
    GiveUp,
    Listener,
    Nack,
    Reason,
    Retry,
    RetryLater,
)
from relevo._listener.listener import Mark
from relevo._worker.progress import (
    SEAL,
    STATE_VERSION,
    ListenerProgress,
    NewerStateError,
    Progress,
    Raised,
    StateTooLargeError,
    blamed,
    dumped,
    failures_of,
    first_met,
    foremost,
    give_back_unread,
    loaded,
    revived,
    setbacks_of,
)
from relevo.errors import DecodeError

NOW = 1_000_000.0
POLICY = Retry(3, first=10, factor=2, jitter=0)


def _listener(name: str, *aliases: str) -> Listener:
    mark = Mark(event="image.created", aliases=aliases)
    return Listener(
        id=name,
        event_name="image.created",
        event_type=None,
        function=print,
        mark=mark,
        takes_call=False,
        aliases=aliases,
    )


def _progress(**listeners: ListenerProgress) -> Progress:
    return Progress(STATE_VERSION, listeners=listeners)


A, B, C = _listener("a"), _listener("b"), _listener("c")
ALL = (A, B, C)
decided = st.builds(
    Progress,
    v=st.just(STATE_VERSION),
    listeners=st.dictionaries(
        st.sampled_from(["a", "b", "c", "gone"]),
        st.builds(
            ListenerProgress,
            status=st.sampled_from(["done", "due", "dead"]),
            due=st.floats(NOW - 100, NOW + 100),
            why=st.just("gave-up"),
        ),
    ),
    stopped=st.booleans(),
)


def _delivery(*, lost_leases: int = 0, **fields: object) -> Delivery:
    envelope = Envelope(id="1", source="shop", name="image.created", body=b"{}", **fields)  # type: ignore[arg-type]
    return Delivery(envelope=envelope, queue="default", lost_leases=lost_leases, receipt=object(), enqueued_at=NOW)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
listener_progresses = st.builds(
    ListenerProgress,
    status=st.sampled_from(["done", "due", "dead"]),
    runs=st.integers(0, 1000),
    due=st.floats(0, 4e9),
    why=st.sampled_from(["", "gave-up", "retries-exhausted"]),
    error=text,
)
progresses = st.builds(
    Progress,
    v=st.just(STATE_VERSION),
    listeners=st.dictionaries(text, listener_progresses, max_size=8),
    waiting=st.dictionaries(st.sampled_from(["unknown-event", "subject-missing"]), st.floats(0, 4e9)),
    stopped=st.booleans(),
    raised=st.dictionaries(text, st.builds(Raised, kind=text, traceback=text), max_size=3),
)


@given(progresses)
def test_progress_comes_back_as_it_was(progress: Progress) -> None:
    assert loaded(dumped(progress)) == progress


def test_a_new_event_has_no_state_and_nothing_done() -> None:
    assert loaded(b"") == Progress(STATE_VERSION)


def test_two_new_events_share_nothing() -> None:
    one, other = loaded(b""), loaded(b"")

    one.listeners["resize"] = ListenerProgress()
    one.waiting["unknown-event"] = 1.0

    assert other == Progress(STATE_VERSION)


@given(st.integers(0, 200), st.integers(0, 200))
@example(85, 169)  # 43 bytes less than a transport keeps: there is room for one seal, and not for two
def test_the_state_never_takes_more_than_every_transport_keeps(number: int, length: int) -> None:
    progress = Progress(
        STATE_VERSION, listeners={f"{i:0>{length}}": ListenerProgress("due", error="ü" * 100) for i in range(number)}
    )
    listeners = {key: msgspec.structs.replace(each, error="") for key, each in progress.listeners.items()}

    try:
        state = dumped(progress)
    except StateTooLargeError:
        assert len(msgspec.json.encode(Progress(STATE_VERSION, listeners=listeners))) > MAX_STATE - 2 * SEAL
    else:
        assert len(state) <= MAX_STATE - 2 * SEAL
        assert {
            key: msgspec.structs.replace(each, error="") for key, each in loaded(state).listeners.items()
        } == listeners


def test_texts_of_errors_go_first_when_a_state_gets_too_long() -> None:
    progress = Progress(
        STATE_VERSION, listeners={str(i): ListenerProgress("due", i, error="x" * 200) for i in range(150)}
    )

    kept = loaded(dumped(progress))

    assert {each.error for each in kept.listeners.values()} == {""}
    assert [each.runs for each in kept.listeners.values()] == list(range(150))


@pytest.mark.parametrize(
    "state",
    [
        b"\xff",
        b"null",
        b"[1]",
        b"{}",
        b'{"v":null}',
        b'{"v":1,"listeners":{"a":["lost"]}}',
        b'{"v":1,"listeners":{"\xff":["due"]}}',
        b'{"v":1,"stopped":' + b"[" * 100_000,
        b'{"v":1}tail',
        b"1e999",
        b'{"v":1e999}',
        b'{"v":1,"waiting":{"\\ud800":1.0}}',
        b'{"v":1,"waiting":{"newer-version":1e308}}',
        b'{"v":1,"waiting":{"newer-version":-1.0}}',
        b'{"v":1,"listeners":{"a":["due",-1]}}',
        b'{"v":1,"listeners":{"a":["due",2147483648]}}',
        b'{"v":1,"listeners":{"a":["due",1,1e308]}}',
        b'{"v":1,"listeners":{"a":["due",1,-1e308]}}',
    ],
)
def test_what_is_no_state_says_so(state: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        loaded(state)

    assert not isinstance(caught.value, NewerStateError)


@pytest.mark.parametrize("state", [b'{"v":2}', b'{"v":2,"listeners":[1]}', b'{"v":99,"later":{"a":1}}'])
def test_a_state_of_a_newer_release_is_told_apart(state: bytes) -> None:
    with pytest.raises(NewerStateError, match="newer release"):
        loaded(state)


def test_what_a_newer_release_adds_within_a_version_is_passed_over() -> None:
    assert loaded(b'{"v":1,"stopped":true,"later":1}') == Progress(STATE_VERSION, stopped=True)


def test_a_newer_state_learns_since_when_it_is_waited_for_and_keeps_the_rest() -> None:
    state = b'{"v":2,"later":{"a":[1.5,null]},"waiting":{"unknown-event":5.0}}'

    first, noted = first_met(state, "newer-version", 7.0)
    again, same = first_met(noted, "newer-version", 9.0)

    assert (first, again) == (7.0, 7.0)
    assert msgspec.json.decode(same) == {
        "v": 2,
        "later": {"a": [1.5, None]},
        "waiting": {"unknown-event": 5.0, "newer-version": 7.0},
    }


@pytest.mark.parametrize(
    "state",
    [
        b"[2]",
        b"2",
        b"1e999",
        b"\xff",
        b'{"v":2,"\xff":1}',
        b'{"v":2,"waiting":[]}',
        b'{"v":2,"waiting":{"a":1e999}}',
        b'{"v":2,"waiting":null}',
        b'{"v":2,"waiting":{"newer-version":"x"}}',
    ],
)
def test_a_newer_state_of_another_shape_is_left_as_it_is(state: bytes) -> None:
    assert first_met(state, "newer-version", 7.0) == (None, state)


def test_what_only_a_newer_release_can_read_of_its_state_stays_byte_for_byte() -> None:
    state = b'{"v":99,"zz":"\xff","b":1e999,"c":1e1}'

    first, noted = first_met(state, "newer-version", 7.0)

    assert (first, noted) == (7.0, state[:-1] + b',"waiting":{"newer-version":7.0}}')


@pytest.mark.parametrize("noted", ["1e308", "8", "-1", "-1e308"])
def test_a_newer_state_cannot_say_that_the_wait_began_in_the_future_or_before_all_time(noted: str) -> None:
    first, state = first_met(b'{"v":2,"waiting":{"newer-version":%b}}' % noted.encode(), "newer-version", 7.0)

    assert (first, state) == (7.0, b'{"v":2,"waiting":{"newer-version":7.0}}')


@given(progresses)
def test_reviving_keeps_what_is_done_and_lets_the_rest_start_afresh(progress: Progress) -> None:
    again = loaded(revived(dumped(progress)))

    assert again.listeners == {
        key: each if each.status == "done" else ListenerProgress() for key, each in progress.listeners.items()
    }
    assert again.stopped == progress.stopped
    assert again.waiting == {}


def test_reviving_what_cannot_be_read_starts_from_nothing() -> None:
    assert loaded(revived(b"\xff")) == Progress(STATE_VERSION)


def test_reviving_what_a_newer_release_wrote_is_refused_since_it_knows_what_is_done() -> None:
    with pytest.raises(NewerStateError):
        revived(b'{"v":2}')


# --- patience --------------------------------------------------------------------------------------


@given(st.floats(1, 7200), st.floats(0, 0.5))
def test_patience_ends_when_it_said_and_not_before(patience: float, early: float) -> None:
    progress, now, waits = _progress(), NOW, []

    while isinstance(outcome := progress.give_back("unknown-event", now, detail="?", patience=patience), Nack):
        assert 0 < outcome.delay <= 60.0
        waits.append(outcome.delay)
        now += outcome.delay

    assert isinstance(outcome, DeadLetter)
    assert now - NOW == pytest.approx(patience, abs=0.002)
    assert now - NOW >= patience
    assert len(waits) <= 8 + patience / 60


def test_patience_is_counted_from_the_first_hand_over_that_met_the_reason() -> None:
    progress = _progress()
    progress.give_back("unknown-event", NOW, detail="?")

    assert isinstance(progress.give_back("newer-version", NOW + 3599, detail="?"), Nack)
    assert isinstance(progress.give_back("unknown-event", NOW + 3599, detail="?"), Nack)
    assert isinstance(progress.give_back("unknown-event", NOW + 3600, detail="?"), DeadLetter)


def test_the_time_of_the_first_meeting_travels_with_the_event() -> None:
    outcome = _progress().give_back("unknown-event", NOW, detail="?")

    assert isinstance(outcome, Nack)
    assert outcome.state is not None
    assert loaded(outcome.state).waiting == {"unknown-event": NOW}


def test_a_reason_that_was_overcome_is_waited_for_anew() -> None:
    progress = _progress()
    progress.give_back("unknown-event", NOW, detail="?")

    progress.overcome("unknown-event", "newer-version")

    assert isinstance(progress.give_back("unknown-event", NOW + 9999, detail="?"), Nack)


def test_no_patience_means_at_once() -> None:
    outcome = _progress().give_back("unknown-event", NOW, detail="no listener", patience=0.0)

    assert outcome == DeadLetter(reason="unknown-event", error="no listener", state=outcome.state)  # type: ignore[union-attr]


def test_a_missing_subject_is_waited_for_a_minute_even_when_patience_is_longer() -> None:
    assert _progress().wait_for(Reason.SUBJECT_MISSING, NOW, patience=3600) == 1.0
    later = _progress()
    later.waiting[Reason.SUBJECT_MISSING] = NOW - 60
    assert later.wait_for(Reason.SUBJECT_MISSING, NOW, patience=3600) is None


def test_a_state_that_a_newer_release_wrote_waits_from_its_first_meeting_however_old_the_event_is() -> None:
    old = attrs.evolve(_delivery(), enqueued_at=NOW - 1e6, state=b'{"v":2,"later":1}')

    first = give_back_unread(old, NOW, detail="newer")
    assert isinstance(first, Nack)
    assert first.state is not None
    patient = give_back_unread(attrs.evolve(old, state=first.state), NOW + 3599, detail="newer")
    over = give_back_unread(attrs.evolve(old, state=first.state), NOW + 3600, detail="newer")

    assert isinstance(patient, Nack)
    assert over == DeadLetter(reason=Reason.NEWER_VERSION, error="newer", state=None)


# --- which listeners are due -----------------------------------------------------------------------


def test_all_listeners_of_a_new_event_are_due_in_their_order() -> None:
    assert list(_progress().due(ALL, NOW)) == list(ALL)


@given(decided)
def test_due_are_exactly_those_that_are_neither_done_nor_dead_nor_waiting_nor_skipped(progress: Progress) -> None:
    found = {listener.id for listener in progress.due(ALL, NOW)}

    for name in "abc":
        mine = progress.listeners.get(name)
        assert (name in found) == (not progress.stopped if mine is None else mine.status == "due" and mine.due <= NOW)


@given(decided, st.sampled_from(ALL))
def test_a_listener_that_succeeded_is_never_due_again(progress: Progress, listener: Listener) -> None:
    progress.finish(listener)

    assert listener not in progress.due(ALL, NOW + 1e9)


@given(st.integers(1, 20), st.lists(st.sampled_from([ValueError(), RetryLater("1s"), RetryLater(), GiveUp()])))
def test_a_listener_runs_at_most_as_often_as_its_policy_says(runs: int, failures: list[Exception]) -> None:
    progress, now, done = _progress(), NOW, 0

    for failure in failures + [ValueError()] * runs:
        if progress.due([A], now):
            done += 1
            progress.fail(A, failure, Retry(runs), now=now, chance=0.5)
        now += 10_000

    assert done <= runs
    assert progress.listeners["a"].status == "dead"
    assert progress.listeners["a"].runs == done


def test_waiting_for_a_subject_is_no_run() -> None:
    progress = _progress()

    again = progress.put_off(A, Reason.SUBJECT_MISSING, NOW, patience=3600)

    assert again
    assert progress.listeners["a"] == ListenerProgress("due", 0, NOW + 1.0)


def test_a_subject_is_not_waited_for_longer_than_a_minute() -> None:
    progress = _progress(a=ListenerProgress("due", 2))
    progress.waiting["subject-missing"] = NOW - 60

    assert not progress.put_off(A, Reason.SUBJECT_MISSING, NOW, patience=3600)


def test_a_stop_skips_the_later_listeners_for_good_but_hides_no_dead_one() -> None:
    progress = _progress(b=ListenerProgress("due", 1), c=ListenerProgress("dead", 5, why="retries-exhausted"))

    progress.finish(A)
    progress.stop([B, C])

    assert progress.due([*ALL, _listener("new")], NOW + 1e9) == []
    outcome = progress.conclude(ALL, NOW)
    assert isinstance(outcome, DeadLetter)
    assert outcome.error.startswith("c: ")


# --- renamed listeners -----------------------------------------------------------------------------


def test_a_renamed_listener_knows_what_it_did_under_its_earlier_id() -> None:
    progress = _progress(old=ListenerProgress("due", 2, NOW + 5))

    progress.adopt_aliases([_listener("new", "older", "old")])

    assert progress == _progress(new=ListenerProgress("due", 2, NOW + 5))


@pytest.mark.parametrize(("old", "new"), [("done", "due"), ("due", "done"), ("done", "done"), ("dead", "done")])
def test_what_is_done_under_either_id_is_done(old: str, new: str) -> None:
    progress = _progress(old=ListenerProgress(old), new=ListenerProgress(new))  # type: ignore[arg-type]

    progress.adopt_aliases([_listener("new", "old")])

    assert progress.listeners.keys() == {"new"}
    assert progress.listeners["new"].status == "done"


def test_a_renamed_listener_that_ran_under_both_ids_goes_on_under_the_new_one() -> None:
    progress = _progress(old=ListenerProgress("dead", 5), new=ListenerProgress("due", 1))

    progress.adopt_aliases([_listener("new", "old")])

    assert progress == _progress(new=ListenerProgress("due", 1))


# --- how a delivery ends ---------------------------------------------------------------------------


@given(decided, st.booleans())
def test_a_delivery_is_done_only_when_all_is_done_and_dead_only_when_nothing_is_due(
    progress: Progress,
    patience_left: bool,  # noqa: FBT001
) -> None:
    patience = 1e6 if patience_left else 0.0

    outcome = progress.conclude(ALL, NOW, patience=patience)

    mine = {key: each for key, each in progress.listeners.items() if key != "gone"}
    dues = [max(0.0, each.due - NOW) for each in mine.values() if each.status == "due"]
    unbegun = [] if progress.stopped else [0.0 for name in "abc" if name not in mine]
    vanished = [1.0] if "gone" in progress.listeners and progress.listeners["gone"].status == "due" else []
    if dues or unbegun or vanished:
        assert isinstance(outcome, Nack)
        assert outcome.delay == min(dues + unbegun + vanished)
        assert outcome.state is not None
        assert loaded(outcome.state) == progress
    elif any(each.status == "dead" for each in progress.listeners.values()):
        assert isinstance(outcome, DeadLetter)
        for key, each in progress.listeners.items():
            assert (f"{key}: {each.why} after" in outcome.error) == (each.status == "dead")
    else:
        assert outcome == Ack()


def test_a_vanished_listener_is_waited_for_and_then_named_in_the_dead_letter() -> None:
    progress = _progress(a=ListenerProgress("done"), gone=ListenerProgress("due", 1, NOW))

    first = progress.conclude([A], NOW)
    last = progress.conclude([A], NOW + 3600)

    assert isinstance(first, Nack)
    assert isinstance(last, DeadLetter)
    assert last.reason == Reason.LISTENER_MISSING
    assert last.error.startswith("gone: listener-missing after 1 run")


def test_a_vanished_listener_is_the_error_and_its_earlier_failure_the_history() -> None:
    progress = _progress(gone=ListenerProgress("due", 1, NOW, error="ConnectionError: refused"))
    progress.raised = {"gone": Raised("ConnectionError")}

    last = progress.conclude([A], NOW, patience=0.0)
    assert isinstance(last, Nack), "another listener here has not begun"
    progress.listeners["a"] = ListenerProgress("done")
    last = progress.conclude([A], NOW, patience=0.0)

    assert isinstance(last, DeadLetter)
    (failure,) = last.failures
    assert (failure.listener, failure.kind, failure.reason) == ("gone", "", "listener-missing")
    assert failure.error == (
        'no worker has this listener; if it was renamed, write @relevo.listener(…, aliases=["gone"]) above the '
        "function; its last failure: ConnectionError: refused"
    )


def test_a_vanished_listener_that_came_back_is_waited_for_anew_when_it_vanishes_again() -> None:
    progress = _progress(a=ListenerProgress("due", 1, NOW + 9999), b=ListenerProgress("done"))

    progress.conclude([B], NOW)
    progress.conclude([A, B], NOW + 10)

    assert progress.waiting == {}


def test_no_long_traceback_hides_that_another_listener_died() -> None:
    progress = _progress(**{name: ListenerProgress("dead", 1, why="gave-up") for name in "abc"})
    progress.raised = {name: Raised("ValueError", name * 100_000) for name in "abc"}

    outcome = progress.conclude(ALL, NOW)

    assert isinstance(outcome, DeadLetter)
    assert len(outcome.error.encode()) <= MAX_ERROR
    for name in "abc":
        assert f"{name}: gave-up after 1 run\n{name * 100}" in outcome.error
        assert name * 100 in outcome.error[outcome.error.rindex(name * 100) :]


# --- failures as data ------------------------------------------------------------------------------


def _raised(error: Exception) -> Exception:
    """Return *error* with a traceback."""

    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        fail()
    return caught.value


def _entry(outcome: DeadLetter, *, kept: bytes = b"") -> DeadLetterEntry:
    delivery = _delivery()
    return DeadLetterEntry(
        ref="1",
        queue="default",
        envelope=delivery.envelope,
        reason=outcome.reason,
        error=outcome.error,
        state=outcome.state or kept,
        attempt=1,
        lost_leases=0,
        enqueued_at=NOW,
        died_at=NOW,
    )


def _died(*errors: Exception) -> tuple[Progress, DeadLetter]:
    """Return how an event ends of which the listeners raised *errors*, and give up at once."""
    progress = _progress()
    for listener, error in zip(ALL, errors, strict=False):
        progress.fail(listener, _raised(error), Retry(1), now=NOW, chance=0.0)
    outcome = progress.conclude(ALL[: len(errors)], NOW)
    assert isinstance(outcome, DeadLetter)
    return progress, outcome


def test_a_failure_says_who_failed_of_what_and_when_it_is_run_again() -> None:
    failure = _progress().fail(A, _raised(ValueError("no\nimage")), POLICY, now=NOW, chance=0.0)

    assert (failure.listener, failure.attempt) == ("a", 1)
    assert (failure.kind, failure.error) == ("ValueError", "ValueError: no image")
    assert (failure.reason, failure.due) == ("", NOW + 10)
    assert failure.traceback.startswith("Traceback")
    assert failure.traceback.endswith("ValueError: no\nimage")


@pytest.mark.parametrize(
    ("error", "reason"), [(ValueError("no"), Reason.RETRIES_EXHAUSTED), (GiveUp("never"), Reason.GAVE_UP)]
)
def test_the_last_failure_says_that_the_listener_is_not_run_again_and_why(error: Exception, reason: Reason) -> None:
    failure = _progress().fail(A, _raised(error), Retry(1), now=NOW, chance=0.0)

    assert (failure.reason, failure.due) == (reason, None)


def test_a_dead_letter_holds_the_failure_of_each_dead_listener() -> None:
    _, outcome = _died(ValueError("one"), KeyError("two"))

    assert [(each.listener, each.kind, each.reason) for each in outcome.failures] == [
        ("a", "ValueError", Reason.RETRIES_EXHAUSTED),
        ("b", "KeyError", Reason.RETRIES_EXHAUSTED),
    ]
    assert all(each.traceback in outcome.error for each in outcome.failures)


def test_what_a_dead_letter_died_of_comes_back_from_its_state() -> None:
    _, outcome = _died(ValueError("one"), KeyError("two"))

    assert failures_of(_entry(outcome)) == outcome.failures


def test_a_listener_that_died_at_an_earlier_hand_over_keeps_its_traceback() -> None:
    progress = _progress()
    progress.fail(A, _raised(ValueError("one")), Retry(1), now=NOW, chance=0.0)
    progress.fail(B, _raised(ValueError("two")), Retry(2), now=NOW, chance=0.0)
    first = progress.conclude([A, B], NOW)
    assert isinstance(first, Nack)
    assert first.state is not None

    later = loaded(first.state)
    later.finish(B)
    outcome = later.conclude([A, B], NOW + 9999)

    assert isinstance(outcome, DeadLetter)
    (failure,) = outcome.failures
    assert failure.traceback.endswith("ValueError: one")
    assert failure.traceback in outcome.error


def test_only_the_dead_have_a_traceback_in_the_state() -> None:
    progress = _progress()

    progress.fail(A, _raised(ValueError("one")), Retry(2), now=NOW, chance=0.0)

    assert progress.raised == {A.id: Raised("ValueError")}
    assert b"Traceback" not in dumped(progress)


def test_what_a_listener_raised_is_forgotten_when_it_has_succeeded_or_died_of_something_else() -> None:
    progress = _progress()
    progress.fail(A, _raised(ValueError("one")), Retry(2), now=NOW, chance=0.0)
    progress.fail(B, _raised(ValueError("two")), Retry(2), now=NOW, chance=0.0)

    before = setbacks_of(dumped(progress))
    progress.finish(A)
    progress.give_up(B, Reason.SUBJECT_MISSING, "gone")

    assert [(each.listener, each.kind, each.error) for each in before] == [
        (A.id, "ValueError", "ValueError: one"),
        (B.id, "ValueError", "ValueError: two"),
    ]
    assert [(each.listener, each.kind, each.error) for each in setbacks_of(dumped(progress))] == [(B.id, "", "gone")]


def test_a_listener_in_a_crash_loop_did_not_die_of_what_it_raised_before() -> None:
    progress = _progress()
    progress.fail(A, _raised(ValueError("one")), Retry(2), now=NOW, chance=0.0)

    (failure,) = setbacks_of(blamed(dumped(progress), A.id, "3 processes died"))

    assert (failure.reason, failure.kind, failure.error) == (Reason.CRASH_LOOP, "", "3 processes died")


def test_the_listener_in_a_crash_loop_is_named_before_one_that_had_failed_for_good() -> None:
    progress = _progress()
    progress.fail(A, _raised(ValueError("one")), Retry(1), now=NOW, chance=0.0)
    letter = DeadLetter(reason=Reason.CRASH_LOOP, error="3 processes died")

    failures = failures_of(_entry(letter, kept=blamed(dumped(progress), B.id, "3 processes died")))

    assert [(each.listener, each.reason) for each in failures] == [
        (B.id, Reason.CRASH_LOOP),
        (A.id, Reason.RETRIES_EXHAUSTED),
    ]


def test_a_listener_that_failed_and_is_skipped_since_another_one_stopped_the_event_has_no_setback() -> None:
    progress = _progress()
    progress.fail(B, _raised(ValueError("one")), Retry(2), now=NOW, chance=0.0)
    progress.finish(A)
    progress.stop([B])

    assert setbacks_of(dumped(progress)) == ()


failed = st.builds(
    Failure,
    listener=st.sampled_from(["a", "b", "c"]),
    error=st.sampled_from(["", "one", "two"]),
    due=st.none() | st.floats(NOW, NOW + 100),
)


@given(st.lists(failed))
@example([Failure(listener="a", error="one", due=NOW + 9), Failure(listener="b", error="two", due=NOW)])
@example([Failure(listener="a", error="one"), Failure(listener="b", error="two", due=NOW)])
def test_the_foremost_failure_is_that_of_the_listener_that_runs_next(failures: list[Failure]) -> None:
    found = foremost(failures)

    explained = [each for each in failures if each.error]
    due = [each for each in explained if each.due is not None]
    if not explained:
        assert found is None
    elif not due:
        assert found is explained[0]
    else:
        assert found in due
        assert found.due == min(each.due for each in due if each.due is not None)


def test_an_unusable_state_has_no_setbacks() -> None:
    assert setbacks_of(b"\xff") == setbacks_of(b" " * (MAX_STATE + 1)) == ()


@pytest.mark.parametrize("reason", [Reason.EXPIRED, Reason.CRASH_LOOP])
def test_a_dead_letter_of_another_reason_did_not_die_of_an_earlier_failure(reason: Reason) -> None:
    _, earlier = _died(ValueError("one"))
    later = DeadLetter(reason=reason, error="another")

    assert failures_of(_entry(later, kept=earlier.state or b"")) == (Failure(reason=reason, error="another"),)


@pytest.mark.parametrize(
    "state",
    [b"", b"\xff", b'{"v":99}', b'{"v":1,"listeners":{"a":["dead",1,0.0,"gave-up"]}}' + b" " * MAX_STATE],
    ids=["none", "no state", "newer", "too long"],
)
def test_a_dead_letter_whose_state_cannot_be_read_has_its_reason_and_its_error(state: bytes) -> None:
    dead = DeadLetter(reason="gave-up", error="a: gave-up after 1 run", state=state)

    assert failures_of(_entry(dead)) == (Failure(reason="gave-up", error="a: gave-up after 1 run"),)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40_000), min_size=1, max_size=3))
def test_tracebacks_are_shortened_until_the_state_fits_and_nothing_else_is(texts: list[str]) -> None:
    progress = _progress(**{name: ListenerProgress("dead", 1, why="gave-up", error="ValueError") for name in "abc"})
    progress.raised = {name: Raised("ValueError", text) for name, text in zip("abc", texts, strict=False)}

    state = dumped(progress)

    assert len(state) <= MAX_STATE - SEAL
    assert loaded(state).listeners == progress.listeners
    if len(msgspec.json.encode(progress)) <= MAX_STATE - 2 * SEAL:
        assert loaded(state) == progress


def test_a_shortened_traceback_keeps_its_end() -> None:
    progress = _progress(a=ListenerProgress("dead", 1, why="gave-up", error="ValueError: no"))
    progress.raised = {"a": Raised("ValueError", "x" * 100_000 + "ValueError: no")}

    kept = loaded(dumped(progress)).raised["a"]

    assert kept.kind == "ValueError"
    assert kept.traceback.endswith("xValueError: no")
    assert len(kept.traceback) > 4000


class _EarlierProgress(msgspec.Struct, omit_defaults=True):
    """A progress as releases read and write it that do not keep what was raised."""

    v: int
    listeners: dict[str, ListenerProgress] = {}
    waiting: dict[str, float] = {}
    stopped: bool = False


def test_an_earlier_release_reads_the_state_and_this_one_what_that_makes_of_it() -> None:
    progress, outcome = _died(ValueError("one"))
    assert outcome.state is not None

    earlier = msgspec.json.decode(outcome.state, type=_EarlierProgress)
    again = loaded(msgspec.json.encode(earlier))

    assert earlier.listeners == progress.listeners
    assert (again.listeners, again.raised) == (progress.listeners, {})
    assert [(each.listener, each.error, each.kind) for each in again.failures()] == [("a", "ValueError: one", "")]


def test_what_a_renamed_listener_raised_moves_with_it() -> None:
    progress = _progress(old=ListenerProgress("dead", 1, why="gave-up"))
    progress.raised = {"old": Raised("ValueError", "Traceback")}

    progress.adopt_aliases([_listener("new", "old")])

    assert progress.raised == {"new": Raised("ValueError", "Traceback")}


def test_a_revived_event_has_raised_nothing_yet() -> None:
    _, outcome = _died(ValueError("one"))

    assert loaded(revived(outcome.state or b"")).raised == {}


# --- steps ---------------------------------------------------------------------------------------------


def test_a_renamed_listener_keeps_its_steps() -> None:
    progress = Progress(STATE_VERSION)
    progress.finished_by(_listener("old")).steps["resize"] = msgspec.Raw(b"null")
    renamed = _listener("new", "old")

    progress.adopt_aliases([renamed])

    assert progress.finished_by(renamed).steps.keys() == {"resize"}
    assert progress.finished.keys() == {"new"}


def test_what_a_listener_finished_is_stored_until_it_is_done() -> None:
    progress = Progress(STATE_VERSION)
    progress.finished_by(A).steps["resize"] = msgspec.Raw(b'"small"')

    back = loaded(dumped(progress))
    missing = back.missing([])  # a worker without this listener waits for one that has it
    steps = dict(back.finished_by(A).steps)
    back.finish(A)

    assert missing == ["a"]
    assert steps == {"resize": msgspec.Raw(b'"small"')}
    assert back.finished == {}
