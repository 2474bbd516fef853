"""Check settings, and find conflicts between their keys."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import attrs

from relevo._clock import seconds
from relevo._problem import KeyPath, Problem, Problems, dotted
from relevo._retry import Retry
from relevo._secret import without_secrets
from relevo._synonym import key_answer
from relevo._transport.acceptance import QueueTable
from relevo._transport.class_route import declared_below, label
from relevo._transport.coordinator import Coordinator
from relevo._transport.delivery import MAX_LEASE
from relevo._transport.envelope import DEFAULT_QUEUE
from relevo._transport.keeper import DeadLetterKeeper, DeadLetterOwner
from relevo._transport.route import NOW, Routes, Routing, Target, fan_out, parsed_target
from relevo._transport.transport import Transport
from relevo._worker.signing import Signing
from relevo.errors import ConfigurationError, did_you_mean, shown

_SHORTEST_LEASE = 1.0
"""Seconds; a lease is renewed every third of its length, by a thread that wakes every quarter of a second."""


def checked_lease(lease: object) -> float:
    """
    Return *lease* in seconds.

    Raises:
        ConfigurationError: It is not a duration, too short to be renewed, or longer than :data:`MAX_LEASE`.
    """
    length = seconds(lease, what="lease")
    if length < _SHORTEST_LEASE:
        raise ConfigurationError(
            f"lease: too short to be renewed; expected {_SHORTEST_LEASE} s or more; got {length} s"
        )
    if length > MAX_LEASE:
        raise ConfigurationError(
            f"lease: too long; expected {MAX_LEASE} s or less; got {length} s; choose a shorter one, which is renewed "
            f"while the worker runs"
        )
    return length


def checked_patience(patience: object) -> float:
    """
    Return *patience* in seconds.

    Raises:
        ConfigurationError: It is not a duration.
    """
    return seconds(patience, what="patience")


def checked_setup(setup: object) -> str:
    """
    Return *setup* if it is one of the two modes: create missing tables and queues at first use, or do not.

    Raises:
        ConfigurationError: It is another value.
    """
    if setup not in ("auto", "explicit"):
        raise ConfigurationError(f'setup: expected "auto" or "explicit"; got {shown(setup)}')
    return str(setup)


def checked_app_name(name: object) -> str:
    """
    Return *name* if it can name an application in a module.

    Raises:
        ConfigurationError: It is not ``module:name``.
    """
    if not isinstance(name, str) or not all(name.partition(":")) or "://" in name:
        module = name.removesuffix(".py") if isinstance(name, str) else ""
        meant = module if all(part.isidentifier() for part in module.split(".")) else "shop"
        raise ConfigurationError(f'app: expected "module:name", as in "{meant}:app"; got {shown(name)}')
    return name


def transport_name_problems(names: Iterable[object]) -> Iterator[Problem]:
    """Yield the *names* that are invalid for a transport."""
    for name in names:
        if not isinstance(name, str) or name in ("", NOW) or "/" in name or not name.isprintable():
            fault = f'cannot be the name of a transport; expected text such as main, without a slash, and not "{NOW}"'
            yield _problem(("transports", str(name)), f"transports: {shown(name)} {fault}")


def transport_problems(transports: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is not a transport, is there twice, or has an invalid name."""
    yield from transport_name_problems(transports)
    for name, transport in transports.items():
        fault = None
        if not isinstance(transport, Transport):
            fault = _no_transport(transport)
        elif sum(transport is each for each in transports.values()) > 1:
            fault = "the same object is already a transport under another name; create a second one"
        if fault is not None:
            yield _problem(("transports", name), f"transports: {shown(name)}: {fault}")


def _no_transport(thing: object) -> str:
    return (
        f"expected an address such as sqlite:///shop.db, or a relevo.Transport such as "
        f"relevo_sql.SqlTransport(engine); got {type(thing).__name__}"
    )


ARGUMENTS = {"outbox": "outboxes", "coordinator": "coordinators", "dead_letters": "keepers"}
"""The keys of a transport that name another one, which keeps something for it; each with the argument of ``App``."""


