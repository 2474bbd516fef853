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
    forgotten, an address is a word such as ``user:password@host``. Values that are called a password, a key or a token
    are masked in the forms of programs: ``api_key=…``, ``{'token': '…'}``, ``'--password', '…'`` and the headers of
    HTTP.
    """
    hidden, before = _masked(text), text
    for _ in range(_PASSES):
        if hidden == before:
            break
        hidden, before = _masked(hidden), hidden
    return _WORDS.sub(_masked_encoded, hidden) if "%3" in hidden else hidden


def _masked(text: str) -> str:
    """Return *text* without the passwords in it, unless they are in an address that is percent-encoded."""
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
    return _masked_settings("".join([*shown, _masked_words(text[end:], runs_on=False)]))


def abridged(text: str) -> str:
    """
    Return *text*, without its middle if it is longer than any text that is shown or stored.

    Masking takes time, and a message of another program may be large.
    """
    if len(text) <= _LONGEST:
        return text
    head, tail = text[: _LONGEST // 2], text[-_LONGEST // 2 :]
    # Not in the middle of a line, or of a word if that is too long: half an address is not recognised as one.
    ends = (head.rfind(each, len(head) - _LONGEST_ADDRESS) for each in "\n ")
    starts = (tail.find(each, 0, _LONGEST_ADDRESS) for each in "\n ")
    end = next((each for each in ends if each >= 0), len(head))
    start = next((each + 1 for each in starts if each >= 0), 0)
    return f"{head[:end]} [...] {tail[start:]}"


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


_NAME = re.compile(r"(?i)passw(?:or)?d|passphrase|pwd|secret|token")
"""The name of a text in a table that is a secret."""

_PASSES = 3
"""How often a changed text is masked again: with a mask in it, a word may look like an address, as ``a:'***'@``."""

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

_WEB_PLACE = re.compile(r"[^/?#@]*:\d{1,5}[/?#]", re.ASCII)
"""The host and the port of a web page's address; an ``@`` after them is common, as in the path of a user's page."""

_NESTED = re.compile(r"(:/{1,2}[^\s:/@&?#]{0,200}:)[^\s&]{1,500}@")
"""The credentials of an address in the query of another one."""

_EXAMPLE = re.compile(r"user:(?:password|\$\{\w+\})")
"""Credentials as the remedies of errors show them."""

_FORGOTTEN = re.compile(r"(?!mailto:)[^\s:/@]+:.+@", re.DOTALL)
"""The credentials of an address whose scheme was forgotten, as a value of its own."""

_WORDS = re.compile(r"""[^\s"<>`]+""")
_NOT_OF_WORDS = frozenset(' "<>`%')
"""What stays encoded of an address whose password was masked, with what is not printable."""

_NAMES = (
    *("passw", "passphrase", "pwd", "secret", "token", "credential", "authorization", "cookie"),
    *(f"{kind}{dash}key" for kind in ("api", "private", "access", "auth") for dash in ("", "_", "-")),
)
"""Parts of the names of secrets; looking for them takes a tenth of the time of the expressions below."""

_OF_QUERIES = ("key", "auth", "sig")
"""Further ones, in the query of an address."""

_CALLED = r"passw(?:or)?d|passphrase|pwd"
_KEY = r"(?:api|private|access|secret|auth)[_-]?key"
_VALUE = r"""[^\s'"&,;<>)\]}]+"""
_IN_QUOTES = r"""(?P<quote>\\{0,15}['"])(?:(?!(?P=quote))(?:\\\\\\.|\\.|[^\n\\]))*+(?P<end>(?P=quote))?"""
"""A value in quotes, which are escaped themselves in a text that is quoted in another one; the end may be cut off."""

_OF_SETTING = rf"""(?:(?:'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")(?:{_VALUE})?|(?!=){_VALUE})"""
_SETTING = re.compile(
    rf"""(?i)((?:{_CALLED}|(?<=[?&])[\w-]{{0,40}}(?:secret|token|key|auth|signature|sig))\s?={{1,2}}\s?){_OF_SETTING}"""
)
"""A password as drivers write their arguments, and a value in the query of an address that has a secret's name."""

_KEY_SETTING = re.compile(rf"""(?i)((?:secret|token|{_KEY})(?:={{1,2}}|\s={{1,2}}\s?(?=['"]))){_OF_SETTING}""")
"""Another secret that is set; with spaces around it may be an assignment in the line of a traceback."""

_ENTRY = re.compile(
    r"(?i)(?=[pstacr-])"
    rf"""((?:(?:(?:passw(?:or)?d|secret)\w{{0,30}}|passphrase|pwd|{_KEY}|token|credentials?|authorization|cookie)"""
    rf"""\\{{0,15}}['"]\s?[:=]|(?:{_CALLED}|{_KEY}|(?:access|auth|api|refresh|session)[_-]?token)\s?:)"""
    r"""\s{0,8}[a-z]{0,2}"""
    rf"""|(?<![\w-])--?[\w-]{{0,30}}(?:{_CALLED}|secret|token|{_KEY})\\{{0,15}}['"],\s?){_IN_QUOTES}"""
)
"""
A secret in a table as Python and JSON write it, and in the arguments of a command.

Without quotes around both it may be a sentence, such as ``password: expected text`` or ``unexpected token: "}"``. The
first letters are looked at first, which saves three quarters of the time.
"""

_HEADER = re.compile(
    rf"""(?i)(authorization:\s?(?:bearer|basic|token|negotiate|apikey)\s+)(?:{_VALUE})"""
    r"""|(cookie:\s?[\w.-]{1,64}=)[^\n'"]+"""
)
"""A header of HTTP that has a secret."""


def _masked_settings(text: str) -> str:
    """Return *text* without the values that have the names of secrets."""
    lowered = text.lower()
    is_named = any(name in lowered for name in _NAMES)
    if is_named and ("'" in text or '"' in text):
        text = _ENTRY.sub(lambda found: f"{found[1]}{found['quote']}{MASK}{found['end'] or ''}", text)
    if "=" in text and (is_named or any(name in lowered for name in _OF_QUERIES)):
        text = _SETTING.sub(rf"\1{MASK}", text)
    if "=" in text and is_named:
        text = _KEY_SETTING.sub(rf"\1{MASK}", text)
    if "authorization" in lowered or "cookie" in lowered:
        text = _HEADER.sub(lambda found: f"{found[1] or found[2]}{MASK}", text)
    return text


def _masked_encoded(word: re.Match[str]) -> str:
    """Return *word* as it is, or decoded and without its password if it has one."""
    upper = word[0].upper()
    if "%3A" not in upper and "%3D" not in upper:
        return word[0]
    from urllib.parse import quote, unquote  # noqa: PLC0415 - a tenth of relevo's import time, and rarely needed

    plain = unquote(word[0])
    hidden = _masked(plain)
    if hidden == plain:
        return word[0]
    return "".join(
        each if each.isprintable() and each not in _NOT_OF_WORDS else quote(each, errors="backslashreplace")
        for each in hidden
    )


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
    if "@" not in word.partition("/")[0] and _is_place(word) and not _may_be_password(text, start, word):
        return _NESTED.sub(rf"\1{MASK}@", word), end  # the @ is a part of the path
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


def _may_be_password(text: str, start: int, word: str) -> bool:
    """
    Return whether *word*, which begins with a host at *start* and has an ``@`` later, may be a user and a password.

    What looks like a port may be the digits that a password begins with, except in the address of a web page.
    """
    if ":" not in word.partition("/")[0].rpartition("]")[2]:
        return False
    return not (text.endswith(("http://", "https://"), 0, start) and _WEB_PLACE.match(word))


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
