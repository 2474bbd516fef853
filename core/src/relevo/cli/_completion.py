"""``relevo completion``."""

from __future__ import annotations

import click

from relevo.cli._main import COMPLETION, group


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(*, shell: str) -> int:
    r"""
    Print what completes commands, options and the names of transports in SHELL.

    \b
    Example, for bash and for fish:
      relevo completion bash > ~/.local/share/bash-completion/completions/relevo
      relevo completion fish > ~/.config/fish/completions/relevo.fish
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - only here

    script = get_completion_class(shell)
    assert script is not None  # noqa: S101 - click has all three
    click.echo(script(group, {}, "relevo", COMPLETION).source())
    return 0
