"""The deliveries that a worker holds, whose leases it renews, and the settlements that are flushed together."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from logging import DEBUG, getLogger

import attrs

from relevo._clock import Clock
from relevo._hook import Hooks, notify, observe
from relevo._transport.delivery import DeadLetter, Delivery, Nack, Outcome, Release, Settlement
from relevo._transport.transport import Transport
from relevo._visible import visible
from relevo._worker.decision import epitaph, in_words
from relevo._worker.put_off import Rewrite, delay_of, for_observers, log_put_off, put_off
from relevo.errors import ConfigurationError, SettleError, TransportError, TransportUnavailableError, UnsupportedError

_log = getLogger("relevo.worker")

FLUSH_AFTER = 0.01
"""Seconds after which a settlement no longer waits for others to be flushed with it."""

_MOST_FAILURES = 5
_AGAIN_AFTER = 1.0
"""Seconds after which a settlement that failed is tried again."""

_REMIND_EVERY = 60.0
"""Seconds between two log lines about a lasting problem."""


class Reminder:
    """Decides when to log a lasting problem: at once, and then once a minute."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self._last: float | None = None

    def take_turn(self) -> bool:
        """Return whether to log the problem now; if so, the next time is a minute later."""
        now = self._clock.monotonic()
        if self._last is not None and now - self._last < _REMIND_EVERY:
            return False
        self._last = now
        return True


@contextmanager
def worked_before(transport: str) -> Iterator[None]:
    """Raise a configuration error of *transport* as an outage: the same configuration worked before."""
    try:
        yield
    except ConfigurationError as error:
        raise TransportUnavailableError(transport, f"it worked before, and fails now: {error}") from error


