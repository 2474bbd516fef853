from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Optional, Protocol, TypeVar, cast

import attrs
import pytest

import relevo
from relevo import Call, Event, ListenerTable, Retry, listener
from relevo._listener.listener import Listener, Mark, default_id, marks_of
from relevo.errors import ConfigurationError, DuplicateListenerError, EventNameError


@relevo.event("image.created")
@attrs.frozen
class ImageCreated:
    image_id: int


@listener("image.created", priority=10, queue="media", retry=8, id="thumbs", aliases=["small", "tiny"])
def thumbnails(event: Event) -> str:
    return f"thumbnails of {event['image_id']}"


@listener(ImageCreated)
def rate(event: ImageCreated, call: relevo.Call) -> None: ...


def table_of(*things: object) -> ListenerTable:
    table = ListenerTable()
    table.extend(things)
    return table


def ids(table: ListenerTable, name: str = "image.created") -> list[str]:
    return [each.id.rpartition(":")[2] for each in table.of(name)]


# --- marking ------------------------------------------------------------------------------------------


def test_a_marked_function_stays_plainly_callable() -> None:
    assert thumbnails(Event("image.created", {"image_id": 7})) == "thumbnails of 7"


def test_what_was_said_is_registered() -> None:
    first, second = table_of(rate, thumbnails).of("image.created")

    assert (first.id, first.priority, first.queue, first.retry) == ("thumbs", 10, "media", Retry(8))
    assert (first.aliases, first.event_type, first.takes_call) == (("small", "tiny"), None, False)
    assert second.id == f"{__name__}:rate"
    assert second.event_type is not None
    assert second.event_type.cls is ImageCreated
    assert second.takes_call


def test_one_function_can_listen_to_several_events() -> None:
    @listener("a.b")
    @listener("a.c", priority=3)
    def both(event: Event) -> None: ...

    table = table_of(both)

    assert [(each.event_name, each.priority) for each in table] == [("a.b", 0), ("a.c", 3)]


def test_a_single_alias_is_one_word_and_not_its_letters() -> None:
    @listener("a.b", aliases="old")
    def new(event: Event) -> None: ...

    assert marks_of(new)[0].aliases == ("old",)


def test_a_wrapper_that_keeps_the_attributes_keeps_the_mark() -> None:
    @functools.wraps(thumbnails)
    def timed(event: Event) -> str:
        return thumbnails(event)

    (found,) = table_of(timed).of("image.created")

    assert found.function is timed


@pytest.mark.parametrize(
    "how, why",
    [
        ({"priority": "high"}, "priority: expected an integer; got 'high'"),
        ({"priority": True}, "priority: expected an integer; got True"),
        ({"queue": ""}, "'' cannot name a queue"),
        ({"queue": 3}, "3 cannot name a queue"),
        ({"queue": "outbox/x"}, "reserved"),
        ({"retry": "8"}, r"retry: expected relevo.Retry\(…\) or a number of runs; got '8'"),
        ({"retry": 0}, "Retry.runs: expected a whole number from 1; got 0"),
        ({"retry": True}, "Retry.runs: expected a whole number from 1; got True"),
        ({"id": ""}, "id, aliases: expected text of 1 to 255"),
        ({"id": 3}, "id, aliases: expected text of 1 to 255"),
        (
            {"id": "a\nb"},
            "id: expected printable characters; got 'a\\\\nb'; pass another id=…, with the old one in aliases=…",
        ),
        ({"id": "a\x1b[2J"}, "id: expected printable characters"),
        ({"id": "a\u202eb"}, "id: expected printable characters"),
        ({"id": "a\ud800"}, "id: expected printable characters"),
        ({"id": "x" * 256}, "id, aliases: expected text of 1 to 255"),
        ({"aliases": ["a", 3]}, "id, aliases: expected text of 1 to 255"),
    ],
)
def test_arguments_that_cannot_work_are_refused_where_they_are_written(how: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        listener("a.b", **how)


@pytest.mark.parametrize("event", ["a b", "", 3])
def test_the_event_is_a_name_or_a_declared_class(event: Any) -> None:
    with pytest.raises(EventNameError):
        listener(event)


def test_a_class_that_is_not_declared_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"str is not an event; put @relevo.event"):
        listener(str)


