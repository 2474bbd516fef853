from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence

import pytest

import relevo
from relevo import (
    Ack,
    DeadLetter,
    Delivery,
    Envelope,
    LeaseLostError,
    Lost,
    Nack,
    Outcome,
    Release,
    SettleError,
    TransportUnavailableError,
    UnsupportedError,
)
from relevo._worker.ledger import FLUSH_AFTER
from relevo.errors import ConfigurationError
from relevo_amqp import AmqpTransport
from relevo_amqp._errors import ConnectionLostError
from relevo_amqp._hub import ANSWER_WITHIN
from relevo_amqp._mapping import MessageRecord, written
from relevo_amqp._phase import ReceiverState
from relevo_amqp._topology import Role
from relevo_conformance.fault.proxy import Proxy

from .conftest import PATIENCE, Server, drain, ids, receive, set_confirm_timeout, subscription_of, wait_until

Make = Callable[..., Envelope]
Connect = Callable[..., AmqpTransport]


def test_what_is_acked_never_comes_back(connect: Connect, transport: AmqpTransport, queue: str, envelope: Make) -> None:
    transport.send([envelope(number) for number in range(10)])
    drain(transport, queue, wait=0.5)

    transport.close()

    assert receive(connect(), queue, wait=0.3) == []


def test_acks_in_any_order_leave_only_what_was_not_acked(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(number) for number in range(30)])
    held: list[Delivery] = []
    while len(held) < 30:
        held += receive(transport, queue)

    for each in (held[29], held[3], held[0], held[2], held[1]):
        transport.ack(each)
    assert transport.settle([(each, Ack()) for each in held[10:20]]) == []
    subscription_of(transport).wait_for_acks()
    transport._abort()

    kept = set(ids(held[4:10] + held[20:29]))
    found = drain(connect(), queue, wait=0.5, least=len(kept))
    assert set(ids(found)) == kept
    assert len(found) == len(kept)


def _holding(
    connect: Connect, transport: AmqpTransport, queue: str, envelopes: Sequence[Envelope]
) -> tuple[AmqpTransport, list[Delivery]]:
    """Return a worker that holds all of *envelopes*; start over if the server made it subscribe again meanwhile."""
    while True:
        transport.send(envelopes)
        worker = connect(prefetch=len(envelopes))
        held: list[Delivery] = []
        while len(held) < len(envelopes) and not any(each.lost_leases for each in held):
            held += receive(worker, queue, limit=len(envelopes))
        if len(held) == len(envelopes):
            return worker, held
        worker.settle([(each, Ack()) for each in held])  # suspects come one by one, each when nothing else is held
        drain(worker, queue, wait=1.0)
        worker.close()


def test_what_is_acked_around_something_that_is_held_never_comes_back(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    """Of the acks of one by one the server ignores those behind the 32nd if the channel ends too early."""
    for _ in range(5):
        worker, held = _holding(connect, transport, queue, [envelope(number) for number in range(300)])
        worker.settle([(each, Ack()) for each in held[1:]])
        assert worker._hub is not None
        assert worker._receiver is not None
        sent = threading.Event()
        worker._hub.loop.soon(sent.set)
        assert sent.wait(PATIENCE)
        worker.ack(held[0])
        worker._receiver.finish()
        worker._abort()

    assert receive(transport, queue, wait=2.0) == []


def test_settle_acks_nothing_before_the_server_has_taken_the_acks_of_the_one_before(
    transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(1), envelope(2)])
    held = receive(transport, queue)
    while len(held) < 2:
        held += receive(transport, queue)
    turnstile = stalled(transport)

    transport.ack(held[0])
    settling = threading.Thread(target=transport.ack, args=(held[1],))
    settling.start()
    settling.join(0.3)
    waited = settling.is_alive()
    turnstile.set()
    settling.join(PATIENCE)

    assert waited
    assert not settling.is_alive()
    transport._abort()


