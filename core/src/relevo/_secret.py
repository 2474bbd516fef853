"""Text that is never shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"


class Secret:
    """
    A password, a key, or an address that contains one.

    ``repr``, ``str`` and formatting return ``***``; only :meth:`reveal` returns the text. It cannot be
    pickled.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str):
        self._text = text

    def reveal(self) -> str:
        """Return the text."""
        return self._text

    def __repr__(self) -> str:
        return MASK

    def __format__(self, _: str) -> str:
        return MASK

    def __reduce__(self) -> str:
        raise TypeError("a Secret cannot be pickled")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def masked_url(url: str) -> str:
    """
    Return *url* with its password and the values of its query replaced by ``***``.

    Malformed addresses are accepted, since they appear in error messages: everything up to the last ``@``
    counts as credentials, of which only a user name before a colon is shown.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return MASK
    credentials, at, place = rest.rpartition("@")
    if not at and not _is_place(rest):
        return f"{masked(scheme)}://{MASK}"
    place, question, query = place.partition("?")
    pairs = "&".join(f"{pair.partition('=')[0]}={MASK}" for pair in query.split("&") if pair)
    return f"{masked(scheme)}://{_user(credentials)}{at}{place.partition('#')[0]}{question}{pairs}"


def masked(text: str) -> str:
    """
    Return *text* with the passwords in it replaced by ``***``: those of addresses, and values called ``password=…``.

    In a text, other words surround an address. So the values of a query are masked only if they have the name of a
    secret, and an address ends at a space or a quote, unless its password has one. Where the scheme was
    forgotten, an address is a word such as ``user:password@host``.
    """
    shown, end = [], 0
    line_end = last_at = -1
    while found := _SEPARATOR.search(text, end):
        start = found.end()
        if start > line_end:  # once for each line: looking from each address on would take a square of the time
            line_end = text.find("\n", start)
            line_end = len(text) if line_end < 0 else line_end
            last_at = text.rfind("@", start, line_end)
        address, after = _masked_address(text, start, last_at)
        shown += [_masked_words(text[end : found.start()], runs_on="@" in address), found[0], address]
        end = after
    return _SETTING.sub(rf"\1{MASK}", "".join([*shown, _masked_words(text[end:], runs_on=False)]))


def abridged(text: str) -> str:
    """
    Return *text*, without its middle if it is longer than any text that is shown or stored.

    Masking takes time, and a message of another program may be large.
    """
    if len(text) <= _LONGEST:
        return text
    head, tail = text[: _LONGEST // 2], text[-_LONGEST // 2 :]
    # Not in the middle of a word: half an address is not recognised as one.
    end, start = head.rfind(" ", len(head) - _LONGEST_ADDRESS), tail.find(" ", 0, _LONGEST_ADDRESS)
    return f"{head if end < 0 else head[:end]} [...] {tail[start + 1 :]}"


def without_secrets(value: Any) -> Any:
    """
    Return *value* with the passwords in its texts masked, also inside of lists and tables, as values or by their names.

    Each text is one value, so an address in it reaches to its end, and its password may contain anything.
    """
    match value:
        case str():
            return _masked_value(value)
        case Mapping():
            return {
                without_secrets(key): MASK
                if _NAME.search(str(key)) and isinstance(each, str)
                else without_secrets(each)
                for key, each in value.items()
            }
        case list():
            return [without_secrets(each) for each in value]
        case tuple():
            return tuple(without_secrets(each) for each in value)
    return value


def names_secret(name: str) -> bool:
    """Return whether *name*, of a value in a table or in an address, is that of a secret."""
    return _NAME.search(name) is not None


def _masked_entry(name: Any, value: Any) -> Any:
    """Return *value*, which a table has under *name*, without passwords."""
    return MASK if isinstance(value, str) and _NAME.search(str(name)) else without_secrets(value)


_NAME = re.compile(r"(?i)passw(?:or)?d|passphrase|pwd|secret|token")
"""The name of a text in a table that is a secret."""

_LONGEST = 1 << 16
"""Characters; four times the longest error that is stored."""

_LONGEST_ADDRESS = 2048
"""Characters."""

_SEPARATOR = re.compile(r":/{1,2}")
"""What follows a scheme; in an address that was taken for a path, one slash is left."""

_WORD = re.compile(r"""[^\s"<>`]*""")
_PLACE = re.compile(r"(?:\[[\w:.%]*\]|[^:\[\]]*+)(?::(?:\d++|port))?[.,;:!?')\]}]*+")
"""
A host with a valid port, or with the word that stands for one in a remedy, and the punctuation after it.

Its parts are possessive: otherwise a long word that does not match would take a square of the time.
"""

