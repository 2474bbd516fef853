from __future__ import annotations

import asyncio
import contextlib
import functools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, assert_type

import attrs
import pytest

import relevo
from relevo import (
    App,
    Call,
    DeferredDispatcher,
    Dispatched,
    Envelope,
    Event,
    Execution,
    LocalDispatcher,
    Report,
    Retry,
    RunOptions,
    Subject,
    SubjectType,
    Target,
    TransportUnavailableError,
    hookimpl,
    listener,
)
from relevo._codec import decoded
from relevo.errors import (
    ConfigurationError,
    DuplicateEventError,
    DuplicateListenerError,
    EncodeError,
    PluginError,
    RouteNotFoundError,
    SendError,
    SessionError,
    SubjectError,
    UnsupportedError,
)
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

DRAIN = RunOptions(until_empty=True)


class Plain(MemoryTransport):
    """It joins no session, and claims no order and no urgency."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, transactional=False, order="none", urgency=False)


@pytest.fixture(name="make")
def _make(clock: FakeClock) -> Iterator[Callable[..., App]]:
    """Make an application, with one memory transport called main if nothing is said."""
    made: list[App] = []

    def make(*listeners: object, **how: Any) -> App:
        parts: dict[str, Any] = {"transports": {"main": MemoryTransport(clock=clock)}, "routes": {"*": "main"}}
        made.append(App(listeners=listeners, source="shop", **{**parts, "clock": clock, "chance": lambda: 0.0, **how}))
        return made[-1]

    yield make
    for app in made:
        app.close()


Make = Callable[..., App]


def drain(app: App, transport: str | None = None) -> Report:
    return app.worker(attrs.evolve(DRAIN, transport=transport)).run()


def waiting(app: App, transport: str = "main", queue: str = "default") -> int | None:
    return app.transport(transport).stats(queue).ready


# --- the parts fit together ---------------------------------------------------------------------------


def test_an_event_goes_where_its_route_says_and_is_handled_there(make: Make) -> None:
    heard: list[Event] = []

    @listener("image.created")
    def hear(event: Event) -> None:
        heard.append(event)

    app = make(hear)
    done = app.dispatch(Event("image.created", {"image_id": 7}))
    report = drain(app)

    assert done.targets == (Target("main", "default"),)
    assert heard == [Event("image.created", {"image_id": 7}, id=done.id)]
    assert (report.done, report.dead) == (1, 0)


def test_a_transport_is_called_what_the_application_calls_it(make: Make, clock: FakeClock) -> None:
    transport = MemoryTransport(clock=clock, name="something else")

    app = make(transports={"main": transport})

    assert transport.name == "main"
    assert app.transport() is app.transport("main") is transport


@pytest.mark.parametrize(
    "how, why",
    [
        ({"transports": {"main": "sqlite:///x.db"}}, "'main' is str, not a relevo.Transport; App.from_config"),
        ({"transports": {"now": MemoryTransport()}}, "transports: 'now' cannot be the name of one"),
        ({"transports": {"a/b": MemoryTransport()}}, "transports: 'a/b' cannot be the name of one"),
        ({"transports": {}}, "no transport is called 'main'"),
        ({"routes": {"*": "mian"}}, "no transport is called 'mian'; did you mean \"main\""),
        ({"routes": {"*": 3}}, "3 is not a target"),
        ({"setup": "Auto"}, 'setup: expected "auto" or "explicit"'),
        ({"patience": "soon"}, "patience cannot be 'soon'"),
        ({"lease": -1}, "lease cannot be -1"),
        ({"plugins": "shop.plugin"}, "plugins: expected several, got the text"),
        ({"outboxes": {"mian": MemoryTransport()}}, 'outboxes: no transport is called "mian"; did you mean "main"'),
        ({"outboxes": {"main": "sqlite:///x.db"}}, "outboxes: 'main' is str, not a relevo.Transport"),
        ({"outboxes": {"main": Plain()}}, "cannot join a session, so it cannot keep what is meant for"),
        ({"outboxes": "main"}, "outboxes: expected what there is by its name, as in {…: …}, got 'main'"),
        ({"transports": None}, "transports: expected what there is by its name"),
        ({"routes": None}, "routes: expected what there is by its name"),
        ({"retries": [3]}, "retries: expected what there is by its name"),
        ({"plugins": ["mail"]}, "plugins: 'mail' is text; give the object or the module that has the hooks"),
        ({"plugins": None}, "plugins: expected several, got None"),
        ({"signing": b"x" * 40}, "signing: a key is text, not bytes; give one, or several in a list"),
        ({"signing": ["x" * 40, 3]}, "signing: a key is text, not int"),
        ({"signing": 3}, "signing: a key is text, not int"),
        ({"execution": "thread"}, "execution is inline, threads or process, not 'thread'; did you mean \"threads\""),
        ({"execution": 4}, r"execution: expected relevo\.Execution\(…\), or its kind alone, got 4"),
        ({"clock": 4}, r"clock: 4 is none; one has now\(\), monotonic\(\) and sleep\(…\)"),
        ({"lock": 4}, "lock: expected a path, got 4"),
        ({"deploy": ["x"]}, r"deploy: expected a path, got \['x'\]"),
        ({"chance": 0.5}, "chance: expected a function, got 0.5"),
        ({"ids": "x"}, "ids: expected a function, got 'x'"),
        ({"subjects": 3}, "subjects: expected several, got 3; put it into a list"),
    ],
    ids=range(30),
)
def test_parts_that_do_not_fit_are_refused_at_once(make: Make, how: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        make(**how)


def test_all_that_does_not_fit_is_told_at_once(make: Make) -> None:
    transports = {"main": MemoryTransport(), "plain": Plain(), "box": Plain()}
    routes = {"a": "mian", "b": ["main", "plain"], "c": ["box", "main"]}

    with pytest.raises(ConfigurationError) as caught:
        make(transports=transports, outboxes={"box": Plain(name="file")}, routes=routes, retries={"main/x": 3})

    assert [line.partition(";")[0] for line in str(caught.value).splitlines()] == [
        'the outbox "file" cannot join a session, so it cannot keep what is meant for "box"',
        "routes.\"a\": no transport is called 'mian'",
        'retries."main/x": nothing is routed to that queue',
    ]


def test_what_is_wrong_with_the_parts_one_by_one_is_told_with_the_rest(make: Make) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make(routes={"a*b": "main", "c": "mian", "d": []}, retries={"main/x": 3, "main/y": 0}, lease=0, setup="no")

    assert {line.partition(":")[0] for line in str(caught.value).splitlines()} == {
        'routes."a*b"',
        'routes."c"',
        'routes."d"',
        "Retry",
        "lease is 0.0 s, 1.0 s is the least that can be renewed",
        "setup",
    }


def test_where_listeners_run_can_be_said_by_itself(make: Make) -> None:
    assert make(execution="threads").execution == Execution("threads")


@pytest.mark.parametrize(
    "given, why",
    [
        (Plain, r"subjects: <class '.*Plain'> is no relevo\.SubjectType; make one, .*relevo_sql\.orm_subject"),
        ("image", "subjects: 'image' is no relevo.SubjectType"),
        ({"type": 3}, "subjects: of a SubjectType type= is text, such as image, not 3"),
        ({"cls": "Image"}, "subjects: of a SubjectType cls= is a class, not 'Image'"),
        ({"name": "id"}, "subjects: of a SubjectType name= is a function from an instance to its id, not 'id'"),
        ({"load": None}, "subjects: of a SubjectType load= is a function from an id to the instance, not None"),
    ],
    ids=range(6),
)
def test_what_is_no_kind_of_subject_is_refused_where_it_is_registered(make: Make, given: Any, why: str) -> None:
    parts: dict[str, Any] = {"type": "image", "cls": Plain, "name": str, "load": str}
    kind = SubjectType(**{**parts, **given}) if isinstance(given, dict) else given

    with pytest.raises(SubjectError, match=why):
        make().add_subject(kind)
    with pytest.raises(SubjectError, match=why):
        make(subjects=[kind])


def test_the_source_is_checked_and_listeners_are_several() -> None:
    with pytest.raises(ConfigurationError, match="source: 'my shop' cannot be one"):
        App(transports={}, routes={}, source="my shop")
    with pytest.raises(ConfigurationError, match=r"listeners: expected several, got the text 'shop.listeners'"):
        App(transports={}, routes={}, listeners="shop.listeners")
    with pytest.raises(ConfigurationError, match=r"listeners: expected several, got None; put it into a list"):
        App(transports={}, routes={}, listeners=None)  # type: ignore[arg-type]


def test_one_transport_has_one_name(make: Make) -> None:
    transport = MemoryTransport()

    with pytest.raises(ConfigurationError, match="is there under another name too"):
        make(transports={"main": transport, "other": transport})


def test_a_transport_is_chosen_by_name(make: Make) -> None:
    app = make(transports={"main": MemoryTransport(), "other": MemoryTransport()})

    assert app.transport("other").name == "other"
    with pytest.raises(ConfigurationError, match=r"there are several transports \(main, other\); choose one"):
        app.transport()
    with pytest.raises(
        ConfigurationError, match=r'no transport is called "othr"; did you mean "other"\?; there are: main, other'
    ):
        app.transport("othr")


# --- listeners ----------------------------------------------------------------------------------------


def test_modules_are_imported_at_first_use_and_not_before(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_listeners.py").write_text("import relevo\n@relevo.listener('a.b')\ndef late(event): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    app = make("late_listeners")

    app.dispatch(Event("a.b"))
    before = "late_listeners" in sys.modules
    found = [each.id for each in app.listeners]

    assert not before
    assert found == ["late_listeners:late"]


def test_a_module_that_could_not_be_imported_is_tried_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    app = make("later_listeners")

    for _ in range(2):
        with pytest.raises(ConfigurationError, match='there is no module "later_listeners"'):
            app.listeners  # noqa: B018 - it imports
    (tmp_path / "later_listeners.py").write_text("import relevo\n@relevo.listener('a.b')\ndef late(event): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert len(app.listeners) == 1


def test_listeners_can_be_added_until_they_are_needed(make: Make) -> None:
    @listener("a.b")
    def one(event: Event) -> None: ...

    @listener("a.b", id=f"{__name__}:{one.__qualname__}")
    def same_id(event: Event) -> None: ...

    app = make()
    app.listen(one)
    assert len(app.listeners) == 1
    app.listen(one)
    assert len(app.listeners) == 1
    app.listen(same_id)

    with pytest.raises(DuplicateListenerError):
        app.worker()


@relevo.event("photo.made")
@attrs.frozen
class PhotoMade:
    number: int = 7


@relevo.event("photo.made")
@attrs.frozen
class OtherPhotoMade:
    number: int = 7


@pytest.mark.parametrize(
    "thing, why",
    [
        (
            "image.created",
            r'listen: \'image.created\' is no module that can be found; put @relevo.listener\("…"\) above',
        ),
        ("not a module", r"is no module that can be found; .* or write app.add_listener\(\"…\", function\)"),
        (
            PhotoMade,
            r"PhotoMade'> is an event; put @relevo.listener\(…\) above the function and @app.listen above that",
        ),
        (print, "has no listener; put @relevo.listener"),
        (object(), "has no listener; put @relevo.listener"),
    ],
)
def test_what_cannot_hold_a_listener_is_refused_where_it_is_registered_and_leaves_nothing_behind(
    make: Make, thing: object, why: str
) -> None:
    app = make()

    with pytest.raises(ConfigurationError, match=why):
        app.listen(thing)

    app.add_listener("a.b", print)
    assert len(app.listeners) == 1


def test_an_application_registers_by_a_decorator_too(make: Make) -> None:
    app = make()

    @app.listen
    @listener("a.b")
    def one(event: Event) -> int:
        return 1

    assert_type(one(Event("a.b")), int)
    assert [each.function for each in app.listeners] == [one]


@pytest.mark.parametrize("target", ["main", "now"])
def test_an_event_of_another_class_than_the_one_that_is_listened_for_is_refused_at_the_dispatch(
    make: Make, target: str
) -> None:
    app = make(routes={"*": target})
    app.add_listener(PhotoMade, lambda event: None)
    app.dispatch(PhotoMade())
    app.dispatch(Event("photo.made", {"number": 8}))

    with pytest.raises(DuplicateEventError, match=r'"photo.made" is declared twice: by .*PhotoMade.*OtherPhotoMade'):
        app.dispatch(OtherPhotoMade())


def test_a_listener_that_names_a_transport_with_its_queue_is_told_to_leave_it_out(make: Make) -> None:
    @listener("image.created", queue="main/feed", id="update")
    def update(event: Event) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        make(update, routes={"image.*": ["main/media", "main/feed"]}).worker()

    assert str(caught.value) == (
        'update: it runs in the queue "main/feed", but "image.created" is routed to main/media, main/feed; '
        'a listener names its queue without the transport: queue="feed"'
    )


def test_a_listener_in_a_queue_without_a_route_is_told_at_the_start(make: Make) -> None:
    @listener("image.created", queue="meida", id="thumbnails")
    def thumbnails(event: Event) -> None: ...

    @listener("feed.read", id="reader")
    def reader(event: Event) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        make(thumbnails, reader, routes={"image.*": ["main/media", "main/feed"]}).worker()

    first, second = str(caught.value).splitlines()
    assert first == (
        'reader: no route for "feed.read"; routes: "image.*"; add one under [routes], for example "*" = "main"'
    )
    assert second == (
        'thumbnails: it runs in the queue "meida", but "image.created" is routed to '
        'main/media, main/feed; did you mean "media"?'
    )


def test_a_worker_is_not_started_on_a_queue_that_nothing_is_routed_to(make: Make) -> None:
    app = make(routes={"*": "main/media"})

    with pytest.raises(
        ConfigurationError,
        match=r'nothing is routed to the queue "meida" of "main"; did you mean "media"\?; there are: media',
    ):
        app.worker(RunOptions(queues=("meida",)))


def test_a_target_that_no_listener_here_serves_is_told_at_the_start(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    hear = listener("a.b", id="hear")(lambda event: None)
    app = make(hear, routes={"a.b": ["main/media", "main/feed", "now"], "*": "main"})

    app.worker(RunOptions(queues=("media",)))
    assert caplog.messages == []
    app.worker()

    (told,) = caplog.messages
    assert told.startswith('"a.b" is routed to main/feed, but no listener here runs there')


def test_more_listeners_than_a_state_can_keep_are_refused_at_the_start(make: Make) -> None:
    many = [listener("a.b", id=f"{number:0100}")(functools.partial(print)) for number in range(100)]

    with pytest.raises(ConfigurationError, match=r'"a\.b" has 100 listeners in main/default, and what they did takes'):
        make(*many).worker()


def test_a_transport_without_delays_is_refused_at_the_start_since_nothing_could_be_retried(make: Make) -> None:
    class Hasty(MemoryTransport):
        capabilities = attrs.evolve(MemoryTransport.capabilities, delay=None)

    with pytest.raises(ConfigurationError, match='the transport "main" does not support delay'):
        make(transports={"main": Hasty()}).worker()


def test_every_listener_runs_in_one_queue(make: Make) -> None:
    heard: list[str] = []

    @listener("image.created", queue="feed", id="feed")
    @listener("image.deleted", id="deleted")
    def hear(event: Event, call: Call) -> None:
        heard.append(f"{call.listener_id} in {call.queue}")

    @listener("image.created", id="first")
    def first(event: Event, call: Call) -> None:
        heard.append(f"{call.listener_id} in {call.queue}")

    app = make(hear, first, routes={"image.*": ["main/media", "main/feed"]})
    app.dispatch(Event("image.created"))
    report = drain(app)

    assert sorted(heard) == ["feed in feed", "first in media"]
    assert report.done == 2


# --- dispatching --------------------------------------------------------------------------------------


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
    assert done == Dispatched(id="", targets=(Target("now"),))
    assert waiting(app) == 0


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

    def send(envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        names = [each.name for each in envelopes]
        assert names == ["a.e", "a.b", "a.c"]
        raise SendError("main", sent=[0, 1], why="full", **{fate: [2]})

    app.transports["main"].send = send  # type: ignore[method-assign]
    with pytest.raises(SendError) as caught:
        app.dispatch_many([Event("a.d"), Event("a.e"), Event("a.b"), Event("a.d")])

    error = caught.value
    assert (list(error.sent), list(error.refused), list(error.unknown)) == ([0, 1, 3], [], [2])


@pytest.mark.parametrize("terms", [{"urgency": "soon"}, {"ordering_key": ""}, {"expires": "soon"}])
def test_what_is_handled_now_has_the_same_terms_so_that_a_route_can_change(make: Make, terms: dict[str, Any]) -> None:
    heard: list[Event] = []
    app = make(listener("a.b")(functools.partial(heard.append)), routes={"*": "now"})

    app.dispatch(Event("a.b"), urgency="high", ordering_key="k", expires=9e9, session=object())
    with pytest.raises((EncodeError, ConfigurationError)):
        app.dispatch(Event("a.b"), **terms)

    assert len(heard) == 1


def test_what_is_handled_now_cannot_be_delayed(make: Make) -> None:
    with pytest.raises(ConfigurationError, match=r'"a.b" is called at once, it cannot be delayed'):
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


class Partial(MemoryTransport):
    """It takes the first envelope, refuses the second, and of the rest it does not know."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        raise SendError("x", sent=[0], refused=[1], unknown=range(2, len(envelopes)), why="a bad line")


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


