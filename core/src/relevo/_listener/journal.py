"""
The journal of a call: which steps its listener has finished, and what they returned.

It belongs to the progress of the event. So what was finished is known after a crash, a retry, a stop and a deploy, as
far as the transport keeps that.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from itertools import islice
from threading import Lock, get_ident
from typing import Annotated, Any, Final, Generic, Self, TypeVar

import attrs
import msgspec

from relevo._event.validation import json_of
from relevo._listener.process_loop import SMALL_WORK, in_thread, is_in_loop, process_loop
from relevo.errors import EncodeError, RelevoError, StepError, shown

T = TypeVar("T")

Rows = Iterable[T] | AsyncIterable[T] | Callable[[int], Iterable[T] | AsyncIterable[T]]
"""The rows of a cursor, or a function that returns them from the one of that number on."""

MOST_OF_RESULT = 2000
"""Bytes of the result of one step, as JSON; all results of an event share the 16 KiB of its state."""

_MOST_OF_NAME = 100

_LOOK_EVERY = 0.01
"""Seconds between two checks whether the steps of other tasks have ended."""

IN = "\x1f"
"""What separates the names in a path, the outer one first."""


class FinishedSteps(msgspec.Struct, array_like=True):
    """What one listener has finished; a step inside another one, or for a row, has a path, see :data:`IN`."""

    steps: dict[str, msgspec.Raw] = {}
    """From the path of a finished step or cursor to what it returned, as JSON."""

    rows: dict[str, Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]] = {}
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
    """A running step or row. Its events are sent before it is recorded as finished."""

    journal: Journal
    path: str
    around: Scope | None
    """The step or row around it."""

    is_step: bool
    held: list[Any] = attrs.field(factory=list)
    is_waiting: bool = False
    """A step inside waits until the steps beside it have ended, to stop then."""

    def line(self) -> list[Scope]:
        """Return the steps and rows around it, the innermost first."""
        found, around = [], self.around
        while around is not None:
            found.append(around)
            around = around.around
        return found


scope: Final[ContextVar[Scope | None]] = ContextVar("relevo_step", default=None)
"""The step or row that runs in this thread or task."""


@attrs.define(eq=False, repr=False, kw_only=True)
class Journal:
    """
    The steps of one call.

    Args:
        listener_id: The id of the called listener.

        finished: What earlier runs finished; changed in place.

        store: Stores what is finished.

        stops: Returns whether the listener is to stop after the step of that name.

        send: Dispatches the given held events.
    """

    listener_id: str
    finished: FinishedSteps = attrs.field(factory=FinishedSteps)
    _store: Callable[[], None] = lambda: None
    _stops: Callable[[str], bool] = lambda _: False
    _send: Callable[[Sequence[Any]], None]
    _scopes: list[Scope] = attrs.field(factory=list, init=False)
    _begun: set[str] = attrs.field(factory=set, init=False)
    _threads: set[int] = attrs.field(factory=set, init=False)
    """The threads that have begun a step or a row: none of these was started by a step."""

    _unawaited: dict[str, Coroutine[Any, Any, Any]] = attrs.field(factory=dict, init=False)
    _last: str = attrs.field(default="", init=False)
    _lock: Lock = attrs.field(factory=Lock, init=False)
    _storing: Lock = attrs.field(factory=Lock, init=False)
    """Apart from the other one, which an event loop takes: the last state that is stored has all of the others."""

    _failed: StepError | None = attrs.field(default=None, init=False)
    flow: object = attrs.field(default=None, init=False)
    """The thread or the task in which the listener itself runs; there its steps come one after the other."""

    _unordered: list[str] = attrs.field(factory=list, init=False)
    """The new steps that were begun elsewhere, while finished ones had not begun: these may come yet."""

    end: BaseException | None = attrs.field(default=None, init=False)
    """What ended the steps of this run. It ends the listener too, even if that catches it."""

    # --- what an earlier release finished --------------------------------------------------------------

    def rename(self, earlier: str, name: str) -> None:
        """Use what earlier runs recorded for the step *earlier* as that of *name*."""
        old, new = self.path(earlier), self.path(name)
        with self._lock:
            kept = (*self.finished.steps, *self.finished.rows, *self.finished.begun)
            if not any(_is_in(path, old) for path in kept):
                return
            if taken := next((name for path, name in ((old, earlier), (new, name)) if path in self._begun), None):
                raise self.refusal(taken, "it was begun already in this run, so it is too late to rename it")
            if any(_is_in(path, new) for path in kept):
                raise self.refusal(name, f'earlier runs recorded both it and "{earlier}"; choose another new name')
            self.finished.steps = {_moved(path, old, new): each for path, each in self.finished.steps.items()}
            self.finished.rows = {_moved(path, old, new): each for path, each in self.finished.rows.items()}
            self.finished.begun = [_moved(path, old, new) for path in self.finished.begun]

    def forget(self, names: Sequence[str]) -> None:
        """Delete what earlier runs recorded for steps that this release of the listener does not have."""
        for name in names:
            path = self.path(name)
            with self._lock:
                if path in self._begun:
                    raise self.refusal(name, "it was begun already in this run, so it is too late to forget it")
                self._drop(path)

    def add(self, names: Sequence[str]) -> None:
        """Allow new steps to begin before steps that earlier runs finished."""
        for path in map(self.path, names):
            with self._lock:
                if path not in self.finished.begun:
                    self.finished.begun.append(path)

    def _drop(self, path: str) -> None:
        """Forget the step *path*, and those inside it."""
        self.finished.begun = [each for each in self.finished.begun if not _is_in(each, path)]
        for kept in (self.finished.steps, self.finished.rows):
            for each in [each for each in kept if _is_in(each, path)]:
                del kept[each]

    # --- the beginning of a step -----------------------------------------------------------------------

    def scope_here(self) -> Scope | None:
        """
        Return the step or row that runs in this thread or task; ``None`` outside of all.

        A thread that the step started has it too, unless several run.

        Raises:
            StepError: Several run, so it is not known which one started this thread.
        """
        around = scope.get()
        if around is not None and around.journal is self:
            return around
        open_ones = tuple(self._scopes)
        if not open_ones or get_ident() in self._threads:
            return None
        innermost = open_ones[-1]
        if any(each is not innermost and each not in innermost.line() for each in open_ones):
            raise self.refusal(
                innermost.path.rpartition(IN)[2],
                "several steps run, so it is not known to which one this thread belongs; dispatch in the function of "
                "the step itself",
            )
        return innermost

    def begin(self, path: str) -> bool:
        """
        Begin the step *path*; return whether it has to run, since no earlier run finished it.

        Raises:
            Interruption: The listener was stopped earlier in this run.

            StepError: It was begun in this run already, or an earlier run finished a step that has not begun in this
                one.

            LeaseLostError: A step before could not be noted.
        """
        name = path.rpartition(IN)[2]
        around = path[: -len(name)]
        if self.end is not None:
            raise self.end
        with self._lock:
            if path in self._begun:
                raise self.refusal(
                    name,
                    "it was begun already in this run; in a loop, give each step its own name, or use call.cursor()",
                )
            self._begun.add(path)
            if path in self.finished.steps:
                return False
            is_new = path not in self.finished.rows and path not in self.finished.begun
            unmet = self._unmet(around) if is_new else []
            if unmet and self._is_in_order():
                raise self._out_of_order(name, unmet[0])
            if unmet:
                self._unordered.append(path)
            elif is_new:
                self.finished.begun.append(path)
        return True

    def has_met(self, path: str) -> bool:
        """Return whether all that earlier runs finished has begun, so that a new step may be *path*."""
        with self._lock:
            is_known = any(path in kept for kept in (self.finished.steps, self.finished.rows, self.finished.begun))
            return is_known or not self._unmet(path[: -len(path.rpartition(IN)[2])])

    def _is_in_order(self) -> bool:
        """Return whether the listener begins a step itself, and no thread or task that it has started."""
        if self.flow is None or isinstance(self.flow, int):
            return self.flow in (None, get_ident())
        from asyncio import current_task  # noqa: PLC0415 - it is imported where there is a task

        return is_in_loop() and current_task() is self.flow

    def _out_of_order(self, name: str, earlier: str) -> StepError:
        return self.refusal(
            name,
            f'it is new, and an earlier run finished "{earlier}", which has not begun in this one; write before it '
            f'call.rename_step("{earlier}", to="{name}") if that is its new name, call.forget_steps("{earlier}") if it '
            f'was removed, or call.add_steps("{name}") if this one was added before it',
        )

    def path(self, name: str) -> str:
        """
        Return the path of the step *name*: inside the step that runs in this thread or task, if there is one.

        Raises:
            StepError: The name is invalid.
        """
        self._check_name(name)
        around = scope.get()
        return name if around is None or around.journal is not self else f"{around.path}{IN}{name}"

    def _check_name(self, name: object) -> None:
        if not isinstance(name, str) or not 0 < len(name) <= _MOST_OF_NAME or not name.isprintable():
            raise self.refusal(shown(name), f"expected a name of 1 to {_MOST_OF_NAME} printable characters")

    def _unmet(self, around: str) -> list[str]:
        """Return the names of steps inside *around* of an earlier run that were not begun in this one."""
        first = len(around)
        earlier = (*self.finished.steps, *self.finished.rows)
        names = dict.fromkeys(each[first:].partition(IN)[0] for each in earlier if each.startswith(around))
        return [name for name in names if around + name not in self._begun]

    def refusal(self, name: str, why: str, *, is_final: bool = False) -> StepError:
        """Return the error of the step *name*, which the listener raises in the end, even if it catches it."""
        error = StepError(self.listener_id, name, why, is_final=is_final)
        self._failed = self._failed or error
        return error

    # --- a stop ----------------------------------------------------------------------------------------

    @property
    def is_interrupted(self) -> bool:
        """Whether it stopped between two steps."""
        return isinstance(self.end, Interruption)

    def stop_here(self) -> None:
        """Raise :class:`Interruption` if the worker ends."""
        if self.is_interrupted or self._stops(self._last):
            self.end = Interruption()
            raise self.end

    async def stop_on_loop(self) -> None:
        """Do the same after the steps beside this one have ended: an error now could cancel them in the middle."""
        if self.is_interrupted or self._stops(self._last):
            self.end = Interruption()
            around = scope.get()
            for each in () if around is None or around.journal is not self else (around, *around.line()):
                each.is_waiting = True
            await self.settled()
            raise self.end

    async def settled(self) -> None:
        """Wait until no step runs in another task."""
        from asyncio import sleep  # noqa: PLC0415 - only a listener that is async needs it

        while any(each.is_step and not each.is_waiting for each in tuple(self._scopes)):  # noqa: ASYNC110 - in threads too
            await sleep(_LOOK_EVERY)

    @property
    def runs_steps(self) -> bool:
        """Whether a step runs."""
        return any(each.is_step for each in tuple(self._scopes))

    # --- while it runs, and its end --------------------------------------------------------------------

    def result(self, path: str) -> Any:
        """
        Return what the finished step *path* returned.

        Raises:
            StepError: The stored result is invalid: relevo did not write it.
        """
        try:
            return msgspec.json.decode(self.finished.steps[path])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            why = f"its stored result is invalid: {error}"
            raise self.refusal(path.rpartition(IN)[2], why, is_final=True) from error

    def expect_await(self, path: str, step: Coroutine[Any, Any, Any]) -> None:
        """Note that the async *step* was called, and has to be awaited."""
        self._unawaited[path] = step

    def note_awaited(self, path: str) -> None:
        """Note that an async step is awaited."""
        self._unawaited.pop(path, None)

    def enter(self, path: str, *, is_step: bool = True) -> Scope:
        """Hold the events that this thread or task dispatches from now on in a scope of their own."""
        around = scope.get()
        entered = Scope(self, path, around if around is not None and around.journal is self else None, is_step)
        self._threads.add(get_ident())
        self._scopes.append(entered)
        scope.set(entered)
        return entered

    def leave(self, entered: Scope) -> None:
        """End the scope; its events are the caller's to send."""
        self.leaving(entered)()

    def leaving(self, entered: Scope) -> Callable[[], None]:
        """End the scope for this thread or task; return what ends it for those that wait for the step."""
        scope.set(entered.around)
        return partial(self._scopes.remove, entered)

    def fail(self, path: str, entered: Scope) -> None:
        """End the scope of a step that failed, which may be begun again."""
        self.leave(entered)
        self._begun.discard(path)

    def check_end(self) -> None:
        """
        Raise what ended the steps of this run, if the listener has caught it.

        Raises:
            StepError: A step was refused, or not awaited.
        """
        if self.end is not None:
            raise self.end
        if self._failed is not None:
            raise self._failed
        for path in self._unordered:
            name = path.rpartition(IN)[2]
            for earlier in self._unmet(path[: -len(name)]):
                raise self._out_of_order(name, earlier)
        for path, step in self._unawaited.items():
            step.close()
            why = "it is async, and was not awaited before the listener returned"
            raise self.refusal(path.rpartition(IN)[2], why)

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
        name = path.rpartition(IN)[2]
        result = self._encoded(name, value)
        if held:
            self._send(held)
        with self._lock:
            self._drop(path)
            self.finished.steps[path] = result
            self._last = name
        self._keep()

    def advance(self, path: str, rows: int, *, every: int, held: Sequence[Any] = ()) -> None:
        """Send *held*; then note that *rows* rows of *path* are handled, and store each *every*-th time; blocking."""
        if held:
            self._send(held)
        with self._lock:
            self._drop(path)
            self.finished.rows[path] = rows
            self._last = path.rpartition(IN)[2]
        if rows % every == 0:
            self._keep()

    def _keep(self) -> None:
        with self._storing:
            try:
                self._store()
            except RelevoError as error:  # the lease is lost, or the state too large: no later step would be kept
                self.end = error
                raise

    def _encoded(self, name: str, value: object) -> msgspec.Raw:
        try:
            whole = json_of({"": value}, name)
        except EncodeError as error:
            path, why = error.path.replace("['']", "", 1), error.why.partition(";")[0]
            raise self.refusal(name, f"its result cannot be kept: {path}: {why}", is_final=True) from error
        data = whole[len(b'{"":') : -1]
        if len(data) > MOST_OF_RESULT:
            raise self.refusal(
                name,
                f"its result has {len(data):,} bytes, and at most {MOST_OF_RESULT:,} are kept; store the data and "
                f"return its key",
                is_final=True,
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
    _journal: Journal

    def __iter__(self) -> Iterator[T]:
        """Give the rows that are left; each is handled when the next one is asked for."""
        journal = self._journal
        if process_loop.is_here():
            raise journal.refusal(self._name, "this listener is async; write async for … in call.cursor(…)")
        path = journal.path(self._name)
        if not journal.begin(path):
            return
        count = journal.finished.rows.get(path, 0)
        for row in self._left(count):
            journal.stop_here()
            entered = journal.enter(f"{path}{IN}{count}", is_step=False)
            try:
                yield row
            finally:
                if scope.get() is entered:  # else the loop was left, and the collector ends it somewhere else
                    scope.set(entered.around)
            journal.leave(entered)
            count += 1
            journal.advance(path, count, every=self._every, held=entered.held)
        journal.finish(path, None)

    def __aiter__(self) -> AsyncIterator[T]:
        """Do the same in an async listener; what blocks is done in a thread."""
        return _AsyncRows(self._name, self._given, self._every, self._journal)

    def _given(self, start: int) -> Iterable[T] | AsyncIterable[T]:
        if callable(self._rows):
            return self._rows(start)
        return islice(self._rows, start, None) if isinstance(self._rows, Iterable) else _without(self._rows, start)

    def _left(self, start: int) -> Iterable[T]:
        rows = self._given(start)
        if isinstance(rows, AsyncIterable):
            raise TypeError(f'the rows of call.cursor("{self._name}", …) are async; write async for, in an async def')
        return rows


@attrs.define(eq=False, repr=False)
class _AsyncRows(Generic[T]):
    """
    The rows of a cursor on an event loop.

    It is not a generator. Such a one would notice only after a while, and in another task, that the loop was left.
    """

    _name: str
    _given: Callable[[int], Iterable[T] | AsyncIterable[T]]
    _every: int
    _journal: Journal
    _path: str = attrs.field(default="", init=False)
    _count: int = attrs.field(default=0, init=False)
    _source: AsyncIterator[T] | None = attrs.field(default=None, init=False)
    _entered: Scope | None = attrs.field(default=None, init=False)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        journal = self._journal
        if self._source is None:
            self._path = journal.path(self._name)
            if not journal.begin(self._path):
                raise StopAsyncIteration
            self._count = journal.finished.rows.get(self._path, 0)
            self._source = _on_loop(self._given(self._count))
        if (handled := self._entered) is not None:
            journal.leave(handled)
            self._entered = None
            self._count += 1
            note = partial(journal.advance, self._path, self._count, every=self._every, held=handled.held)
            await in_thread(SMALL_WORK, note)
        try:
            row = await anext(self._source)
        except StopAsyncIteration:
            await in_thread(SMALL_WORK, journal.finish, self._path, None)
            raise
        await journal.stop_on_loop()
        self._entered = journal.enter(f"{self._path}{IN}{self._count}", is_step=False)
        return row

    def __del__(self) -> None:
        if self._entered is not None and scope.get() is self._entered:  # the loop was left
            scope.set(self._entered.around)


def _is_in(path: str, around: str) -> bool:
    """Return whether *path* is *around* or inside it."""
    return path == around or path.startswith(around + IN)


def _moved(path: str, old: str, new: str) -> str:
    """Return *path* with *new* for *old*, if it begins with that."""
    return new + path[len(old) :] if _is_in(path, old) else path


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
