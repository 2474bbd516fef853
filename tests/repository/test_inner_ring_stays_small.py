"""The inner ring, on which every promise rests, is small enough to be read in an afternoon."""

from __future__ import annotations

import ast
import tokenize
from pathlib import Path

import relevo

BUDGET = 2_500
"""Lines of code, without blank lines, comments and docstrings."""

# __init__ and _public are the map of both rings, wire and _life for transports alone, _listening for type checkers.
OUTER = {"__init__", "__main__", "_app", "_config", "_discovery", "_line", "_loop", "_module", "_relay", "_secret"}
OUTER |= {
    "_board",
    "_flight",
    "_asyncapi",
    "_compatibility",
    "_consequence",
    "_fork",
    "_guard",
    "_host",
    "_life",
    "_limit",
    "_listening",
    "_local",
    "_lock",
    "_marking",
    "_notify",
    "_origin",
    "_part",
    "_project",
    "_public",
    "_schema",
    "_sending",
    "_settings",
    "_setup",
    "_signal",
    "_signing",
    "_staff",
    "_start",
    "_systemd",
    "_written",
    "cli",
    "execution",
    "ext",
    "testing",
    "wire",
}

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def test_the_inner_ring_is_within_its_budget() -> None:
    root = Path(relevo.__file__).parent

    sizes = {
        path.relative_to(root): code_lines(path)
        for path in sorted(root.rglob("*.py"))
        if path.relative_to(root).parts[0].removesuffix(".py") not in OUTER
    }

    longest = sorted(sizes, key=lambda name: -sizes[name])
    told = "\n".join(f"{sizes[name]:5} {name}" for name in longest)
    assert sum(sizes.values()) <= BUDGET, f"{sum(sizes.values())} lines of code:\n{told}"
    assert len(sizes) > 20, "the ring was looked for in the wrong place"


def test_blank_lines_comments_and_docstrings_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        '''"""A module.

With a text.
"""

# why
NUMBER = 1  # counts once
"""What follows an assignment is a docstring too."""


def function(
    argument: int,
) -> str:
    """Do it."""
    return """two
lines"""
'''
    )

    assert code_lines(path) == 1 + 3 + 2


def code_lines(path: Path) -> int:
    """Return how many lines of *path* hold code."""
    with tokenize.open(path) as file:
        text = file.read()
    docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = {
        line
        for token in tokenize.generate_tokens(iter(text.splitlines(keepends=True)).__next__)
        if token.type not in _NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(lines - docstrings)