def test_what_a_call_dispatches_is_sent_after_its_listener_and_not_if_it_failed(make: Make) -> None:
    left: list[int | None] = []
    failing = [True]

    @listener("a.b", retry=Retry(2, first=0, jitter=0))
    def first(event: Event, call: Call) -> None:
        call.dispatch(Event("a.c"), delay="1m")
        call.dispatch(Event("a.d"))
        left.append(waiting(app, queue="next"))
        if failing.pop():
            failing.append(False)
            raise ValueError

    app = make(first, routes={"a.b": "main", "*": "main/next"})
    app.dispatch(Event("a.b"))
    app.worker(RunOptions(until_empty=True, settle=1, queues=("default",))).run()

    assert left == [0, 0]
    stats = app.transport().stats("next")
    assert (stats.ready, stats.scheduled) == (1, 1)


@pytest.mark.parametrize("route", ["main", "now"])
@pytest.mark.parametrize("fails", [False, True], ids=["returned", "failed"])
def test_a_call_whose_listener_has_ended_dispatches_nothing_and_says_so(make: Make, route: str, *, fails: bool) -> None:
    calls: list[Call] = []

    @listener("a.b", retry=1)
    def hear(event: Event, call: Call) -> None:
        calls.append(call)
        if fails:
            raise ZeroDivisionError

    app = make(hear, routes={"a.b": route, "*": "main/next"})
    with contextlib.suppress(ZeroDivisionError):
        app.dispatch(Event("a.b"))
        app.worker(RunOptions(until_empty=True, queues=("next",) if route == "now" else ("default",))).run()

    with pytest.raises(ConfigurationError, match=r"test_app.*hear: the listener has ended.*app\.dispatch"):
        calls[0].dispatch(Event("a.c"))
    assert waiting(app, queue="next") == 0


