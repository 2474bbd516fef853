"""Scenarios of evidence: the process that began an event, those that may have died of it, and the living workers."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from itertools import product

import attrs
import pytest

from relevo import Delivery, Envelope, Lost, Note
from relevo.errors import LeaseLostError, TransportError
from relevo_conformance import promise
from relevo_conformance.bench import Bench
from relevo_conformance.contract import Contract, proves
from relevo_conformance.fault import Fault
from relevo_conformance.strategy import IDENTITIES
from relevo_conformance.worker import RecordedWorker

FIRST, SECOND, THIRD, FOURTH = IDENTITIES
LONG_LEASE = 600.0
"""Seconds; a slow machine does not outlast it."""

NOTE = Note(by=THIRD, deaths=(FIRST, SECOND), listener="shop.listeners:crash")


PAUSE = 3000.0
"""Seconds for which a worker may be suspended, or cut off from the store."""


GiveBack = Callable[[Bench, RecordedWorker, Delivery], None]
"""Makes an event that a worker holds ready again, and keeps its note."""


def release(bench: Bench, worker: RecordedWorker, held: Delivery) -> None:
    """Release it."""
    assert worker.release(held)


def release_later(bench: Bench, worker: RecordedWorker, held: Delivery) -> None:
    """Release it for later, and let the delay end."""
    assert worker.release_later(held, bench.times.delay)
    bench.let_delays_end()


def report_lost(bench: Bench, worker: RecordedWorker, held: Delivery) -> None:
    """Report it lost, without a death."""
    assert worker.settles(held, Lost())


def vanish(bench: Bench, worker: RecordedWorker, held: Delivery) -> None:
    """Let its worker vanish."""
    bench.lose(worker)


def evidence(delivery: Delivery) -> tuple[Note | None, tuple[str, ...]]:
    """Return the note and the deaths of *delivery*."""
    return delivery.begun, delivery.deaths


class BegunContract(Contract):
    """The next worker that receives an event has the note that was stored with it."""

    def begun(self, bench: Bench, note: Note = NOTE) -> tuple[RecordedWorker, Delivery]:
        """Return a worker that holds an event and has stored *note* with it."""
        worker = bench.worker()
        worker.send([bench.envelope()])
        held = bench.one(worker)
        assert evidence(held) == (None, ())
        worker.begin(held, note)
        return worker, held

    @proves(promise.BEGUN_IS_KEPT)
    def test_a_note_survives_a_lost_lease(self) -> None:
        with self.bench() as bench:
            worker, _ = self.begun(bench)

            bench.lose(worker)

            again = bench.one(bench.worker())
            assert evidence(again) == (NOTE, NOTE.deaths)
            assert again.lost_leases == 1

    @proves(promise.BEGUN_IS_KEPT)
    def test_a_note_survives_any_number_of_lost_leases(self) -> None:
        with self.bench() as bench:
            worker, _ = self.begun(bench)
            for lost_leases in range(1, 4):
                bench.lose(worker)
                worker = bench.worker()
                again = bench.one(worker)
                assert (again.lost_leases, *evidence(again)) == (lost_leases, NOTE, NOTE.deaths)

    @proves(promise.BEGUN_IS_KEPT)
    def test_the_last_note_counts(self) -> None:
        with self.bench() as bench:
            worker, held = self.begun(bench)
            last = Note(by=FOURTH, deaths=(THIRD,), excused=True)
            worker.begin(held, last)

            bench.lose(worker)

            assert evidence(bench.one(bench.worker())) == (last, (THIRD,))

    @proves(promise.BEGUN_IS_KEPT)
    def test_a_note_is_of_one_event_and_not_of_those_beside_it(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send(bench.envelopes(3))
            held = bench.so_many(worker, 3)
            worker.begin(held[1], NOTE)

            bench.lose(worker)

            found = {one.envelope: evidence(one) for one in bench.receive(bench.worker(), 3)}
            assert found.pop(held[1].envelope) == (NOTE, NOTE.deaths)
            assert list(found.values()) == [(None, ())] * 2

    @proves(promise.BEGUN_IS_KEPT)
    def test_a_release_keeps_the_note(self) -> None:
        with self.bench() as bench:
            worker, held = self.begun(bench)

            assert worker.release(held)

            assert evidence(bench.one(worker)) == (NOTE, NOTE.deaths)

    @proves(promise.BEGUN_IS_KEPT, promise.RELEASE_COUNTS_NOTHING)
    def test_a_release_for_later_keeps_the_note_and_counts_nothing(self) -> None:
        if self.harness.capabilities.delay is None:
            pytest.skip("delays are not claimed")
        with self.bench() as bench:
            worker, held = self.begun(bench)
            kept = b"half" if self.harness.capabilities.checkpoint else b""
            if kept:
                worker.checkpoint(held, kept)

            assert worker.release_later(held, bench.times.delay)

            early = bench.glimpse(worker)
            assert early == [] or not self.harness.fake
            bench.let_delays_end()
            (again,) = early or [bench.one(worker)]
            assert evidence(again) == (NOTE, NOTE.deaths)
            assert (again.attempt, again.lost_leases, again.state) == (1, 0, kept)

    @proves(promise.BEGUN_IS_KEPT)
    def test_a_retry_ends_the_note_and_keeps_the_deaths(self) -> None:
        with self.bench() as bench:
            worker, held = self.begun(bench)

            assert worker.nack(held)

            assert evidence(bench.one(worker)) == (None, NOTE.deaths)

    @proves(promise.BEGUN_IS_KEPT, promise.FOUND_AS_IT_IS, promise.QUERIED_AS_IT_IS)
    def test_an_event_is_shown_with_its_note(self) -> None:
        with self.bench() as bench:
            worker, held = self.begun(bench)
            assert isinstance(held.envelope, Envelope)
            event_id = held.envelope.id

            def shown() -> list[Note | None]:
                return [one.begun for one in (*worker.find(event_id), *worker.waiting([bench.queue]))]

            assert shown() == [NOTE, NOTE]
            worker.release(held)
            assert shown() == [NOTE, NOTE]
            worker.nack(bench.one(worker))
            assert shown() == [None, None]

    @proves(promise.BEGUN_IS_KEPT)
    def test_a_death_that_was_seen_takes_the_place_of_the_note(self) -> None:
        with self.bench() as bench:
            worker, held = self.begun(bench, Note(by=FIRST, deaths=(SECOND,)))
            for death, deaths in ((THIRD, (SECOND, THIRD)), (FOURTH, (SECOND, THIRD, FOURTH))):
                assert worker.settles(held, Lost(death=death))
                held = bench.one(worker)
                assert evidence(held) == (None, deaths)

            assert worker.settles(held, Lost(death=FIRST))

            assert evidence(bench.one(worker)) == (None, (THIRD, FOURTH, FIRST)), "the last three are kept"

    @proves(promise.BEGUN_IS_KEPT)
    def test_a_death_that_is_reported_in_a_batch_is_of_its_event_alone(self) -> None:
        for place in range(3):
            with self.bench() as bench:
                worker = bench.worker()
                worker.send(bench.envelopes(3))
                held = bench.so_many(worker, 3, lease=LONG_LEASE)
                for one in held:
                    worker.begin(one, NOTE)
                died = held[place].envelope

                batch = [(one, Lost(death=FIRST if one.envelope == died else None)) for one in held]
                assert not worker.settle(batch)

                for one in bench.so_many(worker, 3):
                    expected = (None, (*NOTE.deaths, FIRST)) if one.envelope == died else (NOTE, NOTE.deaths)
                    assert evidence(one) == expected, "the death of one event changed another of its batch"

    @proves(promise.BEGUN_IS_KEPT)
    def test_a_lost_lease_without_a_death_keeps_the_note(self) -> None:
        with self.bench() as bench:
            worker, held = self.begun(bench)

            assert worker.settles(held, Lost())

            assert evidence(bench.one(worker)) == (NOTE, NOTE.deaths)

    @proves(promise.BEGUN_IS_KEPT, promise.REVIVED_IS_RECEIVED)
    def test_what_is_revived_has_neither_note_nor_deaths(self) -> None:
        if not self.harness.capabilities.dead_letters:
            pytest.skip("dead letters are not claimed")
        with self.bench() as bench:
            worker, held = self.begun(bench)
            worker.dead_letter(held)
            worker.revive({bench.dead_letter(worker).ref: b""})

            assert evidence(bench.one(worker)) == (None, ())
            bench.lose(worker)
            assert evidence(bench.one(bench.worker())) == (None, ())

    @proves(promise.BEGUN_IS_KEPT)
    def test_the_same_event_sent_again_after_its_end_has_no_note(self) -> None:
        with self.bench() as bench:
            worker, held = self.begun(bench)
            assert isinstance(held.envelope, Envelope)
            worker.ack(held)
            bench.advance(bench.times.step)

            worker.send([held.envelope])

            assert evidence(bench.one(worker)) == (None, ())
            bench.lose(worker)
            assert evidence(bench.one(bench.worker())) == (None, ())

    @proves(promise.BEGUN_IS_KEPT)
    def test_a_note_is_excused_while_it_is_held_and_after_it_was_lost(self) -> None:
        excused = attrs.evolve(NOTE, excused=True)
        for is_lost in (False, True):
            with self.bench() as bench:
                worker, held = self.begun(bench)
                if is_lost and not bench.is_connected:
                    bench.let_leases_end()
                worker.excuse(held, NOTE)
                if bench.is_connected or not is_lost:
                    bench.lose(worker)

                assert evidence(bench.one(bench.worker())) == (excused, NOTE.deaths)

    @proves(promise.BEGUN_IS_KEPT)
    def test_a_note_is_excused_although_the_next_worker_holds_the_event_or_has_given_it_back(self) -> None:
        excused = attrs.evolve(NOTE, excused=True)

        def excuse_late(case: tuple[GiveBack, bool]) -> None:
            give_back, is_given_back = case
            with self.bench() as bench:
                worker, held = self.begun(bench)
                if not self.lost_alive(bench, worker, held):
                    return
                other = bench.worker()
                again = bench.one(other)
                assert evidence(again) == (NOTE, NOTE.deaths)

                if not is_given_back:
                    worker.excuse(held, NOTE)
                give_back(bench, other, again)
                if is_given_back:
                    worker.excuse(held, NOTE)

                assert evidence(bench.one(bench.worker())) == (excused, NOTE.deaths)

        ways: list[GiveBack] = [release, report_lost, vanish]
        if self.harness.capabilities.delay is not None:
            ways.append(release_later)
        self.each(product(ways, (False, True)), excuse_late)

    @proves(promise.BEGUN_IS_KEPT)
    def test_a_late_excuse_changes_nothing_after_the_next_worker_has_begun_the_event(self) -> None:
        last = Note(by=FOURTH, deaths=(THIRD,))

        def excuse_late(give_back: GiveBack) -> None:
            with self.bench() as bench:
                worker, held = self.begun(bench)
                if not self.lost_alive(bench, worker, held):
                    return
                other = bench.worker()
                again = bench.one(other)
                other.begin(again, last)
                give_back(bench, other, again)

                worker.excuse(held, NOTE)

                assert evidence(bench.one(bench.worker())) == (last, last.deaths)

        self.each([release, report_lost, vanish], excuse_late)

    def lost_alive(self, bench: Bench, worker: RecordedWorker, held: Delivery) -> bool:
        """Let the lease on *held* end while its *worker* lives on; return whether it ended."""
        if not bench.is_connected:
            bench.let_leases_end()
            return True
        with bench.recorder.faulty(worker, Fault("before", 1)), suppress(TransportError):
            for delivery in bench.glimpse(worker):  # its connection ends, so the event may come already
                worker.release(delivery)
        if worker.release(held):
            return False  # a lease that outlives the failure
        for delivery in bench.glimpse(worker):
            worker.release(delivery)
        return True

    @proves(promise.BEGUN_IS_KEPT)
    def test_only_the_last_note_is_excused_and_only_by_its_own_process(self) -> None:
        def excuse_late(last: Note) -> None:
            with self.bench() as bench:
                worker, held = self.begun(bench)
                assert worker.settles(held, Lost())
                other = bench.worker()
                again = bench.one(other)
                other.begin(again, last)

                worker.excuse(held, NOTE)

                assert other.release(again)
                assert evidence(bench.one(other)) == (last, last.deaths)

        by_another, by_the_same = Note(by=FOURTH, deaths=(THIRD,)), attrs.evolve(NOTE, listener="shop.listeners:resize")
        self.each((by_another, by_the_same), excuse_late)

    @proves(promise.BEGUN_IS_KEPT, promise.STALE_SETTLE_IS_REFUSED)
    def test_what_is_no_longer_held_cannot_be_begun(self) -> None:
        with self.bench() as bench:
            worker = bench.worker()
            worker.send([bench.envelope()])
            held = bench.one(worker)
            worker.release(held)
            again = bench.one(worker)

            with pytest.raises(LeaseLostError):
                worker.begin(held, NOTE)

            worker.release(again)
            assert evidence(bench.one(worker)) == (None, ())

    @proves(promise.BEGUN_IS_KEPT)
    def test_a_note_of_the_greatest_size_is_kept(self) -> None:
        longest = Note(by=IDENTITIES[0], deaths=IDENTITIES[:3], listener="é" * 400)
        with self.bench() as bench:
            worker, _ = self.begun(bench, longest)

            bench.lose(worker)

            assert evidence(bench.one(bench.worker())) == (longest, longest.deaths)


WORKERS = 70
"""How many workers are asked for in one call."""

SIGNS = 300
"""How many heartbeats one worker sends: more than a byte counts."""


class PresenceContract(Contract):
    """Other workers see a worker that appears, and no longer see one that vanished."""

    @proves(promise.PRESENCE_IS_SEEN)
    def test_a_worker_that_appears_is_seen_by_others_and_each_time_anew(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            name, other_name = secrets.token_hex(16), secrets.token_hex(16)
            assert dict(other.transport.presence([name])) == {}
            beats = []
            for _ in range(3):
                worker.transport.appear(name)

                found = other.transport.presence([other_name, name])

                assert list(found) == [name]
                beats.append(found[name].beats)
            assert beats == sorted(set(beats)), "the beats of a worker must increase each time it appears"

    @proves(promise.PRESENCE_IS_SEEN)
    def test_the_beats_of_a_worker_rise_after_a_pause_too(self) -> None:
        if not self.harness.fake:
            pytest.skip("the clock cannot be moved by minutes")
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            name = secrets.token_hex(16)
            beats = []
            for _ in range(3):
                worker.transport.appear(name)
                found = other.transport.presence([name])
                assert list(found) == [name]
                beats.append(found[name].beats)
                bench.advance(PAUSE)
                other.transport.appear(secrets.token_hex(16))  # after which a store may forget who was silent for long
                assert name in other.transport.presence([name]), f"a worker was forgotten after {PAUSE:g} s"

            assert beats == sorted(set(beats)), f"the beats were {beats}, each {PAUSE:g} s after the one before"

    @proves(promise.PRESENCE_IS_SEEN)
    def test_a_worker_that_vanished_gives_no_further_sign(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            name = secrets.token_hex(16)
            worker.transport.appear(name)
            assert name in other.transport.presence([name])

            bench.lose(worker)

            def gone() -> bool:
                signs = [other.transport.presence([name]).get(name) for _ in range(2)]
                return not any(sign and sign.connected for sign in signs) and len({s and s.beats for s in signs}) == 1

            assert bench.eventually(gone)

    @proves(promise.PRESENCE_IS_SEEN)
    def test_asking_for_nobody_finds_nobody(self) -> None:
        with self.bench() as bench:
            assert dict(bench.worker().transport.presence([])) == {}

    @proves(promise.PRESENCE_IS_SEEN)
    def test_dozens_of_workers_are_told_apart(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            alike, token = secrets.token_hex(24), secrets.token_hex(8)
            names = [f"{alike}{number:016x}" for number in range(WORKERS)]
            # Numbers to a store that takes them for numbers, with the same value or too large for one.
            digits = str(int(token, 16))
            names += [f"0{token}", f"00{token}", f"0{digits}", digits, f"{digits}0", f"1e{digits}", "9" * 20 + digits]
            for name in names[::2]:
                worker.transport.appear(name)

            found = other.transport.presence(names)

            assert sorted(found) == sorted(names[::2])

    @proves(promise.PRESENCE_IS_SEEN)
    def test_hundreds_of_signs_of_one_worker_are_told_apart(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            name = secrets.token_hex(16)
            signs = SIGNS if self.harness.fake else SIGNS // 10
            for _ in range(signs):
                worker.transport.appear(name)
            before = other.transport.presence([name]).get(name)

            worker.transport.appear(name)

            after = other.transport.presence([name]).get(name)
            assert before is not None
            assert after is not None
            assert after.beats > before.beats
