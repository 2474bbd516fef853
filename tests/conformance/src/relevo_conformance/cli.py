"""The command line: run the suite on a transport and print its report card."""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, NoReturn, TextIO

import attrs
import click
from hypothesis.configuration import set_hypothesis_home_dir
from rich.console import Console
from rich.table import Table
from rich.text import Text

from relevo import Capabilities, masked_url
from relevo.errors import ConfigurationError, did_you_mean
from relevo_conformance import report
from relevo_conformance._apart import Log, run_apart
from relevo_conformance._companion import CompanionEndedError, CompanionFailedError
from relevo_conformance._in_words import in_words
from relevo_conformance._interruption import EXIT_INTERRUPTED, STOPPED
from relevo_conformance._jsonline import dump, load
from relevo_conformance._judge_rest import not_judged
from relevo_conformance._naming import harness_of, known
from relevo_conformance._shorten import shorten, until_broken
from relevo_conformance.card import Card, Counterexample, Line
from relevo_conformance.checker import Judge, Unaccounted, Violation
from relevo_conformance.examination import Finding
from relevo_conformance.harness import Harness, judge_of
from relevo_conformance.history import Break, Drain, Invoked, Kill, Mend, Open, Record, Remark, Returned, unreached
from relevo_conformance.profile import PROFILES, VARIABLE
from relevo_conformance.promise import PROMISES
from relevo_conformance.replay import replay
from relevo_conformance.trial import Progress, ServerMissingError, Trial, reach
from relevo_conformance.verdict import HarnessError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

EXIT_CONFORMANT = 0
EXIT_BROKEN = 1
EXIT_USAGE = 2
EXIT_UNKNOWN = 3
EXIT_UNAVAILABLE = 69
EXIT_OUTPUT = 74
EXIT_UNREAD = 141

_CODES = {
    "conformant": EXIT_CONFORMANT,
    "conformant in part": EXIT_CONFORMANT,
    "not conformant": EXIT_BROKEN,
    "unknown": EXIT_UNKNOWN,
}
_LOADING, _OPENING = "loading", "opening"
_TRACEBACKS = 3
"""The number of failed threads whose tracebacks are shown."""

_RUN_AGAIN = 30.0
"""The time limit in seconds for replaying the histories of failures."""

_SHORTEN = 20.0
"""The time limit in seconds for dropping needless calls from random histories."""

_LISTED = 100
"""The number of unaccounted events that are listed."""

_CALLS_NOTHING = (Open, Kill, Break, Mend, Drain, Remark)
"""What a history records besides the calls of transports."""

_PIPED = 120
"""The width if standard output is not a terminal."""


class _Group(click.Group):
    """A group that leaves a KeyboardInterrupt as it is; click prints an empty line and raises an Abort instead."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _InterruptedError from None


class _InterruptedError(Exception):
    """Raised instead of a KeyboardInterrupt, which click would convert."""


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="relevo-conformance")
def group() -> None:
    """Test that a transport keeps the promises of relevo's transport interface."""


def _pairs(ctx: click.Context, param: click.Parameter, value: Sequence[str]) -> Mapping[str, str]:
    pairs = {}
    for text in value:
        name, found, said = text.partition("=")
        if not (found and name):
            raise click.BadParameter(f'"{text}" is not of the form name=value', ctx, param)
        pairs[name] = said
    return pairs


def _promises(ctx: click.Context, param: click.Parameter, value: Sequence[str]) -> Sequence[str]:
    names = [name for text in value for name in text.split(",") if name]
    for name in names:
        if name not in PROMISES:
            raise click.BadParameter(f'there is no promise "{name}"{did_you_mean(name, PROMISES)}', ctx, param)
    if value and not names:
        raise click.BadParameter("expected at least one promise", ctx, param)
    return names


class _Seed(click.ParamType[int]):
    name = "number"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if not (text.isascii() and text.isdecimal()):
            self.fail(f'"{text}" must be a whole number, 0 or more, such as 42', param, ctx)
        return int(text)


def _reports(ctx: click.Context, param: click.Parameter, value: Sequence[str]) -> Sequence[Path]:
    paths = [Path(name) for text in value for name in text.split(",") if name]
    if value and not paths:
        raise click.BadParameter("expected at least one file", ctx, param)
    for path in paths:
        if path.suffix not in report.WRITERS:
            endings = ", ".join(report.WRITERS)
            raise click.BadParameter(f"{path} must end with one of {endings}", ctx, param)
    return paths