def test_what_a_thread_is_about_to_dispatch_when_its_listener_returns_is_sent_too(make: Make) -> None:
    begun, settled = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    class Slow:
        @hookimpl
        def relevo_enrich(self, event: Event) -> None:
            if event.name == "a.c":
                begun.set()
                settled.wait(0.2)  # it comes to that only if nobody waits for this dispatch

        @hookimpl
        def relevo_around_settle(self) -> None:
            settled.set()

    @listener("a.b")
    def hear(event: Event, call: Call) -> None:
        threads.append(threading.Thread(target=call.dispatch, args=(Event("a.c"),)))
        threads[0].start()
        begun.wait()

    app = make(hear, routes={"a.b": "main", "*": "main/next"}, plugins=[Slow()])
    app.dispatch(Event("a.b"))
    app.worker(RunOptions(until_empty=True, queues=("default",))).run()
    threads[0].join()

    assert waiting(app, queue="next") == 1


def test_a_listener_that_is_run_again_dispatches_the_same_events_again(make: Make, clock: FakeClock) -> None:
    ids: list[str] = []

    class Forgetful(MemoryTransport):
        capabilities = attrs.evolve(MemoryTransport.capabilities, checkpoint=False)

        def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
            ids.extend(envelope.id for envelope in envelopes)
            super().send(envelopes, delay=delay)

    @listener("a.b")
    def twice(event: Event, call: Call) -> None:
        call.dispatch(Event("a.c"))
        call.dispatch(Event("a.c"))

    transport = Forgetful(clock=clock)
    app = make(twice, transports={"main": transport}, routes={"a.b": "main", "*": "main/next"})
    app.dispatch(Event("a.b"))
    caller = app.worker()._handle
    (delivery,) = transport.receive(["default"], limit=1, lease=60.0, wait=0.0)
    caller(delivery)
    caller(delivery)

    assert ids[1:3] == ids[3:5]
    assert len(set(ids)) == 3
    assert ids[1][:13] == ids[0][:13]
    assert waiting(app, queue="next") == 2


