from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from relevo import (
    DeadLetter,
    Failure,
    Reason,
    Unreadable,
)
from relevo._worker import decision
from relevo.errors import described

NOW = 1_000_000.0


# --- what is refused unseen ------------------------------------------------------------------------


def test_an_event_is_not_refused_before_it_expires() -> None:
    assert decision.expired(NOW + 0.001, NOW) is None


def test_an_expired_event_is_refused_at_the_very_second() -> None:
    refused = decision.expired(NOW, NOW)

    assert refused is not None
    assert refused.reason == Reason.EXPIRED


def test_bytes_that_are_no_envelope_are_refused_with_why() -> None:
    refused = decision.unreadable(Unreadable(raw=b"\xff", why="no \0 envelope"))

    assert refused == DeadLetter(reason=Reason.UNREADABLE, error="no \\0 envelope")


# --- the line of a dead letter -----------------------------------------------------------------------


def test_the_line_of_a_dead_letter_names_each_listener_and_its_error() -> None:
    failures = (
        Failure(listener="shop:bill", attempt=5, error="ZeroDivisionError: rate is zero", reason="retries-exhausted"),
        Failure(listener="shop:stock", attempt=1, error="GiveUp: no such item", reason="gave-up"),
    )
    dead = DeadLetter(reason=Reason.RETRIES_EXHAUSTED, error="shop:bill: long\nTraceback …", failures=failures)

    assert decision.epitaph(dead) == (
        "retries-exhausted: shop:bill after 5 runs: ZeroDivisionError: rate is zero; "
        "shop:stock after 1 run: GiveUp: no such item"
    )


def test_the_line_of_a_dead_letter_without_a_listener_has_the_first_line_of_its_error() -> None:
    assert decision.epitaph(DeadLetter(reason="expired", error="expired 3 s ago\nmore")) == "expired: expired 3 s ago"
    assert decision.epitaph(DeadLetter(reason="gave-up")) == "gave-up"


# --- texts -----------------------------------------------------------------------------------------


@given(st.text(st.characters()), st.integers(20, 300))
def test_what_is_sanitised_fits_and_every_store_can_keep_it(text: str, limit: int) -> None:
    clean = decision.sanitised(text, limit=limit)

    assert len(clean.encode()) <= limit
    assert "\0" not in clean
    if len(text) * 6 <= limit:
        assert clean == text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def test_a_long_text_is_cut_in_the_middle_since_the_end_of_a_traceback_says_most() -> None:
    clean = decision.sanitised("head " + "ü" * 20_000 + " tail")

    assert clean.startswith("head ü")
    assert " [...] " in clean
    assert clean.endswith("ü tail")


class _HostileError(Exception):
    def __str__(self) -> str:
        raise SystemExit


class _HostileRepr:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("two\n  lines"), "ValueError: two lines"),
        (ValueError(), "ValueError:"),
        (_HostileError(), "_HostileError: its text cannot be shown"),
        (ValueError(_HostileRepr()), "ValueError: its text cannot be shown"),
        (
            ExceptionGroup("of tasks", [ValueError("one"), ExceptionGroup("more", [_HostileError()]), KeyError(3)]),
            (
                "ExceptionGroup: of tasks (3 sub-exceptions): ValueError: one; ExceptionGroup: more (1 sub-exception): "
                "_HostileError: its text cannot be shown; KeyError: 3"
            ),
        ),
        (
            ExceptionGroup("of tasks", [ValueError(number) for number in range(1000)]),
            "ExceptionGroup: of tasks (1000 sub-exceptions): ValueError: 0; ValueError: 1; ValueError: 2",
        ),
    ],
)
def test_an_error_is_described_in_one_line_even_if_it_does_not_want_to(error: Exception, text: str) -> None:
    assert described(error) == text


def test_a_traceback_is_had_of_any_error() -> None:
    def recurse() -> None:
        recurse()

    texts = []
    for fail in (recurse, lambda: 1 / 0):
        try:
            fail()
        except Exception as error:  # noqa: BLE001
            texts.append(decision.traced(error))

    assert texts[0].endswith("RecursionError: maximum recursion depth exceeded")
    assert texts[1].endswith("ZeroDivisionError: division by zero")
    assert "_HostileError" in decision.traced(_HostileError())


class _Hostile(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError


class _NamelessError(Exception, metaclass=_Hostile):
    pass


def test_a_class_that_hides_its_name_cannot_hide_the_error() -> None:
    assert described(_NamelessError("why")) == "_NamelessError: why"
