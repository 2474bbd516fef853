"""Options of the transport, and the strict parsing of a server address."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import attrs

from relevo import Secret, masked_url
from relevo.backend import INHERITED
from relevo.backend.tls import Tls, is_loopback
from relevo.errors import ConfigurationError, shown

_PORTS = {"amqp": 5672, "amqps": 5671}
_ESCAPED = re.compile(r"%(?![0-9A-Fa-f]{2})")
_GUEST = "guest"
"""The default user of a server, and its password."""

_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")

MAX_BODY = 16 * 1024 * 1024
"""RabbitMQ's default ``max_message_size`` in bytes; a larger message closes the channel."""


def _is_plain_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    rest = parts.query or parts.fragment
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and "@" not in url and not rest


@attrs.frozen(kw_only=True)
class Address:
    """The address of a server, with the user and the virtual host."""

    host: str
    port: int
    vhost: str
    user: str
    password: Secret
    encrypted: bool

    @classmethod
    def parse(cls, url: str) -> Address:
        """
        Return the address in *url*.

        The driver accepts ``http://h/`` and an empty string; this does not. As there, a path of ``/`` alone means the
        default virtual host.

        Raises:
            ConfigurationError: It is not an address of RabbitMQ, or has no user and is on another machine; the
                password is not shown.
        """
        remedy = "write amqp://user:password@host:port/vhost, or amqps:// for TLS"
        wrong = f"{shown(masked_url(url))} is not an address of RabbitMQ"
        try:
            parts = urlsplit(url)
        except ValueError:
            raise ConfigurationError(f"{wrong}; {remedy}") from None
        _, at, place = parts.netloc.rpartition("@")
        if not at and ":" in place and "@" in url:
            raise ConfigurationError(f"{wrong}: in a user or password write / as %2F, ? as %3F and # as %23; {remedy}")
        try:
            port = parts.port
        except ValueError:
            port_text = place.rpartition(":")[2]  # without credentials it may be a password, its @host forgotten
            what = f"the port {shown(port_text)}" if at or port_text.isdecimal() else "the text after the colon"
            raise ConfigurationError(f"{wrong}: {what} is not a number from 1 to 65535; {remedy}") from None
        if parts.scheme not in _PORTS or not parts.hostname or port == 0:
            raise ConfigurationError(f"{wrong}; {remedy}")
        if parts.query or parts.fragment:
            raise ConfigurationError(
                f"{wrong}: nothing may follow the virtual host; write options beside the address, as in "
                f'{{ url = "…", heartbeat = 30 }}'
            )
        if parts.path == "//":
            raise ConfigurationError(
                f"{wrong}: leave out the last slash; the default virtual host needs none; {remedy}"
            )
        if parts.path.count("/") > 1:
            host, extra = parts.path.removeprefix("/").split("/", 1)
            if host.lower() == "%2f" and "/" not in extra:  # as in Symfony's amqp://localhost/%2f/messages
                raise ConfigurationError(
                    f"{wrong}: leave out {shown(f'/{extra}')}, which is the name of an exchange in Symfony; relevo "
                    f"declares its own; {remedy}"
                )
            raise ConfigurationError(f"{wrong}: write a slash in the name of a virtual host as %2F; {remedy}")
        if _ESCAPED.search(parts.netloc + parts.path):
            raise ConfigurationError(f"{wrong}: a percent sign must be written as %25; {remedy}")
        user = _GUEST if parts.username is None else unquote(parts.username)
        password = _GUEST if parts.password is None else unquote(parts.password)
        if user in ("", _GUEST) and password == _GUEST and not is_loopback(parts.hostname):
            raise ConfigurationError(
                f'{shown(masked_url(url))} uses the default user "{_GUEST}", which RabbitMQ accepts only from '
                f"localhost; write {parts.scheme}://user:${{VARIABLE}}@{parts.netloc.rpartition('@')[2]}, "
                f"or localhost if the server runs on this machine"
            )
        return cls(
            host=parts.hostname,
            port=port or _PORTS[parts.scheme],
            vhost=unquote(parts.path[1:]) or "/",
            user=user,
            password=Secret(password),
            encrypted=parts.scheme == "amqps",
        )

    def risks(self) -> Sequence[str]:
        """Return what is unsafe about connections to it; nothing for a server on this machine."""
        if is_loopback(self.host):
            return ()
        found = []
        if not self.encrypted:
            found.append(
                f"connections to {self.host} are not encrypted, so the password and all events can be read on the way; "
                f"write amqps:// in its address"
            )
        if not self.password.reveal():
            found.append(f'the user "{self.user}" has no password on {self.host}; set one')
        return found

    def __str__(self) -> str:
        scheme = "amqps" if self.encrypted else "amqp"
        return f'{scheme}://{self.user}:***@{self.host}:{self.port}, virtual host "{self.vhost}"'


_Validator = Callable[[object, Any, Any], None]


def _expect(
    expected: str, holds: Callable[[Any], bool], *, show: Callable[[Any], object] = lambda value: value
) -> _Validator:
    """
    Return a validator that accepts the values for which *holds* returns true.

    Args:
        expected: A description of a valid value, for the error.

        holds: Returns whether a value is valid.

        show: Returns an invalid value without its secrets, for the error.
    """

    def check(_: object, field: attrs.Attribute[Any], value: Any) -> None:
        if not holds(value):
            raise ConfigurationError(f"{field.name}: expected {expected}; got {shown(show(value))}")

    return check


