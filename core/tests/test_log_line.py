"""Log lines of a kind are whole a few times, and then counted."""

from __future__ import annotations

import logging

import pytest

from relevo._log_line import line_handler, log_repeats_briefly


def test_the_first_lines_of_a_kind_are_whole_and_the_others_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("relevo.worker")
    handler = line_handler()
    logging.root.addHandler(handler)
    try:
        with log_repeats_briefly():
            for number in range(1000):
                log.warning("%d is dead", number, extra={"relevo_kind": "dead: gave-up: shop:book: ValueError"})
                if number < 7:
                    log.warning("something else")
        log.warning("%d is dead", 1000, extra={"relevo_kind": "dead: gave-up: shop:book: ValueError"})
    finally:
        logging.root.removeHandler(handler)

    said = [line.partition("relevo.worker: ")[2] for line in capsys.readouterr().err.splitlines()]
    assert [line for line in said if line != "something else"] == [
        *(f"{number} is dead" for number in range(5)),
        "and 995 more like it: dead: gave-up: shop:book: ValueError",
        "1000 is dead",
    ]
    assert said.count("something else") == 7