@attrs.define(eq=False, repr=False, slots=False)
class Ledger:
    """
    Keeps the books of one worker; its methods may be called from any of its threads.

    Args:
        transport: The transport that delivers and settles.

        clock: The source of time.

        hooks: Plugins that observe the settling.

        note: Called with the settlements that took effect, and with those of deliveries that were no longer held.

        limit: Flush once this many settlements are pending.

        note_retry: Called with each delivery that was given back for a reason.

        rewrite: Changes the state of a delivery, which may be signed.
    """

    _transport: Transport
    _clock: Clock
    _hooks: Hooks
    _note: Callable[[Sequence[Settlement], Sequence[Settlement]], None]
    _limit: int
    _note_retry: Callable[[Delivery, Nack], object] = lambda _, __: None
    _rewrite: Rewrite = lambda delivery, change: change(delivery.state)

    def __attrs_post_init__(self) -> None:
        self.counts: Counter[type[Outcome]] = Counter()
        """The number of settled deliveries, by outcome."""
        self.reasons: Counter[str] = Counter()
        """The number of dead letters, by reason."""
        self.retry_reasons: Counter[str] = Counter()
        """The number of retries, by reason, of those that have one."""
        self._around = self._hooks.observers("relevo_around_settle")
        self._dead_observers = self._hooks.observers("relevo_dead_lettered")
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._held: dict[Delivery, None] = {}
        self._latest: Sequence[Delivery] = ()
        """The deliveries of the last receive."""
        self._pending: list[Settlement] = []
        self._failed: list[Settlement] = []
        self._put_off: dict[Delivery, DeadLetter] = {}
        """The dead letters that the transport does not keep, until another outcome is settled in their place."""
        self.cut_off = 0
        """How many could not be settled since their connection was lost, if the server has not answered since."""
        self._since = 0.0
        self._failed_at = 0.0
        self._failures = 0
        self._reminder, self._lease_reminder = Reminder(self._clock), Reminder(self._clock)

    def hold(self, deliveries: Sequence[Delivery]) -> None:
        """Note that *deliveries* were received together."""
        self._latest = deliveries
        with self._lock:
            self._held.update(dict.fromkeys(deliveries))

    def holds(self, delivery: Delivery) -> bool:
        """Return whether *delivery* is held, as far as is known."""
        return delivery in self._held

    def held(self) -> int:
        """Return how many are held: received and not known to be settled."""
        return len(self._held)

    def held_now(self) -> list[Delivery]:
        """Return those that are held."""
        with self._lock:
            return list(self._held)

    def waiting(self) -> int:
        """Return the number of settlements that failed and are tried again; their listeners have ended."""
        return len(self._failed)

    def pending(self) -> int:
        """Return how many settlements wait for the next flush."""
        return len(self._pending)

    def keeps_outcomes(self) -> bool:
        """Return whether something was handled and is not settled yet."""
        with self._lock:
            return any(not isinstance(outcome, Release) for _, outcome in (*self._pending, *self._failed))

    def handled(self) -> int:
        """Return how many were settled in any way but released."""
        return self.counts.total() - self.counts[Release]

    def add(self, delivery: Delivery, outcome: Outcome) -> None:
        """
        Note the *outcome* of *delivery*, to be settled with the next flush.

        A dead letter that the transport would not keep is put off instead.
        """
        if isinstance(outcome, DeadLetter) and not self._transport.capabilities.dead_letters:
            self._put_off[delivery] = outcome
            outcome = put_off(delivery, outcome, self._rewrite)
        with self._lock:
            if not self._pending:
                self._since = self._clock.monotonic()
            self._pending.append((delivery, outcome))

    def release(self, deliveries: Iterable[Delivery]) -> None:
        """Note that *deliveries* were not begun."""
        for delivery in deliveries:
            self.add(delivery, Release())

    def ripe(self) -> bool:
        """Return whether settlements wait that should be flushed now."""
        if not self._pending:
            return bool(self._failed) and self._clock.monotonic() - self._failed_at >= _AGAIN_AFTER
        return len(self._pending) >= self._limit or self._clock.monotonic() - self._since >= FLUSH_AFTER

    def flush(self) -> None:
        """
        Settle all that is pending.

        Raises:
            TransportUnavailableError: The server could not be reached; all settlements stay pending.

            SettleError: Some could not be settled, and not for the first time; they are tried again.
        """
        with self._flushing:
            batch = self._take()
            if not batch:
                return
            failure: SettleError | None = None
            try:
                lost = self._settle(batch)
            except SettleError as error:
                failure = error
                lost = [delivery for delivery, _ in batch if delivery in error.lost]
            except BaseException:
                with self._lock:
                    self._pending[:0] = batch
                raise
            gone = frozenset(lost)
            settled = self._enter(batch, gone, failure)
            # Before another flush ends, so that a caller that waits for it sees what could not be settled.
            refused = [
                (delivery, self._put_off.pop(delivery, outcome)) for delivery, outcome in batch if delivery in gone
            ]
            self._note(settled, refused)
            if refused:
                self._lose([delivery for delivery, _ in refused])
            self._report(settled)
        if failure is not None and self._failures > _MOST_FAILURES:
            raise failure

    def extend(self, lease: float) -> None:
        """Keep all held deliveries hidden for another *lease* seconds, if the transport can; forget the lost ones."""
        if not self._transport.capabilities.extend:
            return
        with self._flushing:  # a delivery that is settled meanwhile would seem lost
            held = self.held_now()
            if not held:
                return
            try:
                lost = self._transport.extend(held, lease=lease)
            except TransportError as error:
                if self._lease_reminder.take_turn():
                    several = "the lease of 1 delivery" if len(held) == 1 else f"the leases of {len(held)} deliveries"
                    _log.warning("%s could not be renewed: %s", several, error)
                return
            with self._lock:
                to_settle = {delivery for delivery, _ in (*self._pending, *self._failed)}
                gone = [delivery for delivery in lost if delivery not in to_settle]
                for delivery in gone:
                    self._held.pop(delivery, None)
        for delivery in gone:
            _log.warning(
                "the lease of %s was lost while it was held; it may be handled twice",
                delivery,
                extra={"relevo_kind": "the lease was lost while it was held"},
            )

    def _settle(self, batch: Sequence[Settlement]) -> Sequence[Delivery]:
        with worked_before(self._transport.name):  # what is settled was received before
            if not self._around:
                return self._settle_supported(batch)
            with observe(self._around, transport=self._transport.name, settlements=batch):
                return self._settle_supported(batch)

    def _settle_supported(self, batch: Sequence[Settlement]) -> Sequence[Delivery]:
        """
        Settle *batch*; if the transport refuses an outcome as unsupported, settle all others.

        Raises:
            SettleError: Some were not settled; it names all of them, also those that were not tried.
        """
        try:
            return self._transport.settle(batch)
        except UnsupportedError:
            pass
        lost: list[object] = []
        unsettled: list[object] = []
        why = ""
        for number, entry in enumerate(batch):
            try:
                lost += self._transport.settle([entry])
            except UnsupportedError as error:
                unsettled.append(entry[0])
                why = str(error)
            except SettleError as error:
                lost += error.lost
                unsettled += error.unsettled
                why = error.why
            except (ConfigurationError, TransportError) as error:
                if not number:
                    raise
                unsettled += [delivery for delivery, _ in batch[number:]]  # those before it must not be settled again
                why = str(error)
                break
        if unsettled:
            raise SettleError(self._transport.name, lost=lost, unsettled=unsettled, why=why)
        return [delivery for delivery, _ in batch if delivery in lost]

    def _enter(
        self, batch: Sequence[Settlement], lost: frozenset[Delivery], failure: SettleError | None
    ) -> Sequence[Settlement]:
        """Record the result of settling *batch*; return what was settled."""
        if failure is None:
            self._failures = 0
        unsettled = frozenset(failure.unsettled) if failure else frozenset()
        settled = []
        with self._lock:
            for entry in batch:
                delivery, outcome = entry
                if delivery in unsettled:
                    self._failed.append(entry)
                    continue
                self._held.pop(delivery, None)
                if delivery not in lost:
                    settled.append(entry)
                    self.counts[type(outcome)] += 1
                    if isinstance(outcome, DeadLetter):
                        self.reasons[outcome.reason] += 1
                    elif isinstance(outcome, Nack) and outcome.reason:
                        self.retry_reasons[outcome.reason] += 1
            if failure is not None:
                self._failures += 1
                self._failed_at = self._clock.monotonic()
        if failure is not None and self._reminder.take_turn():
            _log.error("%s; trying again", failure)
        return settled

    def _report(self, settled: Sequence[Settlement]) -> None:
        is_traced = _log.isEnabledFor(DEBUG)
        not_kept: list[tuple[Delivery, DeadLetter]] = []
        for delivery, outcome in settled:
            if is_traced:
                _log.debug("%s: %s", delivery, in_words(outcome))
            if self._put_off and (dead := self._put_off.pop(delivery, None)) is not None:
                not_kept.append((delivery, dead))
            elif isinstance(outcome, DeadLetter):
                kinds = [f"{each.listener}: {each.kind}" for each in outcome.failures if each.listener]
                kind = f"dead: {outcome.reason}: {', '.join(kinds)}" if kinds else f"dead: {outcome.reason}"
                _log.warning(
                    "%s is dead: %s", delivery, visible(epitaph(outcome)), extra={"relevo_kind": visible(kind)}
                )
                notify(self._dead_observers, delivery=delivery, outcome=outcome)
            elif isinstance(outcome, Nack) and outcome.reason:
                self._note_retry(delivery, outcome)
        if not_kept:
            log_put_off(not_kept, transport=self._transport.name)
            for delivery, dead in not_kept:
                outcome = for_observers(dead, due=self._clock.now() + delay_of(dead))
                notify(self._dead_observers, delivery=delivery, outcome=outcome)

    def _lose(self, lost: Sequence[Delivery]) -> None:
        """Log that *lost* were not settled, and forget what was received over the same lost connection."""
        if self._transport.capabilities.lease == "timed":
            text = "%s was no longer held when it was settled: its lease had ended, or an earlier try settled it"
            more = f"; and {len(lost) - 1} more like it" if lost[1:] else ""
            _log.warning(f"{text}%s", lost[0], more, extra={"relevo_kind": "no longer held when it was settled"})
            for delivery in lost[1:]:
                _log.debug(text, delivery)
            return
        self.cut_off += len(lost)
        others = f" and {len(lost) - 1} more" if lost[1:] else ""
        _log.warning(
            "%s%s: not settled, since the connection that held them was lost, or they were given back earlier; the "
            "server delivers them again",
            lost[0],
            others,
        )
        if not frozenset(lost).isdisjoint(self._latest):
            with self._lock:  # the rest is delivered again; to begin it now would repeat it
                for delivery in self._latest:
                    self._held.pop(delivery, None)

    def _take(self) -> list[Settlement]:
        with self._lock:
            batch, self._pending = self._pending, []
            if self._failed and self._clock.monotonic() - self._failed_at >= _AGAIN_AFTER:
                batch += self._failed
                self._failed = []
            return batch
