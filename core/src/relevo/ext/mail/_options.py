"""Options of the mail plugin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from email.errors import MessageError
from email.headerregistry import Address
from email.utils import parseaddr
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs

from relevo._secret import Secret, masked_url
from relevo._server import is_loopback
from relevo.errors import ConfigurationError, shown

_PORTS = {"smtp": 25, "smtps": 465}


@attrs.frozen(kw_only=True)
class Server:
    """A mail server, and how to connect to it."""

    host: str
    port: int
    user: str | None
    password: Secret
    smtps: bool
    """The connection is encrypted from its start."""

    starttls: bool
    """The connection is encrypted before anything else is sent."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def _addresses(value: str | Sequence[str]) -> tuple[str, ...]:
    texts = value.split(",") if isinstance(value, str) else list(value)
    if not texts:
        raise ConfigurationError("to: expected at least one mail address; got none; write one such as dev@example.org")
    return tuple(_address("to", text.strip()) for text in texts)


def _address(what: str, text: str) -> str:
    """Return *text* if it is one address that every server accepts; a name may precede it."""
    bare = parseaddr(text)[1]
    if not text.isascii() or not text.isprintable() or not re.fullmatch(r"[^@\s,<>]+@[^@\s,<>]+", bare):
        raise ConfigurationError(f"{what}: expected a mail address such as dev@example.org; got {shown(text)}")
    try:
        Address(addr_spec=bare)
    except (ValueError, MessageError) as error:
        raise ConfigurationError(f"{what}: expected a mail address; got {shown(text)}: {error}") from error
    return text


def _sender(value: str | None) -> str | None:
    return None if value is None else _address("from", value)


def _secret(value: Secret | str) -> Secret:
    return Secret(value) if isinstance(value, str) else value


def _positive(_: object, field: attrs.Attribute[Any], value: float) -> None:
    if not 0 < value < float("inf"):
        raise ConfigurationError(f"{field.name}: expected a number above 0; got {value:g}")


@attrs.frozen(kw_only=True)
class MailOptions:
    """Options of the plugin ``mail``; those after ``to`` have a default."""

    to: str | tuple[str, ...] = attrs.field(converter=_addresses)
    """The developers: one address, or several."""

    from_: str | None = attrs.field(default=None, converter=_sender)
    """The sender, written ``from`` in a file; by default ``relevo@`` and the name of the host."""

    server: Secret = attrs.field(default=Secret("smtp://localhost"), converter=_secret)
    """
    ``smtp://user:password@host:port``, or ``smtps://…`` for a server that encrypts from the start.

    The ports are 25 and 465 by default. Special characters in a user or a password are percent-encoded.
    """

    starttls: bool | None = None
    """
    Whether ``smtp://`` is encrypted before anything else is sent; by default, unless the server is on this machine.

    The certificate is checked then, and a server that cannot encrypt gets no mail.
    """

    failures: bool = False
    """Mail every failure of a listener, not only its last one."""

    arguments: bool = True
    """Show the arguments of events, shortened, with values that look like secrets masked."""

    every: float = attrs.field(default=600.0, validator=_positive)
    """Seconds between two mails about failures of one kind. The first is mailed at once, the later ones together."""

    most: int = attrs.field(default=12, validator=_positive)
    """The most mails in an hour, of all processes together; later failures wait and are mailed in one."""

    timeout: float = attrs.field(default=10.0, validator=_positive)
    """Seconds that the server may take to answer, and that the end of a run waits for the last mail."""

    book: Path | None = None
    """The file in which the processes of a host note what was mailed; by default in the user's folder in ``/tmp``."""

    def __attrs_post_init__(self) -> None:
        self.parsed_server()

    @property
    def recipients(self) -> tuple[str, ...]:
        """The addresses of the developers."""
        return (self.to,) if isinstance(self.to, str) else self.to

    def parsed_server(self) -> Server:
        """
        Return the parts of the server's address.

        Raises:
            ConfigurationError: It is not such an address, or it would send a password unencrypted.
        """
        text = self.server.reveal()
        masked = masked_url(text)
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigurationError(
                f"server: expected smtp://host:port; got {masked}, whose host or port is invalid"
            ) from error
        if parts.scheme not in _PORTS or not host or parts.path.strip("/") or parts.query or parts.fragment:
            raise ConfigurationError(f"server: expected smtp://host:port or smtps://user:password@host; got {masked}")
        is_near = is_loopback(host)
        smtps = parts.scheme == "smtps"
        starttls = not smtps and (not is_near if self.starttls is None else self.starttls)
        if parts.username and not (smtps or starttls or is_near):
            raise ConfigurationError(
                f"server: the password of {masked} would be sent unencrypted; remove starttls = false"
            )
        return Server(
            host=host,
            port=port or _PORTS[parts.scheme],
            user=unquote(parts.username) if parts.username else None,
            password=Secret(unquote(parts.password or "")),
            smtps=smtps,
            starttls=starttls,
        )
