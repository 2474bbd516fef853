"""The directive ``relevo-hooks``: every hook with the text of its specification."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from relevo._hook import HookSpecs


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("relevo-hooks", Hooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Hooks(SphinxDirective):
    """Is replaced by a list of the hooks of a kind, ``deciding`` or ``observing``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        observing = {"observing": True, "deciding": False}[self.arguments[0]]
        return self.parse_text_to_nodes("\n".join(definition_lines(observing=observing)))


def definition_lines(*, observing: bool) -> Iterator[str]:
    """Yield the lines of a list of definitions."""
    for name, function in vars(HookSpecs).items():
        text = " ".join((inspect.getdoc(function) or "").replace("*", "`").split())
        if name.startswith("relevo_") and text.startswith("Observe") is observing:
            arguments = [each for each in inspect.signature(function).parameters if each != "self"]
            yield from (f"`{name}({', '.join(arguments)})`", f": {text}", "")
