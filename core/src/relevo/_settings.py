"""All that configuration can say, as one checked value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from relevo._clock import seconds
from relevo._codec import checked_source
from relevo._line import KeyPath
from relevo._origin import Origin, Origins, Problems, Written
from relevo._retry import Retry
from relevo._route import NOW, Routes, Target, parsed_target
from relevo._secret import Secret
from relevo._start import check_targets
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
    plugins: tuple[str, ...] = ()
    setup: str = "auto"
    patience: float = 3600.0
    lease: float = 60.0
    signing: SigningConfig | None = None
    retries: Mapping[str, Retry] = attrs.field(factory=dict)
    """By the queue in which listeners run, as ``transport/queue``."""

    transports: Mapping[str, TransportConfig] = attrs.field(factory=dict)
    routes: Mapping[str, Sequence[str]] = attrs.field(factory=dict)
    origins: Origins = attrs.field(factory=lambda: Origins(Origin("the configuration")), repr=False, eq=False)
    """Where each value comes from."""


KEYS = tuple(field.name for field in attrs.fields(Config) if field.name not in ("directory", "path", "origins"))


def checked(written: Written) -> Config:
    """
    Return what was *written*, if it can be meant.

    Raises:
        ConfigurationError: Something is not understood; all problems are told together.
    """
    problems = written.problems
    found: dict[str, Any] = {}
    for key in written.values:
        if key not in KEYS:
            problems.add((key,), f'unknown key "{key}"{did_you_mean(key, KEYS) or "; known: " + ", ".join(KEYS)}')
    for key in KEYS:
        if key in written.values:
            with problems.at(key):
                found[key] = _CHECKS[key](key, written.values[key], problems)
    if problems.complete:
        said = written.values.get("transports")
        _check_names(found, tuple(said) if isinstance(said, dict) else (), problems)
    problems.raise_any()
    found["retries"] = {str(target): policy for target, policy in found.get("retries", {}).values()}
    return Config(directory=written.directory, path=written.path, origins=written.origins, **found)


def _check_names(found: Mapping[str, Any], transports: Sequence[str], problems: Problems) -> None:
    """
    Check that what names a transport or a queue names one of those that are there.

    Args:
        found: What is right by itself.

        transports: All that are there, right or not; if there are none it is the application that has them.

        problems: Learns of what is not there.
    """
    if not transports:
        return
    table: Mapping[str, Sequence[str]] = found.get("routes", {})
    for pattern, targets in table.items():
        with problems.at("routes", pattern):
            check_targets(Routes({pattern: targets}), transports)
    routes = Routes(table or {"*": transports[0]})
    for name, entry in found.get("transports", {}).items():
        text = entry.outbox.reveal() if entry.outbox else "://"
        if "://" not in text and text not in transports:
            where = f"transports.{name}.outbox"
            hint = did_you_mean(text, transports)
            problems.add(
                ("transports", name, "outbox"), f"{where}: neither an address nor the name of a transport{hint}"
            )
    for name, (target, _) in found.get("retries", {}).items():
        known = routes.queues(target.transport)
        fault = ""
        if target.transport not in transports:
            hint = did_you_mean(target.transport, transports)
            fault = f"no transport is called {shown(target.transport)}{hint}"
        elif target.queue not in known:
            fault = f"nothing is routed to that queue{did_you_mean(target.queue, known)}"
        if fault:
            problems.add(("retries", name), f'retries."{name}": {fault}')


# --- one key after the other -----------------------------------------------------------------------------


def _text(where: str, value: object, _: Problems) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{where}: expected text, got {shown(value)}")
    return value


def _source(_: str, value: object, __: Problems) -> str:
    return checked_source(value)


def _texts(where: str, value: object, _: Problems) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise ConfigurationError(f'{where}: expected a list of text such as ["shop.listeners"], got {shown(value)}')
    return tuple(value)


def _setup(where: str, value: object, _: Problems) -> str:
    if value not in ("auto", "explicit"):
        raise ConfigurationError(f'{where}: expected "auto" or "explicit", got {shown(value)}')
    return str(value)


def duration(where: str, value: object, _: object = None) -> float:
    """Return *value* in seconds; take numbers in text too, since the environment has nothing else."""
    is_number = isinstance(value, str) and value.replace(".", "", 1).isdecimal()
    return seconds(float(value) if is_number else value, what=where)  # type: ignore[arg-type]


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


def _routes(where: str, value: object, problems: Problems) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise ConfigurationError(f'{where}: expected a table such as "*" = "main", got {shown(value)}')
    found = {}
    for pattern, each in value.items():
        with problems.at(where, pattern):
            targets = (each,) if isinstance(each, str) else _texts(f'{where}."{pattern}"', each, problems)
            Routes({pattern: targets})
            found[pattern] = targets
    return found


def _signing(where: str, value: object, problems: Problems) -> SigningConfig:
    """Check the keys for signatures; none is ever shown."""
    table = value if isinstance(value, dict) else {"keys": value}
    for key in table:
        if key not in ("keys", "required"):
            problems.add((where, key), f'{where}: unknown key "{key}"{did_you_mean(key, ("keys", "required"))}')
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
            if key not in _TERMS:
                raise ConfigurationError(
                    f'{where}: unknown key "{key}"{did_you_mean(key, _TERMS)}; known: {", ".join(_TERMS)}'
                )
            terms[key] = _TERMS[key](f"{where}.{key}" if isinstance(value, dict) else where, each)
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
    if isinstance(value, str) and value.replace(".", "", 1).isdecimal():
        return float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(f"{where}: expected a number, got {shown(value)}")
    return float(value)


_TERMS: Mapping[str, Callable[[str, object], Any]] = {
    "runs": _whole,
    "first": duration,
    "factor": _number,
    "cap": duration,
    "jitter": _number,
}
"""The fields of a policy that have a form in TOML."""

_CHECKS: Mapping[str, Callable[[str, object, Problems], Any]] = {
    "source": _source,
    "app": _text,
    "setup": _setup,
    "patience": duration,
    "lease": duration,
    "listeners": _texts,
    "plugins": _texts,
    "signing": _signing,
    "retries": _retries,
    "transports": _transports,
    "routes": _routes,
}
