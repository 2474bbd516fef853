"""``relevo check``: the problems that a worker would find at its start, and those of the servers."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import combinations, groupby
from logging import LogRecord, getLogger
from pathlib import Path
from typing import Any

import attrs
import click

from relevo._app.app import App, parts_of
from relevo._app.check import (
    check_inbox_of,
    check_listeners,
    doubled_plugins,
    how_to_list,
    misnamed,
    shared_source,
    unenforced_limits,
    unheard,
    unheard_text,
    unserved,
    without_any,
)
from relevo._app.foreign import foreign_events
from relevo._app.missing import MissingListener, missing_listeners
from relevo._app.stores import FEW, missing_file, some_of
from relevo._app.unrouted import UnroutedQueue, unrouted_queues
from relevo._config.key_file import key_file_advice
from relevo._listener.importing import unregistered_classes
from relevo._problem import with_lines
from relevo._runner.host_schedules import fired_on_this_host
from relevo._runner.schedules import firing_of
from relevo._transport.optional import IdentifiedStore, QueueCatalog
from relevo._transport.route import outbox_queue
from relevo._transport.transport import Transport
from relevo._visible import visible
from relevo._worker.put_off import unkept
from relevo._worker.run import RunOptions
from relevo.cli._controls import every_pause, notice as notice_of_pause
from relevo.cli._deploy import deploy_notice
from relevo.cli._hardening import PAGE, Verdict, examined
from relevo.cli._main import exit_code, refuse_blank, tell
from relevo.cli._option import json_option, with_app
from relevo.cli._output import echo, show_json, show_table
from relevo.cli._place import lists_queues, places, short_lived
from relevo.cli._program import ProgramCheck
from relevo.cli._supervisor import examine, has_worker
from relevo.errors import ConfigurationError, RelevoError, did_you_mean

_FEW = 3
"""The largest number of names of events that are shown."""


@attrs.frozen
class _Finding:
    """The result of one check."""

    what: str
    detail: str
    error: RelevoError | None = None
    applies: bool = attrs.field(default=True, kw_only=True)
    """False if there is nothing to check."""

    word: str = attrs.field(default="WRONG", kw_only=True)
    """What an error is called in the table."""

    is_advice: bool = attrs.field(default=False, kw_only=True)
    """Whether it is a warning that changes no exit code."""

    missing: MissingListener | None = attrs.field(default=None, kw_only=True)
    """The listener that is not here, if it is about one."""

    @property
    def is_ok(self) -> bool | None:
        """Whether nothing is wrong; ``None`` if there is nothing to check."""
        return self.error is None and not self.is_advice if self.applies else None


@click.command()
@click.option(
    "--live",
    is_flag=True,
    help="Also connect to every server, and report what setup would create and what is wrong there.",
)
@click.option(
    "--strict", is_flag=True, help="Also check each point of the page Harden a deployment, and fail on a warning."
)
@click.option("--supervisor", metavar="FILE", callback=refuse_blank, help="Also check this supervisor configuration.")
@json_option
@with_app
def check(*, app: App, live: bool, strict: bool, supervisor: str | None, as_json: bool) -> int:
    """
    Check the configuration and the listeners before a worker starts.

    It reads the configuration, imports the listeners, and runs a worker's start-up checks for each transport. Nothing
    is created, sent or received.

    It warns of events that have a route of their own and no listener here, of a transport that no route leads to, of
    two transports that are one store, of a plugin that is there twice, of listeners whose parameters are named like the
    data of an event, and of signatures without a source.

    With --live, it connects to every server. It also warns of waiting events without a listener here, of events of
    other applications that wait in queues which this one handles, and of two transports that are one store although
    their addresses differ. It looks at up to 1,000 events and 1,000 dead letters of each queue, and warns of listeners
    that they need and that are not here, such as renamed ones. RabbitMQ cannot list its events, so they are left out.
    It also warns of paused queues.

    With --supervisor, it reports relevo commands that do not start, stop times that are too short for a worker,
    commands that do not say which of several transports a worker serves, ports that are open to others, and a file
    without a worker.

    With --strict, it reports what the deployment leaves open to others, and most warnings are errors. Run it as the
    user of the service, with its environment.

    The exit code is 78 if the program or a configuration must be changed, and 69 if a server cannot be reached.

    Example: relevo check --live
    """
    config = parts_of(app).config
    place = str(config.path or config.origins.default) if config else "made by the application"
    findings = [_Finding("configuration", place)]
    findings += [_advice(what, text, is_strict=strict) for what, text in _signing(app)]
    imported = _try("listeners", partial(_listeners, app))
    findings.append(_try("listeners", partial(_routed, app, imported.detail)) if imported.error is None else imported)
    if findings[-1].error is None:
        warnings = unserved(app.listeners, app.routes)
        with _not_logged(warnings):
            findings += [_of_transport(app, name, is_strict=strict) for name in app.transports]
        # Another program may serve that queue, so this is not strict.
        findings += [_advice("listeners", text, is_strict=False) for text in warnings]
    if imported.error is None:
        texts = filter(None, map(misnamed, app.listeners))
        findings += [_advice("parameters", text, is_strict=strict) for text in texts]
        findings += [_advice("events", text, is_strict=strict) for text in _unheard(app, live=live)]
        findings += [_advice("listeners", text, is_strict=strict) for text in _unregistered(app)]
        # A program that only dispatches has none, so this is not strict.
        findings += [_advice("listeners", text, is_strict=False) for text in _without_any(app, live=live)]
        limits = unenforced_limits(app.listeners, app.execution)
        findings += [_advice("time limits", text, is_strict=strict) for text in limits]
    if imported.error is None and app.schedules:
        findings.append(_try("schedules", partial(_schedules, app)))
        if findings[-1].error is None:
            hosts = [fired_on_this_host(app, name) for name in app.transports if firing_of(app, name)]
            findings += [_advice("schedules", text, is_strict=strict) for text in filter(None, hosts)]
    # After the import of the listeners, whose modules may register plugins.
    findings += [_advice("plugins", text, is_strict=strict) for text in doubled_plugins(app.hooks)]
    for name, text in _not_kept(app):
        findings.append(_advice(f"events of {name}", text, is_strict=strict))
    findings += _servers(app, imports=imported.error is None) if live else ()
    for names, text in _same_stores(app, live=live):
        findings.append(_advice(f"transports {names}", text, is_strict=strict))
    for each in _unrouted(app) if live else ():
        findings.append(_advice(f"queue {each.place}", str(each), is_strict=strict))
    findings += _paused(app) if live else ()
    if live and imported.error is None:
        findings += _missing(app, is_strict=strict)
        findings += _foreign(app)
    if live and (notice := deploy_notice(app)):
        findings.append(_advice("deploy", notice, is_strict=False))  # a deployment may run this check
    if supervisor is not None:
        findings += _of_supervisor(app, Path(supervisor))
    if strict:
        findings += [_hardened(name, verdict) for name, verdict in examined(app)]
    reached = "every server was reached" if live else "not connected (use --live)"
    return _report(findings, summary=f"configuration ok; {reached}", as_json=as_json)


@contextmanager
def _not_logged(warnings: Sequence[str]) -> Iterator[None]:
    """Keep *warnings*, which the table shows, out of the log of a worker's start-up checks."""

    def is_new(record: LogRecord) -> bool:
        return record.getMessage() not in warnings

    log = getLogger("relevo.app")
    log.addFilter(is_new)
    try:
        yield
    finally:
        log.removeFilter(is_new)