def test_what_is_called_at_once_within_a_listener_dispatches_events_of_their_own(make: Make) -> None:
    @listener("a.b")
    def outer(event: Event) -> None:
        app.dispatch(Event("now"))
        app.dispatch(Event("now"))

    @listener("now")
    def inner(event: Event, call: Call) -> None:
        call.dispatch(Event("a.c"))

    app = make(outer, inner, routes={"now": "now", "a.b": "main", "*": "main/next"})
    app.dispatch(Event("a.b"))
    app.worker(RunOptions(until_empty=True, queues=("default",))).run()

    assert waiting(app, queue="next") == 2


def test_what_is_dispatched_at_once_came_of_the_event_that_is_written_too(make: Make) -> None:
    @listener("a.b", queue="now")
    def at_once(event: Event) -> None:
        app.dispatch(Event("a.c"))

    app = make(at_once, routes={"a.b": ["main", "now"], "*": "main/next"})
    done = app.dispatch(Event("a.b"))
    (one,) = app.transport().receive(["next"], limit=9, lease=60.0, wait=0.0)

    assert isinstance(one.envelope, Envelope)
    document = decoded(one.envelope.body)
    assert (document.causationid, document.correlationid) == (done.id, done.id)


def test_a_listener_that_says_something_else_when_it_is_run_again_dispatches_another_event(
    make: Make, clock: FakeClock
) -> None:
    greetings = ["welcome.sent", "goodbye.sent"]

    @listener("a.b")
    def greet(event: Event, call: Call) -> None:
        call.dispatch(Event(greetings.pop(0)))

    app = make(greet, routes={"a.b": "main", "*": "main/next"})
    app.dispatch(Event("a.b"))
    handle = app.worker()._handle
    (delivery,) = app.transport().receive(["default"], limit=1, lease=60.0, wait=0.0)
    handle(delivery)
    handle(delivery)

    names = {one.envelope.name for one in app.transport().receive(["next"], limit=9, lease=60.0, wait=0.0)}  # type: ignore[union-attr]
    assert names == {"welcome.sent", "goodbye.sent"}


