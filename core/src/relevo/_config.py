"""Configuration: from ``relevo.toml`` or ``[tool.relevo]`` and the environment to transports that can be used."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args, get_type_hints

import attrs
import msgspec

from relevo._clock import Clock
from relevo._discovery import transport_class, transport_of_scheme
from relevo._line import KeyPath
from relevo._origin import Problems, find, written
from relevo._secret import Secret, masked_url
from relevo._settings import KEYS, Config, SigningConfig, TransportConfig, checked, duration
from relevo._transport import Transport
from relevo.errors import ConfigurationError, did_you_mean, shown

__all__ = ["Config", "SigningConfig", "TransportConfig", "find", "opened", "options_class", "read"]

_KNOWN_TO_ALL = re.compile(r"guest:guest|[^:]*:(changeme|YourPasswordHere)")
"""Users and passwords as servers come with them, and as examples have them."""


def read(path: Path | None, environ: Mapping[str, str], *, start: Path) -> Config:
    """
    Return the configuration.

    Args:
        path: The file; if unsaid ``RELEVO_CONFIG``, else the nearest from *start* upwards, else none.

        environ: ``RELEVO_SOURCE``, ``RELEVO_TRANSPORTS__MAIN`` and so on win over the file, in whose
            texts ``${VARIABLE}`` stands for what is here.

        start: Where the search begins, and where relative paths start if there is no file.

    Raises:
        ConfigurationError: The file cannot be read, or says something that is not understood; all
            problems are told together, each with its line.
    """
    return checked(written(path, environ, start=start, known=KEYS))


def opened(config: Config, *, clock: Clock) -> tuple[dict[str, Transport], dict[str, Transport]]:
    """
    Return the transports that *config* describes and their outboxes; none does any I/O until it is used.

    Raises:
        ConfigurationError: A scheme, package or option is not understood, or there is no transport;
            all problems are told together, and no secret is shown.
    """
    problems = Problems(config.origins)
    if not config.transports:
        example = f'for example [transports] main = "sqlite:///{config.source}.db"'
        problems.add((), f"no transport; add one, {example}")
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
    problems.raise_any()
    return transports, outboxes


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
    before = len(problems)
    with problems.at(*keys), _named(where):
        cls = _class_for(entry)
        _refuse_default_password(address)
        given = {"url": address, **entry.options}
        if "patience" in get_type_hints(cls.Options):
            given.setdefault("patience", config.patience)
        options = options_of(cls.Options, given, keys, problems, directory=config.directory)
        if len(problems) == before:
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
    if host not in ("", "localhost", "::1") and not host.startswith("127."):
        raise ConfigurationError(
            f"{masked_url(address)} has a password that stands in every example, and {shown(host)} is not this "
            f"machine; give relevo a user of its own"
        )


# --- options ------------------------------------------------------------------------------------------


def options_of(cls: type, given: Mapping[str, Any], keys: KeyPath, problems: Problems, *, directory: Path) -> Any:
    """
    Return *cls* made of *given*; show no secret of it.

    Args:
        cls: An attrs class.

        given: By the names of its fields.

        keys: Where they were said.

        problems: Learns of unknown keys and wrong types; what is returned then means nothing.

        directory: Where relative paths start.
    """
    before = len(problems)
    where = ".".join(map(str, keys))
    hints = get_type_hints(cls)
    fields = {field.name: field for field in attrs.fields(cls) if field.name != "directory"}
    values: dict[str, Any] = {"directory": directory} if "directory" in hints else {}
    for key, value in given.items():
        with problems.at(*keys, key):
            if key not in fields:
                raise ConfigurationError(f'{where}: unknown option "{key}"{did_you_mean(key, fields)}')
            values[key] = _converted(value, hints[key], where=f"{where}.{key}", directory=directory)
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
