"""
The journal of a call: which steps its listener has finished, and what they returned.

It belongs to the progress of the event. So what was finished is known after a crash, a retry, a stop and a deploy, as
far as the transport keeps that.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from itertools import islice
from threading import Lock
from typing import Annotated, Any, Final, Generic, TypeVar

import attrs
import msgspec

from relevo._event.validation import json_of
from relevo._listener.process_loop import SMALL_WORK, in_thread, process_loop
from relevo.errors import EncodeError, StepError, shown

T = TypeVar("T")

Rows = Iterable[T] | AsyncIterable[T] | Callable[[int], Iterable[T] | AsyncIterable[T]]
"""The rows of a cursor, or a function that returns them from the one of that number on."""

MOST_OF_RESULT = 2000
"""Bytes of the result of one step, as JSON; all results of an event share the 16 KiB of its state."""

_MOST_OF_NAME = 100

_IN = "\x1f"
"""What separates the names in a path, the outer one first."""


class FinishedSteps(msgspec.Struct, array_like=True):
    """What one listener has finished; a step inside another one, or for a row, has a path, see :data:`_IN`."""

    steps: dict[str, msgspec.Raw] = {}
    """From the path of a finished step or cursor to what it returned, as JSON."""

    rows: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = {}
    """From the path of a cursor to how many of its rows are handled."""

    begun: list[str] = []
    """The paths of steps that were begun and are not finished: an error ended them, or they ran beside others."""


class Interruption(BaseException):
    """Raised between two steps when the worker ends: the listener goes on at its next run."""


def is_interruption(error: BaseException) -> bool:
    """Return whether *error* is an interruption, or a group of nothing else, as ``asyncio.TaskGroup`` raises it."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(Interruption)[1] is None
    return isinstance(error, Interruption)


@attrs.define(eq=False, repr=False)
class Scope:
    """The events that are dispatched while one step runs, or one row is handled: sent before that is noted."""

    journal: Journal
    path: str
    around: Scope | None
    """That of the step or row around it."""

    held: list[Any] = attrs.field(factory=list)


scope: Final[ContextVar[Scope | None]] = ContextVar("relevo_step", default=None)
"""That of the step which runs in this thread or task."""


