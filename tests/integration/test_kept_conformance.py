"""The suite of every transport, on RabbitMQ with a database that keeps its dead letters."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from relevo import Transport
from relevo._transport.keeper import keep_elsewhere
from relevo_amqp.conformance import AmqpHarness
from relevo_conformance import suite
from relevo_conformance._contract_close import NameContract
from relevo_conformance._contract_fault import FaultContract
from relevo_conformance._contract_foreign import ForeignContract
from relevo_conformance._contract_quantity import QuantityContract
from relevo_conformance._contract_receive import UnreadableContract
from relevo_conformance._contract_send import SendErrorContract
from relevo_conformance._contract_settle import SettleContract, StateContract
from relevo_conformance._contract_store import DeadLetterContract, FindContract, StatsContract, TakeOutContract
from relevo_conformance.fault import Fault, engine
from relevo_conformance.profile import PROFILES
from relevo_conformance.suite import RandomContract
from relevo_memory._store import Posting
from relevo_memory.conformance import BreakableStore, MemoryHarness
from relevo_sql import SqlTransport

from .lending import LendingTransport


@pytest.fixture(autouse=True, scope="module")
def _server(rabbitmq_url: str) -> str:
    """Name the server in RELEVO_TEST_AMQP, where the harness looks."""
    return rabbitmq_url


class KeptHarness(AmqpHarness):
    """Drives the RabbitMQ transport, and opens a connection to the same database for each."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._keepers: list[SqlTransport] = []

    def open(self) -> Transport:
        transport = super().open()
        keeper = SqlTransport(f"sqlite:///{Path(self._folder.name, 'kept.db')}", name="db", clock=self.clock)
        self._keepers.append(keeper)
        keeper.setup([])
        keep_elsewhere(transport, keeper)
        return transport

    def close(self) -> None:
        super().close()
        for keeper in self._keepers:
            keeper.close()
        self._folder.cleanup()


QUICK = attrs.evolve(
    PROFILES["quick"], histories=32, schedules=6, rows=96, slow_rows=20, slow_lives=4, slow_histories=4
)
"""With fewer pairs of features, schedules and histories: each of the two transports is proven alone."""


@pytest.mark.slow("about a server, not Python")
@pytest.mark.amqp
class TestKept(
    QuantityContract,
    FaultContract,
    NameContract,
    FindContract,
    TakeOutContract,
    StatsContract,
    DeadLetterContract,
    StateContract,
    SettleContract,
    ForeignContract,
    UnreadableContract,
    SendErrorContract,
):
    """The scenarios in which events become dead letters; the others would be those of RabbitMQ alone again."""

    harness_type = KeptHarness
    profile = QUICK


TestKeptWhole = pytest.mark.soak(pytest.mark.amqp(suite(KeptHarness, profile=QUICK)))


class MicrosecondStore(BreakableStore):
    """A store whose times of sending are as a database keeps them with dead letters."""

    def add(self, postings: Sequence[Posting], now: float) -> None:
        super().add(postings, in_micros(now))

    def _take_foreign(self, now: float) -> None:
        super()._take_foreign(in_micros(now))


def in_micros(now: float) -> float:
    """Return *now* as a time that is the same in whole microseconds and back, also where a float has hardly any."""
    while (kept := round(now * 1_000_000) / 1_000_000) != now:
        now = kept
    return now


class LentHarness(MemoryHarness):
    """Drives a transport without dead letters of its own; in its races the database takes its turns, too."""

    transport: ClassVar[type[Any]] = LendingTransport
    slack = 2e-6  # as of the database
    store_type = MicrosecondStore

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._keepers: dict[Transport, SqlTransport] = {}

    def open(self) -> Transport:
        transport = LendingTransport(self.store, self.clock)
        keeper = SqlTransport(f"sqlite:///{Path(self._folder.name, 'kept.db')}", name="db", clock=self.clock)
        self._keepers[transport] = keeper
        keeper.setup([])
        keep_elsewhere(transport, keeper)
        return transport

    @contextmanager
    def turnstile(self, transport: Transport, stop: Callable[[], None]) -> Iterator[None]:
        with super().turnstile(transport, stop), engine.stopping(self._keepers[transport]._database.engine, stop):
            yield

    def close(self) -> None:
        super().close()
        for keeper in self._keepers.values():
            keeper.close()
        self._folder.cleanup()


TestLent = suite(LentHarness, profile=QUICK)


class BrokenKeeperHarness(LentHarness):
    """The same, with a database that fails at the same time."""

    @contextmanager
    def broken(self, transport: Transport, fault: Fault) -> Iterator[None]:
        with super().broken(transport, fault), engine.broken(self._keepers[transport]._database.engine, fault):
            yield


class TestBrokenKeeper(RandomContract, QuantityContract, FaultContract, NameContract, SendErrorContract):
    """The tests that let the store fail; the others would be those of TestLent again."""

    harness_type = BrokenKeeperHarness
    profile = QUICK


class LongHarness(BrokenKeeperHarness):
    """The same, as thoroughly as each transport alone."""


TestLong = pytest.mark.soak(suite(LongHarness))
