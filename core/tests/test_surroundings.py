"""The parts of a process that are compared and restored after each listener."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

pytest.importorskip("resource")  # a POSIX system, as child processes are

from relevo._execution.surroundings import Difference, Keeper, Surroundings, differences, observe

NOW = observe((0, 1, 2))
OTHER = attrs.evolve(
    NOW,
    timers=((True, 1.0),) * 3,
    handlers=(None,) * len(NOW.handlers),
    blocked=NOW.blocked ^ signal.valid_signals(),
    directory=None,
    root=None,
    environment=(0, {}),
    descriptors=(None,) * 3,
    links=(None,) * 3,
    streams=((0, True),) * 3,
    limits=((-2, -2),) * len(NOW.limits),
    umask=NOW.umask ^ 0o777,
    user=(),
    priority=NOW.priority + 1,
    locale="none",
    collector=(not NOW.collector[0], (0, 0, 0)),
    recursion_limit=NOW.recursion_limit + 1,
    socket_timeout=4.5,
)
"""Differs from the current state in every part."""

NAMES = [field.name for field in attrs.fields(Surroundings)]


@given(st.sets(st.sampled_from(NAMES)), st.booleans())
def test_what_differs_is_named_and_nothing_else(changed: set[str], is_back: bool) -> None:  # noqa: FBT001
    before, after = NOW, attrs.evolve(NOW, **{name: getattr(OTHER, name) for name in changed})
    if is_back:
        before, after = after, before

    found = differences(before, after)

    assert {each.name for each in found} == changed
    assert all(len(each.text) < 500 for each in found)


@pytest.mark.parametrize(
    ("before", "after", "differs"),
    [
        ((False, 0.0), (True, 0.0), True),
        ((False, 0.0), (True, 5.0), True),
        ((True, 0.0), (False, 0.0), False),
        ((True, 5.0), (True, 5.0), False),
        ((True, 5.0), (False, 0.0), True),
        ((True, 5.0), (True, 7.0), True),
    ],
)
def test_a_timer_that_was_set_differs_and_one_that_ran_out_does_not(
    before: tuple[bool, float],
    after: tuple[bool, float],
    differs: bool,  # noqa: FBT001
) -> None:
    idle = (False, 0.0)
    one = attrs.evolve(NOW, timers=(idle, before, idle))
    other = attrs.evolve(NOW, timers=(idle, after, idle))

    assert differences(one, other) == ([Difference("timers", "timers (ITIMER_VIRTUAL)")] if differs else [])


@pytest.mark.parametrize(
    ("name", "before", "after", "text"),
    [
        ("environment", (1, {b"A": b"1", b"B": b"2"}), (1, {b"B": b"3"}), "the environment (A, B)"),
        ("environment", (1, {}), (1, {b"\xff": b""}), r"the environment (\xff)"),
        ("environment", (1, {}), (2, {}), "the environment"),
        ("environment", (1, {b"%d" % n: b"" for n in range(8)}), (1, {}), "the environment (0, 1, 2, 3, 4, 3 more)"),
        ("environment", (1, {}), (1, {b"A" * 999: b""}), f"the environment ({'A' * 60}…)"),
        ("blocked", frozenset({2}), frozenset({15, 40}), "blocked signals (SIGINT, SIGTERM, signal 40)"),
        ("descriptors", (None, None, None), ((0, 0, 0, 0), None, (0, 0, 0, 0)), "standard descriptors (0, 2)"),
        ("umask", 0o22, 0o777, "the umask"),
    ],
)
def test_a_difference_says_what_of_it_differs(name: str, before: Any, after: Any, text: str) -> None:
    one, other = attrs.evolve(NOW, **{name: before}), attrs.evolve(NOW, **{name: after})

    assert differences(one, other) == [Difference(name, text)]


@pytest.fixture(name="here")
def _here() -> Iterator[None]:
    directory, umask = os.open(".", os.O_RDONLY), os.umask(0o22)
    yield
    os.fchdir(directory)
    os.close(directory)
    os.umask(umask)


@pytest.mark.usefixtures("here")
def test_a_change_is_found_once_and_undone() -> None:
    before, keeper = observe(), Keeper()
    os.chdir("/")
    os.umask(0o777)

    first, second = keeper.look(), keeper.look()

    assert {(each.name, fate) for each, fate in first} == {("directory", "restored"), ("umask", "restored")}
    assert second == []
    assert observe() == before


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("name", "number"), [("relevo-amqp-main", 0), ("sender", 1)])
def test_a_thread_that_stays_is_told_unless_it_is_one_of_relevo(name: str, number: int) -> None:
    keeper = Keeper()
    over = threading.Event()
    thread = threading.Thread(target=over.wait, name=name)

    thread.start()
    found = keeper.look()
    over.set()
    thread.join()

    assert len(found) == number
