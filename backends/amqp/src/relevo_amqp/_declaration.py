"""Declaring a topology on a server, and saying what differs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from relevo_amqp._connection import Channel
from relevo_amqp._errors import (
    ACCESS_REFUSED,
    NOT_FOUND,
    PRECONDITION_FAILED,
    RESOURCE_LOCKED,
    LineLostError,
    TopologyError,
)
from relevo_amqp._topology import Binding, Exchange, Queue, Role, Topology

_RESTING = "down or inaccessible"
"""In the server's answer for a queue that is there and does not work yet, as after a restart; its code is 404 too."""

_ARGUMENT = re.compile(r"inequivalent arg '([^']+)' for (.+?) in vhost '[^']*': received (.+?) but current is (.+)")


class Declarer:
    """
    Declares what is missing and alters nothing.

    An error closes the channel on which it happened, so each declaration is on a channel that may be
    thrown away.

    Args:
        open_channel: Opens one; blocking.

        transport: The transport's name, for errors.

        timeout: Seconds for an answer.
    """

    def __init__(self, open_channel: Callable[[], Channel], *, transport: str, timeout: float):
        self._open_channel = open_channel
        self._transport = transport
        self._timeout = timeout
        self._channel: Channel | None = None
        self._notes = ""

    def declare(self, topology: Topology, queues: Sequence[str], *, dry_run: bool) -> list[str]:
        """
        Declare what *queues* need; blocking.

        Returns:
            What was, or would be, created, in words.

        Raises:
            TopologyError: Something is there and is different.

            LineLostError: The server is gone, or refuses.
        """
        made: list[str] = []
        self._notes = topology.begun.name
        for exchange in topology.exchanges():
            made += self._exchange(exchange, dry_run=dry_run)
        for queue in (*topology.shared_queues(), *(own for name in queues for own in topology.own_queues(name))):
            made += self._queue(queue, dry_run=dry_run)
        if not dry_run:
            for binding in (
                *topology.shared_bindings(),
                *(own for name in queues for own in topology.own_bindings(name)),
            ):
                self._bind(binding, needed=bool(made))
        self.close()
        return made

    def missing(self, names: Iterator[str]) -> bool:
        """Return whether one of the queues *names* is not there; blocking."""
        return not all(self._there("queue_declare", name) for name in names)

    def close(self) -> None:
        """Give the channel up."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _exchange(self, exchange: Exchange, *, dry_run: bool) -> list[str]:
        there = self._there("exchange_declare", exchange.name)
        if there or not dry_run:
            self._try(
                f'the exchange "{exchange.name}"',
                "exchange_declare",
                exchange.name,
                exchange_type=exchange.kind,
                durable=True,
                arguments=exchange.arguments,
                tolerant=there,
            )
        return [] if there else [f'the {exchange.kind} exchange "{exchange.name}"']

    def _queue(self, queue: Queue, *, dry_run: bool) -> list[str]:
        try:
            there = self._there("queue_declare", queue.name)
        except LineLostError as error:
            if queue.role is Role.BEGUN and _RESTING in error.why:
                return []  # it is there; suspects wait until it works, and no other event needs it
            raise
        if there or not dry_run:
            self._try(
                f'the queue "{queue.name}"',
                "queue_declare",
                queue.name,
                durable=True,
                arguments=queue.arguments,
                tolerant=there,
            )
        return [] if there else [f'the queue "{queue.name}"']

    def _bind(self, binding: Binding, *, needed: bool) -> None:
        what = f'the binding of "{binding.target}" to "{binding.source}"'
        if binding.source == self._notes:
            try:
                self._call("queue_bind", binding.target, binding.source, routing_key=binding.pattern)
            except LineLostError as error:
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
        except LineLostError as error:
            if error.code != NOT_FOUND or _RESTING in error.why:
                raise
            return False
        return True

    def _try(self, what: str, method: str, *args: Any, tolerant: bool, **kwargs: Any) -> None:
        """Declare; with *tolerant*, not being allowed to is no error: what is there can be checked by those who may."""
        try:
            self._call(method, *args, **kwargs)
        except LineLostError as error:
            if error.code in (PRECONDITION_FAILED, RESOURCE_LOCKED):
                raise TopologyError(self._transport, what, _difference(error.why)) from error
            if not (tolerant and error.code == ACCESS_REFUSED):
                raise

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        if self._channel is None or self._channel.lost is not None:
            self._channel = self._open_channel()
        return self._channel.call(method, *args, timeout=self._timeout, **kwargs)


def _difference(why: str) -> str:
    """Return which argument differs, as the server says it, in our words."""
    found = _ARGUMENT.search(why)
    if found is None:
        return why
    argument, _, wanted, there = found.groups()
    return f"{argument} is {there}, and relevo needs {wanted}"