def test_the_decorator_without_its_parentheses_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r'forgot: no event is named; write @relevo.listener\("image.created"\) with its name'
    ):

        @listener
        def forgot(event: Event) -> None: ...


@pytest.mark.parametrize("thing", [type("Sub", (), {}), property(thumbnails), len, 3, None])
def test_only_functions_and_methods_can_be_marked(thing: Any) -> None:
    with pytest.raises(ConfigurationError, match="cannot be marked; mark a function, or a method in its class"):
        listener("a.b")(thing)


def test_a_class_is_refused_with_the_way_to_register_an_instance() -> None:
    class Handler:
        def __call__(self, event: object) -> None: ...

    decorators: list[Any] = [relevo.listener, relevo.listener("image.created")]
    for decorate in decorators:
        with pytest.raises(
            ConfigurationError, match=r"cannot be marked; mark .*__call__.* app\.listen\(Handler\(…\)\)"
        ):
            decorate(cast("Any", Handler))


# --- subscribers --------------------------------------------------------------------------------------


class Subscriber:
    def __init__(self) -> None:
        self.heard: list[str] = []

    @listener("image.created", priority=1)
    def on_created(self, event: Event) -> None:
        self.heard.append("created")

    @listener("image.created")
    @staticmethod
    def statically(event: Event) -> None: ...

    @classmethod
    @listener("image.created", priority=2)
    def by_class(cls, event: Event, call: relevo.Call) -> None: ...

    @listener("image.deleted")
    @classmethod
    def on_deleted(cls, event: Event) -> None: ...

    @property
    def trap(self) -> None:
        raise AssertionError("looking for marks must not run properties")


class Quieter(Subscriber):
    def on_created(self, event: Event) -> None:
        raise AssertionError("it has lost its mark")


def test_the_marked_methods_of_an_instance_are_registered() -> None:
    subscriber = Subscriber()
    table = table_of(subscriber)

    table.of("image.created")[1].function(Event("image.created"))

    assert ids(table) == ["Subscriber.by_class", "Subscriber.on_created", "Subscriber.statically"]
    assert ids(table, "image.deleted") == ["Subscriber.on_deleted"]
    assert subscriber.heard == ["created"]


def test_a_method_that_is_overridden_without_a_mark_is_not_registered() -> None:
    assert ids(table_of(Quieter())) == ["Subscriber.by_class", "Subscriber.statically"]


def test_a_class_of_listeners_is_passed_as_an_instance() -> None:
    with pytest.raises(ConfigurationError, match=r"Subscriber'>.* is a class; .* app.listen\(Subscriber\(…\)\)$"):
        table_of(Subscriber)


@pytest.mark.parametrize("thing", [object, object(), lambda _: None, 3])
def test_what_holds_no_listener_is_told(thing: object) -> None:
    with pytest.raises(ConfigurationError, match=r"has no listener; put @relevo.listener"):
        table_of(thing)


def test_a_function_without_a_mark_is_named_with_its_file_and_line() -> None:
    def bill(event: Event) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        table_of(bill)

    assert f"({__file__}:{bill.__code__.co_firstlineno}) has no listener; put @relevo" in str(caught.value)


def test_a_method_without_its_instance_is_told() -> None:
    with pytest.raises(
        ConfigurationError, match=r"Subscriber.on_created is a method and cannot be a listener without its inst"
    ):
        table_of(Subscriber.on_created)


