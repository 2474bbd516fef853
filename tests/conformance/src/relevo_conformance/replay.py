"""
Run a recorded history again, on the same or on another transport.

For example, a history that breaks a promise can run on the reference, and one from production on a test machine.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from math import inf
from os.path import commonprefix
from time import monotonic
from typing import Any

import attrs

from relevo import DeadLetterEntry, DeadLetterFilter, Delivery, Envelope, EventFilter, Unreadable
from relevo_conformance import history
from relevo_conformance.bench import Bench
from relevo_conformance.contract import Contract
from relevo_conformance.fault import Fault
from relevo_conformance.harness import LONGEST_SLEEP, Harness, HookMissing
from relevo_conformance.model import identity
from relevo_conformance.recorder import Recorder
from relevo_conformance.verdict import BrokenPromiseError, HarnessError, LeftBehind, error_text
from relevo_conformance.worker import RecordedTransaction, RecordedWorker

_OUTBOX = "outbox/"

Key = tuple[object, int]
"""An event in its queue, and the ordinal of its delivery or dead letter."""


def replay(
    records: Iterable[history.Record], harness_type: type[Harness], *, deadline: float | None = None
) -> list[history.Record]:
    """
    Run the calls of *records* again, in order, and return the new history for the checker.

    Queues get new names; ids stay. A delivery corresponds to the delivery of the same event and queue
    with the same ordinal, and so does a dead letter. The same time passes.
    Calls that overlapped run one after another. A call without a counterpart is skipped. If the history
    has no setup, its queues are set up first. A :class:`~relevo_conformance.history.Remark` notes each of these, and
    each call that fails although it succeeded before. A broken promise does not end the replay; a call that hangs does.

    Args:
        records: A complete history, as it was recorded.

        harness_type: The harness of the transport; an instance is opened, and closed.

        deadline: The end of its time, by ``time.monotonic``.

    Raises:
        TimeoutError: It did not end by *deadline*, or could not.

        HarnessError: The harness failed.
    """

    class Play(Contract):
        """Runs the history in a thread that can be left behind."""

    if deadline is not None:
        harness_type = harness_type.hurried(max(0.0, deadline - monotonic()))
    Play.harness_type = harness_type
    Play.setup_class()
    try:
        player = _Player(tuple(records), Play.harness, deadline)
        with suppress(BrokenPromiseError):  # a call hung, which the history has recorded
            Play.run(player.play)
        return list(player.recorder.records)
    finally:
        Play.teardown_class()


class _Names:
    """New names for the queues of a history, with the same similarities as the old ones."""

    def __init__(self, records: Iterable[history.Record]) -> None:
        calls = [record.call for record in records if isinstance(record, history.Invoked)]
        self.names = dict.fromkeys(name for call in calls for name in _queues_of(call))
        roots = [self._root(name) for name in self.names]
        self._old = commonprefix(roots)  # noqa: RUF071 - the prefix is of characters, not of path components
        self._new = f"t{secrets.token_hex(8)}"

    def new(self, name: str) -> str:
        """Return the new name of the queue, or of the transport behind an outbox, *name*."""
        if name.startswith(_OUTBOX):
            return _OUTBOX + self.new(name.removeprefix(_OUTBOX))
        return self._new + name.removeprefix(self._old)

    def all(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the new names of *names*."""
        return tuple(map(self.new, names))

    @staticmethod
    def _root(name: str) -> str:
        return name.removeprefix(_OUTBOX)


def _queues_of(call: history.Call) -> Iterable[str]:
    match call:
        case history.SetUp(queues=queues) | history.Receive(queues=queues) | history.ListDead(queues=queues):
            yield from queues
        case history.ListWaiting(queues=queues) | history.ListMatching(queues=queues):
            yield from queues
        case history.CountGroups(queues=queues) | history.ListStuck(queues=queues):
            yield from queues
        case history.PutRaw(queue=queue) | history.Purge(queue=queue) | history.Count(queue=queue):
            yield queue
        case history.Take(queue=queue):
            yield queue
        case history.Send(envelopes=envelopes):
            yield from (envelope.queue for envelope in envelopes)
        case history.SendBound(envelopes=envelopes, relay_to=relay_to):
            yield from (envelope.queue for envelope in envelopes)
            if relay_to is not None:
                yield _OUTBOX + relay_to
        case _:
            pass


