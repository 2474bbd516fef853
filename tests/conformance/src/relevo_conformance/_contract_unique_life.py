"""Scenarios of unique events that live for long: an event has its key wherever it is, and whatever is done with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from random import Random
from typing import Any

import attrs

from relevo import Ack, Delivery, Envelope
from relevo.errors import CodecError, TransportError, shown
from relevo_conformance import promise
from relevo_conformance._contract_life import Walk, told, without
from relevo_conformance._contract_send import UNWRITABLE
from relevo_conformance._life import KINDS, OPERATIONS, Life, LifeOperation, operations_of, walks
from relevo_conformance.bench import Bench, tolerated
from relevo_conformance.contract import Contract, proves
from relevo_conformance.harness import Harness
from relevo_conformance.worker import RecordedWorker

_LENGTH = 25
"""The number of operations in a life."""

_KEYS, _SLOW_KEYS = 150, 20
"""How many keys events have at a time; and where each send takes time."""

_HOUR, _DAY = 3600.0, 86_400.0

_PAUSES = (60.0, 2 * _HOUR, _DAY, 30 * _DAY)
"""Seconds for which an event stays where it is, on a clock moved by hand."""

_LONG_LEASE, _LONG_DELAY = 6 * _DAY, 60 * _DAY

_TIME = 60.0
"""Seconds for which a key is taken, if that is looked at within a moment."""


class UniqueLife(Life):
    """The life of an event with a key, which is looked at between any two operations."""

    def send(self, event: Envelope, neighbour: Envelope) -> None:
        assert self.holder.send_unique([event], key=_key(self.bench)) is None, "no event has the key, and it is taken"
        self.holder.send([neighbour])

    def glimpse(self) -> None:
        self.require_key()
        super().glimpse()

    def require_key(self) -> None:
        """Require that no other event is accepted with the key."""
        assert isinstance(self.event, Envelope)
        _require_duplicate(self.bench, self.other, self.event)


def _send_again(life: Life) -> None:
    """Send it again with its key, while another worker may hold it."""
    assert isinstance(life.event, Envelope)
    if life.claims.dedupe:
        answer = life.other.send_unique([life.event], key=_key(life.bench))
        assert answer is None, f"the event has the key, and sending it again returned {shown(answer)}"


def _settle_the_earlier(life: Life) -> None:
    """Settle an earlier delivery, if another one is held: a lease that was extended may not be over."""
    if life.hold() is not None and life.earlier is not None:
        life.other.settles(life.earlier, Ack())


_STEPS = {
    **{name: each for name, each in OPERATIONS.items() if "dead_letters" not in each.needs},
    "settle the earlier delivery": LifeOperation(_settle_the_earlier),
    "send again with its key": LifeOperation(_send_again),
}
"""The operations after which it lives."""


@attrs.frozen
class _Stay:
    """Where an event with a key is."""

    words: str
    put: Callable[[Bench, RecordedWorker], Envelope]
    """Sends it, and lets it get there."""

    needs: Callable[[Harness], bool] = lambda harness: True

    def __str__(self) -> str:
        return self.words


def _ready(bench: Bench, worker: RecordedWorker) -> Envelope:
    return _accepted(bench, worker)


def _delayed(bench: Bench, worker: RecordedWorker) -> Envelope:
    return _accepted(bench, worker, delay=_LONG_DELAY if bench.harness.fake else bench.times.delay)


def _held(bench: Bench, worker: RecordedWorker) -> Envelope:
    event = _accepted(bench, worker)
    bench.one(worker, queues=bench.queues[:1], lease=_LONG_LEASE)
    return event


def _taken(bench: Bench, worker: RecordedWorker) -> Envelope:
    event = _accepted(bench, worker, delay=bench.times.delay)
    worker.take(event.queue, event.id, lease=_LONG_LEASE)
    return event


def _retried(bench: Bench, worker: RecordedWorker) -> Envelope:
    event = _accepted(bench, worker)
    later = _LONG_DELAY if bench.harness.fake else bench.times.delay
    worker.nack(bench.one(worker, queues=bench.queues[:1]), delay=later)
    return event


def _behind(**options: Any) -> Callable[[Bench, RecordedWorker], Envelope]:
    """Return a function that sends it behind an event with its ordering key, which is held."""

    def put(bench: Bench, worker: RecordedWorker) -> Envelope:
        worker.send([bench.envelope(ordering_key="k")])
        bench.one(worker, queues=bench.queues[:1], lease=_LONG_LEASE)
        return _accepted(bench, worker, ordering_key="k", **options)

    return put


def _posted(bench: Bench, worker: RecordedWorker) -> Envelope:
    event, name = bench.envelope(), f"broker-{bench.token}"
    bench.outbox(name)
    with worker.transaction() as transaction:
        decided = transaction.send_unique([event], key=_key(bench), relay_to=name)
        transaction.commit()
    assert decided == [None], f"no event has the key, and decided() was called with {decided}"
    return event


def _has(*names: str) -> Callable[[Harness], bool]:
    return lambda harness: all(getattr(harness.capabilities, name) not in (None, False, "none") for name in names)


_PLACES = (
    _Stay("ready", _ready),
    _Stay("delayed", _delayed, _has("delay")),
    _Stay("held", _held),
    _Stay("taken by its id", _taken, _has("take", "delay")),
    _Stay("nacked with a delay", _retried, _has("delay")),
    _Stay("behind another one with its ordering key", _behind(), _has("order")),
    _Stay(
        "delayed, and behind another one with its ordering key", _behind(delay=_LONG_DELAY),
        lambda harness: harness.fake and _has("order", "delay")(harness),
    ),
    _Stay(
        "in an outbox", _posted, lambda harness: harness.capabilities.transactional and harness.has("session")
    ),
)  # fmt: skip


class UniqueLifeContract(Contract):
    """An event has its key for as long as it is stored, and for its time."""

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_an_event_has_its_key_whatever_is_done_with_it(self) -> None:
        names = [name for name in (*operations_of(self.harness), "send again with its key") if name in _STEPS]
        rng = Random(self.profile.seed or 0)  # noqa: S311 - no secret
        found = walks(names, strength=2, length=_LENGTH, rng=rng)
        lives = zip(cycle(self._keyed_kinds()), found, strict=False)
        for number, walk in enumerate(lives):
            if self.harness.fake or number < self.profile.slow_lives:
                self._try_keyed(walk)

    def _keyed_kinds(self) -> Sequence[str]:
        claimed = self.harness.capabilities
        missing = {"an urgent event": not claimed.urgency, "an event with a key": claimed.order == "none"}
        return [kind for kind in KINDS if kind != "foreign bytes" and not missing.get(kind, False)]

    def _try_keyed(self, walk: Walk) -> None:
        self.play(walk, self._live_with_a_key, in_words=told, simpler=map(without, reversed(range(_LENGTH))))

    def _live_with_a_key(self, walk: Walk) -> None:
        kind, operations = walk
        with Bench(self.harness, queues=2, tolerated=tolerated(self.harness) - self.proven) as bench:
            life = UniqueLife(bench, kind)
            for operation in operations:
                _STEPS[operation].act(life)
                life.require_key()
            assert isinstance(life.event, Envelope)
            if life.hold() is not None:  # an extended lease may not be over
                life.settle(Ack())
                _accepted(bench, life.other, source=life.event.source)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_an_event_has_its_key_wherever_it_is_and_for_however_long(self) -> None:
        for place in _PLACES:
            if place.needs(self.harness):
                try:
                    self._stay_with_a_key(place)
                except AssertionError as error:
                    error.args = (f"an event that is {place}: {error}", *error.args[1:])
                    raise

    def _stay_with_a_key(self, place: _Stay) -> None:
        with self.bench(queues=2) as bench:
            worker, other = bench.worker(), bench.worker()
            event = place.put(bench, worker)
            for pause in (0.0, *(_PAUSES if self.harness.fake else ())):
                bench.advance(pause)
                for _ in range(2):  # what else is done meanwhile, such as by a sweep
                    other.send([bench.envelope(queue=bench.queues[1])])
                    assert other.ack(bench.one(other, queues=bench.queues[1:]))
                _require_duplicate(bench, other, event)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_sending_an_event_again_does_not_shorten_the_time_of_its_key(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            first = _accepted(bench, worker, within=_TIME)
            again = worker.send_unique([first], key=_key(bench), within=0.0)
            assert again is None, "an event is a duplicate of itself"
            while came := bench.glimpse(worker):
                _ack(worker, came)

            _require_duplicate(bench, worker, first)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_an_event_that_is_refused_takes_no_key(self) -> None:
        for spoilt in UNWRITABLE:
            with self.bench() as bench:
                worker = bench.worker()
                try:
                    worker.send_unique([bench.envelope(**spoilt)], key=_key(bench), within=_TIME)
                except (TransportError, CodecError):
                    _accepted(bench, worker)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_hundreds_of_events_have_a_key_each(self) -> None:
        number = _KEYS if self.harness.fake else _SLOW_KEYS
        with self.bench() as bench:
            worker = bench.worker()
            sent = [_accepted(bench, worker, key=f"{_key(bench)} {place}") for place in range(number)]
            for place, event in enumerate(sent):
                _require_duplicate(bench, worker, event, key=f"{_key(bench)} {place}")
            held = bench.so_many(worker, number)
            done = {each.envelope.id for each in held[::2] if isinstance(each.envelope, Envelope)}
            _ack(worker, held[::2])

            for place, event in enumerate(sent):
                key = f"{_key(bench)} {place}"
                if event.id in done:
                    _accepted(bench, worker, key=key)
                else:
                    _require_duplicate(bench, worker, event, key=key)

    @proves(promise.ONE_EVENT_OF_A_KEY_LIVES)
    def test_in_a_transaction_a_key_is_taken_for_its_time_and_an_event_is_delayed(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            for kind in self.transaction_kinds():
                with worker.transaction(kind) as transaction:
                    event, key = bench.envelope(), f"{_key(bench)} {kind}"
                    delay = bench.times.delay if bench.capabilities.delay is not None else 0.0
                    decided = transaction.send_unique([event], key=key, within=_TIME + 2 * delay, delay=delay)
                    transaction.commit()
                assert decided == [None], f"no event has the key, and decided() was called with {decided}"
                if delay:
                    assert bench.glimpse(worker) == [], "an event came before its delay was over"
                    bench.let_delays_end()
                assert worker.ack(bench.one(worker))

                _require_duplicate(bench, worker, event, key=key)


def _key(bench: Bench) -> str:
    """Return a key that no other scenario uses."""
    return f"{bench.queues[0]} key"


def _accepted(
    bench: Bench,
    worker: RecordedWorker,
    *,
    key: str | None = None,
    within: float = 0.0,
    delay: float = 0.0,
    **fields: Any,
) -> Envelope:
    """Return an event that was sent with a key that no event has."""
    event = bench.envelope(**fields)
    answer = worker.send_unique([event], key=_key(bench) if key is None else key, within=within, delay=delay)
    assert answer is None, f"no event has the key, and send_unique() returned {shown(answer)}"
    return event


def _require_duplicate(bench: Bench, worker: RecordedWorker, first: Envelope, *, key: str | None = None) -> None:
    answer = worker.send_unique([bench.envelope(source=first.source)], key=_key(bench) if key is None else key)
    assert answer == first.id, (
        f"the event {first.id} has the key, and send_unique() of another one returned {shown(answer)}"
    )


def _ack(worker: RecordedWorker, deliveries: Sequence[Delivery]) -> None:
    assert not worker.settle([(each, Ack()) for each in deliveries]), "a delivery was lost within its lease"
