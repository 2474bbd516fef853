"""
Find installed backends by name. The only module that uses stevedore.

Nothing is imported until it is named. An import that fails is an error, and so is a name that two packages claim.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from relevo.errors import PluginError, TransportNotFoundError

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint, EntryPoints

TRANSPORTS = "relevo.transports"
SCHEMES = "relevo.schemes"
RUNNERS = "relevo.runners"
PLUGINS = "relevo.plugins"

_NAMESPACES = frozenset((TRANSPORTS, SCHEMES, RUNNERS, PLUGINS))


_OWN = {
    "sqlite": "relevo-sql",
    "sql": "relevo-sql",
    "postgresql": "relevo-sql[postgresql]",
    "mariadb": "relevo-sql[mariadb]",
    "mysql": "relevo-sql[mysql]",
    "mssql": "relevo-sql",
    "oracle": "relevo-sql",
    "cockroachdb": "relevo-sql",
    "amqp": "relevo-amqp",
    "amqps": "relevo-amqp",
    "memory": "relevo-memory",
}
"""Relevo's own distributions by the name that they offer, for the error that names what to install."""

_OTHER_NAMES = {"postgres": "postgresql"}
"""Schemes of addresses that hosting platforms hand out, and what they are otherwise called."""

_NO_REDIS = 'relevo has no transport for Redis; use a database or RabbitMQ, or see "Write a transport"'
_ADVICE = {
    "redis": _NO_REDIS,
    "rediss": _NO_REDIS,
    "valkey": _NO_REDIS,
    "pyamqp": "write amqp://",
    "rabbitmq": "write amqp://",
    "mysql2": "write mysql://",
    "doctrine": "write the address of the database, such as postgresql://localhost/shop",
    "sync": 'handle events at once by a route to "now"',
}
"""What to do instead, by the scheme of other tools and of services that relevo has no transport for."""

_UNTESTED = {("mssql", "sql"), ("oracle", "sql"), ("cockroachdb", "sql")}
"""Schemes for which relevo-sql has only its portable dialect, which must be chosen; not offered to users."""


def transport_of_scheme(scheme: str) -> str:
    """
    Return the name of the transport for addresses that begin with *scheme*.

    Args:
        scheme: As in ``sqlite:///…``; a driver after a plus sign is left out of the search.

    Raises:
        TransportNotFoundError: No installed package claims it; names what to install if that is known.

        PluginError: Two packages claim it.
    """
    wanted = scheme.partition("+")[0]
    wanted = _OTHER_NAMES.get(wanted, wanted)
    found = _only(SCHEMES, wanted)
    if found is None:
        offered = {point.name for point in _points(SCHEMES) if (point.name, point.value) not in _UNTESTED}
        raise TransportNotFoundError(scheme, offered, distribution=_OWN.get(wanted), advice=_ADVICE.get(wanted, ""))
    return found.value


def transport_class(name: str) -> Any:
    """
    Import and return the transport class called *name*.

    Raises:
        TransportNotFoundError: No installed package offers it.

        PluginError: It cannot be imported, or two packages offer it.
    """
    if _only(TRANSPORTS, name) is None:
        raise TransportNotFoundError(name, available(TRANSPORTS), distribution=_OWN.get(name))
    return load(TRANSPORTS, name)


def load(namespace: str, name: str) -> Any:
    """
    Import and return the object called *name* in *namespace*.

    Raises:
        PluginError: There is no such name, the object cannot be imported, or two packages claim the name.
    """
    found = _only(namespace, name)
    if found is None:
        raise PluginError(
            f'nothing in {namespace} is called "{name}"; available: {", ".join(available(namespace)) or "none"}'
        )
    from stevedore import DriverManager  # noqa: PLC0415 - loaded only when configuration names something
    from stevedore.exception import NoMatches  # noqa: PLC0415 - only when configuration names something

    def fail(_: object, __: object, error: BaseException) -> None:
        raise error

    try:
        try:
            manager: Any = DriverManager(namespace, name, on_load_failure_callback=fail)
        except NoMatches:  # stevedore caches, even on disk, what was installed at its first search
            return found.load()
    except Exception as error:
        fix = ""
        if isinstance(error, ModuleNotFoundError) and found.dist:
            fix = f'; install "{found.dist.name}" again, with what it requires'
        raise PluginError(f'{namespace} "{name}" ({_origin(found)}) cannot be imported: {error}{fix}') from error
    return manager.driver


def available(namespace: str) -> Sequence[str]:
    """Return the names that installed packages offer in *namespace*."""
    return sorted({point.name for point in _points(namespace)})


def _only(namespace: str, name: str) -> EntryPoint | None:
    points = _points(namespace).select(name=name)
    if len(points) < 2:
        return next(iter(points), None)
    found = {(point.value, _origin(point)): point for point in points}
    if len(found) > 1:
        claims = " and ".join(f"{origin} ({value})" for value, origin in sorted(found))
        raise PluginError(f'{namespace} "{name}" is claimed by {claims}; uninstall one')
    return next(iter(found.values()))


def _points(namespace: str) -> EntryPoints:
    """Return what installed packages declare in *namespace*."""
    from importlib.metadata import EntryPoints  # noqa: PLC0415 - it takes longer than the rest of relevo

    declared = _declared(tuple((folder, _changed_at(folder)) for folder in sys.path))
    return EntryPoints(declared.get(namespace, ()))


@lru_cache(maxsize=1)
def _declared(folders: tuple[tuple[str, int | None], ...]) -> Mapping[str, Sequence[EntryPoint]]:
    """Return what the packages in *folders* declare, by namespace; a package counts where it is found first."""
    found: dict[str, list[EntryPoint]] = {}
    packages: set[str] = set()
    for folder, changed in folders:
        inside = _declared_in(folder, changed)
        for package, points in inside.items():
            if package not in packages:
                for point in points:
                    found.setdefault(point.group, []).append(point)
        packages.update(inside)
    return found


@lru_cache(maxsize=64)
def _declared_in(folder: str, _: int | None) -> Mapping[str, Sequence[EntryPoint]]:
    """
    Return what each package in *folder* declares in a namespace of relevo.

    Python reads the metadata of every installed package for each search, and a command searches about ten times. A
    package that is installed or removed meanwhile changes the time of its folder. So does a database that is created
    beside the application, and then only that folder is read again.
    """
    from importlib.metadata import distributions  # noqa: PLC0415 - as above

    found: dict[str, Sequence[EntryPoint]] = {}
    for package in distributions(path=[folder]):
        points = [point for point in package.entry_points if point.group in _NAMESPACES]
        if points:
            found.setdefault(_normalized_name(package), points)
    return found


def _normalized_name(package: Distribution) -> str:
    """Return the name of *package* in the form in which the names of one package are equal: PEP 503."""
    # Python knows it from the name of a folder; to read it from the metadata imports the parser of mails.
    name: str = getattr(package, "_normalized_name", None) or package.name
    return re.sub(r"[-_.]+", "-", name).lower()


def _changed_at(folder: str) -> int | None:
    try:
        return os.stat(folder).st_mtime_ns  # noqa: PTH116 - for each folder at each search, and a Path takes twice as long
    except OSError:
        return None


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
