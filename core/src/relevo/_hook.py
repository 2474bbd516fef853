"""
Hooks: most of them observe, a few decide. The only module that uses pluggy.

An observing hook returns a context manager, which is entered before and left after the observed call, or
nothing. An exception that it raises is logged and changes nothing. The exceptions of deciding hooks reach the
caller. pluggy calls these, except those around listeners: :mod:`relevo._listener.wrapper` calls one inside the other.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cache, partial
from inspect import Parameter, isasyncgenfunction, iscoroutinefunction, isgeneratorfunction, signature, unwrap
from logging import getLogger
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import attrs
import pluggy

from relevo.errors import PluginError, did_you_mean, shown

if TYPE_CHECKING:
    from relevo._event.event import Event
    from relevo._transport.delivery import DeadLetter, Delivery, Failure, Settlement
    from relevo._transport.envelope import Envelope

PROJECT = "relevo"
_AROUND = f"{PROJECT}_around_"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Put ``@relevo.hookimpl`` above the functions of a plugin that have the names of hooks."""

_log = getLogger("relevo.hook")

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)

_WRAPPING = "relevo_around_listener"
_WRAPPING_ASYNC = "relevo_around_async_listener"
_WRAPPERS = {
    _WRAPPING: "def relevo_around_listener(self, proceed): return proceed()",
    _WRAPPING_ASYNC: "async def relevo_around_async_listener(self, proceed): return await proceed()",
}
"""The hooks that wrap listeners, each as a plugin writes it that only calls the listener."""

_WHERE_LISTENERS_RUN = frozenset(
    {
        *(f"{PROJECT}_{name}" for name in ("enrich", "around_send", "around_handle", "around_call", "listener_failed")),
        *_WRAPPERS,
    }
)
"""The hooks that are called in a child process, if listeners run in one: those of a dispatch, and of the handling."""

Observed = AbstractContextManager[object] | None
"""What an observing hook returns: a context manager around the observed call, or nothing."""

Observer = Callable[..., Observed]


class HookSpecs:
    """All hooks."""

    # --- deciding -----------------------------------------------------------------------------------

    @hookspec
    def relevo_enrich(self, event: object) -> Mapping[str, Any] | None:
        """Decide which values are added to the context of *event* at its dispatch; an exception fails the dispatch."""

    @hookspec(firstresult=True)
    def relevo_may_run(self) -> str | None:
        """Decide whether a runner may take further events; return why not, such as ``deploy``, or ``None``."""

    @hookspec
    def relevo_around_listener(self, event: object, call: object, proceed: Callable[[], object]) -> object:
        """
        Decide how a listener is called: ``proceed()``, a ``relevo.Proceed``, calls it and returns its result.

        An exception counts as one of the listener, and names the plugin. It is called in the thread of the listener,
        in its transaction and within its time limit. *event* is what the listener is called with, *call* its
        ``relevo.Call``. The result is for the plugins around this one. Async listeners have a hook of their own.
        """

    @hookspec
    async def relevo_around_async_listener(
        self, event: object, call: object, proceed: Callable[[], Awaitable[object]]
    ) -> object:
        """
        Decide how an async listener is called, as ``relevo_around_listener`` does; ``await proceed()`` calls it.

        *proceed* is a ``relevo.AsyncProceed``. It is called in the task of the listener.
        """

    # --- observing ----------------------------------------------------------------------------------

    @hookspec
    def relevo_around_send(self, transport: str, envelopes: Sequence[Envelope]) -> Observed:
        """Observe the sending of *envelopes*."""

    @hookspec
    def relevo_around_call(self, event: object, listener_id: str) -> Observed:
        """
        Observe each call of the listener *listener_id*, by a worker or in process, in the thread of the listener.

        *event* is what a worker calls the listener with; in process it is the event as it was dispatched. Its
        exception passes through.
        """

    @hookspec
    def relevo_around_handle(self, delivery: Delivery) -> Observed:
        """Observe the handling of *delivery*, all its listeners together."""

    @hookspec
    def relevo_listener_failed(  # noqa: PLR0917 - a plugin declares only the arguments that it needs
        self,
        delivery: Delivery,
        event: Event,
        listener_id: str,
        attempt: int,
        error: BaseException,
        due: float | None,
        failure: Failure,
    ) -> None:
        """
        Observe that the listener *listener_id* raised *error* at its *attempt*, counted from 1, for the named *event*.

        The listener runs again at *due*, in seconds since the epoch, or never if that is ``None``. *failure* holds all
        of this except the exception itself. ``RetryLater`` and ``GiveUp`` are failures too. If the listener could not
        be called, as for a missing subject, only the dead letter reports it.

        It is not called in process: nothing runs again there, the dispatch raises the error, and
        ``relevo_around_call`` sees it.
        """

    @hookspec
    def relevo_handed_over_again(self, delivery: Delivery) -> None:
        """
        Observe that *delivery*, which was lost before, is about to be handled again, in the worker's process.

        It is handled alone, and may end this process, too.
        """

    @hookspec
    def relevo_around_settle(self, transport: str, settlements: Sequence[Settlement]) -> Observed:
        """Observe the settling of *settlements*."""

    @hookspec
    def relevo_around_run(self, transport: str, queues: Sequence[str], until_empty: bool) -> Observed:  # noqa: FBT001 - by name
        """Observe a run of a worker from start to end; with *until_empty* the run ends when the queues are empty."""

    @hookspec
    def relevo_dead_lettered(self, delivery: Delivery, outcome: DeadLetter) -> None:
        """
        Observe a dead letter, after it was stored; ``outcome.failures`` has its failures as data.

        A transport that keeps no dead letters tries the event again later. Each failure then has that time as ``due``.
        """

    @hookspec
    def relevo_around_close(self) -> Observed:
        """Observe the application's close, so that a plugin frees its resources; may be called several times."""