class _Numbering:
    """Numbers the deliveries, or the dead letters, of each event."""

    def __init__(self) -> None:
        self._times: Counter[object] = Counter()

    def key(self, queue: str, event: Envelope | Unreadable) -> Key:
        """Return the key of the next one."""
        what = identity(queue, event)
        self._times[what] += 1
        return what, self._times[what]


class _Dead:
    """Identifies dead letters: a ref may be used again for a later dead letter."""

    def __init__(self) -> None:
        self._numbering = _Numbering()
        self._seen: dict[tuple[str, float], Key] = {}
        self.keys: dict[str, Key] = {}
        self.refs: dict[Key, str] = {}

    def see(self, entries: Iterable[DeadLetterEntry], names: Callable[[str], str]) -> None:
        """Record the listed *entries* with the queue names that *names* returns."""
        for entry in entries:
            death = entry.ref, entry.died_at
            if death not in self._seen:
                self._seen[death] = self._numbering.key(names(entry.queue), _renamed(entry.envelope, names))
            self.keys[entry.ref] = self._seen[death]
            self.refs[self._seen[death]] = entry.ref


def _renamed(event: Any, names: Callable[[str], str]) -> Any:
    return attrs.evolve(event, queue=names(event.queue)) if isinstance(event, Envelope) else event


