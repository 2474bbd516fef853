"""Two values that should be equal, in words."""

from __future__ import annotations

from relevo.errors import shown


def difference(found: object, wanted: object) -> str:
    """Return *found* and *wanted* in words; of long ones, also where they begin to differ."""
    words = f"{shown(found)}, not {shown(wanted)}"
    if not (isinstance(found, str | bytes) and isinstance(wanted, str | bytes)) or shown(found) != shown(wanted):
        return words
    if len(found) != len(wanted):
        return f"{words}: {len(found)} long, not {len(wanted)}"
    place = next((at for at, (one, other) in enumerate(zip(found, wanted, strict=True)) if one != other), 0)
    return f"{words}: they differ from position {place} on"