class Hooks:
    """
    The plugins of one application.

    Args:
        plugins: Modules or objects with functions marked by ``@relevo.hookimpl``.

    Raises:
        PluginError: A function matches no hook, has wrong arguments or is a generator or async, or a plugin is a class.
    """

    def __init__(self, plugins: Iterable[object] = ()):
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(HookSpecs)
        self._odd: set[str] = set()
        self._passed: dict[int, _Passed] = {}
        """Each plugin that relevo did not register itself, by its identity."""

        self._look_up()
        for number, plugin in enumerate(plugins):
            self._add(plugin, f"plugins[{number}] of App(…)")

    def __repr__(self) -> str:
        names = (getattr(each, "__name__", type(each).__name__) for each in self._manager.get_plugins())
        return f"<Hooks of {', '.join(sorted(names)) or 'no plugin'}>"

    def add(self, plugin: object) -> None:
        """
        Register *plugin*.

        Raises:
            PluginError: One of its functions matches no hook, has wrong arguments or is a generator or async, or it is
                a class.
        """
        frame = sys._getframe(1)  # noqa: SLF001 - a warning names the line that registered it
        is_own = str(frame.f_globals.get("__name__")).partition(".")[0] == PROJECT
        self._add(plugin, "" if is_own else f"hooks.add() in {frame.f_code.co_filename}:{frame.f_lineno}")

    def _add(self, plugin: object, place: str) -> None:
        """Register *plugin*, which was passed at *place*; empty for one that relevo registers itself."""
        if isinstance(plugin, type):  # its hooks would be called without an instance
            raise PluginError(f"the plugin {shown(plugin)} is a class; pass an instance: {plugin.__qualname__}()")
        if self._manager.is_registered(plugin):
            raise PluginError(f"the plugin {_named(plugin)} is registered already; register it once")
        for fault in self._faults(plugin):
            raise PluginError(f"the plugin {_named(plugin)}: {fault}")
        try:
            self._manager.register(plugin)
        except (pluggy.PluginValidationError, ValueError) as error:
            raise PluginError(f"the plugin {_named(plugin)} is invalid: {error}") from error
        finally:
            self._look_up()
        if place:
            self._passed[id(plugin)] = _Passed(plugin, place)
            self._warn_of_unmarked(plugin)

    def _warn_of_unmarked(self, plugin: object) -> None:
        """Log that *plugin* has no hook, or a function with the name of one that is not marked, and is never called."""
        names = [name for name in vars(HookSpecs) if name.startswith(f"{PROJECT}_") and name in dir(plugin)]
        unmarked = [name for name in names if self._manager.parse_hookimpl_opts(plugin, name) is None]
        if unmarked:
            what = f"{', '.join(unmarked)} is not called"
        elif not self._manager.get_hookcallers(plugin):
            what = "it has no hook, so nothing of it is called"
        else:
            return
        _log.warning("the plugin %s: %s; put @relevo.hookimpl above each hook", _named(plugin), what)

    def _faults(self, plugin: object) -> Iterator[str]:
        """Yield which functions of *plugin* match no hook, or would not run, before it is registered."""
        specs = {name: getattr(self._manager.hook, name) for name in vars(HookSpecs) if name.startswith(f"{PROJECT}_")}
        for name in dir(plugin):
            options = self._manager.parse_hookimpl_opts(plugin, name)
            if options is None:
                continue
            hook = options.get("specname") or name
            if hook in specs:
                known = specs[hook].spec.argnames
                wrong = [each for each in _required(getattr(plugin, name)) if each not in known]
                if wrong:
                    takes = f"takes only {', '.join(known)}" if known else "takes no arguments"
                    yield f"{hook} has no argument {', '.join(wrong)}; it {takes}"
                elif hook in _WRAPPERS:
                    is_pluggys = options["wrapper"] or options["hookwrapper"]
                    if why := _unable(hook, getattr(plugin, name), is_pluggys=is_pluggys):
                        yield f"{hook} {why}; write {_WRAPPERS[hook]}"
                elif not (options["wrapper"] or options["hookwrapper"]) and (why := _idle(hook, getattr(plugin, name))):
                    yield f"{hook} {why}"
            elif not options.get("optionalhook"):
                others = f"; there are {', '.join(specs)}"
                yield f"there is no hook {hook}{did_you_mean(hook, specs) or others}"

    @property
    def plugins(self) -> Collection[object]:
        """The registered plugins, in no order."""
        return self._manager.get_plugins()

    def remove(self, plugin: object) -> None:
        """Unregister *plugin*."""
        self._manager.unregister(plugin)
        self._passed.pop(id(plugin), None)
        self._look_up()

    def _look_up(self) -> None:
        """Have the implementations looked up again; done once, since each dispatch asks for them."""
        self.enriches = bool(self._manager.hook.relevo_enrich.get_hookimpls())
        """Whether a plugin adds to the context of events."""
        self.wraps = any(getattr(self._manager.hook, name).get_hookimpls() for name in _WRAPPERS)
        """Whether a plugin wraps listeners."""
        self.wrappers = cache(self._wrappers)
        """Takes whether a listener is async, returns what plugins put around it, the outermost first."""
        self.observers = cache(self._resolved)
        """Takes the name of an observing hook, returns its implementations."""

    def _resolved(self, name: str) -> tuple[Observer, ...]:
        """
        Return the implementations of the observing hook *name*.

        Raises:
            PluginError: An implementation is a pluggy wrapper; an observer returns a context manager instead.
        """
        found = []
        for implementation in reversed(getattr(self._manager.hook, name).get_hookimpls()):
            where = f"the plugin {_named(implementation.plugin)}: {name}"
            if implementation.wrapper or implementation.hookwrapper:
                raise PluginError(f"{where} cannot be a wrapper; return a context manager")
            warn = partial(self._warn_of_result, where) if name.startswith(_AROUND) else None
            found.append(_observer(implementation.function, frozenset(implementation.argnames), warn))
        return tuple(found)

    def _wrappers(self, is_async: bool) -> tuple[Wrapper, ...]:  # noqa: FBT001 - cached by position
        name = _WRAPPING_ASYNC if is_async else _WRAPPING
        return tuple(
            Wrapper(_named(each.plugin), name, each.function, tuple(each.argnames))
            for each in reversed(getattr(self._manager.hook, name).get_hookimpls())
        )

    def without_wrapper(self, *, is_async: bool) -> str | None:
        """Return which plugin wraps only listeners of the other kind, with the remedy; ``None`` if none does."""
        name, other = (_WRAPPING_ASYNC, _WRAPPING) if is_async else (_WRAPPING, _WRAPPING_ASYNC)
        here = {each.plugin for each in self.wrappers(is_async)}
        for each in self.wrappers(not is_async):
            if each.plugin not in here:
                return f"the plugin {each.plugin} has only {other}; add {_WRAPPERS[name]}"
        return None

    def _warn_of_result(self, where: str, result: object) -> None:
        """Log once that the hook *where* returned *result*, which has no effect."""
        if where not in self._odd:
            self._odd.add(where)
            _log.warning("%s returned %s, which is ignored; expected a context manager or None", where, shown(result))

    def enrichment(self, event: object) -> Mapping[str, Any]:
        """Return the values that plugins add to the context of *event*; the plugin registered first wins."""
        context: dict[str, Any] = {}
        for part in self._manager.hook.relevo_enrich(event=event):
            context.update(part or {})
        return context

    def objection(self) -> str | None:
        """Return why no further events may be taken; ``None`` if they may."""
        found = self._manager.hook.relevo_may_run()
        return None if found is None else str(found)


