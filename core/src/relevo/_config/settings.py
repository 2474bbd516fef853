"""Validate raw configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from relevo._config import argument
from relevo._config.check import (
    known_names,
    queue_problems,
    retry_problems,
    retry_targets,
    signing_problems,
    target_problems,
    transport_name_problems,
)
from relevo._config.schema import Config, Settings
from relevo._config.source import RawConfig
from relevo._config.table import TableReader, keys_of, table_of
from relevo._problem import MAX_PROBLEMS, Problem, Problems, dotted
from relevo._transport.acceptance import QueueTable
from relevo._transport.route import Routes, Target
from relevo.errors import ConfigurationError


def config_of(raw: RawConfig) -> Config:
    """Return the valid settings of *raw*; ``problems`` has what is invalid."""
    problems = Problems(raw.problems)
    given = {key: value for key, value in raw.values.items() if key != "routes"}
    found = TableReader(problems, directory=raw.directory, origins=raw.origins).values(Settings, given)
    if "routes" in raw.values:
        with problems.at("routes"):
            found["routes"] = _routes(raw.values["routes"], problems)
    written, policies = raw.values.get("transports"), raw.values.get("retries")
    problems.extend(_first(transport_name_problems(written if isinstance(written, dict) else ())))
    retries = retry_targets(policies if isinstance(policies, dict) else (), problems)
    found["queues"] = QueueTable(found.get("queues"), problems).options
    problems.extend(_first(_conflicts(Settings(**found), retries, written, problems)))
    valid = found.get("retries", {})
    found["retries"] = {str(target): valid[name] for name, target in retries.items() if name in valid}
    return Config(
        **found,
        directory=raw.directory,
        path=raw.path,
        is_found=raw.is_found,
        origins=raw.origins,
        problems=tuple(problems),
    )


def _first(problems: Iterable[Problem]) -> list[Problem]:
    """Return as many of *problems* as are reported, before one of them is noted; the others may depend on that."""
    return list(islice(problems, MAX_PROBLEMS))


def _routes(given: Any, problems: Problems) -> Mapping[str, tuple[str, ...]]:
    table = table_of("routes", given, keys_of(Settings)["routes"].example)
    valid = argument.routes(table, problems).table
    return {each: tuple(table[each]) if isinstance(table[each], list) else (table[each],) for each in valid}


def _conflicts(
    settings: Settings, retries: Mapping[str, Target], written: object, problems: Problems
) -> Iterator[Problem]:
    """
    Yield the settings that conflict, or name a transport or a queue that is not there.

    Args:
        settings: The valid ones.

        retries: The queues of their retry policies.

        written: The transports, valid or not; if there are none, the application has its own.

        problems: What is invalid by itself; values that depend on it are not checked.
    """
    try:
        settings.chosen_execution()
    except ConfigurationError as error:
        yield Problem(("concurrency",), error)
    yield from signing_problems(settings.signing, settings.source)
    wrong = [each.keys for each in problems if each.keys[0] == "transports"]
    names = [*(written if isinstance(written, dict) else ()), *(str(keys[1]) for keys in wrong if keys[1:])]
    transports = dict.fromkeys(filter(None, names))
    if not transports:
        return
    yield from target_problems(Routes(settings.routes), transports)
    for name, entry in settings.transports.items():
        for key, text in entry.helpers().items():
            if "://" not in text and text not in transports:
                what = (
                    f"expected the name of a transport, or an address such as sqlite:///shop.db; got neither"
                    f"{known_names(text, transports)}"
                )
                yield Problem(keys := ("transports", name, key), ConfigurationError(f"{dotted(keys)}: {what}"))
    is_open = problems.concern("routes") or (not settings.routes and problems.concern("transports"))
    routes = None if is_open else Routes(settings.routes or settings.default_routes(transports))
    yield from retry_problems(retries, routes, transports)
    yield from queue_problems(QueueTable(settings.queues), routes, transports)
