"""It is a third party's: it uses only the public names of relevo, and is as long as the guide says."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "examples" / "transport-redis" / "src" / "relevo_redis"
SOURCES = sorted(PACKAGE.glob("*.py"))
GUIDE = ROOT / "docs" / "how-to" / "write-a-transport.md"

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_it_imports_nothing_private_of_relevo(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            imported |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}

    private = [name for name in imported if name.startswith(("relevo.", "relevo_conformance.")) and "._" in name]
    others = [name for name in imported if name.startswith(("relevo_memory", "relevo_sql", "relevo_amqp"))]
    assert private + others == []


def test_it_is_as_long_as_the_guide_says() -> None:
    quoted = re.search(r"\*\*(\d+) lines\*\*", GUIDE.read_text())
    lua = [line.strip() for path in PACKAGE.glob("*.lua") for line in path.read_text().splitlines()]

    length = sum(map(_code_lines, SOURCES)) + sum(bool(line) and not line.startswith("--") for line in lua)

    assert quoted is not None
    assert int(quoted[1]) == length


def _code_lines(path: Path) -> int:
    """Return how many lines are neither blank nor comment nor docstring."""
    text = path.read_text()
    docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = {line for token in tokens if token.type not in _NO_CODE for line in range(token.start[0], token.end[0] + 1)}
    return len(lines - docstrings)
