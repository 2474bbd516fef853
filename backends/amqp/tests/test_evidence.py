"""Law 3: a verdict needs evidence. Notes of begun events, heartbeats, and how long both last."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from relevo import Ack, DeadLetter, Delivery, Envelope, Lost, Nack, Note, Outcome, Release
from relevo.errors import LeaseLostError
from relevo_amqp import AmqpTransport
from relevo_amqp._header import NotePlace
from relevo_amqp._hub import Hub
from relevo_amqp._topology import Role

from .conftest import Server, receive, subscription_of

Make = Callable[..., Envelope]
Connect = Callable[..., AmqpTransport]

NOTE = Note(by="a1:boot:1:10:20", deaths=("b2:boot:1:11:21",), listener="shop.listeners.resize")
"""A text that a transport never reads."""


def come(transport: AmqpTransport, queue: str) -> Delivery:
    """Receive the one event of *queue*."""
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        if batch := receive(transport, queue, wait=1.0):
            (delivery,) = batch
            return delivery
    raise AssertionError("nothing came")


def lose(connect: Connect, transport: AmqpTransport, queue: str) -> tuple[AmqpTransport, Delivery]:
    """Cut *transport* off, and return another one with the event that it held."""
    subscription_of(transport).wait_for_acks()  # what was settled without the server's answer comes once more
    transport._abort()
    other = connect()
    return other, come(other, queue)


def suspect(connect: Connect, queue: str, envelope: Envelope) -> tuple[AmqpTransport, Delivery]:
    """Return a transport that holds *envelope* after it was lost once."""
    first = connect()
    first.send([envelope])
    come(first, queue)
    other, delivery = lose(connect, first, queue)
    assert delivery.lost_leases == 1
    return other, delivery


# --- begun-is-kept -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost_leases", [0, 1])
def test_a_note_comes_back_with_what_is_lost(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make, lost_leases: int
) -> None:
    transport.send([envelope(1)])
    holder, delivery = transport, come(transport, queue)
    if lost_leases:
        holder, delivery = lose(connect, transport, queue)
    assert (delivery.lost_leases, delivery.begun, delivery.deaths) == (lost_leases, None, ())

    holder.begin(delivery, NOTE)
    other, again = lose(connect, holder, queue)

    assert (again.lost_leases, again.attempt) == (lost_leases + 1, lost_leases + 2)
    assert (again.begun, again.deaths) == (NOTE, NOTE.deaths)
    third, once_more = lose(connect, other, queue)
    assert (once_more.begun, once_more.deaths) == (NOTE, NOTE.deaths)
    third.ack(once_more)


def test_the_last_note_counts(connect: Connect, transport: AmqpTransport, queue: str, envelope: Make) -> None:
    holder, delivery = suspect(connect, queue, envelope(1))
    holder.begin(delivery, NOTE)
    holder.begin(delivery, Note(by="by-one", listener="x"))
    second, again = lose(connect, holder, queue)
    assert again.begun == Note(by="by-one", listener="x")
    second.begin(again, Note(by="by-two", deaths=("one", "two")))

    _, last = lose(connect, second, queue)

    assert last.begun == Note(by="by-two", deaths=("one", "two"))
    assert last.deaths == ("one", "two")


@pytest.mark.parametrize("lost_leases", [0, 1])
@pytest.mark.parametrize("delay", [0.0, 0.2])
def test_a_release_keeps_the_note_and_counts_as_nothing(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make, lost_leases: int, delay: float
) -> None:
    transport.send([envelope(1)])
    holder, delivery = transport, come(transport, queue)
    if lost_leases:
        holder, delivery = lose(connect, transport, queue)
    holder.begin(delivery, NOTE)

    sent_at = time.time()
    assert holder.settle([(delivery, Release(delay=delay))]) == []
    again = come(holder, queue)

    assert time.time() - sent_at >= delay
    assert (again.lost_leases, again.attempt) == (delivery.lost_leases, delivery.attempt)
    assert (again.begun, again.deaths) == (NOTE, NOTE.deaths)
    _, once_more = lose(connect, holder, queue)
    assert (once_more.lost_leases, once_more.begun) == (lost_leases + 1, NOTE)


@pytest.mark.parametrize("lost_leases", [0, 1])
@pytest.mark.parametrize("delay", [0.0, 0.2])
def test_a_retry_removes_the_note_and_keeps_the_deaths(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make, lost_leases: int, delay: float
) -> None:
    transport.send([envelope(1)])
    holder, delivery = transport, come(transport, queue)
    if lost_leases:
        holder, delivery = lose(connect, transport, queue)
    holder.begin(delivery, NOTE)

    assert holder.settle([(delivery, Nack(delay=delay, state=b"s"))]) == []
    again = come(holder, queue)

    assert (again.begun, again.deaths, again.state) == (None, NOTE.deaths, b"s")
    _, lost = lose(connect, holder, queue)
    assert (lost.begun, lost.deaths) == (None, NOTE.deaths)


@pytest.mark.parametrize("lost_leases", [0, 1])
def test_a_death_that_the_worker_saw_takes_the_place_of_the_note(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make, lost_leases: int
) -> None:
    transport.send([envelope(1)])
    holder, delivery = transport, come(transport, queue)
    if lost_leases:
        holder, delivery = lose(connect, transport, queue)
    holder.begin(delivery, Note(by="me", deaths=("one", "two", "three")))

    assert holder.settle([(delivery, Lost(death="four"))]) == []
    again = come(holder, queue)

    assert (again.begun, again.deaths) == (None, ("two", "three", "four"))
    assert again.lost_leases == lost_leases + 1
    _, lost = lose(connect, holder, queue)
    assert (lost.begun, lost.deaths) == (None, ("two", "three", "four"))


def test_a_loss_without_a_death_keeps_the_note(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    holder, delivery = suspect(connect, queue, envelope(1))
    holder.begin(delivery, NOTE)

    holder.settle([(delivery, Lost())])

    again = come(holder, queue)
    assert (again.begun, again.deaths, again.lost_leases) == (NOTE, NOTE.deaths, 2)


@pytest.mark.parametrize("outcome", [Release(), Release(delay=0.2)])
def test_a_note_from_before_a_revival_does_not_return_after_a_release(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make, outcome: Outcome
) -> None:
    transport.send([envelope(1)])
    delivery = come(transport, queue)
    transport.begin(delivery, NOTE)
    transport.settle([(delivery, DeadLetter(reason="retries-exhausted"))])
    (entry,) = transport.dead_letters([queue])
    assert transport.revive({entry.ref: b""}) == []
    revived = come(transport, queue)
    later = Note(by="by-one", listener="x")
    transport.begin(revived, later)

    assert transport.settle([(revived, outcome)]) == []
    assert come(transport, queue).begun == later
    _, lost = lose(connect, transport, queue)

    assert (lost.lost_leases, lost.begun, lost.deaths) == (1, later, ())


def test_a_note_from_before_a_revival_does_not_return_after_a_retry(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(1)])
    transport.settle([(come(transport, queue), Nack())])
    second = come(transport, queue)
    transport.begin(second, NOTE)
    transport.settle([(second, DeadLetter(reason="retries-exhausted"))])
    (entry,) = transport.dead_letters([queue])
    assert transport.revive({entry.ref: b""}) == []

    transport.settle([(come(transport, queue), Nack())])
    again = come(transport, queue)
    assert (again.attempt, again.begun) == (2, None)
    _, lost = lose(connect, transport, queue)

    assert (lost.lost_leases, lost.begun, lost.deaths) == (1, None, ())


@pytest.mark.parametrize("lost_leases", [0, 1])
def test_what_is_revived_starts_without_a_note_and_without_deaths(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make, lost_leases: int
) -> None:
    transport.send([envelope(1)])
    holder, delivery = transport, come(transport, queue)
    if lost_leases:
        holder, delivery = lose(connect, transport, queue)
    holder.begin(delivery, NOTE)
    holder.settle([(delivery, DeadLetter(reason="r"))])
    (entry,) = holder.dead_letters([queue])

    assert holder.revive({entry.ref: b""}) == []
    again = come(holder, queue)

    assert (again.begun, again.deaths, again.lost_leases) == (None, (), 0)
    other, lost = lose(connect, holder, queue)
    assert (lost.begun, lost.deaths, lost.lost_leases) == (None, (), 1)
    other.begin(lost, NOTE)
    third, once_more = lose(connect, other, queue)
    assert once_more.begun == NOTE
    third.ack(once_more)


def test_an_excuse_for_what_was_not_begun_writes_nothing(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(1)])
    delivery = come(transport, queue)
    stranger = connect()
    with pytest.raises(LeaseLostError):
        stranger.begin(delivery, NOTE)

    stranger.excuse(delivery, NOTE)
    other, again = lose(connect, transport, queue)

    assert (again.begun, again.deaths) == (None, ())
    other.ack(again)


def cut_off(transport: AmqpTransport) -> None:
    """Let *transport* lose the connection on which it holds events, and live."""
    assert transport._hub is not None
    assert transport._hub._consuming is not None
    transport._hub._consuming.abort(5.0)


@pytest.mark.parametrize("lost_leases", [0, 1])
@pytest.mark.parametrize("outcome", [Release(), Release(delay=0.2), Lost()])
def test_a_note_is_excused_after_others_have_given_the_event_back(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make, lost_leases: int, outcome: Outcome
) -> None:
    transport.send([envelope(1)])
    first, delivery = transport, come(transport, queue)
    if lost_leases:
        first, delivery = lose(connect, transport, queue)
    first.begin(delivery, NOTE)
    cut_off(first)
    second, third = connect(), connect()
    for other in (second, third, second):
        again = come(other, queue)
        assert (again.begun, again.deaths) == (NOTE, NOTE.deaths)
        assert other.settle([(again, outcome)]) == []

    first.excuse(delivery, NOTE)

    excused = attrs.evolve(NOTE, excused=True)
    assert come(third, queue).begun == excused
    fourth, once_more = lose(connect, third, queue)
    assert (once_more.begun, once_more.deaths) == (excused, NOTE.deaths)
    fourth.settle([(once_more, Release())])
    assert come(fourth, queue).begun == excused


def test_an_excuse_of_an_earlier_note_does_not_excuse_the_last_one(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    first, delivery = suspect(connect, queue, envelope(1))
    first.begin(delivery, NOTE)
    cut_off(first)
    second = connect()
    again = come(second, queue)
    last = attrs.evolve(NOTE, listener="shop.listeners.copy")
    second.begin(again, last)
    second.settle([(again, Release())])

    first.excuse(delivery, NOTE)

    assert come(second, queue).begun == last


def hub_of(transport: AmqpTransport) -> Hub:
    assert transport._hub is not None
    return transport._hub


def test_a_lease_that_is_lost_while_a_note_is_updated_leaves_the_earlier_note(
    monkeypatch: pytest.MonkeyPatch, connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    first, delivery = suspect(connect, queue, envelope(1))
    first.begin(delivery, NOTE)
    notes = hub_of(first).notes
    append = notes.append

    def append_and_lose(*arguments: Any, **options: Any) -> None:
        append(*arguments, **options)
        cut_off(first)

    monkeypatch.setattr(notes, "append", append_and_lose)
    with pytest.raises(LeaseLostError):
        first.begin(delivery, attrs.evolve(NOTE, listener="shop.listeners.copy"))
    notes.read(["plain-other"], since=time.time())  # this writes what is owed

    assert come(connect(), queue).begun == NOTE


def test_a_withdrawal_that_two_threads_owe_does_not_undo_a_later_note(
    monkeypatch: pytest.MonkeyPatch, transport: AmqpTransport
) -> None:
    notes, since = hub_of(transport).notes, time.time()
    notes.append("plain-key", 1, NOTE)
    notes.withdraw("plain-key", 1)
    send = notes._publisher.send
    is_sending, has_appended = threading.Event(), threading.Event()

    def slow_send(*arguments: Any, **options: Any) -> Any:
        if not is_sending.is_set():
            is_sending.set()
            has_appended.wait(1.0)
        return send(*arguments, **options)

    def append() -> None:
        assert is_sending.wait(30.0)
        notes.append("plain-key", 1, attrs.evolve(NOTE, excused=True))
        has_appended.set()

    monkeypatch.setattr(notes._publisher, "send", slow_send)
    appending = threading.Thread(target=append)
    appending.start()
    notes.read(["plain-other"], since=since)
    appending.join(30.0)

    found = notes.read(["plain-key"], since=since).at(NotePlace("plain-key", 1))
    assert found == attrs.evolve(NOTE, excused=True)


def test_copies_of_an_event_in_two_queues_have_their_own_notes(
    server: Server, connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    second = server.queue()
    transport.setup([second])
    transport.send([envelope(1), envelope(1, queue=second)])
    here, _ = come(transport, queue), come(transport, second)
    transport.begin(here, NOTE)
    transport._abort()
    other = connect()

    assert come(other, queue).begun == NOTE
    assert come(other, second).begun is None


def test_what_is_not_held_any_more_is_not_begun(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    holder, delivery = suspect(connect, queue, envelope(1))
    holder.ack(delivery)

    with pytest.raises(LeaseLostError):
        holder.begin(delivery, NOTE)


def test_an_event_that_was_held_and_lost_but_not_begun_has_no_note(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    holder, delivery = suspect(connect, queue, envelope(1))
    for lost_leases in range(2, 7):
        holder, delivery = lose(connect, holder, queue)
        assert (delivery.lost_leases, delivery.begun) == (lost_leases, None)


@pytest.mark.parametrize("outcome", [Ack(), DeadLetter(reason="r")])
def test_a_note_ends_with_its_event(
    server: Server, connect: Connect, transport: AmqpTransport, queue: str, envelope: Make, outcome: Outcome
) -> None:
    holder, delivery = suspect(connect, queue, envelope(1))
    holder.begin(delivery, NOTE)

    holder.settle([(delivery, outcome)])

    assert receive(holder, queue, wait=0.2) == []
    assert server.ready(server.topology.queue(queue, Role.SUSPECT)) == 0


# --- presence-is-seen --------------------------------------------------------------------------------------


def test_a_worker_is_seen_as_long_as_its_connection_lives(connect: Connect, transport: AmqpTransport) -> None:
    worker, never = secrets.token_hex(16), secrets.token_hex(16)
    other = connect()
    assert other.presence([worker, never]) == {}

    transport.appear(worker)
    transport.appear(worker)

    first = other.presence([worker, never])[worker]
    assert other.presence([never]) == {}
    second = other.presence([worker])[worker]
    assert first.connected
    assert second.connected
    assert second.beats > first.beats
    transport._abort()
    deadline = time.monotonic() + 30.0
    while other.presence([worker]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert other.presence([worker]) == {}


def test_a_worker_that_says_good_bye_leaves_no_queue(
    server: Server, connect: Connect, transport: AmqpTransport
) -> None:
    worker = secrets.token_hex(16)
    one, other = connect(), connect()
    one.appear(worker)
    other.appear(worker)
    name = server.topology.here(worker).name

    one.close()

    assert server.consumers(name) == 1
    other.close()
    assert transport.presence([worker]) == {}
    channel = server.channel()
    with pytest.raises(Exception, match="NOT_FOUND"):
        channel.queue_declare(name, passive=True)


def test_a_worker_is_seen_again_with_its_next_subscription(
    server: Server, connect: Connect, transport: AmqpTransport, queue: str
) -> None:
    worker = secrets.token_hex(16)
    receive(transport, queue, wait=0.0)
    transport.appear(worker)
    other = connect()
    assert transport._hub is not None
    assert transport._hub._consuming is not None
    transport._hub._consuming.abort(5.0)

    receive(transport, queue, wait=5.0)

    assert list(other.presence([worker])) == [worker]