def test_what_is_lost_while_settle_waits_is_told_and_not_sent_on(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    worker = connect()
    transport.send([envelope(1), envelope(2)])
    held = receive(worker, queue)
    while len(held) < 2:
        held += receive(worker, queue)
    turnstile = stalled(worker)
    worker.ack(held[0])
    lost: list[Delivery] = []

    settling = threading.Thread(target=lambda: lost.extend(worker.settle([(held[1], Nack())])))
    settling.start()
    settling.join(0.3)
    assert settling.is_alive()
    subscription_of(worker)._on_lost(ConnectionLostError("cut"))
    settling.join(PATIENCE)
    turnstile.set()
    worker._abort()

    assert lost == [held[1]]
    copies = [each for each in drain(transport, queue, wait=0.5, least=2) if each.envelope == held[1].envelope]
    assert [each.lost_leases for each in copies] == [1]


def test_if_the_acks_before_are_never_answered_nothing_is_settled_any_more(
    server: Server,
    connect: Connect,
    transport: AmqpTransport,
    queue: str,
    envelope: Make,
) -> None:
    """The connection that publishes is well, and a nack would be sent on by it although the original comes back."""
    proxy = Proxy(server.url, port=5672, marks=lambda data: b"relevo amqp: consume" in data)
    distant = connect(url=proxy.url)
    transport.send([envelope(1), envelope(2), envelope(3)])
    held: list[Delivery] = []
    while len(held) < 3:
        held += receive(distant, queue)
    distant.send([envelope(4)])  # the connection that publishes is there, too
    proxy.mute_marked()
    subscription_of(distant).hurry(2.0)
    distant.ack(held[0])

    lost = distant.settle([(held[1], Nack(state=b"n")), (held[2], Ack())])

    proxy.close()
    distant._abort()
    assert lost == held[1:]
    copies = [each for each in drain(transport, queue, wait=0.5, least=3) if each.envelope == held[1].envelope]
    assert [(each.lost_leases, each.state) for each in copies] == [(1, b"")]


def test_a_worker_whose_acks_are_stuck_does_not_go_on(connect: Connect, queue: str) -> None:
    """What is done and not acked is what comes once more if the process dies: three flushes and what runs."""
    seconds = 0.002
    done: list[int] = []
    turnstiles: list[threading.Event] = []
    transport = connect(prefetch=300)
    app = relevo.App(transports={"main": transport}, routes={"*": f"main/{queue}"}, source="shop")

    def count(event: relevo.Event) -> None:
        if event["number"] == 100:
            turnstiles.append(stalled(transport))
        time.sleep(seconds)
        done.append(event["number"])

    app.listen(relevo.listener("number.counted")(count))
    app.prepare("main")
    app.dispatch_many(relevo.Event("number.counted", {"number": number}) for number in range(300))
    worker = app.worker(relevo.RunOptions(until_empty=True))
    working = threading.Thread(target=worker.run)
    working.start()
    before = -1
    while before != len(done) or not turnstiles:
        before = len(done)
        time.sleep(0.3)
    at_most = 100 + 3 * (1 + round(FLUSH_AFTER / seconds)) + 1
    turnstiles[0].set()
    working.join(PATIENCE)

    assert before <= at_most
    assert sorted(done) == list(range(300))


def stalled(transport: AmqpTransport) -> threading.Event:
    """Stall the I/O thread until the returned event is set."""
    assert transport._hub is not None
    turnstile = threading.Event()
    transport._hub.loop.soon(lambda: void(turnstile.wait(PATIENCE)))
    return turnstile


def void(_: object) -> None:
    """Return nothing."""


def test_a_nack_brings_it_again_with_the_next_attempt_and_the_new_state(
    transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    sent = envelope(1, headers={"a": "b"}, urgency="high", expires=2.5)
    transport.send([sent])
    (first,) = receive(transport, queue)

    transport.nack(first, state=b"\x00state\xff")
    (second,) = receive(transport, queue)
    started = time.monotonic()  # before the call: the nack is confirmed a while after its delay has begun
    transport.nack(second, delay=0.3)
    (third,) = receive(transport, queue)

    assert time.monotonic() - started >= 0.3
    assert [each.envelope for each in (first, second, third)] == [sent] * 3
    assert [(each.attempt, each.lost_leases, each.state) for each in (first, second, third)] == [
        (1, 0, b""),
        (2, 0, b"\x00state\xff"),
        (3, 0, b"\x00state\xff"),
    ]
    assert first.enqueued_at == pytest.approx(third.enqueued_at, abs=1e-6)
    transport.ack(third)
    assert receive(transport, queue, wait=0.3) == []


def test_a_nack_can_empty_the_state(transport: AmqpTransport, queue: str, envelope: Make) -> None:
    transport.send([envelope(1)])
    transport.nack(receive(transport, queue)[0], state=b"x")

    transport.nack(receive(transport, queue)[0], state=b"")

    assert receive(transport, queue)[0].state == b""


def test_a_state_of_sixteen_kibibytes_is_kept(transport: AmqpTransport, queue: str, envelope: Make) -> None:
    state = bytes(range(256)) * 64
    transport.send([envelope(1, headers={"h": "x" * 20_000})])

    transport.nack(receive(transport, queue)[0], state=state)

    assert receive(transport, queue)[0].state == state


def test_a_release_counts_nothing(transport: AmqpTransport, queue: str, envelope: Make) -> None:
    transport.send([envelope(1)])
    transport.nack(receive(transport, queue)[0], state=b"s")

    for _ in range(25):
        (delivery,) = receive(transport, queue)
        assert (delivery.attempt, delivery.lost_leases, delivery.state) == (2, 0, b"s")
        assert transport.settle([(delivery, Release())]) == []


def test_a_recorded_loss_comes_again_at_once_with_one_loss_more(
    transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(1)])
    (delivery,) = receive(transport, queue)

    assert transport.settle([(delivery, Lost(state=b"half"))]) == []
    (again,) = receive(transport, queue)

    assert (again.attempt, again.lost_leases, again.state) == (2, 1, b"half")


def test_a_suspect_stays_one_through_nacks_and_delays(transport: AmqpTransport, queue: str, envelope: Make) -> None:
    transport.send([envelope(1)])
    transport.settle([(receive(transport, queue)[0], Lost())])
    transport.nack(receive(transport, queue)[0])
    transport.nack(receive(transport, queue)[0], delay=0.2)
    transport.settle([(receive(transport, queue)[0], Release())])

    (delivery,) = receive(transport, queue)

    assert (delivery.attempt, delivery.lost_leases) == (4, 1)


@pytest.mark.parametrize("delay", [0.0, 0.1])
def test_a_suspect_that_is_nacked_comes_behind_the_others(
    transport: AmqpTransport, queue: str, envelope: Make, delay: float
) -> None:
    transport.send([envelope(1)])
    transport.settle([(receive(transport, queue)[0], Lost())])
    (suspect,) = receive(transport, queue)
    transport.send([envelope(number) for number in range(2, 8)])

    transport.nack(suspect, delay=delay)

    came: list[Delivery] = []
    while len(came) < 7:
        batch = receive(transport, queue, limit=1)
        came += batch
        transport.settle([(each, Ack()) for each in batch])
    assert ids(came)[-1] == "id-1"
    assert (came[-1].attempt, came[-1].lost_leases) == (3, 1)


def test_a_second_settlement_of_the_same_delivery_is_lost(transport: AmqpTransport, queue: str, envelope: Make) -> None:
    transport.send([envelope(1)])
    (delivery,) = receive(transport, queue)

    assert transport.settle([(delivery, Ack()), (delivery, Nack())]) == [delivery]
    with pytest.raises(LeaseLostError):
        transport.nack(delivery)
    assert receive(transport, queue, wait=0.3) == []


def test_what_another_transport_received_is_lost_here(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    other = connect()
    transport.send([envelope(1), envelope(2)])
    (mine,) = receive(transport, queue, limit=1)
    (theirs,) = receive(other, queue, limit=1)

    assert other.settle([(mine, Ack())]) == [mine]
    assert connect().settle([(mine, Ack())]) == [mine]

    assert other.settle([(theirs, Ack())]) == []
    assert transport.settle([(mine, Ack())]) == []


def test_settlements_of_all_kinds_go_together(transport: AmqpTransport, queue: str, envelope: Make) -> None:
    transport.send([envelope(number) for number in range(5)])
    held: list[Delivery] = []
    while len(held) < 5:
        held += receive(transport, queue)
    outcomes: list[Outcome] = [Ack(), Nack(state=b"n"), DeadLetter(reason="r"), Release(), Ack()]

    assert transport.settle(list(zip(held, outcomes, strict=True))) == []

    again = receive(transport, queue)
    while len(again) < 2:
        again += receive(transport, queue)
    assert {(each, delivery.attempt) for each, delivery in zip(ids(again), again, strict=True)} == {
        (ids(held)[1], 2),
        (ids(held)[3], 1),
    }
    assert len(transport.dead_letters([queue])) == 1
    assert receive(transport, queue, wait=0.3) == []


def test_if_a_nack_is_not_confirmed_the_delivery_stays_held(
    server: Server, connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(1)])
    proxy = Proxy(server.url, port=5672)
    distant = connect(url=proxy.url)
    (delivery,) = receive(distant, queue)
    distant.send([envelope(2)])  # the connection that publishes is there, too
    set_confirm_timeout(distant, 0.5)
    proxy.swallow_answers = True

    with pytest.raises(TransportUnavailableError):
        distant.nack(delivery, state=b"once")

    proxy.swallow_answers = False
    set_confirm_timeout(distant, 30.0)
    assert distant.settle([(delivery, Nack(state=b"twice"))]) == []
    distant.close()
    states: list[bytes] = []
    while b"twice" not in states:  # the first may have arrived although its confirmation did not
        arrived = receive(transport, queue)
        assert arrived
        states += [each.state for each in arrived]
    proxy.close()


def test_if_only_some_can_be_settled_both_are_named(
    server: Server, connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(1), envelope(2), envelope(3)])
    proxy = Proxy(server.url, port=5672)
    distant = connect(url=proxy.url)
    held: list[Delivery] = []
    while len(held) < 3:
        held += receive(distant, queue)
    distant.ack(held[2])
    proxy.refuse = True

    with pytest.raises(SettleError) as caught:
        distant.settle([(held[0], Nack()), (held[1], Ack()), (held[2], Ack())])

    assert caught.value.unsettled == (held[0],)
    assert caught.value.lost == (held[2],)
    proxy.refuse = False
    assert distant.settle([(held[0], Ack()), (held[1], Ack())]) == [held[1]]
    proxy.close()


