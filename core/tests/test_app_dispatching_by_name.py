"""A dispatch of a name with arguments, in every form of a dispatcher."""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import attrs
import msgspec
import pytest

from relevo import (
    App,
    Call,
    DeferredDispatcher,
    Dispatcher,
    Event,
    ListenerTable,
    LocalDispatcher,
    Subject,
    SubjectType,
    event,
    hookimpl,
    listener,
)
from relevo._app.registry import Registry
from relevo.errors import ConfigurationError, DuplicateEventError, EncodeError, EventNameError
from relevo_memory import MemoryTransport

from .application import Make, drain

IMAGE = Subject("image", "7")


def test_a_name_and_arguments_are_an_event(make: Make) -> None:
    heard: list[Event] = []
    app = make()
    app.add_listener("image.created", heard.append, id="hear")

    sent = [
        app.dispatch("image.created", {"path": "sea.jpg"}, subject=IMAGE, urgency="high"),
        app.dispatch("image.created"),
    ]
    drain(app)

    assert heard == [
        Event("image.created", {"path": "sea.jpg"}, subject=IMAGE, id=sent[0].id),
        Event("image.created", id=sent[1].id),
    ]


def test_many_events_are_not_names_and_the_error_says_what_to_write(make: Make) -> None:
    app = make()

    with pytest.raises(ConfigurationError, match=r"'order.odd' is not an event; dispatch relevo\.Event\('order.o"):
        app.dispatch_many(["order.odd"])
    with pytest.raises(ConfigurationError, match=r"got the text 'order.odd'; write dispatch\('order.odd', {…}\)"):
        app.dispatch_many("order.odd")


def _bound() -> Dispatcher:
    return App(transports={}, routes={"*": "now"}).bound_to(object())


@pytest.mark.parametrize("make_it", [LocalDispatcher, _bound], ids=["local", "bound"])
def test_each_dispatcher_takes_a_name(make_it: Callable[[], Dispatcher]) -> None:
    heard: list[Event] = []
    dispatcher = make_it()
    dispatcher.add_listener("image.created", heard.append, id="hear")

    dispatcher.dispatch("image.created", {"path": "sea.jpg"}, subject=IMAGE)
    asyncio.run(dispatcher.adispatch("image.created", {"path": "tree.jpg"}))

    assert [attrs.evolve(each, id=None) for each in heard] == [
        Event("image.created", {"path": "sea.jpg"}, subject=IMAGE),
        Event("image.created", {"path": "tree.jpg"}),
    ]


def test_a_deferred_dispatcher_takes_a_name() -> None:
    with MemoryTransport() as transport:
        sent = DeferredDispatcher(transport).dispatch("image.created", {"path": "sea.jpg"})

        assert [each.envelope.id for each in transport.find(sent.id)] == [sent.id]


def test_a_call_takes_a_name(make: Make) -> None:
    heard: list[Event] = []

    @listener("image.created")
    def follow(event: Event, call: Call) -> None:
        call.dispatch("image.rated", {"stars": event["stars"]}, subject=IMAGE)

    app = make(follow)
    app.add_listener("image.rated", heard.append, id="hear")
    app.dispatch("image.created", {"stars": 4})
    drain(app)

    assert [(each.arguments, each.subject) for each in heard] == [({"stars": 4}, IMAGE)]


@pytest.mark.parametrize(
    "given, more, kind, why",
    [
        (("image created",), {}, EventNameError, "image created"),
        (("image.created", [1]), {}, EncodeError, "arguments: expected a mapping with text keys; got list"),
        (
            (Event("image.created"), {"a": 1}),
            {},
            ConfigurationError,
            r"dispatch: arguments can only be passed with the name of an event; got Event\(.*; write dispatch\(\"image",
        ),
        ((Event("image.created"),), {"subject": IMAGE}, ConfigurationError, "dispatch: subject= can only be passed"),
    ],
    ids=["name", "list", "event and arguments", "event and subject"],
)
def test_what_cannot_be_dispatched_says_what_would(
    make: Make, given: tuple[Any, ...], more: Any, kind: type[Exception], why: str
) -> None:
    with pytest.raises(kind, match=why):
        make().dispatch(*given, **more)


def test_an_argument_that_is_passed_as_an_option_says_where_it_belongs(make: Make) -> None:
    told = r'no option size=…; the arguments of an event are one mapping: dispatch\("order", {"size": …}'

    for dispatcher in (LocalDispatcher(), make()):
        with pytest.raises(TypeError, match=told):
            dispatcher.dispatch("order", size=1)  # type: ignore[call-arg, arg-type]


# --- the class of the name ----------------------------------------------------------------------------------------


@event("image.rated", version=3, subject="image_id", of="image")
@attrs.frozen
class ImageRated:
    image_id: int
    stars: int = attrs.field(default=1, validator=attrs.validators.le(5))


