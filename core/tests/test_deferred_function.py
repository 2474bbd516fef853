"""Functions that are called later: the same call, after a journey through a transport."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, assert_type

import attrs
import pytest
from hypothesis import given, strategies as st

from relevo import App, Call, DeferredFunction, Dispatched, Event, GiveUp, LocalDispatcher, Retry, RunOptions
from relevo.errors import ConfigurationError, EncodeError, EventNameError, SessionError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

called: list[object] = []


@attrs.frozen
class Size:
    width: int
    height: int = 100


def everything(
    first: int,
    second: str = "second",
    /,
    third: Size | None = None,
    *more: Decimal,
    day: date,
    factor: float = 1.0,
    **others: Sequence[int],
) -> None:
    called.append((first, second, third, more, day, factor, others))


@pytest.fixture(name="app")
def _app() -> Iterator[App]:
    called.clear()
    clock = FakeClock()
    with App(transports={"main": MemoryTransport(name="main", clock=clock)}, source="shop", clock=clock) as app:
        yield app


# --- the same call ----------------------------------------------------------------------------------


SIZES = st.none() | st.builds(Size, st.integers(0, 9), st.integers(0, 9))
POSITIONAL = st.one_of(
    st.tuples(st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.integers(0, 9), st.text("aé\n", max_size=3)),
    st.tuples(st.integers(0, 9), st.text("ab", max_size=3), SIZES),
    st.builds(
        lambda begin, more: (*begin, *more),
        st.tuples(st.integers(0, 9), st.text("ab", max_size=3), SIZES),
        st.lists(st.decimals(allow_nan=False, allow_infinity=False), max_size=3),
    ),
)
NAMED = st.fixed_dictionaries(
    {"day": st.dates()},
    optional={
        "factor": st.floats(allow_nan=False, allow_infinity=False),
        "more_1": st.lists(st.integers(0, 9), max_size=2),
        "first": st.lists(st.integers(0, 9), max_size=2),  # the name of a positional-only parameter is free
    },
)


@given(positional=POSITIONAL, named=NAMED)
def test_it_is_called_as_if_it_was_called_at_once(positional: Any, named: Any) -> None:
    called.clear()
    with App(transports={"main": MemoryTransport(name="main")}, clock=FakeClock()) as app:
        deferred: Any = app.deferred(everything)

        deferred(*positional, **named)
        deferred.defer(*positional, **named)
        report = app.drain()

    assert report.done == 1
    now, later = called
    assert later == now


def test_a_parameter_that_is_left_out_is_not_sent_and_has_the_default_of_the_function_that_runs(app: App) -> None:
    @app.deferred("receipt.send")
    def send(number: int, copies: int = 1) -> None:
        called.append((number, copies))

    send.defer(7)
    send.defer(7, 1)
    with App(transports={"main": app.transport()}, source="shop", clock=app.clock) as newer:

        @newer.deferred("receipt.send")
        def send_more(number: int, copies: int = 5) -> None:
            called.append((number, copies))

        newer.drain()

    assert called == [(7, 5), (7, 1)]


def test_a_function_without_parameters_or_with_any_values_is_deferred_too(app: App) -> None:
    @app.deferred
    def nothing() -> None:
        called.append("nothing")

    @app.deferred("any.thing")
    def anything(one: Any, two: Any = 2) -> None:
        called.append((one, two))

    nothing.defer()
    anything.defer({"a": [1]}, None)
    app.drain()

    assert called == ["nothing", ({"a": [1]}, None)]


@pytest.mark.parametrize("execution", ["inline", "threads", "async"])
def test_an_async_function_is_awaited(app: App, execution: Any) -> None:
    @app.deferred
    async def send(number: int) -> None:
        await asyncio.sleep(0)
        called.append(number)

    send.defer(7)
    app.drain(RunOptions(execution=execution))

    assert called == [7]
    assert asyncio.run(_returned(send(8))) is None
    assert called == [7, 8]


async def _returned(coroutine: Any) -> object:
    return await coroutine


def test_it_is_a_function_with_a_way_to_call_it_later(app: App) -> None:
    def send(number: int) -> str:
        """Send it."""
        return f"receipt {number}"

    deferred = app.deferred(send)

    assert deferred(7) == "receipt 7"
    named: Any = deferred
    assert (named.__name__, deferred.__doc__, deferred.__module__) == ("send", "Send it.", __name__)
    assert inspect.signature(deferred) == inspect.signature(send)
    assert repr(app.deferred("receipt.send")(everything)) == "<DeferredFunction receipt.send>"


def test_it_is_called_as_a_function_is_although_it_is_an_object(app: App) -> None:
    def send(**others: int) -> None:
        called.append(others)

    vars(send).update(name="a name of its own", _function=None)
    deferred = app.deferred("receipt.send")(send)

    deferred(self=1)
    deferred.defer(self=2)
    app.dispatch(deferred.event(self=3, delay=4))  # the event has no options
    app.drain()

    assert deferred.name == "receipt.send"
    assert called == [{"self": 1}, {"self": 2}, {"self": 3, "delay": 4}]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python before 3.12 knows no objects that are called so")
def test_other_libraries_see_that_it_has_to_be_awaited(app: App) -> None:
    @app.deferred
    async def send(number: int) -> None: ...

    @app.deferred
    def write(number: int) -> None: ...

    assert inspect.iscoroutinefunction(send)
    assert not inspect.iscoroutinefunction(write)


pickled: Any = LocalDispatcher().deferred("pickled.it")(lambda: None)
pickled._function.__qualname__ = "pickled"


def test_it_is_pickled_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(pickled)) is pickled  # noqa: S301 - its own bytes


# --- the dispatch -----------------------------------------------------------------------------------


def test_the_options_are_those_of_a_dispatch(app: App, clock: FakeClock) -> None:
    @app.deferred
    def send(number: int) -> None:
        called.append(number)

    first = send.defer(1, unique="one")
    again = send.defer(2, unique="one")
    send.defer(3, delay="1m")
    send.defer(4, urgency="high", expires="1h", ordering_key="a")

    assert isinstance(first, Dispatched)
    assert again.duplicate_of == first.id
    app.drain()
    assert called == [4, 1]


def test_with_a_session_it_commits_with_that(app: App) -> None:
    @app.deferred
    def send(number: int) -> None:
        called.append(number)

    with pytest.raises(SessionError):
        send.defer(1, session=object())

    app.drain()
    assert called == []


def test_an_awaited_dispatch_does_the_same(app: App) -> None:
    @app.deferred
    def send(number: int) -> None:
        called.append(number)

    async def request() -> Dispatched:
        return await send.adefer(7, urgency="high")

    assert asyncio.run(request()).targets
    app.drain()
    assert called == [7]


def test_an_event_for_each_item_is_sent_together(app: App) -> None:
    @app.deferred
    def send(number: int, greeting: str = "hello") -> None:
        called.append((number, greeting))

    made = send.map([1, 2, 3], delay="1m")
    more = send.map(iter([4]))

    assert [len(made), len(more)] == [3, 1]
    app.drain()
    assert called == [(4, "hello")]


def test_of_several_items_none_is_sent_if_one_does_not_fit(app: App) -> None:
    @app.deferred
    def send(number: int) -> None:
        called.append(number)

    numbers: list[Any] = [*range(1000), "one more than the events of a batch"]
    with pytest.raises(EncodeError, match=r"\$\.number"):
        send.map(numbers)

    assert app.drain().handled == 0


def test_in_a_listener_the_call_dispatches_its_event_once(app: App) -> None:
    runs: list[int] = []

    @app.deferred
    def send(number: int) -> None:
        called.append(number)

    @app.listener("order.paid", retry=Retry(2, first=0.001, jitter=0))
    def on_paid(event: Event, call: Call) -> None:
        call.dispatch(send.event(event["number"]))
        runs.append(call.attempt)
        if call.attempt == 1:
            raise OSError("once more")

    app.dispatch("order.paid", {"number": 7})
    app.drain()
    assert isinstance(app.clock, FakeClock)
    app.clock.advance(60.0)
    app.drain()

    assert runs == [1, 2]
    assert called == [7]


def test_a_call_in_process_runs_it_at_once() -> None:
    local = LocalDispatcher()
    called.clear()

    @local.deferred
    def send(number: int) -> None:
        called.append(number)

    send.defer(7)

    assert called == [7]


def test_the_test_of_an_application_sees_it(app: App) -> None:
    @app.deferred
    def send(number: int) -> None:
        called.append(number)

    with app.testing() as t:
        send.defer(7)
        assert called == []
        t.drain()

    assert called == [7]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda send: send.defer(), TypeError, r"send\(\): missing a required argument: 'number'"),
        (lambda send: send.defer(1, 2, 3), TypeError, r"send\(\): too many positional arguments"),
        (lambda send: send.defer(1, nmber=2), TypeError, r"send\(\): got an unexpected keyword argument 'nmber'"),
        (lambda send: send.defer(1, countdown=2), TypeError, "argument 'countdown'; it is called delay= here"),
        (lambda send: send.map([1], dleay=2), TypeError, 'did you mean "delay"'),
        (lambda send: send.defer("one"), EncodeError, r"Expected `int`, got `str` - at `\$.number`"),
        (lambda send: send.defer(object()), EncodeError, r"\$\.number: object has no form in JSON"),
        (lambda send: send.defer(1, delay="soon"), ConfigurationError, "delay"),
    ],
)
def test_what_does_not_fit_is_refused_where_it_is_deferred(
    app: App, call: Callable[[Any], object], error: type[Exception], message: str
) -> None:
    @app.deferred
    def send(number: int, copies: int = 1) -> None: ...

    with pytest.raises(error, match=message):
        call(send)

    assert app.drain().handled == 0


# --- the listener -----------------------------------------------------------------------------------


def test_its_event_and_its_listener_have_names_of_their_own(app: App) -> None:
    deferred = app.deferred(everything)

    (found,) = app.listeners()
    assert deferred.name == found.event_name == f"deferred.{__name__}.everything"
    assert found.id == deferred.name


def test_the_options_of_a_listener_are_those_of_its_listener(app: App) -> None:
    app.deferred("receipt.send", queue="mail", retry=3, time_limit="5m", memory_limit="64M", id="send")(everything)

    (found,) = app.listeners()
    assert (found.queue, found.mark.retry, found.mark.time_limit, found.id) == ("mail", Retry(3), 300.0, "send")
    assert found.mark.memory_limit == 64 << 20


@pytest.mark.parametrize("aliases", ["receipt.mail", ["receipt.mail", "receipt.post"]])
def test_events_under_an_earlier_name_are_handled(app: App, aliases: Any) -> None:
    @app.deferred("receipt.send", aliases=aliases)
    def send(number: int) -> None:
        called.append(number)

    app.dispatch("receipt.mail", {"number": 7})
    send.defer(8)
    app.drain()

    assert called == [7, 8]


@pytest.mark.parametrize(("former", "renamed"), [(None, {"aliases": ["{former}"]}), ("receipt.send", {})])
def test_a_call_that_has_failed_is_run_again_after_the_function_was_renamed(
    clock: FakeClock, former: str | None, renamed: dict[str, list[str]]
) -> None:
    called.clear()
    transport = MemoryTransport(name="main", clock=clock)

    def send(number: int) -> None:
        raise OSError("no network")

    def post(number: int) -> None:
        called.append(number)

    with (
        App(transports={"main": transport}, clock=clock) as app,
        App(transports={"main": transport}, clock=clock) as newer,
    ):
        deferred = app.deferred(former)(send)
        deferred.defer(7)
        app.drain()
        newer.deferred(former, aliases=[each.format(former=deferred.name) for each in renamed.get("aliases", ())])(post)
        clock.advance(60.0)
        report = newer.drain()
        stats = transport.stats("default")

    assert (called, report.done) == ([7], 1)
    assert (stats.ready, stats.scheduled, stats.dead) == (0, 0, 0)


def test_an_alias_may_be_the_name_that_it_has(app: App) -> None:
    app.deferred("receipt.send", aliases=["receipt.send"])(everything)

    assert [each.event_name for each in app.listeners()] == ["receipt.send"]


def test_annotations_may_name_local_classes_and_what_is_returned_is_not_evaluated(app: App) -> None:
    @attrs.frozen
    class Paper:
        width: int

    @app.deferred
    def send(paper: Paper, copies: int = 1) -> Receipt:  # type: ignore[name-defined]  # noqa: F821 - as one of TYPE_CHECKING
        called.append((paper, copies))

    @app.deferred("paper.send", retry=2)
    def named(paper: Paper | None = None) -> None:
        called.append(paper)

    send.defer(Paper(7))
    named.defer(Paper(8))
    app.drain()

    assert called == [(Paper(7), 1), Paper(8)]


def test_a_local_name_does_not_hide_one_of_the_module_of_the_function(app: App) -> None:
    globals_: dict[str, Any] = {"__name__": "some_module", "Size": str, "called": called}
    exec("from __future__ import annotations\ndef send(size: Size): called.append(size)", globals_)  # noqa: S102

    class Size: ...

    app.deferred(globals_["send"]).defer("A4")
    app.drain()

    assert called == ["A4"]
    assert Size is not globals_["Size"]


def test_an_error_is_a_failed_run_with_the_line_of_the_function(app: App) -> None:
    @app.deferred
    def send(number: int) -> None:
        raise GiveUp(f"no order {number}")

    send.defer(7)
    app.drain()

    (dead,) = app.transport().dead_letters(["default"])
    (failure,) = app.failures(dead)
    assert "no order 7" in str(failure)
    assert app.deferred(everything).name != send.name


def test_it_can_be_removed_and_registered_again(app: App) -> None:
    deferred = app.deferred(everything)

    app.unlisten(deferred)
    removed = app.has_listeners()
    app.listen(deferred)
    again = len(app.listeners)
    app.remove_listener(deferred)

    assert (removed, again, app.has_listeners()) == (False, 1, False)


MODULE = """
from relevo import LocalDispatcher
app = LocalDispatcher()

