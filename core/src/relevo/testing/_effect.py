"""Effects that happened twice, since a listener ran again after a crash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import attrs

from relevo.errors import shown

Row = str
"""A row as text: its columns with their values."""

TableName = tuple[int, str]
"""A number for the database, and the name of the table in it."""

Rows = Mapping[TableName, Counter[Row]]
"""What the tables hold that were written to."""

_MOST_ROWS = 3
_LONGEST_ROW = 200


@attrs.frozen(kw_only=True)
class RepeatedEffect:
    """An effect that happened twice for one event, since the process was killed between the two."""

    listener: str
    """The id of the listener."""

    effect: str
    """What happened twice, in words."""

    where: str
    """The file and line at which it happened again; empty if it is not known."""

    killed: str
    """Where the process was killed before, such as ``after the commit at shop.py:42``."""

    remedy: str
    """What to do about it."""

    def __str__(self) -> str:
        place = f" at {self.where}" if self.where else ""
        return (
            f"{self.listener}: {self.effect}{place}, in the run after the process was killed {self.killed}; "
            f"{self.remedy}"
        )


class RepeatedEffectError(AssertionError):
    """
    Raised by ``t.drain(crash="everywhere")`` if effects happened twice.

    Args:
        effects: What happened twice, in order.

        unmatched: The names in *repeatable* that did not occur: usually they are misspelt.
    """

    def __init__(self, effects: Sequence[RepeatedEffect], unmatched: Sequence[str] = ()):
        self.effects = tuple(effects)
        """What happened twice, in order."""
        self.unmatched = tuple(unmatched)
        """The names in *repeatable* that did not occur."""
        count = "an effect" if len(self.effects) == 1 else f"{len(self.effects)} effects"
        lines = "".join(f"\n  {each}" for each in self.effects)
        super().__init__(
            f"{count} happened twice:{lines}\nIf one may, name its table, column, event or effect: "
            f'drain(crash="everywhere", repeatable=["…"])'
            + (f"; nothing was called {' or '.join(map(shown, self.unmatched))}" if self.unmatched else "")
        )

    def __reduce__(self) -> tuple[type[RepeatedEffectError], tuple[Sequence[RepeatedEffect], Sequence[str]]]:
        return type(self), (self.effects, self.unmatched)


def changes(before: Rows, after: Rows) -> Mapping[TableName, str]:
    """Return in words how each table of *before* differs in *after*."""
    found = {}
    for table, rows in before.items():
        now = after.get(table, Counter())
        if now != rows:
            found[table] = _in_words(table[1], rows - now, now - rows)
    return found


def _in_words(table: str, gone: Counter[Row], new: Counter[Row]) -> str:
    if not gone:
        return f'the table "{table}" got {_listed(new)} again'
    if not new:
        return f'the table "{table}" lost {_listed(gone)} again'
    return f'the table "{table}" changed again, from {_listed(gone)} to {_listed(new)}'


def _listed(rows: Counter[Row]) -> str:
    """Return *rows* in words, at most some."""
    texts = sorted(rows.elements())
    shown = ", ".join(f"({_cut(each)})" for each in texts[:_MOST_ROWS])
    return shown if len(texts) <= _MOST_ROWS else f"{shown} and {len(texts) - _MOST_ROWS} more"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_ROW else f"{text[: _LONGEST_ROW - 1]}…"
