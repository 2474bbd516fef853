"""Routes by class: which route an event takes, and that its listeners run there wherever its class is known."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from hypothesis import given, settings, strategies as st

import relevo
from relevo import App, Call, Envelope, Event, QueueOptions, RouteNotFoundError, Routes, Target, listener
from relevo._event.event import declared
from relevo._transport.class_route import declared_below
from relevo._transport.sent_to import HEADER
from relevo.errors import ConfigurationError, NotAcceptedError
from relevo.testing import FakeClock
from relevo_memory import ManualRunner, MemoryTransport

from .application import Make, Plain, waiting
from .shop import Shop


class Media:
    """A base class that declares no event."""


@relevo.event("image.stored")
@attrs.frozen
class ImageStored(Media):
    path: str


@relevo.event("image.created")
@attrs.frozen
class ImageCreated(ImageStored):
    """Derived from an event, and an event of its own."""


class Audited: ...


@relevo.event("image.deleted")
@attrs.frozen
class ImageDeleted(Audited, ImageStored): ...


@relevo.event("mail.sent")
@attrs.frozen
class MailSent:
    path: str


EVENTS = (ImageStored, ImageCreated, ImageDeleted, MailSent)
NAMES: dict[type, str] = {each: declared(each).name for each in EVENTS}


def at(key: object) -> str:
    """Return a target that no other key has."""
    return "main/" + (key.__name__ if isinstance(key, type) else str(key).replace("*", "+"))


# --- the most specific route -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["image.created", Media, "image.*", "*"], "image.created"),
        ([Media, ImageCreated, ImageStored, "image.created*"], ImageCreated),
        ([Media, ImageStored], ImageStored),
        ([Media, "image.*", "*"], Media),
        ([ImageDeleted, MailSent, "*", "image.*"], "image.*"),
        ([ImageDeleted, "*"], "*"),
    ],
)
def test_a_name_comes_first_then_the_nearest_class_then_the_longest_pattern(keys: list[Any], expected: object) -> None:
    routes = Routes({key: at(key) for key in keys})

    assert [str(each) for each in routes.targets("image.created")] == [at(expected)]
    assert routes.targets("image.created", ImageCreated) == routes.targets("image.created")


KEYS = (Media, Audited, *EVENTS, *NAMES.values(), "image.*", "image.c*", "mail.*", "*")


@pytest.mark.lengthy("tries many cases")
@given(st.lists(st.sampled_from(KEYS), unique=True), st.sampled_from(EVENTS))
@settings(max_examples=500)
def test_the_route_is_the_one_of_the_plain_rules(keys: list[Any], cls: type) -> None:
    name = NAMES[cls]
    is_doubled = any(each in keys and NAMES[each] in keys for each in EVENTS)
    expected = _by_the_rules(keys, cls, name)
    if is_doubled:
        with pytest.raises(ConfigurationError, match="has another route"):
            Routes({key: at(key) for key in keys})
        return
    routes = Routes({key: at(key) for key in keys})

    for given_class in (cls, None):
        if expected is None:
            with pytest.raises(RouteNotFoundError):
                routes.targets(name, given_class)
        else:
            assert [str(each) for each in routes.targets(name, given_class)] == [at(expected)]


def _by_the_rules(keys: list[Any], cls: type, name: str) -> object:
    """Return the key whose route an event takes, by asking of each key whether it fits, and of each pair which wins."""
    ranked: list[tuple[int, int, object]] = []
    for key in keys:
        if isinstance(key, type):
            if issubclass(cls, key):
                ranked.append((1, cls.__mro__.index(key), key))
        elif key == name:
            ranked.append((0, 0, key))
        elif key.endswith("*") and name.startswith(key[:-1]):
            ranked.append((2, -len(key), key))
    return min(ranked, key=lambda each: each[:2])[2] if ranked else None


def test_a_class_that_is_defined_later_is_covered_from_then_on(make: Make) -> None:
    app = make(routes={Media: "main/media", "*": "main/rest"})
    before = app.dispatch("video.created")
    routed = app.routes.routing("video.created")

    @relevo.event("video.created")
    @attrs.frozen
    class VideoCreated(Media): ...

    assert [str(each) for each in before.targets] == ["main/rest"]
    media = (Target("main", "media"),)
    assert app.dispatch("video.created").targets == app.dispatch(VideoCreated()).targets == media
    assert "video.created" in app.routes.names()
    assert (routed.targets, app.routes.routing("video.created").targets) == ((Target("main", "rest"),), media)


def test_classes_with_many_ways_to_a_base_are_looked_at_once() -> None:
    lowest: tuple[type, ...] = (root := type("Root", (), {}),)
    for _ in range(50):
        lowest = (type("Left", lowest, {}), type("Right", lowest, {}))
    relevo.event("far.below")(attrs.frozen(type("FarBelow", lowest, {})))

    assert declared_below([root]).keys() == {"far.below"}


class Old: ...


class New: ...


@pytest.mark.parametrize("bases", [(Old, New), (New, Old)])
def test_of_two_classes_with_one_name_the_later_one_gives_a_named_event_its_route(
    make: Make, bases: tuple[type, type]
) -> None:
    first, second = [relevo.event("twice.declared")(attrs.frozen(type("Twice", (base,), {}))) for base in bases]
    routes = Routes({base: at(base) for base in bases})

    assert [str(each) for each in routes.targets("twice.declared")] == [at(bases[1])]
    assert [str(each) for each in routes.targets("twice.declared", first)] == [at(bases[0])]
    assert [str(each) for each in routes.targets("twice.declared", second)] == [at(bases[1])]
    app = make(routes={base: at(base) for base in bases})
    results = [app.dispatch(event) for event in (first(), second(), "twice.declared")]
    assert [str(each.targets[0]) for each in results] == [at(bases[0]), at(bases[1]), at(bases[1])]


# --- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "error"),
    [
        ({object: "main"}, r'^routes: every class is derived from object; write "\*"'),
        ({type: "main"}, r"declares no event"),
        ({Envelope: "main"}, r"^routes: .*Envelope.* declares no event, and neither does a class derived from it"),
        (
            {ImageCreated: "main", "image.created": "main"},
            r"^routes: class .*ImageCreated, which is the event .image.created., has another route, that of 'image.cr",
        ),
        ({Media: []}, r'^routes."class .*test_class_routes.Media": expected at least one target; got none$'),
        ({Media: 3}, r'^routes."class .*test_class_routes.Media": expected a target, .*; got 3$'),
        ({Media: "mian"}, r'^routes."class .*Media": no transport is called \'mian\'; did you mean "main"\?$'),
        ({ImageCreated(path=""): "main"}, r"cannot match an event"),
    ],
)
def test_what_is_no_route_by_class_is_refused(make: Make, table: Any, error: str) -> None:
    with pytest.raises(ConfigurationError, match=error):
        make(routes=table)


def test_two_definitions_of_a_class_have_one_route() -> None:
    made = [relevo.event("again.made")(attrs.frozen(type("AgainMade", (), {}))) for _ in range(2)]
    bases = [type("AgainBase", (), {}) for _ in range(2)]
    derived = [relevo.event("x.y")(attrs.frozen(type("Derived", (base,), {}))) for base in bases]

    for classes in (made, bases):
        with pytest.raises(ConfigurationError, match=r"has another route, that of class .*Again"):
            Routes(dict.fromkeys(classes, "main"))
    assert derived


def test_an_event_without_a_route_is_told_which_classes_have_one() -> None:
    with pytest.raises(RouteNotFoundError) as caught:
        Routes({Media: "main/media", "mail.*": "main"}).targets("feed.read")

    assert str(caught.value) == (
        f'no route for "feed.read"; routes: "class {__name__}.Media", "mail.*"; an event that is dispatched by its '
        'name is of a class if the module of that is imported; add one under [routes], for example "*" = "main"'
    )


def test_several_mistakes_are_reported_together(make: Make) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make(routes={int: "main", Media: "mian", ImageCreated: "main", "image.created": "now"})

    assert [line.partition(";")[0][:40] for line in str(caught.value).splitlines()] == [
        "routes: <class 'int'> declares no event,",
        f"routes: class {__name__}.ImageCreated, which"[:40],
        f'routes."class {__name__}.Media": no'[:40],
    ]


def test_a_queue_that_accepts_no_event_of_a_class_is_refused(make: Make) -> None:
    queues = {"media": QueueOptions(accept=("image.stored",))}

    with pytest.raises(
        ConfigurationError, match=r'routes."class .*MailSent": main/media accepts no event of this route'
    ):
        make(routes={MailSent: "main/media"}, queues=queues)
    app = make(routes={Media: "main/media"}, queues=queues)
    app.dispatch(ImageStored(""))
    with pytest.raises(NotAcceptedError):
        app.dispatch(ImageCreated(""))
    assert waiting(app, queue="media") == 1


def test_the_queues_of_classes_are_served_and_have_options(make: Make) -> None:
    app = make(routes={Media: ["main/media", "main/feed"]}, retries={"main/feed": 3}, queues={"feed": QueueOptions()})

    assert app.queues("main") == ("media", "feed")
    assert repr(app.routes) == f"<Routes class {__name__}.Media: main/media, main/feed>"


def test_a_class_that_cannot_be_sent_to_all_its_targets_together_is_refused(make: Make) -> None:
    transports = {"main": Plain(), "other": Plain()}

    with pytest.raises(ConfigurationError, match=r'"class .*Media" is routed to several transports'):
        make(transports=transports, routes={Media: ["main", "other"]})


# --- where listeners run ---------------------------------------------------------------------------------


@pytest.fixture(name="ran")
def _ran() -> list[tuple[str, str]]:
    return []


@pytest.fixture(name="note")
def _note(ran: list[tuple[str, str]]) -> Callable[..., None]:
    def note(event: object, call: Call) -> None:
        ran.append((event.path if isinstance(event, ImageStored) else event["path"], call.queue))  # type: ignore[index]

    return note


@pytest.fixture(name="worker")
def _worker(clock: FakeClock) -> Iterator[Callable[..., App]]:
    made: list[App] = []

    def worker(**parts: Any) -> App:
        made.append(App(source="shop", clock=clock, **parts))
        return made[-1]

    yield worker
    for each in made:
        each.close()


def test_listeners_run_in_the_queue_of_the_class(make: Make, note: Any, ran: list[tuple[str, str]]) -> None:
    app = make(routes={Media: "main/media", "*": "main"})
    app.add_listener(ImageCreated, note)

    app.dispatch(ImageCreated("typed"))
    app.dispatch("image.created", {"path": "named"})
    asyncio.run(app.adispatch(ImageCreated("awaited")))
    app.dispatch_many(ImageCreated(each) for each in "ab")
    ManualRunner().run(app)

    assert ran == [(each, "media") for each in ("typed", "named", "awaited", "a", "b")]


@pytest.mark.parametrize("knows", ["the sender", "the worker"])
def test_an_event_is_handled_once_although_only_one_side_knows_its_class(
    make: Make, worker: Callable[..., App], note: Any, ran: list[tuple[str, str]], knows: str
) -> None:
    """As if the other process had not imported the class: it has the pattern alone."""
    main = MemoryTransport()
    both: list[dict[Any, Any]] = [{Media: "main/media", "*": "main"}, {MailSent: "main/media", "*": "main"}]
    of_sender, of_worker = both if knows == "the sender" else both[::-1]
    sender = make(transports={"main": main}, routes=of_sender)
    app = worker(transports={"main": MemoryTransport(main.store)}, routes=of_worker)
    app.add_listener("image.created", note)

    sender.dispatch("image.created", {"path": "sea"})
    ManualRunner().run(app)

    assert ran == [("sea", "media" if knows == "the sender" else "default")]


def test_an_event_of_an_earlier_release_without_the_header_is_handled_by_the_route(
    make: Make, worker: Callable[..., App], note: Any, ran: list[tuple[str, str]]
) -> None:
    main = MemoryTransport()
    sender = make(transports={"main": main}, routes={"*": "main/media"})
    app = worker(transports={"main": MemoryTransport(main.store)}, routes={Media: "main/media", "*": "main"})
    app.add_listener(ImageCreated, note)

    sender.dispatch("image.created", {"path": "sea"})
    ManualRunner().run(app)

    assert ran == [("sea", "media")]


def test_only_events_that_may_be_routed_by_class_have_the_header(make: Make) -> None:
    plain, classes = make(routes={"*": "main"}), make(routes={Media: "main", "image.stored": "main", "*": "main"})

    plain.dispatch(ImageCreated(""))
    for event in (ImageCreated(""), ImageStored(""), MailSent("")):
        classes.dispatch(event)

    assert [HEADER in each for each in _headers(plain)] == [False]
    assert [HEADER in each for each in _headers(classes)] == [True, False, True]


def _headers(app: App) -> list[Any]:
    found = [each.envelope for each in app.transport().receive(["default"], limit=9, lease=60, wait=0)]
    return [each.headers for each in found if isinstance(each, Envelope)]


def test_a_class_may_be_handled_in_process(make: Make, note: Any, ran: list[tuple[str, str]]) -> None:
    app = make(routes={Media: "now", "*": "main"})
    app.add_listener("image.created", note)

    app.dispatch(ImageCreated("sea"))
    asyncio.run(app.adispatch("image.created", {"path": "lake"}))

    assert ran == [("sea", "now"), ("lake", "now")]
    assert app._calls_listeners([Event("mail.sent"), ImageStored("")], {})
    assert not app._calls_listeners([Event("mail.sent")], {})


def test_a_chosen_target_comes_before_the_class(make: Make) -> None:
    app = make(routes={Media: "main/media", "*": "main"})

    assert app.dispatch(ImageCreated(""), to="main").targets == (Target("main"),)


def test_a_listener_that_the_route_of_the_class_leaves_out_is_an_error_at_the_start(make: Make) -> None:
    @listener(ImageCreated, queue="feed")
    def show(event: ImageCreated) -> None: ...

    app = make(show, routes={Media: "main/media", "*": "main/feed"})

    with pytest.raises(
        ConfigurationError, match=r'runs in the queue "feed", but "image.created" is routed to main/media'
    ):
        app.worker()


def test_a_bypassed_listener_is_logged_at_the_first_dispatch(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    @listener(ImageCreated, queue="feed", id="show")
    def show(event: ImageCreated) -> None: ...

    app = make(show, routes={Media: "main/media", "*": "main/feed"})

    app.dispatch(ImageCreated(""))
    app.dispatch(ImageCreated(""))

    assert [each.partition(":")[0] for each in caplog.messages] == ["show will not get this event"]


def test_the_event_of_a_class_is_known_to_a_test(make: Make) -> None:
    app = make(routes={Media: "main/media", "*": "main"})

    with app.testing() as t:
        t.refute_dispatched("image.created")
        with pytest.raises(ConfigurationError, match=r'did you mean "image.deleted"'):
            t.refute_dispatched("image.deletd")
        app.dispatch(ImageCreated("sea"))
        t.dispatched(ImageCreated, path="sea", queue="media")
        with pytest.raises(ConfigurationError, match=r'did you mean "image.created"'):
            t.refute_dispatched("image.crated")


PROGRAM = """
import attrs, relevo

class Media: ...

@relevo.event("image.created")
@attrs.frozen
class ImageCreated(Media):
    path: str

@relevo.event("image.deleted")
@attrs.frozen
class ImageDeleted(Media):
    path: str

@relevo.listener("image.created")
def thumbnails(event): print("made", event["path"])

app = relevo.App(
    transports={"main": "sqlite:///shop.db"},
    routes={Media: "main/media", "*": "main"},
    listeners=[thumbnails],
    source="shop",
)
"""


def test_commands_show_and_use_the_routes_of_classes(shop: Shop) -> None:
    shop.write("program.py", PROGRAM)
    shop.write("relevo.toml", 'app = "program:app"\n')

    listed = shop.run("listeners --json")
    checked = shop.run("check")
    sent = shop.run("""dispatch image.created '{"path": "sea"}'""")
    misspelt = shop.run("list --event image.deletd")
    drained = shop.run("drain")

    assert json.loads(listed.stdout)[0]["target"] == "main/media"
    assert 'no listener here for "image.deleted" in main/media' in checked.stdout + checked.stderr
    assert sent.stdout.split()[1:] == ["→", "main/media"]
    assert 'did you mean "image.deleted"' in misspelt.stderr
    assert "made sea" in drained.stdout
