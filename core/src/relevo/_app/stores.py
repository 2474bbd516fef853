"""The transports and outboxes of an application: set up at first use, or all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from functools import cache, partial
from logging import getLogger
from typing import Any

from relevo._app.parts import Parts
from relevo._fork import ForkLock
from relevo._problem import lines_of, with_lines
from relevo._transport.optional import FileStore, SchemaUpgrade, SessionSetup, SetupScript
from relevo._transport.route import outbox_queue
from relevo._transport.transport import BoundSender, Transport
from relevo.errors import ConfigurationError, RelevoError, SessionError, TransportUnavailableError

_log = getLogger("relevo.app")


class Stores:
    """
    The transports and outboxes of *parts*.

    Each is set up once, at first use: depending on *parts*, missing tables and queues are created or reported.
    """

    def __init__(self, parts: Parts):
        self._parts = parts
        self._set_up_keys: set[str] = set()
        self._setting_up = ForkLock()
        self._failures: dict[str, TransportUnavailableError] = {}
        """Why the last attempt to set up each key failed, if it did."""
        self.set_up = cache(self._set_up_named)
        """Takes the name of a transport, sets it up once, and returns it; raises as :meth:`prepare` does."""

    @property
    def transports(self) -> Mapping[str, Transport]:
        """The transports by the names that routes use."""
        return self._parts.transports

    def _set_up_named(self, name: str) -> Transport:
        return self._set_up(name, self._parts.transports[name], self._parts.queues(name))

    def has_outbox(self, name: str) -> bool:
        """Return whether what a session sends to the transport *name* is written to an outbox."""
        return name in self._parts.outboxes

    def bind(self, name: str, session: Any) -> BoundSender:
        """
        Return a sender that writes events for the transport *name*, there or in its outbox, inside *session*.

        Raises:
            SessionError: The transport cannot join a session and has no outbox.
        """
        parts = self._parts
        if not parts.joins_sessions(name):
            raise SessionError(
                f'the transport "{name}" cannot join a session; '
                f'give it an outbox: {name} = {{ url = "…", outbox = "sqlite:///…" }}'
            )
        key, transport, queues, relay_to = name, parts.transports[name], parts.queues(name), None
        if name in parts.outboxes:
            key, transport, queues, relay_to = outbox_queue(name), parts.outboxes[name], (outbox_queue(name),), name
        if parts.creates and key not in self._set_up_keys and isinstance(transport, SessionSetup):
            sender = transport.bound_with_setup(session, queues, relay_to=relay_to)
            if sender is not None:
                return sender
        return self._set_up(key, transport, queues).bound_to(session, relay_to=relay_to)

    def prepare(self, name: str) -> None:
        """
        Set up the transport *name*, and what helps it, unless that was done.

        If one of them fails, the others are set up nevertheless; the errors are raised together.

        Raises:
            ConfigurationError: Tables or queues are missing and ``setup`` is ``explicit``.

            TransportUnavailableError: The server could not be reached.
        """
        raise_together(try_each(partial(self.set_up, name), *(step for _, step in self._helpers(name))))

    def prepare_helpers(self, name: str) -> Sequence[TransportUnavailableError]:
        """
        Set up what helps the transport *name*, unless that was done; return why some of it cannot be reached.

        Raises:
            ConfigurationError: As :meth:`prepare`.
        """
        missed: dict[Transport, TransportUnavailableError] = {}
        errors: list[RelevoError] = []
        for store, step in self._helpers(name):
            if store in missed:  # a server that does not answer would hold the worker up once more
                continue
            for error in try_each(step):
                errors.append(error)
                if isinstance(error, TransportUnavailableError):
                    missed[store] = error
        if len(missed) < len(errors):
            raise_together(errors)
        return list(missed.values())

    def prepare_relay(self, name: str) -> None:
        """Set up the transport *name* and its outbox, all that a relay needs; raises as :meth:`prepare` does."""
        raise_together(try_each(partial(self.set_up, name), partial(self.set_up_outbox, name)))

    def _helpers(self, name: str) -> Iterable[tuple[Transport, Callable[[], object]]]:
        """Yield those that help the transport *name*, each with what sets it up for that."""
        parts = self._parts
        if name in parts.outboxes:
            yield parts.outboxes[name], partial(self.set_up_outbox, name)
        if name in parts.coordinators:
            coordinator = parts.coordinators[name]
            yield coordinator, partial(self.set_up_coordinator, name, coordinator)
        if name in parts.keepers:
            yield parts.keepers[name], partial(self.set_up_keeper, name)

    def set_up_outbox(self, name: str) -> Transport:
        """Set up the outbox of the transport *name* once, and return it; raises as :meth:`prepare` does."""
        queue = outbox_queue(name)
        return self._set_up(queue, self._parts.outboxes[name], [queue])

    def set_up_coordinator(self, name: str, coordinator: Transport) -> None:
        """Set up the *coordinator* of the transport *name* once; raises as :meth:`prepare` does."""
        self._set_up(f"coordinator/{name}", coordinator, ())

    def set_up_keeper(self, name: str) -> None:
        """Set up what keeps the dead letters of the transport *name* once; raises as :meth:`prepare` does."""
        self._set_up(f"dead letters/{name}", self._parts.keepers[name], ())

    def set_up_all(self, *, dry_run: bool, upgrade: bool) -> tuple[list[str], list[RelevoError]]:
        """
        Create what is missing on every transport and outbox, also if some fail.

        Args:
            dry_run: Only report.

            upgrade: Change what an older release has created.

        Returns:
            A description of each thing that was, or would be, created, and the errors.
        """
        stores: list[tuple[Transport, Sequence[str]]] = []
        for name, transport in self._parts.transports.items():
            stores.append((transport, self._parts.queues(name)))
            if name in self._parts.outboxes:
                stores.append((self._parts.outboxes[name], [outbox_queue(name)]))
            if name in self._parts.coordinators:
                stores.append((self._parts.coordinators[name], ()))
            if name in self._parts.keepers:
                stores.append((self._parts.keepers[name], ()))
        return set_up_each(stores, dry_run=dry_run, upgrade=upgrade)

    def _set_up(self, key: str, transport: Transport, queues: Sequence[str]) -> Transport:
        """Create what is missing, or only check for it, once; threads that wait for that share its failure."""
        if key not in self._set_up_keys:
            known = self._failures.get(key)
            with self._setting_up:
                failure = self._failures.get(key)
                if failure is not known and failure is not None:
                    raise copy(failure)
                if key not in self._set_up_keys:
                    try:
                        self._create_or_check(transport, queues)
                    except TransportUnavailableError as error:
                        if not error.hurried:  # others may have more time
                            self._failures[key] = copy(error)
                        raise
                    self._set_up_keys.add(key)
        return transport

    def _create_or_check(self, transport: Transport, queues: Sequence[str]) -> None:
        if self._parts.creates:
            _create(transport, queues)
        elif missing := transport.lacking(queues):
            raise ConfigurationError(
                f'the transport "{transport.name}" is not set up; run relevo setup, or set setup = "auto"; '
                f"{missing_file(transport) or f'it lacks {some_of(missing)}'}"
            )


FEW = 5
"""The largest number of missing things that are listed one by one."""


def some_of(missing: Sequence[str]) -> str:
    """Return what is *missing*; if that is much, the number and the first ones."""
    few = "; ".join(missing[:FEW])
    return few if len(missing) <= FEW else f"{len(missing)} things, such as {few}"


def missing_file(store: Transport) -> str:
    """Return that the file of *store* does not exist, with its path; empty if it exists, or if it has none."""
    what = store.missing() if isinstance(store, FileStore) else ""
    return f"there is no {what}" if what else ""


def _create(transport: Transport, queues: Sequence[str]) -> None:
    """
    Create what is missing for *queues*.

    Raises:
        ConfigurationError: It could not be created, and no event can be sent or received without it. This program may
            lack the right to create what only a newer release has.
    """
    try:
        transport.setup(queues)
    except ConfigurationError as error:
        if transport.lacking(queues):
            raise
        _log.info('the transport "%s" works, but relevo setup would create more: %s', transport.name, error)


def set_up_each(
    stores: Iterable[tuple[Transport, Sequence[str]]], *, dry_run: bool, upgrade: bool
) -> tuple[list[str], list[RelevoError]]:
    """
    Create what is missing on each of *stores*, also if some fail.

    Args:
        stores: Transports, each with its queues.

        dry_run: Only report.

        upgrade: Change what an older release has created.

    Returns:
        A description of each thing that was, or would be, created, and the errors.
    """
    created: list[str] = []
    if dry_run:  # what the first one would create, the second one would find
        stores = _apart(stores)

    def create(transport: Transport, queues: Sequence[str]) -> None:
        act = transport.upgrade if upgrade and isinstance(transport, SchemaUpgrade) else transport.setup
        created.extend(act(queues, dry_run=dry_run))

    return created, try_each(*(partial(create, *store) for store in stores))


def _apart(
    stores: Iterable[tuple[Transport, Sequence[str]]],
) -> Iterable[tuple[Transport, Sequence[str]]]:
    """Yield *stores* without those that are an earlier one, such as an outbox in the database of a transport."""
    known = set[str]()
    for transport, queues in stores:
        script = transport.setup_script(queues) if isinstance(transport, SetupScript) else ""
        if not script or script not in known:
            yield transport, queues
        known.add(script)


def try_each(*steps: Callable[[], object]) -> list[RelevoError]:
    """Call each of *steps*, even if others fail, and return their errors."""
    errors: list[RelevoError] = []
    for step in steps:
        try:
            step()
        except RelevoError as error:
            errors.append(error)
    return errors


def raise_together(errors: Sequence[RelevoError]) -> None:
    """
    Raise the *errors* of several steps as one error with a line for each.

    Its type is that of the first configuration error, if there is one, since that has to be fixed first.

    Raises:
        RelevoError: The only error, or one for all of them; nothing is raised if there is none.
    """
    if not errors:
        return
    first = next((each for each in errors if isinstance(each, ConfigurationError)), errors[0])
    if len(errors) == 1:
        raise first
    combined = copy(first)
    combined.__dict__["errors"] = tuple(errors)
    raise with_lines(combined, [line for each in errors for line in lines_of(each)]) from first


def each_of(error: RelevoError) -> Sequence[RelevoError]:
    """Return the errors that *error* combines, or *error* itself."""
    errors: Sequence[RelevoError] = error.__dict__.get("errors", (error,))
    return errors
