"""
Kill the process at each point of a delivery, in turn, and see which effects happen twice.

Each run of the delivery ends at the first point that ended no run before, until one comes to its end. So the runs
follow each other as they do for an event whose worker is killed again and again: with what was noted and committed, and
with nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from inspect import unwrap
from typing import Any, Final

import attrs

from relevo._event.codec import decoded
from relevo._listener.journal import Interruption
from relevo._listener.listener import Listener
from relevo._transport.delivery import Delivery, Outcome
from relevo._transport.envelope import Envelope
from relevo.errors import DecodeError, shown
from relevo.testing._database import Commit, WatchedDatabases
from relevo.testing._effect import RepeatedEffect, Rows, changes
from relevo.testing._place import place

Handle = Callable[[Delivery], Outcome]

MOST_POINTS: Final = 100
"""The largest number of points of one delivery."""

_ACK: Final = "before its ack"
_RETURNED: Final = "after it had returned"


class Killed(Interruption):
    """Raised in a listener where the process is killed; like a stop it passes ``except Exception``."""


@attrs.frozen
class _Point:
    """Where the process is killed; in another run it is the same point if all of this is equal."""

    listener: str
    where: str
    """In words: ``after step "resize"``."""

    number: int = 1
    """Which of equal ones in its run."""


@attrs.define(eq=False, repr=False)
class _CrashedRun:
    """One run of a delivery."""

    passed: Counter[_Point] = attrs.field(factory=Counter)
    effects: Counter[str] = attrs.field(factory=Counter)
    is_dead: bool = False
    listener: str = ""
    """The id of the listener that was called last."""


@attrs.define(eq=False, repr=False)
class _History:
    """The runs of one delivery."""

    used: set[_Point] = attrs.field(factory=set)
    """The points at which a run ended."""

    last: _Point | None = None
    """The one at which the last run ended."""

    content: str = ""
    """What was committed there: in the next run the same line may commit something else."""

    rows: Rows = attrs.field(factory=dict)
    """What the tables held there."""

    effects: set[tuple[str, int]] = attrs.field(factory=set)
    """The effects of earlier runs, each with its number among equal ones of a run."""

    run: _CrashedRun = attrs.field(factory=_CrashedRun)


class Crashes:
    """
    Ends deliveries at their points, one point after the other.

    Args:
        repeatable: The names of tables, columns (``table.column``), events and effects that may happen twice.
    """

    def __init__(self, repeatable: Collection[str] = ()):
        self._repeatable = frozenset(repeatable)
        self._databases = WatchedDatabases(self.refuse_if_dead, self._committed, self._repeatable)
        self.too_many = ""
        """That a delivery has too many points, in words; empty if none has."""
        self._found: dict[tuple[str, str], RepeatedEffect] = {}
        self._history: _History | None = None
        self._listener: Listener | None = None
        self._states: dict[Any, bytes] = {}
        self._sent: set[str] = set()
        self._names: set[str] = set()

    @property
    def unmatched(self) -> Sequence[str]:
        """The names of *repeatable* that no table, event or effect had so far."""
        known = {*self._names, *(name for _, name in self._databases.sites)}
        return sorted(each for each in self._repeatable if not {each, each.rpartition(".")[0]} & known)

    @property
    def found(self) -> list[RepeatedEffect]:
        """The effects that happened twice, in order."""
        return list(self._found.values())

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what is committed while the block runs."""
        with self._databases.watching():
            yield

    # --- the runs of a delivery ------------------------------------------------------------------------

    def handle(self, delivery: Delivery, handle: Handle) -> Outcome:
        """
        Handle *delivery* again and again, until no point is left; return the last outcome.

        It is not given to the transport in between, so no other event comes between two runs.
        """
        self._history = history = _History()
        try:
            while True:
                outcome = handle(delivery)
                with suppress(Killed):
                    self._reach("", _ACK)
                    return outcome
                self._databases.abandon()
                delivery = self._next(delivery)
                history.effects |= {(key, n) for key, count in history.run.effects.items() for n in range(count)}
                history.run = _CrashedRun()
        finally:
            self._history = self._listener = None

    def _next(self, delivery: Delivery) -> Delivery:
        """Return *delivery* as it is handed out after the crash."""
        return attrs.evolve(
            delivery,
            attempt=delivery.attempt + 1,
            lost_leases=delivery.lost_leases + 1,
            state=self._states.get(delivery.receipt, delivery.state),
        )

    def note_state(self, delivery: Delivery, state: bytes) -> None:
        """Note that *state* was stored with *delivery*."""
        if not self._is_dead:
            self._states[delivery.receipt] = state

    # --- what happens in a run -------------------------------------------------------------------------

    @contextmanager
    def calling(self, listener: Listener) -> Iterator[None]:
        """
        Call *listener* in the block; afterwards end the run if it was killed, even if the listener caught that.

        Raises:
            Killed: The process was killed, now or in a listener before.
        """
        self.refuse_if_dead()
        self._listener = listener
        if self._history is not None:
            self._history.run.listener = listener.id
        try:
            yield
            self._reach(listener.id, _RETURNED)
        except BaseException as error:
            if self._is_dead:
                raise Killed from None
            if (killed := self._killed_before) is not None:
                error.add_note(f"relevo: raised in the run after the process was killed {killed}")
            raise
        finally:
            self._listener = None

    @property
    def _is_dead(self) -> bool:
        return self._history is not None and self._history.run.is_dead

    @property
    def _killed_before(self) -> str | None:
        last = None if self._history is None else self._history.last
        return None if last is None else last.where

    def refuse_if_dead(self) -> None:
        """
        Raise if the process was killed: nothing more is committed or sent.

        Raises:
            Killed: It was.
        """
        if self._is_dead:
            raise Killed

    def pass_point(self, what: str) -> None:
        """Note that the running listener has passed *what*: a step, a row, or an event that it dispatched."""
        if self._listener is not None:
            at = f" at {where}" if (where := place()) else ""
            self._reach(self._listener.id, f"after {what}{at}")

    def _committed(self, commit: Commit) -> None:
        if self._listener is not None and commit.is_of_application:
            self._reach(self._listener.id, f"after the commit at {commit.where}", commit.content)

    def _reach(self, listener: str, where: str, content: str = "") -> None:
        """
        Compare the tables if the last run ended here; end this run here if no run did.

        Raises:
            Killed: The run ends.
        """
        self.refuse_if_dead()
        history = self._history
        if history is None:
            return
        first = _Point(listener, where)
        history.run.passed[first] += 1
        point = attrs.evolve(first, number=history.run.passed[first])
        if point == history.last and content == history.content:
            self._compare(history)
        if point in history.used:
            return
        if len(history.used) >= MOST_POINTS:
            self.too_many = self.too_many or (
                f't.drain(crash="everywhere"): a delivery has more than {MOST_POINTS} points at which its process can '
                f"be killed, the last one {where}; test it with fewer rows"
            )
            return
        history.used.add(point)
        history.last, history.content, history.rows = point, content, self._databases.rows()
        history.run.is_dead = True
        raise Killed

    # --- what happened twice ---------------------------------------------------------------------------

    def _compare(self, history: _History) -> None:
        for table, text in changes(history.rows, self._databases.rows()).items():
            if table[1] not in self._repeatable:
                self._add(history.run.listener, text, self._databases.sites.get(table, ""), _OF_ROWS)

    def record(self, name: str, values: tuple[Any, ...]) -> None:
        """Note an effect of the running listener that the test reports."""
        self._names.add(name)
        if self._listener is None or name in self._repeatable:
            return
        text = f"{name}({', '.join(map(shown, values))})"
        where = place(of=getattr(unwrap(self._listener.function), "__code__", None))
        self._happen(f"effect {name}{values!r}", f"{text} happened again", where, _OF_EFFECT)

    def note_sent(self, envelope: Envelope) -> None:
        """
        Note that the running listener sent *envelope*.

        One that was sent before with the same id is the same event, which its own listeners have to expect.
        """
        self._names.add(envelope.name)
        if self._listener is None or envelope.name in self._repeatable or envelope.id in self._sent:
            return
        self._sent.add(envelope.id)
        try:
            data = bytes(decoded(envelope.body).data)
        except DecodeError:  # a test sent an invalid event on purpose
            data = envelope.body
        text = f'the event "{envelope.name}" was sent again with another id'
        self._happen(f"event {envelope.name} {data!r}", text, place(), _OF_EVENT)

    def _happen(self, key: str, text: str, where: str, remedy: str) -> None:
        history, listener = self._history, self._listener
        if history is None or listener is None:
            return
        number = history.run.effects[key]
        history.run.effects[key] += 1
        if (key, number) in history.effects:
            self._add(listener.id, text, where, remedy)

    def _add(self, listener: str, text: str, where: str, remedy: str) -> None:
        killed = self._killed_before
        if killed is not None:
            found = RepeatedEffect(listener=listener, effect=text, where=where, killed=killed, remedy=remedy)
            self._found.setdefault((listener, f"{text.partition('(')[0]} {where}"), found)


_OF_ROWS: Final = (
    "write with call.session of a transactional listener, in one of its steps if it has several, or write so that the "
    "second time changes nothing: a unique key"
)
_OF_EFFECT: Final = "make it a step of its own, with call.step(), or pass the other side a key to ignore the second one"
_OF_EVENT: Final = "use call.dispatch(), which gives it the same id in each run, or unique="
