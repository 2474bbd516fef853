"""``relevo config``: the settings, and where each comes from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, get_args, get_type_hints

import attrs
import click

from relevo._config.opening import Config, PluginConfig, TransportConfig, options_class, plugin_options
from relevo._config.settings import KEYS, RETRY_KEYS
from relevo._problem import KeyPath
from relevo._retry import DEFAULT_RETRY, Retry
from relevo._secret import MASK, Secret, masked_url
from relevo._transport.envelope import DEFAULT_QUEUE
from relevo._worker.execution import Execution
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
@click.option("--origin", is_flag=True, help="Also where each value comes from: a line, a variable, or a default.")
@json_option
@with_config
def show(*, config: Config, origin: bool, as_json: bool) -> int:
    """
    Show every value that holds, the defaults too; no secret is shown.

    Example: relevo config show --origin
    """
    rows = [
        {"key": _dotted(keys), "value": value, **({"origin": said} if origin else {})}
        for keys, value, said in _values(config)
    ]
    if as_json:
        show_json(rows)
    else:
        texts = [{**row, "value": _text(row["value"])} for row in rows]
        show_table(["key", "value", *(["origin"] if origin else [])], texts, empty="")
    return 0


_Said = tuple[KeyPath, Any, str]
"""A value without its secrets, and who said it."""


def _values(config: Config) -> Iterator[_Said]:
    """Yield all that holds, in the order of the keys."""
    for key in KEYS:
        yield from _TABLES[key](config) if key in _TABLES else [((key,), _value(config, key), _origin(config, key))]


def _value(config: Config, key: str) -> Any:
    value = getattr(config, key)
    if key == "execution":
        return Execution(value, config.concurrency).chosen
    return list(value) if isinstance(value, tuple) else value


def _plugins(config: Config) -> Iterator[_Said]:
    yield ("plugins",), [each.name for each in config.plugins], _origin(config, "plugins")
    for plugin in config.plugins:
        yield from _plugin(config, plugin)


def _signing(config: Config) -> Iterator[_Said]:
    if config.signing is None:
        yield ("signing",), None, _DEFAULT
        return
    required = config.signing.required
    said = not required or ("signing", "required") in config.origins.said
    yield ("signing", "keys"), [MASK] * len(config.signing.keys), _origin(config, "signing", "keys")
    yield ("signing", "required"), required, _origin(config, "signing", "required", said=said)


def _retries(config: Config) -> Iterator[_Said]:
    for queue, policy in config.retries.items():
        yield from _policy(config, queue, policy)


def _transports(config: Config) -> Iterator[_Said]:
    for name, entry in config.transports.items():
        yield from _transport(config, name, entry)


def _routes(config: Config) -> Iterator[_Said]:
    for pattern, targets in (config.routes or {"*": list(config.transports)[:1]}).items():
        yield ("routes", pattern), list(targets), _origin(config, "routes", pattern)


_TABLES: Mapping[str, Callable[[Config], Iterator[_Said]]] = {
    "plugins": _plugins,
    "signing": _signing,
    "retries": _retries,
    "transports": _transports,
    "routes": _routes,
}
"""The keys that hold more than one value."""


def _policy(config: Config, queue: str, policy: Retry) -> Iterator[_Said]:
    name = queue if ("retries", queue) in config.origins.said else queue.removesuffix(f"/{DEFAULT_QUEUE}")
    for term in RETRY_KEYS:
        value = getattr(policy, term)
        said = ("retries", name, term) in config.origins.said or value != getattr(DEFAULT_RETRY, term)
        yield ("retries", queue, term), value, _origin(config, "retries", name, term, said=said)


def _plugin(config: Config, entry: PluginConfig) -> Iterator[_Said]:
    for option, value in _options(entry, plugin_options):
        said = option in entry.options
        yield ("plugins", entry.name, option), value, _origin(config, *map(str, entry.keys), option, said=said)


def _transport(config: Config, name: str, entry: TransportConfig) -> Iterator[_Said]:
    outbox = entry.outbox.reveal() if entry.outbox else None
    shown = masked_url(outbox) if outbox and "://" in outbox else outbox
    yield ("transports", name, "url"), masked_url(entry.url.reveal()), _origin(config, "transports", name, "url")
    yield (
        ("transports", name, "outbox"),
        shown,
        _origin(config, "transports", name, "outbox", said=outbox is not None),
    )
    for option, value in _options(entry, options_class):
        yield (
            ("transports", name, option),
            value,
            _origin(config, "transports", name, option, said=option in entry.options),
        )


_Entry = TypeVar("_Entry", TransportConfig, PluginConfig)


def _options(entry: _Entry, class_of: Callable[[_Entry], type | None]) -> Iterator[tuple[str, Any]]:
    """Yield what holds beside the address of *entry*; whatever could be a secret is masked."""
    try:
        cls = class_of(entry)
    except ConfigurationError:  # what it could mean is not known, nor what of it is secret
        yield from ((option, MASK) for option in entry.options)
        return
    if cls is None:
        return
    hints = get_type_hints(cls)
    names = {field.name.removesuffix("_"): field for field in attrs.fields(cls)}
    for name, field in names.items():
        value = entry.options.get(name, field.default)
        if field.name in ("url", "directory") or value is attrs.NOTHING:
            continue
        if Secret in (get_args(hints[field.name]) or (hints[field.name],)) and value is not None:
            value = MASK
        yield name, masked_url(value) if isinstance(value, str) and "://" in value else value
    yield from ((option, MASK) for option in entry.options if option not in names)


_DEFAULT = "default"


def _origin(config: Config, *keys: str, said: bool = True) -> str:
    """Return who said the value at *keys*, or what it is a part of, unless it is known that nobody *said* it."""
    found = config.origins.exactly(*keys) if said else None
    if found is None:
        return _DEFAULT
    if found.line is None:
        return found.place
    near = os.path.relpath(found.place)
    return f"{near if len(near) < len(found.place) else found.place}:{found.line}"


def _dotted(keys: KeyPath) -> str:
    return ".".join(f'"{key}"' if {*"/.*"} & {*str(key)} else str(key) for key in keys)


def _text(value: object) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value)) or None
    return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)
