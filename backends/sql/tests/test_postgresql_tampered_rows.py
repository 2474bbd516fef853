"""Rows and tables on PostgreSQL that something else changed: set aside, or refused with the remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from database_server import DatabaseServer
from relevo import Ack, DeadLetter, Envelope, SystemClock, Unreadable
from relevo.errors import ConfigurationError
from relevo.testing import FakeClock
from relevo_sql import SqlOptions, SqlTransport

from .on_postgresql import execute, ids, scalar

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

LAST, FIRST = 2**63 - 1, -(2**63)
CHECKS = ("state_is_known", "lease_is_whole", "waiting_has_line", "attempt_is_count", "lost_leases_is_count")


@pytest.fixture(name="transport")
def _transport(opener: Opener, clock: FakeClock, postgresql_database: str) -> SqlTransport:
    return opener(clock, url=postgresql_database)


@pytest.fixture(name="lax", scope="module")
def _lax(postgresql_databases: DatabaseServer) -> Iterator[str]:
    """Give the URL of a database whose table of events has lost its constraints, for many tests."""
    with postgresql_databases.fresh_database() as url:
        with SqlTransport.open(SqlOptions(url=url), name="main", clock=SystemClock()) as transport:
            transport.setup([])
        execute(url, *(f"ALTER TABLE relevo_event DROP CONSTRAINT relevo_event_{name}" for name in CHECKS))
        yield url


@pytest.fixture(name="careless")
def _careless(opener: Opener, clock: FakeClock, lax: str) -> SqlTransport:
    """Return a transport on that database, which is empty."""
    execute(lax, "DELETE FROM relevo_event", "DELETE FROM relevo_dead")
    return opener(clock, url=lax, setup=False)


# --- rows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("body = NULL", "the column body is NULL"),
        ("event_id = NULL", "the column event_id is NULL"),
        ("source = NULL", "the column source is NULL"),
        ("name = NULL", "the column name is NULL"),
        ("enqueued_at = NULL, name = NULL", "the column name is NULL"),
        ("urgency = 9", "the column urgency holds 9"),
        ("headers = '[1]'", "the column headers holds no JSON"),
        ("headers = '{\"a\": 1}'", "the column headers holds no JSON"),
        ("headers = '{'", "the column headers holds no JSON"),
        ("headers = repeat('[', 100000)", "the column headers holds no JSON"),
        ('headers = \'{"a": "\\ud800"}\'', "the column headers holds no JSON object of texts, or one with a lone"),
        ("attempt = 0", "the column attempt holds 0"),
        ("lost_leases = -1", "the column lost_leases holds -1"),
        ("state = 9", "the column state holds a number, 9"),
        ("state = -1", "the column state holds a number, -1"),
        ("state = 3", "the column ordering_key is NULL and the row waits"),
        ("state = 3, ordering_key = '42', target = NULL", "the column target is NULL and the row waits"),
        ("state = 1", "the column lease_until is NULL and the row is leased"),
        ("state = 1, token = 7", "the column lease_until is NULL and the row is leased"),
    ],
)
def test_a_row_that_is_no_envelope_is_set_aside_and_its_followers_flow(
    careless: SqlTransport, lax: str, an_envelope: Maker, change: str, why: str
) -> None:
    careless.send([an_envelope(1), an_envelope(2)])
    execute(lax, f"UPDATE relevo_event SET {change} WHERE event_id = 'id-1'")  # noqa: S608 - of this list

    ready = careless.stats("default").ready
    deliveries = careless.receive(["default"], limit=10, lease=60, wait=0)
    broken, sound = sorted(deliveries, key=lambda delivery: isinstance(delivery.envelope, Envelope))
    lost = careless.settle([(broken, DeadLetter(reason="unreadable")), (sound, Ack())])
    (entry,) = careless.dead_letters(["default"])
    careless.revive({entry.ref: b""})

    assert ready == 2
    assert isinstance(broken.envelope, Unreadable)
    assert why in broken.envelope.why
    assert (broken.attempt, broken.lost_leases) == (1, 0)
    assert sound.envelope == an_envelope(2)
    assert not lost
    assert isinstance(entry.envelope, (Unreadable, Envelope))  # a state that was wrong is not kept
    assert len(careless.receive(["default"], limit=10, lease=60, wait=0)) == 1


@pytest.mark.parametrize(
    "change",
    [
        f"ready_at = {LAST}", f"ready_at = {FIRST}", f"enqueued_at = {LAST}", f"enqueued_at = {FIRST}",
        f"seq = {LAST}", f"seq = {FIRST}", "attempt = 2147483647", "lost_leases = 2147483647",
        "expires = 'NaN'", "expires = 'Infinity'", "expires = '-Infinity'", "progress = NULL", "target = NULL",
        "begun = repeat('x', 100000)", "deaths = repeat('[', 100000)", "ordering_key = ''",
        f"state = 1, token = {FIRST}, lease_until = {LAST}", f"state = 1, token = 1, lease_until = {FIRST}",
        f"state = 2, ready_at = {FIRST}",
    ],
)  # fmt: skip
def test_a_row_with_absurd_numbers_is_received_and_holds_up_no_other(
    careless: SqlTransport, lax: str, an_envelope: Maker, change: str
) -> None:
    careless.send([an_envelope(1), an_envelope(2)])
    execute(lax, f"UPDATE relevo_event SET {change} WHERE event_id = 'id-1'")  # noqa: S608 - of this list

    careless.stats("default")
    found = careless.find("id-1")
    deliveries = careless.receive(["default"], limit=10, lease=60, wait=0)
    lost = careless.settle([(delivery, DeadLetter(reason="odd")) for delivery in deliveries])
    entries = careless.dead_letters(["default"])

    assert found
    assert len(deliveries) == len(entries) == 2
    assert not lost
    assert not careless.revive({entry.ref: b"" for entry in entries})
    assert sorted(ids(careless)) == ["id-1", "id-2"]


@pytest.mark.parametrize("column", ["attempt", "lost_leases"])
@pytest.mark.parametrize("lease_until", [1, LAST])
def test_a_count_that_cannot_grow_holds_up_no_other_row(
    careless: SqlTransport, lax: str, an_envelope: Maker, column: str, lease_until: int
) -> None:
    careless.send([an_envelope(1), an_envelope(2)])
    change = f"{column} = 2147483647, state = 1, token = 1, lease_until = {lease_until}"
    execute(lax, f"UPDATE relevo_event SET {change} WHERE event_id = 'id-1'")  # noqa: S608 - of this list

    assert sorted(ids(careless)) == ["id-1", "id-2"]


@pytest.mark.parametrize("ref", [LAST, 0, FIRST + 1])
def test_a_dead_letter_with_an_absurd_ref_is_listed_and_can_be_revived(
    careless: SqlTransport, lax: str, ref: int
) -> None:
    execute(lax, f"INSERT INTO relevo_dead (ref, queue) VALUES ({ref}, 'default')")  # noqa: S608

    (entry,) = careless.dead_letters(["default"])

    assert entry.ref == f"{ref}@default"
    assert not careless.dead_letters(["default"], after=entry.ref)
    assert not careless.revive({entry.ref: b""})


@pytest.mark.parametrize(
    "change",
    ["state = 9", "state = 3", "state = 1", "lease_until = 1", "attempt = 0", "lost_leases = -1", "queue = NULL"],
)
def test_a_writer_that_breaks_a_constraint_is_refused(
    transport: SqlTransport, postgresql_database: str, an_envelope: Maker, change: str
) -> None:
    transport.send([an_envelope(1)])

    with pytest.raises(Exception, match=r"violates (check|not-null) constraint"):
        execute(postgresql_database, f"UPDATE relevo_event SET {change}")  # noqa: S608 - of this list

    assert ids(transport) == ["id-1"]


def test_those_behind_one_of_their_key_that_something_else_deleted_have_their_turn(
    transport: SqlTransport, postgresql_database: str, an_envelope: Maker
) -> None:
    transport.send([an_envelope(number, ordering_key="42") for number in (1, 2)])
    assert ids(transport) == ["id-1"]
    execute(postgresql_database, "DELETE FROM relevo_event WHERE event_id = 'id-1'")

    assert ids(transport) == ["id-2"]


# --- tables -----------------------------------------------------------------------------------------------


def test_an_index_that_was_dropped_is_made_again(
    transport: SqlTransport, postgresql_database: str, an_envelope: Maker
) -> None:
    indexes = "SELECT string_agg(indexname, ' ') FROM pg_indexes WHERE indexname LIKE 'relevo_event_%%'"
    there = scalar(postgresql_database, indexes).split()
    names = [name for name in there if name != "relevo_event_pkey"]
    execute(postgresql_database, *(f"DROP INDEX {name}" for name in names))

    with pytest.raises(ConfigurationError, match="run: relevo setup"):  # without it an event could be there twice
        transport.send([an_envelope(1)])
    received = ids(transport)
    made = transport.setup([])

    assert received == []
    assert made == sorted(f"index {name}" for name in names)
    transport.send([an_envelope(1)])
    assert ids(transport) == ["id-1"]


def test_an_index_whose_creation_failed_is_named(
    transport: SqlTransport, postgresql_database: str, an_envelope: Maker
) -> None:
    execute(
        postgresql_database,
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'relevo_event_identity'::regclass",
    )

    with pytest.raises(ConfigurationError, match="run: relevo setup"):
        transport.send([an_envelope(1)])
    with pytest.raises(
        ConfigurationError, match=r'the index "relevo_event_identity" is not unique.*; drop it, and run'
    ):
        transport.setup([])
    execute(postgresql_database, "DROP INDEX relevo_event_identity")

    assert transport.setup([]) == ["index relevo_event_identity"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["ALTER TABLE relevo_event DROP CONSTRAINT relevo_event_attempt_is_count"],
         'the table "relevo_event" lacks the constraints relevo_event_attempt_is_count'),
        (["ALTER TABLE relevo_event ALTER queue DROP NOT NULL"], "lacks NOT NULL for the columns queue"),
        (["ALTER TABLE relevo_event DROP COLUMN begun"], 'the table "relevo_event" lacks the columns begun'),
        (["ALTER TABLE relevo_event RENAME TO kept", "CREATE VIEW relevo_event AS SELECT * FROM kept"],
         '"relevo_event" is a view; expected a table; drop or rename it'),
        (["DROP TABLE relevo_lock", "CREATE SEQUENCE relevo_lock"], '"relevo_lock" is a sequence; expected a table'),
        (["DROP TABLE relevo_lock", "CREATE TYPE relevo_lock AS (a int)"], '"relevo_lock" is a composite type; exp'),
    ],
)  # fmt: skip
def test_tables_that_something_else_changed_are_refused_with_the_remedy(
    opener: Opener, postgresql_database: str, an_envelope: Maker, changes: list[str], said: str
) -> None:
    opener(url=postgresql_database).send([an_envelope(1)])
    execute(postgresql_database, *changes)

    with pytest.raises(ConfigurationError, match=said):
        opener(url=postgresql_database)


@pytest.mark.parametrize(
    "changes",
    [
        ["ALTER TABLE relevo_event DROP COLUMN body"],
        ["ALTER TABLE relevo_event RENAME TO kept", "CREATE VIEW relevo_event AS SELECT DISTINCT * FROM kept"],
        ["ALTER TABLE relevo_event RENAME TO kept"],
    ],
)
def test_a_transport_at_work_says_what_the_remedy_is(
    transport: SqlTransport, postgresql_database: str, an_envelope: Maker, changes: list[str]
) -> None:
    transport.send([an_envelope(1)])
    execute(postgresql_database, *changes)

    for call in (
        lambda: transport.send([an_envelope(2)]),
        lambda: transport.receive(["default"], limit=1, lease=60, wait=0),
    ):
        with pytest.raises(ConfigurationError, match="lacks tables that relevo needs; run: relevo setup"):
            call()
