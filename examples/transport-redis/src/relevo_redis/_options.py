"""Options of the transport, and the address of a server, strictly validated."""

from __future__ import annotations

import re
from typing import Any, Literal

import attrs
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from relevo import Secret, masked_url
from relevo.errors import ConfigurationError, shown

_driver: Any = redis.connection  # mostly untyped

_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,60}")
_ADDRESS = re.compile(
    r"rediss?://(?:[^/?#]*@)?(?:[^/?#@:\[\]]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?(?:/\d{0,5})?", re.ASCII
)


def _check_url(_: object, field: attrs.Attribute[Secret], value: Secret) -> None:
    match = _ADDRESS.fullmatch(value.reveal())
    if match is None or int(match[1] or 1) not in range(1, 65_536) or not _is_taken(value.reveal()):
        got = shown(masked_url(value.reveal()))
        raise ConfigurationError(f"{field.name}: expected redis://user:password@host:port/database; got {got}")


def _is_taken(address: str) -> bool:
    """Return whether the driver takes *address*, whose password may have characters that it does not expect."""
    try:
        _driver.parse_url(address)
    except ValueError:
        return False
    return True


def _check_prefix(_: object, field: attrs.Attribute[str], value: str) -> None:
    if not _PREFIX.fullmatch(value):
        expected = '1 to 60 letters, digits, ".", "_" or "-"'
        raise ConfigurationError(f"{field.name}: expected {expected}; got {shown(value)}")


def _check_timeout(_: object, field: attrs.Attribute[float], value: float) -> None:
    if not 2.0 <= value <= 3600.0:
        raise ConfigurationError(f"{field.name}: expected a number of seconds from 2 to 3600; got {shown(value)}")


@attrs.frozen(kw_only=True)
class RedisOptions:
    """
    The options of a :class:`RedisTransport` in the configuration.

    Each option has a validator of its own, so that relevo reports all problems of a configuration at once.

    Raises:
        ConfigurationError: An option is invalid; the text shows no password.
    """

    url: Secret = attrs.field(validator=_check_url)
    """``redis://user:password@host:port/database``, or ``rediss://`` for TLS with verified host names."""

    prefix: str = attrs.field(default="relevo", validator=_check_prefix)
    """The prefix of all keys; two applications on one database need two."""

    durability: Literal["host", "process"] = "host"
    """
    ``host``: sent events survive a crash of the server's machine. The settings of the server are checked.

    ``process``: no check. Sent events survive a crash of the program, and saved ones a crash of the server.
    """

    timeout: float = attrs.field(default=10.0, validator=_check_timeout)
    """Seconds to wait for an answer; at least 2."""

    @property
    def place(self) -> str:
        """The server in words, without secrets."""
        return masked_url(self.url.reveal())

    def pool(self, **how: Any) -> redis.ConnectionPool:
        """Return the pool that the options describe; it opens no connection yet, and its connections do not retry."""
        given: dict[str, Any] = _driver.parse_url(self.url.reveal())
        if "connection_class" in given:
            given["ssl_check_hostname"] = True
        given |= {"socket_timeout": self.timeout, "socket_connect_timeout": self.timeout}
        given |= {"encoding": "utf-8", "encoding_errors": "surrogatepass"}  # so that different names stay different
        return redis.ConnectionPool(retry=Retry(NoBackoff(), 0), protocol=2, client_name="relevo", **given, **how)
