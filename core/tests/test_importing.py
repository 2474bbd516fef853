from __future__ import annotations

import importlib
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relevo import ListenerTable
from relevo._listener.importing import NotImportedError, import_object, marked_in
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


TWICE = """
@relevo.listener('image.created')
def on_event(event): ...
{}
@relevo.listener('{}')
def on_event(event): ...
"""


@pytest.mark.parametrize("event", ["image.created", "order.paid"])
def test_a_listener_that_loses_its_name_to_another_is_told_with_both_lines(write: Write, event: str) -> None:
    write(TWICE.format("", event))

    with pytest.raises(
        ConfigurationError,
        match=r'shop\.py: "on_event" in line 6 replaces the listener of the same name in line 3, .* rename one',
    ):
        marked_in("shop")


def test_a_listener_that_has_a_second_name_may_lose_the_first(write: Write) -> None:
    write(TWICE.format("kept = on_event", "order.paid"))

    assert names("shop") == ["on_event", "on_event"]


def test_a_method_that_loses_its_name_to_another_is_told_where_it_is_written(write: Write) -> None:
    body = TWICE.format("", "order.paid").replace("(event)", "(self, event)").replace("\n", "\n    ")
    write(f"class Feed:{body}\nfeed = Feed()\n")

    with pytest.raises(ConfigurationError, match=r'shop\.py:6: "Feed.on_event" in line 6 replaces the .* in line 3, '):
        marked_in("shop")


def test_a_module_that_is_loaded_again_has_its_listeners_once(write: Write, tmp_path: Path) -> None:
    write(LISTENER.format("one"))
    marked_in("shop")
    write("\n" + LISTENER.format("one") + LISTENER.format("two"))
    importlib.invalidate_caches()

    again = importlib.reload(sys.modules["shop"])

    assert names(again) == ["one", "two"]


def test_a_name_may_be_used_again_in_a_function(write: Write) -> None:
    body = TWICE.format("kept.append(on_event)", "order.paid").replace("\n", "\n    ")
    write(f"kept = []\ndef make():{body}\n    return on_event\nfeed = make()\n")

    assert names("shop") == ["on_event"]


def test_of_listeners_that_are_made_in_a_loop_each_needs_a_name(write: Write) -> None:
    write("for name in ('a.b', 'c.d'):\n    @relevo.listener(name)\n    def looped(event): ...\n")

    with pytest.raises(ConfigurationError, match='"looped" in line 3 replaces the listener of the same name in line 3'):
        marked_in("shop")


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
        ConfigurationError,
        match=r'the module "shop" \(.*shop.py\) has no listener; put @relevo.listener.* to a global name',
    ):
        marked_in("shop")


@pytest.mark.parametrize(
    "name", ["", ":", "shop:", ":app", ".shop", "shop/app.py", "shop app", "shop:a.b", "shop:a:b", "../x"]
)
def test_what_cannot_be_a_module_is_told(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"app: .* is not a module; write"):
        import_object(name, where="app")


@pytest.mark.parametrize(
    "name, told",
    [
        ("shpo.listeners", 'there is no module "shpo"; did you mean "shop"?; Python searches'),
        ("shop.listners", 'there is no module "shop.listners"; did you mean "shop.listeners"?; Python searches'),
        ("zipap", 'there is no module "zipap"; Python searches'),  # the standard library has no listeners
    ],
)
def test_a_module_that_is_not_there_is_told(write: Write, name: str, told: str) -> None:
    write("", "shop/__init__.py")
    write("", "shop/listeners.py")

    with pytest.raises(ConfigurationError, match=re.escape(f"listeners: {told}")) as caught:
        marked_in(name)

    assert "\n" not in str(caught.value)


def test_a_name_that_is_not_in_its_module_is_told(write: Write) -> None:
    write("application = 3\n")

    with pytest.raises(ConfigurationError, match=r'app: "shop" has no "aplication"; did you mean "application"\?'):
        import_object("shop:aplication", where="app")
    with pytest.raises(ConfigurationError, match='app: "shop" has no "server"; define it at the top of that module'):
        import_object("shop:server", where="app")


