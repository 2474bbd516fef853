"""A logger has the name of its package without the underscore, and the how-to lists every one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from .workspace import ROOT, distributions, sources

# Named after what users know: a command of its own, and their listeners.
NAMED = {"relevo._worker.relay": "relevo.relay", "relevo._worker.listener_log": "relevo.listener"}
SHIPPED = ("relevo", "relevo-amqp", "relevo-memory", "relevo-sql")
PAGE = ROOT / "docs/how-to/handle-events.md"


def loggers() -> Iterator[tuple[str, str]]:
    """Yield the module and the name of every logger that a package of relevo gets for itself."""
    for name in SHIPPED:
        package = sources(distributions()[name])
        for path in sorted(package.rglob("*.py")):
            if "_log = " not in (text := path.read_text()):
                continue
            module = ".".join(path.relative_to(package.parent).with_suffix("").parts)
            for node in ast.parse(text).body:
                match node:
                    case ast.Assign(targets=[ast.Name("_log")], value=ast.Call(args=[ast.Constant(str(logger))])):
                        yield module, logger


def wanted(module: str) -> str:
    """Return the name for the logger of *module*: its public package, or the noun of its private one."""
    if module in NAMED:
        return NAMED[module]
    package, *rest = module.split(".")
    backend = package.removeprefix("relevo_")
    if backend != package:
        return f"relevo.{backend}"
    return ".".join([package, *([rest[0].removeprefix("_")] if rest[0] != "ext" else rest[:2])])


def test_a_logger_has_the_name_of_its_package() -> None:
    assert [(module, name) for module, name in loggers() if name != wanted(module)] == []


def test_the_how_to_lists_every_logger() -> None:
    listed = re.findall(r"^\| `(relevo\.[a-z.]+)` \|", PAGE.read_text(), re.MULTILINE)

    assert sorted(listed) == sorted({name for _, name in loggers()})
