"""Raw configuration: ``relevo.toml`` and the environment, before validation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Any

import attrs
import msgspec

from relevo._config.bounded_toml import MAX_DEPTH, TomlError, check_number, loads
from relevo._config.schema import Settings
from relevo._config.table import Key, as_table, keys_of, wrong_type
from relevo._config.toml_line import lines_of
from relevo._config.trust import check_trusted
from relevo._file import MAX_FILE, kind_of, regular_bytes
from relevo._problem import KeyPath, Origin, Origins, Problems, dotted
from relevo._secret import without_secrets
from relevo._visible import visible
from relevo.errors import ConfigurationError, did_you_mean, is_text

FILE = "relevo.toml"
_PREFIX = "RELEVO_"
_OTHER_VARIABLES = ("RELEVO_CONFIG",)
_LARGEST_PROJECT = 16 * MAX_FILE
"""Bytes of a ``pyproject.toml`` that is searched for a table of relevo's."""

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_LONGEST_KEY = 200
"""Characters of a line that may be shown as a key."""

_MOST_VARIABLES = 1000
_LISTS = (["listeners"], ["plugins"])
_TOML = ("{", "[")
"""How the value of a variable begins that is TOML instead of text."""

_ONE = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_KEY = re.compile(rf"\s*(\[+ *{_ONE}(?: *\. *{_ONE})* *\]+|{_ONE}(?: *\. *{_ONE})*(?= *=(?!=) *\S))")
"""The key on a line of TOML, or the header of a table; never a value, which may be a secret in Base64."""

_TWICE = ("Cannot overwrite", "Cannot declare")
"""How the error of tomllib begins if a key or a table is a duplicate."""

_VALUES = {"Invalid value": '; expected "text" in quotes, a number, true, false, [a list] or {a table}'}
"""What is valid instead, by an error of tomllib that does not say it."""

_OF_SYMFONY = re.compile(r"%env\((?:\w+:)*(\w+)\)%")
"""A reference to a variable in a configuration of Symfony, perhaps with processors, as in ``%env(resolve:DSN)%``."""

_REFERENCE = re.compile(r"\$(?:(\$)|\{([A-Za-z_][A-Za-z0-9_]*)\})?")


@attrs.frozen(kw_only=True)
class RawConfig:
    """What the file and the environment have, before validation."""

    values: dict[str, Any] = attrs.field(repr=False)
    path: Path | None
    is_found: bool
    directory: Path
    origins: Origins = attrs.field(repr=False)
    problems: Problems


def read_raw(path: Path | None, environ: Mapping[str, str], *, start: Path) -> RawConfig:
    """
    Return what a file and the environment contain.

    Args:
        path: The file; by default ``RELEVO_CONFIG``, else the nearest from *start* upwards, else none.

        environ: The variables that override the file, and the values of ``${…}`` in the file.

        start: Where the search begins.

    Raises:
        ConfigurationError: The file cannot be read. Problems inside it are in the result's ``problems``.
    """
    named = path or (Path(environ["RELEVO_CONFIG"]) if environ.get("RELEVO_CONFIG") else None)
    if named is not None and (safe := without_secrets(str(named))) != str(named):
        raise ConfigurationError(f"the configuration: expected a path; got an address with a password, {safe}")
    try:
        found = _as_said(start / named) if named is not None else find(start.resolve())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the configuration cannot be found: {error}") from error
    directory = found.parent if found is not None else start.resolve()
    if found is None:
        origins = Origins(Origin(f"the environment, since there is no {FILE} in {directory} or above"))
        values: dict[str, Any] = {}
    else:
        text, values = _parse(found)
        if is_project := found.name == "pyproject.toml":
            values = _own_table(found, values) or {}
        try:
            check_number(values)
        except TomlError as error:
            raise ConfigurationError(f"{found}: {error}") from None
        lines = lines_of(text)
        if is_project:
            lines = {keys[2:]: line for keys, line in lines.items() if keys[:2] == ("tool", "relevo")}
        place = str(found)
        origins = Origins(Origin(place), {keys: Origin(place, line) for keys, line in lines.items() if keys})
    problems = Problems()
    _overlay(values, environ, origins, problems)
    values = {key: _expanded(value, (key,), environ, origins, problems) for key, value in values.items()}
    for number, name in enumerate(_replace_list(values, "plugins")):
        if isinstance(name, str):
            origins.note(("plugins", name), origins.of("plugins", number))
        else:
            problems.add(
                ("plugins", number),
                wrong_type(f"plugins.{number}", f"Expected `str`, got `{type(name).__name__}`", "mail"),
            )
    return RawConfig(
        values=values,
        path=found,
        is_found=found is not None and named is None,
        directory=directory,
        origins=origins,
        problems=problems,
    )


