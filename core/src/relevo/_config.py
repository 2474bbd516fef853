"""Configuration: from ``relevo.toml`` or ``[tool.relevo]`` and the environment to one checked value."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import attrs
import msgspec

from relevo._clock import Clock, seconds
from relevo._codec import checked_source
from relevo._discovery import transport_class, transport_of_scheme
from relevo._route import NOW, Routes
from relevo._secret import Secret
from relevo._transport import Transport
from relevo.errors import ConfigurationError, did_you_mean, shown

FILE = "relevo.toml"
_PREFIX = "RELEVO_"
_OTHER_VARIABLES = ("RELEVO_CONFIG",)
_MAX_FILE = 1024 * 1024


@attrs.frozen(kw_only=True)
class TransportConfig:
    """One entry under ``[transports]``."""

    name: str
    url: Secret
    outbox: Secret | None = None
    """The name of another transport, or an address."""

    options: Mapping[str, Any] = attrs.field(factory=dict, repr=False)


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

    @property
    def place(self) -> str:
        """Where it says so, for errors."""
        if self.path is not None:
            return str(self.path)
        return f"the environment, since there is no {FILE} in {self.directory} or above"


_KEYS = [field.name for field in attrs.fields(Config) if field.name not in ("directory", "path")]


def find(start: Path) -> Path | None:
    """Return the nearest ``relevo.toml``, or ``pyproject.toml`` with ``[tool.relevo]``, from *start* upwards."""
    for folder in [start, *start.parents]:
        own = folder / FILE
        if own.is_file():
            return own
        project = folder / "pyproject.toml"
        if project.is_file() and _own_table(project) is not None:
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
    try:
        found = (start / named).resolve() if named is not None else find(start.resolve())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the configuration cannot be found: {error}") from error
    raw: dict[str, Any] = {}
    if found is not None:
        raw = (_own_table(found) or {}) if found.name == "pyproject.toml" else _read(found)
    _overlay(raw, environ)
    return _checked(raw, found, found.parent if found is not None else start.resolve())


def opened(config: Config, *, clock: Clock) -> tuple[dict[str, Transport], dict[str, Transport]]:
    """
    Return the transports that *config* describes and their outboxes; none does any I/O until it is used.

    Raises:
        ConfigurationError: A scheme, package or option is not understood, or there is no transport;
            all problems are told together, and no secret is shown.
    """
    if not config.transports:
        example = f'for example [transports] main = "sqlite:///{config.source}.db"'
        raise ConfigurationError(f"{config.place}: no transport; add one, {example}")
    transports: dict[str, Transport] = {}
    outboxes: dict[str, Transport] = {}
    problems: list[ConfigurationError] = []
    for entry in config.transports.values():
        try:
            transports[entry.name] = open_transport(entry, directory=config.directory, clock=clock)
        except ConfigurationError as error:
            problems.append(error)
    for entry in config.transports.values():
        try:
            if entry.outbox is not None and (outbox := _outbox(entry, config, transports, clock)):
                outboxes[entry.name] = outbox
        except ConfigurationError as error:
            problems.append(error)
    if problems:
        first = _at(config.place, problems[0])
        rest = "".join(f"\n{_at(config.place, problem)}" for problem in problems[1:])
        raise ConfigurationError(f"{first}{rest}") if rest else first
    return transports, outboxes


def _outbox(
    entry: TransportConfig, config: Config, transports: Mapping[str, Transport], clock: Clock
) -> Transport | None:
    """Return the outbox of *entry*; ``None`` if it is a transport that could not be opened, which is told already."""
    where = f"transports.{entry.name}.outbox"
    text = entry.outbox.reveal() if entry.outbox else ""
    if "://" in text:
        own = TransportConfig(name=f"{entry.name}.outbox", url=Secret(text))
        return open_transport(own, directory=config.directory, clock=clock)
    if text not in config.transports:
        hint = did_you_mean(text, config.transports)
        raise ConfigurationError(f"{where}: neither an address nor the name of a transport{hint}")
    return transports.get(text)


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
        raise ConfigurationError(
            f"{where}: an address begins with its scheme, as in sqlite:///shop.db, amqp://localhost or memory://"
        )
    try:
        cls = transport_class(transport_of_scheme(scheme.lower()))
        options = _options(cls.Options, {"url": address, **config.options}, where=where, directory=directory)
        transport = cls.open(options, name=config.name, clock=clock)
    except ConfigurationError as error:
        raise _at(where, error)  # noqa: B904 - it is the same
    if not isinstance(transport, Transport):
        raise ConfigurationError(f"{where}: {cls.__module__}.{cls.__qualname__} is not a relevo Transport")
    return transport


# --- the file and the environment -------------------------------------------------------------------


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.is_dir():
            raise ConfigurationError(f"{path} is a directory, expected a file")
        if not path.exists():
            raise ConfigurationError(f"{path} does not exist; give another with --config or RELEVO_CONFIG")
        with path.open("rb") as file:
            text = file.read(_MAX_FILE + 1)
        if len(text) > _MAX_FILE:
            raise ConfigurationError(f"{path} is larger than 1 MiB")
        return tomllib.loads(text.decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def _own_table(path: Path) -> dict[str, Any] | None:
    """Return ``[tool.relevo]`` of a ``pyproject.toml``, or ``None`` if it has none."""
    tools = _read(path).get("tool")
    own = tools.get("relevo") if isinstance(tools, dict) else None
    if own is not None and not isinstance(own, dict):
        raise ConfigurationError(f"{path}: tool.relevo: expected a table, got {type(own).__name__}")
    return own


def _overlay(raw: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Put into *raw* what *environ* says: ``RELEVO_A__B=text``, or TOML if it begins with a brace or bracket."""
    for variable in sorted(environ):
        keys = variable.removeprefix(_PREFIX).lower().split("__")
        if not variable.startswith(_PREFIX) or not environ[variable]:
            continue
        if keys[0] not in _KEYS:
            if variable not in _OTHER_VARIABLES and (meant := _meant(keys[0])):
                raise ConfigurationError(f'{variable} is not understood; did you mean "{_PREFIX}{meant}"?')
            continue
        table = raw
        for key in keys[:-1]:
            name = _as_written(key, table)
            inner = table.setdefault(name, {})
            if not isinstance(inner, dict):
                inner = table[name] = {"url": inner}
            table = inner
        as_list = keys[0] in ("listeners", "plugins")
        table[_as_written(keys[-1], table)] = _value(variable, environ[variable], as_list=as_list)


