"""Open transports and plugins from ``relevo.toml`` or ``[tool.relevo]`` and the environment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import attrs
import msgspec

from relevo._clock import Clock, SystemClock
from relevo._config.check import ARGUMENTS, fan_out_problems, helper_problems
from relevo._config.discovery import PLUGINS, available, load, transport_class, transport_of_scheme
from relevo._config.key_file import key_file_problems
from relevo._config.schema import KEYS, Config, PluginConfig, TransportConfig
from relevo._config.settings import config_of
from relevo._config.source import read_raw
from relevo._config.table import TableReader
from relevo._config.trust import check_modules
from relevo._hook import Hooks
from relevo._listener.importing import NotImportedError, import_object
from relevo._problem import KeyPath, Origin, Origins, Problem, Problems, dotted, key_shown, lines_of, with_lines
from relevo._secret import Secret, masked_url
from relevo._server import PLACEHOLDERS, is_loopback
from relevo._transport.optional import INHERITED
from relevo._transport.route import NOW, Routes
from relevo._transport.transport import Transport
from relevo._visible import visible
from relevo.errors import ConfigurationError, did_you_mean, shown


@attrs.frozen(kw_only=True)
class Opened:
    """What is opened or imported for an application."""

    transports: dict[str, Transport]
    helpers: dict[str, dict[str, Transport]]
    """The transports that keep something for others: by the key of the configuration, and the name of the other one."""

    plugins: list[object] = attrs.field(factory=list)
    places: list[tuple[object, str, Mapping[str, object]]] = attrs.field(factory=list)
    """The plugins, each with where it is named, and its options there."""


def draft_config(path: Path | None, environ: Mapping[str, str], *, start: Path) -> Config:
    """
    Return the configuration as far as it is valid, and in its ``problems`` what is not.

    The arguments are those of :func:`read`. :func:`open_config` and :func:`refuse` raise the problems,
    together with the problems that they find themselves.

    Raises:
        ConfigurationError: The file cannot be read, or the search found it and other users control its modules.
    """
    config = config_of(read_raw(path, environ, start=start))
    refuse_foreign_modules(config, (*([config.app] if config.app else []), *config.listeners, *config.plugins))
    return msgspec.structs.replace(config, problems=(*config.problems, *key_file_problems(config)))


def read(path: Path | None, environ: Mapping[str, str], *, start: Path) -> Config:
    """
    Return the configuration.

    Args:
        path: The file; by default ``RELEVO_CONFIG``, else the nearest from *start* upwards, else none.

        environ: The environment. ``RELEVO_SOURCE``, ``RELEVO_TRANSPORTS__MAIN`` and so on override the file;
            ``${VARIABLE}`` in a text of the file is replaced by the variable.

        start: Where the search begins, and where relative paths start if there is no file.

    Raises:
        ConfigurationError: The file cannot be read, or something in it is invalid; all problems are
            reported together, each with its line.
    """
    config = draft_config(path, environ, start=start)
    if config.problems:
        refuse(config)
    return config


def refuse_foreign_modules(config: Config, names: Iterable[str]) -> None:
    """
    Check the modules called *names* before they are imported from the folder of *config*, if the search found it.

    Raises:
        ConfigurationError: Other users control one of them.
    """
    if config.is_found and config.path is not None:
        check_modules(names, config.path)


def refuse(config: Config) -> None:
    """
    Check the whole of *config*, for an application that may have transports of its own.

    Raises:
        ConfigurationError: Something is invalid; all problems are reported together.
    """
    opener = _Opener(config, SystemClock())
    _close(opener.parts())
    opener.problems.raise_any(config.origins)


def open_config(config: Config, *, clock: Clock) -> Opened:
    """
    Return what *config* describes; plugins are imported, and no transport does any I/O until it is used.

    Raises:
        ConfigurationError: Something in it is invalid, there is no transport, or a plugin cannot be
            imported; all problems are reported together, and no secret is shown.
    """
    opener = _Opener(config, clock)
    problems = opener.problems
    is_missing = not config.transports and (not config.routes or any(each != (NOW,) for each in config.routes.values()))
    if is_missing and not problems.concern("app") and not any(map(_may_mean_transports, problems)):
        example = f'for example [transports] main = "sqlite:///{config.source}.db"'
        problems.add(("transports",), f"no transport; add one, {example}")
    parts = opener.parts()
    for name, plugin in opener.plugins():
        parts.plugins.append(plugin)
        place = f'"{key_shown(name)}" ({config.origins.of("plugins", name)})'
        parts.places.append((plugin, place, config.plugins[name].options))
    if problems:
        _close(parts)
    problems.raise_any(config.origins)
    return parts


def open_addresses(
    given: Mapping[Any, object],
    helpers: Mapping[str, Mapping[Any, object]],
    problems: Problems,
    *,
    settings: Mapping[str, object],
    clock: Clock,
) -> tuple[dict[Any, object], dict[str, Mapping[Any, object]]]:
    """
    Return the *given* transports and *helpers* of an application that is made in code, with each address opened.

    What is not text is returned as it is. A path starts in the working directory.

    Args:
        given: Transports and addresses, by the names of the transports.

        helpers: The same of the transports that keep something for others, and the names of transports that also do
            that; by the key of the configuration. An address that one transport has twice is opened once.

        problems: Collects why an address cannot be opened.

        settings: The application's settings, by name, for options that inherit one.

        clock: The source of time.
    """
    reader = TableReader(problems, directory=Path(), origins=Origins(Origin("App(…)")))
    opener = TransportOpener(reader, problems, settings=settings, clock=clock)
    transports: dict[Any, object] = {}
    for name, each in given.items():
        opened = opener.from_address(str(name), each, ("transports", name)) if isinstance(each, str) else each
        if opened is not None:
            transports[name] = opened
    found: dict[str, dict[Any, object]] = {key: {} for key in helpers}
    known: dict[tuple[Any, str], Transport] = {}
    for key, each_given in helpers.items():
        for name, each in each_given.items():
            helper = each
            if isinstance(each, str) and "://" in each:
                helper = known.get((name, each)) or opener.from_address(f"{name}.{key}", each, (ARGUMENTS[key], name))
                if helper is not None:
                    known[name, each] = helper
            elif isinstance(each, str):
                helper = transports.get(each, each)
            if helper is not None:
                found[key][name] = helper
    return transports, {**found}


class TransportOpener:
    """
    Opens transports from their addresses and options.

    Args:
        reader: Reads the options.

        problems: Collects why a transport cannot be opened.

        settings: The application's settings, by name, for options that inherit one.

        clock: The source of time.
    """

    def __init__(self, reader: TableReader, problems: Problems, *, settings: Mapping[str, object], clock: Clock):
        self._reader = reader
        self._problems = problems
        self._settings = settings
        self._clock = clock

    def from_address(self, name: str, address: str, keys: KeyPath) -> Transport | None:
        """Return the transport called *name* at *address*, which is at *keys*; ``None`` if a problem was noted."""
        return self.open(name, TransportConfig(url=Secret(address)), keys)

    def open(self, name: str, entry: TransportConfig, keys: KeyPath) -> Transport | None:
        """
        Return the transport called *name* that *entry* at *keys* describes; ``None`` if a problem was noted.

        An option that is not configured there has the application's setting if it is declared as inherited.
        """
        address = entry.url.reveal()
        with self._problems.at(*keys), _prefix_errors(dotted(keys)):
            cls = _class_for(entry)
            _refuse_default_password(address)
            given = {"url": address, **entry.options}
            for field in attrs.fields(cls.Options):
                if field.metadata.keys() >= INHERITED.keys():
                    given.setdefault(field.name, self._settings[field.name])
            options = self._reader.make(cls.Options, given, keys)
            if options is not None:
                transport = cls.open(options, name=name, clock=self._clock)
                if not isinstance(transport, Transport):
                    raise ConfigurationError(f"{cls.__module__}.{cls.__qualname__} is not a relevo Transport")
                return transport
        return None


class _Opener:
    """Opens what *config* describes; ``problems`` collects why something cannot be opened, or conflicts."""

    def __init__(self, config: Config, clock: Clock):
        self.problems = Problems(config.problems)
        self._config = config
        self._clock = clock
        self._reader = TableReader(self.problems, directory=config.directory, origins=config.origins)
        settings = {name: getattr(config, name) for name in KEYS}
        self._opener = TransportOpener(self._reader, self.problems, settings=settings, clock=clock)

    def parts(self) -> Opened:
        """Return the transports, and those that keep something for them."""
        entries = self._config.transports
        transports: dict[str, Transport] = {}
        for name, entry in entries.items():
            if transport := self._opener.open(name, entry, ("transports", name)):
                transports[name] = transport
        helpers: dict[str, dict[str, Transport]] = {key: {} for key in ARGUMENTS}
        for name, entry in entries.items():
            for key, helper in self._helpers(name, entry, transports):
                helpers[key][name] = helper
        self.problems.extend(helper_problems(helpers, transports, entries))
        outboxes = helpers["outbox"]
        known = {
            name: name in outboxes or transport.capabilities.transactional
            for name, transport in transports.items()
            if name in outboxes or not entries[name].outbox
        }
        self.problems.extend(fan_out_problems(Routes(self._config.routes), known))
        return Opened(transports=transports, helpers=helpers)

    def _helpers(
        self, name: str, entry: TransportConfig, transports: Mapping[str, Transport]
    ) -> Iterator[tuple[str, Transport]]:
        """Yield the transports that keep something for the one called *name*; an address is opened once."""
        opened: dict[str, Transport] = {}
        for key, text in entry.helpers().items():
            helper = transports.get(text) or opened.get(text)
            if helper is None and "://" in text:
                helper = self._opener.from_address(f"{name}.{key}", text, ("transports", name, key))
            if helper is not None:  # otherwise it could not be opened, which is a problem already
                opened[text] = helper
                yield key, helper

    def plugins(self) -> Iterator[tuple[str, object]]:
        """Yield the valid plugins, each with its name."""
        for name, entry in self._config.plugins.items():
            with self.problems.at("plugins", name):
                plugin = self._plugin(name, entry)
                if plugin is not None:
                    Hooks([plugin])
                    yield name, plugin

    def _plugin(self, name: str, entry: PluginConfig) -> object:
        """Return the plugin called *name*, opened with its options if its class takes any."""
        keys = ("plugins", name)
        found: Any = _plugin_named(name)
        cls = plugin_options(name)
        if cls is not None:
            options = self._reader.make(cls, entry.options, keys)
            return None if options is None else found.open(options, source=self._config.source, clock=self._clock)
        if entry.options:
            names = visible(", ".join(entry.options))
            raise ConfigurationError(f"{dotted(keys)}: this plugin takes no options; remove {names}")
        return _instance_of(found, dotted(keys)) if isinstance(found, type) else found


def _may_mean_transports(problem: Problem) -> bool:
    """Return whether *problem* concerns ``transports``, or a key that may be a misspelling of it."""
    return bool(did_you_mean(str(problem.keys[0]), ("transports",)))


def _close(parts: Opened) -> None:
    helpers = [helper for each in parts.helpers.values() for helper in each.values()]
    for transport in dict.fromkeys([*parts.transports.values(), *helpers]):
        transport.close()


def options_class(config: TransportConfig) -> type:
    """
    Return the class of the options that *config* may have beside the address.

    Raises:
        ConfigurationError: No installed package knows the scheme of its address.
    """
    options: type = _class_for(config).Options
    return options


def _class_for(config: TransportConfig) -> Any:
    scheme, separator, _ = config.url.reveal().partition("://")
    if not separator or not scheme:
        raise ConfigurationError(
            "expected an address such as sqlite:///shop.db, amqp://localhost or memory://; got text without a scheme"
        )
    return transport_class(transport_of_scheme(scheme.lower()))


@contextmanager
def _prefix_errors(where: str) -> Iterator[None]:
    """Make an error that is raised in the block begin with *where*."""
    try:
        yield
    except ConfigurationError as error:
        with_lines(error, [line if line.startswith(where) else f"{where}: {line}" for line in lines_of(error)])
        raise


def _refuse_default_password(address: str) -> None:
    """
    Refuse a password that was not chosen, except for a server on this machine.

    Raises:
        ConfigurationError: The password of *address* is a placeholder, or that of the user "guest".
    """
    credentials, _, place = address.partition("://")[2].partition("/")[0].rpartition("@")
    user, _, password = credentials.partition(":")
    if password not in PLACEHOLDERS and (user, password) != ("guest", "guest"):
        return
    host = place.rpartition("]")[0].removeprefix("[") or place.partition(":")[0]
    if host and not is_loopback(host):
        raise ConfigurationError(
            f"{masked_url(address)} has a publicly known default password, and {shown(host)} is not this "
            f"machine; give relevo a user of its own"
        )


# --- plugins ------------------------------------------------------------------------------------------


def plugin_options(name: str) -> type | None:
    """
    Return the class of the options of the plugin called *name*, if it has any; a module is imported for that.

    Raises:
        ConfigurationError: There is no such plugin.
    """
    found = _plugin_named(name)
    return getattr(found, "Options", None) if isinstance(found, type) else None


def _instance_of(cls: type, where: str) -> object:
    """
    Return an instance of the plugin's class *cls*, which is called without arguments.

    Raises:
        ConfigurationError: It needs arguments.
    """
    try:
        signature(cls).bind()
    except ValueError:  # a class without a signature, as of an extension module
        pass
    except TypeError as error:
        raise ConfigurationError(
            f"{where}: {cls.__qualname__} is a class that needs arguments ({error}); name an instance of it, or give "
            f"it options: a class Options and a class method open(options, *, source, clock)"
        ) from None
    return cls()


def _plugin_named(name: str) -> object:
    """Return what an installed package offers as *name*, otherwise the module, or an object inside a module."""
    offered = available(PLUGINS)
    if name in offered:
        return load(PLUGINS, name)
    try:
        return import_object(name, where="plugins")
    except NotImportedError:
        raise
    except ConfigurationError as error:
        error.args = (f"{error}{did_you_mean(name, offered)}",)
        raise