def _try(what: str, run: Callable[[], str]) -> _Finding:
    try:
        return _Finding(what, run())
    except RelevoError as error:
        return _Finding(what, str(error), error)


def _advice(what: str, detail: str, *, is_strict: bool) -> _Finding:
    if is_strict:
        return _Finding(what, detail, ConfigurationError(f"{what}: {detail}"), word="warning")
    return _Finding(what, detail, is_advice=True)


def _hardened(name: str, verdict: Verdict) -> _Finding:
    if verdict.status == "warning":
        where = f"{PAGE}#{name.partition(' ')[2]}"
        error = ConfigurationError(f"{name}: {verdict.detail}; see {where}")
        return _Finding(name, verdict.detail, error, word="warning")
    return _Finding(name, verdict.detail, applies=verdict.status == "ok")


def _signing(app: App) -> Iterator[tuple[str, str]]:
    """Yield what weakens the signatures of *app*, with the name of the check."""
    config = parts_of(app).config
    if config is not None and (text := key_file_advice(config)):
        yield "signing keys", text
    if text := shared_source(app.signing, app.source):
        yield "signing source", text


def _listeners(app: App) -> str:
    events = {listener.event_name for listener in app.listeners}
    count = len(app.listeners)
    listeners = "1 listener" if count == 1 else f"{count} listeners"
    return f"{listeners} of {'1 event' if len(events) == 1 else f'{len(events)} events'}"


