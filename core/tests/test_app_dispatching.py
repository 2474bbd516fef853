"""Dispatching by an application: where events go, now and later, and what is refused."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import uuid4

import pytest

from relevo import (
    App,
    Call,
    DeferredDispatcher,
    Dispatched,
    Dispatcher,
    Envelope,
    Event,
    LocalDispatcher,
    Retry,
    SubjectType,
    Target,
    TransportUnavailableError,
    listener,
)
from relevo.errors import (
    ConfigurationError,
    EncodeError,
    EventNameError,
    RouteNotFoundError,
    SendError,
    SessionError,
    SubjectError,
    UnsupportedError,
)
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

from .application import Make, Partial, Plain, drain, waiting


@pytest.mark.parametrize("late", [0.0, "0s", 10**400, float("nan"), float("inf")])
def test_an_event_that_has_expired_is_refused_on_every_way_and_nothing_is_written(
    make: Make, clock: FakeClock, late: Any
) -> None:
    heard: list[object] = []

    @listener("a.b", queue="now")
    def follow(event: Event, call: Call) -> None:
        heard.append(event)
        call.dispatch(Event("a.later"), expires=late)

    app = make(follow, routes={"a.b": "now", "a.both": ["main", "now"], "*": "main"})
    deferred = DeferredDispatcher(app.transports["main"], clock=clock)
    local = LocalDispatcher(clock=clock)
    names = ["a.b", "a.both", "a.later"]
    ways: list[Callable[[], object]] = [
        *(functools.partial(app.dispatch, Event(name), expires=late) for name in names),
        functools.partial(app.dispatch, Event("a.later"), expires=late, session=object()),
        functools.partial(app.dispatch_many, [Event(name) for name in names], expires=late),
        functools.partial(app.bound_to(object()).dispatch, Event("a.later"), expires=late),
        lambda: asyncio.run(app.adispatch(Event("a.later"), expires=late)),
        *(functools.partial(each.dispatch, Event("a.b"), expires=late) for each in (deferred, local)),
        *(functools.partial(each.dispatch_many, [Event("a.b")], expires=late) for each in (deferred, local)),
    ]

    for way in ways:
        with pytest.raises(ConfigurationError, match=r"^expires: expected ") as caught:
            way()
        assert "\n" not in str(caught.value)
    assert heard == []
    with pytest.raises(ConfigurationError, match=r"^expires: expected "):
        app.dispatch(Event("a.b"))
    assert waiting(app) == 0


@pytest.mark.parametrize("now", [253402300800.0, 1e300, float("nan"), float("inf")])
def test_a_clock_without_a_date_is_the_programs_fault(make: Make, now: float) -> None:
    app = make(clock=FakeClock(now))

    with pytest.raises(ConfigurationError, match=r"^clock: expected seconds since the epoch, before the year 10000"):
        app.dispatch(Event("a.b"))


def test_no_route_is_an_error_and_nothing_is_written(make: Make) -> None:
    app = make(routes={"image.*": "main"})

    with pytest.raises(RouteNotFoundError, match=r'no route for "feed.read"'):
        app.dispatch(Event("feed.read"))

    assert waiting(app) == 0


def test_now_calls_listeners_in_process_and_writes_nothing(make: Make) -> None:
    heard: list[str] = []

    @listener("a.b")
    def hear(event: Event, call: Call) -> None:
        heard.append(call.queue)

    app = make(hear, routes={"*": "now"})
    done = app.dispatch(Event("a.b", {"anything": object()}))

    assert heard == ["now"]
    assert done == Dispatched(id=done.id, targets=(Target("now"),))
    assert waiting(app) == 0


def test_each_event_that_is_handled_now_has_an_id_of_its_own(make: Make) -> None:
    heard: list[tuple[str | None, str, str | None]] = []

    @listener("a.b")
    def hear(event: Event, call: Call) -> None:
        heard.append((event.id, call.event_id, call.correlation_id))

    app = make(hear, routes={"*": "now"})
    event = Event("a.b")
    first, second = app.dispatch(event), app.dispatch(event)
    own = app.dispatch(Event("a.b", id="17"))

    assert heard == [(each.id, each.id, each.id) for each in (first, second, own)]
    assert len({first.id, second.id, "17", ""}) == 4
    assert own.id == "17"
    assert event.id is None


def test_the_id_of_an_event_that_a_listener_dispatches_now_is_the_same_in_each_run(make: Make) -> None:
    heard: list[str] = []

    @listener("a.b", retry=Retry(runs=2, first=0.0))
    def follow(event: Event, call: Call) -> None:
        call.dispatch(Event("a.c", {"anything": object()}))

    @listener("a.c")
    def hear(event: Event, call: Call) -> None:
        heard.append(call.event_id)
        raise OSError

    app = make(follow, hear, routes={"a.c": "now", "*": "main"})
    app.dispatch(Event("a.b"))
    drain(app)
    drain(app)

    first, second = heard
    assert first == second


def test_the_application_makes_the_ids_of_events_that_are_handled_now_too(make: Make) -> None:
    app = make(ids=lambda _: "own", routes={"*": "now"})

    assert app.dispatch(Event("a.b")).id == "own"


def test_an_event_can_be_handled_now_and_later(make: Make) -> None:
    heard: list[str] = []

    def hear(event: Event, call: Call) -> None:
        heard.append(f"{call.listener_id} in {call.queue}")

    marks = [listener("a.b", id="now", queue="now"), listener("a.c", id="later"), listener("a.b", id="unbound")]
    functions = [mark(functools.partial(hear)) for mark in marks]
    app = make(*functions, routes={"a.b": ["main", "now"], "*": ["now", "main"]})
    app.dispatch(Event("a.b"))
    at_once = list(heard)
    drain(app)

    assert at_once == ["now in now"]
    assert heard[1:] == ["unbound in default"]


def test_if_a_listener_that_hears_it_now_raises_nothing_was_sent(make: Make) -> None:
    heard: list[str] = []

    def follow(event: Event, call: Call) -> None:
        call.dispatch(Event("a.c"))
        heard.append(event.name)

    def fail(event: Event) -> None:
        raise ValueError("not this one")

    marks = [listener("a.b", id="follow", priority=1)(follow), listener("a.b", id="fail")(fail)]
    app = make(*marks, routes={"a.b": ["now", "main"], "*": "main"})

    with pytest.raises(ValueError, match="not this one"):
        app.dispatch_many([Event("a.d"), Event("a.b")])

    assert heard == ["a.b"]
    assert waiting(app) == 0


def test_what_is_wrong_with_an_event_is_found_before_anybody_hears_it_now(make: Make) -> None:
    heard: list[Event] = []
    unnamed = SubjectType(type="image", cls=list, name=lambda _: None, load=lambda _: None)
    app = make(
        listener("a.b", id="hear")(functools.partial(heard.append)), routes={"*": ["now", "main"]}, subjects=[unnamed]
    )

    for wrong in (Event("a.b", {"any": object()}), 5):
        with pytest.raises((EncodeError, ConfigurationError)):
            app.dispatch_many([Event("a.b"), wrong])
    with pytest.raises(SubjectError, match="has no id yet"):
        app.dispatch(Event("a.b", subject=[]))

    assert waiting(app) == 0
    assert heard == []


def test_what_is_dispatched_by_a_listener_that_hears_it_now_follows_its_event(make: Make) -> None:
    def follow(event: Event, call: Call) -> None:
        call.dispatch(Event("a.c", {"after": event["number"]}))

    order: list[Any] = []

    def note(event: Event) -> None:
        order.append(event.arguments)

    marks = [listener("a.b", id="follow", queue="now")(follow)]
    marks += [listener(name, id=name)(functools.partial(note)) for name in ("a.b", "a.c")]
    app = make(*marks, routes={"a.b": ["main", "now"], "*": "main"})

    app.dispatch_many([Event("a.b", {"number": 1}), Event("a.b", {"number": 2})])
    drain(app)

    assert order == [{"number": 1}, {"after": 1}, {"number": 2}, {"after": 2}]


@pytest.mark.parametrize("fate", ["refused", "unknown"])
def test_an_event_is_told_with_what_its_listeners_dispatched_if_that_could_not_be_sent(make: Make, fate: str) -> None:
    def follow(event: Event, call: Call) -> None:
        call.dispatch(Event("a.c"))

    app = make(listener("a.b")(follow), routes={"a.b": ["now", "main"], "a.d": "now", "*": "main"})
    app.prepare("main")
    fates: dict[str, Any] = {fate: [2]}

    def send(envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        names = [each.name for each in envelopes]
        assert names == ["a.e", "a.b", "a.c"]
        raise SendError("main", sent=[0, 1], why="full", **fates)

    app.transports["main"].send = send  # type: ignore[method-assign]
    with pytest.raises(SendError) as caught:
        app.dispatch_many([Event("a.d"), Event("a.e"), Event("a.b"), Event("a.d")])

    error = caught.value
    assert (list(error.sent), list(error.refused), list(error.unknown)) == ([0, 1, 3], [], [2])


@pytest.mark.parametrize(
    "terms", [{"urgency": "soon"}, {"ordering_key": ""}, *({"expires": each} for each in ("soon", "0s", 1.0, 10**400))]
)
def test_what_is_handled_now_has_the_same_terms_so_that_a_route_can_change(make: Make, terms: dict[str, Any]) -> None:
    heard: list[Event] = []
    app = make(listener("a.b")(functools.partial(heard.append)), routes={"*": "now"})

    app.dispatch(Event("a.b"), urgency="high", ordering_key="k", expires=9e9, session=object())
    with pytest.raises((EncodeError, ConfigurationError)):
        app.dispatch(Event("a.b"), **terms)

    assert len(heard) == 1


def test_what_is_handled_now_cannot_be_delayed(make: Make) -> None:
    with pytest.raises(ConfigurationError, match=r'"a.b" cannot be delayed, since "now" calls'):
        make(routes={"*": "now"}).dispatch(Event("a.b"), delay=1)


def test_many_events_go_out_together_each_to_its_transport(make: Make, clock: FakeClock) -> None:
    main, other = MemoryTransport(clock=clock), MemoryTransport(clock=clock)
    routes = {"a.*": ["main/one", "main/two"], "b.*": "other", "c.*": "now"}
    heard: list[Event] = []
    app = make(
        listener("c.d")(functools.partial(heard.append)), transports={"main": main, "other": other}, routes=routes
    )

    done = app.dispatch_many([Event("a.b"), Event("b.c"), Event("c.d"), Event("a.c")])
    with pytest.raises(EncodeError):
        app.dispatch_many([Event("a.b"), Event("c.d"), Event("b.c", {"a": object()})])

    assert [len(each.targets) for each in done] == [2, 1, 1, 2]
    assert (waiting(app, "main", "one"), waiting(app, "main", "two"), waiting(app, "other")) == (2, 2, 1)
    assert len(heard) == 1


def test_of_many_events_each_ones_fate_is_told(make: Make, clock: FakeClock) -> None:
    transports = {"main": MemoryTransport(clock=clock), "bad": Partial(clock=clock), "last": MemoryTransport()}
    app = make(transports=transports, routes={"a": "main", "b": "bad", "b2": ["bad/x", "bad/y"], "c": "last"})

    with pytest.raises(SendError) as caught:
        app.dispatch_many([Event(name) for name in ("a", "b", "b", "b", "c")])
    with pytest.raises(SendError) as in_part:
        app.dispatch(Event("b2"))

    error = caught.value
    assert (error.sent, error.refused, error.unknown) == ((0, 1), (2, 4), (3,))
    assert (in_part.value.sent, in_part.value.refused, in_part.value.unknown) == ((), (), (0,))
    assert (waiting(app, "main"), waiting(app, "last")) == (1, 0)


def test_a_server_that_is_down_is_told_as_such_only_if_nothing_was_sent(make: Make) -> None:
    class Down(MemoryTransport):
        def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
            raise TransportUnavailableError("down", "no route")

    app = make(transports={"main": MemoryTransport(), "down": Down()}, routes={"a": "main", "b": "down"})

    with pytest.raises(TransportUnavailableError):
        app.dispatch_many([Event("b"), Event("a")])
    with pytest.raises(SendError, match="no route") as caught:
        app.dispatch_many([Event("a"), Event("b")])

    assert (caught.value.sent, caught.value.refused) == ((0,), (1,))


def test_fan_out_over_transports_that_could_never_be_one_transaction_is_told_at_the_start(make: Make) -> None:
    with pytest.raises(ConfigurationError, match=r'"\*" is routed to several transports \("main", "plain"\); a crash'):
        make(transports={"main": MemoryTransport(), "plain": Plain()}, routes={"*": ["main", "plain", "now"]})


def test_fan_out_over_transports_needs_a_session(make: Make, clock: FakeClock) -> None:
    app = make(
        transports={"main": MemoryTransport(clock=clock), "other": MemoryTransport(clock=clock)},
        routes={"*": ["main", "other"]},
    )

    with pytest.raises(ConfigurationError, match="dispatch it with session="):
        app.dispatch(Event("a.b"))

    assert (waiting(app, "main"), waiting(app, "other")) == (0, 0)


def received(app: App, transport: str, queue: str) -> list[str]:
    deliveries = app.transport(transport).receive([queue], limit=9, lease=60, wait=0)
    return [each.envelope.id for each in deliveries if isinstance(each.envelope, Envelope)]


def test_fan_out_in_a_session_reaches_each_queue_of_each_transport(make: Make, clock: FakeClock) -> None:
    sa, orm = pytest.importorskip("sqlalchemy"), pytest.importorskip("sqlalchemy.orm")
    app = make(
        transports={"main": MemoryTransport(clock=clock), "other": MemoryTransport(clock=clock)},
        routes={"*": ["main/media", "other/audit", "main/feed"]},
    )

    with orm.Session(sa.create_engine("sqlite://")) as session:
        first, second = app.dispatch_many([Event("a.b"), Event("c.d")], session=session)
        session.commit()

    both = [first.id, second.id]
    assert received(app, "main", "media") == received(app, "main", "feed") == received(app, "other", "audit") == both
    assert received(app, "main", "audit") == received(app, "other", "media") == received(app, "other", "feed") == []


@pytest.mark.parametrize("how, claim", [({"urgency": "high"}, "urgency"), ({"ordering_key": "k"}, "order")])
def test_what_the_target_does_not_claim_is_refused_even_where_an_outbox_would_take_it(
    make: Make, clock: FakeClock, how: dict[str, Any], claim: str
) -> None:
    app = make(transports={"plain": Plain(clock=clock)}, routes={"*": "plain"}, outboxes={"plain": MemoryTransport()})

    with pytest.raises(UnsupportedError, match=f'the transport "plain" does not support {claim}'):
        app.dispatch(Event("a.b"), session=object(), **how)


def test_a_session_that_nothing_can_join_is_refused_with_the_way_out(make: Make) -> None:
    app = make(transports={"plain": Plain()}, routes={"*": "plain"})

    with pytest.raises(
        SessionError, match=r'the transport "plain" cannot join a session; give it an outbox: plain = \{'
    ):
        app.dispatch(Event("a.b"), session=object())


def test_a_session_that_is_none_is_refused(make: Make) -> None:
    with pytest.raises(SessionError, match="cannot be joined"):
        make().dispatch(Event("a.b"), session=object())


@pytest.mark.parametrize("delay", [None, "", [], (), False, {}])
def test_a_delay_that_is_not_a_duration_is_refused_even_if_it_is_false(make: Make, delay: Any) -> None:
    app = make()

    with pytest.raises(ConfigurationError, match=r"^delay: expected seconds as a number"):
        app.dispatch(Event("a.b"), delay=delay)

    assert waiting(app) == 0


def test_the_parts_of_an_application_cannot_be_assigned(make: Make) -> None:
    app: Any = make()

    with pytest.raises(AttributeError, match=r"App.clock is read-only; pass clock= to App\(…\)"):
        app.clock = FakeClock()


def test_a_subject_without_an_id_is_found_before_a_listener_is_called_in_a_test_too(make: Make) -> None:
    class Row:
        id = None

    rows = SubjectType(type="row", cls=Row, name=lambda row: row.id, load=lambda _: None)
    heard: list[object] = []
    app = make(routes={"*": ["now", "main"]}, subjects=[rows])
    app.add_listener("a.b", heard.append, queue="now")

    with app.testing(), pytest.raises(SubjectError, match='of type "row" has no id yet'):
        app.dispatch(Event("a.b", subject=Row()))

    assert heard == []


def test_events_that_are_dispatched_together_for_a_moment_are_sent_in_one_call() -> None:
    sent: list[tuple[int, float]] = []

    class Ticking(FakeClock):
        def now(self) -> float:
            self.advance(0.25)
            return super().now()

    class Counting(MemoryTransport):
        def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
            sent.append((len(envelopes), delay))

    app = App(transports={"main": Counting()}, routes={"*": "main"}, clock=Ticking(1000.0))
    app.dispatch_many([Event("a.b"), Event("a.b"), Event("a.b")], at=1060.0)

    assert sent == [(3, 59.75)]


@pytest.mark.parametrize("made", [None, 7, b"a", uuid4(), "", "a\nb", "\ud800", "a" * 256])
def test_an_id_that_is_not_printable_text_is_refused_before_anything_is_written(make: Make, made: Any) -> None:
    app = make(ids=lambda _: made)

    with pytest.raises(ConfigurationError, match=r"^ids: expected a function that returns .*; it returned "):
        app.dispatch_many([Event("a.b"), Event("a.b", id="own")])

    assert waiting(app) == 0
    assert app.dispatch(Event("a.b", id="own")).id == "own"


# --- many events of an iterator ---------------------------------------------------------------------------


class Counting(MemoryTransport):
    """It counts the envelopes of each send."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        self.sizes.append(len(envelopes))
        super().send(envelopes, delay=delay)


