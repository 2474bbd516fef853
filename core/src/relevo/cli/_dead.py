"""``relevo dead``: what relevo gave up on, and what a person does about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from relevo._app import App
from relevo._envelope import Envelope
from relevo._progress import NewerStateError
from relevo._transport import DeadLetterEntry, Transport
from relevo.cli._event import dead_row, show_whole
from relevo.cli._main import Group, named
from relevo.cli._option import agreed, json_option, queue_option, stores, transport_option, with_app, yes_option
from relevo.cli._output import first_line, show_json, show_table
from relevo.errors import DecodeError, shown

_PAGE = 200
Found = tuple[Transport, DeadLetterEntry]


@click.group(cls=Group)
def dead() -> None:
    """
    List, show, revive and discard dead letters.

    Example: relevo dead list
    """


@dead.command("list")
@transport_option
@queue_option
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, metavar="N")
@json_option
@with_app
def list_(*, app: App, transport: str | None, queues: tuple[str, ...], limit: int, as_json: bool) -> int:
    """
    List dead letters, the oldest first in every queue.

    Example: relevo dead list -t main -q feed
    """
    rows: list[dict[str, Any]] = []
    more = False
    for store, entry in entries(app, transport, queues):
        if len(rows) == limit:
            more = True
            break
        rows.append(_row(store, entry, as_json=as_json))
    if as_json:
        show_json(rows)
        return 0
    show_table(["ref", "queue", "event", "reason", "attempt", "died", "error"], rows, empty="no dead letters")
    if more:
        click.echo(f"… and more; raise --limit {limit}")
    return 0


@dead.command("show")
@click.argument("ref", callback=named)
@transport_option
@json_option
@with_app
def show(*, app: App, ref: str, transport: str | None, as_json: bool) -> int:
    """
    Show the dead letter REF whole; the beginning of it is enough if it is the only one.

    Example: relevo dead show 17
    """
    ((store, entry),) = _chosen(app, transport, (ref,))
    row = dead_row(store, entry)
    if as_json:
        show_json(row)
    else:
        show_whole({**row, "status": None, "listeners": []})  # it is dead, and the error names who failed
    return 0


@dead.command("revive")
@click.argument("refs", nargs=-1, callback=named)
@click.option("--all", "everything", is_flag=True, help="Every dead letter.")
@transport_option
@queue_option
@json_option
@with_app
def revive(
    *,
    app: App,
    refs: tuple[str, ...],
    everything: bool,
    transport: str | None,
    queues: tuple[str, ...],
    as_json: bool,
) -> int:
    """
    Make the dead letters REFS ready again; only the listeners that failed are run, with fresh counts.

    Exits with 1 if one could not be revived.

    Example: relevo dead revive --all -q feed
    """
    chosen = _meant(app, refs, transport, queues, everything=everything)
    ready: list[Found] = []
    states: dict[tuple[Transport, str], bytes] = {}  # two stores number alike
    for store, entry in chosen:
        try:
            states[store, entry.ref] = app.revived(entry)
            ready.append((store, entry))
        except NewerStateError as error:
            click.echo(f"relevo: the dead letter {entry.ref} stays: {error}; revive it with that release", err=True)
        except DecodeError as error:
            click.echo(f"relevo: the dead letter {entry.ref} stays: {error}", err=True)
    code = _each(
        ready,
        "revived",
        lambda store, some: store.revive({each.ref: states[store, each.ref] for each in some}),
        as_json,
    )
    return 1 if len(ready) < len(chosen) else code


@dead.command("discard")
@click.argument("refs", nargs=-1, callback=named)
@click.option("--all", "everything", is_flag=True, help="Every dead letter.")
@yes_option
@transport_option
@queue_option
@json_option
@with_app
def discard(
    *,
    app: App,
    refs: tuple[str, ...],
    everything: bool,
    yes: bool,
    transport: str | None,
    queues: tuple[str, ...],
    as_json: bool,
) -> int:
    """
    Delete the dead letters REFS for good.

    Exits with 1 if one was gone already.

    Example: relevo dead discard 17 18
    """
    chosen = _meant(app, refs, transport, queues, everything=everything)
    if chosen and not yes and not agreed(f"Delete {len(chosen)} dead letters? This cannot be undone."):
        click.echo("nothing was deleted")
        return 0
    return _each(chosen, "discarded", lambda store, some: store.discard([each.ref for each in some]), as_json)


def _meant(
    app: App, refs: tuple[str, ...], transport: str | None, queues: tuple[str, ...], *, everything: bool
) -> list[Found]:
    if bool(refs) == everything:
        raise click.UsageError("name dead letters, or say --all")
    return list(entries(app, transport, queues)) if everything else _chosen(app, transport, refs)


def _each(
    chosen: list[Found],
    verb: str,
    act: Callable[[Transport, list[DeadLetterEntry]], Sequence[str]],
    as_json: bool,  # noqa: FBT001 - it is private
) -> int:
    by_store: dict[Transport, list[DeadLetterEntry]] = {}
    for store, entry in chosen:
        by_store.setdefault(store, []).append(entry)
    gone: list[str] = []
    for store, some in by_store.items():
        gone += act(store, some)
    if as_json:
        show_json({verb: len(chosen) - len(gone), "gone": gone})
    else:
        click.echo(f"{len(chosen) - len(gone)} {verb}")
    for ref in gone:
        click.echo(f"relevo: the dead letter {ref} is gone", err=True)
    return 1 if gone else 0


def entries(app: App, transport: str | None, queues: tuple[str, ...]) -> Iterator[Found]:
    """Yield the dead letters of *queues*, or of all, on *transport*, or on all."""
    for store, names in stores(app, transport, queues):
        if transport is None and not store.capabilities.dead_letters:
            continue
        after: str | None = None
        while page := store.dead_letters(names, after=after, limit=_PAGE):
            for entry in page:
                yield store, entry
            if len(page) < _PAGE:
                break
            after = page[-1].ref


def _chosen(app: App, transport: str | None, refs: tuple[str, ...]) -> list[Found]:
    """Return the dead letters that *refs* name, by the whole or by an unmistakable beginning, each once."""
    every = list(entries(app, transport, ()))
    chosen: dict[str, Found] = {}
    for ref in refs:
        found = [pair for pair in every if pair[1].ref == ref]
        found = found or [pair for pair in every if ref and pair[1].ref.startswith(ref)]
        if len(found) != 1:
            fault = "there is no dead letter" if not found else f"{len(found)} dead letters begin with"
            raise click.UsageError(f"{fault} {shown(ref)}; see relevo dead list")
        chosen[found[0][1].ref] = found[0]
    return list(chosen.values())


def _row(store: Transport, entry: DeadLetterEntry, *, as_json: bool) -> dict[str, Any]:
    """Return what a list shows of *entry*."""
    row = dead_row(store, entry)
    for key in ("status", "listeners", "body"):
        del row[key]
    if not as_json or not isinstance(entry.envelope, Envelope):
        row["error"] = first_line(entry.error)
    return row
