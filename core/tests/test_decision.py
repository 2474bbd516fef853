from __future__ import annotations

import attrs
import pytest
from hypothesis import given, strategies as st

from relevo import (
    MAX_ERROR,
    Ack,
    DeadLetter,
    Delivery,
    Envelope,
    GiveUp,
    Listener,
    Nack,
    Reason,
    Retry,
    RetryLater,
    Unreadable,
)
from relevo._listener.listener import Mark
from relevo._worker import decision
from relevo._worker.progress import STATE_VERSION, ListenerProgress, Progress, loaded
from relevo.errors import described

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
progresses = st.builds(
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


# --- what is refused unseen ------------------------------------------------------------------------


def _delivery(*, lost_leases: int = 0, **fields: object) -> Delivery:
    envelope = Envelope(id="1", source="shop", name="image.created", body=b"{}", **fields)  # type: ignore[arg-type]
    return Delivery(envelope=envelope, queue="default", lost_leases=lost_leases, receipt=object(), enqueued_at=NOW)


def test_a_sound_delivery_is_not_refused() -> None:
    assert decision.refusal(_delivery(lost_leases=2, expires=NOW + 0.001), NOW) is None


def test_lost_leases_alone_are_no_reason_to_refuse() -> None:
    assert decision.refusal(_delivery(lost_leases=300), NOW) is None


def test_an_expired_event_is_refused_at_the_very_second() -> None:
    refused = decision.refusal(_delivery(expires=NOW), NOW)

    assert refused is not None
    assert refused.reason == Reason.EXPIRED


def test_bytes_that_are_no_envelope_are_refused_with_why() -> None:
    unreadable = attrs.evolve(_delivery(), envelope=Unreadable(raw=b"\xff", why="no \0 envelope"))

    refused = decision.refusal(unreadable, NOW)

    assert refused == DeadLetter(reason=Reason.UNREADABLE, error="no \\0 envelope")


# --- patience --------------------------------------------------------------------------------------


@given(st.floats(1, 7200), st.floats(0, 0.5))
def test_patience_ends_when_it_said_and_not_before(patience: float, early: float) -> None:
    progress, now, waits = _progress(), NOW, []

    while isinstance(outcome := decision.patient(progress, "unknown-event", now, detail="?", patience=patience), Nack):
        assert 0 < outcome.delay <= 60.0
        waits.append(outcome.delay)
        now += outcome.delay

    assert isinstance(outcome, DeadLetter)
    assert now - NOW == pytest.approx(patience, abs=0.002)
    assert now - NOW >= patience
    assert len(waits) <= 8 + patience / 60


def test_patience_is_counted_from_the_first_hand_over_that_met_the_reason() -> None:
    progress = _progress()
    decision.patient(progress, "unknown-event", NOW, detail="?")

    assert isinstance(decision.patient(progress, "newer-version", NOW + 3599, detail="?"), Nack)
    assert isinstance(decision.patient(progress, "unknown-event", NOW + 3599, detail="?"), Nack)
    assert isinstance(decision.patient(progress, "unknown-event", NOW + 3600, detail="?"), DeadLetter)


def test_the_time_of_the_first_meeting_travels_with_the_event() -> None:
    outcome = decision.patient(_progress(), "unknown-event", NOW, detail="?")

    assert isinstance(outcome, Nack)
    assert outcome.state is not None
    assert loaded(outcome.state).waiting == {"unknown-event": NOW}


def test_a_reason_that_was_overcome_is_waited_for_anew() -> None:
    progress = _progress()
    decision.patient(progress, "unknown-event", NOW, detail="?")

    decision.overcome(progress, "unknown-event", "newer-version")

    assert isinstance(decision.patient(progress, "unknown-event", NOW + 9999, detail="?"), Nack)


def test_no_patience_means_at_once() -> None:
    outcome = decision.patient(_progress(), "unknown-event", NOW, detail="no listener", patience=0.0)

    assert outcome == DeadLetter(reason="unknown-event", error="no listener", state=outcome.state)  # type: ignore[union-attr]


def test_a_missing_subject_is_waited_for_a_minute_even_when_patience_is_longer() -> None:
    assert decision.waiting(_progress(), Reason.SUBJECT_MISSING, NOW, patience=3600) == 1.0
    later = _progress()
    later.waiting[Reason.SUBJECT_MISSING] = NOW - 60
    assert decision.waiting(later, Reason.SUBJECT_MISSING, NOW, patience=3600) is None


def test_a_state_that_a_newer_release_wrote_waits_from_its_first_meeting_however_old_the_event_is() -> None:
    old = attrs.evolve(_delivery(), enqueued_at=NOW - 1e6, state=b'{"v":2,"later":1}')

    first = decision.patient_unread(old, NOW, detail="newer")
    assert isinstance(first, Nack)
    assert first.state is not None
    patient = decision.patient_unread(attrs.evolve(old, state=first.state), NOW + 3599, detail="newer")
    over = decision.patient_unread(attrs.evolve(old, state=first.state), NOW + 3600, detail="newer")

    assert isinstance(patient, Nack)
    assert over == DeadLetter(reason=Reason.NEWER_VERSION, error="newer", state=None)


# --- which listeners are due -----------------------------------------------------------------------


def test_all_listeners_of_a_new_event_are_due_in_their_order() -> None:
    assert decision.due(_progress(), ALL, NOW) == list(ALL)


@given(progresses)
def test_due_are_exactly_those_that_are_neither_done_nor_dead_nor_waiting_nor_skipped(progress: Progress) -> None:
    found = {listener.id for listener in decision.due(progress, ALL, NOW)}

    for name in "abc":
        mine = progress.listeners.get(name)
        assert (name in found) == (not progress.stopped if mine is None else mine.status == "due" and mine.due <= NOW)


@given(progresses, st.sampled_from(ALL))
def test_a_listener_that_succeeded_is_never_due_again(progress: Progress, listener: Listener) -> None:
    decision.record_done(progress, listener)

    assert listener not in decision.due(progress, ALL, NOW + 1e9)


@given(st.integers(1, 20), st.lists(st.sampled_from([ValueError(), RetryLater("1s"), RetryLater(), GiveUp()])))
def test_a_listener_runs_at_most_as_often_as_its_policy_says(runs: int, failures: list[Exception]) -> None:
    progress, now, done = _progress(), NOW, 0

    for failure in failures + [ValueError()] * runs:
        if decision.due(progress, [A], now):
            done += 1
            decision.record_failure(progress, A, failure, Retry(runs), now=now, chance=0.5)
        now += 10_000

    assert done <= runs
    assert progress.listeners["a"].status == "dead"
    assert progress.listeners["a"].runs == done


def test_waiting_for_a_subject_is_no_run() -> None:
    progress = _progress()

    again = decision.is_waiting(progress, A, Reason.SUBJECT_MISSING, NOW, patience=3600)

    assert again
    assert progress.listeners["a"] == ListenerProgress("due", 0, NOW + 1.0)


def test_a_subject_is_not_waited_for_longer_than_a_minute() -> None:
    progress = _progress(a=ListenerProgress("due", 2))
    progress.waiting["subject-missing"] = NOW - 60

    assert not decision.is_waiting(progress, A, Reason.SUBJECT_MISSING, NOW, patience=3600)


def test_a_stop_skips_the_later_listeners_for_good_but_hides_no_dead_one() -> None:
    progress = _progress(b=ListenerProgress("due", 1), c=ListenerProgress("dead", 5, why="retries-exhausted"))

    decision.record_done(progress, A)
    decision.record_stop(progress, [B, C])

    assert decision.due(progress, [*ALL, _listener("new")], NOW + 1e9) == []
    outcome = decision.conclusion(progress, ALL, NOW, tracebacks={})
    assert isinstance(outcome, DeadLetter)
    assert outcome.error.startswith("c: ")


# --- renamed listeners -----------------------------------------------------------------------------


def test_a_renamed_listener_knows_what_it_did_under_its_earlier_id() -> None:
    progress = _progress(old=ListenerProgress("due", 2, NOW + 5))

    decision.adopt_aliases(progress, [_listener("new", "older", "old")])

    assert progress == _progress(new=ListenerProgress("due", 2, NOW + 5))


@pytest.mark.parametrize(("old", "new"), [("done", "due"), ("due", "done"), ("done", "done"), ("dead", "done")])
def test_what_is_done_under_either_id_is_done(old: str, new: str) -> None:
    progress = _progress(old=ListenerProgress(old), new=ListenerProgress(new))  # type: ignore[arg-type]

    decision.adopt_aliases(progress, [_listener("new", "old")])

    assert progress.listeners.keys() == {"new"}
    assert progress.listeners["new"].status == "done"


def test_a_renamed_listener_that_ran_under_both_ids_goes_on_under_the_new_one() -> None:
    progress = _progress(old=ListenerProgress("dead", 5), new=ListenerProgress("due", 1))

    decision.adopt_aliases(progress, [_listener("new", "old")])

    assert progress == _progress(new=ListenerProgress("due", 1))


# --- how a delivery ends ---------------------------------------------------------------------------


@given(progresses, st.booleans())
def test_a_delivery_is_done_only_when_all_is_done_and_dead_only_when_nothing_is_due(
    progress: Progress,
    patience_left: bool,  # noqa: FBT001
) -> None:
    patience = 1e6 if patience_left else 0.0

    outcome = decision.conclusion(progress, ALL, NOW, tracebacks={}, patience=patience)

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

    first = decision.conclusion(progress, [A], NOW, tracebacks={})
    last = decision.conclusion(progress, [A], NOW + 3600, tracebacks={})

    assert isinstance(first, Nack)
    assert isinstance(last, DeadLetter)
    assert last.reason == Reason.LISTENER_MISSING
    assert last.error.startswith("gone: listener-missing after 1 run")


def test_a_vanished_listener_that_came_back_is_waited_for_anew_when_it_vanishes_again() -> None:
    progress = _progress(a=ListenerProgress("due", 1, NOW + 9999), b=ListenerProgress("done"))

    decision.conclusion(progress, [B], NOW, tracebacks={})
    decision.conclusion(progress, [A, B], NOW + 10, tracebacks={})

    assert progress.waiting == {}


def test_no_long_traceback_hides_that_another_listener_died() -> None:
    progress = _progress(**{name: ListenerProgress("dead", 1, why="gave-up") for name in "abc"})

    outcome = decision.conclusion(progress, ALL, NOW, tracebacks={name: name * 100_000 for name in "abc"})

    assert isinstance(outcome, DeadLetter)
    assert len(outcome.error.encode()) <= MAX_ERROR
    for name in "abc":
        assert f"{name}: gave-up after 1 run\n{name * 100}" in outcome.error
        assert name * 100 in outcome.error[outcome.error.rindex(name * 100) :]


# --- texts -----------------------------------------------------------------------------------------


@given(st.text(st.characters()), st.integers(20, 300))
def test_what_is_sanitised_fits_and_every_store_can_keep_it(text: str, limit: int) -> None:
    clean = decision.sanitised(text, limit=limit)

    assert len(clean.encode()) <= limit
    assert "\0" not in clean
    if len(text) * 6 <= limit:
        assert clean == text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def test_a_long_text_is_cut_in_the_middle_since_the_end_of_a_traceback_says_most() -> None:
    clean = decision.sanitised("head " + "ü" * 20_000 + " tail")

    assert clean.startswith("head ü")
    assert " [...] " in clean
    assert clean.endswith("ü tail")


class _HostileError(Exception):
    def __str__(self) -> str:
        raise SystemExit


class _HostileRepr:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("two\n  lines"), "ValueError: two lines"),
        (ValueError(), "ValueError:"),
        (_HostileError(), "_HostileError: its text cannot be shown"),
        (ValueError(_HostileRepr()), "ValueError: its text cannot be shown"),
    ],
)
def test_an_error_is_described_in_one_line_even_if_it_does_not_want_to(error: Exception, text: str) -> None:
    assert described(error) == text


def test_a_traceback_is_had_of_any_error() -> None:
    def recurse() -> None:
        recurse()

    texts = []
    for fail in (recurse, lambda: 1 / 0):
        try:
            fail()
        except Exception as error:  # noqa: BLE001
            texts.append(decision.traced(error))

    assert texts[0].endswith("RecursionError: maximum recursion depth exceeded")
    assert texts[1].endswith("ZeroDivisionError: division by zero")
    assert "_HostileError" in decision.traced(_HostileError())


class _Hostile(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError


class _NamelessError(Exception, metaclass=_Hostile):
    pass


def test_a_class_that_hides_its_name_cannot_hide_the_error() -> None:
    assert described(_NamelessError("why")) == "_NamelessError: why"