def test_a_proxy_that_stands_for_nothing_yet_has_no_marks() -> None:
    class Proxy:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("working outside of request context")

    class Answering:
        def __getattr__(self, name: str) -> object:
            return self

    assert marks_of(Proxy()) == marks_of(Answering()) == ()


# --- what can be called -------------------------------------------------------------------------------


class Callable_:  # noqa: N801
    def __call__(self, event: object, call: object) -> None: ...


class LazyCallable:
    async def __call__(self, event: object) -> None: ...


async def coroutine(event: object) -> None: ...


async def stream(event: object) -> Any:
    yield event


def generator(event: object) -> Any:
    yield event


def event_only(event: object) -> None: ...


def both(event: object, call: object) -> None: ...


def any_second(event: object, whatever: object) -> None: ...


def optional_call(event: object, call: object = None) -> None: ...


def optional_other(event: object, size: int = 3) -> None: ...


def all_of_them(*events: object) -> None: ...


def with_rest(event: object, *, size: int = 3, **rest: object) -> None: ...


def nothing() -> None: ...


def three(event: object, call: object, third: object) -> None: ...


def keyword(event: object, *, size: int) -> None: ...


def registered(function: Callable[..., object]) -> Listener:
    return ListenerTable().add(function, Mark(event="a.b", id="x"))


@pytest.mark.parametrize(
    "function, takes_call",
    [
        (event_only, False),
        (both, True),
        (any_second, True),
        (optional_call, True),
        (optional_other, False),
        (with_rest, False),
        (all_of_them, True),
        (Callable_(), True),
        (functools.partial(both, call=3), False),
        (functools.partial(any_second, 3), False),
        (print, True),
    ],
    ids=range(11),
)
def test_a_listener_takes_the_event_and_perhaps_the_call(function: Any, takes_call: bool) -> None:  # noqa: FBT001
    assert registered(function).takes_call is takes_call


def only_a_call(call: Call) -> None: ...


@pytest.mark.parametrize("function", [nothing, three, keyword, only_a_call])
def test_what_cannot_be_called_with_an_event_is_refused(function: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"it must take \(event\) or \(event, call\)"):
        registered(function)


def one_field(order_id: int) -> None: ...


def fields_with_defaults(key: str, region: str = "eu") -> None: ...


def perhaps_a_field(path: str | None) -> None: ...


def optional_field(path: Optional[list[str]]) -> None: ...  # noqa: UP045 - it is written so too


def evaluated_field(order_id: object, to: object) -> None: ...


evaluated_field.__annotations__ = {"order_id": int | None, "to": str}


@pytest.mark.parametrize(
    "function, annotation",
    [
        (one_field, "order_id is annotated as int"),
        (fields_with_defaults, "key is annotated as str"),
        (perhaps_a_field, r"path is annotated as str \| None"),
        (optional_field, r"path is annotated as Optional\[list\[str\]\]"),
        (evaluated_field, r"order_id is annotated as int \| None"),
    ],
)
def test_a_parameter_that_is_annotated_as_data_is_refused(function: Any, annotation: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"called with the event, and {annotation}; read the data from the"):
        registered(function)


@attrs.frozen
class Undeclared:
    image_id: int


def declared_class(event: ImageCreated) -> None: ...
def declared_or_none(event: ImageCreated | None, call: Call) -> None: ...
def undeclared_class(event: Optional[Undeclared]) -> None: ...  # noqa: UP045 - it is written so too


@pytest.mark.parametrize(
    "function, told",
    [
        (declared_class, r"ImageCreated; write @relevo.listener\(ImageCreated\), or annotate it as relevo.Event"),
        (declared_or_none, r"ImageCreated; write @relevo.listener\(ImageCreated\), or annotate it as relevo.Event"),
        (undeclared_class, r'Undeclared; put @relevo.event\("a.b"\) above Undeclared and write @relevo.listener\(Un'),
    ],
)
def test_a_listener_for_a_name_that_is_annotated_with_a_class_of_data_is_refused(function: Any, told: str) -> None:
    told = rf'of "a\.b": a listener for a name is called with a relevo\.Event, and event is annotated as {told}'

    with pytest.raises(ConfigurationError, match=told):
        registered(function)
    with pytest.raises(ConfigurationError, match=told):  # where it is defined, and not at the first use
        relevo.App(routes={"*": "now"}, listeners=["not_imported"]).listener("a.b")(function)


