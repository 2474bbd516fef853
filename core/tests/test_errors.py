from __future__ import annotations

import pickle
from typing import Any

import pytest

from relevo import ForbiddenTransitionError, Subject, errors
from relevo.errors import (
    CodecError,
    CommitUnknownError,
    ConfigurationError,
    DecodeError,
    DuplicateEventError,
    DuplicateListenerError,
    EncodeError,
    EventNameError,
    GiveUp,
    LeaseLostError,
    NotAcceptedError,
    PluginError,
    RelevoError,
    RetryLater,
    RouteNotFoundError,
    SendError,
    SessionError,
    SettleError,
    StepError,
    SubjectError,
    SubjectMissingError,
    TransportClosedError,
    TransportError,
    TransportNotFoundError,
    TransportUnavailableError,
    UnsupportedError,
    did_you_mean,
    shown,
)

EVERY: list[RelevoError] = [
    ConfigurationError("text"),
    TransportNotFoundError("amqp", ["memory", "sql"], distribution="relevo-amqp"),
    PluginError("text"),
    DuplicateEventError("a.b", int, str),
    DuplicateListenerError("x", "a.b"),
    EventNameError(3, "it is int"),
    RouteNotFoundError("a.b", ["image.*"]),
    UnsupportedError("main", "cancel"),
    SessionError("text"),
    SubjectError("text"),
    TransportError("text"),
    TransportUnavailableError("main", "refused"),
    CommitUnknownError("main", "the commit failed"),
    TransportClosedError("main"),
    LeaseLostError("main", "delivery"),
    SendError("main", sent=[0], refused=[1, 2], unknown=[3], why="it broke"),
    SettleError("main", lost=["a"], unsettled=["b"], why="it broke"),
    CodecError("text"),
    EncodeError("a.b", "$.a", "is not JSON"),
    DecodeError("text"),
    ForbiddenTransitionError("ready", "ack"),
    NotAcceptedError("a.b", "main/media", ["image.*"], key="media"),
    SubjectMissingError(Subject("image", "7")),
    StepError("process", "resize", "its name is taken"),
]


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_an_error_survives_a_journey_with_its_text_and_attributes(error: RelevoError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own

    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.__dict__ == error.__dict__


@pytest.mark.parametrize("steering", [RetryLater(), RetryLater("5m", "busy"), GiveUp(), GiveUp("no use")])
def test_steering_survives_a_journey(steering: Any) -> None:
    again = pickle.loads(pickle.dumps(steering))  # noqa: S301 - our own

    assert (type(again), str(again), again.__dict__) == (type(steering), str(steering), steering.__dict__)


def test_every_error_has_an_example_here_and_says_who_must_act() -> None:
    classes = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, RelevoError)}

    assert {type(error) for error in EVERY} - {ForbiddenTransitionError} == classes - {RelevoError}
    for cls in classes - {RelevoError}:
        acts = sum(issubclass(cls, whose) for whose in (ConfigurationError, TransportError, CodecError))
        assert acts == (cls is not SubjectMissingError), "it only steers: the worker waits for the subject"


@pytest.mark.parametrize(
    "error, text",
    [
        (EVERY[1], 'no transport for "amqp"; available: memory, sql; install "relevo-amqp"'),
        (
            TransportNotFoundError("sqlit", ["sql", "sqlite"]),
            'no transport for "sqlit"; available: sql, sqlite; did you mean "sqlite"?',
        ),
        (TransportNotFoundError("x", []), 'no transport for "x"; available: none'),
        (EVERY[15], 'the transport "main" could not confirm every event: 1 sent, 2 refused, 1 unknown: it broke'),
        (EVERY[6], 'no route for "a.b"; routes: "image.*"; add one under [routes], for example "*" = "main"'),
        (EVERY[18], 'the event "a.b" cannot be sent: $.a: is not JSON'),
        (
            UnsupportedError("q", "take", "it is plain"),
            'the transport "q" cannot handle one given event now (take): it is plain; use a transport that claims it',
        ),
    ],
)
def test_an_error_says_what_where_and_how_to_mend_it(error: RelevoError, text: str) -> None:
    assert str(error) == text


class Rude:
    def __repr__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "value, text",
    [
        ("a\nb", "'a\\nb'"),
        ("\ud800", "'\\ud800'"),
        ("ä", "'\\xe4'"),
        (Rude(), "<Rude>"),
        ("x" * 200, "'" + "x" * 78 + "…"),
        (None, "None"),
    ],
    ids=range(6),
)
def test_values_are_shown_in_one_short_line(value: object, text: str) -> None:
    assert shown(value) == text


def test_the_nearest_name_is_offered_if_one_is_near() -> None:
    assert did_you_mean("sorce", ["source", "app"]) == '; did you mean "source"?'
    assert did_you_mean("zzz", ["source", "app"]) == ""
    assert did_you_mean("a", []) == ""


def test_a_long_path_is_cut_and_kept_whole_beside_its_line() -> None:
    path = "$" + "[0]" * 100

    error = EncodeError("a.b", path, "deeper than 100 levels")

    assert str(error) == f'the event "a.b" cannot be sent: {path[:80]}…: deeper than 100 levels'
    assert error.path == path
