"""``relevo setup``."""

from __future__ import annotations

import click

from relevo._app import App
from relevo.cli._option import with_app


@click.command()
@click.option("--plan", is_flag=True, help="Only show what would be created.")
@with_app
def setup(*, app: App, plan: bool) -> int:
    """Create missing tables and queues; never alters what is there."""
    created = app.setup(dry_run=plan)
    for line in created:
        click.echo(line)
    if not created:
        click.echo("nothing is missing")
    return 0
