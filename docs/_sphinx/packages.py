"""Directives that draw the core's layers from the import contract, and list its packages from the code."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import relevo

CORE = Path(relevo.__file__).parent
SETTINGS = Path(__file__).parents[2] / "pyproject.toml"

WIDTH, ROW, GAP = 760, 34, 10
"""The width of the picture, the height of a layer, and the gap between two, in pixels."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("relevo-layers", Layers)
    app.add_directive("relevo-packages", Packages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Layers(SphinxDirective):
    """Draws the layers of the import contract."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(SETTINGS))
        return [nodes.raw("", "\n".join(svg(layers())), format="html")]


class Packages(SphinxDirective):
    """Is replaced by a table of all packages: the first line of each, its modules, and the packages below."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(SETTINGS))
        return self.parse_text_to_nodes("\n".join(table(layers())))


def layers() -> list[list[str]]:
    """Return the packages and modules of the core by layer, the highest layer first."""
    contracts = tomllib.loads(SETTINGS.read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (each for each in contracts if each["id"] == "layers")
    return [[name.strip(" ()") for name in layer.split("|")] for layer in contract["layers"]]


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of the table."""
    needs = nearest(rows)
    yield "| | holds | modules | rests on |"
    yield "|---|---|---|---|"
    for name, found in needs.items():
        modules = sorted(each.stem for each in place_of(name).glob("*.py") if not each.stem.startswith("__"))
        cells = (code([name]), first_line(place_of(name)), code(modules), code(found))
        yield f"| {' | '.join(cells)} |"


def nearest(rows: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Return the packages that each one imports from the layers below, without indirect ones."""
    level = {name: number for number, names in enumerate(rows) for name in names}
    reached: dict[str, set[str]] = {}
    found: dict[str, list[str]] = {}
    for name in reversed(level):
        direct = {each for each in imported(place_of(name)) & level.keys() if level[each] > level[name]}
        further = {each for one in direct for each in reached[one]}
        reached[name] = direct | further
        found[name] = sorted(direct - further, key=lambda each: (level[each], each))
    return {name: found[name] for name in level}


def place_of(name: str) -> Path:
    """Return the folder of a package, or the file of a module."""
    return CORE / name if (CORE / name).is_dir() else CORE / f"{name}.py"


def code(names: Sequence[str]) -> str:
    """Return *names* as the text of a cell."""
    return ", ".join(f"`{name}`" for name in names)


def first_line(place: Path) -> str:
    """Return the first line of the docstring of a package or a module, as Markdown."""
    file = place / "__init__.py" if place.is_dir() else place
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    return text.partition("\n")[0].replace("``", "`")


def imported(place: Path) -> set[str]:
    """Return the parts of the core that a package or a module imports, also inside functions."""
    files = place.rglob("*.py") if place.is_dir() else [place]
    found: set[str] = set()
    for node in (each for file in files for each in ast.walk(ast.parse(file.read_text()))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name.split(".")[1] for name in found if name.startswith("relevo.")}


def svg(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of the picture: a row for each layer, a box for each package; in the colours of the text."""
    height = len(rows) * (ROW + GAP)
    yield f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="The layers of the core, the highest first"'
    yield '     style="max-width: 100%; font: 13px monospace" fill="none" stroke="currentColor">'
    for level, names in enumerate(rows):
        width, top = WIDTH / len(names), level * (ROW + GAP) + 1
        for place, name in enumerate(names):
            left = place * width + GAP / 2
            yield f'<rect x="{left:.0f}" y="{top}" width="{width - GAP:.0f}" height="{ROW}" rx="6"/>'
            middle = f'x="{left + (width - GAP) / 2:.0f}" y="{top + ROW / 2 + 5:.0f}"'
            yield f'<text {middle} text-anchor="middle" fill="currentColor" stroke="none">{name}</text>'
    yield "</svg>"
