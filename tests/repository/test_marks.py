"""A test that the quick loop leaves out says why."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TypeGuard

import pytest

from .workspace import ROOT, files

TESTS = [path for path in files() if path.suffix == ".py" and path.name.startswith(("test_", "conftest"))]


def left_out_without_reason(tree: ast.AST) -> list[int]:
    """Return the lines with a mark ``slow`` or ``lengthy`` that is not called with a text."""
    nodes = [*ast.walk(tree)]
    reasoned = {
        node.func
        for node in nodes
        if isinstance(node, ast.Call)
        and [type(word) for word in node.args] == [ast.Constant]
        and isinstance(text := node.args[0].value, str)  # type: ignore[attr-defined]
        and text.strip()
    }
    return [node.lineno for node in nodes if _leaves_out(node) and node not in reasoned]


def _leaves_out(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return (
        isinstance(node, ast.Attribute)
        and node.attr in {"slow", "lengthy"}
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "mark"
    )


@pytest.mark.parametrize(
    "text",
    ["pytest.mark.slow", "pytest.mark.slow()", "pytest.mark.slow('')", "mark.x(pytest.mark.lengthy)"],
)
def test_a_mark_without_a_reason_is_found(text: str) -> None:
    assert left_out_without_reason(ast.parse(text)) == [1]


def test_a_mark_with_a_reason_is_not() -> None:
    assert left_out_without_reason(ast.parse("x = [pytest.mark.amqp, pytest.mark.slow('starts RabbitMQ')]")) == []


@pytest.mark.lengthy("reads all tests")
def test_every_test_that_is_left_out_says_why() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in TESTS
        if re.search(r"mark\.(slow|lengthy)", text := Path(path).read_text())
        for line in left_out_without_reason(ast.parse(text))
    }

    assert found == set(), 'write the reason: @pytest.mark.lengthy("starts three processes")'
