"""The archive: what is done is kept for a time, and exactly that."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, strategies as st

from relevo import Ack, DeadLetter, Delivery, Envelope, Nack, Outcome, Release
from relevo.errors import ConfigurationError
from relevo.testing import FakeClock
from relevo_sql import SqlTransport

from .on_server import an_engine, execute, query, received

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

KEEP = 3600.0


SERVERS = [
    pytest.param("postgresql+psycopg", marks=pytest.mark.postgresql),
    pytest.param("mariadb+pymysql", marks=pytest.mark.mariadb),
]


@pytest.fixture(name="driver", params=["sqlite", *SERVERS])
def _driver(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(name="url")
def _url(request: pytest.FixtureRequest, driver: str) -> str:
    url: str = "" if driver == "sqlite" else request.getfixturevalue("server_database")
    return url


@pytest.fixture(name="transport")
def _transport(opener: Opener, clock: FakeClock, url: str, options: dict[str, Any]) -> SqlTransport:
    return opener(clock, url=url, keep=KEEP, **options)


def archived(transport: SqlTransport) -> list[str]:
    """Return the ids in the archive, in order."""
    return [event_id for (event_id,) in query(transport.url, "SELECT event_id FROM relevo_done ORDER BY event_id")]


def stored(transport: SqlTransport) -> list[str]:
    """Return the ids of the living events, in order."""
    return [event_id for (event_id,) in query(transport.url, "SELECT event_id FROM relevo_event ORDER BY event_id")]


def finish(transport: SqlTransport, envelopes: list[Envelope]) -> None:
    """Send *envelopes*, and ack them."""
    transport.send(envelopes)
    assert transport.settle([(each, Ack()) for each in received(transport, limit=len(envelopes))]) == []


# --- what is kept ---------------------------------------------------------------------------------


def test_a_done_event_is_kept_as_it_was_sent(transport: SqlTransport, clock: FakeClock, an_envelope: Maker) -> None:
    sent = an_envelope(1, headers={"k": "\u00fc"}, urgency="high", ordering_key="a", expires=2e9, body=b"\0\xff")
    transport.send([sent])
    clock.advance(5.0)
    transport.settle([(each, Nack()) for each in received(transport)])
    (delivery,) = received(transport)
    clock.advance(2.0)

    transport.ack(delivery)

    (entry,) = transport.find_done("id-1")
    assert (entry.envelope, entry.queue, entry.attempt, entry.lost_leases) == (sent, "default", 2, 0)
    assert entry.done_at - entry.enqueued_at == pytest.approx(7.0)
    assert entry.done_at == pytest.approx(clock.now(), rel=0.0, abs=0.001)
    assert (stored(transport), transport.find("id-1")) == ([], [])
    assert transport.stats("default").dead == 0


def test_only_what_is_done_is_kept(transport: SqlTransport, an_envelope: Maker) -> None:
    outcomes: dict[str, Outcome] = {
        "id-1": Ack(),
        "id-2": Nack(delay=60.0),
        "id-3": Release(),
        "id-4": DeadLetter(reason="broken"),
        "id-5": Ack(moved=True),
        "id-6": Ack(),
    }
    transport.send([an_envelope(number) for number in range(1, 7)])
    found = received(transport)

    lost = transport.settle([(each, outcomes[_id_of(each)]) for each in found])

    assert lost == []
    assert archived(transport) == ["id-1", "id-6"]
    assert stored(transport) == ["id-2", "id-3"]


def test_a_command_that_deletes_keeps_nothing(transport: SqlTransport, an_envelope: Maker) -> None:
    transport.send([an_envelope(number) for number in range(1, 4)])
    transport.settle([(received(transport, limit=1)[0], DeadLetter(reason="broken"))])

    transport.discard([entry.ref for entry in transport.dead_letters(["default"])])
    transport.cancel("id-2")
    transport.purge("default")

    assert (archived(transport), stored(transport)) == ([], [])


def test_of_two_acks_one_is_kept(transport: SqlTransport, an_envelope: Maker) -> None:
    transport.send([an_envelope()])
    (delivery,) = received(transport)

    first = transport.settle([(delivery, Ack()), (delivery, Ack())])
    second = transport.settle([(delivery, Ack())])

    assert (first, second) == ([delivery], [delivery])
    assert archived(transport) == ["id-1"]


def test_a_lost_lease_keeps_nothing(transport: SqlTransport, clock: FakeClock, an_envelope: Maker) -> None:
    transport.send([an_envelope(1), an_envelope(2)])
    early = received(transport, lease=10.0)
    clock.advance(11.0)
    late = received(transport)

    lost = transport.settle([(each, Ack()) for each in early])
    before = archived(transport)
    transport.settle([(each, Ack()) for each in late])

    assert (lost, before) == (early, [])
    assert archived(transport) == ["id-1", "id-2"]
    assert [entry.lost_leases for entry in transport.find_done("id-1")] == [1]


def test_an_event_that_is_sent_again_is_kept_again(
    transport: SqlTransport, clock: FakeClock, an_envelope: Maker
) -> None:
    for _ in range(2):
        finish(transport, [an_envelope()])
        clock.advance(1.0)

    first, second = transport.find_done("id-1")

    assert second.done_at - first.done_at == pytest.approx(1.0)


def test_the_next_of_an_ordering_key_has_its_turn(transport: SqlTransport, an_envelope: Maker) -> None:
    transport.send([an_envelope(number, ordering_key="a") for number in (1, 2)])

    for _ in range(2):
        (delivery,) = received(transport)
        transport.ack(delivery)

    assert archived(transport) == ["id-1", "id-2"]


def test_an_event_whose_listener_committed_by_itself_is_kept(transport: SqlTransport, an_envelope: Maker) -> None:
    transport.send([an_envelope()])
    (delivery,) = received(transport)
    transaction = transport.handling(delivery)
    transaction.commit(b"{}")
    transaction.close()

    transport.ack(delivery)

    assert archived(transport) == ["id-1"]


def test_more_than_a_statement_can_list_are_kept(transport: SqlTransport, an_envelope: Maker) -> None:
    envelopes = [an_envelope(number) for number in range(1200)]

    finish(transport, envelopes)

    assert archived(transport) == sorted(each.id for each in envelopes)


@pytest.mark.parametrize("before", ["INSERT .*relevo_done", "DELETE .*relevo_event"])
def test_a_process_that_dies_in_between_has_kept_nothing(
    transport: SqlTransport, an_envelope: Maker, before: str
) -> None:
    """It dies before one of the two statements; what it has done in the transaction is undone."""
    transport.send([an_envelope()])
    child = os.fork()
    if not child:
        try:
            (delivery,) = received(transport)

            @sa.event.listens_for(sa.Engine, "before_cursor_execute")
            def end(_: object, __: object, text: str, *___: object) -> None:
                if re.match(before, text):
                    os._exit(0)

            transport.ack(delivery)
        finally:
            os._exit(1)

    _, status = os.waitpid(child, 0)

    assert status == 0
    assert (archived(transport), stored(transport)) == ([], ["id-1"])


_STEPS = st.lists(
    st.sampled_from([Ack(), Ack(), Ack(moved=True), Nack(), Release(), DeadLetter(reason="x"), None]), max_size=4
)


@pytest.mark.slow("tries many histories")
def test_the_archive_is_what_was_acked(transport: SqlTransport, clock: FakeClock) -> None:
    """Each event has its outcomes in turn; ``None`` is a lease that ends, after which the delivery is acked in vain."""

    @given(histories=st.lists(_STEPS, min_size=1, max_size=6))
    def check(histories: list[list[Outcome | None]]) -> None:
        _clear(transport)
        left = {f"id-{number}": iter([*steps, Ack()]) for number, steps in enumerate(histories)}
        transport.send([Envelope(id=each, source="shop", name="image.created", body=b"{}") for each in left])
        acked: list[str] = []
        while found := received(transport, lease=10.0):
            late: list[Delivery] = []
            settlements: list[tuple[Delivery, Outcome]] = []
            for delivery in found:
                outcome = next(left[_id_of(delivery)])
                if outcome is None:
                    late.append(delivery)
                else:
                    settlements.append((delivery, outcome))
                    if isinstance(outcome, Ack) and not outcome.moved:
                        acked.append(_id_of(delivery))

            assert transport.settle([*settlements, *settlements]) == [delivery for delivery, _ in settlements]
            clock.advance(11.0)
            assert transport.settle([(each, Ack()) for each in late]) == late

        assert archived(transport) == sorted(acked)

    check()


def _clear(transport: SqlTransport) -> None:
    execute(transport.url, *(f"DELETE FROM {table}" for table in ("relevo_event", "relevo_dead", "relevo_done")))  # noqa: S608 - our own


def _id_of(delivery: Delivery) -> str:
    assert isinstance(delivery.envelope, Envelope)
    return delivery.envelope.id


# --- for how long ---------------------------------------------------------------------------------


def test_events_are_deleted_in_time(transport: SqlTransport, clock: FakeClock, an_envelope: Maker) -> None:
    finish(transport, [an_envelope(1)])
    clock.advance(KEEP / 2)
    finish(transport, [an_envelope(2)])
    clock.advance(KEEP / 2)
    received(transport)
    exactly = archived(transport)
    clock.advance(61.0)

    received(transport)

    assert exactly == ["id-1", "id-2"]
    assert archived(transport) == ["id-2"]


def test_what_is_due_goes_faster_than_more_is_stored(
    transport: SqlTransport, clock: FakeClock, an_envelope: Maker
) -> None:
    finish(transport, [an_envelope(number) for number in range(3500)])
    clock.advance(KEEP + 1.0)
    left = []

    for number in range(4):  # a busy worker: no receive finds nothing
        transport.send([an_envelope(10_000 + each) for each in range(number * 250, number * 250 + 250)])
        transport.settle([(each, Ack()) for each in received(transport, limit=250)])
        left.append(len(archived(transport)))

    assert left == [2750, 2000, 1250, 1000]


@pytest.mark.parametrize("driver", SERVERS, indirect=True)
@pytest.mark.parametrize("options", [{}], indirect=True)
def test_what_another_transaction_has_locked_is_left_for_later(
    transport: SqlTransport, clock: FakeClock, an_envelope: Maker
) -> None:
    """The clock does not move: an upkeep that went on while something is due would not end."""
    finish(transport, [an_envelope(number) for number in range(1, 4)])
    clock.advance(KEEP + 61.0)
    with an_engine(transport.url) as engine, engine.connect() as other:
        other.exec_driver_sql("SELECT ref FROM relevo_done WHERE event_id = 'id-1' FOR UPDATE").all()

        received(transport)
        locked = archived(transport)

    clock.advance(61.0)
    received(transport)
    assert (locked, archived(transport)) == (["id-1"], [])


def test_what_is_committed_late_is_deleted_too(transport: SqlTransport, clock: FakeClock, an_envelope: Maker) -> None:
    finish(transport, [an_envelope(1)])
    earlier = round((clock.now() - 10.0) * 1_000_000)
    clock.advance(KEEP + 61.0)
    received(transport)
    late = f"INSERT INTO relevo_done (queue, event_id, done_at) VALUES ('default', 'late', {earlier})"  # noqa: S608 - a number
    execute(transport.url, late)
    before = archived(transport)
    clock.advance(61.0)

    received(transport)

    assert (before, archived(transport)) == (["late"], [])


def test_it_is_looked_at_once_a_minute(transport: SqlTransport, clock: FakeClock, an_envelope: Maker) -> None:
    finish(transport, [an_envelope(1)])
    clock.advance(KEEP - 30.0)
    received(transport)  # finds that nothing is due
    clock.advance(40.0)
    received(transport)
    early = archived(transport)
    clock.advance(30.0)

    received(transport)

    assert (early, archived(transport)) == (["id-1"], [])


def test_a_short_time_is_kept_to(opener: Opener, clock: FakeClock, url: str, an_envelope: Maker) -> None:
    transport = opener(clock, url=url, keep=10.0)
    finish(transport, [an_envelope(1)])
    received(transport)
    clock.advance(11.0)

    received(transport)

    assert archived(transport) == []


def test_what_cannot_be_deleted_stops_no_work(
    opener: Opener, clock: FakeClock, an_envelope: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    transport = opener(clock, keep=KEEP)
    finish(transport, [an_envelope(1)])
    clock.advance(KEEP + 61.0)
    with an_engine(transport.url) as engine, engine.connect() as writer:
        writer.exec_driver_sql("BEGIN IMMEDIATE")

        with caplog.at_level(logging.INFO, "relevo.sql"):
            found = received(transport)

        writer.rollback()
    assert found == []
    assert "tried again later" in caplog.text
    clock.advance(61.0)
    received(transport)
    assert archived(transport) == []


# --- the table ------------------------------------------------------------------------------------


def test_without_the_option_nothing_is_kept(
    opener: Opener, clock: FakeClock, url: str, options: dict[str, Any], an_envelope: Maker
) -> None:
    transport = opener(clock, url=url, **options)
    execute(transport.url, "DROP TABLE relevo_done")

    finish(transport, [an_envelope(1)])

    assert (transport.keep, transport.find_done("id-1")) == (None, ())
    assert transport.lacking([]) == []


def test_a_database_of_an_earlier_release_gets_the_table(
    opener: Opener, clock: FakeClock, url: str, options: dict[str, Any], an_envelope: Maker
) -> None:
    earlier = opener(clock, url=url, **options)
    execute(earlier.url, "DROP TABLE relevo_done")
    transport = opener(clock, url=url, setup=False, keep=KEEP, **options)
    lacking = transport.lacking([])

    created = transport.setup([])
    finish(transport, [an_envelope(1)])

    assert lacking == created == ["table relevo_done", "index relevo_done_id", "index relevo_done_time"]
    assert archived(transport) == ["id-1"]


def test_without_the_table_nothing_is_handed_out(
    opener: Opener, clock: FakeClock, url: str, options: dict[str, Any], an_envelope: Maker
) -> None:
    """It would be handled again and again: its ack could not be stored."""
    earlier = opener(clock, url=url, **options)
    earlier.send([an_envelope()])
    execute(earlier.url, "DROP TABLE relevo_done")
    transport = opener(clock, url=url, setup=False, keep=KEEP, **options)

    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"relevo_done.*relevo setup"):
            received(transport)

    with pytest.raises(ConfigurationError, match=r"relevo_done.*relevo setup"):
        transport.take("default", "id-1", lease=60.0)
    assert [each.attempt for each in received(earlier)] == [1]


@pytest.mark.parametrize("keep", [0, -1, True, float("inf"), float("nan"), "7d"])
def test_a_time_that_is_no_number_is_refused(opener: Opener, keep: object) -> None:
    with pytest.raises(ConfigurationError, match=r"keep: expected a number of seconds above 0; got .*; omit it"):
        opener(keep=keep)
