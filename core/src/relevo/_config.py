"""Configuration: from ``relevo.toml`` or ``[tool.relevo]`` and the environment to one checked value."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import attrs

from relevo._clock import Clock, seconds
from relevo._discovery import transport_class, transport_of_scheme
from relevo._route import NOW
from relevo._secret import Secret
from relevo._transport import Transport
from relevo.errors import ConfigurationError, did_you_mean, shown

FILE = "relevo.toml"
_PREFIX = "RELEVO_"
_MAX_FILE = 1024 * 1024


@attrs.frozen(kw_only=True)
class TransportConfig:
    """One entry under ``[transports]``."""

    name: str
    url: Secret
    outbox: str | None = None
    """The name of another transport, or an address."""

    options: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Config:
    """All that configuration says, with its defaults."""

    directory: Path
    """Where relative paths start."""

    path: Path | None = None
    """The file it was read from."""

    source: str = "app"
    app: str | None = None
    listeners: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    setup: str = "auto"
    patience: float = 3600.0
    lease: float = 60.0
    transports: Mapping[str, TransportConfig] = attrs.field(factory=dict)
    routes: Mapping[str, Sequence[str]] = attrs.field(factory=dict)


_KEYS = [field.name for field in attrs.fields(Config) if field.name not in ("directory", "path")]


def find(start: Path) -> Path | None:
    """Return the nearest ``relevo.toml``, or ``pyproject.toml`` with ``[tool.relevo]``, from *start* upwards."""
    for folder in [start, *start.parents]:
        own = folder / FILE
        if own.is_file():
            return own
        project = folder / "pyproject.toml"
        if project.is_file() and "relevo" in _read(project).get("tool", {}):
            return project
    return None


def read(path: Path | None, environ: Mapping[str, str], *, start: Path) -> Config:
    """
    Return the configuration.

    Args:
        path: The file; if unsaid ``RELEVO_CONFIG``, else the nearest from *start* upwards, else none.

        environ: ``RELEVO_SOURCE``, ``RELEVO_TRANSPORTS__MAIN`` and so on win over the file.

        start: Where the search begins, and where relative paths start if there is no file.

    Raises:
        ConfigurationError: The file cannot be read, or says something that is not understood; all
            problems are told together.
    """
    named = path or (Path(environ["RELEVO_CONFIG"]) if environ.get("RELEVO_CONFIG") else None)
    found = (start / named).resolve() if named is not None else find(start.resolve())
    raw: dict[str, Any] = {}
    if found is not None:
        raw = _read(found)
        if found.name == "pyproject.toml":
            raw = raw.get("tool", {}).get("relevo", {})
    _overlay(raw, environ)
    return _checked(raw, found, found.parent if found is not None else start.resolve())


def open_transport(config: TransportConfig, *, directory: Path, clock: Clock) -> Transport:
    """
    Return the transport that *config* describes; it does no I/O until it is used.

    Raises:
        ConfigurationError: Its scheme, package or options are not understood; no secret is shown.
    """
    where = f"transports.{config.name}"
    address = config.url.reveal()
    scheme, separator, _ = address.partition("://")
    if not separator or not scheme:
        message = f"{where}: an address begins with its scheme, as in sqlite:///shop.db, amqp://localhost or memory://"
        raise ConfigurationError(message)
    cls = transport_class(transport_of_scheme(scheme))
    options = _options(cls.Options, {"url": address, **config.options}, where=where, directory=directory)
    transport = cls.open(options, name=config.name, clock=clock)
    if not isinstance(transport, Transport):
        message = f"{where}: {cls.__module__}.{cls.__qualname__} is not a relevo Transport"
        raise ConfigurationError(message)
    return transport


# --- the file and the environment -------------------------------------------------------------------


def _read(path: Path) -> dict[str, Any]:
    if path.is_dir():
        message = f"{path} is a directory, expected a file"
        raise ConfigurationError(message)
    if not path.is_file():
        message = f"{path} does not exist; give another with --config or RELEVO_CONFIG"
        raise ConfigurationError(message)
    if path.stat().st_size > _MAX_FILE:
        message = f"{path} is larger than 1 MiB"
        raise ConfigurationError(message)
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"{path}: {error}"
        raise ConfigurationError(message) from error


def _overlay(raw: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Put into *raw* what *environ* says: ``RELEVO_A__B=text``, or TOML if the text begins with a brace."""
    for variable in sorted(environ):
        keys = variable.removeprefix(_PREFIX).lower().split("__")
        if not variable.startswith(_PREFIX) or keys[0] not in _KEYS:
            continue
        table = raw
        for key in keys[:-1]:
            inner = table.setdefault(key, {})
            if not isinstance(inner, dict):
                inner = table[key] = {"url": inner}
            table = inner
        table[keys[-1]] = _value(variable, environ[variable], as_list=keys[0] in ("listeners", "plugins"))


