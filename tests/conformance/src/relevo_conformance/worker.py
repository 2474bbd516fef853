"""A worker with a transport of its own; each of its calls is recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import attrs

from relevo import (
    Ack,
    BoundSender,
    Coordinator,
    DeadLetter,
    DeadLetterEntry,
    DeadLetterFilter,
    Delivery,
    Envelope,
    EventFilter,
    EventGroup,
    Found,
    Lost,
    Nack,
    Note,
    Outcome,
    Release,
    Settlement,
    Stats,
    StuckKeys,
    Transport,
    UniqueSender,
    Unreadable,
    WaitingEntry,
)
from relevo.backend import ControlStore, LimitStore, SessionSetup
from relevo.errors import (
    ConfigurationError,
    LeaseLostError,
    RelevoError,
    SendError,
    SettleError,
    TransportClosedError,
    TransportUnavailableError,
    shown,
)
from relevo_conformance import answer, history, promise
from relevo_conformance._world import Violation
from relevo_conformance._wrong_error import note_call
from relevo_conformance.harness import CommitFailedError, Transaction
from relevo_conformance.verdict import BrokenPromiseError, HarnessError, LeftBehind, claims_of, error_text, is_a_persons
from relevo_conformance.watch import Watchdog

if TYPE_CHECKING:
    from relevo_conformance.recorder import Recorder

Result = TypeVar("Result")
Event = TypeVar("Event", bound="Envelope | Unreadable")

_PAGE = 1000
"""The limit of a page of dead letters, if all are wanted."""

_MOST = 10_000
"""A list of waiting events that is longer than this does not end."""

_PAUSE = 0.1
"""The least seconds of real time of a receive with a long wait that returns nothing at once."""

_PAUSES = 20
"""The least number of receives within one wait, also if it is short."""


class RecordedWorker:
    """A worker with a transport of its own; its methods are those of the transport, recorded."""

    def __init__(self, recorder: Recorder, name: str, transport: Transport) -> None:
        self.recorder = recorder
        self.name = name
        self.transport = transport
        self.alive = True
        self._senders: dict[tuple[int, str | None], BoundSender] = {}

    def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        """Create what is missing for *queues*."""
        return self._note(
            history.SetUp(queues=tuple(queues), dry_run=dry_run),
            lambda: self.transport.setup(queues, dry_run=dry_run),
            lambda lines: history.Words(tuple(lines)),
        )

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        """Send *envelopes*."""
        self.recorder.until(delay)
        self._note(
            history.Send(envelopes=tuple(map(_snapshot, envelopes)), delay=delay),
            # Without an argument that is the default, as most callers do.
            lambda: self.transport.send(envelopes, delay=delay) if delay else self.transport.send(envelopes),
            lambda _: None,
        )

    def send_unique(
        self, envelopes: Sequence[Envelope], *, key: str, within: float = 0.0, delay: float = 0.0
    ) -> str | None:
        """Send *envelopes*, the copies of one event, unless another one has *key*; return the id of that one."""
        self.recorder.until(delay)
        return self._note(
            history.SendUnique(envelopes=tuple(map(_snapshot, envelopes)), delay=delay, key=key, within=within),
            lambda: self.transport.send_unique(envelopes, key=key, within=within, delay=delay),
            lambda _: None,
            end=lambda living: "done" if living is None else "refused",
        )

    def receive(self, queues: Sequence[str], *, limit: int = 10, lease: float, wait: float = 0.0) -> list[Delivery]:
        """Return the deliveries; an empty receive that did not wait takes a short time here."""
        began = monotonic()
        try:
            deliveries = self._note(
                history.Receive(queues=tuple(queues), limit=limit, lease=lease, wait=wait),
                lambda: self.transport.receive(queues, limit=limit, lease=lease, wait=wait),
                lambda handed: history.HandedOut(tuple(self._handed(delivery) for delivery in handed)),
                wait=wait,
            )
        finally:  # only now the latest beginning of the leases is known
            if claims_of(self.transport).lease == "timed":
                self.recorder.until(lease)
        if deliveries:
            self.recorder.watch.handed_out = True
        else:  # a loop of such receives would fill the memory with records
            sleep(max(0.0, min(wait / _PAUSES, _PAUSE) - (monotonic() - began)))
        return list(deliveries)

    def take(self, queue: str, event_id: str, *, lease: float) -> list[Delivery]:
        """Lease the events of *queue* with that id."""
        try:
            deliveries = self._note(
                history.Take(queue=queue, event_id=event_id, lease=lease),
                lambda: self.transport.take(queue, event_id, lease=lease),
                lambda handed: history.HandedOut(tuple(self._handed(delivery) for delivery in handed)),
            )
        finally:  # as in a receive
            if claims_of(self.transport).lease == "timed":
                self.recorder.until(lease)
        return list(deliveries)

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        """Settle deliveries; return the lost."""
        numbers = [self.recorder.number(delivery) for delivery, _ in settlements]
        items = (history.Item(number, outcome) for number, (_, outcome) in zip(numbers, settlements, strict=True))
        for _, outcome in settlements:
            if isinstance(outcome, Nack | Release):
                self.recorder.until(outcome.delay)
        call = history.Settle(items=tuple(items))
        asked = [delivery for delivery, _ in settlements]
        return self._note(call, lambda: self.transport.settle(settlements), self._lost, asked=asked)

    def settles(self, delivery: Delivery, outcome: Outcome) -> bool:
        """Settle *delivery*; return whether it was still held."""
        return not self.settle([(delivery, outcome)])

    def ack(self, delivery: Delivery) -> bool:
        """Settle *delivery* as done; return whether it was still held."""
        return self.settles(delivery, Ack())

    def nack(self, delivery: Delivery, *, delay: float = 0.0, state: bytes | None = None) -> bool:
        """Nack *delivery*; return whether it was still held."""
        return self.settles(delivery, Nack(delay=delay, state=state))

    def dead_letter(
        self, delivery: Delivery, *, reason: str = "retries-exhausted", error: str = "", state: bytes | None = None
    ) -> bool:
        """Dead-letter *delivery*; return whether it was still held."""
        return self.settles(delivery, DeadLetter(reason=reason, error=error, state=state))

    def release_later(self, delivery: Delivery, delay: float) -> bool:
        """Release *delivery* with a delay of *delay* seconds; return whether it was still held."""
        return self.settles(delivery, Release(delay=delay))

    def release(self, delivery: Delivery) -> bool:
        """Release *delivery*; return whether it was still held."""
        return self.settles(delivery, Release())

    def report_lost(self, delivery: Delivery, *, state: bytes | None = None) -> bool:
        """Settle *delivery* as lost, since its process died; return whether it was still held."""
        return self.settles(delivery, Lost(state=state))

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        """Keep *deliveries* hidden; return the lost."""
        self.recorder.until(lease)
        numbers = tuple(self.recorder.number(delivery) for delivery in deliveries)
        call = history.Extend(deliveries=numbers, lease=lease)
        act = partial(self.transport.extend, deliveries, lease=lease)
        return self._note(call, act, self._lost, asked=deliveries)

    def checkpoint(self, delivery: Delivery, state: bytes) -> None:
        """Keep *state* with *delivery*."""
        call = history.Checkpoint(delivery=self.recorder.number(delivery), state=state)
        self._note(call, lambda: self.transport.checkpoint(delivery, state), lambda _: None)

    def begin(self, delivery: Delivery, note: Note) -> None:
        """Store *note* with *delivery*."""
        call = history.Begin(delivery=self.recorder.number(delivery), note=note)
        self._note(call, lambda: self.transport.begin(delivery, note), lambda _: None)

    def excuse(self, delivery: Delivery, note: Note) -> None:
        """Mark *note* on *delivery* as excused."""
        call = history.Excuse(delivery=self.recorder.number(delivery), note=note)
        self._note(call, lambda: self.transport.excuse(delivery, note), lambda _: None)

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int | None = None
    ) -> Sequence[DeadLetterEntry]:
        """Return the dead letters of *queues*: a page of at most *limit*, or else all pages."""
        if limit is not None:
            return self._page(queues, after, limit)
        entries: list[DeadLetterEntry] = []
        while page := self._page(queues, after, _PAGE):
            entries.extend(page)
            after = page[-1].ref
        return entries

    def _page(self, queues: Sequence[str], after: str | None, limit: int) -> Sequence[DeadLetterEntry]:
        return self._note(
            history.ListDead(queues=tuple(queues), after=after, limit=limit),
            lambda: self.transport.dead_letters(queues, after=after, limit=limit),
            lambda entries: history.Entries(tuple(entries)),
        )

    def revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        """Make dead letters ready; return the refs that were not found."""
        call = history.Revive(refs=dict(refs))
        return self._note(call, lambda: self.transport.revive(refs), lambda found: history.Missing(tuple(found)))

    def revive_later(self, refs: Mapping[str, bytes], *, delay: float) -> Sequence[str]:
        """Make dead letters ready in *delay* seconds; return the refs that were not found."""
        self.recorder.until(delay)
        call = history.Revive(refs=dict(refs), delay=delay)
        return self._note(
            call,
            lambda: self.transport.revive_later(refs, delay=delay),
            lambda found: history.Missing(tuple(found)),
        )

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        """Delete dead letters; return the refs that were not found."""
        refs = tuple(refs)
        call = history.Discard(refs=refs)
        return self._note(call, lambda: self.transport.discard(iter(refs)), lambda found: history.Missing(tuple(found)))

    def cancel(self, event_id: str) -> int:
        """Remove the event; return the number of removed events."""
        return self._note(history.Cancel(event_id=event_id), lambda: self.transport.cancel(event_id), history.Number)

    def find(self, event_id: str) -> Sequence[Found]:
        """Return the unfinished events with that id."""
        return self._note(
            history.Find(event_id=event_id),
            lambda: self.transport.find(event_id),
            lambda events: history.Living(tuple(attrs.evolve(one, envelope=_snapshot(one.envelope)) for one in events)),
        )

    def waiting(
        self,
        queues: Sequence[str],
        *,
        where: EventFilter | None = None,
        after: str | None = None,
        limit: int = _PAGE,
        whole: bool = True,
    ) -> Sequence[WaitingEntry]:
        """Return the unfinished events that *where* chooses: all pages of at most *limit*, or one."""

        def page(after: str | None) -> Sequence[WaitingEntry]:
            if where is None:
                return self.transport.waiting(queues, after=after, limit=limit)
            return self.transport.waiting(queues, where=where, after=after, limit=limit)

        def read() -> Sequence[WaitingEntry]:
            some = page(after)
            if not whole:
                return some
            entries: list[WaitingEntry] = []
            while some and len(entries) <= _MOST:
                try:
                    answer.require(call, some)
                except answer.MisfitError:
                    return some
                entries += some
                some = page(some[-1].cursor)
            return entries or some

        call = history.ListWaiting(queues=tuple(queues), where=where, after=after, limit=limit, whole=whole)
        return self._note(
            call,
            read,
            lambda entries: history.Waiting(
                tuple(attrs.evolve(one, envelope=_snapshot(one.envelope)) for one in entries)
            ),
        )

    def matching_dead_letters(
        self, queues: Sequence[str], where: DeadLetterFilter, *, after: str | None = None, limit: int = _PAGE
    ) -> Sequence[DeadLetterEntry]:
        """Return a page of the dead letters that *where* chooses."""
        return self._note(
            history.ListMatching(queues=tuple(queues), where=where, after=after, limit=limit),
            lambda: self.transport.matching_dead_letters(queues, where=where, after=after, limit=limit),
            lambda entries: history.Entries(tuple(entries)),
        )

    def waiting_groups(
        self, queues: Sequence[str], by: Literal["event", "queue", "state"], where: EventFilter | None = None
    ) -> Sequence[EventGroup]:
        """Count the unfinished events that *where* chooses."""
        return self._note(
            history.CountGroups(queues=tuple(queues), by=by, where=where),
            lambda: self.transport.waiting_groups(queues, by=by, where=where),
            lambda groups: history.Groups(tuple(groups)),
        )

    def dead_letter_groups(
        self, queues: Sequence[str], by: Literal["event", "queue", "reason"], where: DeadLetterFilter | None = None
    ) -> Sequence[EventGroup]:
        """Count the dead letters that *where* chooses."""
        return self._note(
            history.CountGroups(queues=tuple(queues), by=by, where=where, dead=True),
            lambda: self.transport.dead_letter_groups(queues, by=by, where=where),
            lambda groups: history.Groups(tuple(groups)),
        )

    def stuck_keys(self, queues: Sequence[str], *, longer: float = 60.0, limit: int = 10) -> StuckKeys:
        """Return the ordering keys that are stuck."""
        return self._note(
            history.ListStuck(queues=tuple(queues), longer=longer, limit=limit),
            lambda: self.transport.stuck_keys(queues, longer=longer, limit=limit),
            history.Stuck,
        )

    def purge(self, queue: str) -> int:
        """Remove what is not held; return the number of removed events."""
        return self._note(history.Purge(queue=queue), lambda: self.transport.purge(queue), history.Number)

    def stats(self, queue: str) -> Stats:
        """Return the figures of *queue*."""
        return self._note(history.Count(queue=queue), lambda: self.transport.stats(queue), history.Figures)

    @property
    def coordinator(self) -> Coordinator:
        """
        The transport as a coordinator.

        Raises:
            HarnessError: Its class is one, and it is not.
        """
        if not isinstance(self.transport, Coordinator):
            raise self._is_no("Coordinator")
        return self.transport

    @property
    def control_store(self) -> ControlStore:
        """
        The transport as a store of controls.

        Raises:
            HarnessError: Its class is one, and it is not.
        """
        if not isinstance(self.transport, ControlStore):
            raise self._is_no("ControlStore")
        return self.transport

    @property
    def limit_store(self) -> LimitStore:
        """
        The transport as a store of what counts against limits.

        Raises:
            HarnessError: Its class is one, and it is not.
        """
        if not isinstance(self.transport, LimitStore):
            raise self._is_no("LimitStore")
        return self.transport

    def _is_no(self, interface: str) -> HarnessError:
        """Return the error for a transport that lacks an *interface* which its class has."""
        harness = type(self.recorder.harness)
        why = f"returned {shown(self.transport)}, which is not a {interface}, while {harness.transport.__name__} is one"
        return HarnessError(harness.__name__, "open", why)

    def lock(self, name: str, *, holder: str, ttl: float) -> str | None:
        """Take the lock *name*; return its receipt, or ``None`` if another holder has it."""
        act = partial(self.coordinator.lock, name, holder=holder, ttl=ttl)
        return self._note(history.Lock(name=name, holder=holder, ttl=ttl), act, history.Locked)

    def renew_lock(self, name: str, receipt: str, *, ttl: float) -> bool:
        """Renew the lock *name*; return whether *receipt* holds it."""
        act = partial(self.coordinator.renew_lock, name, receipt, ttl=ttl)
        return self._note(history.RenewLock(name=name, receipt=receipt, ttl=ttl), act, history.Renewed)

    def unlock(self, name: str, receipt: str) -> None:
        """Release the lock *name*, if *receipt* holds it."""
        act = partial(self.coordinator.unlock, name, receipt)
        self._note(history.Unlock(name=name, receipt=receipt), act, lambda _: None)

    def announce(self, worker: str, about: bytes, *, ttl: float) -> None:
        """Store what *worker* announces."""
        act = partial(self.coordinator.announce, worker, about, ttl=ttl)
        self._note(history.Announce(about_worker=worker, about=about, ttl=ttl), act, lambda _: None)

    def workers(self) -> Mapping[str, bytes]:
        """Return what workers announced."""
        return self._note(history.ListWorkers(), self.coordinator.workers, lambda found: history.Announced({**found}))

    def set_control(self, key: str, what: bytes, *, ttl: float) -> None:
        """Store the control *key*."""
        act = partial(self.control_store.set_control, key, what, ttl=ttl)
        self._note(history.SetControl(key=key, what=what, ttl=ttl), act, lambda _: None)

    def controls(self) -> Mapping[str, bytes]:
        """Return the controls."""
        act = self.control_store.controls
        return self._note(history.ListControls(), act, lambda found: history.Controls({**found}))

    def change_limit(self, key: str, change: Callable[[bytes, float], bytes], *, ttl: float) -> None:
        """Change what is stored under *key*; raise the error of *change*, which is not one of the transport."""
        noted = _NotedChange(change)
        act = partial(noted.run, partial(self.limit_store.change_limit, key, noted, ttl=ttl))
        self._note(history.ChangeLimit(key=key, ttl=ttl), act, lambda _: noted.last, end=lambda _: noted.end)
        if noted.error is not None:
            raise noted.error

    def close(self) -> None:
        """Close the transport."""
        self.alive = False
        self._note(history.Close(), self.transport.close, lambda _: None)

    def clean_up(self, watch: Watchdog) -> None:
        """Close the transport of a test that has its verdict, or gets another one."""

        def hung(why: str) -> BaseException:
            return BrokenPromiseError([Violation(promise.CALLS_COME_BACK.id, None, f"close {why}")])

        try:
            watch.call(self.transport.close, hung)
        except LeftBehind:
            raise
        except BaseException as error:
            if is_a_persons(error):
                raise

    # --- in a transaction -------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, kind: history.Kind = "session") -> Iterator[RecordedTransaction]:
        """Begin a transaction of that *kind* on the store; it is rolled back at the end unless it was committed."""
        with self.recorder.enter(kind, getattr(self.recorder.harness, kind)) as transaction:
            number = next(self.recorder.transactions)
            yield RecordedTransaction(self, transaction, number, kind, session=number)

    def note_bound(
        self,
        call: history.SendBound,
        session: Any,
        envelopes: Sequence[Envelope],
        meanwhile: Callable[[], object],
        maker: Maker | None = None,
        claim: UniqueClaim | None = None,
    ) -> None:
        """Send *envelopes* inside *session*'s transaction, perhaps with a *claim*; call *meanwhile* when made."""

        def made() -> Sequence[Envelope]:
            meanwhile()
            made = history.Make(transaction=call.transaction, number=call.number)
            self.recorder.end(self.recorder.begin("application", made))
            return envelopes

        make: Callable[[], Sequence[Envelope]] = made
        if maker is not None:
            maker.make, make = made, maker

        def send() -> object:
            # Every second send is by the sender of the one before, which an application may keep.
            unit = call.transaction, call.relay_to
            bound = self._senders.pop(unit, None)
            if bound is None:
                bound = self._senders[unit] = (
                    self.transport.bound_to(session)
                    if call.relay_to is None
                    else self.transport.bound_to(session, relay_to=call.relay_to)
                )
            answered: object
            if claim is None:
                answered = bound.send(make, delay=call.delay)  # type: ignore[func-returns-value]
            else:
                answered = _claiming(bound)(make, delay=call.delay, **attrs.asdict(claim, recurse=False))
            return answered

        self.recorder.until(call.delay)
        self._note(call, send, lambda _: None)

    # --- records ----------------------------------------------------------------------------------------

    def _note(
        self,
        call: history.Call,
        act: Callable[[], Result],
        value: Callable[[Result], history.Value | None],
        *,
        asked: Sequence[Delivery] = (),
        wait: float = 0.0,
        end: Callable[[Result], history.End] = lambda _: "done",
    ) -> Result:
        recorder = self.recorder
        if recorder.around is not None:
            act = partial(recorder.around, act)
        op = recorder.begin(self.name, call)
        try:
            result = recorder.watch.call(act, partial(recorder.note_hung, op), wait=wait)
            answer.require(call, result, asked)
        except LeftBehind:
            raise
        except answer.MisfitError as error:
            recorder.end(op, "malformed", error=str(error))
            raise
        except RelevoError as error:
            note_call(error, op, call)
            self._note_raised(op, call, error, asked)
            raise
        except BaseException as error:
            if not is_a_persons(error):
                recorder.end(op, "crashed", error=error_text(error))
            raise
        recorder.end(op, end(result), value=value(result))
        return result

    def _note_raised(self, op: int, call: history.Call, error: RelevoError, asked: Sequence[Delivery]) -> None:
        try:
            answer.require_error(call, error, asked)
        except answer.MisfitError as misfit:
            self.recorder.end(op, "malformed", error=str(misfit))
            return
        self.recorder.end(op, _end(call, error), error=_kind(error), value=self._value_of(call, error))

    def _value_of(self, call: history.Call, error: RelevoError) -> history.Value | None:
        match call, error:
            case history.Send(envelopes=envelopes), SendError():
                return _fates(len(envelopes), error)
            case history.Settle(), SettleError(lost=lost, unsettled=unsettled):
                return history.Settled(lost=self._numbers(lost), unsettled=self._numbers(unsettled))
            case _:
                return None

    def _lost(self, deliveries: Sequence[Delivery]) -> history.Settled:
        return history.Settled(lost=self._numbers(deliveries))

    def _numbers(self, deliveries: Iterable[object]) -> tuple[int, ...]:
        return tuple(self.recorder.number(one) for one in deliveries if isinstance(one, Delivery))

    def _handed(self, delivery: Delivery) -> history.Handed:
        return history.Handed(
            number=self.recorder.number(delivery),
            event=_snapshot(delivery.envelope),
            queue=delivery.queue,
            attempt=delivery.attempt,
            lost_leases=delivery.lost_leases,
            state=delivery.state,
            enqueued_at=delivery.enqueued_at,
            begun=delivery.begun,
            deaths=delivery.deaths,
        )

    def __repr__(self) -> str:
        return f"<{self.name}>"