@app.deferred
def send(number: int) -> int:
    return {returned}
"""


def test_a_module_of_deferred_functions_is_one_of_listeners(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_receipts.py").write_text(MODULE.format(returned="number"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "some_receipts", raising=False)

    app.listen("some_receipts")

    assert [each.id for each in app.listeners()] == ["deferred.some_receipts.send"]
    monkeypatch.delitem(sys.modules, "some_receipts")


def test_a_reload_replaces_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "reloaded_receipts.py"
    file.write_text(MODULE.format(returned="1"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("reloaded_receipts")
    file.write_text(MODULE.format(returned="22") + "\n", encoding="utf-8")
    before = module.app
    sys.modules["relevo_kept_app"] = module
    text = file.read_text(encoding="utf-8").replace("app = LocalDispatcher()\n", "")
    exec(compile(text, str(file), "exec"), vars(module))  # noqa: S102 - as a reload or a cell of a notebook runs it

    assert module.app is before
    assert [each.function(module.send.event(7)) for each in before.listeners()] == [22]
    monkeypatch.delitem(sys.modules, "reloaded_receipts")
    del sys.modules["relevo_kept_app"]


# --- what is refused --------------------------------------------------------------------------------


class Shop:
    def send(self, number: int) -> None: ...


def generator(number: int) -> Iterator[int]:
    yield number


def with_option(number: int, delay: int = 0) -> None: ...


def with_underscore(_number: int) -> None: ...


def unknown(number: Unknown) -> None: ...  # type: ignore[name-defined]  # noqa: F821 - the mistake


def handle(number: type[int]) -> None: ...


def with_value(number: int = 1) -> None: ...


def with_call(number: int, call: Call) -> None: ...


@LocalDispatcher().listener("order.paid")
def listener(event: Event) -> None: ...


def größe(number: int) -> None: ...  # noqa: PLC2401 - the name of an event is ASCII


with_value.__annotations__["number"] = 5


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (Shop.send, "it is a method"),
        (Shop().send, "put @app.deferred above a function"),
        (Size, "put @app.deferred above a function"),
        (generator, "it has a yield"),
        (with_option, "rename its parameter delay, since delay= is an option of the dispatch"),
        (with_underscore, "rename its parameter _number, since it begins with an underscore"),
        (unknown, "name 'Unknown' is not defined; import at run time what they name"),
        (handle, "the field number: "),
        (with_value, "the field number: Type '5' is not supported"),
        (with_call, "its parameter call is the call, which is not sent; write a listener"),
        (listener, "it is a listener; write a function for each"),
        (größe, r'name its event: @app.deferred\("receipt.send"\)'),
    ],
)
def test_what_cannot_be_deferred_says_why(app: App, function: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        app.deferred(function)

    assert len(app.listeners) == 0


def test_a_listener_is_not_put_above_it(app: App) -> None:
    send: Any = app.deferred(everything)

    with pytest.raises(ConfigurationError, match=r"<DeferredFunction .*> cannot be marked; mark a function"):
        app.listener("order.paid")(send)

    assert len(app.listeners) == 1


def test_an_unknown_option_and_an_invalid_name_are_refused(app: App) -> None:
    options: Any = {"retries": 3}
    with pytest.raises(TypeError, match=r"a deferred function has no option retries=…; .*retry"):
        app.deferred("receipt.send", **options)
    with pytest.raises(EventNameError):
        app.deferred("receipt send")(everything)
    with pytest.raises(EventNameError):
        app.deferred("receipt.send", aliases=["receipt *"])(everything)
    with pytest.raises(ConfigurationError, match="id, aliases: expected text"):
        app.deferred("receipt.send", id="")(everything)

    assert len(app.listeners) == 0


# --- types ------------------------------------------------------------------------------------------


def test_type_checkers_know_the_parameters() -> None:
    """An "ignore" that ignores nothing is an error of mypy, so each of them is a mistake that it finds."""
    app = LocalDispatcher()

    @app.deferred
    def send(number: int, greeting: str = "hello") -> str:
        return greeting * number

    @app.deferred("receipt.send", retry=3)
    def named(number: int) -> None: ...

    async def task() -> Dispatched:
        return await asyncio.create_task(send.adefer(2))  # which takes a coroutine, and not any awaitable

    assert_type(send(2), str)
    assert_type(send.defer(2, greeting="hi"), Dispatched)
    assert_type(send.defer(2, session=None), Dispatched)
    assert_type(send.map([1]), list[Dispatched])
    assert isinstance(named, DeferredFunction)
    assert asyncio.run(task()).targets
    with pytest.raises(TypeError):
        send("2")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        send.defer()  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        send.event()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        send.defer(1, greting="hi")  # type: ignore[call-overload]
