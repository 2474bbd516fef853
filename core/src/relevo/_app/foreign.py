"""Waiting events of other applications, in queues that this one handles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

from relevo._app.check import listeners_at
from relevo._app.parts import Parts
from relevo._listener.listener import ListenerTable
from relevo._transport.route import Target
from relevo._worker.decision import SHARED_QUEUE
from relevo._worker.signing import expected_sources
from relevo.errors import RelevoError, shown

SAMPLE = 200
"""The waiting events of a queue that are looked at."""

_FEW = 3


def foreign_events(parts: Parts, listeners: ListenerTable) -> Iterator[tuple[Target, str]]:
    """
    Yield each queue with listeners here in which events of other applications wait, and what that may mean.

    Some events of each queue are looked at, and nothing is changed. Stores that cannot list their events, or that are
    down, are passed over. So are the sources that the signing accepts.
    """
    expected = expected_sources(parts.source, parts.signing)
    for name, store in parts.transports.items():
        for queue in parts.queues(name) if store.capabilities.waiting else ():
            target = Target(name, queue)
            if not listeners_at(target, listeners, parts.routes):
                continue
            with suppress(RelevoError):  # reported by the check of the server
                page = store.waiting([queue], limit=SAMPLE)
                sources = [each.envelope.source for each in page]
                found = Counter(each for each in sources if each not in expected)
                if found:
                    yield target, _text(found, len(page))


def _text(found: Counter[str], looked_at: int) -> str:
    named = ", ".join(
        f"{number:,} {'is' if number == 1 else 'are'} of {shown(source)}" for source, number in found.most_common(_FEW)
    )
    others = f", and others of {len(found) - _FEW} more" if len(found) > _FEW else ""
    what = "the only event" if looked_at == 1 else f"the {looked_at:,} events"
    return f"of {what} that were looked at, {named}{others}, and not of this application{SHARED_QUEUE}"
