from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from types import ModuleType
from typing import Any

import pytest

from relevo import Event, Hooks, hookimpl
from relevo._hook import HookSpecs, doubled, names_where_listeners_run, notify, observe
from relevo.errors import PluginError


class _Timer:
    """A plugin that notes when what it observes begins and ends, and with which error."""

    def __init__(self, name: str = "timer", seen: list[str] | None = None) -> None:
        self.name = name
        self.seen: list[str] = [] if seen is None else seen

    @hookimpl
    @contextlib.contextmanager
    def relevo_around_handle(self) -> Iterator[None]:
        self.seen.append(f"{self.name} begins")
        try:
            yield
        except BaseException as error:
            self.seen.append(f"{self.name} meets {type(error).__name__}")
            raise
        self.seen.append(f"{self.name} ends")


def _around(hooks: Hooks) -> contextlib.AbstractContextManager[None]:
    return observe(hooks.observers("relevo_around_handle"), delivery=object())


def test_without_plugins_there_is_nobody_to_call() -> None:
    assert Hooks().observers("relevo_around_send") == ()
    assert Hooks().objection() is None
    assert Hooks().enrichment(Event("image.created")) == {}


def test_every_hook_says_whether_it_observes_or_decides() -> None:
    specs = {name: each for name, each in vars(HookSpecs).items() if name.startswith("relevo_")}
    says = {name: (each.__doc__ or "").split()[0] for name, each in specs.items()}

    assert set(says.values()) == {"Observe", "Decide"}
    assert {name for name, word in says.items() if word == "Decide"} == {
        "relevo_enrich",
        "relevo_may_run",
        "relevo_around_listener",
        "relevo_around_async_listener",
    }


def test_observers_are_entered_in_the_order_of_pluggy_the_last_registered_first_and_left_in_reverse() -> None:
    seen: list[str] = []
    hooks = Hooks([_Timer("first", seen), _Timer("second", seen)])

    with _around(hooks):
        seen.append("handled")

    assert seen == ["second begins", "first begins", "handled", "first ends", "second ends"]


def test_an_observer_sees_the_error_and_cannot_swallow_it() -> None:
    class _Swallower:
        @hookimpl
        def relevo_around_handle(self) -> contextlib.AbstractContextManager[None]:
            return contextlib.suppress(ValueError)

    timer = _Timer()

    with pytest.raises(ValueError, match="of the listener"), _around(Hooks([_Swallower(), timer])):
        raise ValueError("of the listener")

    assert timer.seen == ["timer begins", "timer meets ValueError"]


class _Broken:
    """A plugin that fails at a given point."""

    def __init__(self, where: str) -> None:
        self.where = where

    @hookimpl
    def relevo_around_handle(self, delivery: object) -> Any:
        self._fail("call")
        return self

    def __enter__(self) -> None:
        self._fail("enter")

    def __exit__(self, *_: object) -> None:
        self._fail("exit")

    def _fail(self, where: str) -> None:
        if self.where == where:
            raise RuntimeError(where)