def _meant(key: str) -> str | None:
    """Return the variable that somebody may have meant by one that begins with *key*, without the prefix."""
    for known in _KEYS:
        if key.startswith(f"{known}_"):
            return f"{known}__{key.removeprefix(f'{known}_')}".upper()
    near = did_you_mean(key, _KEYS)
    return near.split('"')[1].upper() if near else None


def _as_written(key: str, table: Mapping[str, Any]) -> str:
    """Return the key of *table* that is *key* but for its case, since variables have none."""
    return next((known for known in table if known.lower() == key), key)


def _value(variable: str, text: str, *, as_list: bool) -> Any:
    if text.lstrip().startswith(("{", "[")):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(f"{variable} begins like TOML but is none: {error}") from error
    return [part.strip() for part in text.split(",") if part.strip()] if as_list else text


# --- checking ------------------------------------------------------------------------------------------


def _checked(raw: dict[str, Any], path: Path | None, directory: Path) -> Config:
    values: dict[str, Any] = {"directory": directory, "path": path}
    problems = [
        f'unknown key "{key}"{did_you_mean(key, _KEYS) or "; known: " + ", ".join(_KEYS)}'
        for key in raw
        if key not in _KEYS
    ]
    for key, check in _CHECKS.items():
        if key in raw:
            try:
                values[key] = check(key, raw[key])
            except ConfigurationError as error:
                problems += str(error).splitlines()
    config = Config(**values) if not problems else Config(directory=directory, path=path)
    if problems:
        raise ConfigurationError("\n".join(f"{config.place}: {problem}" for problem in problems))
    return config