def hooks_of(hooks: Hooks | Iterable[object] | None) -> Hooks:
    """
    Return *hooks*, or those of a list of plugins, or none.

    Raises:
        PluginError: As for :class:`Hooks`.
    """
    return hooks if isinstance(hooks, Hooks) else Hooks(hooks or ())


def names_where_listeners_run(hooks: Hooks) -> list[str]:
    """
    Return the names of the plugins with hooks that are called where listeners run, which may be a child process.

    That of an object is its class without the module, since the module of a script has another name in a child.
    A module has the last part of its name, and a script the name by which a child imports it.
    """
    manager = hooks._manager  # noqa: SLF001 - private to this module, not to the class
    return [
        _last_name(plugin) if isinstance(plugin, ModuleType) else type(plugin).__qualname__
        for plugin in manager.get_plugins()
        if any(caller.name in _WHERE_LISTENERS_RUN for caller in manager.get_hookcallers(plugin) or ())
    ]


def note_places(hooks: Hooks, plugins: Iterable[tuple[object, str, Mapping[str, object]]]) -> None:
    """Note where each of *plugins* was named in a configuration, and with which options."""
    for plugin, place, options in plugins:
        hooks._passed[id(plugin)] = _Passed(plugin, place, options)  # noqa: SLF001 - as above


