"""Plant bugs in the statements and the transactions of the SQL transport, on SQLite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial

import sqlalchemy as sa

from relevo_conformance.mutant import Mutant
from relevo_conformance.promise import Promise
from relevo_sql import _database
from relevo_sql._dialect.sqlite import SqliteDialect
from relevo_sql._prepared import Prepared
from relevo_sql._schema import LEASED, SCHEDULED, WAITING
from relevo_sql._statement import Statements
from relevo_sql.conformance import SqlHarness

MUTANTS: list[Mutant] = []

Patches = Mapping[tuple[object, str], object]


def planted(
    breaks: Promise, wrong: str, *, by_chance: bool = True, exactly: bool = True
) -> Callable[[Callable[[], Patches]], Callable[[], Patches]]:
    """Plant a bug that breaks *breaks*: what is decorated returns the patches; see the memory transport's bugs."""

    def plant(bug: Callable[[], Patches]) -> Callable[[], Patches]:
        MUTANTS.append(
            Mutant(
                name="".join(word.capitalize() for word in bug.__name__.split("_")),
                wrong=wrong,
                harness=SqlHarness,
                breaks=breaks,
                by_chance=by_chance,
                exactly=exactly,
                patches=bug(),
            )
        )
        return bug

    return plant


planted_pair = partial(planted, by_chance=False, exactly=False)
"""Plant a bug that shows when two features meet, or in large quantities; chance need not find it."""


def reworded(names: Sequence[str], *changes: tuple[str, str]) -> Patches:
    """Return what makes the statements *names* say something else; *changes* are made in each where they fit."""
    statements = copy(_STATEMENTS)
    for name in names:
        prepared = copy(_named(statements, name))
        before = " ".join(prepared.compile().split())
        after = before
        for old, new in changes:
            after = after.replace(old, new)
        assert after != before, f"{name} has nothing of {changes}: {before}"
        prepared.sql = after
        _replace(statements, name, prepared)
    return {(_database, "statements_for"): lambda _dialect, _connection=None: statements}


_STATEMENTS = Statements(SqliteDialect())
"""The correct ones, made once: those of a bug share what it does not reword."""

_STATES = {"purge of leased": LEASED, "purge of scheduled": SCHEDULED, "purge of waiting": WAITING}


def _replace(statements: Statements, name: str, prepared: Prepared) -> None:
    if name in _STATES:
        statements.purge = {**statements.purge, _STATES[name]: prepared}
    else:
        setattr(statements, name, prepared)


def _named(statements: Statements, name: str) -> Prepared:
    if name in _STATES:
        return statements.purge[_STATES[name]]
    prepared = getattr(statements, name)
    assert isinstance(prepared, Prepared)
    return prepared


def commit(connection: sa.Connection) -> None:
    """Commit in the middle of what should be one transaction, and begin another."""
    connection.exec_driver_sql("COMMIT")
    connection.exec_driver_sql("BEGIN IMMEDIATE")
