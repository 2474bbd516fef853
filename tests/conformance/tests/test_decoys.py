"""
The suite asks for no more than was promised: transports that are odd and right stay green.

With a quarter of the quick profile's random histories and with all pairs; with a profile that is named in
``RELEVO_CONFORMANCE_PROFILE``, all of it.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import Phase

from relevo_conformance import Harness, examine
from relevo_conformance.profile import VARIABLE, chosen

from . import decoys, decoys_of_answers, decoys_of_claims, decoys_of_coordinators
from .decoy import DECOYS

MODULES = (decoys, decoys_of_answers, decoys_of_claims, decoys_of_coordinators)
INNOCENT = {"kept", "skipped"}
SHARE = 48
"""One of this many transports is examined in ``make test``."""

PROFILE = chosen() if os.environ.get(VARIABLE) else chosen("quick").part()


def case(place: int, harness: type[Harness]) -> object:
    """Return a case of the test: each runs the whole suite, so most of them are left to ``make test-all``."""
    marks = [
        pytest.mark.slow("the whole suite for each of them"),
        *([pytest.mark.soak] if place % SHARE or harness.patience else []),
    ]
    return pytest.param(harness, marks=marks, id=harness.__name__.removesuffix("Harness"))


@pytest.mark.parametrize("harness", list(map(case, range(len(DECOYS)), DECOYS)))
def test_what_is_odd_and_right_stays_green(harness: type[Harness]) -> None:
    findings = list(examine(harness, profile=PROFILE, phases=(Phase.generate,)))

    assert [f"{one.test}: {one.what}" for one in findings if one.status not in INNOCENT] == []
    assert sum(one.status == "kept" for one in findings) > 100


def test_there_are_enough_of_them() -> None:
    assert len({harness.__name__ for harness in DECOYS}) == len(DECOYS) >= 25
    assert all(harness.__doc__ for harness in DECOYS)