def doubled(hooks: Hooks) -> list[tuple[str, Sequence[str]]]:
    """
    Return the plugins that were passed several times, each with the places.

    Those are instances of one class between which nothing differs. Two that differ on purpose, such as in their
    options, are two plugins.
    """
    groups: list[tuple[_Passed, list[str]]] = []
    for passed in hooks._passed.values():  # noqa: SLF001 - as above
        known = next((places for first, places in groups if first.is_like(passed)), None)
        if known is None:
            groups.append((passed, [passed.place]))
        else:
            known.append(passed.place)
    return [(_named(first.plugin), places) for first, places in groups if len(places) > 1]


@attrs.frozen
class Wrapper:
    """What a plugin puts around each call of a listener."""

    plugin: str
    """Its name."""

    hook: str
    function: Callable[..., Any]
    """Takes those of *names* as arguments."""

    names: tuple[str, ...]

    def called(self, **arguments: object) -> Any:
        """Call it with those of *arguments* that it takes; return what it returns, for an async one a coroutine."""
        return self.function(**{name: arguments[name] for name in self.names})


@attrs.frozen(repr=False)  # the options may have secrets
class _Passed:
    """A plugin that was passed to an application."""

    plugin: object
    place: str
    """Where."""

    options: Mapping[str, object] | None = None
    """The options in a configuration; ``None`` if a program made it."""

    def is_like(self, other: _Passed) -> bool:
        """Return whether both are of one class and made alike, or hold the same; what cannot be compared differs."""
        if type(self.plugin) is not type(other.plugin):
            return False
        if self.options is not None and self.options == other.options:
            return True
        with suppress(Exception):  # the code of others, such as an array that has no single truth value
            return bool(self.plugin == other.plugin or vars(self.plugin) == vars(other.plugin))
        return False


