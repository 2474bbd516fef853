from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relevo import ListenerTable
from relevo._module import imported, marked_in
from relevo.errors import ConfigurationError, TransportUnavailableError

Write = Callable[..., None]


@pytest.fixture(name="write")
def _write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write modules that can be imported for this test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(text: str, path: str = "shop.py") -> None:
        tmp_path.joinpath(path).parent.mkdir(exist_ok=True)
        tmp_path.joinpath(path).write_text(f"import relevo\n{text}")

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


LISTENER = "@relevo.listener('a.b')\ndef {}(event): ...\n"


def names(thing: object) -> list[str]:
    return [getattr(each, "__name__", type(each).__name__) for each in marked_in(thing)]


def test_a_module_is_searched_for_what_is_marked_in_it(write: Write) -> None:
    write(LISTENER.format("one") + LISTENER.format("two") + "alias = two\ndef unmarked(): ...\n")

    assert names("shop") == ["one", "two"]
    assert names(sys.modules["shop"]) == ["one", "two"]


def test_a_package_holds_the_listeners_of_its_own_modules_and_not_those_of_others(write: Write) -> None:
    write("from pack.inner import inner\nfrom package import foreign\n" + LISTENER.format("own"), "pack/__init__.py")
    write(LISTENER.format("inner"), "pack/inner.py")
    write(LISTENER.format("foreign"), "package.py")

    assert names("pack") == ["inner", "own"]


def test_a_name_inside_a_module_can_be_a_function_or_a_subscriber(write: Write) -> None:
    write(LISTENER.format("one") + LISTENER.format("two") + "feed = type('Feed', (), {'on': two})()\n")

    assert names("shop:one") == ["one"]
    assert names("shop:feed") == ["Feed"]


SUBSCRIBER = """
class Feed:
    @relevo.listener('a.b')
    def on(self, event): ...
    @staticmethod
    @relevo.listener('a.c', id='plain')
    def plain(event): ...
class Later(Feed):
    pass
"""


def test_a_modules_subscribers_are_found_beside_its_functions(write: Write) -> None:
    write(SUBSCRIBER, "feeds.py")
    write("from feeds import Feed, Later\n" + LISTENER.format("one") + "feed = Feed()\nsame = feed\n")
    write("from feeds import Later\nlater = Later()\n", "only.py")

    assert names("shop") == ["one", "Feed"]
    assert names("only") == ["Later"]


def test_the_static_methods_of_a_subscriber_listen_too(write: Write) -> None:
    write(SUBSCRIBER + "feed = Feed()\n")
    table = ListenerTable()

    table.extend(marked_in("shop"))

    assert [each.id for each in table] == ["shop:Feed.on", "plain"]


def test_anything_else_is_itself() -> None:
    thing = object()

    assert marked_in(thing) == [thing]


def test_objects_that_answer_to_everything_do_no_harm(write: Write) -> None:
    write(
        LISTENER.format("one")
        + "from unittest.mock import MagicMock\nmock = MagicMock()\n"
        + "class Proxy:\n"
        + "    def __getattr__(self, name): raise RuntimeError('outside of a request')\n"
        + "    def __call__(self): ...\n"
        + "request = Proxy()\n"
    )

    assert names("shop") == ["one"]


def test_a_module_without_a_listener_is_told(write: Write) -> None:
    write("")

    with pytest.raises(
        ConfigurationError, match=r'the module "shop" has no listener; put @relevo.listener.* a name in the module'
    ):
        marked_in("shop")


@pytest.mark.parametrize(
    "name", ["", ":", "shop:", ":app", ".shop", "shop/app.py", "shop app", "shop:a.b", "shop:a:b", "../x"]
)
def test_what_cannot_be_a_module_is_told(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"app: .* is not a module; write"):
        imported(name, where="app")


@pytest.mark.parametrize("name, missing", [("shpo.listeners", "shpo"), ("shop.listners", "shop.listners")])
def test_a_module_that_is_not_there_is_told(write: Write, name: str, missing: str) -> None:
    write("", "shop/__init__.py")

    with pytest.raises(ConfigurationError, match=f'listeners: there is no module "{missing}"') as caught:
        marked_in(name)

    assert "\n" not in str(caught.value)


def test_a_name_that_is_not_in_its_module_is_told(write: Write) -> None:
    write("application = 3\n")

    with pytest.raises(ConfigurationError, match=r'app: "shop" has no "aplication"; did you mean "application"\?'):
        imported("shop:aplication", where="app")


@pytest.mark.parametrize(
    "text, last",
    [
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def broken(:\n", "SyntaxError: invalid syntax"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("import shop.deeper\n", "ModuleNotFoundError: No module named 'shop.deeper'; 'shop' is not a package"),
    ],
    ids=range(5),
)
def test_an_import_that_fails_is_told_with_its_own_traceback_alone(write: Write, text: str, last: str) -> None:
    write(text)

    with pytest.raises(ConfigurationError, match='listeners: the module "shop" cannot be imported') as caught:
        marked_in("shop")

    told = str(caught.value)
    assert told.endswith(last)
    assert "shop.py" in told
    assert "importlib" not in told
    assert "_module.py" not in told


def test_a_fault_that_relevo_finds_in_a_module_is_one_line_with_its_place(write: Write) -> None:
    write("\n@relevo.listener('not a name')\ndef one(event): ...\n")

    with pytest.raises(ConfigurationError, match=r"shop.py:3: 'not a name' is not an event name") as caught:
        marked_in("shop")

    assert "\n" not in str(caught.value)


def test_a_server_that_is_down_during_an_import_is_no_fault_of_the_module(write: Write) -> None:
    write("raise relevo.TransportUnavailableError('main', 'no route')\n")

    with pytest.raises(TransportUnavailableError):
        marked_in("shop")
