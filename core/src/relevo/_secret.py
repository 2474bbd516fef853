"""Text that is never shown."""

from __future__ import annotations

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
    if not at and not rest.partition("/")[0].rpartition(":")[2].isdecimal() and ":" in rest.partition("/")[0]:
        return f"{scheme}://{MASK}"  # an invalid port may be a password whose @host was forgotten
    user, colon, _ = credentials.partition(":")
    shown = f"{user}:{MASK}@" if colon else f"{MASK}@" if at else ""
    place, question, query = place.partition("?")
    pairs = "&".join(f"{pair.partition('=')[0]}={MASK}" for pair in query.split("&") if pair)
    return f"{scheme}://{shown}{place.partition('#')[0]}{question}{pairs}"
