"""Open transports and plugins from ``relevo.toml`` or ``[tool.relevo]`` and the environment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args, get_type_hints

import attrs
import msgspec

from relevo._clock import Clock, SystemClock
from relevo._config.check import fan_out_problems, outbox_problems
from relevo._config.discovery import PLUGINS, available, load, transport_class, transport_of_scheme
from relevo._config.settings import KEYS, Config, PluginConfig, SigningConfig, TransportConfig, config_of, duration
from relevo._config.source import find, read_raw
from relevo._hook import Hooks
from relevo._listener.importing import NotImportedError, imported
from relevo._problem import KeyPath, Problem, Problems
from relevo._secret import Secret, masked_url
from relevo._transport.route import Routes
from relevo._transport.transport import Transport
from relevo.errors import ConfigurationError, did_you_mean, shown

__all__ = [
    "Config",
    "Parts",
    "PluginConfig",
    "SigningConfig",
    "TransportConfig",
    "drafted",
    "find",
    "opened",
    "options_class",
    "parts_of",
    "plugin_options",
    "read",
    "refuse",
]

_KNOWN_TO_ALL = re.compile(r"guest:guest|[^:]*:(changeme|YourPasswordHere)")
"""Users and passwords as servers come with them, and as examples have them."""


@attrs.frozen(kw_only=True)
class Parts:
    """What an application is put together of, besides plain values."""

    transports: dict[str, Transport]
    outboxes: dict[str, Transport]
    plugins: list[object] = attrs.field(factory=list)


def drafted(path: Path | None, environ: Mapping[str, str], *, start: Path) -> Config:
    """
    Return the configuration as far as it is understood, and in its ``problems`` what is not.

    The arguments are those of :func:`read`. :func:`parts_of`, :func:`opened` and :func:`refuse` raise the problems,
    together with what else they find.

    Raises:
        ConfigurationError: The file cannot be read.
    """
    return config_of(read_raw(path, environ, start=start, known=KEYS))


def read(path: Path | None, environ: Mapping[str, str], *, start: Path) -> Config:
    """
    Return the configuration.

    Args:
        path: The file; by default ``RELEVO_CONFIG``, else the nearest from *start* upwards, else none.

        environ: ``RELEVO_SOURCE``, ``RELEVO_TRANSPORTS__MAIN`` and so on win over the file, in whose
            texts ``${VARIABLE}`` stands for what is here.

        start: Where the search begins, and where relative paths start if there is no file.

    Raises:
        ConfigurationError: The file cannot be read, or says something that is not understood; all
            problems are told together, each with its line.
    """
    config = drafted(path, environ, start=start)
    if config.problems:
        refuse(config)
    return config


def refuse(config: Config) -> None:
    """
    Check all that *config* says, of an application that may have transports of its own.

    Raises:
        ConfigurationError: Something is not understood; all problems are told together.
    """
    problems = Problems(config.problems)
    _close(_parts(config, SystemClock(), problems))
    problems.raise_any(config.origins)


def opened(config: Config, *, clock: Clock) -> tuple[dict[str, Transport], dict[str, Transport]]:
    """
    Return the transports that *config* describes and their outboxes; none does any I/O until it is used.

    Raises:
        ConfigurationError: Something in it is not understood, or there is no transport; all problems are
            told together, and no secret is shown.
    """
    parts = parts_of(attrs.evolve(config, plugins=()), clock=clock)
    return parts.transports, parts.outboxes


def parts_of(config: Config, *, clock: Clock) -> Parts:
    """
    Return what *config* describes: transports and outboxes as :func:`opened` does, and plugins, which are imported.

    Raises:
        ConfigurationError: Something in it is not understood, there is no transport, or a plugin cannot be
            imported; all problems are told together, and no secret is shown.
    """
    problems = Problems(config.problems)
    if not config.transports and not problems.concern("app") and not any(map(_may_mean_transports, problems)):
        example = f'for example [transports] main = "sqlite:///{config.source}.db"'
        problems.add(("transports",), f"no transport; add one, {example}")
    parts = _parts(config, clock, problems)
    for entry in config.plugins:
        with problems.at(*entry.keys):
            plugin = _plugin(entry, config, clock, problems)
            if plugin is not None:
                Hooks([plugin])
                parts.plugins.append(plugin)
    if problems:
        _close(parts)
    problems.raise_any(config.origins)
    return parts


def _parts(config: Config, clock: Clock, problems: Problems) -> Parts:
    """Return the transports and outboxes that can be opened; *problems* learns why others cannot, or do not fit."""
    transports: dict[str, Transport] = {}
    outboxes: dict[str, Transport] = {}
    for name, entry in config.transports.items():
        if transport := _opened(entry, ("transports", name), config, clock, problems):
            transports[name] = transport
    for name, entry in config.transports.items():
        text = entry.outbox.reveal() if entry.outbox else ""
        if "://" in text:
            own = TransportConfig(name=f"{name}.outbox", url=Secret(text))
            if outbox := _opened(own, ("transports", name, "outbox"), config, clock, problems):
                outboxes[name] = outbox
        elif text in transports:  # else it could not be opened, which is told already
            outboxes[name] = transports[text]
    problems.extend(outbox_problems(outboxes, config.transports))
    known = {
        name: name in outboxes or transport.capabilities.transactional
        for name, transport in transports.items()
        if name in outboxes or not config.transports[name].outbox
    }
    problems.extend(fan_out_problems(Routes(config.routes), known))
    return Parts(transports=transports, outboxes=outboxes)


def _may_mean_transports(problem: Problem) -> bool:
    """Return whether *problem* is of what says which transports there are, or of a key that is nearly called so."""
    return bool(did_you_mean(str(problem.keys[0]), ("transports",)))


def _close(parts: Parts) -> None:
    for transport in dict.fromkeys([*parts.transports.values(), *parts.outboxes.values()]):
        transport.close()


def options_class(config: TransportConfig) -> type:
    """
    Return what *config* may say beside the address.

    Raises:
        ConfigurationError: No installed package knows the scheme of its address.
    """
    options: type = _class_for(config).Options
    return options


def _class_for(config: TransportConfig) -> Any:
    scheme, separator, _ = config.url.reveal().partition("://")
    if not separator or not scheme:
        raise ConfigurationError(
            "an address begins with its scheme, as in sqlite:///shop.db, amqp://localhost or memory://"
        )
    return transport_class(transport_of_scheme(scheme.lower()))


def _opened(
    entry: TransportConfig, keys: KeyPath, config: Config, clock: Clock, problems: Problems
) -> Transport | None:
    """
    Return the transport that *entry* describes, as said at *keys*; ``None`` if *problems* knows why not.

    One that has an option ``patience``, because it gives back itself what it cannot read yet, gets the application's.
    """
    where = ".".join(map(str, keys))
    address = entry.url.reveal()
    with problems.at(*keys), _named(where):
        cls = _class_for(entry)
        _refuse_default_password(address)
        given = {"url": address, **entry.options}
        if "patience" in get_type_hints(cls.Options):
            given.setdefault("patience", config.patience)
        options = options_of(cls.Options, given, keys, problems, directory=config.directory)
        if options is not None:
            transport = cls.open(options, name=entry.name, clock=clock)
            if not isinstance(transport, Transport):
                raise ConfigurationError(f"{cls.__module__}.{cls.__qualname__} is not a relevo Transport")
            return transport
    return None


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Let the error that the block ends with begin with *where*."""
    try:
        yield
    except ConfigurationError as error:
        lines = [line if line.startswith(where) else f"{where}: {line}" for line in str(error).splitlines()]
        error.args = ("\n".join(lines),)
        raise


