"""Problems in supervisor's configuration for workers."""

from __future__ import annotations

import configparser
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha1
from ipaddress import ip_address
from itertools import chain, islice
from pathlib import Path
from platform import node

import attrs

from relevo._clock import seconds
from relevo._file import regular_bytes
from relevo._problem import MAX_PROBLEMS, with_lines
from relevo._server import WELL_KNOWN, is_loopback, is_well_known
from relevo._size import size
from relevo._visible import visible
from relevo._worker.run import SMALLEST
from relevo.cli._output import shortened
from relevo.cli._wildcard import Search, TooFarError
from relevo.errors import ConfigurationError

_STOPWAITSECS = 10.0
"""Supervisor's default in seconds."""

_START = {"startsecs": "1", "startretries": "3"}
"""How supervisor finds out that a program cannot be started, with its defaults."""

_LIMIT = re.compile(r"(--max-events|--max-memory|--max-time)[=\s]\s*(\S+)")
"""The options of a worker that may end it soon after its start."""

_MAX_FAILURES = re.compile(r"--max-failures[=\s]")

_FEW_RETRIES = 1_000
"""Supervisor waits a second longer before each retry, so that this many take almost six days."""

_MANY_RETRIES = 1_000_000
"""As in the section that ``relevo unit supervisor`` prints."""

_TRANSPORT = re.compile(r"(?:^|\s)(?:-t|--transport\b|(?:-q|--queue)[=\s]*[^\s/=]+/)")
"""The options of a worker that choose its transport."""

_OTHERS = 0o007
"""The bits of a mode that are for other users."""

_MOST_FILES = 200
_MOST_NAMES = 10_000
"""The largest number of names that are looked at for the patterns of included files."""

_MAX_FILE = 256 * 1024
"""Bytes; larger than any configuration, and small enough for a parser that takes quadratic time for a long line."""

_MOST_BYTES = 1024 * 1024
"""Of all files together, which takes the parser seconds."""

_LONGEST_LINE = 10_000
_MOST_LINES = 20_000
"""The parser takes a square of the number of invalid lines."""

_LONGEST_VALUE = 80
"""The largest number of characters of a value that are shown."""

_LONGEST_PATH = 4096

_LONGEST_NUMBER = 20
"""Digits; Python takes long for thousands of them, or refuses them."""

_PLACEHOLDER = re.compile(r"%%|%\([^()%]{1,200}+\)[-+ #0]*+[0-9]{0,3}+(?:\.[0-9]{0,3}+)?[A-Za-z]")
"""
A percent sign that Python's formatting may be given.

A width of many digits would fill the memory, and a placeholder without a name stands for all names and values.
"""

_MOST_PLACEHOLDERS = 100
"""In one value; each may stand for an environment variable of any size."""

Sections = Mapping[str, Mapping[str, str]]


@attrs.frozen
class _Value:
    """A value of a section."""

    written: str
    """As it is in the file."""

    meant: str = attrs.field(repr=False)
    """As supervisor expands it, perhaps to a secret of the environment: it is judged, and never shown."""

    def __str__(self) -> str:
        return _brief(self.written)

    @classmethod
    def default(cls, value: str) -> _Value:
        """Return *value*, which supervisor takes if a section has none."""
        return cls(value, value)


_NOTHING = _Value.default("")


class _NotExpandedError(Exception):
    """Raised for a value that only supervisor can expand."""


def examine(
    path: Path,
    *,
    time_limit: float,
    environ: Mapping[str, str],
    transports: Sequence[str] = (),
    fault: Callable[[Mapping[str, str]], str] = lambda _: "",
    is_other: Callable[[Mapping[str, str]], bool] = lambda _: False,
) -> str:
    """
    Check the configuration of supervisor at *path* and the files that it includes; return the path.

    Args:
        path: The file.

        time_limit: The longest time limit of a listener in seconds.

        environ: The environment variables that supervisor will have.

        transports: The names of the transports among which a worker chooses.

        fault: Takes the section of a program, and returns what is wrong with its relevo command.

        is_other: Takes the section of a program, and returns whether it is of another application, which has listeners
            and transports of its own.

    Raises:
        ConfigurationError: It cannot be read, or has problems; reports all of them, each in a line.
    """
    outside = _outside(environ)
    files = list(_read(path, outside))
    variables = [sections.get("supervisord", {}).get("environment", "") for _, sections in files]
    shared = next((name for name in ("RELEVO_CONFIG", "RELEVO_") if any(name in each for each in variables)), "")
    faults = (
        each
        for file, written in files
        for sections in [_started(file, written, shared, outside)]
        for each in chain(
            _faults(file, sections, lambda section: None if is_other(section) else time_limit, outside, fault),
            _undecided(file, sections, transports, is_other),
        )
    )
    found = list(islice(faults, MAX_PROBLEMS + 1))
    if len(found) > MAX_PROBLEMS:
        found[-1] = f"only the first {MAX_PROBLEMS} problems are shown; fix them, and check again"
    if found:
        raise with_lines(ConfigurationError(), found)
    return str(path)


