"""Locks of rows on MariaDB: what is left out, what is waited for, and deadlocks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from relevo import Ack, Envelope, Nack, Release
from relevo.errors import TransportUnavailableError
from relevo_sql import SqlTransport

from .on_mariadb import an_engine, execute, holding, is_one_waiting, seen
from .on_server import ids_of, in_a_thread, received, wait_until

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

DEADLOCK, LOCK_WAIT, PACKET = 1213, 1205, 1153


def test_a_claim_leaves_out_what_another_transaction_has_locked(
    opener: Opener, mariadb_database: str, an_envelope: Maker
) -> None:
    transport = opener(url=mariadb_database)
    transport.send([an_envelope(number) for number in range(3)])

    with holding(mariadb_database, "SELECT * FROM relevo_event WHERE event_id = 'id-1' FOR UPDATE"):
        got = received(transport)

    assert ids_of(got) == ["id-0", "id-2"]


def test_a_settlement_waits_for_another_transaction(opener: Opener, mariadb_database: str, an_envelope: Maker) -> None:
    transport = opener(url=mariadb_database)
    numbers = seen(transport)
    transport.send([an_envelope(1)])
    (delivery,) = received(transport)

    with (
        holding(mariadb_database, "SELECT * FROM relevo_event FOR UPDATE") as other,
        in_a_thread(lambda: transport.settle([(delivery, Ack())])) as lost,
    ):
        wait_until(lambda: LOCK_WAIT in numbers)  # the server waits for a second, and relevo asks again
        other.rollback()

    assert lost == [[]]
    assert transport.stats("default").leased == 0


def test_the_patience_with_another_transaction_ends(opener: Opener, mariadb_database: str, an_envelope: Maker) -> None:
    transport = opener(url=mariadb_database, busy_timeout=0.1)
    transport.send([an_envelope(1)])
    (delivery,) = received(transport)

    with (
        holding(mariadb_database, "SELECT * FROM relevo_event FOR UPDATE"),
        pytest.raises(
            TransportUnavailableError, match=r"a row or a table is locked by another transaction for longer than 0\.1 s"
        ),
    ):
        transport.settle([(delivery, Ack())])

    assert transport.settle([(delivery, Ack())]) == []


def test_a_deadlock_is_retried(opener: Opener, mariadb_database: str, an_envelope: Maker) -> None:
    transport = opener(url=mariadb_database)
    numbers = seen(transport)
    transport.send([an_envelope(number) for number in range(2)])
    first, second = received(transport)
    execute(mariadb_database, "CREATE TABLE heavy (id INT) ENGINE=InnoDB")
    weight = ", ".join(["(1)"] * 1000)  # of two transactions the one that has changed less is rolled back

    with holding(mariadb_database, f"INSERT INTO heavy VALUES {weight}") as other:  # noqa: S608 - of this test
        other.exec_driver_sql("SELECT * FROM relevo_event WHERE event_id = 'id-1' FOR UPDATE")
        with in_a_thread(lambda: transport.settle([(first, Ack()), (second, Release())])) as lost:
            wait_until(lambda: is_one_waiting(mariadb_database))
            other.exec_driver_sql("SELECT * FROM relevo_event WHERE event_id = 'id-0' FOR UPDATE")
            other.rollback()

    assert DEADLOCK in numbers
    assert lost == [[]]
    assert ids_of(received(transport)) == ["id-1"]


def test_the_next_event_of_a_key_is_chosen_without_waiting_for_the_ones_behind_it(
    opener: Opener, mariadb_database: str, an_envelope: Maker
) -> None:
    transport = opener(url=mariadb_database, busy_timeout=0.1)
    transport.send([an_envelope(number, ordering_key="k") for number in range(4)])
    (delivery,) = received(transport)

    with holding(mariadb_database, "SELECT * FROM relevo_event WHERE event_id IN ('id-2', 'id-3') FOR UPDATE"):
        transport.settle([(delivery, Ack())])

    assert ids_of(received(transport)) == ["id-1"]


def test_transactions_choose_the_next_event_of_a_key_one_after_another(
    opener: Opener, mariadb_database: str, an_envelope: Maker
) -> None:
    transport = opener(url=mariadb_database)
    transport.send([an_envelope(number, ordering_key="k") for number in range(2)])
    (delivery,) = received(transport)
    dialect, line = transport._database.dialect, ("default", "default", "k")

    with an_engine(mariadb_database) as engine, engine.connect() as other:
        dialect.lock_lines(other, [line])
        with in_a_thread(lambda: transport.settle([(delivery, Ack())])) as lost:
            wait_until(lambda: is_one_waiting(mariadb_database))
            assert lost == []
            other.rollback()

    assert lost == [[]]


def test_a_send_in_a_transaction_of_the_application_keeps_no_claim_waiting(
    opener: Opener, mariadb_database: str, an_envelope: Maker
) -> None:
    transport = opener(url=mariadb_database, busy_timeout=0.1)
    transport.send([an_envelope(number, urgency="high") for number in range(2)])

    with an_engine(mariadb_database) as engine, engine.connect() as connection:  # under REPEATABLE READ
        connection.exec_driver_sql("SELECT COUNT(*) FROM relevo_event")
        transport.bound_to(connection).send(lambda: [an_envelope(7, urgency="high"), an_envelope(8, ordering_key="k")])
        first = received(transport)
        transport.settle([(each, Nack()) for each in first])
        transport.send([an_envelope(9)])
        again = received(transport)
        connection.commit()

    assert ids_of(first) == ["id-0", "id-1"]
    assert ids_of(again) == ["id-0", "id-1", "id-9"]
    assert ids_of(received(transport)) == ["id-7", "id-8"]


def test_heartbeats_of_two_workers_do_not_wait_for_each_other(opener: Opener, mariadb_database: str) -> None:
    transport = opener(url=mariadb_database, busy_timeout=0.1)
    transport.appear("one")
    transport.appear("two")
    execute(mariadb_database, "UPDATE relevo_worker SET seen_at = 0 WHERE worker = 'two'")

    with holding(mariadb_database, "SELECT * FROM relevo_worker WHERE worker = 'two' FOR UPDATE"):
        transport.appear("one")
    transport.appear("one")

    assert {name: each.beats for name, each in transport.presence(["one", "two"]).items()} == {"one": 3}
