"""Validate raw configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relevo._config import argument
from relevo._config.check import retry_targets, setting_problems, transport_name_problems
from relevo._config.schema import Config, PluginConfig, Settings
from relevo._config.source import RawConfig
from relevo._config.table import TableReader, keys_of, table_of, wrong_type
from relevo._problem import Problems, dotted


def config_of(raw: RawConfig) -> Config:
    """Return the valid settings of *raw*; ``problems`` has what is invalid."""
    problems = Problems(raw.problems)
    own = {"plugins": _plugins, "routes": _routes}
    found = TableReader(problems, directory=raw.directory).values(
        Settings, {key: value for key, value in raw.values.items() if key not in own}
    )
    for key, read in own.items():
        if key in raw.values:
            with problems.at(key):
                found[key] = read(raw.values[key], problems)
    written = raw.values.get("transports")
    problems.extend(list(transport_name_problems(written if isinstance(written, dict) else ())))
    policies = found.get("retries", {})
    retries = retry_targets(policies, problems)
    problems.extend(list(setting_problems(Settings(**found), retries, written, problems)))
    found["retries"] = {str(target): policies[name] for name, target in retries.items()}
    return Config(**found, directory=raw.directory, path=raw.path, origins=raw.origins, problems=tuple(problems))


def _plugins(given: Any, problems: Problems) -> tuple[PluginConfig, ...]:
    """Read a list of names, or a table from names to options, whose values are not read yet."""
    key = keys_of(Settings)["plugins"]
    if isinstance(given, list) and all(isinstance(each, str) and each for each in given):
        return tuple(PluginConfig(name=each, keys=("plugins", place)) for place, each in enumerate(given))
    if not isinstance(given, dict):
        raise wrong_type("plugins", f"Expected `array` of `str`, got `{type(given).__name__}`", key.example)
    found = []
    for name, options in given.items():
        with problems.at("plugins", name):
            if not isinstance(options, dict):
                what = f"Expected `object`, got `{type(options).__name__}`"
                raise wrong_type(dotted(("plugins", name)), what, "{}")
            found.append(PluginConfig(name=name, options=options, keys=("plugins", name)))
    return tuple(found)


def _routes(given: Any, problems: Problems) -> Mapping[str, tuple[str, ...]]:
    table = table_of(keys_of(Settings)["routes"], given)
    valid = argument.routes(table, problems).table
    return {each: tuple(table[each]) if isinstance(table[each], list) else (table[each],) for each in valid}
