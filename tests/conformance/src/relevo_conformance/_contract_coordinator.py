"""Scenarios of a coordinator: locks, announcements of workers, controls, and what counts against limits."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence

import pytest
from hypothesis import given, strategies as st
from hypothesis.errors import Flaky

from relevo import MAX_ANNOUNCEMENT
from relevo.backend import ControlStore
from relevo_conformance import promise
from relevo_conformance._contract_name import BLANKS, ENDS
from relevo_conformance.bench import Bench
from relevo_conformance.contract import Contract, proves
from relevo_conformance.verdict import flaky_verdict
from relevo_conformance.worker import RecordedWorker

LONG = 1200.0
"""
The seconds of a lock or an announcement that does not expire during a scenario.

In milliseconds they would be shorter than what expires during one by a clock that runs.
"""

SHORT, SHORT_IF_REAL = 60.0, 1.5
"""The seconds of one that expires, by a clock that is moved and by one that runs."""

LIFE = 100 * 365 * 86_400.0
"""The longest lifetime of a control in seconds."""

LONGEST_KEY = 40
"""The largest number of digits of the key of a control, and of a limit."""

LONGEST = 255
"""The largest number of characters of the name of a lock, and of a holder."""

MANY, A_PAGE = 130, 16
"""How many workers announce themselves, and of how many one announces as much as it may."""

ALIKE = tuple(
    dict.fromkeys((*ENDS, *BLANKS, "ß", "ss", "ﬁ", "fi", "\u212a", "k", "0", "00", "1", "01", "1.0", "😀", "😁"))
)
"""Endings of names that a store must tell apart."""

BASES = ("a", "aé", "ss")
"""Those that a store may take for one of the others."""

HOLDERS = ("one", "One", "one ", "other")
TTLS = (60.0, 300.0)
PAUSES = (25.5, 110.5)
"""Seconds; no sum of them is a lifetime, so that no lock is tried at the moment when it expires."""


class CoordinatorContract(Contract):
    """A lock has one holder at a time, and an announcement is seen until it expires."""

    @property
    def short(self) -> float:
        """The seconds of a lock or an announcement that expires."""
        return SHORT if self.harness.fake else SHORT_IF_REAL

    def almost_expired(self, bench: Bench, began: float) -> None:
        """Let time pass until what was made at *began* for :attr:`short` seconds has almost expired."""
        if self.harness.fake:
            bench.approach(began + self.short)
        else:
            bench.advance(self.short / 2)

    def is_alive(self, began: float) -> bool:
        """Return whether what was made at *began* cannot have expired yet, on a slow machine too."""
        return self.harness.fake or self.harness.clock.now() < began + self.short - self.harness.slack

    def let_it_expire(self, bench: Bench) -> None:
        """Let time pass until what was made for :attr:`short` seconds has expired, by any clock."""
        bench.advance(self.short + 3 * self.harness.slack + bench.times.step)

    def taken(self, worker: RecordedWorker, name: str, holder: str = "one", ttl: float = LONG) -> str:
        """Return the receipt of a lock that is free, or has the same holder."""
        receipt = worker.lock(name, holder=holder, ttl=ttl)
        assert receipt is not None, f"{holder!r} did not get the lock {name!r}, which no other holder has"
        return receipt

    # --- locks --------------------------------------------------------------------------------------

    @proves(promise.LOCK_HAS_ONE_HOLDER)
    def test_a_lock_has_one_holder_until_it_is_released(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            for name in (f"{bench.queue}/a", f"{bench.queue}/a"):  # the second time it exists
                receipt = self.taken(worker, name)

                before = self.harness.clock.now()
                for asking in (other, worker):  # an instance may act for several holders
                    assert asking.lock(name, holder="other", ttl=LONG) is None, "two holders have one lock"
                assert not self.harness.fake or self.harness.clock.now() == before, "lock waited for another holder"

                worker.unlock(name, receipt)
                other.unlock(name, self.taken(other, name, "other"))

    @proves(promise.LOCK_HAS_ONE_HOLDER)
    def test_a_lock_stays_with_its_holder_almost_until_it_expires_and_is_free_then(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            name = f"{bench.queue}/a"
            for holder, next_holder in itertools.pairwise(("one", "other", "one")):  # each time after another
                began = self.harness.clock.now()
                self.taken(worker, name, holder, self.short)

                self.almost_expired(bench, began)
                early = other.lock(name, holder=next_holder, ttl=LONG)
                assert early is None or not self.is_alive(began), "the lock had not expired"
                if early is not None:  # on a slow machine
                    other.unlock(name, early)
                self.let_it_expire(bench)

                receipt = self.taken(other, name, next_holder)
                other.unlock(name, receipt)

    @proves(promise.LOCK_HAS_ONE_HOLDER)
    def test_a_lock_of_a_long_time_is_held_for_all_of_it(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            for ttl in (0.75 * 86_400.0, 400 * 86_400.0):
                name = f"{bench.queue}/{ttl:g}"
                self.taken(worker, name, ttl=ttl)
                if self.harness.fake:
                    bench.advance(0.99 * ttl)

                assert other.lock(name, holder="other", ttl=LONG) is None, "the lock had not expired"

    @proves(promise.LOCK_HAS_ONE_HOLDER, promise.LOCK_IS_KEPT_BY_ITS_RECEIPT)
    def test_the_same_holder_takes_over_at_once_and_the_earlier_receipt_is_void(self) -> None:
        with self.bench() as bench:
            earlier, later, other = (bench.worker() for _ in range(3))
            name = f"{bench.queue}/a"
            stale = self.taken(earlier, name)
            for worker in (later, earlier):
                receipt = self.taken(worker, name)
                assert receipt != stale, "two locks have one receipt; each must be unique"

                assert not earlier.renew_lock(name, stale, ttl=LONG), "an earlier receipt still holds the lock"
                earlier.unlock(name, stale)

                assert other.lock(name, holder="other", ttl=LONG) is None, "an earlier receipt released the lock"
                assert worker.renew_lock(name, receipt, ttl=LONG)
                stale = receipt

    @proves(promise.LOCK_HAS_ONE_HOLDER, promise.LOCK_IS_KEPT_BY_ITS_RECEIPT)
    def test_a_takeover_counts_its_own_time(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            for first, second in ((LONG, self.short), (self.short, LONG)):
                name = f"{bench.queue}/{first:g}"
                self.taken(worker, name, ttl=first)
                self.taken(other, name, ttl=second)

                self.let_it_expire(bench)

                found = other.lock(name, holder="other", ttl=LONG)
                assert (found is None) == (second == LONG), f"it was taken over for {second:g} s"

    @proves(promise.LOCK_HAS_ONE_HOLDER)
    def test_each_lock_has_a_receipt_of_its_own(self) -> None:
        with self.bench() as bench:
            workers = [bench.worker() for _ in range(2)]
            receipts = []
            for number in range(12):  # of one holder and of others, of one lock and of others, again after a release
                worker, name = workers[number % 2], f"{bench.queue}/{number % 3}"
                receipts.append(self.taken(worker, name, "one"))
                if number % 4 == 3:
                    worker.unlock(name, receipts[-1])
                receipts.append(self.taken(worker, f"{name}/{number}", f"holder {number}"))

            assert len(set(receipts)) == len(receipts), "two locks have one receipt; each must be unique"

    @proves(promise.LOCK_IS_KEPT_BY_ITS_RECEIPT)
    def test_a_renewal_counts_from_now_whether_that_is_longer_or_shorter(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            name, also = f"{bench.queue}/a", f"{bench.queue}/b"
            receipt, shortened = self.taken(worker, name, ttl=self.short), self.taken(worker, also)

            assert other.renew_lock(name, receipt, ttl=LONG), "the receipt holds the lock for each instance"
            assert worker.renew_lock(also, shortened, ttl=self.short), "the receipt holds the lock"
            self.let_it_expire(bench)

            assert other.lock(name, holder="other", ttl=LONG) is None, "the lock was renewed, but has expired"
            assert other.lock(also, holder="other", ttl=LONG) is not None, "a renewal for less did not shorten it"
            assert worker.renew_lock(name, receipt, ttl=LONG), "a renewal keeps the receipt"

    @proves(promise.LOCK_IS_KEPT_BY_ITS_RECEIPT)
    def test_an_expired_receipt_renews_and_releases_what_nobody_took(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            name, also = f"{bench.queue}/a", f"{bench.queue}/b"
            receipt, released = self.taken(worker, name, ttl=self.short), self.taken(worker, also, ttl=self.short)
            self.let_it_expire(bench)
            if self.harness.fake:
                bench.advance(30 * 86_400.0)
            self.taken(other, f"{bench.queue}/c", "other")  # after which a store may have removed what expired

            assert worker.renew_lock(name, receipt, ttl=LONG), (
                "an expired receipt holds the lock until another takes it"
            )
            worker.unlock(also, released)

            assert other.lock(name, holder="other", ttl=LONG) is None, "the lock was renewed after it had expired"
            assert not worker.renew_lock(also, released, ttl=LONG), "the lock was released after it had expired"

    @proves(promise.LOCK_IS_KEPT_BY_ITS_RECEIPT)
    def test_an_expired_receipt_does_nothing_once_another_took_the_lock(self) -> None:
        with self.bench() as bench:
            worker, other, third = (bench.worker() for _ in range(3))
            name = f"{bench.queue}/a"
            stale = self.taken(worker, name, ttl=self.short)
            self.let_it_expire(bench)
            receipt = self.taken(other, name, "other")

            assert not worker.renew_lock(name, stale, ttl=LONG), "another holder has taken the lock"
            worker.unlock(name, stale)

            assert third.lock(name, holder="third", ttl=LONG) is None, "a stale receipt released the lock"
            other.unlock(name, receipt)
            assert not worker.renew_lock(name, stale, ttl=LONG), "another holder had the lock since"
            self.taken(third, name, "third")

    @proves(promise.LOCK_IS_KEPT_BY_ITS_RECEIPT)
    def test_a_receipt_is_of_one_lock_until_it_is_released(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            name, also, free = (f"{bench.queue}/{each}" for each in "abc")
            receipt, their_receipt = self.taken(worker, name), self.taken(other, also, "other")
            wrong = [(name, their_receipt), (also, receipt), (free, receipt), (name, ""), (name, receipt.swapcase())]
            wrong += [(name, f"{receipt} "), (name, receipt[:-1]), (name, "one"), (name, "é" * LONGEST)]
            for place, void in wrong:
                if (place, void) == (name, receipt):  # of digits alone, say
                    continue
                assert not worker.renew_lock(place, void, ttl=LONG), f"the receipt {void!r} renewed {place!r}"
                worker.unlock(place, void)

            assert worker.lock(also, holder="one", ttl=LONG) is None, "the lock was released by the receipt of another"
            for _ in range(2):
                worker.unlock(name, receipt)
                assert not worker.renew_lock(name, receipt, ttl=LONG), "a released lock was renewed"
            self.taken(other, name, "other")

    @proves(promise.LOCK_HAS_ONE_HOLDER, promise.LOCK_IS_KEPT_BY_ITS_RECEIPT)
    def test_a_lock_outlives_the_instance_that_took_it(self) -> None:
        for ends in (RecordedWorker.close, lambda worker: worker.recorder.kill(worker)):
            with self.bench() as bench:
                worker, other = bench.worker(), bench.worker()
                name = f"{bench.queue}/a"
                receipt = self.taken(worker, name)

                ends(worker)

                another = bench.worker()
                for asking in (other, another):
                    assert asking.lock(name, holder="other", ttl=LONG) is None, "the lock ended with its instance"
                assert another.renew_lock(name, receipt, ttl=LONG), "the receipt holds the lock for each instance"
                another.unlock(name, receipt)

    @proves(promise.LOCK_HAS_ONE_HOLDER)
    def test_locks_with_names_that_are_alike_are_different_locks(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            receipts = {name: self.taken(worker, name, name) for name in alike(bench.queue)}

            for name, receipt in receipts.items():
                assert other.lock(name, holder=f"{bench.queue} other", ttl=LONG) is None, f"{name!r} is not locked"
                other.unlock(name, receipt)
                other.unlock(name, self.taken(other, name, f"{bench.queue} other"))

    @proves(promise.LOCK_HAS_ONE_HOLDER)
    def test_holders_with_names_that_are_alike_are_different_holders(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            name, holders = f"{bench.queue}/a", alike(bench.queue)
            for holder in (*(f"{bench.queue}{end}" for end in BASES), *longest(bench.queue)[::3]):
                receipt = self.taken(worker, name, holder)
                for another in holders:
                    if another != holder:
                        found = other.lock(name, holder=another, ttl=LONG)
                        assert found is None, f"the holder {another!r} is taken for {holder!r}"
                worker.unlock(name, receipt)

    @proves(promise.LOCK_HAS_ONE_HOLDER, promise.LOCK_IS_KEPT_BY_ITS_RECEIPT)
    def test_random_calls_on_locks_have_results_that_fit_one_another(self) -> None:
        with self.bench() as bench:
            workers = [bench.worker() for _ in range(2)]
            lives = itertools.count()

            @self.profile.seeded
            @self.profile.of_payloads(fake=self.harness.fake, phases=self.phases)
            @given(steps=st.lists(steps(can_wait=self.harness.fake), min_size=1, max_size=25))
            def check(steps: list[Step]) -> None:
                life = LockCalls(bench, workers, f"{bench.queue}/{next(lives)}")
                for step in steps:  # the checker judges each result
                    step(life)

            try:
                check()
            except Flaky as error:
                recorder = bench.recorder
                proof = (recorder.records, recorder.violations) if recorder.is_broken else None
                raise flaky_verdict(error, proof) from None

    # --- announcements ------------------------------------------------------------------------------

    def announced(self, bench: Bench, worker: RecordedWorker) -> Mapping[str, bytes]:
        """Return what *worker* sees of the workers of *bench*, without the number of the bench."""
        found = worker.workers()
        return {who.removeprefix(bench.token): about for who, about in found.items() if who.startswith(bench.token)}

    @proves(promise.ANNOUNCED_IS_SEEN)
    def test_an_announcement_is_seen_unchanged_by_every_instance(self) -> None:
        longest = secrets.token_bytes(MAX_ANNOUNCEMENT)
        texts = (bytes(range(256)), b"", longest, b"\xff\x00", b" \n", "é☃".encode("utf-16"), b"0")
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            for number, about in enumerate(texts):
                worker.announce(f"{bench.token}{number:x}", about, ttl=LONG)
            worker.announce(f"{bench.token}a", b"before", ttl=LONG)
            for about in (b"longer than before", b"", longest, b"at last"):
                other.announce(f"{bench.token}a", about, ttl=LONG)

                assert self.announced(bench, worker).get("a") == about, (
                    "an announcement did not replace the earlier one"
                )

            seen = worker.workers()
            before = dict(seen)
            other.announce(f"{bench.token}a", b"once more", ttl=LONG)
            worker.workers()
            assert dict(seen) == before, "what was returned before changed with an announcement"
            other.announce(f"{bench.token}a", b"at last", ttl=LONG)

            expected = {**{f"{number:x}": about for number, about in enumerate(texts)}, "a": b"at last"}
            for asking in (worker, other, bench.worker()):
                assert self.announced(bench, asking) == expected, "what workers announced is not what is seen"
            self.remove(bench, other, expected)

    @proves(promise.ANNOUNCED_IS_SEEN)
    def test_an_announcement_expires_and_no_other_with_it(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            began = self.harness.clock.now()
            lifetimes = {"a": (self.short,), "b": (LONG,), "c": (self.short, LONG), "d": (LONG, self.short)}
            for who, each in lifetimes.items():
                for ttl in each:
                    worker.announce(f"{bench.token}{who}", who.encode(), ttl=ttl)

            self.almost_expired(bench, began)
            early = {*self.announced(bench, other)}
            assert early == {*"abcd"} or not self.is_alive(began), "an announcement expired early"
            self.let_it_expire(bench)

            for asking in (other, worker):
                assert {*self.announced(bench, asking)} == {*"bc"}, "the last announcement decides when it expires"
            other.announce(f"{bench.token}a", b"again", ttl=LONG)
            expected = {"a": b"again", "b": b"b", "c": b"c"}
            assert self.announced(bench, worker) == expected, "a worker whose announcement expired announced itself"
            self.remove(bench, worker, expected)

    @proves(promise.ANNOUNCED_IS_SEEN)
    def test_a_lifetime_that_is_not_positive_removes_an_announcement_and_no_other(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            for ttl, is_set_back in itertools.product((0.0, -1.0, -LONG), (False, True)):
                for who in "abc":
                    worker.announce(f"{bench.token}{who}", b"there", ttl=LONG)

                other.announce(f"{bench.token}b", b"gone", ttl=ttl)
                other.announce(f"{bench.token}d", b"never there", ttl=ttl)
                if is_set_back:
                    bench.set_back(60.0)

                found = self.announced(bench, worker)
                assert found == {"a": b"there", "c": b"there"}, f"after an announcement for {ttl:g} s {found} are seen"
            self.remove(bench, worker, "ac")

    @proves(promise.ANNOUNCED_IS_SEEN)
    def test_an_announcement_outlives_the_instance_that_made_it(self) -> None:
        with self.bench() as bench:
            for who, ends in (("a", RecordedWorker.close), ("b", lambda worker: worker.recorder.kill(worker))):
                worker = bench.worker()
                worker.announce(f"{bench.token}{who}", b"there", ttl=LONG)

                ends(worker)

                assert self.announced(bench, bench.worker()).get(who) == b"there", "it ended with its instance"
            self.remove(bench, bench.worker(), "ab")

    @proves(promise.ANNOUNCED_IS_SEEN)
    def test_many_workers_that_announce_themselves_are_told_apart(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            length = 64 - len(bench.token)
            names = [f"{number:0{length}x}" for number in range(MANY)]
            # Numbers to a store that takes them for numbers, with the same value or too large for one.
            names += ["1", "01", "001", "1e1", "10", "9" * 20, f"{'9' * 20}1"]
            large = b"." * (MAX_ANNOUNCEMENT - 9)
            texts = {
                who: b"%09d" % number + (large if number % A_PAGE == 0 else b"") for number, who in enumerate(names)
            }
            for who, about in texts.items():
                worker.announce(f"{bench.token}{who}", about, ttl=LONG)

            found = self.announced(bench, other)

            assert {*found} == {*texts}, f"{len(texts)} workers announced themselves, and {len(found)} are seen"
            assert found == texts, "two workers share an announcement"
            self.remove(bench, other, found)

    def remove(self, bench: Bench, worker: RecordedWorker, names: Iterable[str]) -> None:
        """Remove the announcements of *names*: other benches may share the store."""
        for who in names:
            worker.announce(f"{bench.token}{who}", b"", ttl=0.0)
        assert self.announced(bench, worker) == {}

    # --- controls -----------------------------------------------------------------------------------

    def controlled(self, bench: Bench, worker: RecordedWorker) -> Mapping[str, bytes]:
        """Return the controls that *worker* sees of *bench*, without the number of the bench."""
        found = worker.controls()
        return {key.removeprefix(bench.token): what for key, what in found.items() if key.startswith(bench.token)}

    def lift(self, bench: Bench, worker: RecordedWorker, keys: Iterable[str]) -> None:
        """Remove the controls *keys*: other benches may share the store."""
        for key in keys:
            worker.set_control(f"{bench.token}{key}", b"", ttl=0.0)
        assert self.controlled(bench, worker) == {}

    @proves(promise.CONTROL_IS_SEEN)
    def test_a_control_is_seen_unchanged_by_every_instance(self) -> None:
        longest = secrets.token_bytes(MAX_ANNOUNCEMENT)
        texts = {"0": bytes(range(256)), "00": b"", "1": longest, "1e1": b"\xff\x00 \n"}
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            last = "f" * (LONGEST_KEY - len(bench.token) - 1)
            texts |= {f"{last}e": b"1", f"{last}f": b"0"}
            for key, what in texts.items():
                for earlier in (b"before", longest, what):
                    worker.set_control(f"{bench.token}{key}", earlier, ttl=LONG)

            before = {**worker.controls()}
            other.set_control(f"{bench.token}0", b"changed", ttl=LONG)
            seen = self.controlled(bench, worker)
            assert seen == {**texts, "0": b"changed"}, "a control did not replace the earlier one, and no other"
            assert before.get(f"{bench.token}0") == texts["0"], "what was returned before changed with a control"

            worker.close()
            other.recorder.kill(other)
            assert self.controlled(bench, bench.worker()) == seen, "a control ended with its instance"
            self.lift(bench, bench.worker(), texts)

    @proves(promise.CONTROL_IS_SEEN)
    def test_a_control_is_no_announcement_and_an_announcement_is_no_control(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            worker.announce(f"{bench.token}a", b"said", ttl=LONG)
            worker.set_control(f"{bench.token}a", b"asked", ttl=LONG)
            worker.set_control(f"{bench.token}b", b"asked", ttl=LONG)
            worker.announce(f"{bench.token}b", b"", ttl=0.0)

            assert self.announced(bench, other) == {"a": b"said"}, "a control is shown as a worker"
            assert self.controlled(bench, other) == {"a": b"asked", "b": b"asked"}, "a worker changed a control"
            self.lift(bench, other, "ab")
            assert self.announced(bench, worker) == {"a": b"said"}, "a control that was removed took a worker with it"
            self.remove(bench, worker, "a")

    @proves(promise.CONTROL_IS_SEEN)
    def test_a_control_expires_and_no_other_with_it(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            began = self.harness.clock.now()
            lifetimes = {"a": (self.short,), "b": (LIFE,), "c": (self.short, LIFE), "d": (LIFE, self.short)}
            lifetimes |= {"e": (LIFE, 0.0), "f": (LIFE, -LONG), "0": (-1.0,)}
            for key, each in lifetimes.items():
                for ttl in each:
                    worker.set_control(f"{bench.token}{key}", key.encode(), ttl=ttl)

            assert {*self.controlled(bench, other)} == {*"abcd"} or not self.is_alive(began), "one expired early"
            self.almost_expired(bench, began)
            early = {*self.controlled(bench, other)}
            assert early == {*"abcd"} or not self.is_alive(began), "a control expired early"
            self.let_it_expire(bench)
            if self.harness.fake:
                bench.advance(0.9 * LIFE)

            for asking in (other, worker):
                assert {*self.controlled(bench, asking)} == {*"bc"}, "the last one decides when a control expires"
            self.lift(bench, worker, "bc")

    # --- limits -------------------------------------------------------------------------------------

    def counted(self, worker: RecordedWorker, key: str) -> bytes:
        """Return what *worker* finds under *key*, without a change of it."""
        seen: list[bytes] = []

        def look(before: bytes, _: float) -> bytes:
            seen.append(before)
            raise _OnlyLooksError

        with pytest.raises(_OnlyLooksError):
            worker.change_limit(key, look, ttl=LONG)
        return seen[-1]

    def put(self, worker: RecordedWorker, key: str, after: bytes, ttl: float = LONG) -> bytes:
        """Store *after* under *key*; return what was there."""
        seen: list[bytes] = []

        def change(before: bytes, _: float) -> bytes:
            seen.append(before)
            return after

        worker.change_limit(key, change, ttl=ttl)
        return seen[-1]

    @proves(promise.LIMIT_IS_COUNTED_ONCE)
    def test_what_was_stored_against_a_limit_comes_unchanged_to_the_next_change_of_its_key(self) -> None:
        longest = secrets.token_bytes(MAX_ANNOUNCEMENT)
        texts = {"0": bytes(range(256)), "00": b"\x00", "1": longest, "1e1": b"\xff\x00 \n", "": b"0"}
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            last = "f" * (LONGEST_KEY - len(bench.token) - 1)
            texts |= {f"{last}e": b"1", f"{last}f": b"0"}
            for key, what in texts.items():
                found = self.put(worker, f"{bench.token}{key}", b"before")
                assert found == b"", "a change got something where nothing was stored"
                for earlier, later in itertools.pairwise((b"before", longest, b" ", what)):
                    found = self.put(other, f"{bench.token}{key}", later)
                    assert found == earlier, "a change did not get what was stored last"

            for asking, (key, what) in itertools.product((worker, other), texts.items()):
                found = self.counted(asking, f"{bench.token}{key}")
                assert found == what, "what is stored is not what the last change has returned"
            self.clear(bench, other, texts)

    @proves(promise.LIMIT_IS_COUNTED_ONCE)
    def test_empty_bytes_remove_what_is_stored_against_a_limit_and_nothing_else(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            for key in "ab":
                self.put(worker, f"{bench.token}{key}", b"there")

            assert self.put(other, f"{bench.token}a", b"") == b"there"
            for ttl in (LONG, 0.0):
                assert self.put(other, f"{bench.token}c", b"", ttl) == b"", "nothing was stored there"

            left = {key: self.counted(worker, f"{bench.token}{key}") for key in "abc"}
            assert left == {"a": b"", "b": b"there", "c": b""}, "empty bytes did not remove what was stored, or more"
            assert self.put(worker, f"{bench.token}a", b"again") == b""
            assert self.counted(other, f"{bench.token}a") == b"again"
            self.clear(bench, other, "ab")

    @proves(promise.LIMIT_IS_COUNTED_ONCE)
    def test_what_counts_against_a_limit_expires_and_nothing_else_with_it(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            began = self.harness.clock.now()
            lifetimes = {"a": (self.short,), "b": (LIFE,), "c": (self.short, LIFE), "d": (LIFE, self.short)}
            for key, each in lifetimes.items():
                for ttl in each:
                    self.put(worker, f"{bench.token}{key}", b"there", ttl)

            self.almost_expired(bench, began)
            early = [key for key in lifetimes if not self.counted(other, f"{bench.token}{key}")]
            assert not early or not self.is_alive(began), "what was stored expired early"
            self.let_it_expire(bench)

            for asking in (other, worker):
                left = {key for key in lifetimes if self.counted(asking, f"{bench.token}{key}")}
                assert left == {*"bc"}, "the last change decides when it expires"
                if self.harness.fake:
                    bench.advance(0.45 * LIFE)
            assert self.put(other, f"{bench.token}a", b"again") == b"", "a change got what has expired"
            assert self.counted(worker, f"{bench.token}a") == b"again", "what has expired was not replaced"
            self.clear(bench, worker, "abc")

    @proves(promise.LIMIT_IS_COUNTED_ONCE)
    def test_a_change_that_raises_stores_nothing(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            for earlier, expected in ((None, b""), (b"there", b"there")):
                if earlier is not None:
                    self.put(worker, f"{bench.token}a", earlier)

                for asking in (worker, other, worker):  # the error comes, and the next call finds what was there
                    assert self.counted(asking, f"{bench.token}a") == expected, "a change that raised stored something"
            assert self.put(other, f"{bench.token}a", b"after") == b"there"
            self.clear(bench, worker, "a")

    @proves(promise.LIMIT_IS_COUNTED_ONCE)
    def test_what_counts_against_a_limit_outlives_the_instance_that_stored_it(self) -> None:
        with self.bench() as bench:
            for key, ends in (("a", RecordedWorker.close), ("b", lambda worker: worker.recorder.kill(worker))):
                worker = bench.worker()
                self.put(worker, f"{bench.token}{key}", b"there")

                ends(worker)

                found = self.counted(bench.worker(), f"{bench.token}{key}")
                assert found == b"there", "what was stored ended with its instance"
            self.clear(bench, bench.worker(), "ab")

    @proves(promise.LIMIT_IS_COUNTED_ONCE)
    def test_a_change_gets_the_time_by_which_what_it_stores_expires(self) -> None:
        times: list[float] = []

        def note(before: bytes, now: float) -> bytes:
            times.append(now)
            return b"there"

        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            for asking in (worker, other, worker, other):
                began = self.harness.clock.now()
                asking.change_limit(f"{bench.token}a", note, ttl=LONG)
                ended = self.harness.clock.now()

                slack = 3 * self.harness.slack + 0.001  # where times are rounded
                found = times[-1]
                assert began - slack <= found <= ended + slack, f"a change from {began} to {ended} got the time {found}"
                bench.advance(self.short / 2 if self.harness.fake else 0.01)
            assert times == sorted(times), f"a later change got an earlier time: {times}"
            self.clear(bench, other, "a")

    @proves(promise.LIMIT_IS_COUNTED_ONCE)
    def test_what_counts_against_a_limit_is_no_announcement_and_no_control(self) -> None:
        with self.bench() as bench:
            worker, other = bench.worker(), bench.worker()
            key = f"{bench.token}a"
            self.put(worker, key, b"counted")
            worker.announce(key, b"said", ttl=LONG)

            shown = [who for who in other.workers() if bench.token in who]  # under whatever name
            assert shown == [key], "what counts against a limit is shown as a worker"
            assert self.announced(bench, other) == {"a": b"said"}, "a limit changed what a worker announced"
            worker.announce(key, b"", ttl=0.0)
            assert self.counted(other, key) == b"counted", "an announcement changed what counts against a limit"
            assert not any(bench.token in who for who in other.workers()), "a limit is shown as a worker"
            if isinstance(worker.transport, ControlStore):
                assert not any(bench.token in key for key in other.controls()), "a limit is shown as a control"
                worker.set_control(key, b"asked", ttl=LONG)
                assert self.counted(other, key) == b"counted", "a control changed what counts against a limit"
                self.clear(bench, worker, "a")
                assert self.controlled(bench, other) == {"a": b"asked"}, "a limit that was removed took a control along"
                self.lift(bench, worker, "a")
            self.clear(bench, worker, "a")

    def clear(self, bench: Bench, worker: RecordedWorker, keys: Iterable[str]) -> None:
        """Remove what counts against the limits *keys*: other benches may share the store."""
        for key in keys:
            self.put(worker, f"{bench.token}{key}", b"")
        assert [key for key in keys if self.counted(worker, f"{bench.token}{key}")] == []


class _OnlyLooksError(Exception):
    """Raised by a change that is not to be stored."""


# --- names -----------------------------------------------------------------------------------------


def alike(start: str) -> Sequence[str]:
    """Return names that begin with *start*, and are alike."""
    names = longest(start)
    return [*(f"{start}{end}" for end in ALIKE), *names, names[0][:-1], names[0][:-2]]


def longest(start: str) -> Sequence[str]:
    """Return names that begin with *start*, and of which only the last character differs."""
    return [start.ljust(LONGEST - 1, fill) + end for fill, ends in (("-", "xyX"), ("😀", "😀😁")) for end in ends]


# --- random calls ----------------------------------------------------------------------------------


class LockCalls:
    """
    What random calls do to two locks.

    Args:
        bench: Where time passes.

        workers: Whose calls they are.

        start: The beginning of the names of the locks.
    """

    def __init__(self, bench: Bench, workers: Sequence[RecordedWorker], start: str) -> None:
        self._workers = workers
        self._start = start
        self._receipts = ["none"]
        self.bench = bench

    def lock(self, by: int, name: str, holder: str, ttl: float) -> None:
        """Take a lock."""
        receipt = self._workers[by].lock(f"{self._start}{name}", holder=holder, ttl=ttl)
        self._receipts += [] if receipt is None else [receipt]

    def renew(self, by: int, name: str, which: int, ttl: float) -> None:
        """Renew a lock with one of the last receipts."""
        self._workers[by].renew_lock(f"{self._start}{name}", self._receipt(which), ttl=ttl)

    def unlock(self, by: int, name: str, which: int) -> None:
        """Release a lock with one of the last receipts."""
        self._workers[by].unlock(f"{self._start}{name}", self._receipt(which))

    def _receipt(self, which: int) -> str:
        return self._receipts[-min(which, len(self._receipts))]


Step = Callable[[LockCalls], None]


def steps(*, can_wait: bool) -> st.SearchStrategy[Step]:
    """Return a strategy for one call, or a pause."""
    by, name, which, ttl = st.integers(0, 1), st.sampled_from("aA"), st.integers(1, 4), st.sampled_from(TTLS)
    holder = st.sampled_from(HOLDERS)
    calls: list[st.SearchStrategy[Step]] = [
        st.builds(lambda *drawn: lambda life: life.lock(*drawn), by, name, holder, ttl),
        st.builds(lambda *drawn: lambda life: life.renew(*drawn), by, name, which, ttl),
        st.builds(lambda *drawn: lambda life: life.unlock(*drawn), by, name, which),
    ]
    if can_wait:
        pauses = st.sampled_from(PAUSES)
        calls.append(st.builds(lambda pause: lambda life: life.bench.advance(pause), pauses))
    return st.one_of(calls)
