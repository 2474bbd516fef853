from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import attrs
import pytest
from hypothesis import given, strategies as st

import relevo
from relevo import (
    Call,
    Capabilities,
    DeferredDispatcher,
    Delivery,
    Dispatched,
    Envelope,
    Event,
    Gone,
    ListenerTable,
    LocalDispatcher,
    Retry,
    Subject,
    SubjectMissingError,
    SubjectType,
    SubjectTypes,
    Target,
    hookimpl,
    listener,
)
from relevo._event.codec import context_of, decoded, generic
from relevo._listener.listener import Mark, Missing
from relevo.errors import ConfigurationError, DecodeError, EncodeError, RelevoError, SubjectError, UnsupportedError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport


@attrs.define
class Image:
    id: int | None


IMAGES = SubjectType(
    type="image",
    cls=Image,
    name=lambda image: None if image.id is None else str(image.id),
    load=lambda name: Image(int(name)),
)


@relevo.event("image.created", subject="image_id", of="image")
@attrs.frozen
class ImageCreated:
    image_id: int
    size: str = "small"


Local = Callable[..., LocalDispatcher]


@pytest.fixture(name="local")
def _local() -> Local:
    """Make a dispatcher that calls the functions at once, with images as subjects."""

    def local(*functions: Callable[..., object], event: str | type = "image.created", **how: Any) -> LocalDispatcher:
        table = ListenerTable()
        for number, function in enumerate(functions):
            table.add(function, Mark(event=event, id=str(number), **how))
        return LocalDispatcher(table, subjects=SubjectTypes([IMAGES]))

    return local


# --- now ----------------------------------------------------------------------------------------------


def test_listeners_are_called_at_once_in_their_order(local: Local) -> None:
    heard: list[str] = []
    dispatcher = local(lambda _: heard.append("first"), lambda _: heard.append("second"))
    dispatcher.listeners.add(lambda _: heard.append("urgent"), Mark(event="image.created", id="u", priority=1))

    done = dispatcher.dispatch(Event("image.created"))

    assert heard == ["urgent", "first", "second"]
    assert done == Dispatched(id="", targets=(Target("now"),))
    assert str(done.targets[0]) == "now"


def test_an_error_reaches_whoever_dispatched_and_ends_the_calls(local: Local) -> None:
    heard: list[Event] = []

    def fail(event: Event) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        local(heard.append, fail, heard.append).dispatch(Event("image.created"))

    assert len(heard) == 1


def test_a_listener_can_stop_the_propagation(local: Local) -> None:
    heard: list[Event] = []

    def stop(event: Event, call: Call) -> None:
        call.stop_propagation()

    local(stop, heard.append).dispatch(Event("image.created"))

    assert heard == []


GONE = SubjectType(type="image", cls=Image, name=lambda image: str(image.id), load=lambda _: None)


@pytest.mark.parametrize("wrong", [5, Event])
def test_many_are_checked_before_the_first_is_heard(wrong: object, local: Local) -> None:
    heard: list[object] = []
    dispatcher = local(heard.append, event="a.b")

    with pytest.raises(ConfigurationError):
        dispatcher.dispatch_many(each for each in (Event("a.b"), Event("a.b"), wrong))
    with pytest.raises(ConfigurationError, match='cannot be delayed, since "now" calls its listeners in process'):
        dispatcher.dispatch_many([Event("a.b")], delay=1.0)

    assert heard == []
    assert len(dispatcher.dispatch_many(each for each in (Event("a.b"), Event("a.b")))) == len(heard) == 2


def _gone(*, missing: Missing) -> tuple[LocalDispatcher, list[Any]]:
    """Return a dispatcher of a listener that asks for a subject which is gone, and what that saw."""
    seen: list[Any] = []
    dispatcher = LocalDispatcher(subjects=SubjectTypes([GONE]))

    @listener("follow.up")
    def follow(event: Event) -> None:
        seen.append(event["said"])

    @listener(ImageCreated, missing=missing)
    def look(event: ImageCreated, call: Call) -> None:
        call.dispatch(Event("follow.up", {"said": "before"}))
        seen.append(call.subject)
        call.dispatch(Event("follow.up", {"said": "after"}))

    @listener(ImageCreated, priority=-1)
    def later(event: ImageCreated) -> None:
        seen.append("later")

    dispatcher.listen(follow, look, later)
    return dispatcher, seen


