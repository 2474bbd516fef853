"""Arguments of other tools are answered with what relevo has instead."""

from __future__ import annotations

import asyncio
import copy
import pickle
import re
from pathlib import Path
from typing import Any

import attrs
import pytest

import relevo
from relevo import App, Call, Dispatched, Event, GiveUp, LocalDispatcher, QueueOptions, Retry, RetryLater, RunOptions
from relevo._app.load import app_named
from relevo._synonym import (
    APP,
    ATTRIBUTES,
    CALLED_KEYS,
    DISPATCH,
    EVENT,
    GIVE_UP,
    KEYS,
    LISTENER,
    QUEUE_OPTIONS,
    RETRY,
    RETRY_LATER,
    RUN_OPTIONS,
    SCHEDULE,
)
from relevo.errors import ConfigurationError
from relevo.testing import AppTesting, make_call
from relevo_memory import MemoryTransport

from .application import Make


@relevo.event("image.created")
@attrs.frozen
class ImageCreated:
    path: str


def told(error: pytest.ExceptionInfo[TypeError]) -> str:
    return str(error.value)


@pytest.mark.parametrize("name", DISPATCH)
@pytest.mark.parametrize("event", ["image.created", ImageCreated("sea.jpg")], ids=["name", "class"])
def test_a_dispatch_says_what_it_has_instead(make: Make, event: object, name: str) -> None:
    app = make()
    given: Any = {name: 5}

    for dispatcher in (app, LocalDispatcher()):
        with pytest.raises(TypeError) as error:
            dispatcher.dispatch(event, **given)
        assert told(error) == f"a dispatch has no option {name}=…; {DISPATCH[name]}"
        with pytest.raises(TypeError, match=f"no option {name}=…; "):
            asyncio.run(dispatcher.adispatch(event, **given))
    assert app.transport().stats("default").ready == 0


@pytest.mark.parametrize(("name", "near"), [("path", ""), ("sensor", ""), ("date", ""), ("delays", "delay")])
def test_an_argument_of_an_event_belongs_into_the_mapping(make: Make, name: str, near: str) -> None:
    given: Any = {name: 5}

    with pytest.raises(TypeError) as error:
        make().dispatch("image.created", **given)

    mapping = f'the arguments of an event are one mapping: dispatch("image.created", {{"{name}": …}})'
    hint = f'; did you mean "{near}"?' if near else ""
    assert told(error) == f"a dispatch has no option {name}=…; {mapping}{hint}"


@pytest.mark.parametrize("name", LISTENER)
def test_a_listener_says_what_it_has_instead(make: Make, name: str) -> None:
    app = make()
    given: Any = {name: "5"}
    expected = f"a listener has no option {name}=…; {LISTENER[name]}"

    with pytest.raises(TypeError) as error:
        relevo.listener("image.created", **given)
    assert told(error) == expected
    with pytest.raises(TypeError) as error:
        app.listener("image.created", **given)
    assert told(error) == expected
    with pytest.raises(TypeError) as error:
        app.add_listener("image.created", print, **given)
    assert told(error) == expected


@pytest.mark.parametrize("name", RETRY_LATER)
def test_a_later_retry_says_what_it_has_instead(name: str) -> None:
    given: Any = {name: 5}

    with pytest.raises(TypeError) as error:
        RetryLater(**given)

    assert told(error) == f"RetryLater has no option {name}=…; {RETRY_LATER[name]}"


@pytest.mark.parametrize("name", QUEUE_OPTIONS)
def test_the_options_of_a_queue_say_what_they_have_instead(name: str) -> None:
    given: Any = {name: "tenant"}

    with pytest.raises(TypeError) as error:
        QueueOptions(**given)

    assert told(error) == f"QueueOptions has no option {name}=…; {QUEUE_OPTIONS[name]}"


@pytest.mark.parametrize("name", RUN_OPTIONS)
def test_the_options_of_a_run_say_what_they_have_instead(name: str) -> None:
    given: Any = {name: 5}

    with pytest.raises(TypeError) as error:
        RunOptions(**given)

    assert told(error) == f"RunOptions has no option {name}=…; {RUN_OPTIONS[name]}"
    app = App(routes={"*": "now"})
    for method in (app.drain, app.worker):
        with pytest.raises(TypeError) as error:
            method(**given)
        written = f"write app.{method.__name__}(relevo.RunOptions(…)): {RUN_OPTIONS[name]}"
        assert told(error) == f"{method.__name__} has no option {name}=…; {written}"


def test_a_misspelt_option_of_a_run_is_told() -> None:
    with pytest.raises(TypeError) as error:
        RunOptions(max_event=5)  # type: ignore[arg-type]

    assert told(error) == 'RunOptions has no option max_event=…; did you mean "max_events"?'


@pytest.mark.parametrize("method", ["drain", "worker"])
def test_options_of_a_run_are_not_arguments_of_the_method(make: Make, method: str) -> None:
    run: Any = getattr(make(), method)

    with pytest.raises(TypeError) as error:
        run(max_events=1)
    with pytest.raises(TypeError, match=f"{method} has no option foo=…"):
        run(foo=1)

    assert told(error) == f"{method} has no option max_events=…; write app.{method}(relevo.RunOptions(max_events=…))"


