"""The keys of signatures, and the refusal of weak ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from relevo._secret import Secret
from relevo.errors import ConfigurationError

SHORTEST_KEY = 32
_FEWEST = 8
"""Different characters of a key; of 32 random hexadecimal digits fewer are different once in 20 million keys."""

_FEWEST_LEFT = 16
"""Characters of a key beside the words that examples use."""

_OF_EXAMPLES = (
    r"abc\w?def|0?123456789?0?|change|characters|chars|default|django|example|generate|goes|here|insecure|insert|key"
    r"|least|long|must|not|password|passphrase|placeholder|please|production|qwerty|random|relevo|replace|sample"
    r"|secret|secure|shop|sign(?:ing)?|string|super|test|text|the|this|todo|token|value|with|xxx|your"
)
"""Matched without regard to case."""

_REMEDY = 'generate one with python -c "import secrets; print(secrets.token_urlsafe(32))"'


def checked_keys(given: str | Secret | Iterable[str | Secret]) -> tuple[Secret, ...]:
    """
    Return the keys that are *given*, one or several.

    Raises:
        ConfigurationError: There is none, one is too short, weak or there twice; no key is shown.
    """
    value: Any = given
    is_one = isinstance(value, (str, bytes, Secret)) or not isinstance(value, Iterable)
    keys: list[Any] = [value] if is_one else list(value)
    if wrong := [type(each).__name__ for each in keys if not isinstance(each, (str, Secret))]:
        raise ConfigurationError(f"signing: expected a key as text, or a list of keys; got {wrong[0]}")
    found = tuple(each if isinstance(each, Secret) else Secret(each) for each in keys)
    lengths = [len(key.reveal()) for key in found]
    if not lengths or min(lengths) < SHORTEST_KEY:
        got = f"one with {min(lengths)} characters" if lengths else "no key"
        raise ConfigurationError(f"signing: expected keys of at least {SHORTEST_KEY} characters; got {got}; {_REMEDY}")
    for key in found:
        if fault := weakness(key.reveal()):
            raise ConfigurationError(f"signing: expected random keys; got one that {fault}; {_REMEDY}")
    if len(set(found)) < len(found):
        raise ConfigurationError("signing: one of the keys is given twice; remove it")
    return found


def weakness(key: str) -> str | None:
    """
    Return why *key* can be guessed, in words that do not show it; ``None`` for one that may be random.

    A random key is not weak in this sense, except with a probability of less than one in ten million.
    """
    if key != key.strip():
        return "begins or ends with white space"
    counts = Counter(key)
    if len(counts) < _FEWEST:
        return f"has only {len(counts)} different character{'s' * (len(counts) != 1)}"
    if 2 * max(counts.values()) + 1 >= len(key):
        return "repeats one character"
    if _period(key) <= len(key) // 2:
        return "repeats its beginning"
    steps = Counter(ord(after) - ord(before) for before, after in pairwise(key))
    if 2 * max(steps[1], steps[-1]) >= len(key):
        return "counts up or down"
    if len(re.sub(rf"{_OF_EXAMPLES}|\W|_", "", key, flags=re.IGNORECASE)) < _FEWEST_LEFT:
        return "is made of the words of an example"
    return None


def _period(key: str) -> int:
    """Return the length of the shortest text of which *key* is a repetition; the last one may be cut."""
    return next(length for length in range(1, len(key) + 1) if key[length:] == key[:-length])
