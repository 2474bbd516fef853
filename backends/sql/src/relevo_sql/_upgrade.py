"""Change the tables of an older schema version to the present ones, with the events in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import sqlalchemy as sa

from relevo import Clock
from relevo.errors import ConfigurationError, TransportUnavailableError
from relevo_sql._database import Database
from relevo_sql._dialect import UpgradeStep
from relevo_sql._schema import LEASED, OLDEST, OLDEST_KEY, SCHEMA, SCHEMA_KEY, event, meta
from relevo_sql._setup import (
    Thing,
    as_script,
    create,
    description_of,
    everything,
    is_there,
    missing_in,
    place_of,
    require_tables,
    script,
    set_up,
    texts_of,
    without_columns,
)
from relevo_sql._statement import statements_for


@attrs.frozen(kw_only=True)
class _Plan:
    """What changes the tables of an older version."""

    version: int
    """The version that the database records."""

    steps: Sequence[UpgradeStep]
    """At least one."""

    missing: Sequence[Thing]
    """What is to be created afterwards."""

    has_events: bool
    """Whether the table of events exists."""

    has_oldest: bool
    """Whether the database records an oldest version that can use the tables."""

    @property
    def description(self) -> str:
        """The steps in words."""
        return f"an upgrade of the tables from schema version {self.version} to {SCHEMA}"


def upgrade(database: Database, clock: Clock, *, dry_run: bool) -> Sequence[str]:
    """
    Change the tables if they are of an older version, and create those that are missing.

    Args:
        database: The database.

        clock: The source of time.

        dry_run: Only report.

    Returns:
        Descriptions of what was, or would be, changed and created.

    Raises:
        ConfigurationError: Existing tables are of a version that cannot be upgraded, or not relevo's.

        TransportUnavailableError: A worker of an older release holds an event.
    """
    plan = _inspected(database)
    if plan is None:
        return set_up(database, dry_run=dry_run)
    if dry_run:
        return [plan.description, *map(description_of, plan.missing)]
    return database.upgrade(partial(_upgrade, database, clock))


def upgrade_script_for(database: Database) -> str:
    """
    Return the SQL of what :func:`upgrade` would do now, without changing anything.

    Raises:
        ConfigurationError: As of :func:`upgrade`.
    """
    plan, place, dialect = _inspected(database), place_of(database), database.dialect
    if plan is not None:
        title = f"relevo's tables, from version {plan.version} to {SCHEMA}, for {place}"
        texts = [*as_script(_statements(database, plan), dialect), *texts_of(plan.missing, dialect)]
        return script(title, texts, dialect, settings=dialect.upgrade_settings)
    missing = missing_in(database)
    if not missing:
        return f"-- relevo's tables, version {SCHEMA}, nothing to upgrade in {place}\n"
    return script(f"relevo's tables, version {SCHEMA}, for {place}", texts_of(missing, dialect), dialect)


def _inspected(database: Database) -> _Plan | None:
    """
    Return the plan for the tables as they are now.

    The version and the columns are not read at one moment. If they do not go together, and the version has changed
    meanwhile, another process has upgraded the tables between the two, and they are read again.
    """
    while True:
        before = database.inspect(partial(_version, database), upgrades=True)
        try:
            return database.inspect(partial(_plan, database), upgrades=True)
        except ConfigurationError:
            if database.inspect(partial(_version, database), upgrades=True) == before:
                raise


def _version(database: Database, connection: sa.Connection) -> str:
    return _recorded(database, connection).get(SCHEMA_KEY, "")


def _recorded(database: Database, connection: sa.Connection) -> Mapping[str, str]:
    """Return what ``relevo_meta`` records; nothing if it is missing."""
    dialect = database.dialect
    if meta.name not in dialect.catalog(connection):
        return {}
    rows: Sequence[Any] = statements_for(dialect, connection).meta.run(connection).all()
    return {str(key): str(value) for key, value in rows}


def _plan(database: Database, connection: sa.Connection) -> _Plan | None:
    """Return what changes the tables; ``None`` if they cannot be, or need not be changed."""
    dialect = database.dialect
    catalog = dialect.catalog(connection)
    there = set(catalog)
    recorded = _recorded(database, connection)
    version = recorded.get(SCHEMA_KEY, "")
    if version not in map(str, range(dialect.first_schema, SCHEMA)):
        return None
    require_tables(database, catalog)
    steps: list[UpgradeStep] = []
    reached = int(version)
    while reached < SCHEMA:
        steps.append(dialect.step_from(connection, reached))
        _require_columns(database, steps[-1])
        reached = steps[-1].to
    left = there.difference(*(step.drops for step in steps))
    keys = recorded.keys() - {OLDEST_KEY}
    has_schema = not dialect.lacks_schema(connection)
    missing = [thing for thing in everything(database) if not is_there(thing, left, keys, has_schema=has_schema)]
    return _Plan(
        version=int(version),
        steps=steps,
        missing=missing,
        has_events=event.name in there,
        has_oldest=OLDEST_KEY in recorded,
    )


def _require_columns(database: Database, step: UpgradeStep) -> None:
    """Raise :class:`ConfigurationError` if *step* cannot keep all that the table of events has."""
    if step.lacking:
        raise without_columns(database, event, step.lacking)
    if step.lost:
        raise ConfigurationError(
            f'{database.place}: the table "{event.name}" has the columns {", ".join(sorted(step.lost))}, which '
            f"something else has added, and which the upgrade would lose; move them to a table of your own, drop them, "
            f"and run: relevo setup --upgrade"
        )


def _upgrade(database: Database, clock: Clock, connection: sa.Connection) -> list[str]:
    database.dialect.begin_to_upgrade(connection)
    plan = _plan(database, connection)  # again, now that no other process can upgrade it
    if plan is not None:
        if plan.version < OLDEST and plan.has_events:
            _require_unleased(database, connection, database.now(clock, connection))
        for text in _statements(database, plan):
            connection.exec_driver_sql(text)
    # This checks the tables too, before the transaction is committed.
    created = map(description_of, create(database, connection))
    return [*([plan.description] if plan else []), *created]


def _statements(database: Database, plan: _Plan) -> list[str]:
    """
    Return the statements of the steps of *plan*, each with the version that it reaches.

    Where the database commits each of them by itself, the upgrade goes on from there after an interruption.
    """
    compiler = database.dialect.compiler
    key, texts = meta.c.key, list[str]()
    if plan.has_oldest:  # it was about the tables as they are now, and is created again if it still holds
        forget = sa.delete(meta).where(key == sa.literal_column(f"'{OLDEST_KEY}'"))
        texts.append(str(forget.compile(dialect=compiler)))
    for step in plan.steps:
        reached = sa.update(meta).where(key == sa.literal_column(f"'{SCHEMA_KEY}'"))
        reached = reached.values(value=sa.literal_column(f"'{step.to}'"))
        texts += [*step.statements, str(reached.compile(dialect=compiler))]
    return texts


def _require_unleased(database: Database, connection: sa.Connection, now: int) -> None:
    """
    Raise :class:`TransportUnavailableError` if an event is leased.

    The worker that holds it could not settle it on the new tables, and it would be handled once more.
    """
    held = sa.select(sa.func.count(), sa.func.max(event.c.lease_until)).where(
        event.c.state == sa.literal_column(str(LEASED)),
        event.c.lease_until.between(sa.literal_column(str(now)), sa.literal_column(str(2**63 - 1))),  # no text
    )
    number, until = connection.exec_driver_sql(str(held.compile(dialect=database.dialect.compiler))).one()
    if number:
        seconds = -((now - int(until)) // 1_000_000)
        raise TransportUnavailableError(
            database.name,
            f"workers of an older release hold events in {database.place}: {number}, the last lease ends in "
            f"{seconds} s, unless it is renewed; stop all workers, and then run: relevo setup --upgrade",
        )