@pytest.mark.parametrize("where", ["call", "enter", "exit"])
def test_a_broken_observer_is_logged_and_changes_nothing_for_the_others(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    timer = _Timer()
    done = False

    with _around(Hooks([_Broken(where), timer])):
        done = True

    assert done
    assert timer.seen == ["timer begins", "timer ends"]
    assert [record.name for record in caplog.records] == ["relevo.hook"]


def test_an_observer_may_ask_for_some_of_the_arguments_or_none() -> None:
    seen: list[object] = []

    class _Picky:
        @hookimpl
        def relevo_dead_lettered(self, outcome: object) -> None:
            seen.append(outcome)

    with observe(Hooks([_Picky()]).observers("relevo_dead_lettered"), delivery="delivery", outcome="outcome"):
        pass

    assert seen == ["outcome"]


def test_an_observer_that_is_a_pluggy_wrapper_is_refused() -> None:
    class _Wrapper:
        @hookimpl(wrapper=True)
        def relevo_around_handle(self) -> Iterator[None]:
            yield

    with pytest.raises(PluginError, match="return a context manager"):
        Hooks([_Wrapper()]).observers("relevo_around_handle")


def test_a_function_that_fits_no_hook_is_refused() -> None:
    class _Typo:
        @hookimpl
        def relevo_around_handel(self) -> None: ...

    class _Wrong:
        @hookimpl
        def relevo_around_handle(self, message: object) -> None: ...

    class _Greedy:
        @hookimpl
        def relevo_may_run(self, transport: object) -> None: ...

    class _Strange:
        @hookimpl
        def before_everything(self) -> None: ...

    hooks = Hooks()
    for plugin, fault in [
        (_Typo(), r'_Typo: there is no hook relevo_around_handel; did you mean "relevo_around_handle"\?'),
        (_Wrong(), "_Wrong: relevo_around_handle has no argument message; it takes only delivery"),
        (_Greedy(), "_Greedy: relevo_may_run has no argument transport; it takes no arguments"),
        (_Strange(), "_Strange: there is no hook before_everything; there are relevo_enrich, relevo_may_run, "),
    ]:
        with pytest.raises(PluginError, match=rf"^the plugin .*test_hook.*{fault}"):
            hooks.add(plugin)

    assert not hooks.plugins
    hooks.add(_Timer())


def test_a_plugin_without_a_marked_hook_is_logged_with_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    class Plain:
        def hello(self) -> None: ...

    class Forgotten:
        def relevo_dead_lettered(self, delivery: object) -> None: ...

        @hookimpl
        def relevo_may_run(self) -> None: ...

    hooks = Hooks([Plain()])
    hooks.add(Forgotten())
    hooks.add(_Timer())

    remedy = "put @relevo.hookimpl above each hook"
    plain, forgotten = (record.message.rpartition("<locals>.")[2] for record in caplog.records)
    assert plain == f"Plain: it has no hook, so nothing of it is called; {remedy}"
    assert forgotten == f"Forgotten: relevo_dead_lettered is not called; {remedy}"


def test_a_function_whose_body_would_never_run_is_refused_with_the_remedy() -> None:
    class Bare:
        @hookimpl
        def relevo_around_call(self) -> Iterator[None]:
            yield

    class Late:
        @hookimpl
        def relevo_dead_lettered(self) -> Iterator[None]:
            yield

    class Waiting:
        @hookimpl
        async def relevo_around_send(self) -> None: ...

    class Streaming:
        @hookimpl
        async def relevo_enrich(self) -> AsyncIterator[None]:
            yield

    generator = "is a generator function, and a call would not run it; "
    hooks = Hooks()
    for plugin, fault in [
        (Bare(), f"relevo_around_call {generator}put @contextlib.contextmanager above it"),
        (Late(), f"relevo_dead_lettered {generator}return instead of yield"),
        (Waiting(), "relevo_around_send is async, and this hook is not awaited; expected a plain function"),
        (Streaming(), "relevo_enrich is async, and this hook is not awaited; expected a plain function"),
    ]:
        with pytest.raises(PluginError, match=f"{type(plugin).__name__}: {fault}$"):
            hooks.add(plugin)

    assert not hooks.plugins


def test_the_order_of_the_two_decorators_of_a_hook_makes_no_difference() -> None:
    seen: list[str] = []

    class Swapped:
        @contextlib.contextmanager
        @hookimpl
        def relevo_around_handle(self) -> Iterator[None]:
            seen.append("begins")
            yield
            seen.append("ends")

    with _around(Hooks([Swapped()])):
        pass

    assert seen == ["begins", "ends"]


def test_a_deciding_hook_may_be_a_wrapper_of_pluggy() -> None:
    class Wrapper:
        @hookimpl(wrapper=True)
        def relevo_may_run(self) -> Generator[None, str | None, str | None]:
            found = yield
            return found or "wrapped"

    assert Hooks([Wrapper()]).objection() == "wrapped"


def test_a_result_of_an_observer_that_is_no_context_manager_is_reported_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Three:
        @hookimpl
        def relevo_around_handle(self) -> int:
            return 3

        @hookimpl
        def relevo_dead_lettered(self) -> int:
            return 3

    hooks = Hooks([Three()])
    for _ in range(2):
        with _around(hooks):
            hooks.add(_Timer())
    notify(hooks.observers("relevo_dead_lettered"), delivery="delivery", outcome="outcome")

    (record,) = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "relevo.hook")
    assert record.getMessage().endswith(
        "Three: relevo_around_handle returned 3, which is ignored; expected a context manager or None"
    )


