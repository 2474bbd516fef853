"""A listener that is marked and registered in one, and the event of a listener that names none."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import attrs
import pytest

import relevo
from relevo import App, Call, Dispatcher, Event, LocalDispatcher, listener
from relevo.errors import ConfigurationError, EventNameError

from .application import Make, drain

if TYPE_CHECKING:
    from nowhere import Missing  # type: ignore[import-not-found]


@relevo.event("image.created")
@attrs.frozen
class ImageCreated:
    image_id: int = 7


@relevo.event("image.rated")
@attrs.frozen
class ImageRated:
    stars: int = 3


def _bound() -> Dispatcher:
    return App(routes={"*": "now"}).bound_to(object())


@pytest.mark.parametrize("new", [LocalDispatcher, _bound, lambda: App(routes={"*": "now"})])
def test_a_listener_is_marked_and_registered_in_one(new: Callable[[], Dispatcher]) -> None:
    dispatcher = new()
    heard: list[object] = []

    @dispatcher.listener("image.created", priority=1)
    def by_name(event: Event) -> None:
        heard.append(("by name", event["image_id"]))

    @dispatcher.listener(ImageCreated, priority=2)
    def of_a_class(event: ImageCreated, call: Call) -> None:
        heard.append(("of a class", event.image_id, call.listener_id.partition("locals>.")[2]))

    @dispatcher.listener
    def bare(event: ImageCreated) -> None:
        heard.append(("bare", event.image_id))

    dispatcher.dispatch(ImageCreated(3))

    assert heard == [("of a class", 3, "of_a_class"), ("by name", 3), ("bare", 3)]
    assert bare(ImageCreated(4)) is None  # it stays plainly callable
    assert heard[-1] == ("bare", 4)


@pytest.mark.parametrize("new", [LocalDispatcher, _bound, lambda: App(routes={"*": "now"})])
def test_a_function_beside_the_event_is_refused_with_what_to_write(new: Callable[[], Dispatcher]) -> None:
    decorators: list[Any] = [new().listener, relevo.listener]

    for each in decorators:
        with pytest.raises(TypeError) as caught:
            each("image.created", print)

        assert str(caught.value).endswith(
            "this is a decorator, so write @app.listener('image.created') above the function, or "
            "app.add_listener('image.created', function)"
        )


@pytest.mark.parametrize("pattern", ["image.*", "*", "image.#", "image.?"])
def test_a_pattern_is_refused_with_what_to_write(make: Make, pattern: str) -> None:
    app = make()
    registers: list[Any] = [app.listener, relevo.listener, lambda event: app.add_listener(event, print, id="x")]

    for register in registers:
        with pytest.raises(EventNameError, match=r"takes one name, not a pattern; write one @relevo\.listener\(…\)"):
            register(pattern)


def test_it_is_registered_with_an_application_before_its_modules_are_imported(make: Make) -> None:
    app = make("nowhere_to_be_found")

    @app.listener("image.created")
    def hear(event: Event) -> None: ...

    with pytest.raises(ConfigurationError, match="nowhere_to_be_found"):
        app.listeners()


def test_several_are_stacked_and_each_is_registered_once(make: Make) -> None:
    app = make()
    heard: list[str] = []

    @app.listener("image.created")
    @app.listener("image.rated")
    def hear(event: Event) -> None:
        heard.append(event.name)

    app.dispatch("image.created")
    app.dispatch("image.rated")
    drain(app)

    assert heard == ["image.created", "image.rated"]
    assert len(app.listeners) == 2


def test_without_a_name_it_takes_the_annotated_class() -> None:
    @listener
    def bare(event: ImageCreated, call: Missing) -> None: ...

    @listener()
    def empty(event: "ImageRated") -> None: ...  # noqa: UP037 - as in a module without the future import

    class Local:
        @listener(priority=3)
        def method(self, event: ImageCreated) -> None: ...

        @listener
        @staticmethod
        def static(event: ImageCreated) -> None: ...

        @listener
        @classmethod
        def of_the_class(cls, event: ImageCreated) -> None: ...

    table = relevo.ListenerTable()
    table.extend([bare, empty, Local()])

    assert [each.id.rpartition(".")[2] for each in table("image.created")] == [
        "method",
        "bare",
        "static",
        "of_the_class",
    ]
    assert [each.id.rpartition(".")[2] for each in table("image.rated")] == ["empty"]


def test_a_class_that_only_this_function_knows_is_found() -> None:
    @relevo.event("image.moved")
    @attrs.frozen
    class ImageMoved:
        to: str

    @listener
    def hear(event: ImageMoved) -> None: ...

    table = relevo.ListenerTable()
    table.extend([hear])

    assert len(table("image.moved")) == 1


_no_annotation: Callable[..., Any] = lambda event: None  # noqa: E731 - a def would need an annotation


def _nothing() -> None: ...
def _generic(event: Event) -> None: ...
def _generic_by_module(event: relevo.Event) -> None: ...
def _not_declared(event: dict) -> None: ...  # type: ignore[type-arg]
def _two(event: ImageCreated | ImageRated) -> None: ...
def _unknown(event: Missing) -> None: ...


@pytest.mark.parametrize(
    "function, why",
    [
        (
            _nothing,
            r'_nothing: no event is named; write @relevo.listener\("image.created"\) with its name, or annotate',
        ),
        (_no_annotation, "no event is named; write"),
        (_generic, "no event is named; write"),
        (_generic_by_module, "_generic_by_module: no event is named; write"),
        (_not_declared, "_not_declared: no event is named, and builtins.dict is not an event; put @relevo.event"),
        (_two, "_two: no event is named, and .*ImageRated is not a class; write one @relevo.listener"),
        (_unknown, "_unknown: no event is named, and the annotation .* cannot be evaluated: name 'Missing' is not"),
    ],
)
def test_a_listener_without_an_event_says_what_to_write(function: Callable[..., Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        listener(function)
    with pytest.raises(ConfigurationError, match=why):
        listener(priority=3)(function)


def test_what_cannot_be_a_listener_is_refused_where_it_is_defined(make: Make) -> None:
    app = make()

    with pytest.raises(
        ConfigurationError,
        match=r"on is a method and cannot be a listener without its instance; .* takes \(event\) or \(event, call\)",
    ):

        class _Subscriber:
            @app.listener("image.created")
            def on(self, event: Event) -> None: ...

    with pytest.raises(
        ConfigurationError,
        match=r"on is a method and cannot be a listener without its instance; .* takes \(event\) or \(event, call\)",
    ):

        class _Other:
            @app.listener("image.created")
            @classmethod
            def on(cls, event: Event) -> None: ...

    with pytest.raises(ConfigurationError, match="it has a yield"):

        @app.listener("image.created")
        async def later(event: Event) -> AsyncIterator[int]:
            yield 1

    with pytest.raises(TypeError, match=r'a listener has no option prioritty=…; did you mean "priority"'):
        app.listener("image.created", prioritty=3)  # type: ignore[call-overload]
    assert not app.listeners


def test_a_function_of_the_same_name_in_one_module_is_still_found(tmp_path: Any, monkeypatch: Any) -> None:
    source = """
import relevo
app = relevo.App(routes={"*": "now"})
@app.listener("a")
def hear(event): ...
@app.listener("b")
def hear(event): ...
"""
    (tmp_path / "twice_named.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ConfigurationError, match='"hear" in line 6 replaces the listener of the same name in line 4'):
        importlib.import_module("twice_named")