class _Player:
    """Runs one history on one harness."""

    def __init__(self, records: tuple[history.Record, ...], harness: Harness, deadline: float | None = None) -> None:
        self.records = records
        self.deadline = inf if deadline is None else deadline
        self.names = _Names(records)
        self.bench = Bench(harness, deadline=self.deadline)
        self.bench.queues = tuple(self.names.new(name) for name in self.names.names if not name.startswith(_OUTBOX))
        self.recorder = self.bench.recorder = Recorder(harness, raising=False)
        self.workers: dict[str, RecordedWorker] = {}
        self.ended = {record.op: record for record in records if isinstance(record, history.Returned)}
        self.kinds, self.sessions = self._kinds_and_sessions()
        self.last = self._last_of_sessions()
        self.opened: dict[int, tuple[ExitStack, RecordedTransaction]] = {}
        """By the number of a session: what closes it, and its last transaction."""

        self.transactions: dict[int, RecordedTransaction] = {}
        self.savepoints: dict[tuple[int, int], Callable[[history.Way], None]] = {}
        self.faults: dict[str, ExitStack] = {}
        self.old_keys: dict[int, Key] = {}
        self.deliveries: dict[Key, Delivery] = {}
        self.unsettled: dict[str, dict[int, Delivery]] = {}
        self._old_handed, self._new_handed = _Numbering(), _Numbering()
        self._old_dead, self._new_dead = _Dead(), _Dead()
        self.receipts: dict[str, str] = {}
        """Of locks: the new receipts by the old ones."""

        self._came = True

    def _kinds_and_sessions(self) -> tuple[Mapping[int, history.Kind], Mapping[int, int]]:
        """Return the kind and the session of each transaction."""
        kinds: dict[int, history.Kind] = {}
        sessions: dict[int, int] = {}
        for record in self.records:
            match record:
                case history.Invoked(call=history.SendBound(transaction=number, kind=kind, session=session)):
                    kinds[number] = kind
                    sessions[number] = session or number
                case history.Invoked(call=history.EndTransaction(transaction=number, session=session)):
                    sessions[number] = session or number
                case _:
                    pass
        return kinds, sessions

    def _last_of_sessions(self) -> Mapping[int, int]:
        """Return the last call in each session."""
        calls = (record for record in self.records if isinstance(record, history.Invoked))
        found = ((record.op, _in_transaction(record.call)) for record in calls)
        return {self.sessions.get(call.transaction, call.transaction): op for op, call in found if call is not None}

    def play(self) -> None:
        """Run the whole history, and clean up."""
        try:
            self._play()
        finally:
            for stack in self.faults.values():
                stack.close()
            for end in self.savepoints.values():
                with suppress(Exception):  # a shortened history may end the transaction and not its savepoint
                    end("rollback")
            for stack, _ in self.opened.values():
                stack.close()
            self.bench.clean_up()

    def _play(self) -> None:
        clock = self.recorder.harness.clock
        began = clock.now()
        first = latest = self.records[0].at if self.records else 0.0
        flying: set[int] = set()
        self._set_up_what_was_there()
        for record in self.records:
            self._require_time()
            if record.at < latest and not self.bench.set_back(latest - record.at):
                self.note(f"the clock is not set back before the end of call {record.op}, as it was")
            latest = record.at
            if isinstance(record, history.Returned):
                flying.discard(record.op)
                continue
            if isinstance(record.call, history.Make):  # the transport calls it by itself
                continue
            self._wait(record.at - first - (clock.now() - began))
            if flying:
                self.note(f"call {record.op} began while {', '.join(map(str, sorted(flying)))} was in flight")
            flying.add(record.op)
            try:
                self._call(record)
            except HookMissing as missing:
                self.note(f"call {record.op} is skipped: the harness has no hook {missing}")
            except (HarnessError, LeftBehind):
                raise
            except Exception as error:  # noqa: BLE001 - the history has recorded it
                if record.op in self.ended and self.ended[record.op].end == "done":
                    self.note(f"call {record.op}, which succeeded in the recording, failed: {error_text(error)}")
        self._require_time()

    def _set_up_what_was_there(self) -> None:
        calls = [record.call for record in self.records if isinstance(record, history.Invoked)]
        queues = self.names.all(self.names.names)
        if queues and not any(isinstance(call, history.SetUp) for call in calls):
            self.note("the queues are set up first: they were there before the history began")
            with suppress(Exception):  # a call that needs them reports it
                worker = self.recorder.worker()
                worker.setup(queues)
                worker.close()

    def _require_time(self, seconds: float = 0.0) -> None:
        if monotonic() + seconds >= self.deadline:
            raise TimeoutError

    def _wait(self, seconds: float) -> None:
        if seconds <= 0.0:
            return
        if not self.recorder.harness.fake:
            if seconds > LONGEST_SLEEP:
                self.note(f"a wait of {seconds:g} s is skipped: the clock cannot be moved")
                return
            self._require_time(seconds)
        self.recorder.advance(seconds)

    def note(self, text: str) -> None:
        """Record a difference from the original history."""
        self.recorder.end(self.recorder.begin("replay", history.Remark(text)))

    def worker(self, name: str) -> RecordedWorker:
        """Return the worker for *name*; one that was open before the history began is opened now."""
        if name not in self.workers:
            self.workers[name] = self.recorder.worker()
        return self.workers[name]

    # --- call by call -----------------------------------------------------------------------------------

    def _call(self, record: history.Invoked) -> None:
        play = _PLAYS.get(type(record.call))
        if play is not None:
            play(self, record, record.call)
        call = _in_transaction(record.call)
        session = None if call is None else self.sessions.get(call.transaction, call.transaction)
        if session is not None and self.last[session] == record.op and session in self.opened:
            self.opened.pop(session)[0].close()

    def open(self, record: history.Invoked, call: history.Open) -> None:
        self.worker(record.worker)

    def kill(self, record: history.Invoked, call: history.Kill) -> None:
        self.recorder.kill(self.worker(record.worker))

    def close(self, record: history.Invoked, call: history.Close) -> None:
        self.worker(record.worker).close()

    def set_up(self, record: history.Invoked, call: history.SetUp) -> None:
        self.worker(record.worker).setup(self.names.all(call.queues), dry_run=call.dry_run)

    def break_(self, record: history.Invoked, call: history.Break) -> None:
        worker, stack = self.worker(record.worker), ExitStack()
        fault = Fault(call.where, call.at)
        try:
            stack.enter_context(self.recorder.faulty(worker, fault))
        except HookMissing:
            stack.enter_context(self.recorder.broken(worker, call.where))
        self.faults[record.worker] = stack

    def mend(self, record: history.Invoked, call: history.Mend) -> None:
        self.faults.pop(record.worker, ExitStack()).close()

    def send(self, record: history.Invoked, call: history.Send) -> None:
        self.worker(record.worker).send(self._envelopes(call.envelopes), delay=call.delay)

    def send_unique(self, record: history.Invoked, call: history.SendUnique) -> None:
        self.worker(record.worker).send_unique(
            self._envelopes(call.envelopes), key=call.key, within=call.within, delay=call.delay
        )

    def put_raw(self, record: history.Invoked, call: history.PutRaw) -> None:
        self.recorder.put_raw(self.names.new(call.queue), call.raw, call.headers)

    def receive(self, record: history.Invoked, call: history.Receive) -> None:
        worker, queues = self.worker(record.worker), self.names.all(call.queues)
        expected = self._expected(record.op)
        came: list[Delivery] = []

        def ask() -> bool:
            wait = max(min(call.wait, self.deadline - monotonic()), self.bench.glance)
            deliveries = worker.receive(queues, limit=call.limit - len(came), lease=call.lease, wait=wait)
            for delivery in deliveries:
                self.deliveries[self._new_handed.key(delivery.queue, delivery.envelope)] = delivery
                self.unsettled.setdefault(record.worker, {})[id(delivery)] = delivery
            came.extend(deliveries)
            came_all = len(came) >= call.limit or all(key in self.deliveries for key in expected)
            return came_all or (not deliveries and self.bench.breathe())

        self.bench.until(ask)
        self._came = bool(came)

    def take(self, record: history.Invoked, call: history.Take) -> None:
        worker, queue = self.worker(record.worker), self.names.all((call.queue,))[0]
        self._expected(record.op)  # numbers the deliveries of the recording
        for delivery in worker.take(queue, call.event_id, lease=call.lease):
            self.deliveries[self._new_handed.key(delivery.queue, delivery.envelope)] = delivery
            self.unsettled.setdefault(record.worker, {})[id(delivery)] = delivery

    def settle(self, record: history.Invoked, call: history.Settle) -> None:
        found = [(self._delivery(record, item.delivery), item.outcome) for item in call.items]
        settlements = [(delivery, outcome) for delivery, outcome in found if delivery is not None]
        if settlements or not call.items:
            for delivery, _ in settlements:
                for held in self.unsettled.values():
                    held.pop(id(delivery), None)
            self.worker(record.worker).settle(settlements)

    def extend(self, record: history.Invoked, call: history.Extend) -> None:
        found = [self._delivery(record, number) for number in call.deliveries]
        deliveries = [delivery for delivery in found if delivery is not None]
        if deliveries or not call.deliveries:
            self.worker(record.worker).extend(deliveries, lease=call.lease)

    def checkpoint(self, record: history.Invoked, call: history.Checkpoint) -> None:
        delivery = self._delivery(record, call.delivery)
        if delivery is not None:
            self.worker(record.worker).checkpoint(delivery, call.state)

    def begin(self, record: history.Invoked, call: history.Begin) -> None:
        delivery = self._delivery(record, call.delivery)
        if delivery is not None:
            self.worker(record.worker).begin(delivery, call.note)

    def excuse(self, record: history.Invoked, call: history.Excuse) -> None:
        delivery = self._delivery(record, call.delivery)
        if delivery is not None:
            self.worker(record.worker).excuse(delivery, call.note)

    def list_dead(self, record: history.Invoked, call: history.ListDead) -> None:
        after = None if call.after is None else self._ref(record, call.after)
        if after is None and call.after is not None:
            return
        returned = self.ended.get(record.op)
        if returned is not None and isinstance(returned.value, history.Entries):
            self._old_dead.see(returned.value.entries, self.names.new)
        entries = self.worker(record.worker).dead_letters(self.names.all(call.queues), after=after, limit=call.limit)
        self._new_dead.see(entries, str)

    def revive(self, record: history.Invoked, call: history.Revive) -> None:
        found = {self._ref(record, ref): state for ref, state in call.refs.items()}
        refs = {ref: state for ref, state in found.items() if ref is not None}
        if refs or not call.refs:
            worker = self.worker(record.worker)
            if call.delay:
                worker.revive_later(refs, delay=call.delay)
            else:
                worker.revive(refs)

    def discard(self, record: history.Invoked, call: history.Discard) -> None:
        refs = [ref for ref in (self._ref(record, old) for old in call.refs) if ref is not None]
        if refs or not call.refs:
            self.worker(record.worker).discard(refs)

    def cancel(self, record: history.Invoked, call: history.Cancel) -> None:
        self.worker(record.worker).cancel(call.event_id)

    def find(self, record: history.Invoked, call: history.Find) -> None:
        self.worker(record.worker).find(call.event_id)

    def list_waiting(self, record: history.Invoked, call: history.ListWaiting) -> None:
        if call.after is not None:
            self.note(f"call {record.op} is skipped: it is a page behind an event of the recording")
            return
        self.worker(record.worker).waiting(
            self.names.all(call.queues), where=call.where, limit=call.limit, whole=call.whole
        )

    def list_matching(self, record: history.Invoked, call: history.ListMatching) -> None:
        after = None if call.after is None else self._ref(record, call.after)
        if after is not None or call.after is None:
            queues = self.names.all(call.queues)
            self.worker(record.worker).matching_dead_letters(queues, call.where, after=after, limit=call.limit)

    def count_groups(self, record: history.Invoked, call: history.CountGroups) -> None:
        worker, queues = self.worker(record.worker), self.names.all(call.queues)
        if call.by != "reason" and not isinstance(call.where, DeadLetterFilter) and not call.dead:
            worker.waiting_groups(queues, call.by, call.where)
        elif call.by != "state" and not isinstance(call.where, EventFilter):
            worker.dead_letter_groups(queues, call.by, call.where)

    def list_stuck(self, record: history.Invoked, call: history.ListStuck) -> None:
        worker = self.worker(record.worker)
        worker.stuck_keys(self.names.all(call.queues), longer=call.longer, limit=call.limit)

    def purge(self, record: history.Invoked, call: history.Purge) -> None:
        self.worker(record.worker).purge(self.names.new(call.queue))

    def count(self, record: history.Invoked, call: history.Count) -> None:
        self.worker(record.worker).stats(self.names.new(call.queue))

    def lock(self, record: history.Invoked, call: history.Lock) -> None:
        worker = self.worker(record.worker)
        new = worker.lock(self.names.new(call.name), holder=call.holder, ttl=call.ttl)
        match self.ended.get(record.op), new:
            case history.Returned(value=history.Locked(receipt=str(old))), str():
                self.receipts[old] = new
            case _:
                pass

    def renew_lock(self, record: history.Invoked, call: history.RenewLock) -> None:
        receipt = self.receipts.get(call.receipt, call.receipt)
        self.worker(record.worker).renew_lock(self.names.new(call.name), receipt, ttl=call.ttl)

    def unlock(self, record: history.Invoked, call: history.Unlock) -> None:
        receipt = self.receipts.get(call.receipt, call.receipt)
        self.worker(record.worker).unlock(self.names.new(call.name), receipt)

    def announce(self, record: history.Invoked, call: history.Announce) -> None:
        self.worker(record.worker).announce(call.about_worker, call.about, ttl=call.ttl)

    def list_workers(self, record: history.Invoked, call: history.ListWorkers) -> None:
        self.worker(record.worker).workers()

    def set_control(self, record: history.Invoked, call: history.SetControl) -> None:
        self.worker(record.worker).set_control(call.key, call.what, ttl=call.ttl)

    def list_controls(self, record: history.Invoked, call: history.ListControls) -> None:
        self.worker(record.worker).controls()

    def change_limit(self, record: history.Invoked, call: history.ChangeLimit) -> None:
        """Store what was stored in the recording."""
        match self.ended.get(record.op):
            case history.Returned(value=history.LimitChanged(after=after)):
                self.worker(record.worker).change_limit(call.key, lambda *_: after, ttl=call.ttl)
            case _:
                self.note(f"call {record.op} is skipped: it is not known what it stored")

    def send_bound(self, record: history.Invoked, call: history.SendBound) -> None:
        relay_to = None if call.relay_to is None else self.names.new(call.relay_to)
        self._transaction(record, call.transaction).send(
            self._envelopes(call.envelopes), delay=call.delay, relay_to=relay_to
        )

    def set_savepoint(self, record: history.Invoked, call: history.SetSavepoint) -> None:
        savepoint = self._transaction(record, call.transaction).set_savepoint()
        self.savepoints[call.transaction, call.savepoint] = savepoint

    def end_savepoint(self, record: history.Invoked, call: history.EndSavepoint) -> None:
        end = self.savepoints.pop((call.transaction, call.savepoint), None)
        if end is not None:
            end(call.way)

    def end_transaction(self, record: history.Invoked, call: history.EndTransaction) -> None:
        transaction = self._transaction(record, call.transaction)
        if call.how == "fail":
            if not transaction.commit_that_fails():
                self.note(f"call {record.op} is skipped: a commit cannot be made to fail")
        elif call.way == "commit":
            transaction.commit()
        elif call.how != "close" or not transaction.close():
            transaction.rollback()

    def drain(self, record: history.Invoked, call: history.Drain) -> None:
        """Ack what still comes, which may be more than in the recording, and record whether it finished."""
        worker = self.worker(record.worker)
        queues = (*self.bench.queues, *self.names.all(name for name in self.names.names if name.startswith(_OUTBOX)))
        for held in self.unsettled.pop(record.worker, {}).values():
            worker.ack(held)
        ended = not self._came and not self.recorder.pending()
        ended = ended or self.bench.receive_all(worker, queues)
        self.recorder.end(self.recorder.begin(worker.name, history.Drain()), "done" if ended else "unknown")

    # --- counterparts -----------------------------------------------------------------------------------

    def _envelopes(self, envelopes: Iterable[Envelope]) -> list[Envelope]:
        return [_renamed(envelope, self.names.new) for envelope in envelopes]

    def _expected(self, op: int) -> list[Key]:
        """Return what the receive *op* handed out in the recording."""
        returned = self.ended.get(op)
        if returned is None or not isinstance(returned.value, history.HandedOut):
            return []
        keys = []
        for handed in returned.value.deliveries:
            if handed.number not in self.old_keys:
                event = _renamed(handed.event, self.names.new)
                self.old_keys[handed.number] = self._old_handed.key(self.names.new(handed.queue), event)
            keys.append(self.old_keys[handed.number])
        return keys

    def _delivery(self, record: history.Invoked, number: int) -> Delivery | None:
        found = self.deliveries.get(self.old_keys.get(number, (None, 0)))
        if found is None:
            self.note(f"call {record.op} skips delivery {number}: it has not come")
        return found

    def _ref(self, record: history.Invoked, ref: str) -> str | None:
        key = self._old_dead.keys.get(ref)
        if key is None:
            return ref  # it was never listed
        found = self._new_dead.refs.get(key)
        if found is None:
            self.note(f"call {record.op} skips dead letter {ref!r}: there is none")
        return found

    def _transaction(self, record: history.Invoked, number: int) -> RecordedTransaction:
        if number not in self.transactions:
            session = self.sessions.get(number, number)
            if session in self.opened:
                stack, before = self.opened[session]
                opened = before.again()
            else:
                stack = ExitStack()
                opened = stack.enter_context(self.worker(record.worker).transaction(self.kinds.get(number, "session")))
            self.opened[session] = stack, opened
            self.transactions[number] = opened
        return self.transactions[number]


