"""Handle one stored event now, and show the outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs
import click

from relevo._app.app import App
from relevo._app.check import listeners_at
from relevo._hook import hookimpl
from relevo._runner.loop import LoopRunner
from relevo._transport.delivery import MAX_STATE, Ack, DeadLetter, Lost, Nack, Outcome, Release, Settlement
from relevo._transport.envelope import Envelope
from relevo._transport.query import DeadLetterFilter, Found
from relevo._transport.route import RESERVED, Target
from relevo._transport.transport import Transport
from relevo._visible import visible
from relevo._worker.progress import loaded
from relevo._worker.run import RunOptions
from relevo.cli._choice import DeadLetterChoice
from relevo.cli._event import OrderingLines, holder_of, holders_in, waits_behind
from relevo.cli._main import EXIT_DEAD, EXIT_LATER
from relevo.cli._output import echo, first_line, when
from relevo.cli._run import why_later
from relevo.errors import DecodeError

Fate = Literal["done", "retried", "dead", "refused"]


@attrs.frozen(kw_only=True)
class Handled:
    """The outcome of an event that was handled by its id."""

    transport: str
    queue: str
    event: str
    id: str
    outcome: Fate
    why: str | None = None

    def __str__(self) -> str:
        said = {"done": "done", "retried": "to be retried", "dead": "dead", "refused": "not handled"}
        why = f": {self.why}" if self.why else ""
        return visible(f"{self.event} {self.id} in {self.transport}/{self.queue}: {said[self.outcome]}{why}")


def can_handle(store: Transport) -> bool:
    """Return whether an event of *store* can be handled by its id."""
    return store.capabilities.take and store.capabilities.find


def is_in_outbox(app: App, store: Transport, queue: str) -> bool:
    """Return whether *queue* of *store* is an outbox, whose events are moved and not handled."""
    return store.name not in app.transports or queue.startswith(RESERVED)


def handled(app: App, store: Transport, found: Found) -> Handled:
    """Handle the event *found* in *store* now, unless a worker holds it."""
    about = {"transport": store.name, "queue": found.queue, "event": found.envelope.name, "id": found.envelope.id}
    if is_in_outbox(app, store, found.queue):
        return Handled(**about, outcome="refused", why="it waits in an outbox; relevo relay moves it")
    if found.status == "leased":
        why = f"{held_by(app, store, found)}; stop that worker{or_wait(found)}"
        return Handled(**about, outcome="refused", why=why)
    click.echo(visible(f"relevo: handling {_described(app, store, found)}"), err=True)  # it may end this process
    outcomes = _Outcomes()
    app.hooks.add(outcomes)
    options = RunOptions(
        transport=store.name, queues=(found.queue,), event_id=found.envelope.id, until_empty=True, concurrency=1
    )
    try:
        report = LoopRunner(others=False).run(app, options)
    finally:
        app.hooks.remove(outcomes)
    for _, outcome in outcomes.settled:
        if (fate := _fate(outcome)) is not None:
            return Handled(**about, outcome=fate, why=_why(outcome))
    if report.stopped_by == "objection":
        return Handled(**about, outcome="refused", why=why_later(report))
    return Handled(**about, outcome="refused", why=_left(app, store, found))


def _described(app: App, store: Transport, found: Found) -> str:
    """Return the event *found* with its id, its queue, and the listeners that may run now."""
    name, target = found.envelope.name, Target(store.name, found.queue)
    ids = [each.id for each in listeners_at(target, app.listeners, app.routes) if each.event_name == name]
    try:
        ended = loaded(found.state if len(found.state) <= MAX_STATE else b"").ended(())
    except DecodeError:
        ended = []
    due = ", ".join(each for each in ids if each not in ended)
    return f"{name} {found.envelope.id} in {target}{due and f': {due}'}"


def show_handled(results: Sequence[Handled]) -> None:
    """Print a line for each of *results*."""
    for each in results:
        echo(str(each))


def code_of(results: Sequence[Handled]) -> int:
    """Return the exit code for *results*."""
    outcomes = {each.outcome for each in results}
    if outcomes & {"retried", "dead"}:
        return EXIT_DEAD
    return EXIT_LATER if "refused" in outcomes else 0


def _fate(outcome: Outcome) -> Fate | None:
    """Return what *outcome* means; ``None`` if the event was not handled."""
    match outcome:
        case Ack():
            return "done"
        case DeadLetter():
            return "dead"
        case Nack() | Lost():
            return "retried"
        case Release():
            return None


def _why(outcome: Outcome) -> str | None:
    match outcome:
        case DeadLetter(reason=reason, error=error):
            return f"{reason}: {first_line(error)}".rstrip(": ")
        case Nack(state=state):
            return _failures(state)
        case Lost(error=error):
            return first_line(error) or "its process ended"
        case _:
            return None


def _failures(state: bytes | None) -> str | None:
    """Return the errors that *state* has of listeners that run again."""
    try:
        progress = loaded(state or b"")
    except DecodeError:
        return None
    failed = [
        f"{name} failed in run {each.runs}{f', again at {when(each.due)}' if each.due else ''}: {each.error}"
        for name, each in progress.listeners.items()
        if each.status == "due" and each.error
    ]
    return "; ".join([*failed, *(f"waiting since {when(at)} ({reason})" for reason, at in progress.waiting.items())])


def held_by(app: App, store: Transport, found: Found) -> str:
    """Return that a worker holds *found* in *store*, and which one, if that was announced."""
    until = "" if found.until is None else f" until {when(found.until)}"
    holder = holder_of(found, holders_in(app, store))
    if holder is None:
        return f"a worker holds it{until}"
    runs = f"; {holder.listener} runs" if holder.listener else ""
    return f"the worker {holder.worker} holds it{until}{runs}"


def or_wait(found: Found) -> str:
    """Return that waiting helps if the worker that holds *found* has vanished; empty if its lease has no end."""
    return "" if found.until is None else ", or wait until then if it has ended"


def _left(app: App, store: Transport, found: Found) -> str:
    """Return why nothing was leased, or what was leased was given back: where the event is now."""
    envelope = found.envelope
    same = [
        each for each in store.find(envelope.id) if (each.queue, each.envelope.source) == (found.queue, envelope.source)
    ]
    if not same:
        ref = _dead_ref(store, found)
        return f"a worker took it first; it is the dead letter {ref}" if ref else "it is gone: a worker took it first"
    now = same[0]
    if now.status == "leased":
        return held_by(app, store, now)
    if now.lost_leases:
        return "the process that began it before may still be alive; try again in half a minute"
    if envelope.ordering_key is not None:
        first = OrderingLines(store).before(now)
        return "it waits for an earlier event with its ordering key" if first is None else f"it {waits_behind(first)}"
    return "a worker took it first" + (f"; it waits until {when(now.until)}" if now.until else " and gave it back")


def _dead_ref(store: Transport, found: Found) -> str | None:
    """Return the ref of the dead letter that *found* has become."""
    if not store.capabilities.dead_letters:
        return None
    envelope = found.envelope
    choice = DeadLetterChoice(where=DeadLetterFilter(names=(envelope.name,)))
    for entry in choice.entries(store, [found.queue]):
        dead = entry.envelope
        if isinstance(dead, Envelope) and (dead.id, dead.source) == (envelope.id, envelope.source):
            return entry.ref
    return None


class _Outcomes:
    """A plugin that keeps what was settled."""

    def __init__(self) -> None:
        self.settled: list[Settlement] = []

    @hookimpl
    def relevo_around_settle(self, settlements: Sequence[Settlement]) -> None:
        """Keep *settlements*."""
        self.settled += settlements
