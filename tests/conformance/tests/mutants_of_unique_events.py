"""Bugs of unique events: who has a key, for how long, and what is left of a duplicate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from relevo import Ack, BoundSender, Envelope, Settlement, State
from relevo.errors import SendError
from relevo_conformance import promise
from relevo_memory import MemoryTransport
from relevo_memory._store import Posting
from relevo_memory._unique import PostedClaim, UniqueKeys, _Holder

from .memory import BreakableStore
from .planting import planted


class Keys(UniqueKeys):
    """Keys with hooks for what decides a claim; none of them changes anything."""

    def key_of(self, claim: PostedClaim, envelope: Envelope) -> tuple[str, str]:
        """Return the application and the key of *claim*."""
        return envelope.source, claim.key

    def _decide(self, claim: PostedClaim, envelope: Envelope, now: float) -> None:
        source, key = self.key_of(claim, envelope)
        asked = PostedClaim(key, claim.within, claim.decided)
        stands_in = Envelope(id=envelope.id, source=source, name=envelope.name, body=envelope.body)
        super()._decide(asked, stands_in, now)
        claim.granted = asked.granted


class Keyed(BreakableStore):
    """A store with keys of the kind that its class names."""

    keys: type[UniqueKeys] = UniqueKeys

    def __init__(self) -> None:
        super().__init__()
        self._unique = self.keys(self._lives)


# --- who has the key -------------------------------------------------------------------------------


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class TakesNoKey(Keyed):
    """Every event with a key is accepted."""

    class keys(UniqueKeys):  # noqa: N801 - the attribute
        def _has_its_key(self, at: tuple[str, str], holder: _Holder, now: float) -> bool:
            return False


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class KeepsAKeyForItsTimeAlone(Keyed):
    """An event that lives longer than the time of its key loses it."""

    class keys(UniqueKeys):  # noqa: N801 - the attribute
        def _has_its_key(self, at: tuple[str, str], holder: _Holder, now: float) -> bool:
            return now < holder.until


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class IgnoresTheTimeOfAKey(Keyed):
    """An event loses its key when it is settled, although the key is taken for longer."""

    class keys(UniqueKeys):  # noqa: N801 - the attribute
        def _has_its_key(self, at: tuple[str, str], holder: _Holder, now: float) -> bool:
            return self._lives(at[0], holder.event_id)


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class KeepsTheFirstTimeOfAKey(Keyed):
    """The time of a key begins with its first event, and the next one does not begin it again."""

    class keys(UniqueKeys):  # noqa: N801 - the attribute
        def __init__(self, lives: Callable[[str, str], bool]) -> None:
            super().__init__(lives)
            self._firsts: dict[tuple[str, str], float] = {}

        def _has_its_key(self, at: tuple[str, str], holder: _Holder, now: float) -> bool:
            until = self._firsts.setdefault(at, holder.until)
            return now < until or self._lives(at[0], holder.event_id)


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class TakesLeasedForGone(Keyed):
    """An event loses its key when it is handed out."""

    def _lives(self, source: str, event_id: str) -> bool:
        return any(
            event.receipt is None and isinstance(event.envelope, Envelope) and event.envelope.id == event_id
            for queue in self._queues.values()
            for event in queue.events.values()
        )


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class FreesTheKeyUntilTheRetry(Keyed):
    """An event has no key while it waits for its next attempt."""

    def _lives(self, source: str, event_id: str) -> bool:
        return any(
            isinstance(event.envelope, Envelope)
            and (event.envelope.source, event.envelope.id) == (source, event_id)
            and not (event.status is State.SCHEDULED and event.counters.attempt > 1)
            for queue in self._queues.values()
            for event in queue.events.values()
        )


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class LooksForNoEventInAnOutbox(Keyed):
    """An event in an outbox has no key: it is looked for under the name of the queue that it is stored in."""

    def _lives(self, source: str, event_id: str) -> bool:
        return any((name, source, event_id) in queue._identities for name, queue in self._queues.items())


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class ForgetsTheKeysOfLivingEvents(Keyed):
    """When many keys are stored, those whose time is over are forgotten, although their events live."""

    class keys(UniqueKeys):  # noqa: N801 - the attribute
        def _sweep(self, now: float) -> None:
            if len(self._holders) >= self._sweep_at:
                self._holders = {at: each for at, each in self._holders.items() if now < each.until}


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class ShortensTheTimeWithASecondSend(Keyed):
    """An event that is sent again gets the time of its second send, which may be shorter."""

    class keys(UniqueKeys):  # noqa: N801 - the attribute
        def _decide(self, claim: PostedClaim, envelope: Envelope, now: float) -> None:
            super()._decide(claim, envelope, now)
            at = envelope.source, claim.key
            if claim.granted and self._holders[at].event_id == envelope.id:
                self._holders[at] = _Holder(envelope.id, now + claim.within)


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class LooksForCopiesInOneQueue(Keyed):
    """An event loses its key when its copy in one queue is settled, although another copy is stored."""

    def _lives(self, source: str, event_id: str) -> bool:
        return any(queue.holds(source, event_id) for queue in list(self._queues.values())[:1])


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class IgnoresTheCaseOfAKey(Keyed):
    """Two keys that differ in the case of their letters are one."""

    class keys(Keys):  # noqa: N801 - the attribute
        def key_of(self, claim: PostedClaim, envelope: Envelope) -> tuple[str, str]:
            return envelope.source, claim.key.lower()


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class IgnoresSpacesAtTheEndOfAKey(Keyed):
    """Two keys that differ in spaces at their ends are one."""

    class keys(Keys):  # noqa: N801 - the attribute
        def key_of(self, claim: PostedClaim, envelope: Envelope) -> tuple[str, str]:
            return envelope.source, claim.key.rstrip(" ")


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class CutsALongKey(Keyed):
    """A key is cut at 254 characters."""

    class keys(Keys):  # noqa: N801 - the attribute
        def key_of(self, claim: PostedClaim, envelope: Envelope) -> tuple[str, str]:
            return envelope.source, claim.key[:254]


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class HasKeysForAllApplications(Keyed):
    """An application finds a key taken that another one uses."""

    class keys(Keys):  # noqa: N801 - the attribute
        def key_of(self, claim: PostedClaim, envelope: Envelope) -> tuple[str, str]:
            return "", claim.key

    def _lives(self, source: str, event_id: str) -> bool:
        return any(
            isinstance(event.envelope, Envelope) and event.envelope.id == event_id
            for queue in self._queues.values()
            for event in queue.events.values()
        )


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class JoinsSourceAndKey(Keyed):
    """The name of the application and the key are joined without a boundary."""

    class keys(Keys):  # noqa: N801 - the attribute
        def key_of(self, claim: PostedClaim, envelope: Envelope) -> tuple[str, str]:
            return "", envelope.source + claim.key

    _lives = HasKeysForAllApplications._lives


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class TakesTheSameEventForADuplicate(Keyed):
    """An event that is sent again is a duplicate of itself."""

    class keys(UniqueKeys):  # noqa: N801 - the attribute
        def _decide(self, claim: PostedClaim, envelope: Envelope, now: float) -> None:
            known = self._holders.get((envelope.source, claim.key))
            super()._decide(claim, envelope, now)
            if known is not None and known.event_id == envelope.id:
                claim.decided(envelope.id)


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class KeepsTheKeyOfADeadLetter(Keyed):
    """A dead letter has its key still."""

    def _lives(self, source: str, event_id: str) -> bool:
        dead = self.dead_letters(list(self._queues), after=None, limit=1000)
        return super()._lives(source, event_id) or any(
            isinstance(each.envelope, Envelope) and each.envelope.id == event_id for each in dead
        )


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class TakesASettledEventForASecondCopy(Keyed):
    """An event that was settled is accepted again with its key, although that is taken for longer."""

    class keys(UniqueKeys):  # noqa: N801 - the attribute
        def _decide(self, claim: PostedClaim, envelope: Envelope, now: float) -> None:
            known = self._holders.get((envelope.source, claim.key))
            if known is not None and known.event_id == envelope.id:
                self._holders.pop((envelope.source, claim.key))
            super()._decide(claim, envelope, now)


# --- what is returned, and what is left ------------------------------------------------------------


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class StoresTheDuplicate(Keyed):
    """A duplicate is reported and stored nevertheless."""

    class keys(UniqueKeys):  # noqa: N801 - the attribute
        def grants(self, claim: PostedClaim, envelope: Envelope, now: float) -> bool:
            super().grants(claim, envelope, now)
            return True


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class StoresOtherCopiesOfTheDuplicate(Keyed):
    """Of a duplicate the copies for the second queue and the later ones are stored."""

    class keys(UniqueKeys):  # noqa: N801 - the attribute
        def grants(self, claim: PostedClaim, envelope: Envelope, now: float) -> bool:
            is_first = claim.granted is None
            return super().grants(claim, envelope, now) or not is_first


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class ReturnsTheIdOfTheDuplicate(MemoryTransport):
    """The sender of a duplicate gets its own id instead of that of the event that lives."""

    def send_unique(
        self, envelopes: Sequence[Envelope], *, key: str, within: float = 0.0, delay: float = 0.0
    ) -> str | None:
        living = super().send_unique(envelopes, key=key, within=within, delay=delay)
        return living and envelopes[0].id


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class DropsTheDelay(MemoryTransport):
    """A key is taken from the time at which a delayed event is due, and free until then."""

    def send_unique(
        self, envelopes: Sequence[Envelope], *, key: str, within: float = 0.0, delay: float = 0.0
    ) -> str | None:
        if delay:
            self.send(envelopes, delay=delay)
            return None
        return super().send_unique(envelopes, key=key, within=within)


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class KeepsTheKeyOfWhatItRefused(MemoryTransport):
    """An event that is refused, since it cannot be written, has its key for its time."""

    def send_unique(
        self, envelopes: Sequence[Envelope], *, key: str, within: float = 0.0, delay: float = 0.0
    ) -> str | None:
        try:
            return super().send_unique(envelopes, key=key, within=within, delay=delay)
        except SendError:
            with self.store.changed:
                claim = PostedClaim(key, within, lambda _: None)
                self.store._unique.grants(claim, envelopes[0], self._clock.now())
            raise


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class FreesTheKeyWithARetry(MemoryTransport):
    """An event loses its key when it is given back."""

    def _settle(self, settlements: Sequence[Settlement]) -> Any:
        lost = super()._settle(settlements)
        given_back = [delivery for delivery, outcome in settlements if not isinstance(outcome, Ack)]
        ids = {one.envelope.id for one in given_back if isinstance(one.envelope, Envelope)}
        keys = self.store._unique
        keys._holders = {at: each for at, each in keys._holders.items() if each.event_id not in ids}
        return lost


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class LooksBeforeItSends(MemoryTransport):
    """Whether an event has the key is read in a step of its own, before the event is written."""

    def send_unique(
        self, envelopes: Sequence[Envelope], *, key: str, within: float = 0.0, delay: float = 0.0
    ) -> str | None:
        first, store = envelopes[0], self.store
        with store.changed:
            now = self._now()
            holder = store._unique._holders.get((first.source, key))
            has_it = holder is not None and store._unique._has_its_key((first.source, key), holder, now)
        if holder is not None and has_it and holder.event_id != first.id:
            return holder.event_id
        self.send(envelopes, delay=delay)
        with store.changed:
            store._unique._holders[first.source, key] = _Holder(first.id, now + within)
        return None


# --- in a transaction ------------------------------------------------------------------------------


class _Plain:
    """A sender that decides at the send."""

    def __init__(self, transport: MemoryTransport, inner: Any) -> None:
        self.transport = transport
        self.inner = inner

    def send(self, make: Callable[[], Sequence[Envelope]], *, delay: float = 0.0) -> None:
        self.inner.send(make, delay=delay)

    def send_unique(
        self,
        make: Callable[[], Sequence[Envelope]],
        *,
        key: str,
        within: float,
        decided: Callable[[str | None], object],
        delay: float = 0.0,
    ) -> None:
        envelopes, store = make(), self.transport.store
        claim = PostedClaim(key, within, decided)
        with store.changed:
            if store._unique.grants(claim, envelopes[0], self.transport._clock.now()):
                self.inner.send(lambda: envelopes, delay=delay)


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class DecidesAtTheSend(MemoryTransport):
    """In a transaction it is decided at the send whether an event has the key, not at the commit."""

    def bound_to(self, session: Any, *, relay_to: str | None = None) -> BoundSender:
        return _Plain(self, super().bound_to(session, relay_to=relay_to))


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class ForgetsTheKeyInATransaction(MemoryTransport):
    """In a transaction an event is sent without its key."""

    def bound_to(self, session: Any, *, relay_to: str | None = None) -> BoundSender:
        sender: Any = super().bound_to(session, relay_to=relay_to)

        class Keyless(_Plain):
            def send_unique(
                self,
                make: Callable[[], Sequence[Envelope]],
                *,
                key: str,
                within: float,
                decided: Callable[[str | None], object],
                delay: float = 0.0,
            ) -> None:
                self.inner.send(make, delay=delay)
                decided(None)

        return Keyless(self, sender)


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class DecidesAllOfATransactionFirst(Keyed):
    """The keys of a transaction's events are looked up before the first of its events is stored."""

    def add(self, postings: Sequence[Posting], now: float) -> None:
        with self.changed:
            for posting in postings:
                if posting.claim is not None:
                    self._unique.grants(posting.claim, posting.envelope, now)
            super().add(postings, now)


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, by_chance=False)
class DropsWhatComesWithADuplicate(Keyed):
    """If one event of a transaction is a duplicate, the others are not stored either."""

    def add(self, postings: Sequence[Posting], now: float) -> None:
        with self.changed:
            claims = [(each.claim, each.envelope) for each in postings if each.claim is not None]
            if False not in [self._unique.grants(claim, envelope, now) for claim, envelope in claims]:
                super().add(postings, now)