@attrs.define(eq=False, repr=False, kw_only=True)
class Journal:
    """
    The steps of one call.

    Args:
        listener_id: Of the listener that is called.

        finished: What earlier runs finished; it is changed.

        store: Stores what is finished.

        stops: Returns whether the listener is to stop after the step of that name.

        send: Sends what the call holds.
    """

    listener_id: str
    finished: FinishedSteps
    _store: Callable[[], None]
    _stops: Callable[[str], bool]
    _send: Callable[[Sequence[Any]], None]
    _scopes: list[Scope] = attrs.field(factory=list, init=False)
    _begun: set[str] = attrs.field(factory=set, init=False)
    _last: str = attrs.field(default="", init=False)
    _lock: Lock = attrs.field(factory=Lock, init=False)

    def rename(self, earlier: str, name: str) -> None:
        """Let *name* be what *earlier* was."""
        with self._lock:
            self.finished.steps = {_renamed(path, earlier, name): each for path, each in self.finished.steps.items()}
            self.finished.rows = {_renamed(path, earlier, name): each for path, each in self.finished.rows.items()}
            self.finished.begun = [_renamed(path, earlier, name) for path in self.finished.begun]

    def forget(self, names: Sequence[str]) -> None:
        """Forget steps that this release of the listener does not have."""
        with self._lock:
            for name in names:
                self._drop(name)

    def expect(self, names: Sequence[str]) -> None:
        """Let new steps come before those that earlier releases finished."""
        with self._lock:
            self.finished.begun += [name for name in names if name not in self.finished.begun]

    def _drop(self, path: str) -> None:
        """Forget the step *path*, and those inside it."""
        self.finished.begun = [each for each in self.finished.begun if each != path and not each.startswith(path + _IN)]
        for kept in (self.finished.steps, self.finished.rows):
            for each in [each for each in kept if each == path or each.startswith(path + _IN)]:
                del kept[each]

    def path(self, name: str) -> str:
        """Return the path of the step *name*: inside the step that runs in this thread or task, if there is one."""
        around = scope.get()
        return name if around is None or around.journal is not self else f"{around.path}{_IN}{name}"

    def begin(self, name: str) -> str | None:
        """
        Begin the step *name*; return its path, or ``None`` if it was finished before, and is to be skipped.

        Raises:
            Interruption: The worker ends.

            StepError: The name is invalid or was begun in this run already, or an earlier run finished a step that has
                not come in this one.
        """
        if not 0 < len(name) <= _MOST_OF_NAME or not name.isprintable():
            why = f"a step has a name of 1 to {_MOST_OF_NAME} printable characters"
            raise StepError(self.listener_id, shown(name), why)
        path = self.path(name)
        around = path[: -len(name)]
        with self._lock:
            if path in self._begun:
                raise StepError(
                    self.listener_id,
                    name,
                    "it was begun already in this run; in a loop give each its own name, or use call.cursor()",
                )
            self._begun.add(path)
            if path in self.finished.steps:
                return None
            is_new = path not in self.finished.rows and path not in self.finished.begun
            unmet = self._unmet(around) if is_new else []
            if is_new and not unmet:
                self.finished.begun.append(path)
        if unmet:
            raise StepError(
                self.listener_id,
                name,
                f'it is new, and an earlier run finished "{unmet[0]}", which has not come in this one; write at the '
                f'beginning call.rename_step("{unmet[0]}", to="{name}") if that is its new name, '
                f'call.forget_steps("{unmet[0]}") if it was removed, or call.add_steps("{name}") if this one was added '
                f"before it",
            )
        self.stop_here()
        return path

    def _unmet(self, around: str) -> list[str]:
        """Return the names of steps inside *around* of an earlier run that were not begun in this one."""
        first = len(around)
        earlier = (*self.finished.steps, *self.finished.rows)
        names = dict.fromkeys(each[first:].partition(_IN)[0] for each in earlier if each.startswith(around))
        return [name for name in names if around + name not in self._begun]

    def stop_here(self) -> None:
        """Raise :class:`Interruption` if the worker ends."""
        if self._stops(self._last):
            raise Interruption

    def result(self, path: str) -> Any:
        """Return what the finished step *path* returned."""
        return msgspec.json.decode(self.finished.steps[path])

    def enter(self, path: str) -> Scope:
        """Hold the events that this thread or task dispatches from now on in a scope of their own."""
        entered = Scope(self, path, scope.get())
        self._scopes.append(entered)
        scope.set(entered)
        return entered

    def leave(self, entered: Scope) -> None:
        """End the scope; its events are the caller's to send."""
        scope.set(entered.around)
        self._scopes.remove(entered)

    def unsent(self) -> Sequence[Any]:
        """Return the events of rows that were not finished: the loop was left."""
        return [event for each in self._scopes for event in each.held]

    def finish(self, path: str, value: object, *, held: Sequence[Any] = ()) -> None:
        """
        Send *held*; then note and store that the step *path* returned *value*; blocking.

        Raises:
            StepError: *value* has no exact form in JSON, or is too large.

            LeaseLostError: The event is another worker's now.
        """
        name = path.rpartition(_IN)[2]
        result = self._encoded(name, value)
        self._send_all(held)
        with self._lock:
            self._drop(path)
            self.finished.steps[path] = result
            self._last = name
            self._store()

    def advance(self, path: str, rows: int, *, every: int, held: Sequence[Any] = ()) -> None:
        """Send *held*; then note that *rows* rows of *path* are handled, and store each *every*-th time; blocking."""
        self._send_all(held)
        with self._lock:
            self._drop(path)
            self.finished.rows[path] = rows
            self._last = path.rpartition(_IN)[2]
            if rows % every == 0:
                self._store()

    def _send_all(self, held: Sequence[Any]) -> None:
        if held:
            self._send(held)

    def _encoded(self, name: str, value: object) -> msgspec.Raw:
        try:
            whole = json_of({"": value}, name)
        except EncodeError as error:
            path = error.path.replace("$", "", 1)
            raise StepError(self.listener_id, name, f"its result cannot be kept: {path} {error.why}") from error
        data = whole[len(b'{"":') : -1]
        if len(data) > MOST_OF_RESULT:
            raise StepError(
                self.listener_id,
                name,
                f"its result has {len(data):,} bytes, and at most {MOST_OF_RESULT:,} are kept; store the data and "
                f"return its key",
            )
        return msgspec.Raw(data)


