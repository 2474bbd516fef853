"""Options of the transport, and the engine that they describe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import attrs
import sqlalchemy as sa

from relevo import Secret, masked_url
from relevo.backend.tls import Tls, is_loopback
from relevo.errors import ConfigurationError, did_you_mean, shown
from relevo_sql._dialect import dialect_named, require_dialect
from relevo_sql._dialect.sqlite import in_memory
from relevo_sql._hosted import MODE, check_parameters, mysql_mode, postgresql_named

_URI = ("cache", "immutable", "mode", "nolock", "psow", "vfs")
"""The parameters of a ``file:`` URI that SQLite itself knows: https://www.sqlite.org/uri.html"""

_KNOWN = (*_URI, "uri")
"""The parameters that an address may have. How the driver connects is up to relevo."""

_MODES = ("ro", "rw", "rwc", "memory")

INBOX_KEEP = 14 * 86_400.0
"""Seconds for which the inbox remembers a listener, unless an option says another number."""


def _secret(url: str | Secret) -> Secret:
    return url if isinstance(url, Secret) else Secret(url)


def _is_time(value: object) -> bool:
    """Return whether *value* is a number of seconds above 0."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")


def _positive(_: object, attribute: attrs.Attribute[float], value: object) -> None:
    if not _is_time(value):
        raise ConfigurationError(f"{attribute.name}: expected a number of seconds above 0; got {value!r}")


def _kept(_: object, attribute: attrs.Attribute[float | None], value: object) -> None:
    if value is not None and not _is_time(value):
        raise ConfigurationError(
            f"{attribute.name}: expected a number of seconds above 0; got {value!r}; omit it to delete each event as "
            f"soon as it is done"
        )


def _octal(_: object, attribute: attrs.Attribute[str | None], value: str | None) -> None:
    if value is not None and not re.fullmatch("0?6[0-7][0-7]", str(value)):
        raise ConfigurationError(
            f'{attribute.name}: expected permissions with which the owner can read and write, such as "0600" or '
            f'"0660"; got {shown(value)}'
        )


@attrs.frozen(kw_only=True)
class SqlOptions:
    """The options of an SQL transport in the configuration."""

    url: Secret = attrs.field(converter=_secret)
    """
    ``sqlite:///shop.db``, with four slashes an absolute path; or ``postgresql://user@host/shop``, likewise with
    ``mariadb`` and ``mysql``.
    """

    directory: Path = attrs.field(factory=Path)
    """The folder that relative paths start from."""

    busy_timeout: float = attrs.field(default=30.0, validator=_positive)
    """Seconds to wait for the transaction of another writer to end."""

    file_mode: Annotated[str | None, '"0660"'] = attrs.field(default=None, validator=_octal)
    """
    The permissions of an SQLite file that relevo creates, such as ``"0660"``, whatever the umask is.

    By default only this user can read and write it. A file that exists keeps its permissions.
    """

    tls: Tls | None = None
    """
    How connections to PostgreSQL, MariaDB or MySQL are encrypted; ``{}`` for the authorities that the system trusts.

    By default the address and the driver decide, and no certificate is checked.
    """

    poll: float = attrs.field(default=0.1, validator=_positive)
    """Seconds between two polls of a ``receive`` that has waited for long; it begins with shorter intervals."""

    notify: bool = True
    """
    Whether a ``receive`` that waits is woken by the notifications of PostgreSQL; without effect on other databases.

    It needs one more connection for each process that waits, and the server itself: PgBouncer passes on none.
    """

    schema: str | None = None
    """
    The schema of relevo's tables on PostgreSQL; by default the first one of the ``search_path`` that exists.

    Setup creates it. Sessions of the application need not have it in their ``search_path``.
    """

    inbox_keep: float = attrs.field(default=INBOX_KEEP, validator=_positive)
    """
    Seconds for which it remembers which transactional listeners are done with the events of a transport whose outbox
    it is.

    An event that comes again later than that may run them again.
    """

    keep: Annotated[float | None, '"7d"'] = attrs.field(default=None, validator=_kept)
    """
    Seconds for which it keeps the events that are done, in the table ``relevo_done``; workers delete them afterwards.

    By default it deletes an event when it is done.
    """

    dialect: str | None = attrs.field(default=None, validator=lambda _, __, value: require_dialect(value))
    """
    ``portable`` to use a database that relevo has no dialect for, with any driver of SQLAlchemy, in plain SQL.

    By default the dialect is the one that relevo has for the database of the address.
    """

    @property
    def permissions(self) -> int | None:
        """*file_mode* as a number."""
        return None if self.file_mode is None else int(self.file_mode, 8)


@attrs.frozen
class _Use:
    """What an engine is for."""

    is_for_listeners: bool
    """Its connections are kept in a pool, and are used as the application likes, for as long as it likes."""

    patience: float
    """Seconds that SQLite waits for other writers by itself."""

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of the engine."""
        if not self.is_for_listeners:
            return {"poolclass": sa.pool.NullPool}
        # As many as there are listeners at once: one that waited for another might exceed its time limit.
        return {"max_overflow": -1, "pool_pre_ping": True}

    def arguments(self, driver: str) -> Mapping[str, int]:
        """Return the arguments of a connection of *driver*."""
        limits = _LIMITS.get(driver, {})
        return {key: limits[key] for key in limits if not (self.is_for_listeners and key in _OF_QUERIES)}


