"""Arguments of other tools are answered with what relevo has instead."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import attrs
import pytest

import relevo
from relevo import App, LocalDispatcher, RetryLater
from relevo._synonym import APP, DISPATCH, LISTENER, RETRY_LATER
from relevo.errors import ConfigurationError
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


@pytest.mark.parametrize("name", LISTENER)
def test_a_listener_says_what_it_has_instead(make: Make, name: str) -> None:
    app = make()
    given: Any = {name: 5}
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


@pytest.mark.parametrize("name", APP)
def test_an_application_says_what_it_has_instead(name: str) -> None:
    given: Any = {name: "amqp://127.0.0.1"}

    with pytest.raises(TypeError) as error:
        App(**given)

    assert told(error) == f"App has no option {name}=…; {APP[name]}"


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
        (RETRY_LATER, RetryLater.__init__),
        (APP, App.__init__),
    ]
    elsewhere = {"routes", "id", "give_up_on", "first", "factor", "cap", "retry"}

    for answers, owner in owners:
        assert answers.keys().isdisjoint(owner.__annotations__)
        for answer in answers.values():
            assert {*re.findall(r"\b(\w+)=", answer)} <= {*owner.__annotations__, *elsewhere}, answer


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