def _routed(app: App, listeners: str) -> str:
    """Return the *listeners* in words if each runs where its event is routed to."""
    check_listeners(app.listeners, app.routes, parts_of(app).queue_table)
    parts_of(app).opened.check(app.listeners)
    return listeners


def _schedules(app: App) -> str:
    """Return the number of the schedules of *app* in words if all can be fired."""
    number = len(app.schedules)
    for name in app.transports:
        firing_of(app, name)
    return "1 schedule" if number == 1 else f"{number} schedules"


def _paused(app: App) -> Iterator[_Finding]:
    """Yield which queues are paused; an operator wants that, so it is not strict."""
    for place, pause in every_pause(app, places(app, None)):
        where = f"queue {place.store.name}/{pause.queue}"
        yield _advice(where, notice_of_pause(place, pause), is_strict=False)


def _not_kept(app: App) -> Iterator[tuple[str, str]]:
    """Yield which transports keep events only in this process, or no dead letters, with the name of the transport."""
    for name in parts_of(app).served():
        if why := short_lived(app.transports[name]):
            yield name, f"{why}; use another transport"
        stores = filter(None, (app.transports[name], app.outboxes.get(name)))
        for text in filter(None, map(unkept, stores)):
            yield name, text


def _unregistered(app: App) -> list[str]:
    """Return which classes of the listed modules have listeners that are not registered."""
    modules = [sys.modules[name] for name in parts_of(app).registry.modules if name in sys.modules]
    return [
        f"{cls.__module__}.{cls.__qualname__} has listeners and no instance is registered; assign one to a global "
        f"name of its module, or write app.listen({cls.__name__}(…))"
        for cls in unregistered_classes(modules, app.listeners)
    ]


def _unheard(app: App, *, live: bool) -> list[str]:
    """Return which events no listener here handles, of those that have a route of their own, or wait in a queue."""
    names = app.routes.names()
    stores = [(name, each) for name, each in app.transports.items() if live and each.capabilities.waiting]
    for name, store in stores:
        with suppress(RelevoError):  # reported by the check of the server
            names |= {group.key for group in store.waiting_groups(app.queues(name), by="event")}
    found = {name: unheard(name, app.listeners, app.routes) for name in sorted(names)}
    return [unheard_text(name, targets, app.listeners) for name, targets in found.items() if targets]


def _without_any(app: App, *, live: bool) -> list[str]:
    """Return that *app* has no listener at all, and which events wait nevertheless if servers may be asked."""
    config = parts_of(app).config
    why = without_any(app.listeners, config)
    if why is None:
        return []
    found: Counter[str] = Counter()
    for name, store in app.transports.items() if live else ():
        if store.capabilities.waiting:
            with suppress(RelevoError):  # reported by the check of the server
                for group in store.waiting_groups(app.queues(name), by="event"):
                    found[group.key] += group.count
    names = ", ".join(f'"{visible(name)}" ({number})' for name, number in found.most_common(_FEW))
    text = f"events that wait: {found.total()}, such as {names}, and this application has no listener; name the modules"
    remedy = f"with listeners: {how_to_list(config)}, or leave the events to another program"
    return [f"{text} {remedy}"] if found else [why]