def test_two_subjects_are_two_events_of_a_listener_that_is_run_twice(make: Make) -> None:
    names = ["1", "2"]

    @listener("a.b")
    def find(event: Event, call: Call) -> None:
        call.dispatch(Event("image.found", subject=Subject("image", names.pop(0))))

    app = make(find, routes={"a.b": "main", "*": "main/next"})
    app.dispatch(Event("a.b"))
    handle = app.worker()._handle
    (delivery,) = app.transport().receive(["default"], limit=1, lease=60.0, wait=0.0)
    handle(delivery)
    handle(delivery)

    assert waiting(app, queue="next") == 2


@pytest.mark.parametrize("wrong", ["sesion", "dealy", "nonsense"])
def test_a_misspelt_term_is_told_wherever_it_is_said(make: Make, wrong: str) -> None:
    told: list[str] = []
    misspelt: Any = {wrong: 1}

    @listener("a.b", retry=1)
    def hear(event: Event, call: Call) -> None:
        with pytest.raises(TypeError, match=f"a dispatch has no {wrong}="):
            call.dispatch(Event("a.c"), **misspelt)
        told.append(wrong)

    app = make(hear)
    main = app.transport()
    dispatchers = (app, make(routes={"*": "now"}), DeferredDispatcher(main), LocalDispatcher())
    for dispatcher in dispatchers:
        with pytest.raises(TypeError, match=f"a dispatch has no {wrong}="):
            dispatcher.dispatch_many([Event("a.b")], **misspelt)
        with pytest.raises(TypeError, match=f"a dispatch has no {wrong}="):
            asyncio.run(dispatcher.adispatch(Event("a.b"), **misspelt))
    app.dispatch(Event("a.b"))
    drain(app)

    assert told == [wrong]
    assert waiting(app) == 0


def test_what_is_called_at_once_sees_the_context_that_a_later_listener_would_see(make: Make) -> None:
    seen: list[Any] = []

    @listener("n.x")
    @listener("d.x")
    def look(event: Event, call: Call) -> None:
        seen.append((dict(call.context), call.correlation_id))

    class Plugin:
        @hookimpl
        def relevo_enrich(self) -> dict[str, Any]:
            return {"host": "web1"}

    app = make(look, routes={"n.*": "now", "*": "main"}, plugins=[Plugin()])
    with relevo.context(user=1, other=2, correlation_id="c1"):
        app.dispatch(Event("n.x", {"user": 9}))
        app.dispatch(Event("d.x", {"user": 9}))
    drain(app)

    assert seen == [({"host": "web1", "other": 2}, "c1")] * 2


