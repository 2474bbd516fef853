"""Server errors and the errors of relevo that they become: one table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from relevo.errors import ConfigurationError, RelevoError, TransportUnavailableError


class AccessRefusedError(ConfigurationError):
    """Raised when the server knows the user, the password or the virtual host not, or does not let them in."""

    def __init__(self, transport: str, place: str, why: str):
        self.transport = transport
        self.place = place
        self.why = why
        super().__init__(
            f'the transport "{transport}" is refused by {place}: {why}; check user, password, rights and vhost'
        )


class TopologyError(ConfigurationError):
    """Raised when a queue or an exchange was declared before with other arguments than relevo needs."""

    def __init__(self, transport: str, what: str, why: str, *, mend: str = "delete it"):
        self.transport = transport
        self.what = what
        self.why = why
        super().__init__(
            f'the transport "{transport}": {what} was declared with other arguments: {why}; arguments cannot be '
            f"changed; empty it with the release that declared it (relevo drain, relevo dead revive or discard), "
            f"{mend} and run relevo setup; or choose another prefix"
        )


class ServerTooOldError(ConfigurationError):
    """Raised when the server is older than RabbitMQ 4.0, which drops events that relevo would keep."""

    def __init__(self, transport: str, version: str):
        self.transport = transport
        self.version = version
        super().__init__(f'the transport "{transport}" needs RabbitMQ 4.0 or later; the server says "{version}"')


def not_set_up(transport: str, queues: Sequence[str]) -> ConfigurationError:
    """Return what is raised when *queues* are not on the server, and this process was not told to make them."""
    names = ", ".join(f'"{queue}"' for queue in queues)
    return ConfigurationError(
        f'the transport "{transport}" lacks the queue{"s" if len(queues) > 1 else ""} {names}; run relevo setup, '
        f'or say setup = "auto"'
    )


def no_stream(transport: str, name: str) -> ConfigurationError:
    """Return what is raised when the stream *name* is missing on the server, and this process may not create it."""
    return ConfigurationError(
        f'the transport "{transport}" lacks the stream "{name}", which keeps notes of begun events; run relevo setup, '
        f'or set setup = "auto"'
    )


class ConnectionLostError(Exception):
    """
    Raised between the modules of this package when a connection or a channel is gone or does not come about.

    Args:
        why: In words, without secrets.

        code: AMQP's reply code; 0 if the server said nothing.

        kind: The driver's own name for it.
    """

    def __init__(self, why: str, *, code: int = 0, kind: str = ""):
        self.why = why
        self.code = code
        self.kind = kind
        super().__init__(why)


NOT_FOUND, ACCESS_REFUSED, PRECONDITION_FAILED, NOT_ALLOWED, RESOURCE_LOCKED = 404, 403, 406, 530, 405

_BY_KIND: Mapping[str, type[RelevoError]] = MappingProxyType(
    {
        "AuthenticationError": AccessRefusedError,
        "ChannelClosedByBroker": TransportUnavailableError,
        "ConnectionClosedByBroker": TransportUnavailableError,
        "StreamLostError": TransportUnavailableError,
        "AMQPHeartbeatTimeout": TransportUnavailableError,
        "AMQPConnectionError": TransportUnavailableError,
        "SSLError": ConfigurationError,
        "SSLCertVerificationError": ConfigurationError,
    }
)
"""By the driver's name of the error; what stands not here is the world's fault."""

_BY_CODE: Mapping[int, type[RelevoError]] = MappingProxyType(
    {ACCESS_REFUSED: AccessRefusedError, NOT_ALLOWED: AccessRefusedError}
)
"""By the server's reply code; goes before the name."""

_QUOTED = re.compile(r"'[^']*'")

_PASSING = ("limit", "is down")
"""Words of a refusal that time may mend: a limit of connections, a virtual host that has stopped."""


def translated(error: ConnectionLostError, *, transport: str, place: str) -> RelevoError:
    """
    Return what relevo raises for *error*.

    Args:
        error: What happened.

        transport: The transport's name.

        place: The server's address, without secrets.
    """
    kind = _BY_CODE.get(error.code) or _BY_KIND.get(error.kind, TransportUnavailableError)
    said = _QUOTED.sub("", error.why)  # a user may be called so
    if error.code == NOT_ALLOWED and any(word in said for word in _PASSING):
        kind = TransportUnavailableError
    if kind is AccessRefusedError:
        return AccessRefusedError(transport, place, error.why)
    if kind is TransportUnavailableError:
        mend = "; is the server started, and is that its port?" if error.kind == "ConnectionRefusedError" else ""
        return TransportUnavailableError(transport, f"{place}: {error.why}{mend}")
    return ConfigurationError(f'the transport "{transport}" cannot speak with {place}: {error.why}')