def helper_problems(
    helpers: Mapping[str, Mapping[str, Any]], transports: Mapping[str, Any], names: Collection[str]
) -> Iterator[Problem]:
    """
    Yield the *helpers* that belong to no transport, or cannot keep what they are for.

    Args:
        helpers: The transports that keep something for others: by the key, and the name of the other one.

        transports: The transports, as far as they are valid.

        names: The names of all transports.
    """
    for key, argument in ARGUMENTS.items():
        for name, helper in helpers[key].items():
            fault = None
            if name not in names:
                fault = f'{argument}: no transport is called "{without_secrets(name)}"{known_names(name, names)}'
            elif not isinstance(helper, Transport):
                own = f"{shown(name)}: {_no_transport(helper)}"
                if isinstance(helper, str):
                    own = (
                        f"{shown(name)}: expected an address such as sqlite:///shop.db, or the name of a transport; "
                        f"got {shown(helper)}{known_names(helper, names)}"
                    )
                fault = f"{argument}: {own}"
            else:
                fault = _UNABLE[key](helper, name, transports.get(name))
            if fault is not None:
                yield _problem(("transports", name, key), fault)


def _unable_outbox(helper: Transport, name: str, _: object) -> str | None:
    if helper.capabilities.transactional:
        return None
    return (
        f'the outbox "{helper.name}" cannot join a session, so it cannot keep the events of "{name}"; '
        f"choose a SQL transport as outbox"
    )


def _unable_coordinator(helper: Transport, name: str, of: object) -> str | None:
    if not isinstance(helper, Coordinator):
        return (
            f'the coordinator "{helper.name}" has no locks, so it cannot coordinate the workers of "{name}"; choose a '
            f"SQL transport as coordinator"
        )
    return _short_lived("coordinator", helper, name, of)


def _unable_keeper(helper: Transport, name: str, of: object) -> str | None:
    if not isinstance(helper, DeadLetterKeeper):
        return (
            f'the transport "{helper.name}" cannot keep the dead letters of "{name}"; choose a SQL transport as '
            f"dead_letters"
        )
    if isinstance(of, Transport) and not isinstance(of, DeadLetterOwner):
        return f'the transport "{name}" cannot leave its dead letters to another one; remove dead_letters; RabbitMQ can'
    return None


def _short_lived(key: str, helper: Transport, name: str, of: object) -> str | None:
    """Return that *helper* ends with its process, but the transport *of* does not."""
    if helper.capabilities.durability != "process" or not isinstance(of, Transport):
        return None
    if of.capabilities.durability == "process":
        return None
    return (
        f'the {key} "{helper.name}" is in the memory of one process, but other processes share "{name}"; choose a SQL '
        f"transport as {key}"
    )


_UNABLE: Mapping[str, Callable[[Transport, str, object], str | None]] = {
    "outbox": _unable_outbox,
    "coordinator": _unable_coordinator,
    "dead_letters": _unable_keeper,
}
"""By the key: returns why a transport cannot keep that for the named one; ``None`` if it can."""


def target_problems(routes: Routes, transports: Iterable[str]) -> Iterator[Problem]:
    """Yield the targets whose transport is not among *transports*."""
    known = [*transports, NOW]
    for pattern, targets in routes.entries.items():
        for target in targets:
            if target.transport not in known:
                instead = f'; write "{NOW}"' if target.transport == "sync" else known_names(target.transport, known)
                what = f"no transport is called {shown(target.transport)}{instead}"
                yield _problem(("routes", pattern), f"{dotted(('routes', pattern))}: {what}")


def signing_problems(signing: Signing | None, source: str) -> Iterator[Problem]:
    """Yield the application's own *source* if its events may be unsigned although a signature is required."""
    if signing is not None and source in signing.unsigned:
        yield _problem(
            ("signing", "unsigned"),
            f"signing.unsigned: the application's own source {shown(source)} may not be listed; remove it, or set "
            f"required = false while unsigned events are still waiting",
        )