def _of_transport(app: App, name: str, *, is_strict: bool) -> _Finding:
    """Return whether a worker can serve the transport *name*, or that no route leads to it."""
    what = f"transport {name}"
    if app.routes.queues(name) or name not in parts_of(app).beside_helpers():
        return _try(what, partial(_start, app, name))
    meant = did_you_mean(name, filter(app.routes.queues, app.transports))
    remedy = "add one, or remove the transport once it is empty"
    if not lists_queues(app.transports[name]):
        remedy = f"add one; it cannot list its queues, so look at each that was used: relevo status -t {name} -q QUEUE"
    return _advice(what, f"no route leads to it; {remedy}{meant}", is_strict=is_strict)


def _start(app: App, name: str) -> str:
    if name not in parts_of(app).beside_helpers():
        roles = {"the outbox": app.outboxes, "the locks": app.coordinators, "the dead letters": app.keepers}
        kept = {what: [owner for owner, each in of.items() if each.name == name] for what, of in roles.items()}
        texts = [f"{what} of {', '.join(owners)}" for what, owners in kept.items() if owners]
        return f"stores {' and '.join(texts)}"
    app.worker(RunOptions(transport=name))
    return f"a worker can serve {', '.join(app.queues(name))}"


def _unrouted(app: App) -> Sequence[UnroutedQueue]:
    """Return the queues without a route that hold events of *app*; servers that are down were reported already."""
    able: list[Transport] = []
    for store in parts_of(app).stores():
        with suppress(RelevoError):
            able += [store] if isinstance(store, QueueCatalog) and not store.setup([], dry_run=True) else []
    with suppress(RelevoError):
        return unrouted_queues(parts_of(app), able, own=True)
    return ()


def _missing(app: App, *, is_strict: bool) -> Iterator[_Finding]:
    """Yield which listeners stored events still need and are not here; of each queue the first few."""
    for target, group in groupby(missing_listeners(parts_of(app), app.listeners), key=lambda each: each.target):
        few, others = (found := [*group])[:FEW], len(found[FEW:])
        for each in few:
            # What workers will not meet for sure may be meant so, as a listener that was replaced by another.
            advice = _advice(f"queue {target}", str(each), is_strict=is_strict and each.is_certain)
            yield attrs.evolve(advice, missing=each)
        if others:
            listeners = "1 more listener that is" if others == 1 else f"{others} more listeners that are"
            yield _advice(f"queue {target}", f"and {listeners} not here", is_strict=False)


def _foreign(app: App) -> Iterator[_Finding]:
    """Yield the queues in which events of other applications wait; these may dispatch for this one."""
    for target, text in foreign_events(parts_of(app), app.listeners):
        yield _advice(f"queue {target}", text, is_strict=False)


def _same_stores(app: App, *, live: bool) -> Iterator[tuple[str, str]]:
    """Yield the transports that have a queue in common, since they are one store, and what is wrong about that."""
    ids = {name: _store_ids(app, name, live=live) for name in parts_of(app).beside_helpers()}
    for one, other in combinations(ids, 2):
        shared = [queue for queue in app.queues(one) if queue in app.queues(other)]
        if shared and ids[one] & ids[other]:
            yield f"{one}, {other}", _one_store(one, other, shared[0])


def _store_ids(app: App, name: str, *, live: bool) -> set[str]:
    """Return what only transports with the same queues have: the address and its options, and the id of the store."""
    store, config = app.transports[name], parts_of(app).config
    if not isinstance(store, IdentifiedStore):  # the same address may be another store, as in memory
        return set()
    entry = config.transports.get(name) if config else None
    found = {f"{entry.url.reveal()} {sorted(entry.options.items())}"} if entry else set()
    if live:
        with suppress(RelevoError):  # reported by the check of the server
            found.add(store.store_id())
    return found


def _one_store(one: str, other: str, queue: str) -> str:
    return (
        f'"{one}" and "{other}" are the same store: both use its queue "{queue}", so a worker of one also takes the '
        f"events of the other; use one transport with two queues, as in a route to {one}/{other}"
    )


