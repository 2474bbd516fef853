"""What tells events of MariaDB apart: texts that a collation might equate."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from relevo import Envelope, Unreadable
from relevo_sql import SqlTransport

from .on_mariadb import execute
from .on_server import received

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]


ALIKE = ["a", "A", "a ", " a", "\u00e1", "a\u0301", "\uff41", "a\0", "aa"]
"""With an accent, a combined one and a letter of full width; one ends with NUL."""


@pytest.mark.parametrize("field", ["id", "source", "ordering_key"])
def test_texts_that_a_collation_may_equate_are_different_keys(
    opener: Opener, mariadb_database: str, an_envelope: Maker, field: str
) -> None:
    transport = opener(url=mariadb_database)
    sent = [an_envelope(0 if field == "source" else number, **{field: text}) for number, text in enumerate(ALIKE)]

    transport.send(sent)
    transport.send(sent)

    got = [each.envelope for each in received(transport)]
    assert sorted(getattr(each, field) for each in got) == sorted(ALIKE)


def test_queues_that_a_collation_may_equate_are_different_queues(
    opener: Opener, mariadb_database: str, an_envelope: Maker
) -> None:
    transport = opener(url=mariadb_database)
    transport.send([an_envelope(1, queue=queue) for queue in ALIKE])

    got = {queue: [each.queue for each in received(transport, queue)] for queue in ALIKE}

    assert got == {queue: [queue] for queue in ALIKE}


def test_the_longest_texts_are_kept_apart(opener: Opener, mariadb_database: str, an_envelope: Maker) -> None:
    transport = opener(url=mariadb_database)
    long = "😀" * 254
    sent = [
        an_envelope(id=long + a, source=long + b, queue=long + c, ordering_key=long)
        for a in "xy"
        for b in "xy"
        for c in "xy"
    ]

    transport.send(sent)
    transport.send(sent)

    assert transport.stats(long + "x").ready == 4
    assert len(transport.find(long + "y")) == 4
    assert transport.cancel(long + "y") == 4
    assert transport.stats(long + "y").ready == 2


def test_rows_without_an_identity_may_be_alike(opener: Opener, mariadb_database: str) -> None:
    transport = opener(url=mariadb_database)

    execute(mariadb_database, *["INSERT INTO relevo_event (queue, event_id, body) VALUES ('default', 'x', '{}')"] * 2)

    assert [type(each.envelope) for each in received(transport)] == [Unreadable, Unreadable]