def has_worker(path: Path, *, environ: Mapping[str, str]) -> bool:
    """
    Return whether a program in the configuration at *path*, or in a file that it includes, is a relevo worker.

    Raises:
        ConfigurationError: It cannot be read.
    """
    return any(
        name.startswith("program:") and _runs_worker(section.get("command", ""))
        for _, sections in _read(path, _outside(environ))
        for name, section in sections.items()
    )


def _outside(environ: Mapping[str, str]) -> Mapping[str, object]:
    return {"host_node_name": node(), **{f"ENV_{name}": value for name, value in environ.items()}}


def _read(path: Path, outside: Mapping[str, object]) -> Iterator[tuple[Path, Sections]]:
    content = regular_bytes(path, most=_MAX_FILE)
    sections, left = _parse(path, content), _MOST_BYTES - len(content)
    yield path, sections
    try:
        included = _included(sections.get("include", {}), path.absolute().parent, outside)
    except _NotExpandedError as error:
        raise ConfigurationError(f"{path}: [include] {error}") from error
    for each in included:
        content = regular_bytes(each, most=_MAX_FILE)
        left -= len(content)
        if left < 0:  # perhaps one file by many paths
            raise ConfigurationError(f"{path}: [include] files: expected at most {_MOST_BYTES >> 20} MiB; got more")
        yield each, _parse(each, content)


def _included(section: Mapping[str, str], here: Path, outside: Mapping[str, object]) -> Sequence[Path]:
    """Return the files that the *section* includes, in supervisor's order."""
    values = _all_expanded(section, {**outside, "here": here}, "files")
    files, search = values.get("files", _NOTHING), Search(_MOST_NAMES)
    found: list[Path] = []
    for pattern in files.meant.split():
        try:
            found += search.paths(here / pattern)
        except TooFarError as error:
            raise _NotExpandedError(f"files={files}: {error}; name the folders") from error
        if len(found) > _MOST_FILES:
            raise _NotExpandedError(f"files: expected at most {_MOST_FILES} files; got more")
    return found


def _parse(path: Path, content: bytes) -> Sections:
    """
    Return the sections of the file at *path*, which has *content*.

    A configuration may include any file. An error says what is wrong with it and in which line, and quotes nothing: if
    the file is another user's, its content may be secret.
    """
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    try:
        text = content.decode()
        for number, line in enumerate(text.split("\n"), 1):
            if number > _MOST_LINES:
                raise _invalid(path, number, f"expected at most {_MOST_LINES} lines")
            if len(line) > _LONGEST_LINE:
                raise _invalid(path, number, f"expected at most {_LONGEST_LINE} characters; got {len(line)}")
        parser.read_string(text, str(path))
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not a configuration of supervisor: it is not UTF-8 text") from error
    except configparser.MissingSectionHeaderError as error:
        raise _invalid(path, error.lineno, "expected a section, as in [program:shop]") from None
    except configparser.ParsingError as error:
        raise _invalid(path, error.errors[0][0], "expected key=value") from None
    except configparser.Error:
        raise ConfigurationError(f"{path} is not a configuration of supervisor") from None
    return {name: dict(parser[name]) for name in parser.sections()}


def _invalid(path: Path, line: int, why: str) -> ConfigurationError:
    return ConfigurationError(f"{path} is not a configuration of supervisor: line {line}: {why}")


def _started(path: Path, sections: Sections, shared: str, outside: Mapping[str, object]) -> Sections:
    """Return *sections* with the *shared* variables in each program, and with its folder as supervisor expands it."""
    names = {**outside, "here": path.absolute().parent}
    found = dict(sections)
    for name, section in sections.items():
        if name.startswith("program:"):
            expanded: Mapping[str, _Value] = {}
            with suppress(_NotExpandedError):
                expanded = _all_expanded(section, names, "directory")
            folder = {key: each.meant for key, each in expanded.items() if len(each.meant) <= _LONGEST_PATH}
            found[name] = {**section, "environment": f"{shared},{section.get('environment', '')}", **folder}
    return found


