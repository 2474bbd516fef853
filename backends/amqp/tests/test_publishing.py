"""The connection that publishes: shared by threads, cut, interrupted, idle, and inherited by a child."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from relevo import Envelope, SendError
from relevo.errors import TransportClosedError, TransportError, TransportUnavailableError
from relevo_amqp import AmqpOptions, AmqpTransport
from relevo_amqp._connection import Connection
from relevo_amqp._loop import CallerLoop, _Waiter
from relevo_amqp._publisher import Publisher
from relevo_amqp._topology import Role
from relevo_conformance.fault.proxy import Proxy

from .conftest import HEARTBEAT_FRAME, PATIENCE, Server, drain, ids, set_confirm_timeout, wait_until

Make = Callable[..., Envelope]
Connect = Callable[..., AmqpTransport]


class Interrupted(BaseException):
    """What the handler of a signal raises, as that of Ctrl-C does."""


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server.url, port=5672)
    yield proxy
    proxy.close()


@pytest.fixture
def distant(connect: Connect, transport: AmqpTransport, proxy: Proxy) -> AmqpTransport:
    """Give a transport behind the proxy, on which the queue is set up."""
    return connect(url=proxy.url)


@contextmanager
def handler(handle: Callable[[], object], number: int = signal.SIGUSR1) -> Iterator[None]:
    """Call *handle* in the main thread when the signal comes."""
    before = signal.signal(number, lambda *_: handle())
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def busy_io_thread(transport: AmqpTransport) -> Iterator[None]:
    """Let the thread of the consuming connection do nothing during the block."""
    go_on = threading.Event()
    assert transport._hub is not None

    def busy() -> None:
        go_on.wait(PATIENCE)

    transport._hub.loop.soon(busy)
    try:
        yield
    finally:
        go_on.set()


def interrupt() -> None:
    raise Interrupted


def loop_of(transport: AmqpTransport) -> CallerLoop:
    assert transport._hub is not None
    return transport._hub.publisher._loop


def connection_of(transport: AmqpTransport) -> Connection:
    assert transport._hub is not None
    connection = transport._hub.publisher._connection
    assert connection is not None
    return connection


def waits_in(thread: threading.Thread, function: Callable[..., object]) -> bool:
    """Return whether *thread* executes *function* itself, as it does when it waits for a lock there."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code is function.__code__


class Sending(threading.Thread):
    """Sends in a thread, and keeps the error."""

    def __init__(self, transport: AmqpTransport, *envelopes: Envelope):
        super().__init__()
        self.error: TransportError | None = None
        self._transport = transport
        self._envelopes = envelopes
        self.start()

    def run(self) -> None:
        try:
            self._transport.send(self._envelopes)
        except TransportError as error:
            self.error = error

    @property
    def leads(self) -> bool:
        """Whether its events are on their way, and it runs the callbacks; it does so briefly before it sends, too."""
        leader, hub = loop_of(self._transport)._leader, self._transport._hub
        return leader is not None and leader.thread == self.ident and hub is not None and bool(hub.publisher._flying)

    def ended(self) -> TransportError | None:
        """Wait for the end, and return the error."""
        self.join(PATIENCE)
        assert not self.is_alive()
        return self.error


