"""
The parts of a transport in one process: its thread, two connections and one subscription.

Publishing and consuming use separate connections, since a server that is short of memory stops reading from
connections that publish. Each part is created when it is first needed, by the process that needs it: after a fork the
child creates its own.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

import attrs

from relevo import Presence
from relevo.backend.tls import Tls
from relevo_amqp._connection import Channel, Connection, ThreadLoop
from relevo_amqp._declaration import Declarer
from relevo_amqp._errors import ACCESS_REFUSED, NOT_FOUND, ConnectionLostError, ServerTooOldError, no_stream, not_set_up
from relevo_amqp._loop import CallerLoop, Deadline, Loop
from relevo_amqp._mover import Mover
from relevo_amqp._notes import NoteLog
from relevo_amqp._options import FORMER_PREFIX, Address, AmqpOptions
from relevo_amqp._publisher import Publisher
from relevo_amqp._subscription import Subscription
from relevo_amqp._topology import Exchange, Role, Topology

_log = logging.getLogger("relevo.amqp")

OLDEST = (4, 0)

ANSWER_WITHIN = 30.0
"""
Seconds for an answer other than a confirm, after which the connection is considered dead.

The declaration of a quorum queue may take seconds on a busy disk. A client that gives up earlier and deletes the queue
meanwhile can crash the server's supervisor of dead-lettering (seen on 4.0.5). Then no queue of the node dead-letters
anything until the node is restarted.
"""


class Hub:
    """
    The thread and the connections.

    Args:
        options: How to connect.

        topology: The names of what is declared.

        name: The transport's.

        kept: The queues that this process has set up; it declares them again when they are missing.

        deadline: The time limits of the threads that wait.
    """

    def __init__(
        self,
        options: AmqpOptions,
        topology: Topology,
        *,
        name: str,
        kept: Collection[str],
        deadline: Deadline | None = None,
    ):
        self.topology = topology
        self.timeout = max(ANSWER_WITHIN, options.confirm_timeout)
        self.loop = ThreadLoop(name, deadline)
        self._options = options
        self._name = name
        self._kept = kept
        self._address = Address.parse(options.url)
        self._lock = threading.Lock()
        self._declaring = threading.Lock()
        self._counting = threading.Lock()
        self._counting_channel: Channel | None = None
        self._consuming: Connection | None = None
        self._appearing = threading.Lock()
        self._worker: str | None = None
        self._presence_channel: Channel | None = None
        self._beats = itertools.count(1)
        self._unmarked: set[Exchange] = set()
        """The missing marks of queues that may not survive a crash, see :mod:`relevo_amqp._declaration`."""
        self.publisher = Publisher(
            CallerLoop(deadline),
            self.loop,
            lambda loop: self._connect("publish", loop),
            window=options.window,
            timeout=options.confirm_timeout,
            heartbeat=options.heartbeat,
            answer_within=self.timeout,
            wait_until_durable=self._wait_until_durable,
        )
        self.notes = NoteLog(
            self.topology.begun.name, self.publisher, self.channel, timeout=self.timeout, within=self.loop.within
        )
        self.mover = Mover(self.publisher, self.notes.probe)

    def channel(self) -> Channel:
        """
        Return a new channel of the connection that consumes and declares; blocking.

        Raises:
            ConnectionLostError: The server could not be reached.
        """
        with self._lock:
            if self._consuming is None or self._consuming.lost is not None:
                self._consuming = self._connect("consume", self.loop)
            connection = self._consuming
        return connection.channel(self.timeout)

    # --- presence --------------------------------------------------------------------------------------

    def appear(self, worker: str) -> None:
        """
        Show that *worker* is alive, by a consumer on the consuming connection; blocking.

        Other processes see it while that connection lasts. When the connection ends, the server delivers what the
        worker held again.

        Raises:
            ConnectionLostError: The server could not be reached.
        """
        with self._appearing:
            if self._presence_channel is not None and self._presence_channel.lost is None and self._worker == worker:
                return
            queue = self.topology.here(worker)
            channel = self.channel()
            channel.on_cancel = lambda _: channel.close()  # the queue was deleted; the next call declares it again
            channel.call("queue_declare", queue.name, durable=True, arguments=queue.arguments, timeout=self.timeout)
            channel.call("basic_consume", queue.name, lambda *_: None, timeout=self.timeout)
            self._presence_channel, self._worker = channel, worker

    def appear_again(self) -> None:
        """
        Show the same worker again if the connection was replaced; blocking.

        If that fails, the next :meth:`appear` tries again.
        """
        if self._worker is not None:
            with suppress(ConnectionLostError):
                self.appear(self._worker)

    def presence(self, workers: Sequence[str]) -> dict[str, Presence]:
        """
        Return those of *workers* that the server sees; blocking.

        Raises:
            ConnectionLostError: The server could not be reached.
        """
        found = zip(
            workers, self._declare_passively([self.topology.here(worker).name for worker in workers]), strict=True
        )
        beat = next(self._beats)
        return {
            worker: Presence(beats=beat, connected=True)
            for worker, answer in found
            if answer is not None and answer.consumer_count
        }

    # --- counting --------------------------------------------------------------------------------------

    def counts(self, names: Sequence[str]) -> list[int]:
        """
        Return the number of ready events in each of the server's queues *names*; 0 for a missing queue; blocking.

        Raises:
            ConnectionLostError: The server could not be reached.
        """
        return [0 if answer is None else int(answer.message_count) for answer in self._declare_passively(names)]

    def former(self, queues: Sequence[str]) -> dict[str, int]:
        """
        Return the main queues of *queues* under the former default prefix, with the number of events; blocking.

        Events with a lost lease and dead letters count too. Nothing is returned if this user may not look.

        Raises:
            ConnectionLostError: The server could not be reached.
        """
        topology = attrs.evolve(self.topology, prefix=FORMER_PREFIX)
        found: dict[str, int] = {}
        declarer = self._declarer()
        try:
            if not declarer.has_exchange(topology.exchange(Role.MAIN)):  # one question, as a rule
                return {}
            for queue in queues:
                names = [topology.queue(queue, role) for role in (Role.MAIN, Role.SUSPECT, Role.DEAD)]
                main, *others = self._declare_passively(names)
                if main is not None:
                    there = [main, *filter(None, others)]
                    found[names[0]] = sum(int(answer.message_count) for answer in there)
        except ConnectionLostError as error:
            if error.code != ACCESS_REFUSED:
                raise
        finally:
            declarer.close()
        return found

    def _declare_passively(self, names: Sequence[str]) -> list[Any]:
        """Return the server's answer for each of its queues *names*; ``None`` for a missing queue."""
        found: list[Any] = []
        with self._counting:
            for name in names:
                if self._counting_channel is None or self._counting_channel.lost is not None:
                    self._counting_channel = self.channel()
                try:
                    frame = self._counting_channel.call("queue_declare", name, passive=True, timeout=self.timeout)
                    found.append(frame.method)
                except ConnectionLostError as error:
                    if error.code != NOT_FOUND:
                        raise
                    found.append(None)
        return found

    def delaying(self) -> bool:
        """
        Return whether any event of the prefix is delayed at the moment; blocking.

        It counts from the highest rung down, as events move, and twice: an event that moves is in no rung for some
        milliseconds.

        Raises:
            ConnectionLostError: The server could not be reached.
        """
        rungs = [queue.name for queue in self.topology.shared_queues() if queue.role is Role.RUNG][::-1]
        return any(any(self.counts([name])) for _ in range(2) for name in rungs)

    def subscription(self) -> Subscription:
        """
        Return a new subscription without consumers; blocking.

        Raises:
            ConnectionLostError: The server could not be reached.
        """
        channel = self.channel()
        channel.call("tx_select", timeout=self.timeout)
        return Subscription(channel, timeout=self.timeout)

    def declare(self, queues: Sequence[str], *, dry_run: bool = False) -> list[str]:
        """
        Declare *queues* and what they share, and wait until new queues survive a crash of the server; blocking.

        Raises:
            TopologyError: A queue or an exchange exists with other arguments.

            ConnectionLostError: The server could not be reached, or refused.
        """
        with self._declaring:
            declarer = self._declarer()
            try:
                return declarer.declare(self.topology, queues, dry_run=dry_run)
            finally:
                self._unmarked.update(declarer.unmarked)

    def provide(self, queues: Sequence[str]) -> None:
        """
        Declare those of *queues* again that are missing, if this process has set them up; blocking.

        A process that only checked, as with ``setup = "explicit"``, declares nothing.

        Raises:
            ConfigurationError: Queues are missing that this process has not set up.

            TopologyError: A queue or an exchange exists with other arguments.

            ConnectionLostError: The server could not be reached, or refused.
        """
        topology = self.topology
        declarer = self._declarer()
        missing = [
            queue
            for queue in queues
            if declarer.missing(topology.queue(queue, role) for role in (Role.MAIN, Role.SUSPECT, Role.DEAD))
        ]
        no_notes = self._lacks_notes(declarer)
        declarer.close()
        if strange := [queue for queue in missing if queue not in self._kept]:
            raise not_set_up(self._name, strange)
        if no_notes and not self._kept:
            raise no_stream(self._name, topology.begun.name)
        if no_notes and not missing:
            self.declare([])
        if missing:
            names = ", ".join(f'"{topology.queue(queue, Role.MAIN)}"' for queue in missing)
            self.declare(missing)
            _log.warning("queues were missing and were declared again: %s", names)

    def close(self, timeout: float) -> None:
        """Close both connections and end the thread; blocking."""
        with suppress(ConnectionLostError):  # then the server deletes the worker's queue later
            self._disappear(timeout)
        self.publisher.close(timeout)
        if self._consuming is not None:
            self._consuming.close(timeout)
        self.loop.stop(timeout)

    def abort(self, timeout: float) -> None:
        """Cut both connections and end the thread; blocking."""
        self.publisher.abort(timeout)
        if self._consuming is not None:
            self._consuming.abort(timeout)
        self.loop.stop(timeout)

    def _lacks_notes(self, declarer: Declarer) -> bool:
        """Return whether the stream of notes is missing; a stream that still starts, as after a restart, exists."""
        try:
            return declarer.missing(iter([self.topology.begun.name]))
        except ConnectionLostError as error:
            if error.code != NOT_FOUND:
                raise
            return False

    def _disappear(self, timeout: float) -> None:
        with self._appearing:
            channel, worker = self._presence_channel, self._worker
            if channel is None or worker is None or channel.lost is not None or not self.loop.alive:
                return
            channel.on_cancel = None
            for tag in tuple(channel.raw.consumer_tags):
                channel.cancel(tag, timeout)
            # If unused: another transport of this process may show the same worker.
            channel.call("queue_delete", self.topology.here(worker).name, if_unused=True, timeout=timeout)

    def _declarer(self) -> Declarer:
        return Declarer(
            self.channel,
            transport=self._name,
            vhost=self._address.vhost,
            timeout=self.timeout,
            settle_in=self._options.settle_in,
        )

    def _wait_until_durable(self, channel: Channel) -> None:
        """
        Wait until what was confirmed on *channel* survives a crash of the server; blocking.

        Raises:
            ConnectionLostError: The server may have crashed, and what it confirmed may be lost.
        """
        if not self._unmarked:
            return
        marks = tuple(self._unmarked)
        channel.connection.last(self._options.settle_in)
        channel.call("basic_qos", timeout=self.timeout)  # only for its answer: this channel consumes nothing
        self._unmarked.difference_update(marks)
        with suppress(ConnectionLostError), self._declaring:  # without the mark the next process waits as well
            declarer = self._declarer()
            declarer.settle(marks)
            declarer.close()

    def _connect(self, purpose: str, loop: Loop) -> Connection:
        connection = Connection(
            loop,
            self._address,
            purpose=f"relevo {self._name}: {purpose}",
            heartbeat=self._options.heartbeat,
            tls=(self._options.tls or Tls()).context() if self._address.encrypted else None,
        )
        connection.open(self._options.connect_timeout)
        version = connection.version
        if version and version < OLDEST:
            connection.close(self.timeout)
            raise ServerTooOldError(self._name, ".".join(map(str, version)))
        return connection
