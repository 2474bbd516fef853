"""
Dispatch the events of JSON Lines.

A chunk of lines is sent together, and its position is noted when all of it is stored. A command that was interrupted
continues with the first line of a chunk. The ids of events are derived from their lines: if some events of that chunk
are stored already, they are the same events when they are dispatched again.
"""

from __future__ import annotations

import gc
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from io import BufferedReader, FileIO, UnsupportedOperation
from pathlib import Path
from typing import Any, cast

import attrs
import click
import msgspec

from relevo._app.app import App
from relevo._event.event import Event
from relevo._listener.call import DispatchOptions
from relevo._signal import take_ends
from relevo._transport.optional import IdentifiedStore
from relevo._transport.route import Routing
from relevo._visible import visible
from relevo.cli._arguments import MAX_LINE
from relevo.cli._lines import CHUNK, Lines
from relevo.cli._main import EXIT_DATA, EXIT_OUTPUT, exit_code, tell
from relevo.cli._output import at_terminal, echo, show_json
from relevo.cli._position import FailureError, FirstLine, Ids, Position, PositionFile, appended
from relevo.cli._progress import Bar, progress
from relevo.cli._rejects import Rejects
from relevo.errors import CodecError, ConfigurationError, EncodeError, RelevoError, SendError, TransportError


@attrs.frozen(kw_only=True)
class Source:
    """The lines, and what is kept about them: the options of ``relevo dispatch --lines``."""

    path: str
    """The file; ``-`` is standard input."""

    rejects: Path | None
    resume: Path | None
    first: FirstLine | None


@attrs.frozen(kw_only=True)
class Template:
    """What the events have in common."""

    name: str
    routing: Routing

    made: Callable[[bytes, str], Event]
    """Takes a line and the id of its event, returns the event; raises :class:`CodecError`."""

    options: Callable[[], DispatchOptions]
    """Returns the options of the dispatch, whose times are counted from now."""

    misspelt: ConfigurationError | None = None
    """Raised before line 1, if the name is probably misspelt."""


def dispatch_lines(app: App, source: Source, template: Template, *, as_json: bool) -> int:
    """
    Dispatch an event for each line of *source*, and return the exit code.

    Raises:
        RelevoError: The event's name is probably misspelt, or a transport cannot be set up.

        click.ClickException: A file cannot be opened, or is not the one that was dispatched in part.

        KeyboardInterrupt: A signal came. Which lines are dispatched was reported.
    """
    began = app.clock.monotonic()
    with ExitStack() as stack:
        stream = stack.enter_context(_opened(source.path))
        bulk = _Bulk.of(app, stack, stream, source, template)
        interrupts = stack.enter_context(_Interrupts.taken())
        stack.enter_context(_collecting_seldom())
        show = at_terminal(sys.stderr) and not as_json
        total = _number_of_lines(source.path) if show else None
        try:
            with progress("dispatching", total=total, before=bulk.done, show=show) as bar:
                bulk.run(interrupts, bar)
        except (RelevoError, click.ClickException) as error:
            if isinstance(error, RelevoError):
                tell(error)
            else:
                _tell(error.format_message())
            if not isinstance(error, _OtherFormatError):
                _tell(bulk.report())
            return exit_code(error) if isinstance(error, RelevoError) else error.exit_code
        except BaseException:
            _tell(bulk.report())
            raise
    return _summary(bulk, template.routing, seconds=app.clock.monotonic() - began, as_json=as_json)


def _summary(bulk: _Bulk, routing: Routing, *, seconds: float, as_json: bool) -> int:
    targets, earlier = [str(target) for target in routing.targets], bulk.earlier
    if as_json:
        numbers = {"lines": bulk.done, "dispatched": bulk.dispatched, "rejected": bulk.rejected}
        before = {"lines": earlier.lines, "rejected": earlier.rejected}
        show_json({**numbers, "earlier": before, "rejects": bulk.first_rejects, "targets": targets})
    else:
        parts = [f"{bulk.dispatched} dispatched in {seconds:.1f} s"]
        if earlier.rejected:
            parts.append(f"{bulk.rejected + earlier.rejected} rejected in all ({bulk.rejected} now)")
        elif bulk.rejected:
            parts.append(f"{bulk.rejected} rejected")
        if earlier.lines:
            parts.append(f"lines 1 to {earlier.lines} were done earlier")
        echo(visible(f"{', '.join(parts)} → {', '.join(targets)}"))
    return EXIT_DATA if bulk.rejected or earlier.rejected or bulk.is_unfinished else 0