def _faults(
    path: Path,
    sections: Sections,
    limit: Callable[[Mapping[str, str]], float | None],
    outside: Mapping[str, object],
    fault: Callable[[Mapping[str, str]], str],
) -> Iterator[str]:
    names = {**outside, "here": path.absolute().parent}
    for name, section in sections.items():
        where = f"{path}: [{_brief(name)}]"
        try:
            # Supervisor matches sections by these prefixes.
            if name.startswith("inet_http_server"):
                yield from _open_to_network(where, _all_expanded(section, names, "port", "username", "password"))
            elif name.startswith("unix_http_server"):
                yield from _open_to_all_users(where, _all_expanded(section, names, "chmod"))
            elif name.startswith("program:"):
                yield from _of_program(where, section, names, limit(section), fault(section))
        except _NotExpandedError as error:
            yield f"{where} {error}"


def _of_program(
    where: str, section: Mapping[str, str], names: Mapping[str, object], time_limit: float | None, fault: str
) -> Iterator[str]:
    """Yield the *fault* of the program's command, and what is wrong with the *section* of a worker."""
    if fault:
        yield f"{where} command: {visible(fault)}"
    if _runs_worker(section.get("command", "")):
        yield from _killed_early(where, _all_expanded(section, names, "stopwaitsecs", "stopsignal"), time_limit)
        yield from _given_up(where, section["command"], _all_expanded(section, names, *_START))
        yield from _too_little(where, section["command"]) if not fault else ()


def _undecided(
    path: Path, sections: Sections, transports: Sequence[str], is_other: Callable[[Mapping[str, str]], bool]
) -> Iterator[str]:
    """Yield the commands of workers that do not say which of several *transports* they serve."""
    for name, section in sections.items() if len(transports) > 1 else ():
        command = section.get("command", "")
        is_worker = name.startswith("program:") and _runs_worker(command)
        if is_worker and not _TRANSPORT.search(command) and not is_other(section):
            yield (
                f"{path}: [{_brief(name)}] command: a worker serves one transport, and there are several "
                f"({', '.join(transports)}); write a section for each, with -t {transports[0]} and so on"
            )


def _runs_worker(command: str) -> bool:
    """
    Return whether *command* runs ``relevo worker``, perhaps in a shell, with options before the word ``worker``.

    A program of another name may also have both words, as in ``setuidgid relevo celery worker``.
    """
    is_next, before = False, ""
    for each in command.split():
        word = each.strip("\"'();&|")
        if is_next and word == "worker":
            return True
        is_option = word.startswith(("-", "%(", "$")) or before.startswith("-")
        is_next = word.rpartition("/")[2] == "relevo" or (is_next and is_option)
        before = word
    return False


def _brief(value: str) -> str:
    return visible(shortened(value, _LONGEST_VALUE))


def _all_expanded(section: Mapping[str, str], names: Mapping[str, object], *keys: str) -> Mapping[str, _Value]:
    """Return the values of *keys* in *section*."""
    found = {}
    for key in keys:
        if key in section:
            try:
                found[key] = _Value(section[key], _expanded(section[key], names))
            except _NotExpandedError as error:
                value = "" if key == "password" else f"={_brief(section[key])}"
                raise _NotExpandedError(f"{key}{value}: {error}") from error
    return found


def _expanded(value: str, names: Mapping[str, object]) -> str:
    """Return *value* expanded as supervisor does it, with Python's formatting."""
    rest, number = _PLACEHOLDER.subn("", value)
    if "%" in rest:
        raise _NotExpandedError(
            "a percent sign is neither %% nor a short placeholder with a name, as in %(ENV_PORT)s; write %% for the "
            "sign itself"
        )
    if number > _MOST_PLACEHOLDERS:
        raise _NotExpandedError(f"expected at most {_MOST_PLACEHOLDERS} placeholders; got {number}")
    try:
        return value % names
    except KeyError as error:
        raise _NotExpandedError(
            f"{_brief(error.args[0])} is not defined here; run this with the environment variables that supervisor has"
        ) from error
    except (TypeError, ValueError):  # its text tells the length of a value
        raise _NotExpandedError(
            "supervisor cannot read it: a placeholder does not end as %(ENV_PORT)s does; write %% for a percent sign"
        ) from None


