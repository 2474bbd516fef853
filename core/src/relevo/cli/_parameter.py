"""Rules for the options of all commands: a single value is given once, and numbers are ASCII digits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import click

from relevo.cli._synonym import option_for
from relevo.errors import shown

_WHOLE = re.compile(r"-?[0-9]{1,18}")
"""All of them fit 64 bits."""

_DIGITS = re.compile(r"-?[0-9]+")


_ADVICE: Mapping[str | None, str] = {"transport": "a command uses one transport; run it once for each transport"}
"""What to do instead of giving an option twice, by the option's name."""


class Whole(click.IntRange):
    """A whole number; Python's own conversion also reads ``1_000``, spaces, and the digits of all scripts."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, str) and not _WHOLE.fullmatch(value):
            length = " of at most 18 digits" if _DIGITS.fullmatch(value) else " in digits from 0 to 9"
            self.fail(f"expected a whole number{length}; got {shown(value)}", param, ctx)
        found: int = super().convert(value, param, ctx)
        return found


class Choice(click.Choice[str]):
    """
    One of several words; it also answers to the words of other tools.

    Args:
        choices: The words.

        refused: Why other words are not among them, which an equal option of another command takes.
    """

    def __init__(self, choices: Sequence[str], *, refused: Mapping[str, str] | None = None):
        super().__init__(choices)
        self._refused = refused or {}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            answers = [self._refused.get(value)]
            answers += [option_for(f"{name} {value}", "") for name in (param.opts if param else ())]
            self.fail("; ".join([error.message.rstrip("."), *filter(None, answers)]), param, ctx)


def refuse_repeated(
    command: click.Command, args: Sequence[str], *, name: str | None, parent: click.Context | None
) -> None:
    """
    Refuse an option of *command* that takes one value and is given twice, since click ignores the first one.

    Args:
        command: The command; of a group, only its own options are checked.

        args: The arguments of the command.

        name: The name of the command.

        parent: The context of the group that has the command.

    Raises:
        click.BadParameter: It is given twice. Other errors are left to the command itself.
    """
    context = command.context_class(command, info_name=name, parent=parent, **command.context_settings)
    given: list[Any] = []
    with suppress(click.UsageError):
        _, _, given = command.make_parser(context).parse_args([*args])
    for param in given:
        is_single = isinstance(param, click.Option) and not (param.multiple or param.is_flag or param.count)
        if is_single and given.count(param) > 1:
            raise click.BadParameter(f"it is given twice; {_ADVICE.get(param.name, 'pass it once')}", context, param)
