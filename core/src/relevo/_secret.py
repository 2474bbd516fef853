"""Text that never shows itself."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

MASK = "***"


class Secret:
    """
    A password, a key, or an address that contains one.

    ``repr``, ``str`` and formatting give ``***``; only :meth:`reveal` gives the text. It does not
    pickle.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str):
        self._text = text

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def __repr__(self) -> str:
        return MASK

    def __reduce__(self) -> str:
        message = "a secret is not pickled"
        raise TypeError(message)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def masked_url(url: str) -> str:
    """Return *url* for people: its password and the values of its query replaced by ``***``."""
    try:
        parts = urlsplit(url)
        userinfo, at, host = parts.netloc.rpartition("@")
        user, colon, _ = userinfo.partition(":")
        netloc = f"{user}{colon and ':' + MASK}{at}{host}"
        query = "&".join(f"{pair.partition('=')[0]}={MASK}" for pair in parts.query.split("&") if pair)
        return urlunsplit((parts.scheme, netloc, parts.path, query, ""))
    except ValueError:
        return f"{url.partition(':')[0][:16]}:{MASK}"