@pytest.mark.parametrize(
    "arguments, why",
    [
        ({"nope": 1}, r"the data does not fit ImageRated: Object missing required field `image_id`"),
        ({"image_id": "seven"}, r"the data does not fit ImageRated: Expected `int`, got `str` - at `\$\.image_id`"),
        ({"image_id": 7, "stars": 9}, r"the data does not fit ImageRated: .*'stars' must be <= 5: 9"),
        ({"image_id": 7, "stars": {1}}, r"\$\.stars: set is not JSON"),
    ],
)
def test_a_name_with_a_class_is_validated_with_it_before_anything_is_sent(
    arguments: dict[str, object], why: str
) -> None:
    transport = MemoryTransport()
    rate = listener(ImageRated)(lambda event: None)
    table = ListenerTable()
    table.extend([rate])
    ways = [
        App(transports={"main": transport}, routes={"*": "main"}, listeners=[]),
        DeferredDispatcher(transport, listeners=table),
    ]
    ways[0].listen(rate)
    assert ways[0].listeners

    for way in ways:
        with pytest.raises(EncodeError, match=why):
            way.dispatch("image.rated", arguments)
        with pytest.raises(EncodeError, match="at index 1 cannot be sent: " + why):
            way.dispatch_many([Event("image.other"), Event("image.rated", arguments)])

    assert transport.stats("default").ready == 0


def test_a_valid_event_by_name_has_its_own_id_and_the_version_of_its_class(make: Make) -> None:
    heard: list[ImageRated] = []
    app = make()
    app.add_listener(ImageRated, heard.append, id="rate")

    sent = app.dispatch(Event("image.rated", msgspec.to_builtins(ImageRated(7, 5)), id="k1"))
    app.dispatch("image.rated", {"stars": 2}, subject=IMAGE)
    bodies = [msgspec.json.decode(entry.envelope.body) for entry in app.transport("main").waiting(["default"])]
    drain(app)

    assert sent.id == "k1"
    assert [body["dataversion"] for body in bodies] == [3, 3]
    assert heard == [ImageRated(7, 5), ImageRated(7, 2)]


def test_a_subject_without_a_name_yet_leaves_the_validation_to_the_worker(make: Make) -> None:
    class Image:
        id = 7

    app = make(
        listener(ImageRated, id="rate")(lambda event: None),
        subjects=[SubjectType(type="image", cls=Image, name=lambda each: str(each.id), load=lambda _: None)],
    )
    assert app.listeners

    app.dispatch("image.rated", {"stars": 2}, subject=Image())

    assert drain(app).done == 1


def test_an_instance_as_arguments_is_refused_with_the_remedy() -> None:
    with pytest.raises(EncodeError, match=r"got an instance of ImageRated, .* pass msgspec\.to_builtins\(event\)"):
        Event("image.rated", ImageRated(7), id="k1")  # type: ignore[arg-type]


@attrs.frozen
class TenantEvent(Event):
    tenant: str = attrs.field(kw_only=True)


def test_plugins_get_the_event_as_it_was_dispatched(make: Make) -> None:
    seen: list[object] = []

    class Plugin:
        @hookimpl
        def relevo_enrich(self, event: object) -> dict[str, str]:
            seen.append(event)
            return {}

    app = make(listener(ImageRated, id="rate")(lambda event: None), plugins=[Plugin()])
    assert app.listeners
    given = TenantEvent("image.rated", {"image_id": 7}, tenant="north")

    app.dispatch(given)

    assert seen == [given]
    (entry,) = app.transport("main").waiting(["default"])
    assert msgspec.json.decode(entry.envelope.body)["dataversion"] == 3


def test_an_event_is_not_validated_with_the_class_of_a_listener_that_was_removed(make: Make) -> None:
    app = make(listener(ImageRated, id="rate")(lambda event: None))
    app.remove_listener("rate")

    app.dispatch("image.rated", {"nope": 1})

    assert app.transport("main").stats("default").ready == 1


def test_an_object_of_a_subject_type_among_the_data_is_refused_with_the_remedy(make: Make) -> None:
    class Photograph:
        pass

    kind = SubjectType(type="photograph", cls=Photograph, name=lambda _: "7", load=lambda _: None)
    app = make(subjects=[kind])

    with pytest.raises(
        EncodeError, match=r"\$\.photo: .*Photograph is not JSON.*; pass it as subject=, as it is a photograph$"
    ):
        app.dispatch("image.created", {"photo": Photograph()})
    with pytest.raises(EncodeError, match=r"declare the event as a class: .*bytes$"):
        app.dispatch("image.created", {"photo": object()})


# --- classes of listeners that nothing has registered yet ------------------------------------------------

