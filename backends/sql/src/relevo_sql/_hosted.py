"""Addresses as hosting platforms hand them out: another scheme, and parameters that the driver does not know."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from relevo import masked_url
from relevo.backend.tls import Tls
from relevo.errors import ConfigurationError, shown

_MODE = ("ssl-mode", "ssl_mode", "sslmode")
"""What clients of MySQL and of other databases call the mode of the encryption; PyMySQL knows none of them."""

_UNVERIFIED = {"check_hostname": False}
"""PyMySQL's option for a connection that must be encrypted, to a server with any certificate."""


def postgresql_named(url: sa.URL) -> sa.URL:
    """Return *url* with the scheme ``postgresql``, which some platforms shorten to ``postgres``."""
    name, plus, driver = url.drivername.partition("+")
    return url.set(drivername=f"postgresql{plus}{driver}") if name == "postgres" else url


def mysql_mode(url: sa.URL) -> tuple[sa.URL, object]:
    """
    Return *url* without the mode of the encryption, and the ``ssl`` argument of PyMySQL that it means.

    Raises:
        ConfigurationError: The mode is unknown.
    """
    ssl: object = None
    for key in _MODE:
        mode = url.query.get(key)
        match str(mode).lower().replace("_", "-") if mode is not None else None:
            case None | "disabled" | "disable" | "preferred" | "prefer" | "allow":
                pass
            case "required" | "require":
                ssl = _UNVERIFIED
            case "verify-ca":
                ssl = Tls(check_host=False).context()
            case "verify-identity" | "verify-full":
                ssl = Tls().context()
            case _:
                raise ConfigurationError(
                    f"{masked_url(url.render_as_string())}: {key}: expected DISABLED, PREFERRED, REQUIRED, "
                    f"VERIFY_CA or VERIFY_IDENTITY; got {shown(mode)}"
                )
    return url.difference_update_query(_MODE), ssl


def check_parameters(url: sa.URL, options: Iterable[str]) -> None:
    """
    Refuse parameters that the driver would report only when it connects, or that mean something else; show no value.

    Args:
        url: The address, with the driver.

        options: The names of the transport's own options.

    Raises:
        ConfigurationError: The address has one.
    """
    driver = url.get_driver_name()
    known = _known_to(driver) if url.query else None
    if known is None:
        return
    where = masked_url(url.render_as_string())
    for key in url.query:
        if key not in known and key in options:
            raise ConfigurationError(f'{where}: "{key}" is an option of its own; write {{ url = "…", {key} = … }}')
        if key not in known:
            raise ConfigurationError(
                f"{where}: the driver {driver} has no parameter {shown(key)}; write the "
                f"address without it, as some platforms add parameters for another driver"
            )


def _known_to(driver: str) -> set[str] | None:
    """Return the parameters that *driver* knows; ``None`` if that is not known."""
    if driver == "psycopg":
        from psycopg import pq  # noqa: PLC0415 - only if it is the driver, which the engine imports too

        return {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    if driver == "pymysql":
        from inspect import signature  # noqa: PLC0415 - as above

        from pymysql.connections import Connection  # type: ignore[import-untyped]  # noqa: PLC0415 - as above

        return {*signature(Connection).parameters, "ssl_capath", "ssl_cipher", "ssl_check_hostname"}
    return None