_MOST_REJECTS = 100
"""
The number of rejected lines that are in the JSON.

A command that begins with line 1 ends when as many are rejected and none is valid: the file has another format, or the
event another class.
"""

_MOST_REPORTS = 20
"""The number of rejected lines that are reported one by one."""

_GZIP = b"\x1f\x8b"
_UTF_16 = b"\xff\xfe", b"\xfe\xff"


class _Made(msgspec.Struct, frozen=True):
    """The event of a line."""

    number: int
    line: bytes
    event: Event


_OF_A_CSV_FILE = "a CSV file has to be converted to JSON Lines"
_OF_AN_ARRAY = "a JSON array has to be converted to JSON Lines, as jq -c '.[]' does"

_START = Position(lines=0, digest="", rejected=0, end=0)


class _OtherFormatError(FailureError):
    """Raised when the first lines are all invalid; its text says what to do."""


_Faults = dict[int, tuple[bytes, str]]
"""
Lines that are invalid by their number, and why.

The error itself would hold the frame that caught it, and so all lines and events of the chunk, until the collector of
cyclic garbage finds them.
"""


@attrs.define(kw_only=True)
class _Bulk:
    """A run of the command, and how far it has come."""

    app: App
    template: Template
    lines: Lines
    ids: Ids
    positions: PositionFile | None
    rejects: Rejects | None
    is_now: bool
    """Whether listeners are called in process: if a dispatch fails, some of them may have run."""

    done: int = 0
    """The number of lines that are dispatched or rejected; none of them is in doubt."""

    dispatched: int = 0
    rejected: int = 0
    """The lines that this run rejected."""

    earlier: Position = _START
    """The position at which this run began, if an earlier one has noted it."""

    is_unfinished: bool = False
    """Whether the last line is invalid and has no newline at its end: another run with the position tries it again."""

    is_array: bool = False
    """Whether line 1 begins an array."""

    has_objects: bool = False
    """Whether one of the lines that this run rejected begins an object."""

    first_rejects: list[dict[str, object]] = attrs.field(factory=list)
    """The numbers of the first lines that this run rejected, and why."""

    is_from_line_1: bool = True
    """Whether no earlier command has dispatched lines of it, as far as is known."""

    _is_in_doubt: bool = False
    """Whether lines after these may be dispatched."""

    @classmethod
    def of(cls, app: App, stack: ExitStack, stream: BufferedReader, source: Source, template: Template) -> _Bulk:
        """Open the files of *source*, and skip the lines that an earlier command has dispatched."""
        positions = None
        if source.resume is not None:
            if source.rejects is not None and _is_same(source.rejects, source.resume):
                raise click.UsageError("--rejects is the file of --resume; choose another one")
            positions = stack.enter_context(PositionFile.opened(source.resume, template.name))
        before = None if positions is None else positions.position
        if before is not None and before.lines and source.first is not None:
            raise click.UsageError(f"--from-line: {source.resume} has a position already; leave one of the two out")
        ids = (positions and positions.ids) or (source.first and source.first.ids) or Ids.new(app.clock.now())
        rejects = None
        if source.rejects is not None:
            file = stack.enter_context(appended(source.rejects, "--rejects"))
            _refuse_same(stream, file, "--rejects is the file of --lines; choose another one")
            rejects = Rejects(file, source.rejects, None if before is None else before.end)
        bulk = cls(
            app=app,
            template=template,
            lines=Lines(stream),
            ids=ids,
            positions=positions,
            rejects=rejects,
            is_now=template.routing.is_now,
            is_from_line_1=source.first is None and (before is None or not before.lines),
        )
        if template.misspelt is not None and bulk.is_from_line_1:
            raise template.misspelt
        to = {} if positions is None else _identified(app, template.routing)
        if source.first is not None:
            bulk.skip(source.first.number - 1)
            if bulk.done < source.first.number - 1:
                raise click.BadParameter(
                    f"expected at most {bulk.done + 1}; {source.path} has {bulk.done} lines", param_hint="--from-line"
                )
        elif positions is not None and before is not None:
            bulk.go_on(source, positions, before, to)
        if positions is not None and before is None:
            positions.begin(ids, bulk.position, to)
        return bulk

    def skip(self, number: int) -> None:
        """Skip the first *number* lines, or all if there are fewer."""
        self.lines.skip(number)
        self.done = self.lines.number

    def go_on(self, source: Source, positions: PositionFile, before: Position, to: Mapping[str, str]) -> None:
        """
        Skip the lines of the position *before* in *positions*; events are dispatched to *to*.

        Raises:
            click.BadParameter: They were dispatched to something else, or are not those of *source*.
        """
        if positions.to is not None and positions.to != to:
            raise _elsewhere(source, before, self.ids, positions.to, to)
        self.skip(before.lines)
        if self.lines.digest != before.digest:
            raise _changed(source, before, self.ids, found=self.done)
        self.earlier = before
        if positions.to is None and before.lines:
            _tell(
                f"{source.resume} does not say to which store lines 1 to {before.lines} were dispatched, since an "
                "earlier release wrote it; they are not dispatched again"
            )

    @property
    def position(self) -> Position:
        """The position after the lines that are done."""
        end = 0 if self.rejects is None else self.rejects.end
        rejected = self.earlier.rejected + self.rejected
        return Position(lines=self.done, digest=self.lines.digest, rejected=rejected, end=end)

    def run(self, interrupts: _Interrupts, bar: Bar) -> None:
        """Dispatch all lines."""
        # Of several lines, it would not be known which listeners have run in process.
        while chunk := self._taken(1 if self.is_now else CHUNK):
            with interrupts.after():
                self._dispatch(chunk, bar)
                if self.is_unfinished:
                    break
                self.done = self.lines.number
                self._is_in_doubt = False
                if self.positions is not None:
                    self.positions.note(self.position)
            bar.advance(len(chunk))
        if self.rejected > _MOST_REPORTS:
            where = f"they are in {self.rejects.path}" if self.rejects is not None else "--rejects FILE keeps them"
            bar.tell(visible(f"relevo: {self.rejected - _MOST_REPORTS} more lines were rejected; {where}"))
        is_valid = self.dispatched or self.has_objects or self.is_array
        if self.rejected > 1 and self.is_from_line_1 and not is_valid:
            bar.tell(f"relevo: no line is an object; {_OF_A_CSV_FILE}")

    def report(self) -> str:
        """Return which lines are dispatched, and how to continue."""
        done = f"lines 1 to {self.done} are dispatched or rejected" if self.done else "no line is dispatched"
        if self._is_in_doubt:
            done = f"{done}, and perhaps some of lines {self.done + 1} to {self.lines.number}"
        elif self.done:
            done = f"{done}, and none after them"
        first = FirstLine(self.done + 1, self.ids)
        again = "run the same command again" if self.positions is not None else f"pass --from-line {first}"
        return f"{done}; to continue, {again}"

    def _taken(self, most: int) -> Sequence[bytes]:
        try:
            return self.lines.take(most)
        except OSError as error:
            raise FailureError(f"the lines cannot be read: {error.strerror}", EXIT_OUTPUT) from error

    def _dispatch(self, chunk: Sequence[bytes], bar: Bar) -> None:
        """Dispatch the lines of *chunk*, and reject those that cannot be."""
        if not self.done and chunk[0].startswith(_GZIP):
            raise _OtherFormatError(
                "the file is compressed; no line is dispatched; pass its lines, as in: "
                f"zcat FILE | relevo dispatch {self.template.name} --lines -",
                EXIT_DATA,
            )
        if not self.done and chunk[0].startswith(_UTF_16):
            raise _OtherFormatError(
                "the file is UTF-16; no line is dispatched; pass its lines as UTF-8, as in: "
                f"iconv -f UTF-16 -t UTF-8 FILE | relevo dispatch {self.template.name} --lines -",
                EXIT_DATA,
            )
        if not self.done:
            self.is_array = chunk[0].lstrip().startswith(b"[")
        events, faults = self._made(chunk)
        batches = [events]
        while batches:
            if not (batch := batches.pop()):
                continue
            if (refused := self._send(batch)) is None:
                self.dispatched += len(batch)
            elif len(batch) == 1:
                faults[batch[0].number] = batch[0].line, refused
            else:
                half = len(batch) // 2
                batches += [batch[half:], batch[:half]]
        torn = self.positions is not None and self.lines.is_torn and any(_is_torn(line) for line, _ in faults.values())
        if torn:
            self.is_unfinished = True
            for number, (_, why) in faults.items():
                bar.tell(
                    visible(
                        f"relevo: line {number}: {why}; it has no newline at its end, so it may be unfinished: "
                        "it is not rejected, and the same command tries it again"
                    )
                )
            return
        self._reject(dict(sorted(faults.items())), bar)

    def _made(self, chunk: Sequence[bytes]) -> tuple[list[_Made], _Faults]:
        """Return the events of *chunk*, and its invalid lines."""
        events: list[_Made] = []
        faults: _Faults = {}
        for number, line in enumerate(chunk, self.done + 1):
            if line.strip():
                try:
                    events.append(_Made(number, line, self.template.made(line, self.ids.of(number, line))))
                except CodecError as error:
                    why = _why(error)
                    faults[number] = line, why
                    if self.is_from_line_1 and not events:
                        self._refuse_other_format(number, line, why, invalid=self.rejected + len(faults))
        return events, faults

    def _refuse_other_format(self, number: int, line: bytes, why: str, *, invalid: int) -> None:
        """Raise an error if none of the lines until the invalid *line* is valid, and they are many."""
        if self.dispatched or invalid < _MOST_REJECTS:
            return
        hint = _OF_AN_ARRAY if self.is_array else "" if _begins_object(line) else _OF_A_CSV_FILE
        advice = hint and f"; {hint}"
        raise _OtherFormatError(
            f"line {number} and all before it are invalid: {why}{advice}; no line is dispatched or rejected; "
            "to reject these lines and dispatch the rest, pass --from-line 1",
            EXIT_DATA,
        )

    def _reject(self, faults: _Faults, bar: Bar) -> None:
        """Report the invalid lines *faults*, and append them to the file for them."""
        if self.rejects is not None:
            self.rejects.add([line for line, _ in faults.values()])
        for number, (line, text) in faults.items():
            why = f"{text}; {_OF_AN_ARRAY}" if number == 1 and self.is_array else text
            if len(self.first_rejects) < _MOST_REJECTS:
                self.first_rejects.append({"line": number, "why": why})
            if self.rejects is not None and len(line) > MAX_LINE:
                why += f"; {self.rejects.path} has only its beginning"
            self.rejected += 1
            self.has_objects = self.has_objects or _begins_object(line)
            if self.rejected <= _MOST_REPORTS:
                bar.tell(visible(f"relevo: line {number}: {why}"))

    def _send(self, batch: Sequence[_Made]) -> str | None:
        """Dispatch *batch*; return the text of the error if nothing was sent since one of its events is invalid."""
        was, self._is_in_doubt = self._is_in_doubt, True
        try:
            self.app.dispatch_many([each.event for each in batch], **self.template.options())
        except CodecError as error:
            self._is_in_doubt = was
            return _why(error)
        except SendError as error:
            self._is_in_doubt = was or bool(error.sent or error.unknown)
            raise
        except RelevoError as error:
            if not self.is_now or isinstance(error, TransportError):
                self._is_in_doubt = was
            raise
        return None