def test_many_threads_share_one_connection(
    distant: AmqpTransport, proxy: Proxy, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    threads = [Sending(distant, envelope(number), envelope(100 + number)) for number in range(8)]

    assert [thread.ended() for thread in threads] == [None] * 8

    assert len(proxy._pairs) == 1
    assert len(drain(transport, queue, least=16)) == 16


def test_a_thread_that_waits_writes_what_another_one_could_not(
    distant: AmqpTransport, proxy: Proxy, envelope: Make
) -> None:
    distant.send([envelope(0)])
    set_confirm_timeout(distant, PATIENCE)
    proxy.swallow_requests = proxy.swallow_answers = True
    first = Sending(distant, envelope(1))
    wait_until(lambda: first.leads)
    before = proxy.requested

    second = Sending(distant, *(envelope(number, body=bytes(8_000_000)) for number in (2, 3)))

    wait_until(lambda: proxy.requested > before + 16_000_000)
    proxy.cut()
    assert isinstance(first.ended(), SendError)
    assert isinstance(second.ended(), SendError)


def test_threads_that_wait_for_a_connection_share_its_failure(connect: Connect, envelope: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(0.0)
        lost = connect(url=f"amqp://guest:guest@127.0.0.1:{silent.getsockname()[1]}", connect_timeout=2.0)
        threads = [Sending(lost, envelope(number)) for number in range(4)]
        wait_until(lambda: sum(waits_in(thread, Publisher._open_channel) for thread in threads) == 3)

        errors = [thread.ended() for thread in threads]

        assert {type(error) for error in errors} == {TransportUnavailableError}
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_caller_without_time_leaves_the_connection_to_the_others(
    distant: AmqpTransport, proxy: Proxy, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    distant.send([envelope(0)])
    proxy.delay = 1.0
    patient = Sending(distant, envelope(1))
    wait_until(lambda: patient.leads)

    distant.hurry(0.0)
    with pytest.raises(SendError) as caught:
        distant.send([envelope(2)])

    assert caught.value.unknown == (0,)
    assert patient.ended() is None
    assert connection_of(distant).lost is None
    proxy.delay = 0.0
    assert sorted(ids(drain(transport, queue, least=3))) == ["id-0", "id-1", "id-2"]


# --- an exchange that is deleted --------------------------------------------------------------------------


def test_of_an_exchange_that_was_deleted_only_the_last_event_is_certainly_refused(
    server: Server, distant: AmqpTransport, proxy: Proxy, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    distant.send([envelope(0)])
    proxy.swallow_answers = True
    before = Sending(distant, envelope(1), envelope(2))
    wait_until(lambda: server.ready(server.topology.queue(queue, Role.MAIN)) == 3)
    server.channel().exchange_delete(server.topology.exchange(Role.MAIN))
    proxy.swallow_answers = False

    after = Sending(distant, envelope(3))

    errors = [before.ended(), after.ended()]
    assert [(error.unknown, error.refused) for error in errors if isinstance(error, SendError)] == [
        ((0, 1), ()),
        ((), (0,)),
    ]
    assert sorted(ids(drain(transport, queue, least=3))) == ["id-0", "id-1", "id-2"]


def test_the_first_event_to_an_exchange_goes_alone(distant: AmqpTransport, proxy: Proxy, envelope: Make) -> None:
    with distant._in_use() as hub:
        hub.publisher._open_channel()
    set_confirm_timeout(distant, 0.5)
    proxy.swallow_answers = True

    with pytest.raises(SendError) as caught:
        distant.send([envelope(number) for number in range(3)])

    assert (caught.value.unknown, caught.value.refused) == ((0,), (1, 2))


# --- a caller that is interrupted ---------------------------------------------------------------------------


def test_an_interrupted_caller_hands_the_reading_on(
    distant: AmqpTransport, proxy: Proxy, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    distant.send([envelope(0)])
    proxy.delay = 1.0
    seconds: list[Sending] = []

    def interrupt_when_another_one_waits() -> None:
        wait_until(lambda: loop_of(distant)._leader is not None)
        seconds.append(Sending(distant, envelope(2)))
        wait_until(lambda: bool(loop_of(distant)._waiting))
        os.kill(os.getpid(), signal.SIGUSR1)

    meanwhile = threading.Thread(target=interrupt_when_another_one_waits)
    with handler(interrupt):
        meanwhile.start()
        with pytest.raises(Interrupted):
            distant.send([envelope(1)])
    wait_until(lambda: seconds[0].leads or not seconds[0].is_alive())

    assert seconds[0].ended() is None
    proxy.delay = 0.0
    assert sorted(ids(drain(transport, queue, least=3))) == ["id-0", "id-1", "id-2"]
    assert connection_of(distant).lost is None
    meanwhile.join()


def test_an_interrupt_in_the_middle_of_the_driver_cuts_the_connection(
    distant: AmqpTransport, proxy: Proxy, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    distant.send([envelope(0)])
    proxy.swallow_answers = True
    other = Sending(distant, envelope(1))
    wait_until(lambda: other.leads)

    with pytest.raises(Interrupted):
        loop_of(distant).soon(interrupt)

    error = other.ended()
    assert isinstance(error, SendError)
    assert error.unknown == (0,)
    assert "Interrupted" in error.why
    proxy.swallow_answers = False
    distant.send([envelope(2)])
    wait_until(lambda: len(loop_of(distant)._poller._watches) == 1)  # the old socket is closed
    assert sorted(ids(drain(transport, queue, least=3))) == ["id-0", "id-1", "id-2"]


def test_a_thread_that_ends_as_it_stops_reading_is_replaced(transport: AmqpTransport, envelope: Make) -> None:
    transport.send([envelope(0)])
    loop = loop_of(transport)
    interrupted = threading.Thread(target=lambda: loop._follows(_Waiter(lambda: False)))  # which never leaves
    interrupted.start()
    interrupted.join()

    with busy_io_thread(transport):  # which would help out every second
        transport.send([envelope(1)])

    assert loop._leader is None


def test_what_an_interrupt_kept_from_being_sent_is_given_up_with_the_connection(
    distant: AmqpTransport, proxy: Proxy, envelope: Make
) -> None:
    distant.send([envelope(0)])
    set_confirm_timeout(distant, 10 * PATIENCE)
    proxy.swallow_answers = True
    first = Sending(distant, envelope(1))
    wait_until(lambda: first.leads)
    loop = loop_of(distant)
    others: list[Sending] = []

    def interrupt_what_another_thread_added() -> None:
        others.append(Sending(distant, envelope(2)))
        wait_until(lambda: bool(loop._added))
        loop._added.popleft()
        raise Interrupted

    with pytest.raises(Interrupted):
        loop.run(interrupt_what_another_thread_added)

    assert isinstance(first.ended(), SendError)
    assert isinstance(others[0].ended(), TransportUnavailableError)


def test_what_waited_for_room_is_not_sent_after_its_caller_was_interrupted(
    connect: Connect, proxy: Proxy, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    distant = connect(url=proxy.url, window=2)
    distant.send([envelope(0)])
    proxy.delay = 1.0

    def interrupt_when_the_window_is_full() -> None:
        assert distant._hub is not None
        flying = distant._hub.publisher._flying
        wait_until(lambda: len(flying) == 2)
        os.kill(os.getpid(), signal.SIGUSR1)

    meanwhile = threading.Thread(target=interrupt_when_the_window_is_full)
    with handler(interrupt):
        meanwhile.start()
        with pytest.raises(Interrupted):
            distant.send([envelope(number) for number in range(1, 7)])
    meanwhile.join()
    proxy.delay = 0.0
    distant.send([envelope(9)])

    assert sorted(ids(drain(transport, queue, least=4))) == ["id-0", "id-1", "id-2", "id-9"]


@pytest.mark.slow("connects some hundreds of times")
def test_an_interrupt_at_any_point_of_a_reconnection_leaves_a_transport_that_works(
    server: Server, transport: AmqpTransport, queue: str
) -> None:
    process = started(
        server,
        queue,
        server.url,
        _INTERRUPT
        + """
import socket

def recover(errors):
    for number in range(3):  # the loss of the connection may come first
        try:
            transport.send([envelope("after")])
            return
        except TransportError as error:
            errors.append(repr(error))
    errors.append("it does not work")

transport.send([envelope("before")])
number, whole, wrong = 0, 0, []
while whole < 20:
    publisher = transport._hub.publisher
    publisher._connection._raw._transport._sock.shutdown(socket.SHUT_RDWR)
    interrupt = Interrupt(number)
    sys.settrace(interrupt.trace)
    try:
        transport.send([envelope("interrupted")])
    except (Interrupted, TransportError):
        pass
    finally:
        sys.settrace(None)
    errors = []
    thread = threading.Thread(target=recover, args=[errors], daemon=True)
    thread.start()
    thread.join(20.0)
    if thread.is_alive() or "it does not work" in errors or transport._users:
        wrong.append([number, interrupt.done, errors, len(transport._users)])
        break
    number += 1
    whole = 0 if interrupt.done else whole + 1  # one that fails early has fewer points than the next
print(json.dumps([number, wrong]))
""",
    )

    answer, errors = process.communicate(timeout=5 * PATIENCE)

    assert process.returncode == 0, errors
    number, wrong = json.loads(answer)
    assert wrong == []
    assert number > 150


@pytest.mark.slow("connects a hundred times")
def test_an_interrupt_at_any_point_of_a_receive_lets_other_threads_receive(
    server: Server, transport: AmqpTransport, queue: str
) -> None:
    process = started(
        server,
        queue,
        server.url,
        _INTERRUPT
        + """
from relevo import Ack

def receive(number, wait):
    found = transport.receive([sys.argv[3]], limit=number, lease=60.0, wait=wait)
    transport.settle([(each, Ack()) for each in found])
    return len(found)

def recover(after):
    try:
        transport.send([envelope("after")])
        after.append(receive(1, 10.0))
        transport.close()
    except Exception as error:
        after.append(repr(error))

number, whole, wrong = 0, 0, []
while whole < 3:
    transport = AmqpTransport(AmqpOptions(url=sys.argv[1], prefix=sys.argv[2], levels=6, settle_in=0.0))
    transport.send([envelope("before"), envelope("interrupted")])
    receive(1, 10.0)
    interrupt = Interrupt(number, more="threading.py")
    sys.settrace(interrupt.trace)
    try:
        receive(1, 0.0)
    except (Interrupted, TransportError, RuntimeError):  # the last is of a condition that did not take its lock again
        pass
    finally:
        sys.settrace(None)
    after = []
    thread = threading.Thread(target=recover, args=[after], daemon=True)
    thread.start()
    thread.join(20.0)
    if after != [1] or thread.is_alive():
        wrong.append([number, interrupt.done, after])
        break
    number += 5
    whole = 0 if interrupt.done else whole + 1
print(json.dumps([number, wrong]), flush=True)
os._exit(0)  # a thread that waits for ever is no daemon of ours
""",
    )

    answer, errors = process.communicate(timeout=5 * PATIENCE)

    assert process.returncode == 0, errors
    number, wrong = json.loads(answer)
    assert wrong == []
    assert number > 100


def test_an_attempt_to_connect_that_is_cut_leaves_no_socket_open(envelope: Make) -> None:
    def send(transport: AmqpTransport) -> None:
        with suppress(SendError, TransportError):
            transport.send([envelope(1)])

    with socket.socket() as taken, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        taken.bind(("127.0.0.1", 0))  # and does not listen
        for number in range(40):
            transport = AmqpTransport(AmqpOptions(url=f"amqp://127.0.0.1:{taken.getsockname()[1]}/", settle_in=0.0))
            thread = threading.Thread(target=send, args=[transport])
            thread.start()
            time.sleep(number / 10_000)
            transport._abort()
            thread.join()
        gc.collect()

    assert [str(each.message) for each in caught if each.category is ResourceWarning] == []


@pytest.mark.slow("connects some hundreds of times")
@pytest.mark.parametrize("within", ["Subscription.consume", "Subscription.get"])
def test_the_next_receive_brings_events_after_an_interrupt_of_a_question_to_the_server(
    server: Server, transport: AmqpTransport, queue: str, within: str
) -> None:
    process = started(
        server,
        queue,
        server.url,
        _INTERRUPT
        + f"within = {within!r}\n"
        + """
import time
from relevo import Ack

def opened():
    return AmqpTransport(AmqpOptions(url=sys.argv[1], prefix=sys.argv[2], levels=6, settle_in=0.0))

def received(transport, wait):
    found = transport.receive([sys.argv[3]], limit=1, lease=60.0, wait=wait)
    transport.settle([(each, Ack()) for each in found])
    return len(found)

number, whole, wrong = 0, 0, []
while whole < 3 and not wrong:
    killed = opened()
    killed.send([envelope("suspect")])
    killed.receive([sys.argv[3]], limit=1, lease=60.0, wait=10.0)
    killed._abort()
    transport = opened()
    with opened() as idle:
        while not idle.stats(sys.argv[3]).ready:  # the server notices a moment later that the connection is lost
            time.sleep(0.01)
    transport.send([envelope(str(each)) for each in range(4)])
    interrupt = Interrupt(number, within=within)
    sys.settrace(interrupt.trace)
    try:
        for _ in range(3):
            received(transport, 1.0)
    except Interrupted:
        pass
    finally:
        sys.settrace(None)
    try:
        if received(transport, 4.0) != 1:
            wrong = [number, interrupt.done, "nothing came"]
        transport.close()
        with opened() as last:  # what the interrupt left behind is free again
            while received(last, 0.2):
                pass
    except Exception as error:
        wrong = [number, interrupt.done, repr(error)]
    if interrupt.done:
        number, whole = number + 3, 0
    elif interrupt.seen:
        whole += 1
print(json.dumps([number, wrong]), flush=True)
""",
    )

    answer, errors = process.communicate(timeout=5 * PATIENCE)

    assert process.returncode == 0, errors
    number, wrong = json.loads(answer)
    assert (wrong, number > 10) == ([], True)


def test_a_handler_of_a_signal_sends_while_the_same_thread_waits(
    distant: AmqpTransport, proxy: Proxy, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    distant.send([envelope(0)])
    proxy.delay = 0.3

    def signal_when_it_waits() -> None:
        wait_until(lambda: loop_of(distant)._leader is not None)
        os.kill(os.getpid(), signal.SIGUSR1)

    meanwhile = threading.Thread(target=signal_when_it_waits)
    with handler(lambda: distant.send([envelope(2)])), busy_io_thread(distant):  # which would help out after a second
        meanwhile.start()
        distant.send([envelope(1)])

    meanwhile.join()
    assert sorted(ids(drain(transport, queue, least=3))) == ["id-0", "id-1", "id-2"]


def test_a_handler_of_a_signal_sends_while_the_same_thread_uses_the_driver(
    transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(0)])

    loop_of(transport).soon(lambda: transport.send([envelope(1)]))

    transport.send([envelope(2)])
    assert sorted(ids(drain(transport, queue, least=3))) == ["id-0", "id-1", "id-2"]


def test_a_handler_of_a_signal_closes_the_transport_while_the_same_thread_uses_the_driver(
    connect: Connect, transport: AmqpTransport, envelope: Make
) -> None:
    closing = connect(confirm_timeout=1.0)
    closing.send([envelope(0)])
    loop = loop_of(closing)

    loop.soon(closing.close)

    assert not loop.connected
    with pytest.raises(TransportClosedError):
        closing.send([envelope(1)])


# --- heartbeats ---------------------------------------------------------------------------------------------


@pytest.mark.slow("waits for several heartbeats")
def test_an_idle_connection_is_kept(
    connect: Connect, transport: AmqpTransport, proxy: Proxy, queue: str, envelope: Make
) -> None:
    idle = connect(url=proxy.url, heartbeat=1)
    idle.send([envelope(1)])
    connection, before = connection_of(idle), proxy.requested

    wait_until(lambda: proxy.requested >= before + 10 * HEARTBEAT_FRAME)  # the server would have waited for three
    idle.send([envelope(2)])

    assert connection_of(idle) is connection


@pytest.mark.slow("waits until the heartbeats are missed")
def test_a_connection_that_is_half_open_while_idle_is_found_and_replaced(
    connect: Connect, transport: AmqpTransport, proxy: Proxy, queue: str, envelope: Make
) -> None:
    idle = connect(url=proxy.url, heartbeat=1)
    idle.send([envelope(1)])
    connection = connection_of(idle)
    proxy.swallow_answers = True

    wait_until(lambda: connection.lost is not None)
    proxy.swallow_answers = False
    assert "heartbeats" in str(connection.lost)
    idle.send([envelope(2)])

    assert sorted(ids(drain(transport, queue, least=2))) == ["id-1", "id-2"]


# --- the end of a process, of a transport, and forks --------------------------------------------------------


def test_a_transport_that_is_closed_while_a_thread_sends_leaves_the_outcome_unknown(
    connect: Connect, transport: AmqpTransport, proxy: Proxy, envelope: Make
) -> None:
    closing = connect(url=proxy.url, confirm_timeout=1.0)
    closing.send([envelope(0)])
    proxy.swallow_answers = True
    sending = Sending(closing, envelope(1))
    wait_until(lambda: sending.leads)

    closing.close()

    error = sending.ended()
    assert isinstance(error, SendError)
    assert error.unknown == (0,)


_INTERRUPT = """
import dis, functools, json
from relevo.errors import TransportError

class Interrupted(BaseException):
    pass

@functools.cache
def entries(code):
    return dis.Bytecode(code).exception_entries

def clause(code, place):
    return [each.target for each in entries(code) if each.start <= place < each.end]

class Interrupt:
    # Interrupts where a handler of a signal can run, at the point of this number in relevo's code, and in *more*;
    # only below the function *within*, if it is given.
    def __init__(self, number, more="-", within=""):
        self.more = more
        self.within = within
        self.left = number
        self.seen = False
        self.done = ""
        self.before = {}

    def inside(self, frame):
        while self.within and frame is not None:
            if frame.f_code.co_qualname == self.within:
                return True
            frame = frame.f_back
        return not self.within

    def trace(self, frame, event, _):
        code = frame.f_code
        if event == "call":
            if "relevo_amqp" not in code.co_filename and not code.co_filename.endswith(self.more):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            self.before[frame] = "RESUME", 0
        elif event == "return":
            self.before.pop(frame, None)
        elif event == "opcode":
            at = frame.f_lasti
            (before, place), self.before[frame] = self.before[frame], (dis.opname[code.co_code[at]], at)
            if (
                not self.done
                and before.startswith(("CALL", "RESUME", "JUMP_BACKWARD"))
                and clause(code, place) == clause(code, at)  # the interrupt is raised by the one before
                and self.inside(frame)
            ):
                self.seen = True
                self.left -= 1
                if self.left < 0:
                    self.done = f"{code.co_qualname}, line {frame.f_lineno}"
                    raise Interrupted
        return self.trace
"""

_SCRIPT = """
import os, sys, threading
from relevo import Envelope
from relevo_amqp import AmqpOptions, AmqpTransport

def envelope(name):
    return Envelope(id=name, source="shop", name="image.created", queue=sys.argv[3], body=b"{}")

transport = AmqpTransport(AmqpOptions(url=sys.argv[1], prefix=sys.argv[2], levels=6, settle_in=0.0))
"""


def started(server: Server, queue: str, url: str, script: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _SCRIPT + script, url, server.prefix, queue],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_interrupts_at_any_time_lose_nothing_that_was_sent(
    server: Server, transport: AmqpTransport, queue: str
) -> None:
    process = started(
        server,
        queue,
        server.url,
        """
import json, signal
from relevo import SendError

class Interrupted(BaseException):
    pass

def interrupt(*_):
    raise Interrupted

signal.signal(signal.SIGALRM, interrupt)
sent, interrupted, wrong = [], 0, []
for number in range(6000):
    if number >= 300 and interrupted > 20:
        break
    transport.send([envelope(f"calm-{number}")])
    sent.append(f"calm-{number}")
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0001 + 0.00005 * (number % 60))
            transport.send([envelope(f"hasty-{number}")])
            sent.append(f"hasty-{number}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
    except Interrupted:
        interrupted += 1
    except SendError as error:
        if error.sent or error.refused:
            wrong.append(str(error))
transport.close()
print(json.dumps([sent, interrupted, wrong]))
""",
    )

    answer, errors = process.communicate(timeout=2 * PATIENCE)

    assert process.returncode == 0, errors
    sent, interrupted, wrong = json.loads(answer)
    assert interrupted > 20
    assert wrong == []
    assert set(sent) <= set(ids(drain(transport, queue, wait=0.5, least=len(sent))))


def test_a_child_has_a_connection_of_its_own_though_it_was_forked_in_the_middle_of_a_send(
    server: Server, transport: AmqpTransport, queue: str
) -> None:
    process = started(
        server,
        queue,
        server.url,
        """
def many():
    for number in range(200):
        transport.send([envelope(f"thread-{number}")])

transport.send([envelope("before")])
thread = threading.Thread(target=many)
thread.start()
children = []
for number in range(10):
    child = os.fork()
    if not child:
        transport.send([envelope(f"child-{number}")])
        os._exit(0)
    children.append(child)
    transport.send([envelope(f"parent-{number}")])
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 10
thread.join()
transport.close()
""",
    )

    _, errors = process.communicate(timeout=PATIENCE)

    assert (process.returncode, errors) == (0, "")
    wanted = {"before", *(f"{who}-{number}" for who in ("child", "parent") for number in range(10))}
    wanted |= {f"thread-{number}" for number in range(200)}
    found = ids(drain(transport, queue, wait=0.5, least=len(wanted)))
    assert sorted(found) == sorted(wanted)


def test_what_a_process_sent_and_did_not_see_confirmed_before_it_was_killed_is_there_once(
    server: Server, transport: AmqpTransport, proxy: Proxy, queue: str
) -> None:
    process = started(
        server,
        queue,
        proxy.url,
        """
transport.send([envelope("before")])
print("ready", flush=True)
sys.stdin.readline()
transport.send([envelope("after")])
""",
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "ready\n"
        proxy.swallow_answers = True
        process.stdin.write("go on\n")
        process.stdin.flush()
        wait_until(lambda: server.ready(server.topology.queue(queue, Role.MAIN)) == 2)
        process.kill()

    assert process.returncode == -signal.SIGKILL
    assert sorted(ids(drain(transport, queue, wait=0.5, least=2))) == ["after", "before"]