def _value(variable: str, text: str, *, as_list: bool) -> Any:
    if text.lstrip().startswith("{"):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError as error:
            message = f"{variable} begins with a brace but is not a TOML table: {error}"
            raise ConfigurationError(message) from error
    return [part.strip() for part in text.split(",") if part.strip()] if as_list else text


# --- checking ------------------------------------------------------------------------------------------


def _checked(raw: dict[str, Any], path: Path | None, directory: Path) -> Config:
    place = str(path) if path else "the environment"
    problems: list[str] = []
    for key in raw:
        if key not in _KEYS:
            problems.append(f'unknown key "{key}"{did_you_mean(key, _KEYS) or "; known: " + ", ".join(_KEYS)}')
    values: dict[str, Any] = {"directory": directory, "path": path}
    for key, check in (
        ("source", _text),
        ("app", _text),
        ("setup", _setup),
        ("patience", _duration),
        ("lease", _duration),
        ("listeners", _texts),
        ("plugins", _texts),
        ("transports", _transports),
        ("routes", _routes),
    ):
        if key in raw:
            try:
                values[key] = check(key, raw[key])
            except ConfigurationError as error:
                problems.append(str(error))
    if problems:
        raise ConfigurationError("\n".join(f"{place}: {problem}" for problem in problems))
    return Config(**values)


def _text(where: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        message = f"{where}: expected text, got {shown(value)}"
        raise ConfigurationError(message)
    return value


def _texts(where: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        message = f'{where}: expected a list of text such as ["shop.listeners"], got {shown(value)}'
        raise ConfigurationError(message)
    return tuple(value)


def _setup(where: str, value: object) -> str:
    if value not in ("auto", "explicit"):
        message = f'{where}: expected "auto" or "explicit", got {shown(value)}'
        raise ConfigurationError(message)
    return str(value)


def _duration(where: str, value: object) -> float:
    return seconds(value, what=where)


def _transports(where: str, value: object) -> dict[str, TransportConfig]:
    if not isinstance(value, dict):
        message = f'{where}: expected a table such as [transports] main = "sqlite:///shop.db", got {shown(value)}'
        raise ConfigurationError(message)
    return {name: _transport(f"{where}.{name}", name, entry) for name, entry in value.items()}


def _transport(where: str, name: str, entry: object) -> TransportConfig:
    if name == NOW or "/" in name or not name.isprintable():
        message = f'{where}: a transport cannot be called {shown(name)}; "{NOW}" and slashes are taken'
        raise ConfigurationError(message)
    table = {"url": entry} if isinstance(entry, str) else entry
    if not isinstance(table, dict) or not isinstance(table.get("url"), str):
        message = f'{where}: expected an address, or a table with url = "…"'
        raise ConfigurationError(message)
    outbox = table.get("outbox")
    return TransportConfig(
        name=name,
        url=Secret(table["url"]),
        outbox=None if outbox is None else _text(f"{where}.outbox", outbox),
        options={key: each for key, each in table.items() if key not in ("url", "outbox")},
    )


def _routes(where: str, value: object) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        message = f'{where}: expected a table such as "*" = "main", got {shown(value)}'
        raise ConfigurationError(message)
    return {
        pattern: (each,) if isinstance(each, str) else _texts(f'{where}."{pattern}"', each)
        for pattern, each in value.items()
    }


def _options(cls: type, given: Mapping[str, Any], *, where: str, directory: Path) -> Any:
    """Return *cls* made of *given*; refuse unknown keys and wrong types, and show no secret."""
    hints = get_type_hints(cls)
    fields = {field.name.lstrip("_"): hints[field.name] for field in attrs.fields(cls)}
    problems = []
    values: dict[str, Any] = {"directory": directory} if "directory" in fields else {}
    for key, value in given.items():
        if key not in fields or key == "directory":
            problems.append(f'{where}: unknown option "{key}"{did_you_mean(key, fields)}')
            continue
        try:
            values[key] = _converted(value, fields[key], where=f"{where}.{key}", directory=directory)
        except ConfigurationError as error:
            problems.append(str(error))
    if problems:
        raise ConfigurationError("\n".join(problems))
    return cls(**values)


def _converted(value: Any, kind: Any, *, where: str, directory: Path) -> Any:
    kinds = getattr(kind, "__args__", (kind,))
    if Secret in kinds and isinstance(value, str):
        return Secret(value)
    if Path in kinds and isinstance(value, str):
        return directory / value
    if bool in kinds and (isinstance(value, bool) or value in ("true", "false")):
        return value in (True, "true")
    if int in kinds and not isinstance(value, bool) and str(value).lstrip("-").isdigit():
        return int(value)
    if float in kinds and not isinstance(value, bool):
        return seconds(float(value) if str(value).replace(".", "", 1).isdigit() else value, what=where)
    if str in kinds and isinstance(value, str):
        return value
    wanted = " or ".join(getattr(each, "__name__", str(each)) for each in kinds)
    message = f"{where}: expected {wanted}, got {type(value).__name__}"
    raise ConfigurationError(message)
