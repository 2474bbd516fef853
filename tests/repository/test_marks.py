"""A test that is left out of the quick loop says why."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TypeGuard

import pytest

from .workspace import ROOT, files

TESTS = [path for path in files() if path.suffix == ".py" and path.name.startswith(("test_", "conftest"))]


def slow_without_reason(tree: ast.AST) -> list[int]:
    """Return the lines with a mark ``slow`` that is not called with a text."""
    reasoned = {
        node.func
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and [type(word) for word in node.args] == [ast.Constant]
        and isinstance(text := node.args[0].value, str)  # type: ignore[attr-defined]
        and text.strip()
    }
    return [node.lineno for node in ast.walk(tree) if _is_slow(node) and node not in reasoned]


def _is_slow(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "slow"
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "mark"
    )


@pytest.mark.parametrize(
    "text", ["pytest.mark.slow", "pytest.mark.slow()", "pytest.mark.slow('')", "mark(x.mark.slow)"]
)
def test_a_mark_without_a_reason_is_found(text: str) -> None:
    assert slow_without_reason(ast.parse(text)) == [1]


def test_a_mark_with_a_reason_is_not() -> None:
    assert slow_without_reason(ast.parse("x = [pytest.mark.amqp, pytest.mark.slow('starts RabbitMQ')]")) == []


def test_every_slow_test_says_why() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in TESTS
        if "mark.slow" in (text := Path(path).read_text())
        for line in slow_without_reason(ast.parse(text))
    }

    assert found == set(), 'write the reason: @pytest.mark.slow("starts three processes")'
