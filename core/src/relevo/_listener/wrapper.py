"""What plugins put around each call of a listener: each calls it once, or refuses, or skips it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from enum import Enum, auto
from functools import partial, update_wrapper
from logging import getLogger
from threading import Lock
from typing import Any

import attrs

from relevo._awaited import refuse_undone
from relevo._hook import Hooks, Wrapper
from relevo._listener.call import Call
from relevo._listener.derived import DerivedTable
from relevo._listener.listener import Listener, ListenerTable
from relevo._listener.process_loop import awaited, is_awaitable
from relevo._visible import visible
from relevo.errors import PluginError, blame

_log = getLogger("relevo.listener")

Complete = Callable[[object, Listener], object]
"""Takes what a plain listener returned, and the listener; returns its result, once its work is done."""


class _UseOfCall(Enum):
    UNUSED = auto()
    BEGUN = auto()
    RETURNED = auto()
    RAISED = auto()
    SKIPPED = auto()
    OVER = auto()


class _Turn:
    """The one use that a wrapper has of one call of a listener."""

    def __init__(self, wrapper: Wrapper, call: Call):
        self._wrapper = wrapper
        self._call = call
        self._state = _UseOfCall.UNUSED
        self._error: BaseException | None = None
        """What the listener raised, or what a second use was refused with."""

        self._lock = Lock()

    def use(self, state: _UseOfCall) -> None:
        """
        Make *state* the present one.

        Raises:
            PluginError: It is not the first use, or the wrapper has returned.
        """
        with self._lock:  # a plugin may have threads
            is_first = self._state is _UseOfCall.UNUSED
            if is_first:
                self._state = state
        if not is_first:
            self._error = PluginError(
                f"{self._place()} used proceed twice, or after its return; raise relevo.RetryLater to have the "
                f"listener called again later"
            )
            raise self._error

    def skip(self, why: str) -> None:
        """Skip the listener, and log *why*."""
        self.use(_UseOfCall.SKIPPED)
        _log.info("%r: not called, since the plugin %s skips it: %s", self._call, self._wrapper.plugin, visible(why))

    def note_returned(self) -> None:
        """Note that the listener has returned."""
        self._state = _UseOfCall.RETURNED

    def note_raised(self, error: BaseException) -> None:
        """Note that the listener has raised *error*."""
        self._error, self._state = error, _UseOfCall.RAISED

    def blame(self, error: BaseException) -> None:
        """Note in *error*, which the wrapper raised, whose it is, unless it is the listener's."""
        if error is not self._error:
            blame(error, self._wrapper.plugin)

    def end(self, result: object) -> None:
        """
        Refuse further use after the wrapper has returned *result*, and raise unless the listener is done or skipped.

        Raises:
            PluginError: It was not called, or it still runs.

            BaseException: It raised that, and the wrapper has caught it.
        """
        with self._lock:
            state, self._state = self._state, _UseOfCall.OVER
        if state in (_UseOfCall.RETURNED, _UseOfCall.SKIPPED):
            return
        error = self._error
        self.forget()
        if state is _UseOfCall.RAISED and error is not None:
            try:
                raise error
            finally:
                with suppress(Exception):  # a hostile class
                    error.add_note(
                        f"the plugin {self._wrapper.plugin} caught this and returned, which does not make the listener "
                        f"done; it may raise another error, or skip a listener before it is called"
                    )
                del error  # it has this frame in its traceback
        is_on_loop = is_awaitable(result)
        if is_on_loop:
            getattr(result, "close", int)()  # so that Python does not warn of it too
        when = "while the listener still runs" if state is _UseOfCall.BEGUN else "without calling the listener"
        raise PluginError(
            f"{self._place()} returned {when}; write return {'await ' if is_on_loop else ''}proceed(), raise an error, "
            f'or write return proceed.skip("why")'
        )

    def forget(self) -> None:
        """Drop the error, whose traceback leads here."""
        self._error = None

    def _place(self) -> str:
        return f"the plugin {self._wrapper.plugin}: {self._wrapper.hook}"


class _Proceeding:
    def __init__(self, turn: _Turn, inner: Callable[[], Any]):
        self._turn = turn
        self._inner = inner

    def skip(self, why: str) -> object:
        """
        Count the listener as done without calling it, and log *why*: ``return proceed.skip("seen before")``.

        Returns:
            ``None``, in place of the listener's result.

        Raises:
            PluginError: The plugin has called or skipped it before, or has returned.
        """
        self._turn.skip(why)
        return None


class Proceed(_Proceeding):
    """Calls the listener that a plugin wraps, once."""

    def __call__(self) -> object:
        """
        Call the listener, inside the plugins in between; return its result, once all its work is done.

        Raises:
            PluginError: The plugin has called or skipped it before, or has returned.

            BaseException: The listener raised it.
        """
        self._turn.use(_UseOfCall.BEGUN)
        try:
            result: object = self._inner()
        except BaseException as error:
            self._turn.note_raised(error)
            raise
        self._turn.note_returned()
        return result


