"""Scenarios of values that a transport never issued: refs, receipts, deliveries, ids and queues."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import attrs
import pytest

from relevo import Ack, DeadLetter, DeadLetterFilter, Delivery, EventFilter, Lost, Nack, Note, Outcome, Release
from relevo.errors import ConfigurationError, LeaseLostError, RelevoError, SendError, TransportUnavailableError, shown
from relevo_conformance import promise
from relevo_conformance._children import UnusableError, can_be_shared, in_a_fork
from relevo_conformance._contract_store import bury
from relevo_conformance.bench import Bench
from relevo_conformance.contract import Contract, proves, raised_by
from relevo_conformance.verdict import error_text
from relevo_conformance.worker import RecordedWorker

REFUSED = "the call was refused"

TEXTS: tuple[str, ...] = (
    "",
    " ",
    "0",
    "-1",
    "1.5",
    "9" * 30,
    "9" * 5000,
    "none",
    "x" * 300,
    "x" * 70_000,
    "@",
    "/",
    "1/2/3",
    "x" * 300 + "/1",
    "1@none",
    "1@\ud800",
    "none/1",
    "\ud800/1",
    "a:b:c",
    "\x00",
    "a\x00b",
    "'; DROP TABLE events; --",
    "%",
    "*",
    "\u00e9\u2603\U0001f40d",
    "\u0661\u0662",
    "\ud800",
)
"""Texts that a store reads as something else, or cannot write down: numbers, patterns, separators, other digits."""

RECEIPTS: tuple[object, ...] = (
    None,
    "",
    "none",
    b"\x00",
    0,
    -1,
    2**70,
    1.5,
    True,
    (),
    ("a", 1),
    [1],
    {"a": 1},
    object(),
)
"""Receipts that no transport issues; some cannot be hashed."""

QUEUES: tuple[str, ...] = (
    "none",
    "0",
    "-1",
    "%",
    "*",
    "#",
    "a.b",
    "a/b",
    "a:b",
    "{a}",
    "';DROP-TABLE-events;--",
    "\u00e9\u2603\U0001f40d",
    "x" * 128,
)
"""Names of queues, as the core allows them."""

_LEASE = 1.5
"""The length of an extension in seconds, which a real clock waits for at the end."""

NOTE = Note(by="a1:0b-9c:1:7:9")


def near(text: str) -> list[str]:
    """Return texts that a careless reader takes for *text*."""
    return [f"{text} ", f" {text}", f"0{text}", f"+{text}", f"{text}\x00", f"{text}{text}", text[:-1], text[1:]]


def nonsense(*known: str) -> list[str]:
    """Return texts of which none is one of *known*, and some are like one."""
    return [
        text for text in dict.fromkeys((*TEXTS, *(one for text in known for one in near(text)))) if text not in known
    ]


class ForeignContract(Contract):
    """What was never issued is reported as the interface says, and changes nothing."""

    @proves(promise.ERRORS_ARE_TRANSLATED, promise.REVIVED_IS_RECEIVED, promise.DISCARDED_IS_GONE)
    def test_refs_that_were_never_listed_are_not_found(self) -> None:
        with self.neighbours() as (bench, worker):
            bury(bench, worker, 2)
            real, other = (entry.ref for entry in bench.dead_letters(worker, 2))
            made_up = nonsense(real, other)

            assert set(worker.revive(dict.fromkeys(made_up, b"made up"))) == {*made_up}
            assert set(worker.discard(made_up)) == {*made_up}
            among_others = {**dict.fromkeys(made_up[::2], b""), real: b"revived", **dict.fromkeys(made_up[1::2], b"")}
            assert set(worker.revive(among_others)) == {*made_up}
            assert set(worker.discard([*made_up[::2], other, *made_up[1::2]])) == {*made_up}

            again = bench.one(worker)
            assert again.state == b"revived"
            worker.ack(again)

    @proves(promise.ERRORS_ARE_TRANSLATED, promise.DEAD_IS_KEPT_WITH_REASON)
    def test_a_page_after_a_ref_that_was_never_listed_is_refused_or_has_only_dead_letters(self) -> None:
        with self.neighbours(queues=2) as (bench, worker):
            for queue in bench.queues:
                bury(bench, worker, 2, queue=queue)
            refs = [entry.ref for entry in worker.dead_letters(bench.queues)]

            for ref in nonsense(refs[0]):
                with suppress(ConfigurationError):
                    worker.dead_letters(bench.queues, after=ref, limit=10)
            with suppress(ConfigurationError):  # a ref of a queue that is not listed
                worker.dead_letters([bench.queue], after=refs[-1], limit=10)

            assert [entry.ref for entry in worker.dead_letters(bench.queues)] == refs

    @proves(promise.ERRORS_ARE_TRANSLATED, promise.STALE_SETTLE_IS_REFUSED)
    def test_receipts_that_were_never_issued_are_lost(self) -> None:
        with self.neighbours() as (bench, worker):
            worker.send([bench.envelope()])
            held = bench.one(worker)
            made_up = [attrs.evolve(held, receipt=receipt) for receipt in (*RECEIPTS, *TEXTS)]

            for outcome in self.outcomes():
                lost = worker.settle([(one, outcome) for one in made_up])
                assert are(lost, made_up), f"{len(lost)} of {len(made_up)} made-up deliveries were lost"
            for operation in self.operations(worker):
                for one in made_up:
                    assert operation(one), f"a call succeeded for a delivery with the receipt {shown(one.receipt)}"

            behind = [(one, Nack(state=b"made up")) for one in made_up]
            worker.settle([*behind[::2], (held, Nack(state=b"once")), *behind[1::2]])
            worker.ack(bench.one(worker))

    @proves(promise.ERRORS_ARE_TRANSLATED, promise.STALE_SETTLE_IS_REFUSED)
    def test_a_delivery_of_another_transport_is_settled_by_one_of_them(self) -> None:
        with self.other_store() as (elsewhere, other), self.neighbours() as (_, worker):
            for operation in (None, *self.operations(worker)):
                other.send([elsewhere.envelope()])
                theirs = elsewhere.one(other, lease=3600.0)
                if operation is not None:
                    operation(theirs)

                is_lost = worker.settle([(theirs, Ack())])

                # Two instances of one store may settle for one another.
                other_lost = other.transport.settle([(theirs, Ack())])
                assert is_lost or other_lost, "both transports settled one delivery"
                if self.harness.fake:  # otherwise an extension may have ended
                    assert not (is_lost and other_lost), "both transports say that a delivery was lost"

    @proves(promise.ERRORS_ARE_TRANSLATED, promise.STALE_SETTLE_IS_REFUSED)
    def test_a_delivery_of_another_transport_settles_none_of_its_own_in_a_queue_of_the_same_name(self) -> None:
        # Both are new, so that receipts which count are alike.
        with self.other_store() as (elsewhere, other), self.other_store() as (bench, worker):
            elsewhere.include(bench.queue)
            other.setup([bench.queue])
            for _ in range(3):
                worker.send([bench.envelope()])
                held = bench.one(worker, lease=3600.0)
                other.send([elsewhere.envelope(queue=bench.queue)])
                theirs = elsewhere.one(other, queues=[bench.queue], lease=3600.0)

                worker.settle([(theirs, Ack())])

                assert worker.ack(held), "the delivery of another transport settled an event of this one"
                other.transport.settle([(theirs, Ack())])  # two instances of one store may have settled for one another

    @proves(promise.STALE_SETTLE_IS_REFUSED, promise.ERRORS_ARE_TRANSLATED)
    def test_what_a_process_holds_is_lost_in_a_process_that_it_forks(self) -> None:
        if not can_be_shared(self.harness.capabilities):
            pytest.skip("no process that is forked can share the store")
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            held = bench.one(worker, lease=3600.0)

            def settle() -> str:
                try:
                    return f"found {len(worker.transport.settle([(held, Ack())]))} lost"
                except RelevoError:
                    return REFUSED  # an instance may refuse to work in the child

            try:
                answer = in_a_fork(settle, seconds=self.harness.call_timeout)
            except UnusableError as error:
                pytest.skip(str(error))

            assert answer in (REFUSED, "found 1 lost"), (
                f"a settlement of what its parent holds {answer} in a forked process"
            )
            assert worker.ack(held), "a forked process settled a delivery of its parent"

    @proves(promise.ERRORS_ARE_TRANSLATED, promise.FOUND_AS_IT_IS)
    def test_ids_that_were_never_sent_are_not_found(self) -> None:
        with self.neighbours() as (bench, worker):
            envelope = bench.envelope()
            worker.send([envelope])

            for event_id in nonsense(envelope.id):
                assert list(worker.find(event_id)) == []

            assert [one.envelope for one in worker.find(envelope.id)] == [envelope]

    @proves(promise.ERRORS_ARE_TRANSLATED, promise.QUERIED_AS_IT_IS)
    def test_a_page_after_a_cursor_that_was_never_returned_is_refused_or_has_only_events(self) -> None:
        with self.neighbours(queues=2) as (bench, worker):
            for queue in bench.queues:
                worker.send(bench.envelopes(2, queue=queue))
            cursors = [entry.cursor for entry in worker.waiting(bench.queues)]

            for cursor in nonsense(cursors[0]):
                with suppress(ConfigurationError):
                    worker.waiting(bench.queues, after=cursor, whole=False)
            with suppress(ConfigurationError):  # a cursor of a queue that is not listed
                worker.waiting([bench.queue], after=cursors[-1], whole=False)
            for text in TEXTS:
                assert list(worker.waiting(bench.queues, where=EventFilter(names=(f"no{text}",)))) == []

            assert [entry.cursor for entry in worker.waiting(bench.queues)] == cursors

    @proves(promise.ERRORS_ARE_TRANSLATED, promise.CANCELLED_IS_GONE)
    def test_ids_that_were_never_sent_are_not_cancelled(self) -> None:
        with self.neighbours() as (bench, worker):
            envelope = bench.envelope()
            worker.send([envelope])

            for event_id in nonsense(envelope.id):
                assert worker.cancel(event_id) == 0

            assert worker.cancel(envelope.id) == 1

    @proves(promise.ERRORS_ARE_TRANSLATED, promise.QUEUES_ARE_ISOLATED)
    def test_a_queue_that_was_never_set_up_is_empty_or_a_configuration_error(self) -> None:
        claimed = self.harness.capabilities
        with self.neighbours() as (bench, worker):
            worker.send([bench.envelope()])

            for name in QUEUES:
                with suppress(ConfigurationError):
                    assert worker.receive([name], lease=bench.times.lease) == []
                if claimed.stats != "none":
                    with suppress(ConfigurationError):
                        worker.stats(name)
                if claimed.purge:
                    with suppress(ConfigurationError):
                        assert worker.purge(name) == 0
                if claimed.dead_letters:
                    with suppress(ConfigurationError):
                        assert list(worker.dead_letters([name])) == []
                if claimed.waiting:
                    with suppress(ConfigurationError):
                        assert list(worker.waiting([name])) == []
                    with suppress(ConfigurationError):
                        assert list(worker.waiting_groups([name], "event")) == []
                    with suppress(ConfigurationError):
                        assert worker.stuck_keys([name]).total == 0
                if claimed.take:
                    with suppress(ConfigurationError):
                        assert worker.take(name, "none", lease=bench.times.lease) == []
                if claimed.waiting and claimed.dead_letters:
                    with suppress(ConfigurationError):
                        assert list(worker.matching_dead_letters([name], DeadLetterFilter())) == []
                    with suppress(ConfigurationError):
                        assert list(worker.dead_letter_groups([name], "event")) == []

            worker.ack(bench.one(worker))

    @proves(promise.ERRORS_ARE_TRANSLATED)
    def test_looking_at_a_queue_that_was_never_set_up_creates_nothing(self) -> None:
        claimed = self.harness.capabilities
        with self.neighbours() as (bench, worker):
            name = f"{bench.queue}-never"
            looks: list[tuple[bool, Callable[[], object]]] = [
                (claimed.stats != "none", lambda: worker.stats(name)),
                (claimed.purge, lambda: worker.purge(name)),
                (claimed.dead_letters, lambda: worker.dead_letters([name])),
                (claimed.waiting, lambda: worker.waiting([name])),
                (claimed.waiting, lambda: worker.waiting_groups([name], "event")),
                (claimed.waiting, lambda: worker.stuck_keys([name])),
            ]
            missing = [*worker.setup([name], dry_run=True)]
            for is_claimed, look in looks:
                if is_claimed:
                    with suppress(ConfigurationError):
                        look()
                    assert [*worker.setup([name], dry_run=True)] == missing, "looking at a queue created something"

    @proves(promise.ERRORS_ARE_TRANSLATED, promise.SEND_TELLS_APART)
    def test_a_send_to_a_queue_that_was_never_set_up_says_what_became_of_each_event(self) -> None:
        delayed = self.harness.capabilities.delay is not None
        with self.neighbours() as (bench, worker):
            for name, is_delayed in itertools.product(QUEUES, (False, True)[: 1 + delayed]):
                queue = f"{bench.token}{name}{is_delayed:d}"[-128:]
                batch = [bench.envelope(), bench.envelope(queue=queue), bench.envelope()]

                try:
                    worker.send(batch, delay=bench.times.delay if is_delayed else 0.0)
                except SendError as error:
                    is_refused = 1 in error.refused
                except (TransportUnavailableError, ConfigurationError):
                    is_refused = True
                else:
                    is_refused = False

                if not is_refused:
                    bench.include(queue)
            bench.let_delays_end()
            for queue in bench.further:  # before the drain sets it up
                with suppress(ConfigurationError):
                    for delivery in worker.receive([queue], lease=bench.times.lease):
                        worker.release(delivery)

    # --- how --------------------------------------------------------------------------------------------

    @contextmanager
    def neighbours(self, *, queues: int = 1) -> Iterator[tuple[Bench, RecordedWorker]]:
        """Yield a bench and a worker, beside one that holds an event; the checker requires that it keeps it."""
        with self.bench(queues=queues) as bench:
            worker, neighbour = bench.worker(), bench.worker()
            neighbour.send([bench.envelope()])
            held = bench.one(neighbour)
            yield bench, worker
            neighbour.ack(held)

    @contextmanager
    def other_store(self) -> Iterator[tuple[Bench, RecordedWorker]]:
        """Yield a bench on another harness, and a worker on it; it does not know what the other bench does."""
        harness = self.harness_type()
        harness.clock = self.harness.clock
        harness.watch = self.harness.watch
        elsewhere = Bench(harness)
        try:
            yield elsewhere, elsewhere.worker()
        finally:
            elsewhere.clean_up()
            harness.close()

    def outcomes(self) -> list[Outcome]:
        """Return one outcome of each kind that the transport supports."""
        outcomes: list[Outcome] = [Ack(), Nack(), Release(), Lost()]
        if self.harness.capabilities.dead_letters:
            outcomes.append(DeadLetter(reason="made up"))
        return outcomes

    def operations(self, worker: RecordedWorker) -> list[Callable[[Delivery], bool]]:
        """Return the calls of *worker* for a delivery, besides settling it; each returns whether it was lost."""
        claimed = self.harness.capabilities

        def is_refused(act: Callable[[], object]) -> bool:
            error = raised_by(act)
            assert isinstance(error, LeaseLostError | None), f"expected LeaseLostError, not {error_text(error)}"
            return error is not None

        def excuse(one: Delivery) -> bool:
            worker.excuse(one, NOTE)
            return True  # it returns in any case

        operations: list[tuple[bool, Callable[[Delivery], bool]]] = [
            (claimed.extend, lambda one: bool(worker.extend([one], lease=_LEASE))),
            (claimed.checkpoint, lambda one: is_refused(partial(worker.checkpoint, one, b"made up"))),
            (claimed.presence, lambda one: is_refused(partial(worker.begin, one, NOTE))),
            (claimed.presence, excuse),
        ]
        return [operation for is_claimed, operation in operations if is_claimed]


def are(some: Sequence[Delivery], others: Sequence[Delivery]) -> bool:
    """Return whether *some* and *others* are the same deliveries, in any order."""
    return sorted(map(id, some)) == sorted(map(id, others))
