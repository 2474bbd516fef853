"""What somebody wrote into ``relevo.toml`` and the environment, and where each value comes from."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from relevo._line import KeyPath, lines_of
from relevo.errors import ConfigurationError, did_you_mean

FILE = "relevo.toml"
_PREFIX = "RELEVO_"
_OTHER_VARIABLES = ("RELEVO_CONFIG",)
_MAX_FILE = 1024 * 1024
_LISTS = ("listeners", "plugins")
_BARE = {"transports": "url", "retries": "runs", "signing": "keys"}
"""What a value that could be a table means if it is none."""

_REFERENCE = re.compile(r"\$(?:(\$)|\{([A-Za-z_][A-Za-z0-9_]*)\})?")


@attrs.frozen
class Origin:
    """Where a value was said."""

    place: str
    """A file, a variable, or what there is instead."""

    line: int | None = None
    """Of the file."""

    def __str__(self) -> str:
        return self.place if self.line is None else f"{self.place}:{self.line}"


@attrs.define
class Origins:
    """Where all that was said comes from."""

    default: Origin
    """Where to look for what nobody said."""

    said: dict[KeyPath, Origin] = attrs.field(factory=dict)

    def of(self, *keys: str | int) -> Origin:
        """Return where the value at *keys* was said, or what it is a part of."""
        return self.exactly(*keys) or self.default

    def exactly(self, *keys: str | int) -> Origin | None:
        """Return the same, but ``None`` for what nobody said."""
        for length in range(len(keys), 0, -1):
            if keys[:length] in self.said:
                return self.said[keys[:length]]
        return None

    def overrule(self, keys: KeyPath, origin: Origin) -> None:
        """Note that the value at *keys*, with all inside it, was said anew."""
        for inner in [each for each in self.said if each[: len(keys)] == keys]:
            del self.said[inner]
        self.said[keys] = origin


class Problems:
    """Collects what is wrong, to tell it together, each with its place, in the order of the file."""

    def __init__(self, origins: Origins):
        self._origins = origins
        self._found: list[tuple[Origin, ConfigurationError]] = []
        self._unknown: list[KeyPath] = []

    def __len__(self) -> int:
        return len(self._found)

    @contextmanager
    def at(self, *keys: str | int) -> Iterator[None]:
        """Take the error that the block ends with as one of the value at *keys*."""
        try:
            yield
        except ConfigurationError as error:
            self.add(keys, error)

    def add(self, keys: KeyPath, error: ConfigurationError | str) -> None:
        """Note *error* about the value at *keys*."""
        if not any(keys[: len(each)] == each[: len(keys)] for each in self._unknown):
            made = ConfigurationError(error) if isinstance(error, str) else error
            self._found.append((self._origins.of(*keys), made))

    def unknown(self, keys: KeyPath, *errors: str) -> None:
        """Note why the value at *keys* is not known; what else seems wrong with it, or with the whole, is no news."""
        for error in errors:
            self.add(keys, error)
        self._unknown.append(keys)

    @property
    def complete(self) -> bool:
        """Whether all values are known, so that what one lacks in another is a problem of its own."""
        return not self._unknown

    def raise_any(self) -> None:
        """
        Raise what was found.

        Raises:
            ConfigurationError: Itself if it is the only one, else one that tells them all.
        """
        if not self._found:
            return
        ordered = sorted(self._found, key=lambda each: each[0].line or _MAX_FILE)
        lines = [f"{origin}: {line}" for origin, error in ordered for line in str(error).splitlines()]
        if len(ordered) > 1:
            raise ConfigurationError("\n".join(lines))
        ((_, only),) = ordered
        only.args = ("\n".join(lines),)
        raise only


@attrs.frozen(kw_only=True)
class Written:
    """All that was said, not yet looked at."""

    values: dict[str, Any] = attrs.field(repr=False)
    path: Path | None
    directory: Path
    origins: Origins = attrs.field(repr=False)
    problems: Problems


def written(path: Path | None, environ: Mapping[str, str], *, start: Path, known: Iterable[str]) -> Written:
    """
    Return what a file and the environment say.

    Args:
        path: The file; if unsaid ``RELEVO_CONFIG``, else the nearest from *start* upwards, else none.

        environ: What wins over the file, and what ``${…}`` in the file stands for.

        start: Where the search begins.

        known: Which keys there are, to tell slips from variables that mean something else.

    Raises:
        ConfigurationError: The file cannot be read. What is wrong inside is in the answer's problems.
    """
    named = path or (Path(environ["RELEVO_CONFIG"]) if environ.get("RELEVO_CONFIG") else None)
    try:
        found = (start / named).resolve() if named is not None else find(start.resolve())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the configuration cannot be found: {error}") from error
    directory = found.parent if found is not None else start.resolve()
    if found is None:
        origins = Origins(Origin(f"the environment, since there is no {FILE} in {directory} or above"))
        values: dict[str, Any] = {}
    else:
        text, values = _parsed(found)
        lines = lines_of(text)
        if found.name == "pyproject.toml":
            values = _own_table(found, values) or {}
            lines = {keys[2:]: line for keys, line in lines.items() if keys[:2] == ("tool", "relevo")}
        place = str(found)
        origins = Origins(Origin(place), {keys: Origin(place, line) for keys, line in lines.items() if keys})
    problems = Problems(origins)
    _overlay(values, environ, origins, problems, tuple(known))
    values = {key: _expanded(value, (key,), environ, origins, problems) for key, value in values.items()}
    return Written(values=values, path=found, directory=directory, origins=origins, problems=problems)


# --- the file -----------------------------------------------------------------------------------------


def find(start: Path) -> Path | None:
    """Return the nearest ``relevo.toml``, or ``pyproject.toml`` with ``[tool.relevo]``, from *start* upwards."""
    for folder in [start, *start.parents]:
        own = folder / FILE
        if own.is_file():
            return own
        project = folder / "pyproject.toml"
        if project.is_file() and _own_table(project, _parsed(project)[1]) is not None:
            return project
    return None


def _parsed(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the text of *path*, with its line breaks as TOML counts them, and what it says."""
    try:
        if not path.exists():
            raise ConfigurationError(f"{path} does not exist; give another with --config or RELEVO_CONFIG")
        if not path.is_file():
            kind = "a directory" if path.is_dir() else "no regular file"
            raise ConfigurationError(f"{path} is {kind}, expected a file")
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE + 1)
        if len(raw) > _MAX_FILE:
            raise ConfigurationError(f"{path} is larger than 1 MiB")
        text = raw.decode("utf-8-sig")
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _with_line(path, str(error)) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: {error}; save it as UTF-8") from error
    except RecursionError as error:
        raise ConfigurationError(f"{path}: it is nested too deeply") from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def _with_line(path: Path, why: str) -> ConfigurationError:
    """Return the error for what is no TOML, its line where other errors have it."""
    match = re.fullmatch(r"(.*) \(at line (\d+), (column \d+)\)", why, re.DOTALL)
    return ConfigurationError(f"{path}:{match[2]}: {match[1]} ({match[3]})" if match else f"{path}: {why}")


