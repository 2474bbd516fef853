"""What configuration may say, and the address of a server, read strictly."""

from __future__ import annotations

import re
from typing import Any, Literal

import attrs
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from relevo import Secret, masked_url
from relevo.errors import ConfigurationError, shown

_driver: Any = redis.connection  # for the most part it has no types

_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,60}")
_ADDRESS = re.compile(r"rediss?://(?:[^/?#]*@)?(?:[^/?#@:\[\]]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?(?:/\d*)?")


@attrs.frozen(kw_only=True)
class RedisOptions:
    """What configuration may say of a :class:`RedisTransport`."""

    url: Secret
    """``redis://user:password@host:port/database``, or ``rediss://`` for TLS with verified host names."""

    prefix: str = "relevo"
    """With what all keys begin; two applications on one database need two."""

    durability: Literal["host", "process"] = "host"
    """
    ``host``: what was sent survives a crash of the server's machine. The server is asked whether it is so.

    ``process``: nobody asks. What was sent survives a crash of the program, and of the server what that has saved.
    """

    timeout: float = 10.0
    """Seconds to wait for an answer; at least 2."""

    def __attrs_post_init__(self) -> None:
        """
        Refuse what cannot work.

        Raises:
            ConfigurationError: Says which option, and why; no password is shown.
        """
        if not _ADDRESS.fullmatch(self.url.reveal()):
            where = shown(masked_url(self.url.reveal()))
            raise ConfigurationError(f"url = {where} cannot work; write redis://user:password@host:port/database")
        if not _PREFIX.fullmatch(self.prefix):
            wanted = 'at most 60 letters, digits, ".", "_" and "-"'
            raise ConfigurationError(f"prefix = {shown(self.prefix)} cannot work; write {wanted}")
        if not 2.0 <= self.timeout <= 3600.0:
            raise ConfigurationError(f"timeout = {self.timeout!r} cannot work; write seconds, from 2 to 3600")

    @property
    def place(self) -> str:
        """The server, for people."""
        return masked_url(self.url.reveal())

    def pool(self, **how: Any) -> redis.ConnectionPool:
        """Return the connections that the options describe; none is made yet, and none repeats what failed."""
        given: dict[str, Any] = _driver.parse_url(self.url.reveal())
        if "connection_class" in given:
            given["ssl_check_hostname"] = True
        given |= {"socket_timeout": self.timeout, "socket_connect_timeout": self.timeout}
        given |= {"encoding": "utf-8", "encoding_errors": "surrogatepass"}  # so that no name is taken for another
        return redis.ConnectionPool(retry=Retry(NoBackoff(), 0), protocol=2, client_name="relevo", **given, **how)
