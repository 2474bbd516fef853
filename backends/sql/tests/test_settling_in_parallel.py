"""On a server, settlements have a connection of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest
import sqlalchemy as sa

from relevo import Ack, DeadLetter, Delivery, Envelope, Nack, Settlement
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


def test_one_statement_settles_what_is_done_unless_others_may_wait_for_it(
    opener: Opener, postgresql_database: str, an_envelope: Maker
) -> None:
    server = opener(url=postgresql_database)
    server.settle([(_a_delivery(server, an_envelope(0)), Ack())])  # connects
    alone, in_line = _a_delivery(server, an_envelope(1)), _a_delivery(server, an_envelope(2, ordering_key="a"))
    several = [_a_delivery(server, an_envelope(number)) for number in (3, 4)]

    assert _statements(server, [(alone, Ack())]) == ["DELETE"]
    for settlements in (
        [(in_line, Ack())],
        [(each, Ack()) for each in several],  # of two claims
        [(_a_delivery(server, an_envelope(5)), Nack())],
        [(_a_delivery(server, an_envelope(6)), DeadLetter(reason="broken"))],
    ):
        begin, *_, commit = _statements(server, settlements)
        assert (begin, commit) == ("BEGIN", "COMMIT")


def _statements(server: SqlTransport, settlements: Sequence[Settlement]) -> list[str]:
    """Settle, and return the first word of each statement that does it."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement.split(maxsplit=1)[0])

    engine = server._settling.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        assert not server.settle(settlements)
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
    return seen


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