# --- the file -----------------------------------------------------------------------------------------


def find(start: Path) -> Path | None:
    """
    Return the nearest ``relevo.toml``, or ``pyproject.toml`` with ``[tool.relevo]``, from *start* upwards.

    Raises:
        ConfigurationError: Other users control it, or a ``relevo.toml`` is not a file. The search does not go on, since
            theirs may be a trap before yours.
    """
    for folder in [start, *start.parents]:
        for found, is_own in ((folder / FILE, _is_there), (folder / "pyproject.toml", _is_own)):
            if is_own(found):
                check_trusted(found)
                return found
    return None


def _is_there(path: Path) -> bool:
    """Return whether there is a file at *path*; raise for anything else that has its name."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigurationError(
            f"{path}: expected a file; got a broken link ({error.strerror}); fix it, or remove it"
        ) from error
    if not S_ISREG(found.st_mode):
        raise ConfigurationError(f"{path}: expected a file; got {kind_of(found.st_mode)}; move it, or remove it")
    return True


def _is_own(project: Path) -> bool:
    """Return whether the ``pyproject.toml`` at *project* has ``[tool.relevo]``; other ones may be large, or invalid."""
    if not project.is_file():
        return False
    try:
        if b"relevo" not in regular_bytes(project, most=_LARGEST_PROJECT):
            return False
        values = _parse(project)[1]
    except ConfigurationError:
        check_trusted(project)  # an error about the text of another user's file would not help
        raise
    return _own_table(project, values) is not None


def _as_said(path: Path) -> Path:
    """Return *path* as an absolute path; links stay, since one may lead to the release that is current today."""
    found = path.resolve()  # raises for an invalid path
    return found if ".." in path.parts else path.absolute()


def _parse(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the text of *path*, with its line breaks as TOML counts them, and its values."""
    text = ""
    try:
        if not path.exists():
            raise ConfigurationError(f"{path} does not exist; give another with --config or RELEVO_CONFIG")
        raw = regular_bytes(path)
        if raw.startswith(_UTF_16) or b"\0" in raw:
            raise ConfigurationError(f"{path}: expected text in UTF-8; got UTF-16 or no text; save it as UTF-8")
        text = raw.decode("utf-8-sig")
        return text, loads(text)
    except TomlError as error:
        raise _with_line(path, text, error) from error
    except UnicodeDecodeError as error:
        line, byte = error.object[: error.start].count(b"\n") + 1, error.object[error.start]
        raise ConfigurationError(
            f"{path}:{line}: expected text in UTF-8; got the byte 0x{byte:02x}; save the file as UTF-8"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def _with_line(path: Path, text: str, error: TomlError) -> ConfigurationError:
    """Return the error for invalid TOML: its line where other errors have it, and the key or the table there."""
    if error.line is None:
        return ConfigurationError(f"{path}: {error.what}")
    key = _KEY.match(text.split("\n")[error.line - 1][:_LONGEST_KEY]) if error.column else None
    name = visible(without_secrets(key[1])) if key else ""
    if key and error.what.startswith(_TWICE):
        problem = f"{name} is set twice; remove one of them"
    else:
        place = f" ({error.column})" if error.column else ""
        problem = f"{name + ': ' if key else ''}{visible(error.what)}{place}{_VALUES.get(error.what, '')}"
    return ConfigurationError(f"{path}:{error.line}: {problem}")


def _own_table(path: Path, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return ``[tool.relevo]`` of the ``pyproject.toml`` at *path*, or ``None`` if it has none."""
    tools = values.get("tool")
    own = tools.get("relevo") if isinstance(tools, dict) else None
    if own is not None and not isinstance(own, dict):
        raise wrong_type(f"{path}: tool.relevo", f"Expected `object`, got `{type(own).__name__}`")
    return own


# --- the environment ----------------------------------------------------------------------------------


def _overlay(values: dict[str, Any], environ: Mapping[str, str], origins: Origins, problems: Problems) -> None:
    """Add *environ* to *values*: ``RELEVO_A__B=text``, or TOML if the value begins with a brace or a bracket."""
    known = keys_of(Settings)
    variables = sorted(each for each in environ if each.startswith(_PREFIX) and each not in _OTHER_VARIABLES)
    if len(variables) > _MOST_VARIABLES:
        raise ConfigurationError(f"the environment: expected at most {_MOST_VARIABLES} variables {_PREFIX}…")
    for variable in variables:
        keys = variable.removeprefix(_PREFIX).lower().split("__")
        if not environ[variable]:
            continue
        if keys[0] not in known:
            if meant := _meant(keys[0], known):
                origins.note((variable,), Origin(_escaped(variable)))
                problems.add((variable,), f'there is no such variable; did you mean "{_PREFIX}{meant}"?')
            continue
        if fault := _fault_of(variable, environ[variable], keys):
            origins.note((variable,), Origin(_escaped(variable)))
            problems.add((variable,), fault)
            continue
        table = values
        path: tuple[str, ...] = ()
        for key in keys[:-1]:
            table, path = _inner(table, (*path, _as_written(key, table)), known[keys[0]])
        path = (*path, _as_written(keys[-1], table))
        origins.overrule(path, Origin(_escaped(variable), is_text=not environ[variable].lstrip().startswith(_TOML)))
        try:
            table[path[-1]] = _value(environ[variable], as_list=keys in _LISTS)
        except TomlError as error:
            problems.add(path, f"the value begins like TOML and is invalid: {error}", is_unknown=True)
            table.pop(path[-1], None)


def _fault_of(variable: str, value: str, keys: Sequence[str]) -> str | None:
    """Return what is wrong with *variable* before its value is read."""
    if not (is_text(variable) and is_text(value)):
        return "expected text in UTF-8; got other bytes"
    if len(keys) > MAX_DEPTH:
        return f"expected at most {MAX_DEPTH} keys between two underscores each; got {len(keys)}"
    return None


def _escaped(text: str) -> str:
    return visible(text if len(text) <= _LONGEST_KEY else f"{text[:_LONGEST_KEY]}…")


def _inner(table: dict[str, Any], path: tuple[str, ...], key: Key) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the table at the end of *path*, which is in *table* and begins with *key*; any other value is replaced."""
    found = table.get(path[-1])
    if path == ("plugins",) and _replace_list(table, "plugins"):
        found = table["plugins"]
    if not isinstance(found, dict):
        is_value = found is not None and len(path) == (2 if key.is_mapping else 1)
        found = table[path[-1]] = as_table(key.table, found) if is_value and key.table else {}
    return found, path


def _replace_list(values: dict[str, Any], key: str) -> list[Any]:
    """If *key* of *values* has a list, replace it with a table of the names in it; return the list."""
    members = values.get(key)
    if not isinstance(members, list):
        return []
    values[key] = {name: {} for name in members if isinstance(name, str)}
    return members


def _meant(key: str, known: Iterable[str]) -> str | None:
    """Return the variable that *key* may be a misspelling of, without the prefix."""
    for each in known:
        if key.startswith(f"{each}_"):
            return f"{each}__{key.removeprefix(f'{each}_')}".upper()
    near = did_you_mean(key, known)
    return near.split('"')[1].upper() if near else None


def _as_written(key: str, table: Mapping[str, Any]) -> str:
    """Return the key of *table* that equals *key* except for its case, which variables do not have."""
    return next((each for each in table if each.lower() == key), key)


def _value(text: str, *, as_list: bool) -> Any:
    if text.lstrip().startswith(_TOML):
        values = loads(f"value = {text}")
        check_number(values)
        return values["value"]
    return [part.strip() for part in text.split(",") if part.strip()] if as_list else text


def _expanded(value: Any, keys: KeyPath, environ: Mapping[str, str], origins: Origins, problems: Problems) -> Any:
    """Return *value* with each ``${…}`` in the file's texts replaced by the variable."""
    if isinstance(value, dict):
        return {key: _expanded(each, (*keys, key), environ, origins, problems) for key, each in value.items()}
    if isinstance(value, list):
        return [_expanded(each, (*keys, place), environ, origins, problems) for place, each in enumerate(value)]
    if not isinstance(value, str) or origins.of(*keys).line is None:
        return value
    where = dotted(keys)
    if found := _OF_SYMFONY.search(value):
        problems.add(keys, f"{where}: write ${{{found[1]}}} instead of {found[0]}", is_unknown=True)
        return value
    if "$" not in value:
        return value
    references = [match.groups() for match in _REFERENCE.finditer(value)]
    unset = [name for _, name in references if name is not None and name not in environ]
    faults = [
        f"{where}: the variable {name} is not set; set it, or write $${{{name}}} if the text itself is meant"
        for name in dict.fromkeys(unset)
    ]
    if keys[0] == "signing" and not unset and not _REFERENCE.sub(lambda match: environ.get(match[2] or "", "$"), value):
        empty = " and ".join(dict.fromkeys(name for _, name in references if name))
        faults.append(f"{where}: {empty} is empty; set this variable, or remove the reference")
    if (None, None) in references:
        faults.append(f"{where}: a dollar sign without {{VARIABLE}} after it; write $$ for the sign itself")
    if faults:
        problems.add(keys, *faults, is_unknown=True)
        return value
    if any(name is not None for _, name in references):
        origins.note(keys, msgspec.structs.replace(origins.of(*keys), is_text=True))
    return _REFERENCE.sub(lambda match: "$" if match[1] else environ.get(match[2] or "", ""), value)
