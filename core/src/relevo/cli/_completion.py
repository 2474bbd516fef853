"""``relevo completion``."""

from __future__ import annotations

import click

from relevo.cli._main import COMPLETION, group
from relevo.cli._output import echo


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(*, shell: str) -> int:
    """
    Print a completion script for SHELL.

    It completes commands, options and the names of transports.

    bash reads it from ~/.local/share/bash-completion/completions/relevo, fish from
    ~/.config/fish/completions/relevo.fish.

    Example: relevo completion fish > ~/.config/fish/completions/relevo.fish
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - only here

    script = get_completion_class(shell)
    assert script is not None  # noqa: S101 - click has all three
    echo(script(group, {}, "relevo", COMPLETION).source())
    return 0
