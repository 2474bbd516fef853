"""The phases of a receiver: the table, and each step that it allows."""

from __future__ import annotations

from itertools import product

import attrs
import pytest

from relevo_amqp._phase import (
    CLEAR_WITHIN,
    LOOK_EVERY,
    MAX_STALLS,
    TRANSITIONS,
    TURN,
    Observation,
    Phase,
    ReceiverState,
    Step,
    Trigger,
    longest_wait,
    next_step,
)

NOW, PAST, FUTURE = 100.0, 99.5, 100.1
TIMES = (PAST, FUTURE)
BOTH = (False, True)

STATES = [
    ReceiverState(phase=phase, look_at=look_at, turn_ends_at=ends_at, clear_until=clear_until, retry_at=retry_at)
    for phase, look_at, ends_at, clear_until, retry_at in product(Phase, TIMES, TIMES, TIMES, TIMES)
]
OBSERVATIONS = [
    Observation(
        now=NOW, deadline=deadline, arrived=arrived, set_apart=set_apart, held=held, blocked=blocked, empty=empty
    )
    for deadline, arrived, set_apart, held, blocked, empty in product(TIMES, BOTH, BOTH, BOTH, BOTH, BOTH)
]
EVERYTHING = list(product(STATES, OBSERVATIONS))

IDLE = Observation(now=NOW, deadline=FUTURE)
CONSUMING = ReceiverState(look_at=FUTURE)
SUSPECTS = ReceiverState(phase=Phase.SUSPECTS, turn_ends_at=FUTURE)
CLEARING = ReceiverState(phase=Phase.CLEARING, turn_ends_at=FUTURE, clear_until=FUTURE)


@pytest.mark.parametrize(
    ("state", "seen", "step"),
    [
        (CONSUMING, {}, Step.WAIT),
        (CONSUMING, {"arrived": True}, Step.HAND_OUT),
        (CONSUMING, {"arrived": True, "set_apart": True}, Step.MOVE),
        (CONSUMING, {"arrived": True, "set_apart": True, "blocked": True}, Step.HAND_OUT),
        (CONSUMING, {"set_apart": True, "blocked": True}, Step.WAIT),
        (CONSUMING, {"deadline": NOW}, Step.ASK),
        (CONSUMING, {"deadline": NOW, "empty": True}, Step.RETURN),
        (CONSUMING, {"held": True}, Step.WAIT),
        (ReceiverState(look_at=NOW), {}, Step.LOOK),
        (ReceiverState(look_at=NOW), {"deadline": NOW, "empty": True}, Step.LOOK),
        (ReceiverState(look_at=NOW), {"blocked": True}, Step.WAIT),
        (ReceiverState(look_at=NOW, retry_at=FUTURE), {}, Step.WAIT),
        (SUSPECTS, {}, Step.HAND_OUT_SUSPECT),
        (SUSPECTS, {"deadline": NOW}, Step.HAND_OUT_SUSPECT),
        (SUSPECTS, {"arrived": True}, Step.HAND_OUT),
        (SUSPECTS, {"set_apart": True}, Step.MOVE),
        (SUSPECTS, {"held": True}, Step.CLEAR),
        (SUSPECTS, {"blocked": True}, Step.END_TURN),
        (attrs.evolve(SUSPECTS, turn_ends_at=NOW), {}, Step.END_TURN),
        (attrs.evolve(SUSPECTS, turn_ends_at=NOW), {"held": True}, Step.CLEAR),
        (attrs.evolve(SUSPECTS, retry_at=FUTURE), {}, Step.END_TURN),
        (CLEARING, {"held": True}, Step.WAIT),
        (CLEARING, {"held": True, "deadline": NOW}, Step.RETURN),
        (CLEARING, {"held": True, "blocked": True}, Step.END_TURN),
        (CLEARING, {}, Step.HAND_OUT_SUSPECT),
        (attrs.evolve(CLEARING, clear_until=NOW), {"held": True}, Step.HAND_OUT_SUSPECT),
        (attrs.evolve(CLEARING, clear_until=NOW, turn_ends_at=NOW), {"held": True}, Step.END_TURN),
        (attrs.evolve(CLEARING, turn_ends_at=NOW), {"held": True}, Step.WAIT),
    ],
)
def test_what_is_seen_decides_the_next_step(state: ReceiverState, seen: dict[str, bool], step: Step) -> None:
    assert next_step(state, attrs.evolve(IDLE, **seen)) is step


def test_nothing_is_moved_looked_for_or_handed_out_as_a_suspect_while_the_server_refuses() -> None:
    for state, seen in EVERYTHING:
        if seen.blocked or state.retry_at > NOW:
            assert next_step(state, seen) not in (Step.MOVE, Step.LOOK, Step.HAND_OUT_SUSPECT), (state, seen)


