"""``relevo dead``: what relevo gave up on, and what a person does about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from relevo._app import App
from relevo._envelope import Envelope
from relevo._progress import NewerStateError, revived
from relevo._transport import DeadLetterEntry, Transport
from relevo.cli._option import json_option, queue_option, stores, transport_option, with_app
from relevo.cli._output import first_line, show_json, show_table, visible, when
from relevo.errors import shown

_PAGE = 200
Found = tuple[Transport, DeadLetterEntry]


@click.group()
def dead() -> None:
    """List, show, revive and discard dead letters."""


@dead.command("list")
@transport_option
@queue_option
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, metavar="N")
@json_option
@with_app
def list_(*, app: App, transport: str | None, queues: tuple[str, ...], limit: int, as_json: bool) -> int:
    """List dead letters, the oldest first in every queue."""
    rows: list[dict[str, Any]] = []
    more = False
    for store, entry in _entries(app, transport, queues):
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
@click.argument("ref")
@transport_option
@json_option
@with_app
def show(*, app: App, ref: str, transport: str | None, as_json: bool) -> int:
    """Show the dead letter REF whole; the beginning of it is enough if it is the only one."""
    ((store, entry),) = _chosen(app, transport, (ref,))
    if as_json:
        show_json({**_row(store, entry, as_json=True), "body": _body(entry), "error": entry.error})
        return 0
    row = _row(store, entry, as_json=True)
    for key in ("ref", "transport", "queue", "event", "id", "reason", "attempt", "losses", "sent", "died"):
        click.echo(f"{key + ':':<11}{visible(str(row[key]))}")
    click.echo(f"body:      {visible(_body(entry))}")
    click.echo("error:")
    click.echo("\n".join(f"  {line}" for line in visible(entry.error).splitlines()))
    return 0


@dead.command("revive")
@click.argument("refs", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every dead letter.")
@transport_option
@queue_option
@with_app
def revive(*, app: App, refs: tuple[str, ...], everything: bool, transport: str | None, queues: tuple[str, ...]) -> int:
    """Make the dead letters REFS ready again; only the listeners that failed are run, with fresh counts."""
    chosen = _meant(app, refs, transport, queues, everything=everything)
    ready: list[Found] = []
    states: dict[str, bytes] = {}
    for store, entry in chosen:
        try:
            states[entry.ref] = revived(entry.state)
            ready.append((store, entry))
        except NewerStateError as error:
            click.echo(f"relevo: the dead letter {entry.ref} stays: {error}; revive it with that release", err=True)
    code = _each(
        ready, "revived", lambda store, entries: store.revive({each.ref: states[each.ref] for each in entries})
    )
    return 1 if len(ready) < len(chosen) else code


@dead.command("discard")
@click.argument("refs", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every dead letter.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@transport_option
@queue_option
@with_app
def discard(
    *, app: App, refs: tuple[str, ...], everything: bool, yes: bool, transport: str | None, queues: tuple[str, ...]
) -> int:
    """Delete the dead letters REFS for good."""
    chosen = _meant(app, refs, transport, queues, everything=everything)
    if chosen and not yes and not _agreed(f"Delete {len(chosen)} dead letters? This cannot be undone."):
        click.echo("nothing was deleted")
        return 0
    return _each(chosen, "discarded", lambda store, entries: store.discard([entry.ref for entry in entries]))


def _agreed(question: str) -> bool:
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        raise click.UsageError("nobody answered; say --yes where nobody can be asked") from None


def _meant(
    app: App, refs: tuple[str, ...], transport: str | None, queues: tuple[str, ...], *, everything: bool
) -> list[Found]:
    if bool(refs) == everything:
        raise click.UsageError("name dead letters, or say --all")
    return list(_entries(app, transport, queues)) if everything else _chosen(app, transport, refs)


def _each(chosen: list[Found], verb: str, act: Callable[[Transport, list[DeadLetterEntry]], Sequence[str]]) -> int:
    by_store: dict[Transport, list[DeadLetterEntry]] = {}
    for store, entry in chosen:
        by_store.setdefault(store, []).append(entry)
    gone: list[str] = []
    for store, entries in by_store.items():
        gone += act(store, entries)
    click.echo(f"{len(chosen) - len(gone)} {verb}")
    for ref in gone:
        click.echo(f"relevo: the dead letter {ref} is gone", err=True)
    return 1 if gone else 0


def _entries(app: App, transport: str | None, queues: tuple[str, ...]) -> Iterator[Found]:
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
    every = list(_entries(app, transport, ()))
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
    envelope = entry.envelope
    readable = isinstance(envelope, Envelope)
    return {
        "ref": entry.ref,
        "transport": store.name,
        "queue": entry.queue,
        "event": envelope.name if isinstance(envelope, Envelope) else "unreadable",
        "id": envelope.id if isinstance(envelope, Envelope) else None,
        "reason": entry.reason,
        "attempt": entry.attempt,
        "losses": entry.losses,
        "sent": when(entry.enqueued_at),
        "died": when(entry.died_at),
        "error": entry.error if as_json and readable else first_line(entry.error),
    }


def _body(entry: DeadLetterEntry) -> str:
    raw = entry.envelope.body if isinstance(entry.envelope, Envelope) else entry.envelope.raw
    return raw.decode("utf-8", "backslashreplace")
