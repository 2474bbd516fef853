"""Problems of the relevo commands in a configuration of supervisor, found without running them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

import attrs
import click

from relevo._app.app import App, parts_of
from relevo._app.check import check_routed
from relevo._runner.command import folder_of
from relevo.cli._main import group, misused
from relevo.cli._output import shortened
from relevo.cli._place import of_one_transport
from relevo.errors import ConfigurationError

_PLACEHOLDER = re.compile(r"%\([^()%]+\)")
"""The start of a placeholder that supervisor expands, perhaps to several words."""

_PERCENT = "%%"

_LONGEST_VALUE = 20
"""The largest number of characters of a value that are shown."""

_SCRIPT = re.compile(r"\brelevo\s")
"""A word that is itself a command, as in ``sh -c "relevo worker"``; a shell may change what it means."""

_RUNS = ("worker", "drain", "relay")
_TRUE = frozenset({"true", "yes", "on", "1"})
"""The values that are true for supervisor, in any case."""

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
            if name == "drain" and (why := _ends_soon(section)):
                return why
            if "RELEVO_" not in section.get("environment", "") and self._is_own(section, options):
                self._check(options)
        except click.UsageError as error:
            return misused(error, args)
        except ConfigurationError as error:
            return str(error)
        return ""

    def is_other(self, section: Mapping[str, str]) -> bool:
        """Return whether a program's *section* chooses another application: by its folder, or by an option."""
        options: Mapping[str, Any] = {}
        with suppress(ValueError, click.UsageError):  # reported as its fault
            options = _parsed(_arguments(shlex.split(section.get("command", ""))) or [])[1]
        return "RELEVO_CONFIG" in section.get("environment", "") or not self._is_own(section, options)

    def _is_own(self, section: Mapping[str, str], options: Mapping[str, Any]) -> bool:
        """Return whether the command of *section* finds this application by its *options* or its folder."""
        parts, directory = parts_of(self.app), Path(section.get("directory", "").strip())
        config = parts.config
        if options.get("app_name") not in (None, parts.loaded_from.name):
            return False
        if chosen := options.get("config"):
            return bool(config and config.path and _is_same(directory / chosen, config.path))
        folders = [folder_of(self.app), *([config.directory] if config else [])]
        return "directory" not in section or any(_is_same(directory, each) for each in folders)

    def _check(self, options: Mapping[str, Any]) -> None:
        """
        Refuse transports and queues that the application does not have.

        Raises:
            click.UsageError: The options choose several transports.

            ConfigurationError: There is no such transport or queue.
        """
        wanted, queues = of_one_transport(self.app, options.get("transport"), options.get("queues", ()))
        if wanted is not None or len(parts_of(self.app).served()) == 1:
            transport = self.app.transport(wanted)
            check_routed(transport.name, queues, self.app.routes)


def _is_same(path: Path, other: Path) -> bool:
    try:
        return os.path.realpath(path) == os.path.realpath(other)
    except ValueError:  # a path with a null byte
        return False


def _ends_soon(section: Mapping[str, str]) -> str:
    """Return why supervisor starts ``relevo drain`` again after its end; empty if it does not."""
    if section.get("autorestart", "").strip().lower() in _TRUE:
        return (
            "relevo drain exits when nothing is due, and supervisor starts it again and again; write relevo worker, "
            "or let cron run relevo drain"
        )
    lives = section.get("startsecs", "1").strip()
    if lives.isdecimal() and lives.strip("0"):
        return (
            f"relevo drain exits when nothing is due, perhaps before startsecs={shortened(lives, _LONGEST_VALUE)}, so "
            f"that supervisor starts it again, and gives up; write startsecs=0, or let cron run relevo drain"
        )
    return ""


def _arguments(words: Sequence[str]) -> list[str] | None:
    """
    Return the arguments of relevo in a command; ``None`` if it is not run there, or a shell runs it.

    A value with a placeholder is left out, with the option before it.
    """
    found: list[str] | None = None
    for number in range(len(words) - 1):
        if _is_program(words, number):
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


def _is_program(words: Sequence[str], number: int) -> bool:
    """
    Return whether the word with that *number* runs relevo; it may also be a user or a folder.

    As in ``setuidgid relevo gunicorn shop:app`` and ``chroot /srv/relevo gunicorn shop:app``.
    """
    path, before = PurePath(words[number]), words[number - 1] if number else ""
    if path.name != "relevo" or (before.startswith("-") and before != "-m"):
        return False
    return not number or before == "-m" or path.parent.name == "bin" or _may_be_argument(words[number + 1])


def _may_be_argument(word: str) -> bool:
    """Return whether *word* is a command of relevo, or an option before the command."""
    context = click.Context(group)
    options = {each for option in group.get_params(context) for each in option.opts}
    return word in group.list_commands(context) or word.partition("=")[0] in options


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