def test_listeners_that_come_and_go_while_transports_are_swapped_are_the_same_as_before_afterwards(
    make: Make, clock: FakeClock
) -> None:
    app = make()
    goes = app.add_listener("a.b", print, id="goes")
    stays = app.add_listener("a.b", print, id="stays")
    last = app.add_listener("a.b", print, id="last", priority=-1)

    with app.swapped(transports={"main": MemoryTransport()}, outboxes={}, clock=clock):
        app.remove_listener(goes)
        app.add_listener("a.b", print, id="new")
        app.listen("relevo.never_imported")
        meanwhile = [each.id for each in app._table("a.b")]
    after = app.listeners("a.b")
    app.remove_listener(goes)

    assert meanwhile == ["stays", "new", "last"]
    assert after == (goes, stays, last)
    assert app.listeners("a.b") == (stays, last)


def test_a_class_that_was_listened_for_in_one_test_does_not_keep_another_one_from_its_name_in_the_next(
    make: Make, clock: FakeClock
) -> None:
    def declared() -> type:
        @relevo.event("a.b")
        @attrs.frozen
        class Made:
            pass

        return Made

    app = make()
    for _ in range(2):
        with app.swapped(transports={"main": MemoryTransport()}, outboxes={}, clock=clock):
            cls = declared()
            heard = app.add_listener(cls, print)
            assert app.listeners(cls) == (heard,)

    assert not app.has_listeners()


