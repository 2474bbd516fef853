"""The targets that a dispatch chooses with ``to=``, in place of those of its route."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from relevo._listener.listener import Listener, defined_at
from relevo._secret import without_secrets
from relevo._transport.envelope import DEFAULT_QUEUE
from relevo._transport.route import NOW, Routes, Routing, Target, parsed_target
from relevo._transport.sent_to import headers_for
from relevo.errors import ConfigurationError, did_you_mean, shown


def texts_of(to: object) -> tuple[Any, ...]:
    """Return the targets in *to*, one or several, as they were passed."""
    if isinstance(to, Sequence) and not isinstance(to, (str, bytes)):
        return tuple(to)
    return (to,)


def chosen_routing(to: Sequence[object], *, transports: Collection[str], routes: Routes) -> Routing:
    """
    Return the routing to the targets in *to*.

    Args:
        to: The targets, as in routes; at least one.

        transports: The names of the transports.

        routes: Workers serve the queues that these lead to.

    Raises:
        ConfigurationError: One is not a target, its transport does not exist, or no worker serves its queue.
    """
    targets = tuple(parsed_target(each, where="to") for each in to)
    if not targets:
        raise ConfigurationError('to: expected a target such as "main/media", or several; got none')
    if len(set(targets)) != len(targets):
        raise ConfigurationError(f"to: duplicate target in {', '.join(map(str, targets))}; remove one")
    for target in targets:
        _check_known(target, transports, routes)
    return Routing.of(targets, headers=headers_for(targets))


def _check_known(target: Target, transports: Collection[str], routes: Routes) -> None:
    if target.transport == NOW:
        return
    if target.transport not in transports:
        known = [*transports, NOW]
        raise ConfigurationError(
            f"to: no transport is called {shown(target.transport)}{_instead(target.transport, known)}"
        )
    queues = routes.queues(target.transport) or (DEFAULT_QUEUE,)
    if target.queue not in queues:
        raise ConfigurationError(
            f'to: nothing is routed to the queue {shown(target.queue)} of "{target.transport}", so no worker serves '
            f"it{_instead(target.queue, queues)}"
        )


def _instead(wanted: str, known: Collection[str]) -> str:
    return did_you_mean(wanted, known) or f"; there are: {', '.join(without_secrets([*known]))}"


def check_reached(listeners: Iterable[Listener], routing: Routing, queues: Mapping[str, Collection[str]]) -> None:
    """
    Check that each of *listeners* gets the event once.

    Args:
        listeners: Those of the event, as far as this process knows them.

        routing: The chosen targets.

        queues: From the name of a transport to the queues that workers serve.

    Raises:
        ConfigurationError: One of the listeners names a queue that is not among the targets, or that is among them on
            two transports.
    """
    reached = [NOW if each.transport == NOW else each.queue for each in routing.targets]
    targets = [str(each) for each in routing.targets]
    for listener in listeners:
        if listener.queue is None or (times := reached.count(listener.queue)) == 1:
            continue
        place = defined_at(listener.function)
        if times:
            raise ConfigurationError(
                f"to: {listener.id}{place and f' ({place})'} would run {times} times, since its queue "
                f"{shown(listener.queue)} is among {', '.join(targets)} on several transports; choose one of them"
            )
        raise ConfigurationError(
            f"to: {listener.id}{place and f' ({place})'} runs only in the queue {shown(listener.queue)}, which "
            f"{', '.join(targets)} leave{'' if targets[1:] else 's'} out, so it would not get the event; "
            f"{_with_queue(listener.queue, targets, queues)}remove queue= from the listener"
        )


def _with_queue(queue: str, targets: Sequence[str], queues: Mapping[str, Collection[str]]) -> str:
    """Return how to write *targets* with *queue* too; empty if it is on no transport."""
    added = NOW if queue == NOW else next((f"{name}/{queue}" for name, known in queues.items() if queue in known), None)
    if added is None:
        return ""
    listed = ", ".join(f'"{each}"' for each in (*targets, added))
    return f"write to=[{listed}], or "
