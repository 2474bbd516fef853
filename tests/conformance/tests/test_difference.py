"""Two values that differ are shown so that one sees how."""

from __future__ import annotations

import pytest

from relevo_conformance._difference import difference


@pytest.mark.parametrize(
    ("found", "wanted", "words"),
    [
        (1, 2, "1, not 2"),
        (b"a", b"b", "b'a', not b'b'"),
        (None, "a", "None, not 'a'"),
        (b"x" * 500, b"x" * 400, ": 500 long, not 400"),
        ("x" * 300 + "y", "x" * 300 + "z", ": they differ from position 300 on"),
    ],
)
def test_a_difference_is_seen_also_between_long_values(found: object, wanted: object, words: str) -> None:
    assert difference(found, wanted).endswith(words)
