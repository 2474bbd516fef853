"""The free race finds what only a race shows, without a hook of the harness, and accuses nothing that is right."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from relevo import Transport
from relevo_conformance import PROMISES, Harness, _contract_free_race, promise
from relevo_conformance._children import Part, play_apart
from relevo_conformance._contract_free_race import FreeRaceContract
from relevo_conformance.card import Card
from relevo_conformance.examination import Finding, examine
from relevo_conformance.harness import Observed
from relevo_conformance.history import Record
from relevo_conformance.mutant import Mutant
from relevo_conformance.promise import RACED
from relevo_conformance.recorder import Recorder
from relevo_conformance.trial import Trial
from relevo_conformance.verdict import LeftBehind
from relevo_conformance.watch import _interrupt
from relevo_memory import MemoryTransport

from .folder import CopyingHarness, RenamingHarness, RenamingTransport, SettlesACopyHarness
from .racy import RACY, UnhookedHarness

RACES = [name for name in vars(FreeRaceContract) if name.startswith("test_")]
THREADS = "test_threads_that_receive_as_they_like_share_out_the_events"
PROCESSES = "test_processes_that_receive_as_they_like_share_out_the_events"
SETTLING = "test_of_settlements_that_meet_one_counts"
SETTLING_APART = "test_of_settlements_of_several_processes_one_counts"
MEETING = "test_receives_that_meet_hand_out_each_event_once"
NOT_RACED = ("is not claimed", "is not a Coordinator", "is not a LimitStore")
RACED_TOGETHER = {name for one in PROMISES.values() for name in one.floors if " raced " in name}


@pytest.fixture(autouse=True)
def _time_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let calls meet as often as they have to, however slow the machine is: a race shows by chance only."""
    monkeypatch.setattr(_contract_free_race, "SECONDS", 600.0)
    monkeypatch.setattr(_contract_free_race, "SECONDS_APART", 600.0)


def race(harness: type[Harness], *names: str, observed: Observed | None = None) -> dict[str, Finding]:
    """Return the findings of the races of *names*, by default of all, that were not skipped as unclaimed."""
    found = examine(harness, matching=lambda test, _: test in (names or RACES), observed=observed)
    return {one.test: one for one in found if not one.what.endswith(NOT_RACED)}


@pytest.mark.parametrize("test", [PROCESSES, MEETING])
def test_a_claim_by_copy_and_unlink_is_found_by_threads_and_by_processes(test: str) -> None:
    (finding,) = race(CopyingHarness, test).values()

    assert finding.status == "broken"


@pytest.mark.parametrize("test", [SETTLING_APART, SETTLING])
def test_a_settlement_of_a_copy_is_found_by_threads_and_by_processes(test: str) -> None:
    (finding,) = race(SettlesACopyHarness, test).values()

    assert finding.status == "broken"
    assert promise.STALE_SETTLE_IS_REFUSED.id in finding.promises


def test_a_claim_by_rename_is_right() -> None:
    findings = race(RenamingHarness)

    assert len(findings) == 6
    assert {one.status for one in findings.values()} == {"kept"}, findings


@pytest.mark.parametrize("mutant", RACY, ids=lambda mutant: mutant.name)
def test_a_call_that_trusts_what_it_saw_before_is_found(mutant: Mutant) -> None:
    with mutant.plant() as harness:
        findings = examine(harness, matching=lambda test, _: test in RACES)
        broken = (one.promises for one in findings if one.status == "broken")

        assert any(mutant.breaks.id in promises for promises in broken)


# --- what is known without a race ------------------------------------------------------------------


def test_a_promise_that_only_a_race_can_break_is_unknown_until_calls_raced() -> None:
    needs_a_race = {one.id for one in PROMISES.values() if any(" raced " in name for name in one.floors)}
    trial = Trial(harness=UnhookedHarness, name="memory", only=sorted(needs_a_race))
    kept = [Finding(test=name, status="kept", promises=promises) for name, promises in trial.tests()]
    met = Counter({name: 1000 for one in PROMISES.values() for name in one.floors if " raced " not in name})

    def status(raced: int) -> Card:
        observed = Observed()
        observed.take_in(met + Counter(dict.fromkeys(RACED_TOGETHER, raced)), {}, None)
        claimed = MemoryTransport.capabilities
        return trial.card(kept, observed, claimed=claimed, profile=trial.chosen_profile, duration=0.0)

    assert needs_a_race >= {"leased-is-hidden", "stale-settle-is-refused", "extend-keeps-the-lease"}
    assert {one.status for one in status(0).lines} == {"UNKNOWN"}
    assert status(0).verdict == "unknown"
    assert status(RACED).verdict == "conformant in part"


