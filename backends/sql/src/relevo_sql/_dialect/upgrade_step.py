"""
The steps of an upgrade; each changes the tables of one schema version to those of a later one.

A step never reads the description of the present tables, which later releases change. It changes columns and
constraints of tables that exist. Tables and indexes that are missing afterwards are created as in a new database, so a
step drops an index that has to change, and does not create any. It leaves out what has been done already: where a
database commits each change of a table by itself, a step may have been interrupted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import attrs


@attrs.frozen(kw_only=True)
class UpgradeStep:
    """A step of an upgrade."""

    to: int
    """The schema version afterwards."""

    statements: Sequence[str]
    """What changes the tables."""

    drops: frozenset[str] = frozenset()
    """The names of relevo's indexes that no longer exist afterwards."""

    lacking: frozenset[str] = frozenset()
    """The columns of ``relevo_event`` that it needs, and that something else has removed."""

    lost: frozenset[str] = frozenset()
    """The columns that something else has added to ``relevo_event``, and that would not exist afterwards."""


def with_leased_at(table: str, columns: Collection[str]) -> UpgradeStep:
    """
    Return the step from version 3 to 4, which adds when the last lease of an event began.

    Args:
        table: ``relevo_event`` as statements name it.

        columns: The columns that it has; none if it does not exist.
    """
    # Without a default no database writes a row, so this takes no longer for a million of them.
    added = () if "leased_at" in columns or not columns else (f"ALTER TABLE {table} ADD COLUMN leased_at BIGINT",)
    return UpgradeStep(to=4, statements=added)
