"""Dead letters that another transport keeps, as a database does for a broker."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from logging import getLogger
from types import MappingProxyType
from typing import Any, TypeVar

import attrs

from relevo._clock import Clock
from relevo._transport.delivery import Ack, DeadLetter, Delivery, Settlement, Unreadable
from relevo._transport.envelope import Envelope
from relevo._transport.route import kept_prefix
from relevo._transport.transport import DeadLetterEntry, Transport
from relevo.errors import ConfigurationError, RelevoError, SendError, SettleError, TransportUnavailableError

T = TypeVar("T")

_log = getLogger("relevo.transport")

_MOVED = Ack(moved=True)

_PACKED = MappingProxyType({"relevo-packed": "1"})
"""The headers of a dead letter whose body is what :meth:`DeadLetterOwner.packed` has returned."""

_LONGEST = 255
"""The most characters of a text that every database holds in a column."""

_LEASE = 60.0
"""Seconds for which a delivery is held at least while its dead letter is stored; the worker renews it after that."""

_REST, _LONGEST_REST = 9.0, 60.0
"""After an outage the store is left alone: for this many times as long as the call took, this many seconds at most."""

_PAGE = 100


class DeadLetterKeeper(ABC):
    """
    A transport that can keep the dead letters of other transports beside its own.

    They are in queues of their own, whose names begin with ``outbox/``; :meth:`Transport.dead_letters` and
    :meth:`Transport.stats` read them as those of any queue.
    """

    @abstractmethod
    def keep_dead_letters(self, letters: Sequence[DeadLetterEntry], *, dying: bool = False) -> Sequence[str]:
        """
        Store *letters*, all or none, durably, and beside earlier dead letters of the same events.

        Args:
            letters: Their refs are ignored. An envelope has texts that any database can hold.

            dying: They die now, at the time at which they are stored, so that they are listed in the order of their
                deaths although several processes store some. Otherwise each has died at its ``died_at``.

        Returns:
            The ref of each, in the same order. Later ones are greater in the order of :meth:`Transport.dead_letters`.

        Raises:
            SendError: The store refused some, as those that are too large; nothing was stored.

            TransportUnavailableError: The store could not be reached.

            ConfigurationError: It is not set up.
        """

    @abstractmethod
    def replace_earlier(self, refs: Iterable[str]) -> None:
        """
        Delete the dead letters that are copies of those of *refs*, and were stored before them.

        Copies have the same queue, source, id and content. Unreadable bytes have none.

        Raises:
            TransportUnavailableError: The store could not be reached.
        """

    @abstractmethod
    def remove_dead_letters(
        self, refs: Iterable[str], first: Callable[[Sequence[DeadLetterEntry]], Iterable[str]]
    ) -> Sequence[str]:
        """
        Call *first* once with the dead letters of *refs*, and delete those whose refs it returns.

        Another call for one of them waits until they are deleted, and does not find them then. If *first* raises, they
        all stay, and the error is raised.

        Returns:
            The refs of which no dead letter was deleted, in any order.

        Raises:
            TransportUnavailableError: The store could not be reached.
        """


class DeadLetterOwner(ABC):
    """
    A transport whose dead letters another one can keep.

    Its methods ``_settle``, ``stats``, ``dead_letters``, ``_revive`` and ``discard`` ask :attr:`kept` for it, if that
    is set. It then claims ``dead_letters``, also if it has none of its own, and that a settlement is only ``sent``.
    """

    kept: KeptDeadLetters | None = None
    """The dead letters that another transport keeps; the application sets it before the first use."""

    @property
    @abstractmethod
    def kept_under(self) -> str:
        """
        A word without a slash that distinguishes its dead letters from those of other applications in the store.

        It is the same in all processes that serve its queues.
        """

    @abstractmethod
    def packed(self, envelope: Envelope | Unreadable, queue: str) -> bytes:
        """
        Return what is not a plain envelope as bytes: unreadable bytes, a foreign envelope, or one with unusual texts.

        Args:
            envelope: The event as it was received from *queue*.

            queue: The queue.
        """

    @abstractmethod
    def unpacked(self, packed: bytes, queue: str) -> Envelope | Unreadable:
        """Return the event that :meth:`packed` has made *packed* of; unreadable bytes if nothing has."""

    @abstractmethod
    def restore(self, letters: Sequence[DeadLetterEntry]) -> Sequence[int]:
        """
        Send dead letters to their queues again, each with its state and time of sending, as new: the first attempt.

        Returns:
            The positions of those that need not be kept any longer. Where ``dedupe`` is claimed, one stays if another
            event with its id is in its queue.

        Raises:
            SendError: Not all are known to be safe, as from :meth:`Transport.send`.

            TransportUnavailableError: The server could not be reached; nothing was sent.
        """


def keep_elsewhere(owner: Transport, keeper: Transport) -> None:
    """Let *keeper*, which is a :class:`DeadLetterKeeper`, keep the dead letters of *owner*, which can leave them."""
    assert isinstance(owner, DeadLetterOwner)  # noqa: S101 - both were checked
    assert isinstance(keeper, DeadLetterKeeper)  # noqa: S101 - as above
    owner.kept = KeptDeadLetters(owner, keeper)
    # A crash between the two stores may bring an extra copy.
    owner.capabilities = attrs.evolve(owner.capabilities, dead_letters=True, settlement="sent")


class KeptDeadLetters:
    """
    The dead letters of a transport in another one.

    A dead letter is stored before its delivery is acked. So after a crash between the two the event is there twice: it
    is delivered again, and its next dead letter replaces the first one. If the delivery proves lost, the dead letter is
    deleted again, by its own ref: that of another worker stays. Where leases can be extended, that is found out before
    anything is stored.

    Args:
        owner: The transport of the events. It is a :class:`Transport`, too.

        keeper: The transport that keeps them. It is a :class:`Transport`, too.
    """

    def __init__(self, owner: DeadLetterOwner, keeper: DeadLetterKeeper):
        assert isinstance(owner, Transport)  # noqa: S101 - for mypy
        assert isinstance(keeper, Transport)  # noqa: S101 - for mypy
        self._owner, self._transport = owner, owner
        self._keeper, self.store = keeper, keeper
        self._rests_until = 0.0
        self._outage = ""

    # --- settling -------------------------------------------------------------------------------------

    def settle(
        self, settlements: Sequence[Settlement], settle: Callable[[Sequence[Settlement]], Sequence[Delivery]]
    ) -> Sequence[Delivery]:
        """
        Store the dead letters among *settlements*, then settle all but those that could not be stored.

        Args:
            settlements: As of :meth:`Transport.settle`.

            settle: Settles on the owner; it gets an ack in place of each dead letter.

        Raises:
            SettleError: Some dead letters could not be stored, or as from *settle*.
        """
        dying = [delivery for delivery, outcome in settlements if isinstance(outcome, DeadLetter)]
        if not dying:
            return settle(settlements)
        gone = self._no_longer_held(dying)
        letters = {
            position: self._letter(delivery, outcome)
            for position, (delivery, outcome) in enumerate(settlements)
            if isinstance(outcome, DeadLetter) and delivery not in gone
        }
        refs, why = self._keep(letters, dying=True)
        passed = {
            position: (delivery, _MOVED if position in refs else outcome)
            for position, (delivery, outcome) in enumerate(settlements)
            if position in refs or not isinstance(outcome, DeadLetter)
        }
        lost: list[Any] = [delivery for delivery in dying if delivery in gone]
        unsettled: list[object] = [settlements[position][0] for position in letters if position not in refs]
        undone: Iterable[object] = ()
        try:
            if passed:
                undone = settle([*passed.values()])
                lost += undone
        except SettleError as error:
            why = error.why
            lost += error.lost
            unsettled += error.unsettled
            undone = (*error.lost, *error.unsettled)
        except ConfigurationError:  # nothing was settled
            self._conclude(refs, set(refs))
            raise
        self._conclude(refs, _positions(passed, undone))
        if unsettled:
            raise SettleError(self._transport.name, lost=lost, unsettled=unsettled, why=why)
        return lost

    def _no_longer_held(self, deliveries: Iterable[Delivery]) -> frozenset[Delivery]:
        """Return those of *deliveries* that are lost, if the owner can tell; it keeps the others for both steps."""
        if not self._transport.capabilities.extend:
            return frozenset()
        return frozenset(self._transport.extend([*dict.fromkeys(deliveries)], lease=_LEASE))

    def _letter(self, delivery: Delivery, outcome: DeadLetter) -> DeadLetterEntry:
        return DeadLetterEntry(
            ref="",
            queue=delivery.queue,
            envelope=delivery.envelope,
            reason=outcome.reason,
            error=outcome.error,
            state=delivery.state if outcome.state is None else outcome.state,
            attempt=delivery.attempt,
            lost_leases=delivery.lost_leases,
            enqueued_at=delivery.enqueued_at,
            died_at=self._clock.now(),
        )

    def _keep(self, letters: Mapping[int, DeadLetterEntry], *, dying: bool) -> tuple[dict[int, str], str]:
        """Store *letters*, one by one if the store refuses them; return the ref of each, and why one has none."""
        if not letters:
            return {}, ""
        try:
            stored = [self._stored(letter) for letter in letters.values()]
            refs = self._asked(lambda: self._keeper.keep_dead_letters(stored, dying=dying))
            return dict(zip(letters, refs, strict=True)), ""
        except (RelevoError, ValueError) as error:
            is_of_one = isinstance(error, (SendError, ValueError))  # such as a text that cannot be encoded
            if len(letters) == 1 or not is_of_one:
                return {}, f'the dead letter could not be stored in "{self.store.name}": {error}'
        each = [self._keep({position: letter}, dying=dying) for position, letter in letters.items()]
        return {position: ref for refs, _ in each for position, ref in refs.items()}, max(why for _, why in each)

    def _asked(self, ask: Callable[[], T]) -> T:
        """
        Return what *ask* returns, which calls the store for a worker; fail at once soon after an outage.

        A server that does not answer holds a worker up until a timeout ends. It tries again each second, and has other
        events to handle.
        """
        began = self._clock.monotonic()
        if began < self._rests_until:
            raise TransportUnavailableError(self.store.name, self._outage)
        try:
            return ask()
        except SendError:
            raise
        except RelevoError as error:
            now = self._clock.monotonic()
            self._rests_until = now + min(_REST * (now - began), _LONGEST_REST)
            self._outage = getattr(error, "why", str(error))
            raise

    @property
    def _clock(self) -> Clock:
        clock = self._transport.clock
        assert clock is not None  # noqa: S101 - an owner has one
        return clock

    def _conclude(self, refs: Mapping[int, str], gone: set[int]) -> None:
        """Delete those of *refs* whose deliveries are *gone*, and earlier dead letters of the others."""
        undone = [ref for position, ref in refs.items() if position in gone]
        final = [ref for position, ref in refs.items() if position not in gone]
        try:
            if undone:
                self.store.discard(undone)
            if final:
                self._keeper.replace_earlier(final)
        except RelevoError as error:
            _log.warning(
                'the transport "%s": of %d dead letters that were stored in "%s", some may be there twice, or be those '
                "of events that are delivered again: %s",
                self._transport.name,
                len(refs),
                self.store.name,
                error,
            )

    # --- dead letters ---------------------------------------------------------------------------------

    def queue(self, of: str) -> str:
        """Return the queue of the store that has the dead letters of the owner's queue *of*."""
        return f"{self._prefix}{of}"

    def entries(self, queues: Sequence[str], *, after: str | None, limit: int) -> list[DeadLetterEntry]:
        """Return dead letters as :meth:`Transport.dead_letters` does."""
        names = [self.queue(queue) for queue in queues]
        return [self._shown(each) for each in self.store.dead_letters(names, after=after, limit=limit)]

    def count(self, queue: str) -> int | None:
        """Return the number of dead letters of *queue*; ``None`` if the store does not tell."""
        try:
            return self._asked(lambda: self.store.stats(self.queue(queue))).dead
        except RelevoError as error:
            _log.info('the dead letters of "%s" are not counted: %s', self._transport.name, error)
            return None

    def revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        """
        Send dead letters again, then delete them; return the missing refs, as :meth:`Transport.revive` does.

        Raises:
            TransportUnavailableError: The server could not be reached, or did not confirm all; the others stay.
        """
        problems: list[SendError] = []

        def send(entries: Sequence[DeadLetterEntry]) -> Iterable[str]:
            found = [attrs.evolve(self._shown(each), state=refs[each.ref]) for each in self._own(entries)]
            try:
                sent = self._owner.restore(found)
            except SendError as error:
                sent = error.sent
                problems.append(error)
            return [found[position].ref for position in sent]

        missing = self._keeper.remove_dead_letters(refs, send)
        if problems:
            why = f"not every dead letter could be sent again: {problems[0].why}"
            raise TransportUnavailableError(self._transport.name, why)
        return missing

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        """Delete dead letters; return the refs that were not found."""
        return self._keeper.remove_dead_letters(refs, lambda entries: [each.ref for each in self._own(entries)])

    def adopt(
        self,
        queues: Iterable[str],
        entries: Callable[..., Sequence[DeadLetterEntry]],
        discard: Callable[[Sequence[str]], Sequence[str]],
    ) -> None:
        """
        Move the dead letters that the owner keeps itself: of the time before, or that its server has made.

        Args:
            queues: Their queues.

            entries: The owner's own :meth:`Transport.dead_letters`.

            discard: The owner's own :meth:`Transport.discard`.
        """
        for queue in queues:
            after: str | None = None
            while page := entries([queue], after=after, limit=_PAGE):
                refs, why = self._keep(dict(enumerate(page)), dying=False)
                if why:
                    _log.warning('dead letters of "%s" stay where they are: %s', self._transport.name, why)
                missing = frozenset(discard([page[position].ref for position in refs]))
                self._conclude(refs, {position for position in refs if page[position].ref in missing})
                after = page[-1].ref

    def _own(self, entries: Iterable[DeadLetterEntry]) -> Iterable[DeadLetterEntry]:
        return (each for each in entries if each.queue.startswith(self._prefix))

    @property
    def _prefix(self) -> str:
        return kept_prefix(self._transport.name, self._owner.kept_under)

    # --- the form in the store ------------------------------------------------------------------------

    def _stored(self, letter: DeadLetterEntry) -> DeadLetterEntry:
        """Return *letter* in a form that every database can hold, in the queue of the store."""
        of, queue = letter.envelope, self.queue(letter.queue)
        if type(of) is Envelope and _is_plain(of):
            return attrs.evolve(letter, queue=queue)
        packed = self._owner.packed(of, letter.queue)
        form: Envelope | Unreadable = Unreadable(raw=packed, headers=_PACKED, why="")
        if isinstance(of, Envelope) and _are_plain(of.id, of.source, of.name):
            # So that a later dead letter of the same event replaces it.
            form = Envelope(id=of.id, source=of.source, name=of.name, queue="", body=packed, headers=_PACKED)
        return attrs.evolve(letter, queue=queue, envelope=form)

    def _shown(self, entry: DeadLetterEntry) -> DeadLetterEntry:
        """Return the dead letter that :meth:`_stored` has made *entry* of."""
        of, queue = entry.envelope, entry.queue.removeprefix(self._prefix)
        if of.headers == _PACKED:
            of = self._owner.unpacked(of.body if isinstance(of, Envelope) else of.raw, queue)
        return attrs.evolve(entry, queue=queue, envelope=of)


def _positions(passed: Mapping[int, Settlement], gone: Iterable[object]) -> set[int]:
    """Return the positions of the deliveries *gone*; of two settlements of one delivery the second is lost."""
    number = Counter(gone)
    found = set()
    for position, (delivery, _) in reversed([*passed.items()]):
        if number[delivery]:
            number[delivery] -= 1
            found.add(position)
    return found


def _is_plain(envelope: Envelope) -> bool:
    """Return whether every database can hold *envelope* in its columns."""
    texts = (envelope.id, envelope.source, envelope.name, envelope.queue, envelope.ordering_key or "")
    return (
        _are_plain(*texts)
        and all(_is_text(text) for pair in envelope.headers.items() for text in pair)
        and envelope.headers != _PACKED
        and (envelope.expires is None or math.isfinite(envelope.expires))
    )


def _are_plain(*texts: str) -> bool:
    return all(len(text) <= _LONGEST and _is_text(text) for text in texts)


def _is_text(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False