class _Interrupts:
    """TERM and INT, which end the command at once while it reads, and after the chunk while it sends one."""

    def __init__(self) -> None:
        self._is_sending = False
        self._number = 0

    @classmethod
    @contextmanager
    def taken(cls) -> Iterator[_Interrupts]:
        """Take the signals while the block runs; in a thread there are none."""
        interrupts = cls()
        if threading.current_thread() is not threading.main_thread():
            yield interrupts
            return
        give_back = take_ends(interrupts._take)
        try:
            yield interrupts
        finally:
            give_back()

    @contextmanager
    def after(self) -> Iterator[None]:
        """Interrupt after the block; a second signal does so inside."""
        self._is_sending = True
        try:
            yield
        finally:
            self._is_sending = False
        if self._number:
            raise KeyboardInterrupt(self._number)

    def _take(self, number: int, _: Any) -> None:
        if self._number or not self._is_sending:
            raise KeyboardInterrupt(number)
        self._number = number


@contextmanager
def _collecting_seldom() -> Iterator[None]:
    """Look for cyclic garbage once in some chunks instead of several times in each: that is a fifth of the time."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _opened(path: str) -> Iterator[BufferedReader]:
    if path == "-":
        if sys.stdin is None:
            raise click.BadParameter("standard input is closed", param_hint="--lines")
        yield cast("BufferedReader", sys.stdin.buffer)
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(Path(path).open("rb"))
        except OSError as error:
            raise click.BadParameter(f"{path} cannot be opened: {error.strerror}", param_hint="--lines") from error
        yield file


def _identified(app: App, routing: Routing) -> dict[str, str]:
    """Return the targets of *routing*, each with the identity of its store; empty where the store has none."""
    found = {str(target): "" for target in routing.targets}
    for target in routing.deferred:
        store: object = app.transports[target.transport]
        if isinstance(store, IdentifiedStore):
            app.prepare(target.transport)
            found[str(target)] = store.store_id()
    return found


def _elsewhere(
    source: Source, before: Position, ids: Ids, then: Mapping[str, str], now: Mapping[str, str]
) -> click.BadParameter:
    """Return the error for a position whose lines were dispatched to other targets, or to other stores."""
    there, here = ", ".join(then), ", ".join(now)
    other = f"{there}, which was another store then" if there == here else f"{there}; the event is routed to {here} now"
    return click.BadParameter(
        f"the lines of {source.resume} were dispatched to {other}; to dispatch all lines, pass another path; to "
        f"dispatch only those after line {before.lines}, remove {source.resume} and pass "
        f"--from-line {FirstLine(before.lines + 1, ids)}",
        param_hint="--resume",
    )


def _changed(source: Source, before: Position, ids: Ids, *, found: int) -> click.BadParameter:
    """Return the error for lines that are not those of the position *before*; there are *found*, or more."""
    if found < before.lines:
        return click.BadParameter(
            f"{source.path} has {found} lines, {before.lines} were dispatched; for another file, pass another path; to "
            f"dispatch all lines again, remove {source.resume} and pass --from-line {FirstLine(1, ids)}: ids of "
            f"unchanged lines stay, but an event that was handled meanwhile is handled twice",
            param_hint="--resume",
        )
    return click.BadParameter(
        f"the first {before.lines} lines of {source.path} are not those that were dispatched; remove {source.resume}, "
        f"and pass --from-line {FirstLine(before.lines + 1, ids)} to dispatch only the lines after them, or "
        f"--from-line {FirstLine(1, ids)} to dispatch all again: a line that is unchanged keeps the id of its event, "
        f"but an event that was handled meanwhile is handled twice",
        param_hint="--resume",
    )


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them does not exist yet
        return one.resolve() == other.resolve()


def _refuse_same(stream: BufferedReader, other: FileIO, why: str) -> None:
    """Refuse *other* if it is the file of *stream*: what is appended would be read again."""
    try:
        found = os.fstat(stream.fileno())
    except UnsupportedOperation:  # not a file
        return
    if stat.S_ISREG(found.st_mode) and os.path.samestat(found, os.fstat(other.fileno())):
        raise click.UsageError(why)


def _number_of_lines(path: str) -> int | None:
    """Return the number of lines in the file at *path*; ``None`` if it can be read only once."""
    if path == "-" or not Path(path).is_file():
        return None
    with Path(path).open("rb", buffering=0) as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _begins_object(line: bytes) -> bool:
    return line.lstrip().startswith(b"{")


def _is_torn(line: bytes) -> bool:
    """Return whether *line*, which has no newline, may be unfinished: it is not whole JSON."""
    try:
        msgspec.json.decode(line)
    except (ValueError, RecursionError):
        return True
    return False


def _why(error: CodecError) -> str:
    """Return the text of *error* without the event's name, which is that of all lines."""
    if isinstance(error, EncodeError):
        return f"{error.path}: {error.why}" if error.path else error.why
    return str(error)


def _tell(line: str) -> None:
    click.echo(f"relevo: {visible(line)}", err=True)