_PHOTOS = """
import attrs
import relevo


@relevo.event("image.rated", version=2, upcasters={1: dict})
@attrs.frozen
class ImageRated:
    path: str
    rating: int


@relevo.listener(ImageRated)
def update_feed(event): ...


class Subscriber:
    @relevo.listener(ImageRated)
    def count(self, event): ...


subscriber = Subscriber()
"""


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the name of a module with listeners, which is not imported yet."""
    (tmp_path / "rated_photos.py").write_text(_PHOTOS)
    monkeypatch.syspath_prepend(tmp_path)
    yield "rated_photos"
    sys.modules.pop("rated_photos", None)


@pytest.mark.parametrize("how", ["function", "subscriber", "module", "name", "an attribute's name", "listen"])
def test_a_name_is_validated_with_the_class_whatever_was_called_before(make: Make, photos: str, how: str) -> None:
    module = importlib.import_module(photos)
    given: object = {
        "function": module.update_feed,
        "subscriber": module.subscriber,
        "module": module,
        "name": photos,
        "an attribute's name": f"{photos}:subscriber",
        "listen": photos,
    }[how]
    app = make() if how == "listen" else make(given)
    if how == "listen":
        app.listen(given)

    for _ in range(2):
        with pytest.raises(EncodeError, match=r"the data does not fit ImageRated: .* missing required field `rating`"):
            app.dispatch("image.rated", {"path": "sea.jpg"})
    app.dispatch("image.rated", {"path": "sea.jpg", "rating": 5})
    app.dispatch("image.created", {"path": "sea.jpg"})

    main = cast("MemoryTransport", app.transport())
    bodies = [each.envelope.body for each in main.waiting(["default"])]
    assert [b'"dataversion":2' in body for body in bodies] == [True, False]


def test_a_dispatch_imports_no_listener_and_notices_one_that_was_imported(make: Make, photos: str) -> None:
    app = make("surely_missing", photos)

    app.dispatch("image.rated", {"path": "sea.jpg"})
    imported = photos in sys.modules
    importlib.import_module(photos)

    assert not imported
    with pytest.raises(EncodeError, match="does not fit ImageRated"):
        app.dispatch("image.rated", {"path": "sea.jpg"})


def test_an_instance_of_another_class_is_refused_before_the_listeners_are_registered(make: Make, photos: str) -> None:
    app = make(photos)
    importlib.import_module(photos)

    @event("image.rated")
    @attrs.frozen
    class Other:
        path: str

    with pytest.raises(DuplicateEventError):
        app.dispatch(Other("sea.jpg"))


def test_a_module_that_dispatches_while_it_is_imported_is_used_as_far_as_it_is(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _, second = _PHOTOS.partition("class Subscriber")
    asking = "import asked_application\nasked_application.dispatch()\n"
    (tmp_path / "asking_photos.py").write_text(f"{asking}\n{first}\n{asking}\nclass Subscriber{second}")
    (tmp_path / "asked_application.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    app = make("asking_photos")
    found: list[bool] = []

    def dispatch() -> None:
        try:
            app.dispatch("image.rated", {"path": "sea.jpg"})
        except EncodeError:
            found.append(False)
        else:
            found.append(True)

    vars(importlib.import_module("asked_application"))["dispatch"] = dispatch
    importlib.import_module("asking_photos")
    dispatch()

    assert found == [True, False, False]


def test_a_module_that_grew_while_it_was_imported_is_looked_at_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rebinding_photos.py").write_text(
        f"{_PHOTOS.replace('@relevo.listener(ImageRated)', '')}\nimport asked_by_rebinding\n"
        "asked_by_rebinding.dispatch()\nupdate_feed = relevo.listener(ImageRated)(update_feed)\n"
    )
    (tmp_path / "asked_by_rebinding.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    app = make("rebinding_photos")
    asked = importlib.import_module("asked_by_rebinding")
    vars(asked)["dispatch"] = lambda: app.dispatch("image.rated", {"path": "sea.jpg"})
    importlib.import_module("rebinding_photos")

    with pytest.raises(EncodeError, match="does not fit ImageRated"):
        app.dispatch("image.rated", {"path": "sea.jpg"})


def test_listeners_that_cannot_be_registered_keep_no_event_from_being_dispatched(make: Make, photos: str) -> None:
    module = importlib.import_module(photos)

    @event("image.rated")
    @attrs.frozen
    class Other:
        path: str

    @listener(Other)
    def use_other(event: Other) -> None: ...

    app = make(listener("image.rated", id="a")(lambda event: None), module, use_other, "math")

    with pytest.raises(EncodeError, match="does not fit ImageRated"):
        app.dispatch("image.rated", {"path": "sea.jpg"})
    app.dispatch("image.rated", {"path": "sea.jpg", "rating": 5})


def test_a_listener_that_was_removed_before_it_was_registered_validates_nothing(make: Make, photos: str) -> None:
    module = importlib.import_module(photos)
    app = make(photos)

    app.unlisten(module.update_feed, module.subscriber)
    app.dispatch("image.rated", {"path": "sea.jpg"})
    app.listen(module.update_feed)

    with pytest.raises(EncodeError, match="does not fit ImageRated"):
        app.dispatch("image.rated", {"path": "sea.jpg"})


def test_a_dispatch_waits_for_no_thread_that_imports_the_listeners(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_photos.py").write_text(f"{_PHOTOS}\nimport gate_of_photos\ngate_of_photos.wait()\n")
    (tmp_path / "gate_of_photos.py").write_text(
        "import threading\nbegun, go = threading.Event(), threading.Event()\n"
        "def wait():\n    begun.set()\n    go.wait(60)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    gate: Any = importlib.import_module("gate_of_photos")
    app = make("slow_photos")
    thread = threading.Thread(target=lambda: app.listeners)
    thread.start()
    assert gate.begun.wait(60)

    try:
        with pytest.raises(EncodeError, match="does not fit ImageRated"):
            app.dispatch("image.rated", {"path": "sea.jpg"})
    finally:
        gate.go.set()
        thread.join(60)
    assert len(app.listeners) == 2


_INCOMPLETE = """
from __future__ import annotations
import attrs
import relevo

