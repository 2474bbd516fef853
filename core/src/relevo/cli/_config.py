"""``relevo config``: the settings and their sources."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import click
import msgspec

from relevo._config.opening import options_class, plugin_options
from relevo._config.schema import Config, PluginConfig, Settings, TransportConfig
from relevo._config.table import keys_of
from relevo._problem import KeyPath, dotted
from relevo._secret import MASK, Secret, masked_url, without_secrets
from relevo._transport.envelope import DEFAULT_QUEUE
from relevo.cli._main import Group
from relevo.cli._option import json_option, with_config
from relevo.cli._output import show_json, show_table
from relevo.errors import ConfigurationError


@click.group(cls=Group)
def config() -> None:
    """
    Show the configuration, and where each value comes from.

    Example: relevo config show --origin
    """


@config.command("show")
@click.option("--origin", is_flag=True, help="Also show where each value comes from: a line, a variable, or a default.")
@json_option
@with_config
def show(*, config: Config, origin: bool, as_json: bool) -> int:
    """
    Show the value of every key, defaults included; secrets are masked.

    Example: relevo config show --origin
    """
    rows = [
        {"key": dotted(keys), "value": value, **({"origin": where} if origin else {})}
        for keys, value, where in _rows(config)
    ]
    if as_json:
        show_json(rows)
    else:
        texts = [{**row, "value": _text(row["value"])} for row in rows]
        show_table(["key", "value", *(["origin"] if origin else [])], texts, empty="")
    return 0


_Row = tuple[KeyPath, Any, str]
"""A key, its value without secrets, and its origin."""


def _rows(config: Config) -> Iterator[_Row]:
    """Yield all values, in the order of the schema."""
    config = msgspec.structs.replace(
        config,
        execution=config.chosen_execution().chosen,
        routes=config.routes or (config.default_routes() if config.transports else {"*": ()}),
    )
    for key in keys_of(Settings).values():
        value = getattr(config, key.name)
        entries = value if key.is_mapping else {"": value}
        if key.name == "plugins":
            yield _row(config, (key.name,), tuple(entries))
        elif key.is_mapping and not entries:
            yield (key.name,), {}, _DEFAULT
        for name, entry in entries.items():
            keys = (key.name, name) if name else (key.name,)
            yield from _table(config, keys, entry) if attrs.has(type(entry)) else [_row(config, keys, entry)]


def _row(config: Config, keys: KeyPath, value: Any) -> _Row:
    return keys, _masked(value), _origin(config, *keys)


def _table(config: Config, keys: KeyPath, table: Any) -> Iterator[_Row]:
    """Yield the values of *table*, an attrs class, and the options of a transport or plugin."""
    written = _written(config, keys)
    cls: Any = type(table)
    for key in keys_of(cls).values():
        if key.code_only:
            continue
        value = getattr(table, key.field)
        if isinstance(table, TransportConfig) and isinstance(value, Secret):
            text = value.reveal()
            value = text if text in config.transports else masked_url(text)
        is_set = (*written, key.name) in config.origins.said or value != key.default
        yield (*keys, key.name), _masked(value), _origin(config, *written, key.name, is_set=is_set)
    if isinstance(table, TransportConfig):
        yield from _options(config, keys, table.options, lambda: options_class(table))
    elif isinstance(table, PluginConfig):
        yield from _options(config, keys, table.options, lambda: plugin_options(str(keys[-1])))


def _written(config: Config, keys: KeyPath) -> KeyPath:
    """Return *keys* as they were written: the name of the default queue may be omitted."""
    if keys in config.origins.said:
        return keys
    return tuple(key.removesuffix(f"/{DEFAULT_QUEUE}") if isinstance(key, str) else key for key in keys)


def _masked(value: Any) -> Any:
    """Return *value* with secrets and passwords in addresses masked."""
    match value:
        case Secret():
            return MASK
        case tuple():
            return [_masked(each) for each in value]
        case Path():
            value = str(value)
    return without_secrets(value)


def _options(
    config: Config, keys: KeyPath, given: Mapping[str, Any], class_of: Callable[[], type | None]
) -> Iterator[_Row]:
    """Yield the options *given* at *keys* and the defaults of the others; possible secrets are masked."""
    try:
        cls = class_of()
        known = keys_of(cls) if cls else {}
    except ConfigurationError:  # its options are not known, so any of them may be a secret
        known = {}
    for name, key in known.items():
        value = given.get(name, key.default)
        if name == "url" or (key.is_required and name not in given):
            continue
        if key.table and isinstance(value, Mapping) and value:
            for inner, each in value.items():
                yield (*keys, name, inner), _masked(each), _origin(config, *keys, name, inner)
            continue
        shown = MASK if key.is_secret and value is not None else _masked(value)
        yield (*keys, name), shown, _origin(config, *keys, name, is_set=name in given)
    yield from (((*keys, name), MASK, _origin(config, *keys, name)) for name in given if name not in known)


_DEFAULT = "default"


def _origin(config: Config, *keys: str | int, is_set: bool = True) -> str:
    """Return the origin of the value at *keys* or of a value around it; ``default`` unless it *is_set*."""
    found = config.origins.exactly(*keys) if is_set else None
    if found is None:
        return _DEFAULT
    if found.line is None:
        return found.place
    near = os.path.relpath(found.place)
    return f"{near if len(near) < len(found.place) else found.place}:{found.line}"


def _text(value: object) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or None
    return None if value is None or value == {} else str(value)
