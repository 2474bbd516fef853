"""``relevo dead``: list, show, revive and discard dead letters."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, BinaryIO

import attrs
import click

from relevo._app.app import App, parts_of
from relevo._app.check import listeners_at, unheard_text
from relevo._app.unrouted import UnroutedQueue, unrouted_queues
from relevo._transport.envelope import Envelope
from relevo._transport.route import Target
from relevo._transport.transport import DeadLetterEntry, Transport
from relevo._visible import visible
from relevo._worker.decision import Reason
from relevo._worker.progress import NewerStateError
from relevo.cli._choice import (
    KEYS,
    By,
    DeadLetterChoice,
    dead_letter_groups,
    dead_letter_options,
    failed_listeners,
    keys_of,
)
from relevo.cli._event import body_of, dead_row, show_whole, whole_dead_row
from relevo.cli._filter import Tally, by_option, group_rows, limit_option, show_groups, show_listed
from relevo.cli._handled import Handled, can_handle, code_of, handled, is_in_outbox, show_handled
from relevo.cli._known import listeners_gone
from relevo.cli._main import Group, not_found, refuse_invalid
from relevo.cli._option import ask, json_option, queue_option, transport_option, with_app, yes_option
from relevo.cli._output import Column, age, echo, first_line, show_json
from relevo.cli._place import stores, tell_unlisted, tell_unseen, unclaimed
from relevo.cli._ref import Found, named
from relevo.errors import ConfigurationError, DecodeError, NotAcceptedError

Named = tuple[Transport, str]
"""A store and the ref of a dead letter in it; whole dead letters may not fit into memory."""


@click.group(cls=Group)
def dead() -> None:
    """
    List, show, revive and discard dead letters.

    Example: relevo dead list
    """


@dead.command("list", short_help="List dead letters.")
@transport_option
@queue_option
@dead_letter_options
@by_option(*KEYS)
@limit_option
@click.option("--full", is_flag=True, help="With --json, list each as dead show --json shows it: failures and body.")
@json_option
@with_app
def list_(
    *,
    app: App,
    transport: str | None,
    queues: tuple[str, ...],
    by: By | None,
    limit: int | None,
    full: bool,
    as_json: bool,
    **conditions: Any,
) -> int:
    """
    List dead letters, the oldest first in every queue; "listener" is the first one that failed.

    In a narrow terminal, long texts are cut; elsewhere each line is whole. --json lists all dead letters.

    Those in a queue that has no route are listed only with -q; without it, such a queue is reported on standard error,
    with what can be done about them.

    Example: relevo dead list -t main -q feed
    """
    if full and (not as_json or by is not None):
        raise click.UsageError("--full: needs --json, and cannot be combined with --by")
    chosen = DeadLetterChoice.of(**conditions)
    places = stores(app, transport, queues)
    chosen.refuse_unknown(app, places)
    tell_unlisted(app, transport, queues)
    tell_unseen(app, transport, queues)
    empty = _empty(_tell_stranded(app, transport, queues))
    if by is not None:
        groups = dead_letter_groups(places, chosen, by, required=transport is not None)
        show_groups(by, groups, "died", as_json=as_json, empty=empty)
        return 0
    found = entries(app, transport, queues, chosen)
    cells = partial(_cells, now=time.time())
    row = partial(_whole_row, app=app) if full else _row
    show_listed(found, _COLUMNS, row=row, cells=cells, limit=limit, as_json=as_json, empty=empty)
    return 0


@dead.command("show", short_help="Show one dead letter in full.")
@click.argument("ref", callback=refuse_invalid)
@transport_option
@click.option(
    "--raw",
    metavar="FILE",
    type=click.File("wb", lazy=True),
    help="Write the whole body to FILE, and print nothing.",
)
@json_option
@with_app
def show(*, app: App, ref: str, transport: str | None, raw: BinaryIO | None, as_json: bool) -> int:
    """
    Show the dead letter REF; the number before its @ is enough, or another beginning of the ref, if it is unique.

    Only the first 64 KiB of a body or an error are shown, with the size of the body. --raw writes the whole body. The
    body and the headers of an event that another program published are shown as that program published them.
    Exits with 1 if there is no such dead letter.

    Example: relevo dead show 1@default --raw body.json
    """
    chosen, unknown = named(_candidates(app, (ref,), transport), (ref,), by_beginning=True)
    if raw is not None:
        for _, entry in chosen:
            raw.write(body_of(entry))
        return not_found(list(unknown.values()))
    rows = [whole_dead_row(app, store, entry) for store, entry in chosen]
    if as_json:
        show_json(rows[0] if rows else None)
    else:
        for row in rows:
            done = [each for each in row["listeners"] if each["status"] != "dead"]  # the error names those that failed
            show_whole({**row, "status": None, "listeners": done})
    return not_found(list(unknown.values()))


@dead.command("revive", short_help="Make dead letters ready again.")
@click.argument("refs", nargs=-1, callback=refuse_invalid)
@click.option("--all", "everything", is_flag=True, help="All dead letters, or all that match the other options.")
@transport_option
@queue_option
@dead_letter_options
@by_option(*KEYS, text="Also count them by this property.")
@click.option("--now", is_flag=True, help="Handle them now, one after another, as relevo handle does.")
@json_option
@with_app
def revive(
    *,
    app: App,
    refs: tuple[str, ...],
    everything: bool,
    transport: str | None,
    queues: tuple[str, ...],
    by: By | None,
    now: bool,
    as_json: bool,
    **conditions: Any,
) -> int:
    """
    Make the dead letters REFS ready again; only the failed listeners run, and their counts start again.

    For a ref with an @, the number before the @ is enough if it is unique; pass other refs whole.
    A dead letter that its queue does not accept, or whose signature is invalid, is not revived, since it would become a
    dead letter again.
    With --now, each is revived and handled by this command before a running worker can take it.
    Exits with 1 if one cannot be revived or does not exist; the others are revived. With --now it also exits with 1 if
    one fails again, and with 75 if one could not be handled now.

    Example: relevo dead revive --all -q feed --reason retries-exhausted
    """
    choice = DeadLetterChoice.of(**conditions)
    chosen, unknown, empty = _meant(app, refs, transport, queues, choice, everything=everything)
    revival = _Revival(app)
    tally = Tally()
    for store, entry in chosen:
        if now and not can_handle(store):
            raise unclaimed(store, "take")  # nothing is revived yet
        if revival.admits(store, entry) and by is not None:
            tally.add(store.name, keys_of(entry, by), entry.died_at)
    revival.tell_gone()
    gone = _each(
        revival.states,
        revival.at_once if now else revival.for_workers,
        why="is gone, or has to wait: another event with its id is in its queue",
    )
    results = revival.handled
    more: dict[str, Any] = {}
    if by is not None:
        more["groups"] = group_rows(by, tally.groups, "died")
        if not as_json:
            show_groups(by, tally.groups, "died", empty=empty)
    if now:
        more["handled"] = [attrs.asdict(each) for each in results]
    left = _report(
        "revived",
        len(revival.states),
        as_json=as_json,
        more=more,
        gone=gone,
        unknown=unknown,
        stayed=revival.stayed,
    )
    if not as_json:
        show_handled(results)
    return left or code_of(results)


_ASIDE = 60.0
"""Seconds for which no worker takes an event that is revived and handled; then it is due, if the command was killed."""


@attrs.frozen
class _Revival:
    """The dead letters that a command revives, by store and ref: refs of two stores may be equal."""

    app: App
    states: dict[Named, bytes] = attrs.field(factory=dict)
    events: dict[Named, tuple[str, str]] = attrs.field(factory=dict)
    """The queue and the id of each that is readable."""

    stayed: dict[Named, str] = attrs.field(factory=dict)
    """Why the others are not revived."""

    handled: list[Handled] = attrs.field(factory=list)
    failed: Counter[str] = attrs.field(factory=Counter)
    """In how many each listener failed."""

    unheard: Counter[tuple[str, Target]] = attrs.field(factory=Counter)
    """How many have no listener here in their queue, as before, by their name and that queue."""

    def admits(self, store: Transport, entry: DeadLetterEntry) -> bool:
        """Add *entry* if it can be revived; return whether it can."""
        try:
            self.states[store, entry.ref] = self.app.revived(entry, transport=store.name)
        except NewerStateError as error:
            self.stayed[store, entry.ref] = f"the dead letter {entry.ref} stays: {error}; revive it with that release"
            return False
        except (NotAcceptedError, DecodeError) as error:
            self.stayed[store, entry.ref] = f"the dead letter {entry.ref} stays: {error}"
            return False
        if isinstance(entry.envelope, Envelope):
            self.events[store, entry.ref] = entry.queue, entry.envelope.id
            if entry.reason == Reason.UNKNOWN_EVENT:
                self._note_unheard(entry.envelope.name, Target(store.name, entry.queue))
        self.failed.update(failed_listeners(entry))
        return True

    def _note_unheard(self, name: str, target: Target) -> None:
        try:
            listeners = self.app.listeners
        except ConfigurationError:  # they cannot be imported here
            return
        here = {each.event_name for each in listeners_at(target, listeners, self.app.routes)}
        if len(listeners) and name not in here:
            self.unheard[name, target] += 1

    def tell_gone(self) -> None:
        """Warn of listeners that failed and that no listener here is, and of events that still have none."""
        for (name, target), count in self.unheard.items():
            then = f", which {count} of them need; without one they become dead letters again, {Reason.UNKNOWN_EVENT}"
            text = unheard_text(name, [target], self.app.listeners, then=then)
            click.echo(visible(f"relevo: {text}"), err=True)
        for each in listeners_gone(self.app, self.failed):
            known = f'no listener here has the id "{each}", which failed in {self.failed[each]} of them'
            remedy = "give the renamed one aliases=, or they become dead letters again, listener-missing"
            click.echo(visible(f"relevo: {known}; {remedy}"), err=True)

    def for_workers(self, store: Transport, refs: Sequence[str]) -> Sequence[str]:
        """Make *refs* ready; return those that were not revived."""
        return store.revive({ref: self.states[store, ref] for ref in refs})

    def at_once(self, store: Transport, refs: Sequence[str]) -> Sequence[str]:
        """Revive and handle *refs* one after another, each before a worker can; return those that were not revived."""
        return [ref for ref in refs if not self._is_alive(store, ref)]

    def _is_alive(self, store: Transport, ref: str) -> bool:
        state = {ref: self.states[store, ref]}
        if (store, ref) not in self.events:
            return not store.revive(state)
        queue, event_id = self.events[store, ref]
        is_moved = is_in_outbox(self.app, store, queue)
        if store.revive(state) if is_moved else store.revive_later(state, delay=_ASIDE):
            return False
        here = [found for found in store.find(event_id) if found.queue == queue]
        self.handled.extend(handled(self.app, store, found) for found in here)
        return True


@dead.command("discard", short_help="Delete dead letters for good.")
@click.argument("refs", nargs=-1, callback=refuse_invalid)
@click.option("--all", "everything", is_flag=True, help="All dead letters, or all that match the other options.")
@yes_option
@transport_option
@queue_option
@dead_letter_options
@by_option(*KEYS, text="Also count them by this property, before the question.")
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
    by: By | None,
    as_json: bool,
    **conditions: Any,
) -> int:
    """
    Delete the dead letters REFS for good.

    For a ref with an @, the number before the @ is enough if it is unique; pass other refs whole.
    Exits with 1 if one does not exist; the others are deleted.

    Example: relevo dead discard 1@default 2@default
    """
    choice = DeadLetterChoice.of(**conditions)
    found, unknown, empty = _meant(app, refs, transport, queues, choice, everything=everything)
    chosen: list[Named] = []
    tally = Tally()
    for store, entry in found:
        chosen.append((store, entry.ref))
        if by is not None:
            tally.add(store.name, keys_of(entry, by), entry.died_at)
    if by is not None and not as_json:
        show_groups(by, tally.groups, "died", empty=empty)
    several = "1 dead letter" if len(chosen) == 1 else f"{len(chosen)} dead letters"
    if chosen and not yes and not ask(f"Delete {several}? This cannot be undone."):
        chosen = []
        if not as_json:
            echo("nothing was deleted")
            return not_found(list(unknown.values()))
    gone = _each(chosen, lambda store, some: store.discard(some))
    more = {} if by is None else {"groups": group_rows(by, tally.groups, "died")}
    return _report("discarded", len(chosen), as_json=as_json, more=more, gone=gone, unknown=unknown)


def _meant(
    app: App,
    refs: tuple[str, ...],
    transport: str | None,
    queues: tuple[str, ...],
    choice: DeadLetterChoice,
    *,
    everything: bool,
) -> tuple[Iterable[Found], dict[str, str], str]:
    """Return the dead letters that are meant, a message for each ref without one, and what to print if none is."""
    if bool(refs) == everything:
        raise click.UsageError("expected REFS of dead letters, or --all")
    if refs and choice != DeadLetterChoice():
        raise click.UsageError("options that choose dead letters go with --all, not with REFS")
    if everything:
        choice.refuse_unknown(app, stores(app, transport, queues))
        tell_unlisted(app, transport, queues)
        return entries(app, transport, queues, choice), {}, _empty(_tell_stranded(app, transport, queues))
    return *named(_candidates(app, refs, transport), refs, by_beginning=False), _empty([])


def _each(
    chosen: Iterable[Named], act: Callable[[Transport, list[str]], Sequence[str]], *, why: str = "is gone"
) -> dict[Named, str]:
    """Call *act* for each store; return the dead letters for which nothing was done, with a message for each."""
    by_store: dict[Transport, list[str]] = {}
    for store, ref in chosen:
        by_store.setdefault(store, []).append(ref)
    return {
        (store, ref): f"the dead letter {ref} {why}" for store, some in by_store.items() for ref in act(store, some)
    }


def _report(
    word: str,
    number: int,
    *,
    as_json: bool,
    more: Mapping[str, Any],
    gone: Mapping[Named, str],
    unknown: Mapping[str, str],
    **others: Mapping[Named, str],
) -> int:
    """Report how many of *number* were done, and why the others were not; return the exit code."""
    left: dict[str, list[str]] = {why: [ref for _, ref in each] for why, each in {"gone": gone, **others}.items()}
    done = number - len(gone)
    if as_json:
        show_json({word: done, **left, "unknown": list(unknown), **more})
    else:
        echo(f"{done} {word}")
    return not_found(
        [*gone.values(), *unknown.values(), *(fault for each in others.values() for fault in each.values())]
    )


def entries(
    app: App, transport: str | None, queues: tuple[str, ...], choice: DeadLetterChoice | None = None
) -> Iterator[Found]:
    """Yield the dead letters of *queues* on *transport*; by default of all queues on all transports."""
    chosen = choice or DeadLetterChoice()
    for store, names in stores(app, transport, queues):
        if transport is None and not store.capabilities.dead_letters:
            continue
        for entry in chosen.entries(store, names):
            yield store, entry


def _candidates(app: App, refs: Sequence[str], transport: str | None) -> Iterator[Found]:
    """
    Yield the dead letters that *refs* may name: those of :func:`entries`, and stranded ones.

    A stranded one needs its whole ref, and is not meant if another has that ref: the number 1 would name it by
    accident once 1@default was discarded.
    """
    wanted = set(refs)
    for found in entries(app, transport, ()):
        wanted.discard(found[1].ref)
        yield found
    for queue in _stranded(app, transport, ()) if wanted else ():
        for entry in DeadLetterChoice().entries(queue.store, [queue.queue]):
            if entry.ref in wanted:
                yield queue.store, entry


def _stranded(app: App, transport: str | None, queues: tuple[str, ...]) -> list[UnroutedQueue]:
    """Return the queues with dead letters that no route leads to; none if *queues* are given, which need no route."""
    if queues:
        return []
    found = unrouted_queues(parts_of(app), [store for store, _ in stores(app, transport)], own=False)
    return [each.of_dead_letters() for each in found if each.has_dead]


def _tell_stranded(app: App, transport: str | None, queues: tuple[str, ...]) -> list[UnroutedQueue]:
    """Report the queues of :func:`_stranded` on standard error, and return them."""
    found = _stranded(app, transport, queues)
    for each in found:
        click.echo(visible(f"relevo: {each}"), err=True)
    return found


def _empty(stranded: Sequence[UnroutedQueue]) -> str:
    """Return what is printed instead of an empty list."""
    return "no dead letters in queues with a route" if stranded else "no dead letters"


_COLUMNS = (
    Column("ref", firm=True),
    Column("event"),
    Column("id", ends=True),
    Column("listener", ends=True),
    Column("reason"),
    Column("died"),
    Column("error"),
)


def _row(found: Found) -> dict[str, Any]:
    """Return what was *found* as a row of a list."""
    store, entry = found
    row = dead_row(store, entry)
    for key in ("status", "problem", "listeners", "failures", "headers", "body", "size"):
        del row[key]
    if not isinstance(entry.envelope, Envelope):
        row["error"] = first_line(entry.error)
    return {**row, "failed_listeners": failed_listeners(entry)}


def _whole_row(found: Found, *, app: App) -> dict[str, Any]:
    store, entry = found
    return {**whole_dead_row(app, store, entry), "failed_listeners": failed_listeners(entry)}


def _cells(found: Found, *, now: float) -> dict[str, Any]:
    """Return what was *found* as a row of a table."""
    row, (_, entry) = _row(found), found
    first, *others = row["failed_listeners"] or [None]
    return {
        **row,
        "listener": f"{first} +{len(others)}" if others else first,
        "died": f"{age(max(0.0, now - entry.died_at))} ago",
        "error": first_line(row["error"]) or None,
    }