def test_a_module_is_taken_out_as_it_was_put_in(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaving.py").write_text(
        "import relevo\n\n@relevo.listener('a.b')\ndef one(event): ...\n\n"
        "@relevo.listener('a.c')\ndef two(event): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    stays = listener("a.b", id="stays")(functools.partial(print))
    app = make(stays, "leaving")
    before = [each.id for each in app.listeners]

    app.unlisten("leaving")
    app.listen("leaving")
    again = [each.id for each in app.listeners]
    app.unlisten(sys.modules["leaving"])
    app.unlisten("leaving", "leaving:one")

    assert sorted(before) == sorted(again) == ["leaving:one", "leaving:two", "stays"]
    assert [each.id for each in app.listeners] == ["stays"]
    with pytest.raises(ConfigurationError, match='no module "leavin"'):
        app.unlisten("leavin")


def test_keys_alone_are_enough_for_signing(make: Make) -> None:
    assert make(signing="k" * 32).signing == relevo.Signing("k" * 32)


def test_one_event_of_another_is_told_by_its_correlation_causation_and_context(make: Make) -> None:
    seen: list[tuple[str, str | None, str | None, Any]] = []

    @listener("a.b")
    @listener("a.c")
    @listener("a.d")
    def follow(event: Event, call: Call) -> None:
        seen.append((call.event_id, call.correlation_id, call.causation_id, dict(call.context)))
        if event.name == "a.b":
            app.dispatch(Event("a.c"))
        if event.name == "a.c":
            with relevo.context(size="small"):
                call.dispatch(Event("a.d"))

    app = make(follow)
    with relevo.context(user=7):
        root = app.dispatch(Event("a.b")).id
    drain(app)

    (first, second, third) = seen
    assert first == (root, root, None, {"user": 7})
    assert second[1:] == (root, root, {"user": 7})
    assert third[1:] == (root, second[0], {"user": 7, "size": "small"})


def test_a_call_in_process_dispatches_with_the_callers_session(make: Make) -> None:
    sa, orm = pytest.importorskip("sqlalchemy"), pytest.importorskip("sqlalchemy.orm")

    @listener("a.b")
    def now(event: Event, call: Call) -> None:
        call.dispatch(Event("a.c"))

    app = make(now, routes={"a.b": "now", "*": "main"})
    engine = sa.create_engine("sqlite://")
    with orm.Session(engine) as session:
        app.dispatch(Event("a.b"), session=session)
        session.rollback()
        assert waiting(app) == 0
        app.dispatch(Event("a.b"), session=session)
        session.execute(sa.text("SELECT 1"))
        session.commit()
    engine.dispose()

    assert waiting(app) == 1


def test_a_call_takes_no_session(make: Make) -> None:
    @listener("a.b", retry=1)
    def wrong(event: Event, call: Call) -> None:
        call.dispatch(Event("a.c"), session=object())

    app = make(wrong)
    app.dispatch(Event("a.b"))
    drain(app)

    (dead,) = app.transport().dead_letters(["default"], after=None, limit=9)
    assert "call.dispatch() sends after the listener, so it takes no session" in dead.error


def test_a_queue_has_a_policy_for_listeners_that_have_none(make: Make) -> None:
    runs: list[str] = []

    def fail(event: Event, call: Call) -> None:
        runs.append(call.listener_id)
        raise ValueError

    plain = listener("a.b", id="plain")(functools.partial(fail))
    own = listener("a.b", id="own", retry=1)(functools.partial(fail))
    app = make(plain, own, routes={"*": "main/media"}, retries={"main/media": Retry(3, first=0)})
    app.dispatch(Event("a.b"))
    app.worker(RunOptions(until_empty=True, settle=1)).run()

    assert sorted(runs) == ["own", "plain", "plain", "plain"]


@pytest.mark.parametrize(
    "retries, why",
    [
        ({"mian/media": 3}, r"""retries."mian/media": no transport is called 'mian'; did you mean "main"\?"""),
        ({"main/a b": 3}, "cannot name a queue"),
        ({"main": "often"}, "expected relevo.Retry"),
        ({"main/mdia": 3}, "nothing is routed to that queue"),
    ],
)
def test_a_policy_of_no_queue_is_refused(make: Make, retries: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        make(retries=retries)


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


# --- setting up ---------------------------------------------------------------------------------------


class Counting(MemoryTransport):
    """It notes how it is set up, and fails as often as it is told."""

    failures = 0

    def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        self.__dict__.setdefault("setups", []).append((tuple(queues), dry_run))
        if self.failures:
            self.failures -= 1
            raise TransportUnavailableError(self.name, "no route to it")
        return super().setup(queues, dry_run=dry_run)


def test_what_is_missing_is_created_once_at_first_use(make: Make) -> None:
    transport = Counting()
    app = make(transports={"main": transport}, routes={"image.*": "main/media", "*": "main"})
    before = dict(transport.__dict__).get("setups")

    for _ in range(3):
        app.dispatch(Event("a.b"))

    assert before is None
    assert transport.__dict__["setups"] == [(("media", "default"), False)]


def test_setting_up_is_tried_again_after_it_failed(make: Make) -> None:
    transport = Counting()
    transport.failures = 1
    app = make(transports={"main": transport})

    with pytest.raises(TransportUnavailableError):
        app.dispatch(Event("a.b"))
    app.dispatch(Event("a.b"))

    assert waiting(app) == 1


def test_explicit_setup_only_looks_and_says_what_is_missing(make: Make) -> None:
    app = make(setup="explicit")

    with pytest.raises(
        ConfigurationError, match=r'"main" is not set up, it lacks queue "default" in memory; run relevo setup'
    ):
        app.dispatch(Event("a.b"))
    created = app.setup()
    app.dispatch(Event("a.b"))

    assert created == ['queue "default" in memory']
    assert waiting(app) == 1


def test_a_dry_run_tells_what_would_be_created_outboxes_included(make: Make) -> None:
    app = make(outboxes={"main": MemoryTransport(name="box")})

    assert app.setup(dry_run=True) == ['queue "default" in memory', 'queue "outbox/main" in memory']
    assert len(app.setup()) == 2
    assert app.setup() == []


def test_what_can_be_set_up_is_although_a_server_is_down_and_every_failure_is_told(make: Make) -> None:
    transports = {"one": Counting(), "two": Counting(), "three": MemoryTransport()}
    boxes = {"one": MemoryTransport(name="one.outbox")}
    app = make(transports=transports, outboxes=boxes, routes={"a": "one", "b": "two", "c": "three"})
    transports["one"].__dict__["failures"] = transports["two"].__dict__["failures"] = 2

    with pytest.raises(TransportUnavailableError) as several:
        app.setup()
    transports["one"].__dict__["failures"] = 0
    with pytest.raises(TransportUnavailableError) as single:
        app.setup()

    assert str(several.value).splitlines() == [
        'the transport "one" is unavailable: no route to it',
        'the transport "two" is unavailable: no route to it',
    ]
    assert several.value.transport == "one"
    assert [str(each) for each in several.value.__dict__["errors"]] == str(several.value).splitlines()
    assert str(single.value) == 'the transport "two" is unavailable: no route to it'
    assert app.setup() == ['queue "default" in memory']


def test_what_the_program_must_mend_is_the_kind_of_an_error_that_tells_several(make: Make) -> None:
    class Unfit(MemoryTransport):
        def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
            raise ConfigurationError("the tables are of a newer release")

    down = Counting()
    down.failures = 1

    with pytest.raises(ConfigurationError, match=r"no route to it\nthe tables are of a newer release"):
        make(transports={"down": down, "unfit": Unfit()}, routes={}).setup()


def test_an_outbox_is_made_ready_although_its_server_is_down(make: Make) -> None:
    down, box = Counting(), MemoryTransport()
    app = make(transports={"main": down}, outboxes={"main": box})
    down.failures = 1

    with pytest.raises(TransportUnavailableError, match="no route to it"):
        app.prepare("main")

    assert box.setup(["outbox/main"], dry_run=True) == []
    app.prepare("main")
    assert len(down.__dict__["setups"]) == 2


def test_closing_closes_every_transport_even_if_one_fails() -> None:
    class Failing(MemoryTransport):
        def close(self) -> None:
            super().close()
            raise TransportUnavailableError(self.name, "gone")

    transports = {"a": Failing(), "b": Failing(), "c": MemoryTransport()}

    with pytest.raises(TransportUnavailableError), App(transports=transports, routes={}):
        pass

    for transport in transports.values():
        with pytest.raises(relevo.TransportClosedError):
            transport.stats("default")


# --- from configuration -------------------------------------------------------------------------------


def test_an_application_comes_from_configuration(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "relevo.toml"
    path.write_text(
        'source = "shop"\nlease = "5s"\n[transports]\nmain = "memory://"\nbox = {url = "memory://", outbox = "main"}\n'
    )

    with App.from_config(path, environ={"RELEVO_ROUTES": '{"*" = "main/media"}'}, clock=clock) as app:
        app.dispatch(Event("a.b"))

        (delivery,) = app.transport("main").receive(["media"], limit=1, lease=1.0, wait=0.0)
        assert isinstance(delivery.envelope, Envelope)
        assert delivery.envelope.source == "shop"
        assert app.outboxes == {"box": app.transport("main")}
        assert app.config is not None
        assert app.config.path == path


def test_signing_and_retries_come_from_configuration(tmp_path: Path) -> None:
    tmp_path.joinpath("relevo.toml").write_text(
        f'signing = ["{"n" * 32}", "{"o" * 32}"]\n[transports]\nmain = "memory://"\n[retries]\n"main" = 7\n'
    )

    with App.from_config(tmp_path / "relevo.toml", environ={}) as app:
        app.dispatch(Event("a.b"))
        (one,) = app.transport().receive(["default"], limit=1, lease=60.0, wait=0.0)

    assert app.signing is not None
    assert app.signing.required
    assert len(app.signing.keys) == 2
    assert isinstance(one.envelope, Envelope)
    assert app.signing.fault(one.envelope) is None
    assert app.retries[Target("main")].runs == 7


def test_everything_goes_to_the_first_transport_if_no_route_is_said(tmp_path: Path) -> None:
    (tmp_path / "relevo.toml").write_text('[transports]\nmain = "memory://"\n')

    with App.from_config(str(tmp_path / "relevo.toml"), environ={}) as app:
        assert app.routes.targets("anything") == (Target("main"),)


def test_plugins_are_imported_and_one_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "enriching_plugin.py").write_text(
        "import relevo\n@relevo.hookimpl\ndef relevo_enrich(event): return {'by': 'plugin'}\n"
    )
    (tmp_path / "relevo.toml").write_text('plugins = ["enriching_plugin"]\n[transports]\nmain = "memory://"\n')

    with App.from_config(tmp_path / "relevo.toml", environ={}) as app:
        assert app.hooks.enrichment(Event("a.b")) == {"by": "plugin"}
    with pytest.raises(ConfigurationError, match='plugins: there is no module "no_plugin"'):
        App.from_config(tmp_path / "relevo.toml", environ={"RELEVO_PLUGINS": "no_plugin"})


def test_opening_an_application_imports_no_listener_and_connects_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "relevo.toml").write_text(
        'listeners = ["no.such.module"]\n[transports]\nmain = "sqlite:///nowhere/x.db"\n'
    )

    with App.from_config(tmp_path / "relevo.toml", environ={}):
        assert list(tmp_path.iterdir()) == [tmp_path / "relevo.toml"]


# --- what importing costs -----------------------------------------------------------------------------

UNWANTED = [
    "asyncio",
    "click",
    "pathlib",
    "pika",
    "random",
    "rich",
    "sqlalchemy",
    "stevedore",
    "tomllib",
    "urllib.parse",
]


def test_importing_relevo_and_dispatching_in_memory_loads_nothing_that_is_not_needed() -> None:
    program = """
import sys
import attrs, pluggy, msgspec
before = set(sys.modules)
import relevo
relevo.App
print(*sorted(set(sys.modules) - before))
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert [name for name in UNWANTED if name in done.stdout.split()] == []


def test_subjects_that_are_objects_are_named_and_loaded(make: Make) -> None:
    @attrs.frozen
    class Image:
        id: int

    found: list[object] = []

    @listener("image.created")
    def look(event: Event, call: Call) -> None:
        found.extend([event.subject, call.subject])

    app = make(look)
    app.add_subject(
        SubjectType(type="image", cls=Image, name=lambda image: str(image.id), load=lambda name: Image(int(name)))
    )
    app.dispatch(Event("image.created", subject=Image(7)))
    drain(app)

    assert found == [Subject("image", "7"), Image(7)]


def test_a_subject_of_a_type_that_looks_like_a_slip_is_dispatched_and_told_once(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    image = SubjectType(type="image", cls=dict, name=lambda _: None, load=lambda _: None)
    app = make(subjects=[image])

    for kind in ("imgae", "imgae", "image", "order"):
        app.dispatch(Event("a.b", subject=Subject(kind, "1")))
    make().dispatch(Event("a.b", subject=Subject("imgae", "1")))

    assert waiting(app) == 4
    assert [each.getMessage() for each in caplog.records] == [
        "an event has a subject of the type 'imgae', which is not registered; did you mean \"image\"?"
    ]


def test_a_relay_is_there_where_an_outbox_is(make: Make) -> None:
    assert make().relay("main") is None
    assert make(outboxes={"main": MemoryTransport(name="box")}).relay("main") is not None


# --- closing ------------------------------------------------------------------------------------------


def test_a_plugin_is_told_around_the_close_and_one_that_fails_keeps_no_transport_open() -> None:
    said: list[str] = []

    class Said(MemoryTransport):
        def close(self) -> None:
            said.append("closed")
            super().close()

    class Watching:
        @relevo.hookimpl
        @contextlib.contextmanager
        def relevo_around_close(self) -> Iterator[None]:
            said.append("before")
            yield
            said.append("after")

    class Failing:
        @relevo.hookimpl
        def relevo_around_close(self) -> None:
            raise OSError("disk full")

    class Wrapping:
        @relevo.hookimpl(wrapper=True)
        def relevo_around_close(self) -> Iterator[None]:
            return (yield)

    def app(*plugins: object) -> App:
        return App(transports={"main": Said()}, routes={"*": "main"}, plugins=plugins)

    app(Watching(), Failing()).close()
    with pytest.raises(PluginError, match="return a context manager"):
        app(Wrapping()).close()

    assert said == ["before", "closed", "after", "closed"]