def test_what_could_not_be_settled_goes_back_after_the_grace(
    server: Server,
    connect: Connect,
    transport: AmqpTransport,
    queue: str,
    envelope: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relevo_amqp._transport.GRACE", 0.3)
    transport.send([envelope(1)])
    proxy = Proxy(server.url, port=5672)
    distant = connect(url=proxy.url)
    (delivery,) = receive(distant, queue)
    proxy.refuse = True
    with pytest.raises(TransportUnavailableError):
        distant.nack(delivery)

    wait_until(lambda: not subscription_of(distant).holds(delivery.receipt))
    assert distant.settle([(delivery, Ack())]) == [delivery]
    proxy.refuse = False
    (again,) = receive(distant, queue)

    assert (again.lost_leases, ids([again])) == (1, ["id-1"])
    proxy.close()


def test_close_ends_everything_although_what_lies_here_cannot_be_moved(
    server: Server, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    worker = AmqpTransport(server.options())  # it has not set up the queue
    assert receive(worker, queue, wait=0.2) == []
    server.rest()
    assert worker._hub is not None
    assert worker._receiver is not None
    hub = worker._hub
    worker._receiver._state = ReceiverState(look_at=time.monotonic() + 60.0)
    server.channel().queue_delete(server.topology.queue(queue, Role.SUSPECT))
    once_lost = MessageRecord(envelope=envelope(1), queue=queue, lost_leases=1, enqueued_at=time.time())
    hub.publisher.send([written(once_lost, exchange=server.topology.exchange(Role.MAIN), key=queue)])
    with pytest.raises(ConfigurationError, match="lacks the queue"):
        receive(worker, queue)

    worker.close()

    assert not hub.loop.alive
    transport.setup([queue])
    assert [each.lost_leases for each in receive(transport, queue)] == [2]


def test_close_waits_for_a_silent_server_no_longer_than_it_was_told(
    server: Server, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    proxy = Proxy(server.url, port=5672)
    transport.send([envelope(1), envelope(2)])
    worker = AmqpTransport(server.options(url=proxy.url, confirm_timeout=0.5))
    held = receive(worker, queue)
    proxy.swallow_answers = True
    worker.ack(held[0])
    closing = threading.Thread(target=worker.close)

    closing.start()
    closing.join(ANSWER_WITHIN / 2)

    assert not closing.is_alive()
    proxy.close()


def test_an_outcome_that_cannot_be_written_settles_nothing_and_loses_nothing(
    transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(1), envelope(2)])
    held = receive(transport, queue)
    while len(held) < 2:
        held += receive(transport, queue)

    with pytest.raises(ValueError, match="NaN"):
        transport.settle([(held[0], Ack()), (held[1], Nack(delay=math.nan))])

    assert transport.settle([(each, Ack()) for each in held]) == []


def test_what_was_acked_stays_acked_if_another_queue_of_the_subscription_is_deleted(
    server: Server, connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    other = server.queue()
    worker = connect()
    worker.setup([queue, other])
    server.rest()
    transport.send([envelope(1)])
    (held,) = receive(worker, queue, other)
    subscription = subscription_of(worker)
    subscription._acks_wait = True  # as it is for some round trips while consumers are ended
    worker.ack(held)

    server.channel().queue_delete(server.topology.queue(other, Role.MAIN))
    wait_until(lambda: subscription.lost is not None)

    assert receive(transport, queue, wait=1.0) == []


def test_a_dead_letter_whose_queue_is_gone_gets_it_back(
    server: Server, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(1)])
    (delivery,) = receive(transport, queue)
    server.channel().queue_delete(server.topology.queue(queue, Role.DEAD))

    transport.dead_letter(delivery, reason="r")

    assert [entry.reason for entry in transport.dead_letters([queue])] == ["r"]


def test_what_is_not_claimed_is_refused(transport: AmqpTransport, queue: str, envelope: Make) -> None:
    transport.send([envelope(1)])
    (delivery,) = receive(transport, queue)

    for call in (
        lambda: transport.extend([delivery], lease=60.0),
        lambda: transport.checkpoint(delivery, b""),
        lambda: transport.cancel("id-1"),
        lambda: transport.purge(queue),
        lambda: transport.bound_to(object()),
    ):
        with pytest.raises(UnsupportedError):
            call()


def test_several_threads_settle_at_once(connect: Connect, transport: AmqpTransport, queue: str, envelope: Make) -> None:
    transport.send([envelope(number) for number in range(400)])
    held: list[Delivery] = []
    while len(held) < 400:
        held += receive(transport, queue)
    lost: list[object] = []

    def settle(mine: int) -> None:
        for each in held[mine::4]:
            lost.extend(transport.settle([(each, Nack(state=b"n") if mine == 0 else Ack())]))

    threads = [threading.Thread(target=settle, args=(mine,)) for mine in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert lost == []
    again = drain(transport, queue, wait=0.5, least=100)
    assert sorted(ids(again)) == sorted(ids(held[0::4]))
    transport.close()
    assert receive(connect(), queue, wait=0.3) == []