def _text(where: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{where}: expected text, got {shown(value)}")
    return value


def _source(_: str, value: object) -> str:
    return checked_source(value)


def _texts(where: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise ConfigurationError(f'{where}: expected a list of text such as ["shop.listeners"], got {shown(value)}')
    return tuple(value)


def _setup(where: str, value: object) -> str:
    if value not in ("auto", "explicit"):
        raise ConfigurationError(f'{where}: expected "auto" or "explicit", got {shown(value)}')
    return str(value)


def _duration(where: str, value: object) -> float:
    """Take numbers in text too: the environment has nothing else."""
    is_number = isinstance(value, str) and value.replace(".", "", 1).isdecimal()
    return seconds(float(value) if is_number else value, what=where)  # type: ignore[arg-type]


def _transports(where: str, value: object) -> dict[str, TransportConfig]:
    """Check every transport; what is wrong is never shown, since it may hold a password."""
    if not isinstance(value, dict):
        raise ConfigurationError(
            f'{where}: expected a table such as [transports] main = "sqlite:///shop.db", got {type(value).__name__}'
        )
    problems = []
    found = {}
    for name, entry in value.items():
        try:
            found[name] = _transport(f"{where}.{name}", name, entry)
        except ConfigurationError as error:
            problems.append(str(error))
    if problems:
        raise ConfigurationError("\n".join(problems))
    return found


def _transport(where: str, name: str, entry: object) -> TransportConfig:
    if name == NOW or "/" in name or not name.isprintable():
        raise ConfigurationError(f'{where}: a transport cannot be called {shown(name)}; "{NOW}" and slashes are taken')
    table = {"url": entry} if isinstance(entry, str) else entry
    if not isinstance(table, dict) or not isinstance(table.get("url"), str):
        raise ConfigurationError(f'{where}: expected an address, or a table with url = "…"')
    outbox = table.get("outbox")
    if outbox is not None and not isinstance(outbox, str):
        raise ConfigurationError(f"{where}.outbox: expected an address or a name, got {type(outbox).__name__}")
    return TransportConfig(
        name=name,
        url=Secret(table["url"]),
        outbox=None if outbox is None else Secret(outbox),
        options={key: each for key, each in table.items() if key not in ("url", "outbox")},
    )


def _routes(where: str, value: object) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise ConfigurationError(f'{where}: expected a table such as "*" = "main", got {shown(value)}')
    table = {
        pattern: (each,) if isinstance(each, str) else _texts(f'{where}."{pattern}"', each)
        for pattern, each in value.items()
    }
    Routes(table)
    return table


_CHECKS: Mapping[str, Callable[[str, object], Any]] = {
    "source": _source,
    "app": _text,
    "setup": _setup,
    "patience": _duration,
    "lease": _duration,
    "listeners": _texts,
    "plugins": _texts,
    "transports": _transports,
    "routes": _routes,
}


def _options(cls: type, given: Mapping[str, Any], *, where: str, directory: Path) -> Any:
    """Return *cls* made of *given*; refuse unknown keys and wrong types, and show no secret."""
    hints = get_type_hints(cls)
    fields = {field.name: field for field in attrs.fields(cls)}
    values: dict[str, Any] = {"directory": directory} if "directory" in fields else {}
    problems = []
    for key, value in given.items():
        if key not in fields or key == "directory":
            problems.append(f'{where}: unknown option "{key}"{did_you_mean(key, fields)}')
            continue
        try:
            values[key] = _converted(value, hints[key], where=f"{where}.{key}", directory=directory)
        except ConfigurationError as error:
            problems.append(str(error))
    problems += [
        f'{where}: the option "{name}" is missing'
        for name, field in fields.items()
        if field.default is attrs.NOTHING and name not in given and name not in values
    ]
    if problems:
        raise ConfigurationError("\n".join(problems))
    try:
        return cls(**values)
    except (
        TypeError,
        ValueError,
    ) as error:  # of a validator; its further arguments hold the value, which may be secret
        raise ConfigurationError(f"{where}: {error.args[0] if error.args else type(error).__name__}") from None


def _converted(value: Any, kind: Any, *, where: str, directory: Path) -> Any:
    kinds = get_args(kind) or (kind,)
    if Secret in kinds and isinstance(value, str):
        return Secret(value)
    if Path in kinds and isinstance(value, str):
        return directory / value
    if float in kinds and isinstance(value, str):
        return _duration(where, value)
    try:
        return msgspec.convert(value, kind, strict=False)  # the environment has only text
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{where}: {str(error).replace('E', 'e', 1)}") from None


def _at(where: str, error: ConfigurationError) -> ConfigurationError:
    """Return *error*, which now says where each of its problems is, once."""
    lines = [line if line.startswith(where) else f"{where}: {line}" for line in str(error).splitlines()]
    error.args = ("\n".join(lines),)
    return error