@pytest.mark.parametrize(("made", "answers"), [(Retry, RETRY), (Event, EVENT)])
def test_a_retry_policy_and_an_event_say_what_they_have_instead(made: Any, answers: dict[str, str]) -> None:
    for name, answer in answers.items():
        with pytest.raises(TypeError) as error:
            made("a.b", **{name: "5"})
        assert told(error) == f"{made.__name__} has no option {name}=…; {answer}"


@pytest.mark.parametrize(
    ("retries", "text"),
    [
        (0, "{}=1: the first run, and 0 more"),
        (5, "{}=6: the first run, and 5 more"),
        (None, "a large number of runs: {}=1000"),
        (-1, "{}=4: the first run, and 3 more"),
        (True, "{}=4: the first run, and 3 more"),
    ],
)
def test_a_number_of_retries_is_told_as_the_number_of_runs(retries: object, text: str) -> None:
    given: Any = {"max_retries": retries}

    with pytest.raises(TypeError, match=f"write {text.format('retry')}$"):
        relevo.listener("image.created", **given)
    with pytest.raises(TypeError, match=f"write {text.format('runs')}$"):
        Retry(**given)


def test_options_of_a_retry_policy_in_a_mapping_are_refused() -> None:
    given: Any = {"max_retries": 3}

    with pytest.raises(ConfigurationError, match=r"retry: expected relevo.Retry.*; write retry=relevo.Retry\(5, first"):
        relevo.listener("image.created", retry=given)


def test_an_argument_that_an_event_has_not_belongs_into_its_mapping() -> None:
    given: Any = {"path": "sea.jpg"}

    with pytest.raises(TypeError, match=r'one mapping: relevo.Event\("image.created", \{"path": …\}\)$'):
        Event("image.created", **given)


@pytest.mark.parametrize("name", APP)
def test_an_application_says_what_it_has_instead(name: str) -> None:
    given: Any = {name: "amqp://127.0.0.1"}

    with pytest.raises(TypeError) as error:
        App(**given)

    answer = APP[name].replace('{"main": "sqlite:///shop.db"}', '{"main": "amqp://127.0.0.1"}')
    assert told(error) == f"App has no option {name}=…; {answer}"


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("amqp://shop:hunter2@mq.example/shop", '{"main": "amqp://shop:***@mq.example/shop"}'),
        ("redis://localhost:6379/0", '{"main": "sqlite:///shop.db"}; relevo has no transport for Redis'),
    ],
)
def test_an_application_proposes_the_address_that_it_was_given(address: str, written: str) -> None:
    given: Any = {"broker": address}
    alone: Any = address

    with pytest.raises(TypeError) as named:
        App(**given)
    with pytest.raises(TypeError) as positional:
        App(alone)

    for error in (named, positional):
        assert told(error).endswith(f"; write transports={written}")


@pytest.mark.parametrize("name", GIVE_UP)
def test_giving_up_says_what_it_has_instead(name: str) -> None:
    given: Any = {name: False}

    with pytest.raises(TypeError) as error:
        GiveUp("no use", **given)

    assert told(error) == f"GiveUp has no option {name}=…; {GIVE_UP[name]}"


@pytest.mark.parametrize("name", ["subscribers", "imports", "task_routes", "visibility_timeout", "worker_pool"])
def test_an_application_has_the_names_of_the_configuration(name: str) -> None:
    given: Any = {name: 5}

    with pytest.raises(TypeError) as error:
        App(**given)

    assert told(error) == f"App has no option {name}=…; it is called {CALLED_KEYS[name]}= here"


def test_an_application_answers_to_each_key_of_other_tools() -> None:
    answered = {*APP, *CALLED_KEYS}

    assert KEYS[""].keys() <= answered


def owners() -> dict[str, Any]:
    """Return what has the attributes, by its name in the table."""
    return {
        "App": App(routes={"*": "now"}),
        "AppTesting": App(routes={"*": "now"}).testing(),
        "Call": make_call(),
        "DeferredFunction": LocalDispatcher().deferred(owners),
        "Dispatched": Dispatched(id="1", targets=()),
        "Event": Event("image.created"),
        "relevo": relevo,
    }


def test_an_attribute_of_another_tool_is_answered() -> None:
    assert owners().keys() == ATTRIBUTES.keys()
    for owner, thing in owners().items():
        for name, answer in ATTRIBUTES[owner].items():
            assert not hasattr(thing, name)
            with pytest.raises(AttributeError) as error:
                getattr(thing, name)
            assert str(error.value) == f"{owner} has no {name}; {answer}"
            assert getattr(error.value, "obj", None) in (None, relevo)  # else Python adds that "relay" is meant


def test_another_missing_attribute_is_told_as_python_does() -> None:
    for owner, thing in owners().items():
        with pytest.raises(AttributeError, match="has no attribute 'shape'"):
            thing.shape  # noqa: B018
        assert getattr(thing, "shape", None) is None, owner


