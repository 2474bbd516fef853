"""Bugs of states, notes and deaths: an empty state instead of a missing one, batches, and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from relevo import Action, DeadLetter, Delivery, Found, Lost, Nack, Note, Outcome, Presence, Release, Settlement, State
from relevo_conformance import promise
from relevo_memory import MemoryTransport
from relevo_memory._queue import EventQueue, KeptEvent
from relevo_memory._store import Posting

from .memory import BreakableStore
from .planting import Altered, AlteredStore, Patches, at_each_step, living, planted_pair

# --- the state -------------------------------------------------------------------------------------


class AfterCheckpoints(AlteredStore):
    """Records the state that was handed out, and the number of checkpoints since."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        taken = super().claim(queues, limit=limit, lease=lease, now=now)
        for one in taken:
            event = self._held(one, now)
            if event is not None:
                vars(event)["handed"], vars(event)["points"] = event.state, 0
        return taken

    def checkpoint(self, delivery: Delivery, state: bytes, now: float) -> bool:
        event = self._held(delivery, now)
        if event is not None:
            vars(event)["points"] += 1
        return super().checkpoint(delivery, state, now)


class ForgetfulAfterCheckpoints(AfterCheckpoints):
    """Restores the state that was handed out when a delivery with a checkpoint ends with an outcome of one *kind*."""

    kind: type[Outcome]

    def ending(self, event: KeptEvent, outcome: Outcome) -> Outcome:
        silent = getattr(outcome, "state", None) is None
        if isinstance(outcome, self.kind) and silent and vars(event).get("points"):
            event.state = vars(event)["handed"]
        return outcome


@planted_pair(promise.NACK_RETURNS_LATER)
class ForgetsTheCheckpointAtANack(ForgetfulAfterCheckpoints):
    """A nack without a state restores the state from before the checkpoint."""

    kind = Nack


@planted_pair(promise.RELEASE_COUNTS_NOTHING)
class ForgetsTheCheckpointAtARelease(ForgetfulAfterCheckpoints):
    """A release restores the state from before the checkpoint."""

    kind = Release


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class ForgetsTheCheckpointAtADeath(ForgetfulAfterCheckpoints):
    """A dead letter without a state gets the state from before the checkpoint."""

    kind = DeadLetter


@planted_pair(promise.CHECKPOINT_SURVIVES_A_LOST_LEASE)
class ForgetsTheCheckpointOfWhatIsReportedLost(ForgetfulAfterCheckpoints):
    """Reporting a delivery as lost restores the state from before the checkpoint."""

    kind = Lost


@planted_pair(promise.CHECKPOINT_SURVIVES_A_LOST_LEASE)
class KeepsTheFirstCheckpoint(AfterCheckpoints):
    """The second checkpoint of a delivery is not stored."""

    def checkpoint(self, delivery: Delivery, state: bytes, now: float) -> bool:
        event = self._held(delivery, now)
        first = event is None or not vars(event)["points"]
        return super().checkpoint(delivery, state if first or event is None else event.state, now)


@planted_pair(promise.CHECKPOINT_SURVIVES_A_LOST_LEASE)
class KeepsNoEmptyCheckpoint(BreakableStore):
    """A checkpoint with an empty state does not replace the old state."""

    def checkpoint(self, delivery: Delivery, state: bytes, now: float) -> bool:
        event = self._held(delivery, now)
        return super().checkpoint(delivery, state or (b"" if event is None else event.state), now)


@planted_pair(promise.CHECKPOINT_SURVIVES_A_LOST_LEASE)
class CheckpointsTheWholeBatch(BreakableStore):
    """A checkpoint sets the state of all events that are held in the queue."""

    def checkpoint(self, delivery: Delivery, state: bytes, now: float) -> bool:
        is_held = super().checkpoint(delivery, state, now)
        for queue, event in living(self):
            if is_held and queue.name == delivery.queue and event.status is State.LEASED:
                event.state = state
        return is_held


@planted_pair(
    promise.LOST_LEASES_ARE_COUNTED,
    patches=at_each_step(
        lambda queue, event, did: (
            setattr(event, "state", b"") if did is Action.LOSE and event.counters.lost_leases > 1 else None
        )
    ),
)
class ForgetsTheStateAtTheSecondLostLease(MemoryTransport):
    """The second lost lease of an event clears its state."""


@planted_pair(
    promise.RELEASE_COUNTS_NOTHING,
    patches=at_each_step(lambda queue, event, did: setattr(event, "state", b"") if did is Action.POSTPONE else None),
)
class ForgetsTheStateAtAReleaseForLater(MemoryTransport):
    """A release with a delay clears the state."""


