"""
What type checkers say of marked listeners.

mypy reads this file like every other, and complains of an "ignore" that ignores nothing: thus each of them
is a mistake that it finds, and everything else here is right. When it runs, marking makes no difference.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, assert_type

import attrs
import pytest

import relevo
from relevo import Call, Event
from relevo.testing import make_call


@relevo.event("image.created")
@attrs.frozen
class ImageCreated:
    image_id: int = 7


@relevo.event("image.rated")
@attrs.frozen
class ImageRated:
    stars: int = 3


@attrs.frozen
class Special(ImageCreated):
    pass


# --- functions ----------------------------------------------------------------------------------------------


@relevo.listener(ImageCreated)
def with_event(event: ImageCreated) -> int:
    return event.image_id


@relevo.listener(ImageCreated, priority=3, queue="media", retry=8, id="b", aliases=("a",), missing="skip")
def with_call(event: ImageCreated, call: Call) -> str:
    return f"{event} {call}"


@relevo.listener(ImageCreated)
def with_more(event: ImageCreated, call: Call | None = None, *, size: int = 3) -> int:
    return event.image_id + size


@relevo.listener(ImageCreated)
def wider(event: object) -> None: ...


@relevo.listener(ImageCreated)
@relevo.listener(ImageRated)
@relevo.listener("image.moved")
def of_several(event: ImageCreated | ImageRated | Event) -> None: ...


@relevo.listener("image.created")
def by_name(event: Event, call: Call) -> None: ...


@relevo.listener(ImageCreated)
def of_anything(*args: Any) -> None: ...


def test_a_marked_function_keeps_its_own_type() -> None:
    assert_type(with_event(event=ImageCreated()), int)
    assert_type(with_more(ImageCreated(), size=4), int)
    of_several(event=ImageRated())
    kept: Callable[[ImageCreated, Call], str] = with_call

    assert kept is with_call
    assert with_event.__name__ == "with_event"
    with pytest.raises(AttributeError):
        with_event(event=3)  # type: ignore[arg-type]


def test_a_listener_of_another_class_is_a_mistake() -> None:
    @relevo.listener(ImageCreated)  # type: ignore[arg-type]
    def other(event: ImageRated) -> None: ...

    @relevo.listener(ImageCreated)  # type: ignore[arg-type]
    def other_with_call(event: ImageRated, call: Call) -> None: ...

    @relevo.listener(ImageCreated)  # type: ignore[arg-type]
    def narrower(event: Special) -> None: ...

    @relevo.listener(ImageCreated)  # type: ignore[arg-type]
    def named(event: Event) -> None: ...

    @relevo.listener(ImageCreated)  # type: ignore[arg-type]
    def no_call(event: ImageCreated, call: int) -> None: ...

    @relevo.listener(ImageCreated)  # type: ignore[arg-type]
    def one_of_two(event: ImageRated | Event) -> None: ...

    @relevo.listener(ImageCreated)  # type: ignore[arg-type]
    def nothing() -> None: ...


def test_a_listener_by_name_takes_an_event_by_name() -> None:
    @relevo.listener("image.created")  # type: ignore[arg-type]
    def typed(event: ImageCreated) -> None: ...

    @relevo.listener("image.created")  # type: ignore[arg-type]
    def typed_with_call(event: ImageCreated, call: Call) -> None: ...


def test_arguments_of_the_mark_are_checked() -> None:
    with pytest.raises(relevo.ConfigurationError):
        relevo.listener("image.created", priority="high")  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        relevo.listener("image.created", prioritty=3)  # type: ignore[call-overload]
    with pytest.raises(relevo.ConfigurationError):
        relevo.listener(ImageCreated, missing="never")  # type: ignore[call-overload]
    with pytest.raises(relevo.ConfigurationError):

        @relevo.listener
        def forgot(event: Event) -> None: ...


# --- the event from the annotation, and in an application --------------------------------------------------


@relevo.listener
def by_annotation(event: ImageCreated) -> int:
    return event.image_id


@relevo.listener(priority=3)
def by_annotation_with_options(event: ImageCreated, call: Call) -> str:
    return f"{event} {call}"


def test_a_listener_of_an_application_keeps_its_own_type() -> None:
    app = relevo.App(routes={"*": "now"})

    @app.listener
    def bare(event: ImageCreated) -> int:
        return event.image_id

    @app.listener(ImageCreated, priority=1)
    def of_a_class(event: ImageCreated, call: Call) -> int:
        return event.image_id

    @app.listener("image.created")
    def named(event: Event) -> None: ...

    @app.listener()
    def empty(event: ImageRated) -> int:
        return event.stars

    with pytest.raises(relevo.ConfigurationError):
        app.listener("image.created", priority="high")  # type: ignore[call-overload]

    @app.listener(ImageCreated)  # type: ignore[arg-type]
    def other(event: ImageRated) -> None: ...

    assert_type(by_annotation(ImageCreated()), int)
    assert_type(by_annotation_with_options(ImageCreated(), None), str)  # type: ignore[arg-type]
    assert_type(bare(ImageCreated()), int)
    assert_type(empty(ImageRated()), int)
    app.dispatch("image.created", {"image_id": 1}, delay=0, urgency="normal")
    with pytest.raises(TypeError):
        app.dispatch("image.created", image_id=1)  # type: ignore[arg-type]


# --- functions whose parameters have no names -------------------------------------------------------------


def test_what_only_has_the_type_of_a_callable_is_checked_too() -> None:
    def wrapped(function: Callable[[ImageCreated, Call], int]) -> Callable[[ImageCreated, Call], int]:
        return function

    def spoilt(function: Callable[[ImageCreated], int]) -> Callable[[ImageRated], int]:
        return function  # type: ignore[return-value]

    def untyped(function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    @relevo.listener(ImageCreated)
    @wrapped
    def right(event: ImageCreated, call: Call) -> int:
        return 1

    @relevo.listener(ImageCreated)  # type: ignore[arg-type]
    @spoilt
    def wrong(event: ImageCreated) -> int:
        return 1

    @relevo.listener(ImageCreated)
    @untyped
    def unknown(event: ImageRated) -> int:
        return 1

    assert_type(right, Callable[[ImageCreated, Call], int])
    assert_type(unknown, Callable[..., Any])
    relevo.listener(ImageCreated)(lambda event: event.image_id)


# --- methods ----------------------------------------------------------------------------------------------


class Subscriber:
    @relevo.listener(ImageCreated)
    def on(self, event: ImageCreated) -> int:
        return event.image_id

    @relevo.listener(ImageCreated)
    def on_with_call(self, event: ImageCreated, call: Call) -> None: ...

    @relevo.listener(ImageRated)
    @relevo.listener(ImageCreated)
    def on_several(self, event: ImageCreated | ImageRated) -> None: ...

    @relevo.listener("image.created")
    def on_name(self, event: Event) -> None: ...

    @relevo.listener(ImageCreated)
    def on_anything(self, event: object, call: Call) -> None: ...

    @relevo.listener(ImageCreated)
    @staticmethod
    def without_self(event: ImageCreated) -> int:
        return event.image_id

    @relevo.listener(ImageCreated)
    @classmethod
    def of_the_class(cls, event: ImageCreated, call: Call) -> None: ...

    @staticmethod
    @relevo.listener(ImageCreated)
    def other_order(event: ImageCreated) -> int:
        return event.image_id


class Louder(Subscriber):
    def on(self, event: ImageCreated) -> int:
        return super().on(event) + 1


def test_a_marked_method_keeps_its_own_type() -> None:
    assert_type(Subscriber().on(event=ImageCreated()), int)
    assert_type(Louder().on(ImageCreated()), int)
    assert_type(Subscriber.without_self(ImageCreated()), int)
    assert_type(Subscriber().other_order(ImageCreated()), int)
    Subscriber().on_several(event=ImageRated())
    table = relevo.ListenerTable()
    table.extend([Subscriber()])

    assert len(table) == 9


def test_a_method_for_another_class_is_a_mistake() -> None:
    class Mistaken:
        @relevo.listener(ImageCreated)  # type: ignore[arg-type]
        def on(self, event: ImageRated) -> None: ...

        @relevo.listener(ImageCreated)  # type: ignore[arg-type]
        def on_with_call(self, event: ImageRated, call: Call) -> None: ...

        @relevo.listener("image.created")  # type: ignore[arg-type]
        def on_name(self, event: ImageCreated) -> None: ...

        @relevo.listener(ImageCreated)  # type: ignore[arg-type]
        @staticmethod
        def without_self(event: ImageRated) -> None: ...


# --- what lifespans yield -----------------------------------------------------------------------------------


@attrs.frozen
class Engine:
    name: str = "real"


@relevo.lifespan
def engine() -> Iterator[Engine]:
    yield Engine()


@relevo.lifespan
async def other_engine(engine: Engine) -> AsyncIterator[ImageRated]:
    yield ImageRated()


@relevo.listener(ImageCreated)
def with_engine(event: ImageCreated, call: Call, engine: Engine, *, size: int = 3) -> str:
    return engine.name


@relevo.listener("image.created")
async def with_engine_by_name(event: Event, call: Call, *, engine: Engine) -> int:
    return 3


class WithEngine:
    @relevo.listener(ImageCreated)
    def on(self, event: ImageCreated, call: Call, engine: Engine) -> str:
        return engine.name


def test_a_lifespan_and_a_listener_that_gets_its_value_keep_their_types() -> None:
    assert_type(next(engine()), Engine)
    assert_type(with_engine(ImageCreated(), make_call(), engine=Engine()), str)
    assert_type(WithEngine().on(ImageCreated(), make_call(), Engine()), str)
    with_engine_by_name(Event("image.created"), make_call(), engine=Engine()).close()
    with pytest.raises(AttributeError):
        with_engine(ImageCreated(), make_call(), 3)  # type: ignore[arg-type]


def test_values_come_after_the_call_and_a_lifespan_yields() -> None:
    @relevo.listener(ImageCreated)  # type: ignore[arg-type]
    def without_call(event: ImageCreated, size: int, engine: Engine) -> None: ...

    @relevo.listener(ImageCreated)  # type: ignore[arg-type]
    def of_another_class(event: ImageRated, call: Call, engine: Engine) -> None: ...

    with pytest.raises(relevo.ConfigurationError):

        @relevo.lifespan  # type: ignore[type-var]
        def returning() -> Engine:
            return Engine()


# --- what is only known when it runs ------------------------------------------------------------------------


@pytest.mark.parametrize("event", [ImageCreated, "image.created"])
def test_where_the_event_is_only_known_at_run_time_nothing_is_held_against_a_listener(event: Any) -> None:
    some: type = ImageCreated
    either: type[ImageCreated] | str = event

    @relevo.listener(some)
    def of_some(event: ImageRated, call: Call) -> None: ...

    @relevo.listener(either)
    def of_either(event: ImageCreated | Event) -> None: ...

    @relevo.listener(event)  # type: ignore[untyped-decorator]  # it may be a function without parentheses too
    def of_any(event: ImageCreated) -> None: ...

    assert_type(of_either(ImageCreated()), None)