def test_a_harness_without_a_hook_races_enough_for_every_promise() -> None:
    observed = Observed()

    race(UnhookedHarness, observed=observed)

    assert {name: observed.met[name] for name in RACED_TOGETHER if observed.met[name] < RACED} == {}


@pytest.mark.parametrize("test", [PROCESSES, SETTLING_APART])
def test_processes_that_raced_seldom_race_again(test: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_contract_free_race, "APART", 1000)  # so that all races are seldom
    monkeypatch.setattr(_contract_free_race, "BENCHES", 4)
    once, often = Observed(), Observed()

    race(RenamingHarness, test, observed=often)
    monkeypatch.setattr(_contract_free_race, "APART", 0)
    race(RenamingHarness, test, observed=once)

    assert often.met["receive done"] > 2 * once.met["receive done"]


@pytest.mark.parametrize(("harness", "test"), [(UnhookedHarness, MEETING), (RenamingHarness, PROCESSES)])
def test_calls_race_although_a_thread_that_hangs_was_interrupted(harness: type[Harness], test: str) -> None:
    released = threading.Event()

    def hang() -> None:
        with suppress(LeftBehind):
            released.wait()

    hanging = threading.Thread(target=hang)
    hanging.start()
    assert hanging.ident is not None
    _interrupt(hanging.ident)

    try:
        (finding,) = race(harness, test).values()
    finally:
        released.set()
        hanging.join()

    assert finding.status == "kept"


# --- in processes of their own ---------------------------------------------------------------------


class OnlyHereHarness(RenamingHarness):
    """Drives a transport that can be opened in this process alone."""

    def __init__(self) -> None:
        super().__init__()
        self.process = os.getpid()

    def open(self) -> Transport:
        if os.getpid() != self.process:
            raise ConnectionError("the server knows another process")
        return super().open()


class HangsElsewhereHarness(OnlyHereHarness):
    """Drives a transport that hangs in another process."""

    def open(self) -> Transport:
        if os.getpid() != self.process:
            time.sleep(60.0)
        return super().open()


class EndsElsewhereHarness(OnlyHereHarness):
    """Drives a transport that ends another process."""

    def open(self) -> Transport:
        if os.getpid() != self.process:
            os._exit(3)
        return super().open()


class OnceElsewhereHarness(OnlyHereHarness):
    """Drives a transport that can be opened in one other process, and in no more."""

    def open(self) -> Transport:
        if os.getpid() != self.process:
            (Path(self._folder.name) / "taken").touch(exist_ok=False)
        return RenamingHarness.open(self)


def played_for(limit: float, known: Recorder, parts: Sequence[Part], *, seconds: float) -> Sequence[Record]:
    """Let processes play *parts*, for *limit* seconds at most."""
    return play_apart(known, parts, seconds=min(limit, seconds))


@pytest.mark.parametrize(
    ("harness", "why"),
    [
        (OnlyHereHarness, "OnlyHereHarness.open raised ConnectionError: the server knows another process"),
        (OnceElsewhereHarness, "OnceElsewhereHarness.open raised FileExistsError"),
        (HangsElsewhereHarness, "was not done in time"),
        (EndsElsewhereHarness, "ended early"),
    ],
)
def test_if_no_other_process_can_open_the_transport_only_threads_race(
    harness: type[Harness], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if harness is HangsElsewhereHarness:
        # The processes are given up soon; the threads, which are to race to the end, have all their time.
        monkeypatch.setattr(_contract_free_race, "play_apart", partial(played_for, 1.0))
        monkeypatch.setattr(signal, "alarm", lambda _: None)  # else it ends by itself if this process looks late

    (processes,) = race(harness, PROCESSES).values()
    (threads,) = race(harness, THREADS).values()

    assert processes.status == "skipped"
    assert processes.what.startswith("only threads raced, and no processes: ")
    assert why in processes.what
    assert threads.status == "kept"


def test_an_error_of_the_transport_in_another_process_is_found() -> None:
    (finding,) = race(RaisesElsewhereHarness, PROCESSES).values()

    assert finding.status == "broken"
    assert promise.ERRORS_ARE_TRANSLATED.id in finding.promises


class RaisesElsewhere(RenamingTransport):
    """Raises an error of its driver, but not in the process in which the class was made."""

    process = os.getpid()

    def _claim(self, path: Path, held: Path) -> None:
        if os.getpid() != self.process:
            raise ZeroDivisionError
        super()._claim(path, held)


class RaisesElsewhereHarness(RenamingHarness):
    """Drives it."""

    transport = RaisesElsewhere