def _own_table(path: Path, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return ``[tool.relevo]`` of the ``pyproject.toml`` at *path*, or ``None`` if it has none."""
    tools = values.get("tool")
    own = tools.get("relevo") if isinstance(tools, dict) else None
    if own is not None and not isinstance(own, dict):
        raise ConfigurationError(f"{path}: tool.relevo: expected a table, got {type(own).__name__}")
    return own


# --- the environment ----------------------------------------------------------------------------------


def _overlay(
    values: dict[str, Any], environ: Mapping[str, str], origins: Origins, problems: Problems, known: tuple[str, ...]
) -> None:
    """Put into *values* what *environ* says: ``RELEVO_A__B=text``, or TOML if it begins with a brace or bracket."""
    for variable in sorted(environ):
        keys = variable.removeprefix(_PREFIX).lower().split("__")
        if not variable.startswith(_PREFIX) or not environ[variable] or variable in _OTHER_VARIABLES:
            continue
        if keys[0] not in known:
            if meant := _meant(keys[0], known):
                origins.said[variable,] = Origin(variable)
                problems.add((variable,), f'there is no such variable; did you mean "{_PREFIX}{meant}"?')
            continue
        table = values
        path: tuple[str, ...] = ()
        for key in keys[:-1]:
            table, path = _inner(table, (*path, _as_written(key, table)))
        path = (*path, _as_written(keys[-1], table))
        origins.overrule(path, Origin(variable))
        try:
            table[path[-1]] = _value(environ[variable], as_list=keys[0] in _LISTS)
        except tomllib.TOMLDecodeError as error:
            problems.unknown(path, f"it begins like TOML but is none: {error}")
            table.pop(path[-1], None)


def _inner(table: dict[str, Any], path: tuple[str, ...]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the table at the end of *path*, which is in *table*; whatever else is there becomes one."""
    found = table.get(path[-1])
    if not isinstance(found, dict):
        bare = _BARE.get(path[0])
        is_value = found is not None and bare and len(path) == (1 if path[0] == "signing" else 2)
        found = table[path[-1]] = {bare: found} if is_value else {}
    return found, path


def _meant(key: str, known: tuple[str, ...]) -> str | None:
    """Return the variable that somebody may have meant by one that begins with *key*, without the prefix."""
    for each in known:
        if key.startswith(f"{each}_"):
            return f"{each}__{key.removeprefix(f'{each}_')}".upper()
    near = did_you_mean(key, known)
    return near.split('"')[1].upper() if near else None


def _as_written(key: str, table: Mapping[str, Any]) -> str:
    """Return the key of *table* that is *key* but for its case, since variables have none."""
    return next((each for each in table if each.lower() == key), key)


def _value(text: str, *, as_list: bool) -> Any:
    if text.lstrip().startswith(("{", "[")):
        return tomllib.loads(f"value = {text}")["value"]
    return [part.strip() for part in text.split(",") if part.strip()] if as_list else text


def _expanded(value: Any, keys: KeyPath, environ: Mapping[str, str], origins: Origins, problems: Problems) -> Any:
    """Return *value* with what the environment has for each ``${…}`` in the file's texts."""
    if isinstance(value, dict):
        return {key: _expanded(each, (*keys, key), environ, origins, problems) for key, each in value.items()}
    if isinstance(value, list):
        return [_expanded(each, (*keys, place), environ, origins, problems) for place, each in enumerate(value)]
    if not isinstance(value, str) or "$" not in value or origins.of(*keys).line is None:
        return value
    where = ".".join(map(str, keys))
    references = [match.groups() for match in _REFERENCE.finditer(value)]
    unset = [name for _, name in references if name is not None and name not in environ]
    faults = [
        f"{where}: the variable {name} is not set; set it, or write $${{{name}}} if the text itself is meant"
        for name in dict.fromkeys(unset)
    ]
    if (None, None) in references:
        faults.append(f"{where}: a dollar sign that begins no ${{VARIABLE}}; write $$ for the sign itself")
    if faults:
        problems.unknown(keys, *faults)
        return value
    return _REFERENCE.sub(lambda match: "$" if match[1] else environ.get(match[2] or "", ""), value)
