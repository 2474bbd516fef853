"""Tests that need a private server: it is killed, and its operator applies policies to every queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count

import pytest

import rabbitmq
import rabbitmq_node
import server_starter
from relevo import Ack, App, DeadLetter, Delivery, Envelope, Event, GiveUp, RunOptions, listener
from relevo.errors import SendError, SettleError, TransportError, TransportUnavailableError
from relevo_amqp import AmqpOptions, AmqpTransport, _hub
from relevo_amqp._topology import Role

from .conftest import LEVELS, ids, receive, wait_until

pytestmark = [pytest.mark.amqp, pytest.mark.slow("one node for all, and some seconds for each of its starts")]


@pytest.fixture(scope="module")
def node() -> Iterator[rabbitmq_node.PrivateNode]:
    launcher = rabbitmq_node.launcher()
    if launcher is None:
        if server_starter.in_ci():
            pytest.fail("RabbitMQ is not installed", pytrace=False)
        pytest.skip("RabbitMQ is not installed")
    with rabbitmq_node.PrivateNode(launcher, management=True) as node:
        node.wait_until(lambda: not rabbitmq.refusal(node.url))
        yield node


@pytest.fixture
def open_transport(
    node: rabbitmq_node.PrivateNode, request: pytest.FixtureRequest
) -> Iterator[Callable[..., AmqpTransport]]:
    """Return a function that opens transports with a prefix for this test."""
    prefix = request.node.name[-60:].strip("-_.")
    opened: list[AmqpTransport] = []

    def open_transport(**changes: object) -> AmqpTransport:
        options = {"url": node.url, "prefix": prefix, "levels": LEVELS, "management": node.management_url} | changes
        opened.append(AmqpTransport(AmqpOptions(**options)))
        return opened[-1]

    yield open_transport
    for transport in opened:
        transport.close()


def restart(node: rabbitmq_node.PrivateNode) -> None:
    node.kill()
    node.start()
    node.wait_until(lambda: not rabbitmq.refusal(node.url))


# --- a new queue survives a crash of the server ------------------------------------------------------------


def test_the_events_of_a_first_dispatch_survive_a_server_that_is_killed_right_after_it(
    node: rabbitmq_node.PrivateNode, open_transport: Callable[..., AmqpTransport]
) -> None:
    app = App(transports={"main": open_transport()}, routes={"*": "main"}, source="shop")
    dispatched = app.dispatch_many(Event("image.created") for _ in range(50))

    restart(node)

    assert handled(open_transport(), len(dispatched)) == {each.id for each in dispatched}


def test_a_process_that_finds_queues_which_another_one_has_just_made_waits_as_well(
    node: rabbitmq_node.PrivateNode, open_transport: Callable[..., AmqpTransport]
) -> None:
    open_transport(settle_in=0.0).setup(["default"])
    app = App(transports={"main": open_transport()}, routes={"*": "main"}, source="shop")
    dispatched = app.dispatch_many(Event("image.created") for _ in range(50))

    restart(node)

    assert handled(open_transport(), len(dispatched)) == {each.id for each in dispatched}


def test_a_queue_that_lost_its_data_is_named_with_the_command_that_removes_it(
    node: rabbitmq_node.PrivateNode,
    open_transport: Callable[..., AmqpTransport],
    envelope: Callable[..., Envelope],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_hub, "ANSWER_WITHIN", 3.0)
    name, prefix, refused = "", "", None
    for number in range(5):  # if the machine pauses before the kill, the server has noted the queue
        prefix = f"lost-{number}"
        transport = open_transport(prefix=prefix, settle_in=0.0)
        name = transport_queue(transport, Role.MAIN)
        transport.setup(["default"])
        restart(node)
        try:
            receive(open_transport(prefix=prefix, confirm_timeout=3.0), "default")
        except TransportUnavailableError as error:
            refused = error
            if f'from the queue "{name}"' in str(error):  # else another answer came late
                break
    monkeypatch.undo()
    assert f'from the queue "{name}"' in str(refused)
    (problem,) = open_transport(prefix=prefix).problems(["default"])

    command = f"rabbitmqctl delete_queue --vhost / {name}"
    assert f'the queue "{name}": it has no leader' in problem
    assert command in problem
    node.control(*command.split()[1:])
    fresh = open_transport(prefix=prefix)
    fresh.setup(["default"])
    fresh.send([envelope(1, queue="default")])
    assert handled(fresh, 1) == {"id-1"}


# --- a server that restarts while threads send -------------------------------------------------------------


def test_what_threads_sent_around_a_kill_of_the_server_is_there(
    node: rabbitmq_node.PrivateNode,
    open_transport: Callable[..., AmqpTransport],
    envelope: Callable[..., Envelope],
) -> None:
    transport = open_transport()
    transport.setup(["default"])
    sent: set[str] = set()
    failed: list[TransportError] = []
    stopped = threading.Event()

    def send(thread: int) -> None:
        for number in count(thread, 4):
            if stopped.is_set():
                return
            event = envelope(number, queue="default")
            try:
                transport.send([event])
                sent.add(event.id)
            except TransportError as error:
                failed.append(error)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(sent) > 100)
        restart(node)
        before = len(sent)
        wait_until(lambda: len(sent) > before + 100)
    finally:
        stopped.set()
        for thread in threads:
            thread.join()

    found: set[str] = set()
    while not sent <= found:
        deliveries = receive(transport, "default")
        assert deliveries, sent - found
        found.update(ids(deliveries))
        transport.settle([(each, Ack()) for each in deliveries])
    assert failed
    assert all(isinstance(error, (SendError, TransportUnavailableError)) for error in failed)


# --- policies ----------------------------------------------------------------------------------------------


@pytest.fixture
def policy(node: rabbitmq_node.PrivateNode) -> Iterator[Callable[[str, str], None]]:
    """Return a function that sets the policy "everything", which is removed after the test."""

    def policy(pattern: str, definition: str) -> None:
        node.control("set_policy", "everything", pattern, definition, "--apply-to", "queues")

    yield policy
    node.control("clear_policy", "everything")


def test_a_full_queue_of_dead_letters_refuses_a_further_one_and_its_source_stays_held(
    open_transport: Callable[..., AmqpTransport], policy: Callable[[str, str], None], envelope: Callable[..., Envelope]
) -> None:
    transport = open_transport()
    transport.setup(["default"])
    policy(f"^{transport._options.prefix}", '{"max-length": 5}')
    sent: list[str] = []

    def set_four_of_five_aside() -> None:
        number = len(sent)
        sent.extend(f"id-{number + each}" for each in range(5))
        transport.send([envelope(number + each, queue="default") for each in range(5)])
        *bad, good = five(transport)
        sent.remove(*ids([good]))
        sent.append("acked")
        transport.settle([(good, Ack()), *((each, DeadLetter(reason="r", error="e")) for each in bad)])

    with pytest.raises(SettleError, match="is full, as with a policy of max-length") as caught:
        repeat(set_four_of_five_aside)

    policy(f"^{transport._options.prefix}", '{"max-length": 1000}')
    unsettled = [each for each in caught.value.unsettled if isinstance(each, Delivery)]
    assert eventually(lambda: dead_lettered(transport, unsettled))
    expected = sorted(each for each in sent if each != "acked")
    found: list[str] = []

    def all_are_dead_letters() -> bool:
        again = receive(transport, "default", limit=100, wait=0.0)  # on a machine that pauses, a delivery may be lost
        entries = transport.dead_letters(["default"], limit=100)
        found[:] = sorted(entry.envelope.id for entry in entries if isinstance(entry.envelope, Envelope))
        return dead_lettered(transport, again) and found == expected

    assert eventually(all_are_dead_letters), (found, expected, transport.stats("default"))
    assert transport.stats("default").ready == 0


def test_a_worker_goes_on_with_other_events_while_the_queue_of_dead_letters_is_full(
    open_transport: Callable[..., AmqpTransport], policy: Callable[[str, str], None]
) -> None:
    done: list[str] = []

    @listener("good.happened")
    def good(event: Event) -> None:
        done.append(event.name)

    @listener("bad.happened")
    def bad(event: Event) -> None:
        raise GiveUp(event.name)

    transport = open_transport()
    app = App(transports={"main": transport}, routes={"*": "main"}, source="shop", listeners=[good, bad])
    app.setup()
    policy(f"^{transport._options.prefix}\\.dead\\.", '{"max-length": 3}')
    app.dispatch_many(Event(f"{name}.happened") for _ in range(10) for name in ("bad", "good"))

    with suppress(SettleError):  # a worker that is not patient ends after some tries
        app.worker(RunOptions(until_empty=True)).run()
    app.close()

    assert len(done) == 10
    policy(f"^{transport._options.prefix}\\.dead\\.", '{"max-length": 1000}')
    other = open_transport()
    next_app = App(transports={"main": other}, routes={"*": "main"}, source="shop", listeners=[good, bad])
    assert eventually(lambda: drained(next_app) and len(other.dead_letters(["default"])) == 10)
    assert len(done) == 10


def test_a_policy_that_can_lose_events_is_named_with_what_it_does(
    node: rabbitmq_node.PrivateNode, open_transport: Callable[..., AmqpTransport], policy: Callable[[str, str], None]
) -> None:
    transport = open_transport()
    transport.setup(["default", "mail"])
    assert transport.problems(["default", "mail"]) == []

    policy(".*", '{"max-length": 100000, "overflow": "drop-head"}')
    node.control("set_operator_policy", "boss", "dead", '{"message-ttl": 86400000}', "--apply-to", "queues")
    try:
        assert eventually(lambda: len(transport.problems(["default", "mail"])) >= 3)
        problems = "\n".join(transport.problems(["default", "mail"]))
    finally:
        node.control("clear_operator_policy", "boss")

    assert 'the policy "everything": max-length = 100000 makes a full queue refuse' in problems
    assert 'the policy "everything": overflow = drop-head overrides the reject-publish' in problems
    assert 'the operator policy "boss": message-ttl = 86400000 deletes dead letters' in problems
    assert transport_queue(transport, Role.DEAD) in problems


def test_a_queue_without_a_route_is_found(
    open_transport: Callable[..., AmqpTransport], caplog: pytest.LogCaptureFixture
) -> None:
    app = App(transports={"main": open_transport()}, routes={"*": "main/old", "a.b": "main/new"}, source="shop")
    app.dispatch(Event("image.created"))
    app.dispatch(Event("a.b"))

    assert eventually(lambda: app.transport().problems(["new"]) == [] and "main/old" in caplog.text)

    assert '"main/old" holds 1 events, and no route leads to it; move them: relevo move --from main/old' in caplog.text
    assert "main/new" not in caplog.text


def test_a_user_without_the_tag_is_told_that_policies_could_not_be_looked_at(
    node: rabbitmq_node.PrivateNode, open_transport: Callable[..., AmqpTransport], caplog: pytest.LogCaptureFixture
) -> None:
    node.control("add_user", "plain", "plain")

    assert not open_transport(url=node.url.replace("guest:guest", "plain:plain")).problems(["default"])

    assert "rabbitmqctl set_user_tags plain management" in caplog.text


# --- helpers -----------------------------------------------------------------------------------------------


def transport_queue(transport: AmqpTransport, role: Role) -> str:
    """Return the server's name for the queue "default"."""
    return transport._topology().queue("default", role)