_option = click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_pairs,
    help="An option of the harness; repeatable.",
)


@group.command()
@click.argument("kind", metavar="TYPE")
@_option
@click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    default="quick",
    show_default=True,
    envvar=VARIABLE,
    help="How much is tried.",
)
@click.option("--seed", type=_Seed(), help="The seed of the random histories.")
@click.option(
    "--only",
    multiple=True,
    metavar="PROMISE",
    callback=_promises,
    help="Test only this promise, with fewer random histories; repeatable.",
)
@click.option("--no-shrink", is_flag=True, help="Show the first program that breaks a promise, not the shortest.")
@click.option(
    "--report",
    "reports",
    multiple=True,
    metavar="FILE",
    callback=_reports,
    help="Write the card to a .md, .xml (JUnit) or .json file; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the card as JSON.")
@click.option(
    "--histories",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("relevo-conformance"),
    show_default=True,
    help="The folder for the histories that broke a promise.",
)
@click.option(
    "--replay",
    "recorded",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Run the history in this file again, and judge it.",
)
@click.option("--against", metavar="TYPE", help="With --replay: run it on this TYPE instead.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 8),
    help="How many processes run tests. By default 2 where the harness allows it and there are two cores, else 1.",
)
@click.option("--list", "only_list", is_flag=True, help="List the tests, and run none.")
@click.pass_context
def run(
    ctx: click.Context,
    kind: str,
    options: Mapping[str, str],
    profile: str,
    seed: int | None,
    only: Sequence[str],
    no_shrink: bool,  # noqa: FBT001 - click passes all by name
    reports: Sequence[Path],
    as_json: bool,  # noqa: FBT001 - the same
    histories: Path,
    recorded: Path | None,
    against: str | None,
    jobs: int | None,
    only_list: bool,  # noqa: FBT001 - the same
) -> None:
    """
    Run the suite on TYPE and print its report card.

    TYPE is the name of a harness or of a transport, or module:Class of either; `relevo-conformance list` names
    those that are installed. The exit code is 0 for conformant, 1 for a broken promise, 3 if something that is
    promised was not tested, 69 if the server cannot be reached, 74 if standard output cannot be written.
    """
    log = ctx.ensure_object(Log)
    out = _set_aside(log)
    trial = Trial(
        harness=harness_of(kind).with_options(options),
        name=kind,
        profile=profile,
        seed=seed,
        only=only,
        shrink=not no_shrink,
    )
    if only_list:
        _show_tests(trial, out)
        return
    log.at(_OPENING)
    if recorded is not None:
        if as_json or reports:
            raise click.UsageError("--replay makes no card; leave --json and --report out")
        harness = trial.harness if against is None else harness_of(against)
        ctx.exit(_replay(recorded, harness, against or kind, out))
    if against is not None:
        raise click.UsageError("--against needs a history to replay; name one with --replay FILE")
    for path in reports:
        _can_be_written(path.parent, path, "--report")
    _can_be_written(histories, None, "--histories")
    try:
        with trial.companions(jobs, folder=log.folder) as companions, _progress(log) as (progress, found):
            card = trial.run(progress, found, companions)
    except CompanionEndedError as error:
        log.at(error.test or _OPENING)
        _end_as(error.status)
    except CompanionFailedError as error:
        raise HarnessError(trial.harness.__name__, "a process beside the first one", f"failed\n{error}") from None
    problems: list[str] = []
    log.at("the replay of the histories of failures")
    card = _with_commands(
        card,
        kind,
        options,
        histories,
        problems,
        _Again(trial.harness, card.examination.capabilities, shortens=trial.shrink),
    )
    for path in reports:  # before standard output, which may be full
        _write(path, report.WRITERS[path.suffix](card), problems)
    for problem in problems:
        _refuse(problem, EXIT_USAGE)
    if as_json:
        out.write(report.to_json(card))
    else:
        report.to_terminal(card, _console(out))
    out.flush()
    ctx.exit(_CODES[card.verdict] or (EXIT_USAGE if problems else EXIT_CONFORMANT))