def test_a_plugin_cannot_be_registered_twice() -> None:
    timer = _Timer()

    with pytest.raises(PluginError, match=r"the plugin .*test_hook\._Timer is registered already"):
        Hooks([timer, timer])


class _Enriching:
    def __init__(self, **context: Any) -> None:
        self.context = context

    @hookimpl
    def relevo_enrich(self, event: object) -> Mapping[str, Any] | None:
        return self.context or None


def test_what_plugins_add_is_put_together_and_the_earlier_one_wins() -> None:
    hooks = Hooks([_Enriching(user=1, url="/"), _Enriching(), _Enriching(user=2, tenant=3)])

    assert hooks.enrichment(Event("image.created")) == {"user": 1, "url": "/", "tenant": 3}


def test_what_a_deciding_hook_raises_reaches_who_asked() -> None:
    class _Refusing:
        @hookimpl
        def relevo_enrich(self, event: object) -> None:
            raise LookupError("no user")

        @hookimpl
        def relevo_may_run(self) -> None:
            raise LookupError("no flag")

    hooks = Hooks([_Refusing()])

    with pytest.raises(LookupError, match="no user"):
        hooks.enrichment(Event("image.created"))
    with pytest.raises(LookupError, match="no flag"):
        hooks.objection()


def test_one_objection_is_enough() -> None:
    class _Mute:
        @hookimpl
        def relevo_may_run(self) -> None: ...

    class _Objecting:
        @hookimpl
        def relevo_may_run(self) -> str:
            return "deploy"

    assert Hooks([_Mute(), _Objecting(), _Mute()]).objection() == "deploy"


def test_a_plugin_that_comes_while_the_implementations_are_looked_up_is_called_from_the_next_use_on() -> None:
    calls: list[str] = []

    class Late:
        @hookimpl
        def relevo_around_send(self) -> None:
            calls.append("late")

    class Interrupted(Hooks):
        def _resolved(self, name: str) -> tuple[Any, ...]:
            found = super()._resolved(name)
            if not calls:
                calls.append("looked up")
                self.add(Late())
            return found

    hooks = Interrupted()

    before = hooks.observers("relevo_around_send")
    after = hooks.observers("relevo_around_send")

    assert (len(before), len(after)) == (0, 1)


def test_a_script_that_is_a_plugin_has_the_name_by_which_a_child_imports_it() -> None:
    @hookimpl
    def relevo_around_call() -> None: ...

    def module(name: str) -> ModuleType:
        made = ModuleType(name)
        vars(made).update(__file__="/shop/script.py", relevo_around_call=relevo_around_call)
        return made

    assert names_where_listeners_run(Hooks([module("__main__")])) == ["script"]
    assert names_where_listeners_run(Hooks([module("script")])) == ["script"]


def test_a_plugin_that_was_passed_several_times_is_found_with_the_places() -> None:
    hooks = Hooks([_Timer(), _Timer("another"), _Timer()])
    further = _Timer()
    hooks.add(further)

    ((name, places),) = doubled(hooks)

    assert name == f"{__name__}._Timer"
    assert places[:2] == ["plugins[0] of App(…)", "plugins[2] of App(…)"]
    assert places[2].startswith(f"hooks.add() in {__file__}:")
    hooks.remove(further)
    assert [len(places) for _, places in doubled(hooks)] == [2]


def test_plugins_that_differ_are_two_plugins() -> None:
    seen: list[str] = []

    assert doubled(Hooks([_Timer("first"), _Timer("second"), ModuleType("one"), ModuleType("two")])) == []
    assert doubled(Hooks([_Timer(seen=seen), _Timer(seen=["handled"])])) == []
