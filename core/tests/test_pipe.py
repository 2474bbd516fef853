"""What a worker and its child processes say to each other comes whole, or not at all."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import attrs
import pytest
from hypothesis import given, strategies as st

from relevo import Ack, DeadLetter, Delivery, Envelope, Failure, Lost, Nack, Outcome, Release, Unreadable, wire
from relevo._execution.cell import Cell, Running
from relevo._execution.pipe import (
    Answer,
    Ended,
    GarbledError,
    Message,
    Pipe,
    Progressed,
    Work,
    delivery_of,
    ended_of,
    outcome_of,
    work_of,
)

Make = Callable[..., Delivery]
Pair = tuple[Pipe, socket.socket]


@pytest.fixture(name="pair")
def _pair() -> Iterator[Pair]:
    here, there = socket.socketpair()
    with here, there:
        here.settimeout(30)
        yield Pipe(here), there


FAILURES = st.builds(
    Failure,
    listener=st.text(),
    attempt=st.integers(0, 99),
    kind=st.text(),
    error=st.text(),
    traceback=st.text(),
    reason=st.text(),
    due=st.none() | st.floats(0, 1e9),
    output=st.text(),
)
OUTCOMES = st.one_of(
    st.just(Ack()),
    st.builds(Release, delay=st.floats(0, 1e6)),
    st.builds(Nack, delay=st.floats(0, 1e6), state=st.none() | st.binary()),
    st.builds(
        DeadLetter,
        reason=st.text(),
        error=st.text(),
        state=st.none() | st.binary(),
        failures=st.lists(FAILURES, max_size=3).map(tuple),
    ),
    st.builds(Lost, state=st.none() | st.binary(), error=st.text(), death=st.none() | st.text()),
)


@given(OUTCOMES)
def test_an_outcome_comes_back_as_it_was(outcome: Outcome) -> None:
    assert outcome_of(ended_of(outcome, 7)) == outcome


def test_a_delivery_comes_as_it_was_but_for_its_receipt(delivery: Make) -> None:
    one = delivery(
        attempt=3, lost_leases=1, state=b"\0state", headers={"a": "b"}, urgency="high", ordering_key="k", expires=9.5
    )
    assert isinstance(one.envelope, Envelope)

    other = delivery_of(work_of(one, one.envelope, 1))

    assert other.envelope == one.envelope
    assert other.receipt == b""
    for each in ("queue", "attempt", "lost_leases", "state", "enqueued_at"):
        assert getattr(other, each) == getattr(one, each)


def test_work_whose_envelope_cannot_be_unpacked_is_a_delivery_of_unreadable_bytes(delivery: Make) -> None:
    one = delivery()
    assert isinstance(one.envelope, Envelope)
    work = work_of(one, one.envelope, 1)
    work.envelope = b"\xff"

    other = delivery_of(work)

    assert isinstance(other.envelope, Unreadable)
    assert other.envelope.raw == b"\xff"


def test_no_field_of_an_envelope_or_a_delivery_is_forgotten() -> None:
    assert {field.name for field in attrs.fields(Envelope)} <= set(wire._Packed.__struct_fields__)
    of_the_parent = {"receipt", "begun", "deaths"}
    assert {field.name for field in attrs.fields(Delivery)} - of_the_parent <= set(Work.__struct_fields__)


@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_a_message_is_whole_however_it_is_cut(pair: Pair, size: int) -> None:
    pipe, there = pair
    sent: list[Message] = [Progressed(b"x" * size), Ended(1, "ack"), Answer(is_held=True)]
    other, cut = socket.socketpair()
    with other, cut:
        writer = Pipe(other)
        data = b""
        for message in sent:
            writer.send(message)
        cut.settimeout(0.2)
        try:
            while True:
                data += cut.recv(1 << 20)
        except TimeoutError:
            pass
    heard: list[Message] = []

    for start in range(0, len(data), 30_000 if size > 1 else 1):
        there.sendall(data[start : start + (30_000 if size > 1 else 1)])
        assert pipe.feed()
        while pipe.come():
            heard.append(pipe.come().popleft())

    while len(heard) < len(sent):
        further = pipe.receive()
        assert further is not None
        heard.append(further)
    assert heard == sent


@pytest.mark.parametrize(
    "garbage",
    [b"\0\0\0\1\xc1", b"\xff\xff\xff\xff", b"\0\0\0\5hello", b"\0\0\0\2\x91\xa1"],
    ids=["no type", "too long", "text", "cut"],
)
def test_what_is_no_message_is_told(pair: Pair, garbage: bytes) -> None:
    pipe, there = pair
    there.sendall(garbage)

    with pytest.raises(GarbledError):
        pipe.feed()


def test_an_outcome_that_nobody_knows_is_told() -> None:
    with pytest.raises(GarbledError):
        outcome_of(Ended(1, "perhaps"))


def test_the_end_of_the_other_side_is_heard_after_what_it_said(pair: Pair) -> None:
    pipe, there = pair
    Pipe(there).send(Answer(is_held=False))
    there.close()

    assert pipe.receive() == Answer(is_held=False)
    assert pipe.receive() is None


# --- the cell -----------------------------------------------------------------------------------------------


@pytest.fixture(name="cell")
def _cell() -> Iterator[Cell]:
    cell = Cell.create()
    yield cell
    cell.close()


@pytest.mark.parametrize("listener_id", ["a", "shop:create_thumbnails", "ü" * 255, "\ud800"])
def test_what_runs_is_seen_from_the_other_side(cell: Cell, listener_id: str) -> None:
    other = Cell(cell.fd)

    cell.begin("another", 5.0)
    cell.end()
    cell.begin(listener_id, 1.5)

    running = other.running()
    assert running is not None
    assert (running.listener_id, running.limit) == (listener_id.encode("utf-8", "replace").decode(), 1.5)
    cell.end()
    assert other.running() is None


def test_the_same_listener_with_another_limit_is_seen_with_that(cell: Cell) -> None:
    cell.begin("a", 5.0)
    cell.end()
    cell.begin("a", 6.0)

    assert attrs.astuple(cell.running() or Running("", 0.0, 0.0))[:2] == ("a", 6.0)


def test_which_work_was_begun_last_is_seen(cell: Cell) -> None:
    other = Cell(cell.fd)
    assert other.work == 0

    cell.take(41)

    assert other.work == 41