def retry_problems(
    targets: Mapping[str, Target], routes: Routes | None, transports: Collection[str]
) -> Iterator[Problem]:
    """
    Yield the retry policies of queues without a route.

    Args:
        targets: The queues of the policies, by their names as written.

        routes: Where events go; ``None`` if that is not known.

        transports: The names of all transports.
    """
    for name, target in targets.items():
        known = routes.queues(target.transport) if routes else ()
        fault = None
        if target.transport not in transports:
            fault = f"no transport is called {shown(target.transport)}{known_names(target.transport, transports)}"
            if not did_you_mean(target.transport, transports):
                fault += _policy_hint(name)
        elif routes and target.queue not in known:
            remedy = known_names(target.queue, known) or "; add a route to it under [routes]"
            fault = f"nothing is routed to that queue{remedy}"
        if fault is not None:
            yield _problem(("retries", name), f"{dotted(('retries', name))}: {fault}")


def _policy_hint(name: str) -> str:
    """Return how to write the policy that has the *name* of no queue; it may be an option of a policy."""
    options = [field.name for field in attrs.fields(Retry)]
    answer = key_answer(name, options, table="retries")
    if answer or name in options:
        remedy = 'write the options of a policy under the name of a queue: [retries."main/media"]'
        return f"; {answer}; {remedy}" if answer else f"; {remedy}"
    return '; name a queue, as in "main/media"; for one listener, use @relevo.listener(…, retry=…)'


def queue_problems(queues: QueueTable, routes: Routes | None, transports: Collection[str]) -> Iterator[Problem]:
    """
    Yield the options of queues without a route, and the routes whose queue accepts none of their events.

    Args:
        queues: The options of queues.

        routes: Where events go; ``None`` if that is not known.

        transports: The names of all transports.
    """
    if routes is None or not queues:
        return
    every = (target for targets in routes.entries.values() for target in targets)
    routed = dict.fromkeys(target for target in every if target.transport != NOW)
    known = [*map(str, routed), *dict.fromkeys(target.queue for target in routed)]
    used = {queues.key(target) for target in routed}
    for key in queues.options:
        if key not in used:
            keys = ("queues", key)
            own = f'; for the queue of that transport write "{key}/{DEFAULT_QUEUE}"' if key in transports else None
            yield _problem(keys, f"{dotted(keys)}: nothing is routed to that queue{own or known_names(key, known)}")
    fitting = {label(cls): tuple(declared_below((cls,))) for cls in routes.classes}
    for pattern, targets in routes.entries.items():
        for target in targets:
            options = queues.of(target)
            if target.transport != NOW and not any(map(options.accepts_some, fitting.get(pattern, (pattern,)))):
                accepted = ", ".join(f'"{each}"' for each in options.accept)
                keys = ("routes", pattern)
                yield _problem(
                    keys,
                    f"{dotted(keys)}: {target} accepts no event of this route; it accepts: {accepted}; add one to "
                    f"accept under {dotted(('queues', queues.key(target) or ''))}, or change the route",
                )


def retry_targets(names: Iterable[str], problems: Problems) -> dict[str, Target]:
    """Return the queues that *names* stand for; note those that are invalid or duplicates."""
    found: dict[str, Target] = {}
    known: set[Target] = set()
    for name in names:
        with problems.at("retries", name):
            target = parsed_target(name, where="retries")
            if target in known:
                what = f"{target} is set twice, with and without the name of the queue; remove one of them"
                raise ConfigurationError(f"{dotted(('retries', name))}: {what}")
            known.add(target)
            found[name] = target
    return found


def known_names(wanted: str, known: Collection[str]) -> str:
    """Return what to use instead of *wanted*, as the end of an error: the nearest of *known*, or all of them."""
    return did_you_mean(wanted, known) or (f"; there are: {', '.join(without_secrets([*known]))}" if known else "")


def fan_out_problems(routes: Routes, joins_sessions: Mapping[str, bool]) -> Iterator[Problem]:
    """Yield the routes whose targets can never be written in one transaction; unknown transports are left out."""
    for pattern, targets in routes.entries.items():
        names = Routing.of(targets).transports
        known = [joins_sessions[name] for name in names if name in joins_sessions]
        if len(names) > 1 and len(known) == len(names) and not all(known):
            yield Problem(("routes", pattern), fan_out(pattern, names))


def _problem(keys: KeyPath, what: str) -> Problem:
    return Problem(keys, ConfigurationError(what))