def handled(transport: AmqpTransport, wanted: int) -> set[str]:
    """Receive and ack until *wanted* events were received, or no more arrive; return their ids."""
    found: set[str] = set()
    while len(found) < wanted and (deliveries := receive(transport, "default", wait=60.0)):
        found.update(ids(deliveries))
        transport.settle([(each, Ack()) for each in deliveries])
    return found


def five(transport: AmqpTransport) -> list[Delivery]:
    """Receive five."""
    deliveries = receive(transport, "default", limit=5)
    while len(deliveries) < 5:
        deliveries += receive(transport, "default", limit=5 - len(deliveries))
    return deliveries


def repeat(action: Callable[[], None]) -> None:
    """Repeat it until it raises, but not for ever."""
    for _ in range(10):
        action()


def dead_lettered(transport: AmqpTransport, deliveries: list[Delivery]) -> bool:
    """Try again to dead-letter *deliveries*, as a worker does; return whether none is left."""
    try:
        transport.settle([(each, DeadLetter(reason="r", error="e")) for each in deliveries])
    except SettleError as error:
        deliveries[:] = [each for each in deliveries if each in error.unsettled]
        return False
    return True


def drained(app: App) -> bool:
    """Let a worker handle all events; return whether it could settle all."""
    try:
        app.worker(RunOptions(until_empty=True)).run()
    except SettleError:
        return False
    return True


def eventually(holds: Callable[[], bool], *, limit: float = 60.0) -> bool:
    """Return whether *holds* becomes true in time."""
    deadline = time.monotonic() + limit
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
