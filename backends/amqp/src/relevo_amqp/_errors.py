"""Server errors and the errors of relevo that they become: one table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from relevo.backend.tls import tls_remedy
from relevo.errors import ConfigurationError, RelevoError, TransportUnavailableError


class AccessRefusedError(ConfigurationError):
    """Raised when the server does not know the user, the password or the virtual host, or refuses the connection."""

    def __init__(self, transport: str, place: str, why: str):
        self.transport = transport
        self.place = place
        self.why = why
        reason = why.rstrip(". ")  # the server's text may be whole sentences
        super().__init__(
            f'the transport "{transport}": {place} refused access: {reason}; '
            f"check user, password, permissions and vhost"
        )


class TopologyError(ConfigurationError):
    """Raised when a queue or an exchange exists with other arguments than relevo needs."""

    def __init__(self, transport: str, what: str, why: str, *, remedy: str = "delete it"):
        self.transport = transport
        self.what = what
        self.why = why
        super().__init__(
            f'the transport "{transport}": {what} exists with other arguments: {why}; arguments cannot be '
            f"changed; empty it with the release that declared it (relevo drain, relevo dead revive or discard), "
            f"{remedy} and run relevo setup; or choose another prefix"
        )


class ServerTooOldError(ConfigurationError):
    """Raised when the server is older than RabbitMQ 4.0; such a server can drop events."""

    def __init__(self, transport: str, version: str):
        self.transport = transport
        self.version = version
        super().__init__(f'the transport "{transport}": expected RabbitMQ 4.0 or later; got version {version}')


def not_set_up(transport: str, queues: Sequence[str]) -> ConfigurationError:
    """Return the error for *queues* that are missing on the server, and that this process may not create."""
    names = ", ".join(f'"{queue}"' for queue in queues)
    return ConfigurationError(
        f'the transport "{transport}" lacks the queue{"s" if len(queues) > 1 else ""} {names}; run relevo setup, '
        f'or set setup = "auto"'
    )


def no_stream(transport: str, name: str) -> ConfigurationError:
    """Return the error for the stream *name* that is missing on the server, and that this process may not create."""
    return ConfigurationError(
        f'the transport "{transport}" lacks the stream "{name}", which keeps notes of begun events; run relevo setup, '
        f'or set setup = "auto"'
    )


class ConnectionLostError(Exception):
    """
    Raised between the modules of this package when a connection or a channel was lost or could not be opened.

    Args:
        why: The reason, without secrets.

        code: AMQP's reply code; 0 if the server sent none.

        kind: The driver's name of the error.
    """

    def __init__(self, why: str, *, code: int = 0, kind: str = ""):
        self.why = why
        self.code = code
        self.kind = kind
        super().__init__(why)

    def again(self) -> ConnectionLostError:
        """Return the same error for another thread; it keeps no frames alive."""
        return ConnectionLostError(self.why, code=self.code, kind=self.kind)


SILENCE, HURRIED = "silence", "hurried"
"""Kinds of an answer that did not come: in time, or in the little time that the caller left."""

_ENOUGH = 5.0
"""Seconds without an answer that tell something about the server."""


def no_answer(what: str, timeout: float, *, usual: float) -> ConnectionLostError:
    """Return the error *what* for an answer that did not come in *timeout* seconds, of *usual* ones without a hurry."""
    if timeout < min(usual, _ENOUGH):
        return ConnectionLostError(f"{what} in the {timeout:.1f} s that the time limit left", kind=HURRIED)
    return ConnectionLostError(f"{what} in {timeout:.3g} s", kind=SILENCE)


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
"""By the driver's name of the error; any other error is a :class:`TransportUnavailableError`."""

_BY_CODE: Mapping[int, type[RelevoError]] = MappingProxyType(
    {ACCESS_REFUSED: AccessRefusedError, NOT_ALLOWED: AccessRefusedError}
)
"""By the server's reply code, which takes precedence over the name."""

_QUOTED = re.compile(r"'[^']*'")

_TEMPORARY = ("limit", "is down")
"""Words of a temporary refusal: a limit of connections, a virtual host that has stopped."""


def translated(error: ConnectionLostError, *, transport: str, place: str) -> RelevoError:
    """
    Return the error that relevo raises for *error*.

    Args:
        error: A lost connection or channel.

        transport: The transport's name.

        place: The server's address, without secrets.
    """
    kind = _BY_CODE.get(error.code) or _BY_KIND.get(error.kind, TransportUnavailableError)
    if "SSL" in error.why and (fix := tls_remedy(error.why)):
        return ConfigurationError(f'the transport "{transport}": no connection to {place}: {error.why}; {fix}')
    reason = _QUOTED.sub("", error.why)  # a name could contain these words
    if error.code == NOT_ALLOWED and any(word in reason for word in _TEMPORARY):
        kind = TransportUnavailableError
    if kind is AccessRefusedError:
        return AccessRefusedError(transport, place, error.why)
    if kind is TransportUnavailableError:
        is_refused = error.kind == "ConnectionRefusedError"
        remedy = "; check that the server runs and that the port is right" if is_refused else ""
        return TransportUnavailableError(transport, f"{place}: {error.why}{remedy}", hurried=error.kind == HURRIED)
    return ConfigurationError(f'the transport "{transport}": no connection to {place}: {error.why}')
