"""On a server, settlements have a connection of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from relevo import Ack, Delivery, Envelope
from relevo_sql import SqlTransport

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]


@pytest.fixture(name="server", params=["postgresql_database", "mariadb_database"])
def _server(request: pytest.FixtureRequest, opener: Opener) -> SqlTransport:
    return opener(url=request.getfixturevalue(request.param))


def _a_delivery(transport: SqlTransport, envelope: Envelope) -> Delivery:
    transport.send([envelope])
    (delivery,) = transport.receive(["default"], limit=1, lease=60, wait=0)
    return delivery


def test_a_settlement_waits_for_no_claim(server: SqlTransport, an_envelope: Maker) -> None:
    delivery = _a_delivery(server, an_envelope())
    lost: list[object] = [None]

    def settle() -> None:
        lost[:] = server.settle([(delivery, Ack())])

    with server._database._lock:  # as during a claim
        thread = threading.Thread(target=settle)
        thread.start()
        thread.join()

    assert lost == []
    assert server.settles_in_parallel
    assert server.stats("default").leased == 0


def test_a_file_has_one_connection(transport: SqlTransport) -> None:
    assert not transport.settles_in_parallel
    assert transport._databases == {transport._database}


def test_both_connections_are_closed_and_have_the_name(server: SqlTransport, an_envelope: Maker) -> None:
    server.settle([(_a_delivery(server, an_envelope()), Ack())])
    server.name = "other"
    opened = [database._connection for database in server._databases]

    server.close()

    assert None not in opened
    assert [database._connection for database in server._databases] == [None, None]
    assert {database.name for database in server._databases} == {"other"}