@group.command()
@click.argument("recorded", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("kind", metavar="TYPE")
@_option
@click.pass_context
def judge(ctx: click.Context, recorded: Path, kind: str, options: Mapping[str, str]) -> None:
    """
    Judge the history in FILE by the capabilities of TYPE, and run nothing.

    TYPE is opened to read its capabilities.

    A run writes such files; a file may also be a trace of a program in production. The exit code is 0 if no promise
    is broken, 1 if one is, and 3 if the end of an event is not in the file, or no call ends in it.
    """
    out = _set_aside(ctx.ensure_object(Log))
    harness = harness_of(kind).with_options(options)
    records, capabilities = _load(recorded), reach(harness)
    judged = judge_of(harness, capabilities, harness.new_clock()).feed_all(records)
    left = list(judged.unaccounted())
    unknown = _nothing_called(records, recorded)
    if left:
        unknown = f"unknown: of {_number(left, 'event')} the end is not in {recorded.name}"
    code = _report_violations(records, judged.violations, recorded.name, out, left=left, unknown=unknown)
    names = ", ".join(promise.id for promise in not_judged(capabilities))
    _console(out).print(Text(f"not judged, since no history shows them: {names}", style="dim"))
    out.flush()
    ctx.exit(code)


@group.command(name="list")
@click.argument("kind", metavar="[TYPE]", required=False)
@_option
@click.pass_context
def list_(ctx: click.Context, kind: str | None, options: Mapping[str, str]) -> None:
    """List what can be run, or the options, capabilities and promises of TYPE."""
    out = _set_aside(ctx.ensure_object(Log))
    if kind is None:
        _show_kinds(out)
    else:
        _show_kind(harness_of(kind).with_options(options), kind, out)


def main() -> NoReturn:
    """Run the command line and exit; a transport that ends its process does not end this one."""
    _open_what_was_closed()
    # Hypothesis keeps notes in a folder, by default in the working directory. Each run has a seed, so it needs none.
    with tempfile.TemporaryDirectory(prefix="relevo-conformance-", ignore_cleanup_errors=True) as notes:
        set_hypothesis_home_dir(notes)
        end = run_apart(_do, _interrupted, folder=Path(notes))
    code = end.code
    if code is None:
        at = "while it was opened" if end.stage == _OPENING else f"in {end.stage}"
        if end.stage == _LOADING:
            code = _refuse(f"the process ended {end.how} while TYPE was loaded", EXIT_USAGE)
        elif end.is_from_outside:
            code = _refuse(f"the process ended {end.how}, {at}; the transport was not tested", EXIT_UNKNOWN)
        else:
            code = _refuse(f"the process ended {end.how}, {at}; a transport must not end its process", EXIT_BROKEN)
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def _open_what_was_closed() -> None:
    """
    Open closed standard streams on the null device, so that no other file gets their numbers.

    Standard output stays one that cannot be written, and is reported as such.
    """
    for name, number, mode in (("stdout", 1, os.O_RDONLY), ("stderr", 2, os.O_WRONLY)):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, mode)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


def _do(log: Log) -> int:
    """Run the command line, and return the exit code."""
    log.at(_LOADING)
    sys.stdout = _output(1)
    threading.excepthook = _Tracebacks()
    # As with `python -m`: a script finds only installed modules.
    sys.path.insert(0, str(Path.cwd()))
    try:
        code = group.main(prog_name="relevo-conformance", standalone_mode=False, obj=log)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = EXIT_USAGE
    except click.ClickException as error:
        code = _refuse(error.format_message(), EXIT_USAGE)
    except ConfigurationError as error:
        code = _refuse("\n".join([str(error), *getattr(error, "__notes__", ())]), EXIT_USAGE)
    except HarnessError as error:
        code = _refuse(str(error), EXIT_UNKNOWN)
    except ServerMissingError as error:
        code = _refuse(str(error), EXIT_UNAVAILABLE)
    except (_InterruptedError, click.Abort):
        code = _interrupted()
    except _OutputError as error:
        code = _refuse(f"standard output cannot be written: {error}; what the command did is done", EXIT_OUTPUT)
    except (BrokenPipeError, SystemExit):  # the reader has gone; click and rich convert the first to the second
        code = EXIT_UNREAD
    except Exception:  # noqa: BLE001 - whatever it is, it breaks no promise
        traceback.print_exc()
        code = _refuse("the suite or the harness failed; nothing is known of the transport", EXIT_UNKNOWN)
    with suppress(OSError, ValueError):  # a transport closed it
        sys.stderr.flush()
    return code if isinstance(code, int) else 0