def _of_supervisor(app: App, path: Path) -> list[_Finding]:
    """Return what is wrong with the configuration at *path*, or that no program of it is a worker."""
    found = _try("supervisor", partial(_examine_supervisor, app, path))
    if found.error is not None or has_worker(path, environ=os.environ):
        return [found]
    text = f"{path}: no program runs relevo worker; relevo unit supervisor prints a section that does"
    # A worker may also be a script with a LoopRunner, so this is not strict.
    return [found, _advice("supervisor", text, is_strict=False)]


def _examine_supervisor(app: App, path: Path) -> str:
    program = ProgramCheck(app)
    return examine(
        path,
        time_limit=app.execution.longest(app.listeners),
        environ=os.environ,
        transports=parts_of(app).served(),
        fault=program.fault,
        is_other=program.is_other,
    )


def _reach(app: App, transport: Transport, queues: Sequence[str]) -> str:
    missing = transport.setup(queues, dry_run=True)
    if problems := transport.problems(queues):
        raise with_lines(ConfigurationError(), [f'the transport "{transport.name}": {problem}' for problem in problems])
    if not missing:
        return "reached, nothing is missing"
    more = "; see relevo setup --plan" if len(missing) > FEW else ""
    lacks, absent = some_of(missing) + more, missing_file(transport)
    if not parts_of(app).creates and transport.lacking(queues):
        why = absent or f"it lacks {lacks}"
        raise ConfigurationError(f'the transport "{transport.name}" is not set up; run relevo setup; {why}')
    if absent:
        return f"{absent} yet; created at first use: {lacks}"
    if not parts_of(app).creates:
        return f"reached; relevo setup would also create: {lacks}"
    return f"reached; created at first use: {lacks}"


def _servers(app: App, *, imports: bool) -> Iterator[_Finding]:
    """Return whether each server of *app* is reached and set up; *imports* is whether its listeners are known."""
    for name, transport in app.transports.items():
        yield _try(f"server of {name}", partial(_reach, app, transport, app.queues(name)))
        if outbox := app.outboxes.get(name):
            found = _try(f"outbox of {name}", partial(_reach, app, outbox, [outbox_queue(name)]))
            yield found
            if imports and found.error is None and not parts_of(app).creates:
                yield from _without_inbox(app, transport, outbox)
        if coordinator := app.coordinators.get(name):
            yield _try(f"coordinator of {name}", partial(_reach, app, coordinator, []))
        if keeper := app.keepers.get(name):
            yield _try(f"dead letters of {name}", partial(_reach, app, keeper, []))


def _without_inbox(app: App, transport: Transport, outbox: Transport) -> Iterator[_Finding]:
    """Return that listeners for events of *transport* need an inbox which *outbox* lacks, if that is so."""
    try:
        check_inbox_of(transport, app.queues(transport.name), outbox, app.listeners, app.routes)
    except RelevoError as error:
        yield _Finding(f"inbox of {transport.name}", str(error), error)


def _report(findings: Sequence[_Finding], *, summary: str, as_json: bool) -> int:
    """Print *findings*, and *summary* if none is an error; return the exit code."""
    if as_json:
        show_json([_record(each) for each in findings])
    else:
        show_table(["check", "ok", "detail"], list(map(_row, findings)), empty="")
    errors = [each.error for each in findings if each.error is not None]
    if not errors and not as_json:
        echo(summary)
    for error in errors:
        tell(error)
    return max((exit_code(error) for error in errors), default=0)


def _record(finding: _Finding) -> dict[str, Any]:
    found = finding.missing
    missing = found and {
        "transport": found.target.transport,
        "queue": found.target.queue,
        "event": found.event,
        "listener": found.listener,
        "need": found.need,
        "dead": found.is_dead,
        "count": found.count,
        "looked_at": found.looked_at,
        "meant": found.meant,
    }
    return {"check": finding.what, "ok": finding.is_ok, "detail": finding.detail, "missing_listener": missing}


def _row(finding: _Finding) -> dict[str, Any]:
    if finding.error is not None:
        ok, detail = finding.word, "see below"
    elif finding.is_advice:
        ok, detail = "warning", finding.detail
    elif finding.applies:
        ok, detail = "ok", finding.detail
    else:
        ok, detail = "-", f"not applicable: {finding.detail}"
    return {"check": finding.what, "ok": ok, "detail": detail}