def _last_name(module: ModuleType) -> str:
    """Return the last part of the name of *module*, or the name of a script's file."""
    from pathlib import Path  # noqa: PLC0415 - only a worker with child processes needs it

    file: str | None = getattr(module, "__file__", None)
    if module.__name__ == "__main__" and file:
        return Path(file).stem
    return module.__name__.rpartition(".")[2]


def _named(plugin: object) -> str:
    """Return the name of *plugin*, a module or an object, for an error."""
    cls = type(plugin)
    return plugin.__name__ if isinstance(plugin, ModuleType) else f"{cls.__module__}.{cls.__qualname__}"


def _idle(hook: str, function: Callable[..., object]) -> str | None:
    """Return why a call of *function* as *hook* would not run its body, with the remedy; ``None`` if it would."""
    if iscoroutinefunction(function) or isasyncgenfunction(function):
        return "is async, and this hook is not awaited; expected a plain function"
    if not isgeneratorfunction(function):  # one below contextmanager is not
        return None
    remedy = "put @contextlib.contextmanager above it" if hook.startswith(_AROUND) else "return instead of yield"
    return f"is a generator function, and a call would not run it; {remedy}"


def _unable(hook: str, function: Callable[..., object], *, is_pluggys: bool) -> str | None:
    """Return why *function* cannot wrap listeners as *hook*; ``None`` if it can."""
    if is_pluggys:
        return "cannot be a wrapper of pluggy's"
    inner = unwrap(function)
    if isgeneratorfunction(inner) or isasyncgenfunction(inner):
        return "has a yield; it calls the listener by proceed instead"
    if iscoroutinefunction(function) and hook == _WRAPPING:
        return f"is async; {_WRAPPING_ASYNC} is for async listeners"
    if not iscoroutinefunction(function) and hook == _WRAPPING_ASYNC:
        return f"is not async; {_WRAPPING} is for listeners that are not"
    if "proceed" not in _required(function):
        return "does not take proceed, which calls the listener"
    return None


def _required(function: Callable[..., object]) -> list[str]:
    """Return the names of the arguments that *function* has to get."""
    return [
        each.name
        for each in signature(function).parameters.values()
        if each.kind in _POSITIONAL and each.default is Parameter.empty
    ]


@contextmanager
def observe(observers: Sequence[Observer], **arguments: object) -> Iterator[None]:
    """Run the block inside the context managers that *observers* return; log their exceptions and go on."""
    with ExitStack() as stack:
        for observer in observers:
            try:
                manager = observer(**arguments)
                if manager is not None:
                    stack.enter_context(_guard(manager))
            except Exception:  # noqa: BLE001 - a broken plugin must not stop deliveries
                _log.exception("an observing hook failed; the event goes on without it")
        yield


def notify(observers: Sequence[Observer], **arguments: object) -> None:
    """Call *observers* after something happened; log their exceptions and go on."""
    with observe(observers, **arguments):
        pass  # a context manager that one of them returns is entered and left at once


@contextmanager
def _guard(manager: AbstractContextManager[object]) -> Iterator[None]:
    manager.__enter__()
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        try:
            manager.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)
        except Exception:  # noqa: BLE001 - a broken plugin must not stop deliveries
            _log.exception("an observing hook failed; the event goes on without it")


def _observer(
    function: Callable[..., Any], wanted: frozenset[str], warn: Callable[[object], None] | None = None
) -> Observer:
    def call(**arguments: object) -> AbstractContextManager[object] | None:
        result = function(**{name: value for name, value in arguments.items() if name in wanted})
        if hasattr(result, "__enter__"):
            return cast("AbstractContextManager[object]", result)
        if result is not None and warn is not None:
            warn(result)
        return None

    return call