def test_at_once_a_listener_whose_subject_is_gone_fails_for_whoever_dispatched() -> None:
    dispatcher, seen = _gone(missing="fail")

    with pytest.raises(SubjectMissingError, match="the subject image/7 is gone, or not committed yet"):
        dispatcher.dispatch(ImageCreated(7))

    assert seen == []


def test_at_once_a_listener_may_be_skipped_whose_subject_is_gone() -> None:
    dispatcher, seen = _gone(missing="skip")

    dispatcher.dispatch(ImageCreated(7))

    assert seen == ["later"]


def test_at_once_a_listener_may_be_told_that_its_subject_is_gone() -> None:
    dispatcher, seen = _gone(missing="tombstone")

    dispatcher.dispatch(ImageCreated(7))

    assert seen == [Gone("image", "7"), "before", "after", "later"]


class Feed:
    """A subscriber with several listeners, each with a priority of its own."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    @listener("image.created", priority=5)
    def early(self, event: Event) -> None:
        self.heard.append("early")

    @listener(ImageCreated, priority=-5)
    @listener("image.removed")
    def late(self, event: object) -> None:
        self.heard.append("late")


def test_listeners_and_subscribers_come_and_go() -> None:
    dispatcher, feed, other = LocalDispatcher(), Feed(), Feed()
    middle = dispatcher.add_listener("image.created", lambda event: feed.heard.append("middle"), id="middle")
    dispatcher.listen(feed)
    dispatcher.listen(feed)

    dispatcher.dispatch(ImageCreated(7))
    dispatcher.remove_listener(middle)
    dispatcher.unlisten(other)
    dispatcher.dispatch(ImageCreated(7))
    dispatcher.unlisten(feed)
    dispatcher.dispatch(ImageCreated(7))

    assert feed.heard == ["early", "middle", "late", "early", "late"]
    assert not dispatcher.has_listeners()


def test_a_dispatcher_tells_who_listens_in_order_and_how_urgently() -> None:
    dispatcher, feed = LocalDispatcher(), Feed()
    dispatcher.listen(feed)

    assert [each.priority for each in dispatcher.listeners(ImageCreated)] == [5, -5]
    assert dispatcher.listeners("image.created") == dispatcher.listeners(ImageCreated(7))
    assert len(dispatcher.listeners()) == 3
    assert dispatcher.listeners("nobody.hears") == ()
    assert dispatcher.has_listeners()
    assert dispatcher.has_listeners("image.removed")
    assert not dispatcher.has_listeners("nobody.hears")
    assert dispatcher.listener_priority("image.created", feed.early) == 5
    assert dispatcher.listener_priority(ImageCreated, feed.late) == -5
    assert dispatcher.listener_priority("image.created", print) is None


def test_what_is_registered_by_a_decorator_keeps_its_name_and_type() -> None:
    dispatcher = LocalDispatcher()

    @dispatcher.listen
    @listener("image.created")
    def loud(event: Event) -> int:
        return len(event.name)

    assert_type(loud(Event("image.created")), int)
    assert dispatcher.listeners("image.created")[0].function is loud


def test_a_function_without_a_mark_has_all_terms_of_one() -> None:
    dispatcher = DeferredDispatcher(MemoryTransport())
    seen: list[object] = []

    found = dispatcher.add_listener(
        ImageCreated,
        seen.append,
        priority=3,
        queue="media",
        retry=8,
        id="b",
        aliases="a",
        missing="skip",
        time_limit="5m",
    )

    assert (found.priority, found.queue, found.retry, found.id, found.aliases) == (3, "media", Retry(8), "b", ("a",))
    assert (found.mark.missing, found.mark.time_limit) == ("skip", 300.0)
    with pytest.raises(TypeError, match="prioritty"):
        dispatcher.add_listener("a.b", seen.append, prioritty=3)  # type: ignore[call-arg]


async def _later(event: Event) -> None: ...


@pytest.mark.parametrize("missing", ["fail", "tombstone"])
def test_at_once_work_that_nobody_awaits_is_a_fault_of_the_listener(missing: Missing) -> None:
    dispatcher = LocalDispatcher()

    async def with_call(event: Event, call: Call) -> object:
        return _later(event)

    async def plain(event: Event) -> object:
        return _later(event)

    dispatcher.add_listener("a.b", plain, id="plain")
    dispatcher.add_listener("c.d", with_call, id="with a call", missing=missing)

    with pytest.raises(TypeError, match="plain returned an awaitable, which is not awaited; its work was not done"):
        dispatcher.dispatch(Event("a.b"))
    with pytest.raises(TypeError, match="with a call returned an awaitable"):
        dispatcher.dispatch(Event("c.d"))


async def _later_steps(event: Event) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda event: (each for each in [event]), "generator"),
        (lambda event: _later_steps(event), "async_generator"),  # noqa: PLW0108 - what hides it
        (lambda event: map(print, [event]), "map"),
    ],
)
@pytest.mark.parametrize("missing", ["fail", "tombstone"])
def test_in_process_lazy_work_is_a_fault_of_the_listener(
    function: Callable[[Event], object], kind: str, missing: Missing
) -> None:
    dispatcher = LocalDispatcher()

    def with_call(event: Event, call: Call) -> object:
        return function(event)

    dispatcher.add_listener("a.b", function, id="plain")
    dispatcher.add_listener("c.d", with_call, id="with a call", missing=missing)

    with pytest.raises(TypeError, match=f"plain returned a lazy {kind}, which nothing iterates over; its work was not"):
        dispatcher.dispatch(Event("a.b"))
    with pytest.raises(TypeError, match=f"with a call returned a lazy {kind}"):
        dispatcher.dispatch(Event("c.d"))


def test_in_process_two_subscribers_of_one_class_are_two() -> None:
    dispatcher, one, two = LocalDispatcher(), Feed(), Feed()

    dispatcher.listen(one, two)
    dispatcher.dispatch(Event("image.removed"))

    assert one.heard == two.heard == ["late"]


def test_a_listener_may_take_out_listeners_while_it_is_called() -> None:
    dispatcher, heard = LocalDispatcher(), []

    def leave(event: Event) -> None:
        heard.append("leave")
        dispatcher.remove_listener(one)

    one = dispatcher.add_listener("a.b", leave)
    dispatcher.add_listener("a.b", lambda event: heard.append("stay"))
    dispatcher.dispatch_many([Event("a.b"), Event("a.b")])

    assert heard == ["leave", "stay", "stay"]


def test_what_a_call_dispatches_follows_its_listener(local: Local) -> None:
    heard: list[str] = []

    def first(event: Event, call: Call) -> None:
        call.dispatch(Event("image.seen"))
        heard.append("first")

    dispatcher = local(first, lambda _: heard.append("second"))
    dispatcher.add_listener("image.seen", lambda _: heard.append("seen"))
    dispatcher.dispatch(Event("image.created"))

    assert heard == ["first", "seen", "second"]


def test_nothing_follows_a_call_that_failed(local: Local) -> None:
    heard: list[Event] = []

    def fail(event: Event, call: Call) -> None:
        call.dispatch(Event("image.seen"))
        raise ZeroDivisionError

    dispatcher = local(fail)
    dispatcher.add_listener("image.seen", heard.append)
    with pytest.raises(ZeroDivisionError):
        dispatcher.dispatch(Event("image.created"))

    assert heard == []


def test_listeners_that_are_called_at_once_share_the_event_with_whoever_dispatched(local: Local) -> None:
    created = Event("image.created", {"path": "a.jpg"})
    heard: list[object] = []

    local(heard.append, heard.append).dispatch(created)

    assert heard[0] is heard[1] is created


def test_a_call_that_is_over_dispatches_nothing_and_says_so(local: Local) -> None:
    calls: list[Call] = []

    def keep(event: Event, call: Call) -> None:
        calls.append(call)

    dispatcher = local(keep)
    dispatcher.dispatch(Event("image.created"))

    with pytest.raises(ConfigurationError, match="the listener has ended"):
        calls[0].dispatch(Event("image.seen"))


def test_a_term_that_no_listener_has_is_told() -> None:
    misspelt: Any = {"priorty": 3}

    with pytest.raises(TypeError, match=r'^a listener has no option priorty=…; did you mean "priority"\?$'):
        LocalDispatcher().add_listener("a.b", print, **misspelt)


def test_an_address_is_no_transport() -> None:
    address: Any = "sqlite:///shop.db"

    with pytest.raises(
        ConfigurationError, match=r"DeferredDispatcher: expected a relevo.Transport; got 'sqlite:///shop.db'"
    ):
        DeferredDispatcher(address)


def test_in_process_nothing_can_be_delayed_and_other_terms_hold_by_themselves() -> None:
    dispatcher = LocalDispatcher()
    heard: list[object] = []
    dispatcher.add_listener("a.b", heard.append)

    dispatcher.dispatch(Event("a.b"), urgency="high", ordering_key="k", expires="1h")
    for terms in ({"delay": 1}, {"at": "5m"}):
        with pytest.raises(
            ConfigurationError, match=r'"a\.b" cannot be delayed, since "now" calls its listeners in process'
        ):
            dispatcher.dispatch(Event("a.b"), **terms)

    assert len(heard) == 1


def test_an_event_that_nobody_hears_is_fine() -> None:
    LocalDispatcher().dispatch(Event("a.b"))


def test_every_listener_gets_the_form_it_asks_for(local: Local) -> None:
    by_name: list[Event] = []
    by_class: list[ImageCreated] = []
    dispatcher = local(by_name.append)
    dispatcher.listeners.add(by_class.append, Mark(event=ImageCreated, id="class"))

    dispatcher.dispatch(ImageCreated(7))
    dispatcher.dispatch(Event("image.created", {"size": "large"}, subject=Subject("image", "8")))
    dispatcher.dispatch(Event("image.created", {"size": "large"}, subject=Image(9)))

    assert by_class == [ImageCreated(7), ImageCreated(8, "large"), ImageCreated(9, "large")]
    assert by_name == [
        Event("image.created", {"image_id": 7, "size": "small"}, subject=Subject("image", "7")),
        Event("image.created", {"size": "large"}, subject=Subject("image", "8")),
        Event("image.created", {"size": "large"}, subject=Image(9)),
    ]


def test_arguments_that_do_not_fit_the_class_are_told(local: Local) -> None:
    with pytest.raises(DecodeError, match="does not fit ImageCreated"):
        local(lambda _: None, event=ImageCreated).dispatch(Event("image.created", {"image_id": "seven"}))


@pytest.mark.parametrize(
    "event",
    [ImageCreated(7), Event("image.created", subject=Image(7)), Event("image.created", subject=Subject("image", "7"))],
)
def test_the_call_has_the_subject_and_nothing_of_a_delivery(local: Local, event: object) -> None:
    calls: list[Call] = []

    def look(event: object, call: Call) -> None:
        calls.append(call)

    local(look).dispatch(event)

    (call,) = calls
    assert call.subject == Image(7)
    assert (call.queue, call.attempt, call.lost_leases, call.event_id, call.source, call.time) == (
        "now",
        1,
        0,
        "",
        "",
        "",
    )
    assert call.context == {}


def test_an_object_that_is_the_subject_is_handed_on_without_loading_it(local: Local) -> None:
    image = Image(None)
    found: list[object] = []

    local(lambda event, call: found.append(call.subject)).dispatch(Event("image.created", subject=image))

    assert found[0] is image


# --- later --------------------------------------------------------------------------------------------


@pytest.fixture(name="dispatcher")
def _dispatcher(transport: MemoryTransport, clock: FakeClock) -> DeferredDispatcher:
    return DeferredDispatcher(transport, source="shop", clock=clock, subjects=SubjectTypes([IMAGES]))


def received(transport: MemoryTransport, queue: str = "default") -> list[Delivery]:
    return list(transport.receive([queue], limit=100, lease=60.0, wait=0.0))


def envelopes(transport: MemoryTransport, queue: str = "default") -> list[Envelope]:
    found = [delivery.envelope for delivery in received(transport, queue)]
    assert all(isinstance(envelope, Envelope) for envelope in found)
    return found  # type: ignore[return-value]


def only(transport: MemoryTransport, queue: str = "default") -> Envelope:
    (delivery,) = received(transport, queue)
    assert isinstance(delivery.envelope, Envelope)
    return delivery.envelope


def test_an_event_is_written_to_the_transport(transport: MemoryTransport, clock: FakeClock) -> None:
    dispatcher = DeferredDispatcher(transport, queue="media", source="shop", clock=clock)
    done = dispatcher.dispatch(
        Event("image.created", {"a": [1]}),
        urgency="high",
        ordering_key="image/7",
        expires=clock.now() + 60,
    )

    envelope = only(transport, "media")
    assert done == Dispatched(id=envelope.id, targets=(Target("memory", "media"),))
    assert uuid.UUID(envelope.id).int >> 80 == int(clock.now() * 1000)
    assert (envelope.source, envelope.name, envelope.queue) == ("shop", "image.created", "media")
    assert (envelope.urgency, envelope.ordering_key, envelope.expires) == ("high", "image/7", clock.now() + 60)
    document = decoded(envelope.body)
    assert (document.id, document.source, document.type) == (envelope.id, "shop", "image.created")
    assert generic(document).arguments == {"a": [1]}


def test_a_delayed_event_comes_later(
    dispatcher: DeferredDispatcher, transport: MemoryTransport, clock: FakeClock
) -> None:
    dispatcher.dispatch(Event("a.b"), delay="5m")

    assert received(transport) == []
    clock.advance(300)
    assert only(transport).name == "a.b"


def test_a_given_id_is_kept_so_that_an_unknown_outcome_can_be_sent_again(
    dispatcher: DeferredDispatcher, transport: MemoryTransport
) -> None:
    for _ in range(2):
        dispatcher.dispatch(Event("a.b", id="mine"))

    assert only(transport).id == "mine"


class Reading:
    """A plugin that adds to the context, and looks on."""

    def __init__(self) -> None:
        self.sent: list[Sequence[str]] = []

    @hookimpl
    def relevo_enrich(self, event: object) -> Mapping[str, Any]:
        return {"user": 7}

    @hookimpl
    def relevo_around_send(self, envelopes: Sequence[Envelope]) -> AbstractContextManager[object]:
        @contextmanager
        def around() -> Any:
            yield
            self.sent.append([envelope.name for envelope in envelopes])

        return around()


def test_plugins_add_to_the_context_and_see_what_is_sent(transport: MemoryTransport) -> None:
    plugin = Reading()

    DeferredDispatcher(transport, hooks=relevo.Hooks([plugin])).dispatch(Event("a.b"))

    assert decoded(only(transport).body).relevocontext == '{"user":7}'
    assert plugin.sent == [["a.b"]]


@pytest.mark.parametrize(
    "event, how, error, why",
    [
        (Event("a.b", {"a": object()}), {}, EncodeError, r"\$.a: object is not JSON"),
        (Event("a.b", {"a": "x" * 1024 * 1024}), {}, EncodeError, "the limit is 1,048,576"),
        (Event("a.b", subject=object()), {}, SubjectError, "object is not registered as a subject"),
        (
            Event("a.b", subject=Image(None)),
            {},
            SubjectError,
            'type "image" has no id yet, or its row was rolled back, or it was not added to a session; add and flush',
        ),
        (Event("a.b", id=""), {}, EncodeError, "id: expected 1 to 255 printable"),
        (Event("a.b", id="x" * 256), {}, EncodeError, "id: expected 1 to 255 printable"),
        (Event("a.b", id="a\0"), {}, EncodeError, "id: expected 1 to 255 printable"),
        (Event("a.b", id=7), {}, EncodeError, "id: expected 1 to 255 printable"),  # type: ignore[arg-type]
        (Event("a.b"), {"delay": -1}, ConfigurationError, "^delay: expected 0 s or more; got -1"),
        (
            Event("a.b"),
            {"delay": "soon"},
            ConfigurationError,
            "^delay: expected seconds as a number, or text such as",
        ),
        (Event("a.b"), {"urgency": "hgih"}, EncodeError, "urgency: expected normal or high; got 'hgih'"),
        (Event("a.b"), {"urgency": []}, EncodeError, "urgency: expected"),
        (Event("a.b"), {"ordering_key": ""}, EncodeError, "ordering_key: expected 1 to 255"),
        (Event("a.b"), {"ordering_key": 7}, EncodeError, "ordering_key: expected 1 to 255"),
        (Event("a.b"), {"ordering_key": 7}, EncodeError, "printable characters; got 7; write it as text"),
        (Event("a.b"), {"ordering_key": ""}, EncodeError, "printable characters; got ''$"),
        (
            Event("a.b"),
            {"delay": "1h", "expires": "30m"},
            ConfigurationError,
            "would expire before it is due; expected 3600 s or more after the dispatch; got 1800 s$",
        ),
        (Event("a.b"), {"ordering_key": "\ud800"}, EncodeError, "ordering_key: expected 1 to 255"),
        (
            Event("a.b"),
            {"expires": "soon"},
            ConfigurationError,
            "expires: expected seconds as a number, or text such as",
        ),
        (
            Event("a.b"),
            {"expires": float("nan")},
            ConfigurationError,
            "expires: expected a datetime with a zone, ",
        ),
        (Event("a.b"), {"expires": datetime(2026, 1, 1)}, ConfigurationError, "expected a datetime with a zone"),  # noqa: DTZ001
        *(
            (
                Event("a.b"),
                {"expires": past},
                ConfigurationError,
                "expires: expected a moment in the future",
            )
            for past in (0, -1.0, 978307200, "0s", timedelta(0), datetime(2001, 1, 1, tzinfo=UTC))
        ),
        *(
            (
                Event("a.b"),
                {"expires": far},
                ConfigurationError,
                "expires: expected a moment before the year",
            )
            for far in (10**400, float("inf"), 1.8e12)
        ),
        (Event("a.b"), {"expires": 60}, ConfigurationError, 'got 60, before the year 2000; write expires="60s" for'),
        (Event("a.b"), {"at": True}, ConfigurationError, "^at: expected a datetime with a zone, "),
        (Event("a.b"), {"at": "5m", "delay": 1}, ConfigurationError, "delay= or at=, not both"),
        (Event("a.b"), {"at": 60}, ConfigurationError, "since the epoch; got 60, before the year 2000; write delay=60"),
        (Event("a.b"), {"at": 9e10}, ConfigurationError, "^at, in seconds from now: expected 100 years or less"),
        (
            7,
            {},
            ConfigurationError,
            r"7 is not an event; dispatch a name, relevo\.Event\(name, arguments\), or an",
        ),
        (ImageCreated, {}, ConfigurationError, "dispatch an instance of it"),
        (ImageCreated("seven"), {}, EncodeError, "Expected `int`, got `str`"),  # type: ignore[arg-type]
    ],
    ids=range(38),
)
def test_what_cannot_be_sent_is_refused_in_one_line_and_nothing_is_written(
    dispatcher: DeferredDispatcher,
    transport: MemoryTransport,
    event: object,
    how: dict[str, Any],
    error: type[RelevoError],
    why: str,
) -> None:
    with pytest.raises(error, match=why) as caught:
        dispatcher.dispatch(event, **how)

    assert "\n" not in str(caught.value)
    assert received(transport) == []


@pytest.mark.parametrize("value", [60, 60.0, "1m", timedelta(minutes=1)])
def test_a_moment_may_be_said_from_now_on_or_by_the_calendar(
    dispatcher: DeferredDispatcher, transport: MemoryTransport, clock: FakeClock, value: Any
) -> None:
    by_calendar = datetime.fromtimestamp(clock.now() + 60, UTC)
    from_now = clock.now() + value if isinstance(value, (int, float)) else value

    dispatcher.dispatch(Event("a.b"), at=by_calendar, expires=from_now)
    dispatcher.dispatch(Event("a.b"), at=from_now, expires=by_calendar)
    dispatcher.dispatch(Event("a.b"), at=clock.now() - 5, expires=by_calendar)

    (soon,) = envelopes(transport)
    clock.advance(59.9)
    assert received(transport) == []
    clock.advance(0.1)
    assert {one.expires for one in [soon, *envelopes(transport)]} == {clock.now()}


def test_many_events_go_in_one_batch_or_not_at_all(
    dispatcher: DeferredDispatcher, transport: MemoryTransport, clock: FakeClock
) -> None:
    with pytest.raises(EncodeError):
        dispatcher.dispatch_many([Event("a.b"), Event("a.c", {"a": object()})])
    assert received(transport) == []

    many = dispatcher.dispatch_many([Event("a.b"), ImageCreated(7)], urgency="high")

    assert dispatcher.dispatch_many([]) == []
    found = envelopes(transport)
    assert [(one.id, one.name, one.urgency) for one in found] == [
        (many[0].id, "a.b", "high"),
        (many[1].id, "image.created", "high"),
    ]


def test_whoever_awaits_dispatches_too(dispatcher: DeferredDispatcher, transport: MemoryTransport) -> None:
    async def main() -> list[str]:
        with relevo.context(user=7):
            one = await dispatcher.adispatch(Event("a.b"))
            many = await dispatcher.adispatch_many([Event("a.c"), Event("a.d")])
        return [done.id for done in (one, *many)]

    ids = asyncio.run(main())

    found = envelopes(transport)
    assert [one.id for one in found] == ids
    assert {decoded(one.body).relevocontext for one in found} == {'{"user":7}'}


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("at_the_end", [True, False])
def test_what_is_cancelled_while_it_is_awaited_is_dispatched_nevertheless(
    *, at_the_end: bool, begun: bool, dispatcher: DeferredDispatcher, transport: MemoryTransport
) -> None:
    free, sending = threading.Event(), threading.Event()
    send = transport.send

    def slow(envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        sending.set()
        free.wait(60.0)
        send(envelopes, delay=delay)

    transport.send = slow  # type: ignore[method-assign]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(executor := ThreadPoolExecutor(1))
        if not begun:
            executor.submit(free.wait, 60.0)
        with relevo.context(user=7):
            task = asyncio.create_task(dispatcher.adispatch(Event("a.b", id="1")))
        await asyncio.sleep(0)
        if begun:
            await loop.run_in_executor(ThreadPoolExecutor(1), sending.wait, 60.0)
        if at_the_end:
            loop.call_soon(free.set)
            return
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        free.set()

    asyncio.run(main())

    assert [(one.id, context_of(decoded(one.body))["user"]) for one in envelopes(transport)] == [("1", 7)]


def test_what_is_cancelled_before_it_is_awaited_is_not_dispatched(
    dispatcher: DeferredDispatcher, transport: MemoryTransport
) -> None:
    async def main() -> None:
        task = asyncio.create_task(dispatcher.adispatch(Event("a.b")))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert envelopes(transport) == []


# --- context ------------------------------------------------------------------------------------------------


def test_the_context_is_carried_the_inner_wins_and_the_events_own_arguments_win_over_all(
    transport: MemoryTransport, clock: FakeClock
) -> None:
    class Plugin:
        @hookimpl
        def relevo_enrich(self) -> dict[str, Any]:
            return {"user": 1, "host": "web1"}

    dispatcher = DeferredDispatcher(transport, clock=clock, hooks=relevo.Hooks([Plugin()]))
    with relevo.context(user=2, lang="es", correlation_id="request-9"):
        with relevo.context(lang="en", size="large"):
            dispatcher.dispatch(Event("a.b", {"user": 3}))
            dispatcher.dispatch(ImageCreated(7))
        dispatcher.dispatch(Event("a.b"))
    dispatcher.dispatch(Event("a.b"))

    documents = [decoded(one.body) for one in envelopes(transport)]
    assert [context_of(document) for document in documents] == [
        {"host": "web1", "lang": "en", "size": "large"},
        {"host": "web1", "user": 2, "lang": "en"},
        {"host": "web1", "user": 2, "lang": "es"},
        {"host": "web1", "user": 1},
    ]
    assert [document.correlationid for document in documents] == ["request-9"] * 3 + [None]


@pytest.mark.parametrize("correlation_id", ["", 7, "a\nb", "x" * 256, "\ud800"])
def test_a_correlation_is_a_line_of_text(correlation_id: Any) -> None:
    with (
        pytest.raises(ConfigurationError, match="correlation_id: expected 1 to 255"),
        relevo.context(correlation_id=correlation_id),
    ):
        pass


def test_a_context_ends_with_its_block_even_if_that_fails(
    dispatcher: DeferredDispatcher, transport: MemoryTransport
) -> None:
    with pytest.raises(ZeroDivisionError), relevo.context(user=7):
        raise ZeroDivisionError
    dispatcher.dispatch(Event("a.b"))

    assert decoded(envelopes(transport)[0].body).relevocontext is None


@pytest.mark.parametrize("queue", ["a b", "", None])
def test_a_queue_that_cannot_be_one_is_refused_at_once(transport: MemoryTransport, queue: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"DeferredDispatcher: .* cannot name a queue"):
        DeferredDispatcher(transport, queue=queue)


@pytest.mark.parametrize("source", ["", "my shop", None])
def test_a_source_that_cannot_be_one_is_refused_at_once(transport: MemoryTransport, source: Any) -> None:
    with pytest.raises(ConfigurationError, match="source: "):
        DeferredDispatcher(transport, source=source)


class Plain(MemoryTransport):
    """It claims little."""

    capabilities = Capabilities(durability="process", lease="timed")


@pytest.mark.parametrize(
    "how, claim, argument",
    [({"urgency": "high"}, "urgency", "urgency="), ({"ordering_key": "k"}, "order", "ordering_key=")],
)
def test_what_a_transport_does_not_claim_is_refused(
    clock: FakeClock, how: dict[str, Any], claim: str, argument: str
) -> None:
    with pytest.raises(UnsupportedError, match=f"does not support {claim}; remove {argument}, or use a transport"):
        DeferredDispatcher(Plain(clock=clock)).dispatch(Event("a.b"), **how)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)), max_size=5))
def test_what_was_dispatched_is_received_in_order(events: list[dict[str, int]]) -> None:
    transport = MemoryTransport(clock=FakeClock())
    dispatcher = DeferredDispatcher(transport, clock=FakeClock())

    sent = [dispatcher.dispatch(Event("a.b", arguments)).id for arguments in events]

    envelopes = [delivery.envelope for delivery in received(transport)]
    assert [envelope.id for envelope in envelopes if isinstance(envelope, Envelope)] == sent
    assert [
        generic(decoded(envelope.body)).arguments for envelope in envelopes if isinstance(envelope, Envelope)
    ] == events


def test_a_marked_listener_is_heard_by_both_dispatchers(
    dispatcher: DeferredDispatcher,
    transport: MemoryTransport,
    worker: Callable[..., relevo.Worker],
    table: ListenerTable,
) -> None:
    heard: list[Event] = []

    @listener("a.b")
    def hear(event: Event) -> None:
        heard.append(attrs.evolve(event, id=None))

    table.extend([hear])
    event = Event("a.b", {"a": [1, {"b": None}]}, subject=Subject("image", "7"))

    LocalDispatcher(table).dispatch(event)
    dispatcher.dispatch(event)
    worker(options=relevo.RunOptions(until_empty=True)).run()

    assert heard == [event, event]


def test_a_bound_dispatcher_shares_the_listeners(dispatcher: DeferredDispatcher) -> None:
    @listener("image.created")
    def create_thumbnails(event: Event) -> None: ...

    bound = dispatcher.bound_to(object())
    bound.listen(create_thumbnails)

    assert bound.listeners is dispatcher.listeners
    assert [each.function for each in dispatcher.listeners("image.created")] == [create_thumbnails]
    bound.unlisten(create_thumbnails)
    assert not dispatcher.has_listeners()


def test_a_bound_dispatcher_refuses_no_session_and_another_one(dispatcher: DeferredDispatcher) -> None:
    with pytest.raises(ConfigurationError, match="bound_to: expected a session; got None"):
        dispatcher.bound_to(None)
    with pytest.raises(ConfigurationError, match="bound to another session; leave session= out"):
        dispatcher.bound_to(object()).dispatch(Event("image.created"), session=object())
