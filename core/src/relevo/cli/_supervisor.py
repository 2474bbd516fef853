"""Problems in supervisor's configuration for workers."""

from __future__ import annotations

import configparser
import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha1
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from platform import node

from relevo._clock import seconds
from relevo._file import regular_bytes
from relevo._problem import with_lines
from relevo._server import WELL_KNOWN, is_loopback, is_well_known
from relevo._visible import visible
from relevo.cli._output import shortened
from relevo.errors import ConfigurationError

_STOPWAITSECS = 10.0
"""Supervisor's default in seconds."""

_START = {"startsecs": "1", "startretries": "3"}
"""How supervisor finds out that a program cannot be started, with its defaults."""

_LIMIT = re.compile(r"(--max-events|--max-memory|--max-time)[=\s]\s*(\S+)")
"""The options of a worker that may end it soon after its start."""

_TRANSPORT = re.compile(r"(?:^|\s)(?:-t|--transport\b|(?:-q|--queue)[=\s]*[^\s/=]+/)")
"""The options of a worker that choose its transport."""

_OTHERS = 0o007
"""The bits of a mode that are for other users."""

_MOST_FILES = 200
_MAX_FILE = 256 * 1024
"""Bytes; larger than any configuration, and small enough for a parser that takes quadratic time for a long line."""

_LONGEST_LINE = 10_000
_LONGEST_VALUE = 80
"""The largest number of characters of a value that are shown."""

_WIDE = re.compile(r"%\([^)]*\)[-+ #0.\d]*\d{4}")
"""A placeholder with a width of thousands, which could fill the memory."""

Sections = Mapping[str, Mapping[str, str]]


class _NotExpandedError(Exception):
    """Raised for a value that only supervisor can expand."""


def examine(path: Path, *, time_limit: float, environ: Mapping[str, str], transports: Sequence[str] = ()) -> str:
    """
    Check the configuration of supervisor at *path* and the files that it includes; return the path.

    Args:
        path: The file.

        time_limit: The longest time limit of a listener in seconds.

        environ: The environment variables that supervisor will have.

        transports: The names of the transports among which a worker chooses.

    Raises:
        ConfigurationError: It cannot be read, or has problems; reports all of them, each in a line.
    """
    outside = {"host_node_name": node(), **{f"ENV_{name}": value for name, value in environ.items()}}
    found: list[str] = []
    for file, sections in _read(path, outside):
        found += _faults(file, sections, time_limit, outside)
        found += _undecided(file, sections, transports)
    if found:
        raise with_lines(ConfigurationError(), found)
    return str(path)


def _read(path: Path, outside: Mapping[str, object]) -> Iterator[tuple[Path, Sections]]:
    sections = _parse(path)
    yield path, sections
    here = path.absolute().parent
    try:
        included = _all_expanded(sections.get("include", {}), {**outside, "here": here}, "files")
    except _NotExpandedError as error:
        raise ConfigurationError(f"{path}: [include] {error}") from error
    left = _MOST_FILES
    for pattern in included.get("files", "").split():
        names = list(islice(glob.iglob(str(here / pattern)), left + 1))  # noqa: PTH207 - it may be absolute
        left -= len(names)
        if left < 0:
            raise ConfigurationError(f"{path}: [include] files: expected at most {_MOST_FILES} files; got more")
        for each in sorted(names):
            yield Path(each), _parse(Path(each))


def _parse(path: Path) -> Sections:
    """
    Return the sections of the file at *path*.

    A configuration may include any file. An error says what is wrong with it and in which line, and quotes nothing: if
    the file is another user's, its content may be secret.
    """
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    try:
        text = regular_bytes(path, most=_MAX_FILE).decode()
        for number, line in enumerate(text.split("\n"), 1):
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


def _faults(path: Path, sections: Sections, time_limit: float, outside: Mapping[str, object]) -> Iterator[str]:
    names = {**outside, "here": path.absolute().parent}
    for name, section in sections.items():
        where = f"{path}: [{_brief(name)}]"
        try:
            # Supervisor matches sections by these prefixes.
            if name.startswith("inet_http_server"):
                yield from _open_to_network(where, _all_expanded(section, names, "port", "username", "password"))
            elif name.startswith("unix_http_server"):
                yield from _open_to_all_users(where, _all_expanded(section, names, "chmod"))
            elif name.startswith("program:") and _runs_worker(section.get("command", "")):
                yield from _killed_early(where, _all_expanded(section, names, "stopwaitsecs", "stopsignal"), time_limit)
                yield from _given_up(where, section["command"], _all_expanded(section, names, *_START))
        except _NotExpandedError as error:
            yield f"{where} {error}"