def _refuse_default_password(address: str) -> None:
    """
    Refuse what everybody knows, but for a server on this machine.

    Raises:
        ConfigurationError: The password of *address* is that of an example.
    """
    credentials, _, place = address.partition("://")[2].partition("/")[0].rpartition("@")
    if not _KNOWN_TO_ALL.fullmatch(credentials):
        return
    host = place.rpartition("]")[0].removeprefix("[") or place.partition(":")[0]
    if not re.fullmatch(r"|localhost|::1|127(\.\d+){3}", host):
        raise ConfigurationError(
            f"{masked_url(address)} has a password that stands in every example, and {shown(host)} is not this "
            f"machine; give relevo a user of its own"
        )


# --- plugins ------------------------------------------------------------------------------------------


def plugin_options(config: PluginConfig) -> type | None:
    """
    Return what the plugin that *config* names may be told, or ``None`` if nothing; a module is imported for that.

    Raises:
        ConfigurationError: There is no such plugin.
    """
    found = _plugin_named(config.name)
    return getattr(found, "Options", None) if isinstance(found, type) else None


def _plugin_named(name: str) -> object:
    """Return what an installed package offers as *name*, else the module, or what is inside one."""
    offered = available(PLUGINS)
    if name in offered:
        return load(PLUGINS, name)
    try:
        return imported(name, where="plugins")
    except NotImportedError:
        raise
    except ConfigurationError as error:
        error.args = (f"{error}{did_you_mean(name, offered)}",)
        raise