def _interrupted() -> int:
    return _refuse(STOPPED, EXIT_INTERRUPTED)


class _OutputError(Exception):
    """Raised when standard output cannot be written, although its reader has not gone."""


class _Output(io.FileIO):
    """A file whose errors are distinguished from those of other files."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _OutputError(error.strerror or str(error)) from error


def _output(number: int) -> TextIO:
    """Return a stream to the file with *number*, which stays open."""
    output = _Output(number, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(output), encoding="utf-8", errors="backslashreplace")


class _Tracebacks:
    """Shows the tracebacks of the first threads that failed, and then only that there are more."""

    def __init__(self) -> None:
        self._shown = 0

    def __call__(self, raised: threading.ExceptHookArgs) -> None:
        self._shown += 1
        if self._shown <= _TRACEBACKS:
            name = raised.thread.name if raised.thread else "a thread"
            click.echo(f"relevo-conformance: {name} failed:", err=True)
            traceback.print_exception(raised.exc_type, raised.exc_value, raised.exc_traceback)
        elif self._shown == _TRACEBACKS + 1:
            click.echo("relevo-conformance: more threads failed; they are not shown", err=True)


def _set_aside(log: Log) -> TextIO:
    """
    Return a private stream to standard output.

    Other output of the transport and of its child processes to standard output is discarded while this process
    lives: a thread that was left behind may print at any time.
    """
    out = _output(os.dup(1))
    log.holds(out)  # it would warn if it were garbage-collected after its reader has gone
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - until the process ends
    return out


def _refuse(text: str, code: int) -> int:
    with suppress(OSError):
        click.echo(f"relevo-conformance: {text}", err=True)
    return code


def _end_as(status: int) -> NoReturn:
    """End this process in the way in which a transport ended a companion, so that the parent reports it."""
    if status < 0:
        with suppress(OSError):  # of SIGKILL, which has no handler
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
        while True:  # it may take effect in another thread, and a moment later
            signal.pause()
    os._exit(status)


def _replay(recorded: Path, harness: type[Harness], kind: str, out: TextIO) -> int:
    """Run a recorded history again, report what it breaks, and return the exit code."""
    before = _load(recorded)
    capabilities = reach(harness)
    records = replay(before, harness)
    then, now = (judge_of(harness, capabilities, harness.new_clock()).feed_all(one) for one in (before, records))
    failed = unreached(records) - unreached(before)
    left, more = list(now.unaccounted()), 0
    if failed > 0:
        unknown = f"unknown: {_number(failed, 'call')} that reached the original store did not reach {kind}"
    elif (more := len(left) - len(list(then.unaccounted()))) > 0:
        unknown = f"unknown: on {kind}, the end of {_number(more, 'more event')} is not known than in the recording"
    else:
        unknown = _nothing_called(before, recorded)
    return _report_violations(records, now.violations, kind, out, left=left if more > 0 else (), unknown=unknown)


def _load(recorded: Path) -> Sequence[Record]:
    try:
        with recorded.open(encoding="utf-8") as lines:
            return load(lines)
    except ValueError as error:
        raise click.UsageError(f"{recorded} is not a recorded history: {error}") from None


def _nothing_called(records: Sequence[Record], recorded: Path) -> str:
    """Return why nothing is judged if no call of a transport ends in *records*; else nothing."""
    begun = {one.op for one in records if isinstance(one, Invoked) and not isinstance(one.call, _CALLS_NOTHING)}
    is_called = any(isinstance(one, Returned) and one.op in begun for one in records)
    return "" if is_called else f"unknown: nothing is judged, since no call ends in {recorded.name}"


def _report_violations(
    records: Sequence[Record],
    violations: Sequence[Violation],
    kind: str,
    out: TextIO,
    *,
    left: Sequence[Unaccounted],
    unknown: str,
) -> int:
    """Report what *records* break, what they have no end of, and why the rest is *unknown*; return the exit code."""
    console = _console(out)
    for record in records:
        if isinstance(record, Invoked) and isinstance(record.call, Remark):
            console.print(Text(f"note  {record.call.text}", style="dim"))
    for violation in violations:
        console.print(Text("FAIL  ", style="bold red") + Text(str(violation)))
    for one in left[:_LISTED]:
        console.print(Text("open  ", style="bold yellow") + Text(str(one)))
    if len(left) > _LISTED:
        console.print(f"      and {_number(left[_LISTED:], 'more event')}")
    if violations:
        verdict, code = f"{len(records)} records on {kind}: {_number(violations, 'violation')}", EXIT_BROKEN
    elif unknown:
        verdict, code = unknown, EXIT_UNKNOWN
    else:
        verdict, code = f"{kind} keeps them", EXIT_CONFORMANT
    console.print(verdict)
    out.flush()
    return code


def _number(counted: Sized | int, word: str) -> str:
    number = counted if isinstance(counted, int) else len(counted)
    return f"{number} {word}" + ("" if number == 1 else "s")


# --- what a failure needs --------------------------------------------------------------------------


class _Again:
    """
    Replays histories until the time limit, and reports which ones break their promise again.

    A history does not if only its scenario can check it, or if it depends on another queue.
    """

    def __init__(self, harness: type[Harness], capabilities: Capabilities, *, shortens: bool = True) -> None:
        self._harness = harness
        self._capabilities = capabilities
        self._deadline = monotonic() + _RUN_AGAIN
        self._shortening = _SHORTEN if shortens else 0.0

    def breaks(self, promise: str, records: Sequence[Record]) -> bool | None:
        """Return whether *records* break *promise* again; ``None`` if there is no time left."""
        if monotonic() >= self._deadline:
            return None
        if promise not in self._broken(records):
            return False
        try:
            again = replay(records, self._harness, deadline=self._deadline)
        except (HarnessError, TimeoutError):
            return None
        return None if monotonic() >= self._deadline else promise in self._broken(again)

    def shortest(self, promise: str, records: Sequence[Record]) -> Sequence[Record]:
        """Return *records* without calls that breaking *promise* does not need, as far as there is time."""
        began = monotonic()
        deadline = began + self._shortening

        def again(calls: Sequence[Record]) -> Sequence[Record] | None:
            try:
                return until_broken(replay(calls, self._harness, deadline=deadline), self._judge(), promise)
            except (HarnessError, TimeoutError):
                return None

        shorter = shorten(records, again, is_over=lambda: monotonic() >= deadline)
        took = monotonic() - began
        self._shortening, self._deadline = self._shortening - took, self._deadline + took
        return shorter

    def violation(self, records: Sequence[Record]) -> str:
        """Return the first violation in *records*."""
        return str(self._judge().feed_all(records).violations[0])

    def _broken(self, records: Sequence[Record]) -> set[str]:
        return {violation.promise for violation in self._judge().feed_all(records).violations}

    def _judge(self) -> Judge:
        return judge_of(self._harness, self._capabilities, self._harness.new_clock())


def _with_commands(
    card: Card, kind: str, options: Mapping[str, str], histories: Path, problems: list[str], again: _Again
) -> Card:
    """Write the histories of the failures, and return *card* with their files and the commands that repeat them."""
    taken: dict[Path, Sequence[Record]] = {}

    def kept(line: Line, failure: Counterexample) -> Counterexample:
        rerun = _command(card, kind, options, "--only", line.promise.id)
        if not failure.history:
            return attrs.evolve(failure, replay=rerun)
        word = "".join(letter if letter.isalnum() else "-" for letter in kind)
        path = histories / f"{word}-{failure.test.removeprefix('test_')}.jsonl"
        replays = again.breaks(line.promise.id, failure.history)
        if replays and failure.shrunk:
            failure = _shortened(failure, line.promise.id, again)
        if taken.setdefault(path, failure.history) is not failure.history:
            path = path.with_stem(f"{path.stem}-{line.promise.id}")
        if not _write(path, "".join(f"{record}\n" for record in dump(failure.history)), problems):
            return attrs.evolve(failure, replay=rerun)
        command = _command(card, kind, options, "--replay", str(path)) if replays else rerun
        return attrs.evolve(failure, written=str(path), replays=replays, replay=command)

    def with_commands(line: Line) -> Line:
        return attrs.evolve(line, failures=[kept(line, one) for one in line.failures])

    command = _command(card, kind, options)
    lines = list(map(with_commands, card.lines))
    return attrs.evolve(card, lines=lines, examination=attrs.evolve(card.examination, command=command))


def _shortened(failure: Counterexample, promise: str, again: _Again) -> Counterexample:
    """Return *failure* with a shorter history, if there is one that breaks *promise* again and again."""
    records = again.shortest(promise, failure.history)
    if records is failure.history or not again.breaks(promise, records):
        return failure
    what = again.violation(records)
    return attrs.evolve(failure, history=records, what=what, program=in_words(records, about=what))


def _can_be_written(folder: Path, file: Path | None, option: str) -> None:
    """Refuse a path that cannot be written before the run takes minutes; the check leaves no files."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        if file is not None and file.exists():
            with file.open("a", encoding="utf-8"):
                pass
    except OSError as error:
        raise click.UsageError(
            f"{option}: {file or folder} cannot be written: {error.strerror}; name another"
        ) from None
    finally:
        for one in made:
            with suppress(OSError):
                one.rmdir()


