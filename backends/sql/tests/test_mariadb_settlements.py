"""Settlements on MariaDB, which cannot report the rows that it deletes: the number of rows has to say enough."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from relevo import Ack, Envelope
from relevo_sql import SqlTransport

from .on_server import ids, received, wait_until

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]


@pytest.fixture(name="transport")
def _transport(opener: Opener, mariadb_database: str) -> SqlTransport:
    return opener(url=mariadb_database)


def statements(transport: SqlTransport) -> list[str]:
    """Return a list to which the first word of each statement is added, unless it asks for the server's time."""
    words: list[str] = []

    @sa.event.listens_for(transport._database.engine, "before_cursor_execute")
    def _(*arguments: object) -> None:
        text = str(arguments[2])
        if "UNIX_TIMESTAMP" not in text:
            words.append(text.partition(" ")[0])

    return words


@pytest.mark.parametrize(("number", "steps"), [(1, ["DELETE"]), (3, ["BEGIN", "DELETE", "COMMIT"])])
def test_events_of_one_claim_that_are_all_held_are_deleted_in_one_step(
    transport: SqlTransport, an_envelope: Maker, number: int, steps: list[str]
) -> None:
    transport.settle([])  # the upkeep, which is due at first
    transport.send([an_envelope(each) for each in range(number)])
    held = received(transport)
    taken = statements(transport)

    lost = transport.settle([(each, Ack()) for each in held])

    assert (lost, taken) == ([], steps)


def test_if_one_is_no_longer_held_the_others_are_deleted_all_the_same(
    transport: SqlTransport, an_envelope: Maker
) -> None:
    transport.send([an_envelope(each) for each in range(3)])
    held = received(transport)
    transport.settle([(held[1], Ack())])

    lost = transport.settle([(each, Ack()) for each in held])

    assert lost == [held[1]]
    assert ids(transport) == []
    assert transport.stats("default").leased == 0


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("is_claimed_again", [False, True])
def test_events_are_no_longer_held_after_the_end_of_their_lease(
    transport: SqlTransport, an_envelope: Maker, number: int, *, is_claimed_again: bool
) -> None:
    transport.send([an_envelope(each) for each in range(number)])
    held = received(transport, lease=0.001)
    wait_until(lambda: transport.stats("default").ready == number)
    again = received(transport) if is_claimed_again else []

    assert transport.settle([(each, Ack()) for each in held]) == held
    assert transport.stats("default").leased == len(again)
