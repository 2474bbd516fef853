"""What the lifespans have opened in this process, until it is closed."""

from __future__ import annotations

import atexit
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from contextvars import Context
from logging import getLogger
from threading import Event, Lock, RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any

from relevo._fork import ForkAware, notice_fork
from relevo._listener.lifespan import Asking, Lifespan, LifespanTable, Needs
from relevo._listener.process_loop import awaited, process_loop
from relevo._problem import with_lines
from relevo.errors import ConfigurationError

if TYPE_CHECKING:
    from asyncio import Future

_log = getLogger("relevo.listener")

_CLOSE_WITHIN, _LOOK_EVERY = 10.0, 0.1
"""Seconds for the end of an async lifespan, and between two looks whether its loop still runs."""

_LONGEST_PAUSE = 60.0
"""The most seconds for which an opening that has failed is not tried again."""

_Key = tuple[Lifespan, object]
"""A lifespan, and the loop on which it runs if it is async: a client of one loop cannot be used on another."""


class _PlainValue:
    """
    What a lifespan that is not async has opened.

    It runs in a context of its own: what it sets there belongs to no event.
    """

    def __init__(self, lifespan: Lifespan, given: Mapping[str, object]):
        self._context = Context()
        self._manager = contextmanager(lifespan.function)(**given)
        self.value: object = self._context.run(self._manager.__enter__)

    def close(self) -> None:
        """Close it."""
        self._context.run(self._manager.__exit__, None, None, None)


class _ValueOnLoop:
    """
    What an async lifespan has opened.

    One task opens and closes it, as task groups and timeouts need it. It ends with its loop at the latest.
    """

    def __init__(self, lifespan: Lifespan, given: Mapping[str, object], forget: Callable[[], object]):
        self._lifespan = lifespan
        self._manager = asynccontextmanager(lifespan.function)(**given)
        self._forget = forget
        self._over = Event()
        self.value: object = None
        self.is_ending = False
        """Whether it closes, or is closed."""

    async def open(self) -> None:
        """Open it, on the loop on which it lives."""
        import asyncio  # noqa: PLC0415 - only async lifespans need it

        self._loop = loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        opened: Future[object] = loop.create_future()
        self._task = loop.create_task(self._live(opened), name=self._lifespan.id, context=Context())
        try:
            self.value = await opened
        except asyncio.CancelledError:
            self._task.cancel()
            raise

    async def _live(self, opened: Future[object]) -> None:
        try:
            async with self._manager as value:
                if not opened.done():
                    opened.set_result(value)
                    await self._wait()
        except BaseException as error:  # SystemExit would end the loop
            if not opened.done():
                opened.set_exception(error)
            elif isinstance(error, Exception):
                log_close(self._lifespan, error)
            elif not isinstance(error, SystemExit):
                raise  # the loop ends
        finally:
            self._over.set()

    async def _wait(self) -> None:
        """Wait for the end; the end of the loop, which cancels this task, is one too."""
        import asyncio  # noqa: PLC0415 - as above

        try:
            await self._ending.wait()
        except asyncio.CancelledError:
            self._task.uncancel()
        finally:
            self.is_ending = True
            self._forget()

    def close(self) -> None:
        """Close it, and wait for that, unless this thread runs its loop."""
        try:
            self._loop.call_soon_threadsafe(self._ending.set)
        except RuntimeError:  # the loop has ended, and with it the task
            return
        deadline = time.monotonic() + _CLOSE_WITHIN
        while not (self._is_here() or self._over.wait(_LOOK_EVERY)) and self._loop.is_running():
            if time.monotonic() > deadline:
                _log.warning("%s has not closed within %g s", self._lifespan.id, _CLOSE_WITHIN)
                return

    def _is_here(self) -> bool:
        """Return whether this thread runs its loop."""
        import asyncio  # noqa: PLC0415 - as above

        return asyncio._get_running_loop() is self._loop  # noqa: SLF001 - the public one raises


def log_close(lifespan: Lifespan, error: BaseException) -> None:
    """Log that *lifespan* raised *error* after its ``yield``."""
    _log.error("%s could not be closed", lifespan.id, exc_info=error)