def _undecided(path: Path, sections: Sections, transports: Sequence[str]) -> Iterator[str]:
    """Yield the commands of workers that do not say which of several *transports* they serve."""
    for name, section in sections.items() if len(transports) > 1 else ():
        command = section.get("command", "")
        if name.startswith("program:") and _runs_worker(command) and not _TRANSPORT.search(command):
            yield (
                f"{path}: [{_brief(name)}] command: a worker serves one transport, and there are several "
                f"({', '.join(transports)}); write a section for each, with -t {transports[0]} and so on"
            )


def _runs_worker(command: str) -> bool:
    """Return whether *command* runs ``relevo worker``; a single expression would take quadratic time."""
    for line in command.split("\n"):
        relevo = re.search(r"\brelevo\b", line)
        if relevo and re.search(r"\bworker\b", line[relevo.end() :]):
            return True
    return False


def _brief(value: str) -> str:
    return visible(shortened(value, _LONGEST_VALUE))


def _all_expanded(section: Mapping[str, str], names: Mapping[str, object], *keys: str) -> Mapping[str, str]:
    """Return the values of *keys* in *section*, expanded."""
    found = {}
    for key in keys:
        if key in section:
            try:
                found[key] = _expanded(section[key], names)
            except _NotExpandedError as error:
                value = "" if key == "password" else f"={_brief(section[key])}"
                raise _NotExpandedError(f"{key}{value}: {error}") from error
    return found


def _expanded(value: str, names: Mapping[str, object]) -> str:
    """Return *value* expanded as supervisor does it, with Python's formatting."""
    if _WIDE.search(value):
        raise _NotExpandedError("a placeholder is wider than 999 characters; write %% for a percent sign")
    try:
        return value % names
    except KeyError as error:
        raise _NotExpandedError(
            f"{error.args[0]} is not defined here; run this with the environment variables that supervisor has"
        ) from error
    except (TypeError, ValueError) as error:
        raise _NotExpandedError(f"supervisor cannot read it: {error}; write %% for a percent sign") from error


def _open_to_network(where: str, section: Mapping[str, str]) -> Iterator[str]:
    """Yield the problems of a port that others can reach: it allows to stop workers and read logs, maybe more."""
    port = section.get("port", "")
    is_open = _is_open(port.rpartition(":")[0].strip())
    if is_open is not False:
        yield (
            f"{where} port={_brief(port)} {'is' if is_open else 'may be'} open on every address of this host: every "
            f"client can stop the workers and read their logs; remove the section, [unix_http_server] is enough"
        )
    password = section.get("password", "")
    if section.get("username") == "":  # supervisor does not ask for a password then
        password = ""  # nosec B105  # what supervisor then expects
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
        hashes = {sha1(each.encode()).hexdigest() for each in WELL_KNOWN}  # noqa: S324 - supervisor's own form  # nosec B324
        return password.removeprefix("{SHA}").lower() in hashes
    return is_well_known(password)


def _open_to_all_users(where: str, section: Mapping[str, str]) -> Iterator[str]:
    mode = section.get("chmod", "0700")
    try:
        is_closed = not int(mode, 8) & _OTHERS
    except ValueError:
        is_closed = False
    if not is_closed:
        yield f"{where} chmod={_brief(mode)}: every user of this host can open the socket; write chmod=0700"


def _killed_early(where: str, section: Mapping[str, str], time_limit: float) -> Iterator[str]:
    """Yield the settings that kill a worker in the middle of an event."""
    patience = section.get("stopwaitsecs", f"{_STOPWAITSECS:g}")
    if not patience.strip().isdecimal() or float(patience) <= time_limit:
        yield (
            f"{where} stopwaitsecs={_brief(patience)}: a worker is killed before a listener reaches its time limit of "
            f"{time_limit:g} s; write stopwaitsecs={time_limit + 30:.0f}"
        )
    if (found := section.get("stopsignal", "TERM").upper()) not in ("TERM", "INT"):
        yield f"{where} stopsignal={_brief(found)} does not let a worker finish its work; write stopsignal=TERM"


def _given_up(where: str, command: str, section: Mapping[str, str]) -> Iterator[str]:
    """Yield the settings by which supervisor takes a worker that reached a limit for one that cannot be started."""
    lives, retries = (section.get(key, default).strip() for key, default in _START.items())
    if not lives.isdecimal() or not int(lives):  # supervisor refuses the first
        return
    for option, value in _LIMIT.findall(command):
        if option != "--max-time" or _is_within(value, int(lives)):
            yield (
                f"{where} startsecs={_brief(lives)}: a worker that {option} ends earlier counts as not started, so "
                f"supervisor waits longer each time, and gives up after startretries={_brief(retries)}; write "
                f"startsecs=0"
            )
            return


def _is_within(duration: str, most: float) -> bool:
    """Return whether *duration*, as on the command line, is at most *most* seconds; an invalid one is not."""
    try:
        return seconds(float(duration) if duration.isdecimal() else duration, what="") <= most
    except ConfigurationError:
        return False
