"""What a relay does between any two queues: it may change envelopes, and need not lose patience."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from relevo import Ack, DeadLetter, Delivery, Envelope, Nack, Outcome
from relevo._worker.relay import RelayExecutor
from relevo._worker.signing import UnknownKeyError
from relevo.errors import DecodeError, SendError, UnsupportedError
from relevo.testing import FakeClock

Make = Callable[..., Delivery]


def outcomes(executor: RelayExecutor, *deliveries: Delivery) -> list[object]:
    for delivery in deliveries:
        executor.submit(delivery)
    ended = {id(delivery): outcome for delivery, outcome in executor.take_finished(0.0)}
    return [ended[id(delivery)] for delivery in deliveries]


def test_what_is_sent_is_what_the_envelope_was_changed_to(transport: Any, clock: FakeClock, delivery: Make) -> None:
    executor = RelayExecutor(transport, clock=clock, change=lambda one, _: attrs.evolve(one, queue="feed"))

    ended = outcomes(executor, delivery(event_id="1"), delivery(event_id="2"))

    assert ended == [Ack(), Ack()]
    assert (transport.stats("feed").ready, transport.stats("default").ready) == (2, 0)


@pytest.mark.parametrize(
    "error, patience, expected",
    [
        (DecodeError("it is not signed"), 60.0, DeadLetter(reason="forged", error="it is not signed")),
        (DecodeError("it is not signed"), None, DeadLetter(reason="forged", error="it is not signed")),
        (UnknownKeyError("whose?"), 60.0, Nack(delay=1.0, state=b"s1awaiting%032.3f" % 1e9)),
        (UnknownKeyError("whose?"), None, Nack(delay=1.0)),
    ],
)
def test_a_forged_event_is_not_sent_and_one_of_an_unknown_key_waits(
    error: DecodeError, patience: float | None, expected: Outcome, transport: Any, delivery: Make
) -> None:
    def change(envelope: Envelope, queue: str) -> Envelope:
        assert queue == "default"
        if envelope.id == "1":
            raise error
        return envelope

    executor = RelayExecutor(transport, clock=FakeClock(1e9), patience=patience, change=change)

    ended = outcomes(executor, delivery(event_id="1"), delivery(event_id="2"))

    assert ended == [expected, Ack()]
    assert transport.said("send") == [["2"]]


def test_without_an_end_of_patience_what_is_refused_stays_and_nothing_is_noted(
    transport: Any, clock: FakeClock, delivery: Make
) -> None:
    executor = RelayExecutor(transport, clock=clock, patience=None)
    transport.fail("send", SendError("broker", refused=[0], sent=[1], why="too large"))

    ended = outcomes(executor, delivery(event_id="1", attempt=3, state=b"{}"), delivery(event_id="2"))

    assert ended == [Nack(delay=4.0, state=None), Ack()]


def test_of_a_batch_only_what_asks_for_too_much_stays(transport: Any, clock: FakeClock, delivery: Make) -> None:
    executor = RelayExecutor(transport, clock=clock, patience=None)
    transport.fail("send", UnsupportedError("broker", "order"), times=2)

    ended = outcomes(executor, delivery(event_id="1"), delivery(event_id="2"))

    assert ended == [Nack(delay=1.0), Ack()]
    assert transport.said("send") == [["1", "2"], ["1"], ["2"]]