def engine_for(options: SqlOptions) -> sa.Engine:
    """
    Return the engine that *options* describe, without any I/O.

    Raises:
        ConfigurationError: The address is malformed, or of a database that is not supported.
    """
    return _made(options, _Use(is_for_listeners=False, patience=options.busy_timeout))


def engine_for_sessions(options: SqlOptions) -> sa.Engine:
    """As :func:`engine_for`, for the sessions of transactional listeners."""
    return _made(options, _Use(is_for_listeners=True, patience=options.busy_timeout))


def _made(options: SqlOptions, use: _Use) -> sa.Engine:
    text = options.url.reveal()
    try:
        url = sa.make_url(text)
        url = postgresql_named(url.set(drivername=url.drivername.lower()))  # RFC 3986, section 3.1
        database = url.database or ""
    except (sa.exc.ArgumentError, ValueError):
        raise _malformed(text) from None  # the cause may quote the password
    if url.get_backend_name() != "sqlite":
        make = _on_server if options.dialect is None else _with_any_driver
        return make(url, text, options.tls, use)
    if options.tls is not None:
        raise ConfigurationError(f"tls: {masked_url(text)} is a file, which has no connection to encrypt; remove tls")
    if url.host or url.username or url.password or url.port:
        raise ConfigurationError(
            f"{masked_url(text)} names a host, but SQLite opens a file; write sqlite:///shop.db for a path "
            f"relative to the configuration, sqlite:////var/lib/shop.db for an absolute one"
        )
    _check_query(url, text)
    if database in ("", ":memory:") or database.startswith("file::memory:") or url.query.get("mode") == "memory":
        raise in_memory()
    if "\0" in database:
        raise ConfigurationError("the path of an SQLite database cannot contain NUL")
    try:
        placed = url.set(database=_placed(database, options.directory))
        waiting = {"timeout": use.patience} if use.is_for_listeners and "timeout" not in placed.query else {}
        return sa.create_engine(
            placed, hide_parameters=True, enable_from_linting=False, connect_args=waiting, **use.settings
        )
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ImportError, TypeError, ValueError):
        raise _malformed(text) from None


_ELSEWHERE = ("passfile", "service", "sslcert", "ssl_cert", "read_default_file", "require_auth")
"""Parameters of drivers that replace the password, or name where it is."""


def risks_of(url: sa.URL) -> Sequence[str]:
    """Return what is unsafe about the connections that *url* describes; nothing for a server on this machine."""
    named = url.host or url.query.get("host") or url.query.get("hostaddr") or ""
    listed = [named] if isinstance(named, str) else named
    hosts = [_PORT.sub("", host) for each in listed for host in each.split(",")]
    far = [host for host in hosts if host and not host.startswith(("/", "@")) and not is_loopback(host)]
    if not far or url.password or any(name in url.query for name in ("password", "unix_socket", *_ELSEWHERE)):
        return ()
    places = ", ".join(far)
    return [f"the address has no password for {places}; set one, unless the driver finds it elsewhere, as in ~/.pgpass"]


