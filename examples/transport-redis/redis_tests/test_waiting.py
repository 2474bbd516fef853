"""A receive that waits: woken by a send, by time, and by a close; and deliveries of parent and child after a fork."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import attrs
import pytest
import redis

from relevo import Delivery, Envelope, Secret
from relevo.errors import TransportClosedError
from relevo.testing import FakeClock
from relevo_redis import RedisOptions, RedisTransport


def envelope(number: int = 1) -> Envelope:
    return Envelope(id=f"e{number}", source="shop", name="image.created", queue="media", body=b"{}")


def received_by(url: str, waiting: int, admin: redis.Redis, then: Callable[[], None]) -> list[Delivery]:
    """Return what *waiting* receivers of one event each get, all of which wait before *then* is called."""
    came: list[Delivery] = []

    def wait() -> None:
        with RedisTransport(RedisOptions(url=Secret(url), timeout=1000.0)) as transport:
            came.extend(transport.receive(["feed", "media"], limit=1, lease=60.0, wait=500.0))

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(waiting)]
    for thread in threads:
        thread.start()
    while admin.info("clients")["blocked_clients"] < waiting:
        time.sleep(0.01)
    then()
    for thread in threads:
        thread.join(20.0)
    return came


@pytest.fixture(name="_no_looks")
def _no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make receivers wait for the bell instead of polling."""
    monkeypatch.setattr("relevo_redis._transport._LOOK", 600.0)


@pytest.mark.usefixtures("_no_looks")
def test_a_send_wakes_one_who_waits(own: RedisTransport, own_url: str, admin: redis.Redis) -> None:
    assert len(received_by(own_url, 1, admin, lambda: own.send([envelope()]))) == 1


@pytest.mark.usefixtures("_no_looks")
def test_what_one_leaves_wakes_the_next(own: RedisTransport, own_url: str, admin: redis.Redis) -> None:
    batch = [envelope(number) for number in range(4)]

    assert len(received_by(own_url, 4, admin, lambda: own.send(batch))) == 4


@pytest.mark.usefixtures("_no_looks")
def test_what_is_given_back_wakes_one_who_waits(own: RedisTransport, own_url: str, admin: redis.Redis) -> None:
    own.send([envelope()])
    (held,) = own.receive(["media"], limit=1, lease=600.0, wait=0.0)

    assert len(received_by(own_url, 1, admin, lambda: own.nack(held))) == 1


def test_a_bell_that_rang_for_one_queue_is_not_lost_when_another_gives_enough(transport: RedisTransport) -> None:
    transport.send([envelope(), attrs.evolve(envelope(), queue="feed")])
    transport._server.call("BLPOP", transport._server.key("bell", "media"), 1)

    (enough,) = transport.receive(["feed", "media"], limit=1, lease=60.0, wait=0.0)

    assert enough.queue == "feed"
    assert transport._server.call("EXISTS", transport._server.key("bell", "media")) == 1


def test_time_alone_ends_a_wait(transport: RedisTransport) -> None:
    transport.send([envelope()], delay=0.2)

    (delivery,) = transport.receive(["media"], limit=1, lease=0.2, wait=20.0)
    (again,) = transport.receive(["media"], limit=1, lease=60.0, wait=20.0)

    assert (delivery.lost_leases, again.lost_leases) == (0, 1)


def test_a_clock_that_stands_still_is_asked_to_sleep(options: RedisOptions) -> None:
    clock = FakeClock()
    began = clock.now()
    with RedisTransport(options, clock=clock) as transport:
        transport.send([envelope()], delay=1000.0)

        (delivery,) = transport.receive(["media"], limit=1, lease=60.0, wait=2000.0)
        assert transport.receive(["feed"], limit=1, lease=60.0, wait=50.0) == []

    assert delivery.enqueued_at == began
    assert clock.now() == began + 1050.0


def test_a_close_waits_for_a_call_of_another_thread_and_ends_it(transport: RedisTransport) -> None:
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            transport.receive(["media"], limit=1, lease=60.0, wait=60.0)
        except TransportClosedError as error:
            ended.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    while not transport._gate._inside:
        assert waiting.is_alive()
        time.sleep(0.01)

    transport.close()

    assert not transport._gate._inside
    waiting.join(20.0)
    assert len(ended) == 1


def test_a_signal_may_close_the_transport_of_the_thread_that_it_interrupts(transport: RedisTransport) -> None:
    with transport._open():
        transport.close()

    with pytest.raises(TransportClosedError):
        transport.send([])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_both_sides_of_a_fork_may_use_it(transport: RedisTransport) -> None:
    transport.send([envelope()])
    holding = threading.Event()
    go_on = threading.Event()

    def hold() -> None:
        with transport._gate._changed:
            holding.set()
            go_on.wait(20.0)

    holder = threading.Thread(target=hold)
    holder.start()
    holding.wait(20.0)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            transport.send([envelope(2)])
            os._exit(0)
        except BaseException:  # noqa: BLE001 - after no error may the child continue as the parent
            os._exit(1)
    go_on.set()
    holder.join()
    _, status = os.waitpid(child, 0)

    assert status == 0
    assert len(transport.receive(["media"], limit=9, lease=60.0, wait=0.0)) == 2
