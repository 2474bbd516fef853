from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from relevo import Clock, Envelope, SystemClock
from relevo.testing import FakeClock
from relevo_sql import SqlOptions, SqlTransport

Opener = Callable[..., SqlTransport]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture
def opener(path: Path) -> Iterator[Opener]:
    """What opens transports on one file by its address, and closes them in the end."""
    opened: list[SqlTransport] = []

    def open_one(clock: Clock = SystemClock(), *, url: str = "", setup: bool = True, **options: Any) -> SqlTransport:
        said = SqlOptions(url=url or f"sqlite:///{path}", **options)
        transport = SqlTransport.open(said, name="main", clock=clock)
        opened.append(transport)
        if setup:
            transport.setup([])
        return transport

    yield open_one
    for transport in opened:
        transport.close()


@pytest.fixture
def transport(opener: Opener, clock: FakeClock) -> SqlTransport:
    return opener(clock)


@pytest.fixture
def engine(path: Path) -> Iterator[sa.Engine]:
    """The application's own engine."""
    engine = sa.create_engine(f"sqlite:///{path}")
    yield engine
    engine.dispose()


def an_envelope(number: int = 1, **fields: Any) -> Envelope:
    """Return an envelope that differs from others by its number."""
    values: dict[str, Any] = {
        "id": f"id-{number}",
        "source": "shop",
        "name": "image.created",
        "body": b'{"number":%d}' % number,
    }
    return Envelope(**(values | fields))
