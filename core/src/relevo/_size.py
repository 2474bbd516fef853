"""Sizes in bytes, as users write them."""

from __future__ import annotations

import re

from relevo.errors import ConfigurationError, shown

_SMALLEST = 16 << 20
_LARGEST = 1 << 60
"""Bytes; the system takes a limit that fits 64 bits."""

_SIZE = re.compile(r"([0-9]{1,15}) *([KMG]?)(?:i?B)?", re.IGNORECASE | re.ASCII)
_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size(value: object, *, what: str, least: int = 1) -> int:
    """
    Return *value* in bytes.

    Args:
        value: A number of bytes, or text with a unit.

        what: The name of *value* in the error.

        least: The smallest size allowed, in bytes.

    Raises:
        ConfigurationError: It is not a size, or it is too small or too large.
    """
    found = value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        found = int(match[1]) * _FACTORS[match[2].upper()]
    if type(found) is not int or not least <= found <= _LARGEST:
        smallest = f"{least >> 20}M" if least >> 20 else least
        digits = str(value)
        lacks_unit = 0 < len(digits) < 7 and digits.isascii() and digits.isdecimal() and int(digits)
        meant = f'; did you mean "{digits}M"?' if lacks_unit and least >> 20 else ""
        raise ConfigurationError(
            f'{what}: expected a number of bytes or text such as "512M", at least {smallest}; got {shown(value)}{meant}'
        )
    return found


def size_text(value: int) -> str:
    """Return *value*, in bytes, as :func:`size` reads it: in the largest unit that has no fraction."""
    unit = max((unit for unit, factor in _FACTORS.items() if value % factor == 0), key=_FACTORS.__getitem__)
    return f"{value // _FACTORS[unit]}{unit}"


def memory_limit_from(value: object) -> int:
    """
    Return *value*, the limit of a child process, in bytes.

    Raises:
        ConfigurationError: It is not a size, or no process can work with so little.
    """
    return size(value, what="memory_limit", least=_SMALLEST)
