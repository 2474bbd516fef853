"""What listeners get that are called by the dispatch, with the route ``now`` and by a ``LocalDispatcher``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import pytest

import relevo
from relevo import App, Call, DeferredDispatcher, Dispatcher, Event, Hooks, LocalDispatcher, Subject, SubjectType
from relevo.errors import PluginError, SubjectError
from relevo_memory import MemoryTransport

from .application import drain


@attrs.define(eq=False)
class Image:
    id: int | None = None
    path: str = "sea.jpg"


IMAGES = SubjectType(
    type="image", cls=Image, name=lambda each: None if each.id is None else str(each.id), load=lambda _: Image(0)
)


@relevo.event("image.created", subject="image_id", of="image")
@attrs.frozen
class ImageCreated:
    image_id: int
    path: str = ""


def _local(**parts: Any) -> Dispatcher:
    subjects = relevo.SubjectTypes(parts.pop("subjects", ()))
    return LocalDispatcher(subjects=subjects, hooks=Hooks(parts.pop("plugins", ())), **parts)


def _now(**parts: Any) -> Dispatcher:
    return App(routes={"*": "now"}, **parts)


@pytest.fixture(name="new", params=[_local, _now], ids=["local", "now"])
def _new(request: pytest.FixtureRequest) -> Callable[..., Dispatcher]:
    made: Callable[..., Dispatcher] = request.param
    return made


# --- the subject -------------------------------------------------------------------------------------


@pytest.mark.parametrize("subjects", [[], [IMAGES]], ids=["no type", "a type"])
@pytest.mark.parametrize("image", [Image(), Image(7), {"any": "object"}, 7], ids=["pending", "named", "dict", "int"])
def test_the_subject_is_the_object_itself(new: Callable[..., Dispatcher], image: object, subjects: Any) -> None:
    heard: list[object] = []
    dispatcher = new(subjects=subjects)

    @dispatcher.listener("image.shown")
    def hear(event: Event, call: Call) -> None:
        heard.extend([event.subject, call.subject])

    dispatcher.dispatch("image.shown", subject=image)

    assert len(heard) == 2
    assert all(each is image for each in heard)


def test_a_name_of_a_subject_is_still_loaded(new: Callable[..., Dispatcher]) -> None:
    heard: list[Any] = []
    dispatcher = new(subjects=[IMAGES])

    @dispatcher.listener("image.shown")
    def hear(event: Event, call: Call) -> None:
        heard.extend([event.subject, call.subject])

    dispatcher.dispatch("image.shown", subject=Subject("image", "7"))

    assert heard[0] == Subject("image", "7")
    assert heard[1].id == 0


def test_a_declared_class_gets_the_id_of_the_object(new: Callable[..., Dispatcher]) -> None:
    heard: list[object] = []
    dispatcher = new(subjects=[IMAGES])
    image = Image(7)

    @dispatcher.listener
    def hear(event: ImageCreated, call: Call) -> None:
        heard.extend([event, call.subject])

    dispatcher.dispatch("image.created", subject=image)

    assert heard == [ImageCreated(7), image]
    with pytest.raises(SubjectError, match="str is not registered as a subject"):
        dispatcher.dispatch("image.created", subject="an image")


def test_a_test_takes_any_subject_in_process_too() -> None:
    heard: list[object] = []
    app = App(routes={"*": "now"}, subjects=[IMAGES])
    app.add_listener("image.shown", lambda event, call: heard.append(call.subject), id="hear")
    pending, unknown = Image(), object()

    with app.testing() as t:
        app.dispatch("image.shown", subject=pending)
        app.dispatch("image.shown", subject=unknown)
        t.dispatched("image.shown", subject=pending, times=1)
        t.dispatched("image.shown", subject=unknown, times=1)
        with pytest.raises(AssertionError):
            t.dispatched("image.shown", subject=Image(9))

    assert heard == [pending, unknown]


def test_what_is_sent_too_needs_a_name_as_before() -> None:
    app = App(transports={"main": MemoryTransport()}, routes={"*": ["main", "now"]}, subjects=[IMAGES])

    with pytest.raises(SubjectError, match="is not registered as a subject"):
        app.dispatch("image.shown", subject=object())
    with pytest.raises(SubjectError, match="has no id yet"):
        app.dispatch("image.shown", subject=Image())
    app.close()


# --- the event ---------------------------------------------------------------------------------------


def test_an_event_without_arguments_can_be_changed_like_one_with_them(new: Callable[..., Dispatcher]) -> None:
    dispatcher, heard = new(), []

    @dispatcher.listener("image.shown", priority=1)
    def change(event: Event) -> None:
        event.arguments["views"] = 1  # type: ignore[index]

    dispatcher.add_listener("image.shown", lambda event: heard.append(event.get("views")), id="hear")
    dispatcher.dispatch("image.shown")
    dispatcher.dispatch(Event("image.shown"))

    assert heard == [1, 1]
    assert Event("image.shown") == Event("image.shown", {})


def test_the_dictionary_of_the_caller_is_not_written_to(new: Callable[..., Dispatcher]) -> None:
    dispatcher, given = new(), {"views": 0}

    @dispatcher.listener("image.shown")
    def change(event: Event) -> None:
        event.arguments["views"] += 1  # type: ignore[index]

    event = Event("image.shown", given)
    dispatcher.dispatch(event)

    assert given == {"views": 0}
    assert event["views"] == 1


def test_lists_and_dictionaries_inside_the_caller_s_are_not_written_to(new: Callable[..., Dispatcher]) -> None:
    dispatcher = new()
    tags, sizes = ["sea"], ({"width": 1},)
    given: dict[str, Any] = {"tags": tags, "again": tags, "deep": {"rows": [[1], [2]]}, "sizes": sizes}
    given["deep"]["self"] = given["deep"]

    @dispatcher.listener("image.shown")
    def change(event: Event) -> None:
        event["tags"].append("sky")
        event["deep"]["rows"][1].append(3)

    event = Event("image.shown", given)
    with contextlib.suppress(relevo.errors.EncodeError):  # a dictionary inside of itself cannot be sent
        dispatcher.dispatch(event)
    with contextlib.suppress(relevo.errors.EncodeError):
        LocalDispatcher(listeners=dispatcher.listeners).dispatch(event)

    assert (tags, given["deep"]["rows"]) == (["sea"], [[1], [2]])
    assert event["tags"][:2] == ["sea", "sky"]
    assert event["again"] is event["tags"]
    assert event["deep"]["self"] is event["deep"]
    assert event["sizes"] is sizes


def test_all_listeners_get_the_same_object(new: Callable[..., Dispatcher]) -> None:
    heard: dict[str, list[object]] = {"name": [], "class": []}
    dispatcher = new(subjects=[IMAGES])
    for number in range(2):
        dispatcher.add_listener("image.created", heard["name"].append, id=f"name {number}")
        dispatcher.add_listener(ImageCreated, heard["class"].append, id=f"class {number}")

    named, typed = Event("image.created", {"image_id": 7}, subject=Image(7)), ImageCreated(7)
    dispatcher.dispatch(named)
    dispatcher.dispatch(typed)

    first, second, third, fourth = heard["name"]
    assert first is second
    assert isinstance(first, Event)
    assert first.arguments is named.arguments, "a change by a listener reaches the others and the caller"
    assert third is fourth
    first, second, third, fourth = heard["class"]
    assert first is second
    assert third is fourth is typed


# --- the context -------------------------------------------------------------------------------------


def test_a_context_value_never_overrides_an_argument(new: Callable[..., Dispatcher]) -> None:
    heard: list[Mapping[str, Any]] = []
    dispatcher = new()

    @dispatcher.listener("image.created")
    def hear(event: Event, call: Call) -> None:
        heard.extend([call.context, call.arguments])

    with relevo.context(path="of the context", user=7):
        dispatcher.dispatch("image.created", {"path": "sea.jpg"})
        dispatcher.dispatch(ImageCreated(3, "tree.jpg"))

    assert heard[:2] == [{"user": 7}, {"user": 7, "path": "sea.jpg"}]
    assert heard[2:] == [{"user": 7}, {"user": 7, "image_id": 3, "path": "tree.jpg"}]


def test_a_worker_merges_arguments_and_context_too() -> None:
    heard: list[Mapping[str, Any]] = []

    def by_name(event: Event, call: Call) -> None:
        heard.append(call.arguments)

    def typed(event: ImageCreated, call: Call) -> None:
        heard.append(call.arguments)

    with App(transports={"main": "memory://"}) as app:
        app.add_listener("image.created", by_name, id="by name")
        app.add_listener(ImageCreated, typed, id="typed")
        with relevo.context(path="of the context", user=7):
            app.dispatch(ImageCreated(3, "tree.jpg"))
        drain(app)

    assert heard == [{"user": 7, "image_id": 3, "path": "tree.jpg"}] * 2


# --- hooks and logs ----------------------------------------------------------------------------------


class Watch:
    def __init__(self) -> None:
        self.seen: list[object] = []

    @relevo.hookimpl
    def relevo_enrich(self) -> Mapping[str, Any]:
        return {"user": 7}

    @relevo.hookimpl
    @contextlib.contextmanager
    def relevo_around_call(self, event: object, listener_id: str) -> Iterator[None]:
        self.seen.append((event, listener_id))
        try:
            yield
        except ValueError as error:
            self.seen.append(str(error))
            raise
        self.seen.append("done")


def test_hooks_see_calls_in_process(new: Callable[..., Dispatcher]) -> None:
    watch, contexts = Watch(), []
    dispatcher = new(plugins=[watch])

    def hear(event: Event, call: Call) -> None:
        contexts.append(call.context)
        if "bad" in event:
            raise ValueError("no")

    dispatcher.add_listener("image.created", hear, id="hear")
    good, bad = Event("image.created"), Event("image.created", {"bad": True})
    dispatcher.dispatch(good)
    with pytest.raises(ValueError, match="no"):
        dispatcher.dispatch(bad)

    seen = [(attrs.evolve(each[0], id=None), each[1]) if isinstance(each, tuple) else each for each in watch.seen]
    assert seen == [(good, "hear"), "done", (bad, "hear"), "no"]
    assert contexts == [{"user": 7}, {"user": 7}]


@pytest.mark.parametrize(
    "new_dispatcher", [LocalDispatcher, lambda **parts: DeferredDispatcher(MemoryTransport(), **parts)]
)
@pytest.mark.parametrize("as_hooks", [Hooks, list])
def test_dispatchers_take_plugins_in_a_list_too(
    new_dispatcher: Callable[..., Dispatcher], as_hooks: Callable[[list[object]], Any]
) -> None:
    class Refuse:
        @relevo.hookimpl
        def relevo_enrich(self) -> Mapping[str, Any]:
            raise ValueError("no")

    dispatcher = new_dispatcher(hooks=as_hooks([Refuse()]))
    dispatcher.add_listener("image.created", print, id="print")

    with pytest.raises(ValueError, match="no"):
        dispatcher.dispatch("image.created")
    with pytest.raises(PluginError, match="is a class; pass an instance"):
        new_dispatcher(hooks=[Refuse])


def test_logs_see_calls_in_process(new: Callable[..., Dispatcher], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "relevo.dispatch")
    dispatcher = new()

    def hear(event: Event) -> None:
        if "bad" in event:
            raise ValueError("no")

    dispatcher.add_listener("image.created", hear, id="hear")
    dispatcher.dispatch("image.created")
    dispatcher.dispatch("image.shown")
    with pytest.raises(ValueError, match="no"):
        dispatcher.dispatch("image.created", {"bad": True})

    assert caplog.messages == [
        "image.created: hear was called in process",
        "image.shown has no listener in process",
        "image.created: hear raised in process: ValueError: no",
    ]
