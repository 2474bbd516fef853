"""Set up several servers: do all that can be done, and report all failures together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial

from relevo._transport.transport import Transport
from relevo._worker.relay import outbox_queue
from relevo.errors import ConfigurationError, RelevoError


def set_up(
    transports: Mapping[str, Transport],
    outboxes: Mapping[str, Transport],
    queues: Callable[[str], Sequence[str]],
    *,
    dry_run: bool,
) -> tuple[list[str], list[RelevoError]]:
    """
    Create what is missing wherever it can be done.

    Args:
        transports: By their names.

        outboxes: By the names of their transports.

        queues: Returns those of a transport.

        dry_run: Only tell.

    Returns:
        What was, or would be, created, and why it could not be done elsewhere.
    """
    created: list[str] = []
    steps: list[Callable[[], None]] = []
    for name, transport in transports.items():
        places = [(transport, queues(name))]
        if name in outboxes:
            places.append((outboxes[name], [outbox_queue(name)]))
        steps += [partial(_create, created, here, mine, dry_run=dry_run) for here, mine in places]
    return created, tried(*steps)


def _create(created: list[str], transport: Transport, queues: Sequence[str], *, dry_run: bool) -> None:
    created += transport.setup(queues, dry_run=dry_run)


def tried(*steps: Callable[[], object]) -> list[RelevoError]:
    """Take every one of *steps*, whether or not others fail, and return what they failed with."""
    errors: list[RelevoError] = []
    for step in steps:
        try:
            step()
        except RelevoError as error:
            errors.append(error)
    return errors


def raise_together(errors: Sequence[RelevoError]) -> None:
    """
    Raise what several steps failed with as one error, which has a line for each.

    It is of the kind that says who has to act first, which is whoever wrote the program.

    Raises:
        RelevoError: There is at least one; if it is the only one, itself.
    """
    if not errors:
        return
    first = next((each for each in errors if isinstance(each, ConfigurationError)), errors[0])
    if len(errors) == 1:
        raise first
    told = copy(first)
    told.args = ("\n".join(map(str, errors)),)
    told.__dict__["errors"] = tuple(errors)
    raise told from first


def each_of(error: RelevoError) -> Sequence[RelevoError]:
    """Return the errors that *error* tells together, or itself."""
    errors: Sequence[RelevoError] = error.__dict__.get("errors", (error,))
    return errors