_InTransaction = history.SendBound | history.SetSavepoint | history.EndSavepoint | history.EndTransaction


def _in_transaction(call: history.Call) -> _InTransaction | None:
    return call if isinstance(call, _InTransaction) else None


_PLAYS: Mapping[type[Any], Callable[[_Player, history.Invoked, Any], None]] = {
    history.Open: _Player.open,
    history.Kill: _Player.kill,
    history.Close: _Player.close,
    history.SetUp: _Player.set_up,
    history.Break: _Player.break_,
    history.Mend: _Player.mend,
    history.Send: _Player.send,
    history.SendUnique: _Player.send_unique,
    history.PutRaw: _Player.put_raw,
    history.Receive: _Player.receive,
    history.Take: _Player.take,
    history.Settle: _Player.settle,
    history.Extend: _Player.extend,
    history.Checkpoint: _Player.checkpoint,
    history.Begin: _Player.begin,
    history.Excuse: _Player.excuse,
    history.ListDead: _Player.list_dead,
    history.Revive: _Player.revive,
    history.Discard: _Player.discard,
    history.Cancel: _Player.cancel,
    history.Find: _Player.find,
    history.ListWaiting: _Player.list_waiting,
    history.ListMatching: _Player.list_matching,
    history.CountGroups: _Player.count_groups,
    history.ListStuck: _Player.list_stuck,
    history.Purge: _Player.purge,
    history.Count: _Player.count,
    history.SendBound: _Player.send_bound,
    history.SetSavepoint: _Player.set_savepoint,
    history.EndSavepoint: _Player.end_savepoint,
    history.EndTransaction: _Player.end_transaction,
    history.Lock: _Player.lock,
    history.RenewLock: _Player.renew_lock,
    history.Unlock: _Player.unlock,
    history.Announce: _Player.announce,
    history.ListWorkers: _Player.list_workers,
    history.SetControl: _Player.set_control,
    history.ListControls: _Player.list_controls,
    history.ChangeLimit: _Player.change_limit,
    history.Drain: _Player.drain,
}
"""By call: the method that runs it again."""