T = TypeVar("T")


class SeenOfAnEvent(Protocol):
    name: str


def event_or_class(event: Event | ImageCreated) -> None: ...
def any_object(event: object) -> None: ...
def seen(event: SeenOfAnEvent) -> None: ...
def mapping(event: Mapping[str, Any]) -> None: ...


def any_type(event: T) -> T:
    return event


@pytest.mark.parametrize("function", [event_or_class, any_type, any_object, seen, mapping])
def test_a_listener_for_a_name_may_be_annotated_with_what_an_event_may_be(function: Any) -> None:
    assert not registered(function).takes_call


def with_session(event: object, session: ListenerTable) -> None: ...


def with_number(event: object, number: int) -> None: ...


def with_dependency(event: object, session: Annotated[ListenerTable, "injected"]) -> None: ...


@pytest.mark.parametrize(
    "function, annotation",
    [
        (with_session, "session is annotated as ListenerTable"),
        (with_number, "number is annotated as int"),
        (with_dependency, "session is annotated as ListenerTable"),
    ],
)
def test_a_second_parameter_that_is_annotated_as_no_call_is_refused(function: Any, annotation: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{annotation}; annotate it as relevo.Call, and let what a lifes"):
        registered(function)


class Depends:
    """Stands for FastAPI's marker of the same name, by which it finds what a parameter gets."""

    __module__ = "fastapi.params"


MARKER = Depends()


def resolved_by_default(event: Event, session: Any = MARKER) -> None: ...


@functools.wraps(resolved_by_default)
def resolved_outside(event: Event) -> None: ...


def test_a_default_that_only_fastapi_resolves_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"and session has the default Depends\(…\), which only FastAPI resol"):
        registered(resolved_by_default)

    assert not registered(resolved_outside).takes_call


class SeenOfACall(Protocol):
    attempt: int


class OwnCall(Call):
    pass


def with_call(event: dict[str, Any], call: Call) -> None: ...
def with_own_call(event: object, call: OwnCall) -> None: ...
def with_call_or_none(event: object, call: Call | None) -> None: ...
def with_anything(event: Any, call: Any) -> None: ...
def with_protocol(event: Event, call: SeenOfACall) -> None: ...
def with_unknown(event: Nowhere, call: Nowhere) -> None: ...  # type: ignore[name-defined] # noqa: F821


