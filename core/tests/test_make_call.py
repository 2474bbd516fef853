from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

import relevo
from relevo import App, Call, Event, Subject, listener
from relevo._listener.call import DispatchOptions
from relevo.errors import ConfigurationError, EncodeError, RelevoError, SubjectError
from relevo.testing import make_call
from relevo_memory import MemoryTransport


@relevo.event("order.placed", subject="order_id", of="order")
@attrs.frozen
class OrderPlaced:
    order_id: int


@attrs.define
class Order:
    number: int
    is_billed: bool = False


@listener(OrderPlaced)
def bill(event: OrderPlaced, call: Call) -> None:
    call.subject.is_billed = True
    if call.attempt == 1:
        call.dispatch("bill.sent", {"order": event.order_id}, delay="1h")


def test_a_listener_is_called_alone_and_what_it_dispatched_is_recorded() -> None:
    order, call = Order(7), make_call(subject=Order(8))
    assert call.subject == Order(8)

    call = make_call(subject=order)
    bill(OrderPlaced(7), call)
    again = make_call(subject=order, attempt=2, lost_leases=1, queue="feed", event_id="e7")
    bill(OrderPlaced(7), again)

    assert order.is_billed
    assert call.dispatched == [Event("bill.sent", {"order": 7})]
    assert call.dispatch_options == [{"delay": "1h"}]
    assert again.dispatched == []
    assert (again.attempt, again.lost_leases, again.queue, again.event_id) == (2, 1, "feed", "e7")


def test_a_call_has_the_arguments_and_the_subject_of_its_event() -> None:
    call = make_call(Event("order.placed", {"by": "me"}, subject=Order(7)))

    assert (call.arguments, call.subject) == ({"by": "me"}, Order(7))
    assert make_call(OrderPlaced(7)).arguments == {"order_id": 7}
    assert make_call().arguments == {}
    assert make_call().subject is None
    with pytest.raises(SubjectError, match=r"subject order/7, .*: make_call\(…, subject=…\)"):
        make_call(subject=Subject("order", "7")).subject  # noqa: B018 - it is loaded when it is read


def test_a_call_has_the_context_around_it_and_its_own() -> None:
    with relevo.context(user="bob", size=1, correlation_id="request-7"):
        call = make_call(Event("order.placed", {"by": "me"}), context={"size": 2})

    assert call.context == {"user": "bob", "size": 2}
    assert call.arguments == {"user": "bob", "size": 2, "by": "me"}
    assert call.correlation_id == "request-7"
    assert make_call().context == {}
    with pytest.raises(EncodeError, match=r"context\.user"):
        make_call(context={"user": object()})


def test_what_a_real_dispatch_refuses_is_refused() -> None:
    call = make_call()
    misspelt: Any = {"dely": "1h"}

    with pytest.raises(EncodeError, match=r"\$\.order"):
        call.dispatch("bill.sent", {"order": object()})
    with pytest.raises(TypeError, match=r"no option dely=…; .*; did you mean \"delay\""):
        call.dispatch("bill.sent", **misspelt)
    with pytest.raises(ConfigurationError, match="accepts no session"):
        call.dispatch("bill.sent", session=object())
    with pytest.raises(ConfigurationError, match="is not an event"):
        make_call(7)
    assert call.dispatched == []


