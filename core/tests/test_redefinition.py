"""A function that is defined again, in a cell of a notebook or by a reload, and the removal of listeners."""

from __future__ import annotations

import ast
import importlib
import linecache
import queue
import sys
import threading
from codeop import Compile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from zlib import crc32

import pytest

import relevo
from relevo import App, Dispatcher, Event, ListenerTable, LocalDispatcher, Subject, SubjectType
from relevo.errors import ConfigurationError, DuplicateEventError, DuplicateListenerError, SubjectError

PATIENCE = 300.0
CELL = """
@app.listener("image.created", priority={priority})
def hear(event):
    heard.append({version})
"""


class Notebook:
    """A module whose cells are run one after another, as IPython does it: each statement is compiled by itself."""

    def __init__(self, app: Dispatcher):
        self.module = ModuleType("__main__of_a_notebook")
        self.heard: list[Any] = []
        vars(self.module).update(app=app, relevo=relevo, heard=self.heard)

    def run(self, cell: str, **values: object) -> None:
        text = cell.format(**values) if values else cell
        name = f"<cell {crc32(text.encode())}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        compiled = Compile()  # which remembers what the cell imports from __future__
        for statement in ast.parse(text).body:
            code = compiled(ast.Module([statement], []), name, "exec")  # type: ignore[arg-type]
            exec(code, vars(self.module))  # noqa: S102


@pytest.fixture(name="app")
def _app() -> Iterator[App]:
    with App(routes={"*": "now"}) as app:
        yield app


# --- a cell that is run again ------------------------------------------------------------------------


@pytest.mark.parametrize("looked", [True, False], ids=["used between", "not used"])
def test_a_cell_that_is_run_again_replaces_its_listener(app: App, *, looked: bool) -> None:
    notebook = Notebook(app)

    notebook.run(CELL, version=1, priority=0)
    if looked:
        app.dispatch("image.created")
    notebook.run(CELL, version=2, priority=3)
    app.dispatch("image.created")

    assert notebook.heard == ([1, 2] if looked else [2])
    (listener,) = app.listeners
    assert listener.priority == 3


def test_a_local_dispatcher_replaces_it_too() -> None:
    notebook = Notebook(LocalDispatcher())

    for version in (1, 2):
        notebook.run(CELL, version=version, priority=0)
    notebook.module.app.dispatch("image.created")

    assert notebook.heard == [2]


def test_the_replaced_listener_is_gone_for_its_former_events_too(app: App) -> None:
    notebook = Notebook(app)
    notebook.run('@app.listener("a")\n@app.listener("b")\ndef hear(event): heard.append(1)')
    assert len(app.listeners) == 2

    notebook.run('@app.listener("b")\n@app.listener("c")\ndef hear(event): heard.append(2)')

    assert [each.event_name for each in app.listeners] == ["b", "c"]


def test_it_keeps_its_place_among_the_listeners_of_its_event(app: App) -> None:
    notebook = Notebook(app)
    notebook.run('@app.listener("a")\ndef first(event): heard.append("first")')
    notebook.run('@app.listener("a")\ndef second(event): heard.append("second")')
    notebook.run('@app.listener("a")\ndef first(event): heard.append("again")')

    app.dispatch("a")

    assert notebook.heard == ["again", "second"]


def test_a_decorated_function_and_a_subscriber_are_replaced_too(app: App) -> None:
    notebook = Notebook(app)
    decorated = """
import functools
if "timed" not in globals():
    def timed(function):
        @functools.wraps(function)
        def wrapper(*arguments):
            return function(*arguments)
        return wrapper

@app.listener("a")
@timed
def hear(event): heard.append({version})
"""
    subscriber = """
class Subscriber:
    @relevo.listener("a")
    def on(self, event): heard.append("on {version}")
app.listen(Subscriber())
"""
    for version in (1, 2):
        notebook.run(decorated, version=version)
        notebook.run(subscriber, version=version)

    app.dispatch("a")

    assert notebook.heard == [2, "on 2"]