class _NotedChange:
    """
    A function that changes what counts against a limit, with notes of its calls.

    Args:
        change: The function.
    """

    def __init__(self, change: Callable[[bytes, float], bytes]) -> None:
        self._change = change
        self._raised: list[Exception] = []
        self.last: history.LimitChanged | None = None
        """Its last call that raised nothing."""
        self.error: Exception | None = None
        """What it raised, if the call of the transport raised that too."""

    @property
    def end(self) -> history.End:
        """How a call of the transport ended that came back with nothing, or with the error of the function."""
        return "done" if self.error is None else "refused"

    def __call__(self, before: bytes, now: float) -> bytes:
        answer.require_change(before, now)
        try:
            after = self._change(before, now)
        except Exception as error:
            self._raised.append(error)
            raise
        self.last = history.LimitChanged(before=before, now=now, after=after)
        return after

    def run(self, act: Callable[[], None]) -> None:
        """Call *act*, which calls this, and keep an error of the function."""
        try:
            return act()
        except Exception as error:
            if not any(error is one for one in self._raised):
                raise
            self.error = error


@attrs.frozen
class UniqueClaim:
    """The arguments of a unique send in a transaction."""

    key: str
    within: float
    decided: Callable[[str | None], object]


def _claiming(sender: object) -> Callable[..., object]:
    assert isinstance(sender, UniqueSender), f"bound_to() returned {shown(sender)}; expected a UniqueSender"
    return sender.send_unique


