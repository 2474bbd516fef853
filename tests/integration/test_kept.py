"""A database that keeps the dead letters of a transport: what fails between the two, and what races."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from pathlib import Path
from typing import Any

import attrs
import pytest

from relevo import (
    Ack,
    App,
    DeadLetter,
    DeadLetterEntry,
    Delivery,
    Envelope,
    Event,
    Nack,
    Retry,
    RunOptions,
    Unreadable,
    hookimpl,
)
from relevo._transport.keeper import keep_elsewhere
from relevo.errors import ConfigurationError, SendError, SettleError, TransportUnavailableError, UnsupportedError
from relevo.testing import FakeClock
from relevo_memory import MemoryStore
from relevo_sql import SqlTransport

from .lending import LendingTransport

DEAD = DeadLetter(reason="retries-exhausted", error="it failed", state=b"state")


class Keeper(SqlTransport):
    """A database that can be down, that refuses what is called refused, and that can be watched."""

    is_down = False
    set_ups = 0
    before: Callable[[str], object] = staticmethod(lambda _: None)
    """Called with the name of each of the two steps of a settlement, before it is taken."""

    def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        self.set_ups += 1
        self._require_up()
        return super().setup(queues, dry_run=dry_run)

    def keep_dead_letters(self, letters: Sequence[DeadLetterEntry], *, dying: bool = False) -> Sequence[str]:
        self.before("keep")
        self._require_up()
        if any(isinstance(each.envelope, Envelope) and each.envelope.name == "refused" for each in letters):
            raise SendError(self.name, refused=range(len(letters)), why="it is too large")
        return super().keep_dead_letters(letters, dying=dying)

    def replace_earlier(self, refs: Iterable[str]) -> None:
        self.before("replace")
        self._require_up()
        super().replace_earlier(refs)

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        self._require_up()
        return super().discard(refs)

    def _require_up(self) -> None:
        if self.is_down:
            raise TransportUnavailableError(self.name, "no such host")


@attrs.frozen
class Pair:
    """A transport and its keeper, as one process has them."""

    transport: LendingTransport
    keeper: Keeper

    def send(self, *numbers: int, **changes: Any) -> None:
        for number in numbers:
            given = {"id": str(number), "source": "shop", "name": "image.created", "queue": "media", "body": b"{}"}
            self.transport.send([Envelope(**given | changes)])

    def held(self, number: int = 1) -> list[Delivery]:
        return list(self.transport.receive(["media"], limit=number, lease=60.0, wait=0.0))

    def dead(self) -> list[tuple[str, str]]:
        """Return the ids and the errors of the dead letters."""
        found = self.transport.dead_letters(["media"])
        return [(each.envelope.id, each.error) for each in found if isinstance(each.envelope, Envelope)]


@pytest.fixture(name="clock")
def _clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(name="another")
def _another(tmp_path: Path, clock: FakeClock) -> Iterator[Callable[[], Pair]]:
    store = MemoryStore()
    opened: list[Keeper] = []

    def another() -> Pair:
        opened.append(Keeper(f"sqlite:///{tmp_path}/kept.db", name="db", clock=clock))
        opened[-1].setup([])
        transport = LendingTransport(store, clock)
        keep_elsewhere(transport, opened[-1])
        return Pair(transport, opened[-1])

    yield another
    for keeper in opened:
        keeper.close()


@pytest.fixture(name="pair")
def _pair(another: Callable[[], Pair]) -> Pair:
    return another()


class KilledError(BaseException):
    """Ends a call as a killed process does."""


def killed_before(pair: Pair, step: str) -> None:
    def kill(name: str) -> None:
        if name == step:
            raise KilledError

    pair.keeper.before = kill


# --- crashes --------------------------------------------------------------------------------------------


def test_a_process_that_dies_before_the_dead_letter_is_stored_leaves_the_event(another: Any, clock: FakeClock) -> None:
    doomed, other = another(), another()
    doomed.send(1)
    killed_before(doomed, "keep")

    with pytest.raises(KilledError):
        doomed.transport.settle([(delivery, DEAD) for delivery in doomed.held()])

    assert other.dead() == []
    clock.advance(61)
    assert len(other.held()) == 1


def test_a_process_that_dies_before_the_ack_leaves_both_and_the_next_dead_letter_replaces_the_first(
    another: Any, clock: FakeClock
) -> None:
    doomed, other = another(), another()
    doomed.send(1)
    (delivery,) = doomed.held()
    with pytest.raises(KilledError):
        doomed.transport.kept.settle([(delivery, DEAD)], killed)
    assert other.dead() == [("1", "it failed")]
    clock.advance(61)
    (again,) = other.held()
    assert again.lost_leases == 1

    assert not other.transport.settle([(again, DeadLetter(reason="crash-loop", error="again"))])

    assert other.dead() == [("1", "again")]
    clock.advance(61)
    assert other.held() == []


def killed(_: object) -> Sequence[Delivery]:
    raise KilledError


def test_a_process_that_dies_after_the_ack_leaves_a_dead_letter(another: Any, clock: FakeClock) -> None:
    doomed, other = another(), another()
    doomed.send(1)
    killed_before(doomed, "replace")

    with pytest.raises(KilledError):
        doomed.transport.settle([(delivery, DEAD) for delivery in doomed.held()])

    clock.advance(61)
    assert other.held() == []
    assert other.dead() == [("1", "it failed")]


# --- races ----------------------------------------------------------------------------------------------


def test_a_stale_worker_stores_nothing(another: Any, clock: FakeClock) -> None:
    stale, other = another(), another()
    stale.send(1, 2)
    lost, also_lost = stale.held(2)
    clock.advance(61)
    delivery, _ = other.held(2)
    steps: list[str] = []
    stale.keeper.before = steps.append

    assert list(stale.transport.settle([(lost, DEAD), (also_lost, Ack())])) == [lost, also_lost]

    assert steps == []
    assert not other.transport.settle([(delivery, Ack())])
    assert other.dead() == []


@pytest.mark.parametrize("at", ["before it is stored", "after it is stored"])
def test_a_worker_whose_lease_ends_between_the_steps_deletes_its_own_dead_letter_alone(
    another: Any, clock: FakeClock, at: str
) -> None:
    stale, other = another(), another()
    stale.send(1)
    (held,) = stale.held()

    def interfere() -> None:
        clock.advance(61)
        (delivery,) = other.held()
        assert not other.transport.settle([(delivery, DeadLetter(reason="unknown-event", error="mine"))])

    def settle(settlements: Any) -> Sequence[Delivery]:
        if at == "after it is stored":
            interfere()
        found: Sequence[Delivery] = stale.transport._settle_here(settlements)
        return found

    if at == "before it is stored":
        stale.keeper.before = lambda _: interfere()

    assert list(stale.transport.kept.settle([(held, DEAD)], settle)) == [held]

    assert other.dead() == [("1", "mine")]


def test_a_dead_letter_died_when_it_was_stored(pair: Pair, clock: FakeClock) -> None:
    """Another process may store one between the look at the clock and the store, and the list is in that order."""
    pair.send(1)
    settled_at = clock.now()
    pair.keeper.before = lambda step: clock.advance(5.0) if step == "keep" else None

    pair.transport.settle([(pair.held(1)[0], DEAD)])

    (found,) = pair.transport.dead_letters(["media"])
    assert found.died_at == pytest.approx(settled_at + 5.0, rel=0.0, abs=0.001)


def test_of_two_settlements_of_one_delivery_the_first_counts(pair: Pair) -> None:
    pair.send(1, 2, 3)
    one, two, three = pair.held(3)

    lost = pair.transport.settle([(one, DEAD), (one, Ack()), (two, Ack()), (two, DEAD), (three, DEAD), (three, DEAD)])

    assert list(lost) == [one, two, three]
    assert [event_id for event_id, _ in pair.dead()] == ["1", "3"]


def test_of_two_that_revive_a_dead_letter_one_sends_it(another: Any, pair: Pair) -> None:
    other = another()
    pair.send(1)
    pair.transport.settle([(delivery, DEAD) for delivery in pair.held()])
    (entry,) = pair.transport.dead_letters(["media"])
    missing: list[Sequence[str]] = []
    threads = [
        threading.Thread(target=lambda each=each: missing.append(each.transport.revive({entry.ref: b"again"})))
        for each in (pair, other)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(map(list, missing)) == [[], [entry.ref]]
    (delivery,) = pair.held(2)
    assert (delivery.state, delivery.attempt, delivery.lost_leases) == (b"again", 1, 0)
    assert pair.dead() == []


def test_what_could_not_be_sent_again_stays(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.send(1)
    pair.transport.settle([(delivery, DEAD) for delivery in pair.held()])
    (entry,) = pair.transport.dead_letters(["media"])
    pair.transport.close()

    fresh = LendingTransport(pair.transport.store, FakeClock())
    keep_elsewhere(fresh, pair.keeper)
    monkeypatch.setattr(fresh, "restore", down)
    with pytest.raises(TransportUnavailableError, match="no such broker"):
        fresh.revive({entry.ref: b""})

    assert len(fresh.dead_letters(["media"])) == 1


def down(_: object) -> Sequence[int]:
    raise TransportUnavailableError("main", "no such broker")


def test_another_transports_dead_letters_are_not_found(pair: Pair) -> None:
    own = Envelope(id="1", source="shop", name="image.created", queue="media", body=b"{}")
    pair.keeper.setup(["media"])
    pair.keeper.send([own])
    (delivery,) = pair.keeper.receive(["media"], limit=1, lease=60.0, wait=0.0)
    pair.keeper.dead_letter(delivery, reason="expired")
    (entry,) = pair.keeper.dead_letters(["media"])

    assert pair.dead() == []
    assert list(pair.transport.revive({entry.ref: b""})) == [entry.ref]
    assert list(pair.transport.discard([entry.ref, "none"])) == [entry.ref, "none"]
    assert len(pair.keeper.dead_letters(["media"])) == 1


def test_two_applications_with_one_database_do_not_see_the_dead_letters_of_each_other(
    pair: Pair, clock: FakeClock
) -> None:
    other = Pair(LendingTransport(MemoryStore(), clock), pair.keeper)
    keep_elsewhere(other.transport, other.keeper)
    pair.transport.source, other.transport.source = "shop", "billing"
    for each, event_id in ((pair, 1), (other, 2)):
        each.send(event_id)
        each.transport.settle([(delivery, DEAD) for delivery in each.held()])

    assert (pair.dead(), other.dead()) == ([("1", "it failed")], [("2", "it failed")])
    assert pair.transport.stats("media").dead == 1
    (foreign,) = other.transport.dead_letters(["media"])
    assert list(pair.transport.revive({foreign.ref: b""})) == [foreign.ref]
    assert list(pair.transport.discard([foreign.ref])) == [foreign.ref]
    assert other.dead() == [("2", "it failed")]


# --- a database that is down ----------------------------------------------------------------------------


def test_a_database_that_is_down_holds_up_only_the_dead_letters(pair: Pair, clock: FakeClock) -> None:
    pair.send(1, 2, 3, 4)
    one, two, three, four = pair.held(4)
    tries: list[str] = []
    pair.keeper.before = tries.append
    pair.keeper.is_down = True

    with pytest.raises(SettleError, match=r'could not be stored in "db": .*no such host') as caught:
        pair.transport.settle([(one, DEAD), (two, Ack()), (three, Nack()), (four, DEAD)])

    assert caught.value.unsettled == (one, four)
    assert tries == ["keep"], "it is not tried again for each of them: that may take as long as a timeout"
    pair.keeper.is_down = False
    assert pair.dead() == []
    assert not pair.transport.settle([(one, DEAD)])
    assert [event_id for event_id, _ in pair.dead()] == ["1"]
    assert [each.envelope.id for each in pair.held(3)] == ["3"]  # type: ignore[union-attr]


def test_a_database_that_does_not_answer_holds_a_worker_up_for_a_tenth_of_its_time(
    pair: Pair, clock: FakeClock
) -> None:
    pair.send(1)
    (delivery,) = pair.held()
    pair.keeper.is_down = True
    pair.keeper.before = lambda _: clock.advance(3)
    began = clock.now()

    for second in range(20):
        with pytest.raises(SettleError, match="no such host"):
            pair.transport.settle([(delivery, DEAD)])
        assert pair.transport.stats("media").dead is None
        assert clock.now() - began == 3 + second
        clock.advance(1)

    pair.keeper.is_down = False
    clock.advance(8)
    assert not pair.transport.settle([(delivery, DEAD)])
    assert pair.transport.stats("media").dead == 1


def test_a_dead_letter_that_the_database_refuses_holds_up_no_other(pair: Pair) -> None:
    pair.send(1, name="refused")
    pair.send(2, 3)
    one, two, three = pair.held(3)

    with pytest.raises(SettleError, match="it is too large") as caught:
        pair.transport.settle([(one, DEAD), (two, DEAD), (three, Ack())])

    assert caught.value.unsettled == (one,)
    assert [event_id for event_id, _ in pair.dead()] == ["2"]


def test_an_outage_after_the_ack_leaves_the_dead_letter(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    pair.send(1)
    (delivery,) = pair.held()
    pair.keeper.before = lambda step: setattr(pair.keeper, "is_down", step == "replace")

    assert not pair.transport.settle([(delivery, DEAD)])

    assert 'of 1 dead letters that were stored in "db", some may be there twice' in caplog.text
    assert pair.dead() == [("1", "it failed")]


def test_nothing_is_stored_if_nothing_could_be_settled(pair: Pair) -> None:
    pair.send(1, 2)
    one, two = pair.held(2)

    def refuse(_: object) -> Sequence[Delivery]:
        raise UnsupportedError("main", "presence")

    with pytest.raises(UnsupportedError):
        pair.transport.kept.settle([(one, DEAD), (two, Ack())], refuse)  # type: ignore[union-attr]

    assert pair.dead() == []


def test_the_number_of_dead_letters_is_unknown_while_the_database_is_down(pair: Pair, tmp_path: Path) -> None:
    pair.send(1)
    assert (pair.transport.stats("media").ready, pair.transport.stats("media").dead) == (1, 0)

    pair.keeper.close()

    assert (pair.transport.stats("media").ready, pair.transport.stats("media").dead) == (1, None)


def test_a_worker_goes_on_while_the_database_is_down_and_loses_nothing(
    pair: Pair, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    done: list[int] = []
    observed: list[str] = []

    class Observer:
        @hookimpl
        def relevo_dead_lettered(self, outcome: DeadLetter) -> None:
            observed.append(outcome.reason)

    def work(event: Event) -> None:
        done.append(event["number"])
        if event["number"] == 0:
            raise ValueError("broken")
        if event["number"] == 30:
            pair.keeper.is_down = False
        clock.advance(1)

    with App(
        transports={"main": pair.transport, "db": pair.keeper},
        keepers={"main": "db"},
        plugins=[Observer()],
        routes={"*": "main/media"},
        clock=clock,
    ) as app:
        pair.keeper.setup([])
        app.add_listener("image.created", work, retry=Retry(1))
        for number in range(31):
            app.dispatch("image.created", {"number": number})
        app.prepare("main")
        pair.keeper.is_down = True
        worker = app.worker(RunOptions(transport="main", until_empty=True), patient=True)

        report = worker.run()

        assert done == [*range(31)]
        assert (report.done, report.dead, report.unsettled) == (30, 1, 0)
        assert len(pair.transport.dead_letters(["media"])) == 1
        assert observed == ["retries-exhausted"], "as a mail is sent: once, when it is stored"
    assert caplog.text.count("no such host") < 5


@pytest.fixture(name="new")
def _new(tmp_path: Path, clock: FakeClock) -> Iterator[Pair]:
    """Make a pair whose database has no tables yet."""
    keeper = Keeper(f"sqlite:///{tmp_path}/new.db", name="db", clock=clock)
    yield Pair(LendingTransport(MemoryStore(), clock), keeper)
    keeper.close()


def helped(pair: Pair, clock: FakeClock, **more: Any) -> App:
    transports = {"main": pair.transport, "db": pair.keeper}
    return App(transports=transports, keepers={"main": "db"}, routes={"*": "main/media"}, clock=clock, **more)


def test_a_worker_begins_without_the_database_and_sets_it_up_once_it_is_there(
    new: Pair, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    new.keeper.is_down = True
    done: list[int] = []

    def work(event: Event) -> None:
        done.append(event["number"])
        if event["number"] == 0:
            raise ValueError("broken")
        if event["number"] == 2:
            new.keeper.is_down = False

    with helped(new, clock) as app:
        app.add_listener("image.created", work, retry=Retry(1))
        for number in range(3):
            app.dispatch("image.created", {"number": number})

        report = app.worker(RunOptions(transport="main", max_events=3), patient=True).run()

        assert done == [0, 1, 2]
        assert (report.done, report.dead, report.unsettled) == (2, 1, 0)
        assert len(new.transport.dead_letters(["media"])) == 1
    assert caplog.text.count("events that do not need it are handled meanwhile") == 1


def test_a_worker_that_is_run_again_still_sets_up_what_was_down(new: Pair, clock: FakeClock) -> None:
    new.keeper.is_down = True
    objections = ["a deploy"]

    class Pauses:
        @hookimpl
        def relevo_may_run(self) -> str | None:
            return objections[0] if objections and worker.held() == 0 and began else None

    began: list[int] = []

    def work(event: Event) -> None:
        began.append(event["number"])
        raise ValueError("broken")

    with helped(new, clock, plugins=[Pauses()]) as app:
        app.add_listener("image.created", work, retry=Retry(1))
        worker = app.worker(RunOptions(transport="main", max_events=1), patient=True)
        app.dispatch("image.created", {"number": 0})
        began.append(-1)
        worker.prepare()
        assert worker.run().stopped_by == "objection"
        objections.clear()
        new.keeper.is_down = False

        assert worker.run().dead == 1

    assert began == [-1, 0]


def test_a_database_that_helps_in_several_ways_is_waited_for_once_at_the_start(new: Pair, clock: FakeClock) -> None:
    new.keeper.is_down = True
    with helped(new, clock, coordinators={"main": "db"}) as app:
        app.add_listener("image.created", lambda event: None)
        worker = app.worker(RunOptions(transport="main"), patient=True)

        worker.prepare()

        assert new.keeper.set_ups == 1


def test_a_worker_does_not_begin_without_tables_that_it_may_not_create(new: Pair, clock: FakeClock) -> None:
    with helped(new, clock, setup="explicit") as app:
        app.add_listener("image.created", lambda event: None)
        new.transport.setup(["media"])

        with pytest.raises(ConfigurationError, match='the transport "db" is not set up'):
            app.worker(RunOptions(transport="main", max_events=1), patient=True).run()


# --- what every database can hold -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "i" * 300},
        {"name": "a\0b"},
        {"expires": inf},
        {"headers": {"a": "\0"}},
        {"headers": {"relevo-packed": "1"}},
        {"headers": {"a": "é", "b": ""}, "urgency": "high", "expires": 9e9},
    ],
)
def test_an_unusual_event_is_shown_and_revived_as_it_was(pair: Pair, changes: dict[str, Any]) -> None:
    pair.send(1, **changes)
    (delivery,) = pair.held()
    for error in ("first", "second"):
        pair.transport.settle([(delivery, attrs.evolve(DEAD, error=error))])
        (entry,) = pair.transport.dead_letters(["media"])
        assert (entry.queue, entry.envelope, entry.error) == ("media", delivery.envelope, error)
        assert not pair.transport.revive({entry.ref: b""})
        (again,) = pair.held()
        assert (again.envelope, again.enqueued_at) == (delivery.envelope, delivery.enqueued_at)
        delivery = again


def test_an_unusual_event_that_dies_again_is_there_once(pair: Pair) -> None:
    for error in ("first", "second"):
        pair.send(1, expires=inf)
        pair.transport.settle([(delivery, attrs.evolve(DEAD, error=error)) for delivery in pair.held()])

    assert pair.dead() == [("1", "second")]


def test_bytes_that_are_no_event_are_shown_and_revived_as_they_were(pair: Pair) -> None:
    pair.transport.store.put_raw("media", b"\0\xff", {"a": "b"})
    (delivery,) = pair.held()
    assert isinstance(delivery.envelope, Unreadable)

    pair.transport.settle([(delivery, DEAD)])

    (entry,) = pair.transport.dead_letters(["media"])
    assert entry.envelope == delivery.envelope
    assert not pair.transport.revive({entry.ref: b""})
    (again,) = pair.held()
    assert again.envelope == delivery.envelope
