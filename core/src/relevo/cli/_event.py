"""All details of an event, dead or alive, as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from relevo._app.app import App, parts_of
from relevo._event.codec import decoded
from relevo._listener.journal import IN, FinishedSteps
from relevo._process_identity import ProcessIdentity
from relevo._transport.delivery import MAX_STATE, Failure
from relevo._transport.envelope import Envelope, ForeignEnvelope
from relevo._transport.query import DoneEntry, Found, StuckKey, WaitingEntry
from relevo._transport.route import RESERVED
from relevo._transport.transport import DeadLetterEntry, Transport
from relevo._visible import visible, visible_lines
from relevo._worker.announcement import HoldingWorker, holders
from relevo._worker.decision import Reason
from relevo._worker.evidence import in_words
from relevo._worker.progress import SUBJECT_PATIENCE, Progress, failures_of, if_renamed, loaded
from relevo.cli._output import SHOWN, echo, shortened, when
from relevo.errors import ConfigurationError, DecodeError, RelevoError


def whole_dead_row(app: App, store: Transport, entry: DeadLetterEntry) -> dict[str, Any]:
    """Return all details of the dead letter *entry* of *app*, and whether its signature is valid."""
    of = entry.envelope
    problem = _distrust(app, entry.queue, of, entry.state) if isinstance(of, Envelope) else None
    return {**dead_row(store, entry), "problem": problem}


def dead_row(store: Transport, entry: DeadLetterEntry) -> dict[str, Any]:
    """Return all details of the dead letter *entry* that it has itself."""
    envelope = entry.envelope
    readable = isinstance(envelope, Envelope)
    return {
        "ref": entry.ref,
        "status": "dead",
        "transport": store.name,
        "queue": entry.queue,
        "event": envelope.name if isinstance(envelope, Envelope) else "unreadable",
        "id": envelope.id if isinstance(envelope, Envelope) else None,
        "reason": entry.reason,
        "attempt": entry.attempt,
        "lost_leases": entry.lost_leases,
        "sent": when(entry.enqueued_at),
        "died": when(entry.died_at),
        "problem": None,
        "listeners": _listeners(entry.state) if readable else [],
        "headers": _headers(entry),
        **_body(body_of(entry)),
        "error": shortened(entry.error, SHOWN),
        "failures": [_failure(each) for each in failures_of(entry)],
    }


def done_row(store: Transport, entry: DoneEntry) -> dict[str, Any]:
    """Return all details of the event *entry*, which is done."""
    return {
        "status": "done",
        "transport": store.name,
        "queue": entry.queue,
        "event": entry.envelope.name,
        "id": entry.envelope.id,
        "attempt": entry.attempt,
        "lost_leases": entry.lost_leases,
        "sent": when(entry.enqueued_at),
        "done": when(entry.done_at),
        "ordering_key": entry.envelope.ordering_key,
        "listeners": [],
        **_body(entry.envelope.body),
    }


Holders = Mapping[tuple[str, str, str], HoldingWorker]
"""The workers that hold events, by the queue, the source and the id of each event."""


def announced_holders(app: App, store: Transport) -> Holders | None:
    """
    Return which worker holds each event of *store*, as far as workers have announced that; ``None`` if they do not.

    Raises:
        TransportUnavailableError: The coordinator could not be reached.
    """
    coordinator = parts_of(app).coordinator(store)
    if coordinator is None:
        return None
    own: object = store
    return holders(coordinator.workers().values(), "" if coordinator is own else store.name)


def holders_in(app: App, store: Transport) -> Holders:
    """Return what :func:`announced_holders` does; nothing, and a message on standard error, if that is unknown."""
    try:
        return announced_holders(app, store) or {}
    except RelevoError as error:
        click.echo(visible(f"relevo: the workers that hold events are unknown: {error}"), err=True)
        return {}


def holder_of(found: Found, known: Holders) -> HoldingWorker | None:
    """Return the worker that holds the event *found*; ``None`` if it is not leased, or not announced."""
    if found.status != "leased":
        return None
    return known.get((found.queue, found.envelope.source, found.envelope.id))


class OrderingLines:
    """
    The ordering keys with an event that others wait for, by the queues of *store*; each queue is asked once.

    Args:
        store: The transport of the events.
    """

    def __init__(self, store: Transport):
        self._store = store
        self._known: dict[str, dict[str, StuckKey]] = {}
        self._first: dict[str, Sequence[WaitingEntry]] = {}

    def before(self, found: Found) -> WaitingEntry | None:
        """Return the event that *found* waits for, since it has the same ordering key; ``None`` if that is unknown."""
        key, claims = found.envelope.ordering_key, self._store.capabilities
        if key is None or found.status != "ready" or claims.order != "per key" or not claims.waiting:
            return None
        if found.queue not in self._known:
            stuck = self._store.stuck_keys([found.queue], longer=0.0, limit=_MOST_LINES).keys
            self._known[found.queue] = {each.key: each for each in stuck}
            self._first[found.queue] = self._store.waiting([found.queue], limit=_FIRST_PAGE)
        mine = self._known[found.queue].get(key)
        if mine is not None and mine.first is not None:
            return None if mine.first.envelope == found.envelope else mine.first
        for each in self._first[found.queue]:  # the first event of a key that is not stuck is ready itself
            if each.envelope == found.envelope:
                break
            if each.envelope.ordering_key == key and each.enqueued_at <= found.enqueued_at:
                return each
        return None


_MOST_LINES = 1_000
"""The ordering keys of a queue that are looked at, those that have been stuck the longest first."""

_FIRST_PAGE = 200
"""The events of a queue among which the first of a key that is not stuck is looked for."""


def living_row(
    app: App, store: Transport, found: Found, known: Holders, lines: OrderingLines | None = None
) -> dict[str, Any]:
    """Return all details of the stored event *found* of *app*; *known* are the holders in *store*."""
    holder = holder_of(found, known)
    distrust = _distrust(app, found.queue, found.envelope, found.state)
    first = (lines or OrderingLines(store)).before(found)
    return {
        "status": str(found.status),
        "transport": store.name,
        "queue": found.queue,
        "event": found.envelope.name,
        "id": found.envelope.id,
        "attempt": found.attempt,
        "lost_leases": found.lost_leases,
        "sent": when(found.enqueued_at),
        "until": None if found.until is None else when(found.until),
        "ordering_key": found.envelope.ordering_key,
        "behind": None if first is None else first.envelope.id,
        "worker": None if holder is None else holder.worker,
        "running": None if holder is None else holder.listener,
        "begun_by": None if found.begun is None else found.begun.by,
        "begun_in": None if found.begun is None else found.begun.listener or None,
        "problem": distrust or _problem(app, found) or (None if first is None else waits_behind(first)),
        "listeners": _listeners(found.state),
        **_body(found.envelope.body),
    }


def _distrust(app: App, queue: str, envelope: Envelope, state: bytes) -> str | None:
    """
    Return why no worker of *app* would trust what is shown of an event; ``None`` if it would.

    Args:
        app: The application.

        queue: The queue of the event.

        envelope: The event.

        state: The progress of its listeners; that of an outbox is not signed.
    """
    signing, is_in_outbox = app.signing, queue.startswith(RESERVED)
    if signing is None:
        return None
    try:
        signing.verify(envelope, queue=envelope.queue if is_in_outbox else queue, source=app.source)
        if not is_in_outbox:
            signing.opened(state, envelope)
    except DecodeError as error:
        return f"it may be forged: {error}"
    return None


def show_whole(row: Mapping[str, Any]) -> None:
    """Print *row*, a value in each line, followed by its listeners and its error."""
    for key, value in row.items():
        if key not in ("listeners", "error", "failures", "size") and value is not None:
            echo(f"{key.replace('_', ' ') + ':':<12} {_value(key, value)}")
    if row["size"] > SHOWN:
        echo(f"{'shown:':<13}the first {SHOWN} of {row['size']} bytes of the body")
    for each in row["listeners"]:
        runs = f"{each['runs']} run{'s' if each['runs'] != 1 else ''}"
        parts = [f"{each['status']} after {runs}", each["why"], each["error"], each["due"] and f"due {each['due']}"]
        echo(visible(f"listener:    {each['listener']}: {', '.join(filter(None, parts))}"))
        finished = [*each["steps"], *(f"{count} rows of {name}" for name, count in each["rows"].items())]
        if finished:
            echo(visible(shortened(f"{'finished:':<13}{', '.join(finished)}", SHOWN)))
    if row.get("error"):
        echo("error:")
        echo(visible_lines(row["error"].rstrip()))


def _value(key: str, value: object) -> str:
    """Return *value* as text; only a body may have several lines, which are indented."""
    if key == "body":
        return visible_lines(str(value), margin=" " * 13).lstrip(" ")
    if key == "begun_by" and (process := ProcessIdentity.parsed(str(value))) is not None:
        value = in_words(process)
    return visible(shortened(str(value), SHOWN))


def _listeners(state: bytes) -> list[dict[str, Any]]:
    """Return the progress of each listener that has run; empty if this release cannot read the state."""
    if len(state) > MAX_STATE:
        return []
    try:
        progress = loaded(state)
    except DecodeError:
        return []
    return [
        {
            "listener": name,
            "status": each.status,
            "runs": each.runs,
            "due": when(each.due) if each.status == "due" and each.due else None,
            "why": each.why,
            "error": each.error,
            "steps": [_step(path) for path in _finished(progress, name).steps],
            "rows": {_step(path): count for path, count in _finished(progress, name).rows.items()},
        }
        for name, each in progress.listeners.items()
    ]


def _finished(progress: Progress, listener_id: str) -> FinishedSteps:
    return progress.finished.get(listener_id) or FinishedSteps()


def _step(path: str) -> str:
    """Return the name of a step with those around it, as in ``orders / 3 / bill``."""
    return path.replace(IN, " / ")


def _problem(app: App, found: Found) -> str | None:
    """Return what the event *found* waits for, as the worker that had it last noted; ``None`` if that is nothing."""
    try:
        progress = loaded(found.state if len(found.state) <= MAX_STATE else b"")
    except DecodeError:
        return None
    patience = parts_of(app).patience
    for reason, first in progress.waiting.items():
        end = when(first + patience)
        match reason:
            case Reason.SUBJECT_MISSING:
                return f"waits for its subject {_subject(found)} until {when(first + min(patience, SUBJECT_PATIENCE))}"
            case Reason.UNKNOWN_EVENT:
                return f"no listener {_hint(app, found)}; a dead letter at {end}"
            case Reason.LISTENER_MISSING:
                return f"the worker that had it last lacks {_lacking(app, found, progress)}; a dead letter at {end}"
            case Reason.LISTENER_BYPASSED:
                return f"it was dispatched with to=, which leaves out the queue of a listener; a dead letter at {end}"
            case Reason.NEWER_VERSION:
                return f"its version is newer than that of its listener; a dead letter at {end}"
    return None


def waits_behind(first: Found) -> str:
    """Return that an event waits for *first*, an earlier one with its ordering key."""
    status = "leased" if first.status == "leased" else f"{first.status}, attempt {first.attempt}"
    return f"waits for {first.envelope.id}, an earlier event with its ordering key, which is {status}"


def _lacking(app: App, found: Found, progress: Progress) -> str:
    """Return the ids of the listeners that still have to run and that *app* does not have either, and the remedy."""
    try:
        missing = progress.missing([each.id for each in app.listeners.of(found.envelope.name)])
    except ConfigurationError:  # they cannot be imported here
        missing = []
    if not missing:
        return "a listener that still has to run"
    return f"{', '.join(missing)}, which still has to run; {if_renamed(missing[0])}"


def _hint(app: App, found: Found) -> str:
    """Return where no listener of the event *found* is, and which event may have been meant."""
    name = found.envelope.name
    try:
        others = app.listeners.of(name)
        hint = app.listeners.hint(name)
    except ConfigurationError:  # they cannot be imported here
        return "in the worker that had it last"
    return "in this queue of the worker that had it last" if others else f"here{hint}"


def _subject(found: Found) -> str:
    try:
        return decoded(found.envelope.body).subject or ""
    except DecodeError:
        return ""


def _failure(failure: Failure) -> dict[str, Any]:
    return {
        "listener": failure.listener or None,
        "attempt": failure.attempt,
        "reason": failure.reason,
        "exception": failure.kind or None,
        "error": shortened(failure.error, SHOWN),
        "traceback": failure.traceback or None,
    }


def body_of(entry: DeadLetterEntry) -> bytes:
    """Return the bytes of the dead letter *entry*, readable or not; of an event of another program the original."""
    match entry.envelope:
        case ForeignEnvelope(original=original):
            return original
        case Envelope(body=body):
            return body
        case unreadable:
            return unreadable.raw


def _headers(entry: DeadLetterEntry) -> dict[str, str] | None:
    """Return the headers with which another program published the dead letter *entry*; ``None`` without any."""
    match entry.envelope:
        case ForeignEnvelope(original_headers=found):
            headers = found
        case Envelope():
            return None
        case unreadable:
            headers = unreadable.headers
    return {str(name): value if isinstance(value, str) else repr(value) for name, value in headers.items()} or None


def _body(raw: bytes) -> dict[str, Any]:
    """Return the beginning of the body *raw*, and its full size in bytes."""
    return {"body": raw[:SHOWN].decode("utf-8", "backslashreplace"), "size": len(raw)}