def given_more(function: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(function)
    def given(event: object, call: object) -> object:
        return function(event, ListenerTable())

    return given


@pytest.mark.parametrize("function", [given_more(with_session), functools.wraps(one_field)(event_only)])
def test_the_annotations_of_a_function_below_a_decorator_do_not_count(function: Any) -> None:
    registered(function)


@pytest.mark.parametrize(
    "function", [with_call, with_own_call, with_call_or_none, with_anything, with_protocol, with_unknown]
)
def test_annotations_that_may_be_right_are_accepted(function: Any) -> None:
    assert registered(function).takes_call


@pytest.mark.parametrize(
    "function", [stream, generator, functools.partial(stream), functools.partial(generator)], ids=range(4)
)
def test_what_would_not_run_by_being_called_is_refused_and_not_acknowledged(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="it has a yield, so calling it does not run it; use def or async def"):
        registered(function)


@pytest.mark.parametrize("function", [coroutine, LazyCallable(), functools.partial(coroutine)], ids=range(3))
def test_a_listener_may_be_async(function: Any) -> None:
    assert registered(function).is_async
    assert not registered(event_only).is_async


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize("how", ["script.py", "-m script"])
def test_a_listener_in_a_script_is_called_as_whoever_imports_it_calls_it(how: str, tmp_path: Path) -> None:
    tmp_path.joinpath("script.py").write_text(
        "import relevo\n@relevo.listener('a.b')\ndef hear(event): ...\n"
        "table = relevo.ListenerTable()\ntable.extend([hear])\nprint(*[each.id for each in table])\n"
    )

    done = subprocess.run([sys.executable, *how.split()], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert done.stdout == "script:hear\n"


# --- the table ----------------------------------------------------------------------------------------


def named(name: str, **how: Any) -> Callable[..., object]:
    @listener("a.b", id=name, **how)
    def function(event: object) -> None: ...

    return function


def test_listeners_are_ordered_by_priority_and_then_by_registration() -> None:
    table = table_of(named("a"), named("b", priority=5), named("c"), named("d", priority=-1), named("e", priority=5))

    assert ids(table, "a.b") == ["b", "e", "a", "c", "d"]
    assert len(table) == 5


def test_two_listeners_of_one_id_are_refused_with_the_id_they_share() -> None:
    for first, second in [
        (named("x"), named("x")),
        (named("x"), named("y", aliases=["x"])),
        (named("y", aliases=["x"]), named("x")),
        (named("y", aliases=["x"]), named("z", aliases=["x"])),
    ]:
        with pytest.raises(DuplicateListenerError, match=r'two listeners of "a.b" have the id "x"') as caught:
            table_of(first, second)

        assert caught.value.listener_id == "x"


class Counter:
    @listener("a.b")
    def count(self, event: object) -> None: ...


class Marked:
    @listener("a.b")
    def __call__(self, event: object) -> None: ...


@pytest.mark.parametrize("cls", [Counter, Marked])
def test_a_second_instance_of_a_class_is_refused_with_what_helps(cls: Callable[[], object]) -> None:
    with pytest.raises(DuplicateListenerError) as caught:
        table_of(cls(), cls())

    text = str(caught.value)
    assert text.endswith(
        f"; another instance of {cls.__name__} is registered, and its methods have the same ids; remove it first: "
        f'app.unlisten(instance), or app.remove_listener("{caught.value.listener_id}")'
    )
    assert "rename" not in text


@pytest.mark.parametrize(
    ("make", "described"),
    [
        (lambda: functools.partial(named("x")), r"partial of named\.<locals>\.function \(.*test_listener\.py:\d+\)"),
        (lambda: [].append, r"list\.append"),
    ],
)
def test_an_object_without_a_name_is_refused_with_what_helps(
    make: Callable[[], Callable[..., object]], described: str
) -> None:
    table = ListenerTable()
    table.add(make(), Mark(event="a.b"))

    with pytest.raises(DuplicateListenerError, match=f": {described} and {described}; such an object has") as caught:
        table.add(make(), Mark(event="a.b"))

    assert str(caught.value).endswith('pass one: app.add_listener("a.b", …, id="…")')


def test_the_same_id_is_free_at_another_event() -> None:
    @listener("a.c", id="x")
    def other(event: object) -> None: ...

    assert len(table_of(named("x"), other)) == 2


def test_a_function_whose_name_is_not_printable_needs_an_id() -> None:
    function = named("x")
    function.__qualname__ = "x\nforged"

    with pytest.raises(ConfigurationError, match=r'a listener of "a.b": id: expected printable characters'):
        ListenerTable().add(function, Mark(event="a.b"))
    assert ListenerTable().add(function, Mark(event="a.b", id="x", aliases=["x\nforged"])).id == "x"


def test_registering_the_same_again_is_fine() -> None:
    subscriber = Subscriber()

    assert len(table_of(thumbnails, thumbnails, subscriber, subscriber)) == 1 + 4


def test_a_listener_that_is_taken_out_is_called_no_more() -> None:
    table = table_of(named("x"), named("y"))
    first, _ = table.of("a.b")

    table.remove(first)
    table.remove(first)

    assert ids(table, "a.b") == ["y"]
    assert [each.id for each in table.in_queue("a.b", "q", "q")] == ["y"]


def test_a_listener_runs_in_its_queue_else_in_the_first_that_the_event_goes_to() -> None:
    table = table_of(named("anywhere"), named("feed", queue="feed"), named("media", queue="media"))

    assert [each.id for each in table.in_queue("a.b", "media", "media")] == ["anywhere", "media"]
    assert [each.id for each in table.in_queue("a.b", "feed", "media")] == ["feed"]
    assert [each.id for each in table.in_queue("a.b", "other", "media")] == []


def test_names_from_outside_that_nobody_listens_to_leave_nothing_behind() -> None:
    table = table_of(named("x"))

    for number in range(100):
        assert table.of(f"n.{number}") == ()
        assert table.in_queue(f"n.{number}", "q", "q") == ()

    assert len(table._ordered) + len(table._queued) == 0


def test_a_declared_class_becomes_known_by_being_listened_to() -> None:
    table = table_of(rate)

    found = table.event_types.get("image.created")

    assert found is not None
    assert found.cls is ImageCreated


def test_two_classes_of_one_name_are_refused() -> None:
    @relevo.event("image.created")
    @attrs.frozen
    class Other:
        pass

    @listener(Other)
    def heard(event: Other) -> None: ...

    with pytest.raises(relevo.DuplicateEventError):
        table_of(rate, heard)


@pytest.mark.parametrize("thing", [None, "shop.listeners", 3, object()])
def test_what_cannot_be_called_is_no_listener(thing: Any) -> None:
    dispatcher = relevo.LocalDispatcher()

    with pytest.raises(
        ConfigurationError, match=r"^(None|'shop.listeners'|3|<object .*>) cannot be a listener of \"a.b\": "
    ):
        dispatcher.add_listener("a.b", thing)
    assert not dispatcher.has_listeners()


def test_a_table_is_shown_as_the_ids_of_its_listeners_by_event() -> None:
    table = ListenerTable()
    assert repr(table) == "<ListenerTable without listeners>"

    for name, number in [("b.c", 1), ("a.b", 2), ("b.c", 3)]:
        table.extend([listener(name, id=f"n{number}", priority=number)(lambda event: None)])

    assert repr(table) == "<ListenerTable\n  a.b: n2\n  b.c: n3, n1>"


def test_a_listener_whose_class_cannot_be_read_back_is_named_with_the_field() -> None:
    @relevo.event("file.stored")
    @attrs.frozen
    class FileStored:
        number: int
        path: Path

    @listener(FileStored)
    def keep(event: FileStored) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        ListenerTable().extend([keep])

    place = f"{__file__}:{keep.__code__.co_firstlineno}"
    assert str(caught.value).startswith(f"{default_id(keep)} ({place}): ")
    assert "FileStored cannot be read back from JSON: the field path: " in str(caught.value)


def _calls(work: Callable[[], object]) -> int:
    """Return how many functions *work* calls."""
    number = 0

    def count(frame: object, what: str, it: object) -> None:
        nonlocal number
        number += what in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return number


def test_the_work_of_a_registration_does_not_grow_with_the_listeners_of_other_functions() -> None:
    texts = [f"@listener('image.rated{number}')\ndef handle{number}(event): ...\n" for number in range(200)]
    scope: dict[str, Any] = {"listener": listener, "__name__": "many_listeners", "__file__": "many_listeners.py"}
    exec("".join(texts), scope)  # noqa: S102
    functions = [scope[f"handle{number}"] for number in range(200)]

    few, many = [_calls(lambda number=number: table_of(*functions[:number])) for number in (50, 200)]  # type: ignore[misc]

    assert many < 5 * few
