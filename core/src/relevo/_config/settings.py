"""Validate raw configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relevo._config import argument
from relevo._config.check import retry_targets, setting_problems, transport_name_problems
from relevo._config.schema import Config, Settings
from relevo._config.source import RawConfig
from relevo._config.table import TableReader, keys_of, table_of
from relevo._problem import Problems


def config_of(raw: RawConfig) -> Config:
    """Return the valid settings of *raw*; ``problems`` has what is invalid."""
    problems = Problems(raw.problems)
    given = {key: value for key, value in raw.values.items() if key != "routes"}
    found = TableReader(problems, directory=raw.directory, origins=raw.origins).values(Settings, given)
    if "routes" in raw.values:
        with problems.at("routes"):
            found["routes"] = _routes(raw.values["routes"], problems)
    written, policies = raw.values.get("transports"), raw.values.get("retries")
    problems.extend(list(transport_name_problems(written if isinstance(written, dict) else ())))
    retries = retry_targets(policies if isinstance(policies, dict) else (), problems)
    problems.extend(list(setting_problems(Settings(**found), retries, written, problems)))
    valid = found.get("retries", {})
    found["retries"] = {str(target): valid[name] for name, target in retries.items() if name in valid}
    return Config(**found, directory=raw.directory, path=raw.path, origins=raw.origins, problems=tuple(problems))


def _routes(given: Any, problems: Problems) -> Mapping[str, tuple[str, ...]]:
    table = table_of("routes", given, keys_of(Settings)["routes"].example)
    valid = argument.routes(table, problems).table
    return {each: tuple(table[each]) if isinstance(table[each], list) else (table[each],) for each in valid}
