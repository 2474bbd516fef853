"""Up to when schedules have fired, on real databases: one of many workers fires, and nothing is half written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from relevo import Envelope
from relevo.backend import Firing
from relevo.errors import SendError, TransportClosedError
from relevo_sql import SqlTransport
from relevo_sql._row import Sent
from relevo_sql._statement import Statements

Opener = Callable[..., SqlTransport]

NOON = 1_777_636_800
WORKERS = 4


@pytest.fixture(name="transport")
def _transport(opener: Opener, url: str, options: dict[str, Any]) -> SqlTransport:
    return opener(url=url, **options)


def firing(name: str, fired: int | None, until: int, *ids: str, body: bytes = b"{}") -> Firing:
    events = [Envelope(id=each, source="shop", name="feed.aged", body=body) for each in ids]
    return Firing(name=name, fired=fired, until=until, envelopes=tuple(events))


def waiting(transport: SqlTransport, queue: str = "default") -> list[str]:
    found = transport.waiting([queue], limit=10_000)
    return sorted(each.envelope.id for each in found)


def test_the_time_of_a_schedule_is_stored_with_its_events(transport: SqlTransport) -> None:
    assert transport.fired(["a", "b"]) == {}
    assert transport.fired([]) == {}

    assert set(transport.fire([firing("a", None, NOON), firing("b", None, NOON)])) == {"a", "b"}
    assert set(transport.fire([firing("b", NOON, NOON + 60, "1", "2")])) == {"b"}

    assert transport.fired(["b", "a", "c"]) == {"a": NOON, "b": NOON + 60}
    assert waiting(transport) == ["1", "2"]


def test_a_schedule_that_another_worker_has_fired_stores_nothing_and_the_others_do(transport: SqlTransport) -> None:
    transport.fire([firing("a", None, NOON), firing("b", None, NOON)])
    transport.fire([firing("a", NOON, NOON + 60, "1")])

    late = [firing("a", NOON, NOON + 60, "2"), firing("b", NOON, NOON + 60, "3"), firing("b2", 7, NOON, "4")]
    again = [firing("a", None, NOON, "5")]

    assert set(transport.fire(late)) == {"b"}
    assert set(transport.fire(again)) == set()
    assert transport.fired(["a", "b", "b2"]) == {"a": NOON + 60, "b": NOON + 60}
    assert waiting(transport) == ["1", "3"]


def test_a_time_with_a_part_of_a_second_is_that_second(transport: SqlTransport, url: str) -> None:
    transport.fire([firing("a", None, NOON)])
    with transport._database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE relevo_lock SET until = until + 250000 WHERE name = 'a'"))

    assert transport.fired(["a"]) == {"a": NOON}
    assert set(transport.fire([firing("a", NOON, NOON + 60, "1")])) == {"a"}


def test_names_are_different_if_any_character_is(transport: SqlTransport) -> None:
    names = ["feed", "Feed", "feed ", "féed", "feed\u0301", "f" * 255]

    for number, name in enumerate(names):
        assert set(transport.fire([firing(name, None, NOON + number)])) == {name}

    assert transport.fired(names) == {name: NOON + number for number, name in enumerate(names)}


def test_the_events_of_an_outbox_wait_for_its_relay(transport: SqlTransport) -> None:
    transport.fire([firing("a", None, NOON)])

    transport.fire([firing("a", NOON, NOON + 60, "1")], relay_to="rabbit")

    assert (waiting(transport), waiting(transport, "outbox/rabbit")) == ([], ["1"])


def test_of_many_workers_one_fires_each_tick(opener: Opener, url: str, options: dict[str, Any]) -> None:
    transports = [opener(url=url, **options)]
    address = transports[0].url.render_as_string(hide_password=False)
    transports += [opener(url=address, **options) for _ in range(WORKERS - 1)]
    names = [f"schedule {number}" for number in range(10)]
    for number in range(5):
        before, after = (None, NOON) if number == 0 else (NOON + number - 1, NOON + number)
        start = threading.Barrier(WORKERS)

        def fire(
            index: int,
            number: int = number,
            before: int | None = before,
            after: int = after,
            start: threading.Barrier = start,
        ) -> Collection[str]:
            order = names if index % 2 else names[::-1]
            firings = [firing(name, before, after, f"{name}, tick {number}") for name in order]
            start.wait(60)
            return transports[index].fire(firings)

        with ThreadPoolExecutor(WORKERS) as pool:
            won = [name for each in pool.map(fire, range(WORKERS)) for name in each]

        assert sorted(won) == names

    assert waiting(transports[0]) == sorted(f"{name}, tick {number}" for name in names for number in range(5))


def test_a_tick_whose_events_cannot_be_written_has_not_fired(
    transport: SqlTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport.fire([firing("a", None, NOON)])

    def fail(self: Statements, connection: Any, rows: list[Sent]) -> None:
        raise UnicodeError("no text")

    with monkeypatch.context() as patch:
        patch.setattr(Statements, "write", fail)
        with pytest.raises(SendError, match="no text"):
            transport.fire([firing("a", NOON, NOON + 60, "1")])

    assert transport.fired(["a"]) == {"a": NOON}
    assert set(transport.fire([firing("a", NOON, NOON + 60, "1")])) == {"a"}


def test_a_closed_transport_fires_nothing(transport: SqlTransport) -> None:
    transport.close()

    with pytest.raises(TransportClosedError):
        transport.fire([firing("a", None, NOON)])
    with pytest.raises(TransportClosedError):
        transport.fired(["a"])
