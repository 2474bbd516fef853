"""Several relays at once, a target that fails, relays that die: no event is lost, and none overtakes one of its key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import pytest
from hypothesis import given, strategies as st

from relevo import Envelope, Settlement
from relevo._transport.route import outbox_queue
from relevo._worker.relay import RelayExecutor
from relevo.errors import SendError, TransportUnavailableError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport
from relevo_memory._store import Posting

OUTBOX = outbox_queue("main")
LEASE = 60.0
EVENTS = 12
KEYS = ("a", "b", None)
"""Event 0 has the first key, event 1 the second, and so on."""

Fate = Literal["sent", "refused", "unknown and stored", "unknown and lost"]
FATES: tuple[Fate, ...] = ("sent", "refused", "unknown and stored", "unknown and lost")
Step = Literal["claim", "send", "settle", "die", "wait", "outage"]
STEPS: tuple[Step, ...] = ("claim", "send", "settle", "die", "wait", "outage")


class _Target(MemoryTransport):
    """Writes down what arrives; the events of a batch have the next fates, and all of them are sent after the last."""

    def __init__(self, clock: FakeClock, fates: Sequence[Fate]) -> None:
        super().__init__(name="main", clock=clock)
        self.fates = list(fates)
        self.is_down = False
        self.arrived: list[int] = []

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        if self.is_down:
            raise TransportUnavailableError(self.name, "down")
        fates = [self.fates.pop() if self.fates else "sent" for _ in envelopes]
        positions: Mapping[str, list[int]] = {fate: [] for fate in FATES}
        for position, (envelope, fate) in enumerate(zip(envelopes, fates, strict=True)):
            positions[fate].append(position)
            if fate in ("sent", "unknown and stored"):
                self.arrived.append(int(envelope.id))
        if len(positions["sent"]) < len(envelopes):
            unknown = sorted(positions["unknown and stored"] + positions["unknown and lost"])
            raise SendError("main", sent=positions["sent"], refused=positions["refused"], unknown=unknown, why="drawn")


class _Relay:
    """One relay, step by step."""

    def __init__(self, outbox: MemoryTransport, target: _Target, clock: FakeClock) -> None:
        self._outbox = outbox
        self._executor = RelayExecutor(target, clock=clock, patience=1e6)
        self._settlements: Sequence[Settlement] = ()

    def claim(self) -> None:
        for delivery in self._outbox.receive([OUTBOX], limit=5, lease=LEASE, wait=0.0):
            self._executor.submit(delivery)

    def send(self) -> None:
        self._settlements = [*self._settlements, *self._executor.take_finished(0.0)]

    def settle(self) -> None:
        settlements, self._settlements = self._settlements, ()
        self._outbox.settle(settlements)

    def die(self) -> None:
        """Forget everything, as a new process does; the leases of the old one go on."""
        self._executor.stop()
        self._settlements = ()


steps = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 1)), max_size=40)


@given(steps=steps, fates=st.lists(st.sampled_from(FATES), max_size=20))
def test_no_event_is_lost_and_none_overtakes_an_earlier_one_of_its_key(
    steps: Sequence[tuple[Step, int]], fates: Sequence[Fate]
) -> None:
    clock = FakeClock()
    with MemoryTransport(name="outbox", clock=clock) as outbox, _Target(clock, fates) as target:
        _fill(outbox, clock)
        relays = [_Relay(outbox, target, clock) for _ in range(2)]

        for step, which in steps:
            if step == "wait":
                clock.advance(LEASE + 1.0)
            elif step == "outage":
                target.is_down = not target.is_down
            else:
                getattr(relays[which], step)()
        target.is_down = False
        _move_the_rest(relays, outbox, clock)

        assert set(target.arrived) == set(range(EVENTS))
        firsts = list(dict.fromkeys(target.arrived))
        for key in range(2):
            of_key = [number for number in firsts if number % len(KEYS) == key]
            assert of_key == sorted(of_key)


def _fill(outbox: MemoryTransport, clock: FakeClock) -> None:
    envelopes = [
        Envelope(id=str(each), source="shop", name="image.created", body=b"{}", ordering_key=KEYS[each % len(KEYS)])
        for each in range(EVENTS)
    ]
    outbox.store.add([Posting(queue=OUTBOX, envelope=each, due=clock.now()) for each in envelopes], clock.now())


def _move_the_rest(relays: Sequence[_Relay], outbox: MemoryTransport, clock: FakeClock) -> None:
    for _ in range(200):
        for relay in relays:
            relay.claim()
            relay.send()
            relay.settle()
        stats = outbox.stats(OUTBOX)
        if not (stats.ready or stats.leased or stats.scheduled):
            return
        clock.advance(LEASE + 1.0)
    pytest.fail(f"the outbox is not empty: {outbox.stats(OUTBOX)}")