@planted_pair(
    promise.CHECKPOINT_SURVIVES_A_LOST_LEASE,
    patches=at_each_step(lambda queue, event, did: setattr(event, "state", b"") if did is Action.EXTEND else None),
)
class ForgetsTheStateAtAnExtension(MemoryTransport):
    """An extension clears the state."""


@planted_pair(promise.LOST_LEASES_ARE_COUNTED)
class KeepsTheStateOfWhatIsReportedLostWithNone(Altered):
    """A delivery that is reported lost with an empty state keeps its old state."""

    def settled(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Lost) and outcome.state == b"":
            return attrs.evolve(outcome, state=None)
        return outcome


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class KeepsTheStateOfWhatDiesWithNone(Altered):
    """A dead letter with an empty state keeps the old state."""

    def settled(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        if isinstance(outcome, DeadLetter) and outcome.state == b"":
            return attrs.evolve(outcome, state=None)
        return outcome


@planted_pair(promise.NACK_RETURNS_LATER)
class GivesABatchTheStateOfItsFirst(MemoryTransport):
    """All nacks of a batch get the state of the first one."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        states = [outcome.state for _, outcome in settlements if isinstance(outcome, Nack)]
        return super().settle(
            [
                (one, attrs.evolve(outcome, state=states[0]) if isinstance(outcome, Nack) else outcome)
                for one, outcome in settlements
            ]
        )


@planted_pair(promise.NACK_RETURNS_LATER)
class SettlesABatchByItsLastState(MemoryTransport):
    """A nack without a state gets the state of the nack before it in the batch."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        state: bytes | None = None
        batch: list[Settlement] = []
        for one, outcome in settlements:
            changed = outcome
            if isinstance(outcome, Nack):
                state = outcome.state if outcome.state is not None else state
                changed = attrs.evolve(outcome, state=state)
            batch.append((one, changed))
        return super().settle(batch)


@planted_pair(promise.RESENT_IS_ONE)
class ForgetsTheStateOfWhatIsSentAgain(AlteredStore):
    """Sending an event again while it waits clears its state."""

    def repeated(self, event: KeptEvent, queue: EventQueue, posting: Posting) -> None:
        if event.status is not State.LEASED:
            event.state = b""


@planted_pair(promise.FOUND_AS_IT_IS)
class FindsTheStateFromBeforeACheckpoint(MemoryTransport):
    """A held event is found with its state from before the checkpoint."""

    def find(self, event_id: str) -> Sequence[Found]:
        handed = vars(self.store).setdefault("handed", {})
        return [
            attrs.evolve(one, state=handed.get((one.queue, event_id), one.state)) if one.status == "leased" else one
            for one in super().find(event_id)
        ]

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        came = super().receive(queues, limit=limit, lease=lease, wait=wait)
        handed = vars(self.store).setdefault("handed", {})
        handed.update({(one.queue, getattr(one.envelope, "id", "")): one.state for one in came})
        return came


@planted_pair(promise.NACK_RETURNS_LATER)
class KeepsTheStateOfTheHigherAttempt(Altered):
    """From attempt 3 on, a nack does not replace the state."""

    def settled(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Nack) and delivery.attempt > 2:
            return attrs.evolve(outcome, state=None)
        return outcome


# --- notes and deaths ------------------------------------------------------------------------------


def _without_the_note_after(*actions: Action) -> Patches:
    def spoil(queue: EventQueue, event: KeptEvent, did: Action) -> None:
        if did in actions:
            event.begun = None

    return at_each_step(spoil)


@planted_pair(promise.BEGUN_IS_KEPT, patches=_without_the_note_after(Action.EXTEND))
class ForgetsTheNoteAtAnExtension(MemoryTransport):
    """An extension removes the note."""


@planted_pair(promise.BEGUN_IS_KEPT, patches=_without_the_note_after(Action.CHECKPOINT))
class ForgetsTheNoteAtACheckpoint(MemoryTransport):
    """A checkpoint removes the note."""


@planted_pair(promise.BEGUN_IS_KEPT)
class ForgetsTheNoteAtTheSecondLostLease(AlteredStore):
    """A note that was not renewed is removed at the second lost lease."""

    def taken(self, event: KeptEvent, queue: EventQueue) -> None:
        if event.begun is not None:
            vars(event)["seen"] = vars(event).get("seen", 0) + 1
            if vars(event)["seen"] > 1:
                event.begun = None


@planted_pair(promise.BEGUN_IS_KEPT)
class ForgetsTheDeathsOfANote(BreakableStore):
    """The deaths that a note names are not stored."""

    def begin(self, delivery: Delivery, note: Note, now: float) -> bool:
        event = self._held(delivery, now)
        deaths = () if event is None else event.deaths
        is_held = super().begin(delivery, note, now)
        if event is not None:
            event.deaths = deaths
        return is_held


@planted_pair(promise.BEGUN_IS_KEPT)
class ForgetsTheListenerOfANote(Altered):
    """A note is handed out without its listener."""

    def received(self, delivery: Delivery) -> Delivery:
        begun = delivery.begun
        return delivery if begun is None else attrs.evolve(delivery, begun=attrs.evolve(begun, listener=""))


@planted_pair(promise.BEGUN_IS_KEPT)
class CutsListenersAt64Characters(Altered):
    """The listener of a note is truncated at 64 characters."""

    def received(self, delivery: Delivery) -> Delivery:
        begun = delivery.begun
        return (
            delivery
            if begun is None
            else attrs.evolve(delivery, begun=attrs.evolve(begun, listener=begun.listener[:64]))
        )


@planted_pair(promise.BEGUN_IS_KEPT)
class TurnsTheDeathsAround(Altered):
    """The deaths are handed out in reverse order."""

    def received(self, delivery: Delivery) -> Delivery:
        return attrs.evolve(delivery, deaths=delivery.deaths[::-1])


@planted_pair(promise.BEGUN_IS_KEPT)
class ForgetsTheDeathsWhenANoteIsExcused(BreakableStore):
    """Excusing a note removes the deaths of the event."""

    def excuse(self, delivery: Delivery, note: Note, now: float) -> None:
        super().excuse(delivery, note, now)
        for _, event in living(self):
            if event.begun is not None and event.begun.excused and event.begun.by == note.by:
                event.deaths = ()


@planted_pair(promise.BEGUN_IS_KEPT)
class NotesAllEventsOfAnId(BreakableStore):
    """A note is also stored with the same event in other queues."""

    def begin(self, delivery: Delivery, note: Note, now: float) -> bool:
        is_held = super().begin(delivery, note, now)
        event_id = getattr(delivery.envelope, "id", None)
        for _, event in living(self):
            if is_held and event.identity is not None and event.identity[2] == event_id:
                event.begun = note
        return is_held


@planted_pair(promise.LOST_LEASES_ARE_COUNTED)
class ForgetsTheStateBesideADeath(Altered):
    """A delivery that is reported lost with a death keeps its old state."""

    def settled(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Lost) and outcome.death is not None:
            return attrs.evolve(outcome, state=None)
        return outcome


@planted_pair(promise.BEGUN_IS_KEPT)
class ForgetsTheNoteOfWhatIsSentAgain(AlteredStore):
    """Sending an event again removes its note."""

    def repeated(self, event: KeptEvent, queue: EventQueue, posting: Posting) -> None:
        event.begun = None


@planted_pair(promise.BEGUN_IS_KEPT)
class KeepsTheNoteAtADelayedNack(AlteredStore):
    """A nack with a delay keeps the note."""

    def _end(self, event: KeptEvent, outcome: Outcome, now: float) -> None:
        note = event.begun
        super()._end(event, outcome, now)
        if isinstance(outcome, Nack) and outcome.delay > 0:
            event.begun = note


@planted_pair(promise.BEGUN_IS_KEPT)
class RevivesWithTheNote(BreakableStore):
    """A dead letter is revived with the note of its last delivery."""

    def revive(self, refs: Mapping[str, bytes], now: float) -> list[str]:
        notes = {id(one.event): one.event.begun for many in self._dead._queues.values() for one in many.values()}
        missing = super().revive(refs, now)
        for _, event in living(self):
            event.begun = notes.get(id(event), event.begun)
        return missing


@planted_pair(promise.PRESENCE_IS_SEEN)
class SeesTenWorkers(MemoryTransport):
    """A presence query returns only the first ten workers."""

    def presence(self, workers: Sequence[str]) -> Mapping[str, Presence]:
        return super().presence(workers[:10])


@planted_pair(promise.PRESENCE_IS_SEEN)
class KnowsWorkersBySixteenDigits(MemoryTransport):
    """Workers whose ids have the same first sixteen digits are treated as one."""

    def appear(self, worker: str) -> None:
        super().appear(worker[:16])

    def presence(self, workers: Sequence[str]) -> Mapping[str, Presence]:
        seen = super().presence([worker[:16] for worker in workers])
        return {worker: seen[worker[:16]] for worker in workers if worker[:16] in seen}
