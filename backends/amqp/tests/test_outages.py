"""Outages on a node of our own: alarms, rights that are taken away, a silent server, a queue that is deleted."""

from __future__ import annotations

import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import attrs
import pytest

from relevo import (
    Ack,
    Delivery,
    Envelope,
    Nack,
    Outcome,
    Report,
    RunOptions,
    SendError,
    SettleError,
    SystemClock,
    TransportUnavailableError,
    Worker,
)
from relevo.errors import ConfigurationError
from relevo_amqp import AmqpOptions, AmqpTransport
from relevo_amqp._topology import Role, Topology
from relevo_conformance.fault.proxy import Proxy
from server_starter import NotFoundError

import rabbitmq_node
from rabbitmq import refusal


@attrs.frozen
class Node:
    """A private node, and a prefix on it that no other test uses."""

    node: rabbitmq_node.PrivateNode
    prefix: str = attrs.field(factory=lambda: f"relevo-test-{secrets.token_hex(4)}")

    @property
    def topology(self) -> Topology:
        return Topology(self.prefix, 0.1, 4)

    def control(self, *words: str) -> str:
        """Run rabbitmqctl with *words*."""
        done = subprocess.run(
            [self.node.tool("rabbitmqctl"), *words],
            env=self.node.environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return done.stdout

    def url(self, user: str = "guest") -> str:
        return self.node.url.replace("guest:guest", f"{user}:{user}")

    def allow(self, user: str, *, configure: str = ".*", write: str = ".*", read: str = ".*") -> None:
        with suppress(subprocess.CalledProcessError):
            self.control("add_user", user, user)
        self.control("set_permissions", user, configure, write, read)

    @contextmanager
    def alarm(self) -> Iterator[None]:
        """Let the node be short of memory while the block runs."""
        self.control("set_vm_memory_high_watermark", "0")
        try:
            yield
        finally:
            self.control("set_vm_memory_high_watermark", "0.6")