def _open_to_network(where: str, section: Mapping[str, _Value]) -> Iterator[str]:
    """Yield the problems of a port that others can reach: it allows to stop workers and read logs, maybe more."""
    port = section.get("port", _NOTHING)
    is_open = _is_open(port.meant.rpartition(":")[0].strip())
    if is_open is not False:
        yield (
            f"{where} port={port} {'is' if is_open else 'may be'} open on every address of this host: every "
            f"client can stop the workers and read their logs; remove the section, [unix_http_server] is enough"
        )
    password = section.get("password", _NOTHING).meant
    if "username" in section and not section["username"].meant:  # supervisor does not ask for a password then
        password = ""
    if _is_known(password):
        how = "the password is a well-known example" if password else "there is no password"
        yield f"{where} {how}; remove the section, or set a random password: openssl rand -hex 32"


def _is_open(host: str) -> bool | None:
    """Return whether *host* means every address; ``None`` for a name, or text that may be read as an address."""
    if host in ("", "*"):
        return True
    try:
        return ip_address(host.removeprefix("[").removesuffix("]")).is_unspecified
    except ValueError:
        return False if is_loopback(host) else None


def _is_known(password: str) -> bool:
    if password.startswith("{SHA}"):
        hashes = {sha1(each.encode()).hexdigest() for each in WELL_KNOWN}  # noqa: S324 - supervisor's own form
        return password.removeprefix("{SHA}").lower() in hashes
    return is_well_known(password)


def _open_to_all_users(where: str, section: Mapping[str, _Value]) -> Iterator[str]:
    mode = section.get("chmod", _Value.default("0700"))
    try:
        is_closed = not int(mode.meant, 8) & _OTHERS
    except ValueError:
        is_closed = False
    if not is_closed:
        yield f"{where} chmod={mode}: every user of this host can open the socket; write chmod=0700"


def _killed_early(where: str, section: Mapping[str, _Value], time_limit: float | None) -> Iterator[str]:
    """Yield the settings that kill a worker in the middle of an event; the *time_limit* may be unknown."""
    patience = section.get("stopwaitsecs", _Value.default(f"{_STOPWAITSECS:g}"))
    number = _whole(patience.meant)
    if time_limit is not None and (number is None or number <= time_limit):
        yield (
            f"{where} stopwaitsecs={patience}: a worker is killed before a listener reaches its time limit of "
            f"{time_limit:g} s; write stopwaitsecs={time_limit + 30:.0f}"
        )
    signal = section.get("stopsignal", _Value.default("TERM"))
    if signal.meant.upper() not in ("TERM", "INT"):
        yield f"{where} stopsignal={signal} does not let a worker finish its work; write stopsignal=TERM"


def _given_up(where: str, command: str, section: Mapping[str, _Value]) -> Iterator[str]:
    """Yield the settings by which supervisor takes a worker that reached a limit for one that cannot be started."""
    lives, retries = (section.get(key, _Value.default(default)) for key, default in _START.items())
    seconds_to_live, number = _whole(lives.meant), _whole(retries.meant)
    if not seconds_to_live:  # supervisor refuses anything but a number
        return
    for option, value in _LIMIT.findall(command):
        if option != "--max-time" or _is_within(value, seconds_to_live):
            yield (
                f"{where} startsecs={lives}: a worker that {option} ends earlier counts as not started, so "
                f"supervisor waits longer each time, and gives up after startretries={retries}; write startsecs=0"
            )
            return
    if _MAX_FAILURES.search(command) and number is not None and number < _FEW_RETRIES:
        yield (
            f"{where} startretries={retries}: while listeners fail, --max-failures ends a worker before "
            f"startsecs={lives}, so supervisor gives up after that many retries, and events wait until it is started "
            f"by hand; write startretries={_MANY_RETRIES}"
        )


def _too_little(where: str, command: str) -> Iterator[str]:
    """Yield a limit of the memory that *command* refuses."""
    for option, value in _LIMIT.findall(command):
        if option == "--max-memory" and "%" not in value:  # supervisor expands it
            try:
                size(value, what=option, least=SMALLEST)
            except ConfigurationError as error:
                yield f"{where} {visible(str(error))}"


def _whole(text: str) -> int | None:
    """Return the number in *text*, or its first digits if there are very many; ``None`` if it is not a whole number."""
    digits = text.strip()
    return int(digits[:_LONGEST_NUMBER]) if digits.isdecimal() else None


def _is_within(duration: str, most: float) -> bool:
    """Return whether *duration*, as on the command line, is at most *most* seconds; an invalid one is not."""
    try:
        return seconds(float(duration) if duration.isdecimal() else duration, what="") <= most
    except ConfigurationError:
        return False