class Maker:
    """One *make* for several sends, as an application may keep one; it returns what was sent last with it."""

    def __init__(self) -> None:
        self.make: Callable[[], Sequence[Envelope]] = tuple

    def __call__(self) -> Sequence[Envelope]:
        return self.make()


class RecordedTransaction:
    """A transaction of the application, recorded."""

    def __init__(
        self, worker: RecordedWorker, transaction: Transaction, number: int, kind: history.Kind, *, session: int
    ) -> None:
        self._worker = worker
        self._transaction = transaction
        self._number = number
        self._kind: history.Kind = kind
        self._session = session
        self._sends = self._savepoints = 0

    def send(
        self,
        envelopes: Sequence[Envelope],
        *,
        delay: float = 0.0,
        relay_to: str | None = None,
        meanwhile: Callable[[], object] = lambda: None,
        maker: Maker | None = None,
        by: RecordedWorker | None = None,
    ) -> None:
        """
        Send *envelopes* inside it.

        Args:
            envelopes: What is sent.

            delay: In seconds.

            relay_to: The transport for which they wait.

            meanwhile: Called when they are made.

            maker: Makes them, if it is given.

            by: Who sends them; by default the worker that began it.
        """
        snapshots = tuple(map(_snapshot, envelopes))
        self._sends += 1
        call = history.SendBound(
            transaction=self._number,
            envelopes=snapshots,
            delay=delay,
            relay_to=relay_to,
            number=self._sends,
            kind=self._kind,
            session=self._session,
        )
        (by or self._worker).note_bound(call, self._transaction.session, envelopes, meanwhile, maker)

    def send_unique(
        self,
        envelopes: Sequence[Envelope],
        *,
        key: str,
        within: float = 0.0,
        delay: float = 0.0,
        relay_to: str | None = None,
    ) -> Sequence[str | None]:
        """
        Send *envelopes*, the copies of one event, inside it, with a *key* that no other event has at the commit.

        The history shows a plain send: it knows nothing of keys.

        Returns:
            What is decided about the key; empty until that is known.
        """
        decided: list[str | None] = []
        self._sends += 1
        call = history.SendBound(
            transaction=self._number,
            envelopes=tuple(map(_snapshot, envelopes)),
            delay=delay,
            relay_to=relay_to,
            number=self._sends,
            kind=self._kind,
            session=self._session,
        )
        claim = UniqueClaim(key, within, decided.append)
        self._worker.note_bound(call, self._transaction.session, envelopes, lambda: None, claim=claim)
        return decided

    @property
    def flushes(self) -> bool:
        """Whether its session writes pending objects with ``flush()``, as SQLAlchemy's does, rather than at once."""
        return hasattr(self._transaction.session, "flush")

    def close(self) -> bool:
        """Close its session, which rolls it back; return whether the harness can."""
        close: Callable[[], object] | None = getattr(self._transaction, "close", None)
        if close is not None:
            self._end("rollback", close, how="close")
        return close is not None

    def commit_that_fails(self) -> bool:
        """
        Commit it and have the database refuse, which rolls it back; return whether the harness can.

        Raises:
            HarnessError: The commit succeeded.
        """
        fail: Callable[[], object] | None = getattr(self._transaction, "fail_commit", None)
        if fail is None:
            return False
        fail()
        try:
            self._end("commit", self._transaction.commit, how="fail")
        except CommitFailedError:
            self._transaction.rollback()
            return True
        raise HarnessError(type(self._worker.recorder.harness).__name__, "fail_commit", "let a commit succeed")

    def flush(self) -> None:
        """Write the pending objects of its session."""
        self._transaction.session.flush()

    def add_pending(self) -> Callable[[], bool] | None:
        """Add an object to its session, if the harness can; return a function that tells whether it was written."""
        add: Callable[[], Callable[[], bool]] | None = getattr(self._transaction, "add_pending", None)
        return None if add is None else add()

    def at_flush(self, act: Callable[[], object]) -> bool:
        """Call *act* after the next flush of its session; return whether the harness can."""
        arrange: Callable[[Callable[[], object]], None] | None = getattr(self._transaction, "at_flush", None)
        if arrange is not None:
            arrange(act)
        return arrange is not None

    def count_written(self) -> int:
        """Return how many pending objects are committed; 0 if the harness cannot tell. Call it between transactions."""
        count: Callable[[], int] | None = getattr(self._transaction, "count_written", None)
        return 0 if count is None else count()

    def send_what_raises(self, error: Exception) -> None:
        """Send events inside it that cannot be made, which is not recorded: making them raises *error*."""

        def make() -> Sequence[Envelope]:
            raise error

        self.send_unrecorded(make)

    def send_with_setup(self, envelope: Envelope) -> bool:
        """Send *envelope* and create what it lacks inside it, past the recorder; return whether the transport can."""
        transport = self._worker.transport
        if not isinstance(transport, SessionSetup):
            return False
        sender = transport.bound_with_setup(self._transaction.session, [envelope.queue])
        if sender is not None:
            sender.send([envelope].copy)
        return sender is not None

    def send_unrecorded(self, make: Callable[[], Sequence[Envelope]]) -> None:
        """Send what *make* returns inside it, past the recorder, which records no call within another."""
        self._worker.transport.bound_to(self._transaction.session).send(make)

    def commit(self) -> None:
        """Commit the transaction."""
        self._end("commit", self._transaction.commit)

    def rollback(self) -> None:
        """Roll the transaction back."""
        self._end("rollback", self._transaction.rollback)

    def again(self) -> RecordedTransaction:
        """Return the next transaction of the same session; this one has ended."""
        number = next(self._worker.recorder.transactions)
        return RecordedTransaction(self._worker, self._transaction, number, self._kind, session=self._session)

    @contextmanager
    def savepoint(self, way: history.Way) -> Iterator[None]:
        """Begin a savepoint, which ends with *way*."""
        end = self.set_savepoint()
        yield
        end(way)

    def set_savepoint(self) -> Callable[[history.Way], None]:
        """Begin a savepoint; return a function that ends it."""
        recorder, worker = self._worker.recorder, self._worker.name
        self._savepoints += 1
        number = self._savepoints
        op = recorder.begin(worker, history.SetSavepoint(transaction=self._number, savepoint=number))
        savepoint = recorder.watch.call(self._transaction.savepoint, partial(recorder.note_hung, op))
        recorder.end(op)

        def end(way: history.Way) -> None:
            ends = history.EndSavepoint(transaction=self._number, savepoint=number, way=way)
            op = recorder.begin(worker, ends)
            act = savepoint.commit if way == "commit" else savepoint.rollback
            recorder.watch.call(act, partial(recorder.note_hung, op))
            recorder.end(op)

        return end

    def _end(self, way: history.Way, act: Callable[[], object], *, how: Literal["", "close", "fail"] = "") -> None:
        recorder = self._worker.recorder
        call = history.EndTransaction(transaction=self._number, way=way, how=how, session=self._session)
        op = recorder.begin(self._worker.name, call)
        try:
            recorder.watch.call(act, partial(recorder.note_hung, op))
        except CommitFailedError as error:
            recorder.end(op, "refused", error=type(error).__name__)
            raise
        except Exception as error:
            recorder.end(op, "unknown", error=type(error).__name__)
            raise
        recorder.end(op)


def _end(call: history.Call, error: RelevoError) -> history.End:
    """Return whether a call that raised *error* surely had no effect, or whether that is unknown."""
    match call, error:
        case _, ConfigurationError() | TransportClosedError() | LeaseLostError():
            return "refused"
        case history.Send() | history.Receive(), TransportUnavailableError():
            return "refused" if isinstance(call, history.Send) else "unknown"
        case _:
            return "unknown"


def _kind(error: RelevoError) -> str:
    """Return the name of the public class of *error*, since a backend may raise a subclass."""
    public = (cls for cls in type(error).__mro__ if cls.__module__ == "relevo.errors")
    return next(public, RelevoError).__name__


def _fates(size: int, error: SendError) -> history.Fates:
    named = Counter((*error.sent, *error.refused, *error.unknown))
    told_apart = named == Counter(range(size))
    fates: list[history.Fate] = []
    for position in range(size):
        if position in error.unknown or position not in named:
            fates.append("unknown")
        else:
            fates.append("sent" if position in error.sent else "refused")
    return history.Fates(tuple(fates), told_apart)


def _snapshot(event: Event) -> Event:
    """Return *event* as it is now, with a copy of its headers."""
    return attrs.evolve(event, headers=dict(event.headers))