def _plugin(entry: PluginConfig, config: Config, clock: Clock, problems: Problems) -> object:
    """Return the plugin, made of its options if its class takes any; ``None`` if *problems* knows why not."""
    where = f"plugins.{entry.name}"
    found: Any = _plugin_named(entry.name)
    cls = plugin_options(entry)
    if cls is not None:
        options = options_of(cls, entry.options, entry.keys, problems, directory=config.directory, where=where)
        return None if options is None else found.open(options, source=config.source, clock=clock)
    if entry.options:
        raise ConfigurationError(f"{where}: it takes no options, and there is {', '.join(entry.options)}")
    return found


# --- options ------------------------------------------------------------------------------------------


def options_of(
    cls: type,
    given: Mapping[str, Any],
    keys: KeyPath,
    problems: Problems,
    *,
    directory: Path,
    where: str | None = None,
) -> Any:
    """
    Return *cls* made of *given*; show no secret of it.

    Args:
        cls: An attrs class.

        given: By the names of its fields; one that is a word of Python has an underscore there, as ``from_``.

        keys: Where they were said.

        problems: Learns of unknown keys and wrong types; what is returned then means nothing.

        directory: Where relative paths start.

        where: What the errors begin with; *keys* by default.
    """
    before = len(problems)
    where = where or ".".join(map(str, keys))
    hints = get_type_hints(cls)
    fields = {field.name.removesuffix("_"): field for field in attrs.fields(cls) if field.name != "directory"}
    values: dict[str, Any] = {"directory": directory} if "directory" in hints else {}
    for key, value in given.items():
        with problems.at(*keys, key):
            if key not in fields:
                near = did_you_mean(key, fields) or f"; known: {', '.join(fields) or 'none'}"
                raise ConfigurationError(f'{where}: unknown option "{key}"{near}')
            name = fields[key].name
            values[name] = _converted(value, hints[name], where=f"{where}.{key}", directory=directory)
    for name, field in fields.items():
        if field.default is attrs.NOTHING and name not in given:
            problems.add(keys, f'{where}: the option "{name}" is missing')
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except (TypeError, ValueError, ConfigurationError) as error:
        # of a validator; its further arguments hold the value, which may be secret
        why = str(error.args[0]) if error.args else type(error).__name__
        blamed = why.split(maxsplit=1)[0].strip("\"':") if why else ""
        problems.add((*keys, blamed) if blamed in given else keys, f"{where}: {why}")
        return None


def _converted(value: Any, kind: Any, *, where: str, directory: Path) -> Any:
    kinds = get_args(kind) or (kind,)
    if Secret in kinds and isinstance(value, str):
        return Secret(value)
    if Path in kinds and isinstance(value, str):
        return directory / value
    if float in kinds and isinstance(value, str):
        return duration(where, value)
    try:
        return msgspec.convert(value, kind, strict=False)  # the environment has only text
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{where}: {str(error).replace('E', 'e', 1)}") from None
