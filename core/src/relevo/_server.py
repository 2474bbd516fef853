"""Facts about any server: the names of this machine, and well-known passwords."""

from __future__ import annotations

from ipaddress import ip_address

PLACEHOLDERS = ("changeme", "YourPasswordHere")
"""Passwords that are printed in examples, to be replaced."""

WELL_KNOWN = (
    "",
    "123",
    "1234",
    "12345",
    "123456",
    "admin",
    "guest",
    "password",
    "postgres",
    "relevo",
    "root",
    "secret",
    "test",
    "user",
    *PLACEHOLDERS,
)
"""Passwords of servers as they are installed, and of common examples; supervisor's documentation uses 123."""


def is_loopback(host: str) -> bool:
    """Return whether *host*, a name or an address, is this machine, whose connections no other host can read."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        name = host.lower()
        return name == "localhost" or name.endswith(".localhost")  # RFC 6761, section 6.3


def is_well_known(password: str) -> bool:
    """
    Return whether *password* is one that everyone tries first, in upper or lower case.

    In quotes it is one too: supervisor, for example, takes quotes as a part of the password.
    """
    return password.strip("'\"").lower() in {each.lower() for each in WELL_KNOWN}
