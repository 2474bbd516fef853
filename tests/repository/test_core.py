"""The core stays small to read and light to import."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from .workspace import distributions, sources

CORE = sources(distributions()["relevo"])
OUTER = {"__init__", "__main__", "_app", "_config", "_loop", "_module", "_relay", "testing"}
INNER = [path for path in sorted(CORE.glob("*.py")) if path.stem not in OUTER]

MOST_LINES = 2500
MOST_MILLISECONDS = 30.0

HEAVY = ["asyncio", "click", "hypothesis", "pika", "pytest", "rich", "sqlalchemy", "stevedore"]


def code_lines(text: str) -> int:
    """Count the lines of *text* without blanks, comments, and strings that stand alone."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in silent
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def test_lines_are_counted_without_words() -> None:
    assert code_lines('"""Doc."""\n\n# why\nx = (\n    1,  # one\n)\n"""of x"""\n') == 3


def test_the_inner_ring_can_be_read_in_an_afternoon() -> None:
    lines = {path.name: code_lines(path.read_text()) for path in INNER}

    assert sum(lines.values()) <= MOST_LINES, lines


def test_importing_relevo_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import relevo, sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )

    assert [name for name in HEAVY if name in done.stdout.split()] == []


@pytest.mark.slow
def test_importing_relevo_takes_little_more_than_what_it_stands_on(tmp_path: Path) -> None:
    # Compiled once, then both by turns, the quickest of each: the rest is the machine's other business.
    environ = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    ground, whole = "attrs, msgspec, pluggy", "attrs, msgspec, pluggy, relevo"

    pairs = [(_milliseconds(ground, environ), _milliseconds(whole, environ)) for _ in range(10)]

    assert min(with_relevo for _, with_relevo in pairs) - min(alone for alone, _ in pairs) <= MOST_MILLISECONDS


def _milliseconds(names: str, environ: dict[str, str]) -> float:
    script = f"import time; start = time.process_time(); import {names}; print((time.process_time() - start) * 1000)"
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    return float(done.stdout)