class AsyncProceed(_Proceeding):
    """Calls the async listener that a plugin wraps, once: ``await proceed()``."""

    async def __call__(self) -> object:
        """
        Call the listener, inside the plugins in between; return its result.

        Raises:
            PluginError: The plugin has called or skipped it before, or has returned.

            BaseException: The listener raised it.
        """
        self._turn.use(_UseOfCall.BEGUN)
        try:
            result: object = await self._inner()
        except BaseException as error:
            self._turn.note_raised(error)
            raise
        self._turn.note_returned()
        return result


def _run(wrapper: Wrapper, event: object, call: Call, inner: Callable[[], object]) -> object:
    """Call *wrapper* around *inner*; return its result."""
    turn = _Turn(wrapper, call)
    try:
        result: object = wrapper.called(event=event, call=call, proceed=Proceed(turn, inner))
    except BaseException as error:
        turn.blame(error)
        turn.forget()
        raise
    turn.end(result)
    return result


async def _run_on_loop(wrapper: Wrapper, event: object, call: Call, inner: Callable[[], Awaitable[object]]) -> object:
    """Do as :func:`_run` does for an async listener."""
    turn = _Turn(wrapper, call)
    try:
        result: object = await wrapper.called(event=event, call=call, proceed=AsyncProceed(turn, inner))
    except BaseException as error:
        turn.blame(error)
        turn.forget()
        raise
    turn.end(result)
    return result


def _completed(result: object, listener: Listener) -> object:
    """Return *result*; if it is awaitable, once it is done, unless *listener* has a session, which one thread uses."""
    return result if listener.mark.transactional else awaited(result, listener.id)


def wrapped(listener: Listener, hooks: Hooks, complete: Complete = _completed) -> Listener:
    """Return *listener* inside the wrappers of *hooks*; of one that a plugin cannot wrap, each call raises."""
    if listener.is_wrapped:
        return listener
    wrappers = hooks.wrappers(listener.is_async)[::-1]
    misfit = _misfit(listener, hooks)

    def arguments(event: object, call: Call) -> tuple[object, ...]:
        return (event, call) if listener.takes_call else (event,)

    def ended(result: object, call: Call) -> object:
        refuse_undone(result, "the listener")
        call.check_steps()
        return result

    async def innermost_on_loop(event: object, call: Call, **given: object) -> object:
        result: Any = listener.function(*arguments(event, call), **given)
        return ended(await result, call)

    async def on_loop(event: object, call: Call, **given: object) -> None:
        if misfit:
            raise PluginError(misfit)
        inner: Callable[[], Awaitable[object]] = partial(innermost_on_loop, event, call, **given)
        for wrapper in wrappers:
            inner = partial(_run_on_loop, wrapper, event, call, inner)
        await inner()

    def innermost(event: object, call: Call, **given: object) -> object:
        return ended(complete(listener.function(*arguments(event, call), **given), listener), call)

    def plain(event: object, call: Call, **given: object) -> None:
        if misfit:
            raise PluginError(misfit)
        inner: Callable[[], object] = partial(innermost, event, call, **given)
        for wrapper in wrappers:
            inner = partial(_run, wrapper, event, call, inner)
        inner()

    function: Callable[..., object] = on_loop if listener.is_async else plain
    made = update_wrapper(function, listener.function, assigned=(), updated=())  # so that errors name its place
    return attrs.evolve(listener, function=made, takes_call=True, is_wrapped=True)


def _misfit(listener: Listener, hooks: Hooks) -> str | None:
    why = hooks.without_wrapper(is_async=listener.is_async)
    return why and f"{listener.id} is {'async' if listener.is_async else 'not async'}, and {why}"


def check_wrapped(listeners: Iterable[Listener], hooks: Hooks) -> None:
    """
    Check that each plugin which wraps listeners can wrap *listeners*.

    Raises:
        PluginError: One wraps only async listeners, or only others, and there are both.
    """
    if hooks.wraps:
        for listener in listeners:
            if misfit := _misfit(listener, hooks):
                raise PluginError(misfit)


class _WrappedTable(DerivedTable):
    """The listeners of another table, inside the wrappers of plugins."""

    def __init__(self, listeners: ListenerTable, hooks: Hooks):
        super().__init__(listeners)
        self._hooks = hooks

    def _derived(self, listener: Listener) -> Listener:
        return wrapped(listener, self._hooks)


def with_wrappers(listeners: ListenerTable, hooks: Hooks) -> ListenerTable:
    """Return *listeners*, each inside the wrappers of *hooks*; those that are wrapped already stay as they are."""
    return _WrappedTable(listeners, hooks) if hooks.wraps else listeners
