"""The settings as one validated value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from relevo._clock import seconds
from relevo._config.check import checked_lease, retry_problems, target_problems
from relevo._config.source import RawConfig
from relevo._event.codec import checked_source
from relevo._problem import KeyPath, Origin, Origins, Problem, Problems
from relevo._retry import Retry
from relevo._secret import Secret
from relevo._transport.route import NOW, Routes, Target, parsed_target
from relevo._worker.execution import Execution
from relevo.errors import ConfigurationError, did_you_mean, shown

_SHORTEST_KEY = 32
"""Characters of a key for signatures; shorter ones are passwords that somebody thought of."""


@attrs.frozen(kw_only=True)
class TransportConfig:
    """One entry under ``[transports]``."""

    name: str
    url: Secret
    outbox: Secret | None = None
    """The name of another transport, or an address."""

    options: Mapping[str, Any] = attrs.field(factory=dict, repr=False)


@attrs.frozen(kw_only=True)
class PluginConfig:
    """One entry under ``plugins``."""

    name: str
    """Under which an installed package offers it, a module, or ``module:name``."""

    options: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    keys: KeyPath = attrs.field(repr=False, eq=False)
    """Where it was said: a place in a list, or a table."""


@attrs.frozen(kw_only=True)
class SigningConfig:
    """Keys for the signatures of events."""

    keys: tuple[Secret, ...]
    """The first one signs; all are tried on what arrives."""

    required: bool = True
    """What arrives without a signature is refused."""


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
    plugins: tuple[PluginConfig, ...] = ()
    setup: str = "auto"
    patience: float = 3600.0
    lease: float = 60.0
    execution: str | None = None
    concurrency: int = 1
    time_limit: float = 900.0
    memory_limit: int | None = None
    recycle_after: int | None = None
    lock: str | None = None
    deploy: str | None = None
    signing: SigningConfig | None = None
    retries: Mapping[str, Retry] = attrs.field(factory=dict)
    """By the queue in which listeners run, as ``transport/queue``."""

    transports: Mapping[str, TransportConfig] = attrs.field(factory=dict)
    routes: Mapping[str, Sequence[str]] = attrs.field(factory=dict)
    origins: Origins = attrs.field(factory=lambda: Origins(Origin("the configuration")), repr=False, eq=False)
    """Where each value comes from."""

    problems: tuple[Problem, ...] = attrs.field(default=(), repr=False, eq=False)
    """What was said and is not understood, and so is not in here."""


KEYS = tuple(
    field.name for field in attrs.fields(Config) if field.name not in ("directory", "path", "origins", "problems")
)


def config_of(raw: RawConfig) -> Config:
    """Return what was *written* as far as it can be meant; of the rest its ``problems`` tell."""
    problems = Problems(raw.problems)
    found: dict[str, Any] = {}
    for key in raw.values:
        if key not in KEYS:
            problems.add((key,), f'unknown key "{key}"{did_you_mean(key, KEYS) or "; known: " + ", ".join(KEYS)}')
    for key in KEYS:
        if key in raw.values:
            with problems.at(key):
                found[key] = _CHECKS[key](key, raw.values[key], problems)
    with problems.at("concurrency"):
        Execution(found.get("execution"), found.get("concurrency", 1))
    problems.extend(list(_misnamed(found, raw.values.get("transports"), problems)))
    found["retries"] = {str(target): policy for target, policy in found.get("retries", {}).values()}
    return Config(directory=raw.directory, path=raw.path, origins=raw.origins, problems=tuple(problems), **found)


def _misnamed(found: Mapping[str, Any], written: object, problems: Problems) -> Iterator[Problem]:
    """
    Yield what names a transport or a queue and none of those that are there.

    Args:
        found: What is right by itself.

        written: The transports, right or not; if there are none it is the application that has them.

        problems: What is wrong by itself; nothing is said of what would need it.
    """
    wrong = [each.keys for each in problems if each.keys[0] == "transports"]
    names = [*(written if isinstance(written, dict) else ()), *(str(keys[1]) for keys in wrong if keys[1:])]
    transports = dict.fromkeys(filter(None, names))
    if not transports:
        return
    table: Mapping[str, Sequence[str]] = found.get("routes", {})
    yield from target_problems(Routes(table), transports)
    for name, entry in found.get("transports", {}).items():
        text = entry.outbox.reveal() if entry.outbox else "://"
        if "://" not in text and text not in transports:
            what = f"neither an address nor the name of a transport{did_you_mean(text, transports)}"
            keys = ("transports", name, "outbox")
            yield Problem(keys, ConfigurationError(f"{'.'.join(keys)}: {what}"))
    routes = None if problems.concern("routes") else Routes(table or {"*": next(iter(transports))})
    yield from retry_problems(found.get("retries", {}), routes, transports)


# --- one key after the other -----------------------------------------------------------------------------


def _text(where: str, value: object, _: Problems) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{where}: expected text, got {shown(value)}")
    return value


def _source(_: str, value: object, __: Problems) -> str:
    return checked_source(value)


def _app(where: str, value: object, problems: Problems) -> str:
    text = _text(where, value, problems)
    if not all(text.partition(":")):
        raise ConfigurationError(f'{where}: write "module:name", as in "shop:app", not {shown(text)}')
    return text


def _texts(where: str, value: object, _: Problems) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise ConfigurationError(f'{where}: expected a list of text such as ["shop.listeners"], got {shown(value)}')
    return tuple(value)


def _plugins(where: str, value: object, problems: Problems) -> tuple[PluginConfig, ...]:
    """Check a list of names, or a table from names to options; these are never shown, since one may be a password."""
    if not isinstance(value, dict):
        try:
            names = _texts(where, value, problems)
        except ConfigurationError as error:
            raise ConfigurationError(f"{error}; with options write [{where}.mail]") from None
        return tuple(PluginConfig(name=each, keys=(where, place)) for place, each in enumerate(names))
    found = []
    for name, options in value.items():
        with problems.at(where, name):
            if not name or not isinstance(options, dict):
                kind = type(options).__name__
                raise ConfigurationError(
                    f'{where}."{name}": expected a table of its options, which may be {{}}, got {kind}'
                )
            found.append(PluginConfig(name=name, options=options, keys=(where, name)))
    return tuple(found)


def _setup(where: str, value: object, _: Problems) -> str:
    if value not in ("auto", "explicit"):
        raise ConfigurationError(f'{where}: expected "auto" or "explicit", got {shown(value)}')
    return str(value)


def duration(where: str, value: object, _: object = None) -> float:
    """Return *value* in seconds; take numbers in text too, since the environment has nothing else."""
    return seconds(_as_number(value), what=where)


def _lease(_: str, value: object, __: Problems) -> float:
    return checked_lease(_as_number(value))


def _kind(_: str, value: object, __: Problems) -> str | None:
    return Execution(kind=value).kind


def _term(where: str, value: object, _: Problems) -> Any:
    return getattr(Execution(**{where: value}), where)


def _as_number(value: object) -> object:
    return float(value) if isinstance(value, str) and value.replace(".", "", 1).isdecimal() else value


def _transports(where: str, value: object, problems: Problems) -> dict[str, TransportConfig]:
    """Check every transport; what is wrong is never shown, since it may hold a password."""
    if not isinstance(value, dict):
        raise ConfigurationError(
            f'{where}: expected a table such as [transports] main = "sqlite:///shop.db", got {type(value).__name__}'
        )
    found = {}
    for name, entry in value.items():
        with problems.at(where, name):
            found[name] = _transport(f"{where}.{name}", name, entry)
    return found


def _transport(where: str, name: str, entry: object) -> TransportConfig:
    if not name:
        raise ConfigurationError(f'{where} "" = …: a transport needs a name; write main = "…", and that in the routes')
    if name == NOW or "/" in name or not name.isprintable():
        raise ConfigurationError(f'{where}: a transport cannot be called {shown(name)}; "{NOW}" and slashes are taken')
    table = {"url": entry} if isinstance(entry, str) else entry
    if isinstance(table, dict) and "url" not in table:
        for key in table:
            if near := did_you_mean(key, ("url",)):
                raise ConfigurationError(f'{where}: unknown option "{key}"{near}')
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


def _routes(where: str, value: object, problems: Problems) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise ConfigurationError(f'{where}: expected a table such as "*" = "main", got {shown(value)}')
    found = {}
    for pattern, each in value.items():
        with problems.at(where, pattern):
            targets = tuple(each) if isinstance(each, list) else (each,)
            if not all(isinstance(target, str) for target in targets):
                raise ConfigurationError(
                    f'{where}."{pattern}": expected "main", "main/queue" or a list of such, got {shown(each)}'
                )
            Routes({pattern: targets})
            found[pattern] = targets
    return found


def _signing(where: str, value: object, problems: Problems) -> SigningConfig:
    """Check the keys for signatures; none is ever shown."""
    table = value if isinstance(value, dict) else {"keys": value}
    for key in table:
        if key not in ("keys", "required"):
            near = did_you_mean(key, ("keys", "required")) or "; known: keys, required"
            problems.add((where, key), f'{where}: unknown key "{key}"{near}')
    keys = table.get("keys")
    keys = [keys] if isinstance(keys, str) else keys
    if not isinstance(keys, list) or not keys or not all(isinstance(each, str) for each in keys):
        raise ConfigurationError(f"{where}: expected a key, a list of keys, or {{ keys = […], required = true }}")
    if any(len(each) < _SHORTEST_KEY for each in keys):
        mend = "openssl rand -hex 32 makes a good one"
        raise ConfigurationError(f"{where}: a key has at least {_SHORTEST_KEY} characters; {mend}")
    if len(set(keys)) != len(keys):
        raise ConfigurationError(f"{where}: a key is there twice")
    required = {"true": True, "false": False}.get(str(table.get("required", True)).lower())
    if required is None:
        raise ConfigurationError(f"{where}.required: expected true or false")
    return SigningConfig(keys=tuple(map(Secret, keys)), required=required)


def _retries(where: str, value: object, problems: Problems) -> dict[str, tuple[Target, Retry]]:
    if not isinstance(value, dict):
        raise ConfigurationError(f'{where}: expected a table such as "main/feed" = 8, got {shown(value)}')
    found: dict[str, tuple[Target, Retry]] = {}
    for name, each in value.items():
        here = f'{where}."{name}"'
        with problems.at(where, name):
            target = parsed_target(name, where=here)
            if any(target == other for other, _ in found.values()):
                raise ConfigurationError(f"{here}: {target} is there twice; its default queue need not be named")
            found[name] = target, _retry((where, name), here, each, problems)
    return found


def _retry(keys: KeyPath, where: str, value: object, problems: Problems) -> Retry:
    table = value if isinstance(value, dict) else {"runs": value}
    terms: dict[str, Any] = {}
    for key, each in table.items():
        with problems.at(*keys, key):
            if key == "give_up_on":
                raise ConfigurationError(
                    f"{where}: give_up_on names classes, which stand in code: listener(…, retry=Retry(…))"
                )
            if key not in RETRY_KEYS:
                raise ConfigurationError(
                    f'{where}: unknown key "{key}"{did_you_mean(key, RETRY_KEYS)}; known: {", ".join(RETRY_KEYS)}'
                )
            terms[key] = RETRY_KEYS[key](f"{where}.{key}" if isinstance(value, dict) else where, each)
    if "first" in table and "first" not in terms:  # cap would be compared with what nobody said
        terms.pop("cap", None)
    try:
        return Retry(**terms)
    except ConfigurationError as error:
        raise ConfigurationError(str(error).replace("Retry", where, 1)) from None


def _whole(where: str, value: object) -> int:
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if type(value) is not int:
        raise ConfigurationError(f"{where}: expected a number of runs, got {shown(value)}")
    return value


def _number(where: str, value: object) -> float:
    value = _as_number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(f"{where}: expected a number, got {shown(value)}")
    return float(value)


RETRY_KEYS: Mapping[str, Callable[[str, object], Any]] = {
    field.name: duration if "is_duration" in field.metadata else {"int": _whole, "float": _number}[str(field.type)]
    for field in attrs.fields(Retry)
    if "is_code" not in field.metadata
}
"""The keys of a retry policy, and the function that reads each."""

_CHECKS: Mapping[str, Callable[[str, object, Problems], Any]] = {
    "source": _source,
    "app": _app,
    "setup": _setup,
    "patience": duration,
    "lease": _lease,
    "execution": _kind,
    "concurrency": _term,
    "time_limit": _term,
    "memory_limit": _term,
    "recycle_after": _term,
    "lock": _text,
    "deploy": _text,
    "listeners": _texts,
    "plugins": _plugins,
    "signing": _signing,
    "retries": _retries,
    "transports": _transports,
    "routes": _routes,
}
