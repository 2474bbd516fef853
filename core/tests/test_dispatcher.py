from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

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
    ListenerTable,
    LocalDispatcher,
    Subject,
    SubjectType,
    SubjectTypes,
    Target,
    hookimpl,
    listener,
)
from relevo._codec import decoded, generic
from relevo._listener import Mark
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
        Event("image.created", {"size": "large"}, subject=Subject("image", "9")),
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
    assert (call.queue, call.attempt, call.losses, call.event_id, call.source, call.time) == ("now", 1, 0, "", "", "")
    assert call.context == {}


def test_an_object_that_is_the_subject_is_handed_on_without_loading_it(local: Local) -> None:
    image = Image(None)
    found: list[object] = []

    local(lambda event, call: found.append(call.subject)).dispatch(Event("image.created", subject=image))

    assert found[0] is image


def test_a_subject_of_no_type_is_refused_as_it_would_be_later(local: Local) -> None:
    with pytest.raises(SubjectError, match="object is not registered"):
        local().dispatch(Event("image.created", subject=object()))


# --- later --------------------------------------------------------------------------------------------


@pytest.fixture(name="dispatcher")
def _dispatcher(transport: MemoryTransport, clock: FakeClock) -> DeferredDispatcher:
    return DeferredDispatcher(transport, source="shop", clock=clock, subjects=SubjectTypes([IMAGES]))


def received(transport: MemoryTransport, queue: str = "default") -> list[Delivery]:
    return list(transport.receive([queue], limit=100, lease=60.0, wait=0.0))


def only(transport: MemoryTransport, queue: str = "default") -> Envelope:
    (delivery,) = received(transport, queue)
    assert isinstance(delivery.envelope, Envelope)
    return delivery.envelope


def test_an_event_is_written_to_the_transport(
    dispatcher: DeferredDispatcher, transport: MemoryTransport, clock: FakeClock
) -> None:
    done = dispatcher.dispatch(
        Event("image.created", {"a": [1]}),
        queue="media",
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
        (Event("a.b", {"a": "x" * 1024 * 1024}), {}, EncodeError, "1,048,576 are allowed"),
        (Event("a.b", subject=object()), {}, SubjectError, "object is not registered as a subject"),
        (Event("a.b", subject=Image(None)), {}, SubjectError, 'subject of type "image" has no id yet; flush it first'),
        (Event("a.b", id=""), {}, EncodeError, "id: must be 1 to 255 printable"),
        (Event("a.b", id="x" * 256), {}, EncodeError, "id: must be 1 to 255 printable"),
        (Event("a.b", id="a\0"), {}, EncodeError, "id: must be 1 to 255 printable"),
        (Event("a.b", id=7), {}, EncodeError, "id: must be 1 to 255 printable"),  # type: ignore[arg-type]
        (Event("a.b"), {"queue": "a b"}, ConfigurationError, "dispatch: 'a b' cannot name a queue"),
        (Event("a.b"), {"queue": None}, ConfigurationError, "cannot name a queue"),
        (Event("a.b"), {"delay": -1}, ConfigurationError, "the delay of a dispatch cannot be -1"),
        (Event("a.b"), {"delay": "soon"}, ConfigurationError, "the delay of a dispatch cannot be 'soon'"),
        (Event("a.b"), {"urgency": "hgih"}, EncodeError, "urgency: is 'hgih', it must be normal or high"),
        (Event("a.b"), {"urgency": []}, EncodeError, "urgency: is"),
        (Event("a.b"), {"ordering_key": ""}, EncodeError, "ordering_key: must be"),
        (Event("a.b"), {"ordering_key": 7}, EncodeError, "ordering_key: must be"),
        (Event("a.b"), {"ordering_key": "\ud800"}, EncodeError, "ordering_key: must be"),
        (Event("a.b"), {"expires": "1h"}, EncodeError, "expires: is '1h', it must be seconds since the epoch"),
        (Event("a.b"), {"expires": float("nan")}, EncodeError, "expires: is nan"),
        ("a.b", {}, ConfigurationError, "dispatch relevo.Event"),
        (ImageCreated, {}, ConfigurationError, "dispatch an instance of it"),
        (ImageCreated("seven"), {}, EncodeError, "Expected `int`, got `str`"),  # type: ignore[arg-type]
    ],
    ids=range(22),
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


@pytest.mark.parametrize("source", ["", "my shop", None])
def test_a_source_that_cannot_be_one_is_refused_at_once(transport: MemoryTransport, source: Any) -> None:
    with pytest.raises(ConfigurationError, match="source: "):
        DeferredDispatcher(transport, source=source)


class Plain(MemoryTransport):
    """It claims little."""

    capabilities = Capabilities(durability="process", lease="timed")


@pytest.mark.parametrize("how, claim", [({"urgency": "high"}, "urgency"), ({"ordering_key": "k"}, "order")])
def test_what_a_transport_does_not_claim_is_refused(clock: FakeClock, how: dict[str, Any], claim: str) -> None:
    with pytest.raises(UnsupportedError, match=f"does not support {claim}"):
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
