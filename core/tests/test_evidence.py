from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, strategies as st

from relevo import Note, Presence, ProcessIdentity
from relevo._worker.evidence import GRACE, Absences, CrashLoop, Fate, MayBegin, Verdict, Wait, described_deaths, judged

NAMES = "abcdef"
fates = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(Fate), min_size=len(NAMES), max_size=len(NAMES))
notes = st.none() | st.builds(Note, by=st.sampled_from(NAMES), excused=st.booleans())
deaths = st.lists(st.sampled_from(NAMES), max_size=3, unique=True)


def _judged(note: Note | None, known: list[str], fate: Mapping[str, Fate], *, patient: bool = True) -> Verdict:
    return judged(note, known, fate.__getitem__, patient=patient)


def test_processes_of_one_boot_are_described_together() -> None:
    deaths = [
        str(ProcessIdentity(worker="a", boot=boot, pid=pid, started=pid))
        for boot, pid in (("aa", 11), ("aa", 12), ("bb", 13))
    ]

    said = described_deaths(deaths, last="the last while shop:bill ran")

    assert said.endswith("the last while shop:bill ran (pid 11, 12 of boot aa; pid 13 of boot bb)")


@given(note=notes, known=deaths, fate=fates, patient=st.booleans())
def test_a_crash_loop_needs_three_processes_that_began_it_and_are_gone(
    note: Note | None, known: list[str], fate: Mapping[str, Fate], *, patient: bool
) -> None:
    verdict = _judged(note, known, fate, patient=patient)

    if isinstance(verdict, CrashLoop):
        accused = {*known, *([note.by] if note is not None and not note.excused else [])}
        assert len(set(verdict.deaths)) == 3
        assert set(verdict.deaths) <= accused
        assert {fate[each] for each in verdict.deaths} == {Fate.GONE}


@given(notes, deaths, fates)
def test_no_event_waits_for_ever(note: Note | None, known: list[str], fate: Mapping[str, Fate]) -> None:
    over = {name: Fate.GONE if each is Fate.AWAY else each for name, each in fate.items()}

    assert not isinstance(_judged(note, known, over, patient=False), Wait)


@given(notes, deaths, fates)
def test_the_deaths_that_are_kept_never_name_one_that_is_there(
    note: Note | None, known: list[str], fate: Mapping[str, Fate]
) -> None:
    verdict = _judged(note, known, fate)

    if isinstance(verdict, MayBegin):
        assert len(verdict.deaths) <= 2
        assert len(set(verdict.deaths)) == len(verdict.deaths)
        new = set(verdict.deaths) - set(known)
        assert all(fate[each] in (Fate.AWAY, Fate.GONE) for each in new)


def _all(fate: Fate) -> dict[str, Fate]:
    return dict.fromkeys(NAMES, fate)


def test_a_suspect_without_a_note_is_begun_and_accuses_nothing() -> None:
    assert _judged(None, [], _all(Fate.GONE)) == MayBegin()


def test_a_process_that_is_gone_is_a_death() -> None:
    assert _judged(Note(by="a"), [], _all(Fate.GONE)) == MayBegin(("a",))


def test_a_process_that_may_be_gone_is_counted_until_the_verdict() -> None:
    assert _judged(Note(by="b"), ["a"], _all(Fate.AWAY)) == MayBegin(("a", "b"))
    assert _judged(Note(by="c"), ["a", "b"], _all(Fate.AWAY)) == Wait()
    assert _judged(Note(by="c"), ["a", "b"], _all(Fate.GONE)) == CrashLoop(("a", "b", "c"))


def test_a_process_that_is_back_is_struck_off() -> None:
    fate = _all(Fate.GONE) | {"b": Fate.ALIVE}

    assert _judged(Note(by="c"), ["a", "b"], fate) == MayBegin(("a", "c"))


def test_a_process_that_was_told_to_end_is_no_death() -> None:
    assert _judged(Note(by="c", excused=True), ["a", "b"], _all(Fate.GONE)) == MayBegin(("a", "b"))


def test_a_process_that_lives_gets_its_turn_but_not_for_ever() -> None:
    assert _judged(Note(by="a"), [], _all(Fate.ALIVE)) == Wait()
    assert _judged(Note(by="a"), [], _all(Fate.ALIVE), patient=False) == MayBegin()


@pytest.mark.parametrize("fate", [Fate.SELF, Fate.UNKNOWN])
def test_the_process_that_asks_and_one_that_cannot_be_read_are_no_deaths(fate: Fate) -> None:
    assert _judged(Note(by="a"), [], _all(fate)) == MayBegin()


# --- how long a worker has been away ------------------------------------------------------------------


def _looked(*looks: tuple[float, Presence | None]) -> Fate:
    absences = Absences()
    for now, sign in looks:
        absences.look(["w"], {} if sign is None else {"w": sign}, now)
    return absences.fate("w")


def _missed(start: float, seconds: float) -> list[tuple[float, Presence | None]]:
    return [(start + second, None) for second in range(int(seconds) + 1)]


def test_a_worker_is_gone_once_it_was_away_for_the_whole_grace() -> None:
    assert _looked(*_missed(100, GRACE - 1)) is Fate.AWAY
    assert _looked(*_missed(100, GRACE)) is Fate.GONE


def test_a_worker_whose_beats_stand_still_is_as_if_it_were_missing() -> None:
    still = [(100.0 + second, Presence(beats=7)) for second in range(int(GRACE) + 1)]

    assert _looked(*still) is Fate.GONE
    assert _looked(*still, (200.0, Presence(beats=8))) is Fate.ALIVE


def test_a_worker_that_is_connected_lives() -> None:
    assert _looked((0.0, Presence(beats=1, connected=True))) is Fate.ALIVE
    assert _looked(*_missed(0, 99), (100.0, Presence(beats=1, connected=True))) is Fate.ALIVE


def test_one_look_tells_nothing_of_a_worker_that_is_not_connected() -> None:
    assert _looked((0.0, Presence(beats=1))) is Fate.AWAY


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=6))
def test_a_look_after_a_long_time_counts_for_little(times: list[float]) -> None:
    """If the checks themselves were interrupted, six of them must not add up to a grace period of 30 s."""
    assert _looked(*((now, None) for now in sorted(times))) is Fate.AWAY


def test_a_clock_that_goes_back_counts_nothing() -> None:
    assert _looked(*((1000.0 - second, None) for second in range(100))) is Fate.AWAY