_EXAMPLE = re.compile(r"user:(?:password|\$\{\w+\})")
"""Credentials as the remedies of errors show them."""

_FORGOTTEN = re.compile(r"(?!mailto:)[^\s:/@]+:.+@", re.DOTALL)
"""The credentials of an address whose scheme was forgotten, as a value of its own."""

_SETTING = re.compile(
    r"""(?i)((?:passw(?:or)?d|passphrase|pwd|(?<=[?&])[\w-]{0,40}(?:secret|token|key|auth|signature|sig))\s?=\s?)"""
    r"""(?:'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+"|[^\s'"&,;<>)\]}]+)"""
)
"""A password as drivers write their arguments, and a value in the query of an address that has a secret's name."""


def _masked_address(text: str, start: int, last_at: int) -> tuple[str, int]:
    """
    Return an address without its password, and where it ends.

    Args:
        text: The text that has the address.

        start: Where its host or its credentials begin.

        last_at: The place of the last ``@`` on its line; -1 if there is none.
    """
    word = _word(text, start)
    end = start + len(word)
    credentials, at, place = word.rpartition("@")
    if not at and _is_place(word):
        return word, end
    if not at:  # the password has a space or a quote, or its @host was forgotten
        if last_at < end:
            return MASK, end
        place = _word(text, last_at + 1)
        return f"{_user(word)}@{place}", last_at + 1 + len(place)
    if "@" not in word.partition("/")[0] and _is_place(word):  # it is a part of the path
        return word, end
    return f"{credentials if _EXAMPLE.fullmatch(credentials) else _user(credentials)}@{place}", end


def _masked_words(text: str, *, runs_on: bool) -> str:
    """
    Return *text*, which has no address, without the passwords of those whose scheme was forgotten.

    Args:
        text: The text.

        runs_on: Whether credentials follow, of which the last word may be the beginning: a password may have ``:/``.
    """
    if "@" not in text and not runs_on:
        return text

    def show(word: re.Match[str]) -> str:
        credentials, at, place = word[0].rpartition("@")
        if runs_on and word.end() == len(text):
            credentials, at, place = word[0], "", ""
        user, _, password = credentials.partition(":")
        if not password or user.lower().endswith("mailto") or _EXAMPLE.fullmatch(credentials):
            return word[0]
        return f"{user}:{MASK}{at}{place}"

    return _WORD.sub(show, text)


def _word(text: str, start: int) -> str:
    found = _WORD.match(text, start)
    return found[0] if found else ""


def _is_place(rest: str) -> bool:
    """Return whether *rest* begins with a host; an invalid port may be a password."""
    return _PLACE.fullmatch(rest.partition("/")[0]) is not None


def _user(credentials: str) -> str:
    """Return *credentials* without what may be a password; without a colon they may be a token."""
    user, colon, _ = credentials.partition(":")
    return f"{user}:{MASK}" if colon else MASK if credentials else ""


def _masked_value(text: str) -> str:
    if "://" in text:
        return masked_url(text)
    if _FORGOTTEN.match(text):
        return f"{_user(text)}@{text.rpartition('@')[2]}"
    return masked(text)
