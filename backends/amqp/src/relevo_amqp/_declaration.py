"""
Declare a topology on a server, and report differences.

A quorum queue that was just declared does not survive a crash of the server. Ra, the library below such queues, keeps
the names of all queues of a node in a file, ``names.dets``. It writes the file when nothing changed in it for half a
second (``auto_save`` in ``ra_directory``). If a node is killed before that, the queue starts again without its data, or
never answers again: https://github.com/rabbitmq/rabbitmq-server/issues/15725. AMQP shows neither the age of a queue nor
when that file is written. So a process that creates queues waits, and then declares a *mark* beside them, an exchange.
A process that finds queues without a mark waits for the same time before it relies on the first confirmation, and then
declares the mark.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from relevo_amqp._connection import Channel, Connection
from relevo_amqp._errors import (
    ACCESS_REFUSED,
    NOT_FOUND,
    PRECONDITION_FAILED,
    RESOURCE_LOCKED,
    ConnectionLostError,
    TopologyError,
)
from relevo_amqp._topology import Binding, Exchange, Queue, Role, Topology, removal

_RESTING = "down or inaccessible"
"""Part of the server's answer for a queue that still starts, as after a restart; it may come with code 404."""

_ARGUMENT = re.compile(r"inequivalent arg '([^']+)' for (.+?) in vhost '[^']*': received (.+?) but current is (.+)")