_PORT = re.compile(r"(?<=[^:]):\d+$|(?<=\]):\d+$")
"""The port after a host of ``?host=``, as SQLAlchemy accepts it; an IPv6 address has several colons."""


_DRIVERS = {"postgresql": "postgresql+psycopg", "mariadb": "mysql+pymysql", "mysql": "mysql+pymysql"}
"""The drivers that relevo's own connections use, where the address names none."""


_LIBPQ = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # milliseconds
}
_LIMITS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "psycopg": _LIBPQ,
        "psycopg2": _LIBPQ,
        # A setup waits up to 60 s for the lock of another one.
        "pymysql": {"connect_timeout": 10, "read_timeout": 70, "write_timeout": 70},
    }
)
"""
By driver, how long a server that does not answer is waited for, unless the address says something else. Otherwise it
would be the system's own limit, which is hours, or for ever if the server accepts the connection.

They are arguments of relevo's connections and no part of the address, from which an application makes its own engine:
a query of the application may take longer, and its driver may know none of them.

https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS and
https://pymysql.readthedocs.io/en/latest/modules/connections.html
"""


_OF_QUERIES = ("read_timeout", "write_timeout")
"""Those that limit a query, and with it a listener's; the others notice a server that is gone."""


def _engine(url: sa.URL, tls: Tls | None, use: _Use) -> sa.Engine:
    """Return relevo's own engine of a database on a server."""
    driver = url.get_driver_name()
    ssl: object = None
    if driver == "pymysql":
        encrypted, ssl = mysql_mode(url)
        url = encrypted if tls is None else url.difference_update_query(MODE)  # tls takes precedence
    if tls is not None:
        _check_tls(url, driver)
        if driver != "pymysql":
            url = url.update_query_dict(_of_libpq(tls))
    user, password = url.query.get("user", url.username), url.query.get("password")
    if driver in _LIMITS and isinstance(user, str) and isinstance(password, str):
        # To their place, where SQLAlchemy does not show the password.
        url = url.set(username=user, password=password).difference_update_query(("user", "password"))
    settings = use.settings
    if use.is_for_listeners and url.get_backend_name() in _DRIVERS:
        settings["isolation_level"] = "READ COMMITTED"
    engine = sa.create_engine(
        url,
        hide_parameters=True,
        enable_from_linting=False,
        connect_args={name: value for name, value in use.arguments(driver).items() if name not in url.query},
        **settings,
    )
    if driver == "pymysql" and (tls is not None or ssl is not None):

        @sa.event.listens_for(engine, "do_connect")
        def encrypt(_: object, __: object, ___: object, arguments: dict[str, Any]) -> None:
            arguments["ssl"] = ssl if tls is None else tls.context()

    return engine


def _check_tls(url: sa.URL, driver: str) -> None:
    """Raise :class:`ConfigurationError` if the option ``tls`` does not fit *url*."""
    if driver not in _LIMITS:
        raise ConfigurationError(
            f"tls: relevo does not know how the driver {driver} encrypts; use the driver's parameters in the address"
        )
    # The mode is less than tls asks for, and may be part of an address that a hosting platform hands out.
    own = [key for key in url.query if key.startswith("ssl") and key != "sslmode"]
    own += ["sslmode=disable"] if url.query.get("sslmode") == "disable" else []
    if own:
        raise ConfigurationError(
            f"tls: the address has {', '.join(own)} too; remove them from the address, or use them without tls"
        )
    host = url.host or url.query.get("host") or url.query.get("hostaddr") or ""
    if not host or str(host).startswith(("/", "@")) or "unix_socket" in url.query:
        raise ConfigurationError("tls: the address names no host, and a local socket is not encrypted; remove tls")