@relevo.event("image.rated")
@attrs.frozen
class ImageRated:
    rating: Rating


@relevo.listener(ImageRated)
def update_feed(event): ...
"""


@pytest.fixture
def incomplete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a module with a listener for a class whose field is of a type that is not defined."""
    (tmp_path / "incomplete_photos.py").write_text(_INCOMPLETE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("incomplete_photos")
    sys.modules.pop("incomplete_photos", None)


def test_a_class_that_stays_incomplete_is_looked_at_seldom(incomplete: Any) -> None:
    registry, began = Registry([incomplete]), time.monotonic()

    tables = [registry.imported for _ in range(200)]

    assert len({id(each) for each in tables}) <= 2 + (time.monotonic() - began)


def test_a_class_that_is_completed_later_is_looked_at_again(incomplete: Any) -> None:
    registry = Registry([incomplete])

    before = len(registry.imported)
    incomplete.Rating = int

    assert (before, len(registry.imported)) == (0, 1)


@pytest.mark.lengthy("waits")
def test_a_class_that_is_completed_from_another_module_is_looked_at_again_a_little_later(incomplete: Any) -> None:
    registry = Registry([incomplete])
    incomplete.Rating = None
    incomplete.Rating = attrs.make_class("Rating", {"stars": attrs.field(type=cast("Any", "Stars"))})
    incomplete.Rating.__module__ = "stars_of_photos"
    stars: Any = ModuleType("stars_of_photos")
    sys.modules["stars_of_photos"] = stars
    try:
        before = len(registry.imported)
        stars.Stars = int
        end = time.monotonic() + 60
        while not len(registry.imported) and time.monotonic() < end:
            time.sleep(0.01)

        assert (before, len(registry.imported)) == (0, 1)
    finally:
        del sys.modules["stars_of_photos"]


class _Raising:
    @listener("image.rated")
    def count(self, event: object) -> None: ...

    def __getattribute__(self, name: str) -> Any:
        raise LookupError("working outside of a request")


def test_what_raises_while_modules_are_looked_at_keeps_no_event_from_being_dispatched(
    make: Make, photos: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "relevo.app")
    app = make(_Raising(), photos)
    importlib.import_module(photos)

    with pytest.raises(EncodeError, match="does not fit ImageRated"):
        app.dispatch("image.rated", {"path": "sea.jpg"})
    app.dispatch("image.rated", {"path": "sea.jpg", "rating": 5})

    assert "working outside of a request" in caplog.text


def test_a_function_that_was_given_and_defined_again_validates_with_its_new_class(make: Make, photos: str) -> None:
    module = importlib.import_module(photos)
    app = make(module.update_feed, "surely_missing")
    Path(str(module.__file__)).write_text(_PHOTOS.replace("    rating: int\n", ""))

    importlib.invalidate_caches()
    importlib.reload(module)

    app.dispatch("image.rated", {"path": "sea.jpg"})


def test_a_module_that_was_removed_and_imported_again_is_looked_at_again(make: Make, photos: str) -> None:
    module = importlib.import_module(photos)
    app = make(photos)
    app.dispatch("image.rated", {"path": "sea.jpg", "rating": 5})
    del sys.modules[photos]
    Path(str(module.__file__)).write_text(_PHOTOS.replace("    rating: int\n", ""))
    importlib.invalidate_caches()
    importlib.import_module(photos)

    app.dispatch("image.rated", {"path": "sea.jpg"})
