"""``relevo move``."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence

import attrs
import click

from relevo._app.app import App, parts_of
from relevo._app.check import unheard_at
from relevo._hook import Hooks, hookimpl
from relevo._runner.loop import stop_on_signals
from relevo._transport.delivery import Ack, Release, Settlement
from relevo._transport.envelope import Envelope
from relevo._transport.route import NOW, Target, parsed_target
from relevo._transport.sent_to import HEADER
from relevo._transport.transport import Transport
from relevo._visible import visible
from relevo._worker.relay import RelayExecutor, StaysError, readdressed
from relevo._worker.run import Report, RunOptions
from relevo._worker.worker import Worker
from relevo.cli._main import EXIT_DEAD
from relevo.cli._option import json_option, with_app
from relevo.cli._output import at_terminal, echo, show_json
from relevo.cli._parameter import Whole
from relevo.cli._place import check_known
from relevo.cli._progress import Bar, progress
from relevo.cli._terminal import ready_in
from relevo.errors import ConfigurationError, did_you_mean


def _queue(text: str) -> Target:
    """Return the target in *text*, as in routes."""
    try:
        target = parsed_target(text, where="it")
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from error
    if target.transport == NOW:
        raise click.BadParameter(f'"{NOW}" is not a queue')
    return target


@click.command()
@click.option("--from", "source", type=_queue, required=True, metavar="TRANSPORT/QUEUE", help="The queue to move from.")
@click.option("--to", "target", type=_queue, required=True, metavar="TRANSPORT/QUEUE", help="The queue to move to.")
@click.option("--limit", type=Whole(min=1), metavar="N", help="Move at most N events.")
@json_option
@with_app
def move(*, app: App, source: Target, target: Target, limit: int | None, as_json: bool) -> int:
    """
    Move the ready events of one queue to another, which may be on another transport.

    An event leaves its queue when the other has confirmed it. If the command is interrupted, there may be a second
    copy of the events that were being moved, with the same ids. A moved event starts from the beginning: every
    listener of the other queue runs, with all its attempts. An event that the other queue refuses or does not accept
    stays, to be tried again later. If events are signed, each is verified and signed for its new queue; a forged one
    is dead-lettered in its current queue.

    A route must lead to the target queue, or no worker would handle its events; it warns of events that no listener
    here handles in the target queue. The source queue needs no route, and
    may be on an outbox, by the name that `status` shows. An event that was dispatched with to= stays while the other
    queue has a copy of it. Scheduled events can be moved once they are due.
    Exits with 1 if an event stayed or was dead-lettered.

    Example: relevo move --from main/old --to main/feed --limit 1000
    """
    if source == target:
        raise click.UsageError("--from and --to are the same queue")
    outboxes = {outbox.name: outbox for outbox in app.outboxes.values()}
    here = _transport({**outboxes, **app.transports}, app, source, "--from")
    there = _transport(app.transports, app, target, "--to")
    known = app.routes.queues(there.name)
    if target.queue not in known:
        remedy = f"{did_you_mean(target.queue, known)}; there are: {', '.join(known)}" if known else "; add a route"
        raise ConfigurationError(f'--to: nothing is routed to the queue "{target.queue}" of "{there.name}"{remedy}')
    check_known(app, here, source.queue, where="--from: ")
    if missing := here.lacking([source.queue]):
        raise ConfigurationError(f"--from: {source} does not exist: {'; '.join(missing)} must be created first")
    app.prepare(there.name)
    show = at_terminal(sys.stderr) and not as_json
    ready = ready_in([(here, source.queue)]) if show else None
    total = ready if ready is None or limit is None else min(ready, limit)
    with progress("moving", total=total, show=show) as bar:
        hooks = Hooks()
        hooks.add(_Moved(bar))
        change = readdressed(app.signing, app.source, to=target, queues=parts_of(app).queue_table)
        worker = Worker(
            transport=here,
            handle=lambda _: Release(),
            queues=(source.queue,),
            clock=app.clock,
            chance=random.random,
            options=RunOptions(until_empty=True, max_events=limit),
            executor=RelayExecutor(
                there,
                clock=app.clock,
                patience=None,
                change=_warning(app, target, bar, then=_unless_there(there, target.queue, then=change)),
            ),
            hooks=hooks,
            lease=parts_of(app).lease,
        )
        with stop_on_signals(worker):
            report = worker.run()
    if as_json:
        show_json(
            {"moved": report.done, "stayed": report.retried, "dead": report.dead, "reasons": dict(report.reasons)}
        )
    else:
        scheduled = here.stats(source.queue).scheduled if here.capabilities.stats != "none" else None
        stay = max(0, (scheduled or 0) - report.retried)
        are = "1 is scheduled, and stays until it is due" if stay == 1 else f"{stay} are scheduled, and stay until due"
        echo(f"{_summary(report)}{f'; {are}' if stay else ''}")
    return EXIT_DEAD if report.retried or report.dead else 0


@attrs.frozen
class _Moved:
    """A plugin that advances the bar."""

    _bar: Bar

    @hookimpl
    def relevo_around_settle(self, settlements: Sequence[Settlement]) -> None:
        """Count the events that are settled in their old queue."""
        self._bar.advance(sum(isinstance(outcome, Ack) for _, outcome in settlements))


_Change = Callable[[Envelope, str], Envelope]

_MOST_NAMES = 20
"""The largest number of events about which is warned."""


def _warning(app: App, target: Target, bar: Bar, *, then: _Change) -> _Change:
    """Return *then*, which also warns, once for each name, of an event that no listener here handles at *target*."""
    try:
        listeners = app.listeners
    except ConfigurationError:  # they cannot be imported here
        return then
    seen: set[str] = set()

    def change(envelope: Envelope, queue: str) -> Envelope:
        if envelope.name not in seen and len(seen) < _MOST_NAMES:
            seen.add(envelope.name)
            if why := unheard_at(envelope.name, target, listeners, app.routes):
                bar.tell(f"relevo: {visible(why)}")
        return then(envelope, queue)

    return change


def _unless_there(there: Transport, queue: str, *, then: _Change) -> _Change:
    """
    Return *then*, which also refuses an event that a dispatch sent to chosen targets if *queue* has a copy of it.

    One of the two would be dropped as a duplicate, and with it what it says of the listeners that run for it.
    """

    def change(envelope: Envelope, origin: str) -> Envelope:
        said = envelope.headers.get(HEADER)
        if said is not None and _has_copy(envelope, said):
            raise StaysError(
                f"{there.name}/{queue} has another copy of it, since it was dispatched to several targets with to=; "
                f"move it when that one is done, or to another queue"
            )
        return then(envelope, origin)

    def _has_copy(envelope: Envelope, said: str) -> bool:
        if not there.capabilities.find:
            return queue in said.split(" ")
        return any(each.queue == queue and each.envelope.source == envelope.source for each in there.find(envelope.id))

    return change


def _transport(known: Mapping[str, Transport], app: App, target: Target, option: str) -> Transport:
    """Return the one of *known* that *target* names; a queue alone is not a target, as in routes."""
    name = target.transport
    if name not in known:
        meant = [f"{each}/{name}" for each in app.transports if name in app.queues(each)]
        hint = f'; did you mean "{meant[0]}"?' if meant else did_you_mean(name, known)
        raise ConfigurationError(f'{option}: no transport is called "{name}"{hint}; there are: {", ".join(known)}')
    return known[name]


def _summary(report: Report) -> str:
    parts = [f"{report.done} moved"]
    if report.retried:
        parts.append(f"{report.retried} stayed, since the other queue did not accept them")
    if report.dead:
        reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(report.reasons.items()))
        parts.append(f"{report.dead} dead ({reasons}); see relevo dead list")
    return visible(", ".join(parts))
