"""Text of unknown origin, as people see it."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from relevo import Delivery, Envelope
from relevo._visible import visible, visible_lines

CONTROLS = {
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
    "\0": r"\x00",
    "\x1b": r"\x1b",
    "\x7f": r"\x7f",
    "\x85": r"\x85",
    "\x9b": r"\x9b",
    "\u2028": r"\u2028",
    "\u2029": r"\u2029",
    "\u202e": r"\u202e",
    "\u2066": r"\u2066",
    "\ud800": r"\ud800",
    "\U000e0001": r"\U000e0001",
}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_character_is_escaped(control: str) -> None:
    assert visible(f"a{control}b") == f"a{CONTROLS[control]}b"


def test_what_people_write_stays() -> None:
    text = "Größe 大小 🙂 c:\\new (“x”)"

    assert visible(text) == text


@given(st.text())
def test_any_text_is_one_line_that_a_terminal_prints_as_it_is(text: str) -> None:
    assert visible(text).isprintable()


@given(st.text())
def test_every_line_of_any_text_begins_with_the_margin(text: str) -> None:
    found = visible_lines(text, margin="  ").split("\n")

    assert len(found) == text.count("\n") + 1
    assert all(line.isprintable() and (line.startswith("  ") or not line) for line in found)


def test_tabs_become_spaces_and_the_line_breaks_of_other_systems_are_line_breaks() -> None:
    assert visible_lines("a\tb\r\n\n\x1bc\rd") == "  a   b\n\n  \\x1bc\\rd"


def test_the_text_of_a_delivery_is_one_line() -> None:
    envelope = Envelope(id="1\nforged", source="shop", name="a.b\x1b[2J", body=b"{}")
    delivery = Delivery(
        envelope=envelope, queue="de\rfault", attempt=1, lost_leases=0, receipt="r", state=b"", enqueued_at=0.0
    )

    assert repr(delivery) == r"<Delivery of a.b\x1b[2J 1\nforged from de\rfault, attempt 1>"