def test_what_is_not_the_same_function_is_still_a_duplicate(app: App) -> None:
    def made() -> Any:
        @relevo.listener("a")
        def hear(event: Event) -> None: ...

        return hear

    class Subscriber:
        @relevo.listener("b")
        def on(self, event: Event) -> None: ...

    for pair in [(made(), made()), (Subscriber(), Subscriber())]:
        with App(routes={"*": "now"}, listeners=pair) as other, pytest.raises(DuplicateListenerError):
            other.listeners()
    local = LocalDispatcher()
    local.add_listener("c", lambda event: 1)
    local.add_listener("c", lambda event: 2)
    assert len(local.listeners) == 2


def test_two_functions_of_one_name_in_one_cell_are_a_mistake(app: App) -> None:
    notebook = Notebook(app)

    with pytest.raises(ConfigurationError, match='"hear" in line 3 replaces the listener of the same name in line 1'):
        notebook.run('@app.listener("a")\ndef hear(event): ...\n@app.listener("b")\ndef hear(event): ...')

    assert [each.event_name for each in app.listeners] == ["a"]


HANDLE = """
@app.listener("{event}"{options})
def handle(event): heard.append("{event} {version}")
"""


@pytest.mark.parametrize("second", ["a", "b"])
@pytest.mark.parametrize("new", [lambda: App(routes={"*": "now"}), LocalDispatcher], ids=["app", "local"])
def test_functions_of_one_name_in_two_cells_with_different_ids_are_two_listeners(
    new: Any, second: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = new()
    notebook = Notebook(app)

    for version in (1, 2):
        notebook.run(HANDLE, event="a", options=', id="one"', version=version)
        notebook.run(HANDLE, event=second, options=', id="two"', version=-version)
    app.dispatch("a")
    app.dispatch("b")

    assert [each.id for each in app.listeners] == ["one", "two"]
    assert notebook.heard == ["a 2", f"{second} -2"]
    assert not caplog.records
    app.remove_listener(notebook.module.handle)
    assert [each.id for each in app.listeners] == ["one"]


def test_a_marked_function_with_another_id_does_not_replace_one_that_is_registered(app: App) -> None:
    notebook = Notebook(app)
    cell = '@relevo.listener("a", id="{id}")\ndef handle(event): ...\n'
    notebook.run(cell + "app.listen(handle)", id="one")

    notebook.run(cell, id="two")

    assert [each.id for each in app.listeners] == ["one"]


def test_one_shared_id_makes_it_the_same_function(app: App) -> None:
    notebook = Notebook(app)
    notebook.run('@app.listener("a", id="one")\n@app.listener("b", id="two")\ndef hear(event): heard.append(1)')

    notebook.run('@app.listener("a", id="one")\n@app.listener("c", id="three")\ndef hear(event): heard.append(2)')

    assert [each.event_name for each in app.listeners] == ["a", "c"]


def test_a_function_gets_an_id_when_its_cell_is_run_again(app: App) -> None:
    notebook = Notebook(app)
    notebook.run(HANDLE, event="a", options="", version=1)

    notebook.run(HANDLE, event="a", options=', id="one"', version=2)

    assert [each.id for each in app.listeners] == ["one"]


def test_an_event_that_loses_its_listener_to_a_function_of_another_cell_is_logged(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    notebook = Notebook(app)
    notebook.run(HANDLE, event="file.arrived", options="", version=1)
    (former,) = app.listeners

    notebook.run(HANDLE, event="file.deleted", options="", version=1)
    app.dispatch("file.arrived")
    app.dispatch("file.deleted")

    assert notebook.heard == ["file.deleted 1"]
    [record] = caplog.records
    assert (record.name, record.levelname) == ("relevo.listener", "WARNING")
    assert record.getMessage().startswith("handle (<cell ")
    assert record.getMessage().endswith(
        ':2) is now a listener of "file.deleted"; it replaced the earlier function of the same name, so "file.arrived" '
        f"has lost its listener {former.id}; if you need both, rename one of them or give each its own id=…, and run "
        "both cells"
    )


def test_an_event_that_loses_its_listener_after_a_failed_registration_is_logged_once(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    notebook, table, cell = Notebook(app), ListenerTable(), HANDLE.replace("@app", "@relevo")
    notebook.run(cell, event="file.arrived", options="", version=1)
    table.extend([notebook.module.handle])
    notebook.run(cell, event="file.deleted", options="", version=2)

    with pytest.raises(ConfigurationError, match="has no listener"):
        table.extend([notebook.module.handle, object()])
    table.extend([notebook.module.handle])
    table.of("file.arrived")

    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("former", "new"),
    [
        ('@app.listener("a")', '@app.listener("a")\n@app.listener("b")'),
        ('@app.listener("a", id="one")', '@app.listener("b", id="one")'),
    ],
    ids=["another event", "the same id"],
)
def test_nothing_is_logged_if_no_listener_was_lost_by_mistake(
    app: App, caplog: pytest.LogCaptureFixture, former: str, new: str
) -> None:
    notebook = Notebook(app)
    notebook.run(f"{former}\ndef hear(event): ...")

    notebook.run(f"{new}\ndef hear(event): ...")
    app.dispatch("a")
    app.dispatch("b")

    assert not caplog.records


def test_a_cell_may_define_one_of_two_functions(app: App) -> None:
    notebook = Notebook(app)
    cell = """
if choice:
    @app.listener("a")
    def hear(event): heard.append("one")
else:
    @app.listener("a")
    def hear(event): heard.append("other")
"""

    for choice in (True, False):
        notebook.run(f"choice = {choice}")
        notebook.run(cell)
    app.dispatch("a")

    assert notebook.heard == ["other"]


NAMED = """
@app.listener("a", id="lab:clean")
def {name}(event): heard.append("{name}")
"""


@pytest.mark.parametrize("new", [App, LocalDispatcher], ids=["app", "local"])
def test_a_renamed_function_with_the_same_id_is_refused_in_its_cell_and_changes_nothing(new: Any) -> None:
    app = App(routes={"*": "now"}) if new is App else LocalDispatcher()
    notebook = Notebook(app)
    notebook.run(NAMED, name="clean")
    notebook.run("clean = None")  # as after del: only the table knows the function

    if new is App:
        with pytest.raises(DuplicateListenerError, match=r'clean \(<cell .* and clean_rows \(.*remove_listener\("lab'):
            notebook.run(NAMED, name="clean_rows")
        app.dispatch("a")
        assert notebook.heard == ["clean"]
        assert "clean_rows" not in vars(notebook.module)

    app.remove_listener("lab:clean")
    app.remove_listener("lab:clean")
    notebook.run(NAMED, name="clean_rows")
    app.dispatch("a")

    assert notebook.heard[-1:] == ["clean_rows"]
    assert len(app.listeners) == 1


def test_a_cell_that_is_refused_leaves_the_earlier_function_in_its_place(app: App) -> None:
    notebook = Notebook(app)
    notebook.run('@app.listener("a", id="lab:one")\ndef one(event): heard.append("one")')
    notebook.run('@app.listener("a", id="lab:two")\ndef two(event): heard.append("two")')

    with pytest.raises(DuplicateListenerError):
        notebook.run('@app.listener("b")\n@app.listener("a", id="lab:two")\ndef one(event): heard.append("wrong")')
    app.dispatch("a")
    notebook.run('@app.listener("a", id="lab:one")\ndef one(event): heard.append("one again")')
    app.dispatch("a")

    assert notebook.heard == ["one", "two", "one again", "two"]


def test_none_of_several_is_registered_if_one_of_them_clashes(app: App) -> None:
    @relevo.listener("a")
    @relevo.listener("b")
    def both(event: Event) -> None: ...

    kept = app.add_listener("b", print, id="print")
    app.add_listener("b", repr, id=f"{__name__}:{both.__qualname__}")

    with pytest.raises(DuplicateListenerError):
        app.listen(both)

    assert not app.listeners("a")
    assert app.listeners("b")[0] is kept


def test_an_id_is_removed_although_a_listener_of_a_module_that_is_not_imported_yet_has_it(module: Path) -> None:
    module.write_text('import relevo\n@relevo.listener("a", id="one")\ndef hear(event): ...\n')

    @relevo.listener("a", id="one")
    def first(event: Event) -> None: ...

    with App(routes={"*": "now"}, listeners=[module.stem, first]) as app:
        app.remove_listener("one")
        assert not app.listeners
        app.listen(first)
        assert len(app.listeners) == 1


def _patch_in_place(old: Any, new: Any) -> None:
    """Put *new* into the function *old*, as IPython's autoreload does."""
    for name in ("__code__", "__defaults__", "__doc__", "__dict__"):
        setattr(old, name, getattr(new, name))


@pytest.mark.parametrize("by", ["module", "function"])
def test_a_function_that_is_patched_in_place_and_registered_again_takes_its_own_place(module: Path, by: str) -> None:
    imported = importlib.import_module(module.stem)
    former = imported.hear
    with App(routes={"*": "now"}) as app:
        app.listen(imported if by == "module" else former)
        assert not app.listeners("a")[0].takes_call

        module.write_text('import relevo\n@relevo.listener("a", priority=3)\ndef hear(event, call): return "new"\n')
        del imported.hear  # before the reload, also as autoreload does
        importlib.reload(imported)
        _patch_in_place(former, imported.hear)
        app.listen(imported if by == "module" else former)
        app.listen(imported.hear)

        (listener,) = app.listeners
        assert (listener.takes_call, listener.priority) == (True, 3)
        app.dispatch("a")
        app.unlisten(former if by == "module" else imported.hear)
        assert not app.listeners


# --- a module that is reloaded -----------------------------------------------------------------------


@pytest.fixture(name="module")
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "reloaded_listeners.py"
    path.write_text('import relevo\n@relevo.listener("a")\ndef hear(event): return 1\n')
    yield path
    sys.modules.pop(path.stem, None)


def test_a_reloaded_module_replaces_its_listeners(module: Path) -> None:
    with App(routes={"*": "now"}, listeners=[module.stem]) as app:
        (before,) = app.listeners
        module.write_text('import relevo\n@relevo.listener("a")\ndef hear(event): return "a new result"\n')
        importlib.reload(sys.modules[module.stem])

        (after,) = app.listeners
        assert (before.function(Event("a")), after.function(Event("a"))) == (1, "a new result")
        app.unlisten(module.stem)
        assert not app.listeners


def test_a_reloaded_module_replaces_what_the_dispatch_calls(module: Path) -> None:
    source = 'import relevo\n@relevo.listener("a")\ndef hear(event): event.arguments["heard"] = {}\n'
    module.write_text(source.format(1))
    with App(routes={"*": "now"}, listeners=[module.stem]) as app:
        first, second = Event("a"), Event("a")
        app.dispatch(first)
        module.write_text(source.format(2) + "# longer\n")
        importlib.reload(sys.modules[module.stem])
        app.dispatch(second)

    assert (first["heard"], second["heard"]) == (1, 2)


BROKEN = 'import relevo\n@relevo.listener("a")\ndef hear(event, call, other): return "longer than before"\n'


def _reload(module: Path, source: str) -> None:
    module.write_text(source)
    importlib.reload(sys.modules[module.stem])


@pytest.mark.parametrize("route", ["now", "main"])
def test_a_listener_that_is_invalid_after_a_reload_is_an_error_until_it_is_valid(module: Path, route: str) -> None:
    calls = 'import relevo\ncalls = []\n@relevo.listener("a")\ndef hear(event): calls.append({})\n'
    module.write_text(calls.format(1))
    with App(transports={"main": "memory://"}, routes={"*": route}, listeners=[module.stem]) as app:
        assert len(app.listeners) == 1
        former = sys.modules[module.stem].calls
        _reload(module, BROKEN)

        if route == "main":
            app.dispatch("a")
        dispatch = partial(app.dispatch, "a")
        for act in (dispatch if route == "now" else app.drain, app.drain, app.drain):
            with pytest.raises(ConfigurationError, match=r"hear cannot be a listener: it must take \(event\) or"):
                act()
        assert former == []

        _reload(module, calls.format("'a good one'"))
        app.dispatch("a")
        app.drain()
        assert set(sys.modules[module.stem].calls) == {"a good one"}


@pytest.mark.parametrize("by", ["function", "id", "listener", "module"])
def test_a_listener_that_is_invalid_after_a_reload_can_be_removed(module: Path, by: str) -> None:
    with App(routes={"*": "now"}, listeners=[module.stem]) as app:
        (listener,) = app.listeners
        _reload(module, BROKEN)

        match by:
            case "function":
                app.remove_listener(sys.modules[module.stem].hear)
            case "id":
                app.remove_listener(listener.id)
            case "listener":
                app.remove_listener(listener)
            case "module":
                app.unlisten(module.stem)

        app.dispatch("a")
        assert not app.listeners


@pytest.mark.parametrize("execution", ["inline", "threads"])
def test_a_running_worker_follows_a_reload_and_logs_an_invalid_one(
    module: Path, execution: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard: queue.Queue[object] = queue.Queue()
    subjects = [SubjectType(type="heard", cls=queue.Queue, name=lambda _: "1", load=lambda _: heard)]
    source = 'import relevo\n@relevo.listener("a")\ndef hear(event, call): call.subject.put("{}")\n'
    module.write_text(source.format("first"))
    with App(transports={"main": "memory://"}, listeners=[module.stem], execution=execution, subjects=subjects) as app:
        worker = app.worker()
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            app.dispatch("a", subject=heard)
            assert heard.get(timeout=PATIENCE) == "first"
            _reload(module, source.format("the second"))
            app.dispatch("a", subject=heard)
            assert heard.get(timeout=PATIENCE) == "the second"
            _reload(module, BROKEN)
            app.dispatch("a", subject=heard)
            app.dispatch("a", subject=heard)
            assert [heard.get(timeout=PATIENCE) for _ in range(2)] == ["the second"] * 2
        finally:
            worker.stop()
            thread.join(PATIENCE)

    (warning,) = (record.message for record in caplog.records if "earlier function" in record.message)
    assert "hear cannot be a listener: it must take (event) or (event, call): annotate other" in warning
    assert "; until that is corrected" in warning


def test_a_local_dispatcher_calls_what_a_reload_defined(module: Path) -> None:
    calls = 'import relevo\ncalls = []\n@relevo.listener("a")\ndef hear(event): calls.append({})\n'
    module.write_text(calls.format(1))
    importlib.import_module(module.stem)
    dispatcher = LocalDispatcher()
    dispatcher.listen(sys.modules[module.stem].hear)
    former = sys.modules[module.stem].calls

    _reload(module, BROKEN)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"hear cannot be a listener: it must take \(event\) or"):
            dispatcher.dispatch("a")
    _reload(module, calls.format("'a good one'"))
    dispatcher.dispatch("a")

    assert (former, sys.modules[module.stem].calls) == ([], ["a good one"])

    _reload(module, BROKEN)
    dispatcher.unlisten(sys.modules[module.stem].hear)
    dispatcher.dispatch("a")


def test_a_reload_brings_nothing_back_that_was_removed(module: Path) -> None:
    with App(routes={"*": "now"}, listeners=[module.stem]) as app:
        app.unlisten(module.stem)
        importlib.import_module(module.stem)
        importlib.reload(sys.modules[module.stem])

        assert not app.listeners


def test_a_function_that_takes_an_imported_name_replaces_nothing(app: App, module: Path) -> None:
    notebook = Notebook(app)
    app.listen(module.stem)
    assert len(app.listeners) == 1

    notebook.run(f'from {module.stem} import hear\n@relevo.listener("b")\ndef hear(event): ...')

    assert [each.event_name for each in app.listeners] == ["a"]


# --- a declared class that is defined again ----------------------------------------------------------------

RATED = """
import attrs
@relevo.event("image.rated")
@attrs.frozen
class ImageRated:
    {field}: int
"""
HEAR_RATED = """
@app.listener
def hear(event: ImageRated):
    assert type(event) is ImageRated
    heard.append(repr(event))
"""


def test_listeners_get_instances_of_the_class_as_it_was_defined_again(app: App) -> None:
    notebook = Notebook(app)
    notebook.run(RATED, field="first")
    notebook.run(HEAR_RATED)
    outdated = notebook.module.ImageRated(1)
    app.dispatch(outdated)

    notebook.run(RATED, field="second")
    app.dispatch(notebook.module.ImageRated(2))

    with pytest.raises(ConfigurationError, match=r"an earlier definition of ImageRated; create it again with"):
        app.dispatch(outdated)
    assert notebook.heard == ["ImageRated(first=1)", "ImageRated(second=2)"]
    (listener,) = app.listeners
    assert listener.event_type is notebook.module.ImageRated.__relevo_event__


def test_a_listener_of_the_earlier_class_can_be_registered_and_removed(app: App) -> None:
    notebook = Notebook(app)
    notebook.run(RATED, field="first")
    notebook.run(HEAR_RATED)
    (before,) = app.listeners
    notebook.run(RATED, field="second")
    app.dispatch(notebook.module.ImageRated(2))

    app.remove_listener(before)
    assert not app.listeners
    app.listen(notebook.module.hear)
    app.dispatch(notebook.module.ImageRated(3))

    assert len(notebook.heard) == 2


def test_a_reloaded_module_may_declare_events_and_their_listeners(module: Path) -> None:
    module.write_text(
        "import attrs, relevo\n@relevo.event('image.rated')\n@attrs.frozen\nclass ImageRated:\n    stars: int\n"
        "heard = []\n@relevo.listener\ndef hear(event: ImageRated): heard.append(event)\n"
    )
    with App(transports={"main": "memory://"}, listeners=[module.stem]) as app:
        assert len(app.listeners) == 1
        again = importlib.reload(sys.modules[module.stem])

        app.dispatch(again.ImageRated(5))
        app.drain()

        assert again.heard == [again.ImageRated(5)]


def test_two_classes_in_different_places_still_clash(app: App) -> None:
    notebook, other = Notebook(app), Notebook(app)
    other.module.__name__ = "elsewhere"
    notebook.run(RATED, field="first")
    other.run(RATED, field="first")
    notebook.run(HEAR_RATED)
    app.listeners()

    with pytest.raises(DuplicateEventError, match="declared twice"):
        app.dispatch(other.module.ImageRated(1))


# --- a subject type that is defined again -------------------------------------------------------------------

IMAGE = """
class Image:
    id = {id}

app.add_subject(relevo.SubjectType(type="image", cls=Image, name=lambda image: str(image.id), load=lambda id: {id}))
"""
AGAIN = 'app.add_subject(relevo.SubjectType(type="{type}", cls=Image, name=str, load=lambda id: {id}))'


def test_a_subject_type_of_a_cell_that_is_run_again_replaces_the_former(app: App) -> None:
    notebook = Notebook(app)
    notebook.run(IMAGE, id=1)
    former = notebook.module.Image()

    notebook.run(IMAGE, id=2)

    subject = app.subjects.named(notebook.module.Image())
    assert subject == Subject("image", "2")
    assert app.subjects.load(subject) == 2
    with pytest.raises(SubjectError, match="Image is not registered as a subject"):
        app.subjects.named(former)


def test_a_subject_type_is_replaced_if_only_its_functions_were_defined_again(app: App) -> None:
    notebook = Notebook(app)
    notebook.run(IMAGE, id=1)

    notebook.run(AGAIN, type="image", id=2)

    assert app.subjects.load(Subject("image", "7")) == 2
    assert app.subjects.named(notebook.module.Image()) != Subject("image", "1")


def test_another_subject_type_still_clashes(app: App) -> None:
    notebook, other = Notebook(app), Notebook(app)
    other.module.__name__ = "elsewhere"
    notebook.run(IMAGE, id=1)

    with pytest.raises(SubjectError, match="clashes"):
        notebook.run(AGAIN, type="picture", id=2)
    with pytest.raises(SubjectError, match="clashes"):
        other.run(IMAGE, id=2)
    vars(other.module)["Image"] = notebook.module.Image
    with pytest.raises(SubjectError, match="clashes"):
        other.run(AGAIN, type="image", id=2)

    assert app.subjects.load(Subject("image", "7")) == 1


def test_local_classes_of_one_name_are_different_subjects(app: App) -> None:
    def made() -> SubjectType:
        class Image:
            pass

        return SubjectType(type="image", cls=Image, name=lambda _: "1", load=lambda _: None)

    app.add_subject(made())

    with pytest.raises(SubjectError, match="clashes"):
        app.add_subject(made())


# --- removing ----------------------------------------------------------------------------------------


def test_unlisten_works_although_two_listeners_clash() -> None:
    @relevo.listener("a", id="one")
    def first(event: Event) -> None: ...

    @relevo.listener("a", id="one")
    def second(event: Event) -> None: ...

    with App(routes={"*": "now"}, listeners=[first, second]) as app:
        with pytest.raises(DuplicateListenerError):
            app.listeners()
        app.unlisten(second)
        assert [each.function for each in app.listeners] == [first]
    with App(routes={"*": "now"}, listeners=[first, second]) as app:
        app.unlisten(first)
        assert [each.function for each in app.listeners] == [second]


def test_unlisten_works_although_a_module_cannot_be_imported() -> None:
    with App(routes={"*": "now"}, listeners=["nowhere_to_be_found"]) as app:

        @app.listener("a")
        def hear(event: Event) -> None: ...

        app.unlisten(hear)
        app.unlisten("nowhere_to_be_found")

        assert not app.listeners


def test_what_a_module_brings_is_removed_although_it_was_not_imported_yet(module: Path) -> None:
    with App(routes={"*": "now"}, listeners=[module.stem]) as app:
        found = importlib.import_module(module.stem)
        app.unlisten(found.hear)

        assert not app.listeners


def test_the_new_function_removes_the_old_one(app: App) -> None:
    notebook = Notebook(app)
    notebook.run(CELL, version=1, priority=0)
    app.dispatch("image.created")
    notebook.run('@relevo.listener("image.created")\ndef hear(event): ...')

    app.unlisten(notebook.module.hear)

    assert not app.listeners


@pytest.mark.parametrize("new", [LocalDispatcher, lambda: App(routes={"*": "now"})], ids=["local", "app"])
def test_remove_listener_takes_a_function_too(new: Any) -> None:
    dispatcher: Dispatcher = new()

    def hear(event: Event) -> None: ...

    class Subscriber:
        def on(self, event: Event) -> None: ...

    subscriber = Subscriber()
    dispatcher.add_listener("a", hear)
    dispatcher.add_listener("b", hear)
    kept = dispatcher.add_listener("b", print, id="print")
    dispatcher.add_listener("b", subscriber.on)

    dispatcher.remove_listener(hear)
    dispatcher.remove_listener(subscriber.on)
    dispatcher.remove_listener(hear)
    assert list(dispatcher.listeners) == [kept]

    dispatcher.add_listener("a", hear)
    dispatcher.unlisten(hear)
    dispatcher.remove_listener(kept)
    assert not dispatcher.listeners
    with pytest.raises(
        ConfigurationError, match="remove_listener: expected a function, the id of a listener, or the L"
    ):
        dispatcher.remove_listener(3)  # type: ignore[arg-type]


def test_an_event_of_a_removed_listener_waits_for_another_one(caplog: pytest.LogCaptureFixture) -> None:
    with App(transports={"main": "memory://"}) as app:
        app.remove_listener(app.add_listener("image.created", print))
        app.dispatch("image.created")

        report = app.drain()

    assert report.retried == 1
    assert 'no listener here for "image.created"' in caplog.text


@pytest.mark.parametrize("made", ["lambda _: None", "orm_like()"])
def test_two_subject_types_of_one_class_in_one_run_clash(app: App, made: str) -> None:
    notebook = Notebook(app)
    twice = f"app.add_subject(relevo.SubjectType(type='image', cls=Image, name=str, load={made}))\n" * 2

    with pytest.raises(SubjectError, match="clashes"):
        notebook.run(f"class Image: ...\ndef orm_like(): return lambda _: None\n{twice}")


def test_an_earlier_subject_type_does_not_come_back(app: App) -> None:
    notebook = Notebook(app)
    cell = "class Image: ...\n"
    cell += "made = relevo.SubjectType(type='image', cls=Image, name=lambda _: '1', load=lambda _: Image())"
    notebook.run(cell)
    earlier = notebook.module.made
    app.add_subject(earlier)
    notebook.run(cell)
    app.add_subject(notebook.module.made)

    app.add_subject(earlier)

    assert app.subjects.named(notebook.module.Image()) == Subject("image", "1")


# --- what is no new definition -----------------------------------------------------------------------

LOOP = """
for name in ("order.paid", "order.sent"):
    def log(event):
        heard.append(event.name)
    {register}
"""


@pytest.mark.parametrize(
    "register", ["app.add_listener(name, log, id=name)", "app.listen(relevo.listener(name, id=name)(log))"]
)
def test_functions_that_a_loop_defines_are_all_called(app: App, register: str) -> None:
    notebook = Notebook(app)

    notebook.run(LOOP.format(register=register))
    app.dispatch("order.paid")
    app.dispatch("order.sent")

    assert notebook.heard == ["order.paid", "order.sent"]


def test_a_class_may_use_another_one_that_is_defined_below_its_listener(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = Notebook(app)
    monkeypatch.setitem(sys.modules, notebook.module.__name__, notebook.module)

    notebook.run("""
from __future__ import annotations
import attrs
@relevo.event("order.made")
@attrs.frozen
class OrderMade:
    item: Item
@app.listener(OrderMade)
def hear(event: OrderMade) -> None:
    heard.append(event.item.number)
@attrs.frozen
class Item:
    number: int
""")
    notebook.run("app.dispatch(OrderMade(Item(3)))")

    assert notebook.heard == [3]


def test_a_cell_that_is_refused_leaves_the_class_of_its_event_as_it_was(app: App) -> None:
    notebook = Notebook(app)
    cell = """
import attrs
@relevo.event("order.made")
@attrs.frozen
class OrderMade:
    number: int
"""
    notebook.run(cell + "@app.listener(OrderMade, id='one')\ndef one(event): heard.append(type(event))")
    first = notebook.module.OrderMade

    with pytest.raises(DuplicateListenerError):
        notebook.run(cell + "@app.listener(OrderMade, id='one')\ndef other(event): ...")

    assert app.listeners.event_types["order.made"].cls is first