def test_a_suspect_is_handed_out_alone_or_after_everything_else_had_its_time() -> None:
    for state, seen in EVERYTHING:
        if next_step(state, seen) is Step.HAND_OUT_SUSPECT:
            assert not seen.arrived, (state, seen)
            assert not seen.held or (state.phase is Phase.CLEARING and state.clear_until <= NOW), (state, seen)
            assert state.turn_ends_at > NOW, (state, seen)


def test_what_arrived_is_never_left_for_a_wait_or_an_empty_answer() -> None:
    for state, seen in EVERYTHING:
        if seen.arrived:
            assert next_step(state, seen) in (Step.HAND_OUT, Step.MOVE), (state, seen)


def test_a_call_neither_waits_past_its_deadline_nor_gives_up_before_it() -> None:
    for state, seen in EVERYTHING:
        step = next_step(state, seen)
        if step is Step.WAIT:
            assert 0.0 < longest_wait(state, seen) <= seen.deadline - NOW, (state, seen)
        if step in (Step.ASK, Step.RETURN):
            assert seen.deadline <= NOW, (state, seen)


CHANGES = {
    Step.CLEAR: Trigger.HELD,
    Step.HAND_OUT_SUSPECT: Trigger.HANDED_OUT,
    Step.END_TURN: Trigger.ENDED,
}


def test_each_step_that_changes_the_phase_is_in_the_table() -> None:
    reached = {(state.phase, next_step(state, seen)) for state, seen in EVERYTHING}

    taken = {(phase, CHANGES[step]) for phase, step in reached if step in CHANGES}
    found = {(phase, Trigger.FOUND) for phase, step in reached if step is Step.LOOK}
    ended = {(phase, Trigger.ENDED) for phase, step in reached if step is Step.HAND_OUT_SUSPECT}  # there was none
    assert taken | found | ended == set(TRANSITIONS)


def test_no_state_is_left_in_a_circle_without_a_wait_or_an_answer() -> None:
    for first, first_seen in EVERYTHING:
        state, seen, steps = first, first_seen, []
        while (step := next_step(state, seen)) not in (Step.WAIT, Step.RETURN, Step.HAND_OUT, Step.HAND_OUT_SUSPECT):
            steps.append(step)
            assert len(steps) < 6, (first, first_seen, steps)
            match step:
                case Step.MOVE:
                    state, seen = state.moved(), attrs.evolve(seen, set_apart=False)
                case Step.LOOK:
                    state = state.looked(NOW)
                case Step.ASK:
                    seen = attrs.evolve(seen, empty=True)
                case _:
                    state = state.after(CHANGES[step], NOW)


def test_a_turn_of_the_suspects_lasts_for_its_time_however_many_are_handed_out() -> None:
    state = ReceiverState().after(Trigger.FOUND, NOW)
    state = state.after(Trigger.HANDED_OUT, NOW + TURN - 0.1)

    assert next_step(state, attrs.evolve(IDLE, now=NOW + TURN - 0.1)) is Step.HAND_OUT_SUSPECT
    assert next_step(state, attrs.evolve(IDLE, now=NOW + TURN)) is Step.END_TURN


def test_each_suspect_waits_afresh_for_what_is_held() -> None:
    state = SUSPECTS.after(Trigger.HELD, NOW)
    held = attrs.evolve(IDLE, now=NOW + CLEAR_WITHIN, deadline=NOW + TURN, held=True)
    assert next_step(attrs.evolve(state, turn_ends_at=NOW + TURN), held) is Step.HAND_OUT_SUSPECT

    state = attrs.evolve(state.after(Trigger.HANDED_OUT, held.now), turn_ends_at=NOW + TURN)

    assert next_step(state, held) is Step.CLEAR
    assert next_step(state.after(Trigger.HELD, held.now), held) is Step.WAIT


def test_the_next_look_is_due_after_a_move_and_else_after_a_second() -> None:
    looked = ReceiverState().looked(NOW)

    assert next_step(looked, IDLE) is Step.WAIT
    assert next_step(looked, attrs.evolve(IDLE, now=NOW + LOOK_EVERY)) is Step.LOOK
    assert next_step(looked.moved(), IDLE) is Step.LOOK
    assert next_step(SUSPECTS.after(Trigger.ENDED, NOW), IDLE) is Step.WAIT


def test_pauses_after_refusals_grow_to_a_limit_and_start_over_once_the_server_accepts() -> None:
    state, pauses = ReceiverState(), []
    for _ in range(6):
        state = state.refused(NOW, blocked=False)
        pauses.append(state.retry_at - NOW)

    assert pauses == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    assert state.refused(NOW, blocked=True).retry_at == NOW  # an alarm ends by itself
    assert state.resubscribed().refusals == state.refusals
    assert state.accepted().refused(NOW, blocked=False).retry_at == NOW + 1.0


def test_a_server_that_has_events_ready_and_brings_none_is_given_up_after_some_questions() -> None:
    state = ReceiverState()
    for _ in range(MAX_STALLS - 1):
        state = state.asked(stalled=True)

    assert not state.is_stuck
    assert not state.asked(stalled=False).asked(stalled=True).is_stuck
    assert state.asked(stalled=True).is_stuck