class Breaking(Counting):
    """Its server is down after the first send."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        if self.sizes:
            raise TransportUnavailableError(self.name, "its server is down")
        super().send(envelopes, delay=delay)


def numbered(number: int) -> Iterator[Event]:
    return (Event("a.b", {"number": each}) for each in range(number))


def ways_of(transport: MemoryTransport) -> list[Dispatcher]:
    return [App(transports={"main": transport}, routes={"*": "main"}), DeferredDispatcher(transport)]


@pytest.mark.parametrize("way", [0, 1])
def test_the_events_of_a_generator_are_sent_in_batches_and_those_of_a_list_at_once(way: int) -> None:
    transport = Counting()
    dispatcher = ways_of(transport)[way]
    ahead: list[int] = []

    def lazily() -> Iterator[Event]:
        for each in range(2500):
            ahead.append(each - sum(transport.sizes))
            yield Event("a.b", {"number": each})

    done = dispatcher.dispatch_many(lazily())
    at_once = dispatcher.dispatch_many(list(numbered(2500)))

    assert transport.sizes == [1000, 1000, 500, 2500]
    assert max(ahead) < 1000
    assert len({each.id for each in (*done, *at_once)}) == 5000


@pytest.mark.parametrize("way", [0, 1])
def test_an_error_in_a_later_batch_reports_the_result_of_every_event_that_was_taken(way: int) -> None:
    dispatcher = ways_of(Counting())[way]
    events = (each if number != 1500 else Event("a.b", {"a": object()}) for number, each in enumerate(numbered(2500)))

    with pytest.raises(
        SendError,
        match=r'^the event "a\.b" at index 1500 cannot be sent: \$\.a: object is not JSON.*; results of this event\'s '
        r"batch and the earlier batches: 1000 sent, 1000 refused, 0 unknown$",
    ) as raised:
        dispatcher.dispatch_many(events)

    assert raised.value.index == 1500
    assert isinstance(raised.value.__cause__, EncodeError)
    assert raised.value.__cause__.index == 1500
    assert raised.value.sent == tuple(range(1000))
    assert raised.value.refused == tuple(range(1000, 2000))
    assert len(list(events)) == 500


@pytest.mark.parametrize("way", [0, 1])
def test_an_event_among_many_that_cannot_be_sent_is_named_by_its_index(way: int) -> None:
    transport = Counting()
    events = [Event("a.b", {"a": object()}) if number == 1417 else each for number, each in enumerate(numbered(3000))]

    with pytest.raises(EncodeError, match=r'^the event "a\.b" at index 1417 cannot be sent: \$\.a: ') as raised:
        ways_of(transport)[way].dispatch_many(events)
    with pytest.raises(EncodeError, match=r'^the event "a\.b" cannot be sent: ') as alone:
        ways_of(transport)[way].dispatch(events[1417])

    assert (raised.value.index, alone.value.index) == (1417, None)
    assert transport.sizes == []


def test_an_error_of_what_makes_the_events_has_no_index() -> None:
    transport = Counting()
    dispatcher = ways_of(transport)[1]

    class Dispatching:
        def __iter__(self) -> Iterator[Event]:
            yield Event("a.b")
            dispatcher.dispatch(Event("c.d", {"a": object()}))

    with pytest.raises(EncodeError, match=r'^the event "c\.d" cannot be sent: ') as raised:
        dispatcher.dispatch_many(Dispatching())

    assert raised.value.index is None


@pytest.mark.parametrize("way", [0, 1])
def test_positions_of_a_later_batch_are_indexes_of_all_events(way: int) -> None:
    class Later(Partial):
        sends = 0

        def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
            self.sends += 1
            if self.sends > 1:
                super().send(envelopes, delay=delay)

    with pytest.raises(SendError, match="1001 sent, 1 refused, 3 unknown: a bad line") as partial:
        ways_of(Later())[way].dispatch_many(numbered(1005))
    with pytest.raises(SendError, match=r"1000 sent, 5 refused, 0 unknown: .* is down") as broken:
        ways_of(Breaking())[way].dispatch_many(numbered(1005))

    assert partial.value.index is broken.value.index is None
    assert (partial.value.sent[-1], partial.value.refused, partial.value.unknown) == (1000, (1001,), (1002, 1003, 1004))
    assert broken.value.refused == (1000, 1001, 1002, 1003, 1004)


@pytest.mark.parametrize("way", [0, 1])
def test_an_error_in_the_first_batch_of_a_generator_is_that_of_a_list(way: int) -> None:
    transport = Counting()

    with pytest.raises(EncodeError):
        ways_of(transport)[way].dispatch_many(each for each in (Event("a.b"), Event("a.b", {"a": object()})))

    assert transport.sizes == []


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize(
    "error",
    [ValueError("a bad row"), EventNameError("A B", "no"), KeyboardInterrupt()],
    ids=["error", "error of relevo", "Ctrl-C"],
)
def test_an_error_of_the_generator_itself_says_how_many_events_were_dispatched(way: int, error: BaseException) -> None:
    def failing() -> Iterator[Event]:
        yield from numbered(1200)
        raise error

    with pytest.raises(type(error)) as raised:
        ways_of(Counting())[way].dispatch_many(failing())

    assert raised.value.__notes__[-1:] == ["1000 events before it were dispatched"]


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize(
    "batch, known", [(2, "1000 events before it were dispatched"), (1, "no event before it is known to be dispatched")]
)
def test_ctrl_c_while_a_batch_is_sent_says_which_events_are_in_doubt(way: int, batch: int, known: str) -> None:
    class Interrupted(Counting):
        def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
            super().send(envelopes, delay=delay)
            if len(self.sizes) == batch:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:
        ways_of(Interrupted())[way].dispatch_many(numbered(2500))

    assert raised.value.__notes__ == [f"{known}, and perhaps some of the next 1000"]


def test_in_a_session_all_events_of_a_generator_are_validated_before_the_first_is_written(make: Make) -> None:
    sa, orm = pytest.importorskip("sqlalchemy"), pytest.importorskip("sqlalchemy.orm")
    app = make(routes={"*": "main"})
    wrong = (each if number != 1500 else Event("a.b", {"a": object()}) for number, each in enumerate(numbered(2500)))

    with orm.Session(sa.create_engine("sqlite://")) as session:
        with pytest.raises(EncodeError):
            app.dispatch_many(wrong, session=session)
        session.commit()

    assert waiting(app) == 0
