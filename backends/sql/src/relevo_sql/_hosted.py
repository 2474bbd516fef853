"""Addresses as hosting platforms hand them out: another scheme, and parameters that the driver does not know."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

import sqlalchemy as sa

from relevo import masked_url
from relevo.backend.tls import Tls
from relevo.errors import ConfigurationError, shown

MODE = ("ssl-mode", "ssl_mode", "sslmode")
"""What clients of MySQL and of other databases call the mode of the encryption; PyMySQL knows none of them."""

_ENCRYPTED = {"ssl_check_hostname": "false"}
"""The parameter of an address for a connection that must be encrypted, without a check of the host's name."""


def postgresql_named(url: sa.URL) -> sa.URL:
    """Return *url* with the scheme ``postgresql``, which some platforms shorten to ``postgres``."""
    name, plus, driver = url.drivername.partition("+")
    return url.set(drivername=f"postgresql{plus}{driver}") if name == "postgres" else url


def mysql_mode(url: sa.URL) -> tuple[sa.URL, object]:
    """
    Return *url* without the mode of the encryption, and the ``ssl`` argument of PyMySQL that it means.

    For a mode without a check of the certificate that argument is ``None``, and *url* has a parameter that the drivers
    of MySQL know.

    Raises:
        ConfigurationError: The mode is unknown.
    """
    ssl: object = None
    for key in MODE:
        mode = url.query.get(key)
        match str(mode).lower().replace("_", "-") if mode is not None else None:
            case None | "disabled" | "disable" | "preferred" | "prefer" | "allow":
                pass
            case "required" | "require":
                url = url.update_query_dict({**_ENCRYPTED, **url.query})
            case "verify-ca":
                ssl = Tls(check_host=False).context()
            case "verify-identity" | "verify-full":
                ssl = Tls().context()
            case _:
                raise ConfigurationError(
                    f"{masked_url(url.render_as_string())}: {key}: expected DISABLED, PREFERRED, REQUIRED, "
                    f"VERIFY_CA or VERIFY_IDENTITY; got {shown(mode)}"
                )
    return url.difference_update_query(MODE), ssl


def check_parameters(url: sa.URL, options: Iterable[str]) -> None:
    """
    Refuse parameters that the driver would report only when it connects, or that mean something else; show no value.

    Args:
        url: The address, with the driver.

        options: The names of the transport's own options.

    Raises:
        ConfigurationError: The address has one.
    """
    if (key := unknown_parameter(url)) is None:
        return
    where = masked_url(url.render_as_string())
    if key in options:
        raise ConfigurationError(f'{where}: "{key}" is an option of its own; write {{ url = "…", {key} = … }}')
    raise ConfigurationError(
        f"{where}: the driver {url.get_driver_name()} has no parameter {shown(key)}; write the "
        f"address without it, as some platforms add parameters for another driver"
    )


def unknown_parameter(url: sa.URL) -> str | None:
    """Return the first parameter of *url* that its driver does not know; ``None`` if it knows all, or is not known."""
    known = _known_to(url.get_driver_name()) if url.query else None
    return None if known is None else next((key for key in url.query if key not in known), None)


def _known_to(driver: str) -> set[str] | None:
    """Return the parameters that *driver* knows; ``None`` if that is not known."""
    if driver == "psycopg":
        from psycopg import pq  # noqa: PLC0415 - only if it is the driver, which the engine imports too

        return {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    module, name, more = _SIGNATURES.get(driver, ("", "", ()))
    if not module:
        return None
    from inspect import signature  # noqa: PLC0415 - as above

    return {*signature(getattr(import_module(module), name)).parameters, *more}


_SSL = ("ssl_ca", "ssl_capath", "ssl_cert", "ssl_check_hostname", "ssl_cipher", "ssl_key")
_SIGNATURES = {
    "asyncmy": ("asyncmy.connection", "Connection", _SSL),
    "asyncpg": ("asyncpg", "connect", ("prepared_statement_cache_size",)),
    "pymysql": ("pymysql.connections", "Connection", _SSL),
}
"""By driver, what takes its parameters, and those that SQLAlchemy's dialect takes besides."""
