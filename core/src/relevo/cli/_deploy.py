"""``relevo deploy``: stop workers from taking events while the program is replaced."""

from __future__ import annotations

import click

from relevo._app.app import App
from relevo._runner.lock_note import busy_here
from relevo._runner.lock_path import deploy_guard
from relevo._visible import visible
from relevo.cli._main import EXIT_LATER, Group
from relevo.cli._option import json_option, with_app
from relevo.cli._output import echo, show_json
from relevo.cli._run import duration
from relevo.errors import ConfigurationError

_ELSEWHERE = """\
If `relevo deploy begin` printed another path, the address of a transport has changed since. Remove that file, and let
both releases use the same one: deploy = "/srv/shop/deploying\""""


@click.group(cls=Group)
def deploy() -> None:
    """
    Make events wait while the program is replaced.

    Example: relevo deploy begin --wait 60s
    """


@deploy.command()
@click.option("--wait", type=duration, metavar="DURATION", help="Wait for running events to finish, at most this long.")
@json_option
@with_app
def begin(*, app: App, wait: float | None, as_json: bool) -> int:
    """
    Begin no further event on this host until `relevo deploy end`.

    `drain` then exits with 75; a worker finishes its current events, releases the others and waits. With --wait, this
    command returns when all have finished, or exits with 75 after that time; the deploy has begun in both cases.

    Example: relevo deploy begin --wait 60s
    """
    guard = deploy_guard(app)
    is_new = guard.begin()
    if not as_json:
        echo(f"{'events wait' if is_new else 'events waited already'}: {visible(str(guard.path))}")
    is_calm = None if wait is None else guard.wait(wait)
    if as_json:
        show_json({"path": str(guard.path), "new": is_new, "finished": is_calm})
    if is_calm is False:
        who = "; ".join(
            " in ".join([f"process {pid}", *([", ".join(dict.fromkeys(listeners))] if listeners else [])])
            for pid, listeners in busy_here(app).items()
        )
        busy = f"a worker is still busy after {wait:g} s{f' ({who})' if who else ''}"
        click.echo(visible(f"relevo: {busy}; wait again, or stop the workers"), err=True)
        return EXIT_LATER
    return 0


@deploy.command()
@json_option
@with_app
def end(*, app: App, as_json: bool) -> int:
    """
    Handle events again.

    Example: relevo deploy end
    """
    guard = deploy_guard(app)
    was_up = guard.end()
    if as_json:
        show_json({"path": str(guard.path), "ended": was_up})
    else:
        place = visible(str(guard.path))
        echo(f"{'events are handled again' if was_up else 'no deploy was in progress'}: {place}")
        if not was_up and app.deploy is None:
            echo(_ELSEWHERE)
    return 0


def deploy_notice(app: App) -> str | None:
    """Return that a deploy of *app* is in progress, since when, and how to end it; ``None`` if there is none."""
    try:
        return deploy_guard(app).notice()
    except ConfigurationError:  # there is no folder for the guard, as `drain` and `worker` report
        return None
