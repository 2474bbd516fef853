"""A coordinator keeps one holder for a lock at a time: memory and SQL alike."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

from relevo import Coordinator, Transport
from relevo.backend import ControlStore, LimitStore
from relevo.errors import TransportClosedError
from relevo.testing import FakeClock
from relevo_memory import MemoryStore, MemoryTransport
from relevo_sql import SqlTransport

NAME = "drain/shop/main"
Open = Callable[[], Coordinator]


@pytest.fixture(name="clock")
def _clock() -> FakeClock:
    return FakeClock()


ON_A_SERVER = pytest.mark.slow("about a server, not Python")
KINDS = [
    "memory",
    "sqlite",
    "portable",
    pytest.param("portable on mariadb", marks=[ON_A_SERVER, pytest.mark.mariadb]),
    pytest.param("postgresql", marks=[ON_A_SERVER, pytest.mark.postgresql]),
    pytest.param("mariadb", marks=[ON_A_SERVER, pytest.mark.mariadb]),
]
DRIVERS = {"postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql"}
PORTABLE = "portable"


@pytest.fixture(name="another", params=KINDS)
def _another(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[Open]:
    """Open a transport beside the others, as another process does."""
    store, url = MemoryStore(), sa.make_url(f"sqlite:///{tmp_path / 'shop.db'}")
    dialect = PORTABLE if request.param.startswith(PORTABLE) else None
    kind = request.param.rpartition(" ")[2]
    if driver := DRIVERS.get(kind):
        url = sa.make_url(request.getfixturevalue(f"{kind}_database")).set(drivername=driver)

    def in_memory() -> Coordinator:
        return stack.enter_context(MemoryTransport(store, clock=clock))

    def in_sql() -> Coordinator:
        engine = sa.create_engine(url)
        stack.callback(engine.dispose)
        transport = stack.enter_context(SqlTransport(engine, clock=clock, dialect=dialect))
        transport.setup(["default"])
        return transport

    with ExitStack() as stack:
        yield in_memory if request.param == "memory" else in_sql


def test_a_lock_has_one_holder_until_it_is_given_up(another: Open) -> None:
    one, other = another(), another()

    receipt = one.lock(NAME, holder="one", ttl=30)

    assert receipt is not None
    assert other.lock(NAME, holder="other", ttl=30) is None
    assert other.lock("something else", holder="other", ttl=30) is not None
    one.unlock(NAME, receipt)
    assert other.lock(NAME, holder="other", ttl=30) is not None


def test_a_lock_is_free_when_its_time_is_over(another: Open, clock: FakeClock) -> None:
    one, other = another(), another()
    one.lock(NAME, holder="one", ttl=30)

    clock.advance(29.9)
    assert other.lock(NAME, holder="other", ttl=30) is None
    clock.advance(0.1)
    assert other.lock(NAME, holder="other", ttl=30) is not None


def test_a_lock_that_is_renewed_is_kept(another: Open, clock: FakeClock) -> None:
    one, other = another(), another()
    receipt = one.lock(NAME, holder="one", ttl=30)
    assert receipt is not None

    clock.advance(20)
    assert one.renew_lock(NAME, receipt, ttl=30)
    clock.advance(20)

    assert other.lock(NAME, holder="other", ttl=30) is None


def test_who_slept_too_long_keeps_what_nobody_took(another: Open, clock: FakeClock) -> None:
    one, other = another(), another()
    receipt = one.lock(NAME, holder="one", ttl=30)
    assert receipt is not None

    clock.advance(3600)

    assert one.renew_lock(NAME, receipt, ttl=30)
    assert other.lock(NAME, holder="other", ttl=30) is None


def test_who_slept_too_long_neither_renews_nor_frees_what_somebody_took(another: Open, clock: FakeClock) -> None:
    one, other, third = another(), another(), another()
    stale = one.lock(NAME, holder="one", ttl=30)
    assert stale is not None
    clock.advance(31)
    other.lock(NAME, holder="other", ttl=30)

    assert not one.renew_lock(NAME, stale, ttl=30)
    one.unlock(NAME, stale)

    assert third.lock(NAME, holder="third", ttl=30) is None


def test_who_bears_the_name_of_a_dead_holder_takes_over_at_once(another: Open) -> None:
    dead, heir, third = another(), another(), another()
    stale = dead.lock(NAME, holder="host", ttl=30)
    assert stale is not None

    receipt = heir.lock(NAME, holder="host", ttl=30)

    assert receipt is not None
    assert receipt != stale
    assert not dead.renew_lock(NAME, stale, ttl=30)
    assert third.lock(NAME, holder="third", ttl=30) is None


def test_of_many_who_ask_at_once_one_gets_it(another: Open) -> None:
    coordinators = [another() for _ in range(6)]
    barrier = threading.Barrier(len(coordinators))
    got: list[str | None] = []

    def ask(number: int) -> None:
        barrier.wait()
        got.append(coordinators[number].lock(NAME, holder=f"{number}", ttl=30))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(coordinators))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(got) == len(coordinators)
    assert sum(receipt is not None for receipt in got) == 1


def test_a_space_at_the_end_of_a_name_or_a_receipt_counts(another: Open) -> None:
    """Some databases ignore it in a comparison."""
    one, other = another(), another()
    receipt = one.lock(NAME, holder="one", ttl=30)
    assert receipt is not None

    assert other.lock(NAME, holder="one ", ttl=30) is None
    assert not other.renew_lock(NAME, f"{receipt} ", ttl=30)
    other.unlock(NAME, f"{receipt} ")
    assert other.lock(f"{NAME} ", holder="other", ttl=30) is not None
    assert one.lock(f"{NAME} ", holder="one", ttl=30) is None
    assert one.renew_lock(NAME, receipt, ttl=30)


def test_what_a_worker_announces_is_seen_until_it_expires(another: Open, clock: FakeClock) -> None:
    one, other = another(), another()
    about = bytes(range(256)) * 128

    one.announce("a1", b"old", ttl=20.0)
    one.announce("a1", about, ttl=20.0)
    clock.advance(10)
    other.announce("a2", b"", ttl=20.0)

    assert one.workers() == other.workers() == {"a1": about, "a2": b""}
    clock.advance(10)
    assert one.workers() == {"a2": b""}
    one.announce("a2", b"", ttl=0.0)
    assert other.workers() == {}


def test_what_an_operator_asks_is_kept_apart_from_what_workers_announce(another: Open, clock: FakeClock) -> None:
    one, other = another(), another()
    assert isinstance(one, ControlStore)
    assert isinstance(other, ControlStore)
    what = bytes(range(256)) * 128

    one.set_control("a1", b"old", ttl=20.0)
    one.set_control("a1", what, ttl=100 * 365 * 86_400.0)
    other.set_control("a2", b"", ttl=20.0)
    one.announce("a1", b"said", ttl=20.0)

    assert one.controls() == other.controls() == {"a1": what, "a2": b""}
    assert one.workers() == {"a1": b"said"}
    clock.advance(50 * 365 * 86_400.0)
    one.announce("a3", b"", ttl=20.0)  # which removes what has expired
    assert other.controls() == {"a1": what}
    one.set_control("a1", b"", ttl=0.0)
    assert other.controls() == {}


def test_a_closed_coordinator_says_so(another: Open) -> None:
    coordinator = another()
    assert isinstance(coordinator, Transport)
    assert isinstance(coordinator, ControlStore)
    assert isinstance(coordinator, LimitStore)
    coordinator.close()

    for call in (
        lambda: coordinator.lock(NAME, holder="one", ttl=30),
        lambda: coordinator.renew_lock(NAME, "receipt", ttl=30),
        lambda: coordinator.unlock(NAME, "receipt"),
        lambda: coordinator.announce("a1", b"", ttl=20.0),
        coordinator.workers,
        lambda: coordinator.set_control("a1", b"", ttl=20.0),
        coordinator.controls,
        lambda: coordinator.change_limit("a1", lambda before, _: before, ttl=20.0),
    ):
        with pytest.raises(TransportClosedError):
            call()
