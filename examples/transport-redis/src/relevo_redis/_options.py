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
_ADDRESS = re.compile(r"rediss?://(?:[^/?#]*@)?(?:[^/?#@:\[\]]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?(?:/\d*)?")


@attrs.frozen(kw_only=True)
class RedisOptions:
    """The options of a :class:`RedisTransport` in the configuration."""

    url: Secret
    """``redis://user:password@host:port/database``, or ``rediss://`` for TLS with verified host names."""

    prefix: str = "relevo"
    """The prefix of all keys; two applications on one database need two."""

    durability: Literal["host", "process"] = "host"
    """
    ``host``: sent events survive a crash of the server's machine. The settings of the server are checked.

    ``process``: no check. Sent events survive a crash of the program, and saved ones a crash of the server.
    """

    timeout: float = 10.0
    """Seconds to wait for an answer; at least 2."""

    def __attrs_post_init__(self) -> None:
        """
        Refuse invalid options.

        Raises:
            ConfigurationError: An option is invalid; the text shows no password.
        """
        if not _ADDRESS.fullmatch(self.url.reveal()):
            where = shown(masked_url(self.url.reveal()))
            raise ConfigurationError(f"url = {where} is invalid; write redis://user:password@host:port/database")
        if not _PREFIX.fullmatch(self.prefix):
            wanted = 'at most 60 letters, digits, ".", "_" and "-"'
            raise ConfigurationError(f"prefix = {shown(self.prefix)} is invalid; write {wanted}")
        if not 2.0 <= self.timeout <= 3600.0:
            raise ConfigurationError(f"timeout = {self.timeout!r} is invalid; write seconds, from 2 to 3600")

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