def _write(path: Path, text: str, problems: list[str]) -> bool:
    """Write *text*, or add the problem to *problems*; the card is shown in either case."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        problems.append(f"{path} cannot be written: {error.strerror}")
        return False
    return True


def _command(card: Card, kind: str, options: Mapping[str, str], *more: str) -> str:
    """Return the command line that repeats the run, without passwords."""
    is_module = Path(sys.argv[0]).name == "__main__.py"
    words = ["python", "-m", "relevo_conformance"] if is_module else ["relevo-conformance"]
    words += ["run", kind]
    for name, value in options.items():
        words += ["--option", f"{name}={masked_url(value) if '://' in value else value}"]
    if "--replay" not in more:
        words += ["--profile", card.examination.profile, "--seed", str(card.examination.seed)]
    words += more
    return shlex.join(words)


# --- what is shown ---------------------------------------------------------------------------------


def _console(stream: TextIO) -> Console:
    return Console(file=stream, highlight=False, width=None if stream.isatty() else _PIPED)


@contextmanager
def _progress(log: Log) -> Iterator[tuple[Progress, Callable[[Finding], None]]]:
    """Report progress to *log* and to a terminal, and each failure on standard error."""
    console = _console(sys.stderr)
    with console.status("opening") if console.is_terminal else nullcontext() as status:

        def show_test(number: int, total: int, test: str) -> None:
            log.at(test)
            if status is not None:
                status.update(f"{number} of {total}  {test}")

        def show_finding(finding: Finding) -> None:
            if finding.status in ("broken", "error"):
                word = "FAIL " if finding.status == "broken" else "error"
                what = " ".join(finding.what.split())
                console.print(Text(f"{word}  {finding.test}  {what}"), no_wrap=True, overflow="ellipsis")

        yield show_test, show_finding


def _show_tests(trial: Trial, out: TextIO) -> None:
    console = _console(out)
    tests = trial.tests()
    for name, promises in tests:
        console.print(Text(name) + Text(f"  {', '.join(sorted(promises)) or 'all promises'}", style="dim"))
    console.print(f"{len(tests)} tests of {len(trial.promises())} promises")
    out.flush()


def _show_kinds(out: TextIO) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("type", "from", ""):
        table.add_column(column)
    for name, point in sorted(known().items()):
        origin = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
        table.add_row(name, origin, "" if point.group == "relevo.harnesses" else "no harness: opened with its options")
    _console(out).print(table)
    out.flush()


def _show_kind(harness: type[Harness], kind: str, out: TextIO) -> None:
    console = _console(out)
    console.print(Text(f"{kind}, driven by {harness.__module__}.{harness.__qualname__}", style="bold"))
    console.print()
    for name, means in harness.takes.items():
        console.print(Text(f"--option {name}=…  {means}"))
    if harness.takes:
        console.print()
    claimed = getattr(harness.transport, "capabilities", None)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("promise", "level", "", "sentence"):
        table.add_column(column, overflow="fold", no_wrap=column != "sentence")
    for promise in PROMISES.values():
        is_claimed = promise.is_made_by(harness.transport) and claimed is not None and promise.claimed(claimed)
        word = "" if claimed is None else ("claimed" if is_claimed else "not claimed")
        table.add_row(promise.id, promise.level, word if promise.level != "core" else "", promise.sentence)
    console.print(table)
    out.flush()