@pytest.mark.parametrize(
    "text, last",
    [
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def broken(:\n", "SyntaxError: invalid syntax (shop.py, line 2)"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("import shop.deeper\n", "ModuleNotFoundError: No module named 'shop.deeper'; 'shop' is not a package"),
    ],
    ids=range(5),
)
def test_an_import_that_fails_is_told_in_one_line_and_its_cause_has_its_own_traceback(
    write: Write, text: str, last: str
) -> None:
    write(text)

    with pytest.raises(NotImportedError) as caught:
        marked_in("shop")

    assert caught.value.__cause__ is not None
    told = "".join(traceback.format_exception(caught.value.__cause__))
    assert str(caught.value) == f'listeners: the module "shop" cannot be imported: {last}'
    assert "shop.py" in told
    assert "importlib" not in told
    assert "importing.py" not in told


def test_a_fault_that_relevo_finds_in_a_module_is_one_line_with_its_place(write: Write) -> None:
    write("\n@relevo.listener('not a name')\ndef one(event): ...\n")

    with pytest.raises(ConfigurationError, match=r"shop.py:3: 'not a name' is not an event name") as caught:
        marked_in("shop")

    assert "\n" not in str(caught.value)


def test_a_fault_that_a_backend_finds_has_the_place_of_its_call(write: Write) -> None:
    write("\nfrom relevo_sql import orm_subject\n\norm_subject(int, print)\n")

    with pytest.raises(ConfigurationError, match=r"cannot be imported: \S*shop.py:\d: orm_subject: "):
        marked_in("shop")


def test_a_server_that_is_down_during_an_import_is_no_fault_of_the_module(write: Write) -> None:
    write("raise relevo.TransportUnavailableError('main', 'no route')\n")

    with pytest.raises(TransportUnavailableError):
        marked_in("shop")


# --- a file that is run itself --------------------------------------------------------------------------

SCRIPT = """
import msgspec
import relevo
from relevo_memory import ManualRunner, MemoryTransport

@relevo.event("image.created")
class ImageCreated(msgspec.Struct):
    path: str

@relevo.listener(ImageCreated)
def typed(event):
    print("typed", event.path)

@relevo.listener("image.created")
def by_name(event):
    print("by name", event["path"])

app = relevo.App(transports={"main": MemoryTransport()}, routes={"*": "main"}, listeners=["shop"])
"""


def run(directory: Path, *arguments: str) -> tuple[list[str], str]:
    """Run Python there; return the lines that it printed, and the last one of its errors."""
    done = subprocess.run([sys.executable, *arguments], cwd=directory, text=True, capture_output=True, check=False)
    return done.stdout.splitlines(), done.stderr.strip().rpartition("\n")[2]


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize("arguments", ["shop.py", "-m shop", "./shop.py"])
def test_a_file_that_is_run_itself_may_name_itself_as_the_module_of_its_listeners(
    tmp_path: Path, arguments: str
) -> None:
    (tmp_path / "shop.py").write_text(
        f"{SCRIPT}\nif __name__ == '__main__':\n    print([each.id for each in app.listeners])\n"
        "    app.dispatch(ImageCreated('a.jpg'))\n    print(ManualRunner().run(app).done)\n"
    )

    printed, error = run(tmp_path, *arguments.split())

    assert (printed, error) == (["['shop:typed', 'shop:by_name']", "typed a.jpg", "by name a.jpg", "1"], "")


@pytest.mark.lengthy("starts processes")
def test_another_file_of_its_name_is_not_taken_for_the_one_that_is_run(tmp_path: Path) -> None:
    (tmp_path / "apart").mkdir()
    (tmp_path / "shop.py").write_text("what = 'the other one'\n")
    (tmp_path / "apart" / "shop.py").write_text(
        "import sys\nfrom relevo._listener.importing import import_object\n"
        "sys.path[0] = '..'\nprint(import_object('shop:what', where='x'))\n"
    )

    assert run(tmp_path / "apart", "shop.py") == (["the other one"], "")


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize(
    "then, told",
    [
        ("app.listen(shop.typed, typed)", 'the event "image.created" is declared twice: '),
        ("app.listen(shop.by_name, by_name)", 'two listeners of "image.created" have the id "shop:by_name": by_name ('),
    ],
    ids=["class", "listener"],
)
def test_that_a_file_is_run_itself_and_imported_too_is_named_as_the_cause(tmp_path: Path, then: str, told: str) -> None:
    script = SCRIPT.replace('["shop"]', "[]")
    (tmp_path / "shop.py").write_text(
        f"{script}\nif __name__ == '__main__':\n    import shop\n    {then}\n    app.listeners\n"
    )

    _, error = run(tmp_path, "shop.py")

    assert told in error
    assert error.endswith(
        "; the file that runs as __main__ is imported a second time by its name; move its declarations to another file"
    )
