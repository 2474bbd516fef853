"""Problems in supervisor's configuration for workers."""

from __future__ import annotations

import configparser
import glob
import re
from collections.abc import Iterator, Mapping
from hashlib import sha1
from ipaddress import ip_address
from pathlib import Path
from platform import node

from relevo.errors import ConfigurationError

_KNOWN = (
    "",
    "123",
    "1234",
    "12345",
    "123456",
    "admin",
    "changeme",
    "guest",
    "password",
    "root",
    "user",
    "YourPasswordHere",
)
"""Passwords as examples have them; that of supervisor's own is 123, of the user "user"."""

_STOPWAITSECS = 10.0
"""Seconds if nothing is said."""

_OTHERS = 0o007
"""What a mode lets others do."""

_WORKER = re.compile(r"\brelevo\b.*\bworker\b")

Sections = Mapping[str, Mapping[str, str]]


class _NotExpandedError(Exception):
    """Raised for a value with something in it that is known to supervisor alone."""


def examine(path: Path, *, time_limit: float, environ: Mapping[str, str]) -> str:
    """
    Look at the configuration of supervisor at *path* and all that it includes; return what was looked at.

    Args:
        path: The file.

        time_limit: Seconds that the longest listener may take.

        environ: The variables that supervisor will have.

    Raises:
        ConfigurationError: It cannot be read, or something is wrong with it; all faults are told, each in a line.
    """
    outside = {"host_node_name": node(), **{f"ENV_{name}": value for name, value in environ.items()}}
    found = [each for file, sections in _read(path, outside) for each in _faults(file, sections, time_limit, outside)]
    if found:
        raise ConfigurationError("\n".join(found))
    return str(path)


def _read(path: Path, outside: Mapping[str, object]) -> Iterator[tuple[Path, Sections]]:
    sections = _parsed(path)
    yield path, sections
    here = path.absolute().parent
    try:
        included = _all_expanded(sections.get("include", {}), {**outside, "here": here}, "files")
    except _NotExpandedError as error:
        raise ConfigurationError(f"{path}: [include] {error}") from error
    for pattern in included.get("files", "").split():
        for each in sorted(glob.glob(str(path.parent / pattern))):  # noqa: PTH207 - it may be absolute
            yield Path(each), _parsed(Path(each))


def _parsed(path: Path) -> Sections:
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    try:
        parser.read_string(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise ConfigurationError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    return {name: dict(parser[name]) for name in parser.sections()}


def _faults(path: Path, sections: Sections, time_limit: float, outside: Mapping[str, object]) -> Iterator[str]:
    names = {**outside, "here": path.absolute().parent}
    for name, section in sections.items():
        where = f"{path}: [{name}]"
        try:
            # Supervisor takes every section that begins so.
            if name.startswith("inet_http_server"):
                yield from _open_to_strangers(where, _all_expanded(section, names, "port", "username", "password"))
            elif name.startswith("unix_http_server"):
                yield from _open_to_all_users(where, _all_expanded(section, names, "chmod"))
            elif name.startswith("program:") and _WORKER.search(section.get("command", "")):
                yield from _cut_short(where, _all_expanded(section, names, "stopwaitsecs", "stopsignal"), time_limit)
        except _NotExpandedError as error:
            yield f"{where} {error}"


def _all_expanded(section: Mapping[str, str], names: Mapping[str, object], *keys: str) -> Mapping[str, str]:
    """Return what *section* says of *keys*."""
    found = {}
    for key in keys:
        if key in section:
            try:
                found[key] = _expanded(section[key], names)
            except _NotExpandedError as error:
                value = "" if key == "password" else f"={section[key]}"
                raise _NotExpandedError(f"{key}{value}: {error}") from error
    return found


def _expanded(value: str, names: Mapping[str, object]) -> str:
    """Return *value* as supervisor has it, by the formatting of Python as there."""
    try:
        return value % names
    except KeyError as error:
        raise _NotExpandedError(
            f"what {error.args[0]} is cannot be known here; call this with the variables that supervisor has"
        ) from error
    except (TypeError, ValueError) as error:
        raise _NotExpandedError(f"supervisor cannot read it: {error}; write %% for a percent sign") from error


def _open_to_strangers(where: str, section: Mapping[str, str]) -> Iterator[str]:
    """Tell who can reach the port and get in: whoever does may stop workers, read logs, and more if there is a hole."""
    port = section.get("port", "")
    is_open = _is_open(port.rpartition(":")[0].strip())
    if is_open is not False:
        yield (
            f"{where} port={port} {'is' if is_open else 'may be'} open on every address of this host: who reaches it "
            f"can stop the workers and read their logs; take the section out, [unix_http_server] is enough"
        )
    password = section.get("password", "")
    if section.get("username") == "":  # supervisor asks for nothing then
        password = ""
    if _is_known(password):
        how = "the password is one that everybody knows" if password else "there is no password"
        yield f"{where} {how}; take the section out, or give it a password of its own: openssl rand -hex 32"


def _is_open(host: str) -> bool | None:
    """Return whether *host* is every address; ``None`` for a name, or what the system may read as an address."""
    if host in ("", "*"):
        return True
    try:
        return ip_address(host.removeprefix("[").removesuffix("]")).is_unspecified
    except ValueError:
        return False if host.lower() == "localhost" else None


def _is_known(password: str) -> bool:
    if password.startswith("{SHA}"):
        hashes = {sha1(each.encode()).hexdigest() for each in _KNOWN}  # noqa: S324 - supervisor's own form
        return password.removeprefix("{SHA}").lower() in hashes
    return password in _KNOWN


def _open_to_all_users(where: str, section: Mapping[str, str]) -> Iterator[str]:
    mode = section.get("chmod", "0700")
    try:
        is_closed = not int(mode, 8) & _OTHERS
    except ValueError:
        is_closed = False
    if not is_closed:
        yield f"{where} chmod={mode}: everybody on this host may open the socket; write chmod=0700"


def _cut_short(where: str, section: Mapping[str, str], time_limit: float) -> Iterator[str]:
    """Tell what ends a worker in the middle of an event."""
    patience = section.get("stopwaitsecs", f"{_STOPWAITSECS:g}")
    if not patience.strip().isdecimal() or float(patience) <= time_limit:
        yield (
            f"{where} stopwaitsecs={patience}: a worker is killed before a listener has used up its time limit of "
            f"{time_limit:g} s; write stopwaitsecs={time_limit + 30:.0f}"
        )
    if (found := section.get("stopsignal", "TERM").upper()) not in ("TERM", "INT"):
        yield f"{where} stopsignal={found} does not let a worker finish what it does; write stopsignal=TERM"
