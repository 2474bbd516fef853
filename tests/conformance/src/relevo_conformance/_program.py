"""
Programs of the application's transactions: each nesting of a few savepoints, and random ones.

A program uses two sessions, or one connection: savepoints in and after one another, several transactions of a session,
sends outside, the same event again, relays and delays. The checker derives the expected deliveries.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Literal, get_args

import attrs
from hypothesis import strategies as st

from relevo import Ack, Envelope
from relevo_conformance import history
from relevo_conformance.bench import Bench
from relevo_conformance.worker import RecordedTransaction

LONGEST = 14
"""The largest number of moves in a program."""

_PLACES = 2
"""The number of queues, of relays and of sessions."""

SessionOperation = Literal[
    "send",
    "send outside",
    "savepoint",
    "release",
    "undo",
    "commit",
    "rollback",
    "close",
    "fail",
    "receive",
    "wait",
]
OPERATIONS: tuple[SessionOperation, ...] = get_args(SessionOperation)


@attrs.frozen(kw_only=True)
class Move:
    """One move of a program; a move that is not possible is skipped."""

    operation: SessionOperation
    session: int = 0
    size: int = 1
    place: int = 0
    relay: int | None = None
    ordering_key: str | None = None
    is_delayed: bool = False
    is_again: bool = False
    """Whether it sends the last event again, if `dedupe` is claimed."""


_SEND, _BEGIN, _COMMIT = Move(operation="send"), Move(operation="savepoint"), Move(operation="commit")
_KEEP, _UNDO = Move(operation="release"), Move(operation="undo")


def programs(*operations: SessionOperation) -> st.SearchStrategy[Sequence[Move]]:
    """Return programs of *operations*."""
    which = st.integers(0, _PLACES - 1)
    sends = st.builds(
        Move,
        operation=st.sampled_from([operation for operation in operations if operation.startswith("send")]),
        session=which,
        size=st.integers(1, 2),
        place=which,
        relay=st.none() | which,
        ordering_key=st.sampled_from([None, "k"]),
        is_delayed=st.booleans(),
        is_again=st.booleans(),
    )
    others = st.builds(
        Move,
        operation=st.sampled_from([operation for operation in operations if not operation.startswith("send")]),
        session=which,
    )
    return st.lists(sends | others, max_size=LONGEST)


def nestings(most: int) -> Iterator[Sequence[Move]]:
    """
    Yield a program for each way to begin and end at most *most* savepoints in one transaction, or to leave them open.

    It sends before and after each move, so the events that are delivered show which parts were committed. Then it uses
    the session again.
    """
    send = Move(operation="send")
    again = [send, Move(operation="rollback"), send, Move(operation="commit")]
    for number in range(1, most + 1):
        for inside in _in_any_order(number):
            for way in ("commit", "rollback"):
                yield [
                    send,
                    *itertools.chain.from_iterable((move, send) for move in inside),
                    Move(operation=way),
                    *again,
                ]


def several_in_a_row(number: int) -> Sequence[Move]:
    """Return a program with *number* savepoints that are kept, and then as many of which only the last is kept."""
    kept, undone = (_BEGIN, _SEND, _KEEP), (_BEGIN, _SEND, _UNDO)
    inside = [*[kept] * number, *[undone] * (number - 1), kept]
    return [_SEND, *itertools.chain.from_iterable(inside), _SEND, _COMMIT]


def several_in_one_another(number: int) -> Sequence[Move]:
    """Return a program with *number* savepoints, each in the one before; the last quarter of them is rolled back."""
    ends = [_UNDO] * (number // 4) + [_KEEP] * (number - number // 4)
    inside = [*[_BEGIN] * number, *ends]
    return [_SEND, *itertools.chain.from_iterable((move, _SEND) for move in inside), _COMMIT]


def _in_any_order(number: int, open_: int = 0) -> Iterator[Sequence[Move]]:
    """Yield the moves that begin *number* savepoints, and end some of these and of the *open_* ones, in each way."""
    if not number:
        yield ()
    if number:
        yield from ((Move(operation="savepoint"), *rest) for rest in _in_any_order(number - 1, open_ + 1))
    if open_:
        ends: tuple[SessionOperation, ...] = ("release", "undo")
        yield from ((Move(operation=end), *rest) for end in ends for rest in _in_any_order(number, open_ - 1))


class Player:
    """Runs one program on *bench*, with sessions or a connection as *kind* says."""

    def __init__(self, bench: Bench, kind: history.Kind) -> None:
        self._bench = bench
        self._kind: history.Kind = kind
        self._worker, self._other = bench.worker(), bench.worker()
        self._stack = ExitStack()
        self._sessions: dict[int, _Session] = {}
        self._last: Envelope | None = None
        self._relays = [f"{name}-{bench.token}" for name in ("broker", "other")]
        self._other.setup([bench.outbox(name) for name in self._relays])

    def play(self, program: Sequence[Move]) -> None:
        """Run *program*; what is open at its end is rolled back."""
        with self._stack:
            for move in program:
                self._take(move)

    def _take(self, move: Move) -> None:
        match move.operation:
            case "send":
                self._send(self._session(move.session).current, move)
            case "send outside":
                self._other.send(self._envelopes(move), delay=self._delay(move))
            case "receive":
                queues = (*self._bench.queues, *self._bench.further)
                for one in self._bench.glimpse(self._other, queues=queues):
                    self._other.settle([(one, Ack())])
            case "wait":
                self._bench.advance(self._bench.times.step)
            case _:
                self._session(move.session).take(move.operation)

    def _send(self, transaction: RecordedTransaction, move: Move) -> None:
        relay_to = None if move.relay is None else self._relays[move.relay]
        transaction.send(self._envelopes(move), delay=self._delay(move), relay_to=relay_to)

    def _session(self, number: int) -> _Session:
        number = number if self._kind == "session" else 0  # an open connection may block a second one
        if number not in self._sessions:
            transaction = self._stack.enter_context(self._worker.transaction(self._kind))
            self._sessions[number] = _Session(transaction)
        return self._sessions[number]

    def _envelopes(self, move: Move) -> Sequence[Envelope]:
        if move.is_again and self._last is not None and self._bench.capabilities.dedupe:
            return [self._last]
        key = move.ordering_key if self._bench.capabilities.order == "per key" else None
        envelopes = self._bench.envelopes(move.size, queue=self._bench.queues[move.place], ordering_key=key)
        self._last = envelopes[-1]
        return envelopes

    def _delay(self, move: Move) -> float:
        can = self._bench.capabilities.delay is not None
        return self._bench.times.delay if move.is_delayed and can else 0.0


class _Session:
    """A session or a connection, with its transaction and its open savepoints."""

    def __init__(self, transaction: RecordedTransaction) -> None:
        self.current = transaction
        self._savepoints: list[Callable[[history.Way], None]] = []

    def take(self, operation: SessionOperation) -> None:
        match operation:
            case "savepoint":
                self._savepoints.append(self.current.set_savepoint())
            case "release" | "undo" if self._savepoints:
                self._savepoints.pop()("commit" if operation == "release" else "rollback")
            case "commit":
                self.current.commit()
                self._go_on()
            case "rollback":
                self.current.rollback()
                self._go_on()
            case "close" if self.current.close():
                self._go_on()
            case "fail" if self.current.commit_that_fails():
                self._go_on()
            case _:
                pass

    def _go_on(self) -> None:
        """Begin the next transaction; savepoints that were still open have ended with the last one."""
        self._savepoints.clear()
        self.current = self.current.again()