def _whole(least: int, most: int) -> _Validator:
    return _expect(f"a whole number from {least} to {most}", lambda value: least <= value <= most)


def _is_prefix(value: str) -> bool:
    return _PREFIX.fullmatch(value) is not None and not value.startswith("amq.")


FORMER_PREFIX = "relevo"
"""The default prefix until it became the source; also that of a transport without an application."""

_DIGEST = 8


def prefix_of(source: str) -> str:
    """Return the default prefix of the application *source*."""
    if not source:
        return FORMER_PREFIX
    if _is_prefix(source):
        return source
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", source).strip("-._")[: 60 - _DIGEST - 1]
    plain = "app" if not plain or plain.startswith("amq.") else plain
    return f"{plain}-{sha256(source.encode()).hexdigest()[:_DIGEST]}"


def _check_url(_: object, __: attrs.Attribute[str], value: str) -> None:
    Address.parse(value)


_TIMEOUT = _expect("a number of seconds above 0 and at most 3600", lambda value: 0.0 < value <= 3600.0)


@attrs.frozen(kw_only=True)
class AmqpOptions:
    """
    The options of an :class:`AmqpTransport`.

    Raises:
        ConfigurationError: An option is invalid. A configuration reports all invalid options together.
    """

    url: str = attrs.field(default="amqp://localhost", repr=masked_url, validator=_check_url)
    """
    ``amqp://user:password@host:port/vhost``, or ``amqps://`` for TLS with verified host names.

    A server on this machine needs no user; one elsewhere does.
    """

    tls: Tls | None = None
    """How ``amqps://`` is encrypted; by default with the authorities that the system trusts. Also for *management*."""

    prefix: Annotated[str | None, '"shop"'] = attrs.field(
        default=None,
        validator=_expect(
            '1 to 60 letters, digits, ".", "_" or "-", beginning with a letter or a digit and not with "amq."',
            lambda value: value is None or _is_prefix(value),
        ),
    )
    """
    The prefix of all exchanges and queues; two applications on one virtual host need different ones.

    By default the application's ``source``; a transport without an application has ``relevo``. If the source cannot be
    a prefix, other characters become ``-`` and a hash follows.
    """

    prefetch: int | None = attrs.field(
        default=None,
        validator=_expect(
            "a whole number from 1 to 65000, or none", lambda value: value is None or 1 <= value <= 65_000
        ),
    )
    """
    Events that are fetched ahead for each queue; by default twice the limit of a ``receive``.

    A larger number is faster for tiny listeners. But events that were fetched cannot go to another worker, and lose
    their lease too when this process dies.
    """

    window: int = attrs.field(default=1000, validator=_whole(1, 65_000))
    """The most events in flight without a confirmation; a ``send`` of more waits. This is the back-pressure."""

    confirm_timeout: float = attrs.field(default=10.0, validator=_TIMEOUT)
    """Seconds without any confirmation after which the outcome of a ``send`` is unknown."""

    connect_timeout: float = attrs.field(default=10.0, validator=_TIMEOUT)
    """Seconds for opening a connection."""

    heartbeat: int = attrs.field(default=60, validator=_whole(1, 3600))
    """Seconds; a silent connection is closed after about three times this."""

    max_body: int = attrs.field(default=MAX_BODY, validator=_whole(1, 512 * 1024 * 1024))
    """The most bytes of a body; lower it if the server's ``max_message_size`` is lower."""

    resolution: float = attrs.field(
        default=0.1, validator=_expect("a number of seconds from 0.01 to 3600", lambda value: 0.01 <= value <= 3600.0)
    )
    """Seconds; the step of delays. It and *levels* are in the names of the ladder's queues: a change creates others."""

    levels: int = attrs.field(default=20, validator=_whole(1, 28))
    """The number of delay queues. One pass takes up to resolution x 2**levels, 29 hours; longer delays pass again."""

    settle_in: float = attrs.field(
        default=1.5, validator=_expect("a number of seconds from 0 to 60", lambda value: 0.0 <= value <= 60.0)
    )
    """
    Seconds from the declaration of a queue until it survives a crash of the server.

    A server records a new quorum queue in a file within about a second. If it is killed before, the queue is empty
    after the restart, or never answers, even if events in it were confirmed. So ``setup`` waits for this time, and so
    does the first ``send`` to a queue that another process has just created, once in the life of a queue. 0 is for
    tests whose server is not killed.
    """

    management: str | None = attrs.field(
        default=None,
        repr=lambda url: repr(url and masked_url(url)),
        validator=_expect(
            "http://host:port or https://host:port, without a user",
            lambda value: value is None or _is_plain_http(value),
            show=masked_url,
        ),
    )
    """
    Address of the server's management plugin, such as ``https://broker.example:15671``, for ``relevo check --live``.

    If ``None``, the plugin's default port on the host of *url*, with TLS if *url* uses TLS. User and password are those
    of *url*.
    """

    patience: float = attrs.field(
        default=3600.0,
        validator=_expect("a number of seconds, 0 or more", lambda value: value >= 0.0),
        metadata=INHERITED,
    )
    """
    Seconds for which an event of a newer relevo that this one cannot read is given back.

    Configuration sets it to the application's ``patience``.
    """

    def __attrs_post_init__(self) -> None:
        if self.tls is not None and not Address.parse(self.url).encrypted:
            raise ConfigurationError(f"tls: {masked_url(self.url)} is not encrypted; write amqps://, or remove tls")