class OpenValues(ForkAware):
    """
    What the lifespans of an application have opened in this process.

    Each is opened when a listener that asks for it is called for the first time, after what it needs itself. It is
    closed by :meth:`close`, or at the end of the process. The child of a fork opens its own.

    Args:
        lifespans: The lifespans, with those that are added later.

        provided: Values in place of what lifespans yield, by type.
    """

    def __init__(self, lifespans: LifespanTable, provided: Mapping[Any, object] | None = None):
        self._lifespans = lifespans
        self._provided = dict(provided or {})
        self.limiting: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext()
        """Takes the id of a lifespan, and watches its opening; a child process ends one that takes too long."""
        self._reset()
        super().__init__()

    def _reset(self) -> None:
        self._live: dict[_Key, _PlainValue | _ValueOnLoop] = {}
        self._opening: set[_Key] = set()
        self._turn = Lock()
        self._locks: defaultdict[_Key, RLock] = defaultdict(RLock)
        """One for each, since one that waits for the event loop must not hold up those that a thread opens."""
        self._failed: dict[_Key, tuple[BaseException, TracebackType | None, float]] = {}
        """What the last attempt to open it raised, and until when, in monotonic seconds, it is not tried again."""
        self.attempts = 0
        """How many were opened so far in this process, or began to."""

    def after_fork_in_child(self) -> None:
        for each in self._live.values():
            _keep_for_ever(each)
        self._reset()

    def check(self, asking: Iterable[Asking]) -> None:
        """
        Check that lifespans yield what *asking*, listeners or lifespans, ask for; report all problems together.

        Raises:
            ConfigurationError: One asks for what no lifespan yields, or what it cannot use.
        """
        problems = []
        for each in (*self._lifespans, *asking):
            try:
                self._lifespans.needed_by(each, self._provided)
            except ConfigurationError as error:
                problems.append(str(error))
        if problems:
            raise with_lines(ConfigurationError(), list(dict.fromkeys(problems)))

    def values(self, asking: Asking) -> dict[str, object] | None:
        """Return the values that *asking* gets, by parameter; ``None`` if one of them is not open."""
        notice_fork()
        return self._found(asking.needs)

    def _found(self, needs: Needs) -> dict[str, object] | None:
        found: dict[str, object] = {}
        for name, kind in needs.items():
            if kind in self._provided:
                found[name] = self._provided[kind]
                continue
            lifespan = self._lifespans.get(kind)
            opened = None if lifespan is None else self._live.get(_key(lifespan))
            if opened is None:
                return None
            found[name] = opened.value
        return found

    def open(self, asking: Asking) -> Mapping[str, object]:
        """
        Return the values that *asking* gets, by parameter; open those that are not open.

        Raises:
            ConfigurationError: No lifespan yields one of them, or this thread runs the loop on which one has to run.

            BaseException: A lifespan raised it before its ``yield``.
        """
        notice_fork()
        for lifespan in self._lifespans.needed_by(asking, self._provided):
            self._open(_key(lifespan))
        found = self._found(asking.needs)
        if found is None:
            raise RuntimeError(f"{asking.id}: a lifespan was closed while another one was opened")
        return found

    def _open(self, key: _Key) -> None:
        """Open the lifespan of *key*, unless it is open."""
        lifespan = key[0]
        with self._turn:
            lock = self._locks[key]
        with lock:
            if key in self._live:
                return
            if key in self._opening:
                raise RuntimeError(f"{lifespan.id} calls a listener that asks for its own value before it has one")
            if key in self._failed:
                error, trace, again = self._failed[key]
                if time.monotonic() < again:
                    raise error.with_traceback(trace)
            self._opening.add(key)
            began = time.monotonic()
            self.attempts += 1
            try:
                with self.limiting(lifespan.id):
                    self._live[key] = made = self._made(key, self._given(lifespan))
                self._failed.pop(key, None)
                if isinstance(made, _ValueOnLoop) and made.is_ending:  # it ended before it was in the table
                    self._forget(key, made)
            except BaseException as failure:
                now = time.monotonic()  # for as long as it took: a server that is down must not hold up all events
                self._failed[key] = failure, failure.__traceback__, now + min(now - began, _LONGEST_PAUSE)
                raise
            finally:
                self._opening.discard(key)
        atexit.unregister(self.close)
        atexit.register(self.close)  # the last one, so that the event loop ends later
        _log.debug("%s is open", lifespan.id)

    def _given(self, lifespan: Lifespan) -> dict[str, object]:
        """Return the values of others that *lifespan* gets, which are open."""
        given = self._found(lifespan.needs)
        if given is None:
            raise RuntimeError(f"{lifespan.id}: what it needs was closed while it was opened")
        return given

    def _made(self, key: _Key, given: Mapping[str, object]) -> _PlainValue | _ValueOnLoop:
        lifespan = key[0]
        if not lifespan.is_async:
            return _PlainValue(lifespan, given)
        made = _ValueOnLoop(lifespan, given, lambda: self._forget(key, made))
        awaited(made.open(), lifespan.id)
        return made

    def _forget(self, key: _Key, opened: _PlainValue | _ValueOnLoop) -> None:
        if self._live.get(key) is opened:
            self._live.pop(key, None)

    def close(self) -> None:
        """Close what is open, the last first; an error is logged. What is asked for later is opened again."""
        atexit.unregister(self.close)
        while self._live:
            with suppress(KeyError):  # it ended by itself
                key, opened = self._live.popitem()
                try:
                    opened.close()
                except (Exception, SystemExit) as error:  # noqa: BLE001 - of the program; the others are closed too
                    log_close(key[0], error)


def _keep_for_ever(thing: object) -> None:
    """
    Keep *thing*, which a parent has opened, even when the interpreter of this process ends.

    Python resumes a generator that it forgets. Its ``finally`` would close what the parent still uses: a connection
    that both have is closed for both.
    """
    with suppress(ImportError, AttributeError):
        import ctypes  # noqa: PLC0415 - only the child of a fork needs it

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _key(lifespan: Lifespan) -> _Key:
    return lifespan, process_loop.of_listeners() if lifespan.is_async else None
