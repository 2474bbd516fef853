"""Build workers from an application's settings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from relevo._app.check import (
    check_inbox_of,
    check_listeners,
    check_queues,
    check_time_limits,
    places_of,
    warn_of_other_clock,
    warn_of_risks,
)
from relevo._app.parts import Parts
from relevo._app.stores import Stores
from relevo._event.subject import SubjectLoader
from relevo._hook import names_where_listeners_run
from relevo._listener.call import Outgoing
from relevo._listener.listener import ListenerTable
from relevo._listener.wrapper import check_wrapped, with_wrappers
from relevo._transport.delivery import Delivery, Release
from relevo._transport.envelope import Envelope
from relevo._transport.route import Routes, Target, outbox_queue
from relevo._transport.sent_to import sent_to
from relevo._transport.transport import Transport
from relevo._worker.acceptance import accepting
from relevo._worker.caller import Caller
from relevo._worker.control import unless_paused
from relevo._worker.execution import Execution
from relevo._worker.executor import Executor, Handle, Handling, InlineExecutor, Steps
from relevo._worker.limiter import StillBegins, unless_late
from relevo._worker.listener_log import ObstacleLog
from relevo._worker.progress import hastened
from relevo._worker.relay import RelayExecutor, relayed
from relevo._worker.run import RunOptions
from relevo._worker.signing import expected_sources
from relevo._worker.subjects_ahead import SubjectsAhead
from relevo._worker.suspect import Suspects
from relevo._worker.transaction import Transactions, exporter
from relevo._worker.worker import Worker
from relevo.errors import ConfigurationError, DecodeError, RouteNotFoundError, TransportUnavailableError

if TYPE_CHECKING:
    from relevo._execution.pipe import Hello

_BATCHES = 4
"""From how many batches the events in threads may be: small ones are handed on quickly."""

Checkpoint = Callable[[Delivery, bytes], None] | None
"""Stores progress during a delivery, if that is supported."""

Runs = Callable[[Delivery, str], None] | None
"""Notes which listener of a delivery with lost leases runs, if evidence of crashes is stored."""


@attrs.frozen(eq=False, repr=False)
class WorkerFactory:
    """Makes the workers of an application."""

    parts: Parts
    outgoing: Outgoing
    """Takes the events that listeners dispatch by their call."""

    recipe: Callable[[str, float], Hello]
    """Takes the name of a transport and a time limit, returns the first message to a child process."""

    stores: Stores
    """Creates what transports lack if the application does that."""

    def worker(
        self,
        transport: Transport,
        options: RunOptions,
        *,
        listeners: ListenerTable,
        executor: Executor | None,
        patient: bool,
    ) -> Worker:
        """
        Return a worker for *transport*.

        Raises:
            ConfigurationError: The listeners, queues or options are invalid for a worker.
        """
        queues = options.queues or self.parts.queues(transport.name)
        outbox = self.parts.outboxes.get(transport.name)
        check_listeners(listeners, self.parts.routes, self.parts.queue_table)
        check_wrapped(listeners, self.parts.hooks)
        self.parts.opened.check(listeners)
        first_queue = self._first_queue_on(transport.name)
        check_queues(listeners, self.parts.routes, transport, queues, first_queue, outbox=outbox)
        warn_of_risks(transport)
        warn_of_other_clock(transport, self.parts.clock)
        helpers = [each for each in self.parts.stores_of(transport.name) if each is not transport]
        for each in helpers:
            warn_of_risks(each)
            warn_of_other_clock(each, self.parts.clock)
        checkpoint = transport.checkpoint if transport.capabilities.checkpoint else None
        ids_here = self._listeners_here(listeners, transport.name)
        suspects = Suspects(transport, self.parts.clock, listeners=ids_here, rewrite=self._rewritten)
        runs = suspects.runs if transport.capabilities.presence else None
        where, limit, slots = "", None, 1
        limits = self.parts.queue_table.limits(transport.name, queues)
        if executor is None:
            execution = self.parts.execution.overridden(options.execution, options.concurrency).resolved(listeners)
            where, slots = execution.in_words, execution.concurrency
            limit = partial(_time_limit, listeners, default=execution.time_limit)
            executor = self._executor(execution, transport, listeners, checkpoint, runs, eager=not options.until_empty)
        listeners = executor.watch(with_wrappers(listeners, self.parts.hooks))
        here: dict[int, tuple[Delivery, str]] = {}
        places = partial(places_of, listeners=listeners, routes=self.parts.routes)
        ahead = self._subjects_ahead(executor)
        worker: Worker = Worker(
            transport=transport,
            handle=self.handle(
                transport.name,
                listeners,
                checkpoint=checkpoint,
                runs=runs,
                running=here,
                subjects=ahead,
                stops=lambda step: worker.is_ending or executor.interrupts(step),
                passed=executor.passed,
                paused=None if isinstance(executor, InlineExecutor) else lambda: worker.paused,
                may_begin=(lambda each, *, asks: worker.may_begin(each, asks=asks)) if limits and where else None,
            ),
            queues=queues,
            clock=self.parts.clock,
            chance=self.parts.chance,
            options=options,
            executor=executor,
            hooks=self.parts.hooks,
            coordinator=self.parts.coordinator(transport),
            limits=limits,
            slots=slots,
            lease=self.parts.lease,
            patient=patient,
            limited=helpers,
            note_retry=ObstacleLog(listeners, self.parts.patience, places).note,
            sources=expected_sources(self.parts.source, self.parts.signing),
            suspects=suspects,
            running=lambda: tuple(here.values()),
            limit=limit,
            given=None if options.event_id is None else partial(self._take, transport, queues, options.event_id),
            where=where,
            **self._preparing(transport, queues, listeners, begins_alone=patient and not options.until_empty),
            expect=None if ahead is None else ahead.expect,
            expect_nothing_more=(lambda: None) if ahead is None else ahead.end,
        )
        executor.stop_when(lambda: worker.is_ending)
        return worker

    def _subjects_ahead(self, executor: Executor) -> SubjectsAhead | None:
        """Return what loads the subjects of a batch for listeners on *executor*, if a subject type does that."""
        if not self.parts.subjects.any_loads_many():
            return None
        batches = 1 if isinstance(executor, InlineExecutor) else _BATCHES
        return SubjectsAhead(self.parts.subjects, self.parts.clock, batches)

    def _preparing(
        self, transport: Transport, queues: Sequence[str], listeners: ListenerTable, *, begins_alone: bool
    ) -> dict[str, Any]:
        """
        Return what sets up *transport* and what helps it, as arguments of a worker.

        Args:
            transport: The transport.

            queues: The queues of the worker.

            listeners: The listeners.

            begins_alone: Whether it begins although what helps the transport cannot be reached.
        """
        name = transport.name
        outbox = self.parts.outboxes.get(name)
        check = partial(check_inbox_of, transport, queues, outbox, listeners, self.parts.routes)
        if not begins_alone:
            return {"prepare": partial(self._prepare_all, name, check)}
        return {
            "prepare": partial(self.stores.set_up, name),
            "prepare_helpers": partial(self._prepare_helpers, name, check),
        }

    def _prepare_helpers(self, transport: str, check: Callable[[], None]) -> Sequence[TransportUnavailableError]:
        """Set up what helps *transport*, and check its inbox; return why that cannot be reached."""
        if missed := self.stores.prepare_helpers(transport):
            return missed
        try:
            check()
        except TransportUnavailableError as error:
            return [error]
        return ()

    def _prepare_all(self, transport: str, check: Callable[[], None]) -> None:
        self.stores.prepare(transport)
        check()

    def relay(self, outbox: Transport, transport: Transport, options: RunOptions, *, patient: bool) -> Worker:
        """Return a worker that moves events from *outbox* to *transport*."""
        return Worker(
            transport=outbox,
            handle=lambda _: Release(),
            queues=[outbox_queue(transport.name)],
            clock=self.parts.clock,
            chance=self.parts.chance,
            options=options,
            executor=RelayExecutor(
                transport,
                clock=self.parts.clock,
                patience=self.parts.patience,
                change=relayed(
                    self.parts.signing,
                    self.parts.source,
                    transport=transport.name,
                    queues=self.parts.queue_table,
                ),
            ),
            coordinator=self.parts.coordinator(outbox),
            stops_on_request=options.relay_only,  # else it runs beside a worker, which is asked
            lease=self.parts.lease,
            patient=patient,
            limited=[transport],
            sources=expected_sources(self.parts.source, self.parts.signing),
            prepare=partial(self.stores.prepare_relay, transport.name),
        )

    def handle(
        self,
        transport: str,
        listeners: ListenerTable,
        *,
        checkpoint: Checkpoint,
        runs: Runs = None,
        running: dict[int, tuple[Delivery, str]] | None = None,
        committing: Callable[[], None] = lambda: None,
        subjects: SubjectLoader | None = None,
        stops: Callable[[str], bool] = lambda _: False,
        passed: Callable[[str], None] = lambda _: None,
        paused: Callable[[], Collection[str]] | None = None,
        may_begin: StillBegins | None = None,
    ) -> Handle:
        """
        Return a function that handles deliveries from the transport named *transport* by calling *listeners*.

        *running* gets the listener that runs for each delivery, by the identity of that. *committing* is called before
        the transaction of a listener commits with its progress. *subjects* loads the subjects of events; by default
        each alone. *stops* returns whether a listener is to stop after its step of that name. *passed* is called with
        what a listener has finished or dispatched. *paused* returns the paused queues, and *may_begin* whether the
        limit of its queue lets a delivery begin, for an executor that begins some time after the submission.
        """
        signing = self.parts.signing
        if checkpoint is not None and signing is not None:
            checkpoint = signing.keeping(checkpoint)
        caller = Caller(
            listeners=with_wrappers(listeners, self.parts.hooks),
            first_queue=self._first_queue_on(transport),
            subjects=self.parts.subjects if subjects is None else subjects,
            clock=self.parts.clock,
            chance=self.parts.chance,
            source=self.parts.source,
            checkpoint=checkpoint,
            hooks=self.parts.hooks,
            queue_retry=lambda queue: self.parts.retries.get(Target(transport, queue)),
            patience=self.parts.patience,
            outgoing=self.outgoing,
            runs=runs,
            running={} if running is None else running,
            stops=stops,
            passed=passed,
            opened=self.parts.opened,
            transactions=Transactions(
                self.parts.transports[transport],
                self.parts.outboxes.get(transport),
                None if signing is None else signing.sealed,
                committing,
                self.parts.source,
            ),
        )
        steps: Steps = caller.steps
        if self.parts.queue_table:
            steps = accepting(steps, self.parts.queue_table, transport=transport)
        if signing is not None:
            steps = signing.verifying(
                steps, source=self.parts.source, clock=self.parts.clock, patience=self.parts.patience
            )
        if may_begin is not None:
            steps = unless_late(steps, may_begin)
        return Handling(steps if paused is None else unless_paused(steps, paused))

    def _take(self, transport: Transport, queues: Sequence[str], event_id: str, lease: float) -> Sequence[Delivery]:
        """Lease the events with the id *event_id*; each of their listeners that still has to run is due."""
        taken = [each for queue in queues for each in transport.take(queue, event_id, lease=lease)]
        return [attrs.evolve(each, state=self._rewritten(each, hastened)) for each in taken]

    def _rewritten(self, delivery: Delivery, change: Callable[[bytes], bytes]) -> bytes:
        """Return the state of *delivery* as *change* returns it, signed if states are."""
        signing, envelope = self.parts.signing, delivery.envelope
        if signing is None or not isinstance(envelope, Envelope):
            return change(delivery.state)
        try:
            return signing.sealed(change(signing.opened(delivery.state, envelope)), envelope)
        except DecodeError:
            return delivery.state  # which is judged when it is handled

    def _listeners_here(self, listeners: ListenerTable, transport: str) -> Callable[[Delivery], Sequence[str]]:
        """Return a function from a delivery to the ids of its listeners."""
        first_queue = self._first_queue_on(transport)

        def here(delivery: Delivery) -> Sequence[str]:
            envelope = delivery.envelope
            if not isinstance(envelope, Envelope):
                return ()
            try:
                to = sent_to(envelope, source=self.parts.source)
            except DecodeError:  # it will be dead-lettered before a listener is called
                return ()
            first = first_queue(envelope.name) if to is None else to.first_queue(delivery.queue)
            found = listeners.in_queue(envelope.name, delivery.queue, first)
            return [each.id for each in found]

        return here

    def _executor(
        self,
        execution: Execution,
        transport: Transport,
        listeners: ListenerTable,
        checkpoint: Checkpoint,
        runs: Runs,
        *,
        eager: bool,
    ) -> Executor:
        """Return the executor for *execution*; other classes than the inline executor are imported when needed."""
        if execution.chosen == "inline":
            return InlineExecutor()
        check_time_limits(listeners, transport, limit=execution.time_limit, lease=self.parts.lease)
        if execution.chosen == "threads":
            from relevo._execution.threads import ThreadExecutor  # noqa: PLC0415 - inline does not need it

            return ThreadExecutor(execution.concurrency, time_limit=execution.time_limit)
        if execution.chosen == "async":
            from relevo._execution.asynchronous import AsyncExecutor  # noqa: PLC0415 - as above

            return AsyncExecutor(execution.concurrency, time_limit=execution.time_limit)
        for each in self.parts.stores():
            if each.capabilities.durability == "process":
                raise ConfigurationError(
                    f'execution: the transport "{each.name}" claims the durability "process", so events that a child '
                    f'process sends may end with that process; choose a transport that claims "host", or set '
                    f'execution = "threads"'
                )
        from relevo._execution.process import ProcessExecutor  # noqa: PLC0415 - inline does not need it

        hello = self.recipe(transport.name, execution.time_limit)
        needed = [f"{each.event_name} {each.id}" for each in listeners]
        return ProcessExecutor(
            hello,
            execution,
            checkpoint=checkpoint,
            runs=runs,
            listeners=needed,
            plugins=names_where_listeners_run(self.parts.hooks),
            subjects=self.parts.subjects,
            memory_limits={each.id: limit for each in listeners if (limit := each.mark.memory_limit) is not None},
            eager=eager,
            export=exporter(transport, listeners),
        )

    def _first_queue_on(self, transport: str) -> Callable[[str], str]:
        return _FirstQueues(self.parts.routes, transport).__getitem__


def _time_limit(listeners: ListenerTable, listener_id: str, *, default: float) -> float:
    """Return the time limit in seconds of the listener with the id *listener_id*."""
    own = (each.mark.time_limit for each in listeners if each.id == listener_id)
    return next(own, None) or default


class _FirstQueues(dict[str, str]):
    """From an event's name to its first queue if that is on a given transport, else an empty text."""

    def __init__(self, routes: Routes, transport: str):
        super().__init__()
        self._routes = routes
        self._transport = transport

    def __missing__(self, event_name: str) -> str:
        try:
            target = self._routes.targets(event_name)[0]
        except RouteNotFoundError:
            target = Target("")
        found = self[event_name] = target.queue if target.transport == self._transport else ""
        return found