def test_an_import_of_another_tool_is_answered() -> None:
    with pytest.raises(ImportError, match=r"^relevo has no shared_task; write @relevo.listener"):
        from relevo import shared_task  # type: ignore[attr-defined]  # noqa: F401, PLC0415
    with pytest.raises(ImportError, match="cannot import name 'shape'"):
        from relevo import shape  # type: ignore[attr-defined]  # noqa: F401, PLC0415


def test_an_answer_names_attributes_that_there_are() -> None:
    things = {"app": App, "call": Call, "relevo": relevo, "t": AppTesting}

    for answers in [
        *ATTRIBUTES.values(),
        APP,
        DISPATCH,
        EVENT,
        GIVE_UP,
        LISTENER,
        QUEUE_OPTIONS,
        RETRY,
        RETRY_LATER,
        SCHEDULE,
    ]:
        for answer in answers.values():
            for thing, name in re.findall(r"\b(app|call|relevo|t)\.([A-Za-z_]+)", answer):
                assert name == "toml" or hasattr(things[thing], name), answer


def test_what_is_dispatched_is_still_copied_and_pickled() -> None:
    dispatched = Dispatched(id="1", targets=())

    event = Event("image.created", {"path": "sea.jpg"})

    assert copy.copy(event) == copy.deepcopy(event) == pickle.loads(pickle.dumps(event)) == event  # noqa: S301 - our own
    assert copy.copy(dispatched) == copy.deepcopy(dispatched) == pickle.loads(pickle.dumps(dispatched)) == dispatched  # noqa: S301 - our own


def test_an_error_of_a_property_is_not_lost() -> None:
    class Broken(App):
        @property
        def shop(self) -> str:
            return "".path  # type: ignore[attr-defined, no-any-return]

    with pytest.raises(AttributeError, match="'str' object has no attribute 'path'"):
        _ = Broken(routes={"*": "now"}).shop


def test_an_application_takes_its_name_as_source() -> None:
    with pytest.raises(TypeError, match=r"^App takes no positional arguments; got 'shop'; write source= for its name$"):
        App("shop")  # type: ignore[arg-type]


def test_a_misspelt_argument_of_an_application_is_told() -> None:
    with pytest.raises(TypeError, match=r'^App has no option transport=…; did you mean "transports"\?$'):
        App(transport={})  # type: ignore[arg-type]


def test_an_answer_names_arguments_that_there_are() -> None:
    owners: list[tuple[Any, Any]] = [
        (DISPATCH, App.dispatch),
        (LISTENER, relevo.listener),
        (EVENT, Event.__init__),
        (RETRY, Retry.__init__),
        (RETRY_LATER, RetryLater.__init__),
        (GIVE_UP, GiveUp.__init__),
        (APP, App.__init__),
        (QUEUE_OPTIONS, QueueOptions.__init__),
        (RUN_OPTIONS, RunOptions.__init__),
        (SCHEDULE, App.schedule),
    ]
    dispatch = {"delay", "at", "urgency", "expires"}
    elsewhere = {"queues", "routes", "transports", "id", "subject", "retry", "time_limit", "version", *dispatch}
    for other in (Retry, relevo.Execution, QueueOptions):
        elsewhere |= {*other.__init__.__annotations__}

    for answers, owner in owners:
        assert answers.keys().isdisjoint(owner.__annotations__)
        for answer in answers.values():
            assert {*re.findall(r"\b(\w+)=", answer)} <= {*owner.__annotations__, *elsewhere}, answer


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("other = relevo.App(routes={'*': 'now'})", r"^app: expected \"{}:other\"; got '{}'$"),
        (
            "one, two = (relevo.App(routes={'*': 'now'}) for _ in '12')",
            r"^app: expected \"module:name\", as in \"{}:app\"",
        ),
        ("1 / 0", r"^app: expected \"module:name\", as in \"{}:app\"; got '{}'$"),
    ],
    ids=["one", "two", "broken"],
)
def test_a_module_without_a_name_proposes_its_only_application(
    lines: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    module = f"proposing_{request.node.callspec.id}"
    (tmp_path / f"{module}.py").write_text(f"import relevo\n{lines}\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ConfigurationError, match=told.format(module, module)):
        app_named(module)


@pytest.mark.parametrize("method", ["drain", "worker"])
def test_a_run_takes_run_options(make: Make, method: str) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"^{method}: expected relevo.RunOptions\(…\); got 5; write {method}\("
    ):
        getattr(make(), method)(5)


def test_dead_letters_are_revived_with_their_states() -> None:
    wrong: Any = "1@default"

    with pytest.raises(ConfigurationError, match=r"^revive: expected a mapping from refs to states; got '1@default'; "):
        MemoryTransport().revive(wrong)


def test_the_error_of_a_property_of_a_subclass_is_its_own() -> None:
    class Own(App):
        @property
        def conf(self) -> object:
            raise AttributeError("a bug")

    with pytest.raises(AttributeError, match=r"^a bug$"):
        Own(routes={"*": "now"}).conf  # noqa: B018
