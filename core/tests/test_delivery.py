from __future__ import annotations

import attrs
import pytest
from hypothesis import given, strategies as st

from relevo import (
    TRANSITIONS,
    Ack,
    Action,
    Counters,
    DeadLetter,
    Delivery,
    Envelope,
    ForbiddenTransitionError,
    Lost,
    Nack,
    Note,
    Release,
    State,
    Unreadable,
    action_of,
    after,
)
from relevo.backend import made_delivery

ENDS = {State.DONE, State.GONE}


def test_a_delivery_that_is_made_quickly_is_the_same() -> None:
    envelope = Envelope(id="1", source="shop", name="a.b", body=b"{}")
    note = Note(by="a process")
    delivery = Delivery(
        envelope=envelope,
        queue="feed",
        attempt=2,
        lost_leases=3,
        begun=note,
        deaths=("a process",),
        receipt=("a", "receipt"),
        state=b"{}",
        enqueued_at=1.5,
    )
    fields = attrs.asdict(delivery, recurse=False)

    made = made_delivery(**fields)

    assert attrs.asdict(made, recurse=False) == fields
    assert type(made) is Delivery
    assert repr(made) == repr(delivery)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.attempt = 1  # type: ignore[misc]


def test_every_state_is_reached_from_a_new_event_and_every_action_leads_somewhere() -> None:
    reached = {State.READY, State.SCHEDULED}
    while more := {to for (state, _), to in TRANSITIONS.items() if state in reached} - reached:
        reached |= more

    assert reached == set(State)
    assert {action for _, action in TRANSITIONS} == set(Action)


def test_done_and_gone_are_the_only_ends_and_gone_needs_a_command() -> None:
    assert set(State) - {state for state, _ in TRANSITIONS} == ENDS
    assert {action for (_, action), to in TRANSITIONS.items() if to is State.GONE} == {Action.DISCARD, Action.CANCEL}
    assert {action for (_, action), to in TRANSITIONS.items() if to is State.DONE} == {Action.ACK}


def test_from_every_state_but_the_ends_an_event_can_still_be_done() -> None:
    saved = {State.DONE}
    while more := {state for (state, _), to in TRANSITIONS.items() if to in saved} - saved:
        saved |= more

    assert saved == set(State) - {State.GONE}


def test_nobody_takes_out_what_somebody_holds() -> None:
    assert not {(State.LEASED, Action.CANCEL), (State.LEASED, Action.RECEIVE)} & TRANSITIONS.keys()


@given(st.sampled_from(State), st.sampled_from(Action))
def test_what_the_table_does_not_say_is_forbidden(state: State, action: Action) -> None:
    if (state, action) in TRANSITIONS:
        assert after(state, action) is TRANSITIONS[state, action]
    else:
        with pytest.raises(ForbiddenTransitionError, match=f"a delivery that is {state} cannot {action}"):
            after(state, action)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[State.DONE, Action.REVIVE] = State.READY  # type: ignore[index]


@given(st.lists(st.sampled_from(Action)))
def test_only_a_nack_or_a_loss_uses_an_attempt_up_and_only_a_loss_counts_as_one(actions: list[Action]) -> None:
    counters = Counters()
    for action in actions:
        counters = counters.after(action)

    lived = actions[max((i + 1 for i, action in enumerate(actions) if action is Action.REVIVE), default=0) :]
    assert counters.lost_leases == lived.count(Action.LOSE)
    assert counters.attempt == 1 + lived.count(Action.NACK) + lived.count(Action.LOSE)


@pytest.mark.parametrize("outcome", [Ack(), Nack(), DeadLetter(reason="tested"), Release(), Lost()])
def test_every_outcome_is_a_step_of_what_is_leased(outcome: Ack | Nack | DeadLetter | Release | Lost) -> None:
    assert (State.LEASED, action_of(outcome)) in TRANSITIONS


def _delivery(envelope: Envelope | Unreadable) -> Delivery:
    return Delivery(envelope=envelope, queue="default", attempt=3, receipt=object(), enqueued_at=0.0)


def test_no_two_deliveries_are_equal_since_each_hand_over_is_its_own() -> None:
    envelope = Envelope(id="1", source="shop", name="image.created", body=b"{}")

    one, same = _delivery(envelope), _delivery(envelope)

    assert one != same
    assert len({one, same}) == 2


def test_a_delivery_says_in_one_line_what_it_carries() -> None:
    envelope = Envelope(id="17", source="shop", name="image.created", body=b"secret")

    shown = repr(_delivery(envelope)), repr(_delivery(Unreadable(raw=b"secret", why="no envelope")))

    assert shown == (
        "<Delivery of image.created 17 from default, attempt 3>",
        "<Delivery of 6 unreadable bytes from default, attempt 3>",
    )
