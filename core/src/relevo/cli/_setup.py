"""``relevo setup``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby

import click

from relevo._app.app import App, parts_of
from relevo._app.stores import FEW, raise_together, set_up_each
from relevo._transport.optional import SchemaUpgrade, SetupScript
from relevo._visible import visible
from relevo.cli._main import EXIT_CONFIGURATION
from relevo.cli._option import json_option, transport_option, with_app_and_document
from relevo.cli._output import show_document, show_json
from relevo.cli._place import Place, places


@click.command()
@click.option(
    "--print", "prints", is_flag=True, help="Print the SQL that creates everything, without connecting to a database."
)
@click.option(
    "--print-insert",
    "inserts",
    is_flag=True,
    help="Print the SQL with which a program without relevo inserts an event.",
)
@click.option("--plan", is_flag=True, help="Only show what would be done.")
@click.option("--check", is_flag=True, help="Like --plan, and exit with 78 if there is anything to do.")
@click.option(
    "--upgrade",
    is_flag=True,
    help="Also change the tables of an older release, with the events in them. Stop its workers first.",
)
@transport_option
@json_option
@with_app_and_document(lambda given: bool(given.get("prints") or given.get("inserts") or given.get("as_json")))
def setup(
    *,
    app: App,
    prints: bool,
    inserts: bool,
    plan: bool,
    check: bool,
    upgrade: bool,
    transport: str | None,
    as_json: bool,
) -> int:
    """
    Create missing tables and queues; never alter existing ones without --upgrade.

    Many queues or exchanges that differ only in a number, such as those for delays, are one line; --json lists each.

    If a server is down, the others are set up nevertheless. A transport is set up with its outbox.

    With --print, an administrator can create the tables: relevo setup --print | psql shop. If the application uses
    several databases, comments say which statements are for which; choose one with -t.

    Tables of an older release are refused, also with --check. --upgrade --plan shows what an upgrade would do, and
    --upgrade --print prints its SQL, which depends on the tables; both read the database, and change nothing.

    Example: relevo setup --plan
    """
    if inserts and upgrade:
        raise click.UsageError("--print-insert prints no upgrade; omit --upgrade")
    if (prints or inserts) and (plan or check or as_json or prints is inserts):
        raise click.UsageError(
            "--print and --print-insert print SQL; give one of them; omit --plan, --check and --json"
        )
    chosen = _with_helpers(app, places(app, transport))
    if prints or inserts:
        return _print(chosen, _insert if inserts else _upgrade if upgrade else _script)
    stores = [(place.store, place.queues) for place in chosen]
    created, errors = set_up_each(stores, dry_run=plan or check, upgrade=upgrade)
    if as_json:
        show_json(created)
    elif created:
        click.echo("\n".join(map(visible, brief(created))))
    elif len(errors) < len(chosen):  # otherwise none could be asked
        click.echo(f"nothing is missing{' in the others' if errors else ''}")
    raise_together(errors)
    return EXIT_CONFIGURATION if check and created else 0


def _with_helpers(app: App, chosen: list[Place]) -> list[Place]:
    """Return the *chosen* places, and the stores that keep something else for them, as a coordinator; each once."""
    helpers = {store: each.transport for each in chosen for store in parts_of(app).stores_of(each.transport)}
    known = {place.store for place in chosen}
    is_whole = not all(place.is_outbox for place in chosen)
    return chosen + [Place(each, [], of) for each, of in helpers.items() if is_whole and each not in known]


def brief(created: Sequence[str]) -> list[str]:
    """Return the lines of *created*; many in a row that differ in a number alone, as of delays, become one."""
    lines: list[str] = []
    for _, group in groupby(created, lambda line: re.sub(r"[0-9]+", "0", line)):
        first, *others = group
        alike = len(others) >= FEW
        lines += [f"{first} and {len(others)} others that differ in the number"] if alike else [first, *others]
    return lines


def _script(place: Place) -> str | None:
    return place.store.setup_script(place.queues) if isinstance(place.store, SetupScript) else None


def _upgrade(place: Place) -> str | None:
    return place.store.upgrade_script(place.queues) if isinstance(place.store, SchemaUpgrade) else None


def _insert(place: Place) -> str | None:
    return place.store.insert_statement() if isinstance(place.store, SetupScript) else None


def _print(chosen: list[Place], text_of: Callable[[Place], str | None]) -> int:
    """Print the texts of the *chosen* places; equal ones once, as those of an outbox in the database of a transport."""
    texts: dict[str, None] = {}
    for place in chosen:
        text = text_of(place)
        if text is not None:
            texts[text] = None
        else:
            name = visible(place.store.name)
            click.echo(
                f'relevo: the transport "{name}" has no SQL to print; relevo setup --plan shows what it lacks', err=True
            )
    show_document("\n".join(texts))
    return 0
