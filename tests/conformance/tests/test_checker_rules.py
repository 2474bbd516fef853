"""The checker's own tests need every rule of it: whichever is left out, some doctored history passes."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from types import FrameType, ModuleType
from typing import Any

import attrs
import pytest

from relevo_conformance import (
    _judge_lock,
    _judge_query,
    _judge_receive,
    _judge_send,
    _judge_settle,
    _judge_store,
    checker,
)
from relevo_conformance._world import World

from .scenes import SCENES

JUDGES = (checker, _judge_send, _judge_receive, _judge_settle, _judge_store, _judge_query, _judge_lock)


@attrs.frozen
class Place:
    """Some lines of a judge."""

    module: str
    function: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.module.rpartition('.')[2]}:{self.function}:{self.first}"

    def holds(self, frame: FrameType) -> bool:
        """Tell whether *frame* stands here."""
        return frame.f_globals.get("__name__") == self.module and self.first <= frame.f_lineno <= self.last


def places(module: ModuleType, wanted: type[ast.AST]) -> Iterator[tuple[Place, Any]]:
    """Yield where *module* has what is *wanted*, and what it is."""
    for function in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, wanted):
                    found: Any = node
                    yield Place(module.__name__, function.name, found.lineno, found.end_lineno), found


REPORTS = [
    place
    for module in JUDGES
    for place, call in places(module, ast.Call)
    if isinstance(call.func, ast.Attribute) and call.func.attr == "report"
]
"""Where the checker says that something is broken."""

NAMES = [
    place
    for module in JUDGES
    for place, node in places(module, ast.Return)
    if node.value is not None and "promise." in ast.unparse(node.value)
]
"""Where it decides which promise that is."""


@pytest.mark.parametrize("place", REPORTS, ids=str)
def test_without_a_rule_of_the_checker_a_doctored_history_passes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    report = World.report

    def silent_here(self: World, *arguments: Any) -> None:
        if not place.holds(sys._getframe(1)):
            report(self, *arguments)

    monkeypatch.setattr(World, "report", silent_here)

    assert any(play(honest=False).broken() != {broken.id} for broken, play in SCENES)


@pytest.mark.parametrize("field", _judge_store.RIGHT)
def test_without_a_look_at_a_part_of_a_dead_letter_a_doctored_one_passes(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        _judge_store, "RIGHT", {name: is_right for name, is_right in _judge_store.RIGHT.items() if name != field}
    )

    assert any(play(honest=False).broken() != {broken.id} for broken, play in SCENES)


def test_each_name_that_the_checker_gives_is_given_to_a_doctored_history() -> None:
    given: set[Place] = set()

    def look(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            given.update(place for place in NAMES if place.holds(frame))
        return look if frame.f_globals.get("__name__") in {module.__name__ for module in JUDGES} else None

    before = sys.gettrace()
    sys.settrace(look)
    try:
        for _, play in SCENES:
            play(honest=False).violations()
    finally:
        sys.settrace(before)

    assert [str(place) for place in NAMES if place not in given] == []


def test_there_are_rules_to_leave_out() -> None:
    assert len(REPORTS) > 35
    assert len(NAMES) > 15
