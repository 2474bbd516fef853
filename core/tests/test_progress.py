from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, strategies as st

from relevo import MAX_STATE
from relevo._worker.progress import (
    SEAL,
    STATE_VERSION,
    ListenerProgress,
    NewerStateError,
    Progress,
    StateTooLargeError,
    dumped,
    first_met,
    loaded,
    revived,
)
from relevo.errors import DecodeError

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
def test_the_state_never_takes_more_than_every_transport_keeps(number: int, length: int) -> None:
    progress = Progress(
        STATE_VERSION, listeners={f"{i:0>{length}}": ListenerProgress("due", error="ü" * 100) for i in range(number)}
    )
    listeners = {key: msgspec.structs.replace(each, error="") for key, each in progress.listeners.items()}

    try:
        state = dumped(progress)
    except StateTooLargeError:
        assert len(msgspec.json.encode(Progress(STATE_VERSION, listeners=listeners))) > MAX_STATE - SEAL
    else:
        assert len(state) <= MAX_STATE - SEAL
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