def _of_libpq(tls: Tls) -> Mapping[str, str]:
    """Return *tls* as the parameters of libpq."""
    if tls.ca is None and not tls.check_host:
        raise ConfigurationError("tls: PostgreSQL's driver needs ca if check_host is false; set ca")
    found = {
        "sslmode": "verify-full" if tls.check_host else "verify-ca",
        "sslrootcert": str(tls.ca or "system"),
        "ssl_min_protocol_version": f"TLSv{tls.version}",
    }
    if tls.certificate is not None:
        found |= {"sslcert": str(tls.certificate), "sslkey": str(tls.key_file)}
    return found


def _on_server(url: sa.URL, text: str, tls: Tls | None, use: _Use) -> sa.Engine:
    """
    Return the engine of a database on a server.

    Raises:
        ConfigurationError: It is not supported, its driver is not installed, or the address is malformed.
    """
    kind = url.get_backend_name()
    dialect_named(kind)
    driver = _DRIVERS[kind].partition("+")[2]
    if "+" not in url.drivername or url.get_driver_name() == driver:
        url = url.set(drivername=_DRIVERS[kind])
    else:
        raise ConfigurationError(
            f"{masked_url(text)}: relevo's own connections use {_DRIVERS[kind]}; write {kind}://…, "
            f"sessions with other drivers can still be joined"
        )
    try:
        check_parameters(mysql_mode(url)[0] if driver == "pymysql" else url, _own_options())
        return _engine(url, tls, use)
    except ImportError:
        raise ConfigurationError(
            f"{masked_url(text)}: the driver is not installed; run: pip install 'relevo-sql[{kind}]'"
        ) from None
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, TypeError, ValueError):
        raise _malformed(text) from None


def _with_any_driver(url: sa.URL, text: str, tls: Tls | None, use: _Use) -> sa.Engine:
    """
    Return the engine of any database.

    Raises:
        ConfigurationError: SQLAlchemy's dialect of it or the driver is not installed, or the address is malformed.
    """
    if "+" not in url.drivername:
        url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
    try:
        return _engine(url, tls, use)
    except (ImportError, sa.exc.NoSuchModuleError) as error:
        raise ConfigurationError(
            f"{masked_url(text)}: SQLAlchemy's dialect or the driver of {url.drivername} is not installed ({error}); "
            f"install it: https://docs.sqlalchemy.org/dialects/"
        ) from None
    except (sa.exc.ArgumentError, TypeError, ValueError):
        raise _malformed(text) from None


def _check_query(url: sa.URL, text: str) -> None:
    """
    Refuse parameters that SQLite would ignore, or would report only when the database is opened; show no value.

    Raises:
        ConfigurationError: The address has an unknown or misplaced parameter.
    """
    where = masked_url(text)
    options = _own_options()
    for key in url.query:
        if key in options:
            raise ConfigurationError(f'{where}: "{key}" is an option of its own; write {{ url = "…", {key} = … }}')
        if key not in _KNOWN:
            hint = did_you_mean(key, _KNOWN)
            raise ConfigurationError(f"{where}: unknown {shown(key)}{hint}; known: {', '.join(_KNOWN)}")
    is_uri = url.query.get("uri") in ("true", "1")
    if "uri" in url.query and not is_uri:
        raise ConfigurationError(f'{where}: "uri" can only be true')
    if is_uri != (url.database or "").startswith("file:") or (url.query and not is_uri):
        raise ConfigurationError(
            f"{where}: parameters of SQLite need a file: URI; write sqlite:///file:shop.db?mode=rwc&uri=true"
        )
    if url.query.get("mode", "rwc") not in _MODES:
        raise ConfigurationError(f'{where}: "mode" can be {", ".join(_MODES[:-1])}')


def _own_options() -> list[str]:
    return [field.name for field in attrs.fields(SqlOptions) if field.name not in ("url", "directory")]


def _placed(database: str, directory: Path) -> str:
    """Return the path *database*, relative to *directory* unless it is absolute."""
    prefix, path = ("file:", database[5:]) if database.startswith("file:") else ("", database)
    return database if path.startswith("//") else prefix + str((directory / path).absolute())


def _malformed(text: str) -> ConfigurationError:
    return ConfigurationError(f"{masked_url(text)} is not the address of a database; write sqlite:///shop.db")
