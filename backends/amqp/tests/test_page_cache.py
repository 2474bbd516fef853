from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, strategies as st

from relevo import Unreadable
from relevo_amqp import _page_cache
from relevo_amqp._mapping import DeadLetterDetails, MessageRecord
from relevo_amqp._page_cache import Earliest, FoundDeadLetter, PageCache


def buried(number: int, size: int = 1) -> FoundDeadLetter:
    record = MessageRecord(envelope=Unreadable(raw=b"", headers={}, why=""), queue="mail", enqueued_at=0.0)
    return FoundDeadLetter(
        f"{number:03}", number, record, DeadLetterDetails(ref=f"{number:03}", reason="r", error="", at=0.0), size
    )


def refs(letters: Sequence[FoundDeadLetter]) -> list[str]:
    return [letter.ref for letter in letters]


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 9)), unique_by=lambda each: each[0]), st.integers(1, 5))
def test_what_is_kept_is_the_beginning_of_all_without_a_gap(added: list[tuple[int, int]], limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_page_cache, "MOST", 6)
        patch.setattr(_page_cache, "MOST_BYTES", 20)
        earliest = Earliest(limit)

        for number, size in added:
            earliest.add(buried(number, size))

    everything = sorted(f"{number:03}" for number, _ in added)
    kept = refs(earliest.letters)
    assert kept == everything[: len(kept)]
    assert len(kept) >= min(limit, len(everything))
    assert len(kept) <= limit + 6
    assert earliest.complete == (kept == everything)
    assert sum(letter.size for letter in earliest.letters) <= 20 or len(kept) <= limit


def test_one_who_goes_on_takes_the_next_until_the_end() -> None:
    page_cache = PageCache()
    page_cache.put("mail", "002", [buried(number) for number in range(3, 8)], complete=True)

    pages = [page_cache.take("mail", after, 2) for after in ("002", "004", "006", "007", "007")]

    assert [(refs(letters), complete) for letters, complete in pages] == [
        (["003", "004"], True),
        (["005", "006"], True),
        (["007"], True),
        ([], True),
        ([], False),
    ]


@pytest.mark.parametrize(("queue", "behind"), [("mail", "001"), ("mail", ""), ("other", "002")])
def test_a_reader_that_begins_elsewhere_finds_nothing_and_disturbs_no_other(queue: str, behind: str) -> None:
    page_cache = PageCache()
    page_cache.put("mail", "002", [buried(3)], complete=True)

    assert page_cache.take(queue, behind, 2) == ([], False)
    assert refs(page_cache.take("mail", "002", 2)[0]) == ["003"]


def test_what_was_put_there_long_ago_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_page_cache, "FRESH", 0.0)
    page_cache = PageCache()
    page_cache.put("mail", "002", [buried(3)], complete=True)

    assert page_cache.take("mail", "002", 2) == ([], False)


def test_what_is_no_dead_letter_any_more_is_not_handed_out() -> None:
    page_cache = PageCache()
    page_cache.put("mail", "002", [buried(3), buried(4), buried(5)], complete=False)

    page_cache.drop({"004", "unknown"})

    letters, complete = page_cache.take("mail", "002", 5)
    assert (refs(letters), complete) == (["003", "005"], False)
