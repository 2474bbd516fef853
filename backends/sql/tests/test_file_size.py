"""A file becomes smaller, a little at a time, when most of it is free."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa

from relevo import Ack, Envelope
from relevo.testing import FakeClock
from relevo_sql import SqlTransport

from .on_server import received

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

KEEP = 3600.0
FULL, INCREMENTAL = 1, 2


def pragma(path: Path, name: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        found: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return found


def free_share(path: Path) -> float:
    return pragma(path, "freelist_count") / pragma(path, "page_count")


def handle(transport: SqlTransport, envelopes: list[Envelope]) -> None:
    transport.send(envelopes)
    transport.settle([(each, Ack()) for each in received(transport, limit=len(envelopes))])


@pytest.fixture(name="large")
def _large(an_envelope: Maker) -> list[Envelope]:
    """Return events that need 12 MB."""
    return [an_envelope(number, body=b"x" * 6000) for number in range(2000)]


def test_a_new_file_becomes_smaller(opener: Opener, clock: FakeClock, path: Path, large: list[Envelope]) -> None:
    transport = opener(clock, keep=KEEP)
    handle(transport, large)
    before = pragma(path, "page_count")
    clock.advance(KEEP + 61.0)

    received(transport)

    transport.close()
    assert before > 3000
    assert pragma(path, "page_count") <= 1000 + 2 * (pragma(path, "page_count") - pragma(path, "freelist_count"))
    assert path.stat().st_size < before * 4096 / 2


def test_a_busy_worker_gives_a_megabyte_back_at_a_time(
    opener: Opener, clock: FakeClock, path: Path, an_envelope: Maker, large: list[Envelope]
) -> None:
    transport = opener(clock, keep=KEEP)
    handle(transport, large)
    clock.advance(KEEP + 61.0)
    sizes = []

    for number in range(8):
        handle(transport, [an_envelope(10_000 + number)])
        sizes.append(pragma(path, "page_count"))

    steps = [before - after for before, after in pairwise(sizes)]
    assert 250 <= max(steps) <= 252  # with a page of pointers between them


def test_what_is_free_and_soon_used_again_stays(
    opener: Opener, clock: FakeClock, path: Path, an_envelope: Maker
) -> None:
    transport = opener(clock, keep=KEEP)
    handle(transport, [an_envelope(number, body=b"x" * 6000) for number in range(300)])
    before = pragma(path, "page_count")
    clock.advance(KEEP + 61.0)

    received(transport)

    assert free_share(path) > 0.9
    assert pragma(path, "page_count") == before


def test_a_file_that_an_administrator_prepared_becomes_smaller_without_the_option(
    opener: Opener, clock: FakeClock, path: Path, large: list[Envelope]
) -> None:
    opener(clock).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
        connection.execute("VACUUM")
    transport = opener(clock)
    handle(transport, large)
    before = pragma(path, "page_count")
    clock.advance(61.0)

    received(transport)

    assert pragma(path, "page_count") < before / 2


def test_only_a_new_file_of_a_transport_that_keeps_events_is_made_so(opener: Opener, path: Path) -> None:
    """It costs time for each event, and an existing file has to be written anew for it."""
    opener()
    plain = pragma(path, "auto_vacuum")

    opener(keep=KEEP)

    assert (plain, pragma(path, "auto_vacuum")) == (0, 0)


def test_a_file_of_the_application_is_not_altered(
    opener: Opener, clock: FakeClock, path: Path, large: list[Envelope]
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA auto_vacuum = {FULL}")
        connection.execute("CREATE TABLE image (id INTEGER)")

    opener(clock, keep=KEEP)

    assert pragma(path, "auto_vacuum") == FULL


def test_an_engine_of_the_application_vacuums_its_file_itself(
    clock: FakeClock, path: Path, engine: sa.Engine, large: list[Envelope]
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
        connection.execute("CREATE TABLE image (id INTEGER)")
    transport = SqlTransport(engine, clock=clock)
    transport.setup([])
    handle(transport, large)
    before = pragma(path, "page_count")
    clock.advance(61.0)

    received(transport)

    transport.close()
    assert pragma(path, "page_count") == before
