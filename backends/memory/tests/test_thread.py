"""Many threads at once: nothing is lost, and nothing is held twice."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random

from relevo import Ack, DeadLetter, Delivery, Envelope, Nack, Outcome, Release
from relevo_memory import MemoryStore, MemoryTransport

Make = Callable[..., Envelope]

SENDERS, WORKERS, EVENTS = 4, 4, 400
OUTCOMES: Sequence[Outcome] = [Ack(), Ack(), Ack(), Nack(delay=0.005), Release(), DeadLetter(reason="no")]


class Ledger:
    """Who holds what, kept beside the transport."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.held: set[str] = set()
        self.keys: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.order: dict[str, list[int]] = {}
        self.wrong: list[str] = []

    def take(self, delivery: Delivery) -> None:
        event = delivery.envelope
        assert isinstance(event, Envelope)
        with self.lock:
            if event.id in self.held:
                self.wrong.append(f"{event.id} is held twice")
            self.held.add(event.id)
            if event.ordering_key:
                self.keys[event.ordering_key] += 1
                if self.keys[event.ordering_key] > 1:
                    self.wrong.append(f"two of {event.ordering_key} are held")

    def give(self, delivery: Delivery, outcome: Outcome) -> None:
        event = delivery.envelope
        assert isinstance(event, Envelope)
        with self.lock:
            self.held.discard(event.id)
            if event.ordering_key:
                self.keys[event.ordering_key] -= 1
            if isinstance(outcome, (Ack, DeadLetter)):
                self.ends[event.id] += 1
                if event.ordering_key:
                    self.order.setdefault(event.ordering_key, []).append(int(event.id.partition("-")[2]))


def test_eight_threads_lose_nothing_and_hold_nothing_twice(envelope: Make) -> None:
    store, ledger = MemoryStore(), Ledger()
    plans = [Random(seed) for seed in range(SENDERS + WORKERS)]  # noqa: S311 - no secrets
    expected = {f"{sender}-{number}" for sender in range(SENDERS) for number in range(EVENTS)}
    deadline = time.monotonic() + 300

    def send(sender: int, plan: Random) -> None:
        with MemoryTransport(store) as transport:
            for number in range(EVENTS):
                key = f"key {sender}" if number % 3 == 0 else None
                one = envelope(f"{sender}-{number}", ordering_key=key, queue=plan.choice("ab") if key is None else "a")
                transport.send([one, one], delay=plan.choice([0, 0, 0.01]))

    def work(plan: Random) -> None:
        with MemoryTransport(store) as transport:
            while len(ledger.ends) < len(expected) and time.monotonic() < deadline:
                settlements: list[tuple[Delivery, Outcome]] = []
                for delivery in transport.receive(["b", "a"], limit=plan.randint(1, 9), lease=60, wait=0.02):
                    ledger.take(delivery)
                    choices: Sequence[Outcome] = [
                        Ack(),
                        Ack(),
                        Ack(),
                        Nack(delay=0.005),
                        Release(),
                        DeadLetter(reason="no"),
                    ]
                    settlements.append((delivery, plan.choice(choices)))
                for settlement in settlements:
                    ledger.give(*settlement)
                if transport.settle(settlements):
                    ledger.wrong.append("a lease of a minute was lost")

    with ThreadPoolExecutor(SENDERS + WORKERS) as pool:
        futures = [pool.submit(send, number, plans[number]) for number in range(SENDERS)]
        futures += [pool.submit(work, plans[SENDERS + number]) for number in range(WORKERS)]
        for future in futures:
            future.result()

    assert ledger.wrong == []
    assert set(ledger.ends) == expected
    assert set(ledger.ends.values()) == {1}
    assert all(numbers == sorted(numbers) for numbers in ledger.order.values())
    assert sum(map(len, ledger.order.values())) == SENDERS * len(range(0, EVENTS, 3))
    with MemoryTransport(store) as transport:
        for queue in "ab":
            stats = transport.stats(queue)
            assert (stats.ready, stats.leased, stats.scheduled) == (0, 0, 0)


def test_of_many_that_settle_one_delivery_exactly_one_succeeds(envelope: Make) -> None:
    transport = MemoryTransport()
    transport.send([envelope(str(number)) for number in range(100)])
    barrier = threading.Barrier(8)

    def settle(delivery: Delivery) -> bool:
        barrier.wait(300)
        return transport.settle([(delivery, Ack())]) == []

    with ThreadPoolExecutor(8) as pool:
        for delivery in transport.receive(["default"], limit=100, lease=60, wait=0):
            assert sum(pool.map(settle, [delivery] * 8)) == 1


def test_of_many_that_receive_each_gets_its_own(envelope: Make) -> None:
    store = MemoryStore()
    MemoryTransport(store).send([envelope(str(number)) for number in range(800)])
    barrier = threading.Barrier(8)

    def receive(_: int) -> list[str]:
        barrier.wait(300)
        got: list[str] = []
        with MemoryTransport(store) as transport:
            while deliveries := transport.receive(["default"], limit=7, lease=60, wait=0):
                got += [one.envelope.id for one in deliveries if isinstance(one.envelope, Envelope)]
        return got

    with ThreadPoolExecutor(8) as pool:
        received = [event_id for ids in pool.map(receive, range(8)) for event_id in ids]

    assert sorted(received, key=int) == [str(number) for number in range(800)]