_TIMES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.floats(),
    st.integers(),
    st.datetimes(timezones=st.none() | st.just(UTC)),
    st.timedeltas(),
    st.sampled_from(["1 parsec", "zzz", "yesterday", "", "1h", "0s", "-1s", -5, 0, 5, True, 10**400, float("nan")]),
)
_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "delay": _TIMES,
        "at": _TIMES,
        "expires": _TIMES,
        "urgency": st.sampled_from(["high", "normal", "low", None, 7]),
        "ordering_key": st.none() | st.text(max_size=3) | st.just("x" * 256) | st.integers(),
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(options=_OPTIONS, event_id=st.sampled_from([None, "e7", "", "x" * 256]))
@example(options={"delay": "1 parsec"}, event_id=None)
@example(options={"delay": -5}, event_id=None)
@example(options={"delay": "1h", "at": "1h"}, event_id=None)
@example(options={"expires": "zzz"}, event_id=None)
@example(options={"at": "yesterday"}, event_id=None)
@example(options={"expires": 1000}, event_id=None)
@example(options={"expires": datetime(2020, 5, 1, tzinfo=UTC)}, event_id=None)
@example(options={"expires": datetime(1999, 5, 1, tzinfo=UTC)}, event_id=None)
@example(options={"expires": datetime(2020, 5, 1, tzinfo=UTC), "delay": "1 parsec"}, event_id=None)
def test_a_recorded_call_refuses_the_options_that_a_dispatch_refuses_in_the_same_words(
    monkeypatch: pytest.MonkeyPatch, options: Any, event_id: str | None
) -> None:
    def refusal(dispatch: Callable[..., object]) -> tuple[type[Exception], str] | None:
        try:
            dispatch(Event("bill.sent", {"order": 7}, id=event_id), **options)
        except RelevoError as error:
            return type(error), str(error)
        return None

    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: 1.8e9)  # the errors say how long ago a moment is
        app = App(transports={"main": MemoryTransport()}, routes={"*": "main"})
        call = make_call()

        expected = refusal(app.dispatch)
        refused = refusal(call.dispatch)

    is_of_today = expected is not None and any(text in expected[1] for text in _OF_TODAY)
    assert refused == expected or (refused is None and is_of_today)
    assert len(call.dispatched) == len(call.dispatch_options) == (1 if refused is None else 0)


_OF_TODAY = ("expires: expected a moment in the future", "expires: the event would expire before it is due")
"""What a dispatch refuses only from a date on, or until a date."""

_DAY = datetime(2031, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize("today", [_DAY - timedelta(days=400), _DAY, _DAY + timedelta(days=4000)])
@pytest.mark.parametrize(
    "options",
    [
        {"expires": _DAY},
        {"expires": _DAY.timestamp()},
        {"delay": "7d", "expires": _DAY},
        {"at": _DAY},
        {"at": _DAY, "expires": _DAY + timedelta(days=1)},
        {"at": _DAY, "expires": "1h"},
        {"at": _DAY.timestamp(), "expires": timedelta(hours=1)},
        {"at": "1h", "expires": _DAY},
    ],
)
def test_a_recorded_call_accepts_a_date_on_every_day(
    today: datetime, options: DispatchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = make_call()

    with monkeypatch.context() as patched:
        patched.setattr(time, "time", today.timestamp)
        call.dispatch("bill.sent", {"order": 7}, **options)

    assert call.dispatch_options == [options]


@pytest.mark.parametrize("today", [_DAY - timedelta(days=400), _DAY + timedelta(days=4000)])
@pytest.mark.parametrize(
    "options",
    [
        {"expires": "-1h"},
        {"expires": 3600},
        {"delay": "2h", "expires": "1h"},
        {"at": "2h", "expires": "1h"},
        {"at": _DAY, "expires": _DAY - timedelta(days=1)},
        {"at": _DAY, "expires": "1 parsec"},
        {"at": 3600, "expires": "1h"},
        {"at": _DAY, "delay": "1h", "expires": "2h"},
    ],
)
def test_a_recorded_call_refuses_on_every_day_what_is_never_right(
    today: datetime, options: DispatchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", today.timestamp)

        with pytest.raises(ConfigurationError):
            make_call().dispatch("bill.sent", {"order": 7}, **options)


def test_an_event_that_is_too_large_is_refused_as_a_dispatch_refuses_it() -> None:
    with pytest.raises(EncodeError, match="the limit is 1,048,576"):
        make_call().dispatch("bill.sent", {"text": "x" * 2**20})


def test_a_call_is_shown_with_its_listener_and_its_attempt() -> None:
    assert repr(make_call(attempt=2, event_id="e7")) == "<Call of listener in default for 'e7', attempt 2>"