class Declarer:
    """
    Declares what is missing and alters nothing.

    An error closes the channel on which it happened, so the declarer opens another one when it needs it. All channels
    belong to one connection: if it was lost, what was declared before may not have survived.

    Args:
        open_channel: Opens a channel; blocking.

        transport: The transport's name, for errors.

        vhost: The virtual host, for errors.

        timeout: Seconds for an answer.

        settle_in: Seconds from the declaration of a queue until it survives a crash of the server; 0 for no marks.
    """

    def __init__(
        self, open_channel: Callable[[], Channel], *, transport: str, vhost: str, timeout: float, settle_in: float
    ):
        self.unmarked: list[Exchange] = []
        """The missing marks of queues that other processes declared, perhaps a moment ago."""
        self._open_channel = open_channel
        self._transport = transport
        self._vhost = vhost
        self._timeout = timeout
        self._settle_in = settle_in
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._notes = ""

    def declare(self, topology: Topology, queues: Sequence[str], *, dry_run: bool) -> list[str]:
        """
        Declare everything for *queues*, and wait until new queues survive a crash of the server; blocking.

        Returns:
            Texts that name what was created or, in a dry run, would be.

        Raises:
            TopologyError: A queue or an exchange exists with other arguments.

            ConnectionLostError: The server could not be reached, or refused.
        """
        made: list[str] = []
        self._notes = topology.begun.name
        for exchange in topology.exchanges():
            made += self._exchange(exchange, dry_run=dry_run)
        new: list[Exchange] = []
        for name in (None, *queues):
            mark = topology.mark(name)
            group = topology.shared_queues() if name is None else topology.own_queues(name)
            created = self._queues(group, mark, dry_run=dry_run)
            made += created
            if created and not dry_run:
                new.append(mark)
        settled_at = time.monotonic() + self._settle_in
        if not dry_run:
            for binding in (
                *topology.shared_bindings(),
                *(own for name in queues for own in topology.own_bindings(name)),
            ):
                self._bind(binding, needed=bool(made))
        marks = [mark for mark in new if mark not in self.unmarked]
        if marks and self._settle_in and self._connection is not None:
            self._connection.last(settled_at - time.monotonic())
            self.settle(marks)
        self.close()
        return made

    def settle(self, marks: Sequence[Exchange]) -> None:
        """
        Declare *marks*, if this user has the permission; blocking.

        Raises:
            ConnectionLostError: The connection was lost, and what was declared may not have survived.
        """
        for mark in marks:
            self._declare_exchange(mark, tolerant=True)

    def missing(self, names: Iterator[str]) -> bool:
        """Return whether one of the queues *names* is missing; blocking."""
        return not all(self._there("queue_declare", name) for name in names)

    def has_exchange(self, name: str) -> bool:
        """Return whether there is an exchange called *name*; blocking."""
        return self._there("exchange_declare", name)

    def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _exchange(self, exchange: Exchange, *, dry_run: bool) -> list[str]:
        there = self._there("exchange_declare", exchange.name)
        if there or not dry_run:
            self._declare_exchange(exchange, tolerant=there)
        return [] if there else [f'the {exchange.kind} exchange "{exchange.name}"']

    def _declare_exchange(self, exchange: Exchange, *, tolerant: bool) -> None:
        self._try(
            f'the exchange "{exchange.name}"',
            "exchange_declare",
            exchange.name,
            exchange_type=exchange.kind,
            durable=True,
            arguments=exchange.arguments,
            tolerant=tolerant,
        )

    def _queues(self, group: Iterator[Queue], mark: Exchange, *, dry_run: bool) -> list[str]:
        """Declare the queues of *group*, which share *mark*; return texts that name the new ones."""
        marked = not self._settle_in or self._there("exchange_declare", mark.name)
        made: list[str] = []
        found = False
        for queue in group:
            try:
                there = self._there("queue_declare", queue.name)
            except ConnectionLostError as error:
                if queue.role is Role.BEGUN and _RESTING in error.why:
                    continue  # it exists; suspects wait until it works, and no other event needs it
                raise
            found = found or there
            if not there and not made and marked and self._settle_in and not dry_run:
                self._call("exchange_delete", mark.name)  # before the queue exists, so that no process relies on it
            if there or not dry_run:
                self._try(
                    f'the queue "{queue.name}"',
                    "queue_declare",
                    queue.name,
                    durable=True,
                    arguments=queue.arguments,
                    tolerant=there,
                    remedy=f"delete it with {removal(queue.name, self._vhost)}",
                )
            if not there:
                made.append(f'the queue "{queue.name}"')
        if found and not marked:
            self.unmarked.append(mark)
        return made

    def _bind(self, binding: Binding, *, needed: bool) -> None:
        what = f'the binding of "{binding.target}" to "{binding.source}"'
        if binding.source == self._notes:
            try:
                self._call("queue_bind", binding.target, binding.source, routing_key=binding.pattern)
            except ConnectionLostError as error:
                if _RESTING not in error.why and (needed or error.code != ACCESS_REFUSED):
                    raise
            return
        if binding.to_exchange:
            self._try(
                what, "exchange_bind", binding.target, binding.source, routing_key=binding.pattern, tolerant=not needed
            )
        else:
            self._try(
                what, "queue_bind", binding.target, binding.source, routing_key=binding.pattern, tolerant=not needed
            )

    def _there(self, method: str, name: str) -> bool:
        try:
            self._call(method, name, passive=True)
        except ConnectionLostError as error:
            if error.code != NOT_FOUND or _RESTING in error.why:
                raise
            return False
        return True

    def _try(
        self, what: str, method: str, *args: Any, tolerant: bool, remedy: str = "delete it", **kwargs: Any
    ) -> None:
        """Declare; if *tolerant*, a missing permission is ignored: the queue or exchange exists."""
        try:
            self._call(method, *args, **kwargs)
        except ConnectionLostError as error:
            if error.code in (PRECONDITION_FAILED, RESOURCE_LOCKED):
                raise TopologyError(self._transport, what, _difference(error.why), remedy=remedy) from error
            if not (tolerant and error.code == ACCESS_REFUSED):
                raise

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        if self._channel is None or self._channel.lost is not None:
            self._channel = self._open_channel()
            self._connection = self._connection or self._channel.connection
            if self._channel.connection is not self._connection:
                raise ConnectionLostError(
                    "the connection was lost while queues were declared; the server may have crashed"
                )
        return self._channel.call(method, *args, timeout=self._timeout, **kwargs)


def _difference(why: str) -> str:
    """Return which argument differs, from the server's answer *why*."""
    found = _ARGUMENT.search(why)
    if found is None:
        return why
    argument, _, wanted, there = found.groups()
    return f"expected {argument} to be {wanted}; got {there}"
