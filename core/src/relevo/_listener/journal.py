"""
The journal of a call: which steps its listener has finished, and what they returned.

It belongs to the progress of the event. So what was finished is known after a crash, a retry, a stop and a deploy, as
far as the transport keeps that.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import islice
from threading import Lock, get_ident
from typing import Annotated, Any, Final, Generic, Protocol, Self, TypeVar

import attrs
import msgspec

from relevo._event.validation import json_of
from relevo._listener.process_loop import SMALL_WORK, in_thread, process_loop
from relevo.errors import EncodeError, RelevoError, StepError, shown

T = TypeVar("T")

Rows = Iterable[T] | AsyncIterable[T] | Callable[[int], Iterable[T] | AsyncIterable[T]]
"""The rows of a cursor, or a function that returns them from the one of that number on."""

MOST_OF_RESULT = 2000
"""Bytes of the result of one step, as JSON; all results of an event share the 16 KiB of its state."""

_MOST_OF_NAME = 100

IN = "\x1f"
"""What separates the names in a path, the outer one first."""


class FinishedSteps(msgspec.Struct, array_like=True):
    """What one listener has finished; a step inside another one, or for a row, has a path, see :data:`IN`."""

    steps: dict[str, msgspec.Raw] = {}
    """From the path of a finished step or cursor to what it returned, as JSON."""

    rows: dict[str, Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]] = {}
    """From the path of a cursor to how many of its rows are handled."""

    begun: list[str] = []
    """The paths of steps that were begun and are not finished: an error ended them, or a stop came."""

    def copied(self) -> FinishedSteps:
        """Return a copy, which does not change with this."""
        return FinishedSteps({**self.steps}, {**self.rows}, [*self.begun])


class StepTransaction(Protocol):
    """The transaction of a listener, which commits with each finished step."""

    @property
    def finished(self) -> FinishedSteps | None:
        """What earlier runs finished, if it is stored with what they wrote and not in the progress of the event."""

    @property
    def has_written(self) -> bool:
        """Whether something was written since it began, or since the last commit."""

    def commit(self) -> None:
        """Commit what was written with what is noted, and begin again; blocking."""

    async def on_loop(self, work: Callable[[], None]) -> None:
        """Call *work* so that the event loop awaits what it does with the session."""


class Interruption(BaseException):
    """Raised between two steps when the worker ends: the listener continues at its next run."""


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
    thread: int = attrs.field(factory=get_ident)
    held: list[Any] = attrs.field(factory=list)

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

        passed: Called with what is finished, in words, after that is stored.

        transaction: Commits what is written with what is finished; ``None`` if the listener is not transactional.
    """

    listener_id: str
    finished: FinishedSteps = attrs.field(factory=FinishedSteps)
    _store: Callable[[], None] = lambda: None
    is_kept: bool = False
    """Whether there is a delivery to keep it with, so that its notes may block."""

    _stops: Callable[[str], bool] = lambda _: False
    _send: Callable[[Sequence[Any]], None]
    _passed: Callable[[str], None] = lambda _: None
    _transaction: StepTransaction | None = None
    _committed: FinishedSteps = attrs.field(init=False)
    """What is noted in the last commit of the transaction."""

    _scopes: list[Scope] = attrs.field(factory=list, init=False)
    _begun: set[str] = attrs.field(factory=set, init=False)
    _left: list[Any] = attrs.field(factory=list, init=False)
    """The events of rows at which a loop was left."""

    _unawaited: dict[str, Coroutine[Any, Any, Any]] = attrs.field(factory=dict, init=False)
    _last: str = attrs.field(default="", init=False)
    _lock: Lock = attrs.field(factory=Lock, init=False)
    _storing: Lock = attrs.field(factory=Lock, init=False)
    """Apart from the other one, which an event loop takes."""

    _failed: StepError | None = attrs.field(default=None, init=False)
    _is_closed: bool = attrs.field(default=False, init=False)
    end: BaseException | None = attrs.field(default=None, init=False)
    """What ended the steps of this run. It ends the listener too, even if that catches it."""

    def __attrs_post_init__(self) -> None:
        self._committed = self.finished.copied()

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

        A thread that the step or the row started has it too.
        """
        around = scope.get()
        if around is not None and around.journal is self:
            return around
        innermost = next(iter(self._scopes[-1:]), None)
        return None if innermost is None or innermost.thread == get_ident() else innermost

    def begin(self, path: str) -> bool:
        """
        Begin the step *path*; return whether it has to run, since no earlier run finished it.

        Raises:
            Interruption: The listener was stopped earlier in this run.

            StepError: It was begun in this run already, another one runs beside it, or an earlier run finished a step
                that has not begun in this one.

            LeaseLostError: A step before could not be noted.
        """
        name = path.rpartition(IN)[2]
        around = path[: -len(name)]
        self._require_open(name)
        with self._lock:
            if beside := self._beside():
                raise self.refusal(name, f'the step "{beside}" runs beside it; steps come one after the other')
            if path in self._begun:
                raise self.refusal(
                    name,
                    "it was begun already in this run; in a loop, give each step its own name, or use call.cursor()",
                )
            if path not in self.finished.steps:
                self._require_nothing_written(name)
            self._begun.add(path)
            if path in self.finished.steps:
                return False
            is_new = path not in self.finished.rows and path not in self.finished.begun
            unmet = self._unmet(around) if is_new else []
            if unmet:
                raise self.refusal(
                    name,
                    f'it is new, and an earlier run finished "{unmet[0]}", which has not begun in this one; write '
                    f'before it call.rename_step("{unmet[0]}", to="{name}") if that is its new name, '
                    f'call.forget_steps("{unmet[0]}") if it was removed, or call.add_steps("{name}") if this one was '
                    f"added before it",
                )
            if is_new:
                self.finished.begun.append(path)
        return True

    def _require_nothing_written(self, name: str) -> None:
        if self._transaction is not None and self._transaction.has_written:
            raise self.refusal(
                name,
                "call.session has written something before it that no finished step has committed; that would commit "
                "with this step, and a later run would write it again; move it into a step of its own, or behind the "
                "last one; a step inside the row of a cursor needs every=1",
            )

    def _beside(self) -> str:
        """Return the name of a step that runs in another thread or task; empty if there is none."""
        around = scope.get()
        own = [] if around is None or around.journal is not self else [around, *around.line()]
        return next((each.path.rpartition(IN)[2] for each in self._scopes if each.is_step and each not in own), "")

    def _require_open(self, name: str) -> None:
        if self.end is not None:
            raise self.end
        if self._is_closed:
            raise StepError(self.listener_id, name, "the listener has ended")

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
        self._scopes.append(entered)
        scope.set(entered)
        return entered

    def leave(self, entered: Scope) -> None:
        """End the scope; its events are the caller's to send."""
        if scope.get() is entered:  # else the collector ends a loop that was left, somewhere else
            scope.set(entered.around)
        self._scopes.remove(entered)

    def abandon(self, entered: Scope) -> None:
        """End the scope of a row at which the loop was left; its events are sent with the listener."""
        self.leave(entered)
        self._left += entered.held

    def fail(self, path: str, entered: Scope, error: BaseException) -> None:
        """End the scope of a step that raised *error*; it may be begun again, unless it has written something."""
        self.leave(entered)
        self.retract(path)
        if self._transaction is not None and self._transaction.has_written:
            self.end = self.end or error

    def retract(self, path: str) -> None:
        """Let the step *path*, which was not finished, be begun again in this run."""
        with self._lock:
            self._begun = {each for each in self._begun if not _is_in(each, path)}

    def roll_back(self) -> None:
        """Forget what was noted since the last commit of the transaction: it was rolled back."""
        with self._lock:
            kept = self._committed.copied()
            self.finished.steps, self.finished.rows, self.finished.begun = kept.steps, kept.rows, kept.begun

    def close(self) -> None:
        """Refuse further steps and notes: the listener has ended."""
        with self._storing:  # a note that is being stored is of this delivery
            self._is_closed = True

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
        for path, step in self._unawaited.items():
            step.close()
            why = "it is async, and was not awaited before the listener returned"
            raise self.refusal(path.rpartition(IN)[2], why)

    def unsent(self) -> Sequence[Any]:
        """Return the events of rows at which a loop was left."""
        return tuple(self._left)

    def finish(self, path: str, value: object, *, held: Sequence[Any] = ()) -> None:
        """
        Send *held*; then note and store that the step *path* returned *value*; blocking.

        Raises:
            StepError: *value* has no exact form in JSON, or is too large, or the listener has ended.

            LeaseLostError: The event is another worker's now.
        """
        name = path.rpartition(IN)[2]
        result = self._encoded(name, value)
        with self._noting(name, held):
            self._drop(path)
            self.finished.steps[path] = result
        self._passed(f'step "{name}"')

    def advance(self, path: str, rows: int, *, every: int, held: Sequence[Any] = ()) -> None:
        """Send *held*; then note that *rows* rows of *path* are handled, and store each *every*-th time; blocking."""
        with self._noting(path.rpartition(IN)[2], held, is_stored=rows % every == 0):
            self._drop(path)
            self.finished.rows[path] = rows
        if rows % every == 0:
            self._passed(f'row {rows} of "{path.rpartition(IN)[2]}"')

    @contextmanager
    def _noting(self, name: str, held: Sequence[Any], *, is_stored: bool = True) -> Iterator[None]:
        """Send *held*, then store what the block notes, unless the listener has ended."""
        with self._storing:
            self._require_open(name)
            if held:
                self._send(held)
            with self._lock:
                yield
                self._last = name
            try:
                if is_stored:
                    self._store()
                    self._note_commit()
            except RelevoError as error:  # the lease is lost, or the state too large: no later step would be kept
                self.end = error
                raise
            except BaseException as error:
                if self._transaction is not None:  # it has ended
                    self.end = error
                raise

    def _note_commit(self) -> None:
        if self._transaction is not None:
            self._committed = self.finished.copied()

    async def noted(self, note: Callable[[], None]) -> None:
        """
        Call *note* in a thread, if it may block, and await that to its end.

        Raises:
            CancelledError: The task was cancelled meanwhile; the note is complete.
        """
        if not self.is_kept:
            note()
            return
        from asyncio import CancelledError, current_task  # noqa: PLC0415 - it is imported where there is a task

        task = current_task()
        before = 0 if task is None else task.cancelling()
        if self._transaction is not None:
            await self._transaction.on_loop(note)
        else:
            await in_thread(SMALL_WORK, note)
        if task is not None and task.cancelling() > before:
            raise CancelledError

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
            except GeneratorExit:  # the loop was left
                journal.abandon(entered)
                raise
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
            held, count = handled.held, self._count
            await journal.noted(partial(journal.advance, self._path, count, every=self._every, held=held))
        try:
            row = await anext(self._source)
        except StopAsyncIteration:
            await journal.noted(partial(journal.finish, self._path, None))
            raise
        journal.stop_here()
        self._entered = journal.enter(f"{self._path}{IN}{self._count}", is_step=False)
        return row

    def __del__(self) -> None:
        if self._entered is not None:  # the loop was left
            self._journal.abandon(self._entered)


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
