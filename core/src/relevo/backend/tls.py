"""Encrypted connections to servers: the options, and the meaning of TLS errors."""

from __future__ import annotations

import os
import re
import ssl
import stat
import time
from pathlib import Path
from typing import Any, Literal

import attrs

from relevo._server import is_loopback
from relevo.errors import ConfigurationError, shown

__all__ = ["Tls", "is_loopback", "tls_remedy"]

_KEY = re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----")
_ENCRYPTED_KEY = re.compile(r"-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED", re.MULTILINE)
_CERTIFICATE = re.compile(r"-----BEGIN (?:TRUSTED )?CERTIFICATE-----")
_MOST = 1 << 22
"""The largest size in bytes of a file; bundles of all public authorities have 200 KiB."""


def _path(value: Any) -> Path | None:
    return value if value is None else Path(value)


def _certificates(_: object, field: attrs.Attribute[Any], path: Path | None) -> None:
    """Check that the file at *path* has certificates, and that no other user can read a private key in it."""
    if path is None:
        return
    text = _text(field.name, path)
    if not _CERTIFICATE.search(text):
        is_key = _KEY.search(text) or _ENCRYPTED_KEY.search(text)
        remedy = (
            "it has a private key; name the file of the certificate"
            if is_key
            else f"convert it: openssl x509 -inform der -in {path} -out NEW.pem"
        )
        raise ConfigurationError(
            f"{field.name}: {path} has no certificate in PEM format, which begins with -----BEGIN CERTIFICATE-----; "
            f"{remedy}"
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(f"{field.name}: {path} cannot be read as a certificate: {_words(error)}") from None
    if _KEY.search(text):
        remedy = "remove the key from it: certificates are enough" if field.name == "ca" else ""
        _refuse_others(field.name, path, "has a private key and can be read by other users", remedy)


def _key(_: object, field: attrs.Attribute[Any], path: Path | None) -> None:
    """Check that the file at *path* has a private key that no other user can read."""
    if path is None:
        return
    text = _text(field.name, path)
    if _ENCRYPTED_KEY.search(text):
        raise ConfigurationError(
            f"{field.name}: {path} is encrypted, and nothing can ask for its passphrase; decrypt it: "
            f"openssl pkey -in {path} -out FILE"
        )
    if not _KEY.search(text):
        remedy = (
            "it has a certificate; name the file of the key"
            if _CERTIFICATE.search(text)
            else f"convert it: openssl pkey -inform der -in {path} -out NEW.pem"
        )
        raise ConfigurationError(
            f"{field.name}: {path} has no private key in PEM format, which begins with -----BEGIN PRIVATE KEY-----; "
            f"{remedy}"
        )
    _refuse_others(field.name, path, "can be read by other users")


def _refuse_others(name: str, path: Path, fault: str, remedy: str = "") -> None:
    """Raise an error with *fault* if other users can read the file at *path*; root may let a group read its own."""
    found = path.stat()
    if found.st_mode & (stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO | (stat.S_IRGRP if found.st_uid else 0)):
        raise ConfigurationError(f"{name}: {path} {fault}; {remedy or f'run: chmod 600 {path}'}")


def _text(name: str, path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a special file"
            raise ConfigurationError(f"{name}: {path}: expected a file; got {kind}")
        with path.open("rb") as file:
            return file.read(_MOST).decode("latin-1")
    except FileNotFoundError:
        raise ConfigurationError(f"{name}: {path} does not exist; create the file, or fix the path") from None
    except PermissionError:
        raise ConfigurationError(
            f"{name}: {path} cannot be read by this user ({os.geteuid()}); allow this user to read it"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{name}: {path} cannot be read: {error}") from None


@attrs.frozen(kw_only=True)
class Tls:
    """
    How connections to a server are encrypted.

    Without arguments the server's certificate must be signed by an authority that this system trusts, for the host
    name of the address. The files are checked at once, and read again for each connection.

    Raises:
        ConfigurationError: A file is missing, cannot be read, is not in PEM format, does not match the others, or has
            expired.
    """

    ca: Path | None = attrs.field(default=None, converter=_path, validator=_certificates)
    """The certificates of the authorities that may sign the server's, in PEM format, instead of the system's."""

    certificate: Path | None = attrs.field(default=None, converter=_path, validator=_certificates)
    """This client's certificate, for a server that asks for one; further ones that it was signed with may follow."""

    key: Path | None = attrs.field(default=None, converter=_path, validator=_key)
    """The private key of *certificate*, unencrypted; by default it is in the file of the certificate."""

    version: Literal["1.2", "1.3"] = attrs.field(default="1.2")
    """The oldest version of TLS that is accepted."""

    check_host: bool = True
    """Whether the certificate must be for the host of the address; without it, any server with one may answer."""

    def __attrs_post_init__(self) -> None:
        if self.version not in ("1.2", "1.3"):
            raise ConfigurationError(f'version: expected "1.2" or "1.3"; got {shown(self.version)}')
        if self.certificate is None:
            if self.key is not None:
                raise ConfigurationError("key: needs certificate; set both")
            return
        if self.key is None and not _KEY.search(_text("certificate", self.certificate)):
            raise ConfigurationError(f"certificate: {self.certificate} has no private key; name its file with key")
        self.context()
        ends = _end_of(self.certificate)
        if ends is not None and ends < time.time():
            when = time.strftime("%Y-%m-%d", time.gmtime(ends))
            raise ConfigurationError(f"certificate: {self.certificate} expired on {when}; renew it")

    @property
    def key_file(self) -> Path | None:
        """The file of the private key."""
        return self.key or self.certificate

    def context(self) -> ssl.SSLContext:
        """
        Return the context for a connection.

        Raises:
            ConfigurationError: The files changed, and do not fit together.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_3 if self.version == "1.3" else ssl.TLSVersion.TLSv1_2
            context.check_hostname = self.check_host
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key_file, password=_no_passphrase)
        except (ssl.SSLError, OSError) as error:
            if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
                raise ConfigurationError(
                    f"key: {self.key_file} is not the key of {self.certificate}; name the one with which the "
                    f"certificate was requested"
                ) from None
            raise ConfigurationError(
                f"certificate: {self.certificate or self.ca} cannot be used: {_words(error)}"
            ) from None
        return context


def _no_passphrase() -> str:
    return ""  # by default OpenSSL would ask for it at the terminal


def _end_of(path: Path) -> float | None:
    """Return when the first certificate at *path* expires, in seconds since the epoch; ``None`` if that is unknown."""
    # The ssl module has no public function that decodes a certificate which did not come from a peer.
    decode = getattr(getattr(ssl, "_ssl", None), "_test_decode_cert", None)
    try:
        return ssl.cert_time_to_seconds(decode(str(path))["notAfter"]) if decode else None
    except (OSError, ValueError, KeyError):
        return None


def _words(error: BaseException) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error).replace("_", " ").lower()


_REMEDIES = [
    (re.compile(pattern, re.IGNORECASE), remedy)
    for pattern, remedy in (
        (
            r"hostname mismatch|IP address mismatch|does not match host ?name|doesn't match",
            "the server's certificate is for another host; name the host that is in the certificate in the address",
        ),
        (
            r"alert.*(unknown ca|bad certificate|certificate (unknown|expired|revoked)|unsupported certificate)",
            "the server does not accept this client's certificate; check certificate in tls, and the server's log",
        ),
        (
            (
                r"(alert|tlsv1).*certificate required|alert handshake failure|requires a valid client certificate|"
                r"PEER_DID_NOT_RETURN_A_CERTIFICATE"
            ),
            "the server asks for a certificate of the client; set certificate and key in tls",
        ),
        (r"certificate has expired", "the server's certificate has expired; renew it"),
        (r"certificate is not yet valid", "the server's certificate is not valid yet; check the clocks of both hosts"),
        (
            r"SSL error: certificate verify failed",  # PostgreSQL's driver does not say why
            (
                "the server's certificate has expired, or is signed by an authority that is not known here; set ca in "
                "tls to the file of its certificate"
            ),
        ),
        (
            r"certificate[ _]verify[ _]failed|self.signed certificate|unable to get (local )?issuer",
            (
                "the server's certificate is signed by an authority that is not known here; set ca in tls to the file "
                "of its certificate"
            ),
        ),
        (
            r"protocol[ _]version|unsupported[ _]protocol|NO_PROTOCOLS_AVAILABLE",
            "the server and this client have no version of TLS in common; update the server, or check version in tls",
        ),
        (
            r"wrong[ _]version[ _]number|record layer failure|does not support SSL|doesn't support it",
            "the server does not speak TLS at this port; check the port, or the server's settings",
        ),
        (r"private key file|root certificate file|certificate file", "check the files in tls"),
    )
]


def tls_remedy(text: str) -> str | None:
    """
    Return what to do about an error of TLS whose *text* comes from a driver; ``None`` if it is another error.

    Such an error does not pass by itself, so it is one of the configuration. A connection that ended during the
    handshake is not: the server may just be starting.
    """
    return next((remedy for pattern, remedy in _REMEDIES if pattern.search(text)), None)
