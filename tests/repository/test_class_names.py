"""One class name means one thing: two modules that define classes of the same name are listed here with the reason."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache

import pytest

from .workspace import ROOT, distributions, sources

SAME_MEANING = {
    "DeadLetterStore": "a database's and RabbitMQ's implementation of the same methods",
    "JoinedSessions": "the sessions that a transport has joined, for SQL and for memory",
    "Locks": "a database's and the memory store's implementation of the same methods",
    "Receipt": "what each transport puts into Delivery.receipt",
    "_JoinedSession": "what each transport derives from relevo.backend's JoinedSession",
}

_CLASS = re.compile(r"class (\w+)")


@cache
def _definitions() -> dict[str, list[str]]:
    """Return the places of every class in the sources by its name, without those inside of functions and classes."""
    found = defaultdict(list)
    for folder in distributions().values():
        for path in sorted(sources(folder).rglob("*.py")):
            for number, line in enumerate(path.read_text().splitlines(), start=1):
                if match := _CLASS.match(line):
                    found[match[1]].append(f"{path.relative_to(ROOT)}:{number}")
    return found


def test_no_two_modules_define_classes_of_the_same_name() -> None:
    twice = {name: places for name, places in _definitions().items() if len(places) > 1}

    assert {name: places for name, places in twice.items() if name not in SAME_MEANING} == {}


@pytest.mark.parametrize("name", SAME_MEANING)
def test_a_name_that_is_excused_is_still_defined_twice(name: str) -> None:
    assert len(_definitions()[name]) > 1
