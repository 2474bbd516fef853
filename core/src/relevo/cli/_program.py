"""Problems of the relevo commands in a configuration of supervisor: what the shell would answer to them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import attrs
import click

from relevo._app.app import App, parts_of
from relevo._app.check import check_routed
from relevo.cli._main import group, misused
from relevo.cli._place import of_one_transport
from relevo.errors import ConfigurationError

_PLACEHOLDER = re.compile(r"%\([^()%]+\)")
"""The start of a placeholder that supervisor expands, perhaps to several words."""

_PERCENT = "%%"

_SCRIPT = re.compile(r"\brelevo\s")
"""A word that is itself a command, as in ``sh -c "relevo worker"``; a shell may change what it means."""

_RUNS = ("worker", "drain", "relay")
_PRINT = frozenset({"--help", "-h", "--version"})
"""Options that print something and exit."""


@attrs.frozen
class ProgramCheck:
    """Finds out what a command would answer that runs the application *app*, without running it."""

    app: App

    def fault(self, section: Mapping[str, str]) -> str:
        """Return why the relevo command of a program's *section* does not start or does not stay; empty if it may."""
        try:
            words = shlex.split(section.get("command", ""))
        except ValueError as error:  # supervisor splits it in the same way
            return f"{str(error)[:1].lower()}{str(error)[1:]}" if "relevo" in section.get("command", "") else ""
        args = _arguments(words)
        if args is None:
            return ""
        try:
            name, options = _parsed(args)
            if name == "drain" and section.get("autorestart", "").strip() != "false":
                return (
                    "relevo drain exits when nothing is due, and supervisor starts it again and again, or gives up; "
                    "write relevo worker, or let cron run relevo drain"
                )
            if "RELEVO_" not in section.get("environment", ""):  # which may configure another application
                self._check(options)
        except click.UsageError as error:
            return misused(error, args)
        except ConfigurationError as error:
            return str(error)
        return ""

    def _check(self, options: Mapping[str, Any]) -> None:
        """
        Refuse transports and queues that the application does not have.

        Raises:
            click.UsageError: The options choose several transports.

            ConfigurationError: There is no such transport or queue.
        """
        config, name = parts_of(self.app).config, parts_of(self.app).loaded_from.name
        here = config.path if config else None
        chosen = options.get("config")
        if options.get("app_name") not in (None, name) or (chosen and (not here or not _is_same(chosen, here))):
            return
        wanted, queues = of_one_transport(self.app, options.get("transport"), options.get("queues", ()))
        if wanted is not None or len(parts_of(self.app).served()) == 1:
            transport = self.app.transport(wanted)
            check_routed(transport.name, queues, self.app.routes)


def _is_same(path: str, other: Path) -> bool:
    return Path(path).resolve() == other.resolve()


def _arguments(words: Sequence[str]) -> list[str] | None:
    """
    Return the arguments of relevo in a command; ``None`` if it is not run there, or a shell runs it.

    A value with a placeholder is left out, with the option before it.
    """
    found: list[str] | None = None
    for number, word in enumerate(words):
        before = words[number - 1] if number else ""
        if PurePath(word).name == "relevo" and (before == "-m" or not before.startswith("-")) and words[number + 1 :]:
            found = list(words[number + 1 :])
    if found is None or any(_SCRIPT.search(word) for word in found) or _PRINT & set(found):
        return None
    known: list[str] = []
    for word in found:
        if not _PLACEHOLDER.search(word):
            known.append(word.replace(_PERCENT, "%"))
        elif known and known[-1].startswith("-") and not word.startswith("-") and "=" not in known[-1]:
            known.pop()
    return known or None


def _parsed(args: list[str]) -> tuple[str, Mapping[str, Any]]:
    """
    Return the command in *args*, and the options that choose where it runs.

    Raises:
        click.UsageError: The shell would refuse it.
    """
    context = click.Context(group, info_name="relevo", obj={}, **group.context_settings)
    outer, rest, _ = group.make_parser(context).parse_args([*args])
    if not rest:
        return "", outer
    name, command, rest = group.resolve_command(context, rest)
    if command is None or name not in _RUNS:
        return name or "", outer
    inner = command.make_context(name, rest, parent=context).params
    return name, {**outer, **{key: value for key, value in inner.items() if value is not None}}
