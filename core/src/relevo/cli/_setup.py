"""``relevo setup``."""

from __future__ import annotations

import click

from relevo._app.app import App, parts_of
from relevo._app.stores import Stores, raise_together
from relevo.cli._main import EXIT_CONFIGURATION
from relevo.cli._option import json_option, with_app
from relevo.cli._output import show_json


@click.command()
@click.option("--plan", is_flag=True, help="Only show what would be created.")
@click.option("--check", is_flag=True, help="Like --plan, and exit with 78 if something is missing.")
@json_option
@with_app
def setup(*, app: App, plan: bool, check: bool, as_json: bool) -> int:
    """
    Create missing tables and queues; never alter existing ones.

    If a server is down, the others are set up nevertheless.

    Example: relevo setup --plan
    """
    created, errors = Stores(parts_of(app)).set_up_all(dry_run=plan or check)
    if as_json:
        show_json(created)
    else:
        click.echo("\n".join(created) if created else "nothing else is missing" if errors else "nothing is missing")
    raise_together(errors)
    return EXIT_CONFIGURATION if check and created else 0
