"""The directives ``relevo-promises`` and ``relevo-capabilities``: all promises, and the claims of the transports."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import attrs
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from relevo import Capabilities, Transport
from relevo_conformance import PROMISES

OWN = ("memory", "sql", "amqp")
"""The backends that come with relevo, in the order of their columns; third-party ones come after them."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("relevo-promises", Promises)
    app.add_directive("relevo-capabilities", Claims)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Promises(SphinxDirective):
    """Is replaced by the table of all promises."""

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes("\n".join(promises()))


class Claims(SphinxDirective):
    """Is replaced by the table of all capabilities, with the transports that claim them."""

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes("\n".join(capabilities()))


def promises() -> Iterator[str]:
    """Yield the lines of the table of promises."""
    yield "| id | promise | level | needs | since |"
    yield "|---|---|---|---|---|"
    for one in PROMISES.values():
        needed = str(one.claimed) or getattr(one.interface, "__name__", "")
        needs = f"`{needed}`" if needed else ""
        yield f"| `{one.id}` | {one.sentence} | {one.level} | {needs} | {one.since} |"


def capabilities() -> Iterator[str]:
    """Yield the lines of the table of capabilities, with the claims of the installed transports."""
    transports = dict(installed())
    yield f"| claim | means | {' | '.join(transports)} |"
    yield "|---|---|" + "---|" * len(transports)
    texts = ModuleAnalyzer.for_module(Capabilities.__module__).find_attr_docs()
    for field in attrs.fields(Capabilities):
        means = " ".join(texts["Capabilities", field.name]).strip().replace("|", "\\|")
        claims = (shown(getattr(cls.capabilities, field.name)) for cls in transports.values())
        yield f"| `{field.name}` | {means} | {' | '.join(claims)} |"


def installed() -> Iterator[tuple[str, type[Transport]]]:
    """Yield the name and the class of each transport whose class has its capabilities."""
    found = {each.name: each for each in entry_points(group="relevo.transports")}
    for name in (*OWN, *sorted(found.keys() - set(OWN))):
        cls = found[name].load()
        if isinstance(getattr(cls, "capabilities", None), Capabilities):
            yield name, cls


def shown(claim: object) -> str:
    """Return *claim* as the text of a cell."""
    if claim is True:
        return "yes"
    return "-" if claim is None or claim is False else str(claim)