@attrs.define(eq=False, repr=False)
class Cursor(Generic[T]):
    """
    Rows of which each is handled once: ``for row in cursor``, or ``async for`` in an async listener.

    :meth:`Call.cursor` makes it.
    """

    _name: str
    _rows: Rows[T]
    _every: int
    _journal: Journal | None

    def __iter__(self) -> Iterator[T]:
        """Give the rows that are left; each is handled when the next one is asked for."""
        journal = self._journal
        if journal is None:
            yield from self._left(0)
            return
        if process_loop.is_here():
            raise StepError(journal.listener_id, self._name, "an async listener writes async for … in call.cursor(…)")
        if (path := journal.begin(self._name)) is None:
            return
        count = journal.finished.rows.get(path, 0)
        for row in self._left(count):
            journal.stop_here()
            entered = journal.enter(f"{path}{_IN}{count}")
            try:
                yield row
            finally:
                if scope.get() is entered:  # else the loop was left, and the collector ends it somewhere else
                    scope.set(entered.around)
            journal.leave(entered)
            count += 1
            journal.advance(path, count, every=self._every, held=entered.held)
        journal.finish(path, None)

    async def __aiter__(self) -> AsyncIterator[T]:
        """Do the same in an async listener; what blocks is done in a thread."""
        journal = self._journal
        if journal is None:
            async for row in _on_loop(self._given(0)):
                yield row
            return
        if (path := journal.begin(self._name)) is None:
            return
        count = journal.finished.rows.get(path, 0)
        async for row in _on_loop(self._given(count)):
            journal.stop_here()
            entered = journal.enter(f"{path}{_IN}{count}")
            yield row
            journal.leave(entered)
            count += 1
            note = partial(journal.advance, path, count, every=self._every, held=entered.held)
            await in_thread(SMALL_WORK, note)
        await in_thread(SMALL_WORK, journal.finish, path, None)

    def _given(self, start: int) -> Iterable[T] | AsyncIterable[T]:
        if callable(self._rows):
            return self._rows(start)
        return islice(self._rows, start, None) if isinstance(self._rows, Iterable) else _without(self._rows, start)

    def _left(self, start: int) -> Iterable[T]:
        rows = self._given(start)
        if isinstance(rows, AsyncIterable):
            raise TypeError(f'the rows of call.cursor("{self._name}", …) are async; write async for, in an async def')
        return rows


def _renamed(path: str, earlier: str, name: str) -> str:
    """Return *path* with *name* for *earlier*, if that is its first name."""
    first, separator, rest = path.partition(_IN)
    return f"{name}{separator}{rest}" if first == earlier else path


async def _on_loop(rows: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(rows, AsyncIterable):
        async for row in rows:
            yield row
    else:
        for row in rows:
            yield row


async def _without(rows: AsyncIterable[T], first: int) -> AsyncIterator[T]:
    """Give *rows* without the *first* ones."""
    number = 0
    async for row in rows:
        number += 1
        if number > first:
            yield row
