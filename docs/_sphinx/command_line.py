"""The directive ``relevo-commands``: the help of the command line as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from relevo.cli._main import group

EVERYWHERE = ("config", "app", "app_name", "log_level")
"""Options that every command has; the page lists them once."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("relevo-commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Commands(SphinxDirective):
    """Is replaced by a section for each command."""

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes("\n".join(section_lines(group, "relevo")), allow_section_headings=True)


def section_lines(command: click.Group, name: str) -> Iterator[str]:
    """Yield the lines of a section for each command of *command*, in the order of its help."""
    with click.Context(command, info_name=name) as context:
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            if isinstance(found, click.Group):
                yield from section_lines(found, f"{name} {each}")
            elif found is not None:
                yield from _section(found, f"{name} {each}")


def _section(command: click.Command, name: str) -> Iterator[str]:
    with click.Context(command, info_name=name) as context:
        usage = " ".join(command.collect_usage_pieces(context))
    yield from (f"## {name}", "", "```sh", f"{name} {usage}", "```", "")
    for line in (command.help or "").splitlines():
        _, found, example = line.strip().partition("Example: ")
        yield from ("```sh", example, "```") if found else (line.strip(),)
    yield ""
    options = [each for each in command.params if isinstance(each, click.Option) and each.name not in EVERYWHERE]
    if options:
        yield from ("| option | what it does |", "|---|---|", *map(_row, options), "")


def _row(option: click.Option) -> str:
    names = ", ".join(f"`{each}`" for each in option.opts)
    value = "" if option.is_flag else f" `{option.metavar or option.type.name}`"
    default = f" `{option.default}` by default." if option.show_default else ""
    return f"| {names}{value} | {option.help or ''}{default} |"
