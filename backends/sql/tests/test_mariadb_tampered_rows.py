"""Rows of MariaDB that something else has written."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from relevo import Ack, DeadLetter, Envelope, Unreadable
from relevo.errors import ConfigurationError
from relevo_sql import SqlTransport

from .on_mariadb import execute
from .on_server import ids_of, received

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]


@pytest.mark.parametrize(
    ("values", "flaw"),
    [
        ("state = 9", "the column state holds a number, 9"),
        ("state = -1", "the column state holds a number, -1"),
        ("state = 1", "the column lease_until is NULL and the row is leased"),
        ("state = 3", "the column ordering_key is NULL and the row waits for others of its ordering key"),
        ("state = 3, ordering_key = 'k', target = NULL", "the column target is NULL"),
    ],
)
def test_a_row_that_no_claim_would_find_is_handed_out_as_unreadable(
    opener: Opener, mariadb_database: str, an_envelope: Maker, values: str, flaw: str
) -> None:
    transport = opener(url=mariadb_database)
    transport.send([an_envelope(1), an_envelope(2)])
    execute(
        mariadb_database,
        "SET check_constraint_checks = 0",
        f"UPDATE relevo_event SET {values} WHERE event_id = 'id-1'",  # noqa: S608 - of this test
    )

    counted, problems = transport.stats("default"), transport.problems(["default"])
    stray, sound = received(transport)
    transport.settle([(stray, DeadLetter(reason="r", error="e")), (sound, Ack())])

    assert counted.ready == 2
    assert flaw in problems[0]
    assert isinstance(stray.envelope, Unreadable)
    assert flaw in stray.envelope.why
    assert ids_of([sound]) == ["id-2"]
    assert (transport.stats("default").ready, transport.stats("default").dead) == (0, 1)


def test_a_row_with_only_a_queue_is_handed_out(opener: Opener, mariadb_database: str) -> None:
    transport = opener(url=mariadb_database)

    execute(mariadb_database, "INSERT INTO relevo_event (queue) VALUES ('default')")

    (delivery,) = received(transport)
    assert isinstance(delivery.envelope, Unreadable)
    assert transport.settle([(delivery, DeadLetter(reason="r", error="e"))]) == []
    assert transport.stats("default").dead == 1


def test_a_table_whose_columns_were_changed_is_refused(opener: Opener, mariadb_database: str) -> None:
    opener(url=mariadb_database)
    execute(
        mariadb_database,
        "DROP INDEX relevo_event_stray ON relevo_event",
        "ALTER TABLE relevo_event DROP COLUMN stray",
    )

    with pytest.raises(ConfigurationError, match="lacks the columns stray; something else created or changed it"):
        opener(url=mariadb_database)
